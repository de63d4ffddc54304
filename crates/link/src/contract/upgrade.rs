//! Another executable for an agent.
//!
//! The control plane offers a release: a signed text that names an executable by its hash. The agent checks it and says whether
//! it has that executable already; if not, it is sent. Told to begin, the agent starts it as a trial beside itself. A trial that
//! links in time takes over; one that does not is given up, and the agent is again what it was before.

use nm_types::{NodeId, OperationId};
use serde::{Deserialize, Serialize};

/// What is signed, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Release {
    /// The operation this belongs to.
    pub operation: OperationId,
    /// The one node it is for.
    pub node: NodeId,
    pub version: String,
    /// As Rust names it: `linux`.
    pub os: String,
    /// As Rust names it: `x86_64`, `aarch64`.
    pub arch: String,
    /// SHA-256 of the executable, as 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// Its size in bytes.
    pub size: u64,
    /// Also where the agent runs a newer version.
    pub force: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BeginUpgrade {
    pub operation: OperationId,
}

/// How an agent's upgrades stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeState {
    /// The version that runs.
    pub version: String,
    pub os: String,
    pub arch: String,
    /// SHA-256 of the executable that runs.
    pub sha256: String,
    /// SHA-256 of the executable that was offered last, once the agent has the whole of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<String>,
    /// The last upgrade that was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<UpgradeOutcome>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeOutcome {
    pub operation: OperationId,
    pub version: String,
    pub sha256: String,
    #[serde(flatten)]
    pub phase: UpgradePhase,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "phase")]
pub enum UpgradePhase {
    /// The new one has been started, and has still to show that it can link.
    Trial,
    /// The new one is in use.
    Done,
    /// The old one is in use again; `reason` is a sentence.
    RolledBack { reason: String },
}
