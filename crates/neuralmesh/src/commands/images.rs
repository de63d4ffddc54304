//! `neuralmesh images …`

use super::nodes::{NodeNames, node_names};
use super::operations::{begun, interruptible};
use crate::client::{Call, Outcome, now};
use crate::context::Context;
use crate::output::{Format, human, note, table::Column};
use crate::prompt::confirm;
use clap::{Args, Subcommand};
use nm_types::image::{ImageView, Pruned, PullImage};
use nm_types::text::ImageRef;
use std::io::IsTerminal;
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub enum ImagesCommand {
    /// List images
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Pull an image onto a node
    Pull(PullArgs),
    /// Remove images from a node
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
    /// Remove images that no container uses and no name points to
    Prune(PruneArgs),
}

#[derive(Debug, Clone, Args)]
pub struct LsArgs {
    /// Only those on this node
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  neuralmesh images pull nginx:1.27
  neuralmesh images pull --node n2 registry.example.com/team/app:latest")]
pub struct PullArgs {
    /// The node that pulls; may be left out where there is only one
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// Say at once which operation it became, in place of waiting for its end
    #[arg(long)]
    pub no_wait: bool,
    /// The image
    #[arg(value_name = "IMAGE")]
    pub image: ImageRef,
}

#[derive(Debug, Clone, Args)]
pub struct RmArgs {
    /// The node to remove it from; may be left out where there is only one
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// Also when stopped containers use it
    #[arg(short, long)]
    pub force: bool,
    /// Names or ids
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
}

#[derive(Debug, Clone, Args)]
pub struct PruneArgs {
    /// The node to clean up; may be left out where there is only one
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
}

/// An image under each of its names, as docker lists them.
struct Named<'a> {
    image: &'a ImageView,
    repository: String,
    tag: String,
}

pub async fn run(command: ImagesCommand, cx: &Context) -> anyhow::Result<u8> {
    match command {
        ImagesCommand::Ls(args) => ls(&args, cx).await?,
        ImagesCommand::Pull(args) => {
            let body = PullImage {
                name: args.image.clone(),
                tag: None,
                node_id: args.node,
            };
            let mut call = Call::create(&["containers", "images", "pull"]).json(&body)?;
            if args.no_wait || std::io::stderr().is_terminal() {
                call = call.respond_async();
            }
            let mut progress = cx.out.progress();
            let outcome = interruptible(cx.client.submit::<ImageView>(call, !args.no_wait, &mut progress)).await;
            drop(progress);
            let image = match outcome? {
                Outcome::Begun(operation) => {
                    begun(&operation, cx)?;
                    return Ok(0);
                }
                Outcome::Done(image) => image,
                Outcome::Ended(operation) => cx.client.result::<ImageView>(&operation)?,
            };
            cx.out.result(&image, &args.image.with_tag())?;
            if cx.out.format == Format::Wide {
                note(format!("{}  {}", image.value.id, human::size(image.value.size)));
            }
        }
        ImagesCommand::Rm(args) => {
            for image in &args.images {
                let call = Call::delete(&["images"])
                    .query("name", image)
                    .query_opt("nodeId", args.node.as_ref())
                    .flag("force", args.force);
                cx.client.done(call).await?;
                cx.out.line(image)?;
            }
        }
        ImagesCommand::Prune(args) => {
            if !confirm("Remove all images that no container uses and no name points to?", args.force)? {
                return Ok(1);
            }
            let call = Call::post(&["images", "prune"])
                .query_opt("nodeId", args.node.as_ref())
                .timeout(Duration::from_secs(600));
            let pruned = cx.client.fetch::<Pruned>(call).await?;
            if cx.out.is_json() {
                cx.out.json(&pruned.raw)?;
            } else {
                cx.out.lines(&pruned.value.removed)?;
                note(format!("Freed {}", human::size(pruned.value.freed)));
            }
        }
    }
    Ok(0)
}

async fn ls(args: &LsArgs, cx: &Context) -> anyhow::Result<()> {
    let call = Call::get(&["images"]).query_opt("nodeId", args.node.as_ref());
    let list = cx.client.list::<ImageView>(call, None).await?;
    if args.quiet {
        return Ok(cx.out.lines(list.items.iter().map(|i| i.id.as_str()))?);
    }
    if cx.out.is_json() {
        return Ok(cx.out.line(crate::output::json::array(&list.raw))?);
    }
    let nodes = if cx.out.format == Format::Name {
        NodeNames::default()
    } else {
        node_names(cx).await
    };
    let named: Vec<Named<'_>> = list.items.iter().flat_map(names).collect();
    let now = now();
    let columns = [
        Column::new("REPOSITORY", |n: &Named<'_>| n.repository.clone()),
        Column::new("TAG", |n: &Named<'_>| n.tag.clone()),
        Column::new("IMAGE ID", |n: &Named<'_>| short(&n.image.id).to_owned()),
        Column::new("NODE", |n: &Named<'_>| nodes.name(&n.image.node_id)),
        Column::new("CREATED", move |n: &Named<'_>| human::ago(n.image.created, now)),
        Column::new("SIZE", |n: &Named<'_>| human::size(n.image.size)).right(),
        Column::new("CONTAINERS", |n: &Named<'_>| n.image.containers.to_string())
            .right()
            .wide(),
    ];
    let rows = crate::client::Listed {
        items: named,
        raw: Vec::new(),
        more: list.more,
    };
    cx.out.list(&rows, &columns, |n| {
        if n.tag == NONE {
            n.image.id.clone()
        } else {
            format!("{}:{}", n.repository, n.tag)
        }
    })?;
    Ok(())
}

const NONE: &str = "<none>";

fn names(image: &ImageView) -> Vec<Named<'_>> {
    if image.tags.is_empty() {
        return vec![Named {
            image,
            repository: NONE.to_owned(),
            tag: NONE.to_owned(),
        }];
    }
    let named = |full: &String| {
        // A port has a `:` too, but before a `/`.
        let (repository, tag) = full.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).unwrap_or((full, NONE));
        Named {
            image,
            repository: repository.to_owned(),
            tag: tag.to_owned(),
        }
    };
    image.tags.iter().map(named).collect()
}

/// The first twelve digits, as docker shows them.
fn short(id: &str) -> &str {
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    digits.get(..12).unwrap_or(digits)
}
