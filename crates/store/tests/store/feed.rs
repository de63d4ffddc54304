use crate::fixture::{Fixture, NOW, container, id, insert};
use nm_store::{Change, Kind, Patch, Retention, Store, StoreError, Subject, Watch, WatchError, What};
use nm_types::Timestamp;
use nm_waits::{eventually, soon};
use std::time::Duration;

both!(
    twenty_writers_one_order,
    every_kind_of_change_shows,
    a_slow_receiver_resyncs,
    old_changes_are_pruned,
    a_closed_store_ends_the_watch
);

async fn receive(watch: &mut Watch, count: usize) -> Vec<Change> {
    let mut got = Vec::new();
    while got.len() < count {
        got.push(soon("a change", watch.next()).await.unwrap());
    }
    got
}

async fn twenty_writers_one_order(f: Fixture) {
    let store = f.open().await;
    let mut watch = store.watch();
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..20 {
        let store = store.clone();
        tasks.spawn(async move {
            for n in 0..10 {
                let n = writer * 10 + n;
                insert(&store, container(n)).await.unwrap();
                let mut tx = store.begin(NOW).await.unwrap();
                tx.update(Kind::Container, &id(n), Patch::new().name("renamed")).await.unwrap();
                if n % 3 == 0 {
                    // Rolled back: its revision goes to somebody else, and it never shows.
                    drop(tx);
                    continue;
                }
                tx.delete(Kind::Container, &id(n)).await.unwrap();
                tx.commit().await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    let rolled_back = (0..200).filter(|n| n % 3 == 0).count();
    let expected = 200 + 2 * (200 - rolled_back);
    let heard = receive(&mut watch, expected).await;
    assert!(
        heard.windows(2).all(|w| w[0].revision < w[1].revision),
        "in the order of the commits, each once"
    );
    assert_eq!(heard, store.changes_since(0, 10_000).await.unwrap(), "the feed and the table agree");
    for n in 0..200 {
        let story: Vec<What> = heard.iter().filter(|c| *c.id == *id(n)).map(|c| c.what).collect();
        if n % 3 == 0 {
            assert_eq!(story, [What::Created])
        } else {
            assert_eq!(story, [What::Created, What::Updated, What::Deleted])
        }
    }
    assert_eq!(heard.last().unwrap().revision, store.revision().await.unwrap());
}

async fn every_kind_of_change_shows(f: Fixture) {
    let store = f.open().await;
    let mut watch = store.watch();
    insert(&store, container(1)).await.unwrap();
    let mut tx = store.begin(Timestamp(7)).await.unwrap();
    tx.update(Kind::Container, &id(1), Patch::new().status(&1).unwrap()).await.unwrap();
    tx.update(Kind::Container, &id(1), Patch::new().name("x").status(&1).unwrap())
        .await
        .unwrap();
    tx.delete(Kind::Container, &id(1)).await.unwrap();
    tx.commit().await.unwrap();
    let heard = receive(&mut watch, 4).await;
    assert_eq!(
        heard.iter().map(|c| c.what).collect::<Vec<_>>(),
        [What::Created, What::Status, What::Updated, What::Deleted]
    );
    assert!(heard.iter().all(|c| c.subject == Subject::Resource(Kind::Container)));
    assert_eq!((&*heard[0].name, &*heard[3].name, heard[3].at), ("web-1", "x", Timestamp(7)));
}

async fn a_slow_receiver_resyncs(f: Fixture) {
    const MANY: usize = 6_000;
    let store = f.open().await;
    let mut watch = store.watch();
    insert(&store, container(0)).await.unwrap();
    let mut heard = receive(&mut watch, 1).await;
    let mut tx = store.begin(NOW).await.unwrap();
    for n in 1..MANY {
        tx.insert(container(n)).await.unwrap();
    }
    tx.commit().await.unwrap();
    insert(&store, container(MANY)).await.unwrap();
    let all = store.revision().await.unwrap();
    eventually("everything is in the feed", async || (store.watch().seen() == all).then_some(())).await;

    let since = heard[0].revision;
    assert_eq!(soon("the receiver is told", watch.next()).await, Err(WatchError::Lagged { since }));
    loop {
        let page = store.changes_since(heard.last().unwrap().revision, 1_000).await.unwrap();
        if page.is_empty() {
            break;
        }
        heard.extend(page);
    }
    watch.seen_up_to(heard.last().unwrap().revision);
    insert(&store, container(MANY + 1)).await.unwrap();
    heard.push(soon("a change after the resync", watch.next()).await.unwrap());
    assert_eq!(
        heard.iter().map(|c| c.revision).collect::<Vec<_>>(),
        (1..=MANY as i64 + 2).collect::<Vec<_>>(),
        "all, each once"
    );
}

async fn old_changes_are_pruned(f: Fixture) {
    let store = f.open().await;
    for n in 0..10 {
        let mut tx = store.begin(Timestamp(n * 1_000)).await.unwrap();
        tx.insert(container(n as usize)).await.unwrap();
        tx.commit().await.unwrap();
    }
    let keep = Retention {
        changes_ms: 5_000,
        ..Retention::default()
    };
    assert_eq!(store.prune(Timestamp(9_000), keep).await.unwrap().changes, 4);
    assert_eq!(store.changes_since(4, 100).await.unwrap().len(), 6);
    assert!(matches!(store.changes_since(3, 100).await, Err(StoreError::Compacted { floor: 4 })));

    let keep = Retention {
        changes: 2,
        ..Retention::default()
    };
    assert_eq!(store.prune(Timestamp(9_000), keep).await.unwrap().changes, 4);
    assert_eq!(store.changes_since(8, 100).await.unwrap().len(), 2);
    assert_eq!(store.prune(Timestamp(9_000), keep).await.unwrap().changes, 0);
    assert_eq!(store.revision().await.unwrap(), 10);
}

async fn a_closed_store_ends_the_watch(f: Fixture) {
    let store = f.open().await;
    let mut watch = store.watch();
    store.close().await;
    assert_eq!(soon("the end", watch.next()).await, Err(WatchError::Closed));
    assert_eq!(soon("the end", store.watch().next()).await, Err(WatchError::Closed));
}

/// Two control planes on one PostgreSQL hear each other, also across cut connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_hear_each_other_across_cut_connections() {
    let Some(f) = Fixture::postgres().await else { return };
    let (one, two) = (f.open().await, f.open().await);
    let mut watches = [one.watch(), two.watch()];
    let write = |from: Store, range: std::ops::Range<usize>| async move {
        for n in range {
            insert(&from, container(n)).await.unwrap();
        }
    };
    const ROUNDS: usize = 5;
    for round in 0..ROUNDS {
        let base = round * 100;
        let cut = f.tamper(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE application_name = 'neuralmesh-changes' AND datname = current_database()",
        );
        tokio::join!(write(one.clone(), base..base + 50), write(two.clone(), base + 50..base + 100), cut);
    }
    for watch in &mut watches {
        let heard = receive(watch, ROUNDS * 100).await;
        assert_eq!(
            heard.iter().map(|c| c.revision).collect::<Vec<_>>(),
            (1..=ROUNDS as i64 * 100).collect::<Vec<_>>()
        );
    }
}

/// The server is gone for a moment: writers say so and recover by themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_connection_cut_heals() {
    let Some(f) = Fixture::postgres().await else { return };
    let store = f.open().await;
    let mut watch = store.watch();
    for n in 0..10 {
        f.tamper("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
            .await;
        soon("a write after the cut", insert(&store, container(n))).await.unwrap();
        eventually("a read after the cut", async || {
            store.get(Kind::Container, &id(n)).await.ok().flatten()
        })
        .await;
    }
    assert_eq!(receive(&mut watch, 10).await.len(), 10);
}

/// A replica stopped in the middle of a transaction holds the others up for seconds, not for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stuck_replica_loses_its_turn() {
    let Some(f) = Fixture::postgres().await else { return };
    let (stuck, other) = (f.open().await, f.open().await);
    let mut tx = stuck.begin(NOW).await.unwrap();
    tx.insert(container(1)).await.unwrap();
    let waited = tokio::time::timeout(Duration::from_secs(9), insert(&other, container(2))).await;
    waited.expect("the other replica gets its turn").unwrap();
    let error = tx.commit().await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    assert_eq!(other.get(Kind::Container, &id(1)).await.unwrap(), None);
    insert(&stuck, container(3)).await.unwrap();
}
