//! A clock that a test can set.

use nm_control::service::clock::{Clock, SystemClock};
use nm_types::Timestamp;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// The machine's clock, moved by as much as the test says. Clones are the same clock.
#[derive(Debug, Clone, Default)]
pub struct TestClock {
    ahead_ms: Arc<AtomicI64>,
}

impl TestClock {
    /// Puts it forward.
    pub fn advance(&self, by: Duration) {
        let by = i64::try_from(by.as_millis()).expect("a test's span fits");
        self.ahead_ms.fetch_add(by, Ordering::SeqCst);
    }
    /// Puts it back.
    pub fn rewind(&self, by: Duration) {
        let by = i64::try_from(by.as_millis()).expect("a test's span fits");
        self.ahead_ms.fetch_sub(by, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        SystemClock.now().plus_millis(self.ahead_ms.load(Ordering::SeqCst))
    }
}
