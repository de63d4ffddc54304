//! Clusters: servers behind one entry point. What users ask for stands here; what they see is in `view`.

mod acme;
mod database;
mod entry;
mod server;
mod settings;
mod view;

pub use acme::{AcmeDirectory, AcmeEmail, AcmeExternalAccount, AcmeKeyId, AcmeStatus, ClusterAcme, ClusterAcmeView};
pub use database::{
    DatabaseArchive, DatabaseArchiveGap, DatabaseConnections, DatabaseCredentials, DatabaseLogin, DatabaseMemberView, DatabaseName,
    DatabaseOrigin, DatabaseParameters, DatabasePool, DatabaseRole, DatabaseSlot, DatabaseSpec, DatabaseState, DatabaseSwitchover,
    DatabaseView, ExtensionName, POSTGRES_VERSION, ParameterName, ParameterValue, PoolMode,
};
pub use entry::{ClusterEntry, ClusterUpstream};
pub use server::{ClusterServer, ClusterServerEntry, ClusterServerKey, NewClusterServers};
pub use settings::{
    AutoScaling, ClusterCheckType, ClusterEntryAddress, ClusterFailback, ClusterHealthCheck, ClusterHost, ClusterPath, ClusterRedirect,
    ClusterRoute, ClusterStatusRange, ClusterSticky, ClusterTls, ClusterVirtualAddress, CookieName, FailbackMode, InterfaceName,
    LoadBalancer, LoadBalancingAlgorithm, PemText, ServerTemplate, TlsKey,
};
pub use view::{
    ClusterCondition, ClusterConditionKind, ClusterEntryView, ClusterEventKind, ClusterEventView, ClusterFailover, ClusterFigures,
    ClusterMemberState, ClusterMemberView, ClusterMetricsPoint, ClusterMetricsView, ClusterRecent, ClusterScalingAction,
    ClusterScalingFigure, ClusterScalingFigureKind, ClusterScalingView, ClusterStatus, ClusterTlsView, ClusterView, MemberFigures,
};

use crate::envelope::FieldProblem;
use crate::text::Title;
use crate::units::{Bounded, Port};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use utoipa::ToSchema;

/// The most servers a cluster has.
pub const SERVERS_AT_MOST: usize = 100;
/// The most nodes that carry a cluster's entry.
pub const ENTRY_NODES_AT_MOST: usize = 10;
/// The most routes of one cluster.
pub const ROUTES_AT_MOST: usize = 50;
/// Ports that are given to clusters which name none: those that Kubernetes gives to services of type NodePort, below what
/// Linux takes for outgoing connections.
pub const GIVEN_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;

/// What a cluster is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ClusterType {
    /// Traffic is spread over all servers that are up.
    LoadBalanced,
    /// The first server that is up takes all traffic, the others stand by in their order.
    HighAvailability,
    /// PostgreSQL on each of its nodes: one takes the writes, the others have the same data.
    Database,
    /// Its servers are nodes, which run jobs from a queue. It has no entry and carries no traffic.
    Compute,
}

/// `PATCH /api/capabilities/clusters/{clusterId}`.
pub type ClusterUpdate = crate::patch::MergePatch<ClusterSpec>;

impl crate::patch::Patched for ClusterSpec {
    const PATCH: &'static str = "ClusterUpdate";
}

impl ClusterType {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LoadBalanced => "load-balanced",
            Self::HighAvailability => "high-availability",
            Self::Database => "database",
            Self::Compute => "compute",
        }
    }
}

/// What a cluster's entry speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClusterProtocol {
    /// HTTP/1.1, HTTP/2 and WebSocket.
    #[default]
    Http,
    /// Bytes as they come.
    Tcp,
}

/// `POST /api/capabilities/clusters`, and what is kept of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterSpec {
    pub name: Title,
    #[serde(rename = "type")]
    pub kind: ClusterType,
    /// Ids or names of servers of any kind: containers, nodes, instances, registered addresses; of `compute` nodes alone. In
    /// `high-availability` their order is the order of preference.
    #[schema(min_items = 1, max_items = 100)]
    pub servers: Vec<ClusterServer>,
    #[serde(default)]
    pub load_balancer: LoadBalancer,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_scaling: Option<AutoScaling>,
    #[serde(default)]
    pub protocol: ClusterProtocol,
    /// Where the entry listens, on each of its nodes. Left out, a free port of 30000 to 32767 is given; `compute` has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen_port: Option<Port>,
    /// How members are checked, beside `loadBalancer`.
    #[serde(default)]
    pub health_check: ClusterHealthCheck,
    /// Keeps a client at its server, by a cookie. Only for `http`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<ClusterSticky>,
    /// Ends TLS at the entry. Only for `http`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClusterTls>,
    /// Sends requests that come without TLS to the entry. Only with `tls`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect_to_https: Option<ClusterRedirect>,
    /// Which requests are this cluster's; all of them where nothing is said. Clusters with different routes may share a port.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 50)]
    pub routes: Vec<ClusterRoute>,
    /// Ids or names of the nodes that carry the entry. Left out, they are chosen: those from which most members are reached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 10)]
    pub entry_nodes: Vec<ClusterServerKey>,
    /// How the entry takes clients.
    #[serde(default)]
    pub entry: ClusterEntry,
    /// How the entry goes to servers.
    #[serde(default)]
    pub upstream: ClusterUpstream,
    /// An address that the entry nodes share: the first one that is alive answers for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_address: Option<ClusterVirtualAddress>,
    /// When traffic goes back to a server of higher preference. Only for `high-availability`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failback: Option<ClusterFailback>,
    /// At how many other servers a request is tried, where that is safe; 2 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<Bounded<0, 10>>,
    /// Seconds in which a server that returns gets its full share; 0 by default, which is at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<Bounded<0, 3600>>,
    /// Seconds a server that scaling takes away may still serve who is with it; 30 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_time: Option<Bounded<0, 3600>>,
    /// What scaling makes new servers of; a copy of a member container where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_template: Option<ServerTemplate>,
    /// Of `database`: what it is to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<DatabaseSpec>,
}

/// What is done in seconds where nothing is said.
pub const DRAIN_TIME: i64 = 30;

impl ClusterSpec {
    pub fn drain_millis(&self) -> i64 {
        self.drain_time.map_or(DRAIN_TIME, Bounded::get) * 1000
    }

    /// Lists that are too long or too short; the schema says how long they may be.
    pub fn overlong(&self) -> Vec<FieldProblem> {
        let names = self.tls.as_ref().map_or(0, |t| t.server_names.len());
        [
            ("servers", self.servers.len(), 1, SERVERS_AT_MOST),
            ("routes", self.routes.len(), 0, ROUTES_AT_MOST),
            ("entryNodes", self.entry_nodes.len(), 0, ENTRY_NODES_AT_MOST),
            ("tls.serverNames", names, 0, settings::SERVER_NAMES_AT_MOST),
            (
                "entry.trustedAddresses",
                self.entry.trusted_addresses.len(),
                0,
                entry::TRUSTED_AT_MOST,
            ),
        ]
        .into_iter()
        .chain(self.overlong_database())
        .filter(|(_, len, min, max)| len < min || len > max)
        .map(|(field, _, min, max)| FieldProblem {
            field: field.into(),
            message: format!("has {min} to {max} entries"),
        })
        .chain(self.template_problems(|spec| spec.overlong()))
        .collect()
    }

    fn template_problems(&self, judge: impl Fn(&crate::container::ContainerSpec) -> Vec<FieldProblem>) -> Vec<FieldProblem> {
        let Some(ServerTemplate::Container(spec)) = &self.server_template else {
            return Vec::new();
        };
        let inside = |p: FieldProblem| FieldProblem {
            field: format!("serverTemplate.container.{}", p.field),
            ..p
        };
        judge(spec).into_iter().map(inside).collect()
    }

    /// What is asked for of an entry, which compute clusters have none of.
    fn not_of_compute(&self) -> Vec<String> {
        let servers = self.servers.iter().enumerate().flat_map(|(i, server)| {
            let entry = server.entry();
            [
                ("port", entry.port.is_some()),
                ("weight", entry.weight.is_some()),
                ("backup", entry.backup),
            ]
            .map(|(field, given)| (format!("servers[{i}].{field}"), given))
        });
        let scaling = self.auto_scaling.as_ref();
        [
            ("protocol", self.protocol != ClusterProtocol::default()),
            ("listenPort", self.listen_port.is_some()),
            ("healthCheck", self.health_check != ClusterHealthCheck::default()),
            ("sticky", self.sticky.is_some()),
            ("tls", self.tls.is_some()),
            ("redirectToHttps", self.redirect_to_https.is_some()),
            ("routes", !self.routes.is_empty()),
            ("entryNodes", !self.entry_nodes.is_empty()),
            ("entry", self.entry != ClusterEntry::default()),
            ("upstream", self.upstream != ClusterUpstream::default()),
            ("virtualAddress", self.virtual_address.is_some()),
            ("failback", self.failback.is_some()),
            ("retries", self.retries.is_some()),
            ("slowStart", self.slow_start.is_some()),
            ("drainTime", self.drain_time.is_some()),
            ("serverTemplate", self.server_template.is_some()),
            (
                "autoScaling.targetRequestsPerSecond",
                scaling.is_some_and(|s| s.target_requests_per_second.is_some()),
            ),
        ]
        .map(|(field, given)| (field.to_owned(), given))
        .into_iter()
        .chain(servers)
        .filter_map(|(field, given)| given.then_some(field))
        .collect()
    }

    /// Rules that no single field can hold and no schema can say: each problem names its field.
    pub fn problems(&self) -> Vec<FieldProblem> {
        let mut out = Vec::new();
        let mut problem = |field: String, message: &str| {
            out.push(FieldProblem {
                field,
                message: message.into(),
            });
        };
        let active_standby = self.kind == ClusterType::HighAvailability;
        let compute = self.kind == ClusterType::Compute;
        let mut seen = HashSet::new();
        for (i, server) in self.servers.iter().enumerate() {
            if !seen.insert(server.key()) {
                problem(format!("servers[{i}]"), &format!("`{}` is named twice", server.key()));
            }
            if active_standby && server.entry().backup {
                problem(
                    format!("servers[{i}].backup"),
                    "in high-availability the order of the servers says who is next: leave this out",
                );
            }
        }
        if self.load_balancer.health_check_timeout.get() >= self.load_balancer.health_check_interval.get() {
            problem(
                "loadBalancer.healthCheckTimeout".into(),
                "a check has to end before the next one begins: the timeout is less than healthCheckInterval",
            );
        }
        let check = &self.health_check;
        let kind = check.kind.unwrap_or(self.usual_check());
        if kind == ClusterCheckType::Tcp {
            for (field, given) in [
                ("path", check.path.is_some()),
                ("host", check.host.is_some()),
                ("expectedStatus", check.expected_status.is_some()),
            ] {
                if given {
                    problem(format!("healthCheck.{field}"), "belongs to checks of type `http`");
                }
            }
        }
        if check.expected_status.as_ref().is_some_and(|s| s.min > s.max) {
            problem("healthCheck.expectedStatus.max".into(), "is not less than `min`");
        }
        if let Some(scaling) = &self.auto_scaling {
            if scaling.min_servers.get() > scaling.max_servers.get() {
                problem("autoScaling.minServers".into(), "is not more than maxServers");
            }
            let aims = [
                scaling.target_cpu_percent.is_some(),
                scaling.target_memory_percent.is_some(),
                scaling.target_requests_per_second.is_some(),
            ];
            if scaling.target_queue_length.is_some() && !compute {
                problem(
                    "autoScaling.targetQueueLength".into(),
                    "belongs to clusters of type compute: leave this out",
                );
            }
            if scaling.enabled && !compute && !aims.contains(&true) {
                problem(
                    "autoScaling.targetCpuPercent".into(),
                    "scaling needs a target: name targetCpuPercent, targetMemoryPercent or targetRequestsPerSecond",
                );
            }
            if scaling.enabled && active_standby {
                problem(
                    "autoScaling.enabled".into(),
                    "in high-availability one server takes all traffic: more of them help nothing",
                );
            }
        }
        if compute {
            for field in self.not_of_compute() {
                problem(field, "a compute cluster has no entry and carries no traffic: leave this out");
            }
            return out;
        }
        let tcp = self.protocol == ClusterProtocol::Tcp;
        for (field, given) in [
            ("sticky", self.sticky.is_some()),
            ("tls", self.tls.is_some()),
            ("routes", !self.routes.is_empty()),
        ] {
            // A database says by itself why not.
            if tcp && given && self.kind != ClusterType::Database {
                problem(field.into(), "belongs to protocol `http`: leave this out, or change `protocol`");
            }
        }
        if tcp && let Some(field) = self.entry.of_http() {
            problem(
                format!("entry.{field}"),
                "belongs to protocol `http`: leave this out, or change `protocol`",
            );
        }
        if tcp && self.upstream.response_timeout.is_some() {
            problem(
                "upstream.responseTimeout".into(),
                "belongs to protocol `http`: leave this out, or change `protocol`",
            );
        }
        if self.upstream.queue_timeout.is_some() && self.upstream.max_connections.is_none() {
            problem("upstream.queueTimeout".into(), "nobody waits where there is no `maxConnections`");
        }
        if self.entry.accept_proxy_protocol && self.entry.trusted_addresses.is_empty() {
            problem(
                "entry.trustedAddresses".into(),
                "say from where PROXY protocol headers are believed",
            );
        }
        if active_standby && self.sticky.is_some() {
            problem(
                "sticky".into(),
                "in high-availability all clients are at one server: leave this out",
            );
        }
        if !active_standby && self.kind != ClusterType::Database && self.failback.is_some() {
            problem("failback".into(), "belongs to clusters of type high-availability: leave this out");
        }
        if let Some(tls) = &self.tls {
            for (field, message) in tls.problems() {
                problem(format!("tls.{field}"), message);
            }
        }
        if let Some(redirect) = &self.redirect_to_https {
            if self.tls.is_none() {
                problem("redirectToHttps".into(), "there is no `tls` to send anybody to");
            }
            if self.listen_port.is_some_and(|port| port.get() == redirect.port()) {
                problem("redirectToHttps.listenPort".into(), "the entry itself listens on this port");
            }
        }
        let mut seen = HashSet::new();
        for (i, route) in self.routes.iter().enumerate() {
            if !seen.insert(route.pair()) {
                problem(format!("routes[{i}]"), "another route has this host and path prefix");
            }
        }
        let mut seen = HashSet::new();
        for (i, node) in self.entry_nodes.iter().enumerate() {
            if !seen.insert(node) {
                problem(format!("entryNodes[{i}]"), "is named twice");
            }
        }
        if let Some(shared) = &self.virtual_address
            && let Err((field, message)) = shared.judge()
        {
            problem(format!("virtualAddress.{field}"), message);
        }
        out.extend(self.template_problems(|spec| spec.problems()));
        out.extend(self.database_problems());
        out
    }

    /// How members are checked where `healthCheck.type` is left out: by HTTP only where something of it is named, for not every
    /// server answers at `/`.
    pub fn usual_check(&self) -> ClusterCheckType {
        if self.health_check.asks_http() {
            ClusterCheckType::Http
        } else {
            ClusterCheckType::Tcp
        }
    }
}

#[cfg(test)]
mod tests;
