//! Pure decisions: what to do, given what is wanted and what was seen. No clock, no I/O.

pub mod alerts;
pub mod binds;
pub mod cluster;
pub mod health;
pub mod place;
pub mod queue;
pub mod retention;
pub mod scale;
pub mod schedule;
pub mod succession;
