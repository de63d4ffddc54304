//! A backup from its first word to its end: the snapshot, the check that proves it, then what retention says.

use super::rows::{Config, ConfigRow, LastBackup, StoredBackup};
use super::slots::{self, Work};
use super::{Backups, catalogue, change_backup, change_state, jobs, rows, server_gone};
use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::Meta;
use crate::service::audit::audit;
use crate::service::auth::Actor;
use crate::service::idempotency;
use crate::service::operations::{Failure, Finish, Outcome, Running, WAIT, written};
use nm_link::contract::Prepare;
use nm_plan::schedule::Slot;
use nm_store::{Kind, NewResource, Patch, Secret, StoreError, Tx};
use nm_types::backup::job::{self, BackedUp, BackupTask, CheckTask, Checked, Task};
use nm_types::backup::{BackupStatus, BackupType, BackupVerification, BackupView, RepositoryView};
use nm_types::operation::OperationView;
use nm_types::{BackupConfigId, BackupId, NodeId};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The kind of operation that makes a backup.
pub const PERFORM: &str = "backup.perform";
/// On snapshots made with every byte read.
const FULL: &str = "full";
/// How many sizes a new one is compared with.
const SIZES: usize = 10;
/// A size is strange from so many before it on, and when it differs by so many bytes at least.
const SIZES_AT_LEAST: usize = 3;
const JUMP_AT_LEAST: u64 = 10 << 20;

/// What the work needs to be begun again.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Input {
    config: BackupConfigId,
    backup: BackupId,
    node: NodeId,
}

/// What became of a slot.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Begun,
    /// A backup of the config still runs.
    Skipped,
    /// Something else works on the repository, and the slot waits for its end.
    Waits,
    /// Somebody else was faster.
    Already,
}

impl Backups {
    /// Makes a backup now; answers as soon as it is begun.
    pub async fn perform(&self, actor: &Actor, meta: &Meta, key: &str) -> ApiResult<BackupView> {
        let row = self.find(key).await?;
        let config = self.after_the_last(Config::read(&row)?).await?;
        let mut tx = self.store.begin(self.clock.now()).await?;
        let once = meta.idempotency_key.as_deref();
        let done: Option<BackupId> = idempotency::answered(&mut tx, actor, once, || self.fingerprints.of(meta, &[])).await?;
        if let Some(done) = done {
            drop(tx);
            return self.get(done.as_str()).await;
        }
        let node = self.maker(&config)?;
        self.fleet.agent(&node)?;
        self.destination_is_there(&config)?;
        let (operation, input, view) = self.write(&mut tx, actor, &config, node, None).await?;
        let detail = json!({ "backup": view.id, "server": config.stored.server });
        tx.audit(audit(actor, meta, PERFORM, Some(config.id.as_str()), detail)).await?;
        idempotency::keep(&mut tx, actor, once, &view.id).await?;
        tx.commit().await?;
        self.run_perform(operation, input, false);
        Ok(view)
    }

    /// A backup that is complete is followed by retention and copies. Whoever waited for it need not wait for those, too, before
    /// the next can be asked for.
    async fn after_the_last(&self, config: Config) -> ApiResult<Config> {
        let Some(operation) = &config.state.running else {
            return Ok(config);
        };
        let made = catalogue::of_config(&self.store, &config).await?;
        let is_made = |b: &BackupView| b.operation_id.as_ref() == Some(operation) && b.status.is_kept();
        if !made.iter().any(is_made) {
            return Ok(config);
        }
        self.operations.wait(operation, WAIT).await?;
        Config::read(&self.find(config.id.as_str()).await?)
    }

    /// Makes the backup of a slot.
    pub(super) async fn perform_slot(&self, config: &Config, slot: Slot) -> ApiResult<Taken> {
        let mut tx = self.store.begin(self.clock.now()).await?;
        let held = tx.get(Kind::BackupConfig, config.id.as_str()).await?;
        // A schedule that was changed or paused meanwhile has other slots.
        let Some(held) = held.filter(|row| row.generation == config.generation) else {
            return Ok(Taken::Already);
        };
        let mut state: rows::ConfigState = held.status()?;
        if let Some(other) = &state.running
            && self.operations.get(other.as_str()).await.is_ok_and(|o| o.kind != PERFORM)
        {
            return Ok(Taken::Waits);
        }
        if !slots::claim(&mut state, Work::Backup, slot) {
            return Ok(Taken::Already);
        }
        let cannot = match (&state.running, self.maker(config)) {
            (Some(_), _) => Some("the one before it was still being made".to_owned()),
            (None, Err(error)) => Some(error.message),
            (None, Ok(node)) => {
                tx.update(Kind::BackupConfig, config.id.as_str(), Patch::new().status(&state)?)
                    .await?;
                let (operation, input, _) = self.write(&mut tx, &Actor::system(), config, node, Some(slot)).await?;
                tx.commit().await?;
                self.run_perform(operation, input, false);
                return Ok(Taken::Begun);
            }
        };
        let why = cannot.unwrap_or_default();
        // It is seen in the list and among the events, as what was made is.
        let (mut view, stored) = self.fresh(config, Some(slot), config.state.node.clone(), &Actor::system(), None);
        view.status = BackupStatus::Cancelled;
        view.message = Some(format!("its time passed without a backup: {why}"));
        insert(&mut tx, &view, &stored).await?;
        state.missed = Some(format!("the backup of {} was skipped: {why}", slot.at));
        tx.update(Kind::BackupConfig, config.id.as_str(), Patch::new().status(&state)?)
            .await?;
        tx.commit().await?;
        tracing::warn!(backup.config = %config.id, %why, "a backup is skipped");
        Ok(Taken::Skipped)
    }

    /// The node that can make a backup of a config.
    fn maker(&self, config: &Config) -> ApiResult<NodeId> {
        let node = self.node_of_server(config).ok_or_else(|| server_gone(config))?;
        match &config.state.node {
            Some(home) if config.is_local() && config.state.repository.is_some() && *home != node => Err(ApiError::conflict(
                "repository_elsewhere",
                format!(
                    "the repository is a folder of node {}, and {} is on node {} now: make a config with a destination that every node reaches",
                    self.nodes.name(home),
                    config.stored.server,
                    self.nodes.name(&node)
                ),
            )),
            Some(_) | None => Ok(node),
        }
    }

    fn fresh(
        &self,
        config: &Config,
        slot: Option<Slot>,
        node: Option<NodeId>,
        actor: &Actor,
        operation: Option<&OperationView>,
    ) -> (BackupView, StoredBackup) {
        let (spec, now) = (&config.stored.spec, self.clock.now());
        let id = BackupId::fresh(now.0);
        let view = BackupView {
            location: format!("{}/{id}", spec.destination.as_str().trim_end_matches('/')),
            id,
            config_id: config.id.clone(),
            name: spec.name.to_string(),
            server_id: config.stored.server.clone(),
            status: BackupStatus::InProgress,
            kind: spec.kind,
            timestamp: now,
            slot: slot.map(|s| s.at),
            duration: None,
            size: None,
            new_bytes: None,
            files: None,
            snapshot: None,
            encryption: spec.encryption,
            compression: spec.compression,
            pinned: false,
            operation_id: operation.map(|o| o.id.clone()),
            progress: None,
            message: None,
            problems: Vec::new(),
            problem_count: 0,
            verification: None,
            recoverable_from: None,
            copied: None,
        };
        let stored = StoredBackup {
            node,
            actor: actor.label(),
            volumes: Default::default(),
            paths: Vec::new(),
            database: None,
            log: None,
        };
        (view, stored)
    }

    async fn write(
        &self,
        tx: &mut Tx,
        actor: &Actor,
        config: &Config,
        node: NodeId,
        slot: Option<Slot>,
    ) -> ApiResult<(OperationView, Input, BackupView)> {
        let (mut view, stored) = self.fresh(config, slot, Some(node.clone()), actor, None);
        let input = Input {
            config: config.id.clone(),
            backup: view.id.clone(),
            node,
        };
        let asked = serde_json::to_value(&input).map_err(|_| ApiError::internal())?;
        let operation = self.occupy(tx, actor, config, PERFORM, asked).await?;
        view.operation_id = Some(operation.id.clone());
        insert(tx, &view, &stored).await?;
        Ok((operation, input, view))
    }

    pub(super) fn resume_perform(&self, operation: OperationView, input: serde_json::Value) -> ApiResult<()> {
        let input = serde_json::from_value(input).map_err(|_| ApiError::internal())?;
        self.run_perform(operation, input, true);
        Ok(())
    }

    fn run_perform(&self, operation: OperationView, input: Input, again: bool) {
        let this = self.clone();
        self.operations
            .run(operation, move |running| async move { this.work(running, input, again).await });
    }

    async fn work(&self, running: Running, input: Input, again: bool) -> Finish {
        let made = self.make(&running, &input, again).await;
        self.progress.lock().unwrap_or_else(|e| e.into_inner()).remove(&input.backup);
        match made {
            Ok(result) => {
                let config = input.config.clone();
                let end = written(move |tx: &mut Tx| {
                    let config = config.clone();
                    Box::pin(async move { change_state(tx, &config, |state| state.running = None).await })
                });
                Ok(Outcome { result, end: Some(end) })
            }
            Err(error) => {
                let (message, cancelled) = (error.message.clone(), running.cancelled().is_cancelled());
                let end = written(move |tx: &mut Tx| {
                    let (input, message) = (input.clone(), message.clone());
                    Box::pin(async move { failed(tx, &input, message, cancelled).await })
                });
                Err(Failure { error, end: Some(end) })
            }
        }
    }

    async fn make(&self, running: &Running, input: &Input, again: bool) -> ApiResult<serde_json::Value> {
        let _place = self.place(&input.node, running).await?;
        let config = self.opened(&input.config).await?;
        let others = catalogue::of_config(&self.store, &config).await?;
        let mine = others.iter().find(|b| b.id == input.backup);
        let mine = mine.ok_or_else(|| ApiError::not_found("backup", input.backup.as_str()))?;
        let status = if mine.status == BackupStatus::InProgress {
            let made = self.snapshot(running, input, &config, mine, &others, again).await?;
            running.step("check");
            let checked = self.checked(running, input, &made, again).await?;
            let status = self.completed(input, &made, &checked).await?;
            self.end_log(running, &config).await;
            status
        } else {
            // A crash cut short what follows.
            mine.status
        };
        self.tidy(running, &input.config, &input.node, again).await?;
        Ok(json!({ "backupId": input.backup, "status": status }))
    }

    async fn snapshot(
        &self,
        running: &Running,
        input: &Input,
        config: &ConfigRow,
        mine: &BackupView,
        others: &[BackupView],
        again: bool,
    ) -> ApiResult<BackedUp> {
        let spec = &config.stored.spec;
        let kept = || others.iter().filter(|b| b.status.is_kept());
        let parent = match mine.kind {
            BackupType::Full => None,
            BackupType::Incremental => kept().find_map(|b| b.snapshot.clone()),
            BackupType::Differential => kept().filter(|b| b.kind == BackupType::Full).find_map(|b| b.snapshot.clone()),
        };
        // What a check found damaged is healed by reading everything again.
        let damaged = config.state.damaged.clone();
        let kind = match (mine.kind, &parent) {
            (BackupType::Differential, None) => BackupType::Full,
            (_, _) if !damaged.is_empty() => BackupType::Full,
            (kind, _) => kind,
        };
        self.arrived(&input.node, running, again).await?;
        self.begin_log(input, config).await?;
        let subject = self.subject(config, &input.node).await?;
        let once = format!("backup:{}", input.backup);
        let mut tags = vec![once.clone()];
        tags.extend((kind == BackupType::Full).then(|| FULL.to_owned()));
        let task = Task::Backup(BackupTask {
            kind,
            parent: parent.filter(|_| kind != BackupType::Full),
            host: config.stored.server.clone(),
            label: config.id.to_string(),
            tags,
            time: mine.timestamp,
            sources: subject.sources,
            excludes: spec.excludes.iter().map(ToString::to_string).collect(),
            one_file_system: spec.one_file_system,
            compression: spec.compression,
            once,
            damaged,
        });
        let ask = self.ask(
            self.access(config, &input.node)?,
            jobs::key(running.id(), "backup")?,
            subject.prepare,
            task,
        );
        let told = |progress| {
            self.progress
                .lock()
                .unwrap_or_else(|e| e.into_inner())
                .insert(input.backup.clone(), progress);
        };
        let job::Outcome::BackedUp(made) = self.job(&input.node, running, &ask, again, told).await? else {
            return Err(unexpected(&input.node));
        };
        let location = rows::location(&spec.destination, &config.id);
        let (volumes, paths) = (subject.volumes, subject.paths);
        let sealed = subject.spec.as_ref().map(Secret::json).transpose()?;
        // Before anything else can fail: without the repository's id a missing one would be made anew, and without the snapshot's
        // retention would meet one that nobody knows of.
        let mut tx = self.store.begin(self.clock.now()).await?;
        if let Some(row) = tx.get(Kind::Backup, input.backup.as_str()).await? {
            let (mut view, mut stored): (BackupView, StoredBackup) = (row.status()?, row.spec()?);
            view.snapshot = Some(made.snapshot.clone());
            (stored.volumes, stored.paths) = (volumes, paths);
            let patch = Patch::new().status(&view)?.spec(&stored)?.secret(sealed);
            tx.update(Kind::Backup, input.backup.as_str(), patch).await?;
        }
        change_state(&mut tx, &input.config, |state| {
            let repository = state.repository.get_or_insert_with(|| RepositoryView {
                location,
                ..RepositoryView::default()
            });
            repository.id.clone_from(&made.repository);
            state.node = Some(input.node.clone());
        })
        .await?;
        tx.commit().await?;
        Ok(made)
    }

    /// Before a base backup of a database: where it stands in the log, written down before it is begun.
    async fn begin_log(&self, input: &Input, config: &Config) -> ApiResult<()> {
        let row = self.backup_row(input.backup.as_str()).await?;
        let mut stored: StoredBackup = row.spec()?;
        if stored.log.is_some() {
            return Ok(());
        }
        let Some(place) = self.open_window(config).await? else {
            return Ok(());
        };
        let database = self.database_spec(config).ok_or_else(|| server_gone(config))?;
        (stored.database, stored.log) = (Some(database), Some(place));
        let mut tx = self.store.begin(self.clock.now()).await?;
        tx.update(Kind::Backup, input.backup.as_str(), Patch::new().spec(&stored)?).await?;
        tx.commit().await?;
        Ok(())
    }

    async fn checked(&self, running: &Running, input: &Input, made: &BackedUp, again: bool) -> ApiResult<Checked> {
        let config = self.opened(&input.config).await?;
        let check = CheckTask {
            read: None,
            expect: vec![made.snapshot.clone()],
        };
        let key = jobs::key(running.id(), "check")?;
        let ask = self.ask(self.access(&config, &input.node)?, key, Prepare::default(), Task::Check(check));
        let job::Outcome::Checked(checked) = self.job(&input.node, running, &ask, again, |_| {}).await? else {
            return Err(unexpected(&input.node));
        };
        if let Some(finding) = checked.findings.first() {
            let text = format!("the repository is damaged, so the backup does not count: {finding}");
            let mut tx = self.store.begin(self.clock.now()).await?;
            let now = tx.now();
            change_state(&mut tx, &input.config, |state| {
                state.damaged.clone_from(&checked.damaged);
                if let Some(repository) = &mut state.repository {
                    (repository.last_check, repository.findings) = (Some(now), checked.findings.clone());
                }
            })
            .await?;
            tx.commit().await?;
            return Err(ApiError::conflict("repository_damaged", text));
        }
        Ok(checked)
    }

    /// It is one now, whatever becomes of what follows.
    async fn completed(&self, input: &Input, made: &BackedUp, checked: &Checked) -> ApiResult<BackupStatus> {
        let status = if made.problem_count == 0 {
            BackupStatus::Completed
        } else {
            BackupStatus::Partial
        };
        let mut tx = self.store.begin(self.clock.now()).await?;
        let now = tx.now();
        let view = change_backup(&mut tx, &input.backup, |view| {
            let seconds = now.since(view.timestamp).max(0) as f64 / 1e3;
            (view.status, view.kind, view.duration) = (status, made.kind, Some(seconds));
            (view.size, view.new_bytes, view.files) = (Some(made.bytes), Some(made.added), Some(made.files));
            view.snapshot = Some(made.snapshot.clone());
            view.problems.clone_from(&made.problems);
            view.problem_count = made.problem_count;
            if let Some(problem) = made.problems.first() {
                let text = format!(
                    "{} files are missing, the first is {}: {}",
                    made.problem_count, problem.path, problem.error
                );
                view.message = Some(text);
            }
            view.verification = Some(BackupVerification {
                checked: Some(now),
                ..Default::default()
            });
        })
        .await?;
        if let Some(view) = view {
            change_state(&mut tx, &input.config, |state| {
                (state.failure, state.missed) = (None, None);
                state.last_backup = Some(view.timestamp);
                state.last = Some(LastBackup {
                    ended: now,
                    duration: view.duration.unwrap_or_default(),
                    size: made.bytes,
                    new_bytes: made.added,
                });
                if let Some(log) = &mut state.log {
                    log.unsettled.push(view.id.clone());
                }
                state.succeeded += 1;
                state.jump = jump(&state.sizes, made.bytes);
                state.sizes.push(made.bytes);
                let old = state.sizes.len().saturating_sub(SIZES);
                state.sizes.drain(..old);
                state.damaged.clear();
                if let Some(repository) = &mut state.repository {
                    (repository.size, repository.last_check) = (Some(checked.size), Some(now));
                    repository.findings.clear();
                }
            })
            .await?;
        }
        tx.commit().await?;
        Ok(status)
    }
}

async fn insert(tx: &mut Tx, view: &BackupView, stored: &StoredBackup) -> ApiResult<()> {
    let new = NewResource::new(Kind::Backup, view.id.as_str())
        .named(view.name.as_str())
        .within(view.config_id.as_str());
    tx.insert(new.spec(stored)?.status(view)?).await?;
    Ok(())
}

/// What is strange about a size beside those before it: twice their median and more, or half of it and less.
fn jump(before: &[u64], size: u64) -> Option<String> {
    let mut sorted = before.to_vec();
    sorted.sort_unstable();
    let median = *sorted.get(sorted.len() / 2).filter(|_| sorted.len() >= SIZES_AT_LEAST)?;
    let strange = (size >= median.saturating_mul(2) || size <= median / 2) && size.abs_diff(median) >= JUMP_AT_LEAST;
    strange.then(|| {
        format!(
            "the last backup has {size} bytes, and the {} before it have about {median}: look at what is in it",
            sorted.len()
        )
    })
}

pub(super) fn unexpected(node: &NodeId) -> ApiError {
    tracing::error!(node.id = %node, "a backup job ended with the outcome of another task");
    ApiError::internal()
}

async fn failed(tx: &mut Tx, input: &Input, message: String, cancelled: bool) -> Result<(), StoreError> {
    let now = tx.now();
    let mut was_made = false;
    change_backup(tx, &input.backup, |view| {
        if view.status != BackupStatus::InProgress {
            was_made = true;
            return;
        }
        view.status = if cancelled { BackupStatus::Cancelled } else { BackupStatus::Failed };
        view.duration = Some(now.since(view.timestamp).max(0) as f64 / 1e3);
        view.message = Some(message.clone());
    })
    .await?;
    change_state(tx, &input.config, |state| {
        state.running = None;
        if was_made {
            state.upkeep = Some(message.clone());
        } else if !cancelled {
            state.failure = Some(message.clone());
            state.failed += 1;
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_jump_only_beside_some_before_them() {
        const M: u64 = 1 << 20;
        for (before, size, strange) in [
            (&[][..], 900 * M, false),
            (&[100 * M, 100 * M], 900 * M, false),
            (&[100 * M, 101 * M, 102 * M], 150 * M, false),
            (&[100 * M, 101 * M, 102 * M], 202 * M, true),
            (&[100 * M, 101 * M, 102 * M], 50 * M, true),
            (&[1, 1, 1], 1000, false),
        ] {
            assert_eq!(jump(before, size).is_some(), strange, "{before:?} {size}");
        }
    }
}
