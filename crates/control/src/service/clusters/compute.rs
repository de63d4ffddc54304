//! Clusters of type compute: which nodes they have.

use super::Clusters;
use crate::api::error::{ApiError, ApiResult};
use crate::service::servers::ServerKey;
use nm_plan::queue::QueuePolicy;
use nm_types::cluster::ClusterType;
use nm_types::{ClusterId, NodeId};

/// A compute cluster and its nodes, in the order in which they were named.
#[derive(Debug, Clone)]
pub struct Compute {
    pub id: ClusterId,
    pub nodes: Vec<NodeId>,
    /// How many of them are in use, where not all are.
    pub scaling: Option<QueuePolicy>,
}

fn of(row: &super::ClusterRow) -> Option<Compute> {
    let node = |id: &String| match ServerKey::parse(id)? {
        ServerKey::Node(node) => Some(node),
        ServerKey::Container(_) | ServerKey::Address(_) | ServerKey::Instance(_) => None,
    };
    (row.stored.spec.kind == ClusterType::Compute).then(|| Compute {
        id: row.id.clone(),
        nodes: row.stored.members.iter().filter_map(node).collect(),
        scaling: row.stored.spec.auto_scaling.as_ref().and_then(QueuePolicy::of),
    })
}

impl Clusters {
    /// By id or name; 409 where it is of another type.
    pub fn compute(&self, key: &str) -> ApiResult<Compute> {
        let row = self.find(key)?;
        of(&row).ok_or_else(|| {
            let (name, kind) = (&row.stored.spec.name, row.stored.spec.kind.as_str());
            ApiError::conflict(
                "not_compute",
                format!("cluster `{name}` is {kind}: jobs run on clusters of type compute"),
            )
        })
    }

    pub fn computing(&self) -> Vec<Compute> {
        self.all().iter().filter_map(|row| of(row)).collect()
    }

    /// The nodes of a compute cluster.
    pub fn nodes_of(&self, id: &ClusterId) -> Option<Vec<NodeId>> {
        Some(of(&*self.row(id)?)?.nodes)
    }

    /// Whether the node is of any compute cluster.
    pub fn computes_on(&self, node: &NodeId) -> bool {
        self.computing().iter().any(|cluster| cluster.nodes.contains(node))
    }
}
