//! The specification's container chapter: each of its requests, sent as it is written there, answers as it is written
//! there.

use nm_testing::{Ask, Client, FakeAgent, TestControlPlane, eventually};
use nm_types::auth::Role;
use nm_types::container::{ContainerStatus, ContainerView, ExecResult, LogStream};
use nm_types::image::ImageView;
use nm_types::stats::Usage;
use nm_types::template::ContainerTemplate;
use serde_json::{Value, json};

/// A fleet of one node that goes by the specification's name.
async fn fleet() -> (TestControlPlane, FakeAgent, Client) {
    let plane = TestControlPlane::sqlite().await;
    let agent = FakeAgent::join(&plane, "node_123").await;
    let api = plane.operator().await.clone();
    (plane, agent, api)
}

async fn my_nginx(api: &Client) -> ContainerView {
    let spec = json!({
        "name": "my-nginx", "image": "nginx:latest", "nodeId": "node_123", "ports": [{ "container": 80, "host": 8080 }],
        "cpuLimit": 1, "memoryLimit": "512m", "start": true
    });
    api.create(&spec).await
}

/// The fields of `shape` out of `value`, however deep.
fn only(shape: &Value, value: &Value) -> Value {
    match (shape, value) {
        (Value::Object(shape), Value::Object(value)) => shape
            .iter()
            .filter_map(|(k, s)| value.get(k).map(|v| (k.clone(), only(s, v))))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        (Value::Array(shape), Value::Array(value)) => value.iter().zip(shape.iter().cycle()).map(|(v, s)| only(s, v)).collect(),
        _ => value.clone(),
    }
}

#[tokio::test]
async fn list_containers() {
    let (_plane, agent, api) = fleet().await;
    let id = my_nginx(&api).await.id;
    agent.uses(id.as_str(), Usage { cpu: 25.5, memory: 256.0 });
    let documented = json!({
        "success": true,
        "data": [
            {
                "id": id,
                "name": "my-nginx",
                "image": "nginx:latest",
                "status": "running",
                "ports": [{ "container": 80, "host": 8080, "protocol": "tcp" }],
                "resources": { "cpuLimit": 1, "memoryLimit": "512m", "cpuUsage": 25.5, "memoryUsage": 256 }
            }
        ]
    });
    let wanted = documented.to_string();
    eventually("the list shows what the container uses", async || {
        let reply = api.get("/api/containers?nodeId=node_123").await.is(200).json();
        // Numbers are compared as such: 256 and 256.0 are the same JSON number.
        let seen = only(&documented, &reply).to_string().replace(".0,", ",").replace(".0}", "}");
        (seen == wanted).then_some(())
    })
    .await;
    api.get("/api/containers?nodeId=node_999").await.refused(404, "node_not_found");
}

#[tokio::test]
async fn create_container() {
    let (_plane, agent, api) = fleet().await;
    let body = r#"{
      "name": "my-postgres",
      "image": "postgres:16",
      "nodeId": "node_123",
      "environment": {
        "POSTGRES_PASSWORD": "mysecretpassword",
        "POSTGRES_DB": "myapp"
      },
      "ports": [
        { "container": 5432, "host": 5432 }
      ],
      "volumes": [
        { "container": "/var/lib/postgresql/data", "host": "/data/postgres" }
      ],
      "cpuLimit": 2,
      "memoryLimit": "1g",
      "restart": "always"
    }"#;
    let reply = api.post("/api/containers").body("application/json", body).await.is(201);
    let (data, asked) = (reply.json()["data"].take(), serde_json::from_str::<Value>(body).unwrap());
    assert!(data["id"].as_str().unwrap().starts_with("cont_"));
    // The default is Docker's `create`.
    assert_eq!(data["status"], "created");
    assert_eq!(data["nodeId"], agent.node.as_str());
    for same in ["name", "image", "environment", "restart"] {
        assert_eq!(data[same], asked[same], "{same}");
    }
    assert_eq!(data["ports"], json!([{ "container": 5432, "host": 5432, "protocol": "tcp" }]));
    assert_eq!(
        data["volumes"],
        json!([{ "container": "/var/lib/postgresql/data", "host": "/data/postgres", "mode": "rw" }])
    );
    assert_eq!(
        data["resources"],
        json!({ "cpuLimit": 2.0, "memoryLimit": "1g", "cpuUsage": 0.0, "memoryUsage": 0.0 })
    );
    assert_eq!(
        reply.header("location"),
        Some(format!("/api/containers/{}", data["id"].as_str().unwrap()).as_str())
    );
    assert!(reply.json()["message"].as_str().is_some_and(|m| m.contains("my-postgres")));

    // The node was asked for exactly that.
    let spec = agent.containers().remove(0).spec.unwrap();
    assert_eq!(serde_json::to_value(&spec.environment).unwrap(), asked["environment"]);
    assert_eq!(
        (spec.cpu_limit.unwrap().cores(), spec.memory_limit.unwrap().bytes()),
        (2.0, 1 << 30)
    );
}

#[tokio::test]
async fn container_operations() {
    let (_plane, agent, api) = fleet().await;
    let id = my_nginx(&api).await.id;
    for (verb, status) in [
        ("stop", "stopped"),
        ("start", "running"),
        ("start", "running"),
        ("restart", "running"),
        ("stop", "stopped"),
        ("stop", "stopped"),
    ] {
        let reply = api.post(format!("/api/containers/{id}/{verb}")).await.is(200);
        assert_eq!(reply.json()["data"]["status"], status, "{verb}");
        assert!(reply.json()["message"].is_string(), "{verb}");
    }
    api.post(format!("/api/containers/{id}/start")).await.is(200);
    api.delete(format!("/api/containers/{id}")).await.refused(409, "in_use");
    api.delete(format!("/api/containers/{id}?force=true")).await.is(200);
    api.get(format!("/api/containers/{id}")).await.refused(404, "container_not_found");
    assert!(agent.containers().is_empty());
}

#[tokio::test]
async fn view_logs() {
    let (_plane, agent, api) = fleet().await;
    let id = my_nginx(&api).await.id;
    for n in 0..150 {
        agent.writes(
            id.as_str(),
            if n % 2 == 0 { LogStream::Stdout } else { LogStream::Stderr },
            &format!("line {n}"),
        );
    }
    let lines = async |query: &str| -> Vec<String> { api.get(format!("/api/containers/{id}/logs{query}")).await.data(200) };
    let wanted: Vec<String> = (50..150).map(|n| format!("line {n}")).collect();
    assert_eq!(lines("?tail=100").await, wanted);
    assert_eq!(lines("").await, wanted, "100 where nobody says");
    assert_eq!(lines("?tail=2").await, ["line 148", "line 149"]);
    assert_eq!(lines("?tail=0").await, [""; 0]);
    assert_eq!(lines("?tail=1&stderr=false").await, ["line 148"]);
    let stamped = lines("?tail=1&timestamps=true").await.remove(0);
    let (time, line) = stamped.split_once(' ').unwrap();
    assert!(nm_types::Timestamp::parse(time).is_some() && line == "line 149", "{stamped}");
    let objects: Value = api.get(format!("/api/containers/{id}/logs?tail=1&format=objects")).await.data(200);
    assert_eq!(
        (objects[0]["stream"].as_str(), objects[0]["line"].as_str()),
        (Some("stderr"), Some("line 149"))
    );
}

#[tokio::test]
async fn get_stats() {
    let (_plane, agent, api) = fleet().await;
    let spec = json!({ "name": "db", "image": "postgres:16", "memoryLimit": "1g", "start": true });
    let id = api.create(&spec).await.id;
    for n in 0..70 {
        agent.uses(
            id.as_str(),
            Usage {
                cpu: 35.2,
                memory: 412.5 + f64::from(n),
            },
        );
    }
    let data: Vec<Value> = api.get(format!("/api/containers/{id}/stats?limit=60")).await.data(200);
    assert_eq!(data.len(), 60);
    let sample = &data[59];
    assert_eq!(sample["memory"], 481.5, "oldest first");
    let fields = ["containerId", "cpu", "memoryLimit", "networkRx", "networkTx"].map(|f| sample[f].clone());
    assert_eq!(
        fields,
        [json!(id), json!(35.2), json!(1_073_741_824), json!(1_524_887), json!(892_345)]
    );
    assert!(nm_types::Timestamp::parse(sample["timestamp"].as_str().unwrap()).is_some());
}

#[tokio::test]
async fn execute_command() {
    let (_plane, _agent, api) = fleet().await;
    let id = my_nginx(&api).await.id;
    let exec = async |body: Value| api.post(format!("/api/containers/{id}/exec")).json(&body).await;
    let result: ExecResult = exec(json!({ "command": ["npm", "install", "express"] })).await.data(200);
    assert_eq!((result.exit_code, result.output.as_str()), (Some(0), "npm install express\n"));
    let result: ExecResult = exec(json!({ "command": ["false"] })).await.data(200);
    assert_eq!((result.exit_code, result.stderr.as_str()), (Some(1), "it failed\n"));
    let result: ExecResult = exec(json!({ "command": ["no-such-program"] })).await.data(200);
    assert_eq!(result.exit_code, Some(127), "as in every shell");
    let result: ExecResult = exec(json!({ "command": ["env"], "environment": { "A": "1" } })).await.data(200);
    assert_eq!(result.stdout, "A=1\n");
    exec(json!({ "command": [] })).await.names("command");
    exec(json!({ "command": "npm install" })).await.names("command");
    api.post(format!("/api/containers/{id}/stop")).await.is(200);
    exec(json!({ "command": ["true"] })).await.refused(409, "not_running");
}

#[tokio::test]
async fn container_templates() {
    let (plane, agent, api) = fleet().await;
    let templates: Vec<ContainerTemplate> = api.get("/api/containers/templates/list").await.data(200);
    let named: Vec<(&str, &str)> = templates.iter().map(|t| (t.name.as_str(), t.description.as_str())).collect();
    let documented = [
        ("Nginx Web Server", "High-performance HTTP server"),
        ("PostgreSQL Database", "Production-ready database"),
        ("Redis Cache", "In-memory data store"),
        ("Node.js App", "Node.js application runtime"),
    ];
    assert_eq!(named, documented);
    for template in &templates {
        let reply = api
            .post(format!("/api/containers/templates/{}/run", template.id))
            .json(&json!({}))
            .await;
        let made: ContainerView = reply.data(201);
        assert_eq!(
            (made.status, made.image.as_str()),
            (ContainerStatus::Running, template.image.as_str())
        );
        assert!(made.name.starts_with(&template.id), "{}", made.name);
    }
    let made: ContainerView = api
        .post("/api/containers/templates/postgresql/run")
        .json(&json!({ "name": "db", "ports": [] }))
        .await
        .data(201);
    let password = &made.environment["POSTGRES_PASSWORD"];
    assert_eq!(password.len(), 32, "generated, never a default");
    assert_eq!(
        agent
            .container(&made.id)
            .spec
            .unwrap()
            .environment
            .0
            .values()
            .next()
            .unwrap()
            .as_str(),
        password
    );
    assert_eq!(
        plane.viewer().await.container("db").await.environment["POSTGRES_PASSWORD"],
        "********"
    );
    api.post("/api/containers/templates/moon/run")
        .await
        .refused(404, "template_not_found");
}

#[tokio::test]
async fn images() {
    let (_plane, agent, api) = fleet().await;
    for body in [
        json!({ "name": "redis", "tag": "7" }),
        json!({ "name": "redis:7" }),
        json!({ "name": "busybox" }),
    ] {
        let pulled: ImageView = api.post("/api/containers/images/pull").json(&body).await.data(200);
        assert_eq!(pulled.node_id, agent.node.as_str());
    }
    let tags = async |path: &str| -> Vec<String> {
        let images: Vec<ImageView> = api.get(path).await.data(200);
        images.into_iter().flat_map(|i| i.tags).collect()
    };
    assert_eq!(tags("/api/containers/images/list").await, ["busybox:latest", "redis:7"]);
    assert_eq!(tags("/api/images?nodeId=node_123").await, ["busybox:latest", "redis:7"]);
    api.delete("/api/images?name=busybox").await.is(200);
    api.delete("/api/images?name=busybox").await.refused(404, "image_not_found");
    assert_eq!(tags("/api/images").await, ["redis:7"]);
    api.post("/api/images/prune").await.is(200);
}

/// The chapter on troubleshooting, as behaviour: which it is, and what to do.
#[tokio::test]
async fn a_container_that_will_not_start() {
    let (_plane, agent, api) = fleet().await;
    agent.unknown_image("nosuch:1");
    let refused = api
        .post("/api/containers")
        .json(&json!({ "name": "a", "image": "nosuch:1" }))
        .await
        .refused(404, "image_not_found");
    assert!(refused.error.contains("nosuch:1") && refused.operation_id.is_some(), "{refused:?}");

    my_nginx(&api).await;
    let spec = json!({ "name": "b", "image": "nginx", "ports": [{ "container": 80, "host": 8080 }], "start": true });
    let refused = api.post("/api/containers").json(&spec).await.refused(409, "port_in_use");
    assert!(
        refused.error.contains("8080") && refused.details[0].field == "ports[0].host",
        "{refused:?}"
    );

    let short = nm_link::contract::AgentError::new(
        nm_link::contract::AgentErrorCode::InsufficientResources,
        "the node has 8 GB of memory, less than 64g",
    )
    .field("memoryLimit");
    agent.fail_next(Ask::Create, short);
    let spec = json!({ "name": "c", "image": "nginx", "memoryLimit": "64g" });
    let refused = api.post("/api/containers").json(&spec).await.refused(409, "insufficient_resources");
    assert_eq!(refused.details[0].field, "memoryLimit");

    agent.exit_at_once(1, &["cannot read /etc/app.conf"]);
    let made = api.create(&json!({ "name": "ends", "image": "nginx", "start": true })).await;
    assert_eq!((made.status, made.exit_code), (ContainerStatus::Exited, Some(1)));
    assert!(
        made.message.as_ref().is_some_and(|m| m.contains("cannot read /etc/app.conf")),
        "{made:?}"
    );
    let lines: Vec<String> = api.get("/api/containers/ends/logs").await.data(200);
    assert_eq!(lines, ["cannot read /etc/app.conf"]);

    // Of what failed nothing is left.
    crate::agree_but_for_messages(&api, &agent, &["my-nginx", "ends"]).await;
}

#[tokio::test]
async fn volumes_and_networks() {
    let (plane, agent, api) = fleet().await;
    let volume: Value = api
        .post("/api/volumes")
        .json(&json!({ "name": "data", "labels": { "app": "db" } }))
        .await
        .data(201);
    assert_eq!(
        (volume["name"].as_str(), volume["nodeId"].as_str()),
        (Some("data"), Some(agent.node.as_str()))
    );
    api.post("/api/volumes")
        .json(&json!({ "name": "data" }))
        .await
        .refused(409, "name_taken");
    assert_eq!(api.get("/api/volumes?nodeId=node_123").await.is(200).json()["count"], 1);
    api.delete("/api/volumes/data").await.is(200);
    api.delete("/api/volumes/data").await.refused(404, "volume_not_found");

    api.post("/api/networks")
        .json(&json!({ "name": "back", "internal": true }))
        .await
        .is(201);
    let made = api.create(&json!({ "name": "web", "image": "nginx", "networks": ["back"] })).await;
    assert_eq!(made.networks[0].network, "back");
    api.delete("/api/networks/back").await.refused(409, "in_use");
    let member = json!({ "container": "web" });
    api.post("/api/networks/back/detach").json(&member).await.is(200);
    eventually("it is off the network", async || {
        api.container("web").await.networks.is_empty().then_some(())
    })
    .await;
    api.post("/api/networks/back/attach").json(&member).await.is(200);
    eventually("it is on the network", async || {
        (api.container("web").await.networks.len() == 1).then_some(())
    })
    .await;
    api.post("/api/networks/moon/attach")
        .json(&member)
        .await
        .refused(404, "network_not_found");
    api.post("/api/networks/back/attach")
        .json(&json!({ "container": "moon" }))
        .await
        .refused(404, "container_not_found");
    let refused = api
        .post("/api/containers")
        .json(&json!({ "name": "x", "image": "nginx", "networks": ["moon"] }))
        .await;
    refused.refused(404, "network_not_found");

    // Nothing of another's is touched by an id that is made up.
    let narrow = plane.token(Role::Operator, &["volumes:read"]).await;
    narrow
        .post("/api/volumes")
        .json(&json!({ "name": "more" }))
        .await
        .refused(403, "forbidden");
    assert_eq!(agent.calls(Ask::VolumeCreate), 2);
}

/// Everything of a container that can be asked for reaches the node, and what may change does.
#[tokio::test]
async fn every_setting_of_a_container() {
    let (_plane, agent, api) = fleet().await;
    let spec = json!({
        "name": "all", "image": "registry.example.com/team/app:1.2", "command": ["serve", "--port", "80"], "entrypoint": ["/bin/app"],
        "environment": { "MODE": "live" },
        "ports": [{ "container": 80 }, { "container": 53, "host": 5353, "protocol": "udp", "hostIp": "127.0.0.1" }],
        "volumes": [{ "container": "/data", "host": "named", "mode": "ro" }, { "container": "/tmp/x" }],
        "cpuLimit": 0.5, "memoryLimit": "64m", "restart": "on-failure", "labels": { "app": "all" }, "user": "1000:1000", "workingDir": "/srv",
        "hostname": "box", "capDrop": ["ALL"], "readOnly": true, "healthCheck": { "command": ["true"], "interval": 5 }, "stopGrace": 3, "tty": true,
        "start": true
    });
    let made = api.create(&spec).await;
    assert!(made.ports[0].host >= 49_153, "the port that the node chose: {:?}", made.ports);
    let asked = serde_json::to_value(agent.container(&made.id).spec.unwrap()).unwrap();
    for (field, value) in spec
        .as_object()
        .unwrap()
        .iter()
        .filter(|(f, _)| !matches!(f.as_str(), "start" | "ports" | "volumes"))
    {
        assert_eq!(&asked[field], value, "{field}");
    }
    let changed: ContainerView = api
        .patch("/api/containers/all")
        .json(&json!({ "memoryLimit": "128m", "restart": "always" }))
        .await
        .data(200);
    assert_eq!(
        (changed.resources.memory_limit.as_deref(), changed.resources.cpu_limit),
        (Some("128m"), Some(0.5))
    );
    assert_eq!(agent.container(&made.id).spec.unwrap().memory_limit.unwrap().as_str(), "128m");

    let renamed: ContainerView = api
        .post("/api/containers/all/rename")
        .json(&json!({ "name": "whole" }))
        .await
        .data(200);
    assert_eq!(
        (renamed.name.as_str(), agent.container(&made.id).observed.name.as_str()),
        ("whole", "whole")
    );
    api.get("/api/containers/all").await.refused(404, "container_not_found");
    for (verb, status) in [("pause", "paused"), ("unpause", "running"), ("kill", "stopped")] {
        assert_eq!(
            api.post(format!("/api/containers/whole/{verb}")).await.is(200).json()["data"]["status"],
            status
        );
    }
    api.post("/api/containers/whole/pause").await.refused(409, "not_running");
    let document: Value = api.get("/api/containers/whole/inspect").await.data(200);
    assert_eq!(document["Id"].as_str().map(str::len), Some(64));

    let tar = vec![7u8; 3 << 20];
    let put = api
        .put("/api/containers/whole/archive?path=/srv")
        .body("application/x-tar", tar.clone())
        .chunked();
    put.await.is(200);
    assert_eq!(agent.files(&made.id), [("/srv".to_owned(), tar.len())]);
    // Docker would unpack it by itself, to any size.
    let packed = api
        .put("/api/containers/whole/archive?path=/srv")
        .body("application/x-tar", b"\x1f\x8b\x08\x00 and so on".to_vec());
    packed.await.refused(415, "unsupported_media_type");
    let got = api.get("/api/containers/whole/archive?path=/srv/a").await.is(200);
    assert_eq!(
        (got.header("content-type"), &*got.body),
        (Some("application/x-tar"), b"a tar of /srv/a".as_slice())
    );
    for bad in ["srv", "", "/a%00b"] {
        api.get(format!("/api/containers/whole/archive?path={bad}")).await.names("path");
    }
}

#[tokio::test]
async fn filters_of_the_list() {
    let (_plane, agent, api) = fleet().await;
    api.create(&json!({ "name": "web-1", "image": "nginx", "labels": { "app": "web", "tier": "front" }, "start": true }))
        .await;
    api.create(&json!({ "name": "web-2", "image": "nginx", "labels": { "app": "web" } }))
        .await;
    api.create(&json!({ "name": "db", "image": "postgres", "labels": { "app": "db" } }))
        .await;
    agent.docker_run("beside", "redis:7");
    eventually("the one beside us is listed", async || {
        (api.containers("").await.len() == 4).then_some(())
    })
    .await;
    for (query, wanted) in [
        ("name=web", &["web-2", "web-1"][..]),
        ("label=app=web", &["web-2", "web-1"]),
        ("label=tier", &["web-1"]),
        ("label=app=moon", &[]),
        ("status=running&managed=true", &["web-1"]),
        ("status=created", &["db", "web-2"]),
        ("managed=false", &["beside"]),
        ("managed=true&name=db", &["db"]),
    ] {
        let found: Vec<String> = api.containers(query).await.into_iter().map(|c| c.name).collect();
        assert_eq!(found, wanted, "{query}");
    }
    for (query, field) in [
        ("status=asleep", "status"),
        ("managed=maybe", "managed"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("cursor=moon", "cursor"),
    ] {
        api.get(format!("/api/containers?{query}")).await.names(field);
    }
}
