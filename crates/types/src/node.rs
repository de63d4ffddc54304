//! Nodes: machines that run our agent.

use crate::host::{DiskStats, NodeStats};
use crate::text::{Labels, NodeName};
use crate::{JoinTokenId, NodeId, Timestamp};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use utoipa::ToSchema;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum NodeStatus {
    /// Its agent is connected and its Docker engine answers.
    Ready,
    /// Its agent is not connected, it is lost, or its Docker engine does not answer.
    NotReady,
    /// Ready, but takes no new containers.
    Cordoned,
}

/// What an agent says of its machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeInfo {
    pub agent_version: String,
    pub hostname: String,
    pub os: String,
    pub kernel: String,
    /// `x86_64`, `aarch64`, …
    pub arch: String,
    pub cpus: u32,
    /// Bytes.
    pub memory: u64,
    pub docker: DockerInfo,
}

/// The Docker engine of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DockerInfo {
    pub available: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// The machine's address on Docker's own bridge, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub bridge: Option<IpAddr>,
    /// Why it does not answer, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A node as the API shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeView {
    pub id: NodeId,
    pub name: NodeName,
    pub status: NodeStatus,
    pub labels: Labels,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub info: Option<NodeInfo>,
    /// How many containers were last seen on it.
    pub containers: u64,
    pub created: Timestamp,
    /// When anything was last heard of it, by whichever way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
    /// Set while the node is lost: nothing was heard of it since then, for longer than the control plane waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_since: Option<Timestamp>,
    /// The line between it and the control plane; absent while it is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<NodeLine>,
    /// What its machine uses now, while it is connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<NodeUsage>,
    /// What its machine has, once its agent has said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<NodeCapacity>,
    /// What the limits of its containers add up to, running or not, where those without a limit count as nothing, and what running
    /// tasks of jobs hold.
    #[serde(default)]
    pub allocated: NodeAllocation,
    /// The certificate it was last seen with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateView>,
    /// Its certificates were revoked: it may come back with a token of `POST /api/nodes/{id}/rejoin-token` only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub revoked: bool,
}

/// What a node's machine uses now, in short; `GET /api/nodes/{id}/stats` has the whole.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeUsage {
    /// CPU in percent of all cores together: 0 to 100.
    pub cpu: f64,
    /// Bytes.
    pub memory_used: u64,
    /// Bytes.
    pub memory_total: u64,
    /// Of the fullest disk, as `df` counts; absent while no disk is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_used_percent: Option<f64>,
    /// Load averages over 1, 5 and 15 minutes.
    #[schema(min_items = 3, max_items = 3)]
    pub load: [f64; 3],
    /// The hottest sensor of the processor, in °C, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
}

impl From<&NodeStats> for NodeUsage {
    fn from(stats: &NodeStats) -> Self {
        let fullest = stats.disks.iter().map(DiskStats::used_percent).max_by(f64::total_cmp);
        Self {
            cpu: stats.cpu,
            memory_used: stats.memory.used(),
            memory_total: stats.memory.total,
            disk_used_percent: fullest.map(|p| (p * 100.0).round() / 100.0),
            load: stats.load,
            temperature: stats.temperature,
        }
    }
}

/// What a node's machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeCapacity {
    pub cpus: u32,
    /// Bytes.
    pub memory: u64,
    /// Bytes of all disks together, while it is connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_total: Option<u64>,
}

/// Limits of containers, added up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeAllocation {
    /// Cores.
    pub cpu: f64,
    /// Bytes.
    pub memory: u64,
}

/// A node's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CertificateView {
    /// The name of the authority that issued it, see `GET /api/nodes/authority`.
    pub authority: String,
    pub expires: Timestamp,
}

/// What tells the control plane that a node is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Transport {
    /// Datagrams beside its link.
    Udp,
    /// Its link alone: datagrams do not come through.
    Link,
}

/// The line between a node and the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeLine {
    pub transport: Transport,
    /// The median round trip over the last minute, in milliseconds. Absent where datagrams do not come through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt: Option<f64>,
    /// How many of a hundred datagrams of the last minute were lost on the way there or back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
}

/// A change to a node: only what is sent changes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeUpdate {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<NodeName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Labels>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cordoned: Option<bool>,
}

/// A new join token, shown this once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NewJoinToken {
    pub id: JoinTokenId,
    /// `nm1.<sha256 of the authority's key>.<secret>`; good once.
    pub token: String,
    pub expires: Timestamp,
}
