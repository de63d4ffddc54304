//! What a node carries of clusters' entries: the load balancer's process, and addresses shared with other nodes.
//!
//! Both are processes of their own that this one starts, finds again and replaces, and that go on without it. One task, the
//! [`Supervisor`], does it all, one thing after another; [`Edge`] is how routes ask for it.
//!
//! Invariants
//! - A document is on disk before it is acknowledged, and held only if the load balancer took it. An older one is refused.
//! - The end of this process, however it comes, ends neither of the others. The next agent finds them by what lies in
//!   `<data-dir>/edge`.
//! - What ends by itself is started again, at once the first time. `problem` says what keeps it from running.
//! - No certificate is read from a file of the node's because a control plane says so.

mod backoff;
mod client;
mod document;
mod figures;
mod files;
mod keepalived;
mod policy;
mod process;
mod proxy;

use crate::host::addresses;
use client::{Client, ClientError};
use document::{Documents, Found};
use figures::Former;
use http::StatusCode;
use keepalived::{Check, Keepalived};
use nm_link::contract::{AgentError, AgentErrorCode as Code, EdgeConfig, EdgeEventsQuery, EdgeMetrics, EdgeState, VirtualAddressState};
use nm_types::proxy::{Events, FailoverRequest, ProxyConfig};
use proxy::Proxy;
use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a question for events waits until a load balancer runs.
const EVENTS_WAIT: Duration = Duration::from_secs(25);
/// keepalived waits for no check longer than two.
const CHECK: Duration = Duration::from_secs(1);
const TRIM_EVERY: Duration = Duration::from_secs(3600);

/// How a node's load balancer is started.
#[derive(Debug, Clone)]
pub struct LoadBalancer {
    /// What runs it, this very program in most cases; with `arguments` before those that say where its files are.
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    /// A file of the same program, for others to start: `FILE proxy check` says whether a load balancer is well.
    pub file: PathBuf,
    /// This agent is tried beside another one: it leaves a load balancer of another version in its place.
    pub on_trial: bool,
}

/// What the routes ask of the supervisor. Cheap to clone.
#[derive(Clone)]
pub struct Edge(Arc<Shared>);

struct Shared {
    client: Client,
    asks: mpsc::Sender<Ask>,
    view: watch::Receiver<View>,
    former: Former,
}

/// A document to carry, and who waits for what comes of it.
struct Ask {
    document: Box<EdgeConfig>,
    answer: oneshot::Sender<Result<(), AgentError>>,
}

/// What the supervisor knows, for others to read.
#[derive(Debug, Clone, Default, PartialEq)]
struct View {
    generation: Option<u64>,
    virtual_addresses: Vec<IpAddr>,
    /// The load balancer that runs.
    instance: Option<String>,
    problem: Option<String>,
}

/// Where everything of it lies.
fn folder(data_dir: &Path) -> io::Result<PathBuf> {
    // The processes have a working folder of their own.
    Ok(std::path::absolute(data_dir)?.join("edge"))
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("proxy.sock")
}

impl Edge {
    /// With what does the work: nothing happens until [`Supervisor::run`].
    pub fn open(data_dir: &Path, settings: LoadBalancer) -> io::Result<(Self, Supervisor)> {
        let dir = folder(data_dir)?;
        let documents = Documents::open(&dir)?;
        let client = Client::new(socket(&dir));
        let former = Former::default();
        let (ask, asks) = mpsc::channel(8);
        let view = watch::Sender::new(View::default());
        let check = Check {
            program: settings.file.clone(),
            socket: socket(&dir),
        };
        let edge = Self(Arc::new(Shared {
            client: client.clone(),
            asks: ask,
            view: view.subscribe(),
            former: former.clone(),
        }));
        let supervisor = Supervisor {
            documents,
            held: None,
            damaged: None,
            proxy: Proxy::new(settings, dir.clone(), client, former),
            keepalived: Keepalived::new(dir, check),
            asks,
            view,
        };
        Ok((edge, supervisor))
    }

    /// Carries the document from now on, in place of what was carried before.
    pub async fn put(&self, document: EdgeConfig) -> Result<EdgeState, AgentError> {
        let ending = || AgentError::new(Code::Cancelled, "The node's agent is ending: ask again once it is back.");
        let (answer, told) = oneshot::channel();
        let document = Box::new(document);
        self.0.asks.send(Ask { document, answer }).await.map_err(|_| ending())?;
        told.await.map_err(|_| ending())??;
        self.state().await
    }

    pub async fn state(&self) -> Result<EdgeState, AgentError> {
        let mut view = self.0.view.borrow().clone();
        let status = match &view.instance {
            Some(_) => self.0.client.status().await.map(Some),
            None => Ok(None),
        };
        let proxy = status.unwrap_or_else(|error| {
            let problem = view.problem.get_or_insert_default();
            if problem.is_empty() {
                *problem = format!("The load balancer does not answer: {error}.");
            }
            None
        });
        let mut held = Vec::new();
        if !view.virtual_addresses.is_empty() {
            let internal = |e| AgentError::new(Code::Internal, format!("The node's addresses can't be read: {e}."));
            let own = addresses::all().map_err(internal)?;
            let shared = view.virtual_addresses.iter().map(|address| VirtualAddressState {
                address: *address,
                held: own.iter().any(|a| a.ip == *address),
            });
            held.extend(shared);
        }
        Ok(EdgeState {
            generation: view.generation,
            proxy,
            virtual_addresses: held,
            problem: view.problem,
        })
    }

    pub async fn metrics(&self) -> Result<EdgeMetrics, AgentError> {
        if self.0.view.borrow().instance.is_none() {
            return Err(self.not_running());
        }
        let current = self.0.client.metrics().await.map_err(|e| self.failed(e))?;
        let mut former = self.0.former.all();
        former.retain(|f| f.instance != current.instance);
        Ok(EdgeMetrics { current, former })
    }

    /// Waits for events of the load balancer that runs; where another takes its place meanwhile, for that one's.
    pub async fn events(&self, query: &EdgeEventsQuery) -> Result<Events, AgentError> {
        let deadline = Instant::now() + EVENTS_WAIT;
        let mut view = self.0.view.clone();
        loop {
            let running = view.borrow_and_update().instance.clone();
            if let Some(instance) = running {
                let after = match &query.instance {
                    Some(known) if *known != instance => 0,
                    _ => query.after,
                };
                tokio::select! {
                    answer = self.0.client.events(after) => match answer {
                        Ok(events) if events.instance == instance => return Ok(events),
                        // It ended, or another has taken its place: the supervisor is about to know.
                        Ok(_) | Err(ClientError::Away(_) | ClientError::Broken(_)) => {}
                        Err(error) => return Err(self.failed(error)),
                    },
                    Ok(()) = view.changed() => continue,
                }
            }
            match tokio::time::timeout_at(deadline, view.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(self.not_running()),
            }
        }
    }

    pub async fn fail_over(&self, request: &FailoverRequest) -> Result<(), AgentError> {
        if self.0.view.borrow().instance.is_none() {
            return Err(self.not_running());
        }
        self.0.client.fail_over(request).await.map_err(|e| self.failed(e))
    }

    fn not_running(&self) -> AgentError {
        let text = match &self.0.view.borrow().problem {
            Some(problem) => format!("This node's load balancer does not run. {problem}"),
            None => "This node carries nothing: its load balancer does not run.".into(),
        };
        AgentError::new(Code::NotRunning, text)
    }

    fn failed(&self, error: ClientError) -> AgentError {
        match error {
            ClientError::Away(_) => self.not_running(),
            ClientError::Silent(_) => AgentError::new(Code::Timeout, format!("This node's load balancer hangs: {error}.")),
            ClientError::Broken(_) => AgentError::new(Code::Internal, format!("This node's load balancer failed: {error}.")),
            ClientError::Refused { status, message, .. } => {
                let code = match status {
                    StatusCode::CONFLICT => Code::NotRunning,
                    _ => Code::Invalid,
                };
                AgentError::new(code, format!("The load balancer refuses it: {message}."))
            }
        }
    }
}

/// Keeps true what is held.
pub struct Supervisor {
    documents: Documents,
    held: Option<EdgeConfig>,
    damaged: Option<String>,
    proxy: Proxy,
    keepalived: Keepalived,
    asks: mpsc::Receiver<Ask>,
    view: watch::Sender<View>,
}

impl Supervisor {
    /// Takes up what runs, brings about what is held, and goes on until `stop`. What it has started goes on without it, so it
    /// may be cut short anywhere. It waits for the disk as it goes: on a thread of its own.
    pub async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(self.work()).await;
    }

    async fn work(&mut self) {
        self.begin().await;
        let mut trim = tokio::time::interval(TRIM_EVERY);
        loop {
            self.tell();
            tokio::select! {
                Some(ask) = self.asks.recv() => {
                    let outcome = self.take(*ask.document).await;
                    self.tell();
                    // Whoever asked may have gone.
                    drop(ask.answer.send(outcome));
                }
                how = self.proxy.ended() => self.proxy.lost(how),
                () = self.proxy.due() => match &self.held {
                    Some(held) => self.proxy.carry(&held.proxy).await,
                    None => self.proxy.rest(),
                },
                how = self.keepalived.ended() => self.keepalived.lost(&how),
                () = self.keepalived.due() => {
                    let wanted = self.held.as_ref().map(|h| h.virtual_addresses.as_slice()).unwrap_or_default();
                    self.keepalived.carry(wanted).await;
                }
                _ = trim.tick() => {
                    self.proxy.log().trim();
                    self.keepalived.log().trim();
                }
            }
        }
    }

    /// Of what was left by an agent before this one, or by a machine that was off.
    async fn begin(&mut self) {
        let Found { held, candidate, damaged } = self.documents.find();
        self.held = held;
        if let Some(error) = damaged {
            tracing::error!(error, "what this node carries can't be read");
            self.damaged = Some(format!("What this node carries can't be read, and has to be sent again: {error}."));
        }
        let status = self.proxy.adopt().await;
        if let Some(candidate) = candidate {
            let in_force = status.and_then(|s| s.generation);
            if in_force == Some(candidate.proxy.generation) && self.documents.accept().is_ok() {
                self.held = Some(candidate);
            } else {
                self.documents.discard();
            }
        }
        self.keepalived.adopt();
        // Where nothing is known, what runs is let run.
        if let Some(held) = &self.held {
            self.proxy.carry(&held.proxy).await;
            self.keepalived.carry(&held.virtual_addresses).await;
        }
    }

    async fn take(&mut self, document: EdgeConfig) -> Result<(), AgentError> {
        let asked = document.proxy.generation;
        if let Some(held) = self.held.as_ref().map(|h| h.proxy.generation).filter(|held| *held > asked) {
            let text = format!("This configuration is older (generation {asked}) than the one the node carries (generation {held}).");
            return Err(AgentError::new(Code::Stale, text));
        }
        let unknown = |e: io::Error| AgentError::new(Code::Internal, format!("The node's addresses can't be read: {e}."));
        let machine = policy::Machine {
            addresses: addresses::all().map_err(unknown)?,
            gateways: addresses::gateways(),
        };
        policy::check(&document, &machine)?;
        self.documents.propose(&document)?;
        let ran = self.proxy.instance().is_some();
        let tried = self.proxy.try_out(&document.proxy).await;
        if let Err(refused) = tried.and_then(|()| Ok(self.documents.accept()?)) {
            self.documents.discard();
            match &self.held {
                Some(held) => self.proxy.carry(&held.proxy).await,
                // One that was started for this alone ends again.
                None if !ran => self.proxy.carry(&ProxyConfig::default()).await,
                None => {}
            }
            return Err(refused);
        }
        tracing::info!(
            generation = document.proxy.generation,
            listeners = document.proxy.listeners.len(),
            virtual_addresses = document.virtual_addresses.len(),
            "this node carries a new configuration"
        );
        self.damaged = None;
        self.keepalived.carry(&document.virtual_addresses).await;
        self.held = Some(document);
        Ok(())
    }

    fn tell(&self) {
        let problems = [&self.damaged, &self.proxy.problem, &self.keepalived.problem];
        let problem = problems.into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join(" ");
        let next = View {
            generation: self.held.as_ref().map(|h| h.proxy.generation),
            virtual_addresses: self.held.iter().flat_map(|h| &h.virtual_addresses).map(|v| v.address).collect(),
            instance: self.proxy.instance().map(str::to_owned),
            problem: (!problem.is_empty()).then_some(problem),
        };
        self.view.send_if_modified(|view| {
            let changed = *view != next;
            *view = next;
            changed
        });
    }
}

/// Whether the load balancer at `socket` carries traffic; why not, in words.
pub async fn check(socket: &Path) -> Result<(), String> {
    match tokio::time::timeout(CHECK, Client::new(socket.to_owned()).status()).await {
        Ok(Ok(status)) if status.draining => Err("the load balancer is ending".into()),
        Ok(Ok(status)) if status.listeners.is_empty() => Err("the load balancer listens on nothing".into()),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("the load balancer does not answer: {error}")),
        Err(_) => Err("the load balancer does not answer".into()),
    }
}

/// Ends what a node carries, where no agent runs any more that would: the load balancer once its connections have ended, and
/// keepalived at once. What is not there has ended.
pub async fn end(data_dir: &Path) -> io::Result<()> {
    let dir = folder(data_dir)?;
    if let Some(keepalived) = keepalived::found(&dir) {
        keepalived::end(&keepalived).await;
    }
    match Client::new(socket(&dir)).drain().await {
        Ok(()) | Err(ClientError::Away(_)) => Ok(()),
        Err(error) => Err(io::Error::other(error.to_string())),
    }
}
