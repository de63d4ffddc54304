//! Alerts: rules over what is seen, the alerts they make, and whom they tell.
//!
//! What is seen comes in through [`Alerts::observe`], which only notes whom to look at; [`Alerts::evaluate`] then reads the
//! truth anew, lets [`nm_plan::alerts`] decide, and writes each change of an alert in one transaction with the deliveries it
//! makes. What is in the outbox is sent by [`outbox`] until it is delivered or a day has passed. So a crash at any moment
//! loses no alert, and sends again only what it was sending.
//!
//! - [`rules`], [`channels`], [`silences`]: what users say.
//! - [`sights`]: what a rule sees of a server. [`engine`]: what becomes of it.
//! - [`outbox`], [`deliver`]: how it is told.

pub mod channels;
mod defaults;
pub mod deliver;
mod engine;
pub mod outbox;
mod rows;
pub mod rules;
mod sights;
pub mod silences;

use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::Meta;
use crate::service::audit::audit;
use crate::service::auth::Actor;
use crate::service::backups::Troubles;
use crate::service::clock::SharedClock;
use crate::service::fleet::Fleet;
use crate::service::idempotency::Fingerprints;
use crate::service::index::Index;
use crate::service::nodes::Nodes;
use crate::service::outbound::Guard;
use crate::service::refusals;
use arc_swap::ArcSwap;
use engine::{AlertSpec, AlertStatus, Book, CLOSED, OPEN};
use nm_plan::alerts::earliest;
use nm_store::{Kind, ListQuery, Patch, Resource, Store, Tx};
use nm_types::alert::{AlertDetail, AlertSeverity, AlertState, AlertTargetKind, AlertView};
use nm_types::health::Check;
use nm_types::text::Title;
use nm_types::{AlertId, AlertRuleId, ChannelId, ContainerId, NodeId, SilenceId, Timestamp};
use outbox::Outbox;
use rules::RuleSpec;
use serde_json::json;
use silences::SilenceSpec;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// How long after a start a node that has not come yet is taken for one on its way, and not for lost.
const GRACE_MS: i64 = 30_000;
/// How long alerts that are over are kept, and how many of them.
const KEEP_MS: i64 = 30 * 24 * 3_600_000;
const KEEP: usize = 5_000;
/// Rows removed in one transaction.
const BATCH: usize = 200;

/// Something was seen. It says what to look at; what it is now is read where it is known.
#[derive(Debug, Clone)]
pub enum Observation {
    /// What a node's machine uses.
    Host(NodeId),
    /// What the containers of a node use.
    Usage(NodeId),
    /// A node's containers came into sight, or went out of it.
    Containers(NodeId),
    /// A node came, went, or was changed or removed.
    Node(NodeId),
    /// A container was changed or removed.
    Container(ContainerId),
    /// The result of a health check.
    Health(HealthSeen),
    /// What is known of a server's backups changed.
    Backups(String),
    /// A server that was registered by hand is gone.
    Forgotten(String),
    /// Rules, channels or silences changed.
    Rules,
    /// Something was missed: look at everything.
    Everything,
}

/// How well a server is, as its last health check found it.
#[derive(Debug, Clone, PartialEq)]
pub struct HealthSeen {
    pub server: String,
    pub name: String,
    pub kind: AlertTargetKind,
    /// Of a server that was registered by hand; nodes and containers have theirs elsewhere.
    pub labels: BTreeMap<String, String>,
    pub status: SeenHealth,
    /// Each check that was asked for, and what it saw in words.
    pub checks: BTreeMap<Check, (SeenHealth, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeenHealth {
    Healthy,
    /// Some of its checks failed, but not enough for unhealthy.
    Degraded,
    Unhealthy,
    /// It was not checked, or nothing could be measured.
    Unknown,
}

/// Whom to look at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Key {
    Node(NodeId),
    Container(ContainerId),
    Address(String),
}

impl Key {
    fn of(kind: AlertTargetKind, id: &str) -> Option<Self> {
        match kind {
            AlertTargetKind::Node => NodeId::parse(id).ok().map(Self::Node),
            AlertTargetKind::Container => ContainerId::parse(id).ok().map(Self::Container),
            AlertTargetKind::Address => Some(Self::Address(id.to_owned())),
        }
    }
}

/// What was asked to be looked at since the last look.
#[derive(Debug, Default)]
struct Asked {
    keys: BTreeSet<Key>,
    /// Nodes all of whose containers are meant.
    containers: BTreeSet<NodeId>,
    everything: bool,
    rules: bool,
}

/// A rule, a silence, a channel's name as they are now.
struct Rule {
    id: AlertRuleId,
    name: Title,
    spec: RuleSpec,
}

struct Silenced {
    id: SilenceId,
    spec: SilenceSpec,
}

#[derive(Default)]
struct Config {
    rules: Vec<Rule>,
    channels: HashMap<ChannelId, Title>,
    silences: Vec<Silenced>,
    /// Whether any rule is about what nodes, or containers, use: word of it comes every two seconds from each node.
    wants_host: bool,
    wants_usage: bool,
}

impl Config {
    /// The silence that covers an alert, and ends last.
    fn silence(&self, rule: &AlertRuleId, server: &str, severity: AlertSeverity, now: Timestamp) -> Option<(&SilenceId, Timestamp)> {
        self.silences
            .iter()
            .filter(|s| s.spec.as_plan().covers(rule.as_str(), server, severity, now))
            .map(|s| (&s.id, s.spec.until))
            .max_by_key(|(_, until)| *until)
    }
}

/// All of it. Cheap to clone.
#[derive(Clone)]
pub struct Alerts(Arc<Parts>);

pub struct Parts {
    store: Store,
    clock: SharedClock,
    nodes: Nodes,
    index: Index,
    fleet: Fleet,
    guard: Guard,
    /// What is wrong with the backups of each server.
    backups: Troubles,
    fingerprints: Fingerprints,
    started: Timestamp,
    config: ArcSwap<Config>,
    /// By server id.
    health: Mutex<HashMap<String, Arc<HealthSeen>>>,
    asked: Mutex<Asked>,
    wake: Notify,
    /// Held while alerts are changed, so that one change follows the other.
    book: tokio::sync::Mutex<Book>,
    pub outbox: Outbox,
}

impl std::ops::Deref for Alerts {
    type Target = Parts;
    fn deref(&self) -> &Parts {
        &self.0
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which alerts a list wants.
#[derive(Debug, Clone, Default)]
pub struct AlertFilter {
    pub state: Option<AlertState>,
    pub severity: Option<AlertSeverity>,
    pub rule: Option<AlertRuleId>,
    pub server: Option<String>,
}

impl Alerts {
    pub fn new(store: Store, clock: SharedClock, nodes: Nodes, index: Index, fleet: Fleet, guard: Guard, backups: Troubles) -> Self {
        Self(Arc::new(Parts {
            fingerprints: Fingerprints::new(&store),
            started: clock.now(),
            store,
            clock,
            nodes,
            index,
            fleet,
            guard,
            backups,
            config: ArcSwap::default(),
            health: Mutex::default(),
            asked: Mutex::default(),
            wake: Notify::new(),
            book: tokio::sync::Mutex::default(),
            outbox: Outbox::default(),
        }))
    }

    /// Reads what the store holds, and makes the rules every fleet begins with where this is the first start.
    pub async fn load(&self) -> ApiResult<()> {
        self.make_defaults().await?;
        self.reload().await?;
        let mut book = self.book.lock().await;
        for row in self.store.all(Kind::Alert).await? {
            book.learn(&row)?;
        }
        drop(book);
        self.outbox.load(self.store.all(Kind::AlertDelivery).await?)?;
        self.observe(Observation::Everything);
        Ok(())
    }

    /// Notes that something was seen. It never waits.
    pub fn observe(&self, seen: Observation) {
        let mut asked = locked(&self.asked);
        match seen {
            Observation::Host(node) if self.config.load().wants_host => drop(asked.keys.insert(Key::Node(node))),
            Observation::Usage(node) if self.config.load().wants_usage => drop(asked.containers.insert(node)),
            Observation::Host(_) | Observation::Usage(_) => return,
            Observation::Containers(node) => drop(asked.containers.insert(node)),
            Observation::Node(node) => {
                // Its going takes its containers out of sight, and its coming shows them again.
                asked.containers.insert(node.clone());
                asked.keys.insert(Key::Node(node));
            }
            Observation::Container(container) => drop(asked.keys.insert(Key::Container(container))),
            Observation::Health(seen) => {
                let Some(key) = Key::of(seen.kind, &seen.server) else { return };
                asked.keys.insert(key);
                locked(&self.health).insert(seen.server.clone(), Arc::new(seen));
            }
            Observation::Backups(server) => {
                let node = NodeId::parse(&server).map(Key::Node);
                let Ok(key) = node.or_else(|_| ContainerId::parse(&server).map(Key::Container)) else {
                    return;
                };
                asked.keys.insert(key);
            }
            Observation::Forgotten(server) => {
                locked(&self.health).remove(&server);
                asked.keys.insert(Key::Address(server));
            }
            Observation::Rules => asked.rules = true,
            Observation::Everything => asked.everything = true,
        }
        drop(asked);
        self.wake.notify_one();
    }

    /// Waits until something was seen.
    pub async fn seen(&self) {
        self.wake.notified().await;
    }

    /// Looks at all that was asked for since the last time and at what has its time now. Gives when to look again at the
    /// latest. What could not be written is asked for again.
    pub async fn evaluate(&self) -> ApiResult<Option<Timestamp>> {
        let asked = std::mem::take(&mut *locked(&self.asked));
        match self.look(&asked).await {
            Ok(next) => Ok(next),
            Err(error) => {
                let mut again = locked(&self.asked);
                again.keys.extend(asked.keys);
                again.containers.extend(asked.containers);
                again.everything |= asked.everything;
                again.rules |= asked.rules;
                Err(error)
            }
        }
    }

    async fn look(&self, asked: &Asked) -> ApiResult<Option<Timestamp>> {
        if asked.rules {
            self.reload().await?;
        }
        let config = self.config.load_full();
        let mut book = self.book.lock().await;
        let now = self.clock.now();
        let grace = Some(self.started.plus_millis(GRACE_MS)).filter(|_| !book.grace_is_over);
        let grace_ends = grace.is_some_and(|at| at <= now);
        let keys = if asked.everything || asked.rules || grace_ends {
            self.every_key(&book)
        } else {
            self.keys(&book, asked, now)
        };
        self.turn(&mut book, &config, keys, now).await?;
        book.grace_is_over |= grace_ends;
        Ok(earliest(book.next_wake(), grace.filter(|_| !grace_ends)))
    }

    fn keys(&self, book: &Book, asked: &Asked, now: Timestamp) -> BTreeSet<Key> {
        let mut keys = asked.keys.clone();
        for node in &asked.containers {
            keys.extend(self.index.ids_on(node).into_iter().map(Key::Container));
        }
        keys.extend(book.due(now));
        keys
    }

    fn every_key(&self, book: &Book) -> BTreeSet<Key> {
        let mut keys: BTreeSet<Key> = book.keys().collect();
        keys.extend(self.nodes.ids().into_iter().map(Key::Node));
        keys.extend(self.index.ids().into_iter().map(Key::Container));
        keys.extend(locked(&self.health).values().filter_map(|h| Key::of(h.kind, &h.server)));
        keys
    }

    /// Writes what changes rules, channels or silences. Whatever is seen from now on is judged by what is written here: the change
    /// feed tells of it as well, but later.
    async fn settle(&self, tx: Tx) -> ApiResult<()> {
        tx.commit().await?;
        self.observe(Observation::Rules);
        Ok(())
    }

    /// Reads rules, channels and silences anew.
    async fn reload(&self) -> ApiResult<()> {
        let mut config = Config::default();
        for row in self.store.all(Kind::AlertRule).await? {
            config.rules.push(Rule {
                id: rows::id(AlertRuleId::parse(&row.id))?,
                name: rows::title(&row)?,
                spec: row.spec()?,
            });
        }
        for row in self.store.all(Kind::AlertChannel).await? {
            config.channels.insert(rows::id(ChannelId::parse(&row.id))?, rows::title(&row)?);
        }
        for row in self.store.all(Kind::AlertSilence).await? {
            config.silences.push(Silenced {
                id: rows::id(SilenceId::parse(&row.id))?,
                spec: row.spec()?,
            });
        }
        let about = |kind| {
            config
                .rules
                .iter()
                .any(|r| r.spec.enabled && r.spec.metric().is_some_and(|m| m.kind() == kind))
        };
        config.wants_host = about(AlertTargetKind::Node);
        config.wants_usage = about(AlertTargetKind::Container);
        self.config.store(Arc::new(config));
        Ok(())
    }

    fn view(&self, row: &Resource) -> ApiResult<AlertView> {
        let (spec, status): (AlertSpec, AlertStatus) = (row.spec()?, row.status()?);
        let mut view = engine::view(rows::id(AlertId::parse(&row.id))?, &spec, &status);
        if view.state != AlertState::Resolved {
            let config = self.config.load();
            view.silenced_by = config
                .silence(&view.rule_id, &view.server_id, view.severity, self.clock.now())
                .map(|(id, _)| id.clone());
        }
        Ok(view)
    }

    /// A page, newest first, and where the next begins.
    pub async fn list(&self, filter: &AlertFilter, after: Option<&AlertId>, limit: usize) -> ApiResult<(Vec<AlertView>, Option<AlertId>)> {
        const READ: u32 = 200;
        let parent = filter.state.map(|s| if s == AlertState::Resolved { CLOSED } else { OPEN });
        let (mut found, mut after): (Vec<AlertView>, Option<String>) = (Vec::new(), after.map(ToString::to_string));
        loop {
            let query = ListQuery {
                parent,
                after: after.as_deref(),
                newest_first: true,
                ..ListQuery::of(Kind::Alert, READ)
            };
            let rows = self.store.list(query).await?;
            for row in &rows {
                let view = self.view(row)?;
                let wanted = filter.state.is_none_or(|s| s == view.state)
                    && filter.severity.is_none_or(|s| s == view.severity)
                    && filter.rule.as_ref().is_none_or(|r| *r == view.rule_id)
                    && filter.server.as_ref().is_none_or(|s| *s == view.server_id);
                if !wanted {
                    continue;
                }
                if found.len() == limit {
                    let next = found.last().map(|a| a.id.clone());
                    return Ok((found, next));
                }
                found.push(view);
            }
            match rows.last() {
                Some(last) if rows.len() == READ as usize => after = Some(last.id.clone()),
                Some(_) | None => return Ok((found, None)),
            }
        }
    }

    /// What state an alert is in, where there is one.
    pub async fn state(&self, id: &str) -> Option<AlertState> {
        let row = self.store.get(Kind::Alert, id).await.ok()??;
        row.status::<AlertStatus>().ok().map(|s| s.state)
    }

    async fn row(&self, id: &str) -> ApiResult<Resource> {
        self.store
            .get(Kind::Alert, id)
            .await?
            .ok_or_else(|| ApiError::not_found("alert", id))
    }

    /// One alert with its deliveries.
    pub async fn get(&self, id: &str) -> ApiResult<(AlertDetail, i64)> {
        let row = self.row(id).await?;
        let deliveries = self.deliveries(&row.id).await?;
        let alert = self.view(&row)?;
        Ok((AlertDetail { alert, deliveries }, row.revision))
    }

    /// Somebody looks after it: no reminders are sent from now on.
    pub async fn acknowledge(&self, actor: &Actor, meta: &Meta, id: &str) -> ApiResult<(AlertView, i64)> {
        // The engine waits meanwhile, so that neither overwrites the other.
        let mut book = self.book.lock().await;
        let row = self.row(id).await?;
        refusals::if_match(&row, meta)?;
        let mut status: AlertStatus = row.status()?;
        if status.state == AlertState::Resolved {
            return Err(ApiError::conflict(
                "alert_resolved",
                "this alert is over: there is nothing to look after",
            ));
        }
        if status.acknowledged_at.is_some() {
            return Ok((self.view(&row)?, row.revision));
        }
        let now = self.clock.now();
        status.acknowledged_at = Some(now);
        status.acknowledged_by = Some(actor.label());
        let mut tx = self.store.begin(now).await?;
        let patch = Patch::new().status(&status)?.if_revision(row.revision);
        let row = tx.update(Kind::Alert, &row.id, patch).await?;
        let spec: AlertSpec = row.spec()?;
        let detail = json!({ "rule": spec.rule_name, "server": spec.server_name });
        tx.audit(audit(actor, meta, "alert.acknowledge", Some(&row.id), detail)).await?;
        tx.commit().await?;
        book.learn(&row)?;
        Ok((self.view(&row)?, row.revision))
    }

    /// Drops what is over for long, with its deliveries, and silences that ended long ago.
    pub async fn sweep(&self) -> ApiResult<usize> {
        let now = self.clock.now();
        let mut old = Vec::new();
        let mut after: Option<String> = None;
        let mut kept = 0;
        loop {
            let query = ListQuery {
                parent: Some(CLOSED),
                after: after.as_deref(),
                newest_first: true,
                ..ListQuery::of(Kind::Alert, 200)
            };
            let rows = self.store.list(query).await?;
            let Some(last) = rows.last() else { break };
            after = Some(last.id.clone());
            for row in rows {
                let status: AlertStatus = row.status()?;
                let is_old = status.resolved_at.is_some_and(|at| now.since(at) > KEEP_MS) || kept >= KEEP;
                if is_old {
                    old.push((Kind::Alert, row.id.clone()));
                    for delivery in self.delivery_rows(&row.id).await? {
                        old.push((Kind::AlertDelivery, delivery.id));
                    }
                } else {
                    kept += 1;
                }
            }
        }
        for row in self.store.all(Kind::AlertSilence).await? {
            let spec: SilenceSpec = row.spec()?;
            if now.since(spec.until) > KEEP_MS {
                old.push((Kind::AlertSilence, row.id));
            }
        }
        for batch in old.chunks(BATCH) {
            let mut tx = self.store.begin(now).await?;
            for (kind, id) in batch {
                match tx.delete(*kind, id).await {
                    Ok(_) | Err(nm_store::StoreError::NotFound { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            tx.commit().await?;
        }
        Ok(old.len())
    }
}
