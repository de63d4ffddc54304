//! Alerts over time: told again, going up and down, and under rules that change.

use super::receivers::Receiver;
use super::{alerts, all_told, busy, channel, fleet, host, rule, until};
use nm_testing::{Database, FakeAgent, TestControlPlane, eventually};
use nm_types::alert::{AlertRuleView, AlertState, AlertView};
use serde_json::json;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reminders_until_somebody_looks_after_it() {
    let (plane, agent, api) = fleet(Database::sqlite()).await;
    let operator = plane.operator().await;
    let receiver = Receiver::start().await;
    channel(&api, json!({ "name": "hook", "type": "webhook", "url": receiver.url })).await;
    let mut spec = busy(&["hook"]);
    spec["repeat"] = 60.into();
    let busy = rule(&api, spec).await;
    agent.report(host(95.0));
    receiver.until(1).await;
    let again = |n: usize| {
        plane.clock().advance(Duration::from_secs(61));
        agent.report(host(95.0 + n as f64));
    };
    for n in 1..3 {
        again(n);
        let hits = receiver.until(n + 1).await;
        assert_eq!(hits[n].event(), "reminder");
        assert_eq!(hits[n].json()["alert"]["value"], 95.0 + n as f64);
    }
    let firing = until(&api, &busy, AlertState::Firing).await;
    let path = format!("/api/alerts/{}/acknowledge", firing.id);
    plane.viewer().await.post(&path).await.refused(403, "forbidden");
    operator
        .post(&path)
        .header("if-match", "\"1\"")
        .await
        .refused(412, "changed_meanwhile");
    let acknowledged: AlertView = operator.post(&path).await.data(200);
    assert_eq!(acknowledged.acknowledged_by.as_deref(), Some("olga"));
    let again_acknowledged: AlertView = api.post(&path).await.data(200);
    assert_eq!(
        again_acknowledged.acknowledged_by.as_deref(),
        Some("olga"),
        "who was first looks after it"
    );
    again(3);
    agent.report(host(10.0));
    until(&api, &busy, AlertState::Resolved).await;
    all_told(&plane).await;
    assert_eq!(receiver.hits().last().unwrap().event(), "resolved");
    assert_eq!(receiver.hits().len(), 4);
    operator.post(&path).await.refused(409, "alert_resolved");
    operator
        .post("/api/alerts/alert_1_aaaaaaaaa/acknowledge")
        .await
        .refused(404, "alert_not_found");
    let entries: Vec<nm_types::auth::AuditEntryView> = api.get("/api/audit?action=alert.acknowledge").await.data(200);
    assert_eq!(entries.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_swings_is_one_alert() {
    let (plane, agent, api) = fleet(Database::sqlite()).await;
    let busy = rule(&api, busy(&[])).await;
    let swing = async |cpu: f64, state: AlertState| {
        agent.report(host(cpu));
        until(&api, &busy, state).await
    };
    swing(95.0, AlertState::Firing).await;
    swing(10.0, AlertState::Resolved).await;
    let second = swing(95.0, AlertState::Firing).await;
    assert!(!second.flapping);
    for _ in 0..3 {
        agent.report(host(10.0));
        agent.report(host(95.0));
    }
    assert_eq!(alerts(&api, &busy).await.len(), 2);
    agent.report(host(10.0));
    eventually("it is over after a minute of peace", async || {
        plane.clock().advance(Duration::from_secs(15));
        agent.report(host(10.0));
        (alerts(&api, &busy).await[0].state == AlertState::Resolved).then_some(())
    })
    .await;
    assert!(swing(95.0, AlertState::Firing).await.flapping, "the third within an hour");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_that_change_while_their_alerts_fire() {
    let (plane, agent, api) = fleet(Database::sqlite()).await;
    let (one, two) = (Receiver::start().await, Receiver::start().await);
    channel(&api, json!({ "name": "one", "type": "webhook", "url": one.url })).await;
    channel(&api, json!({ "name": "two", "type": "webhook", "url": two.url })).await;
    let busy = rule(&api, busy(&["one"])).await;
    agent.report(host(95.0));
    one.until(1).await;
    // Somebody new hears of what fires already; nobody hears it twice.
    api.patch("/api/alerts/rules/Busy")
        .json(&json!({ "channels": ["one", "two"] }))
        .await
        .is(200);
    assert_eq!(two.until(1).await[0].event(), "firing");
    // Whoever was told hears of the end, also when the rule is gone.
    api.delete("/api/alerts/rules/Busy").await.is(200);
    let over = until(&api, &busy, AlertState::Resolved).await;
    assert_eq!(over.message, "no rule looks at this any more");
    assert_eq!(one.until(2).await[1].event(), "resolved");
    assert_eq!(two.until(2).await[1].event(), "resolved");
    all_told(&plane).await;
    assert_eq!((one.hits().len(), two.hits().len()), (2, 2));
}

/// The very first start, and those after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_every_fleet_begins_with() {
    let mut plane = TestControlPlane::sqlite().await;
    let api = plane.admin().await.clone();
    let names = async || {
        let all: Vec<AlertRuleView> = api.get("/api/alerts/rules").await.data(200);
        assert!(all.iter().all(|r| r.channels.is_empty() && r.enabled));
        let mut names: Vec<String> = all.into_iter().map(|r| r.name.to_string()).collect();
        names.sort();
        names
    };
    assert_eq!(
        names().await,
        [
            "Backup in trouble",
            "Container down",
            "Disk nearly full",
            "Node lost",
            "Node unhealthy"
        ]
    );
    api.delete("/api/alerts/rules/Node%20lost").await.is(200);
    plane.restart().await;
    assert_eq!(
        names().await,
        ["Backup in trouble", "Container down", "Disk nearly full", "Node unhealthy"]
    );
    // They work as they are: a full disk shows, and tells nobody.
    let agent = FakeAgent::join(&plane, "alder").await;
    let mut full = host(1.0);
    if let nm_link::contract::WatchEvent::Host { stats } = &mut full {
        (stats.disks[1].used, stats.disks[1].available) = (95, 5);
    }
    agent.report(full);
    let pending: Vec<AlertView> = eventually("the disk's alert is pending", async || {
        let all: Vec<AlertView> = api.get("/api/alerts?state=pending").await.data(200);
        (!all.is_empty()).then_some(all)
    })
    .await;
    assert_eq!(pending[0].rule_name.as_str(), "Disk nearly full");
}
