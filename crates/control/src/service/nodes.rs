//! Nodes: who they are, whether they are there, and which one a request means.

mod identity;
mod work;

use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::Meta;
use crate::service::audit::audit;
use crate::service::auth::Actor;
use crate::service::clock::SharedClock;
use crate::service::fleet::{Agent, Fleet, offline};
use crate::service::index::{Index, Share};
use crate::service::leftovers::Leftovers;
use crate::service::liveness::Liveness;
use crate::service::lost::{LostNodes, NodeLost};
use nm_link::pki::CLOCK_SKEW;
use nm_plan::place::{Amount, Candidate};
use nm_store::{Kind, Patch, Resource, Store, StoreError, Tx};
use nm_types::host::NodeStats;
use nm_types::node::{CertificateView, NodeCapacity, NodeInfo, NodeStatus, NodeUpdate, NodeUsage, NodeView};
use nm_types::text::{Labels, NodeName};
use nm_types::{NodeId, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime};
use tokio::sync::{Mutex, MutexGuard};

/// A node's spec column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSpec {
    pub name: NodeName,
    #[serde(default)]
    pub labels: Labels,
    #[serde(default)]
    pub cordoned: bool,
    /// No certificate of it counts, until it joins again with a token of its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub revoked: bool,
    /// Certificates from before do not count: it has joined again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificates_since: Option<Timestamp>,
}

impl NodeSpec {
    /// Whether a certificate that holds from `not_before` on still counts.
    pub fn accepts(&self, not_before: SystemTime) -> bool {
        let since = |t: Timestamp| SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(t.0).unwrap_or_default());
        !self.revoked && self.certificates_since.is_none_or(|t| not_before + CLOCK_SKEW >= since(t))
    }
}

/// What a node showed that it is, or said that it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeIdentity {
    /// The short name of the authority that issued its certificate.
    pub authority: String,
    pub serial: String,
    pub expires: Timestamp,
    /// The short names of the authorities it trusts; empty where it was never asked.
    #[serde(default)]
    pub trusts: Vec<String>,
}

/// A node's status column: what was last heard of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeState {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub info: Option<NodeInfo>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<NodeIdentity>,
}

#[derive(Debug, Clone)]
struct Known {
    spec: NodeSpec,
    state: NodeState,
    created: Timestamp,
    revision: i64,
    /// What its machine used last, while it is connected.
    host: Option<Arc<NodeStats>>,
}

/// A node as `GET /metrics` shows it.
#[derive(Debug, Clone)]
pub struct NodeFigures {
    pub id: NodeId,
    pub name: NodeName,
    pub connected: bool,
    pub cordoned: bool,
    pub info: Option<NodeInfo>,
    pub last_seen: Option<Timestamp>,
    /// What its machine uses; only while it is connected.
    pub host: Option<Arc<NodeStats>>,
}

/// All nodes. Cheap to clone.
#[derive(Clone)]
pub struct Nodes {
    store: Store,
    clock: SharedClock,
    fleet: Fleet,
    index: Index,
    liveness: Liveness,
    known: Arc<RwLock<BTreeMap<NodeId, Known>>>,
    leftovers: Leftovers,
    /// What tasks of jobs hold of each node.
    tasks: Arc<RwLock<HashMap<NodeId, Amount>>>,
    placing: Arc<Mutex<()>>,
}

impl Nodes {
    pub fn new(store: Store, clock: SharedClock, fleet: Fleet, index: Index, liveness: Liveness) -> Self {
        let leftovers = Leftovers::new(store.clone(), clock.clone(), fleet.clone(), index.clone());
        Self {
            store,
            clock,
            fleet,
            index,
            liveness,
            known: Arc::default(),
            leftovers,
            tasks: Arc::default(),
            placing: Arc::default(),
        }
    }

    /// Older copies of containers, to be removed from their nodes.
    pub fn leftovers(&self) -> &Leftovers {
        &self.leftovers
    }
    /// The nodes that are lost.
    pub fn lost(&self) -> &LostNodes {
        self.liveness.lost()
    }
    /// Whoever chooses a node holds this until the container's record says so: what is promised counts for the next one.
    pub async fn placing(&self) -> MutexGuard<'_, ()> {
        self.placing.lock().await
    }

    /// Reads all nodes from the store.
    pub async fn load(&self) -> ApiResult<()> {
        for row in self.store.all(Kind::Node).await? {
            self.learn(&row)?;
        }
        self.leftovers.load().await
    }

    /// Takes in a node's row, new or changed.
    pub fn learn(&self, row: &Resource) -> ApiResult<()> {
        let Ok(id) = NodeId::parse(&row.id) else { return Ok(()) };
        let (spec, mut state): (NodeSpec, NodeState) = (row.spec()?, row.status()?);
        self.liveness.track(&id);
        let mut known = self.write();
        let host = known.get(&id).and_then(|old| old.host.clone());
        let identity = state.identity.clone();
        if let Some(old) = known.get(&id)
            && old.state.last_seen > state.last_seen
        {
            state = old.state.clone();
        }
        // Written before it is kept here, also by other replicas: the row is right.
        state.identity = identity;
        known.insert(
            id,
            Known {
                spec,
                state,
                created: row.created_at,
                revision: row.revision,
                host,
            },
        );
        self.index.room().notify_one();
        Ok(())
    }

    /// Rereads one node after another replica changed it.
    pub async fn refresh(&self, id: &str) -> ApiResult<()> {
        match self.store.get(Kind::Node, id).await? {
            Some(row) => self.learn(&row),
            None => {
                if let Ok(id) = NodeId::parse(id) {
                    self.write().remove(&id);
                    self.liveness.forget(&id);
                }
                Ok(())
            }
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<NodeId, Known>> {
        self.known.read().unwrap_or_else(|e| e.into_inner())
    }
    fn write(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<NodeId, Known>> {
        self.known.write().unwrap_or_else(|e| e.into_inner())
    }

    fn view(&self, id: &NodeId, known: &Known, share: Share) -> NodeView {
        let docker = known.state.info.as_ref().is_some_and(|i| i.docker.available);
        let lost_since = self.liveness.lost_since(id);
        let status = match (self.is_there(id) && docker, known.spec.cordoned) {
            (false, _) => NodeStatus::NotReady,
            (true, true) => NodeStatus::Cordoned,
            (true, false) => NodeStatus::Ready,
        };
        NodeView {
            id: id.clone(),
            name: known.spec.name.clone(),
            status,
            labels: known.spec.labels.clone(),
            info: known.state.info.clone(),
            containers: share.containers,
            created: known.created,
            last_seen: self.liveness.heard_at(id).max(known.state.last_seen),
            lost_since,
            link: self.liveness.line(id),
            usage: self.connected_host(id, known).map(|h| NodeUsage::from(&**h)),
            capacity: known.state.info.as_ref().map(|info| NodeCapacity {
                cpus: info.cpus,
                memory: info.memory,
                disk_total: self.connected_host(id, known).map(|h| h.disks.iter().map(|d| d.total).sum()),
            }),
            allocated: self.allocated(id, &share),
            certificate: known.state.identity.as_ref().map(|i| CertificateView {
                authority: i.authority.clone(),
                expires: i.expires,
            }),
            revoked: known.spec.revoked,
        }
    }

    /// Connected, and not silent for too long.
    fn is_there(&self, id: &NodeId) -> bool {
        self.fleet.is_connected(id) && self.liveness.lost_since(id).is_none()
    }
    fn connected_host<'a>(&self, id: &NodeId, known: &'a Known) -> Option<&'a Arc<NodeStats>> {
        known.host.as_ref().filter(|_| self.fleet.is_connected(id))
    }

    pub fn list(&self) -> Vec<(NodeView, i64)> {
        let mut shares = self.index.shares();
        self.read()
            .iter()
            .map(|(id, known)| (self.view(id, known, shares.remove(id).unwrap_or_default()), known.revision))
            .collect()
    }
    pub fn len(&self) -> usize {
        self.read().len()
    }
    pub fn is_empty(&self) -> bool {
        self.read().is_empty()
    }
    pub fn ids(&self) -> Vec<NodeId> {
        self.read().keys().cloned().collect()
    }
    /// The node's name, or its id where it is not known.
    pub fn name(&self, id: &NodeId) -> String {
        self.read().get(id).map_or_else(|| id.to_string(), |n| n.spec.name.to_string())
    }
    /// Every node as a place for containers, with nothing on it yet.
    pub fn candidates(&self) -> Vec<Candidate> {
        let candidate = |(id, known): (&NodeId, &Known)| {
            let info = known.state.info.as_ref();
            Candidate {
                node: id.clone(),
                name: known.spec.name.to_string(),
                labels: known.spec.labels.clone(),
                ready: self.is_there(id) && info.is_some_and(|i| i.docker.available),
                cordoned: known.spec.cordoned,
                arch: info.map(|i| i.arch.clone()),
                os: info.map(|i| i.os.clone()),
                capacity: info.map(|i| Amount {
                    cpu: u64::from(i.cpus) * 1000,
                    memory: i.memory,
                }),
                promised: Amount::default(),
                available_memory: known.host.as_ref().map(|h| h.memory.available),
                ports: Vec::new(),
                name_taken: false,
                kin: 0,
                barred: None,
            }
        };
        self.read().iter().map(candidate).collect()
    }
    pub fn knows(&self, id: &NodeId) -> bool {
        self.read().contains_key(id)
    }

    pub fn get(&self, key: &str) -> ApiResult<(NodeView, i64)> {
        let id = self.find(key)?;
        let share = self.index.share_of(&id);
        let known = self.read();
        let node = known.get(&id).ok_or_else(|| ApiError::not_found("node", key))?;
        Ok((self.view(&id, node, share), node.revision))
    }

    /// The node with this id or name.
    pub fn find(&self, key: &str) -> ApiResult<NodeId> {
        let known = self.read();
        if let Ok(id) = NodeId::parse(key)
            && known.contains_key(&id)
        {
            return Ok(id);
        }
        known
            .iter()
            .find(|(_, n)| n.spec.name.as_str() == key)
            .map(|(id, _)| id.clone())
            .ok_or_else(|| ApiError::not_found("node", key).field("nodeId"))
    }

    /// The node a request means: the one it names, or the only one there is.
    pub fn choose(&self, key: Option<&str>) -> ApiResult<NodeId> {
        if let Some(key) = key {
            return self.find(key);
        }
        let known = self.read();
        let mut ids = known.keys();
        match (ids.next(), ids.next()) {
            (Some(id), None) => Ok(id.clone()),
            (None, _) => Err(ApiError::conflict(
                "no_nodes",
                "the fleet has no node yet: make a join token and run `neuralmesh agent` on a machine",
            )),
            (Some(_), Some(_)) => {
                let names: Vec<&str> = known.values().map(|n| n.spec.name.as_str()).collect();
                Err(ApiError::conflict(
                    "node_not_named",
                    format!("there are several nodes, say which one: {}", names.join(", ")),
                )
                .field("nodeId"))
            }
        }
    }

    /// As [`Nodes::choose`], and its agent; with `new_work` a cordoned node is refused.
    pub fn agent(&self, key: Option<&str>, new_work: bool) -> ApiResult<(NodeId, Agent)> {
        let id = self.choose(key)?;
        let cordoned = self.read().get(&id).is_some_and(|n| n.spec.cordoned);
        if new_work && cordoned {
            return Err(ApiError::conflict("node_cordoned", format!("node {id} is cordoned: it takes no new containers")).field("nodeId"));
        }
        let agent = self.fleet.agent(&id)?;
        Ok((id, agent))
    }

    /// What a node's agent says of it. Written to the store only when it says something new.
    pub async fn heard(&self, id: &NodeId, info: Option<NodeInfo>) -> ApiResult<()> {
        let Some(mut info) = info else { return Ok(()) };
        let state = {
            let mut known = self.write();
            let Some(node) = known.get_mut(id) else { return Ok(()) };
            // An engine that does not answer says nothing of it, and it stays where it is.
            if !info.docker.available {
                info.docker.bridge = node.state.info.as_ref().and_then(|known| known.docker.bridge);
            }
            if node.state.info.as_ref() == Some(&info) {
                return Ok(());
            }
            node.state.info = Some(info);
            node.state.last_seen = self.liveness.heard_at(id).max(node.state.last_seen);
            node.state.clone()
        };
        self.index.room().notify_one();
        self.write_state(id, &state).await
    }

    /// The node's link came or went. What it used before says nothing of now; where it has room again, that may be waited for.
    pub fn link_changed(&self, id: &NodeId) {
        if let Some(node) = self.write().get_mut(id) {
            node.host = None;
        }
        self.index.room().notify_one();
    }

    /// These nodes' links came or went, or they were lost, or are back: listeners of events hear of it.
    pub async fn links_changed(&self, ids: &BTreeSet<NodeId>) -> ApiResult<()> {
        let states: Vec<(NodeId, NodeState)> = {
            let mut known = self.write();
            let seen = ids.iter().filter_map(|id| {
                let node = known.get_mut(id)?;
                node.state.last_seen = self.liveness.heard_at(id).max(node.state.last_seen);
                Some((id.clone(), node.state.clone()))
            });
            seen.collect()
        };
        let mut tx = self.store.begin(self.clock.now()).await?;
        let mut written = Vec::with_capacity(states.len());
        for (id, state) in &states {
            match tx.update(Kind::Node, id.as_str(), Patch::new().status(state)?).await {
                Ok(row) => written.push((id, row.revision)),
                // Removed meanwhile.
                Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        tx.commit().await?;
        let mut known = self.write();
        for (id, revision) in written {
            if let Some(node) = known.get_mut(id) {
                node.revision = node.revision.max(revision);
            }
        }
        Ok(())
    }

    async fn write_state(&self, id: &NodeId, state: &NodeState) -> ApiResult<()> {
        let mut tx = self.store.begin(self.clock.now()).await?;
        let row = tx.update(Kind::Node, id.as_str(), Patch::new().status(state)?).await?;
        tx.commit().await?;
        if let Some(node) = self.write().get_mut(id) {
            node.revision = row.revision;
        }
        Ok(())
    }

    /// What its machine uses, as its agent just said.
    pub fn host_seen(&self, id: &NodeId, stats: NodeStats) {
        if let Some(node) = self.write().get_mut(id) {
            node.host = Some(Arc::new(stats));
        }
    }

    /// What its machine used last, while it is connected.
    pub fn host(&self, id: &NodeId) -> Option<Arc<NodeStats>> {
        self.read().get(id).and_then(|n| self.connected_host(id, n).cloned())
    }

    /// All of them in the order of their ids, without counting what is on them.
    pub fn figures(&self) -> Vec<NodeFigures> {
        let figures = |(id, known): (&NodeId, &Known)| {
            let connected = self.fleet.is_connected(id);
            NodeFigures {
                id: id.clone(),
                name: known.spec.name.clone(),
                connected,
                cordoned: known.spec.cordoned,
                info: known.state.info.clone(),
                last_seen: self.liveness.heard_at(id).max(known.state.last_seen),
                host: known.host.clone().filter(|_| connected),
            }
        };
        self.read().iter().map(figures).collect()
    }

    /// Its name and labels.
    pub fn card(&self, id: &NodeId) -> Option<(NodeName, Labels)> {
        self.read().get(id).map(|n| (n.spec.name.clone(), n.spec.labels.clone()))
    }

    /// What its agent last said of it.
    pub fn info(&self, id: &NodeId) -> Option<NodeInfo> {
        self.read().get(id).and_then(|n| n.state.info.clone())
    }

    /// The Docker part of what is known of a node changed.
    pub async fn docker_changed(&self, id: &NodeId, docker: nm_types::node::DockerInfo) -> ApiResult<()> {
        let info = self.info(id).map(|info| NodeInfo { docker, ..info });
        self.heard(id, info).await
    }

    pub async fn update(&self, actor: &Actor, meta: &Meta, key: &str, change: NodeUpdate) -> ApiResult<(NodeView, i64)> {
        let id = self.find(key)?;
        // In the transaction: what is heard of the node meanwhile is no change that the caller could have meant.
        let mut tx = self.store.begin(self.clock.now()).await?;
        let row = tx
            .get(Kind::Node, id.as_str())
            .await?
            .ok_or_else(|| ApiError::not_found("node", key))?;
        let mut spec: NodeSpec = row.spec()?;
        let detail = serde_json::to_value(&change).unwrap_or_default();
        if let Some(name) = change.name {
            spec.name = name;
        }
        if let Some(labels) = change.labels {
            spec.labels = labels;
        }
        if let Some(cordoned) = change.cordoned {
            spec.cordoned = cordoned;
        }
        let mut patch = Patch::new().spec(&spec)?.if_revision(meta.if_match.unwrap_or(row.revision));
        if spec.name.as_str() != row.name {
            patch = patch.name(spec.name.as_str());
        }
        tx.update(Kind::Node, id.as_str(), patch).await?;
        tx.audit(audit(actor, meta, "node.update", Some(id.as_str()), detail)).await?;
        tx.commit().await?;
        self.refresh(id.as_str()).await?;
        self.get(id.as_str())
    }

    /// Lets a node take new containers, or keeps them from it.
    pub async fn cordon(&self, actor: &Actor, meta: &Meta, key: &str, cordoned: bool) -> ApiResult<(NodeView, i64)> {
        let id = self.find(key)?;
        let mut tx = self.store.begin(self.clock.now()).await?;
        let row = self.cordon_in(&mut tx, &id, cordoned, meta.if_match).await?;
        let action = if cordoned { "node.cordon" } else { "node.uncordon" };
        tx.audit(audit(actor, meta, action, Some(id.as_str()), serde_json::json!({})))
            .await?;
        tx.commit().await?;
        self.learn(&row)?;
        self.get(id.as_str())
    }

    /// As part of something greater; [`Nodes::learn`] the row once that is committed.
    pub async fn cordon_in(&self, tx: &mut Tx, id: &NodeId, cordoned: bool, if_match: Option<i64>) -> ApiResult<Resource> {
        let row = tx.get(Kind::Node, id.as_str()).await?;
        let row = row.ok_or_else(|| ApiError::not_found("node", id.as_str()))?;
        let mut spec: NodeSpec = row.spec()?;
        if spec.cordoned == cordoned && if_match.is_none_or(|wanted| wanted == row.revision) {
            return Ok(row);
        }
        spec.cordoned = cordoned;
        let mut patch = Patch::new().spec(&spec)?;
        if let Some(revision) = if_match {
            patch = patch.if_revision(revision);
        }
        Ok(tx.update(Kind::Node, id.as_str(), patch).await?)
    }

    /// The node, where nothing speaks against its removal.
    pub fn may_remove(&self, key: &str, force: bool) -> ApiResult<NodeId> {
        let id = self.find(key)?;
        let managed = self.index.on_node(&id).iter().filter(|c| c.managed()).count();
        if managed > 0 && !force {
            return Err(ApiError::conflict(
                "node_in_use",
                format!(
                    "node {id} still has {managed} containers of ours: drain it or remove them first, or use force=true to leave them \
                     on the machine, unknown to us"
                ),
            ));
        }
        Ok(id)
    }

    /// Takes a node out of the fleet: its certificate no longer counts and its link is closed. Its containers stay on the
    /// machine, and are no longer shown. With containers of ours it is refused, unless `force` says that they are to be forgotten.
    pub async fn remove(&self, actor: &Actor, meta: &Meta, key: &str, force: bool) -> ApiResult<NodeId> {
        let id = self.may_remove(key, force)?;
        // None is placed there meanwhile.
        let _placing = self.placing().await;
        self.may_remove(id.as_str(), force)?;
        let containers = self.index.on_node(&id);
        let managed = containers.iter().filter(|c| c.managed()).count();
        let mut tx = self.store.begin(self.clock.now()).await?;
        for container in &containers {
            match tx.delete(Kind::Container, container.id.as_str()).await {
                Ok(_) | Err(StoreError::NotFound { .. }) => {}
                Err(e) => return Err(e.into()),
            }
        }
        self.leftovers.forget_node(&mut tx, &id).await?;
        tx.delete(Kind::Node, id.as_str()).await?;
        tx.forget_node_events(id.as_str()).await?;
        let detail = serde_json::json!({ "force": force, "containers": managed });
        tx.audit(audit(actor, meta, "node.remove", Some(id.as_str()), detail)).await?;
        tx.commit().await?;
        self.leftovers.forgot_node(&id);
        // Whoever waits for it waits in vain.
        self.lost().add(NodeLost {
            node: id.clone(),
            last_seen: None,
        });
        self.write().remove(&id);
        self.fleet.links().close(&id);
        self.liveness.forget(&id);
        for container in containers {
            self.index.remove(&container.id);
        }
        Ok(id)
    }

    pub fn require_ready(&self, id: &NodeId) -> ApiResult<()> {
        if self.fleet.is_connected(id) { Ok(()) } else { Err(offline(id)) }
    }
}
