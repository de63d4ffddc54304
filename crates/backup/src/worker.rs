//! The worker's process: one job on its standard input, lines of events on its standard output. It never ends in silence: a thread
//! that panics is a job that failed.

use crate::{failure::failed, report::Reporter, run};
use nm_types::backup::job::{Job, JobError, JobErrorCode, JobEvent};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{
    io::{self, BufRead, BufReader, Read, Write},
    panic,
    process::{self, ExitCode},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// The longest job that is read.
const JOB_AT_MOST: u64 = 64 << 20;
const STACK: usize = 64 << 20;
/// What the process ends with when its standard input ended, or nobody reads what it says.
const ABANDONED: i32 = 3;
/// What it ends with after a panic.
const DIED: i32 = 101;

/// Reads one [`Job`] from the first line of standard input, works, and answers. The end of standard input ends the process at once,
/// whatever it does.
pub fn worker() -> ExitCode {
    let ended = Arc::new(AtomicBool::new(false));
    die_loudly(ended.clone());
    let mut input = BufReader::new(io::stdin());
    let job = match read(&mut input) {
        Ok(job) => job,
        Err(error) => {
            ended.store(true, Ordering::SeqCst);
            say(&JobEvent::Failed { error });
            return ExitCode::FAILURE;
        }
    };
    let watched = thread::Builder::new().name("input".into()).spawn(move || {
        let _ = io::copy(&mut input, &mut io::sink());
        process::exit(ABANDONED);
    });
    if let Err(error) = watched {
        ended.store(true, Ordering::SeqCst);
        say(&JobEvent::Failed {
            error: failed(JobErrorCode::Internal, format!("The worker can't start a thread: {error}.")),
        });
        return ExitCode::FAILURE;
    }
    let reporter = Arc::new(Reporter::new(|event| say(&event)));
    warn_through(&reporter);
    more_files();
    let told = reporter.clone();
    // Trees are walked by functions that call themselves, and they may be deep.
    let working = thread::Builder::new()
        .name("job".into())
        .stack_size(STACK)
        .spawn(move || run(&job, &told));
    let result = match working.map(thread::JoinHandle::join) {
        Ok(Ok(result)) => result,
        // The hook of the panic has said so, and ended the process.
        Ok(Err(_)) => Err(failed(JobErrorCode::Died, "The backup worker broke down.")),
        Err(error) => Err(failed(JobErrorCode::Internal, format!("The worker can't start a thread: {error}."))),
    };
    let code = if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    // A thread of rustic_core's that panics from here on changes nothing of the result.
    ended.store(true, Ordering::SeqCst);
    say(&match result {
        Ok(outcome) => JobEvent::Done { outcome },
        Err(error) => JobEvent::Failed { error },
    });
    code
}

/// One folder is held open for each level of a tree.
fn more_files() {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // With what there is, most trees can be walked all the same.
    let _ = setrlimit(Resource::Nofile, most);
}

fn read(input: &mut impl BufRead) -> Result<Job, JobError> {
    let mut line = Vec::new();
    let wrong = |what: String| failed(JobErrorCode::Internal, format!("The job can't be read: {what}."));
    input
        .take(JOB_AT_MOST)
        .read_until(b'\n', &mut line)
        .map_err(|error| wrong(error.to_string()))?;
    serde_json::from_slice(&line).map_err(|error| wrong(error.to_string()))
}

/// One line, whole. Where nobody reads any more, nobody waits for the job either.
fn say(event: &JobEvent) {
    let Ok(mut line) = serde_json::to_vec(event) else {
        return;
    };
    line.push(b'\n');
    let mut output = io::stdout().lock();
    if output.write_all(&line).and_then(|()| output.flush()).is_err() {
        process::exit(ABANDONED);
    }
}

/// rustic_core panics in threads of its own, and some of its channels then wait for ever.
fn die_loudly(ended: Arc<AtomicBool>) {
    panic::set_hook(Box::new(move |panic| {
        if ended.swap(true, Ordering::SeqCst) {
            return;
        }
        let what = panic.payload_as_str().unwrap_or("a panic without words");
        let place = panic
            .location()
            .map(|at| format!(" at {}:{}", at.file(), at.line()))
            .unwrap_or_default();
        say(&JobEvent::Failed {
            error: failed(
                JobErrorCode::Died,
                format!(
                    "The backup worker broke down ({what}{place}). What was in the repository before is untouched; check it and try again."
                ),
            ),
        });
        process::exit(DIED);
    }));
}

/// What rustic_core warns of goes to the job's log.
fn warn_through(reporter: &Arc<Reporter>) {
    struct Warnings(Arc<Reporter>);
    impl log::Log for Warnings {
        fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
            metadata.level() <= log::Level::Warn
        }
        fn log(&self, record: &log::Record<'_>) {
            if self.enabled(record.metadata()) {
                self.0.log(record.args().to_string());
            }
        }
        fn flush(&self) {}
    }
    // Another logger is that of a test; it may keep them.
    if log::set_boxed_logger(Box::new(Warnings(reporter.clone()))).is_ok() {
        log::set_max_level(log::LevelFilter::Warn);
    }
}
