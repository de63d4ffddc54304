//! `neuralmesh backups …`

mod configs;
mod restore;
mod show;

use super::operations::{begun, interruptible};
use crate::client::{Call, ClientError, Fetched, Outcome, now};
use crate::context::Context;
use crate::output::{human, note, table::Column, table::clean};
use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use nm_types::backup::{BackupKeyView, BackupTreeView, BackupView, OwnBackupView, RetentionDecision, RetentionPreview};
use nm_types::operation::OperationView;
use restore::RestoreArgs;
use serde_json::{Value, json};

#[derive(Debug, Subcommand)]
pub enum BackupsCommand {
    /// What is backed up, when, where to and for how long
    #[command(visible_alias = "config")]
    Configs(Box<configs::ConfigsGroup>),
    /// Make a backup now
    #[command(visible_alias = "perform")]
    Run(RunArgs),
    /// List backups, the newest first
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Show a backup
    #[command(visible_aliases = ["show", "inspect"])]
    Get(OneArgs),
    /// Show what is in a folder of a backup
    Files(FilesArgs),
    /// Restore a backup, all of it or some, in its place or elsewhere
    Restore(Box<RestoreArgs>),
    /// Restore a backup into a scratch folder and compare
    Verify(WaitArgs),
    /// Check the repository of a config
    Check(CheckArgs),
    /// Keep backups whatever retention says
    Pin(ManyArgs),
    /// Leave backups to retention again
    Unpin(ManyArgs),
    /// End a backup that is being made
    Cancel(OneArgs),
    /// Remove a backup from its repository
    Rm(RmArgs),
    /// Show what opens a config's repository without us: restic's repository and password
    Key(ConfigArgs),
    /// Show what retention would keep and remove now
    Retention(ConfigArgs),
    /// Show how the control plane is backed up, or do it now; `neuralmesh restore-control-plane` is the way back
    ControlPlane(ControlPlaneArgs),
}

#[derive(Debug, Clone, Args)]
pub struct ControlPlaneArgs {
    /// Make a backup now, and wait for it
    #[arg(long)]
    pub run: bool,
}

#[derive(Debug, Clone, Args)]
pub struct ConfigArgs {
    /// The config's id, or its name where one alone has it
    #[arg(value_name = "CONFIG")]
    pub config: String,
}

#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Say which operation makes it, and don't wait
    #[arg(long)]
    pub no_wait: bool,
    /// The config's id, or its name where one alone has it
    #[arg(value_name = "CONFIG")]
    pub config: String,
}

#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// Say which operation does it, and don't wait
    #[arg(long)]
    pub no_wait: bool,
    /// The config's id, or its name where one alone has it
    #[arg(value_name = "CONFIG")]
    pub config: String,
}

#[derive(Debug, Clone, Args)]
pub struct LsArgs {
    /// Those of this config alone
    #[arg(long, value_name = "CONFIG")]
    pub config: Option<String>,
    /// At most so many
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    pub limit: usize,
    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,
    /// Those of this status alone
    #[arg(long, value_enum)]
    pub status: Option<StatusArg>,
    /// Those of this server alone, by id or name
    #[arg(value_name = "SERVER")]
    pub server: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StatusArg {
    InProgress,
    Completed,
    Partial,
    Failed,
    Cancelled,
}

#[derive(Debug, Clone, Args)]
pub struct OneArgs {
    /// The backup's id
    #[arg(value_name = "BACKUP")]
    pub backup: String,
}

#[derive(Debug, Clone, Args)]
pub struct WaitArgs {
    /// Say which operation does it, and don't wait
    #[arg(long)]
    pub no_wait: bool,
    /// The backup's id
    #[arg(value_name = "BACKUP")]
    pub backup: String,
}

#[derive(Debug, Clone, Args)]
pub struct RmArgs {
    /// Also the last good one
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub what: WaitArgs,
}

#[derive(Debug, Clone, Args)]
pub struct ManyArgs {
    /// Ids of backups
    #[arg(value_name = "BACKUP", required = true)]
    pub backups: Vec<String>,
}

#[derive(Debug, Clone, Args)]
pub struct FilesArgs {
    /// Go on behind a page
    #[arg(long, value_name = "CURSOR")]
    pub cursor: Option<u64>,
    /// At most so many
    #[arg(long, value_name = "COUNT", default_value_t = 200)]
    pub limit: u32,
    /// The backup's id
    #[arg(value_name = "BACKUP")]
    pub backup: String,
    /// A folder in it
    #[arg(value_name = "PATH", default_value = "/")]
    pub path: String,
}

/// The area's paths begin with these.
const AREA: [&str; 2] = ["capabilities", "backups"];

fn path<'a>(rest: &[&'a str]) -> Vec<&'a str> {
    AREA.iter().copied().chain(rest.iter().copied()).collect()
}

pub async fn run(command: BackupsCommand, cx: &Context) -> anyhow::Result<()> {
    match command {
        BackupsCommand::Configs(group) => configs::run(group.command, cx).await?,
        BackupsCommand::Run(args) => perform(args, cx).await?,
        BackupsCommand::Ls(args) => list(args, cx).await?,
        BackupsCommand::Get(args) => {
            let view = cx.client.fetch::<BackupView>(Call::get(&path(&[&args.backup]))).await?;
            cx.out.card(&view, view.value.id.as_str(), &show::backup(&view.value, now()))?;
        }
        BackupsCommand::Files(args) => files(args, cx).await?,
        BackupsCommand::Restore(args) => restore::run(*args, cx).await?,
        BackupsCommand::Verify(args) => follow(Call::post(&path(&[&args.backup, "verify"])), args.no_wait, &args.backup, cx).await?,
        BackupsCommand::Check(args) => {
            follow(
                Call::post(&path(&["configs", &args.config, "check"])),
                args.no_wait,
                &args.config,
                cx,
            )
            .await?;
        }
        BackupsCommand::Pin(args) => pin(args, true, cx).await?,
        BackupsCommand::Unpin(args) => pin(args, false, cx).await?,
        BackupsCommand::Cancel(args) => {
            let view = cx.client.fetch::<BackupView>(Call::post(&path(&[&args.backup, "cancel"]))).await?;
            cx.out.result(&view, &args.backup)?;
        }
        BackupsCommand::Rm(RmArgs { force, what }) => {
            let call = Call::delete(&path(&[&what.backup])).flag("force", force);
            follow(call, what.no_wait, &what.backup, cx).await?;
        }
        BackupsCommand::Key(args) => key(&args.config, cx).await?,
        BackupsCommand::Retention(args) => retention(&args.config, cx).await?,
        BackupsCommand::ControlPlane(args) => {
            let path = ["system", "backup"];
            let call = if args.run { Call::post(&path) } else { Call::get(&path) };
            let view = cx.client.fetch::<OwnBackupView>(call).await?;
            cx.out.card(&view, "control plane", &show::own(&view.value, now()))?;
        }
    }
    Ok(())
}

/// Waits for what was begun, and shows how far it is.
async fn follow(call: Call, no_wait: bool, what: &str, cx: &Context) -> anyhow::Result<()> {
    let mut progress = cx.out.progress();
    let outcome = interruptible(cx.client.submit::<Value>(call, !no_wait, &mut progress)).await;
    drop(progress);
    match outcome? {
        Outcome::Begun(operation) => begun(&operation, cx)?,
        Outcome::Done(done) => cx.out.result(&done, what)?,
        Outcome::Ended(operation) => cx.out.result(&operation, what)?,
    }
    Ok(())
}

async fn perform(args: RunArgs, cx: &Context) -> anyhow::Result<()> {
    let asked = cx
        .client
        .fetch::<BackupView>(Call::create(&path(&["perform", &args.config])))
        .await?;
    let id = asked.value.id.to_string();
    if args.no_wait {
        cx.out.result(&asked, &id)?;
        if !cx.out.is_json() {
            note(format!("wait for it: neuralmesh operations wait {}", operation(&asked.value)?));
        }
        return Ok(());
    }
    let mut progress = cx.out.progress();
    let followed = interruptible(cx.client.follow(operation(&asked.value)?, &mut progress)).await;
    drop(progress);
    let operation: Fetched<OperationView> = followed?;
    crate::client::succeeded(operation).map_err(|error: ClientError| anyhow::Error::from(error))?;
    let made = cx.client.fetch::<BackupView>(Call::get(&path(&[&id]))).await?;
    cx.out.result(&made, &id)?;
    if let Some(message) = &made.value.message {
        note(message);
    }
    for problem in made.value.problems.iter().take(10) {
        note(clean(&format!("{}: {}", problem.path, problem.error)));
    }
    Ok(())
}

/// The operation that makes a backup.
fn operation(backup: &BackupView) -> anyhow::Result<&str> {
    let id = backup.operation_id.as_ref().map(|id| id.as_str());
    id.with_context(|| format!("backup {} was skipped: nothing makes it", backup.id))
}

async fn list(args: LsArgs, cx: &Context) -> anyhow::Result<()> {
    let status = args.status.and_then(|s| s.to_possible_value()).map(|v| v.get_name().to_owned());
    let call = Call::get(&AREA)
        .query_opt("serverId", args.server.as_ref())
        .query_opt("configId", args.config.as_ref())
        .query_opt("status", status);
    let list = cx.client.list::<BackupView>(call, Some(args.limit)).await?;
    if args.quiet {
        return Ok(cx.out.lines(list.items.iter().map(|b| b.id.as_str()))?);
    }
    let now = now();
    let size = |bytes: Option<u64>| bytes.map(human::size).unwrap_or_default();
    let columns = [
        Column::new("ID", |b: &BackupView| b.id.to_string()),
        Column::new("CONFIG", |b: &BackupView| b.name.clone()),
        Column::new("STATUS", show::status),
        Column::new("TYPE", |b: &BackupView| b.kind.as_str().to_owned()),
        Column::new("WHEN", move |b: &BackupView| human::ago(b.timestamp, now)),
        Column::new("SIZE", move |b: &BackupView| size(b.size)).right(),
        Column::new("NEW", move |b: &BackupView| size(b.new_bytes)).right(),
        Column::new("SERVER", |b: &BackupView| b.server_id.clone()).wide(),
        Column::new("SNAPSHOT", |b: &BackupView| b.snapshot.clone().unwrap_or_default()).wide(),
    ];
    cx.out.list(&list, &columns, |b| b.id.to_string())?;
    Ok(())
}

async fn files(args: FilesArgs, cx: &Context) -> anyhow::Result<()> {
    let call = Call::get(&path(&[&args.backup, "files"]))
        .query("path", &args.path)
        .query_opt("cursor", args.cursor)
        .query("limit", args.limit);
    let view = cx.client.fetch::<BackupTreeView>(call).await?;
    if cx.out.is_json() {
        return Ok(cx.out.result(&view, &args.path)?);
    }
    for entry in &view.value.entries {
        cx.out.line(clean(&show::entry(entry)))?;
    }
    let shown = args.cursor.unwrap_or(0) + view.value.entries.len() as u64;
    if shown < view.value.total {
        note(format!(
            "{} of {} entries; go on with --cursor {shown}",
            view.value.entries.len(),
            view.value.total
        ));
    }
    Ok(())
}

async fn pin(args: ManyArgs, pinned: bool, cx: &Context) -> anyhow::Result<()> {
    for id in &args.backups {
        let call = Call::put(&path(&[id, "pin"])).json(&json!({ "pinned": pinned }))?;
        cx.client.fetch::<BackupView>(call).await?;
        cx.out.line(id)?;
    }
    Ok(())
}

async fn key(config: &str, cx: &Context) -> anyhow::Result<()> {
    let view = cx
        .client
        .fetch::<BackupKeyView>(Call::get(&path(&["configs", config, "key"])))
        .await?;
    let rows = [
        ("Repository", view.value.repository.clone()),
        ("Password", view.value.password.clone()),
        ("Recovery password", view.value.recovery_password.clone().unwrap_or_default()),
        ("Log", view.value.log_repository.clone().unwrap_or_default()),
    ];
    let rows: Vec<_> = rows.into_iter().filter(|(_, text)| !text.is_empty()).collect();
    cx.out.card(&view, config, &rows)?;
    note("whoever has this reads all backups of this config: keep it where only you can");
    Ok(())
}

async fn retention(config: &str, cx: &Context) -> anyhow::Result<()> {
    let view = cx
        .client
        .fetch::<RetentionPreview>(Call::get(&path(&["configs", config, "retention"])))
        .await?;
    if cx.out.is_json() {
        return Ok(cx.out.result(&view, config)?);
    }
    let line = |decision: &RetentionDecision, what: &str| {
        format!(
            "{what}  {}  {}  {}",
            decision.backup_id,
            decision.timestamp,
            show::reasons(decision)
        )
    };
    for decision in &view.value.keep {
        cx.out.line(line(decision, "keep  "))?;
    }
    for decision in &view.value.remove {
        cx.out.line(line(decision, "remove"))?;
    }
    Ok(())
}
