//! `nodes events`: what happened on a node.

use crate::client::{Call, now};
use crate::context::Context;
use crate::output::human;
use crate::output::table::Column;
use clap::Args;
use nm_types::Timestamp;
use nm_types::node_event::{NodeEventKind as Kind, NodeEventView};

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
What happened while the node was cut off is there, too, once it is back.

Examples:
  neuralmesh nodes events n1
  neuralmesh nodes events n1 --limit 500 -o json")]
pub struct EventsArgs {
    /// At most so many
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    pub limit: usize,
    /// Name or id
    #[arg(value_name = "NODE")]
    pub node: String,
}

pub async fn events(args: EventsArgs, cx: &Context) -> anyhow::Result<u8> {
    let call = Call::get(&["nodes", &args.node, "events"]);
    let list = cx.client.list::<NodeEventView>(call, Some(args.limit)).await?;
    cx.out.list(&list, &columns(now()), |e| e.id.to_string())?;
    Ok(0)
}

fn columns(now: Timestamp) -> [Column<'static, NodeEventView>; 7] {
    [
        Column::new("ID", |e: &NodeEventView| e.id.to_string()).wide(),
        Column::new("TIME", |e: &NodeEventView| e.time.to_string()).wide(),
        Column::new("WHEN", move |e: &NodeEventView| human::ago(e.time, now)),
        Column::new("EVENT", |e: &NodeEventView| word(e.kind).to_owned()),
        Column::new("CONTAINER", |e: &NodeEventView| e.container.clone().unwrap_or_default()),
        Column::new("CONTAINER ID", |e: &NodeEventView| {
            let ours = e.container_id.as_ref().map(ToString::to_string);
            ours.or_else(|| e.docker_id.as_deref().map(|d| d.chars().take(12).collect()))
                .unwrap_or_default()
        })
        .wide(),
        Column::new("DETAIL", detail),
    ]
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Created => "created",
        Kind::Started => "started",
        Kind::Died => "died",
        Kind::Oom => "out of memory",
        Kind::Health => "health",
        Kind::Removed => "removed",
        Kind::EngineDown => "Docker down",
        Kind::EngineUp => "Docker up",
        Kind::AgentStarted => "agent started",
        Kind::Gap => "gap",
    }
}

fn detail(e: &NodeEventView) -> String {
    let detail = &e.detail;
    let health = detail.health.and_then(|h| serde_json::to_value(h).ok());
    let parts = [
        detail.exit_code.map(|code| format!("exit code {code}")),
        health.and_then(|h| h.as_str().map(str::to_owned)),
        detail
            .count
            .map(|n| format!("{n} events are lost: the node was cut off for too long")),
        detail.message.clone(),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}
