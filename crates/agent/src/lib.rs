//! The node's side: carries out on the local Docker engine what a control plane asks by [`nm_link::contract`], and tells what
//! it sees.
//!
//! Invariants
//! - The engine's own events are the only source of what is known; nothing is polled but the kernel's counters.
//! - Everything may be asked twice. A container carries our id as a label: one made before a crash is found, never made again.
//! - An older generation than one carried out is refused, also after a restart.
//! - What reaches the engine is built from checked types here. Privileges, devices and the host's network are the node's own to
//!   give: its configuration names what may be had. Security options and other host namespaces have no words.
//! - Without an engine every call says so at once, and all is well again by itself when it returns.
//!
//! [`Agent::router`] is the contract as an HTTP service; [`Agent::run`] keeps it true.

mod backups;
mod config;
mod docker;
pub mod edge;
mod fence;
mod host;
mod journal;
mod policy;
mod privileges;
mod probes;
mod progress;
mod routes;
mod stats;
mod tasks;
pub mod upgrade;

pub use backups::BackupWorker;
pub use config::{AgentConfig, ConfigError, NodeConfig};

use backups::Backups;
use docker::Docker;
use docker::hub::{Hub, now, now_nanos};
use edge::{Edge, Supervisor};
use fence::{Fence, FenceError};
use host::{Host, Machine, MachineSampler, Roots};
use journal::{Journal, WriterEnd};
use policy::BindPolicy;
use privileges::Privileges;
use stats::{SamplerEnd, Stats};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tasks::Tasks;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use upgrade::Upgrades;

/// Usage is told, or a sign of life given, this often.
const TELL_EVERY: Duration = Duration::from_secs(2);
const CLEAN_EVERY: Duration = Duration::from_secs(3600);

/// Why an agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("can't use the data folder {}", .path.display())]
    DataDir { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Records(#[from] FenceError),
}

/// A node's agent. Cheap to clone.
#[derive(Clone)]
pub struct Agent {
    docker: Docker,
    stats: Stats,
    machine: Machine,
    journal: Arc<Journal>,
    fence: Arc<Fence>,
    /// Taken by the first [`Agent::run`].
    ends: Arc<Mutex<Option<Ends>>>,
    /// None where it is to carry no traffic.
    edge: Option<Edge>,
    /// None where it is to make none.
    backups: Option<Backups>,
    tasks: Tasks,
    /// None where it runs in a process that is not its own.
    upgrades: Option<Upgrades>,
}

/// What runs on threads of its own.
struct Ends {
    sampler: SamplerEnd,
    machine: MachineSampler,
    journal: WriterEnd,
    edge: Option<Supervisor>,
}

impl Agent {
    /// Reads the node's configuration and what the agent remembers. Docker need not be there.
    pub async fn new(config: AgentConfig) -> Result<Self, StartError> {
        let opened = tokio::task::spawn_blocking(move || Self::open(&config)).await;
        match opened {
            Ok(agent) => agent,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    fn open(config: &AgentConfig) -> Result<Self, StartError> {
        let data_dir = &config.data_dir;
        let unusable = |source| StartError::DataDir {
            path: data_dir.clone(),
            source,
        };
        std::fs::create_dir_all(data_dir).map_err(unusable)?;
        let node = NodeConfig::load(data_dir)?;
        let fence = Arc::new(Fence::open(data_dir, now())?);
        let (stats, sampler) = Stats::new(data_dir).map_err(unusable)?;
        let (machine, machine_sampler) = Machine::new(data_dir, Roots::default()).map_err(unusable)?;
        let (journal, writer) = Journal::open(data_dir, now()).map_err(unusable)?;
        let journal = Arc::new(journal);
        let hub = Arc::new(Hub::new(Host::look(), fence.clone(), stats.clone(), journal.clone()));
        let carried = config.load_balancer.clone().map(|settings| Edge::open(data_dir, settings));
        let (edge, supervisor) = carried.transpose().map_err(unusable)?.unzip();
        let policy = BindPolicy::new(node.allow_binds.clone(), data_dir, &config.own, &config.docker_socket);
        let privileges = Privileges::new(node, NodeConfig::path(data_dir));
        let docker = Docker::new(&config.docker_socket, hub, fence.clone(), policy, privileges);
        let worker = config.backup_worker.clone();
        let backups = worker.map(|worker| Backups::open(data_dir, worker, docker.clone()));
        let backups = backups.transpose().map_err(unusable)?;
        let tasks = Tasks::open(data_dir, docker.clone()).map_err(unusable)?;
        Ok(Self {
            docker,
            stats,
            machine,
            journal,
            fence,
            ends: Arc::new(Mutex::new(Some(Ends {
                sampler,
                machine: machine_sampler,
                journal: writer,
                edge: supervisor,
            }))),
            edge,
            tasks,
            backups,
            upgrades: None,
        })
    }

    /// Lets a control plane give it another executable.
    pub fn upgradable(self, upgrades: Upgrades) -> Self {
        Self {
            upgrades: Some(upgrades),
            ..self
        }
    }

    /// The contract as an HTTP service. It answers from the start; calls that need Docker wait for the first contact, which
    /// [`Agent::run`] makes.
    pub fn router(&self) -> axum::Router {
        routes::router(routes::App {
            docker: self.docker.clone(),
            stats: self.stats.clone(),
            machine: self.machine.clone(),
            journal: self.journal.clone(),
            upgrades: self.upgrades.clone(),
            edge: self.edge.clone(),
            backups: self.backups.clone(),
            tasks: self.tasks.clone(),
        })
    }

    /// Follows Docker, samples containers and the machine, keeps the journal and the load balancer until `stop`. Containers and
    /// the load balancer go on without it. A second run of one agent ends at once.
    pub async fn run(&self, stop: CancellationToken) {
        let Some(ends) = self.ends.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return;
        };
        let (oom, mut ooms) = mpsc::unbounded_channel::<String>();
        let sampling = tokio::task::spawn_blocking(move || {
            stats::sampler::run(ends.sampler, ends.machine, |docker_id| {
                // The agent is ending when nobody listens.
                drop(oom.send(docker_id.to_owned()));
            });
        });
        // On a thread of its own: it writes to the disk as it goes, and a disk may hang.
        let carrying = ends.edge.map(|supervisor| {
            let (runtime, stop) = (tokio::runtime::Handle::current(), stop.clone());
            tokio::task::spawn_blocking(move || runtime.block_on(supervisor.run(stop)))
        });
        let writing = tokio::task::spawn_blocking(move || ends.journal.run());
        self.journal.agent_started(now_nanos());
        let mut journal_end = self.journal.end();
        let following = docker::session::follow(&self.docker, &stop);
        let telling = async {
            let mut tell = tokio::time::interval(TELL_EVERY);
            let mut clean = tokio::time::interval(CLEAN_EVERY);
            loop {
                tokio::select! {
                    _ = tell.tick() => {
                        self.docker.hub.tell_usage(self.stats.usage());
                        if let Some(stats) = self.machine.newest() {
                            self.docker.hub.tell_host(stats);
                        }
                    }
                    Ok(()) = journal_end.changed() => self.docker.hub.tell_journal(),
                    _ = clean.tick() => {
                        self.fence.forget_removed(now());
                        if let Some(backups) = &self.backups {
                            backups.forget_old().await;
                        }
                    }
                    Some(docker_id) = ooms.recv() => self.docker.hub.oom_counted(&docker_id),
                }
            }
        };
        let backing_up = async {
            if let Some(backups) = &self.backups {
                backups.recover().await;
            }
            std::future::pending::<()>().await
        };
        tokio::select! {
            () = following => {}
            () = telling => {}
            () = backing_up => {}
            () = self.tasks.run() => {}
        }
        self.tasks.stop();
        if let Some(backups) = &self.backups {
            // What jobs did to containers is undone before the agent ends.
            backups.stop().await;
        }
        self.stats.stop();
        if let Err(error) = sampling.await {
            tracing::error!(%error, "the sampler failed");
        }
        if let Some(carrying) = carrying
            && let Err(error) = carrying.await
        {
            tracing::error!(%error, "what keeps the load balancer failed");
        }
        self.journal.stop();
        if let Err(error) = writing.await {
            tracing::error!(%error, "the journal's writer failed");
        }
    }
}
