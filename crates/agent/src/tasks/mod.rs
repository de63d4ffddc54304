//! Tasks of jobs: containers that run to their end, each attempt once.
//!
//! - An attempt is in the [`ledger`] before it is begun, and its result before its container goes. Asked for twice, it runs once.
//! - Tasks run for as long as a control plane says so ([`lease`]). Without a word they are ended, also by the agent's next process.
//! - A result is told until it is acknowledged.
//! - Who asks for whole cores has them alone ([`pins`]). What tasks wrote is kept after their end ([`logs`]).
//! - [`life`] is one attempt from its beginning to its end.

mod lease;
mod ledger;
mod life;
mod logs;
mod pins;

use crate::docker::Docker;
use crate::docker::hub::now;
use lease::Lease;
use ledger::{Accepted, Ledger, Line, Open};
use logs::Logs;
use nm_link::contract::{
    AgentError, AgentErrorCode as Code, RunTask, TaskKey, TaskLogQuery, TaskNews, TaskNewsPage, TaskNewsQuery, TaskResult, TasksAnswer,
    TasksCall,
};
use nm_types::Timestamp;
use nm_types::container::LogLine;
use nm_types::job::TaskOutcome;
use pins::{Cores, Pinned};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The longest a call waits for news.
const WAIT_AT_MOST: Duration = Duration::from_secs(25);
/// News of one answer.
const NEWS_AT_MOST: usize = 1_000;

/// Why a task is to end before its program does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    Cancelled,
    Timeout,
    LeaseEnded,
}

/// One attempt.
struct Task {
    key: TaskKey,
    cores: Vec<u32>,
    timeout: Option<i64>,
    stop: watch::Sender<Option<Stop>>,
    docker_id: Mutex<Option<String>>,
    /// Until its result is there.
    ended: Mutex<bool>,
}

impl Task {
    fn new(accepted: &Accepted) -> Arc<Self> {
        Arc::new(Self {
            key: accepted.key.clone(),
            cores: accepted.cores.clone(),
            timeout: accepted.timeout,
            stop: watch::Sender::new(None),
            docker_id: Mutex::default(),
            ended: Mutex::new(false),
        })
    }
    /// The first reason counts, but that the end of the lease allows no grace.
    fn stop(&self, why: Stop) {
        self.stop.send_if_modified(|held| {
            let news = held.is_none() || (why == Stop::LeaseEnded && *held != Some(why));
            if news {
                *held = Some(why);
            }
            news
        });
    }
    fn docker_id(&self) -> Option<String> {
        lock(&self.docker_id).clone()
    }
    fn has_ended(&self) -> bool {
        *lock(&self.ended)
    }
}

#[derive(Default)]
struct State {
    tasks: BTreeMap<TaskKey, Arc<Task>>,
    /// What is told: beginnings until they were read, ends until they are acknowledged.
    news: VecDeque<(u64, TaskNews)>,
    last: u64,
    pinned: Pinned,
    /// Grows with each change of `pinned`.
    pinning: u64,
}

struct Inner {
    docker: Docker,
    ledger: Ledger,
    lease: Lease,
    logs: Logs,
    cores: Cores,
    instance: String,
    boot: String,
    /// What containers of this agent are marked with, in all of its processes.
    owner: String,
    state: Mutex<State>,
    /// The number of the newest news.
    told: watch::Sender<u64>,
    /// One call at a time.
    calls: tokio::sync::Mutex<()>,
    /// One change of running tasks' cores at a time.
    repinning: tokio::sync::Mutex<()>,
    /// One pull of an image at a time.
    pulls: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    /// What was open when this process began; taken by the first run.
    found: Mutex<Vec<Open>>,
    /// Ends what this process does with its tasks; the tasks themselves go on.
    stopped: CancellationToken,
}

/// All tasks of the node. Cheap to clone.
#[derive(Clone)]
pub struct Tasks {
    inner: Arc<Inner>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unkept(error: &io::Error) -> AgentError {
    if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        return AgentError::new(Code::DiskFull, "The node's disk is full: free some space. No task was begun.");
    }
    AgentError::new(Code::Internal, format!("The agent could not write what it is to run: {error}."))
}

impl Tasks {
    /// Reads what is open, and hides its containers from the list of containers. Work on the disk.
    pub fn open(data_dir: &Path, docker: Docker) -> io::Result<Self> {
        let folder = data_dir.join("tasks");
        let (ledger, found) = Ledger::open(&folder)?;
        for open in &found {
            docker.hub.hidden.hide(open.accepted.key.docker_name());
        }
        let (instance, boot) = (format!("{}-{}", std::process::id(), now()), lease::boot());
        let inner = Inner {
            owner: owner(&folder)?,
            lease: Lease::open(&folder, &instance, &boot),
            logs: Logs::new(&folder),
            cores: Cores::look(),
            docker,
            ledger,
            instance,
            boot,
            state: Mutex::default(),
            told: watch::Sender::new(0),
            calls: tokio::sync::Mutex::default(),
            repinning: tokio::sync::Mutex::default(),
            pulls: Mutex::default(),
            found: Mutex::new(found),
            stopped: CancellationToken::new(),
        };
        let tasks = Self { inner: Arc::new(inner) };
        tasks.take_up();
        Ok(tasks)
    }

    /// What was open is known from the first call on.
    fn take_up(&self) {
        let found = lock(&self.inner.found);
        let mut state = lock(&self.inner.state);
        for open in found.iter() {
            let task = Task::new(&open.accepted);
            if let Some(result) = &open.result {
                *lock(&task.ended) = true;
                self.tell(&mut state, TaskNews::Ended(result.clone()));
            } else if !task.cores.is_empty() {
                state.pinned.0.insert(task.key.clone(), task.cores.clone());
            }
            state.tasks.insert(task.key.clone(), task);
        }
    }

    fn tell(&self, state: &mut State, news: TaskNews) {
        state.last += 1;
        let number = state.last;
        state.news.push_back((number, news));
        self.inner.told.send_replace(number);
    }

    /// Goes on with what the process before had begun, and ends tasks whose lease is over, until the agent ends.
    pub async fn run(&self) {
        let found = std::mem::take(&mut *lock(&self.inner.found));
        for open in found {
            let Some(task) = self.task(&open.accepted.key) else { continue };
            let tasks = self.clone();
            match open.result {
                None => self.spawn(async move { tasks.go_on(task, open.accepted).await }),
                Some(_) => self.spawn(async move { tasks.clear(&task.key).await }),
            }
        }
        let sweeping = async {
            let mut hourly = tokio::time::interval(Duration::from_secs(3600));
            loop {
                hourly.tick().await;
                self.sweep().await;
            }
        };
        let ending = async {
            loop {
                self.inner.lease.over().await;
                let running: Vec<Arc<Task>> = lock(&self.inner.state).tasks.values().filter(|t| !t.has_ended()).cloned().collect();
                if !running.is_empty() {
                    tracing::warn!(
                        tasks = running.len(),
                        "no word from a control plane for too long: tasks of jobs are ended"
                    );
                }
                for task in running {
                    task.stop(Stop::LeaseEnded);
                }
                self.inner.lease.begun().await;
            }
        };
        tokio::join!(sweeping, ending);
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stopped = self.inner.stopped.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = work => {}
            }
        });
    }

    /// The agent ends; its next process goes on with what runs. An upgrade begins that process before this one is gone.
    pub fn stop(&self) {
        self.inner.stopped.cancel();
    }

    /// Removes containers of tasks that nobody knows any more, and logs that are old.
    async fn sweep(&self) {
        let logs = self.inner.logs.clone();
        match tokio::task::spawn_blocking(move || logs.prune()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "old logs of tasks could not be removed"),
            Err(error) => tracing::error!(%error, "removing old logs failed"),
        }
        if self.inner.docker.engine().await.is_err() {
            return;
        }
        match self.inner.docker.task_containers(&self.inner.owner).await {
            Ok(all) => {
                for (key, docker_id) in all {
                    let unknown = self.task(&key).is_none_or(|task| task.has_ended());
                    if unknown && let Err(error) = self.inner.docker.task_remove(&docker_id).await {
                        tracing::warn!(task = %key, %error, "the container of a task that has ended could not be removed");
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "containers of tasks could not be listed"),
        }
    }

    fn task(&self, key: &TaskKey) -> Option<Arc<Task>> {
        lock(&self.inner.state).tasks.get(key).cloned()
    }

    /// Takes what a control plane says, and answers at once.
    pub async fn call(&self, call: TasksCall) -> Result<TasksAnswer, AgentError> {
        let _one = self.inner.calls.lock().await;
        let leased = match &call.token {
            Some(token) => self.inner.lease.extend(token, Duration::from_millis(call.lease)),
            None => false,
        };
        self.settle(&call.acknowledge);
        if leased {
            self.accept(call.run).await?;
        }
        for key in &call.cancel {
            if let Some(task) = self.task(key) {
                task.stop(Stop::Cancelled);
            }
        }
        if !call.forget.is_empty() {
            let logs = self.inner.logs.clone();
            tokio::task::spawn_blocking(move || call.forget.iter().for_each(|job| logs.forget(job)));
        }
        let held = call.list.then(|| lock(&self.inner.state).tasks.keys().cloned().collect());
        Ok(TasksAnswer {
            instance: self.inner.instance.clone(),
            boot: self.inner.boot.clone(),
            token: self.inner.lease.token(),
            leased,
            held,
        })
    }

    /// Begins what is not known yet, once it is on disk that it was asked for.
    async fn accept(&self, run: Vec<RunTask>) -> Result<(), AgentError> {
        let fresh: Vec<RunTask> = {
            let state = lock(&self.inner.state);
            let mut seen = BTreeSet::new();
            let mut is_fresh = |r: &RunTask| !state.tasks.contains_key(&r.key) && seen.insert(r.key.clone());
            run.into_iter().filter(|r| is_fresh(r)).collect()
        };
        if fresh.is_empty() {
            return Ok(());
        }
        let accepted: Vec<Accepted> = fresh
            .iter()
            .map(|run| Accepted {
                key: run.key.clone(),
                cores: run.cores.clone(),
                timeout: run.timeout,
                boot: self.inner.boot.clone(),
            })
            .collect();
        let lines = accepted.iter().cloned().map(Line::Accepted).collect();
        self.inner.ledger.write(lines).await.map_err(|e| unkept(&e))?;
        for (run, accepted) in fresh.into_iter().zip(&accepted) {
            let task = Task::new(accepted);
            self.inner.docker.hub.hidden.hide(run.key.docker_name());
            {
                let mut state = lock(&self.inner.state);
                state.tasks.insert(run.key.clone(), task.clone());
                if !run.cores.is_empty() {
                    state.pinned.0.insert(run.key.clone(), run.cores.clone());
                    state.pinning += 1;
                }
            }
            let tasks = self.clone();
            self.spawn(async move { tasks.begin(task, run).await });
        }
        Ok(())
    }

    /// Forgets what the control plane has the result of.
    fn settle(&self, keys: &[TaskKey]) {
        let mut settled = Vec::new();
        {
            let mut state = lock(&self.inner.state);
            for key in keys {
                if state.tasks.get(key).is_some_and(|task| task.has_ended()) {
                    state.tasks.remove(key);
                    settled.push(Line::Settled { key: key.clone() });
                }
            }
            if !settled.is_empty() {
                state.news.retain(|(_, news)| match news {
                    TaskNews::Ended(result) => !keys.contains(&result.key),
                    TaskNews::Began { .. } => true,
                });
            }
        }
        if !settled.is_empty() {
            self.inner.ledger.note(settled);
        }
    }

    /// What happened since, as soon as something has.
    pub async fn news(&self, query: &TaskNewsQuery) -> TaskNewsPage {
        let after = match query.instance.as_deref() {
            Some(instance) if instance == self.inner.instance => query.after,
            Some(_) | None => 0,
        };
        let wait = Duration::from_millis(query.wait).min(WAIT_AT_MOST);
        let mut told = self.inner.told.subscribe();
        // Nothing in time is an answer, too.
        drop(tokio::time::timeout(wait, told.wait_for(|last| *last > after)).await);
        let mut state = lock(&self.inner.state);
        // Beginnings that were read are of no more use.
        state
            .news
            .retain(|(number, news)| *number > after || matches!(news, TaskNews::Ended(_)));
        let news: Vec<(u64, TaskNews)> = state.news.iter().filter(|(n, _)| *n > after).take(NEWS_AT_MOST).cloned().collect();
        TaskNewsPage {
            instance: self.inner.instance.clone(),
            last: news.last().map_or(after, |(number, _)| *number),
            news: news.into_iter().map(|(_, news)| news).collect(),
        }
    }

    /// The container of a task that is still there, or what was kept of its log.
    pub async fn log(&self, query: &TaskLogQuery) -> Result<TaskLog, AgentError> {
        if let Some(task) = self.task(&query.key)
            && !task.has_ended()
        {
            return Ok(match task.docker_id() {
                Some(docker_id) => TaskLog::Running(docker_id),
                None => TaskLog::Kept(Vec::new()),
            });
        }
        let (logs, key) = (self.inner.logs.clone(), query.key.clone());
        let read = tokio::task::spawn_blocking(move || logs.read(&key)).await;
        let mut lines = match read {
            Ok(Ok(lines)) => lines,
            Ok(Err(error)) => return Err(AgentError::new(Code::Internal, format!("The log could not be read: {error}."))),
            Err(error) => return Err(AgentError::new(Code::Internal, format!("The agent failed: {error}."))),
        };
        if let Some(tail) = query.tail {
            lines.drain(..lines.len().saturating_sub(tail as usize));
        }
        Ok(TaskLog::Kept(lines))
    }

    pub fn docker(&self) -> &Docker {
        &self.inner.docker
    }
}

/// Made by the first process, for those after it.
fn owner(folder: &Path) -> io::Result<String> {
    let path = folder.join("owner");
    match std::fs::read_to_string(&path) {
        Ok(owner) if !owner.is_empty() => return Ok(owner),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // Nobody takes it for an id of ours: it only has to be another one than that of any other agent.
    let fresh = nm_types::JobId::fresh(now()).to_string().replace("job_", "");
    let new = folder.join("owner.new");
    std::fs::write(&new, &fresh)?;
    std::fs::rename(new, path)?;
    Ok(fresh)
}

/// Where a task's log is.
pub enum TaskLog {
    /// Docker has it, under this id.
    Running(String),
    Kept(Vec<LogLine>),
}

/// An end that is not the program's own.
fn ended_without(key: &TaskKey, outcome: TaskOutcome, reason: impl Into<String>) -> TaskResult {
    TaskResult {
        key: key.clone(),
        outcome,
        exit_code: None,
        reason: Some(reason.into()),
        began: None,
        ended: Timestamp(now()),
    }
}
