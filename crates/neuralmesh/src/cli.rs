//! The command line: every command and the options they share.

use crate::commands::*;
use crate::output::Format;
use crate::{proxy, run};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// One fleet out of any set of servers: containers, images, volumes and networks on every machine, from one place.
#[derive(Debug, Parser)]
#[command(name = "neuralmesh", version, max_term_width = 120, arg_required_else_help = true)]
#[command(after_help = "\
Begin here:
  neuralmesh up                              control plane, and this first node
  neuralmesh login                           here, the first password is found
  neuralmesh containers run -p 8080:80 nginx
  neuralmesh containers ps                   what runs, everywhere
  neuralmesh doctor                          what is missing here, how to mend it")]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// The command line's command; ends the process where it is wrong, or asks for help.
///
/// A service's is read without the tree of all others: what builds that tree is a megabyte of code, which would stay resident as
/// long as the service runs.
pub fn read() -> Command {
    let named = std::env::args_os().nth(1);
    if named
        .and_then(|name| name.into_string().ok())
        .is_some_and(|name| Service::has_subcommand(&name))
    {
        return Command::Service(ServiceCli::parse().service);
    }
    Cli::parse().command
}

/// The command line of a service, alone.
#[derive(Debug, Parser)]
#[command(name = "neuralmesh", version, max_term_width = 120)]
struct ServiceCli {
    #[command(subcommand)]
    service: Service,
}

/// What stays and serves.
#[derive(Debug, Subcommand)]
pub enum Service {
    /// Run the control plane, and this machine as its first node
    Up(run::UpArgs),
    /// Run the control plane only
    Server(run::ServerArgs),
    /// Run this machine as a node of a control plane elsewhere
    Agent(run::AgentArgs),
    /// Run a node's load balancer; the agent starts it
    Proxy(proxy::ProxyArgs),
    /// Serve the page of the built-in image
    #[command(hide = true)]
    Hello(run::HelloArgs),
}

#[derive(Debug, Subcommand)]
pub enum Command {
    #[command(flatten)]
    Service(Service),
    /// Sign in at a control plane, and make it the one that commands go to
    Login(login::LoginArgs),
    /// Sign out, and forget the login
    Logout(login::LogoutArgs),
    /// The machines of the fleet
    #[command(visible_alias = "node")]
    Nodes(Group<nodes::NodesCommand>),
    /// Containers: run, look, change, enter, remove
    #[command(visible_alias = "container")]
    Containers(Box<Group<containers::ContainersCommand>>),
    /// Ready-made containers
    #[command(visible_alias = "template")]
    Templates(Group<containers::templates::TemplatesCommand>),
    /// Images on the nodes
    #[command(visible_alias = "image")]
    Images(Group<images::ImagesCommand>),
    /// Named volumes on the nodes
    #[command(visible_alias = "volume")]
    Volumes(Group<volumes::VolumesCommand>),
    /// Networks on the nodes
    #[command(visible_alias = "network")]
    Networks(Group<networks::NetworksCommand>),
    /// Logins of image registries
    #[command(visible_alias = "registry")]
    Registries(Group<registries::RegistriesCommand>),
    /// Servers of every kind, and addresses registered by hand
    Servers(Group<servers::ServersCommand>),
    /// Backups of containers and nodes, and the way back
    #[command(visible_alias = "backup")]
    Backups(Box<Group<backups::BackupsCommand>>),
    /// Servers behind one entry point: load balancing, high availability, scaling
    #[command(visible_alias = "cluster")]
    Clusters(Box<Group<clusters::ClustersCommand>>),
    /// Work of compute clusters' queues: run, look, wait, cancel
    #[command(visible_alias = "job")]
    Jobs(Group<jobs::JobsCommand>),
    /// Whether servers are well, and were
    Health(Group<health::HealthCommand>),
    /// People who may sign in
    #[command(visible_alias = "user")]
    Users(Group<users::UsersCommand>),
    /// API tokens for programs
    #[command(visible_alias = "token")]
    Tokens(Group<tokens::TokensCommand>),
    /// Work that outlasts a request: pulls, creates, …
    #[command(visible_alias = "operation")]
    Operations(Group<operations::OperationsCommand>),
    /// Watch what changes, as it changes
    Events(events::EventsArgs),
    /// Who did what
    Audit(Group<audit::AuditCommand>),
    /// What is wrong in the fleet, and who is told
    #[command(visible_alias = "alert")]
    Alerts(Box<Group<alerts::AlertsCommand>>),
    /// Find what is missing on this machine, and how to mend it
    Doctor(doctor::DoctorArgs),
    /// Bring a control plane back from the backup it made of itself
    RestoreControlPlane(Box<crate::own_backup::RestoreControlPlaneArgs>),
    /// Print a shell's completion script
    Completion(completion::CompletionArgs),
    /// Print the API's OpenAPI document
    Openapi(openapi::OpenapiArgs),
}

impl Command {
    /// Whether it is a service, for which memory is given back and all cores are taken. A load balancer begins again by itself and has
    /// threads of its own.
    pub fn runs_for_long(&self) -> bool {
        matches!(self, Self::Service(Service::Up(_) | Service::Server(_) | Service::Agent(_)))
    }
}

/// A command with subcommands of its own that talk to the API.
#[derive(Debug, Args)]
pub struct Group<C: Subcommand> {
    #[command(flatten)]
    pub client: ClientArgs,
    #[command(subcommand)]
    pub command: C,
}

/// Which control plane to talk to, as whom, and how to print what it says.
#[derive(Debug, Clone, Args)]
pub struct ClientArgs {
    /// The API's URL [default: where you signed in last, else http://127.0.0.1:3001]
    #[arg(
        long,
        value_name = "URL",
        env = "NEURALMESH_SERVER",
        hide_env_values = true,
        global = true,
        help_heading = "Connection"
    )]
    pub server_url: Option<String>,
    /// A file that holds an API token, in place of a login; the token itself may stand in NEURALMESH_TOKEN
    #[arg(
        long,
        value_name = "FILE",
        env = "NEURALMESH_TOKEN_FILE",
        hide_env_values = true,
        global = true,
        help_heading = "Connection"
    )]
    pub token_file: Option<PathBuf>,
    /// A further certificate authority to trust, in PEM form
    #[arg(
        long,
        value_name = "FILE",
        env = "NEURALMESH_CA_FILE",
        hide_env_values = true,
        global = true,
        help_heading = "Connection"
    )]
    pub ca_file: Option<PathBuf>,
    /// How to print results: wide has more columns, json is the API's data, name is names alone
    #[arg(
        short,
        long,
        value_enum,
        value_name = "FORMAT",
        default_value_t,
        env = "NEURALMESH_OUTPUT",
        hide_env_values = true,
        global = true,
        help_heading = "Output"
    )]
    pub output: Format,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_option_says_what_it_is() {
        fn check(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            assert!(command.get_about().is_some(), "{path} has no about");
            for arg in command.get_arguments().filter(|a| !a.is_hide_set()) {
                assert!(arg.get_help().is_some(), "{path}: {} has no help", arg.get_id());
            }
            command.get_subcommands().for_each(|sub| check(sub, &path));
        }
        let mut command = Cli::command();
        command.build();
        command
            .get_subcommands()
            .filter(|c| c.get_name() != "help")
            .for_each(|c| check(c, "neuralmesh"));
    }

    #[test]
    fn no_secret_can_be_given_as_an_option() {
        fn check(command: &clap::Command) {
            for arg in command.get_arguments().filter_map(|a| a.get_long()) {
                assert!(
                    !matches!(arg, "password" | "token" | "secret"),
                    "--{arg} would show in the process list"
                );
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}
