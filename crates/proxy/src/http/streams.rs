//! An HTTP/2 connection's streams: each is a task, which is given up when its client does not take the answer.
//!
//! HTTP/1.1 sees that by its connection, which takes no more bytes. A client of HTTP/2 holds back one stream's window and leaves the
//! others open; hyper then waits without an end, and with it the member whose answer it is. What waits for a member has limits of
//! its own, so only the wait for the client is timed here.

use super::connection::Client;
use hyper::rt::Executor;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;
use tokio::time::{Instant, Sleep};

const NOT_ASKED: u8 = 0;
const GAVE: u8 = 1;
const WAITS: u8 = 2;

/// What the body of an answer did while its stream was polled. A connection's streams are polled one after another, by one
/// thread: this is as good as a return value.
#[derive(Default)]
pub struct Pulled(AtomicU8);

impl Pulled {
    /// Takes down what a body answers.
    pub fn note<T>(&self, polled: &Poll<T>) {
        self.0.store(if polled.is_ready() { GAVE } else { WAITS }, Relaxed);
    }
}

/// Runs streams.
#[derive(Clone)]
pub struct Streams {
    client: Arc<Client>,
    patience: Duration,
}

impl Streams {
    pub fn new(client: Arc<Client>, patience: Duration) -> Self {
        Self { client, patience }
    }
}

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
{
    fn execute(&self, stream: F) {
        tokio::spawn(watch(stream, self.client.clone(), self.patience));
    }
}

/// Ends with the stream, or drops it once a piece of its answer has waited for the client for too long; the client is then told
/// by a reset.
async fn watch(stream: impl Future, client: Arc<Client>, patience: Duration) {
    let mut stream = std::pin::pin!(stream);
    let mut timer: Option<Pin<Box<Sleep>>> = None;
    let mut waiting = false;
    poll_fn(|cx| {
        client.pulled.0.store(NOT_ASKED, Relaxed);
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        match client.pulled.0.load(Relaxed) {
            GAVE => {
                let at = Instant::now() + patience;
                match &mut timer {
                    Some(timer) => timer.as_mut().reset(at),
                    None => timer = Some(Box::pin(tokio::time::sleep_until(at))),
                }
                waiting = true;
            }
            WAITS => waiting = false,
            _ => {}
        }
        match &mut timer {
            Some(timer) if waiting => timer.as_mut().poll(cx),
            _ => Poll::Pending,
        }
    })
    .await;
}
