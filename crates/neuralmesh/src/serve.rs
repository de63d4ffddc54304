//! Starts what `up`, `server` and `agent` name, and ends it in good order.

use crate::run::{AgentArgs, ControlArgs, MachineArgs, ServerArgs, UpArgs};
use crate::trial::{self, Watcher};
use crate::{hello, install, proxy, telemetry};
use anyhow::{Context, bail};
use hyper_util::service::TowerToHyperService;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nm_agent::edge::LoadBalancer;
use nm_agent::upgrade::Upgrades;
use nm_agent::{Agent, AgentConfig};
use nm_control::app::{App, AppConfig};
use nm_control::service::auth::{Actor, AuthConfig};
use nm_control::service::clock::SystemClock;
use nm_link::agent::{AgentIdentity, AgentLink, AgentOptions, DialOptions, IdentityStore, ServerUrl, join, join_or_stay};
use nm_link::server::ServerOptions;
use nm_link::{AgentFacts, JoinToken};
use nm_store::{DatabaseUrl, Store, StoreConfig};
use nm_types::NodeId;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Control plane and this machine's agent, in one process; they talk over the link all the same.
pub async fn up(args: UpArgs) -> anyhow::Result<()> {
    let telemetry = telemetry::start(&args.control.log, telemetry::CONTROL_PLANE)?;
    let (app, serving) = start_control(&args.control, args.agent_listen).await?;
    let own = [Some(args.control.data_dir.clone()), args.control.key_file.clone()];
    let own = own.into_iter().flatten().collect();
    let carried = proxy::by_agent(&args.control.log, false)?;
    let agent = start_local_agent(&app, &args.control.data_dir, own, &args.machine, carried, serving.agents);
    let stop = CancellationToken::new();
    let mut control = serving.task;
    let outcome = match agent.await {
        Ok((node, link, agent)) => {
            tokio::spawn(offer_first_image(app.clone(), node));
            let running = tokio::spawn(run_agent(agent, link, stop.clone()));
            let outcome = until_told(&mut control, &app).await;
            // The control plane has said goodbye to its links; what the agent holds is on its disk.
            stop.cancel();
            let _ended = running.await;
            outcome
        }
        Err(error) => {
            app.shut_down();
            let _ended = control.await;
            Err(error.context("this machine could not become a node of its own control plane"))
        }
    };
    info!("stopped");
    telemetry.end().await;
    outcome
}

/// The control plane alone.
pub async fn server(args: ServerArgs) -> anyhow::Result<()> {
    let telemetry = telemetry::start(&args.control.log, telemetry::CONTROL_PLANE)?;
    let (app, mut serving) = start_control(&args.control, args.agent_listen).await?;
    let outcome = until_told(&mut serving.task, &app).await;
    info!("stopped");
    telemetry.end().await;
    outcome
}

/// The agent alone.
pub async fn agent(args: AgentArgs) -> anyhow::Result<()> {
    if let Some(command) = args.command {
        return install::run(command).await;
    }
    let telemetry = telemetry::start(&args.log, telemetry::AGENT)?;
    let watcher = Watcher::of_this_process()?;
    let servers = args.servers.iter().map(|s| s.parse::<ServerUrl>()).collect::<Result<Vec<_>, _>>()?;
    let dir = args.data_dir.join("agent");
    let store = IdentityStore::open(&dir)?;
    let upgrades = Upgrades::open(&dir, trial::running()?, watcher.is_some())?;
    if watcher.is_none()
        && let Some(executable) = upgrades.instead().await?
    {
        info!(executable = %executable.display(), "this node was upgraded: running the version that it was upgraded to");
        return Err(trial::become_it(&executable)).context("start the version that this node was upgraded to");
    }
    let identity = match (store.load()?, &args.join) {
        (Some(identity), None) => identity,
        (_, Some(token)) => {
            let token: JoinToken = JoinToken::parse(token)?;
            let server = servers
                .first()
                .context("an agent needs the address of a control plane: --server https://HOST:7443")?;
            let identity = join_or_stay(&store, server, &token, &facts(&args.machine), &DialOptions::default()).await?;
            info!(node.id = %identity.node(), "this machine is a node of the fleet");
            identity
        }
        (None, None) => {
            bail!("this machine has not joined a fleet yet: give it a token by --join (`neuralmesh nodes join-token` makes one)")
        }
    };
    let stop = CancellationToken::new();
    let carried = proxy::by_agent(&args.log, watcher.is_some())?;
    let config = AgentConfig {
        data_dir: dir,
        docker_socket: args.machine.docker_socket.clone(),
        own: vec![args.data_dir.clone()],
        load_balancer: Some(carried),
        backup_worker: Some(crate::backup_worker::by_agent()),
    };
    let (agent, link) = make_agent(config, store, identity, servers).await?;
    let states = link.states();
    let running = tokio::spawn(run_agent(agent.upgradable(upgrades.clone()), link, stop.clone()));
    let attend = async {
        match watcher {
            Some(watcher) => watcher.attend(states).await,
            None => std::future::pending().await,
        }
    };
    let told = told_to_stop();
    tokio::pin!(told);
    let asked = tokio::select! {
        told = &mut told => {
            told?;
            None
        }
        () = attend => None,
        trial = upgrades.begun() => Some(trial),
    };
    stop.cancel();
    running.await.context("the agent ended badly")?;
    if let Some(trial) = asked {
        trial::watch_over(&trial, &upgrades, Duration::from_secs(args.upgrade_within), told).await?;
    }
    info!("stopped");
    telemetry.end().await;
    Ok(())
}

struct Serving {
    /// Where the agent listener is, with the port it really got.
    agents: SocketAddr,
    task: tokio::task::JoinHandle<Result<(), String>>,
}

async fn start_control(args: &ControlArgs, agent_listen: SocketAddr) -> anyhow::Result<(App, Serving)> {
    raise_file_limit();
    let data_dir = &args.data_dir;
    // Keys and certificates are in it: for us alone.
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data_dir)
        .with_context(|| format!("make the data folder {}", data_dir.display()))?;
    let url = match &args.database_url {
        Some(url) => url.parse::<DatabaseUrl>()?,
        None => DatabaseUrl::sqlite(data_dir.join("neuralmesh.db")),
    };
    let key_file = args.key_file.clone().unwrap_or_else(|| data_dir.join("secrets.key"));
    let store = Store::open_alone(StoreConfig { url, key_file })
        .await
        .context("open the database")?;
    let config = AppConfig {
        data_dir: data_dir.clone(),
        trusted_proxies: args.trusted_proxies.clone(),
        allow_outbound: args.allow_outbound.clone(),
        auth: AuthConfig::default(),
        link: ServerOptions::default(),
        lost_after: args.lost_after,
        scaling_every: nm_control::app::SCALING_EVERY,
        schedule_every: nm_control::app::SCHEDULE_EVERY,
        task_lease: nm_control::service::jobs::LEASE,
        acme_http_port: args.acme_http_port,
        // What runs, also when the file has been replaced since.
        executable: Some(PathBuf::from("/proc/self/exe")),
        own_backup: args
            .own_backup
            .config(data_dir, args.allow_outbound.iter().map(ToString::to_string).collect())?,
    };
    let app = App::open(config, store, Arc::new(SystemClock)).await?;
    let password = app.auth.bootstrap(data_dir).await?;
    let api = bind(args.listen, "--listen").await?;
    let agents = bind(agent_listen, "--agent-listen").await?;
    let (api_address, agents_address) = (api.local_addr()?, agents.local_addr()?);
    let task = tokio::spawn({
        let app = app.clone();
        async move { app.run(api, agents).await }
    });
    println!(
        "NeuralMesh {}: dashboard and API at http://{api_address}, agents at {agents_address}",
        env!("CARGO_PKG_VERSION")
    );
    if let Some(file) = password {
        println!("The password of the user `admin` is in {}", file.display());
    }
    Ok((
        app,
        Serving {
            agents: agents_address,
            task,
        },
    ))
}

async fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("listen on {address}: is something else there, another NeuralMesh perhaps? {flag} chooses another address")
    })
}

/// Until the process is told to stop, or the control plane ends by itself.
async fn until_told(control: &mut tokio::task::JoinHandle<Result<(), String>>, app: &App) -> anyhow::Result<()> {
    let ended = tokio::select! {
        told = told_to_stop() => {
            told?;
            app.shut_down();
            control.await
        }
        ended = &mut *control => ended,
    };
    ended.context("the control plane ended badly")?.map_err(anyhow::Error::msg)
}

async fn told_to_stop() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    info!("stopping; once more to stop at once");
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        std::process::exit(130);
    });
    Ok(())
}

pub(crate) fn facts(machine: &MachineArgs) -> AgentFacts {
    let hostname = match &machine.name {
        Some(name) => name.to_string(),
        None => nix::unistd::gethostname()
            .ok()
            .and_then(|h| h.into_string().ok())
            .filter(|h| !h.is_empty())
            .unwrap_or_else(|| "node".into()),
    };
    AgentFacts {
        hostname,
        agent_version: env!("CARGO_PKG_VERSION").into(),
        os: std::env::consts::OS.into(),
        arch: std::env::consts::ARCH.into(),
    }
}

async fn make_agent(
    config: AgentConfig,
    store: IdentityStore,
    identity: AgentIdentity,
    servers: Vec<ServerUrl>,
) -> anyhow::Result<(Agent, AgentLink)> {
    let agent = Agent::new(config).await.context("start the agent")?;
    let link = AgentLink::new(store, identity, servers, AgentOptions::default());
    Ok((agent, link))
}

async fn run_agent(agent: Agent, link: AgentLink, stop: CancellationToken) {
    let service = TowerToHyperService::new(agent.router());
    tokio::join!(agent.run(stop.clone()), link.run(service, stop));
}

/// This machine as the first node: it joins as every other machine does, only that nobody has to paste the token.
async fn start_local_agent(
    app: &App,
    data_dir: &Path,
    own: Vec<PathBuf>,
    machine: &MachineArgs,
    carried: LoadBalancer,
    agents: SocketAddr,
) -> anyhow::Result<(NodeId, AgentLink, Agent)> {
    let host = match agents.ip() {
        ip if !ip.is_unspecified() => ip,
        _ => IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    let server: ServerUrl = format!("https://{}", SocketAddr::new(host, agents.port())).parse()?;
    let dir = data_dir.join("agent");
    let store = IdentityStore::open(&dir)?;
    let known = store.load()?.filter(|identity| app.nodes.knows(identity.node()));
    let identity = match known {
        Some(identity) => identity,
        None => {
            if store.path().exists() {
                warn!("this machine's node was removed from the fleet, or the database is another one: joining anew");
                std::fs::remove_file(store.path()).context("remove the old identity")?;
            }
            let facts = facts(machine);
            let (actor, meta) = (Actor::system(), nm_control::api::extract::Meta::internal());
            let token = match own_node(app, &facts.hostname).await? {
                Some(node) => app.enrolment.rejoin_token(&actor, &meta, node.as_str()).await?,
                None => app.enrolment.new_token(&actor, &meta).await?,
            };
            join(&store, &server, &JoinToken::parse(&token.token)?, &facts, &DialOptions::default()).await?
        }
    };
    let node = identity.node().clone();
    let noted = OwnNode {
        node: node.clone(),
        hostname: facts(machine).hostname,
    };
    note_own_node(app, noted).await?;
    let config = AgentConfig {
        data_dir: dir,
        docker_socket: machine.docker_socket.clone(),
        own,
        load_balancer: Some(carried),
        backup_worker: Some(crate::backup_worker::by_agent()),
    };
    let (agent, link) = make_agent(config, store, identity, vec![server]).await?;
    Ok((node, link, agent))
}

/// Which node of the fleet the control plane's own machine is.
const OWN_NODE: &str = "ownNode";

#[derive(PartialEq, serde::Serialize, serde::Deserialize)]
struct OwnNode {
    node: NodeId,
    hostname: String,
}

async fn noted_own_node(app: &App) -> anyhow::Result<Option<OwnNode>> {
    let row = app.store.get(nm_store::Kind::Setting, OWN_NODE).await?;
    Ok(row.map(|row| row.spec()).transpose()?)
}

/// The node that this machine was, where its control plane was brought back without the agent's identity; none of another machine.
async fn own_node(app: &App, hostname: &str) -> anyhow::Result<Option<NodeId>> {
    let noted = noted_own_node(app).await?;
    Ok(noted
        .filter(|own| own.hostname == hostname && app.nodes.knows(&own.node))
        .map(|own| own.node))
}

async fn note_own_node(app: &App, own: OwnNode) -> anyhow::Result<()> {
    if noted_own_node(app).await?.as_ref() == Some(&own) {
        return Ok(());
    }
    let row = nm_store::NewResource::new(nm_store::Kind::Setting, OWN_NODE)
        .named(OWN_NODE)
        .spec(&own)?;
    let mut tx = app.store.begin(app.clock.now()).await?;
    tx.put(row).await?;
    tx.commit().await?;
    Ok(())
}

/// Gives the node the built-in image where it has none yet, once its Docker engine answers.
async fn offer_first_image(app: App, node: NodeId) {
    let offered = async {
        if app.resources.has_image(&node, hello::NAME).await? {
            return anyhow::Ok(());
        }
        let image = tokio::task::spawn_blocking(hello::image::build).await??;
        app.resources.load_image(&node, tokio::fs::File::from_std(image)).await?;
        info!(image = hello::NAME, "the built-in image is there");
        Ok(())
    };
    if let Err(error) = offered.await {
        warn!(
            image = hello::NAME,
            error = format!("{error:#}"),
            "the built-in image could not be offered"
        );
    }
}

/// Each agent and each client is an open file; the default limit of 1,024 is for programs of another kind.
fn raise_file_limit() {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) if soft < hard => {
            if let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
                warn!(%error, limit = soft, "the limit of open files stays as it is");
            }
        }
        Ok(_) => {}
        Err(error) => warn!(%error, "the limit of open files can't be read"),
    }
}
