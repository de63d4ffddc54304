//! How an agent says no.

use serde::{Deserialize, Serialize};

/// Why an agent could not do something; the control plane maps each code to one HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentErrorCode {
    /// No such container.
    ContainerNotFound,
    /// The registry has no such image, or the node has none of that name.
    ImageNotFound,
    /// The registry refused the login, or asks for one.
    ImageAccessDenied,
    /// The registry could not be reached, or the pull broke off.
    PullFailed,
    NetworkNotFound,
    VolumeNotFound,
    /// The container has no such file or folder.
    PathNotFound,
    /// Docker has another container, volume or network of that name.
    NameTaken,
    /// A host port is in use.
    PortInUse,
    /// The node has less than what was asked for.
    InsufficientResources,
    /// It runs, or is used, and must not for this.
    InUse,
    /// It does not run, and must for this.
    NotRunning,
    /// It is paused, and must not be for this.
    Paused,
    /// The node's own policy forbids it: a bind of a system path, a privilege.
    Forbidden,
    /// The program could not be started: not found, not executable, a bad working folder.
    CommandFailed,
    /// Docker or the kernel refused a value.
    Invalid,
    /// The agent holds a newer generation.
    Stale,
    /// The node's disk is full.
    DiskFull,
    /// The node's Docker engine does not answer.
    DockerUnavailable,
    /// It took longer than it may.
    Timeout,
    /// It was asked to stop.
    Cancelled,
    /// None of the above: a fault of the agent or of Docker.
    Internal,
}

/// An agent's refusal: a code for programs, a sentence for people, and where there are some the container's last log lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
#[serde(rename_all = "camelCase")]
pub struct AgentError {
    pub code: AgentErrorCode,
    pub message: String,
    /// The field of the spec that is to blame: `ports[0].host`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logs: Vec<String>,
}

impl AgentError {
    pub fn new(code: AgentErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            field: None,
            logs: Vec::new(),
        }
    }
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }
}
