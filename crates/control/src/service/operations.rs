//! Operations: work that outlasts a request.
//!
//! An operation is written before its work begins and in the transaction that asks for it. It runs in a task of its own,
//! so a caller who hangs up changes nothing. Its end is written in one transaction with what came of it. One that a crash
//! cut short is begun again by [`Operations::resume`]: each step finds what it made before by the operation's id.

mod running;

pub use running::{Layers, Running};

use crate::api::error::{ApiError, ApiResult};
use crate::service::auth::Actor;
use crate::service::clock::SharedClock;
use crate::service::tally::Tallies;
use futures_util::future::BoxFuture;
use nm_link::trace;
use nm_store::{Kind, ListQuery, NewResource, Patch, Resource, Store, StoreError, Tx};
use nm_types::OperationId;
use nm_types::operation::{OperationLogLine, OperationState, OperationView};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// How long an API call waits for an operation's end before it answers 202.
pub const WAIT: Duration = Duration::from_secs(30);
/// Between two attempts to write an operation's end.
const AGAIN: Duration = Duration::from_secs(1);
/// The most log lines kept.
const LOG_LINES: usize = 200;
/// How long finished operations are kept.
const KEEP_MS: i64 = 7 * 24 * 3_600_000;

/// The spec column: what was asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Asked {
    pub kind: String,
    pub actor: String,
    /// What the work needs to be begun again; holds no secrets.
    pub input: Value,
}

/// Writes what came of a piece of work, in the transaction that ends its operation. It runs again where that could not be
/// committed, so it must stand being run twice.
pub type End = Box<dyn for<'a> Fn(&'a mut Tx) -> BoxFuture<'a, Result<(), StoreError>> + Send + Sync>;

/// An [`End`]; the bounds make the compiler see a closure as one.
pub fn written<F>(end: F) -> End
where
    F: for<'a> Fn(&'a mut Tx) -> BoxFuture<'a, Result<(), StoreError>> + Send + Sync + 'static,
{
    Box::new(end)
}

/// What a finished piece of work leaves: its result, and what makes it so, when there is something.
pub struct Outcome {
    pub result: Value,
    pub end: Option<End>,
}

/// What failed, and what undoes what was begun, when there is something.
pub struct Failure {
    pub error: ApiError,
    pub end: Option<End>,
}

impl<E: Into<ApiError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure {
            error: error.into(),
            end: None,
        }
    }
}

pub type Finish = Result<Outcome, Failure>;

#[derive(Debug, Clone)]
struct Live {
    view: watch::Sender<Arc<OperationView>>,
    cancel: CancellationToken,
}

/// All operations. Cheap to clone.
#[derive(Clone)]
pub struct Operations {
    store: Store,
    clock: SharedClock,
    live: Arc<Mutex<HashMap<OperationId, Live>>>,
    /// Changes whenever an operation begins to run.
    begun: watch::Sender<()>,
    tasks: TaskTracker,
    tallies: Tallies,
}

impl Operations {
    pub fn new(store: Store, clock: SharedClock) -> Self {
        Self {
            store,
            clock,
            live: Arc::default(),
            begun: watch::Sender::new(()),
            tasks: TaskTracker::new(),
            tallies: Tallies::default(),
        }
    }

    fn live(&self) -> MutexGuard<'_, HashMap<OperationId, Live>> {
        self.live.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Writes a new operation into `tx`. Nothing runs until [`Operations::run`], after the commit.
    pub async fn create(
        &self,
        tx: &mut Tx,
        actor: &Actor,
        kind: &str,
        target: Option<&str>,
        input: Value,
    ) -> Result<OperationView, StoreError> {
        self.create_noting(tx, actor, kind, target, input, Vec::new()).await
    }

    /// As [`Operations::create`], with the first lines of its log.
    pub async fn create_noting(
        &self,
        tx: &mut Tx,
        actor: &Actor,
        kind: &str,
        target: Option<&str>,
        input: Value,
        log: Vec<String>,
    ) -> Result<OperationView, StoreError> {
        let now = tx.now();
        let view = OperationView {
            id: OperationId::fresh(now.0),
            kind: kind.into(),
            state: OperationState::Running,
            target: target.map(str::to_owned),
            actor: actor.label(),
            progress: None,
            steps: Vec::new(),
            log: log.into_iter().map(|line| OperationLogLine { time: now, line }).collect(),
            result: None,
            error: None,
            cancel_requested: false,
            created: now,
            updated: now,
            finished: None,
        };
        let asked = Asked {
            kind: kind.into(),
            actor: actor.label(),
            input,
        };
        tx.insert(
            NewResource::new(Kind::Operation, view.id.as_str())
                .named(kind)
                .within(target.unwrap_or_default())
                .spec(&asked)?
                .status(&view)?,
        )
        .await?;
        Ok(view)
    }

    /// Begins the work of a committed operation.
    pub fn run<F, Fut>(&self, view: OperationView, work: F)
    where
        F: FnOnce(Running) -> Fut,
        Fut: Future<Output = Finish> + Send + 'static,
    {
        let (id, began) = (view.id.clone(), Instant::now());
        let span = tracing::info_span!("operation", operation.id = %id, operation.kind = view.kind);
        let trace = trace::operation(&id, &view.kind);
        let live = Live {
            view: watch::Sender::new(Arc::new(view)),
            cancel: CancellationToken::new(),
        };
        self.live().insert(id.clone(), live.clone());
        self.begun.send_replace(());
        let running = Running {
            id: id.clone(),
            live: live.clone(),
            clock: self.clock.clone(),
            steps: true,
            trace: trace.clone(),
            step: Arc::default(),
        };
        let future = work(running).instrument(span).instrument(trace.clone());
        let this = self.clone();
        self.tasks.spawn(async move {
            // A panic of the work must end the operation too, not leave it running for ever.
            let finish = match tokio::spawn(future).await {
                Ok(finish) => finish,
                Err(error) => {
                    tracing::error!(operation.id = %id, %error, "an operation's work panicked");
                    Err(Failure {
                        error: ApiError::internal(),
                        end: None,
                    })
                }
            };
            if let Err(Failure { error, .. }) = &finish {
                trace::failed(&trace, &error.code);
            }
            drop(trace);
            this.finish(&id, &live, finish, began).await;
        });
    }

    async fn finish(&self, id: &OperationId, live: &Live, finish: Finish, began: Instant) {
        let now = self.clock.now();
        let mut view = OperationView::clone(&live.view.borrow());
        let end = match finish {
            Ok(Outcome { result, end }) => {
                view.state = OperationState::Succeeded;
                view.progress = Some(100.0);
                view.result = Some(result);
                end
            }
            Err(Failure { error, end }) => {
                view.state = if view.cancel_requested {
                    OperationState::Cancelled
                } else {
                    OperationState::Failed
                };
                view.error = Some(error.into());
                end
            }
        };
        let last = view.state;
        if let Some(step) = view.steps.last_mut().filter(|s| !s.state.is_final()) {
            step.state = last;
            step.layers.clear();
        }
        (view.updated, view.finished) = (now, Some(now));
        let mut told = false;
        while let Err(error) = self.write_end(id, &view, end.as_ref()).await {
            let passes = matches!(
                error,
                StoreError::Busy { .. } | StoreError::Unavailable { .. } | StoreError::Full { .. }
            );
            // What the caller is told must be what is kept: an end that was not written is not an end.
            if !passes {
                tracing::error!(operation.id = %id, error = &error as &dyn std::error::Error, "an operation's end could not be written: it is begun again at the next start");
                view.state = OperationState::Failed;
                view.result = None;
                view.error = Some(ApiError::from(error).into());
                break;
            }
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(operation.id = %id, error = &error as &dyn std::error::Error, "an operation's end can't be written yet; trying again");
            }
            if self.tasks.is_closed() {
                // It is begun again at the next start.
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
        let took = began.elapsed();
        let code = view.error.as_ref().map(|e| e.code.as_str());
        tracing::info!(operation.id = %id, operation.kind = view.kind, operation.state = view.state.as_str(), error.code = code, took_ms = took.as_secs_f64() * 1e3, "an operation ended");
        self.tallies.count(&view.kind, view.state, took);
        live.view.send_replace(Arc::new(view));
        self.live().remove(id);
    }

    async fn write_end(&self, id: &OperationId, view: &OperationView, end: Option<&End>) -> Result<(), StoreError> {
        let mut tx = self.store.begin(self.clock.now()).await?;
        if let Some(end) = end {
            end(&mut tx).await?;
        }
        tx.update(Kind::Operation, id.as_str(), Patch::new().status(view)?).await?;
        tx.commit().await?;
        Ok(())
    }

    pub async fn get(&self, id: &str) -> ApiResult<OperationView> {
        let missing = || ApiError::not_found("operation", id);
        let parsed = OperationId::parse(id).map_err(|_| missing())?;
        if let Some(live) = self.live().get(&parsed) {
            return Ok(OperationView::clone(&live.view.borrow()));
        }
        let row = self.store.get(Kind::Operation, id).await?.ok_or_else(missing)?;
        Ok(view_of(&row)?)
    }

    /// Follows an operation: its present state, then each change until its end.
    pub async fn follow(&self, id: &str) -> ApiResult<Follow> {
        let live = OperationId::parse(id)
            .ok()
            .and_then(|id| self.live().get(&id).map(|l| l.view.subscribe()));
        match live {
            Some(mut changes) => {
                changes.mark_changed();
                Ok(Follow::Live(changes))
            }
            None => Ok(Follow::Ended(Some(Box::new(self.get(id).await?)))),
        }
    }

    /// Newest first.
    pub async fn list(
        &self,
        target: Option<&str>,
        state: Option<OperationState>,
        after: Option<&str>,
        limit: u32,
    ) -> ApiResult<(Vec<OperationView>, Option<String>)> {
        // One more than asked for tells whether there is a next page.
        let (at_once, limit) = (limit + 1, limit as usize);
        let mut out: Vec<OperationView> = Vec::new();
        let mut after = after.map(str::to_owned);
        loop {
            let query = ListQuery {
                kind: Kind::Operation,
                parent: target,
                after: after.as_deref(),
                newest_first: true,
                limit: at_once,
            };
            let rows = self.store.list(query).await?;
            let full = rows.len() == at_once as usize;
            for row in rows {
                let view = match OperationId::parse(&row.id)
                    .ok()
                    .and_then(|id| self.live().get(&id).map(|l| l.view.borrow().clone()))
                {
                    Some(live) => OperationView::clone(&live),
                    None => view_of(&row)?,
                };
                if state.is_none_or(|s| s == view.state) {
                    if out.len() == limit {
                        let next = out.last().map(|o| o.id.to_string());
                        return Ok((out, next));
                    }
                    out.push(view);
                }
                after = Some(row.id);
            }
            if !full {
                return Ok((out, None));
            }
        }
    }

    /// Waits for the end, at most `most`.
    pub async fn wait(&self, id: &OperationId, most: Duration) -> ApiResult<OperationView> {
        match tokio::time::timeout(most, self.ended(id)).await {
            Ok(view) => view,
            Err(_) => self.get(id.as_str()).await,
        }
    }

    async fn ended(&self, id: &OperationId) -> ApiResult<OperationView> {
        let mut begun = self.begun.subscribe();
        loop {
            let changes = self.live().get(id).map(|l| l.view.subscribe());
            if let Some(mut changes) = changes
                && let Ok(view) = changes.wait_for(|v| v.state.is_final()).await
            {
                return Ok(OperationView::clone(&view));
            }
            // Ended already; or it is written and begins in a moment.
            let stored = self.get(id.as_str()).await?;
            if stored.state.is_final() || begun.changed().await.is_err() {
                return Ok(stored);
            }
        }
    }

    /// Asks it to end early. Work that can't be cut off where it stands goes on to its end.
    pub fn cancel(&self, id: &OperationId) -> bool {
        let Some(live) = self.live().get(id).cloned() else { return false };
        live.view.send_modify(|v| Arc::make_mut(v).cancel_requested = true);
        live.cancel.cancel();
        true
    }

    /// What a crash cut short: each with what was asked for.
    pub async fn unfinished(&self) -> ApiResult<Vec<(OperationView, Asked)>> {
        let mut out = Vec::new();
        for row in self.store.all(Kind::Operation).await? {
            let view = view_of(&row)?;
            if !view.state.is_final() && !self.live().contains_key(&view.id) {
                out.push((view, row.spec::<Asked>()?));
            }
        }
        Ok(out)
    }

    /// Drops operations that ended long ago.
    pub async fn sweep(&self) -> ApiResult<u64> {
        let now = self.clock.now();
        let old: Vec<String> = self
            .store
            .all(Kind::Operation)
            .await?
            .into_iter()
            .filter(|row| view_of(row).is_ok_and(|v| v.finished.is_some_and(|f| now.since(f) > KEEP_MS)))
            .map(|row| row.id)
            .collect();
        for chunk in old.chunks(200) {
            let mut tx = self.store.begin(now).await?;
            for id in chunk {
                tx.delete(Kind::Operation, id).await?;
            }
            tx.commit().await?;
        }
        Ok(old.len() as u64)
    }

    /// Whether it runs in this process.
    pub fn runs(&self, id: &OperationId) -> bool {
        self.live().contains_key(id)
    }
    /// The operation of this kind that works on `target` now.
    pub fn under_way(&self, kind: &str, target: &str) -> Option<OperationId> {
        let is_it = |l: &Live| {
            let view = l.view.borrow();
            view.kind == kind && view.target.as_deref() == Some(target) && !view.state.is_final()
        };
        self.live().iter().find(|(_, l)| is_it(l)).map(|(id, _)| id.clone())
    }
    /// What has ended.
    pub fn tallies(&self) -> &Tallies {
        &self.tallies
    }

    /// How many run now.
    pub fn running(&self) -> usize {
        self.live().len()
    }

    /// Waits until what runs has ended, at most `grace`. The rest is taken up again at the next start.
    pub async fn close(&self, grace: Duration) {
        self.tasks.close();
        if tokio::time::timeout(grace, self.tasks.wait()).await.is_err() {
            tracing::info!(running = self.running(), "operations go on at the next start");
        }
    }
}

/// An operation as it goes.
#[derive(Debug)]
pub enum Follow {
    Live(watch::Receiver<Arc<OperationView>>),
    Ended(Option<Box<OperationView>>),
}

impl Follow {
    /// The next state; `None` behind the last.
    pub async fn next(&mut self) -> Option<OperationView> {
        match self {
            Follow::Ended(view) => view.take().map(|v| *v),
            Follow::Live(changes) => {
                let view = match changes.changed().await {
                    Ok(()) => OperationView::clone(&changes.borrow_and_update()),
                    Err(_) => return None,
                };
                if view.state.is_final() {
                    *self = Follow::Ended(None);
                }
                Some(view)
            }
        }
    }
}

fn view_of(row: &Resource) -> Result<OperationView, StoreError> {
    row.status::<OperationView>()
}
