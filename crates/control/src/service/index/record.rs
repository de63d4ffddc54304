//! One container as it is kept in memory: what is wanted of it, what was seen of it, and what it looks like in the API.

use nm_types::container::{
    ContainerSpec, ContainerStatus, ContainerView, ForeignSpec, Limits, MountView, ObservedContainer, PortMapping, Resources, RestartPolicy,
};
use nm_types::stats::Usage;
use nm_types::text::{MASK, holds_secret, looks_secret};
use nm_types::units::{CpuLimit, MemoryLimit};
use nm_types::{ContainerId, NodeId, OperationId, Timestamp};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Where a container's row is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "phase")]
pub enum Phase {
    /// Being made by this operation; it is not on its node yet, or not known to be.
    Creating { operation: OperationId },
    /// On its node.
    Ready,
    /// On its node, and being made on `to` by this operation. It is `to`'s once it is there.
    Moving { operation: OperationId, to: NodeId },
    /// Being removed; done again until it is gone.
    Removing { force: bool, volumes: bool },
    /// Others made it; it goes when it is gone from Docker.
    Foreign,
}

/// A container's spec column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wanted {
    /// Without its environment, which is sealed apart. Absent on containers that others made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<Box<ContainerSpec>>,
    /// Whether it was last asked to run.
    pub running: bool,
}

/// A container's status column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    pub phase: Phase,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<ObservedContainer>,
    /// Docker no longer has it, though nobody asked us to remove it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub missing: bool,
    /// What keeps it from being where it should, as a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// While it moves: what the node it moves to has said of it last.
    #[serde(skip)]
    pub arriving: Option<Box<ObservedContainer>>,
}

impl State {
    pub fn new(phase: Phase) -> Self {
        Self {
            phase,
            observed: None,
            missing: false,
            note: None,
            arriving: None,
        }
    }

    /// Takes up what a command's answer says, and tells whether that is news. Where the watch was faster and has seen what came
    /// after, that stays; an answer has no word on how others made a container.
    pub fn answered(&mut self, answer: ObservedContainer) -> bool {
        let latest = match &self.observed {
            Some(watched) if watched.is_later_than(&answer) => return false,
            Some(watched) => ObservedContainer {
                foreign: answer.foreign.or_else(|| watched.foreign.clone()),
                ..answer
            },
            None => answer,
        };
        let news = self.observed.as_ref() != Some(&latest);
        self.observed = Some(latest);
        news
    }
}

/// One container, whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub id: ContainerId,
    pub node: NodeId,
    pub created: Timestamp,
    /// With its environment in the clear.
    pub wanted: Wanted,
    pub state: State,
    pub generation: i64,
    pub revision: i64,
}

impl Record {
    pub fn managed(&self) -> bool {
        self.wanted.spec.is_some()
    }
    /// As it is called now: somebody may have renamed it in Docker.
    pub fn name(&self) -> &str {
        match (&self.wanted.spec, &self.state.observed) {
            (Some(_), Some(observed)) if self.state.phase == Phase::Ready && !self.state.missing => &observed.name,
            (Some(spec), _) => spec.name.as_str(),
            (None, Some(observed)) => &observed.name,
            (None, None) => "",
        }
    }
    pub fn status(&self) -> ContainerStatus {
        match &self.state.observed {
            None => ContainerStatus::Created,
            Some(_) if self.state.missing => ContainerStatus::Exited,
            Some(o) => o.status,
        }
    }
    /// One of ours, on its node, that was last asked to run.
    pub fn meant_to_run(&self) -> bool {
        self.managed() && self.wanted.running && self.state.phase == Phase::Ready
    }
    /// Docker's own word on the limits of one of ours, where there is one: `docker update` changes them without the spec.
    fn in_docker(&self) -> Option<&Limits> {
        let observed = self.state.observed.as_ref().filter(|_| self.managed() && !self.state.missing);
        observed.and_then(|o| o.limits.as_ref())
    }
    pub fn foreign(&self) -> Option<&ForeignSpec> {
        self.state.observed.as_ref().and_then(|o| o.foreign.as_ref())
    }
    /// Cores, as they are now.
    pub fn cpu_limit(&self) -> Option<f64> {
        match (self.in_docker(), &self.wanted.spec) {
            (Some(limits), _) => limits.cpu,
            (None, Some(spec)) => spec.cpu_limit.map(CpuLimit::cores),
            (None, None) => self.foreign().and_then(|f| f.cpu_limit),
        }
    }
    /// As it is now, and in the user's words where Docker has what they asked for.
    pub fn memory_limit(&self) -> Option<Cow<'_, MemoryLimit>> {
        let asked = self.wanted.spec.as_ref().and_then(|s| s.memory_limit.as_ref());
        match (self.in_docker(), &self.wanted.spec) {
            (Some(Limits { memory, .. }), _) if *memory != asked.map(MemoryLimit::bytes) => {
                memory.map(MemoryLimit::from_bytes).map(Cow::Owned)
            }
            (_, Some(_)) => asked.map(Cow::Borrowed),
            (_, None) => {
                let theirs = MemoryLimit::parse(self.foreign()?.memory_limit.as_deref()?);
                theirs.ok().map(Cow::Owned)
            }
        }
    }
    /// As it is now.
    pub fn restart(&self) -> RestartPolicy {
        match (self.in_docker(), &self.wanted.spec) {
            (Some(limits), _) => limits.restart,
            (None, Some(spec)) => spec.restart,
            (None, None) => self.foreign().map(|f| f.restart).unwrap_or_default(),
        }
    }
    /// Whether it runs, or would run if its node did: what Docker starts again by itself counts, too.
    pub fn should_run(&self) -> bool {
        match self.status() {
            ContainerStatus::Running | ContainerStatus::Paused => true,
            // One that was just made is seen as such for a moment before it is seen to run.
            ContainerStatus::Created => self.wanted.running,
            ContainerStatus::Stopped => false,
            ContainerStatus::Exited => {
                let failed = self.state.observed.as_ref().is_some_and(|o| o.exit_code != Some(0));
                let again = match self.restart() {
                    RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
                    RestartPolicy::OnFailure => failed,
                    RestartPolicy::No => false,
                };
                self.wanted.running && !self.state.missing && again
            }
        }
    }
    /// Whether it takes up something else of nodes than it did.
    pub(super) fn takes_otherwise(&self, before: &Self) -> bool {
        self.node != before.node
            || self.generation != before.generation
            || self.state.phase != before.state.phase
            || self.state.missing != before.state.missing
            || self.status() != before.status()
    }
    pub fn docker_id(&self) -> Option<&str> {
        self.state.observed.as_ref().map(|o| o.docker_id.as_str())
    }

    fn message(&self) -> Option<String> {
        if self.state.missing {
            return Some("it was removed from Docker outside NeuralMesh: start makes it anew, remove forgets it".into());
        }
        match &self.state.phase {
            Phase::Creating { .. } => Some("it is being made".into()),
            Phase::Removing { .. } => Some("it is being removed".into()),
            Phase::Moving { to, .. } => Some(format!("it is being moved to node {to}")),
            Phase::Ready | Phase::Foreign => self
                .state
                .note
                .clone()
                .or_else(|| self.state.observed.as_ref().and_then(|o| o.message.clone())),
        }
    }

    /// As the API shows it. `clear` shows the values of variables that look secret.
    pub fn view(&self, usage: Usage, reachable: bool, clear: bool) -> ContainerView {
        let observed = self.state.observed.as_ref();
        let foreign = self.foreign();
        let spec = self.wanted.spec.as_ref();
        let running = matches!(self.status(), ContainerStatus::Running | ContainerStatus::Paused);
        let environment = match (spec, foreign) {
            (Some(s), _) => s
                .environment
                .0
                .iter()
                .map(|(k, v)| (k.as_str().to_owned(), v.as_str().to_owned()))
                .collect(),
            (None, Some(f)) => f.environment.to_map(),
            (None, None) => BTreeMap::new(),
        };
        let cover = |(k, v): (String, String)| {
            let covered = !clear && (looks_secret(&k) || holds_secret(&v));
            if covered { (k, MASK.to_owned()) } else { (k, v) }
        };
        ContainerView {
            id: self.id.clone(),
            name: self.name().to_owned(),
            image: spec
                .map(|s| s.image.to_string())
                .or_else(|| observed.map(|o| o.image.clone()))
                .unwrap_or_default(),
            status: self.status(),
            node_id: self.node.clone(),
            ports: self.ports(),
            resources: Resources {
                cpu_limit: self.cpu_limit(),
                // What others gave their containers is shown as Docker has it, also where our rules allow no such limit.
                memory_limit: match (spec, foreign) {
                    (None, Some(f)) => f.memory_limit.clone(),
                    _ => self.memory_limit().map(|m| m.to_string()),
                },
                cpu_usage: if running { usage.cpu } else { 0.0 },
                memory_usage: if running { usage.memory } else { 0.0 },
            },
            volumes: match (spec, foreign) {
                (Some(s), _) => s
                    .volumes
                    .iter()
                    .map(|v| MountView {
                        container: v.container.to_string(),
                        host: v.host.as_ref().map(ToString::to_string).unwrap_or_default(),
                        mode: v.mode,
                    })
                    .collect(),
                (None, Some(f)) => f.volumes.clone(),
                (None, None) => Vec::new(),
            },
            environment: environment.into_iter().map(cover).collect(),
            labels: match (spec, foreign) {
                (Some(s), _) => s
                    .labels
                    .0
                    .iter()
                    .map(|(k, v)| (k.as_str().to_owned(), v.as_str().to_owned()))
                    .collect(),
                (None, Some(f)) => f.labels.to_map(),
                (None, None) => BTreeMap::new(),
            },
            restart: self.restart(),
            networks: observed.map(|o| o.networks.clone()).unwrap_or_default(),
            constraints: spec.map(|s| s.constraints.clone()).unwrap_or_default(),
            spread: spec.and_then(|s| s.spread.clone()),
            on_node_lost: spec.map(|s| s.on_node_lost),
            created: self.created,
            managed: self.managed(),
            reachable,
            docker_id: self.docker_id().filter(|_| !self.state.missing).map(str::to_owned),
            started: observed.and_then(|o| o.started),
            finished: observed.and_then(|o| o.finished),
            exit_code: observed.and_then(|o| o.exit_code),
            health: observed.and_then(|o| o.health),
            restarts: observed.map(|o| o.restarts).unwrap_or_default(),
            message: self.message(),
        }
    }

    /// What was asked for, with the real host port where one was left to the node.
    fn ports(&self) -> Vec<PortMapping> {
        let seen: &[PortMapping] = self
            .state
            .observed
            .as_ref()
            .filter(|_| !self.state.missing)
            .map(|o| o.ports.as_slice())
            .unwrap_or_default();
        let Some(spec) = &self.wanted.spec else { return seen.to_vec() };
        spec.ports
            .iter()
            .map(|p| {
                let mut p = p.clone();
                if p.host == 0
                    && let Some(bound) = seen
                        .iter()
                        .find(|s| s.container == p.container && s.protocol == p.protocol && s.host != 0)
                {
                    p.host = bound.host;
                }
                p
            })
            .collect()
    }

    /// What is kept of it in the store's status column: the environment of others' containers is not ours to keep.
    pub fn stored_state(&self) -> State {
        let mut state = self.state.clone();
        if let Some(foreign) = state.observed.as_mut().and_then(|o| o.foreign.as_mut()) {
            foreign.environment.clear();
        }
        state
    }
}

/// Which containers a list wants.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub node: Option<NodeId>,
    pub status: Option<ContainerStatus>,
    /// Part of the name.
    pub name: Option<String>,
    /// Key, and value where one is asked for.
    pub label: Option<(String, Option<String>)>,
    pub managed: Option<bool>,
}

impl Filter {
    pub(super) fn is_empty(&self) -> bool {
        self.node.is_none() && self.status.is_none() && self.name.is_none() && self.label.is_none() && self.managed.is_none()
    }
    pub(super) fn takes(&self, record: &Record) -> bool {
        let label = |(key, value): &(String, Option<String>)| {
            let found = match (&record.wanted.spec, record.foreign()) {
                (Some(s), _) => s.labels.0.iter().find(|(k, _)| k.as_str() == key).map(|(_, v)| v.as_str()),
                (None, Some(f)) => f.labels.get(key).map(String::as_str),
                (None, None) => None,
            };
            found.is_some_and(|f| value.as_ref().is_none_or(|v| v == f))
        };
        self.node.as_ref().is_none_or(|n| *n == record.node)
            && self.status.is_none_or(|s| s == record.status())
            && self.name.as_ref().is_none_or(|n| record.name().contains(n.as_str()))
            && self.managed.is_none_or(|m| m == record.managed())
            && self.label.as_ref().is_none_or(label)
    }
}

/// What the containers of one node come to.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Share {
    pub containers: u64,
    /// Their limits added up: cores, and bytes.
    pub cpu: f64,
    pub memory: u64,
}

impl Share {
    pub(super) fn add(&mut self, record: &Record) {
        self.containers += 1;
        self.cpu += record.cpu_limit().unwrap_or(0.0);
        self.memory = self.memory.saturating_add(record.memory_limit().map_or(0, |m| m.bytes()));
    }
}
