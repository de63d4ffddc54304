//! A job on a node, followed to its outcome. The agent knows it by its key: a link that breaks, and a crash of ours, are answered by
//! asking again, which joins the job or gets the outcome that was kept.

use super::Backups;
use super::reach::{Ask, Reached};
use crate::api::error::{ApiError, ApiResult};
use crate::service::fleet::{Agent, CallError, is_passing, offline};
use crate::service::operations::Running;
use futures_util::StreamExt;
use http::{Method, StatusCode};
use nm_link::contract::{CancelJob, Prepare, RunJob, path};
use nm_types::NodeId;
use nm_types::backup::job::{Job, JobError, JobErrorCode, JobEvent, JobKey, JobProgress, Outcome, Task};
use nm_types::{OperationId, Timestamp};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Jobs of one node at once; others wait, in order.
const AT_ONCE: usize = 2;
/// How long a node that is to begin a job may take to be there.
const COME: Duration = Duration::from_secs(5);
/// How long a node may be gone in the middle of one. What it made all the same is met by the next backup.
const BACK: Duration = Duration::from_secs(900);
/// For a job that somebody waits for at a screen.
const SHORT: Duration = Duration::from_secs(25);

pub(super) fn key(operation: &OperationId, step: &str) -> ApiResult<JobKey> {
    JobKey::new(operation, step).ok_or_else(ApiError::internal)
}

impl Backups {
    /// A place among the jobs of a node, until dropped.
    pub(super) async fn place(&self, node: &NodeId, running: &Running) -> ApiResult<OwnedSemaphorePermit> {
        let places = {
            let mut all = self.places.lock().unwrap_or_else(|e| e.into_inner());
            all.entry(node.clone())
                .or_insert_with(|| std::sync::Arc::new(Semaphore::new(AT_ONCE)))
                .clone()
        };
        if places.available_permits() == 0 {
            running.step("wait");
        }
        tokio::select! {
            place = places.acquire_owned() => place.map_err(|_| ApiError::internal()),
            () = running.cancelled().cancelled() => Err(cancelled()),
        }
    }

    /// Waits for a node that may be on its way back: for long where something may be under way on it.
    pub(super) async fn arrived(&self, node: &NodeId, running: &Running, asked: bool) -> ApiResult<()> {
        let arrived = tokio::time::timeout(if asked { BACK } else { COME }, self.fleet.connected(node));
        tokio::select! {
            arrived = arrived => arrived.map(drop).map_err(|_| offline(node)),
            () = running.cancelled().cancelled(), if !asked => Err(cancelled()),
        }
    }

    pub(super) fn ask(&self, repository: Reached, key: JobKey, prepare: Prepare, task: Task) -> Ask {
        let Reached { access, far } = repository;
        let run = RunJob {
            prepare,
            job: Job {
                key,
                repository: access,
                allow: self.guard.allowed(),
                task,
            },
        };
        Ask {
            run,
            far: far.into_iter().map(|far| (false, far)).collect(),
        }
    }

    /// Runs a job, or goes on with the one that runs, until it has ended. `asked` says whether it may have been asked for before: then
    /// a cancelled operation ends only once the node was told, so that no job goes on that nobody knows of.
    pub(super) async fn job(
        &self,
        node: &NodeId,
        running: &Running,
        asking: &Ask,
        asked: bool,
        on: impl Fn(JobProgress),
    ) -> ApiResult<Outcome> {
        if asking.far.is_empty() {
            return self.followed(node, running, &asking.run, asked, on).await;
        }
        if !asked {
            // Before anything is held still for a backup that could go nowhere.
            tokio::select! {
                arrived = self.far_arrived(asking, COME) => arrived?,
                () = running.cancelled().cancelled() => return Err(cancelled()),
            }
        }
        tokio::select! {
            ended = self.followed(node, running, &asking.run, asked, on) => ended,
            unreached = self.joined(node, asking) => {
                // Its worker would wait for an answer that never comes.
                if let Ok(agent) = self.fleet.agent(node)
                    && let Err(error) = end(&agent, &asking.run).await
                {
                    tracing::warn!(node.id = %node, ?error, "a backup job whose repository can't be reached could not be ended: it ends by itself");
                }
                Err(unreached)
            }
        }
    }

    async fn followed(
        &self,
        node: &NodeId,
        running: &Running,
        ask: &RunJob,
        mut asked: bool,
        on: impl Fn(JobProgress),
    ) -> ApiResult<Outcome> {
        loop {
            let agent = tokio::select! {
                agent = self.fleet.connected(node) => agent,
                () = running.cancelled().cancelled(), if !asked => return Err(cancelled()),
                () = tokio::time::sleep(if asked { BACK } else { COME }) => return Err(offline(node)),
            };
            let attempt = if running.cancelled().is_cancelled() {
                // Asking for the job again could begin it anew.
                end(&agent, ask).await.map(|()| None)
            } else {
                asked = true;
                let mut following = std::pin::pin!(follow(&agent, running, ask, &on));
                tokio::select! {
                    ended = &mut following => ended.map(Some),
                    () = running.cancelled().cancelled() => match end(&agent, ask).await {
                        // It says itself how it ended: it may have been done a moment before.
                        Ok(()) => following.await.map(Some),
                        Err(error) => Err(error),
                    },
                }
            };
            match attempt {
                Ok(Some(ended)) => return ended.map_err(|error| failed(&error)),
                Ok(None) => return Err(cancelled()),
                Err(CallError::Link { error, .. }) if is_passing(&error) => {
                    running.log(format!("{}; what was begun goes on there, and is asked after again", error.message));
                    agent.before_asking_again().await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// A job that changes nothing, for somebody who waits.
    pub(super) async fn look(&self, node: &NodeId, repository: Reached, step: &str, task: Task) -> ApiResult<Outcome> {
        let now: Timestamp = self.clock.now();
        let asking = self.ask(repository, key(&OperationId::fresh(now.0), step)?, Prepare::default(), task);
        self.alone(node, &asking, SHORT).await
    }

    /// A job of no operation. Where it does not end in time it is ended.
    pub(super) async fn alone(&self, node: &NodeId, asking: &Ask, within: Duration) -> ApiResult<Outcome> {
        let agent = self.fleet.agent(node)?;
        self.far_arrived(asking, Duration::ZERO).await?;
        let ask = &asking.run;
        let body = serde_json::to_vec(ask).unwrap_or_default();
        let looking = async {
            let mut lines = std::pin::pin!(agent.lines::<JobEvent>(Method::POST, path::BACKUP_RUN, Some(body)).await?);
            while let Some(line) = lines.next().await {
                match line? {
                    JobEvent::Done { outcome } => return Ok(Ok(outcome)),
                    JobEvent::Failed { error } => return Ok(Err(error)),
                    JobEvent::Step { .. } | JobEvent::SourcesRead | JobEvent::Progress(_) | JobEvent::Problem(_) | JobEvent::Log { .. } => {
                    }
                }
            }
            Err::<Result<Outcome, JobError>, CallError>(cut())
        };
        let looked = async {
            tokio::select! {
                ended = looking => ended,
                unreached = self.joined(node, asking) => {
                    drop(end(&agent, ask).await);
                    Err(CallError::Link { sent: true, error: unreached })
                }
            }
        };
        match tokio::time::timeout(within, looked).await {
            Ok(Ok(ended)) => ended.map_err(|error| failed(&error)),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => {
                // Nobody waits for it any more.
                drop(end(&agent, ask).await);
                let text = format!(
                    "node {node} did not end its work on the repository within {} seconds: retry in a moment",
                    within.as_secs()
                );
                Err(ApiError::unavailable("node_timeout", text))
            }
        }
    }
}

async fn end(agent: &Agent, ask: &RunJob) -> Result<(), CallError> {
    let key = ask.job.key.clone();
    let _ended: serde_json::Value = agent.post(path::BACKUP_CANCEL, &CancelJob { key }, Duration::ZERO).await?;
    Ok(())
}

pub(super) fn cancelled() -> ApiError {
    ApiError::conflict("cancelled", "it was cancelled before it was done")
}

/// Lines that end without an end say nothing of the job.
fn cut() -> CallError {
    CallError::Link {
        sent: true,
        error: ApiError::unavailable("node_disconnected", "the node's answer was cut"),
    }
}

async fn follow(agent: &Agent, running: &Running, ask: &RunJob, on: &impl Fn(JobProgress)) -> Result<Result<Outcome, JobError>, CallError> {
    // Contract types always write as JSON.
    let body = serde_json::to_vec(ask).unwrap_or_default();
    let mut lines = std::pin::pin!(agent.lines::<JobEvent>(Method::POST, path::BACKUP_RUN, Some(body)).await?);
    while let Some(line) = lines.next().await {
        match line? {
            JobEvent::Step { name } => running.step(&name),
            JobEvent::SourcesRead => running.log("everything was read; what was held still goes on"),
            JobEvent::Progress(progress) => {
                running.worked(&progress);
                on(progress);
            }
            JobEvent::Problem(problem) => running.log(format!("{}: {}", problem.path, problem.error)),
            JobEvent::Log { line } => running.log(line),
            JobEvent::Done { outcome } => return Ok(Ok(outcome)),
            JobEvent::Failed { error } => return Ok(Err(error)),
        }
    }
    Err(cut())
}

/// How a job's failure is told.
pub fn failed(error: &JobError) -> ApiError {
    let (status, code) = match error.code {
        JobErrorCode::RepositoryMissing => (StatusCode::CONFLICT, "repository_missing"),
        JobErrorCode::RepositoryForeign => (StatusCode::CONFLICT, "repository_foreign"),
        JobErrorCode::WrongPassword => (StatusCode::CONFLICT, "wrong_password"),
        JobErrorCode::Locked => (StatusCode::CONFLICT, "repository_locked"),
        JobErrorCode::Unreachable => (StatusCode::BAD_GATEWAY, "destination_unreachable"),
        JobErrorCode::NotWritable => (StatusCode::CONFLICT, "destination_not_writable"),
        JobErrorCode::DiskFull => (StatusCode::INSUFFICIENT_STORAGE, "disk_full"),
        JobErrorCode::Damaged => (StatusCode::CONFLICT, "repository_damaged"),
        JobErrorCode::SnapshotMissing => (StatusCode::NOT_FOUND, "snapshot_missing"),
        JobErrorCode::PathMissing => (StatusCode::NOT_FOUND, "path_missing"),
        JobErrorCode::Forbidden => (StatusCode::FORBIDDEN, "path_forbidden"),
        JobErrorCode::StreamFailed => (StatusCode::CONFLICT, "dump_failed"),
        JobErrorCode::SourceFailed => (StatusCode::CONFLICT, "source_failed"),
        JobErrorCode::Disagrees => (StatusCode::CONFLICT, "catalogue_disagrees"),
        JobErrorCode::Cancelled => (StatusCode::CONFLICT, "cancelled"),
        JobErrorCode::Died => (StatusCode::BAD_GATEWAY, "worker_died"),
        JobErrorCode::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
    };
    ApiError::new(status, code, error.message.clone())
}
