//! What holds on every path. The client of these tests looks at every answer's envelope, request id and headers by itself;
//! here is what provokes those answers.

use crate::nginx;
use axum::Router;
use axum::body::Body;
use axum::middleware::{Next, from_fn};
use axum::routing::get;
use http::{Method, Request};
use http_body_util::BodyExt;
use nm_testing::{Ask, Client, Database, FakeAgent, TestControlPlane, When, both, eventually, soon};
use nm_types::auth::{AuditEntryView, CreatedToken, UserView};
use nm_types::container::ContainerView;
use nm_types::operation::{OperationState, OperationView};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::ServiceExt;

both!(paging, idempotency_keys, versions);

pub async fn fleet() -> (TestControlPlane, FakeAgent, Client) {
    let plane = TestControlPlane::sqlite().await;
    let agent = FakeAgent::join(&plane, "alder").await;
    let api = plane.operator().await.clone();
    (plane, agent, api)
}

#[tokio::test]
async fn paths_and_methods() {
    let plane = TestControlPlane::sqlite().await;
    let api = plane.admin().await;
    for path in [
        "/api",
        "/api/",
        "/api/moon",
        "/api/containers/",
        "/api/containers/a/b/c",
        "/api/users/a/b",
        "/api/../etc/passwd",
        "/api/%2e%2e/x",
    ] {
        let reply = api.get(path).await;
        assert_eq!(reply.status, 404, "{}", reply.text());
        let reply = plane.anonymous().post(path).json(&json!({})).await;
        assert!(matches!(reply.status, 404 | 405), "{}", reply.text());
    }
    for (method, path, allow) in [
        (Method::DELETE, "/api/containers", "GET,HEAD,POST"),
        (Method::PUT, "/api/containers/x", "DELETE,GET,HEAD,PATCH"),
        (Method::GET, "/api/auth/login", "POST"),
        (Method::OPTIONS, "/api/containers", "GET,HEAD,POST"),
        (Method::TRACE, "/api/containers", "GET,HEAD,POST"),
        (Method::POST, "/healthz", "GET,HEAD"),
        (Method::from_bytes(b"PROPFIND").unwrap(), "/api/nodes", "GET,HEAD"),
    ] {
        let reply = api.call(method, path).await;
        reply.refused(405, "method_not_allowed");
        let mut allowed: Vec<&str> = reply.header("allow").unwrap_or_default().split(',').map(str::trim).collect();
        allowed.sort_unstable();
        assert_eq!(allowed.join(","), allow, "{}", reply.text());
    }
    // The same headers as GET, and no body.
    let head = api.call(Method::HEAD, "/api/containers").await.is(200);
    assert_eq!(head.header("content-type"), Some("application/json"));
    api.call(Method::HEAD, "/api/containers/moon").await.is(404);
    plane.anonymous().call(Method::HEAD, "/api/containers").await.is(401);
}

#[tokio::test]
async fn each_request_has_its_own_id() {
    let (plane, _agent, api) = fleet().await;
    let ids: HashSet<String> =
        futures_util::future::join_all((0..50).map(|_| async { api.get("/healthz").await.header("x-request-id").unwrap().to_owned() }))
            .await
            .into_iter()
            .collect();
    assert_eq!(ids.len(), 50);
    // One that a client makes up is not taken; the audit log names ours.
    let reply = api
        .post("/api/containers")
        .json(&nginx("web"))
        .header("x-request-id", "req_mine")
        .header("x-forwarded-for", "6.6.6.6")
        .await
        .is(201);
    let id = reply.header("x-request-id").unwrap();
    assert_ne!(id, "req_mine");
    let entries: Vec<AuditEntryView> = plane.admin().await.get("/api/audit?action=container.create").await.data(200);
    assert_eq!(entries[0].request_id.as_deref(), Some(id));
    assert_eq!(
        entries[0].address.as_deref(),
        Some("127.0.0.1"),
        "nobody's X-Forwarded-For is believed"
    );
}

#[tokio::test]
async fn bodies_too_large() {
    let (_plane, agent, api) = fleet().await;
    const LIMIT: usize = 1 << 20;
    let padded = |name: &str, length: usize| {
        let mut body = nginx(name).to_string().into_bytes();
        body.resize(length, b' ');
        body
    };
    for (n, chunked) in [(1, false), (2, true)] {
        let post = |body: Vec<u8>| {
            let call = api.post("/api/containers").body("application/json", body);
            if chunked { call.chunked() } else { call }
        };
        post(padded(&format!("fits-{n}"), LIMIT)).await.is(201);
        post(padded("large", LIMIT + 1)).await.refused(413, "body_too_large");
        post(padded("larger", 10 << 20)).await.refused(413, "body_too_large");
    }
    // Also where a body may be left out.
    for path in ["/api/containers/fits-1/stop", "/api/auth/login"] {
        api.post(path)
            .body("application/json", vec![b' '; LIMIT + 1])
            .await
            .refused(413, "body_too_large");
    }
    assert_eq!(agent.calls(Ask::Create), 2);
}

#[tokio::test]
async fn content_types_and_broken_json() {
    let (_plane, agent, api) = fleet().await;
    let good = nginx("web").to_string();
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "application/jsonp",
        "text/json",
        "",
    ] {
        api.post("/api/containers")
            .body(kind, good.clone())
            .await
            .refused(415, "unsupported_media_type");
    }
    api.put("/api/containers/x/archive?path=/x")
        .body("application/json", "{}")
        .await
        .is(415);
    for broken in [
        "",
        " ",
        "{",
        "{\"name\":\"a\"",
        "{'name':'a'}",
        "nil",
        "{\"name\":\"a\",}",
        "{\"name\":\"a\",\"image\":\"b\"} {}",
        "{\"name\":\"\u{1}\"}",
        "\u{feff}{}",
    ] {
        api.post("/api/containers")
            .body("application/json", broken.to_owned())
            .await
            .refused(400, "malformed_json");
    }
    api.post("/api/containers")
        .body("application/json", vec![b'{', b'"', 0xff, 0xfe, b'"', b':', b'1', b'}'])
        .await
        .refused(400, "malformed_json");
    // So deep that a parser which recurses would fall.
    let deep = format!("{{\"name\":{}", "[".repeat(200_000));
    let reply = api.post("/api/containers").body("application/json", deep).await;
    assert!(matches!(reply.status, 400 | 422), "{}", reply.text());
    // Fields in their order without their names are no object.
    api.post("/api/containers")
        .json(&json!(["web", "nginx"]))
        .await
        .refused(422, "invalid_field");
    assert_eq!(agent.all_calls(), 0);
    api.post("/api/containers")
        .body("application/json; charset=utf-8", good)
        .await
        .is(201);
}

async fn paging(database: Database) {
    let plane = TestControlPlane::start(database).await;
    let agent = FakeAgent::join(&plane, "alder").await;
    let api = plane.viewer().await;
    let there = async |wanted: usize| {
        eventually("all are listed", async || {
            let known = api.get("/api/system/info").await.is(200).json()["data"]["containers"].as_u64();
            (known == Some(wanted as u64)).then_some(())
        })
        .await;
    };
    let wanted: HashSet<String> = (0..500).map(|n| agent.docker_run(&format!("old-{n}"), "redis:7")).collect();
    there(500).await;
    for limit in [7, 50, 200] {
        let (mut seen, mut ids, mut cursor, mut pages) = (HashSet::new(), Vec::new(), None::<String>, 0);
        let before = agent.containers().len();
        loop {
            let query = cursor.map(|c| format!("&cursor={c}")).unwrap_or_default();
            let reply = api.get(format!("/api/containers?limit={limit}{query}")).await.is(200).json();
            let rows: Vec<ContainerView> = serde_json::from_value(reply["data"].clone()).unwrap();
            for row in rows {
                assert!(seen.insert(row.docker_id.unwrap()), "{} twice", row.id);
                ids.push(row.id);
            }
            pages += 1;
            // Newer ones come while somebody pages: they belong to the front, which is behind us.
            agent.docker_run(&format!("new-{limit}-{pages}"), "redis:7");
            there(before + pages).await;
            cursor = reply["nextCursor"].as_str().map(str::to_owned);
            if cursor.is_none() {
                break;
            }
        }
        assert!(wanted.is_subset(&seen), "{limit}");
        assert_eq!(seen.len(), before, "{limit}");
        assert!(ids.is_sorted_by(|a, b| a > b), "newest first");
        assert_eq!(pages, before.div_ceil(limit), "no page is empty");
    }
    let page = api.get("/api/containers").await.is(200).json();
    assert_eq!(page["count"], 50, "where nobody says");

    // A page that is just full and the last has no next.
    let operations = async |query: &str| plane.admin().await.get(format!("/api/operations?{query}")).await.is(200).json();
    for n in 0..4 {
        plane.operator().await.create(&nginx(&format!("made-{n}"))).await;
    }
    for (limit, pages) in [(1, 4), (2, 2), (4, 1), (5, 1)] {
        let (mut seen, mut cursor) = (Vec::new(), None::<String>);
        for page in 1.. {
            let query = cursor.map(|c| format!("&cursor={c}")).unwrap_or_default();
            let reply = operations(&format!("limit={limit}{query}")).await;
            seen.extend(
                reply["data"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|o| o["id"].as_str().unwrap().to_owned()),
            );
            cursor = reply["nextCursor"].as_str().map(str::to_owned);
            if cursor.is_none() {
                assert_eq!(page, pages, "pages of {limit}");
                break;
            }
        }
        assert_eq!(seen.iter().collect::<HashSet<_>>().len(), 4);
    }
}

async fn idempotency_keys(database: Database) {
    let plane = TestControlPlane::start(database).await;
    let agent = FakeAgent::join(&plane, "alder").await;
    let api = plane.operator().await;
    let create = async |key: &str, body: &Value| api.post("/api/containers").json(body).idempotency_key(key).await;

    // Sent twice, done once, answered the same.
    let first: ContainerView = create("one", &nginx("web")).await.data(201);
    let again: ContainerView = create("one", &nginx("web")).await.data(201);
    assert_eq!((first.id.clone(), agent.calls(Ask::Create)), (again.id, 1));
    // Another request under the same key.
    create("one", &nginx("web-2")).await.refused(409, "idempotency_key_reused");
    // Another user's key is another key.
    let admin = plane.admin().await;
    admin
        .post("/api/containers")
        .json(&nginx("theirs"))
        .idempotency_key("one")
        .await
        .is(201);
    // A refused request leaves its key free.
    create("two", &json!({ "name": "a", "image": "b", "memoryLimit": "lots" }))
        .await
        .names("memoryLimit");
    create("two", &nginx("web")).await.refused(409, "name_taken");
    create("two", &nginx("web-3")).await.is(201);

    // At the same time: one does it, all are told of the same container.
    let hold = agent.hold(Ask::Create, When::Before);
    let calls = agent.calls(Ask::Create);
    let many: Vec<_> = (0..5)
        .map(|_| {
            let call = api.post("/api/containers").json(&nginx("at-once")).idempotency_key("three");
            tokio::spawn(async move { call.await.data::<ContainerView>(201).id })
        })
        .collect();
    hold.reached(1).await;
    hold.release();
    let ids: HashSet<_> = futures_util::future::join_all(many).await.into_iter().map(Result::unwrap).collect();
    assert_eq!((ids.len(), agent.calls(Ask::Create)), (1, calls + 1));

    // Across a restart, and for a client that lost the answer.
    let mut plane = plane;
    plane.kill().await;
    agent.ready(&plane).await;
    let api = plane.operator().await;
    let again: ContainerView = api
        .post("/api/containers")
        .json(&nginx("web"))
        .idempotency_key("one")
        .await
        .data(201);
    assert_eq!(again.id, first.id);

    // Every creating POST takes one.
    let admin = plane.admin().await;
    let user = json!({ "username": "ada", "password": "long enough it is", "role": "viewer" });
    let [one, two] = [
        admin.post("/api/users").json(&user).idempotency_key("u").await,
        admin.post("/api/users").json(&user).idempotency_key("u").await,
    ];
    assert_eq!(one.data::<UserView>(201).id, two.data::<UserView>(201).id);
    let token = json!({ "name": "ci", "role": "viewer" });
    let [one, two] = [
        admin.post("/api/tokens").json(&token).idempotency_key("t").await,
        admin.post("/api/tokens").json(&token).idempotency_key("t").await,
    ];
    assert_eq!(one.data::<CreatedToken>(201).token, two.data::<CreatedToken>(201).token);
    let [one, two] = [
        admin
            .post("/api/containers/templates/redis/run")
            .json(&json!({}))
            .idempotency_key("r")
            .await,
        admin
            .post("/api/containers/templates/redis/run")
            .json(&json!({}))
            .idempotency_key("r")
            .await,
    ];
    assert_eq!(one.data::<ContainerView>(201).id, two.data::<ContainerView>(201).id);
    // Those are all that say they take one.
    let routes = nm_control::api::routes();
    let mut takers: Vec<&str> = routes.iter().filter(|r| r.idempotent).map(|r| r.path).collect();
    takers.sort_unstable();
    assert_eq!(
        takers,
        [
            "/api/alerts/channels",
            "/api/alerts/rules",
            "/api/alerts/silences",
            "/api/capabilities/backups/configs",
            "/api/capabilities/backups/perform/{configId}",
            "/api/capabilities/backups/{id}/restore",
            "/api/capabilities/clusters",
            "/api/capabilities/clusters/{id}/jobs",
            "/api/containers",
            "/api/containers/templates/{id}/run",
            "/api/tokens",
            "/api/users"
        ]
    );
    for bad in ["", &"x".repeat(201)] {
        admin
            .post("/api/containers")
            .json(&nginx("z"))
            .idempotency_key(bad)
            .await
            .refused(400, "malformed_header");
    }
}

async fn versions(database: Database) {
    let plane = TestControlPlane::start(database).await;
    let agent = FakeAgent::join(&plane, "alder").await;
    let (api, admin) = (plane.operator().await, plane.admin().await);
    api.create(&nginx("web")).await;
    let patch = async |tag: &str| {
        api.patch("/api/containers/web")
            .json(&json!({ "memoryLimit": "64m" }))
            .header("if-match", tag)
            .await
    };
    // What the node reports makes new versions, too: read and retry, as every client must.
    let (old, new) = eventually("a change of the version that was read", async || {
        let old = api.get("/api/containers/web").await.is(200).etag();
        let reply = patch(&old).await;
        (reply.status == 200).then(|| (old, reply.etag()))
    })
    .await;
    assert_ne!(old, new);
    for stale in [old.as_str(), "\"0\"", "\"moon\"", "moon", "\"-1\""] {
        patch(stale).await.refused(412, "changed_meanwhile");
        api.delete("/api/containers/web")
            .header("if-match", stale)
            .await
            .refused(412, "changed_meanwhile");
        api.post("/api/containers/web/start")
            .header("if-match", stale)
            .await
            .refused(412, "changed_meanwhile");
    }
    patch("*").await.is(200);
    assert_eq!((agent.calls(Ask::Remove), agent.calls(Ask::Start)), (0, 0));

    // Nodes, users and registries the same.
    let node = format!("/api/nodes/{}", agent.node);
    let old = admin.get(&node).await.etag();
    let update = json!({ "labels": { "rack": "1" } });
    eventually("a change of the node's version that was read", async || {
        let tag = admin.get(&node).await.etag();
        (admin.patch(&node).json(&update).header("if-match", &tag).await.status == 200).then_some(())
    })
    .await;
    admin
        .patch(&node)
        .json(&update)
        .header("if-match", &old)
        .await
        .refused(412, "changed_meanwhile");
    let made = admin
        .post("/api/users")
        .json(&json!({ "username": "ada", "password": "long enough it is", "role": "viewer" }))
        .await
        .is(201);
    let change = json!({ "role": "operator" });
    admin
        .patch("/api/users/ada")
        .json(&change)
        .header("if-match", &made.etag())
        .await
        .is(200);
    admin
        .patch("/api/users/ada")
        .json(&change)
        .header("if-match", &made.etag())
        .await
        .refused(412, "changed_meanwhile");
    admin
        .delete("/api/users/ada")
        .header("if-match", &made.etag())
        .await
        .refused(412, "changed_meanwhile");
    let new = json!({ "host": "r.example.com", "username": "a", "password": "b" });
    admin.post("/api/registries").json(&new).await.is(201);
    admin
        .put("/api/registries/r.example.com")
        .json(&new)
        .header("if-match", "\"1\"")
        .await
        .refused(412, "changed_meanwhile");
}

#[tokio::test]
async fn respond_async() {
    let (_plane, agent, api) = fleet().await;
    let hold = agent.hold(Ask::Create, When::Before);
    let reply = api.post("/api/containers").json(&nginx("web")).respond_async().await;
    let operation: OperationView = reply.data(202);
    assert_eq!(operation.state, OperationState::Running);
    assert_eq!(reply.header("location"), Some(format!("/api/operations/{}", operation.id).as_str()));
    hold.release();
    let ended = api.ended(operation.id.as_str()).await;
    assert_eq!(ended.state, OperationState::Succeeded);
    let id = ended.result.unwrap()["containerId"].as_str().unwrap().to_owned();
    assert_eq!(api.container("web").await.id.as_str(), id);
}

/// Half a minute is as long as a request waits; the work goes on.
#[tokio::test]
async fn what_takes_longer_than_half_a_minute_is_answered_with_its_operation() {
    let (_plane, agent, api) = fleet().await;
    let hold = agent.hold(Ask::Pull, When::Before);
    let began = Instant::now();
    let operation: OperationView = api
        .post("/api/containers/images/pull")
        .json(&json!({ "name": "redis:7" }))
        .await
        .data(202);
    assert!((29..35).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    hold.release();
    assert_eq!(api.ended(operation.id.as_str()).await.state, OperationState::Succeeded);
}

#[tokio::test]
async fn a_panic_is_an_answer() {
    let plane = TestControlPlane::sqlite().await;
    let app = plane.app().clone();
    let frame = move |request: Request<Body>, next: Next| nm_control::api::frame::frame(app.clone(), request, next);
    async fn fails() -> &'static str {
        panic!("made to panic")
    }
    let router = Router::new().route("/api/boom", get(fails).post(fails)).layer(from_fn(frame));
    for method in [Method::GET, Method::POST] {
        let request = Request::builder().method(method).uri("/api/boom").body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 500);
        let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
        let body: Value = serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
        assert_eq!(
            (body["code"].as_str(), body["requestId"].as_str()),
            (Some("internal"), Some(id.as_str()))
        );
        assert!(!body.to_string().contains("made to panic"), "{body}");
    }
}

/// Sends `bytes` as they are and reads to the end of the connection.
async fn raw(api: &Client, bytes: &[u8]) -> String {
    let mut socket = api.socket().await;
    // It may be closed before all is sent.
    let _sent = socket.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ended = soon("the connection's end", socket.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn heads_too_large_and_broken() {
    let plane = TestControlPlane::sqlite().await;
    let api = plane.anonymous();
    for (size, says) in [
        (20, r#""code":"head_too_large""#),
        (60, r#""code":"head_too_large""#),
        (500, "431 "),
    ] {
        let big = format!(
            "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-big: {}\r\n\r\n",
            "a".repeat(size * 1024)
        );
        let answer = raw(&api, big.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 431 ") && answer.contains(says), "{answer}");
    }
    for broken in [
        &b"moon\r\n\r\n"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
    ] {
        let answer = raw(&api, broken).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") || answer.is_empty(), "{answer}");
    }
    let smuggled = "POST /api/auth/login HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    let answer = raw(&api, smuggled.as_bytes()).await;
    assert!(answer.matches("HTTP/1.1 200").count() == 0, "{answer}");
    api.get("/healthz").await.is(200);
}

#[tokio::test]
async fn a_slow_head_is_not_waited_for() {
    let plane = TestControlPlane::sqlite().await;
    let api = plane.anonymous();
    let slow = async |bytes: &'static [u8]| {
        let began = Instant::now();
        assert_eq!(raw(&api, bytes).await, "");
        began.elapsed()
    };
    for took in futures_util::future::join_all([slow(b""), slow(b"GET /heal"), slow(b"GET /healthz HTTP/1.1\r\nhost: x\r\n")]).await {
        assert!((Duration::from_secs(9)..Duration::from_secs(13)).contains(&took), "{took:?}");
    }
}

#[tokio::test]
async fn open_to_all_and_only_that() {
    let plane = TestControlPlane::sqlite().await;
    let nobody = plane.anonymous();
    nobody.get("/healthz").await.is(200);
    nobody.get("/readyz").await.is(200);
    nobody.get("/metrics").await.refused(401, "unauthorized");
    nobody.get("/api/openapi.json").await.refused(401, "unauthorized");
    let admin = plane.admin().await;
    let metrics = admin.get("/metrics").await.is(200);
    let text = String::from_utf8(metrics.body.to_vec()).unwrap();
    for name in ["neuralmesh_http_requests_total", "neuralmesh_nodes", "neuralmesh_containers"] {
        assert!(text.contains(name), "{name} in {text}");
    }
    for bad in ["", "Bearer", "Bearer ", "Basic YTpi", "Bearer a b", "nma_x", "Bearer nma_x"] {
        nobody
            .get("/api/auth/me")
            .header("authorization", bad)
            .await
            .refused(401, "unauthorized");
    }
    let info = admin.get("/api/system/info").await.is(200).json();
    assert_eq!(info["data"]["database"], "sqlite");
}
