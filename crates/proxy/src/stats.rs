//! Figures. Each worker counts in a shard of its own, so counting never contends; who reads adds the shards up.

use nm_types::proxy::{Histogram, Totals};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// One worker's figures of one member or cluster. Only that worker writes.
#[repr(align(128))]
pub struct Stats {
    requests: AtomicU64,
    errors: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    sum_micros: AtomicU64,
    buckets: Box<[AtomicU64]>,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            requests: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            sum_micros: AtomicU64::new(0),
            buckets: (0..Histogram::BUCKETS).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

/// With one writer, a load and a store are enough; a locked add costs several times as much.
fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
}

impl Stats {
    /// A request, or a TCP connection, that was answered or failed after `took`.
    pub fn request(&self, took: Duration, error: bool) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        add(&self.requests, 1);
        if error {
            add(&self.errors, 1);
        }
        add(&self.sum_micros, micros);
        add(&self.buckets[Histogram::index(micros)], 1);
    }

    /// A request that was counted as answered, and then broke off.
    pub fn broke_off(&self) {
        add(&self.errors, 1);
    }

    pub fn bytes(&self, from_client: u64, to_client: u64) {
        if from_client > 0 {
            add(&self.bytes_in, from_client);
        }
        if to_client > 0 {
            add(&self.bytes_out, to_client);
        }
    }
}

/// The sum of all workers' figures.
pub fn total<'a>(shards: impl Iterator<Item = &'a Stats>) -> Totals {
    let mut totals = Totals::default();
    let mut counts = vec![0; Histogram::BUCKETS];
    let mut sum = 0;
    for shard in shards {
        totals.requests += shard.requests.load(Relaxed);
        totals.errors += shard.errors.load(Relaxed);
        totals.bytes_in += shard.bytes_in.load(Relaxed);
        totals.bytes_out += shard.bytes_out.load(Relaxed);
        sum += shard.sum_micros.load(Relaxed);
        for (count, bucket) in counts.iter_mut().zip(&shard.buckets) {
            *count += bucket.load(Relaxed);
        }
    }
    totals.latency = Histogram::of_counts(&counts, sum);
    totals
}
