//! Single containers, the oldest [`CONTAINERS_SHOWN`](super::CONTAINERS_SHOWN) of them.

use super::text::{Blocks, Kind, Text};
use crate::service::index::{Census, Counted};
use crate::service::nodes::NodeFigures;
use nm_types::NodeId;
use nm_types::container::{ContainerHealth, ContainerStatus};
use std::collections::HashMap;

const MIB: f64 = 1024.0 * 1024.0;

pub(super) fn write(text: &mut Text, nodes: &[NodeFigures], census: &Census) {
    let known: u64 = census.by_status.iter().sum();
    text.family(
        "neuralmesh_containers_left_out",
        Kind::Gauge,
        "Containers without series of their own here, for there are too many or they were not asked for",
    )
    .sample(&[], known.saturating_sub(census.oldest.len() as u64));

    let names: HashMap<&NodeId, &str> = nodes.iter().map(|n| (&n.id, n.name.as_str())).collect();
    let mut blocks = Blocks::with_room(census.oldest.len());
    for Counted { record, .. } in &census.oldest {
        let node = names.get(&record.node).copied().unwrap_or_default();
        blocks.push(&[("container_id", record.id.as_str()), ("container", record.name()), ("node", node)]);
    }
    let mut family = |name: &'static str, kind: Kind, help: &str, value: &dyn Fn(&Counted) -> Option<f64>| {
        text.family(name, kind, help);
        for (container, block) in census.oldest.iter().zip(blocks.iter()) {
            if let Some(value) = value(container) {
                text.sample_in(block, &[], value);
            }
        }
    };
    family(
        "neuralmesh_container_running",
        Kind::Gauge,
        "Whether the container runs; only while its node can be reached",
        &|c| c.reachable.then(|| f64::from(u8::from(runs(c)))),
    );
    family(
        "neuralmesh_container_wanted_running",
        Kind::Gauge,
        "Whether the container was last asked to run; only of containers made through NeuralMesh",
        &|c| c.record.managed().then(|| f64::from(u8::from(c.record.wanted.running))),
    );
    family(
        "neuralmesh_container_healthy",
        Kind::Gauge,
        "Whether the container's own health check is content; only of those that have one and run",
        &|c| {
            let health = c.record.state.observed.as_ref()?.health?;
            (c.reachable && runs(c)).then(|| f64::from(u8::from(health != ContainerHealth::Unhealthy)))
        },
    );
    family(
        "neuralmesh_container_restarts",
        Kind::Counter,
        "How often Docker started the container again by its restart policy",
        &|c| c.record.state.observed.as_ref().map(|o| o.restarts as f64),
    );
    family(
        "neuralmesh_container_cpu_usage_cores",
        Kind::Gauge,
        "Processors' worth of CPU in use",
        &|c| measured(c).then_some(c.usage.cpu / 100.0),
    );
    family(
        "neuralmesh_container_cpu_limit_cores",
        Kind::Gauge,
        "The most processors' worth of CPU it may use",
        &|c| c.record.cpu_limit(),
    );
    family(
        "neuralmesh_container_memory_usage_bytes",
        Kind::Gauge,
        "Memory in use, page cache that can be dropped left out",
        &|c| measured(c).then_some((c.usage.memory * MIB).round()),
    );
    family(
        "neuralmesh_container_memory_limit_bytes",
        Kind::Gauge,
        "The most memory it may use",
        &|c| c.record.memory_limit().map(|m| m.bytes() as f64),
    );
}

fn runs(c: &Counted) -> bool {
    matches!(c.record.status(), ContainerStatus::Running | ContainerStatus::Paused)
}

/// Whether its figures are of now.
fn measured(c: &Counted) -> bool {
    c.reachable && runs(c)
}

#[cfg(test)]
mod tests {
    use super::super::CONTAINERS_SHOWN;
    use super::super::text::Format;
    use super::*;
    use crate::service::index::{Index, Phase, Record, State, Wanted};
    use nm_types::container::ContainerSpec;
    use nm_types::{ContainerId, Timestamp};

    fn fleet_of(containers: i64) -> Index {
        let spec = serde_json::json!({ "name": "web", "image": "nginx:latest", "cpuLimit": 1, "memoryLimit": "512m" });
        let spec: ContainerSpec = serde_json::from_value(spec).unwrap();
        let record = |n: i64| Record {
            id: ContainerId::parse(&format!("cont_{}_aaaaaaaaa", 1_000_000 + n)).unwrap(),
            node: NodeId::parse("node_1_aaaaaaaaa").unwrap(),
            created: Timestamp(n),
            wanted: Wanted {
                spec: Some(Box::new(spec.clone())),
                running: true,
            },
            state: State::new(Phase::Ready),
            generation: 1,
            revision: n,
        };
        let index = Index::default();
        index.load((0..containers).map(record).collect());
        index
    }

    #[test]
    fn there_are_never_more_series_than_that() {
        let index = fleet_of(CONTAINERS_SHOWN as i64 + 3);
        let census = index.census(CONTAINERS_SHOWN);
        let mut text = Text::new(Format::OpenMetrics, 0);
        write(&mut text, &[], &census);
        let text = text.end();
        let wanted: Vec<&str> = text
            .lines()
            .filter(|l| l.starts_with("neuralmesh_container_wanted_running{"))
            .collect();
        assert_eq!(wanted.len(), CONTAINERS_SHOWN);
        assert!(text.contains("\nneuralmesh_containers_left_out 3\n"));
        // The oldest, so that they stay the same ones while others come.
        assert!(wanted[0].contains("cont_1000000_aaaaaaaaa") && !text.contains("cont_1005000_aaaaaaaaa"));
        // Not seen yet, so there is nothing to say of how they are.
        assert!(!text.contains("\nneuralmesh_container_running{"));
    }
}
