//! The words of NeuralMesh: typed ids, what users ask for (spec), what was seen (status), and the bodies of the API.
//!
//! Invariants: no I/O, no clock, no tokio. Every type that comes from outside checks itself while it is parsed, so
//! that the rest of the code holds only values that are right; its OpenAPI schema states the same rule.

pub mod address;
pub mod alert;
pub mod auth;
pub mod authority;
pub mod backup;
pub mod cluster;
pub mod container;
pub mod envelope;
pub mod event;
pub mod health;
pub mod host;
pub mod id;
pub mod image;
pub mod job;
pub mod map;
pub mod measure;
pub mod network;
pub mod node;
pub mod node_event;
pub mod operation;
pub mod patch;
pub mod placement;
pub mod proxy;
pub mod registry;
pub mod server;
pub mod stats;
pub mod template;
pub mod text;
pub mod time;
pub mod units;
pub mod upgrade;
pub mod volume;

pub use id::*;
pub use time::Timestamp;
