//! `neuralmesh alerts silences …`

use super::SeverityArg;
use crate::client::{Call, now};
use crate::commands::containers::flags::seconds;
use crate::context::Context;
use crate::output::{human, table::Column};
use clap::{Args, Subcommand};
use nm_types::alert::AlertSilenceView;
use serde_json::json;

#[derive(Debug, Subcommand)]
pub enum SilencesCommand {
    /// List silences
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Let alerts be told to nobody for a time
    #[command(visible_alias = "create")]
    Add(AddArgs),
    /// End silences: what still fires is told now
    #[command(visible_aliases = ["remove", "end"])]
    Rm(RmArgs),
}

#[derive(Debug, Clone, Args)]
pub struct LsArgs {
    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Alerts are made all the same, and shown. Those that still fire when it ends are told then.

Examples:
  neuralmesh alerts silences add 2h --on alder --comment 'new disks'
  neuralmesh alerts silences add 30m --rule 'Node lost' --comment 'moving the rack'")]
pub struct AddArgs {
    /// Only alerts of this rule, by name or id
    #[arg(long, value_name = "RULE")]
    pub rule: Option<String>,
    /// Only alerts of this server, by name or id
    #[arg(long = "on", value_name = "SERVER")]
    pub server: Option<String>,
    /// Only alerts of this severity
    #[arg(long, value_enum, value_name = "SEVERITY")]
    pub severity: Option<SeverityArg>,
    /// Why
    #[arg(short = 'm', long, value_name = "TEXT")]
    pub comment: String,
    /// For how long: 30m, 2h, 1d
    #[arg(value_name = "TIME", value_parser = seconds)]
    pub time: u64,
}

#[derive(Debug, Clone, Args)]
pub struct RmArgs {
    /// Ids
    #[arg(value_name = "SILENCE", required = true)]
    pub silences: Vec<String>,
}

/// What a silence is for.
fn of(silence: &AlertSilenceView) -> String {
    let matcher = &silence.matcher;
    let parts: Vec<String> = [
        matcher.rule_id.as_ref().map(|r| format!("rule {r}")),
        matcher.server_id.as_ref().map(|s| format!("server {s}")),
        matcher.severity.map(|s| s.as_str().to_owned()),
    ]
    .into_iter()
    .flatten()
    .collect();
    if parts.is_empty() { "everything".into() } else { parts.join(", ") }
}

pub async fn run(command: SilencesCommand, cx: &Context) -> anyhow::Result<()> {
    match command {
        SilencesCommand::Ls(args) => {
            let list = cx.client.list::<AlertSilenceView>(Call::get(&["alerts", "silences"]), None).await?;
            if args.quiet {
                return Ok(cx.out.lines(list.items.iter().map(|s| s.id.as_str()))?);
            }
            let now = now();
            let columns = [
                Column::new("ID", |s: &AlertSilenceView| s.id.to_string()),
                Column::new("ACTIVE", |s: &AlertSilenceView| if s.active { "yes" } else { "no" }.to_owned()),
                Column::new("OF", of),
                Column::new("ENDS", move |s: &AlertSilenceView| human::until(s.until, now)),
                Column::new("BY", |s: &AlertSilenceView| s.created_by.clone()),
                Column::new("COMMENT", |s: &AlertSilenceView| s.comment.to_string()),
            ];
            cx.out.list(&list, &columns, |s| s.id.to_string())?;
        }
        SilencesCommand::Add(args) => {
            let ms = i64::try_from(args.time).unwrap_or(i64::MAX).saturating_mul(1000);
            let mut matcher = json!({});
            for (field, value) in [("ruleId", args.rule), ("serverId", args.server)] {
                if let Some(value) = value {
                    matcher[field] = value.into();
                }
            }
            if let Some(severity) = args.severity {
                matcher["severity"] = json!(severity.severity());
            }
            let body = json!({ "matcher": matcher, "until": now().plus_millis(ms), "comment": args.comment });
            let made = cx
                .client
                .fetch::<AlertSilenceView>(Call::create(&["alerts", "silences"]).json(&body)?)
                .await?;
            cx.out.result(&made, made.value.id.as_str())?;
        }
        SilencesCommand::Rm(args) => {
            for id in &args.silences {
                cx.client.done(Call::delete(&["alerts", "silences", id])).await?;
                cx.out.line(id)?;
            }
        }
    }
    Ok(())
}
