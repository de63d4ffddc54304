//! `neuralmesh networks …`

use super::containers::flags;
use super::nodes::{NodeNames, node_names};
use crate::client::Call;
use crate::context::Context;
use crate::output::{Format, human, table::Column};
use clap::{Args, Subcommand};
use nm_types::network::{NetworkMember, NetworkView, NewNetwork};
use nm_types::text::{Argument, LabelKey, Labels, NetworkName};

#[derive(Debug, Subcommand)]
pub enum NetworksCommand {
    /// List networks
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Make a network
    Create(CreateArgs),
    /// Remove networks
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
    /// Join a container to a network
    #[command(visible_alias = "attach")]
    Connect(MemberArgs),
    /// Take a container out of a network
    #[command(visible_alias = "detach")]
    Disconnect(MemberArgs),
}

#[derive(Debug, Clone, Args)]
pub struct LsArgs {
    /// Only those on this node
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// Print names only
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Clone, Args)]
pub struct CreateArgs {
    /// The node to make it on; may be left out where there is only one
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// Without a way out to the world
    #[arg(long)]
    pub internal: bool,
    /// Set a label
    #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = flags::label)]
    pub label: Vec<(LabelKey, Argument)>,
    /// The network's name
    #[arg(value_name = "NAME")]
    pub name: NetworkName,
}

#[derive(Debug, Clone, Args)]
pub struct RmArgs {
    /// The node it is on; may be left out where there is only one
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// Names
    #[arg(value_name = "NETWORK", required = true)]
    pub networks: Vec<String>,
}

#[derive(Debug, Clone, Args)]
pub struct MemberArgs {
    /// The node both are on; may be left out where there is only one
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// The network
    #[arg(value_name = "NETWORK")]
    pub network: String,
    /// The container, by name or id
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

pub async fn run(command: NetworksCommand, cx: &Context) -> anyhow::Result<u8> {
    match command {
        NetworksCommand::Ls(args) => {
            let list = cx
                .client
                .list::<NetworkView>(Call::get(&["networks"]).query_opt("nodeId", args.node.as_ref()), None)
                .await?;
            if args.quiet {
                cx.out.lines(list.items.iter().map(|n| &n.name))?;
                return Ok(0);
            }
            let nodes = if matches!(cx.out.format, Format::Json | Format::Name) {
                NodeNames::default()
            } else {
                node_names(cx).await
            };
            let columns = [
                Column::new("NETWORK ID", |n: &NetworkView| n.id.chars().take(12).collect()),
                Column::new("NAME", |n: &NetworkView| n.name.clone()),
                Column::new("DRIVER", |n: &NetworkView| n.driver.clone()),
                Column::new("NODE", |n: &NetworkView| nodes.name(&n.node_id)),
                Column::new("SUBNET", |n: &NetworkView| n.subnets.join(",")),
                Column::new("CONTAINERS", |n: &NetworkView| n.containers.join(",")),
                Column::new("INTERNAL", |n: &NetworkView| if n.internal { "yes" } else { "no" }.to_owned()).wide(),
                Column::new("LABELS", |n: &NetworkView| human::pairs(&n.labels)).wide(),
            ];
            cx.out.list(&list, &columns, |n| n.name.clone())?;
        }
        NetworksCommand::Create(args) => {
            let body = NewNetwork {
                name: args.name,
                node_id: args.node,
                internal: args.internal,
                labels: Labels(args.label.into_iter().collect()),
            };
            let network = cx.client.fetch::<NetworkView>(Call::create(&["networks"]).json(&body)?).await?;
            cx.out.result(&network, &network.value.name)?;
        }
        NetworksCommand::Rm(args) => {
            for name in &args.networks {
                cx.client
                    .done(Call::delete(&["networks", name]).query_opt("nodeId", args.node.as_ref()))
                    .await?;
                cx.out.line(name)?;
            }
        }
        NetworksCommand::Connect(args) => member(args, "attach", cx).await?,
        NetworksCommand::Disconnect(args) => member(args, "detach", cx).await?,
    }
    Ok(0)
}

async fn member(args: MemberArgs, action: &str, cx: &Context) -> anyhow::Result<()> {
    let body = NetworkMember {
        container: args.container.clone(),
    };
    let call = Call::post(&["networks", &args.network, action])
        .query_opt("nodeId", args.node.as_ref())
        .json(&body)?;
    cx.client.done(call).await?;
    cx.out.line(&args.container)?;
    Ok(())
}
