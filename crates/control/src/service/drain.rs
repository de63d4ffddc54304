//! Emptying a node: it takes no new containers, and those of ours on it are moved or stopped.

use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::Meta;
use crate::service::audit::audit;
use crate::service::auth::Actor;
use crate::service::containers::Containers;
use crate::service::fleet::is_passing;
use crate::service::index::{Phase, Record};
use crate::service::moves::{Move, Moved};
use crate::service::operations::{Finish, Outcome, Running, WAIT};
use futures_util::StreamExt;
use nm_types::envelope::FieldProblem;
use nm_types::operation::OperationView;
use nm_types::placement::{DrainNode, DrainReport, Drained};
use nm_types::{ContainerId, NodeId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// The kind of operation that empties a node.
pub const DRAIN: &str = "node.drain";

/// How many containers are worked on at once.
const AT_ONCE: usize = 4;

/// What a drain is begun again with. The containers are those that were there when it was asked for: none come after.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DrainInput {
    node: NodeId,
    containers: Vec<ContainerId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    grace: Option<i64>,
    move_away: bool,
}

/// What became of one container.
enum Emptied {
    Moved(Drained),
    Stopped(Drained),
    /// It is gone; there is nothing to tell.
    Gone,
    Stays {
        name: String,
        why: String,
    },
}

impl Containers {
    /// Empties a node; waits for it as long as a request waits.
    pub async fn drain(&self, actor: &Actor, meta: &Meta, key: &str, how: DrainNode) -> ApiResult<OperationView> {
        let node = self.nodes.find(key)?;
        let under_way = |operation| {
            ApiError::conflict(
                "drain_under_way",
                format!("node {node} is being drained: follow or cancel that operation"),
            )
            .with_operation(operation)
        };
        // Whoever places a container now either has it in the index when we look, or finds the node cordoned.
        let placing = self.nodes.placing().await;
        if let Some(operation) = self.operations.under_way(DRAIN, node.as_str()) {
            return Err(under_way(operation));
        }
        let mut tx = self.store.begin(self.clock.now()).await?;
        let row = self.nodes.cordon_in(&mut tx, &node, true, meta.if_match).await?;
        let input = DrainInput {
            node: node.clone(),
            containers: self
                .index
                .on_node(&node)
                .iter()
                .filter(|r| r.managed())
                .map(|r| r.id.clone())
                .collect(),
            grace: how.grace.map(|g| g.get()),
            move_away: how.move_away,
        };
        let detail = serde_json::json!({ "containers": input.containers.len(), "move": how.move_away, "grace": input.grace });
        let asked = serde_json::to_value(&input).unwrap_or_default();
        let operation = self.operations.create(&mut tx, actor, DRAIN, Some(node.as_str()), asked).await?;
        tx.audit(audit(actor, meta, DRAIN, Some(node.as_str()), detail)).await?;
        tx.commit().await?;
        self.nodes.learn(&row)?;
        let id = operation.id.clone();
        self.run_drain(operation, input);
        drop(placing);
        let wait = if meta.respond_async { Duration::ZERO } else { WAIT };
        let view = self.operations.wait(&id, wait).await?;
        match view.error {
            Some(error) => Err(ApiError::from(error).with_operation(view.id)),
            None => Ok(view),
        }
    }

    fn run_drain(&self, operation: OperationView, input: DrainInput) {
        let this = self.clone();
        self.operations
            .run(operation, move |running| async move { this.do_drain(running, input).await });
    }

    /// Begins again a drain that a crash cut short.
    pub fn resume_drain(&self, operation: OperationView, input: serde_json::Value) -> ApiResult<()> {
        let input: DrainInput = serde_json::from_value(input).map_err(|_| ApiError::internal())?;
        self.run_drain(operation, input);
        Ok(())
    }

    async fn do_drain(&self, running: Running, input: DrainInput) -> Finish {
        let input = Arc::new(input);
        running.step(if input.move_away { "move containers" } else { "stop containers" });
        let total = input.containers.len();
        let mut report = DrainReport {
            node_id: input.node.clone(),
            moved: Vec::new(),
            stopped: Vec::new(),
        };
        let mut staying = Vec::new();
        // Each pulls and starts by itself, and their steps would stand in each other's way.
        let quiet = running.without_steps();
        let mut work = futures_util::stream::iter(input.containers.clone())
            .map(|id| {
                let (this, quiet, input) = (self.clone(), quiet.clone(), input.clone());
                async move { this.empty(&quiet, &input, &id).await }
            })
            .buffer_unordered(AT_ONCE);
        let mut done = 0;
        while let Some(emptied) = work.next().await {
            done += 1;
            match emptied {
                Emptied::Moved(one) => report.moved.push(one),
                Emptied::Stopped(one) => report.stopped.push(one),
                Emptied::Gone => {}
                Emptied::Stays { name, why } => staying.push(FieldProblem { field: name, message: why }),
            }
            running.reached(done, total);
        }
        drop(work);
        if running.cancelled().is_cancelled() {
            let message = format!(
                "it was cancelled: {} containers were moved and {} stopped; node {} stays cordoned",
                report.moved.len(),
                report.stopped.len(),
                input.node
            );
            return Err(ApiError::conflict("cancelled", message).into());
        }
        if !staying.is_empty() {
            let told: Vec<String> = staying.iter().map(|s| format!("`{}`: {}", s.field, s.message)).collect();
            let message = format!(
                "{} of {total} containers are still on node {} as they were; it stays cordoned. {}",
                staying.len(),
                input.node,
                told.iter().take(5).cloned().collect::<Vec<_>>().join(". ")
            );
            let error = ApiError {
                details: staying,
                ..ApiError::conflict("drain_incomplete", message)
            };
            return Err(error.into());
        }
        report.moved.sort_by(|a, b| a.id.cmp(&b.id));
        report.stopped.sort_by(|a, b| a.id.cmp(&b.id));
        let result = serde_json::to_value(&report).map_err(|_| ApiError::internal())?;
        Ok(Outcome { result, end: None })
    }

    /// Moves or stops one container.
    async fn empty(&self, running: &Running, input: &DrainInput, id: &ContainerId) -> Emptied {
        self.made(running, id).await;
        let Some(record) = self.index.get(id) else { return Emptied::Gone };
        let name = record.name().to_owned();
        let stays = |why: String| {
            running.log(format!("`{name}` stays: {why}"));
            Emptied::Stays { name: name.clone(), why }
        };
        let tell = |node: &NodeId, reason: Option<String>| Drained {
            id: id.clone(),
            name: name.clone(),
            node_id: node.clone(),
            reason,
        };
        if record.node != input.node {
            // Moved before a crash; its older copy may still be there.
            self.clear_now(running, &input.node, id).await;
            return Emptied::Moved(tell(&record.node, None));
        }
        if running.cancelled().is_cancelled() && !self.moves_already(running, &record) {
            return Emptied::Stays {
                name,
                why: "it was cancelled before its turn".into(),
            };
        }
        let data = record.wanted.spec.as_ref().and_then(|s| s.holds_data());
        let reason = match (input.move_away, data) {
            (true, None) => None,
            (true, Some(mount)) => Some(format!("its data is on this node, under `{}` in it", mount.container)),
            (false, _) => Some("it was asked for".to_owned()),
        };
        if let Some(reason) = reason {
            return match self.stop_in_place(running, input, id).await {
                Ok(()) => {
                    running.log(format!("`{name}` was stopped and stays: {reason}"));
                    Emptied::Stopped(tell(&input.node, Some(reason)))
                }
                Err(error) => stays(error.message),
            };
        }
        if record.state.missing {
            // Nothing of it is there that could be moved or stopped.
            return Emptied::Stopped(tell(&input.node, Some("it was removed from Docker outside NeuralMesh".into())));
        }
        let job = Move {
            container: id.clone(),
            from: input.node.clone(),
            lost: false,
            grace: input.grace,
        };
        match self.relocate(running, &job).await {
            Moved::To(to) => {
                running.log(format!("`{name}` runs on {} now", self.nodes.name(&to)));
                self.clear_now(running, &input.node, id).await;
                Emptied::Moved(tell(&to, None))
            }
            Moved::Stays(_) if self.index.get(id).is_none() => Emptied::Gone,
            Moved::Stays(why) => stays(why),
            Moved::Failed(error) => stays(error.message),
            Moved::Cancelled => stays("it was cancelled".into()),
        }
    }

    /// Waits for a container that is still in the making.
    async fn made(&self, running: &Running, id: &ContainerId) {
        while let Some(record) = self.index.get(id)
            && let Phase::Creating { operation } = &record.state.phase
            && self.operations.runs(operation)
        {
            tokio::select! {
                _ = self.operations.wait(operation, WAIT) => {}
                () = running.cancelled().cancelled() => return,
            }
        }
    }

    fn moves_already(&self, running: &Running, record: &Record) -> bool {
        matches!(&record.state.phase, Phase::Moving { operation, .. } if operation == running.id())
    }

    /// Removes the older copy, so that the node is empty when the drain ends. Where that can't be done now it is done later.
    async fn clear_now(&self, running: &Running, node: &NodeId, id: &ContainerId) {
        if let Err(error) = self.nodes.leftovers().clear(node, id).await {
            running.log(format!("the older copy of {id} is removed later: {}", error.message));
        }
    }

    /// Stops it where it is. A node that is away for a moment is waited for.
    async fn stop_in_place(&self, running: &Running, input: &DrainInput, id: &ContainerId) -> ApiResult<()> {
        loop {
            let record = self.index.get(id).ok_or_else(|| ApiError::not_found("container", id.as_str()))?;
            if record.state.missing || !record.should_run() {
                return Ok(());
            }
            match self.stop(&Actor::system(), &Meta::internal(), id.as_str(), input.grace).await {
                Ok(_) => return Ok(()),
                Err(error) if is_passing(&error) => {
                    running.log(format!("{}; asking again once it is back", error.message));
                    if self.nodes.lost().is_lost(&input.node) {
                        return Err(error);
                    }
                    tokio::select! {
                        () = async { self.fleet.connected(&input.node).await.before_asking_again().await } => {}
                        () = self.nodes.lost().until_lost(&input.node) => return Err(error),
                        () = running.cancelled().cancelled() => return Err(error),
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes a node out of the fleet. With `force` also one with containers of ours on it: they stay on the machine, unknown to us.
    pub async fn remove_node(&self, actor: &Actor, meta: &Meta, key: &str, force: bool) -> ApiResult<NodeId> {
        if force {
            // What is being made there would wait for a node that never comes.
            for record in self.index.on_node(&self.nodes.find(key)?) {
                if let Phase::Creating { operation } = &record.state.phase
                    && self.operations.cancel(operation)
                {
                    self.operations.wait(operation, WAIT).await?;
                }
            }
        }
        self.nodes.remove(actor, meta, key, force).await
    }
}
