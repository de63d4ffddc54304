//! Nodes: machines that run our agent.

use crate::text::{Labels, NodeName};
use crate::{JoinTokenId, NodeId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum NodeStatus {
    /// Its agent is connected and its Docker engine answers.
    Ready,
    /// Its agent is not connected, or its Docker engine does not answer.
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
    /// The certificate it was last seen with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateView>,
    /// Its certificates were revoked: it may come back with a token of `POST /api/nodes/{id}/rejoin-token` only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub revoked: bool,
}

/// A node's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CertificateView {
    /// The name of the authority that issued it, see `GET /api/nodes/authority`.
    pub authority: String,
    pub expires: Timestamp,
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
