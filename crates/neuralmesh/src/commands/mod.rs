//! Every command in a file of its own; this one finds the right one.

pub mod alerts;
pub mod audit;
pub mod backups;
pub mod clusters;
pub mod completion;
pub mod containers;
pub mod doctor;
pub mod events;
pub mod health;
pub mod images;
pub mod jobs;
pub mod login;
pub mod networks;
pub mod nodes;
pub mod openapi;
pub mod operations;
pub mod registries;
pub mod servers;
pub mod settings;
pub mod tokens;
pub mod trust;
pub mod users;
pub mod volumes;

use crate::cli::{ClientArgs, Command, Service};
use crate::context::Context;
use crate::{hello, proxy, serve};

/// Runs a command; answers the program's exit code.
pub async fn dispatch(command: Command) -> anyhow::Result<u8> {
    match command {
        Command::Service(service) => serve(service).await.map(|()| 0),
        Command::Login(args) => login::login(args).await,
        Command::Logout(args) => login::logout(args).await,
        Command::Nodes(group) => nodes::run(group.command, &connect(&group.client)?).await,
        Command::Containers(group) => containers::run(group.command, &connect(&group.client)?).await,
        Command::Templates(group) => containers::templates::run(group.command, &connect(&group.client)?).await,
        Command::Images(group) => images::run(group.command, &connect(&group.client)?).await,
        Command::Volumes(group) => volumes::run(group.command, &connect(&group.client)?).await,
        Command::Networks(group) => networks::run(group.command, &connect(&group.client)?).await,
        Command::Registries(group) => registries::run(group.command, &connect(&group.client)?).await,
        Command::Servers(group) => servers::run(group.command, &connect(&group.client)?).await,
        Command::Backups(group) => backups::run(group.command, &connect(&group.client)?).await.map(|()| 0),
        Command::Clusters(group) => clusters::run(group.command, &connect(&group.client)?).await.map(|()| 0),
        Command::Jobs(group) => jobs::run(group.command, &connect(&group.client)?).await,
        Command::Health(group) => health::run(group.command, &connect(&group.client)?).await,
        Command::Users(group) => users::run(group.command, &connect(&group.client)?).await,
        Command::Tokens(group) => tokens::run(group.command, &connect(&group.client)?).await,
        Command::Operations(group) => operations::run(group.command, &connect(&group.client)?).await,
        Command::Events(args) => events::events(args).await,
        Command::Audit(group) => audit::run(group.command, &connect(&group.client)?).await,
        Command::Alerts(group) => alerts::run(group.command, &connect(&group.client)?).await,
        Command::Doctor(args) => doctor::doctor(args).await,
        Command::RestoreControlPlane(args) => crate::own_backup::restore(*args).await.map(|()| 0),
        Command::Completion(args) => completion::completion(args),
        Command::Openapi(args) => openapi::openapi(args).await,
    }
}

async fn serve(service: Service) -> anyhow::Result<()> {
    match service {
        Service::Up(args) => serve::up(args).await,
        Service::Server(args) => serve::server(args).await,
        Service::Agent(args) => serve::agent(args).await,
        Service::Proxy(args) => proxy::run(args).await,
        Service::Hello(args) => hello::server::run(args.listen).await,
    }
}

fn connect(args: &ClientArgs) -> anyhow::Result<Context> {
    Context::new(args)
}
