//! Jobs of compute clusters: a queue in the store, given out to nodes task by task.
//!
//! - `rows`: a job and its tasks as they are kept. `table`: all of them in memory, and changes on their way to the store.
//! - `write`: what users ask for. `view`: what they are shown.
//! - `turn`: what nodes told, who is lost, what is given out next; one after another, one transaction each.
//! - `scaling`: how many of a cluster's nodes are in use.
//! - `nodes`: what is to be said to each node, and when it last answered.
//!
//! Invariants: that a node has an attempt of a task is on disk before the node is asked. A node's result is acknowledged only after it
//! is on disk. A task goes to another node only once the one before can't run it any more: it said how the attempt ended, or has not
//! answered for longer than its lease allows it to run without ([`GIVE_UP`]). One change of jobs goes after another; what is in memory
//! is what was written.

mod nodes;
mod rows;
mod scaling;
mod table;
mod turn;
mod view;
mod write;

pub use nodes::{Orders, Sent};
pub use view::JobFilter;

use crate::api::error::{ApiError, ApiResult};
use crate::service::clock::SharedClock;
use crate::service::clusters::Clusters;
use crate::service::containers::Containers;
use crate::service::fleet::Fleet;
use crate::service::idempotency::Fingerprints;
use crate::service::nodes::Nodes;
use crate::service::registries::Registries;
use nm_link::contract::TaskNews;
use nm_plan::queue::InUse;
use nm_store::{Kind, Store};
use nm_types::job::TaskOutcome;
use nm_types::{ClusterId, JobId, NodeId};
use nodes::Desks;
use rows::Job;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;
use table::Table;
use tokio::sync::{Mutex as AsyncMutex, Notify};

/// How long a node lets tasks run without a word of ours. Long enough for a control plane to be started again.
pub const LEASE: Duration = Duration::from_secs(20);
/// A node's tasks are given to others when it has not answered for so many leases: the half one more is for ending them.
pub const GIVE_UP: f64 = 1.5;

/// How attempts ended since this process began, and how often.
#[derive(Debug, Default)]
pub struct Ended(Mutex<BTreeMap<&'static str, u64>>);

impl Ended {
    fn count(&self, outcomes: &[TaskOutcome]) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for outcome in outcomes {
            *counts.entry(outcome.as_str()).or_default() += 1;
        }
    }
    pub fn of(&self, outcome: TaskOutcome) -> u64 {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(outcome.as_str()).copied().unwrap_or(0)
    }
}

/// All jobs. Cheap to clone; clones are the same.
#[derive(Clone)]
pub struct Jobs {
    store: Store,
    clock: SharedClock,
    fleet: Fleet,
    nodes: Nodes,
    containers: Containers,
    clusters: Clusters,
    registries: Registries,
    fingerprints: Fingerprints,
    lease: Duration,
    table: Arc<RwLock<Table>>,
    desks: Desks,
    /// Who changes jobs holds it.
    turn: Arc<AsyncMutex<()>>,
    /// What nodes told and nobody has looked at yet.
    inbox: Arc<Mutex<Vec<(NodeId, TaskNews)>>>,
    /// There may be something to give out.
    wake: Arc<Notify>,
    ended: Arc<Ended>,
    /// How many nodes of each cluster are in use, where not all are.
    in_use: Arc<Mutex<BTreeMap<ClusterId, InUse>>>,
}

#[expect(clippy::too_many_arguments, reason = "wired by hand, once")]
impl Jobs {
    pub fn new(
        store: Store,
        clock: SharedClock,
        fleet: Fleet,
        nodes: Nodes,
        containers: Containers,
        clusters: Clusters,
        registries: Registries,
        lease: Duration,
    ) -> Self {
        Self {
            fingerprints: Fingerprints::new(&store),
            store,
            clock,
            fleet,
            nodes,
            containers,
            clusters,
            registries,
            lease,
            table: Arc::default(),
            desks: Desks::default(),
            turn: Arc::default(),
            inbox: Arc::default(),
            wake: Arc::default(),
            ended: Arc::default(),
            in_use: Arc::default(),
        }
    }
}

impl Jobs {
    /// Reads what the store holds. Jobs whose cluster went while we were away go, too.
    pub async fn load(&self) -> ApiResult<()> {
        let mut table = Table::default();
        let mut stray = Vec::new();
        for row in self.store.all(Kind::Job).await? {
            let job = Job::read(&self.store, &row).await?;
            match self.clusters.nodes_of(&job.cluster) {
                Some(_) => table.put(job),
                None => stray.push(job.id),
            }
        }
        *self.write() = table;
        self.promise();
        if !stray.is_empty() {
            let mut tx = self.store.begin(self.clock.now()).await?;
            for id in &stray {
                write::forget(&mut tx, id).await?;
            }
            tx.commit().await?;
        }
        Ok(())
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }
    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// What tasks hold of nodes counts for whoever places containers.
    fn promise(&self) {
        let promised = self.read().promised();
        self.nodes.promise_tasks(promised);
    }

    /// Told when there may be something to give out.
    pub fn wanted(&self) -> &Notify {
        &self.wake
    }

    pub fn ended(&self) -> &Ended {
        &self.ended
    }

    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// After this long without an answer a node runs nothing any more.
    fn give_up(&self) -> Duration {
        self.lease.mul_f64(GIVE_UP)
    }

    /// Clusters have other nodes than before.
    pub fn members_changed(&self) {
        self.desks.wake_all();
    }

    /// What a node told; it is looked at in the next turn.
    pub fn told(&self, node: &NodeId, news: Vec<TaskNews>) {
        if news.is_empty() {
            return;
        }
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        inbox.extend(news.into_iter().map(|n| (node.clone(), n)));
        drop(inbox);
        self.wake.notify_one();
    }
}

fn not_found(key: &str) -> ApiError {
    ApiError::not_found("job", key)
}

impl Jobs {
    /// The cluster and the job of a path; a job of another cluster is not found.
    fn find<T>(&self, cluster: &str, job: &str, look: impl FnOnce(&Job) -> T) -> ApiResult<T> {
        let cluster = self.clusters.compute(cluster)?;
        let id = JobId::parse(job).map_err(|_| not_found(job))?;
        let table = self.read();
        let found = table.jobs.get(&id).filter(|j| j.cluster == cluster.id);
        found.map(look).ok_or_else(|| not_found(job))
    }
}
