//! A connection to a member for a request with a body, or one that asks for an upgrade: both directions are hyper's.
//!
//! The request drives it. With its answer complete it is a [`Wire`] again, for whatever comes next.

use super::request_body::{Progress, RequestBody};
use super::wire::{Patience, Wire};
use crate::io::Prefixed;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Connection, SendRequest};
use hyper_util::rt::TokioIo;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

type Driver = Connection<TokioIo<Prefixed>, RequestBody>;

pub struct Link {
    /// Nothing once the connection has ended.
    driver: Option<Driver>,
    sender: SendRequest<RequestBody>,
    timer: Patience,
}

/// Why a request has no answer.
pub enum Unanswered {
    /// An error that gives the request back says that nothing of it was sent.
    Failed(Box<TrySendError<Request<RequestBody>>>),
    TimedOut,
}

impl Link {
    pub async fn open(wire: Wire) -> hyper::Result<Box<Self>> {
        let (stream, timer) = wire.into_parts();
        let io = TokioIo::new(Prefixed::new(stream));
        let (sender, driver) = hyper::client::conn::http1::Builder::new().handshake(io).await?;
        let driver = Some(driver);
        Ok(Box::new(Self { driver, sender, timer }))
    }

    /// Sends a request and waits for the head of its answer, for `patience` from when the request's body last moved.
    pub async fn exchange(
        &mut self,
        request: Request<RequestBody>,
        now: Instant,
        patience: Duration,
        progress: Option<&Progress>,
    ) -> Result<Response<Incoming>, Unanswered> {
        let mut deadline = tokio::time::Instant::from_std(now) + patience;
        let mut answer = std::pin::pin!(self.sender.try_send_request(request));
        let (driver, timer) = (&mut self.driver, &mut self.timer);
        let (mut armed, mut seen) = (false, 0);
        poll_fn(|cx| {
            drive(driver, cx);
            if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                return Poll::Ready(answer.map_err(|e| Unanswered::Failed(Box::new(e))));
            }
            loop {
                ready!(timer.poll(deadline, &mut armed, cx));
                let moved = progress.map_or(0, |p| p.bytes.load(Relaxed));
                if moved == seen {
                    return Poll::Ready(Err(Unanswered::TimedOut));
                }
                seen = moved;
                deadline = tokio::time::Instant::now() + patience;
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

    /// The connection itself, if nothing was read that nobody asked for.
    pub fn into_wire(self) -> Option<Box<Wire>> {
        let parts = self.driver?.into_parts();
        let (stream, ahead) = parts.io.into_inner().into_parts();
        (parts.read_buf.is_empty() && ahead.is_empty()).then(|| Wire::new(stream, self.timer))
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
