//! Headers: what is refused, removed, added and believed.

use crate::listener::{Rules, without_port};
use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Uri, Version, request::Parts};
use std::net::{IpAddr, SocketAddr};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Why a request is refused with 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("a request has one Host header")]
    Host,
    #[error("the target's host and the Host header differ")]
    HostMismatch,
    #[error("Transfer-Encoding is `chunked` or left out, and stands alone")]
    TransferEncoding,
    #[error("the target is no path")]
    Target,
    #[error("a header's name has a character that names have not")]
    Name,
    #[error("Content-Length is one number")]
    Length,
}

/// Gives a request memory of its own, as little as it needs. As hyper reads it, it holds its connection's read buffer, which then
/// needs another one while the answer is awaited: with many connections, most of what they take.
pub fn detach(parts: &mut Parts) {
    let path = parts.uri.path_and_query().filter(|_| parts.uri.authority().is_none());
    let length = parts.headers.values().map(HeaderValue::len).sum::<usize>() + path.map_or(0, |p| p.as_str().len());
    let mut all = BytesMut::with_capacity(length);
    // What was valid is valid again; anything else would stay as it is.
    if let Some(path) = path {
        all.extend_from_slice(path.as_str().as_bytes());
        if let Ok(path) = PathAndQuery::from_maybe_shared(all.split().freeze()) {
            parts.uri = Uri::from(path);
        }
    }
    for value in parts.headers.values_mut() {
        all.extend_from_slice(value.as_bytes());
        if let Ok(own) = HeaderValue::from_maybe_shared(all.split().freeze()) {
            *value = own;
        }
    }
}

/// The cookies of an HTTP/2 request may come in pieces; HTTP/1.1 has them in one (RFC 9113, 8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let pieces: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_maybe_shared(Bytes::from(pieces.join(b"; ".as_slice()))) {
        headers.insert(header::COOKIE, joined);
    }
}

/// The request's host, once it is sure that the request means the same to everybody. Its target becomes a path.
pub fn judge(parts: &mut Parts) -> Result<HeaderValue, Malformed> {
    if let Some(encoding) = parts.headers.get(header::TRANSFER_ENCODING) {
        let alone = parts.headers.get_all(header::TRANSFER_ENCODING).iter().count() == 1;
        let chunked = encoding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
        if !alone || !chunked || parts.headers.contains_key(header::CONTENT_LENGTH) || parts.version == Version::HTTP_2 {
            return Err(Malformed::TransferEncoding);
        }
    }
    // Of HTTP/2 nobody has looked at these: a character that is in no token (RFC 9110, 5.6.2), and a length of no digits.
    if parts.version == Version::HTTP_2 {
        if parts.headers.keys().any(|name| name.as_str().contains('"')) {
            return Err(Malformed::Name);
        }
        let mut lengths = parts.headers.get_all(header::CONTENT_LENGTH).iter();
        let is_number = |length: &HeaderValue| !length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit);
        if lengths.next().is_some_and(|length| !is_number(length)) || lengths.next().is_some() {
            return Err(Malformed::Length);
        }
    }
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = hosts.next().cloned();
    if hosts.next().is_some() || host.as_ref().is_some_and(|h| !is_host(h.as_bytes())) {
        return Err(Malformed::Host);
    }
    let host = match (parts.uri.authority(), host) {
        (Some(authority), _) if !is_host(authority.as_str().as_bytes()) => return Err(Malformed::Host),
        (Some(authority), Some(host)) if !authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes()) => {
            return Err(Malformed::HostMismatch);
        }
        (_, Some(host)) => host,
        (Some(authority), None) if parts.version == Version::HTTP_2 => {
            let host = HeaderValue::from_str(authority.as_str()).map_err(|_| Malformed::Host)?;
            parts.headers.insert(header::HOST, host.clone());
            host
        }
        // HTTP/1.0 asks for no Host.
        (None, None) if parts.version == Version::HTTP_10 => HeaderValue::from_static(""),
        (Some(_) | None, None) => return Err(Malformed::Host),
    };
    if parts.uri.scheme().is_some() || parts.uri.authority().is_some() {
        parts.uri = Uri::from(parts.uri.path_and_query().cloned().ok_or(Malformed::Target)?);
        let text = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
        if parts.version != Version::HTTP_2 && (parts.uri.path().is_empty() || text.starts_with('?')) {
            // `http://a?b` has an empty path, which is sent as `/` (RFC 9112, 3.2.1). HTTP/2 has none (RFC 9113, 8.3.1).
            let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
            parts.uri = Uri::try_from(format!("/{query}")).map_err(|_| Malformed::Target)?;
        }
    }
    // As one of the two it is sent on: of a query alone `path` makes `/`, of nothing at all `path_and_query` does.
    let written = [parts.uri.path(), parts.uri.path_and_query().map_or("", PathAndQuery::as_str)];
    let whole_server = written == ["*", "*"] && parts.method == Method::OPTIONS;
    if !written.iter().all(|target| target.starts_with('/')) && !whole_server {
        return Err(Malformed::Target);
    }
    Ok(host)
}

/// A name or an address and perhaps a port. Nothing that another parser could read as something else.
fn is_host(host: &[u8]) -> bool {
    let right = |b: &u8| b.is_ascii_alphanumeric() || b"-._~:[]%".contains(b);
    !host.is_empty() && host.len() <= 255 && host.iter().all(right)
}

/// Removes what is meant for one hop only (RFC 9110, 7.6.1); `Expect` too, as it is answered here.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let fixed = [
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::TE,
        header::TRAILER,
        header::EXPECT,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        HTTP2_SETTINGS,
    ];
    // Most have one of them at most; a removal of what is not there is a search, too.
    let mut found = fixed.each_ref().map(|_| false);
    for name in headers.keys() {
        if let Some(place) = fixed.iter().position(|f| f == name) {
            found[place] = true;
        }
    }
    if !found.contains(&true) {
        return;
    }
    let listed = |value: &HeaderValue| -> Vec<HeaderName> {
        let names = value.as_bytes().split(|b| *b == b',');
        names.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok()).collect()
    };
    let named: Vec<HeaderName> = headers.get_all(header::CONNECTION).iter().flat_map(listed).collect();
    for name in named {
        // These say what the message is; no client may have them taken away.
        if name != header::HOST && name != header::CONTENT_LENGTH {
            headers.remove(name);
        }
    }
    for (name, _) in fixed.iter().zip(found).filter(|(_, found)| *found) {
        headers.remove(name);
    }
}

/// The protocol that a client asks to change to, if it is one to pass on. `h2c` is not: it would go round all rules here.
pub fn asked_upgrade(parts: &Parts) -> Option<HeaderValue> {
    let upgrade = parts.headers.get(header::UPGRADE)?;
    let asked = parts.headers.get_all(header::CONNECTION).iter().any(|value| {
        let mut tokens = value.as_bytes().split(|b| *b == b',');
        tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
    });
    let one = parts.headers.get_all(header::UPGRADE).iter().count() == 1;
    let token = upgrade.as_bytes();
    let single = token.iter().all(|b| b.is_ascii_alphanumeric() || b"-./_".contains(b));
    let fits = asked && one && single && !token.to_ascii_lowercase().starts_with(b"h2");
    (fits && parts.version == Version::HTTP_11).then(|| upgrade.clone())
}

/// Who the client is: the peer, or whom a trusted peer names. The last address that is not itself trusted counts, as those
/// before it are the client's own words.
pub fn client_address(peer: IpAddr, headers: &HeaderMap, rules: &Rules) -> IpAddr {
    if rules.trusted.is_empty() || !rules.trusts(peer) {
        return peer;
    }
    let mut client = peer;
    let values: Vec<&HeaderValue> = headers.get_all(FORWARDED_FOR).iter().collect();
    for value in values.into_iter().rev() {
        for element in value.as_bytes().rsplit(|b| *b == b',') {
            let Some(address) = std::str::from_utf8(element).ok().and_then(parse_address) else {
                return client;
            };
            client = address;
            if !rules.trusts(address) {
                return client;
            }
        }
    }
    client
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`.
fn parse_address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = without_port(text).trim_start_matches('[').trim_end_matches(']');
    text.parse().or_else(|_| bare.parse()).ok()
}

/// The last hop: who sent the request here, and how.
pub struct Hop<'a> {
    pub address: SocketAddr,
    /// The address as a header's value.
    pub value: &'a HeaderValue,
    pub tls: bool,
}

/// Makes a request that was judged what a member is to receive.
pub fn rewrite(parts: &mut Parts, hop: &Hop<'_>, host: &HeaderValue, rules: &Rules) {
    strip_hop_by_hop(&mut parts.headers);
    set_forwarded(&mut parts.headers, hop, host, rules);
    parts.version = Version::HTTP_11;
}

/// Says who asked, how and for what; takes away what only a proxy may say and this client is none.
fn set_forwarded(headers: &mut HeaderMap, hop: &Hop<'_>, host: &HeaderValue, rules: &Rules) {
    let trusted = !rules.trusted.is_empty() && rules.trusts(hop.address.ip());
    // Room for all of them at once, in place of growing twice.
    headers.reserve(3);
    remove_claims(headers, trusted);
    if !trusted {
        headers.insert(FORWARDED_FOR, hop.value.clone());
    } else {
        let mut chain = Vec::new();
        for value in headers.get_all(FORWARDED_FOR) {
            chain.extend_from_slice(value.as_bytes());
            chain.extend_from_slice(b", ");
        }
        chain.extend_from_slice(hop.value.as_bytes());
        if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(chain)) {
            headers.insert(FORWARDED_FOR, value);
        }
        if headers.contains_key(header::FORWARDED) {
            headers.append(header::FORWARDED, element(hop.address, hop.tls));
        }
    }
    if !trusted || !headers.contains_key(&FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static(if hop.tls { "https" } else { "http" }));
    }
    if (!trusted || !headers.contains_key(&FORWARDED_HOST)) && !host.is_empty() {
        headers.insert(FORWARDED_HOST, host.clone());
    }
}

/// One hop as RFC 7239 writes it.
fn element(peer: SocketAddr, tls: bool) -> HeaderValue {
    let node = match peer.ip().to_canonical() {
        IpAddr::V4(a) => a.to_string(),
        IpAddr::V6(a) => format!("\"[{a}]\""),
    };
    let proto = if tls { "https" } else { "http" };
    HeaderValue::try_from(format!("for={node};proto={proto}")).unwrap_or(HeaderValue::from_static("for=unknown"))
}

/// `X-Forwarded-*`, `X-Real-IP` and `Forwarded` of those who are not trusted, also with `_` for `-`: some servers read both the
/// same. For that, what would be a second length goes from everybody's.
fn remove_claims(headers: &mut HeaderMap, trusted: bool) {
    let claims = |name: &HeaderName| {
        let name = name.as_str().as_bytes();
        let same = |a: &[u8], b: &[u8]| a.iter().zip(b).all(|(a, b)| a == b || (*a == b'_' && *b == b'-'));
        let begins = |word: &[u8]| name.len() >= word.len() && same(name, word);
        let is = |word: &[u8]| name.len() == word.len() && same(name, word);
        match name.first() {
            Some(b'c') => name == b"content_length",
            Some(b't') => name == b"transfer_encoding",
            _ if trusted => false,
            Some(b'x') => begins(b"x-forwarded-") || is(b"x-real-ip"),
            Some(b'f') => is(b"forwarded"),
            _ => false,
        }
    };
    if headers.keys().any(claims) {
        let named: Vec<HeaderName> = headers.keys().filter(|n| claims(n)).cloned().collect();
        for name in named {
            headers.remove(name);
        }
    }
}

/// The member that a cookie names.
pub fn sticky_member(headers: &HeaderMap, cookie: &str) -> Option<u64> {
    let pairs = headers
        .get_all(header::COOKIE)
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b';'));
    for pair in pairs {
        let pair = std::str::from_utf8(pair).ok()?.trim();
        if let Some((name, value)) = pair.split_once('=')
            && name == cookie
        {
            return u64::from_str_radix(value, 16).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_proxies_write_them() {
        for (text, address) in [
            ("192.0.2.1", Some("192.0.2.1")),
            (" 192.0.2.1:80", Some("192.0.2.1")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("[2001:db8::1]:80", Some("2001:db8::1")),
            ("unknown", None),
            ("", None),
        ] {
            assert_eq!(parse_address(text), address.map(|a| a.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn a_quote_is_all_that_names_may_have_and_tokens_not() {
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        let others: Vec<u8> = (0..=255)
            .filter(|b| !token(*b) && HeaderName::from_lowercase(&[*b]).is_ok())
            .collect();
        assert_eq!(others, b"\"");
    }

    #[test]
    fn claims_are_removed_in_every_spelling() {
        let mut headers = HeaderMap::new();
        for name in [
            "x-forwarded-for",
            "x_forwarded_for",
            "x-real_ip",
            "forwarded",
            "x-forwarded-anything",
            "x-other",
            "content_length",
            "content-length",
        ] {
            headers.insert(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static("1"));
        }
        let mut of_trusted = headers.clone();
        remove_claims(&mut of_trusted, true);
        assert_eq!(of_trusted.len(), headers.len() - 1);
        remove_claims(&mut headers, false);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "x-other"]);
    }

    #[test]
    fn hop_by_hop_headers_go_and_the_message_stays() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "x-a, close, Content-Length, Host"),
            ("x-a", "1"),
            ("te", "trailers"),
            ("keep-alive", "1"),
            ("host", "a"),
            ("content-length", "0"),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        strip_hop_by_hop(&mut headers);
        assert_eq!(
            headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(),
            ["host", "content-length"]
        );
    }
}
