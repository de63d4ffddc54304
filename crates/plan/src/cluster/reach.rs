//! Where a node reaches a server.

use nm_types::NodeId;
use nm_types::container::{PortMapping, Protocol};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// Where nodes are reached by others, as far as that is known.
pub type Addresses = BTreeMap<NodeId, IpAddr>;

/// A server, as far as it can be reached.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    Container {
        node: NodeId,
        /// The node's name, for people.
        node_name: String,
        runs: bool,
        /// On the node's Docker networks.
        networks: Vec<IpAddr>,
        /// It has the node's own network.
        host_network: bool,
        /// What its specification publishes, which tells of its ports also while it does not run.
        wanted: Vec<PortMapping>,
        /// What is published now.
        published: Vec<PortMapping>,
    },
    Node {
        node: NodeId,
        name: String,
        /// On Docker's bridge, where a container serves there. What goes to a published port by loopback takes a way through a program
        /// of Docker's own; by this address it does not.
        bridge: Option<IpAddr>,
    },
    /// An address that was registered, or that of an instance: what it is, or why it is not known.
    Address {
        address: Result<IpAddr, String>,
        port: Option<u16>,
    },
    /// There is no such server any more.
    Gone,
}

impl Target {
    /// The port that is meant where none is named.
    fn usual_port(&self) -> Result<u16, String> {
        match self {
            Self::Container { wanted, published, .. } => {
                let ports = |list: &[PortMapping]| {
                    let mut ports: Vec<u16> = list
                        .iter()
                        .filter(|p| p.protocol == Protocol::Tcp)
                        .map(|p| p.container.get())
                        .collect();
                    ports.sort_unstable();
                    ports.dedup();
                    ports
                };
                let named = if wanted.is_empty() { ports(published) } else { ports(wanted) };
                match named.as_slice() {
                    [one] => Ok(*one),
                    [] => Err("it publishes no port that would say where it listens: name its `port`".into()),
                    many => {
                        let many: Vec<String> = many.iter().map(u16::to_string).collect();
                        Err(format!("it publishes the ports {}: say which by `port`", many.join(", ")))
                    }
                }
            }
            Self::Address { port: Some(port), .. } => Ok(*port),
            Self::Node { .. } | Self::Address { port: None, .. } => Err("nothing says at which port it listens: name its `port`".into()),
            Self::Gone => Err("there is no such server any more: remove it from the cluster".into()),
        }
    }
}

/// Where `from` reaches a server, or what is in the way and what to do.
pub fn reach(from: &NodeId, target: &Target, port: Option<u16>, nodes: &Addresses) -> Result<SocketAddr, String> {
    let socket = find(from, target, port, nodes)?;
    let link_local = match socket.ip() {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    // Metadata services of clouds are there. A node refuses a document with such a member as a whole.
    if link_local {
        return Err(format!("{} is a link-local address: no traffic is sent there", socket.ip()));
    }
    Ok(socket)
}

fn find(from: &NodeId, target: &Target, port: Option<u16>, nodes: &Addresses) -> Result<SocketAddr, String> {
    let port = match (port, target) {
        (_, Target::Gone) => return target.usual_port().map(|port| SocketAddr::new(IpAddr::from([0, 0, 0, 0]), port)),
        (Some(port), _) => port,
        (None, _) => target.usual_port()?,
    };
    // A node that is reached by loopback is the control plane's own machine, and that says nothing to another one.
    let of_node = |node: &NodeId, name: &str| match nodes.get(node) {
        Some(ip) if node == from || !ip.is_loopback() => Ok(*ip),
        Some(_) => Err(format!(
            "node {name} is known by a loopback address only: give it a label `address` with the one that other nodes reach it at"
        )),
        None => Err(format!("the address of node {name} is not known yet: it was never connected")),
    };
    match target {
        Target::Container { runs: false, .. } => Err("the container does not run".into()),
        Target::Container {
            node,
            node_name,
            networks,
            host_network,
            published,
            ..
        } => {
            if *host_network {
                return Ok(SocketAddr::new(of_node(node, node_name)?, port));
            }
            if node == from
                && let Some(ip) = networks.first()
            {
                return Ok(SocketAddr::new(*ip, port));
            }
            let is_it = |p: &&PortMapping| p.protocol == Protocol::Tcp && p.container.get() == port && p.host != 0;
            // Where nobody else gets to, or what a node that lies would have others connect to.
            let closed = |ip: std::net::Ipv4Addr| ip.is_loopback() || ip.is_link_local() || ip.is_multicast();
            let open = |p: &&PortMapping| node == from || p.host_ip.is_none_or(|ip| !closed(ip));
            let Some(mapping) = published.iter().filter(is_it).find(open) else {
                return Err(format!(
                    "its port {port} is not published on node {node_name}, and only its own node reaches it without: publish the port \
                     (`ports` of the container), or let that node carry the entry (`entryNodes`)"
                ));
            };
            match mapping.host_ip.filter(|ip| !ip.is_unspecified()) {
                Some(ip) => Ok(SocketAddr::new(ip.into(), mapping.host)),
                None => Ok(SocketAddr::new(of_node(node, node_name)?, mapping.host)),
            }
        }
        Target::Node { node, name, bridge } => {
            let ip = of_node(node, name)?;
            let ip = bridge.filter(|_| ip.is_loopback()).unwrap_or(ip);
            Ok(SocketAddr::new(ip, port))
        }
        Target::Address { address, .. } => address.clone().map(|ip| SocketAddr::new(ip, port)),
        Target::Gone => Err("there is no such server any more: remove it from the cluster".into()),
    }
}
