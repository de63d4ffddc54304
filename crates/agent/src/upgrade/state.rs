//! What is kept of upgrades: `<data-dir>/bin/state.json`.

use nm_link::contract::{AgentError, AgentErrorCode, UpgradeOutcome, UpgradePhase};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

pub(super) const FILE: &str = "state.json";

/// Why upgrades could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("can't {action} {}", .path.display())]
pub struct UpgradeError {
    pub(super) action: &'static str,
    pub(super) path: PathBuf,
    pub(super) source: io::Error,
}

impl From<UpgradeError> for AgentError {
    fn from(error: UpgradeError) -> Self {
        let full = matches!(error.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        if full {
            let text = format!("The node's disk is full: free some space. The agent {error}: {}.", error.source);
            return AgentError::new(AgentErrorCode::DiskFull, text);
        }
        AgentError::new(AgentErrorCode::Internal, format!("The agent {error}: {}.", error.source))
    }
}

/// The executable that runs in place of the installed one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Chosen {
    pub version: String,
    pub sha256: String,
    /// SHA-256 of the installed one then.
    pub installed: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Kept {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen: Option<Chosen>,
    /// SHA-256 of the one that was chosen before; its file stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<UpgradeOutcome>,
}

impl Kept {
    pub fn load(dir: &Path) -> Result<Self, UpgradeError> {
        let path = dir.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => {
                return Err(UpgradeError {
                    action: "read",
                    path,
                    source,
                });
            }
        };
        // A damaged one must not keep the agent from starting: the installed executable is always right.
        Ok(serde_json::from_slice(&text).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "what is kept of upgrades is damaged and is not used");
            Self::default()
        }))
    }

    pub fn save(&self, dir: &Path) -> Result<(), UpgradeError> {
        let (path, new) = (dir.join(FILE), dir.join("state.new"));
        let written = make_folder(dir).and_then(|()| {
            let json = serde_json::to_vec_pretty(self)?;
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(&json)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(dir)?.sync_all()
        });
        written.map_err(|source| UpgradeError {
            action: "write",
            path,
            source,
        })
    }

    pub fn in_trial(&self) -> bool {
        self.last.as_ref().is_some_and(|l| l.phase == UpgradePhase::Trial)
    }

    pub fn roll_back(&mut self, reason: &str) {
        if let Some(last) = self.last.as_mut() {
            last.phase = UpgradePhase::RolledBack { reason: reason.to_owned() };
        }
    }
}

/// For its owner only: what is in it is run.
pub(super) fn make_folder(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}
