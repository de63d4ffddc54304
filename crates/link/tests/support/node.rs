//! A node: an agent link with a service that can do what the tests need.

use super::control::Control;
use super::soon;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use nm_link::AgentFacts;
use nm_link::agent::{AgentLink, AgentOptions, IdentityStore, LinkState, ServerUrl, join};
use nm_link::server::LinkHandle;
use nm_types::NodeId;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub type Body = UnsyncBoxBody<Bytes, Infallible>;

pub fn facts() -> AgentFacts {
    AgentFacts {
        hostname: "alder".into(),
        agent_version: "0.5.0".into(),
        os: "linux".into(),
        arch: "x86_64".into(),
    }
}

/// What the tests see of the service from outside.
pub struct Doings {
    /// Requests to `/hold` that have begun.
    pub held: watch::Sender<usize>,
    /// Requests whose future, or response body, was dropped before its end.
    pub dropped: watch::Sender<usize>,
    pub release: Semaphore,
}

impl Doings {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            held: watch::Sender::new(0),
            dropped: watch::Sender::new(0),
            release: Semaphore::new(0),
        })
    }
}

/// Counts itself when it goes.
struct Noted(Arc<Doings>);
impl Drop for Noted {
    fn drop(&mut self) {
        self.0.dropped.send_modify(|n| *n += 1);
    }
}

pub struct Node {
    pub id: NodeId,
    pub link: Arc<AgentLink>,
    pub doings: Arc<Doings>,
    pub dir: Arc<TempDir>,
    pub states: watch::Receiver<BTreeMap<ServerUrl, LinkState>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Waits and retries short enough for tests.
pub fn quick() -> AgentOptions {
    AgentOptions {
        first_retry: Duration::from_millis(20),
        longest_retry: Duration::from_millis(100),
        stable_after: Duration::ZERO,
        renewal_pause: Duration::from_millis(50),
        longest_renewal_pause: Duration::from_millis(200),
        ..AgentOptions::default()
    }
}

impl Node {
    /// Joins the control plane and links to it.
    pub async fn start(control: &Control) -> Self {
        Self::start_at(control, &[control.url()], quick()).await
    }

    /// Joins the control plane, then links to `urls`.
    pub async fn start_at(control: &Control, urls: &[String], options: AgentOptions) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let store = IdentityStore::open(dir.path()).unwrap();
        let token = control.rules.token();
        soon(
            "joining",
            join(&store, &control.url().parse().unwrap(), &token, &facts(), &options.dial),
        )
        .await
        .unwrap();
        Self::resume(dir, urls, options)
    }

    /// Links with the identity that `dir` holds.
    pub fn resume(dir: Arc<TempDir>, urls: &[String], options: AgentOptions) -> Self {
        let store = IdentityStore::open(dir.path()).unwrap();
        let identity = store.load().unwrap().unwrap();
        let id = identity.node().clone();
        let urls = urls.iter().map(|u| u.parse().unwrap()).collect();
        let link = Arc::new(AgentLink::new(store, identity, urls, options));
        let (doings, stop) = (Doings::new(), CancellationToken::new());
        let service = {
            let (doings, id) = (doings.clone(), id.clone());
            service_fn(move |request| answer(request, doings.clone(), id.clone()))
        };
        let (running, stopping) = (link.clone(), stop.clone());
        let task = tokio::spawn(async move { running.run(service, stopping).await });
        let states = link.states();
        Self {
            id,
            link,
            doings,
            dir,
            states,
            stop,
            task,
        }
    }

    /// Asks the agent to stop, and waits for nothing.
    pub fn ask_to_stop(&self) {
        self.stop.cancel();
    }

    pub async fn stop(self) -> Arc<TempDir> {
        self.stop.cancel();
        soon("the agent stops", self.task).await.unwrap();
        self.dir
    }

    /// Waits until the state towards the one control plane is as wanted, and gives it.
    pub async fn state(&self, wanted: impl Fn(&LinkState) -> bool) -> LinkState {
        let mut states = self.states.clone();
        let found = soon("the agent's state", states.wait_for(|all| all.values().any(&wanted)))
            .await
            .unwrap();
        found.values().find(|s| wanted(s)).unwrap().clone()
    }
}

pub async fn at_least(counter: &watch::Sender<usize>, n: usize) {
    soon("the count", counter.subscribe().wait_for(|have| *have >= n)).await.unwrap();
}

async fn answer(request: Request<Incoming>, doings: Arc<Doings>, id: NodeId) -> Result<Response<Body>, Infallible> {
    let query: u64 = request.uri().query().and_then(|q| q.parse().ok()).unwrap_or(0);
    let body = match request.uri().path() {
        "/who" => full(id.to_string()),
        "/echo" => request.into_body().map_frame(|f| f).map_err(|_| unreachable_body()).boxed_unsync(),
        // Reads everything and says how much it was and what.
        "/sink" => {
            let mut body = request.into_body();
            let (mut length, mut hash) = (0u64, Sha256::new());
            while let Some(Ok(frame)) = body.frame().await {
                if let Some(data) = frame.data_ref() {
                    length += data.len() as u64;
                    hash.update(data);
                }
            }
            full(format!("{length} {}", hex::encode(hash.finalize())))
        }
        "/source" => stream(pattern(query)),
        "/endless" => {
            let noted = Noted(doings);
            stream(futures_util::stream::repeat(Bytes::from_static(&[b'x'; 16_384])).map(move |b| {
                let _alive = &noted;
                b
            }))
        }
        // Answers when it is released.
        "/hold" => {
            let noted = Noted(doings.clone());
            doings.held.send_modify(|n| *n += 1);
            doings.release.acquire().await.unwrap().forget();
            std::mem::forget(noted);
            full("released".into())
        }
        // Answers at once and never reads what is sent to it.
        "/unread" => {
            let body = request.into_body();
            doings.held.send_modify(|n| *n += 1);
            stream(futures_util::stream::unfold(body, |body| async move {
                std::future::pending::<()>().await;
                Some((Bytes::new(), body))
            }))
        }
        _ => {
            let mut response = Response::new(Empty::new().boxed_unsync());
            *response.status_mut() = StatusCode::NOT_FOUND;
            return Ok(response);
        }
    };
    Ok(Response::new(body))
}

/// The echo of a body that broke off: the stream is gone with it, so nobody sees this.
fn unreachable_body() -> Infallible {
    panic!("the request's body broke off")
}

fn full(text: String) -> Body {
    Full::from(text).boxed_unsync()
}

fn stream(chunks: impl Stream<Item = Bytes> + Send + 'static) -> Body {
    BodyExt::boxed_unsync(StreamBody::new(chunks.map(|c| Ok(Frame::data(c)))))
}

/// `length` bytes that are not all the same.
pub fn pattern(length: u64) -> impl Stream<Item = Bytes> + Send {
    const CHUNK: u64 = 64 * 1024;
    futures_util::stream::iter((0..length.div_ceil(CHUNK)).map(move |n| {
        let size = CHUNK.min(length - n * CHUNK) as usize;
        let byte = (n % 251) as u8;
        Bytes::from(vec![byte; size])
    }))
}

pub async fn sha256_of_pattern(length: u64) -> String {
    let mut hash = Sha256::new();
    let mut chunks = std::pin::pin!(pattern(length));
    while let Some(chunk) = chunks.next().await {
        hash.update(&chunk);
    }
    hex::encode(hash.finalize())
}

pub fn get(path: &str) -> Request<Empty<Bytes>> {
    Request::get(path).body(Empty::new()).unwrap()
}

pub fn post(path: &str, chunks: impl Stream<Item = Bytes> + Send + 'static) -> Request<Body> {
    Request::post(path).body(stream(chunks)).unwrap()
}

/// The whole answer to a GET, as text.
pub async fn ask(link: &LinkHandle, path: &str) -> String {
    let response = soon(path, link.send(get(path))).await.unwrap();
    assert!(response.status().is_success(), "{path}: {}", response.status());
    text(response).await
}

pub async fn text(response: Response<Incoming>) -> String {
    let bytes = soon("the answer's body", response.into_body().collect()).await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}
