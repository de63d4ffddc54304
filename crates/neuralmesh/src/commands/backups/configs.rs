//! `neuralmesh backups configs …`: flags for what is asked for often, `--set` for everything the API takes.

use super::{path, show};
use crate::client::{Call, now};
use crate::commands::settings::{self, put, read};
use crate::context::Context;
use crate::output::{human, note, report::usage, table::Column};
use clap::{Args, Subcommand};
use nm_types::backup::BackupConfigView;
use serde_json::{Map, Value};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct ConfigsGroup {
    #[command(subcommand)]
    pub command: ConfigsCommand,
}

#[derive(Debug, Subcommand)]
pub enum ConfigsCommand {
    /// List configs
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Say what is backed up, when, where to and for how long
    Create(Box<CreateArgs>),
    /// Show a config
    #[command(visible_aliases = ["show", "inspect"])]
    Get(OneArgs),
    /// Change a config: only what is named changes
    #[command(visible_alias = "update")]
    Set(Box<SetArgs>),
    /// Have nothing of a config run by itself
    Pause(OneArgs),
    /// Have it run by its schedule again
    Resume(OneArgs),
    /// Forget configs; their repositories stay
    Rm(RmArgs),
}

#[derive(Debug, Clone, Args)]
pub struct LsArgs {
    /// Those of this server alone, by id or name
    #[arg(long, value_name = "SERVER")]
    pub server: Option<String>,
    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Clone, Args)]
pub struct OneArgs {
    /// The config's id, or its name where one alone has it
    #[arg(value_name = "CONFIG")]
    pub config: String,
}

#[derive(Debug, Clone, Args)]
pub struct RmArgs {
    /// Also where backups are in its repository, which only its password opens
    #[arg(long)]
    pub force: bool,
    /// Ids or names
    #[arg(value_name = "CONFIG", required = true)]
    pub configs: Vec<String>,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
A destination is a folder of the server's node, s3:https://host/bucket/prefix, sftp:user@host:/path or rest:https://host/path.

Examples:
  neuralmesh backups configs create shop-db --server shop-db --to /backups --schedule '0 2 * * *'
  neuralmesh backups configs create etc --server node-1 --path /srv/app --to sftp:backup@vault.example.com:/srv/backups --credentials sftp.json
  neuralmesh backups configs create shop --server shop --to /backups --retention 90 --set keep.monthly=12 --set check.testRestore=@monthly")]
pub struct CreateArgs {
    /// The node or container, by name or id
    #[arg(long, value_name = "SERVER")]
    pub server: String,
    /// Where to
    #[arg(long = "to", value_name = "DESTINATION")]
    pub destination: String,
    #[command(flatten)]
    pub settings: Settings,
    /// The config's name
    #[arg(value_name = "NAME")]
    pub name: String,
}

#[derive(Debug, Clone, Args)]
pub struct SetArgs {
    /// Call it so
    #[arg(long, value_name = "NAME")]
    pub rename: Option<String>,
    /// Where to from now on; what was backed up stays where it is
    #[arg(long = "to", value_name = "DESTINATION")]
    pub destination: Option<String>,
    #[command(flatten)]
    pub settings: Settings,
    /// The config's id, or its name where one alone has it
    #[arg(value_name = "CONFIG")]
    pub config: String,
}

#[derive(Debug, Clone, Args)]
pub struct Settings {
    /// When, as a cron line of five fields [default: only when it is asked for]
    #[arg(long, value_name = "CRON")]
    pub schedule: Option<String>,
    /// The schedule's time zone, as Europe/Berlin [default: UTC]
    #[arg(long, value_name = "ZONE")]
    pub time_zone: Option<String>,
    /// Days that a backup is kept [default: 30]
    #[arg(long, value_name = "DAYS")]
    pub retention: Option<u32>,
    /// full, incremental or differential [default: incremental]
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<String>,
    /// A path of a node that is backed up, in place of its volumes; may be repeated
    #[arg(long = "path", value_name = "PATH")]
    pub paths: Vec<String>,
    /// What is left out, as .gitignore has it; may be repeated
    #[arg(long = "exclude", value_name = "PATTERN")]
    pub excludes: Vec<String>,
    /// How a container's files are kept from changing: auto, pause, stop, dump or none
    #[arg(long, value_name = "HOW")]
    pub consistency: Option<String>,
    /// A JSON file with what opens the destination, - for standard input: accessKey and secretKey, username and password, or privateKey and hostKey
    #[arg(long, value_name = "FILE")]
    pub credentials: Option<PathBuf>,
    /// The same for the second destination
    #[arg(long, value_name = "FILE")]
    pub copy_credentials: Option<PathBuf>,
    /// A field of the API and its value, as keep.daily=7; may be repeated
    #[arg(long = "set", value_name = "FIELD=VALUE", value_parser = setting)]
    pub set: Vec<(String, Value)>,
}

/// As [`settings::parse`]: credentials are no setting.
fn setting(text: &str) -> Result<(String, Value), String> {
    settings::parse(
        text,
        &[("credentials", "--credentials"), ("copy.credentials", "--copy-credentials")],
    )
}

impl Settings {
    fn into_body(self, body: &mut Map<String, Value>) -> anyhow::Result<()> {
        let texts = [
            ("schedule", self.schedule),
            ("timeZone", self.time_zone),
            ("type", self.kind),
            ("consistency", self.consistency),
        ];
        for (field, value) in texts {
            value.into_iter().try_for_each(|value| put(body, field, value.into()))?;
        }
        if let Some(days) = self.retention {
            put(body, "retention", days.into())?;
        }
        for (field, list) in [("paths", self.paths), ("excludes", self.excludes)] {
            if !list.is_empty() {
                put(body, field, list.into())?;
            }
        }
        self.set.into_iter().try_for_each(|(field, value)| put(body, &field, value))?;
        for (field, file) in [("credentials", self.credentials), ("copy.credentials", self.copy_credentials)] {
            if let Some(file) = file {
                let value: Value = serde_json::from_str(&read(&file)?).map_err(|e| usage(format!("{} is no JSON: {e}", file.display())))?;
                put(body, field, value)?;
            }
        }
        Ok(())
    }
}

pub async fn run(command: ConfigsCommand, cx: &Context) -> anyhow::Result<()> {
    match command {
        ConfigsCommand::Ls(args) => {
            let call = Call::get(&path(&["configs"])).query_opt("serverId", args.server.as_ref());
            let list = cx.client.list::<BackupConfigView>(call, None).await?;
            if args.quiet {
                return Ok(cx.out.lines(list.items.iter().map(|c| c.id.as_str()))?);
            }
            let now = now();
            let columns = [
                Column::new("NAME", |c: &BackupConfigView| c.name.to_string()),
                Column::new("STATUS", show::config_status),
                Column::new("SCHEDULE", |c: &BackupConfigView| {
                    c.schedule.as_ref().map(ToString::to_string).unwrap_or_default()
                }),
                Column::new("TYPE", |c: &BackupConfigView| c.kind.as_str().to_owned()),
                Column::new("LAST", move |c: &BackupConfigView| human::ago_opt(c.last_backup, now)),
                Column::new("NEXT", move |c: &BackupConfigView| {
                    c.next_backup.map(|at| human::until(at, now)).unwrap_or_default()
                }),
                Column::new("DESTINATION", |c: &BackupConfigView| c.destination.as_str().to_owned()),
                Column::new("ID", |c: &BackupConfigView| c.id.to_string()),
                Column::new("SERVER", |c: &BackupConfigView| c.server_id.clone()).wide(),
            ];
            cx.out.list(&list, &columns, |c| c.name.to_string())?;
        }
        ConfigsCommand::Create(args) => {
            let mut body = Map::new();
            body.insert("name".into(), args.name.into());
            body.insert("serverId".into(), args.server.into());
            body.insert("destination".into(), args.destination.into());
            args.settings.into_body(&mut body)?;
            let view = cx
                .client
                .fetch::<BackupConfigView>(Call::create(&path(&["configs"])).json(&body)?)
                .await?;
            cx.out.result(&view, view.value.id.as_str())?;
        }
        ConfigsCommand::Get(args) => {
            let view = cx
                .client
                .fetch::<BackupConfigView>(Call::get(&path(&["configs", &args.config])))
                .await?;
            cx.out.card(&view, view.value.name.as_str(), &show::config(&view.value, now()))?;
        }
        ConfigsCommand::Set(args) => {
            let mut body = Map::new();
            if let Some(name) = args.rename {
                body.insert("name".into(), name.into());
            }
            if let Some(destination) = args.destination {
                body.insert("destination".into(), destination.into());
            }
            args.settings.into_body(&mut body)?;
            if body.is_empty() {
                return Err(usage("say what is to change, as --retention 90 or --set keep.daily=7"));
            }
            change(&args.config, &body, cx).await?;
        }
        ConfigsCommand::Pause(args) => change(&args.config, &serde_json::json!({ "status": "paused" }), cx).await?,
        ConfigsCommand::Resume(args) => change(&args.config, &serde_json::json!({ "status": "active" }), cx).await?,
        ConfigsCommand::Rm(args) => {
            for config in &args.configs {
                cx.client
                    .done(Call::delete(&path(&["configs", config])).flag("force", args.force))
                    .await?;
                cx.out.line(config)?;
                note("its repository stays where it is");
            }
        }
    }
    Ok(())
}

async fn change(config: &str, body: &impl serde::Serialize, cx: &Context) -> anyhow::Result<()> {
    let call = Call::patch(&path(&["configs", config])).json(body)?;
    let view = cx.client.fetch::<BackupConfigView>(call).await?;
    cx.out.result(&view, view.value.name.as_str())?;
    Ok(())
}
