//! `neuralmesh audit …`

use super::containers::flags::moment;
use crate::client::Call;
use crate::context::Context;
use crate::output::table::Column;
use clap::{Args, Subcommand};
use nm_types::Timestamp;
use nm_types::auth::{AuditEntryView, AuditVerdict};
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// List what was done, the newest first
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Check that no entry was changed, removed or added behind our back
    Verify,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  neuralmesh audit ls --actor ann --from 2d
  neuralmesh audit ls --action auth.login --outcome unauthorized -o json")]
pub struct LsArgs {
    /// Only what this user or token did
    #[arg(long, value_name = "NAME")]
    pub actor: Option<String>,
    /// Only this action: container.create, auth.login, …
    #[arg(long, value_name = "ACTION")]
    pub action: Option<String>,
    /// Only what was done to this
    #[arg(long, value_name = "ID")]
    pub target: Option<String>,
    /// Only what came out so: ok, or the code of an error
    #[arg(long, value_name = "OUTCOME")]
    pub outcome: Option<String>,
    /// Only from this time on: 10m, 2026-02-03T02:30:00Z
    #[arg(long, visible_alias = "since", value_name = "TIME", value_parser = moment)]
    pub from: Option<Timestamp>,
    /// Only before this time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub until: Option<Timestamp>,
    /// At most so many
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    pub limit: usize,
}

pub async fn run(command: AuditCommand, cx: &Context) -> anyhow::Result<u8> {
    match command {
        AuditCommand::Ls(args) => {
            let call = Call::get(&["audit"])
                .query_opt("actor", args.actor)
                .query_opt("action", args.action)
                .query_opt("target", args.target)
                .query_opt("outcome", args.outcome)
                .query_opt("from", args.from)
                .query_opt("until", args.until);
            let list = cx.client.list::<AuditEntryView>(call, Some(args.limit)).await?;
            let columns = [
                Column::new("#", |a: &AuditEntryView| a.sequence.to_string()).right(),
                Column::new("TIME", |a: &AuditEntryView| a.time.to_string()),
                Column::new("ACTOR", |a: &AuditEntryView| a.actor.clone()),
                Column::new("ACTION", |a: &AuditEntryView| a.action.clone()),
                Column::new("TARGET", |a: &AuditEntryView| a.target.clone().unwrap_or_default()),
                Column::new("OUTCOME", |a: &AuditEntryView| a.outcome.clone()),
                Column::new("ADDRESS", |a: &AuditEntryView| a.address.clone().unwrap_or_default()).wide(),
                Column::new("REQUEST", |a: &AuditEntryView| a.request_id.clone().unwrap_or_default()).wide(),
                Column::new(
                    "DETAIL",
                    |a: &AuditEntryView| if a.detail.is_null() { String::new() } else { a.detail.to_string() },
                )
                .wide(),
            ];
            cx.out.list(&list, &columns, |a| a.sequence.to_string())?;
        }
        AuditCommand::Verify => {
            // It reads the whole log.
            let call = Call::get(&["audit", "verify"]).timeout(Duration::from_secs(600));
            let verdict = cx.client.fetch::<AuditVerdict>(call).await?;
            let text = match &verdict.value.first_broken {
                None => format!("The audit log is intact: {} entries.", verdict.value.entries),
                Some(first) => format!(
                    "The audit log was tampered with, first at entry {}: {}.",
                    first.sequence, first.reason
                ),
            };
            cx.out.result(&verdict, &text)?;
            return Ok(u8::from(!verdict.value.intact));
        }
    }
    Ok(0)
}
