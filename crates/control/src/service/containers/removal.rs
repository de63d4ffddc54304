//! Containers: removed, also where a crash or a lost node is in the way.

use super::{Containers, require_settled, stale};
use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::Meta;
use crate::service::auth::Actor;
use crate::service::fleet::{CallError, is_passing, keyed};
use crate::service::index::{Phase, Record};
use crate::service::operations::WAIT;
use nm_link::contract::{AgentErrorCode, RemoveContainer, path};
use nm_store::{Kind, StoreError};
use nm_types::ContainerId;
use nm_types::container::ContainerStatus;
use std::time::Duration;

impl Containers {
    /// A container that is not there is removed already.
    pub(super) async fn remove_on_node(&self, record: &Record, force: bool, volumes: bool) -> ApiResult<()> {
        let agent = self.fleet.agent(&record.node)?;
        let (target, how) = (keyed(path::REMOVE, record), RemoveContainer { force, volumes });
        match agent.post::<serde_json::Value>(&target, &how, Duration::from_secs(30)).await {
            Ok(_) => Ok(()),
            Err(CallError::Refused(e)) if e.code == AgentErrorCode::ContainerNotFound => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a container. What a crash or a lost node leaves undone is done when the node is next heard of.
    pub async fn remove(&self, actor: &Actor, meta: &Meta, key: &str, force: bool, volumes: bool) -> ApiResult<ContainerId> {
        let record = self.find(key)?;
        if let Some(wanted) = meta.if_match
            && wanted != record.revision
        {
            return Err(stale(&record));
        }
        if let Phase::Creating { operation } = &record.state.phase {
            if !force {
                return Err(ApiError::conflict(
                    "being_created",
                    format!("container {} is still being made: wait, or use force=true", record.id),
                )
                .with_operation(operation.clone()));
            }
            let operation = operation.clone();
            if self.operations.cancel(&operation) {
                self.operations.wait(&operation, WAIT).await?;
            }
            if self.index.get(&record.id).is_none() {
                return Ok(record.id.clone());
            }
        }
        let _held = self.locks.hold(record.id.clone()).await;
        let record = self.index.get(&record.id).ok_or_else(|| ApiError::not_found("container", key))?;
        if matches!(record.state.phase, Phase::Moving { .. }) {
            require_settled(&record)?;
        }
        let runs = matches!(record.status(), ContainerStatus::Running | ContainerStatus::Paused);
        if runs && !force {
            return Err(ApiError::conflict(
                "in_use",
                format!("container `{}` runs: stop it first, or remove it with force=true", record.name()),
            ));
        }
        if !record.state.missing {
            self.nodes.require_ready(&record.node)?;
        }
        let before = record.state.phase.clone();
        let phase = Phase::Removing { force, volumes };
        self.set_phase(
            &record.id,
            phase,
            Some((
                actor,
                meta,
                "container.remove",
                serde_json::json!({ "name": record.name(), "force": force, "volumes": volumes }),
            )),
        )
        .await?;
        if !record.state.missing
            && let Err(error) = self.remove_on_node(&record, force, volumes).await
        {
            // Only a refusal says for sure that nothing happened; after a broken link the removal stays to be done.
            if !is_passing(&error) {
                self.set_phase(&record.id, before, None).await?;
            }
            return Err(error);
        }
        self.forget(&record).await?;
        Ok(record.id.clone())
    }

    /// Docker no longer has it: its row goes.
    async fn forget(&self, record: &Record) -> ApiResult<()> {
        let mut tx = self.store.begin(self.clock.now()).await?;
        match tx.delete(Kind::Container, record.id.as_str()).await {
            Ok(_) | Err(StoreError::NotFound { .. }) => {}
            Err(e) => return Err(e.into()),
        }
        tx.commit().await?;
        self.index.remove(&record.id);
        Ok(())
    }

    /// Takes up a removal again that could not be ended.
    pub async fn resume_remove(&self, id: &ContainerId) -> ApiResult<()> {
        let _held = self.locks.hold(id.clone()).await;
        let Some(record) = self.index.get(id) else { return Ok(()) };
        let Phase::Removing { force, volumes } = record.state.phase else {
            return Ok(());
        };
        if !record.state.missing
            && let Err(error) = self.remove_on_node(&record, force, volumes).await
        {
            if is_passing(&error) || error.code == "docker_unavailable" {
                return Err(error);
            }
            tracing::warn!(container.id = %id, error = %error.message, "a removal that was cut short can't be finished");
            let before = if record.managed() { Phase::Ready } else { Phase::Foreign };
            return self.set_phase(id, before, None).await;
        }
        self.forget(&record).await
    }
}
