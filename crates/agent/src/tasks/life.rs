//! One attempt at a task, from its beginning to its end.

use super::ledger::{Accepted, Line};
use super::logs::Tail;
use super::{Stop, Task, Tasks, ended_without, lock};
use crate::docker::client::DockerError;
use crate::docker::hub::now;
use crate::docker::task::{TaskRun, TaskSeen};
use nm_link::contract::{AgentError, AgentErrorCode as Code, RunTask, TaskKey, TaskNews, TaskResult};
use nm_types::Timestamp;
use nm_types::job::TaskOutcome;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Seconds between the stop signal and the kill, of a task that is cancelled or has run for too long.
const GRACE: u64 = 5;
/// Until the engine is asked again.
const AGAIN: Duration = Duration::from_secs(1);
/// Exit codes of programs that an engine ended with itself.
const TORN: [i64; 2] = [137, 255];

const LEASE_ENDED: &str = "the node had no word from the control plane for too long and ended it";

impl Tasks {
    /// Makes and starts it, and follows it to its end.
    pub(super) async fn begin(&self, task: Arc<Task>, run: RunTask) {
        let result = match self.start(&task, &run).await {
            Ok(docker_id) => self.follow(&task, docker_id, Some(now())).await,
            Err(result) => result,
        };
        self.end(&task, result).await;
    }

    /// Goes on with one that the agent's process before had.
    pub(super) async fn go_on(&self, task: Arc<Task>, accepted: Accepted) {
        let seen = self.look(&task.key).await;
        let key = &task.key;
        let rebooted = accepted.boot != self.inner.boot;
        let result = match seen {
            _ if rebooted => ended_without(key, TaskOutcome::NodeLost, "the node's machine was started again while it ran"),
            None => ended_without(key, TaskOutcome::NeverBegan, "the node's agent ended before it had begun it"),
            Some(seen) => {
                *lock(&task.docker_id) = Some(seen.docker_id.clone());
                let over = self.inner.lease.left().is_none();
                match seen.state {
                    TaskRun::Exited(code) => self.exited(&task, &seen, code, false),
                    TaskRun::Created | TaskRun::Running if over => {
                        task.stop(Stop::LeaseEnded);
                        self.follow(&task, seen.docker_id, seen.started.map(|t| t.0)).await
                    }
                    // It may be starting: to start it once more is the same as to have started it.
                    TaskRun::Created => match self.inner.docker.task_start(&seen.docker_id, None).await {
                        Ok(()) => self.follow(&task, seen.docker_id, None).await,
                        Err(error) => refused(key, &error),
                    },
                    TaskRun::Running => self.follow(&task, seen.docker_id, seen.started.map(|t| t.0)).await,
                }
            }
        };
        self.end(&task, result).await;
    }

    /// How its container is, as soon as the engine says.
    async fn look(&self, key: &TaskKey) -> Option<TaskSeen> {
        loop {
            if self.inner.docker.engine().await.is_ok() {
                match self.inner.docker.task_seen(key).await {
                    Ok(seen) => return seen,
                    Err(error) => tracing::warn!(task = %key, %error, "a task's container could not be looked at; trying again"),
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn start(&self, task: &Task, run: &RunTask) -> Result<String, TaskResult> {
        let docker = &self.inner.docker;
        let key = &task.key;
        let mut pulled = false;
        loop {
            let permit = docker.task_permit().await;
            self.may_begin(task)?;
            let (cpuset, pinning) = self.cpuset(task);
            match docker.task_create(run, &self.inner.owner, cpuset).await {
                Ok(Some(docker_id)) => {
                    *lock(&task.docker_id) = Some(docker_id.clone());
                    self.repin(task, pinning).await;
                    let may = self.may_begin(task);
                    let started = match may {
                        Ok(()) => docker.task_start(&docker_id, Some(run)).await.map_err(|e| refused(key, &e)),
                        Err(result) => Err(result),
                    };
                    drop(permit);
                    return started.map(|()| docker_id);
                }
                Ok(None) if !pulled => {
                    drop(permit);
                    self.pull(run).await.map_err(|e| refused(key, &e))?;
                    pulled = true;
                }
                Ok(None) => {
                    let text = format!("the image `{}` was pulled and is gone again", run.spec.image);
                    return Err(ended_without(key, TaskOutcome::NotStarted, text));
                }
                Err(error) => return Err(refused(key, &error)),
            }
        }
    }

    /// Whether it is still wanted, and may run.
    fn may_begin(&self, task: &Task) -> Result<(), TaskResult> {
        let stopped = *task.stop.borrow();
        match stopped {
            Some(Stop::Cancelled) => Err(ended_without(&task.key, TaskOutcome::Cancelled, "it was cancelled before it began")),
            Some(Stop::LeaseEnded | Stop::Timeout) => Err(ended_without(&task.key, TaskOutcome::LeaseEnded, LEASE_ENDED)),
            None if self.inner.lease.left().is_none() => Err(ended_without(&task.key, TaskOutcome::LeaseEnded, LEASE_ENDED)),
            None => Ok(()),
        }
    }

    /// One pull of an image serves all who wait for it.
    async fn pull(&self, run: &RunTask) -> Result<(), AgentError> {
        let name = run.spec.image.with_tag();
        let turn = {
            let mut pulls = lock(&self.inner.pulls);
            pulls.retain(|_, turn| turn.strong_count() > 0);
            match pulls.get(&name).and_then(std::sync::Weak::upgrade) {
                Some(turn) => turn,
                None => {
                    let turn = Arc::new(tokio::sync::Mutex::new(()));
                    pulls.insert(name.clone(), Arc::downgrade(&turn));
                    turn
                }
            }
        };
        let first = turn.try_lock().is_ok();
        let _turn = turn.lock().await;
        // Whoever waited finds it there, or says for himself why not.
        if !first && self.inner.docker.has_image(&name).await {
            return Ok(());
        }
        self.inner.docker.task_pull(run).await
    }

    /// The cores a task is made with, and at which state of things.
    fn cpuset(&self, task: &Task) -> (Option<String>, u64) {
        let state = lock(&self.inner.state);
        let cpuset = match task.cores.as_slice() {
            [] if state.pinned.is_empty() => None,
            [] => Some(self.inner.cores.rest(self.count(), &state.pinned)),
            own => Some(self.inner.cores.of(own)),
        };
        (cpuset.filter(|set| !set.is_empty()), state.pinning)
    }

    fn count(&self) -> u32 {
        match &*self.inner.docker.hub.engine().borrow() {
            crate::docker::hub::Engine::Up(facts) => facts.cpus,
            crate::docker::hub::Engine::Connecting | crate::docker::hub::Engine::Down(_) => 0,
        }
    }

    /// Before a task with cores of its own starts, all others leave them; one that shares what is left is brought up to what has
    /// changed since it was made.
    async fn repin(&self, task: &Task, since: u64) {
        if !task.cores.is_empty() {
            return self.repin_all(Some(&task.key)).await;
        }
        let changed = lock(&self.inner.state).pinning != since;
        if changed {
            self.repin_all(None).await;
        }
    }

    async fn repin_all(&self, but: Option<&TaskKey>) {
        let _one = self.inner.repinning.lock().await;
        let (cpuset, sharing): (String, Vec<Arc<Task>>) = {
            let state = lock(&self.inner.state);
            let sharing = state
                .tasks
                .values()
                .filter(|t| t.cores.is_empty() && !t.has_ended() && Some(&t.key) != but);
            (self.inner.cores.rest(self.count(), &state.pinned), sharing.cloned().collect())
        };
        if cpuset.is_empty() {
            return;
        }
        for task in sharing {
            if let Some(docker_id) = task.docker_id()
                && let Err(error) = self.inner.docker.task_cores(&docker_id, cpuset.clone()).await
            {
                tracing::warn!(task = %task.key, %error, "a task could not be moved to other cores");
            }
        }
    }

    /// Waits for its end, and ends it when it is to. `began` is when it did, where it has just been seen to.
    async fn follow(&self, task: &Arc<Task>, docker_id: String, began: Option<i64>) -> TaskResult {
        let docker = &self.inner.docker;
        let began = began.unwrap_or_else(now);
        {
            let mut state = lock(&self.inner.state);
            let news = TaskNews::Began {
                key: task.key.clone(),
                at: Timestamp(began),
            };
            self.tell(&mut state, news);
        }
        if let Some(seconds) = task.timeout {
            let left = began.saturating_add(seconds.saturating_mul(1000)).saturating_sub(now());
            let due = Instant::now() + Duration::from_millis(u64::try_from(left).unwrap_or(0));
            let task = Arc::downgrade(task);
            tokio::spawn(async move {
                tokio::time::sleep_until(due).await;
                if let Some(task) = task.upgrade() {
                    task.stop(Stop::Timeout);
                }
            });
        }
        let mut stop = task.stop.subscribe();
        let mut engine_broke = false;
        loop {
            let ended = async {
                tokio::select! {
                    ended = docker.task_wait(&docker_id) => Some(ended),
                    _ = stop.wait_for(Option::is_some) => None,
                }
            };
            match ended.await {
                Some(Ok(0)) if !engine_broke => {
                    return TaskResult {
                        key: task.key.clone(),
                        outcome: TaskOutcome::Succeeded,
                        exit_code: Some(0),
                        reason: None,
                        began: Some(Timestamp(began)),
                        ended: Timestamp(now()),
                    };
                }
                Some(Ok(_)) => {}
                Some(Err(DockerError::Refused { status: 404, .. })) => {
                    return ended_without(&task.key, TaskOutcome::NodeLost, "somebody removed its container while it ran");
                }
                Some(Err(error)) => {
                    tracing::warn!(task = %task.key, %error, "a task could not be waited for; looking again");
                    engine_broke = true;
                    tokio::time::sleep(AGAIN).await;
                }
                None => self.bring_to_end(task, &docker_id).await,
            }
            let Some(seen) = self.look(&task.key).await else {
                return ended_without(&task.key, TaskOutcome::NodeLost, "somebody removed its container while it ran");
            };
            match seen.state {
                TaskRun::Exited(code) => {
                    return TaskResult {
                        began: Some(Timestamp(began)),
                        ..self.exited(task, &seen, code, engine_broke)
                    };
                }
                TaskRun::Created if task.stop.borrow().is_some() => {
                    return TaskResult {
                        began: None,
                        ..self.exited(task, &seen, 0, false)
                    };
                }
                TaskRun::Created | TaskRun::Running => {}
            }
        }
    }

    /// Ends it, however long the engine takes.
    async fn bring_to_end(&self, task: &Task, docker_id: &str) {
        let why = *task.stop.borrow();
        let grace = if why == Some(Stop::LeaseEnded) { 0 } else { GRACE };
        let ending = self.inner.docker.task_end(docker_id, grace);
        let mut stop = task.stop.subscribe();
        let no_grace = async {
            let over = stop.wait_for(|why| *why == Some(Stop::LeaseEnded)).await.is_ok();
            if !over {
                std::future::pending::<()>().await;
            }
        };
        let ended = tokio::select! {
            ended = ending => Some(ended),
            () = no_grace, if grace > 0 => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            None => self.inner.docker.task_end(docker_id, 0).await,
        };
        if let Err(error) = ended {
            tracing::warn!(task = %task.key, %error, "a task could not be ended; trying again");
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// What an exit stands for.
    fn exited(&self, task: &Task, seen: &TaskSeen, code: i64, engine_broke: bool) -> TaskResult {
        let stopped = *task.stop.borrow();
        let (outcome, reason) = match stopped {
            // It had done what it was to before it was killed.
            None | Some(Stop::LeaseEnded) if seen.state == TaskRun::Exited(0) => (TaskOutcome::Succeeded, None),
            Some(Stop::Cancelled) => (TaskOutcome::Cancelled, Some("it was cancelled".to_owned())),
            Some(Stop::Timeout) => {
                let seconds = task.timeout.unwrap_or_default();
                (TaskOutcome::Timeout, Some(format!("it ran longer than {seconds} s")))
            }
            Some(Stop::LeaseEnded) => (TaskOutcome::LeaseEnded, Some(LEASE_ENDED.to_owned())),
            None if seen.oom => (
                TaskOutcome::OutOfMemory,
                Some("it wanted more memory than it may have: give its job more `memory`".to_owned()),
            ),
            None if engine_broke && TORN.contains(&code) => (
                TaskOutcome::NodeLost,
                Some("the node's Docker engine ended while it ran".to_owned()),
            ),
            None => (TaskOutcome::ExitCode, Some(format!("its program ended with {code}"))),
        };
        TaskResult {
            key: task.key.clone(),
            outcome,
            exit_code: matches!(seen.state, TaskRun::Exited(_)).then_some(code),
            reason,
            began: seen.started,
            ended: seen.finished.unwrap_or(Timestamp(now())),
        }
    }

    /// Keeps its log and its result, tells of it, and takes its container away.
    async fn end(&self, task: &Arc<Task>, result: TaskResult) {
        if let Some(docker_id) = task.docker_id() {
            self.keep_log(&task.key, &docker_id).await;
        }
        let kept = self.inner.ledger.write(vec![Line::Ended(result.clone())]).await;
        let unpinned = {
            let mut state = lock(&self.inner.state);
            *lock(&task.ended) = true;
            self.tell(&mut state, TaskNews::Ended(result));
            state.pinned.0.remove(&task.key).is_some() && {
                state.pinning += 1;
                true
            }
        };
        if unpinned {
            self.repin_all(None).await;
        }
        match kept {
            Ok(()) => self.clear(&task.key).await,
            // Its container stays, and says the same to the next process; the sweep takes it away later.
            Err(error) => tracing::warn!(task = %task.key, %error, "a task's result could not be written"),
        }
    }

    /// Takes the container of one that has ended away.
    pub(super) async fn clear(&self, key: &TaskKey) {
        let docker_id = self.task(key).and_then(|task| task.docker_id());
        let name = docker_id.unwrap_or_else(|| key.docker_name());
        if let Err(error) = self.inner.docker.task_remove(&name).await {
            tracing::warn!(task = %key, %error, "the container of a task that has ended could not be removed; it is tried again within the hour");
        }
    }

    async fn keep_log(&self, key: &TaskKey, docker_id: &str) {
        let mut tail = Tail::default();
        let read = async {
            let mut reader = self.inner.docker.task_log(docker_id, false).await?;
            while let Some(lines) = reader.next().await? {
                lines.into_iter().for_each(|line| tail.push(line));
            }
            Ok::<_, DockerError>(())
        };
        if let Err(error) = read.await {
            tracing::warn!(task = %key, %error, "a task's log could not be read");
        }
        let (logs, key, lines) = (self.inner.logs.clone(), key.clone(), tail.into_lines());
        if lines.is_empty() {
            return;
        }
        let kept = tokio::task::spawn_blocking(move || logs.keep(&key, &lines)).await;
        if let Ok(Err(error)) = kept {
            tracing::warn!(%error, "a task's log could not be written");
        }
    }
}

/// Why it could not be begun.
fn refused(key: &TaskKey, error: &AgentError) -> TaskResult {
    let outcome = match error.code {
        // It is no fault of the task's.
        Code::DockerUnavailable | Code::Timeout | Code::Internal => TaskOutcome::NeverBegan,
        Code::ContainerNotFound
        | Code::ImageNotFound
        | Code::NetworkNotFound
        | Code::VolumeNotFound
        | Code::PathNotFound
        | Code::ImageAccessDenied
        | Code::PullFailed
        | Code::NameTaken
        | Code::PortInUse
        | Code::InsufficientResources
        | Code::InUse
        | Code::NotRunning
        | Code::Paused
        | Code::Forbidden
        | Code::CommandFailed
        | Code::Invalid
        | Code::Stale
        | Code::DiskFull
        | Code::Cancelled => TaskOutcome::NotStarted,
    };
    ended_without(key, outcome, error.message.clone())
}
