//! Headers: nothing that a client says of itself goes on, and what a trusted proxy says is continued.

use super::rules;
use crate::balance::hash_address;
use crate::http::headers::{self, Hop};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Request, Version};
use std::net::SocketAddr;

/// The first byte says who sends; then lines of `name:value`.
pub fn forwarded(bytes: &[u8]) {
    let Some((first, lines)) = bytes.split_first() else { return };
    let trusting = first & 1 != 0;
    let rules = rules(trusting);
    let peer = ["192.0.2.1:80", "10.1.2.3:80", "[fe80::1]:80", "[::ffff:10.0.0.1]:80"][usize::from(first >> 1 & 3)];
    let peer: SocketAddr = peer.parse().unwrap_or_else(|e| panic!("{e}"));
    let mut all = HeaderMap::new();
    for line in lines.split(|b| *b == b'\n') {
        let Some(colon) = line.iter().position(|b| *b == b':') else {
            continue;
        };
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(&line[colon + 1..])) {
            all.append(name, value);
        }
    }
    let client = headers::client_address(peer.ip(), &all, &rules);
    let _ = hash_address(client);
    let _ = headers::sticky_member(&all, "c");
    let trusted = rules.trusts(peer.ip());
    if !trusted {
        assert_eq!(client, peer.ip(), "nobody who is not trusted is somebody else");
    }

    let mut request = Request::new(());
    *request.headers_mut() = all.clone();
    *request.version_mut() = Version::HTTP_2;
    let (mut parts, ()) = request.into_parts();
    headers::join_cookies(&mut parts.headers);
    assert!(parts.headers.get_all("cookie").iter().count() <= 1);
    let _ = headers::asked_upgrade(&parts);
    let host = HeaderValue::from_static("a");
    let value = HeaderValue::try_from(peer.ip().to_canonical().to_string()).unwrap_or_else(|e| panic!("{e}"));
    let hop = Hop {
        address: peer,
        value: &value,
        tls: first & 8 != 0,
    };
    headers::rewrite(&mut parts, &hop, &host, &rules);
    let after = &parts.headers;
    for gone in [
        "connection",
        "transfer-encoding",
        "te",
        "trailer",
        "upgrade",
        "keep-alive",
        "proxy-connection",
        "expect",
        "http2-settings",
    ] {
        assert!(!after.contains_key(gone), "{gone} is for one hop");
    }
    for gone in ["content_length", "transfer_encoding"] {
        assert!(!after.contains_key(gone), "{gone} could be read as a second length");
    }
    let chain: Vec<_> = after.get_all("x-forwarded-for").iter().collect();
    assert_eq!(chain.len(), 1);
    assert!(chain[0].as_bytes().ends_with(value.as_bytes()));
    assert!(after.contains_key("x-forwarded-proto") && after.contains_key("x-forwarded-host"));
    if !trusted {
        assert_eq!(chain[0], value);
        for name in after.keys() {
            let plain = name.as_str().replace('_', "-");
            let ours = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"].contains(&name.as_str());
            assert!(
                ours || !(plain.starts_with("x-forwarded-") || plain == "forwarded" || plain == "x-real-ip"),
                "{name} went on"
            );
        }
    }
}
