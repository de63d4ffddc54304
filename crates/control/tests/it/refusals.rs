//! What is refused, and how the refusal says what is wrong.

use super::manners::fleet;
use nm_types::registry::RegistryView;
use serde_json::{Value, json};

#[tokio::test]
async fn each_refusal_names_its_field() {
    let (plane, agent, api) = fleet().await;
    let long = "x".repeat(101);
    for (body, field) in [
        (json!({ "name": "a", "image": "b", "memoryLimit": "lots" }), "memoryLimit"),
        (json!({ "name": "a", "image": "b", "memoryLimit": 512 }), "memoryLimit"),
        (json!({ "name": "a", "image": "b", "cpuLimit": 0 }), "cpuLimit"),
        (json!({ "name": "a", "image": "b", "cpuLimit": 65 }), "cpuLimit"),
        (
            json!({ "name": "a", "image": "b", "ports": [{ "container": 0 }] }),
            "ports[0].container",
        ),
        (
            json!({ "name": "a", "image": "b", "ports": [{ "container": 70000 }] }),
            "ports[0].container",
        ),
        (
            json!({ "name": "a", "image": "b", "ports": [{ "container": 80, "host": 70000 }] }),
            "ports[0].host",
        ),
        (
            json!({ "name": "a", "image": "b", "ports": [{ "container": 80, "host": -1 }] }),
            "ports[0].host",
        ),
        (
            json!({ "name": "a", "image": "b", "ports": [{ "container": 80, "protocol": "sctp" }] }),
            "ports[0].protocol",
        ),
        (
            json!({ "name": "a", "image": "b", "ports": [{ "container": 80, "hostIp": "::1" }] }),
            "ports[0].hostIp",
        ),
        (json!({ "name": "a", "image": "b", "ports": "80:80" }), "ports"),
        (
            json!({ "name": "a", "image": "b", "volumes": [{ "container": "relative" }] }),
            "volumes[0].container",
        ),
        (
            json!({ "name": "a", "image": "b", "volumes": [{ "container": "/x", "host": "/a/../etc" }] }),
            "volumes[0].host",
        ),
        (json!({ "name": "a", "image": "b", "restart": "sometimes" }), "restart"),
        (json!({ "name": "a", "image": "b", "environment": { "1A": "x" } }), "environment.1A"),
        (
            json!({ "name": "a", "image": "b", "environment": { "A": "x\u{0}y" } }),
            "environment.A",
        ),
        (
            json!({ "name": "a", "image": "b", "labels": { "io.neuralmesh.id": "x" } }),
            "labels.io.neuralmesh.id",
        ),
        (json!({ "name": "a", "image": "b", "command": ["a\u{0}b"] }), "command[0]"),
        (json!({ "name": "a", "image": "b", "user": "; rm -rf /" }), "user"),
        (json!({ "name": "a", "image": "b", "capDrop": ["$(id)"] }), "capDrop[0]"),
        (json!({ "name": "a", "image": "b", "securityOpt": true }), "securityOpt"),
        (json!({ "name": "a", "image": "b", "capAdd": ["net admin"] }), "capAdd[0]"),
        (
            json!({ "name": "a", "image": "b", "healthCheck": { "command": [] } }),
            "healthCheck.command",
        ),
        (json!({ "name": "a", "image": "b", "start": "yes" }), "start"),
        (json!({ "name": "", "image": "b" }), "name"),
        (json!({ "name": long, "image": "b" }), "name"),
        (json!({ "name": "-flag", "image": "b" }), "name"),
        (json!({ "name": "a;b", "image": "b" }), "name"),
        (json!({ "name": "a`id`", "image": "b" }), "name"),
        (json!({ "name": "../a", "image": "b" }), "name"),
        (json!({ "name": "a", "image": "-b" }), "image"),
        (json!({ "name": "a", "image": "UPPER" }), "image"),
        (json!({ "name": "a", "image": "b $(id)" }), "image"),
        (json!({ "name": "a" }), "image"),
        (json!({ "image": "b" }), "name"),
        (json!({ "name": null, "image": "b" }), "name"),
    ] {
        api.post("/api/containers").json(&body).await.names(field);
    }
    for (body, field) in [
        (r#"{"name":"a","name":"b","image":"c"}"#, "name"),
        (r#"{"name":"a","image":"c","environment":{"A":"1","A":"2"}}"#, "environment"),
        (r#"{"name":"a","image":"c","labels":{"a":"1","a":"2"}}"#, "labels"),
        (r#"{"name":"list","image":"c"}"#, "name"),
        (r#"{"name":"cont_1_abcdefghi","image":"c"}"#, "name"),
    ] {
        api.post("/api/containers").body("application/json", body).await.names(field);
    }
    // Each can be taken, but not with the others, or not here; all are named.
    let clashes: &[(Value, &[&str])] = &[
        (
            json!({ "name": "a", "image": "b", "volumes": [{ "container": "/x" }, { "container": "/x" }] }),
            &["volumes[1].container"],
        ),
        (
            json!({ "name": "a", "image": "b", "networks": ["host", "back", "back"] }),
            &["networks[0]", "networks[2]"],
        ),
        (
            json!({ "name": "a", "image": "b", "ports": [{ "container": 80, "host": 80 }, { "container": 81, "host": 80 }] }),
            &["ports[1].host"],
        ),
    ];
    for (body, fields) in clashes {
        let refused = api.post("/api/containers").json(body).await.refused(409, "conflicting_fields");
        assert_eq!(refused.details.iter().map(|d| d.field.as_str()).collect::<Vec<_>>(), *fields);
    }
    // A body that is no object at all.
    for body in [json!([]), json!("web"), json!(7), json!(null)] {
        api.post("/api/containers").json(&body).await.refused(422, "invalid_field");
    }
    api.post("/api/containers")
        .json(&json!({ "name": "a", "image": "b", "nodeId": "moon" }))
        .await
        .refused(404, "node_not_found");
    assert_eq!(agent.all_calls(), 0);

    let admin = plane.admin().await;
    for (path, body, field) in [
        (
            "/api/users",
            json!({ "username": "Ada", "password": "long enough it is", "role": "viewer" }),
            "username",
        ),
        (
            "/api/users",
            json!({ "username": "ada", "password": "short", "role": "viewer" }),
            "password",
        ),
        (
            "/api/users",
            json!({ "username": "ada", "password": "long enough it is", "role": "god" }),
            "role",
        ),
        (
            "/api/tokens",
            json!({ "name": "ci", "role": "viewer", "scopes": ["moon:read"] }),
            "scopes[0]",
        ),
        (
            "/api/tokens",
            json!({ "name": "ci", "role": "viewer", "expiresInDays": 0 }),
            "expiresInDays",
        ),
        (
            "/api/registries",
            json!({ "host": "HTTP://x", "username": "a", "password": "b" }),
            "host",
        ),
        (
            "/api/volumes",
            json!({ "name": "data", "driverOpts": { "device": "/etc" } }),
            "driverOpts",
        ),
        ("/api/networks", json!({ "name": "-a" }), "name"),
        ("/api/containers/images/pull", json!({ "name": "nginx", "tag": "-x" }), "tag"),
    ] {
        admin.post(path).json(&body).await.names(field);
    }
    let role = json!({ "role": "admin" });
    api.patch("/api/containers/x").json(&role).await.names("role");
    api.post("/api/auth/password")
        .json(&json!({ "currentPassword": "a", "newPassword": "long enough it is", "role": "admin" }))
        .await
        .names("role");
}

/// Registries at the metadata services of clouds, and on machines of their own network that nobody allowed.
#[tokio::test]
async fn registries_at_special_addresses() {
    let (plane, agent, api) = fleet().await;
    let admin = plane.admin().await;
    let kept: RegistryView = admin
        .post("/api/registries")
        .json(&json!({ "host": "127.0.0.1:5000", "username": "a", "password": "b" }))
        .await
        .data(201);
    let asked = agent.all_calls();
    for host in [
        "169.254.169.254",
        "169.254.169.254:5000",
        "0xa9fea9fe:80",
        "2852039166:80",
        "0.0.0.0:5000",
    ] {
        let image = format!("{host}/team/app:1");
        let login = json!({ "host": host, "username": "a", "password": "b" });
        for (call, field) in [
            (api.post("/api/containers").json(&json!({ "name": "a", "image": image })), "image"),
            (api.post("/api/containers/images/pull").json(&json!({ "name": image })), "name"),
            (admin.post("/api/registries").json(&login), "host"),
            (admin.put(format!("/api/registries/{}", kept.id)).json(&login), "host"),
        ] {
            let refused = call.await.refused(403, "address_not_allowed");
            assert_eq!(refused.details[0].field, field, "{host}");
        }
    }
    assert_eq!(agent.all_calls(), asked, "no node was asked");
    assert!(api.containers("").await.is_empty());
    // A login for loopback needs the start flag, which in these tests names one address; an image of a node's own registry does not.
    let login = json!({ "host": "127.0.0.2:5000", "username": "a", "password": "b" });
    let refused = admin.post("/api/registries").json(&login).await.refused(403, "address_not_allowed");
    assert_eq!(refused.details[0].field, "host");
    api.create(&json!({ "name": "a", "image": "127.0.0.2:5000/team/app:1" })).await;
}

/// What an action would not look at is refused, whatever it is.
#[tokio::test]
async fn bodies_of_actions_that_take_none() {
    let (plane, agent, api) = fleet().await;
    let admin = plane.admin().await;
    api.create(&json!({ "name": "web", "image": "nginx", "start": true })).await;
    let asked = agent.all_calls();
    let routes = nm_control::api::routes();
    let actions = routes
        .iter()
        .filter(|r| r.method == http::Method::POST && r.body.is_none() && r.raw_body.is_none());
    let mut looked_at = 0;
    for route in actions {
        let path = route.path.replace("{id}", "web");
        for (kind, body, status) in [
            ("application/json", r#"{"nope":1}"#, 422),
            ("application/json", "[]", 422),
            ("application/json", "{", 400),
            ("text/plain", "now", 400),
        ] {
            let reply = admin.post(&path).body(kind, body).await;
            assert_eq!(reply.status, status, "{path} {body}: {}", reply.text());
        }
        looked_at += 1;
    }
    assert!(looked_at > 5, "{looked_at}");
    for verb in ["stop", "restart", "kill"] {
        api.post(format!("/api/containers/web/{verb}"))
            .body("application/json", r#"{"nope":1}"#)
            .await
            .names("nope");
    }
    assert_eq!(agent.all_calls(), asked, "no node was asked");
    // An empty object says nothing.
    api.post("/api/containers/web/pause").json(&json!({})).await.is(200);
}

/// Whoever acts is told what came of it.
#[tokio::test]
async fn actions_say_what_came_of_them() {
    let (plane, _agent, api) = fleet().await;
    let admin = plane.admin().await;
    api.create(&json!({ "name": "web", "image": "nginx", "start": true })).await;
    for call in [
        admin.post("/api/auth/tickets"),
        admin.post("/api/containers/web/exec").json(&json!({ "command": ["true"] })),
        admin.post("/api/images/prune"),
        admin.post("/api/containers/web/pause"),
    ] {
        let said = call.await.is(200).json();
        assert!(said["message"].as_str().is_some_and(|m| !m.is_empty()), "{said}");
    }
}

/// A name that nothing knows is refused on every route there is, lest a typo be lost in silence.
#[tokio::test]
async fn unknown_query_parameters() {
    let (plane, agent, _) = fleet().await;
    let admin = plane.admin().await;
    for route in nm_control::api::routes() {
        let path = route.path.replace("{id}", "nothing").replace("{name}", "nothing");
        let reply = admin.call(route.method.clone(), format!("{path}?nope=1")).json(&json!({})).await;
        reply.names("nope");
    }
    assert_eq!(agent.all_calls(), 0);
    admin.get("/api/containers?limit=1&limit=2").await.names("limit");
}
