use crate::fixture::{Fixture, NOW, container, id, insert};
use nm_store::{Backend, Kind, Store, StoreError};
use nm_waits::{eventually, soon};
use sqlx::Row;
use std::fs;
use std::os::unix::fs::PermissionsExt;

both!(
    opens_again_with_everything,
    a_newer_schema_is_refused,
    a_changed_migration_is_refused,
    two_first_starts_at_once,
    one_control_plane_at_a_time,
    knows_its_size
);

async fn opens_again_with_everything(f: Fixture) {
    let store = f.open().await;
    assert_eq!(store.backend(), if f.is_postgres() { Backend::Postgres } else { Backend::Sqlite });
    store.ping().await.unwrap();
    insert(&store, container(1)).await.unwrap();
    store.close().await;
    drop(store);
    let store = f.open().await;
    assert!(store.get(Kind::Container, &id(1)).await.unwrap().is_some());
    assert_eq!(store.revision().await.unwrap(), 1);
    insert(&store, container(2)).await.unwrap();
    assert_eq!(store.changes_since(0, 10).await.unwrap().len(), 2);
}

async fn a_newer_schema_is_refused(f: Fixture) {
    f.open().await.close().await;
    f.tamper("INSERT INTO schema_migrations (version, name, checksum) VALUES (999, 'from the future', '')")
        .await;
    let refused = f.try_open().await.err().unwrap();
    assert!(matches!(refused, StoreError::NewerSchema { found: 999, .. }), "{refused:?}");
    f.tamper("DELETE FROM schema_migrations WHERE version = 999").await;
    f.open().await;
}

async fn a_changed_migration_is_refused(f: Fixture) {
    f.open().await.close().await;
    f.tamper("UPDATE schema_migrations SET checksum = 'x'").await;
    let refused = f.try_open().await.err().unwrap();
    assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused:?}");
}

async fn two_first_starts_at_once(f: Fixture) {
    if f.is_postgres() {
        let (a, b, c) = tokio::join!(f.open(), f.open(), f.open());
        for (n, store) in [a, b, c].iter().enumerate() {
            insert(store, container(n)).await.unwrap();
        }
        assert_eq!(f.open().await.count(Kind::Container, None).await.unwrap(), 3);
    } else {
        // SQLite means one control plane, and says so.
        let store = f.open().await;
        let refused = f.try_open().await.err().unwrap();
        assert!(matches!(&refused, StoreError::InUse { .. }), "{refused:?}");
        assert!(refused.to_string().contains("stop the other one first"), "{refused}");
        store.close().await;
        f.open().await;
        assert!(
            matches!(insert(&store, container(1)).await, Err(StoreError::Unavailable { .. })),
            "closed is closed"
        );
        assert!(matches!(store.ping().await, Err(StoreError::Unavailable { .. })));
    }
}

async fn one_control_plane_at_a_time(f: Fixture) {
    let alone = || Store::open_alone(f.config.clone());
    let first = alone().await.unwrap();
    let refused = alone().await.err().unwrap();
    assert!(matches!(refused, StoreError::InUse { .. } | StoreError::Taken), "{refused:?}");
    assert!(refused.to_string().contains("stop the other one first"), "{refused}");
    insert(&first, container(1)).await.unwrap();
    first.close().await;
    let first = alone().await.unwrap();
    if !f.is_postgres() {
        return;
    }
    let cut = async || {
        f.tamper("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())")
            .await;
    };
    let holders = async |granted: bool| {
        let sql = format!(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND granted = {granted} \
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        );
        let rows = f.rows(&sql).await;
        rows.first().map(|row| row.get::<i32, _>(0))
    };

    // Its connection is cut, and nobody is there to take over: it goes on.
    let before = holders(true).await.unwrap();
    cut().await;
    eventually("it holds the lock again", async || holders(true).await.filter(|pid| *pid != before)).await;
    let written = eventually("it writes again", async || insert(&first, container(2)).await.ok()).await;
    assert_eq!(written.id, id(2));

    // Another one waits for its turn, and has it when the connection is cut: the first may do nothing any more.
    let second = tokio::spawn(Store::open_alone(f.config.clone()));
    eventually("the second one waits", async || holders(false).await).await;
    cut().await;
    let second = second.await.unwrap().unwrap();
    let reason = soon("the first one ends", first.fatal()).await;
    assert!(reason.contains("another control plane"), "{reason}");
    let refused = insert(&first, container(3)).await;
    assert!(matches!(refused, Err(StoreError::Fatal { .. })), "{refused:?}");
    insert(&second, container(3)).await.unwrap();

    // One that came and went while the connection was cut is found, too.
    f.tamper("SELECT nextval('control_plane_turns')").await;
    cut().await;
    let reason = soon("what it knows is old", second.fatal()).await;
    assert!(reason.contains("start this one anew"), "{reason}");
}

async fn knows_its_size(f: Fixture) {
    let store = f.open().await;
    let before = store.size_bytes().await.unwrap();
    assert!(before > 0);
    let mut tx = store.begin(NOW).await.unwrap();
    for n in 0..200 {
        tx.insert(container(n).spec(&"x".repeat(10_000)).unwrap()).await.unwrap();
    }
    tx.commit().await.unwrap();
    assert!(store.size_bytes().await.unwrap() > before);
}

#[tokio::test]
async fn the_files_are_their_owners_only() {
    let f = Fixture::sqlite();
    let data = f.dir.path().join("data");
    let store = f.open().await;
    insert(&store, container(1)).await.unwrap();
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    let files: Vec<_> = fs::read_dir(&data).unwrap().map(|f| f.unwrap().path()).collect();
    assert!(files.len() >= 3, "database, log, shared memory, lock: {files:?}");
    for file in &files {
        assert_eq!(mode(file), 0o600, "{}", file.display());
    }
    store.close().await;
    drop(store);
    // One made readable by a careless copy is closed again.
    fs::set_permissions(f.sqlite_file(), fs::Permissions::from_mode(0o644)).unwrap();
    let _store = f.open().await;
    assert_eq!(mode(&f.sqlite_file()), 0o600);
}

#[tokio::test]
async fn odd_paths_work() {
    let mut f = Fixture::sqlite();
    let odd = f.dir.path().join("a b/../a b?c#d%20/ü.db");
    f.config.url = nm_store::DatabaseUrl::sqlite(&odd);
    fs::create_dir(f.dir.path().join("a b")).unwrap();
    let store = f.open().await;
    insert(&store, container(1)).await.unwrap();
    assert!(f.dir.path().join("a b?c#d%20/ü.db").exists());
}

#[tokio::test]
async fn what_is_no_database_is_refused() {
    let f = Fixture::sqlite();
    fs::create_dir_all(f.sqlite_file().parent().unwrap()).unwrap();
    fs::write(
        f.sqlite_file(),
        "this is not a database, but long enough to be looked at as if it were one. ".repeat(100),
    )
    .unwrap();
    let refused = f.try_open().await.err().unwrap();
    assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused:?}");
    assert!(
        fs::read_to_string(f.sqlite_file()).unwrap().starts_with("this is not"),
        "and left alone"
    );
}

#[tokio::test]
async fn an_unreachable_server_is_unavailable() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut f = Fixture::sqlite();
    f.config.url = format!("postgres://nobody:hunter2@127.0.0.1:{port}/none").parse().unwrap();
    let refused = f.try_open().await.err().unwrap();
    assert!(matches!(refused, StoreError::Unavailable { .. }), "{refused:?}");
    assert!(!format!("{refused:?}").contains("hunter2"));
}
