//! `neuralmesh events`: what changes, as it changes.

use crate::cli::ClientArgs;
use crate::client::{Call, ClientError};
use crate::context::Context;
use crate::output::{Format, note, table::clean};
use clap::Args;
use nm_types::event::Event;
use std::time::Duration;

/// How often the stream is opened again before the server is given up.
const REOPENINGS: u32 = 8;

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
The stream goes on until you interrupt it; when the connection breaks it is
opened again without a gap.

Examples:
  neuralmesh events
  neuralmesh events --kind container -o json
  neuralmesh events --count 1 --kind operation")]
pub struct EventsArgs {
    /// Accepted out of habit: events are always followed
    #[arg(short, long)]
    pub follow: bool,
    /// Only events of this kind: container, node, operation, …; may be repeated
    #[arg(long, value_name = "KIND")]
    pub kind: Vec<String>,
    /// Begin after this revision, in place of now
    #[arg(long, value_name = "REVISION")]
    pub since: Option<u64>,
    /// End after so many
    #[arg(long, value_name = "COUNT")]
    pub count: Option<u64>,
    #[command(flatten)]
    pub client: ClientArgs,
}

pub async fn events(args: EventsArgs) -> anyhow::Result<u8> {
    let cx = Context::new(&args.client)?;
    let mut last_id = args.since.map(|revision| revision.to_string());
    let mut left = args.count;
    let mut broken = 0;
    loop {
        let failure = match cx.client.events(Call::get(&["events"]), last_id.as_deref()).await {
            Ok(mut stream) => loop {
                let next = tokio::select! {
                    next = stream.next() => next,
                    _ = tokio::signal::ctrl_c() => return Ok(0),
                };
                match next {
                    Ok(Some(message)) => {
                        broken = 0;
                        if !message.last_id.is_empty() {
                            last_id = Some(message.last_id.clone());
                        }
                        let Ok(event) = serde_json::from_str::<Event>(&message.data) else {
                            continue;
                        };
                        if !args.kind.is_empty() && !args.kind.contains(&event.kind) {
                            continue;
                        }
                        show(&event, &message.data, &cx)?;
                        if let Some(left) = &mut left {
                            *left = left.saturating_sub(1);
                            if *left == 0 {
                                return Ok(0);
                            }
                        }
                    }
                    Ok(None) => {
                        break ClientError::Broken {
                            server: cx.client.server().to_string(),
                            reason: "the server ended the stream".to_owned(),
                        };
                    }
                    Err(e) => break e,
                }
            },
            // Not even once: then there is nothing to take up again.
            Err(e) if last_id.is_none() && broken == 0 => return Err(e.into()),
            Err(e @ (ClientError::Broken { .. } | ClientError::Unreachable { .. } | ClientError::Timeout { .. })) => e,
            Err(e) if e.status().is_some_and(|s| s >= 500) => e,
            Err(e) => return Err(e.into()),
        };
        broken += 1;
        if broken > REOPENINGS {
            return Err(failure.into());
        }
        if broken == 1 {
            note(format!("{failure}; trying again"));
        }
        let pause = Duration::from_millis(250) * 2u32.pow((broken - 1).min(5));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = tokio::signal::ctrl_c() => return Ok(0),
        }
    }
}

fn show(event: &Event, raw: &str, cx: &Context) -> std::io::Result<()> {
    match cx.out.format {
        Format::Json => cx.out.json_line(raw),
        Format::Name => cx.out.line(clean(event.name.as_deref().unwrap_or(&event.id))),
        Format::Table | Format::Wide => {
            let status = event.status.as_ref().map(|s| format!(" {s}")).unwrap_or_default();
            let name = event.name.as_ref().map(|n| format!(" {n}")).unwrap_or_default();
            let id = if event.name.is_none() || cx.out.format == Format::Wide {
                format!(" {}", event.id)
            } else {
                String::new()
            };
            cx.out
                .line(clean(&format!("{} {} {}{status}{name}{id}", event.time, event.kind, event.what)))
        }
    }
}
