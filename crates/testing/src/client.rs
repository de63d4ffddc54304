//! A client of the API that takes nothing on trust: each answer is held to the manners that every answer promises.

use crate::stream::Events;
use crate::terminal::Terminal;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use nm_types::container::{ContainerStatus, ContainerView};
use nm_types::envelope::ErrorBody;
use nm_types::operation::OperationView;
use nm_waits::{eventually, soon};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What no request should take: ordinary ones are given up after 40 seconds.
const ANSWER: Duration = Duration::from_secs(60);

/// Somebody who calls the API. It finds a control plane that was restarted.
#[derive(Debug, Clone)]
pub struct Client {
    place: watch::Receiver<SocketAddr>,
    token: Option<String>,
}

/// One request, sent when awaited.
#[derive(Debug)]
#[must_use = "a call is sent when it is awaited"]
pub struct Call {
    client: Client,
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
    chunked: bool,
}

/// An answer, whole.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// What was asked, for failures.
    asked: String,
}

impl Client {
    pub(crate) fn new(place: watch::Receiver<SocketAddr>, token: Option<String>) -> Self {
        Self { place, token }
    }

    /// The same place, with this bearer token.
    pub fn with_token(&self, token: &str) -> Self {
        Self {
            place: self.place.clone(),
            token: Some(token.to_owned()),
        }
    }
    pub fn anonymous(&self) -> Self {
        Self {
            place: self.place.clone(),
            token: None,
        }
    }
    /// Its bearer token.
    pub fn token(&self) -> &str {
        self.token.as_deref().expect("a client with a token")
    }
    /// Where the API listens now.
    pub fn address(&self) -> SocketAddr {
        *self.place.borrow()
    }

    pub fn call(&self, method: Method, path: impl Into<String>) -> Call {
        Call {
            client: self.clone(),
            method,
            path: path.into(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            chunked: false,
        }
    }
    pub fn get(&self, path: impl Into<String>) -> Call {
        self.call(Method::GET, path)
    }
    pub fn post(&self, path: impl Into<String>) -> Call {
        self.call(Method::POST, path)
    }
    pub fn put(&self, path: impl Into<String>) -> Call {
        self.call(Method::PUT, path)
    }
    pub fn patch(&self, path: impl Into<String>) -> Call {
        self.call(Method::PATCH, path)
    }
    pub fn delete(&self, path: impl Into<String>) -> Call {
        self.call(Method::DELETE, path)
    }

    /// Makes a container of `spec`, the body of `POST /api/containers`.
    pub async fn create(&self, spec: &Value) -> ContainerView {
        self.post("/api/containers").json(spec).await.data(201)
    }
    /// A container by id or name.
    pub async fn container(&self, key: &str) -> ContainerView {
        self.get(format!("/api/containers/{key}")).await.data(200)
    }
    /// The first page of the list.
    pub async fn containers(&self, query: &str) -> Vec<ContainerView> {
        self.get(format!("/api/containers?limit=200&{query}")).await.data(200)
    }
    pub async fn operation(&self, id: &str) -> OperationView {
        self.get(format!("/api/operations/{id}")).await.data(200)
    }
    /// Waits for an operation's end.
    pub async fn ended(&self, id: &str) -> OperationView {
        eventually(&format!("operation {id} ends"), async || {
            Some(self.operation(id).await).filter(|o| o.state.is_final())
        })
        .await
    }
    /// Waits until a container is of this status.
    pub async fn until(&self, key: &str, status: ContainerStatus) -> ContainerView {
        eventually(&format!("{key} is {}", status.as_str()), async || {
            Some(self.container(key).await).filter(|c| c.status == status)
        })
        .await
    }

    /// A socket of its own to the API, for what no well-behaved client sends.
    pub async fn socket(&self) -> TcpStream {
        TcpStream::connect(self.address()).await.expect("the API listens")
    }
}

impl Call {
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name = HeaderName::try_from(name).expect("a header's name");
        self.headers.append(name, HeaderValue::try_from(value).expect("a header's value"));
        self
    }
    pub fn json(self, body: &impl Serialize) -> Self {
        let bytes = serde_json::to_vec(body).expect("a body that can be written as JSON");
        self.body("application/json", bytes)
    }
    pub fn body(mut self, content_type: &str, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self.header("content-type", content_type)
    }
    /// Without a length told beforehand.
    pub fn chunked(mut self) -> Self {
        self.chunked = true;
        self
    }
    pub fn idempotency_key(self, key: &str) -> Self {
        self.header("idempotency-key", key)
    }
    /// Answered with the operation at once.
    pub fn respond_async(self) -> Self {
        self.header("prefer", "respond-async")
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    fn asked(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.client.address()
    }

    pub(crate) fn request(&self) -> Request<Body> {
        let body: Body = if self.chunked {
            let chunks: Vec<Bytes> = self.body.chunks(16 * 1024).map(Bytes::copy_from_slice).collect();
            StreamBody::new(futures_util::stream::iter(chunks.into_iter().map(|c| Ok(Frame::data(c))))).boxed_unsync()
        } else {
            Full::new(self.body.clone()).boxed_unsync()
        };
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.path.parse().unwrap_or_else(|e| panic!("{}: {e}", self.path));
        *request.headers_mut() = self.headers.clone();
        let host = self.address().to_string();
        request
            .headers_mut()
            .entry(header::HOST)
            .or_insert(HeaderValue::try_from(host).expect("an address"));
        if let Some(token) = &self.client.token {
            let bearer = HeaderValue::try_from(format!("Bearer {token}")).expect("a token");
            request.headers_mut().entry(header::AUTHORIZATION).or_insert(bearer);
        }
        request
    }

    /// Sends it, and gives what came back, or why nothing did.
    pub async fn try_send(self) -> Result<Reply, hyper::Error> {
        let whole = async {
            let (response, _connection) = self.begin().await?;
            let (head, body) = response.into_parts();
            Ok::<_, hyper::Error>((head, body.collect().await?.to_bytes()))
        };
        let answered = tokio::time::timeout(ANSWER, whole).await;
        let (head, body) = answered.unwrap_or_else(|_| panic!("{} was not answered within {ANSWER:?}", self.asked()))?;
        let reply = Reply {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
            asked: self.asked(),
        };
        reply.check_manners(&self.method, &self.path);
        Ok(reply)
    }

    /// Sends it on a connection of its own; both end when the second value is dropped.
    pub(crate) async fn begin(&self) -> Result<(http::Response<Incoming>, AbortOnDropHandle<()>), hyper::Error> {
        let socket = TcpStream::connect(self.address())
            .await
            .unwrap_or_else(|e| panic!("{}: {e}", self.asked()));
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
        let connection = AbortOnDropHandle::new(tokio::spawn(async move {
            // Whoever waits for the answer hears of it.
            let _ended = connection.await;
        }));
        Ok((sender.send_request(self.request()).await?, connection))
    }

    /// Sends it and hangs up as soon as `seen` has come true, without reading any answer.
    pub async fn hang_up_when(self, seen: impl Future<Output = ()>) {
        let asked = self.asked();
        tokio::select! {
            answered = self.begin() => panic!("{asked} was answered before the client hung up: {answered:?}"),
            () = seen => {}
        }
    }

    /// As server-sent events, or the refusal.
    pub async fn events(self) -> Result<Events, Reply> {
        let (response, connection) = soon(&self.asked(), self.begin())
            .await
            .unwrap_or_else(|e| panic!("{}: {e}", self.asked()));
        let (head, body) = response.into_parts();
        let is_stream = head.headers.get(header::CONTENT_TYPE).is_some_and(|v| v == "text/event-stream");
        if head.status.is_success() && is_stream {
            return Ok(Events::new(body, connection));
        }
        let body = soon("a refusal", body.collect())
            .await
            .unwrap_or_else(|e| panic!("{}: {e}", self.asked()))
            .to_bytes();
        let reply = Reply {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
            asked: self.asked(),
        };
        reply.check_manners(&self.method, &self.path);
        Err(reply)
    }

    /// As a terminal over a WebSocket, or the refusal.
    pub async fn terminal(self) -> Result<Terminal, Reply> {
        match Terminal::open(&self).await {
            Ok(terminal) => Ok(terminal),
            Err((head, body)) => {
                let reply = Reply {
                    status: head.status.as_u16(),
                    headers: head.headers,
                    body,
                    asked: self.asked(),
                };
                reply.check_manners(&self.method, &self.path);
                Err(reply)
            }
        }
    }
}

impl IntoFuture for Call {
    type Output = Reply;
    type IntoFuture = BoxFuture<'static, Reply>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let asked = self.asked();
            self.try_send().await.unwrap_or_else(|e| panic!("{asked} was not answered: {e:?}"))
        })
    }
}

impl Reply {
    /// The answer as text, for failures.
    pub fn text(&self) -> String {
        format!("{}: {} {}", self.asked, self.status, String::from_utf8_lossy(&self.body))
    }
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|v| v.to_str().expect("a header of visible ASCII"))
    }
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// The answer, which must have this status.
    #[track_caller]
    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }
    /// The data of a success of this status.
    #[track_caller]
    pub fn data<T: DeserializeOwned>(&self, status: u16) -> T {
        assert_eq!(self.status, status, "{}", self.text());
        serde_json::from_value(self.json()["data"].take()).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
    /// The body of a refusal of this status and code.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) -> ErrorBody {
        assert_eq!(self.status, status, "{}", self.text());
        let body: ErrorBody = serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()));
        assert_eq!(body.code, code, "{}", self.text());
        body
    }
    /// A 422 whose details name exactly this field.
    #[track_caller]
    pub fn names(&self, field: &str) {
        self.refused_for(422, "invalid_field", field);
    }
    /// A 409 whose details name exactly this field: each field can be taken, but not all of them together.
    #[track_caller]
    pub fn clashes(&self, field: &str) {
        self.refused_for(409, "conflicting_fields", field);
    }
    /// As [`Self::clashes`], of a cluster: 422.
    #[track_caller]
    pub fn at_odds(&self, field: &str) {
        self.refused_for(422, "conflicting_fields", field);
    }
    #[track_caller]
    fn refused_for(&self, status: u16, code: &str, field: &str) {
        let body = self.refused(status, code);
        let named: Vec<&str> = body.details.iter().map(|d| d.field.as_str()).collect();
        assert_eq!(named, [field], "{}", self.text());
    }
    #[track_caller]
    pub fn etag(&self) -> String {
        self.header("etag").unwrap_or_else(|| panic!("no ETag: {}", self.text())).to_owned()
    }

    /// What holds for every answer of every path.
    fn check_manners(&self, method: &Method, path: &str) {
        let text = || self.text();
        let request_id = self.header("x-request-id").unwrap_or_else(|| panic!("no request id: {}", text()));
        assert!(request_id.starts_with("req_"), "{request_id}");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
        ] {
            assert_eq!(self.header(name), Some(value), "{name}: {}", text());
        }
        let path = path.split('?').next().unwrap_or_default();
        if path.starts_with("/api/") {
            assert_eq!(self.header("cache-control"), Some("no-store"), "{}", text());
        }
        if let Some(documented) = documented(method, path) {
            assert!(documented.contains(&self.status), "the document does not tell of {}", text());
        }
        if *method == Method::HEAD {
            assert!(self.body.is_empty(), "{}", text());
            return;
        }
        if self.status >= 400 {
            assert_eq!(self.header("content-type"), Some("application/json"), "{}", text());
            let body: ErrorBody = serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", text()));
            assert!(!body.success && body.error.len() > 5 && !body.code.is_empty(), "{}", text());
            assert_eq!(body.request_id, request_id, "{}", text());
            assert!(
                self.status != 401 || self.headers.contains_key(header::WWW_AUTHENTICATE),
                "{}",
                text()
            );
            assert!(
                !matches!(self.status, 429 | 503) || self.headers.contains_key(header::RETRY_AFTER),
                "{}",
                text()
            );
            return;
        }
        let is_json = self.header("content-type") == Some("application/json");
        if is_json && path != "/api/openapi.json" {
            let body = self.json();
            let object = body.as_object().unwrap_or_else(|| panic!("no object: {}", text()));
            assert_eq!(body["success"], Value::Bool(true), "{}", text());
            assert!(object.contains_key("data"), "{}", text());
            for key in object.keys() {
                assert!(
                    matches!(key.as_str(), "success" | "data" | "count" | "nextCursor" | "message"),
                    "{key}: {}",
                    text()
                );
            }
            if let Some(count) = body["count"].as_u64() {
                assert_eq!(Some(count), body["data"].as_array().map(|a| a.len() as u64), "{}", text());
            }
        }
    }
}

/// The statuses that the OpenAPI document names for a request, where it names the path at all.
fn documented(method: &Method, path: &str) -> Option<Vec<u16>> {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    let document = DOCUMENT.get_or_init(|| nm_control::api::openapi::document(&nm_control::api::routes()));
    let is_same = |template: &str| {
        let (wanted, given): (Vec<&str>, Vec<&str>) = (template.split('/').collect(), path.split('/').collect());
        wanted.len() == given.len()
            && wanted
                .iter()
                .zip(&given)
                .all(|(w, g)| w == g || (w.starts_with('{') && !g.is_empty()))
    };
    let mut matching: Vec<(&String, &Value)> = document["paths"].as_object()?.iter().filter(|(t, _)| is_same(t)).collect();
    // A literal path goes before one with variables.
    matching.sort_by_key(|(template, _)| template.matches('{').count());
    let operation = matching.first()?.1.get(method.as_str().to_ascii_lowercase())?;
    Some(operation["responses"].as_object()?.keys().filter_map(|s| s.parse().ok()).collect())
}
