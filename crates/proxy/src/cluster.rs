//! A cluster in force: its configuration, its members' seats, and who is active.

use crate::instance::{Instance, lock};
use crate::member::Member;
use crate::stats::Stats;
use crate::takeover::Knowledge;
use http::HeaderValue;
use nm_types::proxy::{self, EventKind, Failback, MemberLimit, Mode};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// No member is active.
const NOBODY: usize = usize::MAX;

pub struct Cluster {
    pub conf: proxy::Cluster,
    pub seats: Box<[Seat]>,
    pub state: Arc<ClusterState>,
    /// Where smooth weighted round-robin stands, one number a seat.
    pub currents: Mutex<Box<[i64]>>,
    /// The seat that takes the traffic, in active-standby.
    active: AtomicUsize,
    pub connect_timeout: Duration,
    pub response_timeout: Duration,
}

/// A member's place in this configuration.
pub struct Seat {
    pub member: Arc<Member>,
    pub weight: u32,
    pub backup: bool,
    pub draining: bool,
    /// What it may still be given at once, where that is bounded.
    pub slots: Option<Slots>,
    /// What names the member in the sticky cookie.
    pub cookie: Option<HeaderValue>,
}

impl Seat {
    /// Whether a client without ties may be sent there.
    pub fn takes_new(&self) -> bool {
        !self.draining && self.weight > 0 && self.member.is_up()
    }

    /// Whether one more can be sent there at once.
    pub fn has_room(&self) -> bool {
        self.slots.as_ref().is_none_or(|slots| slots.free.available_permits() > 0)
    }

    /// Waits until one more can be sent there, those who came first before. Nothing where that takes too long.
    pub async fn slot(&self) -> Option<Slot> {
        let Some(slots) = &self.slots else { return Some(None) };
        let free = slots.free.clone();
        if let Ok(permit) = free.clone().try_acquire_owned() {
            return Some(Some(permit));
        }
        let wait = Duration::from_millis(u64::from(slots.limit.queue_timeout_ms));
        // It is never closed.
        tokio::time::timeout(wait, free.acquire_owned()).await.ok()?.ok().map(Some)
    }
}

/// How much a member may be given at once, over all workers.
pub struct Slots {
    limit: MemberLimit,
    free: Arc<Semaphore>,
}

/// One of them, until it is dropped; nothing where there is no bound.
pub type Slot = Option<OwnedSemaphorePermit>;

impl Slots {
    /// Those of before where the bound is the same. Under another one, what runs is not counted.
    fn build(limit: MemberLimit, before: Option<&Self>) -> Self {
        let same = before.filter(|b| b.limit.max_connections == limit.max_connections);
        Self {
            limit,
            free: same.map_or_else(|| Arc::new(Semaphore::new(limit.max_connections as usize)), |b| b.free.clone()),
        }
    }
}

/// What outlives a change of the configuration.
pub struct ClusterState {
    pub turn: AtomicUsize,
    active: Mutex<Active>,
    pub stats: Box<[Stats]>,
}

#[derive(Default)]
struct Active {
    member: Option<Box<str>>,
    /// Somebody asked for it; it stays until it is lost.
    pinned: bool,
    since_ms: u64,
}

/// Why there is no failover.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NoFailover {
    #[error("the cluster is not active-standby")]
    NotActiveStandby,
    #[error("the cluster has no member `{0}`")]
    UnknownMember(String),
    #[error("the member `{0}` can't take traffic: it is down, draining or of weight 0")]
    NotUp(String),
    #[error("no other member can take the traffic")]
    NoOther,
}

impl Cluster {
    /// The cluster of a configuration; takes over what lasts from the one before it, or what another process knew.
    pub fn build(conf: &proxy::Cluster, before: Option<&Self>, known: &Knowledge, instance: &Instance) -> Self {
        let is_down = |id: &str| known.down.iter().any(|(cluster, member)| *cluster == conf.id && member == id);
        let find = |m: &proxy::Member| {
            let same = |s: &&Seat| *s.member.id == m.id && s.member.address == m.socket();
            before.and_then(|b| b.seats.iter().find(same))
        };
        let seat = |m: &proxy::Member| {
            let old = find(m);
            let member = old.map(|s| s.member.clone()).unwrap_or_else(|| {
                let member = Member::new(&conf.id, &m.id, m.socket(), instance);
                match &conf.health_check {
                    Some(_) if is_down(&m.id) => member.begin_down("it was down before this process took over", instance),
                    Some(check) if check.strict => member.begin_down("no health check has succeeded yet", instance),
                    Some(_) | None => {}
                }
                Arc::new(member)
            });
            Seat {
                weight: u32::from(m.weight),
                backup: m.backup,
                draining: m.draining,
                slots: conf
                    .member_limit
                    .map(|limit| Slots::build(limit, old.and_then(|s| s.slots.as_ref()))),
                cookie: conf.sticky.as_ref().and_then(|sticky| cookie(sticky, member.hash)),
                member,
            }
        };
        let seats: Box<[Seat]> = conf.members.iter().map(seat).collect();
        let mut currents = vec![0; seats.len()].into_boxed_slice();
        if let Some(before) = before {
            let old = lock(&before.currents);
            for (current, seat) in currents.iter_mut().zip(&seats) {
                let place = before.seats.iter().position(|s| s.member.id == seat.member.id);
                *current = place.map_or(0, |place| old[place]);
            }
        }
        let state = before.map_or_else(
            || {
                Arc::new(ClusterState {
                    turn: AtomicUsize::new(0),
                    active: Mutex::new(Active {
                        member: known.active.get(&conf.id).map(|id| id.as_str().into()),
                        ..Active::default()
                    }),
                    stats: (0..instance.workers).map(|_| Stats::default()).collect(),
                })
            },
            |b| b.state.clone(),
        );
        let cluster = Self {
            connect_timeout: Duration::from_millis(u64::from(conf.connect_timeout_ms)),
            response_timeout: Duration::from_millis(u64::from(conf.response_timeout_ms)),
            conf: conf.clone(),
            seats,
            state,
            currents: Mutex::new(currents),
            active: AtomicUsize::new(NOBODY),
        };
        if let Mode::ActiveStandby { .. } = conf.mode {
            cluster.elect(instance);
        }
        cluster
    }

    /// The active seat, if it can take traffic; elects another where it can't.
    pub fn active(&self, instance: &Instance) -> Option<usize> {
        let active = self.active.load(Relaxed);
        if self.seats.get(active).is_some_and(Seat::takes_new) {
            return Some(active);
        }
        self.elect(instance);
        let active = self.active.load(Relaxed);
        self.seats.get(active).is_some_and(Seat::takes_new).then_some(active)
    }

    /// The id of the active member, of an active-standby cluster that has one.
    pub fn active_member(&self) -> Option<&str> {
        self.seats.get(self.active.load(Relaxed)).map(|s| &*s.member.id)
    }

    /// Sees to it that the right member is active. Answers when to look again, where time alone decides.
    pub fn elect(&self, instance: &Instance) -> Option<u64> {
        let Mode::ActiveStandby { failback } = self.conf.mode else {
            return None;
        };
        let mut active = lock(&self.state.active);
        let now = self.agreed(&active);
        let first_up = self.seats.iter().position(Seat::takes_new)?;
        let reason = match self.seats.get(now) {
            Some(seat) if seat.takes_new() => {
                let Failback::Automatic { after_ms } = failback else { return None };
                if first_up >= now || active.pinned {
                    return None;
                }
                let due = self.seats[first_up].member.since_ms().max(active.since_ms) + u64::from(after_ms);
                if instance.now_ms() < due {
                    return Some(due);
                }
                format!("failback: it stands before `{}` and has been up for {after_ms} ms", seat.member.id)
            }
            Some(seat) => format!("`{}` can't take traffic: {}", seat.member.id, seat.why_not()),
            None if active.member.is_none() => "it is the first in the list that is up".to_owned(),
            None => "the active member was taken out of the cluster".to_owned(),
        };
        self.activate(first_up, false, &reason, &mut active, instance);
        None
    }

    /// The active seat as it was last decided, perhaps by the cluster as the configuration before had it: requests that began with that
    /// one still ask it.
    fn agreed(&self, active: &Active) -> usize {
        let decided = active.member.as_ref();
        if let Some(place) = decided.and_then(|id| self.seats.iter().position(|seat| seat.member.id == *id)) {
            self.active.store(place, Relaxed);
        }
        self.active.load(Relaxed)
    }

    fn activate(&self, seat: usize, pinned: bool, reason: &str, active: &mut Active, instance: &Instance) {
        let member = &self.seats[seat].member;
        self.active.store(seat, Relaxed);
        *active = Active {
            member: Some(member.id.clone()),
            pinned,
            since_ms: instance.now_ms(),
        };
        instance.tell(EventKind::Failover, &self.conf.id, &member.id, reason);
    }

    /// Makes another member active because somebody asks for it.
    pub fn fail_over(&self, to: Option<&str>, instance: &Instance) -> Result<String, NoFailover> {
        let Mode::ActiveStandby { .. } = self.conf.mode else {
            return Err(NoFailover::NotActiveStandby);
        };
        let mut active = lock(&self.state.active);
        let now = self.agreed(&active);
        let seat = match to {
            Some(id) => {
                let seat = self.seats.iter().position(|s| &*s.member.id == id);
                let seat = seat.ok_or_else(|| NoFailover::UnknownMember(id.to_owned()))?;
                if !self.seats[seat].takes_new() {
                    return Err(NoFailover::NotUp(id.to_owned()));
                }
                seat
            }
            None => {
                let count = self.seats.len();
                let start = if now == NOBODY { 0 } else { now + 1 };
                let mut after = (0..count).map(|i| (start + i) % count).filter(|i| *i != now);
                after.find(|i| self.seats[*i].takes_new()).ok_or(NoFailover::NoOther)?
            }
        };
        if seat != now {
            self.activate(seat, true, "it was asked for", &mut active, instance);
        }
        Ok(self.seats[seat].member.id.to_string())
    }

    /// How many could be given a new client.
    pub fn available(&self) -> usize {
        self.seats.iter().filter(|s| s.takes_new()).count()
    }
}

impl Seat {
    fn why_not(&self) -> String {
        if self.draining {
            "it drains".to_owned()
        } else if self.weight == 0 {
            "its weight is 0".to_owned()
        } else {
            self.member.state(false).1
        }
    }
}

/// `Secure` is left to the listener, which knows whether the client came by TLS.
fn cookie(sticky: &proxy::Sticky, hash: u64) -> Option<HeaderValue> {
    let age = sticky.max_age_seconds.map_or(String::new(), |s| format!("; Max-Age={s}"));
    HeaderValue::try_from(format!("{}={hash:016x}; Path=/; HttpOnly; SameSite=Lax{age}", sticky.cookie)).ok()
}
