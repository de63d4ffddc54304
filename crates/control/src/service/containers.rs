//! Containers: made, changed and removed on behalf of users.
//!
//! Invariants: a row is written before Docker is asked and deleted only after Docker said that the container is gone, so a
//! crash leaves a row that says what is still to do, never a container that nobody knows. All work on one container goes
//! one after another.

mod removal;

use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::Meta;
use crate::service::audit::audit;
use crate::service::auth::Actor;
use crate::service::clock::SharedClock;
use crate::service::dirty::Dirty;
use crate::service::fleet::{Agent, CallError, Fleet, is_passing};
use crate::service::index::{Index, Phase, Record, State, Wanted};
use crate::service::locks::Locks;
use crate::service::nodes::Nodes;
use crate::service::operations::{Failure, Finish, Layers, Operations, Outcome, Running, WAIT, written};
use crate::service::registries::Registries;
use crate::service::reschedule::Pauses;
use crate::service::{idempotency, privileges};
use nm_link::contract::{AgentErrorCode, CreateContainer, Progress, path};
use nm_store::{Kind, NewResource, Patch, Resource, Secret, Store, StoreError, Tx};
use nm_types::container::{ContainerSpec, ContainerView, ObservedContainer};
use nm_types::operation::OperationView;
use nm_types::text::Environment;
use nm_types::{ContainerId, NodeId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// What a create is begun again with.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CreateInput {
    container: ContainerId,
    start: bool,
}

/// The kind of operation that makes a container.
pub const CREATE: &str = "container.create";

/// What a create came to within the time a request waits.
#[derive(Debug)]
pub enum Created {
    Done(Box<ContainerView>, i64),
    GoesOn(Box<OperationView>),
}

/// Why there is no container after a create.
pub(super) struct NotMade {
    pub(super) error: ApiError,
    /// Whether the node may have it all the same.
    pub(super) may_be_there: bool,
}

/// Between two attempts to read what a create needs, while the store does not answer.
const AGAIN: Duration = Duration::from_secs(1);

/// All containers. Cheap to clone.
#[derive(Clone)]
pub struct Containers {
    pub(super) store: Store,
    pub(super) clock: SharedClock,
    pub(super) fleet: Fleet,
    pub(super) nodes: Nodes,
    pub(super) index: Index,
    pub(super) operations: Operations,
    pub(super) registries: Registries,
    /// What is to be written a moment later.
    pub dirty: Dirty,
    pub(super) locks: Locks<ContainerId>,
    pub(super) pauses: Pauses,
}

impl Containers {
    pub fn new(
        store: Store,
        clock: SharedClock,
        fleet: Fleet,
        nodes: Nodes,
        index: Index,
        operations: Operations,
        registries: Registries,
    ) -> Self {
        Self {
            store,
            clock,
            fleet,
            nodes,
            index,
            operations,
            registries,
            dirty: Dirty::default(),
            locks: Locks::default(),
            pauses: Pauses::default(),
        }
    }

    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Reads all containers from the store into the index.
    pub async fn load(&self) -> ApiResult<usize> {
        let mut records = Vec::new();
        for row in self.store.all(Kind::Container).await? {
            records.push(self.record_of(&row).await?);
        }
        let count = records.len();
        self.index.load(records);
        Ok(count)
    }

    async fn record_of(&self, row: &Resource) -> ApiResult<Record> {
        let corrupt = || StoreError::Corrupt {
            reason: format!("the row of container {} has an id that is none", row.id),
        };
        let mut wanted: Wanted = row.spec()?;
        if let Some(spec) = wanted.spec.as_mut()
            && row.has_secret()
            && let Some(sealed) = self.store.open_sealed(row).await?
        {
            spec.environment = sealed.parse::<Environment>()?;
        }
        let state: State = row.status()?;
        // What others made is as old as Docker says; its row is only as old as our first sight of it.
        let created = match &state.observed {
            Some(observed) if wanted.spec.is_none() => observed.created,
            Some(_) | None => row.created_at,
        };
        Ok(Record {
            id: ContainerId::parse(&row.id).map_err(|_| corrupt())?,
            node: NodeId::parse(&row.parent).map_err(|_| corrupt())?,
            created,
            wanted,
            state,
            generation: row.generation,
            revision: row.revision,
        })
    }

    /// By id or unique name.
    pub fn find(&self, key: &str) -> ApiResult<Arc<Record>> {
        self.index.find(key).map_err(|n| match n {
            0 => ApiError::not_found("container", key),
            n => ApiError::conflict("ambiguous_name", format!("{n} containers are called `{key}`: use the id")),
        })
    }

    pub fn view(&self, actor: &Actor, key: &str) -> ApiResult<(ContainerView, i64)> {
        let record = self.find(key)?;
        self.index
            .view(&record.id, actor.sees_secrets())
            .ok_or_else(|| ApiError::not_found("container", key))
    }

    /// The container, its node's agent, and nobody else working on it meanwhile. What others have changed is reread.
    pub(super) async fn hold(&self, key: &str) -> ApiResult<(crate::service::locks::Held<ContainerId>, Arc<Record>, Agent)> {
        let record = self.find(key)?;
        // Before waiting in line, too: what is being made or removed may take long.
        require_settled(&record)?;
        let held = self.locks.hold(record.id.clone()).await;
        let record = self.index.get(&record.id).ok_or_else(|| ApiError::not_found("container", key))?;
        require_settled(&record)?;
        let agent = self.fleet.agent(&record.node)?;
        Ok((held, record, agent))
    }

    /// Makes a container. The operation goes on when the caller goes away.
    pub async fn create(&self, actor: &Actor, meta: &Meta, spec: ContainerSpec, request_hash: &str) -> ApiResult<Created> {
        let (spec, node, start) = spec.into_parts();
        let overlong = spec.overlong();
        if !overlong.is_empty() {
            return Err(ApiError::invalid_fields(overlong));
        }
        let clashes = spec.problems();
        if !clashes.is_empty() {
            return Err(ApiError::clashing_fields(clashes));
        }
        privileges::may_ask(actor, &spec)?;
        self.registries.may_ask_for(&spec.image, "image")?;
        // Until its record is there, so that what it takes counts for the next one.
        let placing = self.nodes.placing().await;
        let now = self.clock.now();
        let id = ContainerId::fresh(now.0);
        let mut tx = self.store.begin(now).await?;
        if let Some(key) = &meta.idempotency_key
            && let Some(operation) = idempotency::claimed(&mut tx, actor, key, request_hash).await?
        {
            drop((tx, placing));
            return self.created(actor, &operation, meta).await;
        }
        let (node, reasons) = self.where_to(&spec, node.as_deref())?;
        let input = CreateInput {
            container: id.clone(),
            start,
        };
        let operation = self
            .operations
            .create_noting(
                &mut tx,
                actor,
                CREATE,
                Some(id.as_str()),
                serde_json::to_value(&input).unwrap_or_default(),
                reasons,
            )
            .await?;
        if let Some(key) = &meta.idempotency_key {
            idempotency::carried_by(&mut tx, actor, key, &operation.id).await?;
        }
        let record = Record {
            id: id.clone(),
            node,
            created: now,
            wanted: Wanted {
                spec: Some(Box::new(spec)),
                running: start,
            },
            state: State::new(Phase::Creating {
                operation: operation.id.clone(),
            }),
            generation: 1,
            revision: 0,
        };
        let revision = self.insert(&mut tx, &record).await?;
        let detail = serde_json::json!({ "name": record.name(), "image": record.wanted.spec.as_ref().map(|s| s.image.as_str()), "node": record.node, "start": start });
        tx.audit(audit(actor, meta, CREATE, Some(id.as_str()), detail)).await?;
        tx.commit().await?;
        self.index.put(Record { revision, ..record });
        drop(placing);
        let operation_id = operation.id.clone();
        self.run_create(operation, input);
        self.created(actor, &operation_id, meta).await
    }

    async fn insert(&self, tx: &mut Tx, record: &Record) -> ApiResult<i64> {
        let mut wanted = record.wanted.clone();
        let environment = wanted
            .spec
            .as_mut()
            .map(|s| std::mem::take(&mut s.environment))
            .filter(|e| !e.0.is_empty());
        let mut row = NewResource::new(Kind::Container, record.id.as_str())
            .within(record.node.as_str())
            .spec(&wanted)?
            .status(&record.stored_state())?;
        row = if record.managed() {
            row.uniquely_named(record.name())
        } else {
            row.named(record.name())
        };
        if let Some(environment) = environment {
            row = row.secret(Secret::json(&environment)?);
        }
        let name = record.name().to_owned();
        match tx.insert(row).await {
            Ok(row) => Ok(row.revision),
            Err(StoreError::Conflict {
                what: nm_store::Unique::ResourceName,
            }) => Err(ApiError::conflict(
                "name_taken",
                format!(
                    "node {} has a container called `{name}` already: choose another name, or remove that one",
                    record.node
                ),
            )
            .field("name")),
            Err(e) => Err(e.into()),
        }
    }

    /// Waits for a create as long as a request waits.
    async fn created(&self, actor: &Actor, operation: &nm_types::OperationId, meta: &Meta) -> ApiResult<Created> {
        let wait = if meta.respond_async { Duration::ZERO } else { WAIT };
        let view = self.operations.wait(operation, wait).await?;
        if let Some(error) = view.error {
            return Err(ApiError::from(error).with_operation(view.id));
        }
        if !view.state.is_final() {
            return Ok(Created::GoesOn(Box::new(view)));
        }
        let id = view.target.unwrap_or_default();
        let (container, revision) = self.view(actor, &id)?;
        Ok(Created::Done(Box::new(container), revision))
    }

    fn run_create(&self, operation: OperationView, input: CreateInput) {
        let this = self.clone();
        self.operations
            .run(operation, move |running| async move { this.do_create(running, input).await });
    }

    /// Begins again a create that a crash cut short.
    pub fn resume_create(&self, operation: OperationView, input: serde_json::Value) -> ApiResult<()> {
        let input: CreateInput = serde_json::from_value(input).map_err(|_| ApiError::internal())?;
        self.run_create(operation, input);
        Ok(())
    }

    async fn do_create(&self, running: Running, input: CreateInput) -> Finish {
        let id = input.container;
        let _held = self.locks.hold(id.clone()).await;
        let Some(record) = self.index.get(&id) else {
            return Err(ApiError::not_found("container", id.as_str()).into());
        };
        let Some(spec) = record.wanted.spec.clone() else {
            return Err(ApiError::internal().into());
        };
        match self.create_on_node(&running, &record, *spec, input.start).await {
            Ok(observed) => {
                let (this, result) = (self.clone(), serde_json::json!({ "containerId": id }));
                let end = written(move |tx| Box::pin(this.clone().write_made(tx, id.clone(), observed.clone())));
                Ok(Outcome { result, end: Some(end) })
            }
            Err(NotMade { error, may_be_there }) => {
                let this = self.clone();
                let end = written(move |tx| Box::pin(this.clone().write_not_made(tx, id.clone(), may_be_there)));
                Err(Failure { error, end: Some(end) })
            }
        }
    }

    /// In memory first and under the turn to write, so that whoever writes next does not write what was before.
    async fn write_made(self, tx: &mut Tx, id: ContainerId, observed: ObservedContainer) -> Result<(), StoreError> {
        let made = self.index.change(&id, |r| {
            r.state.phase = Phase::Ready;
            r.state.answered(observed);
            true
        });
        // Removed since, when this is written a second time.
        let Some(record) = made else { return Ok(()) };
        match tx
            .update(Kind::Container, id.as_str(), Patch::new().status(&record.stored_state())?)
            .await
        {
            Ok(row) => self.index.stored(&id, row.revision),
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The row goes, or stays as something to remove where the node may have what it stands for.
    async fn write_not_made(self, tx: &mut Tx, id: ContainerId, may_be_there: bool) -> Result<(), StoreError> {
        let left = self.index.change(&id, |r| {
            let phase = Phase::Removing {
                force: true,
                volumes: true,
            };
            may_be_there && std::mem::replace(&mut r.state.phase, phase.clone()) != phase
        });
        if let (true, Some(record)) = (may_be_there, left) {
            let row = tx
                .update(Kind::Container, id.as_str(), Patch::new().status(&record.stored_state())?)
                .await?;
            self.index.stored(&id, row.revision);
            return Ok(());
        }
        match tx.delete(Kind::Container, id.as_str()).await {
            Ok(_) | Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        self.index.remove(&id);
        Ok(())
    }

    /// Asks the node until it has answered: the id makes asking again safe, and only an answer tells whether it is there.
    pub(super) async fn create_on_node(
        &self,
        running: &Running,
        record: &Record,
        spec: ContainerSpec,
        start: bool,
    ) -> Result<ObservedContainer, NotMade> {
        let mut layers = Layers::default();
        let registry = loop {
            match self.registries.login_for(&spec.image).await {
                Ok(login) => break login,
                Err(error) if error.status == http::StatusCode::SERVICE_UNAVAILABLE => tokio::select! {
                    () = tokio::time::sleep(AGAIN) => {}
                    () = running.cancelled().cancelled() => return Err(self.undo_create(record).await),
                },
                Err(error) => return Err(NotMade { error, may_be_there: true }),
            }
        };
        let command = CreateContainer {
            operation: running.id().clone(),
            id: record.id.clone(),
            generation: record.generation,
            spec: spec.placed(),
            start,
            registry,
        };
        // Whether its engine, or an earlier try that was cut off, may have made it.
        let mut begun = false;
        loop {
            let agent = tokio::select! {
                agent = self.fleet.connected(&record.node) => agent,
                () = running.cancelled().cancelled() => return Err(self.undo_create(record).await),
            };
            let told = |line| {
                begun |= matches!(line, Progress::Step { .. });
                running.follow(&mut layers, line);
            };
            let result = tokio::select! {
                result = agent.progress(path::CONTAINERS, &command, told) => result,
                () = running.cancelled().cancelled() => return Err(self.undo_create(record).await),
            };
            match result {
                Ok(observed) => return Ok(observed),
                Err(CallError::Refused(error)) => {
                    // An engine that went away in the middle is no refusal of its own: only its return tells what it has.
                    return Err(NotMade {
                        may_be_there: begun && error.code == AgentErrorCode::DockerUnavailable,
                        error: error.into(),
                    });
                }
                Err(CallError::Link { error, .. }) if is_passing(&error) => {
                    begun = true;
                    running.log(format!("{}; asking again once it is back", error.message));
                    tokio::select! {
                        () = agent.before_asking_again() => {}
                        () = running.cancelled().cancelled() => return Err(self.undo_create(record).await),
                    }
                }
                Err(CallError::Link { error, .. }) => return Err(NotMade { error, may_be_there: true }),
            }
        }
    }

    /// A create was cancelled: whatever of it is there goes, now or when the node is back.
    async fn undo_create(&self, record: &Record) -> NotMade {
        let cancelled = |may_be_there, message| NotMade {
            error: ApiError::conflict("cancelled", message),
            may_be_there,
        };
        match self.remove_on_node(record, true, true).await {
            Ok(()) => cancelled(false, "it was cancelled; nothing of it is left"),
            Err(error) => {
                tracing::info!(container.id = %record.id, error = %error.message, "what is left of a cancelled container goes later");
                cancelled(
                    true,
                    "it was cancelled; what the node may have of it is removed as soon as the node answers",
                )
            }
        }
    }

    async fn set_phase(&self, id: &ContainerId, phase: Phase, entry: Option<(&Actor, &Meta, &str, serde_json::Value)>) -> ApiResult<()> {
        let mut tx = self.store.begin(self.clock.now()).await?;
        let Some(record) = self.index.get(id) else { return Ok(()) };
        let mut changed = Record::clone(&record);
        changed.state.phase = phase.clone();
        // A foreign container may have been seen a moment ago and not be written yet.
        let revision = match tx
            .update(Kind::Container, id.as_str(), Patch::new().status(&changed.stored_state())?)
            .await
        {
            Ok(row) => row.revision,
            Err(StoreError::NotFound { .. }) => self.insert(&mut tx, &changed).await?,
            Err(e) => return Err(e.into()),
        };
        if let Some((actor, meta, action, detail)) = entry {
            tx.audit(audit(actor, meta, action, Some(id.as_str()), detail)).await?;
        }
        tx.commit().await?;
        self.index.change(id, |r| {
            r.state.phase = phase;
            r.revision = r.revision.max(revision);
            true
        });
        Ok(())
    }

    /// Writes what was seen of these containers: new rows, changed ones, and those that are gone.
    pub async fn persist(&self, ids: &[ContainerId]) -> ApiResult<()> {
        let now = self.clock.now();
        let mut tx = self.store.begin(now).await?;
        let mut written = Vec::new();
        for id in ids {
            match self.index.get(id) {
                Some(record) => match tx
                    .update(Kind::Container, id.as_str(), Patch::new().status(&record.stored_state())?)
                    .await
                {
                    Ok(row) => written.push((id, row.revision)),
                    Err(StoreError::NotFound { .. }) if !record.managed() => written.push((id, self.insert(&mut tx, &record).await?)),
                    // Removed meanwhile.
                    Err(StoreError::NotFound { .. }) => {}
                    Err(e) => return Err(e.into()),
                },
                None => match tx.delete(Kind::Container, id.as_str()).await {
                    Ok(_) | Err(StoreError::NotFound { .. }) => {}
                    Err(e) => return Err(e.into()),
                },
            }
        }
        tx.commit().await?;
        for (id, revision) in written {
            self.index.stored(id, revision);
        }
        Ok(())
    }
}

/// 409 while it is being made or removed.
fn require_settled(record: &Record) -> ApiResult<()> {
    match &record.state.phase {
        Phase::Creating { operation } => Err(
            ApiError::conflict("being_created", format!("container {} is still being made", record.id)).with_operation(operation.clone()),
        ),
        Phase::Removing { .. } => Err(ApiError::conflict(
            "being_removed",
            format!("container {} is being removed", record.id),
        )),
        Phase::Moving { operation, to } => Err(ApiError::conflict(
            "being_moved",
            format!("container {} is being moved to node {to}: retry once it is there", record.id),
        )
        .with_operation(operation.clone())),
        Phase::Ready | Phase::Foreign => Ok(()),
    }
}

pub(super) fn stale(record: &Record) -> ApiError {
    ApiError::new(
        http::StatusCode::PRECONDITION_FAILED,
        "changed_meanwhile",
        format!(
            "container {} was changed meanwhile: it is at \"{}\" now; read it again",
            record.id, record.revision
        ),
    )
}
