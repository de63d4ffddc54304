//! On which node a container is to run.
//!
//! First every node that can't take it falls out, each with all of its reasons. Of the rest the best is chosen: it keeps the
//! container's kin spread evenly over the values of a label where that is asked for, then evenly over the nodes, then it is the
//! node with the smallest part of it promised. A tie goes to the lowest id, so that the same question has the same answer.
//!
//! What is promised is the sum of the limits of the containers that are wanted on a node. A container without a limit counts
//! [`UNLIMITED`].

mod verdict;

#[cfg(test)]
mod tests;

pub use verdict::{NoPlace, Placement, Reason, Refusal, Verdict};

use nm_types::NodeId;
use nm_types::container::{ContainerSpec, PortMapping, Protocol};
use nm_types::placement::Condition;
use nm_types::text::{Constraint, Labels};
use std::collections::HashMap;
use std::net::Ipv4Addr;

/// CPU and memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// Thousandths of a core.
    pub cpu: u64,
    /// Bytes.
    pub memory: u64,
}

/// What a container counts for that has no limit: a tenth of a core, 128 MiB.
pub const UNLIMITED: Amount = Amount {
    cpu: 100,
    memory: 128 << 20,
};

impl Amount {
    /// What a container with these limits counts for; cores and bytes.
    pub fn of_limits(cores: Option<f64>, memory: Option<u64>) -> Self {
        Self {
            // Limits are at most 64 cores; what others gave their containers is cut off where it makes no sense.
            cpu: cores.map_or(UNLIMITED.cpu, |c| (c * 1000.0).round().clamp(0.0, 1e9) as u64),
            memory: memory.unwrap_or(UNLIMITED.memory),
        }
    }
    pub fn of(spec: &ContainerSpec) -> Self {
        Self::of_limits(spec.cpu_limit.map(|c| c.cores()), spec.memory_limit.as_ref().map(|m| m.bytes()))
    }
    pub fn add(&mut self, other: Self) {
        self.cpu = self.cpu.saturating_add(other.cpu);
        self.memory = self.memory.saturating_add(other.memory);
    }
    fn minus(self, other: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(other.cpu),
            memory: self.memory.saturating_sub(other.memory),
        }
    }
}

/// A port of a node that something listens on, or is to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostPort {
    pub number: u16,
    pub protocol: Protocol,
    /// All addresses of the node where absent.
    pub ip: Option<Ipv4Addr>,
}

impl HostPort {
    /// Those of a spec that are named; the rest the node chooses itself.
    pub fn named(ports: &[PortMapping]) -> impl Iterator<Item = Self> + '_ {
        ports.iter().filter(|p| p.host != 0).map(|p| Self {
            number: p.host,
            protocol: p.protocol,
            ip: p.host_ip.filter(|ip| !ip.is_unspecified()),
        })
    }
    /// Whether both can't be listened on.
    pub fn clashes(&self, other: &Self) -> bool {
        self.number == other.number && self.protocol == other.protocol && (self.ip == other.ip || self.ip.is_none() || other.ip.is_none())
    }
}

/// What a container asks of its node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Request {
    pub name: String,
    /// What it is one of; see [`ContainerSpec::kin`].
    pub kin: String,
    pub constraints: Vec<Constraint>,
    /// The label over whose values its kin are spread.
    pub spread: Option<String>,
    pub need: Amount,
    pub ports: Vec<HostPort>,
    /// The processor its image is known to be for; any where absent.
    pub arch: Option<String>,
}

impl Request {
    pub fn of(spec: &ContainerSpec) -> Self {
        Self {
            name: spec.name.to_string(),
            kin: spec.kin().to_owned(),
            constraints: spec.constraints.clone(),
            spread: spec.spread.as_ref().map(ToString::to_string),
            need: Amount::of(spec),
            ports: HostPort::named(&spec.ports).collect(),
            arch: None,
        }
    }
}

/// A node, as far as it matters to one request.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    pub node: NodeId,
    pub name: String,
    pub labels: Labels,
    pub ready: bool,
    pub cordoned: bool,
    pub arch: Option<String>,
    pub os: Option<String>,
    /// Absent until the node was first heard of.
    pub capacity: Option<Amount>,
    pub promised: Amount,
    /// Bytes that programs can still get, where the machine said so lately.
    pub available_memory: Option<u64>,
    /// Ports in use or promised, and the name of the container they belong to.
    pub ports: Vec<(HostPort, String)>,
    /// A container there has the request's name.
    pub name_taken: bool,
    /// How many of the request's kin are there.
    pub kin: u32,
    /// Why it is out of question, whatever else there is to say of it.
    pub barred: Option<String>,
}

impl Candidate {
    /// The value under a constraint's key.
    fn value(&self, key: &str) -> Option<&str> {
        match key {
            "node.id" => Some(self.node.as_str()),
            "node.name" => Some(&self.name),
            "node.arch" => self.arch.as_deref(),
            "node.os" => self.os.as_deref(),
            label => self.labels.0.iter().find(|(k, _)| k.as_str() == label).map(|(_, v)| v.as_str()),
        }
    }
}

/// Docker's and Go's names of processors, as the kernel's.
fn processor(name: &str) -> &str {
    match name {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        other => other,
    }
}

/// What of the request's constraints the node does not meet. For a node that somebody named, nothing else is asked.
pub fn unmet(request: &Request, candidate: &Candidate) -> Vec<Refusal> {
    let holds = |c: &Constraint| {
        let value = candidate.value(c.key());
        match (c.key(), c.condition(), value) {
            ("node.arch", Condition::Is(wanted), Some(found)) => processor(wanted) == processor(found),
            ("node.arch", Condition::IsNot(unwanted), Some(found)) => processor(unwanted) != processor(found),
            _ => c.holds(value),
        }
    };
    let refusal = |c: &Constraint| Refusal::Constraint {
        wanted: c.clone(),
        found: candidate.value(c.key()).map(str::to_owned),
    };
    request.constraints.iter().filter(|c| !holds(c)).map(refusal).collect()
}

/// Everything that keeps the node from taking it.
fn refusals(request: &Request, candidate: &Candidate) -> Vec<Refusal> {
    let mut out = Vec::new();
    out.extend(candidate.barred.clone().map(Refusal::Barred));
    if !candidate.ready {
        out.push(Refusal::NotReady);
    }
    if candidate.cordoned {
        out.push(Refusal::Cordoned);
    }
    out.extend(unmet(request, candidate));
    if let (Some(wanted), Some(found)) = (&request.arch, &candidate.arch)
        && processor(wanted) != processor(found)
    {
        out.push(Refusal::Processor {
            wanted: wanted.clone(),
            found: found.clone(),
        });
    }
    if let Some(of) = candidate.capacity {
        let free = of.minus(candidate.promised);
        if request.need.cpu > free.cpu {
            out.push(Refusal::Cpu {
                need: request.need.cpu,
                free: free.cpu,
                of: of.cpu,
            });
        }
        if request.need.memory > free.memory {
            out.push(Refusal::Memory {
                need: request.need.memory,
                free: free.memory,
                of: of.memory,
            });
        }
    }
    if candidate.available_memory.is_some_and(|available| request.need.memory > available) {
        out.push(Refusal::MemoryInUse { need: request.need.memory });
    }
    for wanted in &request.ports {
        if let Some((_, holder)) = candidate.ports.iter().find(|(taken, _)| taken.clashes(wanted)) {
            out.push(Refusal::Port {
                port: *wanted,
                holder: holder.clone(),
            });
        }
    }
    if candidate.name_taken {
        out.push(Refusal::Name(request.name.clone()));
    }
    out
}

/// How well a node suits; the least is the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Score {
    /// The node lacks the label that kin are spread over.
    pub apart: bool,
    /// The request's kin among the nodes with the same value of that label; 0 where none was asked for.
    pub kin_in_domain: u32,
    /// The request's kin on the node.
    pub kin: u32,
    /// How much of it will be promised: its parts of CPU and memory, in thousandths, added up.
    pub load: u64,
}

fn score(request: &Request, candidate: &Candidate, domains: &HashMap<&str, u32>) -> Score {
    let value = request.spread.as_deref().map(|key| candidate.value(key));
    let mut after = candidate.promised;
    after.add(request.need);
    let part = |of: u64, whole: u64| of.saturating_mul(1000).checked_div(whole).unwrap_or(0);
    Score {
        apart: matches!(value, Some(None)),
        kin_in_domain: value.flatten().and_then(|v| domains.get(v)).copied().unwrap_or(0),
        kin: candidate.kin,
        load: candidate
            .capacity
            .map_or(0, |of| part(after.cpu, of.cpu).saturating_add(part(after.memory, of.memory))),
    }
}

/// The node that a container is to run on, with what is to be said of every node; or why there is none.
pub fn place(request: &Request, candidates: &[Candidate]) -> Result<Placement, NoPlace> {
    // Kin on nodes that can't take it count as well: they are where they are.
    let mut domains: HashMap<&str, u32> = HashMap::new();
    if let Some(key) = &request.spread {
        for candidate in candidates {
            if let Some(value) = candidate.value(key) {
                *domains.entry(value).or_default() += candidate.kin;
            }
        }
    }
    let mut reasons: Vec<Reason> = candidates
        .iter()
        .map(|candidate| {
            let refusals = refusals(request, candidate);
            let verdict = match refusals.is_empty() {
                true => Verdict::Fits(score(request, candidate, &domains)),
                false => Verdict::Refused(refusals),
            };
            Reason {
                node: candidate.node.clone(),
                name: candidate.name.clone(),
                verdict,
            }
        })
        .collect();
    // What fits before what does not, the best first.
    reasons.sort_by(|a, b| {
        let rank = |r: &Reason| match &r.verdict {
            Verdict::Fits(score) => (false, Some(*score)),
            Verdict::Refused(_) => (true, None),
        };
        rank(a).cmp(&rank(b)).then_with(|| a.node.cmp(&b.node))
    });
    match reasons.first() {
        Some(Reason {
            node,
            verdict: Verdict::Fits(_),
            ..
        }) => Ok(Placement {
            node: node.clone(),
            kin: request.kin.clone(),
            spread: request.spread.clone(),
            reasons,
        }),
        Some(_) | None => Err(NoPlace { reasons }),
    }
}
