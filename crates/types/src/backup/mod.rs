//! Backups: what is backed up of a server, when, where to and for how long. What users see is in `view`, what a worker is told in `job`.

mod config;
mod destination;
pub mod job;
mod own;
mod request;
mod schedule;
mod view;

pub use config::{
    BackupCheck, BackupConfigSpec, BackupConfigStatus, BackupConsistency, BackupCopy, BackupDump, BackupKeep, BackupPath, BackupServerKind,
    DumpWord, ExcludePattern, TimeZoneName, WAL_INTERVAL,
};
pub use destination::{BackupCredentials, BackupDestination, DestinationKind, HostKey, S3Region};
pub use own::OwnBackupView;
pub use request::{BackupPin, NewRestore, RestoreTarget, TreePath};
pub use schedule::{CronFields, CronSchedule};
pub use view::{
    BackupConfigView, BackupKeyView, BackupProblem, BackupStatus, BackupTreeView, BackupVerification, BackupView, DestinationView,
    RecoveryView, RecoveryWindow, RepositoryView, RestoreView, RetentionDecision, RetentionPreview, RetentionReason,
};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `PATCH /api/capabilities/backups/configs/{configId}`.
pub type BackupConfigUpdate = crate::patch::MergePatch<BackupConfigSpec>;

impl crate::patch::Patched for BackupConfigSpec {
    const PATCH: &'static str = "BackupConfigUpdate";
}

/// How much is read. Every backup restores alone, whatever its type.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum BackupType {
    /// Every byte is read again.
    Full,
    /// What changed since the last backup is read.
    #[default]
    Incremental,
    /// What changed since the last full backup is read; without one, a full backup is made.
    Differential,
}

impl BackupType {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Incremental => "incremental",
            Self::Differential => "differential",
        }
    }
}
