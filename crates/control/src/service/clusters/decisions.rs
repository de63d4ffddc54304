//! What scaling last decided, for those who ask why. It is kept in memory only: after a restart it is decided anew within seconds.

use super::{ClusterRow, Clusters};
use nm_plan::scale::{Action, Decision, Figure, Policy, Proposal};
use nm_types::cluster::{ClusterScalingAction, ClusterScalingFigure, ClusterScalingFigureKind, ClusterScalingView, ClusterType};
use nm_types::{ClusterId, Timestamp};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

#[derive(Debug, Clone, Default)]
pub struct Decisions(Arc<Mutex<BTreeMap<ClusterId, ClusterScalingView>>>);

impl Decisions {
    fn table(&self) -> MutexGuard<'_, BTreeMap<ClusterId, ClusterScalingView>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
    pub(super) fn note(&self, id: &ClusterId, at: Timestamp, decision: &Decision) {
        let (action, reason) = in_words(decision);
        let told = ClusterScalingView {
            at,
            current: decision.current,
            wanted: decision.wanted,
            action,
            reason,
            figures: decision.proposals.iter().map(figure).collect(),
            add_after: None,
            remove_after: None,
        };
        self.table().insert(id.clone(), told);
    }
    pub(super) fn put(&self, id: &ClusterId, view: ClusterScalingView) {
        self.table().insert(id.clone(), view);
    }
    pub(super) fn forget(&self, id: &ClusterId) {
        self.table().remove(id);
    }
}

impl Clusters {
    /// How many nodes of a compute cluster are in use, as the queue has it.
    pub fn note_in_use(&self, id: &ClusterId, view: ClusterScalingView) {
        self.decisions.put(id, view);
    }

    /// The last decision, with the times before which nothing can be done.
    pub(super) fn last_decision(&self, row: &ClusterRow) -> Option<ClusterScalingView> {
        let policy = row.stored.spec.auto_scaling.as_ref().filter(|s| s.enabled).map(Policy::of)?;
        let told = self.decisions.table().get(&row.id).cloned()?;
        if row.stored.spec.kind == ClusterType::Compute {
            return Some(told);
        }
        let (now, memory) = (self.now(), &row.state.scaling);
        let after = |since: Option<Timestamp>, cooldown: i64| since.map(|t| t.plus_millis(cooldown)).filter(|until| now < *until);
        Some(ClusterScalingView {
            add_after: after(memory.last_up, policy.up_cooldown),
            remove_after: after(memory.last_up.max(memory.last_down), policy.down_cooldown),
            ..told
        })
    }
}

fn in_words(decision: &Decision) -> (ClusterScalingAction, String) {
    match &decision.action {
        Action::Nothing if decision.proposals.iter().all(|p| p.servers.is_none()) => {
            (ClusterScalingAction::Stay, "no figure has come in yet".into())
        }
        Action::Nothing => (ClusterScalingAction::Stay, "as many servers as the load asks for are there".into()),
        Action::Hold(held) => (ClusterScalingAction::Hold, held.reason()),
        Action::Out { to } => (ClusterScalingAction::Out, format!("from {} servers to {to}", decision.current)),
        Action::In { to } => (
            ClusterScalingAction::In,
            format!("from {} servers to {to}, the newest first", decision.current),
        ),
    }
}

fn figure(proposal: &Proposal) -> ClusterScalingFigure {
    ClusterScalingFigure {
        figure: match proposal.figure {
            Figure::Cpu => ClusterScalingFigureKind::Cpu,
            Figure::Memory => ClusterScalingFigureKind::Memory,
            Figure::RequestsPerSecond => ClusterScalingFigureKind::RequestsPerSecond,
        },
        target: proposal.target,
        value: proposal.value,
        servers: proposal.servers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nm_plan::scale::{Load, Memory, Seen, decide};

    #[test]
    fn a_decision_says_its_numbers_and_why() {
        let scaling = serde_json::from_value(serde_json::json!({ "maxServers": 2, "targetCpuPercent": 50 })).unwrap();
        let policy = Policy::of(&scaling);
        let load = Load {
            up: true,
            cpu: Some(90.0),
            memory: None,
        };
        let seen = |servers| Seen {
            servers,
            requests_per_second: None,
            removable: 0,
        };
        let decisions = Decisions::default();
        let id = ClusterId::fresh(1);
        let told = |servers| {
            let decision = decide(Timestamp(7), &policy, &seen(servers), &Memory::default());
            decisions.note(&id, Timestamp(7), &decision);
            decisions.table().get(&id).cloned().unwrap()
        };
        let out = told(vec![load]);
        assert_eq!(
            (out.at, out.current, out.wanted, out.action),
            (Timestamp(7), 1, 2, ClusterScalingAction::Out)
        );
        assert_eq!(out.reason, "from 1 servers to 2");
        let figure = out.figures[0];
        assert_eq!(
            (figure.figure, figure.target, figure.value, figure.servers),
            (ClusterScalingFigureKind::Cpu, 50.0, Some(90.0), Some(2))
        );
        let held = told(vec![load, load]);
        assert_eq!((held.action, held.wanted), (ClusterScalingAction::Hold, 4));
        assert!(held.reason.contains("maxServers"), "{}", held.reason);
        let silent = told(vec![Load { cpu: None, ..load }]);
        assert_eq!(
            (silent.action, silent.reason.as_str()),
            (ClusterScalingAction::Stay, "no figure has come in yet")
        );
        decisions.forget(&id);
        assert!(decisions.table().is_empty());
    }
}
