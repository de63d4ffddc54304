//! `neuralmesh proxy`: a node's load balancer, in a process of its own so that no restart of the agent's touches traffic.

use crate::run::LogArgs;
use crate::telemetry;
use clap::Args;
use nm_proxy::{AccessLogTo, Options};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Clone, Args)]
pub struct ProxyArgs {
    /// The last configuration: read at the start, written with each new one; need not exist
    #[arg(long, value_name = "FILE", env = "NEURALMESH_PROXY_CONFIG", hide_env_values = true)]
    pub config: PathBuf,
    /// The Unix socket of the proxy's own API. Where a proxy listens on it already, this one takes over from it
    #[arg(long, value_name = "SOCKET", env = "NEURALMESH_PROXY_SOCKET", hide_env_values = true)]
    pub control_socket: PathBuf,
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
    /// Where the access log goes [default: standard output]
    #[arg(long, value_name = "FILE", env = "NEURALMESH_PROXY_ACCESS_LOG", hide_env_values = true)]
    pub access_log: Option<PathBuf>,
    #[command(flatten)]
    pub log: LogArgs,
}

fn grace(text: &str) -> Result<Duration, String> {
    crate::commands::containers::flags::seconds(text).map(Duration::from_secs)
}

/// Runs until it is told to end, or another proxy has taken over, and its connections have ended.
pub async fn run(args: ProxyArgs) -> anyhow::Result<()> {
    let telemetry = telemetry::start(&args.log, telemetry::PROXY)?;
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let options = Options {
        config: args.config,
        control_socket: args.control_socket,
        workers: args.workers.map_or_else(cores, usize::from),
        grace: args.grace,
        access_log: args.access_log.map_or(AccessLogTo::Stdout, AccessLogTo::File),
    };
    let outcome = nm_proxy::run(options).await;
    telemetry.end().await;
    Ok(outcome?)
}
