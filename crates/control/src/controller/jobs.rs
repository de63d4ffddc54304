//! Gives out tasks whenever something has changed, and talks to the nodes that have some.
//!
//! Nothing is asked for in turns: a node's call for news is answered when there is some, and a turn is taken when a node told
//! something, a job came, a node came or went, or a moment came that was known before. Only the word that lets tasks run on goes out
//! at intervals.

use crate::app::{App, stopped};
use crate::service::fleet::{Agent, with_query};
use crate::service::jobs::{Jobs, Orders};
use nm_link::contract::{TaskNewsPage, TaskNewsQuery, TasksAnswer, TasksCall, path};
use nm_link::server::LinkChange;
use nm_store::{Kind, Subject, WatchError};
use nm_types::NodeId;
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Until it is tried again where the store did not answer.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a node is asked to wait for news.
const NEWS_WAIT: Duration = Duration::from_secs(20);
/// Words of so many a lease: one that is lost costs nothing.
const WORDS: u32 = 5;
/// For what comes together to be one turn.
const GATHER: Duration = Duration::from_millis(5);

/// Takes turns, until we are to stop.
pub async fn run(app: App) {
    let mut stop = app.stop.clone();
    let mut containers = app.index.changes();
    let mut feed = app.store.watch();
    let mut links = app.fleet.links().events();
    let mut due: Option<Instant> = Some(Instant::now());
    loop {
        let wait = async {
            match due {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = wait => {}
            () = app.jobs.wanted().notified() => {}
            // What went may have made room; who lags has missed a reason.
            changed = containers.recv() => if matches!(changed, Err(RecvError::Closed)) { return },
            event = links.recv() => if matches!(event, Err(RecvError::Closed)) { return },
            change = feed.next() => match change {
                Ok(change) => match change.subject {
                    Subject::Resource(Kind::Cluster) => app.jobs.members_changed(),
                    Subject::Resource(Kind::Node) => {}
                    _ => continue,
                },
                Err(WatchError::Lagged { .. }) => match app.store.revision().await {
                    Ok(revision) => feed.seen_up_to(revision),
                    Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "the feed could not be caught up with"),
                },
                Err(WatchError::Closed) => return,
            },
        }
        tokio::time::sleep(GATHER).await;
        due = match app.jobs.turn().await {
            Ok(next) => next,
            Err(error) => {
                tracing::warn!(error = %error.message, "tasks could not be given out; trying again");
                Some(Instant::now() + AGAIN)
            }
        };
    }
}

/// Talks to every node that is connected, for as long as it is.
pub async fn nodes(app: App) {
    let mut stop = app.stop.clone();
    let mut events = app.fleet.links().events();
    let mut talking: HashMap<NodeId, tokio::task::AbortHandle> = HashMap::new();
    let mut tasks = JoinSet::new();
    let mut begin = |node: &NodeId, talking: &mut HashMap<NodeId, tokio::task::AbortHandle>| {
        let Ok(agent) = app.fleet.agent(node) else { return };
        let handle = tasks.spawn(talk(app.jobs.clone(), node.clone(), agent));
        if let Some(old) = talking.insert(node.clone(), handle) {
            old.abort();
        }
    };
    for link in app.fleet.links().connected() {
        begin(link.node(), &mut talking);
    }
    loop {
        let event = tokio::select! {
            () = stopped(&mut stop) => return,
            event = events.recv() => event,
        };
        match event {
            Ok(event) => match event.change {
                LinkChange::Connected | LinkChange::Replaced { .. } => begin(&event.node, &mut talking),
                LinkChange::Disconnected(_) if !app.fleet.is_connected(&event.node) => {
                    if let Some(old) = talking.remove(&event.node) {
                        old.abort();
                    }
                }
                LinkChange::Disconnected(_) => {}
            },
            Err(RecvError::Lagged(_)) => {
                for link in app.fleet.links().connected() {
                    begin(link.node(), &mut talking);
                }
            }
            Err(RecvError::Closed) => return,
        }
    }
}

/// One node over one link: first what it has, then what it is to do and what it tells, side by side.
async fn talk(jobs: Jobs, node: NodeId, agent: Agent) {
    let bell = jobs.bell(&node);
    while !jobs.concerns(&node) {
        bell.notified().await;
    }
    let mut token = loop {
        let call = TasksCall {
            list: true,
            ..TasksCall::default()
        };
        match agent.post::<TasksAnswer>(path::TASKS, &call, Duration::ZERO).await {
            Ok(answer) => {
                let lost = jobs.compare(&node, &answer);
                jobs.lost_with_machine(&node, lost);
                break answer.token;
            }
            Err(error) => {
                tracing::debug!(node.id = %node, ?error, "a node did not say which tasks it has");
                agent.before_asking_again().await;
            }
        }
    };
    let speaking = async {
        let period = jobs.lease() / WORDS;
        let mut next = Instant::now();
        loop {
            let orders = jobs.orders(&node, Some(token.clone()), Instant::now() >= next).await;
            let sent = match orders {
                Ok(Orders::Say(sent)) => sent,
                Ok(Orders::Quiet) => {
                    tokio::select! {
                        () = bell.notified() => {}
                        () = tokio::time::sleep_until(next) => {}
                    }
                    continue;
                }
                Ok(Orders::Idle) => {
                    bell.notified().await;
                    continue;
                }
                Err(error) => {
                    tracing::warn!(node.id = %node, error = %error.message, "a node's tasks could not be put together; trying again");
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            };
            match agent.post::<TasksAnswer>(path::TASKS, &sent.call, Duration::ZERO).await {
                Ok(answer) => {
                    next = Instant::now() + period;
                    token = answer.token.clone();
                    jobs.said(&node, *sent, &answer);
                }
                Err(error) => {
                    tracing::warn!(node.id = %node, ?error, "a node did not take its tasks; trying again");
                    agent.before_asking_again().await;
                    // A call that broke may have used the token up.
                    if let Ok(answer) = agent.post::<TasksAnswer>(path::TASKS, &TasksCall::default(), Duration::ZERO).await {
                        token = answer.token;
                    }
                }
            }
        }
    };
    let listening = async {
        let mut query = TaskNewsQuery {
            instance: None,
            after: 0,
            wait: u64::try_from(NEWS_WAIT.as_millis()).unwrap_or(0),
        };
        loop {
            match agent
                .get_within::<TaskNewsPage>(&with_query(path::TASK_NEWS, &query), NEWS_WAIT)
                .await
            {
                Ok(page) => {
                    query.instance = Some(page.instance);
                    query.after = page.last;
                    jobs.told(&node, page.news);
                }
                Err(error) => {
                    tracing::debug!(node.id = %node, ?error, "a node's tasks could not be followed; trying again");
                    agent.before_asking_again().await;
                }
            }
        }
    };
    // Neither ends by itself: the link's end ends both.
    tokio::join!(speaking, listening);
}
