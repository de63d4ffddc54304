//! What a control plane may ask of an agent: typed commands over HTTP/2, JSON bodies, long answers as one JSON value a line.
//!
//! Invariants: every command is validated again at the agent; a command that changes something names the operation it
//! belongs to, so that asking twice does once; one with an older generation than the agent holds is refused.
//! Paths are constants here and nowhere else. Containers are addressed by [`ContainerKey`]: our id (found by the label
//! `io.neuralmesh.id`), or Docker's id for containers that others made.

mod backup;
pub mod built_in;
mod edge;
mod error;
pub mod exec;
mod health;
mod journal;
mod tasks;

pub use backup::{CancelJob, Prepare, ReachQuery, RestoreVolume, RunJob, ServeQuery};
pub use edge::{EdgeConfig, EdgeEventsQuery, EdgeMetrics, EdgeState, VirtualAddress, VirtualAddressState};
pub use error::{AgentError, AgentErrorCode};
pub use health::{ProbeResult, RunProbe, RunProbes};
pub use journal::{JournalEnd, JournalEvent, JournalPage, JournalQuery};
pub use tasks::{RunTask, TaskKey, TaskLogQuery, TaskNews, TaskNewsPage, TaskNewsQuery, TaskResult, TasksAnswer, TasksCall};
mod trust;
mod upgrade;

pub use trust::{Trust, TrustState};
pub use upgrade::{BeginUpgrade, Release, UpgradeOutcome, UpgradePhase, UpgradeState};

use nm_types::container::{ContainerSpec, ExecCommand, ObservedContainer, Signal};
use nm_types::host::NodeStats;
use nm_types::image::LayerProgress;
use nm_types::node::{DockerInfo, NodeInfo};
use nm_types::stats::Usage;
use nm_types::text::{ContainerName, ImageRef, Labels, NetworkName, VolumeName};
use nm_types::{ContainerId, OperationId, Timestamp};
use serde::{Deserialize, Serialize};

/// Labels the agent puts on every container of ours.
pub mod labels {
    /// Our id of the container.
    pub const ID: &str = "io.neuralmesh.id";
    /// The operation that made it, so that a repeated create finds it.
    pub const OPERATION: &str = "io.neuralmesh.operation";
    /// The name users gave it.
    pub const NAME: &str = "io.neuralmesh.name";
    /// The seconds between its stop signal and the kill that were asked for, where they were.
    pub const STOP_GRACE: &str = "io.neuralmesh.stop-grace";
    /// The attempt at a job's task that it is.
    pub const TASK: &str = "io.neuralmesh.task";
    /// The agent that has the task: another one on the same engine leaves it alone.
    pub const TASKS_OF: &str = "io.neuralmesh.tasks-of";
    /// Every label of ours starts so; users can't set them.
    pub const PREFIX: &str = "io.neuralmesh.";
}

/// The agent's routes. `{key}` is a [`ContainerKey`].
pub mod path {
    /// GET → [`NodeInfo`](nm_types::node::NodeInfo).
    pub const INFO: &str = "/v1/info";
    /// GET → [`TrustState`](super::TrustState); POST [`Trust`](super::Trust) → the same, once it is so. Answered by the link itself.
    pub const TRUST: &str = "/v1/trust";
    /// GET → [`UpgradeState`](super::UpgradeState); POST a [`SignedText`](crate::pki::SignedText) of a [`Release`](super::Release)
    /// → the same; PUT the release's executable → the same.
    pub const UPGRADE: &str = "/v1/upgrade";
    /// POST [`BeginUpgrade`](super::BeginUpgrade) → [`UpgradeState`](super::UpgradeState); then the agent starts as the release.
    pub const UPGRADE_BEGIN: &str = "/v1/upgrade/begin";
    /// GET → a fresh [`NodeStats`](nm_types::host::NodeStats).
    pub const HOST: &str = "/v1/host";
    /// POST [`RunProbes`](super::RunProbes) → array of [`ProbeResult`](super::ProbeResult), in the same order.
    pub const HEALTH: &str = "/v1/health";
    /// GET, query [`StatsQuery`](super::StatsQuery) → array of `NodeStats`, oldest first.
    pub const HOST_STATS: &str = "/v1/host/stats";
    /// GET → lines of `NodeStats`, one a second, until either side ends it.
    pub const HOST_STATS_STREAM: &str = "/v1/host/stats/stream";
    /// GET, query [`JournalQuery`](super::JournalQuery) → [`JournalPage`](super::JournalPage).
    pub const JOURNAL: &str = "/v1/journal";
    /// GET → lines of [`WatchEvent`](super::WatchEvent), first a snapshot, then changes, until either side ends it.
    pub const WATCH: &str = "/v1/watch";
    /// POST [`CreateContainer`](super::CreateContainer) → lines of [`Progress`](super::Progress) of [`ObservedContainer`](nm_types::container::ObservedContainer).
    pub const CONTAINERS: &str = "/v1/containers";
    /// POST [`Command`](super::Command) → `ObservedContainer`.
    pub const COMMAND: &str = "/v1/containers/{key}/command";
    /// POST [`RemoveContainer`](super::RemoveContainer) → `{}`; a container that is not there is removed already.
    pub const REMOVE: &str = "/v1/containers/{key}/remove";
    /// GET → Docker's own inspect document, environment values that look secret covered.
    pub const INSPECT: &str = "/v1/containers/{key}/inspect";
    /// GET, query [`LogQuery`](super::LogQuery) → lines of [`LogLine`](nm_types::container::LogLine).
    pub const LOGS: &str = "/v1/containers/{key}/logs";
    /// GET, query [`StatsQuery`](super::StatsQuery) → array of [`ContainerStats`](nm_types::stats::ContainerStats), oldest first.
    pub const STATS: &str = "/v1/containers/{key}/stats";
    /// GET → lines of `ContainerStats`, one a second, until the container stops.
    pub const STATS_STREAM: &str = "/v1/containers/{key}/stats/stream";
    /// POST [`Exec`](super::Exec) → [`ExecResult`](nm_types::container::ExecResult).
    pub const EXEC: &str = "/v1/containers/{key}/exec";
    /// POST, query [`TerminalQuery`](super::TerminalQuery), body and answer are frames of [`exec`](super::exec), both ways at once.
    pub const TERMINAL: &str = "/v1/containers/{key}/terminal";
    /// GET `?path=` → a tar stream; PUT `?path=` with a tar stream unpacks it in that folder of the container.
    pub const ARCHIVE: &str = "/v1/containers/{key}/archive";
    /// GET → array of [`ImageView`](nm_types::image::ImageView) without `nodeId`'s meaning (left empty; the control plane fills it).
    pub const IMAGES: &str = "/v1/images";
    /// POST [`Pull`](super::Pull) → lines of [`Progress`](super::Progress) of `ImageView`.
    pub const PULL: &str = "/v1/images/pull";
    /// POST a tar stream as `docker save` writes it → array of loaded names. Used for the built-in image.
    pub const LOAD: &str = "/v1/images/load";
    /// POST [`RemoveImage`](super::RemoveImage) → `{}`.
    pub const IMAGE_REMOVE: &str = "/v1/images/remove";
    /// POST → [`Pruned`](nm_types::image::Pruned): images that no container uses and no name points to.
    pub const IMAGES_PRUNE: &str = "/v1/images/prune";
    /// GET → array of [`VolumeView`](nm_types::volume::VolumeView).
    pub const VOLUMES: &str = "/v1/volumes";
    /// POST [`CreateVolume`](super::CreateVolume) → `VolumeView`; one of that name that we made with the same labels is answered as it is.
    pub const VOLUME_CREATE: &str = "/v1/volumes/create";
    /// POST [`Name`](super::Name) → `{}`.
    pub const VOLUME_REMOVE: &str = "/v1/volumes/remove";
    /// GET → array of [`NetworkView`](nm_types::network::NetworkView).
    pub const NETWORKS: &str = "/v1/networks";
    /// POST [`CreateNetwork`](super::CreateNetwork) → `NetworkView`.
    pub const NETWORK_CREATE: &str = "/v1/networks/create";
    /// POST [`Name`](super::Name) → `{}`.
    pub const NETWORK_REMOVE: &str = "/v1/networks/remove";
    /// POST [`Membership`](super::Membership) → `{}`; attaching what is attached is fine.
    pub const NETWORK_ATTACH: &str = "/v1/networks/attach";
    /// POST [`Membership`](super::Membership) → `{}`.
    pub const NETWORK_DETACH: &str = "/v1/networks/detach";

    /// GET → [`EdgeState`](super::EdgeState); PUT [`EdgeConfig`](super::EdgeConfig) → the same, once it is on disk and in force.
    pub const EDGE: &str = "/v1/edge";
    /// GET → [`EdgeMetrics`](super::EdgeMetrics) of the node's load balancer.
    pub const EDGE_METRICS: &str = "/v1/edge/metrics";
    /// GET, query [`EdgeEventsQuery`](super::EdgeEventsQuery) → [`Events`](nm_types::proxy::Events); waits up to 25 s for one.
    pub const EDGE_EVENTS: &str = "/v1/edge/events";
    /// POST [`FailoverRequest`](nm_types::proxy::FailoverRequest) → `{}`.
    pub const EDGE_FAILOVER: &str = "/v1/edge/failover";

    /// POST [`RunJob`](super::RunJob) → lines of [`JobEvent`](nm_types::backup::job::JobEvent).
    pub const BACKUP_RUN: &str = "/v1/backups/run";
    /// POST [`CancelJob`](super::CancelJob) → `{}`.
    pub const BACKUP_CANCEL: &str = "/v1/backups/cancel";
    /// POST, query [`ReachQuery`](super::ReachQuery) → the bytes of one connection of a job to its repository on another node, both
    /// ways at once; 204 where none came within 20 s.
    pub const BACKUP_REACH: &str = "/v1/backups/reach";
    /// POST, query [`ServeQuery`](super::ServeQuery), body and answer are the bytes of one HTTP/1.1 connection of restic's REST
    /// protocol, both ways at once.
    pub const BACKUP_SERVE: &str = "/v1/backups/serve";

    /// POST [`TasksCall`](super::TasksCall) → [`TasksAnswer`](super::TasksAnswer), at once.
    pub const TASKS: &str = "/v1/tasks";
    /// GET, query [`TaskNewsQuery`](super::TaskNewsQuery) → [`TaskNewsPage`](super::TaskNewsPage); waits for some.
    pub const TASK_NEWS: &str = "/v1/tasks/news";
    /// GET, query [`TaskLogQuery`](super::TaskLogQuery) → lines of [`LogLine`](nm_types::container::LogLine); none where nothing is kept.
    pub const TASK_LOGS: &str = "/v1/tasks/logs";

    /// `route` with its `{key}` filled in.
    pub fn keyed(route: &str, key: &super::ContainerKey) -> String {
        route.replace("{key}", key.as_str())
    }
}

/// How a container is named to an agent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ContainerKey {
    Ours(ContainerId),
    /// Docker's 64 hex digits.
    Docker(Box<str>),
}

impl ContainerKey {
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(id) = ContainerId::parse(text) {
            return Some(Self::Ours(id));
        }
        (text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())).then(|| Self::Docker(text.into()))
    }
    pub fn as_str(&self) -> &str {
        match self {
            Self::Ours(id) => id.as_str(),
            Self::Docker(id) => id,
        }
    }
}

/// Makes a container, after its image was pulled where the node lacks it, and starts it when asked.
/// Done already by the same operation: answers with what is there.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreateContainer {
    pub operation: OperationId,
    pub id: ContainerId,
    pub generation: i64,
    /// With its environment in the clear; `node_id` and `start` inside are not used.
    pub spec: ContainerSpec,
    pub start: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<RegistryLogin>,
}

/// A registry's login, on its way to the node that pulls. Debug hides the password.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RegistryLogin {
    pub host: String,
    pub username: String,
    pub password: String,
}

impl std::fmt::Debug for RegistryLogin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryLogin")
            .field("host", &self.host)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// A change to one container.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Command {
    /// The spec's generation this belongs to; older than what the agent holds: refused as stale.
    pub generation: i64,
    pub action: Action,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "do")]
pub enum Action {
    /// Starting what runs is fine.
    Start,
    /// Stopping what does not run is fine. `grace` in seconds; the container's own where absent.
    Stop {
        grace: Option<i64>,
    },
    Restart {
        grace: Option<i64>,
    },
    Pause,
    /// Unpausing what runs is fine.
    Unpause,
    Kill {
        signal: Signal,
    },
    Rename {
        name: ContainerName,
    },
    /// Changes limits and restart policy live; only what is there changes.
    Update(nm_types::container::ContainerUpdate),
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RemoveContainer {
    /// Also when it runs.
    #[serde(default)]
    pub force: bool,
    /// With its anonymous volumes.
    #[serde(default)]
    pub volumes: bool,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogQuery {
    /// The last so many lines; all where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<u32>,
    /// Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<i64>,
    /// Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<i64>,
    #[serde(default)]
    pub stdout: bool,
    #[serde(default)]
    pub stderr: bool,
    #[serde(default)]
    pub follow: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatsQuery {
    /// The newest so many.
    pub limit: u32,
    #[serde(default)]
    pub resolution: nm_types::stats::Resolution,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exec {
    pub command: ExecCommand,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TerminalQuery {
    /// JSON array of the program and its arguments.
    pub command: String,
    pub rows: u16,
    pub cols: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Without a terminal bytes pass as they are, and standard error comes apart.
    #[serde(default = "with_terminal")]
    pub tty: bool,
}

fn with_terminal() -> bool {
    true
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pull {
    pub image: ImageRef,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<RegistryLogin>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RemoveImage {
    /// A name, or an id `sha256:…`.
    pub image: String,
    #[serde(default)]
    pub force: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreateVolume {
    pub name: VolumeName,
    pub labels: Labels,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreateNetwork {
    pub name: NetworkName,
    pub internal: bool,
    pub labels: Labels,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Name {
    pub name: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Membership {
    pub network: String,
    /// A [`ContainerKey`] as text.
    pub container: String,
}

/// One line of a long answer. The last line is `Done` or `Failed`; a stream that ends without either was cut.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "type")]
pub enum Progress<T> {
    /// A step began: `pull`, `create`, `start`.
    Step {
        name: String,
    },
    /// A layer of a pull moved on.
    Layer(LayerProgress),
    /// A line for the operation's log.
    Log {
        line: String,
    },
    Done {
        result: T,
    },
    Failed {
        error: AgentError,
    },
}

/// One line of the watch stream.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "type")]
pub enum WatchEvent {
    /// Everything, at the beginning and after Docker came back: what is not in it is gone.
    Snapshot {
        info: NodeInfo,
        containers: Vec<ObservedContainer>,
    },
    /// A container was made or changed.
    Container { observed: Box<ObservedContainer> },
    /// A container is gone from Docker.
    Removed { docker_id: String },
    /// What running containers use, by Docker id, every two seconds; those that did not change are left out.
    Usage { samples: Vec<(String, Usage)> },
    /// A process of the container was killed for want of memory.
    Oom { docker_id: String, time: Timestamp },
    /// Docker went away or came back.
    Docker { docker: DockerInfo },
    /// What the machine uses, every two seconds.
    Host { stats: Box<NodeStats> },
    /// How far the journal reaches; said at the beginning and whenever it grows.
    Journal(JournalEnd),
    /// Nothing to say, still here; at least every two seconds.
    Heartbeat,
}
