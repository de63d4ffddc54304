//! What a proxy answers: status, figures, events.

use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// What is seen now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Different for each process; figures and event numbers count from its start.
    pub instance: String,
    pub started_at: Timestamp,
    pub version: String,
    pub pid: u32,
    /// Of the configuration in force; nothing before the first.
    pub generation: Option<u64>,
    /// It takes no new connections, and ends when the last one does or its time is up.
    pub draining: bool,
    pub listeners: Vec<ListenerStatus>,
    pub clusters: Vec<ClusterStatus>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerStatus {
    pub id: String,
    pub address: String,
    /// Open now.
    pub connections: u64,
    /// Taken since the start.
    pub accepted: u64,
    /// Closed at once, as there were too many.
    pub refused: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    pub id: String,
    /// Members that would be given a new client.
    pub available: usize,
    /// The member that takes the traffic, in `active-standby`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_member: Option<String>,
    pub members: Vec<MemberStatus>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    pub id: String,
    pub address: String,
    pub state: MemberState,
    /// Why it is in this state, in words.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// Requests and TCP connections in flight.
    pub active: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    Up,
    /// Its health check fails.
    Down,
    /// Traffic failed at it; it is tried again after a while.
    Ejected,
    /// The configuration asks for it.
    Draining,
}

/// Totals since the start of this instance: who adds up keeps the last totals of each instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metrics {
    pub instance: String,
    pub started_at: Timestamp,
    pub at: Timestamp,
    pub clusters: Vec<ClusterMetrics>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterMetrics {
    pub id: String,
    /// What clients saw: a request that was tried at two members counts once.
    pub totals: Totals,
    pub members: Vec<MemberMetrics>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberMetrics {
    pub id: String,
    /// What this member did: each try counts.
    pub totals: Totals,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    /// HTTP requests, or TCP connections.
    pub requests: u64,
    /// Those that ended with 500 to 599 or with none at all.
    pub errors: u64,
    /// Bytes of bodies, or of TCP, from clients.
    pub bytes_in: u64,
    /// To clients.
    pub bytes_out: u64,
    /// Time from a request's head to its answer's head; for TCP, to the member's connection.
    pub latency: Histogram,
}

/// How many values lie where. Bounds grow by an eighth of a power of two, so a quantile is right to 12.5%.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Histogram {
    pub count: u64,
    pub sum_micros: u64,
    /// Only those that are not empty, in order.
    pub buckets: Vec<Bucket>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bucket {
    /// Values less than this, and not less than the bound before it.
    pub below_micros: u64,
    pub count: u64,
}

impl Histogram {
    /// Buckets of a histogram: 0 to 2^36 µs (19 hours); what is more lies in the last.
    pub const BUCKETS: usize = 34 * 8;

    /// Which bucket a value lies in.
    pub fn index(micros: u64) -> usize {
        if micros < 8 {
            return micros as usize;
        }
        let power = 63 - micros.leading_zeros() as usize;
        let eighth = (micros >> (power - 3)) as usize & 7;
        ((power - 2) * 8 + eighth).min(Self::BUCKETS - 1)
    }

    /// The first value that is too large for bucket `index`.
    pub fn bound(index: usize) -> u64 {
        let next = index + 1;
        if next <= 8 {
            return next as u64;
        }
        let (power, eighth) = (next / 8 + 2, next % 8);
        (8 + eighth as u64) << (power - 3)
    }

    /// Out of the counts of all buckets.
    pub fn of_counts(counts: &[u64], sum_micros: u64) -> Self {
        let buckets = counts.iter().enumerate().filter(|(_, n)| **n > 0).map(|(i, n)| Bucket {
            below_micros: Self::bound(i),
            count: *n,
        });
        Self {
            count: counts.iter().sum(),
            sum_micros,
            buckets: buckets.collect(),
        }
    }

    /// The value that a share `q` (0 to 1) of all values does not exceed, in microseconds; nothing where there are none.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let rank = ((self.count as f64 * q).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        for bucket in &self.buckets {
            seen += bucket.count;
            if seen >= rank {
                return Some(bucket.below_micros - 1);
            }
        }
        None
    }
}

/// Something that changed by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// 1 is the first of an instance.
    pub sequence: u64,
    pub at: Timestamp,
    pub cluster: String,
    pub member: String,
    pub kind: EventKind,
    /// Why, in words.
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EventKind {
    /// Its health check succeeds again.
    MemberUp,
    /// Its health check fails.
    MemberDown,
    /// Traffic failed at it.
    MemberEjected,
    /// The time of its ejection is over.
    MemberReturned,
    /// It takes the traffic of an active-standby cluster now.
    Failover,
}

/// Events after the number that was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Events {
    pub instance: String,
    /// Ask for those after this one next.
    pub last: u64,
    /// Some were thrown away before they were asked for: read the status again.
    pub missed: bool,
    pub events: Vec<Event>,
}

/// Asks for another active member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FailoverRequest {
    pub cluster: String,
    /// The next one in the list that is up where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_value_lies_below_its_bound_and_within_an_eighth_of_it(micros in 0u64..(1 << 36)) {
            let index = Histogram::index(micros);
            let (below, lowest) = (Histogram::bound(index), index.checked_sub(1).map_or(0, Histogram::bound));
            prop_assert!(lowest <= micros && micros < below, "{lowest} <= {micros} < {below}");
            prop_assert!(below - lowest <= 1 + lowest / 8);
        }
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let mut counts = vec![0; Histogram::BUCKETS];
        for micros in 1..=1000u64 {
            counts[Histogram::index(micros)] += 1;
        }
        let histogram = Histogram::of_counts(&counts, 500_500);
        for (q, true_value) in [(0.5, 500.0), (0.95, 950.0), (0.99, 990.0)] {
            let told = histogram.quantile(q).unwrap() as f64;
            assert!((told / true_value - 1.0).abs() <= 0.125, "{q}: {told}");
        }
        assert_eq!(Histogram::default().quantile(0.5), None);
        assert_eq!(Histogram::index(u64::MAX), Histogram::BUCKETS - 1);
    }
}
