//! An agent of its own for each test, what it is asked with, and Docker's own command line beside it.

use axum::body::{Body, BodyDataStream};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::StreamExt;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use nm_agent::{Agent, AgentConfig, BackupWorker};
use nm_link::contract::{Action, AgentError, AgentErrorCode, Command, CreateContainer, Progress, WatchEvent, path};
use nm_types::container::{ContainerSpec, ObservedContainer};
use nm_types::{ContainerId, OperationId};
use nm_waits::DEADLINE;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

pub const SOCKET: &str = "/var/run/docker.sock";
/// Ends the test early, in words, where there is no engine and none is required.
macro_rules! need_docker {
    () => {
        if !$crate::support::engine_answers() {
            return;
        }
    };
}
pub(crate) use need_docker;

pub fn engine_answers() -> bool {
    let seen = std::process::Command::new("docker")
        .args(["image", "inspect", "busybox:latest"])
        .output();
    let why = match seen {
        Ok(out) if out.status.success() => return true,
        Ok(out) => String::from_utf8_lossy(&out.stderr).trim().to_owned(),
        Err(e) => format!("the docker command: {e}"),
    };
    assert!(
        std::env::var("NM_TEST_REQUIRE_SERVICES").as_deref() != Ok("1"),
        "a Docker engine with the image busybox:latest is required: {why}"
    );
    eprintln!("skipped: no Docker engine with the image busybox:latest ({why})");
    false
}

/// Docker's own command line.
pub async fn docker(args: &[&str]) -> String {
    let out = tokio::process::Command::new("docker").args(args).output().await.unwrap();
    assert!(out.status.success(), "docker {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

static NEXT: AtomicU32 = AtomicU32::new(0);

pub struct Rig {
    pub agent: Agent,
    pub dir: tempfile::TempDir,
    /// Names and labels of this test alone.
    pub mark: String,
    stop: CancellationToken,
    run: tokio::task::JoinHandle<()>,
}

impl Rig {
    pub async fn start() -> Self {
        Self::start_on(Path::new(SOCKET), tempfile::tempdir().unwrap()).await
    }

    pub async fn start_on(socket: &Path, dir: tempfile::TempDir) -> Self {
        let mark = format!("nmt-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self::start_marked(socket, dir, mark).await
    }

    async fn start_marked(socket: &Path, dir: tempfile::TempDir, mark: String) -> Self {
        let agent = Agent::new(AgentConfig {
            data_dir: dir.path().join("data"),
            docker_socket: socket.to_owned(),
            own: Vec::new(),
            load_balancer: None,
            // What a test of backups puts there.
            backup_worker: Some(BackupWorker {
                program: "/bin/sh".into(),
                arguments: vec![dir.path().join("worker.sh").into()],
            }),
        })
        .await
        .unwrap();
        let stop = CancellationToken::new();
        let run = tokio::spawn({
            let (agent, stop) = (agent.clone(), stop.clone());
            async move { agent.run(stop).await }
        });
        Self {
            agent,
            dir,
            mark,
            stop,
            run,
        }
    }

    /// The same agent after a restart of its process.
    pub async fn restarted(self) -> Self {
        self.restarted_after(async {}).await.0
    }

    /// The same, with `meanwhile` done while it is away.
    pub async fn restarted_after<T>(self, meanwhile: impl Future<Output = T>) -> (Self, T) {
        self.restarted_on(Path::new(SOCKET), meanwhile).await
    }

    pub async fn restarted_on<T>(mut self, socket: &Path, meanwhile: impl Future<Output = T>) -> (Self, T) {
        self.stop.cancel();
        (&mut self.run).await.unwrap();
        let done = meanwhile.await;
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap());
        let mark = std::mem::take(&mut self.mark);
        (Self::start_marked(socket, dir, mark).await, done)
    }

    pub fn name(&self, what: &str) -> String {
        format!("{}-{what}", self.mark)
    }

    pub async fn send(&self, method: Method, path: &str, body: Body) -> (StatusCode, BodyDataStream) {
        let request = Request::builder().method(method).uri(path).body(body).unwrap();
        let response = self.agent.router().oneshot(request).await.unwrap();
        (response.status(), response.into_body().into_data_stream())
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, AgentError> {
        answer(self.send(Method::GET, path, Body::empty()).await).await
    }

    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, AgentError> {
        answer(self.send(Method::POST, path, Body::from(serde_json::to_vec(body).unwrap())).await).await
    }

    /// A container's spec with a name of this test's and the image busybox.
    pub fn spec(&self, what: &str, more: Value) -> ContainerSpec {
        let mut spec = json!({ "name": self.name(what), "image": "busybox", "labels": { "nmtest": self.mark }, "stopGrace": 1 });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(spec).unwrap()
    }

    pub fn request(&self, spec: ContainerSpec, start: bool) -> CreateContainer {
        CreateContainer {
            operation: OperationId::fresh(1),
            id: ContainerId::fresh(1),
            generation: 1,
            spec,
            start,
            registry: None,
        }
    }

    pub async fn create(&self, request: &CreateContainer) -> Result<ObservedContainer, AgentError> {
        self.create_told(request).await.1
    }

    /// With all that was said on the way.
    pub async fn create_told(
        &self,
        request: &CreateContainer,
    ) -> (Vec<Progress<ObservedContainer>>, Result<ObservedContainer, AgentError>) {
        let (status, body) = self
            .send(Method::POST, path::CONTAINERS, Body::from(serde_json::to_vec(request).unwrap()))
            .await;
        assert_eq!(status, StatusCode::OK);
        let mut lines: Vec<Progress<ObservedContainer>> = Lines::new(body).all().await;
        let result = match lines.pop() {
            Some(Progress::Done { result }) => Ok(result),
            Some(Progress::Failed { error }) => Err(error),
            other => panic!("a stream that was cut: {other:?}"),
        };
        (lines, result)
    }

    /// A container that runs a shell script.
    pub async fn sh(&self, what: &str, script: &str, more: Value) -> (CreateContainer, ObservedContainer) {
        let mut spec = json!({ "command": ["sh", "-c", script] });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let request = self.request(self.spec(what, spec), true);
        let seen = self.create(&request).await.unwrap();
        (request, seen)
    }

    pub async fn command(&self, id: &str, generation: i64, action: Action) -> Result<ObservedContainer, AgentError> {
        self.post(&path::COMMAND.replace("{key}", id), &Command { generation, action })
            .await
    }

    pub async fn watch(&self) -> Watch {
        let (status, body) = self.send(Method::GET, path::WATCH, Body::empty()).await;
        assert_eq!(status, StatusCode::OK);
        Watch { lines: Lines::new(body) }
    }

    /// `docker run -d`, by somebody else.
    pub async fn run_foreign(&self, what: &str, options: &[&str], command: &[&str]) -> String {
        let (name, label) = (self.name(what), format!("nmtest={}", self.mark));
        let args = [
            &["run", "-d", "--name", &name, "--label", &label],
            options,
            &["busybox:latest"],
            command,
        ]
        .concat();
        docker(&args).await
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.cancel();
        if self.mark.is_empty() {
            return;
        }
        let label = format!("label=nmtest={}", self.mark);
        for (list, remove) in [
            (vec!["ps", "-aq", "--filter", &label], vec!["rm", "-fv"]),
            (vec!["volume", "ls", "-q", "--filter", &label], vec!["volume", "rm"]),
            (vec!["network", "ls", "-q", "--filter", &label], vec!["network", "rm"]),
        ] {
            let Ok(out) = std::process::Command::new("docker").args(&list).output() else {
                continue;
            };
            let ids = String::from_utf8_lossy(&out.stdout).into_owned();
            let ids: Vec<&str> = ids.split_whitespace().collect();
            if !ids.is_empty() {
                drop(std::process::Command::new("docker").args(remove).args(ids).output());
            }
        }
    }
}

async fn answer<T: DeserializeOwned>((status, body): (StatusCode, BodyDataStream)) -> Result<T, AgentError> {
    let bytes = Body::from_stream(body).collect().await.unwrap().to_bytes();
    if status.is_success() {
        return Ok(serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&bytes))));
    }
    Err(serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{status}: {e}: {}", String::from_utf8_lossy(&bytes))))
}

/// JSON values, one a line.
pub struct Lines {
    body: BodyDataStream,
    buffer: BytesMut,
}

impl Lines {
    pub fn new(body: BodyDataStream) -> Self {
        Self {
            body,
            buffer: BytesMut::new(),
        }
    }

    pub async fn next<T: DeserializeOwned>(&mut self) -> Option<T> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line = self.buffer.split_to(end);
                self.buffer.advance(1);
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let chunk = tokio::time::timeout(DEADLINE, self.body.next())
                .await
                .expect("a line within the deadline")?;
            self.buffer.extend_from_slice(&chunk.unwrap());
        }
    }

    pub async fn all<T: DeserializeOwned>(mut self) -> Vec<T> {
        let mut all = Vec::new();
        while let Some(line) = self.next().await {
            all.push(line);
        }
        all
    }
}

pub struct Watch {
    pub lines: Lines,
}

impl Watch {
    pub async fn next(&mut self) -> WatchEvent {
        self.lines.next().await.expect("the watch goes on")
    }

    /// The first event for which `test` gives something.
    pub async fn find<T>(&mut self, what: &str, mut test: impl FnMut(WatchEvent) -> Option<T>) -> T {
        let looking = async {
            loop {
                if let Some(found) = test(self.next().await) {
                    return found;
                }
            }
        };
        tokio::time::timeout(DEADLINE, looking)
            .await
            .unwrap_or_else(|_| panic!("never seen: {what}"))
    }

    /// The container of that Docker id, once `test` holds.
    pub async fn until(&mut self, docker_id: &str, what: &str, mut test: impl FnMut(&ObservedContainer) -> bool) -> ObservedContainer {
        self.find(what, |event| {
            let all = match event {
                WatchEvent::Container { observed } => vec![*observed],
                WatchEvent::Snapshot { containers, .. } => containers,
                _ => return None,
            };
            all.into_iter().find(|c| c.docker_id == docker_id && test(c))
        })
        .await
    }
}

pub fn code<T: std::fmt::Debug>(result: Result<T, AgentError>) -> AgentErrorCode {
    result.unwrap_err().code
}

pub fn key(route: &str, key: &str) -> String {
    route.replace("{key}", key)
}

/// A tar stream of one file.
pub fn tar_of(name: &str, content: &[u8]) -> Bytes {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    builder.append_data(&mut header, name, content).unwrap();
    builder.into_inner().unwrap().into()
}

pub fn untar(bytes: &[u8]) -> Vec<(PathBuf, Vec<u8>)> {
    let mut archive = tar::Archive::new(bytes);
    let entries = archive.entries().unwrap();
    entries
        .map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
            (entry.path().unwrap().into_owned(), content)
        })
        .collect()
}
