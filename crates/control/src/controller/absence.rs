//! Finds out which nodes are lost, and writes it down in [`LostNodes`](crate::service::lost::LostNodes).
//!
//! A node is lost once its link is gone and nothing was heard of it for [`AppConfig::lost_after`](crate::app::AppConfig::lost_after).
//! It is not lost while its link stands, and no longer once it has one again. Time is counted by a clock that nobody can set.

use crate::app::{App, stopped};
use crate::service::lost::NodeLost;
use nm_link::server::LinkChange;
use nm_types::NodeId;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

/// After our own start nodes come back when their agents try again, which may take so many times longer than noticing.
const AFTER_START: u32 = 3;

pub async fn run(app: App) {
    let mut stop = app.stop.clone();
    let mut events = app.fleet.links().events();
    let began = Instant::now();
    // Those that are gone, and when each is lost.
    let mut gone: BTreeMap<NodeId, Instant> = BTreeMap::new();
    look_at_all(&app, began, &mut gone).await;
    loop {
        let next = gone
            .iter()
            .filter(|(node, _)| !app.nodes.lost().is_lost(node))
            .map(|(_, at)| *at)
            .min();
        let deadline = async {
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = deadline => lose(&app, &mut gone),
            event = events.recv() => match event {
                Ok(event) => match event.change {
                    LinkChange::Connected | LinkChange::Replaced { .. } => came(&app, &event.node, &mut gone).await,
                    LinkChange::Disconnected(_) => went(&app, event.node, began, &mut gone),
                },
                Err(RecvError::Lagged(_)) => look_at_all(&app, began, &mut gone).await,
                Err(RecvError::Closed) => return,
            },
        }
    }
}

/// Events may have been missed, or there were none yet.
async fn look_at_all(app: &App, began: Instant, gone: &mut BTreeMap<NodeId, Instant>) {
    for node in app.nodes.ids() {
        if app.fleet.is_connected(&node) {
            came(app, &node, gone).await;
        } else if !gone.contains_key(&node) {
            went(app, node, began, gone);
        }
    }
}

fn went(app: &App, node: NodeId, began: Instant, gone: &mut BTreeMap<NodeId, Instant>) {
    if app.fleet.is_connected(&node) || !app.nodes.knows(&node) {
        return;
    }
    let after = app.config.lost_after;
    let at = match app.nodes.last_heard(&node) {
        Some(heard) => heard + after,
        None => began + after * AFTER_START,
    };
    gone.insert(node, at);
}

async fn came(app: &App, node: &NodeId, gone: &mut BTreeMap<NodeId, Instant>) {
    gone.remove(node);
    if app.nodes.lost().remove(node) {
        tracing::info!(node.id = %node, "a lost node is back");
        if let Err(error) = app.containers.node_back(node).await {
            tracing::warn!(node.id = %node, error = %error.message, "what was noted of a lost node's containers could not be cleared");
        }
    }
}

fn lose(app: &App, gone: &mut BTreeMap<NodeId, Instant>) {
    let now = Instant::now();
    gone.retain(|node, _| app.nodes.knows(node));
    for node in gone.iter().filter(|(_, at)| **at <= now).map(|(node, _)| node) {
        // Its link may have come this very moment; the event that says so is on its way.
        if app.fleet.is_connected(node) || app.nodes.lost().is_lost(node) {
            continue;
        }
        let silent = app.nodes.last_heard(node).map(|heard| now.saturating_duration_since(heard));
        tracing::warn!(node.id = %node, silent_s = silent.unwrap_or(Duration::ZERO).as_secs(), "a node is lost");
        app.nodes.lost().add(NodeLost {
            node: node.clone(),
            last_seen: app.nodes.last_seen(node),
        });
    }
}
