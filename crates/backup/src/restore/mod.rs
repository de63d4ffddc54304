//! Restores into a new folder beside the target, and swaps it in once it is whole: what was at the target is there until then, and
//! nothing is ever written through it. rustic_core's own restore writes through links in the target, as root.

mod compare;
mod place;
pub mod plan;
mod stage;
mod write;

use crate::{
    dirs,
    failure::{Result, failed},
    lock::Mode,
    open::{Context, open},
    read,
};
use nm_types::backup::job::{JobErrorCode, RepositoryAccess, RestoreTask, Restored};

use plan::Plan;
pub use write::threads;

pub fn run(access: &RepositoryAccess, task: &RestoreTask, context: &Context) -> Result<Restored> {
    let reporter = &context.reporter;
    reporter.step("open");
    let opened = open(access, Mode::Shared, None, context)?;
    let snapshot = read::snapshot(&opened.repository, &task.snapshot)?;
    let (store, key) = (opened.store.clone(), opened.key.clone());
    let _locks = opened.locks;
    let repository = opened
        .repository
        .to_indexed()
        .map_err(|error| crate::failure::of_rustic("The index can't be read", JobErrorCode::Damaged, &error))?;
    reporter.step("scan");
    let mut plan = Plan::default();
    for item in &task.items {
        plan.add(&repository, snapshot.tree, item, &task.include)?;
    }
    plan.finish();
    let mut restored = Restored {
        files: plan.files(),
        bytes: plan.bytes(),
        ..Restored::default()
    };
    if task.dry_run {
        reporter.step("compare");
        reporter.expect(plan.files(), plan.bytes());
        compare::compare(&plan, compare::Depth::Content, &mut restored, reporter)?;
        name_problems(&mut restored, context);
        return Ok(restored);
    }
    if !task.scratch {
        compare::compare(&plan, compare::Depth::Metadata, &mut restored, reporter)?;
        restored.changes.clear();
    }
    let stages = stage::make_all(&plan, task.scratch)?;
    reporter.step("write");
    reporter.expect(plan.files(), plan.bytes());
    // What is read back is compared then, and need not be before.
    let hashed = !(task.verify || task.scratch);
    write::write(&plan, &stages, &store, &key, hashed, reporter)?;
    if task.verify || task.scratch {
        reporter.step("verify");
        reporter.expect(plan.files(), plan.bytes());
        compare::verify(&plan, &stages, reporter)?;
        restored.verified = true;
    }
    if !task.scratch {
        reporter.step("swap");
        // Where something goes for it.
        for stage in stages.iter().filter(|stage| stage.there) {
            stage.sync()?;
        }
        for stage in &stages {
            place::place(&plan, stage, reporter)?;
        }
    }
    for stage in stages {
        let settle = (stage.inside && !task.scratch).then_some(stage.item);
        let removed = stage
            .remove()
            .and_then(|()| settle.map_or(Ok(()), |item| place::settle(&plan, item)));
        removed.map_err(|error| {
            failed(
                JobErrorCode::NotWritable,
                format!("Everything was restored, but the folder it was built in can't be removed: {error}."),
            )
        })?;
    }
    name_problems(&mut restored, context);
    Ok(restored)
}

fn name_problems(restored: &mut Restored, context: &Context) {
    (restored.problems, restored.problem_count) = context.reporter.problems();
}
