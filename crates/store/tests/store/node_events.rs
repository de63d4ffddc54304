use crate::fixture::{Fixture, NOW};
use nm_store::{JournalCursor, Kind, NewNodeEvent, NewResource, NodeEventRow, NodeEventsQuery, Store, StoreError, Subject};
use nm_types::Timestamp;
use serde_json::json;

both!(
    events_and_how_far_they_were_read_go_together,
    what_is_there_is_not_written_again,
    pages_and_filters,
    the_newest_of_each_node_are_kept,
    odd_texts_are_kept_readable,
    many_readers_of_one_journal
);

async fn nodes(f: &Fixture) -> Store {
    let store = f.open().await;
    let mut tx = store.begin(NOW).await.unwrap();
    for node in ["n1", "n2"] {
        tx.insert(NewResource::new(Kind::Node, node)).await.unwrap();
    }
    tx.commit().await.unwrap();
    store
}

fn event(seq: i64) -> NewNodeEvent {
    NewNodeEvent {
        seq,
        at: Timestamp(seq * 10),
        kind: "died",
        container: Some(format!("cont_{}", seq % 3)),
        docker_id: Some(format!("d{}", seq % 2)),
        name: Some("web".into()),
        detail: json!({ "exitCode": seq }),
    }
}

async fn write(store: &Store, node: &str, journal: i64, seqs: impl IntoIterator<Item = i64>) -> Result<(), StoreError> {
    let events: Vec<NewNodeEvent> = seqs.into_iter().map(event).collect();
    let seq = events.last().map_or(0, |e| e.seq);
    let mut tx = store.begin(NOW).await?;
    tx.node_events(node, JournalCursor { journal, seq }, events).await?;
    tx.commit().await?;
    Ok(())
}

fn all(node: &str) -> NodeEventsQuery<'_> {
    NodeEventsQuery {
        node,
        container: None,
        docker_id: None,
        before: None,
        limit: 100_000,
    }
}

async fn seqs(store: &Store, query: NodeEventsQuery<'_>) -> Vec<i64> {
    store.node_events(query).await.unwrap().iter().map(|e| e.seq).collect()
}

async fn events_and_how_far_they_were_read_go_together(f: Fixture) {
    let store = nodes(&f).await;
    assert_eq!(store.journal_cursor("n1").await.unwrap(), None);
    let revision = store.revision().await.unwrap();
    write(&store, "n1", 7, 1..=3).await.unwrap();
    assert_eq!(
        store.journal_cursor("n1").await.unwrap(),
        Some(JournalCursor { journal: 7, seq: 3 })
    );
    assert_eq!(store.journal_cursor("n2").await.unwrap(), None);
    let told = store.changes_since(revision, 100).await.unwrap();
    assert_eq!(told.len(), 1, "one for all that came at once: {told:?}");
    assert_eq!((told[0].subject, &*told[0].id), (Subject::NodeEvents, "n1"));

    // One that is not committed leaves neither.
    let mut tx = store.begin(NOW).await.unwrap();
    tx.node_events("n1", JournalCursor { journal: 7, seq: 4 }, vec![event(4)])
        .await
        .unwrap();
    assert_eq!(tx.journal_cursor("n1").await.unwrap().unwrap().seq, 4);
    drop(tx);
    assert_eq!(store.journal_cursor("n1").await.unwrap().unwrap().seq, 3);
    let rows = store.node_events(all("n1")).await.unwrap();
    assert_eq!(
        rows[0],
        NodeEventRow {
            id: 3,
            node: "n1".into(),
            journal: 7,
            seq: 3,
            at: Timestamp(30),
            kind: "died".into(),
            container: Some("cont_0".into()),
            docker_id: Some("d1".into()),
            name: Some("web".into()),
            detail: json!({ "exitCode": 3 }),
        }
    );
    assert!(matches!(write(&store, "gone", 7, 1..=1).await, Err(StoreError::NotFound { .. })));

    let mut tx = store.begin(NOW).await.unwrap();
    tx.forget_node_events("n1").await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(
        (seqs(&store, all("n1")).await, store.journal_cursor("n1").await.unwrap()),
        (vec![], None)
    );
}

async fn what_is_there_is_not_written_again(f: Fixture) {
    let store = nodes(&f).await;
    write(&store, "n1", 7, 1..=120).await.unwrap();
    write(&store, "n1", 7, 100..=130).await.unwrap();
    assert_eq!(seqs(&store, all("n1")).await, (1..=130).rev().collect::<Vec<_>>());
    // Another journal's numbers, and another node's, are others.
    write(&store, "n1", 8, 1..=1).await.unwrap();
    write(&store, "n2", 7, 1..=1).await.unwrap();
    assert_eq!((seqs(&store, all("n1")).await.len(), seqs(&store, all("n2")).await), (131, vec![1]));
}

async fn pages_and_filters(f: Fixture) {
    let store = nodes(&f).await;
    write(&store, "n1", 7, 1..=10).await.unwrap();
    write(&store, "n2", 7, 1..=10).await.unwrap();
    let (mut before, mut seen) = (None, Vec::new());
    loop {
        let page = store
            .node_events(NodeEventsQuery {
                before,
                limit: 3,
                ..all("n1")
            })
            .await
            .unwrap();
        let Some(last) = page.last() else { break };
        before = Some(last.id);
        seen.extend(page.iter().map(|e| e.seq));
    }
    assert_eq!(seen, (1..=10).rev().collect::<Vec<_>>());
    let of = |container, docker_id| NodeEventsQuery {
        container,
        docker_id,
        ..all("n1")
    };
    assert_eq!(seqs(&store, of(Some("cont_0"), None)).await, [9, 6, 3]);
    assert_eq!(seqs(&store, of(None, Some("d1"))).await, [9, 7, 5, 3, 1]);
    assert_eq!(seqs(&store, of(Some("cont_9"), None)).await, [0; 0]);
}

async fn the_newest_of_each_node_are_kept(f: Fixture) {
    let store = nodes(&f).await;
    write(&store, "n2", 7, 1..=5).await.unwrap();
    for from in (1..=12_000).step_by(1000) {
        write(&store, "n1", 7, from..from + 1000).await.unwrap();
    }
    let kept = seqs(&store, all("n1")).await;
    assert_eq!((kept[0], kept.len()), (12_000, 10_000));
    assert_eq!(seqs(&store, all("n2")).await.len(), 5);
}

async fn odd_texts_are_kept_readable(f: Fixture) {
    let store = nodes(&f).await;
    let odd = NewNodeEvent {
        name: Some("a\0b'; --".into()),
        docker_id: None,
        container: None,
        detail: json!({ "message": "\0" }),
        ..event(1)
    };
    let mut tx = store.begin(NOW).await.unwrap();
    tx.node_events("n1", JournalCursor { journal: 7, seq: 1 }, vec![odd]).await.unwrap();
    tx.commit().await.unwrap();
    let row = store.node_events(all("n1")).await.unwrap().remove(0);
    assert_eq!(
        (row.name.as_deref(), row.docker_id, row.container),
        (Some("a\u{fffd}b'; --"), None, None)
    );
    assert_eq!(row.detail, json!({ "message": "\0" }));
}

/// Replicas that each hold a link to the node: each reads on from what is written.
async fn many_readers_of_one_journal(f: Fixture) {
    let store = nodes(&f).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let store = store.clone();
        tasks.spawn(async move {
            for _ in 0..20 {
                let mut tx = store.begin(NOW).await.unwrap();
                let seq = tx.journal_cursor("n1").await.unwrap().map_or(0, |c| c.seq);
                let events = vec![event(seq + 1), event(seq + 2)];
                tx.node_events("n1", JournalCursor { journal: 7, seq: seq + 2 }, events)
                    .await
                    .unwrap();
                tx.commit().await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(seqs(&store, all("n1")).await, (1..=320).rev().collect::<Vec<_>>());
}
