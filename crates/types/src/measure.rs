//! How long things take, counted into buckets: a histogram that many threads add to without waiting for one another.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The upper bounds of the buckets, in seconds: 0.25 ms to 16 s, each twice the one before.
const BOUNDS: [f64; 17] = [
    0.000_25, 0.000_5, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384,
];

/// Durations by bucket. What is longer than the last bound is counted too.
#[derive(Debug, Default)]
pub struct Durations {
    /// One a bound, and a last one for what is longer.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum_nanos: AtomicU64,
}

/// [`Durations`] as they were at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct DurationsSeen {
    /// Each bound in seconds, and how many took no longer.
    pub buckets: Vec<(f64, u64)>,
    pub count: u64,
    /// Seconds.
    pub sum: f64,
}

impl Durations {
    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS.partition_point(|bound| *bound < seconds);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    pub fn seen(&self) -> DurationsSeen {
        let mut count = 0;
        let counts = self.buckets.iter().map(|b| {
            count += b.load(Ordering::Relaxed);
            count
        });
        // One longer than the bounds: its last value is the count of all.
        let counts: Vec<u64> = counts.collect();
        DurationsSeen {
            buckets: BOUNDS.into_iter().zip(counts.iter().copied()).collect(),
            count: counts.last().copied().unwrap_or_default(),
            sum: self.sum_nanos.load(Ordering::Relaxed) as f64 / 1e9,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket_and_nothing_is_lost() {
        let durations = Durations::default();
        for millis in [0.0, 0.25, 0.251, 1.0, 60_000.0] {
            durations.observe(Duration::from_secs_f64(millis / 1e3));
        }
        let seen = durations.seen();
        assert_eq!(seen.buckets[..3], [(0.000_25, 2), (0.000_5, 3), (0.001, 4)]);
        assert_eq!((seen.buckets.last().copied(), seen.count), (Some((16.384, 4)), 5));
        assert!((seen.sum - 60.001_501).abs() < 1e-6, "{}", seen.sum);
        assert!(seen.buckets.windows(2).all(|w| w[0].0 * 2.0 == w[1].0));
    }
}
