//! When to start again what has ended by itself.

use std::time::Duration;
use tokio::time::Instant;

const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(10);
/// What ran for so long is started again at once.
const STEADY: Duration = Duration::from_secs(10);

/// At once after the first end, then after waits that double.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
    due: Option<Instant>,
}

impl Backoff {
    /// It ended, or could not be started, after it ran for `lived`.
    pub fn failed(&mut self, lived: Duration) {
        if lived >= STEADY {
            self.failures = 0;
        }
        let wait = match self.failures {
            0 => Duration::ZERO,
            n => FIRST.saturating_mul(2u32.saturating_pow(n - 1)).min(LONGEST),
        };
        self.failures = self.failures.saturating_add(1);
        self.due = Some(Instant::now() + wait);
    }

    /// Nothing is to be started.
    pub fn rest(&mut self) {
        *self = Self::default();
    }

    /// It was started; should it end soon, that is a failure more.
    pub fn started(&mut self) {
        self.due = None;
    }

    /// Waits until it is time; for ever where nothing is to be started.
    pub async fn due(&self) {
        match self.due {
            Some(due) => tokio::time::sleep_until(due).await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waits_double_and_a_steady_run_is_forgiven() {
        let mut backoff = Backoff::default();
        let mut wait = |lived: u64| {
            backoff.failed(Duration::from_secs(lived));
            let wait = backoff.due.unwrap().saturating_duration_since(Instant::now()).as_secs_f64();
            (wait * 20.0).round() / 20.0
        };
        let waits: Vec<f64> = [60, 0, 0, 1, 0, 0, 0, 0, 0].map(&mut wait).into();
        assert_eq!(waits, [0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]);
        assert_eq!([60, 0].map(wait), [0.0, 0.25]);
    }
}
