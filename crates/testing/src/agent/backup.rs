//! How a made-up agent carries out backup jobs: repositories are in memory, and a test says what goes wrong.

use super::knobs::Ask;
use nm_link::contract::RunJob;
use nm_types::BackupConfigId;
use nm_types::backup::BackupType;
use nm_types::backup::job::{
    BackedUp, Checked, Copied, FileProblem, Forgotten, Job, JobError, JobErrorCode, JobKey, Outcome, RepositoryAccess, RepositoryPlace,
    Restored, SnapshotSeen, Snapshots, Source, Task, TreeEntry, TreeEntryKind, TreePage,
};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::watch;

#[derive(Debug, Default)]
pub(super) struct Backup(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    repositories: BTreeMap<String, Repository>,
    /// How each job ended.
    ended: HashMap<JobKey, Result<Outcome, JobError>>,
    /// Jobs in the order in which they were first asked for.
    begun: Vec<RunJob>,
    cancelled: HashMap<JobKey, watch::Sender<bool>>,
    failures: HashMap<Ask, VecDeque<JobError>>,
    problems: Vec<FileProblem>,
    findings: Vec<String>,
    size: Option<u64>,
    made: u64,
}

#[derive(Debug, Default)]
struct Repository {
    id: String,
    passwords: HashSet<String>,
    snapshots: Vec<Snapshot>,
}

#[derive(Debug)]
struct Snapshot {
    seen: SnapshotSeen,
    /// Paths of files and folders in it.
    paths: Vec<(String, TreeEntryKind)>,
    outcome: BackedUp,
}

/// Which kind of call a job is.
pub(super) fn ask_of(job: &Job) -> Ask {
    match &job.task {
        Task::Backup(_) => Ask::BackupMake,
        Task::Restore(_) => Ask::BackupRestore,
        Task::Check(_) => Ask::BackupCheck,
        Task::Forget(_) => Ask::BackupForget,
        Task::Tree(_) => Ask::BackupTree,
        Task::Send(_) => Ask::BackupSend,
        Task::Copy(_) => Ask::BackupCopy,
        Task::List => Ask::BackupList,
        Task::AddKey { .. } => Ask::BackupKey,
    }
}

fn error(code: JobErrorCode, message: impl Into<String>) -> JobError {
    JobError {
        code,
        message: message.into(),
    }
}

fn address(place: &RepositoryPlace) -> String {
    match place {
        RepositoryPlace::Path { path } => path.clone(),
        RepositoryPlace::S3 { bucket, prefix, .. } => format!("s3:{bucket}/{prefix}"),
        RepositoryPlace::Sftp { host, path, .. } => format!("sftp:{host}{path}"),
        RepositoryPlace::Rest { url, .. } => format!("rest:{url}"),
        RepositoryPlace::Socket { name, .. } => name.clone(),
    }
}

impl Backup {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Notes that a job was asked for; what is given turns true when it is cancelled.
    pub(super) fn begin(&self, ask: &RunJob) -> watch::Receiver<bool> {
        let mut inner = self.lock();
        let key = &ask.job.key;
        if !inner.begun.iter().any(|b| b.job.key == *key) {
            inner.begun.push(ask.clone());
        }
        let sender = inner.cancelled.entry(key.clone()).or_insert_with(|| watch::Sender::new(false));
        sender.subscribe()
    }

    /// How a job ends; the same each time it is asked for.
    pub(super) fn carry_out(&self, ask: &RunJob) -> Result<Outcome, JobError> {
        let mut inner = self.lock();
        let key = ask.job.key.clone();
        if let Some(ended) = inner.ended.get(&key) {
            return ended.clone();
        }
        let failure = inner.failures.get_mut(&ask_of(&ask.job)).and_then(VecDeque::pop_front);
        let cancelled = inner.cancelled.get(&key).is_some_and(|c| *c.borrow());
        let ended = match (failure, cancelled) {
            (_, true) => Err(error(JobErrorCode::Cancelled, "The backup job was cancelled.")),
            (Some(failure), _) => Err(failure),
            (None, _) => inner.work(ask),
        };
        inner.ended.insert(key, ended.clone());
        ended
    }

    pub(super) fn cancel(&self, key: &JobKey) {
        let inner = self.lock();
        if let Some(cancelled) = inner.cancelled.get(key) {
            cancelled.send_replace(true);
        }
    }

    pub(super) fn fail_next(&self, ask: Ask, failure: JobError) {
        self.lock().failures.entry(ask).or_default().push_back(failure);
    }
    pub(super) fn unreadable(&self, problems: Vec<FileProblem>) {
        self.lock().problems = problems;
    }
    pub(super) fn findings(&self, findings: &[&str]) {
        self.lock().findings = findings.iter().map(|f| (*f).to_owned()).collect();
    }
    pub(super) fn size(&self, bytes: u64) {
        self.lock().size = Some(bytes);
    }
    pub(super) fn begun(&self) -> Vec<RunJob> {
        self.lock().begun.clone()
    }
    /// The snapshots of a config's repository, wherever it is.
    pub(super) fn snapshots(&self, config: &BackupConfigId) -> Vec<SnapshotSeen> {
        let inner = self.lock();
        let all = inner.repositories.values().flat_map(|r| &r.snapshots).map(|s| s.seen.clone());
        all.filter(|s| s.label == config.as_str()).collect()
    }
    /// The folder a repository was in is empty: its disk is not mounted.
    pub(super) fn unmount(&self) {
        self.lock().repositories.clear();
    }
}

impl Inner {
    fn open(&mut self, access: &RepositoryAccess, make: bool) -> Result<&mut Repository, JobError> {
        let place = address(&access.place);
        if place.starts_with("/etc/") {
            return Err(error(
                JobErrorCode::Forbidden,
                format!("`{place}` may not be used: it holds the machine's configuration."),
            ));
        }
        let count = self.repositories.len();
        if !self.repositories.contains_key(&place) {
            if access.id.is_some() || !make {
                return Err(error(
                    JobErrorCode::RepositoryMissing,
                    format!("There is no repository in {place}: is its disk mounted?"),
                ));
            }
            let repository = Repository {
                id: format!("{:064x}", count + 1),
                passwords: [access.password.0.clone()].into(),
                snapshots: Vec::new(),
            };
            self.repositories.insert(place.clone(), repository);
        }
        let held = self.repositories.get_mut(&place).expect("it was just put there");
        if access.id.as_ref().is_some_and(|id| *id != held.id) {
            return Err(error(JobErrorCode::RepositoryForeign, "Another repository is in its place."));
        }
        if !held.passwords.contains(&access.password.0) {
            return Err(error(JobErrorCode::WrongPassword, "The repository has another password."));
        }
        Ok(held)
    }

    fn work(&mut self, ask: &RunJob) -> Result<Outcome, JobError> {
        let access = &ask.job.repository;
        match &ask.job.task {
            Task::Backup(task) => {
                self.made += 1;
                let (number, problems, size) = (self.made, self.problems.clone(), self.size.unwrap_or(1000));
                let repository = self.open(access, true)?;
                if let Some(done) = repository.snapshots.iter().find(|s| s.seen.tags.contains(&task.once)) {
                    return Ok(Outcome::BackedUp(done.outcome.clone()));
                }
                if let Some(parent) = &task.parent
                    && !repository.snapshots.iter().any(|s| s.seen.id == *parent)
                {
                    return Err(error(JobErrorCode::SnapshotMissing, format!("Snapshot {parent} is not there.")));
                }
                let mut paths = Vec::new();
                for volume in &ask.prepare.volumes {
                    paths.push((format!("/volumes/{volume}"), TreeEntryKind::Folder));
                    paths.push((format!("/volumes/{volume}/data.txt"), TreeEntryKind::File));
                }
                if let Some(dump) = &ask.prepare.dump {
                    let file = dump.file.as_ref().map_or("dump", |f| f.as_str());
                    paths.push((format!("/dumps/{file}"), TreeEntryKind::File));
                }
                for source in &task.sources {
                    match source {
                        Source::Path { at, .. } => paths.push((at.clone(), TreeEntryKind::Folder)),
                        Source::Text { at, .. } | Source::Stream { at, .. } => paths.push((at.clone(), TreeEntryKind::File)),
                    }
                }
                let id = format!("{number:064x}");
                let outcome = BackedUp {
                    repository: repository.id.clone(),
                    snapshot: id.clone(),
                    kind: if task.parent.is_none() { BackupType::Full } else { task.kind },
                    parent: task.parent.clone(),
                    files: 3,
                    files_new: 3,
                    files_changed: 0,
                    bytes: size,
                    added: 100,
                    problem_count: problems.len() as u64,
                    problems,
                };
                repository.snapshots.push(Snapshot {
                    seen: SnapshotSeen {
                        id,
                        time: task.time,
                        label: task.label.clone(),
                        tags: task.tags.clone(),
                        paths: paths.iter().map(|(p, _)| p.clone()).collect(),
                    },
                    paths,
                    outcome: outcome.clone(),
                });
                Ok(Outcome::BackedUp(outcome))
            }
            Task::Check(task) => {
                let findings = self.findings.clone();
                let repository = self.open(access, false)?;
                if let Some(missing) = task
                    .expect
                    .iter()
                    .find(|id| !repository.snapshots.iter().any(|s| s.seen.id == **id))
                {
                    return Err(error(JobErrorCode::SnapshotMissing, format!("Snapshot {missing} is not there.")));
                }
                Ok(Outcome::Checked(Checked {
                    packs: 1,
                    read: if task.read.is_some() { 1000 } else { 0 },
                    finding_count: findings.len() as u64,
                    damaged: if findings.is_empty() { Vec::new() } else { vec!["a".repeat(64)] },
                    findings,
                    size: 5000,
                }))
            }
            Task::Forget(task) => {
                let repository = self.open(access, false)?;
                let there: Vec<&str> = repository.snapshots.iter().map(|s| s.seen.id.as_str()).collect();
                let known = |id: &str| task.keep.iter().chain(&task.remove).any(|k| k == id);
                let missing = task.keep.iter().any(|id| !there.contains(&id.as_str()));
                if missing || !there.iter().all(|id| known(id)) {
                    return Err(error(
                        JobErrorCode::Disagrees,
                        "The repository's snapshots are not those that are known.",
                    ));
                }
                repository.snapshots.retain(|s| !task.remove.contains(&s.seen.id));
                Ok(Outcome::Forgotten(Forgotten {
                    removed: task.remove.clone(),
                    marked: 10,
                    freed: 0,
                    size: 4000,
                }))
            }
            Task::Restore(task) => {
                let repository = self.open(access, false)?;
                if !repository.snapshots.iter().any(|s| s.seen.id == task.snapshot) {
                    return Err(error(
                        JobErrorCode::SnapshotMissing,
                        format!("Snapshot {} is not there.", task.snapshot),
                    ));
                }
                Ok(Outcome::Restored(Restored {
                    files: 3,
                    bytes: 1000,
                    changed: 1,
                    verified: task.verify,
                    ..Restored::default()
                }))
            }
            Task::Tree(task) => {
                let repository = self.open(access, false)?;
                let snapshot = repository.snapshots.iter().find(|s| s.seen.id == task.snapshot);
                let snapshot = snapshot.ok_or_else(|| error(JobErrorCode::SnapshotMissing, "The snapshot is not there."))?;
                tree(snapshot, &task.path, task.offset, task.limit)
            }
            Task::Send(_) => {
                self.open(access, false)?;
                Ok(Outcome::Sent { bytes: 10 })
            }
            Task::Copy(task) => {
                let repository = self.open(access, false)?;
                let wanted = |s: &&Snapshot| task.snapshots.contains(&s.seen.id);
                let copies: Vec<(String, Snapshot)> = repository
                    .snapshots
                    .iter()
                    .filter(wanted)
                    .map(|s| {
                        let mut seen = s.seen.clone();
                        seen.id = format!("c{}", &s.seen.id[1..]);
                        let copy = Snapshot {
                            seen,
                            paths: s.paths.clone(),
                            outcome: s.outcome.clone(),
                        };
                        (s.seen.id.clone(), copy)
                    })
                    .collect();
                let to = self.open(&task.to, true)?;
                let snapshots = copies.iter().map(|(from, copy)| (from.clone(), copy.seen.id.clone())).collect();
                for (_, copy) in copies {
                    if !to.snapshots.iter().any(|s| s.seen.id == copy.seen.id) {
                        to.snapshots.push(copy);
                    }
                }
                Ok(Outcome::Copied(Copied {
                    repository: to.id.clone(),
                    snapshots,
                    added: 10,
                }))
            }
            Task::List => {
                let repository = self.open(access, false)?;
                Ok(Outcome::Snapshots(Snapshots {
                    repository: repository.id.clone(),
                    snapshots: repository.snapshots.iter().map(|s| s.seen.clone()).collect(),
                }))
            }
            Task::AddKey { password } => {
                let repository = self.open(access, false)?;
                repository.passwords.insert(password.0.clone());
                Ok(Outcome::KeyAdded { id: "f".repeat(64) })
            }
        }
    }
}

/// What lies right below a folder, the folders on the way among it.
fn tree(snapshot: &Snapshot, folder: &str, offset: u64, limit: u32) -> Result<Outcome, JobError> {
    let prefix = if folder == "/" { "/".to_owned() } else { format!("{folder}/") };
    let mut found = BTreeMap::new();
    for (path, kind) in &snapshot.paths {
        let Some(rest) = path.strip_prefix(&prefix) else { continue };
        match rest.split_once('/') {
            None => drop(found.insert(rest.to_owned(), *kind)),
            Some((name, _)) => drop(found.insert(name.to_owned(), TreeEntryKind::Folder)),
        }
    }
    if found.is_empty() && folder != "/" {
        return Err(error(JobErrorCode::PathMissing, format!("`{folder}` is not in the snapshot.")));
    }
    let total = found.len() as u64;
    let entry = |(name, kind): (String, TreeEntryKind)| TreeEntry {
        path: format!("{prefix}{name}"),
        name,
        kind,
        size: (kind == TreeEntryKind::File).then_some(10),
        mode: None,
        uid: None,
        gid: None,
        modified: None,
        target: None,
    };
    let page = found.into_iter().skip(usize::try_from(offset).unwrap_or(0)).take(limit as usize);
    Ok(Outcome::Tree(TreePage {
        entries: page.map(entry).collect(),
        total,
    }))
}

/// What a test asks of them.
impl super::FakeAgent {
    /// The next job of this kind fails.
    pub fn fail_backup(&self, ask: Ask, code: JobErrorCode, message: &str) {
        self.backup.fail_next(ask, error(code, message));
    }
    /// From now on these files can't be read.
    pub fn unreadable(&self, problems: &[(&str, &str)]) {
        let problem = |(path, error): &(&str, &str)| FileProblem {
            path: (*path).into(),
            error: (*error).into(),
        };
        self.backup.unreadable(problems.iter().map(problem).collect());
    }
    /// From now on checks find this.
    pub fn check_finds(&self, findings: &[&str]) {
        self.backup.findings(findings);
    }
    /// From now on backups have so many bytes.
    pub fn backup_size(&self, bytes: u64) {
        self.backup.size(bytes);
    }
    /// The jobs that were asked for, each once.
    pub fn backup_jobs(&self) -> Vec<RunJob> {
        self.backup.begun()
    }
    pub fn snapshots(&self, config: &BackupConfigId) -> Vec<SnapshotSeen> {
        self.backup.snapshots(config)
    }
    /// The disk with the repositories is gone.
    pub fn unmount_backups(&self) {
        self.backup.unmount();
    }
}

pub(super) type Shared = Arc<Backup>;
