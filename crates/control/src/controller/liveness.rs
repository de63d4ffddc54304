//! Looks who is lost, and keeps what came of it: a node's row says when it was last heard, and listeners of events learn of it.

use crate::app::{App, stopped};
use nm_types::NodeId;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::MissedTickBehavior;

/// Looks, until we are to stop. Nothing here waits for a disk: a look that came late would be taken for a machine that stood
/// still.
pub async fn run(app: App) {
    let mut stop = app.stop.clone();
    let mut tick = tokio::time::interval(app.liveness.pause());
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stopped(&mut stop) => return,
            _ = tick.tick() => app.liveness.look(),
        }
    }
}

/// Has losses and returns written with all else that is seen: with a switch a hundred nodes go at once, and that is one
/// transaction.
pub async fn note(app: App) {
    let mut stop = app.stop.clone();
    let mut events = app.liveness.subscribe();
    loop {
        let event = tokio::select! {
            () = stopped(&mut stop) => return,
            event = events.recv() => event,
        };
        match event {
            Ok(event) => node_changed(&app, &event.node).await,
            Err(RecvError::Lagged(_)) => {
                for node in app.nodes.ids() {
                    node_changed(&app, &node).await;
                }
            }
            Err(RecvError::Closed) => return,
        }
    }
}

/// Run on a node that has not changed, it does nothing but write what is there already.
async fn node_changed(app: &App, node: &NodeId) {
    if app.liveness.is_lost(node) {
        app.index.reach(node, false);
    } else if let Err(error) = app.containers.node_back(node).await {
        tracing::warn!(node.id = %node, error = %error.message, "what was noted of a lost node's containers could not be cleared");
    }
    drop(app.dirty.add_node(node));
}
