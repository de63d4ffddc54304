//! Members: servers that answer with their name, or do worse.

use super::local;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// A server whose connections all end with it.
pub struct Member {
    pub name: String,
    pub port: u16,
    /// Requests or connections it has seen.
    pub seen: Arc<AtomicU64>,
    task: Option<JoinHandle<()>>,
}

impl Member {
    /// Answers 200 with its name.
    pub async fn named(name: &str) -> Self {
        let text = name.to_owned();
        Self::http(name, 0, move |_| {
            let text = text.clone();
            async move { Response::new(Full::from(text)) }
        })
        .await
    }

    pub async fn http<F>(name: &str, port: u16, answer: impl Fn(Request<Incoming>) -> F + Send + Sync + Clone + 'static) -> Self
    where
        F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        let seen = Arc::new(AtomicU64::new(0));
        let counter = seen.clone();
        Self::tcp(name, port, seen, move |stream| {
            let (answer, counter) = (answer.clone(), counter.clone());
            async move {
                let service = service_fn(move |request| {
                    counter.fetch_add(1, SeqCst);
                    let answer = answer(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                let _ = served.with_upgrades().await;
            }
        })
        .await
    }

    /// Answers with all it is sent, as it is sent.
    pub async fn http_stream(name: &str) -> Self {
        Self::tcp(name, 0, Arc::default(), |stream| async move {
            let service = service_fn(|request: Request<Incoming>| async { Ok::<_, Infallible>(Response::new(request.into_body())) });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        })
        .await
    }

    pub async fn tcp<F>(name: &str, port: u16, seen: Arc<AtomicU64>, serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(local(port)).unwrap();
        let listener: TcpListener = socket.listen(4096).unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream));
                while connections.try_join_next().is_some() {}
            }
        });
        Self {
            name: name.to_owned(),
            port,
            seen,
            task: Some(task),
        }
    }

    /// Records all it is sent; answers each connection's first bytes with `answer`.
    pub async fn raw(name: &str, answer: &'static [u8]) -> (Self, Arc<Mutex<Vec<u8>>>) {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (seen, into) = (Arc::new(AtomicU64::new(0)), heard.clone());
        let counter = seen.clone();
        let member = Self::tcp(name, 0, seen, move |mut stream| {
            let (into, counter) = (into.clone(), counter.clone());
            async move {
                counter.fetch_add(1, SeqCst);
                let mut buffer = vec![0; 64 << 10];
                let mut answered = false;
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    into.lock().unwrap().extend_from_slice(&buffer[..count]);
                    if !answered && stream.write_all(answer).await.is_err() {
                        break;
                    }
                    answered = true;
                }
            }
        })
        .await;
        (member, heard)
    }

    pub fn seen(&self) -> u64 {
        self.seen.load(SeqCst)
    }

    /// As it stands in a configuration.
    pub fn json(&self) -> Value {
        json!({"id": self.name, "address": "127.0.0.1", "port": self.port})
    }

    pub fn weighing(&self, weight: u16) -> Value {
        let mut json = self.json();
        json["weight"] = weight.into();
        json
    }

    /// Ends it at once: its port refuses, its connections are cut.
    pub async fn kill(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Several named `m0`, `m1`, …
pub async fn some(count: usize) -> Vec<Member> {
    let mut members = Vec::new();
    for i in 0..count {
        members.push(Member::named(&format!("m{i}")).await);
    }
    members
}

pub fn all(members: &[Member]) -> Value {
    members.iter().map(Member::json).collect()
}
