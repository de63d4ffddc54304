//! What servers were over time: kept across restarts, with the time in which nobody checked left out.

use crate::health::{becomes, check, health};
use nm_store::Kind;
use nm_testing::{Client, Database, FakeAgent, TestControlPlane, both};
use nm_types::Timestamp;
use nm_types::auth::Role;
use nm_types::health::{Check, HealthInterval, HealthStatus};
use serde_json::json;
use std::time::Duration;
use tokio::net::TcpListener;

both!(
    availability_is_counted,
    time_in_which_nobody_checked,
    a_short_absence,
    what_is_gone_is_forgotten
);

const HOUR: Duration = Duration::from_secs(3600);

async fn history(api: &Client, key: &str, query: &str) -> Vec<HealthInterval> {
    api.get(format!("/api/capabilities/health/{key}/history?{query}")).await.data(200)
}

fn shape(history: &[HealthInterval]) -> Vec<(HealthStatus, bool)> {
    history.iter().map(|i| (i.status, i.degraded)).collect()
}

/// Seconds of an interval that is over.
fn seconds(interval: &HealthInterval) -> i64 {
    interval.to.expect("it is over").since(interval.from) / 1000
}

/// Somebody whose token outlives the hours that these tests let pass.
async fn lasting(plane: &TestControlPlane) -> Client {
    plane.token(Role::Operator, &[]).await
}

/// A registered address that listens.
async fn listening(api: &Client) -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // Every five minutes by itself, so that this test's own checks are the ones that count.
    let new = json!({ "name": "mail", "address": "127.0.0.1", "port": port });
    api.post("/api/servers").json(&new).await.is(201);
    api.put("/api/capabilities/health/mail/config")
        .json(&json!({ "interval": 300 }))
        .await
        .is(200);
    becomes(api, "mail", HealthStatus::Healthy, &[]).await;
    (listener, port)
}

async fn availability_is_counted(database: Database) {
    let plane = TestControlPlane::start(database).await;
    let api = lasting(&plane).await;
    let (listener, port) = listening(&api).await;
    assert_eq!(check(&api, "mail").await.availability.day, Some(100.0));
    plane.clock().advance(6 * HOUR);
    drop(listener);
    assert_eq!(check(&api, "mail").await.status, HealthStatus::Unhealthy);
    plane.clock().advance(2 * HOUR);
    let _listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let view = check(&api, "mail").await;
    assert_eq!(view.status, HealthStatus::Healthy);
    assert!(view.uptime < 60, "it can be reached since a moment ago: {}", view.uptime);
    plane.clock().advance(4 * HOUR);

    // 10 of 12 hours; rounded down.
    let view = health(&api, "mail").await;
    let share = |a: Option<f64>| a.unwrap();
    for counted in [view.availability.day, view.availability.week, view.availability.month] {
        assert!((83.3..=83.34).contains(&share(counted)), "{:?}", view.availability);
    }
    plane.clock().advance(14 * HOUR);
    // The last 24 hours have lost two of the first six: 22 of 24; the week has 24 of 26.
    let view = health(&api, "mail").await;
    assert!((91.6..=91.68).contains(&share(view.availability.day)), "{:?}", view.availability);
    assert!((92.3..=92.32).contains(&share(view.availability.week)), "{:?}", view.availability);
    let listed = api.get("/api/capabilities/health").await.is(200).json();
    let day = listed["data"][0]["availability"]["24h"].as_f64().unwrap();
    assert!((91.6..=91.68).contains(&day), "{listed}");

    let all = history(&api, "mail", "").await;
    assert_eq!(
        shape(&all),
        [
            (HealthStatus::Healthy, false),
            (HealthStatus::Unhealthy, false),
            (HealthStatus::Healthy, false)
        ]
    );
    assert_eq!(all[0].to, None);
    assert_eq!((all[0].from, all[1].from), (all[1].to.unwrap(), all[2].to.unwrap()));
    assert!((7200..7260).contains(&seconds(&all[1])) && (6 * 3600..6 * 3600 + 60).contains(&seconds(&all[2])));
    assert_eq!(all[1].failed, Check::ALL);
    // Page by page, and a part.
    let reply = api.get("/api/capabilities/health/mail/history?limit=2").await;
    assert_eq!(reply.data::<Vec<HealthInterval>>(200), all[..2]);
    let next = reply.json()["nextCursor"].as_str().unwrap().to_owned();
    assert_eq!(history(&api, "mail", &format!("limit=2&cursor={next}")).await, all[2..]);
    let middle = all[1].from.plus_millis(60_000);
    assert_eq!(
        history(&api, "mail", &format!("from={middle}&to={}", middle.plus_millis(1))).await,
        all[1..2]
    );
    assert_eq!(history(&api, "mail", &format!("from={middle}")).await, all[..2]);
}

async fn time_in_which_nobody_checked(database: Database) {
    let mut plane = TestControlPlane::start(database).await;
    let api = lasting(&plane).await;
    let (_listener, _) = listening(&api).await;
    plane.clock().advance(2 * HOUR);
    plane.stop().await;
    plane.clock().advance(5 * HOUR);
    plane.reopen().await;
    let view = check(&api, "mail").await;
    assert_eq!(view.status, HealthStatus::Healthy);
    assert_eq!(view.availability.day, Some(100.0), "what nobody saw is left out");
    plane.clock().advance(HOUR);
    let all = history(&api, "mail", "").await;
    assert_eq!(
        shape(&all),
        [
            (HealthStatus::Healthy, false),
            (HealthStatus::Unknown, false),
            (HealthStatus::Healthy, false)
        ]
    );
    assert!((5 * 3600..5 * 3600 + 60).contains(&seconds(&all[1])), "{all:?}");
    assert!((2 * 3600..2 * 3600 + 60).contains(&seconds(&all[2])), "{all:?}");
    assert_eq!(all[1].failed, []);
}

/// A restart that takes less than a server's interval leaves no hole: nobody would have checked meanwhile anyway.
async fn a_short_absence(database: Database) {
    let mut plane = TestControlPlane::start(database).await;
    let agent = FakeAgent::join(&plane, "alder").await;
    let api = plane.operator().await.clone();
    agent.machine(|s| (s.disks[0].used, s.disks[0].available) = (95, 5));
    let seen = becomes(&api, "alder", HealthStatus::Unknown, &[Check::Disk]).await;
    check(&api, "alder").await;
    agent.machine(|s| (s.disks[0].used, s.disks[0].available) = (88, 12));
    plane.kill().await;
    let kept = health(&api, "alder").await;
    assert_eq!((kept.status, kept.degraded, kept.since), (seen.status, true, seen.since));
    agent.ready(&plane).await;
    // It still fails: 88 % are not under what it has to recover to.
    let seen = check(&api, "alder").await;
    assert_eq!((seen.checks.failed(), seen.since), (vec![Check::Disk], kept.since));
    assert_eq!(shape(&history(&api, "alder", "").await)[0], (HealthStatus::Unknown, true));
}

async fn what_is_gone_is_forgotten(database: Database) {
    let mut plane = TestControlPlane::start(database).await;
    let api = plane.operator().await.clone();
    let (_listener, _) = listening(&api).await;
    let id = health(&api, "mail").await.server_id;
    nm_testing::eventually("it has a history", async || {
        (history(&api, "mail", "").await.len() == 1).then_some(())
    })
    .await;
    api.delete("/api/servers/mail").await.is(200);
    let rows = async |plane: &TestControlPlane| plane.app().store.health_histories(&id, &id, Timestamp(0)).await.unwrap().len();
    nm_testing::eventually("its history goes", async || (rows(&plane).await == 0).then_some(())).await;

    // Also where the control plane died before it got to that.
    let (_listener, _) = listening(&api).await;
    let id = health(&api, "mail").await.server_id;
    let app = plane.app().clone();
    let mut tx = app.store.begin(app.clock.now()).await.unwrap();
    tx.delete(Kind::Server, &id).await.unwrap();
    tx.commit().await.unwrap();
    drop(app);
    plane.kill().await;
    api.get(format!("/api/capabilities/health/{id}"))
        .await
        .refused(404, "server_not_found");
    nm_testing::eventually("its history goes", async || {
        let left = plane.app().store.health_histories(&id, &id, Timestamp(0)).await.unwrap();
        left.is_empty().then_some(())
    })
    .await;
}
