//! Jobs and tasks as the API shows them.

use super::Jobs;
use super::rows::{Job, TaskRecord, read_task};
use crate::api::error::{ApiError, ApiResult};
use crate::service::fleet::{Agent, CallError, with_query};
use futures_util::{Stream, StreamExt};
use http::Method;
use nm_link::contract::{TaskKey, TaskLogQuery, path};
use nm_types::JobId;
use nm_types::container::LogLine;
use nm_types::job::{JobState, JobView, TaskState, TaskView};
use std::collections::HashMap;
use std::pin::Pin;

/// Which jobs of a cluster are listed.
#[derive(Debug, Default)]
pub struct JobFilter {
    pub state: Option<JobState>,
}

/// Lines of a log as they come.
pub type LogLines = Pin<Box<dyn Stream<Item = Result<LogLine, CallError>> + Send>>;

impl Jobs {
    pub fn list(&self, cluster: &str, filter: &JobFilter) -> ApiResult<Vec<JobView>> {
        let cluster = self.clusters.compute(cluster)?;
        let table = self.read();
        let jobs = table.of_cluster(&cluster.id);
        let shown = jobs.filter(|job| filter.state.is_none_or(|state| job.status.state() == state));
        Ok(shown.map(|job| self.view(job)).collect())
    }

    /// A job, and the revision that its ETag names.
    pub fn get(&self, cluster: &str, key: &str) -> ApiResult<(JobView, i64)> {
        self.find(cluster, key, |job| (self.view(job), job.revision))
    }

    /// How many jobs there are in each state, and tasks that wait and run.
    pub fn census(&self) -> (HashMap<JobState, u64>, u64, u64) {
        let table = self.read();
        let mut states: HashMap<JobState, u64> = HashMap::new();
        let (mut queued, mut running) = (0, 0);
        for job in table.jobs.values() {
            *states.entry(job.status.state()).or_default() += 1;
            if !job.has_ended() {
                queued += u64::from(job.status.counts.queued);
                running += u64::from(job.status.counts.running);
            }
        }
        (states, queued, running)
    }

    fn view(&self, job: &Job) -> JobView {
        let (spec, status) = (&job.spec, &job.status);
        let total = f64::from(status.counts.total().max(1));
        JobView {
            id: job.id.clone(),
            cluster_id: job.cluster.clone(),
            name: spec.name.clone(),
            state: status.state(),
            reason: status.reason.clone().or_else(|| self.waits_for(job)),
            counts: status.counts,
            progress: (f64::from(status.counts.ended()) * 1000.0 / total).round() / 10.0,
            attempts: status.attempts,
            image: spec.image.clone(),
            command: spec.command.clone(),
            // Masked also for those who may see secrets elsewhere: this is no place to read them from.
            environment: job.environment.masked(),
            cpu: spec.cpu,
            memory: spec.memory.clone(),
            array: spec.array.clone(),
            retries: spec.retries(),
            timeout: spec.timeout.map(|t| t.get()),
            priority: spec.priority(),
            depends_on: spec.depends_on.clone(),
            volumes: spec.volumes.clone(),
            created: job.created,
            started: status.started,
            finished: status.finished,
        }
    }

    /// What keeps a job from going on, where that is more than that others are before it.
    fn waits_for(&self, job: &Job) -> Option<String> {
        match job.status.state() {
            JobState::Waiting => Some("jobs that it depends on have not succeeded yet".into()),
            JobState::Queued | JobState::Running if job.status.counts.queued > 0 => {
                let nodes = self.clusters.nodes_of(&job.cluster)?;
                let need = job.need();
                let rooms = self.nodes.candidates();
                let fits = |node: &nm_types::NodeId| {
                    let room = rooms.iter().find(|c| c.node == *node);
                    room.and_then(|c| c.capacity)
                        .is_none_or(|of| need.cpu <= of.cpu && need.memory <= of.memory)
                };
                let large = !nodes.iter().any(fits);
                large.then(|| "no node of the cluster is large enough for one of its tasks".into())
            }
            _ => None,
        }
    }

    /// The tasks of a job, or those in one state, in order.
    pub async fn tasks(&self, cluster: &str, key: &str, state: Option<TaskState>) -> ApiResult<Vec<TaskView>> {
        let (id, size, ended, tasks) = self.find(cluster, key, |job| {
            (job.id.clone(), job.spec.size(), job.has_ended(), job.tasks.clone())
        })?;
        let tasks = if ended { self.kept_tasks(&id, size).await? } else { tasks };
        let numbered = tasks.into_iter().zip(0..);
        let shown = numbered.filter(|(task, _)| state.is_none_or(|state| task.state == state));
        Ok(shown.map(|(task, index)| task_view(index, task)).collect())
    }

    /// Those of a job that has ended; what never had a row was cancelled.
    async fn kept_tasks(&self, id: &JobId, size: u32) -> ApiResult<Vec<TaskRecord>> {
        let never = TaskRecord {
            state: TaskState::Cancelled,
            ..TaskRecord::default()
        };
        let mut tasks = vec![never; size as usize];
        for kept in self.store.job_tasks(id.as_str(), 0, size).await? {
            if let Some(task) = usize::try_from(kept.number).ok().and_then(|n| tasks.get_mut(n)) {
                *task = read_task(&kept.record)?;
            }
        }
        Ok(tasks)
    }

    /// What a task's last attempt wrote, from the node that has it. Nothing of one that was never given to a node.
    pub async fn log(&self, cluster: &str, key: &str, index: u32, tail: Option<u32>, follow: bool) -> ApiResult<LogLines> {
        let (id, size, ended, task) = self.find(cluster, key, |job| {
            let task = job.tasks.get(index as usize).cloned();
            (job.id.clone(), job.spec.size(), job.has_ended(), task)
        })?;
        if index >= size {
            return Err(ApiError::not_found("task", &index.to_string()).field("task"));
        }
        let task = match task {
            Some(task) if !ended => task,
            _ => {
                let rows = self.store.job_tasks(id.as_str(), i64::from(index), 1).await?;
                let row = rows.into_iter().find(|row| row.number == i64::from(index));
                row.map(|row| read_task(&row.record)).transpose()?.unwrap_or_default()
            }
        };
        let (Some(node), 1..) = (&task.node, task.attempts) else {
            return Ok(Box::pin(futures_util::stream::empty()));
        };
        let agent: Agent = self.fleet.agent(node)?;
        let query = TaskLogQuery {
            key: TaskKey {
                job: id,
                index,
                attempt: task.attempts,
            },
            tail,
            follow,
        };
        let lines = agent
            .lines::<LogLine>(Method::GET, &with_query(path::TASK_LOGS, &query), None)
            .await
            .map_err(ApiError::from)?;
        Ok(lines.boxed())
    }

    /// The one task of a job that has no others.
    pub fn only_task(&self, cluster: &str, key: &str) -> ApiResult<u32> {
        let size = self.find(cluster, key, |job| job.spec.size())?;
        if size == 1 {
            return Ok(0);
        }
        Err(ApiError::invalid(
            "task",
            format!("the job has {size} tasks: say which one, 0 to {}", size - 1),
        ))
    }
}

fn task_view(index: u32, task: TaskRecord) -> TaskView {
    TaskView {
        index,
        state: task.state,
        attempts: task.attempts,
        node_id: task.node,
        cores: task.cores,
        outcome: task.outcome,
        exit_code: task.exit_code,
        reason: task.reason,
        not_before: task.not_before,
        started: task.started,
        finished: task.finished,
    }
}
