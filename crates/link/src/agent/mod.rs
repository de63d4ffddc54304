//! The node's side: joining a control plane, and then being there for it.
//!
//! - [`IdentityStore`] keeps what makes this machine the node it is; [`AgentIdentity`] is that in memory.
//! - [`join`] turns a join token into an identity, [`join_or_stay`] only where this machine has none that counts; renewal is
//!   done by the link itself.
//! - [`AgentLink`] dials every control plane and serves HTTP/2 to it, again and again until it is told to stop. `beats` sends
//!   datagrams beside each link.
//!
//! Invariants:
//! - A private key is born here and never leaves; each renewal has a new one.
//! - Key, certificate and trust change together, in one atomic replacement of one file.
//! - A link that breaks ends the requests on it: their futures are dropped. A service that must not be interrupted in the
//!   middle runs the work in a task of its own.

mod backoff;
mod beats;
mod dial;
mod identity;
mod join;
mod link;
mod renew;
mod trust;

pub use dial::{BadServerUrl, DialError, DialOptions, ServerUrl};
pub use identity::{AgentIdentity, IdentityError, IdentityStore};
pub use join::{JoinError, join, join_or_stay};
pub use link::{AgentLink, AgentOptions, LinkState};
pub use renew::RenewError;
