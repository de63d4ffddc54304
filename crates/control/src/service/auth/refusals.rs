//! Refusals in the audit log: guessed passwords, and what somebody's role or scopes do not allow.
//!
//! They are caused by whoever likes to cause them, so they must not fill the disk: in a minute some are written at once,
//! their repetitions are counted, and what goes beyond is a number.

use super::super::clock::SharedClock;
use crate::service::audit::ANONYMOUS;
use nm_store::{AuditEntry, Store, StoreError};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// The most different refusals written a minute.
const DIFFERENT: usize = 20;
const WINDOW: Duration = Duration::from_secs(60);
/// How many may wait to be written.
const WAITING: usize = 256;
/// How many are written in one transaction.
const BATCH: usize = 32;

/// Takes refusals; never waits.
#[derive(Debug, Clone)]
pub struct Refusals {
    sender: mpsc::Sender<AuditEntry>,
    beyond: Arc<AtomicU64>,
}

/// The other end, for [`write`].
#[derive(Debug)]
pub struct Refused {
    receiver: mpsc::Receiver<AuditEntry>,
    beyond: Arc<AtomicU64>,
}

pub fn refusals() -> (Refusals, Refused) {
    let (sender, receiver) = mpsc::channel(WAITING);
    let beyond = Arc::<AtomicU64>::default();
    (
        Refusals {
            sender,
            beyond: Arc::clone(&beyond),
        },
        Refused { receiver, beyond },
    )
}

impl Refusals {
    pub fn note(&self, entry: AuditEntry) {
        if self.sender.try_send(entry).is_err() {
            self.beyond.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Writes refusals until nobody can note any.
pub async fn write(mut refused: Refused, store: Store, clock: SharedClock) {
    let mut digest = Digest::default();
    let mut ends: Option<Instant> = None;
    loop {
        let mut batch = Vec::new();
        let arrived = tokio::select! {
            arrived = refused.receiver.recv_many(&mut batch, BATCH) => arrived,
            () = async { sleep_until(ends.unwrap_or_else(Instant::now)).await }, if ends.is_some() => {
                ends = None;
                keep(&store, &clock, digest.close(refused.beyond.swap(0, Ordering::Relaxed))).await;
                continue;
            }
        };
        if arrived == 0 {
            keep(&store, &clock, digest.close(refused.beyond.swap(0, Ordering::Relaxed))).await;
            return;
        }
        ends.get_or_insert_with(|| Instant::now() + WINDOW);
        keep(&store, &clock, batch.into_iter().filter_map(|entry| digest.take(entry)).collect()).await;
    }
}

async fn keep(store: &Store, clock: &SharedClock, entries: Vec<AuditEntry>) {
    if entries.is_empty() {
        return;
    }
    let written: Result<(), StoreError> = async {
        let mut tx = store.begin(clock.now()).await?;
        for entry in entries {
            tx.audit(entry).await?;
        }
        tx.commit().await?;
        Ok(())
    }
    .await;
    if let Err(error) = written {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "refusals could not be written to the audit log"
        );
    }
}

/// What makes two refusals the same.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    actor: String,
    action: String,
    target: Option<String>,
    outcome: String,
    address: Option<String>,
}

/// One minute's refusals.
#[derive(Debug, Default)]
struct Digest {
    written: HashMap<Key, (AuditEntry, u64)>,
    beyond: u64,
}

impl Digest {
    /// The entry, when it is to be written at once.
    fn take(&mut self, entry: AuditEntry) -> Option<AuditEntry> {
        let key = Key {
            actor: entry.actor.clone(),
            action: entry.action.clone(),
            target: entry.target.clone(),
            outcome: entry.outcome.clone(),
            address: entry.address.clone(),
        };
        if let Some((_, again)) = self.written.get_mut(&key) {
            *again += 1;
            return None;
        }
        if self.written.len() >= DIFFERENT {
            self.beyond += 1;
            return None;
        }
        self.written.insert(key, (entry.clone(), 0));
        Some(entry)
    }

    /// Ends the minute: what is still to be said of it. `unheard` more were noted than could be taken.
    fn close(&mut self, unheard: u64) -> Vec<AuditEntry> {
        let Self { written, beyond } = std::mem::take(self);
        let mut entries: Vec<AuditEntry> = written
            .into_values()
            .filter(|(_, again)| *again > 0)
            .map(|(entry, again)| AuditEntry {
                detail: serde_json::json!({ "repeated": again }),
                request_id: None,
                ..entry
            })
            .collect();
        let beyond = beyond + unheard;
        if beyond > 0 {
            let detail = serde_json::json!({ "others": beyond });
            entries.push(AuditEntry {
                outcome: "refused".into(),
                detail,
                ..AuditEntry::new(ANONYMOUS, "auth.refused")
            });
        }
        entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(target: &str) -> AuditEntry {
        AuditEntry {
            target: Some(target.into()),
            outcome: "forbidden".into(),
            ..AuditEntry::new("ada", "auth.refused")
        }
    }

    #[test]
    fn a_flood_becomes_a_few_lines() {
        let mut digest = Digest::default();
        assert_eq!(digest.take(entry("a")), Some(entry("a")));
        for _ in 0..1000 {
            assert_eq!(digest.take(entry("a")), None);
        }
        let at_once = (0..1000).filter(|n| digest.take(entry(&n.to_string())).is_some()).count();
        assert_eq!(at_once, DIFFERENT - 1);
        let rest = digest.close(7);
        assert_eq!(rest.len(), 2);
        assert_eq!(rest[0].detail, serde_json::json!({ "repeated": 1000 }));
        assert_eq!(rest[1].detail, serde_json::json!({ "others": 1000 - at_once as u64 + 7 }));
        assert!(digest.close(0).is_empty());
        assert_eq!(digest.take(entry("a")), Some(entry("a")), "a new minute");
    }

    #[tokio::test]
    async fn noting_never_waits() {
        let (refusals, refused) = refusals();
        for n in 0..WAITING + 5 {
            refusals.note(entry(&n.to_string()));
        }
        assert_eq!(refused.beyond.load(Ordering::Relaxed), 5);
    }
}
