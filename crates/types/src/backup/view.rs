//! What users see of configs and backups.

use super::config::{
    BackupCheck, BackupConfigStatus, BackupConsistency, BackupDump, BackupKeep, BackupPath, BackupServerKind, ExcludePattern, TimeZoneName,
};
use super::job::{FileProblem, JobProgress, Restored, TreeEntry};
use super::{BackupDestination, BackupType, CronSchedule};
use crate::text::{Title, VolumeName};
use crate::units::Bounded;
use crate::{BackupConfigId, BackupId, OperationId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A config as the API shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupConfigView {
    pub id: BackupConfigId,
    pub name: Title,
    /// The id of the node, container or cluster.
    pub server_id: String,
    pub server_kind: BackupServerKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<CronSchedule>,
    pub time_zone: TimeZoneName,
    /// Seconds.
    pub jitter: i64,
    /// Days.
    pub retention: Bounded<1, 365>,
    pub keep: BackupKeep,
    #[serde(rename = "type")]
    pub kind: BackupType,
    pub destination: BackupDestination,
    /// Whether credentials of the destination are kept; they are never given back.
    pub has_credentials: bool,
    pub encryption: bool,
    pub compression: bool,
    pub paths: Vec<BackupPath>,
    pub volumes: Vec<VolumeName>,
    pub excludes: Vec<ExcludePattern>,
    pub one_file_system: bool,
    pub consistency: BackupConsistency,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dump: Option<BackupDump>,
    pub append_only: bool,
    pub check: BackupCheck,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<DestinationView>,
    pub status: BackupConfigStatus,
    /// Why the status is `error`, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When the last backup that was kept began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_backup: Option<Timestamp>,
    /// When the next one begins; none of a paused config or one without a schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_backup: Option<Timestamp>,
    /// None until the first backup was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<RepositoryView>,
    /// Of a database cluster: how far its write-ahead log is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<RecoveryView>,
    pub created: Timestamp,
    pub updated: Timestamp,
}

/// To which moments a database can be brought back.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryView {
    /// Seconds between two shipments of the log.
    pub wal_interval: i64,
    /// Every moment in these, oldest first.
    pub windows: Vec<RecoveryWindow>,
    /// The last commit that is in the destination: by the database's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shipped: Option<Timestamp>,
    /// Why the log is not kept now, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Where the log is, as `restic -r` takes it; with the passwords of the backups' own repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
}

/// Moments without a gap in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryWindow {
    pub from: Timestamp,
    pub to: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DestinationView {
    pub destination: BackupDestination,
    pub has_credentials: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<RepositoryView>,
}

/// A repository, as it was seen last.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RepositoryView {
    /// restic's id of it.
    pub id: String,
    /// Where it is, as `restic -r` takes it.
    pub location: String,
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_check: Option<Timestamp>,
    /// When a part of the data was read last, and which part is next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_read: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_test_restore: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_prune: Option<Timestamp>,
    /// What the last check found; empty: all was well.
    pub findings: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BackupStatus {
    InProgress,
    /// Everything is in it, and the repository's structure was checked afterwards.
    Completed,
    /// Some files could not be read, `problems` names them; all else is in it.
    Partial,
    /// There is none.
    Failed,
    Cancelled,
}

impl BackupStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InProgress => "in-progress",
            Self::Completed => "completed",
            Self::Partial => "partial",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
    /// Whether something can be restored of it.
    pub fn is_kept(self) -> bool {
        matches!(self, Self::Completed | Self::Partial)
    }
}

pub type BackupProblem = FileProblem;

/// A backup as the API shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupView {
    pub id: BackupId,
    pub config_id: BackupConfigId,
    /// The config's name when it was made.
    pub name: String,
    pub server_id: String,
    pub status: BackupStatus,
    #[serde(rename = "type")]
    pub kind: BackupType,
    /// When it began.
    pub timestamp: Timestamp,
    /// The time of the schedule it stands for; none of one that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<Timestamp>,
    /// Seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<f64>,
    /// Bytes of all files in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Bytes that it added to the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// The destination and the backup's id.
    pub location: String,
    /// restic's id of the snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    pub encryption: bool,
    pub compression: bool,
    pub pinned: bool,
    /// The operation that makes it; none of one that was skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation_id: Option<OperationId>,
    /// While it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<JobProgress>,
    /// Why it failed or was cancelled, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Files that are missing, the first hundred.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<BackupProblem>,
    pub problem_count: u64,
    /// What proves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<BackupVerification>,
    /// Of a database cluster: from here on it can be brought to any moment of its window (`recovery` of the config).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recoverable_from: Option<Timestamp>,
    /// The snapshot's id in the second repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupVerification {
    /// The structure of the repository was checked with it in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked: Option<Timestamp>,
    /// It was restored into a scratch folder and compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<Timestamp>,
    /// What was wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finding: Option<String>,
}

/// What a restore gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreView {
    pub backup_id: BackupId,
    /// The server that it was restored to; of a database cluster the new one.
    pub server_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    pub dry_run: bool,
    #[serde(flatten)]
    pub restored: Restored,
    /// Dumps that were read in again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dumps: Vec<String>,
    /// The container that was made again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// The database cluster that was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    pub duration: f64,
}

/// One folder of a backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupTreeView {
    pub path: String,
    pub entries: Vec<TreeEntry>,
    pub total: u64,
}

/// `GET /api/capabilities/backups/configs/{configId}/key`, for admins: all that stock restic needs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupKeyView {
    /// As `restic -r` takes it.
    pub repository: String,
    pub password: String,
    /// A second password, for the recovery kit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_password: Option<String>,
    /// Of a database cluster: the repository of its write-ahead log, which `password` opens, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_repository: Option<String>,
}

/// What retention would do now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetentionPreview {
    pub keep: Vec<RetentionDecision>,
    pub remove: Vec<RetentionDecision>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetentionDecision {
    pub backup_id: BackupId,
    pub timestamp: Timestamp,
    /// Why it is kept; empty: it goes.
    pub reasons: Vec<RetentionReason>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RetentionReason {
    /// Younger than `retention`.
    Age,
    Last,
    Hourly,
    Daily,
    Weekly,
    Monthly,
    Yearly,
    Pinned,
    /// The newest that completed.
    LastGood,
    /// The config is append-only.
    AppendOnly,
}
