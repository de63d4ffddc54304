//! Follows every connected node: what its agent sees goes into the index at once and into the store a moment later.

use crate::api::error::ApiResult;
use crate::app::{App, stopped};
use crate::service::alerts::Observation;
use crate::service::fleet::Agent;
use crate::service::index::{Phase, Record, State, Wanted};
use futures_util::StreamExt;
use http::Method;
use nm_link::contract::{JournalEnd, WatchEvent, path};
use nm_link::server::LinkChange;
use nm_types::container::ObservedContainer;
use nm_types::node::NodeInfo;
use nm_types::{ContainerId, NodeId};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch::Sender;
use tokio::task::JoinSet;

/// How long changes gather before they are written in one transaction.
const GATHER: Duration = Duration::from_millis(200);
/// A watch that says nothing for so long is asked anew; agents say something every two seconds. Longer than a lossy line holds a
/// link up, and than a lost node keeps one.
const SILENCE: Duration = Duration::from_secs(30);
/// Between attempts to watch a node whose link stands but whose watch ended.
const AGAIN: Duration = Duration::from_secs(1);

/// Writes what was seen. What can't be written now is tried again, and goes on being shown meanwhile.
pub async fn write_behind(app: App) {
    tokio::join!(write_containers(&app), write_nodes(&app));
}

async fn write_containers(app: &App) {
    let mut stop = app.stop.clone();
    loop {
        tokio::select! {
            () = app.dirty.wake.notified() => {}
            () = stopped(&mut stop) => break,
        }
        tokio::time::sleep(GATHER).await;
        flush(app).await;
    }
    flush(app).await;
}

/// Writes whose link came or went. While one transaction runs the next one gathers: a thousand agents that dial in at once are a
/// few transactions, and a single one waits for nothing.
async fn write_nodes(app: &App) {
    let mut stop = app.stop.clone();
    loop {
        let stopping = tokio::select! {
            () = app.dirty.wake_nodes.notified() => false,
            () = stopped(&mut stop) => true,
        };
        let (nodes, waiting): (BTreeSet<_>, Vec<_>) = app.dirty.take_nodes().into_iter().unzip();
        if !nodes.is_empty()
            && let Err(error) = app.nodes.links_changed(&nodes).await
        {
            tracing::warn!(error = %error.message, "which nodes are connected could not be written");
        }
        // Whoever waited is told by the end of what it waits for.
        drop(waiting);
        if stopping {
            return;
        }
    }
}

async fn flush(app: &App) {
    for ids in app.dirty.take().chunks(500) {
        if let Err(error) = app.containers.persist(ids).await {
            tracing::warn!(error = %error.message, "what agents see could not be written; trying again");
            for id in ids {
                app.dirty.ids.lock().unwrap_or_else(|e| e.into_inner()).insert(id.clone());
            }
            tokio::time::sleep(AGAIN).await;
            app.dirty.wake.notify_one();
        }
    }
}

/// Watches each node for as long as it is connected.
pub async fn run(app: App) {
    let mut stop = app.stop.clone();
    let mut events = app.fleet.links().events();
    let mut watching: HashMap<NodeId, tokio::task::AbortHandle> = HashMap::new();
    let mut tasks = JoinSet::new();
    let mut begin = |app: &App, node: NodeId, watching: &mut HashMap<NodeId, tokio::task::AbortHandle>| {
        let handle = tasks.spawn(node_connected(app.clone(), node.clone()));
        if let Some(old) = watching.insert(node, handle) {
            old.abort();
        }
    };
    for link in app.fleet.links().connected() {
        begin(&app, link.node().clone(), &mut watching);
    }
    loop {
        let event = tokio::select! {
            () = stopped(&mut stop) => return,
            event = events.recv() => event,
        };
        match event {
            Ok(event) => match event.change {
                // A link that took another's place is a new one: the old one's watch ends with it.
                LinkChange::Connected | LinkChange::Replaced { .. } => begin(&app, event.node, &mut watching),
                LinkChange::Disconnected(_) if !app.fleet.is_connected(&event.node) => {
                    if let Some(task) = watching.remove(&event.node) {
                        task.abort();
                    }
                    app.index.reach(&event.node, false);
                    tracing::warn!(node.id = %event.node, "a node is no longer connected");
                    app.nodes.link_changed(&event.node);
                    drop(app.dirty.add_node(&event.node));
                }
                // It is back already, and the event that says so is on its way.
                LinkChange::Disconnected(_) => {}
            },
            Err(RecvError::Lagged(_)) => {
                for link in app.fleet.links().connected() {
                    if watching.get(link.node()).is_none_or(|t| t.is_finished()) {
                        begin(&app, link.node().clone(), &mut watching);
                    }
                }
            }
            Err(RecvError::Closed) => return,
        }
    }
}

async fn node_connected(app: App, node: NodeId) {
    tracing::info!(node.id = %node, "a node is connected");
    app.nodes.link_changed(&node);
    // Written, or not: nothing hangs on it, but that those who listen hear first that the node is there and then what is on it.
    let _written = app.dirty.add_node(&node).await;
    while let Ok(agent) = app.fleet.agent(&node) {
        let journal = Sender::new(None);
        tokio::select! {
            () = follow(&app, &node, &agent, &journal) => {}
            () = super::journal::follow(&app, &node, &agent, journal.subscribe()) => {}
        }
        tokio::select! {
            _ = agent.link().closed() => return,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

async fn follow(app: &App, node: &NodeId, agent: &Agent, journal: &Sender<Option<JournalEnd>>) {
    let lines = match agent.lines::<WatchEvent>(Method::GET, path::WATCH, None).await {
        Ok(lines) => lines,
        Err(error) => {
            tracing::warn!(node.id = %node, ?error, "a node can't be watched");
            return;
        }
    };
    let mut lines = std::pin::pin!(lines);
    loop {
        match tokio::time::timeout(SILENCE, lines.next()).await {
            Ok(Some(Ok(WatchEvent::Journal(end)))) => {
                journal.send_if_modified(|told| told.replace(end) != Some(end));
            }
            Ok(Some(Ok(event))) => take(app, node, event).await,
            Ok(Some(Err(error))) => {
                tracing::debug!(node.id = %node, ?error, "a watch broke");
                return;
            }
            Ok(None) => return,
            Err(_) => {
                tracing::warn!(node.id = %node, "a watch went silent");
                return;
            }
        }
    }
}

async fn take(app: &App, node: &NodeId, event: WatchEvent) {
    let heard = match event {
        WatchEvent::Snapshot { info, containers } => {
            snapshot(app, node, containers);
            app.index.reach(node, info.docker.available);
            app.alerts.observe(Observation::Containers(node.clone()));
            let app = app.clone();
            let resumed = node.clone();
            tokio::spawn({
                let app = app.clone();
                async move {
                    crate::controller::resume::leftovers(&app, &resumed).await;
                    crate::controller::resume::removals(&app, &resumed).await;
                }
            });
            app.nodes.heard(node, Some(info)).await
        }
        WatchEvent::Container { observed } => {
            observe(app, node, *observed);
            Ok(())
        }
        WatchEvent::Removed { docker_id } => {
            if let Some(record) = app.index.by_docker(node, &docker_id) {
                gone(app, &record);
            }
            Ok(())
        }
        WatchEvent::Usage { samples } => {
            app.index.usage(node, &samples);
            app.alerts.observe(Observation::Usage(node.clone()));
            Ok(())
        }
        WatchEvent::Oom { docker_id, time } => {
            let record = app.index.by_docker(node, &docker_id);
            tracing::warn!(node.id = %node, container.id = record.map(|r| r.id.to_string()), %time, "a process was killed for want of memory");
            Ok(())
        }
        WatchEvent::Docker { docker } => {
            app.index.reach(node, docker.available);
            app.alerts.observe(Observation::Containers(node.clone()));
            if let Some(error) = &docker.error {
                tracing::warn!(node.id = %node, %error, "a node's Docker engine does not answer");
            }
            if app.nodes.info(node).is_some() {
                app.nodes.docker_changed(node, docker).await
            } else {
                ask_who(app, node).await
            }
        }
        WatchEvent::Host { stats } => {
            app.nodes.host_seen(node, *stats);
            app.alerts.observe(Observation::Host(node.clone()));
            Ok(())
        }
        // Those who read the journal were told.
        WatchEvent::Journal(_) => Ok(()),
        WatchEvent::Heartbeat => app.nodes.heard(node, None).await,
    };
    if let Err(error) = heard {
        tracing::warn!(node.id = %node, error = %error.message, "what a node said could not be written");
    }
}

/// What a node is, where nothing was ever heard of it: an agent whose Docker engine is away has no snapshot to send.
async fn ask_who(app: &App, node: &NodeId) -> ApiResult<()> {
    let info: NodeInfo = app.fleet.agent(node)?.get(path::INFO).await?;
    app.nodes.heard(node, Some(info)).await
}

/// Everything there is on a node: what is not in it is gone.
fn snapshot(app: &App, node: &NodeId, containers: Vec<ObservedContainer>) {
    let seen: HashSet<String> = containers.iter().map(|c| c.docker_id.clone()).collect();
    for observed in containers {
        observe(app, node, observed);
    }
    for record in app.index.on_node(node) {
        let is_there = record.docker_id().is_some_and(|id| seen.contains(id));
        if !is_there && !matches!(record.state.phase, Phase::Creating { .. } | Phase::Removing { .. }) {
            gone(app, &record);
        }
    }
}

fn observe(app: &App, node: &NodeId, observed: ObservedContainer) {
    // An id counts only for the node its container was made on: a node can't speak for another.
    let labelled = observed.id.as_ref().and_then(|id| app.index.get(id));
    if let Some(id) = &observed.id
        && labelled.as_ref().is_none_or(|record| record.node != *node)
    {
        if app.nodes.leftovers().has(node, id) {
            tracing::debug!(node.id = %node, container.id = %id, "an older copy of a container is still to be removed");
            return;
        }
        if arrives(app, node, id, &observed) {
            return;
        }
        if app.index.was_removed(node, id) {
            tracing::debug!(node.id = %node, container.id = %id, "late word of a container that was removed");
            return;
        }
    }
    let known = match &labelled {
        Some(record) if record.node == *node => Some(record.id.clone()),
        Some(_) | None => app.index.by_docker(node, &observed.docker_id).map(|r| r.id.clone()),
    };
    let id = match known {
        Some(id) => {
            let mut changed = false;
            app.index.change(&id, |record| {
                // It may have moved on in this very moment.
                if record.node != *node {
                    return false;
                }
                // A command's answer was faster.
                if record.state.observed.as_ref().is_some_and(|held| observed.is_before_start_of(held)) {
                    return false;
                }
                changed = record.state.missing || record.state.observed.as_ref() != Some(&observed);
                record.state.missing = false;
                record.state.observed = Some(observed);
                changed
            });
            if !changed {
                return;
            }
            id
        }
        None => {
            let id = match (&observed.id, labelled) {
                (Some(id), None) => id.clone(),
                _ => ContainerId::fresh(app.clock.now().0),
            };
            app.index.put(Record {
                id: id.clone(),
                node: node.clone(),
                created: observed.created,
                wanted: Wanted {
                    spec: None,
                    running: false,
                },
                state: State {
                    observed: Some(observed),
                    ..State::new(Phase::Foreign)
                },
                generation: 1,
                revision: 0,
            });
            id
        }
    };
    app.dirty.add(&id);
}

/// Whether it is a container that moves to this node. Until it is there it is shown as it is where it comes from.
fn arrives(app: &App, node: &NodeId, id: &ContainerId, observed: &ObservedContainer) -> bool {
    let mut arriving = false;
    app.index.change(id, |record| {
        arriving = matches!(&record.state.phase, Phase::Moving { to, .. } if to == node);
        if arriving {
            record.state.arriving = Some(Box::new(observed.clone()));
        }
        arriving
    });
    arriving
}

/// Docker no longer has it.
fn gone(app: &App, record: &Record) {
    match &record.state.phase {
        Phase::Foreign => {
            app.index.remove(&record.id);
        }
        Phase::Ready | Phase::Moving { .. } => {
            app.index.change(&record.id, |r| !std::mem::replace(&mut r.state.missing, true));
        }
        Phase::Creating { .. } | Phase::Removing { .. } => return,
    }
    app.dirty.add(&record.id);
}
