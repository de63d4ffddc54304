//! `neuralmesh jobs …`: work of a compute cluster's queue.

use super::containers::flags;
use crate::client::sse::Events;
use crate::client::{Call, ClientError, Fetched, now};
use crate::context::Context;
use crate::output::{human, table::Column};
use clap::{Args, Subcommand};
use nm_types::Timestamp;
use nm_types::container::{LogLine, LogStream, VolumeMount};
use nm_types::event::Event;
use nm_types::job::{JobArray, JobRetries, JobSpec, JobState, JobView, TaskState, TaskView};
use nm_types::text::{Argument, EnvName, Environment, ImageRef, Title, Word};
use nm_types::units::{Bounded, CpuLimit, MemoryLimit};
use std::io::{self, Write};
use std::time::Duration;

/// Between two looks at a job that is waited for, where events can't be followed.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, Subcommand)]
pub enum JobsCommand {
    /// Give a compute cluster a job
    Run(Box<RunArgs>),
    /// List jobs
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Show a job: how far it is, and what became of its tasks
    #[command(visible_aliases = ["get", "inspect"])]
    Show(ShowArgs),
    /// Show what a task wrote
    Logs(LogsArgs),
    /// End what runs of jobs, and begin nothing more of them
    Cancel(ManyArgs),
    /// Wait for jobs to end; fails where one did not succeed
    Wait(ManyArgs),
    /// Remove jobs that have ended
    #[command(visible_alias = "remove")]
    Rm(ManyArgs),
}

/// Which cluster.
#[derive(Debug, Clone, Args)]
pub struct ClusterArgs {
    /// Name or id of the compute cluster
    #[arg(short, long, value_name = "CLUSTER")]
    pub cluster: String,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
The job's id goes to standard output. With --wait it is waited for; the exit code is 1
where it did not succeed.

Examples:
  neuralmesh jobs run --cluster c --image busybox -- echo hello
  neuralmesh jobs run --cluster c --image renderer --array 100 --cpu 1 --memory 2g --wait -- render --frame-from-env
  neuralmesh jobs run --cluster c --image loader --after job_1770000000000_abcdefghi --retries 3 -- load")]
pub struct RunArgs {
    #[command(flatten)]
    pub of: ClusterArgs,
    /// The image its tasks run [default: busybox]
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<ImageRef>,
    /// What people call it
    #[arg(long, value_name = "NAME")]
    pub name: Option<Title>,
    /// So many tasks, which differ by their number
    #[arg(long, value_name = "COUNT")]
    pub array: Option<Bounded<1, 10_000>>,
    /// The variable that tells a task its number [default: NM_TASK_INDEX]
    #[arg(long, value_name = "NAME", requires = "array")]
    pub index_variable: Option<EnvName>,
    /// Cores of a task: 0.5, 2; whole ones it has for itself
    #[arg(long, value_name = "CORES", value_parser = flags::cpus)]
    pub cpu: Option<CpuLimit>,
    /// Memory of a task: 512m, 2g
    #[arg(short, long, value_name = "SIZE", value_parser = flags::memory)]
    pub memory: Option<MemoryLimit>,
    /// Set a variable; without a value it is taken from this environment, which keeps secrets off the command line
    #[arg(short, long = "env", value_name = "NAME[=VALUE]", value_parser = flags::variable)]
    pub env: Vec<(EnvName, Option<Argument>)>,
    /// Mount a volume or a folder of the node: VOLUME:/path[:ro], /folder:/path[:ro]
    #[arg(short, long = "volume", value_name = "MOUNT", value_parser = flags::mount)]
    pub volume: Vec<VolumeMount>,
    /// How many more times a failed task is tried
    #[arg(long, value_name = "COUNT")]
    pub retries: Option<Bounded<0, 20>>,
    /// Seconds until the first of them; twice as long before each further one
    #[arg(long, value_name = "SECONDS", requires = "retries")]
    pub backoff: Option<Bounded<0, 3_600>>,
    /// Seconds an attempt may run
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<Bounded<1, 2_592_000>>,
    /// What it counts among other jobs, 0 to 100 [default: 50]
    #[arg(long, value_name = "PRIORITY")]
    pub priority: Option<Bounded<0, 100>>,
    /// A job that has to succeed first
    #[arg(long, value_name = "JOB")]
    pub after: Vec<nm_types::JobId>,
    /// Wait until it has ended
    #[arg(short, long)]
    pub wait: bool,
    /// The program and its arguments
    #[arg(value_name = "COMMAND", last = true)]
    pub command: Vec<Word>,
}

#[derive(Debug, Clone, Args)]
pub struct LsArgs {
    #[command(flatten)]
    pub of: ClusterArgs,
    /// Only those in this state: waiting, queued, running, succeeded, failed, cancelled, set-aside
    #[arg(long, value_name = "STATE", value_parser = state)]
    pub state: Option<JobState>,
    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,
}

fn state(text: &str) -> Result<JobState, String> {
    let found = JobState::ALL.into_iter().find(|s| s.as_str() == text);
    found.ok_or_else(|| "there is no such state of jobs".to_owned())
}

fn task_state(text: &str) -> Result<TaskState, String> {
    let found = TaskState::ALL.into_iter().find(|s| s.as_str() == text);
    found.ok_or_else(|| "there is no such state of tasks".to_owned())
}

#[derive(Debug, Clone, Args)]
pub struct ShowArgs {
    #[command(flatten)]
    pub of: ClusterArgs,
    /// List its tasks
    #[arg(long)]
    pub tasks: bool,
    /// Only those in this state: queued, running, succeeded, failed, cancelled, set-aside
    #[arg(long, value_name = "STATE", value_parser = task_state, requires = "tasks")]
    pub state: Option<TaskState>,
    /// Id
    #[arg(value_name = "JOB")]
    pub job: String,
}

#[derive(Debug, Clone, Args)]
pub struct LogsArgs {
    #[command(flatten)]
    pub of: ClusterArgs,
    /// The task's number; may be left out where the job has one alone
    #[arg(long, value_name = "N")]
    pub task: Option<u32>,
    /// Go on as more is written
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last so many lines
    #[arg(short = 'n', long, value_name = "COUNT")]
    pub tail: Option<Bounded<0, 10_000>>,
    /// Put the time before each line
    #[arg(short, long)]
    pub timestamps: bool,
    /// Id
    #[arg(value_name = "JOB")]
    pub job: String,
}

#[derive(Debug, Clone, Args)]
pub struct ManyArgs {
    #[command(flatten)]
    pub of: ClusterArgs,
    /// Ids
    #[arg(value_name = "JOB", required = true)]
    pub jobs: Vec<String>,
}

fn path<'a>(of: &'a ClusterArgs, rest: &[&'a str]) -> Vec<&'a str> {
    ["capabilities", "clusters", of.cluster.as_str(), "jobs"]
        .into_iter()
        .chain(rest.iter().copied())
        .collect()
}

pub async fn run(command: JobsCommand, cx: &Context) -> anyhow::Result<u8> {
    match command {
        JobsCommand::Run(args) => return make(*args, cx).await,
        JobsCommand::Ls(args) => {
            let call = Call::get(&path(&args.of, &[])).query_opt("state", args.state.map(JobState::as_str));
            let list = cx.client.list::<JobView>(call, None).await?;
            if args.quiet {
                cx.out.lines(list.items.iter().map(|j| j.id.as_str()))?;
                return Ok(0);
            }
            let now = now();
            let columns = [
                Column::new("JOB", |j: &JobView| j.id.to_string()),
                Column::new("NAME", |j: &JobView| j.name.as_ref().map(ToString::to_string).unwrap_or_default()),
                Column::new("STATE", |j: &JobView| j.state.as_str().to_owned()),
                Column::new("DONE", |j: &JobView| format!("{}/{}", j.counts.ended(), j.counts.total())).right(),
                Column::new("RUNNING", |j: &JobView| j.counts.running.to_string()).right(),
                Column::new("FAILED", |j: &JobView| (j.counts.failed + j.counts.set_aside).to_string()).right(),
                Column::new("CREATED", move |j: &JobView| human::ago(j.created, now)),
                Column::new("PRIORITY", |j: &JobView| j.priority.to_string()).right().wide(),
                Column::new("ATTEMPTS", |j: &JobView| j.attempts.to_string()).right().wide(),
                Column::new("IMAGE", |j: &JobView| j.image.to_string()).wide(),
            ];
            cx.out.list(&list, &columns, |j| j.id.to_string())?;
        }
        JobsCommand::Show(args) => return show(args, cx).await,
        JobsCommand::Logs(args) => return logs(args, cx).await,
        JobsCommand::Cancel(args) => {
            for job in &args.jobs {
                let view = cx.client.fetch::<JobView>(Call::post(&path(&args.of, &[job, "cancel"]))).await?;
                cx.out.result(&view, job)?;
            }
        }
        JobsCommand::Wait(args) => {
            let mut code = 0;
            for job in &args.jobs {
                code = code.max(wait(&args.of, job, cx).await?);
            }
            return Ok(code);
        }
        JobsCommand::Rm(args) => {
            for job in &args.jobs {
                cx.client.done(Call::delete(&path(&args.of, &[job]))).await?;
                cx.out.line(job)?;
            }
        }
    }
    Ok(0)
}

async fn make(args: RunArgs, cx: &Context) -> anyhow::Result<u8> {
    let image = match args.image {
        Some(image) => image,
        None => ImageRef::parse("busybox:latest")?,
    };
    let mut environment = Environment::default();
    for (name, value) in args.env {
        let value = match value {
            Some(value) => value,
            None => match std::env::var(name.as_str()) {
                Ok(value) => Argument::parse(&value)?,
                Err(_) => anyhow::bail!("this environment has no variable {name}: give it a value, or leave it out"),
            },
        };
        environment.0.insert(name, value);
    }
    let spec = JobSpec {
        name: args.name,
        image,
        command: args.command,
        environment,
        cpu: args.cpu,
        memory: args.memory,
        array: args.array.map(|size| JobArray {
            size,
            variable: args.index_variable,
        }),
        retries: args.retries.map(|limit| JobRetries {
            limit,
            backoff: args.backoff.unwrap_or(JobRetries::default().backoff),
        }),
        timeout: args.timeout,
        priority: args.priority,
        depends_on: args.after,
        volumes: args.volume,
    };
    let view = cx.client.fetch::<JobView>(Call::create(&path(&args.of, &[])).json(&spec)?).await?;
    if !args.wait {
        cx.out.result(&view, view.value.id.as_str())?;
        return Ok(0);
    }
    if !cx.out.is_json() {
        cx.out.line(view.value.id.as_str())?;
    }
    wait(&args.of, view.value.id.as_str(), cx).await
}

/// Shows the job once it has ended; 1 where it did not succeed.
async fn wait(of: &ClusterArgs, job: &str, cx: &Context) -> anyhow::Result<u8> {
    let view = ended(of, job, cx).await?;
    let counts = view.value.counts;
    let said = format!(
        "{job} {}: {} of {} tasks",
        view.value.state.as_str(),
        counts.succeeded,
        counts.total()
    );
    if cx.out.is_json() {
        cx.out.json(&view.raw)?;
    } else {
        crate::output::note(said);
    }
    Ok(u8::from(view.value.state != JobState::Succeeded))
}

/// The job, once it has ended: looked at anew with each event of it.
async fn ended(of: &ClusterArgs, job: &str, cx: &Context) -> anyhow::Result<Fetched<JobView>> {
    let mut events = None;
    loop {
        // Before the look, so that nothing comes between the two. A token may not be for events, and a stream may break: then it is
        // looked again a little later, and if nothing else works either, the look says so.
        if events.is_none() {
            events = cx.client.events(Call::get(&["events"]), None).await.ok();
        }
        let view = cx.client.fetch::<JobView>(Call::get(&path(of, &[job]))).await?;
        if view.value.state.is_final() {
            return Ok(view);
        }
        let told = match &mut events {
            Some(events) => changes(events, view.value.id.as_str()).await,
            None => false,
        };
        if !told {
            events = None;
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Waits for an event of the job; false where the stream ends first.
async fn changes(events: &mut Events, job: &str) -> bool {
    while let Ok(Some(message)) = events.next().await {
        if serde_json::from_str::<Event>(&message.data).is_ok_and(|event| event.kind == "job" && event.id == job) {
            return true;
        }
    }
    false
}

async fn show(args: ShowArgs, cx: &Context) -> anyhow::Result<u8> {
    if args.tasks {
        let call = Call::get(&path(&args.of, &[&args.job, "tasks"])).query_opt("state", args.state.map(TaskState::as_str));
        let list = cx.client.list::<TaskView>(call, None).await?;
        let columns = [
            Column::new("TASK", |t: &TaskView| t.index.to_string()).right(),
            Column::new("STATE", |t: &TaskView| t.state.as_str().to_owned()),
            Column::new("ATTEMPTS", |t: &TaskView| t.attempts.to_string()).right(),
            Column::new("OUTCOME", |t: &TaskView| {
                t.outcome.map(|o| o.as_str().to_owned()).unwrap_or_default()
            }),
            Column::new("EXIT", |t: &TaskView| t.exit_code.map(|c| c.to_string()).unwrap_or_default()).right(),
            Column::new("TOOK", took).right(),
            Column::new("WHY", |t: &TaskView| match t.state {
                TaskState::Succeeded => String::new(),
                _ => t.reason.clone().unwrap_or_default(),
            }),
            Column::new("NODE", |t: &TaskView| {
                t.node_id.as_ref().map(ToString::to_string).unwrap_or_default()
            })
            .wide(),
        ];
        cx.out.list(&list, &columns, |t| t.index.to_string())?;
        return Ok(0);
    }
    let view = cx.client.fetch::<JobView>(Call::get(&path(&args.of, &[&args.job]))).await?;
    let job = &view.value;
    let at = |moment: Option<Timestamp>| moment.map(|m| m.to_string()).unwrap_or_default();
    let counts = job.counts;
    let rows = [
        ("Job", job.id.to_string()),
        ("Name", job.name.as_ref().map(ToString::to_string).unwrap_or_default()),
        ("State", job.state.as_str().to_owned()),
        ("Why", job.reason.clone().unwrap_or_default()),
        ("Progress", format!("{}%", job.progress)),
        (
            "Tasks",
            format!(
                "{} queued, {} running, {} succeeded, {} failed, {} cancelled, {} set aside",
                counts.queued, counts.running, counts.succeeded, counts.failed, counts.cancelled, counts.set_aside
            ),
        ),
        ("Attempts", job.attempts.to_string()),
        ("Image", job.image.to_string()),
        ("Command", job.command.iter().map(Word::as_str).collect::<Vec<_>>().join(" ")),
        ("CPU", job.cpu.map(|c| c.cores().to_string()).unwrap_or_default()),
        ("Memory", job.memory.as_ref().map(ToString::to_string).unwrap_or_default()),
        ("Priority", job.priority.to_string()),
        (
            "Depends on",
            job.depends_on.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        ),
        ("Created", job.created.to_string()),
        ("Started", at(job.started)),
        ("Finished", at(job.finished)),
    ];
    cx.out.card(&view, job.id.as_str(), &rows)?;
    Ok(0)
}

fn took(task: &TaskView) -> String {
    match (task.started, task.finished) {
        (Some(from), Some(to)) => human::span(to.since(from)),
        _ => String::new(),
    }
}

async fn logs(args: LogsArgs, cx: &Context) -> anyhow::Result<u8> {
    let call = Call::get(&path(&args.of, &[&args.job, "logs"]))
        .query_opt("task", args.task)
        .query_opt("tail", args.tail.map(Bounded::get));
    if !args.follow {
        let lines = cx.client.fetch::<Vec<LogLine>>(call).await?;
        if cx.out.is_json() {
            cx.out.json(&lines.raw)?;
            return Ok(0);
        }
        for line in &lines.value {
            print(line, args.timestamps)?;
        }
        return Ok(0);
    }
    let server = || cx.client.server().to_string();
    let mut events = cx.client.events(call.query("follow", true), None).await?;
    loop {
        let message = tokio::select! {
            message = events.next() => message?,
            _ = tokio::signal::ctrl_c() => return Ok(0),
        };
        match message {
            Some(message) if message.event == "log" && cx.out.is_json() => cx.out.json_line(&message.data)?,
            Some(message) if message.event == "log" => {
                let shape = |source| ClientError::Shape { server: server(), source };
                print(&serde_json::from_str(&message.data).map_err(shape)?, args.timestamps)?;
            }
            Some(message) if message.event == "end" => return Ok(0),
            Some(_) => {}
            None => {
                let reason = "the log's stream ended before the log".to_owned();
                return Err(ClientError::Broken { server: server(), reason }.into());
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
