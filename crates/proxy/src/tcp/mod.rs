//! TCP: a client's connection joined to a member's.

pub mod relay;
mod serve;

pub use serve::serve;
