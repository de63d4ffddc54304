//! What is seen: the node, its containers as they change, and what they use.

use super::App;
use super::reply::{Failed, Key, Query, Reply, channel_lines, line, lines};
use axum::Json;
use axum::extract::State;
use axum::response::Response;
use nm_link::contract::{AgentError, AgentErrorCode as Code, ContainerKey, StatsQuery, WatchEvent};
use nm_types::node::NodeInfo;
use nm_types::stats::{ContainerStats, Resolution};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};

pub async fn info(State(app): State<App>) -> Json<NodeInfo> {
    Json(app.docker.hub.node_info())
}

struct Watcher {
    app: App,
    waiting: VecDeque<Arc<WatchEvent>>,
    events: broadcast::Receiver<Arc<WatchEvent>>,
}

pub async fn watch(State(app): State<App>) -> Response {
    let (first, events) = app.docker.hub.subscribe();
    let watcher = Watcher {
        app,
        waiting: first.into(),
        events,
    };
    lines(futures_util::stream::unfold(watcher, |mut watcher| async move {
        loop {
            if let Some(event) = watcher.waiting.pop_front() {
                return Some((line(&*event), watcher));
            }
            match watcher.events.recv().await {
                Ok(event) => watcher.waiting.push_back(event),
                // Too slow: begin anew, from how things are now.
                Err(RecvError::Lagged(_)) => {
                    let (first, events) = watcher.app.docker.hub.subscribe();
                    watcher.waiting = first.into();
                    watcher.events = events;
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }))
}

pub async fn stats(State(app): State<App>, Key(key): Key, Query(query): Query<StatsQuery>) -> Reply<Vec<ContainerStats>> {
    let record = app.docker.resolve(&key).await?;
    let limit = query.limit as usize;
    let docker_id = record.observed.docker_id;
    Ok(Json(match query.resolution {
        Resolution::Second => app.stats.seconds(&docker_id, limit),
        Resolution::Minute => {
            let key = record.observed.id.map_or_else(|| docker_id.clone(), String::from);
            let read = tokio::task::spawn_blocking(move || app.stats.minutes(&docker_id, &key, limit)).await;
            let failed = |e: String| Failed(AgentError::new(Code::Internal, format!("The statistics could not be read: {e}.")));
            read.map_err(|e| failed(e.to_string()))?.map_err(|e| failed(e.to_string()))?
        }
    }))
}

pub async fn stats_stream(State(app): State<App>, Key(key): Key) -> Result<Response, Failed> {
    let record = app.docker.resolve(&key).await?;
    let docker_id = record.observed.docker_id;
    if record.detail.pid == 0 {
        let text = format!("`{}` does not run: there is nothing to measure.", record.observed.name);
        return Err(AgentError::new(Code::NotRunning, text).into());
    }
    let (tx, rx) = mpsc::channel(4);
    let key = ContainerKey::Docker(docker_id.as_str().into());
    tokio::spawn(async move {
        let mut ticks = app.stats.ticks();
        loop {
            let ticked = tokio::select! {
                ticked = ticks.changed() => ticked,
                () = tx.closed() => return,
            };
            let runs = app.docker.hub.find(&key).is_some_and(|r| r.detail.pid > 0);
            if ticked.is_err() || !runs {
                return;
            }
            if let Some(sample) = app.stats.newest(&docker_id)
                && tx.send(sample).await.is_err()
            {
                return;
            }
        }
    });
    Ok(channel_lines(rx))
}
