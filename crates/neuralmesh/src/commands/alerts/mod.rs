//! `neuralmesh alerts …`

mod channels;
mod rules;
mod silences;

use crate::client::{Call, now};
use crate::context::Context;
use crate::output::{human, table::Column};
use clap::{Args, Subcommand, ValueEnum};
use nm_types::alert::{AlertDetail, AlertSeverity, AlertState, AlertView};

#[derive(Debug, Subcommand)]
pub enum AlertsCommand {
    /// List alerts, the newest first: those that go on, where nothing else is asked for
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Show an alert, and how it was told
    #[command(visible_alias = "inspect")]
    Get(AlertArgs),
    /// Say that you look after alerts: no more reminders of them
    #[command(visible_alias = "acknowledge")]
    Ack(AckArgs),
    /// What makes alerts
    #[command(visible_alias = "rule", subcommand)]
    Rules(rules::RulesCommand),
    /// Where alerts are told
    #[command(visible_alias = "channel", subcommand)]
    Channels(channels::ChannelsCommand),
    /// Times in which alerts are not told
    #[command(visible_alias = "silence", subcommand)]
    Silences(silences::SilencesCommand),
}

/// [`AlertState`] as an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StateArg {
    Pending,
    Firing,
    Resolved,
}

/// [`AlertSeverity`] as an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SeverityArg {
    Info,
    Warning,
    Critical,
}

impl SeverityArg {
    fn severity(self) -> AlertSeverity {
        match self {
            Self::Info => AlertSeverity::Info,
            Self::Warning => AlertSeverity::Warning,
            Self::Critical => AlertSeverity::Critical,
        }
    }
}

#[derive(Debug, Clone, Args)]
pub struct LsArgs {
    /// Also those that are over
    #[arg(short, long, conflicts_with = "state")]
    pub all: bool,
    /// Only those in this state
    #[arg(long, value_enum, value_name = "STATE")]
    pub state: Option<StateArg>,
    /// Only those of this severity
    #[arg(long, value_enum, value_name = "SEVERITY")]
    pub severity: Option<SeverityArg>,
    /// Only those of the server with this id
    #[arg(long = "on", value_name = "ID")]
    pub server: Option<String>,
    /// At most so many
    #[arg(long, value_name = "COUNT", default_value_t = 200)]
    pub limit: usize,
    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Clone, Args)]
pub struct AlertArgs {
    /// The alert's id
    #[arg(value_name = "ALERT")]
    pub alert: String,
}

#[derive(Debug, Clone, Args)]
pub struct AckArgs {
    /// Ids of alerts
    #[arg(value_name = "ALERT", required = true)]
    pub alerts: Vec<String>,
}

/// `pending`, `firing (silenced)`, …
fn state(alert: &AlertView) -> String {
    let mut out = alert.state.as_str().to_owned();
    if alert.state != AlertState::Resolved {
        if alert.silenced_by.is_some() {
            out.push_str(", silenced");
        }
        if alert.acknowledged_at.is_some() {
            out.push_str(", acknowledged");
        }
    }
    if alert.flapping {
        out.push_str(", flapping");
    }
    out
}

pub async fn run(command: AlertsCommand, cx: &Context) -> anyhow::Result<u8> {
    match command {
        AlertsCommand::Ls(args) => list(&args, cx).await?,
        AlertsCommand::Get(args) => get(&args.alert, cx).await?,
        AlertsCommand::Ack(args) => {
            for id in &args.alerts {
                let alert = cx.client.fetch::<AlertView>(Call::post(&["alerts", id, "acknowledge"])).await?;
                cx.out.result(&alert, alert.value.id.as_str())?;
            }
        }
        AlertsCommand::Rules(command) => rules::run(command, cx).await?,
        AlertsCommand::Channels(command) => return channels::run(command, cx).await,
        AlertsCommand::Silences(command) => silences::run(command, cx).await?,
    }
    Ok(0)
}

async fn list(args: &LsArgs, cx: &Context) -> anyhow::Result<()> {
    let word = |v: Option<clap::builder::PossibleValue>| v.map(|v| v.get_name().to_owned());
    let call = Call::get(&["alerts"])
        .query_opt("state", word(args.state.and_then(|s| s.to_possible_value())))
        .query_opt("severity", word(args.severity.and_then(|s| s.to_possible_value())))
        .query_opt("serverId", args.server.as_ref());
    let mut list = cx.client.list::<AlertView>(call, Some(args.limit)).await?;
    if !args.all && args.state.is_none() {
        let goes_on: Vec<bool> = list.items.iter().map(|a| a.state != AlertState::Resolved).collect();
        let mut keep = goes_on.iter();
        list.raw.retain(|_| keep.next().is_some_and(|k| *k));
        list.items.retain(|a| a.state != AlertState::Resolved);
    }
    if args.quiet {
        return Ok(cx.out.lines(list.items.iter().map(|a| a.id.as_str()))?);
    }
    let now = now();
    let columns = [
        Column::new("SEVERITY", |a: &AlertView| a.severity.as_str().to_owned()),
        Column::new("STATE", state),
        Column::new("SERVER", |a: &AlertView| a.server_name.clone()),
        Column::new("RULE", |a: &AlertView| a.rule_name.to_string()),
        Column::new("SINCE", move |a: &AlertView| human::ago(a.since, now)),
        Column::new("WHAT", |a: &AlertView| a.message.lines().next().unwrap_or_default().to_owned()),
        Column::new("ID", |a: &AlertView| a.id.to_string()).wide(),
    ];
    cx.out.list(&list, &columns, |a| a.id.to_string())?;
    Ok(())
}

async fn get(id: &str, cx: &Context) -> anyhow::Result<()> {
    let found = cx.client.fetch::<AlertDetail>(Call::get(&["alerts", id])).await?;
    let (alert, now) = (&found.value.alert, now());
    let told = found.value.deliveries.iter().map(|d| {
        let channel = d
            .channel_name
            .as_ref()
            .map_or_else(|| d.channel_id.to_string(), ToString::to_string);
        let mut line = format!("{} to {channel}: {:?} after {} attempts", d.event.as_str(), d.state, d.attempts).to_lowercase();
        if let Some(error) = &d.last_error {
            line.push_str(&format!(", {error}"));
        }
        line
    });
    let rows = [
        ("Alert", alert.id.to_string()),
        ("State", state(alert)),
        ("Severity", alert.severity.as_str().to_owned()),
        ("Rule", alert.rule_name.to_string()),
        (
            "Server",
            format!("{} {} ({})", alert.server_kind.as_str(), alert.server_name, alert.server_id),
        ),
        ("What", alert.message.clone()),
        ("Since", human::ago(alert.since, now)),
        ("Fired", human::ago_opt(alert.fired_at, now)),
        ("Over", human::ago_opt(alert.resolved_at, now)),
        ("Looked after by", alert.acknowledged_by.clone().unwrap_or_default()),
        (
            "Silenced by",
            alert.silenced_by.as_ref().map(ToString::to_string).unwrap_or_default(),
        ),
        ("Told", told.collect::<Vec<_>>().join("\n")),
    ];
    cx.out.card(&found, alert.id.as_str(), &rows)?;
    Ok(())
}
