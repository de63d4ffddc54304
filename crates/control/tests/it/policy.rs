//! Who may do what: one table, written by hand, beside what the control plane says and beside what it does.

use http::Method;
use nm_control::api::route::Policy;
use nm_testing::{Call, Client, FakeAgent, TestControlPlane, eventually};
use nm_types::Timestamp;
use nm_types::auth::{AREAS, Role};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Method, path, and the verdict for: nobody, viewer, operator, admin, and an admin's token with the scope
/// `containers:read`. `.` is let in, `1` is 401, `3` is 403.
const TABLE: &[(&str, &str, &str)] = &[
    ("POST", "/api/auth/login", "....."),
    ("POST", "/api/auth/refresh", "....."),
    ("POST", "/api/auth/logout", "1...."),
    ("GET", "/api/auth/me", "1...."),
    ("POST", "/api/auth/password", "1...3"),
    ("GET", "/api/auth/sessions", "1...3"),
    ("DELETE", "/api/auth/sessions/{id}", "1...3"),
    ("POST", "/api/auth/tickets", "1...."),
    ("GET", "/api/users", "133.3"),
    ("POST", "/api/users", "133.3"),
    ("GET", "/api/users/{id}", "133.3"),
    ("PATCH", "/api/users/{id}", "133.3"),
    ("DELETE", "/api/users/{id}", "133.3"),
    ("GET", "/api/tokens", "1...3"),
    ("POST", "/api/tokens", "1...3"),
    ("DELETE", "/api/tokens/{id}", "1...3"),
    ("GET", "/api/audit", "133.3"),
    ("GET", "/api/audit/verify", "133.3"),
    ("GET", "/api/nodes", "1...3"),
    ("POST", "/api/nodes/join-tokens", "133.3"),
    ("POST", "/api/nodes/{id}/upgrade", "133.3"),
    ("GET", "/api/nodes/binaries", "1...3"),
    ("PUT", "/api/nodes/binaries/{id}", "133.3"),
    ("DELETE", "/api/nodes/binaries/{id}", "133.3"),
    ("GET", "/api/nodes/authority", "1...3"),
    ("POST", "/api/nodes/authority/rotate", "133.3"),
    ("POST", "/api/nodes/{id}/revoke", "133.3"),
    ("POST", "/api/nodes/{id}/rejoin-token", "133.3"),
    ("GET", "/api/nodes/{id}", "1...3"),
    ("PATCH", "/api/nodes/{id}", "133.3"),
    ("DELETE", "/api/nodes/{id}", "133.3"),
    ("GET", "/api/nodes/{id}/stats", "1...3"),
    ("GET", "/api/nodes/{id}/events", "1...3"),
    ("POST", "/api/nodes/{id}/drain", "133.3"),
    ("POST", "/api/nodes/{id}/cordon", "133.3"),
    ("POST", "/api/nodes/{id}/uncordon", "133.3"),
    ("GET", "/api/containers", "1...."),
    ("POST", "/api/containers", "13..3"),
    ("GET", "/api/containers/{id}", "1...."),
    ("PATCH", "/api/containers/{id}", "13..3"),
    ("DELETE", "/api/containers/{id}", "13..3"),
    ("POST", "/api/containers/{id}/start", "13..3"),
    ("POST", "/api/containers/{id}/stop", "13..3"),
    ("POST", "/api/containers/{id}/restart", "13..3"),
    ("POST", "/api/containers/{id}/pause", "13..3"),
    ("POST", "/api/containers/{id}/unpause", "13..3"),
    ("POST", "/api/containers/{id}/kill", "13..3"),
    ("POST", "/api/containers/{id}/rename", "13..3"),
    ("POST", "/api/containers/{id}/exec", "13..3"),
    ("GET", "/api/containers/{id}/logs", "1...."),
    ("GET", "/api/containers/{id}/stats", "1...."),
    ("GET", "/api/containers/{id}/inspect", "1...."),
    ("GET", "/api/containers/{id}/events", "1...."),
    ("GET", "/api/containers/{id}/terminal", "13..3"),
    ("GET", "/api/containers/{id}/archive", "13..3"),
    ("PUT", "/api/containers/{id}/archive", "13..3"),
    ("GET", "/api/containers/templates/list", "1...."),
    ("POST", "/api/containers/templates/{id}/run", "13..3"),
    ("GET", "/api/containers/images/list", "1...3"),
    ("POST", "/api/containers/images/pull", "13..3"),
    ("GET", "/api/images", "1...3"),
    ("DELETE", "/api/images", "13..3"),
    ("POST", "/api/images/prune", "13..3"),
    ("GET", "/api/volumes", "1...3"),
    ("POST", "/api/volumes", "13..3"),
    ("DELETE", "/api/volumes/{name}", "13..3"),
    ("GET", "/api/networks", "1...3"),
    ("POST", "/api/networks", "13..3"),
    ("DELETE", "/api/networks/{name}", "13..3"),
    ("POST", "/api/networks/{name}/attach", "13..3"),
    ("POST", "/api/networks/{name}/detach", "13..3"),
    ("GET", "/api/registries", "1...3"),
    ("POST", "/api/registries", "133.3"),
    ("PUT", "/api/registries/{id}", "133.3"),
    ("DELETE", "/api/registries/{id}", "133.3"),
    ("GET", "/api/servers", "1...3"),
    ("POST", "/api/servers", "13..3"),
    ("GET", "/api/servers/{id}", "1...3"),
    ("PATCH", "/api/servers/{id}", "13..3"),
    ("DELETE", "/api/servers/{id}", "13..3"),
    ("GET", "/api/capabilities/health", "1...3"),
    ("GET", "/api/capabilities/health/settings", "1...3"),
    ("PATCH", "/api/capabilities/health/settings", "133.3"),
    ("GET", "/api/capabilities/health/{serverId}", "1...3"),
    ("POST", "/api/capabilities/health/{serverId}/check", "13..3"),
    ("GET", "/api/capabilities/health/{serverId}/history", "1...3"),
    ("GET", "/api/capabilities/health/{serverId}/config", "13..3"),
    ("PUT", "/api/capabilities/health/{serverId}/config", "13..3"),
    ("GET", "/api/operations", "1...3"),
    ("GET", "/api/operations/{id}", "1...3"),
    ("POST", "/api/operations/{id}/cancel", "13..3"),
    ("GET", "/api/events", "1...3"),
    ("GET", "/healthz", "....."),
    ("GET", "/readyz", "....."),
    ("GET", "/metrics", "1...3"),
    ("GET", "/api/system/info", "1...3"),
    ("GET", "/api/system/backup", "133.3"),
    ("POST", "/api/system/backup", "133.3"),
    ("GET", "/api/openapi.json", "1...."),
    ("GET", "/api/alerts", "1...3"),
    ("GET", "/api/alerts/{id}", "1...3"),
    ("POST", "/api/alerts/{id}/acknowledge", "13..3"),
    ("GET", "/api/alerts/rules", "1...3"),
    ("POST", "/api/alerts/rules", "13..3"),
    ("GET", "/api/alerts/rules/{id}", "1...3"),
    ("PATCH", "/api/alerts/rules/{id}", "13..3"),
    ("DELETE", "/api/alerts/rules/{id}", "13..3"),
    ("GET", "/api/alerts/channels", "1...3"),
    ("POST", "/api/alerts/channels", "133.3"),
    ("GET", "/api/alerts/channels/{id}", "1...3"),
    ("PATCH", "/api/alerts/channels/{id}", "133.3"),
    ("DELETE", "/api/alerts/channels/{id}", "133.3"),
    ("POST", "/api/alerts/channels/{id}/test", "133.3"),
    ("GET", "/api/alerts/silences", "1...3"),
    ("POST", "/api/alerts/silences", "13..3"),
    ("GET", "/api/alerts/silences/{id}", "1...3"),
    ("PATCH", "/api/alerts/silences/{id}", "13..3"),
    ("DELETE", "/api/alerts/silences/{id}", "13..3"),
    ("GET", "/api/capabilities/clusters", "1...3"),
    ("POST", "/api/capabilities/clusters", "13..3"),
    ("GET", "/api/capabilities/clusters/{id}", "1...3"),
    ("PATCH", "/api/capabilities/clusters/{id}", "13..3"),
    ("DELETE", "/api/capabilities/clusters/{id}", "13..3"),
    ("POST", "/api/capabilities/clusters/{id}/servers", "13..3"),
    ("DELETE", "/api/capabilities/clusters/{id}/servers/{serverId}", "13..3"),
    ("GET", "/api/capabilities/clusters/{id}/metrics", "1...3"),
    ("GET", "/api/capabilities/clusters/{id}/events", "1...3"),
    ("POST", "/api/capabilities/clusters/{id}/failover", "13..3"),
    ("GET", "/api/capabilities/clusters/{id}/database/credentials", "133.3"),
    ("POST", "/api/capabilities/clusters/{id}/database/switchover", "13..3"),
    ("GET", "/api/capabilities/clusters/{id}/jobs", "1...3"),
    ("POST", "/api/capabilities/clusters/{id}/jobs", "13..3"),
    ("GET", "/api/capabilities/clusters/{id}/jobs/{jobId}", "1...3"),
    ("DELETE", "/api/capabilities/clusters/{id}/jobs/{jobId}", "13..3"),
    ("GET", "/api/capabilities/clusters/{id}/jobs/{jobId}/tasks", "1...3"),
    ("GET", "/api/capabilities/clusters/{id}/jobs/{jobId}/logs", "1...3"),
    ("POST", "/api/capabilities/clusters/{id}/jobs/{jobId}/cancel", "13..3"),
    ("GET", "/api/capabilities/backups", "1...3"),
    ("GET", "/api/capabilities/backups/configs", "1...3"),
    ("POST", "/api/capabilities/backups/configs", "13..3"),
    ("GET", "/api/capabilities/backups/configs/{configId}", "1...3"),
    ("PATCH", "/api/capabilities/backups/configs/{configId}", "13..3"),
    ("DELETE", "/api/capabilities/backups/configs/{configId}", "13..3"),
    ("POST", "/api/capabilities/backups/configs/{configId}/check", "13..3"),
    ("GET", "/api/capabilities/backups/configs/{configId}/retention", "1...3"),
    ("GET", "/api/capabilities/backups/configs/{configId}/key", "133.3"),
    ("POST", "/api/capabilities/backups/perform/{configId}", "13..3"),
    ("GET", "/api/capabilities/backups/{id}", "1...3"),
    ("DELETE", "/api/capabilities/backups/{id}", "13..3"),
    ("POST", "/api/capabilities/backups/{id}/restore", "13..3"),
    ("GET", "/api/capabilities/backups/{id}/files", "1...3"),
    ("PUT", "/api/capabilities/backups/{id}/pin", "13..3"),
    ("POST", "/api/capabilities/backups/{id}/cancel", "13..3"),
    ("POST", "/api/capabilities/backups/{id}/verify", "13..3"),
];

fn in_the_table() -> BTreeSet<(String, String)> {
    TABLE
        .iter()
        .map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned()))
        .collect()
}

#[test]
fn the_table_has_every_route() {
    let routes = nm_control::api::routes();
    let there: BTreeSet<(String, String)> = routes.iter().map(|r| (r.method.to_string(), r.path.to_owned())).collect();
    assert_eq!(there.len(), routes.len(), "a route stands there twice");
    assert_eq!(there, in_the_table());
}

/// A token can be limited to what any route asks for.
#[test]
fn every_area_can_be_named_in_a_scope() {
    for route in nm_control::api::routes() {
        if let Policy::Needs { area, .. } = route.policy {
            assert!(AREAS.contains(&area), "{} {}: {area}", route.method, route.path);
        }
    }
}

/// The request of a row. What it names is not there and what it says is not taken, so that nothing is done where it is
/// let in.
fn call(client: &Client, method: &str, path: &str, verdict: char) -> Call {
    let path = path
        .replace("{id}", "nothing")
        .replace("{name}", "nothing")
        .replace("{serverId}", "nothing")
        .replace("{configId}", "nothing");
    let call = client.call(Method::from_bytes(method.as_bytes()).unwrap(), path);
    match (method, verdict) {
        // These take no body, and some look only when they are carried out at who may.
        ("GET" | "DELETE", _) => call,
        ("POST", _) if matches!(call.path(), "/api/auth/logout" | "/api/auth/tickets") => call,
        // Who may is looked at after what is asked here.
        ("POST", '3') if call.path() == "/api/auth/password" => {
            call.json(&json!({ "currentPassword": "a guess", "newPassword": "long enough it is" }))
        }
        _ => call.json(&json!({ "nonsense": true })),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_plane_does_as_the_table_says() {
    let plane = TestControlPlane::sqlite().await;
    let agent = FakeAgent::join(&plane, "alder").await;
    let narrow = plane.token(Role::Admin, &["containers:read"]).await;
    let callers = [
        ("nobody", plane.anonymous()),
        ("viewer", plane.viewer().await.clone()),
        ("operator", plane.operator().await.clone()),
        ("admin", plane.admin().await.clone()),
        ("narrow token", narrow.clone()),
    ];
    let revision = async || plane.app().store.revision().await.unwrap();
    // The node's first health check is written by itself.
    let node = agent.node.as_str();
    eventually("the node was checked", async || {
        let written = plane.app().store.health_histories(node, node, Timestamp(0)).await.unwrap();
        (!written.is_empty()).then_some(())
    })
    .await;
    for (method, path, verdicts) in TABLE {
        for ((who, client), verdict) in callers.iter().zip(verdicts.chars()) {
            let what = format!("{method} {path} by {who}");
            if *path == "/api/auth/logout" && verdict == '.' {
                // It would end the session that the other rows need.
                let own = match *who {
                    "viewer" => plane.session(Role::Viewer).await,
                    "operator" => plane.session(Role::Operator).await,
                    "admin" => plane.session(Role::Admin).await,
                    _ => client.clone(),
                };
                let reply = call(&own, method, path, verdict).await;
                assert!(matches!(reply.status, 200 | 409), "{what}: {}", reply.text());
                continue;
            }
            let (before, asked) = (revision().await, agent.all_calls());
            let reply = match call(client, method, path, verdict).events().await {
                Ok(_stream) => {
                    assert_eq!(verdict, '.', "{what} got a stream");
                    continue;
                }
                Err(reply) => reply,
            };
            match verdict {
                '1' => drop(reply.refused(401, "unauthorized")),
                '3' => drop(reply.refused(403, "forbidden")),
                _ => assert!(
                    !matches!(reply.status, 401 | 403) || path.ends_with("/login") || path.ends_with("/refresh"),
                    "{what}: {}",
                    reply.text()
                ),
            }
            // Reading changes nothing; neither does what is refused.
            if verdict != '.' || *method == "GET" {
                assert_eq!(revision().await, before, "{what} changed something");
            }
            if verdict != '.' {
                assert_eq!(agent.all_calls(), asked, "{what} reached the node");
            }
        }
    }
}

/// Scopes are as narrow as they say, also for what a role may.
#[tokio::test]
async fn scopes() {
    let plane = TestControlPlane::sqlite().await;
    for (scopes, role, let_in, kept_out) in [
        (&["images:read"][..], Role::Admin, "/api/images", "/api/containers"),
        (&["*:read"], Role::Admin, "/api/users", ""),
        (&["*:read"], Role::Viewer, "/api/nodes", "/api/users"),
        (&["users:write"], Role::Operator, "", "/api/users"),
        (
            &["backups:read"],
            Role::Viewer,
            "/api/capabilities/backups/configs",
            "/api/capabilities/clusters",
        ),
        (&[], Role::Viewer, "/api/containers", "/api/audit"),
    ] {
        let token = plane.token(role, scopes).await;
        if !let_in.is_empty() {
            assert_ne!(token.get(let_in).await.status, 403, "{scopes:?} {let_in}");
        }
        if !kept_out.is_empty() {
            token.get(kept_out).await.refused(403, "forbidden");
        }
        // A token makes no token that can do more than itself.
        for (role, scopes) in [
            ("admin", json!(["*:write"])),
            ("viewer", json!([])),
            ("viewer", json!(["containers:write"])),
        ] {
            let reply = token
                .post("/api/tokens")
                .json(&json!({ "name": "more", "role": role, "scopes": scopes }))
                .await;
            assert!(
                reply.status == 403 || (reply.status == 201 && scopes != json!(["*:write"])),
                "{}",
                reply.text()
            );
        }
    }
}

#[test]
fn the_document_tells_of_exactly_the_routes() {
    let document = nm_control::api::openapi::document(&nm_control::api::routes());
    let mut told = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let what = format!("{method} {path}");
            let public = in_the_table().contains(&(method.to_uppercase(), path.clone()))
                && TABLE
                    .iter()
                    .any(|(m, p, v)| m.eq_ignore_ascii_case(method) && p == path && v.starts_with('.'));
            assert_eq!(operation["security"] == json!([]), public, "{what}");
            assert!(operation["summary"].as_str().is_some_and(|s| !s.is_empty()), "{what}");
            let variables = path.matches('{').count();
            let described = operation["parameters"]
                .as_array()
                .map_or(0, |p| p.iter().filter(|p| p["in"] == "path").count());
            assert_eq!(described, variables, "{what}");
            told.insert((method.to_uppercase(), path.clone()));
        }
    }
    assert_eq!(told, in_the_table());
    every_reference_leads_somewhere(&document, &document);
    let mut ids: Vec<&str> = document["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|p| p.as_object().unwrap().values())
        .filter_map(|o| o["operationId"].as_str())
        .collect();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "operation ids are unique");
}

fn every_reference_leads_somewhere(document: &Value, value: &Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                let pointer = reference
                    .strip_prefix('#')
                    .unwrap_or_else(|| panic!("{reference} leads out of the document"));
                assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
            }
            map.values().for_each(|v| every_reference_leads_somewhere(document, v));
        }
        Value::Array(all) => all.iter().for_each(|v| every_reference_leads_somewhere(document, v)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The whole document, so that no change of the API goes unseen: `INSTA_UPDATE=always cargo test` takes a new one.
#[test]
fn the_document_is_the_one_that_was_reviewed() {
    let mut document = nm_control::api::openapi::document(&nm_control::api::routes());
    document["info"]["version"] = "the release's".into();
    insta::with_settings!({ snapshot_path => "../snapshots", prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_json_snapshot!("openapi", document);
    });
}
