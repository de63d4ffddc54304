//! One at a time, by key.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::OwnedMutexGuard;

type Table<K> = Arc<Mutex<HashMap<K, Arc<tokio::sync::Mutex<()>>>>>;

/// A lock for each key, made when first asked for and gone when nobody holds or awaits it.
#[derive(Debug)]
pub struct Locks<K> {
    table: Table<K>,
}

impl<K> Default for Locks<K> {
    fn default() -> Self {
        Self { table: Arc::default() }
    }
}
impl<K> Clone for Locks<K> {
    fn clone(&self) -> Self {
        Self { table: self.table.clone() }
    }
}

/// The lock of one key, until dropped.
#[derive(Debug)]
pub struct Held<K: Hash + Eq> {
    key: K,
    table: Table<K>,
    guard: Option<OwnedMutexGuard<()>>,
}

impl<K: Hash + Eq + Clone> Locks<K> {
    /// Waits for its turn: first come, first served.
    pub async fn hold(&self, key: K) -> Held<K> {
        let lock = table(&self.table).entry(key.clone()).or_default().clone();
        let guard = lock.lock_owned().await;
        Held {
            key,
            table: self.table.clone(),
            guard: Some(guard),
        }
    }
}

fn table<K>(table: &Table<K>) -> MutexGuard<'_, HashMap<K, Arc<tokio::sync::Mutex<()>>>> {
    table.lock().unwrap_or_else(|e| e.into_inner())
}

impl<K: Hash + Eq> Drop for Held<K> {
    fn drop(&mut self) {
        let mut table = table(&self.table);
        self.guard = None;
        // Ours was the last but the table's own: nobody waits.
        if table.get(&self.key).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            table.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_at_a_time_and_nothing_left() {
        let locks = Locks::default();
        let first = locks.hold("a").await;
        let other = locks.hold("b").await;
        let waiting = tokio::spawn({
            let locks = locks.clone();
            async move { drop(locks.hold("a").await) }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop((first, other));
        waiting.await.unwrap();
        assert!(table(&locks.table).is_empty());
    }
}
