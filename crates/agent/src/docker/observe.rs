//! Docker's inspect document, read as what we say of a container. Pure.

use super::grace;
use super::wire::{Endpoint, Inspect, PortBinding};
use crate::privileges::Asked;
use nm_link::contract::labels;
use nm_types::container::{
    Attachment, ContainerHealth, ContainerStatus, ForeignSpec, Limits, MountView, ObservedContainer, PortMapping, Protocol, RestartPolicy,
    VolumeMode,
};
use nm_types::text::ContainerName;
use nm_types::units::{MemoryLimit, Port};
use nm_types::{ContainerId, Timestamp};
use std::collections::BTreeMap;

/// Exits sooner than this after the start are failures to start, and get the last log lines.
pub const AT_ONCE_MS: i64 = 10_000;
/// How many log lines a message carries.
pub const TAIL_LINES: usize = 5;

/// What the document does not say.
#[derive(Debug, Default, Clone)]
pub struct Known<'a> {
    /// Somebody asked for its end since it was started; `None` where nobody watched.
    pub asked: Option<bool>,
    /// A process of it was killed for want of memory since it was started.
    pub oom: bool,
    /// The name users gave it last, where it is ours.
    pub given: Option<&'a ContainerName>,
    /// Its last log lines, where they were fetched.
    pub tail: &'a [String],
}

/// What the agent itself needs to know of a container, beside what it reports.
#[derive(Debug, Clone, PartialEq)]
pub struct Detail {
    /// 0 while it does not run.
    pub pid: i32,
    pub tty: bool,
    pub image_id: String,
    /// Paths of the node that are mounted into it.
    pub binds: Vec<String>,
    /// Named and anonymous volumes.
    pub volumes: Vec<String>,
    /// The signal its own `docker stop` sends.
    pub stop_signal: String,
    /// Seconds.
    pub stop_timeout: i64,
    /// It has no network of its own.
    pub host_network: bool,
    /// What more it has of the node.
    pub privileges: Asked,
    /// Host ports it holds while it runs.
    pub host_ports: Vec<(u16, Protocol)>,
    /// It ended by itself, badly, and soon after its start: its last log lines are worth having.
    pub failed_at_once: bool,
}

pub fn observe(doc: Inspect, known: &Known<'_>) -> (ObservedContainer, Detail) {
    let state = &doc.state;
    let started = time(&state.started_at);
    let finished = time(&state.finished_at);
    let policy = restart_policy(&doc.host_config.restart_policy.name);
    let running = matches!(state.status.as_str(), "running" | "paused");
    let oom = state.oom_killed || known.oom;
    let asked = known.asked.unwrap_or_else(|| looks_asked(state.exit_code, oom));
    let status = match state.status.as_str() {
        "running" => ContainerStatus::Running,
        "paused" => ContainerStatus::Paused,
        "created" => ContainerStatus::Created,
        "restarting" => ContainerStatus::Exited,
        _ if started.is_none() && finished.is_none() => ContainerStatus::Created,
        _ if asked => ContainerStatus::Stopped,
        _ => ContainerStatus::Exited,
    };
    let ended = matches!(status, ContainerStatus::Stopped | ContainerStatus::Exited);
    let lasted = match (started, finished) {
        // Docker notes the start a moment late: a very short run ends before it.
        (Some(s), Some(f)) if ended || f >= s => Some(f.since(s).max(0)),
        _ => None,
    };
    let failed_at_once = status == ContainerStatus::Exited && state.exit_code != 0 && lasted.is_some_and(|ms| ms < AT_ONCE_MS);
    let facts = Facts {
        status,
        docker_status: &state.status,
        exit_code: state.exit_code,
        error: &state.error,
        oom,
        memory: doc.host_config.memory,
        lasted,
        restarts: doc.restart_count,
        policy,
        tail: known.tail,
        failed_at_once,
    };
    let message = facts.message();

    let raw_name = doc.name.trim_start_matches('/');
    let id = doc.config.labels.get(labels::ID).and_then(|id| ContainerId::parse(id).ok());
    let name = id
        .as_ref()
        .and_then(|_| shown_name(raw_name, known.given, doc.config.labels.get(labels::NAME)))
        .unwrap_or_else(|| raw_name.to_owned());
    let bound = bindings(&doc.network_settings.ports);
    let ports = if running && !bound.is_empty() {
        bound
    } else {
        wanted(&doc.host_config.port_bindings)
    };
    let host_ports = if running {
        ports.iter().filter(|p| p.host != 0).map(|p| (p.host, p.protocol)).collect()
    } else {
        Vec::new()
    };
    let networks = attachments(doc.network_settings.networks);
    let limits = Limits {
        cpu: (doc.host_config.nano_cpus > 0).then(|| doc.host_config.nano_cpus as f64 / 1e9),
        memory: (doc.host_config.memory > 0).then_some(doc.host_config.memory),
        restart: policy,
    };
    let foreign = id.is_none().then(|| ForeignSpec {
        environment: doc
            .config
            .env
            .iter()
            .map(|e| e.split_once('=').unwrap_or((e, "")))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect(),
        labels: doc.config.labels.clone().into_iter().collect(),
        volumes: doc
            .mounts
            .iter()
            .map(|m| MountView {
                container: m.destination.clone(),
                host: m.name.clone().unwrap_or_else(|| m.source.clone()),
                mode: if m.rw { VolumeMode::Rw } else { VolumeMode::Ro },
            })
            .collect(),
        restart: policy,
        cpu_limit: limits.cpu,
        memory_limit: limits.memory.map(|m| MemoryLimit::from_bytes(m).to_string()),
    });
    let detail = Detail {
        pid: if running { state.pid } else { 0 },
        tty: doc.config.tty,
        image_id: doc.image,
        binds: doc.mounts.iter().filter(|m| m.kind == "bind").map(|m| m.source.clone()).collect(),
        volumes: doc
            .mounts
            .iter()
            .filter(|m| m.kind == "volume")
            .filter_map(|m| m.name.clone())
            .collect(),
        stop_signal: doc.config.stop_signal.unwrap_or_else(|| "SIGTERM".to_owned()),
        stop_timeout: grace::asked(doc.config.stop_timeout, &doc.config.labels),
        host_network: doc.host_config.network_mode == "host",
        privileges: Asked {
            privileged: doc.host_config.privileged,
            host_network: doc.host_config.network_mode == "host",
            capabilities: doc.host_config.cap_add,
            devices: doc.host_config.devices.into_iter().map(|d| d.path_on_host).collect(),
        },
        host_ports,
        failed_at_once,
    };
    let health = match state.health.as_ref().map(|h| h.status.as_str()) {
        Some("starting") => Some(ContainerHealth::Starting),
        Some("healthy") => Some(ContainerHealth::Healthy),
        Some("unhealthy") => Some(ContainerHealth::Unhealthy),
        _ => None,
    };
    let observed = ObservedContainer {
        docker_id: doc.id,
        id,
        name,
        image: doc.config.image,
        status,
        exit_code: ended.then_some(state.exit_code),
        oom_killed: oom,
        message,
        health: health.filter(|_| running),
        created: time(&doc.created).unwrap_or_default(),
        started,
        finished: finished.filter(|_| !running),
        restarts: doc.restart_count,
        ports,
        networks,
        limits: foreign.is_none().then_some(limits),
        foreign,
    };
    (observed, detail)
}

/// Nobody watched it end: killed by a signal that `docker stop` and `docker kill` send, and not for memory, was asked for.
fn looks_asked(exit_code: i64, oom: bool) -> bool {
    !oom && matches!(exit_code, 130 | 137 | 143)
}

struct Facts<'a> {
    status: ContainerStatus,
    docker_status: &'a str,
    exit_code: i64,
    error: &'a str,
    oom: bool,
    memory: u64,
    /// Milliseconds of its last run.
    lasted: Option<i64>,
    restarts: u64,
    policy: RestartPolicy,
    tail: &'a [String],
    failed_at_once: bool,
}

impl Facts<'_> {
    fn message(&self) -> Option<String> {
        let mut text = match self.status {
            _ if self.docker_status == "restarting" => {
                format!(
                    "It ends again and again, and its restart policy ({}) starts it anew: {} so far, the last {}.",
                    policy_name(self.policy),
                    times(self.restarts, "restart"),
                    self.ending()
                )
            }
            ContainerStatus::Created if !self.error.is_empty() => {
                let error = super::explain::refused(500, self.error).message;
                format!("It could not be started. {error}")
            }
            ContainerStatus::Exited if !self.error.is_empty() && self.lasted.is_none() => {
                format!("It could not be started. {}", super::explain::refused(500, self.error).message)
            }
            ContainerStatus::Exited if self.exit_code != 0 || self.oom => {
                let mut ending = self.ending();
                if let Some(c) = ending.get_mut(..1) {
                    c.make_ascii_uppercase();
                }
                format!("{ending}.")
            }
            ContainerStatus::Running if self.oom => format!("A process in it was killed for want of memory{}.", self.memory_hint()),
            ContainerStatus::Created
            | ContainerStatus::Running
            | ContainerStatus::Paused
            | ContainerStatus::Stopped
            | ContainerStatus::Exited => {
                return None;
            }
        };
        let wants_tail = self.failed_at_once || self.docker_status == "restarting";
        if wants_tail && !self.tail.is_empty() {
            text.push_str(if self.tail.len() == 1 {
                " Its last log line: "
            } else {
                " Its last log lines:\n"
            });
            text.push_str(&self.tail.join("\n"));
        }
        Some(text)
    }

    /// `exited with code 1 after 0.3 s`, `was killed for want of memory (its limit is 64m) after 2 min`.
    fn ending(&self) -> String {
        let how = if self.oom {
            format!("was killed for want of memory{}", self.memory_hint())
        } else {
            format!("exited with code {}{}", self.exit_code, code_hint(self.exit_code))
        };
        match self.lasted {
            Some(ms) => format!("{how} after {}", duration(ms)),
            None => how,
        }
    }

    fn memory_hint(&self) -> String {
        if self.memory == 0 {
            String::new()
        } else {
            format!(" (its limit is {})", MemoryLimit::from_bytes(self.memory))
        }
    }
}

fn code_hint(code: i64) -> &'static str {
    match code {
        126 => " (its program may not be executed)",
        127 => " (its program was not found)",
        134 => " (it aborted)",
        137 => " (it was killed)",
        139 => " (it crashed: a segmentation fault)",
        _ => "",
    }
}

fn times(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

fn duration(ms: i64) -> String {
    match ms {
        ..10_000 => format!("{:.1} s", ms as f64 / 1000.0),
        10_000..120_000 => format!("{} s", ms / 1000),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        7_200_000.. => format!("{} h", ms / 3_600_000),
    }
}

fn policy_name(policy: RestartPolicy) -> &'static str {
    match policy {
        RestartPolicy::No => "no",
        RestartPolicy::Always => "always",
        RestartPolicy::OnFailure => "on-failure",
        RestartPolicy::UnlessStopped => "unless-stopped",
    }
}

/// Docker's name of a restart policy.
pub fn policy_text(policy: RestartPolicy) -> String {
    policy_name(policy).to_owned()
}

fn restart_policy(name: &str) -> RestartPolicy {
    match name {
        "always" => RestartPolicy::Always,
        "on-failure" => RestartPolicy::OnFailure,
        "unless-stopped" => RestartPolicy::UnlessStopped,
        _ => RestartPolicy::No,
    }
}

/// The name users gave, where Docker's is what we made of it: Docker wants two characters at least.
fn shown_name(docker: &str, given: Option<&ContainerName>, label: Option<&String>) -> Option<String> {
    let label = label.and_then(|l| ContainerName::parse(l).ok());
    [given, label.as_ref()]
        .into_iter()
        .flatten()
        .find(|name| name.docker_name() == docker)
        .map(ToString::to_string)
}

/// Docker's zero time is the year 1.
fn time(text: &str) -> Option<Timestamp> {
    Timestamp::parse(text).filter(|t| t.as_millis() > 0)
}

fn port_key(key: &str) -> Option<(Port, Protocol)> {
    let (port, protocol) = key.split_once('/').unwrap_or((key, "tcp"));
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return None,
    };
    Some((Port::new(port.parse().ok()?)?, protocol))
}

/// Ports as bound now. Docker lists a port on all addresses twice, for IPv4 and IPv6: once is enough.
fn bindings(ports: &BTreeMap<String, Option<Vec<PortBinding>>>) -> Vec<PortMapping> {
    let mut out: Vec<PortMapping> = Vec::new();
    for (key, bindings) in ports {
        let (Some((container, protocol)), Some(bindings)) = (port_key(key), bindings) else {
            continue;
        };
        for binding in bindings {
            let Ok(host) = binding.host_port.parse::<u16>() else { continue };
            let mapping = PortMapping {
                container,
                host,
                protocol,
                host_ip: binding.host_ip.parse().ok().filter(|ip: &std::net::Ipv4Addr| !ip.is_unspecified()),
            };
            if !out.contains(&mapping) {
                out.push(mapping);
            }
        }
    }
    out.sort_by_key(|p| (p.container, p.protocol == Protocol::Udp, p.host));
    out
}

/// Ports as asked for; one that was to be chosen is 0.
fn wanted(asked: &BTreeMap<String, Option<Vec<PortBinding>>>) -> Vec<PortMapping> {
    let filled = asked
        .iter()
        .map(|(key, bindings)| {
            let bindings = bindings.clone().unwrap_or_default().into_iter().map(|mut b| {
                if b.host_port.is_empty() {
                    b.host_port = "0".to_owned();
                }
                b
            });
            (key.clone(), Some(bindings.collect()))
        })
        .collect();
    bindings(&filled)
}

fn attachments(networks: BTreeMap<String, Endpoint>) -> Vec<Attachment> {
    networks
        .into_iter()
        .map(|(network, e)| Attachment {
            network,
            ip: Some(e.ip_address).filter(|ip| !ip.is_empty()),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn doc(state: serde_json::Value) -> Inspect {
        serde_json::from_value(json!({
            "Id": "a".repeat(64), "Name": "/nm_a", "Created": "2026-01-01T00:00:00.5Z", "Image": "sha256:1", "RestartCount": 3, "State": state,
            "Config": {"Labels": {"io.neuralmesh.id": "cont_1_abcdefghi", "io.neuralmesh.name": "a"}, "Image": "busybox:latest", "Env": null, "Tty": false},
            "HostConfig": {"PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": ""}], "53/udp": [{"HostIp": "127.0.0.1", "HostPort": "53"}]},
                "RestartPolicy": {"Name": "always"}, "NetworkMode": "default", "Memory": 67108864, "NanoCpus": 300_000_000},
            "Mounts": [{"Type": "bind", "Source": "/data/x", "Destination": "/x", "RW": false}, {"Type": "volume", "Name": "v", "Source": "/var/lib/docker/volumes/v/_data", "Destination": "/v", "RW": true}],
            "NetworkSettings": {"Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "32768"}, {"HostIp": "::", "HostPort": "32768"}], "81/tcp": null},
                "Networks": {"bridge": {"IPAddress": "172.17.0.2"}, "other": {"IPAddress": ""}}}
        }))
        .unwrap()
    }

    fn exited(code: i64, seconds: u32) -> serde_json::Value {
        json!({"Status": "exited", "ExitCode": code, "StartedAt": "2026-01-01T00:00:00Z", "FinishedAt": format!("2026-01-01T00:00:{seconds:02}.3Z")})
    }

    #[test]
    fn a_running_container() {
        let state = json!({"Status": "running", "Pid": 7, "StartedAt": "2026-01-01T00:00:01Z", "FinishedAt": "0001-01-01T00:00:00Z", "Health": {"Status": "healthy"}});
        let (seen, detail) = observe(doc(state), &Known::default());
        assert_eq!(
            (seen.name.as_str(), seen.status, seen.exit_code, seen.finished),
            ("a", ContainerStatus::Running, None, None)
        );
        assert_eq!(seen.health, Some(ContainerHealth::Healthy));
        assert_eq!(
            seen.ports.iter().map(|p| (p.container.get(), p.host)).collect::<Vec<_>>(),
            [(80, 32768)]
        );
        assert_eq!(
            seen.networks[0],
            Attachment {
                network: "bridge".into(),
                ip: Some("172.17.0.2".into())
            }
        );
        assert_eq!(seen.networks[1].ip, None);
        assert_eq!(
            (detail.pid, detail.binds, detail.volumes),
            (7, vec!["/data/x".to_owned()], vec!["v".to_owned()])
        );
        assert_eq!(seen.foreign, None);
        let limits = Limits {
            cpu: Some(0.3),
            memory: Some(64 << 20),
            restart: RestartPolicy::Always,
        };
        assert_eq!(seen.limits, Some(limits));
    }

    #[test]
    fn how_it_ended() {
        for (state, known, status, message) in [
            (
                exited(0, 5),
                Known {
                    asked: Some(false),
                    ..Default::default()
                },
                ContainerStatus::Exited,
                None,
            ),
            (
                exited(0, 5),
                Known {
                    asked: Some(true),
                    ..Default::default()
                },
                ContainerStatus::Stopped,
                None,
            ),
            (exited(143, 5), Known::default(), ContainerStatus::Stopped, None),
            (
                exited(1, 0),
                Known {
                    asked: Some(false),
                    ..Default::default()
                },
                ContainerStatus::Exited,
                Some("Exited with code 1 after 0.3 s."),
            ),
            (
                exited(137, 0),
                Known {
                    oom: true,
                    ..Default::default()
                },
                ContainerStatus::Exited,
                Some("Was killed for want of memory (its limit is 64m) after 0.3 s."),
            ),
            (
                json!({"Status": "created", "Error": "Bind for 0.0.0.0:1 failed: port is already allocated", "StartedAt": "0001-01-01T00:00:00Z", "FinishedAt": "0001-01-01T00:00:00Z"}),
                Known::default(),
                ContainerStatus::Created,
                Some("It could not be started. Bind for 0.0.0.0:1 failed: port is already allocated."),
            ),
        ] {
            let (seen, _) = observe(doc(state), &known);
            assert_eq!(seen.status, status, "{:?}", seen.message);
            assert_eq!(seen.message.as_deref(), message);
        }
    }

    #[test]
    fn a_failure_at_once_shows_the_last_lines() {
        let tail = ["one".to_owned(), "two".to_owned()];
        let (seen, detail) = observe(
            doc(exited(3, 2)),
            &Known {
                asked: Some(false),
                tail: &tail,
                ..Default::default()
            },
        );
        assert_eq!(
            seen.message.unwrap(),
            "Exited with code 3 after 2.3 s. Its last log lines:\none\ntwo"
        );
        assert!(detail.failed_at_once);
        let (_, detail) = observe(
            doc(exited(3, 20)),
            &Known {
                asked: Some(false),
                ..Default::default()
            },
        );
        assert!(!detail.failed_at_once);
    }

    #[test]
    fn a_crash_loop_says_so() {
        let mut state = exited(1, 0);
        state["Status"] = "restarting".into();
        let (seen, _) = observe(
            doc(state),
            &Known {
                asked: Some(false),
                ..Default::default()
            },
        );
        assert_eq!(seen.status, ContainerStatus::Exited);
        assert!(
            seen.message.unwrap().contains("3 restarts so far, the last exited with code 1"),
            "restarts are counted"
        );
    }

    #[test]
    fn ports_of_a_stopped_container_are_those_asked_for() {
        let (seen, detail) = observe(doc(exited(0, 5)), &Known::default());
        assert_eq!(
            seen.ports
                .iter()
                .map(|p| (p.container.get(), p.host, p.protocol))
                .collect::<Vec<_>>(),
            [(53, 53, Protocol::Udp), (80, 0, Protocol::Tcp)]
        );
        assert!(detail.host_ports.is_empty());
    }
}
