//! People, programs, and what they may do: signing in ([`login`]), being let in ([`admit`]), users, API tokens, the first
//! admin.
//!
//! Invariants: tokens are stored as SHA-256 only; a revocation counts at once in this process and within five seconds
//! everywhere; an admin who may sign in is always left; nobody hands out more than they may themselves.

mod actor;
mod admit;
mod bootstrap;
mod gate;
mod login;
mod passwords;
mod refusals;
#[cfg(test)]
mod tests;
mod throttle;
mod tickets;
mod tokens;
mod users;

pub use actor::{Actor, Credential};
pub use admit::Presented;
pub use bootstrap::{BootstrapError, FILE as INITIAL_PASSWORD_FILE};
pub use login::LoginCounts;
pub use passwords::Cost;
pub use throttle::Limits;

use crate::api::error::{ApiError, ApiResult};
use crate::service::clock::SharedClock;
use crate::service::idempotency::Fingerprints;
use admit::Uses;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gate::{Changed, Gate};
use http::Method;
use nm_store::{AuditEntry, Store, StoreError, TokenHash, Tx};
use nm_types::auth::{AREAS, Scope};
use passwords::Passwords;
use refusals::Refusals;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use throttle::Throttle;
use tickets::Tickets;
use tokio_util::task::AbortOnDropHandle;

/// What signing in is like.
#[derive(Debug, Clone)]
pub struct AuthConfig {
    /// How long an access token is good.
    pub access: Duration,
    /// How long a refresh token is good, and a session without use.
    pub refresh: Duration,
    pub limits: Limits,
    pub password_cost: Cost,
}

impl Default for AuthConfig {
    /// 15 minutes, 7 days.
    fn default() -> Self {
        Self {
            access: Duration::from_secs(15 * 60),
            refresh: Duration::from_secs(7 * 24 * 3600),
            limits: Limits::default(),
            password_cost: Cost::default(),
        }
    }
}

/// Users, sessions, tokens, and who may come in.
pub struct Auth {
    store: Store,
    clock: SharedClock,
    config: AuthConfig,
    passwords: Passwords,
    logins: Arc<Throttle>,
    refreshes: Arc<Throttle>,
    tickets: Tickets,
    gate: Arc<Gate>,
    uses: Arc<Uses>,
    refusals: Refusals,
    login_counts: LoginCounts,
    fingerprints: Fingerprints,
    initial_password: OnceLock<PathBuf>,
    /// They end with this.
    _tasks: [AbortOnDropHandle<()>; 3],
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Auth {
    /// Within a tokio runtime: it follows the store's changes from here on.
    pub fn new(store: Store, clock: SharedClock, config: AuthConfig) -> Self {
        let (gate, uses) = (Arc::<Gate>::default(), Arc::<Uses>::default());
        let (refusals, refused) = refusals::refusals();
        let tasks = [
            tokio::spawn(admit::follow(store.watch(), Arc::clone(&gate))),
            tokio::spawn(admit::write_uses(Arc::clone(&uses), store.clone(), clock.clone())),
            tokio::spawn(refusals::write(refused, store.clone(), clock.clone())),
        ];
        let limits = config.limits;
        Self {
            passwords: Passwords::new(config.password_cost.clone()),
            logins: Throttle::new(limits.per_account, limits.per_address, limits.window),
            refreshes: Throttle::new(usize::MAX, limits.refreshes_per_address, limits.window),
            tickets: Tickets::default(),
            login_counts: LoginCounts::default(),
            fingerprints: Fingerprints::new(&store),
            initial_password: OnceLock::new(),
            _tasks: tasks.map(AbortOnDropHandle::new),
            store,
            clock,
            config,
            gate,
            uses,
            refusals,
        }
    }

    /// How attempts to sign in have ended since this process began.
    pub fn login_counts(&self) -> &LoginCounts {
        &self.login_counts
    }

    /// Notes in the audit log that `actor` was refused a route for want of role or scope.
    pub fn refused(&self, actor: &Actor, method: &Method, path: &str, request_id: Option<&str>, address: Option<IpAddr>) {
        let path: String = path.chars().take(200).collect();
        self.refusals.note(AuditEntry {
            target: Some(format!("{method} {path}")),
            outcome: "forbidden".into(),
            request_id: request_id.map(str::to_owned),
            address: address.map(|a| a.to_string()),
            ..AuditEntry::new(actor.label(), "auth.refused")
        });
    }

    /// Commits, and makes what changed count in this process before anybody is told of it.
    async fn commit(&self, tx: Tx, changes: impl IntoIterator<Item = Changed>) -> Result<(), StoreError> {
        let done = tx.commit().await;
        // Also where the answer was lost: it may have happened.
        changes.into_iter().for_each(|change| self.gate.changed(change));
        done.map(|_| ())
    }
}

/// What tokens begin with, so that one that leaked is known for what it is.
const ACCESS: &str = "nma_";
const REFRESH: &str = "nmr_";
const API_TOKEN: &str = "nmt_";
const TICKET: &str = "nms_";

const TOKEN_BYTES: usize = 32;
const TOKEN_TAIL: usize = (TOKEN_BYTES * 4).div_ceil(3);

/// A new random token, and what is kept of it.
fn fresh_token(prefix: &'static str) -> ApiResult<(String, TokenHash)> {
    let token = format!("{prefix}{}", URL_SAFE_NO_PAD.encode(passwords::random::<TOKEN_BYTES>()?));
    let hash = TokenHash::of(&token);
    Ok((token, hash))
}

/// Which of `kinds` a text could be a token of, and its hash. What can't be a token is not worth a read of the store.
fn hash_of(token: &str, kinds: &[&'static str]) -> Option<(&'static str, TokenHash)> {
    let kind = kinds.iter().find(|kind| token.starts_with(**kind))?;
    let tail = &token.as_bytes()[kind.len()..];
    let could_be = tail.len() == TOKEN_TAIL && tail.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    could_be.then(|| (*kind, TokenHash::of(token)))
}

/// Whether nothing but the role limits `actor`: a session, or a token whose scopes are everything.
fn is_whole(actor: &Actor) -> bool {
    AREAS.iter().all(|area| actor.may(actor.role, area, true))
}

/// Whether all that `scope` allows is within what `actor`'s own scopes allow.
fn holds(actor: &Actor, scope: &Scope) -> bool {
    let allowed = |area: &&str, write| !scope.allows(area, write) || actor.may(actor.role, area, write);
    AREAS.iter().all(|area| allowed(area, false) && allowed(area, true))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Refuses a token limited to scopes what belongs to its user as a person: their password, their sessions.
fn only_whole(actor: &Actor) -> ApiResult<()> {
    if is_whole(actor) {
        Ok(())
    } else {
        Err(ApiError::forbidden("a token limited to scopes can't do this for its user: sign in"))
    }
}

#[cfg(test)]
mod unit {
    use super::*;
    use nm_types::auth::Role;
    use nm_types::{SessionId, TokenId, UserId};

    #[test]
    fn tokens_are_long_random_and_told_apart() {
        let (one, hash) = fresh_token(ACCESS).unwrap();
        let (two, _) = fresh_token(ACCESS).unwrap();
        assert_ne!(one, two);
        assert_eq!(hash_of(&one, &[API_TOKEN, ACCESS]), Some((ACCESS, hash)));
        assert_eq!(hash_of(&one, &[API_TOKEN, REFRESH]), None);
        for bad in [
            "",
            "nma_",
            &one[..one.len() - 1],
            &format!("{one}A"),
            &one.replace("nma_", "nma "),
            &format!("nma_{}", "é".repeat(22)),
        ] {
            assert_eq!(hash_of(bad, &[ACCESS]), None, "{bad}");
        }
    }

    #[test]
    fn scopes_within_scopes() {
        let with = |scopes: &[&str]| Actor {
            user: UserId::fresh(1),
            username: "ada".into(),
            role: Role::Admin,
            credential: Credential::Token {
                id: TokenId::fresh(1),
                name: "ci".into(),
                scopes: scopes.iter().map(|s| Scope::parse(s).unwrap()).collect(),
            },
        };
        for (own, asked, may) in [
            (&["containers:read"][..], "containers:read", true),
            (&["containers:read"], "containers:write", false),
            (&["containers:write"], "containers:read", true),
            (&["containers:write"], "*:read", false),
            (&["*:read"], "images:read", true),
            (&["*:read", "tokens:write"], "images:write", false),
            (&["*:write"], "*:write", true),
            (&[], "*:write", true),
        ] {
            assert_eq!(holds(&with(own), &Scope::parse(asked).unwrap()), may, "{own:?} and {asked}");
        }
        assert!(is_whole(&with(&[])) && is_whole(&with(&["*:write"])));
        assert!(!is_whole(&with(&["*:read"])) && !is_whole(&with(&["users:write", "tokens:write"])));
        let session = Actor {
            credential: Credential::Session(SessionId::fresh(1)),
            ..with(&[])
        };
        assert!(is_whole(&session) && only_whole(&session).is_ok());
    }
}
