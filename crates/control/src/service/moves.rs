//! Moving one container from its node to another.
//!
//! It goes in three steps, and each is written down before the next begins. The target is chosen, and the record says that the
//! container moves there. It is made and started there. One transaction makes the target its node and writes down the older copy as
//! left over; that one is stopped and removed as soon as its node answers. Killed at any moment, the same steps are taken again: the
//! target finds what it has made, a target that is given up becomes a node with a copy left over, and at the end one copy runs.

use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::Meta;
use crate::service::audit::audit;
use crate::service::auth::Actor;
use crate::service::containers::{Containers, NotMade};
use crate::service::index::{Phase, Record, State};
use crate::service::leftovers::Leftover;
use crate::service::operations::{End, Running, written};
use crate::service::placing::{Moving, NO_PLACE, no_place};
use nm_store::{Kind, Patch, StoreError, Tx};
use nm_types::container::ObservedContainer;
use nm_types::{ContainerId, NodeId, OperationId};
use std::collections::BTreeMap;
use std::time::Duration;

/// Between two attempts to write while the store does not answer.
const AGAIN: Duration = Duration::from_secs(1);
/// What Docker grants a container between the stop signal and the kill, where nobody says otherwise.
const GRACE: i64 = 10;
/// The most that a copy is granted that nobody has talked to since its node was lost.
const STALE_GRACE: i64 = 10;

/// One move.
#[derive(Debug, Clone)]
pub(super) struct Move {
    pub container: ContainerId,
    pub from: NodeId,
    /// The node it comes from is lost: it moves only as long as that is so.
    pub lost: bool,
    /// Seconds for the older copy to end by itself.
    pub grace: Option<i64>,
}

/// What a move came to.
#[derive(Debug)]
pub(super) enum Moved {
    /// It is on this node now.
    To(NodeId),
    /// It stays where it is, and that is fine.
    Stays(String),
    /// It stays where it is, though it should not.
    Failed(ApiError),
    Cancelled,
}

/// Why a target was given up.
struct GivenUp {
    why: ApiError,
    may_be_there: bool,
}

impl Containers {
    /// Moves a container. A move that was begun by the same operation goes on where it stands.
    pub(super) async fn relocate(&self, running: &Running, job: &Move) -> Moved {
        let _held = self.locks.hold(job.container.clone()).await;
        let mut barred: BTreeMap<NodeId, String> = BTreeMap::new();
        loop {
            let Some(record) = self.index.get(&job.container) else {
                return Moved::Stays("it was removed meanwhile".into());
            };
            if record.node != job.from {
                return Moved::To(record.node.clone());
            }
            let to = match &record.state.phase {
                Phase::Moving { operation, to } if operation == running.id() => to.clone(),
                Phase::Ready => {
                    if running.cancelled().is_cancelled() {
                        return Moved::Cancelled;
                    }
                    if job.lost && self.came_back(&job.from).await {
                        return Moved::Stays("its node is back".into());
                    }
                    match self.aim(running, &record, &barred).await {
                        Ok(to) => to,
                        Err(error) if error.code == NO_PLACE && self.more_is_known(running).await => continue,
                        Err(error) => return Moved::Failed(error),
                    }
                }
                Phase::Creating { operation } | Phase::Moving { operation, .. } => {
                    return Moved::Stays(format!("operation {operation} works on it"));
                }
                Phase::Removing { .. } => return Moved::Stays("it is being removed".into()),
                Phase::Foreign => return Moved::Stays("it was not made by us".into()),
            };
            let Some(record) = self.index.get(&job.container) else { continue };
            match self.make_there(running, &record, &to).await {
                Ok(observed) => match self.settle(job, &record, &to, observed, running.id()).await {
                    Ok(true) => {
                        // With what was seen of it while that was written.
                        if let Err(error) = self.persist(std::slice::from_ref(&job.container)).await {
                            tracing::info!(container.id = %job.container, error = %error.message, "what was seen of a container is written later");
                        }
                        return Moved::To(to);
                    }
                    Ok(false) => return Moved::Stays("it was removed meanwhile".into()),
                    Err(error) => return Moved::Failed(error.into()),
                },
                Err(GivenUp { why, may_be_there }) => {
                    let cancelled = running.cancelled().is_cancelled();
                    let name = self.nodes.name(&to);
                    running.log(format!("`{}` can't run on {name}: {}", record.name(), why.message));
                    if let Err(error) = self.give_up(&record, &to, may_be_there).await {
                        return Moved::Failed(error.into());
                    }
                    if cancelled {
                        return Moved::Cancelled;
                    }
                    barred.insert(to, format!("could not make it: {}", why.message));
                }
            }
        }
    }

    /// Whether a lost node is back. After a start of ours that takes a moment to know.
    async fn came_back(&self, node: &NodeId) -> bool {
        if self.nodes.lost().is_lost(node) || !self.nodes.knows(node) {
            return false;
        }
        tokio::select! {
            () = self.nodes.lost().until_lost(node) => false,
            _ = self.fleet.connected(node) => true,
        }
    }

    /// Waits for what is to be learnt of a node that is away and not lost: after a start of ours all are. Says whether there was one.
    async fn more_is_known(&self, running: &Running) -> bool {
        let unsure = |node: &NodeId| !self.fleet.is_connected(node) && !self.nodes.lost().is_lost(node);
        let Some(node) = self.nodes.ids().into_iter().find(unsure) else {
            return false;
        };
        tokio::select! {
            _ = self.fleet.connected(&node) => {}
            () = self.nodes.lost().until_lost(&node) => {}
            () = running.cancelled().cancelled() => {}
        }
        true
    }

    /// What is to be minded when a node is chosen for a container that is on one.
    pub(super) fn moving(&self, record: &Record, barred: &BTreeMap<NodeId, String>) -> Moving {
        let mut barred = barred.clone();
        barred.insert(record.node.clone(), "is the node it is moved from".into());
        Moving {
            id: Some(record.id.clone()),
            barred,
            arch: self.nodes.info(&record.node).map(|i| i.arch),
        }
    }

    /// Chooses a node and writes that the container moves there.
    async fn aim(&self, running: &Running, record: &Record, barred: &BTreeMap<NodeId, String>) -> ApiResult<NodeId> {
        let spec = record.wanted.spec.as_ref().ok_or_else(ApiError::internal)?;
        let _placing = self.nodes.placing().await;
        let placement = self.choose(spec, self.moving(record, barred)).map_err(|no| no_place(&no))?;
        for line in placement.lines() {
            running.log(format!("`{}`: {line}", record.name()));
        }
        let phase = Phase::Moving {
            operation: running.id().clone(),
            to: placement.node.clone(),
        };
        let (this, id) = (self.clone(), record.id.clone());
        self.insist(&written(move |tx| {
            Box::pin(this.clone().write_phase(tx, id.clone(), phase.clone()))
        }))
        .await?;
        Ok(placement.node)
    }

    /// In memory within the transaction, so that whoever writes next does not write what was before.
    pub(super) async fn write_phase(self, tx: &mut Tx, id: ContainerId, phase: Phase) -> Result<(), StoreError> {
        let Some(record) = self.index.get(&id) else { return Ok(()) };
        let mut changed = Record::clone(&record);
        changed.state.phase = phase.clone();
        changed.state.note = None;
        let row = tx
            .update(Kind::Container, id.as_str(), Patch::new().status(&changed.stored_state())?)
            .await?;
        self.index.change(&id, |r| {
            r.state.phase = phase;
            (r.state.note, r.state.arriving) = (None, None);
            r.revision = r.revision.max(row.revision);
            true
        });
        Ok(())
    }

    /// Makes it on the node it moves to, for as long as that node is not lost.
    async fn make_there(&self, running: &Running, record: &Record, to: &NodeId) -> Result<ObservedContainer, GivenUp> {
        let Some(spec) = record.wanted.spec.clone() else {
            return Err(GivenUp {
                why: ApiError::internal(),
                may_be_there: false,
            });
        };
        let there = Record {
            node: to.clone(),
            // That it will have: the node refuses what was asked for before it moved.
            generation: record.generation + 1,
            ..record.clone()
        };
        let gone = |message: String| GivenUp {
            why: ApiError::unavailable("node_offline", message),
            may_be_there: true,
        };
        if !self.nodes.knows(to) {
            return Err(gone(format!("node {to} is no longer in the fleet")));
        }
        tokio::select! {
            made = self.create_on_node(running, &there, *spec, record.should_run()) => {
                made.map_err(|NotMade { error, may_be_there }| GivenUp { why: error, may_be_there })
            }
            () = self.nodes.lost().until_lost(to) => Err(gone(format!("node {to} was lost meanwhile"))),
        }
    }

    /// Makes the target its node and writes the older copy down. Says whether there still is such a container.
    async fn settle(
        &self,
        job: &Move,
        record: &Record,
        to: &NodeId,
        observed: ObservedContainer,
        operation: &OperationId,
    ) -> Result<bool, StoreError> {
        let own = record.wanted.spec.as_ref().and_then(|s| s.stop_grace).map(|g| g.get());
        let grace = job.grace.or(own).unwrap_or(GRACE);
        let older = Leftover {
            node: record.node.clone(),
            container: record.id.clone(),
            name: record.name().to_owned(),
            generation: record.generation + 1,
            grace: if job.lost { grace.min(STALE_GRACE) } else { grace },
        };
        let detail = serde_json::json!({ "name": record.name(), "from": record.node, "to": to, "lost": job.lost, "operation": operation });
        let (this, target, id) = (self.clone(), to.clone(), record.id.clone());
        let end = written(move |tx| {
            let (this, older, target, observed, detail) = (this.clone(), older.clone(), target.clone(), observed.clone(), detail.clone());
            Box::pin(async move { this.write_moved(tx, older, target, observed, detail).await })
        });
        match self.insist(&end).await {
            Ok(()) => Ok(true),
            // Its row went with its node, or its name was taken there meanwhile: the new copy is too many.
            Err(StoreError::NotFound { .. }) => {
                self.take_back(record, to).await?;
                Ok(false)
            }
            Err(error @ StoreError::Conflict { .. }) => {
                tracing::warn!(container.id = %id, error = &error as &dyn std::error::Error, "a container that was moved can't stay where it is");
                self.give_up(record, to, true).await?;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    async fn write_moved(
        self,
        tx: &mut Tx,
        older: Leftover,
        to: NodeId,
        observed: ObservedContainer,
        detail: serde_json::Value,
    ) -> Result<(), StoreError> {
        let id = older.container.clone();
        let not_there = || StoreError::NotFound {
            kind: Kind::Container.into(),
            id: id.to_string(),
        };
        let record = self.index.get(&id).ok_or_else(not_there)?;
        if record.node == to {
            return Ok(());
        }
        // What the watch said of it is in order; a later word is still to come then, and replaces this one.
        let state = State {
            observed: Some(record.state.arriving.clone().map_or(observed, |seen| *seen)),
            ..State::new(Phase::Ready)
        };
        let changed = Record {
            node: to.clone(),
            state,
            ..Record::clone(&record)
        };
        let patch = Patch::new().parent(to.as_str()).status(&changed.stored_state())?;
        let row = tx.update(Kind::Container, id.as_str(), patch).await?;
        self.nodes.leftovers().note(tx, &older).await?;
        tx.audit(audit(
            &Actor::system(),
            &Meta::internal(),
            "container.move",
            Some(id.as_str()),
            detail,
        ))
        .await?;
        // First the copy, then the record: at no moment does the older copy look like a stranger.
        self.nodes.leftovers().noted(older);
        self.index.change(&id, |r| {
            // The watch may have said more while this was written.
            let newest = r.state.arriving.take();
            r.state = changed.state;
            r.state.observed = newest.map(|seen| *seen).or(r.state.observed.take());
            (r.node, r.generation, r.revision) = (to, row.generation, row.revision);
            true
        });
        Ok(())
    }

    /// It does not move there after all; what may be of it there is written down as left over.
    pub(super) async fn give_up(&self, record: &Record, to: &NodeId, may_be_there: bool) -> Result<(), StoreError> {
        let copy = (may_be_there && self.nodes.knows(to)).then(|| unwanted(record, to));
        let (this, id) = (self.clone(), record.id.clone());
        let end = written(move |tx| {
            let (this, id, copy) = (this.clone(), id.clone(), copy.clone());
            Box::pin(async move {
                if let Some(copy) = copy {
                    this.nodes.leftovers().note(tx, &copy).await?;
                    this.nodes.leftovers().noted(copy);
                }
                match this.write_phase(tx, id, Phase::Ready).await {
                    Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
                    Err(error) => Err(error),
                }
            })
        });
        self.insist(&end).await?;
        self.clear_soon(to, &record.id);
        Ok(())
    }

    /// The container is gone, and what was made of it on a node goes, too.
    async fn take_back(&self, record: &Record, to: &NodeId) -> Result<(), StoreError> {
        if !self.nodes.knows(to) {
            return Ok(());
        }
        let (this, copy) = (self.clone(), unwanted(record, to));
        let end = written(move |tx| {
            let (this, copy) = (this.clone(), copy.clone());
            Box::pin(async move {
                this.nodes.leftovers().note(tx, &copy).await?;
                this.nodes.leftovers().noted(copy);
                Ok(())
            })
        });
        self.insist(&end).await?;
        self.clear_soon(to, &record.id);
        Ok(())
    }

    /// Where the node is there it need not wait for its next snapshot.
    pub(super) fn clear_soon(&self, node: &NodeId, container: &ContainerId) {
        let (leftovers, node, container) = (self.nodes.leftovers().clone(), node.clone(), container.clone());
        tokio::spawn(async move {
            if let Err(error) = leftovers.clear(&node, &container).await {
                tracing::info!(node.id = %node, container.id = %container, error = %error.message, "an older copy is removed later");
            }
        });
    }

    /// Writes until it is written. What the store refuses for good is the caller's.
    pub(super) async fn insist(&self, end: &End) -> Result<(), StoreError> {
        loop {
            let attempt = async {
                let mut tx = self.store.begin(self.clock.now()).await?;
                end(&mut tx).await?;
                tx.commit().await.map(drop)
            };
            match attempt.await {
                Err(error @ (StoreError::Busy { .. } | StoreError::Unavailable { .. } | StoreError::Full { .. })) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "a move can't be written yet; trying again"
                    );
                    tokio::time::sleep(AGAIN).await;
                }
                other => return other,
            }
        }
    }

    /// Gives up moves whose operation has ended without a word, as one does that could not be written.
    pub async fn settle_moves(&self) -> ApiResult<()> {
        let mut stuck = Vec::new();
        self.index.each(|record| {
            if let Phase::Moving { operation, .. } = &record.state.phase
                && !self.operations.runs(operation)
            {
                stuck.push(record.id.clone());
            }
        });
        for id in stuck {
            let _held = self.locks.hold(id.clone()).await;
            let Some(record) = self.index.get(&id) else { continue };
            if let Phase::Moving { operation, to } = &record.state.phase
                && !self.operations.runs(operation)
            {
                tracing::warn!(container.id = %id, operation.id = %operation, "a move without an operation is given up");
                self.give_up(&record, to, true).await?;
            }
        }
        Ok(())
    }
}

/// A copy that nobody relies on yet: it need not end gently.
fn unwanted(record: &Record, node: &NodeId) -> Leftover {
    Leftover {
        node: node.clone(),
        container: record.id.clone(),
        name: record.name().to_owned(),
        generation: record.generation + 1,
        grace: 0,
    }
}
