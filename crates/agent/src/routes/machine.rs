//! The machine: what it uses, and what happened on it.

use super::App;
use super::reply::{Failed, Query, Reply, channel_lines};
use axum::Json;
use axum::extract::State;
use axum::response::Response;
use nm_link::contract::{AgentError, AgentErrorCode as Code, JournalPage, JournalQuery, StatsQuery};
use nm_types::host::NodeStats;
use nm_types::stats::Resolution;
use std::time::Duration;
use tokio::sync::mpsc;

/// For the first second after a start to be measured.
const FIRST: Duration = Duration::from_secs(5);

pub async fn host(State(app): State<App>) -> Reply<NodeStats> {
    if let Some(stats) = app.machine.fresh().await {
        return Ok(Json(stats));
    }
    let mut ticks = app.stats.ticks();
    let measured = async {
        while ticks.changed().await.is_ok() {
            if let Some(stats) = app.machine.newest() {
                return Some(stats);
            }
        }
        None
    };
    match tokio::time::timeout(FIRST, measured).await {
        Ok(Some(stats)) => Ok(Json(stats)),
        Ok(None) | Err(_) => {
            let text = "The kernel of the node does not say what its machine uses: /proc/stat can't be read.";
            Err(AgentError::new(Code::Internal, text).into())
        }
    }
}

pub async fn stats(State(app): State<App>, Query(query): Query<StatsQuery>) -> Reply<Vec<NodeStats>> {
    let limit = query.limit as usize;
    Ok(Json(match query.resolution {
        Resolution::Second => app.machine.seconds(limit),
        Resolution::Minute => read("The statistics", move || app.machine.minutes(limit)).await?,
    }))
}

pub async fn stats_stream(State(app): State<App>) -> Response {
    let (tx, rx) = mpsc::channel(4);
    tokio::spawn(async move {
        let mut ticks = app.stats.ticks();
        loop {
            let ticked = tokio::select! {
                ticked = ticks.changed() => ticked,
                () = tx.closed() => return,
            };
            if ticked.is_err() {
                return;
            }
            if let Some(stats) = app.machine.newest()
                && tx.send(stats).await.is_err()
            {
                return;
            }
        }
    });
    channel_lines(rx)
}

pub async fn journal(State(app): State<App>, Query(query): Query<JournalQuery>) -> Reply<JournalPage> {
    Ok(Json(read("The journal of events", move || app.journal.read(&query)).await?))
}

/// Work on files, off the threads that serve.
async fn read<T: Send + 'static>(what: &str, work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> Result<T, Failed> {
    let failed = |e: String| Failed(AgentError::new(Code::Internal, format!("{what} could not be read: {e}.")));
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|e| failed(e.to_string())),
        Err(e) => Err(failed(e.to_string())),
    }
}
