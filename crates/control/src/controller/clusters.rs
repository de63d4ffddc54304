//! Keeps every node's load balancer at what clusters ask for: documents are made anew when something they are made of changes, and
//! each node that is connected is given its own, asked how it is, what happened and what it counted.

use crate::api::error::ApiResult;
use crate::app::{App, stopped};
use crate::service::clusters::Wanted;
use crate::service::fleet::{Agent, CallError, with_query};
use nm_link::contract::{AgentError, AgentErrorCode, EdgeEventsQuery, EdgeState, path};
use nm_link::server::LinkChange;
use nm_store::{Change, Kind, Subject, WatchError, What};
use nm_types::proxy::{Events, Metrics};
use nm_types::{ClusterId, NodeId, ServerId};
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};

/// How long changes gather before documents are made anew.
const GATHER: Duration = Duration::from_millis(20);
/// Names lead elsewhere without anybody telling.
const NAMES: Duration = Duration::from_secs(30);
/// Between two looks at what a load balancer has counted, and how many are with each member.
const LOOK: Duration = Duration::from_secs(5);
/// Between two looks, shortly after something happened.
const AGAIN: Duration = Duration::from_secs(1);
/// Until a node that refused is asked again.
const REFUSED: Duration = Duration::from_secs(10);
/// Until a node that found a port taken tries it again.
const PORTS: Duration = Duration::from_secs(15);
/// How long an agent waits for an event, and a little.
const EVENTS: Duration = Duration::from_secs(30);
/// Between two writes of what was counted.
const WRITE: Duration = Duration::from_secs(10);

/// Makes documents, and follows every node that has one, until we are to stop.
pub async fn run(app: App) {
    let mut stop = app.stop.clone();
    let mut links = app.fleet.links().events();
    let mut containers = app.index.changes();
    let mut feed = app.store.watch();
    let mut following = Following::default();
    for link in app.fleet.links().connected() {
        app.clusters.node_connected(link.node());
    }
    // What is wanted is made at the start.
    let mut due = Some(Instant::now());
    loop {
        let soon = |due: Option<Instant>| due.or(Some(Instant::now() + GATHER));
        let made = async {
            match due {
                Some(when) => tokio::time::sleep_until(when).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = made => {
                due = make(&app, &mut following).await;
            }
            () = app.clusters.wanted().notified() => due = soon(due),
            event = links.recv() => match event {
                Ok(event) => {
                    match event.change {
                        LinkChange::Connected | LinkChange::Replaced { .. } => {
                            app.clusters.node_connected(&event.node);
                            following.end(&event.node);
                        }
                        LinkChange::Disconnected(_) => {}
                    }
                    due = soon(due);
                }
                Err(RecvError::Lagged(_)) => {
                    for link in app.fleet.links().connected() {
                        app.clusters.node_connected(link.node());
                    }
                    due = soon(due);
                }
                Err(RecvError::Closed) => return,
            },
            changed = containers.recv() => match changed {
                Ok(id) => {
                    if app.clusters.has_member(&id) { due = soon(due) }
                    if app.clusters.has_database_member(&id) { app.clusters.database_wanted().notify_one() }
                }
                Err(RecvError::Lagged(_)) => due = soon(due),
                Err(RecvError::Closed) => return,
            },
            change = feed.next() => match change {
                Ok(change) => match follow_change(&app, &change).await {
                    Ok(true) => due = soon(due),
                    Ok(false) => {}
                    Err(error) => tracing::warn!(error = %error.message, id = %change.id, "a change could not be followed"),
                },
                Err(WatchError::Lagged { .. }) => {
                    match app.store.revision().await {
                        Ok(revision) => feed.seen_up_to(revision),
                        Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "the feed could not be caught up with"),
                    }
                    due = soon(due);
                }
                Err(WatchError::Closed) => return,
            },
        }
    }
}

/// Looks now and then where the names of registered addresses lead, until we are to stop.
pub async fn names(app: App) {
    let mut stop = app.stop.clone();
    let mut look = tokio::time::interval(NAMES);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stopped(&mut stop) => return,
            _ = look.tick() => {}
        }
        if app.clusters.resolve_names(true).await {
            app.clusters.wanted().notify_one();
        }
    }
}

/// Whether documents may have to be made anew for it.
async fn follow_change(app: &App, change: &Change) -> ApiResult<bool> {
    let Subject::Resource(kind) = change.subject else {
        return Ok(false);
    };
    match kind {
        Kind::Cluster => {
            if let Ok(id) = ClusterId::parse(&change.id) {
                app.clusters.refresh(&id).await?;
            }
            Ok(true)
        }
        Kind::Server => {
            if let Ok(id) = ServerId::parse(&change.id) {
                app.servers.refresh(&id).await?;
            }
            Ok(true)
        }
        Kind::Instance => Ok(true),
        Kind::Node => {
            // Its labels say where others reach it.
            if matches!(change.what, What::Created | What::Updated) {
                app.nodes.refresh(&change.id).await?;
            }
            if let (What::Deleted, Ok(id)) = (change.what, NodeId::parse(&change.id)) {
                app.clusters.node_gone(&id).await?;
            }
            Ok(change.what != What::Status)
        }
        _ => Ok(false),
    }
}

/// Makes documents anew, and follows the nodes that have one. When to try again where that failed.
async fn make(app: &App, following: &mut Following) -> Option<Instant> {
    let made = async {
        app.clusters.assemble().await?;
        app.clusters.settle_all().await
    };
    let failed = made.await.err();
    for link in app.fleet.links().connected() {
        if app.clusters.concerns(link.node()) {
            following.begin(app, link.node());
        }
    }
    let error = failed?;
    tracing::warn!(error = %error.message, "nodes' documents could not be made; trying again");
    Some(Instant::now() + AGAIN)
}

/// The nodes that are followed, each by a task that ends with its link.
#[derive(Default)]
struct Following {
    tasks: JoinSet<()>,
    handles: HashMap<NodeId, AbortHandle>,
}

impl Following {
    fn begin(&mut self, app: &App, node: &NodeId) {
        while self.tasks.try_join_next().is_some() {}
        if self.handles.get(node).is_some_and(|h| !h.is_finished()) {
            return;
        }
        let handle = self.tasks.spawn(follow(app.clone(), node.clone()));
        self.handles.insert(node.clone(), handle);
    }
    /// Its link is another one now.
    fn end(&mut self, node: &NodeId) {
        if let Some(handle) = self.handles.remove(node) {
            handle.abort();
        }
    }
}

async fn follow(app: App, node: NodeId) {
    while let (Ok(agent), Some(wanted)) = (app.fleet.agent(&node), app.clusters.wanted_of(&node)) {
        tokio::select! {
            () = agent_gone(&agent) => return,
            () = give(&app, &node, &agent, wanted.clone()) => {}
            () = hear(&app, &node, &agent, wanted.clone()) => {}
            () = count(&app, &node, &agent, wanted) => {}
        }
        tokio::select! {
            () = agent_gone(&agent) => return,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

async fn agent_gone(agent: &Agent) {
    let _reason = agent.link().closed().await;
}

/// Whether a node is to carry anything at all.
fn carries(wanted: &mut Wanted) -> bool {
    wanted
        .borrow_and_update()
        .as_ref()
        .is_some_and(|config| !config.proxy.clusters.is_empty())
}

/// Waits until it is to carry something; nothing where nobody wants anything of it any more.
async fn until_carrying(wanted: &mut Wanted) -> Option<()> {
    while !carries(wanted) {
        wanted.changed().await.ok()?;
    }
    Some(())
}

/// Sees to it that the node has its document, now and after each change of it. It ends where the link fails.
async fn give(app: &App, node: &NodeId, agent: &Agent, mut wanted: Wanted) {
    // What was so before its link came may not be so now.
    app.clusters.try_ports_again(node);
    let mut ports = None;
    loop {
        let again = match give_once(app, node, agent, &mut wanted).await {
            Ok(()) => None,
            Err(CallError::Refused(error)) if is_taken(app, node, &wanted, &error) => {
                ports.get_or_insert_with(|| Instant::now() + PORTS);
                None
            }
            Err(CallError::Link { error, .. }) => {
                tracing::debug!(node.id = %node, error = %error.message, "a node could not be given what it is to carry");
                return;
            }
            Err(CallError::Refused(error)) => {
                tracing::warn!(node.id = %node, error = %error.message, "a node does not take what it is to carry");
                let generation = wanted.borrow().as_ref().map(|config| config.proxy.generation);
                note(node, app.clusters.failed(node, generation, error.message).await);
                Some(Instant::now() + REFUSED)
            }
        };
        let later = async {
            match again.into_iter().chain(ports).min() {
                Some(time) => tokio::time::sleep_until(time).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = later => if ports.take_if(|when| *when <= Instant::now()).is_some() {
                app.clusters.try_ports_again(node);
            },
            changed = wanted.changed() => if changed.is_err() { return },
        }
    }
}

fn is_taken(app: &App, node: &NodeId, wanted: &Wanted, error: &AgentError) -> bool {
    let config = wanted.borrow().clone();
    error.code == AgentErrorCode::PortInUse && config.is_some_and(|c| app.clusters.port_taken(node, &c, error.field.as_deref()))
}

async fn give_once(app: &App, node: &NodeId, agent: &Agent, wanted: &mut Wanted) -> Result<(), CallError> {
    let Some(config) = wanted.borrow_and_update().clone() else {
        return Ok(());
    };
    let generation = config.proxy.generation;
    let held: EdgeState = agent.get(path::EDGE).await?;
    let nothing = config.proxy.listeners.is_empty() && config.virtual_addresses.is_empty();
    let state = match held.generation {
        Some(newer) if newer > generation => {
            // What is wanted gets a higher generation, and wakes us.
            note(node, app.clusters.overtaken(node, newer).await);
            return Ok(());
        }
        Some(same) if same == generation => held,
        None if nothing => held,
        Some(_) | None => match agent.put::<EdgeState>(path::EDGE, &*config).await {
            Ok(state) => state,
            // Somebody gave it a newer one this moment: it is asked again.
            Err(CallError::Refused(error)) if error.code == AgentErrorCode::Stale => agent.get(path::EDGE).await?,
            Err(error) => return Err(error),
        },
    };
    note(node, app.clusters.told(node, state).await);
    Ok(())
}

/// What the store did not take is taken again with the next look.
fn note(node: &NodeId, written: ApiResult<()>) {
    if let Err(error) = written {
        tracing::warn!(node.id = %node, error = %error.message, "what a node told of its entries could not be written");
    }
}

/// Hears what happens, as it happens.
async fn hear(app: &App, node: &NodeId, agent: &Agent, mut wanted: Wanted) {
    loop {
        if until_carrying(&mut wanted).await.is_none() {
            return;
        }
        let cursor = app.clusters.read_up_to(node);
        let query = EdgeEventsQuery {
            instance: Some(cursor.instance).filter(|i| !i.is_empty()),
            after: u64::try_from(cursor.sequence).unwrap_or_default(),
        };
        let asked = Instant::now();
        match agent.get_within::<Events>(&with_query(path::EDGE_EVENTS, &query), EVENTS).await {
            Ok(events) => {
                let news = !events.events.is_empty() || events.missed;
                if let Err(error) = app.clusters.happened(node, &events).await {
                    tracing::warn!(node.id = %node, error = %error.message, "what happened on a node could not be written; trying again");
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
                if news {
                    match agent.get::<EdgeState>(path::EDGE).await {
                        Ok(state) => note(node, app.clusters.told(node, state).await),
                        Err(CallError::Link { .. }) => return,
                        Err(CallError::Refused(error)) => {
                            tracing::debug!(node.id = %node, error = %error.message, "a node does not say how it is")
                        }
                    }
                }
                if events.events.is_empty() && asked.elapsed() < AGAIN {
                    // It waits for nothing: the process that would tell is not there yet.
                    tokio::time::sleep(AGAIN).await;
                }
            }
            Err(CallError::Link { .. }) => return,
            Err(CallError::Refused(error)) => {
                tracing::debug!(node.id = %node, error = %error.message, "a node tells of no events");
                tokio::time::sleep(REFUSED).await;
            }
        }
    }
}

/// What a node's load balancer has counted, and the processes before it that still end their connections.
#[derive(serde::Deserialize)]
struct Counted {
    #[serde(flatten)]
    current: Metrics,
    #[serde(default)]
    former: Vec<Metrics>,
}

/// Looks at what it has counted, and how it is: how much is in flight, and who holds a virtual address, is told by no event.
async fn count(app: &App, node: &NodeId, agent: &Agent, mut wanted: Wanted) {
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        if until_carrying(&mut wanted).await.is_none() {
            return;
        }
        match agent.get::<Counted>(path::EDGE_METRICS).await {
            Ok(counted) => counted
                .former
                .iter()
                .chain(std::iter::once(&counted.current))
                .for_each(|metrics| app.clusters.counted(node, metrics)),
            Err(CallError::Link { .. }) => return,
            Err(CallError::Refused(error)) => tracing::debug!(node.id = %node, error = %error.message, "a node counts nothing"),
        }
        match agent.get::<EdgeState>(path::EDGE).await {
            // What it was given and has not taken is for whoever gave it to say.
            Ok(state) if state.generation == app.clusters.generation_of(node) => note(node, app.clusters.told(node, state).await),
            Ok(_) => {}
            Err(CallError::Link { .. }) => return,
            Err(CallError::Refused(error)) => tracing::debug!(node.id = %node, error = %error.message, "a node does not say how it is"),
        }
    }
}

/// Has clusters grow and shrink, until we are to stop. Load is measured, not told: it is looked at now and then, and what was
/// decided is carried on with more often.
pub async fn scale(app: App) {
    let mut stop = app.stop.clone();
    let every = app.config.scaling_every;
    loop {
        let pause = if app.clusters.scaling_under_way() {
            every.min(AGAIN)
        } else {
            every
        };
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = tokio::time::sleep(pause) => {}
        }
        for id in app.clusters.scaling() {
            if let Err(error) = app.clusters.scale(&id).await {
                tracing::warn!(cluster.id = %id, error = %error.message, "a cluster could not be scaled; trying again");
            }
        }
    }
}

/// Brings databases to what is asked for, until we are to stop. Their members tell nobody by themselves who takes the writes: they
/// are asked when a load balancer, a container or a user says that something has changed, and now and then.
pub async fn databases(app: App) {
    let mut stop = app.stop.clone();
    loop {
        for id in app.clusters.databases() {
            if let Err(error) = app.clusters.tend_database(&id).await {
                tracing::warn!(cluster.id = %id, error = %error.message, "a database cluster could not be brought on; trying again");
            }
        }
        let pause = if app.clusters.database_under_way() { AGAIN } else { LOOK };
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = app.clusters.database_wanted().notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Writes what was counted, now and then and at the end.
pub async fn write_figures(app: App) {
    let mut stop = app.stop.clone();
    let mut tick = tokio::time::interval(WRITE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let ending = tokio::select! {
            () = stopped(&mut stop) => true,
            _ = tick.tick() => false,
        };
        if let Err(error) = app.clusters.persist_figures().await {
            tracing::warn!(error = %error.message, "what clusters counted could not be written; trying again");
        }
        if ending {
            return;
        }
    }
}
