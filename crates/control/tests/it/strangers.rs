//! Line 9 of the security table, over every stream there is: those of today and those that are added later.

use http::Method;
use nm_control::api::route::{Policy, Route};
use nm_testing::{Call, Client, FakeAgent, Reply, TestControlPlane, eventually};
use nm_types::auth::{Role, StreamTicket};
use nm_types::job::JobView;
use serde_json::json;

/// The one node's name.
const NODE: &str = "alder";
/// The one cluster's.
const CLUSTER: &str = "crunch";

/// A stream of the table of routes, with what its path names filled in.
struct Stream {
    path: String,
    policy: Policy,
    is_socket: bool,
}

impl Stream {
    fn of(route: &Route, operation: &str, job: &str) -> Self {
        let id = if route.path.starts_with("/api/operations/") {
            operation
        } else if route.path.starts_with("/api/capabilities/clusters/") {
            CLUSTER
        } else if route.path.starts_with("/api/nodes/") {
            NODE
        } else {
            "web"
        };
        let follow = if route.parameters.iter().any(|p| p.name == "follow") {
            "follow=true&"
        } else {
            ""
        };
        Self {
            path: format!("{}?{follow}", route.path.replace("{id}", id).replace("{jobId}", job)),
            policy: route.policy,
            is_socket: route
                .answers
                .iter()
                .any(|a| matches!(a, nm_control::api::route::Answer::Raw(101, _))),
        }
    }

    /// Opens it, or gives the refusal.
    async fn open(&self, call: Call) -> Result<(), Reply> {
        if self.is_socket {
            call.terminal().await.map(drop)
        } else {
            call.events().await.map(drop)
        }
    }

    async fn refused(&self, call: Call, status: u16, code: &str, why: &str) {
        match self.open(call).await {
            Ok(()) => panic!("{}: {why} got a stream", self.path),
            Err(reply) => {
                assert_eq!(reply.status, status, "{}: {why}: {}", self.path, reply.text());
                reply.refused(status, code);
            }
        }
    }
}

async fn ticket(client: &Client) -> String {
    client.post("/api/auth/tickets").await.data::<StreamTicket>(200).ticket
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_stream_opens_to_strangers() {
    let plane = TestControlPlane::sqlite().await;
    let agent = FakeAgent::join(&plane, NODE).await;
    let (admin, nobody, viewer) = (plane.admin().await, plane.anonymous(), plane.viewer().await);
    let spec = json!({ "name": "web", "image": "nginx", "start": true });
    let begun = admin.post("/api/containers").json(&spec).respond_async().await.is(202).json();
    let operation = begun["data"]["id"].as_str().unwrap();
    admin.ended(operation).await;
    let compute = json!({ "name": CLUSTER, "type": "compute", "servers": [NODE] });
    admin.post("/api/capabilities/clusters").json(&compute).await.is(201);
    let jobs = format!("/api/capabilities/clusters/{CLUSTER}/jobs");
    let job: JobView = admin.post(&jobs).json(&json!({ "image": "busybox" })).await.data(201);
    eventually("its task runs", async || (!agent.running_tasks().is_empty()).then_some(())).await;
    let elsewhere = plane.token(Role::Admin, &["volumes:read", "volumes:write"]).await;

    let routes = nm_control::api::routes();
    let streams: Vec<Stream> = routes
        .iter()
        .filter(|r| r.ticket)
        .map(|r| Stream::of(r, operation, job.id.as_str()))
        .collect();
    assert!(streams.len() >= 4 && streams.iter().any(|s| s.is_socket));
    for stream in &streams {
        let at = |rest: &str| format!("{}{rest}", stream.path);
        let asked = agent.all_calls();
        stream
            .refused(nobody.get(at("")), 401, "unauthorized", "somebody without a token")
            .await;
        for name in ["token", "access_token", "authorization", "bearer", "ticket", "api_key"] {
            let call = nobody.get(at(&format!("{name}={}", admin.token())));
            stream.refused(call, 401, "unauthorized", "a token in the URL").await;
        }
        for bad in ["", "x", "tick_1770000000000_abcdefghi"] {
            let call = nobody.get(at(&format!("ticket={bad}")));
            stream.refused(call, 401, "unauthorized", "a made-up ticket").await;
        }
        let wrong = nobody.get(at("")).header("authorization", "Basic YWRtaW46YWRtaW4=");
        stream.refused(wrong, 401, "unauthorized", "another scheme").await;
        let cookie = nobody.get(at("")).header("cookie", &format!("token={}", admin.token()));
        stream.refused(cookie, 401, "unauthorized", "a cookie").await;
        for origin in ["https://evil.example", "null", "http://localhost", "file://"] {
            let call = nobody.get(at(&format!("ticket={}", ticket(admin).await))).header("origin", origin);
            stream.refused(call, 403, "forbidden", "a page of another origin").await;
        }
        // A ticket is its owner's, and no more than that.
        let narrow = nobody.get(at(&format!("ticket={}", ticket(&elsewhere).await)));
        stream
            .refused(narrow, 403, "forbidden", "a ticket of a token for something else")
            .await;
        stream
            .refused(elsewhere.get(at("")), 403, "forbidden", "a token for something else")
            .await;
        if matches!(stream.policy, Policy::Needs { role, .. } if role > Role::Viewer) {
            stream.refused(viewer.get(at("")), 403, "forbidden", "a viewer").await;
            let call = nobody.get(at(&format!("ticket={}", ticket(viewer).await)));
            stream.refused(call, 403, "forbidden", "a viewer's ticket").await;
        }
        assert_eq!(agent.all_calls(), asked, "{}: the node was asked", stream.path);

        // The test can fail: its owner's ticket opens it, once, within thirty seconds.
        let one = at(&format!("ticket={}", ticket(admin).await));
        if let Err(reply) = stream.open(nobody.get(&one)).await {
            panic!("{}: {}", stream.path, reply.text());
        }
        stream
            .refused(nobody.get(&one), 401, "unauthorized", "a ticket that was used")
            .await;
    }
    for stream in &streams {
        let late = format!("{}ticket={}", stream.path, ticket(&plane.session(Role::Admin).await).await);
        plane.clock().advance(std::time::Duration::from_secs(31));
        stream
            .refused(nobody.get(late), 401, "unauthorized", "a ticket of half a minute ago")
            .await;
    }
    // No other route takes a ticket, nor does a stream of these take another method.
    for route in routes
        .iter()
        .filter(|r| !r.ticket && r.method == Method::GET && r.policy != Policy::Public)
    {
        let path = route.path.replace("{id}", "web").replace("{name}", "web");
        let one = ticket(&plane.session(Role::Admin).await).await;
        nobody.get(format!("{path}?ticket={one}")).await.refused(401, "unauthorized");
    }
}
