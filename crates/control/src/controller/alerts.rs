//! Looks at what was seen, when it was seen, and sends what is to be told.
//!
//! Nothing here asks on a schedule: changes of nodes, containers and rules come through the change feed, links tell of
//! themselves, and agents say every two seconds what their machine uses. Where a time must pass, there is a timer for that
//! moment.

use crate::app::{App, stopped};
use crate::service::alerts::{HealthSeen, Observation, SeenHealth};
use crate::service::servers::ServerRef;
use nm_link::server::LinkEvent;
use nm_store::{Change, Kind, Subject, Watch, WatchError, What};
use nm_types::alert::AlertTargetKind;
use nm_types::health::{CheckDetail, HealthStatus, HealthView};
use nm_types::server::ServerKind;
use nm_types::{ContainerId, NodeId, Timestamp};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;

/// Between two attempts where the store could not be written.
const AGAIN: Duration = Duration::from_secs(1);
/// How long deliveries that are under way may take when we stop.
const LAST: Duration = Duration::from_secs(3);

/// Passes on what happens, so that it is looked at.
pub fn listen(app: App) -> impl Future<Output = ()> + Send {
    // From now on, and not from when the task comes to run: nothing that happens in between is missed.
    let (feed, links, checks) = (app.store.watch(), app.fleet.links().events(), app.health.subscribe());
    let containers = app.index.changes();
    follow(app, feed, links, checks, containers)
}

async fn follow(
    app: App,
    mut feed: Watch,
    mut links: Receiver<LinkEvent>,
    mut checks: Receiver<(ServerRef, HealthView)>,
    mut containers: Receiver<ContainerId>,
) {
    let mut stop = app.stop.clone();
    loop {
        tokio::select! {
            () = stopped(&mut stop) => return,
            change = feed.next() => match change {
                Ok(change) => changed(&app, &change),
                Err(WatchError::Lagged { .. }) => {
                    app.alerts.observe(Observation::Rules);
                    app.alerts.observe(Observation::Everything);
                }
                Err(WatchError::Closed) => return,
            },
            event = links.recv() => match event {
                Ok(event) => app.alerts.observe(Observation::Node(event.node)),
                Err(RecvError::Lagged(_)) => app.alerts.observe(Observation::Everything),
                Err(RecvError::Closed) => return,
            },
            // The feed tells of a removal before the index has taken it in: what was looked at then is still there.
            container = containers.recv() => match container {
                Ok(id) if app.index.get(&id).is_none() => app.alerts.observe(Observation::Container(id)),
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => app.alerts.observe(Observation::Everything),
                Err(RecvError::Closed) => return,
            },
            checked = checks.recv() => match checked {
                Ok((_, view)) => {
                    if let Some(seen) = health_seen(view) {
                        app.alerts.observe(Observation::Health(seen));
                    }
                }
                // Each server is checked again within its interval.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
        }
    }
}

/// A check's outcome as rules see it; `None` of instances, which no rule names.
fn health_seen(view: HealthView) -> Option<HealthSeen> {
    let kind = match view.kind {
        ServerKind::Node => AlertTargetKind::Node,
        ServerKind::Container => AlertTargetKind::Container,
        ServerKind::Address => AlertTargetKind::Address,
        ServerKind::Instance => return None,
    };
    let check = |d: CheckDetail| {
        let seen = if d.ok { SeenHealth::Healthy } else { SeenHealth::Unhealthy };
        let words = if d.message.is_empty() {
            format!("{}, may be {}", d.measured, d.limit)
        } else {
            d.message
        };
        (d.check, (seen, words))
    };
    Some(HealthSeen {
        server: view.server_id,
        name: view.server_name,
        kind,
        labels: BTreeMap::new(),
        status: match view.status {
            HealthStatus::Healthy => SeenHealth::Healthy,
            HealthStatus::Unhealthy => SeenHealth::Unhealthy,
            HealthStatus::Unknown if view.degraded => SeenHealth::Degraded,
            HealthStatus::Unknown => SeenHealth::Unknown,
        },
        checks: view.details.into_iter().map(check).collect(),
    })
}

fn changed(app: &App, change: &Change) {
    let Subject::Resource(kind) = change.subject else { return };
    let seen = match kind {
        Kind::Node => NodeId::parse(&change.id).ok().map(Observation::Node),
        Kind::Container => ContainerId::parse(&change.id).ok().map(Observation::Container),
        Kind::AlertRule | Kind::AlertChannel | Kind::AlertSilence => Some(Observation::Rules),
        Kind::Server if change.what == What::Deleted => Some(Observation::Forgotten(change.id.to_string())),
        _ => None,
    };
    if let Some(seen) = seen {
        app.alerts.observe(seen);
    }
}

/// Ends when it is `at`, by the clock; never where there is no such moment.
async fn until(app: &App, at: Option<Timestamp>) {
    match at {
        Some(at) => {
            let ms = u64::try_from(at.since(app.clock.now())).unwrap_or(0);
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
        None => std::future::pending().await,
    }
}

/// Looks at what was seen, and at what has its time.
pub async fn evaluate(app: App) {
    let mut stop = app.stop.clone();
    loop {
        let next = match app.alerts.evaluate().await {
            Ok(next) => next,
            Err(error) => {
                tracing::warn!(error = %error.message, "alerts could not be written; trying again");
                tokio::select! {
                    () = stopped(&mut stop) => return,
                    () = tokio::time::sleep(AGAIN) => continue,
                }
            }
        };
        tokio::select! {
            // First: when we stop, links are closed, and no node is lost by that.
            biased;
            () = stopped(&mut stop) => return,
            () = app.alerts.seen() => {}
            () = until(&app, next) => {}
        }
    }
}

/// Sends what is to be told.
pub async fn deliver(app: App) {
    let mut stop = app.stop.clone();
    let mut sending = JoinSet::new();
    loop {
        let (due, next) = app.alerts.outbox.take(app.clock.now());
        for delivery in due {
            let alerts = app.alerts.clone();
            sending.spawn(async move { alerts.deliver(delivery).await });
        }
        tokio::select! {
            () = stopped(&mut stop) => break,
            () = app.alerts.outbox.filled() => {}
            Some(_ended) = sending.join_next() => {}
            () = until(&app, next) => {}
        }
    }
    // What does not end by then is sent again after the next start.
    let _ended = tokio::time::timeout(LAST, async { while sending.join_next().await.is_some() {} }).await;
}
