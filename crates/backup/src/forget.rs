//! Removes snapshots, and what no snapshot needs. In two phases: what is not needed is marked in one run and goes in a later one, so
//! that a backup that ran beside it, and used some of it, still has it: the next run takes the mark away again.

use crate::{
    check,
    failure::{Result, code_of, failed, of_rustic},
    lock::Mode,
    open::{Context, name_packs, open},
    tree,
};
use nm_types::backup::job::{ForgetTask, Forgotten, JobErrorCode, RepositoryAccess};
use rustic_core::{
    LimitOption, PruneOptions,
    jiff::Span,
    repofile::{IndexFile, SnapshotId},
};
use std::collections::BTreeSet;

pub fn run(access: &RepositoryAccess, task: &ForgetTask, context: &Context) -> Result<Forgotten> {
    let reporter = &context.reporter;
    if access.append_only && !task.remove.is_empty() {
        return Err(failed(
            JobErrorCode::Forbidden,
            "Nothing is removed from this repository, since its config is append-only.",
        ));
    }
    reporter.step("open");
    let opened = open(access, Mode::Exclusive, None, context)?;
    let snapshots = tree::snapshots(&opened)?;
    let there: BTreeSet<&str> = task.keep.iter().chain(&task.remove).map(String::as_str).collect();
    let ids: Vec<String> = snapshots.iter().map(|snapshot| snapshot.id.to_hex().as_str().to_owned()).collect();
    // A folder that could not be listed whole looks like one that has few snapshots: what is known decides.
    if let Some(missing) = task.keep.iter().find(|id| !ids.contains(*id)) {
        return Err(failed(
            JobErrorCode::Disagrees,
            format!("The snapshot {missing} that is to stay is not in the repository, so nothing was removed. Check the destination."),
        ));
    }
    if let Some(unknown) = ids.iter().find(|id| !there.contains(id.as_str())) {
        return Err(failed(
            JobErrorCode::Disagrees,
            format!(
                "The snapshot {unknown} in the repository is none that is known of, so nothing was removed. Remove it with restic, or let it be known first."
            ),
        ));
    }
    if let Some(both) = task.remove.iter().find(|id| task.keep.contains(id)) {
        return Err(failed(
            JobErrorCode::Disagrees,
            format!("The snapshot {both} is to stay and to go, so nothing was removed."),
        ));
    }
    let remove: Vec<SnapshotId> = snapshots
        .iter()
        .filter(|snapshot| task.remove.iter().any(|id| snapshot.id.to_hex().as_str() == id))
        .map(|snapshot| snapshot.id)
        .collect();
    if !remove.is_empty() {
        reporter.step("forget");
        opened
            .repository
            .delete_snapshots(&remove)
            .map_err(|error| of_rustic("The snapshots can't be removed", JobErrorCode::NotWritable, &error))?;
    }
    let before = check::size(&opened)?;
    if opened.was_cut() && !access.append_only {
        name_packs(&opened)?;
    }
    if task.prune && !access.append_only {
        reporter.step("prune");
        opened.store.sweep().map_err(|error| {
            let why = format!("What was left half written can't be removed: {error}. Check the destination.");
            failed(code_of(&error, JobErrorCode::NotWritable), why)
        })?;
        // What is half empty is written anew, but never so much at once that a night is not enough.
        let options = PruneOptions::default()
            .max_repack(LimitOption::Percentage(20))
            .keep_delete(Span::new().seconds(i64::from(task.grace)));
        let refused = |error: &rustic_core::RusticError| of_rustic("What is not needed can't be removed", JobErrorCode::NotWritable, error);
        let plan = opened.repository.prune_plan(&options).map_err(|error| {
            of_rustic(
                "What is needed can't be told, so nothing was removed",
                JobErrorCode::Damaged,
                &error,
            )
        })?;
        opened.repository.prune(&options, plan).map_err(|error| refused(&error))?;
    }
    let mut marked = 0;
    for file in opened
        .repository
        .stream_files::<IndexFile>()
        .map_err(|error| of_rustic("The index can't be read", JobErrorCode::Damaged, &error))?
    {
        let (_, index) = file.map_err(|error| of_rustic("The index can't be read", JobErrorCode::Damaged, &error))?;
        marked += index.packs_to_delete.iter().map(|pack| u64::from(pack.pack_size())).sum::<u64>();
    }
    let size = check::size(&opened)?;
    Ok(Forgotten {
        removed: task.remove.clone(),
        marked,
        freed: before.saturating_sub(size),
        size,
    })
}
