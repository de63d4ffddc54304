use super::*;
use proptest::prelude::*;
use serde_json::json;

#[test]
fn texts_good_and_bad() {
    for good in ["/", "/a", "/a b/c", "/...", "/.hidden/..x"] {
        assert!(BackupPath::parse(good).is_ok(), "{good:?}");
    }
    for bad in ["", "a", "//", "/a/", "/a//b", "/.", "/..", "/a/../b", "/a/.", "/a\n", "/a\u{85}b"] {
        assert!(BackupPath::parse(bad).is_err(), "{bad:?}");
    }
    for good in [
        "UTC",
        "Europe/Berlin",
        "America/Argentina/Buenos_Aires",
        "Etc/GMT+3",
        "America/Port-au-Prince",
    ] {
        assert!(TimeZoneName::parse(good).is_ok(), "{good:?}");
    }
    for bad in [
        "",
        "/etc/passwd",
        "../UTC",
        "Europe/",
        "Europe//Berlin",
        "a/b/c/d",
        "Europe/Berlin\n",
        "+01:00",
        ":UTC",
    ] {
        assert!(TimeZoneName::parse(bad).is_err(), "{bad:?}");
    }
    for (text, good) in [("*.log", true), ("!keep", true), ("", false), ("a\nb", false)] {
        assert_eq!(ExcludePattern::parse(text).is_ok(), good, "{text:?}");
    }
    for (text, good) in [("--all", true), ("a\nb", true), ("", false), ("a\0", false)] {
        assert_eq!(DumpWord::parse(text).is_ok(), good, "{text:?}");
    }
}

proptest! {
    #[test]
    fn whatever_a_zone_s_pattern_takes_is_one(text in proptest::string::string_regex(TimeZoneName::PATTERN.trim_matches(['^', '$'])).unwrap()) {
        prop_assert_eq!(TimeZoneName::parse(&text).is_ok(), text.len() <= 64, "{}", text);
    }
}

#[test]
fn what_is_left_out_has_its_default() {
    let spec: BackupConfigSpec = serde_json::from_value(json!({"serverId": "web", "name": "Nightly", "destination": "/backups"})).unwrap();
    assert_eq!((spec.retention.get(), spec.encryption, spec.compression), (30, true, true));
    assert_eq!(
        (spec.kind, spec.status, spec.append_only),
        (BackupType::Incremental, BackupConfigStatus::Active, false)
    );
    assert_eq!((spec.check.schedule.as_str(), spec.check.parts.get()), ("@weekly", 4));
    assert_eq!(spec.keep, BackupKeep::default());
    // Written and read again it is the same.
    let again: BackupConfigSpec = serde_json::from_value(serde_json::to_value(&spec).unwrap()).unwrap();
    assert_eq!(spec, again);
}

#[test]
fn what_is_wrong_is_refused() {
    for (field, value) in [
        ("schedule", json!("0 25 * * *")),
        ("timeZone", json!("/etc/localtime")),
        ("retention", json!(0)),
        ("retention", json!(366)),
        ("jitter", json!(-1)),
        ("keep", json!({"daily": 0})),
        ("keep", json!({"dayly": 7})),
        ("type", json!("whole")),
        ("destination", json!("backups")),
        ("paths", json!(["/a/../b"])),
        ("consistency", json!("freeze")),
        ("unknown", json!(1)),
    ] {
        let mut body = json!({"serverId": "web", "name": "Nightly", "destination": "/backups"});
        body[field] = value.clone();
        assert!(serde_json::from_value::<BackupConfigSpec>(body).is_err(), "{field}: {value}");
    }
}

#[test]
fn credentials_are_never_given_back() {
    let body = json!({"serverId": "web", "name": "Nightly", "destination": "rest:https://h.example/", "credentials": {"username": "u", "password": "hidden-word"}});
    let spec: BackupConfigSpec = serde_json::from_value(body).unwrap();
    let said = format!("{} {spec:?}", serde_json::to_string(&spec).unwrap());
    assert!(!said.contains("hidden-word"), "{said}");
}
