//! Opening the store, and what concerns the whole of it.

use crate::audit::AuditHead;
use crate::config::{Backend, StoreConfig};
use crate::db::{Columns, Db, Sql, blocking};
use crate::error::{SealError, StoreError};
use crate::feed::Feed;
use crate::measure::WriteTimes;
use crate::migrate::{self, MIGRATIONS};
use crate::seal::{ROOT_PLACE, Ring, Root, create_key_file, key_file_exists, sweep_key_file};
use nm_types::Timestamp;
use std::sync::Arc;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

/// The store. Clones share everything.
#[derive(Clone)]
pub struct Store {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) db: Db,
    pub(crate) ring: Ring,
    pub(crate) feed: Feed,
    pub(crate) times: WriteTimes,
    /// One rotation of the master key at a time.
    pub(crate) rotating: Mutex<()>,
    root: Root,
    pub(crate) audit_key: Zeroizing<[u8; 32]>,
}

/// What [`Store::prune`] keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Changes younger than this stay, milliseconds.
    pub changes_ms: i64,
    /// At most so many changes stay.
    pub changes: i64,
    /// Idempotency keys younger than this stay, milliseconds.
    pub idempotency_ms: i64,
    /// Sessions and tokens stay for this long after their end, milliseconds, so that a stolen one is still recognised.
    pub ended_ms: i64,
}

impl Default for Retention {
    /// A day of changes but at most 100,000, a day of idempotency keys, 30 days of ended sessions and tokens.
    fn default() -> Self {
        const DAY: i64 = 24 * 60 * 60 * 1000;
        Self {
            changes_ms: DAY,
            changes: 100_000,
            idempotency_ms: DAY,
            ended_ms: 30 * DAY,
        }
    }
}

/// How many rows [`Store::prune`] removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruned {
    pub changes: u64,
    pub idempotency: u64,
    pub sessions: u64,
    pub tokens: u64,
}

impl Store {
    /// Opens the database, making it where it is not there, and brings its schema up to date.
    ///
    /// Refuses when the key file is missing although the database holds sealed values, can be read by others, or does not
    /// fit the database; when the schema is newer than this release; when another process uses the SQLite file.
    pub async fn open(config: StoreConfig) -> Result<Self, StoreError> {
        Self::begin_with(config, false).await
    }

    /// [`Store::open`] as a control plane does: refuses while another one has opened the same database so. Where PostgreSQL lets go of
    /// the lock, nothing is written until it is held again; where another control plane had it meanwhile, see [`Store::fatal`].
    pub async fn open_alone(config: StoreConfig) -> Result<Self, StoreError> {
        Self::begin_with(config, true).await
    }

    async fn begin_with(config: StoreConfig, alone: bool) -> Result<Self, StoreError> {
        let db = Db::open(&config.url, alone).await?;
        migrate::run(&db, MIGRATIONS).await?;
        let (ring, root, revision) = unlock(&db, &config).await?;
        // One reader stays open from here on, and has really read. Where a full disk costs the writer its connection, SQLite would otherwise remove
        // the files that a new reader then has no room to make again.
        db.reader()
            .await?
            .one("read the revision", sqlx::query("SELECT revision FROM store_head"))
            .await?;
        let audit_key = root.derive("audit log");
        let feed = match db.backend {
            Backend::Sqlite => Feed::in_process(revision),
            Backend::Postgres => Feed::following(config.url.postgres_options()?, revision).await?,
        };
        tracing::info!(backend = %db.backend, url = %config.url, revision, "store open");
        Ok(Self {
            shared: Arc::new(Shared {
                db,
                ring,
                feed,
                times: WriteTimes::default(),
                rotating: Mutex::new(()),
                root,
                audit_key,
            }),
        })
    }

    /// Which database this is.
    pub fn backend(&self) -> Backend {
        self.shared.db.backend
    }

    /// Asks the database for an answer. For readiness checks.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.shared.db.refuse_if_barred()?;
        let mut reader = self.shared.db.reader().await?;
        reader
            .one("ping the database", sqlx::query("SELECT revision FROM store_head"))
            .await?;
        Ok(())
    }

    /// The revision of the last committed change.
    pub async fn revision(&self) -> Result<i64, StoreError> {
        let mut reader = self.shared.db.reader().await?;
        let row = reader
            .one("read the revision", sqlx::query("SELECT revision FROM store_head"))
            .await?;
        row.ok_or_else(|| StoreError::corrupt("the head row is missing"))?.int(0)
    }

    /// Bytes on disk.
    pub async fn size_bytes(&self) -> Result<u64, StoreError> {
        self.shared.db.size_bytes().await
    }

    /// Resolves, with the reason, when the disk was found to lose what it is given (a failed write or fsync), or when another
    /// control plane has the database that [`Store::open_alone`] opened. From then on
    /// every write is refused, and the process should exit with a failure. It stays pending for good otherwise.
    pub async fn fatal(&self) -> String {
        self.shared.db.fatal().await
    }

    /// Ends the change feed, waits for the transactions in line, and closes all connections. Whatever is asked afterwards is
    /// [`StoreError::Unavailable`]; another process may open the SQLite file.
    pub async fn close(&self) {
        self.shared.feed.close();
        self.shared.db.close().await;
    }

    /// A key for one use, told apart by `label`. It stays the same across changes of the master key, and on every replica.
    pub fn derive_key(&self, label: &str) -> Zeroizing<[u8; 32]> {
        self.shared.root.derive(&format!("for {label}"))
    }

    /// Removes what has served its time. Call it now and then; it works in small transactions.
    pub async fn prune(&self, now: Timestamp, keep: Retention) -> Result<Pruned, StoreError> {
        let mut done = Pruned {
            changes: self.prune_changes(now, keep).await?,
            ..Pruned::default()
        };
        let young = now.0.saturating_sub(keep.idempotency_ms);
        done.idempotency = self
            .prune_table(now, "DELETE FROM idempotency WHERE created_at < $1", young)
            .await?;
        let ended = now.0.saturating_sub(keep.ended_ms);
        done.sessions = self
            .prune_table(now, "DELETE FROM sessions WHERE expires_at < $1 OR revoked_at < $1", ended)
            .await?;
        done.tokens = self
            .prune_table(now, "DELETE FROM api_tokens WHERE expires_at < $1 OR revoked_at < $1", ended)
            .await?;
        Ok(done)
    }

    async fn prune_table(&self, now: Timestamp, sql: &'static str, limit: i64) -> Result<u64, StoreError> {
        let mut tx = self.begin(now).await?;
        let gone = tx.run("prune", sqlx::query(sql).bind(limit)).await?;
        tx.commit().await?;
        Ok(gone)
    }

    async fn prune_changes(&self, now: Timestamp, keep: Retention) -> Result<u64, StoreError> {
        const BATCH: i64 = 5_000;
        let mut gone = 0;
        loop {
            let mut tx = self.begin(now).await?;
            // Revisions grow with time, but clocks may not: the newest change that is too old decides.
            let find = sqlx::query(
                "SELECT revision FROM (SELECT revision, at FROM changes ORDER BY revision LIMIT $1) AS oldest \
                 WHERE at < $2 OR revision <= $3 ORDER BY revision DESC LIMIT 1",
            )
            .bind(BATCH)
            .bind(now.0.saturating_sub(keep.changes_ms))
            .bind(tx.head.revision.saturating_sub(keep.changes));
            let Some(row) = tx.one("find old changes", find).await? else {
                return Ok(gone);
            };
            let floor = row.int(0)?;
            gone += tx
                .run(
                    "prune the changes",
                    sqlx::query("DELETE FROM changes WHERE revision <= $1").bind(floor),
                )
                .await?;
            tx.run(
                "note the oldest change",
                sqlx::query("UPDATE store_head SET floor = $1").bind(floor),
            )
            .await?;
            tx.commit().await?;
        }
    }

    pub(crate) async fn root_sealed(&self, sql: &mut impl Sql) -> Result<String, StoreError> {
        let row = sql
            .one("read the head row", sqlx::query("SELECT root_sealed FROM store_head"))
            .await?;
        row.ok_or_else(|| StoreError::corrupt("the head row is missing"))?.text(0)
    }
}

/// Opens the key file and checks that it fits the database; on the first start makes both the key and the head row.
async fn unlock(db: &Db, config: &StoreConfig) -> Result<(Ring, Root, i64), StoreError> {
    let (mut turn, _) = db.turn(migrate::exclusive(db.backend)).await?;
    let read = sqlx::query("SELECT revision, key_id, root_sealed FROM store_head");
    let rows = db.within("read the head row", read.fetch_all(&mut turn.conn)).await?;
    let path = config.key_file.clone();
    let found = rows
        .first()
        .map(|r| Ok::<_, StoreError>((r.int(0)?, r.text(1)?, r.text(2)?)))
        .transpose()?;
    let sealed_rows_exist = found.is_some();
    let ring = blocking("open the key file", move || {
        sweep_key_file(&path);
        if !key_file_exists(&path)? {
            // Never a new key for old secrets: it would open none of them, and hide that the right one is lost.
            if sealed_rows_exist {
                return Err(SealError::KeyFileMissing { path }.into());
            }
            create_key_file(&path)?;
            tracing::info!(path = %path.display(), "key file made; keep a copy of it apart from the database's backups");
        }
        Ok(Ring::open(&path)?)
    })
    .await?;

    let (root, revision) = match found {
        Some((revision, _, sealed)) => (Root::from_secret(&ring.open_sealed(ROOT_PLACE, &sealed)?)?, revision),
        None => {
            let root = Root::fresh()?;
            let key_id = ring
                .key_ids()
                .pop()
                .ok_or_else(|| StoreError::corrupt("the key file holds no key"))?;
            let sealed = ring.seal(&key_id, ROOT_PLACE, root.bytes())?;
            let audit = AuditHead::first(&root.derive("audit log"));
            let insert = sqlx::query(
                "INSERT INTO store_head (one, revision, floor, audit_seq, audit_hmac, audit_seal, key_id, root_sealed) \
                 VALUES (1, 0, 0, $1, $2, $3, $4, $5)",
            )
            .bind(audit.seq)
            .bind(audit.hmac)
            .bind(audit.seal)
            .bind(key_id)
            .bind(sealed);
            db.within("write the head row", insert.execute(&mut turn.conn)).await?;
            (root, 0)
        }
    };
    db.within("commit the head row", sqlx::raw_sql("COMMIT").execute(&mut turn.conn))
        .await?;
    turn.finish();
    if ring.key_ids().len() > 1 {
        tracing::warn!("a change of the master key is unfinished: run the key rotation again");
    }
    Ok((ring, root, revision))
}
