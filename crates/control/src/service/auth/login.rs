//! Signing in and out: passwords in, sessions out.
//!
//! An access token is good for minutes and a refresh token once. A refresh token that comes a second time was copied, and
//! nobody can tell which of the two is the thief: the whole session ends.

use super::gate::Changed;
use super::throttle::Refusal;
use super::users::view;
use super::{ACCESS, Actor, Auth, Credential, REFRESH, fresh_token, hash_of, millis, only_whole};
use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::Meta;
use crate::service::audit::{audit, audit_anonymous};
use http::StatusCode;
use nm_store::{AuditEntry, NewSession, Refreshed, Session, StoreError, TokenPair, User, UserPatch};
use nm_types::auth::{ChangePassword, Login, Refresh, SessionView, SignedIn, UserView};
use nm_types::{SessionId, Timestamp, UserId};
use serde_json::json;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The most sessions of one user; the one that was used least lately ends for a new one.
const SESSIONS: usize = 100;

/// Attempts to sign in, by how they ended.
#[derive(Debug, Default)]
pub struct LoginCounts {
    succeeded: AtomicU64,
    wrong: AtomicU64,
    throttled: AtomicU64,
}

impl LoginCounts {
    pub fn by_result(&self) -> [(&'static str, u64); 3] {
        [
            ("ok", &self.succeeded),
            ("wrong_credentials", &self.wrong),
            ("throttled", &self.throttled),
        ]
        .map(|(result, n)| (result, n.load(Ordering::Relaxed)))
    }
}

/// A new pair of tokens: as the client gets them, and as they are stored.
struct Tokens {
    access: String,
    refresh: String,
    stored: TokenPair,
}

fn wrong() -> ApiError {
    ApiError::new(
        StatusCode::UNAUTHORIZED,
        "invalid_credentials",
        "the username or the password is wrong",
    )
}

fn no_refresh() -> ApiError {
    ApiError::new(
        StatusCode::UNAUTHORIZED,
        "invalid_refresh_token",
        "the refresh token was used, has ended, or never was one: sign in again",
    )
}

impl Auth {
    fn tokens(&self, now: Timestamp) -> ApiResult<Tokens> {
        let ((access, access_hash), (refresh, refresh_hash)) = (fresh_token(ACCESS)?, fresh_token(REFRESH)?);
        let stored = TokenPair {
            access: access_hash,
            access_expires_at: now.plus_millis(millis(self.config.access)),
            refresh: refresh_hash,
            expires_at: now.plus_millis(millis(self.config.refresh)),
        };
        Ok(Tokens { access, refresh, stored })
    }

    fn signed_in(&self, tokens: Tokens, user: User) -> SignedIn {
        SignedIn {
            access_token: tokens.access,
            refresh_token: tokens.refresh,
            expires_in: self.config.access.as_secs(),
            user: view(user),
        }
    }

    /// A session for whoever knows the password. 401 for a wrong one, an unknown or a disabled user alike, after the same
    /// time; 429 after too many of them.
    pub async fn login(&self, meta: &Meta, login: Login) -> ApiResult<SignedIn> {
        if !(1..=64).contains(&login.username.chars().count()) {
            return Err(ApiError::invalid("username", "a username has 1 to 64 characters"));
        }
        let attempt = match self.logins.attempt(Some(&login.username), meta.address, &self.clock).await {
            Ok(attempt) => attempt,
            Err(refusal) => {
                self.login_counts.throttled.fetch_add(1, Ordering::Relaxed);
                let known = self.store.user_by_name(&login.username).await?;
                let refusal = throttled(refusal);
                self.login_refused(meta, known.as_ref().map(|u| &u.id), &refusal.code);
                return Err(refusal);
            }
        };
        let outcome = self.check(meta, &login).await;
        match &outcome {
            Ok(_) => self.login_counts.succeeded.fetch_add(1, Ordering::Relaxed),
            Err(error) if error.status == StatusCode::UNAUTHORIZED => self.login_counts.wrong.fetch_add(1, Ordering::Relaxed),
            // It failed before it was known whether the password was right.
            Err(_) => 0,
        };
        // Only a wrong password is a guess; what failed otherwise may be tried again at once.
        if !matches!(&outcome, Err(error) if error.status == StatusCode::UNAUTHORIZED) {
            attempt.forgive();
        }
        outcome
    }

    async fn check(&self, meta: &Meta, login: &Login) -> ApiResult<SignedIn> {
        let found = self.store.user_by_name(&login.username).await?;
        let right = self
            .passwords
            .verify(found.as_ref().map(|u| u.password_hash.as_str()), &login.password)
            .await?;
        match found {
            Some(user) if right && !user.disabled => self.begin_session(meta, user).await,
            other => {
                self.login_refused(meta, other.as_ref().map(|u| &u.id), "invalid_credentials");
                Err(wrong())
            }
        }
    }

    pub(super) async fn begin_session(&self, meta: &Meta, known: User) -> ApiResult<SignedIn> {
        let now = self.clock.now();
        let tokens = self.tokens(now)?;
        let crowd = self.store.sessions(&known.id, now).await?;
        let mut tx = self.store.begin(now).await?;
        // Hashing takes a while; what was true before may not be any more.
        let user = match tx.user(&known.id).await? {
            Some(user) if !user.disabled && user.password_hash == known.password_hash => user,
            Some(_) | None => return Err(wrong()),
        };
        let mut changes = Vec::new();
        let mut detail = json!({});
        if crowd.len() >= SESSIONS
            && let Some(idle) = crowd.iter().min_by_key(|s| s.last_used_at)
        {
            tx.revoke_session(&idle.id).await?;
            changes.push(Changed::session(&idle.id));
            detail["ended"] = json!(idle.id);
        }
        let id = SessionId::fresh(now.0);
        let address = meta.address.map(|a| a.to_string()).unwrap_or_default();
        tx.create_session(NewSession {
            id: id.clone(),
            user_id: user.id.clone(),
            pair: tokens.stored,
            address,
        })
        .await?;
        detail["session"] = json!(id);
        let entry = audit_anonymous(meta, "auth.login", Some(user.id.as_str()), detail);
        tx.audit(AuditEntry {
            actor: user.username.to_string(),
            ..entry
        })
        .await?;
        self.commit(tx, changes).await?;
        Ok(self.signed_in(tokens, user))
    }

    /// The name that was tried is not kept: people type passwords there.
    fn login_refused(&self, meta: &Meta, user: Option<&UserId>, outcome: &str) {
        let entry = audit_anonymous(meta, "auth.login", user.map(UserId::as_str), json!({}));
        self.refusals.note(AuditEntry {
            outcome: outcome.into(),
            ..entry
        });
        tracing::info!(client.address = ?meta.address, outcome, "a login was refused");
    }

    /// Exchanges a refresh token for a new pair. 401 where it is not good any more. The audit log does not hear of it:
    /// nobody may do more or less than before.
    pub async fn refresh(&self, meta: &Meta, refresh: Refresh) -> ApiResult<SignedIn> {
        let now = self.clock.now();
        // Each is a write transaction, so whoever makes tokens up may not ask for ever.
        let attempt = self.refreshes.attempt(None, meta.address, &self.clock).await.map_err(throttled)?;
        let (_, presented) = hash_of(refresh.refresh_token.expose(), &[REFRESH]).ok_or_else(no_refresh)?;
        let tokens = self.tokens(now)?;
        let mut tx = self.store.begin(now).await?;
        match tx.refresh_session(presented, tokens.stored, 0).await? {
            Refreshed::Rotated { session, user } => {
                self.commit(tx, [Changed::session(&session.id)]).await?;
                attempt.forgive();
                Ok(self.signed_in(tokens, user))
            }
            Refreshed::Reused { session, user } => {
                let entry = audit_anonymous(meta, "auth.refresh_reused", Some(session.as_str()), json!({ "user": user }));
                tx.audit(AuditEntry {
                    outcome: "session_revoked".into(),
                    ..entry
                })
                .await?;
                self.commit(tx, [Changed::session(&session)]).await?;
                tracing::warn!(session.id = %session, user.id = %user, client.address = ?meta.address, "a refresh token came a second time: its session was ended");
                Err(no_refresh())
            }
            Refreshed::JustSpent | Refreshed::Refused => Err(no_refresh()),
        }
    }

    /// Ends the caller's session.
    pub async fn logout(&self, actor: &Actor, meta: &Meta) -> ApiResult<()> {
        let Credential::Session(id) = &actor.credential else {
            return Err(ApiError::conflict(
                "not_a_session",
                "an API token has no session to end: delete the token instead",
            ));
        };
        let mut tx = self.store.begin(self.clock.now()).await?;
        tx.revoke_session(id).await?;
        tx.audit(audit(actor, meta, "auth.logout", Some(id.as_str()), json!({}))).await?;
        self.commit(tx, [Changed::session(id)]).await?;
        Ok(())
    }

    /// The caller's user.
    pub async fn me(&self, actor: &Actor) -> ApiResult<UserView> {
        Ok(view(self.own(actor).await?))
    }

    async fn own(&self, actor: &Actor) -> ApiResult<User> {
        self.store
            .user(&actor.user)
            .await?
            .ok_or_else(|| ApiError::unauthorized("your user was deleted"))
    }

    /// Changes the caller's own password and ends their other sessions. Guessing the present one is throttled like logins.
    pub async fn change_password(&self, actor: &Actor, meta: &Meta, change: ChangePassword) -> ApiResult<()> {
        only_whole(actor)?;
        let user = self.own(actor).await?;
        let attempt = self
            .logins
            .attempt(Some(user.username.as_str()), meta.address, &self.clock)
            .await
            .map_err(throttled)?;
        let right = match self.passwords.verify(Some(&user.password_hash), &change.current_password).await {
            Ok(right) => right,
            Err(error) => {
                attempt.forgive();
                return Err(error);
            }
        };
        if !right {
            let entry = audit(actor, meta, "auth.password", Some(user.id.as_str()), json!({}));
            self.refusals.note(AuditEntry {
                outcome: "wrong_password".into(),
                ..entry
            });
            return Err(ApiError::new(StatusCode::FORBIDDEN, "wrong_password", "the current password is wrong").field("currentPassword"));
        }
        attempt.forgive();
        if change.current_password == change.new_password.0 {
            return Err(ApiError::conflict("password_unchanged", "that is the password you have: choose another").field("newPassword"));
        }
        let password_hash = self.passwords.hash(&change.new_password.0).await?;
        let mut tx = self.store.begin(self.clock.now()).await?;
        let patch = UserPatch {
            password_hash: Some(password_hash),
            must_change_password: Some(false),
            if_generation: Some(user.generation),
            ..UserPatch::default()
        };
        tx.update_user(&user.id, patch).await.map_err(|error| match error {
            StoreError::Stale { .. } | StoreError::NotFound { .. } => {
                ApiError::conflict("changed_meanwhile", "your user was changed by somebody else meanwhile: try again")
            }
            other => other.into(),
        })?;
        let ended = tx.revoke_sessions(&user.id, session_of(actor)).await?;
        tx.audit(audit(
            actor,
            meta,
            "auth.password",
            Some(user.id.as_str()),
            json!({ "sessionsEnded": ended }),
        ))
        .await?;
        self.commit(tx, [Changed::user(&user.id)]).await?;
        if user.must_change_password {
            self.forget_initial_password().await;
        }
        Ok(())
    }

    /// The caller's sessions that go on, oldest first.
    pub async fn sessions(&self, actor: &Actor) -> ApiResult<Vec<SessionView>> {
        only_whole(actor)?;
        let sessions = self.store.sessions(&actor.user, self.clock.now()).await?;
        Ok(sessions.into_iter().map(session_view).collect())
    }

    /// Ends one of the caller's sessions.
    pub async fn end_session(&self, actor: &Actor, meta: &Meta, key: &str) -> ApiResult<()> {
        only_whole(actor)?;
        let missing = || ApiError::not_found("session", key);
        let id = SessionId::parse(key).map_err(|_| missing())?;
        let session = self
            .store
            .session(&id)
            .await?
            .filter(|s| s.user_id == actor.user)
            .ok_or_else(missing)?;
        let mut tx = self.store.begin(self.clock.now()).await?;
        if !tx.revoke_session(&session.id).await? {
            return Err(missing());
        }
        tx.audit(audit(actor, meta, "auth.session_end", Some(session.id.as_str()), json!({})))
            .await?;
        self.commit(tx, [Changed::session(&session.id)]).await?;
        Ok(())
    }
}

/// The session the caller is in, where it is one.
pub(super) fn session_of(actor: &Actor) -> Option<&SessionId> {
    match &actor.credential {
        Credential::Session(id) => Some(id),
        Credential::Token { .. } | Credential::System => None,
    }
}

fn throttled(refusal: Refusal) -> ApiError {
    match refusal {
        Refusal::TooMany(wait) => {
            // Rounded up, so that whoever waits as told is not refused again.
            let seconds = u64::try_from(wait.as_millis().div_ceil(1000).max(1)).unwrap_or(u64::MAX);
            ApiError::too_many(
                format!("too many failed attempts: wait {seconds} seconds"),
                Duration::from_secs(seconds),
            )
        }
        Refusal::Crowded => ApiError::unavailable(
            "passwords_busy",
            "too many passwords are being checked right now: retry in a moment",
        ),
    }
}

fn session_view(session: Session) -> SessionView {
    SessionView {
        id: session.id,
        created: session.created_at,
        last_used: session.last_used_at,
        expires: session.expires_at,
    }
}
