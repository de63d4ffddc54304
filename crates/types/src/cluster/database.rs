//! Clusters of type `database`: PostgreSQL on several nodes, one of which takes the writes.

use super::{ClusterSpec, ClusterType};
use crate::envelope::FieldProblem;
use crate::text::{BadText, ImageRef, string_schema, texts};
use crate::units::{Bounded, CpuLimit, MemoryLimit, Port};
use crate::{BackupId, ContainerId, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// The version in the built-in image.
pub const POSTGRES_VERSION: i64 = 15;
/// The most parameters of a database.
const PARAMETERS_AT_MOST: usize = 200;
const EXTENSIONS_AT_MOST: usize = 50;

fn identifier(text: &str) -> bool {
    text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_')
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

texts! {
    /// Names a database.
    DatabaseName {
        pattern: "^(?!(?:postgres|template0|template1)$)(?!pg_)[a-z_][a-z0-9_]{0,62}$", max: 63,
        says: "a database's name has 1 to 63 of a-z, 0-9 and `_`, begins with no digit nor `pg_`, and is none that PostgreSQL has of its own",
        ok: |t| identifier(t) && !t.starts_with("pg_") && !matches!(t, "postgres" | "template0" | "template1")
    }
    /// Names a parameter of PostgreSQL, or of one of its extensions.
    ParameterName {
        pattern: "^[a-z_][a-z0-9_]{0,62}(?:\\.[a-z_][a-z0-9_]{0,62})?$", max: 127,
        says: "a parameter's name has a-z, 0-9 and `_`; that of an extension's parameter has one `.` in it",
        ok: |t| {
            let mut parts = t.split('.');
            t.matches('.').count() <= 1 && parts.all(|p| identifier(p) && p.len() <= 63)
        }
    }
    /// A parameter's value, as PostgreSQL reads it.
    ParameterValue {
        pattern: "^[^\\x00-\\x1f\\x7f-\\x9f]{1,1000}$", max: 1000,
        says: "a parameter's value has 1 to 1000 characters on one line",
        ok: |t| !t.is_empty() && !t.chars().any(char::is_control)
    }
    /// Names an extension of PostgreSQL.
    ExtensionName {
        pattern: "^[a-z_][a-z0-9_-]{0,62}$", max: 63,
        says: "an extension's name has 1 to 63 of a-z, 0-9, `_` and `-`, and begins with a letter or `_`",
        ok: |t| t.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_')
            && t.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
    }
}

/// Parameters of PostgreSQL by their names.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DatabaseParameters(#[serde(deserialize_with = "crate::text::unique_map")] pub BTreeMap<ParameterName, ParameterValue>);

impl PartialSchema for DatabaseParameters {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::Object)
            .additional_properties(Some(AdditionalProperties::RefOr(ParameterValue::schema())))
            .property_names(Some(match ParameterName::schema() {
                RefOr::T(schema) => schema,
                RefOr::Ref(_) => Schema::default(),
            }))
            .max_properties(Some(PARAMETERS_AT_MOST))
            .description(Some("Parameters of PostgreSQL by their names, each as a text."))
            .into()
    }
}
impl ToSchema for DatabaseParameters {}

/// How connections are shared by those of a pool (pgbouncer).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PoolMode {
    /// A connection of the server is a client's for a transaction. What a session keeps (prepared statements, `SET`, advisory
    /// locks) is lost between them.
    #[default]
    Transaction,
    /// For as long as the client is connected.
    Session,
}

/// A pool of connections between clients and the database.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DatabasePool {
    #[serde(default)]
    pub mode: PoolMode,
    /// The most connections to the database, of each user; 20 by default.
    #[serde(default = "twenty")]
    pub size: Bounded<1, 1000>,
}

const fn twenty() -> Bounded<1, 1000> {
    Bounded::clamped(20)
}

/// What the database of a cluster of type `database` is to be.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DatabaseSpec {
    /// Of PostgreSQL; 15 by default, which the built-in image has. Can't be changed later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Bounded<9, 99>>,
    /// The database that is made; `app` by default. Can't be changed later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<DatabaseName>,
    /// Whether a commit is acknowledged only once a replica has it on disk, too; yes by default. While no replica is there the
    /// primary goes on without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synchronous: Option<bool>,
    #[serde(default, skip_serializing_if = "no_parameters")]
    pub parameters: DatabaseParameters,
    /// Extensions to be made in the database. Those of Debian's `postgresql-contrib` are in the built-in image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 50)]
    pub extensions: Vec<ExtensionName>,
    /// Seconds by which what the read-only port gives may be older than what the primary has; 30 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_lag_limit: Option<Bounded<5, 3600>>,
    /// Has clients share connections; without it each has one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<DatabasePool>,
    /// Where the read-only entry listens, on each of the entry nodes. Left out, a free port of 30000 to 32767 is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only_port: Option<Port>,
    /// Cores each member may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_limit: Option<CpuLimit>,
    /// Memory each member may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<MemoryLimit>,
    /// An image in place of the built-in one, that takes what that takes (images/postgres-ha).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageRef>,
}

fn no_parameters(parameters: &DatabaseParameters) -> bool {
    parameters.0.is_empty()
}

/// What the members' own work depends on, and who says it instead.
const KEPT: &[&str] = &[
    "archive_command",
    "archive_mode",
    "cluster_name",
    "config_file",
    "data_directory",
    "external_pid_file",
    "hba_file",
    "hot_standby",
    "ident_file",
    "listen_addresses",
    "password_encryption",
    "port",
    "primary_conninfo",
    "primary_slot_name",
    "promote_trigger_file",
    "recovery_target_timeline",
    "restore_command",
    "ssl",
    "ssl_ca_file",
    "ssl_cert_file",
    "ssl_key_file",
    "synchronous_commit",
    "synchronous_standby_names",
    "unix_socket_directories",
    "wal_level",
    "wal_log_hints",
];

impl DatabaseSpec {
    pub fn name(&self) -> &str {
        self.name.as_ref().map_or("app", |n| n.as_str())
    }
    pub fn is_synchronous(&self) -> bool {
        self.synchronous.unwrap_or(true)
    }
    pub fn read_lag_limit(&self) -> i64 {
        self.read_lag_limit.map_or(30, Bounded::get)
    }

    fn problems(&self) -> Vec<(String, String)> {
        let mut out = Vec::new();
        if let Some(version) = self.version.filter(|v| v.get() != POSTGRES_VERSION && self.image.is_none()) {
            out.push((
                "version".into(),
                format!(
                    "the built-in image has PostgreSQL {POSTGRES_VERSION}: leave this out, or name an image with PostgreSQL {} by `database.image`",
                    version.get()
                ),
            ));
        }
        for name in self.parameters.0.keys().filter(|n| KEPT.contains(&n.as_str())) {
            out.push((
                format!("parameters.{name}"),
                "the cluster sets this parameter itself: leave it out".into(),
            ));
        }
        for (i, name) in self.extensions.iter().enumerate() {
            if self.extensions[..i].contains(name) {
                out.push((format!("extensions[{i}]"), format!("`{name}` is named twice")));
            }
        }
        out
    }
}

impl ClusterSpec {
    /// The database that is asked for, with everything that was left out by default.
    pub fn database(&self) -> DatabaseSpec {
        self.database.clone().unwrap_or_default()
    }

    pub(super) fn overlong_database(&self) -> impl Iterator<Item = (&'static str, usize, usize, usize)> {
        let (parameters, extensions) = self
            .database
            .as_ref()
            .map_or((0, 0), |d| (d.parameters.0.len(), d.extensions.len()));
        [
            ("database.parameters", parameters, 0, PARAMETERS_AT_MOST),
            ("database.extensions", extensions, 0, EXTENSIONS_AT_MOST),
        ]
        .into_iter()
    }

    /// What does not go together with `database`, the type or the block.
    pub(super) fn database_problems(&self) -> Vec<FieldProblem> {
        let problem = |field: String, message: String| FieldProblem { field, message };
        if self.kind != ClusterType::Database {
            return match &self.database {
                Some(_) => vec![problem(
                    "database".into(),
                    "belongs to clusters of type `database`: leave this out, or change `type`".into(),
                )],
                None => Vec::new(),
            };
        }
        let entry = &self.entry;
        let unfit = [
            (
                "tls",
                self.tls.is_some(),
                "members speak TLS themselves, by certificates that are made for them",
            ),
            (
                "redirectToHttps",
                self.redirect_to_https.is_some(),
                "a database does not speak HTTP",
            ),
            ("sticky", self.sticky.is_some(), "a database does not speak HTTP"),
            ("routes", !self.routes.is_empty(), "a database does not speak HTTP"),
            (
                "healthCheck",
                self.health_check != super::ClusterHealthCheck::default(),
                "members are asked each second whether they are the primary, or a replica that is not behind",
            ),
            (
                "autoScaling.enabled",
                self.auto_scaling.as_ref().is_some_and(|s| s.enabled),
                "each server of a database cluster is a node that holds all of the data: add nodes to `servers` where reads need more",
            ),
            (
                "serverTemplate",
                self.server_template.is_some(),
                "members are made of `database.image`",
            ),
            (
                "failback",
                self.failback.is_some(),
                "who is the primary is changed by `POST …/database/switchover`",
            ),
            (
                "slowStart",
                self.slow_start.is_some(),
                "a database's members get their share at once",
            ),
            (
                "upstream.sendProxyProtocol",
                self.upstream.send_proxy_protocol.is_some(),
                "PostgreSQL does not read PROXY protocol",
            ),
            (
                "entry.acceptProxyProtocol",
                entry.accept_proxy_protocol,
                "PostgreSQL does not read PROXY protocol",
            ),
        ];
        let mut out: Vec<FieldProblem> = unfit
            .into_iter()
            .filter(|(_, given, _)| *given)
            .map(|(field, _, why)| problem(field.into(), format!("{why}: leave this out")))
            .collect();
        for (i, server) in self.servers.iter().enumerate() {
            let server = server.entry();
            if server.port.is_some() {
                out.push(problem(
                    format!("servers[{i}].port"),
                    "the members' ports are given by the cluster: leave this out".into(),
                ));
            }
            if server.backup {
                out.push(problem(
                    format!("servers[{i}].backup"),
                    "every member of a database holds all of it: leave this out".into(),
                ));
            }
        }
        let database = self.database();
        if let (Some(own), Some(reads)) = (self.listen_port, database.read_only_port)
            && own == reads
        {
            out.push(problem(
                "database.readOnlyPort".into(),
                "the read-write entry listens on this port (`listenPort`)".into(),
            ));
        }
        let inside = database
            .problems()
            .into_iter()
            .map(|(field, message)| problem(format!("database.{field}"), message));
        out.extend(inside);
        out
    }
}

/// How far a database cluster is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DatabaseState {
    /// Its members are being made; it never had a primary.
    #[default]
    Creating,
    /// It has a primary that takes writes.
    Ready,
    /// It has none now; a replica takes over within seconds where one can.
    Failing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DatabaseRole {
    Primary,
    /// What is acknowledged is on its disk, too.
    SyncStandby,
    Replica,
}

/// A member of a database cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseMemberView {
    /// The node's id.
    pub server: String,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_id: Option<ContainerId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<DatabaseRole>,
    /// As Patroni says it (`running`, `streaming`, `starting`, `stopped`, …), or what becomes of the member: `creating`, `unknown`,
    /// `leaving`.
    pub state: String,
    /// Why it is not as it should be, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<i64>,
    /// Bytes of the write-ahead log that it has not yet got.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_bytes: Option<i64>,
    /// Seconds from a write at the primary to its being seen here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_seconds: Option<f64>,
    /// A changed parameter waits for a restart, which comes by itself.
    pub pending_restart: bool,
    /// Whether etcd runs here, which says who is the primary.
    pub etcd: bool,
}

/// What keeps the write-ahead log for somebody.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseSlot {
    pub name: String,
    pub active: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retained_bytes: Option<i64>,
}

/// What a member keeps of the write-ahead log until it is in a destination of backups.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseArchive {
    /// Whether a backup config asks for it.
    pub enabled: bool,
    #[serde(default)]
    pub bytes: u64,
    /// Since when segments were dropped, as there was no room for them: from there on nothing can be brought back until the next backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<DatabaseArchiveGap>,
    /// Why the last segment could not be kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseArchiveGap {
    pub since: Timestamp,
    pub segment: String,
}

/// Which backup a database was made of, and of which moment it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseOrigin {
    pub backup_id: BackupId,
    /// The newest that there was, where none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Timestamp>,
}

/// Where clients connect to, without passwords.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseConnections {
    pub read_write: String,
    pub read_only: String,
    /// Past the entries and the pool: the client itself finds the member that takes writes.
    pub direct: String,
}

/// A database cluster's database.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseView {
    pub state: DatabaseState,
    /// What it waits for, or what is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    pub version: i64,
    pub name: String,
    pub synchronous: bool,
    pub parameters: DatabaseParameters,
    pub extensions: Vec<ExtensionName>,
    pub read_lag_limit: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<DatabasePool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_limit: Option<CpuLimit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<MemoryLimit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageRef>,
    /// Whether it survives the loss of a node.
    pub highly_available: bool,
    pub read_write_port: u16,
    pub read_only_port: u16,
    /// The primary's node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<i64>,
    pub members: Vec<DatabaseMemberView>,
    pub slots: Vec<DatabaseSlot>,
    /// Clients at the primary, and how many it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<DatabaseArchive>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_from: Option<DatabaseOrigin>,
    /// When this was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Timestamp>,
    /// There once the database takes writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_strings: Option<DatabaseConnections>,
}

/// A role of the database, with its password.
#[derive(Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseLogin {
    pub user: String,
    pub password: String,
}

/// `GET …/database/credentials`: for admins alone.
#[derive(Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseCredentials {
    pub database: String,
    /// Owns the database.
    pub application: DatabaseLogin,
    /// Makes databases and roles, and sees statistics; no superuser.
    pub admin: DatabaseLogin,
    /// Who signed the members' certificates, in PEM form: `sslrootcert`.
    pub certificate_authority: String,
    /// Of the application, with its password.
    pub read_write: String,
    pub read_only: String,
    pub direct: String,
}

/// `POST …/database/switchover`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DatabaseSwitchover {
    /// The server that is to be the primary: id or name; the replica that is least behind where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<super::ClusterServerKey>,
}
