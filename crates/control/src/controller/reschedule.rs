//! Moves containers off lost nodes: when one is lost, and again when something changes that may give them a place.

use crate::app::{App, stopped};
use std::time::Duration;

/// What nothing tells of, such as memory that programs gave back, is looked at so often while something waits.
const PERIOD: Duration = Duration::from_secs(10);

pub async fn run(app: App) {
    let mut stop = app.stop.clone();
    let mut lost = app.nodes.lost().follow();
    let mut tick = tokio::time::interval(PERIOD);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stopped(&mut stop) => return,
            known = lost.changed() => if known.is_err() { return },
            () = app.index.room().notified() => {}
            _ = tick.tick() => {}
        }
        let nodes: Vec<_> = lost.borrow_and_update().values().cloned().collect();
        for node in nodes.iter().filter(|l| app.containers.wait_for_place(&l.node)) {
            if let Err(error) = app.containers.reschedule(node).await {
                tracing::warn!(node.id = %node.node, error = %error.message, "a lost node's containers could not be moved yet");
            }
        }
    }
}
