//! Rules, one subject a file. Services know the store, the link and each other; of HTTP they know only the status that an
//! error maps to.

pub mod alerts;
pub mod audit;
pub mod auth;
pub mod authority;
pub mod backups;
pub mod binaries;
pub mod clock;
pub mod clusters;
pub mod commands;
pub mod containers;
pub mod dirty;
pub mod drain;
pub mod enrolment;
pub mod fleet;
pub mod health;
pub mod idempotency;
pub mod images;
pub mod index;
pub mod journal;
pub mod leftovers;
pub mod liveness;
pub mod locks;
pub mod lost;
pub mod moves;
pub mod nodes;
pub mod operations;
pub mod outbound;
pub mod own_backup;
pub mod placing;
pub mod privileges;
pub mod registries;
pub mod reschedule;
pub mod servers;
pub mod tally;
pub mod upgrades;
