//! The load balancer's documents: what it is to do ([`ProxyConfig`]) and what it answers ([`Status`], [`Metrics`], [`Event`]).
//!
//! The control plane makes the configuration, an agent writes it to a file and hands it to the proxy. It is judged as a
//! whole: [`ProxyConfig::validate`] names every field that is wrong by its path in the document.

mod answer;
mod cluster;
mod listener;
mod network;
mod validate;

pub use answer::*;
pub use cluster::*;
pub use listener::*;
pub use network::Network;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything a proxy is to do. One document replaces the one before it; what is the same in both goes on undisturbed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProxyConfig {
    /// Grows with each change. A proxy refuses a document older than the one it holds.
    pub generation: u64,
    pub listeners: Vec<Listener>,
    pub clusters: Vec<Cluster>,
    /// Answers to ACME's http-01 challenges: token to key authorization (RFC 8555, 8.3). Every listener for HTTP without TLS
    /// gives them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub acme_challenges: BTreeMap<String, String>,
}
