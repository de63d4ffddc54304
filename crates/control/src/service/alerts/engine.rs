//! What becomes of alerts: each look at a server goes through [`nm_plan::alerts::step`], and what changed is written in one
//! transaction with the deliveries it makes.

use super::outbox::{DeliverySpec, DeliveryStatus, Told};
use super::sights::{Look, Server};
use super::{Alerts, Config, Key, Rule, locked, rows};
use crate::api::error::ApiResult;
use nm_plan::alerts::{
    FLAPPING_FIRINGS, FLAPPING_WINDOW_MS, Facts, Firing, Notice, Pace, RESTARTS_WINDOW_MS, Track, earliest, step, young,
};
use nm_store::{Kind, NewResource, Patch, Resource, StoreError, Tx};
use nm_types::alert::{AlertEvent, AlertNote, AlertSeverity, AlertState, AlertTargetKind, AlertView};
use nm_types::text::Title;
use nm_types::{AlertId, AlertRuleId, ChannelId, ContainerId, DeliveryId, NodeId, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

/// The parents of alerts that go on, and of those that are over: lists ask for either.
pub(super) const OPEN: &str = "open";
pub(super) const CLOSED: &str = "closed";

/// An alert's spec column: what it is of, as it was when it began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AlertSpec {
    pub rule_id: AlertRuleId,
    pub rule_name: Title,
    pub server_id: String,
    pub server_name: String,
    pub server_kind: AlertTargetKind,
    pub severity: AlertSeverity,
    /// The rule's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<AlertNote>,
}

/// An alert's status column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AlertStatus {
    pub state: AlertState,
    pub since: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fired_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    pub message: String,
    #[serde(default)]
    pub flapping: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged_by: Option<String>,
    /// The channels that know that it fires: they hear of its end.
    #[serde(default)]
    pub told: BTreeSet<ChannelId>,
    /// How many notices it has made; they are delivered in this order.
    #[serde(default)]
    pub notices: u32,
}

/// As the API shows it.
pub(super) fn view(id: AlertId, spec: &AlertSpec, status: &AlertStatus) -> AlertView {
    let message = match &spec.note {
        Some(note) => format!("{}\n{note}", status.message),
        None => status.message.clone(),
    };
    AlertView {
        id,
        rule_id: spec.rule_id.clone(),
        rule_name: spec.rule_name.clone(),
        server_id: spec.server_id.clone(),
        server_name: spec.server_name.clone(),
        server_kind: spec.server_kind,
        severity: spec.severity,
        state: status.state,
        since: status.since,
        fired_at: status.fired_at,
        resolved_at: status.resolved_at,
        value: status.value,
        message,
        flapping: status.flapping,
        silenced_by: None,
        acknowledged_at: status.acknowledged_at,
        acknowledged_by: status.acknowledged_by.clone(),
    }
}

/// An alert that goes on.
#[derive(Debug, Clone)]
pub(super) struct Active {
    id: AlertId,
    revision: i64,
    spec: AlertSpec,
    status: AlertStatus,
    /// Since when all has been well with it, and when to look again: both found anew after a start.
    well_since: Option<Timestamp>,
    wake: Option<Timestamp>,
}

impl Active {
    fn track(&self) -> Track {
        match (self.status.state, self.status.fired_at) {
            (AlertState::Firing, Some(fired_at)) => Track::Firing(Firing {
                since: self.status.since,
                fired_at,
                told_at: self.status.told_at,
                well_since: self.well_since,
                acknowledged: self.status.acknowledged_at.is_some(),
            }),
            (AlertState::Pending, _) => Track::Pending { since: self.status.since },
            (AlertState::Firing | AlertState::Resolved, _) => Track::Quiet,
        }
    }
}

/// Which alert: of a server, by a rule; their ids.
type AlertKey = (String, String);

/// An alert's row is found by this name.
fn row_name(key: &AlertKey) -> String {
    format!("{}/{}", key.1, key.0)
}

/// The counts of a container's restarts within the last minutes, as far as we watched.
#[derive(Debug, Default)]
struct Restarts(VecDeque<(Timestamp, u64)>);

impl Restarts {
    /// Notes a count. Gives how many there were within the window, and when that number falls by the passing of time.
    fn note(&mut self, count: u64, now: Timestamp) -> (u64, Option<Timestamp>) {
        let last = self.0.back().map(|(_, n)| *n);
        if last.is_some_and(|last| count < last) {
            // It was made anew.
            self.0.clear();
        }
        if last != Some(count) {
            self.0.push_back((now, count));
        }
        // The newest count from before the window is what to count from.
        while self.0.get(1).is_some_and(|(at, _)| now.since(*at) >= RESTARTS_WINDOW_MS) {
            self.0.pop_front();
        }
        let from = self.0.front().map_or(count, |(_, n)| *n);
        let falls = self.0.get(1).map(|(at, _)| at.plus_millis(RESTARTS_WINDOW_MS));
        (count.saturating_sub(from), falls)
    }
}

/// The alerts that go on, and what must be remembered to judge.
#[derive(Debug, Default)]
pub(super) struct Book {
    active: BTreeMap<AlertKey, Active>,
    /// When alerts fired within the last hour.
    firings: HashMap<AlertKey, Vec<Timestamp>>,
    restarts: HashMap<ContainerId, Restarts>,
    /// Nodes that were connected since we started.
    pub(super) came: HashSet<NodeId>,
    pub(super) grace_is_over: bool,
    /// The last commit failed in a way that leaves open whether it was carried out.
    in_doubt: bool,
}

impl Book {
    /// Takes in an alert's row as it stands in the store.
    pub(super) fn learn(&mut self, row: &Resource) -> ApiResult<()> {
        let (spec, status): (AlertSpec, AlertStatus) = (row.spec()?, row.status()?);
        let key = (spec.server_id.clone(), spec.rule_id.to_string());
        if let Some(fired_at) = status.fired_at {
            let firings = self.firings.entry(key.clone()).or_default();
            if !firings.contains(&fired_at) {
                firings.push(fired_at);
            }
        }
        if status.state == AlertState::Resolved {
            return Ok(());
        }
        let id = rows::id(AlertId::parse(&row.id))?;
        let held = self.active.get(&key).filter(|held| held.id == id);
        let (well_since, wake) = held.map_or((None, None), |held| (held.well_since, held.wake));
        let active = Active {
            id,
            revision: row.revision,
            spec,
            status,
            well_since,
            wake,
        };
        self.active.insert(key, active);
        Ok(())
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = Key> {
        self.active.values().filter_map(|a| Key::of(a.spec.server_kind, &a.spec.server_id))
    }

    /// Those whose time has come.
    pub(super) fn due(&self, now: Timestamp) -> impl Iterator<Item = Key> {
        self.active
            .values()
            .filter(move |a| a.wake.is_some_and(|at| at <= now))
            .filter_map(|a| Key::of(a.spec.server_kind, &a.spec.server_id))
    }

    pub(super) fn next_wake(&self) -> Option<Timestamp> {
        self.active.values().filter_map(|a| a.wake).min()
    }

    /// Notes how often a container was restarted.
    pub(super) fn restarted(&mut self, container: &ContainerId, count: u64, now: Timestamp) -> (u64, Option<Timestamp>) {
        self.restarts.entry(container.clone()).or_default().note(count, now)
    }

    fn forget(&mut self, key: &AlertKey, now: Timestamp) {
        self.active.remove(key);
        // What is too old to count need not be kept; this is where most of it is met.
        self.firings.retain(|_, at| {
            at.retain(|at| now.since(*at) < FLAPPING_WINDOW_MS);
            !at.is_empty()
        });
    }
}

/// What one look led to.
enum Change {
    Begin,
    Goes,
    End,
    /// It was never more than pending.
    Drop,
}

struct Turn {
    key: AlertKey,
    change: Change,
    /// As it is to be afterwards.
    active: Active,
    notices: Vec<(AlertEvent, Vec<ChannelId>)>,
}

impl Alerts {
    /// Looks at each of `keys`, and writes what changed.
    pub(super) async fn turn(&self, book: &mut Book, config: &Config, keys: BTreeSet<Key>, now: Timestamp) -> ApiResult<()> {
        let mut turns = Vec::new();
        for key in &keys {
            self.judge(book, config, key, now, &mut turns);
        }
        if turns.is_empty() {
            return Ok(());
        }
        self.write(book, config, turns, now).await
    }

    fn judge(&self, book: &mut Book, config: &Config, key: &Key, now: Timestamp, turns: &mut Vec<Turn>) {
        let server = self.server(key);
        let mut looked = HashSet::new();
        if let Some(server) = &server {
            if let (Key::Node(node), true) = (key, server.is_connected()) {
                book.came.insert(node.clone());
            }
            for rule in config.rules.iter().filter(|r| r.spec.enabled && server.is_meant(&r.spec)) {
                let alert = (server.id.clone(), rule.id.to_string());
                let look = self.sight(book, &rule.spec.condition, server, now);
                turns.extend(decide(book, config, Some((rule, server)), &alert, look, now));
                looked.insert(alert.1);
            }
        } else if let Key::Container(container) = key {
            book.restarts.remove(container);
        }
        // What no rule looks at any more is over.
        let id = key.id().to_owned();
        let left: Vec<AlertKey> = book
            .active
            .range((id.clone(), String::new())..)
            .take_while(|((server, _), _)| *server == id)
            .filter(|((_, rule), _)| !looked.contains(rule))
            .map(|(alert, _)| alert.clone())
            .collect();
        for alert in left {
            let look = Look::gone(server.is_some());
            turns.extend(decide(book, config, None, &alert, look, now));
        }
    }

    async fn write(&self, book: &mut Book, config: &Config, mut turns: Vec<Turn>, now: Timestamp) -> ApiResult<()> {
        let mut tx = self.store.begin(now).await?;
        let mut deliveries = Vec::new();
        // Alerts that are not as we thought, for another control plane was faster.
        let mut others: Vec<(AlertKey, Option<Resource>)> = Vec::new();
        for turn in &mut turns {
            match write_alert(&mut tx, turn).await? {
                Written::Done(revision) => turn.active.revision = revision,
                Written::Other(row) => {
                    others.push((turn.key.clone(), row.map(|r| *r)));
                    continue;
                }
            }
            let first = turn.active.status.notices - turn.notices.len() as u32;
            for (n, (event, channels)) in turn.notices.iter().enumerate() {
                let told = Told {
                    event: *event,
                    at: now,
                    alert: view(turn.active.id.clone(), &turn.active.spec, &turn.active.status),
                };
                for channel in channels.iter().filter(|c| config.channels.contains_key(*c)) {
                    let spec = DeliverySpec {
                        alert: turn.active.id.clone(),
                        channel: channel.clone(),
                        sequence: first + n as u32,
                        told: told.clone(),
                    };
                    let id = DeliveryId::fresh(now.0);
                    let status = DeliveryStatus::first(now);
                    let row = NewResource::new(Kind::AlertDelivery, id.as_str())
                        .within(turn.active.id.as_str())
                        .spec(&spec)?
                        .status(&status)?;
                    tx.insert(row).await?;
                    deliveries.push((id, spec, status));
                }
            }
        }
        if let Err(error) = tx.commit().await {
            book.in_doubt = true;
            return Err(error.into());
        }
        if std::mem::take(&mut book.in_doubt) {
            // What was written after all has its deliveries in the store alone.
            self.outbox.load(self.store.all(Kind::AlertDelivery).await?)?;
        }
        for turn in turns {
            if others.iter().any(|(key, _)| *key == turn.key) {
                continue;
            }
            log(&turn);
            if let (Change::Begin | Change::Goes, Some(fired_at)) = (&turn.change, turn.active.status.fired_at) {
                let firings = book.firings.entry(turn.key.clone()).or_default();
                if !firings.contains(&fired_at) {
                    firings.push(fired_at);
                }
            }
            match turn.change {
                Change::Begin | Change::Goes => drop(book.active.insert(turn.key, turn.active)),
                Change::End | Change::Drop => book.forget(&turn.key, now),
            }
        }
        for (key, row) in others {
            book.active.remove(&key);
            if let Some(row) = row {
                book.learn(&row)?;
            }
            let again = Key::of(AlertTargetKind::Node, &key.0)
                .or_else(|| Key::of(AlertTargetKind::Container, &key.0))
                .unwrap_or(Key::Address(key.0));
            locked(&self.asked).keys.insert(again);
            self.wake.notify_one();
        }
        self.outbox.add(deliveries);
        Ok(())
    }
}

/// One step of one alert; `None` where nothing is to be written.
fn decide(book: &mut Book, config: &Config, by: Option<(&Rule, &Server)>, key: &AlertKey, look: Look, now: Timestamp) -> Option<Turn> {
    let held = book.active.get(key);
    let spec = match (held, by) {
        (Some(held), _) => held.spec.clone(),
        (None, Some((rule, server))) => AlertSpec {
            rule_id: rule.id.clone(),
            rule_name: rule.name.clone(),
            server_id: server.id.clone(),
            server_name: server.name.clone(),
            server_kind: server.kind,
            severity: rule.spec.severity,
            note: rule.spec.message.clone(),
        },
        (None, None) => return None,
    };
    let pace = by.map_or(Pace { hold: 0, repeat: None }, |(rule, _)| rule.spec.pace());
    let firings = book.firings.get(key).map(Vec::as_slice).unwrap_or_default();
    let silent_until = config
        .silence(&spec.rule_id, &spec.server_id, spec.severity, now)
        .map(|(_, until)| until);
    let was = held.map_or(Track::Quiet, Active::track);
    let facts = Facts {
        now,
        sight: look.sight,
        silent_until,
        firings,
    };
    let next = step(pace, was, facts);
    let flapping = young(firings, now) + usize::from(!matches!(was, Track::Firing(_))) >= FLAPPING_FIRINGS;
    let wake = earliest(next.wake, look.wake);

    let (since, firing) = match next.to {
        Track::Pending { since } => (since, None),
        Track::Firing(firing) => (firing.since, Some(firing)),
        Track::Quiet => (held.map_or(now, |h| h.status.since), None),
    };
    let state = match next.to {
        Track::Pending { .. } => AlertState::Pending,
        Track::Firing(_) => AlertState::Firing,
        Track::Quiet => AlertState::Resolved,
    };
    let change = match (held, next.to, next.resolved) {
        (None, Track::Quiet, _) => return None,
        (None, Track::Pending { .. } | Track::Firing(_), _) => Change::Begin,
        (Some(_), Track::Quiet, true) => Change::End,
        (Some(_), Track::Quiet, false) => Change::Drop,
        (Some(_), Track::Pending { .. } | Track::Firing(_), _) => Change::Goes,
    };
    let old = held.map(|h| &h.status);
    let mut told = old.map(|s| s.told.clone()).unwrap_or_default();
    let wanted: Vec<ChannelId> = by.map(|(rule, _)| rule.spec.channels.clone()).unwrap_or_default();
    // A channel that was given to the rule meanwhile hears of what fires already.
    let late: Vec<ChannelId> = match firing {
        Some(f) if f.told_at.is_some() && !f.acknowledged && silent_until.is_none() && next.notice.is_none() => {
            wanted.iter().filter(|c| !told.contains(*c)).cloned().collect()
        }
        Some(_) | None => Vec::new(),
    };
    let mut notices = Vec::new();
    match next.notice {
        Some(Notice::Firing) => notices.push((AlertEvent::Firing, wanted)),
        Some(Notice::Reminder) => notices.push((AlertEvent::Reminder, wanted)),
        Some(Notice::Resolved) => notices.push((AlertEvent::Resolved, told.iter().cloned().collect())),
        None if !late.is_empty() => notices.push((AlertEvent::Firing, late)),
        None => {}
    }
    if !matches!(change, Change::End) {
        told.extend(notices.iter().flat_map(|(_, channels)| channels.iter().cloned()));
    }

    let is_same = old.is_some_and(|s| s.state == state && s.since == since) && notices.is_empty();
    if is_same && matches!(change, Change::Goes) {
        // Nothing that is worth a write.
        if let Some(held) = book.active.get_mut(key) {
            held.well_since = firing.and_then(|f| f.well_since);
            held.wake = wake;
        }
        return None;
    }
    let status = AlertStatus {
        state,
        since,
        fired_at: firing.map(|f| f.fired_at).or(old.and_then(|s| s.fired_at)),
        told_at: firing.and_then(|f| f.told_at).or(old.and_then(|s| s.told_at)),
        resolved_at: matches!(change, Change::End).then_some(now),
        value: look.value.or(old.and_then(|s| s.value)),
        message: look.message,
        flapping,
        acknowledged_at: old.and_then(|s| s.acknowledged_at),
        acknowledged_by: old.and_then(|s| s.acknowledged_by.clone()),
        told,
        notices: old.map_or(0, |s| s.notices) + notices.len() as u32,
    };
    Some(Turn {
        key: key.clone(),
        change,
        active: Active {
            id: held.map_or_else(|| AlertId::fresh(now.0), |h| h.id.clone()),
            revision: held.map_or(0, |h| h.revision),
            spec,
            status,
            well_since: firing.and_then(|f| f.well_since),
            wake,
        },
        notices,
    })
}

enum Written {
    /// At this revision.
    Done(i64),
    /// It is another one, or none, by now.
    Other(Option<Box<Resource>>),
}

async fn write_alert(tx: &mut Tx, turn: &Turn) -> Result<Written, StoreError> {
    let (id, active) = (turn.active.id.as_str(), &turn.active);
    let done = match turn.change {
        Change::Begin => {
            let name = row_name(&turn.key);
            if let Some(row) = tx.named(Kind::Alert, &name, Some(OPEN)).await?.into_iter().next() {
                return Ok(Written::Other(Some(Box::new(row))));
            }
            let row = NewResource::new(Kind::Alert, id)
                .named(name)
                .within(OPEN)
                .spec(&active.spec)?
                .status(&active.status)?;
            tx.insert(row).await
        }
        Change::Goes => {
            let patch = Patch::new().status(&active.status)?.if_revision(active.revision);
            tx.update(Kind::Alert, id, patch).await
        }
        Change::End => {
            let patch = Patch::new().status(&active.status)?.parent(CLOSED).if_revision(active.revision);
            tx.update(Kind::Alert, id, patch).await
        }
        Change::Drop => tx.delete(Kind::Alert, id).await,
    };
    match done {
        Ok(row) => Ok(Written::Done(row.revision)),
        Err(StoreError::Stale { .. } | StoreError::NotFound { .. }) => {
            let row = tx.get(Kind::Alert, id).await?;
            Ok(Written::Other(row.map(Box::new)))
        }
        Err(error) => Err(error),
    }
}

fn log(turn: &Turn) {
    let (id, spec, status) = (&turn.active.id, &turn.active.spec, &turn.active.status);
    let (server, rule) = (spec.server_id.as_str(), spec.rule_name.as_str());
    match (&turn.change, status.state) {
        (Change::End, _) => tracing::info!(alert.id = %id, server.id = server, rule, "an alert is over"),
        (Change::Begin | Change::Goes, AlertState::Firing) if turn.notices.is_empty() && status.told_at.is_some() => {}
        (Change::Begin | Change::Goes, AlertState::Firing) => {
            tracing::warn!(alert.id = %id, server.id = server, rule, severity = spec.severity.as_str(), "an alert fires")
        }
        (Change::Begin | Change::Goes | Change::Drop, _) => {
            tracing::debug!(alert.id = %id, server.id = server, rule, "an alert is pending, or no more")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_count_for_ten_minutes() {
        const MINUTE: i64 = 60_000;
        let at = |minute: i64| Timestamp(minute * MINUTE);
        let mut restarts = Restarts::default();
        // How often it was restarted before anybody watched says nothing.
        assert_eq!(restarts.note(7, at(0)), (0, None));
        assert_eq!(restarts.note(8, at(1)), (1, Some(at(11))));
        assert_eq!(restarts.note(9, at(2)), (2, Some(at(11))));
        assert_eq!(restarts.note(9, at(3)), (2, Some(at(11))));
        assert_eq!(restarts.note(10, at(10)), (3, Some(at(11))));
        assert_eq!(restarts.note(10, at(11)), (2, Some(at(12))));
        assert_eq!(restarts.note(10, at(30)), (0, None));
        // Made anew.
        assert_eq!(restarts.note(0, at(31)), (0, None));
    }
}
