//! What others do to a made-up machine, behind the control plane's back, and what a test makes it do.

use super::{BRIDGE, World, fresh_hex, now};
use nm_link::contract::{RegistryLogin, WatchEvent};
use nm_types::Timestamp;
use nm_types::container::{ContainerHealth, ContainerStatus, ForeignSpec, Limits, LogStream, ObservedContainer};
use nm_types::stats::{ContainerStats, Usage};
use nm_types::text::ImageRef;
use nm_types::units::MemoryLimit;

impl World {
    pub(in crate::agent) fn exit_at_once(&self, code: i64, lines: &[&str]) {
        self.lock().exit_at_once = Some((code, lines.iter().map(|l| (*l).to_owned()).collect()));
    }
    pub(in crate::agent) fn unknown_image(&self, image: &str) {
        let image = ImageRef::parse(image).expect("an image's name");
        self.lock().unknown_images.insert(image.with_tag());
    }
    pub(in crate::agent) fn last_login(&self) -> Option<RegistryLogin> {
        self.lock().last_login.clone()
    }
    pub(in crate::agent) fn run_foreign(&self, name: &str, image: &str, foreign: ForeignSpec) -> String {
        let docker_id = fresh_hex();
        let observed = ObservedContainer {
            docker_id: docker_id.clone(),
            id: None,
            name: name.into(),
            image: image.into(),
            status: ContainerStatus::Running,
            exit_code: None,
            oom_killed: false,
            message: None,
            health: None,
            // Such a container was there before anybody looked.
            created: Timestamp(now().0 - 3_600_000),
            started: Some(now()),
            finished: None,
            restarts: 0,
            ports: Vec::new(),
            networks: Vec::new(),
            limits: None,
            foreign: Some(foreign),
        };
        self.lock().put(observed, None, None, 0);
        docker_id
    }
    pub(in crate::agent) fn rm(&self, key: &str) {
        let mut inner = self.lock();
        let docker_id = inner.find(key).expect("it is there");
        inner.rm(&docker_id);
    }
    pub(in crate::agent) fn set_status(&self, key: &str, status: ContainerStatus) {
        let mut inner = self.lock();
        let docker_id = inner.find(key).expect("it is there");
        match status {
            ContainerStatus::Running if !inner.containers[&docker_id].runs() => inner.start(&docker_id).expect("it starts"),
            ContainerStatus::Running | ContainerStatus::Paused | ContainerStatus::Created => {
                inner.held(&docker_id).expect("it is there").observed.status = status;
            }
            ContainerStatus::Stopped => inner.held(&docker_id).expect("it is there").ended(status, 143),
            ContainerStatus::Exited => inner.held(&docker_id).expect("it is there").ended(status, 1),
        }
        inner.changed(&docker_id);
    }
    pub(in crate::agent) fn set_health(&self, key: &str, health: ContainerHealth) {
        let mut inner = self.lock();
        let docker_id = inner.find(key).expect("it is there");
        inner.held(&docker_id).expect("it is there").observed.health = Some(health);
        inner.changed(&docker_id);
    }
    pub(in crate::agent) fn set_address(&self, key: &str, ip: &str) {
        let mut inner = self.lock();
        let docker_id = inner.find(key).expect("it is there");
        let observed = &mut inner.held(&docker_id).expect("it is there").observed;
        observed.networks.first_mut().expect("it is on a network").ip = Some(ip.into());
        inner.changed(&docker_id);
    }
    pub(in crate::agent) fn rename(&self, key: &str, name: &str) {
        let mut inner = self.lock();
        let docker_id = inner.find(key).expect("it is there");
        inner.held(&docker_id).expect("it is there").observed.name = name.into();
        inner.changed(&docker_id);
    }
    pub(in crate::agent) fn update(&self, key: &str, limits: Limits) {
        let mut inner = self.lock();
        let docker_id = inner.find(key).expect("it is there");
        inner.held(&docker_id).expect("it is there").observed.limits = Some(limits);
        inner.changed(&docker_id);
    }
    pub(in crate::agent) fn write_line(&self, key: &str, stream: LogStream, line: &str) {
        self.lock().held(key).expect("it is there").write(stream, line);
    }
    pub(in crate::agent) fn sample(&self, key: &str, usage: Usage) {
        let mut inner = self.lock();
        let docker_id = inner.find(key).expect("it is there");
        let held = inner.held(&docker_id).expect("it is there");
        let limit = held.spec.as_ref().and_then(|s| s.memory_limit.as_ref()).map(MemoryLimit::bytes);
        let sample = ContainerStats {
            container_id: docker_id.clone(),
            cpu: usage.cpu,
            memory: usage.memory,
            memory_limit: limit.unwrap_or(8 << 30),
            network_rx: 1_524_887,
            network_tx: 892_345,
            block_read: 4096,
            block_write: 8192,
            pids: 3,
            oom_kills: 0,
            throttled_seconds: 0.0,
            timestamp: now(),
        };
        held.sample_readers.retain(|r| r.send(sample.clone()).is_ok());
        held.samples.push(sample);
        inner.tell(WatchEvent::Usage {
            samples: vec![(docker_id, usage)],
        });
    }
    pub(in crate::agent) fn docker_available(&self, available: bool) {
        let mut inner = self.lock();
        inner.info.docker.available = available;
        inner.info.docker.bridge = available.then_some(BRIDGE);
        inner.info.docker.error = (!available).then(|| "Docker's socket does not answer".to_owned());
        let docker = inner.info.docker.clone();
        inner.tell(WatchEvent::Docker { docker });
        if available {
            let snapshot = inner.snapshot();
            inner.tell(snapshot);
        }
    }
    pub(in crate::agent) fn claim(&self, observed: ObservedContainer) {
        let mut inner = self.lock();
        let heard = std::mem::take(&mut inner.watchers);
        inner.put(observed, None, None, 0);
        inner.watchers = heard;
    }
    pub(in crate::agent) fn tell(&self, event: WatchEvent) {
        self.lock().tell(event);
    }
    pub(in crate::agent) fn be_silent(&self) {
        self.lock().kept_back.get_or_insert_default();
    }
    pub(in crate::agent) fn speak(&self) {
        let mut inner = self.lock();
        for event in inner.kept_back.take().unwrap_or_default() {
            inner.tell(event);
        }
    }
}
