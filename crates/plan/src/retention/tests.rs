use super::*;
use RetentionReason::{Age, AppendOnly, Daily, Hourly, Last, LastGood, Monthly, Pinned, Weekly, Yearly};
use proptest::prelude::*;

const NOW: &str = "2026-02-10T12:00:00Z";

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}
fn id(n: usize) -> BackupId {
    BackupId::parse(&format!("backup_{n}_abcdefghi")).unwrap()
}
fn backup(n: usize, when: &str, status: BackupStatus) -> Candidate {
    Candidate {
        id: id(n),
        at: at(when),
        status,
        pinned: false,
    }
}
fn completed(times: &[&str]) -> Vec<Candidate> {
    times
        .iter()
        .enumerate()
        .map(|(n, when)| backup(n, when, BackupStatus::Completed))
        .collect()
}
fn policy(zone: &TimeZone, keep: BackupKeep) -> Policy<'_> {
    Policy {
        retention: Bounded::clamped(1),
        keep,
        append_only: false,
        zone,
    }
}
fn check(policy: &Policy<'_>, backups: &[Candidate], expected: &[Option<&[RetentionReason]>]) {
    let got = decide(policy, backups, at(NOW));
    let want: Vec<_> = expected
        .iter()
        .enumerate()
        .map(|(n, reasons)| (id(n), reasons.map_or(Verdict::Remove, |reasons| Verdict::Keep(reasons.to_vec()))))
        .collect();
    assert_eq!(got, want);
}

#[test]
fn age_counts_days_of_the_calendar() {
    let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
    let backups = completed(&["2026-03-29T10:00:00Z", "2026-03-28T11:00:00Z", "2026-03-28T10:59:59.999Z"]);
    // The day between has 23 hours.
    let got = decide(&policy(&berlin, BackupKeep::default()), &backups, at("2026-03-29T10:00:00Z"));
    let verdicts: Vec<_> = got.into_iter().map(|(_, verdict)| verdict).collect();
    assert_eq!(
        verdicts,
        [Verdict::Keep(vec![Age, LastGood]), Verdict::Keep(vec![Age]), Verdict::Remove]
    );
}

#[test]
fn each_period_keeps_its_newest() {
    let utc = TimeZone::UTC;
    let one = Some(Bounded::clamped(1));
    let two = Some(Bounded::clamped(2));
    let times = [
        "2026-02-01T05:30:00Z",
        "2026-02-01T05:10:00Z",
        "2026-01-31T23:00:00Z",
        "2026-01-25T23:00:00Z",
        "2025-12-31T23:00:00Z",
    ];
    let backups = completed(&times);
    let none = BackupKeep::default();
    let table: [(BackupKeep, [Option<&[RetentionReason]>; 5]); 7] = [
        (none, [Some(&[LastGood]), None, None, None, None]),
        (
            BackupKeep { last: two, ..none },
            [Some(&[Last, LastGood]), Some(&[Last]), None, None, None],
        ),
        (
            BackupKeep { hourly: two, ..none },
            [Some(&[Hourly, LastGood]), None, Some(&[Hourly]), None, None],
        ),
        (
            BackupKeep { daily: two, ..none },
            [Some(&[Daily, LastGood]), None, Some(&[Daily]), None, None],
        ),
        // February 1 is a Sunday, and ends the week that January 31 is in.
        (
            BackupKeep { weekly: two, ..none },
            [Some(&[Weekly, LastGood]), None, None, Some(&[Weekly]), None],
        ),
        (
            BackupKeep { monthly: two, ..none },
            [Some(&[Monthly, LastGood]), None, Some(&[Monthly]), None, None],
        ),
        (
            BackupKeep {
                yearly: two,
                last: one,
                ..none
            },
            [Some(&[Last, Yearly, LastGood]), None, None, None, Some(&[Yearly])],
        ),
    ];
    for (keep, expected) in table {
        check(&policy(&utc, keep), &backups, &expected);
    }
    // In Berlin the last of December is the new year already.
    let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
    let keep = BackupKeep { yearly: two, ..none };
    check(
        &policy(&berlin, keep),
        &backups,
        &[Some(&[Yearly, LastGood]), None, None, None, None],
    );
}

#[test]
fn what_is_not_whole_gives_way() {
    use BackupStatus::{Cancelled, Completed, Failed, InProgress, Partial};
    let utc = TimeZone::UTC;
    let keep = BackupKeep {
        daily: Some(Bounded::clamped(1)),
        ..BackupKeep::default()
    };
    let mut backups = vec![
        backup(0, "2026-02-01T08:00:00Z", Failed),
        backup(1, "2026-02-01T07:00:00Z", Partial),
        backup(2, "2026-02-01T06:00:00Z", Completed),
        backup(3, "2026-02-01T05:00:00Z", Cancelled),
        backup(4, "2026-02-01T04:00:00Z", Completed),
    ];
    check(&policy(&utc, keep), &backups, &[None, None, Some(&[Daily, LastGood]), None, None]);
    backups[3].pinned = true;
    let append_only = Policy {
        append_only: true,
        ..policy(&utc, BackupKeep::default())
    };
    check(
        &append_only,
        &backups,
        &[
            None,
            Some(&[AppendOnly]),
            Some(&[LastGood, AppendOnly]),
            Some(&[Pinned]),
            Some(&[AppendOnly]),
        ],
    );
    // An incomplete one is the last good one where there is no other.
    check(&policy(&utc, BackupKeep::default()), &backups[..2], &[None, Some(&[LastGood])]);
    let running = [backup(0, "2020-01-01T00:00:00Z", InProgress)];
    assert_eq!(decide(&append_only, &running, at(NOW)), [(id(0), Verdict::Untouched)]);
    assert!(decide(&append_only, &[], at(NOW)).is_empty());
}

fn any_backups() -> impl Strategy<Value = Vec<Candidate>> {
    use BackupStatus::{Cancelled, Completed, Failed, InProgress, Partial};
    let status = prop_oneof![4 => Just(Completed), 1 => Just(Partial), 1 => Just(Failed), 1 => Just(Cancelled), 1 => Just(InProgress)];
    proptest::collection::vec((0_i64..800 * 24, status, proptest::bool::weighted(0.1)), 0..60).prop_map(|rows| {
        let one = |(n, (hours, status, pinned)): (usize, (i64, BackupStatus, bool))| Candidate {
            id: id(n),
            at: at(NOW).plus_millis(-hours * 3_600_000),
            status,
            pinned,
        };
        rows.into_iter().enumerate().map(one).collect()
    })
}

proptest! {
    #[test]
    fn nothing_that_must_stay_goes(backups in any_backups(), days in 1_i64..365, count in 1_i64..20) {
        let keep = BackupKeep { daily: Some(Bounded::clamped(count)), monthly: Some(Bounded::clamped(count)), ..BackupKeep::default() };
        let utc = TimeZone::UTC;
        let policy = Policy { retention: Bounded::clamped(days), ..policy(&utc, keep) };
        let verdicts = decide(&policy, &backups, at(NOW));
        prop_assert_eq!(verdicts.len(), backups.len());
        let verdict = |backup: &Candidate| verdicts.iter().find(|(id, _)| *id == backup.id).map(|(_, verdict)| verdict.clone()).unwrap();
        for one in &backups {
            prop_assert_eq!(verdict(one) == Verdict::Untouched, one.status == BackupStatus::InProgress);
            let young = at(NOW).since(one.at) <= days * 86_400_000;
            prop_assert!(!(young || one.pinned) || verdict(one) != Verdict::Remove);
        }
        if let Some(good) = backups.iter().filter(|one| one.status == BackupStatus::Completed).max_by_key(|one| (one.at, one.id.clone())) {
            prop_assert!(matches!(verdict(good), Verdict::Keep(reasons) if reasons.contains(&LastGood)));
        }
        // What was left is left the next time too: removing changes no other verdict.
        let left: Vec<Candidate> = backups.iter().filter(|one| verdict(one) != Verdict::Remove).cloned().collect();
        for (id, after) in decide(&policy, &left, at(NOW)) {
            prop_assert_ne!(after, Verdict::Remove, "{}", id);
        }
    }
}
