//! What is to be said of each node, as values and as sentences.

use super::{HostPort, Score};
use nm_types::NodeId;
use nm_types::container::Protocol;
use nm_types::text::Constraint;
use nm_types::units::MemoryLimit;
use std::fmt;

/// What keeps a node from taking a container. Each reads as the rest of a sentence that begins with the node's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    NotReady,
    Cordoned,
    Constraint {
        wanted: Constraint,
        /// What the node has under the constraint's key.
        found: Option<String>,
    },
    Processor {
        wanted: String,
        found: String,
    },
    /// Thousandths of a core.
    Cpu {
        need: u64,
        free: u64,
        of: u64,
    },
    /// Bytes.
    Memory {
        need: u64,
        free: u64,
        of: u64,
    },
    /// Its programs use so much that the bytes needed are not to be had, whatever is promised.
    MemoryInUse {
        need: u64,
    },
    Port {
        port: HostPort,
        holder: String,
    },
    Name(String),
    Barred(String),
}

fn cores(thousandths: u64) -> f64 {
    thousandths as f64 / 1000.0
}

/// As Docker writes it; what is free is seldom round, and shown in whole MiB then.
fn bytes(n: u64) -> String {
    match n {
        0 => "0m".to_owned(),
        n if n < 1 << 20 => format!("{}k", n >> 10),
        n => MemoryLimit::from_bytes(n >> 20 << 20).to_string(),
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotReady => f.write_str("is not ready"),
            Self::Cordoned => f.write_str("is cordoned"),
            Self::Constraint { wanted, found: None } => write!(f, "has no `{}`, and `{wanted}` is asked for", wanted.key()),
            Self::Constraint {
                wanted,
                found: Some(found),
            } => {
                write!(f, "has `{}={found}`, and `{wanted}` is asked for", wanted.key())
            }
            Self::Processor { wanted, found } => write!(f, "has a processor of kind {found}, and the container is for {wanted}"),
            Self::Cpu { need, free, of } => write!(
                f,
                "has {} of {} CPUs not promised yet, and {} are asked for",
                cores(*free),
                cores(*of),
                cores(*need)
            ),
            Self::Memory { need, free, of } => {
                write!(
                    f,
                    "has {} of {} memory not promised yet, and {} is asked for",
                    bytes(*free),
                    bytes(*of),
                    bytes(*need)
                )
            }
            Self::MemoryInUse { need } => write!(f, "has less than {} memory that its programs do not use", bytes(*need)),
            Self::Port { port, holder } => {
                let protocol = match port.protocol {
                    Protocol::Tcp => "tcp",
                    Protocol::Udp => "udp",
                };
                write!(f, "has port {}/{protocol} taken by `{holder}`", port.number)
            }
            Self::Name(name) => write!(f, "has a container called `{name}` already"),
            Self::Barred(why) => f.write_str(why),
        }
    }
}

/// What came of looking at one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Fits(Score),
    Refused(Vec<Refusal>),
}

/// A node, and what is to be said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    pub node: NodeId,
    pub name: String,
    pub verdict: Verdict,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.name)?;
        match &self.verdict {
            Verdict::Fits(_) => f.write_str("would do as well"),
            Verdict::Refused(refusals) => {
                for (i, refusal) in refusals.iter().enumerate() {
                    write!(f, "{}{refusal}", if i == 0 { "" } else { "; " })?;
                }
                Ok(())
            }
        }
    }
}

/// The chosen node, and what is to be said of all: of the chosen one first, then of those that would do, the better first, then of
/// those that would not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    pub node: NodeId,
    pub kin: String,
    pub spread: Option<String>,
    pub reasons: Vec<Reason>,
}

/// How many nodes are told of one by one.
const TOLD: usize = 20;

fn some_of<'a>(reasons: impl ExactSizeIterator<Item = &'a Reason>, tell: impl Fn(&Reason) -> String) -> Vec<String> {
    let more = reasons.len().saturating_sub(TOLD);
    let mut out: Vec<String> = reasons.take(TOLD).map(tell).collect();
    if more > 0 {
        out.push(format!("{more} more nodes are left out here"));
    }
    out
}

impl Placement {
    /// Why this node and why not the others, a line each.
    pub fn lines(&self) -> Vec<String> {
        let mut out = Vec::new();
        if let Some(Reason {
            name,
            verdict: Verdict::Fits(score),
            ..
        }) = self.reasons.first()
        {
            let mut line = format!("{name} was chosen: {} of `{}` there", score.kin, self.kin);
            match &self.spread {
                Some(key) if score.apart => line.push_str(&format!(", no node that fits has the label {key}")),
                Some(key) => line.push_str(&format!(", {} with the same {key}", score.kin_in_domain)),
                None => {}
            }
            line.push_str(&format!(", {} % of CPU and memory promised with it", score.load / 20));
            out.push(line);
        }
        out.extend(some_of(self.reasons.iter().skip(1), |r| match &r.verdict {
            Verdict::Fits(score) => format!(
                "{} would have done: {} of `{}` there, {} % promised with it",
                r.name,
                score.kin,
                self.kin,
                score.load / 20
            ),
            Verdict::Refused(_) => format!("not {r}"),
        }));
        out
    }
}

/// No node can take it, and why each can't.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoPlace {
    pub reasons: Vec<Reason>,
}

impl NoPlace {
    /// Why not, a line for each node.
    pub fn lines(&self) -> Vec<String> {
        some_of(self.reasons.iter(), ToString::to_string)
    }
}

impl fmt::Display for NoPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reasons.as_slice() {
            [] => f.write_str("there is no node"),
            _ => f.write_str(&self.lines().join(". ")),
        }
    }
}
