//! A control plane that answers what a test tells it to, and the built binary run against it.

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use nm_waits::DEADLINE;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

pub const NOW: &str = "2026-02-03T02:30:00.000Z";
pub const CONTAINER: &str = "cont_1770000000000_abcdefghi";
pub const OPERATION: &str = "op_1770000000000_abcdefghi";
pub const NODE: &str = "node_1770000000000_abcdefghi";

/// One request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    pub line: String,
    pub headers: HeaderMap,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }
}

/// The server, and a home folder of its own for the binary.
pub struct Fake {
    pub url: String,
    pub home: TempDir,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// How the binary ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ended {
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

async fn record(State(seen): State<Arc<Mutex<Vec<Seen>>>>, request: Request, next: Next) -> Response {
    let line = format!("{} {}", request.method(), request.uri());
    seen.lock().unwrap().push(Seen {
        line,
        headers: request.headers().clone(),
    });
    next.run(request).await
}

impl Fake {
    /// Serves `router` on a free port until the test ends.
    pub async fn start(router: Router) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let router = router
            .fallback(|| async { refuse(404, "not_found", "there is no such route") })
            .layer(from_fn_with_state(seen.clone(), record));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            url,
            home: tempfile::tempdir().unwrap(),
            seen,
        }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// What was asked so far: `GET /api/containers?limit=200`.
    pub fn lines(&self) -> Vec<String> {
        self.seen().into_iter().map(|s| s.line).collect()
    }

    /// The binary with nothing of this environment, pointed at the server, with a token.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.bare(args);
        command.env("NEURALMESH_SERVER", &self.url).env("NEURALMESH_TOKEN", "nmt_given");
        command
    }

    /// The binary with a home and nothing else.
    pub fn bare(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_neuralmesh"));
        command
            .args(args)
            .env_clear()
            .env("HOME", self.home.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    pub async fn run(&self, args: &[&str]) -> Ended {
        finish(&mut self.command(args)).await
    }

    /// Runs it signed in by a saved login in place of a token in the environment.
    pub async fn run_signed_in(&self, args: &[&str]) -> Ended {
        finish(&mut self.bare(args)).await
    }

    pub fn credentials(&self) -> PathBuf {
        self.home.path().join(".config/neuralmesh/credentials.json")
    }

    /// Saves a login whose access token ends at `expires`.
    pub fn sign_in(&self, access: &str, refresh: &str, expires: &str) {
        let login = json!({ "username": "ann", "accessToken": access, "accessExpires": expires, "refreshToken": refresh });
        let text = json!({ "current": self.url, "servers": { &self.url: login } }).to_string();
        write_private(&self.credentials(), &text);
    }
}

pub fn write_private(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

pub async fn finish(command: &mut Command) -> Ended {
    let output = tokio::time::timeout(DEADLINE, command.output())
        .await
        .expect("it ended in time")
        .unwrap();
    output.into()
}

/// Runs a command with text on its standard input.
pub async fn finish_with_input(command: &mut Command, input: &str) -> Ended {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).await.unwrap();
    drop(stdin);
    tokio::time::timeout(DEADLINE, child.wait_with_output())
        .await
        .expect("it ended in time")
        .unwrap()
        .into()
}

fn reply(status: u16, body: Value) -> Response {
    (
        StatusCode::from_u16(status).unwrap(),
        [(header::CONTENT_TYPE, "application/json")],
        body.to_string(),
    )
        .into_response()
}

/// A good answer.
pub fn data(status: u16, data: Value) -> Response {
    reply(status, json!({ "success": true, "data": data }))
}

pub fn page(items: Value, next: Option<&str>) -> Response {
    let mut body = json!({ "success": true, "count": items.as_array().unwrap().len(), "data": items });
    if let Some(next) = next {
        body["nextCursor"] = json!(next);
    }
    reply(200, body)
}

pub fn refuse(status: u16, code: &str, error: &str) -> Response {
    refuse_with(status, code, error, json!({}))
}

pub fn refuse_with(status: u16, code: &str, error: &str, extra: Value) -> Response {
    let mut body = json!({ "success": false, "error": error, "code": code, "requestId": "req-1" });
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    reply(status, body)
}

/// A stream of events, written as given.
pub fn events(text: impl Into<String>) -> Response {
    ([(header::CONTENT_TYPE, "text/event-stream")], text.into()).into_response()
}

pub fn event(kind: &str, data: &Value) -> String {
    format!("event: {kind}\ndata: {data}\n\n")
}

pub fn container(name: &str) -> Value {
    json!({
        "id": CONTAINER, "name": name, "image": "nginx:latest", "status": "running", "nodeId": NODE,
        "ports": [{ "container": 80, "host": 8080, "protocol": "tcp" }],
        "resources": { "cpuLimit": null, "memoryLimit": "512m", "cpuUsage": 1.5, "memoryUsage": 12.0 },
        "volumes": [], "environment": { "B": "2", "A": "1" }, "labels": {}, "restart": "no", "networks": [{ "network": "bridge" }],
        "created": NOW, "started": NOW, "managed": true, "reachable": true, "restarts": 0, "fromTheFuture": 1
    })
}

pub fn operation(state: &str, extra: Value) -> Value {
    let mut all = json!({
        "id": OPERATION, "kind": "container.create", "state": state, "actor": "ann", "steps": [], "log": [], "cancelRequested": false,
        "created": NOW, "updated": NOW
    });
    all.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    all
}
