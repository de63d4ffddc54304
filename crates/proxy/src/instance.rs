//! What all parts of one running proxy share: who it is, its clock, its events.

use crate::access_log::AccessLog;
use nm_types::Timestamp;
use nm_types::proxy::{Event, EventKind, Events};
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{Notify, watch};

/// Events kept for those who ask late.
const EVENTS_KEPT: usize = 1_000;

pub struct Instance {
    pub id: String,
    pub started_at: Timestamp,
    pub workers: usize,
    started: Instant,
    events: Mutex<VecDeque<Event>>,
    last_event: watch::Sender<u64>,
    /// A member's health changed: the keeper looks at what follows from it.
    pub health_changed: Notify,
    draining: AtomicBool,
    handed_over: AtomicBool,
    pub access_log: AccessLog,
}

impl Instance {
    pub fn new(workers: usize, access_log: AccessLog) -> Self {
        let mut id = [0; 8];
        // Without the kernel's randomness the moment of the start still tells instances apart.
        if getrandom::fill(&mut id).is_err() {
            id = wall_clock().as_millis().to_be_bytes();
        }
        Self {
            id: hex::encode(id),
            started_at: wall_clock(),
            workers,
            started: Instant::now(),
            events: Mutex::new(VecDeque::new()),
            last_event: watch::Sender::new(0),
            health_changed: Notify::new(),
            draining: AtomicBool::new(false),
            handed_over: AtomicBool::new(false),
            access_log,
        }
    }

    /// Milliseconds since the start, on a clock that never goes back.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub fn instant(&self, ms: u64) -> Instant {
        self.started + Duration::from_millis(ms)
    }

    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Whether another process has its sockets.
    pub fn handed_over(&self) -> bool {
        self.handed_over.load(Ordering::Relaxed)
    }

    pub fn set_draining(&self, handed_over: bool) {
        self.handed_over.store(handed_over, Ordering::Relaxed);
        self.draining.store(true, Ordering::Relaxed);
    }

    pub fn tell(&self, kind: EventKind, cluster: &str, member: &str, reason: &str) {
        let mut events = lock(&self.events);
        let sequence = *self.last_event.borrow() + 1;
        tracing::info!(cluster, member, reason, sequence, "{}", sentence(kind));
        events.push_back(Event {
            sequence,
            at: wall_clock(),
            cluster: cluster.to_owned(),
            member: member.to_owned(),
            kind,
            reason: reason.to_owned(),
        });
        if events.len() > EVENTS_KEPT {
            events.pop_front();
        }
        self.last_event.send_replace(sequence);
    }

    /// Events after number `after`; where there are none it waits for one, at most for `patience`.
    pub async fn events_after(&self, after: u64, patience: Duration) -> Events {
        let mut last = self.last_event.subscribe();
        // Running out of patience is an answer, too: an empty one.
        let _ = tokio::time::timeout(patience, last.wait_for(|last| *last > after)).await;
        let events = lock(&self.events);
        let last = *self.last_event.borrow();
        let oldest = events.front().map_or(last + 1, |e| e.sequence);
        Events {
            instance: self.id.clone(),
            last,
            missed: after + 1 < oldest || after > last,
            events: events.iter().filter(|e| e.sequence > after).cloned().collect(),
        }
    }
}

fn sentence(kind: EventKind) -> &'static str {
    match kind {
        EventKind::MemberUp => "a member is up again",
        EventKind::MemberDown => "a member is down",
        EventKind::MemberEjected => "a member was ejected",
        EventKind::MemberReturned => "an ejected member may take traffic again",
        EventKind::Failover => "another member takes the traffic",
    }
}

pub fn wall_clock() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Takes a lock whose holder cannot leave things half done, even when it panicked.
pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
