//! Whether a server is well: limits with a distance between failing and passing again, and what follows from the five checks.
//!
//! - [`node`], [`container`], [`address`], [`unreachable`]: what was seen, into findings. [`Memory`] carries what one check has
//!   to know of those before.
//! - [`verdict`]: findings into a status. [`availability`]: statuses over time into a share.
//! - `finding`: a finding as figures, and in words.

mod availability;
mod finding;

pub use availability::{Interval, State, availability};
pub use finding::{Finding, Limit, Quantity};

use nm_types::health::{Check, Checks, HealthStatus, MillisLimit, PercentLimit, Thresholds};
use nm_types::host::{DiskStats, NodeStats};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, VecDeque};

/// How many calls the loss is counted over.
pub const CALLS: usize = 10;

/// What a check that failed failed for. It stays failed until its value is past the limit for recovering.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Cause {
    Cpu,
    Memory,
    Swap,
    MemoryPressure,
    /// Of the file system mounted there.
    Disk(String),
    Inodes(String),
    PacketLoss,
    RoundTrip,
    InterfaceErrors,
}

/// What one check leaves for the next.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Memory {
    /// What fails now.
    pub failing: BTreeSet<Cause>,
    /// Checks in a row that found the CPU busy.
    busy: u32,
    /// Whether each of the last [`CALLS`] calls was answered in time, oldest first.
    answered: VecDeque<bool>,
    /// Packets and broken packets at the check before.
    packets: Option<(u64, u64)>,
}

impl Memory {
    /// Notes whether a call to the server was answered in time.
    pub fn called(&mut self, answered: bool) {
        self.answered.push_back(answered);
        while self.answered.len() > CALLS {
            self.answered.pop_front();
        }
    }

    /// Percent of the last calls that got no answer. Nothing can be said before there were all of them.
    fn loss(&self) -> Option<f64> {
        let lost = self.answered.iter().filter(|answered| !**answered).count();
        (self.answered.len() == CALLS).then(|| lost as f64 * 100.0 / CALLS as f64)
    }

    /// Whether `cause` fails, now that it is at `value`.
    fn high(&mut self, cause: Cause, value: f64, fail: f64, recover: f64) -> bool {
        let limit = if self.failing.contains(&cause) { recover } else { fail };
        self.set(cause, value >= limit)
    }

    /// As [`Memory::high`], where little is bad.
    fn low(&mut self, cause: Cause, value: f64, fail: f64, recover: f64) -> bool {
        let fails = if self.failing.contains(&cause) {
            value <= recover
        } else {
            value < fail
        };
        self.set(cause, fails)
    }

    fn set(&mut self, cause: Cause, fails: bool) -> bool {
        if fails {
            self.failing.insert(cause);
        } else {
            self.failing.remove(&cause);
        }
        fails
    }
}

/// What a check of a node found.
#[derive(Debug)]
pub struct NodeSeen<'a> {
    /// What its machine uses, or why the agent could not tell.
    pub stats: Result<&'a NodeStats, &'a str>,
    /// Milliseconds the call for them took.
    pub round_trip: f64,
    /// What was found of its services.
    pub services: Vec<Finding>,
}

/// What a check of a container found.
#[derive(Debug)]
pub struct ContainerSeen<'a> {
    /// Its use while it runs.
    pub usage: Option<ContainerUse>,
    /// What its node uses, where that is known.
    pub node: Option<&'a NodeStats>,
    /// Where Docker keeps its data on the node.
    pub data_dir: &'a str,
    /// Milliseconds its node took to answer last.
    pub round_trip: Option<f64>,
    pub services: Vec<Finding>,
}

/// What a container uses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ContainerUse {
    /// Percent of what it may use.
    pub cpu: f64,
    /// Percent of what it may use that is left; nothing where it has no limit and its node's memory is not known.
    pub memory_available: Option<f64>,
}

/// What a probe of an address found.
#[derive(Debug)]
pub struct AddressSeen {
    /// Milliseconds the connection took.
    pub round_trip: f64,
    pub services: Vec<Finding>,
}

/// The findings of a node that answered.
pub fn node(limits: &Thresholds, memory: &mut Memory, seen: NodeSeen<'_>) -> Vec<Finding> {
    memory.called(true);
    let mut out = Vec::with_capacity(5);
    match seen.stats {
        Ok(stats) => {
            out.push(cpu(limits, memory, stats.cpu));
            out.extend(memory_of(limits, memory, stats));
            out.extend(disks(limits, memory, stats.disks.iter()));
        }
        Err(why) => {
            memory.busy = 0;
            let blind = [Check::Cpu, Check::Memory, Check::Disk];
            out.extend(blind.map(|check| Finding::unmeasured_for(check, false, format_args!("{why}"))));
        }
    }
    out.extend(network(limits, memory, seen.round_trip, seen.stats.ok()));
    out.extend(services(seen.services));
    out
}

/// The findings of a container whose node answers.
pub fn container(limits: &Thresholds, memory: &mut Memory, seen: ContainerSeen<'_>) -> Vec<Finding> {
    let mut out = Vec::with_capacity(5);
    match seen.usage {
        Some(usage) => {
            out.push(cpu(limits, memory, usage.cpu));
            out.push(match usage.memory_available {
                Some(available) => available_memory(limits.memory, memory, available),
                None => Finding::unmeasured(Check::Memory, true, "it has no limit, and its node's memory is not known yet"),
            });
        }
        None => {
            memory.busy = 0;
            out.push(Finding::unmeasured(Check::Cpu, false, "it does not run"));
            out.push(Finding::unmeasured(Check::Memory, false, "it does not run"));
        }
    }
    match seen.node.and_then(|n| data_disk(n, seen.data_dir)) {
        Some(disk) => out.extend(disks(limits, memory, std::iter::once(disk))),
        None => out.push(Finding::unmeasured(Check::Disk, true, "its node has not told of its disks yet")),
    }
    match seen.round_trip {
        Some(trip) => out.extend(network(limits, memory, trip, None)),
        None => out.push(Finding::unmeasured(
            Check::Network,
            true,
            "its node is connected and was not asked yet",
        )),
    }
    out.extend(services(seen.services));
    out
}

/// The findings of an address that answered.
pub fn address(limits: &Thresholds, memory: &mut Memory, seen: AddressSeen) -> Vec<Finding> {
    const OUTSIDE: &str = "no agent runs there: from outside it can't be seen";
    memory.called(true);
    let mut out: Vec<Finding> = [Check::Cpu, Check::Memory, Check::Disk]
        .map(|check| Finding::unmeasured(check, true, OUTSIDE))
        .into();
    out.extend(network(limits, memory, seen.round_trip, None));
    out.extend(services(seen.services));
    out
}

/// The findings of a server that can't be reached, and why. `called`: a call was made that should have been answered.
pub fn unreachable(memory: &mut Memory, why: &str, called: bool) -> Vec<Finding> {
    memory.busy = 0;
    if called {
        memory.called(false);
    }
    Check::ALL
        .into_iter()
        .map(|check| match check {
            Check::Network => Finding {
                check,
                ok: false,
                measured: Quantity::Said("not reachable".into()),
                limit: Limit::Is("reachable".into()),
                message: why.to_owned().into(),
            },
            _ => Finding::unmeasured(check, false, "the server can't be reached"),
        })
        .collect()
}

/// What follows from the findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    pub status: HealthStatus,
    pub degraded: bool,
    pub checks: Checks,
}

/// No failed check: healthy. One or two: unknown, and degraded. Three or more, or not reachable: unhealthy.
pub fn verdict(findings: &[Finding], reachable: bool) -> Verdict {
    let checks = Checks::of(|check| findings.iter().filter(|f| f.check == check).all(|f| f.ok));
    let (status, degraded) = match (reachable, checks.failed().len()) {
        (false, _) | (true, 3..) => (HealthStatus::Unhealthy, false),
        (true, 0) => (HealthStatus::Healthy, false),
        (true, _) => (HealthStatus::Unknown, true),
    };
    Verdict { status, degraded, checks }
}

fn cpu(limits: &Thresholds, memory: &mut Memory, percent: f64) -> Finding {
    let (limit, needed) = (limits.cpu, u32::try_from(limits.cpu_checks.get()).unwrap_or(1));
    let failing = memory.failing.contains(&Cause::Cpu);
    memory.busy = if percent >= limit.fail.get() {
        memory.busy.saturating_add(1)
    } else {
        0
    };
    let fails = if failing {
        percent >= limit.recover.get()
    } else {
        memory.busy >= needed
    };
    memory.set(Cause::Cpu, fails);
    let message = match (fails, memory.busy) {
        (true, _) => "the processor has no room left: see what uses it, or give it more".into(),
        (false, 0) => "".into(),
        (false, busy) => format!("busy for {busy} of {needed} checks in a row").into(),
    };
    Finding {
        message,
        ..percent_finding(Check::Cpu, fails, percent, limit)
    }
}

fn memory_of(limits: &Thresholds, memory: &mut Memory, stats: &NodeStats) -> Vec<Finding> {
    let seen = &stats.memory;
    let available = 100.0 - seen.used_percent();
    let mut out = vec![available_memory(limits.memory, memory, available)];
    if seen.swap_total > 0 {
        let used = seen.swap_used as f64 * 100.0 / seen.swap_total as f64;
        // Swap that fills up while memory is free holds what nobody needs; only together with want of memory it hurts.
        let short = match &stats.pressure {
            Some(pressure) => pressure.memory_some >= limits.memory_pressure.recover.get(),
            None => available < limits.memory.recover.get(),
        };
        let full = memory.high(Cause::Swap, used, limits.swap.fail.get(), limits.swap.recover.get());
        let fails = memory.set(Cause::Swap, full && short);
        if fails {
            out.push(Finding {
                message: "swap fills up while memory is short: stop what is not needed, or add memory".into(),
                ..percent_finding(Check::Memory, true, used, limits.swap)
            });
        }
    }
    match &stats.pressure {
        Some(pressure) => {
            let (at, limit) = (pressure.memory_full, limits.memory_pressure);
            if memory.high(Cause::MemoryPressure, at, limit.fail.get(), limit.recover.get()) {
                out.push(Finding {
                    message: "all work stood still for want of memory in this share of the time".into(),
                    ..percent_finding(Check::Memory, true, at, limit)
                });
            }
        }
        None => {
            memory.set(Cause::MemoryPressure, false);
        }
    }
    worst(out)
}

fn available_memory(limit: PercentLimit, memory: &mut Memory, available: f64) -> Finding {
    let fails = memory.low(Cause::Memory, available, limit.fail.get(), limit.recover.get());
    Finding {
        check: Check::Memory,
        ok: !fails,
        measured: Quantity::Percent(available),
        limit: if fails {
            Limit::Over(Quantity::Percent(limit.recover.get()))
        } else {
            Limit::AtLeast(Quantity::Percent(limit.fail.get()))
        },
        message: if fails {
            "hardly any memory is available: stop what is not needed, or add memory".into()
        } else {
            "available".into()
        },
    }
}

fn disks<'a>(limits: &Thresholds, memory: &mut Memory, disks: impl Iterator<Item = &'a DiskStats>) -> Vec<Finding> {
    let (mut out, mut mounted, mut fullest): (Vec<Finding>, BTreeSet<&str>, Option<&DiskStats>) = (Vec::new(), BTreeSet::new(), None);
    // What can't be written can't fill up: images of packages are always full.
    for disk in disks.filter(|d| !d.read_only && d.total > 0) {
        mounted.insert(&disk.mount);
        if fullest.is_none_or(|f| disk.used_percent() > f.used_percent()) {
            fullest = Some(disk);
        }
        for (cause, used, limit, of) in [
            (Cause::Disk(disk.mount.clone()), disk.used_percent(), limits.disk, "of"),
            (
                Cause::Inodes(disk.mount.clone()),
                disk.inodes_percent(),
                limits.inodes,
                "of the inodes of",
            ),
        ] {
            if memory.high(cause, used, limit.fail.get(), limit.recover.get()) {
                out.push(Finding {
                    message: format!("{of} {} is used: remove what is not needed, or make it larger", disk.mount).into(),
                    ..percent_finding(Check::Disk, true, used, limit)
                });
            }
        }
    }
    // A disk that was taken out fails no more.
    memory.failing.retain(|cause| match cause {
        Cause::Disk(mount) | Cause::Inodes(mount) => mounted.contains(mount.as_str()),
        _ => true,
    });
    if out.is_empty() {
        out.push(match fullest {
            Some(disk) => Finding {
                message: format!("of {} is used", disk.mount).into(),
                ..percent_finding(Check::Disk, false, disk.used_percent(), limits.disk)
            },
            None => Finding::unmeasured(Check::Disk, true, "no file system that can be written was told of"),
        });
    }
    out
}

/// The file system that `path` lies on.
fn data_disk<'a>(stats: &'a NodeStats, path: &str) -> Option<&'a DiskStats> {
    let holds = |d: &&DiskStats| std::path::Path::new(path).starts_with(&d.mount);
    stats.disks.iter().filter(holds).max_by_key(|d| d.mount.len())
}

fn network(limits: &Thresholds, memory: &mut Memory, round_trip: f64, stats: Option<&NodeStats>) -> Vec<Finding> {
    let trip = limits.round_trip;
    let slow = memory.high(Cause::RoundTrip, round_trip, trip.fail.get(), trip.recover.get());
    let mut out = vec![Finding {
        check: Check::Network,
        ok: !slow,
        measured: Quantity::Millis(round_trip),
        limit: Limit::Under(Quantity::Millis(millis_limit(trip, slow))),
        message: if slow {
            "it takes too long to answer".into()
        } else {
            "round trip".into()
        },
    }];
    if let Some(lost) = memory.loss()
        && memory.high(
            Cause::PacketLoss,
            lost,
            limits.packet_loss.fail.get(),
            limits.packet_loss.recover.get(),
        )
    {
        out.push(Finding {
            message: "of the last ten calls got no answer in time".into(),
            ..percent_finding(Check::Network, true, lost, limits.packet_loss)
        });
    }
    if let Some(now) = stats.map(|s| (s.network.packets, s.network.errors)) {
        // Counters that fell began anew: the machine was restarted, and the next check sees a share again.
        let share = memory.packets.replace(now).and_then(|(packets, errors)| {
            let (packets, errors) = (now.0.checked_sub(packets)?, now.1.checked_sub(errors)?);
            Some(if packets == 0 {
                0.0
            } else {
                errors as f64 * 100.0 / packets as f64
            })
        });
        let limit = limits.interface_errors;
        if let Some(share) = share
            && memory.high(Cause::InterfaceErrors, share, limit.fail.get(), limit.recover.get())
        {
            out.push(Finding {
                message: "of the packets were broken: look at cables, drivers and the switch".into(),
                ..percent_finding(Check::Network, true, share, limit)
            });
        }
    }
    worst(out)
}

fn services(found: Vec<Finding>) -> Vec<Finding> {
    if found.is_empty() {
        return vec![Finding::unmeasured(Check::Services, true, "nothing is asked of it")];
    }
    found
}

/// Where something fails, only what fails is told.
fn worst(mut findings: Vec<Finding>) -> Vec<Finding> {
    if findings.iter().any(|f| !f.ok) {
        findings.retain(|f| !f.ok);
    }
    findings
}

fn percent_finding(check: Check, fails: bool, percent: f64, limit: PercentLimit) -> Finding {
    let bound = if fails { limit.recover } else { limit.fail };
    Finding {
        check,
        ok: !fails,
        measured: Quantity::Percent(percent),
        limit: Limit::Under(Quantity::Percent(bound.get())),
        message: "".into(),
    }
}

fn millis_limit(limit: MillisLimit, fails: bool) -> f64 {
    if fails { limit.recover.get() } else { limit.fail.get() }
}

#[cfg(test)]
mod tests;
