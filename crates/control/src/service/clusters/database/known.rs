//! What is known of database clusters without asking anybody: which there are, and what their members last told.

use super::look::Seen;
use super::rows::{DatabaseMember, EtcdMember};
use super::tend::nodes_of;
use crate::api::error::{ApiError, ApiResult};
use crate::service::clusters::{ClusterRow, Clusters};
use nm_types::cluster::ClusterType;
use nm_types::{ClusterId, ContainerId};
use std::sync::Arc;

impl Clusters {
    pub(in crate::service::clusters) fn is_database(row: &ClusterRow) -> bool {
        row.stored.spec.kind == ClusterType::Database
    }

    /// All database clusters.
    pub fn databases(&self) -> Vec<ClusterId> {
        let all = self.all();
        all.iter().filter(|row| Self::is_database(row)).map(|row| row.id.clone()).collect()
    }

    /// Told when a database cluster is to be looked at before its time.
    pub fn database_wanted(&self) -> &tokio::sync::Notify {
        &self.database_wake
    }

    /// Whether a container is a member of a database cluster.
    pub fn has_database_member(&self, container: &ContainerId) -> bool {
        let of = |row: &Arc<ClusterRow>| row.state.database.members.iter().any(|m| m.container.as_ref() == Some(container));
        self.all().iter().any(of)
    }

    /// Whether something is still being brought about that is worth a look soon.
    pub fn database_under_way(&self) -> bool {
        let under_way = |row: &Arc<ClusterRow>| {
            let status = &row.state.database;
            let settled = |m: &DatabaseMember| m.container.is_some() && row.stored.members.iter().any(|id| id == m.node.as_str());
            let all_there = status.members.len() == row.stored.members.len() && status.members.iter().all(settled);
            // Until it has a vote its member waits.
            let topology = self.topologies.get(&row.id);
            let takes_part = |e: &EtcdMember| topology.as_ref().is_some_and(|(_, t)| t.takes_part(&e.node));
            let learning = status.etcd.iter().any(|e| e.added && !takes_part(e));
            Self::is_database(row) && (!all_there || learning || status.primary.is_none() || status.failing)
        };
        self.all().iter().any(under_way)
    }

    pub(super) fn seen_at(&self, row: &ClusterRow) -> Option<Seen> {
        self.topologies.get(&row.id)
    }

    /// How many members serve, whether any takes writes; nothing where nobody told.
    pub(in crate::service::clusters) fn database_share(&self, row: &ClusterRow) -> Option<(usize, usize, bool)> {
        let (_, topology) = self.seen_at(row)?;
        let nodes = nodes_of(row);
        let up = nodes.iter().filter(|n| topology.of(n).is_some_and(|t| t.is_well())).count();
        Some((up, nodes.len(), topology.primary().is_some()))
    }

    /// The error of something that only a database cluster has.
    pub(super) fn require_database(row: &ClusterRow) -> ApiResult<()> {
        if Self::is_database(row) {
            return Ok(());
        }
        let text = format!(
            "cluster `{}` is {}: it has no database",
            row.stored.spec.name,
            row.stored.spec.kind.as_str()
        );
        Err(ApiError::conflict("not_a_database", text))
    }
}
