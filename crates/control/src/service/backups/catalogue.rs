//! What retention would do to the backups of a config, and the task that does it.

use super::rows::{Config, view_of};
use super::slots::zone;
use crate::api::error::ApiResult;
use nm_plan::retention::{Candidate, Policy, Verdict, decide};
use nm_store::{Kind, ListQuery, Store};
use nm_types::backup::job::ForgetTask;
use nm_types::backup::{BackupView, RetentionDecision, RetentionPreview};
use nm_types::{BackupId, Timestamp};

/// Rows at once.
const PAGE: u32 = 500;
/// Seconds between the two phases of a removal: a backup that began before the first still finds all it counts on.
pub const GRACE: u32 = 23 * 3600;

/// Every backup of a config, newest first.
pub async fn of_config(store: &Store, row: &Config) -> ApiResult<Vec<BackupView>> {
    let mut out: Vec<BackupView> = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let query = ListQuery {
            kind: Kind::Backup,
            parent: Some(row.id.as_str()),
            after: after.as_deref(),
            newest_first: true,
            limit: PAGE,
        };
        let rows = store.list(query).await?;
        let full = rows.len() == PAGE as usize;
        after = rows.last().map(|row| row.id.clone());
        for row in &rows {
            out.push(view_of(row)?);
        }
        if !full {
            return Ok(out);
        }
    }
}

/// What stays and why, and what goes.
pub fn preview(row: &Config, backups: &[BackupView], now: Timestamp) -> ApiResult<RetentionPreview> {
    let spec = &row.stored.spec;
    let zone = zone(row)?;
    let policy = Policy {
        retention: spec.retention,
        keep: spec.keep,
        append_only: spec.append_only,
        zone: &zone,
    };
    let candidates: Vec<Candidate> = backups
        .iter()
        .map(|b| Candidate {
            id: b.id.clone(),
            at: b.timestamp,
            status: b.status,
            pinned: b.pinned,
        })
        .collect();
    let mut preview = RetentionPreview {
        keep: Vec::new(),
        remove: Vec::new(),
    };
    for (backup_id, verdict) in decide(&policy, &candidates, now) {
        let Some(backup) = backups.iter().find(|b| b.id == backup_id) else {
            continue;
        };
        let timestamp = backup.timestamp;
        let decision = |reasons| RetentionDecision {
            backup_id,
            timestamp,
            reasons,
        };
        match verdict {
            Verdict::Untouched => {}
            Verdict::Keep(reasons) => preview.keep.push(decision(reasons)),
            Verdict::Remove => preview.remove.push(decision(Vec::new())),
        }
    }
    Ok(preview)
}

/// The task that carries a decision out; none where there is nothing to do. Every snapshot that is not to go is named as one to keep, so
/// that a list that disagrees with ours changes nothing.
pub fn forget(backups: &[BackupView], gone: &[BackupId], prune: bool) -> Option<ForgetTask> {
    let snapshots = |goes: bool| {
        let of = backups.iter().filter(move |b| gone.contains(&b.id) == goes);
        of.filter_map(|b| b.snapshot.clone()).collect::<Vec<String>>()
    };
    let remove = snapshots(true);
    (prune || !remove.is_empty()).then(|| ForgetTask {
        remove,
        keep: snapshots(false),
        prune: true,
        grace: GRACE,
    })
}

/// Whether data that was marked waits no longer.
pub fn grace_is_over(marked: Option<Timestamp>, now: Timestamp) -> bool {
    marked.is_some_and(|at| now.since(at) > i64::from(GRACE) * 1000)
}
