//! A proxy on loopback with members to talk to, for the tests of this folder. Each test file uses a part of it.
#![expect(dead_code, reason = "every test file is a program of its own and uses only some of this")]

pub mod frames;
pub mod member;
pub mod tls;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use nm_proxy::{AccessLogTo, Options};
use nm_waits::{DEADLINE, free_port, soon};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A proxy that runs in this process, on threads of its own.
pub struct Proxy {
    pub folder: Arc<tempfile::TempDir>,
    pub port: u16,
    pub socket: PathBuf,
    generation: AtomicU64,
    thread: Option<JoinHandle<()>>,
}

/// `listeners` and `clusters` as a document. Each listener that names no port or address gets the proxy's.
pub fn document(generation: u64, port: u16, listeners: Value, clusters: Value) -> Value {
    let mut listeners = listeners;
    for listener in listeners.as_array_mut().unwrap() {
        let listener = listener.as_object_mut().unwrap();
        listener.entry("id").or_insert(json!("web"));
        listener.entry("address").or_insert(json!("127.0.0.1"));
        listener.entry("port").or_insert(json!(port));
        listener.entry("protocol").or_insert(json!("http"));
    }
    json!({"generation": generation, "listeners": listeners, "clusters": clusters})
}

/// One cluster `c` behind one HTTP listener.
pub fn simple(cluster: Value) -> (Value, Value) {
    let mut cluster = cluster;
    cluster["id"] = json!("c");
    (json!([{"routes": [{"cluster": "c"}]}]), json!([cluster]))
}

impl Proxy {
    /// With one cluster behind one HTTP listener.
    pub async fn with(cluster: Value) -> Self {
        let (listeners, clusters) = simple(cluster);
        Self::start(listeners, clusters).await
    }

    pub async fn start(listeners: Value, clusters: Value) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let proxy = Self::launch(folder, free_port(), 2).await;
        proxy.put(listeners, clusters).await;
        proxy
    }

    pub async fn launch(folder: Arc<tempfile::TempDir>, port: u16, workers: usize) -> Self {
        let grace = Duration::from_secs(5);
        Self::launch_with(folder, port, workers, grace, grace).await
    }

    pub async fn launch_with(folder: Arc<tempfile::TempDir>, port: u16, workers: usize, grace: Duration, handover_grace: Duration) -> Self {
        let socket = folder.path().join("control.sock");
        let options = Options {
            config: folder.path().join("proxy.json"),
            control_socket: socket.clone(),
            workers,
            grace,
            handover_grace,
            access_log: AccessLogTo::File(folder.path().join("access.log")),
        };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(nm_proxy::run(options)).unwrap();
        });
        let proxy = Self {
            folder,
            port,
            socket,
            generation: AtomicU64::new(0),
            thread: Some(thread),
        };
        eventually("the proxy answers", async || {
            proxy.try_control(Method::GET, "/v1/status", None).await.is_some()
        })
        .await;
        proxy
    }

    /// Brings a configuration into force.
    pub async fn put(&self, listeners: Value, clusters: Value) {
        let (status, answer) = self.try_put(listeners, clusters).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    }

    pub async fn try_put(&self, listeners: Value, clusters: Value) -> (StatusCode, Value) {
        let generation = self.generation.fetch_add(1, SeqCst) + 1;
        let document = document(generation, self.port, listeners, clusters);
        self.control(Method::PUT, "/v1/config", Some(document)).await
    }

    pub async fn control(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        self.try_control(method, path, body).await.unwrap()
    }

    async fn try_control(&self, method: Method, path: &str, body: Option<Value>) -> Option<(StatusCode, Value)> {
        let stream = UnixStream::connect(&self.socket).await.ok()?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        let body = Bytes::from(body.map(|b| b.to_string()).unwrap_or_default());
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "proxy")
            .body(Full::new(body))
            .unwrap();
        let answer = sender.send_request(request).await.ok()?;
        let status = answer.status();
        let text = answer.into_body().collect().await.ok()?.to_bytes();
        Some((status, serde_json::from_slice(&text).unwrap()))
    }

    pub async fn status(&self) -> Value {
        self.control(Method::GET, "/v1/status", None).await.1
    }

    /// The state of a member of the first cluster.
    pub async fn member_state(&self, id: &str) -> String {
        let status = self.status().await;
        let members = status["clusters"][0]["members"].as_array().unwrap().clone();
        let member = members.iter().find(|m| m["id"] == id).unwrap();
        member["state"].as_str().unwrap().to_owned()
    }

    pub async fn metrics(&self) -> Value {
        self.control(Method::GET, "/v1/metrics", None).await.1
    }

    pub async fn events(&self) -> Vec<Value> {
        let answer = self.control(Method::GET, "/v1/events?after=0", None).await.1;
        answer["events"].as_array().unwrap().clone()
    }

    pub fn address(&self) -> SocketAddr {
        local(self.port)
    }

    pub async fn get(&self, path: &str) -> Reply {
        Connection::open(self.address()).await.get(path).await
    }

    /// Sends raw bytes and answers everything that comes until the connection closes.
    pub async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address()).await.unwrap();
        // The proxy may refuse and close before all was written.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    pub async fn drain(&self) {
        let (status, _) = self.control(Method::POST, "/v1/drain", None).await;
        assert_eq!(status, StatusCode::ACCEPTED);
    }

    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

/// An answer, read whole.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|v| v.to_str().unwrap())
    }

    pub async fn read(answer: Response<hyper::body::Incoming>) -> Result<Self, hyper::Error> {
        let (head, body) = answer.into_parts();
        Ok(Self {
            status: head.status,
            headers: head.headers,
            body: body.collect().await?.to_bytes(),
        })
    }
}

/// A client's connection that is used again and again.
pub struct Connection {
    pub sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap()).await
    }

    pub async fn over(stream: TcpStream) -> Self {
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        Self { sender }
    }

    pub async fn get(&mut self, path: &str) -> Reply {
        self.send(request(Method::GET, path, &[], "")).await.unwrap()
    }

    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Reply, hyper::Error> {
        self.sender.ready().await?;
        Reply::read(self.sender.send_request(request).await?).await
    }
}

pub fn request(method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", "app.example");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::from(body.to_owned())).unwrap()
}

/// Clients that ask again and again, each over a connection that it keeps as long as the proxy does.
pub struct Load {
    stop: Arc<std::sync::atomic::AtomicBool>,
    clients: Vec<tokio::task::JoinHandle<Vec<String>>>,
    pub done: Arc<AtomicU64>,
}

impl Load {
    pub fn start(address: SocketAddr, clients: usize) -> Self {
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let done = Arc::new(AtomicU64::new(0));
        let client = || {
            let (stop, done) = (stop.clone(), done.clone());
            tokio::spawn(async move {
                let mut failures = Vec::new();
                let mut connection = None;
                while !stop.load(SeqCst) {
                    let mut open = match connection.take() {
                        Some(open) => open,
                        None => match TcpStream::connect(address).await {
                            Ok(stream) => Connection::over(stream).await,
                            Err(e) => {
                                failures.push(format!("connect: {e}"));
                                continue;
                            }
                        },
                    };
                    match open.send(request(Method::GET, "/", &[], "")).await {
                        Ok(reply) => {
                            if reply.status != StatusCode::OK {
                                failures.push(format!("{}: {}", reply.status, reply.text()));
                            }
                            if reply.header("connection") != Some("close") {
                                connection = Some(open);
                            }
                        }
                        Err(e) => failures.push(format!("{e:?}")),
                    }
                    done.fetch_add(1, SeqCst);
                }
                failures
            })
        };
        let clients = (0..clients).map(|_| client()).collect();
        Self { stop, clients, done }
    }

    /// Waits until this many further requests have ended.
    pub async fn more(&self, requests: u64) {
        let target = self.done.load(SeqCst) + requests;
        eventually("the load goes on", async || self.done.load(SeqCst) >= target).await;
    }

    /// Ends it; answers how many requests there were and what failed.
    pub async fn end(self) -> (u64, Vec<String>) {
        self.stop.store(true, SeqCst);
        let mut failures = Vec::new();
        for client in self.clients {
            failures.extend(client.await.unwrap());
        }
        (self.done.load(SeqCst), failures)
    }
}

/// Waits until it holds.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    nm_waits::eventually(what, async || holds().await.then_some(())).await;
}
