//! Backups: when each config last had one, how long that took, how big it is, and what failed.

use super::text::{Blocks, Kind, Text};
use crate::service::backups::{Config, LastBackup};
use std::sync::Arc;

pub(super) fn write(text: &mut Text, configs: &[Arc<Config>]) {
    text.family("neuralmesh_backup_configs", Kind::Gauge, "Backup configs known");
    text.sample(&[], configs.len());
    let mut blocks = Blocks::with_room(configs.len());
    for config in configs {
        blocks.push(&[
            ("config_id", config.id.as_str()),
            ("config", config.stored.spec.name.as_str()),
            ("server_id", &config.stored.server),
        ]);
    }
    let mut last = |name: &'static str, help: &str, value: fn(&LastBackup) -> f64| {
        text.family(name, Kind::Gauge, help);
        for (config, block) in configs.iter().zip(blocks.iter()) {
            if let Some(last) = &config.state.last {
                text.sample_in(block, &[], value(last));
            }
        }
    };
    last(
        "neuralmesh_backup_last_success_timestamp_seconds",
        "When the last backup that was made ended, in seconds since 1970",
        |last| last.ended.as_millis() as f64 / 1e3,
    );
    last("neuralmesh_backup_last_duration_seconds", "How long it took", |last| last.duration);
    last("neuralmesh_backup_last_size_bytes", "Bytes of all files in it", |last| {
        last.size as f64
    });
    last(
        "neuralmesh_backup_last_added_bytes",
        "Bytes that it added to its repository",
        |last| last.new_bytes as f64,
    );
    text.family(
        "neuralmesh_backup_repository_bytes",
        Kind::Gauge,
        "Bytes of the repository, as it was seen last",
    );
    for (config, block) in configs.iter().zip(blocks.iter()) {
        if let Some(size) = config.state.repository.as_ref().and_then(|r| r.size) {
            text.sample_in(block, &[], size);
        }
    }
    text.family(
        "neuralmesh_backup_log_shipped_timestamp_seconds",
        Kind::Gauge,
        "Of a database cluster: the last commit that is in the destination, in seconds since 1970",
    );
    for (config, block) in configs.iter().zip(blocks.iter()) {
        let last = config.state.log.as_ref().and_then(|log| log.windows.last());
        if let Some(window) = last {
            text.sample_in(block, &[], window.to.as_millis() as f64 / 1e3);
        }
    }
    text.family("neuralmesh_backup_successes", Kind::Counter, "Backups that were made");
    for (config, block) in configs.iter().zip(blocks.iter()) {
        text.sample_in(block, &[], config.state.succeeded);
    }
    text.family("neuralmesh_backup_failures", Kind::Counter, "Backups that failed");
    for (config, block) in configs.iter().zip(blocks.iter()) {
        text.sample_in(block, &[], config.state.failed);
    }
    text.family(
        "neuralmesh_backup_trouble",
        Kind::Gauge,
        "Whether the last one failed, a slot was missed, or something is wrong with the repository",
    );
    for (config, block) in configs.iter().zip(blocks.iter()) {
        text.sample_in(block, &[], config.troubles().next().is_some());
    }
}
