use super::*;
use proptest::prelude::*;

fn kind(text: &str) -> DestinationKind {
    BackupDestination::parse(text).unwrap().kind()
}

#[test]
fn what_each_form_says() {
    let sftp = |user: Option<&str>, port| DestinationKind::Sftp {
        user: user.map(str::to_owned),
        host: "h.example".into(),
        port,
        path: "/a/b".into(),
    };
    let s3 = |endpoint: &str, prefix: &str| DestinationKind::S3 {
        endpoint: endpoint.into(),
        bucket: "my-bucket".into(),
        prefix: prefix.into(),
    };
    let rest = |url: &str| DestinationKind::Rest { url: url.into() };
    for (text, expected) in [
        ("/backups", DestinationKind::Path { path: "/backups".into() }),
        ("/a b/ü", DestinationKind::Path { path: "/a b/ü".into() }),
        ("/...", DestinationKind::Path { path: "/...".into() }),
        ("s3:https://h.example/my-bucket", s3("https://h.example", "")),
        ("s3:http://h.example:9000/my-bucket/a/b", s3("http://h.example:9000", "a/b")),
        ("sftp:h.example:/a/b", sftp(None, 22)),
        ("sftp:me@h.example:/a/b", sftp(Some("me"), 22)),
        ("sftp://h.example/a/b", sftp(None, 22)),
        ("sftp://me@h.example:65535/a/b", sftp(Some("me"), 65535)),
        ("rest:https://h.example", rest("https://h.example/")),
        ("rest:https://h.example/", rest("https://h.example/")),
        ("rest:http://h.example:8000/a/b", rest("http://h.example:8000/a/b/")),
        ("rest:http://h.example:8000/a/b/", rest("http://h.example:8000/a/b/")),
        (
            "node:node-2:/srv/backups",
            DestinationKind::Node {
                node: "node-2".into(),
                path: "/srv/backups".into(),
            },
        ),
    ] {
        assert_eq!(kind(text), expected, "{text}");
    }
}

#[test]
fn what_is_no_destination() {
    for bad in [
        "",
        "/",
        "//a",
        "/a/",
        "/a//b",
        "/a/../b",
        "/./a",
        "/a\n",
        "backups",
        "./a",
        "C:/a",
        "file:/a",
        "s3:h.example/bucket",
        "s3:ftp://h.example/bucket",
        "s3:https://h.example",
        "s3:https://h.example/",
        "s3:https://h.example/ab",
        "s3:https://h.example/Bucket",
        "s3:https://h.example/bucket-",
        "s3:https://h.example/bucket/",
        "s3:https://h.example/bucket/../x",
        "s3:https://h.example/bucket/a?b",
        "s3:https://key:secret@h.example/bucket",
        "s3:https://h.example:0/bucket",
        "s3:https://h.example:65536/bucket",
        "s3:https://h.example:/bucket",
        "s3:https://-h.example/bucket",
        "sftp:h.example:a",
        "sftp:h.example:/",
        "sftp:h.example",
        "sftp:@h.example:/a",
        "sftp:-oProxyCommand=x@h.example:/a",
        "sftp:-oProxyCommand:/a",
        "sftp:me:pw@h.example:/a",
        "sftp://me:pw@h.example/a",
        "sftp:h.example:/a b",
        "sftp:h.example:/a/..",
        "sftp://h.example:022/a",
        "rest:https://",
        "rest:https://h.example//",
        "rest:https://h.example/a//",
        "rest:https://me:pw@h.example/a",
        "rest:https://h.example/a#b",
        "node::/a",
        "node:n",
        "node:n:a",
        "node:n:/",
        "node:-n:/a",
        "node:n:/a/../b",
    ] {
        assert!(BackupDestination::parse(bad).is_err(), "{bad:?}");
    }
    let parts = |n: usize| "/a".repeat(n);
    for (form, most) in [("s3:https://h/bucket", 8), ("sftp:h:", 16), ("rest:https://h", 8)] {
        assert!(BackupDestination::parse(&format!("{form}{}", parts(most))).is_ok(), "{form}");
        assert!(BackupDestination::parse(&format!("{form}{}", parts(most + 1))).is_err(), "{form}");
    }
    assert!(BackupDestination::parse(&format!("/{}", "ü".repeat(1023))).is_ok());
    assert!(BackupDestination::parse(&format!("/{}", "ü".repeat(1024))).is_err());
}

/// The pattern without its looks ahead, which the maker of texts does not know.
fn loose_pattern() -> String {
    BackupDestination::pattern()
        .trim_matches(['^', '$'])
        .replace("(?!\\.{1,2}(?:/|$))", "")
}

proptest! {
    #[test]
    fn whatever_the_pattern_takes_is_one(text in proptest::string::string_regex(&loose_pattern()).unwrap()) {
        let path = text.split_once("://").map_or(text.as_str(), |(_, rest)| rest);
        let path = path.split_once('/').map_or("", |(_, path)| path);
        let dots = path.split('/').any(|part| part == "." || part == "..");
        prop_assert_eq!(BackupDestination::parse(&text).is_ok(), !dots && text.chars().count() <= LONGEST, "{}", text);
    }
}

#[test]
fn keys_and_regions() {
    let key = "AAAAC3NzaC1lZDI1NTE5AAAAIA";
    for (text, good) in [
        (format!("ssh-ed25519 {key}"), true),
        (format!("sk-ssh-ed25519@openssh.com {key}=="), true),
        (format!("ssh-ed25519 {key}==="), false),
        (format!("ssh-ed25519 {key} me@host"), false),
        (format!("host ssh-ed25519 {key}"), false),
        (format!("ssh-ed25519  {key}"), false),
        (format!("ssh-ed25519 {key}\n"), false),
        ("ssh-ed25519".to_owned(), false),
        ("ssh-ed25519 AAAA".to_owned(), false),
    ] {
        assert_eq!(HostKey::parse(&text).is_ok(), good, "{text:?}");
    }
    for (text, good) in [("eu-central-1", true), ("auto", true), ("", false), ("EU", false), ("a b", false)] {
        assert_eq!(S3Region::parse(text).is_ok(), good, "{text:?}");
    }
}
