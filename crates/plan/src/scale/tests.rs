use super::*;
use proptest::prelude::*;

const MINUTE: i64 = 60_000;

fn policy() -> Policy {
    Policy {
        min: 2,
        max: 10,
        cpu: Some(50.0),
        memory: None,
        requests: None,
        tolerance: 0.1,
        up_cooldown: 3 * MINUTE,
        down_cooldown: 5 * MINUTE,
        window: 5 * MINUTE,
    }
}

fn up(cpu: f64) -> Load {
    Load {
        up: true,
        cpu: Some(cpu),
        memory: Some(20.0),
    }
}

fn seen(servers: &[Load]) -> Seen {
    Seen {
        servers: servers.to_vec(),
        requests_per_second: None,
        removable: u32::MAX,
    }
}

/// What is remembered of a cluster that asked for so many an hour ago.
fn calm(asked: u32) -> Memory {
    Memory {
        asked: vec![(Timestamp(0), asked)],
        ..Memory::default()
    }
}

const NOW: Timestamp = Timestamp(60 * MINUTE);

fn wanted(servers: &[Load]) -> u32 {
    decide(NOW, &policy(), &seen(servers), &calm(servers.len() as u32)).wanted
}

#[test]
fn the_formula() {
    let missing = Load { cpu: None, ..up(0.0) };
    let starting = Load { up: false, ..up(0.0) };
    for (servers, want, why) in [
        (vec![up(100.0), up(100.0)], 4, "twice the target, twice the servers"),
        (vec![up(60.0), up(60.0), up(60.0)], 4, "3 * 60 / 50 = 3.6, and up to the next"),
        (vec![up(54.0), up(54.0)], 2, "within the tolerance"),
        (vec![up(46.0), up(46.0)], 2, "within the tolerance"),
        (vec![up(55.0), up(55.0)], 2, "at its edge"),
        (vec![up(10.0); 5], 1, "5 * 10 / 50 = 1"),
        (vec![up(20.0); 5], 2, "exactly 2, whatever the fraction's last bits say"),
        (vec![up(0.0); 3], 0, "nothing to do"),
        (
            vec![up(100.0), up(100.0), missing],
            4,
            "added by those that are known: (100 + 100 + 0) / 3",
        ),
        (
            vec![up(60.0), up(60.0), missing],
            3,
            "with the unknown idle the direction turns: nothing is done",
        ),
        (
            vec![up(10.0), up(10.0), missing],
            3,
            "with the unknown busy: (10 + 10 + 100) / 150 = 0.8",
        ),
        (vec![up(0.0), up(0.0), up(0.0), missing], 2, "(0 + 100) / 200"),
        (
            vec![up(100.0), starting],
            2,
            "one that is being made counts as idle: 100 / 100 is at the target",
        ),
        (vec![up(400.0), up(400.0)], 6, "at most four more, or twice as many, at once"),
        (vec![up(500.0); 8], 16, "twice as many"),
    ] {
        assert_eq!(wanted(&servers), want, "{why}");
    }
}

#[test]
fn the_figure_that_asks_for_most_counts() {
    let both = Policy {
        memory: Some(10.0),
        requests: Some(100.0),
        ..policy()
    };
    let mut two = seen(&[up(50.0), up(50.0)]);
    two.requests_per_second = Some(120.0);
    let decision = decide(NOW, &both, &two, &calm(2));
    let asked: Vec<Option<u32>> = decision.proposals.iter().map(|p| p.servers).collect();
    assert_eq!(
        (asked, decision.wanted, decision.action),
        (vec![Some(2), Some(4), Some(2)], 4, Action::Out { to: 4 })
    );
    two.requests_per_second = Some(555.0);
    let decision = decide(NOW, &both, &two, &calm(2));
    assert_eq!((decision.proposals[2].value, decision.wanted), (Some(277.5), 6));
}

#[test]
fn what_keeps_it_from_acting() {
    let busy = |n: usize| seen(&vec![up(100.0); n]);
    let idle = |n: usize| seen(&vec![up(5.0); n]);
    let after = |up: i64, down: i64, asked: u32| Memory {
        last_up: Some(NOW.plus_millis(-up)),
        last_down: Some(NOW.plus_millis(-down)),
        ..calm(asked)
    };
    let hour = 60 * MINUTE;
    let one_down = {
        let mut servers = vec![up(5.0); 5];
        servers[0].up = false;
        Seen {
            removable: 5,
            ..seen(&servers)
        }
    };
    let no_figures = seen(&[Load { cpu: None, ..up(0.0) }; 5]);
    let half_figures = {
        let mut all = idle(5);
        all.requests_per_second = None;
        all
    };
    let with_requests = Policy {
        requests: Some(10.0),
        ..policy()
    };
    for (policy, seen, memory, want) in [
        (policy(), busy(10), calm(10), Action::Hold(Held::AtMost)),
        (policy(), busy(9), calm(9), Action::Out { to: 10 }),
        (
            policy(),
            busy(4),
            after(MINUTE, hour, 4),
            Action::Hold(Held::Cooldown {
                until: NOW.plus_millis(2 * MINUTE),
            }),
        ),
        // Servers that were just taken away are no reason to let those that are left drown.
        (policy(), busy(4), after(hour, MINUTE, 4), Action::Out { to: 8 }),
        (policy(), idle(2), calm(1), Action::Hold(Held::AtLeast)),
        (policy(), idle(5), calm(1), Action::In { to: 2 }),
        (policy(), idle(5), Memory::default(), Action::Hold(Held::Stabilizing)),
        (policy(), idle(5), calm(5), Action::Hold(Held::Stabilizing)),
        (
            policy(),
            idle(5),
            after(MINUTE, hour, 1),
            Action::Hold(Held::Cooldown {
                until: NOW.plus_millis(4 * MINUTE),
            }),
        ),
        (
            policy(),
            idle(5),
            after(hour, MINUTE, 1),
            Action::Hold(Held::Cooldown {
                until: NOW.plus_millis(4 * MINUTE),
            }),
        ),
        (policy(), one_down, calm(1), Action::Hold(Held::NotAllUp)),
        (policy(), no_figures, calm(1), Action::Nothing),
        (with_requests, half_figures, calm(1), Action::Hold(Held::Missing)),
        (policy(), Seen { removable: 2, ..idle(5) }, calm(1), Action::In { to: 3 }),
        (
            policy(),
            Seen { removable: 0, ..idle(5) },
            calm(1),
            Action::Hold(Held::NothingToRemove),
        ),
        // Bounds hold at once.
        (policy(), idle(1), after(0, 0, 1), Action::Out { to: 2 }),
        (policy(), busy(12), after(0, 0, 12), Action::In { to: 10 }),
    ] {
        let decision = decide(NOW, &policy, &seen, &memory);
        assert_eq!(decision.action, want, "{:?} {memory:?}", seen.servers.len());
    }
}

#[test]
fn the_window_remembers_the_most_that_was_asked_for() {
    let mut memory = Memory::default();
    let at = |minute: i64| Timestamp(minute * MINUTE);
    assert_eq!(memory.stable(at(0), 5 * MINUTE, 5, 5), 5);
    assert_eq!(memory.stable(at(2), 5 * MINUTE, 2, 5), 5);
    assert_eq!(memory.stable(at(3), 5 * MINUTE, 3, 5), 5);
    assert_eq!(memory.stable(at(4), 5 * MINUTE, 1, 5), 5);
    assert_eq!(
        memory.stable(at(7), 5 * MINUTE, 1, 5),
        3,
        "from minute 2 on it was 2, then 3, then 1"
    );
    assert_eq!(memory.stable(at(8), 5 * MINUTE, 1, 5), 3, "at minute 3 it was 3");
    assert_eq!(memory.stable(at(9), 5 * MINUTE, 1, 5), 1);
    assert_eq!(memory.asked.len(), 1, "{memory:?}");
    assert_eq!(memory.stable(at(9), 0, 4, 5), 4);
    assert_eq!(memory.stable(at(9), 0, 1, 5), 1, "without a window nothing is remembered");
}

/// Runs a cluster under a load, which its servers share, and gives how many there were at each look.
fn run(policy: &Policy, looks: usize, every: i64, load: impl Fn(i64) -> f64) -> Vec<u32> {
    let (mut servers, mut memory, mut out) = (policy.min, Memory::default(), Vec::new());
    for look in 0..looks {
        let now = Timestamp(look as i64 * every);
        let each = load(now.0) / f64::from(servers);
        let decision = decide(now, policy, &seen(&vec![up(each); servers as usize]), &memory);
        memory = decision.memory.changed(now, &decision.action);
        match decision.action {
            Action::Out { to } | Action::In { to } => servers = to,
            Action::Nothing | Action::Hold(_) => {}
        }
        out.push(servers);
    }
    out
}

#[test]
fn it_follows_a_load_up_and_down_again() {
    let policy = Policy { max: 5, ..policy() };
    let all = run(&policy, 240, 15_000, |t| if t < 15 * MINUTE { 250.0 } else { 60.0 });
    assert_eq!((all[0], all[59]), (5, 5), "250 / 50");
    assert_eq!(*all.last().unwrap(), 2, "60 / 50, and up to the next");
}

proptest! {
    #[test]
    fn it_never_leaves_its_bounds(
        min in 1u32..20, more in 0u32..20, loads in prop::collection::vec(0.0..10_000.0f64, 1..200),
        tolerance in 0.0..0.5f64, window in 0i64..20, up in 1i64..60, down in 1i64..60, start in 1u32..60,
        told in prop::collection::vec(any::<bool>(), 60)
    ) {
        let policy = Policy {
            min, max: min + more, tolerance, window: window * MINUTE, up_cooldown: up * MINUTE, down_cooldown: down * MINUTE,
            memory: Some(60.0), ..policy()
        };
        let (mut servers, mut memory) = (start, Memory::default());
        for (n, load) in loads.iter().enumerate() {
            let now = Timestamp(n as i64 * 15_000);
            let each = |i: usize| Load { up: told[i % 60], cpu: told[(i + n) % 60].then_some(load / f64::from(servers)), memory: Some(*load / 100.0) };
            let seen = seen(&(0..servers as usize).map(each).collect::<Vec<_>>());
            let decision = decide(now, &policy, &seen, &memory);
            memory = decision.memory.changed(now, &decision.action);
            if let Action::Out { to } | Action::In { to } = decision.action {
                prop_assert!((policy.min..=policy.max).contains(&to), "{to}");
                prop_assert!(to != servers);
                servers = to;
            }
            prop_assert!(memory.asked.len() <= 2 + 20 * 4);
        }
    }

    /// A wave that comes back within the window never has servers taken away for it, and so none added again.
    #[test]
    fn a_square_wave_does_not_make_it_flap(low in 20.0..100.0f64, high in 100.0..500.0f64, half in 1i64..19) {
        let policy = Policy { up_cooldown: MINUTE, down_cooldown: MINUTE, ..policy() };
        let period = half * 15_000;
        let all = run(&policy, 1000, 15_000, |t| if (t / period) % 2 == 0 { high } else { low });
        prop_assert!(all.windows(2).all(|w| w[0] <= w[1]), "{all:?}");
    }

    /// However long the wave, each half of it changes the direction once at most.
    #[test]
    fn a_slow_wave_is_followed_once_a_half(low in 20.0..100.0f64, high in 100.0..500.0f64, half in 20i64..200) {
        let policy = Policy { up_cooldown: MINUTE, down_cooldown: MINUTE, ..policy() };
        let period = half * 15_000;
        let all = run(&policy, 2000, 15_000, |t| if (t / period) % 2 == 0 { high } else { low });
        let steps: Vec<i64> = all.windows(2).map(|w| i64::from(w[1]) - i64::from(w[0])).filter(|d| *d != 0).collect();
        let turns = steps.windows(2).filter(|w| w[0].signum() != w[1].signum()).count();
        prop_assert!(turns as i64 <= 2000 / half + 1, "{turns} turns in {all:?}");
    }
}
