//! Rules, one subject a file. Services know the store, the link and each other; of HTTP they know only the status that an
//! error maps to.

pub mod alerts;
pub mod audit;
pub mod auth;
pub mod clock;
pub mod commands;
pub mod containers;
pub mod enrolment;
pub mod fleet;
pub mod idempotency;
pub mod images;
pub mod index;
pub mod locks;
pub mod nodes;
pub mod operations;
pub mod outbound;
pub mod registries;
