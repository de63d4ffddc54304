//! What happened on this node, numbered and on disk, until control planes have read it and for a while longer: at most 10,000
//! events and 8 MB, whichever comes first.
//!
//! Invariants
//! - An event is told to nobody before it is on disk for good, so that no number is ever given twice.
//! - Nothing is told twice: what the journal says is itself the memory of what was told ([`state`]). Docker's past events and a
//!   look at everything after each new connection make up for what happened while nobody listened.
//! - Nothing that happens waits for the disk: events are handed to a thread of their own ([`writer`], [`segments`]).

mod segments;
mod state;
mod writer;

pub use state::Looked;
pub use writer::WriterEnd;

use crate::docker::wire::Event;
use nm_link::contract::{JournalEnd, JournalEvent, JournalPage, JournalQuery, labels};
use nm_types::container::ContainerHealth;
use nm_types::node_event::{NodeEventDetail, NodeEventKind as Kind};
use nm_types::{ContainerId, Timestamp};
use segments::Segments;
use serde::{Deserialize, Serialize};
use state::State;
use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use tokio::sync::watch;

/// The longest text an event carries; Docker's own are shorter.
const TEXT: usize = 1000;
/// The most events one answer has.
const PAGE: u32 = 1000;

/// One event, before it has its number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Unix nanoseconds, as Docker tells its events apart.
    nanos: i64,
    kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    docker_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<ContainerId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default)]
    detail: NodeEventDetail,
}

impl Entry {
    fn of_node(kind: Kind, nanos: i64, message: Option<&str>) -> Self {
        Self {
            nanos,
            kind,
            docker_id: None,
            id: None,
            name: None,
            detail: NodeEventDetail {
                message: message.map(|m| m.chars().take(TEXT).collect()),
                ..NodeEventDetail::default()
            },
        }
    }

    fn numbered(self, seq: i64) -> JournalEvent {
        JournalEvent {
            seq,
            time: Timestamp(self.nanos / 1_000_000),
            kind: self.kind,
            docker_id: self.docker_id,
            id: self.id,
            name: self.name,
            detail: self.detail,
        }
    }
}

enum Order {
    Write(Vec<Entry>),
    Stop,
}

/// The journal's handle.
pub struct Journal {
    state: Mutex<State>,
    orders: mpsc::Sender<Order>,
    segments: Arc<Mutex<Segments>>,
    end: watch::Receiver<JournalEnd>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Journal {
    /// Reads what is there; `now` in unix milliseconds. The second value does the writing, on a thread.
    pub fn open(data_dir: &Path, now: i64) -> std::io::Result<(Self, WriterEnd)> {
        let mut state = State::default();
        let segments = Segments::open(data_dir.join("journal"), now, |entry| state.replay(entry))?;
        state.begin(segments.journal());
        let (tell, end) = watch::channel(segments.end());
        let segments = Arc::new(Mutex::new(segments));
        let (orders, received) = mpsc::channel();
        let writer = WriterEnd::new(received, segments.clone(), tell);
        Ok((
            Self {
                state: Mutex::new(state),
                orders,
                segments,
                end,
            },
            writer,
        ))
    }

    fn note(&self, take: impl FnOnce(&mut State) -> Vec<Entry>) {
        let mut state = lock(&self.state);
        let entries = take(&mut state);
        if !entries.is_empty() {
            // Under the lock, so that the journal has the order of the state. A writer that has ended ends with the agent.
            drop(self.orders.send(Order::Write(entries)));
        }
    }

    /// One of Docker's events, past or present, of a container that users call `name`.
    pub fn event(&self, event: &Event, name: impl FnOnce(Option<&ContainerId>) -> Option<String>) {
        let Some((kind, detail)) = meaning(event) else { return };
        let id = event.actor.attributes.get(labels::ID).and_then(|l| ContainerId::parse(l).ok());
        let name = name(id.as_ref()).or_else(|| event.actor.attributes.get("name").cloned());
        let entry = Entry {
            nanos: event.time_nano,
            kind,
            docker_id: Some(event.actor.id.clone()),
            name: name.map(|n| n.chars().take(TEXT).collect()),
            id,
            detail,
        };
        self.note(|state| state.take(entry));
    }

    /// The kernel's count of kills for want of memory rose; Docker's own event may say the same.
    pub fn oom(&self, nanos: i64, docker_id: &str, id: Option<&ContainerId>, name: &str) {
        let entry = Entry {
            nanos,
            kind: Kind::Oom,
            docker_id: Some(docker_id.to_owned()),
            id: id.cloned(),
            name: Some(name.to_owned()),
            detail: NodeEventDetail::default(),
        };
        self.note(|state| state.take(entry));
    }

    /// The engine answers, and these are all of its containers; `now` in unix nanoseconds.
    pub fn engine_up(&self, now: i64, version: &str, all: &[Looked<'_>]) {
        self.note(|state| {
            let mut entries = state.engine(Entry::of_node(Kind::EngineUp, now, Some(version)));
            entries.extend(all.iter().flat_map(|seen| state.look(seen)));
            let there: HashSet<&str> = all.iter().map(|seen| seen.docker_id).collect();
            entries.extend(state.missing(&there, now));
            entries
        });
    }

    pub fn engine_down(&self, now: i64, why: &str) {
        self.note(|state| state.engine(Entry::of_node(Kind::EngineDown, now, Some(why))));
    }

    pub fn agent_started(&self, now: i64) {
        self.note(|_| vec![Entry::of_node(Kind::AgentStarted, now, Some(env!("CARGO_PKG_VERSION")))]);
    }

    /// How far it reaches, as long as it lasts.
    pub fn end(&self) -> watch::Receiver<JournalEnd> {
        self.end.clone()
    }

    /// A part of it. Reads files.
    pub fn read(&self, query: &JournalQuery) -> std::io::Result<JournalPage> {
        let segments = lock(&self.segments);
        let end = segments.end();
        let after = if query.journal == end.journal { query.after } else { 0 };
        let events = segments.read(after, query.limit.clamp(1, PAGE) as usize)?;
        Ok(JournalPage { end, events })
    }

    /// Lets the writer end once all is written.
    pub fn stop(&self) {
        drop(self.orders.send(Order::Stop));
    }
}

/// What one of Docker's events says, where it is one that is kept.
fn meaning(event: &Event) -> Option<(Kind, NodeEventDetail)> {
    if event.kind != "container" || event.actor.id.is_empty() {
        return None;
    }
    let plain = |kind| Some((kind, NodeEventDetail::default()));
    match event.action.as_str() {
        "create" => plain(Kind::Created),
        "start" => plain(Kind::Started),
        "oom" => plain(Kind::Oom),
        "destroy" => plain(Kind::Removed),
        "die" => {
            let exit_code = event.actor.attributes.get("exitCode").and_then(|c| c.parse().ok());
            Some((
                Kind::Died,
                NodeEventDetail {
                    exit_code,
                    ..NodeEventDetail::default()
                },
            ))
        }
        action => {
            let health = match action.strip_prefix("health_status:")?.trim() {
                "healthy" => ContainerHealth::Healthy,
                "unhealthy" => ContainerHealth::Unhealthy,
                "starting" => ContainerHealth::Starting,
                _ => return None,
            };
            Some((
                Kind::Health,
                NodeEventDetail {
                    health: Some(health),
                    ..NodeEventDetail::default()
                },
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(action: &str, attributes: &[(&str, &str)]) -> Event {
        let attributes: serde_json::Map<_, _> = attributes.iter().map(|(k, v)| ((*k).to_owned(), (*v).into())).collect();
        serde_json::from_value(serde_json::json!({
            "Type": "container", "Action": action, "Actor": { "ID": "d1", "Attributes": attributes }, "timeNano": 5
        }))
        .unwrap()
    }

    #[test]
    fn dockers_events_and_what_they_mean() {
        let kind = |action: &str| meaning(&event(action, &[])).map(|(kind, _)| kind);
        for (action, wanted) in [
            ("create", Some(Kind::Created)),
            ("start", Some(Kind::Started)),
            ("die", Some(Kind::Died)),
            ("oom", Some(Kind::Oom)),
            ("destroy", Some(Kind::Removed)),
            ("health_status: healthy", Some(Kind::Health)),
            ("health_status: running", None),
            ("kill", None),
            ("exec_die", None),
        ] {
            assert_eq!(kind(action), wanted, "{action}");
        }
        let (_, died) = meaning(&event("die", &[("exitCode", "137")])).unwrap();
        assert_eq!(died.exit_code, Some(137));
        let (_, health) = meaning(&event("health_status: unhealthy", &[])).unwrap();
        assert_eq!(health.health, Some(ContainerHealth::Unhealthy));
    }
}
