//! Backups: what is asked for is kept in rows of configs, what came of it in rows of backups, and the work is an operation that a
//! node's agent carries out.
//!
//! - [`write`], [`judge`]: what users say of configs, and what of it can't be. [`view`]: what they see.
//! - [`slots`], [`schedule`]: what is due, and that it is done once.
//! - [`jobs`]: a job on a node. [`reach`]: repositories in folders of other nodes. [`subject`]: what a backup is made of. [`perform`], [`upkeep`], [`restore`], [`recover`]: the operations. [`logs`]: the write-ahead log of database clusters.
//! - [`catalogue`]: what there is of a config, and what retention says. [`rows`]: how it is kept.
//!
//! Invariants: one operation works on a config's repository at a time, named in the config's row in the transaction that makes it. A
//! backup is `completed` only once the repository was checked with it in it. A slot has one backup or none.

mod catalogue;
mod jobs;
mod judge;
mod logs;
mod perform;
mod reach;
mod recover;
mod restore;
mod rows;
mod schedule;
mod slots;
mod subject;
mod trouble;
mod upkeep;
mod view;
mod write;

pub use jobs::failed;
pub use perform::PERFORM;
pub use recover::RECOVER;
pub use restore::RESTORE;
pub use rows::{Config, LastBackup, StoredCredentials, location_of, place_of};
pub use trouble::Troubles;
pub use upkeep::{CHECK, REMOVE, TEST};
pub use view::{BackupFilter, Found};

use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::Meta;
use crate::service::audit::audit;
use crate::service::auth::Actor;
use crate::service::clock::SharedClock;
use crate::service::clusters::Clusters;
use crate::service::containers::Containers;
use crate::service::fleet::Fleet;
use crate::service::idempotency;
use crate::service::idempotency::Fingerprints;
use crate::service::index::Index;
use crate::service::locks::Locks;
use crate::service::nodes::Nodes;
use crate::service::operations::{Failure, Finish, Operations, Outcome, written};
use crate::service::outbound::Guard;
use crate::service::servers::Servers;
use nm_store::{Kind, Patch, Resource, Store, StoreError, Tx};
use nm_types::backup::job::JobProgress;
use nm_types::backup::{BackupStatus, BackupView};
use nm_types::operation::OperationView;
use nm_types::{BackupConfigId, BackupId, ClusterId, NodeId, Timestamp};
use rows::{ConfigRow, ConfigState};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, RwLock};
use tokio::sync::Semaphore;

/// Configs by id.
type Known = Arc<RwLock<BTreeMap<BackupConfigId, Arc<Config>>>>;

/// All backups. Cheap to clone; clones are the same.
#[derive(Clone)]
pub struct Backups {
    store: Store,
    clock: SharedClock,
    fleet: Fleet,
    nodes: Nodes,
    index: Index,
    servers: Servers,
    guard: Guard,
    containers: Containers,
    operations: Operations,
    clusters: Clusters,
    fingerprints: Fingerprints,
    started: Timestamp,
    /// Configs as they are now, for those who can't wait for the store.
    known: Known,
    /// How far those are that are being made.
    progress: Arc<Mutex<HashMap<BackupId, JobProgress>>>,
    places: Arc<Mutex<HashMap<NodeId, Arc<Semaphore>>>>,
    /// Held by whoever ships a database's log.
    shipping: Locks<BackupConfigId>,
    /// When the log of each is to be shipped next.
    shipped: Arc<Mutex<HashMap<BackupConfigId, Timestamp>>>,
    /// Held from retention's decision until it is carried out, so that no pin comes in between.
    deciding: Locks<BackupConfigId>,
}

#[expect(clippy::too_many_arguments, reason = "wired by hand, once")]
impl Backups {
    pub fn new(
        store: Store,
        clock: SharedClock,
        fleet: Fleet,
        nodes: Nodes,
        index: Index,
        servers: Servers,
        guard: Guard,
        containers: Containers,
        operations: Operations,
        clusters: Clusters,
        troubles: Troubles,
    ) -> Self {
        Self {
            fingerprints: Fingerprints::new(&store),
            started: clock.now(),
            store,
            clock,
            fleet,
            nodes,
            index,
            servers,
            guard,
            containers,
            operations,
            clusters,
            known: troubles.0,
            shipping: Locks::default(),
            shipped: Arc::default(),
            progress: Arc::default(),
            places: Arc::default(),
            deciding: Locks::default(),
        }
    }
}

impl Backups {
    /// Reads what the store holds.
    pub async fn load(&self) -> ApiResult<()> {
        for row in self.store.all(Kind::BackupConfig).await? {
            self.learn(&row)?;
        }
        Ok(())
    }

    /// Reads all of them anew, where changes were missed.
    pub async fn reload(&self) -> ApiResult<()> {
        let rows = self.store.all(Kind::BackupConfig).await?;
        for gone in self.all().iter().filter(|c| !rows.iter().any(|row| row.id == c.id.as_str())) {
            self.unlearn(&gone.id);
        }
        rows.iter().try_for_each(|row| self.learn(row).map(drop))
    }

    fn learn(&self, row: &Resource) -> ApiResult<Arc<Config>> {
        let config = Arc::new(Config::read(row)?);
        let mut known = self.known.write().unwrap_or_else(|e| e.into_inner());
        let newest = known.entry(config.id.clone()).or_insert_with(|| config.clone());
        if newest.revision <= config.revision {
            *newest = config;
        }
        Ok(newest.clone())
    }

    /// Rereads one config after it was changed, here or by another replica. Gives the server that it is of.
    pub async fn refresh(&self, id: &BackupConfigId) -> ApiResult<Option<String>> {
        let server = match self.store.get(Kind::BackupConfig, id.as_str()).await? {
            Some(row) => Some(self.learn(&row)?.stored.server.clone()),
            None => self.unlearn(id),
        };
        Ok(server)
    }

    fn unlearn(&self, id: &BackupConfigId) -> Option<String> {
        let gone = self.known.write().unwrap_or_else(|e| e.into_inner()).remove(id);
        gone.map(|config| config.stored.server.clone())
    }

    /// Every config, in the order of their ids.
    pub fn all(&self) -> Vec<Arc<Config>> {
        self.known.read().unwrap_or_else(|e| e.into_inner()).values().cloned().collect()
    }

    /// The row of a config, by its id or by its name where only one has it.
    async fn find(&self, key: &str) -> ApiResult<Resource> {
        if BackupConfigId::parse(key).is_ok()
            && let Some(row) = self.store.get(Kind::BackupConfig, key).await?
        {
            return Ok(row);
        }
        let mut named = self.store.named(Kind::BackupConfig, key, None).await?;
        match (named.len(), named.pop()) {
            (1, Some(row)) => Ok(row),
            (0, _) => Err(ApiError::not_found("backup config", key)),
            (many, _) => {
                let shown: String = key.chars().take(100).collect();
                Err(ApiError::conflict(
                    "ambiguous_name",
                    format!("{many} backup configs are called `{shown}`: use the id"),
                ))
            }
        }
    }

    async fn opened(&self, id: &BackupConfigId) -> ApiResult<ConfigRow> {
        let row = self.store.get(Kind::BackupConfig, id.as_str()).await?;
        let row = row.ok_or_else(|| ApiError::not_found("backup config", id.as_str()))?;
        ConfigRow::read(&self.store, &row).await
    }

    async fn backup_row(&self, id: &str) -> ApiResult<Resource> {
        let missing = || ApiError::not_found("backup", id);
        BackupId::parse(id).map_err(|_| missing())?;
        self.store.get(Kind::Backup, id).await?.ok_or_else(missing)
    }

    /// The node that a config's server is on now; none where the server is gone.
    fn node_of_server(&self, config: &Config) -> Option<NodeId> {
        let server = config.stored.server.as_str();
        if let Ok(id) = ClusterId::parse(server) {
            return self.clusters.database_primary(&id).map(|primary| primary.node);
        }
        match nm_types::ContainerId::parse(server) {
            Ok(id) => self.index.get(&id).map(|record| record.node.clone()),
            Err(_) => NodeId::parse(server).ok().filter(|id| self.nodes.knows(id)),
        }
    }

    /// The node that can work on a config's repository.
    fn node_of(&self, config: &Config) -> ApiResult<NodeId> {
        let made = config.state.node.clone();
        let found = if config.is_local() {
            made.or_else(|| self.node_of_server(config))
        } else {
            self.node_of_server(config).or(made)
        };
        found.ok_or_else(|| server_gone(config))
    }

    /// Writes an operation that works on a config's repository, and that it does. 409 where another one does.
    async fn occupy(&self, tx: &mut Tx, actor: &Actor, config: &Config, kind: &str, input: serde_json::Value) -> ApiResult<OperationView> {
        let mut state = state_of(tx, &config.id).await?;
        if let Some(other) = state.running {
            return Err(busy(&config.id).with_operation(other));
        }
        let operation = self.operations.create(tx, actor, kind, Some(&config.stored.server), input).await?;
        state.running = Some(operation.id.clone());
        tx.update(Kind::BackupConfig, config.id.as_str(), Patch::new().status(&state)?)
            .await?;
        Ok(operation)
    }

    /// The operation that a request with this key began before.
    async fn begun_before(&self, tx: &mut Tx, asked: &Asked<'_>) -> ApiResult<Option<OperationView>> {
        let Some(key) = &asked.meta.idempotency_key else {
            return Ok(None);
        };
        let fingerprint = self.fingerprints.of(asked.meta, &[asked.body]);
        match idempotency::claimed(tx, asked.actor, key, &fingerprint).await? {
            Some(operation) => self.operations.get(operation.as_str()).await.map(Some),
            None => Ok(None),
        }
    }

    /// Begins what is asked for of a backup; false beside it where the same request began it before.
    async fn begin(
        &self,
        asked: &Asked<'_>,
        config: &Config,
        backup: &BackupId,
        kind: &'static str,
        input: serde_json::Value,
        detail: serde_json::Value,
    ) -> ApiResult<(OperationView, bool)> {
        let mut tx = self.store.begin(self.clock.now()).await?;
        if let Some(operation) = self.begun_before(&mut tx, asked).await? {
            return Ok((operation, false));
        }
        let operation = self.occupy(&mut tx, asked.actor, config, kind, input).await?;
        if let Some(key) = &asked.meta.idempotency_key {
            idempotency::carried_by(&mut tx, asked.actor, key, &operation.id).await?;
        }
        tx.audit(audit(asked.actor, asked.meta, kind, Some(backup.as_str()), detail))
            .await?;
        tx.commit().await?;
        Ok((operation, true))
    }

    /// Begins again what a crash cut short.
    pub fn resume(&self, kind: &str, operation: OperationView, input: serde_json::Value) -> ApiResult<()> {
        match kind {
            PERFORM => self.resume_perform(operation, input),
            RESTORE => self.resume_restore(operation, input),
            RECOVER => self.resume_recover(operation, input),
            _ => self.resume_upkeep(kind, operation, input),
        }
    }

    /// Frees configs of operations that no longer run, and ends what they left. Call it once everything that goes on runs.
    pub async fn settle(&self) -> ApiResult<()> {
        for config in self.all() {
            let Some(operation) = config.state.running.clone().filter(|id| !self.operations.runs(id)) else {
                continue;
            };
            let mut tx = self.store.begin(self.clock.now()).await?;
            let backups = catalogue::of_config(&self.store, &config).await?;
            for mut view in backups.into_iter().filter(|b| b.status == BackupStatus::InProgress) {
                view.status = BackupStatus::Failed;
                view.message = Some("it was cut short, and could not be taken up again: make another one".into());
                tx.update(Kind::Backup, view.id.as_str(), Patch::new().status(&view)?).await?;
            }
            change_state(&mut tx, &config.id, |state| {
                if state.running.as_ref() == Some(&operation) {
                    state.running = None;
                }
            })
            .await?;
            tx.commit().await?;
            self.refresh(&config.id).await?;
        }
        Ok(())
    }

    /// A backup as it is now: what is being made with how far it is.
    fn shown(&self, mut view: BackupView) -> BackupView {
        if view.status == BackupStatus::InProgress {
            view.progress = self.progress.lock().unwrap_or_else(|e| e.into_inner()).get(&view.id).copied();
        }
        view
    }
}

/// Who asks for something, and how.
struct Asked<'a> {
    actor: &'a Actor,
    meta: &'a Meta,
    /// The request's, to tell a repeated one from another.
    body: &'a [u8],
}

/// How an operation on a config's repository ends: the next one may begin.
fn freed(config: &BackupConfigId, done: ApiResult<serde_json::Value>) -> Finish {
    let config = config.clone();
    let end = written(move |tx: &mut Tx| {
        let config = config.clone();
        Box::pin(async move { change_state(tx, &config, |state| state.running = None).await })
    });
    match done {
        Ok(result) => Ok(Outcome { result, end: Some(end) }),
        Err(error) => Err(Failure { error, end: Some(end) }),
    }
}

fn server_gone(config: &Config) -> ApiError {
    ApiError::conflict(
        "server_gone",
        format!(
            "{} {} is no longer in the fleet: name another one in `serverId`",
            config.stored.server_kind.as_str(),
            config.stored.server
        ),
    )
}

fn busy(id: &BackupConfigId) -> ApiError {
    ApiError::conflict(
        "backup_busy",
        format!("another operation works on the repository of {id}: wait until it has ended, or cancel it"),
    )
}

async fn state_of(tx: &mut Tx, id: &BackupConfigId) -> ApiResult<ConfigState> {
    let held = tx.get(Kind::BackupConfig, id.as_str()).await?;
    Ok(held.ok_or_else(|| ApiError::not_found("backup config", id.as_str()))?.status()?)
}

/// Changes what is kept of a config; nothing where it is gone.
async fn change_state(tx: &mut Tx, id: &BackupConfigId, change: impl FnOnce(&mut ConfigState)) -> Result<(), StoreError> {
    let Some(row) = tx.get(Kind::BackupConfig, id.as_str()).await? else {
        return Ok(());
    };
    let mut state: ConfigState = row.status()?;
    change(&mut state);
    tx.update(Kind::BackupConfig, id.as_str(), Patch::new().status(&state)?).await?;
    Ok(())
}

/// Changes what is seen of a backup, and gives it; nothing where it is gone.
async fn change_backup(tx: &mut Tx, id: &BackupId, change: impl FnOnce(&mut BackupView)) -> Result<Option<BackupView>, StoreError> {
    let Some(row) = tx.get(Kind::Backup, id.as_str()).await? else {
        return Ok(None);
    };
    let mut view: BackupView = row.status()?;
    change(&mut view);
    tx.update(Kind::Backup, id.as_str(), Patch::new().status(&view)?).await?;
    Ok(Some(view))
}
