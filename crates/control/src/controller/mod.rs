//! Loops that bring what was seen and what is wanted together. Each owns its end and takes no input but a key: run twice,
//! it does nothing the second time.

pub mod acme;
pub mod alerts;
pub mod backups;
pub mod clusters;
pub mod health;
pub mod housekeeping;
pub mod jobs;
pub mod journal;
pub mod liveness;
pub mod own_backup;
pub mod reschedule;
pub mod resume;
pub mod trust;
pub mod watch;
