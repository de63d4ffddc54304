//! What of a config can't be.

use super::Backups;
use super::rows::{ConfigRow, ConfigSecrets, StoredConfig, StoredCredentials};
use crate::api::error::{ApiError, ApiResult};
use crate::service::auth::Actor;
use crate::service::privileges;
use crate::service::servers::ServerKey;
use jiff::tz::TimeZone;
use nm_types::NodeId;
use nm_types::backup::{BackupConfigSpec, BackupConfigStatus, BackupConsistency, BackupDestination, BackupServerKind, DestinationKind};
use nm_types::envelope::FieldProblem;
use nm_types::server::ServerKind;

/// The longest lists, as the schema has them.
const LIST: usize = 100;
const WORDS: usize = 64;

#[derive(Clone)]
pub(super) struct Judged {
    pub stored: StoredConfig,
    pub secrets: ConfigSecrets,
}

fn problem(field: &str, message: impl Into<String>) -> FieldProblem {
    FieldProblem {
        field: field.into(),
        message: message.into(),
    }
}

/// What a destination needs of credentials and has not, or has and does not know.
fn credentials(destination: &BackupDestination, given: &StoredCredentials, at: &str, out: &mut Vec<FieldProblem>) {
    let kind = destination.kind();
    let all = [
        ("accessKey", &given.access_key),
        ("secretKey", &given.secret_key),
        ("region", &given.region),
        ("username", &given.username),
        ("password", &given.password),
        ("privateKey", &given.private_key),
        ("hostKey", &given.host_key),
    ];
    let (needed, known): (&[&str], &[&str]) = match kind {
        DestinationKind::Path { .. } | DestinationKind::Node { .. } => (&[], &[]),
        DestinationKind::S3 { .. } => (&["accessKey", "secretKey"], &["accessKey", "secretKey", "region"]),
        DestinationKind::Sftp { .. } => (&["hostKey", "privateKey"], &["hostKey", "privateKey"]),
        DestinationKind::Rest { .. } => (&[], &["username", "password"]),
    };
    for (name, value) in all {
        let field = format!("{at}.{name}");
        match value {
            None if needed.contains(&name) => out.push(problem(&field, format!("`{destination}` needs it"))),
            Some(_) if !known.contains(&name) => out.push(problem(&field, format!("`{destination}` has no use for it"))),
            _ => {}
        }
    }
}

/// Fields that can't stand beside each other.
fn clashes(spec: &BackupConfigSpec, kind: BackupServerKind) -> Vec<FieldProblem> {
    let mut out = Vec::new();
    let schedules = [
        ("schedule", spec.schedule.as_ref()),
        ("check.schedule", Some(&spec.check.schedule)),
        ("check.testRestore", spec.check.test_restore.as_ref()),
    ];
    for (field, schedule) in schedules {
        if let Some(never) = schedule.filter(|s| s.never_comes()) {
            out.push(problem(field, format!("`{never}` never comes: none of its months has such a day")));
        }
    }
    if spec.status == BackupConfigStatus::Error {
        out.push(problem(
            "status",
            "`error` is what is seen, and not asked for: say `active` or `paused`",
        ));
    }
    if kind != BackupServerKind::Cluster && spec.wal_interval.is_some() {
        out.push(problem("walInterval", "a write-ahead log is of a cluster of type `database`"));
    }
    match kind {
        BackupServerKind::Cluster => {
            let none = [
                ("paths", !spec.paths.is_empty()),
                ("volumes", !spec.volumes.is_empty()),
                ("excludes", !spec.excludes.is_empty()),
                ("oneFileSystem", spec.one_file_system),
                ("dump", spec.dump.is_some()),
            ];
            for (field, _) in none.into_iter().filter(|(_, given)| *given) {
                out.push(problem(
                    field,
                    "of a database cluster all of it is backed up, as its primary gives it: leave this out",
                ));
            }
            if !matches!(spec.consistency, BackupConsistency::Auto | BackupConsistency::Dump) {
                out.push(problem(
                    "consistency",
                    "a base backup is taken while the database serves: leave this out",
                ));
            }
            if matches!(spec.destination.kind(), DestinationKind::Path { .. }) {
                out.push(problem(
                    "destination",
                    "a folder is another one on each of the cluster's nodes: name one node's by `node:NODE:/path`, or a destination that all nodes reach",
                ));
            }
        }
        BackupServerKind::Container if !spec.paths.is_empty() => {
            out.push(problem("paths", "paths are of a node: of a container its volumes are backed up"));
        }
        BackupServerKind::Container => {
            if spec.dump.is_some() && !matches!(spec.consistency, BackupConsistency::Auto | BackupConsistency::Dump) {
                out.push(problem("dump", "a dump is made only where `consistency` is `auto` or `dump`"));
            }
        }
        BackupServerKind::Node => {
            if spec.dump.is_some() {
                out.push(problem("dump", "a dump is of a container: make a config for it"));
            }
            if !matches!(spec.consistency, BackupConsistency::Auto | BackupConsistency::None) {
                out.push(problem("consistency", "it is of a container: make a config for it"));
            }
        }
    }
    out
}

/// Lists that are longer than the schema says.
fn overlong(spec: &BackupConfigSpec) -> Vec<FieldProblem> {
    let mut out = Vec::new();
    for (field, length) in [
        ("paths", spec.paths.len()),
        ("volumes", spec.volumes.len()),
        ("excludes", spec.excludes.len()),
    ] {
        if length > LIST {
            out.push(problem(field, format!("has at most {LIST} entries")));
        }
    }
    if !(1..=128).contains(&spec.server_id.chars().count()) {
        out.push(problem("serverId", "has 1 to 128 characters"));
    }
    if let Some(dump) = &spec.dump {
        if !(1..=WORDS).contains(&dump.command.len()) {
            out.push(problem("dump.command", format!("has 1 to {WORDS} words")));
        }
        if dump.restore.len() > WORDS {
            out.push(problem("dump.restore", format!("has at most {WORDS} words")));
        }
    }
    out
}

impl Backups {
    /// `old` is what it was before a change.
    pub(super) async fn judge(&self, actor: &Actor, mut spec: BackupConfigSpec, old: Option<&ConfigRow>) -> ApiResult<Judged> {
        let long = overlong(&spec);
        if !long.is_empty() {
            return Err(ApiError::invalid_fields(long));
        }
        if let Some(zone) = &spec.time_zone {
            TimeZone::get(zone.as_str()).map_err(|_| {
                ApiError::clashing_fields(vec![problem("timeZone", format!("`{zone}` is no time zone that is known here"))])
            })?;
        }
        // What stands there already is not looked for again: its server may be gone, and it can be paused all the same.
        let same = old.filter(|row| row.stored.spec.server_id == spec.server_id);
        let (server, kind) = match same {
            Some(row) => (row.stored.server.clone(), row.stored.server_kind),
            None => self.named(&spec.server_id).await?,
        };
        let given = spec.credentials.take().map(|c| StoredCredentials::of(&c));
        let copy_given = spec
            .copy
            .as_mut()
            .and_then(|copy| copy.credentials.take())
            .map(|c| StoredCredentials::of(&c));
        let mut clashes = clashes(&spec, kind);
        credentials(&spec.destination, &given.clone().unwrap_or_default(), "credentials", &mut clashes);
        if let Some(copy) = &spec.copy {
            credentials(
                &copy.destination,
                &copy_given.clone().unwrap_or_default(),
                "copy.credentials",
                &mut clashes,
            );
            if copy.destination == spec.destination {
                clashes.push(problem(
                    "copy.destination",
                    "it is the destination itself: a copy has to be somewhere else",
                ));
            }
        }
        if !clashes.is_empty() {
            return Err(ApiError::clashing_fields(clashes));
        }
        let was = old.map(|row| &row.stored);
        let before = was.and_then(|was| Some((&was.spec.destination, was.destination_node.as_ref()?)));
        let copied = was.and_then(|was| Some((&was.spec.copy.as_ref()?.destination, was.copy_node.as_ref()?)));
        let destination_node = self.judge_node(&spec.destination, before, "destination")?;
        let copy_node = match &spec.copy {
            Some(copy) => self.judge_node(&copy.destination, copied, "copy.destination")?,
            None => None,
        };
        let stored = StoredConfig {
            spec,
            server,
            server_kind: kind,
            destination_node,
            copy_node,
        };
        // A command of the user's runs in the container: that is going into it.
        if let (Some(_), Some(ServerKey::Container(id))) = (&stored.spec.dump, ServerKey::parse(&stored.server))
            && let Some(record) = self.index.get(&id)
        {
            privileges::may_enter(actor, &record)?;
        }
        if let Some(old) = old {
            fixed(old, &stored)?;
        }
        let mut secrets = match old {
            // The passwords are those of the repository that is there, or is to be.
            Some(old) if old.stored.spec.encryption == stored.spec.encryption => old.secrets.clone(),
            Some(_) | None => ConfigSecrets::fresh(stored.spec.encryption)?,
        };
        (secrets.credentials, secrets.copy_credentials) = (given, copy_given);
        Ok(Judged { stored, secrets })
    }

    /// What can be backed up under that id or name.
    async fn named(&self, key: &str) -> ApiResult<(String, BackupServerKind)> {
        let server = match self.servers.resolve(key).await {
            Ok(server) => server.key,
            Err(missing) => {
                return match self.clusters.database_named(key) {
                    Ok(id) => Ok((id.to_string(), BackupServerKind::Cluster)),
                    Err(error) if error.status == http::StatusCode::NOT_FOUND => Err(missing),
                    Err(error) => Err(error.field("serverId")),
                };
            }
        };
        let kind = match server.kind() {
            ServerKind::Node => BackupServerKind::Node,
            ServerKind::Container => BackupServerKind::Container,
            ServerKind::Address | ServerKind::Instance => {
                let text = format!(
                    "{} {server} has no agent that could read its files: name a node or a container",
                    server.kind().as_str()
                );
                return Err(ApiError::conflict("server_unsupported", text).field("serverId"));
            }
        };
        Ok((server.to_string(), kind))
    }

    /// The node that is named in a destination. It has to be there, unless it was named before.
    fn judge_node(
        &self,
        destination: &BackupDestination,
        before: Option<(&BackupDestination, &NodeId)>,
        field: &str,
    ) -> ApiResult<Option<NodeId>> {
        let DestinationKind::Node { node, .. } = destination.kind() else {
            return Ok(None);
        };
        if let Some((_, known)) = before.filter(|(old, _)| *old == destination) {
            return Ok(Some(known.clone()));
        }
        let found = self
            .nodes
            .find(&node)
            .map_err(|_| ApiError::not_found("node", &node).field(field))?;
        Ok(Some(found))
    }
}

/// What the repository is made with stays as it is once there is one.
fn fixed(old: &ConfigRow, new: &StoredConfig) -> ApiResult<()> {
    let (before, after) = (&old.stored.spec, &new.spec);
    let mut out = Vec::new();
    let mut stays = |field: &str, same: bool| {
        if !same {
            out.push(problem(
                field,
                "it is fixed once the first backup was begun: make another config, and remove this one when its backups are no longer needed",
            ));
        }
    };
    if old.state.repository.is_some() || old.state.running.is_some() {
        stays("serverId", old.stored.server == new.server);
        stays("destination", before.destination == after.destination);
        stays("encryption", before.encryption == after.encryption);
        stays("compression", before.compression == after.compression);
    }
    if let (true, Some(was), Some(is)) = (old.state.copy.is_some(), &before.copy, &after.copy) {
        stays("copy.destination", was.destination == is.destination);
    }
    if out.is_empty() {
        Ok(())
    } else {
        Err(ApiError {
            code: "fixed".into(),
            ..ApiError::clashing_fields(out)
        })
    }
}

pub(super) fn whole(row: &ConfigRow) -> ApiResult<serde_json::Value> {
    let mut document = serde_json::to_value(&row.stored.spec).map_err(|_| ApiError::internal())?;
    let shown = |credentials: &Option<StoredCredentials>| credentials.as_ref().map(serde_json::to_value).transpose();
    if let Some(given) = shown(&row.secrets.credentials).map_err(|_| ApiError::internal())? {
        document["credentials"] = given;
    }
    if let Some(given) = shown(&row.secrets.copy_credentials).map_err(|_| ApiError::internal())?
        && document["copy"].is_object()
    {
        document["copy"]["credentials"] = given;
    }
    Ok(document)
}

/// What the log of who did what holds of a config: nothing that is sealed.
pub(super) fn detail(judged: &Judged) -> serde_json::Value {
    let spec = &judged.stored.spec;
    serde_json::json!({
        "name": spec.name, "server": judged.stored.server, "schedule": spec.schedule, "destination": spec.destination,
        "type": spec.kind, "retention": spec.retention, "status": spec.status, "appendOnly": spec.append_only,
        "copy": spec.copy.as_ref().map(|c| &c.destination),
    })
}
