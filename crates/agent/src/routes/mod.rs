//! The contract's paths as HTTP. Handlers read what came, make one call, and write what it gives.

mod backups;
mod containers;
mod edge;
mod health;
mod machine;
mod reply;
mod storage;
mod tasks;
mod trace;
mod upgrade;
mod watch;

use crate::backups::Backups;
use crate::docker::Docker;
use crate::edge::Edge;
use crate::host::Machine;
use crate::journal::Journal;
use crate::stats::Stats;
use crate::tasks::Tasks;
use crate::upgrade::Upgrades;
use axum::Router;
use axum::routing::{get, post};
use nm_link::contract::path;
use reply::Failed;
use std::sync::Arc;

/// What handlers work on.
#[derive(Clone)]
pub struct App {
    pub docker: Docker,
    pub stats: Stats,
    pub machine: Machine,
    pub journal: Arc<Journal>,
    pub upgrades: Option<Upgrades>,
    pub edge: Option<Edge>,
    pub backups: Option<Backups>,
    pub tasks: Tasks,
}

/// The largest JSON body: a container's whole environment is 500 values of 64 KiB.
const MAX_BODY: usize = 40 << 20;

pub fn router(app: App) -> Router {
    Router::new()
        .route(path::INFO, get(watch::info))
        .route(path::HEALTH, post(health::probes))
        .route(path::HOST, get(machine::host))
        .route(path::HOST_STATS, get(machine::stats))
        .route(path::HOST_STATS_STREAM, get(machine::stats_stream))
        .route(path::JOURNAL, get(machine::journal))
        .route(path::WATCH, get(watch::watch))
        .route(path::UPGRADE, get(upgrade::state).post(upgrade::offer).put(upgrade::receive))
        .route(path::UPGRADE_BEGIN, post(upgrade::begin))
        .route(path::EDGE, get(edge::state).put(edge::put))
        .route(path::EDGE_METRICS, get(edge::metrics))
        .route(path::EDGE_EVENTS, get(edge::events))
        .route(path::EDGE_FAILOVER, post(edge::failover))
        .route(path::BACKUP_RUN, post(backups::run))
        .route(path::BACKUP_CANCEL, post(backups::cancel))
        .route(path::BACKUP_REACH, post(backups::reach))
        .route(path::BACKUP_SERVE, post(backups::serve))
        .route(path::TASKS, post(tasks::call))
        .route(path::TASK_NEWS, get(tasks::news))
        .route(path::TASK_LOGS, get(tasks::log))
        .route(path::CONTAINERS, post(containers::create))
        .route(path::COMMAND, post(containers::command))
        .route(path::REMOVE, post(containers::remove))
        .route(path::INSPECT, get(containers::inspect))
        .route(path::LOGS, get(containers::logs))
        .route(path::STATS, get(watch::stats))
        .route(path::STATS_STREAM, get(watch::stats_stream))
        .route(path::EXEC, post(containers::exec))
        .route(path::TERMINAL, post(containers::terminal))
        .route(path::ARCHIVE, get(containers::archive_get).put(containers::archive_put))
        .route(path::IMAGES, get(storage::images))
        .route(path::PULL, post(storage::pull))
        .route(path::LOAD, post(storage::load))
        .route(path::IMAGE_REMOVE, post(storage::image_remove))
        .route(path::IMAGES_PRUNE, post(storage::images_prune))
        .route(path::VOLUMES, get(storage::volumes))
        .route(path::VOLUME_CREATE, post(storage::volume_create))
        .route(path::VOLUME_REMOVE, post(storage::volume_remove))
        .route(path::NETWORKS, get(storage::networks))
        .route(path::NETWORK_CREATE, post(storage::network_create))
        .route(path::NETWORK_REMOVE, post(storage::network_remove))
        .route(path::NETWORK_ATTACH, post(storage::network_attach))
        .route(path::NETWORK_DETACH, post(storage::network_detach))
        .fallback(async || Failed::invalid("The agent has no such path: control plane and agent are of different versions."))
        .method_not_allowed_fallback(async || Failed::invalid("The agent has this path, but not for this method."))
        .layer(axum::extract::DefaultBodyLimit::max(MAX_BODY))
        .layer(axum::middleware::from_fn(trace::traced))
        .with_state(app)
}
