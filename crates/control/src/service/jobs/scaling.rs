//! How many of a cluster's nodes are in use, where the length of its queue says so.

use super::Jobs;
use super::table::Edit;
use crate::service::clusters::Compute;
use nm_plan::queue;
use nm_store::NewClusterEvent;
use nm_types::cluster::{ClusterEventKind, ClusterScalingAction, ClusterScalingFigure, ClusterScalingFigureKind, ClusterScalingView};
use std::sync::PoisonError;
use std::time::Duration;
use tokio::time::Instant;

impl Jobs {
    /// How many of the nodes that are ready, the first ones, take tasks.
    pub(super) fn in_use(&self, edit: &mut Edit<'_>, cluster: &Compute, ready: usize, queued: u64) -> usize {
        let mut table = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(policy) = &cluster.scaling else {
            table.remove(&cluster.id);
            return ready;
        };
        let before = table.get(&cluster.id).copied();
        let nodes = u32::try_from(ready).unwrap_or(u32::MAX);
        let decision = queue::in_use(policy, nodes, queued, before, edit.now);
        let (count, held) = (decision.now.count, before.map_or(decision.now.count, |b| b.count));
        table.insert(cluster.id.clone(), decision.now);
        drop(table);
        let (action, kind) = match count.cmp(&held) {
            std::cmp::Ordering::Greater => (ClusterScalingAction::Out, Some(ClusterEventKind::ScaledOut)),
            std::cmp::Ordering::Less => (ClusterScalingAction::In, Some(ClusterEventKind::ScaledIn)),
            std::cmp::Ordering::Equal if decision.due.is_some() => (ClusterScalingAction::Hold, None),
            std::cmp::Ordering::Equal => (ClusterScalingAction::Stay, None),
        };
        let reason = format!("{count} of {ready} nodes are in use, {queued} tasks wait");
        if let Some(kind) = kind {
            edit.changes.events.push(NewClusterEvent {
                cluster: cluster.id.to_string(),
                at: edit.now,
                kind: kind.as_str().into(),
                member: None,
                node: None,
                reason: reason.clone(),
                detail: None,
            });
        }
        let view = ClusterScalingView {
            at: edit.now,
            current: held,
            wanted: decision.wanted,
            action,
            reason,
            figures: vec![ClusterScalingFigure {
                figure: ClusterScalingFigureKind::QueueLength,
                target: f64::from(policy.target),
                value: Some(queued as f64 / f64::from(count.max(1))),
                servers: Some(decision.wanted),
            }],
            add_after: decision.due.filter(|_| decision.wanted > count),
            remove_after: decision.due.filter(|_| decision.wanted < count),
        };
        self.clusters.note_in_use(&cluster.id, view);
        count as usize
    }

    /// When another number of nodes may be right.
    pub(super) fn scaling_due(&self) -> Option<Instant> {
        let table = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        let due = self.clusters.computing().into_iter().filter_map(|cluster| {
            let (policy, held) = (cluster.scaling?, table.get(&cluster.id)?);
            let cooldowns = [policy.up_cooldown, policy.down_cooldown];
            cooldowns
                .into_iter()
                .map(|c| held.since.plus_millis(c))
                .filter(|at| *at > now)
                .min()
        });
        let at = due.min()?;
        Some(Instant::now() + Duration::from_millis(u64::try_from(at.since(now)).unwrap_or(0) + 1))
    }
}
