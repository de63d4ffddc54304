//! What each node is to carry: one document a node, made anew of everything it is made of, and given a new generation where it
//! differs from the last one.

use super::{ClusterRow, Clusters};
use crate::api::error::ApiResult;
use nm_link::contract::{EdgeConfig, VirtualAddress};
use nm_plan::cluster::{Addresses, Cluster, DatabasePorts, Member, proxy_config};
use nm_store::{EdgeCursor, EdgeRow};
use nm_types::NodeId;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::watch;

/// The document a node is to have; nothing before it was made.
pub type Wanted = watch::Receiver<Option<Arc<EdgeConfig>>>;

#[derive(Debug)]
struct Edge {
    row: EdgeRow,
    cursor: EdgeCursor,
    wanted: watch::Sender<Option<Arc<EdgeConfig>>>,
}

/// All nodes that carry something, or did.
#[derive(Debug, Clone, Default)]
pub struct Edges {
    table: Arc<Mutex<BTreeMap<NodeId, Edge>>>,
    /// Where nodes connect from.
    places: Arc<Mutex<BTreeMap<NodeId, IpAddr>>>,
    /// Ports that other programs of a node have. One document is refused as a whole: what can't be there is left out of it, so that
    /// it keeps nothing else of it away.
    taken: Arc<Mutex<BTreeMap<NodeId, BTreeSet<u16>>>>,
    /// Documents are made one after another.
    making: Arc<tokio::sync::Mutex<()>>,
}

fn digest(config: &EdgeConfig) -> String {
    // The document's types always write as JSON, and its maps are sorted.
    hex::encode(Sha256::digest(serde_json::to_vec(config).unwrap_or_default()))
}

fn with_generation(mut config: EdgeConfig, generation: i64) -> Arc<EdgeConfig> {
    config.proxy.generation = u64::try_from(generation).unwrap_or_default();
    Arc::new(config)
}

impl Edges {
    fn table(&self) -> MutexGuard<'_, BTreeMap<NodeId, Edge>> {
        self.table.lock().unwrap_or_else(|e| e.into_inner())
    }
    fn places(&self) -> MutexGuard<'_, BTreeMap<NodeId, IpAddr>> {
        self.places.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<NodeId, BTreeSet<u16>>> {
        self.taken.lock().unwrap_or_else(|e| e.into_inner())
    }
    /// Whether another program of the node has the port.
    pub(super) fn is_taken(&self, node: &NodeId, port: u16) -> bool {
        self.taken().get(node).is_some_and(|ports| ports.contains(&port))
    }

    pub(super) fn load(&self, rows: Vec<(EdgeRow, EdgeCursor)>) {
        for (row, cursor) in rows {
            let Ok(node) = NodeId::parse(&row.node) else { continue };
            if let Ok(ip) = row.address.parse() {
                self.places().insert(node.clone(), ip);
            }
            let wanted = watch::Sender::new(None);
            self.table().insert(node, Edge { row, cursor, wanted });
        }
    }

    pub(super) fn seen_at(&self, node: &NodeId, ip: IpAddr) {
        self.places().insert(node.clone(), ip);
    }
    pub(super) fn addresses(&self) -> Addresses {
        self.places().clone()
    }
    pub(super) fn wanted(&self, node: &NodeId) -> Option<Wanted> {
        self.table().get(node).map(|edge| edge.wanted.subscribe())
    }
    pub(super) fn cursor(&self, node: &NodeId) -> EdgeCursor {
        self.table().get(node).map(|edge| edge.cursor.clone()).unwrap_or_default()
    }
    pub(super) fn read_up_to(&self, node: &NodeId, cursor: EdgeCursor) {
        if let Some(edge) = self.table().get_mut(node) {
            edge.cursor = cursor;
        }
    }
    fn row(&self, node: &NodeId) -> Option<EdgeRow> {
        self.table().get(node).map(|edge| edge.row.clone())
    }
    fn nodes(&self) -> Vec<NodeId> {
        self.table().keys().cloned().collect()
    }
    /// Nothing where its document was not made yet in this process.
    fn generation(&self, node: &NodeId) -> Option<u64> {
        let table = self.table();
        let wanted = table.get(node)?.wanted.borrow();
        wanted.as_ref().map(|config| config.proxy.generation)
    }
    fn set(&self, node: &NodeId, row: EdgeRow, config: Arc<EdgeConfig>) {
        let mut table = self.table();
        match table.get_mut(node) {
            Some(edge) => {
                edge.row = row;
                edge.wanted.send_replace(Some(config));
            }
            None => {
                let edge = Edge {
                    row,
                    cursor: EdgeCursor::default(),
                    wanted: watch::Sender::new(Some(config)),
                };
                table.insert(node.clone(), edge);
            }
        }
    }
    fn forget(&self, node: &NodeId) {
        self.table().remove(node);
        self.places().remove(node);
        self.taken().remove(node);
    }
}

/// The listener that `proxy.listeners[3].port` names.
fn listener_of(field: &str) -> Option<usize> {
    let (number, _) = field.strip_prefix("proxy.listeners[")?.split_once(']')?;
    number.parse().ok()
}

impl Clusters {
    pub fn wanted_of(&self, node: &NodeId) -> Option<Wanted> {
        self.edges.wanted(node)
    }

    /// The generation a node is to have.
    pub fn generation_of(&self, node: &NodeId) -> Option<u64> {
        self.edges.generation(node)
    }

    /// A node can't listen where it was to, for another program of it does: the rest of its document is given to it without. Says
    /// whether that is what was wrong.
    pub fn port_taken(&self, node: &NodeId, config: &EdgeConfig, field: Option<&str>) -> bool {
        let listener = field.and_then(listener_of).and_then(|n| config.proxy.listeners.get(n));
        let Some(port) = listener.map(|l| l.port) else { return false };
        let news = self.edges.taken().entry(node.clone()).or_default().insert(port);
        if news {
            tracing::warn!(node.id = %node, port, "another program of the node has a cluster's port");
            self.wake.notify_one();
        }
        news
    }

    /// Has a node try again to listen where it could not.
    pub fn try_ports_again(&self, node: &NodeId) {
        if self.edges.taken().remove(node).is_some() {
            self.wake.notify_one();
        }
    }

    /// Makes every node's document anew, and notes those that differ from what the node was last given.
    pub async fn assemble(&self) -> ApiResult<()> {
        let _one = self.edges.making.lock().await;
        self.resolve_names(false).await;
        let rows = self.all();
        let members: Vec<Vec<Member>> = rows.iter().map(|row| self.members(row)).collect();
        let addresses = self.addresses();
        let shown: Vec<_> = rows.iter().map(|row| (self.pair_in_force(row), self.challenges(row))).collect();
        let clusters: Vec<Cluster<'_>> = rows
            .iter()
            .zip(&members)
            .zip(&shown)
            .map(|((row, members), (pair, challenges))| Cluster {
                id: &row.id,
                spec: &row.stored.spec,
                listen_port: row.stored.listen_port,
                entries: &row.stored.entries,
                members,
                pair: pair.as_ref(),
                challenges: Some(challenges),
                database: row.stored.database.as_ref().map(|d| DatabasePorts {
                    read_only: d.read_only_port,
                    check: d.ports.check,
                }),
            })
            .collect();
        let mut nodes: BTreeSet<NodeId> = self.edges.nodes().into_iter().collect();
        nodes.extend(rows.iter().flat_map(|row| row.stored.entries.iter().cloned()));
        let (mut written, mut same) = (Vec::new(), Vec::new());
        for node in nodes {
            if !self.nodes.knows(&node) {
                continue;
            }
            let mut proxy = proxy_config(&node, &clusters, &addresses, self.acme.port());
            proxy.listeners.retain(|listener| !self.edges.is_taken(&node, listener.port));
            if let Err(problems) = proxy.validate() {
                // It never should be: the node goes on with what it has.
                tracing::error!(node.id = %node, ?problems, "a node's document is wrong and is not given to it");
                continue;
            }
            let config = EdgeConfig {
                proxy,
                virtual_addresses: virtual_addresses(&node, &rows, &addresses),
            };
            let address = self.edges.addresses().get(&node).map(ToString::to_string).unwrap_or_default();
            let old = self.edges.row(&node);
            let digest = digest(&config);
            match old {
                Some(old) if old.digest == digest && old.address == address => {
                    if self.edges.generation(&node).is_none() {
                        let config = with_generation(config, old.generation);
                        same.push((node, old, config));
                    }
                }
                old => {
                    let (was, generation) = old.map_or((String::new(), 0), |o| (o.digest, o.generation));
                    let generation = if was == digest { generation } else { generation + 1 };
                    let row = EdgeRow {
                        node: node.to_string(),
                        generation,
                        digest,
                        address,
                    };
                    let config = with_generation(config, generation);
                    written.push((node, row, config));
                }
            }
        }
        if !written.is_empty() {
            let mut tx = self.store.begin(self.clock.now()).await?;
            for (_, row, _) in &written {
                tx.edge_put(row).await?;
            }
            tx.commit().await?;
        }
        for (node, row, config) in written.into_iter().chain(same) {
            self.edges.set(&node, row, config);
        }
        Ok(())
    }

    /// A node holds a newer document than we ever made: our store is older than it. What is wanted gets a higher generation.
    pub async fn overtaken(&self, node: &NodeId, held: u64) -> ApiResult<()> {
        let _one = self.edges.making.lock().await;
        let Some(mut row) = self.edges.row(node) else { return Ok(()) };
        let held = i64::try_from(held).unwrap_or(i64::MAX - 1);
        if row.generation > held {
            return Ok(());
        }
        row.generation = held + 1;
        let wanted = self.edges.wanted(node).and_then(|w| w.borrow().clone());
        let Some(config) = wanted else { return Ok(()) };
        let mut tx = self.store.begin(self.clock.now()).await?;
        tx.edge_put(&row).await?;
        tx.commit().await?;
        let config = with_generation(EdgeConfig::clone(&config), row.generation);
        self.edges.set(node, row, config);
        Ok(())
    }

    /// A node is no longer of the fleet.
    pub async fn node_gone(&self, node: &NodeId) -> ApiResult<()> {
        self.edges.forget(node);
        self.sights.forget(node);
        let mut tx = self.store.begin(self.clock.now()).await?;
        tx.edge_forget(node.as_str()).await?;
        tx.commit().await?;
        self.rechoose_entries(node).await
    }
}

/// Whether a node that is reached there can share an address: VRRP for an address of IPv6 is spoken by IPv6.
pub(super) fn is_peer(ip: IpAddr, shared: IpAddr) -> bool {
    !ip.is_loopback() && ip.is_ipv4() == shared.is_ipv4()
}

/// The first node in the list has it while it is alive, then the second.
fn priority(place: usize) -> u8 {
    200u8
        .saturating_sub(u8::try_from(place).unwrap_or(u8::MAX).saturating_mul(10))
        .max(1)
}

/// The shared addresses of a node. Where another entry node's address is not known the two would both answer: then there is none.
fn virtual_addresses(node: &NodeId, rows: &[Arc<ClusterRow>], addresses: &Addresses) -> Vec<VirtualAddress> {
    let mut out: BTreeMap<IpAddr, VirtualAddress> = BTreeMap::new();
    for row in rows {
        let (Some(shared), Some(router_id)) = (&row.stored.spec.virtual_address, row.stored.router_id) else {
            continue;
        };
        let Some(place) = row.stored.entries.iter().position(|n| n == node) else {
            continue;
        };
        let others = row.stored.entries.iter().filter(|n| *n != node);
        let peers: Option<Vec<IpAddr>> = others
            .map(|n| addresses.get(n).copied().filter(|ip| is_peer(*ip, shared.address.ip())))
            .collect();
        let Some(peers) = peers else { continue };
        out.entry(shared.address.ip()).or_insert_with(|| VirtualAddress {
            address: shared.address.ip(),
            prefix: shared.prefix(),
            interface: shared.interface.as_ref().map(ToString::to_string),
            router_id,
            priority: priority(place),
            peers,
        });
    }
    out.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_reached_by_the_address_s_own_family() {
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        assert!(is_peer(ip("10.0.0.2"), ip("10.0.0.100")) && is_peer(ip("fd00::2"), ip("fd00::100")));
        for (node, shared) in [
            ("fd00::2", "10.0.0.100"),
            ("10.0.0.2", "fd00::100"),
            ("127.0.0.1", "10.0.0.100"),
            ("::1", "fd00::100"),
        ] {
            assert!(!is_peer(ip(node), ip(shared)), "{node} for {shared}");
        }
    }

    #[test]
    fn the_listener_that_is_to_blame_is_found() {
        assert_eq!(listener_of("proxy.listeners[12].port"), Some(12));
        for other in ["proxy.listeners[].port", "proxy.clusters[0].id", "listeners[0].port", ""] {
            assert_eq!(listener_of(other), None, "{other}");
        }
    }
}
