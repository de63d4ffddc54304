//! Containers: what users ask for and what was seen.

mod seen;

pub use seen::{Attachment, ContainerHealth, ContainerStatus, ContainerView, ForeignSpec, Limits, MountView, ObservedContainer, Resources};

use crate::Timestamp;
use crate::placement::OnNodeLost;
use crate::text::{
    Capability, Constraint, ContainerName, ContainerPath, DeviceAccess, DevicePath, Environment, HostName, ImageRef, LabelKey, Labels,
    NetworkName, RunAs, VolumeName, Word,
};
use crate::units::{Bounded, CpuLimit, MemoryLimit, Port};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
}

/// A port of the container, reachable on the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortMapping {
    pub container: Port,
    /// The node's port. 0 or absent: chosen by the node, and reported once the container runs.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 65535)]
    pub host: u16,
    #[serde(default)]
    pub protocol: Protocol,
    /// The IPv4 address of the node to listen on; all of them by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, pattern = "^(?:(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(?:\\.(?!$)|$)){4}$")]
    pub host_ip: Option<std::net::Ipv4Addr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum VolumeMode {
    Ro,
    #[default]
    Rw,
}

/// Storage mounted into the container. `host` is a named volume, or an absolute path of the node (made when absent).
/// Without `host` Docker makes an anonymous volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VolumeMount {
    pub container: ContainerPath,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<MountSource>,
    #[serde(default)]
    pub mode: VolumeMode,
}

/// A device of the node, given to the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeviceMapping {
    pub host: DevicePath,
    /// Where the container finds it; the same path by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<DevicePath>,
    /// `rwm` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<DeviceAccess>,
}

/// Where a mount comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum MountSource {
    Volume(VolumeName),
    /// An absolute path of the node, without `.` or `..` parts.
    Path(Box<str>),
}

impl TryFrom<String> for MountSource {
    type Error = crate::text::BadText;
    fn try_from(s: String) -> Result<Self, Self::Error> {
        let bad = || {
            crate::text::BadText(
                "a volume's `host` is a volume name, or an absolute path without `:`, `.` and `..` parts or control characters".into(),
            )
        };
        if !s.starts_with('/') {
            return VolumeName::parse(&s).map(Self::Volume).map_err(|_| bad());
        }
        let clean = s.chars().count() <= 512
            && !s.contains(':')
            && !s.chars().any(char::is_control)
            && s.split('/').all(|part| part != "." && part != "..");
        if clean { Ok(Self::Path(s.into())) } else { Err(bad()) }
    }
}
impl From<MountSource> for String {
    fn from(m: MountSource) -> String {
        match m {
            MountSource::Volume(v) => v.into(),
            MountSource::Path(p) => p.into(),
        }
    }
}
impl std::fmt::Display for MountSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Volume(v) => v.fmt(f),
            Self::Path(p) => f.write_str(p),
        }
    }
}
impl utoipa::PartialSchema for MountSource {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        crate::text::string_schema(
            "^(?:[a-zA-Z0-9][a-zA-Z0-9_.-]{1,99}|/(?:(?!\\.{1,2}(?:/|$))[^\\x00-\\x1f\\x7f-\\x9f:/]*(?:/|$))*)$",
            None,
            Some(512),
            "A named volume, or an absolute path of the node.",
        )
    }
}
impl ToSchema for MountSource {}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    #[default]
    No,
    Always,
    OnFailure,
    UnlessStopped,
}

/// A command Docker runs inside the container to see whether it is well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthCheck {
    /// The program and its arguments; no shell.
    #[schema(min_items = 1, max_items = 100)]
    pub command: Vec<Word>,
    /// Seconds between checks; 30 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Bounded<1, 86_400>>,
    /// Seconds one check may take; 30 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Bounded<1, 3_600>>,
    /// Failures in a row until unhealthy; 3 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<Bounded<1, 100>>,
    /// Seconds after the start in which failures do not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_period: Option<Bounded<0, 86_400>>,
}

/// What a user wants of a container: the body of `POST /api/containers`, and what is kept of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ContainerSpec {
    pub name: ContainerName,
    pub image: ImageRef,
    /// Arguments, or the program where the image has no entrypoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 100)]
    pub command: Vec<Word>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 100)]
    pub entrypoint: Vec<Word>,
    #[serde(default)]
    pub environment: Environment,
    #[serde(default)]
    #[schema(max_items = 200)]
    pub ports: Vec<PortMapping>,
    #[serde(default)]
    #[schema(max_items = 100)]
    pub volumes: Vec<VolumeMount>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_limit: Option<CpuLimit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<MemoryLimit>,
    #[serde(default)]
    pub restart: RestartPolicy,
    #[serde(default)]
    pub labels: Labels,
    /// Networks to join, in this order; Docker's default bridge where none is named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 20)]
    pub networks: Vec<NetworkName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<RunAs>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<ContainerPath>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<HostName>,
    /// Capabilities taken away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 50)]
    pub cap_drop: Vec<Capability>,
    /// Capabilities beyond Docker's usual ones. Admins only, where the node's own configuration allows them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 50)]
    pub cap_add: Vec<Capability>,
    /// Devices of the node. Admins only, where the node's own configuration allows them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 50)]
    pub devices: Vec<DeviceMapping>,
    /// The node's network in place of one of its own. Admins only, where the node's own configuration allows it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub host_network: bool,
    /// All capabilities, all devices, no confinement: as good as root on the node. Admins only, where the node's own configuration
    /// allows it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub privileged: bool,
    /// The container's own file system can't be written.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// Seconds between the stop signal and the kill; 10 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_grace: Option<Bounded<0, 3_600>>,
    /// The main process gets a terminal.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tty: bool,
    /// What its node must be: `zone=eu-1`, `disk!=hdd`, `gpu` (it has that label). Beside labels there are `node.id`,
    /// `node.name`, `node.arch` and `node.os`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 20)]
    pub constraints: Vec<Constraint>,
    /// A label of nodes: containers of one kind are spread evenly over its values. Of one kind are those with the same label
    /// `app`, and without it those whose names are the same up to the last `-`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<LabelKey>,
    /// What becomes of it when its node is lost: it waits for the node, or moves to another one. It can't move with a writable
    /// volume or folder of the node.
    #[serde(default, skip_serializing_if = "OnNodeLost::is_wait")]
    pub on_node_lost: OnNodeLost,
    /// Id or name of the node. Left out, the node is chosen: by its readiness, `constraints`, free CPU and memory, and free ports,
    /// and among those that are left by `spread` and by how little they have to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
    /// Start it at once. By default it is only created.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub start: bool,
}

impl ContainerSpec {
    /// Takes out what is not kept: the node asked for, and whether to start.
    pub fn into_parts(mut self) -> (ContainerSpec, Option<String>, bool) {
        let node = self.node_id.take();
        let start = std::mem::take(&mut self.start);
        (self, node, start)
    }

    /// The fields that ask for more of the node than a container usually gets.
    pub fn privileges(&self) -> Vec<&'static str> {
        [
            ("privileged", self.privileged),
            ("capAdd", !self.cap_add.is_empty()),
            ("devices", !self.devices.is_empty()),
            ("hostNetwork", self.host_network),
        ]
        .into_iter()
        .filter_map(|(field, asked)| asked.then_some(field))
        .collect()
    }

    /// Lists that are too long; the schema says how long they may be.
    pub fn overlong(&self) -> Vec<crate::envelope::FieldProblem> {
        let check = self.health_check.as_ref().map_or(1, |c| c.command.len());
        [
            ("command", self.command.len(), 0, 100),
            ("entrypoint", self.entrypoint.len(), 0, 100),
            ("ports", self.ports.len(), 0, 200),
            ("volumes", self.volumes.len(), 0, 100),
            ("networks", self.networks.len(), 0, 20),
            ("capDrop", self.cap_drop.len(), 0, 50),
            ("constraints", self.constraints.len(), 0, 20),
            ("capAdd", self.cap_add.len(), 0, 50),
            ("devices", self.devices.len(), 0, 50),
            ("healthCheck.command", check, 1, 100),
        ]
        .into_iter()
        .filter(|(_, len, min, max)| len < min || len > max)
        .map(|(field, _, min, max)| crate::envelope::FieldProblem {
            field: field.into(),
            message: format!("has {min} to {max} entries"),
        })
        .collect()
    }

    /// Rules that no single field can hold and no schema can say: each problem names its field.
    pub fn problems(&self) -> Vec<crate::envelope::FieldProblem> {
        let mut out = Vec::new();
        let mut problem = |field: String, message: String| out.push(crate::envelope::FieldProblem { field, message });
        for (i, port) in self.ports.iter().enumerate() {
            let clash = self.ports[..i].iter().any(|p| {
                p.protocol == port.protocol
                    && port.host != 0
                    && p.host == port.host
                    && (p.host_ip == port.host_ip || p.host_ip.is_none() || port.host_ip.is_none())
            });
            if clash {
                problem(format!("ports[{i}].host"), format!("port {} is mapped twice", port.host));
            }
        }
        for (i, volume) in self.volumes.iter().enumerate() {
            if self.volumes[..i].iter().any(|v| v.container == volume.container) {
                problem(
                    format!("volumes[{i}].container"),
                    format!("`{}` is mounted twice", volume.container),
                );
            }
        }
        for (i, device) in self.devices.iter().enumerate() {
            let inside = |d: &DeviceMapping| d.container.clone().unwrap_or_else(|| d.host.clone());
            if self.devices[..i].iter().any(|d| inside(d) == inside(device)) {
                problem(format!("devices[{i}]"), format!("`{}` is given twice", inside(device)));
            }
        }
        for (field, given) in [
            ("ports", !self.ports.is_empty()),
            ("networks", !self.networks.is_empty()),
            ("hostname", self.hostname.is_some()),
        ] {
            if self.host_network && given {
                problem(
                    field.into(),
                    "with hostNetwork the container has no network of its own: leave this out".into(),
                );
            }
        }
        for (i, network) in self.networks.iter().enumerate() {
            if self.networks[..i].contains(network) {
                problem(format!("networks[{i}]"), format!("`{network}` is named twice"));
            }
            if matches!(network.as_str(), "host" | "none") {
                problem(format!("networks[{i}]"), format!("the `{network}` network is not allowed"));
            }
        }
        if self.on_node_lost == OnNodeLost::Reschedule
            && let Some(mount) = self.writes_to_node()
        {
            problem(
                "onNodeLost".into(),
                format!(
                    "it can't move to another node while `{}` is a writable volume or folder of its node: its data stays there. \
                     Mount it with mode `ro`, or leave onNodeLost at `wait`",
                    mount.container
                ),
            );
        }
        out
    }
}

/// `POST …/stop` and `…/restart` may name the grace; the body may be left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StopContainer {
    /// Seconds between the stop signal and the kill; the container's own by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<Bounded<0, 3_600>>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KillContainer {
    /// `SIGKILL` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<Signal>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum Signal {
    #[serde(rename = "SIGKILL")]
    Kill,
    #[serde(rename = "SIGTERM")]
    Term,
    #[serde(rename = "SIGINT")]
    Int,
    #[serde(rename = "SIGHUP")]
    Hup,
    #[serde(rename = "SIGQUIT")]
    Quit,
    #[serde(rename = "SIGUSR1")]
    Usr1,
    #[serde(rename = "SIGUSR2")]
    Usr2,
    #[serde(rename = "SIGWINCH")]
    Winch,
}

impl Signal {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kill => "SIGKILL",
            Self::Term => "SIGTERM",
            Self::Int => "SIGINT",
            Self::Hup => "SIGHUP",
            Self::Quit => "SIGQUIT",
            Self::Usr1 => "SIGUSR1",
            Self::Usr2 => "SIGUSR2",
            Self::Winch => "SIGWINCH",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RenameContainer {
    pub name: ContainerName,
}

/// `PATCH /api/containers/:id`: limits and restart policy change live; only what is sent changes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ContainerUpdate {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_limit: Option<CpuLimit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<MemoryLimit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<RestartPolicy>,
}

/// `POST …/exec`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExecCommand {
    /// The program and its arguments; no shell unless the program is one.
    #[schema(min_items = 1, max_items = 100)]
    pub command: Vec<Word>,
    #[serde(default)]
    pub environment: Environment,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<RunAs>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<ContainerPath>,
    /// Seconds until it is given up, 30 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Bounded<1, 3_600>>,
}

/// What a command gave. Each stream is kept up to 1 MiB; `truncated` says when there was more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExecResult {
    /// `null` when it was given up.
    pub exit_code: Option<i64>,
    /// Both streams in the order they came.
    pub output: String,
    pub stdout: String,
    pub stderr: String,
    pub timed_out: bool,
    pub truncated: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogStream {
    Stdout,
    Stderr,
}

/// One line of a log, without its line end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LogLine {
    pub stream: LogStream,
    pub time: Timestamp,
    pub line: String,
}

#[cfg(test)]
mod tests;
