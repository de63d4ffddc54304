//! A connection to a member, and those that wait for the next request.
//!
//! It has no task of its own: the request that uses it drives it, and while nobody does it lies in its worker's [`Idle`]
//! list. That saves two changes of task for each request. What came in meanwhile, such as the member's close, is seen
//! when it is taken out again, before anything is sent.
//!
//! Most requests have no body, or a small one that came with their head. They are written and their answers read here, by the worker's
//! one buffer: nothing is held while an answer is awaited but the request. The others, and upgrades, make a [`super::link::Link`] of it.

use super::framing::{Framing, Malformed, keeps_alive};
use crate::instance::lock;
use crate::tcp::Scratch;
use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode, Version, request, response};
use std::future::{Future, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// Idle connections a worker keeps to one member.
const IDLE_AT_MOST: usize = 4_096;
/// How long it keeps them.
const IDLE_FOR: Duration = Duration::from_secs(30);
/// A request that can't be repeated goes only over a connection that was used this lately: the longer one was idle, the
/// likelier the member is just closing it.
const FRESH_FOR: Duration = Duration::from_secs(1);
/// An answer's head, with those of status 1xx before it.
const HEAD_AT_MOST: usize = 400 << 10;
/// Bytes to come from which on a body has a buffer of its own, in place of a copy from the worker's.
const BULK: u64 = 64 << 10;

pub struct Wire {
    stream: TcpStream,
    idle_since: Instant,
    timer: Patience,
    /// It has carried a request before.
    pub used: bool,
}

/// A request as it is sent, in one piece.
pub struct Plain {
    pub method: Method,
    pub whole: Vec<u8>,
}

/// An answer's body and what it comes over.
pub struct Body {
    /// Nothing once it was given back.
    wire: Option<Box<Wire>>,
    /// What was read and not taken yet.
    read: Bytes,
    framing: Framing,
    keep_alive: bool,
    /// The member broke it off.
    pub broke: bool,
}

/// Why a request has no answer.
pub enum Unanswered {
    /// Nothing of it was sent.
    Unsent(io::Error),
    Failed(ReadError),
    TimedOut,
}

/// What is wrong with an answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("read from the server")]
    Io(#[from] io::Error),
    #[error("it is no HTTP")]
    Http(#[from] httparse::Error),
    #[error(transparent)]
    Framing(#[from] Malformed),
    #[error("its head is larger than allowed")]
    TooLarge,
    #[error("its status or its headers are malformed")]
    Head,
}

impl Plain {
    pub fn new(request: &mut request::Parts, body: &[u8]) -> Self {
        if !body.is_empty() {
            // What is sent, whatever was said.
            request.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        let path = request.uri.path_and_query().map_or("/", |path| path.as_str());
        let start = [request.method.as_str(), " ", path, " HTTP/1.1\r\n"];
        let fields = request.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
        let start_length = start.iter().map(|part| part.len()).sum::<usize>();
        let mut whole = Vec::with_capacity(start_length + fields.sum::<usize>() + 2 + body.len());
        start.iter().for_each(|part| whole.extend_from_slice(part.as_bytes()));
        for (name, value) in &request.headers {
            whole.extend_from_slice(name.as_str().as_bytes());
            whole.extend_from_slice(b": ");
            whole.extend_from_slice(value.as_bytes());
            whole.extend_from_slice(b"\r\n");
        }
        whole.extend_from_slice(b"\r\n");
        whole.extend_from_slice(body);
        Self {
            method: request.method.clone(),
            whole,
        }
    }
}

impl Wire {
    pub fn new(stream: TcpStream, timer: Patience) -> Box<Self> {
        Box::new(Self {
            stream,
            idle_since: Instant::now(),
            timer,
            used: false,
        })
    }

    pub fn into_parts(self) -> (TcpStream, Patience) {
        (self.stream, self.timer)
    }

    /// Sends a request and waits for the head of its answer.
    pub fn exchange(
        mut self: Box<Self>,
        request: &Plain,
        now: Instant,
        patience: Duration,
        scratch: &Scratch,
    ) -> impl Future<Output = Result<Response<Body>, Unanswered>> {
        let deadline = tokio::time::Instant::from_std(now) + patience;
        let mut unsent = request.whole.as_slice();
        let mut read = Bytes::new();
        let mut armed = false;
        async move {
            let head = poll_fn(|cx| {
                while !unsent.is_empty() {
                    match Pin::new(&mut self.stream).poll_write(cx, unsent) {
                        Poll::Ready(Ok(count)) => unsent = &unsent[count..],
                        Poll::Ready(Err(error)) if unsent.len() == request.whole.len() => {
                            return Poll::Ready(Err(Unanswered::Unsent(error)));
                        }
                        // It may have been answered before it was complete.
                        Poll::Ready(Err(_)) | Poll::Pending => break,
                    }
                }
                while let Poll::Ready(piece) = self.poll_read(cx, scratch, 0) {
                    match piece.map_err(ReadError::from).and_then(|piece| head_of(&mut read, piece)) {
                        Ok(Some(head)) => return Poll::Ready(Ok(head)),
                        Ok(None) => {}
                        Err(error) => return Poll::Ready(Err(Unanswered::Failed(error))),
                    }
                }
                self.timer.poll(deadline, &mut armed, cx).map(|()| Err(Unanswered::TimedOut))
            })
            .await?;
            let framing = Framing::of(&request.method, head.status, head.version, &head.headers);
            let body = Body {
                keep_alive: unsent.is_empty() && keeps_alive(head.version, &head.headers),
                wire: Some(self),
                read,
                framing: framing.map_err(|error| Unanswered::Failed(error.into()))?,
                broke: false,
            };
            Ok(Response::from_parts(head, body))
        }
    }

    /// Reads a piece; an empty one is the end. `expected` is how much may come.
    fn poll_read(&mut self, cx: &mut Context<'_>, scratch: &Scratch, expected: u64) -> Poll<io::Result<Bytes>> {
        let stream = Pin::new(&mut self.stream);
        if expected < BULK {
            let mut scratch = scratch.lock();
            let mut buffer = ReadBuf::new(&mut scratch);
            ready!(stream.poll_read(cx, &mut buffer))?;
            return Poll::Ready(Ok(Bytes::copy_from_slice(buffer.filled())));
        }
        // Memory only for what is there to be read.
        ready!(stream.poll_read_ready(cx))?;
        let mut buffer = BytesMut::with_capacity(BULK as usize);
        ready!(tokio_util::io::poll_read_buf(stream, cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.freeze()))
    }

    /// Whether the member has neither closed it nor said anything unasked.
    fn still_good(&mut self) -> bool {
        let mut byte = [0];
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(&mut self.stream)
            .poll_read(&mut cx, &mut ReadBuf::new(&mut byte))
            .is_pending()
    }
}

/// The head of an answer of which `piece` was read after `read`, which keeps what follows it. Those of status 1xx are passed over.
fn head_of(read: &mut Bytes, piece: Bytes) -> Result<Option<response::Parts>, ReadError> {
    if piece.is_empty() {
        return Err(Malformed::Incomplete.into());
    }
    if read.is_empty() {
        *read = piece;
    } else {
        // Where it was cut, and with it the end that is looked for.
        let from = read.len().saturating_sub(3);
        let mut all = std::mem::take(read)
            .try_into_mut()
            .unwrap_or_else(|shared| BytesMut::from(&*shared));
        all.extend_from_slice(&piece);
        *read = all.freeze();
        let new = &read[from..];
        if !new.windows(2).any(|two| two == b"\n\n") && !new.windows(3).any(|three| three == b"\n\r\n") {
            return if read.len() > HEAD_AT_MOST {
                Err(ReadError::TooLarge)
            } else {
                Ok(None)
            };
        }
    }
    while !read.is_empty() {
        let Some(head) = parse(read)? else {
            return if read.len() > HEAD_AT_MOST {
                Err(ReadError::TooLarge)
            } else {
                Ok(None)
            };
        };
        if head.status == StatusCode::SWITCHING_PROTOCOLS || !head.status.is_informational() {
            return Ok(Some(head));
        }
    }
    Ok(None)
}

/// Takes one head off.
fn parse(read: &mut Bytes) -> Result<Option<response::Parts>, ReadError> {
    let mut fields = [const { MaybeUninit::uninit() }; super::connection::MAX_HEADERS];
    let mut found = httparse::Response::new(&mut []);
    let whole = read.clone();
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut found, &whole, &mut fields)?;
    let httparse::Status::Complete(length) = parsed else {
        return Ok(None);
    };
    let (mut head, ()) = Response::new(()).into_parts();
    head.status = StatusCode::from_u16(found.code.unwrap_or_default()).map_err(|_| ReadError::Head)?;
    head.version = if found.version == Some(1) {
        Version::HTTP_11
    } else {
        Version::HTTP_10
    };
    if let Some(reason) = found.reason.filter(|reason| Some(*reason) != head.status.canonical_reason())
        && let Ok(reason) = hyper::ext::ReasonPhrase::try_from(reason.as_bytes())
    {
        head.extensions.insert(reason);
    }
    head.headers.reserve(found.headers.len());
    for field in &*found.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| ReadError::Head)?;
        let value = HeaderValue::from_maybe_shared(whole.slice_ref(field.value)).map_err(|_| ReadError::Head)?;
        head.headers.append(name, value);
    }
    drop(read.split_to(length));
    Ok(Some(head))
}

impl Body {
    /// The next piece; nothing at the end.
    pub fn poll(&mut self, cx: &mut Context<'_>, scratch: &Scratch) -> Poll<Option<Result<Bytes, ReadError>>> {
        let piece = ready!(self.poll_piece(cx, scratch));
        self.broke = piece.is_err();
        Poll::Ready(piece.transpose())
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>, scratch: &Scratch) -> Poll<Result<Option<Bytes>, ReadError>> {
        loop {
            let piece = self.framing.next(&mut self.read)?;
            if piece.is_some() || self.framing.is_complete() {
                return Poll::Ready(Ok(piece));
            }
            let Some(wire) = &mut self.wire else { return Poll::Ready(Ok(None)) };
            let expected = match &self.framing {
                Framing::Length(left) => *left,
                Framing::Chunked(_) | Framing::Close { .. } => 0,
            };
            self.read = ready!(wire.poll_read(cx, scratch, expected))?;
            if self.read.is_empty() {
                self.framing.close()?;
            }
        }
    }

    pub fn framing(&self) -> &Framing {
        &self.framing
    }

    /// The connection, once the member has said everything and as long as nobody has it yet.
    pub fn give_back(&mut self) -> Option<Box<Wire>> {
        let said = match &self.framing {
            Framing::Length(left) => *left == self.read.len() as u64,
            Framing::Chunked(_) => self.framing.is_complete() && self.read.is_empty(),
            Framing::Close { .. } => false,
        };
        if said && self.keep_alive { self.wire.take() } else { None }
    }
}

/// A timer that stays set from one request to the next: it is moved only when a deadline comes nearer or it has run out, so most
/// requests do not touch the runtime's timers.
#[derive(Default)]
pub struct Patience(Option<Pin<Box<Sleep>>>);

impl Patience {
    /// Ready once the deadline is over. `armed`: the timer knows whom to wake.
    pub fn poll(&mut self, deadline: tokio::time::Instant, armed: &mut bool, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        loop {
            if timer.is_elapsed() {
                if tokio::time::Instant::now() >= deadline {
                    return Poll::Ready(());
                }
                *armed = false;
            }
            if timer.is_elapsed() || timer.deadline() > deadline {
                timer.as_mut().reset(deadline);
            }
            if *armed || timer.as_mut().poll(cx).is_pending() {
                *armed = true;
                return Poll::Pending;
            }
        }
    }
}

/// One worker's idle connections to one member; only that worker takes the lock.
#[derive(Default)]
#[expect(clippy::vec_box, reason = "a wire goes in and out with every request; moving a pointer is cheaper")]
pub struct Idle(Mutex<Vec<Box<Wire>>>);

impl Idle {
    /// The connection that was used last, if one is still good.
    pub fn take(&self, repeatable: bool, now: Instant) -> Option<Box<Wire>> {
        let mut wires = lock(&self.0);
        while let Some(mut wire) = wires.pop() {
            let idle = now.saturating_duration_since(wire.idle_since);
            if idle > IDLE_FOR || (!repeatable && idle > FRESH_FOR) {
                // Those below are idle for even longer.
                if idle > IDLE_FOR {
                    wires.clear();
                } else {
                    wires.push(wire);
                }
                return None;
            }
            if wire.still_good() {
                return Some(wire);
            }
        }
        None
    }

    pub fn put(&self, mut wire: Box<Wire>, now: Instant) {
        wire.used = true;
        wire.idle_since = now;
        let mut wires = lock(&self.0);
        if wires.len() < IDLE_AT_MOST {
            wires.push(wire);
        }
    }

    /// Drops those that ended or were idle for too long. Answers whether any are left.
    pub fn sweep(&self) -> bool {
        let mut wires = lock(&self.0);
        wires.retain_mut(|wire| wire.idle_since.elapsed() <= IDLE_FOR && wire.still_good());
        if wires.is_empty() {
            wires.shrink_to_fit();
        }
        !wires.is_empty()
    }
}
