//! How a cluster's entry takes clients, and how it goes to servers: what it believes, how long it waits, how much it takes.

use crate::proxy::{Ejection, Limits, MemberLimit, Network, ProxyVersion};
use crate::units::Bounded;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The most networks one entry believes.
pub const TRUSTED_AT_MOST: usize = 50;

/// How the entry takes clients. Clusters that share a port have the same.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterEntry {
    /// Networks whose `X-Forwarded-*`, `Forwarded` and PROXY protocol headers are believed: proxies of yours. None by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 50)]
    pub trusted_addresses: Vec<Network>,
    /// Each connection begins with a PROXY protocol header, of version 1 or 2; others are closed. Needs `trustedAddresses`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub accept_proxy_protocol: bool,
    /// Writes one JSON line for each request or TCP connection on the entry nodes, without the query.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub access_log: bool,
    /// At once; further ones are closed as they come. 20,000 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<Bounded<1, 1_000_000>>,
    /// Bytes of a request's head; 431 beyond. 16,384 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_header_bytes: Option<Bounded<8_192, 1_048_576>>,
    /// Bytes of a request's body; 413 beyond. No limit by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_request_bytes: Option<Bounded<0, 1_099_511_627_776>>,
    /// Seconds for a request's head from its first byte to its last, also for a TLS handshake; 10 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header_timeout: Option<Bounded<1, 600>>,
    /// Seconds that a request's body may pause, and that a client may not take its answer; 30 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_timeout: Option<Bounded<1, 86_400>>,
    /// Seconds that a connection may stand idle between two requests; 60 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_alive_timeout: Option<Bounded<1, 86_400>>,
    /// Seconds that a TCP connection or a WebSocket may be silent in both directions; 3,600 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel_timeout: Option<Bounded<1, 604_800>>,
}

fn millis<const MIN: i64, const MAX: i64>(seconds: Option<Bounded<MIN, MAX>>, otherwise: u32) -> u32 {
    let asked = seconds.and_then(|s| u32::try_from(s.get().saturating_mul(1000)).ok());
    asked.unwrap_or(otherwise)
}

fn count<const MIN: i64, const MAX: i64>(n: Option<Bounded<MIN, MAX>>, otherwise: u32) -> u32 {
    n.and_then(|n| u32::try_from(n.get()).ok()).unwrap_or(otherwise)
}

impl ClusterEntry {
    pub fn limits(&self) -> Limits {
        let usual = Limits::default();
        Limits {
            max_connections: count(self.max_connections, usual.max_connections),
            header_timeout_ms: millis(self.header_timeout, usual.header_timeout_ms),
            max_header_bytes: count(self.max_header_bytes, usual.max_header_bytes),
            keep_alive_timeout_ms: millis(self.keep_alive_timeout, usual.keep_alive_timeout_ms),
            body_idle_timeout_ms: millis(self.body_timeout, usual.body_idle_timeout_ms),
            max_request_bytes: self.max_request_bytes.and_then(|n| u64::try_from(n.get()).ok()),
            tunnel_idle_timeout_ms: millis(self.tunnel_timeout, usual.tunnel_idle_timeout_ms),
        }
    }

    /// The first of its fields that is of HTTP alone.
    pub(super) fn of_http(&self) -> Option<&'static str> {
        [
            ("maxHeaderBytes", self.max_header_bytes.is_some()),
            ("maxRequestBytes", self.max_request_bytes.is_some()),
            ("bodyTimeout", self.body_timeout.is_some()),
            ("keepAliveTimeout", self.keep_alive_timeout.is_some()),
        ]
        .into_iter()
        .find_map(|(field, given)| given.then_some(field))
    }
}

/// How the entry goes to servers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterUpstream {
    /// Seconds until a server takes a connection; 3 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<Bounded<1, 600>>,
    /// Seconds from a request that was sent to the head of its answer, and between two pieces of its body; 60 by default. Only for
    /// `http`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_timeout: Option<Bounded<1, 86_400>>,
    /// Begins each connection to a server with a PROXY protocol header of this version, which tells it the client's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_proxy_protocol: Option<ProxyVersion>,
    /// Requests or TCP connections that each server has at once; further ones wait, the first who came first. No bound by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<Bounded<1, 1_000_000>>,
    /// Seconds that one waits for its turn at `maxConnections`; 503 then. 5 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_timeout: Option<Bounded<1, 3_600>>,
    /// Connections in a row that fail until traffic leaves a server alone for a while, before any check; 1 by default, 0 is never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eject_after_errors: Option<Bounded<0, 1_000>>,
    /// Answers from 500 to 599 in a row that do the same; 20 by default, 0 is never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eject_after_server_errors: Option<Bounded<0, 1_000>>,
    /// Seconds that it is left alone for; 10 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eject_time: Option<Bounded<1, 3_600>>,
}

impl ClusterUpstream {
    pub fn connect_timeout_ms(&self) -> u32 {
        millis(self.connect_timeout, 3_000)
    }
    pub fn response_timeout_ms(&self) -> u32 {
        millis(self.response_timeout, 60_000)
    }
    pub fn member_limit(&self) -> Option<MemberLimit> {
        self.max_connections.map(|n| MemberLimit {
            max_connections: count(Some(n), u32::MAX),
            queue_timeout_ms: millis(self.queue_timeout, 5_000),
        })
    }
    pub fn ejection(&self) -> Ejection {
        let usual = Ejection::default();
        let small = |n: Option<Bounded<0, 1_000>>, otherwise: u16| n.and_then(|n| u16::try_from(n.get()).ok()).unwrap_or(otherwise);
        Ejection {
            connection_errors: small(self.eject_after_errors, usual.connection_errors),
            server_errors: small(self.eject_after_server_errors, usual.server_errors),
            time_ms: millis(self.eject_time, usual.time_ms),
        }
    }
}
