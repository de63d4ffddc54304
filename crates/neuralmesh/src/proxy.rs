//! `neuralmesh proxy`: a node's load balancer, in a process of its own so that no restart of the agent's touches traffic.
//!
//! The process that reads the command line becomes, by `exec`, the one that serves: the parser and what it made are some 3 MB of
//! memory that traffic does not need.

use crate::run::LogArgs;
use crate::{memory, telemetry, trial};
use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use nm_agent::edge::LoadBalancer;
use nm_proxy::{AccessLogTo, Options};
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::time::Duration;

/// The subcommand.
const NAME: &str = "proxy";
/// Set for the process that serves: [`ProxyArgs`], in JSON.
const SETTINGS: &str = "NEURALMESH_PROXY_SETTINGS";

#[derive(Debug, Clone, Args, Serialize, Deserialize)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct ProxyArgs {
    #[command(subcommand)]
    #[serde(skip)]
    pub command: Option<ProxyCommand>,
    /// The last configuration: read at the start, written with each new one; need not exist
    #[arg(
        long,
        value_name = "FILE",
        env = "NEURALMESH_PROXY_CONFIG",
        hide_env_values = true,
        required = true
    )]
    pub config: Option<PathBuf>,
    /// The Unix socket of the proxy's own API. Where a proxy listens on it already, this one takes over from it
    #[arg(
        long,
        value_name = "SOCKET",
        env = "NEURALMESH_PROXY_SOCKET",
        hide_env_values = true,
        required = true
    )]
    pub control_socket: Option<PathBuf>,
    /// Threads that carry traffic [default: one a core]
    #[arg(
        long,
        value_name = "N",
        env = "NEURALMESH_PROXY_WORKERS",
        hide_env_values = true,
        value_parser = clap::value_parser!(u16).range(1..=256)
    )]
    pub workers: Option<u16>,
    /// How long open connections may take to end when the proxy, or a listener, does: 30s, 5m
    #[arg(
        long,
        value_name = "TIME",
        default_value = "30s",
        env = "NEURALMESH_PROXY_GRACE",
        hide_env_values = true,
        value_parser = grace
    )]
    pub grace: Duration,
    /// The same where another proxy has taken over: what goes on for long, such as WebSockets, may go on
    #[arg(
        long,
        value_name = "TIME",
        default_value = "1h",
        env = "NEURALMESH_PROXY_HANDOVER_GRACE",
        hide_env_values = true,
        value_parser = grace
    )]
    pub handover_grace: Duration,
    /// Where the access log goes [default: standard output]
    #[arg(long, value_name = "FILE", env = "NEURALMESH_PROXY_ACCESS_LOG", hide_env_values = true)]
    pub access_log: Option<PathBuf>,
    #[command(flatten)]
    pub log: LogArgs,
}

#[derive(Debug, Clone, Subcommand)]
pub enum ProxyCommand {
    /// Say by the exit code whether a load balancer carries traffic: 0 it does, 1 it does not
    Check(CheckArgs),
}

/// `neuralmesh proxy check`: what keepalived asks before it holds an address.
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// The Unix socket of the proxy's own API
    #[arg(long, value_name = "SOCKET", env = "NEURALMESH_PROXY_SOCKET", hide_env_values = true)]
    pub control_socket: PathBuf,
}

fn grace(text: &str) -> Result<Duration, String> {
    crate::commands::containers::flags::seconds(text).map(Duration::from_secs)
}

/// Answers the check, or becomes the process that serves.
pub async fn run(args: ProxyArgs) -> anyhow::Result<()> {
    if let Some(ProxyCommand::Check(check)) = args.command {
        return nm_agent::edge::check(&check.control_socket).await.map_err(anyhow::Error::msg);
    }
    let settings = serde_json::to_string(&args).context("paths of a load balancer must be UTF-8")?;
    // It comes back only when it fails.
    Err(memory::again(trial::IMAGE).env(SETTINGS, settings).exec()).context("start the load balancer")
}

/// What this process is to serve by, where it is the one that serves.
pub fn settings() -> Option<OsString> {
    let asked = std::env::args_os().nth(1).is_some_and(|word| word == NAME);
    std::env::var_os(SETTINGS).filter(|_| asked)
}

/// Serves until it is told to end, or another proxy has taken over, and its connections have ended.
pub fn serve(settings: &OsStr) -> anyhow::Result<()> {
    let args: ProxyArgs = serde_json::from_slice(settings.as_bytes()).with_context(|| format!("read {SETTINGS}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let telemetry = {
        let _entered = runtime.enter();
        telemetry::start(&args.log, telemetry::PROXY)?
    };
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let options = Options {
        config: args.config.context("the configuration's file is named by --config")?,
        control_socket: args.control_socket.context("the API's socket is named by --control-socket")?,
        workers: args.workers.map_or_else(cores, usize::from),
        grace: args.grace,
        handover_grace: args.handover_grace,
        access_log: args.access_log.map_or(AccessLogTo::Stdout, AccessLogTo::File),
    };
    let outcome = nm_proxy::run_on(&runtime, options);
    runtime.block_on(telemetry.end());
    runtime.shutdown_background();
    Ok(outcome?)
}

/// How an agent starts it: from what runs now, also when the file was replaced since.
pub fn by_agent(log: &LogArgs, on_trial: bool) -> anyhow::Result<LoadBalancer> {
    let mut arguments: Vec<OsString> = vec![NAME.into(), "--log-level".into(), log.log_level.clone().into()];
    if let Some(format) = log.log_format.to_possible_value() {
        arguments.extend(["--log-format".into(), format.get_name().into()]);
    }
    if let Some(collector) = &log.otlp_endpoint {
        arguments.extend(["--otlp-endpoint".into(), collector.to_string().into()]);
    }
    Ok(LoadBalancer {
        program: trial::IMAGE.into(),
        arguments,
        file: std::env::current_exe().context("find the file that this program runs from")?,
        on_trial,
    })
}
