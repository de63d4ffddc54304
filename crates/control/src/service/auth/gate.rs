//! Who the tokens of late stood for, so that a request does not cost a read of the store.
//!
//! Invariant: what is remembered was true after the last change that was heard of. A change is heard of when this process
//! has made it (before the caller is answered) and through the store's feed (from other replicas). Since a feed can be cut
//! off, nothing is believed for longer than [`TRUST_MS`] either.

use super::actor::{Actor, Credential};
use nm_store::{Subject, TokenHash};
use nm_types::{SessionId, Timestamp, TokenId, UserId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::broadcast;

/// How long an entry is believed: a revocation counts within five seconds whatever happens.
const TRUST_MS: i64 = 4_000;
/// The most entries.
const MOST: usize = 10_000;
/// How often the use of a token is noted.
const NOTE_MS: i64 = 60_000;
/// How many changes a stream may be behind before it looks for itself.
const BEHIND: usize = 256;

/// Something that may have ended somebody's permission.
#[derive(Debug, Clone)]
pub enum Changed {
    One(Subject, Arc<str>),
    /// Changes were missed.
    Everything,
}

impl Changed {
    pub fn user(id: &UserId) -> Self {
        Self::One(Subject::User, id.as_str().into())
    }
    pub fn session(id: &SessionId) -> Self {
        Self::One(Subject::Session, id.as_str().into())
    }
    pub fn token(id: &TokenId) -> Self {
        Self::One(Subject::Token, id.as_str().into())
    }

    /// Whether it is about this actor.
    pub fn concerns(&self, actor: &Actor) -> bool {
        let Self::One(subject, id) = self else { return true };
        match (subject, &actor.credential) {
            (Subject::User, _) => actor.user.as_str() == &**id,
            (Subject::Session, Credential::Session(session)) => session.as_str() == &**id,
            (Subject::Token, Credential::Token { id: token, .. }) => token.as_str() == &**id,
            (Subject::Session | Subject::Token | Subject::Resource(_) | Subject::NodeEvents | Subject::ClusterEvents, _) => false,
        }
    }
}

/// What was read of one token.
#[derive(Debug, Clone)]
pub struct Standing {
    pub actor: Actor,
    /// The end of what was presented.
    pub ends: Timestamp,
    pub last_used: Option<Timestamp>,
}

/// Let in, and whether that use is to be noted.
#[derive(Debug)]
pub struct Pass {
    pub actor: Actor,
    pub note: bool,
}

#[derive(Debug)]
struct Entry {
    standing: Standing,
    read: Timestamp,
}

impl Entry {
    fn is_good(&self, now: Timestamp) -> bool {
        (0..TRUST_MS).contains(&now.since(self.read)) && now < self.standing.ends
    }
    fn pass(&mut self, now: Timestamp) -> Pass {
        let note = self.standing.last_used.is_none_or(|last| now.since(last) >= NOTE_MS);
        if note {
            self.standing.last_used = Some(now);
        }
        Pass {
            actor: self.standing.actor.clone(),
            note,
        }
    }
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<TokenHash, Entry>,
    /// Grows with each change, so that what was read before one is not remembered after it.
    epoch: u64,
}

#[derive(Debug)]
pub struct Gate {
    state: Mutex<State>,
    changes: broadcast::Sender<Changed>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            changes: broadcast::Sender::new(BEHIND),
        }
    }
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Whom a token stands for, when that is known; otherwise the epoch to give to [`Gate::remember`] after reading it.
    pub fn find(&self, hash: &TokenHash, now: Timestamp) -> Result<Pass, u64> {
        let mut state = self.state();
        let epoch = state.epoch;
        match state.entries.get_mut(hash) {
            Some(entry) if entry.is_good(now) => Ok(entry.pass(now)),
            Some(_) | None => Err(epoch),
        }
    }

    /// Remembers what was read since [`Gate::find`], unless something changed meanwhile.
    pub fn remember(&self, hash: TokenHash, standing: Standing, epoch: u64, now: Timestamp) -> Pass {
        let mut entry = Entry { standing, read: now };
        let pass = entry.pass(now);
        let mut state = self.state();
        if state.epoch == epoch {
            if state.entries.len() >= MOST {
                state.entries.retain(|_, e| e.is_good(now));
            }
            if state.entries.len() >= MOST
                && let Some(any) = state.entries.keys().next().copied()
            {
                state.entries.remove(&any);
            }
            state.entries.insert(hash, entry);
        }
        pass
    }

    /// Forgets what a change is about, and tells the streams.
    pub fn changed(&self, change: Changed) {
        let mut state = self.state();
        state.epoch += 1;
        state.entries.retain(|_, e| !change.concerns(&e.standing.actor));
        drop(state);
        // It fails when no stream is open.
        let _ = self.changes.send(change);
    }

    /// The changes from now on.
    pub fn changes(&self) -> broadcast::Receiver<Changed> {
        self.changes.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nm_types::auth::Role;

    const NOW: Timestamp = Timestamp(1_770_000_000_000);

    fn later(ms: i64) -> Timestamp {
        NOW.plus_millis(ms)
    }
    fn hash(n: usize) -> TokenHash {
        TokenHash::of(&n.to_string())
    }
    fn standing(credential: Credential) -> Standing {
        let actor = Actor {
            user: UserId::fresh(1),
            username: "ada".into(),
            role: Role::Viewer,
            credential,
        };
        Standing {
            actor,
            ends: later(900_000),
            last_used: Some(NOW),
        }
    }
    fn session() -> Standing {
        standing(Credential::Session(SessionId::fresh(1)))
    }
    fn token() -> Standing {
        standing(Credential::Token {
            id: TokenId::fresh(1),
            name: "ci".into(),
            scopes: Vec::new(),
        })
    }
    fn knows(gate: &Gate, n: usize) -> bool {
        gate.find(&hash(n), NOW).is_ok()
    }
    fn learn(gate: &Gate, n: usize, standing: Standing) {
        let epoch = gate.find(&hash(n), NOW).unwrap_err();
        gate.remember(hash(n), standing, epoch, NOW);
    }

    #[test]
    fn believed_for_four_seconds_and_never_past_its_end() {
        let gate = Gate::default();
        learn(&gate, 1, session());
        assert_eq!(gate.find(&hash(1), later(TRUST_MS - 1)).unwrap().actor.username, "ada");
        assert!(gate.find(&hash(1), later(TRUST_MS)).is_err());
        assert!(gate.find(&hash(1), later(-1)).is_err(), "the clock was put back");
        learn(
            &gate,
            2,
            Standing {
                ends: later(1),
                ..session()
            },
        );
        assert!(gate.find(&hash(2), NOW).is_ok());
        assert!(gate.find(&hash(2), later(1)).is_err());
    }

    #[test]
    fn a_change_forgets_what_it_is_about_and_nothing_else() {
        let (one, two, program) = (session(), session(), token());
        let Credential::Session(first) = one.actor.credential.clone() else {
            unreachable!()
        };
        let Credential::Token { id: ci, .. } = program.actor.credential.clone() else {
            unreachable!()
        };
        let gate = Gate::default();
        let fill = || {
            (1..).zip([&one, &two, &program]).for_each(|(n, s)| {
                let epoch = gate.find(&hash(n), later(TRUST_MS)).unwrap_err();
                gate.remember(hash(n), s.clone(), epoch, NOW);
            })
        };
        for (change, left) in [
            (Changed::session(&first), [false, true, true]),
            (Changed::token(&ci), [true, true, false]),
            (Changed::user(&two.actor.user), [true, false, true]),
            (Changed::user(&UserId::fresh(2)), [true, true, true]),
            (Changed::One(Subject::Session, ci.as_str().into()), [true, true, true]),
            (Changed::Everything, [false, false, false]),
        ] {
            fill();
            gate.changed(change.clone());
            assert_eq!([1, 2, 3].map(|n| knows(&gate, n)), left, "{change:?}");
        }
    }

    #[test]
    fn what_was_read_before_a_change_is_not_remembered_after_it() {
        let gate = Gate::default();
        let epoch = gate.find(&hash(1), NOW).unwrap_err();
        gate.changed(Changed::user(&UserId::fresh(2)));
        gate.remember(hash(1), session(), epoch, NOW);
        assert!(!knows(&gate, 1));
    }

    #[test]
    fn a_use_is_noted_once_a_minute() {
        let gate = Gate::default();
        let fresh = Standing {
            last_used: None,
            ..token()
        };
        let epoch = gate.find(&hash(1), NOW).unwrap_err();
        assert!(gate.remember(hash(1), fresh, epoch, NOW).note, "the first use");
        assert!(!gate.find(&hash(1), later(1)).unwrap().note);
        assert!(
            !gate
                .remember(
                    hash(1),
                    Standing {
                        last_used: Some(NOW),
                        ..token()
                    },
                    epoch,
                    later(59_999)
                )
                .note
        );
        assert!(gate.find(&hash(1), later(60_000)).unwrap().note);
        assert!(!gate.find(&hash(1), later(60_001)).unwrap().note);
    }

    #[test]
    fn memory_is_bounded() {
        let gate = Gate::default();
        for n in 0..MOST + 10 {
            gate.remember(hash(n), session(), 0, NOW);
        }
        assert_eq!(gate.state().entries.len(), MOST);
        assert!(knows(&gate, MOST + 9), "the newest is kept");
        gate.remember(
            hash(0),
            Standing {
                ends: later(1_000_000),
                ..session()
            },
            0,
            later(TRUST_MS),
        );
        assert_eq!(gate.state().entries.len(), 1, "what is no longer believed goes first");
    }
}
