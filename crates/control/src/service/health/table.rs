//! What was last found of each server, in memory. What must not be lost of it is in the store, a moment later.

use super::Filter;
use crate::service::servers::{ServerKey, ServerRef};
use nm_plan::health::{Finding, Memory, State, Verdict};
use nm_types::Timestamp;
use nm_types::health::{Check, HealthConfig, HealthStatus, HealthView};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// One server.
#[derive(Debug, Clone)]
pub struct Entry {
    pub name: Arc<str>,
    pub config: Arc<HealthConfig>,
    pub memory: Memory,
    /// The last check since the start of this control plane.
    pub last: Option<Last>,
    pub last_check: Option<Timestamp>,
    pub state: State,
    /// When the state began; nothing where it was never checked.
    pub since: Option<Timestamp>,
    /// Since when it can be reached without a break.
    pub reachable_since: Option<Timestamp>,
    /// Whether it is checked by itself.
    pub checked: bool,
    /// What the history says it is.
    pub noted: State,
    /// Changes that are to be written into the history, oldest first.
    pub pending: Vec<Turn>,
}

/// A change for the history.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn {
    pub state: State,
    pub at: Timestamp,
    pub failed: Vec<Check>,
}

impl Entry {
    /// Brings the history up to what it is. What somebody asked for once says nothing of the time after it.
    fn note(&mut self, at: Timestamp) {
        let state = if self.checked { self.state } else { State::Unknown };
        if state != self.noted {
            self.noted = state;
            let failed = self.last.as_ref().filter(|_| self.checked);
            self.pending.push(Turn {
                state,
                at,
                failed: failed.map(|l| l.verdict.checks.failed()).unwrap_or_default(),
            });
        }
    }

    /// Nobody checked from that moment on.
    pub fn unknown_since(&mut self, moment: Timestamp) {
        self.state = State::Unknown;
        self.since = self.since.map(|since| since.max(moment));
        self.last = None;
        self.reachable_since = None;
        self.note(self.since.unwrap_or(moment));
    }
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            name: "".into(),
            config: Arc::default(),
            memory: Memory::default(),
            last: None,
            last_check: None,
            state: State::Unknown,
            since: None,
            reachable_since: None,
            checked: false,
            noted: State::Unknown,
            pending: Vec::new(),
        }
    }
}

/// What one check came to.
#[derive(Debug, Clone)]
pub struct Last {
    pub at: Timestamp,
    pub verdict: Verdict,
    pub findings: Vec<Finding>,
    /// Milliseconds.
    pub response_time: Option<f64>,
    pub up: Up,
    pub reachable: bool,
}

/// Since when it is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Up {
    /// Its machine or container started then.
    Since(Timestamp),
    /// It can be reached; when it started can't be seen.
    WhileReachable,
    Down,
}

/// All servers. Cheap to clone; clones are the same table.
#[derive(Debug, Clone, Default)]
pub struct Table {
    entries: Arc<RwLock<BTreeMap<ServerKey, Entry>>>,
}

impl Table {
    fn lock(&self) -> RwLockReadGuard<'_, BTreeMap<ServerKey, Entry>> {
        self.entries.read().unwrap_or_else(|e| e.into_inner())
    }
    fn lock_mut(&self) -> RwLockWriteGuard<'_, BTreeMap<ServerKey, Entry>> {
        self.entries.write().unwrap_or_else(|e| e.into_inner())
    }

    pub fn read<T>(&self, key: &ServerKey, work: impl FnOnce(&Entry) -> T) -> Option<T> {
        self.lock().get(key).map(work)
    }
    pub fn change<T>(&self, key: &ServerKey, work: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        self.lock_mut().get_mut(key).map(work)
    }
    pub fn put(&self, key: ServerKey, entry: Entry) {
        self.lock_mut().insert(key, entry);
    }
    pub fn remove(&self, key: &ServerKey) -> bool {
        self.lock_mut().remove(key).is_some()
    }

    /// `healthy`, `unhealthy` or `unknown`.
    pub fn status(&self, key: &ServerKey) -> HealthStatus {
        self.read(key, |e| e.state.status()).unwrap_or(HealthStatus::Unknown)
    }
    pub fn config(&self, key: &ServerKey) -> Arc<HealthConfig> {
        self.read(key, |e| e.config.clone()).unwrap_or_default()
    }
    pub fn configure(&self, key: &ServerKey, config: HealthConfig) {
        self.lock_mut().entry(key.clone()).or_default().config = Arc::new(config);
    }
    /// It is checked by itself from now on. What was found before, on somebody's word, is no part of its history.
    pub fn start_checking(&self, key: &ServerKey) {
        let mut entries = self.lock_mut();
        let entry = entries.entry(key.clone()).or_default();
        if !std::mem::replace(&mut entry.checked, true) {
            (entry.state, entry.since) = (State::Unknown, None);
        }
    }

    /// What a check begins with.
    pub fn begin(&self, key: &ServerKey) -> (Arc<HealthConfig>, Memory) {
        self.read(key, |e| (e.config.clone(), e.memory.clone())).unwrap_or_default()
    }

    /// Takes in what a check found. Whether there is something to write.
    pub fn found(&self, server: &ServerRef, mut last: Last, memory: Memory, checked: bool) -> bool {
        let mut entries = self.lock_mut();
        let entry = entries.entry(server.key.clone()).or_default();
        // A clock that was put back does not turn the history around.
        let now = last.at.max(entry.since.unwrap_or(last.at));
        let state = State::of(last.verdict.status, last.verdict.degraded);
        let before = entry.last.as_ref().map(|l| l.verdict.checks);
        let anew = state != entry.state || entry.since.is_none();
        let changed = anew
            || entry.memory.failing != memory.failing
            || entry.checked != checked
            || before.is_some_and(|before| before != last.verdict.checks);
        if anew {
            (entry.state, entry.since) = (state, Some(now));
        }
        entry.reachable_since = last.reachable.then_some(entry.reachable_since.unwrap_or(now));
        if let (Up::WhileReachable, Some(since)) = (last.up, entry.reachable_since) {
            last.up = Up::Since(since);
        }
        entry.name = server.name.as_str().into();
        entry.last_check = Some(last.at);
        entry.memory = memory;
        entry.checked = checked;
        entry.last = Some(last);
        entry.note(now);
        changed
    }

    /// Whether there is something to write.
    pub fn stop_checking(&self, key: &ServerKey, now: Timestamp) -> bool {
        let mut entries = self.lock_mut();
        let Some(entry) = entries.get_mut(key) else { return false };
        let was = std::mem::replace(&mut entry.checked, false);
        if was {
            entry.memory = Memory::default();
            entry.unknown_since(now);
        }
        was
    }

    /// Views of those that are checked and wanted, in the order of their ids, from behind `after` on.
    pub fn page(
        &self,
        filter: &Filter,
        after: Option<&str>,
        limit: usize,
        view: impl Fn(&ServerKey, &Entry) -> HealthView,
    ) -> Vec<HealthView> {
        let entries = self.lock();
        let start = match after.map(ServerKey::parse) {
            None => Bound::Unbounded,
            Some(Some(key)) => Bound::Excluded(key),
            // No id: what the page before ended with never was one of ours.
            Some(None) => return Vec::new(),
        };
        entries
            .range((start, Bound::Unbounded))
            .filter(|(key, entry)| {
                entry.checked && filter.kind.is_none_or(|k| k == key.kind()) && filter.status.is_none_or(|s| s == entry.state.status())
            })
            .take(limit)
            .map(|(key, entry)| view(key, entry))
            .collect()
    }
}
