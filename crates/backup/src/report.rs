//! What the engine says while it works: steps, progress a few times a second, and the files that could not be read or written.

use nm_types::backup::job::{FileProblem, JobEvent, JobProgress, PROBLEMS_AT_MOST};
use rustic_core::{Progress, ProgressBars, ProgressType, RusticProgress};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The rate is that of so long.
const RATE_OVER: Duration = Duration::from_secs(5);
const PROGRESS_EVERY: Duration = Duration::from_millis(400);

type Sink = Box<dyn FnMut(JobEvent) + Send>;

/// Shared by all threads that read or write.
pub struct Reporter {
    inner: Mutex<Inner>,
}

struct Inner {
    sink: Sink,
    problems: Vec<FileProblem>,
    problem_count: u64,
    progress: JobProgress,
    /// How many bytes there were at times of the last seconds, the oldest first.
    marks: VecDeque<(Instant, u64)>,
    said: Option<Instant>,
}

impl Reporter {
    pub fn new(sink: impl FnMut(JobEvent) + Send + 'static) -> Self {
        Self {
            inner: Mutex::new(Inner {
                sink: Box::new(sink),
                problems: Vec::new(),
                problem_count: 0,
                progress: JobProgress::default(),
                marks: VecDeque::from([(Instant::now(), 0)]),
                said: None,
            }),
        }
    }

    /// A thread that panicked leaves whole values behind: each change here is a single assignment.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn say(&self, event: JobEvent) {
        (self.lock().sink)(event);
    }

    /// A step begins; what was counted of the one before is gone.
    pub fn step(&self, name: &str) {
        let mut inner = self.lock();
        inner.progress = JobProgress::default();
        inner.marks = VecDeque::from([(Instant::now(), 0)]);
        inner.said = None;
        (inner.sink)(JobEvent::Step { name: name.to_owned() });
    }

    pub fn log(&self, line: impl Into<String>) {
        self.say(JobEvent::Log { line: line.into() });
    }

    /// All are counted; the first ones are named.
    pub fn problem(&self, path: String, error: String) {
        let mut inner = self.lock();
        inner.problem_count += 1;
        if inner.problems.len() < PROBLEMS_AT_MOST {
            let problem = FileProblem { path, error };
            inner.problems.push(problem.clone());
            (inner.sink)(JobEvent::Problem(problem));
        }
    }

    pub fn problems(&self) -> (Vec<FileProblem>, u64) {
        let inner = self.lock();
        (inner.problems.clone(), inner.problem_count)
    }

    pub fn expect_bytes(&self, bytes: u64) {
        self.lock().progress.total_bytes = Some(bytes);
    }

    pub fn expect(&self, files: u64, bytes: u64) {
        let mut inner = self.lock();
        inner.progress.total_files = Some(files);
        inner.progress.total_bytes = Some(bytes);
    }

    pub fn advance(&self, files: u64, bytes: u64) {
        let mut inner = self.lock();
        inner.progress.files += files;
        inner.progress.bytes += bytes;
        let now = Instant::now();
        if inner.said.is_some_and(|said| now - said < PROGRESS_EVERY) {
            return;
        }
        inner.said = Some(now);
        let mut progress = inner.progress;
        while inner.marks.len() > 1 && now - inner.marks[0].0 > RATE_OVER {
            inner.marks.pop_front();
        }
        if let Some((since, before)) = inner.marks.front() {
            let seconds = (now - *since).as_secs_f64();
            if seconds > 0.0 {
                progress.rate = progress.bytes.saturating_sub(*before) as f64 / seconds;
            }
        }
        inner.marks.push_back((now, progress.bytes));
        if let Some(total) = progress.total_bytes
            && progress.rate > 0.0
        {
            progress.remaining = Some(total.saturating_sub(progress.bytes) as f64 / progress.rate);
        }
        (inner.sink)(JobEvent::Progress(progress));
    }
}

/// What rustic_core reports, as progress of the step.
#[derive(Clone)]
pub struct Bars(pub Arc<Reporter>);

impl std::fmt::Debug for Bars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bars")
    }
}

impl ProgressBars for Bars {
    fn progress(&self, kind: ProgressType, _prefix: &str) -> Progress {
        match kind {
            ProgressType::Bytes => Progress::new(Bar {
                reporter: self.0.clone(),
                bytes: true,
            }),
            ProgressType::Counter => Progress::new(Bar {
                reporter: self.0.clone(),
                bytes: false,
            }),
            ProgressType::Spinner => Progress::hidden(),
        }
    }
}

struct Bar {
    reporter: Arc<Reporter>,
    bytes: bool,
}

impl std::fmt::Debug for Bar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bar")
    }
}

impl RusticProgress for Bar {
    fn is_hidden(&self) -> bool {
        false
    }
    fn set_length(&self, length: u64) {
        if self.bytes {
            self.reporter.expect_bytes(length);
        }
    }
    fn set_title(&self, _title: &str) {}
    fn inc(&self, count: u64) {
        if self.bytes {
            self.reporter.advance(0, count);
        }
    }
    fn finish(&self) {}
}
