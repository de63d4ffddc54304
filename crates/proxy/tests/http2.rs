//! HTTP/2, frame by frame: what RFC 9113 says of clients that break it. Each case has its section's number.

mod kit;

use kit::Proxy;
use kit::member::{all, some};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const COMPRESSION_ERROR: u32 = 9;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// A header block without Huffman coding and without the table (RFC 7541, 6.2.2).
fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in headers {
        out.push(0);
        for text in [name, value] {
            out.push(text.len() as u8);
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

const GET: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")];

fn with(more: &[(&str, &str)]) -> Vec<u8> {
    block(&[&GET[..], more].concat())
}

fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(&GET))
}

/// What came back, in short.
#[derive(Debug, Default)]
struct Seen {
    frames: Vec<(u8, u8, u32, Vec<u8>)>,
    closed: bool,
}

impl Seen {
    fn goaway(&self) -> Option<u32> {
        let last = self.frames.iter().find(|f| f.0 == GOAWAY)?;
        Some(u32::from_be_bytes(last.3[4..8].try_into().unwrap()))
    }
    fn reset(&self, stream: u32) -> Option<u32> {
        let reset = self.frames.iter().find(|f| f.0 == RST_STREAM && f.2 == stream)?;
        Some(u32::from_be_bytes(reset.3[..4].try_into().unwrap()))
    }
    fn answered(&self, stream: u32) -> bool {
        self.frames.iter().any(|f| f.0 == HEADERS && f.2 == stream)
    }
}

/// Sends frames after a right beginning; reads until a ping sent last is answered, or the connection closes.
async fn talk(proxy: &Proxy, frames: &[Vec<u8>]) -> Seen {
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    let mut out = PREFACE.to_vec();
    out.extend_from_slice(&frame(SETTINGS, 0, 0, &[]));
    frames.iter().for_each(|f| out.extend_from_slice(f));
    out.extend_from_slice(&frame(PING, 0, 0, b"the-last"));
    // The other side may close before it has read everything.
    let _ = stream.write_all(&out).await;
    let mut seen = Seen::default();
    let read = async {
        let mut bytes = Vec::new();
        let mut buffer = [0; 16 << 10];
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => {
                    seen.closed = true;
                    return;
                }
                Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            }
            while bytes.len() >= 9 {
                let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
                if bytes.len() < 9 + length {
                    break;
                }
                let stream = u32::from_be_bytes(bytes[5..9].try_into().unwrap());
                let payload = bytes[9..9 + length].to_vec();
                let last = bytes[3] == PING && bytes[4] == 1 && payload == b"the-last";
                seen.frames.push((bytes[3], bytes[4], stream, payload));
                bytes.drain(..9 + length);
                // What streams are still to say comes soon after.
                if last && !seen.frames.iter().any(|f| f.0 == HEADERS) {
                    continue;
                }
            }
            let ponged = seen.frames.iter().any(|f| f.0 == PING && f.1 == 1 && f.3 == b"the-last");
            let said = seen.frames.iter().any(|f| matches!(f.0, HEADERS | RST_STREAM | GOAWAY));
            if ponged && said {
                return;
            }
        }
    };
    kit::within("an answer", read).await;
    seen
}

enum Expect {
    /// The connection ends with this error or is closed. The library says PROTOCOL_ERROR in some places where the RFC has a
    /// closer word; that ends it as well.
    Connection(u32),
    /// The stream is reset with this error, or the whole connection is ended with it, or the request is answered 400.
    Stream(u32),
    /// Stream 1 is answered.
    Answer,
}
use Expect::{Answer, Connection, Stream};

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_break_the_protocol_get_what_the_rfc_says() {
    let members = some(1).await;
    let proxy = Proxy::with(json!({"members": all(&members)})).await;
    let open = |flags: u8, block: &[u8]| frame(HEADERS, flags, 1, block);
    let done = END_STREAM | END_HEADERS;
    let table: Vec<(&str, Vec<Vec<u8>>, Expect)> = vec![
        ("3.5 a right request", vec![get(1)], Answer),
        ("4.1 an unknown frame is ignored", vec![frame(0x77, 0, 0, b"x"), get(1)], Answer),
        (
            "4.2 a frame that is too large",
            vec![frame(DATA, 0, 1, &vec![0; 16_385])],
            Connection(FRAME_SIZE_ERROR),
        ),
        (
            "4.3 a header block that can't be decoded",
            vec![open(done, b"\x80")],
            Connection(COMPRESSION_ERROR),
        ),
        (
            "4.3 another frame within a header block",
            vec![open(END_STREAM, &block(&GET)), frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "5.1 DATA on an idle stream",
            vec![frame(DATA, END_STREAM, 1, b"x")],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "5.1 RST_STREAM on an idle stream",
            vec![frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "5.1 WINDOW_UPDATE on an idle stream",
            vec![frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "5.1 DATA after the end",
            vec![get(1), frame(DATA, 0, 1, b"x")],
            Stream(STREAM_CLOSED),
        ),
        ("5.1.1 a stream of an even number", vec![get(2)], Connection(PROTOCOL_ERROR)),
        ("5.1.1 a lower number than before", vec![get(5), get(3)], Connection(PROTOCOL_ERROR)),
        (
            "5.4.1 CONTINUATION without HEADERS",
            vec![frame(CONTINUATION, END_HEADERS, 1, &block(&GET))],
            Connection(PROTOCOL_ERROR),
        ),
        ("6.1 DATA on stream 0", vec![frame(DATA, 0, 0, b"x")], Connection(PROTOCOL_ERROR)),
        (
            "6.1 more padding than payload",
            vec![open(END_HEADERS, &block(&GET)), frame(DATA, 8, 1, &[9, 1])],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "6.2 HEADERS on stream 0",
            vec![frame(HEADERS, done, 0, &block(&GET))],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "6.3 PRIORITY on stream 0",
            vec![frame(PRIORITY, 0, 0, &[0, 0, 0, 1, 1])],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "6.4 RST_STREAM on stream 0",
            vec![frame(RST_STREAM, 0, 0, &[0, 0, 0, 8])],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "6.4 RST_STREAM of a wrong length",
            vec![get(1), frame(RST_STREAM, 0, 1, &[0, 0, 8])],
            Connection(FRAME_SIZE_ERROR),
        ),
        (
            "6.5 SETTINGS on a stream",
            vec![frame(SETTINGS, 0, 1, &[])],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "6.5 an acknowledgement with a payload",
            vec![frame(SETTINGS, 1, 0, &[0, 3, 0, 0, 0, 1])],
            Connection(FRAME_SIZE_ERROR),
        ),
        (
            "6.5 SETTINGS of a wrong length",
            vec![frame(SETTINGS, 0, 0, &[0, 3, 0, 0])],
            Connection(FRAME_SIZE_ERROR),
        ),
        (
            "6.5.2 ENABLE_PUSH neither 0 nor 1",
            vec![frame(SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2])],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "6.5.2 a window that is too large",
            vec![frame(SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0])],
            Connection(FLOW_CONTROL_ERROR),
        ),
        (
            "6.5.2 a frame size that is too small",
            vec![frame(SETTINGS, 0, 0, &[0, 5, 0, 0, 0x3f, 0xff])],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "6.6 a client's PUSH_PROMISE",
            vec![get(1), frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])],
            Connection(PROTOCOL_ERROR),
        ),
        ("6.7 PING on a stream", vec![frame(PING, 0, 1, &[0; 8])], Connection(PROTOCOL_ERROR)),
        (
            "6.7 PING of a wrong length",
            vec![frame(PING, 0, 0, &[0; 7])],
            Connection(FRAME_SIZE_ERROR),
        ),
        (
            "6.8 GOAWAY on a stream",
            vec![frame(GOAWAY, 0, 1, &[0; 8])],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "6.9 WINDOW_UPDATE of 0 on the connection",
            vec![frame(WINDOW_UPDATE, 0, 0, &[0; 4])],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "6.9 WINDOW_UPDATE of a wrong length",
            vec![frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1])],
            Connection(FRAME_SIZE_ERROR),
        ),
        (
            "6.9.1 a window beyond 2^31-1",
            vec![frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])],
            Connection(FLOW_CONTROL_ERROR),
        ),
        (
            "8.2 a name in capitals",
            vec![open(done, &with(&[("X-A", "1")]))],
            Stream(PROTOCOL_ERROR),
        ),
        (
            "8.2.2 Connection",
            vec![open(done, &with(&[("connection", "keep-alive")]))],
            Stream(PROTOCOL_ERROR),
        ),
        (
            "8.2.2 Transfer-Encoding",
            vec![open(done, &with(&[("transfer-encoding", "chunked")]))],
            Stream(PROTOCOL_ERROR),
        ),
        (
            "8.2.2 TE other than trailers",
            vec![open(done, &with(&[("te", "gzip")]))],
            Stream(PROTOCOL_ERROR),
        ),
        (
            "8.3 an unknown pseudo-header",
            vec![open(done, &with(&[(":x", "1")]))],
            Stream(PROTOCOL_ERROR),
        ),
        (
            "8.3 a response's pseudo-header",
            vec![open(done, &with(&[(":status", "200")]))],
            Stream(PROTOCOL_ERROR),
        ),
        (
            "8.3 a pseudo-header after a header",
            vec![open(done, &block(&[&[("x", "1")], &GET[..]].concat()))],
            Stream(PROTOCOL_ERROR),
        ),
        (
            "8.3.1 no :path",
            vec![open(done, &block(&[GET[0], GET[1], GET[3]]))],
            Stream(PROTOCOL_ERROR),
        ),
        (
            "8.3.1 an empty :path",
            vec![open(done, &block(&[GET[0], GET[1], (":path", ""), GET[3]]))],
            Stream(PROTOCOL_ERROR),
        ),
        ("8.3.1 no :method", vec![open(done, &block(&GET[1..]))], Stream(PROTOCOL_ERROR)),
        (
            "8.3.1 no :scheme",
            vec![open(done, &block(&[GET[0], GET[2], GET[3]]))],
            Stream(PROTOCOL_ERROR),
        ),
        (
            "8.3.1 :method twice",
            vec![open(done, &with(&[(":method", "GET")]))],
            Stream(PROTOCOL_ERROR),
        ),
        (
            "8.3.1 :authority and Host differ",
            vec![open(done, &with(&[("host", "b")]))],
            Stream(PROTOCOL_ERROR),
        ),
        (
            "8.1.1 a length that is not the body's",
            vec![
                open(END_HEADERS, &with(&[("content-length", "5")])),
                frame(DATA, END_STREAM, 1, b"x"),
            ],
            Stream(PROTOCOL_ERROR),
        ),
        (
            "8.2.1 NUL in a value",
            vec![open(done, &with(&[("x", "a\0b")]))],
            Stream(PROTOCOL_ERROR),
        ),
        (
            "8.2.1 an end of line in a value",
            vec![open(done, &with(&[("x", "a\r\nb: c")]))],
            Stream(PROTOCOL_ERROR),
        ),
    ];
    let count = table.len();
    let mut wrong = Vec::new();
    for (name, frames, expect) in table {
        let seen = talk(&proxy, &frames).await;
        let bad_request = seen.frames.iter().any(|f| f.0 == HEADERS && f.2 == 1 && is_400(&f.3));
        let right = match expect {
            Connection(code) => seen.goaway().map_or(seen.closed, |c| c == code || c == PROTOCOL_ERROR),
            Stream(code) => {
                let ended = seen.goaway().is_some_and(|c| c == code || c == PROTOCOL_ERROR);
                seen.reset(1) == Some(code) || ended || bad_request
            }
            Answer => seen.answered(1) && seen.goaway().is_none(),
        };
        if !right {
            wrong.push(format!("{name}: {seen:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
    println!("{count} cases of RFC 9113: all as it says");
}

/// `:status: 400` is entry 12 of HPACK's static table.
fn is_400(block: &[u8]) -> bool {
    block.contains(&(0x80 | 12))
}
