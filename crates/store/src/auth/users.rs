//! Users.

use super::{ids, not_found, read_id, read_role};
use crate::change::{Subject, What};
use crate::db::{Columns, Query, Sql};
use crate::error::StoreError;
use crate::store::Store;
use crate::tx::Tx;
use nm_types::auth::Role;
use nm_types::text::Username;
use nm_types::{Timestamp, UserId};
use sqlx::any::AnyRow;
use std::fmt;

/// Someone who signs in.
#[derive(Clone, PartialEq)]
pub struct User {
    pub id: UserId,
    pub username: Username,
    /// As the password hasher wrote it.
    pub password_hash: String,
    pub role: Role,
    /// May not sign in, and nothing of theirs is accepted.
    pub disabled: bool,
    pub must_change_password: bool,
    /// Grows by one with each change.
    pub generation: i64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User")
            .field("id", &self.id)
            .field("username", &self.username)
            .field("role", &self.role)
            .field("disabled", &self.disabled)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

/// A user to be written.
#[derive(Clone)]
pub struct UserRow {
    pub id: UserId,
    pub username: Username,
    pub password_hash: String,
    pub role: Role,
    pub must_change_password: bool,
}

/// What changes on a user; what is None stays.
#[derive(Clone, Default)]
pub struct UserPatch {
    pub password_hash: Option<String>,
    pub role: Option<Role>,
    pub disabled: Option<bool>,
    pub must_change_password: Option<bool>,
    /// Only if the user still has this generation; [`StoreError::Stale`] otherwise.
    pub if_generation: Option<i64>,
}

/// For joins: each column with its table.
macro_rules! user_columns {
    () => {
        "users.id, users.username, users.password_hash, users.role, users.disabled, users.must_change_password, \
         users.generation, users.created_at, users.updated_at"
    };
}
pub(super) use user_columns;

impl User {
    /// Reads [`user_columns`] from column `at` on.
    pub(super) fn read(row: &AnyRow, at: usize) -> Result<Self, StoreError> {
        let username = row.text(at + 1)?;
        Ok(Self {
            id: read_id(row, at)?,
            username: Username::parse(&username).map_err(|_| StoreError::corrupt("a username in the database is not one"))?,
            password_hash: row.text(at + 2)?,
            role: read_role(row, at + 3)?,
            disabled: row.truth(at + 4)?,
            must_change_password: row.truth(at + 5)?,
            generation: row.int(at + 6)?,
            created_at: row.moment(at + 7)?,
            updated_at: row.moment(at + 8)?,
        })
    }
}

const GET: &str = concat!("SELECT ", user_columns!(), " FROM users WHERE id = $1");
const GET_BY_NAME: &str = concat!("SELECT ", user_columns!(), " FROM users WHERE username = $1");

impl Tx {
    /// [`StoreError::Conflict`] when the username is taken.
    pub async fn create_user(&mut self, new: UserRow) -> Result<User, StoreError> {
        let UserRow {
            id,
            username,
            password_hash,
            role,
            must_change_password,
        } = new;
        let insert = sqlx::query(
            "INSERT INTO users (id, username, password_hash, role, disabled, must_change_password, generation, created_at, updated_at) \
             VALUES ($1, $2, $3, $4, 0, $5, 1, $6, $6)",
        )
        .bind(id.as_str())
        .bind(username.as_str())
        .bind(password_hash.as_str())
        .bind(role.as_str())
        .bind(i64::from(must_change_password))
        .bind(self.now.0);
        self.run("create a user", insert).await?;
        let revision = self.next_revision();
        self.changed(revision, Subject::User, id.as_str(), username.as_str(), What::Created);
        let (created_at, updated_at) = (self.now, self.now);
        Ok(User {
            id,
            username,
            password_hash,
            role,
            disabled: false,
            must_change_password,
            generation: 1,
            created_at,
            updated_at,
        })
    }

    pub async fn update_user(&mut self, id: &UserId, patch: UserPatch) -> Result<User, StoreError> {
        let update = sqlx::query(concat!(
            "UPDATE users SET password_hash = COALESCE($2, password_hash), role = COALESCE($3, role), disabled = COALESCE($4, disabled), \
             must_change_password = COALESCE($5, must_change_password), generation = generation + 1, updated_at = $6 \
             WHERE id = $1 AND ($7 IS NULL OR generation = $7) RETURNING ",
            user_columns!()
        ))
        .bind(id.as_str())
        .bind(patch.password_hash)
        .bind(patch.role.map(Role::as_str))
        .bind(patch.disabled.map(i64::from))
        .bind(patch.must_change_password.map(i64::from))
        .bind(self.now.0)
        .bind(patch.if_generation);
        let Some(row) = self.one("update a user", update).await? else {
            return Err(match self.user(id).await? {
                Some(held) => StoreError::Stale {
                    kind: Subject::User,
                    id: id.to_string(),
                    generation: held.generation,
                    revision: self.head.revision,
                },
                None => not_found(Subject::User, id),
            });
        };
        let user = User::read(&row, 0)?;
        let revision = self.next_revision();
        self.changed(revision, Subject::User, id.as_str(), user.username.as_str(), What::Updated);
        Ok(user)
    }

    /// Removes a user with all sessions and tokens, each of which shows in the feed.
    pub async fn delete_user(&mut self, id: &UserId) -> Result<User, StoreError> {
        let user = self.user(id).await?.ok_or_else(|| not_found(Subject::User, id))?;
        let sessions = sqlx::query("DELETE FROM sessions WHERE user_id = $1 RETURNING id").bind(id.as_str());
        let sessions = ids(self, "delete a user's sessions", sessions).await?;
        let tokens = sqlx::query("DELETE FROM api_tokens WHERE user_id = $1 RETURNING id").bind(id.as_str());
        let tokens = ids(self, "delete a user's tokens", tokens).await?;
        self.run("delete a user", sqlx::query("DELETE FROM users WHERE id = $1").bind(id.as_str()))
            .await?;
        let sessions = sessions.iter().map(|s| (Subject::Session, s));
        for (subject, gone) in sessions.chain(tokens.iter().map(|t| (Subject::Token, t))) {
            let revision = self.next_revision();
            self.changed(revision, subject, gone, "", What::Deleted);
        }
        let revision = self.next_revision();
        self.changed(revision, Subject::User, id.as_str(), user.username.as_str(), What::Deleted);
        Ok(user)
    }

    pub async fn user(&mut self, id: &UserId) -> Result<Option<User>, StoreError> {
        read_one(self, sqlx::query(GET).bind(id.as_str())).await
    }

    /// Deleted between the check of a password and this transaction, say.
    pub(super) async fn must_have_user(&mut self, id: &UserId) -> Result<(), StoreError> {
        self.user(id).await?.map(|_| ()).ok_or_else(|| not_found(Subject::User, id))
    }

    /// See [`Store::user_by_name`].
    pub async fn user_by_name(&mut self, username: &str) -> Result<Option<User>, StoreError> {
        by_name(self, username).await
    }

    /// How many admins may sign in. Nobody else changes that before this transaction ends, so counting after a change
    /// and dropping the transaction at zero keeps the last one for certain.
    pub async fn enabled_admins(&mut self) -> Result<i64, StoreError> {
        let count = sqlx::query("SELECT COUNT(*) FROM users WHERE role = $1 AND disabled = 0").bind(Role::Admin.as_str());
        let row = self.one("count the admins", count).await?;
        row.ok_or_else(|| StoreError::corrupt("a count gave no row"))?.int(0)
    }
}

impl Store {
    pub async fn user(&self, id: &UserId) -> Result<Option<User>, StoreError> {
        read_one(&mut self.shared.db.reader().await?, sqlx::query(GET).bind(id.as_str())).await
    }

    /// Takes any text, as it comes from a login.
    pub async fn user_by_name(&self, username: &str) -> Result<Option<User>, StoreError> {
        by_name(&mut self.shared.db.reader().await?, username).await
    }

    /// A page in the order of the ids; `after` is the last id of the page before.
    pub async fn users(&self, after: Option<&UserId>, limit: u32) -> Result<Vec<User>, StoreError> {
        let list = sqlx::query(concat!(
            "SELECT ",
            user_columns!(),
            " FROM users WHERE id > $1 ORDER BY id LIMIT $2"
        ));
        let list = list.bind(after.map_or("", UserId::as_str)).bind(i64::from(limit));
        let rows = self.shared.db.reader().await?.all("list the users", list).await?;
        rows.iter().map(|row| User::read(row, 0)).collect()
    }
}

async fn read_one(sql: &mut impl Sql, query: Query<'_>) -> Result<Option<User>, StoreError> {
    sql.one("read a user", query).await?.map(|row| User::read(&row, 0)).transpose()
}

async fn by_name(sql: &mut impl Sql, username: &str) -> Result<Option<User>, StoreError> {
    // PostgreSQL refuses the question, and no username holds one.
    if username.contains('\0') {
        return Ok(None);
    }
    read_one(sql, sqlx::query(GET_BY_NAME).bind(username)).await
}
