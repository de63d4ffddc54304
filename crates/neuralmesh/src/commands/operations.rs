//! `neuralmesh operations …`, and what other commands share about operations.

use crate::client::{Call, ClientError, Fetched, now, succeeded};
use crate::context::Context;
use crate::output::{human, note, table::Column};
use clap::{Args, Subcommand, ValueEnum};
use nm_types::Timestamp;
use nm_types::operation::{OperationState, OperationView};

#[derive(Debug, Subcommand)]
pub enum OperationsCommand {
    /// List operations, the newest first
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Show an operation, its steps and its log
    #[command(visible_alias = "inspect")]
    Get(OperationArgs),
    /// Wait until an operation has ended; fails when it failed
    Wait(OperationArgs),
    /// Ask an operation to stop
    Cancel(OperationArgs),
}

#[derive(Debug, Clone, Args)]
pub struct LsArgs {
    /// Only those in this state
    #[arg(long, value_enum, value_name = "STATE")]
    pub state: Option<StateArg>,
    /// Only those on this container, node or image
    #[arg(long, value_name = "ID")]
    pub target: Option<String>,
    /// At most so many
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    pub limit: usize,
    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,
}

/// [`OperationState`] as an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StateArg {
    Pending,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

#[derive(Debug, Clone, Args)]
pub struct OperationArgs {
    /// The operation's id
    #[arg(value_name = "OPERATION")]
    pub operation: String,
}

/// The user pressed ^C while the server worked on.
#[derive(Debug, thiserror::Error)]
#[error("interrupted: what was begun may go on at the server; `neuralmesh operations ls` shows it")]
pub struct Interrupted;

/// Lets the user stop waiting, and says that the work goes on all the same.
pub async fn interruptible<T>(work: impl Future<Output = Result<T, ClientError>>) -> anyhow::Result<T> {
    tokio::select! {
        done = work => Ok(done?),
        _ = tokio::signal::ctrl_c() => Err(Interrupted.into()),
    }
}

/// Says which operation goes on without us.
pub fn begun(operation: &Fetched<OperationView>, cx: &Context) -> std::io::Result<()> {
    cx.out.result(operation, operation.value.id.as_str())?;
    if !cx.out.is_json() {
        note(format!("wait for it: neuralmesh operations wait {}", operation.value.id));
    }
    Ok(())
}

fn word(state: OperationState) -> &'static str {
    match state {
        OperationState::Pending => "pending",
        OperationState::Running => "running",
        OperationState::Succeeded => "succeeded",
        OperationState::Failed => "failed",
        OperationState::Cancelled => "cancelled",
    }
}

pub async fn run(command: OperationsCommand, cx: &Context) -> anyhow::Result<u8> {
    match command {
        OperationsCommand::Ls(args) => {
            let state = args.state.and_then(|s| s.to_possible_value().map(|v| v.get_name().to_owned()));
            let call = Call::get(&["operations"])
                .query_opt("state", state)
                .query_opt("target", args.target.as_ref());
            let list = cx.client.list::<OperationView>(call, Some(args.limit)).await?;
            if args.quiet {
                cx.out.lines(list.items.iter().map(|o| o.id.as_str()))?;
            } else {
                cx.out.list(&list, &columns(now()), |o| o.id.to_string())?;
            }
        }
        OperationsCommand::Get(args) => {
            let operation = cx
                .client
                .fetch::<OperationView>(Call::get(&["operations", &args.operation]))
                .await?;
            let rows = card(&operation.value, now());
            cx.out.card(&operation, operation.value.id.as_str(), &rows)?;
        }
        OperationsCommand::Wait(args) => {
            let mut progress = cx.out.progress();
            let operation = interruptible(cx.client.follow(&args.operation, &mut progress)).await?;
            drop(progress);
            let operation = succeeded(operation)?;
            cx.out.result(&operation, word(operation.value.state))?;
        }
        OperationsCommand::Cancel(args) => {
            let operation = cx
                .client
                .fetch::<OperationView>(Call::post(&["operations", &args.operation, "cancel"]))
                .await?;
            cx.out.result(&operation, operation.value.id.as_str())?;
        }
    }
    Ok(0)
}

fn columns(now: Timestamp) -> [Column<'static, OperationView>; 7] {
    [
        Column::new("ID", |o: &OperationView| o.id.to_string()),
        Column::new("KIND", |o: &OperationView| o.kind.clone()),
        Column::new("STATE", |o: &OperationView| {
            let percent = o
                .progress
                .filter(|_| o.state == OperationState::Running)
                .map(|p| format!(" {p:.0}%"))
                .unwrap_or_default();
            let stopping = if o.cancel_requested && !o.state.is_final() {
                " (stopping)"
            } else {
                ""
            };
            format!("{}{percent}{stopping}", word(o.state))
        }),
        Column::new("TARGET", |o: &OperationView| o.target.clone().unwrap_or_default()),
        Column::new("CREATED", move |o: &OperationView| human::ago(o.created, now)),
        Column::new("BY", |o: &OperationView| o.actor.clone()).wide(),
        Column::new("ERROR", |o: &OperationView| {
            o.error.as_ref().map(|e| e.error.clone()).unwrap_or_default()
        })
        .wide(),
    ]
}

fn card(o: &OperationView, now: Timestamp) -> Vec<(&'static str, String)> {
    let step = |s: &nm_types::operation::OperationStep| match &s.detail {
        Some(detail) => format!("{}: {} ({detail})", s.name, word(s.state)),
        None => format!("{}: {}", s.name, word(s.state)),
    };
    let lines = |items: Vec<String>| items.join("\n");
    vec![
        ("Id", o.id.to_string()),
        ("Kind", o.kind.clone()),
        ("State", word(o.state).to_owned()),
        ("Progress", o.progress.map(|p| format!("{p:.0}%")).unwrap_or_default()),
        ("Target", o.target.clone().unwrap_or_default()),
        ("By", o.actor.clone()),
        ("Created", format!("{} ({})", human::ago(o.created, now), o.created)),
        (
            "Took",
            o.finished
                .map(|end| format!("{:.1} s", end.since(o.created) as f64 / 1000.0))
                .unwrap_or_default(),
        ),
        ("Steps", lines(o.steps.iter().map(step).collect())),
        (
            "Error",
            o.error.as_ref().map(|e| format!("{} ({})", e.error, e.code)).unwrap_or_default(),
        ),
        ("Last lines", o.error.as_ref().map(|e| e.logs.join("\n")).unwrap_or_default()),
        ("Log", lines(o.log.iter().map(|l| format!("{} {}", l.time, l.line)).collect())),
    ]
}
