//! What happened on nodes: to containers, to the Docker engine, to the agent itself.

use crate::container::ContainerHealth;
use crate::{ContainerId, NodeId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The texts are stored and sent to clients: they never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum NodeEventKind {
    /// A container was made.
    Created,
    /// A container began to run.
    Started,
    /// A container's program ended.
    Died,
    /// A process of a container was killed for want of memory.
    Oom,
    /// A container's health check says something new.
    Health,
    /// A container was removed.
    Removed,
    /// The Docker engine no longer answers.
    EngineDown,
    /// The Docker engine answers again.
    EngineUp,
    /// The node's agent began to run.
    AgentStarted,
    /// Events before this one are lost: the node was cut off for longer than its agent's journal reaches back.
    Gap,
}

impl NodeEventKind {
    pub const ALL: [Self; 10] = [
        Self::Created,
        Self::Started,
        Self::Died,
        Self::Oom,
        Self::Health,
        Self::Removed,
        Self::EngineDown,
        Self::EngineUp,
        Self::AgentStarted,
        Self::Gap,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Started => "started",
            Self::Died => "died",
            Self::Oom => "oom",
            Self::Health => "health",
            Self::Removed => "removed",
            Self::EngineDown => "engineDown",
            Self::EngineUp => "engineUp",
            Self::AgentStarted => "agentStarted",
            Self::Gap => "gap",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.as_str() == text)
    }
}

/// What else is to be said of an event; what does not apply is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeEventDetail {
    /// Of `died`: the program's exit code, where it was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    /// Of `health`: what the check says now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<ContainerHealth>,
    /// Of `gap`: how many events are lost, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// More in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// One event as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeEventView {
    /// Grows in the order in which the control plane heard of events.
    pub id: i64,
    pub node_id: NodeId,
    /// When it happened, by the node's clock.
    pub time: Timestamp,
    pub kind: NodeEventKind,
    /// The container's id, where it is one of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_id: Option<ContainerId>,
    /// The container's id at Docker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker_id: Option<String>,
    /// The container's name at the time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    pub detail: NodeEventDetail,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_the_api() {
        for kind in NodeEventKind::ALL {
            assert_eq!(NodeEventKind::parse(kind.as_str()), Some(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
        assert_eq!(NodeEventKind::parse("moon"), None);
    }
}
