//! API tokens: what programs sign in with.

use super::users::{User, user_columns};
use super::{TokenHash, ids, not_found, read_id, read_role};
use crate::change::{Subject, What};
use crate::db::{Columns, Sql};
use crate::error::StoreError;
use crate::store::Store;
use crate::tx::Tx;
use nm_types::auth::{Role, Scope};
use nm_types::text::Title;
use nm_types::{Timestamp, TokenId, UserId};
use sqlx::any::AnyRow;

/// A token, without the token itself.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiToken {
    pub id: TokenId,
    pub name: Title,
    pub user_id: UserId,
    /// What it may do at most; its user's role may have become less since.
    pub role: Role,
    /// Everything the role may do where none is named.
    pub scopes: Vec<Scope>,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
    pub last_used_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
}

/// A token to be written.
#[derive(Debug, Clone)]
pub struct TokenRow {
    pub id: TokenId,
    pub name: Title,
    pub user_id: UserId,
    pub hash: TokenHash,
    pub role: Role,
    pub scopes: Vec<Scope>,
    pub expires_at: Timestamp,
}

macro_rules! token_columns {
    () => {
        "api_tokens.id, api_tokens.name, api_tokens.user_id, api_tokens.role, api_tokens.scopes, api_tokens.created_at, \
         api_tokens.expires_at, api_tokens.last_used_at, api_tokens.revoked_at"
    };
}
const TOKEN_COLUMNS: usize = 9;

impl ApiToken {
    fn read(row: &AnyRow) -> Result<Self, StoreError> {
        let damaged = |what| StoreError::corrupt(format!("the {what} of a token in the database is not one"));
        Ok(Self {
            id: read_id(row, 0)?,
            name: Title::parse(&row.text(1)?).map_err(|_| damaged("name"))?,
            user_id: read_id(row, 2)?,
            role: read_role(row, 3)?,
            scopes: serde_json::from_str(&row.text(4)?).map_err(|_| damaged("list of scopes"))?,
            created_at: row.moment(5)?,
            expires_at: row.moment(6)?,
            last_used_at: row.opt_moment(7)?,
            revoked_at: row.opt_moment(8)?,
        })
    }
}

impl Tx {
    /// [`StoreError::NotFound`] when the user does not exist (any more).
    pub async fn create_token(&mut self, new: TokenRow) -> Result<ApiToken, StoreError> {
        let TokenRow {
            id,
            name,
            user_id,
            hash,
            role,
            scopes,
            expires_at,
        } = new;
        self.must_have_user(&user_id).await?;
        let scopes_json = serde_json::to_string(&scopes).map_err(|e| StoreError::invalid(format!("scopes do not become JSON: {e}")))?;
        let insert = sqlx::query(
            "INSERT INTO api_tokens (id, name, user_id, hash, role, scopes, created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(id.as_str())
        .bind(name.as_str())
        .bind(user_id.as_str())
        .bind(hash.text())
        .bind(role.as_str())
        .bind(scopes_json)
        .bind(self.now.0)
        .bind(expires_at.0);
        self.run("create a token", insert).await?;
        let revision = self.next_revision();
        self.changed(revision, Subject::Token, id.as_str(), name.as_str(), What::Created);
        Ok(ApiToken {
            id,
            name,
            user_id,
            role,
            scopes,
            created_at: self.now,
            expires_at,
            last_used_at: None,
            revoked_at: None,
        })
    }

    /// Ends a token. [`StoreError::NotFound`] when there is none that still counts.
    pub async fn revoke_token(&mut self, id: &TokenId) -> Result<(), StoreError> {
        let revoke = sqlx::query("UPDATE api_tokens SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL RETURNING id");
        let gone = ids(self, "revoke a token", revoke.bind(id.as_str()).bind(self.now.0)).await?;
        if self.tokens_ended(&gone) == 0 {
            Err(not_found(Subject::Token, id))
        } else {
            Ok(())
        }
    }

    /// Ends all tokens of a user. Gives how many.
    pub async fn revoke_tokens(&mut self, user: &UserId) -> Result<u64, StoreError> {
        let revoke = sqlx::query("UPDATE api_tokens SET revoked_at = $2 WHERE user_id = $1 AND revoked_at IS NULL RETURNING id");
        let gone = ids(self, "revoke a user's tokens", revoke.bind(user.as_str()).bind(self.now.0)).await?;
        Ok(self.tokens_ended(&gone))
    }

    fn tokens_ended(&mut self, gone: &[String]) -> u64 {
        for id in gone {
            let revision = self.next_revision();
            self.changed(revision, Subject::Token, id, "", What::Updated);
        }
        gone.len() as u64
    }

    /// Notes that a token is in use. It does not show in the feed.
    pub async fn touch_token(&mut self, id: &TokenId) -> Result<(), StoreError> {
        let touch = sqlx::query("UPDATE api_tokens SET last_used_at = $2 WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $2)");
        self.run("note a token's use", touch.bind(id.as_str()).bind(self.now.0)).await?;
        Ok(())
    }
}

impl Store {
    /// The token and its user, if both may go on at `now`.
    pub async fn token_by_hash(&self, hash: TokenHash, now: Timestamp) -> Result<Option<(ApiToken, User)>, StoreError> {
        let find = sqlx::query(concat!(
            "SELECT ",
            token_columns!(),
            ", ",
            user_columns!(),
            " FROM api_tokens JOIN users ON users.id = api_tokens.user_id WHERE api_tokens.hash = $1 \
             AND api_tokens.revoked_at IS NULL AND api_tokens.expires_at > $2 AND users.disabled = 0"
        ));
        let row = self
            .shared
            .db
            .reader()
            .await?
            .one("read a token", find.bind(hash.text()).bind(now.0))
            .await?;
        row.map(|row| Ok((ApiToken::read(&row)?, User::read(&row, TOKEN_COLUMNS)?)))
            .transpose()
    }

    /// A token, whatever became of it.
    pub async fn token(&self, id: &TokenId) -> Result<Option<ApiToken>, StoreError> {
        let find = sqlx::query(concat!("SELECT ", token_columns!(), " FROM api_tokens WHERE id = $1")).bind(id.as_str());
        let row = self.shared.db.reader().await?.one("read a token", find).await?;
        row.as_ref().map(ApiToken::read).transpose()
    }

    /// A page of tokens that are not revoked, of one user or of all, in the order of the ids.
    pub async fn tokens(&self, user: Option<&UserId>, after: Option<&TokenId>, limit: u32) -> Result<Vec<ApiToken>, StoreError> {
        let list = sqlx::query(concat!(
            "SELECT ",
            token_columns!(),
            " FROM api_tokens WHERE revoked_at IS NULL AND ($1 IS NULL OR user_id = $1) AND id > $2 ORDER BY id LIMIT $3"
        ));
        let list = list
            .bind(user.map(UserId::as_str))
            .bind(after.map_or("", TokenId::as_str))
            .bind(i64::from(limit));
        let rows = self.shared.db.reader().await?.all("list tokens", list).await?;
        rows.iter().map(ApiToken::read).collect()
    }
}
