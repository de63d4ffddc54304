//! Users, as admins manage them.

use super::gate::Changed;
use super::login::session_of;
use super::{Actor, Auth, is_whole};
use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::Meta;
use crate::service::audit::{ANONYMOUS, audit};
use crate::service::idempotency;
use nm_store::{StoreError, Tx, Unique, User, UserPatch, UserRow};
use nm_types::UserId;
use nm_types::auth::{NewUser, Role, UserUpdate, UserView};
use nm_types::text::Username;
use serde_json::json;

pub(super) fn view(user: User) -> UserView {
    UserView {
        id: user.id,
        username: user.username,
        role: user.role,
        disabled: user.disabled,
        created: user.created_at,
        updated: user.updated_at,
    }
}

/// A user, and the revision that `If-Match` can name.
type Versioned = (UserView, i64);

fn versioned(user: User) -> Versioned {
    let generation = user.generation;
    (view(user), generation)
}

fn missing(key: &str) -> ApiError {
    ApiError::not_found("user", key)
}

impl Auth {
    /// A page in the order of their making, and where the next begins.
    pub async fn users(&self, after: Option<&UserId>, limit: u32) -> ApiResult<(Vec<UserView>, Option<UserId>)> {
        let mut rows = self.store.users(after, limit + 1).await?;
        let more = rows.len() > limit as usize;
        rows.truncate(limit as usize);
        let next = rows.last().filter(|_| more).map(|u| u.id.clone());
        Ok((rows.into_iter().map(view).collect(), next))
    }

    /// By id or username.
    pub async fn user(&self, key: &str) -> ApiResult<Versioned> {
        Ok(versioned(self.find_user(key).await?))
    }

    async fn find_user(&self, key: &str) -> ApiResult<User> {
        let found = match UserId::parse(key) {
            Ok(id) => self.store.user(&id).await?,
            Err(_) => self.store.user_by_name(key).await?,
        };
        found.ok_or_else(|| missing(key))
    }

    pub async fn create_user(&self, actor: &Actor, meta: &Meta, new: NewUser) -> ApiResult<Versioned> {
        let NewUser { username, password, role } = new;
        if is_reserved(&username) {
            let message = format!("nobody can be called `{username}`: it means something else here; choose another name");
            return Err(ApiError::conflict("name_reserved", message).field("username"));
        }
        may_hand_out(actor, role)?;
        let parts = [
            username.as_str().as_bytes(),
            role.as_str().as_bytes(),
            password.0.expose().as_bytes(),
        ];
        let fingerprint = self.fingerprints.of(meta, &parts);
        // Not within the transaction: it takes long, and others want to write.
        let password_hash = self.passwords.hash(&password.0).await?;
        let now = self.clock.now();
        let mut tx = self.store.begin(now).await?;
        let key = meta.idempotency_key.as_deref();
        if let Some(answer) = idempotency::answered(&mut tx, actor, key, || fingerprint).await? {
            return Ok(answer);
        }
        let row = UserRow {
            id: UserId::fresh(now.0),
            username: username.clone(),
            password_hash,
            role,
            must_change_password: false,
        };
        let user = tx.create_user(row).await.map_err(|error| match error {
            StoreError::Conflict { what: Unique::Username } => {
                ApiError::conflict("username_taken", format!("there is a user `{username}` already")).field("username")
            }
            other => other.into(),
        })?;
        tx.audit(audit(
            actor,
            meta,
            "user.create",
            Some(user.id.as_str()),
            json!({ "username": username, "role": role }),
        ))
        .await?;
        let made = versioned(user);
        idempotency::keep(&mut tx, actor, key, &made).await?;
        self.commit(tx, []).await?;
        Ok(made)
    }

    /// Changes what is given. A new password and being disabled end the user's sessions.
    pub async fn update_user(&self, actor: &Actor, meta: &Meta, key: &str, update: UserUpdate) -> ApiResult<Versioned> {
        let known = self.find_user(key).await?;
        let UserUpdate { role, disabled, password } = update;
        if role.is_some() || password.is_some() {
            may_hand_out(actor, role.unwrap_or(known.role))?;
        }
        let password_hash = match &password {
            Some(password) => Some(self.passwords.hash(&password.0).await?),
            None => None,
        };
        let mut tx = self.store.begin(self.clock.now()).await?;
        let before = held(&mut tx, meta, &known.id, key).await?;
        // Read again: the role may have been raised since.
        if password.is_some() {
            may_hand_out(actor, role.unwrap_or(before.role))?;
        }
        if role.is_none_or(|r| r == before.role) && disabled.is_none_or(|d| d == before.disabled) && password.is_none() {
            return Ok(versioned(before));
        }
        let patch = UserPatch {
            must_change_password: password_hash.is_some().then_some(false),
            password_hash,
            role,
            disabled,
            if_generation: None,
        };
        let after = tx.update_user(&before.id, patch).await?;
        keep_an_admin(&mut tx, &before).await?;
        let own = session_of(actor).filter(|_| actor.user == after.id);
        let ended = match (after.disabled, &password) {
            (true, _) => tx.revoke_sessions(&after.id, None).await?,
            (false, Some(_)) => tx.revoke_sessions(&after.id, own).await?,
            (false, None) => 0,
        };
        let detail = json!({
            "username": after.username,
            "role": role,
            "disabled": disabled,
            "passwordReset": password.is_some(),
            "sessionsEnded": ended,
        });
        tx.audit(audit(actor, meta, "user.update", Some(after.id.as_str()), detail)).await?;
        self.commit(tx, [Changed::user(&after.id)]).await?;
        if before.must_change_password && password.is_some() {
            self.forget_initial_password().await;
        }
        Ok(versioned(after))
    }

    /// Removes a user with their sessions and tokens.
    pub async fn delete_user(&self, actor: &Actor, meta: &Meta, key: &str) -> ApiResult<()> {
        let known = self.find_user(key).await?;
        let mut tx = self.store.begin(self.clock.now()).await?;
        let before = held(&mut tx, meta, &known.id, key).await?;
        tx.delete_user(&before.id).await?;
        keep_an_admin(&mut tx, &before).await?;
        tx.audit(audit(
            actor,
            meta,
            "user.delete",
            Some(before.id.as_str()),
            json!({ "username": before.username }),
        ))
        .await?;
        self.commit(tx, [Changed::user(&before.id)]).await?;
        if before.must_change_password {
            self.forget_initial_password().await;
        }
        Ok(())
    }
}

/// The user as this transaction finds it, at the version that `If-Match` names where it does.
async fn held(tx: &mut Tx, meta: &Meta, id: &UserId, key: &str) -> ApiResult<User> {
    let user = tx.user(id).await?.ok_or_else(|| missing(key))?;
    match meta.if_match {
        Some(wanted) if wanted != user.generation => Err(ApiError::new(
            http::StatusCode::PRECONDITION_FAILED,
            "changed_meanwhile",
            format!(
                "user {id} was changed by somebody else meanwhile, it is at \"{}\" now: read it again and retry",
                user.generation
            ),
        )),
        Some(_) | None => Ok(user),
    }
}

/// Refuses a change, already made in `tx`, that leaves nobody who could undo it. Dropping the transaction undoes it.
async fn keep_an_admin(tx: &mut Tx, before: &User) -> ApiResult<()> {
    let was_one = before.role == Role::Admin && !before.disabled;
    if was_one && tx.enabled_admins().await? == 0 {
        let message = format!(
            "`{}` is the last admin who can sign in: make another user an admin first",
            before.username
        );
        return Err(ApiError::conflict("last_admin", message));
    }
    Ok(())
}

/// Whoever can set a user's password or role can sign in as that user, so must be allowed all that the user is.
fn may_hand_out(actor: &Actor, role: Role) -> ApiResult<()> {
    if role > actor.role {
        return Err(ApiError::forbidden(format!(
            "you are {} and can't make anybody {}",
            actor.role.as_str(),
            role.as_str()
        )));
    }
    if !is_whole(actor) {
        return Err(ApiError::forbidden(
            "a token limited to scopes can't set passwords or roles: it would hand out more than it has",
        ));
    }
    Ok(())
}

/// Names that would be taken for ids, and those the audit log gives to others.
fn is_reserved(username: &Username) -> bool {
    UserId::parse(username.as_str()).is_ok() || matches!(username.as_str(), "system" | ANONYMOUS)
}
