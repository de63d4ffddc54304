use super::Sight::{Bad, Between, Gone, Good, Unknown};
use super::*;
use proptest::prelude::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp(1_770_000_000_000 + seconds * SECOND)
}

/// Plays sights at seconds, as a row each: what it then is, and what is told. The firings are kept as a caller keeps them.
struct Play {
    pace: Pace,
    track: Track,
    firings: Vec<Timestamp>,
    silent_until: Option<i64>,
}

impl Play {
    fn new(hold: i64, repeat: Option<i64>) -> Self {
        Self {
            pace: Pace {
                hold: hold * SECOND,
                repeat: repeat.map(|r| r * SECOND),
            },
            track: Track::Quiet,
            firings: Vec::new(),
            silent_until: None,
        }
    }

    fn see(&mut self, second: i64, sight: Sight) -> Step {
        let now = at(second);
        let facts = Facts {
            now,
            sight,
            silent_until: self.silent_until.map(at).filter(|until| now < *until),
            firings: &self.firings,
        };
        let step = step(self.pace, self.track, facts);
        if let (false, Track::Firing(firing)) = (matches!(self.track, Track::Firing(_)), step.to) {
            self.firings.push(firing.fired_at);
        }
        self.track = step.to;
        step
    }

    #[track_caller]
    fn row(&mut self, second: i64, sight: Sight, state: &str, notice: Option<Notice>, wake: Option<i64>) {
        let step = self.see(second, sight);
        let is = match step.to {
            Track::Quiet if step.resolved => "resolved",
            Track::Quiet => "quiet",
            Track::Pending { .. } => "pending",
            Track::Firing(_) => "firing",
        };
        assert_eq!((is, step.notice, step.wake), (state, notice, wake.map(at)), "at {second} s");
    }
}

#[test]
fn limits_with_hysteresis() {
    use AlertOp::{Above, Below};
    for (op, value, limit, resolve_at, want) in [
        (Above, 90.1, 90.0, None, Bad),
        (Above, 90.0, 90.0, None, Good),
        (Above, 89.0, 90.0, Some(80.0), Between),
        (Above, 80.1, 90.0, Some(80.0), Between),
        (Above, 80.0, 90.0, Some(80.0), Good),
        (Below, 9.0, 10.0, None, Bad),
        (Below, 10.0, 10.0, None, Good),
        (Below, 15.0, 10.0, Some(20.0), Between),
        (Below, 20.0, 10.0, Some(20.0), Good),
        (Above, f64::NAN, 90.0, None, Unknown),
    ] {
        assert_eq!(measure(op, value, limit, resolve_at), want, "{value} {op:?} {limit} {resolve_at:?}");
    }
}

#[test]
fn pending_then_firing_then_resolved() {
    let mut p = Play::new(60, None);
    p.row(0, Good, "quiet", None, None);
    p.row(1, Bad, "pending", None, Some(61));
    p.row(30, Bad, "pending", None, Some(61));
    p.row(61, Bad, "firing", Some(Notice::Firing), None);
    p.row(62, Bad, "firing", None, None);
    p.row(63, Between, "firing", None, None);
    p.row(64, Unknown, "firing", None, None);
    p.row(65, Good, "resolved", Some(Notice::Resolved), None);
    p.row(66, Good, "quiet", None, None);
}

#[test]
fn what_does_not_last_is_never_told() {
    for (sight, state) in [(Good, "quiet"), (Between, "quiet"), (Gone, "quiet"), (Unknown, "pending")] {
        let mut p = Play::new(60, None);
        p.row(0, Bad, "pending", None, Some(60));
        p.row(59, sight, state, None, None);
    }
    // What could not be seen counts as no change: it fires with the next bad sight, and not before.
    let mut p = Play::new(60, None);
    p.row(0, Bad, "pending", None, Some(60));
    p.row(50, Unknown, "pending", None, None);
    p.row(70, Unknown, "pending", None, None);
    p.row(80, Bad, "firing", Some(Notice::Firing), None);
}

#[test]
fn at_once_where_no_time_is_asked_for() {
    let mut p = Play::new(0, None);
    p.row(0, Bad, "firing", Some(Notice::Firing), None);
    p.row(1, Gone, "resolved", Some(Notice::Resolved), None);
}

#[test]
fn reminders() {
    let mut p = Play::new(0, Some(100));
    p.row(0, Bad, "firing", Some(Notice::Firing), Some(100));
    p.row(50, Bad, "firing", None, Some(100));
    p.row(100, Bad, "firing", Some(Notice::Reminder), Some(200));
    // Late, and counted from when it was told.
    p.row(250, Between, "firing", Some(Notice::Reminder), Some(350));
    // Somebody looks after it.
    if let Track::Firing(firing) = &mut p.track {
        firing.acknowledged = true;
    }
    p.row(400, Bad, "firing", None, None);
    p.row(500, Good, "resolved", Some(Notice::Resolved), None);
}

#[test]
fn silences_keep_alerts_from_being_told() {
    // Fires within a silence, and outlasts it.
    let mut p = Play::new(0, Some(100));
    p.silent_until = Some(60);
    p.row(0, Bad, "firing", None, Some(60));
    p.row(30, Bad, "firing", None, Some(60));
    p.row(60, Bad, "firing", Some(Notice::Firing), Some(160));
    p.row(61, Good, "resolved", Some(Notice::Resolved), None);
    // Begins and ends within one: nobody hears of it.
    let mut p = Play::new(0, None);
    p.silent_until = Some(60);
    p.row(0, Bad, "firing", None, Some(60));
    p.row(30, Good, "resolved", None, None);
    // Was told, then silenced: no reminder before the silence ends.
    let mut p = Play::new(0, Some(100));
    p.row(0, Bad, "firing", Some(Notice::Firing), Some(100));
    p.silent_until = Some(250);
    p.row(10, Bad, "firing", None, Some(250));
    p.row(110, Bad, "firing", None, Some(250));
    p.row(250, Bad, "firing", Some(Notice::Reminder), Some(350));
    // Acknowledged before anybody was told: nobody needs to be.
    let mut p = Play::new(0, Some(100));
    p.silent_until = Some(60);
    p.row(0, Bad, "firing", None, Some(60));
    if let Track::Firing(firing) = &mut p.track {
        firing.acknowledged = true;
    }
    p.row(60, Bad, "firing", None, None);
    p.row(61, Good, "resolved", None, None);
}

#[test]
fn what_flaps_ends_later_each_time() {
    let mut p = Play::new(0, None);
    p.row(0, Bad, "firing", Some(Notice::Firing), None);
    p.row(1, Good, "resolved", Some(Notice::Resolved), None);
    p.row(2, Bad, "firing", Some(Notice::Firing), None);
    p.row(3, Good, "firing", None, Some(63));
    p.row(4, Bad, "firing", None, None);
    p.row(5, Good, "firing", None, Some(65));
    p.row(10, Unknown, "firing", None, None);
    p.row(65, Good, "resolved", Some(Notice::Resolved), None);
    p.row(66, Bad, "firing", Some(Notice::Firing), None);
    p.row(67, Good, "firing", None, Some(187));
    // An hour later all is forgotten.
    p.row(2 * 3600, Good, "resolved", Some(Notice::Resolved), None);
    p.row(2 * 3600 + 1, Bad, "firing", Some(Notice::Firing), None);
    p.row(2 * 3600 + 2, Good, "resolved", Some(Notice::Resolved), None);
    assert_eq!(
        [0, 1, 2, 3, 4, 5, 6, 7, 100].map(settle_ms).map(|ms| ms / SECOND),
        [0, 0, 60, 120, 240, 480, 900, 900, 900]
    );
}

#[test]
fn a_clock_that_is_set() {
    // Back by an hour: it waits for its minute, and not for the hour.
    let mut p = Play::new(60, Some(100));
    p.row(3600, Bad, "pending", None, Some(3660));
    p.row(10, Bad, "pending", None, Some(70));
    p.row(70, Bad, "firing", Some(Notice::Firing), Some(170));
    p.row(0, Bad, "firing", None, Some(100));
    // Forward by an hour: told once.
    p.row(3700, Bad, "firing", Some(Notice::Reminder), Some(3800));
    p.row(3701, Bad, "firing", None, Some(3800));
}

#[test]
fn silences() {
    let all = Silence {
        rule: None,
        server: None,
        severity: None,
        from: at(0),
        until: at(10),
    };
    let critical = AlertSeverity::Critical;
    for (silence, second, covers) in [
        (all.clone(), -1, false),
        (all.clone(), 0, true),
        (all.clone(), 9, true),
        (all.clone(), 10, false),
        (
            Silence {
                rule: Some("r"),
                ..all.clone()
            },
            5,
            true,
        ),
        (
            Silence {
                rule: Some("q"),
                ..all.clone()
            },
            5,
            false,
        ),
        (
            Silence {
                server: Some("s"),
                ..all.clone()
            },
            5,
            true,
        ),
        (
            Silence {
                server: Some("t"),
                ..all.clone()
            },
            5,
            false,
        ),
        (
            Silence {
                severity: Some(critical),
                ..all.clone()
            },
            5,
            true,
        ),
        (
            Silence {
                severity: Some(AlertSeverity::Info),
                ..all
            },
            5,
            false,
        ),
    ] {
        assert_eq!(silence.covers("r", "s", critical, at(second)), covers, "{silence:?} at {second}");
    }
}

#[test]
fn retries() {
    let pause = |attempts, wait: Option<i64>| retry(attempts, at(0), at(0), wait.map(|s| s * SECOND)).map(|t| t.since(at(0)) / SECOND);
    assert_eq!(
        [1, 2, 3, 4, 12, 13, 100].map(|n| pause(n, None)),
        [1, 2, 4, 8, 2048, 3600, 3600].map(Some)
    );
    assert_eq!(pause(1, Some(30)), Some(30));
    assert_eq!(pause(7, Some(30)), Some(64));
    assert_eq!(pause(1, Some(1_000_000)), Some(3600));
    let day = 24 * 3600;
    assert_eq!(retry(40, at(0), at(day - 3600), None), Some(at(day)));
    assert_eq!(retry(40, at(0), at(day - 3599), None), None);
}

#[test]
fn containers() {
    use ContainerStatus::{Created, Exited, Paused, Running, Stopped};
    use RestartPolicy::{Always, No, OnFailure};
    let well = Seen {
        reachable: true,
        settled: true,
        wanted: Some(true),
        missing: false,
        status: Running,
        restart: No,
        exit_code: None,
        restarts: 0,
        recent_restarts: 0,
        started: Some(at(0)),
    };
    let ended = |code| Seen {
        status: Exited,
        exit_code: Some(code),
        ..well
    };
    let theirs = Seen { wanted: None, ..well };
    for (name, seen, second, want) in [
        ("runs", well, 1, Down::No),
        ("paused by somebody", Seen { status: Paused, ..well }, 1, Down::No),
        ("failed", ended(1), 1, Down::Ended),
        ("done", ended(0), 1, Down::No),
        (
            "done, started again on failure only",
            Seen {
                restart: OnFailure,
                ..ended(0)
            },
            1,
            Down::No,
        ),
        (
            "ended well, to be started again",
            Seen {
                restart: Always,
                ..ended(0)
            },
            1,
            Down::Ended,
        ),
        ("stopped behind our back", Seen { status: Stopped, ..well }, 1, Down::Ended),
        ("could not be started", Seen { status: Created, ..well }, 1, Down::Ended),
        (
            "not asked to run",
            Seen {
                wanted: Some(false),
                ..ended(1)
            },
            1,
            Down::No,
        ),
        ("gone from Docker", Seen { missing: true, ..ended(1) }, 1, Down::Missing),
        (
            "gone, and not asked to run",
            Seen {
                missing: true,
                wanted: Some(false),
                ..ended(1)
            },
            1,
            Down::No,
        ),
        (
            "on a node that is away",
            Seen {
                reachable: false,
                ..ended(1)
            },
            1,
            Down::Unknown,
        ),
        (
            "being made",
            Seen {
                settled: false,
                status: Created,
                ..well
            },
            1,
            Down::Unknown,
        ),
        (
            "loops, runs now",
            Seen {
                restarts: 9,
                recent_restarts: 3,
                ..well
            },
            1,
            Down::Restarting,
        ),
        (
            "loops, ended now",
            Seen {
                restarts: 9,
                recent_restarts: 3,
                ..ended(1)
            },
            1,
            Down::Restarting,
        ),
        (
            "looped, stopped by its user",
            Seen {
                restarts: 9,
                recent_restarts: 3,
                wanted: Some(false),
                ..ended(1)
            },
            1,
            Down::No,
        ),
        ("restarted long ago", Seen { restarts: 9, ..well }, 600, Down::No),
        (
            "restarted a moment ago",
            Seen { restarts: 3, ..well },
            599,
            Down::Recovering { until: at(600) },
        ),
        ("restarted twice", Seen { restarts: 2, ..well }, 1, Down::No),
        ("of others, runs", theirs, 1, Down::No),
        ("of others, ended", Seen { wanted: None, ..ended(1) }, 1, Down::No),
        (
            "of others, ended, to be started again",
            Seen {
                wanted: None,
                restart: Always,
                ..ended(1)
            },
            1,
            Down::Ended,
        ),
        (
            "of others, stopped",
            Seen {
                wanted: None,
                restart: Always,
                status: Stopped,
                ..well
            },
            1,
            Down::No,
        ),
        (
            "of others, loops",
            Seen {
                wanted: None,
                restart: Always,
                recent_restarts: 5,
                ..well
            },
            1,
            Down::Restarting,
        ),
    ] {
        assert_eq!(down(&seen, at(second)), want, "{name}");
    }
}

fn sights() -> impl Strategy<Value = Vec<(i64, Sight, bool)>> {
    let sight = prop_oneof![4 => Just(Bad), 3 => Just(Good), 1 => Just(Between), 1 => Just(Unknown), 1 => Just(Gone)];
    proptest::collection::vec((0i64..400, sight, proptest::bool::weighted(0.2)), 1..60)
}

proptest! {
    /// Whatever is seen: nobody is told of an end without its beginning, nor of two beginnings without an end between them,
    /// nothing fires before its time, and a wake is always ahead.
    #[test]
    fn what_is_told_is_a_story(hold in 0i64..120, repeat in proptest::option::of(60i64..200), sights in sights()) {
        let mut p = Play::new(hold, repeat);
        let (mut second, mut told, mut bad_since) = (0, false, None::<i64>);
        for (pause, sight, silent) in sights {
            second += pause;
            p.silent_until = silent.then_some(second + 50);
            match sight {
                Bad => { bad_since.get_or_insert(second); }
                Unknown => {}
                Between | Good | Gone => bad_since = None,
            }
            let step = p.see(second, sight);
            prop_assert!(step.wake.is_none_or(|wake| wake > at(second)));
            prop_assert!(!(silent && step.notice.is_some()));
            match step.notice {
                Some(Notice::Firing) => {
                    prop_assert!(!told);
                    told = true;
                    let Track::Firing(firing) = step.to else { panic!("told of what does not fire") };
                    prop_assert!(firing.fired_at.since(firing.since) >= hold * SECOND);
                }
                Some(Notice::Reminder) => prop_assert!(told && repeat.is_some()),
                Some(Notice::Resolved) => {
                    prop_assert!(told && step.resolved);
                    told = false;
                }
                None => {}
            }
            if step.resolved {
                told = false;
            }
        }
    }
}
