//! What a backup worker is told, and what it says: one [`Job`] as JSON on its standard input, lines of [`JobEvent`] on its standard
//! output. The worker is a process of its own, so that it can be killed in the middle of anything; it ends when its standard input
//! ends. The same words go over the link.

use super::BackupType;
use crate::{OperationId, Timestamp};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A password or key on its way to a worker. Debug shows nothing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hidden(pub String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden(…)")
    }
}

/// A job's name: `<operation id>-<step>`, such as `op_1_abcdefghi-check`. One operation has several jobs, each with a name of its own.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobKey(String);

impl JobKey {
    /// `step` has 1 to 16 of a-z.
    pub fn new(operation: &OperationId, step: &str) -> Option<Self> {
        Self::parse(&format!("{operation}-{step}"))
    }

    pub fn parse(text: &str) -> Option<Self> {
        let (operation, step) = text.split_once('-')?;
        let named = (1..=16).contains(&step.len()) && step.bytes().all(|b| b.is_ascii_lowercase());
        (named && OperationId::parse(operation).is_ok()).then(|| Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for JobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<JobKey> for String {
    fn from(key: JobKey) -> Self {
        key.0
    }
}

impl TryFrom<String> for JobKey {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("`{}` is not the name of a job", text.chars().take(80).collect::<String>()))
    }
}

/// Where a repository is, with all that opens it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RepositoryAccess {
    pub place: RepositoryPlace,
    pub password: Hidden,
    /// The repository's own id, once it was made: with it, a repository that is missing is never made anew, and one with another id
    /// is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Nothing is ever removed from it.
    #[serde(default)]
    pub append_only: bool,
}

/// The folder or address that holds a repository: the config's destination with the config's id below it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "kind")]
pub enum RepositoryPlace {
    /// A folder of the worker's machine.
    Path { path: String },
    S3 {
        /// `https://host[:port]`.
        endpoint: String,
        bucket: String,
        /// Without slashes at its ends.
        prefix: String,
        region: String,
        access_key: Hidden,
        secret_key: Hidden,
    },
    Sftp {
        host: String,
        port: u16,
        user: String,
        path: String,
        /// An OpenSSH private key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        private_key: Option<Hidden>,
        /// One line of a `known_hosts` file without the host: `ssh-ed25519 AAAA…`. The server's key must be this one.
        host_key: String,
    },
    /// restic's REST protocol.
    Rest {
        /// Ends with a slash.
        url: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        password: Option<Hidden>,
    },
    /// restic's REST protocol over a Unix socket of the agent, which leads to a folder of another node. Which socket, the agent says.
    Socket {
        #[serde(default)]
        socket: String,
        /// `node:NODE:/path`, for a sentence.
        #[serde(default)]
        name: String,
    },
}

/// One piece of work on one repository.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    pub key: JobKey,
    pub repository: RepositoryAccess,
    /// Hosts, addresses and networks that may be connected to although they are this machine, the link or a cloud's metadata service;
    /// `*` allows all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    pub task: Task,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "do")]
pub enum Task {
    /// → [`Outcome::BackedUp`]
    Backup(BackupTask),
    /// → [`Outcome::Restored`]
    Restore(RestoreTask),
    /// → [`Outcome::Checked`]
    Check(CheckTask),
    /// → [`Outcome::Forgotten`]
    Forget(ForgetTask),
    /// → [`Outcome::Tree`]
    Tree(TreeTask),
    /// → [`Outcome::Sent`]
    Send(SendTask),
    /// → [`Outcome::Copied`]
    Copy(CopyTask),
    /// → [`Outcome::Snapshots`]
    List,
    /// Another password that opens the repository, beside the first. → [`Outcome::KeyAdded`]
    AddKey { password: Hidden },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupTask {
    #[serde(rename = "type")]
    pub kind: BackupType,
    /// The snapshot to compare with; none rereads everything. Its absence from the repository fails the task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The snapshot's `hostname`, `label` (the config's id) and tags (the backup's id among them).
    pub host: String,
    pub label: String,
    pub tags: Vec<String>,
    pub time: Timestamp,
    pub sources: Vec<Source>,
    /// Patterns as `.gitignore` has them, against the path in the snapshot.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excludes: Vec<String>,
    #[serde(default)]
    pub one_file_system: bool,
    /// Fixed when the repository is made.
    pub compression: bool,
    /// A snapshot of this very tag is already there: it is the outcome, and nothing is read. So a repeated task makes one snapshot.
    pub once: String,
    /// Packs that a check found damaged. Those that are so are dropped first, so that a full backup writes anew what was in them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damaged: Vec<String>,
}

/// Something that goes into a snapshot, and where it stands in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "from")]
pub enum Source {
    /// A file or folder of this machine, whole; `at` is an absolute path in the snapshot, the same as `path` for paths of a node.
    Path { path: String, at: String },
    /// A text, such as a container's spec.
    Text { at: String, content: String },
    /// What the agent sends over its socket: `stream` is a Unix socket that answers one connection with frames of
    /// [`stream`]. A stream that does not end well fails the task, and no snapshot is kept.
    Stream { at: String, socket: String },
}

/// How a stream passes over a Unix socket: frames of a big-endian u32 length and so many bytes; a frame of length 0 ends the
/// bytes, and one more frame follows with JSON of [`StreamEnd`](stream::StreamEnd). Everything else is a stream that was cut.
pub mod stream {
    use serde::{Deserialize, Serialize};

    /// The longest frame.
    pub const FRAME_AT_MOST: usize = 1 << 20;

    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "camelCase")]
    pub struct StreamEnd {
        /// Why it is not whole; none where it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub error: Option<String>,
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreTask {
    pub snapshot: String,
    /// What goes where. Nothing is ever written outside a `to`.
    pub items: Vec<RestoreItem>,
    /// Paths in the snapshot, with all that is below; all of `items` where empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<String>,
    /// Changes nothing: the outcome says what would be.
    #[serde(default)]
    pub dry_run: bool,
    /// Reads back everything written and compares it with the snapshot.
    #[serde(default)]
    pub verify: bool,
    /// Compares with what is at `to` and removes everything at the end: the test of a backup.
    #[serde(default)]
    pub scratch: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreItem {
    /// A path in the snapshot.
    pub from: String,
    /// A path of this machine. It is built beside its place and swapped in once it is whole; what was there before is kept until then.
    pub to: String,
    /// What is at `to` and not in the snapshot goes. Otherwise it stays, and only what the snapshot has is replaced.
    #[serde(default)]
    pub replace: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckTask {
    /// How much of the data is read: part `n` of `of` (from 1), all with 1 of 1; none checks the structure alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<ReadPart>,
    /// Snapshots that must be there, ids.
    #[serde(default)]
    pub expect: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReadPart {
    pub n: u32,
    pub of: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ForgetTask {
    /// Snapshots to remove; one that is not there is removed already.
    pub remove: Vec<String>,
    /// Snapshots that must be there and stay. One that is missing, or one of ours that nobody knows of, fails the task before anything changes.
    pub keep: Vec<String>,
    /// Data that no snapshot needs goes, in two phases.
    pub prune: bool,
    /// Seconds between the two: 23 hours by default.
    #[serde(default = "grace")]
    pub grace: u32,
}

const fn grace() -> u32 {
    23 * 3600
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TreeTask {
    pub snapshot: String,
    /// An absolute path in it; `/` is its root.
    pub path: String,
    pub offset: u64,
    pub limit: u32,
}

/// Sends one file of a snapshot to the agent's socket, in frames of [`stream`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SendTask {
    pub snapshot: String,
    pub path: String,
    pub socket: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CopyTask {
    pub to: RepositoryAccess,
    pub snapshots: Vec<String>,
    pub compression: bool,
}

/// One line of a worker. The last is `Done` or `Failed`; lines that end without either are a worker that died.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "type")]
pub enum JobEvent {
    /// A step began: `open`, `scan`, `read`, `write`, `verify`, `index`, `prune`, …
    Step {
        name: String,
    },
    /// Of a backup: all sources were read, what held them still may let go. The snapshot is not written yet.
    SourcesRead,
    /// At most a few a second.
    Progress(JobProgress),
    /// A file that could not be read or written; it is missing from what is made, which is then `partial`.
    Problem(FileProblem),
    Log {
        line: String,
    },
    Done {
        outcome: Outcome,
    },
    Failed {
        error: JobError,
    },
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobProgress {
    pub files: u64,
    pub bytes: u64,
    /// Absent where the end is not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_files: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
    /// Bytes a second, of the last seconds.
    pub rate: f64,
    /// Seconds to go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileProblem {
    /// The path in the snapshot.
    pub path: String,
    pub error: String,
}

/// Problems that are named in an outcome; more are counted.
pub const PROBLEMS_AT_MOST: usize = 100;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "is")]
pub enum Outcome {
    BackedUp(BackedUp),
    Restored(Restored),
    Checked(Checked),
    Forgotten(Forgotten),
    Tree(TreePage),
    Sent { bytes: u64 },
    Copied(Copied),
    Snapshots(Snapshots),
    KeyAdded { id: String },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackedUp {
    pub repository: String,
    pub snapshot: String,
    /// What it was in the end: a differential without a full one before is a full one.
    #[serde(rename = "type")]
    pub kind: BackupType,
    pub parent: Option<String>,
    pub files: u64,
    pub files_new: u64,
    pub files_changed: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes that were written to the repository.
    pub added: u64,
    /// Those that are missing; not empty: the backup is partial.
    pub problems: Vec<FileProblem>,
    pub problem_count: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Restored {
    pub files: u64,
    pub bytes: u64,
    /// Items of the snapshot that are not at the target, or differ there; with `dryRun` those that would be written.
    pub created: u64,
    pub changed: u64,
    pub unchanged: u64,
    /// At the target and not in the snapshot, and removed (or to be removed).
    pub removed: u64,
    /// Read back and the same as in the snapshot.
    pub verified: bool,
    /// Of a dry run, the first [`CHANGES_AT_MOST`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<RestoreChange>,
    pub problems: Vec<FileProblem>,
    pub problem_count: u64,
}

pub const CHANGES_AT_MOST: usize = 1000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreChange {
    pub path: String,
    pub change: RestoreChangeKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RestoreChangeKind {
    Create,
    Change,
    Remove,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Checked {
    pub packs: u64,
    /// Bytes of data read and compared with their hashes.
    pub read: u64,
    /// What is wrong, in words; empty: all is well.
    pub findings: Vec<String>,
    pub finding_count: u64,
    /// Packs whose content is damaged.
    pub damaged: Vec<String>,
    /// Bytes of the repository.
    pub size: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Forgotten {
    pub removed: Vec<String>,
    /// Bytes that are marked and go after the grace, and bytes that went.
    pub marked: u64,
    pub freed: u64,
    pub size: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TreePage {
    pub entries: Vec<TreeEntry>,
    pub total: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TreeEntry {
    pub name: String,
    /// Absolute, in the snapshot.
    pub path: String,
    #[serde(rename = "type")]
    pub kind: TreeEntryKind,
    /// Bytes; of a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// As `0644`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified: Option<Timestamp>,
    /// Where a symbolic link leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TreeEntryKind {
    File,
    Folder,
    Symlink,
    Other,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Copied {
    pub repository: String,
    /// Each snapshot and its id there.
    pub snapshots: Vec<(String, String)>,
    pub added: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshots {
    pub repository: String,
    pub snapshots: Vec<SnapshotSeen>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotSeen {
    pub id: String,
    pub time: Timestamp,
    pub label: String,
    pub tags: Vec<String>,
    pub paths: Vec<String>,
}

/// Why a task failed; what was good before is still good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobError {
    pub code: JobErrorCode,
    /// What happened and what to do next, in words.
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobErrorCode {
    /// The repository was there once and is not now: not mounted, moved or removed.
    RepositoryMissing,
    /// Another repository, or other files, are in its place.
    RepositoryForeign,
    WrongPassword,
    /// Another program (restic) works on it.
    Locked,
    /// The destination can't be reached or refuses us.
    Unreachable,
    /// The destination can't be written.
    NotWritable,
    DiskFull,
    /// The data is damaged.
    Damaged,
    SnapshotMissing,
    PathMissing,
    /// A path that may not be read from or written to.
    Forbidden,
    /// A stream (a dump) did not end well.
    StreamFailed,
    /// Nothing could be read at all.
    SourceFailed,
    /// What is there disagrees with what is known; nothing was changed.
    Disagrees,
    Cancelled,
    /// The worker died.
    Died,
    Internal,
}
