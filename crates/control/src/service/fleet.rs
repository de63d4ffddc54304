//! Typed calls to agents over their links. What an agent or a link answers badly becomes an [`ApiError`] here and nowhere
//! else.

use crate::api::error::{ApiError, ApiResult};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::Incoming;
use nm_link::contract::{AgentError, ContainerKey, Progress, path};
use nm_link::server::{LinkHandle, Links};
use nm_link::{Delivery, LinkError, trace};
use nm_types::NodeId;
use nm_types::measure::Durations;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tracing::Instrument;

/// For an agent's answer to a short call to begin. Docker's own slowest short call, a stop, has its grace on top.
const SHORT: Duration = Duration::from_secs(20);
/// Between two attempts at the same call over a link that stands.
const AGAIN: Duration = Duration::from_secs(1);
/// The most a short answer may hold.
const ANSWER_LIMIT: usize = 32 << 20;
/// A buffer that held a line longer than this is not kept for the next.
const KEPT_BUFFER: usize = 8 << 10;
/// The most one line of a long answer may hold.
const LINE_LIMIT: usize = 32 << 20;

/// The nodes that are connected.
#[derive(Clone)]
pub struct Fleet {
    links: Links,
    calls: Arc<Calls>,
}

/// Calls to agents since this process began.
#[derive(Debug, Default)]
pub struct Calls {
    /// Until the head of the answer came, or word that none will.
    pub took: Durations,
    answered: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
}

impl Calls {
    /// How many ended in each way.
    pub fn by_result(&self) -> [(&'static str, u64); 3] {
        [("ok", &self.answered), ("refused", &self.refused), ("failed", &self.failed)].map(|(r, n)| (r, n.load(Ordering::Relaxed)))
    }
    fn count<T>(&self, result: &Result<T, CallError>, took: Duration) {
        self.took.observe(took);
        let counter = match result {
            Ok(_) => &self.answered,
            Err(CallError::Refused(_)) => &self.refused,
            Err(CallError::Link { .. }) => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// One node's agent, for as long as its link lives.
#[derive(Debug, Clone)]
pub struct Agent {
    link: LinkHandle,
    calls: Arc<Calls>,
}

impl Fleet {
    pub fn new(links: Links) -> Self {
        Self {
            links,
            calls: Arc::default(),
        }
    }
    pub fn calls(&self) -> &Calls {
        &self.calls
    }
    fn over(&self, link: LinkHandle) -> Agent {
        Agent {
            link,
            calls: self.calls.clone(),
        }
    }
    pub fn links(&self) -> &Links {
        &self.links
    }
    pub fn is_connected(&self, node: &NodeId) -> bool {
        self.links.get(node).is_some()
    }
    /// The node's agent; 503 where it is not connected.
    pub fn agent(&self, node: &NodeId) -> ApiResult<Agent> {
        self.links.get(node).map(|link| self.over(link)).ok_or_else(|| offline(node))
    }
    /// Waits until the node is connected.
    pub async fn connected(&self, node: &NodeId) -> Agent {
        let mut events = self.links.events();
        loop {
            if let Some(link) = self.links.get(node) {
                return self.over(link);
            }
            // Whatever comes, also word of having missed some, is a reason to look again.
            if let Err(tokio::sync::broadcast::error::RecvError::Closed) = events.recv().await {
                std::future::pending::<()>().await;
            }
        }
    }
}

pub fn offline(node: &NodeId) -> ApiError {
    ApiError::unavailable(
        "node_offline",
        format!("node {node} is not connected: check that the machine runs and `neuralmesh agent` on it"),
    )
}

/// The node may have done what was asked of it, or not.
fn disconnected(node: &NodeId) -> ApiError {
    ApiError::unavailable(
        "node_disconnected",
        format!("the link to node {node} broke before it answered: it may have been done; look, and ask again where not"),
    )
}

/// How a call ended that did not end well.
#[derive(Debug)]
pub enum CallError {
    /// The link is gone or was never there; `sent` says whether the agent may have done it.
    Link { sent: bool, error: ApiError },
    /// The agent said no.
    Refused(AgentError),
}

impl CallError {
    fn code(&self) -> String {
        match self {
            Self::Link { error, .. } => error.code.clone(),
            Self::Refused(error) => match serde_json::to_value(error.code) {
                Ok(serde_json::Value::String(code)) => code,
                Ok(_) | Err(_) => "refused".into(),
            },
        }
    }
}

impl From<CallError> for ApiError {
    fn from(e: CallError) -> Self {
        match e {
            CallError::Link { error, .. } => error,
            CallError::Refused(e) => e.into(),
        }
    }
}

fn link_error(e: LinkError) -> CallError {
    let sent = e.delivery() == Delivery::MayHaveBeenSent;
    let node = e.node().clone();
    tracing::debug!(node.id = %node, error = &e as &dyn std::error::Error, "a call over a link failed");
    let error = match e {
        LinkError::Closed { .. } if sent => disconnected(&node),
        LinkError::NotConnected { .. } | LinkError::Closed { .. } => offline(&node),
        LinkError::Aborted { .. } => ApiError::unavailable("node_aborted", format!("node {node} ended the call before it answered: retry")),
        LinkError::Timeout { after, .. } => ApiError::unavailable(
            "node_timeout",
            format!("node {node} did not answer within {} seconds", after.as_secs()),
        ),
    };
    CallError::Link { sent, error }
}

fn broken(agent: &Agent) -> CallError {
    CallError::Link {
        sent: true,
        error: disconnected(agent.link.node()),
    }
}

fn garbled(agent: &Agent, error: serde_json::Error) -> CallError {
    tracing::error!(node.id = %agent.link.node(), %error, "an agent's answer could not be read");
    CallError::Link {
        sent: true,
        error: ApiError::internal(),
    }
}

impl Agent {
    pub fn link(&self) -> &LinkHandle {
        &self.link
    }

    /// Waits until it makes sense to ask again after a call that broke: once a broken link has left the table, or a moment
    /// later where the link stands and only the one exchange was lost.
    pub async fn before_asking_again(&self) {
        tokio::select! {
            _ = self.link.closed() => {}
            () = tokio::time::sleep(AGAIN) => {}
        }
    }

    /// One call as a span of the trace it belongs to, as long as `work` on it takes.
    async fn traced<T>(&self, method: &Method, path: &str, work: impl Future<Output = Result<T, CallError>>) -> Result<T, CallError> {
        let span = trace::call(self.link.node(), method, path);
        let result = work.instrument(span.clone()).await;
        if let Err(error) = &result {
            trace::failed(&span, &error.code());
        }
        result
    }

    async fn send<B>(&self, request: Request<B>, deadline: Duration) -> Result<Response<Incoming>, CallError>
    where
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let began = Instant::now();
        let result = self.exchange(request, deadline).await;
        self.calls.count(&result, began.elapsed());
        result
    }

    async fn exchange<B>(&self, request: Request<B>, deadline: Duration) -> Result<Response<Incoming>, CallError>
    where
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let response = self.link.send_within(request, deadline).await.map_err(link_error)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let bytes = Limited::new(response.into_body(), 1 << 20)
            .collect()
            .await
            .map_err(|_| broken(self))?
            .to_bytes();
        match serde_json::from_slice::<AgentError>(&bytes) {
            Ok(error) => Err(CallError::Refused(error)),
            Err(_) => {
                tracing::error!(node.id = %self.link.node(), http.status = status.as_u16(), "an agent answered with something that is not in the contract");
                Err(CallError::Link {
                    sent: true,
                    error: ApiError::internal(),
                })
            }
        }
    }

    /// The whole of a short answer.
    pub async fn whole<T: DeserializeOwned>(&self, response: Response<Incoming>) -> Result<T, CallError> {
        let bytes = Limited::new(response.into_body(), ANSWER_LIMIT)
            .collect()
            .await
            .map_err(|_| broken(self))?
            .to_bytes();
        serde_json::from_slice(&bytes).map_err(|e| garbled(self, e))
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CallError> {
        self.traced(&Method::GET, path, async {
            let response = self.send(request(Method::GET, path, Empty::new()), SHORT).await?;
            self.whole(response).await
        })
        .await
    }

    /// `extra` is how long the agent may wait for something to tell, on top of what a short call may take.
    pub async fn get_within<T: DeserializeOwned>(&self, path: &str, extra: Duration) -> Result<T, CallError> {
        self.traced(&Method::GET, path, async {
            let response = self.send(request(Method::GET, path, Empty::new()), SHORT + extra).await?;
            self.whole(response).await
        })
        .await
    }

    pub async fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, CallError> {
        self.traced(&Method::PUT, path, async {
            // Contract types always write as JSON.
            let body = serde_json::to_vec(body).unwrap_or_default();
            let response = self.send(with_json(Method::PUT, path, body), SHORT).await?;
            self.whole(response).await
        })
        .await
    }

    /// `extra` is what the work itself may take, on top of what a short call may.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize, extra: Duration) -> Result<T, CallError> {
        self.traced(&Method::POST, path, async {
            let response = self.send(json_request(path, body), SHORT + extra).await?;
            self.whole(response).await
        })
        .await
    }

    /// A call that answers with one JSON value a line, for as long as it takes.
    pub async fn lines<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<impl Stream<Item = Result<T, CallError>> + Send + use<T>, CallError> {
        self.traced(&method, path, self.read_lines(method.clone(), path, body)).await
    }

    async fn read_lines<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<impl Stream<Item = Result<T, CallError>> + Send + use<T>, CallError> {
        let response = match body {
            Some(bytes) => self.send(with_json(method, path, bytes), SHORT).await?,
            None => self.send(request(method, path, Empty::new()), SHORT).await?,
        };
        Ok(lines(self.clone(), response.into_body()))
    }

    /// Follows a long call to its result; each line that is not the result goes to `on`.
    pub async fn progress<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        mut on: impl FnMut(Progress<T>),
    ) -> Result<T, CallError> {
        let bytes = serde_json::to_vec(body).map_err(|e| garbled(self, e))?;
        self.traced(&Method::POST, path, async {
            let mut lines = std::pin::pin!(self.read_lines::<Progress<T>>(Method::POST, path, Some(bytes)).await?);
            while let Some(line) = lines.next().await {
                match line? {
                    Progress::Done { result } => return Ok(result),
                    Progress::Failed { error } => return Err(CallError::Refused(error)),
                    step => on(step),
                }
            }
            Err(broken(self))
        })
        .await
    }

    /// A call with a stream each way: the terminal, archives, loading an image.
    pub async fn duplex<B>(
        &self,
        method: Method,
        path: &str,
        content_type: &'static str,
        body: B,
        deadline: Duration,
    ) -> Result<Response<Incoming>, CallError>
    where
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut request = request(method.clone(), path, body);
        request
            .headers_mut()
            .insert(header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
        self.traced(&method, path, self.send(request, deadline)).await
    }
}

fn request<B>(method: Method, path: &str, body: B) -> Request<B> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    // Paths are constants of the contract with ids and encoded queries in them.
    *request.uri_mut() = path.parse().unwrap_or_else(|_| http::Uri::from_static("/"));
    request
}

fn with_json(method: Method, path: &str, bytes: Vec<u8>) -> Request<Full<Bytes>> {
    let mut request = request(method, path, Full::new(Bytes::from(bytes)));
    request
        .headers_mut()
        .insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    request
}

fn json_request(path: &str, body: &impl Serialize) -> Request<Full<Bytes>> {
    // Contract types always write as JSON.
    with_json(Method::POST, path, serde_json::to_vec(body).unwrap_or_default())
}

/// `path?query` with `query` as the contract's query types write it.
pub fn with_query(path: &str, query: &impl Serialize) -> String {
    match serde_urlencoded::to_string(query) {
        Ok(query) if !query.is_empty() => format!("{path}?{query}"),
        _ => path.to_owned(),
    }
}

fn lines<T: DeserializeOwned>(agent: Agent, body: Incoming) -> impl Stream<Item = Result<T, CallError>> + Send {
    struct Reader {
        agent: Agent,
        body: Incoming,
        buffer: BytesMut,
        searched: usize,
        ended: bool,
    }
    let reader = Reader {
        agent,
        body,
        buffer: BytesMut::new(),
        searched: 0,
        ended: false,
    };
    futures_util::stream::unfold(reader, |mut r| async move {
        loop {
            if let Some(at) = r.buffer[r.searched..].iter().position(|b| *b == b'\n') {
                let line = r.buffer.split_to(r.searched + at + 1);
                r.searched = 0;
                if line.len() <= 1 {
                    continue;
                }
                let value = serde_json::from_slice(&line).map_err(|e| garbled(&r.agent, e));
                if r.buffer.is_empty() && line.len() > KEPT_BUFFER {
                    // A watch begins with a snapshot of everything and goes on for weeks with short lines.
                    r.buffer = BytesMut::new();
                }
                return Some((value, r));
            }
            r.searched = r.buffer.len();
            if r.ended {
                return None;
            }
            match r.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        r.buffer.extend_from_slice(data);
                    }
                    if r.buffer.len() > LINE_LIMIT {
                        r.ended = true;
                        r.buffer.clear();
                        r.searched = 0;
                        return Some((Err(broken(&r.agent)), r));
                    }
                }
                Some(Err(_)) => {
                    r.ended = true;
                    r.buffer.clear();
                    r.searched = 0;
                    return Some((Err(broken(&r.agent)), r));
                }
                None => r.ended = true,
            }
        }
    })
}

/// Whether a status says that trying again later is all that is needed.
pub fn is_passing(error: &ApiError) -> bool {
    error.status == StatusCode::SERVICE_UNAVAILABLE && error.code.starts_with("node_")
}

/// The path of one container at its agent.
pub fn keyed(route: &str, record: &super::index::Record) -> String {
    path::keyed(route, &container_key(record))
}

/// How a container is named to its agent.
pub fn container_key(record: &super::index::Record) -> ContainerKey {
    match (record.managed(), record.docker_id()) {
        (false, Some(docker_id)) => ContainerKey::Docker(docker_id.into()),
        (true, _) | (false, None) => ContainerKey::Ours(record.id.clone()),
    }
}
