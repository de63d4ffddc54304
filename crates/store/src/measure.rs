//! What the store measures of itself.

use crate::db::{Columns, Sql};
use crate::error::StoreError;
use crate::store::Store;
use nm_types::measure::Durations;

/// How long write transactions took, the failed ones too.
#[derive(Debug, Default)]
pub struct WriteTimes {
    /// From asking for the turn to having it, with the transaction begun.
    pub wait: Durations,
    /// From asking for the commit to its being on disk.
    pub commit: Durations,
}

/// How far the store has come, all replicas together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// The revision of the last committed change.
    pub revision: i64,
    /// How many entries the audit log ever had.
    pub audit_entries: i64,
}

impl Store {
    pub fn write_times(&self) -> &WriteTimes {
        &self.shared.times
    }

    /// The revision of the last change that the feed gave to its receivers in this process.
    pub fn published(&self) -> i64 {
        self.shared.feed.published()
    }

    pub async fn totals(&self) -> Result<Totals, StoreError> {
        let mut reader = self.shared.db.reader().await?;
        let read = sqlx::query("SELECT revision, audit_seq FROM store_head");
        let row = reader.one("read the head row", read).await?;
        let row = row.ok_or_else(|| StoreError::corrupt("the head row is missing"))?;
        Ok(Totals {
            revision: row.int(0)?,
            audit_entries: row.int(1)?,
        })
    }
}
