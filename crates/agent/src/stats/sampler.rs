//! The thread that reads.
//!
//! A container's files are opened once and read again with `pread`: opening costs more than reading. Where descriptors are short,
//! files are opened for each reading instead. Each file that is gone or says something unknown counts as nothing: a container
//! that ends between two readings is no fault.

use super::cgroup::{self, Layout};
use super::minutes::{Gather, Minutes};
use super::{Order, Sample, SamplerEnd, Series, Track};
use crate::host::MachineSampler;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const PERIOD: Duration = Duration::from_secs(1);
/// `memory.stat` and `io.stat` make the kernel add up over processors; what they give changes slowly.
const SLOW_EVERY: u64 = 2;
/// Descriptors kept open at most; a process may commonly have 1024.
const MAX_OPEN: usize = 640;

/// A file, and its descriptor where there was room for one.
#[derive(Debug)]
pub(crate) struct Watched {
    path: PathBuf,
    file: Option<File>,
}

impl Watched {
    /// A file that stays open; `None` where it is not there.
    pub(crate) fn open(path: PathBuf) -> Option<Self> {
        let file = Some(File::open(&path).ok()?);
        Some(Self { path, file })
    }

    /// Fills `buffer` from the start of the file; what does not fit is not needed.
    pub(crate) fn read<'a>(&mut self, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
        let n = match &self.file {
            Some(file) => file.read_at(buffer, 0).ok()?,
            None => File::open(&self.path).ok()?.read_at(buffer, 0).ok()?,
        };
        Some(&buffer[..n])
    }

    /// As [`Watched::read`] of a file that the kernel gives out page by page.
    pub(crate) fn read_pages<'a>(&mut self, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
        let file = self.file.as_ref()?;
        let mut n = 0;
        loop {
            match file.read_at(&mut buffer[n..], n as u64).ok()? {
                0 => return Some(&buffer[..n]),
                more => n += more,
            }
        }
    }
}

#[derive(Debug)]
struct Files {
    v2: bool,
    cpu_usage: Option<Watched>,
    /// v1: throttling alone. On v2 `cpu_usage` says it too.
    cpu_stat: Option<Watched>,
    memory: Option<Watched>,
    memory_stat: Option<Watched>,
    memory_limit: Option<Watched>,
    memory_events: Option<Watched>,
    io: Option<Watched>,
    pids: Option<Watched>,
    net: Option<Watched>,
}

struct Target {
    track: Track,
    files: Files,
    /// CPU time in nanoseconds, and when it was read.
    before: Option<(u64, Instant)>,
    /// What is read less often.
    inactive: u64,
    limit: u64,
    io: (u64, u64),
    oom_kills: u64,
    first: bool,
    gather: Gather<Sample>,
}

/// Samples until told to stop. `oom` is called with the Docker id of a container whose count of kills rose.
pub fn run(end: SamplerEnd, mut machine: MachineSampler, oom: impl Fn(&str)) {
    let SamplerEnd {
        orders,
        shared,
        ticks,
        minutes,
    } = end;
    let mut sampler = Sampler {
        targets: HashMap::new(),
        open: 0,
        buffer: vec![0; 16 << 10],
        machine_memory: machine_memory(),
        round: 0,
    };
    machine.begin();
    let mut fresh: Vec<(String, Sample)> = Vec::new();
    let mut next = Instant::now() + PERIOD;
    loop {
        match orders.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(Order::Track(track)) => {
                let mut series = shared.lock();
                let entry = series.entry(track.docker_id.clone()).or_insert_with(|| Series {
                    key: track.key.clone(),
                    ring: Default::default(),
                    running: true,
                });
                entry.running = true;
                drop(series);
                sampler.track(track);
                continue;
            }
            Ok(Order::Untrack(id)) => {
                sampler.untrack(&id, &minutes);
                if let Some(series) = shared.lock().get_mut(&id) {
                    series.running = false;
                }
                continue;
            }
            Ok(Order::Forget(id)) => {
                sampler.untrack(&id, &minutes);
                shared.lock().remove(&id);
                if let Err(error) = minutes.forget(&id) {
                    tracing::warn!(docker.id = %id, %error, "the statistics of a removed container can't be deleted");
                }
                continue;
            }
            Ok(Order::KeepOnly(ids)) => {
                let lost: Vec<String> = sampler.targets.keys().filter(|id| !ids.contains(*id)).cloned().collect();
                for id in lost {
                    sampler.untrack(&id, &minutes);
                }
                shared.lock().retain(|id, _| ids.contains(id));
                if let Err(error) = minutes.keep_only(&ids) {
                    tracing::warn!(%error, "the statistics of removed containers can't be deleted");
                }
                continue;
            }
            Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => {
                let all: Vec<String> = sampler.targets.keys().cloned().collect();
                for id in all {
                    sampler.untrack(&id, &minutes);
                }
                machine.end();
                return;
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        // Readings stay a second apart; after a machine slept, none are made up for.
        let now = Instant::now();
        next += PERIOD;
        if next < now {
            next = now + PERIOD;
        }
        fresh.clear();
        let time = unix_millis();
        machine.sample(time);
        sampler.sample_all(time, &minutes, &oom, &mut fresh);
        let mut series = shared.lock();
        for (id, sample) in fresh.drain(..) {
            if let Some(series) = series.get_mut(&id) {
                series.ring.push(sample);
            }
        }
        drop(series);
        ticks.send_modify(|n| *n += 1);
    }
}

struct Sampler {
    targets: HashMap<String, Target>,
    open: usize,
    buffer: Vec<u8>,
    machine_memory: u64,
    round: u64,
}

impl Sampler {
    fn track(&mut self, track: Track) {
        if self.targets.get(&track.docker_id).is_some_and(|t| t.track == track) {
            return;
        }
        let gather = self.drop_target(&track.docker_id).map(|t| t.gather).unwrap_or_default();
        let Some(files) = self.files(&track) else {
            tracing::debug!(docker.id = %track.docker_id, pid = track.pid, "a container's cgroup can't be found; it has ended, or is not on this machine");
            return;
        };
        let mut target = Target {
            track,
            files,
            before: None,
            inactive: 0,
            limit: 0,
            io: (0, 0),
            oom_kills: 0,
            first: true,
            gather,
        };
        target.before = target.cpu(&mut self.buffer).map(|nanos| (nanos, Instant::now()));
        self.targets.insert(target.track.docker_id.clone(), target);
    }

    fn drop_target(&mut self, docker_id: &str) -> Option<Target> {
        let target = self.targets.remove(docker_id)?;
        self.open -= target.files.all().filter(|w| w.file.is_some()).count();
        Some(target)
    }

    fn untrack(&mut self, docker_id: &str, minutes: &Minutes<Sample>) {
        if let Some(mut target) = self.drop_target(docker_id)
            && let Some(point) = target.gather.take()
        {
            append(minutes, docker_id, &point);
        }
    }

    fn files(&mut self, track: &Track) -> Option<Files> {
        let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
        let own = std::fs::read_to_string(format!("/proc/{}/cgroup", track.pid)).ok()?;
        let layout = cgroup::layout(&mountinfo, &own, &track.docker_id)?;
        let mut watch = |path: PathBuf| {
            let file = if self.open < MAX_OPEN { File::open(&path).ok() } else { None };
            self.open += usize::from(file.is_some());
            (file.is_some() || path.exists()).then_some(Watched { path, file })
        };
        let net = if track.host_network {
            None
        } else {
            watch(PathBuf::from(format!("/proc/{}/net/dev", track.pid)))
        };
        Some(match layout {
            Layout::V1 {
                cpu,
                cpuacct,
                memory,
                blkio,
                pids,
            } => {
                let mut at = |dir: &Option<PathBuf>, name: &str| dir.as_ref().and_then(|d| watch(d.join(name)));
                Files {
                    v2: false,
                    cpu_usage: at(&cpuacct, "cpuacct.usage"),
                    cpu_stat: at(&cpu, "cpu.stat"),
                    memory: at(&memory, "memory.usage_in_bytes"),
                    memory_stat: at(&memory, "memory.stat"),
                    memory_limit: at(&memory, "memory.limit_in_bytes"),
                    memory_events: at(&memory, "memory.oom_control"),
                    io: at(&blkio, "blkio.throttle.io_service_bytes_recursive").or_else(|| at(&blkio, "blkio.throttle.io_service_bytes")),
                    pids: at(&pids, "pids.current"),
                    net,
                }
            }
            Layout::V2 { dir } => {
                let mut at = |name: &str| watch(dir.join(name));
                Files {
                    v2: true,
                    cpu_usage: at("cpu.stat"),
                    cpu_stat: None,
                    memory: at("memory.current"),
                    memory_stat: at("memory.stat"),
                    memory_limit: at("memory.max"),
                    memory_events: at("memory.events"),
                    io: at("io.stat"),
                    pids: at("pids.current"),
                    net,
                }
            }
        })
    }

    fn sample_all(&mut self, time: i64, minutes: &Minutes<Sample>, oom: &impl Fn(&str), fresh: &mut Vec<(String, Sample)>) {
        self.round += 1;
        for (i, (id, target)) in self.targets.iter_mut().enumerate() {
            // Half of the containers each second, so that no second is dearer than another.
            let slow = target.first || (self.round + i as u64).is_multiple_of(SLOW_EVERY);
            let kills = target.oom_kills;
            let Some(sample) = target.sample(time, slow, self.machine_memory, &mut self.buffer) else {
                continue;
            };
            if sample.oom_kills > kills && !target.first {
                oom(id);
            }
            target.first = false;
            if let Some(point) = target.gather.push(&sample) {
                append(minutes, id, &point);
            }
            fresh.push((id.clone(), sample));
        }
    }
}

fn append(minutes: &Minutes<Sample>, docker_id: &str, point: &Sample) {
    if let Err(error) = minutes.append(docker_id, point) {
        tracing::warn!(docker.id = docker_id, %error, "a minute of statistics could not be kept");
    }
}

impl Files {
    fn all(&self) -> impl Iterator<Item = &Watched> {
        [
            &self.cpu_usage,
            &self.cpu_stat,
            &self.memory,
            &self.memory_stat,
            &self.memory_limit,
            &self.memory_events,
            &self.io,
            &self.pids,
            &self.net,
        ]
        .into_iter()
        .flatten()
    }
}

impl Target {
    /// CPU time since the start, nanoseconds.
    fn cpu(&mut self, buffer: &mut [u8]) -> Option<u64> {
        let text = self.files.cpu_usage.as_mut()?.read(buffer)?;
        if self.files.v2 {
            cgroup::field(text, b"usage_usec").map(|us| us.saturating_mul(1000))
        } else {
            cgroup::number(text)
        }
    }

    /// `None` where the container has ended, and at the first reading, which has nothing to compare with.
    fn sample(&mut self, time: i64, slow: bool, machine_memory: u64, buffer: &mut [u8]) -> Option<Sample> {
        let v2 = self.files.v2;
        let text = self.files.cpu_usage.as_mut()?.read(buffer)?;
        let at = Instant::now();
        let (nanos, mut throttled_nanos) = if v2 {
            (
                cgroup::field(text, b"usage_usec")?.saturating_mul(1000),
                cgroup::field(text, b"throttled_usec").unwrap_or(0).saturating_mul(1000),
            )
        } else {
            (cgroup::number(text)?, 0)
        };
        let (before, since) = self.before.replace((nanos, at))?;
        let elapsed = at.duration_since(since).as_nanos().max(1);
        let cpu = nanos.saturating_sub(before) as f64 * 100.0 / elapsed as f64;
        let mut get =
            |file: &mut Option<Watched>, parse: fn(&[u8]) -> Option<u64>| file.as_mut().and_then(|f| f.read(buffer)).and_then(parse);
        let files = &mut self.files;
        if !v2 {
            throttled_nanos = get(&mut files.cpu_stat, |t| cgroup::field(t, b"throttled_time")).unwrap_or(0);
        }
        let used = get(&mut files.memory, cgroup::number).unwrap_or(0);
        let pids = get(&mut files.pids, cgroup::number).unwrap_or(0);
        self.oom_kills = get(&mut files.memory_events, |t| cgroup::field(t, b"oom_kill")).unwrap_or(self.oom_kills);
        if slow {
            let inactive: fn(&[u8]) -> Option<u64> = if v2 {
                |t| cgroup::field(t, b"inactive_file")
            } else {
                |t| cgroup::field(t, b"total_inactive_file")
            };
            self.inactive = get(&mut files.memory_stat, inactive).unwrap_or(0);
            // Without a limit, v1 says a number near 2^63 and v2 `max`.
            self.limit = get(&mut files.memory_limit, cgroup::number).unwrap_or(u64::MAX).min(machine_memory);
            if let Some(text) = files.io.as_mut().and_then(|f| f.read(buffer)) {
                self.io = if v2 { cgroup::io_stat_v2(text) } else { cgroup::blkio_v1(text) };
            }
        }
        let (rx, tx) = files.net.as_mut().and_then(|f| f.read(buffer)).map_or((0, 0), cgroup::net_dev);
        // As `docker stats`: page cache that can be dropped at once is not counted as used.
        let memory = used.saturating_sub(self.inactive);
        Some(Sample {
            time,
            cpu,
            memory,
            limit: self.limit,
            rx,
            tx,
            read: self.io.0,
            write: self.io.1,
            pids,
            oom_kills: self.oom_kills,
            throttled_nanos,
        })
    }
}

fn unix_millis() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

/// What a container without a limit can have, in bytes.
fn machine_memory() -> u64 {
    crate::host::memory().unwrap_or(u64::MAX)
}
