//! When something was last heard.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The moment at which something was last heard. It has no lock, for it is written at every read of a connection.
#[derive(Debug)]
pub(crate) struct Ear {
    since: Instant,
    /// Milliseconds after `since`.
    at: AtomicU64,
    spoke: Notify,
}

impl Ear {
    /// One that hears something now.
    pub(crate) fn new() -> Self {
        Self {
            since: Instant::now(),
            at: AtomicU64::new(0),
            spoke: Notify::new(),
        }
    }

    pub(crate) fn hear(&self) {
        let now = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.at.fetch_max(now, Ordering::Relaxed);
        self.spoke.notify_waiters();
    }

    pub(crate) fn heard(&self) -> Instant {
        self.since + Duration::from_millis(self.at.load(Ordering::Relaxed))
    }

    /// Ends once nothing was heard for `span`.
    pub(crate) async fn silent_for(&self, span: Duration) {
        loop {
            let end = self.heard() + span;
            if Instant::now() >= end {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }

    /// Ends when something is heard after this was first polled.
    pub(crate) async fn speaks(&self) {
        self.spoke.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_counts_from_the_last_word() {
        let ear = Ear::new();
        let began = Instant::now();
        tokio::join!(ear.silent_for(Duration::from_secs(5)), async {
            tokio::time::advance(Duration::from_secs(3)).await;
            ear.hear();
        });
        assert_eq!(began.elapsed().as_secs(), 8);
        assert_eq!(ear.heard() - began, Duration::from_secs(3));
    }
}
