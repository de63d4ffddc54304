//! What nodes tell: states, status, events with their reasons, and figures that outlive every process that counts.

use super::{CLUSTERS, Fleet, cluster, create, event, events, fleet, load_balanced, until, web, with};
use nm_testing::{Client, FakeAgent, TestControlPlane, eventually};
use nm_types::cluster::{ClusterEventKind, ClusterMemberState, ClusterMetricsView, ClusterStatus, ClusterView};
use nm_types::proxy::MemberState;
use serde_json::json;
use std::time::Duration;

async fn four(plane: &TestControlPlane, api: &Client, agent: &FakeAgent) -> ClusterView {
    for n in 1..=4 {
        web(plane, api, agent, &format!("web-{n}"), &format!("172.17.0.{n}")).await;
    }
    create(api, &load_balanced("web", &["web-1", "web-2", "web-3", "web-4"])).await
}

#[tokio::test]
async fn a_status_is_counted_of_members_that_are_up() {
    let Fleet {
        api,
        one,
        mut plane,
        two: _two,
    } = fleet().await;
    let made = four(&plane, &api, &one).await;
    let id = made.id.as_str();
    assert_eq!(made.status, ClusterStatus::Healthy);
    for (n, status) in [
        (0, ClusterStatus::Degraded),
        (1, ClusterStatus::Critical),
        (2, ClusterStatus::Offline),
    ] {
        one.member_is(id, &made.members[n].id, MemberState::Down, "connection refused");
        until(&api, id, "the status follows", |c| (c.status == status).then_some(())).await;
    }
    let view = cluster(&api, id).await;
    assert_eq!(
        (view.members[0].state, view.members[0].reason.as_str()),
        (ClusterMemberState::Down, "connection refused")
    );
    let count = async || {
        events(&api, id)
            .await
            .iter()
            .filter(|e| e.kind == ClusterEventKind::MemberDown)
            .count()
    };
    // How it is may be seen before it is told what happened.
    eventually("each is told of", async || (count().await == 3).then_some(())).await;
    let down = event(&api, id, ClusterEventKind::MemberDown).await;
    assert_eq!(
        (down.member.as_deref(), down.reason.as_str(), down.node_id.as_ref()),
        (Some(made.members[2].id.as_str()), "connection refused", Some(&one.node))
    );
    // A view counts at once; the event is written a moment later.
    eventually("the last change of status is told", async || {
        let told = event(&api, id, ClusterEventKind::StatusChanged).await.reason;
        (told.contains("1 of 4") && told.contains("offline")).then_some(())
    })
    .await;
    // Told once, whoever restarts.
    assert_eq!(count().await, 3);
    plane.kill().await;
    one.ready(&plane).await;
    until(&api, id, "it is heard of again", |c| {
        (c.members[0].state == ClusterMemberState::Down && c.entry_nodes[0].current).then_some(())
    })
    .await;
    assert_eq!(cluster(&api, id).await.status, ClusterStatus::Offline);
    for n in 0..3 {
        one.member_is(id, &made.members[n].id, MemberState::Up, "its check succeeds");
    }
    until(&api, id, "it is well again", |c| (c.status == ClusterStatus::Healthy).then_some(())).await;
    eventually("and that is told", async || {
        let told = event(&api, id, ClusterEventKind::StatusChanged).await.reason;
        told.ends_with("to healthy").then_some(())
    })
    .await;
    assert_eq!(count().await, 3);
    // Pages join to the whole.
    let whole: Vec<i64> = events(&api, id).await.into_iter().map(|e| e.sequence).collect();
    let (mut paged, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = api.get(format!("{CLUSTERS}/{id}/events?limit=3{cursor}")).await.is(200).json();
        paged.extend(page["data"].as_array().unwrap().iter().map(|e| e["sequence"].as_i64().unwrap()));
        let Some(next) = page["nextCursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(paged, whole);
}

#[tokio::test]
async fn another_server_takes_over_by_itself_and_by_hand() {
    let Fleet { api, one, two, plane } = fleet().await;
    web(&plane, &api, &one, "left", "172.17.0.1").await;
    web(&plane, &api, &one, "right", "172.17.0.2").await;
    let made = create(
        &api,
        &json!({ "name": "ha", "type": "high-availability", "servers": ["left", "right"], "entryNodes": ["alder", "birch"] }),
    )
    .await;
    let (id, a, b) = (made.id.as_str(), made.members[0].id.as_str(), made.members[1].id.as_str());
    assert_eq!(made.active_member.as_deref(), Some(a));
    one.member_is(id, a, MemberState::Down, "no answer within 800 ms");
    until(&api, id, "the other one is active", |c| {
        (c.active_member.as_deref() == Some(b)).then_some(())
    })
    .await;
    let failover = event(&api, id, ClusterEventKind::Failover).await;
    assert_eq!(
        (failover.member.as_deref(), failover.reason.as_str()),
        (Some(b), "no answer within 800 ms")
    );
    assert_eq!(cluster(&api, id).await.status, ClusterStatus::Critical, "one of two serves");
    // By hand: the first one is not up, then it is.
    let path = format!("{CLUSTERS}/{id}/failover");
    let viewer = plane.viewer().await;
    viewer.post(&path).await.refused(403, "forbidden");
    api.post(&path)
        .json(&json!({ "server": "moon" }))
        .await
        .refused(404, "server_not_found");
    let both: ClusterView = {
        one.member_is(id, a, MemberState::Up, "its check succeeds");
        until(&api, id, "it is up", |c| {
            (c.members[0].state == ClusterMemberState::Up).then_some(())
        })
        .await;
        api.post(&path).json(&json!({ "server": "left" })).await.data(200)
    };
    assert_eq!(both.active_member.as_deref(), Some(a));
    let next: ClusterView = api.post(&path).await.data(200);
    assert_eq!(next.active_member.as_deref(), Some(b), "the next one, where none is named");
    assert_eq!(two.calls(nm_testing::Ask::EdgeFailover), 2, "every entry node is asked");
    web(&plane, &api, &one, "third", "172.17.0.3").await;
    create(&api, &load_balanced("lb", &["third"])).await;
    api.post(format!("{CLUSTERS}/lb/failover"))
        .await
        .refused(409, "not_high_availability");
}

async fn metrics(api: &Client, key: &str) -> ClusterMetricsView {
    api.get(format!("{CLUSTERS}/{key}/metrics")).await.data(200)
}

/// Waits until so many requests are counted.
async fn counted(api: &Client, key: &str, requests: u64) -> ClusterMetricsView {
    eventually(&format!("{requests} requests are counted"), async || {
        let seen = metrics(api, key).await;
        assert!(seen.figures.total_requests <= requests, "too many: {}", seen.figures.total_requests);
        (seen.figures.total_requests == requests).then_some(seen)
    })
    .await
}

#[tokio::test]
async fn figures_outlive_the_load_balancer_the_agent_and_the_control_plane() {
    let Fleet {
        api,
        one,
        mut plane,
        two: _two,
    } = fleet().await;
    let made = four(&plane, &api, &one).await;
    let (id, first, second) = (made.id.as_str(), made.members[0].id.as_str(), made.members[1].id.as_str());
    one.serves(id, first, 90, 0, 2_000);
    one.serves(id, second, 10, 10, 50_000);
    let seen = counted(&api, id, 100).await;
    assert_eq!((seen.figures.error_rate, seen.figures.total_bandwidth), (10.0, 11_000));
    assert_eq!(seen.figures.average_response_time, 6.8);
    assert!(
        (seen.figures.p50 / 2.0 - 1.0).abs() <= 0.125 && (seen.figures.p99 / 50.0 - 1.0).abs() <= 0.125,
        "{seen:?}"
    );
    assert_eq!(
        seen.members.iter().map(|m| m.figures.total_requests).collect::<Vec<_>>(),
        [90, 10, 0, 0]
    );
    assert_eq!(cluster(&api, id).await.metrics, seen.figures);
    // Another process counts from zero.
    one.replace_proxy();
    one.serves(id, first, 5, 0, 1_000);
    counted(&api, id, 105).await;
    // The control plane ends in good order, and as kill -9 does; the same counters are not counted again.
    plane.restart().await;
    one.ready(&plane).await;
    one.serves(id, first, 5, 0, 1_000);
    counted(&api, id, 110).await;
    plane.kill().await;
    one.ready(&plane).await;
    one.serves(id, first, 5, 0, 1_000);
    counted(&api, id, 115).await;
    one.cut();
    one.ready(&plane).await;
    one.serves(id, second, 5, 0, 1_000);
    let seen = counted(&api, id, 120).await;
    assert_eq!(seen.members[0].figures.total_requests, 105);
    // A server that leaves takes its own figures with it, and none of the cluster's.
    let left: ClusterView = api.delete(format!("{CLUSTERS}/{id}/servers/web-2")).await.data(200);
    assert_eq!(left.metrics.total_requests, 120);
}

#[tokio::test]
async fn the_history_has_a_point_a_minute() {
    let Fleet {
        api,
        one,
        plane,
        two: _two,
    } = fleet().await;
    let made = four(&plane, &api, &one).await;
    let (id, first) = (made.id.as_str(), made.members[0].id.as_str());
    for round in 1..=3 {
        one.serves(id, first, 60, 6, 2_000);
        counted(&api, id, round * 60).await;
        plane.app().clusters.persist_figures().await.unwrap();
        plane.clock().advance(Duration::from_secs(60));
    }
    plane.app().clusters.persist_figures().await.unwrap();
    let seen = metrics(&api, id).await;
    let in_history: u64 = seen.history.iter().map(|p| p.figures.total_requests).sum();
    assert!(seen.history.len() >= 2 && in_history >= 120, "{:#?}", seen.history);
    assert!(seen.history.windows(2).all(|w| w[0].to == w[1].from));
    let busy = seen.history.iter().find(|p| p.figures.total_requests > 0).unwrap();
    assert_eq!(busy.figures.error_rate, 10.0);
    assert_eq!(
        busy.members.iter().find(|m| m.id == first).unwrap().figures.total_requests,
        busy.figures.total_requests
    );
    let few: ClusterMetricsView = api.get(format!("{CLUSTERS}/{id}/metrics?limit=1")).await.data(200);
    assert_eq!(few.history.len(), 1);
    let none: ClusterMetricsView = api
        .get(format!("{CLUSTERS}/{id}/metrics?from=2020-01-01T00:00:00Z&to=2020-01-02T00:00:00Z"))
        .await
        .data(200);
    assert!(none.history.is_empty() && none.figures.total_requests == 180);
    api.get(format!("{CLUSTERS}/{id}/metrics?limit=0")).await.names("limit");
    plane.app().clusters.sweep().await.unwrap();
}

#[tokio::test]
async fn a_node_speaks_only_for_what_it_carries() {
    let Fleet { api, one, two, plane } = fleet().await;
    web(&plane, &api, &one, "left", "172.17.0.1").await;
    web(&plane, &api, &two, "right", "172.17.0.1").await;
    let mine = create(&api, &with(load_balanced("mine", &["left"]), json!({ "entryNodes": ["alder"] }))).await;
    create(&api, &with(load_balanced("yours", &["right"]), json!({ "entryNodes": ["birch"] }))).await;
    two.member_is(mine.id.as_str(), &mine.members[0].id, MemberState::Down, "a lie");
    two.member_is("cluster_1_aaaaaaaaa", "x", MemberState::Down, "of nothing at all");
    let b = cluster(&api, "yours").await;
    two.member_is(b.id.as_str(), &b.members[0].id, MemberState::Down, "the truth");
    event(&api, "yours", ClusterEventKind::MemberDown).await;
    assert!(events(&api, "mine").await.iter().all(|e| e.kind != ClusterEventKind::MemberDown));
    assert_eq!(cluster(&api, "mine").await.status, ClusterStatus::Healthy);
}
