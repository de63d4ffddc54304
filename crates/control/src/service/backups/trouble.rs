//! What is wrong with a server's backups, for alerts: they are wired before backups are, and look at the same configs.

use super::{Config, Known};
use std::sync::Arc;

/// Cheap to clone; clones are the same.
#[derive(Clone, Default)]
pub struct Troubles(pub(super) Known);

impl Troubles {
    /// Whether a database cluster is backed up, so that its write-ahead log is to be kept.
    pub fn keeps_log_of(&self, cluster: &str) -> bool {
        let known = self.0.read().unwrap_or_else(|e| e.into_inner());
        let of = |config: &Arc<Config>| {
            config.stored.server == cluster && config.stored.spec.status != nm_types::backup::BackupConfigStatus::Paused
        };
        known.values().any(of)
    }

    /// What is wrong with the configs of a server that are not paused; none where it has no config.
    pub fn of(&self, server: &str) -> Option<Vec<String>> {
        let known = self.0.read().unwrap_or_else(|e| e.into_inner());
        let mut own = known.values().filter(|config| config.stored.server == server).peekable();
        own.peek()?;
        let active = own.filter(|config| config.stored.spec.status != nm_types::backup::BackupConfigStatus::Paused);
        let told = active.flat_map(|config| {
            let all = config.troubles().chain(config.state.jump.as_deref());
            all.map(|text| format!("`{}`: {text}", config.stored.spec.name))
                .collect::<Vec<String>>()
        });
        Some(told.collect())
    }
}
