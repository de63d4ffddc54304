//! Makes one snapshot.

use crate::{
    crypt,
    failure::{Result, failed, of_rustic},
    lock::Mode,
    open::{Context, Make, name_packs, open, open_to_add},
    report::Reporter,
    source::{Sources, Watch},
};
use nm_types::backup::{
    BackupType,
    job::{BackedUp, BackupTask, JobErrorCode, RepositoryAccess},
};
use rustic_core::{
    BackupOptions, FileType, ParentOptions, SnapshotOptions,
    jiff::{Timestamp, tz::TimeZone},
    repofile::SnapshotFile,
};
use std::sync::Arc;

pub fn run(access: &RepositoryAccess, task: &BackupTask, time: Timestamp, context: &Context) -> Result<BackedUp> {
    let reporter = &context.reporter;
    reporter.step("open");
    let watch = Arc::new(Watch::new(reporter.clone(), context.veto.clone()));
    let make = Make {
        compression: task.compression,
        polynomial: None,
    };
    if !task.damaged.is_empty() && !access.append_only {
        heal(access, &task.damaged, context)?;
    }
    let opened = open_to_add(access, make, context)?;
    let damaged = |what: &str, error: &rustic_core::RusticError| of_rustic(what, JobErrorCode::Damaged, error);
    let snapshots = opened
        .repository
        .get_all_snapshots()
        .map_err(|error| damaged("The snapshots can't be read", &error))?;
    if let Some(made) = snapshots.iter().find(|snapshot| snapshot.tags.contains(&task.once)) {
        return Ok(outcome(&opened.id, task, made, 0, reporter));
    }
    let parent = match &task.parent {
        None => None,
        Some(parent) => Some(
            snapshots
                .iter()
                .find(|snapshot| snapshot.id.to_hex().as_str() == parent)
                .ok_or_else(|| {
                    failed(
                        JobErrorCode::SnapshotMissing,
                        format!("The snapshot {parent} to compare with is not in the repository. Run a full backup."),
                    )
                })?,
        ),
    };
    let sources = Sources::new(task, time, watch)?;
    let mut options = SnapshotOptions::default()
        .label(task.label.clone())
        .host(task.host.clone())
        .time(time.to_zoned(TimeZone::UTC));
    for tag in task.tags.iter().chain([&task.once]) {
        options = options
            .add_tags(tag)
            .map_err(|error| of_rustic("A tag of the snapshot is wrong", JobErrorCode::Internal, &error))?;
    }
    let snapshot = options
        .to_snapshot()
        .map_err(|error| of_rustic("The snapshot can't be begun", JobErrorCode::Internal, &error))?;
    let mut parents = ParentOptions::default().force(parent.is_none());
    if let Some(parent) = &task.parent {
        // In the pinned version inodes are compared when this is set, and not when it is not; a test holds it to that.
        parents = parents.parents(vec![parent.clone()]).ignore_inode(true);
    }
    let expected = parent.and_then(|parent| parent.summary.clone());
    let id = opened.id.clone();
    let locks = opened.locks;
    let repository = opened
        .repository
        .to_indexed_ids()
        .map_err(|error| damaged("The index can't be read", &error))?;
    reporter.step("read");
    if let Some(summary) = expected {
        // As good a guess as there is, without walking everything twice.
        reporter.expect(summary.total_files_processed, summary.total_bytes_processed);
    }
    let paths = sources.paths();
    let before = context.veto.added();
    let made = repository.archive(
        &BackupOptions::default().parent_opts(parents).no_scan(task.parent.is_some()),
        &sources,
        snapshot,
        &paths,
    );
    let made = match (context.veto.reason(), made) {
        (None, Ok(made)) => made,
        (reason, made) => {
            let error = reason.unwrap_or_else(|| match made {
                Ok(_) => failed(JobErrorCode::Internal, "The snapshot was refused without a reason."),
                Err(error) => of_rustic("The backup can't be written", JobErrorCode::NotWritable, &error),
            });
            drop((repository, locks));
            resume_later(access, context);
            return Err(error);
        }
    };
    let outcome = outcome(&id, task, &made, context.veto.added() - before, reporter);
    drop(locks);
    Ok(outcome)
}

/// Drops packs whose bytes are not those that were written: what was in them is then missing from the index, and a full backup writes
/// anew what the sources still have of it.
fn heal(access: &RepositoryAccess, damaged: &[String], context: &Context) -> Result<()> {
    context.reporter.step("heal");
    let alone = open(access, Mode::Exclusive, None, context)?;
    let refused = |error: &rustic_core::RusticError| of_rustic("A damaged pack can't be dropped", JobErrorCode::NotWritable, error);
    let there = alone.store.list(FileType::Pack).map_err(|error| refused(&error))?;
    for id in there.iter().filter(|id| damaged.iter().any(|name| id.to_hex().as_str() == name)) {
        let bytes = alone.store.read_full(FileType::Pack, id).map_err(|error| refused(&error))?;
        if crypt::hash(&bytes) != *id {
            alone.store.remove(FileType::Pack, id, false).map_err(|error| refused(&error))?;
            context
                .reporter
                .log(format!("The damaged pack {} was dropped.", id.to_hex().as_str()));
        }
    }
    name_packs(&alone)
}

/// What was uploaded before the failure is named in the index, so that the next run need not upload it again. Where that fails too, as
/// on a full disk, a prune removes it some day.
fn resume_later(access: &RepositoryAccess, context: &Context) {
    if access.append_only {
        return;
    }
    if let Ok(alone) = open(access, Mode::Exclusive, None, context) {
        let _ = name_packs(&alone);
    }
}

fn outcome(repository: &str, task: &BackupTask, made: &SnapshotFile, added: u64, reporter: &Reporter) -> BackedUp {
    let (problems, problem_count) = reporter.problems();
    let summary = made.summary.as_ref();
    BackedUp {
        repository: repository.to_owned(),
        snapshot: made.id.to_hex().as_str().to_owned(),
        kind: if task.parent.is_none() { BackupType::Full } else { task.kind },
        parent: made.parent.map(|parent| parent.to_hex().as_str().to_owned()),
        files: summary.map_or(0, |summary| summary.total_files_processed),
        files_new: summary.map_or(0, |summary| summary.files_new),
        files_changed: summary.map_or(0, |summary| summary.files_changed),
        bytes: summary.map_or(0, |summary| summary.total_bytes_processed),
        added,
        problems,
        problem_count,
    }
}
