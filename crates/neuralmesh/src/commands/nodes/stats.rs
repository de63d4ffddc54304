//! `nodes stats`: what a machine uses, as a card that renews itself.

use crate::client::{Call, ClientError};
use crate::context::Context;
use crate::output::screen::Screen;
use crate::output::{Format, human, note, table};
use clap::Args;
use nm_types::host::NodeStats;
use std::time::Duration;

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
CPU is of all cores together: 100% is a machine that has no time left.

Examples:
  neuralmesh nodes stats n1
  neuralmesh nodes stats n1 -f
  neuralmesh nodes stats n1 -f -o json")]
pub struct StatsArgs {
    /// Go on with one sample a second, until interrupted
    #[arg(short, long)]
    pub follow: bool,
    /// Name or id
    #[arg(value_name = "NODE")]
    pub node: String,
}

pub async fn stats(args: StatsArgs, cx: &Context) -> anyhow::Result<u8> {
    if args.follow {
        return follow(&args.node, cx).await;
    }
    let call = Call::get(&["nodes", &args.node, "stats"]).query("limit", 1);
    let mut samples = cx.client.list_whole::<NodeStats>(call).await?;
    match samples.items.pop().zip(samples.raw.pop()) {
        Some((_, raw)) if cx.out.is_json() => cx.out.json(&raw)?,
        Some((sample, _)) => cx.out.line(render(&args.node, &sample, cx.out.format))?,
        None => note("nothing was measured yet: its agent has just started"),
    }
    Ok(0)
}

async fn follow(node: &str, cx: &Context) -> anyhow::Result<u8> {
    let call = Call::get(&["nodes", node, "stats"]).query("follow", true);
    let mut events = cx.client.events(call, None).await?;
    let mut screen = Screen::new();
    loop {
        let next = tokio::select! {
            next = events.next() => next?,
            _ = tokio::signal::ctrl_c() => return Ok(0),
        };
        let Some(message) = next.filter(|m| m.event != "end") else {
            note(format!("{node} is no longer connected"));
            return Ok(1);
        };
        if message.event != "stats" {
            continue;
        }
        if cx.out.is_json() {
            cx.out.json_line(&message.data)?;
            continue;
        }
        let sample = serde_json::from_str::<NodeStats>(&message.data).map_err(|source| ClientError::Shape {
            server: cx.client.server().to_string(),
            source,
        })?;
        screen.draw(&render(node, &sample, cx.out.format))?;
    }
}

fn render(node: &str, sample: &NodeStats, format: Format) -> String {
    if format == Format::Name {
        return table::clean(node);
    }
    table::card(&rows(node, sample))
}

fn rows(node: &str, s: &NodeStats) -> Vec<(&'static str, String)> {
    let memory = |bytes: u64| human::memory(bytes as f64);
    let disk = |d: &nm_types::host::DiskStats| {
        let inodes = if d.inodes > 0 {
            format!(", {:.0}% of inodes", d.inodes_percent())
        } else {
            String::new()
        };
        let read_only = if d.read_only { ", read-only" } else { "" };
        let (mount, device, percent) = (&d.mount, &d.device, d.used_percent());
        format!(
            "{mount}: {} / {} ({percent:.1}%{inodes}{read_only}), {device}, {}",
            memory(d.used),
            memory(d.total),
            d.kind
        )
    };
    let swap = &s.memory;
    vec![
        ("Node", node.to_owned()),
        ("CPU", format!("{:.1}%", s.cpu)),
        ("Load", s.load.map(|l| format!("{l:.2}")).join(" ")),
        (
            "Memory",
            format!(
                "{} / {} ({:.1}%)",
                memory(s.memory.used()),
                memory(s.memory.total),
                s.memory.used_percent()
            ),
        ),
        (
            "Swap",
            if swap.swap_total > 0 {
                format!("{} / {}", memory(swap.swap_used), memory(swap.swap_total))
            } else {
                String::new()
            },
        ),
        ("Disks", s.disks.iter().map(disk).collect::<Vec<_>>().join("\n")),
        (
            "Network",
            format!(
                "{} received, {} sent, {} errors, {} dropped",
                human::size(s.network.rx),
                human::size(s.network.tx),
                s.network.errors,
                s.network.dropped
            ),
        ),
        (
            "Pressure",
            s.pressure
                .map(|p| format!("CPU {:.1}%, memory {:.1}%, I/O {:.1}%", p.cpu_some, p.memory_some, p.io_some))
                .unwrap_or_default(),
        ),
        ("Temperature", s.temperature.map(|t| format!("{t:.1} °C")).unwrap_or_default()),
        (
            "Up",
            human::span(i64::try_from(Duration::from_secs(s.uptime).as_millis()).unwrap_or(i64::MAX)),
        ),
    ]
}
