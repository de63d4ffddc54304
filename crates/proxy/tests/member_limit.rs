//! A bound on what a member is given at once: who waits, in which order, for how long.

mod kit;

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use kit::member::Member;
use kit::{Connection, Proxy, eventually, request};
use nm_waits::soon;
use serde_json::json;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use tokio::sync::Semaphore;

/// A member that answers one request for each permit, and writes down what it was asked, and how much at once.
struct Slow {
    member: Member,
    go_on: Arc<Semaphore>,
    paths: Arc<Mutex<Vec<String>>>,
    most: Arc<AtomicU64>,
}

impl Slow {
    async fn new(name: &str) -> Self {
        let (go_on, paths) = (Arc::new(Semaphore::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (now, most) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let member = {
            let (go_on, paths, most) = (go_on.clone(), paths.clone(), most.clone());
            Member::http(name, 0, move |request| {
                let (go_on, paths, now, most) = (go_on.clone(), paths.clone(), now.clone(), most.clone());
                async move {
                    most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                    paths.lock().unwrap().push(request.uri().path().to_owned());
                    go_on.acquire().await.unwrap().forget();
                    now.fetch_sub(1, SeqCst);
                    Response::new(Full::<Bytes>::from("done"))
                }
            })
            .await
        };
        Self {
            member,
            go_on,
            paths,
            most,
        }
    }
}

fn ask(proxy: &Proxy, path: String) -> tokio::task::JoinHandle<StatusCode> {
    let address = proxy.address();
    tokio::spawn(async move { Connection::open(address).await.get(&path).await.status })
}

async fn in_flight(proxy: &Proxy) -> u64 {
    let status = proxy.status().await;
    let members = status["clusters"][0]["members"].as_array().unwrap().clone();
    members.iter().map(|m| m["active"].as_u64().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_first_is_served_first_and_never_too_many_at_once() {
    let slow = Slow::new("m").await;
    let limit = json!({"maxConnections": 2, "queueTimeoutMs": 60_000});
    let proxy = Proxy::with(json!({"members": [slow.member.json()], "memberLimit": limit})).await;
    let mut asked = Vec::new();
    for i in 0..10 {
        asked.push(ask(&proxy, format!("/{i}")));
        eventually("it is there", async || in_flight(&proxy).await == i + 1).await;
    }
    eventually("two are asked", async || slow.paths.lock().unwrap().len() == 2).await;
    for done in 1..=10 {
        slow.go_on.add_permits(1);
        eventually("the next one is asked", async || {
            slow.paths.lock().unwrap().len() == (done + 2).min(10)
        })
        .await;
    }
    for one in asked {
        assert_eq!(soon("an answer", one).await.unwrap(), StatusCode::OK);
    }
    let order = slow.paths.lock().unwrap().clone();
    assert_eq!(order, (0..10).map(|i| format!("/{i}")).collect::<Vec<_>>());
    assert_eq!(slow.most.load(SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_with_room_is_chosen_and_who_waits_too_long_is_told() {
    let (a, b) = (Slow::new("a").await, Slow::new("b").await);
    let cluster = json!({
        "members": [a.member.json(), b.member.json()],
        "memberLimit": {"maxConnections": 1, "queueTimeoutMs": 200},
    });
    let proxy = Proxy::with(cluster.clone()).await;
    let mut first = Connection::open(proxy.address()).await;
    let first = tokio::spawn(async move { first.get("/1").await.status });
    eventually("one is busy", async || a.member.seen() + b.member.seen() == 1).await;
    // By turns the next but one would meet the busy member again.
    let (free, busy) = if a.member.seen() == 1 { (&b, &a) } else { (&a, &b) };
    free.go_on.add_permits(4);
    for _ in 0..4 {
        assert_eq!(proxy.get("/").await.status, StatusCode::OK);
    }
    assert_eq!((free.member.seen(), busy.member.seen()), (4, 1));
    let second = ask(&proxy, "/2".to_owned());
    eventually("both are busy", async || free.member.seen() == 5).await;
    let refused = proxy.get("/3").await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{}", refused.text());
    assert!(refused.header("retry-after").is_some());
    // A client that leaves the queue leaves its place; a change of the configuration keeps what is counted.
    let gone = ask(&proxy, "/4".to_owned());
    eventually("it waits", async || in_flight(&proxy).await == 3).await;
    gone.abort();
    let (listeners, clusters) = kit::simple(cluster);
    proxy.put(listeners, clusters).await;
    eventually("it is gone", async || in_flight(&proxy).await == 2).await;
    assert_eq!(proxy.get("/5").await.status, StatusCode::SERVICE_UNAVAILABLE);
    a.go_on.add_permits(9);
    b.go_on.add_permits(9);
    for one in [first, second] {
        assert_eq!(soon("an answer", one).await.unwrap(), StatusCode::OK);
    }
    let reply = Connection::open(proxy.address())
        .await
        .send(request(Method::POST, "/6", &[], "x"))
        .await
        .unwrap();
    assert_eq!(reply.status, StatusCode::OK);
}
