//! `neuralmesh registries …`

use crate::client::{Call, now};
use crate::context::Context;
use crate::output::{human, table::Column};
use crate::prompt::{PasswordArgs, line};
use clap::{Args, Subcommand};
use nm_types::registry::RegistryView;
use nm_types::text::RegistryHost;
use serde_json::json;

#[derive(Debug, Subcommand)]
pub enum RegistriesCommand {
    /// List logins
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Save a login, or replace the one that is there
    #[command(visible_alias = "login")]
    Add(AddArgs),
    /// Forget logins
    #[command(visible_aliases = ["remove", "logout"])]
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
The password is sealed at the server and never given back.

Examples:
  neuralmesh registries add registry.example.com --username ci
  pass show registry | neuralmesh registries add ghcr.io -u ci --password-stdin")]
pub struct AddArgs {
    /// Name at the registry
    #[arg(short, long, value_name = "NAME")]
    pub username: Option<String>,
    #[command(flatten)]
    pub password: PasswordArgs,
    /// The registry's host, with its port where it has one
    #[arg(value_name = "HOST")]
    pub host: RegistryHost,
}

#[derive(Debug, Clone, Args)]
pub struct RmArgs {
    /// Hosts or ids
    #[arg(value_name = "REGISTRY", required = true)]
    pub registries: Vec<String>,
}

pub async fn run(command: RegistriesCommand, cx: &Context) -> anyhow::Result<u8> {
    match command {
        RegistriesCommand::Ls(args) => {
            let list = cx.client.list::<RegistryView>(Call::get(&["registries"]), None).await?;
            if args.quiet {
                cx.out.lines(list.items.iter().map(|r| r.id.as_str()))?;
                return Ok(0);
            }
            let now = now();
            let columns = [
                Column::new("HOST", |r: &RegistryView| r.host.to_string()),
                Column::new("USERNAME", |r: &RegistryView| r.username.to_string()),
                Column::new("UPDATED", move |r: &RegistryView| human::ago(r.updated, now)),
                Column::new("ID", |r: &RegistryView| r.id.to_string()).wide(),
            ];
            cx.out.list(&list, &columns, |r| r.host.to_string())?;
        }
        RegistriesCommand::Add(args) => {
            let username = match args.username {
                Some(username) => username,
                None => line("Username")?,
            };
            let password = args.password.read("Password", false)?;
            let body = json!({ "host": args.host, "username": username, "password": password.expose() });
            let known = cx.client.list::<RegistryView>(Call::get(&["registries"]), None).await?;
            let call = match known.items.iter().find(|r| r.host == args.host) {
                Some(known) => Call::put(&["registries", known.id.as_str()]),
                None => Call::create(&["registries"]),
            };
            let saved = cx.client.fetch::<RegistryView>(call.json(&body)?).await?;
            cx.out.result(&saved, saved.value.host.as_str())?;
        }
        RegistriesCommand::Rm(args) => {
            for named in &args.registries {
                cx.client.done(Call::delete(&["registries", named])).await?;
                cx.out.line(named)?;
            }
        }
    }
    Ok(0)
}
