//! Clusters: where their members are reached, what a node's load balancer is to do, who carries an entry and on which port, and
//! how well a cluster is.

mod config;
mod entry;
mod figures;
mod ports;
mod reach;
mod renewal;

#[cfg(test)]
mod tests;

pub use config::{Challenges, Cluster, DatabasePorts, KeyPair, Member, cluster_of_id, effective_check, proxy_config, reads_of};
pub use entry::{EntryCandidate, choose_entries};
pub use figures::{Book, Sum, Sums};
pub use ports::{Claim, Use, clash, free_port};
pub use reach::{Addresses, Target, reach};
pub use renewal::{again_in, renew_at};

use nm_types::cluster::{ClusterStatus, ClusterType};

/// How well a cluster is of which `up` of `all` servers are up.
pub fn status(kind: ClusterType, up: usize, all: usize) -> ClusterStatus {
    if all == 0 || up == 0 {
        return ClusterStatus::Offline;
    }
    if up >= all {
        return ClusterStatus::Healthy;
    }
    match up * 100 / all {
        70.. => ClusterStatus::Degraded,
        50.. => ClusterStatus::Critical,
        // One server takes all traffic there, or all writes, and does; one node takes all jobs.
        _ => match kind {
            ClusterType::HighAvailability | ClusterType::Database | ClusterType::Compute => ClusterStatus::Critical,
            ClusterType::LoadBalanced => ClusterStatus::Offline,
        },
    }
}
