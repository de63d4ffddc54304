//! The containers at one moment, counted.

use super::{Index, Record};
use nm_types::NodeId;
use nm_types::container::ContainerStatus;
use nm_types::stats::Usage;
use std::collections::HashMap;
use std::sync::Arc;

/// How many there are, and the oldest of them.
#[derive(Debug, Default)]
pub struct Census {
    /// In the order of [`ContainerStatus::ALL`].
    pub by_status: [u64; ContainerStatus::ALL.len()],
    pub by_node: HashMap<NodeId, u64>,
    /// Oldest first, so that the ones shown stay the same while others come.
    pub oldest: Vec<Counted>,
}

/// One container of a [`Census`].
#[derive(Debug)]
pub struct Counted {
    pub record: Arc<Record>,
    pub usage: Usage,
    pub reachable: bool,
}

impl Index {
    /// All of them counted in one pass, and at most so many to look at one by one.
    pub fn census(&self, most: usize) -> Census {
        let inner = self.read();
        let mut census = Census {
            oldest: Vec::with_capacity(most.min(inner.entries.len())),
            ..Census::default()
        };
        for entry in inner.entries.values() {
            census.by_status[entry.record.status() as usize] += 1;
            match census.by_node.get_mut(&entry.record.node) {
                Some(count) => *count += 1,
                None => {
                    census.by_node.insert(entry.record.node.clone(), 1);
                }
            }
            if census.oldest.len() < most {
                census.oldest.push(Counted {
                    record: entry.record.clone(),
                    usage: entry.usage,
                    reachable: inner.reachable.contains(&entry.record.node),
                });
            }
        }
        census
    }
}
