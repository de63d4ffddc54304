//! Members and clients that fail, each in its own way: others are unharmed.

mod kit;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use kit::member::{Member, all, some};
use kit::{Connection, Load, Proxy, eventually, request};
use nm_waits::{free_port, soon};
use serde_json::json;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread")]
async fn a_member_killed_under_load_costs_no_idempotent_request() {
    let mut members = some(3).await;
    let proxy = Proxy::with(json!({"members": all(&members), "ejection": {"timeMs": 200}})).await;
    let load = Load::start(proxy.address(), 16);
    for round in 0..10 {
        load.more(300).await;
        let member = &mut members[round % 3];
        let (name, port) = (member.name.clone(), member.port);
        member.kill().await;
        load.more(300).await;
        eventually("it is ejected", async || proxy.member_state(&name).await == "ejected").await;
        members[round % 3] = Member::http(&name, port, |_| async { Response::new(Full::from("back")) }).await;
        eventually("it is back", async || proxy.member_state(&name).await == "up").await;
    }
    let (requests, failures) = load.end().await;
    assert_eq!(failures, Vec::<String>::new(), "of {requests}");
    println!("killed 10 times under load: 0 of {requests} requests failed");
    let kinds: Vec<String> = proxy
        .events()
        .await
        .iter()
        .map(|e| e["kind"].as_str().unwrap().to_owned())
        .collect();
    let count = |kind: &str| kinds.iter().filter(|k| *k == kind).count();
    // A member that is tried again before it is back is ejected again.
    assert!(
        count("memberEjected") >= 10 && count("memberReturned") == count("memberEjected"),
        "{kinds:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_still_starting_is_looked_at_long_before_its_interval_is_over() {
    let well = Member::named("well").await;
    let port = free_port();
    let starting = json!({"id": "starting", "address": "127.0.0.1", "port": port});
    let check = json!({"intervalMs": 300_000, "timeoutMs": 1_000, "probe": {"type": "tcp"}});
    let proxy = Proxy::with(json!({"members": [well.json(), starting], "healthCheck": check})).await;
    let load = Load::start(proxy.address(), 4);
    eventually("traffic finds it refusing", async || {
        proxy.member_state("starting").await == "ejected"
    })
    .await;
    for round in ["started", "killed and started again"] {
        let mut member = Member::http("starting", port, |_| async { Response::new(Full::from("starting")) }).await;
        eventually(&format!("it is up, {round}"), async || proxy.member_state("starting").await == "up").await;
        let before = member.seen();
        eventually("it has traffic", async || member.seen() > before).await;
        member.kill().await;
        eventually("it is out", async || proxy.member_state("starting").await == "ejected").await;
    }
    let (requests, failures) = load.end().await;
    assert_eq!(failures, Vec::<String>::new(), "of {requests}");
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_take_a_member_out_and_bring_it_back() {
    let well = Arc::new(AtomicU64::new(200));
    let status = well.clone();
    let member = Member::http("m", 0, move |_| {
        let code = StatusCode::from_u16(status.load(SeqCst) as u16).unwrap();
        async move { Response::builder().status(code).body(Full::from("m")).unwrap() }
    })
    .await;
    let check = json!({"probe": {"type": "http", "path": "/up"}, "intervalMs": 100, "timeoutMs": 50, "rise": 2, "fall": 2});
    let proxy = Proxy::with(json!({"members": [member.json()], "healthCheck": check})).await;
    assert_eq!(proxy.get("/").await.status, StatusCode::OK);
    well.store(500, SeqCst);
    eventually("it is down", async || proxy.member_state("m").await == "down").await;
    let started = Instant::now();
    let reply = proxy.get("/").await;
    assert_eq!(
        (reply.status, reply.header("retry-after")),
        (StatusCode::SERVICE_UNAVAILABLE, Some("1"))
    );
    assert!(started.elapsed() < Duration::from_secs(1), "at once");
    well.store(204, SeqCst);
    eventually("it is up", async || proxy.member_state("m").await == "up").await;
    let events = proxy.events().await;
    let kinds: Vec<&str> = events.iter().map(|e| e["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["memberDown", "memberUp"]);
    assert!(events[0]["reason"].as_str().unwrap().contains("answered 500"), "{events:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_all_members_gone_the_answer_is_503_at_once() {
    let mut members = some(2).await;
    let proxy = Proxy::with(json!({"members": all(&members)})).await;
    for member in &mut members {
        member.kill().await;
    }
    for _ in 0..3 {
        let started = Instant::now();
        let reply = proxy.get("/").await;
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(reply.header("retry-after"), Some("1"));
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_may_have_been_carried_out_is_not_sent_again() {
    // Takes the request and resets.
    let counter = Arc::new(AtomicU64::new(0));
    let seen = counter.clone();
    let breaks = Member::tcp("breaks", 0, counter.clone(), move |mut stream| {
        let seen = seen.clone();
        async move {
            let mut buffer = [0; 4096];
            if stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {
                seen.fetch_add(1, SeqCst);
            }
        }
    })
    .await;
    let well = Member::named("well").await;
    let never = json!({"connectionErrors": 0, "serverErrors": 0});
    let proxy = Proxy::with(json!({"members": [breaks.json(), well.json()], "ejection": never})).await;
    let mut connection = Connection::open(proxy.address()).await;
    let mut broken = 0;
    for _ in 0..10 {
        let reply = connection.send(request(Method::POST, "/", &[], "once")).await.unwrap();
        match reply.status {
            StatusCode::OK => {}
            StatusCode::BAD_GATEWAY => broken += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!((broken, counter.load(SeqCst), well.seen()), (5, 5, 5), "each was sent once");
    for _ in 0..10 {
        assert_eq!(connection.get("/").await.text(), "well", "a GET is tried at the other");
        let put = connection.send(request(Method::PUT, "/", &[], "again")).await.unwrap();
        assert_eq!(put.text(), "well", "so is a PUT whose body is at hand");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_is_tried_elsewhere_when_nobody_could_have_heard_it() {
    let mut members = some(2).await;
    members[0].kill().await;
    let proxy = Proxy::with(json!({"members": all(&members), "ejection": {"connectionErrors": 0}})).await;
    let mut connection = Connection::open(proxy.address()).await;
    for _ in 0..10 {
        let reply = connection.send(request(Method::POST, "/", &[], "body")).await.unwrap();
        assert_eq!((reply.status, reply.text().as_str()), (StatusCode::OK, "m1"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_hangs_is_left_after_the_timeout() {
    let (hangs, _) = Member::raw("hangs", b"").await;
    let well = Member::named("well").await;
    let proxy = Proxy::with(json!({"members": [hangs.json(), well.json()], "responseTimeoutMs": 200})).await;
    let mut statuses = Vec::new();
    for _ in 0..10 {
        statuses.push(soon("the timeout", proxy.get("/")).await.status.as_u16());
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 200, 200, 200, 200, 504]);
    assert_eq!(proxy.member_state("hangs").await, "ejected");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_that_makes_servers_fail_does_not_take_the_cluster_away() {
    // Each breaks off on /poison and answers everything else.
    let fragile = |name: &'static str| {
        Member::tcp(name, 0, Arc::default(), |mut stream| async move {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                if buffer[..count].starts_with(b"GET /poison") {
                    return;
                }
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            }
        })
    };
    let (a, b, c) = (fragile("a").await, fragile("b").await, fragile("c").await);
    let proxy = Proxy::with(json!({"members": [a.json(), b.json(), c.json()]})).await;
    for _ in 0..20 {
        assert_eq!(proxy.get("/poison").await.status, StatusCode::BAD_GATEWAY);
        assert_eq!(proxy.get("/").await.status, StatusCode::OK);
    }
    assert_eq!(proxy.status().await["clusters"][0]["available"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_lies_about_its_length_hurts_its_own_client_only() {
    let (short, _) = Member::raw("short", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello and more than it said").await;
    let cut = Arc::new(AtomicU64::new(0));
    let cuts = Member::tcp("cuts", 0, cut, |mut stream| async move {
        let mut buffer = [0; 4096];
        let _ = stream.read(&mut buffer).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\nhello").await;
    })
    .await;
    let well = Member::named("well").await;
    let never = json!({"connectionErrors": 0});
    let proxy = Proxy::with(json!({"members": [short.json(), cuts.json(), well.json()], "ejection": never})).await;
    let (mut hello, mut broken, mut good) = (0, 0, 0);
    for _ in 0..30 {
        let mut connection = Connection::open(proxy.address()).await;
        match connection.send(request(Method::GET, "/", &[], "")).await {
            Ok(reply) if reply.text() == "hello" => hello += 1,
            Ok(reply) => {
                assert_eq!(reply.text(), "well");
                good += 1;
            }
            Err(_) => broken += 1,
        }
    }
    assert_eq!((hello, broken, good), (10, 10, 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_are_closed_and_others_go_on() {
    let member = Member::http("m", 0, |request| async {
        let _ = request.into_body().collect().await;
        Response::new(Full::from("m"))
    })
    .await;
    let listeners =
        json!([{"routes": [{"cluster": "c"}], "limits": {"headerTimeoutMs": 300, "bodyIdleTimeoutMs": 300, "keepAliveTimeoutMs": 300}}]);
    let proxy = Proxy::start(listeners, json!([{"id": "c", "members": [member.json()]}])).await;
    let load = Load::start(proxy.address(), 2);
    let closed = async |first: &[u8]| {
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        stream.write_all(first).await.unwrap();
        let mut answer = Vec::new();
        let _ = soon("it is closed", stream.read_to_end(&mut answer)).await;
        String::from_utf8(answer).unwrap()
    };
    assert_eq!(closed(b"").await, "", "says nothing");
    assert_eq!(closed(b"GET / HT").await, "", "stops in the head");
    let idle = closed(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(idle.starts_with("HTTP/1.1 200"), "is answered, then idle: {idle}");
    let second = closed(b"GET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HT").await;
    assert!(second.starts_with("HTTP/1.1 200"), "stops in the second head: {second}");
    let body = closed(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhal").await;
    assert!(body.starts_with("HTTP/1.1 408"), "stops in the body: {body}");
    let (_, failures) = load.end().await;
    assert_eq!(failures, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_is_closed() {
    let big = Member::http("big", 0, |_| async { Response::new(Full::from(Bytes::from(vec![b'x'; 32 << 20]))) }).await;
    let listeners = json!([{"routes": [{"cluster": "c"}], "limits": {"bodyIdleTimeoutMs": 300}}]);
    let proxy = Proxy::start(listeners, json!([{"id": "c", "members": [big.json()]}])).await;
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    eventually("it is given up", async || {
        let status = proxy.status().await;
        status["listeners"][0]["accepted"] == 1 && status["listeners"][0]["connections"] == 0
    })
    .await;
    assert_eq!(proxy.status().await["clusters"][0]["members"][0]["active"], 0);
}

/// Memory of this process in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_upload_streams_in_flat_memory() {
    const PIECE: usize = 64 << 10;
    const PIECES: u64 = 4_096;
    let member = Member::http("m", 0, |request| async {
        let mut body = request.into_body();
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
        }
        Response::new(Full::from(bytes.to_string()))
    })
    .await;
    let proxy = Proxy::with(json!({"members": [member.json()]})).await;
    proxy.get("/").await;
    let before = resident();
    let piece = Bytes::from(vec![b'x'; PIECE]);
    let stream = futures_util::stream::iter((0..PIECES).map(move |_| Ok::<_, Infallible>(Frame::data(piece.clone()))));
    let stream = TcpStream::connect(proxy.address())
        .await
        .map(|s| (s, StreamBody::new(stream)))
        .unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream.0)).await.unwrap();
    tokio::spawn(connection);
    let upload = Request::post("/").header("host", "a").body(stream.1).unwrap();
    let answer = tokio::spawn(sender.send_request(upload));
    let mut peak = before;
    eventually("the upload ends", async || {
        peak = peak.max(resident());
        answer.is_finished()
    })
    .await;
    let text = answer.await.unwrap().unwrap().into_body().collect().await.unwrap().to_bytes();
    assert_eq!(text, (PIECE as u64 * PIECES).to_string());
    let grown = (peak - before) >> 10;
    assert!(grown < 24, "grew by {grown} MiB");
    println!("256 MiB uploaded; client, proxy and member together grew by {grown} MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_kept() {
    let member = Member::http("m", 0, |request| async {
        let _ = request.into_body().collect().await;
        Response::new(Full::from("m"))
    })
    .await;
    let listeners =
        json!([{"routes": [{"cluster": "c"}], "limits": {"maxRequestBytes": 100, "maxHeaderBytes": 8192, "maxConnections": 3}}]);
    let proxy = Proxy::start(listeners, json!([{"id": "c", "members": [member.json()]}])).await;
    let mut connection = Connection::open(proxy.address()).await;
    let small = "x".repeat(100);
    assert_eq!(
        connection.send(request(Method::POST, "/", &[], &small)).await.unwrap().status,
        StatusCode::OK
    );
    let large = "x".repeat(101);
    assert_eq!(
        connection.send(request(Method::POST, "/", &[], &large)).await.unwrap().status,
        StatusCode::PAYLOAD_TOO_LARGE
    );
    let chunked = proxy.raw(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n40\r\n0123456789012345678901234567890123456789012345678901234567890123\r\n40\r\n0123456789012345678901234567890123456789012345678901234567890123\r\n0\r\n\r\n").await;
    assert!(chunked.starts_with("HTTP/1.1 413"), "{chunked}");
    let head = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(10_000));
    let reply = proxy.raw(head.as_bytes()).await;
    assert!(reply.starts_with("HTTP/1.1 431"), "{reply}");

    let mut held = Vec::new();
    eventually("the earlier ones are gone", async || {
        proxy.status().await["listeners"][0]["connections"] == 0
    })
    .await;
    for _ in 0..3 {
        let mut connection = Connection::open(proxy.address()).await;
        assert_eq!(connection.get("/").await.status, StatusCode::OK);
        held.push(connection);
    }
    assert_eq!(proxy.raw(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await, "", "the fourth is closed");
    assert_eq!(proxy.status().await["listeners"][0]["refused"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_server_errors_ejects_but_never_the_last() {
    let failing = |name: &'static str| {
        Member::http(name, 0, |_| async {
            Response::builder().status(500).body(Full::from("no")).unwrap()
        })
    };
    let (bad, well) = (failing("bad").await, Member::named("well").await);
    let proxy = Proxy::with(json!({"members": [bad.json(), well.json()], "ejection": {"serverErrors": 5}})).await;
    let mut statuses = Vec::new();
    for _ in 0..30 {
        statuses.push(proxy.get("/").await.status.as_u16());
    }
    assert_eq!(statuses.iter().filter(|s| **s == 500).count(), 5, "{statuses:?}");
    let alone = failing("alone").await;
    let (listeners, clusters) = kit::simple(json!({"members": [alone.json()], "ejection": {"serverErrors": 5}}));
    proxy.put(listeners, clusters).await;
    for _ in 0..20 {
        assert_eq!(proxy.get("/").await.status.as_u16(), 500);
    }
    let metrics = proxy.metrics().await;
    assert_eq!(metrics["clusters"][0]["totals"]["errors"], 25);
}
