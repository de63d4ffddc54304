//! The history of servers' health: a time series with a row for each change.

use crate::db::{Columns, Query, Sql};
use crate::error::StoreError;
use crate::store::Store;
use crate::tx::Tx;
use nm_types::Timestamp;
use sqlx::any::AnyRow;

/// From `began` on the server was in this state, until its next row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthRow {
    pub server: String,
    pub began: Timestamp,
    pub state: String,
    /// The checks that failed when it began, joined by commas.
    pub failed: String,
}

/// Which part of one server's history is wanted.
#[derive(Debug, Clone, Copy)]
pub struct HealthPeriod<'a> {
    pub server: &'a str,
    pub from: Timestamp,
    /// Rows that began at or after it are left out.
    pub before: Timestamp,
    pub limit: u32,
}

impl HealthRow {
    fn read(row: &AnyRow) -> Result<Self, StoreError> {
        Ok(Self {
            server: row.text(0)?,
            began: row.moment(1)?,
            state: row.text(2)?,
            failed: row.text(3)?,
        })
    }
}

async fn read_all(sql: &mut impl Sql, attempt: &'static str, query: Query<'_>) -> Result<Vec<HealthRow>, StoreError> {
    sql.all(attempt, query).await?.iter().map(HealthRow::read).collect()
}

impl Tx {
    /// Notes a change. A second one at the same moment takes the first one's place.
    pub async fn health_changed(&mut self, row: &HealthRow) -> Result<(), StoreError> {
        let put = sqlx::query(
            "INSERT INTO health_history (server, began, state, failed) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (server, began) DO UPDATE SET state = excluded.state, failed = excluded.failed",
        )
        .bind(row.server.as_str())
        .bind(row.began.0)
        .bind(row.state.as_str())
        .bind(row.failed.as_str());
        self.run("note a change of health", put).await?;
        Ok(())
    }

    /// Forgets a server's history.
    pub async fn health_forget(&mut self, server: &str) -> Result<(), StoreError> {
        let delete = sqlx::query("DELETE FROM health_history WHERE server = $1").bind(server);
        self.run("forget a server's health", delete).await?;
        Ok(())
    }

    /// Notes that servers were checked until this moment.
    pub async fn health_checked(&mut self, until: Timestamp) -> Result<(), StoreError> {
        let put =
            sqlx::query("INSERT INTO health_checked (one, until) VALUES (1, $1) ON CONFLICT (one) DO UPDATE SET until = excluded.until");
        self.run("note until when health was checked", put.bind(until.0)).await?;
        Ok(())
    }

    /// Removes what began before `limit`, but for each server's last row before it, which says what it was at that moment.
    pub async fn health_prune(&mut self, limit: Timestamp) -> Result<u64, StoreError> {
        let delete = sqlx::query(
            "DELETE FROM health_history WHERE began < $1 AND EXISTS (SELECT 1 FROM health_history AS later \
             WHERE later.server = health_history.server AND later.began > health_history.began AND later.began <= $1)",
        );
        self.run("drop old health", delete.bind(limit.0)).await
    }
}

impl Store {
    /// Until when servers were checked, where they ever were.
    pub async fn health_checked_until(&self) -> Result<Option<Timestamp>, StoreError> {
        let mut reader = self.shared.db.reader().await?;
        let row = reader
            .one(
                "read until when health was checked",
                sqlx::query("SELECT until FROM health_checked"),
            )
            .await?;
        row.map(|row| row.moment(0)).transpose()
    }

    /// The histories of the servers whose ids lie from `first` to `last`, from `since` on, with the row that held then; in the
    /// order of ids and time.
    pub async fn health_histories(&self, first: &str, last: &str, since: Timestamp) -> Result<Vec<HealthRow>, StoreError> {
        let select = sqlx::query(
            "SELECT server, began, state, failed FROM health_history WHERE server >= $1 AND server <= $2 AND (began > $3 OR began = \
             (SELECT MAX(earlier.began) FROM health_history AS earlier WHERE earlier.server = health_history.server AND earlier.began <= $3)) \
             ORDER BY server, began",
        )
        .bind(first)
        .bind(last)
        .bind(since.0);
        read_all(&mut self.shared.db.reader().await?, "read histories of health", select).await
    }

    /// When the first row at or after `moment` began.
    pub async fn health_next(&self, server: &str, moment: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        let select = sqlx::query("SELECT MIN(began) FROM health_history WHERE server = $1 AND began >= $2")
            .bind(server)
            .bind(moment.0);
        let mut reader = self.shared.db.reader().await?;
        let row = reader.one("read a change of health", select).await?;
        row.map_or(Ok(None), |row| row.opt_moment(0))
    }

    /// A part of one server's history, newest first, with the row that held at its beginning.
    pub async fn health_history(&self, period: HealthPeriod<'_>) -> Result<Vec<HealthRow>, StoreError> {
        let select = sqlx::query(
            "SELECT server, began, state, failed FROM health_history WHERE server = $1 AND began < $2 AND (began > $3 OR began = \
             (SELECT MAX(earlier.began) FROM health_history AS earlier WHERE earlier.server = $1 AND earlier.began <= $3)) \
             ORDER BY began DESC LIMIT $4",
        )
        .bind(period.server)
        .bind(period.before.0)
        .bind(period.from.0)
        .bind(i64::from(period.limit));
        read_all(&mut self.shared.db.reader().await?, "read a history of health", select).await
    }
}
