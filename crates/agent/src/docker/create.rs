//! Making a container: once, however often it is asked for, and nothing left behind where it fails.

use super::client::{Call, DockerError, segment};
use super::hub::{Facts, Record};
use super::observe::policy_text;
use super::wire::{
    ConnectBody, CreateBody, Created, Device, Empty, EndpointConfig, Healthcheck, HostConfig, Mount, NetworkingConfig, PortBinding,
    RestartPolicy,
};
use super::{Docker, explain, grace};
use crate::fence::Desired;
use crate::privileges::Asked;
use crate::progress::Reporter;
use nm_link::contract::{AgentError, AgentErrorCode as Code, ContainerKey, CreateContainer, built_in, labels};
use nm_types::container::{ContainerSpec, ContainerStatus, HealthCheck, MountSource, ObservedContainer, PortMapping, Protocol, VolumeMode};
use std::collections::BTreeMap;
use std::time::Duration;

/// Copying an image's files into a new volume is part of creating.
const CREATE_DEADLINE: Duration = Duration::from_secs(120);
const START_DEADLINE: Duration = Duration::from_secs(120);

impl Docker {
    /// Makes the container of `request`, or finds the one made before. Once past the pull it runs to its end even when nobody
    /// listens any more: half a container helps no one.
    pub async fn create(&self, request: CreateContainer, report: &Reporter<ObservedContainer>) -> Result<ObservedContainer, AgentError> {
        if let Some(problem) = request.spec.overlong().into_iter().chain(request.spec.problems()).next() {
            return Err(AgentError::new(Code::Invalid, format!("{}: {}.", problem.field, problem.message)).field(problem.field));
        }
        let facts = self.engine().await?;
        within_node(&request.spec, &facts)?;
        let judged = self.judged(&request.spec, &facts).await?;
        let _lock = self.locks.lock(&request.id).await;
        let desired = if request.start { Desired::Running } else { Desired::Created };
        self.fence.accept(&request.id, request.generation, super::hub::now(), |_| {
            (desired, request.spec.name.clone())
        })?;
        let result = self.create_once(&request, judged, report).await;
        let key = ContainerKey::Ours(request.id.clone());
        if result.is_err() && self.hub.find(&key).is_none() {
            self.fence.note(&request.id, Desired::Removed, super::hub::now())?;
        }
        result
    }

    /// What the node gives to a container of this spec.
    pub(super) async fn judged(&self, spec: &ContainerSpec, facts: &Facts) -> Result<Judged, AgentError> {
        Ok(Judged {
            devices: self.judged_devices(spec).await?,
            binds: self.binds(spec, facts).await?,
        })
    }

    async fn create_once(
        &self,
        request: &CreateContainer,
        judged: Judged,
        report: &Reporter<ObservedContainer>,
    ) -> Result<ObservedContainer, AgentError> {
        if let Some(existing) = self.hub.find(&ContainerKey::Ours(request.id.clone())) {
            return self.adopt(request, existing, report).await;
        }
        self.check_networks(&request.spec).await?;
        let body = body(request, judged);
        let _busy = self.hub.busy(request.id.as_str());
        let mut pulled = false;
        let (docker_id, _permit) = loop {
            let permit = self.permit().await;
            report.step("create").await;
            match self.make(&request.spec.name.docker_name(), &body).await {
                Ok(id) => break (id, permit),
                Err(Refusal::NoImage) if !pulled => {
                    drop(permit);
                    self.fetch(request, report).await?;
                    pulled = true;
                }
                Err(Refusal::NoImage) => {
                    let text = format!(
                        "The image `{}` was pulled and is gone again: it was removed meanwhile.",
                        request.spec.image
                    );
                    return Err(AgentError::new(Code::ImageNotFound, text).field("image"));
                }
                Err(Refusal::NameHeld(holder)) => {
                    drop(permit);
                    return self.held_name(request, holder, report).await;
                }
                Err(Refusal::Other(e)) => return Err(e),
            }
        };
        match self
            .finish(request, &docker_id, request.spec.networks.get(1..).unwrap_or_default(), report)
            .await
        {
            Ok(record) => Ok(record.observed),
            Err(error) => {
                self.take_back(request, &docker_id).await;
                Err(error)
            }
        }
    }

    /// Gets the image that is missing: one of our own is built here, any other one is pulled.
    async fn fetch(&self, request: &CreateContainer, report: &Reporter<ObservedContainer>) -> Result<(), AgentError> {
        let image = &request.spec.image;
        if built_in::context(image.as_str()).is_some() || built_in::is_of_another_version(image.as_str()) {
            report.step("build").await;
            return self.build(image, report).await;
        }
        report.step("pull").await;
        self.pull(image, request.registry.as_ref(), report).await
    }

    pub(super) async fn make(&self, docker_name: &str, body: &CreateBody) -> Result<String, Refusal> {
        let call = Call::post("create a container", "/containers/create")
            .query("name", docker_name)
            .deadline(CREATE_DEADLINE);
        let created: Result<Created, DockerError> = match call.json(body) {
            Ok(call) => self.client.json(call).await,
            Err(e) => Err(e),
        };
        match created {
            Ok(created) => Ok(created.id),
            Err(DockerError::Refused { status: 404, message }) if message.to_ascii_lowercase().contains("no such image") => {
                Err(Refusal::NoImage)
            }
            Err(DockerError::Refused { status: 409, message }) if message.contains("is already in use by container") => {
                let holder = message
                    .split("by container \"")
                    .nth(1)
                    .and_then(|rest| rest.split('"').next())
                    .unwrap_or_default();
                Err(Refusal::NameHeld(holder.to_owned()))
            }
            Err(DockerError::Refused { message, .. }) if message.contains("CapAdd") => Err(Refusal::Other(
                AgentError::new(Code::Invalid, explain::sentence(&message)).field("capAdd"),
            )),
            Err(DockerError::Refused { message, .. }) if message.contains("CapDrop") => Err(Refusal::Other(
                AgentError::new(Code::Invalid, explain::sentence(&message)).field("capDrop"),
            )),
            Err(e) => Err(Refusal::Other(self.explain(e))),
        }
    }

    /// Joins the networks that creating could not, starts it where asked, and looks at what came of it.
    async fn finish(
        &self,
        request: &CreateContainer,
        docker_id: &str,
        networks: &[nm_types::text::NetworkName],
        report: &Reporter<ObservedContainer>,
    ) -> Result<Record, AgentError> {
        for network in networks {
            let body = ConnectBody {
                container: docker_id,
                endpoint_config: endpoint(&request.spec, network.as_str()),
            };
            let call = Call::post(
                "attach a container to a network",
                format!("/networks/{}/connect", segment(network.as_str())),
            )
            .json(&body)
            .map_err(|e| self.explain(e))?;
            self.client.done(call).await.map_err(|e| self.explain(e))?;
        }
        if request.start {
            report.step("start").await;
            let volumes = request.spec.volumes.iter().filter_map(|mount| match &mount.host {
                Some(MountSource::Volume(name)) => Some(name.as_str()),
                Some(MountSource::Path(_)) | None => None,
            });
            self.none_replaced(volumes)?;
            self.start_now(docker_id, Some(&request.spec.ports)).await?;
        }
        self.look_after_start(docker_id, request.start).await
    }

    /// The container after a create or start. One that has ended already, badly, has its last log lines with it.
    pub(super) async fn look_after_start(&self, docker_id: &str, started: bool) -> Result<Record, AgentError> {
        let gone = || {
            AgentError::new(
                Code::ContainerNotFound,
                "The container is gone again: somebody removed it meanwhile.",
            )
        };
        let record = self.look_now(docker_id).await.map_err(|e| self.explain(e))?.ok_or_else(gone)?;
        if !started || !record.detail.failed_at_once {
            return Ok(record);
        }
        let tail = self.tail(docker_id).await.map_err(|e| self.explain(e))?;
        self.hub.set_tail(docker_id, record.observed.finished, tail);
        self.look_now(docker_id).await.map_err(|e| self.explain(e))?.ok_or_else(gone)
    }

    /// Starts it; what keeps it from starting is put in words. `ports` are those of its spec, where that is at hand.
    pub(super) async fn start_now(&self, docker_id: &str, ports: Option<&[PortMapping]>) -> Result<(), AgentError> {
        let call = Call::post("start a container", format!("/containers/{docker_id}/start")).deadline(START_DEADLINE);
        let Err(error) = self.client.done(call).await else { return Ok(()) };
        let DockerError::Refused { status, message } = &error else {
            return Err(self.explain(error));
        };
        let Some(port) = explain::taken_port(message) else {
            return Err(explain::refused(*status, message));
        };
        let mapping = ports
            .and_then(|ports| ports.iter().enumerate().find(|(_, p)| p.host == port))
            .map(|(i, p)| (i, p.protocol));
        let protocol = mapping.map(|(_, protocol)| protocol);
        let holder = match self.hub.port_holder(port, protocol, docker_id) {
            Some(name) => format!(" by the container `{name}`"),
            None => {
                let udp = protocol == Some(Protocol::Udp);
                let found = tokio::task::spawn_blocking(move || super::ports::holder(port, udp)).await;
                found.ok().flatten().map(|process| format!(" by {process}")).unwrap_or_default()
            }
        };
        let text = format!("Port {port} of the node is already in use{holder}: choose another host port, or 0 to have one chosen.");
        let error = AgentError::new(Code::PortInUse, text);
        Err(error.field(mapping.map_or_else(|| "ports".to_owned(), |(i, _)| format!("ports[{i}].host"))))
    }

    /// Takes away what a failed create made, with its anonymous volumes.
    async fn take_back(&self, request: &CreateContainer, docker_id: &str) {
        let call = Call::delete("remove a container", format!("/containers/{docker_id}"))
            .flag("force", true)
            .flag("v", true)
            .deadline(START_DEADLINE);
        match self.client.done(call).await {
            Ok(()) | Err(DockerError::Refused { status: 404, .. }) => self.hub.removed(docker_id),
            // It carries our labels: asked again, the create finds it; and watchers see it.
            Err(error) => {
                tracing::error!(container.id = %request.id, docker.id = %docker_id, %error, "what a failed create made could not be removed")
            }
        }
    }

    /// One of that id is there: from an earlier attempt, whose answer was lost.
    async fn adopt(
        &self,
        request: &CreateContainer,
        existing: Record,
        report: &Reporter<ObservedContainer>,
    ) -> Result<ObservedContainer, AgentError> {
        let docker_id = existing.observed.docker_id.clone();
        report.log("found the container that an earlier attempt made").await;
        let missing: Vec<_> = request
            .spec
            .networks
            .iter()
            .filter(|n| !existing.observed.networks.iter().any(|a| a.network == n.as_str()))
            .cloned()
            .collect();
        // One that has ended was started: asked twice, it does not run twice.
        let start = request.start && existing.observed.status == ContainerStatus::Created;
        if missing.is_empty() && !start {
            return Ok(existing.observed);
        }
        let _busy = self.hub.busy(&docker_id);
        let _permit = self.permit().await;
        let request = CreateContainer { start, ..request.clone() };
        Ok(self.finish(&request, &docker_id, &missing, report).await?.observed)
    }

    /// The name is taken: by an earlier attempt of ours that no event told of yet, or by somebody else's container.
    async fn held_name(
        &self,
        request: &CreateContainer,
        holder: String,
        report: &Reporter<ObservedContainer>,
    ) -> Result<ObservedContainer, AgentError> {
        let record = if holder.is_empty() {
            None
        } else {
            self.look_now(&holder).await.map_err(|e| self.explain(e))?
        };
        match record {
            Some(record) if record.observed.id.as_ref() == Some(&request.id) => self.adopt(request, record, report).await,
            other => {
                let whose = match other {
                    Some(r) if r.observed.id.is_none() => " (it was not made by NeuralMesh)",
                    _ => "",
                };
                let text = format!(
                    "The node already has a container named `{}`{whose}: choose another name, or remove that one.",
                    request.spec.name.docker_name()
                );
                Err(AgentError::new(Code::NameTaken, text).field("name"))
            }
        }
    }

    async fn check_networks(&self, spec: &ContainerSpec) -> Result<(), AgentError> {
        for (i, network) in spec.networks.iter().enumerate() {
            self.known_network(network.as_str()).await.map_err(|e| match e.code {
                Code::NetworkNotFound => AgentError::new(e.code, format!("The node has no network `{network}`: create it first."))
                    .field(format!("networks[{i}]")),
                _ => e,
            })?;
        }
        Ok(())
    }

    /// The spec's mounts as Docker's `Binds`, each judged by the node's policy, with the real path of the node.
    async fn binds(&self, spec: &ContainerSpec, facts: &Facts) -> Result<Vec<String>, AgentError> {
        if spec.volumes.is_empty() {
            return Ok(Vec::new());
        }
        let behind = self.behind_volumes(spec).await?;
        let (docker, volumes, root) = (self.clone(), spec.volumes.clone(), facts.root_dir.clone());
        // It looks at the disk.
        let judged = tokio::task::spawn_blocking(move || {
            for (i, path) in behind {
                let judged = docker.policy.check(&path, &root);
                judged.map_err(|e| e.field(format!("volumes[{i}].host")))?;
            }
            let mut out = Vec::with_capacity(volumes.len());
            for (i, volume) in volumes.iter().enumerate() {
                let mode = match volume.mode {
                    VolumeMode::Ro => "ro",
                    VolumeMode::Rw => "rw",
                };
                match &volume.host {
                    Some(MountSource::Path(path)) => {
                        let real = docker
                            .policy
                            .check(path, &root)
                            .map_err(|e| e.field(format!("volumes[{i}].host")))?;
                        out.push(format!("{real}:{}:{mode}", volume.container));
                    }
                    Some(MountSource::Volume(name)) => out.push(format!("{name}:{}:{mode}", volume.container)),
                    // Anonymous: a mount without a source, see `body`.
                    None => {}
                }
            }
            Ok(out)
        });
        judged
            .await
            .map_err(|e| AgentError::new(Code::Internal, format!("The mounts could not be judged: {e}.")))?
    }

    /// The paths of this machine that named volumes of the spec are in truth: somebody made them in Docker with the option
    /// `device`. With the number of each in the spec.
    async fn behind_volumes(&self, spec: &ContainerSpec) -> Result<Vec<(usize, String)>, AgentError> {
        let mut out = Vec::new();
        for (i, volume) in spec.volumes.iter().enumerate() {
            let Some(MountSource::Volume(name)) = &volume.host else { continue };
            let found = self.volume(name.as_str()).await.map_err(|e| self.explain(e))?;
            let device = found.and_then(|volume| volume.options.get("device").cloned());
            out.extend(device.filter(|device| device.starts_with('/')).map(|device| (i, device)));
        }
        Ok(out)
    }

    /// The spec's devices, each where it really is, once the node's policy has let the container have all it asks for.
    async fn judged_devices(&self, spec: &ContainerSpec) -> Result<Vec<Device>, AgentError> {
        let asked = Asked::of(spec);
        if asked == Asked::default() {
            return Ok(Vec::new());
        }
        let (docker, mappings) = (self.clone(), spec.devices.clone());
        // It looks at the disk.
        let judged = tokio::task::spawn_blocking(move || {
            let real = docker.privileges.check(&asked)?;
            let devices = mappings.iter().zip(real).map(|(mapping, real)| Device {
                path_on_host: real,
                path_in_container: mapping.container.as_ref().unwrap_or(&mapping.host).to_string(),
                cgroup_permissions: mapping.access.as_ref().map_or_else(|| "rwm".to_owned(), ToString::to_string),
            });
            Ok(devices.collect())
        });
        judged
            .await
            .map_err(|e| AgentError::new(Code::Internal, format!("The devices could not be judged: {e}.")))?
    }

    /// Judges anew what a container of ours has of the node, before it starts again: its mounts and its privileges.
    pub(super) async fn recheck(&self, record: &Record) -> Result<(), AgentError> {
        self.none_replaced(record.detail.volumes.iter().map(String::as_str))?;
        if record.observed.id.is_none() {
            return Ok(());
        }
        if record.detail.privileges != Asked::default() {
            let (docker, asked) = (self.clone(), record.detail.privileges.clone());
            let judged = tokio::task::spawn_blocking(move || docker.privileges.check(&asked).map(drop));
            judged
                .await
                .map_err(|e| AgentError::new(Code::Internal, format!("The privileges could not be judged: {e}.")))??;
        }
        if record.detail.binds.is_empty() {
            return Ok(());
        }
        let facts = self.engine().await?;
        let (docker, binds) = (self.clone(), record.detail.binds.clone());
        let judged = tokio::task::spawn_blocking(move || {
            binds
                .iter()
                .try_for_each(|path| docker.policy.check(path, &facts.root_dir).map(drop))
        });
        judged
            .await
            .map_err(|e| AgentError::new(Code::Internal, format!("The mounts could not be judged: {e}.")))?
    }
}

/// What of the node a container gets, once it was judged.
pub(super) struct Judged {
    /// As Docker's `Binds`.
    binds: Vec<String>,
    devices: Vec<Device>,
}

pub(super) enum Refusal {
    NoImage,
    /// The Docker id of the container that has the name.
    NameHeld(String),
    Other(AgentError),
}

/// Whether the node has what the limits allow: a limit above the machine is a mistake, and Docker says so less clearly.
pub(super) fn within_limits(
    cpu: Option<nm_types::units::CpuLimit>,
    memory: Option<&nm_types::units::MemoryLimit>,
    facts: &Facts,
) -> Result<(), AgentError> {
    if let Some(cpu) = cpu
        && cpu.cores() > f64::from(facts.cpus)
    {
        let text = format!(
            "cpuLimit is {} cores and the node has {}: ask for at most that, or choose another node.",
            cpu.cores(),
            facts.cpus
        );
        return Err(AgentError::new(Code::InsufficientResources, text).field("cpuLimit"));
    }
    if let Some(memory) = memory
        && memory.bytes() > facts.memory
    {
        let text = format!(
            "memoryLimit is {memory} and the node has {}m: ask for at most that, or choose another node.",
            facts.memory >> 20
        );
        return Err(AgentError::new(Code::InsufficientResources, text).field("memoryLimit"));
    }
    Ok(())
}

pub(super) fn within_node(spec: &ContainerSpec, facts: &Facts) -> Result<(), AgentError> {
    within_limits(spec.cpu_limit, spec.memory_limit.as_ref(), facts)
}

/// On networks of users, containers find each other by the name users gave; Docker adds its own by itself.
fn endpoint(spec: &ContainerSpec, network: &str) -> Option<EndpointConfig> {
    let needed = network != "bridge" && spec.name.docker_name() != spec.name.as_str();
    needed.then(|| EndpointConfig {
        aliases: vec![spec.name.to_string()],
    })
}

pub(super) fn body(request: &CreateContainer, judged: Judged) -> CreateBody {
    let spec = &request.spec;
    let words = |all: &[nm_types::text::Word]| all.iter().map(|w| w.as_str().to_owned()).collect::<Vec<_>>();
    let mut all_labels: BTreeMap<String, String> = spec.labels.0.iter().map(|(k, v)| (k.to_string(), v.as_str().to_owned())).collect();
    all_labels.insert(labels::ID.to_owned(), request.id.to_string());
    all_labels.insert(labels::OPERATION.to_owned(), request.operation.to_string());
    all_labels.insert(labels::NAME.to_owned(), spec.name.to_string());
    if let Some(grace) = spec.stop_grace {
        all_labels.insert(labels::STOP_GRACE.to_owned(), grace.get().to_string());
    }
    let mut exposed_ports = BTreeMap::new();
    let mut port_bindings: BTreeMap<String, Vec<PortBinding>> = BTreeMap::new();
    for port in &spec.ports {
        let protocol = match port.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        let key = format!("{}/{protocol}", port.container);
        exposed_ports.insert(key.clone(), Empty {});
        port_bindings.entry(key).or_default().push(PortBinding {
            host_ip: port.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
            host_port: if port.host == 0 { String::new() } else { port.host.to_string() },
        });
    }
    let anonymous = spec.volumes.iter().filter(|v| v.host.is_none());
    let first = spec.networks.first();
    CreateBody {
        image: spec.image.with_tag(),
        cmd: words(&spec.command),
        entrypoint: words(&spec.entrypoint),
        env: spec.environment.0.iter().map(|(k, v)| format!("{k}={}", v.as_str())).collect(),
        labels: all_labels,
        exposed_ports,
        user: spec.user.as_ref().map(ToString::to_string),
        working_dir: spec.working_dir.as_ref().map(ToString::to_string),
        hostname: spec.hostname.as_ref().map(ToString::to_string),
        healthcheck: spec.health_check.as_ref().map(health),
        stop_timeout: spec.stop_grace.map(|g| grace::kept(g.get())),
        tty: spec.tty,
        host_config: HostConfig {
            port_bindings,
            binds: judged.binds,
            mounts: anonymous
                .map(|v| Mount {
                    target: v.container.to_string(),
                    kind: "volume",
                    read_only: v.mode == VolumeMode::Ro,
                })
                .collect(),
            nano_cpus: spec.cpu_limit.map(|c| c.nano_cpus()),
            memory: spec.memory_limit.as_ref().map(|m| m.bytes()),
            restart_policy: RestartPolicy {
                name: policy_text(spec.restart),
            },
            network_mode: if spec.host_network {
                Some("host".to_owned())
            } else {
                first.map(ToString::to_string)
            },
            cap_drop: spec.cap_drop.iter().map(ToString::to_string).collect(),
            cap_add: spec.cap_add.iter().map(ToString::to_string).collect(),
            devices: judged.devices,
            privileged: spec.privileged,
            readonly_rootfs: spec.read_only,
            ..HostConfig::default()
        },
        networking_config: first.and_then(|n| {
            endpoint(spec, n.as_str()).map(|e| NetworkingConfig {
                endpoints_config: [(n.to_string(), e)].into(),
            })
        }),
    }
}

fn health(check: &HealthCheck) -> Healthcheck {
    let nanos = |seconds: i64| seconds * 1_000_000_000;
    let words = check.command.iter().map(|w| w.as_str().to_owned());
    Healthcheck {
        test: std::iter::once("CMD".to_owned()).chain(words).collect(),
        interval: check.interval.map(|s| nanos(s.get())),
        timeout: check.timeout.map(|s| nanos(s.get())),
        retries: check.retries.map(|n| n.get()),
        start_period: check.start_period.map(|s| nanos(s.get())),
    }
}
