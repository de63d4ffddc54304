//! Asking one server.

use super::probe::Probed;
use super::table::Up;
use super::{Health, Plan};
use crate::api::error::ApiError;
use crate::service::fleet::{Agent, CallError, container_key, keyed, with_query};
use crate::service::index::{Index, Record};
use crate::service::servers::{Server, ServerKey};
use nm_link::contract::{ProbeResult, RunProbe, RunProbes, StatsQuery, path};
use nm_plan::health::{self as plan, AddressSeen, ContainerSeen, ContainerUse, Finding, NodeSeen};
use nm_types::container::{ContainerHealth, ContainerStatus, RestartPolicy};
use nm_types::health::{Probe, ProbeKind};
use nm_types::host::NodeStats;
use nm_types::server::PROBE_TIMEOUT;
use nm_types::stats::{ContainerStats, Resolution, Usage};
use nm_types::{ContainerId, NodeId};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// For a node to say how it is.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where Docker keeps its data unless somebody moved it.
const DOCKER_DATA: &str = "/var/lib/docker";
/// Names told in one message.
const NAMES: usize = 5;

/// What was found.
pub(super) struct Seen {
    pub findings: Vec<Finding>,
    pub reachable: bool,
    pub response_time: Option<f64>,
    pub up: Up,
}

/// The container of that id or name on that node.
pub(super) fn container_of(index: &Index, node: &NodeId, named: &str) -> Option<Arc<Record>> {
    if let Ok(id) = ContainerId::parse(named)
        && let Some(record) = index.get(&id)
    {
        return (record.node == *node).then_some(record);
    }
    index.on_node(node).into_iter().find(|r| r.name() == named)
}

impl Health {
    pub(super) async fn measure(&self, server: &Server, plan: &mut Plan, fresh: bool) -> Seen {
        match &server.key {
            ServerKey::Node(id) => self.measure_node(id, plan).await,
            ServerKey::Container(id) => match self.index.get(id) {
                Some(record) => self.measure_container(&record, plan, fresh).await,
                None => away(plan, "the container is gone", false),
            },
            ServerKey::Address(_) | ServerKey::Instance(_) => self.measure_address(server, plan).await,
        }
    }

    async fn measure_node(&self, id: &NodeId, plan: &mut Plan) -> Seen {
        let Ok(agent) = self.fleet.agent(id) else {
            return away(plan, "the node's agent is not connected: check the machine and its network", false);
        };
        let began = Instant::now();
        let asked = tokio::time::timeout(PATIENCE, agent.get::<NodeStats>(path::HOST)).await;
        let round_trip = millis(began);
        let stats = match asked {
            Ok(Ok(stats)) => Ok(stats),
            Ok(Err(CallError::Refused(error))) => Err(error.message),
            Ok(Err(CallError::Link { error, .. })) => return away(plan, &error.message, true),
            Err(_) => return away(plan, "the node's agent is connected and does not answer within 10 seconds", true),
        };
        let mut services = self.engine(id);
        services.extend(self.probes(&agent, id, None, &plan.config.probes).await);
        let uptime = stats.as_ref().ok().map(|s| i64::try_from(s.uptime).unwrap_or(i64::MAX));
        let seen = NodeSeen {
            stats: stats.as_ref().map_err(String::as_str),
            round_trip,
            services,
        };
        let findings = plan::node(&plan.limits, &mut plan.memory, seen);
        Seen {
            findings,
            reachable: true,
            response_time: Some(round_trip),
            up: uptime.map_or(Up::WhileReachable, |s| {
                Up::Since(self.clock.now().plus_millis(-s.saturating_mul(1000)))
            }),
        }
    }

    /// Docker, and what is meant to run on it.
    fn engine(&self, node: &NodeId) -> Vec<Finding> {
        let Some(info) = self.nodes.info(node) else {
            return Vec::new();
        };
        if !info.docker.available {
            let why = info.docker.error.unwrap_or_else(|| "Docker does not answer".into());
            return vec![Finding::service(false, "no answer", "answers", format!("Docker: {why}"))];
        }
        let docker = Finding::service(true, "answers", "answers", "Docker");
        let meant: Vec<Arc<Record>> = self.index.on_node(node).into_iter().filter(|r| r.meant_to_run()).collect();
        let down: Vec<&Arc<Record>> = meant.iter().filter(|r| !is_up(r)).collect();
        if meant.is_empty() {
            return vec![docker];
        }
        let (all, up) = (meant.len(), meant.len() - down.len());
        let mut names = down.iter().take(NAMES).map(|r| r.name()).collect::<Vec<_>>().join(", ");
        if down.len() > NAMES {
            names.push_str(&format!(" and {} more", down.len() - NAMES));
        }
        let message = if down.is_empty() {
            "containers that are meant to run".to_owned()
        } else {
            format!("meant to run and don't: {names}")
        };
        let running = Finding::service(down.is_empty(), format!("{up} of {all} run"), format!("all {all}"), message);
        vec![docker, running]
    }

    /// Has the agent run the probes of a node or container.
    async fn probes(&self, agent: &Agent, node: &NodeId, own: Option<&Record>, probes: &[Probe]) -> Vec<Finding> {
        let mut found = Vec::new();
        let mut asked = Vec::new();
        for probe in probes {
            let container = match (own, probe.kind, &probe.container) {
                (Some(record), ..) => Some(container_key(record)),
                (None, ProbeKind::Command, Some(named)) => match container_of(&self.index, node, named) {
                    Some(record) => Some(container_key(&record)),
                    None => {
                        let message = format!("{}: there is no container `{named}` on this node any more", probe.name);
                        found.push(Finding::service(false, "not asked", "exit code 0", message));
                        continue;
                    }
                },
                (None, ..) => None,
            };
            asked.push(RunProbe {
                container: container.map(|key| key.as_str().to_owned()),
                probe: probe.clone(),
            });
        }
        if asked.is_empty() {
            return found;
        }
        let names: Vec<String> = asked.iter().map(|run| run.probe.name.to_string()).collect();
        let longest = asked
            .iter()
            .map(|run| run.probe.timeout.map_or(PROBE_TIMEOUT, |t| t.get().unsigned_abs()))
            .max();
        let request = RunProbes { probes: asked };
        // The agent keeps to each probe's own time; what is added is for the way.
        let patience = Duration::from_secs(longest.unwrap_or(PROBE_TIMEOUT) + 5);
        let answer = tokio::time::timeout(patience, agent.post::<Vec<ProbeResult>>(path::HEALTH, &request, patience)).await;
        let why = match answer {
            Ok(Ok(results)) if results.len() == names.len() => {
                found.extend(names.iter().zip(results).map(|(name, result)| told(name, result)));
                return found;
            }
            Ok(Ok(_)) => "the agent answered for other probes than it was asked for".to_owned(),
            Ok(Err(error)) => ApiError::from(error).message,
            Err(_) => "the agent did not answer in time".to_owned(),
        };
        let failed = |name: &String| Finding::service(false, "not asked", "answers", format!("{name}: {why}"));
        found.extend(names.iter().map(failed));
        found
    }

    async fn measure_container(&self, record: &Record, plan: &mut Plan, fresh: bool) -> Seen {
        let Ok(agent) = self.fleet.agent(&record.node) else {
            return away(plan, "its node is not connected", false);
        };
        let info = self.nodes.info(&record.node);
        let docker = info.as_ref().is_none_or(|i| i.docker.available);
        let node_key = ServerKey::Node(record.node.clone());
        let mut response_time = self.table.read(&node_key, |e| e.last.as_ref()?.response_time).flatten();
        let runs = docker && record.status() == ContainerStatus::Running && !record.state.missing;
        let mut usage = self.index.used(&record.id).filter(|_| runs);
        if fresh {
            let began = Instant::now();
            match tokio::time::timeout(PATIENCE, self.ask(&agent, record, runs)).await {
                Ok(Ok(sample)) => {
                    usage = sample.or(usage);
                    response_time = Some(millis(began));
                }
                Ok(Err(CallError::Refused(error))) => {
                    tracing::debug!(container.id = %record.id, error = %error.message, "a container's use could not be asked for");
                    response_time = Some(millis(began));
                }
                Ok(Err(CallError::Link { error, .. })) => return away(plan, &format!("its node does not answer: {}", error.message), true),
                Err(_) => return away(plan, "its node is connected and does not answer within 10 seconds", true),
            }
        }
        let host = self.nodes.host(&record.node);
        let host = match host {
            Some(host) => Some(host),
            None if fresh => agent.get::<NodeStats>(path::HOST).await.ok().map(Arc::new),
            None => None,
        };
        let spec = record.wanted.spec.as_ref();
        let machine = host
            .as_ref()
            .map(|h| h.memory.total)
            .or(info.as_ref().map(|i| i.memory))
            .filter(|n| *n > 0);
        let allowed = spec.and_then(|s| s.memory_limit.as_ref()).map(|m| m.bytes()).or(machine);
        let cores = spec.and_then(|s| s.cpu_limit).map(|c| c.cores());
        let cores = cores
            .or(info.as_ref().map(|i| f64::from(i.cpus)))
            .filter(|c| *c > 0.0)
            .unwrap_or(1.0);
        let usage = usage.map(|usage| ContainerUse {
            cpu: usage.cpu / cores,
            memory_available: allowed.map(|bytes| 100.0 - usage.memory * f64::from(1 << 20) * 100.0 / bytes as f64),
        });
        let mut services = vec![state(record, docker)];
        services.extend(own_check(record).filter(|_| runs));
        services.extend(self.probes(&agent, &record.node, Some(record), &plan.config.probes).await);
        let seen = ContainerSeen {
            usage,
            node: host.as_deref(),
            data_dir: DOCKER_DATA,
            round_trip: response_time,
            services,
        };
        let started = record.state.observed.as_ref().and_then(|o| o.started).filter(|_| runs);
        Seen {
            findings: plan::container(&plan.limits, &mut plan.memory, seen),
            reachable: true,
            response_time,
            up: started.map_or(Up::Down, Up::Since),
        }
    }

    /// The newest sample of a container that runs; of another, that its node answers.
    async fn ask(&self, agent: &Agent, record: &Record, runs: bool) -> Result<Option<Usage>, CallError> {
        if !runs {
            agent.get::<serde_json::Value>(path::INFO).await?;
            return Ok(None);
        }
        let query = StatsQuery {
            limit: 1,
            resolution: Resolution::Second,
        };
        let samples: Vec<ContainerStats> = agent.get(&with_query(&keyed(path::STATS, record), &query)).await?;
        Ok(samples.last().map(|s| Usage {
            cpu: s.cpu,
            memory: s.memory,
        }))
    }

    async fn measure_address(&self, server: &Server, plan: &mut Plan) -> Seen {
        let host = server.view.address.as_deref();
        let probed = match (host, &server.registered) {
            (Some(host), Some(spec)) => match spec.effective_probe() {
                Some((probe, port)) => self.prober.registered(host, &probe, port).await,
                None => {
                    let why = "nothing says how to check it: give it a port or a probe";
                    return away(plan, why, false);
                }
            },
            (Some(host), None) => self.prober.machine(host).await,
            (None, _) => return away(plan, "it has no address yet", false),
        };
        match probed {
            Probed::Unreachable { why, called } => away(plan, &why, called),
            Probed::Answered { round_trip, services } => Seen {
                findings: plan::address(&plan.limits, &mut plan.memory, AddressSeen { round_trip, services }),
                reachable: true,
                response_time: Some(round_trip),
                up: Up::WhileReachable,
            },
        }
    }
}

fn away(plan: &mut Plan, why: &str, called: bool) -> Seen {
    Seen {
        findings: plan::unreachable(&mut plan.memory, why, called),
        reachable: false,
        response_time: None,
        up: Up::Down,
    }
}

fn millis(since: Instant) -> f64 {
    (since.elapsed().as_secs_f64() * 1_000_000.0).round() / 1000.0
}

fn told(name: &str, result: ProbeResult) -> Finding {
    let message = if result.message.is_empty() {
        name.to_owned()
    } else {
        format!("{name}: {}", result.message)
    };
    Finding::service(result.ok, result.measured, result.limit, message)
}

/// Whether a container that is meant to run does, or has done what it was for.
fn is_up(record: &Record) -> bool {
    match record.status() {
        ContainerStatus::Running => true,
        // Somebody paused it, and will go on with it.
        ContainerStatus::Paused => true,
        ContainerStatus::Exited if !record.state.missing => {
            let once = record.wanted.spec.as_ref().is_none_or(|s| s.restart == RestartPolicy::No);
            once && record.state.observed.as_ref().and_then(|o| o.exit_code) == Some(0)
        }
        ContainerStatus::Exited | ContainerStatus::Created | ContainerStatus::Stopped => false,
    }
}

/// Whether the container itself is there.
fn state(record: &Record, docker: bool) -> Finding {
    if !docker {
        return Finding::service(false, "not known", "running", "its node's Docker engine does not answer");
    }
    if record.state.missing {
        return Finding::service(
            false,
            "removed",
            "running",
            "it was removed from Docker outside NeuralMesh: start makes it anew",
        );
    }
    let status = record.status();
    let ok = status == ContainerStatus::Running;
    let why = record.state.observed.as_ref().and_then(|o| o.exit_code);
    let message = match (ok, why) {
        (true, _) => String::new(),
        (false, Some(code)) => format!("it ended with code {code}: see its log"),
        (false, None) => "it does not run: start it".into(),
    };
    Finding::service(ok, status.as_str(), "running", message)
}

/// What Docker's own health check of it says.
fn own_check(record: &Record) -> Option<Finding> {
    let health = record.state.observed.as_ref()?.health?;
    let (ok, measured) = match health {
        ContainerHealth::Healthy => (true, "healthy"),
        ContainerHealth::Starting => (true, "starting"),
        ContainerHealth::Unhealthy => (false, "unhealthy"),
    };
    let message = if ok {
        "its own health check"
    } else {
        "its own health check fails: see its log"
    };
    Some(Finding::service(ok, measured, "not unhealthy", message))
}
