//! `exec`: one command and its exit code, one that is fed from a pipe or file, or a terminal in the container.

use super::flags;
use super::spec::bounded;
use crate::client::{Call, Client, ClientError, Socket, SocketMessage, SocketSender};
use crate::context::Context;
use crate::input;
use crate::output::report::usage;
use bytes::Bytes;
use clap::Args;
use crossterm::terminal;
use nm_types::container::{ExecCommand, ExecResult};
use nm_types::text::{Argument, ContainerPath, EnvName, Environment, RunAs, Word};
use serde::Deserialize;
use serde_json::json;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// The API's own default.
const TIMEOUT: u64 = 30;

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Ends with the command's own exit code. Without -i and -t, both streams are kept up
to 1 MiB each and shown at the end.

Examples:
  neuralmesh containers exec web -- nginx -t
  neuralmesh containers exec -it web -- sh
  neuralmesh containers exec -i db -- psql -U postgres < dump.sql
  neuralmesh containers exec --timeout 5m db -- psql -U postgres -c 'select 1'")]
pub struct ExecArgs {
    /// Send standard input: what you type, a pipe or a file
    #[arg(short, long, conflicts_with_all = ["env", "workdir", "timeout"])]
    pub interactive: bool,
    /// Open a terminal
    #[arg(short, long, conflicts_with_all = ["env", "workdir", "timeout"])]
    pub tty: bool,
    /// Set a variable for the command; without a value it is taken from this environment
    #[arg(short, long = "env", value_name = "NAME[=VALUE]", value_parser = flags::variable)]
    pub env: Vec<(EnvName, Option<Argument>)>,
    /// Run as this user: NAME, UID, NAME:GROUP or UID:GID
    #[arg(short, long, value_name = "USER")]
    pub user: Option<RunAs>,
    /// The folder to run it in
    #[arg(short, long, value_name = "PATH")]
    pub workdir: Option<ContainerPath>,
    /// When to give the command up, as 5m [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = flags::seconds)]
    pub timeout: Option<u64>,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// The program and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<Word>,
}

/// A program's exit code as this program's.
pub fn exit_code(code: i64) -> u8 {
    // A shell shows the low eight bits; 255 for what has none.
    u8::try_from(code & 0xff).unwrap_or(255)
}

pub async fn exec(args: ExecArgs, cx: &Context) -> anyhow::Result<u8> {
    match (args.tty, args.interactive) {
        (true, _) => interactive(args, cx).await,
        (false, true) => piped(args, cx).await,
        (false, false) => once(args, cx).await,
    }
}

/// Input from a pipe or a file, both outputs apart, and no terminal between: bytes pass as they are.
async fn piped(args: ExecArgs, cx: &Context) -> anyhow::Result<u8> {
    let socket = open(&cx.client, conversation(&args).query("tty", false)).await?;
    let Socket { sender, mut receiver } = socket;
    // Output is read while input is sent: a program that writes as it reads would stand still otherwise.
    let mut feeding = std::pin::pin!(feed(sender));
    let mut fed = None;
    loop {
        tokio::select! {
            message = receiver.next() => match message? {
                Some(SocketMessage::Binary(bytes)) => match bytes.split_first() {
                    Some((&STDERR, text)) => io::stderr().lock().write_all(text)?,
                    Some((_, data)) => {
                        let mut out = io::stdout().lock();
                        out.write_all(data)?;
                        out.flush()?;
                    }
                    None => {}
                },
                Some(SocketMessage::Text(text)) => return outcome(&text, &cx.client),
                None => anyhow::bail!("the connection ended before the command did"),
            },
            sender = &mut feeding, if fed.is_none() => fed = Some(sender?),
        }
    }
}

/// The byte that standard error's messages begin with.
const STDERR: u8 = 2;

/// Sends standard input to its end. A server that takes no more has said why, or will.
async fn feed(mut sender: SocketSender) -> io::Result<SocketSender> {
    let mut chunks = input::chunks();
    while let Some(chunk) = chunks.recv().await {
        if sender.send(SocketMessage::Binary(chunk?)).await.is_err() {
            return Ok(sender);
        }
    }
    let _ended_already = sender.send(SocketMessage::Text(json!({ "type": "eof" }).to_string())).await;
    Ok(sender)
}

/// The request of a command that is talked to.
fn conversation(args: &ExecArgs) -> Call {
    let mut call = Call::get(&["containers", &args.container, "terminal"]).query_opt("user", args.user.as_ref());
    for word in &args.command {
        call = call.query("command", word);
    }
    call
}

async fn once(args: ExecArgs, cx: &Context) -> anyhow::Result<u8> {
    let body = ExecCommand {
        command: args.command,
        environment: Environment(args.env.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()),
        user: args.user,
        working_dir: args.workdir,
        timeout: bounded("--timeout", args.timeout)?,
    };
    let patience = Duration::from_secs(args.timeout.unwrap_or(TIMEOUT) + 30);
    let call = Call::post(&["containers", &args.container, "exec"]).json(&body)?.timeout(patience);
    let result = cx.client.fetch::<ExecResult>(call).await?;
    let code = result.value.exit_code.map(exit_code);
    if cx.out.is_json() {
        cx.out.json(&result.raw)?;
    } else {
        io::stdout().lock().write_all(result.value.stdout.as_bytes())?;
        io::stderr().lock().write_all(result.value.stderr.as_bytes())?;
    }
    if result.value.truncated {
        crate::output::warning("there was more output than the 1 MiB that is kept of each stream");
    }
    match code {
        Some(code) => Ok(code),
        None => anyhow::bail!(
            "the command was given up after {} seconds; --timeout gives it longer",
            args.timeout.unwrap_or(TIMEOUT)
        ),
    }
}

/// What the server says in words.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
enum Said {
    Exit { code: i64 },
    Error { error: String },
}

async fn interactive(args: ExecArgs, cx: &Context) -> anyhow::Result<u8> {
    if args.interactive && !io::stdin().is_terminal() {
        return Err(usage(
            "standard input is no terminal, which -t needs: -i alone sends a pipe or a file",
        ));
    }
    let (cols, rows) = size().unwrap_or((80, 24));
    let socket = open(&cx.client, conversation(&args).query("rows", rows).query("cols", cols)).await?;
    let raw = Raw::begin(args.interactive)?;
    let ended = converse(socket, args.interactive, &cx.client).await;
    drop(raw);
    ended
}

/// The exit code, or the error, that a conversation ends with.
fn outcome(text: &str, client: &Client) -> anyhow::Result<u8> {
    let said: Said = serde_json::from_str(text).map_err(|source| ClientError::Shape {
        server: client.server().to_string(),
        source,
    })?;
    match said {
        Said::Exit { code } => Ok(exit_code(code)),
        Said::Error { error } => anyhow::bail!(error),
    }
}

async fn open(client: &Client, call: Call) -> Result<Socket, ClientError> {
    client.websocket(call).await
}

async fn converse(socket: Socket, typing: bool, client: &Client) -> anyhow::Result<u8> {
    let Socket { mut sender, mut receiver } = socket;
    let mut resized = signal(SignalKind::window_change())?;
    let mut ended = signal(SignalKind::terminate())?;
    let mut hung_up = signal(SignalKind::hangup())?;
    let mut typed = typing.then(input::chunks);
    let mut out = io::stdout();
    loop {
        tokio::select! {
            message = receiver.next() => match message? {
                Some(SocketMessage::Binary(bytes)) => {
                    out.write_all(&bytes)?;
                    out.flush()?;
                }
                Some(SocketMessage::Text(text)) => {
                    sender.close().await;
                    return outcome(&text, client);
                }
                None => anyhow::bail!("the connection ended before the command did"),
            },
            bytes = next(&mut typed) => match bytes {
                Some(bytes) => sender.send(SocketMessage::Binary(bytes?)).await?,
                None => {
                    typed = None;
                    sender.send(SocketMessage::Text(json!({ "type": "eof" }).to_string())).await?;
                }
            },
            _ = resized.recv() => {
                if let Some((cols, rows)) = size() {
                    sender.send(SocketMessage::Text(json!({ "type": "resize", "rows": rows, "cols": cols }).to_string())).await?;
                }
            }
            _ = ended.recv() => return Ok(143),
            _ = hung_up.recv() => return Ok(129),
        }
    }
}

/// Columns and rows of the terminal, where it tells them and the API takes them.
fn size() -> Option<(u16, u16)> {
    terminal::size()
        .ok()
        .filter(|(cols, rows)| *cols > 0 && *rows > 0)
        .map(|(cols, rows)| (cols.min(1000), rows.min(1000)))
}

/// What is typed next; never anything where nothing can be.
async fn next(typed: &mut Option<mpsc::Receiver<io::Result<Bytes>>>) -> Option<io::Result<Bytes>> {
    match typed {
        Some(typed) => typed.recv().await,
        None => std::future::pending().await,
    }
}

/// The terminal passing every key on, until dropped.
struct Raw {
    on: bool,
}

impl Raw {
    fn begin(on: bool) -> io::Result<Self> {
        if on {
            terminal::enable_raw_mode()?;
        }
        Ok(Self { on })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if self.on {
            // Nothing more can be done for a terminal that is gone.
            let _gone = terminal::disable_raw_mode();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_a_shells() {
        for (code, shown) in [(0, 0), (1, 1), (137, 137), (255, 255), (256, 0), (-1, 255)] {
            assert_eq!(exit_code(code), shown);
        }
    }
}
