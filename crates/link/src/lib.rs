//! How a control plane and an agent talk: the agent's contract, mTLS, enrolment, reverse HTTP/2.
//!
//! The agent dials out, to the control plane's one agent port. After the TLS handshake roles turn: the agent *serves* HTTP/2
//! on that connection and the control plane is the client, so a node needs no open port. Machines join on the same port; the
//! two uses are told apart by ALPN.
//!
//! - [`pki`]: the authority, certificates, certificate requests.
//! - [`server`]: the control plane's side. [`agent`]: the node's side.
//! - [`ask`]: what both sides ask of services they probe.
//! - `beat`: signs of life beside the connection, as datagrams, that lost packets do not hold up.

pub mod agent;
pub mod ask;
mod beat;
pub mod contract;
mod ear;
mod error;
mod http2;
pub mod pki;
pub mod server;
mod tls;
mod token;
pub mod trace;
mod wire;

pub use error::{Delivery, LinkError};
pub use http2::Http2Options;
pub use tls::{ServerTls, TlsError};
pub use token::{BadToken, JoinSecret, JoinToken};
pub use wire::{AgentFacts, EnrolReply, Refusal, RefusalCode};
