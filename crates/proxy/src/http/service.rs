//! One request: judged, routed, sent on, answered.

use super::connection::{Client, MAX_HEADERS};
use super::forward::{self, Failure, Outgoing, Task};
use super::headers::{self, Malformed};
use super::request_body::Sent;
use super::response_body::{Exchange, FromMember, ResponseBody};
use super::tunnel;
use crate::balance::{Wish, hash_address};
use crate::cluster::Cluster;
use crate::listener::{Rules, Target, without_port};
use crate::member::{InFlight, Trouble};
use futures_util::future::{Either, ready};
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::{self, Body};
use hyper::upgrade::OnUpgrade;
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

const ACME: &str = "/.well-known/acme-challenge/";

/// Why a request is not sent on.
enum Refusal {
    Malformed(Malformed),
    Method,
    NoRoute,
    TooLarge,
    Headers,
}

pub fn serve(
    client: &Arc<Client>,
    request: Request<body::Incoming>,
) -> impl Future<Output = Result<Response<ResponseBody>, Infallible>> + use<> {
    if request.body().is_end_stream() {
        return Either::Left(judge_and_answer(client, request));
    }
    // What came of its body is handed over after this call, and is there when the answer is first asked for.
    let client = client.clone();
    Either::Right(Box::pin(async move { judge_and_answer(&client, request).await }))
}

/// Judges a request at once, so that nothing of what was read is held while its answer is awaited.
fn judge_and_answer(
    client: &Arc<Client>,
    request: Request<body::Incoming>,
) -> impl Future<Output = Result<Response<ResponseBody>, Infallible>> + use<> {
    let exchange = Exchange::begin(client.clone());
    let rules = client.listener.rules.load_full();
    match judge(client, &rules, exchange, request) {
        Ok((judged, exchange)) => Either::Left(answer(judged, exchange, rules)),
        Err(refused) => Either::Right(ready(Ok(last_of_all(client, refused)))),
    }
}

/// Tells the client where no other request is taken on this connection.
fn last_of_all(client: &Client, mut response: Response<ResponseBody>) -> Response<ResponseBody> {
    if !client.is_http2() && client.listener.closing.load(Relaxed) && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// A request that is to be sent on. It holds no more of what was read than is needed while its answer is awaited.
struct Judged {
    outgoing: Outgoing,
    cluster: Arc<Cluster>,
    wish: Wish,
    on_upgrade: Option<OnUpgrade>,
    sent: Sent,
}

/// Judges and routes a request, or answers it.
#[expect(
    clippy::result_large_err,
    reason = "an answer is moved once either way, and a box would be one more allocation"
)]
fn judge(
    client: &Client,
    rules: &Rules,
    mut exchange: Exchange,
    request: Request<body::Incoming>,
) -> Result<(Judged, Exchange), Response<ResponseBody>> {
    let (mut parts, body) = request.into_parts();
    if client.is_http2() {
        headers::join_cookies(&mut parts.headers);
        if parts.headers.len() > MAX_HEADERS {
            return Err(refuse(Refusal::Headers, exchange));
        }
    }
    let judged = headers::judge(&mut parts);
    let client_ip = headers::client_address(client.address.ip(), &parts.headers, rules);
    let host = judged.as_ref().ok().and_then(|h| h.to_str().ok()).unwrap_or_default();
    if rules.access_log {
        exchange.log(client_ip, &parts.method, host, parts.uri.path());
    }
    let host_value = match judged {
        Ok(ref host) => host.clone(),
        Err(why) => return Err(refuse(Refusal::Malformed(why), exchange)),
    };
    if matches!(parts.method, Method::CONNECT | Method::TRACE) {
        return Err(refuse(Refusal::Method, exchange));
    }
    if let Some(token) = parts.uri.path().strip_prefix(ACME)
        && let Some(authorization) = rules.acme.get(token)
    {
        return Err(own(StatusCode::OK, authorization.clone(), exchange));
    }
    if let Some(port) = rules.redirect_port {
        return Err(redirect(host, port, &parts.uri, exchange));
    }
    let Target::Http(routes) = &rules.target else {
        return Err(refuse(Refusal::NoRoute, exchange));
    };
    let path = if parts.uri.path() == "*" { "/" } else { parts.uri.path() };
    let Some(cluster) = routes.find(host, path).cloned() else {
        return Err(refuse(Refusal::NoRoute, exchange));
    };
    let limit = rules.limits.max_request_bytes;
    if limit.is_some_and(|limit| body.size_hint().lower() > limit) {
        exchange.log_cluster(&cluster.conf.id);
        return Err(refuse(Refusal::TooLarge, exchange));
    }

    let mut wish = Wish {
        client: hash_address(client_ip),
        ..Wish::default()
    };
    if let Some(sticky) = &cluster.conf.sticky {
        wish.sticky = headers::sticky_member(&parts.headers, &sticky.cookie);
    }
    let upgrade = headers::asked_upgrade(&parts).filter(|_| body.is_end_stream());
    let on_upgrade = upgrade.as_ref().and_then(|_| parts.extensions.remove::<OnUpgrade>());
    headers::rewrite(&mut parts, &client.hop(), &host_value, rules);
    if on_upgrade.is_some()
        && let Some(upgrade) = upgrade
    {
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(header::UPGRADE, upgrade);
    }
    let (outgoing, sent) = Outgoing::new(parts, body, on_upgrade.is_some(), client.is_http2(), limit, rules.body_idle);
    let judged = Judged {
        outgoing,
        cluster,
        wish,
        on_upgrade,
        sent,
    };
    Ok((judged, exchange))
}

/// What it is given is used where it lies: an `async fn` would have room for it twice.
fn answer(
    judged: Judged,
    mut exchange: Exchange,
    rules: Arc<Rules>,
) -> impl Future<Output = Result<Response<ResponseBody>, Infallible>> + use<> {
    let Judged {
        outgoing,
        cluster,
        wish,
        on_upgrade,
        sent,
    } = judged;
    let had_sticky = wish.sticky;
    async move {
        let task = Task {
            client: &exchange.client,
            cluster: &cluster,
            upgrade: on_upgrade.is_some(),
            progress: sent.progress(),
            started: exchange.started,
        };
        let answer = match forward::forward(&task, outgoing, wish).await {
            Ok(answer) => answer,
            Err(failure) => {
                let client = exchange.client.clone();
                return Ok(last_of_all(&client, fail(failure, &cluster, exchange)));
            }
        };
        let client = exchange.client.clone();
        let now = Instant::now();
        let took = now.saturating_duration_since(exchange.started);
        let status = answer.response.status();
        let failed = status.is_server_error();
        let worker = client.worker();
        cluster.state.stats[worker].request(took, failed);
        let seat = &cluster.seats[answer.seat];
        seat.member.shards[worker].stats.request(took, failed);
        exchange.log_status(status.as_u16());
        note_health(&answer.in_flight, status, &cluster, &client);
        let (mut head, incoming) = answer.response.into_parts();
        if status == StatusCode::SWITCHING_PROTOCOLS {
            let response = Response::from_parts(head, incoming);
            let switched = tunnel::switch(response, on_upgrade, answer.in_flight, cluster, exchange, &rules);
            return Ok(last_of_all(&client, switched));
        }
        if head.headers.contains_key(header::TRANSFER_ENCODING) {
            // It counts, and a length beside it is another one (RFC 9112, 6.3).
            head.headers.remove(header::CONTENT_LENGTH);
        }
        headers::strip_hop_by_hop(&mut head.headers);
        head.version = Version::HTTP_11;
        if cluster.conf.sticky.is_some() && had_sticky != Some(seat.member.hash) {
            set_cookie(&mut head.headers, seat.cookie.as_ref(), client.tls);
        }
        let body = FromMember::new(incoming, answer.in_flight, cluster, sent, worker, now);
        let response = Response::from_parts(head, ResponseBody::member(body, exchange));
        Ok(last_of_all(&client, response))
    }
}

fn note_health(in_flight: &InFlight, status: StatusCode, cluster: &Cluster, client: &Client) {
    let member = in_flight.member();
    if status.is_server_error() && cluster.conf.ejection.server_errors > 0 {
        let reason = format!("{} answers in a row were 500 to 599", cluster.conf.ejection.server_errors);
        member.failed(Trouble::ServerError, &reason, cluster, client.instance());
    } else {
        member.succeeded();
    }
}

fn set_cookie(headers: &mut http::HeaderMap, cookie: Option<&HeaderValue>, tls: bool) {
    let Some(cookie) = cookie else { return };
    let secure = tls.then(|| HeaderValue::from_maybe_shared([cookie.as_bytes(), b"; Secure"].concat()).ok());
    headers.append(header::SET_COOKIE, secure.flatten().unwrap_or_else(|| cookie.clone()));
}

/// A request that no member answered.
fn fail(failure: Failure, cluster: &Arc<Cluster>, mut exchange: Exchange) -> Response<ResponseBody> {
    let client = exchange.client.clone();
    exchange.log_cluster(&cluster.conf.id);
    let status = failure.status();
    if status.is_server_error() {
        cluster.state.stats[client.worker()].request(exchange.started.elapsed(), true);
    }
    let mut response = own(status, format!("{failure}\n"), exchange);
    let headers = response.headers_mut();
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_after(cluster)));
    }
    if status.is_client_error() {
        // The rest of its request is not waited for.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Seconds until a member may be back: a check's interval, or as long as the last one stays ejected.
fn retry_after(cluster: &Cluster) -> u32 {
    cluster
        .conf
        .health_check
        .as_ref()
        .map_or(1, |check| check.interval_ms.div_ceil(1_000))
}

fn refuse(refusal: Refusal, exchange: Exchange) -> Response<ResponseBody> {
    let (status, text) = match refusal {
        Refusal::Malformed(why) => (StatusCode::BAD_REQUEST, format!("{why}\n")),
        Refusal::Method => (StatusCode::METHOD_NOT_ALLOWED, "this method is not passed on\n".to_owned()),
        Refusal::NoRoute => (StatusCode::NOT_FOUND, "nothing is served under this host and path\n".to_owned()),
        Refusal::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "the request is larger than allowed\n".to_owned()),
        Refusal::Headers => (
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "the request has more headers than allowed\n".to_owned(),
        ),
    };
    let http2 = exchange.client.is_http2();
    let mut response = own(status, text, exchange);
    if !http2 && status != StatusCode::NOT_FOUND {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn redirect(host: &str, port: u16, uri: &http::Uri, exchange: Exchange) -> Response<ResponseBody> {
    let name = without_port(host);
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    match HeaderValue::try_from(format!("https://{name}{port}{path}")) {
        Ok(location) if !name.is_empty() => {
            let mut response = own(StatusCode::PERMANENT_REDIRECT, "", exchange);
            response.headers_mut().insert(header::LOCATION, location);
            response
        }
        _ => refuse(Refusal::Malformed(Malformed::Host), exchange),
    }
}

pub fn own(status: StatusCode, text: impl Into<bytes::Bytes>, mut exchange: Exchange) -> Response<ResponseBody> {
    exchange.log_status(status.as_u16());
    let mut response = Response::new(ResponseBody::own(text, exchange));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}
