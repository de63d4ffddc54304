//! Where members are: containers by what agents see of them, nodes by where they connect from, registered addresses by what the
//! policy for outgoing connections allows.

use super::{ClusterRow, Clusters, ScaledPhase};
use crate::api::error::ApiResult;
use crate::service::index::{Phase, Record};
use crate::service::servers::ServerKey;
use futures_util::future::join_all;
use nm_plan::cluster::{Addresses, Member, Target};
use nm_store::{Kind, NewResource};
use nm_types::container::ContainerStatus;
use nm_types::text::LabelKey;
use nm_types::{ContainerId, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, RwLock};

/// The label of a node that says where others reach it, where that is not where its agent connects from.
pub const ADDRESS_LABEL: &str = "address";

/// Where what names came to is kept, so that a name server that does not answer at our start takes nobody away.
const KEPT_NAMES: &str = "clusters.names";

/// What a name or an address came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Found {
    /// What was looked up.
    host: Option<String>,
    address: Result<IpAddr, String>,
    port: Option<u16>,
}

/// What registered addresses and instances were last resolved to, by their ids.
#[derive(Debug, Clone, Default)]
pub struct Names(Arc<RwLock<HashMap<String, Found>>>);

impl Names {
    fn get(&self, id: &str) -> Option<Found> {
        self.0.read().unwrap_or_else(|e| e.into_inner()).get(id).cloned()
    }
    fn load(&self, all: HashMap<String, Found>) {
        *self.0.write().unwrap_or_else(|e| e.into_inner()) = all;
    }
    /// Whether they are others than before.
    fn replace(&self, all: HashMap<String, Found>) -> bool {
        let mut table = self.0.write().unwrap_or_else(|e| e.into_inner());
        let changed = *table != all;
        *table = all;
        changed
    }
}

fn of_container(record: &Record, node_name: String) -> Target {
    let observed = record.state.observed.as_ref().filter(|_| !record.state.missing);
    let spec = record.wanted.spec.as_deref();
    let networks = observed.map(|o| o.networks.as_slice()).unwrap_or_default();
    // One that is paused takes connections, by its kernel, and never answers.
    let runs =
        record.status() == ContainerStatus::Running && !matches!(record.state.phase, Phase::Creating { .. } | Phase::Removing { .. });
    Target::Container {
        node: record.node.clone(),
        node_name,
        runs,
        networks: networks.iter().filter_map(|a| a.ip.as_deref()?.parse().ok()).collect(),
        host_network: spec.is_some_and(|s| s.host_network) || networks.iter().any(|a| a.network == "host"),
        wanted: spec.map(|s| s.ports.clone()).unwrap_or_default(),
        published: observed.map(|o| o.ports.clone()).unwrap_or_default(),
    }
}

impl Clusters {
    /// Looks up where registered addresses and instances are: all of them where `anew`, otherwise those that are not known yet.
    /// Whether anything of it has changed.
    pub async fn resolve_names(&self, anew: bool) -> bool {
        let ids: BTreeSet<String> = self.all().iter().flat_map(|row| row.stored.members.clone()).collect();
        let outside = ids.into_iter().filter_map(|id| match ServerKey::parse(&id)? {
            key @ (ServerKey::Address(_) | ServerKey::Instance(_)) => Some(key),
            ServerKey::Container(_) | ServerKey::Node(_) => None,
        });
        let found = join_all(outside.map(|key| self.find_outside(key, anew))).await;
        let found: HashMap<String, Found> = found.into_iter().flatten().collect();
        let changed = self.names.replace(found.clone());
        if changed && let Err(error) = self.keep_names(found).await {
            tracing::warn!(error = %error.message, "where registered addresses lead could not be written");
        }
        changed
    }

    async fn keep_names(&self, mut found: HashMap<String, Found>) -> ApiResult<()> {
        found.retain(|_, f| f.address.is_ok());
        let found: BTreeMap<String, Found> = found.into_iter().collect();
        let mut tx = self.store.begin(self.clock.now()).await?;
        tx.put(NewResource::new(Kind::Setting, KEPT_NAMES).spec(&found)?).await?;
        tx.commit().await?;
        Ok(())
    }

    pub(super) async fn load_names(&self) -> ApiResult<()> {
        if let Some(row) = self.store.get(Kind::Setting, KEPT_NAMES).await? {
            self.names.load(row.spec()?);
        }
        Ok(())
    }

    async fn find_outside(&self, key: ServerKey, anew: bool) -> Option<(String, Found)> {
        let (id, old) = (key.to_string(), self.names.get(key.as_str()));
        let server = match self.servers.get(&key).await {
            Ok(Some(server)) => server,
            // No longer there: not in the table, either.
            Ok(None) => return None,
            Err(error) => {
                tracing::warn!(server.id = %id, error = %error.message, "a member could not be read");
                return old.map(|old| (id, old));
            }
        };
        let registered = server.registered.as_ref();
        let port = registered.and_then(|spec| spec.port.or_else(|| spec.effective_probe().map(|(_, port)| port)));
        let port = port.map(|p| p.get());
        let host = server.view.address.clone();
        let known = old.filter(|old| old.host == host);
        let address = match (&host, known) {
            (None, _) => Err("it has no address yet".to_owned()),
            (Some(_), Some(known)) if !anew => known.address,
            (Some(name), known) => match self.guard.resolve(name, port.unwrap_or(80)).await {
                Ok(socket) => Ok(socket.ip()),
                Err(error) => match known.map(|k| k.address) {
                    // A name server that does not answer now takes nobody away.
                    Some(Ok(ip)) if error.code == "address_unknown" => Ok(ip),
                    Some(_) | None => Err(error.message),
                },
            },
        };
        Some((id, Found { host, address, port }))
    }

    pub(super) fn target(&self, id: &str) -> Target {
        match ServerKey::parse(id) {
            Some(ServerKey::Container(id)) => self.container_target(&id),
            Some(ServerKey::Node(node)) => match self.nodes.knows(&node) {
                true => Target::Node {
                    name: self.nodes.name(&node),
                    node,
                    bridge: None,
                },
                false => Target::Gone,
            },
            Some(key @ (ServerKey::Address(_) | ServerKey::Instance(_))) => match self.names.get(key.as_str()) {
                Some(Found { address, port, .. }) => Target::Address { address, port },
                None => Target::Gone,
            },
            None => Target::Gone,
        }
    }

    fn container_target(&self, id: &ContainerId) -> Target {
        match self.index.get(id) {
            Some(record) => of_container(&record, self.nodes.name(&record.node)),
            None => Target::Gone,
        }
    }

    /// The members as load balancers get them: those that users named, in their order, and those that scaling made.
    pub(super) fn members(&self, row: &ClusterRow) -> Vec<Member> {
        let of_database = row.stored.database.as_ref().map(|d| match row.stored.spec.database().pool {
            Some(_) => d.ports.pooler,
            None => d.ports.postgres,
        });
        let named = row.named().map(|(id, entry)| Member {
            id: id.to_owned(),
            port: of_database.or(entry.port.map(|p| p.get())),
            weight: entry.weight.and_then(|w| u16::try_from(w.get()).ok()).unwrap_or(1),
            backup: entry.backup,
            draining: false,
            target: match self.target(id) {
                Target::Node { node, name, .. } if of_database.is_some() => Target::Node {
                    bridge: self.nodes.info(&node).and_then(|info| info.docker.bridge),
                    node,
                    name,
                },
                target => target,
            },
        });
        let like = row.named().find(|(id, _)| id.starts_with("cont_")).map(|(_, entry)| entry);
        let port = like.and_then(|entry| entry.port).map(|p| p.get());
        let scaled = row
            .scaled()
            .filter(|(_, s)| s.phase != ScaledPhase::Starting)
            .map(|(id, s)| Member {
                id: id.to_string(),
                port,
                weight: 1,
                backup: false,
                draining: matches!(s.phase, ScaledPhase::Leaving { .. }),
                target: self.container_target(id),
            });
        named.chain(scaled).collect()
    }

    /// Where nodes reach one another: by the label that says so, otherwise by where their agents connect from.
    pub(super) fn addresses(&self) -> Addresses {
        let label = LabelKey::parse(ADDRESS_LABEL).ok();
        let mut all = self.edges.addresses();
        for node in self.nodes.ids() {
            let Some((_, labels)) = self.nodes.card(&node) else { continue };
            let said = label
                .as_ref()
                .and_then(|key| labels.0.get(key))
                .and_then(|v| v.as_str().parse().ok());
            if let Some(ip) = said {
                all.insert(node, ip);
            }
        }
        all
    }

    /// A node's link has come: where from is where others reach it, unless a label says otherwise. Its own host sees an address of
    /// the IPv4 world as such.
    pub fn node_connected(&self, node: &NodeId) {
        if let Some(link) = self.fleet.links().get(node) {
            self.edges.seen_at(node, link.peer().address.ip().to_canonical());
        }
    }
}
