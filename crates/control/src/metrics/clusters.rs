//! Clusters: what their load balancers counted, and which of their servers serve.

use super::text::{Blocks, Kind, Text};
use nm_plan::cluster::{Sum, Sums};
use nm_types::cluster::{ClusterMemberState, ClusterMemberView, ClusterStatus, ClusterView};
use nm_types::measure::DurationsSeen;

/// Bounds of the histogram in powers of two of a microsecond, as load balancers' own buckets have them: 0.256 ms to 16.8 s.
const POWERS: std::ops::RangeInclusive<u32> = 8..=24;

pub(super) fn write(text: &mut Text, clusters: &[(ClusterView, Sums)]) {
    text.family("neuralmesh_clusters", Kind::Gauge, "Clusters known, by status");
    for status in ClusterStatus::ALL {
        let count = clusters.iter().filter(|(c, _)| c.status == status).count();
        text.sample(&[("status", status.as_str())], count);
    }
    let mut blocks = Blocks::with_room(clusters.len());
    for (cluster, _) in clusters {
        blocks.push(&[("cluster_id", cluster.id.as_str()), ("cluster", cluster.name.as_str())]);
    }
    text.family(
        "neuralmesh_cluster_request_duration_seconds",
        Kind::Histogram,
        "From a request's head to its answer's head; of TCP, to the server's connection",
    );
    for ((_, sums), block) in clusters.iter().zip(blocks.iter()) {
        text.durations_in(block, &durations(&sums.cluster));
    }
    counters(text, CLUSTER, || clusters.iter().map(|(_, sums)| &sums.cluster).zip(blocks.iter()));
    text.family(
        "neuralmesh_cluster_conditions",
        Kind::Gauge,
        "What keeps the cluster from being as it should, counted",
    );
    for ((cluster, _), block) in clusters.iter().zip(blocks.iter()) {
        text.sample_in(block, &[], cluster.conditions.len());
    }
    servers(text, clusters);
}

fn servers(text: &mut Text, clusters: &[(ClusterView, Sums)]) {
    let none = Sum::default();
    let mut blocks = Blocks::with_room(clusters.iter().map(|(c, _)| c.members.len()).sum());
    let mut servers: Vec<(&ClusterMemberView, &Sum)> = Vec::new();
    for (cluster, sums) in clusters {
        for server in &cluster.members {
            blocks.push(&[
                ("cluster_id", cluster.id.as_str()),
                ("cluster", cluster.name.as_str()),
                ("server_id", &server.id),
                ("server", &server.name),
            ]);
            servers.push((server, sums.members.get(&server.id).unwrap_or(&none)));
        }
    }
    text.family("neuralmesh_cluster_server_up", Kind::Gauge, "Whether the server serves");
    for ((server, _), block) in servers.iter().zip(blocks.iter()) {
        text.sample_in(block, &[], server.state == ClusterMemberState::Up);
    }
    text.family(
        "neuralmesh_cluster_server_in_flight",
        Kind::Gauge,
        "Requests and connections that the server has now",
    );
    for ((server, _), block) in servers.iter().zip(blocks.iter()) {
        text.sample_in(block, &[], server.in_flight);
    }
    counters(text, SERVER, || servers.iter().map(|(_, sum)| *sum).zip(blocks.iter()));
}

/// Families of what is counted, with what they are of.
struct Counters {
    requests: (&'static str, &'static str),
    errors: (&'static str, &'static str),
    received: (&'static str, &'static str),
    sent: (&'static str, &'static str),
}

const CLUSTER: Counters = Counters {
    requests: ("neuralmesh_cluster_requests", "HTTP requests, or TCP connections, of clients"),
    errors: (
        "neuralmesh_cluster_request_errors",
        "Of them, those that ended with 500 to 599 or without an answer",
    ),
    received: ("neuralmesh_cluster_received_bytes", "Bytes of bodies, or of TCP, from clients"),
    sent: ("neuralmesh_cluster_sent_bytes", "Bytes of bodies, or of TCP, to clients"),
};
const SERVER: Counters = Counters {
    requests: (
        "neuralmesh_cluster_server_requests",
        "Tries at the server: a request that is tried at another one counts at both",
    ),
    errors: (
        "neuralmesh_cluster_server_request_errors",
        "Of them, those that ended with 500 to 599 or without an answer",
    ),
    received: (
        "neuralmesh_cluster_server_received_bytes",
        "Bytes of bodies, or of TCP, to the server",
    ),
    sent: (
        "neuralmesh_cluster_server_sent_bytes",
        "Bytes of bodies, or of TCP, from the server",
    ),
};

fn counters<'a, I: Iterator<Item = (&'a Sum, &'a str)>>(text: &mut Text, names: Counters, each: impl Fn() -> I) {
    let mut family = |(name, help): (&'static str, &str), value: fn(&Sum) -> u64| {
        text.family(name, Kind::Counter, help);
        for (sum, block) in each() {
            text.sample_in(block, &[], value(sum));
        }
    };
    family(names.requests, |s| s.requests);
    family(names.errors, |s| s.errors);
    family(names.received, |s| s.bytes_in);
    family(names.sent, |s| s.bytes_out);
}

/// What was counted, in the buckets of [`POWERS`].
fn durations(sum: &Sum) -> DurationsSeen {
    let below = |micros: u64| sum.buckets.range(..=micros).map(|(_, count)| count).sum();
    let bucket = |power: u32| {
        let micros = 1_u64 << power;
        (micros as f64 / 1e6, below(micros))
    };
    DurationsSeen {
        buckets: POWERS.map(bucket).collect(),
        count: sum.buckets.values().sum(),
        sum: sum.micros as f64 / 1e6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nm_types::proxy::Histogram;

    #[test]
    fn no_duration_lies_between_two_buckets() {
        let micros = [1, 255, 256, 511, 512, 16_777_215, 16_777_216];
        let mut sum = Sum::default();
        for value in micros {
            *sum.buckets.entry(Histogram::bound(Histogram::index(value))).or_default() += 1;
            sum.micros += value;
        }
        let seen = durations(&sum);
        assert_eq!(seen.buckets[..3], [(0.000_256, 2), (0.000_512, 4), (0.001_024, 5)]);
        assert_eq!(seen.buckets.last(), Some(&(16.777_216, 6)));
        assert_eq!(seen.count, 7);
        for power in POWERS {
            assert_eq!(
                Histogram::bound(Histogram::index((1 << power) - 1)),
                1 << power,
                "a bucket ends there"
            );
        }
    }
}
