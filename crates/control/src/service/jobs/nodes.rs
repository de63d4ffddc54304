//! What is to be said to each node, and what is known of its answers.

use super::Jobs;
use crate::api::error::ApiResult;
use nm_link::contract::{RunTask, TaskKey, TasksAnswer, TasksCall};
use nm_types::container::ContainerSpec;
use nm_types::{JobId, NodeId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Tasks of one call.
const RUN_AT_ONCE: usize = 32;

/// What is to be said to a node with the next call.
#[derive(Debug, Default)]
struct Desk {
    run: BTreeSet<TaskKey>,
    /// What was said once; the node may have it, also where it did not answer.
    asked: BTreeSet<TaskKey>,
    cancel: BTreeSet<TaskKey>,
    acknowledge: BTreeSet<TaskKey>,
    forget: BTreeSet<JobId>,
    wake: Arc<Notify>,
    /// When it last answered; since this process began, where it never did.
    answered: Option<Instant>,
    /// The machine's start in which it was told to run what it has.
    boot: Option<String>,
}

#[derive(Clone)]
pub struct Desks {
    table: Arc<Mutex<HashMap<NodeId, Desk>>>,
    began: Instant,
}

impl Default for Desks {
    fn default() -> Self {
        Self {
            table: Arc::default(),
            began: Instant::now(),
        }
    }
}

impl Desks {
    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Desk>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<R>(&self, node: &NodeId, change: impl FnOnce(&mut Desk) -> R) {
        let mut table = self.lock();
        let desk = table.entry(node.clone()).or_default();
        let _what = change(desk);
        desk.wake.notify_one();
    }

    pub fn run(&self, node: &NodeId, key: TaskKey) {
        self.change(node, |desk| desk.run.insert(key));
    }
    pub fn cancel(&self, node: &NodeId, key: TaskKey) {
        self.change(node, |desk| desk.cancel.insert(key));
    }
    pub fn acknowledge(&self, node: &NodeId, key: TaskKey) {
        self.change(node, |desk| {
            desk.asked.remove(&key);
            desk.acknowledge.insert(key)
        });
    }
    pub fn forget(&self, node: &NodeId, job: JobId) {
        self.change(node, |desk| desk.forget.insert(job));
    }
    pub fn answered(&self, node: &NodeId) -> Instant {
        self.lock().get(node).and_then(|desk| desk.answered).unwrap_or(self.began)
    }
    pub fn wake_all(&self) {
        for desk in self.lock().values() {
            desk.wake.notify_one();
        }
    }
}

struct Attempt {
    spec: ContainerSpec,
    cores: Vec<u32>,
    timeout: Option<i64>,
}

/// A call on its way, with what it says.
#[derive(Debug)]
pub struct Sent {
    pub call: TasksCall,
    run: Vec<TaskKey>,
}

/// What the next call says.
#[derive(Debug)]
pub enum Orders {
    /// Nothing, and nothing runs there.
    Idle,
    /// Nothing, but tasks run there, which need a word now and then.
    Quiet,
    Say(Box<Sent>),
}

impl Jobs {
    /// Woken when there is something to say to the node.
    pub fn bell(&self, node: &NodeId) -> Arc<Notify> {
        self.desks.lock().entry(node.clone()).or_default().wake.clone()
    }

    /// Whether the node may have tasks, or has some.
    pub fn concerns(&self, node: &NodeId) -> bool {
        self.read().running.contains_key(node) || self.clusters.computes_on(node)
    }

    /// What is to be said to a node now; `due` where it needs a word in any case.
    pub async fn orders(&self, node: &NodeId, token: Option<String>, due: bool) -> ApiResult<Orders> {
        let runs = self.read().running.contains_key(node);
        let (keys, cancel, acknowledge, forget) = {
            let mut table = self.desks.lock();
            let desk = table.entry(node.clone()).or_default();
            let nothing = desk.run.is_empty() && desk.cancel.is_empty() && desk.acknowledge.is_empty() && desk.forget.is_empty();
            if nothing && !(due && runs) {
                return Ok(if runs { Orders::Quiet } else { Orders::Idle });
            }
            let keys: Vec<TaskKey> = match token {
                Some(_) => desk.run.iter().take(RUN_AT_ONCE).cloned().collect(),
                None => Vec::new(),
            };
            let words = (
                desk.cancel.iter().cloned().collect(),
                desk.acknowledge.iter().cloned().collect(),
                desk.forget.iter().cloned().collect(),
            );
            (keys, words.0, words.1, words.2)
        };
        let mut run = Vec::with_capacity(keys.len());
        let mut logins = BTreeMap::new();
        for key in keys {
            let Some(Attempt { spec, cores, timeout }) = self.attempt(node, &key)? else {
                // Given to others or cancelled meanwhile.
                self.desks.change(node, |desk| desk.run.remove(&key));
                continue;
            };
            let image = spec.image.to_string();
            let registry = match logins.get(&image) {
                Some(login) => Clone::clone(login),
                None => {
                    let login = self.registries.login_for(&spec.image).await?;
                    logins.insert(image, login.clone());
                    login
                }
            };
            run.push(RunTask {
                key,
                spec,
                cores,
                timeout,
                registry,
            });
        }
        if !run.is_empty() {
            let mut table = self.desks.lock();
            let desk = table.entry(node.clone()).or_default();
            desk.asked.extend(run.iter().map(|r| r.key.clone()));
        }
        Ok(Orders::Say(Box::new(Sent {
            run: run.iter().map(|r| r.key.clone()).collect(),
            call: TasksCall {
                token,
                lease: u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX),
                run,
                cancel,
                acknowledge,
                forget,
                list: false,
            },
        })))
    }

    /// What a node is to run, where it still has the attempt.
    fn attempt(&self, node: &NodeId, key: &TaskKey) -> ApiResult<Option<Attempt>> {
        let table = self.read();
        if !table.has(node, key) {
            return Ok(None);
        }
        let id = (key.job.clone(), key.index);
        let (Some(job), Some(task)) = (table.jobs.get(&key.job), table.task(&id)) else {
            return Ok(None);
        };
        Ok(Some(Attempt {
            spec: job.container(key)?,
            cores: task.cores.clone(),
            timeout: job.spec.timeout.map(|t| t.get()),
        }))
    }

    /// A node answered: what it took need not be said again.
    pub fn said(&self, node: &NodeId, sent: Sent, answer: &TasksAnswer) {
        self.desks.change(node, |desk| {
            desk.answered = Some(Instant::now());
            if answer.leased {
                for key in &sent.run {
                    desk.run.remove(key);
                }
                if !sent.run.is_empty() {
                    desk.boot = Some(answer.boot.clone());
                }
            }
            for key in &sent.call.cancel {
                // One that the node has not been given yet is cancelled once it was.
                if !desk.run.contains(key) {
                    desk.cancel.remove(key);
                }
            }
            for key in &sent.call.acknowledge {
                desk.acknowledge.remove(key);
            }
            for job in &sent.call.forget {
                desk.forget.remove(job);
            }
        });
    }

    /// A node said everything that it has: what it is to have and does not is said anew, what it has and is not to is ended. Gives
    /// what it had and lost with its machine's start.
    pub fn compare(&self, node: &NodeId, answer: &TasksAnswer) -> Vec<TaskKey> {
        let Some(held) = &answer.held else { return Vec::new() };
        let held: BTreeSet<&TaskKey> = held.iter().collect();
        let table = self.read();
        let cancelled = |key: &TaskKey| table.jobs.get(&key.job).is_some_and(|job| job.status.cancelled);
        let assigned: BTreeSet<TaskKey> = {
            let ids = table.running.get(node).into_iter().flatten();
            ids.filter_map(|id| table.key(id)).collect()
        };
        let unknown: Vec<TaskKey> = assigned.iter().filter(|key| !held.contains(key)).cloned().collect();
        let mut lost = Vec::new();
        self.desks.change(node, |desk| {
            desk.answered = Some(Instant::now());
            let rebooted = desk.boot.as_ref().is_some_and(|boot| *boot != answer.boot);
            for key in unknown {
                // What it never heard of can't have been lost with it.
                if rebooted && desk.asked.contains(&key) {
                    // Its answer may have been lost with it: the attempt is not to be said again.
                    desk.run.remove(&key);
                    lost.push(key);
                } else {
                    desk.run.insert(key);
                }
            }
            for key in &assigned {
                if cancelled(key) {
                    desk.cancel.insert(key.clone());
                }
            }
            for key in held {
                if !assigned.contains(key) {
                    desk.cancel.insert(key.clone());
                }
            }
            desk.asked.retain(|key| assigned.contains(key));
            desk.boot = Some(answer.boot.clone());
        });
        lost
    }
}
