//! The control plane's backup of itself.

use super::{BackupDestination, CronSchedule};
use crate::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /api/system/backup`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OwnBackupView {
    /// Whether it was started with a destination; all else is absent otherwise.
    pub configured: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<BackupDestination>,
    /// Where the repository is, as `restic -r` takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<CronSchedule>,
    /// Days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<i64>,
    pub running: bool,
    /// When the last one that was kept began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_backup: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_backup: Option<Timestamp>,
    /// restic's id of the last snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// Bytes of what was backed up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Backups that are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<u64>,
    /// Why the last one failed, and what to do; it is tried again after a quarter of an hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
