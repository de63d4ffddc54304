//! `neuralmesh alerts channels …`. Secrets are asked for, or read from a file or standard input; never from the command line,
//! which every user of the machine can read.

use crate::client::Call;
use crate::context::Context;
use crate::output::{note, table::Column};
use crate::prompt::PasswordArgs;
use clap::{Args, Subcommand, ValueEnum};
use nm_types::alert::channel::{AlertChannelTest, AlertChannelView, CreatedAlertChannel};
use nm_types::text::Title;
use serde_json::{Value, json};
use std::time::Duration;

/// A test waits for the receiver.
const TEST: Duration = Duration::from_secs(40);

#[derive(Debug, Subcommand)]
pub enum ChannelsCommand {
    /// List channels
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Make a channel
    #[command(visible_alias = "create", subcommand)]
    Add(Box<AddCommand>),
    /// Send a word through channels now; fails when one does not arrive
    Test(ChannelsArgs),
    /// Remove channels that no rule tells
    #[command(visible_alias = "remove")]
    Rm(ChannelsArgs),
}

#[derive(Debug, Clone, Args)]
pub struct LsArgs {
    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Clone, Args)]
pub struct ChannelsArgs {
    /// Names or ids
    #[arg(value_name = "CHANNEL", required = true)]
    pub channels: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub enum AddCommand {
    /// Post alerts as JSON, signed, to a URL; the signing key is made and shown once
    Webhook(WebhookArgs),
    /// Mail
    Email(EmailArgs),
    /// A channel of Slack, by its incoming webhook's URL, which is asked for
    Slack(UrlArgs),
    /// A channel of Discord, by its webhook's URL, which is asked for
    Discord(UrlArgs),
    /// A chat of Telegram; the bot's token is asked for
    Telegram(TelegramArgs),
    /// A topic of ntfy
    Ntfy(NtfyArgs),
}

#[derive(Debug, Clone, Args)]
pub struct WebhookArgs {
    /// Take a signing key of your own, from the terminal or by one of the options
    #[arg(long)]
    pub own_key: bool,
    #[command(flatten)]
    pub password: PasswordArgs,
    /// The channel's name
    #[arg(value_name = "NAME")]
    pub name: Title,
    /// Where to post
    #[arg(value_name = "URL")]
    pub url: String,
}

#[derive(Debug, Clone, Args)]
pub struct UrlArgs {
    #[command(flatten)]
    pub password: PasswordArgs,
    /// The channel's name
    #[arg(value_name = "NAME")]
    pub name: Title,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TlsArg {
    Starttls,
    Tls,
    None,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  neuralmesh alerts channels add email ops --host mail.example.com --username robot \\
    --from mesh@example.com --to ann@example.com --to bob@example.com")]
pub struct EmailArgs {
    /// The mail server
    #[arg(long, value_name = "HOST")]
    pub host: String,
    /// Its port [default: 587; 465 with tls, 25 with none]
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// How it is spoken to; none is for private networks only
    #[arg(long, value_enum, value_name = "TLS", default_value = "starttls")]
    pub tls: TlsArg,
    /// To sign in with; the password is asked for
    #[arg(long, value_name = "NAME")]
    pub username: Option<String>,
    #[command(flatten)]
    pub password: PasswordArgs,
    /// The sender
    #[arg(long, value_name = "ADDRESS")]
    pub from: String,
    /// A receiver; may be repeated
    #[arg(long, value_name = "ADDRESS", required = true)]
    pub to: Vec<String>,
    /// The channel's name
    #[arg(value_name = "NAME")]
    pub name: Title,
}

#[derive(Debug, Clone, Args)]
pub struct TelegramArgs {
    /// The chat: its number, or a channel's @name
    #[arg(long, value_name = "CHAT", allow_hyphen_values = true)]
    pub chat: String,
    /// A server of your own [default: https://api.telegram.org]
    #[arg(long, value_name = "URL")]
    pub api_base: Option<String>,
    #[command(flatten)]
    pub password: PasswordArgs,
    /// The channel's name
    #[arg(value_name = "NAME")]
    pub name: Title,
}

#[derive(Debug, Clone, Args)]
pub struct NtfyArgs {
    /// The server [default: https://ntfy.sh]
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
    /// Sign in with an access token, which is asked for
    #[arg(long)]
    pub with_token: bool,
    #[command(flatten)]
    pub password: PasswordArgs,
    /// The channel's name
    #[arg(value_name = "NAME")]
    pub name: Title,
    /// The topic
    #[arg(value_name = "TOPIC")]
    pub topic: String,
}

fn body(command: AddCommand) -> anyhow::Result<Value> {
    let secret = |args: &PasswordArgs, what: &str| args.read(what, false).map(|s| s.expose().to_owned());
    let mut body = match command {
        AddCommand::Webhook(args) => {
            let key = (args.own_key || args.password.given())
                .then(|| secret(&args.password, "Signing key"))
                .transpose()?;
            json!({ "name": args.name, "type": "webhook", "url": args.url, "secret": key })
        }
        AddCommand::Slack(args) => {
            json!({ "name": args.name, "type": "slack", "url": secret(&args.password, "Webhook URL")? })
        }
        AddCommand::Discord(args) => {
            json!({ "name": args.name, "type": "discord", "url": secret(&args.password, "Webhook URL")? })
        }
        AddCommand::Telegram(args) => json!({
            "name": args.name, "type": "telegram", "token": secret(&args.password, "Bot token")?, "chatId": args.chat, "apiBase": args.api_base
        }),
        AddCommand::Ntfy(args) => {
            let token = (args.with_token || args.password.given())
                .then(|| secret(&args.password, "Access token"))
                .transpose()?;
            json!({ "name": args.name, "type": "ntfy", "server": args.server, "topic": args.topic, "token": token })
        }
        AddCommand::Email(args) => {
            let password = args.username.as_ref().map(|_| secret(&args.password, "Password")).transpose()?;
            let tls = match args.tls {
                TlsArg::Starttls => "starttls",
                TlsArg::Tls => "tls",
                TlsArg::None => "none",
            };
            json!({
                "name": args.name, "type": "email", "host": args.host, "port": args.port, "tls": tls, "username": args.username,
                "password": password, "from": args.from, "to": args.to,
            })
        }
    };
    if let Some(fields) = body.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    Ok(body)
}

pub async fn run(command: ChannelsCommand, cx: &Context) -> anyhow::Result<u8> {
    match command {
        ChannelsCommand::Ls(args) => {
            let list = cx.client.list::<AlertChannelView>(Call::get(&["alerts", "channels"]), None).await?;
            if args.quiet {
                cx.out.lines(list.items.iter().map(|c| c.id.as_str()))?;
                return Ok(0);
            }
            let columns = [
                Column::new("NAME", |c: &AlertChannelView| c.name.to_string()),
                Column::new("TYPE", |c: &AlertChannelView| c.config.kind().as_str().to_owned()),
                Column::new("TO", |c: &AlertChannelView| c.config.place()),
                Column::new("SECRETS", |c: &AlertChannelView| c.secrets.join(",")).wide(),
                Column::new("ID", |c: &AlertChannelView| c.id.to_string()).wide(),
            ];
            cx.out.list(&list, &columns, |c| c.name.to_string())?;
        }
        ChannelsCommand::Add(command) => {
            let call = Call::create(&["alerts", "channels"]).json(&body(*command)?)?;
            let made = cx.client.fetch::<CreatedAlertChannel>(call).await?;
            match &made.value.secret {
                Some(key) if !cx.out.is_json() => {
                    cx.out.line(key)?;
                    note("It is the key of the signatures, and shown this once.");
                }
                Some(_) | None => cx.out.result(&made, made.value.view.name.as_str())?,
            }
        }
        ChannelsCommand::Test(args) => {
            let mut failed = false;
            for named in &args.channels {
                let call = Call::post(&["alerts", "channels", named, "test"]).timeout(TEST);
                let result = cx.client.fetch::<AlertChannelTest>(call).await?;
                let word = if result.value.delivered { "delivered" } else { "not delivered" };
                cx.out.result(&result, &format!("{named}: {word}: {}", result.value.message))?;
                failed |= !result.value.delivered;
            }
            return Ok(u8::from(failed));
        }
        ChannelsCommand::Rm(args) => {
            for named in &args.channels {
                cx.client.done(Call::delete(&["alerts", "channels", named])).await?;
                cx.out.line(named)?;
            }
        }
    }
    Ok(0)
}
