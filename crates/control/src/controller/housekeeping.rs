//! What has to be done now and then: old rows, old tokens, our own certificate.

use crate::app::{App, stopped};
use std::time::Duration;

const PERIOD: Duration = Duration::from_secs(3600);

pub async fn run(app: App) {
    let mut stop = app.stop.clone();
    let mut tick = tokio::time::interval(PERIOD);
    // The first tick is at once: what piled up while we were away goes first.
    loop {
        tokio::select! {
            () = stopped(&mut stop) => return,
            _ = tick.tick() => {}
        }
        let now = app.clock.now();
        match app.store.prune(now, nm_store::Retention::default()).await {
            Ok(pruned) => tracing::debug!(?pruned, "old rows dropped"),
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "old rows could not be dropped"),
        }
        if let Err(error) = app.operations.sweep().await {
            tracing::warn!(error = %error.message, "old operations could not be dropped");
        }
        if let Err(error) = app.alerts.sweep().await {
            tracing::warn!(error = %error.message, "old alerts could not be dropped");
        }
        if let Err(error) = app.clusters.sweep().await {
            tracing::warn!(error = %error.message, "old events and figures of clusters could not be dropped");
        }
        if let Err(error) = app.jobs.sweep().await {
            tracing::warn!(error = %error.message, "old jobs could not be dropped");
        }
        if let Err(error) = app.clusters.renew_certificates().await {
            tracing::warn!(error = %error.message, "clusters' own certificates could not be renewed");
        }
        if let Err(error) = app.enrolment.sweep().await {
            tracing::warn!(error = %error.message, "old join tokens could not be dropped");
        }
        if let Err(error) = app.enrolment.renew_server() {
            tracing::error!(error = %error.message, "the agent port's certificate could not be renewed");
        }
    }
}
