//! Where members are: containers by what agents see of them, nodes by where they connect from, registered addresses by what the
//! policy for outgoing connections allows.

use super::{ClusterRow, Clusters, ScaledPhase};
use crate::service::index::{Phase, Record};
use crate::service::servers::ServerKey;
use nm_plan::cluster::{Addresses, Member, Target};
use nm_types::container::ContainerStatus;
use nm_types::text::LabelKey;
use nm_types::{ContainerId, NodeId};
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, RwLock};

/// The label of a node that says where others reach it, where that is not where its agent connects from.
pub const ADDRESS_LABEL: &str = "address";

type Found = (Result<IpAddr, String>, Option<u16>);

/// What registered addresses and instances were last resolved to, by their ids.
#[derive(Debug, Clone, Default)]
pub struct Names(Arc<RwLock<HashMap<String, Found>>>);

impl Names {
    fn get(&self, id: &str) -> Option<Found> {
        self.0.read().unwrap_or_else(|e| e.into_inner()).get(id).cloned()
    }
    fn replace(&self, all: HashMap<String, Found>) {
        *self.0.write().unwrap_or_else(|e| e.into_inner()) = all;
    }
}

fn of_container(record: &Record, node_name: String) -> Target {
    let observed = record.state.observed.as_ref().filter(|_| !record.state.missing);
    let spec = record.wanted.spec.as_deref();
    let networks = observed.map(|o| o.networks.as_slice()).unwrap_or_default();
    // What can answer, or will in a moment: one that is paused fails its checks, as it should.
    let runs = matches!(record.status(), ContainerStatus::Running | ContainerStatus::Paused)
        && !matches!(record.state.phase, Phase::Creating { .. } | Phase::Removing { .. });
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
    /// Looks up where registered addresses and instances are now. Whether anything of it has changed.
    pub async fn resolve_names(&self) {
        let ids: BTreeSet<String> = self.all().iter().flat_map(|row| row.stored.members.clone()).collect();
        let mut found = HashMap::new();
        for id in ids {
            let key = match ServerKey::parse(&id) {
                Some(key @ (ServerKey::Address(_) | ServerKey::Instance(_))) => key,
                Some(ServerKey::Container(_) | ServerKey::Node(_)) | None => continue,
            };
            let server = match self.servers.get(&key).await {
                Ok(Some(server)) => server,
                // No longer there: not in the table, either.
                Ok(None) => continue,
                Err(error) => {
                    tracing::warn!(server.id = %id, error = %error.message, "a member could not be read");
                    found.extend(self.names.get(&id).map(|old| (id, old)));
                    continue;
                }
            };
            let port = server
                .registered
                .as_ref()
                .and_then(|spec| spec.port.or_else(|| spec.effective_probe().map(|(_, port)| port)));
            let port = port.map(|p| p.get());
            let address = match &server.view.address {
                None => Err("it has no address yet".to_owned()),
                Some(host) => match self.guard.resolve(host, port.unwrap_or(80)).await {
                    Ok(socket) => Ok(socket.ip()),
                    // A name server that does not answer now takes nobody away.
                    Err(error) if error.code == "address_unknown" => match self.names.get(&id) {
                        Some((Ok(ip), _)) => Ok(ip),
                        Some((Err(_), _)) | None => Err(error.message),
                    },
                    Err(error) => Err(error.message),
                },
            };
            found.insert(id, (address, port));
        }
        self.names.replace(found);
    }

    pub(super) fn target(&self, id: &str) -> Target {
        match ServerKey::parse(id) {
            Some(ServerKey::Container(id)) => self.container_target(&id),
            Some(ServerKey::Node(node)) => match self.nodes.knows(&node) {
                true => Target::Node {
                    name: self.nodes.name(&node),
                    node,
                },
                false => Target::Gone,
            },
            Some(key @ (ServerKey::Address(_) | ServerKey::Instance(_))) => match self.names.get(key.as_str()) {
                Some((address, port)) => Target::Address { address, port },
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
        let named = row.named().map(|(id, entry)| Member {
            id: id.to_owned(),
            port: entry.port.map(|p| p.get()),
            weight: entry.weight.and_then(|w| u16::try_from(w.get()).ok()).unwrap_or(1),
            backup: entry.backup,
            draining: false,
            target: self.target(id),
        });
        let like = row.named().find(|(id, _)| id.starts_with("cont_")).map(|(_, entry)| entry);
        let port = like.and_then(|entry| entry.port).map(|p| p.get());
        let scaled = row.scaled().filter(|(_, s)| s.phase != ScaledPhase::Starting).map(|(id, s)| Member {
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
            let said = label.as_ref().and_then(|key| labels.0.get(key)).and_then(|v| v.as_str().parse().ok());
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
