//! How many connections may be unfinished at a time.
//!
//! Invariant: a new connection never waits for an old one. When all places are taken, the oldest unfinished connection goes:
//! an honest handshake takes milliseconds, so what has been there longest is what is meant to stall us. To push an honest
//! peer out, an attacker would have to fill every place anew within the time of its handshake.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;

#[derive(Clone)]
pub(super) struct Handshakes {
    max: usize,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    /// By age: a smaller number came earlier.
    open: BTreeMap<u64, CancellationToken>,
}

/// A place among the unfinished connections, given back when dropped.
pub(super) struct Slot {
    id: u64,
    evicted: CancellationToken,
    owner: Handshakes,
}

impl Handshakes {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max: max.max(1),
            inner: Arc::default(),
        }
    }

    pub(super) fn enter(&self) -> Slot {
        let mut inner = self.lock();
        while inner.open.len() >= self.max {
            let Some((_, oldest)) = inner.open.pop_first() else { break };
            oldest.cancel();
        }
        let id = inner.next;
        inner.next += 1;
        let evicted = CancellationToken::new();
        inner.open.insert(id, evicted.clone());
        Slot {
            id,
            evicted,
            owner: self.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code under this lock can panic halfway through a change.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Ends when the place was needed for a newer connection.
    pub(super) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }

    /// Cancelled when the place was needed for a newer connection; never once the slot was dropped.
    pub(super) fn token(&self) -> CancellationToken {
        self.evicted.clone()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.owner.lock().open.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_unfinished_one_makes_room() {
        let places = Handshakes::new(2);
        let first = places.enter();
        let second = places.enter();
        let third = places.enter();
        assert!(first.evicted.is_cancelled() && !second.evicted.is_cancelled() && !third.evicted.is_cancelled());
        drop(second);
        drop(first);
        let fourth = places.enter();
        assert!(!third.evicted.is_cancelled() && !fourth.evicted.is_cancelled());
        drop((third, fourth));
        assert!(places.lock().open.is_empty());
    }
}
