//! What nodes use and what happened on them, as the command line shows it.

use crate::fake::{Fake, NODE, NOW, data, event, events, page, refuse};
use axum::Router;
use axum::extract::RawQuery;
use axum::response::Response;
use axum::routing::get;
use serde_json::{Value, json};

fn node(name: &str, usage: Value) -> Value {
    let mut node = json!({
        "id": NODE, "name": name, "status": "ready", "labels": {}, "containers": 3, "created": NOW,
        "capacity": { "cpus": 4, "memory": 8_589_934_592_u64, "diskTotal": 107_374_182_400_u64 },
        "allocated": { "cpu": 1.5, "memory": 1_073_741_824_u64 }
    });
    if !usage.is_null() {
        node["usage"] = usage;
    }
    node
}

fn usage() -> Value {
    json!({ "cpu": 12.34, "memoryUsed": 2_147_483_648_u64, "memoryTotal": 8_589_934_592_u64, "diskUsedPercent": 71.6, "load": [0.5, 0.4, 0.3], "temperature": 48.5 })
}

fn sample(cpu: f64) -> Value {
    json!({
        "cpu": cpu, "load": [0.5, 0.4, 0.3], "uptime": 7300, "timestamp": NOW, "temperature": 48.5,
        "memory": { "total": 8_589_934_592_u64, "available": 6_442_450_944_u64, "swapTotal": 1_073_741_824_u64, "swapUsed": 0 },
        "disks": [
            { "mount": "/", "device": "/dev/vda1", "kind": "ext4", "total": 107_374_182_400_u64, "used": 53_687_091_200_u64, "available": 53_687_091_200_u64, "inodes": 100, "inodesUsed": 25, "readOnly": false },
            { "mount": "/data", "device": "/dev/sdb", "kind": "btrfs", "total": 1024, "used": 512, "available": 512, "inodes": 0, "inodesUsed": 0, "readOnly": true }
        ],
        "network": { "rx": 1_000_000, "tx": 2_000_000, "packets": 9, "errors": 1, "dropped": 2 },
        "pressure": { "cpuSome": 1.5, "memorySome": 0.0, "memoryFull": 0.0, "ioSome": 2.25, "ioFull": 0.0 }
    })
}

#[tokio::test]
async fn lists_and_cards_say_what_is_used() {
    let list = || async { page(json!([node("alder", usage()), node("birch", Value::Null)]), None) };
    let one = || async { data(200, node("alder", usage())) };
    let fake = Fake::start(Router::new().route("/api/nodes", get(list)).route("/api/nodes/alder", get(one))).await;
    let out = fake.run(&["nodes", "ls"]).await.ok().out;
    let words: Vec<Vec<&str>> = out.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(words[0][..6], ["NAME", "STATUS", "CONTAINERS", "CPU", "MEM", "DISK"]);
    assert_eq!(words[1][..6], ["alder", "Ready", "3", "12%", "25%", "72%"]);
    assert_eq!(words[2][..6], ["birch", "Ready", "3", "--", "--", "--"]);
    let card = fake.run(&["nodes", "inspect", "alder"]).await.ok().out;
    for line in [
        "CPU:          12.3% (load 0.50 0.40 0.30)",
        "Memory:       2GiB used (25.0%)",
        "Disk:         71.6% used on the fullest, 100GiB in all",
        "Temperature:  48.5 °C",
        "Limits:       1.5 CPUs, 1GiB memory: all limits of its containers together",
    ] {
        assert!(card.contains(line), "{line}\n{card}");
    }
}

#[tokio::test]
async fn a_machines_use_once_and_followed() {
    let stats = |RawQuery(query): RawQuery| async move {
        match query.as_deref() {
            Some("limit=1") => page(json!([sample(12.5)]), None),
            Some("follow=true") => {
                let all = [1.0, 2.0].map(|cpu| event("stats", &sample(cpu))).concat();
                events(format!("{all}{}", event("end", &json!({}))))
            }
            other => refuse(400, "unexpected", &format!("{other:?}")),
        }
    };
    let none = || async { page(json!([]), None) };
    let away = || async { refuse(503, "node_offline", "node birch is not connected") };
    let fake = Fake::start(
        Router::new()
            .route("/api/nodes/alder/stats", get(stats))
            .route("/api/nodes/new/stats", get(none))
            .route("/api/nodes/birch/stats", get(away)),
    )
    .await;
    let card = fake.run(&["nodes", "stats", "alder"]).await.ok().out;
    for line in [
        "CPU:          12.5%",
        "Memory:       2GiB / 8GiB (25.0%)",
        "Swap:         0B / 1GiB",
        "/: 50GiB / 100GiB (50.0%, 25% of inodes), /dev/vda1, ext4",
        "/data: 512B / 1KiB (50.0%, read-only), /dev/sdb, btrfs",
        "Network:      1MB received, 2MB sent, 1 errors, 2 dropped",
        "Pressure:     CPU 1.5%, memory 0.0%, I/O 2.2%",
        "Up:           2 hours",
    ] {
        assert!(card.contains(line), "{line}\n{card}");
    }
    assert_eq!(fake.run(&["nodes", "stats", "alder", "-o", "json"]).await.ok().json(), sample(12.5));

    // Followed until the node is gone, which is a failure.
    let followed = fake.run(&["nodes", "stats", "-f", "alder", "-o", "json"]).await;
    let lines: Vec<Value> = followed.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!((followed.code, lines), (1, vec![sample(1.0), sample(2.0)]));
    assert!(followed.err.contains("alder is no longer connected"), "{followed:?}");
    let drawn = fake.run(&["nodes", "stats", "--follow", "alder"]).await.out;
    assert_eq!(
        (drawn.matches("CPU:").count(), drawn.contains("CPU:          2.0%")),
        (2, true),
        "{drawn}"
    );

    let new = fake.run(&["nodes", "stats", "new"]).await.ok();
    assert!(new.out.is_empty() && new.err.contains("nothing was measured yet"), "{new:?}");
    let away = fake.run(&["nodes", "stats", "birch"]).await;
    assert!(away.code == 1 && away.err.contains("not connected"), "{away:?}");
}

#[tokio::test]
async fn what_happened() {
    async fn list(RawQuery(query): RawQuery) -> Response {
        let happened = |id: i64, kind: &str, detail: Value| json!({ "id": id, "nodeId": NODE, "time": NOW, "kind": kind, "container": "web", "detail": detail });
        if query.is_some_and(|q| q.contains("cursor=4")) {
            return page(
                json!([
                    { "id": 2, "nodeId": NODE, "time": NOW, "kind": "gap", "detail": { "count": 12 } },
                    { "id": 1, "nodeId": NODE, "time": NOW, "kind": "engineDown", "detail": { "message": "no answer" } },
                ]),
                None,
            );
        }
        let first = [
            happened(6, "died", json!({ "exitCode": 137 })),
            happened(5, "oom", json!({})),
            happened(4, "health", json!({ "health": "unhealthy" })),
        ];
        page(json!(first), Some("4"))
    }
    let fake = Fake::start(Router::new().route("/api/nodes/alder/events", get(list))).await;
    let out = fake.run(&["nodes", "events", "alder"]).await.ok().out;
    for line in [
        "died            web         exit code 137",
        "out of memory   web",
        "health          web         unhealthy",
        "gap                         12 events are lost: the node was cut off for too long",
        "Docker down                 no answer",
    ] {
        assert!(out.contains(line), "{line}\n{out}");
    }
    let json = fake
        .run(&["nodes", "events", "alder", "--limit", "3", "-o", "json"])
        .await
        .ok()
        .json();
    assert_eq!(
        (json.as_array().unwrap().len(), json[0]["detail"]["exitCode"].as_i64()),
        (3, Some(137))
    );
}
