//! `neuralmesh volumes …`

use super::containers::flags;
use super::nodes::{NodeNames, node_names};
use crate::client::{Call, now};
use crate::context::Context;
use crate::output::{Format, human, table::Column};
use clap::{Args, Subcommand};
use nm_types::text::{Argument, LabelKey, Labels, VolumeName};
use nm_types::volume::{NewVolume, VolumeView};

#[derive(Debug, Subcommand)]
pub enum VolumesCommand {
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Make a volume
    Create(CreateArgs),
    /// Remove volumes, and everything in them
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
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
    /// Set a label
    #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = flags::label)]
    pub label: Vec<(LabelKey, Argument)>,
    /// The volume's name
    #[arg(value_name = "NAME")]
    pub name: VolumeName,
}

#[derive(Debug, Clone, Args)]
pub struct RmArgs {
    /// The node it is on; may be left out where there is only one
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// Names
    #[arg(value_name = "VOLUME", required = true)]
    pub volumes: Vec<String>,
}

pub async fn run(command: VolumesCommand, cx: &Context) -> anyhow::Result<u8> {
    match command {
        VolumesCommand::Ls(args) => {
            let list = cx
                .client
                .list::<VolumeView>(Call::get(&["volumes"]).query_opt("nodeId", args.node.as_ref()), None)
                .await?;
            if args.quiet {
                cx.out.lines(list.items.iter().map(|v| &v.name))?;
                return Ok(0);
            }
            let nodes = if matches!(cx.out.format, Format::Json | Format::Name) {
                NodeNames::default()
            } else {
                node_names(cx).await
            };
            let now = now();
            let columns = [
                Column::new("VOLUME NAME", |v: &VolumeView| v.name.clone()),
                Column::new("DRIVER", |v: &VolumeView| v.driver.clone()),
                Column::new("NODE", |v: &VolumeView| nodes.name(&v.node_id)),
                Column::new("CREATED", move |v: &VolumeView| human::ago_opt(v.created, now)),
                Column::new("USED BY", |v: &VolumeView| v.used_by.join(",")),
                Column::new("LABELS", |v: &VolumeView| human::pairs(&v.labels)).wide(),
                Column::new("MOUNTPOINT", |v: &VolumeView| v.mountpoint.clone()).wide(),
            ];
            cx.out.list(&list, &columns, |v| v.name.clone())?;
        }
        VolumesCommand::Create(args) => {
            let body = NewVolume {
                name: args.name,
                node_id: args.node,
                labels: Labels(args.label.into_iter().collect()),
            };
            let volume = cx.client.fetch::<VolumeView>(Call::create(&["volumes"]).json(&body)?).await?;
            cx.out.result(&volume, &volume.value.name)?;
        }
        VolumesCommand::Rm(args) => {
            for name in &args.volumes {
                cx.client
                    .done(Call::delete(&["volumes", name]).query_opt("nodeId", args.node.as_ref()))
                    .await?;
                cx.out.line(name)?;
            }
        }
    }
    Ok(0)
}
