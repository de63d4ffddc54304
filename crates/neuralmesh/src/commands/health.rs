//! `neuralmesh health …`

use crate::client::{Call, now};
use crate::context::Context;
use crate::output::{human, table::Column};
use clap::{Args, Subcommand, ValueEnum};
use nm_types::Timestamp;
use nm_types::health::{Availability, HealthInterval, HealthStatus, HealthView};

#[derive(Debug, Subcommand)]
pub enum HealthCommand {
    /// List the health of every server that is checked
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Show a server's health, and what each check saw
    #[command(visible_alias = "inspect")]
    Get(ServerArgs),
    /// Check servers now
    Check(CheckArgs),
    /// Show what a server's health was
    History(HistoryArgs),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
/// What a server is.
pub enum StatusArg {
    Healthy,
    Unhealthy,
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
/// What kind of server it is.
pub enum KindArg {
    Node,
    Container,
    Instance,
    Address,
}

impl KindArg {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Container => "container",
            Self::Instance => "instance",
            Self::Address => "address",
        }
    }
}

#[derive(Debug, Clone, Args)]
pub struct LsArgs {
    /// Only servers of this status
    #[arg(long, value_enum, value_name = "STATUS")]
    pub status: Option<StatusArg>,
    /// Only servers of this kind
    #[arg(long, value_enum, value_name = "KIND")]
    pub kind: Option<KindArg>,
    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Clone, Args)]
pub struct ServerArgs {
    /// Name or id of a node, container, instance or registered server
    #[arg(value_name = "SERVER")]
    pub server: String,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Ends with 1 when one of them is not healthy.

Examples:
  neuralmesh health check n1
  neuralmesh health check web db && echo all well")]
pub struct CheckArgs {
    /// Names or ids of nodes, containers, instances or registered servers
    #[arg(value_name = "SERVER", required = true)]
    pub servers: Vec<String>,
}

#[derive(Debug, Clone, Args)]
pub struct HistoryArgs {
    /// From this time on, as 2026-02-03T02:30:00Z [default: 30 days before the end]
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub from: Option<Timestamp>,
    /// Up to this time [default: now]
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub to: Option<Timestamp>,
    /// At most so many entries, the newest ones
    #[arg(long, value_name = "N", default_value = "100")]
    pub limit: usize,
    /// Name or id of a node, container, instance or registered server
    #[arg(value_name = "SERVER")]
    pub server: String,
}

fn moment(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text).ok_or_else(|| "write a time as 2026-02-03T02:30:00Z".to_owned())
}

/// The health area's paths begin with these.
const AREA: [&str; 2] = ["capabilities", "health"];

fn path<'a>(rest: &[&'a str]) -> Vec<&'a str> {
    AREA.iter().copied().chain(rest.iter().copied()).collect()
}

pub async fn run(command: HealthCommand, cx: &Context) -> anyhow::Result<u8> {
    match command {
        HealthCommand::Ls(args) => {
            let status = args.status.map(|s| match s {
                StatusArg::Healthy => "healthy",
                StatusArg::Unhealthy => "unhealthy",
                StatusArg::Unknown => "unknown",
            });
            let call = Call::get(&AREA)
                .query_opt("status", status)
                .query_opt("kind", args.kind.map(KindArg::as_str));
            let list = cx.client.list::<HealthView>(call, None).await?;
            if args.quiet {
                cx.out.lines(list.items.iter().map(|v| &v.server_id))?;
                return Ok(0);
            }
            let now = now();
            let columns = [
                Column::new("SERVER", |v: &HealthView| v.server_name.clone()),
                Column::new("KIND", |v: &HealthView| v.kind.as_str().to_owned()),
                Column::new("STATUS", status_of),
                Column::new("FAILED", failed),
                Column::new("RESPONSE", response).right(),
                Column::new("24H", |v: &HealthView| percent(v.availability.day)).right(),
                Column::new("7D", |v: &HealthView| percent(v.availability.week)).right().wide(),
                Column::new("30D", |v: &HealthView| percent(v.availability.month)).right(),
                Column::new("SINCE", move |v: &HealthView| human::ago_opt(v.since, now)),
                Column::new("CHECKED", move |v: &HealthView| human::ago_opt(v.last_check, now)).wide(),
                Column::new("ID", |v: &HealthView| v.server_id.clone()).wide(),
            ];
            cx.out.list(&list, &columns, |v| v.server_name.clone())?;
        }
        HealthCommand::Get(args) => {
            let view = cx.client.fetch::<HealthView>(Call::get(&path(&[&args.server]))).await?;
            let rows = card(&view.value, now());
            cx.out.card(&view, &view.value.server_name, &rows)?;
        }
        HealthCommand::Check(args) => {
            let mut well = true;
            for server in &args.servers {
                let view = cx.client.fetch::<HealthView>(Call::post(&path(&[server, "check"]))).await?;
                well &= view.value.status == HealthStatus::Healthy;
                let rows = card(&view.value, now());
                cx.out.card(&view, &view.value.server_name, &rows)?;
            }
            return Ok(u8::from(!well));
        }
        HealthCommand::History(args) => {
            let call = Call::get(&path(&[&args.server, "history"]))
                .query_opt("from", args.from)
                .query_opt("to", args.to);
            let list = cx.client.list::<HealthInterval>(call, Some(args.limit)).await?;
            let now = now();
            let columns = [
                Column::new("FROM", |i: &HealthInterval| i.from.to_string()),
                Column::new("TO", |i: &HealthInterval| i.to.map(|t| t.to_string()).unwrap_or_default()),
                Column::new("FOR", move |i: &HealthInterval| human::span(i.to.unwrap_or(now).since(i.from))),
                Column::new("STATUS", |i: &HealthInterval| word(i.status, i.degraded)),
                Column::new("FAILED", |i: &HealthInterval| {
                    i.failed.iter().map(|c| c.as_str()).collect::<Vec<_>>().join(",")
                }),
            ];
            cx.out.list(&list, &columns, |i| i.from.to_string())?;
        }
    }
    Ok(0)
}

fn word(status: HealthStatus, degraded: bool) -> String {
    if degraded { "degraded" } else { status.as_str() }.to_owned()
}

fn status_of(v: &HealthView) -> String {
    word(v.status, v.degraded)
}

/// What failed; nothing where nobody checked yet.
fn failed(v: &HealthView) -> String {
    if v.last_check.is_none() {
        return String::new();
    }
    v.checks.failed().iter().map(|c| c.as_str()).collect::<Vec<_>>().join(",")
}

fn response(v: &HealthView) -> String {
    v.response_time.map(|ms| format!("{ms:.1}ms")).unwrap_or_default()
}

fn percent(share: Option<f64>) -> String {
    share.map(|p| format!("{p}%")).unwrap_or_default()
}

fn card(v: &HealthView, now: Timestamp) -> Vec<(&'static str, String)> {
    let Availability { day, week, month } = v.availability;
    let shares = [("24h", day), ("7d", week), ("30d", month)];
    let shares = shares.into_iter().filter_map(|(over, share)| Some(format!("{}% ({over})", share?)));
    let checks = v.details.iter().map(|d| {
        let mark = if d.ok { "ok    " } else { "failed" };
        let limit = if d.limit.is_empty() {
            String::new()
        } else {
            format!(" ({})", d.limit)
        };
        // What could not be measured says so in its message.
        let measured = if d.message.starts_with(&d.measured) {
            String::new()
        } else {
            format!("{}{limit} ", d.measured)
        };
        format!("{mark} {}: {measured}{}", d.check.as_str(), d.message)
            .trim_end()
            .to_owned()
    });
    vec![
        ("Name", v.server_name.clone()),
        ("Id", v.server_id.clone()),
        ("Kind", v.kind.as_str().to_owned()),
        ("Status", status_of(v)),
        ("Since", human::ago_opt(v.since, now)),
        ("Checked", human::ago_opt(v.last_check, now)),
        ("Response", response(v)),
        (
            "Uptime",
            if v.uptime == 0 {
                String::new()
            } else {
                human::span(i64::try_from(v.uptime.saturating_mul(1000)).unwrap_or(i64::MAX))
            },
        ),
        ("Availability", shares.collect::<Vec<_>>().join(", ")),
        ("Checks", checks.collect::<Vec<_>>().join("\n")),
    ]
}
