//! `neuralmesh health` and `neuralmesh servers`: what they ask and print, how they end.

use crate::fake::{self, Fake, NODE, data, page};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

fn view(status: &str, degraded: bool, disk: bool) -> Value {
    json!({
        "serverId": NODE, "serverName": "n1", "kind": "node", "status": status, "degraded": degraded, "lastCheck": fake::NOW,
        "checks": { "cpu": true, "memory": true, "disk": disk, "network": true, "services": true },
        "details": [{ "check": "cpu", "ok": true, "measured": "not measured", "limit": "", "message": "not measured: no agent runs there" },
            { "check": "disk", "ok": disk, "measured": "93 %", "limit": "under 87 %", "message": "of / is used" }],
        "uptime": 2592000, "responseTime": 45.2, "since": fake::NOW, "availability": { "24h": 99.5, "7d": null, "30d": null },
        "checked": true
    })
}

#[tokio::test]
async fn health() {
    let interval = json!({ "from": fake::NOW, "to": null, "status": "unknown", "degraded": true, "failed": ["disk"] });
    let router = Router::new()
        .route(
            "/api/capabilities/health",
            get(|| async { page(json!([view("healthy", false, true)]), None) }),
        )
        .route(
            "/api/capabilities/health/n1",
            get(|| async { data(200, view("unknown", true, false)) }),
        )
        .route(
            "/api/capabilities/health/n1/check",
            post(|| async { data(200, view("unknown", true, false)) }),
        )
        .route(
            "/api/capabilities/health/n2/check",
            post(|| async { data(200, view("healthy", false, true)) }),
        )
        .route(
            "/api/capabilities/health/n1/history",
            get(move || async move { page(json!([interval]), None) }),
        );
    let fake = Fake::start(router).await;
    let table = fake.run(&["health", "ls", "--status", "healthy", "--kind", "node"]).await.ok();
    assert!(table.out.starts_with("SERVER   KIND   STATUS"), "{}", table.out);
    assert!(table.out.contains("45.2ms") && table.out.contains("99.5%"), "{}", table.out);
    assert!(
        fake.lines().iter().any(|l| l.contains("status=healthy") && l.contains("kind=node")),
        "{:?}",
        fake.lines()
    );

    let card = fake.run(&["health", "get", "n1"]).await.ok();
    assert!(
        card.out.contains("degraded") && card.out.contains("failed disk: 93 % (under 87 %) of / is used"),
        "{}",
        card.out
    );
    assert!(card.out.contains("ok     cpu: not measured: no agent runs there\n"), "{}", card.out);
    fake.run(&["health", "check", "n2"]).await.ok();
    assert_eq!(fake.run(&["health", "check", "n2", "n1"]).await.code, 1, "one of them is not well");
    let history = fake.run(&["health", "history", "n1", "--from", "2026-02-01T00:00:00Z"]).await.ok();
    assert!(history.out.contains("degraded") && history.out.contains("disk"), "{}", history.out);
    assert!(
        fake.lines().iter().any(|l| l.contains("from=2026-02-01T00%3A00%3A00.000Z")),
        "{:?}",
        fake.lines()
    );
    assert_eq!(fake.run(&["health", "history", "n1", "--from", "yesterday"]).await.code, 2);
}

#[tokio::test]
async fn servers() {
    let made = || json!({ "id": "server_1_aaaaaaaaa", "kind": "address", "name": "db", "address": "10.0.0.5", "port": 5432, "status": "unknown", "created": fake::NOW });
    let router = Router::new()
        .route(
            "/api/servers",
            get(move || async move { page(json!([made()]), None) }).post(move |Json(body): Json<Value>| async move {
                assert_eq!(
                    body,
                    json!({ "name": "db", "address": "10.0.0.5", "port": 5432, "probe": { "type": "http", "path": "/up", "expectStatus": 204 } })
                );
                data(201, made())
            }),
        )
        .route("/api/servers/db", axum::routing::delete(|| async { data(200, json!({})) }));
    let fake = Fake::start(router).await;
    let table = fake.run(&["servers", "ls"]).await.ok();
    assert!(table.out.contains("db") && table.out.contains("10.0.0.5:5432"), "{}", table.out);
    let add = [
        "servers",
        "add",
        "db",
        "10.0.0.5",
        "--port",
        "5432",
        "--probe",
        "http",
        "--path",
        "/up",
        "--expect-status",
        "204",
    ];
    assert_eq!(fake.run(&add).await.ok().out, "db\n");
    assert_eq!(fake.run(&["servers", "add", "db", "http://x"]).await.code, 2);
    assert_eq!(
        fake.run(&["servers", "add", "db", "x", "--path", "/up"]).await.code,
        2,
        "a path needs a probe"
    );
    assert_eq!(fake.run(&["servers", "rm", "db"]).await.ok().out, "db\n");
}
