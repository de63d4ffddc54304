//! Idempotency keys: a request that is sent twice is carried out once and answered the same.

use crate::db::{Columns, Sql};
use crate::error::StoreError;
use crate::seal::{Place, Secret};
use crate::store::Store;
use crate::tx::Tx;
use nm_types::Timestamp;

/// What [`Tx::idempotency_begin`] found under a key.
#[derive(Debug, Clone)]
pub enum Idempotency {
    /// New: carry the request out. Whatever the same transaction writes stands or falls with the key.
    Fresh,
    /// The same request is being carried out, or its process died before it was answered.
    InFlight { operation_id: Option<String>, since: Timestamp },
    /// The same request was answered: give the same answer.
    Done { status: u16, response: Secret },
    /// The key was used for another request.
    Mismatch,
}

fn place<'a>(actor: &'a str, key: &'a str) -> Place<'a> {
    Place {
        table: "idempotency",
        kind: actor,
        id: key,
    }
}

impl Tx {
    /// Takes the key for a request, or tells what became of the one that has it. `actor` is whom the key belongs to, and
    /// `request_hash` a digest of method, path and body.
    pub async fn idempotency_begin(&mut self, actor: &str, key: &str, request_hash: &str) -> Result<Idempotency, StoreError> {
        let insert = sqlx::query(
            "INSERT INTO idempotency (actor, idem_key, request_hash, created_at) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (actor, idem_key) DO NOTHING",
        )
        .bind(actor)
        .bind(key)
        .bind(request_hash)
        .bind(self.now.0);
        if self.run("take an idempotency key", insert).await? == 1 {
            return Ok(Idempotency::Fresh);
        }
        let read = sqlx::query(
            "SELECT request_hash, operation_id, status, response_sealed, created_at FROM idempotency WHERE actor = $1 AND idem_key = $2",
        );
        let row = self.one("read an idempotency key", read.bind(actor).bind(key)).await?;
        let row = row.ok_or_else(|| StoreError::corrupt("an idempotency key is neither free nor taken"))?;
        if row.text(0)? != request_hash {
            return Ok(Idempotency::Mismatch);
        }
        match (row.opt_int(2)?, row.opt_text(3)?) {
            (Some(status), Some(sealed)) => {
                let status = u16::try_from(status).map_err(|_| StoreError::corrupt("an HTTP status in the database is not one"))?;
                Ok(Idempotency::Done {
                    status,
                    response: self.shared.ring.open_sealed(place(actor, key), &sealed)?,
                })
            }
            _ => Ok(Idempotency::InFlight {
                operation_id: row.opt_text(1)?,
                since: row.moment(4)?,
            }),
        }
    }

    /// Notes the operation that carries the request out, so that a repeated one finds it.
    pub async fn idempotency_operation(&mut self, actor: &str, key: &str, operation_id: &str) -> Result<(), StoreError> {
        let note = sqlx::query("UPDATE idempotency SET operation_id = $3 WHERE actor = $1 AND idem_key = $2");
        self.run("note an operation", note.bind(actor).bind(key).bind(operation_id)).await?;
        Ok(())
    }

    /// Keeps the answer, sealed, since it may hold a secret that is shown once.
    pub async fn idempotency_finish(&mut self, actor: &str, key: &str, status: u16, response: &Secret) -> Result<(), StoreError> {
        let sealed = self.seal(place(actor, key), response)?;
        let finish = sqlx::query("UPDATE idempotency SET status = $3, response_sealed = $4 WHERE actor = $1 AND idem_key = $2");
        self.run("keep an answer", finish.bind(actor).bind(key).bind(i64::from(status)).bind(sealed))
            .await?;
        Ok(())
    }

    /// Frees a key whose request failed in a way that may be tried again.
    pub async fn idempotency_abandon(&mut self, actor: &str, key: &str) -> Result<(), StoreError> {
        let free = sqlx::query("DELETE FROM idempotency WHERE actor = $1 AND idem_key = $2 AND status IS NULL");
        self.run("free an idempotency key", free.bind(actor).bind(key)).await?;
        Ok(())
    }
}

impl Store {
    /// Keys that were taken before `before` and never answered: what a process that died may have left behind.
    pub async fn idempotency_unanswered(&self, before: Timestamp, limit: u32) -> Result<Vec<(String, String, Option<String>)>, StoreError> {
        let list = sqlx::query(
            "SELECT actor, idem_key, operation_id FROM idempotency WHERE status IS NULL AND created_at < $1 ORDER BY created_at LIMIT $2",
        );
        let rows = self
            .shared
            .db
            .reader()
            .await?
            .all("list unanswered keys", list.bind(before.0).bind(i64::from(limit)))
            .await?;
        rows.iter().map(|row| Ok((row.text(0)?, row.text(1)?, row.opt_text(2)?))).collect()
    }
}
