//! `create` and `run`.

use super::list::ports;
use super::logs::{Follow, Tail, follow};
use super::spec::SpecArgs;
use crate::client::{Call, Fetched, Outcome};
use crate::commands::operations::{begun, interruptible};
use crate::context::Context;
use crate::output::{Format, note, table::clean, warning};
use anyhow::Context as _;
use clap::Args;
use nm_types::container::{ContainerSpec, ContainerStatus, ContainerView};
use std::io::IsTerminal;

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
The container always runs detached; its id goes to standard output. --follow shows
its output until it ends, and then ends with its exit code. An image that the node
lacks is pulled first.

Examples:
  neuralmesh containers run -p 8080:80 nginx
  neuralmesh containers run --name db -e POSTGRES_PASSWORD -m 1g \\
      -v pgdata:/var/lib/postgresql/data postgres:16
  neuralmesh containers run --constraint zone=eu-1 --on-node-lost reschedule nginx
  neuralmesh containers run --node n2 --restart always --cpus 0.5 busybox httpd -f
  neuralmesh containers run --follow busybox echo hello")]
pub struct RunArgs {
    /// Show the container's output until it ends; interrupting stops the showing, not the container
    #[arg(short, long, conflicts_with_all = ["no_wait", "detach"])]
    pub follow: bool,
    /// Accepted out of habit: a container always runs detached
    #[arg(short, long)]
    pub detach: bool,
    #[command(flatten)]
    pub spec: SpecArgs,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  neuralmesh containers create --name web -p 8080:80 nginx
  neuralmesh containers start web")]
pub struct CreateArgs {
    #[command(flatten)]
    pub spec: SpecArgs,
}

pub async fn create(args: CreateArgs, cx: &Context) -> anyhow::Result<u8> {
    submit(&args.spec, args.spec.spec(false)?, cx).await.map(|_| 0)
}

pub async fn run(args: RunArgs, cx: &Context) -> anyhow::Result<u8> {
    let Some(container) = submit(&args.spec, args.spec.spec(true)?, cx).await? else {
        return Ok(0);
    };
    if !args.follow {
        return Ok(0);
    }
    let id = container.value.id.as_str();
    let query = Follow {
        tail: Tail::All,
        since: None,
        timestamps: false,
    };
    follow(cx, id, &query).await?;
    let ended = cx.client.fetch::<ContainerView>(Call::get(&["containers", id])).await?.value;
    match (ended.status, ended.exit_code) {
        (ContainerStatus::Exited | ContainerStatus::Stopped, Some(code)) => Ok(super::exec::exit_code(code)),
        _ => Ok(0),
    }
}

async fn submit(args: &SpecArgs, spec: ContainerSpec, cx: &Context) -> anyhow::Result<Option<Fetched<ContainerView>>> {
    let call = Call::create(&["containers"]).json(&spec)?;
    made(call, args.no_wait, args.quiet, cx).await
}

/// Makes a container and shows what became of it; nothing where it goes on without us.
pub async fn made(call: Call, no_wait: bool, quiet: bool, cx: &Context) -> anyhow::Result<Option<Fetched<ContainerView>>> {
    // At a terminal a pull is worth watching from its beginning; a script waits as well without.
    let call = if no_wait || std::io::stderr().is_terminal() {
        call.respond_async()
    } else {
        call
    };
    let mut progress = cx.out.progress();
    let outcome = interruptible(cx.client.submit::<ContainerView>(call, !no_wait, &mut progress)).await;
    drop(progress);
    let container = match outcome? {
        Outcome::Begun(operation) => {
            begun(&operation, cx)?;
            return Ok(None);
        }
        Outcome::Done(container) => container,
        Outcome::Ended(operation) => {
            let target = operation
                .value
                .target
                .as_deref()
                .with_context(|| format!("operation {} names no container", operation.value.id))?;
            cx.client.fetch::<ContainerView>(Call::get(&["containers", target])).await?
        }
    };
    show(&container, quiet, cx)?;
    Ok(Some(container))
}

fn show(container: &Fetched<ContainerView>, quiet: bool, cx: &Context) -> anyhow::Result<()> {
    let view = &container.value;
    match cx.out.format {
        Format::Json => cx.out.json(&container.raw)?,
        Format::Name => cx.out.line(&view.name)?,
        Format::Table | Format::Wide => cx.out.line(view.id.as_str())?,
    }
    if quiet || cx.out.is_json() {
        return Ok(());
    }
    let bound = ports(&view.ports);
    let bound = if bound.is_empty() { String::new() } else { format!("  {bound}") };
    note(format!("{}: {}{bound}", clean(&view.name), view.status.as_str()));
    if let Some(message) = &view.message {
        warning(clean(message));
    }
    Ok(())
}
