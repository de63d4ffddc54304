//! One member's lasting state: its health, what is in flight, its figures, its idle connections. A change of the
//! configuration keeps it as long as id and address stay.

use crate::check::Failure;
use crate::cluster::{Cluster, Slot};
use crate::http::wire::Idle;
use crate::instance::{Instance, lock, wall_clock};
use crate::stats::Stats;
use nm_types::Timestamp;
use nm_types::proxy::{EventKind, HealthCheck, MemberState};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

const DOWN: u8 = 1;
const EJECTED: u8 = 2;
/// How long the last member of a cluster stays ejected.
const LAST_AT_MOST_MS: u32 = 1_000;

pub struct Member {
    pub id: Box<str>,
    pub cluster: Box<str>,
    pub address: SocketAddr,
    /// Of cluster and id: what ip-hash and the sticky cookie know it by.
    pub hash: u64,
    /// DOWN and EJECTED; nothing is up. The truth is `health`, this is what traffic reads.
    flags: AtomicU8,
    /// Requests and TCP connections in flight.
    active: AtomicU32,
    connection_errors: AtomicU32,
    server_errors: AtomicU32,
    /// When it came back and its share began to grow, in the instance's milliseconds; 0 is the full share.
    ramp_from: AtomicU64,
    health: Mutex<Health>,
    /// Told of each ejection.
    ejected: Notify,
    /// Told of each health check that takes it out.
    went_down: Notify,
    pub shards: Box<[Shard]>,
}

/// What belongs to one worker.
#[derive(Default)]
pub struct Shard {
    pub stats: Stats,
    pub idle: Idle,
}

struct Health {
    /// Whether the check last found it up.
    up: bool,
    /// Results in a row that say otherwise.
    against: u16,
    last_success_ms: Option<u64>,
    ejected: Option<Ejected>,
    since: Timestamp,
    since_ms: u64,
    reason: String,
}

struct Ejected {
    at_ms: u64,
    until_ms: u64,
}

/// What went wrong with a member in traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// It can't be connected to.
    Connect,
    /// It broke off, or gave no answer in time.
    Broken,
    /// It answered 500 to 599.
    ServerError,
}

impl Member {
    pub fn new(cluster: &str, id: &str, address: SocketAddr, instance: &Instance) -> Self {
        Self {
            id: id.into(),
            cluster: cluster.into(),
            address,
            hash: crate::balance::hash_bytes(&[cluster.as_bytes(), b"/", id.as_bytes()]),
            flags: AtomicU8::new(0),
            active: AtomicU32::new(0),
            connection_errors: AtomicU32::new(0),
            server_errors: AtomicU32::new(0),
            ramp_from: AtomicU64::new(0),
            health: Mutex::new(Health {
                up: true,
                against: 0,
                last_success_ms: None,
                ejected: None,
                since: wall_clock(),
                since_ms: instance.now_ms(),
                reason: "nothing speaks against it".to_owned(),
            }),
            ejected: Notify::new(),
            went_down: Notify::new(),
            shards: (0..instance.workers).map(|_| Shard::default()).collect(),
        }
    }

    /// It begins down, and health checks will say when it is up.
    pub fn begin_down(&self, reason: &str, instance: &Instance) {
        let mut health = lock(&self.health);
        health.up = false;
        health.note(reason, instance);
        self.flags.fetch_or(DOWN, Relaxed);
    }

    pub fn is_down(&self) -> bool {
        self.flags.load(Relaxed) & DOWN != 0
    }

    pub fn is_up(&self) -> bool {
        self.flags.load(Relaxed) == 0
    }

    pub fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }

    pub fn is_ramping(&self) -> bool {
        self.ramp_from.load(Relaxed) != 0
    }

    /// Its share of what it would get, in percent: 10 to 100 while its start is slow.
    pub fn share(&self, now_ms: u64, slow_start_ms: u32) -> u32 {
        let from = self.ramp_from.load(Relaxed);
        if from == 0 {
            return 100;
        }
        let passed = now_ms.saturating_sub(from);
        if passed >= u64::from(slow_start_ms) {
            self.ramp_from.store(0, Relaxed);
            return 100;
        }
        (passed * 100 / u64::from(slow_start_ms.max(1))).clamp(10, 100) as u32
    }

    /// Counts one more in flight until the guard is dropped.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.active.fetch_add(1, Relaxed);
        InFlight {
            member: self.clone(),
            slot: None,
        }
    }

    /// An answer came; errors in a row end.
    pub fn succeeded(&self) {
        if self.connection_errors.load(Relaxed) != 0 {
            self.connection_errors.store(0, Relaxed);
        }
        if self.server_errors.load(Relaxed) != 0 {
            self.server_errors.store(0, Relaxed);
        }
    }

    /// Counts a failure; ejects the member where that is enough.
    ///
    /// The last member of a cluster is ejected only when it can't be connected to, and shortly: one request that makes
    /// servers fail must not take a whole cluster away. With a health check an ejection for connections ends with the
    /// check's first success; for answers, which a check may not see, it has its full time.
    pub fn failed(&self, trouble: Trouble, reason: &str, cluster: &Cluster, instance: &Instance) {
        let rule = &cluster.conf.ejection;
        let (counter, limit) = match trouble {
            Trouble::Connect | Trouble::Broken => (&self.connection_errors, rule.connection_errors),
            Trouble::ServerError => {
                self.connection_errors.store(0, Relaxed);
                (&self.server_errors, rule.server_errors)
            }
        };
        let seen = counter.fetch_add(1, Relaxed) + 1;
        if limit == 0 || seen < u32::from(limit) {
            return;
        }
        let is_last = cluster.available() <= 1;
        let time_ms = match trouble {
            Trouble::Broken | Trouble::ServerError if is_last => return,
            Trouble::Connect | Trouble::Broken if cluster.conf.health_check.is_some() => 0,
            Trouble::Connect if is_last => rule.time_ms.min(LAST_AT_MOST_MS),
            Trouble::Connect | Trouble::Broken | Trouble::ServerError => rule.time_ms,
        };
        let mut health = lock(&self.health);
        if health.ejected.is_some() {
            return;
        }
        counter.store(0, Relaxed);
        let now = instance.now_ms();
        health.ejected = Some(Ejected {
            at_ms: now,
            until_ms: now + u64::from(time_ms),
        });
        self.flags.fetch_or(EJECTED, Relaxed);
        health.note(reason, instance);
        drop(health);
        self.ejected.notify_one();
        instance.tell(EventKind::MemberEjected, &self.cluster, &self.id, reason);
        instance.health_changed.notify_one();
    }

    /// What a health check found.
    pub fn checked(&self, result: Result<(), Failure>, check: &HealthCheck, slow_start_ms: u32, instance: &Instance) {
        let mut health = lock(&self.health);
        if result.is_ok() {
            health.last_success_ms = Some(instance.now_ms());
        }
        if result.is_ok() == health.up {
            health.against = 0;
            if health.ejected.is_some() {
                // The keeper may have waited for this success.
                instance.health_changed.notify_one();
            }
            return;
        }
        health.against += 1;
        let needed = match &result {
            Ok(()) => check.rise,
            Err(Failure::Answered(_)) if check.strict => 1,
            Err(_) => check.fall,
        };
        if health.against < needed {
            return;
        }
        let times = std::mem::take(&mut health.against);
        health.up = !health.up;
        let (kind, reason) = match result {
            Ok(()) => {
                self.flags.fetch_and(!DOWN, Relaxed);
                self.begin_ramp(slow_start_ms, instance);
                (EventKind::MemberUp, format!("{times} health checks in a row succeeded"))
            }
            Err(Failure::Answered(reason) | Failure::Silent(reason)) => {
                self.flags.fetch_or(DOWN, Relaxed);
                (EventKind::MemberDown, format!("{times} health checks in a row failed: {reason}"))
            }
        };
        health.note(&reason, instance);
        drop(health);
        if kind == EventKind::MemberDown {
            self.went_down.notify_waiters();
        }
        instance.tell(kind, &self.cluster, &self.id, &reason);
        instance.health_changed.notify_one();
    }

    /// Whether nothing but the success of a health check brings it back.
    pub fn awaits_check(&self, instance: &Instance) -> bool {
        let health = lock(&self.health);
        let now = instance.now_ms();
        !health.up
            || health
                .ejected
                .as_ref()
                .is_some_and(|e| e.until_ms <= now && !health.succeeded_after(e))
    }

    /// Resolves once a health check has found it down.
    pub async fn until_down(&self) {
        let mut told = std::pin::pin!(self.went_down.notified());
        told.as_mut().enable();
        if !self.is_down() {
            told.await;
        }
    }

    /// Resolves after an ejection.
    pub async fn until_ejected(&self) {
        self.ejected.notified().await;
    }

    /// Forgets what checks found: there are none any more, or others.
    pub fn unchecked(&self, instance: &Instance) {
        let mut health = lock(&self.health);
        health.against = 0;
        if !health.up {
            health.up = true;
            self.flags.fetch_and(!DOWN, Relaxed);
            health.note("its health check was taken away or changed", instance);
        }
    }

    /// Ends an ejection that is over. Answers when to look again, where time alone decides.
    pub fn keep(&self, has_check: bool, slow_start_ms: u32, instance: &Instance) -> Option<u64> {
        let mut health = lock(&self.health);
        let ejected = health.ejected.as_ref()?;
        if instance.now_ms() < ejected.until_ms {
            return Some(ejected.until_ms);
        }
        if has_check && !health.succeeded_after(ejected) {
            return None;
        }
        health.ejected = None;
        self.flags.fetch_and(!EJECTED, Relaxed);
        self.begin_ramp(slow_start_ms, instance);
        let reason = if has_check {
            "its health check succeeds after its ejection"
        } else {
            "the time of its ejection is over"
        };
        health.note(reason, instance);
        drop(health);
        instance.tell(EventKind::MemberReturned, &self.cluster, &self.id, reason);
        None
    }

    fn begin_ramp(&self, slow_start_ms: u32, instance: &Instance) {
        if slow_start_ms > 0 {
            self.ramp_from.store(instance.now_ms().max(1), Relaxed);
        }
    }

    /// State, why, and since when.
    pub fn state(&self, draining: bool) -> (MemberState, String, Timestamp) {
        let health = lock(&self.health);
        let state = match (draining, health.up, &health.ejected) {
            (true, _, _) => MemberState::Draining,
            (false, false, _) => MemberState::Down,
            (false, true, Some(_)) => MemberState::Ejected,
            (false, true, None) => MemberState::Up,
        };
        (state, health.reason.clone(), health.since)
    }

    /// When it last became what it is, in the instance's milliseconds.
    pub fn since_ms(&self) -> u64 {
        lock(&self.health).since_ms
    }
}

impl Health {
    /// Whether a health check succeeded since.
    fn succeeded_after(&self, ejected: &Ejected) -> bool {
        self.last_success_ms.is_some_and(|at| at > ejected.at_ms)
    }

    fn note(&mut self, reason: &str, instance: &Instance) {
        self.since = wall_clock();
        self.since_ms = instance.now_ms();
        reason.clone_into(&mut self.reason);
    }
}

/// Something in flight at a member.
pub struct InFlight {
    member: Arc<Member>,
    /// Given back to those who wait.
    slot: Slot,
}

impl InFlight {
    pub fn member(&self) -> &Arc<Member> {
        &self.member
    }

    /// Keeps its place at the member for as long as it is in flight.
    pub fn hold(&mut self, slot: Slot) {
        self.slot = slot;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.member.active.fetch_sub(1, Relaxed);
    }
}
