//! Who listens where: clusters may share a port of a node where their requests can be told apart.

use nm_types::cluster::{ClusterEntry, ClusterSpec, GIVEN_PORTS};
use nm_types::{ClusterId, NodeId};
use std::collections::BTreeSet;

/// What a listener does.
#[derive(Debug, Clone, PartialEq)]
pub enum Use {
    /// Requests by host and path prefix.
    Http {
        tls: bool,
        routes: Vec<(Option<String>, String)>,
        entry: ClusterEntry,
    },
    Tcp,
    /// Sends everybody to another port.
    Redirect {
        to: u16,
    },
}

/// One listener of one cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    pub cluster: ClusterId,
    /// The cluster's name, for people.
    pub name: String,
    pub port: u16,
    pub way: Use,
    pub nodes: Vec<NodeId>,
}

impl Claim {
    /// What a cluster listens for on its port and on that of its redirect.
    pub fn of(cluster: &ClusterId, spec: &ClusterSpec, port: u16, nodes: &[NodeId]) -> Vec<Self> {
        use nm_types::cluster::ClusterProtocol;
        let claim = |port, way| Self {
            cluster: cluster.clone(),
            name: spec.name.to_string(),
            port,
            way,
            nodes: nodes.to_vec(),
        };
        let way = match spec.protocol {
            ClusterProtocol::Tcp => Use::Tcp,
            ClusterProtocol::Http => Use::Http {
                tls: spec.tls.is_some(),
                routes: if spec.routes.is_empty() {
                    vec![(None, "/".into())]
                } else {
                    spec.routes.iter().map(|r| r.pair()).collect()
                },
                entry: spec.entry.clone(),
            },
        };
        // The entry for reads; which port it was given is for whoever knows to say in the spec.
        let reads = spec
            .database
            .as_ref()
            .and_then(|d| d.read_only_port)
            .map(|port| claim(port.get(), Use::Tcp));
        let redirect = spec.redirect_to_https.as_ref().map(|r| claim(r.port(), Use::Redirect { to: port }));
        std::iter::once(claim(port, way)).chain(redirect).chain(reads).collect()
    }
}

/// Why two listeners of two clusters can't be, where they can't.
pub fn clash(a: &Claim, b: &Claim) -> Option<String> {
    if a.cluster == b.cluster || a.port != b.port || !a.nodes.iter().any(|n| b.nodes.contains(n)) {
        return None;
    }
    let taken = |why: &str| Some(format!("port {} is taken by cluster `{}`{why}", a.port, b.name));
    match (&a.way, &b.way) {
        (
            Use::Http { tls, routes, entry },
            Use::Http {
                tls: other_tls,
                routes: others,
                entry: other_entry,
            },
        ) => {
            if tls != other_tls {
                return taken(if *other_tls { ", with TLS" } else { ", without TLS" });
            }
            if entry != other_entry {
                return taken(", whose settings in `entry` differ: clusters that share a port have the same");
            }
            let same = routes.iter().find(|route| others.contains(route))?;
            let host = same.0.as_deref().unwrap_or("every host");
            taken(&format!(
                ", which has a route for {host} and {} as well: tell them apart by `routes`",
                same.1
            ))
        }
        (Use::Redirect { to }, Use::Redirect { to: other }) if to == other => None,
        (Use::Http { .. } | Use::Tcp | Use::Redirect { .. }, _) => taken(""),
    }
}

/// The first port to give that nobody has.
pub fn free_port(taken: &BTreeSet<u16>) -> Option<u16> {
    GIVEN_PORTS.into_iter().find(|port| !taken.contains(port))
}
