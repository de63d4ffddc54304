//! Lets requests in, and tells open streams when their permission has ended.

use super::actor::{Actor, Credential};
use super::gate::{Changed, Gate, Standing};
use super::{ACCESS, API_TOKEN, Auth, TICKET, hash_of};
use crate::api::error::{ApiError, ApiResult};
use crate::service::clock::SharedClock;
use nm_store::{ApiToken, Session, Store, StoreError, TokenHash, User, Watch, WatchError, What};
use nm_types::auth::StreamTicket;
use nm_types::{SessionId, Timestamp, TokenId};
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::sync::broadcast::error::RecvError;

/// What a request showed.
#[derive(Clone)]
pub enum Presented {
    /// An access token or an API token, from the `Authorization` header.
    Bearer(String),
    /// A stream ticket, from the URL.
    Ticket(String),
}

/// How often an open stream looks at the clock, which may be set while it waits.
const LOOK: Duration = Duration::from_secs(2);
/// Between two attempts to read whether a stream may go on, while the store does not answer.
const AGAIN: Duration = Duration::from_secs(1);
/// How long uses gather before they are written in one transaction.
const GATHER: Duration = Duration::from_secs(1);

impl Auth {
    /// Who it is that presents this; 401 when it is nobody who may come in. Reads the store only for what was not seen
    /// within the last seconds.
    pub async fn admit(&self, presented: Presented, address: Option<IpAddr>) -> ApiResult<Actor> {
        let admitted = match &presented {
            Presented::Bearer(token) => self.bearer(token).await?,
            Presented::Ticket(ticket) => self.ticket_holder(ticket).await?,
        };
        admitted.ok_or_else(|| {
            tracing::debug!(client.address = ?address, "a token or ticket was refused");
            ApiError::unauthorized(match presented {
                Presented::Bearer(_) => "the token has ended, was revoked, or never was one: sign in again",
                Presented::Ticket(_) => "the ticket was used, is older than 30 seconds, or never was one: ask for another",
            })
        })
    }

    async fn bearer(&self, token: &str) -> ApiResult<Option<Actor>> {
        let Some((kind, hash)) = hash_of(token, &[ACCESS, API_TOKEN]) else {
            return Ok(None);
        };
        let now = self.clock.now();
        let pass = match self.gate.find(&hash, now) {
            Ok(pass) => pass,
            Err(epoch) => match self.read(kind, hash, now).await? {
                Some(standing) => self.gate.remember(hash, standing, epoch, now),
                None => return Ok(None),
            },
        };
        if pass.note {
            self.uses.note(&pass.actor.credential);
        }
        Ok(Some(pass.actor))
    }

    async fn read(&self, kind: &'static str, hash: TokenHash, now: Timestamp) -> Result<Option<Standing>, StoreError> {
        if kind == ACCESS {
            let found = self.store.session_by_access(hash, now).await?;
            return Ok(found.map(|(session, user)| {
                let ends = session.access_expires_at.min(session.expires_at);
                Standing {
                    ends,
                    last_used: Some(session.last_used_at),
                    actor: signed_in(&session, user),
                }
            }));
        }
        let found = self.store.token_by_hash(hash, now).await?;
        Ok(found.map(|(token, user)| Standing {
            ends: token.expires_at,
            last_used: token.last_used_at,
            actor: program(token, user),
        }))
    }

    /// A ticket for `actor`, to open one stream with.
    pub fn ticket(&self, actor: &Actor) -> ApiResult<StreamTicket> {
        let (ticket, hash) = super::fresh_token(TICKET)?;
        let expires = self.tickets.give(hash, actor, self.clock.now())?;
        Ok(StreamTicket { ticket, expires })
    }

    async fn ticket_holder(&self, ticket: &str) -> ApiResult<Option<Actor>> {
        let Some((_, hash)) = hash_of(ticket, &[TICKET]) else {
            return Ok(None);
        };
        let Some(actor) = self.tickets.take(&hash, self.clock.now()) else {
            return Ok(None);
        };
        // What it was given to may have been revoked since.
        Ok(self.end_of(&actor).await?.map(|_| actor))
    }

    /// When `actor`'s permission ends by itself; `None` when it has ended or is another one by now: revoked, disabled,
    /// deleted, expired, of another role.
    async fn end_of(&self, actor: &Actor) -> Result<Option<Timestamp>, StoreError> {
        let now = self.clock.now();
        let (most, ends) = match &actor.credential {
            Credential::System => return Ok(Some(Timestamp(i64::MAX))),
            Credential::Session(id) => match self.store.session(id).await? {
                Some(session) if session.revoked_at.is_none() => (None, session.expires_at),
                Some(_) | None => return Ok(None),
            },
            Credential::Token { id, .. } => match self.store.token(id).await? {
                Some(token) if token.revoked_at.is_none() => (Some(token.role), token.expires_at),
                Some(_) | None => return Ok(None),
            },
        };
        let Some(user) = self.store.user(&actor.user).await? else {
            return Ok(None);
        };
        let role = most.map_or(user.role, |most| most.min(user.role));
        Ok((now < ends && !user.disabled && role == actor.role).then_some(ends))
    }

    /// Resolves when `actor`'s permission has ended: its session, token or user was revoked, disabled, deleted or has
    /// expired, or may do something else now. An access token's own end is none: its session goes on.
    pub async fn ended(&self, actor: &Actor) {
        // Before looking, so that nothing falls in between.
        let mut changes = self.gate.changes();
        loop {
            let ends = match self.end_of(actor).await {
                Ok(Some(ends)) => ends,
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(
                        error = &error as &dyn std::error::Error,
                        "whether a stream may go on is not known yet"
                    );
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            };
            loop {
                tokio::select! {
                    change = changes.recv() => match change {
                        Ok(change) if !change.concerns(actor) => {}
                        Ok(_) | Err(RecvError::Lagged(_)) => break,
                        // The gate is gone, and with it whoever could have let somebody in.
                        Err(RecvError::Closed) => return,
                    },
                    () = tokio::time::sleep(LOOK) => if self.clock.now() >= ends { break },
                }
            }
        }
    }
}

fn signed_in(session: &Session, user: User) -> Actor {
    Actor {
        user: user.id,
        username: user.username.into(),
        role: user.role,
        credential: Credential::Session(session.id.clone()),
    }
}

/// A token's actor: never more than its user is by now.
fn program(token: ApiToken, user: User) -> Actor {
    let credential = Credential::Token {
        id: token.id,
        name: token.name.into(),
        scopes: token.scopes,
    };
    Actor {
        user: user.id,
        username: user.username.into(),
        role: token.role.min(user.role),
        credential,
    }
}

/// Brings the store's changes to the gate, until the store is closed.
pub async fn follow(mut watch: Watch, gate: Arc<Gate>) {
    loop {
        match watch.next().await {
            Ok(change) if change.what == What::Created => {}
            Ok(change) => match change.subject {
                nm_store::Subject::User | nm_store::Subject::Session | nm_store::Subject::Token => {
                    gate.changed(Changed::One(change.subject, change.id));
                }
                nm_store::Subject::Resource(_) | nm_store::Subject::NodeEvents | nm_store::Subject::ClusterEvents => {}
            },
            Err(WatchError::Lagged { .. }) => gate.changed(Changed::Everything),
            Err(WatchError::Closed) => return,
        }
    }
}

/// Sessions and tokens whose use is still to be written.
#[derive(Debug, Default)]
pub struct Uses {
    due: Mutex<Due>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Due {
    sessions: HashSet<SessionId>,
    tokens: HashSet<TokenId>,
}

impl Uses {
    fn due(&self) -> std::sync::MutexGuard<'_, Due> {
        self.due.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn note(&self, credential: &Credential) {
        match credential {
            Credential::Session(id) => self.due().sessions.insert(id.clone()),
            Credential::Token { id, .. } => self.due().tokens.insert(id.clone()),
            Credential::System => return,
        };
        self.wake.notify_one();
    }

    async fn write(&self, store: &Store, now: Timestamp) -> Result<(), StoreError> {
        let Due { sessions, tokens } = std::mem::take(&mut *self.due());
        let mut tx = store.begin(now).await?;
        for id in &sessions {
            tx.touch_session(id).await?;
        }
        for id in &tokens {
            tx.touch_token(id).await?;
        }
        tx.commit().await?;
        Ok(())
    }
}

/// Writes uses, some at a time. One that could not be written is noted again with the next.
pub async fn write_uses(uses: Arc<Uses>, store: Store, clock: SharedClock) {
    loop {
        uses.wake.notified().await;
        tokio::time::sleep(GATHER).await;
        if let Err(error) = uses.write(&store, clock.now()).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "when tokens were last used could not be written"
            );
        }
    }
}
