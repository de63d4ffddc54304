//! Backup jobs on a node.
//!
//! A job is known by its key: asked for again while it runs, the answer joins it; asked for after its end, within a week,
//! its outcome is the answer. An answer that is cut says nothing of the job: ask again.

use nm_types::backup::job::{Job, JobKey};
use nm_types::backup::{BackupConsistency, BackupDump};
use nm_types::text::VolumeName;
use serde::{Deserialize, Serialize};

/// Answered by lines of [`JobEvent`](nm_types::backup::job::JobEvent); the last is `Done` or `Failed`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunJob {
    #[serde(default)]
    pub prepare: Prepare,
    /// Without what the agent adds: volumes, dumps, sockets.
    pub job: Job,
}

/// What the agent does before a job, and undoes after it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Prepare {
    /// A [`ContainerKey`](super::ContainerKey) as text: the one that is backed up, or that a dump is read into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    #[serde(default)]
    pub consistency: BackupConsistency,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dump: Option<BackupDump>,
    /// Of a backup: each is read as `/volumes/<name>`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeName>,
    /// Of a restore: what goes into volumes. Containers that run with one of them are stopped meanwhile.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restore: Vec<RestoreVolume>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreVolume {
    /// A path in the snapshot.
    pub from: String,
    pub volume: VolumeName,
    /// A folder of the volume, names with slashes between; the volume itself where empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub at: String,
    #[serde(default)]
    pub replace: bool,
}

/// Ends a job at once. One that is not there has ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CancelJob {
    pub key: JobKey,
}

/// The next connection of a job to a repository that is a folder of another node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReachQuery {
    pub key: JobKey,
    /// To the repository that a copy goes to, in place of the job's own.
    #[serde(default)]
    pub copy: bool,
}

/// A folder that a job of another node works on.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServeQuery {
    /// The repository's; judged as that of a job of the node's own.
    pub path: String,
    /// Nothing but locks is removed.
    #[serde(default)]
    pub append_only: bool,
}
