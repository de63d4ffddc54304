//! What time does to members: ejections end, an active-standby cluster fails back. It sleeps until something is due or a
//! member's health changes.

use crate::instance::Instance;
use crate::listener::Table;
use arc_swap::ArcSwap;
use std::sync::Arc;

/// Runs until it is dropped.
pub async fn keep(instance: Arc<Instance>, table: Arc<ArcSwap<Table>>) {
    loop {
        let mut next: Option<u64> = None;
        for cluster in table.load().clusters.values() {
            let slow_start = cluster.conf.slow_start_ms;
            let has_check = cluster.conf.health_check.is_some();
            let due = cluster.seats.iter().filter_map(|s| s.member.keep(has_check, slow_start, &instance));
            // The election comes last: it depends on who is up.
            let due: Vec<u64> = due.collect();
            next = due.into_iter().chain(cluster.elect(&instance)).chain(next).min();
        }
        match next {
            Some(ms) => {
                let at = tokio::time::Instant::from_std(instance.instant(ms));
                // Whichever comes first, the next look is the same.
                let _ = tokio::time::timeout_at(at, instance.health_changed.notified()).await;
            }
            None => instance.health_changed.notified().await,
        }
    }
}
