//! Docker that is absent, goes away, comes back, hangs, or answers nonsense.

use crate::support::{Rig, code, docker, key, need_docker};
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use nm_link::contract::{Action, AgentError, AgentErrorCode as Code, WatchEvent, path};
use nm_types::container::ContainerStatus;
use nm_types::image::Pruned;
use nm_types::node::NodeInfo;
use nm_waits::eventually;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

/// The real engine behind a socket of our own, which can go away with all its connections.
struct Cable {
    path: PathBuf,
    cut: CancellationToken,
}

impl Cable {
    fn plug(path: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let cut = CancellationToken::new();
        tokio::spawn({
            let cut = cut.clone();
            async move {
                while let Some(Ok((mut near, _))) = cut.run_until_cancelled(listener.accept()).await {
                    let cut = cut.clone();
                    tokio::spawn(async move {
                        let mut far = UnixStream::connect(crate::support::SOCKET).await.unwrap();
                        cut.run_until_cancelled(tokio::io::copy_bidirectional(&mut near, &mut far)).await
                    });
                }
            }
        });
        Self {
            path: path.to_owned(),
            cut,
        }
    }

    fn pull_out(self) {
        self.cut.cancel();
        std::fs::remove_file(&self.path).unwrap();
    }
}

async fn unavailable(rig: &Rig) -> AgentError {
    eventually("the absence", || async {
        let error = rig.get::<Value>(path::IMAGES).await.err()?;
        (error.code == Code::DockerUnavailable).then_some(error)
    })
    .await
}

#[tokio::test]
async fn an_absent_engine_is_said_and_its_return_noticed() {
    need_docker!();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("engine.sock");
    let rig = Rig::start_on(&socket, dir).await;
    let error = unavailable(&rig).await;
    assert!(
        error.message.contains("systemctl start docker") && error.message.contains("engine.sock"),
        "{}",
        error.message
    );
    let request = rig.request(rig.spec("waits", json!({"command": ["sleep", "1000"]})), true);
    assert_eq!(code(rig.create(&request).await), Code::DockerUnavailable);
    assert_eq!(
        code(rig.command(request.id.as_str(), 1, Action::Start).await),
        Code::DockerUnavailable
    );
    let info: NodeInfo = rig.get(path::INFO).await.unwrap();
    assert!(!info.docker.available && info.docker.error.is_some() && info.memory > 0);
    let mut watch = rig.watch().await;
    watch
        .find("the absence", |e| {
            matches!(e, WatchEvent::Docker { docker } if !docker.available).then_some(())
        })
        .await;
    let began = Instant::now();
    let _cable = Cable::plug(&socket);
    watch
        .find("the return", |e| {
            matches!(e, WatchEvent::Docker { docker } if docker.available).then_some(())
        })
        .await;
    watch
        .find("everything", |e| matches!(e, WatchEvent::Snapshot { .. }).then_some(()))
        .await;
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(rig.create(&request).await.unwrap().status, ContainerStatus::Running);
}

#[tokio::test]
async fn an_engine_that_goes_away_is_followed_again() {
    need_docker!();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("engine.sock");
    let cable = Cable::plug(&socket);
    let rig = Rig::start_on(&socket, dir).await;
    let (request, seen) = rig.sh("stays", "sleep 1000", json!({})).await;
    let (gone, other) = rig.sh("goes", "sleep 1000", json!({})).await;
    let mut watch = rig.watch().await;
    watch
        .find("everything", |e| matches!(e, WatchEvent::Snapshot { .. }).then_some(()))
        .await;
    cable.pull_out();
    watch
        .find("the absence", |e| {
            matches!(e, WatchEvent::Docker { docker } if !docker.available && docker.error.is_some()).then_some(())
        })
        .await;
    unavailable(&rig).await;
    // A watcher that comes now is not told that there are no containers.
    let mut late = rig.watch().await;
    late.find("the absence", |e| match e {
        WatchEvent::Docker { docker } => (!docker.available).then_some(()),
        WatchEvent::Snapshot { .. } => panic!("a snapshot of nothing"),
        _ => None,
    })
    .await;
    // Meanwhile, unseen.
    docker(&["stop", "-t", "0", &seen.docker_id]).await;
    docker(&["rm", "-f", &other.docker_id]).await;
    let _cable = Cable::plug(&socket);
    watch
        .find("everything anew", |e| match e {
            WatchEvent::Snapshot { containers, .. } => {
                assert!(!containers.iter().any(|c| c.docker_id == other.docker_id));
                let stays = containers.into_iter().find(|c| c.docker_id == seen.docker_id).unwrap();
                assert_eq!(
                    stays.status,
                    ContainerStatus::Stopped,
                    "Docker's own memory of events tells how it ended"
                );
                Some(())
            }
            _ => None,
        })
        .await;
    assert_eq!(
        rig.get::<Value>(&key(path::INSPECT, gone.id.as_str())).await.unwrap_err().code,
        Code::ContainerNotFound
    );
    assert_eq!(
        rig.command(request.id.as_str(), 1, Action::Start).await.unwrap().status,
        ContainerStatus::Running
    );
}

/// An engine of few words, on a socket of its own.
struct Fake {
    _dir: tempfile::TempDir,
    socket: PathBuf,
}

type Answer = dyn Fn(&http::Method, &str) -> Option<Response> + Send + Sync;

impl Fake {
    fn start(answer: impl Fn(&http::Method, &str) -> Option<Response> + Send + Sync + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("fake.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let answer: Arc<Answer> = Arc::new(answer);
        let app = Router::new().fallback(move |request: Request| {
            let answer = answer.clone();
            async move {
                // As real servers do: what is left unread would close the connection.
                let (request, body) = request.into_parts();
                http_body_util::BodyExt::collect(body).await.unwrap();
                let path = request.uri.path();
                answer(&request.method, path).unwrap_or_else(|| match path {
                    "/version" => json_reply(json!({"Version": "99", "ApiVersion": "1.41"})),
                    "/info" => json_reply(json!({"NCPU": 2, "MemTotal": 1u64 << 30, "DockerRootDir": "/var/lib/docker"})),
                    "/events" if request.uri.query().is_some_and(|q| q.contains("until")) => Response::default(),
                    "/events" => Body::from_stream(futures_util::stream::pending::<Result<bytes::Bytes, std::io::Error>>()).into_response(),
                    "/containers/json" | "/networks" => json_reply(json!([])),
                    _ => http::StatusCode::NOT_FOUND.into_response(),
                })
            }
        });
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { _dir: dir, socket }
    }
}

fn json_reply(value: Value) -> Response {
    axum::Json(value).into_response()
}

fn refusal(status: u16, message: &str) -> Response {
    (
        http::StatusCode::from_u16(status).unwrap(),
        axum::Json(json!({ "message": message })),
    )
        .into_response()
}

#[tokio::test]
async fn what_an_engine_prunes_is_told() {
    let fake = Fake::start(|_, path| {
        (path == "/images/prune")
            .then(|| json_reply(json!({"ImagesDeleted": [{"Untagged": "a@sha256:1"}, {"Deleted": "sha256:2"}], "SpaceReclaimed": 42})))
    });
    let rig = Rig::start_on(&fake.socket, tempfile::tempdir().unwrap()).await;
    let pruned: Pruned = rig.post(path::IMAGES_PRUNE, &json!({})).await.unwrap();
    assert_eq!(
        pruned,
        Pruned {
            removed: vec!["a@sha256:1".into(), "sha256:2".into()],
            freed: 42
        }
    );
}

#[tokio::test]
async fn a_full_disk_is_said() {
    let fake = Fake::start(|_, path| match path {
        "/containers/create" => Some(refusal(404, "No such image: busybox:latest")),
        "/images/create" => Some(json_reply(json!({"error": "write /var/lib/docker/tmp/x: no space left on device"}))),
        "/volumes/create" => Some(refusal(500, "mkdir /var/lib/docker/volumes/x: no space left on device")),
        _ => None,
    });
    let rig = Rig::start_on(&fake.socket, tempfile::tempdir().unwrap()).await;
    let error = rig.create(&rig.request(rig.spec("full", json!({})), true)).await.unwrap_err();
    assert_eq!(error.code, Code::DiskFull, "{error:?}");
    assert!(error.message.contains("disk is full"), "{}", error.message);
    assert_eq!(
        code(rig.post::<Value>(path::VOLUME_CREATE, &json!({"name": "xy", "labels": {}})).await),
        Code::DiskFull
    );
}

#[tokio::test]
async fn nonsense_and_broken_answers_are_faults_not_panics() {
    let fake = Fake::start(|_, path| match path {
        "/images/json" => Some("not json".into_response()),
        "/volumes" => Some(refusal(500, "something new")),
        "/images/create" => Some("{\"status\":\"ok\"}\n{\"status\":".into_response()),
        "/containers/create" => Some(refusal(404, "No such image: busybox:latest")),
        _ => None,
    });
    let rig = Rig::start_on(&fake.socket, tempfile::tempdir().unwrap()).await;
    assert_eq!(code(rig.get::<Value>(path::IMAGES).await), Code::Internal);
    let error = rig.get::<Value>(path::VOLUMES).await.unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (Code::Internal, "Something new."));
    assert_eq!(
        code(rig.create(&rig.request(rig.spec("odd", json!({})), true)).await),
        Code::Internal
    );
}

#[tokio::test]
async fn what_a_failed_create_made_is_taken_away() {
    let removed = Arc::new(std::sync::Mutex::new(Vec::new()));
    let fake = Fake::start({
        let removed = removed.clone();
        move |method, path| match path {
            "/containers/create" => Some((http::StatusCode::CREATED, axum::Json(json!({"Id": "f".repeat(64)}))).into_response()),
            p if p.ends_with("/start") => Some(refusal(500, "the runtime is out of order")),
            p if *method == http::Method::DELETE => {
                removed.lock().unwrap().push(p.to_owned());
                Some(http::StatusCode::NO_CONTENT.into_response())
            }
            _ => None,
        }
    });
    let rig = Rig::start_on(&fake.socket, tempfile::tempdir().unwrap()).await;
    let error = rig.create(&rig.request(rig.spec("half", json!({})), true)).await.unwrap_err();
    assert_eq!(error.message, "The runtime is out of order.");
    assert_eq!(*removed.lock().unwrap(), [format!("/containers/{}", "f".repeat(64))]);
}
