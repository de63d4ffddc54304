//! How long to wait before dialling again.

use std::time::Duration;

/// Doubling waits with jitter: a thousand agents that lost one control plane must not come back in the same moment.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    failures: u32,
}

impl Backoff {
    pub(super) fn new(first: Duration) -> Self {
        Self { first, failures: 0 }
    }

    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The next wait: somewhere in the upper half of `first` doubled with each call, `longest` at most.
    pub(super) fn next(&mut self, longest: Duration) -> Duration {
        let full = self.first.saturating_mul(2u32.saturating_pow(self.failures)).min(longest);
        self.failures = self.failures.saturating_add(1);
        full.mul_f64(0.5 + 0.5 * random_share())
    }
}

/// Between 0 and 1. Without random bytes there is merely no jitter.
pub(super) fn random_share() -> f64 {
    let mut bytes = [0u8; 4];
    match getrandom::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_begin_anew() {
        let (mut backoff, longest) = (Backoff::new(Duration::from_millis(200)), Duration::from_secs(10));
        for full in [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000] {
            let wait = backoff.next(longest);
            assert!(
                wait >= Duration::from_millis(full / 2) && wait <= Duration::from_millis(full),
                "{wait:?} of {full} ms"
            );
        }
        for _ in 0..100 {
            assert!(backoff.next(longest) <= longest);
        }
        assert!(backoff.next(Duration::from_secs(2)) <= Duration::from_secs(2));
        backoff.reset();
        assert!(backoff.next(longest) <= Duration::from_millis(200));
    }
}
