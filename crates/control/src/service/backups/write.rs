//! Configs as users make, change and remove them.

use super::judge::{Judged, detail, whole};
use super::rows::{ConfigRow, ConfigState};
use super::view::{Versioned, config_view};
use super::{Backups, busy, catalogue};
use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::{Meta, parse_json};
use crate::service::audit::audit;
use crate::service::auth::Actor;
use crate::service::idempotency;
use crate::service::refusals::{if_match, not_an_id};
use nm_store::{Kind, NewResource, Patch, StoreError};
use nm_types::BackupConfigId;
use nm_types::backup::job::Task;
use nm_types::backup::{BackupConfigSpec, BackupConfigStatus, BackupConfigUpdate, DestinationKind};
use nm_types::text::Title;
use serde_json::json;

/// The most configs there may be.
const MOST: i64 = 2_000;

fn taken(error: StoreError, name: &Title) -> ApiError {
    match error {
        StoreError::Conflict { .. } => ApiError::conflict(
            "name_taken",
            format!("the server has a backup config `{name}` already: choose another name, or change that one"),
        )
        .field("name"),
        other => other.into(),
    }
}

/// Reads what a change makes of the whole. What is missing in it was taken away, or has no other half: each field alone is right.
fn read_merged(document: &serde_json::Value) -> ApiResult<BackupConfigSpec> {
    let bytes = serde_json::to_vec(document).map_err(|_| ApiError::internal())?;
    parse_json(&bytes).map_err(|error| {
        let missing = error.details.iter().all(|d| d.message.starts_with("missing field")) && !error.details.is_empty();
        if missing { ApiError::clashing_fields(error.details) } else { error }
    })
}

impl Backups {
    /// `body` is the request's, to tell a repeated one from another.
    pub async fn create(&self, actor: &Actor, meta: &Meta, spec: BackupConfigSpec, body: &[u8]) -> ApiResult<Versioned> {
        not_an_id(&spec.name, BackupConfigId::PREFIX)?;
        let now = self.clock.now();
        let id = BackupConfigId::fresh(now.0);
        let key = meta.idempotency_key.as_deref();
        if key.is_some() {
            // Before anything is judged: what was right the first time may not be now, for it was done.
            let mut tx = self.store.begin(now).await?;
            let done: Option<BackupConfigId> = idempotency::answered(&mut tx, actor, key, || self.fingerprints.of(meta, &[body])).await?;
            drop(tx);
            if let Some(done) = done {
                return self.config(done.as_str()).await;
            }
        }
        let judged = self.judge(actor, spec, None).await?;
        self.try_out(&id, &judged).await?;
        let mut tx = self.store.begin(now).await?;
        let done: Option<BackupConfigId> = idempotency::answered(&mut tx, actor, key, || self.fingerprints.of(meta, &[body])).await?;
        if let Some(done) = done {
            drop(tx);
            return self.config(done.as_str()).await;
        }
        if tx.count(Kind::BackupConfig, None).await? >= MOST {
            let text = format!("there are {MOST} backup configs already: remove one first");
            return Err(ApiError::conflict("limit_reached", text));
        }
        let name = judged.stored.spec.name.clone();
        let state = ConfigState {
            taken: now,
            check_taken: now,
            test_taken: now,
            ..ConfigState::default()
        };
        let row = NewResource::new(Kind::BackupConfig, id.as_str())
            .within(judged.stored.server.as_str())
            .uniquely_named(name.as_str())
            .spec(&judged.stored)?
            .status(&state)?
            .secret(judged.secrets.seal()?);
        let row = tx.insert(row).await.map_err(|e| taken(e, &name))?;
        tx.audit(audit(actor, meta, "backupConfig.create", Some(id.as_str()), detail(&judged)))
            .await?;
        idempotency::keep(&mut tx, actor, key, &id).await?;
        tx.commit().await?;
        self.learn(&row)?;
        let config = ConfigRow::read(&self.store, &row).await?;
        Ok((config_view(&config, now)?, config.revision))
    }

    /// Whether the server's node lets anybody write where its backups are to go. What else may be wrong with a destination can
    /// change until the first backup, which says it.
    async fn try_out(&self, id: &BackupConfigId, judged: &Judged) -> ApiResult<()> {
        let config = ConfigRow {
            config: super::Config {
                id: id.clone(),
                stored: judged.stored.clone(),
                state: ConfigState::default(),
                created: self.clock.now(),
                updated: self.clock.now(),
                generation: 1,
                revision: 0,
            },
            secrets: judged.secrets.clone(),
        };
        let is_folder = matches!(
            config.stored.spec.destination.kind(),
            DestinationKind::Path { .. } | DestinationKind::Node { .. }
        );
        let Some(node) = self
            .node_of_server(&config)
            .filter(|node| is_folder && self.fleet.is_connected(node) && self.destination_is_there(&config).is_ok())
        else {
            return Ok(());
        };
        let access = self.access(&config, &node)?;
        match self.look(&node, access, "list", Task::List).await {
            Err(error) if error.status == http::StatusCode::FORBIDDEN => Err(error.field("destination")),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Merges a change into what was asked for. What is not sent stays.
    pub async fn update(&self, actor: &Actor, meta: &Meta, key: &str, change: BackupConfigUpdate) -> ApiResult<Versioned> {
        let held = self.find(key).await?;
        if_match(&held, meta)?;
        let old = ConfigRow::read(&self.store, &held).await?;
        let spec = read_merged(&change.applied_to(whole(&old)?))?;
        not_an_id(&spec.name, BackupConfigId::PREFIX)?;
        let judged = self.judge(actor, spec, Some(&old)).await?;
        if judged.stored.spec.destination != old.stored.spec.destination {
            self.try_out(&old.id, &judged).await?;
        }
        let (before, after) = (&old.stored.spec, &judged.stored.spec);
        let now = self.clock.now();
        let mut tx = self.store.begin(now).await?;
        let current = tx.get(Kind::BackupConfig, old.id.as_str()).await?;
        let current = current.ok_or_else(|| ApiError::not_found("backup config", key))?;
        let mut state: ConfigState = current.status()?;
        // Times that passed under another schedule, or in a pause, are not caught up.
        let resumed = before.status == BackupConfigStatus::Paused && after.status != BackupConfigStatus::Paused;
        if resumed || before.schedule != after.schedule || before.time_zone != after.time_zone {
            state.taken = now;
        }
        if resumed || before.check != after.check || before.time_zone != after.time_zone {
            (state.check_taken, state.test_taken) = (now, now);
        }
        if before.status != after.status
            && after.status == BackupConfigStatus::Paused
            && let Some(log) = &mut state.log
        {
            // Members keep nothing from here on.
            log.end_window();
        }
        if before.copy.is_some() && after.copy.is_none() {
            state.copy = None;
            state.copy_remove.clear();
            for mut view in catalogue::of_config(&self.store, &old).await? {
                if view.copied.take().is_some() {
                    tx.update(Kind::Backup, view.id.as_str(), Patch::new().status(&view)?).await?;
                }
            }
        }
        let mut patch = Patch::new()
            .spec(&judged.stored)?
            .status(&state)?
            .secret(Some(judged.secrets.seal()?))
            .parent(judged.stored.server.as_str())
            .if_generation(old.generation);
        let name = judged.stored.spec.name.clone();
        if name.as_str() != held.name {
            patch = patch.name(name.as_str());
        }
        let row = tx
            .update(Kind::BackupConfig, old.id.as_str(), patch)
            .await
            .map_err(|e| taken(e, &name))?;
        tx.audit(audit(actor, meta, "backupConfig.update", Some(old.id.as_str()), detail(&judged)))
            .await?;
        tx.commit().await?;
        self.learn(&row)?;
        let config = ConfigRow::read(&self.store, &row).await?;
        Ok((config_view(&config, now)?, config.revision))
    }

    /// Removes a config and what is known of its backups. The repository stays where it is; gives where.
    pub async fn remove(&self, actor: &Actor, meta: &Meta, key: &str, force: bool) -> ApiResult<(Title, Option<String>)> {
        let held = self.find(key).await?;
        let config = super::Config::read(&held)?;
        let mut tx = self.store.begin(self.clock.now()).await?;
        let row = tx.get(Kind::BackupConfig, config.id.as_str()).await?;
        let row = row.ok_or_else(|| ApiError::not_found("backup config", key))?;
        if_match(&row, meta)?;
        let state: ConfigState = row.status()?;
        if let Some(operation) = state.running {
            return Err(busy(&config.id).with_operation(operation));
        }
        if let Some(repository) = state.repository.as_ref().filter(|_| config.stored.spec.encryption && !force) {
            let text = format!(
                "its backups stay in {}, and nobody can restore them once their password is gone: keep it first (`neuralmesh backups key {}`), \
                 then ask with `force=true`",
                repository.location, config.id
            );
            return Err(ApiError::conflict("key_would_be_lost", text));
        }
        for backup in catalogue::of_config(&self.store, &config).await? {
            tx.delete(Kind::Backup, backup.id.as_str()).await?;
        }
        tx.delete(Kind::BackupConfig, config.id.as_str()).await?;
        let location = state.repository.map(|r| r.location);
        let detail = json!({ "name": row.name, "repository": location });
        tx.audit(audit(actor, meta, "backupConfig.remove", Some(config.id.as_str()), detail))
            .await?;
        tx.commit().await?;
        self.unlearn(&config.id);
        Ok((config.stored.spec.name, location))
    }
}
