//! Many agents in one process, for `benches/fleet.py`: each joins by a token of its own, links with its own certificate, sends
//! datagrams, and tells of made-up containers as the real one does. Only Docker and the kernel's counters are left out.
//!
//!     fleet --server https://127.0.0.1:7443 --containers 50 --at-once 0 < TOKENS
//!
//! One join token a line; a line `{"joined": NODE}` for each on stdout, then `{"joinedAll": COUNT, "seconds": S}`. `--at-once`
//! bounds how many join at a time; 0 is all. It runs until it is killed.

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use nm_link::agent::{AgentLink, AgentOptions, DialOptions, IdentityStore, ServerUrl, join};
use nm_link::contract::{AgentError, AgentErrorCode, WatchEvent, path};
use nm_link::{AgentFacts, JoinToken};
use nm_types::Timestamp;
use nm_types::container::ObservedContainer;
use nm_types::host::{DiskStats, MemoryStats, NetworkStats, NodeStats};
use nm_types::node::{DockerInfo, NodeInfo};
use nm_types::stats::Usage;
use serde::Serialize;
use serde_json::json;
use std::convert::Infallible;
use std::error::Error;
use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

type BoxError = Box<dyn Error + Send + Sync>;
type Body = UnsyncBoxBody<Bytes, Infallible>;

/// As the real agent's.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// How many may join at once when there is no bound.
const UNBOUNDED: usize = 100_000;

struct Machine {
    name: String,
    containers: Vec<ObservedContainer>,
    /// Moves the figures.
    dice: u64,
}

impl Machine {
    fn new(number: usize, containers: usize) -> Result<Self, BoxError> {
        let name = format!("sim-{}-{number}", std::process::id());
        let containers = (0..containers).map(|n| container(&name, n)).collect::<Result<_, _>>()?;
        Ok(Self {
            name,
            containers,
            dice: number as u64,
        })
    }

    fn info(&self) -> NodeInfo {
        NodeInfo {
            agent_version: env!("CARGO_PKG_VERSION").into(),
            hostname: self.name.clone(),
            os: "Debian GNU/Linux 12 (bookworm)".into(),
            kernel: "6.1.0-18-amd64".into(),
            arch: "x86_64".into(),
            cpus: 8,
            memory: 32 << 30,
            docker: DockerInfo {
                available: true,
                version: Some("27.5.1".into()),
                api_version: Some("1.47".into()),
                bridge: None,
                error: None,
            },
        }
    }

    fn figure(&mut self, below: u64) -> f64 {
        self.dice = self
            .dice
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.dice >> 33) % (below * 100)) as f64 / 100.0
    }

    /// What every container uses, each of them something new.
    fn usage(&mut self) -> WatchEvent {
        let ids: Vec<String> = self.containers.iter().map(|c| c.docker_id.clone()).collect();
        let samples = ids.into_iter().map(|id| {
            let (cpu, memory) = (self.figure(100), self.figure(512));
            (id, Usage { cpu, memory })
        });
        WatchEvent::Usage {
            samples: samples.collect(),
        }
    }

    fn host(&mut self) -> NodeStats {
        let disk = |mount: &str, device: &str| DiskStats {
            mount: mount.into(),
            device: device.into(),
            kind: "ext4".into(),
            total: 512 << 30,
            used: 100 << 30,
            available: 400 << 30,
            inodes: 32_000_000,
            inodes_used: 1_000_000,
            read_only: false,
        };
        NodeStats {
            cpu: self.figure(100),
            load: [self.figure(8), self.figure(8), self.figure(8)],
            memory: MemoryStats {
                total: 32 << 30,
                available: (self.figure(16) * 1e9) as u64,
                swap_total: 0,
                swap_used: 0,
            },
            disks: vec![disk("/", "/dev/sda1"), disk("/var/lib/docker", "/dev/sdb1")],
            network: NetworkStats {
                rx: self.dice >> 20,
                tx: self.dice >> 21,
                packets: self.dice >> 30,
                errors: 0,
                dropped: 0,
            },
            pressure: None,
            temperature: Some(48.0),
            uptime: 86_400,
            timestamp: now(),
        }
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(since.as_millis() as i64)
}

/// As varied as people's containers are.
fn container(machine: &str, n: usize) -> Result<ObservedContainer, serde_json::Error> {
    let mut id = [0; 32];
    let _filled = getrandom::fill(&mut id);
    serde_json::from_value(json!({
        "dockerId": hex::encode(id),
        "name": format!("{machine}-service{n}"),
        "image": format!("registry.example.com/team{}/service{n}:1.{}.0", n % 17, n % 30),
        "status": "running",
        "created": "2026-02-03T02:30:00.000Z",
        "started": "2026-02-03T02:30:01.000Z",
        "ports": [{ "container": 8080, "host": 20000 + n }],
        "networks": [{ "network": "bridge", "ip": format!("172.17.0.{}", n + 2) }],
        "foreign": {
            "environment": { "LOG_LEVEL": "info", "DATABASE_URL": "postgres://db.internal/app", "WORKERS": "4", "PATH": "/usr/local/bin:/usr/bin:/bin" },
            "labels": { "app": format!("service{n}"), "team": format!("team{}", n % 17), "tier": "web" },
            "volumes": [{ "container": "/data", "host": format!("data{n}"), "mode": "rw" }],
            "restart": "unless-stopped",
            "cpuLimit": 0.5,
            "memoryLimit": "256m"
        }
    }))
}

fn line(value: &impl Serialize) -> Bytes {
    // The contract's types always write as JSON.
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes.into()
}

fn whole(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let mut response = Response::new(Full::from(line(value)).boxed_unsync());
    *response.status_mut() = status;
    response
}

/// A snapshot, then what is used, every two seconds.
fn watch(mut machine: Machine) -> impl Stream<Item = Bytes> {
    let first = WatchEvent::Snapshot {
        info: machine.info(),
        containers: machine.containers.clone(),
    };
    // Agents that linked together do not tell together for ever.
    let phase = TELL_EVERY.mul_f64(machine.figure(1));
    let ticks = tokio::time::interval_at(tokio::time::Instant::now() + phase, TELL_EVERY);
    let told = stream::unfold((machine, ticks), |(mut machine, mut ticks)| async move {
        ticks.tick().await;
        let mut bytes = line(&machine.usage()).to_vec();
        let stats = Box::new(machine.host());
        bytes.extend_from_slice(&line(&WatchEvent::Host { stats }));
        Some((Bytes::from(bytes), (machine, ticks)))
    });
    stream::once(async move { line(&first) }).chain(told)
}

async fn answer(number: usize, containers: Arc<Vec<ObservedContainer>>, request: Request<Incoming>) -> Result<Response<Body>, BoxError> {
    let mut machine = Machine::new(number, 0)?;
    Ok(match request.uri().path() {
        path::INFO => whole(StatusCode::OK, &machine.info()),
        path::HOST => whole(StatusCode::OK, &machine.host()),
        path::WATCH => {
            machine.containers.clone_from(&containers);
            let frames = watch(machine).map(|bytes| Ok(Frame::data(bytes)));
            Response::new(StreamBody::new(frames).boxed_unsync())
        }
        other => whole(
            StatusCode::CONFLICT,
            &AgentError::new(AgentErrorCode::Internal, format!("a made-up agent has no `{other}`")),
        ),
    })
}

async fn agent(
    number: usize,
    token: String,
    server: ServerUrl,
    folder: &Path,
    containers: usize,
    turn: Arc<Semaphore>,
) -> Result<(), BoxError> {
    let machine = Machine::new(number, containers)?;
    let store = IdentityStore::open(folder.join(number.to_string()))?;
    let facts = AgentFacts {
        hostname: machine.name.clone(),
        agent_version: env!("CARGO_PKG_VERSION").into(),
        os: "linux".into(),
        arch: "x86_64".into(),
    };
    let token = JoinToken::parse(&token)?;
    let identity = {
        let _turn = turn.acquire().await?;
        let patient = DialOptions {
            handshake_timeout: Duration::from_secs(60),
            answer_timeout: Duration::from_secs(60),
            ..DialOptions::default()
        };
        // As a person would who pastes the command again; a token that was used up says so.
        let mut tries = 0;
        loop {
            match join(&store, &server, &token, &facts, &patient).await {
                Ok(identity) => break identity,
                Err(error) if tries < 5 => {
                    tries += 1;
                    eprintln!("{}: {error}", machine.name);
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    };
    println!("{}", json!({ "joined": identity.node() }));
    let containers = Arc::new(machine.containers);
    let link = AgentLink::new(store, identity, vec![server], AgentOptions::default());
    tokio::spawn(async move {
        let service = service_fn(move |request| answer(number, containers.clone(), request));
        link.run(service, CancellationToken::new()).await;
    });
    Ok(())
}

fn option(name: &str) -> Result<String, BoxError> {
    let mut arguments = std::env::args().skip_while(|a| a != name);
    arguments.nth(1).ok_or_else(|| format!("{name} is missing").into())
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let server: ServerUrl = option("--server")?.parse()?;
    let containers: usize = option("--containers")?.parse()?;
    let at_once = match option("--at-once")?.parse()? {
        0 => UNBOUNDED,
        n => n,
    };
    let tokens: Vec<String> = std::io::stdin().lock().lines().collect::<Result<_, _>>()?;
    let (folder, turn, began) = (Arc::new(tempfile::tempdir()?), Arc::new(Semaphore::new(at_once)), Instant::now());
    let mut joining = JoinSet::new();
    for (number, token) in tokens.into_iter().enumerate() {
        let (server, folder, turn) = (server.clone(), folder.clone(), turn.clone());
        joining.spawn(async move { agent(number, token, server, folder.path(), containers, turn).await });
    }
    let mut count = 0;
    while let Some(joined) = joining.join_next().await {
        joined??;
        count += 1;
    }
    println!("{}", json!({ "joinedAll": count, "seconds": began.elapsed().as_secs_f64() }));
    std::future::pending::<()>().await;
    Ok(())
}
