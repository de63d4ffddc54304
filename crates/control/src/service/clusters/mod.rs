//! Clusters: what users ask for, which node carries what of it, and what came of it.
//!
//! - `write`, `judge`: what users say, and what of it can't be. `tls`: certificates.
//! - `edges`: each node's document, made anew whenever something it is made of changes; `targets`: where members are.
//! - `seen`: what nodes' load balancers tell. `figures`: what they count. `view`: all of it as the API shows it.
//! - `database`: what clusters of that type have beside.
//! - `compute`: clusters whose servers are nodes that run jobs; all else here is about entries.
//! - `scaling`: more servers and fewer. The decisions are in [`nm_plan::cluster`] and [`nm_plan::scale`].
//!
//! Invariants: a cluster's row is the truth, and a node's document is made of rows and of what is seen of containers and nodes,
//! never changed by itself. Its generation is on disk before a node hears of it, and grows with each document. What a load
//! balancer told is written together with how far it was read.

mod acme;
mod compute;
mod database;
mod decisions;
mod edges;
mod figures;
mod judge;
mod rows;
mod scaling;
mod seen;
mod targets;
mod tls;
mod view;
mod write;

pub use compute::Compute;
pub use database::{Flushed, Primary, archive_volume};
pub use edges::Wanted;
pub use rows::{ClusterRow, ClusterState, ScaledPhase};
pub use write::bad_patch;

use crate::api::error::{ApiError, ApiResult};
use crate::service::backups::Troubles;
use crate::service::clock::SharedClock;
use crate::service::containers::Containers;
use crate::service::fleet::Fleet;
use crate::service::idempotency::Fingerprints;
use crate::service::index::Index;
use crate::service::locks::Locks;
use crate::service::nodes::Nodes;
use crate::service::outbound::Guard;
use crate::service::servers::Servers;
use acme::Acme;
use decisions::Decisions;
use edges::Edges;
use figures::Figures;
use nm_store::{Kind, Store};
use nm_types::{ClusterId, ContainerId, NodeId};
use scaling::HeldReasons;
use seen::Sights;
use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};
use targets::Names;
use tokio::sync::{Mutex, Notify, watch};

/// All clusters. Cheap to clone; clones are the same.
#[derive(Clone)]
pub struct Clusters {
    store: Store,
    clock: SharedClock,
    fleet: Fleet,
    nodes: Nodes,
    index: Index,
    servers: Servers,
    guard: Guard,
    containers: Containers,
    troubles: Troubles,
    fingerprints: Fingerprints,
    known: Arc<RwLock<BTreeMap<ClusterId, Arc<ClusterRow>>>>,
    /// Whoever changes what clusters ask for holds this, so that no two are given the same port.
    changing: Arc<Mutex<()>>,
    edges: Edges,
    sights: Sights,
    figures: Figures,
    names: Names,
    held_reasons: HeldReasons,
    decisions: Decisions,
    acme: Acme,
    /// One look at a cluster's scaling at a time.
    scaling: Locks<ClusterId>,
    /// Told when nodes' documents may have to be made anew.
    wake: Arc<Notify>,
    /// Told after what is known of any cluster has changed.
    learned: watch::Sender<()>,
    topologies: database::Topologies,
    database_wake: Arc<Notify>,
}

#[expect(clippy::too_many_arguments, reason = "wired by hand, once")]
impl Clusters {
    pub fn new(
        store: Store,
        clock: SharedClock,
        fleet: Fleet,
        nodes: Nodes,
        index: Index,
        servers: Servers,
        guard: Guard,
        containers: Containers,
        troubles: Troubles,
        acme_http_port: u16,
    ) -> Self {
        Self {
            fingerprints: Fingerprints::new(&store),
            store,
            clock,
            fleet,
            nodes,
            index,
            servers,
            guard,
            containers,
            troubles,
            known: Arc::default(),
            changing: Arc::default(),
            edges: Edges::default(),
            sights: Sights::default(),
            figures: Figures::default(),
            names: Names::default(),
            held_reasons: HeldReasons::default(),
            decisions: Decisions::default(),
            acme: Acme::new(acme_http_port),
            scaling: Locks::default(),
            wake: Arc::default(),
            learned: watch::Sender::new(()),
            topologies: database::Topologies::default(),
            database_wake: Arc::default(),
        }
    }
}

impl Clusters {
    /// Reads what the store holds.
    pub async fn load(&self) -> ApiResult<()> {
        for row in self.store.all(Kind::Cluster).await? {
            self.learn(ClusterRow::read(&self.store, &row).await?);
        }
        self.load_certificates().await?;
        self.load_names().await?;
        self.edges.load(self.store.edges().await?);
        self.figures.load(self.store.cluster_totals().await?);
        Ok(())
    }

    fn learn(&self, row: ClusterRow) -> Arc<ClusterRow> {
        let row = Arc::new(row);
        let mut known = self.known.write().unwrap_or_else(|e| e.into_inner());
        let newest = known.entry(row.id.clone()).or_insert_with(|| row.clone());
        if newest.revision <= row.revision {
            *newest = row;
        }
        self.acme.cluster_changed();
        self.learned.send_replace(());
        newest.clone()
    }

    fn unlearn(&self, id: &ClusterId) {
        self.known.write().unwrap_or_else(|e| e.into_inner()).remove(id);
        self.figures.forget(id);
        self.held_reasons.forget(id);
        self.decisions.forget(id);
        self.topologies.forget(id);
        self.acme.cluster_changed();
        self.learned.send_replace(());
    }

    /// Rereads one cluster after it was changed, here or by another replica.
    pub async fn refresh(&self, id: &ClusterId) -> ApiResult<()> {
        match self.store.get(Kind::Cluster, id.as_str()).await? {
            Some(row) => {
                self.learn(ClusterRow::read(&self.store, &row).await?);
            }
            None => self.unlearn(id),
        }
        Ok(())
    }

    fn all(&self) -> Vec<Arc<ClusterRow>> {
        self.known.read().unwrap_or_else(|e| e.into_inner()).values().cloned().collect()
    }

    fn row(&self, id: &ClusterId) -> Option<Arc<ClusterRow>> {
        self.known.read().unwrap_or_else(|e| e.into_inner()).get(id).cloned()
    }

    /// By id or name.
    fn find(&self, key: &str) -> ApiResult<Arc<ClusterRow>> {
        let known = self.known.read().unwrap_or_else(|e| e.into_inner());
        if let Ok(id) = ClusterId::parse(key)
            && let Some(row) = known.get(&id)
        {
            return Ok(row.clone());
        }
        let named = known.values().find(|row| row.stored.spec.name.as_str() == key);
        named.cloned().ok_or_else(|| ApiError::not_found("cluster", key))
    }

    /// Whether a container is a member of any cluster.
    pub fn has_member(&self, container: &ContainerId) -> bool {
        let known = self.known.read().unwrap_or_else(|e| e.into_inner());
        known.values().any(|row| row.has_member(container.as_str()))
    }

    /// Told when nodes' documents may have to be made anew.
    pub fn wanted(&self) -> &Notify {
        &self.wake
    }

    /// Whether a node carries something, or did and may not know yet that it no longer does.
    pub fn concerns(&self, node: &NodeId) -> bool {
        self.edges.wanted(node).is_some()
    }
}
