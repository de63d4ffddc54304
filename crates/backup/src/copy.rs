//! Copies snapshots into a second repository, with a password of its own and the same cut into parts, so that a part that both have
//! is there once.

use crate::{
    failure::{Result, failed, of_rustic},
    lock::Mode,
    open::{self, AddKey, Context, Make, open},
    read, tree,
};
use nm_types::backup::job::{Copied, CopyTask, Hidden, JobErrorCode, RepositoryAccess};

pub fn run(access: &RepositoryAccess, task: &CopyTask, context: &Context) -> Result<Copied> {
    let reporter = &context.reporter;
    reporter.step("open");
    let from = open(access, Mode::Shared, None, context)?;
    let snapshots = task
        .snapshots
        .iter()
        .map(|id| read::snapshot(&from.repository, id))
        .collect::<Result<Vec<_>>>()?;
    let make = Make {
        compression: task.compression,
        polynomial: Some(from.repository.config().clone()),
    };
    let to_context = Context::new(reporter, &context.allow);
    let to = open::open_to_add(&task.to, make, &to_context)?;
    let before = to_context.veto.added();
    let there = tree::snapshots(&to)?;
    // A copy that was cut short is taken up: what is there already, with the same time and tree, is not copied again.
    let missing: Vec<_> = snapshots
        .iter()
        .filter(|snapshot| !there.iter().any(|other| same(snapshot, other)))
        .cloned()
        .collect();
    let (from_locks, to_locks) = (from.locks, to.locks);
    let id = to.id.clone();
    let damaged = |error: &rustic_core::RusticError| of_rustic("The index can't be read", JobErrorCode::Damaged, error);
    let source = from.repository.to_indexed().map_err(|error| damaged(&error))?;
    let target = to.repository.to_indexed_ids().map_err(|error| damaged(&error))?;
    reporter.step("copy");
    if !missing.is_empty() {
        source
            .copy(&target, &missing)
            .map_err(|error| of_rustic("The snapshots can't be copied", JobErrorCode::NotWritable, &error))?;
    }
    let there = target
        .get_all_snapshots()
        .map_err(|error| of_rustic("The snapshots of the copy can't be read", JobErrorCode::Damaged, &error))?;
    drop((from_locks, to_locks));
    let mut copied = Vec::new();
    for snapshot in &snapshots {
        let other = there.iter().find(|other| same(snapshot, other)).ok_or_else(|| {
            failed(
                JobErrorCode::Internal,
                format!("The copy of the snapshot {} is not there after all.", snapshot.id.to_hex().as_str()),
            )
        })?;
        copied.push((snapshot.id.to_hex().as_str().to_owned(), other.id.to_hex().as_str().to_owned()));
    }
    Ok(Copied {
        repository: id,
        snapshots: copied,
        added: to_context.veto.added() - before,
    })
}

fn same(one: &rustic_core::repofile::SnapshotFile, other: &rustic_core::repofile::SnapshotFile) -> bool {
    one.time.timestamp() == other.time.timestamp() && one.tree == other.tree && one.tags == other.tags && one.hostname == other.hostname
}

/// Another password for the repository.
pub fn add_key(access: &RepositoryAccess, password: &Hidden, context: &Context) -> Result<String> {
    context.reporter.step("open");
    let opened = open(access, Mode::Shared, None, context)?;
    open::add_key(&opened.store, &opened.repository.key(), &password.0).map_err(|error| match error {
        AddKey::Made(error) => failed(JobErrorCode::Internal, format!("The key can't be made: {error}.")),
        AddKey::Written(error) => of_rustic("The key can't be written", JobErrorCode::NotWritable, &error),
    })
}
