//! The options of what stays and serves: the control plane, the agent, and both in one.

use crate::telemetry::Collector;
use clap::{Args, Subcommand, ValueEnum};
use nm_control::api::frame::Network;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;

/// What a control plane needs, alone or with an agent beside it.
#[derive(Debug, Clone, Args)]
pub struct ControlArgs {
    /// Where everything is kept: database, keys, certificates
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/lib/neuralmesh",
        env = "NEURALMESH_DATA_DIR",
        hide_env_values = true
    )]
    pub data_dir: PathBuf,
    /// Address of the API and the dashboard
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "127.0.0.1:3001",
        env = "NEURALMESH_LISTEN",
        hide_env_values = true
    )]
    pub listen: SocketAddr,
    /// postgres://… for a database of its own backups and replication, still with one control plane at a time; a SQLite file in the data folder by default
    #[arg(long, value_name = "URL", env = "NEURALMESH_DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// The key that seals secrets; keep a copy of it apart from the database's [default: <data-dir>/secrets.key]
    #[arg(long, value_name = "FILE", env = "NEURALMESH_KEY_FILE", hide_env_values = true)]
    pub key_file: Option<PathBuf>,
    /// A proxy whose X-Forwarded-For is believed, as an address or network; may be repeated
    #[arg(
        long = "trusted-proxy",
        value_name = "CIDR",
        env = "NEURALMESH_TRUSTED_PROXY",
        hide_env_values = true,
        value_delimiter = ','
    )]
    pub trusted_proxies: Vec<Network>,
    /// A network that probes, deliveries and images' registries may be in though it is forbidden otherwise (this machine itself, link-local,
    /// metadata services), as an address or network; may be repeated
    #[arg(
        long = "allow-outbound",
        value_name = "CIDR",
        env = "NEURALMESH_ALLOW_OUTBOUND",
        hide_env_values = true,
        value_delimiter = ','
    )]
    pub allow_outbound: Vec<Network>,
    /// Silence after which a node counts as lost, and containers that ask for it move to other nodes: 10s, 1m
    #[arg(
        long,
        value_name = "TIME",
        default_value = "8s",
        env = "NEURALMESH_LOST_AFTER",
        hide_env_values = true,
        value_parser = lost_after
    )]
    pub lost_after: std::time::Duration,
    /// Where ACME servers look for answers on entry nodes; another port than 80 only for a server that is told to look there
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = nm_control::app::ACME_HTTP_PORT,
        env = "NEURALMESH_ACME_HTTP_PORT",
        hide_env_values = true,
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    pub acme_http_port: u16,
    #[command(flatten)]
    pub own_backup: Box<crate::own_backup::OwnBackupArgs>,
    #[command(flatten)]
    pub log: LogArgs,
}

/// With less than ten beats a lossy line would call nodes lost that are well.
fn lost_after(text: &str) -> Result<std::time::Duration, String> {
    let seconds = crate::commands::containers::flags::seconds(text)?;
    match seconds {
        5..=86_400 => Ok(std::time::Duration::from_secs(seconds)),
        _ => Err("a node is lost after 5s to 24h".into()),
    }
}

/// How to log and trace.
#[derive(Debug, Clone, Args, Serialize, Deserialize)]
pub struct LogArgs {
    /// How log lines are written: for people, or as one JSON object a line
    #[arg(
        long,
        value_enum,
        value_name = "FORMAT",
        default_value_t,
        env = "NEURALMESH_LOG_FORMAT",
        hide_env_values = true
    )]
    pub log_format: LogFormat,
    /// What is logged: a level, or levels by part as `info,nm_link=debug`
    #[arg(
        long,
        value_name = "LEVELS",
        default_value = "info",
        env = "NEURALMESH_LOG_LEVEL",
        hide_env_values = true
    )]
    pub log_level: String,
    /// Send traces to the OpenTelemetry collector at this URL, by OTLP over HTTP; off where it is left out
    #[arg(long, value_name = "URL", env = "NEURALMESH_OTLP_ENDPOINT", hide_env_values = true)]
    pub otlp_endpoint: Option<Collector>,
}

/// For people, or for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// What an agent needs of its machine, alone or beside a control plane.
#[derive(Debug, Clone, Args)]
pub struct MachineArgs {
    /// Where the Docker engine listens
    #[arg(
        long,
        value_name = "SOCKET",
        default_value = "/var/run/docker.sock",
        env = "NEURALMESH_DOCKER_SOCKET",
        hide_env_values = true
    )]
    pub docker_socket: PathBuf,
    /// The node's name [default: the machine's host name]
    #[arg(long, value_name = "NAME", env = "NEURALMESH_NAME", hide_env_values = true)]
    pub name: Option<nm_types::text::NodeName>,
}

/// `neuralmesh up`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
The first start writes the admin's first password to
<data-dir>/initial-admin-password, and says so.

Examples:
  neuralmesh up
  neuralmesh up --data-dir ~/.neuralmesh --listen 127.0.0.1:3001
  neuralmesh up --agent-listen 0.0.0.0:7443      so that other machines can join")]
pub struct UpArgs {
    #[command(flatten)]
    pub control: ControlArgs,
    /// Address where agents dial in; open it beyond this machine to let others join
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "127.0.0.1:7443",
        env = "NEURALMESH_AGENT_LISTEN",
        hide_env_values = true
    )]
    pub agent_listen: SocketAddr,
    #[command(flatten)]
    pub machine: MachineArgs,
}

/// `neuralmesh server`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  neuralmesh server
  neuralmesh server --listen 0.0.0.0:3001 --trusted-proxy 10.0.0.0/8
  NEURALMESH_DATABASE_URL=postgres://nm:…@db/neuralmesh neuralmesh server")]
pub struct ServerArgs {
    #[command(flatten)]
    pub control: ControlArgs,
    /// Address where agents dial in
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "0.0.0.0:7443",
        env = "NEURALMESH_AGENT_LISTEN",
        hide_env_values = true
    )]
    pub agent_listen: SocketAddr,
}

/// `neuralmesh agent`
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "\
`neuralmesh nodes join-token` gives the token. An agent that has joined needs none
any more: its certificate is in its data folder.

Examples:
  neuralmesh agent install --server https://mesh.example.com:7443    by systemd, from now on
  neuralmesh agent --server https://mesh.example.com:7443 --join nm1.…
  neuralmesh agent --server https://mesh.example.com:7443        started again")]
pub struct AgentArgs {
    #[command(subcommand)]
    pub command: Option<AgentCommand>,
    /// The control plane's agent listener, https://host:7443; repeat it for each replica
    #[arg(
        long = "server",
        value_name = "URL",
        env = "NEURALMESH_AGENT_SERVER",
        hide_env_values = true,
        value_delimiter = ',',
        required = true
    )]
    pub servers: Vec<String>,
    /// A join token; good once, for 15 minutes
    #[arg(long, value_name = "TOKEN", env = "NEURALMESH_JOIN", hide_env_values = true)]
    pub join: Option<String>,
    /// Where the agent keeps its certificate and its desired state
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/lib/neuralmesh",
        env = "NEURALMESH_DATA_DIR",
        hide_env_values = true
    )]
    pub data_dir: PathBuf,
    /// Seconds that a version this node is upgraded to has to link, until the one before takes over again
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 60,
        env = "NEURALMESH_UPGRADE_WITHIN",
        hide_env_values = true
    )]
    pub upgrade_within: u64,
    #[command(flatten)]
    pub machine: MachineArgs,
    #[command(flatten)]
    pub log: LogArgs,
}

#[derive(Debug, Clone, Subcommand)]
pub enum AgentCommand {
    /// Join a fleet, and have systemd run the agent from now on
    Install(InstallArgs),
    /// Have systemd run the agent no more
    Uninstall(UninstallArgs),
}

/// `neuralmesh agent install`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
`neuralmesh nodes join-token` prints the whole command for the new machine. The token
is used at once and kept nowhere; a machine that has joined needs none.

Example:
  NEURALMESH_JOIN=nm1.… neuralmesh agent install --server https://mesh.example.com:7443")]
pub struct InstallArgs {
    /// The control plane's agent listener, https://host:7443; repeat it for each replica
    #[arg(
        long = "server",
        value_name = "URL",
        env = "NEURALMESH_AGENT_SERVER",
        hide_env_values = true,
        value_delimiter = ',',
        required = true
    )]
    pub servers: Vec<String>,
    /// A join token; good once, for 15 minutes. In NEURALMESH_JOIN it does not show in the process list
    #[arg(long, value_name = "TOKEN", env = "NEURALMESH_JOIN", hide_env_values = true)]
    pub join: Option<String>,
    #[command(flatten)]
    pub machine: MachineArgs,
}

/// `neuralmesh agent uninstall`
#[derive(Debug, Clone, Args)]
pub struct UninstallArgs {
    /// Also remove the node's certificate and what else the agent keeps: the machine is no node any more
    #[arg(long)]
    pub purge: bool,
}

/// `neuralmesh hello`, the program of the built-in image.
#[derive(Debug, Clone, Args)]
pub struct HelloArgs {
    /// Where to listen
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
}
