//! `neuralmesh jobs`: what it asks and prints.

use crate::fake::{self, Fake, NODE, data, event, events, page, refuse};
use axum::body::Body;
use axum::extract::Path;
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::{StreamExt, stream};
use http::header::CONTENT_TYPE;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

const JOB: &str = "job_1770000000000_abcdefghi";
const BASE: &str = "/api/capabilities/clusters/crunch/jobs";

fn job(state: &str, succeeded: u32, failed: u32) -> Value {
    json!({
        "id": JOB, "clusterId": "cluster_1770000000000_abcdefghi", "name": "sum", "state": state, "reason": "one \u{1b}[31mfailed",
        "counts": { "queued": 10 - succeeded - failed, "running": 0, "succeeded": succeeded, "failed": failed, "cancelled": 0, "setAside": 0 },
        "progress": f64::from(succeeded + failed) * 10.0, "attempts": 12, "image": "busybox", "command": ["sum", "it"], "environment": {},
        "retries": { "limit": 2, "backoff": 10 }, "priority": 50, "dependsOn": [], "volumes": [], "created": fake::NOW, "started": fake::NOW
    })
}

#[tokio::test]
async fn jobs() {
    let bodies: Arc<Mutex<Vec<Value>>> = Arc::default();
    let looks = Arc::new(AtomicUsize::new(0));
    let keep = {
        let bodies = bodies.clone();
        move |Json(body): Json<Value>| {
            bodies.lock().unwrap().push(body);
            async move { data(201, job("queued", 0, 0)) }
        }
    };
    let one = {
        let looks = looks.clone();
        move |Path(id): Path<String>| {
            let seen = looks.fetch_add(1, Ordering::SeqCst);
            async move {
                match id.as_str() {
                    "bad" => data(200, job("failed", 9, 1)),
                    _ if seen == 0 => data(200, job("running", 5, 0)),
                    _ => data(200, job("succeeded", 10, 0)),
                }
            }
        }
    };
    let task = json!({
        "index": 3, "state": "failed", "attempts": 3, "nodeId": NODE, "cores": [1], "outcome": "exit-code", "exitCode": 7,
        "reason": "its program ended with 7", "started": fake::NOW, "finished": fake::NOW
    });
    let line = |stream: &str, text: &str| json!({ "stream": stream, "time": fake::NOW, "line": text });
    let lines = json!([line("stdout", "out"), line("stderr", "err")]);
    let router = Router::new()
        .route(BASE, get(|| async { page(json!([job("running", 5, 1)]), None) }).post(keep))
        .route(
            &format!("{BASE}/{{id}}"),
            get(one).delete(|Path(id): Path<String>| async move {
                match id.as_str() {
                    "runs" => refuse(409, "job_not_finished", "it has not ended: cancel it first"),
                    _ => data(200, json!({})),
                }
            }),
        )
        .route(
            &format!("{BASE}/{{id}}/tasks"),
            get(move || async move { page(json!([task]), None) }),
        )
        .route(
            &format!("{BASE}/{{id}}/logs"),
            get(move |query: axum::extract::RawQuery| async move {
                match query.0.unwrap_or_default().contains("follow=true") {
                    true => events(event("log", &line("stdout", "as it comes")) + &event("end", &json!({}))),
                    false => page(lines, None),
                }
            }),
        )
        .route(
            &format!("{BASE}/{{id}}/cancel"),
            post(|| async { data(200, job("cancelled", 0, 0)) }),
        );
    let fake = Fake::start(router).await;

    let table = fake.run(&["jobs", "ls", "--cluster", "crunch", "--state", "running"]).await.ok();
    assert!(
        table.out.starts_with("JOB") && table.out.contains("6/10") && table.out.contains("running"),
        "{}",
        table.out
    );
    assert_eq!(fake.run(&["job", "ls", "-c", "crunch", "-q"]).await.ok().out.trim(), JOB);

    // What is made of the options, and that it is waited for.
    let args = [
        "jobs",
        "run",
        "--cluster",
        "crunch",
        "--image",
        "renderer:2",
        "--array",
        "10",
        "--cpu",
        "1.5",
        "--memory",
        "2g",
        "--env",
        "A=b",
        "--retries",
        "2",
        "--timeout",
        "60",
        "--priority",
        "70",
        "--volume",
        "data:/data:ro",
        "--wait",
        "--",
        "render",
        "--fast",
    ];
    let made = fake.run(&args).await.ok();
    assert_eq!(made.out.trim(), JOB);
    assert!(made.err.contains("succeeded: 10 of 10 tasks"), "{}", made.err);
    assert_eq!(
        bodies.lock().unwrap()[0],
        json!({
            "image": "renderer:2", "command": ["render", "--fast"], "environment": { "A": "b" }, "cpu": 1.5, "memory": "2g", "array": { "size": 10 },
            "retries": { "limit": 2, "backoff": 10 }, "timeout": 60, "priority": 70,
            "volumes": [{ "container": "/data", "host": "data", "mode": "ro" }]
        })
    );
    let key = fake.seen().iter().find_map(|s| s.header("idempotency-key").map(str::to_owned));
    assert!(key.is_some(), "a call that makes something can be repeated");
    // A secret comes from the environment, and an absent one is named.
    let secret = fake::finish(
        fake.command(&["jobs", "run", "-c", "crunch", "-e", "TOKEN_OF_MINE"])
            .env("TOKEN_OF_MINE", "s"),
    )
    .await
    .ok();
    assert_eq!(secret.out.trim(), JOB);
    assert_eq!(bodies.lock().unwrap()[1]["environment"], json!({ "TOKEN_OF_MINE": "s" }));
    let absent = fake.run(&["jobs", "run", "-c", "crunch", "-e", "NOT_THERE"]).await;
    assert!(absent.code == 1 && absent.err.contains("NOT_THERE"), "{absent:?}");

    let card = fake.run(&["jobs", "show", "-c", "crunch", JOB]).await.ok();
    assert!(
        card.out.contains("10 succeeded") && card.out.contains("sum it") && !card.out.contains('\u{1b}'),
        "{}",
        card.out
    );
    let tasks = fake
        .run(&["jobs", "show", "-c", "crunch", "--tasks", "--state", "failed", JOB])
        .await
        .ok();
    assert!(
        tasks.out.contains("exit-code") && tasks.out.contains("its program ended with 7"),
        "{}",
        tasks.out
    );
    assert!(
        fake.lines().iter().any(|line| line.contains("/tasks?state=failed")),
        "{:?}",
        fake.lines()
    );

    let log = fake.run(&["jobs", "logs", "-c", "crunch", "--task", "3", JOB]).await.ok();
    assert_eq!((log.out.as_str(), log.err.as_str()), ("out\n", "err\n"));
    let followed = fake.run(&["jobs", "logs", "-c", "crunch", "-f", JOB]).await.ok();
    assert_eq!(followed.out, "as it comes\n");

    assert_eq!(fake.run(&["jobs", "wait", "-c", "crunch", JOB]).await.ok().code, 0);
    let failed = fake.run(&["jobs", "wait", "-c", "crunch", JOB, "bad"]).await;
    assert!(failed.code == 1 && failed.err.contains("failed: 9 of 10 tasks"), "{failed:?}");
    fake.run(&["jobs", "cancel", "-c", "crunch", JOB]).await.ok();
    assert_eq!(fake.run(&["jobs", "rm", "-c", "crunch", JOB]).await.ok().out.trim(), JOB);
    let refused = fake.run(&["jobs", "rm", "-c", "crunch", "runs"]).await;
    assert!(refused.code == 1 && refused.err.contains("cancel it first"), "{refused:?}");
    let usage = fake.run(&["jobs", "ls"]).await;
    assert_eq!(usage.code, 2, "{usage:?}");
}

#[tokio::test]
async fn a_job_is_looked_at_anew_with_each_event_of_it() {
    let looks = Arc::new(AtomicUsize::new(0));
    let told = looks.clone();
    let change = |kind: &str, id: &str| {
        event(
            "change",
            &json!({ "revision": 7, "kind": kind, "id": id, "what": "status", "time": fake::NOW }),
        )
    };
    let beside = change("job", "job_1770000000000_zzzzzzzzz") + &change("container", JOB);
    let (first, second) = (beside.clone() + &change("job", JOB), beside + &change("job", JOB));
    let router = Router::new()
        .route(
            "/api/events",
            get(move || {
                // What follows comes once it was looked at so often; then the stream stays open, and silent.
                let parts = stream::iter([(1, first.clone()), (2, second.clone())]).then(move |(after, text)| {
                    let told = told.clone();
                    async move {
                        while told.load(Ordering::SeqCst) < after {
                            tokio::task::yield_now().await;
                        }
                        Ok::<_, Infallible>(text)
                    }
                });
                async move {
                    (
                        [(CONTENT_TYPE, "text/event-stream")],
                        Body::from_stream(parts.chain(stream::pending())),
                    )
                }
            }),
        )
        .route(
            &format!("{BASE}/{{id}}"),
            get(move || {
                let seen = looks.fetch_add(1, Ordering::SeqCst);
                async move { data(200, if seen < 2 { job("running", 5, 0) } else { job("succeeded", 10, 0) }) }
            }),
        );
    let fake = Fake::start(router).await;
    let waited = fake.run(&["jobs", "wait", "-c", "crunch", JOB]).await.ok();
    assert!(waited.err.contains("succeeded: 10 of 10 tasks"), "{waited:?}");
    let one = format!("GET {BASE}/{JOB}");
    assert_eq!(fake.lines(), ["GET /api/events", &one, &one, &one]);
}
