//! What was counted, added up over processes that begin at zero and come and go.

use nm_types::cluster::ClusterFigures;
use nm_types::proxy::{Bucket, ClusterMetrics, Histogram, Totals};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Counted so far. The names are short, for there is one a member and minute.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sum {
    #[serde(rename = "r")]
    pub requests: u64,
    #[serde(rename = "e")]
    pub errors: u64,
    #[serde(rename = "i")]
    pub bytes_in: u64,
    #[serde(rename = "o")]
    pub bytes_out: u64,
    /// Microseconds of all answers together.
    #[serde(rename = "t")]
    pub micros: u64,
    /// By the upper bound of a histogram's bucket, in microseconds.
    #[serde(rename = "b")]
    pub buckets: BTreeMap<u64, u64>,
}

impl Sum {
    pub fn of(totals: &Totals) -> Self {
        Self {
            requests: totals.requests,
            errors: totals.errors,
            bytes_in: totals.bytes_in,
            bytes_out: totals.bytes_out,
            micros: totals.latency.sum_micros,
            buckets: totals.latency.buckets.iter().map(|b| (b.below_micros, b.count)).collect(),
        }
    }

    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.errors += other.errors;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.micros += other.micros;
        for (bound, count) in &other.buckets {
            *self.buckets.entry(*bound).or_default() += count;
        }
    }

    /// What was counted since `earlier`; nothing where that is not a state before this one.
    pub fn since(&self, earlier: &Self) -> Option<Self> {
        let buckets = earlier
            .buckets
            .iter()
            .map(|(bound, was)| {
                self.buckets
                    .get(bound)
                    .copied()
                    .unwrap_or_default()
                    .checked_sub(*was)
                    .map(|n| (*bound, n))
            })
            .collect::<Option<BTreeMap<u64, u64>>>()?;
        let mut all = buckets;
        for (bound, count) in &self.buckets {
            all.entry(*bound).or_insert(*count);
        }
        all.retain(|_, count| *count > 0);
        Some(Self {
            requests: self.requests.checked_sub(earlier.requests)?,
            errors: self.errors.checked_sub(earlier.errors)?,
            bytes_in: self.bytes_in.checked_sub(earlier.bytes_in)?,
            bytes_out: self.bytes_out.checked_sub(earlier.bytes_out)?,
            micros: self.micros.checked_sub(earlier.micros)?,
            buckets: all,
        })
    }

    pub fn figures(&self) -> ClusterFigures {
        let answers: u64 = self.buckets.values().sum();
        let latency = Histogram {
            count: answers,
            sum_micros: self.micros,
            buckets: self
                .buckets
                .iter()
                .map(|(below, count)| Bucket {
                    below_micros: *below,
                    count: *count,
                })
                .collect(),
        };
        let millis = |micros: f64| micros.round() / 1000.0;
        let quantile = |q| latency.quantile(q).map_or(0.0, |micros| millis(micros as f64));
        let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        ClusterFigures {
            total_requests: self.requests,
            average_response_time: millis(share(self.micros, answers)),
            error_rate: (share(self.errors, self.requests) * 1e5).round() / 1e3,
            total_bandwidth: self.bytes_in.saturating_add(self.bytes_out),
            p50: quantile(0.5),
            p95: quantile(0.95),
            p99: quantile(0.99),
        }
    }
}

/// What was counted of a cluster and of each of its members.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sums {
    #[serde(rename = "c")]
    pub cluster: Sum,
    #[serde(rename = "m")]
    pub members: BTreeMap<String, Sum>,
}

impl Sums {
    pub fn of(metrics: &ClusterMetrics) -> Self {
        Self {
            cluster: Sum::of(&metrics.totals),
            members: metrics.members.iter().map(|m| (m.id.clone(), Sum::of(&m.totals))).collect(),
        }
    }
}

/// The counters of one process of a node's load balancer, as they were last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// The process that counts.
    pub instance: String,
    pub sums: Sums,
}

/// All that was counted of a cluster since it was made, and the counters it was last brought up to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Book {
    pub sums: Sums,
    /// By node: the processes that counted there last, the newest one last. One that another has taken over from counts on until
    /// its connections have ended.
    pub nodes: BTreeMap<String, Vec<Counters>>,
}

/// The most processes of a node that are told apart: one is replaced with each upgrade.
const PROCESSES: usize = 8;

impl Book {
    /// Takes in what a process of a node's load balancer counted: what is new since it was last asked, all of it the first time.
    /// Says whether anything is.
    pub fn take(&mut self, node: &str, instance: &str, now: Sums) -> bool {
        let processes = self.nodes.entry(node.to_owned()).or_default();
        let place = processes.iter().position(|c| c.instance == instance);
        let before = place.map(|at| &processes[at].sums);
        let fresh = |now: &Sum, before: Option<&Sum>| before.and_then(|b| now.since(b)).unwrap_or_else(|| now.clone());
        let cluster = fresh(&now.cluster, before.map(|b| &b.cluster));
        let members: Vec<(String, Sum)> = now
            .members
            .iter()
            .map(|(id, sum)| (id.clone(), fresh(sum, before.and_then(|b| b.members.get(id)))))
            .collect();
        match place {
            Some(at) => processes[at].sums = now,
            None => {
                processes.push(Counters {
                    instance: instance.to_owned(),
                    sums: now,
                });
                let old = processes.len().saturating_sub(PROCESSES);
                processes.drain(..old);
            }
        }
        self.sums.cluster.add(&cluster);
        for (id, sum) in &members {
            self.sums.members.entry(id.clone()).or_default().add(sum);
        }
        cluster != Sum::default() || members.iter().any(|(_, sum)| *sum != Sum::default())
    }

    /// Forgets the figures of servers that are no longer members; the cluster's own keep them.
    pub fn keep_only(&mut self, members: &[String]) {
        self.sums.members.retain(|id, _| members.contains(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(requests: u64, errors: u64, micros: &[u64]) -> Sums {
        let mut buckets = BTreeMap::new();
        for value in micros {
            *buckets.entry(Histogram::bound(Histogram::index(*value))).or_default() += 1;
        }
        let sum = Sum {
            requests,
            errors,
            bytes_in: requests * 10,
            bytes_out: requests * 100,
            micros: micros.iter().sum(),
            buckets,
        };
        Sums {
            cluster: sum.clone(),
            members: [("m1".to_owned(), sum)].into(),
        }
    }

    #[test]
    fn totals_go_on_over_processes_that_begin_at_zero() {
        let mut book = Book::default();
        assert!(book.take("n1", "a", counted(2, 0, &[1000, 2000])));
        assert!(!book.take("n1", "a", counted(2, 0, &[1000, 2000])), "nothing new");
        assert!(book.take("n1", "a", counted(5, 1, &[1000, 2000, 3000])));
        assert_eq!((book.sums.cluster.requests, book.sums.cluster.errors), (5, 1));
        assert!(book.take("n1", "b", counted(1, 0, &[4000])), "another process");
        assert!(book.take("n2", "c", counted(10, 0, &[])), "another node");
        assert_eq!(book.sums.cluster.requests, 16);
        assert_eq!(book.sums.members["m1"].requests, 16);
        // The one that was replaced still ends its connections, and is told of as long as that is remembered.
        assert!(book.take("n1", "a", counted(6, 1, &[1000, 2000, 3000])));
        assert!(!book.take("n1", "a", counted(6, 1, &[1000, 2000, 3000])) && !book.take("n1", "b", counted(1, 0, &[4000])));
        assert_eq!(book.sums.cluster.requests, 17);
        // What was kept goes on where it was left, and a member that was away begins anew in the same process.
        let kept = serde_json::to_string(&book).unwrap();
        let mut book: Book = serde_json::from_str(&kept).unwrap();
        let mut away = counted(3, 0, &[4000]);
        away.members.clear();
        book.take("n1", "b", away);
        book.take("n1", "b", counted(4, 0, &[4000]));
        assert_eq!(book.sums.cluster.requests, 20);
        assert_eq!(book.sums.members["m1"].requests, 21);
        book.keep_only(&[]);
        assert!(book.sums.members.is_empty() && book.sums.cluster.requests == 20);
        for n in 0..20 {
            book.take("n3", &format!("p{n}"), counted(1, 0, &[]));
        }
        assert_eq!((book.nodes["n3"].len(), book.sums.cluster.requests), (PROCESSES, 40));
    }

    #[test]
    fn figures_are_those_of_what_was_counted() {
        let figures = counted(4, 1, &[1000, 2000, 3000, 100_000]).cluster.figures();
        assert_eq!((figures.total_requests, figures.total_bandwidth), (4, 440));
        assert_eq!((figures.average_response_time, figures.error_rate), (26.5, 25.0));
        assert!(
            (figures.p50 / 2.0 - 1.0).abs() <= 0.125 && (figures.p99 / 100.0 - 1.0).abs() <= 0.125,
            "{figures:?}"
        );
        assert_eq!(Sum::default().figures(), ClusterFigures::default());
        let part = counted(4, 1, &[1, 2, 3]).cluster.since(&counted(1, 0, &[1]).cluster).unwrap();
        assert_eq!((part.requests, part.errors, part.buckets.values().sum::<u64>()), (3, 1, 2));
        assert_eq!(counted(1, 0, &[1]).cluster.since(&counted(2, 0, &[1, 1]).cluster), None);
    }
}
