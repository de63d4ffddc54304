//! `stats`: what containers use, as a table that renews itself.

use crate::client::{Call, Client, ClientError};
use crate::context::Context;
use crate::output::screen::Screen;
use crate::output::{Format, human, note, table, table::Column};
use clap::Args;
use futures_util::{StreamExt, stream};
use nm_types::container::ContainerView;
use nm_types::stats::ContainerStats;
use serde_json::value::RawValue;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// A user may have 20 streams; some are left for other windows.
const STREAMS: usize = 16;
/// Single samples asked for at the same time.
const AT_ONCE: usize = 8;

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
CPU % is of one core: 150% is one and a half cores.

Examples:
  neuralmesh containers stats
  neuralmesh containers stats web db
  neuralmesh containers stats --no-stream -o json")]
pub struct StatsArgs {
    /// Show one sample and end
    #[arg(long)]
    pub no_stream: bool,
    /// Names or ids [default: all that run]
    #[arg(value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

struct Row {
    id: String,
    name: String,
    sample: Option<(ContainerStats, Box<RawValue>)>,
}

pub async fn stats(args: StatsArgs, cx: &Context) -> anyhow::Result<u8> {
    let mut rows = chosen(&args.containers, cx).await?;
    if args.no_stream {
        let samples = stream::iter(rows.iter().map(|row| latest(&cx.client, &row.id)))
            .buffered(AT_ONCE)
            .collect::<Vec<_>>()
            .await;
        for (row, sample) in rows.iter_mut().zip(samples) {
            row.sample = sample?;
        }
        if cx.out.is_json() {
            let raw: Vec<_> = rows.into_iter().filter_map(|row| row.sample.map(|(_, raw)| raw)).collect();
            cx.out.line(crate::output::json::array(&raw))?;
        } else {
            cx.out.line(render(&rows, cx.out.format, None))?;
        }
        return Ok(0);
    }
    if rows.is_empty() {
        note("no container runs");
        return Ok(0);
    }
    if rows.len() > STREAMS {
        note(format!(
            "{} containers run: these are {STREAMS} of them; name the ones you want, or use --no-stream",
            rows.len()
        ));
        rows.truncate(STREAMS);
    }
    live(rows, cx).await
}

async fn chosen(names: &[String], cx: &Context) -> Result<Vec<Row>, ClientError> {
    let row = |c: ContainerView| Row {
        id: c.id.to_string(),
        name: c.name,
        sample: None,
    };
    if names.is_empty() {
        let running = cx
            .client
            .list::<ContainerView>(Call::get(&["containers"]).query("status", "running"), None)
            .await?;
        return Ok(running.items.into_iter().map(row).collect());
    }
    let mut rows = Vec::new();
    for name in names {
        rows.push(row(cx.client.fetch::<ContainerView>(Call::get(&["containers", name])).await?.value));
    }
    Ok(rows)
}

async fn latest(client: &Client, id: &str) -> Result<Option<(ContainerStats, Box<RawValue>)>, ClientError> {
    let mut samples = client
        .list_whole::<ContainerStats>(Call::get(&["containers", id, "stats"]).query("limit", 1))
        .await?;
    Ok(samples.items.pop().zip(samples.raw.pop()))
}

/// What the streams tell the table.
enum News {
    Sample(usize, Box<(ContainerStats, Box<RawValue>)>),
    Ended(usize),
    Failed(ClientError),
}

async fn live(mut rows: Vec<Row>, cx: &Context) -> anyhow::Result<u8> {
    let (tell, mut news) = mpsc::channel(64);
    // One task would do, but borrowing streams in a set is no shorter; each ends when the receiver is gone.
    let mut streams = JoinSet::new();
    for (i, row) in rows.iter().enumerate() {
        let call = Call::get(&["containers", &row.id, "stats"]).query("follow", true);
        let mut events = cx.client.events(call, None).await?;
        let (tell, server) = (tell.clone(), cx.client.server().to_string());
        streams.spawn(async move {
            loop {
                let next = match events.next().await {
                    Ok(Some(message)) if message.event == "stats" => match read(message.data) {
                        Ok(sample) => News::Sample(i, Box::new(sample)),
                        Err(source) => News::Failed(ClientError::Shape {
                            server: server.clone(),
                            source,
                        }),
                    },
                    Ok(Some(message)) if message.event != "end" => continue,
                    Ok(_) => News::Ended(i),
                    Err(e) => News::Failed(e),
                };
                let last = !matches!(next, News::Sample(..));
                if tell.send(next).await.is_err() || last {
                    return;
                }
            }
        });
    }
    drop(tell);
    let mut screen = Screen::new();
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut fresh = false;
    loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(0),
            _ = tick.tick() => {
                if std::mem::take(&mut fresh) && !cx.out.is_json() {
                    screen.draw(&render(&rows, cx.out.format, screen.width()))?;
                }
            }
            next = news.recv() => match next {
                Some(News::Sample(_, sample)) if cx.out.is_json() => cx.out.json_line(sample.1.get())?,
                Some(News::Sample(i, sample)) => {
                    rows[i].sample = Some(*sample);
                    fresh = true;
                }
                Some(News::Ended(i)) => {
                    rows[i].sample = None;
                    fresh = true;
                }
                Some(News::Failed(e)) => return Err(e.into()),
                None => {
                    note("none of them runs any more");
                    return Ok(0);
                }
            }
        }
    }
}

fn read(data: String) -> Result<(ContainerStats, Box<RawValue>), serde_json::Error> {
    let raw = RawValue::from_string(data)?;
    Ok((serde_json::from_str(raw.get())?, raw))
}

fn render(rows: &[Row], format: Format, width: Option<u16>) -> String {
    fn column<'a>(head: &'static str, cell: impl Fn(&ContainerStats) -> String + 'a) -> Column<'a, Row> {
        Column::new(head, move |row: &Row| {
            row.sample.as_ref().map_or_else(|| "--".to_owned(), |(sample, _)| cell(sample))
        })
        .right()
    }
    let columns = [
        Column::new("NAME", |row: &Row| row.name.clone()),
        column("CPU %", |s| format!("{:.2}%", s.cpu)),
        column("MEM USAGE / LIMIT", |s| {
            format!(
                "{} / {}",
                human::memory(s.memory * 1_048_576.0),
                human::memory(s.memory_limit as f64)
            )
        }),
        column("MEM %", |s| {
            if s.memory_limit == 0 {
                "--".to_owned()
            } else {
                format!("{:.2}%", s.memory * 1_048_576.0 * 100.0 / s.memory_limit as f64)
            }
        }),
        column("NET I/O", |s| {
            format!("{} / {}", human::size(s.network_rx), human::size(s.network_tx))
        }),
        column("BLOCK I/O", |s| {
            format!("{} / {}", human::size(s.block_read), human::size(s.block_write))
        }),
        column("PIDS", |s| s.pids.to_string()),
        column("OOM KILLS", |s| s.oom_kills.to_string()).wide(),
        column("THROTTLED", |s| format!("{:.1}s", s.throttled_seconds)).wide(),
    ];
    if format == Format::Name {
        return rows.iter().map(|row| table::clean(&row.name)).collect::<Vec<_>>().join("\n");
    }
    table::render(rows, &columns, format == Format::Wide, width)
}
