//! Checks every server when it is due, and at once when something happened to it.
//!
//! Due times are spread, so that a thousand servers are not asked in the same moment. What happens to a server is heard from
//! the links, from the containers' index and from the store's feed; a server is checked at most once a second.

use crate::api::error::ApiResult;
use crate::app::{App, stopped};
use crate::service::health::Health;
use crate::service::servers::ServerKey;
use nm_link::server::LinkEvent;
use nm_store::{Change, Kind, Subject, WatchError, What};
use nm_types::container::ContainerStatus;
use nm_types::{ContainerId, InstanceId, NodeId, ServerId};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Checks under way at once.
const AT_ONCE: usize = 64;
/// Between two checks of a server, whatever happens to it.
const SPACE: Duration = Duration::from_secs(1);
/// How long a container that is meant to run may take to come up, or up again, before that is looked at.
const COMING_UP: Duration = Duration::from_secs(3);
/// After our start, and after a node has joined, for agents to connect before their absence counts.
const GRACE: Duration = Duration::from_secs(15);
/// How often it is noted that somebody checks.
const NOTE: Duration = Duration::from_secs(10);
const PRUNE: Duration = Duration::from_secs(3600);
/// How long changes gather before they are written in one transaction.
const GATHER: Duration = Duration::from_millis(200);
/// Between attempts to write what could not be written.
const AGAIN: Duration = Duration::from_secs(1);

/// When each server is due.
#[derive(Debug, Default)]
struct Schedule {
    due: BinaryHeap<Reverse<(Instant, ServerKey)>>,
    slots: HashMap<ServerKey, Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    due: Option<Instant>,
    /// When its last check began.
    last: Option<Instant>,
    running: bool,
    /// Something happened to it while it was being checked.
    again: bool,
}

impl Schedule {
    /// It is due then, or earlier where it was due earlier already.
    fn at_latest(&mut self, key: &ServerKey, when: Instant) {
        let slot = self.slots.entry(key.clone()).or_default();
        if slot.running {
            slot.again = true;
            return;
        }
        let when = slot.last.map_or(when, |last| when.max(last + SPACE));
        if slot.due.is_none_or(|due| when < due) {
            slot.due = Some(when);
            self.due.push(Reverse((when, key.clone())));
        }
    }

    /// Something happened to it: it is due now.
    fn now(&mut self, key: &ServerKey) {
        self.at_latest(key, Instant::now());
    }

    fn forget(&mut self, key: &ServerKey) {
        self.slots.remove(key);
    }

    fn next(&mut self) -> Option<Instant> {
        while let Some(Reverse((when, key))) = self.due.peek() {
            // Places of servers that are gone, or that became due at another time, are left behind in the heap.
            if self.slots.get(key).is_some_and(|slot| slot.due == Some(*when)) {
                return Some(*when);
            }
            self.due.pop();
        }
        None
    }

    /// The next server that is due, marked as being checked.
    fn take(&mut self, now: Instant) -> Option<ServerKey> {
        if self.next()? > now {
            return None;
        }
        let Reverse((_, key)) = self.due.pop()?;
        if let Some(slot) = self.slots.get_mut(&key) {
            (slot.due, slot.last, slot.running, slot.again) = (None, Some(now), true, false);
        }
        Some(key)
    }

    /// Its check has ended. Whether something happened to it meanwhile; nothing where it was forgotten.
    fn ended(&mut self, key: &ServerKey) -> Option<bool> {
        let slot = self.slots.get_mut(key)?;
        slot.running = false;
        Some(std::mem::take(&mut slot.again))
    }
}

/// `span`, a tenth more or less: servers that became due together drift apart.
fn spread(span: Duration) -> Duration {
    span.mul_f64(0.9 + 0.2 * dice())
}

/// 0 to 1. Where the system gives no random bytes, servers are merely not spread.
fn dice() -> f64 {
    let mut byte = [0u8; 1];
    match getrandom::fill(&mut byte) {
        Ok(()) => f64::from(byte[0]) / 255.0,
        Err(_) => 0.5,
    }
}

/// Checks until we are to stop.
pub async fn run(app: App) {
    let mut stop = app.stop.clone();
    let mut links = app.fleet.links().events();
    let mut containers = app.index.changes();
    let mut feed = app.store.watch();
    let mut schedule = Schedule::default();
    let mut checks: JoinSet<(ServerKey, Next)> = JoinSet::new();
    let mut note = tokio::time::interval(NOTE);
    let mut prune = tokio::time::interval(PRUNE);
    first(&app, &mut schedule).await;
    loop {
        while checks.len() < AT_ONCE
            && let Some(key) = schedule.take(Instant::now())
        {
            checks.spawn(check(app.health.clone(), key));
        }
        let next = schedule.next().filter(|_| checks.len() < AT_ONCE);
        let due = async {
            match next {
                Some(when) => tokio::time::sleep_until(when).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = due => {}
            Some(done) = checks.join_next() => match done {
                Ok((key, next)) => ended(&app, &mut schedule, &key, next).await,
                Err(error) => tracing::error!(%error, "a health check failed"),
            },
            event = links.recv() => match event {
                Ok(LinkEvent { node, .. }) => link_changed(&app, &mut schedule, &node),
                Err(RecvError::Lagged(_)) => everything(&app, &mut schedule).await,
                Err(RecvError::Closed) => return,
            },
            change = containers.recv() => match change {
                Ok(id) => container_changed(&app, &mut schedule, &id).await,
                Err(RecvError::Lagged(_)) => everything(&app, &mut schedule).await,
                Err(RecvError::Closed) => return,
            },
            change = feed.next() => match change {
                Ok(change) => {
                    if let Err(error) = changed(&app, &mut schedule, &change).await {
                        tracing::warn!(error = %error.message, id = %change.id, "a change could not be followed");
                    }
                }
                Err(WatchError::Lagged { .. }) => {
                    // What was missed is read anew, whatever it was.
                    match app.store.revision().await {
                        Ok(revision) => feed.seen_up_to(revision),
                        Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "the feed could not be caught up with"),
                    }
                    everything(&app, &mut schedule).await;
                }
                Err(WatchError::Closed) => return,
            },
            () = app.health.wanted().filled() => {
                for key in app.health.wanted().take() {
                    schedule.now(&key);
                }
            }
            _ = note.tick() => if let Err(error) = app.health.note_checked().await {
                tracing::warn!(error = %error.message, "it could not be noted that servers are checked");
            },
            _ = prune.tick() => match app.health.prune().await {
                Ok(gone) => tracing::debug!(gone, "old health dropped"),
                Err(error) => tracing::warn!(error = %error.message, "old health could not be dropped"),
            },
        }
    }
}

/// What follows a check.
enum Next {
    In(Duration),
    /// It is not to be checked by itself.
    Stop,
    Gone,
}

async fn check(health: Health, key: ServerKey) -> (ServerKey, Next) {
    let checked = async {
        let Some(interval) = health.interval(&key).await? else {
            return Ok(if health.is_there(&key).await? { Next::Stop } else { Next::Gone });
        };
        ApiResult::Ok(match health.check(&key, false).await? {
            Some(_) => Next::In(interval),
            None => Next::Gone,
        })
    };
    match checked.await {
        Ok(next) => (key, next),
        Err(error) => {
            tracing::warn!(server.id = %key, error = %error.message, "a server could not be checked; trying again");
            (key, Next::In(AGAIN))
        }
    }
}

async fn ended(app: &App, schedule: &mut Schedule, key: &ServerKey, next: Next) {
    match (schedule.ended(key), next) {
        // Forgotten while it was checked: what this check left goes too.
        (None, _) | (_, Next::Gone) => forget(app, schedule, key).await,
        (Some(true), _) => schedule.now(key),
        (Some(false), Next::In(interval)) => schedule.at_latest(key, Instant::now() + spread(interval)),
        (Some(false), Next::Stop) => {
            app.health.stop_checking(key);
            schedule.forget(key);
        }
    }
}

/// At our start: everything within the first interval, and nothing before agents had time to come back.
async fn first(app: &App, schedule: &mut Schedule) {
    let now = Instant::now();
    for key in keys(app).await {
        let span = match app.health.interval(&key).await {
            Ok(Some(interval)) => interval,
            Ok(None) | Err(_) => Duration::ZERO,
        };
        let grace = match key {
            ServerKey::Node(_) | ServerKey::Container(_) => GRACE,
            ServerKey::Address(_) | ServerKey::Instance(_) => Duration::ZERO,
        };
        schedule.at_latest(&key, now + grace + span.mul_f64(dice()));
    }
    for link in app.fleet.links().connected() {
        link_changed(app, schedule, link.node());
    }
}

async fn everything(app: &App, schedule: &mut Schedule) {
    for key in keys(app).await {
        schedule.now(&key);
    }
    let there: Vec<ServerKey> = schedule.slots.keys().cloned().collect();
    for key in there {
        schedule.now(&key);
    }
}

async fn keys(app: &App) -> Vec<ServerKey> {
    match app.servers.keys().await {
        Ok(keys) => keys,
        Err(error) => {
            tracing::warn!(error = %error.message, "the servers to check could not be read");
            Vec::new()
        }
    }
}

/// A link came or went: its node and everything on it is seen anew.
fn link_changed(app: &App, schedule: &mut Schedule, node: &NodeId) {
    schedule.now(&ServerKey::Node(node.clone()));
    for record in app.index.on_node(node).into_iter().filter(|r| r.meant_to_run()) {
        schedule.now(&ServerKey::Container(record.id.clone()));
    }
}

/// Something was wanted or seen of a container, or it is gone. Others' containers come and go too, and are nobody's to check.
async fn container_changed(app: &App, schedule: &mut Schedule, id: &ContainerId) {
    let key = ServerKey::Container(id.clone());
    let record = app.index.get(id);
    let meant = record.as_ref().is_some_and(|r| r.meant_to_run());
    // It may be on its way up, or Docker starts it again in a moment: that is no outage yet.
    if meant && !record.is_some_and(|r| matches!(r.status(), ContainerStatus::Running | ContainerStatus::Paused)) {
        schedule.at_latest(&key, Instant::now() + COMING_UP);
        return;
    }
    // One that is known and not meant to run was stopped, or is gone: the next check finds out which.
    if meant || schedule.slots.contains_key(&key) || app.health.knows(&key) {
        schedule.now(&key);
    }
}

async fn changed(app: &App, schedule: &mut Schedule, change: &Change) -> ApiResult<()> {
    let Subject::Resource(kind) = change.subject else { return Ok(()) };
    let key = match kind {
        Kind::Node => NodeId::parse(&change.id).ok().map(ServerKey::Node),
        Kind::Server => ServerId::parse(&change.id).ok().map(ServerKey::Address),
        Kind::Instance => InstanceId::parse(&change.id).ok().map(ServerKey::Instance),
        // Our own writes; what another replica says of how a server is checked is taken over.
        Kind::Health if change.what == What::Updated => {
            if let Some(key) = ServerKey::parse(&change.id) {
                app.health.refresh_config(&key).await?;
                schedule.now(&key);
            }
            return Ok(());
        }
        Kind::Setting if change.id.as_ref() == crate::service::health::SETTINGS => {
            app.health.refresh_settings().await?;
            // No server waits longer than the new interval.
            let there: Vec<ServerKey> = schedule.slots.keys().cloned().collect();
            for key in there {
                if let Some(interval) = app.health.interval(&key).await? {
                    schedule.at_latest(&key, Instant::now() + spread(interval));
                }
            }
            return Ok(());
        }
        _ => None,
    };
    let Some(key) = key else { return Ok(()) };
    if let ServerKey::Address(id) = &key {
        app.servers.refresh(id).await?;
    }
    match (change.what, &key) {
        (What::Deleted, _) => forget(app, schedule, &key).await,
        // It has joined, and connects in a moment.
        (What::Created, ServerKey::Node(_)) => {
            app.health.start_checking(&key).await?;
            schedule.at_latest(&key, Instant::now() + GRACE);
        }
        (What::Created | What::Updated | What::Status, _) => {
            app.health.start_checking(&key).await?;
            schedule.now(&key);
        }
    }
    Ok(())
}

/// Nothing is kept of it; what can't be removed now goes at the next start.
async fn forget(app: &App, schedule: &mut Schedule, key: &ServerKey) {
    schedule.forget(key);
    if let Err(error) = app.health.forget(key).await {
        tracing::warn!(server.id = %key, error = %error.message, "a server's health could not be forgotten");
    }
}

/// Writes what checks found. What can't be written now is tried again, and goes on being shown meanwhile.
pub async fn write_behind(app: App) {
    let mut stop = app.stop.clone();
    loop {
        tokio::select! {
            () = app.health.dirty().filled() => {}
            () = stopped(&mut stop) => break,
        }
        tokio::time::sleep(GATHER).await;
        flush(&app).await;
    }
    flush(&app).await;
    if let Err(error) = app.health.note_checked().await {
        tracing::warn!(error = %error.message, "it could not be noted until when servers were checked");
    }
}

async fn flush(app: &App) {
    for keys in app.health.dirty().take().chunks(500) {
        if let Err(error) = app.health.persist(keys).await {
            tracing::warn!(error = %error.message, "what checks found could not be written; trying again");
            for key in keys {
                app.health.dirty().add(key.clone());
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> ServerKey {
        ServerKey::parse(&format!("node_{n}_aaaaaaaaa")).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn servers_are_due_in_order_and_once() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        let at = |s: u64| start + Duration::from_secs(s);
        schedule.at_latest(&key(1), at(30));
        schedule.at_latest(&key(2), at(20));
        schedule.at_latest(&key(1), at(40));
        schedule.at_latest(&key(1), at(10));
        assert_eq!(schedule.next(), Some(at(10)));
        assert_eq!(schedule.take(at(5)), None);
        assert_eq!(schedule.take(at(25)), Some(key(1)));
        assert_eq!(schedule.take(at(25)), Some(key(2)));
        assert_eq!(schedule.take(at(50)), None, "the earlier places of a server are void");

        // What happens while it is checked has it checked again, a second after the check before at the earliest.
        schedule.at_latest(&key(1), at(26));
        assert_eq!(schedule.ended(&key(1)), Some(true));
        schedule.at_latest(&key(1), at(25));
        assert_eq!(schedule.next(), Some(at(26)));
        assert_eq!(schedule.ended(&key(2)), Some(false));

        schedule.forget(&key(1));
        assert_eq!(schedule.next(), None);
        assert_eq!(schedule.ended(&key(1)), None);
    }

    #[test]
    fn intervals_are_spread_by_a_tenth() {
        for _ in 0..100 {
            let span = spread(Duration::from_secs(100));
            assert!((Duration::from_secs(90)..=Duration::from_secs(110)).contains(&span), "{span:?}");
        }
    }
}
