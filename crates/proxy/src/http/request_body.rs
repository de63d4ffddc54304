//! A request's body on its way to a member: counted, limited, timed.

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// A body up to this size is held in whole, where it came with its request's head: it can be sent in one piece, and again.
const SMALL: u64 = 16 << 10;

pub enum RequestBody {
    /// All of it.
    Here(Bytes),
    Stream(Box<Stream>),
}

pub struct Stream {
    /// What was read before it was known that more is to come.
    ahead: Option<hyper::Result<Frame<Bytes>>>,
    incoming: Incoming,
    progress: Arc<Progress>,
    limit: u64,
    idle: Duration,
    /// Runs while the next piece is awaited.
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

/// How much of a body was sent on.
pub enum Sent {
    All(u64),
    SoFar(Arc<Progress>),
}

/// How far a body has come, for who sends it.
#[derive(Default)]
pub struct Progress {
    pub bytes: AtomicU64,
    /// All of it was taken.
    pub done: AtomicBool,
    pub too_large: AtomicBool,
    pub stalled: AtomicBool,
    /// The client broke it off, or sent what is no body.
    pub broken: AtomicBool,
}

impl Progress {
    /// Whether the client is to blame for what went wrong.
    pub fn client_failed(&self) -> bool {
        self.too_large.load(Relaxed) || self.stalled.load(Relaxed) || self.broken.load(Relaxed)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the request is larger than allowed")]
    TooLarge,
    #[error("the client did not go on with its request in time")]
    Stalled,
    #[error("read the request's body")]
    Client(#[source] hyper::Error),
}

impl Sent {
    /// Where more may come.
    pub fn progress(&self) -> Option<&Arc<Progress>> {
        match self {
            Self::All(_) => None,
            Self::SoFar(progress) => Some(progress),
        }
    }

    pub fn bytes(&self) -> u64 {
        match self {
            Self::All(bytes) => *bytes,
            Self::SoFar(progress) => progress.bytes.load(Relaxed),
        }
    }
}

impl RequestBody {
    /// `ask`: it may be asked for now. A client that waits for leave to send it is told so by that.
    pub fn new(mut incoming: Incoming, limit: Option<u64>, idle: Duration, ask: bool) -> (Self, Sent) {
        if incoming.is_end_stream() {
            return (Self::Here(Bytes::new()), Sent::All(0));
        }
        let mut ahead = None;
        if ask && incoming.size_hint().exact().is_some_and(|length| length <= SMALL) {
            // Nobody is to be woken: who takes what is still missing says so then.
            let mut cx = Context::from_waker(Waker::noop());
            if let Poll::Ready(frame) = Pin::new(&mut incoming).poll_frame(&mut cx) {
                ahead = frame;
            }
            if incoming.is_end_stream()
                && let Some(Ok(frame)) = &ahead
                && let Some(all) = frame.data_ref()
            {
                return (Self::Here(all.clone()), Sent::All(all.len() as u64));
            }
        }
        let progress = Arc::new(Progress::default());
        let stream = Stream {
            ahead,
            incoming,
            progress: progress.clone(),
            limit: limit.unwrap_or(u64::MAX),
            idle,
            timer: None,
            waiting: false,
        };
        (Self::Stream(Box::new(stream)), Sent::SoFar(progress))
    }

    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Here(all) if all.is_empty())
    }
}

impl Stream {
    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        match self.ahead.take() {
            Some(frame) => Poll::Ready(Some(frame)),
            None => Pin::new(&mut self.incoming).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.is_none() && self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.incoming.size_hint();
        if let Some(Ok(frame)) = &self.ahead
            && let Some(data) = frame.data_ref()
            && let Some(left) = hint.exact()
        {
            hint.set_exact(left + data.len() as u64);
        }
        hint
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            let Poll::Ready(frame) = self.poll_incoming(cx) else {
                if !self.waiting {
                    self.waiting = true;
                    let at = Instant::now() + self.idle;
                    match &mut self.timer {
                        Some(timer) => timer.as_mut().reset(at),
                        None => self.timer = Some(Box::pin(tokio::time::sleep_until(at))),
                    }
                }
                if let Some(timer) = &mut self.timer {
                    ready!(timer.as_mut().poll(cx));
                }
                self.progress.stalled.store(true, Relaxed);
                return Poll::Ready(Some(Err(BodyError::Stalled)));
            };
            self.waiting = false;
            return Poll::Ready(match frame {
                None => {
                    self.progress.done.store(true, Relaxed);
                    None
                }
                Some(Err(e)) => {
                    self.progress.broken.store(true, Relaxed);
                    Some(Err(BodyError::Client(e)))
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        let so_far = self.progress.bytes.load(Relaxed) + data.len() as u64;
                        self.progress.bytes.store(so_far, Relaxed);
                        if so_far > self.limit {
                            self.progress.too_large.store(true, Relaxed);
                            Some(Err(BodyError::TooLarge))
                        } else {
                            if self.incoming.is_end_stream() {
                                self.progress.done.store(true, Relaxed);
                            }
                            Some(Ok(Frame::data(data)))
                        }
                    }
                    // Trailers belong to one hop.
                    Err(_trailers) => continue,
                },
            });
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Here(all) => Poll::Ready(
                Some(std::mem::take(all))
                    .filter(|all| !all.is_empty())
                    .map(|all| Ok(Frame::data(all))),
            ),
            Self::Stream(stream) => stream.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Here(all) => all.is_empty(),
            Self::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Here(all) => SizeHint::with_exact(all.len() as u64),
            Self::Stream(stream) => stream.size_hint(),
        }
    }
}
