//! `ps`, `get`, `inspect`: looking at containers.

use crate::client::{Call, now};
use crate::commands::nodes::{NodeNames, node_names};
use crate::context::Context;
use crate::output::{Format, human, note, table::Column};
use clap::{Args, ValueEnum};
use nm_types::Timestamp;
use nm_types::container::{ContainerHealth, ContainerStatus, ContainerView, PortMapping, Protocol, RestartPolicy, VolumeMode};

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  neuralmesh containers ps
  neuralmesh containers ps --status running --node n1
  neuralmesh containers ps -l app=web -o json
  neuralmesh containers rm -f $(neuralmesh containers ps -q -l app=web)")]
pub struct PsArgs {
    /// Accepted out of habit: all containers are shown anyway
    #[arg(short, long)]
    pub all: bool,
    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,
    /// Only those on this node
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// Only those in this status
    #[arg(long, value_enum, value_name = "STATUS")]
    pub status: Option<StatusArg>,
    /// Only those with this label
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub label: Option<String>,
    /// Only those whose name contains this
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Only those that NeuralMesh made, or (false) only those that others made
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub managed: Option<bool>,
    /// At most so many
    #[arg(long, value_name = "COUNT")]
    pub limit: Option<usize>,
}

/// [`ContainerStatus`] as an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StatusArg {
    Created,
    Running,
    Paused,
    Stopped,
    Exited,
}

impl StatusArg {
    fn status(self) -> ContainerStatus {
        match self {
            Self::Created => ContainerStatus::Created,
            Self::Running => ContainerStatus::Running,
            Self::Paused => ContainerStatus::Paused,
            Self::Stopped => ContainerStatus::Stopped,
            Self::Exited => ContainerStatus::Exited,
        }
    }
}

#[derive(Debug, Clone, Args)]
pub struct GetArgs {
    /// Name or id
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
}

pub async fn ps(args: PsArgs, cx: &Context) -> anyhow::Result<u8> {
    let call = Call::get(&["containers"])
        .query_opt("nodeId", args.node.as_ref())
        .query_opt("status", args.status.map(|s| s.status().as_str()))
        .query_opt("name", args.name.as_ref())
        .query_opt("label", args.label.as_ref())
        .query_opt("managed", args.managed);
    let plain = args.quiet || matches!(cx.out.format, Format::Json | Format::Name);
    let (list, nodes) = if plain {
        (cx.client.list::<ContainerView>(call, args.limit).await?, NodeNames::default())
    } else {
        let (list, nodes) = tokio::join!(cx.client.list::<ContainerView>(call, args.limit), node_names(cx));
        (list?, nodes)
    };
    if args.quiet {
        cx.out.lines(list.items.iter().map(|c| c.id.as_str()))?;
        return Ok(0);
    }
    cx.out.list(&list, &columns(now(), &nodes), |c| c.name.clone())?;
    Ok(0)
}

fn columns(now: Timestamp, nodes: &NodeNames) -> [Column<'_, ContainerView>; 11] {
    [
        Column::new("CONTAINER ID", |c: &ContainerView| c.id.to_string()).wide(),
        Column::new("NAME", |c: &ContainerView| c.name.clone()),
        Column::new("IMAGE", |c: &ContainerView| c.image.clone()),
        Column::new("NODE", |c: &ContainerView| nodes.name(c.node_id.as_str())),
        Column::new("CREATED", move |c: &ContainerView| human::ago(c.created, now)),
        Column::new("STATUS", move |c: &ContainerView| status(c, now)),
        Column::new("PORTS", |c: &ContainerView| ports(&c.ports)),
        Column::new("CPU %", |c: &ContainerView| usage(c, |c| format!("{:.1}%", c.resources.cpu_usage)))
            .right()
            .wide(),
        Column::new("MEMORY", |c: &ContainerView| {
            usage(c, |c| human::memory(c.resources.memory_usage * 1_048_576.0))
        })
        .right()
        .wide(),
        Column::new("NETWORKS", |c: &ContainerView| {
            c.networks.iter().map(|n| n.network.as_str()).collect::<Vec<_>>().join(",")
        })
        .wide(),
        Column::new("MANAGED", |c: &ContainerView| if c.managed { "yes" } else { "no" }.to_owned()).wide(),
    ]
}

fn usage(c: &ContainerView, shown: impl Fn(&ContainerView) -> String) -> String {
    if c.status == ContainerStatus::Running {
        shown(c)
    } else {
        String::new()
    }
}

/// `Up 5 minutes (healthy)`, `Exited (1) 2 hours ago`: docker's words.
pub fn status(c: &ContainerView, now: Timestamp) -> String {
    let up = || {
        c.started
            .map_or_else(|| "Up".to_owned(), |t| format!("Up {}", human::span(now.since(t)).to_lowercase()))
    };
    let ended = |word: &str| {
        let code = c.exit_code.map(|code| format!(" ({code})")).unwrap_or_default();
        let when = c.finished.map(|t| format!(" {}", human::ago(t, now))).unwrap_or_default();
        format!("{word}{code}{when}")
    };
    let health = match (c.status, c.health) {
        (ContainerStatus::Running, Some(ContainerHealth::Starting)) => " (health: starting)",
        (ContainerStatus::Running, Some(ContainerHealth::Healthy)) => " (healthy)",
        (ContainerStatus::Running, Some(ContainerHealth::Unhealthy)) => " (unhealthy)",
        _ => "",
    };
    let seen = match c.status {
        ContainerStatus::Created => "Created".to_owned(),
        ContainerStatus::Running => format!("{}{health}", up()),
        ContainerStatus::Paused => format!("{} (Paused)", up()),
        ContainerStatus::Stopped => ended("Stopped"),
        ContainerStatus::Exited => ended("Exited"),
    };
    if c.reachable {
        seen
    } else {
        format!("Unknown (node offline; last: {seen})")
    }
}

/// `0.0.0.0:8080->80/tcp, 53/udp`: docker's words.
pub fn ports(ports: &[PortMapping]) -> String {
    let one = |p: &PortMapping| {
        let protocol = match p.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        match (p.host, p.host_ip) {
            (0, _) => format!("{}/{protocol}", p.container),
            (host, Some(ip)) => format!("{ip}:{host}->{}/{protocol}", p.container),
            (host, None) => format!("0.0.0.0:{host}->{}/{protocol}", p.container),
        }
    };
    ports.iter().map(one).collect::<Vec<_>>().join(", ")
}

pub fn restart_word(policy: RestartPolicy) -> &'static str {
    match policy {
        RestartPolicy::No => "no",
        RestartPolicy::Always => "always",
        RestartPolicy::OnFailure => "on-failure",
        RestartPolicy::UnlessStopped => "unless-stopped",
    }
}

pub async fn get(args: GetArgs, cx: &Context) -> anyhow::Result<u8> {
    let nodes = if matches!(cx.out.format, Format::Json | Format::Name) {
        NodeNames::default()
    } else {
        node_names(cx).await
    };
    for (i, name) in args.containers.iter().enumerate() {
        let fetched = cx.client.fetch::<ContainerView>(Call::get(&["containers", name])).await?;
        if i > 0 && matches!(cx.out.format, Format::Table | Format::Wide) {
            cx.out.line("")?;
        }
        let rows = card(&fetched.value, now(), &nodes);
        cx.out.card(&fetched, &fetched.value.name, &rows)?;
    }
    Ok(0)
}

fn card(c: &ContainerView, now: Timestamp, nodes: &NodeNames) -> Vec<(&'static str, String)> {
    let lines = |items: Vec<String>| items.join("\n");
    let limits = [
        c.resources.cpu_limit.map(|cores| format!("{cores} CPUs")),
        c.resources.memory_limit.as_ref().map(|m| format!("{m} memory")),
    ];
    let running = c.status == ContainerStatus::Running;
    vec![
        ("Name", c.name.clone()),
        ("Id", c.id.to_string()),
        ("Docker id", c.docker_id.clone().unwrap_or_default()),
        ("Image", c.image.clone()),
        ("Node", nodes.name(c.node_id.as_str())),
        ("Status", status(c, now)),
        ("Message", c.message.clone().unwrap_or_default()),
        ("Made by", if c.managed { "NeuralMesh" } else { "others" }.to_owned()),
        ("Created", format!("{} ({})", human::ago(c.created, now), c.created)),
        ("Ports", ports(&c.ports)),
        (
            "Networks",
            lines(
                c.networks
                    .iter()
                    .map(|n| n.ip.as_ref().map_or_else(|| n.network.clone(), |ip| format!("{} {ip}", n.network)))
                    .collect(),
            ),
        ),
        (
            "Volumes",
            lines(
                c.volumes
                    .iter()
                    .map(|v| format!("{}:{}{}", v.host, v.container, if v.mode == VolumeMode::Ro { ":ro" } else { "" }))
                    .collect(),
            ),
        ),
        (
            "Environment",
            lines(c.environment.iter().map(|(k, v)| format!("{k}={v}")).collect()),
        ),
        ("Labels", lines(c.labels.iter().map(|(k, v)| format!("{k}={v}")).collect())),
        (
            "Restart",
            format!(
                "{}{}",
                restart_word(c.restart),
                if c.restarts > 0 {
                    format!(" (restarted {} times)", c.restarts)
                } else {
                    String::new()
                }
            ),
        ),
        ("Limits", limits.into_iter().flatten().collect::<Vec<_>>().join(", ")),
        (
            "Uses",
            if running {
                format!(
                    "{:.1}% CPU, {} memory",
                    c.resources.cpu_usage,
                    human::memory(c.resources.memory_usage * 1_048_576.0)
                )
            } else {
                String::new()
            },
        ),
    ]
}

pub async fn inspect(args: GetArgs, cx: &Context) -> anyhow::Result<u8> {
    let mut failed = false;
    for name in &args.containers {
        match cx
            .client
            .fetch::<serde::de::IgnoredAny>(Call::get(&["containers", name, "inspect"]))
            .await
        {
            Ok(document) => cx.out.json(&document.raw)?,
            Err(e) if args.containers.len() > 1 => {
                failed = true;
                note(crate::output::report::describe(&e.into()));
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(u8::from(failed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn view(extra: serde_json::Value) -> ContainerView {
        let mut all = json!({
            "id": "cont_1770000000000_abcdefghi", "name": "web", "image": "nginx", "status": "running", "nodeId": "node_1770000000000_abcdefghi",
            "ports": [], "resources": {"cpuLimit": null, "memoryLimit": null, "cpuUsage": 0.0, "memoryUsage": 0.0}, "volumes": [], "environment": {},
            "labels": {}, "restart": "no", "networks": [], "created": "2026-02-03T02:30:00.000Z", "managed": true, "reachable": true, "restarts": 0
        });
        all.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        serde_json::from_value(all).unwrap()
    }

    #[test]
    fn statuses_are_in_dockers_words() {
        let now = Timestamp::parse("2026-02-03T02:35:00Z").unwrap();
        let at = "2026-02-03T02:30:00.000Z";
        for (extra, expected) in [
            (json!({"started": at}), "Up 5 minutes"),
            (json!({"started": at, "health": "healthy"}), "Up 5 minutes (healthy)"),
            (json!({"status": "paused", "started": at}), "Up 5 minutes (Paused)"),
            (json!({"status": "created"}), "Created"),
            (
                json!({"status": "exited", "exitCode": 1, "finished": at, "health": "unhealthy"}),
                "Exited (1) 5 minutes ago",
            ),
            (json!({"status": "stopped", "exitCode": 0}), "Stopped (0)"),
            (
                json!({"started": at, "reachable": false}),
                "Unknown (node offline; last: Up 5 minutes)",
            ),
        ] {
            assert_eq!(status(&view(extra.clone()), now), expected, "{extra}");
        }
    }

    #[test]
    fn ports_are_in_dockers_words() {
        let container = view(
            json!({"ports": [{"container": 80, "host": 8080}, {"container": 53, "protocol": "udp"}, {"container": 1, "host": 2, "hostIp": "127.0.0.1"}]}),
        );
        assert_eq!(ports(&container.ports), "0.0.0.0:8080->80/tcp, 53/udp, 127.0.0.1:2->1/tcp");
    }
}
