//! TLS, the choice of certificates, HTTP/2 with and without it.

mod kit;

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kit::member::{Member, all, some};
use kit::tls::{certificate, connect};
use kit::{Proxy, document, eventually};
use nm_waits::soon;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_is_chosen_by_name_and_changes_live() {
    let members = some(1).await;
    let (a, b, star) = (certificate("a.example"), certificate("b.example"), certificate("*.c.example"));
    let listeners = |certificates: Value| json!([{"routes": [{"cluster": "c"}], "tls": {"certificates": certificates}}]);
    let clusters = json!([{"id": "c", "members": all(&members)}]);
    let three = json!([a.json(&["a.example"]), b.json(&["b.example"]), star.json(&["*.c.example"])]);
    let proxy = Proxy::start(listeners(three), clusters.clone()).await;
    for (name, pair) in [("a.example", &a), ("b.example", &b), ("x.c.example", &star)] {
        let mut stream = connect(&proxy, name, &[pair], &[]).await.unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("m0"), "{name}: {answer}");
    }
    assert!(connect(&proxy, "b.example", &[&a], &[]).await.is_err());

    // From files, which may change with the document the same.
    let (cert_file, key_file) = (proxy.folder.path().join("cert.pem"), proxy.folder.path().join("key.pem"));
    let write = |pair: &kit::tls::Pair| {
        std::fs::write(&cert_file, &pair.pem).unwrap();
        std::fs::write(&key_file, &pair.key).unwrap();
    };
    let from_files = json!([{"source": {"files": {"certificate": cert_file, "key": key_file}}}]);
    let renewed = certificate("a.example");
    for pair in [&a, &renewed] {
        write(pair);
        proxy.put(listeners(from_files.clone()), clusters.clone()).await;
        connect(&proxy, "a.example", &[pair], &[]).await.unwrap();
    }
    assert!(connect(&proxy, "a.example", &[&a], &[]).await.is_err(), "the old one is gone");
    // A key of another certificate is named, and nothing changes.
    std::fs::write(&key_file, &b.key).unwrap();
    let (status, answer) = proxy.try_put(listeners(from_files), clusters).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(answer["details"][0]["field"], "listeners[0].tls.certificates[0].source");
    connect(&proxy, "a.example", &[&renewed], &[]).await.unwrap();
}

async fn many_over_http2<T>(io: T, host: &str, requests: usize)
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection);
    let mut all = Vec::new();
    for i in 0..requests {
        let mut sender = sender.clone();
        let body = Bytes::from(vec![b'x'; i * 1_000]);
        let request = Request::post(format!("http://{host}/")).body(Full::new(body)).unwrap();
        all.push(tokio::spawn(async move {
            let answer = sender.send_request(request).await.unwrap();
            assert_eq!((answer.status(), answer.version()), (StatusCode::OK, Version::HTTP_2));
            assert!(!answer.headers().contains_key("connection") && !answer.headers().contains_key("transfer-encoding"));
            answer.into_body().collect().await.unwrap().to_bytes().len()
        }));
    }
    for (i, one) in all.into_iter().enumerate() {
        assert_eq!(soon("an answer", one).await.unwrap(), i * 1_000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_runs_over_tls_and_without() {
    let member = Member::http("m", 0, |request| async {
        assert_eq!(
            (request.version(), request.headers()["host"].to_str().unwrap()),
            (Version::HTTP_11, "a.example")
        );
        Response::new(Full::from(request.into_body().collect().await.unwrap().to_bytes()))
    })
    .await;
    let a = certificate("a.example");
    let plain = json!({"routes": [{"cluster": "c"}]});
    let tls = json!({"routes": [{"cluster": "c"}], "tls": {"certificates": [a.json(&[])]}});
    let clusters = json!([{"id": "c", "members": [member.json()]}]);
    let proxy = Proxy::start(json!([tls]), clusters.clone()).await;
    let stream = connect(&proxy, "a.example", &[&a], &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    many_over_http2(stream, "a.example", 100).await;
    let stream = connect(&proxy, "a.example", &[&a], &["http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"http/1.1".as_slice()));

    let proxy = Proxy::start(json!([plain]), clusters).await;
    many_over_http2(TcpStream::connect(proxy.address()).await.unwrap(), "a.example", 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_clients_are_told_of_the_end() {
    let members = some(1).await;
    let proxy = Proxy::with(json!({"members": all(&members)})).await;
    let io = TokioIo::new(TcpStream::connect(proxy.address()).await.unwrap());
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = || Request::get("http://a/").body(Full::<Bytes>::default()).unwrap();
    assert_eq!(sender.send_request(request()).await.unwrap().status(), StatusCode::OK);
    let empty = document(9, proxy.port, json!([]), json!([]));
    proxy.control(http::Method::PUT, "/v1/config", Some(empty)).await;
    // GOAWAY, in order, and not a reset.
    soon("it is closed", connection).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_does_not_go_on_is_closed() {
    let a = certificate("a.example");
    let members = some(1).await;
    let listeners = json!([{"routes": [{"cluster": "c"}], "limits": {"headerTimeoutMs": 200}, "tls": {"certificates": [a.json(&[])]}}]);
    let proxy = Proxy::start(listeners, json!([{"id": "c", "members": all(&members)}])).await;
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    stream.write_all(&[0x16, 3, 1, 2]).await.unwrap();
    let mut answer = Vec::new();
    let _ = soon("it is closed", stream.read_to_end(&mut answer)).await;
    eventually("it is gone", async || proxy.status().await["listeners"][0]["connections"] == 0).await;
}
