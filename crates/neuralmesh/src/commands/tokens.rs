//! `neuralmesh tokens …`

use super::users::RoleArg;
use crate::client::{Call, now};
use crate::context::Context;
use crate::output::{human, note, table::Column};
use clap::{Args, Subcommand};
use nm_types::auth::{AREAS, CreatedToken, Scope, TokenView};
use nm_types::text::Title;
use serde_json::json;

#[derive(Debug, Subcommand)]
pub enum TokensCommand {
    /// List tokens
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Make a token; it is shown this once
    Create(CreateArgs),
    /// Revoke tokens
    #[command(visible_aliases = ["remove", "revoke"])]
    Rm(RmArgs),
}

#[derive(Debug, Clone, Args)]
pub struct LsArgs {
    /// Everybody's, for admins
    #[arg(short, long)]
    pub all: bool,
    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  neuralmesh tokens create ci --role operator --scope containers:write --days 30
  export NEURALMESH_TOKEN=$(neuralmesh tokens create monitoring)")]
pub struct CreateArgs {
    /// What it may do; at most your own role
    #[arg(long, value_enum, value_name = "ROLE", default_value = "viewer")]
    pub role: RoleArg,
    /// Narrow it to an area, as containers:read, containers:write or *:read; may be repeated [default: all the role may do]
    #[arg(long, value_name = "AREA:VERB", value_parser = scope)]
    pub scope: Vec<Scope>,
    /// Days until it ends, 1 to 3650
    #[arg(long, value_name = "DAYS", default_value = "90", value_parser = clap::value_parser!(u16).range(1..=3650))]
    pub days: u16,
    /// What it is for
    #[arg(value_name = "NAME")]
    pub name: Title,
}

#[derive(Debug, Clone, Args)]
pub struct RmArgs {
    /// Names or ids
    #[arg(value_name = "TOKEN", required = true)]
    pub tokens: Vec<String>,
}

fn scope(text: &str) -> Result<Scope, String> {
    Scope::parse(text).ok_or_else(|| format!("write AREA:read or AREA:write; areas: *, {}", AREAS.join(", ")))
}

pub async fn run(command: TokensCommand, cx: &Context) -> anyhow::Result<u8> {
    match command {
        TokensCommand::Ls(args) => {
            let list = cx
                .client
                .list::<TokenView>(Call::get(&["tokens"]).flag("all", args.all), None)
                .await?;
            if args.quiet {
                cx.out.lines(list.items.iter().map(|t| t.id.as_str()))?;
                return Ok(0);
            }
            let now = now();
            let columns = [
                Column::new("NAME", |t: &TokenView| t.name.to_string()),
                Column::new("ROLE", |t: &TokenView| t.role.as_str().to_owned()),
                Column::new("SCOPES", |t: &TokenView| {
                    if t.scopes.is_empty() {
                        "all".to_owned()
                    } else {
                        t.scopes.iter().map(Scope::to_string).collect::<Vec<_>>().join(",")
                    }
                }),
                Column::new("ENDS", move |t: &TokenView| human::until(t.expires, now)),
                Column::new("LAST USED", move |t: &TokenView| {
                    t.last_used.map_or_else(|| "never".to_owned(), |then| human::ago(then, now))
                }),
                Column::new("ID", |t: &TokenView| t.id.to_string()),
                Column::new("USER", |t: &TokenView| t.user_id.to_string()).wide(),
            ];
            cx.out.list(&list, &columns, |t| t.name.to_string())?;
        }
        TokensCommand::Create(args) => {
            let body = json!({ "name": args.name, "role": args.role.role(), "scopes": args.scope, "expiresInDays": args.days });
            let created = cx.client.fetch::<CreatedToken>(Call::create(&["tokens"]).json(&body)?).await?;
            cx.out.result(&created, &created.value.token)?;
            if !cx.out.is_json() {
                note(format!(
                    "It is shown this once, and ends {}.",
                    human::until(created.value.view.expires, now())
                ));
            }
        }
        TokensCommand::Rm(args) => {
            let known = cx.client.list::<TokenView>(Call::get(&["tokens"]), None).await?;
            for named in &args.tokens {
                let found: Vec<_> = known.items.iter().filter(|t| t.name.as_str() == named).collect();
                let id = match found.as_slice() {
                    [] => named.as_str(),
                    [one] => one.id.as_str(),
                    many => anyhow::bail!("{} tokens are named {named}: use the id", many.len()),
                };
                cx.client.done(Call::delete(&["tokens", id])).await?;
                cx.out.line(named)?;
            }
        }
    }
    Ok(0)
}
