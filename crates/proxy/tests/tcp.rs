//! TCP, and the PROXY protocol in both directions.

mod kit;

use http::{Method, StatusCode};
use kit::member::{Member, some};
use kit::{Connection, Proxy, eventually, local, request};
use nm_waits::soon;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Sends back all it is sent.
async fn echo(name: &str) -> Member {
    let seen = Arc::new(AtomicU64::new(0));
    let counter = seen.clone();
    Member::tcp(name, 0, seen, move |mut stream| {
        counter.fetch_add(1, SeqCst);
        async move {
            let (mut from, mut to) = stream.split();
            let _ = tokio::io::copy(&mut from, &mut to).await;
        }
    })
    .await
}

fn tcp(more: Value) -> Value {
    let mut listener = json!({"protocol": "tcp", "cluster": "c"});
    for (key, value) in more.as_object().unwrap() {
        listener[key] = value.clone();
    }
    json!([listener])
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_pass_both_ways_and_halves_close_one_by_one() {
    let member = echo("e").await;
    let proxy = Proxy::start(tcp(json!({"accessLog": true})), json!([{"id": "c", "members": [member.json()]}])).await;
    const TOTAL: usize = 64 << 20;
    let stream = TcpStream::connect(proxy.address()).await.unwrap();
    let (mut from, mut to) = stream.into_split();
    let sender = tokio::spawn(async move {
        let piece: Vec<u8> = (0..100_003u32).map(|i| (i % 251) as u8).collect();
        let mut sent = 0;
        while sent < TOTAL {
            let count = piece.len().min(TOTAL - sent);
            to.write_all(&piece[..count]).await.unwrap();
            sent += count;
        }
        to.shutdown().await.unwrap();
    });
    let mut buffer = vec![0; 1 << 20];
    let mut seen = 0;
    loop {
        let count = soon("bytes", from.read(&mut buffer)).await.unwrap();
        if count == 0 {
            break;
        }
        for (i, byte) in buffer[..count].iter().enumerate() {
            assert_eq!(*byte, ((seen + i) % 100_003 % 251) as u8, "at {}", seen + i);
        }
        seen += count;
    }
    sender.await.unwrap();
    assert_eq!(seen, TOTAL);
    eventually("it is counted", async || {
        let totals = proxy.metrics().await["clusters"][0]["totals"].clone();
        totals["bytesIn"] == TOTAL && totals["bytesOut"] == TOTAL && totals["requests"] == 1
    })
    .await;
    let log = proxy.folder.path().join("access.log");
    eventually("it is logged", async || {
        let text = std::fs::read_to_string(&log).unwrap();
        serde_json::from_str::<Value>(&text).is_ok_and(|line| line["bytesOut"] == TOTAL && line["complete"] == true)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_goes_to_a_member_that_is_there() {
    let (mut first, second) = (echo("first").await, echo("second").await);
    let members = json!([first.json(), second.json()]);
    let proxy = Proxy::start(
        tcp(json!({})),
        json!([{"id": "c", "algorithm": "least-connections", "members": members}]),
    )
    .await;
    first.kill().await;
    for _ in 0..10 {
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        let mut answer = [0; 5];
        soon("an answer", stream.read_exact(&mut answer)).await.unwrap();
    }
    assert_eq!(second.seen(), 10);
    assert_eq!(proxy.member_state("first").await, "ejected");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_connection_is_closed() {
    let member = echo("e").await;
    let listeners = tcp(json!({"limits": {"tunnelIdleTimeoutMs": 1000}}));
    let proxy = Proxy::start(listeners, json!([{"id": "c", "members": [member.json()]}])).await;
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    let mut answer = Vec::new();
    let _ = soon("it is closed", stream.read_to_end(&mut answer)).await;
    assert_eq!(answer, b"x");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_protocol_is_written_in_both_versions() {
    for version in ["v1", "v2"] {
        let (member, heard) = Member::raw("m", b"ok").await;
        let clusters = json!([{"id": "c", "sendProxyProtocol": version, "members": [member.json()]}]);
        let proxy = Proxy::start(tcp(json!({})), clusters).await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        let client = stream.local_addr().unwrap();
        stream.write_all(b"hello").await.unwrap();
        let mut answer = [0; 2];
        soon("an answer", stream.read_exact(&mut answer)).await.unwrap();
        drop(stream);
        eventually("all is heard", async || heard.lock().unwrap().ends_with(b"hello")).await;
        let heard = heard.lock().unwrap().clone();
        if version == "v1" {
            let header = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\nhello", client.port(), proxy.port);
            assert_eq!(String::from_utf8(heard).unwrap(), header);
        } else {
            let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01".to_vec();
            header.extend_from_slice(&client.port().to_be_bytes());
            header.extend_from_slice(&proxy.port.to_be_bytes());
            header.extend_from_slice(b"hello");
            assert_eq!(heard, header);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_protocol_is_believed_from_trusted_addresses_only() {
    let (member, heard) = Member::raw("m", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let listener = |trusted: &str| json!([{"routes": [{"cluster": "c"}], "acceptProxyProtocol": true, "trustedAddresses": [trusted]}]);
    let clusters = json!([{"id": "c", "members": [member.json()]}]);
    let proxy = Proxy::start(listener("127.0.0.1"), clusters.clone()).await;
    let get = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc6\x33\x64\x07\x7f\0\0\x01\x12\x34\0\x50";
    for (header, client) in [
        (b"PROXY TCP4 192.0.2.9 192.0.2.1 1234 80\r\n".as_slice(), "192.0.2.9"),
        (v2.as_slice(), "198.51.100.7"),
        (b"PROXY UNKNOWN\r\n".as_slice(), "127.0.0.1"),
    ] {
        heard.lock().unwrap().clear();
        // The member answers once a connection; a new proxy has no old one.
        let proxy = Proxy::start(listener("127.0.0.1"), clusters.clone()).await;
        let answer = proxy.raw(&[header, get].concat()).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let heard = String::from_utf8(heard.lock().unwrap().clone()).unwrap();
        assert!(heard.contains(&format!("x-forwarded-for: {client}\r\n")), "{heard}");
    }
    for wrong in [get.as_slice(), b"PROXY TCP4 x\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n", b"PROXY"] {
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        stream.write_all(wrong).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = soon("it is closed", stream.read_to_end(&mut answer)).await;
        assert_eq!(answer, b"", "{}", String::from_utf8_lossy(wrong));
    }
    proxy.put(listener("10.0.0.0/8"), clusters).await;
    let answer = proxy
        .raw(&[b"PROXY TCP4 192.0.2.9 192.0.2.1 1234 80\r\n".as_slice(), get].concat())
        .await;
    assert_eq!(answer, "", "a peer that is not trusted");
}

#[tokio::test(flavor = "multi_thread")]
async fn http_connections_with_a_proxy_header_are_one_clients_alone() {
    let (member, heard) = Member::raw("m", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let proxy = Proxy::with(json!({"sendProxyProtocol": "v1", "members": [member.json()]})).await;
    for _ in 0..3 {
        let mut connection = Connection::open(local(proxy.port)).await;
        let reply = connection.send(request(Method::GET, "/", &[], "")).await.unwrap();
        assert_eq!(reply.status, StatusCode::OK);
    }
    eventually("three connections", async || member.seen() == 3).await;
    let heard = String::from_utf8(heard.lock().unwrap().clone()).unwrap();
    assert_eq!(heard.matches("PROXY TCP4 127.0.0.1").count(), 3, "{heard}");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_a_tcp_cluster_are_http_servers_as_well() {
    let members = some(2).await;
    let proxy = Proxy::start(tcp(json!({})), json!([{"id": "c", "members": kit::member::all(&members)}])).await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(proxy.get("/").await.text());
    }
    seen.sort();
    assert_eq!(seen, ["m0", "m0", "m1", "m1"]);
}

/// What says at a port of its own what a member is.
struct Says {
    asked: Member,
    leads: Arc<AtomicBool>,
    /// So many of the next checks have no answer.
    silences: Arc<AtomicU64>,
}

impl Says {
    async fn start() -> Self {
        let (leads, silences) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (leading, silent) = (leads.clone(), silences.clone());
        let asked = Member::http("says", 0, move |_| {
            let silent = silent.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok();
            let status = if leading.load(SeqCst) { 200 } else { 503 };
            async move {
                if silent {
                    std::future::pending::<()>().await;
                }
                http::Response::builder()
                    .status(status)
                    .body(http_body_util::Full::default())
                    .unwrap()
            }
        })
        .await;
        Self { asked, leads, silences }
    }

    fn strict(&self, fall: u16) -> Value {
        json!({
            "probe": {"type": "http", "path": "/primary", "expectedStatus": {"min": 200, "max": 200}}, "intervalMs": 400, "timeoutMs": 350,
            "rise": 1, "fall": fall, "port": self.asked.json()["port"], "strict": true,
        })
    }
}

async fn echoes(client: &mut TcpStream) {
    client.write_all(b"hello").await.unwrap();
    let mut said = [0; 5];
    soon("an echo", client.read_exact(&mut said)).await.unwrap();
    assert_eq!(&said, b"hello");
}

async fn is_sent_away(client: &mut TcpStream) {
    assert_eq!(soon("its end", client.read(&mut [0; 8])).await.unwrap_or(0), 0);
}

async fn why_down(proxy: &Proxy) -> Vec<String> {
    let events = proxy.events().await;
    let down = events.iter().filter(|e| e["kind"] == "memberDown");
    down.map(|e| e["reason"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_check_lets_nobody_in_before_it_succeeds_and_keeps_nobody_at_a_member_that_goes_down() {
    let (member, says) = (echo("primary").await, Says::start().await);
    let cluster = json!([{"id": "c", "members": [member.json()], "healthCheck": says.strict(3)}]);
    let proxy = Proxy::start(tcp(json!({})), cluster).await;
    eventually("it was asked", async || says.asked.seen() > 0).await;
    let mut early = TcpStream::connect(proxy.address()).await.unwrap();
    is_sent_away(&mut early).await;
    assert_eq!(member.seen(), 0, "nobody is let in before");

    says.leads.store(true, SeqCst);
    eventually("it is up", async || proxy.member_state("primary").await == "up").await;
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    echoes(&mut client).await;

    // Its program runs on, and is no longer what it was: that needs no second answer.
    says.leads.store(false, SeqCst);
    is_sent_away(&mut client).await;
    assert_eq!(proxy.member_state("primary").await, "down");
    assert_eq!(
        why_down(&proxy).await,
        ["1 health checks in a row failed: GET /primary answered 503"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_slow_to_answer_a_strict_check_keeps_its_clients_until_it_was_silent_as_often_as_is_said() {
    let (member, says) = (echo("primary").await, Says::start().await);
    says.leads.store(true, SeqCst);
    let cluster = json!([{"id": "c", "members": [member.json()], "healthCheck": says.strict(3)}]);
    let proxy = Proxy::start(tcp(json!({})), cluster).await;
    eventually("it is up", async || proxy.member_state("primary").await == "up").await;
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    echoes(&mut client).await;

    says.silences.store(2, SeqCst);
    eventually("it was silent twice", async || says.silences.load(SeqCst) == 0).await;
    let before = says.asked.seen();
    eventually("it answered again", async || says.asked.seen() >= before + 2).await;
    echoes(&mut client).await;
    assert_eq!(why_down(&proxy).await, Vec::<String>::new());

    says.silences.store(u64::MAX, SeqCst);
    is_sent_away(&mut client).await;
    assert_eq!(why_down(&proxy).await, ["3 health checks in a row failed: no answer within 350 ms"]);
}
