use crate::fixture::{Fixture, NOW, container, insert};
use nm_store::{AuditEntry, AuditQuery, Kind, NewClusterEvent, NewResource, SealError, Secret, Store, StoreError};
use nm_types::Timestamp;
use nm_waits::eventually;
use std::io::Cursor;

both!(
    a_store_is_brought_back_on_either_database,
    it_is_of_one_moment,
    what_does_not_fit_leaves_nothing
);

/// Some of everything.
async fn fill(store: &Store) {
    for n in 0..2_000 {
        insert(store, container(n)).await.unwrap();
    }
    let mut tx = store.begin(NOW).await.unwrap();
    let secret = NewResource::new(Kind::Registry, "reg_1").secret(Secret::new(b"planted-secret".to_vec()));
    tx.insert(secret).await.unwrap();
    tx.create_user(crate::auth::user_row("anna", nm_types::auth::Role::Admin))
        .await
        .unwrap();
    tx.audit(AuditEntry::new("anna", "export.test")).await.unwrap();
    tx.cluster_event(&NewClusterEvent {
        cluster: "cluster_1".into(),
        at: NOW,
        kind: "created".into(),
        member: None,
        node: None,
        reason: "it is \"new\"\nand fine".into(),
        detail: None,
    })
    .await
    .unwrap();
    tx.commit().await.unwrap();
}

async fn export(store: &Store) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    let head = store.export(NOW, &mut out).await.unwrap();
    assert_eq!((head.revision, head.time), (store.revision().await.unwrap(), NOW));
    out.into_inner()
}

/// Lines without the numbers that go on with higher ones.
fn plain(export: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(export).unwrap();
    let leap = |line: &str| {
        let mut value: serde_json::Value = serde_json::from_str(line).unwrap();
        if let Some(cells) = value.as_array_mut() {
            for cell in cells {
                if let Some(n) = cell.as_i64().filter(|n| (1_000_000..1_100_000).contains(n)) {
                    *cell = (n - 1_000_000).into();
                }
            }
        }
        value.to_string()
    };
    let mut lines: Vec<String> = text.lines().skip(1).map(leap).collect();
    // The head's floor becomes its revision.
    lines.remove(1);
    lines.sort_unstable();
    lines
}

async fn a_store_is_brought_back_on_either_database(f: Fixture) {
    let store = f.open().await;
    fill(&store).await;
    let lines = export(&store).await;
    assert!(!String::from_utf8_lossy(&lines).contains("planted-secret"));
    let revision = store.revision().await.unwrap();
    let mut fixtures = vec![Fixture::sqlite()];
    fixtures.extend(Fixture::postgres().await);
    for other in fixtures {
        std::fs::create_dir_all(other.config.key_file.parent().unwrap()).unwrap();
        std::fs::copy(&f.config.key_file, &other.config.key_file).unwrap();
        let (head, rows) = Store::import(&other.config, lines.as_slice()).await.unwrap();
        assert_eq!(head.revision, revision);
        assert_eq!(
            rows as usize,
            lines.iter().filter(|b| **b == b'\n').count() - 2 - plain(&lines).iter().filter(|l| l.contains("\"columns\"")).count()
        );
        let again = other.open().await;
        assert_eq!(plain(&export(&again).await), plain(&lines));
        // What nodes and readers have seen is never older than what comes now.
        assert!(again.revision().await.unwrap() >= revision + 1_000_000);
        assert!(matches!(again.changes_since(revision, 10).await, Err(StoreError::Compacted { .. })));
        let mut tx = again.begin(NOW).await.unwrap();
        let secret = tx.get(Kind::Registry, "reg_1").await.unwrap().unwrap();
        assert!(secret.generation > 1_000_000);
        drop(tx);
        let opened = again.open_sealed(&secret).await.unwrap().unwrap();
        assert_eq!(opened.expose(), b"planted-secret");
        let report = again.verify_audit().await.unwrap();
        assert!(report.first_broken.is_none(), "{report:?}");
        assert_eq!(
            again
                .audit_log(&AuditQuery {
                    limit: 10,
                    ..AuditQuery::default()
                })
                .await
                .unwrap()
                .len(),
            1
        );
        // And it goes on.
        insert(&again, container(9_999)).await.unwrap();
        again.close().await;
    }
}

async fn it_is_of_one_moment(f: Fixture) {
    let store = f.open().await;
    fill(&store).await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            let mut stopped = stopped;
            let mut n = 10_000;
            while stopped.try_recv().is_err() {
                // Two rows a transaction: an export has both or none.
                let mut tx = store.begin(NOW).await.unwrap();
                tx.insert(container(n)).await.unwrap();
                tx.insert(container(n + 1)).await.unwrap();
                tx.commit().await.unwrap();
                n += 2;
            }
            n
        }
    });
    let before = store.revision().await.unwrap();
    eventually("it is written to", async || {
        (store.revision().await.unwrap() > before + 10).then_some(())
    })
    .await;
    for _ in 0..5 {
        let lines = export_beside(&store).await;
        let rows = lines.lines().filter(|l| l.starts_with("[\"container\"")).count();
        assert_eq!(rows % 2, 0);
    }
    stop.send(()).unwrap();
    assert!(writer.await.unwrap() > 10_020);
}

async fn export_beside(store: &Store) -> String {
    let mut out = Cursor::new(Vec::new());
    store.export(NOW, &mut out).await.unwrap();
    String::from_utf8(out.into_inner()).unwrap()
}

async fn what_does_not_fit_leaves_nothing(f: Fixture) {
    let source = Fixture::sqlite();
    let store = source.open().await;
    fill(&store).await;
    let lines = export(&store).await;
    store.close().await;

    // Another key, and one that is missing.
    let missing = Store::import(&f.config, lines.as_slice()).await.unwrap_err();
    assert!(
        matches!(
            missing,
            StoreError::File { .. } | StoreError::Sealed(SealError::KeyFileMissing { .. })
        ),
        "{missing:?}"
    );
    let stranger = Fixture::sqlite();
    stranger.open().await.close().await;
    std::fs::create_dir_all(f.config.key_file.parent().unwrap()).unwrap();
    std::fs::copy(&stranger.config.key_file, &f.config.key_file).unwrap();
    let wrong = Store::import(&f.config, lines.as_slice()).await.unwrap_err();
    assert!(matches!(wrong, StoreError::Sealed(SealError::WrongKey { .. })), "{wrong:?}");

    std::fs::copy(&source.config.key_file, &f.config.key_file).unwrap();
    let text = String::from_utf8(lines.clone()).unwrap();
    let all: Vec<&str> = text.lines().collect();
    let cut = all[..all.len() - 1].join("\n") + "\n";
    let short = all
        .iter()
        .enumerate()
        .filter(|(i, _)| *i != 100)
        .map(|(_, l)| *l)
        .collect::<Vec<_>>()
        .join("\n")
        + "\n";
    let half = &text[..text.len() / 2];
    let injected = text.replacen("\"columns\":[\"one\"", "\"columns\":[\"one); DROP TABLE users; --\"", 1);
    let foreign = text.replacen("\"table\":\"resources\"", "\"table\":\"pg_user\"", 1);
    for bad in [cut.as_str(), &short, half, &injected, &foreign, "", "nonsense\n"] {
        let error = Store::import(&f.config, bad.as_bytes()).await.unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    }
    let newer = text.replacen("\"schema\":", "\"schema\":9", 1);
    let error = Store::import(&f.config, newer.as_bytes()).await.unwrap_err();
    assert!(matches!(error, StoreError::NewerSchema { .. }), "{error:?}");

    // Nothing of those is there: the whole one fits in, and a second one no more.
    Store::import(&f.config, lines.as_slice()).await.unwrap();
    let occupied = Store::import(&f.config, lines.as_slice()).await.unwrap_err();
    assert!(matches!(occupied, StoreError::Occupied), "{occupied:?}");
    let store = f.open().await;
    let at = Timestamp(NOW.0 + 1);
    drop(store.begin(at).await.unwrap());
    assert_eq!(plain(&export(&store).await), plain(&lines));
}
