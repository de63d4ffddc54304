//! `neuralmesh backups restore`.

use super::super::operations::{begun, interruptible};
use super::{path, show};
use crate::client::{Call, Outcome};
use crate::commands::settings::{self, put};
use crate::context::Context;
use crate::output::report::usage;
use clap::Args;
use nm_types::backup::BackupView;
use nm_types::{BackupId, Timestamp};
use serde_json::{Map, Value};

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Without options everything goes back to where it came from: containers that use its volumes are stopped meanwhile.

Examples:
  neuralmesh backups restore backup_1_abcdefghi --dry-run
  neuralmesh backups restore backup_1_abcdefghi --to /srv/restored
  neuralmesh backups restore backup_1_abcdefghi --path /volumes/shop/images
  neuralmesh backups restore backup_1_abcdefghi --server node-2 --name shop-2

The backup of a database cluster is restored into a new one, as it was at a moment, or as new as can be without --to:
  neuralmesh backups restore shop --to 2026-11-28T09:30:00Z --cluster shop-again --node n1 --node n2 --node n3")]
pub struct RestoreArgs {
    /// Change nothing, and show what would be
    #[arg(long)]
    pub dry_run: bool,
    /// A folder of the server's node; of a database cluster the moment it is to be as it was at
    #[arg(long, value_name = "FOLDER|TIME")]
    pub to: Option<String>,
    /// Of a database cluster: what the new one is called
    #[arg(long, value_name = "NAME", requires = "nodes")]
    pub cluster: Option<String>,
    /// A node of the new cluster, by name or id; may be repeated
    #[arg(long = "node", value_name = "NODE", requires = "cluster")]
    pub nodes: Vec<String>,
    /// A field of the new cluster and its value, as database.memoryLimit=2g; may be repeated
    #[arg(long = "set", value_name = "FIELD=VALUE", value_parser = setting, requires = "cluster")]
    pub set: Vec<(String, Value)>,
    /// Another node or container; a node gets the container made anew
    #[arg(long, value_name = "SERVER")]
    pub server: Option<String>,
    /// What a container that is made anew is called
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// A path in the backup, with all that is below; may be repeated [default: everything]
    #[arg(long = "path", value_name = "PATH")]
    pub paths: Vec<String>,
    /// The volume that a volume of the backup goes into
    #[arg(long, value_name = "VOLUME")]
    pub volume: Option<String>,
    /// Whether what is not in the backup goes [default: true for whole volumes, false otherwise]
    #[arg(long, value_name = "BOOL")]
    pub replace: Option<bool>,
    /// Don't read back what was written
    #[arg(long)]
    pub no_verify: bool,
    /// Say which operation does it, and don't wait
    #[arg(long)]
    pub no_wait: bool,
    /// The backup's id; of a database cluster also its config or the cluster, for the newest backup that reaches the moment
    #[arg(value_name = "BACKUP")]
    pub backup: String,
}

pub async fn run(args: RestoreArgs, cx: &Context) -> anyhow::Result<()> {
    let mut body = Map::new();
    let (moment, target) = match args.to {
        Some(to) if args.cluster.is_some() => (Some(moment(&to)?), None),
        to => (None, to),
    };
    let id = match &args.cluster {
        Some(_) if BackupId::parse(&args.backup).is_err() => reaching(&args.backup, moment, cx).await?,
        _ => args.backup,
    };
    let texts = [
        ("target", target),
        ("serverId", args.server),
        ("name", args.name),
        ("volume", args.volume),
    ];
    for (field, value) in texts {
        if let Some(value) = value {
            body.insert(field.into(), value.into());
        }
    }
    if !args.paths.is_empty() {
        body.insert("paths".into(), args.paths.into());
    }
    if let Some(replace) = args.replace {
        body.insert("replace".into(), replace.into());
    }
    if let Some(name) = args.cluster {
        let mut cluster = Map::new();
        cluster.insert("name".into(), name.into());
        cluster.insert("type".into(), "database".into());
        cluster.insert("servers".into(), args.nodes.into());
        args.set
            .into_iter()
            .try_for_each(|(field, value)| put(&mut cluster, &field, value))?;
        body.insert("cluster".into(), cluster.into());
    }
    if let Some(moment) = moment {
        body.insert("to".into(), moment.to_string().into());
    }
    body.insert("dryRun".into(), args.dry_run.into());
    body.insert("verify".into(), (!args.no_verify).into());
    let call = Call::create(&path(&[&id, "restore"])).json(&body)?;
    let mut progress = cx.out.progress();
    let outcome = interruptible(cx.client.submit::<Value>(call, !args.no_wait, &mut progress)).await;
    drop(progress);
    match outcome? {
        Outcome::Begun(operation) => begun(&operation, cx)?,
        Outcome::Done(done) if cx.out.is_json() => cx.out.result(&done, &id)?,
        Outcome::Done(done) => cx.out.lines(show::restored(&done.value))?,
        Outcome::Ended(operation) => {
            let done = cx.client.result::<Value>(&operation)?;
            match cx.out.is_json() {
                true => cx.out.result(&done, &id)?,
                false => cx.out.lines(show::restored(&done.value))?,
            }
        }
    }
    Ok(())
}

fn setting(text: &str) -> Result<(String, Value), String> {
    settings::parse(text, &[])
}

fn moment(text: &str) -> anyhow::Result<Timestamp> {
    let wrong = || usage(format!("--to: `{text}` is no time as 2026-11-28T09:30:00Z"));
    Timestamp::parse(text).ok_or_else(wrong)
}

/// The newest backup of a database cluster, or of a config of one, from which that moment can be reached.
async fn reaching(what: &str, moment: Option<Timestamp>, cx: &Context) -> anyhow::Result<String> {
    let of = |field: &str| Call::get(&super::AREA).query(field, what).query("status", "completed");
    let found = match cx.client.list::<BackupView>(of("configId"), None).await {
        Err(error) if error.code() == Some("backup_config_not_found") => cx.client.list::<BackupView>(of("serverId"), None).await?,
        found => found?,
    };
    let reaches = |backup: &&BackupView| match (moment, backup.recoverable_from) {
        (None, _) => true,
        (Some(moment), Some(from)) => from <= moment,
        (Some(_), None) => false,
    };
    let newest = found.items.iter().find(reaches).map(|backup| backup.id.to_string());
    newest.ok_or_else(|| {
        usage(format!(
            "no backup of `{what}` reaches that moment: neuralmesh backups configs get shows which can be"
        ))
    })
}
