use crate::fixture::{Fixture, NOW, container, insert};
use nm_store::{AuditEntry, AuditQuery, AuditReport, Broken, Store, StoreError};
use nm_types::Timestamp;
use serde_json::json;

both!(
    entries_are_kept_with_their_change,
    pages_and_filters,
    every_change_from_outside_shows,
    nothing_is_written_onto_a_forged_head,
    numbers_have_no_gaps_under_many_writers,
    odd_texts_are_kept_readable,
);

async fn write(store: &Store, count: usize) {
    for n in 0..count {
        let mut tx = store.begin(Timestamp(NOW.0 + n as i64)).await.unwrap();
        let entry = AuditEntry {
            target: (n % 2 == 0).then(|| format!("cont_{n}")),
            outcome: if n % 5 == 0 { "name_taken".into() } else { "ok".into() },
            detail: json!({ "n": n, "text": "ü \" \\ \u{1}" }),
            address: Some("192.0.2.1".into()),
            request_id: Some(format!("req-{n}")),
            ..AuditEntry::new(if n % 3 == 0 { "anna" } else { "token:ci" }, "container.create")
        };
        assert_eq!(tx.audit(entry).await.unwrap(), n as i64 + 1);
        tx.commit().await.unwrap();
    }
}

fn whole(entries: i64) -> AuditReport {
    AuditReport {
        entries,
        first_broken: None,
    }
}

async fn entries_are_kept_with_their_change(f: Fixture) {
    let store = f.open().await;
    assert_eq!(store.verify_audit().await.unwrap(), whole(0));
    let mut tx = store.begin(NOW).await.unwrap();
    tx.insert(container(1)).await.unwrap();
    for _ in 0..3 {
        tx.audit(AuditEntry::new("anna", "container.create")).await.unwrap();
    }
    drop(tx);
    write(&store, 3).await;
    assert_eq!(store.verify_audit().await.unwrap(), whole(3));
    // Also after a start, and with another key for everything else.
    store.rotate_keys(NOW).await.unwrap();
    store.close().await;
    drop(store);
    let store = f.open().await;
    assert_eq!(store.verify_audit().await.unwrap(), whole(3));
    assert_eq!(store.revision().await.unwrap(), 0, "an entry alone is no change");
}

async fn pages_and_filters(f: Fixture) {
    let store = f.open().await;
    write(&store, 30).await;
    let mut seen = Vec::new();
    loop {
        let query = AuditQuery {
            before: seen.last().copied(),
            limit: 7,
            ..AuditQuery::default()
        };
        let page = store.audit_log(&query).await.unwrap();
        if page.is_empty() {
            break;
        }
        seen.extend(page.iter().map(|r| r.seq));
    }
    assert_eq!(seen, (1..=30).rev().collect::<Vec<_>>());

    let all = AuditQuery {
        limit: 100,
        ..AuditQuery::default()
    };
    for (query, want) in [
        (
            AuditQuery {
                actor: Some("anna".into()),
                ..all.clone()
            },
            10,
        ),
        (
            AuditQuery {
                target: Some("cont_4".into()),
                ..all.clone()
            },
            1,
        ),
        (
            AuditQuery {
                outcome: Some("name_taken".into()),
                actor: Some("anna".into()),
                ..all.clone()
            },
            2,
        ),
        (
            AuditQuery {
                action: Some("container.remove".into()),
                ..all.clone()
            },
            0,
        ),
        (
            AuditQuery {
                from: Some(Timestamp(NOW.0 + 10)),
                until: Some(Timestamp(NOW.0 + 20)),
                ..all.clone()
            },
            10,
        ),
        (
            AuditQuery {
                actor: Some("a\0".into()),
                ..all.clone()
            },
            0,
        ),
        (
            AuditQuery {
                actor: Some("' OR 1=1 --".into()),
                ..all.clone()
            },
            0,
        ),
    ] {
        assert_eq!(store.audit_log(&query).await.unwrap().len(), want, "{query:?}");
    }
    let record = store
        .audit_log(&AuditQuery {
            target: Some("cont_6".into()),
            ..all
        })
        .await
        .unwrap()
        .remove(0);
    assert_eq!((record.seq, record.at), (7, Timestamp(NOW.0 + 6)));
    assert_eq!(record.entry.detail, json!({ "n": 6, "text": "ü \" \\ \u{1}" }));
    assert_eq!(
        (record.entry.request_id.as_deref(), record.entry.address.as_deref()),
        (Some("req-6"), Some("192.0.2.1"))
    );
}

async fn every_change_from_outside_shows(f: Fixture) {
    let store = f.open().await;
    write(&store, 20).await;
    let before = store.verify_audit().await.unwrap();
    assert_eq!(before, whole(20));
    let backup = "CREATE TABLE audit_copy AS SELECT * FROM audit; CREATE TABLE head_copy AS SELECT * FROM store_head;";
    f.tamper(backup).await;
    let restore = "DELETE FROM audit; INSERT INTO audit SELECT * FROM audit_copy; \
                   DELETE FROM store_head; INSERT INTO store_head SELECT * FROM head_copy;";
    let edit = |set: &str| format!("UPDATE audit SET {set} WHERE seq = 7");
    let cases = [
        (edit("actor = 'ben'"), 7),
        (edit("action = 'x'"), 7),
        (edit("target = 'x'"), 7),
        (edit("outcome = 'x'"), 7),
        (edit("detail = '{}'"), 7),
        (edit("request_id = 'x'"), 7),
        (edit("address = 'x'"), 7),
        (edit("at = at + 1"), 7),
        (edit("prev_hmac = ''"), 7),
        (edit("hmac = ''"), 7),
        // The same texts, divided otherwise.
        (edit("actor = 'ann', action = 'acontainer.create'"), 7),
        ("DELETE FROM audit WHERE seq = 7".into(), 7),
        ("DELETE FROM audit WHERE seq = 1".into(), 1),
        ("DELETE FROM audit WHERE seq = 20".into(), 20),
        ("DELETE FROM audit WHERE seq > 15".into(), 16),
        ("DELETE FROM audit".into(), 1),
        // Removed, and those after it moved up.
        ("DELETE FROM audit WHERE seq = 7; UPDATE audit SET seq = seq + 1000 WHERE seq > 7; UPDATE audit SET seq = seq - 1001 WHERE seq > 1000".into(), 7),
        // Two entries in each other's place.
        ("UPDATE audit SET seq = 1007 WHERE seq = 7; UPDATE audit SET seq = 7 WHERE seq = 8; UPDATE audit SET seq = 8 WHERE seq = 1007".into(), 7),
        // Cut off, and the head set back to match.
        (
            "UPDATE store_head SET audit_seq = 15, audit_hmac = (SELECT hmac FROM audit WHERE seq = 15); DELETE FROM audit WHERE seq > 15".into(),
            16,
        ),
        ("UPDATE store_head SET audit_seq = 0, audit_hmac = ''; DELETE FROM audit".into(), 1),
        // Added, copied from one that was genuine.
        (
            "INSERT INTO audit SELECT 21, at, actor, action, target, outcome, detail, request_id, address, \
             (SELECT hmac FROM audit WHERE seq = 20), hmac FROM audit WHERE seq = 3"
                .into(),
            21,
        ),
    ];
    for (sql, first) in cases {
        f.tamper(&sql).await;
        let report = store.verify_audit().await.unwrap();
        let Some(Broken { seq, .. }) = report.first_broken else {
            panic!("unnoticed: {sql}")
        };
        assert_eq!(seq, first, "{sql}");
        assert_eq!(report.entries, first - 1, "{sql}");
        f.tamper(restore).await;
        assert_eq!(store.verify_audit().await.unwrap(), before, "after putting back what {sql} changed");
    }
}

async fn nothing_is_written_onto_a_forged_head(f: Fixture) {
    let store = f.open().await;
    write(&store, 5).await;
    f.tamper("UPDATE store_head SET audit_seq = 3, audit_hmac = (SELECT hmac FROM audit WHERE seq = 3); DELETE FROM audit WHERE seq > 3")
        .await;
    let mut tx = store.begin(NOW).await.unwrap();
    tx.insert(container(1)).await.unwrap();
    let refused = tx.audit(AuditEntry::new("anna", "container.create")).await.unwrap_err();
    assert!(
        matches!(refused, StoreError::Corrupt { .. }),
        "going on would hide the cut: {refused:?}"
    );
}

async fn numbers_have_no_gaps_under_many_writers(f: Fixture) {
    let store = f.open().await;
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..20 {
        let store = store.clone();
        tasks.spawn(async move {
            for n in 0..5 {
                let mut tx = store.begin(NOW).await.unwrap();
                tx.audit(AuditEntry::new(format!("w{writer}"), "a")).await.unwrap();
                tx.audit(AuditEntry::new(format!("w{writer}"), "b")).await.unwrap();
                if n == 3 {
                    drop(tx);
                } else {
                    tx.commit().await.unwrap();
                }
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(store.verify_audit().await.unwrap(), whole(20 * 4 * 2));
}

/// A failed login is audited with whatever was typed as a username.
async fn odd_texts_are_kept_readable(f: Fixture) {
    let store = f.open().await;
    insert(&store, container(1)).await.unwrap();
    let mut tx = store.begin(NOW).await.unwrap();
    let entry = AuditEntry {
        target: Some("a\0b'; --".into()),
        detail: json!({ "typed": "\0" }),
        ..AuditEntry::new("nobody\0", "auth.login")
    };
    tx.audit(entry).await.unwrap();
    tx.commit().await.unwrap();
    let record = store
        .audit_log(&AuditQuery {
            limit: 1,
            ..AuditQuery::default()
        })
        .await
        .unwrap()
        .remove(0);
    assert_eq!(
        (record.entry.actor.as_str(), record.entry.target.as_deref()),
        ("nobody\u{fffd}", Some("a\u{fffd}b'; --"))
    );
    assert_eq!(record.entry.detail, json!({ "typed": "\0" }));
    assert_eq!(store.verify_audit().await.unwrap(), whole(1));
}
