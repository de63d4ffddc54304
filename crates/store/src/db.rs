//! Connections: one writer, whose callers queue in order of arrival, and a few readers that cannot write.
//!
//! Both databases get the same shape. SQLite allows one writer anyway. On PostgreSQL each write transaction locks the
//! head row first (see [`crate::tx`]), so a second writing connection of this process would only wait.

use crate::alone::Alone;
use crate::config::{Backend, DatabaseUrl};
use crate::error::StoreError;
use futures_util::TryStreamExt;
use futures_util::stream::BoxStream;
use sqlx::any::{Any, AnyArguments, AnyConnectOptions, AnyPoolOptions, AnyRow};
use sqlx::pool::PoolConnection;
use sqlx::{AnyConnection, AnyPool, Connection, Executor, Row};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::future::Future;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, OwnedMutexGuard, watch};

/// How long one statement may take on PostgreSQL, its network included. SQLite has no network: only the disk can hold it up.
const STATEMENT_DEADLINE: Duration = Duration::from_secs(20);
/// How long a write transaction waits for the ones before it.
const QUEUE_DEADLINE: Duration = Duration::from_secs(20);
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// How long a starting control plane waits for the one before it to let go of the SQLite file.
const LOCK_DEADLINE: Duration = Duration::from_secs(5);

const SQLITE_WRITER: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA busy_timeout = 5000; \
     PRAGMA temp_store = MEMORY; PRAGMA journal_size_limit = 67108864;";
const SQLITE_READER: &str = "PRAGMA query_only = ON; PRAGMA busy_timeout = 5000; PRAGMA temp_store = MEMORY;";
/// A replica that is stopped in the middle of a transaction loses its lock on the head row after five seconds.
const POSTGRES_WRITER: &str = "SET lock_timeout = '10s'; SET idle_in_transaction_session_timeout = '5s'; SET statement_timeout = '20s'; \
     SET synchronous_commit = on; SET default_transaction_isolation = 'read committed';";
const POSTGRES_READER: &str = "SET default_transaction_read_only = on; SET statement_timeout = '20s';";

pub(crate) type Query<'q> = sqlx::query::Query<'q, Any, AnyArguments>;

/// Where statements run: in a write transaction, or on a reader.
pub(crate) trait Sql: Send {
    /// All rows. `attempt` says in words what is being done, for errors.
    fn all(&mut self, attempt: &'static str, query: Query<'_>) -> impl Future<Output = Result<Vec<AnyRow>, StoreError>> + Send;

    /// The first row.
    fn one(&mut self, attempt: &'static str, query: Query<'_>) -> impl Future<Output = Result<Option<AnyRow>, StoreError>> + Send {
        // Reading to the end lets SQLite finish statements with RETURNING.
        async move { Ok(self.all(attempt, query).await?.into_iter().next()) }
    }

    /// How many rows it changed.
    fn run(&mut self, attempt: &'static str, query: Query<'_>) -> impl Future<Output = Result<u64, StoreError>> + Send;
}

pub(crate) struct Db {
    pub(crate) backend: Backend,
    writer_options: AnyConnectOptions,
    readers: AnyPool,
    writer: Arc<Mutex<Option<AnyConnection>>>,
    fatal: watch::Sender<Option<Arc<str>>>,
    sqlite_path: Option<PathBuf>,
    /// Held for as long as this process uses the SQLite file.
    lock: std::sync::Mutex<Option<File>>,
    /// The same for a PostgreSQL database, where it is wished.
    alone: Option<Alone>,
}

/// The turn to write: the queue's head and its connection. The connection goes back only after a clean end, so that a
/// dropped future never leaves half a transaction for the next in line.
pub(crate) struct Turn {
    pub(crate) conn: AnyConnection,
    slot: OwnedMutexGuard<Option<AnyConnection>>,
}

impl Turn {
    /// Gives the connection back, known to be outside any transaction.
    pub(crate) fn finish(mut self) {
        *self.slot = Some(self.conn);
    }
}

impl Db {
    /// `alone` keeps other processes that open it so out. SQLite always does.
    pub(crate) async fn open(url: &DatabaseUrl, alone: bool) -> Result<Self, StoreError> {
        sqlx::any::install_default_drivers();
        let backend = url.backend();
        let fatal = watch::Sender::new(None);
        let alone = match backend {
            Backend::Postgres if alone => Some(Alone::begin(url.postgres_options()?, fatal.clone()).await?),
            Backend::Postgres | Backend::Sqlite => None,
        };
        let (sqlite_path, lock) = match url.sqlite_path() {
            Some(path) => {
                let path = path.to_owned();
                let (path, lock) = blocking("open the SQLite file", move || prepare_sqlite_file(&path)).await?;
                (Some(path), Some(lock))
            }
            None => (None, None),
        };
        let options = url.any_options(sqlite_path.as_deref())?;
        let readers = AnyPoolOptions::new()
            .max_connections(match backend {
                Backend::Sqlite => 4,
                Backend::Postgres => 8,
            })
            .acquire_timeout(CONNECT_DEADLINE)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .before_acquire(move |conn, meta| {
                Box::pin(async move {
                    // A connection idle for long may have been cut; asking each time would double every read's round trips.
                    match backend {
                        Backend::Postgres if meta.idle_for > Duration::from_secs(2) => Ok(conn.ping().await.is_ok()),
                        Backend::Postgres | Backend::Sqlite => Ok(true),
                    }
                })
            })
            .after_connect(move |conn, _| {
                Box::pin(async move {
                    conn.execute(match backend {
                        Backend::Sqlite => SQLITE_READER,
                        Backend::Postgres => POSTGRES_READER,
                    })
                    .await?;
                    Ok(())
                })
            })
            .connect_lazy_with(options.clone());
        Ok(Self {
            backend,
            writer_options: options,
            readers,
            writer: Arc::new(Mutex::new(None)),
            fatal,
            sqlite_path,
            lock: std::sync::Mutex::new(lock),
            alone,
        })
    }

    /// A connection that writes, with the settings that make a commit durable.
    async fn connect_writer(&self) -> Result<AnyConnection, StoreError> {
        let attempt = "connect to the database";
        let connect = async {
            let mut conn = AnyConnection::connect_with(&self.writer_options).await?;
            let settings = match self.backend {
                Backend::Sqlite => SQLITE_WRITER,
                Backend::Postgres => POSTGRES_WRITER,
            };
            let rows = sqlx::raw_sql(settings).fetch_all(&mut conn).await?;
            Ok((conn, rows))
        };
        let (conn, rows) = match tokio::time::timeout(CONNECT_DEADLINE * 2, connect).await {
            Ok(done) => done.map_err(|e| self.note(StoreError::from_sqlx(attempt, e)))?,
            Err(_) => return Err(timed_out(attempt)),
        };
        // SQLite answers with the mode it has, not the one asked for.
        if self.backend == Backend::Sqlite && rows.first().is_none_or(|r| !r.text(0).is_ok_and(|mode| mode == "wal")) {
            return Err(StoreError::invalid(
                "the file system under the SQLite file cannot do write-ahead logging (a network mount?)",
            ));
        }
        Ok(conn)
    }

    /// Waits for the turn to write, then runs `opening` (which starts a transaction) and gives its rows.
    pub(crate) async fn turn(&self, opening: &'static str) -> Result<(Turn, Vec<AnyRow>), StoreError> {
        let attempt = "begin a transaction";
        self.refuse_if_barred()?;
        let queue = Arc::clone(&self.writer).lock_owned();
        let Ok(mut slot) = tokio::time::timeout(QUEUE_DEADLINE, queue).await else {
            return Err(StoreError::Busy {
                attempt,
                source: Box::new(sqlx::Error::PoolTimedOut),
            });
        };
        self.refuse_if_barred()?;
        if self.readers.is_closed() {
            return Err(StoreError::Unavailable {
                attempt,
                source: Box::new(sqlx::Error::PoolClosed),
            });
        }
        // Taken out while in use: a future dropped at the next await closes it.
        if let Some(mut conn) = slot.take() {
            match self.open_transaction(&mut conn, opening).await {
                Ok(rows) => return Ok((Turn { conn, slot }, rows)),
                // Cut while it was idle. Nothing has been done yet, so a new one may do it.
                Err(StoreError::Unavailable { .. }) => drop(conn),
                Err(error) => return Err(error),
            }
        }
        let mut conn = self.connect_writer().await?;
        let rows = self.open_transaction(&mut conn, opening).await?;
        Ok((Turn { conn, slot }, rows))
    }

    async fn open_transaction(&self, conn: &mut AnyConnection, opening: &'static str) -> Result<Vec<AnyRow>, StoreError> {
        self.within("begin a transaction", sqlx::raw_sql(opening).fetch_all(conn)).await
    }

    /// Runs one call to the database: a deadline where there is a network, errors sorted, a failing disk remembered.
    pub(crate) async fn within<T>(
        &self,
        attempt: &'static str,
        call: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, StoreError> {
        let done = match self.backend {
            Backend::Sqlite => call.await,
            Backend::Postgres => match tokio::time::timeout(STATEMENT_DEADLINE, call).await {
                Ok(done) => done,
                Err(_) => return Err(timed_out(attempt)),
            },
        };
        done.map_err(|e| self.note(StoreError::from_sqlx(attempt, e)))
    }

    /// A connection that only reads.
    pub(crate) async fn reader(&self) -> Result<Reader<'_>, StoreError> {
        let conn = self
            .readers
            .acquire()
            .await
            .map_err(|e| self.note(StoreError::from_sqlx("connect to the database", e)))?;
        Ok(Reader { db: self, conn })
    }

    /// A connection that sees all tables as they are now, whatever is written meanwhile. It is not used again.
    pub(crate) async fn view(&self) -> Result<Reader<'_>, StoreError> {
        let mut reader = self.reader().await?;
        reader.conn.close_on_drop();
        let begin = sqlx::raw_sql(crate::export::beginning(self.backend)).execute(&mut *reader.conn);
        self.within("begin to read", begin).await?;
        Ok(reader)
    }

    /// Remembers what makes every further write a lie.
    pub(crate) fn note(&self, error: StoreError) -> StoreError {
        if let StoreError::Fatal { reason } = &error {
            let first = self.fatal.send_if_modified(|held| {
                let first = held.is_none();
                if first {
                    *held = Some(reason.as_str().into());
                }
                first
            });
            if first {
                tracing::error!(reason, "no further write is accepted");
            }
        }
        error
    }

    pub(crate) fn refuse_if_barred(&self) -> Result<(), StoreError> {
        match &*self.fatal.borrow() {
            Some(reason) => Err(StoreError::Fatal {
                reason: reason.to_string(),
            }),
            None if self.alone.as_ref().is_some_and(|alone| !alone.is_held()) => Err(StoreError::Unavailable {
                attempt: "hold the lock that keeps a second control plane out",
                source: Box::new(sqlx::Error::PoolTimedOut),
            }),
            None => Ok(()),
        }
    }

    /// Resolves when the disk was found failing, or another control plane has the database.
    pub(crate) async fn fatal(&self) -> String {
        let mut watch = self.fatal.subscribe();
        loop {
            if let Some(reason) = watch.borrow_and_update().as_deref() {
                return reason.to_owned();
            }
            if watch.changed().await.is_err() {
                // The sender lives in `self`, which is borrowed here: it cannot be gone.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Bytes on disk: SQLite's file and its write-ahead log, or PostgreSQL's own answer.
    pub(crate) async fn size_bytes(&self) -> Result<u64, StoreError> {
        match &self.sqlite_path {
            Some(path) => {
                let size = |path: &Path| match fs::metadata(path) {
                    Ok(meta) => Ok(meta.len()),
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(0),
                    Err(source) => Err(StoreError::File {
                        attempt: "measure",
                        path: path.to_owned(),
                        source,
                    }),
                };
                Ok(size(path)? + size(&beside(path, "-wal"))?)
            }
            None => {
                let query = sqlx::query("SELECT pg_database_size(current_database())");
                let row = self.reader().await?.one("measure the database", query).await?;
                row.map_or(Ok(0), |r| r.int(0)).map(|n| u64::try_from(n).unwrap_or(0))
            }
        }
    }

    /// Waits for the writers in line, closes everything, and lets go of the SQLite file.
    pub(crate) async fn close(&self) {
        let mut slot = self.writer.lock().await;
        self.readers.close().await;
        if let Some(conn) = slot.take()
            && let Err(error) = conn.close().await
        {
            tracing::warn!(error = %error, "the database did not close cleanly; nothing is lost by that");
        }
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(alone) = &self.alone {
            alone.end();
        }
    }
}

/// A pooled connection that only reads.
pub(crate) struct Reader<'a> {
    db: &'a Db,
    conn: PoolConnection<Any>,
}

impl Reader<'_> {
    /// A connection that was cut or timed out must not serve the next caller.
    fn judge<T>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if matches!(result, Err(StoreError::Unavailable { .. })) {
            self.conn.close_on_drop();
        }
        result
    }
}

/// Rows as they come.
pub(crate) struct Rows<'a> {
    db: &'a Db,
    attempt: &'static str,
    rows: BoxStream<'a, Result<AnyRow, sqlx::Error>>,
}

impl Rows<'_> {
    pub(crate) async fn next(&mut self) -> Result<Option<AnyRow>, StoreError> {
        self.db.within(self.attempt, self.rows.try_next()).await
    }
}

impl Reader<'_> {
    pub(crate) fn stream<'s>(&'s mut self, attempt: &'static str, query: Query<'s>) -> Rows<'s> {
        Rows {
            db: self.db,
            attempt,
            rows: query.fetch(&mut *self.conn),
        }
    }
}

impl Sql for Reader<'_> {
    async fn all(&mut self, attempt: &'static str, query: Query<'_>) -> Result<Vec<AnyRow>, StoreError> {
        let rows = self.db.within(attempt, query.fetch_all(&mut *self.conn)).await;
        self.judge(rows)
    }

    async fn run(&mut self, attempt: &'static str, query: Query<'_>) -> Result<u64, StoreError> {
        let done = self.db.within(attempt, query.execute(&mut *self.conn)).await;
        self.judge(done).map(|d| d.rows_affected())
    }
}

fn timed_out(attempt: &'static str) -> StoreError {
    let late = std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer within the deadline");
    StoreError::Unavailable {
        attempt,
        source: Box::new(sqlx::Error::Io(late)),
    }
}

/// Runs file work off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    attempt: &'static str,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(_) => Err(StoreError::Unavailable {
            attempt,
            source: Box::new(sqlx::Error::WorkerCrashed),
        }),
    }
}

/// The folder (0700) and the file (0600), and the lock that keeps a second control plane out.
/// Keeps control planes off a SQLite file, for as long as it is held. [`StoreError::InUse`] where one runs on it.
#[derive(Debug)]
pub struct SqliteHold(#[expect(dead_code, reason = "held, not read")] File);

impl SqliteHold {
    pub fn take(path: &Path) -> Result<Self, StoreError> {
        take_lock(path, Duration::ZERO).map(Self)
    }
}

fn take_lock(path: &Path, patience: Duration) -> Result<File, StoreError> {
    // A file of its own: closing any descriptor of the database's file would drop SQLite's locks on it.
    let lock_path = beside(path, ".lock");
    let failed = |attempt: &'static str| {
        let path = lock_path.clone();
        move |source| StoreError::File { attempt, path, source }
    };
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&lock_path)
        .map_err(failed("open"))?;
    let started = Instant::now();
    // There is no waiting for such a lock with a deadline, so it is tried again.
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) if started.elapsed() < patience => std::thread::sleep(Duration::from_millis(25)),
            Err(TryLockError::WouldBlock) => return Err(StoreError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(failed("lock")(source)),
        }
    }
}

fn prepare_sqlite_file(path: &Path) -> Result<(PathBuf, File), StoreError> {
    let failed = |attempt: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source| StoreError::File { attempt, path, source }
    };
    let absolute = std::path::absolute(path).map_err(failed("find", path))?;
    let (Some(folder), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return Err(StoreError::invalid("the path of the SQLite file names no file"));
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(failed("make the folder", folder))?;
    // The driver takes a URL, whose parser would resolve `..` by text alone.
    let path = folder.canonicalize().map_err(failed("find the folder", folder))?.join(name);

    let lock = take_lock(&path, LOCK_DEADLINE)?;

    // SQLite gives its log and shared memory the mode of the database's file, so this one decides for all three.
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed("open", &path))?;
    let mode = file.metadata().map_err(failed("read the mode of", &path))?.permissions().mode();
    if mode & 0o077 != 0 {
        file.set_permissions(fs::Permissions::from_mode(0o600))
            .map_err(failed("close to others", &path))?;
    }
    Ok((path, lock))
}

/// `path` with `suffix` after its name.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Reading columns by position; a wrong type means a damaged database.
pub(crate) trait Columns {
    fn text(&self, index: usize) -> Result<String, StoreError>;
    fn opt_text(&self, index: usize) -> Result<Option<String>, StoreError>;
    fn int(&self, index: usize) -> Result<i64, StoreError>;
    fn opt_int(&self, index: usize) -> Result<Option<i64>, StoreError>;
    fn moment(&self, index: usize) -> Result<nm_types::Timestamp, StoreError> {
        self.int(index).map(nm_types::Timestamp)
    }
    fn opt_moment(&self, index: usize) -> Result<Option<nm_types::Timestamp>, StoreError> {
        Ok(self.opt_int(index)?.map(nm_types::Timestamp))
    }
    /// The databases have no type for it that both share: 0 and 1.
    fn truth(&self, index: usize) -> Result<bool, StoreError> {
        self.int(index).map(|n| n != 0)
    }
}

impl Columns for AnyRow {
    fn text(&self, index: usize) -> Result<String, StoreError> {
        self.try_get(index).map_err(|e| StoreError::from_sqlx("read a column", e))
    }
    fn opt_text(&self, index: usize) -> Result<Option<String>, StoreError> {
        self.try_get(index).map_err(|e| StoreError::from_sqlx("read a column", e))
    }
    fn int(&self, index: usize) -> Result<i64, StoreError> {
        self.try_get(index).map_err(|e| StoreError::from_sqlx("read a column", e))
    }
    fn opt_int(&self, index: usize) -> Result<Option<i64>, StoreError> {
        self.try_get(index).map_err(|e| StoreError::from_sqlx("read a column", e))
    }
}
