//! `neuralmesh audit …`

use crate::client::Call;
use crate::context::Context;
use crate::output::{note, table::Column};
use clap::{Args, Subcommand};
use nm_types::auth::AuditEntryView;

#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// List what was done, the newest first
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Check that no entry was changed, removed or added behind our back
    Verify,
}

#[derive(Debug, Clone, Args)]
pub struct LsArgs {
    /// At most so many
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    pub limit: usize,
}

pub async fn run(command: AuditCommand, cx: &Context) -> anyhow::Result<u8> {
    match command {
        AuditCommand::Ls(args) => {
            let list = cx.client.list::<AuditEntryView>(Call::get(&["audit"]), Some(args.limit)).await?;
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
            let verdict = cx.client.fetch::<serde_json::Value>(Call::get(&["audit", "verify"])).await?;
            cx.out.json(&verdict.raw)?;
            if let Some(message) = &verdict.message {
                note(message);
            }
        }
    }
    Ok(0)
}
