//! The API on the Unix socket: configuration in, status, figures and events out. HTTP/1.1, JSON, no authentication but the
//! socket's own mode (0600).

mod report;

use crate::cluster::NoFailover;
use crate::engine::{Engine, Refused};
use crate::file;
use crate::takeover::Knowledge;
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nm_types::envelope::FieldProblem;
use nm_types::proxy::FailoverRequest;
use serde::Serialize;
use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, watch};

/// The largest configuration that is read.
const BODY_AT_MOST: usize = 32 << 20;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a question for events waits for one.
const EVENTS_WAIT: Duration = Duration::from_secs(25);

/// What the API acts on.
pub struct Control {
    pub engine: Arc<Engine>,
    /// Somebody asked for the end.
    pub drain: Notify,
    /// It has come: nothing is counted any more, and who waits for last words is answered.
    pub ended: watch::Sender<bool>,
}

impl Control {
    async fn end(&self) {
        // It can't fail: the sender is ours.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }
}

/// Listens at `path`. What lies there is replaced in one step, so that there is always a socket to talk to.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let fresh = PathBuf::from(name);
    if fresh.exists() {
        std::fs::remove_file(&fresh)?;
    }
    let listener = UnixListener::bind(&fresh)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&fresh, path)?;
    Ok(listener)
}

/// Serves until the end, and until all who have asked by then are answered.
pub async fn serve(listener: UnixListener, control: Arc<Control>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            () = control.end() => break,
            accepted = listener.accept() => {
                let stream = match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "can't take a connection on the control socket");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                };
                let control = control.clone();
                connections.spawn(connection(stream, control.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
    while connections.join_next().await.is_some() {}
}

async fn connection(stream: UnixStream, control: Arc<Control>) {
    let asked = control.clone();
    let service = service_fn(move |request| answer(asked.clone(), request));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // One that breaks concerns only who broke it.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = control.end() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

type Answer = Response<Full<Bytes>>;

/// What went wrong, as the API of the control plane says it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Failure {
    error: String,
    code: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    details: Vec<FieldProblem>,
}

async fn answer(control: Arc<Control>, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let engine = &control.engine;
    Ok(match (request.method(), path.as_str()) {
        (&Method::PUT, "/v1/config") => match body(request).await {
            Ok(text) => put_config(engine, &text),
            Err(failed) => failed,
        },
        (&Method::GET, "/v1/status") => json(StatusCode::OK, &report::status(engine)),
        (&Method::GET, "/v1/metrics") => {
            if query == "last" {
                control.end().await;
            }
            json(StatusCode::OK, &report::metrics(engine))
        }
        (&Method::GET, "/v1/events") => match after(&query) {
            Some(after) => {
                let told = tokio::select! {
                    told = engine.instance.events_after(after, EVENTS_WAIT) => told,
                    () = control.end() => engine.instance.events_after(after, Duration::ZERO).await,
                };
                json(StatusCode::OK, &told)
            }
            None => failure(
                StatusCode::BAD_REQUEST,
                "bad_query",
                "`after` is the number of the last event you know",
            ),
        },
        (&Method::POST, "/v1/failover") => match body(request).await {
            Ok(text) => post_failover(engine, &text),
            Err(failed) => failed,
        },
        (&Method::POST, "/v1/drain") => {
            control.drain.notify_one();
            json(StatusCode::ACCEPTED, &serde_json::json!({"draining": true}))
        }
        (_, "/v1/config" | "/v1/status" | "/v1/metrics" | "/v1/events" | "/v1/failover" | "/v1/drain") => {
            failure(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this path has another method")
        }
        _ => failure(StatusCode::NOT_FOUND, "not_found", "there is nothing under this path"),
    })
}

fn after(query: &str) -> Option<u64> {
    match query {
        "" => Some(0),
        _ => query.strip_prefix("after=")?.parse().ok(),
    }
}

async fn body(request: Request<Incoming>) -> Result<Bytes, Answer> {
    let read = Limited::new(request.into_body(), BODY_AT_MOST).collect().await;
    read.map(http_body_util::Collected::to_bytes).map_err(|e| {
        if e.is::<http_body_util::LengthLimitError>() {
            failure(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "a configuration has at most 32 MiB")
        } else {
            failure(StatusCode::BAD_REQUEST, "bad_body", "the request broke off")
        }
    })
}

fn put_config(engine: &Engine, text: &[u8]) -> Answer {
    let config = match file::parse(text) {
        Ok(config) => config,
        Err((field, message)) => return invalid(StatusCode::BAD_REQUEST, vec![FieldProblem { field, message }]),
    };
    match engine.apply(&config, true, HashMap::new(), &Knowledge::default()) {
        Ok(()) => json(StatusCode::OK, &serde_json::json!({"generation": config.generation})),
        Err(Refused::Invalid(problems)) => invalid(StatusCode::UNPROCESSABLE_ENTITY, problems),
        Err(why @ (Refused::Stale { .. } | Refused::Draining)) => failure(StatusCode::CONFLICT, "conflict", &why.to_string()),
        Err(why @ (Refused::Write { .. } | Refused::Worker(_))) => {
            let cause = std::error::Error::source(&why).map_or(String::new(), |e| format!(": {e}"));
            tracing::error!("{why}{cause}");
            failure(StatusCode::INTERNAL_SERVER_ERROR, "not_applied", &format!("{why}{cause}"))
        }
    }
}

fn post_failover(engine: &Engine, text: &[u8]) -> Answer {
    let asked: FailoverRequest = match serde_json::from_slice(text) {
        Ok(asked) => asked,
        Err(e) => return failure(StatusCode::BAD_REQUEST, "bad_body", &e.to_string()),
    };
    match engine.fail_over(&asked.cluster, asked.member.as_deref()) {
        None => failure(StatusCode::NOT_FOUND, "cluster_not_found", "there is no such cluster"),
        Some(Ok(member)) => json(StatusCode::OK, &serde_json::json!({"activeMember": member})),
        Some(Err(why @ NoFailover::UnknownMember(_))) => failure(StatusCode::NOT_FOUND, "member_not_found", &why.to_string()),
        Some(Err(why @ NoFailover::NotActiveStandby)) => failure(StatusCode::UNPROCESSABLE_ENTITY, "not_active_standby", &why.to_string()),
        Some(Err(why @ (NoFailover::NotUp(_) | NoFailover::NoOther))) => failure(StatusCode::CONFLICT, "no_failover", &why.to_string()),
    }
}

fn invalid(status: StatusCode, details: Vec<FieldProblem>) -> Answer {
    let error = "the configuration is wrong; the one before it stays in force".to_owned();
    json(
        status,
        &Failure {
            error,
            code: "invalid_config",
            details,
        },
    )
}

fn failure(status: StatusCode, code: &'static str, error: &str) -> Answer {
    json(
        status,
        &Failure {
            error: error.to_owned(),
            code,
            details: Vec::new(),
        },
    )
}

fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    let (status, text) = match serde_json::to_vec(value) {
        Ok(text) => (status, text),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string().into_bytes()),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
