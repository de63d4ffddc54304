//! Which tasks of a compute cluster's queue are given to which nodes.
//!
//! **Fair.** Jobs of one priority are a class. A class has used the larger of its parts of all CPU and of all memory that running
//! tasks of its jobs hold (its dominant share: Ghodsi et al., "Dominant Resource Fairness", NSDI 2011), divided by its weight,
//! which is its priority plus one. The class that has used the least is next, of two equals the one of higher priority. So while
//! all have work, priority 100 holds about twice as much as priority 50, and priority 0 is given something whenever nothing of it
//! runs. Within a class the job that came first is first; one that fits nowhere lets the next one go ahead.
//!
//! **Packed.** Of the nodes that have room the one with the fewest starts in flight is taken, then the one that is left with the
//! least: what is free stays in one piece. A node is given [`STARTS`] at once and gets more as they begin.
//!
//! **Nobody starves.** A job whose turn it is, of which nothing was given out for [`RESERVE_AFTER`] and that fits nowhere has a node
//! reserved: nothing else is given to that node until the job has had its task there.
//!
//! **Bound to cores.** A task that asks for whole cores gets cores of its own, the highest that are free. No other task runs on
//! them; who asks for parts shares the rest.

mod scale;
#[cfg(test)]
mod tests;

pub use scale::{InUse, QueueDecision, QueuePolicy, in_use};

use crate::place::Amount;
use nm_types::{JobId, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// Tasks that a node has been given and not begun yet, at most: eight that its engine starts at once, and as many behind them, so
/// that it never waits for us.
pub const STARTS: u32 = 16;
/// Milliseconds without a task given out, after which a job that fits nowhere has a node reserved.
pub const RESERVE_AFTER: i64 = 60_000;

/// A node, as far as tasks matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    pub node: NodeId,
    pub cores: u32,
    /// What tasks may have of it: all but what containers are promised.
    pub room: Amount,
    /// What is left of that beside the tasks that it has.
    pub free: Amount,
    /// Bytes that programs can still get, where the machine said so lately.
    pub available_memory: Option<u64>,
    /// Cores that tasks have for themselves.
    pub pinned: BTreeSet<u32>,
    /// Tasks it has that have not begun.
    pub starting: u32,
}

/// A job with tasks that could run now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub job: JobId,
    /// Grows with each job.
    pub order: i64,
    pub priority: i64,
    /// Of one task.
    pub need: Amount,
    /// Whole cores of one task; 0 where it shares them.
    pub cores: u32,
    /// How many tasks could run now.
    pub tasks: u32,
    /// Milliseconds since a task of it was given out, or since it could run.
    pub waited: i64,
    /// The node that was reserved for it before.
    pub reserved: Option<NodeId>,
}

/// One task for a node; which of the job's is for the caller to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    pub job: JobId,
    pub node: NodeId,
    /// The cores it has for itself.
    pub cores: Vec<u32>,
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pass {
    pub given: Vec<Given>,
    /// Nodes that are kept for jobs.
    pub reserved: BTreeMap<JobId, NodeId>,
}

/// A share of a whole, in billionths.
fn part(of: u64, whole: u64) -> u128 {
    u128::from(of) * 1_000_000_000 / u128::from(whole.max(1))
}

fn dominant(used: Amount, whole: Amount) -> u128 {
    part(used.cpu, whole.cpu).max(part(used.memory, whole.memory))
}

fn weight(priority: i64) -> u128 {
    u128::from(priority.clamp(0, 100).unsigned_abs()) + 1
}

impl Worker {
    /// Whether one task fits as things are, starts in flight aside.
    fn fits(&self, job: &Waiting) -> bool {
        job.need.cpu <= self.free.cpu
            && job.need.memory <= self.free.memory
            && self.available_memory.is_none_or(|available| job.need.memory <= available)
            && u64::from(job.cores) + self.pinned.len() as u64 <= u64::from(self.cores)
    }

    /// Whether one task would fit if no task ran.
    pub fn could_fit(&self, job: &Waiting) -> bool {
        job.need.cpu <= self.room.cpu && job.need.memory <= self.room.memory && job.cores <= self.cores
    }

    /// How much is missing, in billionths of what there is.
    fn short(&self, job: &Waiting) -> u128 {
        let missing = Amount {
            cpu: job.need.cpu.saturating_sub(self.free.cpu),
            memory: job.need.memory.saturating_sub(self.free.memory),
        };
        dominant(missing, self.room)
    }

    /// What is left after one task more.
    fn left(&self, job: &Waiting) -> u128 {
        let free = Amount {
            cpu: self.free.cpu.saturating_sub(job.need.cpu),
            memory: self.free.memory.saturating_sub(job.need.memory),
        };
        part(free.cpu, self.room.cpu) + part(free.memory, self.room.memory)
    }

    fn take(&mut self, job: &Waiting) -> Vec<u32> {
        self.free.cpu -= job.need.cpu;
        self.free.memory -= job.need.memory;
        if let Some(available) = &mut self.available_memory {
            *available -= job.need.memory;
        }
        self.starting += 1;
        let free = (0..self.cores).rev().filter(|core| !self.pinned.contains(core));
        let mut cores: Vec<u32> = free.take(job.cores as usize).collect();
        cores.sort_unstable();
        self.pinned.extend(&cores);
        cores
    }
}

struct State<'a> {
    workers: Vec<Worker>,
    /// By node, the job it is kept for.
    kept: BTreeMap<NodeId, &'a JobId>,
    used: BTreeMap<i64, Amount>,
    whole: Amount,
    given: Vec<Given>,
}

impl<'a> State<'a> {
    /// The worker that takes one task of the job now.
    fn best(&self, job: &Waiting) -> Option<usize> {
        let takes = |w: &Worker| w.starting < STARTS && self.kept.get(&w.node).is_none_or(|kept| **kept == job.job) && w.fits(job);
        let suitable = self.workers.iter().enumerate().filter(|(_, w)| takes(w));
        suitable
            .min_by(|(_, a), (_, b)| {
                let key = |w: &Worker| (w.starting, w.left(job));
                key(a).cmp(&key(b)).then_with(|| a.node.cmp(&b.node))
            })
            .map(|(i, _)| i)
    }

    fn give(&mut self, job: &'a Waiting, worker: usize) {
        let worker = &mut self.workers[worker];
        let cores = worker.take(job);
        self.kept.retain(|_, kept| **kept != job.job);
        self.used.entry(job.priority).or_default().add(job.need);
        self.given.push(Given {
            job: job.job.clone(),
            node: worker.node.clone(),
            cores,
        });
    }

    /// Keeps the node for the job that will have room for it first.
    fn reserve(&mut self, job: &'a Waiting) {
        let open = |w: &&Worker| !self.kept.contains_key(&w.node) && w.could_fit(job);
        let first = self.workers.iter().filter(open).min_by(|a, b| {
            let key = |w: &Worker| w.short(job);
            key(a).cmp(&key(b)).then_with(|| a.node.cmp(&b.node))
        });
        if let Some(worker) = first {
            self.kept.insert(worker.node.clone(), &job.job);
        }
    }

    /// The priority whose turn it is.
    fn next(&self, classes: &BTreeMap<i64, Vec<(&'a Waiting, u32)>>) -> Option<i64> {
        let share = |priority: i64| dominant(self.used.get(&priority).copied().unwrap_or_default(), self.whole);
        let open = classes.iter().filter(|(_, jobs)| !jobs.is_empty()).map(|(p, _)| *p);
        open.min_by(|a, b| {
            let (one, other) = (share(*a) * weight(*b), share(*b) * weight(*a));
            one.cmp(&other).then_with(|| b.cmp(a))
        })
    }
}

/// One look at a cluster: `used` is what running tasks hold, by priority.
pub fn pass(workers: Vec<Worker>, waiting: &[Waiting], used: BTreeMap<i64, Amount>) -> Pass {
    let mut whole = Amount::default();
    for worker in &workers {
        whole.add(worker.room);
    }
    let mut state = State {
        workers,
        kept: BTreeMap::new(),
        used,
        whole,
        given: Vec::new(),
    };
    let mut ordered: Vec<&Waiting> = waiting.iter().filter(|w| w.tasks > 0).collect();
    ordered.sort_by_key(|w| w.order);
    // What was reserved stays so for as long as the job can't go elsewhere.
    for job in &ordered {
        let Some(node) = &job.reserved else { continue };
        let elsewhere = state.workers.iter().any(|w| w.node != *node && w.starting < STARTS && w.fits(job));
        let good = state.workers.iter().any(|w| w.node == *node && w.could_fit(job));
        if good && !elsewhere && !state.kept.contains_key(node) {
            state.kept.insert(node.clone(), &job.job);
        }
    }
    let mut classes: BTreeMap<i64, Vec<(&Waiting, u32)>> = BTreeMap::new();
    for job in &ordered {
        let mut tasks = job.tasks;
        // Its node has room now: it has waited for long enough.
        if state.kept.values().any(|kept| **kept == job.job)
            && let Some(worker) = state.best(job)
        {
            state.give(job, worker);
            tasks -= 1;
        }
        if tasks > 0 {
            classes.entry(job.priority).or_default().push((job, tasks));
        }
    }
    while let Some(priority) = state.next(&classes) {
        let Some(jobs) = classes.get_mut(&priority) else { break };
        let Some((job, tasks)) = jobs.first_mut() else { break };
        let job: &Waiting = job;
        match state.best(job) {
            Some(worker) => {
                state.give(job, worker);
                *tasks -= 1;
                if *tasks == 0 {
                    jobs.remove(0);
                }
            }
            None => {
                let full = !state.workers.iter().any(|w| w.fits(job));
                let kept = state.kept.values().any(|kept| **kept == job.job);
                if full && !kept && job.waited >= RESERVE_AFTER {
                    state.reserve(job);
                }
                jobs.remove(0);
            }
        }
    }
    Pass {
        given: state.given,
        reserved: state.kept.into_iter().map(|(node, job)| (job.clone(), node)).collect(),
    }
}
