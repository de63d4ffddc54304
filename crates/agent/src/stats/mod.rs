//! What containers use, once a second, from the kernel's own files.
//!
//! Docker's stats calls cost its daemon more than 10% of a core for 50 containers; reading cgroup files costs a twentieth of
//! that. One thread of its own does it ([`sampler`]): the files are in memory, so reading them never waits, and a hop to a
//! thread pool for each would cost more than the read. [`cgroup`] knows the formats, [`ring`] keeps the last 300 seconds,
//! [`minutes`] the last 24 hours on disk.

pub mod cgroup;
pub mod minutes;
pub mod ring;
pub mod sampler;

use minutes::{Minutes, Point};
use nm_types::Timestamp;
use nm_types::stats::{ContainerStats, Usage};
use ring::Ring;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use tokio::sync::watch;

/// One reading, without the container's name. Counters run from the container's start.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sample {
    /// Unix milliseconds.
    pub time: i64,
    /// Percent of one core.
    pub cpu: f64,
    /// Bytes.
    pub memory: u64,
    pub limit: u64,
    pub rx: u64,
    pub tx: u64,
    pub read: u64,
    pub write: u64,
    pub pids: u64,
    pub oom_kills: u64,
    pub throttled_nanos: u64,
}

impl Sample {
    pub fn stats(&self, key: &str) -> ContainerStats {
        ContainerStats {
            container_id: key.to_owned(),
            cpu: round(self.cpu, 100.0),
            memory: round(self.memory as f64 / f64::from(1 << 20), 100.0),
            memory_limit: self.limit,
            network_rx: self.rx,
            network_tx: self.tx,
            block_read: self.read,
            block_write: self.write,
            pids: self.pids,
            oom_kills: self.oom_kills,
            throttled_seconds: round(self.throttled_nanos as f64 / 1e9, 1000.0),
            timestamp: Timestamp(self.time),
        }
    }

    fn usage(&self) -> Usage {
        Usage {
            cpu: round(self.cpu, 10.0),
            memory: round(self.memory as f64 / f64::from(1 << 20), 10.0),
        }
    }
}

impl Point for Sample {
    const NUMBERS: usize = 11;
    type Sum = (f64, u128);

    fn time(&self) -> i64 {
        self.time
    }
    fn write(&self, out: &mut Vec<u64>) {
        out.extend([
            self.time.cast_unsigned(),
            self.cpu.to_bits(),
            self.memory,
            self.limit,
            self.rx,
            self.tx,
            self.read,
            self.write,
            self.pids,
            self.oom_kills,
            self.throttled_nanos,
        ]);
    }
    fn read(numbers: &mut impl Iterator<Item = u64>) -> Option<Self> {
        let mut next = || numbers.next();
        Some(Self {
            time: next()?.cast_signed(),
            cpu: f64::from_bits(next()?),
            memory: next()?,
            limit: next()?,
            rx: next()?,
            tx: next()?,
            read: next()?,
            write: next()?,
            pids: next()?,
            oom_kills: next()?,
            throttled_nanos: next()?,
        })
    }
    fn add_to(&self, (cpu, memory): &mut Self::Sum) {
        *cpu += self.cpu;
        *memory += u128::from(self.memory);
    }
    fn average(self, (cpu, memory): Self::Sum, n: u32) -> Self {
        Self {
            cpu: cpu / f64::from(n),
            memory: u64::try_from(memory / u128::from(n)).unwrap_or(u64::MAX),
            ..self
        }
    }
}

pub(crate) fn round(n: f64, steps: f64) -> f64 {
    (n * steps).round() / steps
}

/// A running container to sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Track {
    pub docker_id: String,
    /// What users call it by: our id, or Docker's.
    pub key: String,
    /// Its main process.
    pub pid: i32,
    /// It has no network of its own, so none is counted.
    pub host_network: bool,
}

pub(crate) enum Order {
    Track(Track),
    Untrack(String),
    /// Gone for good: its history goes too.
    Forget(String),
    /// Only these are left.
    KeepOnly(HashSet<String>),
    Stop,
}

struct Series {
    key: String,
    ring: Ring<Sample>,
    running: bool,
}

#[derive(Default)]
struct Shared {
    series: Mutex<HashMap<String, Series>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Series>> {
        // Nothing panics while it holds the lock, and samples are whole at any time.
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sampler's handle. Cheap to clone.
#[derive(Clone)]
pub struct Stats {
    orders: mpsc::Sender<Order>,
    shared: Arc<Shared>,
    ticks: watch::Receiver<u64>,
    minutes: Arc<Minutes<Sample>>,
}

/// The sampler's other end, to be given to [`sampler::run`] on a thread.
pub struct SamplerEnd {
    orders: mpsc::Receiver<Order>,
    shared: Arc<Shared>,
    ticks: watch::Sender<u64>,
    minutes: Arc<Minutes<Sample>>,
}

impl Stats {
    pub fn new(data_dir: &Path) -> std::io::Result<(Self, SamplerEnd)> {
        let minutes = Arc::new(Minutes::open(data_dir.join("stats"))?);
        let (orders, received) = mpsc::channel();
        let (tick, ticks) = watch::channel(0);
        let shared = Arc::<Shared>::default();
        let end = SamplerEnd {
            orders: received,
            shared: shared.clone(),
            ticks: tick,
            minutes: minutes.clone(),
        };
        Ok((
            Self {
                orders,
                shared,
                ticks,
                minutes,
            },
            end,
        ))
    }

    fn order(&self, order: Order) {
        // A sampler that has ended ends with the agent.
        drop(self.orders.send(order));
    }
    /// Samples the container from now on. Said again of the same process, it changes nothing.
    pub fn track(&self, track: Track) {
        self.order(Order::Track(track));
    }
    pub fn untrack(&self, docker_id: &str) {
        self.order(Order::Untrack(docker_id.to_owned()));
    }
    pub fn forget(&self, docker_id: &str) {
        self.order(Order::Forget(docker_id.to_owned()));
    }
    pub fn keep_only(&self, docker_ids: &HashSet<String>) {
        self.order(Order::KeepOnly(docker_ids.clone()));
    }
    pub fn stop(&self) {
        self.order(Order::Stop);
    }

    /// Changes once a second, after every running container was sampled.
    pub fn ticks(&self) -> watch::Receiver<u64> {
        self.ticks.clone()
    }

    /// What running containers used last, by Docker id.
    pub fn usage(&self) -> HashMap<String, Usage> {
        let series = self.shared.lock();
        series
            .iter()
            .filter(|(_, s)| s.running)
            .filter_map(|(id, s)| Some((id.clone(), s.ring.newest()?.usage())))
            .collect()
    }

    /// The newest `limit` samples, oldest first.
    pub fn seconds(&self, docker_id: &str, limit: usize) -> Vec<ContainerStats> {
        let series = self.shared.lock();
        series
            .get(docker_id)
            .map(|s| s.ring.last(limit).map(|sample| sample.stats(&s.key)).collect())
            .unwrap_or_default()
    }

    /// The newest sample of a container that runs.
    pub fn newest(&self, docker_id: &str) -> Option<ContainerStats> {
        let series = self.shared.lock();
        let series = series.get(docker_id).filter(|s| s.running)?;
        series.ring.newest().map(|sample| sample.stats(&series.key))
    }

    /// The newest `limit` minutes of the last 24 hours, oldest first. Reads a file.
    pub fn minutes(&self, docker_id: &str, key: &str, limit: usize) -> std::io::Result<Vec<ContainerStats>> {
        Ok(self
            .minutes
            .read(docker_id, limit)?
            .iter()
            .map(|sample| sample.stats(key))
            .collect())
    }
}
