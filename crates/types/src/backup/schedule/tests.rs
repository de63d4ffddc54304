use super::*;
use proptest::prelude::*;

fn numbers(mut bits: u64) -> Vec<u32> {
    let mut out = Vec::new();
    while bits != 0 {
        out.push(bits.trailing_zeros());
        bits &= bits - 1;
    }
    out
}

#[test]
fn what_the_fields_say() {
    let of = |line: &str| CronSchedule::parse(line).unwrap().fields();
    for (minute, expected) in [
        ("0", vec![0]),
        ("05,5", vec![5]),
        ("*/20", vec![0, 20, 40]),
        ("5/25", vec![5, 30, 55]),
        ("1-9/4", vec![1, 5, 9]),
        ("58-1", vec![0, 1, 58, 59]),
        ("59", vec![59]),
    ] {
        assert_eq!(numbers(of(&format!("{minute} 0 * * *")).minutes), expected, "{minute}");
    }
    for (day, expected) in [("1,15", vec![1, 15]), ("30-2", vec![1, 2, 30, 31]), ("*/10", vec![1, 11, 21, 31])] {
        assert_eq!(numbers(of(&format!("0 0 {day} * *")).days.into()), expected, "{day}");
    }
    for (month, expected) in [
        ("jan", vec![1]),
        ("NOV-feb", vec![1, 2, 11, 12]),
        ("*/6", vec![1, 7]),
        ("012", vec![]),
    ] {
        match CronSchedule::parse(&format!("0 0 1 {month} *")) {
            Ok(line) => assert_eq!(numbers(line.fields().months.into()), expected, "{month}"),
            Err(_) => assert!(expected.is_empty(), "{month}"),
        }
    }
    for (weekday, expected) in [
        ("*", vec![0, 1, 2, 3, 4, 5, 6]),
        ("sun", vec![0]),
        ("7", vec![0]),
        ("0-7", vec![0, 1, 2, 3, 4, 5, 6]),
        ("7-7", vec![0]),
        ("7-2", vec![0, 1, 2]),
        ("7/2", vec![0, 2, 4, 6]),
        ("5-7", vec![0, 5, 6]),
        ("fri-Mon", vec![0, 1, 5, 6]),
        ("*/7", vec![0]),
    ] {
        assert_eq!(numbers(of(&format!("0 0 * * {weekday}")).weekdays.into()), expected, "{weekday}");
    }
    assert_eq!(of("@daily"), of("0 0 * * *"));
    assert_eq!(of("@weekly"), CronSchedule::weekly().fields());
    assert_eq!(of("@annually"), of("0 0 1 jan *"));
    assert!(of("0 0 13 * 5").either_day && !of("0 0 */2 * 5").either_day && !of("0 0 13 * *").either_day);
}

#[test]
fn what_is_no_schedule() {
    for bad in [
        "",
        "@reboot",
        "@Daily",
        "0 2 * *",
        "0 2 * * * *",
        "0  2 * * *",
        " 0 2 * * *",
        "0 2 * * *\n",
        "60 2 * * *",
        "0 24 * * *",
        "0 0 0 * *",
        "0 0 32 * *",
        "0 0 * 0 *",
        "0 0 * 13 *",
        "0 0 * * 8",
        "000 0 * * *",
        "+1 0 * * *",
        "-1 0 * * *",
        "1- 0 * * *",
        "1-2-3 0 * * *",
        "*-5 0 * * *",
        "*/0 0 * * *",
        "*/00 0 * * *",
        "*/100 0 * * *",
        "1/2/3 0 * * *",
        "1,,2 0 * * *",
        ", 0 * * *",
        "0 0 * mon *",
        "0 0 * * jan",
        "0 0 L * *",
        "0 0 ? * *",
        "٣ 0 * * *",
    ] {
        assert!(CronSchedule::parse(bad).is_err(), "{bad:?}");
    }
    let long = format!("{} 0 * * *", ["0"; 130].join(","));
    assert!(CronSchedule::parse(&long).is_err());
}

#[test]
fn days_that_no_month_has() {
    for (line, never) in [
        ("0 0 30 2 *", true),
        ("0 0 31 4,6,9,11 *", true),
        ("0 0 29 2 *", false),
        ("0 0 31 4,5 *", false),
        ("0 0 30 2 mon", false),
        ("0 0 30 2 */2", true),
    ] {
        assert_eq!(CronSchedule::parse(line).unwrap().never_comes(), never, "{line}");
    }
}

proptest! {
    #[test]
    fn whatever_the_pattern_takes_is_one(text in proptest::string::string_regex(CronSchedule::pattern().trim_matches(['^', '$'])).unwrap()) {
        prop_assert_eq!(CronSchedule::parse(&text).is_ok(), text.chars().count() <= LONGEST, "{}", text);
    }

    /// Near misses: neither a panic, nor a field that names nothing, nor a bit out of place.
    #[test]
    fn whatever_is_read_has_values_in_range(text in "[0-9*,/-]{1,4} [0-9*/-]{1,3} [0-9*/-]{1,3} [0-9a-z*/-]{1,3} [0-9*,/-]{1,4}") {
        if let Ok(line) = CronSchedule::parse(&text) {
            let fields = line.fields();
            let sets = [
                (fields.minutes, every(0, 59)),
                (fields.hours.into(), every(0, 23)),
                (fields.days.into(), every(1, 31)),
                (fields.months.into(), every(1, 12)),
                (fields.weekdays.into(), every(0, 6)),
            ];
            for (bits, all) in sets {
                prop_assert!(bits != 0 && bits & !all == 0, "{}", text);
            }
            prop_assert_eq!(CronSchedule::parse(line.as_str()).unwrap(), line);
        }
    }
}
