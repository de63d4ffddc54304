//! Status and figures, as they are told.

use crate::engine::Engine;
use crate::instance::wall_clock;
use crate::stats;
use nm_types::proxy::*;
use std::sync::atomic::Ordering::Relaxed;

pub fn status(engine: &Engine) -> Status {
    let (table, instance) = (engine.table.load(), &engine.instance);
    let listeners = table.listeners.values().map(|listener| ListenerStatus {
        id: listener.id.clone(),
        address: listener.address.to_string(),
        connections: listener.open.load(Relaxed),
        accepted: listener.accepted.load(Relaxed),
        refused: listener.refused.load(Relaxed),
    });
    let clusters = table.clusters.values().map(|cluster| {
        let members = cluster.seats.iter().map(|seat| {
            let (state, reason, since) = seat.member.state(seat.draining);
            MemberStatus {
                id: seat.member.id.to_string(),
                address: seat.member.address.to_string(),
                state,
                reason,
                since,
                active: u64::from(seat.member.active()),
            }
        });
        ClusterStatus {
            id: cluster.conf.id.clone(),
            available: cluster.available(),
            active_member: cluster.active_member().map(str::to_owned),
            members: members.collect(),
        }
    });
    Status {
        instance: instance.id.clone(),
        started_at: instance.started_at,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        generation: table.generation,
        draining: instance.draining(),
        listeners: listeners.collect(),
        clusters: clusters.collect(),
    }
}

pub fn metrics(engine: &Engine) -> Metrics {
    let (table, instance) = (engine.table.load(), &engine.instance);
    let clusters = table.clusters.values().map(|cluster| ClusterMetrics {
        id: cluster.conf.id.clone(),
        totals: stats::total(cluster.state.stats.iter()),
        members: cluster
            .seats
            .iter()
            .map(|seat| MemberMetrics {
                id: seat.member.id.to_string(),
                totals: stats::total(seat.member.shards.iter().map(|s| &s.stats)),
            })
            .collect(),
    });
    Metrics {
        instance: instance.id.clone(),
        started_at: instance.started_at,
        at: wall_clock(),
        clusters: clusters.collect(),
    }
}
