use crate::fixture::{Fixture, NOW};
use nm_store::{HealthPeriod, HealthRow, Store};
use nm_types::Timestamp;

both!(histories_are_kept_and_pruned, checked_until, ranges_of_servers);

fn row(server: &str, began: i64, state: &str) -> HealthRow {
    HealthRow {
        server: server.into(),
        began: Timestamp(began),
        state: state.into(),
        failed: String::new(),
    }
}

async fn write(store: &Store, rows: &[HealthRow]) {
    let mut tx = store.begin(NOW).await.unwrap();
    for row in rows {
        tx.health_changed(row).await.unwrap();
    }
    tx.commit().await.unwrap();
}

async fn history(store: &Store, server: &str, from: i64, before: i64) -> Vec<i64> {
    let period = HealthPeriod {
        server,
        from: Timestamp(from),
        before: Timestamp(before),
        limit: 100,
    };
    store.health_history(period).await.unwrap().iter().map(|r| r.began.0).collect()
}

async fn histories_are_kept_and_pruned(f: Fixture) {
    let store = f.open().await;
    let revision = store.revision().await.unwrap();
    write(
        &store,
        &[
            row("node_1", 10, "healthy"),
            row("node_1", 20, "unhealthy"),
            row("node_1", 30, "healthy"),
            row("node_2", 10, "healthy"),
        ],
    )
    .await;
    assert_eq!(
        store.revision().await.unwrap(),
        revision,
        "a time series is no change of a resource"
    );
    assert_eq!(history(&store, "node_1", 0, 100).await, [30, 20, 10]);
    assert_eq!(history(&store, "node_1", 20, 100).await, [30, 20]);
    assert_eq!(
        history(&store, "node_1", 25, 100).await,
        [30, 20],
        "what held at the beginning is there"
    );
    assert_eq!(history(&store, "node_1", 25, 30).await, [20]);
    assert_eq!(history(&store, "node_3", 0, 100).await, [0; 0]);

    for (moment, next) in [(0, Some(10)), (20, Some(20)), (21, Some(30)), (31, None)] {
        let found = store.health_next("node_1", Timestamp(moment)).await.unwrap();
        assert_eq!(found, next.map(Timestamp), "{moment}");
    }

    // The same moment again: the later word counts.
    write(&store, &[row("node_1", 30, "unhealthy")]).await;
    let last = HealthPeriod {
        server: "node_1",
        from: Timestamp(0),
        before: Timestamp(100),
        limit: 1,
    };
    assert_eq!(store.health_history(last).await.unwrap(), [row("node_1", 30, "unhealthy")]);

    let mut tx = store.begin(NOW).await.unwrap();
    assert_eq!(tx.health_prune(Timestamp(25)).await.unwrap(), 1);
    tx.commit().await.unwrap();
    assert_eq!(history(&store, "node_1", 0, 100).await, [30, 20]);
    assert_eq!(
        history(&store, "node_2", 0, 100).await,
        [10],
        "the only row says what it is until today"
    );

    let mut tx = store.begin(NOW).await.unwrap();
    tx.health_forget("node_1").await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(history(&store, "node_1", 0, 100).await, [0; 0]);
    assert_eq!(history(&store, "node_2", 0, 100).await, [10]);
}

async fn ranges_of_servers(f: Fixture) {
    let store = f.open().await;
    let rows = [
        row("cont_1", 10, "healthy"),
        row("node_1", 10, "healthy"),
        row("node_1", 20, "unhealthy"),
        row("node_1", 30, "healthy"),
        row("node_2", 40, "healthy"),
        row("server_1", 10, "healthy"),
    ];
    write(&store, &rows).await;
    let read = store.health_histories("node_1", "node_2", Timestamp(25)).await.unwrap();
    assert_eq!(read, rows[2..5]);
}

async fn checked_until(f: Fixture) {
    let store = f.open().await;
    assert_eq!(store.health_checked_until().await.unwrap(), None);
    for until in [NOW, Timestamp(NOW.0 + 5)] {
        let mut tx = store.begin(NOW).await.unwrap();
        tx.health_checked(until).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(store.health_checked_until().await.unwrap(), Some(until));
    }
}
