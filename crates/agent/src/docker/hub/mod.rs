//! What is known of the engine and its containers, kept true by its events, and the one source of all watch streams.
//!
//! Invariants: everything is published under the lock that guards what it is about, so a watcher that takes its snapshot
//! and its place in the queue under that lock misses nothing and sees nothing twice. An older look at a container never
//! replaces a newer one, and nothing brings a removed one back.

mod events;
mod hidden;

use super::observe::{self, Detail, Known};
use super::wire::Inspect;
use crate::fence::{Desired, Fence};
use crate::host::Host;
use crate::journal::{Journal, Looked};
use crate::stats::{Stats, Track};
use events::Dirty;
use nm_link::contract::{ContainerKey, WatchEvent, labels};
use nm_types::container::{ContainerStatus, ObservedContainer, Protocol};
use nm_types::host::NodeStats;
use nm_types::node::{DockerInfo, NodeInfo};
use nm_types::stats::Usage;
use nm_types::{ContainerId, Timestamp};
use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, broadcast, oneshot, watch};

/// A watcher that falls behind by more than this gets a fresh snapshot instead.
const BACKLOG: usize = 1024;
/// Docker ids of removed containers that are remembered, so that a late look at one does not bring it back.
const GONE: usize = 4096;
/// What the engine said of itself and its machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    pub version: String,
    pub api_version: String,
    pub cpus: u32,
    /// Bytes.
    pub memory: u64,
    pub root_dir: String,
    /// This machine's address on the engine's own bridge.
    pub bridge: Option<IpAddr>,
}

#[derive(Debug, Clone)]
pub enum Engine {
    /// Not known yet: the agent has just started.
    Connecting,
    Up(Arc<Facts>),
    /// Why, and what to do.
    Down(Arc<str>),
}

/// One container as last seen.
#[derive(Debug, Clone)]
pub struct Record {
    pub observed: ObservedContainer,
    pub detail: Detail,
    /// When the look at it began, unix nanoseconds.
    seen_at: i64,
    /// The last log lines of the run that ended then.
    tail: Option<(Option<Timestamp>, Vec<String>)>,
}

#[derive(Default)]
struct World {
    containers: HashMap<String, Record>,
    ours: HashMap<ContainerId, String>,
    networks: HashSet<String>,
    /// Asked to end, by us or by others, since it was last started.
    asked: HashSet<String>,
    /// How the last end that was watched came about: asked for, or by itself.
    ends: HashMap<String, bool>,
    oom: HashMap<String, i64>,
    dirty: HashMap<String, Dirty>,
    looking: HashSet<String>,
    /// Docker ids, and ids of ours whose Docker id is not known yet, of containers that an operation works on.
    busy: HashMap<String, u32>,
    wanted_tails: Vec<(String, Option<Timestamp>)>,
    gone: (HashSet<String>, VecDeque<String>),
    last_usage: HashMap<String, Usage>,
    last_host: Option<Arc<WatchEvent>>,
    last_event: i64,
}

pub struct Hub {
    world: Mutex<World>,
    events: broadcast::Sender<Arc<WatchEvent>>,
    engine: watch::Sender<Engine>,
    execs: Mutex<HashMap<String, oneshot::Sender<Option<i64>>>>,
    pub hidden: hidden::Hidden,
    /// Somebody needs the engine now: try again.
    pub nudge: Notify,
    /// There is a container to look at.
    pub wake: Notify,
    host: Host,
    fence: Arc<Fence>,
    stats: Stats,
    journal: Arc<Journal>,
}

/// While it lives, events of the container cause no look at it: the operation looks once, at its end.
pub struct Busy {
    hub: Arc<Hub>,
    key: String,
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut world = self.hub.lock();
        if let Some(n) = world.busy.get_mut(&self.key) {
            *n -= 1;
            if *n == 0 {
                world.busy.remove(&self.key);
            }
        }
        drop(world);
        self.hub.wake.notify_one();
    }
}

pub fn now() -> i64 {
    now_nanos() / 1_000_000
}

pub fn now_nanos() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    // A clock before 1970 is a broken clock; the epoch then stands for it.
    since.map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}

/// What the journal wants to know of a container.
fn looked(record: &Record) -> Looked<'_> {
    let observed = &record.observed;
    Looked {
        docker_id: &observed.docker_id,
        id: observed.id.as_ref(),
        name: &observed.name,
        running: record.detail.pid > 0,
        created: observed.created,
        started: observed.started,
        finished: observed.finished,
        exit_code: observed.exit_code,
        seen_at: record.seen_at,
    }
}

impl Hub {
    pub fn new(host: Host, fence: Arc<Fence>, stats: Stats, journal: Arc<Journal>) -> Self {
        Self {
            world: Mutex::default(),
            events: broadcast::Sender::new(BACKLOG),
            engine: watch::Sender::new(Engine::Connecting),
            execs: Mutex::default(),
            hidden: hidden::Hidden::default(),
            nudge: Notify::new(),
            wake: Notify::new(),
            host,
            fence,
            stats,
            journal,
        }
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        // Nothing panics while it holds the lock; were it so, the next snapshot would set things right.
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, event: WatchEvent) {
        // No watcher is no fault.
        drop(self.events.send(Arc::new(event)));
    }

    // ── the engine ──────────────────────────────────────────────────────────────────────────────────────────────────

    pub fn engine(&self) -> watch::Receiver<Engine> {
        self.engine.subscribe()
    }

    pub fn docker_info(&self) -> DockerInfo {
        match &*self.engine.borrow() {
            Engine::Connecting => DockerInfo {
                available: false,
                version: None,
                api_version: None,
                bridge: None,
                error: Some("The agent has just started and has not reached Docker yet.".into()),
            },
            Engine::Up(f) => DockerInfo {
                available: true,
                version: Some(f.version.clone()),
                api_version: Some(f.api_version.clone()),
                bridge: f.bridge,
                error: None,
            },
            Engine::Down(why) => DockerInfo {
                available: false,
                version: None,
                api_version: None,
                bridge: None,
                error: Some(why.to_string()),
            },
        }
    }

    pub fn node_info(&self) -> NodeInfo {
        self.host.info(self.docker_info())
    }

    /// The engine does not answer. Said once to watchers, until it is back.
    pub fn down(&self, why: &str) {
        let world = self.lock();
        let was_down = matches!(&*self.engine.borrow(), Engine::Down(_));
        self.engine.send_replace(Engine::Down(why.into()));
        self.journal.engine_down(now_nanos(), why);
        if !was_down {
            tracing::warn!(error = why, "the Docker engine does not answer");
            self.publish(WatchEvent::Docker {
                docker: self.docker_info(),
            });
        }
        drop(world);
    }

    /// The engine answers, and this is everything on it.
    pub fn up(&self, facts: Facts, docs: Vec<(Inspect, i64)>, networks: HashSet<String>) {
        let mut world = self.lock();
        let kept: HashSet<String> = docs.iter().map(|(doc, _)| doc.id.clone()).collect();
        let lost: Vec<String> = world.containers.keys().filter(|id| !kept.contains(*id)).cloned().collect();
        for id in lost {
            self.forget(&mut world, &id);
        }
        self.stats.keep_only(&kept);
        for (doc, seen_at) in docs {
            self.enter(&mut world, doc, seen_at);
        }
        world.networks = networks;
        let all: Vec<Looked<'_>> = world.containers.values().map(looked).collect();
        self.journal.engine_up(now_nanos(), &facts.version, &all);
        tracing::info!(docker.version = %facts.version, containers = world.containers.len(), "the Docker engine answers");
        let was_down = matches!(&*self.engine.borrow(), Engine::Down(_));
        self.engine.send_replace(Engine::Up(Arc::new(facts)));
        if was_down {
            self.publish(WatchEvent::Docker {
                docker: self.docker_info(),
            });
        }
        self.publish(self.snapshot(&world));
    }

    fn snapshot(&self, world: &World) -> WatchEvent {
        WatchEvent::Snapshot {
            info: self.node_info(),
            containers: world.containers.values().map(|r| r.observed.clone()).collect(),
        }
    }

    // ── watchers ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// What a new watcher is told first, and its place in the queue. Without an engine there is no snapshot: containers are
    /// not gone because nobody can see them.
    pub fn subscribe(&self) -> (Vec<Arc<WatchEvent>>, broadcast::Receiver<Arc<WatchEvent>>) {
        let world = self.lock();
        let receiver = self.events.subscribe();
        let engine = self.engine.borrow().clone();
        let mut first = match engine {
            Engine::Connecting => Vec::new(),
            Engine::Down(_) => vec![Arc::new(WatchEvent::Docker {
                docker: self.docker_info(),
            })],
            Engine::Up(_) => {
                let samples: Vec<_> = world.last_usage.iter().map(|(id, u)| (id.clone(), *u)).collect();
                let usage = (!samples.is_empty()).then(|| Arc::new(WatchEvent::Usage { samples }));
                std::iter::once(Arc::new(self.snapshot(&world))).chain(usage).collect()
            }
        };
        first.extend(world.last_host.clone());
        first.push(Arc::new(WatchEvent::Journal(*self.journal.end().borrow())));
        (first, receiver)
    }

    /// The journal grew.
    pub fn tell_journal(&self) {
        let world = self.lock();
        self.publish(WatchEvent::Journal(*self.journal.end().borrow()));
        drop(world);
    }

    /// Every two seconds: what the machine uses.
    pub fn tell_host(&self, stats: NodeStats) {
        let event = Arc::new(WatchEvent::Host { stats: Box::new(stats) });
        let mut world = self.lock();
        world.last_host = Some(event.clone());
        // No watcher is no fault.
        drop(self.events.send(event));
    }

    /// Every two seconds: what is used, where it changed; else a sign of life.
    pub fn tell_usage(&self, usage: HashMap<String, Usage>) {
        let mut world = self.lock();
        let samples: Vec<_> = usage
            .iter()
            .filter(|(id, u)| world.last_usage.get(*id) != Some(u))
            .map(|(id, u)| (id.clone(), *u))
            .collect();
        world.last_usage = usage;
        self.publish(if samples.is_empty() {
            WatchEvent::Heartbeat
        } else {
            WatchEvent::Usage { samples }
        });
    }

    // ── containers ──────────────────────────────────────────────────────────────────────────────────────────────────

    pub fn find(&self, key: &ContainerKey) -> Option<Record> {
        let world = self.lock();
        let id = match key {
            ContainerKey::Ours(id) => world.ours.get(id)?,
            ContainerKey::Docker(id) => &**id,
        };
        world.containers.get(id).cloned()
    }

    /// The name of the container that holds a host port.
    pub fn port_holder(&self, port: u16, protocol: Option<Protocol>, not: &str) -> Option<String> {
        let world = self.lock();
        let holds = |r: &&Record| {
            r.detail
                .host_ports
                .iter()
                .any(|(p, proto)| *p == port && protocol.is_none_or(|want| want == *proto))
        };
        world
            .containers
            .values()
            .filter(|r| r.observed.docker_id != not)
            .find(holds)
            .map(|r| r.observed.name.clone())
    }

    pub fn has_network(&self, name: &str) -> bool {
        self.lock().networks.contains(name)
    }

    pub fn all(&self, test: impl Fn(&Record) -> bool) -> Vec<Record> {
        self.lock().containers.values().filter(|r| test(r)).cloned().collect()
    }

    /// Names of the containers for which `test` holds, sorted.
    pub fn names(&self, test: impl Fn(&Record) -> bool) -> Vec<String> {
        let mut names: Vec<String> = self
            .lock()
            .containers
            .values()
            .filter(|r| test(r))
            .map(|r| r.observed.name.clone())
            .collect();
        names.sort();
        names
    }

    /// How many containers use each image, by image id.
    pub fn image_uses(&self) -> HashMap<String, u64> {
        let mut uses = HashMap::new();
        for record in self.lock().containers.values() {
            *uses.entry(record.detail.image_id.clone()).or_default() += 1;
        }
        uses
    }

    /// Takes in a look at a container that began at `seen_at`, and tells watchers where something changed.
    pub fn seen(&self, doc: Inspect, seen_at: i64) -> Option<Record> {
        let mut world = self.lock();
        let id = doc.id.clone();
        let before = world.containers.get(&id).map(|r| r.observed.clone());
        self.enter(&mut world, doc, seen_at);
        let record = world.containers.get(&id)?.clone();
        if before.as_ref() != Some(&record.observed) {
            self.publish(WatchEvent::Container {
                observed: Box::new(record.observed.clone()),
            });
        }
        Some(record)
    }

    fn enter(&self, world: &mut World, doc: Inspect, seen_at: i64) {
        let id = doc.id.clone();
        if world.gone.0.contains(&id) {
            return;
        }
        let old = world.containers.get(&id);
        if old.is_some_and(|r| r.seen_at > seen_at) {
            return;
        }
        let finished = Timestamp::parse(&doc.state.finished_at);
        let ours = doc.config.labels.get(labels::ID).and_then(|l| ContainerId::parse(l).ok());
        let held = ours.as_ref().and_then(|id| self.fence.get(id));
        let tail = old.and_then(|r| r.tail.clone()).filter(|(at, _)| *at == finished);
        let asked = if world.asked.contains(&id) {
            Some(true)
        } else {
            world
                .ends
                .get(&id)
                .copied()
                .or_else(|| held.as_ref().filter(|h| h.desired == Desired::Stopped).map(|_| true))
        };
        let known = Known {
            asked,
            oom: world.oom.contains_key(&id),
            given: held.as_ref().map(|h| &h.name),
            tail: tail.as_ref().map_or(&[], |(_, lines)| lines),
        };
        let (observed, detail) = observe::observe(doc, &known);
        if detail.pid > 0 {
            let key = observed.id.as_ref().map_or_else(|| id.clone(), ToString::to_string);
            self.stats.track(Track {
                docker_id: id.clone(),
                key,
                pid: detail.pid,
                host_network: detail.host_network,
            });
        } else {
            self.stats.untrack(&id);
        }
        let wants_tail =
            detail.failed_at_once || (observed.status == ContainerStatus::Exited && observed.message.is_some() && observed.restarts > 0);
        let wanted = (id.clone(), finished);
        if wants_tail && tail.is_none() && !world.wanted_tails.contains(&wanted) {
            world.wanted_tails.push(wanted);
            self.wake.notify_one();
        }
        if let Some(ours) = &observed.id {
            world.ours.insert(ours.clone(), id.clone());
        }
        world.containers.insert(
            id,
            Record {
                observed,
                detail,
                seen_at,
                tail,
            },
        );
    }

    /// Keeps the last log lines of a run; they show at the next look.
    pub fn set_tail(&self, docker_id: &str, finished: Option<Timestamp>, lines: Vec<String>) {
        let mut world = self.lock();
        if let Some(record) = world.containers.get_mut(docker_id) {
            record.tail = Some((finished, lines));
            world.dirty.entry(docker_id.to_owned()).or_default().sure = true;
            self.wake.notify_one();
        }
    }

    /// The container is gone.
    pub fn removed(&self, docker_id: &str) {
        let mut world = self.lock();
        let known = world.containers.contains_key(docker_id);
        self.forget(&mut world, docker_id);
        if known {
            self.publish(WatchEvent::Removed {
                docker_id: docker_id.to_owned(),
            });
        }
    }

    fn forget(&self, world: &mut World, docker_id: &str) {
        if let Some(record) = world.containers.remove(docker_id)
            && let Some(id) = record.observed.id
            && world.ours.get(&id).is_some_and(|d| d == docker_id)
        {
            world.ours.remove(&id);
            if let Err(error) = self.fence.note(&id, Desired::Removed, now()) {
                tracing::warn!(container.id = %id, %error, "the removal of a container could not be noted");
            }
        }
        world.asked.remove(docker_id);
        world.ends.remove(docker_id);
        world.oom.remove(docker_id);
        world.dirty.remove(docker_id);
        world.last_usage.remove(docker_id);
        self.stats.forget(docker_id);
        if world.gone.0.insert(docker_id.to_owned()) {
            world.gone.1.push_back(docker_id.to_owned());
            if world.gone.1.len() > GONE
                && let Some(oldest) = world.gone.1.pop_front()
            {
                world.gone.0.remove(&oldest);
            }
        }
    }

    /// Somebody of ours asks it to end; `false` takes that back.
    pub fn ask_to_end(&self, docker_id: &str, asked: bool) {
        let mut world = self.lock();
        if asked {
            world.asked.insert(docker_id.to_owned());
        } else {
            world.asked.remove(docker_id);
        }
    }

    pub fn busy(self: &Arc<Self>, key: &str) -> Busy {
        *self.lock().busy.entry(key.to_owned()).or_default() += 1;
        Busy {
            hub: self.clone(),
            key: key.to_owned(),
        }
    }

    // ── exec ────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Resolves when Docker says that the exec ended, with its exit code where that was said.
    pub fn exec_end(&self, exec_id: &str) -> oneshot::Receiver<Option<i64>> {
        let (tx, rx) = oneshot::channel();
        let mut execs = self.execs.lock().unwrap_or_else(PoisonError::into_inner);
        execs.retain(|_, waiter| !waiter.is_closed());
        execs.insert(exec_id.to_owned(), tx);
        rx
    }

    /// Resolves when the container is gone.
    pub async fn wait_removed(&self, docker_id: &str) {
        let (_, mut events) = self.subscribe();
        loop {
            if !self.lock().containers.contains_key(docker_id) {
                return;
            }
            match events.recv().await {
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }
}
