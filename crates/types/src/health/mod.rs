//! Health: what is checked, against which limits, and what came of it.

mod limits;

pub use limits::{Millis, MillisLimit, Percent, PercentLimit, ThresholdChange, Thresholds};

use crate::envelope::FieldProblem;
use crate::server::ServerKind;
use crate::text::{ProbeName, ProbePath, UnitName, Word};
use crate::units::{Bounded, Port};
use crate::{NodeId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `healthy`: no check failed. `unhealthy`: three or more failed, or the server can't be reached. `unknown`: one or two
/// failed (`degraded` is true then), or it was never checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    Healthy,
    Unhealthy,
    Unknown,
}

impl HealthStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Unknown => "unknown",
        }
    }
}

/// The five checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Check {
    Cpu,
    Memory,
    Disk,
    Network,
    Services,
}

impl Check {
    pub const ALL: [Self; 5] = [Self::Cpu, Self::Memory, Self::Disk, Self::Network, Self::Services];
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Network => "network",
            Self::Services => "services",
        }
    }
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.as_str() == text)
    }
}

/// Whether each check was passed. Before the first check all are `false`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Checks {
    pub cpu: bool,
    pub memory: bool,
    pub disk: bool,
    pub network: bool,
    pub services: bool,
}

impl Checks {
    pub fn get(&self, check: Check) -> bool {
        match check {
            Check::Cpu => self.cpu,
            Check::Memory => self.memory,
            Check::Disk => self.disk,
            Check::Network => self.network,
            Check::Services => self.services,
        }
    }
    /// All that `passed` says.
    pub fn of(passed: impl Fn(Check) -> bool) -> Self {
        Self {
            cpu: passed(Check::Cpu),
            memory: passed(Check::Memory),
            disk: passed(Check::Disk),
            network: passed(Check::Network),
            services: passed(Check::Services),
        }
    }
    pub fn failed(&self) -> Vec<Check> {
        Check::ALL.into_iter().filter(|c| !self.get(*c)).collect()
    }
}

/// What one check saw, beside what it may be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckDetail {
    pub check: Check,
    pub ok: bool,
    /// `97.3 %`, `45.2 ms`, `not measured`.
    pub measured: String,
    /// What it may be: `under 95 %`; while the check fails, what it must be to pass again.
    pub limit: String,
    pub message: String,
}

/// Percent of the checked time in which the server was reachable with fewer than three failed checks. `null` where it was not
/// checked at all in that time. Time in which nobody checked is left out.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, ToSchema)]
pub struct Availability {
    #[serde(rename = "24h")]
    pub day: Option<f64>,
    #[serde(rename = "7d")]
    pub week: Option<f64>,
    #[serde(rename = "30d")]
    pub month: Option<f64>,
}

/// A server's health as the API shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthView {
    pub server_id: String,
    pub server_name: String,
    pub kind: ServerKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<NodeId>,
    pub status: HealthStatus,
    /// One or two checks failed.
    pub degraded: bool,
    /// `null` where it was never checked.
    pub last_check: Option<Timestamp>,
    pub checks: Checks,
    pub details: Vec<CheckDetail>,
    /// Seconds: since a node's machine or a container started; of an address, since it can be reached without a break. 0 while
    /// it can't be reached.
    pub uptime: u64,
    /// Milliseconds the server took to answer the last check; `null` where nothing was asked of it, or nothing answered.
    pub response_time: Option<f64>,
    /// When the status began.
    pub since: Option<Timestamp>,
    pub availability: Availability,
    /// Whether it is checked continuously: a container that is not meant to run and a server whose checks are switched off
    /// are not.
    pub checked: bool,
}

/// A time in which a server's status was the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthInterval {
    pub from: Timestamp,
    /// `null` while it lasts.
    pub to: Option<Timestamp>,
    pub status: HealthStatus,
    pub degraded: bool,
    /// The checks that failed when it began.
    pub failed: Vec<Check>,
}

/// Seconds between two checks of a server.
pub type Interval = Bounded<10, 300>;

/// What holds for every server that says nothing else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthSettings {
    pub interval: Interval,
    pub thresholds: Thresholds,
}

impl Default for HealthSettings {
    fn default() -> Self {
        Self {
            interval: Bounded::clamped(30),
            thresholds: Thresholds::default(),
        }
    }
}

/// `PATCH /api/capabilities/health/settings`: only what is sent changes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthSettingsUpdate {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
    #[serde(default)]
    pub thresholds: ThresholdChange,
}

/// What is asked of a node or container beyond the checks everybody gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProbeKind {
    /// A GET of the node's 127.0.0.1, or of the container's own address; redirects are not followed.
    Http,
    /// A connection to the same.
    Tcp,
    /// A program inside a container; it passes when it ends with 0.
    Command,
    /// A unit of the node's systemd; it passes when the unit is active.
    Systemd,
}

/// A probe that the agent runs beside the checks everybody gets; it counts for `services`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    pub name: ProbeName,
    #[serde(rename = "type")]
    pub kind: ProbeKind,
    /// Of `http` and `tcp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Port>,
    /// Of `http`; `/` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<ProbePath>,
    /// Of `http`; any status from 200 to 399 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect_status: Option<Bounded<100, 599>>,
    /// Of `command`: id or name of the container it runs in, which must be on the node. A container's own probes leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 100)]
    pub container: Option<String>,
    /// Of `command`: the program and its arguments; no shell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 100)]
    pub command: Vec<Word>,
    /// Of `systemd`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<UnitName>,
    /// Seconds until it is given up and has failed; 5 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Bounded<1, 10>>,
}

impl Probe {
    /// Fields that its type wants and lacks, or has nothing to do with; `base` is where it stands, `probes[0]`.
    pub fn problems(&self, base: &str) -> Vec<FieldProblem> {
        use ProbeKind::{Command, Http, Systemd, Tcp};
        let mut out = Vec::new();
        let mut field = |name: &str, there: bool, wanted: bool, allowed: bool, what: &str| {
            let message = match (there, wanted, allowed) {
                (false, true, _) => format!("this type of probe needs {what}"),
                (true, _, false) => "does not belong to this type of probe".to_owned(),
                _ => return,
            };
            out.push(FieldProblem {
                field: format!("{base}.{name}"),
                message,
            });
        };
        let kind = self.kind;
        let (http, tcp, command, systemd) = (kind == Http, kind == Tcp, kind == Command, kind == Systemd);
        field("port", self.port.is_some(), http || tcp, http || tcp, "the port it asks");
        field("path", self.path.is_some(), false, http, "");
        field("expectStatus", self.expect_status.is_some(), false, http, "");
        field("container", self.container.is_some(), false, command, "");
        field("command", !self.command.is_empty(), command, command, "the program to run");
        field("unit", self.unit.is_some(), systemd, systemd, "the unit to look at");
        if self.command.len() > 100 {
            out.push(FieldProblem {
                field: format!("{base}.command"),
                message: "has at most 100 words".into(),
            });
        }
        out
    }
}

/// The most probes one server may have.
pub const PROBES_AT_MOST: usize = 20;

/// How one server is checked, where it differs from the settings: `PUT /api/capabilities/health/{serverId}/config`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthConfig {
    /// That of the settings where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
    /// Those of the settings where absent.
    #[serde(default)]
    pub thresholds: ThresholdChange,
    #[serde(default)]
    #[schema(max_items = 20)]
    pub probes: Vec<Probe>,
    /// `false`: it is checked only when somebody asks for it.
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub enabled: bool,
}

fn yes() -> bool {
    true
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            interval: None,
            thresholds: ThresholdChange::default(),
            probes: Vec::new(),
            enabled: true,
        }
    }
}

impl HealthConfig {
    /// What no server takes.
    pub fn problems(&self) -> Vec<FieldProblem> {
        let many = (self.probes.len() > PROBES_AT_MOST).then(|| FieldProblem {
            field: "probes".into(),
            message: "has at most 20 entries".into(),
        });
        let each = self.probes.iter().enumerate();
        let each = each.flat_map(|(i, probe)| probe.problems(&format!("probes[{i}]")));
        many.into_iter().chain(each).collect()
    }

    /// What does not go with another field, or with a server of the kind `of`.
    pub fn clashes(&self, of: ServerKind) -> Vec<FieldProblem> {
        let mut out = self.thresholds.problems();
        let mut problem = |field: String, message: &str| {
            out.push(FieldProblem {
                field,
                message: message.into(),
            });
        };
        if !self.probes.is_empty() && !matches!(of, ServerKind::Node | ServerKind::Container) {
            problem(
                "probes".into(),
                "there is no agent to run them: an address has its probe in PATCH /api/servers/{id}",
            );
        }
        for (i, probe) in self.probes.iter().enumerate() {
            if self.probes[..i].iter().any(|p| p.name == probe.name) {
                problem(format!("probes[{i}].name"), "stands here twice");
            }
            match (probe.kind, of, &probe.container) {
                (ProbeKind::Command, ServerKind::Node, None) => {
                    problem(
                        format!("probes[{i}].container"),
                        "a node's command probe runs in one of its containers: name it",
                    );
                }
                (ProbeKind::Command, ServerKind::Container, Some(_)) => {
                    problem(
                        format!("probes[{i}].container"),
                        "a container's own probes run in itself: leave it out",
                    );
                }
                (ProbeKind::Systemd, ServerKind::Container, _) => {
                    problem(format!("probes[{i}].type"), "systemd runs on nodes, not in containers");
                }
                _ => {}
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(of: ServerKind, json: &str) -> Vec<String> {
        let config: HealthConfig = serde_json::from_str(json).unwrap();
        let clashes = config.clashes(of).into_iter();
        config.problems().into_iter().chain(clashes).map(|p| p.field).collect()
    }

    #[test]
    fn probes_have_what_their_type_wants_and_nothing_else() {
        for (of, json, want) in [
            (
                ServerKind::Node,
                r#"{"probes":[{"name":"web","type":"http","port":80,"path":"/up","expectStatus":204}]}"#,
                vec![],
            ),
            (
                ServerKind::Node,
                r#"{"probes":[{"name":"web","type":"http"}]}"#,
                vec!["probes[0].port"],
            ),
            (
                ServerKind::Node,
                r#"{"probes":[{"name":"db","type":"tcp","port":1,"path":"/","expectStatus":200,"unit":"a","command":["x"],"container":"c"}]}"#,
                vec![
                    "probes[0].path",
                    "probes[0].expectStatus",
                    "probes[0].container",
                    "probes[0].command",
                    "probes[0].unit",
                ],
            ),
            (
                ServerKind::Node,
                r#"{"probes":[{"name":"c","type":"command","command":["true"]}]}"#,
                vec!["probes[0].container"],
            ),
            (
                ServerKind::Node,
                r#"{"probes":[{"name":"c","type":"command","container":"web"}]}"#,
                vec!["probes[0].command"],
            ),
            (
                ServerKind::Container,
                r#"{"probes":[{"name":"c","type":"command","command":["true"]}]}"#,
                vec![],
            ),
            (
                ServerKind::Container,
                r#"{"probes":[{"name":"c","type":"command","command":["true"],"container":"other"}]}"#,
                vec!["probes[0].container"],
            ),
            (
                ServerKind::Container,
                r#"{"probes":[{"name":"u","type":"systemd","unit":"ssh"}]}"#,
                vec!["probes[0].type"],
            ),
            (
                ServerKind::Node,
                r#"{"probes":[{"name":"u","type":"systemd"}]}"#,
                vec!["probes[0].unit"],
            ),
            (
                ServerKind::Address,
                r#"{"probes":[{"name":"t","type":"tcp","port":1}]}"#,
                vec!["probes"],
            ),
            (
                ServerKind::Node,
                r#"{"probes":[{"name":"t","type":"tcp","port":1},{"name":"t","type":"tcp","port":2}]}"#,
                vec!["probes[1].name"],
            ),
        ] {
            assert_eq!(fields(of, json), want, "{json}");
        }
    }

    #[test]
    fn limits_leave_room_to_recover() {
        for (json, want) in [
            (r#"{"thresholds":{"cpu":{"fail":90,"recover":80}}}"#, vec![]),
            (r#"{"thresholds":{"cpu":{"fail":80,"recover":90}}}"#, vec!["thresholds.cpu.recover"]),
            (
                r#"{"thresholds":{"memory":{"fail":10,"recover":5}}}"#,
                vec!["thresholds.memory.recover"],
            ),
            (
                r#"{"thresholds":{"roundTrip":{"fail":100,"recover":101}}}"#,
                vec!["thresholds.roundTrip.recover"],
            ),
        ] {
            assert_eq!(fields(ServerKind::Node, json), want, "{json}");
        }
    }

    #[test]
    fn bad_fields_are_refused() {
        for json in [
            r#"{"interval":9}"#,
            r#"{"interval":301}"#,
            r#"{"thresholds":{"cpu":{"fail":101,"recover":80}}}"#,
            r#"{"thresholds":{"cpu":{"fail":90}}}"#,
            r#"{"thresholds":{"roundTrip":{"fail":0,"recover":0}}}"#,
            r#"{"thresholds":{"gpu":{"fail":90,"recover":80}}}"#,
            r#"{"probes":[{"name":"a;b","type":"tcp","port":1}]}"#,
            r#"{"probes":[{"name":"a","type":"icmp"}]}"#,
            r#"{"probes":[{"name":"a","type":"http","port":1,"path":"x"}]}"#,
            r#"{"probes":[{"name":"a","type":"http","port":1,"path":"/a b"}]}"#,
            r#"{"probes":[{"name":"a","type":"http","port":1,"path":"/a\r\nHost: x"}]}"#,
            r#"{"probes":[{"name":"a","type":"systemd","unit":"-H"}]}"#,
            r#"{"probes":[{"name":"a","type":"systemd","unit":"a;reboot"}]}"#,
            r#"{"probes":[{"name":"a","type":"tcp","port":1,"timeout":11}]}"#,
            r#"{"enabled":"yes"}"#,
            r#"{"nope":1}"#,
        ] {
            assert!(serde_json::from_str::<HealthConfig>(json).is_err(), "{json}");
        }
        assert_eq!(serde_json::from_str::<HealthConfig>("{}").unwrap(), HealthConfig::default());
    }
}
