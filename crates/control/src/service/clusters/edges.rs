//! What each node is to carry: one document a node, made anew of everything it is made of, and given a new generation where it
//! differs from the last one.

use super::{ClusterRow, Clusters};
use crate::api::error::ApiResult;
use nm_link::contract::{EdgeConfig, VirtualAddress};
use nm_plan::cluster::{Addresses, Cluster, Member, proxy_config};
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
    }
}

impl Clusters {
    pub fn wanted_of(&self, node: &NodeId) -> Option<Wanted> {
        self.edges.wanted(node)
    }

    /// The generation a node is to have.
    pub fn generation_of(&self, node: &NodeId) -> Option<u64> {
        self.edges.generation(node)
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
            })
            .collect();
        let mut nodes: BTreeSet<NodeId> = self.edges.nodes().into_iter().collect();
        nodes.extend(rows.iter().flat_map(|row| row.stored.entries.iter().cloned()));
        let (mut written, mut same) = (Vec::new(), Vec::new());
        for node in nodes {
            if !self.nodes.knows(&node) {
                continue;
            }
            let proxy = proxy_config(&node, &clusters, &addresses, self.acme.port());
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
        let peers: Option<Vec<IpAddr>> = others.map(|n| addresses.get(n).copied().filter(|ip| !ip.is_loopback())).collect();
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
