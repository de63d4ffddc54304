//! Start, stop and their like: what is asked of one container that is there.

use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::Meta;
use crate::service::audit::audit;
use crate::service::auth::Actor;
use crate::service::containers::{Containers, stale};
use crate::service::fleet::{Agent, CallError, keyed};
use crate::service::index::{Phase, Record, Wanted};
use crate::service::operations::Layers;
use crate::service::privileges;
use nm_link::contract::{Action, AgentErrorCode, Command, CreateContainer, Exec, path};
use nm_store::{Kind, Patch, StoreError};
use nm_types::OperationId;
use nm_types::container::{ContainerUpdate, ContainerView, ExecCommand, ExecResult, ObservedContainer, Signal};
use nm_types::text::ContainerName;
use std::time::Duration;

/// What Docker grants a container between the stop signal and the kill, where nobody says otherwise.
const GRACE: i64 = 10;

impl Containers {
    pub async fn start(&self, actor: &Actor, meta: &Meta, key: &str) -> ApiResult<(ContainerView, i64)> {
        self.command(actor, meta, key, "container.start", Some(true), Action::Start).await
    }
    pub async fn stop(&self, actor: &Actor, meta: &Meta, key: &str, grace: Option<i64>) -> ApiResult<(ContainerView, i64)> {
        self.command(actor, meta, key, "container.stop", Some(false), Action::Stop { grace })
            .await
    }
    pub async fn restart(&self, actor: &Actor, meta: &Meta, key: &str, grace: Option<i64>) -> ApiResult<(ContainerView, i64)> {
        self.command(actor, meta, key, "container.restart", Some(true), Action::Restart { grace })
            .await
    }
    pub async fn pause(&self, actor: &Actor, meta: &Meta, key: &str) -> ApiResult<(ContainerView, i64)> {
        self.command(actor, meta, key, "container.pause", None, Action::Pause).await
    }
    pub async fn unpause(&self, actor: &Actor, meta: &Meta, key: &str) -> ApiResult<(ContainerView, i64)> {
        self.command(actor, meta, key, "container.unpause", None, Action::Unpause).await
    }
    pub async fn kill(&self, actor: &Actor, meta: &Meta, key: &str, signal: Signal) -> ApiResult<(ContainerView, i64)> {
        let running = (signal == Signal::Kill).then_some(false);
        self.command(actor, meta, key, "container.kill", running, Action::Kill { signal })
            .await
    }

    async fn command(
        &self,
        actor: &Actor,
        meta: &Meta,
        key: &str,
        name: &str,
        running: Option<bool>,
        action: Action,
    ) -> ApiResult<(ContainerView, i64)> {
        let (_held, record, agent) = self.hold(key).await?;
        check_version(meta, &record)?;
        let wanted = Wanted {
            running: running.unwrap_or(record.wanted.running),
            ..record.wanted.clone()
        };
        let generation = self.wish(actor, meta, &record, name, wanted, None).await?;
        if record.state.missing {
            return self.make_anew(actor, &record, &agent, &action).await;
        }
        let grace = match &action {
            Action::Stop { grace } | Action::Restart { grace } => {
                let own = record.wanted.spec.as_ref().and_then(|s| s.stop_grace).map(|g| g.get());
                grace.or(own).unwrap_or(GRACE)
            }
            Action::Start | Action::Pause | Action::Unpause | Action::Kill { .. } | Action::Rename { .. } | Action::Update(_) => 0,
        };
        let command = Command { generation, action };
        let extra = Duration::from_secs(u64::try_from(grace).unwrap_or_default());
        match agent
            .post::<ObservedContainer>(&keyed(path::COMMAND, &record), &command, extra)
            .await
        {
            Ok(observed) => self.seen(actor, &record, observed),
            Err(error) => {
                let error = ApiError::from(error);
                self.failed(actor, meta, &record, name, &error).await;
                Err(error)
            }
        }
    }

    /// Docker lost it, and it is asked to run: the spec makes it again.
    async fn make_anew(&self, actor: &Actor, record: &Record, agent: &Agent, action: &Action) -> ApiResult<(ContainerView, i64)> {
        let (Action::Start | Action::Restart { .. }, Some(spec)) = (action, record.wanted.spec.clone()) else {
            return Err(ApiError::conflict(
                "not_running",
                format!("container `{}` was removed from Docker: start makes it anew", record.name()),
            ));
        };
        let registry = self.registries.login_for(&spec.image).await?;
        let operation = OperationId::fresh(self.clock.now().0);
        let create = CreateContainer {
            operation,
            id: record.id.clone(),
            generation: record.generation,
            spec: spec.placed(),
            start: true,
            registry,
        };
        let mut layers = Layers::default();
        let observed: ObservedContainer = agent
            .progress(path::CONTAINERS, &create, |line| layers.note(&line))
            .await
            .map_err(ApiError::from)?;
        self.index.change(&record.id, |r| {
            r.state.missing = false;
            r.state.answered(observed);
            true
        });
        self.persist(std::slice::from_ref(&record.id)).await?;
        self.view(actor, record.id.as_str())
    }

    /// Writes what is wished and who wished it; gives the generation that fences older wishes.
    async fn wish(
        &self,
        actor: &Actor,
        meta: &Meta,
        record: &Record,
        action: &str,
        wanted: Wanted,
        name: Option<&ContainerName>,
    ) -> ApiResult<i64> {
        let mut tx = self.store.begin(self.clock.now()).await?;
        let mut stored = wanted.clone();
        if let Some(spec) = stored.spec.as_mut() {
            spec.environment.0.clear();
        }
        let mut patch = Patch::new().spec(&stored)?;
        if let Some(name) = name {
            patch = patch.name(name.as_str());
        }
        let written = match tx.update(Kind::Container, record.id.as_str(), patch).await {
            Ok(row) => Some((row.generation, row.revision)),
            // A container that others made, seen a moment ago and not written yet.
            Err(StoreError::NotFound { .. }) if !record.managed() => None,
            Err(StoreError::Conflict { .. }) => {
                let taken = name.map(ContainerName::as_str).unwrap_or_default();
                return Err(ApiError::conflict("name_taken", format!("the node has a container called `{taken}` already")).field("name"));
            }
            Err(e) => return Err(e.into()),
        };
        tx.audit(audit(
            actor,
            meta,
            action,
            Some(record.id.as_str()),
            serde_json::json!({ "name": record.name() }),
        ))
        .await?;
        tx.commit().await?;
        let (generation, revision) = written.unwrap_or((record.generation, record.revision));
        self.index.change(&record.id, |r| {
            r.wanted = wanted;
            r.generation = generation;
            r.revision = r.revision.max(revision);
            true
        });
        Ok(generation)
    }

    async fn failed(&self, actor: &Actor, meta: &Meta, record: &Record, action: &str, error: &ApiError) {
        let mut entry = audit(
            actor,
            meta,
            action,
            Some(record.id.as_str()),
            serde_json::json!({ "error": error.message }),
        );
        entry.outcome = error.code.clone();
        let written = async {
            let mut tx = self.store.begin(self.clock.now()).await?;
            tx.audit(entry).await?;
            tx.commit().await
        };
        if let Err(error) = written.await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the failure of an action could not be written to the audit log"
            );
        }
    }

    /// What a command's answer says goes to the index at once, and to the store a moment later: when the watch tells the same, it
    /// is no news any more. Whoever asked is shown it as it was answered, whatever word of before comes in late.
    fn seen(&self, actor: &Actor, record: &Record, observed: ObservedContainer) -> ApiResult<(ContainerView, i64)> {
        let mut changed = false;
        let shown = self.index.change_and_view(&record.id, actor.sees_secrets(), |r| {
            changed = r.state.answered(observed);
            changed
        });
        if changed {
            self.dirty.add(&record.id);
        }
        shown.ok_or_else(|| ApiError::not_found("container", record.id.as_str()))
    }

    pub async fn rename(&self, actor: &Actor, meta: &Meta, key: &str, name: ContainerName) -> ApiResult<(ContainerView, i64)> {
        let (_held, record, agent) = self.hold(key).await?;
        check_version(meta, &record)?;
        let before = record.wanted.clone();
        let mut wanted = before.clone();
        if let Some(spec) = wanted.spec.as_mut() {
            spec.name = name.clone();
        }
        let generation = self.wish(actor, meta, &record, "container.rename", wanted, Some(&name)).await?;
        let command = Command {
            generation,
            action: Action::Rename { name },
        };
        self.change(actor, meta, &record, &agent, command, before).await
    }

    /// Changes limits and restart policy, live.
    pub async fn update(&self, actor: &Actor, meta: &Meta, key: &str, change: ContainerUpdate) -> ApiResult<(ContainerView, i64)> {
        let (_held, record, agent) = self.hold(key).await?;
        check_version(meta, &record)?;
        let before = record.wanted.clone();
        let mut wanted = before.clone();
        if let Some(spec) = wanted.spec.as_mut() {
            spec.cpu_limit = change.cpu_limit.or(spec.cpu_limit);
            spec.memory_limit = change.memory_limit.clone().or(spec.memory_limit.take());
            spec.restart = change.restart.unwrap_or(spec.restart);
        }
        let generation = self.wish(actor, meta, &record, "container.update", wanted, None).await?;
        if record.state.missing || change == ContainerUpdate::default() {
            return self.view(actor, record.id.as_str());
        }
        let command = Command {
            generation,
            action: Action::Update(change),
        };
        self.change(actor, meta, &record, &agent, command, before).await
    }

    /// Carries out a change that is written already; a refusal writes back what was there before.
    async fn change(
        &self,
        actor: &Actor,
        meta: &Meta,
        record: &Record,
        agent: &Agent,
        command: Command,
        before: Wanted,
    ) -> ApiResult<(ContainerView, i64)> {
        let result = match record.state.missing {
            true => return self.view(actor, record.id.as_str()),
            false => {
                agent
                    .post::<ObservedContainer>(&keyed(path::COMMAND, record), &command, Duration::ZERO)
                    .await
            }
        };
        match result {
            Ok(observed) => self.seen(actor, record, observed),
            Err(error) => {
                let error = ApiError::from(error);
                let name = before.spec.as_ref().map(|s| s.name.clone());
                self.wish(actor, meta, record, "container.undo", before, name.as_ref()).await?;
                self.failed(actor, meta, record, "container.update", &error).await;
                Err(error)
            }
        }
    }

    /// Runs a command in a container that runs.
    pub async fn exec(&self, actor: &Actor, meta: &Meta, key: &str, command: ExecCommand) -> ApiResult<ExecResult> {
        if command.command.is_empty() || command.command.len() > 100 {
            return Err(ApiError::invalid("command", "has 1 to 100 words"));
        }
        let record = self.find(key)?;
        privileges::may_enter(actor, &record)?;
        self.require_present(&record)?;
        let agent = self.fleet.agent(&record.node)?;
        // The words may hold secrets: the log says which program, not with what.
        let detail = serde_json::json!({ "program": command.command[0].as_str(), "name": record.name() });
        let mut tx = self.store.begin(self.clock.now()).await?;
        tx.audit(audit(actor, meta, "container.exec", Some(record.id.as_str()), detail))
            .await?;
        tx.commit().await?;
        let extra = Duration::from_secs(u64::try_from(command.timeout.map_or(30, |t| t.get())).unwrap_or(30));
        match agent.post(&keyed(path::EXEC, &record), &Exec { command }, extra).await {
            // A program that is not there is an outcome of the command, as it is in every shell.
            Err(CallError::Refused(e)) if e.code == AgentErrorCode::CommandFailed => Ok(ExecResult {
                exit_code: Some(127),
                output: e.message.clone(),
                stdout: String::new(),
                stderr: e.message,
                timed_out: false,
                truncated: false,
            }),
            other => Ok(other?),
        }
    }

    /// 409 while it is being made, 404 once Docker lost it.
    pub fn require_present(&self, record: &Record) -> ApiResult<()> {
        match &record.state.phase {
            Phase::Creating { operation } => Err(ApiError::conflict(
                "being_created",
                format!("container {} is still being made", record.id),
            )
            .with_operation(operation.clone())),
            Phase::Ready | Phase::Foreign | Phase::Removing { .. } | Phase::Moving { .. } if record.state.missing => {
                Err(ApiError::conflict(
                    "not_running",
                    format!(
                        "container `{}` was removed from Docker outside NeuralMesh: start makes it anew",
                        record.name()
                    ),
                ))
            }
            Phase::Ready | Phase::Foreign | Phase::Removing { .. } | Phase::Moving { .. } => Ok(()),
        }
    }

    /// A container and its agent, for reading.
    pub fn reach(&self, key: &str) -> ApiResult<(std::sync::Arc<Record>, Agent)> {
        let record = self.find(key)?;
        self.require_present(&record)?;
        let agent = self.fleet.agent(&record.node)?;
        Ok((record, agent))
    }
}

fn check_version(meta: &Meta, record: &Record) -> ApiResult<()> {
    match meta.if_match {
        Some(wanted) if wanted != record.revision => Err(stale(record)),
        Some(_) | None => Ok(()),
    }
}
