//! Stream tickets: browsers can't set a header on a WebSocket or an event stream, so they put a ticket into the URL. It is
//! good once and for 30 seconds, since URLs end up in logs.

use super::actor::Actor;
use crate::api::error::{ApiError, ApiResult};
use nm_store::TokenHash;
use nm_types::{Timestamp, UserId};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// How long a ticket is good.
const LIFETIME: Duration = Duration::from_secs(30);
/// The most tickets at a time, of one user and of all.
const PER_USER: usize = 100;
const MOST: usize = 10_000;

/// Tickets that were given and not used yet.
#[derive(Debug, Default)]
pub struct Tickets {
    open: Mutex<HashMap<TokenHash, Ticket>>,
}

#[derive(Debug)]
struct Ticket {
    actor: Actor,
    given: Timestamp,
}

impl Ticket {
    fn is_good(&self, now: Timestamp) -> bool {
        (0..lifetime_ms()).contains(&now.since(self.given))
    }
}

fn lifetime_ms() -> i64 {
    i64::try_from(LIFETIME.as_millis()).unwrap_or(i64::MAX)
}

impl Tickets {
    fn open(&self) -> MutexGuard<'_, HashMap<TokenHash, Ticket>> {
        self.open.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Notes a ticket for `actor`; gives its end.
    pub fn give(&self, hash: TokenHash, actor: &Actor, now: Timestamp) -> ApiResult<Timestamp> {
        let mut open = self.open();
        open.retain(|_, t| t.is_good(now));
        let of_user = |user: &UserId| open.values().filter(|t| t.actor.user == *user).count();
        if open.len() >= MOST || of_user(&actor.user) >= PER_USER {
            return Err(ApiError::too_many(
                "too many stream tickets were asked for and not used: retry in a moment",
                LIFETIME,
            ));
        }
        open.insert(
            hash,
            Ticket {
                actor: actor.clone(),
                given: now,
            },
        );
        Ok(now.plus_millis(lifetime_ms()))
    }

    /// Uses a ticket up: whom it was given to, when it is still good.
    pub fn take(&self, hash: &TokenHash, now: Timestamp) -> Option<Actor> {
        let ticket = self.open().remove(hash)?;
        ticket.is_good(now).then_some(ticket.actor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::auth::Credential;
    use nm_types::SessionId;
    use nm_types::auth::Role;

    const NOW: Timestamp = Timestamp(1_770_000_000_000);

    fn actor() -> Actor {
        Actor {
            user: UserId::fresh(1),
            username: "ada".into(),
            role: Role::Viewer,
            credential: Credential::Session(SessionId::fresh(1)),
        }
    }
    fn hash(n: usize) -> TokenHash {
        TokenHash::of(&n.to_string())
    }

    #[test]
    fn good_once_and_for_thirty_seconds() {
        let (tickets, actor) = (Tickets::default(), actor());
        assert_eq!(tickets.give(hash(1), &actor, NOW).unwrap(), NOW.plus_millis(30_000));
        assert_eq!(tickets.take(&hash(1), NOW.plus_millis(29_999)).unwrap().user, actor.user);
        assert!(tickets.take(&hash(1), NOW).is_none(), "a second time");
        assert!(tickets.take(&hash(2), NOW).is_none(), "never given");
        tickets.give(hash(3), &actor, NOW).unwrap();
        assert!(tickets.take(&hash(3), NOW.plus_millis(30_000)).is_none(), "too late");
        tickets.give(hash(4), &actor, NOW).unwrap();
        assert!(tickets.take(&hash(4), NOW.plus_millis(-1)).is_none(), "from the future");
    }

    #[test]
    fn bounded_by_user_and_in_all() {
        let (tickets, greedy) = (Tickets::default(), actor());
        for n in 0..PER_USER {
            tickets.give(hash(n), &greedy, NOW).unwrap();
        }
        assert_eq!(tickets.give(hash(PER_USER), &greedy, NOW).unwrap_err().status, 429);
        tickets.give(hash(PER_USER), &actor(), NOW).unwrap();
        tickets.give(hash(PER_USER + 1), &greedy, NOW.plus_millis(30_000)).unwrap();
        assert_eq!(tickets.open().len(), 1, "what has ended is forgotten");
    }
}
