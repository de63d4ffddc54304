//! What surrounds every request: its id, the caller's address, the deadline, panics, the log line, and the body of every
//! refusal.

use super::error::ApiError;
use super::extract::{ClientAddress, RequestId};
use crate::app::App;
use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http::{HeaderName, HeaderValue, StatusCode, header};
use nm_link::trace;
use nm_types::envelope::ErrorBody;
use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};
use tracing::Instrument;

/// The longest an ordinary request may take. Creates wait up to 30 s for their operation and then answer 202.
pub const DEADLINE: Duration = Duration::from_secs(40);
/// The most a request's line and headers may hold together.
pub const HEAD_LIMIT: usize = 16 * 1024;

/// The connection's peer, put into each request by the server.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

pub async fn frame(app: App, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id();
    if head_size(&request) > HEAD_LIMIT {
        let refusal = ApiError::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "head_too_large",
            "a request's line and headers have at most 16 KiB together",
        );
        app.metrics.request(request.method(), refusal.status, started.elapsed());
        return finish(refusal.into_response(), &id, request.uri().path());
    }
    let peer = request.extensions().get::<Peer>().map(|p| p.0.ip());
    let address = peer.map(|p| client_address(p, request.headers(), &app.config.trusted_proxies));
    request.extensions_mut().insert(RequestId(id.clone()));
    if let Some(address) = address {
        request.extensions_mut().insert(ClientAddress(address));
    }
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let span = tracing::info_span!("request", request.id = %id, http.method = %method, http.path = %path);
    let route = request.extensions().get::<MatchedPath>().cloned();
    let traced = trace::request(&method, route.as_ref().map(MatchedPath::as_str), &id, request.headers());
    // What changes something goes on to its end also when the caller hangs up: half a change helps nobody.
    let run = AssertUnwindSafe(next.run(request))
        .catch_unwind()
        .instrument(span.clone())
        .instrument(traced.clone());
    let done = if method.is_safe() {
        run.await.ok()
    } else {
        tokio::spawn(run).await.ok().and_then(Result::ok)
    };
    let response = done.unwrap_or_else(|| {
        // The panic hook has logged where; the caller gets what any fault of ours gives.
        tracing::error!(parent: &span, "a handler panicked");
        ApiError::internal().into_response()
    });
    let response = finish(response, &id, &path);
    trace::answered(&traced, response.status());
    let took = started.elapsed();
    app.metrics.request(&method, response.status(), took);
    tracing::debug!(parent: &span, http.status = response.status().as_u16(), took_ms = took.as_secs_f64() * 1e3, "answered");
    response
}

/// What the request's line and headers took, as HTTP/1.1 writes them.
fn head_size(request: &Request) -> usize {
    let line = request.method().as_str().len() + request.uri().path().len() + request.uri().query().map_or(0, |q| q.len() + 1) + 12;
    let headers = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    line + headers.sum::<usize>()
}

/// Puts a deadline around one handler.
pub async fn deadline(request: Request, next: Next) -> Response {
    match tokio::time::timeout(DEADLINE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::new(
            StatusCode::GATEWAY_TIMEOUT,
            "timeout",
            "it took longer than 40 seconds and was given up; what it began may still end well",
        )
        .into_response(),
    }
}

fn request_id() -> String {
    let mut bytes = [0u8; 12];
    match getrandom::fill(&mut bytes) {
        Ok(()) => format!("req_{}", hex::encode(bytes)),
        // An id serves to find a line in the log; without randomness the time does.
        Err(_) => format!("req_{:?}", Instant::now()),
    }
}

/// The address a request comes from. Forwarding headers count only where the peer is a proxy we were told to trust; the
/// last address that is not one of them is the caller's.
fn client_address(peer: IpAddr, headers: &http::HeaderMap, trusted: &[Network]) -> IpAddr {
    let is_trusted = |ip: IpAddr| trusted.iter().any(|n| n.contains(ip));
    if !is_trusted(peer) {
        return peer;
    }
    let forwarded: Vec<IpAddr> = headers
        .get_all("x-forwarded-for")
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|a| a.trim().parse().ok())
        .collect();
    forwarded.into_iter().rev().find(|ip| !is_trusted(*ip)).unwrap_or(peer)
}

/// A block of addresses: `10.0.0.0/8`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl std::str::FromStr for Network {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is not an address or a block such as 10.0.0.0/8");
        let (address, bits) = match text.split_once('/') {
            Some((a, b)) => (a.parse::<IpAddr>().map_err(|_| bad())?, Some(b.parse::<u8>().map_err(|_| bad())?)),
            None => (text.parse::<IpAddr>().map_err(|_| bad())?, None),
        };
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        if bits > most { Err(bad()) } else { Ok(Self { address, bits }) }
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl Network {
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address, ip) {
            (IpAddr::V4(a), IpAddr::V4(b)) => self.bits == 0 || (u32::from(a) ^ u32::from(b)) >> (32 - self.bits) == 0,
            (IpAddr::V6(a), IpAddr::V6(b)) => self.bits == 0 || (u128::from(a) ^ u128::from(b)) >> (128 - self.bits) == 0,
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

fn finish(mut response: Response, id: &str, path: &str) -> Response {
    let refusal = response.extensions_mut().remove::<ApiError>();
    let status = response.status();
    let is_json = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|v| v.as_bytes().starts_with(b"application/json"));
    let refusal = match refusal {
        Some(refusal) => Some(refusal),
        // What the framework refused by itself: 404, 405, 408, 413 and their like.
        None if (status.is_client_error() || status.is_server_error()) && !is_json => Some(framework_refusal(status, path)),
        None => None,
    };
    if let Some(refusal) = refusal {
        let allow = response.headers_mut().remove(header::ALLOW);
        response = refusal_body(refusal, id);
        if let Some(allow) = allow {
            response.headers_mut().insert(header::ALLOW, allow);
        }
    }
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(id) {
        headers.insert(HeaderName::from_static("x-request-id"), value);
    }
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        (
            "content-security-policy",
            "default-src 'self'; connect-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
        ),
    ] {
        headers
            .entry(HeaderName::from_static(name))
            .or_insert(HeaderValue::from_static(value));
    }
    if path.starts_with("/api/") {
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    }
    response
}

fn framework_refusal(status: StatusCode, path: &str) -> ApiError {
    let shown: String = path.chars().take(200).collect();
    match status {
        StatusCode::NOT_FOUND => ApiError::new(
            status,
            "not_found",
            format!("there is nothing at {shown}; see /docs for what there is"),
        ),
        StatusCode::METHOD_NOT_ALLOWED => ApiError::new(
            status,
            "method_not_allowed",
            "this path does not take that method; the Allow header says which it takes",
        ),
        _ => ApiError::new(
            status,
            "refused",
            status.canonical_reason().unwrap_or("refused").to_ascii_lowercase(),
        ),
    }
}

fn refusal_body(refusal: ApiError, id: &str) -> Response {
    let body = ErrorBody {
        success: false,
        error: refusal.message,
        code: refusal.code,
        request_id: id.to_owned(),
        details: refusal.details,
        operation_id: refusal.operation.map(String::from),
        logs: refusal.logs,
    };
    let bytes = serde_json::to_vec(&body).unwrap_or_default();
    let mut response = super::reply::json(refusal.status, bytes);
    if let Some(after) = refusal.retry_after {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
    }
    if refusal.status == StatusCode::UNAUTHORIZED {
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarded_addresses_count_only_from_trusted_proxies() {
        let trusted: Vec<Network> = vec!["10.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()];
        let mut headers = http::HeaderMap::new();
        headers.insert("x-forwarded-for", HeaderValue::from_static("6.6.6.6, 203.0.113.7, 10.1.1.1"));
        let at = |peer: &str, h: &http::HeaderMap| client_address(peer.parse().unwrap(), h, &trusted).to_string();
        assert_eq!(at("192.0.2.1", &headers), "192.0.2.1");
        assert_eq!(at("10.9.9.9", &headers), "203.0.113.7");
        assert_eq!(at("10.9.9.9", &http::HeaderMap::new()), "10.9.9.9");
        assert!("10.0.0.0/33".parse::<Network>().is_err());
    }
}
