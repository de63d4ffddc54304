//! Requests that two parsers could read differently: each is sent raw, and what a raw member received is looked at. It is
//! refused, or what went on has one meaning only.

mod kit;

use kit::Proxy;
use kit::member::Member;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Each of these requests is complete, or wrong before its end: nobody has to wait for more.
const PATIENT: Duration = Duration::from_secs(5);

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
        ("TE twice in one line", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n".into(), Refused),
        ("TE with another after it", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n".into(), Refused),
        ("TE with gzip before it", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n".into(), Refused),
        ("TE with an empty element after it", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked,\r\n\r\n0\r\n\r\n".into(), Refused),
        ("TE with an empty element before it", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: , chunked\r\n\r\n0\r\n\r\n".into(), Refused),
        ("TE in quotes", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n".into(), Refused),
        ("TE with a parameter", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n".into(), Refused),
        ("TE empty", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n0\r\n\r\n".into(), Refused),
        ("TE identity", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n".into(), Refused),
        ("TE with a tab before the colon", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n".into(), Refused),
        ("TE with NUL after the name", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\0: chunked\r\n\r\n0\r\n\r\n".into(), Refused),
        ("TE with NUL in the value", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\0\r\n\r\n0\r\n\r\n".into(), Refused),
        ("TE with a form feed", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\u{c}\r\n\r\n0\r\n\r\n".into(), Refused),
        ("TE with a no-break space", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \u{a0}chunked\r\n\r\n0\r\n\r\n".into(), Refused),
        ("TE with a Kelvin sign", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chun\u{212a}ed\r\n\r\n0\r\n\r\n".into(), Refused),
        ("TE folded", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n".into(), Refused),
        ("TE behind a bare CR", "POST / HTTP/1.1\r\nHost: a\r\nX: a\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(), Refused),
        ("TE with a space before its name", "POST / HTTP/1.1\r\nHost: a\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(), Refused),
        ("TE with a colon before its name", "POST / HTTP/1.1\r\nHost: a\r\n:Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(), Refused),
        ("TE without a colon", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding chunked\r\n\r\n0\r\n\r\n".into(), Refused),
        ("TE three times", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n".into(), Refused),
        ("TE twice, the same", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".into(), Refused),
        ("a length that is negative", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\nhello".into(), Refused),
        ("a length with a space within", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5 5\r\n\r\nhello".into(), Refused),
        ("a length that is empty", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\nhello".into(), Refused),
        ("a length octal-looking letters", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5e0\r\n\r\nhello".into(), Refused),
        ("a length with an underscore", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0\r\n\r\nhello".into(), Refused),
        ("a length in other digits", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \u{ff15}\r\n\r\nhello".into(), Refused),
        ("a length with a comma after it", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5,\r\n\r\nhello".into(), Refused),
        ("a length with NUL", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\0\r\n\r\nhello".into(), Refused),
        ("a length that is fractional", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5.0\r\n\r\nhello".into(), Refused),
        ("a length in tabs", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\t5\t\r\nConnection: close\r\n\r\nhello".into(), Ends("hello")),
        ("a length with an underscore in its name", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent_Length: 50\r\nTransfer_Encoding: chunked\r\nConnection: close\r\n\r\nhello".into(), Ends("hello")),
        ("GET with a body", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello".into(), Ends("hello")),
        ("TE in capitals and tabs", "POST / HTTP/1.1\r\nHost: a\r\nTRANSFER-ENCODING:\tChunked\t\r\nConnection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n".into(), Ends("5\r\nhello\r\n0\r\n\r\n")),
        ("a chunk size negative", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n".into(), Refused),
        ("a chunk size signed", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n".into(), Refused),
        ("a chunk size prefixed", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n".into(), Refused),
        ("a chunk size empty", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\r\nhello\r\n0\r\n\r\n".into(), Refused),
        ("a chunk size of no digits", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\ng\r\nhello\r\n0\r\n\r\n".into(), Refused),
        ("a chunk size with an underscore", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0_5\r\nhello\r\n0\r\n\r\n".into(), Refused),
        ("a chunk size with a space before it", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n 5\r\nhello\r\n0\r\n\r\n".into(), Refused),
        ("a chunk size with a CR too many", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\r\nhello\r\n0\r\n\r\n".into(), Refused),
        ("a chunk size of 17 digits", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello\r\n0\r\n\r\n".into(), Refused),
        ("a chunk size that ends in LF", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n".into(), Refused),
        ("a chunk that ends in LF", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\n0\r\n\r\n".into(), Refused),
        ("a last chunk that ends in LF", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\n\n".into(), Refused),
        ("a trailer that ends in LF", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\nZ: w\r\n\r\n".into(), Refused),
        ("a trailer that is no header", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n".into(), Refused),
        ("a chunk extension with a bare CR", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a\rb\r\nhello\r\n0\r\n\r\n".into(), Refused),
        ("zeros before a chunk size", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0005\r\nhello\r\n000\r\n\r\n".into(), Ends("5\r\nhello\r\n0\r\n\r\n")),
        ("a chunk extension in quotes", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5;a=\"b;c\"\r\nhello\r\n0\r\n\r\n".into(), Ends("5\r\nhello\r\n0\r\n\r\n")),
        ("garbage after the last chunk", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\nXYZ".into(), Ends("\r\n\r\n0\r\n\r\n")),
        ("a tab in the request line", "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n".into(), Refused),
        ("two spaces in the request line", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n".into(), Refused),
        ("a space after the version", "GET / HTTP/1.1 \r\nHost: a\r\n\r\n".into(), Refused),
        ("no target", "GET HTTP/1.1\r\nHost: a\r\n\r\n".into(), Refused),
        ("HTTP/2.0 in the old form", "GET / HTTP/2.0\r\nHost: a\r\n\r\n".into(), Refused),
        ("a version in small letters", "GET / http/1.1\r\nHost: a\r\n\r\n".into(), Refused),
        ("a version of two digits", "GET / HTTP/1.10\r\nHost: a\r\n\r\n".into(), Refused),
        ("a method with a slash", "G/T / HTTP/1.1\r\nHost: a\r\n\r\n".into(), Refused),
        ("a fragment and a space", "GET /# x HTTP/1.1\r\nHost: a\r\n\r\n".into(), Refused),
        ("a bare CR in the target", "GET /\rX HTTP/1.1\r\nHost: a\r\n\r\n".into(), Refused),
        ("an authority with a name and a password", "GET http://a@b/ HTTP/1.1\r\nHost: a\r\n\r\n".into(), Refused),
        ("another scheme with another host", "GET ftp://b/ HTTP/1.1\r\nHost: a\r\n\r\n".into(), Refused),
        ("a Host with a tab", "GET / HTTP/1.1\r\nHost: a\tb\r\n\r\n".into(), Refused),
        ("an empty Host", "GET / HTTP/1.1\r\nHost: \r\n\r\n".into(), Refused),
        ("a Host with a comma", "GET / HTTP/1.1\r\nHost: a,a\r\n\r\n".into(), Refused),
        ("a Host with a fragment", "GET / HTTP/1.1\r\nHost: a#b\r\n\r\n".into(), Refused),
        ("a Host with a backslash", "GET / HTTP/1.1\r\nHost: a\\b\r\n\r\n".into(), Refused),
        ("a Host with percent-encoded NUL and a space", "GET / HTTP/1.1\r\nHost: a%00 b\r\n\r\n".into(), Refused),
        ("a header without a name", "GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n".into(), Refused),
        ("a header without a colon", "GET / HTTP/1.1\r\nHost: a\r\nx\r\n\r\n".into(), Refused),
        ("a name with a bracket", "GET / HTTP/1.1\r\nHost: a\r\nx(y): z\r\n\r\n".into(), Refused),
        ("a control byte in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: a\u{1}b\r\n\r\n".into(), Refused),
        ("empty lines before the request", "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".into(), Ends("\r\n\r\n")),
        (
            "an upgrade to h2c",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n".into(),
            Ends("\r\n\r\n"),
        ),
    ];
    let count = table.len();
    let mut wrong = Vec::new();
    for (name, bytes, verdict) in table {
        let (member, heard) = Member::raw("m", OK).await;
        let proxy = Proxy::with(json!({"members": [member.json()]})).await;
        let Ok(answer) = tokio::time::timeout(PATIENT, proxy.raw(bytes.as_bytes())).await else {
            wrong.push(format!("{name}: it is waited for more"));
            continue;
        };
        let heard = String::from_utf8_lossy(&heard.lock().unwrap()).into_owned();
        if let Err(why) = judge(&verdict, &answer, &heard) {
            wrong.push(format!("{name}: {why}: answered {answer:?}, heard {heard:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
    println!("{count} requests that could be read twice: all refused or made plain");
}

fn judge(verdict: &Verdict, answer: &str, heard: &str) -> Result<(), String> {
    let small = heard.to_ascii_lowercase();
    match verdict {
        Refused => {
            let refused = answer.is_empty() || answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 5");
            // A body that turns out wrong may have begun to go on; what the member heard is no whole request.
            let whole = heard.ends_with("0\r\n\r\n") || (heard.ends_with("\r\n\r\n") && !small.contains("transfer-encoding"));
            match () {
                () if !refused || answer.contains("200 OK") => Err("not refused".to_owned()),
                () if whole => Err("the member heard a whole request".to_owned()),
                () => Ok(()),
            }
        }
        Ends(end) => {
            let head = small.split("\r\n\r\n").next().unwrap_or_default();
            let lengths = head.matches("\r\ncontent-length:").count() + head.matches("\r\ntransfer-encoding:").count();
            let gone = ["trailer", "x: y", "upgrade", "http2", "connection", "http://", ";a", "_"];
            match () {
                () if !answer.starts_with("HTTP/1.1 200") => Err("not answered".to_owned()),
                () if !heard.ends_with(end) => Err(format!("the member heard no request that ends with {end:?}")),
                () if lengths > 1 => Err("more than one length".to_owned()),
                () if head.matches("\r\nhost: a").count() != 1 => Err("not one host".to_owned()),
                () if heard.replace("\r\n", "").contains(['\r', '\n']) => Err("half an end of line".to_owned()),
                () => match gone.iter().find(|word| small.contains(*word)) {
                    Some(word) => Err(format!("{word} went on")),
                    None => Ok(()),
                },
            }
        }
    }
}

/// A member's answers, too: what can't be read in one way only is a 502, and what comes after an answer is nobody's.
#[tokio::test(flavor = "multi_thread")]
async fn no_answer_is_smuggled() {
    enum Becomes {
        BadGateway,
        /// 200 with this body.
        Body(&'static str),
        /// 200, but the body breaks off.
        Broken,
    }
    use Becomes::{BadGateway, Body, Broken};
    let table: [(&str, &'static [u8], Becomes); 16] = [
        (
            "two lengths",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
            BadGateway,
        ),
        ("a signed length", b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok", BadGateway),
        ("a negative length", b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok", BadGateway),
        (
            "a folded header",
            b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok",
            BadGateway,
        ),
        (
            "a space before the colon",
            b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok",
            BadGateway,
        ),
        (
            "NUL in a value",
            b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\nok",
            BadGateway,
        ),
        (
            "CR in a value",
            b"HTTP/1.1 200 OK\r\nX: a\rY: b\r\nContent-Length: 2\r\n\r\nok",
            BadGateway,
        ),
        ("no number", b"HTTP/1.1 OK\r\nContent-Length: 2\r\n\r\nok", BadGateway),
        ("HTTP/0.9", b"ok", BadGateway),
        ("another protocol", b"SSH-2.0-OpenSSH_9.2\r\n", BadGateway),
        (
            "an unasked change of protocols",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            BadGateway,
        ),
        (
            "length and encoding",
            b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            Body("ok"),
        ),
        (
            "interim answers",
            b"HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            Body("ok"),
        ),
        (
            "an answer that nobody asked for behind it",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled",
            Body("ok"),
        ),
        (
            "a chunk size that overflows",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000002\r\nok\r\n0\r\n\r\n",
            Broken,
        ),
        (
            "a chunk without its end",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokXX0\r\n\r\n",
            Broken,
        ),
    ];
    let mut wrong = Vec::new();
    for (name, answer, becomes) in table {
        let member = Member::tcp("m", 0, Arc::default(), move |mut stream| async move {
            let mut buffer = vec![0; 16 << 10];
            while let Ok(1..) = stream.read(&mut buffer).await {
                if stream.write_all(answer).await.is_err() {
                    break;
                }
            }
        })
        .await;
        let proxy = Proxy::with(json!({"members": [member.json()], "responseTimeoutMs": 3_000, "ejection": {"connectionErrors": 0}})).await;
        let get = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        // Twice: what was left over of the first answer must not be the second.
        for _ in 0..2 {
            let heard = proxy.raw(get.as_bytes()).await;
            let body = heard.split_once("\r\n\r\n").map_or("", |(_, body)| body);
            let right = match becomes {
                BadGateway => heard.starts_with("HTTP/1.1 502"),
                Body(text) => {
                    let chunked = format!("{:x}\r\n{text}\r\n0\r\n\r\n", text.len());
                    heard.starts_with("HTTP/1.1 200") && (body == text || body == chunked)
                }
                Broken => !heard.contains("\r\n0\r\n\r\n"),
            };
            if !right {
                wrong.push(format!("{name}: {heard:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
