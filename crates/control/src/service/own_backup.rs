//! The control plane's backup of itself: its store, written out as lines, in a repository of restic's format like any other. It is asked
//! for where the control plane is started, not in its store: what brings the store back can't stand in it.
//!
//! A slot of the schedule is noted before its backup is made, and the snapshot carries it as a tag: after a crash the same slot is
//! made again, and is found where it was made already.

use crate::api::error::{ApiError, ApiResult};
use crate::service::backups::{StoredCredentials, failed, location_of, place_of};
use crate::service::clock::SharedClock;
use futures_util::future::BoxFuture;
use jiff::tz::TimeZone;
use nm_plan::schedule;
use nm_store::{Kind, NewResource, Store};
use nm_types::backup::job::{
    BackedUp, BackupTask, CheckTask, ForgetTask, Hidden, Job, JobEvent, JobKey, Outcome, RepositoryAccess, RepositoryPlace, Snapshots,
    Source, Task,
};
use nm_types::backup::{BackupCredentials, BackupDestination, BackupType, CronSchedule, OwnBackupView};
use nm_types::units::Bounded;
use nm_types::{OperationId, Timestamp};
use serde::{Deserialize, Serialize};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::BufWriter;
use tokio::sync::Mutex;

/// The folder below the destination.
pub const FOLDER: &str = "neuralmesh-control-plane";
/// Where the store stands in a snapshot.
pub const EXPORT_AT: &str = "/neuralmesh/store.jsonl";
const README_AT: &str = "/neuralmesh/README.txt";
const README: &str = "A NeuralMesh control plane: users, nodes, containers as they were wanted, clusters, configs of backups, the audit log.\n\
    `neuralmesh restore-control-plane` brings it back. Secrets in it are sealed with the key file, which is not in this backup:\n\
    without it they open no more.\n";
const LABEL: &str = "control-plane";
const SLOT: &str = "slot-";
const ROW: &str = "ownBackup";
/// The file with the slot that is being made.
const BEGUN: &str = "begun";
/// So many stay whatever their age.
const AT_LEAST: usize = 3;
const DAY_MS: i64 = 24 * 3_600_000;
/// After one that failed.
const AGAIN_MS: i64 = 15 * 60_000;

/// What carries out jobs: a worker, in a process of its own.
pub trait JobRunner: Send + Sync {
    /// The last event: how it ended.
    fn run<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, JobEvent>;
}

/// What the control plane is started with.
#[derive(Clone)]
pub struct OwnBackupConfig {
    pub destination: BackupDestination,
    pub credentials: Option<BackupCredentials>,
    pub schedule: CronSchedule,
    pub retention: Bounded<1, 365>,
    /// The repository's.
    pub password: Hidden,
    /// A folder of its own, for what is written out; it is emptied.
    pub scratch: PathBuf,
    /// Networks that are forbidden otherwise and may be connected to all the same.
    pub allow: Vec<String>,
    pub runner: Arc<dyn JobRunner>,
}

impl std::fmt::Debug for OwnBackupConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnBackupConfig")
            .field("destination", &self.destination)
            .finish_non_exhaustive()
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

impl OwnBackupConfig {
    fn unwritten(&self, error: &std::io::Error) -> ApiError {
        let text = format!(
            "the store can't be written out below {}: {error}; make room there",
            self.scratch.display()
        );
        ApiError::new(http::StatusCode::INSUFFICIENT_STORAGE, "scratch_unwritable", text)
    }

    pub fn place(&self) -> ApiResult<RepositoryPlace> {
        let credentials = self.credentials.as_ref().map(StoredCredentials::of);
        place_of(&self.destination, FOLDER, credentials.as_ref())
    }

    /// Carries out one task on the repository.
    pub async fn job(&self, now: Timestamp, step: &str, id: Option<String>, task: Task) -> ApiResult<Outcome> {
        let key = JobKey::new(&OperationId::fresh(now.0), step).ok_or_else(ApiError::internal)?;
        let job = Job {
            key,
            repository: RepositoryAccess {
                place: self.place()?,
                password: self.password.clone(),
                id,
                append_only: false,
            },
            allow: self.allow.clone(),
            task,
        };
        match self.runner.run(&job).await {
            JobEvent::Done { outcome } => Ok(outcome),
            JobEvent::Failed { error } => Err(failed(&error)),
            other => {
                tracing::error!(event = ?other, "a backup worker ended with what is no end");
                Err(ApiError::internal())
            }
        }
    }

    /// The control plane's backups that there are, the oldest first.
    pub async fn snapshots(&self, now: Timestamp, id: Option<String>) -> ApiResult<Snapshots> {
        match self.job(now, "list", id, Task::List).await? {
            Outcome::Snapshots(mut listed) => {
                listed.snapshots.retain(|s| s.label == LABEL);
                listed.snapshots.sort_by(|a, b| (a.time, &a.id).cmp(&(b.time, &b.id)));
                Ok(listed)
            }
            _ => Err(ApiError::internal()),
        }
    }
}

/// A new control plane that is started in the place of one that was lost must not put its own emptiness on top of the backups of that one.
async fn refuse_others(config: &OwnBackupConfig, now: Timestamp, installation: &String) -> ApiResult<()> {
    let listed = match config.snapshots(now, None).await {
        Ok(listed) => listed,
        Err(error) if error.code == "repository_missing" => return Ok(()),
        Err(error) => return Err(error),
    };
    if listed.snapshots.iter().all(|s| s.tags.contains(installation)) {
        return Ok(());
    }
    Err(ApiError::conflict(
        "repository_foreign",
        "the backups there are of another control plane: bring that one back with `neuralmesh restore-control-plane`, or choose another destination",
    ))
}

/// What is kept between two of them.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct State {
    /// The location that all of this is of: another one is begun anew.
    location: String,
    /// The last slot that is done with.
    taken: Option<Timestamp>,
    repository: Option<String>,
    last_backup: Option<Timestamp>,
    snapshot: Option<String>,
    size: Option<u64>,
    kept: Option<u64>,
    message: Option<String>,
}

/// Cheap to clone; clones are the same.
#[derive(Clone)]
pub struct OwnBackup {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    clock: SharedClock,
    config: Option<OwnBackupConfig>,
    /// One at a time.
    turn: Mutex<()>,
    running: AtomicBool,
    state: std::sync::RwLock<State>,
    /// Before this moment one that failed is not tried again.
    again: std::sync::Mutex<Option<Timestamp>>,
}

impl OwnBackup {
    pub async fn open(store: Store, clock: SharedClock, config: Option<OwnBackupConfig>) -> ApiResult<Self> {
        let location = config.as_ref().map(|c| location_of(&c.destination, FOLDER)).unwrap_or_default();
        if let Some(config) = &config {
            // What can't be is known at once, not in the night.
            config.place()?;
        }
        let kept = match store.get(Kind::Setting, ROW).await? {
            Some(row) => row.spec::<State>()?,
            None => State::default(),
        };
        let state = if kept.location == location {
            kept
        } else {
            State {
                location,
                ..State::default()
            }
        };
        Ok(Self {
            inner: Arc::new(Inner {
                store,
                clock,
                config,
                turn: Mutex::new(()),
                running: AtomicBool::new(false),
                state: std::sync::RwLock::new(state),
                again: std::sync::Mutex::new(None),
            }),
        })
    }

    fn state(&self) -> State {
        self.inner.state.read().unwrap_or_else(|e| e.into_inner()).clone()
    }

    pub fn view(&self) -> OwnBackupView {
        let Some(config) = &self.inner.config else {
            return OwnBackupView::default();
        };
        let state = self.state();
        OwnBackupView {
            configured: true,
            destination: Some(config.destination.clone()),
            location: Some(state.location.clone()),
            schedule: Some(config.schedule.clone()),
            retention: Some(config.retention.get()),
            running: self.inner.running.load(Ordering::Relaxed),
            last_backup: state.last_backup,
            next_backup: self.due(config, &state).1,
            snapshot: state.snapshot,
            size: state.size,
            kept: state.kept,
            message: state.message,
        }
    }

    /// The slot to make now, and when the next one comes.
    fn due(&self, config: &OwnBackupConfig, state: &State) -> (Option<Timestamp>, Option<Timestamp>) {
        let now = self.inner.clock.now();
        let next = schedule::next(&config.schedule, &TimeZone::UTC, now);
        // The first is made at once: a control plane without any backup can't wait for the night.
        let Some(taken) = state.taken else { return (Some(now), next) };
        let missed = schedule::next(&config.schedule, &TimeZone::UTC, taken).filter(|at| *at <= now);
        // Of several that were missed one is enough, in the place of all of them.
        (missed.map(|_| now), next)
    }

    /// Makes what is due. Gives when to look again.
    pub async fn turn(&self) -> Option<Timestamp> {
        let config = self.inner.config.as_ref()?;
        let again = *self.inner.again.lock().unwrap_or_else(|e| e.into_inner());
        let now = self.inner.clock.now();
        let (due, next) = self.due(config, &self.state());
        if due.is_some() {
            if let Some(again) = again.filter(|at| *at > now) {
                return Some(again);
            }
            if let Err(error) = self.perform().await {
                tracing::warn!(error = %error.message, "the control plane could not be backed up; it is tried again in a quarter of an hour");
                return *self.inner.again.lock().unwrap_or_else(|e| e.into_inner());
            }
        }
        next
    }

    /// Makes one now, also where none is due.
    pub async fn perform(&self) -> ApiResult<OwnBackupView> {
        let Some(config) = &self.inner.config else {
            return Err(ApiError::conflict(
                "backup_not_configured",
                "the control plane has no destination for backups of itself: start it with --backup-to",
            ));
        };
        let _turn = self.inner.turn.lock().await;
        self.inner.running.store(true, Ordering::Relaxed);
        let done = self.perform_alone(config).await;
        self.inner.running.store(false, Ordering::Relaxed);
        let mut again = self.inner.again.lock().unwrap_or_else(|e| e.into_inner());
        *again = done.is_err().then(|| self.inner.clock.now().plus_millis(AGAIN_MS));
        drop(again);
        done?;
        Ok(self.view())
    }

    async fn perform_alone(&self, config: &OwnBackupConfig) -> ApiResult<()> {
        let mut state = self.state();
        let slot = self.begun(config)?;
        match self.make(config, &state, slot).await {
            Ok((made, kept)) => {
                tracing::info!(snapshot = made.snapshot, size = made.bytes, kept, "the control plane is backed up");
                state.repository = Some(made.repository);
                state.snapshot = Some(made.snapshot);
                state.size = Some(made.bytes);
                state.kept = Some(kept);
                state.last_backup = Some(slot);
                state.taken = Some(slot);
                state.message = None;
                self.keep(state).await?;
                std::fs::remove_file(config.scratch.join(BEGUN)).map_err(|e| config.unwritten(&e))
            }
            Err(error) => {
                state.message = Some(error.message.clone());
                self.keep(state).await?;
                Err(error)
            }
        }
    }

    async fn make(&self, config: &OwnBackupConfig, state: &State, slot: Timestamp) -> ApiResult<(BackedUp, u64)> {
        let now = self.inner.clock.now();
        let installation = self.installation();
        if state.repository.is_none() {
            refuse_others(config, now, &installation).await?;
        }
        let export = self.export(config, now).await?;
        let tag = format!("{SLOT}{}", slot.0);
        let task = BackupTask {
            kind: BackupType::Full,
            parent: None,
            host: "control-plane".into(),
            label: LABEL.into(),
            tags: vec!["neuralmesh".into(), installation],
            time: slot,
            sources: vec![
                Source::Path {
                    path: export.display().to_string(),
                    at: EXPORT_AT.into(),
                },
                Source::Text {
                    at: README_AT.into(),
                    content: README.into(),
                },
            ],
            excludes: Vec::new(),
            one_file_system: false,
            compression: true,
            once: tag,
            damaged: Vec::new(),
        };
        let made = config.job(now, "backup", state.repository.clone(), Task::Backup(task)).await;
        // It is as secret as the store itself, and of no more use.
        if let Err(error) = tokio::fs::remove_file(&export).await {
            tracing::warn!(%error, "what was written out for the control plane's backup could not be removed");
        }
        let Outcome::BackedUp(made) = made? else {
            return Err(ApiError::internal());
        };
        if let Some(problem) = made.problems.first() {
            return Err(ApiError::unavailable(
                "backup_incomplete",
                format!("{}: {}", problem.path, problem.error),
            ));
        }
        let id = Some(made.repository.clone());
        let listed = config.snapshots(now, id.clone()).await?.snapshots;
        let ids = |all: &[nm_types::backup::job::SnapshotSeen]| all.iter().map(|s| s.id.clone()).collect::<Vec<_>>();
        let young = now.plus_millis(-config.retention.get().saturating_mul(DAY_MS));
        let old = listed
            .iter()
            .take(listed.len().saturating_sub(AT_LEAST))
            .take_while(|s| s.time < young)
            .count();
        let (remove, keep) = listed.split_at(old);
        let keep = ids(keep);
        if !remove.is_empty() {
            let forget = ForgetTask {
                remove: ids(remove),
                keep: keep.clone(),
                prune: true,
                grace: 23 * 3600,
            };
            config.job(now, "forget", id.clone(), Task::Forget(forget)).await?;
        }
        let check = CheckTask {
            read: None,
            expect: keep.clone(),
        };
        match config.job(now, "check", id, Task::Check(check)).await? {
            Outcome::Checked(checked) if checked.findings.is_empty() => Ok((made, keep.len() as u64)),
            Outcome::Checked(checked) => Err(ApiError::conflict("repository_damaged", checked.findings.join("; "))),
            _ => Err(ApiError::internal()),
        }
    }

    /// Whose backups these are: the same before a loss and after it, and for no other control plane.
    fn installation(&self) -> String {
        let key = self.inner.store.derive_key("own backup");
        format!("installation-{}", hex::encode(&key[..8]))
    }

    /// The slot of this one, noted before anything is made: after a crash it is the same again. Not in the store, whose copy would say for ever
    /// that its own backup is under way.
    fn begun(&self, config: &OwnBackupConfig) -> ApiResult<Timestamp> {
        let path = config.scratch.join(BEGUN);
        let unwritten = |e: std::io::Error| config.unwritten(&e);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&config.scratch)
            .map_err(unwritten)?;
        if let Ok(text) = std::fs::read_to_string(&path)
            && let Ok(slot) = text.trim().parse()
        {
            return Ok(Timestamp(slot));
        }
        let now = self.inner.clock.now();
        let mut file = private().create(true).truncate(true).open(&path).map_err(unwritten)?;
        writeln!(file, "{}", now.0).and_then(|()| file.sync_all()).map_err(unwritten)?;
        File::open(&config.scratch)
            .and_then(|folder| folder.sync_all())
            .map_err(unwritten)?;
        Ok(now)
    }

    /// Writes the store out into a file that is ours alone.
    async fn export(&self, config: &OwnBackupConfig, now: Timestamp) -> ApiResult<PathBuf> {
        let path = config.scratch.join("store.jsonl");
        match tokio::fs::remove_file(&path).await {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(config.unwritten(&e)),
            Ok(()) | Err(_) => {}
        }
        let file = private().create_new(true).open(&path).map_err(|e| config.unwritten(&e))?;
        let mut out = BufWriter::new(tokio::fs::File::from_std(file));
        self.inner.store.export(now, &mut out).await?;
        Ok(path)
    }

    async fn keep(&self, state: State) -> ApiResult<()> {
        let mut tx = self.inner.store.begin(self.inner.clock.now()).await?;
        tx.put(NewResource::new(Kind::Setting, ROW).named(ROW).spec(&state)?).await?;
        tx.commit().await?;
        *self.inner.state.write().unwrap_or_else(|e| e.into_inner()) = state;
        Ok(())
    }
}
