//! A client's bytes, through hyper and all that this crate does to a request, to the bytes a member receives: whatever comes,
//! those are plain requests, one for each that was taken.

use super::{rules, wire};
use crate::http::forward::Outgoing;
use crate::http::headers::{self, Hop};
use crate::listener::Rules;
use http::header::HeaderValue;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::service::service_fn;
use hyper_util::rt::TokioExecutor;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
/// How often a side is asked for more before it says that there is none: so long others may work.
const PATIENCE: u32 = 16;

/// An HTTP/1 connection.
pub fn http1(bytes: &[u8]) {
    http1_heard(bytes);
}

/// An HTTP/2 connection after its preface and first SETTINGS.
pub fn http2(bytes: &[u8]) {
    http2_heard(bytes);
}

/// How many whole requests the member heard; the first byte says who the client is.
pub(super) fn http1_heard(bytes: &[u8]) -> usize {
    let Some((first, rest)) = bytes.split_first() else { return 0 };
    run(rest.to_vec(), false, *first)
}

pub(super) fn http2_heard(bytes: &[u8]) -> usize {
    let Some((first, rest)) = bytes.split_first() else { return 0 };
    let begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".as_slice();
    run([begin, rest].concat(), true, *first)
}

fn run(input: Vec<u8>, is_http2: bool, choice: u8) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.unwrap_or_else(|e| panic!("{e}"));
    let heard = Arc::new(Mutex::new(Vec::new()));
    let for_service = heard.clone();
    let rules = Arc::new(rules(choice & 1 != 0));
    let peer = SocketAddr::from(if choice & 2 == 0 {
        ([192, 0, 2, 1], 80)
    } else {
        ([10, 0, 0, 1], 80)
    });
    runtime.block_on(async move {
        let service = service_fn(move |request| take(request, is_http2, peer, rules.clone(), for_service.clone()));
        let io = Memory::client(input);
        if is_http2 {
            let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let connection = builder.max_header_list_size(16 << 10).serve_connection(io, service);
            let _ = connection.await;
        } else {
            let mut builder = hyper::server::conn::http1::Builder::new();
            let connection = builder.half_close(false).serve_connection(io, service);
            let _ = connection.await;
        }
    });
    let heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
    let requests = heard.iter().map(|bytes: &Arc<Mutex<Vec<u8>>>| {
        let bytes = bytes.lock().unwrap_or_else(PoisonError::into_inner);
        wire::read(&bytes).unwrap_or_else(|why| panic!("{why}: {}", bytes.escape_ascii()))
    });
    requests.filter(|read| *read == wire::Read::Whole).count()
}

type Heard = Arc<Mutex<Vec<Arc<Mutex<Vec<u8>>>>>>;

/// What `service` does with a request that has a member.
async fn take(
    request: Request<Incoming>,
    is_http2: bool,
    peer: SocketAddr,
    rules: Arc<Rules>,
    heard: Heard,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let (mut parts, body) = request.into_parts();
    let mut response = Response::new(Empty::new());
    if is_http2 {
        headers::join_cookies(&mut parts.headers);
    }
    let (Ok(host), false) = (headers::judge(&mut parts), matches!(parts.method, Method::CONNECT | Method::TRACE)) else {
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return Ok(response);
    };
    let value = HeaderValue::try_from(peer.ip().to_string()).unwrap_or_else(|e| panic!("{e}"));
    let hop = Hop {
        address: peer,
        value: &value,
        tls: false,
    };
    headers::rewrite(&mut parts, &hop, &host, &rules);
    let (outgoing, _sent) = Outgoing::new(parts, body, false, is_http2, None, Duration::from_secs(60));
    let io = Memory::member();
    let output = io.output.clone();
    heard.lock().unwrap_or_else(PoisonError::into_inner).push(output.clone());
    let request = match outgoing {
        Outgoing::Plain(request) => {
            output
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend_from_slice(&request.whole);
            return Ok(response);
        }
        Outgoing::Whole(request) => *request,
    };
    if let Ok((mut sender, connection)) = hyper::client::conn::http1::handshake(io).await {
        let mut connection = std::pin::pin!(connection);
        let mut answer = std::pin::pin!(sender.try_send_request(request));
        // Until the answer is there; then until nothing moves any more, as the body may go on after it.
        let mut ended = false;
        let answered = poll_fn(|cx| {
            ended = ended || connection.as_mut().poll(cx).is_ready();
            answer.as_mut().poll(cx)
        })
        .await;
        drop(answered);
        if !ended {
            let _ = connection.await;
        }
    }
    Ok(response)
}

/// A connection without a network.
struct Memory {
    input: Vec<u8>,
    at: usize,
    /// The input comes only once something was written.
    answers: bool,
    waited: u32,
    output: Arc<Mutex<Vec<u8>>>,
}

impl Memory {
    fn client(input: Vec<u8>) -> Self {
        Self {
            input,
            at: 0,
            answers: false,
            waited: 0,
            output: Arc::default(),
        }
    }
    fn member() -> Self {
        Self {
            answers: true,
            ..Self::client(ANSWER.to_vec())
        }
    }
}

impl Read for Memory {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let silent = this.answers && this.output.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        let left = &this.input[this.at..];
        if silent || left.is_empty() {
            if this.waited == PATIENCE {
                return Poll::Ready(Ok(()));
            }
            this.waited += 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let count = left.len().min(buf.remaining());
        buf.put_slice(&left[..count]);
        this.at += count;
        Poll::Ready(Ok(()))
    }
}

impl Write for Memory {
    fn poll_write(self: Pin<&mut Self>, _cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
