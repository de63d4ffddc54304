//! A request's body on its way to a member: counted, limited, timed.

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// Nothing, or a stream.
pub enum RequestBody {
    Empty,
    Stream(Box<Stream>),
}

pub struct Stream {
    incoming: Incoming,
    progress: Arc<Progress>,
    limit: u64,
    idle: Duration,
    /// Runs while the next piece is awaited.
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
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

impl RequestBody {
    pub fn new(incoming: Incoming, limit: Option<u64>, idle: Duration) -> (Self, Option<Arc<Progress>>) {
        if incoming.is_end_stream() {
            return (Self::Empty, None);
        }
        let progress = Arc::new(Progress::default());
        let stream = Stream {
            incoming,
            progress: progress.clone(),
            limit: limit.unwrap_or(u64::MAX),
            idle,
            timer: None,
            waiting: false,
        };
        (Self::Stream(Box::new(stream)), Some(progress))
    }

    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }
}

impl Stream {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) else {
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
            Self::Empty => Poll::Ready(None),
            Self::Stream(stream) => stream.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream(stream) => stream.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream(stream) => stream.incoming.size_hint(),
        }
    }
}
