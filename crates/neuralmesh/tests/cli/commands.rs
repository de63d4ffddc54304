//! What each command asks, what it prints, how it ends.

use crate::fake::{
    self, CONTAINER, Fake, NODE, OPERATION, container, data, event, events, finish, finish_with_input, operation, page, refuse, refuse_with,
};
use axum::Router;
use axum::extract::{Path, Query};
use axum::response::Response;
use axum::routing::{delete, get, post};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

pub fn containers() -> Router {
    let list = |Query(query): Query<HashMap<String, String>>| async move {
        match query.get("cursor").map(String::as_str) {
            None => page(json!([container("web")]), Some("more")),
            Some("more") => page(json!([container("db")]), None),
            Some(_) => refuse(422, "invalid_field", "no such cursor"),
        }
    };
    let nodes = || async {
        page(
            json!([{ "id": NODE, "name": "n1", "status": "ready", "labels": {}, "containers": 2, "created": fake::NOW }]),
            None,
        )
    };
    Router::new().route("/api/containers", get(list)).route("/api/nodes", get(nodes))
}

#[tokio::test]
async fn a_list_shows_all_pages_in_each_format() {
    let fake = Fake::start(containers()).await;
    let table = fake.run(&["containers", "ps"]).await.ok();
    let lines: Vec<&str> = table.out.lines().collect();
    assert_eq!(lines.len(), 3, "{}", table.out);
    assert!(lines[0].starts_with("NAME   IMAGE          NODE   CREATED"), "{}", table.out);
    assert!(
        lines[1].starts_with("web    nginx:latest   n1") && lines[1].contains("0.0.0.0:8080->80/tcp"),
        "{}",
        table.out
    );
    assert!(lines[2].starts_with("db "), "{}", table.out);

    let json = fake.run(&["containers", "ps", "-o", "json"]).await.ok();
    assert_eq!(
        json.json(),
        json!([container("web"), container("db")]),
        "the data as it is, unknown fields and all"
    );
    assert_eq!(fake.run(&["containers", "ls", "-o", "name"]).await.ok().out, "web\ndb\n");
    assert_eq!(
        fake.run(&["containers", "ps", "-q"]).await.ok().out,
        format!("{CONTAINER}\n{CONTAINER}\n")
    );
    assert_eq!(
        fake.run(&["containers", "ps", "-o", "name", "--limit", "1"]).await.ok().out,
        "web\n"
    );

    let asked = fake.lines();
    assert!(asked.contains(&"GET /api/containers?limit=200&cursor=more".to_owned()), "{asked:?}");
    assert!(asked.contains(&"GET /api/containers?limit=1".to_owned()), "{asked:?}");
    assert!(fake.seen().iter().all(|s| s.header("authorization") == Some("Bearer nmt_given")));
}

#[tokio::test]
async fn a_refusal_says_what_where_and_what_next() {
    let router = Router::new()
        .route(
            "/api/containers",
            post(|| async {
                let details = json!({ "details": [{ "field": "memoryLimit", "message": "the node has 2g" }, { "field": "ports[0].host", "message": "80 is taken" }], "logs": ["boom"] });
                refuse_with(422, "invalid_field", "2 fields can't be taken as they are", details)
            }),
        )
        .route("/api/users", get(|| async { refuse(403, "forbidden", "that needs the role admin") }))
        .route("/api/nodes", get(|| async { refuse(401, "unauthorized", "sign in first") }))
        .route("/api/volumes", get(|| async { (StatusCode::BAD_GATEWAY, "<html>nginx</html>") }));
    let fake = Fake::start(router).await;

    let refused = fake.run(&["containers", "create", "-m", "64g", "nginx"]).await;
    assert_eq!(refused.code, 1);
    assert_eq!(
        refused.err,
        "error: 2 fields can't be taken as they are\n  memoryLimit: the node has 2g\n  ports[0].host: 80 is taken\nits last log lines:\n  | boom\n"
    );
    assert_eq!(refused.out, "");

    let forbidden = fake.run(&["users", "ls"]).await;
    assert_eq!(
        (forbidden.code, forbidden.err.lines().next()),
        (1, Some("error: that needs the role admin"))
    );
    let unauthorized = fake.run(&["nodes", "ls"]).await;
    assert_eq!(unauthorized.code, 1);
    assert!(unauthorized.err.contains("NEURALMESH_TOKEN"), "{}", unauthorized.err);
    let foreign = fake.run(&["volumes", "ls"]).await;
    assert_eq!(foreign.code, 1);
    assert!(foreign.err.contains("502") && foreign.err.contains("right URL"), "{}", foreign.err);

    let not_signed_in = finish(fake.bare(&["nodes", "ls"]).env("NEURALMESH_SERVER", &fake.url)).await;
    assert!(
        not_signed_in.err.contains(&format!("neuralmesh login --server-url {}", fake.url)),
        "{}",
        not_signed_in.err
    );
}

#[tokio::test]
async fn exit_codes_tell_failure_from_wrong_use() {
    let fake = Fake::start(Router::new()).await;
    for wrong in [
        &["containers", "run"][..],
        &["containers", "run", "-p", "x:80", "nginx"],
        &["containers", "run", "-i", "nginx"],
        &["containers", "cp", "a", "b"],
        &["containers", "kill", "-s", "NOPE", "web"],
        &["nodes", "rm", "n1"],
        &["moon"],
        &["containers", "ps", "--server-url", "localhost:3001"],
        &["users", "add", "ann"],
    ] {
        let ended = fake.run(wrong).await;
        assert_eq!(ended.code, 2, "{wrong:?}: {ended:?}");
        assert!(!ended.err.is_empty() && ended.out.is_empty(), "{wrong:?}: {ended:?}");
    }
    assert_eq!(fake.lines(), Vec::<String>::new(), "nothing is sent for wrong use");
    assert_eq!(fake.run(&["--help"]).await.code, 0);
    assert!(fake.run(&["--version"]).await.ok().out.starts_with("neuralmesh "));

    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let nobody = finish(
        fake.bare(&["containers", "ps"])
            .env("NEURALMESH_SERVER", format!("http://127.0.0.1:{port}")),
    )
    .await;
    assert_eq!(nobody.code, 1);
    assert!(
        nobody.err.contains("connection refused") && nobody.err.contains("neuralmesh up"),
        "{}",
        nobody.err
    );
}

fn slow_create(states: Vec<Vec<Value>>) -> Router {
    let streams = Arc::new(Mutex::new(states));
    let follow = move |Path(id): Path<String>| async move {
        assert_eq!(id, OPERATION);
        let mut streams = streams.lock().unwrap();
        if streams.is_empty() {
            return refuse(404, "operation_not_found", "nothing more");
        }
        events(streams.remove(0).iter().map(|state| event("operation", state)).collect::<String>())
    };
    Router::new()
        .route("/api/containers", post(|| async { data(202, operation("pending", json!({}))) }))
        .route("/api/operations/{id}", get(follow))
        .route("/api/containers/{id}", get(|| async { data(200, container("web")) }))
}

#[tokio::test]
async fn an_accepted_create_is_followed_to_its_end() {
    let step = |state: &str| json!({ "steps": [{ "name": "pull", "state": state, "detail": "3 of 7 layers" }] });
    let result = json!({ "result": { "containerId": CONTAINER }, "target": CONTAINER, "finished": fake::NOW });
    let streams = vec![
        // The first stream breaks off; the second goes on to the end.
        vec![operation("running", step("running"))],
        vec![operation("running", step("succeeded")), operation("succeeded", result)],
    ];
    let fake = Fake::start(slow_create(streams)).await;
    let ended = fake.run(&["containers", "run", "--name", "web", "nginx"]).await.ok();
    assert_eq!(ended.out, format!("{CONTAINER}\n"));
    assert_eq!(ended.err, "pull: begun\npull: done\nweb: running  0.0.0.0:8080->80/tcp\n");
    let follow = format!("GET /api/operations/{OPERATION}?follow=true");
    assert_eq!(
        fake.lines(),
        [
            "POST /api/containers",
            &follow,
            &follow,
            &format!("GET /api/containers/{CONTAINER}")
        ]
    );
}

#[tokio::test]
async fn a_failed_operation_fails_the_program() {
    let error = json!({ "status": 404, "code": "image_not_found", "error": "there is no image ngnix", "logs": ["last words"] });
    let streams = vec![
        vec![operation("failed", json!({ "error": error }))],
        vec![operation("cancelled", json!({}))],
    ];
    let fake = Fake::start(slow_create(streams)).await;
    let failed = fake.run(&["containers", "run", "ngnix"]).await;
    assert_eq!(failed.code, 1);
    assert_eq!(
        failed.err,
        format!(
            "error: there is no image ngnix\nits last log lines:\n  | last words\nits steps and log: neuralmesh operations get {OPERATION}\n"
        )
    );
    let cancelled = fake.run(&["operations", "wait", OPERATION]).await;
    assert_eq!(
        (cancelled.code, cancelled.err),
        (1, format!("error: operation {OPERATION} was cancelled\n"))
    );
}

#[tokio::test]
async fn an_interrupted_wait_says_that_the_work_goes_on() {
    let asked = Arc::new(tokio::sync::Notify::new());
    let told = asked.clone();
    let follow = move || async move {
        told.notify_one();
        let silent = futures_util::stream::pending::<Result<bytes::Bytes, std::io::Error>>();
        ([("content-type", "text/event-stream")], axum::body::Body::from_stream(silent))
    };
    let router = Router::new()
        .route("/api/containers", post(|| async { data(202, operation("pending", json!({}))) }))
        .route("/api/operations/{id}", get(follow));
    let fake = Fake::start(router).await;
    let child = fake
        .command(&["containers", "run", "nginx"])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    asked.notified().await;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let ended = child.wait_with_output().await.unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(130), "{said}");
    assert!(said.contains("neuralmesh operations ls"), "{said}");
}

#[tokio::test]
async fn nobody_has_to_wait() {
    let fake = Fake::start(slow_create(Vec::new())).await;
    let ended = fake.run(&["containers", "run", "--no-wait", "nginx"]).await.ok();
    assert_eq!(ended.out, format!("{OPERATION}\n"));
    assert_eq!(fake.seen()[0].header("prefer"), Some("respond-async"));
    assert_eq!(fake.lines().len(), 1);
}

#[tokio::test]
async fn a_create_whose_answer_is_lost_is_sent_again_under_the_same_key() {
    let router = Router::new().route("/api/containers", post(|| async { data(201, container("web")) }));
    let fake = Fake::start(router).await;
    let inner = fake.url.trim_start_matches("http://").to_owned();
    let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", front.local_addr().unwrap());
    let keys = Arc::new(Mutex::new(Vec::new()));
    let seen_keys = keys.clone();
    tokio::spawn(async move {
        let mut first = true;
        while let Ok((mut stream, _)) = front.accept().await {
            if std::mem::take(&mut first) {
                let mut asked = vec![0; 65_536];
                let n = stream.read(&mut asked).await.unwrap();
                let text = String::from_utf8_lossy(&asked[..n]).to_lowercase();
                let key = text.lines().find_map(|l| l.strip_prefix("idempotency-key: ")).unwrap().to_owned();
                seen_keys.lock().unwrap().push(key);
                continue;
            }
            let inner = inner.clone();
            tokio::spawn(async move {
                let mut to = TcpStream::connect(inner).await.unwrap();
                let _ended = copy_bidirectional(&mut stream, &mut to).await;
            });
        }
    });
    let ended = fake
        .run(&["containers", "create", "--server-url", &url, "--name", "web", "nginx"])
        .await
        .ok();
    assert_eq!(ended.out, format!("{CONTAINER}\n"));
    let first = keys.lock().unwrap()[0].clone();
    assert_eq!(first.len(), 32);
    assert_eq!(fake.seen()[0].header("idempotency-key"), Some(first.as_str()));
}

#[tokio::test]
async fn several_containers_are_stopped_and_failures_do_not_stop_the_rest() {
    let stop = |Path(name): Path<String>, body: String| async move {
        assert_eq!(body, r#"{"grace":5}"#);
        if name == "gone" {
            refuse(404, "container_not_found", "there is no container `gone`")
        } else {
            data(200, container(&name))
        }
    };
    let remove = |Path(name): Path<String>| async move {
        if name == "gone" {
            refuse(404, "container_not_found", "there is no container `gone`")
        } else {
            data(200, json!({}))
        }
    };
    let router = Router::new()
        .route("/api/containers/{id}/stop", post(stop))
        .route("/api/containers/{id}", delete(remove));
    let fake = Fake::start(router).await;
    let ended = fake.run(&["containers", "stop", "-t", "5s", "web", "gone", "db"]).await;
    assert_eq!((ended.code, ended.out.as_str()), (1, "web\ndb\n"));
    assert_eq!(ended.err, "error: gone: there is no container `gone`\n");
    assert_eq!(fake.run(&["containers", "rm", "gone"]).await.code, 1);
    assert_eq!(fake.run(&["containers", "rm", "-f", "-v", "web", "gone"]).await.ok().out, "web\n");
    assert!(
        fake.lines()
            .contains(&"DELETE /api/containers/web?force=true&volumes=true".to_owned())
    );
    // A name is a name, whatever it looks like.
    fake.run(&["containers", "rm", "../nodes/n1?x=#"]).await;
    assert_eq!(fake.lines().last().unwrap(), "DELETE /api/containers/..%2Fnodes%2Fn1%3Fx=%23");
}

#[tokio::test]
async fn logs_keep_the_streams_apart() {
    let line = |stream: &str, text: &str| json!({ "stream": stream, "time": fake::NOW, "line": text });
    let logs = move |Query(query): Query<HashMap<String, String>>| async move {
        if query.contains_key("follow") {
            let mut text = String::from(": keep-alive\n\n");
            text += &event("log", &line("stdout", "one"));
            text += &event("log", &line("stderr", "two"));
            text += &event("end", &json!({}));
            return events(text);
        }
        assert_eq!(query.get("format").map(String::as_str), Some("objects"));
        data(200, json!([line("stdout", "one"), line("stderr", "two")]))
    };
    let fake = Fake::start(Router::new().route("/api/containers/{id}/logs", get(logs))).await;
    let ended = fake.run(&["containers", "logs", "--tail", "5", "web"]).await.ok();
    assert_eq!((ended.out.as_str(), ended.err.as_str()), ("one\n", "two\n"));
    let followed = fake.run(&["containers", "logs", "-f", "-t", "web"]).await.ok();
    assert_eq!(
        (followed.out, followed.err),
        (format!("{} one\n", fake::NOW), format!("{} two\n", fake::NOW))
    );
    assert_eq!(fake.lines()[0], "GET /api/containers/web/logs?tail=5&format=objects");
}

#[tokio::test]
async fn events_go_on_where_a_broken_stream_ended() {
    let one = |revision: u64| {
        let data = json!({ "revision": revision, "kind": "container", "id": CONTAINER, "what": "status", "name": "web", "status": "running", "time": fake::NOW });
        format!("id: {revision}\nevent: container\ndata: {data}\n\n")
    };
    let stream = move |headers: HeaderMap| async move {
        match headers.get("last-event-id").and_then(|v| v.to_str().ok()) {
            None => events(one(7)),
            Some("7") => events(format!("{}{}", one(8), one(9))),
            other => refuse(422, "invalid_field", &format!("unexpected {other:?}")),
        }
    };
    let fake = Fake::start(Router::new().route("/api/events", get(stream))).await;
    let ended = fake.run(&["events", "-f", "--count", "3"]).await.ok();
    assert_eq!(ended.out, format!("{} container status running web\n", fake::NOW).repeat(3));
    assert!(ended.err.contains("trying again"), "{}", ended.err);
    let json = fake.run(&["events", "--since", "7", "--count", "1", "-o", "json"]).await.ok();
    assert_eq!(json.json()["revision"], 8);
}

#[tokio::test]
async fn exec_passes_streams_and_code_on() {
    let exec = |body: String| async move {
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["command"], json!(["sh", "-c", "exit 7"]));
        assert_eq!(body["environment"], json!({ "A": "1", "FROM_HERE": "yes" }));
        data(
            200,
            json!({ "exitCode": 7, "output": "oe", "stdout": "o", "stderr": "e", "timedOut": false, "truncated": false }),
        )
    };
    let fake = Fake::start(Router::new().route("/api/containers/{id}/exec", post(exec))).await;
    let args = [
        "containers",
        "exec",
        "-e",
        "A=1",
        "-e",
        "FROM_HERE",
        "-e",
        "NOT_SET",
        "web",
        "--",
        "sh",
        "-c",
        "exit 7",
    ];
    let ended = finish(fake.command(&args).env("FROM_HERE", "yes")).await;
    assert_eq!((ended.code, ended.out.as_str(), ended.err.as_str()), (7, "o", "e"));
}

#[tokio::test]
async fn one_sample_of_each_container_is_shown() {
    let sample = json!({
        "containerId": CONTAINER, "cpu": 12.345, "memory": 64.0, "memoryLimit": 134_217_728, "networkRx": 1000, "networkTx": 2_500_000, "blockRead": 0,
        "blockWrite": 4096, "pids": 3, "oomKills": 0, "throttledSeconds": 0.0, "timestamp": fake::NOW
    });
    let router = Router::new()
        .route("/api/containers", get(|| async { page(json!([container("web")]), None) }))
        .route(
            "/api/containers/{id}/stats",
            get(move || async move { page(json!([sample]), None) }),
        );
    let fake = Fake::start(router).await;
    let ended = fake.run(&["containers", "stats", "--no-stream"]).await.ok();
    let row: Vec<&str> = ended
        .out
        .lines()
        .nth(1)
        .unwrap()
        .split("   ")
        .map(str::trim)
        .filter(|c| !c.is_empty())
        .collect();
    assert_eq!(
        row,
        ["web", "12.35%", "64MiB / 128MiB", "50.00%", "1kB / 2.5MB", "0B / 4.1kB", "3"],
        "{}",
        ended.out
    );
}

#[tokio::test]
async fn labels_are_changed_without_losing_anothers_change() {
    let node =
        |labels: Value| json!({ "id": NODE, "name": "n1", "status": "ready", "labels": labels, "containers": 0, "created": fake::NOW });
    let tries = Arc::new(AtomicUsize::new(0));
    let seen = tries.clone();
    let read = move || async move {
        let labels = if seen.load(Ordering::SeqCst) == 0 {
            json!({ "old": "1" })
        } else {
            json!({ "old": "1", "theirs": "2" })
        };
        let mut response = data(200, node(labels));
        response.headers_mut().insert("etag", "\"5\"".parse().unwrap());
        response
    };
    let change = move |headers: HeaderMap, body: String| async move {
        assert_eq!(headers["if-match"], "\"5\"");
        if tries.fetch_add(1, Ordering::SeqCst) == 0 {
            return refuse(412, "changed_meanwhile", "it was changed by somebody else meanwhile");
        }
        assert_eq!(
            serde_json::from_str::<Value>(&body).unwrap(),
            json!({ "labels": { "theirs": "2", "zone": "a" } })
        );
        data(200, node(json!({})))
    };
    let fake = Fake::start(Router::new().route("/api/nodes/{id}", get(read).patch(change))).await;
    assert_eq!(fake.run(&["nodes", "label", "n1", "zone=a", "old-"]).await.ok().out, "n1\n");
}

#[tokio::test]
async fn a_reader_that_stops_is_no_failure() {
    let many: Vec<Value> = (0..200).map(|_| container("a-container-with-a-rather-long-name")).collect();
    let fake = Fake::start(Router::new().route("/api/containers", get(move || async move { page(json!(many), None) }))).await;
    let mut child = fake
        .command(&["containers", "ps", "-o", "json"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().await.unwrap();
    assert_eq!(
        (ended.status.code(), String::from_utf8_lossy(&ended.stderr).as_ref()),
        (Some(0), "")
    );
}

#[tokio::test]
async fn every_shell_gets_its_completions() {
    let fake = Fake::start(Router::new()).await;
    for shell in ["bash", "zsh", "fish"] {
        let ended = fake.run(&["completion", shell]).await.ok();
        assert!(ended.out.contains("join-token"), "{shell}");
    }
}

#[tokio::test]
async fn secrets_are_read_from_standard_input_and_never_shown() {
    let bodies = Arc::new(Mutex::new(Vec::<Value>::new()));
    let kept = bodies.clone();
    let registry =
        json!({ "id": "reg_1770000000000_abcdefghi", "host": "ghcr.io", "username": "ci", "created": fake::NOW, "updated": fake::NOW });
    let saved = registry.clone();
    let save = move |body: String| async move {
        kept.lock().unwrap().push(serde_json::from_str(&body).unwrap());
        data(200, saved)
    };
    let router = Router::new()
        .route("/api/registries", get(move || async move { page(json!([registry]), None) }))
        .route("/api/registries/{id}", axum::routing::put(save));
    let fake = Fake::start(router).await;
    let ended = finish_with_input(
        &mut fake.command(&["registries", "add", "ghcr.io", "-u", "ci", "--password-stdin"]),
        "s3cret-pw\n",
    )
    .await
    .ok();
    assert_eq!(ended.out, "ghcr.io\n");
    assert!(!ended.err.contains("s3cret"));
    assert_eq!(
        bodies.lock().unwrap()[0],
        json!({ "host": "ghcr.io", "username": "ci", "password": "s3cret-pw" })
    );
    assert_eq!(fake.lines()[1], "PUT /api/registries/reg_1770000000000_abcdefghi");
}

/// Answers of any kind are asked for with `Accept: application/json`, and this is one that is not JSON.
#[tokio::test]
async fn a_redirect_is_not_followed_but_told() {
    let redirect = || async {
        Response::builder()
            .status(308)
            .header("location", "https://elsewhere.example/api/containers")
            .body(axum::body::Body::empty())
            .unwrap()
    };
    let fake = Fake::start(Router::new().route("/api/containers", get(redirect))).await;
    let ended = fake.run(&["containers", "ps", "-q"]).await;
    assert_eq!(ended.code, 1);
    assert!(ended.err.contains("elsewhere.example"), "{}", ended.err);
}
