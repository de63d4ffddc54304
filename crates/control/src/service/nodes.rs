//! Nodes: who they are, whether they are there, and which one a request means.

use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::Meta;
use crate::service::audit::audit;
use crate::service::auth::Actor;
use crate::service::clock::SharedClock;
use crate::service::fleet::{Agent, Fleet, offline};
use crate::service::index::Index;
use nm_store::{Kind, Patch, Resource, Store};
use nm_types::host::NodeStats;
use nm_types::node::{NodeInfo, NodeStatus, NodeUpdate, NodeView};
use nm_types::text::{Labels, NodeName};
use nm_types::{NodeId, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

/// A node's spec column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSpec {
    pub name: NodeName,
    #[serde(default)]
    pub labels: Labels,
    #[serde(default)]
    pub cordoned: bool,
}

/// A node's status column: what was last heard of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeState {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub info: Option<NodeInfo>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
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

/// All nodes. Cheap to clone.
#[derive(Clone)]
pub struct Nodes {
    store: Store,
    clock: SharedClock,
    fleet: Fleet,
    index: Index,
    known: Arc<RwLock<BTreeMap<NodeId, Known>>>,
}

impl Nodes {
    pub fn new(store: Store, clock: SharedClock, fleet: Fleet, index: Index) -> Self {
        Self {
            store,
            clock,
            fleet,
            index,
            known: Arc::default(),
        }
    }

    /// Reads all nodes from the store.
    pub async fn load(&self) -> ApiResult<()> {
        for row in self.store.all(Kind::Node).await? {
            self.learn(&row)?;
        }
        Ok(())
    }

    /// Takes in a node's row, new or changed.
    pub fn learn(&self, row: &Resource) -> ApiResult<()> {
        let Ok(id) = NodeId::parse(&row.id) else { return Ok(()) };
        let (spec, mut state): (NodeSpec, NodeState) = (row.spec()?, row.status()?);
        let mut known = self.write();
        let host = known.get(&id).and_then(|old| old.host.clone());
        if let Some(old) = known.get(&id)
            && old.state.last_seen > state.last_seen
        {
            state = old.state.clone();
        }
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
        Ok(())
    }

    /// Rereads one node after another replica changed it.
    pub async fn refresh(&self, id: &str) -> ApiResult<()> {
        match self.store.get(Kind::Node, id).await? {
            Some(row) => self.learn(&row),
            None => {
                if let Ok(id) = NodeId::parse(id) {
                    self.write().remove(&id);
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

    fn view(&self, id: &NodeId, known: &Known) -> NodeView {
        let docker = known.state.info.as_ref().is_some_and(|i| i.docker.available);
        let status = match (self.fleet.is_connected(id) && docker, known.spec.cordoned) {
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
            containers: self.index.count_on(id),
            created: known.created,
            last_seen: if self.fleet.is_connected(id) {
                Some(self.clock.now())
            } else {
                known.state.last_seen
            },
        }
    }

    pub fn list(&self) -> Vec<(NodeView, i64)> {
        self.read()
            .iter()
            .map(|(id, known)| (self.view(id, known), known.revision))
            .collect()
    }
    pub fn len(&self) -> usize {
        self.read().len()
    }
    pub fn is_empty(&self) -> bool {
        self.read().is_empty()
    }
    pub fn knows(&self, id: &NodeId) -> bool {
        self.read().contains_key(id)
    }

    pub fn get(&self, key: &str) -> ApiResult<(NodeView, i64)> {
        let id = self.find(key)?;
        let known = self.read();
        let node = known.get(&id).ok_or_else(|| ApiError::not_found("node", key))?;
        Ok((self.view(&id, node), node.revision))
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
        let now = self.clock.now();
        let write = {
            let mut known = self.write();
            let Some(node) = known.get_mut(id) else { return Ok(()) };
            node.state.last_seen = Some(now);
            match info {
                Some(info) if node.state.info.as_ref() != Some(&info) => {
                    node.state.info = Some(info);
                    Some(node.state.clone())
                }
                Some(_) | None => None,
            }
        };
        if let Some(state) = write {
            self.write_state(id, &state).await?;
        }
        Ok(())
    }

    /// The node's link came or went: listeners of events hear of it.
    pub async fn link_changed(&self, id: &NodeId) -> ApiResult<()> {
        let state = {
            let mut known = self.write();
            let Some(node) = known.get_mut(id) else { return Ok(()) };
            node.state.last_seen = Some(self.clock.now());
            node.state.clone()
        };
        self.write_state(id, &state).await
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

    /// What its machine used last.
    pub fn host(&self, id: &NodeId) -> Option<Arc<NodeStats>> {
        self.read().get(id).and_then(|n| n.host.clone())
    }

    /// Its name and labels.
    pub fn card(&self, id: &NodeId) -> Option<(NodeName, Labels)> {
        self.read().get(id).map(|n| (n.spec.name.clone(), n.spec.labels.clone()))
    }

    pub fn ids(&self) -> Vec<NodeId> {
        self.read().keys().cloned().collect()
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
        let row = self
            .store
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
        let mut tx = self.store.begin(self.clock.now()).await?;
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

    /// Takes a node out of the fleet: its certificate no longer counts and its link is closed. Its containers stay on the
    /// machine, and are no longer shown.
    pub async fn remove(&self, actor: &Actor, meta: &Meta, key: &str) -> ApiResult<NodeId> {
        let id = self.find(key)?;
        let containers = self.index.on_node(&id);
        let managed = containers.iter().filter(|c| c.managed()).count();
        if managed > 0 {
            return Err(ApiError::conflict(
                "node_in_use",
                format!("node {id} still has {managed} containers of ours: remove them first"),
            ));
        }
        let mut tx = self.store.begin(self.clock.now()).await?;
        for container in &containers {
            match tx.delete(Kind::Container, container.id.as_str()).await {
                Ok(_) | Err(nm_store::StoreError::NotFound { .. }) => {}
                Err(e) => return Err(e.into()),
            }
        }
        tx.delete(Kind::Node, id.as_str()).await?;
        tx.audit(audit(actor, meta, "node.remove", Some(id.as_str()), serde_json::json!({})))
            .await?;
        tx.commit().await?;
        self.write().remove(&id);
        self.fleet.links().close(&id);
        for container in containers {
            self.index.remove(&container.id);
        }
        Ok(id)
    }

    pub fn require_ready(&self, id: &NodeId) -> ApiResult<()> {
        if self.fleet.is_connected(id) { Ok(()) } else { Err(offline(id)) }
    }
}
