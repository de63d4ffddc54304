//! Containers of tasks: made, started, waited for, read and removed. Each may be asked for twice.

use super::Docker;
use super::client::{Call, DockerError, segment};
use super::create::{Refusal, body, within_node};
use super::logs::LogReader;
use super::wire::{Inspect, Listed, LogConfig, UpdateBody};
use crate::progress::Reporter;
use bytes::Bytes;
use futures_util::Stream;
use nm_link::contract::{AgentError, AgentErrorCode as Code, CreateContainer, RunTask, TaskKey, labels};
use nm_types::container::MountSource;
use nm_types::{ContainerId, OperationId, Timestamp};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::{SemaphorePermit, mpsc};

/// A task may run for a month; who waits longer asks again.
const WAIT: Duration = Duration::from_secs(31 * 24 * 3600);
const KILL: Duration = Duration::from_secs(30);
/// Docker keeps so much of what a task writes, twice: the file it writes to and the one before.
const LOG_FILE: &str = "1m";

/// How a task's container is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskSeen {
    pub docker_id: String,
    pub state: TaskRun,
    pub oom: bool,
    pub started: Option<Timestamp>,
    pub finished: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskRun {
    Created,
    Running,
    Exited(i64),
}

/// What Docker's wait answers with.
#[derive(serde::Deserialize)]
struct Waited {
    #[serde(rename = "StatusCode")]
    status_code: i64,
}

impl Docker {
    /// Leave to make and start a task's container; given in the order of asking, among all other changes.
    pub async fn task_permit(&self) -> SemaphorePermit<'_> {
        self.permit().await
    }

    /// Makes the container; the image has to be there. `None` where it is not.
    pub async fn task_create(&self, run: &RunTask, owner: &str, cpuset: Option<String>) -> Result<Option<String>, AgentError> {
        if let Some(problem) = run.spec.overlong().into_iter().chain(run.spec.problems()).next() {
            return Err(AgentError::new(Code::Invalid, format!("{}: {}.", problem.field, problem.message)).field(problem.field));
        }
        let facts = self.engine().await?;
        within_node(&run.spec, &facts)?;
        let judged = self.judged(&run.spec, &facts).await?;
        // Their labels are taken away again: it is none of the containers that people see.
        let shape = CreateContainer {
            operation: OperationId::fresh(0),
            id: ContainerId::fresh(0),
            generation: 0,
            spec: run.spec.clone(),
            start: true,
            registry: None,
        };
        let mut body = body(&shape, judged);
        body.labels = BTreeMap::from([
            (labels::TASK.to_owned(), run.key.to_string()),
            (labels::TASKS_OF.to_owned(), owner.to_owned()),
        ]);
        body.host_config.cpuset_cpus = cpuset;
        // What wants more memory than it may have is told so, and does not crawl.
        body.host_config.memory_swap = body.host_config.memory.and_then(|m| i64::try_from(m).ok());
        body.host_config.log_config = Some(LogConfig {
            kind: "json-file",
            config: BTreeMap::from([("max-size", LOG_FILE), ("max-file", "2")]),
        });
        match self.make(&run.key.docker_name(), &body).await {
            Ok(id) => Ok(Some(id)),
            Err(Refusal::NoImage) => Ok(None),
            Err(Refusal::NameHeld(_)) => match self.task_seen(&run.key).await.map_err(|e| self.explain(e))? {
                Some(seen) => Ok(Some(seen.docker_id)),
                None => Err(AgentError::new(
                    Code::NameTaken,
                    format!("Another container is called `{}`: remove it.", run.key.docker_name()),
                )),
            },
            Err(Refusal::Other(error)) => Err(error),
        }
    }

    /// Pulls a task's image.
    pub async fn task_pull(&self, run: &RunTask) -> Result<(), AgentError> {
        // Nobody listens to the steps.
        let report = Reporter::<()>::new(mpsc::channel(1).0);
        self.pull(&run.spec.image, run.registry.as_ref(), &report).await
    }

    pub async fn has_image(&self, name: &str) -> bool {
        let call = Call::get("describe an image", format!("/images/{}/json", segment(name)));
        self.client.done(call).await.is_ok()
    }

    /// Starts it; one that runs is fine.
    pub async fn task_start(&self, docker_id: &str, run: Option<&RunTask>) -> Result<(), AgentError> {
        if let Some(run) = run {
            let volumes = run.spec.volumes.iter().filter_map(|mount| match &mount.host {
                Some(MountSource::Volume(name)) => Some(name.as_str()),
                Some(MountSource::Path(_)) | None => None,
            });
            self.none_replaced(volumes)?;
        }
        self.start_now(docker_id, Some(&[])).await
    }

    /// Its exit code, once it has ended.
    pub async fn task_wait(&self, docker_id: &str) -> Result<i64, DockerError> {
        let call = Call::post("wait for a task's end", format!("/containers/{docker_id}/wait")).deadline(WAIT);
        let waited: Waited = self.client.json(call).await?;
        Ok(waited.status_code)
    }

    /// How its container is; `None` where there is none that is marked as this attempt's.
    pub async fn task_seen(&self, key: &TaskKey) -> Result<Option<TaskSeen>, DockerError> {
        let call = Call::get("describe a task's container", format!("/containers/{}/json", key.docker_name()));
        let doc: Inspect = match self.client.json(call).await {
            Ok(doc) => doc,
            Err(DockerError::Refused { status: 404, .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        if doc.config.labels.get(labels::TASK) != Some(&key.to_string()) {
            return Ok(None);
        }
        let state = match doc.state.status.as_str() {
            "created" => TaskRun::Created,
            "exited" | "dead" => TaskRun::Exited(doc.state.exit_code),
            _ => TaskRun::Running,
        };
        Ok(Some(TaskSeen {
            oom: doc.state.oom_killed || self.hub.hidden.had_oom(&doc.id),
            docker_id: doc.id,
            state,
            started: Timestamp::parse(&doc.state.started_at).filter(|t| t.0 > 0),
            finished: Timestamp::parse(&doc.state.finished_at).filter(|t| t.0 > 0),
        }))
    }

    /// Asks it to end, and ends it after so many seconds; at once with 0. One that has ended is fine.
    pub async fn task_end(&self, docker_id: &str, grace: u64) -> Result<(), DockerError> {
        let call = match grace {
            0 => Call::post("end a task", format!("/containers/{docker_id}/kill")).query("signal", "SIGKILL"),
            grace => Call::post("end a task", format!("/containers/{docker_id}/stop")).query("t", grace.to_string()),
        };
        match self.client.done(call.deadline(KILL + Duration::from_secs(grace))).await {
            Err(DockerError::Refused { status: 404 | 409, .. }) => Ok(()),
            other => other,
        }
    }

    /// Removes it with its anonymous volumes, also when it runs.
    pub async fn task_remove(&self, docker_id: &str) -> Result<(), DockerError> {
        let call = Call::delete("remove a task's container", format!("/containers/{docker_id}"))
            .flag("force", true)
            .flag("v", true)
            .deadline(Duration::from_secs(120));
        match self.change(call).await {
            Err(DockerError::Refused { status: 404 | 409, .. }) => Ok(()),
            other => other,
        }
    }

    /// Gives a running task other cores.
    pub async fn task_cores(&self, docker_id: &str, cpuset: String) -> Result<(), DockerError> {
        let body = UpdateBody {
            cpuset_cpus: Some(cpuset),
            ..UpdateBody::default()
        };
        let call = Call::post("change a task's cores", format!("/containers/{docker_id}/update")).json(&body)?;
        match self.client.done(call).await {
            // It has ended meanwhile.
            Err(DockerError::Refused { status: 404 | 409, .. }) => Ok(()),
            other => other,
        }
    }

    /// What it writes, with the moments.
    pub async fn task_log(
        &self,
        docker_id: &str,
        follow: bool,
    ) -> Result<LogReader<impl Stream<Item = Result<Bytes, DockerError>> + Send + Unpin + use<>>, DockerError> {
        let call = Call::get("give a task's log", format!("/containers/{docker_id}/logs"))
            .query("timestamps", "1")
            .flag("stdout", true)
            .flag("stderr", true)
            .flag("follow", follow);
        Ok(LogReader::new(self.client.stream(call).await?, follow))
    }

    /// All containers that are marked as tasks of this agent and are called so.
    pub async fn task_containers(&self, owner: &str) -> Result<Vec<(TaskKey, String)>, DockerError> {
        let filters = serde_json::json!({ "label": [labels::TASK, format!("{}={owner}", labels::TASKS_OF)] }).to_string();
        let call = Call::get("list tasks", "/containers/json")
            .flag("all", true)
            .query("filters", filters);
        let listed: Vec<Listed> = self.client.json(call).await?;
        let key = |names: &[String]| names.iter().find_map(|name| TaskKey::of_docker_name(name));
        Ok(listed.into_iter().filter_map(|c| Some((key(&c.names)?, c.id))).collect())
    }
}
