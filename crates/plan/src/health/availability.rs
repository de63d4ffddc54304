//! How much of a time a server was there.

use nm_types::Timestamp;
use nm_types::health::HealthStatus;

/// What a server was in an interval of its history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Healthy,
    /// One or two checks failed.
    Degraded,
    Unhealthy,
    /// Nobody checked.
    Unknown,
}

impl State {
    pub const ALL: [Self; 4] = [Self::Healthy, Self::Degraded, Self::Unhealthy, Self::Unknown];

    pub fn of(status: HealthStatus, degraded: bool) -> Self {
        match (status, degraded) {
            (HealthStatus::Healthy, _) => Self::Healthy,
            (HealthStatus::Unhealthy, _) => Self::Unhealthy,
            (HealthStatus::Unknown, true) => Self::Degraded,
            (HealthStatus::Unknown, false) => Self::Unknown,
        }
    }
    pub fn status(self) -> HealthStatus {
        match self {
            Self::Healthy => HealthStatus::Healthy,
            Self::Unhealthy => HealthStatus::Unhealthy,
            Self::Degraded | Self::Unknown => HealthStatus::Unknown,
        }
    }
    pub fn degraded(self) -> bool {
        self == Self::Degraded
    }
    /// As it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
            Self::Unknown => "unknown",
        }
    }
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }
}

/// From then on it was in this state, until the next interval begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    pub from: Timestamp,
    pub state: State,
}

/// Percent of the checked time between `from` and `to` in which the server was healthy or degraded. Time in which nobody
/// checked, before the first interval also, is left out; `None` where nothing is left. `intervals` are in the order of time.
pub fn availability(intervals: &[Interval], from: Timestamp, to: Timestamp) -> Option<f64> {
    let ends = intervals.iter().skip(1).map(|next| next.from).chain([to]);
    let (mut up, mut down) = (0i64, 0i64);
    for (interval, end) in intervals.iter().zip(ends) {
        let long = end.min(to).since(interval.from.max(from)).max(0);
        match interval.state {
            State::Healthy | State::Degraded => up += long,
            State::Unhealthy => down += long,
            State::Unknown => {}
        }
    }
    (up + down > 0).then(|| up as f64 * 100.0 / (up + down) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_the_checked_time() {
        use State::{Degraded, Healthy, Unhealthy, Unknown};
        for (intervals, from, to, want) in [
            (&[][..], 0, 100, None),
            (&[(0, Healthy)], 0, 100, Some(100.0)),
            (&[(50, Healthy)], 0, 100, Some(100.0)),
            (&[(0, Healthy), (75, Unhealthy)], 0, 100, Some(75.0)),
            (&[(0, Healthy), (75, Unhealthy)], 50, 100, Some(50.0)),
            (&[(0, Healthy), (75, Unhealthy)], 80, 100, Some(0.0)),
            (&[(0, Healthy), (50, Unknown), (90, Unhealthy)], 0, 100, Some(50.0 * 100.0 / 60.0)),
            (&[(0, Degraded), (50, Unhealthy)], 0, 100, Some(50.0)),
            (&[(0, Unknown)], 0, 100, None),
            // What lies outside does not count, also when it begins later.
            (&[(0, Unhealthy), (10, Healthy), (200, Unhealthy)], 10, 100, Some(100.0)),
            (&[(100, Healthy)], 0, 100, None),
        ] {
            let all: Vec<Interval> = intervals
                .iter()
                .map(|(from, state)| Interval {
                    from: Timestamp(*from),
                    state: *state,
                })
                .collect();
            assert_eq!(
                availability(&all, Timestamp(from), Timestamp(to)),
                want,
                "{intervals:?} {from} {to}"
            );
        }
    }

    #[test]
    fn states_read_back() {
        for state in State::ALL {
            assert_eq!(State::parse(state.as_str()), Some(state));
            assert_eq!(State::of(state.status(), state.degraded()), state);
        }
    }
}
