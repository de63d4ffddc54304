//! Another version of the agent, tried beside this one.
//!
//! The agent that was told to upgrade ends its own work and becomes the watch: it starts the new executable as its child, with its
//! own arguments and environment. The two share a socket, which is the child's standard input: the child says `linked` on it once
//! a control plane has let it in, and takes its end for the word to end. A child that does not link in time, or ends thrice, is
//! given up. Then the watch becomes an agent again by `exec`, in the same process: as the new executable, or as the old one.
//! Containers know nothing of it.

use anyhow::Context;
use nm_agent::upgrade::{Running, Trial, Upgrades};
use nm_link::agent::{LinkState, ServerUrl};
use nm_types::upgrade::ReleaseVersion;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

/// Set for a trial.
const TRIAL: &str = "NEURALMESH_AGENT_TRIAL";
/// Also when the file was replaced since: what runs now.
pub const IMAGE: &str = "/proc/self/exe";
const LINKED: &[u8] = b"linked\n";
/// How often a trial may end by itself.
const TRIES: u32 = 3;
/// Between two of them.
const PAUSE: Duration = Duration::from_millis(500);
/// What a trial has to end in good order.
const GRACE: Duration = Duration::from_secs(15);

/// What this process runs.
pub fn running() -> anyhow::Result<Running> {
    Ok(Running {
        executable: std::env::current_exe().context("find the file that this program runs from")?,
        image: IMAGE.into(),
        version: ReleaseVersion::parse(env!("CARGO_PKG_VERSION"))?,
    })
}

/// The other end of a trial: whoever watches over it.
pub struct Watcher(UnixStream);

impl Watcher {
    /// The watch, if this process is a trial.
    pub fn of_this_process() -> anyhow::Result<Option<Self>> {
        if std::env::var_os(TRIAL).is_none() {
            return Ok(None);
        }
        let stream = StdUnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
        stream.set_nonblocking(true)?;
        let stream = UnixStream::from_std(stream).context("a trial is started by the agent that it is to follow, not by hand")?;
        Ok(Some(Self(stream)))
    }

    /// Says that this agent is linked, as soon as it is; ends when the watch wants the trial to end, or is gone.
    pub async fn attend(mut self, mut states: watch::Receiver<BTreeMap<ServerUrl, LinkState>>) {
        let is_linked = |all: &BTreeMap<ServerUrl, LinkState>| all.values().any(|s| matches!(s, LinkState::Connected { .. }));
        let (mut from, mut to) = self.0.split();
        let telling = async {
            if states.wait_for(is_linked).await.is_ok() && to.write_all(LINKED).await.is_ok() {
                info!("this version is linked; it takes over");
            }
            std::future::pending::<()>().await
        };
        let mut byte = [0];
        tokio::select! {
            // Nothing is ever said to a trial.
            _end = from.read(&mut byte) => {}
            () = telling => {}
        }
    }
}

/// Watches over a trial, then becomes what came of it. Returns only where it was told to stop, or can't go on.
pub async fn watch_over(
    trial: &Trial,
    upgrades: &Upgrades,
    within: Duration,
    told: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    info!(operation.id = %trial.operation, version = trial.version, "starting another version as a trial");
    let tried = tokio::select! {
        tried = try_out(trial, within) => tried,
        told = told => {
            upgrades.roll_back("the agent was told to stop in the middle of the trial")?;
            return told;
        }
    };
    match tried {
        Ok(linked) => {
            end(linked).await;
            upgrades.confirm().await?;
            info!(version = trial.version, "the new version takes over");
            Err(become_it(&trial.executable)).context("start the new version")
        }
        Err(reason) => {
            warn!(
                version = trial.version,
                reason, "the new version did not come up; the old one goes on"
            );
            upgrades.roll_back(&reason)?;
            Err(become_it(Path::new(IMAGE))).context("start the old version again")
        }
    }
}

/// A trial that has linked.
struct Linked {
    child: Child,
    line: UnixStream,
}

/// Starts it until it links; says why it does not, once it has ended too often or its time is over. Where it says so nothing is
/// left of it, not even a process that nobody waited for: this one goes on under its own number. Dropped, it leaves nothing that
/// runs.
async fn try_out(trial: &Trial, within: Duration) -> Result<Linked, String> {
    let deadline = Instant::now() + within;
    let too_late = || format!("it did not link to a control plane within {} seconds", within.as_secs());
    let mut last = String::new();
    for attempt in 1..=TRIES {
        if attempt > 1 {
            tokio::time::sleep_until(deadline.min(Instant::now() + PAUSE)).await;
        }
        if Instant::now() >= deadline {
            return Err(too_late());
        }
        let (mut child, mut line) = start(trial).map_err(|e| format!("it can't be started: {e}"))?;
        let mut said = [0; LINKED.len()];
        let ended = tokio::select! {
            ended = child.wait() => ended,
            read = line.read_exact(&mut said) => match read {
                Ok(_) if said == LINKED => return Ok(Linked { child, line }),
                // It has closed its end, so it ends.
                Ok(_) | Err(_) => child.wait().await,
            },
            () = tokio::time::sleep_until(deadline) => {
                if let Err(error) = child.kill().await {
                    warn!(%error, "the trial could not be ended");
                }
                return Err(too_late());
            }
        };
        last = ended.map_or_else(|e| e.to_string(), in_words);
        warn!(attempt, reason = last, "the trial has ended by itself");
    }
    Err(format!("it ended {TRIES} times before it was linked: {last}"))
}

fn start(trial: &Trial) -> std::io::Result<(Child, UnixStream)> {
    let (ours, theirs) = StdUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let mut command = tokio::process::Command::new(&trial.executable);
    let mut arguments = std::env::args_os();
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    command
        .args(arguments)
        .env(TRIAL, trial.operation.as_str())
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .kill_on_drop(true);
    Ok((command.spawn()?, UnixStream::from_std(ours)?))
}

fn in_words(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it exited with {code}"),
        (None, Some(signal)) => format!("it was ended by signal {signal}"),
        (None, None) => "it ended".to_owned(),
    }
}

/// Ends a trial in good order, so that there are never two agents on one machine.
async fn end(linked: Linked) {
    let Linked { mut child, line } = linked;
    drop(line);
    if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
        warn!("the trial does not end by itself; ending it");
        if let Err(error) = child.kill().await {
            warn!(%error, "the trial could not be ended");
        }
    }
}

/// Becomes `executable`, in this very process, as it was started. Returns only when that fails.
pub fn become_it(executable: &Path) -> std::io::Error {
    let mut command = std::process::Command::new(executable);
    let mut arguments = std::env::args_os();
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    command.args(arguments).env_remove(TRIAL).exec()
}
