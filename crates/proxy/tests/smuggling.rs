//! Requests that two parsers could read differently: each is sent raw, and what a raw member received is looked at. It is
//! refused, or what went on has one meaning only.

mod kit;

use kit::Proxy;
use kit::member::Member;
use serde_json::json;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

enum Verdict {
    /// 400 or another 4xx or 501, and the member heard nothing.
    Refused,
    /// The member heard one request that ends with this.
    Ends(&'static str),
}
use Verdict::{Ends, Refused};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_smuggled() {
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    let table: Vec<(&str, String, Verdict)> = vec![
        (
            "CL.TE",
            format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n{smuggled}"),
            // Transfer-Encoding counts (RFC 9112, 6.3), the length is removed, and the rest is a request of its own, which a
            // closing connection does not read.
            Ends("\r\n\r\n0\r\n\r\n"),
        ),
        (
            "TE.CL",
            format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\nConnection: close\r\n\r\n23\r\n{smuggled}\r\n0\r\n\r\n"),
            Ends("\r\n0\r\n\r\n"),
        ),
        (
            "TE.TE, an unknown second",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n".into(),
            Refused,
        ),
        (
            "TE.TE, an unknown first",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
            Refused,
        ),
        (
            "TE.TE in one line",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n".into(),
            Refused,
        ),
        (
            "TE obfuscated",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n".into(),
            Refused,
        ),
        (
            "TE with a vertical tab",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \u{b}chunked\r\n\r\n0\r\n\r\n".into(),
            Refused,
        ),
        (
            "TE in HTTP/1.0",
            "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
            Refused,
        ),
        ("space before the colon", "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n".into(), Refused),
        (
            "space before the length's colon",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\nhello".into(),
            Refused,
        ),
        ("a folded header", "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n".into(), Refused),
        ("a folded first header", "GET / HTTP/1.1\r\n Host: a\r\nX: a\r\n\r\n".into(), Refused),
        ("NUL in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n".into(), Refused),
        ("NUL in a name", "GET / HTTP/1.1\r\nHost: a\r\nX\0: a\r\n\r\n".into(), Refused),
        ("NUL in the target", "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n".into(), Refused),
        ("CR alone in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: a\rY: b\r\n\r\n".into(), Refused),
        (
            "two lengths",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello".into(),
            Refused,
        ),
        (
            "the same length twice",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello".into(),
            Ends("hello"),
        ),
        (
            "lengths in a list",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello".into(),
            Refused,
        ),
        ("a signed length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello".into(), Refused),
        ("a hexadecimal length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\nhello".into(), Refused),
        (
            "a length that overflows",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551621\r\n\r\nhello".into(),
            Refused,
        ),
        ("bare LF", "GET / HTTP/1.1\nHost: a\nConnection: close\n\n".into(), Ends("\r\n\r\n")),
        (
            "a bare LF that hides a header",
            "GET / HTTP/1.1\r\nHost: a\r\nX: a\nTransfer-Encoding: xchunked\r\n\r\n".into(),
            Refused,
        ),
        (
            "chunk extensions",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5;a=b\r\nhello\r\n0;c\r\n\r\n".into(),
            Ends("5\r\nhello\r\n0\r\n\r\n"),
        ),
        (
            "a chunk extension with a bare LF",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a\nhello\r\n0\r\n\r\n".into(),
            Refused,
        ),
        (
            "a chunk size that overflows",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n0\r\n\r\n".into(),
            Refused,
        ),
        (
            "a chunk without its end of line",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n".into(),
            Refused,
        ),
        (
            "trailers",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\nConnection: close\r\n\r\n0\r\nX: y\r\nContent-Length: 5\r\n\r\n".into(),
            Ends("\r\n\r\n0\r\n\r\n"),
        ),
        ("no Host", "GET / HTTP/1.1\r\n\r\n".into(), Refused),
        ("two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".into(), Refused),
        ("the same Host twice", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".into(), Refused),
        ("an odd Host", "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n".into(), Refused),
        ("a Host with a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n".into(), Refused),
        ("a Host that is a list", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n".into(), Refused),
        ("a target with another host", "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n".into(), Refused),
        (
            "a target with the same host",
            "GET http://a/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".into(),
            Ends("\r\n\r\n"),
        ),
        ("CONNECT", "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n".into(), Refused),
        ("TRACE", "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n".into(), Refused),
        ("HTTP/0.9", "GET /\r\n".into(), Refused),
        ("an unknown version", "GET / HTTP/1.9\r\nHost: a\r\n\r\n".into(), Refused),
        ("spaces in the target", "GET / x HTTP/1.1\r\nHost: a\r\n\r\n".into(), Refused),
        ("a target that is no path", "GET x HTTP/1.1\r\nHost: a\r\n\r\n".into(), Refused),
        (
            "Connection takes away what the message is",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: close, content-length, host\r\n\r\nhello".into(),
            Ends("hello"),
        ),
        (
            "an upgrade to h2c",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n".into(),
            Ends("\r\n\r\n"),
        ),
    ];
    let count = table.len();
    for (name, bytes, verdict) in table {
        let (member, heard) = Member::raw("m", OK).await;
        let proxy = Proxy::with(json!({"members": [member.json()]})).await;
        let answer = proxy.raw(bytes.as_bytes()).await;
        let heard = String::from_utf8_lossy(&heard.lock().unwrap()).into_owned();
        match verdict {
            Refused => {
                let refused = answer.is_empty() || answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 5");
                assert!(refused, "{name}: {answer}");
                // A body that turns out wrong may have begun to go on; what the member heard is no whole request.
                assert!(heard.is_empty() || !heard.ends_with("0\r\n\r\n"), "{name}: {heard}");
                assert!(!answer.contains("200 OK"), "{name}: {answer}");
            }
            Ends(end) => {
                assert!(heard.ends_with(end), "{name}: {heard}");
                assert!(answer.starts_with("HTTP/1.1 200"), "{name}: {answer}");
                let head = heard.split("\r\n\r\n").next().unwrap().to_ascii_lowercase();
                let lengths = head.matches("\r\ncontent-length:").count() + head.matches("\r\ntransfer-encoding:").count();
                assert!(lengths <= 1, "{name}: {heard}");
                assert_eq!(head.matches("\r\nhost: a").count(), 1, "{name}: {heard}");
                for gone in ["trailer", "x: y", "upgrade", "http2", "connection", "http://", ";a"] {
                    assert!(!heard.to_ascii_lowercase().contains(gone), "{name}: {heard}");
                }
                assert!(!heard.replace("\r\n", "").contains(['\r', '\n']), "{name}: {heard:?}");
            }
        }
    }
    println!("{count} requests that could be read twice: all refused or made plain");
}
