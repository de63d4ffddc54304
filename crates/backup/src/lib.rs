//! The backup worker's engine: restic repositories, read and written by rustic_core. What rustic_core leaves to its caller is here:
//! errors of single files are counted and named, a stream that broke leaves no snapshot, a restore can't leave its target, and a
//! repository is locked against other writers, restic among them.
//!
//! [`worker`] is the process, [`run`] the work of one job.

pub mod backup;
pub mod check;
pub mod copy;
mod crypt;
mod dirs;
pub mod failure;
pub mod forget;
pub mod guard;
pub mod local;
pub mod lock;
pub mod open;
mod read;
mod remote;
pub mod report;
pub mod restore;
pub mod served;
pub mod source;
pub mod store;
pub mod stream;
pub mod tree;
pub mod walk;
mod worker;

use failure::{Result, failed};
use nm_types::backup::job::{Job, JobErrorCode, Outcome, Task};
use open::Context;
use report::Reporter;
use rustic_core::jiff::Timestamp;
use std::sync::Arc;

pub use worker::worker;

/// Does one job, and says meanwhile how far it is.
pub fn run(job: &Job, reporter: &Arc<Reporter>) -> Result<Outcome> {
    let context = Context::new(reporter, &job.allow);
    let repository = &job.repository;
    match &job.task {
        Task::Backup(task) => {
            let time = Timestamp::from_millisecond(task.time.as_millis())
                .map_err(|error| failed(JobErrorCode::Internal, format!("The time of the backup is wrong: {error}.")))?;
            backup::run(repository, task, time, &context).map(Outcome::BackedUp)
        }
        Task::Restore(task) => restore::run(repository, task, &context).map(Outcome::Restored),
        Task::Check(task) => check::run(repository, task, &context).map(Outcome::Checked),
        Task::Forget(task) => forget::run(repository, task, &context).map(Outcome::Forgotten),
        Task::Tree(task) => tree::tree(repository, task, &context).map(Outcome::Tree),
        Task::Send(task) => tree::send(repository, task, &context).map(|bytes| Outcome::Sent { bytes }),
        Task::Copy(task) => copy::run(repository, task, &context).map(Outcome::Copied),
        Task::List => tree::list(repository, &context).map(Outcome::Snapshots),
        Task::AddKey { password } => copy::add_key(repository, password, &context).map(|id| Outcome::KeyAdded { id }),
    }
}
