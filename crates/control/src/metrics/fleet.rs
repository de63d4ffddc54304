//! Nodes: whether they are there, and what their machines use.

use super::text::{Blocks, Kind, Text};
use crate::service::index::Census;
use crate::service::nodes::NodeFigures;
use nm_types::container::ContainerStatus;
use nm_types::host::{DiskStats, NodeStats};

/// The most file systems of one node.
const DISKS_SHOWN: usize = 64;

/// Each node with its label written down.
struct Fleet<'a> {
    nodes: &'a [NodeFigures],
    blocks: Blocks,
}

pub(super) fn write(text: &mut Text, nodes: &[NodeFigures], census: &Census) {
    let connected = nodes.iter().filter(|n| n.connected).count();
    text.family("neuralmesh_nodes", Kind::Gauge, "Nodes known").sample(&[], nodes.len());
    text.family("neuralmesh_nodes_connected", Kind::Gauge, "Nodes whose agent is connected")
        .sample(&[], connected);
    text.family("neuralmesh_containers", Kind::Gauge, "Containers known, by status");
    // Also those of which there are none: a series that goes away looks like a scrape that failed.
    for (status, count) in ContainerStatus::ALL.into_iter().zip(census.by_status) {
        text.sample(&[("status", status.as_str())], count);
    }
    let mut fleet = Fleet {
        nodes,
        blocks: Blocks::with_room(nodes.len()),
    };
    for node in nodes {
        fleet.blocks.push(&[("node", node.name.as_str())]);
    }
    standing(text, &fleet, census);
    machines(text, &fleet);
    disks(text, &fleet);
}

fn standing(text: &mut Text, fleet: &Fleet<'_>, census: &Census) {
    text.family("neuralmesh_node", Kind::Info, "What a node is");
    for (node, block) in fleet.nodes.iter().zip(fleet.blocks.iter()) {
        let id = ("node_id", node.id.as_str());
        match &node.info {
            Some(info) => text.sample_in(
                block,
                &[
                    id,
                    ("hostname", &info.hostname),
                    ("os", &info.os),
                    ("kernel", &info.kernel),
                    ("arch", &info.arch),
                    ("agent_version", &info.agent_version),
                    ("docker_version", info.docker.version.as_deref().unwrap_or_default()),
                ],
                true,
            ),
            None => text.sample_in(block, &[id], true),
        };
    }
    fleet.each(text, "neuralmesh_node_up", "Whether the node's agent is connected", |n| {
        Some(u64::from(n.connected))
    });
    fleet.each(text, "neuralmesh_node_docker_up", "Whether the node's Docker engine answers", |n| {
        n.info.as_ref().map(|i| u64::from(n.connected && i.docker.available))
    });
    fleet.each(text, "neuralmesh_node_cordoned", "Whether the node takes no new containers", |n| {
        Some(u64::from(n.cordoned))
    });
    text.family(
        "neuralmesh_node_last_seen_timestamp_seconds",
        Kind::Gauge,
        "When the node was last heard of, in seconds since 1970",
    );
    for (node, block) in fleet.nodes.iter().zip(fleet.blocks.iter()) {
        if let Some(seen) = node.last_seen {
            text.sample_in(block, &[], seen.0 as f64 / 1e3);
        }
    }
    fleet.each(text, "neuralmesh_node_containers", "Containers known on the node", |n| {
        Some(census.by_node.get(&n.id).copied().unwrap_or_default())
    });
    fleet.each(text, "neuralmesh_node_cpus", "Processors of the node", |n| {
        n.info.as_ref().map(|i| u64::from(i.cpus))
    });
}

fn machines(text: &mut Text, fleet: &Fleet<'_>) {
    fleet.used(
        text,
        "neuralmesh_node_cpu_usage_ratio",
        Kind::Gauge,
        "CPU in use, of all processors together",
        |h| Some(h.cpu / 100.0),
    );
    fleet.used(text, "neuralmesh_node_load1", Kind::Gauge, "Load average over 1 minute", |h| {
        Some(h.load[0])
    });
    fleet.used(text, "neuralmesh_node_load5", Kind::Gauge, "Load average over 5 minutes", |h| {
        Some(h.load[1])
    });
    fleet.used(text, "neuralmesh_node_load15", Kind::Gauge, "Load average over 15 minutes", |h| {
        Some(h.load[2])
    });
    type Bytes = fn(&NodeStats) -> u64;
    let memory: [(&'static str, &str, Bytes); 4] = [
        ("neuralmesh_node_memory_total_bytes", "Memory of the machine", |h| h.memory.total),
        (
            "neuralmesh_node_memory_available_bytes",
            "Memory that programs could still get without swapping",
            |h| h.memory.available,
        ),
        ("neuralmesh_node_swap_total_bytes", "Swap of the machine", |h| h.memory.swap_total),
        ("neuralmesh_node_swap_used_bytes", "Swap in use", |h| h.memory.swap_used),
    ];
    for (name, help, bytes) in memory {
        fleet.used(text, name, Kind::Gauge, help, |h| Some(bytes(h) as f64));
    }
    let network: [(&'static str, &str, Bytes); 5] = [
        (
            "neuralmesh_node_network_receive_bytes",
            "Bytes received since the machine started",
            |h| h.network.rx,
        ),
        (
            "neuralmesh_node_network_transmit_bytes",
            "Bytes sent since the machine started",
            |h| h.network.tx,
        ),
        (
            "neuralmesh_node_network_packets",
            "Packets sent and received since the machine started",
            |h| h.network.packets,
        ),
        ("neuralmesh_node_network_errors", "Packets broken on the way in or out", |h| {
            h.network.errors
        }),
        ("neuralmesh_node_network_dropped", "Packets thrown away for want of room", |h| {
            h.network.dropped
        }),
    ];
    for (name, help, count) in network {
        fleet.used(text, name, Kind::Counter, help, |h| Some(count(h) as f64));
    }
    text.family(
        "neuralmesh_node_pressure_ratio",
        Kind::Gauge,
        "Share of the last ten seconds in which some, or all, work waited",
    );
    for (host, block) in fleet.hosts() {
        if let Some(p) = &host.pressure {
            for (resource, stalled, percent) in [
                ("cpu", "some", p.cpu_some),
                ("memory", "some", p.memory_some),
                ("memory", "full", p.memory_full),
                ("io", "some", p.io_some),
                ("io", "full", p.io_full),
            ] {
                text.sample_in(block, &[("resource", resource), ("stalled", stalled)], percent / 100.0);
            }
        }
    }
    fleet.used(
        text,
        "neuralmesh_node_temperature_celsius",
        Kind::Gauge,
        "The processor's hottest sensor",
        |h| h.temperature,
    );
    fleet.used(
        text,
        "neuralmesh_node_uptime_seconds",
        Kind::Gauge,
        "Time since the machine started",
        |h| Some(h.uptime as f64),
    );
}

fn disks(text: &mut Text, fleet: &Fleet<'_>) {
    type Count = fn(&DiskStats) -> u64;
    let families: [(&'static str, &str, Count); 6] = [
        ("neuralmesh_node_disk_total_bytes", "Size of a file system", |d| d.total),
        ("neuralmesh_node_disk_used_bytes", "Bytes of a file system that are taken", |d| {
            d.used
        }),
        (
            "neuralmesh_node_disk_available_bytes",
            "Bytes of a file system that anybody can still write",
            |d| d.available,
        ),
        (
            "neuralmesh_node_disk_inodes",
            "Inodes of a file system; 0 where their number is not fixed",
            |d| d.inodes,
        ),
        ("neuralmesh_node_disk_inodes_used", "Inodes of a file system that are taken", |d| {
            d.inodes_used
        }),
        ("neuralmesh_node_disk_read_only", "Whether a file system can't be written", |d| {
            u64::from(d.read_only)
        }),
    ];
    for (name, help, count) in families {
        text.family(name, Kind::Gauge, help);
        for (host, block) in fleet.hosts() {
            for (i, disk) in host.disks.iter().take(DISKS_SHOWN).enumerate() {
                // One mounted over another hides it: what is on top was mounted last.
                if host.disks[i + 1..].iter().take(DISKS_SHOWN).all(|later| later.mount != disk.mount) {
                    text.sample_in(block, &[("mount", &disk.mount)], count(disk));
                }
            }
        }
    }
}

impl Fleet<'_> {
    /// A gauge of every node that has one.
    fn each(&self, text: &mut Text, name: &'static str, help: &str, value: impl Fn(&NodeFigures) -> Option<u64>) {
        text.family(name, Kind::Gauge, help);
        for (node, block) in self.nodes.iter().zip(self.blocks.iter()) {
            if let Some(value) = value(node) {
                text.sample_in(block, &[], value);
            }
        }
    }

    /// The machines whose use is known.
    fn hosts(&self) -> impl Iterator<Item = (&NodeStats, &str)> {
        let nodes = self.nodes.iter().zip(self.blocks.iter());
        nodes.filter_map(|(node, block)| node.host.as_deref().map(|host| (host, block)))
    }

    fn used(&self, text: &mut Text, name: &'static str, kind: Kind, help: &str, value: impl Fn(&NodeStats) -> Option<f64>) {
        text.family(name, kind, help);
        for (host, block) in self.hosts() {
            if let Some(value) = value(host) {
                text.sample_in(block, &[], value);
            }
        }
    }
}
