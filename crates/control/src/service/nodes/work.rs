//! Nodes and tasks of jobs: what those hold of them, and whether they take more.

use super::Nodes;
use crate::service::index::Share;
use nm_plan::place::Amount;
use nm_types::NodeId;
use nm_types::node::NodeAllocation;
use std::collections::HashMap;

impl Nodes {
    /// What tasks of jobs hold of nodes from now on.
    pub fn promise_tasks(&self, promised: HashMap<NodeId, Amount>) {
        let mut tasks = self.tasks.write().unwrap_or_else(|e| e.into_inner());
        let less = tasks
            .iter()
            .any(|(node, held)| promised.get(node).is_none_or(|now| now.cpu < held.cpu || now.memory < held.memory));
        *tasks = promised;
        drop(tasks);
        if less {
            self.index.room().notify_one();
        }
    }
    /// What tasks of jobs hold of a node.
    pub fn held_by_tasks(&self, node: &NodeId) -> Amount {
        self.tasks
            .read()
            .unwrap_or_else(|e| e.into_inner())
            .get(node)
            .copied()
            .unwrap_or_default()
    }
    /// What containers and tasks hold of a node together.
    pub(super) fn allocated(&self, node: &NodeId, share: &Share) -> NodeAllocation {
        let tasks = self.held_by_tasks(node);
        let thousandths = (share.cpu * 1000.0).round() + tasks.cpu as f64;
        NodeAllocation {
            cpu: thousandths / 1000.0,
            memory: share.memory.saturating_add(tasks.memory),
        }
    }
    /// Whether tasks of jobs may be given to it, or why not.
    pub fn takes_work(&self, id: &NodeId) -> Result<(), &'static str> {
        let known = self.read();
        let Some(node) = known.get(id) else {
            return Err("the node is not of the fleet any more");
        };
        if self.liveness.lost_since(id).is_some() {
            return Err("nothing is heard of the node");
        }
        if !self.fleet.is_connected(id) {
            return Err("the node is not connected");
        }
        if !node.state.info.as_ref().is_some_and(|i| i.docker.available) {
            return Err("the node's Docker engine does not answer");
        }
        if node.spec.cordoned {
            return Err("the node is cordoned");
        }
        Ok(())
    }
}
