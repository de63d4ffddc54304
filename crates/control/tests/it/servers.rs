//! Servers of every kind in one shape, found by one function, and the addresses that are registered by hand.

use crate::{nginx, running};
use nm_store::{Kind, NewResource};
use nm_testing::{Client, Database, FakeAgent, TestControlPlane, both};
use nm_types::InstanceId;
use nm_types::auth::AuditEntryView;
use nm_types::server::{ServerKind, ServerView};
use serde_json::{Value, json};

both!(every_kind_in_one_list, registered_by_hand);

/// What the cloud's own service will write.
async fn rent(plane: &TestControlPlane, name: &str, status: Value) -> InstanceId {
    let id = InstanceId::fresh(plane.app().clock.now().0);
    let row = NewResource::new(Kind::Instance, id.as_str()).named(name).status(&status).unwrap();
    let mut tx = plane.app().store.begin(plane.app().clock.now()).await.unwrap();
    tx.insert(row).await.unwrap();
    tx.commit().await.unwrap();
    id
}

async fn pages(api: &Client, query: &str) -> Vec<ServerView> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let reply = api.get(format!("/api/servers?{query}{cursor}")).await;
        all.extend(reply.data::<Vec<ServerView>>(200));
        match reply.json()["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}

async fn every_kind_in_one_list(database: Database) {
    let plane = TestControlPlane::start(database).await;
    let agent = FakeAgent::join(&plane, "alder").await;
    let api = plane.operator().await.clone();
    let container = api.create(&running("web")).await.id;
    let instance = rent(&plane, "rented", json!({ "status": "running", "publicIp": "203.0.113.9" })).await;
    let new = json!({ "name": "mail", "address": "mail.example.com", "port": 25 });
    let address: ServerView = api.post("/api/servers").json(&new).await.data(201);

    let wanted = [
        (container.as_str(), ServerKind::Container, "web", "running"),
        (instance.as_str(), ServerKind::Instance, "rented", "running"),
        (agent.node.as_str(), ServerKind::Node, "alder", "ready"),
        (address.id.as_str(), ServerKind::Address, "mail", "unknown"),
    ];
    for limit in [1, 2, 3, 200] {
        let all = pages(&api, &format!("limit={limit}")).await;
        let seen: Vec<_> = all.iter().map(|s| (s.id.as_str(), s.kind, s.name.as_str())).collect();
        assert_eq!(seen, wanted.map(|(id, kind, name, _)| (id, kind, name)), "limit {limit}");
    }
    for (id, kind, name, status) in wanted {
        let kind_text = kind.as_str();
        let of_kind = pages(&api, &format!("kind={kind_text}")).await;
        assert_eq!(of_kind.iter().map(|s| s.id.as_str()).collect::<Vec<_>>(), [id], "{kind_text}");
        for key in [id, name] {
            let one: ServerView = api.get(format!("/api/servers/{key}")).await.data(200);
            assert_eq!((one.id.as_str(), one.kind), (id, kind));
            // The address is checked meanwhile.
            assert!(one.status == status || kind == ServerKind::Address, "{one:?}");
        }
    }
    let seen: ServerView = api.get("/api/servers/web").await.data(200);
    assert_eq!(seen.node_id.as_ref(), Some(&agent.node));
    let seen: ServerView = api.get("/api/servers/rented").await.data(200);
    assert_eq!(seen.address.as_deref(), Some("203.0.113.9"));

    // A name that several servers have says too little.
    let new = json!({ "name": "web", "address": "10.9.9.9" });
    let second: ServerView = api.post("/api/servers").json(&new).await.data(201);
    let body = api.get("/api/servers/web").await.refused(409, "ambiguous_name");
    assert!(body.error.contains("2 servers"), "{}", body.error);
    api.post("/api/capabilities/health/web/check").await.refused(409, "ambiguous_name");
    api.get(format!("/api/servers/{}", second.id)).await.is(200);
    for nothing in [
        "moon",
        "node_1_aaaaaaaaa",
        "inst_1_aaaaaaaaa",
        "server_1_aaaaaaaaa",
        "op_1_aaaaaaaaa",
    ] {
        api.get(format!("/api/servers/{nothing}")).await.refused(404, "server_not_found");
    }
    api.get("/api/servers?kind=moon").await.names("kind");
    api.get("/api/servers?limit=0").await.names("limit");
    api.get("/api/servers?cursor=x").await.names("cursor");
}

async fn registered_by_hand(database: Database) {
    let mut plane = TestControlPlane::start(database).await;
    let _agent = FakeAgent::join(&plane, "alder").await;
    let api = plane.operator().await.clone();
    api.create(&nginx("web")).await;
    let new = json!({ "name": "db", "address": "10.9.9.9", "port": 5432, "probe": { "type": "tcp", "timeout": 1 } });
    let reply = api.post("/api/servers").json(&new).await.is(201);
    let made: ServerView = reply.data(201);
    assert!(made.id.starts_with("server_"));
    assert_eq!(serde_json::to_value(&made).unwrap()["probe"], new["probe"]);
    api.post("/api/servers").json(&new).await.refused(409, "name_taken");

    let changed = api
        .patch("/api/servers/db")
        .json(&json!({ "name": "database", "address": "10.9.9.10" }))
        .header("if-match", &reply.etag())
        .await;
    let view: ServerView = changed.data(200);
    assert_eq!((view.id.as_str(), view.name.as_str()), (made.id.as_str(), "database"));
    assert_eq!(
        (view.address.as_deref(), view.port.map(|p| p.get())),
        (Some("10.9.9.10"), Some(5432))
    );
    api.patch("/api/servers/database")
        .json(&json!({ "port": 1 }))
        .header("if-match", &reply.etag())
        .await
        .refused(412, "changed_meanwhile");
    api.get("/api/servers/db").await.refused(404, "server_not_found");
    plane.restart().await;
    let view: ServerView = api.get("/api/servers/database").await.data(200);
    assert_eq!(view.address.as_deref(), Some("10.9.9.10"));

    // Others are changed and removed as what they are.
    for key in ["alder", "web"] {
        api.patch(format!("/api/servers/{key}"))
            .json(&json!({ "port": 1 }))
            .await
            .refused(409, "not_registered_by_hand");
        api.delete(format!("/api/servers/{key}"))
            .await
            .refused(409, "not_registered_by_hand");
    }
    api.delete("/api/servers/database").await.is(200);
    api.get(format!("/api/servers/{}", made.id)).await.refused(404, "server_not_found");
    let entries: Vec<AuditEntryView> = plane.admin().await.get(format!("/api/audit?target={}", made.id)).await.data(200);
    let mut actions: Vec<&str> = entries.iter().map(|e| e.action.as_str()).collect();
    actions.sort_unstable();
    assert_eq!(actions, ["server.create", "server.remove", "server.update"]);
}

#[tokio::test]
async fn what_can_not_be_registered() {
    let plane = TestControlPlane::sqlite().await;
    let api = plane.operator().await;
    for (body, field) in [
        (json!({ "address": "10.0.0.1" }), "name"),
        (json!({ "name": "a" }), "address"),
        (json!({ "name": "a/b", "address": "10.0.0.1" }), "name"),
        (json!({ "name": "settings", "address": "10.0.0.1" }), "name"),
        (json!({ "name": "node_a", "address": "10.0.0.1" }), "name"),
        (json!({ "name": "a", "address": "http://10.0.0.1" }), "address"),
        (json!({ "name": "a", "address": "10.0.0.1:80" }), "address"),
        (json!({ "name": "a", "address": "; reboot" }), "address"),
        (json!({ "name": "a", "address": "10.0.0.1", "port": 0 }), "port"),
        (
            json!({ "name": "a", "address": "10.0.0.1", "probe": { "type": "icmp" } }),
            "probe.type",
        ),
        (
            json!({ "name": "a", "address": "10.0.0.1", "probe": { "type": "http", "path": "up" } }),
            "probe.path",
        ),
        (
            json!({ "name": "a", "address": "10.0.0.1", "probe": { "type": "http", "timeout": 11 } }),
            "probe.timeout",
        ),
        (
            json!({ "name": "a", "address": "10.0.0.1", "probe": { "type": "http", "expectStatus": 99 } }),
            "probe.expectStatus",
        ),
        (
            json!({ "name": "a", "address": "10.0.0.1", "probe": { "type": "http", "nope": 1 } }),
            "probe.nope",
        ),
        (json!({ "name": "a", "address": "10.0.0.1", "nope": 1 }), "nope"),
    ] {
        api.post("/api/servers").json(&body).await.names(field);
    }
    for (body, field) in [
        (json!({ "name": "a", "address": "10.0.0.1", "probe": { "type": "tcp" } }), "port"),
        (
            json!({ "name": "a", "address": "10.0.0.1", "port": 1, "probe": { "type": "tcp", "path": "/" } }),
            "probe.path",
        ),
    ] {
        api.post("/api/servers").json(&body).await.clashes(field);
    }
    // Places the control plane does not connect to.
    for address in [
        "127.0.0.2",
        "169.254.169.254",
        "::1",
        "::ffff:169.254.169.254",
        "fe80::1",
        "0.0.0.0",
    ] {
        let body = json!({ "name": "a", "address": address, "port": 80 });
        let refused = api.post("/api/servers").json(&body).await.refused(403, "address_not_allowed");
        assert_eq!(refused.details[0].field, "address", "{address}");
    }
    api.post("/api/servers")
        .json(&json!({ "name": "a", "address": "10.0.0.1" }))
        .await
        .is(201);
    api.patch("/api/servers/a")
        .json(&json!({ "address": "127.0.0.2" }))
        .await
        .refused(403, "address_not_allowed");
    api.patch("/api/servers/a")
        .json(&json!({ "probe": { "type": "tcp" } }))
        .await
        .clashes("port");
    api.patch("/api/servers/a").json(&json!({ "id": "x" })).await.names("id");
}
