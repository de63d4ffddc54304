//! What happens, and who hears of it.

use super::receivers::Receiver;
use super::{alerts, all_told, busy, channel, detail, fleet, host, rule, see, until};
use crate::running;
use nm_control::service::alerts::{HealthSeen, Observation, SeenHealth};
use nm_testing::{Database, both, eventually};
use nm_types::Timestamp;
use nm_types::alert::{AlertDeliveryState, AlertEvent, AlertSilenceView, AlertState, AlertTargetKind, AlertView};
use nm_types::container::ContainerStatus;
use nm_types::health::Check;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

both!(
    a_webhook_hears_of_beginning_and_end,
    what_fails_is_tried_again_and_in_order,
    killed_while_telling,
    killed_with_alerts_that_go_on,
    silences,
);

async fn a_webhook_hears_of_beginning_and_end(database: Database) {
    let (plane, agent, api) = fleet(database).await;
    let receiver = Receiver::start().await;
    let hook = channel(
        &api,
        json!({ "name": "hook", "type": "webhook", "url": format!("{}/in?a=b", receiver.url) }),
    )
    .await;
    let key = hook.secret.expect("a key was made");
    assert!(key.starts_with("whsec_") && key.len() > 40);
    let busy = rule(&api, busy(&["hook"])).await;

    agent.report(host(50.0));
    agent.report(host(95.5));
    let firing = until(&api, &busy, AlertState::Firing).await;
    assert_eq!((firing.server_name.as_str(), firing.value), ("alder", Some(95.5)));
    assert_eq!(firing.message, "CPU use of node alder is 95.5%, above its limit of 90%");
    let first = receiver.until(1).await.remove(0);
    assert_eq!(
        (first.method.as_str(), first.path.as_str(), first.event().as_str()),
        ("POST", "/in?a=b", "firing")
    );
    assert!(first.is_signed_with(&key) && !first.is_signed_with("another key"));
    let body = first.json();
    assert_eq!(body["version"], 1);
    assert_eq!(body["delivery"], first.delivery().as_str());
    assert_eq!(serde_json::from_value::<AlertView>(body["alert"].clone()).unwrap(), firing);

    // Still above the end: nothing new. Below it: over.
    agent.report(host(85.0));
    agent.report(host(70.0));
    let over = until(&api, &busy, AlertState::Resolved).await;
    assert_eq!(over.id, firing.id);
    assert_eq!(over.message, "CPU use of node alder is 70%, below 80% again");
    let second = receiver.until(2).await.remove(1);
    assert_eq!(second.event(), "resolved");
    assert!(second.is_signed_with(&key) && second.delivery() != first.delivery());
    all_told(&plane).await;
    let told = detail(&api, &over).await.deliveries;
    let rows: Vec<_> = told.iter().map(|d| (d.event, d.state, d.attempts, d.id.to_string())).collect();
    assert_eq!(
        rows,
        [
            (AlertEvent::Firing, AlertDeliveryState::Delivered, 1, first.delivery()),
            (AlertEvent::Resolved, AlertDeliveryState::Delivered, 1, second.delivery())
        ]
    );
    assert_eq!(receiver.hits().len(), 2);
}

async fn what_fails_is_tried_again_and_in_order(database: Database) {
    let (plane, agent, api) = fleet(database).await;
    let receiver = Receiver::start().await;
    receiver.answers(&[500]);
    receiver.answers_with(429, &[("retry-after", "1".into())], "");
    let key = "a-key-that-was-given";
    channel(
        &api,
        json!({ "name": "hook", "type": "webhook", "url": receiver.url, "secret": key }),
    )
    .await;
    let busy = rule(&api, busy(&["hook"])).await;
    agent.report(host(95.0));
    receiver.until(1).await;
    // It is over before anybody heard that it began.
    agent.report(host(10.0));
    let over = until(&api, &busy, AlertState::Resolved).await;
    // The receiver has the word a moment before it is written down how that went.
    eventually("the first attempt has failed", async || {
        let waiting = detail(&api, &over).await.deliveries;
        (waiting[0].attempts >= 1 && waiting[0].last_error.is_some()).then_some(())
    })
    .await;
    let hits = receiver.until(4).await;
    let told: Vec<(String, String)> = hits.iter().map(|h| (h.event(), h.delivery())).collect();
    let events: Vec<&str> = told.iter().map(|(event, _)| event.as_str()).collect();
    assert_eq!(events, ["firing", "firing", "firing", "resolved"]);
    // The same word each time, which is how a receiver knows that it has it already.
    assert_eq!(told.iter().map(|(_, id)| id).collect::<HashSet<_>>().len(), 2);
    assert!(hits.iter().all(|h| h.is_signed_with(key)));
    all_told(&plane).await;
    let told = detail(&api, &over).await.deliveries;
    assert_eq!(
        told.iter().map(|d| (d.attempts, d.state)).collect::<Vec<_>>(),
        [(3, AlertDeliveryState::Delivered), (1, AlertDeliveryState::Delivered)]
    );
}

/// Killed while a receiver has a word and has not answered: it gets the same one again, and nothing is lost.
async fn killed_while_telling(database: Database) {
    let (mut plane, agent, api) = fleet(database).await;
    let receiver = Receiver::start().await;
    channel(&api, json!({ "name": "hook", "type": "webhook", "url": receiver.url })).await;
    let busy = rule(&api, busy(&["hook"])).await;
    let mut firing = None;
    for (n, (cpu, state)) in [(95.0, AlertState::Firing), (10.0, AlertState::Resolved)].into_iter().enumerate() {
        receiver.hold();
        let alert = see(&agent, &api, &busy, cpu, state).await;
        receiver.until(2 * n + 1).await;
        plane.kill().await;
        agent.ready(&plane).await;
        receiver.release();
        let hits = receiver.until(2 * n + 2).await;
        assert_eq!(hits[2 * n].delivery(), hits[2 * n + 1].delivery());
        assert_eq!(hits[2 * n + 1].event(), state.as_str());
        all_told(&plane).await;
        firing.get_or_insert(alert.id.clone());
        assert_eq!(firing, Some(alert.id));
    }
    assert_eq!(receiver.hits().len(), 4);
    assert_eq!(alerts(&api, &busy).await.len(), 1);
}

/// Killed between: what fires goes on as the same alert, nobody is told of it again, and its end is told.
async fn killed_with_alerts_that_go_on(database: Database) {
    let (mut plane, agent, api) = fleet(database).await;
    let receiver = Receiver::start().await;
    channel(&api, json!({ "name": "hook", "type": "webhook", "url": receiver.url })).await;
    let busy_rule = rule(&api, busy(&["hook"])).await;
    let mut slow = busy(&["hook"]);
    slow["name"] = "Busy for long".into();
    slow["for"] = 3600.into();
    let slow_rule = rule(&api, slow).await;
    agent.report(host(95.0));
    let firing = until(&api, &busy_rule, AlertState::Firing).await;
    let pending = until(&api, &slow_rule, AlertState::Pending).await;
    receiver.until(1).await;
    all_told(&plane).await;

    plane.kill().await;
    agent.ready(&plane).await;
    // What is not known yet changes nothing.
    assert_eq!(alerts(&api, &busy_rule).await, std::slice::from_ref(&firing));
    assert_eq!(alerts(&api, &slow_rule).await, std::slice::from_ref(&pending));
    // Its time passed while nobody looked: it was bad before and is bad now.
    plane.clock().advance(Duration::from_secs(3600));
    let fires = see(&agent, &api, &slow_rule, 97.0, AlertState::Firing).await;
    assert_eq!((fires.id, fires.since), (pending.id, pending.since));
    let hits = receiver.until(2).await;
    assert_eq!(hits[1].json()["alert"]["ruleName"], "Busy for long");
    agent.report(host(10.0));
    receiver.until(4).await;
    all_told(&plane).await;
    let events: Vec<String> = receiver.hits().iter().map(super::receivers::Hit::event).collect();
    assert_eq!(events, ["firing", "firing", "resolved", "resolved"]);
    assert_eq!(until(&api, &busy_rule, AlertState::Resolved).await.id, firing.id);
}

async fn silences(database: Database) {
    let (plane, agent, api) = fleet(database).await;
    let operator = plane.operator().await;
    let receiver = Receiver::start().await;
    channel(&api, json!({ "name": "hook", "type": "webhook", "url": receiver.url })).await;
    let busy = rule(&api, busy(&["hook"])).await;
    let until_then = Timestamp(plane.app().clock.now().0 + 3_600_000);
    let silence = json!({ "matcher": { "ruleId": "Busy", "serverId": "alder" }, "until": until_then, "comment": "new disks" });
    let silence: AlertSilenceView = operator.post("/api/alerts/silences").json(&silence).await.data(201);
    assert!(silence.active && silence.created_by == "olga");
    assert_eq!(silence.matcher.rule_id.as_ref().unwrap().as_str(), busy.id.as_str());
    assert_eq!(silence.matcher.server_id.as_ref().unwrap().as_str(), agent.node.as_str());
    // The rule is looked at only once the silence is known.
    eventually("the silence is in force", async || {
        agent.report(host(95.0));
        alerts(&api, &busy).await.first().and_then(|a| a.silenced_by.clone())
    })
    .await;
    let firing = until(&api, &busy, AlertState::Firing).await;
    assert_eq!(firing.silenced_by, Some(silence.id.clone()));
    assert_eq!(receiver.hits().len(), 0);
    assert_eq!(detail(&api, &firing).await.deliveries.len(), 0);
    // It ends, and what still fires is told.
    operator.delete(format!("/api/alerts/silences/{}", silence.id)).await.is(200);
    assert_eq!(receiver.until(1).await[0].event(), "firing");
    assert_eq!(until(&api, &busy, AlertState::Firing).await.silenced_by, None);
    agent.report(host(10.0));
    assert_eq!(receiver.until(2).await[1].event(), "resolved");

    // What begins and ends within one is told to nobody; its alert is there all the same.
    let silence = json!({ "matcher": { "severity": "critical" }, "until": until_then, "comment": "all of it" });
    operator.post("/api/alerts/silences").json(&silence).await.is(201);
    eventually("a second alert, silenced", async || {
        agent.report(host(95.0));
        let all = alerts(&api, &busy).await;
        (all.len() == 2 && all[0].silenced_by.is_some()).then_some(())
    })
    .await;
    // The second within an hour waits a minute before it is over.
    plane.clock().advance(Duration::from_secs(1));
    agent.report(host(10.0));
    eventually("it is over after a minute", async || {
        plane.clock().advance(Duration::from_secs(20));
        agent.report(host(10.0));
        (alerts(&api, &busy).await[0].state == AlertState::Resolved).then_some(())
    })
    .await;
    assert_eq!(receiver.hits().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timer_of_its_own_for_each_wait() {
    let (_plane, agent, api) = fleet(Database::sqlite()).await;
    let mut spec = busy(&[]);
    spec["for"] = 1.into();
    let busy = rule(&api, spec).await;
    agent.report(host(95.0));
    let pending = until(&api, &busy, AlertState::Pending).await;
    // Nothing more is seen.
    let firing = until(&api, &busy, AlertState::Firing).await;
    assert_eq!(firing.id, pending.id);
    let waited = firing.fired_at.unwrap().since(firing.since);
    assert!((1_000..3_000).contains(&waited), "{waited} ms");
    // What does not last leaves nothing.
    agent.report(host(10.0));
    until(&api, &busy, AlertState::Resolved).await;
    api.patch("/api/alerts/rules/Busy").json(&json!({ "for": 3600 })).await.is(200);
    agent.report(host(95.0));
    eventually("it is pending", async || {
        (alerts(&api, &busy).await[0].state == AlertState::Pending).then_some(())
    })
    .await;
    agent.report(host(10.0));
    eventually("it is gone", async || (alerts(&api, &busy).await.len() == 1).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_are_lost_and_those_that_are_not_back_yet() {
    let (mut plane, agent, api) = fleet(Database::sqlite()).await;
    let lost = json!({ "name": "Lost", "target": { "id": "alder" }, "condition": { "type": "nodeLost" }, "severity": "critical" });
    let lost = rule(&api, lost).await;
    assert_eq!(lost.target.id.as_ref().unwrap().as_str(), agent.node.as_str());
    agent.take_down();
    let firing = until(&api, &lost, AlertState::Firing).await;
    assert!(firing.message.starts_with("node alder is not connected"), "{}", firing.message);
    // A start of the control plane neither ends it nor begins another.
    plane.kill().await;
    assert_eq!(alerts(&api, &lost).await, std::slice::from_ref(&firing));
    agent.mend();
    agent.ready(&plane).await;
    assert_eq!(until(&api, &lost, AlertState::Resolved).await.id, firing.id);
    // Every node is away for a moment when the control plane starts: that is no loss.
    plane.restart().await;
    agent.ready(&plane).await;
    assert_eq!(alerts(&api, &lost).await.len(), 1);
    // One that was lost before a start stays lost until it comes: its alert is the one that was there.
    agent.take_down();
    let firing = until(&api, &lost, AlertState::Firing).await;
    plane.restart().await;
    assert_eq!(alerts(&api, &lost).await[0], firing);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_come_back_after_a_start() {
    let (mut plane, agent, api) = fleet(Database::sqlite()).await;
    let lost = json!({ "name": "Lost", "target": { "all": true }, "condition": { "type": "nodeLost" } });
    plane.kill_only();
    agent.take_down();
    plane.reopen().await;
    let lost = rule(&api, lost).await;
    assert!(alerts(&api, &lost).await.is_empty());
    plane.clock().advance(Duration::from_secs(31));
    plane.app().alerts.observe(Observation::Everything);
    until(&api, &lost, AlertState::Firing).await;
    agent.mend();
    until(&api, &lost, AlertState::Resolved).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_that_should_run_and_do_not() {
    let (plane, agent, api) = fleet(Database::sqlite()).await;
    let mut web = running("web");
    web["labels"] = json!({ "tier": "front" });
    web["restart"] = "always".into();
    let web = api.create(&web).await;
    api.create(&running("other")).await;
    let down = json!({ "name": "Down", "target": { "label": "tier=front" }, "condition": { "type": "containerDown" }, "message": "call Olga\nor Vera" });
    let down = rule(&api, down).await;
    let id = web.id.as_str();
    agent.docker_set("other", ContainerStatus::Exited);
    agent.docker_set(id, ContainerStatus::Exited);
    let firing = until(&api, &down, AlertState::Firing).await;
    assert_eq!(firing.server_id, id);
    assert_eq!(
        firing.message,
        "container web on node alder should run and does not: it ended with code 1\ncall Olga\nor Vera"
    );
    agent.docker_set(id, ContainerStatus::Running);
    until(&api, &down, AlertState::Resolved).await;
    // What its user stops is no fault.
    let mut calm = running("calm");
    calm["labels"] = json!({ "tier": "front" });
    api.create(&calm).await;
    api.post("/api/containers/calm/stop").await.is(200);
    api.until("calm", ContainerStatus::Stopped).await;
    assert_eq!(alerts(&api, &down).await.len(), 1);
    // Gone from Docker is one.
    agent.docker_rm(id);
    let missing = until(&api, &down, AlertState::Firing).await;
    assert!(missing.message.contains("removed from Docker"), "{}", missing.message);
    // A node that goes away takes its containers out of sight: nothing is over.
    agent.take_down();
    agent.is(&plane, nm_types::node::NodeStatus::NotReady).await;
    plane.app().alerts.observe(Observation::Everything);
    agent.mend();
    agent.ready(&plane).await;
    assert_eq!(alerts(&api, &down).await[0].id, missing.id);
    // What is no longer there needs nobody.
    api.delete("/api/containers/web?force=true").await.is(200);
    let over = until(&api, &down, AlertState::Resolved).await;
    assert_eq!(
        (over.id, over.message.as_str()),
        (missing.id, "it is no longer in the fleet\ncall Olga\nor Vera")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_that_keep_restarting() {
    let (plane, agent, api) = fleet(Database::sqlite()).await;
    let mut web = running("web");
    web["restart"] = "always".into();
    let id = api.create(&web).await.id;
    let down = json!({ "name": "Down", "target": { "all": true }, "condition": { "type": "containerDown" } });
    let down = rule(&api, down).await;
    let mut observed = agent.container(&id).observed;
    // Three make a loop, though it runs whenever it is looked at.
    for restarts in 1..=3 {
        assert!(alerts(&api, &down).await.is_empty());
        observed.restarts = restarts;
        observed.started = Some(plane.app().clock.now());
        agent.report(nm_link::contract::WatchEvent::Container {
            observed: Box::new(observed.clone()),
        });
        eventually("it is seen", async || {
            (api.container("web").await.restarts == restarts).then_some(())
        })
        .await;
        // Seen by the rules, too.
        plane.app().alerts.evaluate().await.unwrap();
    }
    let firing = until(&api, &down, AlertState::Firing).await;
    assert_eq!(
        firing.message,
        "container web on node alder keeps ending and being started again: 3 times within 10 minutes"
    );
    // It is over once it has run for ten minutes.
    plane.clock().advance(Duration::from_secs(590));
    plane.app().alerts.observe(Observation::Everything);
    plane.app().alerts.evaluate().await.unwrap();
    assert_eq!(alerts(&api, &down).await[0].state, AlertState::Firing);
    plane.clock().advance(Duration::from_secs(20));
    plane.app().alerts.observe(Observation::Everything);
    until(&api, &down, AlertState::Resolved).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_tell_of_alerts() {
    let (_plane, agent, api) = fleet(Database::sqlite()).await;
    let receiver = Receiver::start().await;
    channel(&api, json!({ "name": "hook", "type": "webhook", "url": receiver.url })).await;
    rule(&api, busy(&["hook"])).await;
    let mut events = api.get("/api/events").events().await.unwrap();
    agent.report(host(95.0));
    loop {
        let event: Value = serde_json::from_str(&events.next().await.unwrap().data).unwrap();
        assert_ne!(event["kind"], "alertDelivery", "how often something is tried is nobody's business");
        if event["kind"] == "alert" {
            assert_eq!((&event["what"], &event["status"]), (&json!("created"), &json!("firing")));
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_containers_use() {
    let (_plane, agent, api) = fleet(Database::sqlite()).await;
    let mut web = running("web");
    web["memoryLimit"] = "100m".into();
    let id = api.create(&web).await.id;
    let memory = json!({
        "name": "Memory", "target": { "id": "web" },
        "condition": { "type": "metric", "metric": "container.memory", "op": "above", "value": 80 }
    });
    let memory = rule(&api, memory).await;
    agent.uses(id.as_str(), nm_types::stats::Usage { cpu: 1.0, memory: 90.0 });
    let firing = until(&api, &memory, AlertState::Firing).await;
    assert_eq!(firing.message, "memory use of container web is 90%, above its limit of 80%");
    agent.uses(id.as_str(), nm_types::stats::Usage { cpu: 1.0, memory: 50.0 });
    until(&api, &memory, AlertState::Resolved).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fullest_disk_that_can_be_written_to() {
    let (_plane, agent, api) = fleet(Database::sqlite()).await;
    let disk = json!({
        "name": "Disk", "target": { "all": true },
        "condition": { "type": "metric", "metric": "node.disk", "op": "above", "value": 59.5 }
    });
    let disk = rule(&api, disk).await;
    agent.report(host(1.0));
    let firing = until(&api, &disk, AlertState::Firing).await;
    assert_eq!(firing.message, "disk use of node alder is 60% at /var, above its limit of 59.5%");
}

fn health(server: &str, status: SeenHealth, disk: SeenHealth) -> Observation {
    Observation::Health(HealthSeen {
        server: server.into(),
        name: "the router".into(),
        kind: AlertTargetKind::Address,
        labels: BTreeMap::from([("zone".into(), "a".into())]),
        status,
        checks: BTreeMap::from([
            (Check::Network, (SeenHealth::Healthy, "fine".into())),
            (Check::Disk, (disk, "/ is 97% full, its limit is 90%".into())),
        ]),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_as_it_is_observed() {
    use SeenHealth::{Degraded, Healthy, Unhealthy, Unknown};
    let (plane, _agent, api) = fleet(Database::sqlite()).await;
    let of = |name: &str, condition: Value| json!({ "name": name, "target": { "label": "zone=a" }, "condition": condition });
    let unhealthy = rule(&api, of("unhealthy", json!({ "type": "health", "status": "unhealthy" }))).await;
    let not_healthy = rule(&api, of("not healthy", json!({ "type": "health", "status": "notHealthy" }))).await;
    let disk = rule(
        &api,
        of("disk", json!({ "type": "health", "status": "unhealthy", "check": "disk" })),
    )
    .await;
    let states = async || {
        let mut out = Vec::new();
        for rule in [&unhealthy, &not_healthy, &disk] {
            out.push(alerts(&api, rule).await.first().map(|a| a.state));
        }
        out
    };
    let see = async |status, disk, want: [Option<AlertState>; 3]| {
        eventually(&format!("{status:?}, {disk:?} gives {want:?}"), async || {
            plane.app().alerts.observe(health("server_1_aaaaaaaaa", status, disk));
            (states().await == want).then_some(())
        })
        .await;
    };
    let (firing, resolved) = (Some(AlertState::Firing), Some(AlertState::Resolved));
    see(Healthy, Healthy, [None, None, None]).await;
    see(Unknown, Healthy, [None, firing, None]).await;
    see(Healthy, Healthy, [None, resolved, None]).await;
    see(Unhealthy, Unhealthy, [firing, firing, firing]).await;
    let alert = until(&api, &disk, AlertState::Firing).await;
    assert_eq!(
        alert.message,
        "the disk check of address the router is unhealthy: / is 97% full, its limit is 90%"
    );
    // What can't be said now is over for nobody.
    see(Unknown, Unknown, [firing, firing, firing]).await;
    // Better than that, but not well.
    see(Degraded, Healthy, [resolved, firing, resolved]).await;
    see(Unhealthy, Unhealthy, [firing, firing, firing]).await;
    plane.app().alerts.observe(Observation::Forgotten("server_1_aaaaaaaaa".into()));
    eventually("it is over", async || (states().await == [resolved; 3]).then_some(())).await;
}
