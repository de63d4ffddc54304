//! Servers: everything that can take traffic, be checked or be backed up, in one shape and found by one function.
//!
//! A server is a node, a container, a cloud instance, or an address that was registered by hand. Wherever the API says
//! `serverId`, [`Servers::resolve`] says what is meant.

use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::Meta;
use crate::service::audit::audit;
use crate::service::auth::Actor;
use crate::service::clock::SharedClock;
use crate::service::health::Table;
use crate::service::index::{Index, Record};
use crate::service::nodes::Nodes;
use crate::service::outbound::Guard;
use nm_store::{Kind, ListQuery, NewResource, Patch, Resource, Store, StoreError};
use nm_types::node::NodeView;
use nm_types::server::{NewServer, ServerKind, ServerUpdate, ServerView};
use nm_types::{ContainerId, InstanceId, NodeId, ServerId, Timestamp};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// A server's id, with its kind. The order is that of the ids as texts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServerKey {
    Container(ContainerId),
    Instance(InstanceId),
    Node(NodeId),
    Address(ServerId),
}

impl ServerKey {
    pub fn parse(text: &str) -> Option<Self> {
        ContainerId::parse(text)
            .map(Self::Container)
            .or_else(|_| InstanceId::parse(text).map(Self::Instance))
            .or_else(|_| NodeId::parse(text).map(Self::Node))
            .or_else(|_| ServerId::parse(text).map(Self::Address))
            .ok()
    }
    pub fn as_str(&self) -> &str {
        match self {
            Self::Container(id) => id.as_str(),
            Self::Instance(id) => id.as_str(),
            Self::Node(id) => id.as_str(),
            Self::Address(id) => id.as_str(),
        }
    }
    pub fn kind(&self) -> ServerKind {
        match self {
            Self::Container(_) => ServerKind::Container,
            Self::Instance(_) => ServerKind::Instance,
            Self::Node(_) => ServerKind::Node,
            Self::Address(_) => ServerKind::Address,
        }
    }
}

impl std::fmt::Display for ServerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which server something is about, in short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerRef {
    pub key: ServerKey,
    pub name: String,
    /// The node a container is on.
    pub node: Option<NodeId>,
}

/// A server, whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    pub view: ServerView,
    pub key: ServerKey,
    /// What was registered, of an address.
    pub registered: Option<NewServer>,
    pub revision: i64,
}

impl Server {
    pub fn reference(&self) -> ServerRef {
        ServerRef {
            key: self.key.clone(),
            name: self.view.name.clone(),
            node: self.view.node_id.clone(),
        }
    }
}

#[derive(Debug, Clone)]
struct Known {
    spec: NewServer,
    created: Timestamp,
    revision: i64,
}

/// Which servers a list wants.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted<'a> {
    pub kind: Option<ServerKind>,
    /// The last id of the page before.
    pub after: Option<&'a str>,
    pub limit: usize,
}

impl Wanted<'_> {
    /// Whether any id of this kind can lie behind `after`.
    fn takes(&self, kind: ServerKind, prefix: &str) -> bool {
        let behind = self.after.is_none_or(|after| after < prefix || after.starts_with(prefix));
        behind && self.kind.is_none_or(|k| k == kind)
    }
}

/// All servers. Cheap to clone.
#[derive(Clone)]
pub struct Servers {
    store: Store,
    clock: SharedClock,
    nodes: Nodes,
    index: Index,
    guard: Guard,
    health: Table,
    /// The addresses that were registered.
    known: Arc<RwLock<BTreeMap<ServerId, Known>>>,
}

impl Servers {
    pub fn new(store: Store, clock: SharedClock, nodes: Nodes, index: Index, guard: Guard, health: Table) -> Self {
        Self {
            store,
            clock,
            nodes,
            index,
            guard,
            health,
            known: Arc::default(),
        }
    }

    /// Reads the registered addresses from the store.
    pub async fn load(&self) -> ApiResult<()> {
        for row in self.store.all(Kind::Server).await? {
            self.learn(&row)?;
        }
        Ok(())
    }

    fn learn(&self, row: &Resource) -> ApiResult<()> {
        let Ok(id) = ServerId::parse(&row.id) else { return Ok(()) };
        let known = Known {
            spec: row.spec()?,
            created: row.created_at,
            revision: row.revision,
        };
        self.write().insert(id, known);
        Ok(())
    }

    /// Rereads one address after it was changed, here or by another replica.
    pub async fn refresh(&self, id: &ServerId) -> ApiResult<()> {
        match self.store.get(Kind::Server, id.as_str()).await? {
            Some(row) => self.learn(&row),
            None => {
                self.write().remove(id);
                Ok(())
            }
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<ServerId, Known>> {
        self.known.read().unwrap_or_else(|e| e.into_inner())
    }
    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<ServerId, Known>> {
        self.known.write().unwrap_or_else(|e| e.into_inner())
    }

    /// The server with this id, or with this name where exactly one has it.
    pub async fn resolve(&self, text: &str) -> ApiResult<Server> {
        if let Some(key) = ServerKey::parse(text)
            && let Some(server) = self.get(&key).await?
        {
            return Ok(server);
        }
        let mut found = Vec::new();
        let mut ambiguous = 0;
        if let Ok((node, revision)) = self.nodes.get(text) {
            found.push(of_node(node, revision));
        }
        match self.index.find(text) {
            Ok(record) => found.push(of_container(&record)),
            Err(many) => ambiguous += many,
        }
        let by_name = |(id, known): (&ServerId, &Known)| (known.spec.name.as_str() == text).then(|| self.of_address(id, known));
        found.extend(self.read().iter().find_map(by_name));
        for row in self.store.named(Kind::Instance, text, None).await? {
            found.extend(of_instance(&row)?);
        }
        match (found.len() + ambiguous, found.pop()) {
            (1, Some(server)) => Ok(server),
            (0, _) => Err(ApiError::not_found("server", text).field("serverId")),
            (many, _) => {
                let shown: String = text.chars().take(100).collect();
                Err(ApiError::conflict("ambiguous_name", format!("{many} servers are called `{shown}`: use the id")).field("serverId"))
            }
        }
    }

    /// The server of that id, where there is one.
    pub async fn get(&self, key: &ServerKey) -> ApiResult<Option<Server>> {
        Ok(match key {
            ServerKey::Node(id) => self.nodes.get(id.as_str()).ok().map(|(node, revision)| of_node(node, revision)),
            ServerKey::Container(id) => self.index.get(id).map(|record| of_container(&record)),
            ServerKey::Address(id) => self.read().get(id).map(|known| self.of_address(id, known)),
            ServerKey::Instance(id) => match self.store.get(Kind::Instance, id.as_str()).await? {
                Some(row) => of_instance(&row)?,
                None => None,
            },
        })
    }

    /// Its name now, and the node a container is on; nothing of instances, which are not in memory.
    pub fn name(&self, key: &ServerKey) -> Option<(String, Option<NodeId>)> {
        match key {
            ServerKey::Node(id) => self.nodes.card(id).map(|(name, _)| (name.to_string(), None)),
            ServerKey::Container(id) => self.index.get(id).map(|r| (r.name().to_owned(), Some(r.node.clone()))),
            ServerKey::Address(id) => self.read().get(id).map(|k| (k.spec.name.to_string(), None)),
            ServerKey::Instance(_) => None,
        }
    }

    /// In the order of their ids.
    pub async fn list(&self, wanted: Wanted<'_>) -> ApiResult<Vec<ServerView>> {
        let mut out: Vec<ServerView> = Vec::new();
        let room = |out: &Vec<ServerView>| wanted.limit.saturating_sub(out.len());
        if wanted.takes(ServerKind::Container, "cont_") {
            let containers = self.index.behind(wanted.after, wanted.limit);
            out.extend(containers.iter().map(|r| of_container(r).view));
        }
        if room(&out) > 0 && wanted.takes(ServerKind::Instance, "inst_") {
            let query = ListQuery {
                after: wanted.after,
                ..ListQuery::of(Kind::Instance, u32::try_from(room(&out)).unwrap_or(u32::MAX))
            };
            for row in self.store.list(query).await? {
                out.extend(of_instance(&row)?.map(|s| s.view));
            }
        }
        if room(&out) > 0 && wanted.takes(ServerKind::Node, "node_") {
            let behind = |node: &NodeView| wanted.after.is_none_or(|after| node.id.as_str() > after);
            let nodes = self.nodes.list().into_iter().filter(|(node, _)| behind(node)).take(room(&out));
            let views: Vec<ServerView> = nodes.map(|(node, revision)| of_node(node, revision).view).collect();
            out.extend(views);
        }
        if room(&out) > 0 && wanted.takes(ServerKind::Address, "server_") {
            let start = wanted.after.map_or(Bound::Unbounded, Bound::Excluded);
            let known = self.read();
            let addresses = known.range::<str, _>((start, Bound::Unbounded)).take(room(&out));
            let views: Vec<ServerView> = addresses.map(|(id, known)| self.of_address(id, known).view).collect();
            out.extend(views);
        }
        Ok(out)
    }

    /// The ids of all that may have to be checked.
    pub async fn keys(&self) -> ApiResult<Vec<ServerKey>> {
        let mut keys: Vec<ServerKey> = self.index.meant_to_run().into_iter().map(ServerKey::Container).collect();
        for row in self.store.all(Kind::Instance).await? {
            keys.extend(InstanceId::parse(&row.id).map(ServerKey::Instance));
        }
        keys.extend(self.nodes.list().into_iter().map(|(node, _)| ServerKey::Node(node.id)));
        keys.extend(self.read().keys().cloned().map(ServerKey::Address));
        Ok(keys)
    }

    fn of_address(&self, id: &ServerId, known: &Known) -> Server {
        let key = ServerKey::Address(id.clone());
        let spec = &known.spec;
        Server {
            view: ServerView {
                id: id.to_string(),
                kind: ServerKind::Address,
                name: spec.name.to_string(),
                address: Some(spec.address.to_string()),
                node_id: None,
                port: spec.port,
                probe: spec.probe.clone(),
                status: self.health.status(&key).as_str().to_owned(),
                created: known.created,
            },
            key,
            registered: Some(spec.clone()),
            revision: known.revision,
        }
    }

    pub async fn create(&self, actor: &Actor, meta: &Meta, new: NewServer) -> ApiResult<Server> {
        self.judge(&new)?;
        let now = self.clock.now();
        let id = ServerId::fresh(now.0);
        let row = NewResource::new(Kind::Server, id.as_str())
            .uniquely_named(new.name.as_str())
            .spec(&new)?;
        let mut tx = self.store.begin(now).await?;
        let row = tx.insert(row).await.map_err(|e| taken(e, &new))?;
        tx.audit(audit(actor, meta, "server.create", Some(id.as_str()), detail(&new)))
            .await?;
        tx.commit().await?;
        self.learn(&row)?;
        self.resolve(id.as_str()).await
    }

    pub async fn update(&self, actor: &Actor, meta: &Meta, key: &str, change: ServerUpdate) -> ApiResult<Server> {
        let (id, mut spec, revision) = self.registered(key).await?;
        if let Some(name) = change.name {
            spec.name = name;
        }
        if let Some(address) = change.address {
            spec.address = address;
        }
        spec.port = change.port.or(spec.port);
        spec.probe = change.probe.or(spec.probe);
        self.judge(&spec)?;
        let patch = Patch::new()
            .spec(&spec)?
            .name(spec.name.as_str())
            .if_revision(meta.if_match.unwrap_or(revision));
        let mut tx = self.store.begin(self.clock.now()).await?;
        let row = tx.update(Kind::Server, id.as_str(), patch).await.map_err(|e| taken(e, &spec))?;
        tx.audit(audit(actor, meta, "server.update", Some(id.as_str()), detail(&spec)))
            .await?;
        tx.commit().await?;
        self.learn(&row)?;
        self.resolve(id.as_str()).await
    }

    pub async fn remove(&self, actor: &Actor, meta: &Meta, key: &str) -> ApiResult<ServerId> {
        let (id, ..) = self.registered(key).await?;
        let mut tx = self.store.begin(self.clock.now()).await?;
        tx.delete(Kind::Server, id.as_str()).await?;
        tx.audit(audit(actor, meta, "server.remove", Some(id.as_str()), serde_json::json!({})))
            .await?;
        tx.commit().await?;
        self.write().remove(&id);
        Ok(id)
    }

    /// A server that was registered by hand: the others are changed and removed as what they are.
    async fn registered(&self, key: &str) -> ApiResult<(ServerId, NewServer, i64)> {
        let server = self.resolve(key).await?;
        match (server.key, server.registered) {
            (ServerKey::Address(id), Some(spec)) => Ok((id, spec, server.revision)),
            (key, _) => Err(ApiError::conflict(
                "not_registered_by_hand",
                format!(
                    "{key} is a {}: change and remove it as such; only addresses are registered here",
                    key.kind().as_str()
                ),
            )),
        }
    }

    fn judge(&self, spec: &NewServer) -> ApiResult<()> {
        let problems = spec.problems();
        if !problems.is_empty() {
            return Err(ApiError::clashing_fields(problems));
        }
        // A name is judged each time it is used, for what it leads to may change.
        match spec.address.ip() {
            Some(ip) => self.guard.check(ip).map_err(|e| e.field("address")),
            None => Ok(()),
        }
    }
}

fn detail(spec: &NewServer) -> serde_json::Value {
    serde_json::to_value(spec).unwrap_or_default()
}

fn taken(error: StoreError, spec: &NewServer) -> ApiError {
    match error {
        StoreError::Conflict { .. } => {
            ApiError::conflict("name_taken", format!("a server called `{}` is registered already", spec.name)).field("name")
        }
        error => error.into(),
    }
}

fn of_node(node: NodeView, revision: i64) -> Server {
    use nm_types::node::NodeStatus;
    let status = match node.status {
        NodeStatus::Ready => "ready",
        NodeStatus::NotReady => "notReady",
        NodeStatus::Cordoned => "cordoned",
    };
    Server {
        view: ServerView {
            id: node.id.to_string(),
            kind: ServerKind::Node,
            name: node.name.to_string(),
            address: None,
            node_id: None,
            port: None,
            probe: None,
            status: status.into(),
            created: node.created,
        },
        key: ServerKey::Node(node.id),
        registered: None,
        revision,
    }
}

fn of_container(record: &Record) -> Server {
    let networks = record.state.observed.as_ref().map(|o| o.networks.as_slice()).unwrap_or_default();
    Server {
        view: ServerView {
            id: record.id.to_string(),
            kind: ServerKind::Container,
            name: record.name().to_owned(),
            address: networks.iter().find_map(|a| a.ip.clone()).filter(|ip| !ip.is_empty()),
            node_id: Some(record.node.clone()),
            port: None,
            probe: None,
            status: record.status().as_str().to_owned(),
            created: record.created,
        },
        key: ServerKey::Container(record.id.clone()),
        registered: None,
        revision: record.revision,
    }
}

/// Of an instance's row only that is read which the specification says of every instance, wherever it is rented.
fn of_instance(row: &Resource) -> ApiResult<Option<Server>> {
    #[derive(Default, serde::Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Seen {
        status: Option<String>,
        public_ip: Option<String>,
        private_ip: Option<String>,
    }
    let Ok(id) = InstanceId::parse(&row.id) else { return Ok(None) };
    let seen: Seen = row.status()?;
    Ok(Some(Server {
        view: ServerView {
            id: row.id.clone(),
            kind: ServerKind::Instance,
            name: row.name.clone(),
            address: seen.public_ip.or(seen.private_ip),
            node_id: None,
            port: None,
            probe: None,
            status: seen.status.unwrap_or_else(|| "pending".into()),
            created: row.created_at,
        },
        key: ServerKey::Instance(id),
        registered: None,
        revision: row.revision,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_in_the_order_of_their_texts() {
        let texts = [
            "cont_1_aaaaaaaaa",
            "cont_2_aaaaaaaaa",
            "inst_1_aaaaaaaaa",
            "node_1_aaaaaaaaa",
            "server_1_aaaaaaaaa",
        ];
        let keys: Vec<ServerKey> = texts.iter().map(|t| ServerKey::parse(t).unwrap()).collect();
        assert!(keys.is_sorted());
        assert_eq!(keys.iter().map(ServerKey::as_str).collect::<Vec<_>>(), texts);
        assert_eq!(ServerKey::parse("op_1_aaaaaaaaa"), None);
    }

    #[test]
    fn a_page_asks_only_the_kinds_that_may_be_on_it() {
        let wanted = Wanted {
            after: Some("node_1_aaaaaaaaa"),
            ..Wanted::default()
        };
        assert!(!wanted.takes(ServerKind::Container, "cont_"));
        assert!(!wanted.takes(ServerKind::Instance, "inst_"));
        assert!(wanted.takes(ServerKind::Node, "node_"));
        assert!(wanted.takes(ServerKind::Address, "server_"));
    }
}
