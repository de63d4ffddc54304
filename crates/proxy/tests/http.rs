//! HTTP as it should be: routes, headers, bodies, upgrades, the access log.

mod kit;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use kit::member::{Member, all, some};
use kit::{Connection, Proxy, Reply, eventually, request};
use nm_waits::{free_port, soon};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Answers with what it was asked: method, path, headers in order of their names, and the body's length.
async fn echo() -> Member {
    Member::http("echo", 0, |request| async move {
        let (head, body) = request.into_parts();
        let mut headers: Vec<String> = head.headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
        headers.sort();
        let body = body.collect().await.map(|b| b.to_bytes().len()).unwrap_or(0);
        let text = format!("{} {}\n{}\n{body}", head.method, head.uri, headers.join("\n"));
        Response::builder()
            .header("connection", "x-hop")
            .header("x-hop", "1")
            .header("keep-alive", "timeout=5")
            .header("x-kept", "2")
            .body(Full::from(text))
            .unwrap()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_are_set_removed_and_believed_by_rule() {
    let member = echo().await;
    let clusters = json!([{"id": "c", "members": [member.json()]}]);
    let listener = |trusted: Value| json!([{"routes": [{"cluster": "c"}], "trustedAddresses": trusted}]);
    let claims = [
        ("x-forwarded-for", "192.0.2.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "other"),
        ("x_forwarded_for", "6.6.6.6"),
        ("x-real-ip", "6.6.6.6"),
        ("forwarded", "for=192.0.2.1"),
        ("connection", "x-drop"),
        ("x-drop", "1"),
        ("te", "trailers"),
        ("x-other", "kept"),
    ];
    let proxy = Proxy::start(listener(json!([])), clusters.clone()).await;
    let mut connection = Connection::open(proxy.address()).await;
    let reply = connection.send(request(Method::POST, "/a?b=c", &claims, "hello")).await.unwrap();
    assert_eq!(
        reply.text(),
        "POST /a?b=c\ncontent-length: 5\nhost: app.example\nx-forwarded-for: 127.0.0.1\nx-forwarded-host: app.example\n\
         x-forwarded-proto: http\nx-other: kept\n5"
    );
    assert_eq!(
        (reply.header("x-kept"), reply.header("x-hop"), reply.header("keep-alive")),
        (Some("2"), None, None)
    );

    proxy.put(listener(json!(["127.0.0.0/8"])), clusters).await;
    let reply = connection.send(request(Method::GET, "/", &claims, "")).await.unwrap();
    let text = reply.text();
    for line in [
        "x-forwarded-for: 192.0.2.1, 127.0.0.1",
        "x-forwarded-proto: https",
        "x-forwarded-host: other",
        "forwarded: for=192.0.2.1",
        "forwarded: for=127.0.0.1;proto=http",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_prefix_of_the_most_exact_host_wins() {
    let members = some(5).await;
    let clusters: Value = members.iter().map(|m| json!({"id": m.name, "members": [m.json()]})).collect();
    let listeners = json!([{"routes": [
        {"host": "a.example", "cluster": "m0"},
        {"host": "a.example", "pathPrefix": "/api", "cluster": "m1"},
        {"host": "*.example", "cluster": "m2"},
        {"pathPrefix": "/any", "cluster": "m3"},
    ]}]);
    let proxy = Proxy::start(listeners, clusters).await;
    let mut connection = Connection::open(proxy.address()).await;
    for (host, path, cluster) in [
        ("a.example", "/", Some("m0")),
        ("A.Example:8080", "/api/x", Some("m1")),
        ("a.example", "/apix", Some("m0")),
        ("b.example", "/api", Some("m2")),
        ("b.c.example", "/any", Some("m3")),
        ("other", "/any/x", Some("m3")),
        ("other", "/", None),
    ] {
        let reply = connection.send(request(Method::GET, path, &[("host", host)], "")).await.unwrap();
        let seen = Some(reply.text()).filter(|_| reply.status == StatusCode::OK);
        assert_eq!(seen.as_deref(), cluster, "{host}{path}: {}", reply.status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_pass_in_both_directions_and_connections_are_used_again() {
    let member = Member::http("m", 0, |request| async {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Response::new(Full::from(body))
    })
    .await;
    let proxy = Proxy::with(json!({"members": [member.json()]})).await;
    let mut connection = Connection::open(proxy.address()).await;
    for size in [0, 1, 1_000, 100_000, 3_000_000] {
        let body = "x".repeat(size);
        let reply = connection.send(request(Method::PUT, "/", &[], &body)).await.unwrap();
        assert!(reply.body == body, "{size}: {}", reply.body.len());
    }
    let chunked = proxy.raw(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n").await;
    assert!(
        chunked.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK") && chunked.ends_with("hello world"),
        "{chunked}"
    );
    let head = connection.send(request(Method::HEAD, "/", &[], "")).await.unwrap();
    assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
    let old = proxy.raw(b"GET / HTTP/1.0\r\n\r\n").await;
    assert!(old.starts_with("HTTP/1.0 200 OK"), "{old}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_body_arrives_however_it_is_cut() {
    let member = Member::http("m", 0, |request| async {
        let lengths = request.headers().get_all("content-length").iter().count();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Response::new(Full::from([format!("{lengths} ").as_bytes(), &body, b"."].concat()))
    })
    .await;
    let proxy = Proxy::with(json!({"members": [member.json()]})).await;
    let one = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello";
    let last = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\nconnection: close\r\n\r\nthere";
    let both = [one.as_slice(), last].concat();
    for cut in [
        1,
        20,
        one.len() - 6,
        one.len() - 5,
        one.len() - 3,
        one.len() - 1,
        one.len(),
        one.len() + 9,
    ] {
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut heard = String::new();
        // The second piece goes once the first has been read: a request that is complete by then is answered.
        stream.write_all(&both[..cut]).await.unwrap();
        if cut >= one.len() {
            while !heard.contains("1 hello.") {
                heard.push(char::from(soon("the first answer", stream.read_u8()).await.unwrap()));
            }
        } else {
            eventually("it is read", async || {
                proxy.status().await["listeners"][0]["connections"].as_u64() == Some(1)
            })
            .await;
        }
        stream.write_all(&both[cut..]).await.unwrap();
        soon("the rest", stream.read_to_string(&mut heard)).await.unwrap();
        assert!(heard.contains("1 hello.") && heard.ends_with("1 there."), "cut at {cut}: {heard}");
    }
    let broken = {
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        stream.write_all(&one[..one.len() - 1]).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut heard = String::new();
        soon("the end", stream.read_to_string(&mut heard)).await.unwrap();
        heard
    };
    assert!(!broken.contains("200 OK"), "a body that broke off is no request: {broken}");
    let asked = proxy
        .raw(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\nexpect: 100-continue\r\nconnection: close\r\n\r\nhi")
        .await;
    assert!(
        asked.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK") && asked.ends_with("1 hi."),
        "{asked}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_early_does_not_stop_the_upload() {
    // Answers with all it is sent, as it is sent.
    let member = Member::http_stream("m").await;
    let proxy = Proxy::with(json!({"members": [member.json()]})).await;
    let (mut to, body) = tokio::io::duplex(1 << 16);
    let body = http_body_util::StreamBody::new(futures_util::stream::unfold(body, |mut from| async {
        let mut buffer = vec![0; 16 << 10];
        let count = from.read(&mut buffer).await.unwrap();
        buffer.truncate(count);
        (count > 0).then(|| {
            (
                Ok::<_, std::convert::Infallible>(hyper::body::Frame::data(Bytes::from(buffer))),
                from,
            )
        })
    }));
    let stream = TcpStream::connect(proxy.address()).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let answer = tokio::spawn(async move {
        let request = Request::post("/").header("host", "a").body(Box::pin(body)).unwrap();
        sender.send_request(request).await.map(|a| (a, sender))
    });
    to.write_all(b"first").await.unwrap();
    let (answer, _sender) = soon("the answer's head", answer).await.unwrap().unwrap();
    let mut body = answer.into_body();
    let mut heard = Vec::new();
    for word in ["", "second", "third"] {
        to.write_all(word.as_bytes()).await.unwrap();
        let frame = soon("a piece", body.frame()).await.unwrap().unwrap();
        heard.extend_from_slice(frame.data_ref().unwrap());
    }
    drop(to);
    assert!(soon("the end", body.frame()).await.is_none());
    assert_eq!(heard, b"firstsecondthird");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_passes_both_ways() {
    let member = Member::http("ws", 0, |mut request| async move {
        let upgrade = hyper::upgrade::on(&mut request);
        assert_eq!(request.headers()["upgrade"], "websocket");
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgrade.await.unwrap());
            let mut buffer = [0; 1024];
            while let Ok(count @ 1..) = io.read(&mut buffer).await {
                io.write_all(&buffer[..count].to_ascii_uppercase()).await.unwrap();
            }
        });
        Response::builder()
            .status(101)
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-accept", "x")
            .body(Full::default())
            .unwrap()
    })
    .await;
    let proxy = Proxy::with(json!({"members": [member.json()]})).await;
    let mut connection = Connection::open(proxy.address()).await;
    let asks = request(
        Method::GET,
        "/",
        &[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")],
        "",
    );
    let answer = connection.sender.send_request(asks).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(answer.headers()["upgrade"], "websocket");
    assert_eq!(answer.headers()["sec-websocket-accept"], "x");
    let mut io = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    for word in ["hello", "again"] {
        io.write_all(word.as_bytes()).await.unwrap();
        let mut buffer = [0; 5];
        soon("an answer", io.read_exact(&mut buffer)).await.unwrap();
        assert_eq!(buffer, word.to_ascii_uppercase().as_bytes());
    }
    assert_eq!(proxy.status().await["clusters"][0]["members"][0]["active"], 1);
    drop(io);
    eventually("it is over", async || {
        proxy.status().await["clusters"][0]["members"][0]["active"] == 0
    })
    .await;
    let totals = proxy.metrics().await["clusters"][0]["totals"].clone();
    assert_eq!((&totals["bytesIn"], &totals["bytesOut"]), (&json!(10), &json!(10)));
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_and_acme_challenges_are_answered_here() {
    let listeners = json!([{"redirectToHttps": {"port": 8443}}, {"id": "plain", "port": free_port(), "redirectToHttps": {}}]);
    let proxy = Proxy::start(listeners.clone(), json!([])).await;
    let mut connection = Connection::open(proxy.address()).await;
    let reply = connection
        .send(request(Method::GET, "/a?b", &[("host", "app.example:80")], ""))
        .await
        .unwrap();
    assert_eq!(
        (reply.status.as_u16(), reply.header("location")),
        (308, Some("https://app.example:8443/a?b"))
    );
    let mut document = kit::document(9, proxy.port, listeners, json!([]));
    document["acmeChallenges"] = json!({"token_1": "token_1.thumb"});
    assert_eq!(proxy.control(Method::PUT, "/v1/config", Some(document)).await.0, StatusCode::OK);
    let reply: Reply = connection.get("/.well-known/acme-challenge/token_1").await;
    assert_eq!((reply.status, reply.text().as_str()), (StatusCode::OK, "token_1.thumb"));
    assert_eq!(connection.get("/.well-known/acme-challenge/other").await.status.as_u16(), 308);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_access_log_has_a_line_for_each_request() {
    let members = some(1).await;
    let listeners = json!([{"routes": [{"cluster": "c"}], "accessLog": true}]);
    let proxy = Proxy::start(listeners, json!([{"id": "c", "members": all(&members)}])).await;
    let mut connection = Connection::open(proxy.address()).await;
    connection.send(request(Method::POST, "/a?secret=1", &[], "hello")).await.unwrap();
    connection
        .send(request(Method::GET, "/b", &[("connection", "close")], ""))
        .await
        .unwrap();
    let file = proxy.folder.path().join("access.log");
    let lines = || -> Vec<Value> {
        let text = std::fs::read_to_string(&file).unwrap();
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    };
    eventually("both are written", async || lines().len() == 2).await;
    let line = &lines()[0];
    for (key, value) in [
        ("listener", json!("web")),
        ("client", json!("127.0.0.1")),
        ("method", json!("POST")),
        ("host", json!("app.example")),
        ("path", json!("/a")),
        ("status", json!(200)),
        ("cluster", json!("c")),
        ("member", json!("m0")),
        ("bytesIn", json!(5)),
        ("bytesOut", json!(2)),
        ("complete", json!(true)),
    ] {
        assert_eq!(line[key], value, "{key}: {line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_frees_its_member() {
    let waiting = Arc::new(tokio::sync::Notify::new());
    let arrived = waiting.clone();
    let member = Member::http("m", 0, move |_| {
        arrived.notify_one();
        std::future::pending()
    })
    .await;
    let proxy = Proxy::with(json!({"members": [member.json()]})).await;
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    soon("it arrives", waiting.notified()).await;
    assert_eq!(proxy.status().await["clusters"][0]["members"][0]["active"], 1);
    drop(stream);
    eventually("it is free", async || {
        proxy.status().await["clusters"][0]["members"][0]["active"] == 0
    })
    .await;
    assert_eq!(proxy.member_state("m").await, "up");
}
