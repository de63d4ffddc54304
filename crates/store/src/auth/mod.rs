//! The rows that sign people and programs in. The rules (who may, for how long, how passwords are hashed) live with the
//! callers; here is what must be one transaction.

pub(crate) mod sessions;
pub(crate) mod tokens;
pub(crate) mod users;

use crate::change::Subject;
use crate::db::{Columns, Sql};
use crate::error::StoreError;
use nm_types::auth::Role;
use sha2::{Digest, Sha256};
use sqlx::any::AnyRow;
use std::fmt;

/// The SHA-256 of a random token. Tokens themselves are never stored. They are long and random, so a plain hash of them
/// can be looked up and yet not be turned back.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    pub(crate) fn text(&self) -> String {
        hex::encode(self.0)
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(…)")
    }
}

fn read_role(row: &AnyRow, index: usize) -> Result<Role, StoreError> {
    let text = row.text(index)?;
    Role::parse(&text).ok_or_else(|| StoreError::corrupt(format!("`{text}` is no role")))
}

/// Reads an id; a text that is none means a damaged database.
fn read_id<T: TryFrom<String>>(row: &AnyRow, index: usize) -> Result<T, StoreError> {
    row.text(index)?
        .try_into()
        .map_err(|_| StoreError::corrupt("an id in the database is not one"))
}

fn not_found(kind: Subject, id: &dyn fmt::Display) -> StoreError {
    StoreError::NotFound { kind, id: id.to_string() }
}

/// The ids in the first column.
async fn ids(sql: &mut impl Sql, attempt: &'static str, query: crate::db::Query<'_>) -> Result<Vec<String>, StoreError> {
    sql.all(attempt, query).await?.iter().map(|row| row.text(0)).collect()
}
