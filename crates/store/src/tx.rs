//! Write transactions.
//!
//! A transaction begins by locking the head row (on SQLite the whole file), so write transactions run one after another
//! on both databases: what one reads, nobody else changes before it ends, and the revisions and audit numbers it hands
//! out are in the order of the commits. Keep them short: no network call belongs inside one.

use crate::audit::AuditHead;
use crate::change::{Change, Subject, What};
use crate::config::Backend;
use crate::db::{Columns, Query, Sql, Turn};
use crate::error::StoreError;
use crate::seal::{Place, Secret};
use crate::store::{Shared, Store};
use nm_types::Timestamp;
use sqlx::AssertSqlSafe;
use sqlx::any::AnyRow;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Instant;

const BEGIN_SQLITE: &str = "BEGIN IMMEDIATE; SELECT revision, audit_seq, audit_hmac, audit_seal, key_id FROM store_head";
const BEGIN_POSTGRES: &str = "BEGIN; SELECT revision, audit_seq, audit_hmac, audit_seal, key_id FROM store_head FOR UPDATE";
/// The notification goes out with the commit, and only if it succeeds.
const COMMIT_POSTGRES: &str = "NOTIFY neuralmesh_changes; COMMIT";

/// The most change rows one statement writes.
const CHANGES_PER_INSERT: usize = 100;

/// The head row, as this transaction found it or will leave it.
pub(crate) struct Head {
    pub(crate) revision: i64,
    pub(crate) audit: AuditHead,
    pub(crate) key_id: String,
}

/// A write transaction. Dropped without [`Tx::commit`], it leaves no trace. After an error other than
/// [`StoreError::Stale`] and [`StoreError::NotFound`] it can only be dropped, on both databases.
pub struct Tx {
    pub(crate) shared: Arc<Shared>,
    turn: Option<Turn>,
    pub(crate) head: Head,
    /// The moment of everything this transaction writes.
    pub(crate) now: Timestamp,
    changes: Vec<Change>,
    audited: bool,
    /// Set while a statement runs, so that one which fails or is abandoned in the middle spoils the transaction.
    in_doubt: bool,
}

impl Store {
    /// Begins a write transaction as soon as the ones before it have ended. `now` is the moment it writes down.
    pub async fn begin(&self, now: Timestamp) -> Result<Tx, StoreError> {
        let shared = Arc::clone(&self.shared);
        let opening = match shared.db.backend {
            Backend::Sqlite => BEGIN_SQLITE,
            Backend::Postgres => BEGIN_POSTGRES,
        };
        let asked = Instant::now();
        let turn = shared.db.turn(opening).await;
        shared.times.wait.observe(asked.elapsed());
        let (turn, rows) = turn?;
        let row = rows.first().ok_or_else(|| StoreError::corrupt("the head row is missing"))?;
        let head = Head {
            revision: row.int(0)?,
            audit: AuditHead {
                seq: row.int(1)?,
                hmac: row.text(2)?,
                seal: row.text(3)?,
            },
            key_id: row.text(4)?,
        };
        Ok(Tx {
            shared,
            turn: Some(turn),
            head,
            now,
            changes: Vec::new(),
            audited: false,
            in_doubt: false,
        })
    }
}

impl Tx {
    /// The moment given to [`Store::begin`].
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Makes everything durable, then visible to the change feed. Gives the revision the store is at with it.
    ///
    /// It runs to its end even when the caller's future is dropped meanwhile. [`StoreError::Unavailable`] from here means
    /// that the commit may or may not have happened.
    pub async fn commit(mut self) -> Result<i64, StoreError> {
        self.usable()?;
        self.write_changes().await?;
        let Some(mut turn) = self.turn.take() else {
            return Err(StoreError::Spoiled);
        };
        let shared = Arc::clone(&self.shared);
        let changes = std::mem::take(&mut self.changes);
        let revision = self.head.revision;
        let end = tokio::spawn(async move {
            let sql = match shared.db.backend {
                Backend::Postgres if !changes.is_empty() => COMMIT_POSTGRES,
                Backend::Postgres | Backend::Sqlite => "COMMIT",
            };
            shared.db.refuse_if_barred()?;
            let asked = Instant::now();
            let committed = shared.db.within("commit", sqlx::raw_sql(sql).execute(&mut turn.conn)).await;
            shared.times.commit.observe(asked.elapsed());
            committed?;
            // While it is still our turn, so that the feed has the order of the commits.
            shared.feed.committed(changes);
            turn.finish();
            Ok(revision)
        });
        end.await.unwrap_or_else(|_| {
            Err(StoreError::Unavailable {
                attempt: "commit",
                source: Box::new(sqlx::Error::WorkerCrashed),
            })
        })
    }

    pub(crate) fn usable(&self) -> Result<(), StoreError> {
        if self.in_doubt || self.turn.is_none() {
            Err(StoreError::Spoiled)
        } else {
            Ok(())
        }
    }

    /// The revision of the next change. Every change takes one of its own.
    pub(crate) fn next_revision(&mut self) -> i64 {
        self.head.revision += 1;
        self.head.revision
    }

    /// Notes a change for the feed, under the revision the row was written with.
    pub(crate) fn changed(&mut self, revision: i64, subject: Subject, id: &str, name: &str, what: What) {
        self.changes.push(Change {
            revision,
            subject,
            id: id.into(),
            name: name.into(),
            what,
            at: self.now,
        });
    }

    pub(crate) fn audited(&mut self, head: AuditHead) {
        self.head.audit = head;
        self.audited = true;
    }

    /// Whether this transaction has written an audit entry.
    pub(crate) fn has_audited(&self) -> bool {
        self.audited
    }

    pub(crate) fn seal(&self, place: Place<'_>, secret: &Secret) -> Result<String, StoreError> {
        Ok(self.shared.ring.seal(&self.head.key_id, place, secret.expose())?)
    }

    /// The change rows and the head row, in as few statements as there can be.
    async fn write_changes(&mut self) -> Result<(), StoreError> {
        if self.changes.is_empty() && !self.audited {
            return Ok(());
        }
        let changes = std::mem::take(&mut self.changes);
        for chunk in changes.chunks(CHANGES_PER_INSERT) {
            let mut sql = String::from("INSERT INTO changes (revision, subject, id, name, what, at) VALUES ");
            values(&mut sql, chunk.len(), 6);
            // The text is made of parameter numbers. Odd lengths are not worth a place in the statement cache.
            let mut insert = sqlx::query(AssertSqlSafe(sql)).persistent(chunk.len() <= 4);
            for c in chunk {
                insert = insert
                    .bind(c.revision)
                    .bind(c.subject.as_str())
                    .bind(&*c.id)
                    .bind(&*c.name)
                    .bind(c.what.as_str())
                    .bind(c.at.0);
            }
            self.run("write the changes", insert).await?;
        }
        self.changes = changes;
        let (revision, audit) = (self.head.revision, self.head.audit.clone());
        let write = sqlx::query("UPDATE store_head SET revision = $1, audit_seq = $2, audit_hmac = $3, audit_seal = $4")
            .bind(revision)
            .bind(audit.seq)
            .bind(audit.hmac)
            .bind(audit.seal);
        self.run("write the head row", write).await?;
        Ok(())
    }
}

impl Sql for Tx {
    async fn all(&mut self, attempt: &'static str, query: Query<'_>) -> Result<Vec<AnyRow>, StoreError> {
        self.usable()?;
        let Some(turn) = self.turn.as_mut() else {
            return Err(StoreError::Spoiled);
        };
        self.in_doubt = true;
        let rows = self.shared.db.within(attempt, query.fetch_all(&mut turn.conn)).await?;
        self.in_doubt = false;
        Ok(rows)
    }

    async fn run(&mut self, attempt: &'static str, query: Query<'_>) -> Result<u64, StoreError> {
        self.usable()?;
        let Some(turn) = self.turn.as_mut() else {
            return Err(StoreError::Spoiled);
        };
        self.in_doubt = true;
        let done = self.shared.db.within(attempt, query.execute(&mut turn.conn)).await?;
        self.in_doubt = false;
        Ok(done.rows_affected())
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        let Some(mut turn) = self.turn.take() else { return };
        // Without a runtime the connection is closed, which rolls back as well; the next writer opens another.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let shared = Arc::clone(&self.shared);
            runtime.spawn(async move {
                // SQLite may have rolled back by itself (a full disk); then this fails, and the connection is closed.
                if shared
                    .db
                    .within("roll back", sqlx::raw_sql("ROLLBACK").execute(&mut turn.conn))
                    .await
                    .is_ok()
                {
                    turn.finish();
                }
            });
        }
    }
}

/// Appends `($1, $2), ($3, $4)`: `rows` of `columns` parameters each.
pub(crate) fn values(sql: &mut String, rows: usize, columns: usize) {
    for row in 0..rows {
        for column in 0..columns {
            let before = match (row, column) {
                (0, 0) => "(",
                (_, 0) => "), (",
                _ => ", ",
            };
            // Writing to a String does not fail.
            let _ = write!(sql, "{before}${}", row * columns + column + 1);
        }
    }
    sql.push(')');
}

#[cfg(test)]
mod tests {
    #[test]
    fn parameters_are_numbered_row_by_row() {
        let mut sql = String::new();
        super::values(&mut sql, 2, 3);
        assert_eq!(sql, "($1, $2, $3), ($4, $5, $6)");
    }
}
