//! The algorithms, each by the distribution of a real run.

mod kit;

use http::{Method, Response, StatusCode};
use http_body_util::Full;
use kit::member::{Member, all, some};
use kit::{Connection, Load, Proxy, eventually, request};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::Notify;

/// Who answered how often, over one connection.
async fn tally(proxy: &Proxy, requests: usize) -> HashMap<String, usize> {
    let mut connection = Connection::open(proxy.address()).await;
    let mut seen = HashMap::new();
    for _ in 0..requests {
        *seen.entry(connection.get("/").await.text()).or_default() += 1;
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn round_robin_gives_each_the_same() {
    let members = some(3).await;
    let proxy = Proxy::with(json!({"members": all(&members)})).await;
    let seen = tally(&proxy, 300).await;
    assert_eq!(seen, HashMap::from([("m0".into(), 100), ("m1".into(), 100), ("m2".into(), 100)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn weighted_gives_by_weight_and_keeps_its_place_over_a_change() {
    let members = some(3).await;
    let weights = json!([members[0].weighing(5), members[1].weighing(2), members[2].weighing(1)]);
    let proxy = Proxy::with(json!({"algorithm": "weighted", "members": weights})).await;
    assert_eq!(
        tally(&proxy, 800).await,
        HashMap::from([("m0".into(), 500), ("m1".into(), 200), ("m2".into(), 100)])
    );
    // Smooth: of eight in a row no member has more than its share, wherever a change falls.
    let mut order = Vec::new();
    for i in 0..16 {
        if i % 3 == 0 {
            let (listeners, clusters) = kit::simple(json!({"algorithm": "weighted", "members": weights}));
            proxy.put(listeners, clusters).await;
        }
        order.push(proxy.get("/").await.text());
    }
    for window in order.windows(8) {
        let count = |name: &str| window.iter().filter(|n| *n == name).count();
        assert_eq!((count("m0"), count("m1"), count("m2")), (5, 2, 1), "{order:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_of_nothing_are_no_members_and_no_panic() {
    let members = some(2).await;
    let zero = json!([members[0].weighing(0), members[1].weighing(0)]);
    for algorithm in ["weighted", "round-robin", "least-connections", "ip-hash"] {
        let proxy = Proxy::with(json!({"algorithm": algorithm, "members": zero})).await;
        assert_eq!(proxy.get("/").await.status, StatusCode::SERVICE_UNAVAILABLE, "{algorithm}");
        let (listeners, clusters) = kit::simple(json!({"algorithm": algorithm, "members": []}));
        proxy.put(listeners, clusters).await;
        assert_eq!(proxy.get("/").await.status, StatusCode::SERVICE_UNAVAILABLE, "{algorithm}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn least_connections_shares_by_weight_while_nobody_is_busy() {
    let members = some(3).await;
    let weights = json!([members[0].weighing(3), members[1].weighing(1), members[2].weighing(1)]);
    let proxy = Proxy::with(json!({"algorithm": "least-connections", "members": weights})).await;
    assert_eq!(
        tally(&proxy, 100).await,
        HashMap::from([("m0".into(), 60), ("m1".into(), 20), ("m2".into(), 20)])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn least_connections_goes_round_who_is_busy_and_takes_turns_otherwise() {
    let release = Arc::new(Notify::new());
    let waits = release.clone();
    let slow = Member::http("slow", 0, move |request| {
        let waits = waits.clone();
        async move {
            if request.uri().path() == "/slow" {
                waits.notified().await;
            }
            Response::new(Full::from("slow"))
        }
    })
    .await;
    let quick = some(2).await;
    let members = json!([slow.json(), quick[0].json(), quick[1].json()]);
    let proxy = Proxy::with(json!({"algorithm": "least-connections", "members": members})).await;
    let equal = tally(&proxy, 300).await;
    assert!(equal.values().all(|n| (90..=110).contains(n)), "{equal:?}");

    // Three requests hang at one member only: ask until they are there.
    let mut hanging = Vec::new();
    for _ in 0..9 {
        let mut connection = Connection::open(proxy.address()).await;
        hanging.push(tokio::spawn(async move { connection.get("/slow").await }));
    }
    // Those that still wait are all counted at the slow member, and the others are done.
    eventually("some hang", async || {
        let waiting = hanging.iter().filter(|h| !h.is_finished()).count();
        waiting > 0 && proxy.status().await["clusters"][0]["members"][0]["active"] == waiting
    })
    .await;
    let busy = tally(&proxy, 200).await;
    assert_eq!(busy.get("slow"), None, "{busy:?}");
    release.notify_waiters();
    while hanging.iter().any(|h| !h.is_finished()) {
        release.notify_waiters();
        tokio::task::yield_now().await;
    }
    eventually("all are free again", async || {
        let status = proxy.status().await;
        let members = status["clusters"][0]["members"].as_array().unwrap().clone();
        members.iter().all(|m| m["active"] == 0)
    })
    .await;
}

/// Who answers each of these clients, told by X-Forwarded-For from a trusted proxy.
async fn homes(proxy: &Proxy, clients: u32) -> Vec<String> {
    let mut connection = Connection::open(proxy.address()).await;
    let mut homes = Vec::new();
    for client in 0..clients {
        let address = format!("10.{}.{}.{}", client >> 16, client >> 8 & 255, client & 255);
        let reply = connection
            .send(request(Method::GET, "/", &[("x-forwarded-for", &address)], ""))
            .await
            .unwrap();
        homes.push(reply.text());
    }
    homes
}

#[tokio::test(flavor = "multi_thread")]
async fn ip_hash_moves_only_the_clients_of_the_member_that_left() {
    let members = some(10).await;
    let documents = |members: &[Member]| {
        let listeners = json!([{"routes": [{"cluster": "c"}], "trustedAddresses": ["127.0.0.1"]}]);
        (listeners, json!([{"id": "c", "algorithm": "ip-hash", "members": all(members)}]))
    };
    let (listeners, clusters) = documents(&members);
    let proxy = Proxy::start(listeners, clusters).await;
    const CLIENTS: u32 = 2_000;
    let before = homes(&proxy, CLIENTS).await;
    assert_eq!(before, homes(&proxy, CLIENTS).await, "a client stays where it is");
    let mut shares: HashMap<&String, usize> = HashMap::new();
    before.iter().for_each(|home| *shares.entry(home).or_default() += 1);
    assert!(shares.len() == 10 && shares.values().all(|n| (140..=260).contains(n)), "{shares:?}");

    let (listeners, clusters) = documents(&members[..9]);
    proxy.put(listeners, clusters).await;
    let after = homes(&proxy, CLIENTS).await;
    let moved = before.iter().zip(&after).filter(|(b, a)| b != a).count();
    let had_left = before.iter().filter(|home| *home == "m9").count();
    assert_eq!(moved, had_left, "only its own clients move");
    assert!(moved as u32 <= CLIENTS / 10 + CLIENTS / 50, "{moved} of {CLIENTS}");
    println!("ip-hash: {moved} of {CLIENTS} clients moved when one of ten left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_keeps_a_client_at_its_member() {
    let members = some(3).await;
    let cluster = json!({"sticky": {"cookie": "nm", "maxAgeSeconds": 60}, "members": all(&members)});
    let proxy = Proxy::with(cluster).await;
    let mut connection = Connection::open(proxy.address()).await;
    let first = connection.get("/").await;
    let cookie = first.header("set-cookie").unwrap().to_owned();
    assert!(
        cookie.contains("HttpOnly") && cookie.contains("Max-Age=60") && !cookie.contains("m0"),
        "{cookie}"
    );
    let pair = format!("other=1; {}", cookie.split(';').next().unwrap());
    for _ in 0..30 {
        let reply = connection.send(request(Method::GET, "/", &[("cookie", &pair)], "")).await.unwrap();
        assert_eq!(reply.text(), first.text());
        assert_eq!(reply.header("set-cookie"), None);
    }
    // Draining takes no new clients and keeps those it has.
    let draining = |member: &Member| {
        let mut json = member.json();
        json["draining"] = (member.name == first.text()).into();
        json
    };
    let list: Value = members.iter().map(draining).collect();
    let (listeners, clusters) = kit::simple(json!({"sticky": {"cookie": "nm", "maxAgeSeconds": 60}, "members": list}));
    proxy.put(listeners, clusters).await;
    let reply = connection.send(request(Method::GET, "/", &[("cookie", &pair)], "")).await.unwrap();
    assert_eq!(reply.text(), first.text());
    assert_eq!(tally(&proxy, 30).await.get(&first.text()), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_members_serve_only_when_no_other_is_up() {
    let mut members = some(2).await;
    let mut backup = members[1].json();
    backup["backup"] = true.into();
    let proxy = Proxy::with(json!({"members": [members[0].json(), backup]})).await;
    assert_eq!(tally(&proxy, 20).await, HashMap::from([("m0".into(), 20)]));
    members[0].kill().await;
    assert_eq!(tally(&proxy, 20).await, HashMap::from([("m1".into(), 20)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_returns_gets_its_share_slowly() {
    let mut members = some(2).await;
    let cluster = json!({"slowStartMs": 60_000, "ejection": {"timeMs": 100}, "members": all(&members)});
    let proxy = Proxy::with(cluster).await;
    assert_eq!(tally(&proxy, 20).await.get("m0"), Some(&10));
    let port = members[0].port;
    members[0].kill().await;
    assert_eq!(tally(&proxy, 20).await, HashMap::from([("m1".into(), 20)]));
    members[0] = Member::http("m0", port, |_| async { Response::new(Full::from("m0")) }).await;
    eventually("it returned", async || proxy.member_state("m0").await == "up").await;
    let seen = tally(&proxy, 220).await;
    let share = seen.get("m0").copied().unwrap_or(0);
    assert!((10..=40).contains(&share), "a tenth of its share, growing: {seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_add_up() {
    let members = some(2).await;
    let proxy = Proxy::with(json!({"members": all(&members)})).await;
    let load = Load::start(proxy.address(), 4);
    load.more(500).await;
    let (requests, failures) = load.end().await;
    assert_eq!(failures, Vec::<String>::new());
    eventually("all are counted", async || {
        proxy.metrics().await["clusters"][0]["totals"]["bytesOut"] == requests * 2
    })
    .await;
    let cluster = proxy.metrics().await["clusters"][0].clone();
    assert_eq!(
        (&cluster["totals"]["requests"], &cluster["totals"]["errors"]),
        (&json!(requests), &json!(0))
    );
    assert_eq!(cluster["totals"]["latency"]["count"], requests);
    let members: u64 = cluster["members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["totals"]["requests"].as_u64().unwrap())
        .sum();
    assert_eq!(members, requests);
}
