use crate::fixture::{Fixture, NOW, container, id, insert};
use nm_store::{AuditEntry, Kind, Patch, StoreError};
use nm_waits::{eventually, soon};
use std::sync::{Arc, Mutex};

both!(
    a_dropped_transaction_leaves_no_trace,
    an_error_spoils_the_transaction,
    a_dropped_statement_spoils_the_transaction,
    a_commit_outlives_its_caller,
    readers_see_committed_data_only,
    fifty_writers_get_their_turn_in_order,
    an_aborted_wait_does_not_block_the_queue,
);

async fn a_dropped_transaction_leaves_no_trace(f: Fixture) {
    let store = f.open().await;
    let mut watch = store.watch();
    let mut tx = store.begin(NOW).await.unwrap();
    tx.insert(container(1)).await.unwrap();
    tx.audit(AuditEntry::new("system", "container.create")).await.unwrap();
    assert!(tx.get(Kind::Container, &id(1)).await.unwrap().is_some(), "it sees its own writes");
    drop(tx);

    insert(&store, container(2)).await.unwrap();
    assert_eq!(store.get(Kind::Container, &id(1)).await.unwrap(), None);
    assert_eq!(store.revision().await.unwrap(), 1);
    let change = soon("a change", watch.next()).await.unwrap();
    assert_eq!((&*change.id, change.revision), (id(2).as_str(), 1));
    let report = store.verify_audit().await.unwrap();
    assert_eq!((report.entries, report.first_broken), (0, None));
}

async fn an_error_spoils_the_transaction(f: Fixture) {
    let store = f.open().await;
    insert(&store, container(1)).await.unwrap();
    let mut tx = store.begin(NOW).await.unwrap();
    tx.insert(container(2)).await.unwrap();
    assert!(matches!(tx.insert(container(1)).await, Err(StoreError::Conflict { .. })));
    assert!(
        matches!(tx.insert(container(3)).await, Err(StoreError::Spoiled)),
        "alike on both databases"
    );
    assert!(matches!(tx.commit().await, Err(StoreError::Spoiled)));
    assert_eq!(store.count(Kind::Container, None).await.unwrap(), 1);
    insert(&store, container(4)).await.unwrap();
}

async fn a_dropped_statement_spoils_the_transaction(f: Fixture) {
    let store = f.open().await;
    let mut tx = loop {
        let mut tx = store.begin(NOW).await.unwrap();
        // One poll sends it off; the answer is never waited for. Now and then SQLite is as quick as that.
        if futures_util::poll!(std::pin::pin!(tx.insert(container(1)))).is_pending() {
            break tx;
        }
    };
    assert!(matches!(tx.insert(container(2)).await, Err(StoreError::Spoiled)));
    assert!(matches!(tx.commit().await, Err(StoreError::Spoiled)));
    insert(&store, container(1)).await.unwrap();
    assert_eq!(store.count(Kind::Container, None).await.unwrap(), 1);
}

/// A client that hangs up drops the handler's future; what was being committed must still be announced.
async fn a_commit_outlives_its_caller(f: Fixture) {
    let store = f.open().await;
    let mut watch = store.watch();
    let mut tx = store.begin(NOW).await.unwrap();
    tx.insert(container(1)).await.unwrap();
    let mut commit = Box::pin(tx.commit());
    // Polled until the commit has been handed over, then dropped.
    let mut polls = 0;
    let dropped = loop {
        if futures_util::poll!(&mut commit).is_ready() {
            break false;
        }
        if store.get(Kind::Container, &id(1)).await.unwrap().is_some() {
            break true;
        }
        polls += 1;
        assert!(polls < 10_000, "the commit does not get on");
    };
    drop(commit);
    let change = soon("the change", watch.next()).await.unwrap();
    assert_eq!(&*change.id, id(1), "dropped early: {dropped}");
    insert(&store, container(2)).await.unwrap();
    assert_eq!(store.count(Kind::Container, None).await.unwrap(), 2);
}

async fn readers_see_committed_data_only(f: Fixture) {
    let store = f.open().await;
    insert(&store, container(1).named("old")).await.unwrap();
    let mut tx = store.begin(NOW).await.unwrap();
    tx.update(Kind::Container, &id(1), Patch::new().name("new")).await.unwrap();
    let seen = soon("a read beside a write", store.get(Kind::Container, &id(1)))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(seen.name, "old");
    tx.commit().await.unwrap();
    assert_eq!(store.get(Kind::Container, &id(1)).await.unwrap().unwrap().name, "new");
}

async fn fifty_writers_get_their_turn_in_order(f: Fixture) {
    let store = f.open().await;
    let first = store.begin(NOW).await.unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..50 {
        let (store, order) = (store.clone(), Arc::clone(&order));
        let (queued, is_queued) = tokio::sync::oneshot::channel();
        tasks.spawn(async move {
            let mut begin = Box::pin(store.begin(NOW));
            assert!(futures_util::poll!(&mut begin).is_pending());
            queued.send(()).unwrap();
            let mut tx = begin.await.unwrap();
            order.lock().unwrap().push(n);
            tx.insert(container(n)).await.unwrap();
            tx.commit().await.unwrap();
        });
        is_queued.await.unwrap();
    }
    drop(first);
    soon("all fifty", tasks.join_all()).await;
    assert_eq!(*order.lock().unwrap(), (0..50).collect::<Vec<_>>());
    assert_eq!(store.count(Kind::Container, None).await.unwrap(), 50);
}

async fn an_aborted_wait_does_not_block_the_queue(f: Fixture) {
    let store = f.open().await;
    for round in 0..30 {
        let task = tokio::spawn({
            let store = store.clone();
            async move { insert(&store, container(1_000 + round)).await }
        });
        // Aborted at whatever point it has come to.
        for _ in 0..round % 7 {
            tokio::task::yield_now().await;
        }
        task.abort();
        let _ = task.await;
        soon("the next writer", insert(&store, container(round))).await.unwrap();
    }
    let count = eventually("the aborted ones settle", async || {
        Some(store.count(Kind::Container, None).await.unwrap())
    })
    .await;
    assert!((30..=60).contains(&count));
    let changes = store.changes_since(0, 1_000).await.unwrap();
    assert_eq!(changes.len() as i64, count, "each row has its change, and each change its row");
}
