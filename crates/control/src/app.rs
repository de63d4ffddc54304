//! The control plane put together, by hand, in one place.

use crate::api::error::{ApiError, ApiResult};
use crate::api::frame::Network;
use crate::controller::{
    acme, alerts, backups, clusters, health, housekeeping, jobs, liveness, own_backup, reschedule, resume, trust, watch,
};
use crate::metrics::Metrics;
use crate::service::alerts::Alerts;
use crate::service::auth::{Actor, Auth, AuthConfig};
use crate::service::authority::Authorities;
use crate::service::backups::{Backups, Troubles};
use crate::service::binaries::Binaries;
use crate::service::clock::SharedClock;
use crate::service::clusters::Clusters;
use crate::service::containers::Containers;
use crate::service::dirty::Dirty;
use crate::service::enrolment::Enrolment;
use crate::service::fleet::Fleet;
use crate::service::health::{Health, Table};
use crate::service::images::Resources;
use crate::service::index::Index;
use crate::service::jobs::Jobs;
use crate::service::journal::Journals;
use crate::service::liveness::Liveness;
use crate::service::nodes::Nodes;
use crate::service::operations::Operations;
use crate::service::outbound::Guard;
use crate::service::own_backup::{OwnBackup, OwnBackupConfig};
use crate::service::registries::Registries;
use crate::service::servers::Servers;
use crate::service::upgrades::Upgrades;
use nm_link::server::{Links, ServerOptions};
use nm_store::Store;
use nm_types::{Timestamp, UserId};
use std::collections::HashMap;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch::{Receiver, Sender};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::{TaskTracker, TaskTrackerToken};

/// What a control plane is started with.
#[derive(Debug, Clone)]
pub struct AppConfig {
    /// Where the first admin's password is written.
    pub data_dir: PathBuf,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Network>,
    /// Networks that are forbidden otherwise and may be connected to all the same: see [`crate::service::outbound`].
    pub allow_outbound: Vec<Network>,
    pub auth: AuthConfig,
    pub link: ServerOptions,
    /// A node is lost when nothing is heard of it for so long; [`LOST_AFTER`] as a rule.
    pub lost_after: Duration,
    /// Between two looks at whether a cluster needs more servers or fewer; [`SCALING_EVERY`] as a rule.
    pub scaling_every: Duration,
    /// Between two looks at the clock, which may have been set; [`SCHEDULE_EVERY`] as a rule. What is due is begun in its moment all the same.
    pub schedule_every: Duration,
    /// How long a node lets tasks of jobs run without a word; [`LEASE`](crate::service::jobs::LEASE) as a rule.
    pub task_lease: Duration,
    /// Where ACME servers look for answers on entry nodes; [`ACME_HTTP_PORT`] as a rule.
    pub acme_http_port: u16,
    /// The file that this program runs from, for nodes of the same kind of machine.
    pub executable: Option<PathBuf>,
    /// Where it backs itself up to; nowhere without.
    pub own_backup: Option<OwnBackupConfig>,
}

/// Silence after which a node is lost, where nobody says otherwise. With the half second between two beats and the half second
/// between two looks, a cut cable is seen within nine seconds.
pub const LOST_AFTER: Duration = Duration::from_secs(8);

/// Where ACME servers look (RFC 8555, 8.3).
pub const ACME_HTTP_PORT: u16 = 80;

/// A clock that was set is seen within half a minute.
pub const SCHEDULE_EVERY: Duration = Duration::from_secs(30);

/// As often as the Kubernetes autoscaler looks.
pub const SCALING_EVERY: Duration = Duration::from_secs(15);

/// The control plane. Cheap to clone; clones are the same one.
#[derive(Clone)]
pub struct App(Arc<Parts>);

pub struct Parts {
    pub config: AppConfig,
    pub store: Store,
    pub clock: SharedClock,
    pub auth: Arc<Auth>,
    pub fleet: Fleet,
    pub liveness: Liveness,
    pub nodes: Nodes,
    pub index: Index,
    pub journals: Journals,
    pub containers: Containers,
    pub resources: Resources,
    pub registries: Registries,
    pub operations: Operations,
    pub authorities: Authorities,
    pub enrolment: Enrolment,
    pub outbound: Guard,
    pub servers: Servers,
    pub health: Health,
    pub binaries: Binaries,
    pub upgrades: Upgrades,
    pub alerts: Alerts,
    pub clusters: Clusters,
    pub jobs: Jobs,
    pub backups: Backups,
    pub own_backup: OwnBackup,
    pub dirty: Dirty,
    pub metrics: Metrics,
    pub streams: Streams,
    pub started: Timestamp,
    /// Turns true when we are to stop.
    pub stop: Receiver<bool>,
    stopper: Sender<bool>,
}

impl Deref for App {
    type Target = Parts;
    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("config", &self.config).finish_non_exhaustive()
    }
}

impl App {
    /// Puts it together and reads what the store holds; nothing runs yet.
    pub async fn open(config: AppConfig, store: Store, clock: SharedClock) -> ApiResult<Self> {
        let (stopper, stop) = tokio::sync::watch::channel(false);
        let started = clock.now();
        let auth = Arc::new(Auth::new(store.clone(), clock.clone(), config.auth.clone()));
        let fleet = Fleet::new(Links::new());
        let index = Index::default();
        let journals = Journals::new(store.clone(), clock.clone(), index.clone());
        let liveness = Liveness::new(fleet.links().clone(), clock.clone(), config.lost_after);
        let nodes = Nodes::new(store.clone(), clock.clone(), fleet.clone(), index.clone(), liveness.clone());
        let operations = Operations::new(store.clone(), clock.clone());
        let outbound = Guard::new(config.allow_outbound.clone());
        let registries = Registries::new(store.clone(), clock.clone(), outbound.clone());
        let containers = Containers::new(
            store.clone(),
            clock.clone(),
            fleet.clone(),
            nodes.clone(),
            index.clone(),
            operations.clone(),
            registries.clone(),
        );
        let dirty = containers.dirty.clone();
        let resources = Resources::new(
            store.clone(),
            clock.clone(),
            fleet.clone(),
            nodes.clone(),
            operations.clone(),
            registries.clone(),
        );
        nodes.load().await?;
        containers.load().await?;
        let found = Table::default();
        let servers = Servers::new(
            store.clone(),
            clock.clone(),
            nodes.clone(),
            index.clone(),
            outbound.clone(),
            found.clone(),
        );
        let health = Health::new(
            store.clone(),
            clock.clone(),
            fleet.clone(),
            nodes.clone(),
            index.clone(),
            servers.clone(),
            outbound.clone(),
            found,
        );
        servers.load().await?;
        health.load().await?;
        let troubles = Troubles::default();
        let alerts = Alerts::new(
            store.clone(),
            clock.clone(),
            nodes.clone(),
            index.clone(),
            fleet.clone(),
            outbound.clone(),
            troubles.clone(),
        );
        alerts.load().await?;
        let clusters = Clusters::new(
            store.clone(),
            clock.clone(),
            fleet.clone(),
            nodes.clone(),
            index.clone(),
            servers.clone(),
            outbound.clone(),
            containers.clone(),
            troubles.clone(),
            config.acme_http_port,
        );
        clusters.load().await?;
        let jobs = Jobs::new(
            store.clone(),
            clock.clone(),
            fleet.clone(),
            nodes.clone(),
            containers.clone(),
            clusters.clone(),
            registries.clone(),
            config.task_lease,
        );
        jobs.load().await?;
        let backups = Backups::new(
            store.clone(),
            clock.clone(),
            fleet.clone(),
            nodes.clone(),
            index.clone(),
            servers.clone(),
            outbound.clone(),
            containers.clone(),
            operations.clone(),
            clusters.clone(),
            troubles,
        );
        backups.load().await?;
        let own_backup = OwnBackup::open(store.clone(), clock.clone(), config.own_backup.clone()).await?;
        let authorities = Authorities::open(store.clone(), clock.clone()).await?;
        let enrolment = Enrolment::new(store.clone(), clock.clone(), nodes.clone(), authorities.clone());
        let binaries = Binaries::new(store.clone(), clock.clone(), &config.data_dir, config.executable.clone());
        let upgrades = Upgrades::new(
            store.clone(),
            clock.clone(),
            fleet.clone(),
            nodes.clone(),
            operations.clone(),
            authorities.clone(),
            binaries.clone(),
        );
        Ok(Self(Arc::new(Parts {
            config,
            store,
            clock,
            auth,
            fleet,
            liveness,
            nodes,
            index,
            journals,
            containers,
            resources,
            registries,
            operations,
            authorities,
            enrolment,
            outbound,
            servers,
            health,
            binaries,
            upgrades,
            alerts,
            clusters,
            jobs,
            backups,
            own_backup,
            dirty,
            metrics: Metrics::default(),
            streams: Streams::default(),
            started,
            stop,
            stopper,
        })))
    }

    /// Runs until [`App::shut_down`] is called or the store can keep nothing more, which is an error.
    pub async fn run(&self, api: TcpListener, agents: TcpListener) -> Result<(), String> {
        let mut tasks = JoinSet::new();
        let cut = CancellationToken::new();
        let gate = self.enrolment.clone();
        tasks.spawn(nm_link::server::serve(
            agents,
            self.enrolment.tls(),
            gate,
            self.fleet.links().clone(),
            self.config.link.clone(),
            cut.clone(),
        ));
        tasks.spawn(watch::run(self.clone()));
        tasks.spawn(trust::run(self.clone()));
        tasks.spawn(liveness::note(self.clone()));
        tasks.spawn(liveness::run(self.clone()));
        tasks.spawn(housekeeping::run(self.clone()));
        tasks.spawn(health::run(self.clone()));
        let health_writer = tokio::spawn(health::write_behind(self.clone()));
        tasks.spawn(reschedule::run(self.clone()));
        tasks.spawn(alerts::listen(self.clone()));
        tasks.spawn(alerts::evaluate(self.clone()));
        tasks.spawn(alerts::deliver(self.clone()));
        tasks.spawn(clusters::run(self.clone()));
        tasks.spawn(clusters::names(self.clone()));
        tasks.spawn(clusters::scale(self.clone()));
        tasks.spawn(clusters::databases(self.clone()));
        tasks.spawn(jobs::run(self.clone()));
        tasks.spawn(jobs::nodes(self.clone()));
        tasks.spawn(acme::run(self.clone()));
        let figures_writer = tokio::spawn(clusters::write_figures(self.clone()));
        let writer = tokio::spawn(watch::write_behind(self.clone()));
        resume::operations(self).await.map_err(|e| e.message)?;
        // Now every operation that goes on runs, and what has none is really stuck.
        tasks.spawn(resume::run(self.clone()));
        tasks.spawn(backups::run(self.clone()));
        tasks.spawn(own_backup::run(self.clone()));
        let http = tokio::spawn(crate::api::serve::serve(api, crate::api::router(self.clone()), self.stop.clone()));
        let mut stop = self.stop.clone();
        let failed = tokio::select! {
            () = stopped(&mut stop) => None,
            reason = self.store.fatal() => Some(reason),
        };
        if let Some(reason) = failed {
            // Nothing that is said from here on could be kept.
            return Err(format!("{reason}; stopping before anything else is lost"));
        }
        // First no new requests, then streams (a terminal outlives its request), then what runs, then the links it runs over, and last
        // what is still to be written.
        let _ended = http.await;
        self.streams.close(Duration::from_secs(2)).await;
        self.operations.close(Duration::from_secs(5)).await;
        cut.cancel();
        let _ended = tokio::time::timeout(Duration::from_secs(5), async { while tasks.join_next().await.is_some() {} }).await;
        let _ended = tokio::time::timeout(Duration::from_secs(5), writer).await;
        let _ended = tokio::time::timeout(Duration::from_secs(5), health_writer).await;
        let _ended = tokio::time::timeout(Duration::from_secs(5), figures_writer).await;
        self.store.close().await;
        Ok(())
    }

    /// Asks it to stop; [`App::run`] returns once it has.
    pub fn shut_down(&self) {
        self.stopper.send_replace(true);
    }

    /// Whether it can do its work: the database answers.
    pub async fn ready(&self) -> ApiResult<()> {
        match tokio::time::timeout(Duration::from_secs(2), self.store.ping()).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(ApiError::unavailable(
                "store_unavailable",
                "the control plane's database does not answer within 2 seconds",
            )),
        }
    }
}

/// Ends when we are to stop.
pub async fn stopped(stop: &mut Receiver<bool>) {
    // An error means that the sender is gone, and with it everything that could still be asked of us.
    let _closed = stop.wait_for(|s| *s).await;
}

/// The most streams one user may have open.
const STREAMS_PER_USER: usize = 20;

/// Open streams, counted by user.
#[derive(Debug, Clone, Default)]
pub struct Streams {
    open: Arc<Mutex<HashMap<UserId, usize>>>,
    tracker: TaskTracker,
}

/// A stream's place in the count, until dropped.
#[derive(Debug)]
pub struct StreamPlace {
    user: UserId,
    open: Arc<Mutex<HashMap<UserId, usize>>>,
    _tracked: TaskTrackerToken,
}

impl Streams {
    pub fn open(&self, actor: &Actor) -> ApiResult<StreamPlace> {
        let mut open = self.open.lock().unwrap_or_else(|e| e.into_inner());
        let count = open.entry(actor.user.clone()).or_default();
        if *count >= STREAMS_PER_USER {
            return Err(ApiError::too_many(
                format!("you have {STREAMS_PER_USER} streams open already: close one"),
                Duration::from_secs(5),
            ));
        }
        *count += 1;
        Ok(StreamPlace {
            user: actor.user.clone(),
            open: self.open.clone(),
            _tracked: self.tracker.token(),
        })
    }
}

impl Streams {
    /// How many are open, of all users together.
    pub fn count(&self) -> usize {
        self.tracker.len()
    }

    /// Waits until all have ended, `grace` at most: those who listen are told why before what they listen to goes away.
    pub async fn close(&self, grace: Duration) {
        self.tracker.close();
        let _ended = tokio::time::timeout(grace, self.tracker.wait()).await;
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(count) = open.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.user);
            }
        }
    }
}
