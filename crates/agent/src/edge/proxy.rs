//! The load balancer's process: found, started, replaced and ended.

use super::LoadBalancer;
use super::backoff::Backoff;
use super::client::{Client, ClientError, Connection};
use super::document;
use super::figures::Former;
use super::files::{Arrivals, Log};
use super::process::Process;
use http::StatusCode;
use nm_link::contract::{AgentError, AgentErrorCode as Code};
use nm_types::envelope::FieldProblem;
use nm_types::proxy::{Metrics, ProxyConfig, Status};
use rustix::process::Signal;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};

/// Until a started one answers; one that takes over waits for the old one up to 30 s.
const START: Duration = Duration::from_secs(40);
/// Figures of one that ends are read this often: it may take an hour.
const LAST_FIGURES: Duration = Duration::from_secs(1);

pub struct Proxy {
    settings: LoadBalancer,
    dir: PathBuf,
    client: Client,
    log: Log,
    running: Option<Running>,
    backoff: Backoff,
    /// Those that end, each with somebody who reads their last figures.
    leaving: JoinSet<()>,
    former: Former,
    pub problem: Option<String>,
}

/// To one that is to end.
struct Lines {
    now: Option<Connection>,
    last: JoinSet<Result<Metrics, ClientError>>,
}

struct Running {
    process: Process,
    instance: String,
    since: Instant,
    /// Where its part of the log begins.
    log_from: u64,
}

impl Proxy {
    pub fn new(settings: LoadBalancer, dir: PathBuf, client: Client, former: Former) -> Self {
        Self {
            settings,
            log: Log::new(dir.join("proxy.log")),
            dir,
            client,
            running: None,
            backoff: Backoff::default(),
            leaving: JoinSet::new(),
            former,
            problem: None,
        }
    }

    pub fn instance(&self) -> Option<&str> {
        self.running.as_ref().map(|r| r.instance.as_str())
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Takes up the one that an agent before this one has started; what it says of itself.
    pub async fn adopt(&mut self) -> Option<Status> {
        let status = match self.client.status().await {
            Ok(status) => status,
            Err(ClientError::Away(_)) => return None,
            Err(error) => {
                self.problem = Some(format!("A load balancer runs, but does not answer: {error}."));
                return None;
            }
        };
        let process = Process::of(status.pid).ok()?;
        // Its number is its own only if it still answers now that we hold it.
        let status = self.client.status().await.ok().filter(|s| s.instance == status.instance)?;
        if status.draining {
            let lines = self.lines().await;
            self.leave(process, lines);
            return None;
        }
        info!(
            pid = status.pid,
            instance = status.instance,
            "the load balancer runs; it is taken up"
        );
        let is_other = self.is_other(&process, &status);
        self.running = Some(Running {
            process,
            instance: status.instance.clone(),
            since: Instant::now(),
            log_from: 0,
        });
        // What is on trial touches no traffic.
        if is_other && !self.settings.on_trial {
            self.replace().await;
        }
        Some(status)
    }

    /// Whether it runs another executable than a new one would.
    fn is_other(&self, process: &Process, status: &Status) -> bool {
        let file = |path: &Path| std::fs::metadata(path).map(|m| (m.dev(), m.ino()));
        match (file(&process.image()), file(&self.settings.program)) {
            (Ok(runs), Ok(ours)) => runs != ours,
            _ => status.version != env!("CARGO_PKG_VERSION"),
        }
    }

    /// Has a new process take the place of the one that runs, with its sockets: no connection is lost.
    async fn replace(&mut self) {
        let Some(old) = self.running.take() else { return };
        let lines = self.lines().await;
        match self.launch().await {
            Ok(new) => {
                info!(
                    pid = new.process.pid,
                    before = old.process.pid,
                    "a load balancer of this version has taken over"
                );
                self.running = Some(new);
                self.leave(old.process, lines);
            }
            Err(reason) => {
                warn!(
                    reason,
                    "the load balancer of this version could not take over; the one before goes on"
                );
                self.former.forget(&old.instance);
                self.running = Some(old);
                self.problem = Some(format!(
                    "The load balancer of this version could not take over, the one before goes on: {reason}."
                ));
            }
        }
    }

    /// Tries a document that is not held yet. An error is the load balancer's refusal: what was in force still is.
    pub async fn try_out(&mut self, config: &ProxyConfig) -> Result<(), AgentError> {
        if config.listeners.is_empty() {
            self.dismiss().await;
            return Ok(());
        }
        // Started without a configuration it can say, field by field, what is wrong with this one.
        if self.running.is_none() && !self.start(None).await {
            return Ok(());
        }
        self.hand(config).await
    }

    /// Brings about what is held, as far as it is not so yet.
    pub async fn carry(&mut self, config: &ProxyConfig) {
        if config.listeners.is_empty() {
            self.dismiss().await;
        } else if self.running.is_none() {
            if self.start(Some(config)).await {
                self.problem = None;
            }
        } else if let Err(refused) = self.hand(config).await {
            warn!(reason = %refused, "the load balancer refuses what this node is to carry; it goes on as it was");
            self.problem = Some(refused.message);
        }
    }

    async fn hand(&mut self, config: &ProxyConfig) -> Result<(), AgentError> {
        match self.client.put(config).await {
            Ok(()) => {
                self.problem = None;
                self.backoff.started();
                Ok(())
            }
            Err(ClientError::Refused { status, message, details }) => Err(refusal(status, &message, &details)),
            // It may have ended just now, or hang: it is asked again.
            Err(error @ (ClientError::Away(_) | ClientError::Silent(_) | ClientError::Broken(_))) => {
                warn!(%error, "the load balancer does not take its configuration");
                self.problem = Some(format!("The load balancer does not take its configuration: {error}."));
                self.backoff.failed(Duration::ZERO);
                Ok(())
            }
        }
    }

    /// Starts one that listens as `config` says, or on nothing. Where it can't, `problem` says why, and it is tried again.
    async fn start(&mut self, config: Option<&ProxyConfig>) -> bool {
        let started = match self.lay_down(config) {
            Ok(()) => self.launch().await,
            Err(error) => Err(format!("its configuration can't be written: {error}")),
        };
        match started {
            Ok(running) => {
                info!(pid = running.process.pid, instance = running.instance, "the load balancer runs");
                self.running = Some(running);
                self.backoff.started();
                true
            }
            Err(reason) => {
                warn!(reason, "the load balancer could not be started");
                self.problem = Some(format!("The load balancer could not be started: {reason}."));
                self.backoff.failed(Duration::ZERO);
                false
            }
        }
    }

    /// The file that it starts from.
    fn lay_down(&self, config: Option<&ProxyConfig>) -> std::io::Result<()> {
        let path = self.dir.join("proxy.json");
        match config {
            Some(config) => document::write(&path, &serde_json::to_vec_pretty(config)?),
            None => match std::fs::remove_file(path) {
                Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
                _ => Ok(()),
            },
        }
    }

    /// Starts a process and waits until it answers. One that runs on the same socket is taken over from.
    async fn launch(&self) -> Result<Running, String> {
        let started = || -> std::io::Result<_> {
            let arrivals = Arrivals::watch(&self.dir)?;
            let (log, log_from) = self.log.open()?;
            let mut command = Command::new(&self.settings.program);
            command
                .arg0("neuralmesh")
                .args(&self.settings.arguments)
                .arg("--config")
                .arg(self.dir.join("proxy.json"))
                .arg("--control-socket")
                .arg(self.client.socket())
                .arg("--access-log")
                .arg(self.dir.join("access.log"))
                // What the agent was given in its environment, a join token perhaps, is not for it.
                .env_clear()
                .current_dir("/")
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log);
            Ok((arrivals, log_from, Process::spawn(command)?))
        };
        let (arrivals, log_from, process) = started().map_err(|e| e.to_string())?;
        let answers = async {
            loop {
                if let Ok(status) = self.client.status().await
                    && status.pid == process.pid
                {
                    return status.instance;
                }
                // It puts its socket there by renaming.
                if arrivals.next().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let failed = tokio::select! {
            instance = answers => return Ok(Running { process, instance, since: Instant::now(), log_from }),
            ended = process.ended() => ended,
            () = tokio::time::sleep(START) => format!("it did not answer within {} s", START.as_secs()),
        };
        if let Err(error) = process.signal(Signal::KILL) {
            warn!(%error, "the load balancer that was just started can't be ended");
        }
        drop(process.ended().await);
        Err(self.with_last_words(failed, log_from))
    }

    fn with_last_words(&self, what: String, log_from: u64) -> String {
        match self.log.last_words(log_from) {
            Some(said) => format!("{what} ({said})"),
            None => what,
        }
    }

    /// Waits until the one that runs has ended, and says how.
    pub async fn ended(&self) -> String {
        match &self.running {
            Some(running) => running.process.ended().await,
            None => std::future::pending().await,
        }
    }

    /// It has ended by itself.
    pub fn lost(&mut self, how: String) {
        let Some(gone) = self.running.take() else { return };
        let how = self.with_last_words(how, gone.log_from);
        warn!(pid = gone.process.pid, how, "the load balancer has ended; it is started again");
        self.problem = Some(format!("The load balancer has ended and is started again: {how}."));
        self.backoff.failed(gone.since.elapsed());
    }

    /// Nothing is to be started.
    pub fn rest(&mut self) {
        self.backoff.rest();
        self.problem = None;
    }

    /// Waits until it is time to try again.
    pub async fn due(&self) {
        self.backoff.due().await;
    }

    /// Ends it once its connections have ended.
    async fn dismiss(&mut self) {
        self.rest();
        let Some(running) = self.running.take() else { return };
        info!(pid = running.process.pid, "this node carries nothing more: its load balancer ends");
        let lines = self.lines().await;
        if let Err(error) = self.client.drain().await {
            warn!(%error, "the load balancer does not take the word to end; it is sent SIGTERM");
            if let Err(error) = running.process.signal(Signal::TERM) {
                warn!(%error, "the load balancer can't be ended");
            }
        }
        self.leave(running.process, lines);
    }

    /// Connections to the one that runs, which stay with it also when another has its socket.
    async fn lines(&self) -> Lines {
        let mut now = self.client.connect().await.ok();
        if let Some(line) = &mut now
            && let Ok(figures) = line.metrics().await
        {
            self.former.keep(figures);
        }
        let mut last = JoinSet::new();
        if let Ok(line) = self.client.connect().await {
            last.spawn(line.last_metrics());
        }
        Lines { now, last }
    }

    /// Reads the figures of one that ends for as long as it answers, those it ends with, and sees its end.
    fn leave(&mut self, process: Process, mut lines: Lines) {
        while self.leaving.try_join_next().is_some() {}
        let former = self.former.clone();
        self.leaving.spawn(async move {
            let how = loop {
                tokio::select! {
                    how = process.ended() => break how,
                    () = tokio::time::sleep(LAST_FIGURES), if lines.now.is_some() => {}
                }
                let figures = match &mut lines.now {
                    Some(line) => line.metrics().await.ok(),
                    None => None,
                };
                match figures {
                    Some(figures) => former.keep(figures),
                    None => lines.now = None,
                }
            };
            // Its answer is there, or its connection broke with it.
            if let Some(Ok(Ok(figures))) = lines.last.join_next().await {
                former.keep(figures);
            }
            info!(pid = process.pid, how, "the load balancer before has ended");
        });
    }
}

/// What the load balancer refused, with the first field that is to blame.
fn refusal(status: StatusCode, message: &str, details: &[FieldProblem]) -> AgentError {
    if status.is_server_error() {
        return AgentError::new(Code::Internal, format!("The load balancer could not carry it out: {message}."));
    }
    let said: Vec<String> = details.iter().map(|d| format!("proxy.{}: {}", d.field, d.message)).collect();
    let Some(first) = details.first() else {
        return AgentError::new(Code::Invalid, format!("The load balancer refuses it: {message}."));
    };
    // A socket that can't be had is the one thing about a port that only the node knows.
    let taken = first.field.ends_with(".port") && first.message.contains("in use");
    let code = if taken { Code::PortInUse } else { Code::Invalid };
    AgentError::new(code, format!("The load balancer refuses it: {}.", said.join("; "))).field(format!("proxy.{}", first.field))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_told_as_such() {
        let problem = |field: &str, message: &str| FieldProblem {
            field: field.into(),
            message: message.into(),
        };
        let taken = problem(
            "listeners[0].port",
            "can't listen on 0.0.0.0:80: Address already in use (os error 98)",
        );
        let refused = refusal(StatusCode::UNPROCESSABLE_ENTITY, "wrong", std::slice::from_ref(&taken));
        assert_eq!(
            (refused.code, refused.field.as_deref()),
            (Code::PortInUse, Some("proxy.listeners[0].port"))
        );
        let refused = refusal(
            StatusCode::UNPROCESSABLE_ENTITY,
            "wrong",
            &[problem("clusters[0].id", "twice"), taken],
        );
        assert_eq!(
            (refused.code, refused.field.as_deref()),
            (Code::Invalid, Some("proxy.clusters[0].id"))
        );
        assert!(refused.message.contains("in use"), "{refused}");
    }
}
