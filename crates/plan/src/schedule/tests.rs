use super::*;
use proptest::prelude::*;

// Rules in place of names, so that the tests need no database of zones.
const BERLIN: &str = "CET-1CEST,M3.5.0,M10.5.0/3";
/// Its clock goes by half an hour.
const LORD_HOWE: &str = "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0";
/// Its clock leaves out midnight in spring.
const SANTIAGO: &str = "<-04>4<-03>,M9.1.6/24,M4.1.6/24";
const UTC: &str = "UTC0";

fn zone(rule: &str) -> TimeZone {
    TimeZone::posix(rule).unwrap()
}
fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}
fn cron(text: &str) -> CronSchedule {
    CronSchedule::parse(text).unwrap()
}
fn config(n: u32) -> BackupConfigId {
    BackupConfigId::parse(&format!("backup_cfg_{n}_abcdefghi")).unwrap()
}

#[test]
fn the_next_times() {
    let table: &[(&str, &str, &str, &[&str])] = &[
        (
            "0 2 * * *",
            UTC,
            "2026-02-03T02:00:00Z",
            &["2026-02-04T02:00:00Z", "2026-02-05T02:00:00Z"],
        ),
        ("0 2 * * *", UTC, "2026-02-03T01:59:59.999Z", &["2026-02-03T02:00:00Z"]),
        ("@yearly", BERLIN, "2026-02-03T00:00:00Z", &["2026-12-31T23:00:00Z"]),
        (
            "@weekly",
            UTC,
            "2026-02-03T00:00:00Z",
            &["2026-02-08T00:00:00Z", "2026-02-15T00:00:00Z"],
        ),
        ("0 0 29 2 *", UTC, "2096-03-01T00:00:00Z", &["2104-02-29T00:00:00Z"]),
        // Either of the two days will do, unless one is a star with a step.
        (
            "0 0 13 * fri",
            UTC,
            "2026-02-01T00:00:00Z",
            &["2026-02-06T00:00:00Z", "2026-02-13T00:00:00Z", "2026-02-20T00:00:00Z"],
        ),
        (
            "0 0 29 2 */7",
            UTC,
            "2026-01-01T00:00:00Z",
            &["2032-02-29T00:00:00Z", "2060-02-29T00:00:00Z"],
        ),
        // Left out: right after the gap, and once for all that fall into it.
        (
            "30 2 * * *",
            BERLIN,
            "2026-03-28T12:00:00Z",
            &["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"],
        ),
        (
            "0,30 2,3 * * *",
            BERLIN,
            "2026-03-28T12:00:00Z",
            &["2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z", "2026-03-30T00:00:00Z"],
        ),
        (
            "15 2 * * *",
            LORD_HOWE,
            "2026-10-03T00:00:00Z",
            &["2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"],
        ),
        (
            "0 0 * * *",
            SANTIAGO,
            "2026-09-05T12:00:00Z",
            &["2026-09-06T04:00:00Z", "2026-09-07T03:00:00Z"],
        ),
        // Twice there: the first time only.
        (
            "30 2 * * *",
            BERLIN,
            "2026-10-24T12:00:00Z",
            &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"],
        ),
        ("30 2 * * *", BERLIN, "2026-10-25T00:45:00Z", &["2026-10-26T01:30:00Z"]),
        // Each hour that passes.
        (
            "@hourly",
            BERLIN,
            "2026-03-28T23:30:00Z",
            &["2026-03-29T00:00:00Z", "2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z"],
        ),
        (
            "@hourly",
            BERLIN,
            "2026-10-24T23:30:00Z",
            &["2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z"],
        ),
        (
            "*/20 * * * sun",
            UTC,
            "2026-02-07T12:00:00Z",
            &["2026-02-08T00:00:00Z", "2026-02-08T00:20:00Z"],
        ),
        ("30 * 6 9 *", SANTIAGO, "2026-09-06T02:45:00Z", &["2026-09-06T04:30:00Z"]),
    ];
    for (line, rule, after, expected) in table {
        let mut from = at(after);
        for want in *expected {
            let got = next(&cron(line), &zone(rule), from);
            assert_eq!(got, Some(at(want)), "{line} in {rule} after {from}");
            from = at(want);
        }
    }
    assert_eq!(next(&cron("0 0 30 2 *"), &zone(UTC), at("2026-01-01T00:00:00Z")), None);
    assert_eq!(next(&cron("0 * 30 2 *"), &zone(UTC), at("2026-01-01T00:00:00Z")), None);
}

#[test]
fn what_was_missed_is_made_once() {
    let (schedule, zone, config) = (cron("0 2 * * *"), zone(UTC), config(1));
    let table = Timetable {
        schedule: &schedule,
        zone: &zone,
        config: &config,
        jitter: 0,
    };
    let last = at("2026-02-01T02:00:00Z");
    for (now, due, next) in [
        ("2026-02-01T02:00:00Z", None, "2026-02-02T02:00:00Z"),
        ("2026-02-02T01:59:59.999Z", None, "2026-02-02T02:00:00Z"),
        ("2026-02-02T02:00:00Z", Some("2026-02-02T02:00:00Z"), "2026-02-03T02:00:00Z"),
        ("2026-02-09T12:00:00Z", Some("2026-02-09T02:00:00Z"), "2026-02-10T02:00:00Z"),
        // The clock was set back: nothing is made a second time.
        ("2026-01-20T00:00:00Z", None, "2026-02-02T02:00:00Z"),
    ] {
        let got = table.due(last, at(now));
        assert_eq!(got.due.map(|slot| slot.at), due.map(at), "due at {now}");
        assert_eq!(got.next.map(|slot| slot.at), Some(at(next)), "next at {now}");
    }
}

#[test]
fn a_year_of_missed_minutes_is_one() {
    let (schedule, zone, config) = (cron("* * * * *"), zone(BERLIN), config(1));
    let table = Timetable {
        schedule: &schedule,
        zone: &zone,
        config: &config,
        jitter: 0,
    };
    let got = table.due(at("2025-02-01T02:00:00Z"), at("2026-02-01T02:00:30Z"));
    assert_eq!(got.due.map(|slot| slot.at), Some(at("2026-02-01T02:00:00Z")));
    assert_eq!(got.next.map(|slot| slot.at), Some(at("2026-02-01T02:01:00Z")));
}

#[test]
fn jitter_spreads_configs_and_stays() {
    let (schedule, zone) = (cron("@hourly"), zone(UTC));
    let slot = at("2026-02-03T02:00:00Z");
    let mut quarters = [0; 4];
    for n in 0..1000 {
        let config = config(n);
        // A day is more than the hour there is.
        let table = Timetable {
            schedule: &schedule,
            zone: &zone,
            config: &config,
            jitter: 86_400_000,
        };
        let starts = table.slot(slot).starts;
        assert_eq!(starts, table.slot(slot).starts);
        quarters[usize::try_from(starts.since(slot) / (15 * MINUTE)).unwrap()] += 1;
        if starts > slot {
            let waiting = table.due(slot.plus_millis(-1), starts.plus_millis(-1));
            assert_eq!((waiting.due, waiting.next.map(|slot| slot.at)), (None, Some(slot)));
        }
        assert_eq!(table.due(slot.plus_millis(-1), starts).due.map(|slot| slot.at), Some(slot));
    }
    assert!(quarters.iter().all(|count| (180..320).contains(count)), "{quarters:?}");
}

fn line() -> impl Strategy<Value = String> {
    let minute = prop_oneof![
        Just("*/15".to_owned()),
        (0..60).prop_map(|n: i32| n.to_string()),
        Just("0,30".to_owned())
    ];
    let hour = prop_oneof![
        Just("*".to_owned()),
        Just("*/6".to_owned()),
        (0..24).prop_map(|n: i32| n.to_string()),
        Just("1-3".to_owned())
    ];
    let day = prop_oneof![3 => Just("*".to_owned()), 1 => (1..29).prop_map(|n: i32| n.to_string())];
    let weekday = prop_oneof![3 => Just("*".to_owned()), 1 => (0..8).prop_map(|n: i32| n.to_string())];
    (minute, hour, day, weekday).prop_map(|(minute, hour, day, weekday)| format!("{minute} {hour} {day} * {weekday}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn times_come_in_order_and_none_is_between(
        line in line(),
        rule in prop_oneof![Just(BERLIN), Just(LORD_HOWE), Just(SANTIAGO), Just(UTC)],
        after in 1_760_000_000_000_i64..1_800_000_000_000,
        part in 0.0..1.0_f64,
    ) {
        let (schedule, zone) = (cron(&line), zone(rule));
        let after = Timestamp::from_millis(after);
        let first = next(&schedule, &zone, after).unwrap();
        prop_assert!(first > after);
        // From any moment before it, it is the next.
        let between = after.plus_millis(((first.since(after) - 1) as f64 * part) as i64);
        prop_assert_eq!(next(&schedule, &zone, between), Some(first));
        prop_assert!(next(&schedule, &zone, first).unwrap() > first);
    }

    #[test]
    fn what_is_due_is_the_newest_that_began(line in line(), last in 1_760_000_000_000_i64..1_800_000_000_000, days in 0.0..9.0_f64, jitter in 0_i64..7_200_000) {
        let (schedule, zone, config) = (cron(&line), zone(BERLIN), config(7));
        let table = Timetable { schedule: &schedule, zone: &zone, config: &config, jitter };
        let last = Timestamp::from_millis(last);
        let now = last.plus_millis((days * 86_400_000.0) as i64);
        let slots: Vec<Slot> = std::iter::successors(table.next(last), |at| table.next(*at)).take_while(|at| *at <= now).map(|at| table.slot(at)).collect();
        let got = table.due(last, now);
        prop_assert_eq!(got.due, slots.iter().rev().find(|slot| slot.starts <= now).copied());
        let next = got.next.unwrap();
        prop_assert!(next.starts > now && got.due.is_none_or(|due| due.starts < next.at));
        // Once it is taken, it is not due again.
        if let Some(due) = got.due {
            prop_assert_eq!(table.due(due.at, now), Due { due: None, next: Some(next) });
        }
    }
}
