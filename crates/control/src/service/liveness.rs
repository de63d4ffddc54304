//! Which nodes are there: who was heard when, and who is lost.
//!
//! A node is heard by whatever comes of it first: a datagram beside its link, an event of its watch, any answer, a ping's. It is
//! lost once nothing at all was heard for `lost_after`, and back with the next word. Whether it has a link is another question:
//! a node can be well while its link is being replaced, and 30% packet loss breaks links and loses no node (ADR 0014).
//!
//! Invariants:
//! - Only silence makes a node lost; a link that ends does not.
//! - Time in which this process did not run is not silence: after a `SIGSTOP`, or on a machine that stood still, nobody is lost
//!   who could not be heard.
//! - The moments are of a clock that nobody sets.

use crate::service::clock::SharedClock;
use crate::service::lost::{LostNodes, NodeLost};
use nm_link::server::{LineQuality, Links, Pulse};
use nm_types::node::{NodeLine, Transport};
use nm_types::{NodeId, Timestamp};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::broadcast;
use tokio::time::Instant;

/// After our own start nodes come back when their agents dial again: a thousand of them, each after up to ten seconds.
const AFTER_START: u32 = 3;
/// The longest pause between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// A look that comes so much later than it was due: something kept this process from running.
const HELD_UP: Duration = Duration::from_millis(50);
/// Events a slow reader may be behind before it is told that it missed some.
const EVENTS: usize = 4096;

/// A node was lost, or is back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LivenessEvent {
    pub node: NodeId,
    pub change: LivenessChange,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LivenessChange {
    /// Nothing was heard of it since then.
    Lost { since: Timestamp },
    /// It is heard again. Its link may still be on its way: wait for it with [`super::fleet::Fleet::connected`].
    Back,
}

/// The signs of life of all nodes. Cheap to clone; clones are the same.
#[derive(Clone)]
pub struct Liveness {
    inner: Arc<Inner>,
}

struct Inner {
    links: Links,
    clock: SharedClock,
    lost_after: Duration,
    table: Mutex<Table>,
    lost: LostNodes,
    events: broadcast::Sender<LivenessEvent>,
}

struct Table {
    nodes: HashMap<NodeId, Watched>,
    looked: Instant,
    /// For how long this process has run, as far as looks can tell.
    ran: Duration,
    held_up: VecDeque<HeldUp>,
}

/// A look that came late.
struct HeldUp {
    at: Instant,
    late: Duration,
    ran: Duration,
}

struct Watched {
    pulse: Arc<Pulse>,
    /// Where counting begins for a node that was not heard yet.
    from: Instant,
    lost: Option<Timestamp>,
}

impl Watched {
    fn heard(&self) -> Instant {
        self.pulse.heard().unwrap_or(self.from)
    }
}

impl Liveness {
    pub fn new(links: Links, clock: SharedClock, lost_after: Duration) -> Self {
        Self {
            inner: Arc::new(Inner {
                links,
                clock,
                lost_after,
                table: Mutex::new(Table {
                    nodes: HashMap::new(),
                    looked: Instant::now(),
                    ran: Duration::ZERO,
                    held_up: VecDeque::new(),
                }),
                lost: LostNodes::default(),
                events: broadcast::channel(EVENTS).0,
            }),
        }
    }

    /// Losses and returns from now on. A reader told that it lagged asks [`Liveness::is_lost`] of each node it cares for.
    pub fn subscribe(&self) -> broadcast::Receiver<LivenessEvent> {
        self.inner.events.subscribe()
    }

    /// The same as a state to follow, with the nodes that have left the fleet.
    pub fn lost(&self) -> &LostNodes {
        &self.inner.lost
    }

    /// Whether nothing was heard of the node for too long. A node nobody knows is not lost.
    pub fn is_lost(&self, node: &NodeId) -> bool {
        self.lost_since(node).is_some()
    }

    /// When a node that is lost was last heard.
    pub fn lost_since(&self, node: &NodeId) -> Option<Timestamp> {
        self.lock().nodes.get(node)?.lost
    }

    /// When the node was last heard; `None` where it was not since this process began.
    pub fn heard_at(&self, node: &NodeId) -> Option<Timestamp> {
        let (heard, lost) = {
            let table = self.lock();
            let watched = table.nodes.get(node)?;
            (watched.pulse.heard()?, watched.lost)
        };
        // What was told of a lost node stays as it was told.
        Some(lost.unwrap_or_else(|| self.moment(heard)))
    }

    /// How the line to the node is; `None` while it is lost.
    pub fn line(&self, node: &NodeId) -> Option<NodeLine> {
        let table = self.lock();
        let watched = table.nodes.get(node).filter(|w| w.lost.is_none())?;
        Some(told(watched.pulse.line()))
    }

    /// Keeps an eye on a node from now on. It has [`AFTER_START`] times as long to be heard first.
    pub(super) fn track(&self, node: &NodeId) {
        let mut table = self.lock();
        if !table.nodes.contains_key(node) {
            let watched = Watched {
                pulse: self.inner.links.pulse(node),
                from: Instant::now() + self.inner.lost_after * (AFTER_START - 1),
                lost: None,
            };
            table.nodes.insert(node.clone(), watched);
            self.inner.lost.remove(node);
        }
    }

    /// The node is out of the fleet.
    pub(super) fn forget(&self, node: &NodeId) {
        self.lock().nodes.remove(node);
        self.inner.links.forget_pulse(node);
    }

    /// How long to wait from one look to the next.
    pub fn pause(&self) -> Duration {
        (self.inner.lost_after / 16).min(LOOK)
    }

    /// Looks who is lost and who is back, ends the links of the lost, and tells.
    pub fn look(&self) {
        let now = Instant::now();
        let mut table = self.lock();
        let passed = now - table.looked;
        let late = passed.saturating_sub(self.pause());
        let late = if late > HELD_UP { late } else { Duration::ZERO };
        table.looked = now;
        table.ran += passed - late;
        let ran = table.ran;
        if !late.is_zero() {
            table.held_up.push_back(HeldUp { at: now, late, ran });
        }
        // Whoever was not heard since then is lost by now.
        while table.held_up.front().is_some_and(|h| ran - h.ran > self.inner.lost_after) {
            table.held_up.pop_front();
        }
        let Table { nodes, held_up, .. } = &mut *table;
        for (node, watched) in nodes {
            let heard = watched.heard();
            let not_running: Duration = held_up.iter().filter(|h| h.at > heard).map(|h| h.late).sum();
            let silent = now.saturating_duration_since(heard).saturating_sub(not_running) >= self.inner.lost_after;
            let change = match (silent, watched.lost) {
                (true, None) => {
                    let since = self.moment(heard.min(now));
                    watched.lost = Some(since);
                    // Whoever waits for an answer on it is told now; the agent dials a new one as soon as it can.
                    self.inner.links.give_up(node);
                    self.inner.lost.add(NodeLost {
                        node: node.clone(),
                        last_seen: watched.pulse.heard().map(|_| since),
                    });
                    tracing::warn!(node.id = %node, %since, "a node is lost: nothing is heard of it");
                    LivenessChange::Lost { since }
                }
                (false, Some(since)) => {
                    watched.lost = None;
                    self.inner.lost.remove(node);
                    tracing::info!(node.id = %node, %since, "a lost node is back");
                    LivenessChange::Back
                }
                (true, Some(_)) | (false, None) => continue,
            };
            // Nobody listening is not an error.
            let _heard = self.inner.events.send(LivenessEvent {
                node: node.clone(),
                change,
            });
        }
    }

    fn moment(&self, at: Instant) -> Timestamp {
        let ago = i64::try_from(at.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.inner.clock.now().plus_millis(-ago)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // A panic under the lock leaves whole entries.
        self.inner.table.lock().unwrap_or_else(|e| e.into_inner())
    }
}

fn told(line: LineQuality) -> NodeLine {
    NodeLine {
        transport: if line.datagrams { Transport::Udp } else { Transport::Link },
        rtt: line.rtt.map(|rtt| (rtt.as_secs_f64() * 1e6).round() / 1e3),
        loss: line.loss.map(|share| (share * 1e3).round() / 10.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::LOST_AFTER;
    use crate::service::clock::SystemClock;
    use tokio::time::advance;

    fn node(n: i64) -> NodeId {
        NodeId::parse(&format!("node_{n}_aaaaaaaaa")).unwrap()
    }

    fn liveness() -> (Liveness, broadcast::Receiver<LivenessEvent>) {
        let liveness = Liveness::new(Links::new(), Arc::new(SystemClock), LOST_AFTER);
        let events = liveness.subscribe();
        (liveness, events)
    }

    /// Time passes, and looks are taken as they are due.
    async fn pass(liveness: &Liveness, span: Duration) {
        let end = Instant::now() + span;
        while Instant::now() < end {
            advance(liveness.pause()).await;
            liveness.look();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_never_heard_is_given_longer() {
        let (liveness, mut events) = liveness();
        liveness.track(&node(1));
        liveness.track(&node(1));
        pass(&liveness, LOST_AFTER * AFTER_START - LOOK).await;
        assert!(!liveness.is_lost(&node(1)) && events.try_recv().is_err());
        pass(&liveness, LOOK).await;
        assert!(liveness.is_lost(&node(1)) && liveness.lost().is_lost(&node(1)));
        let event = events.try_recv().unwrap();
        assert!(event.node == node(1) && matches!(event.change, LivenessChange::Lost { .. }));
        assert_eq!((liveness.heard_at(&node(1)), liveness.line(&node(1))), (None, None));
        assert!(events.try_recv().is_err(), "it is told once");
        assert!(!liveness.is_lost(&node(2)), "a node nobody knows");
        liveness.forget(&node(1));
        assert!(!liveness.is_lost(&node(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_nothing_ran_is_not_silence() {
        let (liveness, mut events) = liveness();
        liveness.track(&node(1));
        pass(&liveness, LOST_AFTER * (AFTER_START - 1) + Duration::from_secs(4)).await;
        // Silent for four seconds, then stopped for a minute, twice: that adds the half seconds in which it was to look.
        for _ in 0..2 {
            advance(Duration::from_secs(60)).await;
            liveness.look();
        }
        assert!(!liveness.is_lost(&node(1)));
        pass(&liveness, Duration::from_secs(2)).await;
        assert!(!liveness.is_lost(&node(1)) && events.try_recv().is_err());
        pass(&liveness, Duration::from_secs(2)).await;
        assert!(liveness.is_lost(&node(1)));
    }
}
