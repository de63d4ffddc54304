//! Members that serve the same, and how one of them is chosen.

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// Servers of one kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cluster {
    /// Unique in the document.
    pub id: String,
    #[serde(default)]
    pub mode: Mode,
    #[serde(default)]
    pub algorithm: Algorithm,
    /// In `active-standby` their order is the order of preference.
    pub members: Vec<Member>,
    /// Keeps a client at the member that answered it first. Only for HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<Sticky>,
    /// Asks each member whether it is well. Without it only traffic tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    #[serde(default)]
    pub ejection: Ejection,
    /// A member that returns gets its full share only after this time; 0 is at once.
    #[serde(default)]
    pub slow_start_ms: u32,
    /// How many other members a request is tried at, where that is safe.
    #[serde(default = "retries")]
    pub retries: u8,
    #[serde(default = "connect_timeout")]
    pub connect_timeout_ms: u32,
    /// The longest wait for an answer's head once the request was sent, and between two pieces of its body.
    #[serde(default = "response_timeout")]
    pub response_timeout_ms: u32,
    /// Begins each connection to a member with a PROXY protocol header. HTTP connections are then not shared between clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_proxy_protocol: Option<ProxyVersion>,
    /// What a member is given at once; no bound where this is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member_limit: Option<MemberLimit>,
}

/// Each member gets at most so many requests or TCP connections at once; others wait for it, the first who came first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MemberLimit {
    pub max_connections: u32,
    /// How long one waits; 503 then.
    #[serde(default = "queue_timeout")]
    pub queue_timeout_ms: u32,
}

fn queue_timeout() -> u32 {
    5_000
}

fn retries() -> u8 {
    2
}
fn connect_timeout() -> u32 {
    3_000
}
fn response_timeout() -> u32 {
    60_000
}

/// Who may be chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Mode {
    /// Every member that is up, by the algorithm; `backup` members only when no other is.
    #[default]
    Balanced,
    /// One member: the first in the list that is up. The algorithm plays no part.
    ActiveStandby { failback: Failback },
}

/// When traffic goes back to a member that stands before the active one in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Failback {
    /// Once it has been up for this long.
    Automatic { after_ms: u32 },
    /// Only when it is asked for, or when the active one is lost.
    Manual,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// One after the other.
    #[default]
    RoundRobin,
    /// The member with the fewest requests in flight for its weight.
    LeastConnections,
    /// By the client's address, by rendezvous hashing: a member that leaves moves only its own clients.
    IpHash,
    /// By weight, spread evenly (smooth weighted round-robin).
    Weighted,
}

/// One server of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Member {
    /// Unique in the cluster. What keeps id, address and port over a change keeps its state and its figures.
    pub id: String,
    pub address: IpAddr,
    pub port: u16,
    /// Its share under `weighted` and `least-connections`, 0 to 256; 0 is no new traffic.
    #[serde(default = "weight")]
    pub weight: u16,
    /// Gets traffic only when no other member is up.
    #[serde(default)]
    pub backup: bool,
    /// Gets no new clients: what runs ends by itself, and clients that stick to it stay.
    #[serde(default)]
    pub draining: bool,
}

impl Member {
    pub fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }
}

fn weight() -> u16 {
    1
}

/// A cookie that names the member by an opaque value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sticky {
    pub cookie: String,
    /// How long the browser keeps it; until it is closed where this is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age_seconds: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthCheck {
    pub probe: Probe,
    #[serde(default = "interval")]
    pub interval_ms: u32,
    /// Less than the interval.
    #[serde(default = "timeout")]
    pub timeout_ms: u32,
    /// Successes in a row that make a member up.
    #[serde(default = "rise")]
    pub rise: u16,
    /// Failures in a row that make it down.
    #[serde(default = "fall")]
    pub fall: u16,
    /// Where it is asked, if that is another port than the one that gets the traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Nothing goes to a member before a check has succeeded, and connections of TCP to one that a check finds down are ended. A wrong
    /// answer makes it down at once; `fall` is how often in a row it may then give none at all.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub strict: bool,
}

fn interval() -> u32 {
    2_000
}
fn timeout() -> u32 {
    1_000
}
fn rise() -> u16 {
    2
}
fn fall() -> u16 {
    3
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Probe {
    /// A connection that opens is a success.
    Tcp,
    /// A GET whose status lies in the expected range is one.
    Http {
        path: String,
        #[serde(default)]
        expected_status: StatusRange,
        /// The Host header; the member's address and port where it is left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StatusRange {
    pub min: u16,
    pub max: u16,
}

impl Default for StatusRange {
    fn default() -> Self {
        Self { min: 200, max: 399 }
    }
}

/// What takes a member out of rotation by what is seen in traffic, before any check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Ejection {
    /// Connections in a row that fail to open, are reset, or give no answer in time. 0 is never.
    pub connection_errors: u16,
    /// Answers from 500 to 599 in a row. 0 is never. The last member that is up is not ejected for these.
    pub server_errors: u16,
    /// How long it stays out at least; with a health check, until that also succeeds.
    pub time_ms: u32,
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            connection_errors: 1,
            server_errors: 20,
            time_ms: 10_000,
        }
    }
}

/// A version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProxyVersion {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}
