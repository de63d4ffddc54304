//! Older copies of containers, on nodes they were moved off: each is to be stopped and removed there.
//!
//! A copy is written down in the transaction that moves its container, and crossed out once its node said that it is gone. So
//! whatever dies in between, and for however long the node is away, in the end one copy runs. Only what stands here is removed:
//! a container that merely claims one of our ids is not.

use crate::api::error::{ApiError, ApiResult};
use crate::service::clock::SharedClock;
use crate::service::fleet::{CallError, Fleet};
use crate::service::index::Index;
use crate::service::locks::Locks;
use nm_link::contract::{Action, AgentErrorCode, Command, ContainerKey, RemoveContainer, path};
use nm_store::{Kind, NewResource, Resource, Store, StoreError, Tx};
use nm_types::container::ObservedContainer;
use nm_types::{ContainerId, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};
use std::time::Duration;

/// One copy: the row's spec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Leftover {
    pub node: NodeId,
    pub container: ContainerId,
    pub name: String,
    /// Of the container once it was moved: the node refuses older commands from then on.
    pub generation: i64,
    /// Seconds between the stop signal and the kill.
    pub grace: i64,
}

impl Leftover {
    fn row_id(&self) -> String {
        row_id(&self.node, &self.container)
    }
}

fn row_id(node: &NodeId, container: &ContainerId) -> String {
    format!("{container}@{node}")
}

type Table = BTreeMap<(NodeId, ContainerId), Leftover>;

/// All that is left over. Cheap to clone.
#[derive(Clone)]
pub struct Leftovers {
    store: Store,
    clock: SharedClock,
    fleet: Fleet,
    index: Index,
    known: Arc<RwLock<Table>>,
    locks: Locks<(NodeId, ContainerId)>,
}

impl Leftovers {
    pub fn new(store: Store, clock: SharedClock, fleet: Fleet, index: Index) -> Self {
        Self {
            store,
            clock,
            fleet,
            index,
            known: Arc::default(),
            locks: Locks::default(),
        }
    }

    /// Reads them from the store.
    pub async fn load(&self) -> ApiResult<()> {
        for row in self.store.all(Kind::Leftover).await? {
            self.noted(row.spec()?);
        }
        Ok(())
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Table> {
        self.known.read().unwrap_or_else(|e| e.into_inner())
    }
    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Table> {
        self.known.write().unwrap_or_else(|e| e.into_inner())
    }

    pub fn has(&self, node: &NodeId, container: &ContainerId) -> bool {
        self.read().contains_key(&(node.clone(), container.clone()))
    }
    pub fn on_node(&self, node: &NodeId) -> Vec<Leftover> {
        self.read().values().filter(|l| l.node == *node).cloned().collect()
    }

    /// Writes one down. [`Leftovers::noted`] makes it known, in the same transaction and before the container's own record says
    /// that it is elsewhere.
    pub async fn note(&self, tx: &mut Tx, leftover: &Leftover) -> Result<Resource, StoreError> {
        let row = NewResource::new(Kind::Leftover, leftover.row_id())
            .named(&*leftover.name)
            .within(leftover.node.as_str())
            .spec(leftover)?;
        tx.put(row).await
    }

    pub fn noted(&self, leftover: Leftover) {
        let key = (leftover.node.clone(), leftover.container.clone());
        self.write().insert(key, leftover);
    }

    /// Stops and removes one copy, and crosses it out. Nothing to do where it is not there.
    pub async fn clear(&self, node: &NodeId, container: &ContainerId) -> ApiResult<()> {
        let key = (node.clone(), container.clone());
        let _held = self.locks.hold(key.clone()).await;
        let Some(leftover) = self.read().get(&key).cloned() else {
            return Ok(());
        };
        let agent = self.fleet.agent(node)?;
        let target = ContainerKey::Ours(container.clone());
        let stop = Command {
            generation: leftover.generation,
            action: Action::Stop {
                grace: Some(leftover.grace),
            },
        };
        let grace = Duration::from_secs(u64::try_from(leftover.grace).unwrap_or_default());
        let stopped = agent
            .post::<ObservedContainer>(&path::keyed(path::COMMAND, &target), &stop, grace)
            .await;
        match stopped {
            Ok(_) => {}
            Err(CallError::Refused(e)) if e.code == AgentErrorCode::ContainerNotFound => {}
            // The removal below ends it with force.
            Err(CallError::Refused(error)) => {
                tracing::warn!(node.id = %node, container.id = %container, error = %error.message, "an older copy could not be stopped gently");
            }
            Err(error) => return Err(error.into()),
        }
        // Without its anonymous volumes: what it wrote there exists nowhere else.
        let how = RemoveContainer {
            force: true,
            volumes: false,
        };
        let removed = agent
            .post::<serde_json::Value>(&path::keyed(path::REMOVE, &target), &how, Duration::from_secs(30))
            .await;
        match removed {
            Ok(_) => {}
            Err(CallError::Refused(e)) if e.code == AgentErrorCode::ContainerNotFound => {}
            Err(error) => return Err(ApiError::from(error)),
        }
        self.index.copy_removed(node, container);
        let mut tx = self.store.begin(self.clock.now()).await?;
        match tx.delete(Kind::Leftover, &leftover.row_id()).await {
            Ok(_) | Err(StoreError::NotFound { .. }) => {}
            Err(e) => return Err(e.into()),
        }
        tx.commit().await?;
        self.write().remove(&key);
        self.index.room().notify_one();
        tracing::info!(node.id = %node, container.id = %container, "an older copy of a container was removed");
        Ok(())
    }

    /// The node leaves the fleet, and what is on it is no longer ours.
    pub async fn forget_node(&self, tx: &mut Tx, node: &NodeId) -> Result<(), StoreError> {
        for leftover in self.on_node(node) {
            match tx.delete(Kind::Leftover, &leftover.row_id()).await {
                Ok(_) | Err(StoreError::NotFound { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
    pub fn forgot_node(&self, node: &NodeId) {
        self.write().retain(|(n, _), _| n != node);
    }
}
