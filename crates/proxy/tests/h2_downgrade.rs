//! What HTTP/2 can say and HTTP/1.1 can't: nothing of it reaches a member as a line of its own.

mod kit;

use kit::Proxy;
use kit::frames::*;
use kit::member::Member;
use serde_json::json;
use tokio::net::TcpStream;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Something was said of stream 1.
fn is_settled(seen: &Seen) -> bool {
    seen.answered(1) || seen.reset(1).is_some() || seen.goaway().is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_smuggled_into_http1() {
    let smuggled = "x\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a";
    let get = |name: &'static str, value: &'static str| with(&[(name, value)]);
    let instead = |i: usize, value: &str| {
        let mut headers = GET;
        headers[i].1 = value;
        block(&headers)
    };
    let refused: Vec<(&str, Vec<u8>)> = vec![
        ("an end of line in a value", with(&[("x", smuggled)])),
        ("an end of line in a name", with(&[("x: y\r\nz", "1")])),
        ("LF in a value", get("x", "a\nb: c")),
        ("CR in a value", get("x", "a\rb: c")),
        ("NUL in a value", get("x", "a\0b")),
        ("a colon in a name", get("x:y", "1")),
        ("a quote in a name", get("x\"y", "1")),
        ("a colon before a name", get(":x", "1")),
        ("a space in a name", get("x y", "1")),
        ("a space after a name", get("transfer-encoding ", "chunked")),
        ("a name with NUL", get("x\0", "1")),
        ("an empty name", get("", "1")),
        ("a name in capitals", get("Transfer-Encoding", "chunked")),
        ("Transfer-Encoding", get("transfer-encoding", "chunked")),
        ("Transfer-Encoding, obfuscated", get("transfer-encoding", "xchunked")),
        ("Connection", get("connection", "transfer-encoding")),
        ("a space in the path", instead(2, "/ HTTP/1.1")),
        ("an end of line in the path", instead(2, "/ HTTP/1.1\r\nx: y")),
        ("a path that is none", instead(2, "x")),
        ("a path that is another target", instead(2, "http://b/")),
        ("a query without a path", instead(2, "?x")),
        ("no path", instead(2, "")),
        ("a space in the method", instead(0, "GET / HTTP/1.1\r\nx: y\r\n\r\nGET")),
        ("an end of line in the authority", instead(3, "a\r\nx: y")),
        ("a space in the authority", instead(3, "a b")),
        ("a path in the authority", instead(3, "a/b")),
        ("a name and a password in the authority", instead(3, "u@a")),
        ("another Host", get("host", "b")),
        ("two Hosts", with(&[("host", "a"), ("host", "a")])),
        ("an end of line in the scheme", instead(1, "http\r\nx: y")),
        ("CONNECT", instead(0, "CONNECT")),
        ("TRACE", instead(0, "TRACE")),
        ("a length of two values", with(&[("content-length", "0"), ("content-length", "5")])),
        ("a length that is a list", get("content-length", "0, 0")),
        ("an empty length", get("content-length", "")),
    ];
    let done = END_STREAM | END_HEADERS;
    for (name, headers) in refused {
        let (member, heard) = Member::raw("m", OK).await;
        let proxy = Proxy::with(json!({"members": [member.json()]})).await;
        let stream = TcpStream::connect(proxy.address()).await.unwrap();
        let seen = say(stream, &beginning(&[frame(HEADERS, done, 1, &headers)]), is_settled).await;
        let heard = String::from_utf8_lossy(&heard.lock().unwrap()).into_owned();
        assert!(heard.is_empty(), "{name}: {heard:?}");
        assert!(
            !seen.frames.iter().any(|f| f.0 == HEADERS && f.3.contains(&0x88)),
            "{name}: answered 200"
        );
    }
    let longer: Vec<(&str, &str)> = (0..140).map(|_| ("x", "y")).collect();
    let table: Vec<(&str, Vec<Vec<u8>>, &str)> = vec![
        // Cookies come in pieces and go on as one (8.2.3); Host is made of :authority (8.3.1).
        (
            "cookies",
            vec![frame(HEADERS, done, 1, &with(&[("cookie", "a=1"), ("cookie", "b=2")]))],
            "GET / HTTP/1.1\r\ncookie: a=1; b=2\r\nhost: a\r\n",
        ),
        (
            "names with an underscore",
            vec![frame(
                HEADERS,
                done,
                1,
                &with(&[("content_length", "5"), ("transfer_encoding", "chunked")]),
            )],
            "GET / HTTP/1.1\r\nhost: a\r\n",
        ),
        (
            "an upgrade in name only",
            vec![frame(HEADERS, done, 1, &with(&[("http2-settings", "x"), ("te", "trailers")]))],
            "GET / HTTP/1.1\r\nhost: a\r\n",
        ),
        ("too many headers", vec![frame(HEADERS, done, 1, &with(&longer))], ""),
    ];
    for (name, frames, begins) in table {
        let (member, heard) = Member::raw("m", OK).await;
        let proxy = Proxy::with(json!({"members": [member.json()]})).await;
        let stream = TcpStream::connect(proxy.address()).await.unwrap();
        let seen = say(stream, &beginning(&frames), is_settled).await;
        let heard = String::from_utf8_lossy(&heard.lock().unwrap()).into_owned();
        let forwarded = "x-forwarded-for: 127.0.0.1\r\nx-forwarded-proto: http\r\nx-forwarded-host: a\r\n\r\n";
        let whole = if begins.is_empty() {
            String::new()
        } else {
            format!("{begins}{forwarded}")
        };
        assert_eq!(heard, whole, "{name}");
        assert!(seen.answered(1), "{name}: {seen:?}");
    }
    // A body that is shorter or longer than its length does not become a whole request.
    let post = block(&[(":method", "POST"), GET[1], GET[2], GET[3], ("content-length", "5")]);
    for body in ["abc", "abcdefgh"] {
        let (member, heard) = Member::raw("m", OK).await;
        let proxy = Proxy::with(json!({"members": [member.json()]})).await;
        let stream = TcpStream::connect(proxy.address()).await.unwrap();
        let frames = [frame(HEADERS, END_HEADERS, 1, &post), frame(DATA, END_STREAM, 1, body.as_bytes())];
        let seen = say(stream, &beginning(&frames), is_settled).await;
        assert!(
            !seen.frames.iter().any(|f| f.0 == HEADERS && f.3.contains(&0x88)),
            "{body}: {seen:?}"
        );
        let heard = String::from_utf8_lossy(&heard.lock().unwrap()).into_owned();
        assert!(!heard.ends_with("abcde") && !heard.contains("fgh"), "{body}: {heard:?}");
    }
}
