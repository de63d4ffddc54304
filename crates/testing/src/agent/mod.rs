//! An agent whose Docker engine is made up. It joins and talks as the real one does; what it holds is in memory, and a test
//! can slow it down, make it fail, stop it at any point of a call, change things behind the control plane's back, and make
//! it lie.

mod backup;
mod checkup;
mod edge;
mod knobs;
mod machine;
mod serve;
mod tasks;
mod upgrade;
mod world;

pub use knobs::{Ask, Hold, When};
pub use tasks::Ran;

use crate::line::Line;
use crate::plane::TestControlPlane;
use edge::Edge;
use hyper::service::service_fn;
use knobs::Knobs;
use machine::Machine;
use nm_link::agent::{AgentLink, AgentOptions, DialOptions, IdentityStore, JoinError, LinkState, ServerUrl, join};
use nm_link::contract::{AgentError, RegistryLogin, RunProbe, RunTask, TaskKey, UpgradeOutcome, UpgradePhase, WatchEvent};
use nm_link::{AgentFacts, Http2Options, JoinToken, RefusalCode};
use nm_types::container::{ContainerHealth, ContainerSpec, ContainerStatus, ForeignSpec, Limits, LogStream, ObservedContainer};
use nm_types::host::NodeStats;
use nm_types::job::TaskOutcome;
use nm_types::node::{NewJoinToken, NodeStatus, NodeView};
use nm_types::node_event::{NodeEventDetail, NodeEventKind};
use nm_types::stats::Usage;
use nm_types::{ContainerId, NodeId, OperationId};
use nm_waits::{eventually, soon};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use world::World;

/// A node of the fleet.
#[derive(Debug)]
pub struct FakeAgent {
    pub node: NodeId,
    line: Line,
    world: Arc<World>,
    machine: Arc<Machine>,
    edge: Arc<Edge>,
    backup: backup::Shared,
    tasks: tasks::Shared,
    knobs: Arc<Knobs>,
    stop: CancellationToken,
    running: AbortOnDropHandle<()>,
    states: tokio::sync::watch::Receiver<BTreeMap<ServerUrl, LinkState>>,
    known: Mutex<KnownLink>,
    _dir: TempDir,
}

/// The link that the control plane last had when it was asked for.
#[derive(Debug, Default)]
struct KnownLink {
    since: Option<SystemTime>,
    /// It was cut since.
    cut: bool,
}

/// A container as the made-up Docker engine has it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub observed: ObservedContainer,
    /// What it was made of, when we made it.
    pub spec: Option<ContainerSpec>,
    pub operation: Option<OperationId>,
}

/// Waits short enough for tests.
fn options() -> AgentOptions {
    AgentOptions {
        dial: DialOptions::default(),
        first_retry: Duration::from_millis(10),
        longest_retry: Duration::from_millis(100),
        longest_unreached_retry: Duration::from_millis(100),
        beat_every: Duration::from_millis(50),
        silent_after: Duration::from_secs(2),
        http2: Http2Options {
            ping_interval: Duration::from_millis(250),
            ..Http2Options::default()
        },
        stable_after: Duration::ZERO,
        drain: Duration::from_secs(1),
        ..AgentOptions::default()
    }
}

fn facts(hostname: &str) -> AgentFacts {
    AgentFacts {
        hostname: hostname.into(),
        agent_version: "0.5.0".into(),
        os: "linux".into(),
        arch: "x86_64".into(),
    }
}

impl FakeAgent {
    /// A machine of this name joins with a token of the API; waits until the node is ready.
    pub async fn join(plane: &TestControlPlane, hostname: &str) -> Self {
        let admin = plane.admin().await;
        let token: NewJoinToken = admin.post("/api/nodes/join-tokens").await.data(201);
        let agent = Self::join_with(plane.agents(), &token.token, hostname).await;
        agent.ready(plane).await;
        agent
    }

    /// A machine joins with this token; waits until the node is ready.
    pub async fn join_by(plane: &TestControlPlane, token: &str, hostname: &str) -> Self {
        let agent = Self::join_with(plane.agents(), token, hostname).await;
        agent.ready(plane).await;
        agent
    }

    /// Why a machine with this token does not join.
    pub async fn refused(plane: &TestControlPlane, token: &str) -> JoinError {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let store = IdentityStore::open(dir.path()).expect("a place for the identity");
        let server = format!("https://{}", *plane.agents().borrow()).parse().expect("an address");
        let token = JoinToken::parse(token).expect("a join token of the API");
        let joined = soon(
            "joining",
            join(&store, &server, &token, &facts("stranger"), &DialOptions::default()),
        )
        .await;
        joined.expect_err("the machine is not let in")
    }

    async fn join_with(agents: tokio::sync::watch::Receiver<SocketAddr>, token: &str, hostname: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let store = IdentityStore::open(dir.path()).expect("a place for the identity");
        let line = Line::to(agents).await;
        let server = format!("https://{}", line.address()).parse().expect("an address");
        let facts = facts(hostname);
        let token = JoinToken::parse(token).expect("a join token of the API");
        let options = options();
        let identity = soon("joining", join(&store, &server, &token, &facts, &options.dial))
            .await
            .expect("the machine joins");
        let node = identity.node().clone();
        let link = AgentLink::new(store, identity, vec![server], options);
        let machine = Arc::<Machine>::default();
        let edge = Arc::<Edge>::default();
        let backup = backup::Shared::default();
        let tasks = tasks::Shared::default();
        let states = link.states();
        let (world, knobs, stop) = (Arc::new(World::new(hostname)), Arc::new(Knobs::default()), CancellationToken::new());
        let service = service_fn({
            let (world, machine, edge, backup, knobs) = (world.clone(), machine.clone(), edge.clone(), backup.clone(), knobs.clone());
            let tasks = tasks.clone();
            move |request| {
                serve::answer(
                    world.clone(),
                    machine.clone(),
                    edge.clone(),
                    backup.clone(),
                    tasks.clone(),
                    knobs.clone(),
                    request,
                )
            }
        });
        let running = AbortOnDropHandle::new(tokio::spawn({
            let stop = stop.clone();
            async move { link.run(service, stop).await }
        }));
        Self {
            node,
            line,
            world,
            machine,
            edge,
            backup,
            tasks,
            knobs,
            stop,
            running,
            states,
            known: Mutex::default(),
            _dir: dir,
        }
    }

    /// Waits until its link is refused, and gives the reason.
    pub async fn is_refused(&self) -> RefusalCode {
        let mut states = self.states.clone();
        let refusal = |all: &BTreeMap<ServerUrl, LinkState>| {
            all.values().find_map(|s| match s {
                LinkState::Waiting { refused, .. } => *refused,
                LinkState::Connecting | LinkState::Connected { .. } | LinkState::Stopped => None,
            })
        };
        let refused = soon("the agent is refused", states.wait_for(|all| refusal(all).is_some())).await;
        refusal(&refused.expect("the agent runs")).expect("it was waited for")
    }

    /// Waits until the control plane has the node as ready and, where its link was cut, another link: a node stays ready for as long as
    /// its agent dials again.
    pub async fn ready(&self, plane: &TestControlPlane) {
        self.is(plane, NodeStatus::Ready).await;
        let links = plane.app().fleet.links();
        eventually(&format!("node {} is linked", self.node), async || {
            let since = links.get(&self.node).map(|link| link.since());
            let mut known = self.known.lock().unwrap();
            let linked = !known.cut || (since.is_some() && since != known.since);
            if linked {
                *known = KnownLink { since, cut: false };
            }
            linked.then_some(())
        })
        .await;
    }

    /// Waits until the control plane has the node as `status`.
    pub async fn is(&self, plane: &TestControlPlane, status: NodeStatus) {
        let admin = plane.admin().await;
        let path = format!("/api/nodes/{}", self.node);
        eventually(&format!("node {} is {status:?}", self.node), async || {
            let node: NodeView = admin.get(&path).await.data(200);
            (node.status == status).then_some(())
        })
        .await;
    }

    /// Ends in good order, as `neuralmesh agent` does when told to.
    pub async fn stop(self) {
        self.stop.cancel();
        soon("the agent stops", self.running).await.expect("the agent ends well");
    }

    // The line.

    /// The link breaks; the agent dials again at once.
    pub fn cut(&self) {
        self.known.lock().unwrap().cut = true;
        self.line.cut();
    }
    /// The link breaks and stays so until [`FakeAgent::mend`].
    pub fn take_down(&self) {
        self.line.take_down();
    }
    pub fn mend(&self) {
        self.line.mend();
    }
    /// The agent dials again, and the control plane does not hear that its old connection is gone.
    pub fn cut_unheard(&self) {
        self.line.cut_unheard();
    }

    /// The link breaks and none is let through until [`FakeAgent::mend`]. Datagrams get through.
    pub fn refuse_links(&self) {
        self.line.refuse();
    }
    /// Connections stand still, and the agent can't dial another, until [`FakeAgent::mend`]. Datagrams get through.
    pub fn stall(&self) {
        self.line.stall();
    }
    /// Of a hundred datagrams so many are lost, each way.
    pub fn lose_datagrams(&self, percent: u64) {
        self.line.lose(percent);
    }
    /// The cable is out until [`FakeAgent::mend`]: nothing comes through, and nobody is told.
    pub fn unplug(&self) {
        self.line.unplug();
    }

    // Tasks of jobs.

    /// How tasks end that begin from now on; they run on where it says nothing.
    pub fn tasks_end(&self, ending: Option<(TaskOutcome, i64)>) {
        self.tasks.set_ending(ending);
    }
    /// Ends a task that runs.
    pub fn end_task(&self, key: &TaskKey, outcome: TaskOutcome, code: i64) {
        self.tasks.end(key, outcome, code);
    }
    pub fn running_tasks(&self) -> Vec<RunTask> {
        self.tasks.running()
    }
    /// Tasks it has, also those that ended and are not acknowledged.
    pub fn held_tasks(&self) -> Vec<TaskKey> {
        self.tasks.held()
    }
    /// Every run of an attempt there was.
    pub fn ran_tasks(&self) -> Vec<Ran> {
        self.tasks.ran()
    }
    /// Another process of its agent goes on with its tasks.
    pub fn restart_tasks(&self) {
        self.tasks.restart();
    }
    /// Its machine was off: nothing runs there any more.
    pub fn reboot_tasks(&self) {
        self.tasks.reboot();
    }

    // How it answers.

    /// Each call waits for so long first.
    pub fn latency(&self, latency: Duration) {
        self.knobs.set_latency(latency);
    }
    /// Stops every call of this kind before or after its work, until the hold is released or dropped.
    pub fn hold(&self, ask: Ask, when: When) -> Hold {
        self.knobs.hold(ask, when)
    }
    /// Answers the next call of this kind with a refusal.
    pub fn fail_next(&self, ask: Ask, error: AgentError) {
        self.knobs.fail_next(ask, error);
    }
    /// Does the next call of this kind, whose answer is told step by step, and answers with a refusal all the same: its
    /// engine went away in the middle.
    pub fn lose_next(&self, ask: Ask, error: AgentError) {
        self.knobs.lose_next(ask, error);
    }
    /// Does the next call of this kind, and ends its stream without an answer; the link stands.
    pub fn abort_next(&self, ask: Ask) {
        self.knobs.abort_next(ask);
    }
    /// In containers of this node there is a program of this name, which answers its words with an exit code and what it prints.
    pub fn has_program(&self, name: &str, answers: impl Fn(&[&str]) -> (i64, String) + Send + Sync + 'static) {
        self.knobs.set_program(knobs::Program::new(name, answers));
    }
    /// How many calls of this kind have come.
    pub fn calls(&self, ask: Ask) -> usize {
        self.knobs.calls(ask)
    }
    /// Every call that has come, the watch and what it needs left out.
    pub fn all_calls(&self) -> usize {
        self.knobs.all_calls()
    }
    /// Containers made from now on end at once with this code, having written this.
    pub fn exit_at_once(&self, code: i64, lines: &[&str]) {
        self.world.exit_at_once(code, lines);
    }
    /// The registry does not have this image.
    pub fn unknown_image(&self, image: &str) {
        self.world.unknown_image(image);
    }
    /// The login that the last pull came with.
    pub fn last_login(&self) -> Option<RegistryLogin> {
        self.world.last_login()
    }

    // Upgrades.

    /// The trial that was begun has come to this.
    pub fn upgrade_ended(&self, phase: UpgradePhase) {
        self.world.upgrade.ended(phase);
    }
    /// The last upgrade that was begun.
    pub fn last_upgrade(&self) -> Option<UpgradeOutcome> {
        self.world.upgrade.last()
    }
    /// How many executables were sent to it whole.
    pub fn executables_received(&self) -> usize {
        self.world.upgrade.received()
    }
    /// Its machine has another processor.
    pub fn runs_on(&self, arch: &str) {
        self.world.upgrade.runs_on(arch);
    }
    /// It takes no upgrades at all.
    pub fn refuses_upgrades(&self, error: AgentError) {
        self.world.upgrade.refuse(error);
    }

    // What is there.

    pub fn containers(&self) -> Vec<Seen> {
        self.world.containers()
    }
    /// The one container with this id of ours.
    #[track_caller]
    pub fn container(&self, id: &ContainerId) -> Seen {
        let mut all = self.containers().into_iter().filter(|c| c.observed.id.as_ref() == Some(id));
        match (all.next(), all.next()) {
            (Some(one), None) => one,
            (None, _) => panic!("{id} is not there"),
            (Some(_), Some(_)) => panic!("{id} is there twice"),
        }
    }
    /// The files unpacked in a container, by folder.
    pub fn files(&self, id: &ContainerId) -> Vec<(String, usize)> {
        self.world.files(id)
    }

    // Behind the control plane's back.

    /// Somebody starts a container with `docker run`. Gives Docker's id.
    pub fn docker_run(&self, name: &str, image: &str) -> String {
        self.docker_run_with(name, image, ForeignSpec::default())
    }
    pub fn docker_run_with(&self, name: &str, image: &str, foreign: ForeignSpec) -> String {
        self.world.run_foreign(name, image, foreign)
    }
    /// `docker rm -f`. `key` is Docker's id or name, or our id.
    pub fn docker_rm(&self, key: &str) {
        self.world.rm(key);
    }
    /// `docker stop`, `docker start`, `docker pause`, or it ends by itself.
    pub fn docker_set(&self, key: &str, status: ContainerStatus) {
        self.world.set_status(key, status);
    }
    /// `docker update`.
    pub fn docker_update(&self, key: &str, limits: Limits) {
        self.world.update(key, limits);
    }
    pub fn docker_rename(&self, key: &str, name: &str) {
        self.world.rename(key, name);
    }
    /// A container writes a line.
    pub fn writes(&self, key: &str, stream: LogStream, line: &str) {
        self.world.write_line(key, stream, line);
    }
    /// A second passes for a container: one more sample of its use.
    pub fn uses(&self, key: &str, usage: Usage) {
        self.world.sample(key, usage);
    }
    /// Docker goes away, or comes back with a new snapshot.
    pub fn docker_available(&self, available: bool) {
        self.world.docker_available(available);
    }

    /// The machine uses more or less; it tells so at once.
    pub fn machine(&self, change: impl FnOnce(&mut NodeStats)) {
        self.machine.change(&self.world, change);
    }
    /// From now on the probe of this name passes, or fails.
    pub fn probe(&self, name: &str, ok: bool) {
        self.world.set_probe(name, ok);
    }
    /// The probes of the last call, with the containers they were aimed at.
    pub fn last_probes(&self) -> Vec<RunProbe> {
        self.world.last_probes()
    }
    /// A container's own health check comes to another result.
    pub fn docker_health(&self, key: &str, health: ContainerHealth) {
        self.world.set_health(key, health);
    }

    // The machine and the journal.

    /// A second passes for the machine: one more sample of its use.
    pub fn machine_uses(&self, stats: NodeStats) {
        self.machine.sample(&self.world, stats);
    }
    /// Something is written in the journal, of a container where one is named. Gives its number.
    pub fn happens(&self, kind: NodeEventKind, key: Option<&str>) -> i64 {
        self.happens_with(kind, key, NodeEventDetail::default())
    }
    pub fn happens_with(&self, kind: NodeEventKind, key: Option<&str>, detail: NodeEventDetail) -> i64 {
        self.machine.happens(&self.world, kind, key, detail)
    }
    /// The journal overflows: only the newest so many events are left.
    pub fn forget_events(&self, keep: usize) {
        self.machine.forget_events(keep);
    }
    /// The agent's disk is lost; its journal begins anew.
    pub fn lose_journal(&self) {
        self.machine.lose_journal();
    }

    // Lies.

    /// Says this on the watch, whatever the truth.
    pub fn report(&self, event: WatchEvent) {
        self.world.tell(event);
    }
    /// Has another node's container in its own Docker, by the same ids, and says nothing of it.
    pub fn claim(&self, observed: &ObservedContainer) {
        self.world.claim(observed.clone());
    }
    /// Keeps what happens from the watch until [`FakeAgent::speak`].
    pub fn be_silent(&self) {
        self.world.be_silent();
    }
    /// Says all that was kept back, in order.
    pub fn speak(&self) {
        self.world.speak();
    }
}
