//! Containers of a lost node that ask to run elsewhere.
//!
//! Those that no node can take stay where they are and say why; they are tried again when something changes that may let them. Each
//! move is an operation.

use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::Meta;
use crate::service::audit::audit;
use crate::service::auth::Actor;
use crate::service::containers::Containers;
use crate::service::index::{Phase, Record};
use crate::service::lost::NodeLost;
use crate::service::moves::{Move, Moved};
use crate::service::operations::{Finish, Outcome, Running, written};
use nm_store::{Kind, Patch, StoreError, Tx};
use nm_types::operation::OperationView;
use nm_types::placement::OnNodeLost;
use nm_types::{ContainerId, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// The kind of operation that moves a container off a lost node.
pub const RESCHEDULE: &str = "container.reschedule";

/// The pause after a move that failed on every node, doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// What a move is begun again with.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RescheduleInput {
    container: ContainerId,
    from: NodeId,
}

/// Containers whose moves failed, and when they are tried again: so that an image that can't be pulled does not keep the fleet busy.
/// In memory, for after a start one more attempt does no harm.
#[derive(Debug, Clone, Default)]
pub(super) struct Pauses(Arc<Mutex<HashMap<ContainerId, (Instant, Duration)>>>);

impl Pauses {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ContainerId, (Instant, Duration)>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
    fn is_over(&self, id: &ContainerId) -> bool {
        self.lock().get(id).is_none_or(|(until, _)| *until <= Instant::now())
    }
    fn failed(&self, id: &ContainerId) {
        let mut all = self.lock();
        let pause = all.get(id).map_or(FIRST_PAUSE, |(_, last)| (*last * 2).min(LONGEST_PAUSE));
        all.insert(id.clone(), (Instant::now() + pause, pause));
    }
    fn forget(&self, id: &ContainerId) {
        self.lock().remove(id);
    }
}

impl Containers {
    /// Whether any container waits for a lost node and would rather move.
    pub fn wait_for_place(&self, node: &NodeId) -> bool {
        self.index.on_node(node).iter().any(|r| asks_to_move(r))
    }

    /// Begins to move what asks for it off a lost node, as far as there is room.
    pub async fn reschedule(&self, lost: &NodeLost) -> ApiResult<()> {
        for record in self.index.on_node(&lost.node) {
            if asks_to_move(&record) && self.pauses.is_over(&record.id) {
                self.begin_reschedule(lost, &record.id).await?;
            }
        }
        Ok(())
    }

    async fn begin_reschedule(&self, lost: &NodeLost, id: &ContainerId) -> ApiResult<()> {
        // Until the operation runs, so that nobody takes the move for an abandoned one.
        let _held = self.locks.hold(id.clone()).await;
        let placing = self.nodes.placing().await;
        let Some(record) = self.index.get(id) else { return Ok(()) };
        let still_lost = record.node == lost.node && self.nodes.lost().is_lost(&lost.node) && !self.fleet.is_connected(&lost.node);
        let Some(spec) = record.wanted.spec.as_ref().filter(|_| still_lost && asks_to_move(&record)) else {
            return Ok(());
        };
        let name = self.nodes.name(&lost.node);
        let since = lost.last_seen.map_or(String::new(), |at| format!(", last heard of at {at}"));
        let placement = match self.choose(spec, self.moving(&record, &BTreeMap::new())) {
            Ok(placement) => placement,
            Err(no) => {
                drop(placing);
                let note = format!("its node {name} is lost{since}, and no other node can take it: {no}");
                return self.note(id, Some(note)).await;
            }
        };
        let input = RescheduleInput {
            container: id.clone(),
            from: lost.node.clone(),
        };
        let mut log = vec![format!("node {name} is lost{since}")];
        log.extend(placement.lines());
        let (actor, asked) = (Actor::system(), serde_json::to_value(&input).unwrap_or_default());
        let mut tx = self.store.begin(self.clock.now()).await?;
        let operation = self
            .operations
            .create_noting(&mut tx, &actor, RESCHEDULE, Some(id.as_str()), asked, log)
            .await?;
        let phase = Phase::Moving {
            operation: operation.id.clone(),
            to: placement.node.clone(),
        };
        let detail = serde_json::json!({ "name": record.name(), "from": lost.node, "to": placement.node, "reason": "node lost" });
        tx.audit(audit(&actor, &Meta::internal(), RESCHEDULE, Some(id.as_str()), detail))
            .await?;
        let written = async {
            self.clone().write_phase(&mut tx, id.clone(), phase).await?;
            tx.commit().await
        };
        if let Err(error) = written.await {
            self.index.change(id, |r| {
                r.state.phase = Phase::Ready;
                true
            });
            return Err(error.into());
        }
        tracing::warn!(container.id = %id, node.id = %lost.node, to = %placement.node, "a container moves off a lost node");
        self.run_reschedule(operation, input);
        Ok(())
    }

    fn run_reschedule(&self, operation: OperationView, input: RescheduleInput) {
        let this = self.clone();
        self.operations
            .run(operation, move |running| async move { this.do_reschedule(running, input).await });
    }

    /// Begins again a move that a crash cut short.
    pub fn resume_reschedule(&self, operation: OperationView, input: serde_json::Value) -> ApiResult<()> {
        let input: RescheduleInput = serde_json::from_value(input).map_err(|_| ApiError::internal())?;
        self.run_reschedule(operation, input);
        Ok(())
    }

    async fn do_reschedule(&self, running: Running, input: RescheduleInput) -> Finish {
        let job = Move {
            container: input.container.clone(),
            from: input.from.clone(),
            lost: true,
            grace: None,
        };
        let moved = self.relocate(&running, &job).await;
        let result = |to: &NodeId, note: Option<String>| Outcome {
            result: serde_json::json!({ "containerId": input.container, "from": input.from, "to": to, "message": note }),
            end: None,
        };
        match moved {
            Moved::To(to) => {
                self.pauses.forget(&input.container);
                // The lost node may be back by now.
                self.clear_soon(&input.from, &input.container);
                Ok(result(&to, None))
            }
            Moved::Stays(why) => Ok(result(&input.from, Some(why))),
            Moved::Failed(error) => {
                self.pauses.failed(&input.container);
                let note = format!(
                    "its node {} is lost, and it could not be moved: {}",
                    self.nodes.name(&input.from),
                    error.message
                );
                self.note(&input.container, Some(note)).await?;
                Err(error.into())
            }
            Moved::Cancelled => {
                self.pauses.failed(&input.container);
                Err(ApiError::conflict("cancelled", "it was cancelled: the container stays with its lost node for now").into())
            }
        }
    }

    /// A node is back: nothing keeps its containers any more.
    pub async fn node_back(&self, node: &NodeId) -> ApiResult<()> {
        for record in self.index.on_node(node) {
            self.pauses.forget(&record.id);
            self.note(&record.id, None).await?;
        }
        Ok(())
    }

    /// Says what keeps a container from being where it should; `None` where nothing does.
    async fn note(&self, id: &ContainerId, note: Option<String>) -> ApiResult<()> {
        if self.index.get(id).is_none_or(|r| r.state.note == note) {
            return Ok(());
        }
        let (this, id) = (self.clone(), id.clone());
        let end = written(move |tx| Box::pin(this.clone().write_note(tx, id.clone(), note.clone())));
        Ok(self.insist(&end).await?)
    }

    async fn write_note(self, tx: &mut Tx, id: ContainerId, note: Option<String>) -> Result<(), StoreError> {
        let Some(record) = self.index.get(&id) else { return Ok(()) };
        let mut changed = Record::clone(&record);
        changed.state.note = note.clone();
        let patch = Patch::new().status(&changed.stored_state())?;
        match tx.update(Kind::Container, id.as_str(), patch).await {
            Ok(row) => {
                self.index.change(&id, |r| {
                    r.state.note = note;
                    r.revision = r.revision.max(row.revision);
                    true
                });
                Ok(())
            }
            Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn asks_to_move(record: &Record) -> bool {
    let spec = record.wanted.spec.as_ref();
    record.state.phase == Phase::Ready
        && !record.state.missing
        && spec.is_some_and(|s| s.on_node_lost == OnNodeLost::Reschedule && s.writes_to_node().is_none())
}
