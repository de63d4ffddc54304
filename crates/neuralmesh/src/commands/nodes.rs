//! `neuralmesh nodes …`

mod events;
mod stats;

use super::containers::spec::bounded;
use super::operations::{begun, interruptible};
use super::trust;
use crate::client::{Call, Outcome, now};
use crate::context::Context;
use crate::output::{
    Format, human, note,
    table::{Column, clean},
};
use crate::prompt::confirm;
use clap::{Args, Subcommand};
use nm_types::Timestamp;
use nm_types::node::{NewJoinToken, NodeStatus, NodeUpdate, NodeUsage, NodeView};
use nm_types::placement::{DrainNode, DrainReport};
use nm_types::text::{Argument, LabelKey, Labels, NodeName};
use std::collections::BTreeMap;
use std::io::IsTerminal;

#[derive(Debug, Subcommand)]
pub enum NodesCommand {
    /// List nodes
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Show a node
    #[command(visible_alias = "inspect")]
    Get(NodeArgs),
    /// Show what a node's machine uses
    Stats(stats::StatsArgs),
    /// List what happened on a node, the newest first
    Events(events::EventsArgs),
    /// Make a token with which one more machine can join
    JoinToken(JoinTokenArgs),
    /// Make a token with which a machine joins again as a node that there is
    RejoinToken(trust::RejoinArgs),
    /// Revoke a node's certificates: it is cut off until it joins again
    Revoke(trust::RevokeArgs),
    /// Give nodes a new version of the agent
    Upgrade(trust::UpgradeArgs),
    /// Executables that nodes can be upgraded to
    #[command(subcommand)]
    Binaries(trust::BinariesCommand),
    /// The authority that vouches for nodes and control plane
    #[command(subcommand)]
    Authority(trust::AuthorityCommand),
    /// Give a node another name
    Rename(RenameArgs),
    /// Set and remove labels
    Label(LabelArgs),
    /// Give a node no new containers
    Cordon(NodesArgs),
    /// Give a node new containers again
    Uncordon(NodesArgs),
    /// Empty a node: cordon it, and move its containers to other nodes or stop them
    Drain(DrainArgs),
    /// Take a node out of the fleet; its containers go on running, unmanaged
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
}

#[derive(Debug, Clone, Args)]
pub struct LsArgs {
    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Clone, Args)]
pub struct NodeArgs {
    /// Name or id
    #[arg(value_name = "NODE")]
    pub node: String,
}

#[derive(Debug, Clone, Args)]
pub struct NodesArgs {
    /// Names or ids
    #[arg(value_name = "NODE", required = true)]
    pub nodes: Vec<String>,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  neuralmesh nodes join-token
  NEURALMESH_JOIN=$(neuralmesh nodes join-token -q)")]
pub struct JoinTokenArgs {
    /// Print the token only
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Clone, Args)]
pub struct RenameArgs {
    /// Name or id
    #[arg(value_name = "NODE")]
    pub node: String,
    /// The new name
    #[arg(value_name = "NAME")]
    pub name: NodeName,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  neuralmesh nodes label n1 zone=a disk=ssd
  neuralmesh nodes label n1 disk-")]
pub struct LabelArgs {
    /// Name or id
    #[arg(value_name = "NODE")]
    pub node: String,
    /// KEY=VALUE sets a label, KEY- removes it
    #[arg(value_name = "LABEL", required = true, value_parser = label_change)]
    pub changes: Vec<(LabelKey, Option<Argument>)>,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Containers keep their id, name and settings when they move. One with a writable
volume or folder of the node is stopped and stays, for its data is there. The node
stays cordoned: `neuralmesh nodes uncordon NODE` when it is to take containers again.

Examples:
  neuralmesh nodes drain n1
  neuralmesh nodes drain n1 --grace 30s
  neuralmesh nodes drain n1 --stop")]
pub struct DrainArgs {
    /// Name or id
    #[arg(value_name = "NODE")]
    pub node: String,
    /// How long a container may take to end until it is killed [default: its own, else 10s]
    #[arg(long, value_name = "TIME", value_parser = super::containers::flags::seconds)]
    pub grace: Option<u64>,
    /// Stop all containers where they are, in place of moving those that can move
    #[arg(long)]
    pub stop: bool,
    /// Say at once which operation it became, in place of waiting for its end
    #[arg(long)]
    pub no_wait: bool,
}

#[derive(Debug, Clone, Args)]
pub struct RmArgs {
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
    /// Also with containers of ours on it: they stay on the machine, and are no longer known here
    #[arg(long)]
    pub leave_containers: bool,
    /// Names or ids
    #[arg(value_name = "NODE", required = true)]
    pub nodes: Vec<String>,
}

fn label_change(text: &str) -> Result<(LabelKey, Option<Argument>), String> {
    match (text.split_once('='), text.strip_suffix('-')) {
        (None, Some(key)) => Ok((LabelKey::parse(key).map_err(|e| e.to_string())?, None)),
        (None, None) => Err(format!("write {text}=VALUE to set it, {text}- to remove it")),
        (Some(_), _) => super::containers::flags::label(text).map(|(key, value)| (key, Some(value))),
    }
}

/// Names of nodes by id, for tables.
#[derive(Debug, Default)]
pub struct NodeNames(BTreeMap<String, String>);

impl NodeNames {
    /// The name, or the id itself where it is not known.
    pub fn name(&self, id: &str) -> String {
        self.0.get(id).cloned().unwrap_or_else(|| id.to_owned())
    }
}

/// The names of all nodes. A token may be good for containers and not for nodes: then tables show ids.
pub async fn node_names(cx: &Context) -> NodeNames {
    match cx.client.list::<NodeView>(Call::get(&["nodes"]), None).await {
        Ok(nodes) => NodeNames(nodes.items.into_iter().map(|n| (n.id.to_string(), n.name.to_string())).collect()),
        Err(_) => NodeNames::default(),
    }
}

pub async fn run(command: NodesCommand, cx: &Context) -> anyhow::Result<u8> {
    match command {
        NodesCommand::Ls(args) => {
            let list = cx.client.list::<NodeView>(Call::get(&["nodes"]), None).await?;
            if args.quiet {
                cx.out.lines(list.items.iter().map(|n| n.id.as_str()))?;
            } else {
                cx.out.list(&list, &columns(now()), |n| n.name.to_string())?;
            }
        }
        NodesCommand::Get(args) => {
            let node = cx.client.fetch::<NodeView>(Call::get(&["nodes", &args.node])).await?;
            let rows = card(&node.value, now());
            cx.out.card(&node, node.value.name.as_str(), &rows)?;
        }
        NodesCommand::Stats(args) => return stats::stats(args, cx).await,
        NodesCommand::Events(args) => return events::events(args, cx).await,
        NodesCommand::JoinToken(args) => join_token(&args, cx).await?,
        NodesCommand::RejoinToken(args) => return trust::rejoin_token(&args, cx).await,
        NodesCommand::Revoke(args) => return trust::revoke(&args, cx).await,
        NodesCommand::Upgrade(args) => return trust::upgrade(&args, cx).await,
        NodesCommand::Binaries(command) => return trust::binaries(command, cx).await,
        NodesCommand::Authority(command) => return trust::authority(command, cx).await,
        NodesCommand::Rename(args) => {
            let change = NodeUpdate {
                name: Some(args.name),
                ..NodeUpdate::default()
            };
            let node = cx
                .client
                .fetch::<NodeView>(Call::patch(&["nodes", &args.node]).json(&change)?)
                .await?;
            cx.out.result(&node, node.value.name.as_str())?;
        }
        NodesCommand::Label(args) => label(args, cx).await?,
        NodesCommand::Cordon(args) => cordon(&args.nodes, true, cx).await?,
        NodesCommand::Uncordon(args) => cordon(&args.nodes, false, cx).await?,
        NodesCommand::Drain(args) => drain(args, cx).await?,
        NodesCommand::Rm(args) => {
            let question = format!("Take {} out of the fleet?", args.nodes.join(", "));
            if !confirm(&question, args.force)? {
                return Ok(1);
            }
            for node in &args.nodes {
                let call = Call::delete(&["nodes", node]).flag("force", args.leave_containers);
                cx.client.done(call).await?;
                cx.out.line(node)?;
            }
        }
    }
    Ok(0)
}

/// A node's status in kubectl's words.
fn status(n: &NodeView) -> &'static str {
    match n.status {
        NodeStatus::Ready => "Ready",
        NodeStatus::NotReady => "NotReady",
        NodeStatus::Cordoned => "Ready,Cordoned",
    }
}

fn columns(now: Timestamp) -> [Column<'static, NodeView>; 14] {
    fn info<'a>(n: &'a NodeView, cell: impl Fn(&'a nm_types::node::NodeInfo) -> String) -> String {
        n.info.as_ref().map(cell).unwrap_or_default()
    }
    fn used(n: &NodeView, percent: impl Fn(&NodeUsage) -> Option<f64>) -> String {
        let percent = n.usage.as_ref().and_then(percent);
        percent.map_or_else(|| "--".to_owned(), |p| format!("{p:.0}%"))
    }
    [
        Column::new("ID", |n: &NodeView| n.id.to_string()).wide(),
        Column::new("NAME", |n: &NodeView| n.name.to_string()),
        Column::new("STATUS", |n: &NodeView| status(n).to_owned()),
        Column::new("CONTAINERS", |n: &NodeView| n.containers.to_string()).right(),
        Column::new("CPU", |n: &NodeView| used(n, |u| Some(u.cpu))).right(),
        Column::new("MEM", |n: &NodeView| used(n, |u| Some(share(u.memory_used, u.memory_total)))).right(),
        Column::new("DISK", |n: &NodeView| used(n, |u| u.disk_used_percent)).right(),
        Column::new("CPUS", |n: &NodeView| info(n, |i| i.cpus.to_string())).right(),
        Column::new("MEMORY", |n: &NodeView| info(n, |i| human::memory(i.memory as f64))).right(),
        Column::new("DOCKER", |n: &NodeView| {
            info(n, |i| i.docker.version.clone().unwrap_or_else(|| "not answering".to_owned()))
        }),
        Column::new("AGENT", |n: &NodeView| info(n, |i| i.agent_version.clone())),
        Column::new("LAST SEEN", move |n: &NodeView| human::ago_opt(n.last_seen, now)),
        Column::new("OS", |n: &NodeView| info(n, |i| format!("{} ({}, {})", i.os, i.kernel, i.arch))).wide(),
        Column::new("LABELS", |n: &NodeView| human::pairs(&n.labels.0)).wide(),
    ]
}

/// Percent of a total; 0 where it is unknown.
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

/// What the machine uses, and what of it was promised to containers.
fn use_rows(n: &NodeView) -> Vec<(&'static str, String)> {
    let memory = |bytes: u64| human::memory(bytes as f64);
    let mut rows = Vec::new();
    if let Some(u) = &n.usage {
        let load = u.load.map(|l| format!("{l:.2}")).join(" ");
        rows.extend([
            ("CPU", format!("{:.1}% (load {load})", u.cpu)),
            (
                "Memory",
                format!("{} used ({:.1}%)", memory(u.memory_used), share(u.memory_used, u.memory_total)),
            ),
            (
                "Disk",
                u.disk_used_percent
                    .map(|p| {
                        let of = n.capacity.and_then(|c| c.disk_total).map(|t| format!(", {} in all", memory(t)));
                        format!("{p:.1}% used on the fullest{}", of.unwrap_or_default())
                    })
                    .unwrap_or_default(),
            ),
            ("Temperature", u.temperature.map(|t| format!("{t:.1} °C")).unwrap_or_default()),
        ]);
    }
    rows.push((
        "Limits",
        format!(
            "{} CPUs, {} memory: all limits of its containers together",
            n.allocated.cpu,
            memory(n.allocated.memory)
        ),
    ));
    rows
}

fn card(n: &NodeView, now: Timestamp) -> Vec<(&'static str, String)> {
    let mut rows = vec![
        ("Name", n.name.to_string()),
        ("Id", n.id.to_string()),
        ("Status", status(n).to_owned()),
        ("Containers", n.containers.to_string()),
        (
            "Labels",
            n.labels.0.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join("\n"),
        ),
        ("Joined", format!("{} ({})", human::ago(n.created, now), n.created)),
        ("Last seen", human::ago_opt(n.last_seen, now)),
    ];
    if let Some(info) = &n.info {
        let docker = match (&info.docker.version, &info.docker.error) {
            (Some(version), None) => format!("{version} (API {})", info.docker.api_version.as_deref().unwrap_or("unknown")),
            (_, Some(error)) => format!("not answering: {error}"),
            (None, None) => "not answering".to_owned(),
        };
        rows.extend([
            ("Host name", info.hostname.clone()),
            ("System", format!("{}, kernel {}, {}", info.os, info.kernel, info.arch)),
            (
                "Machine",
                format!("{} CPUs, {} memory", info.cpus, human::memory(info.memory as f64)),
            ),
            ("Docker", docker),
            ("Agent", info.agent_version.clone()),
        ]);
    }
    rows.extend(use_rows(n));
    rows
}

async fn join_token(args: &JoinTokenArgs, cx: &Context) -> anyhow::Result<()> {
    let token = cx.client.fetch::<NewJoinToken>(Call::create(&["nodes", "join-tokens"])).await?;
    if args.quiet {
        return Ok(cx.out.line(&token.value.token)?);
    }
    cx.out.result(&token, &token.value.token)?;
    if !cx.out.is_json() {
        say_how_to_join(&token.value, "", cx);
    }
    Ok(())
}

/// The one command to paste on the machine that joins; `before` is what has to be done first there.
pub(super) fn say_how_to_join(token: &NewJoinToken, before: &str, cx: &Context) {
    let server = cx.client.server();
    let host = if server.is_loopback() {
        "<this machine's address>"
    } else {
        server.host()
    };
    note(format!(
        "\nGood once, until {}. On the machine that joins, as root:{before}\n\n  \
         NEURALMESH_JOIN={} neuralmesh agent install --server https://{host}:7443\n\n\
         (without systemd: `agent` in place of `agent install`; 7443 is the agent listener, which `neuralmesh up` opens beyond this \
         machine with --agent-listen 0.0.0.0:7443)",
        token.expires, token.token
    ));
}

async fn label(args: LabelArgs, cx: &Context) -> anyhow::Result<()> {
    let mut tries = 0;
    loop {
        let node = cx.client.fetch::<NodeView>(Call::get(&["nodes", &args.node])).await?;
        let mut labels: Labels = node.value.labels;
        for (key, value) in args.changes.clone() {
            match value {
                Some(value) => drop(labels.0.insert(key, value)),
                None => drop(labels.0.remove(&key)),
            }
        }
        let change = NodeUpdate {
            labels: Some(labels),
            ..NodeUpdate::default()
        };
        let call = Call::patch(&["nodes", &args.node]).json(&change)?.if_match(node.etag.as_deref());
        match cx.client.fetch::<NodeView>(call).await {
            Ok(node) => return Ok(cx.out.result(&node, node.value.name.as_str())?),
            // Somebody else changed it in between: their change stays, ours goes on top.
            Err(e) if e.status() == Some(412) && tries < 5 => tries += 1,
            Err(e) => return Err(e.into()),
        }
    }
}

async fn cordon(nodes: &[String], cordoned: bool, cx: &Context) -> anyhow::Result<()> {
    let verb = if cordoned { "cordon" } else { "uncordon" };
    for name in nodes {
        let node = cx.client.fetch::<NodeView>(Call::post(&["nodes", name, verb])).await?;
        match cx.out.format {
            Format::Json => cx.out.json(&node.raw)?,
            _ => cx.out.line(node.value.name.as_str())?,
        }
    }
    Ok(())
}

async fn drain(args: DrainArgs, cx: &Context) -> anyhow::Result<()> {
    let body = DrainNode {
        grace: bounded("--grace", args.grace)?,
        move_away: !args.stop,
    };
    let mut call = Call::post(&["nodes", &args.node, "drain"]).json(&body)?;
    if args.no_wait || std::io::stderr().is_terminal() {
        call = call.respond_async();
    }
    let mut progress = cx.out.progress();
    let outcome = interruptible(cx.client.submit::<DrainReport>(call, !args.no_wait, &mut progress)).await;
    drop(progress);
    let report = match outcome? {
        Outcome::Begun(operation) => return Ok(begun(&operation, cx)?),
        Outcome::Done(report) => report,
        Outcome::Ended(operation) => cx.client.result::<DrainReport>(&operation)?,
    };
    if cx.out.is_json() {
        return Ok(cx.out.json(&report.raw)?);
    }
    let nodes = node_names(cx).await;
    for one in &report.value.moved {
        cx.out
            .line(format!("{} moved to {}", clean(&one.name), nodes.name(one.node_id.as_str())))?;
    }
    for one in &report.value.stopped {
        let reason = one.reason.as_deref().map(|r| format!(": {}", clean(r))).unwrap_or_default();
        cx.out.line(format!("{} stopped{reason}", clean(&one.name)))?;
    }
    note(format!(
        "{} takes no new containers: neuralmesh nodes uncordon {}",
        clean(&args.node),
        clean(&args.node)
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_changes_are_kubectls() {
        let change = |text: &str| label_change(text).map(|(k, v)| (k.to_string(), v.map(String::from)));
        assert_eq!(change("zone=a"), Ok(("zone".into(), Some("a".into()))));
        assert_eq!(change("zone=a-"), Ok(("zone".into(), Some("a-".into()))));
        assert_eq!(change("zone-"), Ok(("zone".into(), None)));
        assert!(change("zone").is_err() && change("-").is_err() && change("=x").is_err());
    }
}
