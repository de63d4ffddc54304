//! Health of servers: what is checked, what came of it, and what it was over time.
//!
//! - `table`: what was last found of each server, in memory. `measure`: asks a server. `probe`: asks an address.
//! - `keep`: the store's side: what survives a restart, and the history.
//!
//! Checks of one server go one after another, for each builds on the one before. The decisions are in [`nm_plan::health`]; the
//! loop that makes checks when they are due is [`crate::controller::health`].

mod keep;
mod measure;
mod probe;
mod table;

pub use table::Table;

use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::Meta;
use crate::service::audit::audit;
use crate::service::auth::Actor;
use crate::service::clock::SharedClock;
use crate::service::fleet::Fleet;
use crate::service::index::Index;
use crate::service::locks::Locks;
use crate::service::nodes::Nodes;
use crate::service::outbound::Guard;
use crate::service::privileges;
use crate::service::servers::{Server, ServerKey, ServerRef, Servers};
use nm_plan::health::{Memory, verdict};
use nm_store::{Kind, NewResource, Patch, Store};
use nm_types::auth::Role;
use nm_types::health::{
    Availability, CheckDetail, HealthConfig, HealthSettings, HealthSettingsUpdate, HealthStatus, HealthView, ProbeKind, Thresholds,
};
use nm_types::server::ServerKind;
use probe::Prober;
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;
use table::{Entry, Last, Up};
use tokio::sync::{Notify, broadcast};

/// The setting's id in the store.
pub const SETTINGS: &str = "health.settings";
/// Listeners that are further behind miss checks, and are told so.
const BACKLOG: usize = 1024;

/// Which servers' health a list wants.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub status: Option<HealthStatus>,
    pub kind: Option<ServerKind>,
}

/// The health of all servers. Cheap to clone; clones are the same.
#[derive(Clone)]
pub struct Health {
    store: Store,
    clock: SharedClock,
    fleet: Fleet,
    nodes: Nodes,
    index: Index,
    servers: Servers,
    prober: Prober,
    table: Table,
    settings: Arc<RwLock<(HealthSettings, i64)>>,
    /// One check of a server at a time.
    locks: Locks<ServerKey>,
    bus: broadcast::Sender<(ServerRef, HealthView)>,
    /// Servers to be checked now.
    wanted: Queue,
    /// Servers whose rows are behind the table.
    dirty: Queue,
}

/// Servers that somebody has to look after, each once.
#[derive(Debug, Clone, Default)]
pub struct Queue {
    keys: Arc<Mutex<HashSet<ServerKey>>>,
    wake: Arc<Notify>,
}

impl Queue {
    pub fn add(&self, key: ServerKey) {
        self.keys.lock().unwrap_or_else(|e| e.into_inner()).insert(key);
        self.wake.notify_one();
    }
    pub fn take(&self) -> Vec<ServerKey> {
        std::mem::take(&mut *self.keys.lock().unwrap_or_else(|e| e.into_inner()))
            .into_iter()
            .collect()
    }
    /// Ends when there is something in it, perhaps.
    pub async fn filled(&self) {
        self.wake.notified().await;
    }
}

/// What a check of a server needs.
struct Plan {
    config: Arc<HealthConfig>,
    limits: Thresholds,
    memory: Memory,
}

#[expect(clippy::too_many_arguments, reason = "wired by hand, once")]
impl Health {
    pub fn new(
        store: Store,
        clock: SharedClock,
        fleet: Fleet,
        nodes: Nodes,
        index: Index,
        servers: Servers,
        guard: Guard,
        table: Table,
    ) -> Self {
        Self {
            store,
            clock,
            fleet,
            nodes,
            index,
            servers,
            prober: Prober::new(guard),
            table,
            settings: Arc::new(RwLock::new((HealthSettings::default(), 0))),
            locks: Locks::default(),
            bus: broadcast::Sender::new(BACKLOG),
            wanted: Queue::default(),
            dirty: Queue::default(),
        }
    }
}

impl Health {
    /// Every check's outcome from now on. Availability is left out there: it is read from the store.
    pub fn subscribe(&self) -> broadcast::Receiver<(ServerRef, HealthView)> {
        self.bus.subscribe()
    }
    /// Servers that are to be checked at once.
    pub fn wanted(&self) -> &Queue {
        &self.wanted
    }
    pub(crate) fn dirty(&self) -> &Queue {
        &self.dirty
    }

    // Settings.

    /// What holds for every server, and the revision it has.
    pub fn settings(&self) -> (HealthSettings, i64) {
        self.settings.read().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Rereads the settings after they were changed, here or by another replica.
    pub async fn refresh_settings(&self) -> ApiResult<()> {
        if let Some(row) = self.store.get(Kind::Setting, SETTINGS).await? {
            let settings: HealthSettings = row.spec()?;
            *self.settings.write().unwrap_or_else(|e| e.into_inner()) = (settings, row.revision);
        }
        Ok(())
    }

    pub async fn change_settings(&self, actor: &Actor, meta: &Meta, change: HealthSettingsUpdate) -> ApiResult<(HealthSettings, i64)> {
        let problems = change.thresholds.problems();
        if !problems.is_empty() {
            return Err(ApiError::clashing_fields(problems));
        }
        let mut tx = self.store.begin(self.clock.now()).await?;
        let held = tx.get(Kind::Setting, SETTINGS).await?;
        let revision = held.as_ref().map_or(0, |row| row.revision);
        if meta.if_match.is_some_and(|wanted| wanted != revision) {
            return Err(stale("the settings of health"));
        }
        let mut settings: HealthSettings = match &held {
            Some(row) => row.spec()?,
            None => HealthSettings::default(),
        };
        settings.interval = change.interval.unwrap_or(settings.interval);
        settings.thresholds = change.thresholds.over(settings.thresholds);
        let row = tx.put(NewResource::new(Kind::Setting, SETTINGS).spec(&settings)?).await?;
        let detail = serde_json::to_value(&change).unwrap_or_default();
        tx.audit(audit(actor, meta, "health.settings", None, detail)).await?;
        tx.commit().await?;
        *self.settings.write().unwrap_or_else(|e| e.into_inner()) = (settings, row.revision);
        Ok(self.settings())
    }

    /// How one server is checked, and the revision that has.
    pub async fn config(&self, key: &str) -> ApiResult<(HealthConfig, i64)> {
        let server = self.servers.resolve(key).await?;
        Ok(match self.store.get(Kind::Health, server.key.as_str()).await? {
            Some(row) => (row.spec()?, row.revision),
            None => (HealthConfig::default(), 0),
        })
    }

    pub async fn set_config(&self, actor: &Actor, meta: &Meta, key: &str, config: HealthConfig) -> ApiResult<(HealthConfig, i64)> {
        let server = self.servers.resolve(key).await?;
        self.judge(actor, &server, &config)?;
        let id = server.key.as_str();
        // The row is written with what is known of the server, so its first status does not go amiss.
        let _held = self.locks.hold(server.key.clone()).await;
        let mut tx = self.store.begin(self.clock.now()).await?;
        let mut patch = Patch::new().spec(&config)?;
        if let Some(revision) = meta.if_match {
            patch = patch.if_revision(revision);
        }
        let row = match tx.update(Kind::Health, id, patch).await {
            Err(nm_store::StoreError::NotFound { .. }) if meta.if_match.is_none_or(|wanted| wanted == 0) => {
                tx.insert(NewResource::new(Kind::Health, id).named(server.view.name.as_str()).spec(&config)?)
                    .await?
            }
            Err(nm_store::StoreError::NotFound { .. }) => return Err(stale("how this server is checked")),
            other => other?,
        };
        let probes: Vec<serde_json::Value> = config
            .probes
            .iter()
            .map(|p| serde_json::json!({ "name": p.name, "type": p.kind }))
            .collect();
        // The words of a command may hold secrets.
        let detail = serde_json::json!({
            "interval": config.interval, "thresholds": config.thresholds, "enabled": config.enabled, "probes": probes,
        });
        tx.audit(audit(actor, meta, "health.config", Some(id), detail)).await?;
        tx.commit().await?;
        self.table.configure(&server.key, config.clone());
        self.wanted.add(server.key);
        Ok((config, row.revision))
    }

    fn judge(&self, actor: &Actor, server: &Server, config: &HealthConfig) -> ApiResult<()> {
        let invalid = config.problems();
        if !invalid.is_empty() {
            return Err(ApiError::invalid_fields(invalid));
        }
        let mut problems = config.clashes(server.view.kind);
        // A node's probes reach its loopback, where its machine's own services are; those of a container run inside it.
        if !config.probes.is_empty() {
            let (allowed, what) = match server.view.kind {
                ServerKind::Node => (
                    actor.may(Role::Admin, "nodes", true),
                    "a node's probes reach what listens on the machine itself: that takes the role admin, and the scope nodes:write",
                ),
                ServerKind::Container | ServerKind::Instance | ServerKind::Address => (
                    actor.may(Role::Operator, "containers", true),
                    "a container's probes run inside it: that takes the scope containers:write",
                ),
            };
            if !allowed {
                return Err(ApiError::forbidden(what));
            }
            if let ServerKey::Container(id) = &server.key
                && let Some(record) = self.index.get(id)
            {
                privileges::may_enter(actor, &record)?;
            }
        }
        if let ServerKey::Node(node) = &server.key {
            for (i, probe) in config.probes.iter().enumerate() {
                if let (ProbeKind::Command, Some(named)) = (probe.kind, &probe.container)
                    && measure::container_of(&self.index, node, named).is_none()
                {
                    problems.push(nm_types::envelope::FieldProblem {
                        field: format!("probes[{i}].container"),
                        message: format!("there is no container `{named}` on this node"),
                    });
                }
            }
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(ApiError::clashing_fields(problems))
        }
    }

    // Checks.

    /// How often a server is checked; nothing where it is not checked by itself.
    pub async fn interval(&self, key: &ServerKey) -> ApiResult<Option<Duration>> {
        let config = self.table.config(key);
        if !config.enabled {
            return Ok(None);
        }
        let meant = match key {
            ServerKey::Node(id) => self.nodes.knows(id),
            ServerKey::Container(id) => self.index.get(id).is_some_and(|r| r.meant_to_run()),
            ServerKey::Address(_) => {
                let server = self.servers.get(key).await?;
                server.is_some_and(|s| s.registered.is_some_and(|spec| spec.effective_probe().is_some()))
            }
            ServerKey::Instance(_) => {
                let server = self.servers.get(key).await?;
                server.is_some_and(|s| s.view.status == "running" && s.view.address.is_some())
            }
        };
        let interval = config.interval.unwrap_or(self.settings().0.interval);
        Ok(meant.then(|| Duration::from_secs(interval.get().unsigned_abs())))
    }

    /// Checks a server now, on somebody's word.
    pub async fn check_now(&self, key: &str) -> ApiResult<HealthView> {
        let server = self.servers.resolve(key).await?;
        let Some(reference) = self.check(&server.key, true).await? else {
            return Err(ApiError::not_found("server", key).field("serverId"));
        };
        self.persist(std::slice::from_ref(&server.key)).await?;
        self.whole(&reference).await
    }

    /// Checks a server; `fresh` asks for what the agent tells by itself every two seconds. Nothing where it is gone.
    pub async fn check(&self, key: &ServerKey, fresh: bool) -> ApiResult<Option<ServerRef>> {
        let _held = self.locks.hold(key.clone()).await;
        let Some(server) = self.servers.get(key).await? else {
            return Ok(None);
        };
        let checked = self.interval(key).await?.is_some();
        let (config, memory) = self.table.begin(key);
        let limits = config.thresholds.over(self.settings().0.thresholds);
        let mut plan = Plan { config, limits, memory };
        let seen = self.measure(&server, &mut plan, fresh).await;
        let verdict = verdict(&seen.findings, seen.reachable);
        let last = Last {
            at: self.clock.now(),
            verdict,
            findings: seen.findings,
            response_time: seen.response_time,
            up: seen.up,
            reachable: seen.reachable,
        };
        let reference = server.reference();
        let changed = self.table.found(&reference, last, plan.memory, checked);
        if changed {
            self.dirty.add(key.clone());
        }
        if self.bus.receiver_count() > 0
            && let Some(view) = self.table.read(key, |entry| self.view(&reference, entry))
        {
            // Whoever listened may have gone this moment.
            drop(self.bus.send((reference.clone(), view)));
        }
        Ok(Some(reference))
    }

    /// Whether a server is checked by itself; it is shown as such from now on.
    pub async fn start_checking(&self, key: &ServerKey) -> ApiResult<bool> {
        let wanted = self.interval(key).await?.is_some();
        if wanted {
            self.table.start_checking(key);
        }
        Ok(wanted)
    }

    /// A server is no longer checked by itself: what it is from now on, nobody knows.
    pub fn stop_checking(&self, key: &ServerKey) {
        if self.table.stop_checking(key, self.clock.now()) {
            self.dirty.add(key.clone());
        }
    }

    /// Whether something is known of it.
    pub fn knows(&self, key: &ServerKey) -> bool {
        self.table.read(key, |_| ()).is_some()
    }
    /// Whether there is such a server.
    pub async fn is_there(&self, key: &ServerKey) -> ApiResult<bool> {
        Ok(self.servers.get(key).await?.is_some())
    }

    // What is shown.

    pub fn status(&self, key: &ServerKey) -> HealthStatus {
        self.table.status(key)
    }

    fn view(&self, server: &ServerRef, entry: &Entry) -> HealthView {
        let now = self.clock.now();
        let (status, degraded) = (entry.state.status(), entry.state.degraded());
        let last = entry.last.as_ref();
        let uptime = match last.map(|l| l.up) {
            Some(Up::Since(since)) => now.since(since).max(0) / 1000,
            Some(Up::WhileReachable | Up::Down) | None => 0,
        };
        HealthView {
            server_id: server.key.to_string(),
            server_name: server.name.clone(),
            kind: server.key.kind(),
            node_id: server.node.clone(),
            status,
            degraded,
            last_check: entry.last_check,
            checks: last.map(|l| l.verdict.checks).unwrap_or_default(),
            details: last.map_or_else(Vec::new, |l| l.findings.iter().map(nm_plan::health::Finding::detail).collect()),
            uptime: uptime.unsigned_abs(),
            response_time: last.and_then(|l| l.response_time),
            since: entry.since,
            availability: Availability::default(),
            checked: entry.checked,
        }
    }

    /// With its availability.
    async fn whole(&self, server: &ServerRef) -> ApiResult<HealthView> {
        let view = self.table.read(&server.key, |entry| self.view(server, entry));
        let mut view = view.unwrap_or_else(|| self.view(server, &Entry::default()));
        if view.last_check.is_none() {
            view.details = never_checked();
        }
        view.availability = self
            .availabilities(server.key.as_str(), server.key.as_str())
            .await?
            .remove(server.key.as_str())
            .unwrap_or_default();
        Ok(view)
    }

    pub async fn get(&self, key: &str) -> ApiResult<HealthView> {
        let server = self.servers.resolve(key).await?;
        self.whole(&server.reference()).await
    }

    /// A page of the servers that are checked, in the order of their ids, and one more where there are more.
    pub async fn list(&self, filter: &Filter, after: Option<&str>, limit: usize) -> ApiResult<Vec<HealthView>> {
        let mut views = self.table.page(filter, after, limit.saturating_add(1), |key, entry| {
            let (name, node) = self.servers.name(key).unwrap_or_else(|| (entry.name.to_string(), None));
            let server = ServerRef {
                key: key.clone(),
                name,
                node,
            };
            self.view(&server, entry)
        });
        if let (Some(first), Some(last)) = (views.first(), views.last()) {
            let mut all: BTreeMap<String, Availability> = self.availabilities(&first.server_id, &last.server_id).await?;
            for view in &mut views {
                view.availability = all.remove(&view.server_id).unwrap_or_default();
                if view.last_check.is_none() {
                    view.details = never_checked();
                }
            }
        }
        Ok(views)
    }
}

fn never_checked() -> Vec<CheckDetail> {
    let one = |check| nm_plan::health::Finding::unmeasured(check, false, "it was not checked yet").detail();
    nm_types::health::Check::ALL.into_iter().map(one).collect()
}

fn stale(what: &str) -> ApiError {
    ApiError::new(
        http::StatusCode::PRECONDITION_FAILED,
        "changed_meanwhile",
        format!("{what} was changed by somebody else meanwhile: read it again and retry"),
    )
}
