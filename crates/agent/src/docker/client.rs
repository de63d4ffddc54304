//! HTTP to the Docker engine over its socket.
//!
//! Connections are kept and used again. Every call has a deadline: for answers that come at once it covers the whole call,
//! for streams only the time until the headers. Bodies are never logged: they carry environments and registry passwords.
//! The path has no API version in it, so an engine answers in its own newest one; the bodies in [`wire`](super::wire) read
//! 1.41 and later.

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, BodyStream, Full, Limited};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::UnixStream;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// A request's body: whole, or streamed.
pub type RequestBody = UnsyncBoxBody<Bytes, BoxError>;

/// Answers read as a whole are refused beyond this: no document of Docker's comes near it.
const MAX_DOCUMENT: usize = 64 << 20;
/// The longest line of a stream of JSON values.
const MAX_LINE: usize = 4 << 20;

/// Why a call to the engine gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    /// The engine answered, and said no.
    #[error("Docker answered {status}: {message}")]
    Refused { status: u16, message: String },
    /// No connection could be made.
    #[error("no connection to the Docker engine: {source}")]
    Unreachable { permission: bool, source: BoxError },
    /// The connection broke before the answer was whole.
    #[error("the connection to the Docker engine broke: {0}")]
    Broken(#[source] BoxError),
    #[error("the Docker engine took longer than {} s to {what}", .after.as_secs())]
    Deadline { what: &'static str, after: Duration },
    #[error("the Docker engine answered something unexpected when asked to {what}: {source}")]
    Nonsense { what: &'static str, source: BoxError },
}

/// One call: `what` finishes the sentence "the engine was asked to …".
pub struct Call {
    what: &'static str,
    method: Method,
    path: String,
    body: RequestBody,
    content_type: &'static str,
    header: Option<(HeaderName, HeaderValue)>,
    deadline: Duration,
}

impl Call {
    fn new(what: &'static str, method: Method, path: String) -> Self {
        Self {
            what,
            method,
            path,
            body: whole(Bytes::new()),
            content_type: "application/json",
            header: None,
            deadline: Duration::from_secs(30),
        }
    }
    pub fn get(what: &'static str, path: impl Into<String>) -> Self {
        Self::new(what, Method::GET, path.into())
    }
    pub fn post(what: &'static str, path: impl Into<String>) -> Self {
        Self::new(what, Method::POST, path.into())
    }
    pub fn put(what: &'static str, path: impl Into<String>) -> Self {
        Self::new(what, Method::PUT, path.into())
    }
    pub fn delete(what: &'static str, path: impl Into<String>) -> Self {
        Self::new(what, Method::DELETE, path.into())
    }
    /// Adds `key=value` to the query, escaped.
    pub fn query(mut self, key: &str, value: impl AsRef<str>) -> Self {
        self.path.push(if self.path.contains('?') { '&' } else { '?' });
        self.path.extend(form_urlencoded::byte_serialize(key.as_bytes()));
        self.path.push('=');
        self.path.extend(form_urlencoded::byte_serialize(value.as_ref().as_bytes()));
        self
    }
    pub fn flag(self, key: &str, on: bool) -> Self {
        if on { self.query(key, "1") } else { self }
    }
    pub fn json(mut self, body: &impl Serialize) -> Result<Self, DockerError> {
        let body = serde_json::to_vec(body).map_err(|e| DockerError::Nonsense {
            what: self.what,
            source: e.into(),
        })?;
        self.body = whole(body.into());
        Ok(self)
    }
    pub fn tar(mut self, body: RequestBody) -> Self {
        self.body = body;
        self.content_type = "application/x-tar";
        self
    }
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.header = Some((name, value));
        self
    }
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }
}

fn whole(bytes: Bytes) -> RequestBody {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// `text` as one segment of a path: nothing in it is read as `/`, `?` or `..`.
pub fn segment(text: &str) -> String {
    if text == "." || text == ".." {
        // No escape keeps these apart from the folder they name; no object of Docker's is called so.
        return "%00".to_owned();
    }
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || b"-_.~:".contains(&b) {
            out.push(b as char);
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

#[derive(Clone)]
struct UnixConnector {
    socket: Arc<Path>,
}

impl tower::Service<Uri> for UnixConnector {
    type Response = TokioIo<UnixStream>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, _: Uri) -> Self::Future {
        let socket = self.socket.clone();
        Box::pin(async move { Ok(TokioIo::new(UnixStream::connect(&socket).await?)) })
    }
}

/// The engine behind one socket. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    http: legacy::Client<UnixConnector, RequestBody>,
}

impl Client {
    pub fn new(socket: &Path) -> Self {
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(60))
            .pool_max_idle_per_host(8)
            .build(UnixConnector { socket: socket.into() });
        Self { http }
    }

    /// Sends the call and waits for the answer's head. Any status that is not of success is an error with Docker's message;
    /// 304 (nothing to do) is success.
    pub async fn send(&self, call: Call) -> Result<Response<Incoming>, DockerError> {
        let (what, after) = (call.what, call.deadline);
        let response = self.request(call, None);
        match tokio::time::timeout(after, response).await {
            Ok(response) => response,
            Err(_) => Err(DockerError::Deadline { what, after }),
        }
    }

    async fn request(&self, call: Call, upgrade: Option<HeaderValue>) -> Result<Response<Incoming>, DockerError> {
        let what = call.what;
        let mut request = Request::builder()
            .method(call.method)
            .uri(format!("http://docker{}", call.path))
            .header(http::header::CONTENT_TYPE, call.content_type);
        if let Some((name, value)) = call.header {
            request = request.header(name, value);
        }
        if let Some(protocol) = upgrade {
            request = request
                .header(http::header::CONNECTION, "Upgrade")
                .header(http::header::UPGRADE, protocol);
        }
        let request = request
            .body(call.body)
            .map_err(|e| DockerError::Nonsense { what, source: e.into() })?;
        let response = self.http.request(request).await.map_err(connection_error)?;
        let status = response.status();
        if status.is_success() || status == StatusCode::NOT_MODIFIED || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        let body = read_whole(what, response).await?;
        #[derive(serde::Deserialize)]
        struct Refusal {
            message: String,
        }
        let message = match serde_json::from_slice::<Refusal>(&body) {
            Ok(refusal) => refusal.message,
            Err(_) => String::from_utf8_lossy(&body).into_owned(),
        };
        Err(DockerError::Refused {
            status: status.as_u16(),
            message: message.trim().to_owned(),
        })
    }

    /// The call's answer as a whole.
    pub async fn bytes(&self, call: Call) -> Result<Bytes, DockerError> {
        let (what, after) = (call.what, call.deadline);
        let all = async { read_whole(what, self.request(call, None).await?).await };
        match tokio::time::timeout(after, all).await {
            Ok(bytes) => bytes,
            Err(_) => Err(DockerError::Deadline { what, after }),
        }
    }

    /// The call's answer, read as JSON.
    pub async fn json<T: DeserializeOwned>(&self, call: Call) -> Result<T, DockerError> {
        let what = call.what;
        let bytes = self.bytes(call).await?;
        serde_json::from_slice(&bytes).map_err(|e| DockerError::Nonsense { what, source: e.into() })
    }

    /// Does the call; what it answers is of no interest.
    pub async fn done(&self, call: Call) -> Result<(), DockerError> {
        self.bytes(call).await.map(drop)
    }

    /// The call's answer as it comes; the deadline covers its head only.
    pub async fn stream(&self, call: Call) -> Result<impl Stream<Item = Result<Bytes, DockerError>> + Send + Unpin + use<>, DockerError> {
        let response = self.send(call).await?;
        Ok(BodyStream::new(response.into_body()).filter_map(|frame| {
            std::future::ready(match frame {
                Ok(frame) => frame.into_data().ok().map(Ok),
                Err(e) => Some(Err(DockerError::Broken(e.into()))),
            })
        }))
    }

    /// The call's answer as JSON values, one a line.
    pub async fn lines<T: DeserializeOwned + Send + 'static>(
        &self,
        call: Call,
    ) -> Result<impl Stream<Item = Result<T, DockerError>> + Send + Unpin + use<T>, DockerError> {
        let what = call.what;
        let chunks = self.stream(call).await?;
        Ok(Box::pin(futures_util::stream::unfold(
            (chunks, BytesMut::new(), false),
            move |(mut chunks, mut buffer, ended)| async move {
                if ended {
                    return None;
                }
                loop {
                    while let Some(end) = buffer.iter().position(|b| *b == b'\n') {
                        let line = buffer.split_to(end);
                        buffer.advance(1);
                        if line.iter().all(u8::is_ascii_whitespace) {
                            continue;
                        }
                        let value = serde_json::from_slice(&line).map_err(|e| DockerError::Nonsense { what, source: e.into() });
                        let ended = value.is_err();
                        return Some((value, (chunks, buffer, ended)));
                    }
                    if buffer.len() > MAX_LINE {
                        let source = "a line without end".into();
                        return Some((Err(DockerError::Nonsense { what, source }), (chunks, buffer, true)));
                    }
                    match chunks.next().await {
                        Some(Ok(chunk)) => buffer.extend_from_slice(&chunk),
                        Some(Err(e)) => return Some((Err(e), (chunks, buffer, true))),
                        None if buffer.iter().all(u8::is_ascii_whitespace) => return None,
                        // The last value may come without a line end.
                        None => {
                            let value = serde_json::from_slice(&buffer).map_err(|e| DockerError::Nonsense { what, source: e.into() });
                            return Some((value, (chunks, BytesMut::new(), true)));
                        }
                    }
                }
            },
        )))
    }

    /// Turns the call's connection into a plain two-way stream, as attaching and exec do.
    pub async fn upgrade(&self, call: Call) -> Result<TokioIo<Upgraded>, DockerError> {
        let (what, after) = (call.what, call.deadline);
        let upgraded = async {
            let response = self.request(call, Some(HeaderValue::from_static("tcp"))).await?;
            hyper::upgrade::on(response).await.map_err(|e| DockerError::Broken(e.into()))
        };
        match tokio::time::timeout(after, upgraded).await {
            Ok(upgraded) => Ok(TokioIo::new(upgraded?)),
            Err(_) => Err(DockerError::Deadline { what, after }),
        }
    }
}

async fn read_whole(what: &'static str, response: Response<Incoming>) -> Result<Bytes, DockerError> {
    match Limited::new(response.into_body(), MAX_DOCUMENT).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(e) if e.is::<http_body_util::LengthLimitError>() => Err(DockerError::Nonsense { what, source: e }),
        Err(e) => Err(DockerError::Broken(e)),
    }
}

fn connection_error(error: legacy::Error) -> DockerError {
    if !error.is_connect() {
        return DockerError::Broken(error.into());
    }
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(e) = cause {
        if let Some(io) = e.downcast_ref::<std::io::Error>() {
            let permission = io.kind() == std::io::ErrorKind::PermissionDenied;
            return DockerError::Unreachable {
                permission,
                source: io.to_string().into(),
            };
        }
        cause = e.source();
    }
    DockerError::Unreachable {
        permission: false,
        source: error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_stays_one_segment() {
        assert_eq!(segment("web_1.a-b"), "web_1.a-b");
        assert_eq!(segment("sha256:ab"), "sha256:ab");
        assert_eq!(segment("../x?y#z"), "..%2Fx%3Fy%23z");
        assert_eq!(segment(".."), "%00");
        assert_eq!(segment("a b\n%é"), "a%20b%0A%25%C3%A9");
    }

    #[test]
    fn a_query_is_escaped() {
        let call = Call::get("look", "/x").query("a", "b&c=d").flag("e", true).flag("f", false);
        assert_eq!(call.path, "/x?a=b%26c%3Dd&e=1");
    }
}
