//! `neuralmesh alerts …` against an API that is made up.

use crate::fake::{self, Fake, data, finish_with_input, page, refuse};
use axum::Router;
use axum::extract::Path;
use axum::routing::{get, patch, post};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

const ALERT: &str = "alert_1770000000000_abcdefghi";
const RULE: &str = "rule_1770000000000_abcdefghi";
const CHANNEL: &str = "channel_1770000000000_abcdefghi";

fn alert(state: &str) -> Value {
    json!({
        "id": ALERT, "ruleId": RULE, "ruleName": "Disk nearly full", "serverId": fake::NODE, "serverName": "alder", "serverKind": "node",
        "severity": "warning", "state": state, "since": fake::NOW, "message": "disk use is 95%\ncall Olga", "fromTheFuture": 1
    })
}

fn rule() -> Value {
    json!({
        "id": RULE, "name": "Busy", "enabled": true, "target": { "kind": "node", "all": true },
        "condition": { "type": "metric", "metric": "node.cpu", "op": "above", "value": 90.0, "resolveAt": 80.0 },
        "for": 300, "severity": "critical", "channels": [CHANNEL], "created": fake::NOW, "updated": fake::NOW
    })
}

fn channel() -> Value {
    json!({
        "id": CHANNEL, "name": "ops", "type": "slack", "host": "hooks.slack.com", "secrets": ["url"], "created": fake::NOW, "updated": fake::NOW
    })
}

/// The words of a table's row.
fn row(out: &str, line: usize) -> Vec<String> {
    let cells = out.lines().nth(line).unwrap().split("   ");
    cells.map(|c| c.trim().to_owned()).filter(|c| !c.is_empty()).collect()
}

#[tokio::test]
async fn alerts_that_go_on_are_listed_shown_and_acknowledged() {
    let mut acknowledged = alert("firing");
    acknowledged["acknowledgedAt"] = fake::NOW.into();
    let mut detail = alert("firing");
    detail["deliveries"] = json!([{
        "id": "delivery_1770000000000_abcdefghi", "channelId": CHANNEL, "channelName": "ops", "event": "firing", "state": "waiting",
        "attempts": 2, "lastError": "the receiver answered 500", "created": fake::NOW
    }]);
    let router = Router::new()
        .route(
            "/api/alerts",
            get(|| async { page(json!([alert("firing"), alert("resolved")]), None) }),
        )
        .route("/api/alerts/{id}", get(move || async { data(200, detail) }))
        .route("/api/alerts/{id}/acknowledge", post(move || async { data(200, acknowledged) }));
    let fake = Fake::start(router).await;
    let ended = fake.run(&["alerts", "ls"]).await.ok();
    assert_eq!(ended.out.lines().count(), 2, "{}", ended.out);
    assert_eq!(
        row(&ended.out, 1)[..4],
        ["warning", "firing", "alder", "Disk nearly full"],
        "{}",
        ended.out
    );
    assert!(ended.out.contains("disk use is 95%") && !ended.out.contains("Olga"));
    assert_eq!(fake.run(&["alerts", "ls", "--all", "-q"]).await.ok().out.lines().count(), 2);
    fake.run(&["alerts", "ls", "--state", "firing", "--severity", "critical", "--on", "n1"])
        .await
        .ok();
    assert!(
        fake.lines()
            .last()
            .unwrap()
            .starts_with("GET /api/alerts?state=firing&severity=critical&serverId=n1"),
        "{:?}",
        fake.lines()
    );
    let ended = fake.run(&["alerts", "get", ALERT]).await.ok();
    assert!(
        ended
            .out
            .contains("firing to ops: waiting after 2 attempts, the receiver answered 500"),
        "{}",
        ended.out
    );
    assert_eq!(fake.run(&["alerts", "ack", ALERT]).await.ok().out, format!("{ALERT}\n"));
}

#[tokio::test]
async fn rules_are_written_as_people_write_them() {
    let bodies = Arc::new(Mutex::new(Vec::<Value>::new()));
    let (made, changed) = (bodies.clone(), bodies.clone());
    let make = move |body: String| async move {
        made.lock().unwrap().push(serde_json::from_str(&body).unwrap());
        data(201, rule())
    };
    let change = move |body: String| async move {
        changed.lock().unwrap().push(serde_json::from_str(&body).unwrap());
        data(200, rule())
    };
    let router = Router::new()
        .route("/api/alerts/rules", get(|| async { page(json!([rule()]), None) }).post(make))
        .route("/api/alerts/rules/{id}", patch(change).delete(|| async { data(200, json!({})) }));
    let fake = Fake::start(router).await;
    let ended = fake.run(&["alerts", "rules", "ls"]).await.ok();
    assert_eq!(
        row(&ended.out, 1),
        ["Busy", "yes", "critical", "every node", "node.cpu > 90 until 80", "5 minutes", "1"],
        "{}",
        ended.out
    );
    let add = [
        "alerts",
        "rules",
        "add",
        "Busy",
        "node.cpu > 90",
        "--all",
        "--for",
        "5m",
        "--severity",
        "critical",
        "--tell",
        "ops",
    ];
    fake.run(&add).await.ok();
    fake.run(&[
        "alerts",
        "rules",
        "add",
        "Shop",
        "unhealthy:disk",
        "--label",
        "app=shop",
        "--repeat",
        "1h",
    ])
    .await
    .ok();
    fake.run(&["alerts", "rules", "tell", "Busy"]).await.ok();
    fake.run(&["alerts", "rules", "disable", "Busy"]).await.ok();
    let bodies = bodies.lock().unwrap().clone();
    assert_eq!(
        bodies,
        [
            json!({ "name": "Busy", "target": { "all": true }, "condition": { "type": "metric", "metric": "node.cpu", "op": "above", "value": 90.0 },
                "for": 300, "severity": "critical", "repeat": null, "channels": ["ops"], "message": null }),
            json!({ "name": "Shop", "target": { "label": "app=shop" }, "condition": { "type": "health", "status": "unhealthy", "check": "disk" },
                "for": null, "severity": "warning", "repeat": 3600, "channels": [], "message": null }),
            json!({ "channels": [] }),
            json!({ "enabled": false }),
        ]
    );
    assert_eq!(fake.run(&["alerts", "rules", "rm", "Busy"]).await.ok().out, "Busy\n");
    for wrong in [
        &["alerts", "rules", "add", "x", "node-lost"][..],
        &["alerts", "rules", "add", "x", "node-lost", "--all", "--on", "alder"],
        &["alerts", "rules", "add", "x", "moon", "--all"],
        &["alerts", "rules", "add", "x", "node-lost", "--all", "--resolve-at", "1"],
    ] {
        assert_eq!(fake.run(wrong).await.code, 2, "{wrong:?}");
    }
}

#[tokio::test]
async fn secrets_of_channels_are_read_and_never_shown() {
    let bodies = Arc::new(Mutex::new(Vec::<Value>::new()));
    let made = bodies.clone();
    let make = move |body: String| async move {
        let body: Value = serde_json::from_str(&body).unwrap();
        let mut answer = channel();
        if body["type"] == "webhook" {
            answer["secret"] = "whsec_shown-once".into();
        }
        made.lock().unwrap().push(body);
        data(201, answer)
    };
    let test = |Path(name): Path<String>| async move {
        match name.as_str() {
            "gone" => refuse(404, "alert_channel_not_found", "there is no alert channel `gone`"),
            name => data(
                200,
                json!({ "delivered": name == "ops", "message": "the receiver answered 200", "tookMs": 5 }),
            ),
        }
    };
    let router = Router::new()
        .route("/api/alerts/channels", get(|| async { page(json!([channel()]), None) }).post(make))
        .route("/api/alerts/channels/{id}/test", post(test));
    let fake = Fake::start(router).await;
    let ended = fake.run(&["alerts", "channels", "ls"]).await.ok();
    assert_eq!(row(&ended.out, 1), ["ops", "slack", "hooks.slack.com"]);
    let add = |args: &[&str]| {
        let mut all = vec!["alerts", "channels", "add"];
        all.extend(args);
        fake.command(&all)
    };
    let ended = finish_with_input(
        &mut add(&["slack", "ops", "--password-stdin"]),
        "https://hooks.slack.com/services/s3cret\n",
    )
    .await
    .ok();
    assert!(!ended.out.contains("s3cret") && !ended.err.contains("s3cret"));
    let mail = [
        "email",
        "ops",
        "--host",
        "mail.test",
        "--username",
        "u",
        "--password-stdin",
        "--from",
        "a@b",
        "--to",
        "c@d",
    ];
    finish_with_input(&mut add(&mail), "pw\n").await.ok();
    let ended = fake::finish(&mut add(&["webhook", "hook", "https://example.com/in"])).await.ok();
    assert_eq!(ended.out, "whsec_shown-once\n");
    assert_eq!(
        bodies.lock().unwrap().clone(),
        [
            json!({ "name": "ops", "type": "slack", "url": "https://hooks.slack.com/services/s3cret" }),
            json!({ "name": "ops", "type": "email", "host": "mail.test", "tls": "starttls", "username": "u", "password": "pw", "from": "a@b", "to": ["c@d"] }),
            json!({ "name": "hook", "type": "webhook", "url": "https://example.com/in" }),
        ]
    );
    assert_eq!(
        fake.run(&["alerts", "channels", "test", "ops"]).await.ok().out,
        "ops: delivered: the receiver answered 200\n"
    );
    assert_eq!(fake.run(&["alerts", "channels", "test", "other"]).await.code, 1);
    assert_eq!(fake.run(&["alerts", "channels", "test", "gone"]).await.code, 1);
}

#[tokio::test]
async fn silences_last_as_long_as_they_say() {
    let bodies = Arc::new(Mutex::new(Vec::<Value>::new()));
    let made = bodies.clone();
    let silence = json!({
        "id": "silence_1770000000000_abcdefghi", "matcher": { "ruleId": RULE, "severity": "info" }, "from": fake::NOW, "until": fake::NOW,
        "comment": "new disks", "active": true, "createdBy": "ann", "created": fake::NOW, "updated": fake::NOW
    });
    let listed = silence.clone();
    let make = move |body: String| async move {
        made.lock().unwrap().push(serde_json::from_str(&body).unwrap());
        data(201, silence)
    };
    let router = Router::new().route(
        "/api/alerts/silences",
        get(move || async move { page(json!([listed]), None) }).post(make),
    );
    let fake = Fake::start(router).await;
    let ended = fake.run(&["alerts", "silences", "ls"]).await.ok();
    assert!(ended.out.contains(&format!("rule {RULE}, info")), "{}", ended.out);
    fake.run(&["alerts", "silences", "add", "2h", "--on", "alder", "-m", "new disks"])
        .await
        .ok();
    let body = bodies.lock().unwrap()[0].clone();
    assert_eq!(
        (&body["matcher"], &body["comment"]),
        (&json!({ "serverId": "alder" }), &json!("new disks"))
    );
    let until = nm_types::Timestamp::parse(body["until"].as_str().unwrap()).unwrap();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_millis() as i64;
    assert!((until.0 - now - 7_200_000).abs() < 60_000, "{body}");
}
