//! Jobs: containers that run to their end on a compute cluster, one or thousands of them, from a queue.
//!
//! A job has one or more tasks, numbered from 0. Each time a task is given to a node is an attempt of it, numbered from 1.

use crate::container::VolumeMount;
use crate::envelope::FieldProblem;
use crate::text::{EnvName, Environment, ImageRef, Title, Word};
use crate::units::{Bounded, CpuLimit, MemoryLimit};
use crate::{ClusterId, JobId, NodeId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The variable that tells a task its number, where nobody says otherwise.
pub const INDEX_VARIABLE: &str = "NM_TASK_INDEX";
/// What a job counts among others where nobody says.
pub const PRIORITY: i64 = 50;
/// The most other jobs that one waits for.
pub const DEPENDENCIES_AT_MOST: usize = 100;
/// Finished jobs that are kept of a cluster, and for how many days.
pub const KEPT_JOBS: usize = 1_000;
pub const KEPT_DAYS: i64 = 30;
/// The most jobs of a cluster that have not ended.
pub const WAITING_JOBS: usize = 2_000;
/// The most tasks of a cluster's jobs that have not ended.
pub const WAITING_TASKS: usize = 200_000;
/// Bytes kept of what a task wrote, the last ones.
pub const LOG_BYTES: usize = 1 << 20;
/// A task is set aside when its node was lost so many times while it ran.
pub const LOSSES_AT_MOST: u32 = 3;
/// The longest time between two attempts, in seconds.
pub const LONGEST_BACKOFF: i64 = 3_600;

/// Many tasks that differ by their number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JobArray {
    /// How many tasks; they are numbered from 0.
    pub size: Bounded<1, 10_000>,
    /// The environment variable that tells each its number; `NM_TASK_INDEX` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variable: Option<EnvName>,
}

/// What becomes of a task that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JobRetries {
    /// How many more times a failed task is tried; 0 by default.
    #[serde(default = "no_retries")]
    pub limit: Bounded<0, 20>,
    /// Seconds until the first of them, 10 by default; twice as long before each further one, an hour at most.
    #[serde(default = "usual_backoff")]
    pub backoff: Bounded<0, 3_600>,
}

const fn no_retries() -> Bounded<0, 20> {
    Bounded::clamped(0)
}
const fn usual_backoff() -> Bounded<0, 3_600> {
    Bounded::clamped(10)
}

impl Default for JobRetries {
    fn default() -> Self {
        Self {
            limit: no_retries(),
            backoff: usual_backoff(),
        }
    }
}

impl JobRetries {
    /// Seconds from a failure to the next attempt, after so many failures before it.
    pub fn pause(&self, failures_before: u32) -> i64 {
        let doubled = self
            .backoff
            .get()
            .saturating_mul(1i64.checked_shl(failures_before.min(20)).unwrap_or(1));
        doubled.min(LONGEST_BACKOFF)
    }
}

/// `POST /api/capabilities/clusters/{clusterId}/jobs`, and what is kept of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JobSpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Title>,
    pub image: ImageRef,
    /// Arguments, or the program where the image has no entrypoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 100)]
    pub command: Vec<Word>,
    #[serde(default)]
    pub environment: Environment,
    /// Cores a task may use. A whole number of them is given to it alone, and the task is bound to them. Left out, it counts a tenth
    /// of a core and may use what is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuLimit>,
    /// Memory a task may use. Left out, it counts 128 MiB and has no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryLimit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array: Option<JobArray>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<JobRetries>,
    /// Seconds an attempt may run; for ever where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Bounded<1, 2_592_000>>,
    /// What it counts among other jobs; 50 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Bounded<0, 100>>,
    /// Jobs of the same cluster that have to succeed first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 100)]
    pub depends_on: Vec<JobId>,
    /// As those of a container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 100)]
    pub volumes: Vec<VolumeMount>,
}

impl JobSpec {
    /// How many tasks it has.
    pub fn size(&self) -> u32 {
        self.array.as_ref().map_or(1, |a| u32::try_from(a.size.get()).unwrap_or(1))
    }
    pub fn priority(&self) -> i64 {
        self.priority.map_or(PRIORITY, Bounded::get)
    }
    pub fn retries(&self) -> JobRetries {
        self.retries.unwrap_or_default()
    }
    /// Whole cores that a task gets for itself; 0 where it asks for a part of one, or for none.
    pub fn pinned(&self) -> u32 {
        let cores = self.cpu.map_or(0.0, CpuLimit::cores);
        if cores >= 1.0 && cores.fract() == 0.0 { cores as u32 } else { 0 }
    }

    /// Lists that are too long; the schema says how long they may be.
    pub fn overlong(&self) -> Vec<FieldProblem> {
        [
            ("command", self.command.len(), 100),
            ("dependsOn", self.depends_on.len(), DEPENDENCIES_AT_MOST),
            ("volumes", self.volumes.len(), 100),
        ]
        .into_iter()
        .filter(|(_, len, max)| len > max)
        .map(|(field, _, max)| FieldProblem {
            field: field.into(),
            message: format!("has 0 to {max} entries"),
        })
        .collect()
    }

    /// Rules that no single field can hold and no schema can say: each problem names its field.
    pub fn problems(&self) -> Vec<FieldProblem> {
        let mut out = Vec::new();
        let mut problem = |field: String, message: String| out.push(FieldProblem { field, message });
        for (i, volume) in self.volumes.iter().enumerate() {
            if self.volumes[..i].iter().any(|v| v.container == volume.container) {
                problem(
                    format!("volumes[{i}].container"),
                    format!("`{}` is mounted twice", volume.container),
                );
            }
        }
        for (i, job) in self.depends_on.iter().enumerate() {
            if self.depends_on[..i].contains(job) {
                problem(format!("dependsOn[{i}]"), format!("`{job}` is named twice"));
            }
        }
        if let Some(variable) = self.array.as_ref().and_then(|a| a.variable.as_ref())
            && self.environment.0.contains_key(variable)
        {
            problem(
                "array.variable".into(),
                format!("`{variable}` is in `environment` already: choose another one"),
            );
        }
        out
    }
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    /// Jobs it depends on have not succeeded yet.
    Waiting,
    /// None of its tasks has begun.
    Queued,
    Running,
    /// All of its tasks did.
    Succeeded,
    /// At least one task failed for good.
    Failed,
    Cancelled,
    /// At least one task was set aside: its node was lost each time it ran.
    SetAside,
}

impl JobState {
    pub const ALL: [Self; 7] = [
        Self::Waiting,
        Self::Queued,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::SetAside,
    ];
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::SetAside => "set-aside",
        }
    }
    pub fn is_final(self) -> bool {
        match self {
            Self::Waiting | Self::Queued | Self::Running => false,
            Self::Succeeded | Self::Failed | Self::Cancelled | Self::SetAside => true,
        }
    }
}

/// How far a task is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TaskState {
    /// It waits for room, for its next attempt, or for other jobs.
    #[default]
    Queued,
    /// A node has it.
    Running,
    Succeeded,
    Failed,
    Cancelled,
    /// Its node was lost each time it ran.
    SetAside,
}

impl TaskState {
    pub const ALL: [Self; 6] = [
        Self::Queued,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::SetAside,
    ];
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::SetAside => "set-aside",
        }
    }
    pub fn is_final(self) -> bool {
        match self {
            Self::Queued | Self::Running => false,
            Self::Succeeded | Self::Failed | Self::Cancelled | Self::SetAside => true,
        }
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TaskOutcome {
    /// Its program ended with 0.
    Succeeded,
    /// Its program ended with another number.
    ExitCode,
    /// It wanted more memory than it may have.
    OutOfMemory,
    /// It ran longer than it may.
    Timeout,
    /// It could not be started: no such image or program, or something the node does not allow.
    NotStarted,
    Cancelled,
    /// Its node, or the node's engine, went away in the middle.
    NodeLost,
    /// Its node had no word from the control plane for too long and ended it.
    LeaseEnded,
    /// The node did not begin it.
    NeverBegan,
}

impl TaskOutcome {
    pub const ALL: [Self; 9] = [
        Self::Succeeded,
        Self::ExitCode,
        Self::OutOfMemory,
        Self::Timeout,
        Self::NotStarted,
        Self::Cancelled,
        Self::NodeLost,
        Self::LeaseEnded,
        Self::NeverBegan,
    ];
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::ExitCode => "exit-code",
            Self::OutOfMemory => "out-of-memory",
            Self::Timeout => "timeout",
            Self::NotStarted => "not-started",
            Self::Cancelled => "cancelled",
            Self::NodeLost => "node-lost",
            Self::LeaseEnded => "lease-ended",
            Self::NeverBegan => "never-began",
        }
    }
}

/// How many of a job's tasks are in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobCounts {
    pub queued: u32,
    pub running: u32,
    pub succeeded: u32,
    pub failed: u32,
    pub cancelled: u32,
    pub set_aside: u32,
}

impl JobCounts {
    pub fn of(&mut self, state: TaskState) -> &mut u32 {
        match state {
            TaskState::Queued => &mut self.queued,
            TaskState::Running => &mut self.running,
            TaskState::Succeeded => &mut self.succeeded,
            TaskState::Failed => &mut self.failed,
            TaskState::Cancelled => &mut self.cancelled,
            TaskState::SetAside => &mut self.set_aside,
        }
    }
    pub fn total(&self) -> u32 {
        self.queued + self.running + self.ended()
    }
    pub fn ended(&self) -> u32 {
        self.succeeded + self.failed + self.cancelled + self.set_aside
    }
    /// What the job is by its tasks, once nothing holds it up.
    pub fn state(&self) -> JobState {
        match (self.queued + self.running, self.set_aside, self.failed, self.cancelled) {
            (0, 0, 0, 0) => JobState::Succeeded,
            (0, 1.., ..) => JobState::SetAside,
            (0, 0, 1.., _) => JobState::Failed,
            (0, 0, 0, 1..) => JobState::Cancelled,
            _ if self.running > 0 || self.ended() > 0 => JobState::Running,
            _ => JobState::Queued,
        }
    }
}

/// A job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobView {
    pub id: JobId,
    pub cluster_id: ClusterId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Title>,
    pub state: JobState,
    /// Why it is so, or what it waits for, where there is something to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub counts: JobCounts,
    /// Percent of its tasks that have ended.
    pub progress: f64,
    /// How many times its tasks were given to nodes.
    pub attempts: u64,
    pub image: ImageRef,
    pub command: Vec<Word>,
    /// Values of variables that look secret are covered.
    pub environment: Environment,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuLimit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryLimit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array: Option<JobArray>,
    pub retries: JobRetries,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
    pub priority: i64,
    pub depends_on: Vec<JobId>,
    pub volumes: Vec<VolumeMount>,
    pub created: Timestamp,
    /// When its first task was given to a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<Timestamp>,
}

/// One task of a job, as its last attempt has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskView {
    pub index: u32,
    pub state: TaskState,
    /// How many times it was given to a node.
    pub attempts: u32,
    /// The node that has it, or had it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<NodeId>,
    /// Cores of the node that it has for itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cores: Vec<u32>,
    /// How its last attempt ended that did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<TaskOutcome>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    /// Why it is so, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// It is not tried again before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(value: serde_json::Value) -> Result<JobSpec, serde_json::Error> {
        serde_json::from_value(value)
    }

    #[test]
    fn what_is_left_out_has_a_value() {
        let job = spec(json!({ "image": "busybox" })).unwrap();
        assert_eq!((job.size(), job.priority(), job.pinned()), (1, 50, 0));
        assert_eq!(job.retries(), JobRetries::default());
        assert!(job.problems().is_empty() && job.overlong().is_empty());
        for bad in [
            json!({}),
            json!({ "image": "busybox", "array": { "size": 0 } }),
            json!({ "image": "busybox", "array": { "size": 10_001 } }),
            json!({ "image": "busybox", "retries": { "limit": 21 } }),
            json!({ "image": "busybox", "priority": 101 }),
            json!({ "image": "busybox", "cpus": 1 }),
            json!({ "image": "busybox", "dependsOn": ["web"] }),
        ] {
            assert!(spec(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn whole_cores_are_pinned() {
        for (cpu, pinned) in [(0.5, 0), (1.0, 1), (1.5, 0), (4.0, 4)] {
            assert_eq!(spec(json!({ "image": "busybox", "cpu": cpu })).unwrap().pinned(), pinned, "{cpu}");
        }
    }

    #[test]
    fn what_contradicts_itself_is_named() {
        let job = spec(json!({
            "image": "busybox", "environment": { "N": "1" }, "array": { "size": 2, "variable": "N" },
            "dependsOn": ["job_1_aaaaaaaaa", "job_1_aaaaaaaaa"], "volumes": [{ "container": "/a" }, { "container": "/a" }],
        }));
        let fields: Vec<String> = job.unwrap().problems().into_iter().map(|p| p.field).collect();
        assert_eq!(fields, ["volumes[1].container", "dependsOn[1]", "array.variable"]);
    }

    #[test]
    fn pauses_double_up_to_an_hour() {
        let retries = JobRetries {
            limit: Bounded::clamped(20),
            backoff: Bounded::clamped(10),
        };
        let pauses: Vec<i64> = [0, 1, 2, 8, 9, 40].into_iter().map(|n| retries.pause(n)).collect();
        assert_eq!(pauses, [10, 20, 40, 2_560, 3_600, 3_600]);
    }

    #[test]
    fn a_job_is_what_its_tasks_are() {
        let counts = |queued, running, succeeded, failed, cancelled, set_aside| JobCounts {
            queued,
            running,
            succeeded,
            failed,
            cancelled,
            set_aside,
        };
        for (counts, state) in [
            (counts(2, 0, 0, 0, 0, 0), JobState::Queued),
            (counts(1, 1, 0, 0, 0, 0), JobState::Running),
            (counts(1, 0, 1, 0, 0, 0), JobState::Running),
            (counts(0, 0, 2, 0, 0, 0), JobState::Succeeded),
            (counts(0, 0, 1, 1, 0, 0), JobState::Failed),
            (counts(0, 0, 1, 1, 1, 0), JobState::Failed),
            (counts(0, 0, 1, 0, 1, 0), JobState::Cancelled),
            (counts(0, 0, 1, 1, 0, 1), JobState::SetAside),
        ] {
            assert_eq!(counts.state(), state, "{counts:?}");
        }
    }
}
