//! Which nodes are lost: gone for so long that they are not waited for.
//!
//! Who finds that out ([`super::liveness`]) writes it here, and who acts on it follows it. It is a state and not a message, so
//! nothing is missed; it is kept in memory, since after a start it is found out anew.

use nm_types::{NodeId, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

/// A node that is lost, or has left the fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeLost {
    pub node: NodeId,
    /// When it was last heard of, where it ever was.
    pub last_seen: Option<Timestamp>,
}

/// The nodes that are lost now. Cheap to clone; clones are the same.
#[derive(Debug, Clone)]
pub struct LostNodes(Arc<watch::Sender<BTreeMap<NodeId, NodeLost>>>);

impl Default for LostNodes {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(BTreeMap::new())))
    }
}

impl LostNodes {
    pub fn is_lost(&self, node: &NodeId) -> bool {
        self.0.borrow().contains_key(node)
    }
    pub fn add(&self, lost: NodeLost) {
        self.0.send_if_modified(|all| all.insert(lost.node.clone(), lost).is_none());
    }
    /// It is back, or no longer of the fleet. Says whether it was lost.
    pub fn remove(&self, node: &NodeId) -> bool {
        self.0.send_if_modified(|all| all.remove(node).is_some())
    }
    /// All that are lost, and each change of that.
    pub fn follow(&self) -> watch::Receiver<BTreeMap<NodeId, NodeLost>> {
        self.0.subscribe()
    }
    /// Waits until the node is lost.
    pub async fn until_lost(&self, node: &NodeId) {
        let mut all = self.follow();
        // The sender is in our hands, so this ends for no other reason.
        drop(all.wait_for(|all| all.contains_key(node)).await);
    }
}
