//! Starting, stopping, changing, removing: one call a container, and the name of each that went well.

use super::flags;
use super::spec::bounded;
use crate::client::{Call, ClientError, Fetched};
use crate::commands::operations::interruptible;
use crate::context::Context;
use crate::output::{note, report};
use clap::{Args, ValueEnum};
use nm_types::container::{ContainerUpdate, ContainerView, KillContainer, RenameContainer, RestartPolicy, Signal, StopContainer};
use nm_types::text::ContainerName;
use nm_types::units::{CpuLimit, MemoryLimit};
use std::time::Duration;

#[derive(Debug, Clone, Args)]
pub struct NamesArgs {
    /// Names or ids
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
}

#[derive(Debug, Clone, Args)]
pub struct StopArgs {
    /// How long to wait before killing, as 30s [default: the container's own, 10s]
    #[arg(short, long, visible_alias = "timeout", value_name = "TIME", value_parser = flags::seconds)]
    pub time: Option<u64>,
    /// Names or ids
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
}

#[derive(Debug, Clone, Args)]
pub struct KillArgs {
    /// The signal, with or without SIG
    #[arg(short, long, value_enum, value_name = "SIGNAL", default_value_t, ignore_case = true)]
    pub signal: SignalArg,
    /// Names or ids
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
}

/// [`Signal`] as an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum SignalArg {
    #[default]
    #[value(name = "KILL", aliases = ["SIGKILL", "9"])]
    Kill,
    #[value(name = "TERM", aliases = ["SIGTERM", "15"])]
    Term,
    #[value(name = "INT", aliases = ["SIGINT", "2"])]
    Int,
    #[value(name = "HUP", aliases = ["SIGHUP", "1"])]
    Hup,
    #[value(name = "QUIT", aliases = ["SIGQUIT", "3"])]
    Quit,
    #[value(name = "USR1", aliases = ["SIGUSR1", "10"])]
    Usr1,
    #[value(name = "USR2", aliases = ["SIGUSR2", "12"])]
    Usr2,
    #[value(name = "WINCH", aliases = ["SIGWINCH", "28"])]
    Winch,
}

impl SignalArg {
    fn signal(self) -> Signal {
        match self {
            Self::Kill => Signal::Kill,
            Self::Term => Signal::Term,
            Self::Int => Signal::Int,
            Self::Hup => Signal::Hup,
            Self::Quit => Signal::Quit,
            Self::Usr1 => Signal::Usr1,
            Self::Usr2 => Signal::Usr2,
            Self::Winch => Signal::Winch,
        }
    }
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  neuralmesh containers rm web
  neuralmesh containers rm -f -v web db")]
pub struct RmArgs {
    /// Also when it runs; and what is not there is no error
    #[arg(short, long)]
    pub force: bool,
    /// With its anonymous volumes
    #[arg(short, long)]
    pub volumes: bool,
    /// Names or ids
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
}

#[derive(Debug, Clone, Args)]
pub struct RenameArgs {
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// The new name
    #[arg(value_name = "NAME")]
    pub name: ContainerName,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  neuralmesh containers update --cpus 2 -m 1g db
  neuralmesh containers update --restart unless-stopped web db")]
pub struct UpdateArgs {
    /// Limit the CPU, in cores: 0.5, 2
    #[arg(long, value_name = "CORES", value_parser = flags::cpus, required_unless_present_any = ["memory", "restart"])]
    pub cpus: Option<CpuLimit>,
    /// Limit the memory: 512m, 1g
    #[arg(short, long, value_name = "AMOUNT", value_parser = flags::memory)]
    pub memory: Option<MemoryLimit>,
    /// When to start it again by itself: no, always, on-failure, unless-stopped
    #[arg(long, value_name = "POLICY", value_parser = flags::restart)]
    pub restart: Option<RestartPolicy>,
    /// Names or ids
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
}

pub async fn each(args: NamesArgs, action: &'static str, cx: &Context) -> anyhow::Result<u8> {
    change_all(&args.containers, cx, |name| Ok(Call::post(&["containers", name, action]))).await
}

pub async fn stop(args: StopArgs, cx: &Context) -> anyhow::Result<u8> {
    with_grace(args, "stop", cx).await
}

pub async fn restart(args: StopArgs, cx: &Context) -> anyhow::Result<u8> {
    with_grace(args, "restart", cx).await
}

async fn with_grace(args: StopArgs, action: &'static str, cx: &Context) -> anyhow::Result<u8> {
    let body = StopContainer {
        grace: bounded("--time", args.time)?,
    };
    // The container's own grace may be up to an hour, and only the node knows it.
    let patience = Duration::from_secs(args.time.unwrap_or(3600)) + Duration::from_secs(75);
    change_all(&args.containers, cx, |name| {
        Ok(Call::post(&["containers", name, action]).json(&body)?.timeout(patience))
    })
    .await
}

pub async fn kill(args: KillArgs, cx: &Context) -> anyhow::Result<u8> {
    let body = KillContainer {
        signal: Some(args.signal.signal()),
    };
    change_all(&args.containers, cx, |name| {
        Ok(Call::post(&["containers", name, "kill"]).json(&body)?)
    })
    .await
}

pub async fn update(args: UpdateArgs, cx: &Context) -> anyhow::Result<u8> {
    let body = ContainerUpdate {
        cpu_limit: args.cpus,
        memory_limit: args.memory,
        restart: args.restart,
    };
    change_all(&args.containers, cx, |name| Ok(Call::patch(&["containers", name]).json(&body)?)).await
}

pub async fn rename(args: RenameArgs, cx: &Context) -> anyhow::Result<u8> {
    let call = Call::post(&["containers", &args.container, "rename"]).json(&RenameContainer { name: args.name })?;
    let renamed = cx.client.fetch::<ContainerView>(call).await?;
    cx.out.result(&renamed, &renamed.value.name)?;
    Ok(0)
}

pub async fn remove(args: RmArgs, cx: &Context) -> anyhow::Result<u8> {
    let mut failed = false;
    for name in &args.containers {
        let call = Call::delete(&["containers", name])
            .flag("force", args.force)
            .flag("volumes", args.volumes)
            .timeout(Duration::from_secs(3675));
        match interruptible(cx.client.done(call)).await {
            Ok(_) => cx.out.line(name)?,
            Err(e) if args.force && is_missing(&e) => note(format!("there is no container `{name}`: nothing to remove")),
            Err(e) => {
                failed = true;
                complain(name, &args.containers, e)?;
            }
        }
    }
    Ok(u8::from(failed))
}

fn is_missing(error: &anyhow::Error) -> bool {
    error.downcast_ref::<ClientError>().and_then(ClientError::code) == Some("container_not_found")
}

/// Does the same to each container; goes on after a failure, and answers 1 when there was one.
async fn change_all(names: &[String], cx: &Context, call: impl Fn(&str) -> anyhow::Result<Call>) -> anyhow::Result<u8> {
    let mut failed = false;
    let mut changed: Vec<Fetched<ContainerView>> = Vec::new();
    for name in names {
        match interruptible(cx.client.fetch::<ContainerView>(call(name)?)).await {
            Ok(container) if cx.out.is_json() => changed.push(container),
            Ok(_) => cx.out.line(name)?,
            Err(e) => {
                failed = true;
                complain(name, names, e)?;
            }
        }
    }
    if cx.out.is_json() {
        match changed.as_slice() {
            [one] if names.len() == 1 => cx.out.json(&one.raw)?,
            [] if names.len() == 1 => {}
            _ => cx
                .out
                .line(crate::output::json::array(&changed.into_iter().map(|c| c.raw).collect::<Vec<_>>()))?,
        }
    }
    Ok(u8::from(failed))
}

/// One of several failed: say so and go on. The only one: that is the program's error.
fn complain(name: &str, all: &[String], error: anyhow::Error) -> anyhow::Result<()> {
    if all.len() == 1 {
        return Err(error);
    }
    note(report::describe(&error.context(name.to_owned())));
    Ok(())
}
