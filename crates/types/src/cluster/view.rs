//! Clusters as the API shows them.

use super::{
    AutoScaling, ClusterAcmeView, ClusterEntry, ClusterFailback, ClusterHealthCheck, ClusterProtocol, ClusterRedirect, ClusterRoute,
    ClusterServerKey, ClusterSticky, ClusterType, ClusterUpstream, ClusterVirtualAddress, DatabaseView, LoadBalancer, ServerTemplate,
};
use crate::server::ServerKind;
use crate::text::Title;
use crate::{ClusterId, NodeId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// By the servers that serve: all, seven of ten, half, fewer; of `compute` by the nodes that are ready. In `high-availability` one that serves is enough not to be offline,
/// and those that stand by count as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClusterStatus {
    Healthy,
    Degraded,
    Critical,
    Offline,
}

impl ClusterStatus {
    pub const ALL: [Self; 4] = [Self::Healthy, Self::Degraded, Self::Critical, Self::Offline];
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Critical => "critical",
            Self::Offline => "offline",
        }
    }
}

/// What was measured since the cluster was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterFigures {
    /// HTTP requests, or TCP connections.
    pub total_requests: u64,
    /// Milliseconds from a request's head to its answer's head; of TCP, to the server's connection.
    pub average_response_time: f64,
    /// Percent of the requests that ended with 500 to 599 or without an answer.
    pub error_rate: f64,
    /// Bytes of bodies, or of TCP, in both directions.
    pub total_bandwidth: u64,
    /// Milliseconds that half of the requests did not exceed, right to an eighth; 0 where there were none.
    pub p50: f64,
    /// Milliseconds that 95 of 100 did not exceed.
    pub p95: f64,
    /// Milliseconds that 99 of 100 did not exceed.
    pub p99: f64,
}

/// What was measured over the last minute or so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterRecent {
    pub requests_per_second: f64,
    /// Percent.
    pub error_rate: f64,
    /// Milliseconds; 0 where there were no requests.
    pub average_response_time: f64,
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
}

/// A cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterView {
    pub id: ClusterId,
    pub name: Title,
    #[serde(rename = "type")]
    pub kind: ClusterType,
    pub status: ClusterStatus,
    /// As they were named, and those that scaling added.
    pub servers: Vec<String>,
    pub metrics: ClusterFigures,
    /// What was measured lately; absent while nobody tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recent: Option<ClusterRecent>,
    /// Where it is reached, as a URL; absent while no entry node's address is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The same at each of its entry nodes.
    pub endpoints: Vec<String>,
    pub protocol: ClusterProtocol,
    /// 0 where there is no entry, as of `compute`.
    pub listen_port: u16,
    pub members: Vec<ClusterMemberView>,
    /// The server that takes the traffic of `high-availability`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_member: Option<String>,
    pub entry_nodes: Vec<ClusterEntryView>,
    /// What keeps it from being as it should, and what to do.
    pub conditions: Vec<ClusterCondition>,
    pub load_balancer: LoadBalancer,
    /// How members are checked, with what was left out filled in.
    pub health_check: ClusterHealthCheck,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_scaling: Option<AutoScaling>,
    /// What scaling last decided; absent until it looked for the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<ClusterScalingView>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<ClusterSticky>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClusterTlsView>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect_to_https: Option<ClusterRedirect>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<ClusterRoute>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_address: Option<ClusterVirtualAddress>,
    #[serde(default)]
    pub entry: ClusterEntry,
    #[serde(default)]
    pub upstream: ClusterUpstream,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failback: Option<ClusterFailback>,
    pub retries: i64,
    pub slow_start: i64,
    pub drain_time: i64,
    /// Values of variables that look secret are covered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_template: Option<ServerTemplate>,
    /// Of type `database`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<DatabaseView>,
    pub created: Timestamp,
    pub updated: Timestamp,
    pub generation: i64,
}

/// A certificate, without its key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterTlsView {
    /// Whether the certificate in force was made here, which clients have no reason to trust.
    pub self_signed: bool,
    /// Of a certificate from an ACME server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acme: Option<ClusterAcmeView>,
    pub server_names: Vec<String>,
    /// The chain in PEM form.
    pub certificate: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

/// How a member is, as the entry that takes the traffic sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClusterMemberState {
    Up,
    /// Its health check fails.
    Down,
    /// Traffic failed at it; it is tried again after a while.
    Ejected,
    /// It gets no new clients, and leaves.
    Draining,
    /// It is being made.
    Starting,
    /// No entry node has a way to it.
    Unreachable,
    /// No entry node has said anything of it yet.
    Unknown,
}

impl ClusterMemberState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Ejected => "ejected",
            Self::Draining => "draining",
            Self::Starting => "starting",
            Self::Unreachable => "unreachable",
            Self::Unknown => "unknown",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterMemberView {
    /// The server's id.
    pub id: String,
    pub name: String,
    pub kind: ServerKind,
    /// Address and port where the entry reaches it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Its port as it was named: of a container the one inside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    pub weight: i64,
    pub backup: bool,
    pub state: ClusterMemberState,
    /// Why it is so, in words.
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Requests and connections in flight.
    pub in_flight: u64,
    /// Whether scaling made it.
    pub scaled: bool,
    pub metrics: ClusterFigures,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recent: Option<ClusterRecent>,
}

/// A node that carries the entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterEntryView {
    pub node_id: NodeId,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    pub connected: bool,
    /// Whether it carries the cluster as it is now.
    pub current: bool,
    /// The generation of its document that it carries, and the one it is to carry. A node's document holds the entries of all its
    /// clusters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carries: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<u64>,
    /// Why it could not be asked, or did not take what it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Whether it answers for the virtual address, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holds_virtual_address: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum ClusterConditionKind {
    /// A member that an entry node can't reach.
    MemberUnreachable,
    /// There is no node to carry the entry.
    NoEntry,
    /// An entry node that is not connected.
    EntryOffline,
    /// An entry node that does not carry what it should.
    EntryFailed,
    /// An entry node that has not taken the last change yet.
    EntryBehind,
    /// Scaling can't do what it decided.
    CannotScale,
    /// The virtual address can't be shared.
    VirtualAddress,
    /// A certificate that ends soon, or that an ACME server has not given.
    Certificate,
    /// A database that the loss of one node takes away.
    NotHighlyAvailable,
    /// A database that does not take writes, or a member that can't be made.
    Database,
}

/// What keeps a cluster from being as it should.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterCondition {
    #[serde(rename = "type")]
    pub kind: ClusterConditionKind,
    /// The server or node it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// What is the matter, and what to do.
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum ClusterScalingFigureKind {
    Cpu,
    Memory,
    RequestsPerSecond,
    /// Tasks that wait.
    QueueLength,
}

/// What one figure asked for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterScalingFigure {
    pub figure: ClusterScalingFigureKind,
    pub target: f64,
    /// The average over the servers that told; of requests, those of each server. Absent where nobody told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// How many servers it asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub servers: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClusterScalingAction {
    /// Everything is as it should be.
    Stay,
    /// Something else would be right, and is not done.
    Hold,
    Out,
    In,
}

/// What scaling last decided, and by which numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterScalingView {
    pub at: Timestamp,
    /// How many servers there were.
    pub current: u32,
    /// How many would have been right, before bounds and times.
    pub wanted: u32,
    pub action: ClusterScalingAction,
    /// Why, in words.
    pub reason: String,
    pub figures: Vec<ClusterScalingFigure>,
    /// None are added before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub add_after: Option<Timestamp>,
    /// None are taken away before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remove_after: Option<Timestamp>,
}

/// `POST …/failover`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterFailover {
    /// The server that is to take the traffic: id or name; the next one that is up where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ClusterServerKey>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum ClusterEventKind {
    Created,
    Updated,
    MemberAdded,
    MemberRemoved,
    MemberUp,
    MemberDown,
    MemberEjected,
    MemberReturned,
    Failover,
    StatusChanged,
    ScaledOut,
    ScaledIn,
    /// Scaling would have changed something, and did not.
    ScalingHeld,
    ScalingFailed,
    /// An ACME server gave a certificate, where it had given none.
    CertificateIssued,
    /// An ACME server gave a certificate in place of the one before.
    CertificateRenewed,
    /// No certificate was got from the ACME server; it is tried again.
    CertificateFailed,
    /// A job was given to the cluster's queue.
    JobMade,
    /// All of a job's tasks succeeded.
    JobSucceeded,
    JobFailed,
    JobCancelled,
    /// A task is not run again: its node was lost each time.
    TaskSetAside,
}

impl ClusterEventKind {
    pub const ALL: [Self; 22] = [
        Self::Created,
        Self::Updated,
        Self::MemberAdded,
        Self::MemberRemoved,
        Self::MemberUp,
        Self::MemberDown,
        Self::MemberEjected,
        Self::MemberReturned,
        Self::Failover,
        Self::StatusChanged,
        Self::ScaledOut,
        Self::ScaledIn,
        Self::ScalingHeld,
        Self::ScalingFailed,
        Self::CertificateIssued,
        Self::CertificateRenewed,
        Self::CertificateFailed,
        Self::JobMade,
        Self::JobSucceeded,
        Self::JobFailed,
        Self::JobCancelled,
        Self::TaskSetAside,
    ];
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::MemberAdded => "memberAdded",
            Self::MemberRemoved => "memberRemoved",
            Self::MemberUp => "memberUp",
            Self::MemberDown => "memberDown",
            Self::MemberEjected => "memberEjected",
            Self::MemberReturned => "memberReturned",
            Self::Failover => "failover",
            Self::StatusChanged => "statusChanged",
            Self::ScaledOut => "scaledOut",
            Self::ScaledIn => "scaledIn",
            Self::ScalingHeld => "scalingHeld",
            Self::ScalingFailed => "scalingFailed",
            Self::CertificateIssued => "certificateIssued",
            Self::CertificateRenewed => "certificateRenewed",
            Self::CertificateFailed => "certificateFailed",
            Self::JobMade => "jobMade",
            Self::JobSucceeded => "jobSucceeded",
            Self::JobFailed => "jobFailed",
            Self::JobCancelled => "jobCancelled",
            Self::TaskSetAside => "taskSetAside",
        }
    }
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.as_str() == text)
    }
}

/// Something that happened to a cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterEventView {
    pub sequence: i64,
    pub at: Timestamp,
    pub kind: ClusterEventKind,
    /// The server it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// The entry node that saw it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<NodeId>,
    /// Why, in words.
    pub reason: String,
    /// The numbers of a decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub detail: Option<serde_json::Value>,
}

/// What one server did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemberFigures {
    pub id: String,
    #[serde(flatten)]
    pub figures: ClusterFigures,
}

/// A part of the history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterMetricsPoint {
    pub from: Timestamp,
    pub to: Timestamp,
    pub requests_per_second: f64,
    #[serde(flatten)]
    pub figures: ClusterFigures,
    pub members: Vec<MemberFigures>,
}

/// What was measured: since the cluster was made, and over time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterMetricsView {
    pub cluster_id: ClusterId,
    #[serde(flatten)]
    pub figures: ClusterFigures,
    /// Over the last minute or so.
    pub requests_per_second: f64,
    pub members: Vec<MemberFigures>,
    /// Oldest first.
    pub history: Vec<ClusterMetricsPoint>,
}
