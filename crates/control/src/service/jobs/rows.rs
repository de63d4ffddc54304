//! A job, its tasks, and how both are kept.

use crate::api::error::{ApiError, ApiResult};
use nm_link::contract::TaskKey;
use nm_plan::place::Amount;
use nm_store::{Resource, Secret, Store};
use nm_types::container::ContainerSpec;
use nm_types::job::{INDEX_VARIABLE, JobCounts, JobSpec, JobState, TaskOutcome, TaskState};
use nm_types::text::{Argument, ContainerName, EnvName, Environment};
use nm_types::{ClusterId, JobId, NodeId, Timestamp};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A job's spec column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredJob {
    /// Without its environment, which is sealed apart.
    pub spec: JobSpec,
    /// Grows with each job of any cluster.
    pub order: i64,
}

/// A job's status column.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JobStatus {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<JobState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub counts: JobCounts,
    pub attempts: u64,
    /// What still runs is to end, and nothing is begun any more.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cancelled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished: Option<Timestamp>,
}

impl JobStatus {
    pub fn state(&self) -> JobState {
        self.state.unwrap_or(JobState::Queued)
    }
}

/// What is kept of a task.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TaskRecord {
    pub state: TaskState,
    /// The number of its last attempt; it grows before a node is asked.
    pub attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cores: Vec<u32>,
    /// Attempts that failed by themselves.
    #[serde(skip_serializing_if = "is_zero")]
    pub failures: u32,
    /// Attempts whose node was lost.
    #[serde(skip_serializing_if = "is_zero")]
    pub losses: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<TaskOutcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished: Option<Timestamp>,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// A job in memory.
pub struct Job {
    pub id: JobId,
    pub cluster: ClusterId,
    pub spec: Arc<JobSpec>,
    pub environment: Arc<Environment>,
    pub order: i64,
    pub status: JobStatus,
    pub created: Timestamp,
    pub revision: i64,
    /// Each of its tasks, until it has ended; after that they are in the store alone.
    pub tasks: Vec<TaskRecord>,
    /// When a task of it was given out, or when it could run: unix milliseconds.
    pub served: i64,
    /// The node that is kept for it.
    pub reserved: Option<NodeId>,
}

impl Job {
    pub async fn read(store: &Store, row: &Resource) -> ApiResult<Self> {
        let corrupt = |_| {
            tracing::error!(id = row.id, "a job's row has an id that is none");
            ApiError::internal()
        };
        let stored: StoredJob = row.spec()?;
        let status: JobStatus = row.status()?;
        let environment: Environment = match row.has_secret() {
            true => store.open_sealed(row).await?.map(|s| s.parse()).transpose()?.unwrap_or_default(),
            false => Environment::default(),
        };
        let mut job = Self {
            id: JobId::parse(&row.id).map_err(corrupt)?,
            cluster: ClusterId::parse(&row.parent).map_err(corrupt)?,
            spec: Arc::new(stored.spec),
            environment: Arc::new(environment),
            order: stored.order,
            status,
            created: row.created_at,
            revision: row.revision,
            tasks: Vec::new(),
            served: row.created_at.0,
            reserved: None,
        };
        if !job.has_ended() {
            job.tasks = vec![TaskRecord::default(); job.spec.size() as usize];
            let size = job.spec.size();
            for kept in store.job_tasks(job.id.as_str(), 0, size).await? {
                if let Some(task) = usize::try_from(kept.number).ok().and_then(|n| job.tasks.get_mut(n)) {
                    *task = read_task(&kept.record)?;
                }
            }
        }
        Ok(job)
    }

    pub fn has_ended(&self) -> bool {
        self.status.state().is_final()
    }

    /// What one task counts for.
    pub fn need(&self) -> Amount {
        need(&self.spec)
    }

    /// What an attempt's container is made of.
    pub fn container(&self, key: &TaskKey) -> ApiResult<ContainerSpec> {
        let unmade = |error: &dyn std::fmt::Display| {
            tracing::error!(task = %key, %error, "a task's container could not be put together");
            ApiError::internal()
        };
        let name = ContainerName::parse(&key.docker_name()).map_err(|e| unmade(&e))?;
        let bare = serde_json::json!({ "name": name, "image": self.spec.image });
        let mut container: ContainerSpec = serde_json::from_value(bare).map_err(|e| unmade(&e))?;
        container.command = self.spec.command.clone();
        container.volumes = self.spec.volumes.clone();
        container.cpu_limit = self.spec.cpu;
        container.memory_limit = self.spec.memory.clone();
        container.environment = (*self.environment).clone();
        if let Some(array) = &self.spec.array {
            let variable = match &array.variable {
                Some(variable) => variable.clone(),
                None => EnvName::parse(INDEX_VARIABLE).map_err(|e| unmade(&e))?,
            };
            let number = Argument::parse(&key.index.to_string()).map_err(|e| unmade(&e))?;
            container.environment.0.insert(variable, number);
        }
        Ok(container)
    }
}

pub fn need(spec: &JobSpec) -> Amount {
    Amount::of_limits(spec.cpu.map(|c| c.cores()), spec.memory.as_ref().map(|m| m.bytes()))
}

pub fn read_task(record: &str) -> ApiResult<TaskRecord> {
    serde_json::from_str(record).map_err(|error| {
        tracing::error!(%error, "a task of the store can't be read");
        ApiError::internal()
    })
}

/// Takes the environment out of a spec; what is left may be stored.
pub fn split(spec: &mut JobSpec) -> ApiResult<(Environment, Option<Secret>)> {
    let environment = std::mem::take(&mut spec.environment);
    let secret = match environment.0.is_empty() {
        true => None,
        false => Some(Secret::json(&environment)?),
    };
    Ok((environment, secret))
}
