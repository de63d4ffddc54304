//! The change feed: every committed change, once, in the order of the commits.
//!
//! On SQLite the committing transaction hands its changes over itself, while it is still its turn. On PostgreSQL a task
//! listens for notifications and reads the `changes` table after the last revision it has seen, so the changes of other
//! replicas come too, and nothing is lost or repeated when the connection is cut: the notification only says "look".

use crate::change::{Change, Subject, What};
use crate::db::{Columns, Sql};
use crate::error::StoreError;
use crate::store::Store;
use futures_util::FutureExt;
use sqlx::any::AnyRow;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions, PgRow};
use sqlx::{PgPool, Row};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::AbortHandle;

/// How many changes a receiver may be behind.
const CAPACITY: usize = 4_096;
/// A cut connection may stay silent. After so long without a notification the table is read anyway; an open stream must
/// end within five seconds of its session's end.
const SILENCE: Duration = Duration::from_secs(2);
const READ_DEADLINE: Duration = Duration::from_secs(5);
const PAGE: i64 = 1_000;

pub(crate) struct Feed {
    hub: Arc<Hub>,
    follower: Option<AbortHandle>,
}

struct Hub {
    /// None once the store is closed.
    sender: Mutex<Option<broadcast::Sender<Change>>>,
    published: AtomicI64,
}

impl Hub {
    fn new(revision: i64) -> Arc<Self> {
        let (sender, _) = broadcast::channel(CAPACITY);
        Arc::new(Self {
            sender: Mutex::new(Some(sender)),
            published: AtomicI64::new(revision),
        })
    }

    fn sender(&self) -> Option<broadcast::Sender<Change>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn publish(&self, changes: Vec<Change>) {
        let Some(sender) = self.sender() else { return };
        for change in changes {
            // Before sending: a watch that begins in between skips this one, and reads later what it changed.
            self.published.store(change.revision, Ordering::Release);
            // It fails when nobody listens, which is nobody's loss.
            let _ = sender.send(change);
        }
    }
}

impl Feed {
    pub(crate) fn in_process(revision: i64) -> Self {
        Self {
            hub: Hub::new(revision),
            follower: None,
        }
    }

    /// Starts following the table. The first connection is made here, so that a wrong setting shows at once.
    pub(crate) async fn following(options: PgConnectOptions, revision: i64) -> Result<Self, StoreError> {
        let hub = Hub::new(revision);
        let follower = Follower::connect(options, revision)
            .await
            .map_err(|e| StoreError::from_sqlx("follow the changes", e))?;
        let task = tokio::spawn(follower.run(Arc::clone(&hub)));
        Ok(Self {
            hub,
            follower: Some(task.abort_handle()),
        })
    }

    /// The changes of a transaction that has just been committed by this process.
    pub(crate) fn committed(&self, changes: Vec<Change>) {
        // The follower reads them from the table, among those of other replicas.
        if self.follower.is_none() {
            self.hub.publish(changes);
        }
    }

    /// The last revision that receivers were given.
    pub(crate) fn published(&self) -> i64 {
        self.hub.published.load(Ordering::Acquire)
    }

    pub(crate) fn close(&self) {
        if let Some(task) = &self.follower {
            task.abort();
        }
        self.hub.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.close();
    }
}

/// Receives changes, each once, from the moment [`Store::watch`] was called.
pub struct Watch {
    receiver: broadcast::Receiver<Change>,
    seen: i64,
}

/// Why a [`Watch`] gave no change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The receiver was too slow, and changes after `since` were dropped. Read them with [`Store::changes_since`], tell
    /// the watch how far that came with [`Watch::seen_up_to`], and go on.
    #[error("too slow: changes after revision {since} were dropped")]
    Lagged { since: i64 },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl Watch {
    /// The next change. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Change, WatchError> {
        loop {
            match self.receiver.recv().await {
                Ok(change) if change.revision > self.seen => {
                    self.seen = change.revision;
                    return Ok(change);
                }
                // Read from the table before it arrived here.
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => {
                    // What is still in the channel is in the table too, and the way there is long: begin at its end.
                    self.receiver = self.receiver.resubscribe();
                    return Err(WatchError::Lagged { since: self.seen });
                }
                Err(RecvError::Closed) => return Err(WatchError::Closed),
            }
        }
    }

    /// The revision of the last change given, or the one the store was at when the watch began.
    pub fn seen(&self) -> i64 {
        self.seen
    }

    /// Changes up to `revision` were read elsewhere and shall not come again.
    pub fn seen_up_to(&mut self, revision: i64) {
        self.seen = self.seen.max(revision);
    }
}

impl Store {
    /// Follows the changes from now on. Call it before loading state, and no change falls in between. On PostgreSQL it may
    /// begin with changes that were committed a moment before.
    pub fn watch(&self) -> Watch {
        let hub = &self.shared.feed.hub;
        let receiver = match hub.sender() {
            Some(sender) => sender.subscribe(),
            // A channel whose sender is gone: the watch says that the store is closed.
            None => broadcast::channel(1).1,
        };
        // After subscribing: what was published before is in whatever is read later.
        Watch {
            receiver,
            seen: hub.published.load(Ordering::Acquire),
        }
    }

    /// Up to `limit` changes after `revision`, oldest first. [`StoreError::Compacted`] when some of them are gone.
    pub async fn changes_since(&self, revision: i64, limit: u32) -> Result<Vec<Change>, StoreError> {
        let mut reader = self.shared.db.reader().await?;
        let read = sqlx::query("SELECT revision, subject, id, name, what, at FROM changes WHERE revision > $1 ORDER BY revision LIMIT $2");
        let rows = reader.all("read the changes", read.bind(revision).bind(i64::from(limit))).await?;
        // Afterwards: what is pruned while reading raises the floor.
        let head = reader
            .one("read the oldest change", sqlx::query("SELECT floor FROM store_head"))
            .await?;
        let floor = head.ok_or_else(|| StoreError::corrupt("the head row is missing"))?.int(0)?;
        if revision < floor {
            return Err(StoreError::Compacted { floor });
        }
        rows.iter().filter_map(|row| read_change(row).transpose()).collect()
    }
}

/// None for a kind that only a newer release knows; its schema is ours, or we would not have opened it.
fn read_change(row: &AnyRow) -> Result<Option<Change>, StoreError> {
    Ok(assemble(
        row.int(0)?,
        &row.text(1)?,
        row.text(2)?,
        row.text(3)?,
        &row.text(4)?,
        row.int(5)?,
    ))
}

fn assemble(revision: i64, subject: &str, id: String, name: String, what: &str, at: i64) -> Option<Change> {
    let (subject, what) = (Subject::parse(subject)?, What::parse(what)?);
    Some(Change {
        revision,
        subject,
        id: id.into(),
        name: name.into(),
        what,
        at: nm_types::Timestamp(at),
    })
}

/// PostgreSQL's side: one connection that listens, one that reads.
struct Follower {
    pool: PgPool,
    listener: Option<PgListener>,
    seen: i64,
}

impl Follower {
    async fn connect(options: PgConnectOptions, seen: i64) -> Result<Self, sqlx::Error> {
        let pool = PgPoolOptions::new()
            .max_connections(2)
            .acquire_timeout(Duration::from_secs(5))
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options.application_name("neuralmesh-changes"))
            .await?;
        let mut follower = Self {
            pool,
            listener: None,
            seen,
        };
        follower.listen().await?;
        Ok(follower)
    }

    async fn listen(&mut self) -> Result<(), sqlx::Error> {
        let mut listener = PgListener::connect_with(&self.pool).await?;
        // Otherwise it would reconnect by itself, and we would not know to read what we missed.
        listener.eager_reconnect(false);
        listener.listen("neuralmesh_changes").await?;
        self.listener = Some(listener);
        Ok(())
    }

    async fn run(mut self, hub: Arc<Hub>) {
        let mut pause = Duration::from_millis(100);
        loop {
            match self.turn(&hub).await {
                Ok(()) => pause = Duration::from_millis(100),
                Err(error) => {
                    tracing::warn!(error = %error, retry_ms = pause.as_millis() as u64, "the change feed lost the database");
                    self.listener = None;
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(2));
                }
            }
        }
    }

    /// Listens first, then reads what was missed, then waits: in this order nothing falls in between.
    async fn turn(&mut self, hub: &Hub) -> Result<(), sqlx::Error> {
        if self.listener.is_none() {
            self.listen().await?;
            self.read(hub).await?;
        }
        let Some(listener) = &mut self.listener else { return Ok(()) };
        match tokio::time::timeout(SILENCE, listener.try_recv()).await {
            Ok(Ok(Some(_))) => {
                // Notifications that came together need one reading only.
                loop {
                    match listener.try_recv().now_or_never() {
                        Some(Ok(Some(_))) => {}
                        Some(Ok(None)) => {
                            self.listener = None;
                            return Ok(());
                        }
                        Some(Err(error)) => return Err(error),
                        None => break,
                    }
                }
                self.read(hub).await?;
            }
            // Cut: listen again before reading.
            Ok(Ok(None)) => self.listener = None,
            Ok(Err(error)) => return Err(error),
            Err(_) => {
                if self.read(hub).await? {
                    // There were changes, but nobody told us: the connection is dead without knowing it.
                    tracing::warn!("the change feed heard nothing of new changes; listening anew");
                    self.listener = None;
                }
            }
        }
        Ok(())
    }

    /// Publishes what the table holds after the last revision seen; whether there was any.
    async fn read(&mut self, hub: &Hub) -> Result<bool, sqlx::Error> {
        let mut any = false;
        loop {
            let read =
                sqlx::query("SELECT revision, subject, id, name, what, at FROM changes WHERE revision > $1 ORDER BY revision LIMIT $2");
            let read = read.bind(self.seen).bind(PAGE).fetch_all(&self.pool);
            let rows = tokio::time::timeout(READ_DEADLINE, read)
                .await
                .map_err(|_| sqlx::Error::PoolTimedOut)??;
            let Some(last) = rows.last() else { return Ok(any) };
            any = true;
            self.seen = last.try_get(0)?;
            let full = rows.len() as i64 == PAGE;
            let changes = rows
                .iter()
                .map(read_pg_change)
                .filter_map(Result::transpose)
                .collect::<Result<Vec<_>, _>>()?;
            hub.publish(changes);
            if !full {
                return Ok(true);
            }
        }
    }
}

fn read_pg_change(row: &PgRow) -> Result<Option<Change>, sqlx::Error> {
    let (subject, what): (String, String) = (row.try_get(1)?, row.try_get(4)?);
    Ok(assemble(
        row.try_get(0)?,
        &subject,
        row.try_get(2)?,
        row.try_get(3)?,
        &what,
        row.try_get(5)?,
    ))
}
