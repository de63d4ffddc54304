//! `neuralmesh nodes`: emptying, cordoning and removing nodes.

use crate::fake::{CONTAINER, Fake, NODE, NOW, OPERATION, data, event, events, operation, page, refuse_with};
use axum::Router;
use axum::routing::{delete, get, post};
use serde_json::{Value, json};

const OTHER: &str = "node_1770000000001_abcdefghi";

fn node(id: &str, name: &str) -> Value {
    json!({ "id": id, "name": name, "status": "ready", "labels": {}, "containers": 0, "created": NOW })
}

fn report() -> Value {
    json!({ "nodeId": NODE,
        "moved": [{ "id": CONTAINER, "name": "web", "nodeId": OTHER }],
        "stopped": [{ "id": CONTAINER, "name": "db", "nodeId": NODE, "reason": "its data is on this node, under `/data` in it" }] })
}

#[tokio::test]
async fn a_drain_tells_what_became_of_each_container() {
    let drain = |body: String| async move {
        let asked: Value = serde_json::from_str(&body).unwrap();
        if asked["grace"] == 30 {
            assert_eq!(asked, json!({ "grace": 30, "move": false }));
            return data(
                200,
                json!({ "nodeId": NODE, "moved": [], "stopped": [{ "id": CONTAINER, "name": "web", "nodeId": NODE }] }),
            );
        }
        assert_eq!(asked, json!({ "move": true }));
        data(200, report())
    };
    let list = || async { page(json!([node(NODE, "n1"), node(OTHER, "n2")]), None) };
    let fake = Fake::start(
        Router::new()
            .route("/api/nodes", get(list))
            .route("/api/nodes/n1/drain", post(drain)),
    )
    .await;
    let ended = fake.run(&["nodes", "drain", "n1"]).await.ok();
    assert_eq!(
        ended.out,
        "web moved to n2\ndb stopped: its data is on this node, under `/data` in it\n"
    );
    assert!(ended.err.contains("nodes uncordon n1"), "{ended:?}");
    assert_eq!(fake.run(&["nodes", "drain", "n1", "-o", "json"]).await.ok().json(), report());
    let stopped = fake.run(&["nodes", "drain", "n1", "--stop", "--grace", "30s"]).await.ok();
    assert_eq!(stopped.out, "web stopped\n");
    let bad = fake.run(&["nodes", "drain", "n1", "--grace", "2h"]).await;
    assert!(bad.code == 2 && bad.err.contains("--grace"), "{bad:?}");
}

#[tokio::test]
async fn a_drain_that_goes_on_is_waited_for() {
    let drain = || async { data(202, operation("running", json!({ "kind": "node.drain" }))) };
    let ended = || async {
        let last = operation("succeeded", json!({ "kind": "node.drain", "result": report() }));
        events(event("operation", &last))
    };
    let list = || async { page(json!([]), None) };
    let fake = Fake::start(
        Router::new()
            .route("/api/nodes", get(list))
            .route("/api/nodes/n1/drain", post(drain))
            .route("/api/operations/{id}", get(ended)),
    )
    .await;
    let ended = fake.run(&["nodes", "drain", "n1"]).await.ok();
    assert!(ended.out.starts_with(&format!("web moved to {OTHER}\n")), "{ended:?}");
    let begun = fake.run(&["nodes", "drain", "n1", "--no-wait"]).await.ok();
    assert_eq!(begun.out, format!("{OPERATION}\n"));
}

#[tokio::test]
async fn what_stays_is_a_failure_that_names_it() {
    let drain = || async {
        let details =
            json!({ "details": [{ "field": "web", "message": "no node can take it: n2 is cordoned" }], "operationId": OPERATION });
        refuse_with(409, "drain_incomplete", "1 of 1 containers are still on node n1", details)
    };
    let fake = Fake::start(Router::new().route("/api/nodes/n1/drain", post(drain))).await;
    let ended = fake.run(&["nodes", "drain", "n1"]).await;
    assert_eq!(ended.code, 1);
    assert!(ended.err.contains("n2 is cordoned"), "{ended:?}");
}

#[tokio::test]
async fn cordons_and_removals_are_asked_for_as_the_api_has_them() {
    let answer = || async { data(200, node(NODE, "n1")) };
    let gone = || async { data(200, json!({})) };
    let fake = Fake::start(
        Router::new()
            .route("/api/nodes/{id}/cordon", post(answer))
            .route("/api/nodes/{id}/uncordon", post(answer))
            .route("/api/nodes/{id}", delete(gone)),
    )
    .await;
    for args in [
        &["nodes", "cordon", "n1", "n2"][..],
        &["nodes", "uncordon", "n1"],
        &["nodes", "rm", "-f", "n1"],
        &["nodes", "rm", "-f", "--leave-containers", "n1"],
    ] {
        fake.run(args).await.ok();
    }
    assert_eq!(
        fake.lines(),
        [
            "POST /api/nodes/n1/cordon",
            "POST /api/nodes/n2/cordon",
            "POST /api/nodes/n1/uncordon",
            "DELETE /api/nodes/n1",
            "DELETE /api/nodes/n1?force=true"
        ]
    );
}
