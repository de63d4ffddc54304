//! The node's Docker engine.
//!
//! - [`client`]: HTTP over its socket. [`wire`]: its bodies. [`explain`]: its refusals as sentences.
//! - [`hub`]: what is known of it, and the watch streams. [`session`]: keeps that true by events. [`observe`]: one container.
//! - [`create`], [`commands`], [`pull`], [`images`], [`volumes`], [`networks`]: what is asked of it.
//! - [`task`]: containers of tasks.
//! - [`logs`], [`exec`], [`pipe`], [`terminal`], [`archive`]: streams; [`frames`] reads Docker's own framing.

pub mod archive;
pub mod build;
pub mod client;
pub mod commands;
pub mod create;
pub mod exec;
pub mod explain;
pub mod frames;
mod grace;
pub mod hub;
pub mod images;
pub mod logs;
pub mod networks;
pub mod observe;
pub mod pipe;
pub mod ports;
pub mod pull;
pub mod replacing;
pub mod session;
pub mod task;
pub mod terminal;
pub mod volumes;
pub mod wire;

use crate::fence::Fence;
use crate::policy::BindPolicy;
use crate::privileges::Privileges;
use client::{Call, Client, DockerError};
use hub::{Engine, Facts, Hub, Record};
use nm_link::contract::{AgentError, AgentErrorCode as Code, ContainerKey, labels};
use nm_types::ContainerId;
use replacing::Replaced;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{OwnedMutexGuard, Semaphore, SemaphorePermit};

/// Changes carried out by the engine at once: more gain nothing, it only makes each slower.
const MUTATIONS: usize = 8;
/// Stops at once. They mostly wait for a program to end, so they have their own, wider gate and never block a create.
const STOPS: usize = 64;
/// Pulls at once; the engine shares layers among them by itself.
const PULLS: usize = 4;
/// Looks at containers at once, on account of events.
const LOOKS: usize = 8;
/// How long a request waits for an agent that has just started to reach its engine.
const FIRST_CONTACT: Duration = Duration::from_secs(20);

/// The engine, and everything a request needs to work on it. Cheap to clone.
#[derive(Clone)]
pub struct Docker {
    inner: Arc<Inner>,
}

pub struct Inner {
    pub client: Client,
    pub hub: Arc<Hub>,
    pub socket: String,
    fence: Arc<Fence>,
    policy: BindPolicy,
    privileges: Privileges,
    mutations: Semaphore,
    stops: Semaphore,
    pulls: Semaphore,
    locks: Locks,
    replaced: Replaced,
    /// By image, the label of ours that it has.
    image_labels: Mutex<HashMap<String, Option<String>>>,
}

impl std::ops::Deref for Docker {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.inner
    }
}

impl Docker {
    pub fn new(socket: &std::path::Path, hub: Arc<Hub>, fence: Arc<Fence>, policy: BindPolicy, privileges: Privileges) -> Self {
        let inner = Inner {
            client: Client::new(socket),
            hub,
            socket: socket.display().to_string(),
            fence,
            policy,
            privileges,
            mutations: Semaphore::new(MUTATIONS),
            stops: Semaphore::new(STOPS),
            pulls: Semaphore::new(PULLS),
            locks: Locks::default(),
            replaced: Replaced::default(),
            image_labels: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The engine, once everything on it is known; while it is away, an error that says so at once.
    pub async fn engine(&self) -> Result<Arc<Facts>, AgentError> {
        let mut engine = self.hub.engine();
        let known = async {
            loop {
                match &*engine.borrow_and_update() {
                    Engine::Connecting => {}
                    Engine::Up(facts) => return Ok(facts.clone()),
                    Engine::Down(why) => {
                        self.hub.nudge.notify_one();
                        return Err(AgentError::new(Code::DockerUnavailable, why.to_string()));
                    }
                }
                if engine.changed().await.is_err() {
                    return Err(AgentError::new(Code::DockerUnavailable, "The agent is stopping."));
                }
            }
        };
        match tokio::time::timeout(FIRST_CONTACT, known).await {
            Ok(result) => result,
            Err(_) => Err(AgentError::new(
                Code::DockerUnavailable,
                explain::absent(&self.socket, "no answer yet"),
            )),
        }
    }

    /// Where a path that a backup is to read or write really leads, or why it may not.
    pub async fn backup_path(&self, path: &str) -> Result<String, AgentError> {
        // Docker need not be there; its folder is known once it was.
        let root = match &*self.hub.engine().borrow() {
            Engine::Up(facts) => facts.root_dir.clone(),
            Engine::Connecting | Engine::Down(_) => "/var/lib/docker".to_owned(),
        };
        let (docker, path) = (self.clone(), path.to_owned());
        let judged = tokio::task::spawn_blocking(move || docker.policy.check_backup(&path, &root));
        judged
            .await
            .map_err(|e| AgentError::new(Code::Internal, format!("The agent failed: {e}.")))?
    }

    pub fn explain(&self, error: DockerError) -> AgentError {
        explain::explain(error, &self.socket)
    }

    /// Leave to change something; given in the order of asking.
    async fn permit(&self) -> SemaphorePermit<'_> {
        acquire(&self.mutations).await
    }

    /// Carries out one change.
    async fn change(&self, call: Call) -> Result<(), DockerError> {
        let _permit = self.permit().await;
        self.client.done(call).await
    }

    /// The container of that key. One that Docker has and no event told of yet is found too.
    pub async fn resolve(&self, key: &ContainerKey) -> Result<Record, AgentError> {
        self.engine().await?;
        if let Some(record) = self.hub.find(key) {
            return Ok(record);
        }
        let record = match key {
            ContainerKey::Docker(id) => self.look_now(id).await,
            ContainerKey::Ours(id) => self.find_by_label(id).await,
        };
        let record = record.map_err(|e| self.explain(e))?;
        record.ok_or_else(|| AgentError::new(Code::ContainerNotFound, format!("The node has no container {}.", key.as_str())))
    }

    /// The one that is marked so; not one that has the label of its image.
    async fn find_by_label(&self, id: &ContainerId) -> Result<Option<Record>, DockerError> {
        let filters = serde_json::json!({ "label": [format!("{}={id}", labels::ID)] }).to_string();
        let call = Call::get("find a container", "/containers/json")
            .flag("all", true)
            .query("filters", filters);
        let found: Vec<wire::Listed> = self.client.json(call).await?;
        for listed in found {
            let record = self.look_now(&listed.id).await?;
            if let Some(record) = record.filter(|r| r.observed.id.as_ref() == Some(id)) {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }
}

async fn acquire(semaphore: &Semaphore) -> SemaphorePermit<'_> {
    match semaphore.acquire().await {
        Ok(permit) => permit,
        Err(_) => unreachable!("no semaphore of ours is ever closed"),
    }
}

/// One lock a container, for what must not happen twice at once: its creation and removal.
#[derive(Default)]
struct Locks {
    all: Mutex<HashMap<ContainerId, Weak<tokio::sync::Mutex<()>>>>,
}

impl Locks {
    async fn lock(&self, id: &ContainerId) -> OwnedMutexGuard<()> {
        let lock = {
            let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|_, lock| lock.strong_count() > 0);
            let known = all.get(id).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let lock = Arc::new(tokio::sync::Mutex::new(()));
                all.insert(id.clone(), Arc::downgrade(&lock));
                lock
            })
        };
        lock.lock_owned().await
    }
}
