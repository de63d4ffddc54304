use crate::fixture::{Fixture, NOW};
use nm_store::{ClusterPoint, EdgeCursor, EdgeRow, NewClusterEvent, Store, Subject};
use nm_types::Timestamp;

both!(
    events_are_numbered_and_pruned,
    points_thin_out,
    what_nodes_were_given,
    a_cluster_is_forgotten_whole
);

const HOUR: i64 = 3_600_000;

fn event(cluster: &str, at: i64) -> NewClusterEvent {
    NewClusterEvent {
        cluster: cluster.into(),
        at: Timestamp(at),
        kind: "memberDown".into(),
        member: Some("cont_1".into()),
        node: None,
        reason: "it fails".into(),
        detail: Some("{}".into()),
    }
}

async fn happens(store: &Store, events: &[NewClusterEvent]) -> Vec<i64> {
    let mut tx = store.begin(NOW).await.unwrap();
    let mut out = Vec::new();
    for event in events {
        out.push(tx.cluster_event(event).await.unwrap());
    }
    tx.commit().await.unwrap();
    out
}

async fn sequences(store: &Store, cluster: &str) -> Vec<i64> {
    let rows = store.cluster_events(cluster, i64::MAX, 100).await.unwrap();
    rows.iter().map(|r| r.sequence).collect()
}

async fn prune(store: &Store, events: i64, fine: i64, since: i64) -> u64 {
    let mut tx = store.begin(NOW).await.unwrap();
    let gone = tx.clusters_prune(events, Timestamp(fine), Timestamp(since)).await.unwrap();
    tx.commit().await.unwrap();
    gone
}

async fn events_are_numbered_and_pruned(f: Fixture) {
    let store = f.open().await;
    let revision = store.revision().await.unwrap();
    let all = [event("a", 10), event("b", 10), event("a", 20), event("a", 30), event("a", 40)];
    assert_eq!(happens(&store, &all).await, [1, 1, 2, 3, 4]);
    let told = store.changes_since(revision, 100).await.unwrap();
    assert!(told.iter().all(|c| c.subject == Subject::ClusterEvents), "{told:?}");
    assert_eq!(told.iter().map(|c| &*c.id).collect::<Vec<_>>(), ["a", "b", "a", "a", "a"]);
    let page = store.cluster_events("a", 4, 2).await.unwrap();
    assert_eq!(page.iter().map(|r| r.sequence).collect::<Vec<_>>(), [3, 2]);
    assert_eq!(page[0].event, all[3]);
    assert_eq!(prune(&store, 3, 0, 0).await, 1);
    assert_eq!(sequences(&store, "a").await, [4, 3, 2]);
    prune(&store, 100, 0, 35).await;
    assert_eq!(sequences(&store, "a").await, [4]);
    prune(&store, 100, 0, 1000).await;
    assert_eq!(sequences(&store, "a").await, [4], "the last one stays, so that numbers go on");
    assert_eq!(happens(&store, &[event("a", 50)]).await, [5]);
}

async fn points_thin_out(f: Fixture) {
    let store = f.open().await;
    let minutes: Vec<i64> = (0..=4).map(|n| 2 * HOUR + n * HOUR / 2).collect();
    let mut tx = store.begin(NOW).await.unwrap();
    for at in &minutes {
        for totals in ["old", "new"] {
            let point = ClusterPoint {
                at: Timestamp(*at),
                totals: totals.into(),
            };
            tx.cluster_point_put("a", &point).await.unwrap();
        }
    }
    tx.commit().await.unwrap();
    let read = async |from: i64, to: i64| {
        let points = store.cluster_points("a", Timestamp(from), Timestamp(to)).await.unwrap();
        assert!(points.iter().all(|p| p.totals == "new"));
        points.iter().map(|p| p.at.0).collect::<Vec<_>>()
    };
    assert_eq!(read(0, 100 * HOUR).await, minutes);
    assert_eq!(read(3 * HOUR + 1, 100 * HOUR).await, minutes[2..], "with what it begins from");
    assert_eq!(read(3 * HOUR, 3 * HOUR).await, minutes[1..3]);
    prune(&store, 100, 4 * HOUR, 2 * HOUR + 1).await;
    assert_eq!(read(0, 100 * HOUR).await, [3 * HOUR, 4 * HOUR]);
}

async fn what_nodes_were_given(f: Fixture) {
    let store = f.open().await;
    let row = |generation: i64| EdgeRow {
        node: "node_1".into(),
        generation,
        digest: "d".into(),
        address: "10.0.0.1".into(),
    };
    let cursor = EdgeCursor {
        instance: "i1".into(),
        sequence: 7,
    };
    let mut tx = store.begin(NOW).await.unwrap();
    tx.edge_put(&row(1)).await.unwrap();
    tx.edge_read("node_1", &cursor).await.unwrap();
    tx.edge_read("node_2", &cursor).await.unwrap();
    tx.edge_put(&row(2)).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(store.edges().await.unwrap(), [(row(2), cursor)]);
    let mut tx = store.begin(NOW).await.unwrap();
    tx.edge_forget("node_1").await.unwrap();
    tx.commit().await.unwrap();
    assert!(store.edges().await.unwrap().is_empty());
}

async fn a_cluster_is_forgotten_whole(f: Fixture) {
    let store = f.open().await;
    happens(&store, &[event("a", 1), event("b", 1)]).await;
    let point = ClusterPoint {
        at: Timestamp(1),
        totals: "{}".into(),
    };
    let mut tx = store.begin(NOW).await.unwrap();
    for cluster in ["a", "b"] {
        tx.cluster_totals_put(cluster, "0").await.unwrap();
        tx.cluster_totals_put(cluster, "1").await.unwrap();
        tx.cluster_point_put(cluster, &point).await.unwrap();
    }
    tx.cluster_forget("a").await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(store.cluster_totals().await.unwrap(), [("b".to_owned(), "1".to_owned())]);
    assert_eq!((sequences(&store, "a").await, sequences(&store, "b").await), (vec![], vec![1]));
    assert!(store.cluster_points("a", Timestamp(0), Timestamp(9)).await.unwrap().is_empty());
}
