//! Takes up again what a crash, a lost node or a database that was away cut short.

use crate::api::error::ApiResult;
use crate::app::{App, stopped};
use crate::service::index::Phase;
use crate::service::{backups, containers, drain, images, reschedule, upgrades};
use std::time::Duration;

/// How often removals that could not be ended are tried again. Those of a node that comes back are tried at once.
const PERIOD: Duration = Duration::from_secs(10);

/// Tries removals again, until we are to stop.
pub async fn run(app: App) {
    let mut stop = app.stop.clone();
    let mut tick = tokio::time::interval(PERIOD);
    loop {
        tokio::select! {
            () = stopped(&mut stop) => return,
            _ = tick.tick() => {}
        }
        if let Err(error) = app.containers.settle_moves().await {
            tracing::warn!(error = %error.message, "a move that was cut short is still to be settled");
        }
        for link in app.fleet.links().connected() {
            leftovers(&app, link.node()).await;
            removals(&app, link.node()).await;
        }
    }
}

/// Begins every unfinished operation again. Removals go on when their node is heard of.
pub async fn operations(app: &App) -> ApiResult<usize> {
    let unfinished = app.operations.unfinished().await?;
    let count = unfinished.len();
    for (operation, asked) in unfinished {
        tracing::info!(operation.id = %operation.id, kind = %asked.kind, "taking up an operation again");
        match asked.kind.as_str() {
            containers::CREATE => app.containers.resume_create(operation, asked.input)?,
            drain::DRAIN => app.containers.resume_drain(operation, asked.input)?,
            reschedule::RESCHEDULE => app.containers.resume_reschedule(operation, asked.input)?,
            upgrades::UPGRADE => app.upgrades.resume(operation, asked.input)?,
            images::PULL => app.resources.resume_pull(operation, asked.input)?,
            kind @ (backups::PERFORM | backups::RESTORE | backups::RECOVER | backups::CHECK | backups::TEST | backups::REMOVE) => {
                app.backups.resume(kind, operation, asked.input)?;
            }
            other => {
                tracing::error!(operation.id = %operation.id, kind = other, "an operation of a kind this release does not know stays as it is")
            }
        }
    }
    app.backups.settle().await?;
    Ok(count)
}

/// Removes older copies of containers from a node they were moved off.
pub async fn leftovers(app: &App, node: &nm_types::NodeId) {
    let all = app.nodes.leftovers().on_node(node);
    // Each may take its grace to end.
    let cleared = all
        .iter()
        .map(|l| async move { (l, app.nodes.leftovers().clear(&l.node, &l.container).await) });
    for (leftover, result) in futures_util::future::join_all(cleared).await {
        if let Err(error) = result {
            tracing::warn!(node.id = %node, container.id = %leftover.container, error = %error.message, "an older copy is still to be removed");
        }
    }
}

/// Ends the removals of a node's containers that were cut short.
pub async fn removals(app: &App, node: &nm_types::NodeId) {
    for record in app.index.on_node(node) {
        if matches!(record.state.phase, Phase::Removing { .. })
            && let Err(error) = app.containers.resume_remove(&record.id).await
        {
            tracing::warn!(container.id = %record.id, error = %error.message, "a removal is still to be done");
        }
    }
}
