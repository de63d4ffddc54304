//! The load balancer's own API, over its Unix socket (docs/PROXY.md).

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use nm_types::envelope::FieldProblem;
use nm_types::proxy::{Events, FailoverRequest, Metrics, ProxyConfig, Status};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::task::JoinSet;

/// For what is answered at once.
const AT_ONCE: Duration = Duration::from_secs(5);
/// A configuration: certificates are read, sockets bound, a file is written.
const CONFIGURE: Duration = Duration::from_secs(30);
/// Events are waited for at most 25 s there.
const EVENTS: Duration = Duration::from_secs(35);
/// A thousand clusters with their histograms.
const ANSWER_AT_MOST: usize = 64 << 20;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("nothing listens on its socket")]
    Away(#[source] io::Error),
    #[error("it did not answer within {} s", .0.as_secs())]
    Silent(Duration),
    #[error("the connection to it broke: {0}")]
    Broken(#[source] BoxError),
    #[error("{message}")]
    Refused {
        status: StatusCode,
        message: String,
        details: Vec<FieldProblem>,
    },
}

/// Where one listens. Each call has a connection of its own.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

/// A connection to one process, also when another listens on the socket by now. Its calls go one after another.
pub struct Connection {
    requests: http1::SendRequest<Full<Bytes>>,
    /// What drives it; ends with it.
    _driver: JoinSet<()>,
}

/// A refusal, as it is written.
#[derive(Deserialize)]
struct Failure {
    error: String,
    #[serde(default)]
    details: Vec<FieldProblem>,
}

impl Client {
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub async fn connect(&self) -> Result<Connection, ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(ClientError::Away)?;
        let (requests, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| ClientError::Broken(e.into()))?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // Whoever waits for an answer is told that it broke.
            drop(connection.await);
        });
        Ok(Connection { requests, _driver: driver })
    }

    pub async fn status(&self) -> Result<Status, ClientError> {
        within(AT_ONCE, async { self.connect().await?.status().await }).await
    }

    pub async fn metrics(&self) -> Result<Metrics, ClientError> {
        within(AT_ONCE, async { self.connect().await?.metrics().await }).await
    }

    pub async fn events(&self, after: u64) -> Result<Events, ClientError> {
        self.call(EVENTS, Method::GET, &format!("/v1/events?after={after}"), Bytes::new())
            .await
    }

    /// Once it is on its disk and in force.
    pub async fn put(&self, config: &ProxyConfig) -> Result<(), ClientError> {
        let body = serde_json::to_vec(config).map_err(|e| ClientError::Broken(e.into()))?;
        let _in_force: IgnoredAny = self.call(CONFIGURE, Method::PUT, "/v1/config", body.into()).await?;
        Ok(())
    }

    pub async fn fail_over(&self, request: &FailoverRequest) -> Result<(), ClientError> {
        let body = serde_json::to_vec(request).map_err(|e| ClientError::Broken(e.into()))?;
        let _active: IgnoredAny = self.call(AT_ONCE, Method::POST, "/v1/failover", body.into()).await?;
        Ok(())
    }

    pub async fn drain(&self) -> Result<(), ClientError> {
        let _draining: IgnoredAny = self.call(AT_ONCE, Method::POST, "/v1/drain", Bytes::new()).await?;
        Ok(())
    }

    async fn call<T: DeserializeOwned>(&self, patience: Duration, method: Method, path: &str, body: Bytes) -> Result<T, ClientError> {
        within(patience, async { self.connect().await?.call(method, path, body).await }).await
    }
}

impl Connection {
    pub async fn status(&mut self) -> Result<Status, ClientError> {
        within(AT_ONCE, self.call(Method::GET, "/v1/status", Bytes::new())).await
    }

    pub async fn metrics(&mut self) -> Result<Metrics, ClientError> {
        within(AT_ONCE, self.call(Method::GET, "/v1/metrics", Bytes::new())).await
    }

    /// Its figures once it counts no more, however long that takes.
    pub async fn last_metrics(mut self) -> Result<Metrics, ClientError> {
        self.call(Method::GET, "/v1/metrics?last", Bytes::new()).await
    }

    async fn call<T: DeserializeOwned>(&mut self, method: Method, path: &str, body: Bytes) -> Result<T, ClientError> {
        let broken = |e: BoxError| ClientError::Broken(e);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, "proxy")
            .body(Full::new(body))
            .map_err(|e| broken(e.into()))?;
        self.requests.ready().await.map_err(|e| broken(e.into()))?;
        let answer = self.requests.send_request(request).await.map_err(|e| broken(e.into()))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_AT_MOST)
            .collect()
            .await
            .map_err(broken)?
            .to_bytes();
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|e| broken(e.into()));
        }
        let (message, details) = match serde_json::from_slice::<Failure>(&body) {
            Ok(failure) => (failure.error, failure.details),
            Err(_) => (format!("it answered {status}"), Vec::new()),
        };
        Err(ClientError::Refused { status, message, details })
    }
}

async fn within<T>(patience: Duration, call: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
    tokio::time::timeout(patience, call)
        .await
        .unwrap_or(Err(ClientError::Silent(patience)))
}
