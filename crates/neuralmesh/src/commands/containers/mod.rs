//! `neuralmesh containers …`: one file a subject. [`flags`] reads docker's spellings, [`spec`] makes the API's body of them.

pub mod archive;
pub mod copy;
pub mod exec;
pub mod flags;
pub mod lifecycle;
pub mod list;
pub mod logs;
pub mod run;
pub mod spec;
pub mod stats;
pub mod templates;

use crate::context::Context;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum ContainersCommand {
    /// List containers, on all nodes
    #[command(visible_aliases = ["ls", "list"])]
    Ps(list::PsArgs),
    /// Create and start a container
    Run(run::RunArgs),
    /// Create a container without starting it
    Create(run::CreateArgs),
    /// Start containers
    Start(lifecycle::NamesArgs),
    /// Stop containers
    Stop(lifecycle::StopArgs),
    /// Restart containers
    Restart(lifecycle::StopArgs),
    /// Freeze containers
    Pause(lifecycle::NamesArgs),
    /// Let frozen containers go on
    Unpause(lifecycle::NamesArgs),
    /// Send containers a signal
    Kill(lifecycle::KillArgs),
    /// Remove containers
    #[command(visible_alias = "remove")]
    Rm(lifecycle::RmArgs),
    /// Show what a container has written
    Logs(logs::LogsArgs),
    /// Show what containers use, live
    Stats(stats::StatsArgs),
    /// Run a command in a container
    Exec(exec::ExecArgs),
    /// Copy files between a container and this machine
    Cp(copy::CpArgs),
    /// Show a container
    Get(list::GetArgs),
    /// Show a container as Docker describes it
    Inspect(list::GetArgs),
    /// Give a container another name
    Rename(lifecycle::RenameArgs),
    /// Change a container's limits while it runs
    Update(lifecycle::UpdateArgs),
    /// Ready-made containers
    #[command(visible_alias = "template")]
    Templates {
        #[command(subcommand)]
        command: templates::TemplatesCommand,
    },
}

pub async fn run(command: ContainersCommand, cx: &Context) -> anyhow::Result<u8> {
    use lifecycle::{each, kill, remove, rename, restart, stop, update};
    match command {
        ContainersCommand::Ps(args) => list::ps(args, cx).await,
        ContainersCommand::Run(args) => run::run(args, cx).await,
        ContainersCommand::Create(args) => run::create(args, cx).await,
        ContainersCommand::Start(args) => each(args, "start", cx).await,
        ContainersCommand::Stop(args) => stop(args, cx).await,
        ContainersCommand::Restart(args) => restart(args, cx).await,
        ContainersCommand::Pause(args) => each(args, "pause", cx).await,
        ContainersCommand::Unpause(args) => each(args, "unpause", cx).await,
        ContainersCommand::Kill(args) => kill(args, cx).await,
        ContainersCommand::Rm(args) => remove(args, cx).await,
        ContainersCommand::Logs(args) => logs::logs(args, cx).await,
        ContainersCommand::Stats(args) => stats::stats(args, cx).await,
        ContainersCommand::Exec(args) => exec::exec(args, cx).await,
        ContainersCommand::Cp(args) => copy::cp(args, cx).await,
        ContainersCommand::Get(args) => list::get(args, cx).await,
        ContainersCommand::Inspect(args) => list::inspect(args, cx).await,
        ContainersCommand::Rename(args) => rename(args, cx).await,
        ContainersCommand::Update(args) => update(args, cx).await,
        ContainersCommand::Templates { command } => templates::run(command, cx).await,
    }
}
