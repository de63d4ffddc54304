//! All jobs in memory, and changes of them: thought up on what is there, written, and only then true.

use super::rows::{Job, JobStatus, TaskRecord};
use nm_link::contract::TaskKey;
use nm_plan::place::Amount;
use nm_store::NewClusterEvent;
use nm_types::cluster::ClusterEventKind;
use nm_types::job::{JobState, TaskOutcome, TaskState};
use nm_types::{ClusterId, JobId, NodeId, Timestamp};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A task by its job and number.
pub type TaskId = (JobId, u32);

#[derive(Default)]
pub struct Table {
    pub jobs: BTreeMap<JobId, Job>,
    /// The tasks that each node has.
    pub running: HashMap<NodeId, BTreeSet<TaskId>>,
    /// Those of them whose program has not begun.
    pub starting: BTreeSet<TaskId>,
    /// Tasks that began, which no row says yet.
    pub unsaved: BTreeSet<TaskId>,
}

impl Table {
    pub fn put(&mut self, job: Job) {
        for (index, task) in job.tasks.iter().enumerate() {
            if let (TaskState::Running, Some(node)) = (task.state, &task.node) {
                let id = (job.id.clone(), u32::try_from(index).unwrap_or(u32::MAX));
                self.running.entry(node.clone()).or_default().insert(id);
            }
        }
        self.jobs.insert(job.id.clone(), job);
    }

    pub fn task(&self, id: &TaskId) -> Option<&TaskRecord> {
        self.jobs.get(&id.0)?.tasks.get(id.1 as usize)
    }

    /// The attempt that a node has of a task.
    pub fn key(&self, id: &TaskId) -> Option<TaskKey> {
        let task = self.task(id)?;
        Some(TaskKey {
            job: id.0.clone(),
            index: id.1,
            attempt: task.attempts,
        })
    }

    /// Whether that attempt is the one that a node has now.
    pub fn has(&self, node: &NodeId, key: &TaskKey) -> bool {
        let id = (key.job.clone(), key.index);
        let current = self.running.get(node).is_some_and(|tasks| tasks.contains(&id));
        current && self.task(&id).is_some_and(|t| t.attempts == key.attempt)
    }

    /// What tasks hold of each node.
    pub fn promised(&self) -> HashMap<NodeId, Amount> {
        let mut out: HashMap<NodeId, Amount> = HashMap::new();
        for (node, tasks) in &self.running {
            let sum = out.entry(node.clone()).or_default();
            for (job, _) in tasks {
                if let Some(job) = self.jobs.get(job) {
                    sum.add(job.need());
                }
            }
        }
        out.retain(|_, sum| *sum != Amount::default());
        out
    }

    pub fn of_cluster<'a>(&'a self, cluster: &'a ClusterId) -> impl Iterator<Item = &'a Job> {
        self.jobs.values().filter(move |job| job.cluster == *cluster)
    }

    /// Makes what was written true.
    pub fn apply(&mut self, changes: Changes, revisions: &HashMap<JobId, i64>) {
        for (id, record) in changes.tasks {
            let Some(job) = self.jobs.get_mut(&id.0) else { continue };
            let Some(task) = job.tasks.get_mut(id.1 as usize) else { continue };
            if let (TaskState::Running, Some(node)) = (task.state, &task.node)
                && let Some(tasks) = self.running.get_mut(node)
            {
                tasks.remove(&id);
                if tasks.is_empty() {
                    self.running.remove(node);
                }
            }
            self.unsaved.remove(&id);
            match (record.state, &record.node) {
                (TaskState::Running, Some(node)) => {
                    self.running.entry(node.clone()).or_default().insert(id.clone());
                    if record.started.is_none() {
                        self.starting.insert(id);
                    } else {
                        self.starting.remove(&id);
                    }
                }
                _ => drop(self.starting.remove(&id)),
            }
            *task = record;
        }
        for (id, status) in changes.statuses {
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            job.status = status;
            if let Some(revision) = revisions.get(&id) {
                job.revision = *revision;
            }
            if job.has_ended() {
                job.tasks = Vec::new();
                job.reserved = None;
            }
        }
        for (id, at) in changes.served {
            if let Some(job) = self.jobs.get_mut(&id) {
                job.served = at;
            }
        }
    }
}

/// What is to be changed; nothing of it is true before it is written.
#[derive(Default)]
pub struct Changes {
    pub tasks: BTreeMap<TaskId, TaskRecord>,
    pub statuses: BTreeMap<JobId, JobStatus>,
    pub events: Vec<NewClusterEvent>,
    /// When a task of a job was given out.
    pub served: BTreeMap<JobId, i64>,
    /// How attempts ended.
    pub outcomes: Vec<TaskOutcome>,
    /// Jobs that have ended with it.
    pub ended: Vec<JobId>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        // That tasks began is written with what else changes.
        self.statuses.is_empty() && self.events.is_empty()
    }
}

/// Changes on the way, over what is there.
pub struct Edit<'a> {
    pub table: &'a Table,
    pub changes: Changes,
    pub now: Timestamp,
}

impl<'a> Edit<'a> {
    pub fn new(table: &'a Table, now: Timestamp) -> Self {
        let mut edit = Self {
            table,
            changes: Changes::default(),
            now,
        };
        for id in &table.unsaved {
            if let Some(task) = table.task(id) {
                edit.changes.tasks.insert(id.clone(), task.clone());
            }
        }
        edit
    }

    pub fn task(&self, id: &TaskId) -> Option<&TaskRecord> {
        self.changes.tasks.get(id).or_else(|| self.table.task(id))
    }

    pub fn status<'b>(&'b self, job: &'b Job) -> &'b JobStatus {
        self.changes.statuses.get(&job.id).unwrap_or(&job.status)
    }

    pub fn job(&self, id: &JobId) -> Option<&'a Job> {
        self.table.jobs.get(id)
    }

    /// Sets a task, and brings its job up to it.
    pub fn set(&mut self, id: &TaskId, record: TaskRecord) {
        let (Some(job), Some(before)) = (self.job(&id.0), self.task(id).map(|t| (t.state, t.attempts))) else {
            return;
        };
        let mut status = self.status(job).clone();
        *status.counts.of(before.0) -= 1;
        *status.counts.of(record.state) += 1;
        status.attempts += u64::from(record.attempts - before.1);
        if record.state == TaskState::Running && status.started.is_none() {
            status.started = Some(self.now);
        }
        let was = status.state();
        if was != JobState::Waiting || status.counts.queued == 0 {
            status.state = Some(status.counts.state());
        }
        self.changes.tasks.insert(id.clone(), record);
        self.changes.statuses.insert(id.0.clone(), status);
        self.finish(job);
    }

    /// Notes a job's end, once.
    fn finish(&mut self, job: &Job) {
        let Some(status) = self.changes.statuses.get_mut(&job.id) else {
            return;
        };
        let state = status.state();
        if !state.is_final() || status.finished.is_some() {
            return;
        }
        status.finished = Some(self.now);
        let counts = status.counts;
        let (kind, reason) = match state {
            JobState::Succeeded => (
                ClusterEventKind::JobSucceeded,
                format!("all {} tasks of {} succeeded", counts.succeeded, label(job)),
            ),
            JobState::Cancelled => (ClusterEventKind::JobCancelled, format!("{} was cancelled", label(job))),
            JobState::SetAside => (
                ClusterEventKind::JobFailed,
                format!("{} of {} tasks of {} were set aside", counts.set_aside, counts.total(), label(job)),
            ),
            _ => (
                ClusterEventKind::JobFailed,
                format!("{} of {} tasks of {} failed", counts.failed, counts.total(), label(job)),
            ),
        };
        if status.reason.is_none() && state != JobState::Succeeded {
            status.reason = Some(reason.clone());
        }
        self.changes.ended.push(job.id.clone());
        self.event(job, kind, reason);
    }

    pub fn event(&mut self, job: &Job, kind: ClusterEventKind, reason: String) {
        self.changes.events.push(NewClusterEvent {
            cluster: job.cluster.to_string(),
            at: self.now,
            kind: kind.as_str().into(),
            member: None,
            node: None,
            reason,
            detail: Some(serde_json::json!({ "job": job.id }).to_string()),
        });
    }

    /// Ends what has not begun, and has nothing more begin. Gives the attempts that nodes still have.
    pub fn cancel(&mut self, job: &'a Job, reason: String) -> Vec<(NodeId, TaskKey)> {
        let mut status = self.status(job).clone();
        status.cancelled = true;
        status.reason = Some(reason.clone());
        self.changes.statuses.insert(job.id.clone(), status);
        let mut running = Vec::new();
        for index in 0..job.spec.size() {
            let id = (job.id.clone(), index);
            let Some(task) = self.task(&id).cloned() else { continue };
            match (task.state, &task.node) {
                (TaskState::Queued, _) => self.set(
                    &id,
                    TaskRecord {
                        state: TaskState::Cancelled,
                        not_before: None,
                        reason: Some(reason.clone()),
                        finished: Some(self.now),
                        ..task
                    },
                ),
                (TaskState::Running, Some(node)) => running.push((
                    node.clone(),
                    TaskKey {
                        job: job.id.clone(),
                        index,
                        attempt: task.attempts,
                    },
                )),
                _ => {}
            }
        }
        running
    }
}

/// A job for people.
pub fn label(job: &Job) -> String {
    match &job.spec.name {
        Some(name) => format!("job `{name}` ({})", job.id),
        None => format!("job {}", job.id),
    }
}
