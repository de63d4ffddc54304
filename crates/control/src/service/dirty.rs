//! What was seen and is still to be written.

use nm_types::{ContainerId, NodeId};
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, oneshot};

/// A node whose row is to be written, and who waits for that.
type Waiting = (NodeId, oneshot::Sender<()>);

/// Containers whose row is behind the index, and nodes whose links came or went.
#[derive(Debug, Clone, Default)]
pub struct Dirty {
    pub(crate) ids: Arc<Mutex<HashSet<ContainerId>>>,
    pub(crate) wake: Arc<Notify>,
    pub(crate) nodes: Arc<Mutex<Vec<Waiting>>>,
    pub(crate) wake_nodes: Arc<Notify>,
}

impl Dirty {
    pub fn add(&self, id: &ContainerId) {
        self.ids.lock().unwrap_or_else(|e| e.into_inner()).insert(id.clone());
        self.wake.notify_one();
    }
    /// What is given may be waited for: it ends once the node's row was written, or could not be.
    pub fn add_node(&self, id: &NodeId) -> oneshot::Receiver<()> {
        let (written, waiting) = oneshot::channel();
        self.nodes.lock().unwrap_or_else(|e| e.into_inner()).push((id.clone(), written));
        self.wake_nodes.notify_one();
        waiting
    }
    pub(crate) fn take_nodes(&self) -> Vec<Waiting> {
        std::mem::take(&mut *self.nodes.lock().unwrap_or_else(|e| e.into_inner()))
    }
    pub(crate) fn take(&self) -> Vec<ContainerId> {
        std::mem::take(&mut *self.ids.lock().unwrap_or_else(|e| e.into_inner()))
            .into_iter()
            .collect()
    }
}
