//! API tokens: what programs sign in with.

use super::gate::Changed;
use super::{API_TOKEN, Actor, Auth, Credential, fresh_token, holds, is_whole};
use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::Meta;
use crate::service::audit::audit;
use crate::service::idempotency;
use nm_store::{ApiToken, TokenRow};
use nm_types::auth::{CreatedToken, NewToken, Role, Scope, TokenView};
use nm_types::{Timestamp, TokenId};
use serde_json::json;
use std::collections::BTreeSet;

/// How long a token is good where nobody says.
const DEFAULT_DAYS: i64 = 90;
const DAY_MS: i64 = 24 * 3600 * 1000;
/// The most scopes of one token, as its schema says.
const SCOPES: usize = 50;
/// The most tokens of one user.
const PER_USER: u32 = 200;

fn view(token: ApiToken) -> TokenView {
    TokenView {
        id: token.id,
        name: token.name,
        user_id: token.user_id,
        role: token.role,
        scopes: token.scopes,
        created: token.created_at,
        expires: token.expires_at,
        last_used: token.last_used_at,
    }
}

impl Auth {
    /// A page of the caller's tokens, or of everybody's, in the order of their making, and where the next begins.
    pub async fn list_tokens(
        &self,
        actor: &Actor,
        all: bool,
        after: Option<&TokenId>,
        limit: u32,
    ) -> ApiResult<(Vec<TokenView>, Option<TokenId>)> {
        if all && actor.role < Role::Admin {
            return Err(ApiError::forbidden("only admins see the tokens of others"));
        }
        let user = (!all).then_some(&actor.user);
        let mut rows = self.store.tokens(user, after, limit + 1).await?;
        let more = rows.len() > limit as usize;
        rows.truncate(limit as usize);
        let next = rows.last().filter(|_| more).map(|t| t.id.clone());
        Ok((rows.into_iter().map(view).collect(), next))
    }

    /// A token for the caller, with no more than the caller may. The token itself is given this once.
    pub async fn create_token(&self, actor: &Actor, meta: &Meta, new: NewToken) -> ApiResult<CreatedToken> {
        let NewToken {
            name,
            role,
            scopes,
            expires_in_days,
        } = new;
        if scopes.len() > SCOPES {
            return Err(ApiError::invalid("scopes", format!("a token has at most {SCOPES} scopes")));
        }
        let scopes: BTreeSet<Scope> = scopes.into_iter().collect();
        no_wider_than(actor, role, &scopes)?;
        let asked = json!({ "name": name, "role": role, "scopes": scopes, "days": expires_in_days });
        let fingerprint = self.fingerprints.of(meta, &[asked.to_string().as_bytes()]);
        let now = self.clock.now();
        let days = expires_in_days.map_or(DEFAULT_DAYS, |d| d.get());
        let expires_at = self.no_later_than(actor, now.plus_millis(days * DAY_MS)).await?;
        let most = PER_USER as usize;
        let crowded = self.store.tokens(Some(&actor.user), None, PER_USER).await?.len() >= most;
        let (token, hash) = fresh_token(API_TOKEN)?;
        let mut tx = self.store.begin(now).await?;
        let key = meta.idempotency_key.as_deref();
        if let Some(answer) = idempotency::answered(&mut tx, actor, key, || fingerprint).await? {
            return Ok(answer);
        }
        if crowded {
            return Err(ApiError::conflict(
                "too_many_tokens",
                format!("you have {most} tokens: delete those you do not need"),
            ));
        }
        let row = TokenRow {
            id: TokenId::fresh(now.0),
            name,
            user_id: actor.user.clone(),
            hash,
            role,
            scopes: scopes.into_iter().collect(),
            expires_at,
        };
        let view = view(tx.create_token(row).await?);
        let detail = json!({ "name": view.name, "role": view.role, "scopes": view.scopes, "expires": view.expires });
        tx.audit(audit(actor, meta, "token.create", Some(view.id.as_str()), detail)).await?;
        let created = CreatedToken { token, view };
        idempotency::keep(&mut tx, actor, key, &created).await?;
        self.commit(tx, []).await?;
        Ok(created)
    }

    /// A token that a token makes does not outlive it.
    async fn no_later_than(&self, actor: &Actor, wanted: Timestamp) -> ApiResult<Timestamp> {
        match &actor.credential {
            Credential::Session(_) | Credential::System => Ok(wanted),
            Credential::Token { id, .. } => {
                let maker = self
                    .store
                    .token(id)
                    .await?
                    .ok_or_else(|| ApiError::unauthorized("your token was deleted"))?;
                Ok(wanted.min(maker.expires_at))
            }
        }
    }

    /// Ends a token: one's own, or as an admin anybody's. By id, or one's own by its name where only one has it.
    pub async fn delete_token(&self, actor: &Actor, meta: &Meta, key: &str) -> ApiResult<()> {
        let token = self.find_token(actor, key).await?;
        let mut tx = self.store.begin(self.clock.now()).await?;
        tx.revoke_token(&token.id).await?;
        tx.audit(audit(
            actor,
            meta,
            "token.delete",
            Some(token.id.as_str()),
            json!({ "name": token.name, "user": token.user_id }),
        ))
        .await?;
        self.commit(tx, [Changed::token(&token.id)]).await?;
        Ok(())
    }

    async fn find_token(&self, actor: &Actor, key: &str) -> ApiResult<ApiToken> {
        let missing = || ApiError::not_found("token", key);
        if let Ok(id) = TokenId::parse(key) {
            let found = self.store.token(&id).await?.filter(|t| t.revoked_at.is_none());
            // Of another's token not even that it exists.
            return found
                .filter(|t| t.user_id == actor.user || actor.role == Role::Admin)
                .ok_or_else(missing);
        }
        let mut named = self
            .store
            .tokens(Some(&actor.user), None, PER_USER)
            .await?
            .into_iter()
            .filter(|t| t.name.as_str() == key);
        match (named.next(), named.next()) {
            (Some(only), None) => Ok(only),
            (Some(_), Some(_)) => Err(ApiError::conflict(
                "ambiguous_name",
                "several of your tokens have that name: use the id",
            )),
            (None, _) => Err(missing()),
        }
    }
}

/// Refuses a token that may do what its maker may not.
fn no_wider_than(actor: &Actor, role: Role, scopes: &BTreeSet<Scope>) -> ApiResult<()> {
    if role > actor.role {
        return Err(ApiError::forbidden(format!("a token's role is at most your own, {}", actor.role.as_str())).field("role"));
    }
    if scopes.is_empty() && !is_whole(actor) {
        return Err(
            ApiError::forbidden("a token without scopes could do more than the token that makes it: name scopes that it has")
                .field("scopes"),
        );
    }
    match scopes.iter().find(|scope| !holds(actor, scope)) {
        Some(wider) => {
            Err(ApiError::forbidden(format!("the token that makes it does not have the scope `{wider}` itself")).field("scopes"))
        }
        None => Ok(()),
    }
}
