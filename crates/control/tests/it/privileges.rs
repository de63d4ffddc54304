//! Line 5 of the security table at the API: what opens the node to a container is asked for by admins only, and nothing asks for
//! it by the way. That the node's own configuration has to allow it as well is in the agent's suite.

use nm_link::contract::{AgentError, AgentErrorCode};
use nm_testing::{Ask, Call, FakeAgent, TestControlPlane, eventually};
use nm_types::auth::Role;
use nm_types::container::ContainerStatus;
use serde_json::{Value, json};

/// What an admin may ask for, each with what it is refused for when it is none.
fn privileges() -> [(&'static str, Value); 6] {
    [
        ("privileged", json!(true)),
        ("capAdd", json!(["NET_ADMIN"])),
        ("capAdd", json!(["ALL"])),
        ("devices", json!([{ "host": "/dev/fuse" }])),
        ("devices", json!([{ "host": "/dev/mem", "container": "/dev/x", "access": "rwm" }])),
        ("hostNetwork", json!(true)),
    ]
}

/// What nobody may ask for, by whatever name it goes elsewhere.
const NEVER: &[&str] = &[
    "securityOpt",
    "security_opt",
    "pidMode",
    "hostPid",
    "ipcMode",
    "hostIpc",
    "utsMode",
    "usernsMode",
    "cgroupnsMode",
    "cgroupParent",
    "networkMode",
    "volumesFrom",
    "runtime",
    "sysctls",
    "deviceRequests",
    "deviceCgroupRules",
    "mounts",
    "binds",
    "hostConfig",
    "HostConfig",
    "Privileged",
    "allowBinds",
];

fn with(field: &str, value: &Value) -> Value {
    let mut body = json!({ "name": "web", "image": "nginx:latest" });
    body[field] = value.clone();
    body
}

#[tokio::test]
async fn admins_may_ask_and_nobody_else() {
    let plane = TestControlPlane::sqlite().await;
    let agent = FakeAgent::join(&plane, "alder").await;
    let admin = plane.admin().await;
    let create = |client: &nm_testing::Client, body: &Value| client.post("/api/containers").json(body);
    let narrow = plane.token(Role::Operator, &["containers:write"]).await;
    for (field, value) in privileges() {
        let body = with(field, &value);
        for client in [plane.operator().await, &narrow] {
            create(client, &body).await.refused(403, "forbidden");
            let named = create(client, &body).await.json();
            assert_eq!(named["details"][0]["field"], field, "{named}");
        }
        create(plane.viewer().await, &body).await.refused(403, "forbidden");
        assert_eq!(agent.all_calls(), 0, "{field}: the node was not asked");
    }
    assert_eq!(admin.containers("").await.len(), 0);

    // Of the admin the node is asked, which has the last word.
    let says = "A privileged container is not allowed on this node: …";
    agent.fail_next(Ask::Create, AgentError::new(AgentErrorCode::Forbidden, says).field("privileged"));
    let refused = create(admin, &with("privileged", &json!(true))).await;
    assert_eq!(refused.json()["error"], says);
    refused.refused(403, "forbidden_by_node_policy");
    for (n, (field, value)) in privileges().into_iter().enumerate() {
        let mut body = with(field, &value);
        body["name"] = json!(format!("web-{n}"));
        let made = admin.create(&body).await;
        let spec = serde_json::to_value(agent.container(&made.id).spec.unwrap()).unwrap();
        assert_eq!(spec[field], value);
    }
    // By default none of it goes to the node.
    let usual = plane.operator().await.create(&json!({ "name": "usual", "image": "nginx" })).await;
    assert_eq!(agent.container(&usual.id).spec.unwrap().privileges(), [""; 0]);
}

/// A container that an admin made so is not an operator's way to the node.
#[tokio::test]
async fn operators_do_not_enter_what_opens_the_node() {
    let plane = TestControlPlane::sqlite().await;
    let agent = FakeAgent::join(&plane, "alder").await;
    let (admin, operator) = (plane.admin().await, plane.operator().await);
    for (n, (field, value)) in privileges().into_iter().enumerate() {
        let name = format!("web-{n}");
        let mut body = with(field, &value);
        (body["name"], body["start"]) = (name.as_str().into(), true.into());
        admin.create(&body).await;
        let at = |verb: &str| format!("/api/containers/{name}/{verb}");
        let exec = |client: &nm_testing::Client| client.post(at("exec")).json(&json!({ "command": ["id"] }));
        exec(operator).await.refused(403, "forbidden");
        operator.get(at("terminal")).terminal().await.unwrap_err().refused(403, "forbidden");
        let put = operator.put(at("archive?path=/bin")).body("application/x-tar", "x");
        put.await.refused(403, "forbidden");
        operator.get(at("archive?path=/etc")).await.refused(403, "forbidden");
        // Nor by a probe, which runs inside.
        let probe = json!({ "probes": [{ "name": "p", "type": "command", "command": ["id"] }] });
        let config = format!("/api/capabilities/health/{name}/config");
        operator.put(&config).json(&probe).await.refused(403, "forbidden");
        admin.put(&config).json(&probe).await.is(200);
        admin.put(&config).json(&json!({ "probes": [] })).await.is(200);
        for ask in [Ask::Exec, Ask::Terminal, Ask::ArchivePut] {
            assert_eq!(agent.calls(ask), n * usize::from(ask == Ask::Exec), "{field}");
        }
        exec(admin).await.is(200);
        // What changes nothing of what it may stays theirs.
        operator.post(at("stop")).await.is(200);
        operator.post(at("start")).await.is(200);
        operator.until(&name, ContainerStatus::Running).await;
    }
}

/// What others started was never judged: it may hold the whole node.
#[tokio::test]
async fn operators_do_not_enter_what_others_started() {
    let plane = TestControlPlane::sqlite().await;
    let agent = FakeAgent::join(&plane, "alder").await;
    let (admin, operator) = (plane.admin().await, plane.operator().await);
    agent.docker_run("theirs", "nginx");
    eventually("it is listed", async || (operator.containers("").await.len() == 1).then_some(())).await;
    let at = |verb: &str| format!("/api/containers/theirs/{verb}");
    let exec = |client: &nm_testing::Client| client.post(at("exec")).json(&json!({ "command": ["id"] }));
    exec(operator).await.refused(403, "forbidden");
    operator.get(at("terminal")).terminal().await.unwrap_err().refused(403, "forbidden");
    operator.get(at("archive?path=/etc")).await.refused(403, "forbidden");
    exec(admin).await.is(200);
    operator.post(at("stop")).await.is(200);
}

#[tokio::test]
async fn nothing_asks_for_it_by_the_way() {
    let plane = TestControlPlane::sqlite().await;
    let agent = FakeAgent::join(&plane, "alder").await;
    let admin = plane.admin().await;
    admin.create(&json!({ "name": "there", "image": "nginx" })).await;
    let asked = agent.all_calls();
    let mut fields: Vec<(&str, Value)> = NEVER.iter().map(|f| (*f, json!(true))).collect();
    for (field, value) in &fields {
        admin.post("/api/containers").json(&with(field, value)).await.names(field);
    }
    // Neither a change nor a template takes what a create does.
    fields.extend(privileges());
    for (field, value) in &fields {
        let only = json!({ (*field): value });
        let elsewhere: [Call; 5] = [
            admin.patch("/api/containers/there").json(&only),
            admin.post("/api/containers/templates/nginx/run").json(&only),
            admin
                .post("/api/containers/there/exec")
                .json(&json!({ "command": ["id"], (*field): value })),
            admin.post("/api/containers/there/stop").json(&only),
            admin
                .post("/api/containers/there/rename")
                .json(&json!({ "name": "other", (*field): value })),
        ];
        for call in elsewhere {
            let path = call.path().to_owned();
            let reply = call.await;
            assert_eq!(reply.status, 422, "{field} at {path}: {}", reply.text());
            reply.names(field);
        }
    }
    // A network of the host's by name, and drivers that bind a path, are other ways to the same.
    for (path, body, field) in [
        ("/api/volumes", json!({ "name": "data", "driver": "local" }), "driver"),
        (
            "/api/volumes",
            json!({ "name": "data", "driverOpts": { "type": "none", "device": "/", "o": "bind" } }),
            "driverOpts",
        ),
        ("/api/volumes", json!({ "name": "data", "options": { "device": "/" } }), "options"),
        ("/api/networks", json!({ "name": "net", "driver": "host" }), "driver"),
        (
            "/api/networks",
            json!({ "name": "net", "options": { "parent": "eth0" } }),
            "options",
        ),
    ] {
        admin.post(path).json(&body).await.names(field);
    }
    let host = with("networks", &json!(["host"]));
    let refused = admin.post("/api/containers").json(&host).await;
    assert_eq!(refused.json()["details"][0]["field"], "networks[0]");
    assert_eq!(refused.status, 409);
    // Of the wrong form it is no better.
    for (field, value) in [
        ("privileged", json!("true")),
        ("privileged", json!(1)),
        ("capAdd", json!("ALL")),
        ("capAdd[0]", json!(["net_admin"])),
        ("devices[0].host", json!([{ "host": "/etc/shadow" }])),
        ("devices[0].host", json!([{ "host": "/dev/../etc/shadow" }])),
        ("devices[0].access", json!([{ "host": "/dev/fuse", "access": "all" }])),
        (
            "devices[0].cgroupPermissions",
            json!([{ "host": "/dev/fuse", "cgroupPermissions": "rwm" }]),
        ),
        ("hostNetwork", json!(["yes"])),
    ] {
        let name = field.split(['[', '.']).next().unwrap();
        admin.post("/api/containers").json(&with(name, &value)).await.names(field);
    }
    assert_eq!(agent.all_calls(), asked, "the node was not asked once");
}
