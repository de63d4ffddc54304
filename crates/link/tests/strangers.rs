//! Connections that never get to say who they are must not be in anybody's way.

mod support;

use nm_link::server::ServerOptions;
use std::time::{Duration, Instant};
use support::adversary::raw_tls;
use support::control::{Control, Rules};
use support::node::{Node, ask};
use support::soon;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn ends(stream: &mut TcpStream) {
    let mut bytes = Vec::new();
    // The peer may reset the connection instead of closing it: an end all the same.
    let _ = soon("the connection ends", stream.read_to_end(&mut bytes)).await;
}

#[tokio::test]
async fn garbage_is_hung_up_on() {
    let control = Control::start().await;
    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        &[0xff; 4096],
        b"\x16\x03\x01\x40\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(control.address).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        ends(&mut stream).await;
    }
    let node = Node::start(&control).await;
    assert_eq!(ask(&control.linked(&node.id).await, "/who").await, node.id.to_string());
}

#[tokio::test]
async fn more_silent_connections_than_there_are_places_stall_nobody() {
    let patient = Duration::from_secs(120);
    let options = ServerOptions {
        max_handshakes: 8,
        handshake_timeout: patient,
        enrol_timeout: patient,
        ..ServerOptions::default()
    };
    let control = Control::start_with(Rules::new(), options, None).await;
    let mut silent = Vec::new();
    for _ in 0..30 {
        silent.push(TcpStream::connect(control.address).await.unwrap());
    }
    // Some are a step further: TLS stands, and their request never comes.
    let mut mute = Vec::new();
    for _ in 0..12 {
        let stream = raw_tls(
            control.address,
            &control.rules.authority,
            &[b"nm-enrol/1"],
            None,
            &rustls::version::TLS13,
        )
        .await;
        mute.push(stream.unwrap());
    }
    let began = Instant::now();
    let node = Node::start(&control).await;
    assert_eq!(ask(&control.linked(&node.id).await, "/who").await, node.id.to_string());
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "joining and linking took {:?}",
        began.elapsed()
    );
    // The oldest had to make room.
    ends(&mut silent[0]).await;
    let mut byte = [0];
    let read = soon("the oldest mute one ends", mute[0].read(&mut byte)).await;
    assert!(matches!(read, Ok(0) | Err(_)));
    // Once linked, a node is nobody's to push out.
    for _ in 0..20 {
        silent.push(TcpStream::connect(control.address).await.unwrap());
    }
    assert_eq!(ask(&control.linked(&node.id).await, "/who").await, node.id.to_string());
}

#[tokio::test]
async fn every_stage_has_its_deadline() {
    let short = Duration::from_millis(300);
    let options = ServerOptions {
        handshake_timeout: short,
        enrol_timeout: short,
        ..ServerOptions::default()
    };
    let control = Control::start_with(Rules::new(), options, None).await;
    let mut silent = TcpStream::connect(control.address).await.unwrap();
    let mut half = TcpStream::connect(control.address).await.unwrap();
    half.write_all(b"\x16\x03\x01\x02\x00\x01\x00").await.unwrap();
    let authority = &control.rules.authority;
    let mut no_request = raw_tls(control.address, authority, &[b"nm-enrol/1"], None, &rustls::version::TLS13)
        .await
        .unwrap();
    let mut no_body = raw_tls(control.address, authority, &[b"nm-enrol/1"], None, &rustls::version::TLS13)
        .await
        .unwrap();
    no_body
        .write_all(b"POST /v1/enrol HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        .await
        .unwrap();
    ends(&mut silent).await;
    ends(&mut half).await;
    let mut bytes = Vec::new();
    let _ = soon("the one without a request ends", no_request.read_to_end(&mut bytes)).await;
    bytes.clear();
    let _ = soon("the one without a body ends", no_body.read_to_end(&mut bytes)).await;
    assert!(
        String::from_utf8_lossy(&bytes).contains("did not arrive in time"),
        "{}",
        String::from_utf8_lossy(&bytes)
    );
}
