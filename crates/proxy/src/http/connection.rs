//! A client's connection: its protocol, its deadlines, its requests one after another or at once.

use super::headers::Hop;
use super::service;
use super::streams::{Pulled, Streams};
use crate::instance::Instance;
use crate::io::{ClientStream, Prefixed};
use crate::listener::{Listener, Rules};
use crate::tcp::Scratch;
use crate::worker::Worker;
use http::HeaderValue;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// HTTP/2's connection preface (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Requests at once on one HTTP/2 connection.
const STREAMS: u32 = 128;
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// Headers of a request or an answer: what hyper takes when it is told nothing. Told any number, it gets memory for so many with
/// each head, which was a tenth of all that a request took of the CPU outside the kernel.
pub const MAX_HEADERS: usize = 100;
/// Requests that an HTTP/2 client may take back before their answers begin, where they are more than half of its requests. Who
/// leaves a page takes back as many as are open at once; who takes back more, and hardly anything else, makes members work for
/// nobody (CVE-2023-44487).
const TAKEN_BACK_AT_MOST: u32 = 2 * STREAMS;
const PING_EVERY: Duration = Duration::from_secs(20);

/// What the requests of one connection have in common.
pub struct Client {
    pub listener: Arc<Listener>,
    worker: Arc<Worker>,
    /// The peer, or whom its PROXY protocol header names.
    pub address: SocketAddr,
    address_header: HeaderValue,
    /// Where it connected to.
    pub local: SocketAddr,
    pub tls: bool,
    http2: bool,
    in_flight: AtomicU32,
    /// Requests that have ended.
    ended: AtomicU32,
    /// Of those, the ones that the client took back before their answer began.
    taken_back: AtomicU32,
    /// What the body of an answer last did, for the stream that is being polled.
    pub pulled: Pulled,
    /// Bytes came since the last request ended.
    reading: Arc<AtomicBool>,
}

/// What a connection is waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// An answer is being made.
    Busy,
    /// A request has begun to come.
    Head,
    /// The next request.
    Idle,
}

impl Client {
    pub fn worker(&self) -> usize {
        self.worker.index
    }
    pub fn instance(&self) -> &Instance {
        &self.worker.instance
    }
    pub fn scratch(&self) -> &Scratch {
        &self.worker.scratch
    }
    pub fn tracker(&self) -> &TaskTracker {
        &self.worker.tunnels
    }
    pub fn hop(&self) -> Hop<'_> {
        Hop {
            address: self.address,
            value: &self.address_header,
            tls: self.tls,
        }
    }
    pub fn is_http2(&self) -> bool {
        self.http2
    }
    pub fn begin(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }
    /// `answered`: the answer's head was there.
    pub fn end(&self, answered: bool) {
        if !answered {
            self.taken_back.fetch_add(1, Relaxed);
        }
        self.reading.store(false, Relaxed);
        self.ended.store(self.ended.load(Relaxed).wrapping_add(1), Relaxed);
        self.in_flight.fetch_sub(1, Relaxed);
    }

    fn takes_back_too_much(&self) -> bool {
        let taken_back = self.taken_back.load(Relaxed);
        taken_back > TAKEN_BACK_AT_MOST && taken_back > self.ended.load(Relaxed) / 2
    }

    fn phase(&self) -> Phase {
        if self.in_flight.load(Relaxed) > 0 {
            Phase::Busy
        } else if self.reading.load(Relaxed) && !self.http2 {
            Phase::Head
        } else {
            Phase::Idle
        }
    }
}

/// Serves a connection until its end. Its TLS handshake and first bytes have the listener's header timeout.
///
/// What it is given is used where it lies, and what few connections need, or none for long, is in a box of its own: there is one such
/// future a connection, as large as the largest of its parts.
pub fn serve(
    stream: Prefixed,
    address: SocketAddr,
    local: SocketAddr,
    listener: Arc<Listener>,
    rules: Arc<Rules>,
    worker: Arc<Worker>,
    stop: CancellationToken,
) -> impl Future<Output = ()> {
    let first = Instant::now() + rules.header_timeout;
    let opened = Box::pin(tokio::time::timeout_at(first, open(stream, rules.clone())));
    async move {
        let Ok(Ok((stream, http2))) = opened.await else { return };
        let tls = rules.tls.is_some();
        let client = Arc::new(Client {
            address_header: HeaderValue::try_from(address.ip().to_canonical().to_string()).unwrap_or(HeaderValue::from_static("unknown")),
            listener,
            worker,
            address,
            local,
            tls,
            http2,
            in_flight: AtomicU32::new(0),
            ended: AtomicU32::new(0),
            taken_back: AtomicU32::new(0),
            pulled: Pulled::default(),
            reading: stream.reading(),
        });
        // Rules are read anew for each request; a connection must not hold old ones.
        if http2 {
            Box::pin(serve_http2(stream, client, rules, first, stop)).await;
        } else {
            serve_http1(stream, client, rules, first).await;
        }
    }
}

/// The client's stream, behind TLS where the listener has it, and whether it speaks HTTP/2.
async fn open(mut stream: Prefixed, rules: Arc<Rules>) -> std::io::Result<(ClientStream, bool)> {
    if let Some((_, tls)) = &rules.tls {
        let stream = tls.accept(stream).await?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        return Ok((ClientStream::tls(stream, rules.body_idle), http2));
    }
    let http2 = stream.begins_with(PREFACE).await?;
    Ok((ClientStream::plain(stream, rules.body_idle), http2))
}

fn serve_http1(stream: ClientStream, client: Arc<Client>, rules: Arc<Rules>, first: Instant) -> impl Future<Output = ()> {
    let watch = Watch::new(client.clone(), &rules, first);
    let mut connection = hyper::server::conn::http1::Builder::new()
        .header_read_timeout(None)
        .max_header_size(rules.limits.max_header_bytes as usize)
        .serve_connection(TokioIo::new(stream), service_fn(move |request| service::serve(&client, request)))
        .with_upgrades();
    watch.run(move |cx| Pin::new(&mut connection).poll(cx).map(|_ended| ()))
}

async fn serve_http2(stream: ClientStream, client: Arc<Client>, rules: Arc<Rules>, first: Instant, stop: CancellationToken) {
    let watch = Watch::new(client.clone(), &rules, first);
    let connection = hyper::server::conn::http2::Builder::new(Streams::new(client.clone(), rules.body_idle))
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(rules.limits.max_header_bytes)
        .max_send_buf_size(64 << 10)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_EVERY)
        .serve_connection(TokioIo::new(stream), service_fn(move |request| service::serve(&client, request)));
    drop(rules);
    let mut connection = std::pin::pin!(connection);
    let mut stopping = false;
    let mut stopped = std::pin::pin!(stop.cancelled());
    watch
        .run(|cx| {
            if !stopping && stopped.as_mut().poll(cx).is_ready() {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            connection.as_mut().poll(cx).map(|_ended| ())
        })
        .await;
}

/// A connection's one timer. It is set anew only when a deadline comes nearer, so that a busy connection hardly ever
/// touches it.
struct Watch {
    client: Arc<Client>,
    header_timeout: Duration,
    keep_alive: Duration,
    phase: Phase,
    /// Requests that had ended when the deadline was set.
    ended: u32,
    deadline: Option<Instant>,
    timer: Pin<Box<Sleep>>,
    /// The timer knows whom to wake.
    armed: bool,
}

impl Watch {
    fn new(client: Arc<Client>, rules: &Rules, first: Instant) -> Self {
        Self {
            client,
            header_timeout: rules.header_timeout,
            keep_alive: rules.keep_alive,
            // The first request has begun with the connection.
            phase: Phase::Head,
            ended: 0,
            deadline: Some(first),
            timer: Box::pin(tokio::time::sleep_until(first)),
            armed: false,
        }
    }

    fn run(mut self, mut connection: impl FnMut(&mut Context<'_>) -> Poll<()>) -> impl Future<Output = ()> {
        poll_fn(move |cx| {
            if connection(cx).is_ready() || self.client.takes_back_too_much() {
                return Poll::Ready(());
            }
            let phase = self.client.phase();
            let ended = self.client.ended.load(Relaxed);
            let begun = ended > 0 || phase == Phase::Busy;
            if begun && (phase != self.phase || ended != self.ended) {
                (self.phase, self.ended) = (phase, ended);
                self.deadline = match phase {
                    Phase::Busy => None,
                    Phase::Head => Some(Instant::now() + self.header_timeout),
                    Phase::Idle => Some(Instant::now() + self.keep_alive),
                };
            }
            self.poll_deadline(cx)
        })
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline else {
            return Poll::Pending;
        };
        loop {
            if self.timer.is_elapsed() {
                if Instant::now() >= deadline {
                    return Poll::Ready(());
                }
                self.armed = false;
            }
            if !self.armed || self.timer.deadline() > deadline {
                self.timer.as_mut().reset(deadline);
                self.armed = true;
                if self.timer.as_mut().poll(cx).is_ready() {
                    continue;
                }
            }
            return Poll::Pending;
        }
    }
}
