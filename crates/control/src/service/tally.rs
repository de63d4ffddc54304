//! How many operations have ended since this process began, and how long they took.

use nm_types::measure::Durations;
use nm_types::operation::OperationState;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// By kind. Kinds are our own words, and few. Cheap to clone; clones are the same table.
#[derive(Debug, Clone, Default)]
pub struct Tallies(Arc<Mutex<BTreeMap<String, Arc<Tally>>>>);

/// The operations of one kind.
#[derive(Debug, Default)]
pub struct Tally {
    /// Of those taken up again after a crash, the time since then.
    pub took: Durations,
    by_state: Mutex<BTreeMap<&'static str, u64>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Tallies {
    pub fn count(&self, kind: &str, state: OperationState, took: Duration) {
        let tally = {
            let mut tallies = lock(&self.0);
            match tallies.get(kind) {
                Some(tally) => tally.clone(),
                None => tallies.entry(kind.to_owned()).or_default().clone(),
            }
        };
        tally.took.observe(took);
        *lock(&tally.by_state).entry(state.as_str()).or_default() += 1;
    }

    pub fn all(&self) -> BTreeMap<String, Arc<Tally>> {
        lock(&self.0).clone()
    }
}

impl Tally {
    /// How many, by the state they ended in.
    pub fn by_state(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.by_state).clone()
    }
}
