//! How an agent starts the workers of backup jobs: from what runs now, also when the file was replaced since.

use crate::trial;
use nm_agent::BackupWorker;
use std::process::ExitCode;

/// The hidden subcommand.
pub const NAME: &str = "backup-worker";

/// Whether this process is to be a worker.
pub fn is_asked_for() -> bool {
    let mut arguments = std::env::args_os().skip(1);
    arguments.next().is_some_and(|word| word == NAME) && arguments.next().is_none()
}

/// How much it steps back behind what the machine is there for.
const NICE: i32 = 10;

/// The worker itself. All its threads are begun after this, and step back with it.
pub fn run() -> ExitCode {
    // Refused only where the machine forbids it; then it works as it is.
    let _ = rustix::process::nice(NICE);
    nm_backup::worker()
}

pub fn by_agent() -> BackupWorker {
    BackupWorker {
        program: trial::IMAGE.into(),
        arguments: vec![NAME.into()],
    }
}
