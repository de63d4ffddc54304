//! `neuralmesh servers …`

use super::health::KindArg;
use crate::client::{Call, now};
use crate::context::Context;
use crate::output::{human, table::Column};
use clap::{Args, Subcommand, ValueEnum};
use nm_types::server::{AddressProbe, AddressProbeKind, NewServer, ServerAddress, ServerView};
use nm_types::text::{ProbePath, ServerName};
use nm_types::units::{Bounded, Port};

#[derive(Debug, Subcommand)]
pub enum ServersCommand {
    /// List servers of every kind
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Register a machine that runs no agent, by its address
    Add(AddArgs),
    /// Forget registered servers
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
}

#[derive(Debug, Clone, Args)]
pub struct LsArgs {
    /// Only servers of this kind
    #[arg(long, value_enum, value_name = "KIND")]
    pub kind: Option<KindArg>,
    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
/// How an address is checked.
pub enum ProbeArg {
    Tcp,
    Http,
    Https,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
With a port and no probe it is checked by a connection to that port; with neither
it is not checked.

Examples:
  neuralmesh servers add db 10.0.0.5 --port 5432
  neuralmesh servers add site www.example.com --probe https --path /up --expect-status 200")]
pub struct AddArgs {
    /// The port it serves on
    #[arg(long, value_name = "PORT", value_parser = port)]
    pub port: Option<Port>,
    /// How to check it
    #[arg(long, value_enum, value_name = "TYPE")]
    pub probe: Option<ProbeArg>,
    /// What an http or https probe asks for [default: /]
    #[arg(long, value_name = "PATH", requires = "probe")]
    pub path: Option<ProbePath>,
    /// The status an http or https probe wants [default: any from 200 to 399]
    #[arg(long, value_name = "STATUS", requires = "probe")]
    pub expect_status: Option<Bounded<100, 599>>,
    /// Seconds until a probe is given up, 1 to 10 [default: 5]
    #[arg(long, value_name = "SECONDS", requires = "probe")]
    pub timeout: Option<Bounded<1, 10>>,
    /// What to call it
    #[arg(value_name = "NAME")]
    pub name: ServerName,
    /// Host name or IP address
    #[arg(value_name = "ADDRESS")]
    pub address: ServerAddress,
}

#[derive(Debug, Clone, Args)]
pub struct RmArgs {
    /// Names or ids
    #[arg(value_name = "SERVER", required = true)]
    pub servers: Vec<String>,
}

fn port(text: &str) -> Result<Port, String> {
    text.parse()
        .ok()
        .and_then(Port::new)
        .ok_or_else(|| "a port is a whole number from 1 to 65535".to_owned())
}

pub async fn run(command: ServersCommand, cx: &Context) -> anyhow::Result<u8> {
    match command {
        ServersCommand::Ls(args) => {
            let call = Call::get(&["servers"]).query_opt("kind", args.kind.map(KindArg::as_str));
            let list = cx.client.list::<ServerView>(call, None).await?;
            if args.quiet {
                cx.out.lines(list.items.iter().map(|s| &s.id))?;
                return Ok(0);
            }
            let now = now();
            let columns = [
                Column::new("NAME", |s: &ServerView| s.name.clone()),
                Column::new("KIND", |s: &ServerView| s.kind.as_str().to_owned()),
                Column::new("STATUS", |s: &ServerView| s.status.clone()),
                Column::new("ADDRESS", address),
                Column::new("CREATED", move |s: &ServerView| human::ago(s.created, now)),
                Column::new("NODE", |s: &ServerView| {
                    s.node_id.as_ref().map(ToString::to_string).unwrap_or_default()
                })
                .wide(),
                Column::new("ID", |s: &ServerView| s.id.clone()).wide(),
            ];
            cx.out.list(&list, &columns, |s| s.name.clone())?;
        }
        ServersCommand::Add(args) => {
            let body = NewServer {
                name: args.name,
                address: args.address,
                port: args.port,
                probe: args.probe.map(|kind| AddressProbe {
                    kind: match kind {
                        ProbeArg::Tcp => AddressProbeKind::Tcp,
                        ProbeArg::Http => AddressProbeKind::Http,
                        ProbeArg::Https => AddressProbeKind::Https,
                    },
                    path: args.path,
                    expect_status: args.expect_status,
                    timeout: args.timeout,
                }),
            };
            let made = cx.client.fetch::<ServerView>(Call::post(&["servers"]).json(&body)?).await?;
            cx.out.result(&made, &made.value.name)?;
        }
        ServersCommand::Rm(args) => {
            for server in &args.servers {
                cx.client.done(Call::delete(&["servers", server])).await?;
                cx.out.line(server)?;
            }
        }
    }
    Ok(0)
}

fn address(s: &ServerView) -> String {
    match (&s.address, s.port) {
        (Some(address), Some(port)) if address.contains(':') => format!("[{address}]:{port}"),
        (Some(address), Some(port)) => format!("{address}:{port}"),
        (Some(address), None) => address.clone(),
        (None, _) => String::new(),
    }
}
