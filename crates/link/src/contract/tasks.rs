//! Tasks of jobs: what a node is given to run, for how long it may, and what came of it.
//!
//! A task is run because a control plane said so lately. Each answer of [`path::TASKS`](super::path::TASKS) has a token; the next
//! call brings it back, and lets the node run tasks for `lease` from the moment in which it *gave that token out*. So however long
//! a call was on its way, a node never counts from a later moment than the one in which the control plane had its answer: who
//! waits longer than the lease after the last answer knows that the node runs nothing any more.

use super::RegistryLogin;
use nm_types::container::ContainerSpec;
use nm_types::job::TaskOutcome;
use nm_types::{JobId, Timestamp};
use serde::{Deserialize, Serialize};
use std::fmt;

/// One attempt at one task. As text `job_…-<index>-<attempt>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TaskKey {
    pub job: JobId,
    pub index: u32,
    /// 1 is the first.
    pub attempt: u32,
}

impl TaskKey {
    /// What the container is called in Docker.
    pub fn docker_name(&self) -> String {
        format!("nm-{self}")
    }
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.rsplitn(3, '-');
        let number = |text: &str| {
            let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
            plain.then(|| text.parse().ok())?
        };
        let (attempt, index, job) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self {
            job: JobId::parse(job).ok()?,
            index: number(index)?,
            attempt: number(attempt)?,
        })
    }
    /// The key of a container by its name in Docker.
    pub fn of_docker_name(name: &str) -> Option<Self> {
        Self::parse(name.strip_prefix('/').unwrap_or(name).strip_prefix("nm-")?)
    }
}

impl fmt::Display for TaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.job, self.index, self.attempt)
    }
}
impl TryFrom<String> for TaskKey {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| "an attempt at a task is named job_…-<index>-<attempt>".to_owned())
    }
}
impl From<TaskKey> for String {
    fn from(key: TaskKey) -> Self {
        key.to_string()
    }
}

/// A task to run. One that is known by its key is not run again.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunTask {
    pub key: TaskKey,
    /// With its environment in the clear.
    pub spec: ContainerSpec,
    /// Cores that it has for itself, counted from 0; none where it shares what is left.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cores: Vec<u32>,
    /// Seconds it may run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<RegistryLogin>,
}

/// What a node is to do. Everything in it may be asked twice.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TasksCall {
    /// That of the last answer; without one nothing is run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Milliseconds for which tasks may run after the token was given out.
    pub lease: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub run: Vec<RunTask>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cancel: Vec<TaskKey>,
    /// Results that are on the control plane's disk: the node may forget them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acknowledge: Vec<TaskKey>,
    /// Jobs that are gone: their logs may go, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forget: Vec<JobId>,
    /// Whether the answer is to name every task that the node has.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub list: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TasksAnswer {
    /// The agent's process.
    pub instance: String,
    /// Which start of the machine it is.
    pub boot: String,
    pub token: String,
    /// Whether the call's token was good. Where it was not, nothing of `run` was begun.
    pub leased: bool,
    /// Every task that it has: those that run, and those that ended and are not acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Vec<TaskKey>>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskNewsQuery {
    /// The agent's process that gave `after`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The number of the last news that was read.
    pub after: u64,
    /// Milliseconds to wait for some.
    pub wait: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskNewsPage {
    pub instance: String,
    /// The number of the last news in it, or the one that was asked with.
    pub last: u64,
    pub news: Vec<TaskNews>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "type")]
pub enum TaskNews {
    /// Its program runs.
    Began { key: TaskKey, at: Timestamp },
    /// Told until it is acknowledged.
    Ended(TaskResult),
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskResult {
    pub key: TaskKey,
    pub outcome: TaskOutcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    /// In words, where there is something to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began: Option<Timestamp>,
    pub ended: Timestamp,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskLogQuery {
    pub key: TaskKey,
    /// The last so many lines; all where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<u32>,
    #[serde(default)]
    pub follow: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back_and_nothing_else_does() {
        let key = TaskKey {
            job: JobId::fresh(1),
            index: 12,
            attempt: 3,
        };
        assert_eq!(TaskKey::parse(&key.to_string()), Some(key.clone()));
        assert_eq!(TaskKey::of_docker_name(&format!("/{}", key.docker_name())), Some(key));
        for bad in [
            "",
            "job_1_aaaaaaaaa",
            "job_1_aaaaaaaaa-1",
            "job_1_aaaaaaaaa-01-1",
            "job_1_aaaaaaaaa-1-+1",
            "cont_1_aaaaaaaaa-1-1",
            "web-1-1",
        ] {
            assert_eq!(TaskKey::parse(bad), None, "{bad}");
        }
    }
}
