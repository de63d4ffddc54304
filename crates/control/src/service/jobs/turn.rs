//! One turn: what nodes told, who is lost, which jobs may go on, and what is given out next. All of it is one transaction; nodes hear
//! of it after.

use super::rows::{Job, TaskRecord};
use super::table::{Changes, Edit, Table, TaskId, label};
use super::{Jobs, write};
use crate::api::error::{ApiError, ApiResult};
use nm_link::contract::{TaskKey, TaskNews, TaskResult};
use nm_plan::place::{Amount, Candidate};
use nm_plan::queue::{self, Waiting, Worker};
use nm_store::{JobTaskRow, Kind, Patch, StoreError, Tx};
use nm_types::cluster::ClusterEventKind;
use nm_types::job::{JobState, KEPT_DAYS, KEPT_JOBS, LOSSES_AT_MOST, TaskOutcome, TaskState};
use nm_types::{ClusterId, JobId, NodeId, Timestamp};
use std::collections::{BTreeMap, HashMap};
use std::sync::PoisonError;
use tokio::time::Instant;

/// Until a task that a node did not begin is given out again, in milliseconds.
const NOT_BEGUN: i64 = 5_000;

/// What nodes are told once it is written.
#[derive(Default)]
struct Words {
    run: Vec<(NodeId, TaskKey)>,
    acknowledge: Vec<(NodeId, TaskKey)>,
    cancel: Vec<(NodeId, TaskKey)>,
    reserved: Vec<(ClusterId, BTreeMap<JobId, NodeId>)>,
}

impl Jobs {
    /// Does what there is to do. Gives when to look again, whatever happens until then.
    pub async fn turn(&self) -> ApiResult<Option<Instant>> {
        let _turn = self.turn.lock().await;
        let news = std::mem::take(&mut *self.inbox.lock().unwrap_or_else(PoisonError::into_inner));
        let done = self.take_turn(&news).await;
        if done.is_err() {
            // Nothing of it was done.
            let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
            let later = std::mem::take(&mut *inbox);
            inbox.extend(news.into_iter().chain(later));
        }
        done
    }

    async fn take_turn(&self, news: &[(NodeId, TaskNews)]) -> ApiResult<Option<Instant>> {
        let began: Vec<(NodeId, TaskKey, Timestamp)> = news
            .iter()
            .filter_map(|(node, news)| match news {
                TaskNews::Began { key, at } => Some((node.clone(), key.clone(), *at)),
                TaskNews::Ended(_) => None,
            })
            .collect();
        self.note_begun(&began);
        // Who places containers waits meanwhile: nothing is promised twice.
        let _placing = self.nodes.placing().await;
        let now = self.clock.now();
        let (changes, words) = {
            let table = self.read();
            let mut edit = Edit::new(&table, now);
            let mut words = Words::default();
            for (node, news) in news {
                if let TaskNews::Ended(result) = news {
                    settle(&mut edit, node, result);
                    words.acknowledge.push((node.clone(), result.key.clone()));
                }
            }
            self.give_up_silent(&mut edit);
            go_on(&mut edit, &mut words);
            self.give_out(&mut edit, &mut words);
            (edit.changes, words)
        };
        let ended = !changes.ended.is_empty();
        self.commit(changes, None).await?;
        self.speak(words);
        if ended {
            // Others may have waited for them.
            self.wake.notify_one();
        }
        Ok(self.next_look())
    }

    fn speak(&self, words: Words) {
        for (node, key) in words.run {
            self.desks.run(&node, key);
        }
        for (node, key) in words.cancel {
            self.desks.cancel(&node, key);
        }
        for (node, key) in words.acknowledge {
            self.desks.acknowledge(&node, key);
        }
        let mut table = self.write();
        for (cluster, reserved) in words.reserved {
            for job in table.jobs.values_mut().filter(|j| j.cluster == cluster && !j.has_ended()) {
                job.reserved = reserved.get(&job.id).cloned();
            }
        }
    }

    /// That a program began frees its place among the starts at once; its row says so with the next change.
    fn note_begun(&self, began: &[(NodeId, TaskKey, Timestamp)]) {
        if began.is_empty() {
            return;
        }
        let mut table = self.write();
        for (node, key, at) in began {
            if !table.has(node, key) {
                continue;
            }
            let id: TaskId = (key.job.clone(), key.index);
            table.starting.remove(&id);
            let task = table.jobs.get_mut(&id.0).and_then(|job| job.tasks.get_mut(id.1 as usize));
            if let Some(task) = task
                && task.started.is_none()
            {
                task.started = Some(*at);
                table.unsaved.insert(id);
            }
        }
    }

    /// What nodes had that have not answered for longer than they may run it without.
    fn give_up_silent(&self, edit: &mut Edit<'_>) {
        let now = Instant::now();
        for (node, tasks) in &edit.table.running {
            if now.saturating_duration_since(self.desks.answered(node)) < self.give_up() {
                continue;
            }
            // Where it is there and we were away, it is no fault of its.
            let away = !self.fleet.is_connected(node) || self.nodes.lost().is_lost(node);
            let (outcome, reason) = match away {
                true => (TaskOutcome::NodeLost, "nothing was heard of its node for too long"),
                false => (TaskOutcome::LeaseEnded, "its node was not asked for too long, and has ended it"),
            };
            tracing::warn!(node.id = %node, tasks = tasks.len(), "a node has not answered for too long: its tasks are given to others");
            for id in tasks {
                let Some(key) = edit.table.key(id) else { continue };
                let result = TaskResult {
                    key,
                    outcome,
                    exit_code: None,
                    reason: Some(reason.into()),
                    began: None,
                    ended: edit.now,
                };
                settle(edit, node, &result);
            }
        }
    }

    /// What nodes said they lost with their machine's start.
    pub fn lost_with_machine(&self, node: &NodeId, keys: Vec<TaskKey>) {
        let now = self.clock.now();
        let news = keys.into_iter().map(|key| {
            TaskNews::Ended(TaskResult {
                key,
                outcome: TaskOutcome::NodeLost,
                exit_code: None,
                reason: Some("the node's machine was started again while it ran".into()),
                began: None,
                ended: now,
            })
        });
        self.told(node, news.collect());
    }

    fn give_out(&self, edit: &mut Edit<'_>, words: &mut Words) {
        let clusters = self.clusters.computing();
        let ready = |job: &Job, status: JobState| job.spec.size() > 0 && !status.is_final() && status != JobState::Waiting;
        let mut open: Vec<&Job> = Vec::new();
        for job in edit.table.jobs.values() {
            let status = edit.status(job);
            if ready(job, status.state()) && !status.cancelled && status.counts.queued > 0 {
                open.push(job);
            }
        }
        if open.is_empty() {
            return;
        }
        let candidates: HashMap<NodeId, Candidate> = self.containers.rooms().into_iter().map(|c| (c.node.clone(), c)).collect();
        for cluster in clusters {
            let jobs: Vec<&Job> = open.iter().filter(|job| job.cluster == cluster.id).copied().collect();
            if jobs.is_empty() {
                continue;
            }
            let ready: Vec<&NodeId> = cluster.nodes.iter().filter(|node| self.nodes.takes_work(node).is_ok()).collect();
            let queued = jobs.iter().map(|job| u64::from(edit.status(job).counts.queued)).sum();
            let count = self.in_use(edit, &cluster, ready.len(), queued);
            let workers: Vec<Worker> = ready
                .into_iter()
                .take(count)
                .filter_map(|node| worker(edit, candidates.get(node)?))
                .collect();
            let mut runnable: HashMap<JobId, Vec<u32>> = HashMap::new();
            let mut waiting = Vec::new();
            for job in &jobs {
                let indices: Vec<u32> = (0..job.spec.size())
                    .filter(|index| {
                        let task = edit.task(&(job.id.clone(), *index));
                        task.is_some_and(|t| t.state == TaskState::Queued && t.not_before.is_none_or(|at| at <= edit.now))
                    })
                    .collect();
                waiting.push(Waiting {
                    job: job.id.clone(),
                    order: job.order,
                    priority: job.spec.priority(),
                    need: job.need(),
                    cores: job.spec.pinned(),
                    tasks: u32::try_from(indices.len()).unwrap_or(u32::MAX),
                    waited: edit.now.0 - job.served,
                    reserved: job.reserved.clone(),
                });
                runnable.insert(job.id.clone(), indices);
            }
            let pass = queue::pass(workers, &waiting, used(edit, &cluster.id));
            for indices in runnable.values_mut() {
                indices.reverse();
            }
            for given in pass.given {
                let Some(index) = runnable.get_mut(&given.job).and_then(Vec::pop) else {
                    continue;
                };
                let id = (given.job.clone(), index);
                let Some(task) = edit.task(&id).cloned() else { continue };
                let attempts = task.attempts + 1;
                let record = TaskRecord {
                    state: TaskState::Running,
                    attempts,
                    node: Some(given.node.clone()),
                    cores: given.cores,
                    not_before: None,
                    started: None,
                    finished: None,
                    ..task
                };
                edit.set(&id, record);
                edit.changes.served.insert(given.job.clone(), edit.now.0);
                let key = TaskKey {
                    job: given.job,
                    index,
                    attempt: attempts,
                };
                words.run.push((given.node, key));
            }
            words.reserved.push((cluster.id, pass.reserved));
        }
    }

    /// When something is due that nobody tells of.
    fn next_look(&self) -> Option<Instant> {
        let table = self.read();
        let silent = table.running.keys().map(|node| self.desks.answered(node) + self.give_up()).min();
        let now = self.clock.now();
        let again = table
            .jobs
            .values()
            .filter(|job| !job.has_ended() && !job.status.cancelled)
            .flat_map(|job| {
                let waits = |task: &TaskRecord| task.not_before.filter(|_| task.state == TaskState::Queued);
                job.tasks.iter().filter_map(waits)
            });
        let again = again.filter(|at| *at > now).min().map(|at| {
            let millis = u64::try_from(at.since(now)).unwrap_or(0);
            Instant::now() + std::time::Duration::from_millis(millis + 1)
        });
        silent.into_iter().chain(again).chain(self.scaling_due()).min()
    }

    /// Writes changes, and makes them true. `more` is written in the same transaction.
    pub(super) async fn commit(&self, changes: Changes, more: Option<Tx>) -> ApiResult<()> {
        if changes.is_empty() && more.is_none() {
            return Ok(());
        }
        let mut tx = match more {
            Some(tx) => tx,
            None => self.store.begin(self.clock.now()).await?,
        };
        let rows: Vec<JobTaskRow> = changes
            .tasks
            .iter()
            .map(|((job, index), record)| {
                Ok(JobTaskRow {
                    job: job.to_string(),
                    number: i64::from(*index),
                    record: serde_json::to_string(record).map_err(|_| ApiError::internal())?,
                })
            })
            .collect::<ApiResult<_>>()?;
        tx.job_tasks_put(&rows).await?;
        let mut revisions = HashMap::new();
        for (id, status) in &changes.statuses {
            match tx.update(Kind::Job, id.as_str(), Patch::new().status(status)?).await {
                Ok(row) => drop(revisions.insert(id.clone(), row.revision)),
                Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        for event in &changes.events {
            tx.cluster_event(event).await?;
        }
        let old = self.too_many(&changes.ended);
        for id in &old {
            write::forget(&mut tx, id).await?;
        }
        if let Err(error) = tx.commit().await {
            // It may have been written all the same.
            if let Err(error) = self.load().await {
                tracing::error!(error = %error.message, "jobs could not be read anew");
            }
            return Err(error.into());
        }
        self.ended.count(&changes.outcomes);
        {
            let mut table = self.write();
            table.apply(changes, &revisions);
            for id in &old {
                table.jobs.remove(id);
            }
        }
        self.promise();
        self.forget_logs(&old);
        Ok(())
    }

    /// Finished jobs beyond what is kept, now that more have ended.
    fn too_many(&self, ended: &[JobId]) -> Vec<JobId> {
        let table = self.read();
        let clusters: std::collections::BTreeSet<&ClusterId> = ended.iter().filter_map(|id| Some(&table.jobs.get(id)?.cluster)).collect();
        let mut out = Vec::new();
        for cluster in clusters {
            let mut finished: Vec<&Job> = table
                .of_cluster(cluster)
                .filter(|j| j.has_ended() && !needed(&table, &j.id))
                .collect();
            finished.sort_by_key(|j| (j.status.finished, j.order));
            let now_ended = ended
                .iter()
                .filter(|id| table.jobs.get(*id).is_some_and(|j| j.cluster == *cluster))
                .count();
            let over = (finished.len() + now_ended).saturating_sub(KEPT_JOBS);
            out.extend(finished.iter().take(over).map(|j| j.id.clone()));
        }
        out
    }

    /// Drops finished jobs that are too old.
    pub async fn sweep(&self) -> ApiResult<()> {
        let _turn = self.turn.lock().await;
        let oldest = self.clock.now().plus_millis(-KEPT_DAYS * 24 * 3_600_000);
        let old: Vec<JobId> = {
            let table = self.read();
            let is_old = |job: &&Job| job.status.finished.is_some_and(|at| at < oldest) && !needed(&table, &job.id);
            table.jobs.values().filter(is_old).map(|job| job.id.clone()).collect()
        };
        self.drop_jobs(old, None).await
    }

    pub(super) async fn drop_jobs(&self, ids: Vec<JobId>, tx: Option<Tx>) -> ApiResult<()> {
        if ids.is_empty() && tx.is_none() {
            return Ok(());
        }
        let mut tx = match tx {
            Some(tx) => tx,
            None => self.store.begin(self.clock.now()).await?,
        };
        for id in &ids {
            write::forget(&mut tx, id).await?;
        }
        tx.commit().await?;
        {
            let mut table = self.write();
            for id in &ids {
                table.jobs.remove(id);
            }
        }
        self.forget_logs(&ids);
        Ok(())
    }

    /// Nodes that are there drop what is kept of their logs; on others it goes when it is old.
    fn forget_logs(&self, jobs: &[JobId]) {
        if jobs.is_empty() {
            return;
        }
        for link in self.fleet.links().connected() {
            if self.clusters.computes_on(link.node()) {
                for job in jobs {
                    self.desks.forget(link.node(), job.clone());
                }
            }
        }
    }
}

/// Whether another job waits for it.
pub(super) fn needed(table: &Table, id: &JobId) -> bool {
    let waits = |job: &Job| job.status.state() == JobState::Waiting && job.spec.depends_on.contains(id);
    table.jobs.values().any(waits)
}

fn worker(edit: &Edit<'_>, candidate: &Candidate) -> Option<Worker> {
    let capacity = candidate.capacity?;
    let room = Amount {
        cpu: capacity.cpu.saturating_sub(candidate.promised.cpu),
        memory: capacity.memory.saturating_sub(candidate.promised.memory),
    };
    let mut worker = Worker {
        node: candidate.node.clone(),
        cores: u32::try_from(capacity.cpu / 1000).unwrap_or(0),
        room,
        free: room,
        available_memory: candidate.available_memory,
        pinned: std::collections::BTreeSet::new(),
        starting: 0,
    };
    // As it is with what was settled and given out in this turn.
    let here = |record: &TaskRecord| record.state == TaskState::Running && record.node.as_ref() == Some(&worker.node);
    let before = edit.table.running.get(&worker.node).into_iter().flatten();
    let mut ids: std::collections::BTreeSet<&TaskId> = before.filter(|id| edit.task(id).is_some_and(here)).collect();
    ids.extend(edit.changes.tasks.iter().filter(|(_, record)| here(record)).map(|(id, _)| id));
    for id in ids {
        let (Some(job), Some(task)) = (edit.job(&id.0), edit.task(id)) else {
            continue;
        };
        let need = job.need();
        worker.free.cpu = worker.free.cpu.saturating_sub(need.cpu);
        worker.free.memory = worker.free.memory.saturating_sub(need.memory);
        worker.pinned.extend(&task.cores);
        let fresh = edit.table.starting.contains(id) || edit.table.task(id).is_none_or(|t| t.attempts != task.attempts);
        worker.starting += u32::from(fresh);
    }
    Some(worker)
}

/// What running tasks of a cluster hold, by priority.
fn used(edit: &Edit<'_>, cluster: &ClusterId) -> BTreeMap<i64, Amount> {
    let mut out: BTreeMap<i64, Amount> = BTreeMap::new();
    for job in edit.table.of_cluster(cluster) {
        let need = job.need();
        let running = u64::from(edit.status(job).counts.running);
        out.entry(job.spec.priority()).or_default().add(Amount {
            cpu: need.cpu.saturating_mul(running),
            memory: need.memory.saturating_mul(running),
        });
    }
    out
}

/// Jobs whose dependencies have come to an end.
fn go_on<'a>(edit: &mut Edit<'a>, words: &mut Words) {
    let waiting: Vec<&'a Job> = edit
        .table
        .jobs
        .values()
        .filter(|job| edit.status(job).state() == JobState::Waiting)
        .collect();
    for job in waiting {
        let states: Vec<(JobId, Option<JobState>)> = job
            .spec
            .depends_on
            .iter()
            .map(|id| (id.clone(), edit.job(id).map(|j| edit.status(j).state())))
            .collect();
        let failed = states
            .iter()
            .find(|(_, state)| state.is_none_or(|s| s.is_final() && s != JobState::Succeeded));
        if let Some((id, _)) = failed {
            words
                .cancel
                .extend(edit.cancel(job, format!("job {id}, which it depends on, did not succeed")));
        } else if states.iter().all(|(_, state)| *state == Some(JobState::Succeeded)) {
            let mut status = edit.status(job).clone();
            status.state = Some(status.counts.state());
            status.reason = None;
            edit.changes.statuses.insert(job.id.clone(), status);
            edit.changes.served.insert(job.id.clone(), edit.now.0);
        }
    }
}

/// What an attempt's end makes of its task. One that the node has no more is of no account.
fn settle(edit: &mut Edit<'_>, node: &NodeId, result: &TaskResult) {
    let id: TaskId = (result.key.job.clone(), result.key.index);
    let (Some(job), Some(task)) = (edit.job(&id.0), edit.task(&id).cloned()) else {
        return;
    };
    let current = task.state == TaskState::Running && task.node.as_ref() == Some(node) && task.attempts == result.key.attempt;
    if !current {
        return;
    }
    edit.changes.outcomes.push(result.outcome);
    let cancelled = edit.status(job).cancelled;
    let retries = job.spec.retries();
    let mut next = TaskRecord {
        outcome: Some(result.outcome),
        exit_code: result.exit_code,
        reason: result.reason.clone(),
        started: result.began.or(task.started),
        finished: Some(result.ended),
        not_before: None,
        ..task
    };
    next.state = match result.outcome {
        TaskOutcome::Succeeded => TaskState::Succeeded,
        _ if cancelled => TaskState::Cancelled,
        TaskOutcome::ExitCode | TaskOutcome::OutOfMemory | TaskOutcome::Timeout | TaskOutcome::NotStarted => {
            next.failures += 1;
            if i64::from(next.failures) <= retries.limit.get() {
                next.not_before = Some(edit.now.plus_millis(retries.pause(next.failures - 1) * 1000));
                TaskState::Queued
            } else {
                TaskState::Failed
            }
        }
        TaskOutcome::NodeLost => {
            next.losses += 1;
            if next.losses >= LOSSES_AT_MOST {
                TaskState::SetAside
            } else {
                TaskState::Queued
            }
        }
        TaskOutcome::NeverBegan => {
            next.not_before = Some(edit.now.plus_millis(NOT_BEGUN));
            TaskState::Queued
        }
        TaskOutcome::LeaseEnded | TaskOutcome::Cancelled => TaskState::Queued,
    };
    let set_aside = next.state == TaskState::SetAside;
    if set_aside {
        let reason = format!("its node was lost each of the {LOSSES_AT_MOST} times it ran: it is not tried again");
        next.reason = Some(reason.clone());
        edit.event(
            job,
            ClusterEventKind::TaskSetAside,
            format!("task {} of {}: {reason}", id.1, label(job)),
        );
    }
    edit.set(&id, next);
}
