//! `neuralmesh clusters …`

mod show;
mod write;

use crate::client::{Call, now};
use crate::context::Context;
use crate::output::{human, table::Column};
use clap::{Args, Subcommand};
use nm_types::Timestamp;
use nm_types::cluster::{ClusterEventView, ClusterMetricsView, ClusterView, DatabaseCredentials};
use serde_json::json;

#[derive(Debug, Subcommand)]
pub enum ClustersCommand {
    /// List clusters
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Put servers behind one entry point
    Create(Box<write::CreateArgs>),
    /// Show a cluster: its members, its entry, what is the matter with it
    #[command(visible_aliases = ["show", "inspect"])]
    Get(OneArgs),
    /// Change a cluster: only what is named changes
    #[command(visible_alias = "update")]
    Set(Box<write::SetArgs>),
    /// Remove clusters; their servers stay, but for those that scaling made
    Rm(ManyArgs),
    /// Add servers to a cluster
    Add(MembersArgs),
    /// Take servers out of a cluster
    Remove(RemoveArgs),
    /// Show what was measured
    Metrics(MetricsArgs),
    /// Show what happened, and why
    Events(EventsArgs),
    /// Have another server of a high-availability cluster take the traffic
    Failover(FailoverArgs),
    /// Have another member of a database cluster take the writes
    Switchover(SwitchoverArgs),
    /// Show the users of a database cluster, with their passwords
    Credentials(OneArgs),
}

#[derive(Debug, Clone, Args)]
pub struct LsArgs {
    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Clone, Args)]
pub struct OneArgs {
    /// Name or id
    #[arg(value_name = "CLUSTER")]
    pub cluster: String,
}

#[derive(Debug, Clone, Args)]
pub struct ManyArgs {
    /// Names or ids
    #[arg(value_name = "CLUSTER", required = true)]
    pub clusters: Vec<String>,
}

#[derive(Debug, Clone, Args)]
pub struct MembersArgs {
    /// Name or id
    #[arg(value_name = "CLUSTER")]
    pub cluster: String,
    /// Servers as NAME[:PORT][,weight=N][,backup]
    #[arg(value_name = "SERVER", required = true, value_parser = write::server)]
    pub servers: Vec<serde_json::Value>,
}

#[derive(Debug, Clone, Args)]
pub struct RemoveArgs {
    /// Name or id
    #[arg(value_name = "CLUSTER")]
    pub cluster: String,
    /// Names or ids of servers
    #[arg(value_name = "SERVER", required = true)]
    pub servers: Vec<String>,
}

fn moment(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text).ok_or_else(|| "write a time as 2026-02-03T02:30:00Z".to_owned())
}

#[derive(Debug, Clone, Args)]
pub struct MetricsArgs {
    /// From this time on, as 2026-02-03T02:30:00Z [default: an hour before the end]
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub from: Option<Timestamp>,
    /// Up to this time [default: now]
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub to: Option<Timestamp>,
    /// At most so many points; each is over a longer time then
    #[arg(long, value_name = "N", default_value = "12")]
    pub limit: u32,
    /// Name or id
    #[arg(value_name = "CLUSTER")]
    pub cluster: String,
}

#[derive(Debug, Clone, Args)]
pub struct EventsArgs {
    /// At most so many events, the newest ones
    #[arg(long, value_name = "N", default_value = "50")]
    pub limit: usize,
    /// Name or id
    #[arg(value_name = "CLUSTER")]
    pub cluster: String,
}

#[derive(Debug, Clone, Args)]
pub struct FailoverArgs {
    /// Name or id
    #[arg(value_name = "CLUSTER")]
    pub cluster: String,
    /// The server that is to take the traffic [default: the next one that is up]
    #[arg(value_name = "SERVER")]
    pub server: Option<String>,
}

#[derive(Debug, Clone, Args)]
pub struct SwitchoverArgs {
    /// Name or id
    #[arg(value_name = "CLUSTER")]
    pub cluster: String,
    /// The node that is to take the writes [default: the replica that is least behind]
    #[arg(value_name = "NODE")]
    pub to: Option<String>,
}

/// The area's paths begin with these.
const AREA: [&str; 2] = ["capabilities", "clusters"];

fn path<'a>(rest: &[&'a str]) -> Vec<&'a str> {
    AREA.iter().copied().chain(rest.iter().copied()).collect()
}

pub async fn run(command: ClustersCommand, cx: &Context) -> anyhow::Result<()> {
    match command {
        ClustersCommand::Ls(args) => {
            let list = cx.client.list::<ClusterView>(Call::get(&AREA), None).await?;
            if args.quiet {
                return Ok(cx.out.lines(list.items.iter().map(|c| c.id.as_str()))?);
            }
            let columns = [
                Column::new("NAME", |c: &ClusterView| c.name.to_string()),
                Column::new("TYPE", |c: &ClusterView| c.kind.as_str().to_owned()),
                Column::new("STATUS", |c: &ClusterView| c.status.as_str().to_owned()),
                Column::new("UP", show::up).right(),
                Column::new("ENDPOINT", |c: &ClusterView| c.endpoint.clone().unwrap_or_default()),
                Column::new("REQUESTS", |c: &ClusterView| c.metrics.total_requests.to_string()).right(),
                Column::new("ERRORS", |c: &ClusterView| show::percent(c.metrics.error_rate)).right(),
                Column::new("P99", |c: &ClusterView| show::millis(c.metrics.p99)).right().wide(),
                Column::new("ID", |c: &ClusterView| c.id.to_string()).wide(),
            ];
            cx.out.list(&list, &columns, |c| c.name.to_string())?;
        }
        ClustersCommand::Create(args) => write::create(*args, cx).await?,
        ClustersCommand::Set(args) => write::set(*args, cx).await?,
        ClustersCommand::Get(args) => {
            let view = cx.client.fetch::<ClusterView>(Call::get(&path(&[&args.cluster]))).await?;
            let rows = show::card(&view.value, now());
            cx.out.card(&view, view.value.name.as_str(), &rows)?;
        }
        ClustersCommand::Rm(args) => {
            for named in &args.clusters {
                cx.client.done(Call::delete(&path(&[named]))).await?;
                cx.out.line(named)?;
            }
        }
        ClustersCommand::Add(args) => {
            let call = Call::post(&path(&[&args.cluster, "servers"])).json(&json!({ "servers": args.servers }))?;
            let view = cx.client.fetch::<ClusterView>(call).await?;
            cx.out.result(&view, view.value.name.as_str())?;
        }
        ClustersCommand::Remove(args) => {
            for server in &args.servers {
                let call = Call::delete(&path(&[&args.cluster, "servers", server]));
                cx.client.fetch::<ClusterView>(call).await?;
                cx.out.line(server)?;
            }
        }
        ClustersCommand::Metrics(args) => {
            let call = Call::get(&path(&[&args.cluster, "metrics"]))
                .query_opt("from", args.from)
                .query_opt("to", args.to)
                .query("limit", args.limit);
            let view = cx.client.fetch::<ClusterMetricsView>(call).await?;
            let rows = show::metrics(&view.value);
            cx.out.card(&view, &args.cluster, &rows)?;
        }
        ClustersCommand::Events(args) => {
            let call = Call::get(&path(&[&args.cluster, "events"]));
            let list = cx.client.list::<ClusterEventView>(call, Some(args.limit)).await?;
            let now = now();
            let columns = [
                Column::new("WHEN", move |e: &ClusterEventView| human::ago(e.at, now)),
                Column::new("WHAT", |e: &ClusterEventView| e.kind.as_str().to_owned()),
                Column::new("SERVER", |e: &ClusterEventView| e.member.clone().unwrap_or_default()),
                Column::new("WHY", |e: &ClusterEventView| e.reason.clone()),
                Column::new("ENTRY", |e: &ClusterEventView| {
                    e.node_id.as_ref().map(ToString::to_string).unwrap_or_default()
                })
                .wide(),
                Column::new("AT", |e: &ClusterEventView| e.at.to_string()).wide(),
            ];
            cx.out.list(&list, &columns, |e| e.sequence.to_string())?;
        }
        ClustersCommand::Failover(args) => {
            let call = Call::post(&path(&[&args.cluster, "failover"])).json(&json!({ "server": args.server }))?;
            let view = cx.client.fetch::<ClusterView>(call).await?;
            let active = view.value.active_member.clone().unwrap_or_default();
            cx.out.result(&view, &active)?;
        }
        ClustersCommand::Switchover(args) => {
            let mut body = json!({});
            if let Some(to) = args.to {
                body["to"] = to.into();
            }
            let call = Call::post(&path(&[&args.cluster, "database", "switchover"])).json(&body)?;
            let view = cx.client.fetch::<ClusterView>(call).await?;
            let primary = view.value.database.as_ref().and_then(|d| d.primary.clone()).unwrap_or_default();
            cx.out.result(&view, &primary)?;
        }
        ClustersCommand::Credentials(args) => {
            let call = Call::get(&path(&[&args.cluster, "database", "credentials"]));
            let known = cx.client.fetch::<DatabaseCredentials>(call).await?;
            cx.out
                .card(&known, &known.value.application.user, &show::credentials(&known.value))?;
        }
    }
    Ok(())
}
