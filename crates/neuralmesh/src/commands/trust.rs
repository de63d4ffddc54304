//! `neuralmesh nodes authority …`, `revoke`, `rejoin-token`, `upgrade`, `binaries …`: whom nodes trust, and what they run.

use super::operations::interruptible;
use crate::client::{Call, Fetched, Outcome, now};
use crate::context::Context;
use crate::output::{human, note, progress, table::Column};
use crate::prompt::confirm;
use anyhow::Context as _;
use clap::{Args, Subcommand};
use futures_util::TryStreamExt;
use nm_types::Timestamp;
use nm_types::authority::{AuthorityInfo, AuthorityPhase, AuthorityView, RotateAuthority};
use nm_types::node::{NewJoinToken, NodeView};
use nm_types::operation::OperationView;
use nm_types::units::Bounded;
use nm_types::upgrade::{BinaryView, Platform, ReleaseVersion, UpgradeNode};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub enum AuthorityCommand {
    /// Show the authority, and who is on which while one follows another
    Show,
    /// Put another authority in its place; no node is cut off
    Rotate(RotateArgs),
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
A new authority is made, and every node is told to trust it beside the old one. Then it
takes over and nodes renew their certificates by it; nodes that are away do so when they
are back. Once no certificate of the old one is left, it counts no more.

Examples:
  neuralmesh nodes authority rotate
  neuralmesh nodes authority rotate --force      do not wait for nodes that are away")]
pub struct RotateArgs {
    /// Seconds until the new one takes over, whether all nodes have heard of it or not [default: 60]
    #[arg(long, value_name = "SECONDS")]
    pub switch_after: Option<Bounded<0, 86_400>>,
    /// End the wait of this phase: what is left behind has to join again
    #[arg(short, long)]
    pub force: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

#[derive(Debug, Clone, Args)]
pub struct RevokeArgs {
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
    /// Name or id
    #[arg(value_name = "NODE")]
    pub node: String,
}

#[derive(Debug, Clone, Args)]
pub struct RejoinArgs {
    /// Name or id
    #[arg(value_name = "NODE")]
    pub node: String,
    /// Print the token only
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
A node gets the control plane's own version, or a newer one that was uploaded for its kind
of machine. A version that does not link within a minute is given up, and the node goes on
with the one before. Containers run on meanwhile.

Examples:
  neuralmesh nodes upgrade alder --watch
  neuralmesh nodes upgrade --all --watch         one after the other, until one fails")]
pub struct UpgradeArgs {
    /// Names or ids
    #[arg(value_name = "NODE", required_unless_present = "all", conflicts_with = "all")]
    pub nodes: Vec<String>,
    /// Every node that is there
    #[arg(short, long)]
    pub all: bool,
    /// Wait for each to end before the next begins, and stop at the first that fails
    #[arg(short, long)]
    pub watch: bool,
    /// Also to an older version
    #[arg(short, long)]
    pub force: bool,
}

#[derive(Debug, Subcommand)]
pub enum BinariesCommand {
    /// List the executables that nodes can be upgraded to
    #[command(visible_alias = "list")]
    Ls,
    /// Upload an executable for a kind of machine
    Upload(UploadArgs),
    /// Forget the executable that was uploaded for a kind of machine
    #[command(visible_alias = "remove")]
    Rm(PlatformArgs),
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Example:
  neuralmesh nodes binaries upload ./neuralmesh-aarch64 --platform linux-aarch64 --version 0.6.0")]
pub struct UploadArgs {
    /// The executable
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// What it runs on: linux-x86_64, linux-aarch64
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Platform,
    /// The version that it is of
    #[arg(long, value_name = "VERSION")]
    pub version: ReleaseVersion,
}

#[derive(Debug, Clone, Args)]
pub struct PlatformArgs {
    /// linux-x86_64 or linux-aarch64
    #[arg(value_name = "PLATFORM")]
    pub platform: Platform,
}

pub async fn authority(command: AuthorityCommand, cx: &Context) -> anyhow::Result<u8> {
    let view = match command {
        AuthorityCommand::Show => cx.client.fetch::<AuthorityView>(Call::get(&["nodes", "authority"])).await?,
        AuthorityCommand::Rotate(args) => {
            let question = if args.force {
                "End the wait? Nodes that have not followed have to join again."
            } else {
                "Put another authority in the place of this fleet's?"
            };
            if !confirm(question, args.yes)? {
                return Ok(1);
            }
            let how = RotateAuthority {
                switch_after: args.switch_after,
                force: args.force,
            };
            let call = Call::post(&["nodes", "authority", "rotate"]).json(&how)?;
            cx.client.fetch::<AuthorityView>(call).await?
        }
    };
    let rows = card(&view.value, now());
    cx.out.card(&view, &view.value.current.name, &rows)?;
    Ok(0)
}

fn card(view: &AuthorityView, now: Timestamp) -> Vec<(&'static str, String)> {
    let phase = match view.phase {
        AuthorityPhase::Settled => "settled",
        AuthorityPhase::Introducing => "introducing: nodes are told to trust the next one, too",
        AuthorityPhase::Renewing => "renewing: nodes get certificates of the new one",
    };
    let info = |a: &AuthorityInfo| {
        format!(
            "{}\nends {}; certificates at {} nodes, trusted by {}",
            a.fingerprint, a.expires, a.nodes, a.trusted_by
        )
    };
    let mut rows = vec![("Phase", phase.to_owned()), ("Current", info(&view.current))];
    rows.extend(view.next.as_ref().map(|a| ("Next", info(a))));
    rows.extend(view.previous.as_ref().map(|a| ("Previous", info(a))));
    rows.extend(view.since.map(|t| ("Since", human::ago(t, now))));
    rows.extend(
        view.switch_by
            .map(|t| ("Takes over", format!("{} at the latest", human::until(t, now)))),
    );
    if !view.waiting_for.is_empty() {
        let nodes: Vec<&str> = view.waiting_for.iter().map(|n| n.as_str()).collect();
        rows.push(("Waits for", nodes.join("\n")));
    }
    rows
}

pub async fn revoke(args: &RevokeArgs, cx: &Context) -> anyhow::Result<u8> {
    let question = format!("Revoke the certificates of {}? It is cut off until it joins again.", args.node);
    if !confirm(&question, args.force)? {
        return Ok(1);
    }
    let node = cx.client.fetch::<NodeView>(Call::post(&["nodes", &args.node, "revoke"])).await?;
    cx.out.result(&node, node.value.name.as_str())?;
    Ok(0)
}

pub async fn rejoin_token(args: &RejoinArgs, cx: &Context) -> anyhow::Result<u8> {
    let token = cx
        .client
        .fetch::<NewJoinToken>(Call::create(&["nodes", &args.node, "rejoin-token"]))
        .await?;
    if args.quiet {
        cx.out.line(&token.value.token)?;
        return Ok(0);
    }
    cx.out.result(&token, &token.value.token)?;
    if !cx.out.is_json() {
        let before = " `neuralmesh agent uninstall --purge` where an agent of this node has been, then";
        super::nodes::say_how_to_join(&token.value, before, cx);
    }
    Ok(0)
}

pub async fn upgrade(args: &UpgradeArgs, cx: &Context) -> anyhow::Result<u8> {
    let nodes = if args.all {
        let all = cx.client.list::<NodeView>(Call::get(&["nodes"]), None).await?;
        all.items.into_iter().map(|n| n.name.to_string()).collect()
    } else {
        args.nodes.clone()
    };
    let how = UpgradeNode { force: args.force };
    for node in &nodes {
        let call = Call::post(&["nodes", node, "upgrade"]).json(&how)?.respond_async();
        let mut progress = cx.out.progress();
        let done = interruptible(cx.client.submit::<OperationView>(call, args.watch, &mut progress)).await;
        drop(progress);
        let operation: Fetched<OperationView> = match done {
            Ok(Outcome::Done(operation)) => operation,
            Ok(Outcome::Ended(operation) | Outcome::Begun(operation)) => *operation,
            // The node that the control plane itself is on, and one that is away, are no reason to stop.
            Err(error) if args.all && passed_over(&error) => {
                note(format!("{node}: {error:#}"));
                continue;
            }
            Err(error) => return Err(error.context(format!("upgrade {node}"))),
        };
        cx.out.result(&operation, operation.value.id.as_str())?;
        if !args.watch && !cx.out.is_json() {
            note(format!("{node}: neuralmesh operations wait {}", operation.value.id));
        }
    }
    Ok(0)
}

fn passed_over(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<crate::client::ClientError>()
        .and_then(crate::client::ClientError::code)
        .is_some_and(|code| matches!(code, "in_use" | "node_offline" | "node_disconnected"))
}

pub async fn binaries(command: BinariesCommand, cx: &Context) -> anyhow::Result<u8> {
    match command {
        BinariesCommand::Ls => {
            let list = cx.client.list::<BinaryView>(Call::get(&["nodes", "binaries"]), None).await?;
            cx.out.list(&list, &columns(now()), |b| b.platform.to_string())?;
        }
        BinariesCommand::Upload(args) => {
            let file = tokio::fs::File::open(&args.file)
                .await
                .with_context(|| format!("open {}", args.file.display()))?;
            let size = file.metadata().await?.len();
            let bar = progress::bytes("upload", Some(size));
            let chunks = tokio_util::io::ReaderStream::with_capacity(file, 1 << 17).inspect_ok({
                let bar = bar.clone();
                move |chunk| bar.inc(chunk.len() as u64)
            });
            let call = Call::put(&["nodes", "binaries", args.platform.as_str()])
                .query("version", &args.version)
                .timeout(Duration::from_secs(3600));
            let body = reqwest::Body::wrap_stream(chunks);
            let uploaded = cx.client.upload(call, "application/octet-stream", body).await;
            bar.finish_and_clear();
            uploaded?;
            cx.out.line(args.platform.as_str())?;
        }
        BinariesCommand::Rm(args) => {
            cx.client.done(Call::delete(&["nodes", "binaries", args.platform.as_str()])).await?;
            cx.out.line(args.platform.as_str())?;
        }
    }
    Ok(0)
}

fn columns(now: Timestamp) -> [Column<'static, BinaryView>; 5] {
    [
        Column::new("PLATFORM", |b: &BinaryView| b.platform.to_string()),
        Column::new("VERSION", |b: &BinaryView| b.version.to_string()),
        Column::new("SIZE", |b: &BinaryView| human::size(b.size)).right(),
        Column::new("UPLOADED", move |b: &BinaryView| {
            b.uploaded
                .map_or_else(|| "the control plane's own".to_owned(), |t| human::ago(t, now))
        }),
        Column::new("SHA-256", |b: &BinaryView| b.sha256.clone()).wide(),
    ]
}
