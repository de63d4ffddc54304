//! What users see of configs and backups.

use super::rows::{self, Config, ConfigRow};
use super::slots::{self, Work};
use super::{Backups, catalogue, logs};
use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::Meta;
use crate::service::audit::audit;
use crate::service::auth::Actor;
use nm_store::{Kind, ListQuery, Patch};
use nm_types::backup::job::{self, Task, TreeTask};
use nm_types::backup::{
    BackupConfigStatus, BackupConfigView, BackupKeyView, BackupStatus, BackupTreeView, BackupView, DestinationView, RetentionPreview,
    TimeZoneName,
};
use nm_types::{BackupConfigId, BackupId, Timestamp};
use serde_json::json;

/// Rows read at once.
const READ: u32 = 200;

/// A config, and the revision that `If-Match` can name.
pub type Versioned = (BackupConfigView, i64);

/// Which backups a list wants.
#[derive(Debug, Clone, Default)]
pub struct BackupFilter {
    /// The id of a node or container.
    pub server: Option<String>,
    pub config: Option<BackupConfigId>,
    pub status: Option<BackupStatus>,
}

/// What is asked for under a key.
pub enum Found {
    One(Box<BackupView>),
    /// The id of a server.
    Of(String),
}

pub(super) fn config_view(config: &ConfigRow, now: Timestamp) -> ApiResult<BackupConfigView> {
    let (spec, state) = (config.stored.spec.clone(), &config.state);
    let due = slots::due(config, Work::Backup, now)?;
    let message = config.troubles().next().map(str::to_owned);
    let status = match (spec.status, &message) {
        (BackupConfigStatus::Paused, _) => BackupConfigStatus::Paused,
        (_, Some(_)) => BackupConfigStatus::Error,
        (_, None) => BackupConfigStatus::Active,
    };
    Ok(BackupConfigView {
        id: config.id.clone(),
        name: spec.name,
        server_id: config.stored.server.clone(),
        server_kind: config.stored.server_kind,
        schedule: spec.schedule,
        time_zone: match spec.time_zone {
            Some(zone) => zone,
            None => TimeZoneName::parse("UTC").map_err(|_| ApiError::internal())?,
        },
        jitter: spec.jitter.map_or(0, |j| j.get()),
        retention: spec.retention,
        keep: spec.keep,
        kind: spec.kind,
        destination: spec.destination,
        has_credentials: config.secrets.credentials.is_some(),
        encryption: spec.encryption,
        compression: spec.compression,
        paths: spec.paths,
        volumes: spec.volumes,
        excludes: spec.excludes,
        one_file_system: spec.one_file_system,
        consistency: spec.consistency,
        dump: spec.dump,
        append_only: spec.append_only,
        check: spec.check,
        copy: spec.copy.map(|copy| DestinationView {
            destination: copy.destination,
            has_credentials: config.secrets.copy_credentials.is_some(),
            repository: state.copy.clone(),
        }),
        status,
        message: message.or_else(|| state.jump.clone()),
        last_backup: state.last_backup,
        next_backup: due.due.or(due.next).map(|slot| slot.starts.max(now)),
        repository: state.repository.clone(),
        recovery: logs::view(config),
        created: config.created,
        updated: config.updated,
    })
}

impl Backups {
    pub async fn config(&self, key: &str) -> ApiResult<Versioned> {
        let row = self.find(key).await?;
        let config = ConfigRow::read(&self.store, &row).await?;
        Ok((config_view(&config, self.clock.now())?, config.revision))
    }

    /// A page in the order of their ids, and where the next begins. `server` is an id or a name.
    pub async fn configs(
        &self,
        server: Option<&str>,
        after: Option<&str>,
        limit: u32,
    ) -> ApiResult<(Vec<BackupConfigView>, Option<String>)> {
        let server = match server {
            Some(key) => Some(self.server_id(key).await?),
            None => None,
        };
        let query = ListQuery {
            parent: server.as_deref(),
            after,
            ..ListQuery::of(Kind::BackupConfig, limit + 1)
        };
        let rows = self.store.list(query).await?;
        let more = rows.len() > limit as usize;
        let mut out = Vec::new();
        for row in rows.iter().take(limit as usize) {
            out.push(config_view(&ConfigRow::read(&self.store, row).await?, self.clock.now())?);
        }
        let next = out.last().filter(|_| more).map(|c| c.id.to_string());
        Ok((out, next))
    }

    /// The id of a server, also of one that is gone and has configs still.
    pub async fn server_id(&self, key: &str) -> ApiResult<String> {
        match self.servers.resolve(key).await {
            Ok(server) => Ok(server.key.to_string()),
            Err(_) if let Ok(id) = self.clusters.database_named(key) => Ok(id.to_string()),
            Err(error) => match self.all().iter().find(|c| c.stored.server == key) {
                Some(config) => Ok(config.stored.server.clone()),
                None => Err(error),
            },
        }
    }

    /// The backup of that id, or the server whose backups are meant.
    pub async fn found(&self, key: &str) -> ApiResult<Found> {
        if BackupId::parse(key).is_ok() {
            return Ok(Found::One(Box::new(self.get(key).await?)));
        }
        Ok(Found::Of(self.server_id(key).await?))
    }

    pub async fn get(&self, id: &str) -> ApiResult<BackupView> {
        Ok(self.shown(rows::view_of(&self.backup_row(id).await?)?))
    }

    /// What a backup's status is now, where there is one.
    pub async fn status(&self, id: &str) -> Option<BackupStatus> {
        self.get(id).await.ok().map(|view| view.status)
    }

    /// A page, newest first, and where the next begins.
    pub async fn list(
        &self,
        filter: &BackupFilter,
        after: Option<&BackupId>,
        limit: usize,
    ) -> ApiResult<(Vec<BackupView>, Option<String>)> {
        let (mut found, mut after): (Vec<BackupView>, Option<String>) = (Vec::new(), after.map(ToString::to_string));
        loop {
            let query = ListQuery {
                parent: filter.config.as_ref().map(BackupConfigId::as_str),
                after: after.as_deref(),
                newest_first: true,
                ..ListQuery::of(Kind::Backup, READ)
            };
            let rows = self.store.list(query).await?;
            for row in &rows {
                let view = rows::view_of(row)?;
                let wanted = filter.server.as_ref().is_none_or(|s| *s == view.server_id) && filter.status.is_none_or(|s| s == view.status);
                if !wanted {
                    continue;
                }
                if found.len() == limit {
                    let next = found.last().map(|b| b.id.to_string());
                    return Ok((found, next));
                }
                found.push(self.shown(view));
            }
            match rows.last() {
                Some(last) if rows.len() == READ as usize => after = Some(last.id.clone()),
                Some(_) | None => return Ok((found, None)),
            }
        }
    }

    /// The config that a list is narrowed to, by id or name.
    pub async fn config_id(&self, key: &str) -> ApiResult<BackupConfigId> {
        Ok(Config::read(&self.find(key).await?)?.id)
    }

    /// What retention would do now.
    pub async fn retention(&self, key: &str) -> ApiResult<RetentionPreview> {
        let config = Config::read(&self.find(key).await?)?;
        let backups = catalogue::of_config(&self.store, &config).await?;
        catalogue::preview(&config, &backups, self.clock.now())
    }

    /// All that stock restic needs. Who read it is on record.
    pub async fn key(&self, actor: &Actor, meta: &Meta, key: &str) -> ApiResult<BackupKeyView> {
        let config = ConfigRow::read(&self.store, &self.find(key).await?).await?;
        let mut tx = self.store.begin(self.clock.now()).await?;
        tx.audit(audit(actor, meta, "backup.key", Some(config.id.as_str()), json!({})))
            .await?;
        tx.commit().await?;
        Ok(BackupKeyView {
            repository: rows::location(&config.stored.spec.destination, &config.id),
            password: config.secrets.password.clone(),
            log_repository: logs::view(&config).and_then(|log| log.repository),
            recovery_password: config.state.recovery_added.then(|| config.secrets.recovery.clone()),
        })
    }

    /// One page of a folder of a backup, and where the next begins.
    pub async fn files(&self, id: &str, path: &str, offset: u64, limit: u32) -> ApiResult<(BackupTreeView, Option<String>)> {
        let (config, view) = self.kept(id).await?;
        let node = self.node_of(&config)?;
        let config = self.opened(&config.id).await?;
        let task = Task::Tree(TreeTask {
            snapshot: view.snapshot.unwrap_or_default(),
            path: path.to_owned(),
            offset,
            limit,
        });
        let job::Outcome::Tree(page) = self.look(&node, self.access(&config, &node)?, "tree", task).await? else {
            return Err(super::perform::unexpected(&node));
        };
        let reached = offset + page.entries.len() as u64;
        let next = (reached < page.total && !page.entries.is_empty()).then(|| reached.to_string());
        let tree = BackupTreeView {
            path: path.to_owned(),
            entries: page.entries,
            total: page.total,
        };
        Ok((tree, next))
    }

    /// Retention does not remove a pinned backup.
    pub async fn pin(&self, actor: &Actor, meta: &Meta, id: &str, pinned: bool) -> ApiResult<BackupView> {
        let config = rows::view_of(&self.backup_row(id).await?)?.config_id;
        let _deciding = self.deciding.hold(config).await;
        let mut tx = self.store.begin(self.clock.now()).await?;
        let row = tx.get(Kind::Backup, id).await?.ok_or_else(|| ApiError::not_found("backup", id))?;
        let mut view = rows::view_of(&row)?;
        view.pinned = pinned;
        tx.update(Kind::Backup, id, Patch::new().status(&view)?).await?;
        tx.audit(audit(actor, meta, "backup.pin", Some(id), json!({ "pinned": pinned })))
            .await?;
        tx.commit().await?;
        Ok(self.shown(view))
    }

    /// Asks a backup that is being made to end.
    pub async fn cancel(&self, actor: &Actor, meta: &Meta, id: &str) -> ApiResult<BackupView> {
        let view = rows::view_of(&self.backup_row(id).await?)?;
        let ended = || {
            ApiError::conflict(
                "already_ended",
                format!("{id} is not being made any more: there is nothing to cancel"),
            )
        };
        let operation = view
            .operation_id
            .clone()
            .filter(|_| view.status == BackupStatus::InProgress)
            .ok_or_else(ended)?;
        if !self.operations.cancel(&operation) {
            return Err(ended());
        }
        let mut tx = self.store.begin(self.clock.now()).await?;
        tx.audit(audit(actor, meta, "backup.cancel", Some(id), json!({ "operation": operation })))
            .await?;
        tx.commit().await?;
        self.get(id).await
    }
}
