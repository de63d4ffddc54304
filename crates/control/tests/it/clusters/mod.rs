//! The specification's clustering chapter: what is asked for becomes a document of each node that carries it, and what nodes tell
//! becomes states, events and figures.

mod acme;
mod acme_server;
mod api;
mod carried;
mod database;
mod scaling;
mod seen;

use nm_testing::{Client, FakeAgent, TestControlPlane, eventually};
use nm_types::auth::Role;
use nm_types::cluster::{ClusterEventKind, ClusterEventView, ClusterView};
use nm_types::container::ContainerView;
use serde_json::{Value, json};

const CLUSTERS: &str = "/api/capabilities/clusters";

struct Fleet {
    plane: TestControlPlane,
    one: FakeAgent,
    two: FakeAgent,
    /// Good for longer than a session: some tests put the clock forward.
    api: Client,
}

/// Two nodes that know of each other where they are.
async fn fleet() -> Fleet {
    fleet_of(TestControlPlane::sqlite().await).await
}

async fn fleet_of(plane: TestControlPlane) -> Fleet {
    let api = plane.token(Role::Admin, &[]).await;
    let (one, two) = (FakeAgent::join(&plane, "alder").await, FakeAgent::join(&plane, "birch").await);
    for (agent, address) in [(&one, "10.0.0.1"), (&two, "10.0.0.2")] {
        let labels = json!({ "labels": { "address": address } });
        api.patch(format!("/api/nodes/{}", agent.node)).json(&labels).await.is(200);
    }
    Fleet { plane, one, two, api }
}

/// A web server that runs on a node, with an address on its Docker network.
async fn web(plane: &TestControlPlane, api: &Client, agent: &FakeAgent, name: &str, ip: &str) -> ContainerView {
    let spec = json!({
        "name": name, "image": "nginx:latest", "nodeId": agent.node, "start": true,
        "ports": [{ "container": 80 }], "cpuLimit": 1, "memoryLimit": "512m",
    });
    let made = api.create(&spec).await;
    agent.docker_address(made.id.as_str(), ip);
    eventually(&format!("{name} has its address"), async || {
        // In the store, too: some tests end the control plane where it stands.
        let row = plane
            .app()
            .store
            .get(nm_store::Kind::Container, made.id.as_str())
            .await
            .unwrap()
            .unwrap();
        row.status_json().contains(&format!("\"{ip}\"")).then_some(())
    })
    .await;
    made
}

fn load_balanced(name: &str, servers: &[&str]) -> Value {
    json!({ "name": name, "type": "load-balanced", "servers": servers })
}

fn with(mut whole: Value, more: Value) -> Value {
    whole.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    whole
}

async fn create(api: &Client, cluster: &Value) -> ClusterView {
    api.post(CLUSTERS).json(cluster).await.data(201)
}

async fn cluster(api: &Client, key: &str) -> ClusterView {
    api.get(format!("{CLUSTERS}/{key}")).await.data(200)
}

/// Waits until a cluster is as `look` wants it, and gives what that gives.
async fn until<T>(api: &Client, key: &str, what: &str, mut look: impl FnMut(&ClusterView) -> Option<T>) -> T {
    let mut last = None;
    let found = tokio::time::timeout(nm_testing::DEADLINE / 2, async {
        eventually(what, async || {
            let view = cluster(api, key).await;
            let found = look(&view);
            last = Some(view);
            found
        })
        .await
    });
    match found.await {
        Ok(found) => found,
        Err(_) => panic!("{what}: {last:#?}"),
    }
}

async fn events(api: &Client, key: &str) -> Vec<ClusterEventView> {
    api.get(format!("{CLUSTERS}/{key}/events?limit=200")).await.data(200)
}

/// Waits for an event of this kind, and gives the newest.
async fn event(api: &Client, key: &str, kind: ClusterEventKind) -> ClusterEventView {
    eventually(&format!("{kind:?}"), async || {
        events(api, key).await.into_iter().find(|e| e.kind == kind)
    })
    .await
}

/// Where a node's load balancer reaches the members of a cluster.
fn sockets(agent: &FakeAgent, cluster: &str) -> Vec<String> {
    let config = agent.edge().unwrap_or_default();
    let found = config.proxy.clusters.iter().find(|c| c.id == cluster);
    found
        .map(|c| c.members.iter().map(|m| m.socket().to_string()).collect())
        .unwrap_or_default()
}

async fn reaches(agent: &FakeAgent, cluster: &str, want: &[&str]) {
    let mut last = Vec::new();
    let reached = tokio::time::timeout(
        nm_testing::DEADLINE / 2,
        eventually("the node reaches its members", async || {
            last = sockets(agent, cluster);
            (last == want).then_some(())
        }),
    );
    if reached.await.is_err() {
        panic!("{last:?}, and not {want:?}");
    }
}
