//! Ready-made containers.

use super::flags::{self, Publish};
use super::run::made;
use crate::client::Call;
use crate::context::Context;
use crate::output::table::Column;
use clap::{Args, Subcommand};
use nm_types::container::VolumeMount;
use nm_types::placement::OnNodeLost;
use nm_types::template::{ContainerTemplate, RunTemplate};
use nm_types::text::{Argument, Constraint, ContainerName, EnvName, Environment, LabelKey};

#[derive(Debug, Subcommand)]
pub enum TemplatesCommand {
    /// List what there is
    #[command(visible_alias = "list")]
    Ls,
    /// Run one
    Run(TemplateRunArgs),
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Passwords that a template needs are generated; `neuralmesh containers get NAME` shows them.

Examples:
  neuralmesh templates run nginx
  neuralmesh templates run postgresql --name db -p 127.0.0.1:5432:5432")]
pub struct TemplateRunArgs {
    /// The template's id
    #[arg(value_name = "TEMPLATE")]
    pub template: String,
    /// The container's name [default: the template's, with a random ending]
    #[arg(long, value_name = "NAME")]
    pub name: Option<ContainerName>,
    /// The node to run on, by name or id
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// What the node must be: zone=eu-1, disk!=hdd, gpu; may be repeated
    #[arg(long = "constraint", value_name = "CONSTRAINT")]
    pub constraint: Vec<Constraint>,
    /// Spread containers of one kind evenly over the values of this label of nodes
    #[arg(long, value_name = "LABEL")]
    pub spread: Option<LabelKey>,
    /// What becomes of it when its node is lost: wait for the node, or reschedule to another one
    #[arg(long, value_name = "wait|reschedule", default_value = "wait")]
    pub on_node_lost: OnNodeLost,
    /// Set a variable, over the template's
    #[arg(short, long = "env", value_name = "NAME[=VALUE]", value_parser = flags::variable)]
    pub env: Vec<(EnvName, Option<Argument>)>,
    /// Publish a port, in place of all of the template's
    #[arg(short, long = "publish", value_name = "PORT")]
    pub publish: Vec<Publish>,
    /// Mount a volume or folder, in place of all of the template's
    #[arg(short, long = "volume", value_name = "MOUNT", value_parser = flags::mount)]
    pub volume: Vec<VolumeMount>,
    /// Say at once which operation it became, in place of waiting for its end
    #[arg(long)]
    pub no_wait: bool,
    /// Print the id only
    #[arg(short, long)]
    pub quiet: bool,
}

pub async fn run(command: TemplatesCommand, cx: &Context) -> anyhow::Result<u8> {
    match command {
        TemplatesCommand::Ls => {
            let list = cx
                .client
                .list::<ContainerTemplate>(Call::get(&["containers", "templates", "list"]), None)
                .await?;
            let columns = [
                Column::new("ID", |t: &ContainerTemplate| t.id.clone()),
                Column::new("NAME", |t: &ContainerTemplate| t.name.clone()),
                Column::new("IMAGE", |t: &ContainerTemplate| t.image.clone()),
                Column::new("PORTS", |t: &ContainerTemplate| super::list::ports(&t.config.ports)),
                Column::new("DESCRIPTION", |t: &ContainerTemplate| t.description.clone()),
            ];
            cx.out.list(&list, &columns, |t| t.id.clone())?;
        }
        TemplatesCommand::Run(args) => {
            let some = |list: Vec<_>| if list.is_empty() { None } else { Some(list) };
            let body = RunTemplate {
                name: args.name,
                node_id: args.node,
                environment: Environment(args.env.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()),
                ports: some(args.publish.into_iter().flat_map(|p| p.0).collect()),
                volumes: if args.volume.is_empty() { None } else { Some(args.volume) },
                constraints: args.constraint,
                spread: args.spread,
                on_node_lost: args.on_node_lost,
            };
            let call = Call::create(&["containers", "templates", &args.template, "run"]).json(&body)?;
            made(call, args.no_wait, args.quiet, cx).await?;
        }
    }
    Ok(0)
}
