//! Backup jobs: each is carried out by a worker, a process of its own, and what it needs of the node is done before and undone
//! after.
//!
//! Invariants
//! - A job is known by its key. Asked for again it is joined, or its kept outcome is the answer: it never runs twice.
//! - What is to be undone (a pause, a stop) is on disk before it is done; an agent that was killed undoes it when it starts.
//! - A job outlives whoever asked for it, and ends with the agent: then it has no outcome, and is asked for again.
//! - A worker is told no path that the node's policy refuses, and no socket but those made here.
//!
//! - [`worker`]: the process. [`prepare`]: from what was asked to what it is told. [`dumps`], [`streams`]: databases.
//! - [`reach`]: repositories in folders of other nodes. [`records`]: what is on disk.

mod dumps;
mod prepare;
mod reach;
mod records;
mod streams;
mod worker;

pub use worker::BackupWorker;

use crate::docker::Docker;
use crate::docker::hub::now;
use crate::fence::Desired;
use futures_util::FutureExt;
use nm_link::contract::{AgentError, AgentErrorCode as Code, ContainerKey, RunJob};
use nm_types::backup::job::{Job, JobError, JobErrorCode, JobEvent, JobKey, Task};
use nm_types::container::ContainerStatus;
use prepare::{Prepared, Stream};
use records::{Ended, Held, Records, Undo, unkept};
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{OwnedMutexGuard, Semaphore, broadcast, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tracing::{Instrument, error, info, warn};
use worker::failed;

/// Jobs at once that read or write much; more wait their turn.
const HEAVY: usize = 2;
/// Jobs at once that somebody waits for at a screen.
const LIGHT: usize = 4;
/// Jobs that run or wait.
const KNOWN_AT_MOST: usize = 64;
/// Events under way to one listener; one that is slower misses some, but never the last.
const EVENTS: usize = 256;

/// Between two attempts to undo something at an engine that did not answer.
const AGAIN: Duration = Duration::from_secs(5);

/// Cheap to clone.
#[derive(Clone)]
pub struct Backups {
    inner: Arc<Inner>,
}

struct Inner {
    docker: Docker,
    worker: BackupWorker,
    records: Records,
    running: Mutex<HashMap<JobKey, Arc<Running>>>,
    /// One job is begun at a time, so that none is begun twice.
    beginning: tokio::sync::Mutex<()>,
    heavy: Semaphore,
    light: Semaphore,
    /// One job at a time holds a container.
    containers: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    doors: reach::Doors,
    /// What agents before this one left has been undone.
    recovered: CancellationToken,
    stopping: CancellationToken,
    tasks: TaskTracker,
}

/// A job under way.
struct Running {
    state: Mutex<State>,
    cancel: CancellationToken,
}

struct State {
    step: Option<JobEvent>,
    progress: Option<JobEvent>,
    last: Option<JobEvent>,
    /// Gone with the end.
    tell: Option<broadcast::Sender<JobEvent>>,
}

impl Running {
    fn new(cancel: CancellationToken) -> Self {
        let state = State {
            step: None,
            progress: None,
            last: None,
            tell: Some(broadcast::Sender::new(EVENTS)),
        };
        Self {
            state: Mutex::new(state),
            cancel,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, event: JobEvent) {
        let mut state = self.lock();
        match &event {
            JobEvent::Step { .. } => (state.step, state.progress) = (Some(event.clone()), None),
            JobEvent::Progress(_) => state.progress = Some(event.clone()),
            JobEvent::SourcesRead | JobEvent::Problem(_) | JobEvent::Log { .. } | JobEvent::Done { .. } | JobEvent::Failed { .. } => {}
        }
        if let Some(tell) = &state.tell {
            // Nobody may be listening.
            drop(tell.send(event));
        }
    }

    fn step(&self, name: &str) {
        self.tell(JobEvent::Step { name: name.to_owned() });
    }

    /// `last` is none where the agent ends before the job does.
    fn end(&self, last: Option<JobEvent>) {
        let mut state = self.lock();
        state.last = last;
        state.tell = None;
    }

    /// How far it is, then what comes. The channel ends without a last event where the job has none.
    fn listen(self: Arc<Self>) -> mpsc::Receiver<JobEvent> {
        let (tx, rx) = mpsc::channel(EVENTS);
        let (so_far, events) = {
            let state = self.lock();
            let so_far: Vec<JobEvent> = [&state.step, &state.progress].into_iter().flatten().cloned().collect();
            (so_far, state.tell.as_ref().map(broadcast::Sender::subscribe))
        };
        tokio::spawn(async move {
            for event in so_far {
                drop(tx.send(event).await);
            }
            if let Some(mut events) = events {
                loop {
                    let event = tokio::select! {
                        event = events.recv() => event,
                        () = tx.closed() => return,
                    };
                    match event {
                        Ok(event) => drop(tx.send(event).await),
                        Err(broadcast::error::RecvError::Lagged(_)) => {}
                        Err(broadcast::error::RecvError::Closed) => break,
                    }
                }
            }
            let last = self.lock().last.clone();
            if let Some(last) = last {
                drop(tx.send(last).await);
            }
        });
        rx
    }
}

impl Backups {
    /// Work on the disk.
    pub fn open(data_dir: &Path, worker: BackupWorker, docker: Docker) -> io::Result<Self> {
        let inner = Inner {
            docker,
            worker,
            records: Records::open(data_dir, now())?,
            running: Mutex::default(),
            beginning: tokio::sync::Mutex::default(),
            heavy: Semaphore::new(HEAVY),
            light: Semaphore::new(LIGHT),
            containers: Mutex::default(),
            doors: reach::Doors::default(),
            recovered: CancellationToken::new(),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Begins a job, joins it, or answers how it ended.
    pub async fn run(&self, request: RunJob) -> Result<mpsc::Receiver<JobEvent>, AgentError> {
        let key = request.job.key.clone();
        let _beginning = self.inner.beginning.lock().await;
        if let Some(running) = self.inner.find(&key) {
            return Ok(running.listen());
        }
        // An outcome is on disk before its job is forgotten, and none begins meanwhile.
        if let Some(ended) = self.on_disk(move |records| records.outcome(&key)).await? {
            let (tx, rx) = mpsc::channel(1);
            drop(tx.try_send(ended.event));
            return Ok(rx);
        }
        let running = Arc::new(Running::new(self.inner.stopping.child_token()));
        {
            let mut all = self.inner.lock();
            if all.len() >= KNOWN_AT_MOST {
                let text = format!("The node has {KNOWN_AT_MOST} backup jobs already that run or wait: try again later.");
                return Err(AgentError::new(Code::InsufficientResources, text));
            }
            all.insert(request.job.key.clone(), running.clone());
        }
        let events = running.clone().listen();
        let backups = self.clone();
        let span = tracing::info_span!("backup job", job = %request.job.key);
        self.inner
            .tasks
            .spawn(async move { backups.carry_out(request, &running).await }.instrument(span));
        Ok(events)
    }

    /// Ends a job: its worker is killed, and what is to be undone is undone.
    pub fn cancel(&self, key: &JobKey) {
        if let Some(running) = self.inner.find(key) {
            running.cancel.cancel();
        }
    }

    /// Undoes what agents before this one left. Waits for the engine where it must.
    pub async fn recover(&self) {
        match self.on_disk(Records::all_held).await {
            Ok(all) => {
                for (key, held) in all {
                    info!(job = %key, "the agent ended in the middle of a backup job: its containers are started again");
                    self.undo(&key, &held).await;
                }
            }
            Err(error) => error!(%error, "what backup jobs have stopped or paused can't be read: look at the node's containers"),
        }
        self.inner.recovered.cancel();
    }

    pub async fn forget_old(&self) {
        if let Err(error) = self.on_disk(|records| records.forget_old(now())).await {
            warn!(%error, "old outcomes of backup jobs could not be removed");
        }
    }

    /// Ends all jobs, without an outcome, and waits until what they did is undone.
    pub async fn stop(&self) {
        self.inner.stopping.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    async fn carry_out(&self, request: RunJob, running: &Arc<Running>) {
        let key = request.job.key.clone();
        // Reading is simply done again.
        let kept = !matches!(request.job.task, Task::Tree(_) | Task::List);
        let work = std::panic::AssertUnwindSafe(self.perform(request, running)).catch_unwind().await;
        let last = work.unwrap_or_else(|_| failed(JobErrorCode::Internal, "The agent failed; its log says how.".to_owned()));
        let cut_off =
            self.inner.stopping.is_cancelled() && matches!(&last, JobEvent::Failed { error } if error.code == JobErrorCode::Cancelled);
        let last = (!cut_off).then_some(last);
        if let Some(event) = last.clone().filter(|_| kept) {
            let (key, ended) = (key.clone(), Ended { at: now(), event });
            if let Err(error) = self.on_disk(move |records| records.keep_outcome(&key, &ended)).await {
                error!(%error, "the outcome of a backup job could not be kept: asked for again it runs again");
            }
        }
        self.inner.lock().remove(&key);
        running.end(last);
    }

    async fn perform(&self, request: RunJob, running: &Arc<Running>) -> JobEvent {
        let gate = match &request.job.task {
            Task::Tree(_) | Task::List | Task::AddKey { .. } => &self.inner.light,
            Task::Backup(_) | Task::Restore(_) | Task::Check(_) | Task::Forget(_) | Task::Send(_) | Task::Copy(_) => &self.inner.heavy,
        };
        if gate.available_permits() == 0 {
            running.step("wait");
        }
        let key = request.job.key.clone();
        let ready = async {
            self.inner.recovered.cancelled().await;
            let permit = gate.acquire().await;
            running.step("prepare");
            let prepared = prepare::prepare(&self.inner.docker, request, &self.inner.records.scratch).await?;
            let locks = self.inner.hold_all(&prepared.held).await;
            Ok::<_, AgentError>((permit, prepared, locks))
        };
        let ready = tokio::select! {
            ready = ready => ready,
            () = running.cancel.cancelled() => return failed(JobErrorCode::Cancelled, "The backup job was cancelled before it began.".to_owned()),
        };
        let (_permit, mut prepared, _locks) = match ready {
            Ok(ready) => ready,
            Err(error) => return refused(&error),
        };
        let _open = reach::Open::new(&self.inner, &key, std::mem::take(&mut prepared.doors));
        let held = prepared.held.clone();
        let leftovers = prepared.leftovers.clone();
        let mut released = held.is_empty();
        let done = match self.hold(&key, &held).await {
            Ok(()) => {
                let read = CancellationToken::new();
                let mut work = std::pin::pin!(self.work(prepared, running, &read));
                let mut release = std::pin::pin!(async {
                    read.cancelled().await;
                    self.undo(&key, &held).await;
                });
                loop {
                    tokio::select! {
                        done = &mut work => break done,
                        () = &mut release, if !released => released = true,
                    }
                }
            }
            Err(error) => {
                // What is to be started again must be free for it.
                drop(prepared);
                refused(&error)
            }
        };
        if !released {
            running.step("release");
            self.undo(&key, &held).await;
        }
        for path in leftovers {
            let removed = match tokio::fs::symlink_metadata(&path).await {
                Ok(seen) if seen.is_dir() => tokio::fs::remove_dir_all(&path).await,
                Ok(_) => tokio::fs::remove_file(&path).await,
                Err(_) => continue,
            };
            if let Err(error) = removed {
                warn!(path = %path.display(), %error, "what a backup job left could not be removed");
            }
        }
        done
    }

    /// `read` is cancelled as soon as the sources of a backup were read: what held them still is let go then.
    async fn work(&self, prepared: Prepared, running: &Arc<Running>, read: &CancellationToken) -> JobEvent {
        let Prepared {
            job,
            giving,
            taking,
            replacing: _replacing,
            ..
        } = prepared;
        let _giving = giving.map(|Stream { record, dump, listener }| {
            let docker = self.inner.docker.clone();
            // Ended with the job.
            AbortOnDropHandle::new(tokio::spawn(async move {
                if let Err(error) = streams::serve_dump(docker, record, dump, listener).await {
                    warn!(%error, "a dump broke off: its worker has ended, or reads no more");
                }
            }))
        });
        match taking {
            None => {
                let tell = |event| {
                    if event == JobEvent::SourcesRead {
                        read.cancel();
                    }
                    running.tell(event);
                };
                self.inner.worker.run(&job, &running.cancel, tell).await
            }
            Some(taking) => self.send(&job, taking, running).await,
        }
    }

    /// A dump goes from the worker into a container. It is done when both are.
    async fn send(&self, job: &Job, taking: Stream, running: &Arc<Running>) -> JobEvent {
        let Stream { record, dump, listener } = taking;
        let mut take = std::pin::pin!(streams::take_dump(&self.inner.docker, &record, &dump, listener));
        let mut sending = std::pin::pin!(self.inner.worker.run(job, &running.cancel, |event| running.tell(event)));
        let (taken, sent) = tokio::select! {
            taken = &mut take => (taken, sending.await),
            sent = &mut sending => match sent {
                JobEvent::Done { .. } => {
                    let taken = tokio::select! {
                        taken = &mut take => taken,
                        () = running.cancel.cancelled() => {
                            return failed(JobErrorCode::Cancelled, "The restore was cancelled while the container read the dump in.".to_owned());
                        }
                    };
                    (taken, sent)
                }
                sent => return sent,
            },
        };
        let Err(message) = taken else { return sent };
        // Cut off on one side, both fail; the container's own words say more than the worker's.
        match &sent {
            JobEvent::Failed { error } if error.code == JobErrorCode::Cancelled => sent,
            _ => failed(JobErrorCode::StreamFailed, message),
        }
    }

    /// Notes what will be undone, then does it.
    async fn hold(&self, key: &JobKey, held: &[Held]) -> Result<(), AgentError> {
        if held.is_empty() {
            return Ok(());
        }
        let (key, noted) = (key.clone(), held.to_vec());
        self.on_disk(move |records| records.hold(&key, &noted)).await?;
        let docker = &self.inner.docker;
        for one in held {
            let record = docker.resolve(&ContainerKey::Docker(one.docker_id.as_str().into())).await?;
            match one.undo {
                Undo::Unpause => docker.pause(&record).await?,
                Undo::Start | Undo::StartAndPause => docker.stop(&record, None).await?,
            }
        }
        Ok(())
    }

    /// Undoes it, as long as the engine is away waiting for it. What can't be undone stays on disk for the next start.
    async fn undo(&self, key: &JobKey, held: &[Held]) {
        let mut whole = true;
        for one in held {
            loop {
                // As it is before the attempt, so that no coming back is missed.
                let mut engine = self.inner.docker.hub.engine();
                engine.mark_unchanged();
                let Err(error) = self.undo_one(one).await else { break };
                if error.code != Code::DockerUnavailable {
                    error!(docker.id = one.docker_id, %error, "a container that a backup job has paused or stopped could not be started again");
                    whole = false;
                    break;
                }
                tokio::select! {
                    changed = engine.changed() => if changed.is_err() { return },
                    // A break that the hub has not seen.
                    () = tokio::time::sleep(AGAIN) => {}
                    () = self.inner.stopping.cancelled() => return,
                }
            }
        }
        if whole && !held.is_empty() {
            let key = key.clone();
            if let Err(error) = self.on_disk(move |records| records.released(&key)).await {
                warn!(%error, "what a backup job had to undo is undone, but still noted");
            }
        }
    }

    async fn undo_one(&self, held: &Held) -> Result<(), AgentError> {
        let docker = &self.inner.docker;
        docker.engine().await?;
        // As it is now: nobody follows the engine while the agent ends.
        let seen = docker.look_now(&held.docker_id).await.map_err(|e| docker.explain(e))?;
        let Some(record) = seen else { return Ok(()) };
        // Our own stop was noted as one that was wanted, as any is: only a command that came later says otherwise.
        let since = docker.commanded(&record) > held.generation;
        let wanted = docker.wanted(&record).filter(|_| since);
        match held.undo {
            // Somebody paused it himself meanwhile; it is his to unpause.
            Undo::Unpause if wanted == Some(Desired::Paused) => Ok(()),
            Undo::Unpause => match docker.unpause(&record).await {
                Err(e) if matches!(e.code, Code::NotRunning | Code::ContainerNotFound) => Ok(()),
                done => done,
            },
            // Somebody stopped it himself meanwhile.
            Undo::Start | Undo::StartAndPause if matches!(wanted, Some(Desired::Stopped | Desired::Removed)) => Ok(()),
            Undo::Start if record.observed.status == ContainerStatus::Running => Ok(()),
            Undo::StartAndPause if record.observed.status == ContainerStatus::Paused => Ok(()),
            Undo::Start | Undo::StartAndPause => {
                match docker.start(&record).await {
                    Err(e) if e.code == Code::ContainerNotFound => return Ok(()),
                    done => done?,
                };
                // Somebody had it run meanwhile.
                if held.undo == Undo::Start || wanted == Some(Desired::Running) {
                    return Ok(());
                }
                match docker.pause(&record).await {
                    Err(e) if matches!(e.code, Code::NotRunning | Code::ContainerNotFound) => Ok(()),
                    done => done,
                }
            }
        }
    }

    /// Work on the records, off the threads that serve.
    async fn on_disk<T: Send + 'static>(&self, work: impl FnOnce(&Records) -> io::Result<T> + Send + 'static) -> Result<T, AgentError> {
        let inner = self.inner.clone();
        match tokio::task::spawn_blocking(move || work(&inner.records)).await {
            Ok(done) => done.map_err(|e| unkept(&e)),
            Err(e) => Err(AgentError::new(Code::Internal, format!("The agent failed: {e}."))),
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, HashMap<JobKey, Arc<Running>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, key: &JobKey) -> Option<Arc<Running>> {
        self.lock().get(key).cloned()
    }

    /// In the order of their ids, so that no two jobs wait for each other.
    async fn hold_all(&self, held: &[Held]) -> Vec<OwnedMutexGuard<()>> {
        let mut ids: Vec<&str> = held.iter().map(|h| h.docker_id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        let mut guards = Vec::with_capacity(ids.len());
        for id in ids {
            let lock = {
                let mut all = self.containers.lock().unwrap_or_else(PoisonError::into_inner);
                all.retain(|_, lock| lock.strong_count() > 0);
                let known = all.get(id).and_then(Weak::upgrade);
                known.unwrap_or_else(|| {
                    let lock = Arc::new(tokio::sync::Mutex::new(()));
                    all.insert(id.to_owned(), Arc::downgrade(&lock));
                    lock
                })
            };
            guards.push(lock.lock_owned().await);
        }
        guards
    }
}

/// A job that could not be begun, with what the agent has to say of it.
fn refused(error: &AgentError) -> JobEvent {
    let code = match error.code {
        Code::Forbidden => JobErrorCode::Forbidden,
        Code::DiskFull => JobErrorCode::DiskFull,
        Code::Cancelled => JobErrorCode::Cancelled,
        Code::VolumeNotFound | Code::ContainerNotFound | Code::PathNotFound => JobErrorCode::PathMissing,
        Code::Internal => JobErrorCode::Internal,
        Code::ImageNotFound
        | Code::ImageAccessDenied
        | Code::PullFailed
        | Code::NetworkNotFound
        | Code::NameTaken
        | Code::PortInUse
        | Code::InsufficientResources
        | Code::InUse
        | Code::NotRunning
        | Code::Paused
        | Code::CommandFailed
        | Code::Invalid
        | Code::Stale
        | Code::DockerUnavailable
        | Code::Timeout => JobErrorCode::SourceFailed,
    };
    JobEvent::Failed {
        error: JobError {
            code,
            message: error.message.clone(),
        },
    }
}
