//! When a certificate from an ACME server is renewed, and when an attempt that failed is made again.

use nm_types::Timestamp;

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 24 * 60 * MINUTE_MS;
/// Before its end, where a certificate lives for longer than three times that.
const BEFORE_MS: i64 = 30 * DAY_MS;
/// Between two certificates at least, however short they live.
const LEAST_MS: i64 = 30_000;
/// After the first failure; it doubles with each.
const FIRST_MS: i64 = MINUTE_MS;
const LONGEST_MS: i64 = 12 * 60 * MINUTE_MS;
/// The longest a server may have us wait: the longest of the limits that public ones have.
const ASKED_AT_MOST_MS: i64 = 7 * DAY_MS;

/// When a certificate that was got at `got` is renewed: after two thirds of its life, or 30 days before its end where that is later.
pub fn renew_at(not_before: Timestamp, not_after: Timestamp, got: Timestamp) -> Timestamp {
    let life = not_after.since(not_before).max(0);
    let two_thirds = not_before.plus_millis(life / 3 * 2);
    let days_before = not_after.plus_millis(-BEFORE_MS);
    two_thirds.max(days_before).max(got.plus_millis(LEAST_MS))
}

/// How many milliseconds after the last of `failures` attempts the next one is made. `chance` is of 0 to 1: those that failed
/// together come again apart. `asked` is what the server asked for, which is never undercut.
pub fn again_in(failures: u32, chance: f64, asked: Option<i64>) -> i64 {
    let doubled = FIRST_MS.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(LONGEST_MS);
    #[expect(clippy::cast_possible_truncation, reason = "a quarter of twelve hours at most")]
    let apart = (doubled as f64 / 4.0 * chance.clamp(0.0, 1.0)) as i64;
    (doubled + apart).max(asked.unwrap_or(0).min(ASKED_AT_MOST_MS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_is_at_two_thirds_or_thirty_days_before_the_end_whichever_is_later() {
        let day = |n: i64| Timestamp(n * DAY_MS);
        for (life, want) in [(90, 60), (365, 335), (47, 47 * 2 / 3), (6, 4), (398, 368)] {
            let at = renew_at(day(0), day(life), day(0));
            let exact = (day(life).0 / 3 * 2).max(day(life).0 - BEFORE_MS);
            assert_eq!(at.0, exact, "a life of {life} days");
            assert!((at.0 - day(want).0).abs() < DAY_MS, "a life of {life} days: {at}");
        }
    }

    #[test]
    fn a_certificate_of_no_life_at_all_is_no_loop() {
        let got = Timestamp(1_770_000_000_000);
        for (from, to) in [
            (0, 0),
            (got.0, got.0 + 1000),
            (got.0 + 10, got.0 - 10),
            (i64::MIN / 4, i64::MIN / 4),
        ] {
            assert_eq!(renew_at(Timestamp(from), Timestamp(to), got), got.plus_millis(LEAST_MS));
        }
    }

    #[test]
    fn failures_are_spread_and_double_up_to_half_a_day() {
        let minutes = |failures, chance| again_in(failures, chance, None) as f64 / MINUTE_MS as f64;
        for (failures, least) in [(0, 1.0), (1, 1.0), (2, 2.0), (3, 4.0), (10, 512.0), (11, 720.0), (u32::MAX, 720.0)] {
            assert_eq!(minutes(failures, 0.0), least);
            assert_eq!(minutes(failures, 1.0), least * 1.25);
            assert_eq!(minutes(failures, f64::NAN), least);
        }
    }

    #[test]
    fn what_the_server_asks_for_is_waited_for_within_reason() {
        assert_eq!(again_in(1, 0.0, Some(5 * MINUTE_MS)), 5 * MINUTE_MS);
        assert_eq!(again_in(4, 0.0, Some(MINUTE_MS)), 8 * MINUTE_MS);
        assert_eq!(again_in(1, 0.0, Some(i64::MAX)), ASKED_AT_MOST_MS);
        assert_eq!(again_in(1, 0.0, Some(-5)), MINUTE_MS);
    }
}
