//! HTTP/2, frame by frame: what RFC 9113 and RFC 7541 say, each case with its section's number. Clients that keep to it are
//! answered; those that break it get the error that it names. Over TLS and without it.

mod frames;
#[path = "../kit/mod.rs"]
mod kit;
mod messages;

use kit::Proxy;
use kit::frames::*;
use kit::member::Member;
use kit::tls::{certificate, connect};
use serde_json::json;
use tokio::net::TcpStream;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

enum Expect {
    /// The connection ends with this error or is closed. The library says PROTOCOL_ERROR in some places where the RFC has a
    /// closer word; that ends it as well.
    Connection(u32),
    /// Stream 1 is reset with this error, or the whole connection is ended with it, or the request is answered 400.
    Stream(u32),
    /// This stream is reset with this error.
    Reset(u32, u32),
    /// Stream 1 is answered.
    Answer,
    /// This one is.
    Answered(u32),
}
use Expect::{Answer, Answered, Connection, Reset, Stream};

impl Expect {
    fn fits(&self, seen: &Seen) -> bool {
        let bad_request = seen.frames.iter().any(|f| f.0 == HEADERS && f.2 == 1 && is_400(&f.3));
        match *self {
            Connection(code) => seen.goaway().map_or(seen.closed, |c| c == code || c == PROTOCOL_ERROR),
            Stream(code) => {
                let ended = seen.goaway().is_some_and(|c| c == code || c == PROTOCOL_ERROR);
                seen.reset(1) == Some(code) || ended || bad_request
            }
            Reset(stream, code) => seen.reset(stream) == Some(code),
            // It may say goodbye in order.
            Answer => seen.answered(1) && seen.goaway().is_none_or(|code| code == 0) && !bad_request,
            Answered(stream) => seen.answered(stream) && seen.goaway().is_none(),
        }
    }

    /// Whether there is nothing more to wait for.
    fn is_settled(&self, seen: &Seen) -> bool {
        let said = |stream: u32| seen.answered(stream) || seen.reset(stream).is_some() || seen.goaway().is_some();
        match *self {
            Connection(_) => seen.goaway().is_some(),
            Stream(_) | Answer => said(1),
            Reset(stream, _) | Answered(stream) => said(stream),
        }
    }
}

/// `:status: 400` is entry 12 of HPACK's static table.
fn is_400(block: &[u8]) -> bool {
    block.contains(&(0x80 | 12))
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])
}

type Case = (&'static str, Vec<Vec<u8>>, Expect);

/// One listener with TLS and one without, before a member that answers whatever it hears.
async fn two_doors() -> (Proxy, Proxy, kit::tls::Pair, Member) {
    let member = Member::tcp("m", 0, std::sync::Arc::default(), |mut stream| async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut buffer = vec![0; 64 << 10];
        while let Ok(1..) = stream.read(&mut buffer).await {
            if stream.write_all(OK).await.is_err() {
                break;
            }
        }
    })
    .await;
    let clusters = json!([{"id": "c", "members": [member.json()], "ejection": {"connectionErrors": 0}}]);
    let pair = certificate("a.example");
    let plain = Proxy::start(json!([{"routes": [{"cluster": "c"}]}]), clusters.clone()).await;
    let tls = json!([{"routes": [{"cluster": "c"}], "tls": {"certificates": [pair.json(&[])]}}]);
    let tls = Proxy::start(tls, clusters).await;
    (plain, tls, pair, member)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_case_ends_as_the_rfc_says() {
    let (plain, tls, pair, _member) = two_doors().await;
    let mut wrong = Vec::new();
    let mut table = frames::cases();
    table.extend(messages::cases());
    let count = table.len();
    for (name, frames, expect) in table {
        let enough = |seen: &Seen| expect.is_settled(seen);
        let out = beginning(&frames);
        let stream = TcpStream::connect(plain.address()).await.unwrap();
        let over_tcp = say(stream, &out, enough).await;
        let stream = connect(&tls, "a.example", &[&pair], &["h2"]).await.unwrap();
        let over_tls = say(stream, &out, enough).await;
        for (way, seen) in [("TCP", over_tcp), ("TLS", over_tls)] {
            if !expect.fits(&seen) || seen.frames.first().is_none_or(|f| f.0 != SETTINGS) {
                wrong.push(format!("{name}, over {way}: {seen:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
    println!("{count} cases of RFC 9113 and RFC 7541, each over TCP and over TLS: all as they say");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_be_acknowledged_is() {
    let (plain, _tls, _pair, _member) = two_doors().await;
    // 6.5.3 and 6.7: settings are acknowledged, a ping comes back with its payload, its answer does not.
    let frames = [
        frame(PING, ACK, 0, b"unasked!"),
        frame(PING, 0, 0, b"01234567"),
        frame(PING, 0, 0, b"the-last"),
    ];
    let stream = TcpStream::connect(plain.address()).await.unwrap();
    let seen = say(stream, &beginning(&frames), |seen| seen.frames.iter().any(|f| f.3 == b"the-last")).await;
    let is = |kind: u8, payload: &[u8]| seen.frames.iter().any(|f| f.0 == kind && f.1 == ACK && f.3 == payload);
    assert!(is(SETTINGS, b"") && is(PING, b"01234567") && !is(PING, b"unasked!"), "{seen:?}");

    // 6.9.1: not a byte more than the window, which SETTINGS and WINDOW_UPDATE make.
    let frames = [frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 1]), get(1)];
    let stream = TcpStream::connect(plain.address()).await.unwrap();
    let seen = say(stream, &beginning(&frames), |seen| seen.frames.iter().any(|f| f.0 == DATA)).await;
    let data: Vec<_> = seen.frames.iter().filter(|f| f.0 == DATA).map(|f| (f.1, f.3.as_slice())).collect();
    assert_eq!(data, [(0, b"o".as_slice())]);
    let frames = [
        frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 1]),
        get(1),
        frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
    ];
    let stream = TcpStream::connect(plain.address()).await.unwrap();
    let seen = say(stream, &beginning(&frames), |seen| {
        seen.frames.iter().any(|f| f.0 == DATA && f.1 & END_STREAM != 0)
    })
    .await;
    let data: Vec<u8> = seen.frames.iter().filter(|f| f.0 == DATA).flat_map(|f| f.3.clone()).collect();
    assert_eq!(data, b"ok");

    // 3.4: a preface that begins right and goes on wrong.
    let stream = TcpStream::connect(plain.address()).await.unwrap();
    let seen = say(stream, b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", |_| false).await;
    assert!(seen.closed);
}
