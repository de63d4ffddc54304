//! A connection to a member.
//!
//! It has no task of its own: the request that uses it drives it, and while nobody does it lies in its worker's [`Idle`]
//! list. That saves two changes of task for each request. What came in meanwhile, such as the member's close, is seen
//! when it is taken out again, before anything is sent.

use super::request_body::{Progress, RequestBody};
use crate::instance::lock;
use crate::io::Prefixed;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Connection, SendRequest};
use hyper_util::rt::TokioIo;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// Idle connections a worker keeps to one member.
const IDLE_AT_MOST: usize = 4_096;
/// How long it keeps them.
const IDLE_FOR: Duration = Duration::from_secs(30);
/// A request that can't be repeated goes only over a connection that was used this lately: the longer one was idle, the
/// likelier the member is just closing it.
const FRESH_FOR: Duration = Duration::from_secs(1);

type Driver = Connection<TokioIo<Prefixed>, RequestBody>;

pub struct Link {
    /// Nothing once the connection has ended.
    driver: Option<Driver>,
    sender: SendRequest<RequestBody>,
    idle_since: Instant,
    timer: Option<Pin<Box<Sleep>>>,
    /// It has carried a request before.
    pub used: bool,
}

/// Why a request has no answer.
pub enum Unanswered {
    /// An error that gives the request back says that nothing of it was sent.
    Failed(Box<TrySendError<Request<RequestBody>>>),
    TimedOut,
}

impl Link {
    pub async fn open(stream: TcpStream) -> hyper::Result<Box<Self>> {
        let (sender, driver) = hyper::client::conn::http1::Builder::new()
            .handshake(TokioIo::new(Prefixed::new(stream)))
            .await?;
        Ok(Box::new(Self {
            driver: Some(driver),
            sender,
            idle_since: Instant::now(),
            timer: None,
            used: false,
        }))
    }

    /// Sends a request and waits for the head of its answer, for `patience` from when the request's body last moved.
    ///
    /// The timer is the link's, and stays set from one request to the next: it is moved only when a deadline comes nearer or
    /// it has run out, so most requests do not touch the runtime's timers.
    pub async fn exchange(
        &mut self,
        request: Request<RequestBody>,
        now: Instant,
        patience: Duration,
        progress: Option<&Progress>,
    ) -> Result<Response<Incoming>, Unanswered> {
        let mut deadline = tokio::time::Instant::from_std(now) + patience;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        let mut answer = std::pin::pin!(self.sender.try_send_request(request));
        let driver = &mut self.driver;
        let (mut armed, mut seen) = (false, 0);
        poll_fn(|cx| {
            drive(driver, cx);
            if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                return Poll::Ready(answer.map_err(|e| Unanswered::Failed(Box::new(e))));
            }
            loop {
                if timer.is_elapsed() {
                    let now = tokio::time::Instant::now();
                    if now >= deadline {
                        let moved = progress.map_or(0, |p| p.bytes.load(Relaxed));
                        if moved == seen {
                            return Poll::Ready(Err(Unanswered::TimedOut));
                        }
                        seen = moved;
                        deadline = now + patience;
                    }
                    armed = false;
                }
                if timer.is_elapsed() || timer.deadline() > deadline {
                    timer.as_mut().reset(deadline);
                }
                if armed || timer.as_mut().poll(cx).is_pending() {
                    armed = true;
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    /// Moves bytes in both directions, as far as they go.
    pub fn drive(&mut self, cx: &mut Context<'_>) {
        drive(&mut self.driver, cx);
    }

    /// Whether the last answer is complete and another request may be sent.
    pub fn is_ready(&self) -> bool {
        self.driver.is_some() && self.sender.is_ready()
    }

    pub fn has_ended(&self) -> bool {
        self.driver.is_none() && self.sender.is_closed()
    }

    /// Gives the connection a task of its own, where its request goes on while its answer stands still, or as it is to
    /// become a tunnel. The link must live as long as the answer is read.
    pub fn detach(&mut self) {
        if let Some(driver) = self.driver.take() {
            tokio::spawn(async move {
                // How it ended is seen by who reads the answer.
                let _ = driver.with_upgrades().await;
            });
        }
    }

    /// Whether the member has neither closed it nor said anything unasked.
    fn still_good(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        self.is_ready()
    }
}

fn drive(driver: &mut Option<Driver>, cx: &mut Context<'_>) {
    if let Some(connection) = driver
        && let Poll::Ready(_ended) = Pin::new(connection).poll(cx)
    {
        // Who waits for the answer is told by it.
        *driver = None;
    }
}

/// One worker's idle connections to one member; only that worker takes the lock.
#[derive(Default)]
#[expect(clippy::vec_box, reason = "a link goes in and out with every request; moving a pointer is cheaper")]
pub struct Idle(Mutex<Vec<Box<Link>>>);

impl Idle {
    /// The connection that was used last, if one is still good.
    pub fn take(&self, repeatable: bool, now: Instant) -> Option<Box<Link>> {
        let mut links = lock(&self.0);
        while let Some(mut link) = links.pop() {
            let idle = now.saturating_duration_since(link.idle_since);
            if idle > IDLE_FOR || (!repeatable && idle > FRESH_FOR) {
                // Those below are idle for even longer.
                if idle > IDLE_FOR {
                    links.clear();
                } else {
                    links.push(link);
                }
                return None;
            }
            if link.still_good() {
                return Some(link);
            }
        }
        None
    }

    pub fn put(&self, mut link: Box<Link>, now: Instant) {
        link.used = true;
        link.idle_since = now;
        let mut links = lock(&self.0);
        if links.len() < IDLE_AT_MOST {
            links.push(link);
        }
    }

    /// Drops those that ended or were idle for too long. Answers whether any are left.
    pub fn sweep(&self) -> bool {
        let mut links = lock(&self.0);
        links.retain_mut(|link| link.idle_since.elapsed() <= IDLE_FOR && link.still_good());
        if links.is_empty() {
            links.shrink_to_fit();
        }
        !links.is_empty()
    }
}
