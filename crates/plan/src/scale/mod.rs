//! How many servers a cluster is to have, by the formula of the Kubernetes Horizontal Pod Autoscaler
//! (<https://kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale/#algorithm-details>):
//! `desired = ceil(current * value / target)`.
//!
//! As there: of several figures the one that asks for most counts; a miss within the tolerance counts as none; what is missing
//! is taken to be at its target where that would take servers away, and idle where it would add some; a figure that is not there
//! at all keeps servers from being taken away; and they are taken away only down to the most that was asked for within the
//! stabilisation window. Besides, there are the specification's cooldowns, and nothing is taken away while a server is not up.

#[cfg(test)]
mod tests;

use nm_types::Timestamp;
use nm_types::cluster::AutoScaling;
use serde::{Deserialize, Serialize};

/// What a cluster's owner asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    pub min: u32,
    pub max: u32,
    /// Percent.
    pub cpu: Option<f64>,
    /// Percent.
    pub memory: Option<f64>,
    /// Requests a second that one server is to have.
    pub requests: Option<f64>,
    /// A share: 0.1 is ten percent.
    pub tolerance: f64,
    /// Milliseconds from servers that were added to more of them.
    pub up_cooldown: i64,
    /// Milliseconds from any change to servers that are taken away.
    pub down_cooldown: i64,
    /// Milliseconds.
    pub window: i64,
}

impl Policy {
    pub fn of(scaling: &AutoScaling) -> Self {
        let count = |n: i64| u32::try_from(n).unwrap_or(1);
        Self {
            min: count(scaling.min_servers.get()),
            max: count(scaling.max_servers.get()).max(count(scaling.min_servers.get())),
            cpu: scaling.target_cpu_percent.map(|t| t.get() as f64),
            memory: scaling.target_memory_percent.map(|t| t.get() as f64),
            requests: scaling.target_requests_per_second.map(|t| t.get() as f64),
            tolerance: scaling.tolerance.get() as f64 / 100.0,
            up_cooldown: scaling.scale_up_cooldown.get() * 1000,
            down_cooldown: scaling.scale_down_cooldown.get() * 1000,
            window: scaling.stabilization_window.get() * 1000,
        }
    }
}

/// What one server does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// It serves: not one that is being made, or that fails.
    pub up: bool,
    /// Percent of what it may use.
    pub cpu: Option<f64>,
    pub memory: Option<f64>,
}

/// What is seen of a cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// Every server that is there or is being made; not those that leave.
    pub servers: Vec<Load>,
    /// Of the whole cluster.
    pub requests_per_second: Option<f64>,
    /// How many of the servers may be taken away: those that scaling made.
    pub removable: u32,
}

/// What is remembered from one decision to the next.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Memory {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_up: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_down: Option<Timestamp>,
    /// How many were asked for within the window, one entry a change of mind.
    pub asked: Vec<(Timestamp, u32)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Figure {
    Cpu,
    Memory,
    RequestsPerSecond,
}

/// What one figure asks for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Proposal {
    pub figure: Figure,
    pub target: f64,
    /// The average over the servers that told; of requests, those of each server.
    pub value: Option<f64>,
    /// Nothing where the figure is not there at all.
    pub servers: Option<u32>,
}

/// Why nothing is done though something else was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum Held {
    /// The last change is too recent.
    Cooldown { until: Timestamp },
    /// More were asked for not long ago.
    Stabilizing,
    /// There are as many as there may be.
    AtMost,
    /// There are as few as there may be.
    AtLeast,
    /// Figures are missing.
    Missing,
    /// Some servers are not up.
    NotAllUp,
    /// Only servers that the cluster's owner named are left.
    NothingToRemove,
}

impl Held {
    /// In words.
    pub fn reason(&self) -> String {
        match self {
            Self::Cooldown { until } => format!("the last change is too recent: not before {until}"),
            Self::Stabilizing => "more were needed within the stabilisation window".into(),
            Self::AtMost => "there are as many as maxServers allows".into(),
            Self::AtLeast => "there are as few as minServers allows".into(),
            Self::Missing => "some figures are missing, and nothing is taken away on a guess".into(),
            Self::NotAllUp => "not all servers are up, and nothing is taken away meanwhile".into(),
            Self::NothingToRemove => "only servers that were named by hand are left: remove one of them yourself".into(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Everything is as it should be.
    Nothing,
    Hold(Held),
    Out {
        to: u32,
    },
    In {
        to: u32,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    pub current: u32,
    /// How many would be right, before bounds and times.
    pub wanted: u32,
    pub proposals: Vec<Proposal>,
    pub action: Action,
    pub memory: Memory,
}

/// The most servers that are there after one change: twice as many, or four more.
fn at_once(current: u32) -> u32 {
    current.saturating_mul(2).max(current.saturating_add(4))
}

/// What to do now. Whoever carries it out notes it with [`Memory::changed`].
pub fn decide(now: Timestamp, policy: &Policy, seen: &Seen, memory: &Memory) -> Decision {
    let current = u32::try_from(seen.servers.len()).unwrap_or(u32::MAX);
    let loads = |of: fn(&Load) -> Option<f64>| seen.servers.iter().map(|s| (s.up, of(s))).collect::<Vec<_>>();
    let mut proposals = Vec::new();
    if let Some(target) = policy.cpu {
        proposals.push(by_average(Figure::Cpu, &loads(|s| s.cpu), target, policy.tolerance));
    }
    if let Some(target) = policy.memory {
        proposals.push(by_average(Figure::Memory, &loads(|s| s.memory), target, policy.tolerance));
    }
    if let Some(target) = policy.requests {
        proposals.push(by_requests(seen.requests_per_second, current, target, policy.tolerance));
    }
    let asked = proposals.iter().filter_map(|p| p.servers).max();
    let wanted = asked.unwrap_or(current).min(at_once(current));
    let incomplete = proposals.is_empty() || proposals.iter().any(|p| p.servers.is_none());

    let mut memory = memory.clone();
    let stable = memory.stable(now, policy.window, wanted, current);
    let action = act(now, policy, seen, &memory, current, wanted, stable, incomplete);
    Decision {
        current,
        wanted,
        proposals,
        action,
        memory,
    }
}

#[expect(clippy::too_many_arguments, reason = "everything a decision weighs")]
fn act(now: Timestamp, policy: &Policy, seen: &Seen, memory: &Memory, current: u32, wanted: u32, stable: u32, incomplete: bool) -> Action {
    // Bounds hold whatever the load is, and at once.
    if current < policy.min {
        return Action::Out { to: policy.min };
    }
    let removable = |to: u32| match current.saturating_sub(seen.removable).max(to) {
        to if to < current => Action::In { to },
        _ => Action::Hold(Held::NothingToRemove),
    };
    let all_up = seen.servers.iter().all(|s| s.up);
    if current > policy.max {
        return if all_up {
            removable(policy.max)
        } else {
            Action::Hold(Held::NotAllUp)
        };
    }
    let cooling = |since: Option<Timestamp>, cooldown: i64| since.map(|t| t.plus_millis(cooldown)).filter(|until| now < *until);
    if wanted > current {
        let to = wanted.min(policy.max);
        if to == current {
            return Action::Hold(Held::AtMost);
        }
        if let Some(until) = cooling(memory.last_up, policy.up_cooldown) {
            return Action::Hold(Held::Cooldown { until });
        }
        return Action::Out { to };
    }
    if wanted == current {
        return Action::Nothing;
    }
    if current == policy.min {
        return Action::Hold(Held::AtLeast);
    }
    if incomplete {
        return Action::Hold(Held::Missing);
    }
    let to = stable.max(policy.min);
    if to >= current {
        return Action::Hold(Held::Stabilizing);
    }
    if let Some(until) = cooling(memory.last_up.max(memory.last_down), policy.down_cooldown) {
        return Action::Hold(Held::Cooldown { until });
    }
    if !all_up {
        return Action::Hold(Held::NotAllUp);
    }
    removable(to)
}

impl Memory {
    /// The most that was asked for within the window, `wanted` now included. A cluster of which nothing is remembered asked for
    /// what it has.
    fn stable(&mut self, now: Timestamp, window: i64, wanted: u32, current: u32) -> u32 {
        if self.asked.is_empty() {
            self.asked.push((now, current));
        }
        if self.asked.last().is_none_or(|(_, last)| *last != wanted) {
            self.asked.push((now, wanted));
        }
        // What was asked for last before the window began was still asked for when it began.
        let begin = now.plus_millis(-window);
        let old = self.asked.partition_point(|(at, _)| *at <= begin);
        self.asked.drain(..old.saturating_sub(1));
        if self.asked.len() > 1 && window == 0 {
            self.asked.drain(..self.asked.len() - 1);
        }
        self.asked.iter().map(|(_, n)| *n).max().unwrap_or(wanted)
    }

    /// As it is once this was done.
    #[must_use]
    pub fn changed(mut self, now: Timestamp, action: &Action) -> Self {
        match action {
            Action::Out { .. } => self.last_up = Some(now),
            Action::In { .. } => self.last_down = Some(now),
            Action::Nothing | Action::Hold(_) => {}
        }
        self
    }
}

fn within(ratio: f64, tolerance: f64) -> bool {
    (ratio - 1.0).abs() <= tolerance + 1e-9
}

/// `ratio * servers`, up to the next whole one; what is a whole one but for the last bits of the fraction is that.
fn ceil(ratio: f64, servers: usize) -> u32 {
    let exact = ratio * servers as f64;
    let near = exact.round();
    let up = if (exact - near).abs() < 1e-9 { near } else { exact.ceil() };
    up.clamp(0.0, f64::from(u32::MAX)) as u32
}

/// By the average of what each server says of itself: whether it is up, and its value where it tells one.
fn by_average(figure: Figure, servers: &[(bool, Option<f64>)], target: f64, tolerance: f64) -> Proposal {
    let known: Vec<f64> = servers
        .iter()
        .filter(|(up, _)| *up)
        .filter_map(|(_, v)| v.filter(|v| v.is_finite()))
        .collect();
    let mut proposal = Proposal {
        figure,
        target,
        value: None,
        servers: None,
    };
    if known.is_empty() {
        return proposal;
    }
    let sum: f64 = known.iter().sum();
    let average = sum / known.len() as f64;
    proposal.value = Some(average);
    let (ratio, current) = (average / target, servers.len());
    let unknown = current - known.len();
    let stay = u32::try_from(current).unwrap_or(u32::MAX);
    let ratio_of_all = if unknown == 0 {
        ratio
    } else {
        let guess = if ratio < 1.0 { target.max(100.0) } else { 0.0 };
        (sum + guess * unknown as f64) / current as f64 / target
    };
    let turned = (ratio < 1.0 && ratio_of_all > 1.0) || (ratio > 1.0 && ratio_of_all < 1.0);
    proposal.servers = Some(if within(ratio_of_all, tolerance) || turned {
        stay
    } else {
        ceil(ratio_of_all, current)
    });
    proposal
}

fn by_requests(all: Option<f64>, current: u32, target: f64, tolerance: f64) -> Proposal {
    let mut proposal = Proposal {
        figure: Figure::RequestsPerSecond,
        target,
        value: None,
        servers: None,
    };
    let Some(all) = all.filter(|v| v.is_finite()) else {
        return proposal;
    };
    let each = all / f64::from(current.max(1));
    proposal.value = Some(each);
    proposal.servers = Some(if within(each / target, tolerance) {
        current
    } else {
        ceil(all / target, 1)
    });
    proposal
}
