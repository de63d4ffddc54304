//! The made-up machine of one node: what it uses, and its agent's journal.

use super::world::{Answer, World, now};
use nm_link::contract::{AgentError, AgentErrorCode, JournalEnd, JournalEvent, JournalPage, JournalQuery, StatsQuery, WatchEvent};
use nm_types::host::NodeStats;
use nm_types::node_event::{NodeEventDetail, NodeEventKind};
use nm_types::stats::Resolution;
use std::sync::{Mutex, MutexGuard};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

#[derive(Debug)]
struct Inner {
    samples: Vec<NodeStats>,
    readers: Vec<UnboundedSender<NodeStats>>,
    journal: i64,
    next: i64,
    events: Vec<JournalEvent>,
}

#[derive(Debug)]
pub(super) struct Machine(Mutex<Inner>);

impl Default for Machine {
    fn default() -> Self {
        Self(Mutex::new(Inner {
            samples: Vec::new(),
            readers: Vec::new(),
            journal: now().0,
            next: 1,
            events: Vec::new(),
        }))
    }
}

impl Inner {
    fn end(&self) -> JournalEnd {
        JournalEnd {
            journal: self.journal,
            last: self.next - 1,
        }
    }
}

impl Machine {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    // What the contract asks.

    pub(super) fn fresh(&self) -> Answer<NodeStats> {
        let newest = self.lock().samples.last().cloned();
        newest.ok_or_else(|| AgentError::new(AgentErrorCode::Internal, "the test has not said what the machine uses"))
    }
    /// A made-up minute has ten samples.
    pub(super) fn stats(&self, query: &StatsQuery) -> Vec<NodeStats> {
        let inner = self.lock();
        let samples: Vec<NodeStats> = match query.resolution {
            Resolution::Second => inner.samples.clone(),
            Resolution::Minute => inner.samples.chunks_exact(10).map(|minute| minute[9].clone()).collect(),
        };
        samples[samples.len().saturating_sub(query.limit as usize)..].to_vec()
    }
    pub(super) fn follow(&self) -> UnboundedReceiver<NodeStats> {
        let (sender, receiver) = unbounded_channel();
        self.lock().readers.push(sender);
        receiver
    }
    pub(super) fn journal(&self, query: &JournalQuery) -> JournalPage {
        let inner = self.lock();
        let after = if query.journal == inner.journal { query.after } else { 0 };
        let behind = inner.events.iter().filter(|e| e.seq > after);
        JournalPage {
            end: inner.end(),
            events: behind.take(query.limit as usize).cloned().collect(),
        }
    }
    /// What a new watcher is told first.
    pub(super) fn first(&self) -> Vec<WatchEvent> {
        let inner = self.lock();
        let host = inner
            .samples
            .last()
            .cloned()
            .map(|stats| WatchEvent::Host { stats: Box::new(stats) });
        host.into_iter().chain([WatchEvent::Journal(inner.end())]).collect()
    }

    // What a test does.

    /// A second passes.
    pub(super) fn sample(&self, world: &World, stats: NodeStats) {
        let mut inner = self.lock();
        inner.readers.retain(|r| r.send(stats.clone()).is_ok());
        inner.samples.push(stats.clone());
        drop(inner);
        world.tell(WatchEvent::Host { stats: Box::new(stats) });
    }
    /// Something happens, to the container that Docker knows by the id or name `key` where one is named.
    pub(super) fn happens(&self, world: &World, kind: NodeEventKind, key: Option<&str>, detail: NodeEventDetail) -> i64 {
        let container = key.map(|key| world.observed(key));
        let mut inner = self.lock();
        let seq = inner.next;
        inner.next += 1;
        inner.events.push(JournalEvent {
            seq,
            time: now(),
            kind,
            docker_id: container.as_ref().map(|c| c.docker_id.clone()),
            id: container.as_ref().and_then(|c| c.id.clone()),
            name: container.map(|c| c.name),
            detail,
        });
        let end = inner.end();
        drop(inner);
        world.tell(WatchEvent::Journal(end));
        seq
    }
    /// All but the newest so many are dropped.
    pub(super) fn forget_events(&self, keep: usize) {
        let mut inner = self.lock();
        let gone = inner.events.len().saturating_sub(keep);
        inner.events.drain(..gone);
    }
    /// The agent's disk is lost, and it begins anew.
    pub(super) fn lose_journal(&self) {
        let mut inner = self.lock();
        inner.journal += 1;
        inner.next = 1;
        inner.events.clear();
    }
}
