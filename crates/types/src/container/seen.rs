//! Containers as they were seen, and as the API shows them.

use super::{PortMapping, RestartPolicy, VolumeMode};
use crate::placement::OnNodeLost;
use crate::text::{Constraint, LabelKey};
use crate::{ContainerId, NodeId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ContainerStatus {
    Created,
    Running,
    Paused,
    /// Ended because it was asked to.
    Stopped,
    /// Ended by itself.
    Exited,
}

impl ContainerStatus {
    pub const ALL: [Self; 5] = [Self::Created, Self::Running, Self::Paused, Self::Stopped, Self::Exited];
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Exited => "exited",
        }
    }
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ContainerHealth {
    Starting,
    Healthy,
    Unhealthy,
}

/// What an agent saw of one container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObservedContainer {
    /// Docker's 64 hex digits.
    pub docker_id: String,
    /// Our id, from the label `io.neuralmesh.id`; absent on containers that others started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<ContainerId>,
    pub name: String,
    pub image: String,
    pub status: ContainerStatus,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    #[serde(default)]
    pub oom_killed: bool,
    /// A sentence on why it is as it is: exited at once, restarting, killed for memory; with the last log lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<ContainerHealth>,
    pub created: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<Timestamp>,
    #[serde(default)]
    pub restarts: u64,
    /// As bound now: a port that was asked for as 0 has its real number here while the container runs.
    pub ports: Vec<PortMapping>,
    /// Names of the networks it is on, with its address on each where it has one.
    pub networks: Vec<Attachment>,
    /// What `docker update` can change of ours, as Docker has it now. Absent from agents that are older than this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// What others' containers were made with; for ours the spec says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub foreign: Option<ForeignSpec>,
}

impl ObservedContainer {
    /// Whether this is the later of two sights of one container that came by different ways: being made, starting and ending
    /// only go forward.
    pub fn is_later_than(&self, other: &Self) -> bool {
        let stage = |c: &Self| (c.created, c.started, c.finished);
        stage(self) > stage(other)
    }

    /// Whether this sight is of before the container's first start, and `other` of after it: a start is never undone.
    pub fn is_before_start_of(&self, other: &Self) -> bool {
        self.docker_id == other.docker_id && self.started.is_none() && other.started.is_some()
    }
}

/// Limits and restart policy of a container of ours in Docker.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Cores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<f64>,
    /// Bytes: Docker takes limits that ours don't express.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    pub restart: RestartPolicy,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    pub network: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
}

/// The settings of a container that others made, as far as we show them. Values are Docker's, not checked by our rules.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ForeignSpec {
    pub environment: crate::map::TextMap,
    pub labels: crate::map::TextMap,
    pub volumes: Vec<MountView>,
    pub restart: RestartPolicy,
    /// Cores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_limit: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MountView {
    pub container: String,
    pub host: String,
    pub mode: VolumeMode,
}

/// Limits and use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// Cores; `null` where none was set.
    pub cpu_limit: Option<f64>,
    /// `512m`, `1g`; `null` where none was set.
    pub memory_limit: Option<String>,
    /// Percent of one core, now.
    pub cpu_usage: f64,
    /// MB, now.
    pub memory_usage: f64,
}

/// A container as the API shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContainerView {
    pub id: ContainerId,
    pub name: String,
    pub image: String,
    pub status: ContainerStatus,
    pub node_id: NodeId,
    pub ports: Vec<PortMapping>,
    pub resources: Resources,
    pub volumes: Vec<MountView>,
    /// Values of variables that look secret are covered in lists, and for viewers everywhere.
    pub environment: std::collections::BTreeMap<String, String>,
    pub labels: std::collections::BTreeMap<String, String>,
    pub restart: RestartPolicy,
    pub networks: Vec<Attachment>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<Constraint>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<LabelKey>,
    /// Absent on containers that others made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_node_lost: Option<OnNodeLost>,
    pub created: Timestamp,
    /// Whether we made it; `false` for containers that others started beside us.
    pub managed: bool,
    /// Whether what is shown is fresh: `false` while the node is not reachable.
    pub reachable: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<ContainerHealth>,
    pub restarts: u64,
    /// Why it is as it is, where that needs saying.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
