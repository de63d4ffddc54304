//! `POST /api/capabilities/backups/configs`, and what is kept of it.

use super::destination::{BackupCredentials, BackupDestination};
use super::{BackupType, CronSchedule};
use crate::text::{BadText, Title, VolumeName, string_schema, texts};
use crate::units::Bounded;
use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;

texts! {
    /// A path of a node.
    BackupPath {
        pattern: "^/(?:(?!\\.{1,2}(?:/|$))[^\\x00-\\x1f\\x7f-\\x9f/]+(?:/(?!$)|$))*$", max: 1024,
        says: "a path is absolute, has no `.` or `..` in it, no doubled or trailing slash and no control characters, and at most 1,024 characters",
        ok: |t| t == "/" || t.strip_prefix('/').is_some_and(|rest| rest.split('/').all(|part| !matches!(part, "" | "." | "..") && !part.chars().any(char::is_control)))
    }
    /// A pattern of what is left out, as `.gitignore` has them.
    ExcludePattern {
        pattern: "^[^\\x00-\\x1f\\x7f-\\x9f]{1,512}$", max: 512,
        says: "a pattern has 1 to 512 characters and no control characters",
        ok: |t| !t.is_empty() && !t.chars().any(char::is_control)
    }
    /// A time zone of the IANA database.
    TimeZoneName {
        pattern: "^[A-Za-z][A-Za-z0-9_+-]{0,31}(?:/[A-Za-z0-9_+-]{1,32}){0,2}$", max: 64,
        says: "a time zone is a name of the IANA database, such as `Europe/Berlin` or `UTC`",
        ok: |t| t.starts_with(|c: char| c.is_ascii_alphabetic())
            && t.split('/').count() <= 3
            && t.split('/').all(|part| (1..=32).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+-".contains(&b)))
    }
    /// One word of a command.
    DumpWord {
        pattern: "^[^\\x00]{1,4096}$", max: 4096,
        says: "a word of a command has 1 to 4,096 characters and no NUL character",
        ok: |t| !t.is_empty() && !t.contains('\0')
    }
}

/// How the files of a running container are kept from changing while they are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum BackupConsistency {
    /// A dump where the image is one of PostgreSQL, MySQL, MariaDB or Redis, or a `dump` is given; a pause otherwise.
    #[default]
    Auto,
    /// The container's processes stand still while its volumes are read.
    Pause,
    /// The container is stopped, and started again afterwards.
    Stop,
    /// A command in the container writes the data out; volumes that hold the database's own files are left out.
    Dump,
    /// Nothing: files are read as they are.
    None,
}

/// What a container's data is written out by, and read in again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackupDump {
    /// Run in the container without a shell; its standard output is what is kept, its exit code must be 0.
    #[schema(min_items = 1, max_items = 64)]
    pub command: Vec<DumpWord>,
    /// Reads the dump from its standard input when it is restored; without, the dump can only be restored as a file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 64)]
    pub restore: Vec<DumpWord>,
    /// What the dump is called in the backup; `dump` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<VolumeName>,
}

/// What is kept beside `retention`: the newest of each of so many hours, days, weeks, months, years that have one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackupKeep {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Bounded<1, 10_000>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hourly: Option<Bounded<1, 10_000>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daily: Option<Bounded<1, 10_000>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weekly: Option<Bounded<1, 10_000>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monthly: Option<Bounded<1, 10_000>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub yearly: Option<Bounded<1, 10_000>>,
}

/// How backups are proved. The structure of the repository is checked after each backup, always.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackupCheck {
    /// When a part of all data is read and compared with its hashes, another part each time; `@weekly` by default.
    #[serde(default = "weekly")]
    pub schedule: CronSchedule,
    /// In how many parts all data is read; 4 by default.
    #[serde(default = "four")]
    pub parts: Bounded<1, 100>,
    /// When the newest backup is restored into a scratch folder and compared; never by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_restore: Option<CronSchedule>,
}

/// Credentials are never written out; `skip_serializing` would take them out of the schema, too.
fn always(_: &Option<BackupCredentials>) -> bool {
    true
}
fn nothing<S: serde::Serializer>(_: &Option<BackupCredentials>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_none()
}

fn weekly() -> CronSchedule {
    CronSchedule::weekly()
}
const fn four() -> Bounded<1, 100> {
    Bounded::clamped(4)
}

impl Default for BackupCheck {
    fn default() -> Self {
        Self {
            schedule: weekly(),
            parts: four(),
            test_restore: None,
        }
    }
}

/// A second repository, with a password of its own, that every completed backup is copied to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackupCopy {
    pub destination: BackupDestination,
    #[serde(default, skip_serializing_if = "always", serialize_with = "nothing")]
    #[schema(write_only)]
    pub credentials: Option<BackupCredentials>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum BackupConfigStatus {
    #[default]
    Active,
    /// Nothing runs by itself.
    Paused,
    /// The last backup failed, or one was missed. It is tried again at its next time.
    Error,
}

/// What kind of server is backed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum BackupServerKind {
    Container,
    Node,
    /// A cluster of type `database`: its backups are base backups, and its write-ahead log is kept between them.
    Cluster,
}

impl BackupServerKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Node => "node",
            Self::Cluster => "cluster",
        }
    }
}

/// Seconds between two shipments of a database's write-ahead log where nobody says otherwise.
pub const WAL_INTERVAL: i64 = 300;

/// What is backed up, when, where to and for how long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackupConfigSpec {
    /// Id or name of a node, of a container, or of a cluster of type `database`.
    #[schema(min_length = 1, max_length = 128)]
    pub server_id: String,
    pub name: Title,
    /// When. Left out, a backup is made only when it is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<CronSchedule>,
    /// Of the schedule; `UTC` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<TimeZoneName>,
    /// Seconds; each backup begins so much later at most, by chance, so that not all begin at once. 0 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter: Option<Bounded<0, 86_400>>,
    /// Days that a backup is kept; 30 by default.
    #[serde(default = "thirty")]
    pub retention: Bounded<1, 365>,
    /// Kept beside that, however old.
    #[serde(default)]
    pub keep: BackupKeep,
    #[serde(default, rename = "type")]
    pub kind: BackupType,
    /// A folder of the server's node (`/backups`), `s3:https://host/bucket/prefix`, `sftp:user@host:/path`, `rest:https://host/path`, or
    /// `node:NODE:/path` for a folder of another node. The repository is a folder below it with the config's id as its name.
    pub destination: BackupDestination,
    #[serde(default, skip_serializing_if = "always", serialize_with = "nothing")]
    #[schema(write_only)]
    pub credentials: Option<BackupCredentials>,
    /// With a random password that only admins can read; without, the password is known and stands beside the repository (the format
    /// has no unencrypted form). Fixed once the first backup is made. True by default.
    #[serde(default = "yes")]
    pub encryption: bool,
    /// zstd. Fixed once the first backup is made. True by default.
    #[serde(default = "yes")]
    pub compression: bool,
    /// Of a node: what is backed up, in place of its managed volumes and the specs of its containers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 100)]
    pub paths: Vec<BackupPath>,
    /// Which of the managed volumes, by name; all of the server where empty (with `paths`, none).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 100)]
    pub volumes: Vec<VolumeName>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 100)]
    pub excludes: Vec<ExcludePattern>,
    /// Stays on the file system each path begins on. False by default.
    #[serde(default)]
    pub one_file_system: bool,
    /// Of a container.
    #[serde(default)]
    pub consistency: BackupConsistency,
    /// Of a container: a dump of your own in place of the one its image is known for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dump: Option<BackupDump>,
    /// Of a database cluster: seconds after which what was committed is in the destination, too; 300 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal_interval: Option<Bounded<15, 86_400>>,
    /// Nothing is ever removed from the repository; `retention` and `keep` have no effect. False by default.
    #[serde(default)]
    pub append_only: bool,
    #[serde(default)]
    pub check: BackupCheck,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<BackupCopy>,
    /// `active`, or `paused`: then nothing runs by itself.
    #[serde(default)]
    pub status: BackupConfigStatus,
}

const fn thirty() -> Bounded<1, 365> {
    Bounded::clamped(30)
}
const fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests;
