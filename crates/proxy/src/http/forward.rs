//! Tries at members until one answers.
//!
//! A try is repeated at another member when nothing of the request was sent, or when the method allows it (RFC 9110,
//! 9.2.2) and its body, if any, is at hand. A connection that was used before may have been closed by the member at the same moment;
//! that alone says nothing against the member, which is tried once more over a new one.

use super::connection::Client;
use super::headers;
use super::link::{self, Link};
use super::request_body::{Progress, RequestBody, Sent};
use super::response_body::Incoming;
use super::wire::{Patience, Plain, Unanswered, Wire};
use crate::balance::Wish;
use crate::cluster::Cluster;
use crate::dial;
use crate::member::{InFlight, Member, Trouble};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// What is sent on, for whom, to whom.
pub struct Task<'a> {
    pub client: &'a Arc<Client>,
    pub cluster: &'a Arc<Cluster>,
    pub upgrade: bool,
    pub progress: Option<&'a Arc<Progress>>,
    pub started: Instant,
}

/// A request on its way.
pub enum Outgoing {
    Plain(Plain),
    Whole(Box<Request<RequestBody>>),
}

/// A member's answer, and what it keeps busy.
pub struct Answer {
    pub response: Response<Incoming>,
    pub in_flight: InFlight,
    pub seat: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("no server can take this request now; try again later")]
    NoMember,
    #[error("all servers are busy; try again later")]
    Busy,
    #[error("the server broke off before it answered")]
    Broken,
    #[error("the server did not answer in time")]
    TimedOut,
    #[error("the request is larger than allowed")]
    TooLarge,
    #[error("the request did not go on in time")]
    Stalled,
    #[error("the request broke off")]
    ClientBroke,
}

impl Failure {
    pub fn status(self) -> StatusCode {
        match self {
            Self::NoMember | Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Broken => StatusCode::BAD_GATEWAY,
            Self::TimedOut => StatusCode::GATEWAY_TIMEOUT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Stalled => StatusCode::REQUEST_TIMEOUT,
            Self::ClientBroke => StatusCode::BAD_REQUEST,
        }
    }
}

/// How one try ended without an answer.
enum Miss {
    /// Nothing was sent; here it is again.
    Unsent(Outgoing, Trouble, String),
    /// It may have been carried out. Here it is again where that does no harm.
    Sent(Option<Outgoing>, Failure, String),
}

impl Outgoing {
    /// A request whose headers are as the member is to have them; `upgrade`: it is to become a tunnel.
    pub fn new(
        mut parts: request::Parts,
        body: hyper::body::Incoming,
        upgrade: bool,
        http2: bool,
        limit: Option<u64>,
        idle: Duration,
    ) -> (Self, Sent) {
        let plain = !upgrade && parts.headers.contains_key(header::HOST);
        let ask = plain && !parts.headers.contains_key(header::EXPECT);
        let (body, sent) = RequestBody::new(body, limit, idle, ask);
        let outgoing = match body {
            RequestBody::Here(all) if plain => Self::Plain(Plain::new(&mut parts, &all)),
            body => {
                if !http2 {
                    headers::detach(&mut parts);
                }
                Self::Whole(Box::new(Request::from_parts(parts, body)))
            }
        };
        (outgoing, sent)
    }

    /// Whether it may be sent again though it may have been carried out.
    fn is_repeatable(&self) -> bool {
        match self {
            Self::Plain(request) => is_idempotent(&request.method),
            Self::Whole(request) => request.body().is_empty() && is_idempotent(request.method()),
        }
    }
}

/// What it is given is used where it lies: an `async fn` would have room for it twice.
pub fn forward(task: &Task<'_>, mut request: Outgoing, mut wish: Wish) -> impl Future<Output = Result<Answer, Failure>> {
    let repeatable = request.is_repeatable();
    async move {
        let cluster = task.cluster;
        let instance = task.client.instance();
        let mut last = Failure::NoMember;
        // The first try needs no clock of its own.
        let mut now = task.started;
        while let Some(seat) = cluster.pick(&wish, instance) {
            let member = &cluster.seats[seat].member;
            let mut in_flight = member.begin();
            if cluster.conf.member_limit.is_some() {
                let Some(slot) = Box::pin(cluster.seats[seat].slot()).await else {
                    return Err(Failure::Busy);
                };
                in_flight.hold(slot);
                now = Instant::now();
                if !member.is_up() {
                    // It was lost while others waited for it.
                    continue;
                }
            }
            let mut pooled = member.shards[task.client.worker()]
                .idle
                .take(repeatable, now)
                .filter(|_| cluster.conf.send_proxy_protocol.is_none());
            let (trouble, why) = loop {
                let was_used = pooled.is_some();
                let wire = match pooled.take() {
                    Some(wire) => Ok(wire),
                    None => {
                        let opened = Box::pin(open(task, member)).await;
                        now = Instant::now();
                        opened
                    }
                };
                let sent = match wire {
                    Err(why) => Err(Miss::Unsent(request, Trouble::Connect, why)),
                    Ok(wire) => match request {
                        Outgoing::Plain(request) => send_plain(task, wire, request, repeatable, now).await,
                        Outgoing::Whole(request) => Box::pin(send_whole(task, wire, request, repeatable, member, now)).await,
                    },
                };
                let missed = match sent {
                    Ok(response) => {
                        return Ok(Answer { response, in_flight, seat });
                    }
                    Err(missed) => missed,
                };
                match missed {
                    Miss::Sent(_, failure, _) if task.progress.is_some_and(|p| p.client_failed()) => return Err(failure),
                    Miss::Unsent(again, ..) if was_used => request = again,
                    Miss::Unsent(again, trouble, why) => {
                        request = again;
                        break (trouble, why);
                    }
                    // Another member would hang on the same request; who asks has waited long enough.
                    Miss::Sent(Some(again), failure, why) if failure != Failure::TimedOut => {
                        last = failure;
                        request = again;
                        if !was_used {
                            break (Trouble::Broken, why);
                        }
                    }
                    Miss::Sent(_, failure, why) => {
                        // A connection that was idle may break without the member being ill; one that hangs tells.
                        if !was_used || failure == Failure::TimedOut {
                            give_up_on(task, member, Trouble::Broken, &why);
                        }
                        count_failure(task, member);
                        return Err(failure);
                    }
                }
            };
            now = Instant::now();
            give_up_on(task, member, trouble, &why);
            count_failure(task, member);
            drop(in_flight);
            wish.tried.add(seat);
            if wish.tried.count() > usize::from(cluster.conf.retries) {
                break;
            }
        }
        Err(last)
    }
}

fn give_up_on(task: &Task<'_>, member: &Member, trouble: Trouble, why: &str) {
    member.failed(trouble, why, task.cluster, task.client.instance());
}

fn count_failure(task: &Task<'_>, member: &Member) {
    member.shards[task.client.worker()].stats.request(Duration::ZERO, true);
}

/// RFC 9110, 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE)
}

fn copy(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::Here(Bytes::new()));
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

async fn open(task: &Task<'_>, member: &Member) -> Result<Box<Wire>, String> {
    let header = task
        .cluster
        .conf
        .send_proxy_protocol
        .map(|version| (version, task.client.address, task.client.local));
    let stream = dial::dial(member.address, task.cluster.connect_timeout, header).await?;
    Ok(Wire::new(stream, Patience::default()))
}

/// Sends a request that is at hand in whole.
fn send_plain(
    task: &Task<'_>,
    wire: Box<Wire>,
    request: Plain,
    repeatable: bool,
    now: Instant,
) -> impl Future<Output = Result<Response<Incoming>, Miss>> {
    let patience = task.cluster.response_timeout;
    async move {
        match wire.exchange(&request, now, patience, task.client.scratch()).await {
            Ok(response) => Ok(response.map(Incoming::Plain)),
            Err(Unanswered::Unsent(error)) => Err(Miss::Unsent(Outgoing::Plain(request), Trouble::Broken, chain(&error))),
            Err(Unanswered::Failed(error)) => Err(Miss::Sent(
                repeatable.then_some(Outgoing::Plain(request)),
                Failure::Broken,
                chain(&error),
            )),
            Err(Unanswered::TimedOut) => Err(Miss::Sent(None, Failure::TimedOut, no_answer(patience))),
        }
    }
}

async fn send_whole(
    task: &Task<'_>,
    wire: Box<Wire>,
    mut request: Box<Request<RequestBody>>,
    repeatable: bool,
    member: &Member,
    now: Instant,
) -> Result<Response<Incoming>, Miss> {
    if !request.headers().contains_key(header::HOST)
        && let Ok(host) = HeaderValue::try_from(member.address.to_string())
    {
        request.headers_mut().insert(header::HOST, host);
    }
    let mut link = match Link::open(*wire).await {
        Ok(link) => link,
        Err(error) => {
            let reason = format!("can't speak HTTP to it: {}", chain(&error));
            return Err(Miss::Unsent(Outgoing::Whole(request), Trouble::Connect, reason));
        }
    };
    if task.upgrade {
        link.detach();
    }
    let spare = repeatable.then(|| Outgoing::Whole(Box::new(copy(&request))));
    let patience = task.cluster.response_timeout;
    match link.exchange(*request, now, patience, task.progress.map(|p| &**p)).await {
        Ok(response) => {
            if task.progress.is_some_and(|p| !p.done.load(Relaxed)) {
                // The answer came before the request was complete. Both go on by themselves.
                link.detach();
            }
            Ok(response.map(|body| Incoming::Hyper(body, Some(link))))
        }
        Err(link::Unanswered::Failed(mut error)) => {
            let reason = chain(error.error());
            Err(match error.take_message() {
                Some(request) => Miss::Unsent(Outgoing::Whole(Box::new(request)), Trouble::Broken, reason),
                None => Miss::Sent(spare, client_failure(task).unwrap_or(Failure::Broken), reason),
            })
        }
        Err(link::Unanswered::TimedOut) => {
            let failure = client_failure(task).unwrap_or(Failure::TimedOut);
            Err(Miss::Sent(spare, failure, no_answer(patience)))
        }
    }
}

fn no_answer(patience: Duration) -> String {
    format!("no answer within {} ms", patience.as_millis())
}

fn client_failure(task: &Task<'_>) -> Option<Failure> {
    let progress = task.progress?;
    if progress.too_large.load(Relaxed) {
        Some(Failure::TooLarge)
    } else if progress.stalled.load(Relaxed) {
        Some(Failure::Stalled)
    } else {
        progress.broken.load(Relaxed).then_some(Failure::ClientBroke)
    }
}

/// An error with what led to it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
