//! Choosing a container's node: what is known of the fleet, brought into the form that [`nm_plan::place`] decides on.

use crate::api::error::{ApiError, ApiResult};
use crate::service::containers::Containers;
use crate::service::index::{Phase, Record};
use nm_plan::place::{self, Amount, Candidate, HostPort, NoPlace, Placement, Request};
use nm_types::container::{ContainerSpec, ContainerStatus};
use nm_types::envelope::FieldProblem;
use nm_types::{ContainerId, NodeId};
use std::collections::{BTreeMap, HashMap};

/// The most nodes a refusal names one by one in its details.
const DETAILS: usize = 100;

/// The code of the refusal.
pub(super) const NO_PLACE: &str = "no_place";

/// What else is to be minded when a node is chosen for a container that is there already.
#[derive(Debug, Default)]
pub(super) struct Moving {
    pub id: Option<ContainerId>,
    /// Nodes that are out of question, and why.
    pub barred: BTreeMap<NodeId, String>,
    /// The processor it has run on.
    pub arch: Option<String>,
}

/// 409 with each node's reason.
pub(super) fn no_place(no: &NoPlace) -> ApiError {
    let details = no.reasons.iter().take(DETAILS).map(|reason| FieldProblem {
        field: "nodeId".into(),
        message: reason.to_string(),
    });
    ApiError {
        details: details.collect(),
        ..ApiError::conflict(NO_PLACE, format!("no node can take it: {no}"))
    }
}

impl Containers {
    /// The node for a new container: the one that is named, the only one there is, or the best of several, with the lines that say
    /// why it was chosen. Hold [`Nodes::placing`](crate::service::nodes::Nodes::placing) until the container's record is there.
    pub(super) fn where_to(&self, spec: &ContainerSpec, named: Option<&str>) -> ApiResult<(NodeId, Vec<String>)> {
        if named.is_none() && self.nodes.len() > 1 {
            let placement = self.choose(spec, Moving::default()).map_err(|no| no_place(&no))?;
            let lines = placement.lines();
            return Ok((placement.node, lines));
        }
        // Somebody chose already: what is promised there is theirs to weigh, and the node itself refuses a port that is taken.
        let (node, _) = self.nodes.agent(named, true)?;
        let is_it = |c: &Candidate| c.node == node;
        let request = Request::of(spec);
        if let Some(candidate) = self.nodes.candidates().into_iter().find(is_it) {
            let unmet = place::unmet(&request, &candidate);
            if let Some(first) = unmet.first() {
                let message = format!("node {} {first}", candidate.name);
                return Err(ApiError::conflict(NO_PLACE, message).field("constraints"));
            }
        }
        let comes = |r: &Record| matches!(&r.state.phase, Phase::Moving { to, .. } if *to == node);
        if let Some(coming) = self.index.named(spec.name.as_str()).into_iter().find(|r| comes(r)) {
            let message = format!("container {} is being moved to node {node} and has that name", coming.id);
            return Err(ApiError::conflict("name_taken", message).field("name"));
        }
        Ok((node, Vec::new()))
    }

    /// Every node, with what containers are promised of it.
    pub(super) fn rooms(&self) -> Vec<Candidate> {
        let mut candidates = self.nodes.candidates();
        let places: HashMap<NodeId, usize> = candidates.iter().enumerate().map(|(i, c)| (c.node.clone(), i)).collect();
        let nothing = Request::default();
        self.index.each(|record| {
            let next = match &record.state.phase {
                Phase::Moving { to, .. } => Some(to),
                Phase::Creating { .. } | Phase::Ready | Phase::Removing { .. } | Phase::Foreign => None,
            };
            for node in std::iter::once(&record.node).chain(next) {
                if let Some(candidate) = places.get(node).and_then(|i| candidates.get_mut(*i)) {
                    count(candidate, record, &nothing, "");
                }
            }
        });
        candidates
    }

    /// The best node for a container as things are now.
    pub(super) fn choose(&self, spec: &ContainerSpec, moving: Moving) -> Result<Placement, NoPlace> {
        let request = Request {
            arch: moving.arch,
            ..Request::of(spec)
        };
        let mut candidates = self.nodes.candidates();
        let places: HashMap<NodeId, usize> = candidates.iter().enumerate().map(|(i, c)| (c.node.clone(), i)).collect();
        let docker_name = spec.name.docker_name();
        self.index.each(|record| {
            if moving.id.as_ref() == Some(&record.id) {
                return;
            }
            let next = match &record.state.phase {
                Phase::Moving { to, .. } => Some(to),
                Phase::Creating { .. } | Phase::Ready | Phase::Removing { .. } | Phase::Foreign => None,
            };
            // One that moves counts where it is and where it will be.
            for node in std::iter::once(&record.node).chain(next) {
                if let Some(candidate) = places.get(node).and_then(|i| candidates.get_mut(*i)) {
                    count(candidate, record, &request, &docker_name);
                }
            }
        });
        for candidate in &mut candidates {
            candidate.promised.add(self.nodes.held_by_tasks(&candidate.node));
            candidate.barred = moving.barred.get(&candidate.node).cloned();
            if let Some(id) = &moving.id
                && self.nodes.leftovers().has(&candidate.node, id)
            {
                candidate.barred = Some("has an older copy of it that is still to be removed".into());
            }
        }
        place::place(&request, &candidates)
    }
}

/// Adds one container to what is known of a node it is on, or will be.
fn count(candidate: &mut Candidate, record: &Record, request: &Request, docker_name: &str) {
    let observed = record.state.observed.as_ref();
    let (amount, kin) = match (&record.wanted.spec, observed.and_then(|o| o.foreign.as_ref())) {
        (Some(spec), _) => (Some(Amount::of(spec)), Some(spec.kin())),
        // What others made counts while it runs: nobody asked us for it.
        (None, foreign) => {
            let runs = matches!(record.status(), ContainerStatus::Running | ContainerStatus::Paused);
            let memory = foreign
                .and_then(|f| f.memory_limit.as_ref())
                .and_then(|m| nm_types::units::MemoryLimit::parse(m).ok())
                .map(|m| m.bytes());
            (runs.then(|| Amount::of_limits(foreign.and_then(|f| f.cpu_limit), memory)), None)
        }
    };
    if let Some(amount) = amount {
        candidate.promised.add(amount);
    }
    if kin.is_some_and(|kin| kin == request.kin) {
        candidate.kin += 1;
    }
    candidate.name_taken |= record.name() == request.name || observed.is_some_and(|o| !record.state.missing && o.name == docker_name);
    if request.ports.is_empty() {
        return;
    }
    let wanted = record.wanted.spec.as_ref().map(|s| s.ports.as_slice()).unwrap_or_default();
    let bound = observed
        .filter(|_| !record.state.missing)
        .map(|o| o.ports.as_slice())
        .unwrap_or_default();
    let matters = |port: &HostPort| request.ports.iter().any(|p| p.number == port.number);
    for port in HostPort::named(wanted).chain(HostPort::named(bound)).filter(matters) {
        candidate.ports.push((port, record.name().to_owned()));
    }
}
