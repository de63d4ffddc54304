//! When an alert begins, fires, is told again and ends.
//!
//! A rule and a server have one alert at a time. What is seen comes in as a [`Sight`]; [`step`] says what becomes of the
//! alert, whether somebody is to be told, and when to look again though nothing is seen.
//!
//! - An alert is *pending* until what is bad has been so for the rule's time without a break, and *fires* then.
//! - One that fires ends when all is well. Between its two limits it goes on ([`measure`]).
//! - One that fires again and again ends later each time ([`settle_ms`]), so that a value that swings tells people of one
//!   long alert in place of a hundred short ones.
//! - What is not known changes nothing: a node that can't be seen neither begins nor ends an alert of its disks.
//! - A silence keeps alerts from being told and not from being. Whoever was not told that an alert fires is told when the
//!   silence ends, if it still does, and is not told of an end they know no beginning of.

use nm_types::Timestamp;
use nm_types::alert::{AlertOp, AlertSeverity};
use nm_types::container::{ContainerStatus, RestartPolicy};

const SECOND: i64 = 1000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

/// Firings of one rule and server count for so long.
pub const FLAPPING_WINDOW_MS: i64 = HOUR;
/// So many firings within [`FLAPPING_WINDOW_MS`] are called flapping.
pub const FLAPPING_FIRINGS: usize = 3;
/// An alert never waits longer than this to end.
const SETTLE_AT_MOST: i64 = 15 * MINUTE;

/// A delivery is tried for so long.
pub const DELIVERY_MS: i64 = 24 * HOUR;
const FIRST_RETRY: i64 = SECOND;
const LONGEST_RETRY: i64 = HOUR;

/// What is seen of a rule's condition on one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    Bad,
    /// Within the limit, and not yet back where the alert ends.
    Between,
    Good,
    /// It can't be seen now.
    Unknown,
    /// There is nothing to look at any more: the server, the rule, or the rule's interest in it is gone.
    Gone,
}

/// A value beside its limit, and the one where it is well again.
pub fn measure(op: AlertOp, value: f64, limit: f64, resolve_at: Option<f64>) -> Sight {
    if !value.is_finite() {
        return Sight::Unknown;
    }
    let beyond = |limit: f64| match op {
        AlertOp::Above => value > limit,
        AlertOp::Below => value < limit,
    };
    match (beyond(limit), resolve_at.is_some_and(beyond)) {
        (true, _) => Sight::Bad,
        (false, true) => Sight::Between,
        (false, false) => Sight::Good,
    }
}

/// What a rule asks for, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// How long it must be bad before the alert fires.
    pub hold: i64,
    /// How long after it was told it is told again.
    pub repeat: Option<i64>,
}

/// Where an alert stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Track {
    /// There is none.
    Quiet,
    Pending {
        since: Timestamp,
    },
    Firing(Firing),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Firing {
    pub since: Timestamp,
    pub fired_at: Timestamp,
    /// When it was last told; `None` while a silence has kept it from that.
    pub told_at: Option<Timestamp>,
    /// Since when all has been well.
    pub well_since: Option<Timestamp>,
    /// Somebody looks after it: nobody else needs to be told.
    pub acknowledged: bool,
}

/// What is known at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub now: Timestamp,
    pub sight: Sight,
    /// The end of the silence that is in force.
    pub silent_until: Option<Timestamp>,
    /// When alerts of this rule and server fired, this one among them.
    pub firings: &'a [Timestamp],
}

/// What is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    Firing,
    Reminder,
    Resolved,
}

/// What becomes of an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    pub to: Track,
    /// It fired, and is over.
    pub resolved: bool,
    pub notice: Option<Notice>,
    /// When to look again though nothing is seen.
    pub wake: Option<Timestamp>,
}

impl Step {
    fn quiet() -> Self {
        Self {
            to: Track::Quiet,
            resolved: false,
            notice: None,
            wake: None,
        }
    }
}

/// How many of the firings are young enough to count.
pub fn young(firings: &[Timestamp], now: Timestamp) -> usize {
    firings.iter().filter(|at| now.since(**at) < FLAPPING_WINDOW_MS).count()
}

/// How long all must have been well before an alert ends, which fired so many times within the last hour: at once for the
/// first, a minute for the second, twice as long for each one after it, a quarter of an hour at most.
pub fn settle_ms(firings: usize) -> i64 {
    match firings {
        0 | 1 => 0,
        // Beyond six doublings it is the most in any case.
        n => (MINUTE << (n - 2).min(6)).min(SETTLE_AT_MOST),
    }
}

/// The next step of an alert.
pub fn step(pace: Pace, was: Track, facts: Facts<'_>) -> Step {
    let now = facts.now;
    match was {
        Track::Quiet if facts.sight == Sight::Bad => pending(pace, now, facts),
        Track::Quiet => Step::quiet(),
        Track::Pending { since } => match facts.sight {
            // A clock that was set back must not make it wait for the time it was set back by.
            Sight::Bad => pending(pace, since.min(now), facts),
            Sight::Unknown => Step { to: was, ..Step::quiet() },
            Sight::Between | Sight::Good | Sight::Gone => Step::quiet(),
        },
        Track::Firing(firing) => goes_on(pace, firing, facts),
    }
}

fn pending(pace: Pace, since: Timestamp, facts: Facts<'_>) -> Step {
    let due = since.plus_millis(pace.hold);
    if facts.now < due {
        return Step {
            to: Track::Pending { since },
            wake: Some(due),
            ..Step::quiet()
        };
    }
    let firing = Firing {
        since,
        fired_at: facts.now,
        told_at: None,
        well_since: None,
        acknowledged: false,
    };
    tell(pace, firing, facts)
}

fn goes_on(pace: Pace, mut firing: Firing, facts: Facts<'_>) -> Step {
    let now = facts.now;
    let mut end = None;
    match facts.sight {
        Sight::Bad | Sight::Between => firing.well_since = None,
        Sight::Unknown => {}
        Sight::Good => {
            let well_since = firing.well_since.unwrap_or(now).min(now);
            firing.well_since = Some(well_since);
            end = Some(well_since.plus_millis(settle_ms(young(facts.firings, now))));
        }
        Sight::Gone => end = Some(now),
    }
    if end.is_some_and(|end| end <= now) {
        let told = firing.told_at.is_some() && facts.silent_until.is_none();
        return Step {
            resolved: true,
            notice: told.then_some(Notice::Resolved),
            ..Step::quiet()
        };
    }
    let step = tell(pace, firing, facts);
    Step {
        wake: earliest(step.wake, end),
        ..step
    }
}

/// Whom it fires for is told, once, and again after a time.
fn tell(pace: Pace, mut firing: Firing, facts: Facts<'_>) -> Step {
    let now = facts.now;
    let reminder = pace.repeat.filter(|_| !firing.acknowledged);
    let (notice, due) = match firing.told_at {
        None if firing.acknowledged => (None, None),
        None => (Some(Notice::Firing), Some(now)),
        Some(told_at) => (Some(Notice::Reminder), reminder.map(|repeat| told_at.min(now).plus_millis(repeat))),
    };
    let (notice, wake) = match (due, facts.silent_until) {
        (None, _) => (None, None),
        // Nothing is due before the silence ends, or it is due then.
        (Some(due), Some(until)) => (None, Some(due.max(until))),
        (Some(due), None) if due <= now => {
            firing.told_at = Some(now);
            (notice, reminder.map(|repeat| now.plus_millis(repeat)))
        }
        (Some(due), None) => (None, Some(due)),
    };
    Step {
        to: Track::Firing(firing),
        resolved: false,
        notice,
        wake,
    }
}

/// The earlier of two moments, where there are any.
pub fn earliest(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    a.into_iter().chain(b).min()
}

/// A silence, as far as it decides anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Silence<'a> {
    pub rule: Option<&'a str>,
    pub server: Option<&'a str>,
    pub severity: Option<AlertSeverity>,
    pub from: Timestamp,
    pub until: Timestamp,
}

impl Silence<'_> {
    pub fn is_active(&self, now: Timestamp) -> bool {
        self.from <= now && now < self.until
    }
    pub fn covers(&self, rule: &str, server: &str, severity: AlertSeverity, now: Timestamp) -> bool {
        self.is_active(now)
            && self.rule.is_none_or(|r| r == rule)
            && self.server.is_none_or(|s| s == server)
            && self.severity.is_none_or(|s| s == severity)
    }
}

/// When a delivery that failed so many times is tried again; `None` when it is given up. `wait` is what the receiver asked
/// for: it is waited for at least, and no longer than the longest pause of our own.
pub fn retry(attempts: u32, created: Timestamp, now: Timestamp, wait: Option<i64>) -> Option<Timestamp> {
    let doubled = FIRST_RETRY << attempts.saturating_sub(1).min(20);
    let pause = doubled.max(wait.unwrap_or(0)).min(LONGEST_RETRY);
    let next = now.plus_millis(pause);
    (next.since(created) <= DELIVERY_MS).then_some(next)
}

/// So many restarts within [`RESTARTS_WINDOW_MS`] are a loop.
pub const RESTARTS: u64 = 3;
/// How long restarts count, and how long a container must have run before a loop of restarts is over.
pub const RESTARTS_WINDOW_MS: i64 = 10 * MINUTE;

/// What is known of a container.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// Whether its node is connected and its engine answers.
    pub reachable: bool,
    /// It is on its node: neither being made nor being removed.
    pub settled: bool,
    /// Of ours: whether it was last asked to run. Of others: `None`.
    pub wanted: Option<bool>,
    /// Docker no longer has it.
    pub missing: bool,
    pub status: ContainerStatus,
    pub restart: RestartPolicy,
    pub exit_code: Option<i64>,
    /// How often Docker has started it again since it was made.
    pub restarts: u64,
    /// How many of those were within [`RESTARTS_WINDOW_MS`], as far as somebody watched.
    pub recent_restarts: u64,
    pub started: Option<Timestamp>,
}

/// Why a container is down, or that it is not, and when that changes by the mere passing of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Down {
    /// Docker no longer has it.
    Missing,
    /// It should run and does not.
    Ended,
    /// It ends and is started again and again.
    Restarting,
    /// It was, and has not yet run for long enough.
    Recovering {
        until: Timestamp,
    },
    No,
    Unknown,
}

impl Down {
    pub fn sight(self) -> Sight {
        match self {
            Self::Missing | Self::Ended | Self::Restarting => Sight::Bad,
            Self::Recovering { .. } => Sight::Between,
            Self::No => Sight::Good,
            Self::Unknown => Sight::Unknown,
        }
    }
}

/// Whether a container that should run does. One that ran to a good end and is not to be started again is done, not down.
pub fn down(seen: &Seen, now: Timestamp) -> Down {
    if !seen.reachable || !seen.settled {
        return Down::Unknown;
    }
    let started_again = match seen.restart {
        RestartPolicy::No => false,
        RestartPolicy::OnFailure => seen.exit_code.is_some_and(|code| code != 0),
        RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
    };
    let finished = seen.status == ContainerStatus::Exited && seen.exit_code == Some(0) && !started_again;
    let should_run = match seen.wanted {
        Some(wanted) => wanted && !finished,
        // What others started is theirs to stop.
        None => started_again && seen.status == ContainerStatus::Exited,
    };
    let runs = matches!(seen.status, ContainerStatus::Running | ContainerStatus::Paused) && !seen.missing;
    if should_run && seen.missing {
        return Down::Missing;
    }
    if seen.recent_restarts >= RESTARTS && (runs || should_run) {
        return Down::Restarting;
    }
    if should_run && !runs {
        return Down::Ended;
    }
    // Nobody watched before we started: a container that was restarted often and runs for a moment says nothing yet.
    let well_at = seen.started.map(|s| s.min(now).plus_millis(RESTARTS_WINDOW_MS));
    match well_at {
        Some(until) if runs && seen.restarts >= RESTARTS && now < until => Down::Recovering { until },
        Some(_) | None => Down::No,
    }
}

#[cfg(test)]
mod tests;
