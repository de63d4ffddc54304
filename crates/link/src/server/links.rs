//! Which nodes are connected.
//!
//! Invariants:
//! - A node has one current link at most. A newer connection replaces the older, which is severed: it is dead as a rule, and
//!   we have not heard so yet.
//! - Events of a node come in the order things happened: connected, then replaced any number of times, then disconnected.
//!   They are sent under the lock that guards the table, so whoever has seen an event finds the table at least that new.
//! - [`Links::close`] leaves nothing: not a link, not one that drains, not a connection that was admitted a moment before and
//!   is not in the table yet. Nor does a datagram of the node count any more.

use super::beats::Beats;
use super::handle::LinkHandle;
use super::pulse::Pulse;
use crate::beat::BeatKey;
use crate::error::LinkError;
use nm_types::NodeId;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

/// Events a slow reader may be behind before it is told that it missed some.
const EVENTS: usize = 4096;

/// A connection's number, unique while this process lives; a later connection has a greater one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub(super) u64);

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a link takes no new requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The agent ended the connection in good order: it stops.
    AgentStopped,
    /// The connection broke, the agent no longer answers pings, or [`Links::give_up`] was called.
    Lost,
    /// A newer connection of the same node took its place.
    Replaced,
    /// [`Links::close`] was called: the node was removed, or revoked.
    Closed,
    /// The certificate it was made with has expired.
    Expired,
    /// This control plane stops.
    Stopping,
}

impl CloseReason {
    pub const ALL: [Self; 6] = [
        Self::AgentStopped,
        Self::Lost,
        Self::Replaced,
        Self::Closed,
        Self::Expired,
        Self::Stopping,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::AgentStopped => "agent_stopped",
            Self::Lost => "lost",
            Self::Replaced => "replaced",
            Self::Closed => "closed",
            Self::Expired => "expired",
            Self::Stopping => "stopping",
        }
    }
}

/// How many links came and went since this process began.
#[derive(Debug, Default)]
pub struct LinkCounts {
    came: AtomicU64,
    went: [AtomicU64; CloseReason::ALL.len()],
}

impl LinkCounts {
    pub fn came(&self) -> u64 {
        self.came.load(Ordering::Relaxed)
    }
    pub fn went(&self, reason: CloseReason) -> u64 {
        self.went[reason as usize].load(Ordering::Relaxed)
    }
    fn count(&self, change: LinkChange) {
        let gone = match change {
            LinkChange::Connected => None,
            LinkChange::Replaced { .. } => Some(CloseReason::Replaced),
            LinkChange::Disconnected(reason) => Some(reason),
        };
        if !matches!(change, LinkChange::Disconnected(_)) {
            self.came.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(reason) = gone {
            self.went[reason as usize].fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A change of one node's link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkEvent {
    pub node: NodeId,
    /// The link that came, or went.
    pub link: LinkId,
    pub change: LinkChange,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkChange {
    Connected,
    /// The node was connected already, by the link named here; it still is, by the new one.
    Replaced {
        old: LinkId,
    },
    Disconnected(CloseReason),
}

/// The table of live links. Cheap to clone; all clones are the same table.
#[derive(Clone)]
pub struct Links {
    inner: Arc<Inner>,
}

struct Inner {
    counts: LinkCounts,
    table: Mutex<Table>,
    events: broadcast::Sender<LinkEvent>,
    pulses: Mutex<HashMap<NodeId, Arc<Pulse>>>,
    beats: Beats,
}

#[derive(Default)]
struct Table {
    next: u64,
    /// Set at the end: no link is taken in any more.
    stopping: bool,
    current: HashMap<NodeId, Live>,
    /// Links out of `current` whose exchanges may still run.
    ending: HashMap<LinkId, (NodeId, CancellationToken)>,
    /// Connections at the gate. One that is not here when it comes back was closed in the meantime.
    at_the_gate: HashMap<LinkId, NodeId>,
}

struct Live {
    handle: LinkHandle,
    closed: watch::Sender<Option<CloseReason>>,
    sever: CancellationToken,
}

impl Default for Links {
    fn default() -> Self {
        Self::new()
    }
}

impl Links {
    pub fn new() -> Self {
        Self {
            inner: Arc::new(Inner {
                counts: LinkCounts::default(),
                table: Mutex::default(),
                events: broadcast::channel(EVENTS).0,
                pulses: Mutex::default(),
                beats: Beats::new(),
            }),
        }
    }

    /// The node's link, if it is connected to this control plane.
    pub fn get(&self, node: &NodeId) -> Option<LinkHandle> {
        self.lock().current.get(node).map(|live| live.handle.clone())
    }

    /// As [`Self::get`], with the error that says so.
    pub fn require(&self, node: &NodeId) -> Result<LinkHandle, LinkError> {
        self.get(node).ok_or_else(|| LinkError::NotConnected { node: node.clone() })
    }

    /// Every connected node's link.
    pub fn connected(&self) -> Vec<LinkHandle> {
        self.lock().current.values().map(|live| live.handle.clone()).collect()
    }

    /// Changes from now on. A reader told that it lagged reads [`Self::connected`] afresh.
    pub fn events(&self) -> broadcast::Receiver<LinkEvent> {
        self.inner.events.subscribe()
    }

    /// How many came and went.
    pub fn counts(&self) -> &LinkCounts {
        &self.inner.counts
    }

    /// The node's signs of life, the same over all of its links.
    pub fn pulse(&self, node: &NodeId) -> Arc<Pulse> {
        let mut pulses = self.pulses();
        match pulses.get(node) {
            Some(pulse) => pulse.clone(),
            None => pulses.entry(node.clone()).or_insert_with(|| Arc::new(Pulse::new())).clone(),
        }
    }

    /// Keeps nothing of a node that is out of the fleet.
    pub fn forget_pulse(&self, node: &NodeId) {
        self.pulses().remove(node);
    }

    /// Ends the node's link as a lost one, for whoever has waited long enough for a word on it. Its datagrams still count, and
    /// it may link again. Says whether there was a link.
    pub fn give_up(&self, node: &NodeId) -> bool {
        let mut table = self.lock();
        let live = table.current.remove(node);
        if let Some(live) = &live {
            self.end(live, CloseReason::Lost);
        }
        live.is_some()
    }

    /// Ends every connection of a node at once, also one that is only just being admitted. Change what [`super::Gate::admit`]
    /// looks at first, or the node is back in a moment. Says whether there was anything to close.
    pub fn close(&self, node: &NodeId) -> bool {
        let mut table = self.lock();
        let waiting = table.at_the_gate.len();
        table.at_the_gate.retain(|_, n| n != node);
        let mut any = table.at_the_gate.len() < waiting;
        for (_, sever) in table.ending.values().filter(|(n, _)| n == node) {
            sever.cancel();
            any = true;
        }
        if let Some(live) = table.current.remove(node) {
            self.end(&live, CloseReason::Closed);
            any = true;
        }
        self.inner.beats.close(node);
        any
    }

    pub(super) fn close_all(&self, reason: CloseReason) {
        let mut table = self.lock();
        table.stopping = true;
        table.at_the_gate.clear();
        for (_, sever) in table.ending.values() {
            sever.cancel();
        }
        for (_, live) in std::mem::take(&mut table.current) {
            self.end(&live, reason);
        }
    }

    /// A number for a connection that goes to the gate. It is given up when the ticket is dropped.
    pub(super) fn ticket(&self, node: &NodeId) -> Ticket {
        let mut table = self.lock();
        let id = LinkId(table.next);
        table.next += 1;
        table.at_the_gate.insert(id, node.clone());
        Ticket { id, links: self.clone() }
    }

    /// Takes an admitted connection in; not so when it was closed while at the gate, or when a newer one was quicker. From
    /// then on the node's datagrams are those made with `key`.
    pub(super) fn register(
        &self,
        ticket: &Ticket,
        handle: LinkHandle,
        closed: watch::Sender<Option<CloseReason>>,
        sever: CancellationToken,
        key: Option<BeatKey>,
    ) -> bool {
        let mut table = self.lock();
        if table.at_the_gate.remove(&ticket.id).is_none() || table.stopping {
            return false;
        }
        let node = handle.node().clone();
        let (pulse, expires) = (self.pulse(&node), handle.peer.expires);
        let live = Live { handle, closed, sever };
        let change = match table.current.entry(node.clone()) {
            Entry::Vacant(place) => {
                place.insert(live);
                LinkChange::Connected
            }
            Entry::Occupied(place) if place.get().handle.id > ticket.id => return false,
            Entry::Occupied(mut place) => {
                let old = place.insert(live);
                old.closed.send_replace(Some(CloseReason::Replaced));
                old.sever.cancel();
                LinkChange::Replaced { old: old.handle.id }
            }
        };
        match key {
            Some(key) => self.inner.beats.open(&node, key, pulse, expires),
            None => self.inner.beats.close(&node),
        }
        self.tell(node, ticket.id, change);
        true
    }

    /// The link `id` takes no new requests. What is under way on it may go on until [`Self::forget`].
    pub(super) fn unregister(&self, node: &NodeId, id: LinkId, reason: CloseReason) {
        let mut table = self.lock();
        let is_current = table.current.get(node).is_some_and(|live| live.handle.id == id);
        if let Some(live) = is_current.then(|| table.current.remove(node)).flatten() {
            live.closed.send_replace(Some(reason));
            table.ending.insert(id, (node.clone(), live.sever.clone()));
            match reason {
                // The line may be bad and the node well: its datagrams say so.
                CloseReason::Lost | CloseReason::Replaced | CloseReason::Stopping => {}
                CloseReason::AgentStopped | CloseReason::Closed | CloseReason::Expired => self.inner.beats.close(node),
            }
            self.tell(node.clone(), id, LinkChange::Disconnected(reason));
        }
    }

    /// Nothing of the link `id` is left.
    pub(super) fn forget(&self, id: LinkId) {
        self.lock().ending.remove(&id);
    }

    fn end(&self, live: &Live, reason: CloseReason) {
        live.closed.send_replace(Some(reason));
        live.sever.cancel();
        self.tell(live.handle.node().clone(), live.handle.id, LinkChange::Disconnected(reason));
    }

    fn tell(&self, node: NodeId, link: LinkId, change: LinkChange) {
        self.inner.counts.count(change);
        // Nobody listening is not an error.
        let _ = self.inner.events.send(LinkEvent { node, link, change });
    }

    pub(super) fn beats(&self) -> &Beats {
        &self.inner.beats
    }

    fn pulses(&self) -> MutexGuard<'_, HashMap<NodeId, Arc<Pulse>>> {
        self.inner.pulses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // No code under this lock can panic halfway through a change.
        self.inner.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection at the gate.
pub(super) struct Ticket {
    id: LinkId,
    links: Links,
}

impl Ticket {
    pub(super) fn id(&self) -> LinkId {
        self.id
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.links.lock().at_the_gate.remove(&self.id);
    }
}
