//! What a rule sees of a server.

use super::engine::Book;
use super::rules::RuleSpec;
use super::{Alerts, GRACE_MS, HealthSeen, Key, SeenHealth, locked};
use crate::service::index::{Phase, Record};
use nm_plan::alerts::{Down, RESTARTS_WINDOW_MS, Seen, Sight, down, measure};
use nm_types::alert::{AlertCondition, AlertHealth, AlertLabel, AlertMetric, AlertOp, AlertTargetKind};
use nm_types::health::Check;
use nm_types::host::NodeStats;
use nm_types::text::Labels;
use nm_types::units::MemoryLimit;
use nm_types::{NodeId, Timestamp};
use std::sync::Arc;

/// What one look showed.
#[derive(Debug, Clone)]
pub(super) struct Look {
    pub sight: Sight,
    pub value: Option<f64>,
    /// What was seen, and its limit, in a sentence.
    pub message: String,
    /// When to look again though nothing happens.
    pub wake: Option<Timestamp>,
}

impl Look {
    fn new(sight: Sight, message: impl Into<String>) -> Self {
        Self {
            sight,
            value: None,
            message: message.into(),
            wake: None,
        }
    }
    /// There is no rule any more that looks at it, or nothing to look at.
    pub(super) fn gone(server_is_there: bool) -> Self {
        let message = if server_is_there {
            "no rule looks at this any more"
        } else {
            "it is no longer in the fleet"
        };
        Self::new(Sight::Gone, message)
    }
}

/// A server, as rules see it.
pub(super) struct Server {
    pub id: String,
    pub name: String,
    pub kind: AlertTargetKind,
    is: Is,
}

enum Is {
    Node { labels: Labels, connected: bool },
    Container(Arc<Record>),
    Address(Arc<HealthSeen>),
}

impl Key {
    pub(super) fn id(&self) -> &str {
        match self {
            Self::Node(id) => id.as_str(),
            Self::Container(id) => id.as_str(),
            Self::Address(id) => id,
        }
    }
}

impl Server {
    pub(super) fn is_connected(&self) -> bool {
        matches!(self.is, Is::Node { connected: true, .. })
    }

    /// Whether a rule is about it.
    pub(super) fn is_meant(&self, rule: &RuleSpec) -> bool {
        let (target, kind) = (&rule.target, self.kind);
        target.kind.is_none_or(|k| k == kind)
            && rule.condition.kind().is_none_or(|k| k == kind)
            && target.id.as_ref().is_none_or(|id| id.as_str() == self.id)
            && target.label.as_ref().is_none_or(|label| self.has(label))
    }

    fn has(&self, label: &AlertLabel) -> bool {
        let of = |labels: &Labels| {
            let found = labels.0.iter().find(|(k, _)| k.as_str() == label.key());
            found.map(|(_, v)| v.as_str().to_owned())
        };
        let found = match &self.is {
            Is::Node { labels, .. } => of(labels),
            Is::Container(record) => match (&record.wanted.spec, record.foreign()) {
                (Some(spec), _) => of(&spec.labels),
                (None, Some(theirs)) => theirs.labels.get(label.key()).cloned(),
                (None, None) => None,
            },
            Is::Address(seen) => seen.labels.get(label.key()).cloned(),
        };
        found.is_some_and(|value| label.value().is_none_or(|wanted| wanted == value))
    }
}

/// One decimal, or none where it is 0.
fn figure(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

impl Alerts {
    /// The server a key names, if it is there.
    pub(super) fn server(&self, key: &Key) -> Option<Server> {
        match key {
            Key::Node(id) => {
                let (name, labels) = self.nodes.card(id)?;
                let connected = self.fleet.is_connected(id);
                Some(Server {
                    id: id.to_string(),
                    name: name.to_string(),
                    kind: AlertTargetKind::Node,
                    is: Is::Node { labels, connected },
                })
            }
            Key::Container(id) => {
                let record = self.index.get(id)?;
                Some(Server {
                    id: id.to_string(),
                    name: record.name().to_owned(),
                    kind: AlertTargetKind::Container,
                    is: Is::Container(record),
                })
            }
            Key::Address(id) => {
                let seen = locked(&self.health).get(id)?.clone();
                Some(Server {
                    id: id.clone(),
                    name: seen.name.clone(),
                    kind: AlertTargetKind::Address,
                    is: Is::Address(seen),
                })
            }
        }
    }

    pub(super) fn sight(&self, book: &mut Book, condition: &AlertCondition, server: &Server, now: Timestamp) -> Look {
        match (condition, &server.is) {
            (AlertCondition::Health { status, check }, _) => self.health_sight(server, *status, *check),
            (AlertCondition::BackupTrouble {}, _) => self.backup_sight(server),
            (AlertCondition::NodeLost {}, Is::Node { connected, .. }) => self.link_sight(book, server, *connected, now),
            (AlertCondition::ContainerDown {}, Is::Container(record)) => self.down_sight(book, server, record, now),
            (
                AlertCondition::Metric {
                    metric,
                    op,
                    value,
                    resolve_at,
                },
                _,
            ) => {
                let (limit, resolve_at) = (value.get(), resolve_at.map(|a| a.get()));
                match self.measured(server, *metric) {
                    Some((value, place)) => metric_look(server, *metric, *op, value, limit, resolve_at, &place),
                    None => Look::new(Sight::Unknown, format!("the {} of {} is not known", metric.words(), server.name)),
                }
            }
            // A rule is matched by kind before.
            (AlertCondition::NodeLost {} | AlertCondition::ContainerDown {}, _) => Look::gone(true),
        }
    }

    fn health_sight(&self, server: &Server, wanted: AlertHealth, check: Option<Check>) -> Look {
        let Some(seen) = locked(&self.health).get(&server.id).cloned() else {
            return Look::new(Sight::Unknown, format!("the health of {} is not known yet", server.name));
        };
        let status = match check {
            None => Some(seen.status),
            Some(check) => seen.checks.get(&check).map(|(status, _)| *status),
        };
        let sight = match (status, wanted) {
            (Some(SeenHealth::Unhealthy), _) => Sight::Bad,
            (Some(SeenHealth::Degraded | SeenHealth::Unknown), AlertHealth::NotHealthy) => Sight::Bad,
            (Some(SeenHealth::Healthy | SeenHealth::Degraded), _) => Sight::Good,
            (Some(SeenHealth::Unknown) | None, _) => Sight::Unknown,
        };
        let words = match status {
            Some(SeenHealth::Healthy) => "healthy",
            Some(SeenHealth::Degraded) => "degraded",
            Some(SeenHealth::Unhealthy) => "unhealthy",
            Some(SeenHealth::Unknown) | None => "not known to be healthy",
        };
        let mut failed: Vec<&str> = seen
            .checks
            .iter()
            .filter(|(c, (status, _))| check.is_none_or(|wanted| wanted == **c) && *status != SeenHealth::Healthy)
            .map(|(_, (_, says))| says.as_str())
            .collect();
        // What keeps all of them from being measured is said once.
        failed.dedup();
        failed.truncate(5);
        let what = check.map_or_else(String::new, |c| format!("the {} check of ", c.as_str()));
        let tail = if failed.is_empty() {
            String::new()
        } else {
            format!(": {}", failed.join("; "))
        };
        Look::new(sight, format!("{what}{} {} is {words}{tail}", server.kind.as_str(), server.name))
    }

    fn backup_sight(&self, server: &Server) -> Look {
        let name = format!("{} {}", server.kind.as_str(), server.name);
        match self.backups.of(&server.id) {
            None => Look::new(Sight::Good, format!("{name} has no backup config")),
            Some(troubles) => match troubles.first() {
                Some(first) => Look::new(Sight::Bad, format!("the backups of {name}: {first}")),
                None => Look::new(Sight::Good, format!("the backups of {name} are well again")),
            },
        }
    }

    fn link_sight(&self, book: &Book, server: &Server, connected: bool, now: Timestamp) -> Look {
        if connected {
            return Look::new(Sight::Good, format!("node {} is connected", server.name));
        }
        // After a start of ours every node is away for a moment.
        let came = NodeId::parse(&server.id).is_ok_and(|id| book.came.contains(&id));
        if !came && now.since(self.started) < GRACE_MS {
            return Look::new(Sight::Unknown, format!("node {} has not been heard of yet", server.name));
        }
        let message = format!(
            "node {} is not connected: check that the machine runs, has a network, and `neuralmesh agent` on it",
            server.name
        );
        Look::new(Sight::Bad, message)
    }

    fn down_sight(&self, book: &mut Book, server: &Server, record: &Record, now: Timestamp) -> Look {
        let observed = record.state.observed.as_ref();
        let restarts = observed.map_or(0, |o| o.restarts);
        let (recent_restarts, falls) = book.restarted(&record.id, restarts, now);
        let seen = Seen {
            reachable: self.index.is_reachable(&record.node),
            settled: matches!(record.state.phase, Phase::Ready | Phase::Foreign),
            wanted: record.managed().then_some(record.wanted.running),
            missing: record.state.missing,
            status: record.status(),
            restart: record.restart(),
            exit_code: observed.and_then(|o| o.exit_code),
            restarts,
            recent_restarts,
            started: observed.and_then(|o| o.started),
        };
        let state = down(&seen, now);
        let node = self
            .nodes
            .card(&record.node)
            .map_or_else(|| record.node.to_string(), |(name, _)| name.to_string());
        let of = format!("container {} on node {node}", server.name);
        let message = match state {
            Down::Missing => format!("{of} was removed from Docker outside NeuralMesh: start makes it anew, remove forgets it"),
            Down::Ended => match seen.exit_code {
                Some(code) => format!("{of} should run and does not: it ended with code {code}"),
                None => format!("{of} should run and does not: it is {}", seen.status.as_str()),
            },
            Down::Restarting => format!(
                "{of} keeps ending and being started again: {recent_restarts} times within {} minutes",
                RESTARTS_WINDOW_MS / 60_000
            ),
            Down::Recovering { .. } => format!("{of} runs, after {restarts} restarts"),
            Down::No => format!("{of} is as it should be"),
            Down::Unknown => format!("{of} can't be seen now"),
        };
        let wake = match state {
            Down::Recovering { until } => Some(until),
            Down::Restarting => falls,
            Down::Missing | Down::Ended | Down::No | Down::Unknown => None,
        };
        Look {
            wake,
            ..Look::new(state.sight(), message)
        }
    }

    /// A value, and where it was measured where that says more.
    fn measured(&self, server: &Server, metric: AlertMetric) -> Option<(f64, String)> {
        match &server.is {
            Is::Node { connected: true, .. } => of_node(&*self.nodes.host(&NodeId::parse(&server.id).ok()?)?, metric),
            Is::Node { connected: false, .. } | Is::Address(_) => None,
            Is::Container(record) => {
                let (view, _) = self.index.view(&record.id, false)?;
                if !view.reachable {
                    return None;
                }
                match metric {
                    AlertMetric::ContainerCpu => Some((view.resources.cpu_usage, String::new())),
                    AlertMetric::ContainerMemory => {
                        let own = view.resources.memory_limit.as_deref().and_then(|l| MemoryLimit::parse(l).ok());
                        let limit = match own {
                            Some(limit) => limit.bytes(),
                            None => self.nodes.info(&record.node)?.memory,
                        };
                        let used = view.resources.memory_usage * 1024.0 * 1024.0;
                        (limit > 0).then(|| (used * 100.0 / limit as f64, String::new()))
                    }
                    AlertMetric::NodeCpu
                    | AlertMetric::NodeMemory
                    | AlertMetric::NodeDisk
                    | AlertMetric::NodeLoad
                    | AlertMetric::NodeTemperature
                    | AlertMetric::NodeSwap => None,
                }
            }
        }
    }
}

fn of_node(stats: &NodeStats, metric: AlertMetric) -> Option<(f64, String)> {
    let plain = |value: f64| Some((value, String::new()));
    match metric {
        AlertMetric::NodeCpu => plain(stats.cpu),
        AlertMetric::NodeMemory => plain(stats.memory.used_percent()),
        AlertMetric::NodeLoad => plain(stats.load[0]),
        AlertMetric::NodeTemperature => stats.temperature.and_then(plain),
        AlertMetric::NodeSwap if stats.memory.swap_total == 0 => plain(0.0),
        AlertMetric::NodeSwap => plain(stats.memory.swap_used as f64 * 100.0 / stats.memory.swap_total as f64),
        // What can't be written to, images mounted read-only among it, is full by nature.
        AlertMetric::NodeDisk => stats
            .disks
            .iter()
            .filter(|d| !d.read_only && d.total > 0)
            .max_by(|a, b| a.used_percent().total_cmp(&b.used_percent()))
            .map(|d| (d.used_percent(), format!(" at {}", d.mount))),
        AlertMetric::ContainerCpu | AlertMetric::ContainerMemory => None,
    }
}

fn metric_look(server: &Server, metric: AlertMetric, op: AlertOp, value: f64, limit: f64, resolve_at: Option<f64>, place: &str) -> Look {
    let sight = measure(op, value, limit, resolve_at);
    let unit = metric.unit();
    let (beyond, within) = match op {
        AlertOp::Above => ("above", "below"),
        AlertOp::Below => ("below", "above"),
    };
    let compared = match (sight, resolve_at) {
        (Sight::Good, Some(end)) if value != end => format!("{within} {}{unit} again", figure(end)),
        (Sight::Good, _) => format!("within its limit of {}{unit} again", figure(limit)),
        (Sight::Between, Some(end)) => format!(
            "within its limit of {}{unit}, and not yet {within} {}{unit}",
            figure(limit),
            figure(end)
        ),
        (Sight::Bad | Sight::Between | Sight::Unknown | Sight::Gone, _) => format!("{beyond} its limit of {}{unit}", figure(limit)),
    };
    Look {
        value: Some((value * 100.0).round() / 100.0),
        ..Look::new(
            sight,
            format!(
                "{} of {} {} is {}{unit}{place}, {compared}",
                metric.words(),
                server.kind.as_str(),
                server.name,
                figure(value)
            ),
        )
    }
}
