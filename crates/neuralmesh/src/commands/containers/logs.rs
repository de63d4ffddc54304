//! `logs`: standard output to standard output, standard error to standard error, as docker does.

use super::flags;
use crate::client::{Call, ClientError};
use crate::context::Context;
use crate::output::warning;
use clap::Args;
use nm_types::Timestamp;
use nm_types::container::{LogLine, LogStream};
use std::io::{self, Write};

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  neuralmesh containers logs web
  neuralmesh containers logs -f --tail 20 web
  neuralmesh containers logs --since 10m -t db")]
pub struct LogsArgs {
    /// Go on as more is written
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last so many lines; all gives up to 10000
    #[arg(short = 'n', long, value_name = "COUNT", default_value = "100", value_parser = tail)]
    pub tail: Tail,
    /// Only what was written since: 10m, 2026-02-03T02:30:00Z
    #[arg(long, value_name = "TIME", value_parser = flags::moment)]
    pub since: Option<Timestamp>,
    /// Only what was written until then
    #[arg(long, value_name = "TIME", value_parser = flags::moment, conflicts_with = "follow")]
    pub until: Option<Timestamp>,
    /// Put the time before each line
    #[arg(short, long)]
    pub timestamps: bool,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

/// How many lines from the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// As many as the API gives at once.
    All,
    Last(u32),
}

/// The most lines the API gives at once.
const MOST: u32 = 10_000;

fn tail(text: &str) -> Result<Tail, String> {
    match text {
        "all" | "-1" => Ok(Tail::All),
        _ => text
            .parse()
            .ok()
            .filter(|n| *n <= MOST)
            .map(Tail::Last)
            .ok_or_else(|| format!("write a number of lines, at most {MOST}, or all")),
    }
}

/// What of a log is followed.
#[derive(Debug, Clone, Copy)]
pub struct Follow {
    pub tail: Tail,
    pub since: Option<Timestamp>,
    pub timestamps: bool,
}

impl Tail {
    fn count(self) -> u32 {
        match self {
            Self::All => MOST,
            Self::Last(count) => count,
        }
    }
}

pub async fn logs(args: LogsArgs, cx: &Context) -> anyhow::Result<u8> {
    if args.follow {
        let query = Follow {
            tail: args.tail,
            since: args.since,
            timestamps: args.timestamps,
        };
        return follow(cx, &args.container, &query).await.map(|()| 0);
    }
    let call = Call::get(&["containers", &args.container, "logs"])
        .query("tail", args.tail.count())
        .query_opt("since", args.since)
        .query_opt("until", args.until);
    if cx.out.is_json() {
        let lines = cx
            .client
            .fetch::<serde::de::IgnoredAny>(call.query("timestamps", args.timestamps))
            .await?;
        cx.out.json(&lines.raw)?;
        return Ok(0);
    }
    let lines = cx.client.fetch::<Vec<LogLine>>(call.query("format", "objects")).await?;
    for line in &lines.value {
        print(line, args.timestamps)?;
    }
    if args.tail == Tail::All && lines.value.len() >= MOST as usize {
        warning(format!(
            "these are the last {MOST} lines; --until and --since reach what was before"
        ));
    }
    Ok(0)
}

/// Shows a log as it grows, until the container ends or the user interrupts.
pub async fn follow(cx: &Context, container: &str, query: &Follow) -> anyhow::Result<()> {
    let call = Call::get(&["containers", container, "logs"])
        .query("follow", true)
        .query("tail", query.tail.count())
        .query_opt("since", query.since);
    let mut events = cx.client.events(call, None).await?;
    loop {
        let message = tokio::select! {
            message = events.next() => message?,
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        match message {
            Some(message) if message.event == "log" && cx.out.is_json() => cx.out.json_line(&message.data)?,
            Some(message) if message.event == "log" => {
                let shape = |source| ClientError::Shape {
                    server: cx.client.server().to_string(),
                    source,
                };
                print(&serde_json::from_str(&message.data).map_err(shape)?, query.timestamps)?;
            }
            Some(message) if message.event == "end" => return Ok(()),
            Some(_) => {}
            None => {
                let server = cx.client.server().to_string();
                return Err(ClientError::Broken {
                    server,
                    reason: "the log's stream ended before the log".to_owned(),
                }
                .into());
            }
        }
    }
}

fn print(line: &LogLine, timestamps: bool) -> io::Result<()> {
    let time = if timestamps { format!("{} ", line.time) } else { String::new() };
    match line.stream {
        LogStream::Stdout => writeln!(io::stdout().lock(), "{time}{}", line.line),
        LogStream::Stderr => writeln!(io::stderr().lock(), "{time}{}", line.line),
    }
}
