//! `neuralmesh clusters`: what it asks and prints.

use crate::fake::{self, Fake, NODE, data, page};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

const CLUSTER: &str = "cluster_1770000000000_abcdefghi";

fn figures() -> Value {
    json!({ "totalRequests": 120, "averageResponseTime": 6.8, "errorRate": 2.5, "totalBandwidth": 4096, "p50": 2.0, "p95": 40.0, "p99": 50.0 })
}

fn view() -> Value {
    let member = |name: &str, state: &str, reason: &str| {
        json!({
            "id": name, "name": name, "kind": "container", "address": "172.17.0.2:80", "weight": 1, "backup": false, "state": state,
            "reason": reason, "inFlight": 0, "scaled": false, "metrics": figures()
        })
    };
    json!({
        "id": CLUSTER, "name": "shop", "type": "high-availability", "status": "critical", "servers": ["web-1", "web-2"], "metrics": figures(),
        "endpoint": "http://10.0.0.1:30000", "endpoints": ["http://10.0.0.1:30000"], "protocol": "http", "listenPort": 30000,
        "members": [member("web-1", "down", "connection refused"), member("web-2", "up", "its check succeeds")], "activeMember": "web-2",
        "entryNodes": [{ "nodeId": NODE, "name": "n1", "address": "10.0.0.1", "connected": true, "current": true }],
        "conditions": [{ "type": "cannotScale", "message": "there are as many as maxServers allows" }],
        "loadBalancer": { "algorithm": "round-robin", "healthCheckInterval": 30, "healthCheckTimeout": 5 },
        "healthCheck": { "type": "http", "path": "/up", "interval": 1, "rise": 2, "fall": 2 },
        "retries": 2, "slowStart": 0, "drainTime": 30, "created": fake::NOW, "updated": fake::NOW, "generation": 1
    })
}

#[tokio::test]
async fn clusters() {
    let bodies: Arc<Mutex<Vec<Value>>> = Arc::default();
    let keep = |status: u16| {
        let bodies = bodies.clone();
        move |Json(body): Json<Value>| {
            bodies.lock().unwrap().push(body);
            async move { data(status, view()) }
        }
    };
    let event = json!({ "sequence": 7, "at": fake::NOW, "kind": "failover", "member": "web-2", "nodeId": NODE, "reason": "no answer" });
    let mut whole = figures();
    let object = whole.as_object_mut().unwrap();
    object.insert("clusterId".into(), CLUSTER.into());
    object.insert("requestsPerSecond".into(), json!(2.0));
    object.insert("members".into(), json!([]));
    let mut point = figures();
    point.as_object_mut().unwrap().extend(
        json!({ "from": fake::NOW, "to": fake::NOW, "requestsPerSecond": 12.5, "members": [] })
            .as_object()
            .unwrap()
            .clone(),
    );
    object.insert("history".into(), json!([point]));
    let base = "/api/capabilities/clusters";
    let router = Router::new()
        .route(base, get(|| async { page(json!([view()]), None) }).post(keep(201)))
        .route(
            &format!("{base}/shop"),
            get(|| async { data(200, view()) })
                .patch(keep(200))
                .delete(|| async { data(200, json!({})) }),
        )
        .route(&format!("{base}/shop/servers"), post(keep(200)))
        .route(&format!("{base}/shop/servers/web-1"), delete(|| async { data(200, view()) }))
        .route(&format!("{base}/shop/metrics"), get(move || async move { data(200, whole) }))
        .route(
            &format!("{base}/shop/events"),
            get(move || async move { page(json!([event]), None) }),
        )
        .route(&format!("{base}/shop/failover"), post(keep(200)));
    let fake = Fake::start(router).await;

    let table = fake.run(&["clusters", "ls"]).await.ok();
    assert!(table.out.starts_with("NAME   TYPE"), "{}", table.out);
    assert!(
        table.out.contains("critical") && table.out.contains("1/2") && table.out.contains("2.5%"),
        "{}",
        table.out
    );
    assert_eq!(fake.run(&["clusters", "ls", "-q"]).await.ok().out.trim(), CLUSTER);

    let made = fake
        .run(&[
            "clusters",
            "create",
            "shop",
            "web-1:8080,weight=3",
            "web-2",
            "--type",
            "high-availability",
            "--port",
            "80",
            "--set",
            "autoScaling.maxServers=5",
        ])
        .await
        .ok();
    assert_eq!(made.out.trim(), "http://10.0.0.1:30000");
    assert!(made.err.contains("as many as maxServers allows"), "{}", made.err);
    let card = fake.run(&["cluster", "get", "shop"]).await.ok();
    for part in [
        "down        web-1",
        "* up",
        "connection refused",
        "http /up every 1s",
        "n1 10.0.0.1: current",
    ] {
        assert!(card.out.contains(part), "{part}: {}", card.out);
    }
    fake.run(&["clusters", "set", "shop", "--set", "retries=", "--algorithm", "ip-hash"])
        .await
        .ok();
    fake.run(&["clusters", "add", "shop", "web-3:80"]).await.ok();
    fake.run(&["clusters", "remove", "shop", "web-1"]).await.ok();
    assert_eq!(fake.run(&["clusters", "failover", "shop"]).await.ok().out.trim(), "web-2");
    fake.run(&["clusters", "rm", "shop"]).await.ok();
    assert_eq!(
        *bodies.lock().unwrap(),
        [
            json!({ "name": "shop", "type": "high-availability", "servers": [{ "id": "web-1", "port": 8080, "weight": 3 }, "web-2"],
                "listenPort": 80, "autoScaling": { "maxServers": 5 } }),
            json!({ "retries": null, "loadBalancer": { "algorithm": "ip-hash" } }),
            json!({ "servers": [{ "id": "web-3", "port": 80 }] }),
            json!({ "server": null }),
        ]
    );
    let metrics = fake.run(&["clusters", "metrics", "shop", "--limit", "3"]).await.ok();
    assert!(
        metrics.out.contains("120 requests") && metrics.out.contains("12.5/s"),
        "{}",
        metrics.out
    );
    let events = fake.run(&["clusters", "events", "shop"]).await.ok();
    assert!(
        events.out.contains("failover") && events.out.contains("no answer"),
        "{}",
        events.out
    );

    assert_eq!(fake.run(&["clusters", "set", "shop"]).await.code, 2);
    assert_eq!(fake.run(&["clusters", "create", "shop", "web:x"]).await.code, 2);
    let secret = fake.run(&["clusters", "set", "shop", "--set", "tls.key=hush"]).await;
    assert!(secret.code == 2 && secret.err.contains("--tls-key FILE"), "{}", secret.err);
}
