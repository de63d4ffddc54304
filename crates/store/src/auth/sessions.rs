//! Sessions: what a login makes. Each has a short-lived access token and a refresh token that is good once.

use super::users::{User, user_columns};
use super::{TokenHash, ids, read_id};
use crate::change::{Subject, What};
use crate::db::{Columns, Sql};
use crate::error::StoreError;
use crate::store::Store;
use crate::tx::Tx;
use nm_types::{SessionId, Timestamp, UserId};
use sqlx::any::AnyRow;

/// A session, without its tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    pub id: SessionId,
    pub user_id: UserId,
    /// The end of the present access token.
    pub access_expires_at: Timestamp,
    /// The end of the present refresh token, and with it of the session.
    pub expires_at: Timestamp,
    /// Where the login came from.
    pub address: String,
    pub created_at: Timestamp,
    pub last_used_at: Timestamp,
    pub revoked_at: Option<Timestamp>,
}

/// A session to be written.
#[derive(Debug, Clone)]
pub struct NewSession {
    pub id: SessionId,
    pub user_id: UserId,
    pub pair: TokenPair,
    pub address: String,
}

/// The hashes of an access and a refresh token, and their ends.
#[derive(Debug, Clone, Copy)]
pub struct TokenPair {
    pub access: TokenHash,
    pub access_expires_at: Timestamp,
    pub refresh: TokenHash,
    pub expires_at: Timestamp,
}

/// What presenting a refresh token led to. Commit in every case: a revocation must last.
#[derive(Debug, Clone, PartialEq)]
pub enum Refreshed {
    /// The new pair counts from now on, the old one no more.
    Rotated { session: Session, user: User },
    /// The token had been exchanged before, so somebody has a copy: the whole session is revoked.
    Reused { session: SessionId, user: UserId },
    /// The token was exchanged a moment ago, within the leeway: refused, and nothing else happened.
    JustSpent,
    /// No such token, or its session ended or was revoked, or its user is disabled.
    Refused,
}

macro_rules! session_columns {
    () => {
        "sessions.id, sessions.user_id, sessions.access_expires_at, sessions.expires_at, sessions.address, sessions.created_at, \
         sessions.last_used_at, sessions.revoked_at"
    };
}
const SESSION_COLUMNS: usize = 8;

impl Session {
    fn read(row: &AnyRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: read_id(row, 0)?,
            user_id: read_id(row, 1)?,
            access_expires_at: row.moment(2)?,
            expires_at: row.moment(3)?,
            address: row.text(4)?,
            created_at: row.moment(5)?,
            last_used_at: row.moment(6)?,
            revoked_at: row.opt_moment(7)?,
        })
    }
}

impl Tx {
    /// [`StoreError::NotFound`] when the user does not exist (any more).
    pub async fn create_session(&mut self, new: NewSession) -> Result<Session, StoreError> {
        let NewSession {
            id,
            user_id,
            pair,
            address,
        } = new;
        let address = address.replace('\0', "\u{fffd}");
        self.must_have_user(&user_id).await?;
        let insert = sqlx::query(
            "INSERT INTO sessions (id, user_id, access_hash, access_expires_at, refresh_hash, expires_at, address, created_at, last_used_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8)",
        )
        .bind(id.as_str())
        .bind(user_id.as_str())
        .bind(pair.access.text())
        .bind(pair.access_expires_at.0)
        .bind(pair.refresh.text())
        .bind(pair.expires_at.0)
        .bind(address.as_str())
        .bind(self.now.0);
        self.run("create a session", insert).await?;
        let revision = self.next_revision();
        self.changed(revision, Subject::Session, id.as_str(), "", What::Created);
        Ok(Session {
            id,
            user_id,
            access_expires_at: pair.access_expires_at,
            expires_at: pair.expires_at,
            address,
            created_at: self.now,
            last_used_at: self.now,
            revoked_at: None,
        })
    }

    /// Exchanges a refresh token for the pair `new`. One that was exchanged before revokes its session, unless that was
    /// less than `leeway_ms` milliseconds ago (two tabs of one browser, an answer lost on the way).
    pub async fn refresh_session(&mut self, presented: TokenHash, new: TokenPair, leeway_ms: i64) -> Result<Refreshed, StoreError> {
        let presented = presented.text();
        let held = sqlx::query(concat!(
            "SELECT ",
            session_columns!(),
            ", ",
            user_columns!(),
            " FROM sessions JOIN users ON users.id = sessions.user_id WHERE sessions.refresh_hash = $1"
        ));
        let Some(row) = self.one("read a session", held.bind(presented.as_str())).await? else {
            return self.spent(&presented, leeway_ms).await;
        };
        let (held, user) = (Session::read(&row)?, User::read(&row, SESSION_COLUMNS)?);
        if held.revoked_at.is_some() || held.expires_at <= self.now || user.disabled {
            return Ok(Refreshed::Refused);
        }
        let spend = sqlx::query("INSERT INTO spent_refresh_tokens (hash, session_id, spent_at) VALUES ($1, $2, $3)")
            .bind(presented)
            .bind(held.id.as_str())
            .bind(self.now.0);
        self.run("spend a refresh token", spend).await?;
        let rotate = sqlx::query(concat!(
            "UPDATE sessions SET access_hash = $2, access_expires_at = $3, refresh_hash = $4, expires_at = $5, last_used_at = $6 \
             WHERE id = $1 RETURNING ",
            session_columns!()
        ))
        .bind(held.id.as_str())
        .bind(new.access.text())
        .bind(new.access_expires_at.0)
        .bind(new.refresh.text())
        .bind(new.expires_at.0)
        .bind(self.now.0);
        let row = self.one("rotate a session", rotate).await?;
        let session = Session::read(&row.ok_or_else(|| StoreError::corrupt("a written row was not given back"))?)?;
        let revision = self.next_revision();
        self.changed(revision, Subject::Session, session.id.as_str(), "", What::Status);
        Ok(Refreshed::Rotated { session, user })
    }

    /// A refresh token that no session holds now: was it exchanged before?
    async fn spent(&mut self, presented: &str, leeway_ms: i64) -> Result<Refreshed, StoreError> {
        let find = sqlx::query(
            "SELECT spent_refresh_tokens.spent_at, sessions.id, sessions.user_id, sessions.revoked_at FROM spent_refresh_tokens \
             JOIN sessions ON sessions.id = spent_refresh_tokens.session_id WHERE spent_refresh_tokens.hash = $1",
        );
        let Some(row) = self.one("read a spent token", find.bind(presented)).await? else {
            return Ok(Refreshed::Refused);
        };
        let (session, user): (SessionId, UserId) = (read_id(&row, 1)?, read_id(&row, 2)?);
        if row.opt_int(3)?.is_some() {
            return Ok(Refreshed::Refused);
        }
        if self.now.since(row.moment(0)?) < leeway_ms {
            return Ok(Refreshed::JustSpent);
        }
        self.revoke_session(&session).await?;
        Ok(Refreshed::Reused { session, user })
    }

    /// Ends a session; whether it was still going on.
    pub async fn revoke_session(&mut self, id: &SessionId) -> Result<bool, StoreError> {
        let revoke = sqlx::query("UPDATE sessions SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL RETURNING id");
        let gone = ids(self, "revoke a session", revoke.bind(id.as_str()).bind(self.now.0)).await?;
        Ok(self.sessions_ended(&gone) > 0)
    }

    /// Ends all sessions of a user, `except` one (the caller's own, say). Gives how many.
    pub async fn revoke_sessions(&mut self, user: &UserId, except: Option<&SessionId>) -> Result<u64, StoreError> {
        let revoke = sqlx::query("UPDATE sessions SET revoked_at = $2 WHERE user_id = $1 AND revoked_at IS NULL AND id <> $3 RETURNING id");
        let revoke = revoke
            .bind(user.as_str())
            .bind(self.now.0)
            .bind(except.map_or("", SessionId::as_str));
        let gone = ids(self, "revoke a user's sessions", revoke).await?;
        Ok(self.sessions_ended(&gone))
    }

    fn sessions_ended(&mut self, gone: &[String]) -> u64 {
        for id in gone {
            let revision = self.next_revision();
            self.changed(revision, Subject::Session, id, "", What::Updated);
        }
        gone.len() as u64
    }

    /// Notes that a session is in use. It does not show in the feed.
    pub async fn touch_session(&mut self, id: &SessionId) -> Result<(), StoreError> {
        let touch = sqlx::query("UPDATE sessions SET last_used_at = $2 WHERE id = $1 AND last_used_at < $2");
        self.run("note a session's use", touch.bind(id.as_str()).bind(self.now.0)).await?;
        Ok(())
    }
}

impl Store {
    /// The session and user an access token stands for, if both may go on at `now`.
    pub async fn session_by_access(&self, access: TokenHash, now: Timestamp) -> Result<Option<(Session, User)>, StoreError> {
        let find = sqlx::query(concat!(
            "SELECT ",
            session_columns!(),
            ", ",
            user_columns!(),
            " FROM sessions JOIN users ON users.id = sessions.user_id WHERE sessions.access_hash = $1 \
             AND sessions.revoked_at IS NULL AND sessions.access_expires_at > $2 AND sessions.expires_at > $2 AND users.disabled = 0"
        ));
        let row = self
            .shared
            .db
            .reader()
            .await?
            .one("read a session", find.bind(access.text()).bind(now.0))
            .await?;
        row.map(|row| Ok((Session::read(&row)?, User::read(&row, SESSION_COLUMNS)?)))
            .transpose()
    }

    /// A session, whatever became of it.
    pub async fn session(&self, id: &SessionId) -> Result<Option<Session>, StoreError> {
        let find = sqlx::query(concat!("SELECT ", session_columns!(), " FROM sessions WHERE id = $1")).bind(id.as_str());
        let row = self.shared.db.reader().await?.one("read a session", find).await?;
        row.as_ref().map(Session::read).transpose()
    }

    /// A user's sessions that go on at `now`, oldest first.
    pub async fn sessions(&self, user: &UserId, now: Timestamp) -> Result<Vec<Session>, StoreError> {
        let list = sqlx::query(concat!(
            "SELECT ",
            session_columns!(),
            " FROM sessions WHERE user_id = $1 AND revoked_at IS NULL AND expires_at > $2 ORDER BY id"
        ));
        let rows = self
            .shared
            .db
            .reader()
            .await?
            .all("list sessions", list.bind(user.as_str()).bind(now.0))
            .await?;
        rows.iter().map(Session::read).collect()
    }
}
