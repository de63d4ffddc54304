//! The made-up Docker engine of one node: what is there, what happens to it, and who is told.
//!
//! Everything changes under one lock, and what is told goes out under the same, so that the watch hears of things in the
//! order they happened.

mod by_hand;
mod things;

use super::Seen;
use super::checkup::Checkup;
use super::upgrade::Upgrade;
use nm_link::contract::{
    Action, AgentError, AgentErrorCode, Command, ContainerKey, CreateContainer, LogQuery, RegistryLogin, RemoveContainer, WatchEvent,
};
use nm_types::container::{Attachment, ContainerSpec, ContainerStatus, Limits, LogLine, LogStream, ObservedContainer, PortMapping};
use nm_types::image::ImageView;
use nm_types::network::NetworkView;
use nm_types::node::{DockerInfo, NodeInfo};
use nm_types::stats::ContainerStats;
use nm_types::text::{ImageRef, Labels};
use nm_types::volume::VolumeView;
use nm_types::{ContainerId, OperationId, Timestamp};
use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, MutexGuard};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// What an action of a call came to.
pub(super) type Answer<T> = Result<T, AgentError>;

/// One container.
#[derive(Debug)]
struct Held {
    observed: ObservedContainer,
    spec: Option<ContainerSpec>,
    operation: Option<OperationId>,
    generation: i64,
    log: Vec<LogLine>,
    log_readers: Vec<UnboundedSender<LogLine>>,
    samples: Vec<ContainerStats>,
    sample_readers: Vec<UnboundedSender<ContainerStats>>,
    files: BTreeMap<String, usize>,
}

#[derive(Debug)]
struct Inner {
    info: NodeInfo,
    /// By Docker's id.
    containers: BTreeMap<String, Held>,
    images: Vec<ImageView>,
    volumes: Vec<VolumeView>,
    networks: Vec<NetworkView>,
    unknown_images: HashSet<String>,
    exit_at_once: Option<(i64, Vec<String>)>,
    last_login: Option<RegistryLogin>,
    watchers: Vec<UnboundedSender<WatchEvent>>,
    kept_back: Option<Vec<WatchEvent>>,
    next_port: u16,
    checkup: Checkup,
}

#[derive(Debug)]
pub(super) struct World {
    inner: Mutex<Inner>,
    pub(super) upgrade: Upgrade,
}

pub(super) fn now() -> Timestamp {
    use nm_control::service::clock::{Clock, SystemClock};
    SystemClock.now()
}

/// 64 hex digits, as Docker's ids and digests.
fn fresh_hex() -> String {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the system gives random bytes");
    hex::encode(bytes)
}

fn error(code: AgentErrorCode, message: impl Into<String>) -> AgentError {
    AgentError::new(code, message)
}

fn limits_of(spec: &ContainerSpec) -> Limits {
    Limits {
        cpu: spec.cpu_limit.map(|c| c.cores()),
        memory: spec.memory_limit.as_ref().map(|m| m.bytes()),
        restart: spec.restart,
    }
}

fn labels_of(labels: &Labels) -> BTreeMap<String, String> {
    labels
        .0
        .iter()
        .map(|(k, v)| (k.as_str().to_owned(), v.as_str().to_owned()))
        .collect()
}

impl Held {
    fn write(&mut self, stream: LogStream, line: &str) {
        let line = LogLine {
            stream,
            time: now(),
            line: line.to_owned(),
        };
        self.log_readers.retain(|r| r.send(line.clone()).is_ok());
        self.log.push(line);
    }

    /// It no longer runs: those who follow hear the end.
    fn ended(&mut self, status: ContainerStatus, code: i64) {
        self.observed.status = status;
        self.observed.exit_code = Some(code);
        self.observed.finished = Some(now());
        self.observed.ports.clear();
        self.log_readers.clear();
        self.sample_readers.clear();
    }

    fn runs(&self) -> bool {
        matches!(self.observed.status, ContainerStatus::Running | ContainerStatus::Paused)
    }
}

impl Inner {
    fn tell(&mut self, event: WatchEvent) {
        match &mut self.kept_back {
            Some(kept) => kept.push(event),
            None => self.watchers.retain(|w| w.send(event.clone()).is_ok()),
        }
    }

    fn changed(&mut self, docker_id: &str) -> ObservedContainer {
        let observed = self.containers[docker_id].observed.clone();
        self.tell(WatchEvent::Container {
            observed: Box::new(observed.clone()),
        });
        observed
    }

    fn snapshot(&self) -> WatchEvent {
        let all = self.containers.values().filter(|_| self.info.docker.available);
        WatchEvent::Snapshot {
            info: self.info.clone(),
            containers: all.map(|c| c.observed.clone()).collect(),
        }
    }

    /// Docker's id of a container, by that id, our id or its name.
    fn find(&self, key: &str) -> Answer<String> {
        let is_it = |(docker_id, c): &(&String, &Held)| {
            docker_id.as_str() == key || c.observed.id.as_ref().is_some_and(|id| id.as_str() == key) || c.observed.name == key
        };
        let found = self.containers.iter().find(is_it).map(|(docker_id, _)| docker_id.clone());
        found.ok_or_else(|| error(AgentErrorCode::ContainerNotFound, format!("Docker has no container {key}")))
    }

    fn held(&mut self, key: &str) -> Answer<&mut Held> {
        let docker_id = self.find(key)?;
        Ok(self.containers.get_mut(&docker_id).expect("it was found"))
    }

    fn pull(&mut self, image: &ImageRef) -> Answer<ImageView> {
        let tag = image.with_tag();
        if self.unknown_images.contains(&tag) {
            return Err(error(
                AgentErrorCode::ImageNotFound,
                format!("the registry has no image {tag}: check its name and tag"),
            )
            .field("image"));
        }
        if let Some(there) = self.images.iter().find(|i| i.tags.contains(&tag)) {
            return Ok(there.clone());
        }
        let id = format!("sha256:{}", fresh_hex());
        let image = ImageView {
            id,
            tags: vec![tag],
            size: 7_340_032,
            created: now(),
            containers: 0,
            node_id: String::new(),
        };
        self.images.push(image.clone());
        Ok(image)
    }

    fn bound_ports(&mut self, spec: &ContainerSpec) -> Answer<Vec<PortMapping>> {
        let mut bound = Vec::new();
        for (n, port) in spec.ports.iter().enumerate() {
            let mut port = port.clone();
            let taken = |host: u16| {
                self.containers
                    .values()
                    .flat_map(|c| &c.observed.ports)
                    .any(|p| p.host == host && p.protocol == port.protocol)
            };
            if port.host == 0 {
                port.host = self.next_port;
                self.next_port += 1;
            } else if taken(port.host) {
                let message = format!(
                    "port {} of the node is in use: choose another host port, or stop what uses it",
                    port.host
                );
                return Err(error(AgentErrorCode::PortInUse, message).field(format!("ports[{n}].host")));
            }
            bound.push(port);
        }
        Ok(bound)
    }

    fn start(&mut self, docker_id: &str) -> Answer<()> {
        if self.containers[docker_id].runs() {
            return Ok(());
        }
        let ports = match self.containers[docker_id].spec.clone() {
            Some(spec) => self.bound_ports(&spec)?,
            None => Vec::new(),
        };
        let at_once = self.exit_at_once.clone();
        let held = self.containers.get_mut(docker_id).expect("it was found");
        held.observed.status = ContainerStatus::Running;
        held.observed.started = Some(now());
        (held.observed.finished, held.observed.exit_code, held.observed.message) = (None, None, None);
        held.observed.ports = ports;
        if let Some((code, lines)) = at_once {
            for line in &lines {
                held.write(LogStream::Stderr, line);
            }
            held.ended(ContainerStatus::Exited, code);
            held.observed.message = Some(format!("it ended at once with code {code}; its last lines: {}", lines.join(" / ")));
        }
        Ok(())
    }

    fn create(&mut self, command: &CreateContainer) -> Answer<ObservedContainer> {
        if let Ok(docker_id) = self.find(command.id.as_str()) {
            return Ok(self.containers[&docker_id].observed.clone());
        }
        self.pull(&command.spec.image)?;
        let name = command.spec.name.docker_name();
        if self.containers.values().any(|c| c.observed.name == name) {
            return Err(error(AgentErrorCode::NameTaken, format!("Docker has a container called `{name}` already")).field("name"));
        }
        let docker_id = fresh_hex();
        let networks: Vec<String> = command.spec.networks.iter().map(ToString::to_string).collect();
        if let Some(missing) = networks.iter().find(|n| !self.networks.iter().any(|have| have.name == **n)) {
            return Err(error(AgentErrorCode::NetworkNotFound, format!("the node has no network `{missing}`")).field("networks"));
        }
        let networks = if networks.is_empty() { vec!["bridge".to_owned()] } else { networks };
        let observed = ObservedContainer {
            docker_id: docker_id.clone(),
            id: Some(command.id.clone()),
            name,
            image: command.spec.image.with_tag(),
            status: ContainerStatus::Created,
            exit_code: None,
            oom_killed: false,
            message: None,
            health: None,
            created: now(),
            started: None,
            finished: None,
            restarts: 0,
            ports: Vec::new(),
            networks: networks.into_iter().map(|network| Attachment { network, ip: None }).collect(),
            limits: Some(limits_of(&command.spec)),
            foreign: None,
        };
        self.put(
            observed,
            Some(command.spec.clone()),
            Some(command.operation.clone()),
            command.generation,
        );
        if command.start
            && let Err(error) = self.start(&docker_id)
        {
            self.containers.remove(&docker_id);
            self.tell(WatchEvent::Removed { docker_id });
            return Err(error);
        }
        Ok(self.changed(&docker_id))
    }

    fn put(&mut self, observed: ObservedContainer, spec: Option<ContainerSpec>, operation: Option<OperationId>, generation: i64) {
        let docker_id = observed.docker_id.clone();
        let held = Held {
            observed,
            spec,
            operation,
            generation,
            log: Vec::new(),
            log_readers: Vec::new(),
            samples: Vec::new(),
            sample_readers: Vec::new(),
            files: BTreeMap::new(),
        };
        self.containers.insert(docker_id.clone(), held);
        self.changed(&docker_id);
    }

    fn act(&mut self, docker_id: &str, action: Action) -> Answer<()> {
        let name = self.containers[docker_id].observed.name.clone();
        let held = self.containers.get_mut(docker_id).expect("it was found");
        let not_running = || error(AgentErrorCode::NotRunning, format!("container `{name}` does not run"));
        match action {
            Action::Start => self.start(docker_id)?,
            Action::Stop { .. } if held.runs() => held.ended(ContainerStatus::Stopped, 143),
            Action::Stop { .. } => {}
            Action::Restart { .. } => {
                held.ended(ContainerStatus::Stopped, 143);
                self.start(docker_id)?;
            }
            Action::Pause | Action::Unpause | Action::Kill { .. } if !held.runs() => return Err(not_running()),
            Action::Pause => held.observed.status = ContainerStatus::Paused,
            Action::Unpause => held.observed.status = ContainerStatus::Running,
            Action::Kill { .. } => held.ended(ContainerStatus::Stopped, 137),
            Action::Rename { name } => {
                let name = name.docker_name();
                if self.containers.iter().any(|(id, c)| id != docker_id && c.observed.name == name) {
                    return Err(error(AgentErrorCode::NameTaken, format!("Docker has a container called `{name}` already")).field("name"));
                }
                self.containers.get_mut(docker_id).expect("it was found").observed.name = name;
            }
            Action::Update(change) => {
                if let Some(spec) = held.spec.as_mut() {
                    spec.cpu_limit = change.cpu_limit.or(spec.cpu_limit);
                    spec.memory_limit = change.memory_limit.or(spec.memory_limit.take());
                    spec.restart = change.restart.unwrap_or(spec.restart);
                    held.observed.limits = Some(limits_of(spec));
                }
            }
        }
        Ok(())
    }

    fn rm(&mut self, docker_id: &str) {
        self.containers.remove(docker_id);
        self.tell(WatchEvent::Removed {
            docker_id: docker_id.to_owned(),
        });
    }

    fn users_of(&self, takes: impl Fn(&Held) -> bool) -> Vec<String> {
        self.containers
            .values()
            .filter(|c| takes(c))
            .map(|c| c.observed.name.clone())
            .collect()
    }
}

/// Where a made-up machine is on its engine's own bridge.
const BRIDGE: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 17, 0, 1));

impl World {
    pub(super) fn new(hostname: &str) -> Self {
        let docker = DockerInfo {
            available: true,
            version: Some("28.2.2".into()),
            api_version: Some("1.50".into()),
            bridge: Some(BRIDGE),
            error: None,
        };
        let info = NodeInfo {
            agent_version: "0.5.0".into(),
            hostname: hostname.into(),
            os: "linux".into(),
            kernel: "6.1.0".into(),
            arch: "x86_64".into(),
            cpus: 4,
            memory: 8 << 30,
            docker,
        };
        let inner = Inner {
            info,
            containers: BTreeMap::new(),
            images: Vec::new(),
            volumes: Vec::new(),
            networks: Vec::new(),
            unknown_images: HashSet::new(),
            exit_at_once: None,
            last_login: None,
            watchers: Vec::new(),
            kept_back: None,
            next_port: 49_153,
            checkup: Checkup::default(),
        };
        Self {
            inner: Mutex::new(inner),
            upgrade: Upgrade::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(super) fn with_checkup<T>(&self, work: impl FnOnce(&mut Checkup) -> T) -> T {
        work(&mut self.lock().checkup)
    }

    // What the contract asks.

    pub(super) fn info(&self) -> NodeInfo {
        self.lock().info.clone()
    }

    /// A snapshot, and everything that happens from then on.
    pub(super) fn watch(&self) -> UnboundedReceiver<WatchEvent> {
        let (sender, receiver) = unbounded_channel();
        let mut inner = self.lock();
        // The receiver is in our hands.
        let _sent = sender.send(inner.snapshot());
        inner.watchers.push(sender);
        receiver
    }

    pub(super) fn create(&self, command: &CreateContainer) -> Answer<ObservedContainer> {
        let mut inner = self.lock();
        if !inner.info.docker.available {
            return Err(error(AgentErrorCode::DockerUnavailable, "the node's Docker engine does not answer"));
        }
        inner.last_login.clone_from(&command.registry);
        inner.create(command)
    }

    pub(super) fn command(&self, key: &ContainerKey, command: Command) -> Answer<ObservedContainer> {
        let mut inner = self.lock();
        let docker_id = inner.find(key.as_str())?;
        let held = inner.held(&docker_id)?;
        if command.generation < held.generation {
            return Err(error(
                AgentErrorCode::Stale,
                format!("the agent holds generation {} of it", held.generation),
            ));
        }
        held.generation = command.generation;
        inner.act(&docker_id, command.action)?;
        Ok(inner.changed(&docker_id))
    }

    pub(super) fn remove(&self, key: &ContainerKey, how: &RemoveContainer) -> Answer<()> {
        let mut inner = self.lock();
        // One that is not there is removed already.
        let Ok(docker_id) = inner.find(key.as_str()) else { return Ok(()) };
        if inner.containers[&docker_id].runs() && !how.force {
            return Err(error(AgentErrorCode::InUse, "it runs"));
        }
        inner.rm(&docker_id);
        Ok(())
    }

    pub(super) fn inspect(&self, key: &ContainerKey) -> Answer<serde_json::Value> {
        let mut inner = self.lock();
        let held = inner.held(key.as_str())?;
        Ok(
            serde_json::json!({ "Id": held.observed.docker_id, "Name": format!("/{}", held.observed.name), "Config": { "Image": held.observed.image } }),
        )
    }

    /// The lines that are there, and where asked for the ones to come.
    pub(super) fn logs(&self, key: &ContainerKey, query: &LogQuery) -> Answer<(Vec<LogLine>, Option<UnboundedReceiver<LogLine>>)> {
        let mut inner = self.lock();
        let held = inner.held(key.as_str())?;
        let wanted = |l: &&LogLine| match l.stream {
            LogStream::Stdout => query.stdout,
            LogStream::Stderr => query.stderr,
        };
        let in_time = |l: &&LogLine| query.since.is_none_or(|s| l.time.0 >= s) && query.until.is_none_or(|u| l.time.0 <= u);
        let mut lines: Vec<LogLine> = held.log.iter().filter(wanted).filter(in_time).cloned().collect();
        if let Some(tail) = query.tail {
            lines.drain(..lines.len().saturating_sub(tail as usize));
        }
        let follow = (query.follow && held.runs()).then(|| {
            let (sender, receiver) = unbounded_channel();
            held.log_readers.push(sender);
            receiver
        });
        Ok((lines, follow))
    }

    pub(super) fn stats(&self, key: &ContainerKey, limit: u32) -> Answer<Vec<ContainerStats>> {
        let mut inner = self.lock();
        let samples = &inner.held(key.as_str())?.samples;
        Ok(samples[samples.len().saturating_sub(limit as usize)..].to_vec())
    }

    pub(super) fn follow_stats(&self, key: &ContainerKey) -> Answer<UnboundedReceiver<ContainerStats>> {
        let (sender, receiver) = unbounded_channel();
        let mut inner = self.lock();
        let held = inner.held(key.as_str())?;
        if held.runs() {
            held.sample_readers.push(sender);
        }
        Ok(receiver)
    }

    /// Refuses what needs a running container.
    pub(super) fn require_running(&self, key: &ContainerKey) -> Answer<()> {
        let mut inner = self.lock();
        let held = inner.held(key.as_str())?;
        match held.observed.status {
            ContainerStatus::Running => Ok(()),
            ContainerStatus::Paused => Err(error(
                AgentErrorCode::Paused,
                format!("container `{}` is paused", held.observed.name),
            )),
            ContainerStatus::Created | ContainerStatus::Stopped | ContainerStatus::Exited => Err(error(
                AgentErrorCode::NotRunning,
                format!("container `{}` does not run: start it first", held.observed.name),
            )),
        }
    }

    pub(super) fn unpack(&self, key: &ContainerKey, path: String, bytes: usize) -> Answer<()> {
        self.lock().held(key.as_str())?.files.insert(path, bytes);
        Ok(())
    }

    pub(super) fn containers(&self) -> Vec<Seen> {
        let seen = |c: &Held| Seen {
            observed: c.observed.clone(),
            spec: c.spec.clone(),
            operation: c.operation.clone(),
        };
        self.lock().containers.values().map(seen).collect()
    }
    /// The container with this id of Docker's or ours, or this name.
    pub(super) fn observed(&self, key: &str) -> ObservedContainer {
        self.lock().held(key).expect("it is there").observed.clone()
    }
    pub(super) fn files(&self, id: &ContainerId) -> Vec<(String, usize)> {
        self.lock()
            .held(id.as_str())
            .expect("it is there")
            .files
            .iter()
            .map(|(path, bytes)| (path.clone(), *bytes))
            .collect()
    }
}
