//! An answer's body on its way to a client: counted, timed, and at its end the member's connection goes back to the idle
//! ones.

use super::connection::Client;
use super::link::Link;
use super::request_body::Sent;
use super::wire::{self, ReadError, Wire};
use crate::access_log::Line;
use crate::cluster::Cluster;
use crate::instance::wall_clock;
use crate::member::InFlight;
use crate::tcp::Scratch;
use bytes::Bytes;
use hyper::body::{self, Body, Frame, SizeHint};
use nm_types::Timestamp;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;
use tokio::time::Sleep;

pub struct ResponseBody {
    source: Source,
    /// Ends the exchange when the body is dropped.
    end: Exchange,
}

enum Source {
    /// Our own words.
    Own(Option<Bytes>),
    Member(FromMember),
}

/// An answer's body as its member sends it.
pub enum Incoming {
    Plain(wire::Body),
    Hyper(body::Incoming, Option<Box<Link>>),
}

pub struct FromMember {
    incoming: Incoming,
    in_flight: InFlight,
    cluster: Arc<Cluster>,
    /// Of the request's body.
    sent: Sent,
    /// The connection is this client's alone.
    private: bool,
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
    bytes: u64,
    complete: bool,
}

/// One request and its answer, from the head of the one to the end of the other.
pub struct Exchange {
    pub client: Arc<Client>,
    pub started: Instant,
    log: Option<Box<LogEntry>>,
    answered: bool,
}

struct LogEntry {
    time: Timestamp,
    client: IpAddr,
    method: http::Method,
    host: String,
    path: String,
    status: u16,
    cluster: Option<String>,
    member: Option<String>,
    bytes_in: u64,
    bytes_out: u64,
    complete: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    #[error("the member did not go on with its answer in time")]
    Stalled,
    #[error("read the member's answer")]
    Member(#[source] ReadError),
    #[error("read the member's answer")]
    Hyper(#[source] hyper::Error),
}

impl Exchange {
    pub fn begin(client: Arc<Client>) -> Self {
        client.begin();
        Self {
            client,
            started: Instant::now(),
            log: None,
            answered: false,
        }
    }

    /// Remembers the request for the access log.
    pub fn log(&mut self, client: IpAddr, method: &http::Method, host: &str, path: &str) {
        self.log = Some(Box::new(LogEntry {
            time: wall_clock(),
            client,
            method: method.clone(),
            host: host.to_owned(),
            path: path.to_owned(),
            status: 0,
            cluster: None,
            member: None,
            bytes_in: 0,
            bytes_out: 0,
            complete: true,
        }));
    }

    pub fn log_status(&mut self, status: u16) {
        if let Some(log) = &mut self.log {
            log.status = status;
        }
    }

    pub fn log_cluster(&mut self, cluster: &str) {
        if let Some(log) = &mut self.log {
            log.cluster = Some(cluster.to_owned());
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.client.end(self.answered);
        if let Some(log) = &self.log {
            self.client.instance().access_log.write(&Line {
                time: log.time,
                listener: &self.client.listener.id,
                client: log.client,
                method: Some(log.method.as_str()),
                host: Some(&log.host),
                path: Some(&log.path),
                status: Some(log.status),
                cluster: log.cluster.as_deref(),
                member: log.member.as_deref(),
                bytes_in: log.bytes_in,
                bytes_out: log.bytes_out,
                duration_ms: self.started.elapsed().as_secs_f64() * 1e3,
                complete: log.complete,
            });
        }
    }
}

impl ResponseBody {
    pub fn own(text: impl Into<Bytes>, mut end: Exchange) -> Self {
        let text = text.into();
        end.answered = true;
        if let Some(log) = &mut end.log {
            log.bytes_out = text.len() as u64;
        }
        Self {
            source: Source::Own(Some(text).filter(|t| !t.is_empty())),
            end,
        }
    }

    pub fn member(body: FromMember, mut end: Exchange) -> Self {
        end.answered = true;
        Self {
            source: Source::Member(body),
            end,
        }
    }
}

impl FromMember {
    pub fn new(incoming: Incoming, in_flight: InFlight, cluster: Arc<Cluster>, sent: Sent, worker: usize, now: Instant) -> Self {
        let private = cluster.conf.send_proxy_protocol.is_some();
        let mut body = Self {
            incoming,
            in_flight,
            cluster,
            sent,
            private,
            timer: None,
            waiting: false,
            bytes: 0,
            complete: false,
        };
        body.give_back(worker, now);
        body.complete = body.incoming.is_end_stream();
        body
    }

    /// Gives the connection back as soon as the member has said everything, though the client may not have heard it yet.
    fn give_back(&mut self, worker: usize, now: Instant) {
        if let Some(wire) = self.incoming.give_back()
            && !self.private
        {
            self.in_flight.member().shards[worker].idle.put(wire, now);
        }
    }

    fn poll_frame(&mut self, client: &Client, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let Poll::Ready(data) = self.incoming.poll_data(client.scratch(), cx) else {
            ready!(self.poll_timer(cx));
            return Poll::Ready(Some(Err(AnswerError::Stalled)));
        };
        self.waiting = false;
        if let Some(Ok(data)) = &data {
            self.bytes += data.len() as u64;
        }
        if data.is_none() || (matches!(data, Some(Ok(_))) && self.incoming.is_end_stream()) {
            self.complete = true;
            self.incoming.drive(cx);
            self.give_back(client.worker(), Instant::now());
        }
        Poll::Ready(data.map(|data| data.map(Frame::data)))
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.waiting {
            self.waiting = true;
            let at = tokio::time::Instant::now() + self.cluster.response_timeout;
            match &mut self.timer {
                Some(timer) => timer.as_mut().reset(at),
                None => self.timer = Some(Box::pin(tokio::time::sleep_until(at))),
            }
        }
        match &mut self.timer {
            Some(timer) => timer.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let this = &mut *self;
        match &mut this.source {
            Source::Own(text) => Poll::Ready(text.take().map(|t| Ok(Frame::data(t)))),
            Source::Member(body) => {
                let frame = body.poll_frame(&this.end.client, cx);
                this.end.client.pulled.note(&frame);
                frame
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(text) => text.is_none(),
            Source::Member(body) => body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(text) => SizeHint::with_exact(text.as_ref().map_or(0, |t| t.len() as u64)),
            Source::Member(body) => body.incoming.size_hint(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        let Source::Member(body) = &mut self.source else { return };
        let worker = self.end.client.worker();
        let bytes_in = body.sent.bytes();
        let (member, cluster) = (body.in_flight.member(), &body.cluster.state.stats[worker]);
        let shard = &member.shards[worker].stats;
        shard.bytes(bytes_in, body.bytes);
        cluster.bytes(bytes_in, body.bytes);
        // A client that went away is no failure of the member's.
        if !body.complete && body.failed() {
            shard.broke_off();
            cluster.broke_off();
        }
        if let Some(log) = &mut self.end.log {
            log.cluster = Some(body.cluster.conf.id.clone());
            log.member = Some(member.id.to_string());
            (log.bytes_in, log.bytes_out, log.complete) = (bytes_in, body.bytes, body.complete);
        }
    }
}

impl FromMember {
    /// Whether the member, not the client, broke it off.
    fn failed(&self) -> bool {
        self.timer.as_ref().is_some_and(|t| t.is_elapsed()) || self.incoming.has_ended()
    }
}

impl Incoming {
    fn poll_data(&mut self, scratch: &Scratch, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, AnswerError>>> {
        self.drive(cx);
        match self {
            Self::Plain(body) => body
                .poll(cx, scratch)
                .map(|data| data.map(|data| data.map_err(AnswerError::Member))),
            Self::Hyper(body, _) => loop {
                return Poll::Ready(match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                    None => None,
                    Some(Err(error)) => Some(Err(AnswerError::Hyper(error))),
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => Some(Ok(data)),
                        // Trailers belong to one hop.
                        Err(_trailers) => continue,
                    },
                });
            },
        }
    }

    /// Moves bytes in both directions, as far as they go.
    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Self::Hyper(_, Some(link)) = self {
            link.drive(cx);
        }
    }

    /// The connection, once the member has said everything.
    fn give_back(&mut self) -> Option<Box<Wire>> {
        match self {
            Self::Plain(body) => body.give_back(),
            Self::Hyper(_, link) => link.take_if(|link| link.is_ready())?.into_wire(),
        }
    }

    fn has_ended(&self) -> bool {
        match self {
            Self::Plain(body) => body.broke,
            Self::Hyper(_, link) => link.as_ref().is_some_and(|link| link.has_ended()),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Plain(body) => body.framing().is_complete(),
            Self::Hyper(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Plain(body) => body.framing().size_hint(),
            Self::Hyper(body, _) => body.size_hint(),
        }
    }
}
