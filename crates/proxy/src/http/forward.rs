//! Tries at members until one answers.
//!
//! A try is repeated at another member when nothing of the request was sent, or when the method allows it (RFC 9110,
//! 9.2.2) and there is no body. A connection that was used before may have been closed by the member at the same moment;
//! that alone says nothing against the member, which is tried once more over a new one.

use super::connection::Client;
use super::link::{Link, Unanswered};
use super::request_body::{Progress, RequestBody};
use crate::balance::Wish;
use crate::cluster::Cluster;
use crate::dial;
use crate::member::{InFlight, Member, Trouble};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
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

/// A member's answer, and what it keeps busy.
pub struct Answer {
    pub response: Response<Incoming>,
    pub link: Box<Link>,
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
    Unsent(Box<Request<RequestBody>>, Trouble, String),
    /// It may have been carried out.
    Sent(Failure, String),
}

pub async fn forward(task: &Task<'_>, request: Request<RequestBody>, mut wish: Wish) -> Result<Answer, Failure> {
    let cluster = task.cluster;
    let instance = task.client.instance();
    let repeatable = request.body().is_empty() && is_idempotent(request.method());
    let mut request = request;
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
            let link = match pooled.take() {
                Some(link) => Ok(link),
                None => {
                    let opened = Box::pin(open(task, member)).await;
                    now = Instant::now();
                    opened
                }
            };
            let missed = match link {
                Err(why) => Miss::Unsent(Box::new(request), Trouble::Connect, why),
                Ok(mut link) => {
                    let spare = repeatable.then(|| copy(&request));
                    match send(task, &mut link, request, member, now).await {
                        Ok(response) => {
                            return Ok(Answer {
                                response,
                                link,
                                in_flight,
                                seat,
                            });
                        }
                        Err(Miss::Sent(failure, why)) => {
                            if task.progress.is_some_and(|p| p.client_failed()) {
                                return Err(failure);
                            }
                            match spare {
                                // Another member would hang on the same request; who asks has waited long enough.
                                Some(spare) if failure != Failure::TimedOut => {
                                    last = failure;
                                    Miss::Unsent(Box::new(spare), Trouble::Broken, why)
                                }
                                Some(_) | None => Miss::Sent(failure, why),
                            }
                        }
                        Err(unsent) => unsent,
                    }
                }
            };
            match missed {
                Miss::Unsent(again, ..) if was_used => request = *again,
                Miss::Unsent(again, trouble, why) => {
                    request = *again;
                    break (trouble, why);
                }
                Miss::Sent(failure, why) => {
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
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

async fn open(task: &Task<'_>, member: &Member) -> Result<Box<Link>, String> {
    let header = task
        .cluster
        .conf
        .send_proxy_protocol
        .map(|version| (version, task.client.address, task.client.local));
    let stream = dial::dial(member.address, task.cluster.connect_timeout, header).await?;
    Link::open(stream).await.map_err(|e| format!("can't speak HTTP to it: {e}"))
}

async fn send(
    task: &Task<'_>,
    link: &mut Link,
    mut request: Request<RequestBody>,
    member: &Member,
    now: Instant,
) -> Result<Response<Incoming>, Miss> {
    if !request.headers().contains_key(header::HOST)
        && let Ok(host) = HeaderValue::try_from(member.address.to_string())
    {
        request.headers_mut().insert(header::HOST, host);
    }
    if task.upgrade {
        link.detach();
    }
    let patience = task.cluster.response_timeout;
    match link.exchange(request, now, patience, task.progress.map(|p| &**p)).await {
        Ok(response) => {
            if task.progress.is_some_and(|p| !p.done.load(Relaxed)) {
                // The answer came before the request was complete. Both go on by themselves.
                link.detach();
            }
            Ok(response)
        }
        Err(Unanswered::Failed(mut error)) => {
            let reason = chain(error.error());
            match error.take_message() {
                Some(request) => Err(Miss::Unsent(Box::new(request), Trouble::Broken, reason)),
                None => Err(Miss::Sent(client_failure(task).unwrap_or(Failure::Broken), reason)),
            }
        }
        Err(Unanswered::TimedOut) => {
            let reason = format!("no answer within {} ms", patience.as_millis());
            Err(Miss::Sent(client_failure(task).unwrap_or(Failure::TimedOut), reason))
        }
    }
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
