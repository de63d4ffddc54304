//! What users may ask, and what they are told.

use super::{CLUSTERS, Fleet, cluster, create, event, events, fleet, load_balanced, sockets, web, with};
use nm_testing::{FakeAgent, TestControlPlane, eventually};
use nm_types::auth::{AuditEntryView, Role};
use nm_types::cluster::{ClusterEventKind, ClusterStatus, ClusterView};
use serde_json::{Value, json};

/// `server_1` and its like are names there, and no ids.
async fn three_servers() -> Fleet {
    let fleet = fleet().await;
    for (n, agent) in [(1, &fleet.one), (2, &fleet.one), (3, &fleet.two)] {
        web(&fleet.plane, &fleet.api, agent, &format!("web-{n}"), &format!("172.17.0.{n}")).await;
    }
    fleet
}

#[tokio::test]
async fn the_specifications_requests() {
    let Fleet {
        api,
        one,
        two: _two,
        plane: _plane,
    } = three_servers().await;
    let ids: Vec<String> = api.containers("managed=true").await.into_iter().map(|c| c.id.to_string()).collect();
    let request = json!({
        "name": "Production Web Cluster",
        "type": "load-balanced",
        "servers": ids,
        "loadBalancer": { "algorithm": "least-connections", "healthCheckInterval": 30, "healthCheckTimeout": 5 },
        "autoScaling": {
            "enabled": true, "minServers": 2, "maxServers": 10, "targetCpuPercent": 70, "targetMemoryPercent": 80,
            "scaleUpCooldown": 300, "scaleDownCooldown": 600
        }
    });
    let reply = api.post(CLUSTERS).json(&request).await.is(201);
    let body = reply.json();
    let data = &body["data"];
    let id = data["id"].as_str().unwrap();
    assert!(nm_types::ClusterId::parse(id).is_ok(), "{id}");
    assert_eq!(data["name"], "Production Web Cluster");
    assert_eq!(data["type"], "load-balanced");
    assert_eq!(data["status"], "healthy", "{body:#}");
    assert_eq!(data["servers"], json!(ids));
    for field in ["totalRequests", "averageResponseTime", "errorRate", "totalBandwidth"] {
        assert_eq!(data["metrics"][field].as_f64(), Some(0.0), "{field}");
    }
    assert!(body["message"].as_str().is_some_and(|m| m.contains("healthy")), "{body}");
    let port = data["listenPort"].as_u64().unwrap();
    assert!((30_000..=32_767).contains(&port), "{port}");
    assert_eq!(data["endpoint"], format!("http://10.0.0.1:{port}"), "where most of the members are");
    assert_eq!(data["autoScaling"]["maxServers"], 10);
    assert_eq!(data["loadBalancer"], request["loadBalancer"]);
    let states: Vec<&Value> = data["members"].as_array().unwrap().iter().map(|m| &m["state"]).collect();
    assert_eq!(states, ["up", "up", "up"], "{data:#}");
    // The third one's port was published at the node's choice.
    assert_eq!(sockets(&one, id).len(), 3);

    let listed: Vec<ClusterView> = api.get(CLUSTERS).await.data(200);
    assert_eq!(listed.len(), 1);
    let (named, by_id) = (cluster(&api, "Production%20Web%20Cluster").await, cluster(&api, id).await);
    // What its servers do may have been told again between the two.
    assert_eq!(
        (named.id.as_str(), &named.servers, named.generation),
        (id, &by_id.servers, by_id.generation)
    );

    let change = json!({ "autoScaling": { "enabled": true, "maxServers": 15, "targetCpuPercent": 60 } });
    let changed = api.patch(format!("{CLUSTERS}/{id}")).json(&change).await.is(200).json();
    let scaling = &changed["data"]["autoScaling"];
    assert_eq!((&scaling["maxServers"], &scaling["targetCpuPercent"]), (&json!(15), &json!(60)));
    assert_eq!((&scaling["minServers"], &scaling["scaleDownCooldown"]), (&json!(2), &json!(600)));
    assert_eq!(changed["data"]["generation"], 2);
    assert_eq!(changed["data"]["servers"], json!(ids), "only what is sent changes");

    api.delete(format!("{CLUSTERS}/{id}")).await.is(200);
    api.get(format!("{CLUSTERS}/{id}")).await.refused(404, "cluster_not_found");
    eventually("the node carries nothing", async || {
        one.edge().unwrap().proxy.listeners.is_empty().then_some(())
    })
    .await;
    assert_eq!(api.containers("managed=true").await.len(), 3, "its servers stay");
}

#[tokio::test]
async fn servers_come_and_go_by_id_and_by_name() {
    let Fleet {
        api,
        one,
        two: _two,
        plane: _plane,
    } = three_servers().await;
    let made = create(&api, &load_balanced("web", &["web-1"])).await;
    let path = format!("{CLUSTERS}/web/servers");
    let third = api.container("web-3").await.id;
    let added: ClusterView = api
        .post(&path)
        .json(&json!({ "servers": ["web-2", { "id": third, "weight": 5 }] }))
        .await
        .data(200);
    assert_eq!(added.servers, ["web-1", "web-2", third.as_str()], "as they were named");
    assert_eq!(added.members.iter().map(|m| m.weight).collect::<Vec<_>>(), [1, 1, 5]);
    assert_eq!(sockets(&one, made.id.as_str()).len(), 3);
    api.post(&path)
        .json(&json!({ "servers": ["web-4"] }))
        .await
        .refused(404, "server_not_found");
    let refused = api
        .post(&path)
        .json(&json!({ "servers": ["moon"] }))
        .await
        .refused(404, "server_not_found");
    assert_eq!(refused.details[0].field, "servers[0]");
    api.post(&path).json(&json!({ "servers": ["web-1"] })).await.at_odds("servers[0]");
    api.post(&path).json(&json!({ "servers": [] })).await.names("servers");
    let gone: ClusterView = api.delete(format!("{path}/web-2")).await.data(200);
    assert_eq!(gone.servers, ["web-1", third.as_str()]);
    api.delete(format!("{path}/web-2")).await.refused(404, "server_not_found");
    api.delete(format!("{path}/{third}")).await.is(200);
    api.delete(format!("{path}/web-1")).await.refused(409, "last_server");
    let told: Vec<ClusterEventKind> = events(&api, "web").await.into_iter().map(|e| e.kind).collect();
    let count = |kind| told.iter().filter(|k| **k == kind).count();
    assert_eq!(
        (count(ClusterEventKind::MemberAdded), count(ClusterEventKind::MemberRemoved)),
        (2, 2),
        "{told:?}"
    );
}

#[tokio::test]
async fn what_can_not_be_is_refused_by_name() {
    let Fleet {
        api,
        plane,
        one: _one,
        two: _two,
    } = three_servers().await;
    let one = load_balanced("web", &["web-1"]);
    let post = async |change: Value| api.post(CLUSTERS).json(&with(one.clone(), change)).await;
    for (change, field) in [
        (json!({ "servers": ["web-1", "web-1"] }), "servers[1]"),
        (json!({ "servers": ["web-1", api.container("web-1").await.id] }), "servers[1]"),
        (
            json!({ "autoScaling": { "minServers": 5, "maxServers": 2, "targetCpuPercent": 50 } }),
            "autoScaling.minServers",
        ),
        (
            json!({ "loadBalancer": { "healthCheckInterval": 10, "healthCheckTimeout": 30 } }),
            "loadBalancer.healthCheckTimeout",
        ),
        (json!({ "tls": {} }), "tls.certificate"),
        (json!({ "tls": { "certificate": "x" } }), "tls.key"),
        (json!({ "tls": { "certificate": "x", "key": "y" } }), "tls.certificate"),
        (json!({ "entryNodes": ["alder", "alder"] }), "entryNodes[1]"),
    ] {
        post(change).await.at_odds(field);
    }
    for (change, field) in [
        (json!({ "servers": [] }), "servers"),
        (json!({ "servers": [{ "id": "web-1", "weight": 500 }] }), "servers[0].weight"),
        (json!({ "servers": [{ "id": "web-1", "nope": 1 }] }), "servers[0].nope"),
        (
            json!({ "loadBalancer": { "healthCheckInterval": 5 } }),
            "loadBalancer.healthCheckInterval",
        ),
        (json!({ "autoScaling": { "maxServers": 101 } }), "autoScaling.maxServers"),
        (json!({ "nope": 1 }), "nope"),
    ] {
        post(change).await.names(field);
    }
    let unknown = post(json!({ "servers": ["web-1", "moon"] })).await.refused(404, "server_not_found");
    assert_eq!(unknown.details[0].field, "servers[1]");
    let unknown = post(json!({ "entryNodes": ["moon"] })).await.refused(404, "node_not_found");
    assert_eq!(unknown.details[0].field, "entryNodes[0]");
    // Ports that are taken: by another cluster, and by a container.
    let taken = api.containers("name=web-1").await[0].ports[0].host;
    let in_use = post(json!({ "listenPort": taken })).await.refused(409, "port_in_use");
    assert_eq!(in_use.details[0].field, "listenPort");
    post(json!({ "listenPort": 8080, "routes": [{ "host": "a.example" }] }))
        .await
        .is(201);
    let other = with(
        one.clone(),
        json!({ "name": "other", "listenPort": 8080, "routes": [{ "host": "a.example" }] }),
    );
    let in_use = api.post(CLUSTERS).json(&other).await.refused(409, "port_in_use");
    assert!(in_use.error.contains("`web`"), "{}", in_use.error);
    let beside = with(other, json!({ "routes": [{ "host": "b.example" }] }));
    api.post(CLUSTERS).json(&beside).await.is(201);
    api.post(CLUSTERS).json(&one).await.refused(409, "name_taken");

    // What takes more than to be an operator.
    let operator = plane.operator().await;
    let node = with(
        load_balanced("n", &["alder"]),
        json!({ "servers": [{ "id": "alder", "port": 80 }] }),
    );
    let refused = operator.post(CLUSTERS).json(&node).await.refused(403, "forbidden");
    assert_eq!(refused.details[0].field, "servers[0]");
    let shared = with(
        load_balanced("v", &["web-1"]),
        json!({ "virtualAddress": { "address": "10.0.0.9" } }),
    );
    operator.post(CLUSTERS).json(&shared).await.refused(403, "forbidden");
    let strong = with(
        load_balanced("s", &["web-1"]),
        json!({ "serverTemplate": { "container": { "name": "x", "image": "y", "privileged": true } } }),
    );
    let refused = operator.post(CLUSTERS).json(&strong).await.refused(403, "forbidden");
    assert_eq!(refused.details[0].field, "serverTemplate.container.privileged");
    api.post(CLUSTERS).json(&shared).await.is(201);
    let narrow = plane.token(Role::Operator, &["clusters:write"]).await;
    let scaled = with(load_balanced("t", &["web-1"]), json!({ "autoScaling": { "targetCpuPercent": 50 } }));
    narrow.post(CLUSTERS).json(&scaled).await.refused(403, "forbidden");
}

#[tokio::test]
async fn a_change_is_merged_and_judged_as_a_whole() {
    let Fleet {
        api,
        one: _one,
        two: _two,
        plane: _plane,
    } = three_servers().await;
    let made = create(
        &api,
        &with(
            load_balanced("web", &["web-1", "web-2"]),
            json!({ "retries": 5, "listenPort": 8080, "healthCheck": { "path": "/up" } }),
        ),
    )
    .await;
    let path = format!("{CLUSTERS}/{}", made.id);
    let patch = async |change: Value| api.patch(&path).json(&change).await;
    let changed: ClusterView = patch(json!({ "healthCheck": { "fall": 4 }, "retries": null })).await.data(200);
    assert_eq!(changed.retries, 2, "back to what it is by default");
    assert_eq!(changed.health_check.path.as_ref().unwrap().as_str(), "/up");
    assert_eq!(changed.health_check.fall.unwrap().get(), 4);
    assert_eq!((changed.listen_port, changed.generation), (8080, 2));
    for (change, field) in [
        (json!({ "nope": null }), "nope"),
        (json!({ "healthCheck": { "nope": null } }), "healthCheck.nope"),
        (json!({ "name": null }), "name"),
        (json!({ "retries": 99 }), "retries"),
        (json!({ "healthCheck": 5 }), "healthCheck"),
        (json!({ "type": "queue" }), "type"),
        (json!({ "servers": [] }), "servers"),
    ] {
        patch(change).await.names(field);
    }
    patch(json!({ "protocol": "tcp", "sticky": {} })).await.at_odds("sticky");
    patch(json!({ "virtualAddress": { "prefix": 24 } }))
        .await
        .at_odds("virtualAddress.address");
    patch(json!({ "autoScaling": { "targetCpuPercent": 50, "minServers": 20 } }))
        .await
        .at_odds("autoScaling.minServers");
    api.patch(&path)
        .body("application/json", r#"{"retries":1,"retries":2}"#)
        .await
        .names("retries");
    api.patch(&path).body("application/json", "[]").await.is(422);
    api.patch(&path).body("application/json", "{").await.refused(400, "malformed_json");

    let etag = api.get(&path).await.etag();
    api.patch(&path)
        .header("if-match", &etag)
        .json(&json!({ "retries": 1 }))
        .await
        .is(200);
    api.patch(&path)
        .header("if-match", &etag)
        .json(&json!({ "retries": 2 }))
        .await
        .refused(412, "changed_meanwhile");
    api.delete(&path).header("if-match", &etag).await.refused(412, "changed_meanwhile");

    // A server that is gone keeps nobody from changing something else.
    api.delete("/api/containers/web-2?force=true").await.is(200);
    let changed: ClusterView = patch(json!({ "name": "shop" })).await.data(200);
    assert_eq!((changed.name.as_str(), changed.members.len()), ("shop", 2));
    assert_eq!(changed.status, ClusterStatus::Critical);
    let told = changed
        .conditions
        .iter()
        .find(|c| c.about == Some(changed.members[1].id.clone()))
        .unwrap();
    assert!(told.message.contains("remove it from the cluster"), "{}", told.message);
    api.get(format!("{CLUSTERS}/web")).await.refused(404, "cluster_not_found");
}

#[tokio::test]
async fn a_request_that_is_sent_twice_makes_one_cluster() {
    let Fleet {
        api,
        plane,
        one: _one,
        two: _two,
    } = three_servers().await;
    let request = load_balanced("web", &["web-1"]);
    let first: ClusterView = api.post(CLUSTERS).idempotency_key("k1").json(&request).await.data(201);
    let second: ClusterView = api.post(CLUSTERS).idempotency_key("k1").json(&request).await.data(201);
    assert_eq!(first.id, second.id);
    api.post(CLUSTERS)
        .idempotency_key("k1")
        .json(&load_balanced("other", &["web-1"]))
        .await
        .refused(409, "idempotency_key_reused");
    assert_eq!(event(&api, "web", ClusterEventKind::Created).await.sequence, 1);
    let entries: Vec<AuditEntryView> = plane.admin().await.get("/api/audit?action=cluster.create").await.data(200);
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].target.as_deref(), Some(first.id.as_str()));
}

#[tokio::test]
async fn a_key_goes_to_the_node_and_nowhere_else() {
    let Fleet {
        api,
        one,
        mut plane,
        two: _two,
    } = three_servers().await;
    let own = with(
        load_balanced("own", &["web-1"]),
        json!({
            "listenPort": 443, "tls": { "selfSigned": true, "serverNames": ["own.example"] }, "redirectToHttps": {},
            "routes": [{ "host": "own.example" }],
            "serverTemplate": { "container": { "name": "x", "image": "y", "environment": { "DB_PASSWORD": "planted-secret" } } }
        }),
    );
    let made = create(&api, &own).await;
    assert_eq!(made.endpoint.as_deref(), Some("https://10.0.0.1:443"));
    let tls = made.tls.as_ref().unwrap();
    assert!(tls.self_signed && tls.certificate.contains("BEGIN CERTIFICATE") && tls.expires.is_some());
    let key_of = |name: &str| {
        let config = serde_json::to_value(one.edge().unwrap().proxy).unwrap();
        let listener = config["listeners"]
            .as_array()
            .unwrap()
            .iter()
            .find(|l| l["port"] == 443)
            .cloned()
            .unwrap();
        let certificates = listener["tls"]["certificates"].as_array().unwrap().clone();
        let of = certificates.into_iter().find(|c| c["serverNames"] == json!([name])).unwrap();
        (
            of["source"]["inline"]["certificate"].as_str().unwrap().to_owned(),
            of["source"]["inline"]["key"].as_str().unwrap().to_owned(),
        )
    };
    let pair = key_of("own.example");
    assert_eq!(pair.0, tls.certificate);
    // The same pair, uploaded for another name: the two share a port.
    let sent = with(
        load_balanced("sent", &["web-2"]),
        json!({
            "listenPort": 443, "routes": [{ "host": "sent.example" }],
            "tls": { "certificate": pair.0, "key": pair.1, "serverNames": ["sent.example"] }
        }),
    );
    let other = create(&api, &sent).await;
    assert_eq!(key_of("sent.example"), pair);
    // A change of something else keeps it; so does a restart.
    api.patch(format!("{CLUSTERS}/{}", other.id))
        .json(&json!({ "retries": 1 }))
        .await
        .is(200);
    let before = one.edge().unwrap();
    plane.restart().await;
    one.ready(&plane).await;
    let shown = cluster(&api, "own").await;
    assert_eq!(shown.tls, made.tls);
    eventually("the node was asked", async || shown_current(&api, "own").await).await;
    assert_eq!(one.edge().unwrap(), before, "nothing new to give");
    assert_eq!(key_of("sent.example"), pair);
    // Another key is not taken for this certificate, and without it there is no TLS.
    let another = rcgen::KeyPair::generate().unwrap().serialize_pem();
    api.patch(format!("{CLUSTERS}/{}", other.id))
        .json(&json!({ "tls": { "key": another } }))
        .await
        .at_odds("tls.key");
    api.patch(format!("{CLUSTERS}/{}", other.id))
        .json(&json!({ "tls": { "key": null } }))
        .await
        .at_odds("tls.key");
    for path in [
        CLUSTERS.to_owned(),
        format!("{CLUSTERS}/own"),
        format!("{CLUSTERS}/own/events"),
        "/api/audit?limit=200".to_owned(),
    ] {
        let text = api.get(&path).await.text();
        for secret in ["PRIVATE KEY", "planted-secret"] {
            assert!(!text.contains(secret), "{path} shows {secret}");
        }
    }
    let row = plane
        .app()
        .store
        .get(nm_store::Kind::Cluster, made.id.as_str())
        .await
        .unwrap()
        .unwrap();
    assert!(!row.spec_json().contains("planted-secret") && !row.spec_json().contains("PRIVATE KEY"));
}

async fn shown_current(api: &nm_testing::Client, key: &str) -> Option<()> {
    cluster(api, key)
        .await
        .entry_nodes
        .iter()
        .all(|e| e.current && e.connected)
        .then_some(())
}

#[tokio::test]
async fn without_a_node_there_is_a_condition_and_no_entry() {
    let plane = TestControlPlane::sqlite().await;
    let api = plane.admin().await.clone();
    api.post("/api/servers")
        .json(&json!({ "name": "far", "address": "192.0.2.7", "port": 80 }))
        .await
        .is(201);
    let made = create(&api, &load_balanced("web", &["far"])).await;
    assert_eq!((made.status, made.endpoint), (ClusterStatus::Offline, None));
    assert!(made.conditions[0].message.contains("join one"), "{:?}", made.conditions);
    // A node that joins later carries it once it is named.
    let agent = FakeAgent::join(&plane, "alder").await;
    let changed: ClusterView = api
        .patch(format!("{CLUSTERS}/web"))
        .json(&json!({ "entryNodes": ["alder"] }))
        .await
        .data(200);
    assert_eq!(changed.status, ClusterStatus::Healthy, "{changed:#?}");
    assert_eq!(sockets(&agent, made.id.as_str()), ["192.0.2.7:80"]);
}
