//! For how long tasks may run without another word from a control plane.
//!
//! Each answer has a token, with the moment it was given out; a call that brings back a token that is newer than any before it
//! lets tasks run for a while from that moment. Moments are of the machine's own clock since it was started, which nobody sets
//! and which goes on while it sleeps. Until when tasks may run is also in `<data-dir>/tasks/lease`, for the agent's next process.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Tokens that may be brought back.
const TOKENS: usize = 64;

/// Milliseconds since the machine was started; `None` where it does not say.
fn since_start() -> Option<u64> {
    let text = fs::read_to_string("/proc/uptime").ok()?;
    let seconds: f64 = text.split_whitespace().next()?.parse().ok()?;
    Some((seconds * 1000.0) as u64)
}

/// Which start of the machine this is.
pub fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map_or_else(|_| "unknown".to_owned(), |id| id.trim().to_owned())
}

#[derive(Serialize, Deserialize)]
struct Kept {
    boot: String,
    until: u64,
}

#[derive(Default)]
struct State {
    given: VecDeque<(u64, u64)>,
    last: u64,
    used: u64,
}

pub struct Lease {
    path: PathBuf,
    instance: String,
    boot: String,
    state: Mutex<State>,
    /// Until when, in milliseconds since the machine was started.
    until: watch::Sender<u64>,
}

impl Lease {
    pub fn open(folder: &Path, instance: &str, boot: &str) -> Self {
        let path = folder.join("lease");
        let kept = fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Kept>(&text).ok());
        let until = kept.filter(|kept| kept.boot == boot).map_or(0, |kept| kept.until);
        Self {
            path,
            instance: instance.to_owned(),
            boot: boot.to_owned(),
            state: Mutex::default(),
            until: watch::Sender::new(until),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A token for an answer.
    pub fn token(&self) -> String {
        let now = since_start().unwrap_or(0);
        let mut state = self.lock();
        state.last += 1;
        let number = state.last;
        state.given.push_back((number, now));
        if state.given.len() > TOKENS {
            state.given.pop_front();
        }
        format!("{}.{number}", self.instance)
    }

    /// Takes a token back. Whether tasks may run now.
    pub fn extend(&self, token: &str, lease: Duration) -> bool {
        let Some(number) = token
            .strip_prefix(self.instance.as_str())
            .and_then(|rest| rest.strip_prefix('.')?.parse::<u64>().ok())
        else {
            return false;
        };
        {
            let mut state = self.lock();
            // Each once, and none that is older: a call that was on its way for long brings one that was overtaken.
            let found = state.given.iter().find(|(n, _)| *n == number).copied();
            let Some((_, given)) = found.filter(|_| number > state.used) else {
                return false;
            };
            state.used = number;
            state.given.retain(|(n, _)| *n > number);
            let until = given + u64::try_from(lease.as_millis()).unwrap_or(u64::MAX / 2);
            self.until.send_if_modified(|held| {
                let later = until > *held;
                *held = until.max(*held);
                later
            });
        }
        self.keep();
        self.left().is_some()
    }

    /// It survives this process however that ends. After the machine's end nothing runs.
    fn keep(&self) {
        let kept = Kept {
            boot: self.boot.clone(),
            until: *self.until.borrow(),
        };
        let new = self.path.with_extension("new");
        let text = serde_json::to_vec(&kept).unwrap_or_default();
        if let Err(error) = fs::write(&new, text).and_then(|()| fs::rename(&new, &self.path)) {
            // The next process will take tasks to have run for too long, and end them.
            tracing::warn!(%error, "until when tasks may run could not be written");
        }
    }

    /// How long tasks may still run; `None` where they may not any more.
    pub fn left(&self) -> Option<Duration> {
        let until = *self.until.borrow();
        let now = since_start()?;
        (until > now).then(|| Duration::from_millis(until - now))
    }

    /// Ends when tasks may not run any more.
    pub async fn over(&self) {
        let mut until = self.until.subscribe();
        while let Some(left) = self.left() {
            // A machine that slept finds out within a second.
            tokio::select! {
                () = tokio::time::sleep(left.min(Duration::from_secs(1))) => {}
                _ = until.changed() => {}
            }
        }
    }

    /// Ends when tasks may run.
    pub async fn begun(&self) {
        let mut until = self.until.subscribe();
        while self.left().is_none() {
            if until.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn tokens_count_once_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let lease = Lease::open(dir.path(), "a", "boot");
        assert!(lease.left().is_none());
        let (one, two, three) = (lease.token(), lease.token(), lease.token());
        assert!(!lease.extend("b.1", LONG) && !lease.extend("a.9", LONG) && !lease.extend("a", LONG));
        assert!(lease.extend(&two, LONG));
        assert!(!lease.extend(&two, LONG) && !lease.extend(&one, LONG));
        assert!(lease.extend(&three, Duration::ZERO) && lease.left().unwrap() > LONG / 2);
        // The next process goes on with it, in the same start of the machine alone.
        assert!(Lease::open(dir.path(), "b", "boot").left().is_some());
        assert!(Lease::open(dir.path(), "b", "other").left().is_none());
    }

    #[tokio::test]
    async fn it_counts_from_when_the_token_was_given() {
        let dir = tempfile::tempdir().unwrap();
        let lease = Lease::open(dir.path(), "a", "boot");
        let old = lease.token();
        let given = since_start().unwrap();
        while since_start().unwrap() < given + 60 {
            tokio::task::yield_now().await;
        }
        assert!(!lease.extend(&old, Duration::from_millis(50)), "it was on its way for too long");
        let fresh = lease.token();
        assert!(lease.extend(&fresh, Duration::from_millis(300)));
        lease.over().await;
        assert!(lease.left().is_none());
    }
}
