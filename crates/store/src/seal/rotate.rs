//! Changing the master key.
//!
//! 1. A new key goes into the file beside the old one.
//! 2. One transaction wraps the root secret under it and makes it the key that new secrets are sealed with.
//! 3. Batch by batch, every older secret is wrapped under it.
//! 4. The old key leaves the file.
//!
//! At every moment the file holds each key that some row needs, so a process killed anywhere loses nothing, and calling
//! again finishes the work. Since write transactions run one after another and each seals with the key that the head
//! row names, nothing can be sealed with the old key after step 2, by another replica either.

use super::{MasterKey, Place, ROOT_PLACE, key_id_of, keyfile};
use crate::db::{Columns, Sql, blocking};
use crate::error::StoreError;
use crate::store::Store;
use nm_types::Timestamp;

/// How many secrets one transaction wraps: few enough that other writers wait for milliseconds only.
const BATCH: i64 = 200;

/// What [`Store::rotate_keys`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRotation {
    /// The id of the key that everything is sealed with now. Ids are not secret.
    pub key_id: String,
    /// How many secrets were wrapped anew.
    pub rewrapped: u64,
    /// Whether this finished a rotation that was interrupted before, rather than making a new key.
    pub resumed: bool,
}

/// A table with sealed values: how to page through them and how to write one back.
struct Sealed {
    table: &'static str,
    page: &'static str,
    write: &'static str,
}

const SEALED: [Sealed; 2] = [
    Sealed {
        table: "resources",
        page: "SELECT kind, id, sealed FROM resources WHERE sealed IS NOT NULL AND (kind, id) > ($1, $2) ORDER BY kind, id LIMIT $3",
        write: "UPDATE resources SET sealed = $3 WHERE kind = $1 AND id = $2",
    },
    Sealed {
        table: "idempotency",
        page: "SELECT actor, idem_key, response_sealed FROM idempotency \
               WHERE response_sealed IS NOT NULL AND (actor, idem_key) > ($1, $2) ORDER BY actor, idem_key LIMIT $3",
        write: "UPDATE idempotency SET response_sealed = $3 WHERE actor = $1 AND idem_key = $2",
    },
];

impl Store {
    /// Makes a new master key, wraps every secret under it, and drops the old one. Where the file holds several keys
    /// already (an interrupted rotation, or one prepared by hand for several replicas), it goes on with the newest.
    ///
    /// With several replicas on PostgreSQL, first give every replica's key file the new key as well.
    pub async fn rotate_keys(&self, now: Timestamp) -> Result<KeyRotation, StoreError> {
        let shared = &self.shared;
        let _alone = shared.rotating.lock().await;
        let path = shared.ring.path().to_owned();
        let (keys, resumed) = blocking("change the key file", move || {
            let mut keys = keyfile::read(&path)?;
            let resumed = keys.len() > 1;
            if !resumed {
                keys.push(MasterKey::fresh()?);
                keyfile::replace(&path, &keys)?;
            }
            Ok((keys, resumed))
        })
        .await?;
        shared.ring.hold(keys.clone());
        let Some(newest) = keys.last() else {
            return Err(StoreError::corrupt("the key file holds no key"));
        };

        let mut tx = self.begin(now).await?;
        if tx.head.key_id != newest.id() {
            let sealed = self.root_sealed(&mut tx).await?;
            let sealed = shared.ring.rewrap(newest.id(), ROOT_PLACE, &sealed)?;
            let write = sqlx::query("UPDATE store_head SET key_id = $1, root_sealed = $2")
                .bind(newest.id())
                .bind(sealed);
            tx.run("change the master key", write).await?;
        }
        tx.commit().await?;

        let mut rewrapped = 0;
        for table in &SEALED {
            rewrapped += self.rewrap_table(table, newest.id(), now).await?;
        }

        let (path, kept) = (shared.ring.path().to_owned(), vec![newest.clone()]);
        blocking("change the key file", move || keyfile::replace(&path, &kept)).await?;
        shared.ring.hold(vec![newest.clone()]);
        tracing::info!(key.id = newest.id(), rewrapped, resumed, "master key changed");
        Ok(KeyRotation {
            key_id: newest.id().to_owned(),
            rewrapped,
            resumed,
        })
    }

    /// Ids of the master keys in use, oldest first. More than one means that a rotation is unfinished.
    pub fn key_ids(&self) -> Vec<String> {
        self.shared.ring.key_ids()
    }

    async fn rewrap_table(&self, sealed: &Sealed, key_id: &str, now: Timestamp) -> Result<u64, StoreError> {
        let mut after = (String::new(), String::new());
        let mut done = 0;
        loop {
            let mut tx = self.begin(now).await?;
            let page = sqlx::query(sealed.page).bind(after.0.as_str()).bind(after.1.as_str()).bind(BATCH);
            let rows = tx.all("read sealed values", page).await?;
            let Some(last) = rows.last() else { return Ok(done) };
            after = (last.text(0)?, last.text(1)?);
            for row in &rows {
                let (kind, id, value) = (row.text(0)?, row.text(1)?, row.text(2)?);
                if key_id_of(&value) == Some(key_id) {
                    continue;
                }
                let value = self.shared.ring.rewrap(
                    key_id,
                    Place {
                        table: sealed.table,
                        kind: &kind,
                        id: &id,
                    },
                    &value,
                )?;
                tx.run("wrap a secret anew", sqlx::query(sealed.write).bind(kind).bind(id).bind(value))
                    .await?;
                done += 1;
            }
            tx.commit().await?;
        }
    }
}
