//! Where containers land when nobody names a node.

use nm_testing::{Ask, Client, Database, FakeAgent, TestControlPlane, both, eventually};
use nm_types::Timestamp;
use nm_types::container::ContainerView;
use nm_types::host::{MemoryStats, NetworkStats, NodeStats};
use nm_types::operation::OperationView;
use serde_json::{Value, json};
use std::collections::BTreeMap;

both!(never_promised_twice, the_same_port_at_once);

/// Nodes of four CPUs and 8 GiB each.
async fn fleet<const N: usize>(database: Database, names: [&str; N]) -> (TestControlPlane, [FakeAgent; N], Client) {
    let plane = TestControlPlane::start(database).await;
    let agents = futures_util::future::join_all(names.map(|name| FakeAgent::join(&plane, name))).await;
    let api = plane.operator().await.clone();
    (plane, agents.try_into().expect("as many as names"), api)
}

async fn label(plane: &TestControlPlane, node: &str, labels: Value) {
    let admin = plane.admin().await;
    admin
        .patch(format!("/api/nodes/{node}"))
        .json(&json!({ "labels": labels }))
        .await
        .is(200);
}

/// Makes a container of the image nginx with `more`, and gives the name of the node it landed on.
async fn land(plane: &TestControlPlane, name: &str, more: Value) -> String {
    let made = plane.operator().await.create(&spec(name, more)).await;
    node_of(plane, &made)
}

fn node_of(plane: &TestControlPlane, container: &ContainerView) -> String {
    plane.app().nodes.name(&container.node_id)
}

fn spec(name: &str, more: Value) -> Value {
    let mut spec = json!({ "name": name, "image": "nginx" });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

/// The log of the operation that made a container.
async fn log_of(api: &Client, container: &ContainerView) -> Vec<String> {
    let operations: Vec<OperationView> = api.get(format!("/api/operations?target={}", container.id)).await.data(200);
    operations[0].log.iter().map(|l| l.line.clone()).collect()
}

#[tokio::test]
async fn by_label() {
    let (plane, _agents, api) = fleet(Database::sqlite(), ["alder", "birch"]).await;
    label(&plane, "alder", json!({ "zone": "eu-1", "disk": "hdd" })).await;
    label(&plane, "birch", json!({ "zone": "eu-2", "gpu": "" })).await;
    for (n, (constraint, node)) in [
        ("zone=eu-1", "alder"),
        ("zone=eu-2", "birch"),
        ("disk!=hdd", "birch"),
        ("gpu", "birch"),
        ("node.name=alder", "alder"),
        ("node.arch=amd64", "alder"),
    ]
    .into_iter()
    .enumerate()
    {
        let made = api.create(&spec(&format!("c{n}"), json!({ "constraints": [constraint] }))).await;
        if constraint != "node.arch=amd64" {
            assert_eq!(node_of(&plane, &made), node, "{constraint}");
        }
        assert_eq!(made.constraints[0].as_str(), constraint);
    }
    let made = api
        .create(&spec("why", json!({ "constraints": ["gpu"], "onNodeLost": "reschedule" })))
        .await;
    let log = log_of(&api, &made).await;
    assert!(log[0].starts_with("birch was chosen: "), "{log:?}");
    assert_eq!(log[1], "not alder has no `gpu`, and `gpu` is asked for");

    let refused = api
        .post("/api/containers")
        .json(&spec("none", json!({ "constraints": ["zone=eu-3"] })))
        .await
        .refused(409, "no_place");
    assert!(
        refused.error.contains("alder has `zone=eu-1`, and `zone=eu-3` is asked for"),
        "{refused:?}"
    );
    let mut told: Vec<_> = refused.details.iter().map(|d| (d.field.as_str(), &d.message[..5])).collect();
    told.sort_unstable();
    assert_eq!(told, [("nodeId", "alder"), ("nodeId", "birch")]);
    api.get("/api/containers/none").await.refused(404, "container_not_found");

    // A node that is named must meet them, too.
    let named = spec("named", json!({ "nodeId": "alder", "constraints": ["gpu"] }));
    let refused = api.post("/api/containers").json(&named).await.refused(409, "no_place");
    assert_eq!(refused.details[0].field, "constraints");
    for bad in ["a==b", "", "x y"] {
        api.post("/api/containers")
            .json(&spec("bad", json!({ "constraints": [bad] })))
            .await
            .names("constraints[0]");
    }
    api.post("/api/containers")
        .json(&spec("bad", json!({ "constraints": vec!["a"; 21] })))
        .await
        .names("constraints");
}

#[tokio::test]
async fn by_what_is_free() {
    let (plane, [alder, _birch], api) = fleet(Database::sqlite(), ["alder", "birch"]).await;
    assert_eq!(land(&plane, "big", json!({ "cpuLimit": 3, "nodeId": "alder" })).await, "alder");
    assert_eq!(
        land(&plane, "two", json!({ "cpuLimit": 2 })).await,
        "birch",
        "alder has one CPU that is not promised"
    );
    assert_eq!(
        land(&plane, "mem", json!({ "memoryLimit": "7g", "cpuLimit": 0.5 })).await,
        "birch",
        "it has less promised"
    );
    assert_eq!(
        land(&plane, "mem-too", json!({ "memoryLimit": "2g", "cpuLimit": 0.5 })).await,
        "alder"
    );
    let refused = api
        .post("/api/containers")
        .json(&spec("three", json!({ "cpuLimit": 2 })))
        .await
        .refused(409, "no_place");
    assert!(
        refused
            .error
            .contains("alder has 0.5 of 4 CPUs not promised yet, and 2 are asked for"),
        "{refused:?}"
    );
    // What others run counts as well.
    alder.docker_run("beside", "redis:7");
    eventually("it is listed", async || {
        (api.get("/api/containers/beside").await.status == 200).then_some(())
    })
    .await;
    let small = spec("small", json!({ "cpuLimit": 0.5 }));
    let refused = api
        .post("/api/containers")
        .json(&spec("small", json!({ "cpuLimit": 0.5, "constraints": ["node.name=alder"] })))
        .await
        .refused(409, "no_place");
    assert!(refused.error.contains("0.4 of 4"), "{refused:?}");
    // A removed container's share is free again, and a lowered limit's.
    api.delete("/api/containers/two").await.is(200);
    assert_eq!(node_of(&plane, &api.create(&small).await), "birch");
    api.patch("/api/containers/big").json(&json!({ "cpuLimit": 0.5 })).await.is(200);
    assert_eq!(land(&plane, "last", json!({ "cpuLimit": 2.5 })).await, "alder");

    // A node that is named takes more than it has: whoever names it knows why.
    let named = spec("named", json!({ "cpuLimit": 4, "nodeId": "alder" }));
    api.create(&named).await;
}

#[tokio::test]
async fn by_the_memory_that_is_left() {
    let (plane, [alder, _birch], _api) = fleet(Database::sqlite(), ["alder", "birch"]).await;
    let stats = NodeStats {
        cpu: 3.0,
        load: [0.1, 0.1, 0.1],
        memory: MemoryStats {
            total: 8 << 30,
            available: 512 << 20,
            ..MemoryStats::default()
        },
        disks: Vec::new(),
        network: NetworkStats::default(),
        pressure: None,
        temperature: None,
        uptime: 100,
        timestamp: Timestamp(0),
    };
    alder.report(nm_link::contract::WatchEvent::Host { stats: Box::new(stats) });
    eventually("the node's memory is known", async || plane.app().nodes.host(&alder.node)).await;
    assert_eq!(land(&plane, "web", json!({ "memoryLimit": "1g" })).await, "birch");
    assert_eq!(land(&plane, "db", json!({ "memoryLimit": "512m" })).await, "alder");
}

#[tokio::test]
async fn spread_over_zones_and_nodes() {
    let (plane, _agents, api) = fleet(Database::sqlite(), ["alder", "birch", "cedar"]).await;
    for (node, zone) in [("alder", "a"), ("birch", "a"), ("cedar", "b")] {
        label(&plane, node, json!({ "zone": zone })).await;
    }
    let count = async |prefix: &str| -> BTreeMap<String, usize> {
        let mut out = BTreeMap::new();
        for container in api.containers(&format!("name={prefix}")).await {
            *out.entry(node_of(&plane, &container)).or_default() += 1;
        }
        out
    };
    let expected = |of: &[(&str, usize)]| -> BTreeMap<String, usize> { of.iter().map(|(n, c)| ((*n).to_owned(), *c)).collect() };
    for n in 0..8 {
        land(&plane, &format!("web-{n}"), json!({ "spread": "zone" })).await;
    }
    assert_eq!(count("web-").await, expected(&[("alder", 2), ("birch", 2), ("cedar", 4)]));
    // Without it they are spread over the nodes; what one is of is told by `app`, too.
    for n in 0..6 {
        land(&plane, &format!("api{n}"), json!({ "labels": { "app": "api" } })).await;
    }
    assert_eq!(count("api").await, expected(&[("alder", 2), ("birch", 2), ("cedar", 2)]));
}

#[tokio::test]
async fn ports_and_names_that_are_taken() {
    let (plane, [alder, birch], api) = fleet(Database::sqlite(), ["alder", "birch"]).await;
    let port = |more: Value| {
        let mut port = json!({ "container": 80, "host": 8080 });
        port.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "ports": [port], "start": true })
    };
    let first = land(&plane, "one", port(json!({}))).await;
    let second = land(&plane, "two", port(json!({}))).await;
    assert_ne!(first, second);
    let refused = api
        .post("/api/containers")
        .json(&spec("three", port(json!({}))))
        .await
        .refused(409, "no_place");
    assert!(refused.error.contains("has port 8080/tcp taken by `one`"), "{refused:?}");
    land(&plane, "udp", port(json!({ "protocol": "udp" }))).await;
    api.post("/api/containers")
        .json(&spec("ip", port(json!({ "hostIp": "127.0.0.1" }))))
        .await
        .refused(409, "no_place");
    // Addresses of their own do not clash.
    for (name, ip) in [("ip-1", "127.0.0.1"), ("ip-2", "127.0.0.2"), ("ip-3", "127.0.0.3")] {
        let ports = json!({ "ports": [{ "container": 80, "host": 9090, "hostIp": ip }] });
        land(&plane, name, ports).await;
    }
    // A port that was left to the node is taken once it is bound; so is what others listen on.
    let bound = api
        .create(&spec(
            "any",
            json!({ "ports": [{ "container": 80 }], "start": true, "nodeId": "alder" }),
        ))
        .await;
    let taken = json!({ "ports": [{ "container": 80, "host": bound.ports[0].host }] });
    assert_eq!(land(&plane, "other", taken).await, "birch");

    // The same name on another node.
    assert_eq!(land(&plane, "twin", json!({ "nodeId": "alder" })).await, "alder");
    assert_eq!(land(&plane, "twin", json!({})).await, "birch");
    let refused = api
        .post("/api/containers")
        .json(&spec("twin", json!({})))
        .await
        .refused(409, "no_place");
    assert!(refused.error.contains("has a container called `twin` already"), "{refused:?}");
    assert_eq!(
        alder.containers().len() + birch.containers().len(),
        api.containers("").await.len(),
        "nothing is left of what was refused"
    );
}

#[tokio::test]
async fn nodes_that_take_nothing() {
    let (plane, [alder, birch], api) = fleet(Database::sqlite(), ["alder", "birch"]).await;
    let admin = plane.admin().await;
    let cordoned = admin.post("/api/nodes/alder/cordon").await.is(200).json();
    assert_eq!(cordoned["data"]["status"], "cordoned");
    admin.post("/api/nodes/alder/cordon").await.is(200);
    for n in 0..3 {
        assert_eq!(land(&plane, &format!("c{n}"), json!({})).await, "birch");
    }
    birch.docker_available(false);
    birch.is(&plane, nm_types::node::NodeStatus::NotReady).await;
    let refused = api
        .post("/api/containers")
        .json(&spec("none", json!({})))
        .await
        .refused(409, "no_place");
    assert!(
        refused.error.contains("alder is cordoned") && refused.error.contains("birch is not ready"),
        "{refused:?}"
    );
    admin.post("/api/nodes/alder/uncordon").await.is(200);
    assert_eq!(land(&plane, "now", json!({})).await, "alder");
    api.post("/api/nodes/alder/cordon").await.refused(403, "forbidden");
    admin.post("/api/nodes/nothing/cordon").await.refused(404, "node_not_found");
    assert_eq!(alder.containers().len(), 1);

    // What else needs a node is told which, as before.
    api.post("/api/containers/images/pull")
        .json(&json!({ "name": "redis" }))
        .await
        .refused(409, "node_not_named");
    api.post("/api/volumes")
        .json(&json!({ "name": "data" }))
        .await
        .refused(409, "node_not_named");
    api.post("/api/networks")
        .json(&json!({ "name": "front" }))
        .await
        .refused(409, "node_not_named");
}

#[tokio::test]
async fn templates_are_placed_too() {
    let (plane, _agents, api) = fleet(Database::sqlite(), ["alder", "birch"]).await;
    label(&plane, "birch", json!({ "zone": "b" })).await;
    let run = |body: Value| {
        let call = api.post("/api/containers/templates/nginx/run").json(&body);
        async move { call.await.data::<ContainerView>(201) }
    };
    // Both want port 8080 of their node.
    let (one, two) = (run(json!({ "constraints": ["zone=b"] })).await, run(json!({})).await);
    assert_eq!(
        (node_of(&plane, &one), node_of(&plane, &two)),
        ("birch".to_owned(), "alder".to_owned())
    );
    api.post("/api/containers/templates/nginx/run")
        .json(&json!({}))
        .await
        .refused(409, "no_place");
    let moves = json!({ "ports": [], "onNodeLost": "reschedule", "spread": "zone" });
    let made = run(moves).await;
    assert_eq!(made.spread.unwrap().as_str(), "zone");
    // Its data lies on the node.
    let refused = api
        .post("/api/containers/templates/postgresql/run")
        .json(&json!({ "onNodeLost": "reschedule" }))
        .await
        .refused(409, "conflicting_fields");
    assert_eq!(refused.details[0].field, "onNodeLost");
}

#[tokio::test]
async fn the_only_node_is_not_asked_what_it_promised() {
    let (plane, [_alder], api) = fleet(Database::sqlite(), ["alder"]).await;
    for n in 0..3 {
        assert_eq!(land(&plane, &format!("c{n}"), json!({ "cpuLimit": 3 })).await, "alder");
    }
    api.post("/api/containers")
        .json(&spec("gpu", json!({ "constraints": ["gpu"] })))
        .await
        .refused(409, "no_place");
}

#[tokio::test]
async fn only_without_writable_data_of_its_node_it_may_move() {
    let (_plane, [_alder], api) = fleet(Database::sqlite(), ["alder"]).await;
    for (n, (volume, allowed)) in [
        (json!({ "container": "/d", "host": "data" }), false),
        (json!({ "container": "/d", "host": "/srv/data" }), false),
        (json!({ "container": "/d", "host": "data", "mode": "ro" }), true),
        (json!({ "container": "/d" }), true),
    ]
    .into_iter()
    .enumerate()
    {
        let body = spec(&format!("c{n}"), json!({ "volumes": [volume], "onNodeLost": "reschedule" }));
        let reply = api.post("/api/containers").json(&body).await;
        if allowed {
            let made: ContainerView = reply.data(201);
            assert_eq!(serde_json::to_value(made.on_node_lost).unwrap(), "reschedule");
        } else {
            assert_eq!(reply.refused(409, "conflicting_fields").details[0].field, "onNodeLost");
        }
    }
    api.post("/api/containers")
        .json(&spec("bad", json!({ "onNodeLost": "run" })))
        .await
        .names("onNodeLost");
}

/// Fifty at once, of which half find room: exactly as many land as fit, and no node has more than it has.
async fn never_promised_twice(database: Database) {
    let (plane, agents, api) = fleet(database, ["alder", "birch", "cedar"]).await;
    let calls = (0..50).map(|n| {
        let call = api
            .post("/api/containers")
            .json(&spec(&format!("web-{n}"), json!({ "cpuLimit": 0.5, "start": true })));
        async move { call.await }
    });
    let replies = futures_util::future::join_all(calls).await;
    let made = replies.iter().filter(|r| r.status == 201).count();
    for refused in replies.iter().filter(|r| r.status != 201) {
        refused.refused(409, "no_place");
    }
    // Twelve CPUs, half of one each.
    assert_eq!(made, 24);
    for agent in &agents {
        assert_eq!(agent.containers().len(), 8, "{}", plane.app().nodes.name(&agent.node));
    }
    // The same request again is the same container, however full it is now.
    let kept = api.post("/api/containers").json(&spec("again", json!({ "cpuLimit": 0.5 })));
    kept.idempotency_key("k1").await.refused(409, "no_place");
    api.delete("/api/containers/web-0?force=true").await;
    let won = replies.iter().position(|r| r.status == 201).unwrap();
    api.delete(format!("/api/containers/web-{won}?force=true")).await;
    let again = || {
        let call = api.post("/api/containers").json(&spec("again", json!({ "cpuLimit": 0.5 })));
        call.idempotency_key("k1")
    };
    let (one, two): (ContainerView, ContainerView) = (again().await.data(201), again().await.data(201));
    assert_eq!(one.id, two.id);
}

async fn the_same_port_at_once(database: Database) {
    let (plane, agents, api) = fleet(database, ["alder", "birch"]).await;
    let calls = (0..6).map(|n| {
        let body = json!({ "ports": [{ "container": 80, "host": 80 }], "start": true });
        let call = api.post("/api/containers").json(&spec(&format!("web-{n}"), body));
        async move { call.await }
    });
    let replies = futures_util::future::join_all(calls).await;
    let made: Vec<ContainerView> = replies.iter().filter(|r| r.status == 201).map(|r| r.data(201)).collect();
    assert_eq!(made.len(), 2);
    assert_ne!(made[0].node_id, made[1].node_id);
    for refused in replies.iter().filter(|r| r.status != 201) {
        refused.refused(409, "no_place");
    }
    assert!(agents.iter().all(|a| a.calls(Ask::Create) == 1), "no node was bothered in vain");
    drop(plane);
}
