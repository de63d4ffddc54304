//! The rows of configs and backups: what was asked for, what is sealed, and what is kept of what came of it.

use crate::api::error::{ApiError, ApiResult};
use nm_store::{Resource, Secret, Store};
use nm_types::backup::job::{Hidden, JobKey, RepositoryAccess, RepositoryPlace};
use nm_types::backup::{
    BackupConfigSpec, BackupCredentials, BackupDestination, BackupServerKind, BackupView, DestinationKind, RepositoryView,
};
use nm_types::cluster::DatabaseSpec;
use nm_types::text::SecretText;
use nm_types::{BackupConfigId, BackupId, NodeId, OperationId, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The password of a repository that is not to be secret: the format has no form without one, and restic refuses an empty one.
pub const NOT_SECRET: &str = "neuralmesh-not-secret";
/// Where nobody says otherwise.
const REGION: &str = "us-east-1";

/// A config's spec column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredConfig {
    /// As it was asked for, but for its credentials, which are sealed apart.
    pub spec: BackupConfigSpec,
    /// The id of `spec.serverId`.
    pub server: String,
    pub server_kind: BackupServerKind,
    /// The nodes that `node:` destinations mean, whatever they are called later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_node: Option<NodeId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy_node: Option<NodeId>,
}

/// What opens a destination, as it is sealed.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StoredCredentials {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_key: Option<String>,
}

/// What is sealed of a config. It is written with the config, so that no repository is ever made with a password that a crash lost.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigSecrets {
    pub password: String,
    pub recovery: String,
    pub copy_password: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<StoredCredentials>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy_credentials: Option<StoredCredentials>,
}

/// A config's status column.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigState {
    /// The last slot that was claimed of each schedule, or the moment from which it counts.
    pub taken: Timestamp,
    pub check_taken: Timestamp,
    pub test_taken: Timestamp,
    /// The operation that works on the repository now: one at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running: Option<OperationId>,
    /// Why the last backup failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Why a slot had no backup; until one completes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missed: Option<String>,
    /// Why retention or the copy could not be carried out last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upkeep: Option<String>,
    /// What is strange about the last one's size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jump: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_backup: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<LastBackup>,
    /// Bytes of the last ones that completed, oldest first.
    pub sizes: Vec<u64>,
    /// How many ended well, and how many did not.
    pub succeeded: u64,
    pub failed: u64,
    /// The node that made the last one: where a repository on a path is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// Kept once the repository was made: with its id, one that is missing is never made anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<RepositoryView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy: Option<RepositoryView>,
    /// Whether the recovery password opens the repository already.
    pub recovery_added: bool,
    /// The part of the data that is read next, from 1; 0 where none was read.
    pub part: u32,
    /// Packs that a check found damaged: a full backup writes anew what was in them.
    pub damaged: Vec<String>,
    /// Since when data waits for the second phase of its removal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub marked: Option<Timestamp>,
    /// Snapshots of the second repository whose backup is gone.
    pub copy_remove: Vec<String>,
    /// Of a database cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<LogState>,
}

/// The write-ahead log of a database cluster, as far as it is in the repository that is for it alone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LogState {
    /// restic's id of that repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// Oldest first.
    pub sets: Vec<LogSet>,
    /// Oldest first; the last one goes on while there is no gap.
    pub windows: Vec<LogWindow>,
    /// The segment up to which the last window is shipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
    /// The shipment that was begun, and of which no end was heard.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending: Option<Shipment>,
    /// Snapshots that are no longer needed.
    pub gone: Vec<String>,
    /// Backups after which nothing was shipped yet.
    pub unsettled: Vec<BackupId>,
    /// Why the last shipment failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Since when data waits for the second phase of its removal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub marked: Option<Timestamp>,
}

/// A snapshot of a member's archive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogSet {
    pub snapshot: String,
    pub node: NodeId,
    /// What was committed before is in it, or in one before it. By the database's clock, as all times of the log.
    pub until: Timestamp,
    /// What is in it was dropped at the member, so that the next one does not hold it.
    #[serde(default)]
    pub closed: bool,
}

/// A time in which no segment is missing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogWindow {
    pub from: Timestamp,
    pub to: Timestamp,
    /// The first moment that can be brought back: with a window in which no backup was made nothing can be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Timestamp>,
    /// A segment is missing after it.
    #[serde(default)]
    pub ended: bool,
}

/// A snapshot of a member's archive that is being made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shipment {
    pub key: JobKey,
    pub node: NodeId,
    pub volume: String,
    pub until: Timestamp,
    pub last: String,
    pub bytes: u64,
}

/// Where a backup of a database stands in its log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogPlace {
    /// Where its window begins.
    pub window: Timestamp,
    /// What was committed before is in it.
    pub begun: Timestamp,
    /// From here on it can be brought to any moment of its window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Timestamp>,
}

/// What metrics tell of the last backup that ended well.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastBackup {
    pub ended: Timestamp,
    /// Seconds.
    pub duration: f64,
    pub size: u64,
    pub new_bytes: u64,
}

/// A config, without what is sealed.
#[derive(Debug, Clone)]
pub struct Config {
    pub id: BackupConfigId,
    pub stored: StoredConfig,
    pub state: ConfigState,
    pub created: Timestamp,
    pub updated: Timestamp,
    pub generation: i64,
    pub revision: i64,
}

/// A config, whole.
#[derive(Clone)]
pub struct ConfigRow {
    pub config: Config,
    pub secrets: ConfigSecrets,
}

impl std::ops::Deref for ConfigRow {
    type Target = Config;
    fn deref(&self) -> &Config {
        &self.config
    }
}

fn corrupt(row: &Resource, what: &str) -> ApiError {
    tracing::error!(backup.config = %row.id, what, "a backup config's row can't be read");
    ApiError::internal()
}

impl Config {
    pub fn read(row: &Resource) -> ApiResult<Self> {
        Ok(Self {
            id: BackupConfigId::parse(&row.id).map_err(|_| corrupt(row, "its id is none"))?,
            stored: row.spec()?,
            state: row.status()?,
            created: row.created_at,
            updated: row.updated_at,
            generation: row.generation,
            revision: row.revision,
        })
    }

    /// Whether its repository is a folder of the node that makes its backups.
    pub fn is_local(&self) -> bool {
        is_local(&self.stored.spec.destination)
    }

    /// What is wrong with it, in the order in which it matters.
    pub fn troubles(&self) -> impl Iterator<Item = &str> {
        let state = &self.state;
        let finding = state.repository.iter().flat_map(|r| r.findings.first());
        let log = state.log.as_ref().and_then(|log| log.failure.as_ref());
        let all = [&state.failure, &state.missed, &state.upkeep].into_iter().flatten().chain(log);
        all.take(1).chain(finding).map(String::as_str)
    }
}

pub fn is_local(destination: &BackupDestination) -> bool {
    matches!(destination.kind(), DestinationKind::Path { .. })
}

impl ConfigRow {
    pub async fn read(store: &Store, row: &Resource) -> ApiResult<Self> {
        let secrets = store.open_sealed(row).await?.ok_or_else(|| corrupt(row, "it has no password"))?;
        Ok(Self {
            config: Config::read(row)?,
            secrets: secrets.parse()?,
        })
    }

    /// How a worker opens the repository.
    pub fn access(&self) -> ApiResult<RepositoryAccess> {
        let spec = &self.stored.spec;
        Ok(RepositoryAccess {
            place: place(&spec.destination, &self.id, self.secrets.credentials.as_ref())?,
            password: Hidden(self.secrets.password.clone()),
            id: self.state.repository.as_ref().map(|r| r.id.clone()),
            append_only: spec.append_only,
        })
    }

    /// How a worker opens the repository of a database's log.
    pub fn log_access(&self) -> ApiResult<RepositoryAccess> {
        let spec = &self.stored.spec;
        Ok(RepositoryAccess {
            place: place_of(&spec.destination, &log_folder(&self.id), self.secrets.credentials.as_ref())?,
            password: Hidden(self.secrets.password.clone()),
            id: self.state.log.as_ref().and_then(|log| log.repository.clone()),
            append_only: spec.append_only,
        })
    }

    /// How a worker opens the second repository; none where there is to be none.
    pub fn copy_access(&self) -> ApiResult<Option<RepositoryAccess>> {
        let spec = &self.stored.spec;
        let Some(copy) = &spec.copy else { return Ok(None) };
        Ok(Some(RepositoryAccess {
            place: place(&copy.destination, &self.id, self.secrets.copy_credentials.as_ref())?,
            password: Hidden(self.secrets.copy_password.clone()),
            id: self.state.copy.as_ref().map(|r| r.id.clone()),
            append_only: spec.append_only,
        }))
    }
}

/// A backup's spec column: what was asked for when it was begun. Its status column is a [`BackupView`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredBackup {
    /// The node that makes it; none of a slot that was skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    pub actor: String,
    /// What is in it beside its spec and dumps: the volumes with where the container had them, and paths of the node.
    #[serde(default)]
    pub volumes: BTreeMap<String, String>,
    #[serde(default)]
    pub paths: Vec<String>,
    /// Of a database cluster: what it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<DatabaseSpec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogPlace>,
}

pub fn view_of(row: &Resource) -> ApiResult<BackupView> {
    Ok(row.status()?)
}

impl StoredCredentials {
    pub fn of(given: &BackupCredentials) -> Self {
        let text = |secret: &Option<SecretText>| secret.as_ref().map(|s| s.expose().to_owned());
        Self {
            access_key: text(&given.access_key),
            secret_key: text(&given.secret_key),
            region: given.region.as_ref().map(ToString::to_string),
            username: text(&given.username),
            password: text(&given.password),
            private_key: text(&given.private_key),
            host_key: given.host_key.as_ref().map(ToString::to_string),
        }
    }
}

impl ConfigSecrets {
    pub fn fresh(encryption: bool) -> ApiResult<Self> {
        Ok(Self {
            password: if encryption { random()? } else { NOT_SECRET.into() },
            recovery: random()?,
            copy_password: if encryption { random()? } else { NOT_SECRET.into() },
            credentials: None,
            copy_credentials: None,
        })
    }
    pub fn seal(&self) -> ApiResult<Secret> {
        Ok(Secret::json(self)?)
    }
}

fn random() -> ApiResult<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|_| ApiError::internal())?;
    Ok(hex::encode(bytes))
}

/// The folder of a database's log, beside that of its backups.
pub fn log_folder(id: &BackupConfigId) -> String {
    format!("{id}-log")
}

/// Where a config's repository is, as `restic -r` takes it.
pub fn location(destination: &BackupDestination, id: &BackupConfigId) -> String {
    location_of(destination, id.as_str())
}

pub fn location_of(destination: &BackupDestination, folder: &str) -> String {
    let id = folder;
    match destination.kind() {
        DestinationKind::Path { path } | DestinationKind::Node { path, .. } => below(&path, id),
        DestinationKind::S3 { endpoint, bucket, prefix } => {
            format!("s3:{endpoint}/{bucket}/{}", below(&prefix, id).trim_start_matches('/'))
        }
        // The second slash makes the path absolute.
        DestinationKind::Sftp { user, host, port, path } => {
            format!("sftp://{}@{host}:{port}/{}", user.as_deref().unwrap_or("root"), below(&path, id))
        }
        DestinationKind::Rest { url } => format!("rest:{}/", below(&url, id)),
    }
}

fn below(folder: &str, id: &str) -> String {
    format!("{}/{id}", folder.trim_end_matches('/'))
}

/// Where a config's repository is: a folder of its own below the destination, so that two configs never share one.
fn place(destination: &BackupDestination, id: &BackupConfigId, credentials: Option<&StoredCredentials>) -> ApiResult<RepositoryPlace> {
    place_of(destination, id.as_str(), credentials)
}

pub fn place_of(destination: &BackupDestination, id: &str, credentials: Option<&StoredCredentials>) -> ApiResult<RepositoryPlace> {
    let given = credentials.cloned().unwrap_or_default();
    let needed = |value: Option<String>, field: &str| {
        value.ok_or_else(|| ApiError::conflict("credentials_missing", format!("the destination's `credentials.{field}` is missing")))
    };
    Ok(match destination.kind() {
        // As the node itself that is named sees it.
        DestinationKind::Path { path } | DestinationKind::Node { path, .. } => RepositoryPlace::Path { path: below(&path, id) },
        DestinationKind::S3 { endpoint, bucket, prefix } => RepositoryPlace::S3 {
            endpoint,
            bucket,
            prefix: below(&prefix, id).trim_start_matches('/').to_owned(),
            region: given.region.unwrap_or_else(|| REGION.into()),
            access_key: Hidden(needed(given.access_key, "accessKey")?),
            secret_key: Hidden(needed(given.secret_key, "secretKey")?),
        },
        DestinationKind::Sftp { user, host, port, path } => RepositoryPlace::Sftp {
            host,
            port,
            user: user.unwrap_or_else(|| "root".into()),
            path: below(&path, id),
            private_key: given.private_key.map(Hidden),
            host_key: needed(given.host_key, "hostKey")?,
        },
        DestinationKind::Rest { url } => RepositoryPlace::Rest {
            url: format!("{}/", below(&url, id)),
            user: given.username,
            password: given.password.map(Hidden),
        },
    })
}
