//! TCP: a client's connection joined to a member's.
//!
//! - `serve`: a member is found
//! - `splice`: bytes between two TCP sockets
//! - `relay`: bytes between any two streams, as upgraded HTTP connections are

pub mod relay;
mod serve;
mod splice;

pub use serve::serve;
pub use splice::Scratch;
