//! One control plane at a time on PostgreSQL, as the lock on its file does for SQLite.
//!
//! A session's advisory lock, on a connection of its own, for as long as the process lives. PostgreSQL lets go of it when that
//! connection ends, so from the moment its end is seen nothing is written until the lock is held again. A process that had the
//! lock in between may have written what this one does not know: that is found by its turn's number, and ends this process.
//!
//! Invariant: this side sees within ten seconds that the line is dead, and the server ends a session whose client does not
//! answer only after longer than that, so no two processes hold the lock as they see it.

use crate::error::StoreError;
use sqlx::Row;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// A connection that says nothing for so long is asked whether it still holds the lock.
const ASK_EVERY: Duration = Duration::from_secs(5);
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// Between two attempts to get a lost lock back.
const AGAIN: Duration = Duration::from_millis(500);

/// The lock waits for five seconds: a control plane that ends may need a moment to let go. A client that does not answer is given up
/// after 10 s of silence and 3 probes, 25 s in all.
const SETTINGS: &str =
    "SET lock_timeout = '5s'; SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3";
/// Any number that no other program uses: the first bytes of SHA-256 of "neuralmesh control plane". By schema, for each is an installation.
const LOCK: &str = "SELECT pg_advisory_lock(1810076945, hashtext(current_schema()))";
const HELD: &str =
    "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND classid = 1810076945 AND pid = pg_backend_pid() AND granted)";
const MAKE_TURNS: &str = "CREATE SEQUENCE IF NOT EXISTS control_plane_turns";
const NEXT_TURN: &str = "SELECT nextval('control_plane_turns')";
const LAST_TURN: &str = "SELECT last_value FROM control_plane_turns";

type Fatal = watch::Sender<Option<Arc<str>>>;

/// Being the only one. Ends when dropped.
pub(crate) struct Alone {
    held: watch::Receiver<bool>,
    keeper: AbortHandle,
}

impl Alone {
    /// Takes the lock, or says who has it. `fatal` hears when it went to another process.
    pub(crate) async fn begin(options: PgConnectOptions, fatal: Fatal) -> Result<Self, StoreError> {
        let options = options.application_name("neuralmesh-alone");
        let mut lock = take(&options).await?;
        let turn = async {
            sqlx::raw_sql(MAKE_TURNS).execute(&mut lock).await?;
            sqlx::query(NEXT_TURN).fetch_one(&mut lock).await?.try_get::<i64, _>(0)
        };
        let turn = turn.await.map_err(|e| StoreError::from_sqlx("take the turn", e))?;
        let (sender, held) = watch::channel(true);
        let keeper = tokio::spawn(keep(lock, options, turn, sender, fatal)).abort_handle();
        Ok(Self { held, keeper })
    }

    pub(crate) fn is_held(&self) -> bool {
        *self.held.borrow()
    }

    /// Lets go of the lock; nothing may be written any more.
    pub(crate) fn end(&self) {
        self.keeper.abort();
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.end();
    }
}

/// A connection that holds the lock.
async fn take(options: &PgConnectOptions) -> Result<PgListener, StoreError> {
    let attempt = "be the only control plane on the database";
    let taking = async {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_lazy_with(options.clone());
        // A listener tells at once when its connection ends; another one would be asked for by the next use only.
        let mut lock = PgListener::connect_with(&pool).await?;
        lock.eager_reconnect(false);
        sqlx::raw_sql(SETTINGS).execute(&mut lock).await?;
        sqlx::raw_sql(LOCK).execute(&mut lock).await?;
        Ok(lock)
    };
    match tokio::time::timeout(CONNECT_DEADLINE, taking).await {
        Ok(Ok(lock)) => Ok(lock),
        // lock_not_available
        Ok(Err(sqlx::Error::Database(e))) if e.code().as_deref() == Some("55P03") => Err(StoreError::Taken),
        Ok(Err(error)) => Err(StoreError::from_sqlx(attempt, error)),
        Err(_) => Err(StoreError::Unavailable {
            attempt,
            source: Box::new(sqlx::Error::PoolTimedOut),
        }),
    }
}

async fn keep(mut lock: PgListener, options: PgConnectOptions, turn: i64, held: watch::Sender<bool>, fatal: Fatal) {
    let over = |reason: &str| {
        tracing::error!(reason, "no further write is accepted");
        fatal.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert_with(|| reason.into());
            is_first
        });
    };
    loop {
        lost(&mut lock).await;
        held.send_replace(false);
        tracing::warn!("the database let go of the lock that keeps a second control plane out; nothing is written until it is held again");
        lock = loop {
            match again(&options).await {
                Ok((lock, last)) if last == turn => break lock,
                Ok(_) => return over("another control plane has used the database meanwhile: start this one anew"),
                Err(StoreError::Taken) => return over("another control plane uses the database now"),
                Err(error) => tracing::debug!(%error, "the lock is not to be had yet"),
            }
            tokio::time::sleep(AGAIN).await;
        };
        held.send_replace(true);
        tracing::info!("the lock that keeps a second control plane out is held again");
    }
}

/// The lock once more, and the number of who took it last as a new process.
async fn again(options: &PgConnectOptions) -> Result<(PgListener, i64), StoreError> {
    let mut lock = take(options).await?;
    let last = async { sqlx::query(LAST_TURN).fetch_one(&mut lock).await?.try_get(0) };
    let last = last.await.map_err(|e| StoreError::from_sqlx("read whose turn it is", e))?;
    Ok((lock, last))
}

/// Returns when the connection has ended or no longer holds the lock.
async fn lost(lock: &mut PgListener) {
    loop {
        match tokio::time::timeout(ASK_EVERY, lock.try_recv()).await {
            // Nobody notifies it of anything.
            Ok(Ok(Some(_))) => {}
            Ok(Ok(None) | Err(_)) => return,
            Err(_) => {
                let asked = async { sqlx::query(HELD).fetch_one(&mut *lock).await?.try_get::<bool, _>(0) };
                if !matches!(tokio::time::timeout(ANSWER_DEADLINE, asked).await, Ok(Ok(true))) {
                    return;
                }
            }
        }
    }
}
