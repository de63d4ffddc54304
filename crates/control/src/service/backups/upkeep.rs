//! What keeps a repository good: retention, the copy, reading data back, test restores, and the removal of one backup.

use super::perform::unexpected;
use super::rows::{Config, ConfigRow, ConfigState};
use super::slots::{self, Work};
use super::{Backups, catalogue, change_backup, change_state, freed, jobs, rows};
use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::Meta;
use crate::service::audit::audit;
use crate::service::auth::Actor;
use crate::service::operations::{Finish, Running, WAIT};
use nm_link::contract::Prepare;
use nm_plan::schedule::Slot;
use nm_store::{Kind, Patch, StoreError};
use nm_types::backup::job::{self, CheckTask, CopyTask, ForgetTask, Forgotten, Hidden, ReadPart, RestoreItem, RestoreTask, Task};
use nm_types::backup::{BackupStatus, BackupVerification, BackupView, RepositoryView};
use nm_types::operation::OperationView;
use nm_types::{BackupConfigId, BackupId, NodeId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::time::Duration;

/// The kinds of operations that read data back, restore a backup for a test, and remove one.
pub const CHECK: &str = "backup.check";
pub const TEST: &str = "backup.test";
pub const REMOVE: &str = "backup.remove";

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Input {
    config: BackupConfigId,
    /// The one that is restored or removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    backup: Option<BackupId>,
    node: NodeId,
}

/// What is said of a finding: the first of several.
fn finding(findings: &[String], count: u64) -> Option<String> {
    let first = findings.first()?;
    Some(match count {
        0 | 1 => first.clone(),
        many => format!("{first} (and {} more)", many - 1),
    })
}

impl Backups {
    /// What follows a backup. What of it fails is kept, and makes the backup no worse.
    pub(super) async fn tidy(&self, running: &Running, id: &BackupConfigId, node: &NodeId, again: bool) -> ApiResult<()> {
        let mut trouble = None;
        if let Err(error) = self.add_recovery(running, id, node, again).await {
            trouble = Some(format!("the recovery password could not be added: {}", error.message));
        }
        if let Err(error) = self.retain(running, id, node, again).await {
            trouble = Some(format!("old backups could not be removed: {}", error.message));
        }
        if let Err(error) = self.copy(running, id, node, again).await {
            trouble = Some(format!("the copy could not be made: {}", error.message));
        }
        if let Err(error) = self.tidy_log(running, id, node).await {
            trouble = Some(format!(
                "the write-ahead log could not be cleaned up and checked: {}",
                error.message
            ));
        }
        if running.cancelled().is_cancelled() {
            trouble = None;
        }
        if let Some(text) = &trouble {
            running.log(text.clone());
            tracing::warn!(backup.config = %id, %text, "a backup was made, and something after it failed");
        }
        let mut tx = self.store.begin(self.clock.now()).await?;
        change_state(&mut tx, id, |state| state.upkeep = trouble).await?;
        tx.commit().await?;
        Ok(())
    }

    async fn add_recovery(&self, running: &Running, id: &BackupConfigId, node: &NodeId, again: bool) -> ApiResult<()> {
        let config = self.opened(id).await?;
        if config.state.recovery_added || !config.stored.spec.encryption {
            return Ok(());
        }
        let task = Task::AddKey {
            password: Hidden(config.secrets.recovery.clone()),
        };
        let ask = self.ask(
            self.access(&config, node)?,
            jobs::key(running.id(), "addkey")?,
            Prepare::default(),
            task,
        );
        let job::Outcome::KeyAdded { .. } = self.job(node, running, &ask, again, |_| {}).await? else {
            return Err(unexpected(node));
        };
        self.change(id, |state| state.recovery_added = true).await
    }

    async fn change(&self, id: &BackupConfigId, change: impl FnOnce(&mut ConfigState)) -> ApiResult<()> {
        let mut tx = self.store.begin(self.clock.now()).await?;
        change_state(&mut tx, id, change).await?;
        tx.commit().await?;
        Ok(())
    }

    async fn retain(&self, running: &Running, id: &BackupConfigId, node: &NodeId, again: bool) -> ApiResult<()> {
        let _deciding = self.deciding.hold(id.clone()).await;
        let config = self.opened(id).await?;
        let now = self.clock.now();
        let backups = catalogue::of_config(&self.store, &config).await?;
        let preview = catalogue::preview(&config, &backups, now)?;
        let gone: Vec<BackupId> = preview.remove.into_iter().map(|d| d.backup_id).collect();
        let prune = catalogue::grace_is_over(config.state.marked, now) && !config.stored.spec.append_only;
        self.remove_all(running, &config, node, &backups, &gone, prune, again).await
    }

    /// Removes backups from the repository, and then their rows.
    #[expect(clippy::too_many_arguments, reason = "what is removed, where, and by whom")]
    async fn remove_all(
        &self,
        running: &Running,
        config: &ConfigRow,
        node: &NodeId,
        backups: &[BackupView],
        gone: &[BackupId],
        prune: bool,
        again: bool,
    ) -> ApiResult<()> {
        let mut forgotten = None;
        if let Some(task) = catalogue::forget(backups, gone, prune) {
            running.step("retention");
            forgotten = Some(match self.forget(running, config, node, "forget", task.clone(), again).await {
                // What an operation that was cut short has made is taken in, and then known.
                Err(error) if error.code == "catalogue_disagrees" => {
                    self.adopt(running, config, node, again).await?;
                    let backups = catalogue::of_config(&self.store, config).await?;
                    let task = catalogue::forget(&backups, gone, prune).unwrap_or(task);
                    self.forget(running, config, node, "forgetagain", task, again).await?
                }
                ended => ended?,
            });
        }
        if gone.is_empty() && forgotten.is_none() {
            return Ok(());
        }
        let copied: Vec<String> = backups
            .iter()
            .filter(|b| gone.contains(&b.id))
            .filter_map(|b| b.copied.clone())
            .collect();
        let mut tx = self.store.begin(self.clock.now()).await?;
        let now = tx.now();
        for id in gone {
            match tx.delete(Kind::Backup, id.as_str()).await {
                Ok(_) | Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        change_state(&mut tx, &config.id, |state| {
            state.copy_remove.extend(copied);
            if let Some(forgotten) = &forgotten {
                state.marked = (forgotten.marked > 0).then_some(now);
                if let Some(repository) = &mut state.repository {
                    (repository.size, repository.last_prune) = (Some(forgotten.size), Some(now));
                }
            }
        })
        .await?;
        tx.commit().await?;
        if !gone.is_empty() {
            running.log(format!("{} backups were removed", gone.len()));
        }
        Ok(())
    }

    async fn forget(
        &self,
        running: &Running,
        config: &ConfigRow,
        node: &NodeId,
        step: &str,
        task: ForgetTask,
        again: bool,
    ) -> ApiResult<Forgotten> {
        let key = jobs::key(running.id(), step)?;
        let ask = self.ask(self.access(config, node)?, key, Prepare::default(), Task::Forget(task));
        match self.job(node, running, &ask, again, |_| {}).await? {
            job::Outcome::Forgotten(forgotten) => Ok(forgotten),
            _ => Err(unexpected(node)),
        }
    }

    /// Snapshots of ours that no row knows of: each belongs to a backup whose end was never heard of.
    async fn adopt(&self, running: &Running, config: &ConfigRow, node: &NodeId, again: bool) -> ApiResult<()> {
        let ask = self.ask(
            self.access(config, node)?,
            jobs::key(running.id(), "list")?,
            Prepare::default(),
            Task::List,
        );
        let job::Outcome::Snapshots(seen) = self.job(node, running, &ask, again, |_| {}).await? else {
            return Err(unexpected(node));
        };
        let mut tx = self.store.begin(self.clock.now()).await?;
        for snapshot in seen.snapshots.iter().filter(|s| s.label == config.id.as_str()) {
            let tagged = snapshot
                .tags
                .iter()
                .find_map(|tag| BackupId::parse(tag.strip_prefix("backup:")?).ok());
            let Some(id) = tagged else { continue };
            let taken = change_backup(&mut tx, &id, |view| {
                view.snapshot.get_or_insert_with(|| snapshot.id.clone());
            });
            if taken.await?.is_some() {
                running.log(format!("snapshot {} is that of {id}", snapshot.id));
            }
        }
        tx.commit().await?;
        Ok(())
    }

    /// Copies what the second repository lacks, and removes from it what is gone here.
    async fn copy(&self, running: &Running, id: &BackupConfigId, node: &NodeId, again: bool) -> ApiResult<()> {
        let config = self.opened(id).await?;
        let Some(to) = self.copy_access(&config, node)? else {
            return Ok(());
        };
        let backups = catalogue::of_config(&self.store, &config).await?;
        let missing: Vec<String> = backups
            .iter()
            .filter(|b| b.status.is_kept() && b.copied.is_none())
            .filter_map(|b| b.snapshot.clone())
            .collect();
        if !missing.is_empty() {
            running.step("copy");
            let task = Task::Copy(CopyTask {
                to: to.access,
                snapshots: missing,
                compression: config.stored.spec.compression,
            });
            let ask = self
                .ask(
                    self.access(&config, node)?,
                    jobs::key(running.id(), "copy")?,
                    Prepare::default(),
                    task,
                )
                .with_copy(to.far);
            let job::Outcome::Copied(copied) = self.job(node, running, &ask, again, |_| {}).await? else {
                return Err(unexpected(node));
            };
            let location = config.stored.spec.copy.as_ref().map(|copy| rows::location(&copy.destination, id));
            let mut tx = self.store.begin(self.clock.now()).await?;
            for (here, there) in &copied.snapshots {
                if let Some(backup) = backups.iter().find(|b| b.snapshot.as_ref() == Some(here)) {
                    change_backup(&mut tx, &backup.id, |view| view.copied = Some(there.clone())).await?;
                }
            }
            change_state(&mut tx, id, |state| {
                let repository = state.copy.get_or_insert_with(|| RepositoryView {
                    location: location.unwrap_or_default(),
                    ..RepositoryView::default()
                });
                repository.id.clone_from(&copied.repository);
            })
            .await?;
            tx.commit().await?;
        }
        let config = self.opened(id).await?;
        let remove = config.state.copy_remove.clone();
        let (false, Some(to)) = (remove.is_empty(), self.copy_access(&config, node)?) else {
            return Ok(());
        };
        let keep = catalogue::of_config(&self.store, &config).await?;
        let task = Task::Forget(ForgetTask {
            remove,
            keep: keep.into_iter().filter_map(|b| b.copied).collect(),
            prune: true,
            grace: catalogue::GRACE,
        });
        let ask = self.ask(to, jobs::key(running.id(), "forgetcopy")?, Prepare::default(), task);
        let job::Outcome::Forgotten(forgotten) = self.job(node, running, &ask, again, |_| {}).await? else {
            return Err(unexpected(node));
        };
        let now = self.clock.now();
        self.change(id, |state| {
            state.copy_remove.clear();
            if let Some(repository) = &mut state.copy {
                (repository.size, repository.last_prune) = (Some(forgotten.size), Some(now));
            }
        })
        .await
    }

    /// Reads the next part of the data and the structure; answers with the repository, or the operation where it goes on.
    pub async fn check(&self, actor: &Actor, meta: &Meta, key: &str) -> ApiResult<Result<RepositoryView, OperationView>> {
        let config = Config::read(&self.find(key).await?)?;
        if config.state.repository.is_none() {
            return Err(nothing_yet(&config));
        }
        let operation = self.ask_for(actor, meta, &config, CHECK, None).await?;
        match self.waited(operation, meta).await? {
            Some(operation) => Ok(Err(operation)),
            None => {
                let config = Config::read(&self.find(config.id.as_str()).await?)?;
                Ok(Ok(config.state.repository.unwrap_or_default()))
            }
        }
    }

    /// Restores a backup into a scratch folder, and compares.
    pub async fn verify(&self, actor: &Actor, meta: &Meta, id: &str) -> ApiResult<Result<BackupView, OperationView>> {
        let (config, view) = self.kept(id).await?;
        let operation = self.ask_for(actor, meta, &config, TEST, Some(&view.id)).await?;
        match self.waited(operation, meta).await? {
            Some(operation) => Ok(Err(operation)),
            None => Ok(Ok(self.get(view.id.as_str()).await?)),
        }
    }

    /// Removes one backup; gives the operation where it goes on.
    pub async fn remove_backup(&self, actor: &Actor, meta: &Meta, id: &str, force: bool) -> ApiResult<Option<OperationView>> {
        let row = self.backup_row(id).await?;
        let view = rows::view_of(&row)?;
        let config = Config::read(&self.find(view.config_id.as_str()).await?)?;
        if view.status == BackupStatus::InProgress {
            return Err(ApiError::conflict("in_progress", format!("{id} is being made: cancel it first")));
        }
        if view.pinned {
            return Err(ApiError::conflict("pinned", format!("{id} is pinned: unpin it first")));
        }
        if view.snapshot.is_none() {
            let mut tx = self.store.begin(self.clock.now()).await?;
            tx.delete(Kind::Backup, id).await?;
            tx.audit(audit(actor, meta, REMOVE, Some(id), json!({ "config": config.id })))
                .await?;
            tx.commit().await?;
            return Ok(None);
        }
        if config.stored.spec.append_only {
            let text = "its config is append-only: nothing is removed from the repository";
            return Err(ApiError::conflict("append_only", text));
        }
        let all = catalogue::of_config(&self.store, &config).await?;
        let others = all.iter().any(|b| b.id != view.id && b.status == BackupStatus::Completed);
        if view.status.is_kept() && !others && !force {
            let text = format!("{id} is the last good backup of its config: ask with `force=true` to remove it all the same");
            return Err(ApiError::conflict("last_good", text));
        }
        let operation = self.ask_for(actor, meta, &config, REMOVE, Some(&view.id)).await?;
        self.waited(operation, meta).await
    }

    /// A backup that can be restored, and its config.
    pub(super) async fn kept(&self, id: &str) -> ApiResult<(Config, BackupView)> {
        let view = rows::view_of(&self.backup_row(id).await?)?;
        if !view.status.is_kept() || view.snapshot.is_none() {
            let text = format!("{id} is {}: there is nothing to restore of it", view.status.as_str());
            return Err(ApiError::conflict("not_restorable", text));
        }
        Ok((Config::read(&self.find(view.config_id.as_str()).await?)?, view))
    }

    async fn ask_for(
        &self,
        actor: &Actor,
        meta: &Meta,
        config: &Config,
        kind: &'static str,
        backup: Option<&BackupId>,
    ) -> ApiResult<OperationView> {
        let node = self.node_of(config)?;
        self.fleet.agent(&node)?;
        self.destination_is_there(config)?;
        let input = Input {
            config: config.id.clone(),
            backup: backup.cloned(),
            node,
        };
        let mut tx = self.store.begin(self.clock.now()).await?;
        let asked = serde_json::to_value(&input).map_err(|_| ApiError::internal())?;
        let operation = self.occupy(&mut tx, actor, config, kind, asked).await?;
        let target = backup.map_or(config.id.as_str(), BackupId::as_str);
        tx.audit(audit(actor, meta, kind, Some(target), json!({ "config": config.id })))
            .await?;
        tx.commit().await?;
        self.run_upkeep(kind, operation.clone(), input, false);
        Ok(operation)
    }

    /// Waits as long as a request does: none where it is done, the operation where it goes on.
    pub(super) async fn waited(&self, operation: OperationView, meta: &Meta) -> ApiResult<Option<OperationView>> {
        let wait = if meta.respond_async { Duration::ZERO } else { WAIT };
        let view = self.operations.wait(&operation.id, wait).await?;
        if let Some(error) = view.error {
            return Err(ApiError::from(error).with_operation(view.id));
        }
        Ok((!view.state.is_final()).then_some(view))
    }

    /// What a schedule asks for; false where another operation works on the repository, or somebody was faster.
    pub(super) async fn upkeep_slot(&self, config: &Config, work: Work, slot: Slot) -> ApiResult<bool> {
        let node = self.node_of(config)?;
        let (kind, backup) = match work {
            Work::Backup => return Ok(false),
            Work::Check => (CHECK, None),
            Work::TestRestore => {
                let all = catalogue::of_config(&self.store, config).await?;
                let newest = all.into_iter().find(|b| b.status.is_kept() && b.snapshot.is_some());
                let Some(newest) = newest else { return Ok(false) };
                (TEST, Some(newest.id))
            }
        };
        let mut tx = self.store.begin(self.clock.now()).await?;
        let held = tx.get(Kind::BackupConfig, config.id.as_str()).await?;
        let Some(held) = held.filter(|row| row.generation == config.generation) else {
            return Ok(false);
        };
        let mut state: ConfigState = held.status()?;
        if state.running.is_some() || !slots::claim(&mut state, work, slot) {
            return Ok(false);
        }
        tx.update(Kind::BackupConfig, config.id.as_str(), Patch::new().status(&state)?)
            .await?;
        let input = Input {
            config: config.id.clone(),
            backup,
            node,
        };
        let asked = serde_json::to_value(&input).map_err(|_| ApiError::internal())?;
        let operation = self.occupy(&mut tx, &Actor::system(), config, kind, asked).await?;
        tx.commit().await?;
        self.run_upkeep(kind, operation, input, false);
        Ok(true)
    }

    pub(super) fn resume_upkeep(&self, kind: &str, operation: OperationView, input: Value) -> ApiResult<()> {
        let input = serde_json::from_value(input).map_err(|_| ApiError::internal())?;
        let kind = [CHECK, TEST, REMOVE]
            .into_iter()
            .find(|k| *k == kind)
            .ok_or_else(ApiError::internal)?;
        self.run_upkeep(kind, operation, input, true);
        Ok(())
    }

    fn run_upkeep(&self, kind: &'static str, operation: OperationView, input: Input, again: bool) {
        let this = self.clone();
        self.operations.run(
            operation,
            move |running| async move { this.keep_up(kind, running, input, again).await },
        );
    }

    async fn keep_up(&self, kind: &'static str, running: Running, input: Input, again: bool) -> Finish {
        let done = async {
            let _place = self.place(&input.node, &running).await?;
            let config = self.opened(&input.config).await?;
            match (kind, &input.backup) {
                (TEST, Some(backup)) => self.test(&running, &config, backup, &input.node, again).await,
                (REMOVE, Some(backup)) => {
                    let backups = catalogue::of_config(&self.store, &config).await?;
                    let gone = std::slice::from_ref(backup);
                    self.remove_all(&running, &config, &input.node, &backups, gone, false, again)
                        .await?;
                    self.copy(&running, &config.id, &input.node, again).await?;
                    Ok(json!({ "backupId": backup }))
                }
                _ => self.read_part(&running, &config, &input.node, again).await,
            }
        };
        let done: ApiResult<Value> = done.await;
        freed(&input.config, done)
    }

    async fn read_part(&self, running: &Running, config: &ConfigRow, node: &NodeId, again: bool) -> ApiResult<Value> {
        let of = u32::try_from(config.stored.spec.check.parts.get()).unwrap_or(1);
        let n = config.state.part.clamp(1, of);
        let backups = catalogue::of_config(&self.store, config).await?;
        let expected = backups.iter().filter(|b| b.status.is_kept());
        let task = Task::Check(CheckTask {
            read: Some(ReadPart { n, of }),
            expect: expected.filter_map(|b| b.snapshot.clone()).collect(),
        });
        let ask = self.ask(
            self.access(config, node)?,
            jobs::key(running.id(), "read")?,
            Prepare::default(),
            task,
        );
        let job::Outcome::Checked(checked) = self.job(node, running, &ask, again, |_| {}).await? else {
            return Err(unexpected(node));
        };
        let now = self.clock.now();
        self.change(&config.id, |state| {
            state.part = n % of + 1;
            state.damaged.clone_from(&checked.damaged);
            if let Some(repository) = &mut state.repository {
                (repository.last_check, repository.last_read) = (Some(now), Some(now));
                repository.size = Some(checked.size);
                repository.findings.clone_from(&checked.findings);
            }
        })
        .await?;
        match finding(&checked.findings, checked.finding_count) {
            Some(text) => Err(ApiError::conflict(
                "repository_damaged",
                format!("the repository is damaged: {text}"),
            )),
            None => Ok(json!({ "part": n, "of": of, "read": checked.read, "packs": checked.packs })),
        }
    }

    async fn test(&self, running: &Running, config: &ConfigRow, id: &BackupId, node: &NodeId, again: bool) -> ApiResult<Value> {
        let view = rows::view_of(&self.backup_row(id.as_str()).await?)?;
        let snapshot = view.snapshot.ok_or_else(|| ApiError::not_found("backup", id.as_str()))?;
        let task = Task::Restore(RestoreTask {
            snapshot,
            // Where, the agent says.
            items: vec![RestoreItem {
                from: "/".into(),
                to: String::new(),
                replace: true,
            }],
            include: Vec::new(),
            dry_run: false,
            verify: true,
            scratch: true,
        });
        let ask = self.ask(
            self.access(config, node)?,
            jobs::key(running.id(), "test")?,
            Prepare::default(),
            task,
        );
        let job::Outcome::Restored(restored) = self.job(node, running, &ask, again, |_| {}).await? else {
            return Err(unexpected(node));
        };
        let wrong = match (&restored.problems[..], restored.verified) {
            ([first, ..], _) => Some(format!("{}: {}", first.path, first.error)),
            ([], false) => Some("what was restored is not what the snapshot has".to_owned()),
            ([], true) => None,
        };
        let mut tx = self.store.begin(self.clock.now()).await?;
        let now = tx.now();
        change_backup(&mut tx, id, |view| {
            let verification = view.verification.get_or_insert_with(BackupVerification::default);
            verification.finding.clone_from(&wrong);
            if wrong.is_none() {
                verification.restored = Some(now);
            }
        })
        .await?;
        change_state(&mut tx, &config.id, |state| {
            if let Some(repository) = &mut state.repository {
                repository.last_test_restore = Some(now);
                repository.findings.retain(|f| !f.starts_with(TEST_FAILED));
                repository
                    .findings
                    .extend(wrong.as_ref().map(|text| format!("{TEST_FAILED} of {id} failed: {text}")));
            }
        })
        .await?;
        tx.commit().await?;
        match wrong {
            Some(text) => Err(ApiError::conflict(
                "test_restore_failed",
                format!("{TEST_FAILED} of {id} failed: {text}"),
            )),
            None => Ok(json!({ "backupId": id, "files": restored.files, "bytes": restored.bytes })),
        }
    }
}

/// How the finding of a test restore begins.
const TEST_FAILED: &str = "the test restore";

fn nothing_yet(config: &Config) -> ApiError {
    let text = format!(
        "`{}` has no repository yet: it is made with the first backup",
        config.stored.spec.name
    );
    ApiError::conflict("no_repository", text)
}
