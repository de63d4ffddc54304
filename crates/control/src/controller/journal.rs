//! Reads a node's journal whenever it grew.

use crate::app::App;
use crate::service::fleet::{Agent, CallError};
use nm_link::contract::JournalEnd;
use nm_types::NodeId;
use std::time::Duration;
use tokio::sync::watch;

/// Between attempts, where the store or the link failed.
const AGAIN: Duration = Duration::from_secs(1);

/// Reads on each time the agent says that there is more, for as long as it can be told so.
pub async fn follow(app: &App, node: &NodeId, agent: &Agent, mut told: watch::Receiver<Option<JournalEnd>>) {
    while told.changed().await.is_ok() {
        while let Err(error) = app.journals.catch_up(node, agent).await {
            match error {
                // It will not say otherwise a second later.
                CallError::Refused(error) => {
                    tracing::warn!(node.id = %node, %error, "a node's events can't be read");
                    break;
                }
                CallError::Link { error, .. } => {
                    tracing::warn!(node.id = %node, error = %error.message, "a node's events could not be read or written; trying again");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }
}
