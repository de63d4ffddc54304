//! Images, volumes and networks.

use crate::support::{Lines, Rig, code, docker, need_docker, tar_of};
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use nm_link::contract::{AgentError, AgentErrorCode as Code, Progress, path};
use nm_types::image::ImageView;
use nm_types::network::NetworkView;
use nm_types::volume::VolumeView;
use nm_waits::eventually;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[tokio::test]
async fn images_are_loaded_listed_and_removed() {
    need_docker!();
    let rig = Rig::start().await;
    let tag = format!("{}:1", rig.name("image"));
    let made = rig.dir.path().join("made.tar");
    std::fs::write(&made, tar_of("file", rig.mark.as_bytes())).unwrap();
    docker(&["import", made.to_str().unwrap(), &tag]).await;
    let saved = rig.dir.path().join("saved.tar");
    docker(&["save", "-o", saved.to_str().unwrap(), &tag]).await;
    docker(&["rmi", &tag]).await;
    let load = || async {
        let (status, body) = rig.send(Method::POST, path::LOAD, Body::from(std::fs::read(&saved).unwrap())).await;
        let bytes = http_body_util::BodyExt::collect(Body::from_stream(body)).await.unwrap().to_bytes();
        (status, serde_json::from_slice::<Value>(&bytes).unwrap())
    };
    for _ in 0..2 {
        assert_eq!(load().await, (StatusCode::OK, json!([tag])));
    }
    let (status, _) = rig.send(Method::POST, path::LOAD, Body::from("no tar")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let (status, _) = rig.send(Method::POST, path::LOAD, Body::from(tar_of("x", b"no image"))).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);

    let mut spec = rig.spec("user", json!({"command": ["x"]}));
    spec.image = tag.parse().unwrap();
    let request = rig.request(spec, false);
    rig.create(&request).await.unwrap();
    let all: Vec<ImageView> = rig.get(path::IMAGES).await.unwrap();
    let ours = all.iter().find(|i| i.tags.contains(&tag)).unwrap();
    assert_eq!((ours.containers, ours.node_id.as_str()), (1, ""));
    assert!(ours.id.starts_with("sha256:") && ours.created.as_millis() > 0 && ours.size > 0);
    let remove = async |image: &str| rig.post::<Value>(path::IMAGE_REMOVE, &json!({ "image": image })).await;
    let refused = remove(&tag).await.unwrap_err();
    assert_eq!(refused.code, Code::InUse);
    assert!(refused.message.contains(&rig.name("user")), "{}", refused.message);
    rig.post::<Value>(&crate::support::key(path::REMOVE, request.id.as_str()), &json!({}))
        .await
        .unwrap();
    remove(&tag).await.unwrap();
    assert_eq!(code(remove(&tag).await), Code::ImageNotFound);
    for bad in ["../containers", "", "A B", "x@sha256:zz", "x?force=1"] {
        assert_eq!(code(remove(bad).await), Code::Invalid, "{bad}");
    }
}

/// A registry on loopback with one image, `team/app:1`.
struct Registry {
    blobs: Vec<(String, Bytes)>,
    manifest: (String, Bytes),
    login: Option<String>,
    /// Layers hang in the middle.
    stuck: AtomicBool,
}

impl Registry {
    async fn start(content: &str, login: Option<(&str, &str)>) -> (Arc<Self>, String) {
        let digest = |bytes: &[u8]| format!("sha256:{}", hex::encode(Sha256::digest(bytes)));
        let layer = tar_of("file", format!("{content}{}", "x".repeat(200_000)).as_bytes());
        let config = json!({"architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux", "config": {"Cmd": ["x"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]}, "history": [{"created_by": "test"}]});
        let config = Bytes::from(config.to_string());
        let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "size": config.len(), "digest": digest(&config)},
            "layers": [{"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", "size": layer.len(), "digest": digest(&layer)}]});
        let manifest = Bytes::from(manifest.to_string());
        let login = login.map(|(user, password)| {
            use base64::Engine;
            format!(
                "Basic {}",
                base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"))
            )
        });
        let registry = Arc::new(Self {
            blobs: vec![(digest(&layer), layer), (digest(&config), config)],
            manifest: (digest(&manifest), manifest),
            login,
            stuck: AtomicBool::new(false),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let app = Router::new()
            .route("/v2/", get(|s, h| Self::serve(s, h, String::new())))
            .route("/v2/{*rest}", get(|s, h, Path(rest)| Self::serve(s, h, rest)))
            .with_state(registry.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        (registry, host)
    }

    async fn serve(State(registry): State<Arc<Self>>, headers: HeaderMap, rest: String) -> Response {
        if let Some(login) = &registry.login
            && headers.get("authorization").and_then(|v| v.to_str().ok()) != Some(login)
        {
            return (
                StatusCode::UNAUTHORIZED,
                [("www-authenticate", "Basic realm=\"test\"")],
                r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#,
            )
                .into_response();
        }
        if rest.is_empty() {
            return "{}".into_response();
        }
        let (digest, manifest) = &registry.manifest;
        if rest == "team/app/manifests/1" || rest == format!("team/app/manifests/{digest}") {
            let headers = [
                ("content-type", "application/vnd.docker.distribution.manifest.v2+json"),
                ("docker-content-digest", digest),
            ];
            return (headers, manifest.clone()).into_response();
        }
        if let Some((_, blob)) = registry.blobs.iter().find(|(digest, _)| rest == format!("team/app/blobs/{digest}")) {
            if blob.len() > 100_000 && registry.stuck.load(Ordering::SeqCst) {
                let half = blob.slice(..blob.len() / 2);
                let stream = futures_util::StreamExt::chain(
                    futures_util::stream::iter([Ok::<_, std::io::Error>(half)]),
                    futures_util::stream::pending(),
                );
                return ([("content-length", blob.len().to_string())], Body::from_stream(stream)).into_response();
            }
            return blob.clone().into_response();
        }
        (
            StatusCode::NOT_FOUND,
            r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#,
        )
            .into_response()
    }
}

async fn pull(rig: &Rig, image: &str, login: Option<Value>) -> (Vec<Progress<ImageView>>, Result<ImageView, AgentError>) {
    let mut body = json!({ "image": image });
    if let Some(login) = login {
        body["registry"] = login;
    }
    let (_, stream) = rig.send(Method::POST, path::PULL, Body::from(body.to_string())).await;
    let mut lines: Vec<Progress<ImageView>> = Lines::new(stream).all().await;
    let result = match lines.pop() {
        Some(Progress::Done { result }) => Ok(result),
        Some(Progress::Failed { error }) => Err(error),
        other => panic!("a stream that was cut: {other:?}"),
    };
    (lines, result)
}

#[tokio::test]
async fn an_image_is_pulled_layer_by_layer_when_a_container_needs_it() {
    need_docker!();
    let rig = Rig::start().await;
    let (_, host) = Registry::start(&rig.mark, None).await;
    let image = format!("{host}/team/app:1");
    let mut spec = rig.spec("pulled", json!({}));
    spec.image = image.parse().unwrap();
    let (told, made) = rig.create_told(&rig.request(spec, false)).await;
    assert_eq!(made.unwrap().image, image);
    let steps: Vec<_> = told
        .iter()
        .filter_map(|p| {
            if let Progress::Step { name } = p {
                Some(name.as_str())
            } else {
                None
            }
        })
        .collect();
    assert_eq!(steps, ["create", "pull", "create"]);
    assert!(
        told.iter().any(|p| matches!(p, Progress::Layer(l) if l.status == "Pull complete")),
        "{told:?}"
    );
    // Again: it is there.
    assert_eq!(pull(&rig, &image, None).await.1.unwrap().tags, [image.as_str()]);
    drop(rig);
    docker(&["rmi", "-f", &image]).await;
}

#[tokio::test]
async fn pulls_that_fail_are_told_apart() {
    need_docker!();
    let rig = Rig::start().await;
    // The password's base64 has letters outside the URL alphabet.
    let password = "??>>~~";
    let (_, host) = Registry::start(&rig.mark, Some(("user", password))).await;
    let image = format!("{host}/team/app:1");
    let login = |password: &str| Some(json!({"host": host, "username": "user", "password": password}));
    let error = pull(&rig, &image, None).await.1.unwrap_err();
    assert_eq!(error.code, Code::ImageAccessDenied);
    assert!(
        error.message.contains("asks for a login") && error.message.contains(&host),
        "{}",
        error.message
    );
    let error = pull(&rig, &image, login("wrong")).await.1.unwrap_err();
    assert_eq!(error.code, Code::ImageAccessDenied);
    assert!(
        error.message.contains("refused the login") && !error.message.contains("wrong"),
        "{}",
        error.message
    );
    let error = pull(&rig, &format!("{host}/team/app:nosuch"), login(password)).await.1.unwrap_err();
    assert_eq!(error.code, Code::ImageNotFound, "{}", error.message);
    let error = pull(&rig, "127.0.0.1:1/team/app:1", None).await.1.unwrap_err();
    assert_eq!((error.code, error.field.as_deref()), (Code::PullFailed, Some("image")));
    assert_eq!(pull(&rig, &image, login(password)).await.1.unwrap().tags, [image.as_str()]);
    docker(&["rmi", "-f", &image]).await;
}

#[tokio::test]
async fn a_pull_cut_in_half_is_a_clean_retry() {
    need_docker!();
    let rig = Rig::start().await;
    let (registry, host) = Registry::start(&rig.mark, None).await;
    let image = format!("{host}/team/app:1");
    registry.stuck.store(true, Ordering::SeqCst);
    let mut spec = rig.spec("cut", json!({}));
    spec.image = image.parse().unwrap();
    let request = rig.request(spec, false);
    let (_, stream) = rig
        .send(Method::POST, path::CONTAINERS, Body::from(serde_json::to_vec(&request).unwrap()))
        .await;
    let mut lines = Lines::new(stream);
    while !matches!(lines.next::<Value>().await.unwrap()["type"].as_str(), Some("layer")) {}
    drop(lines);
    registry.stuck.store(false, Ordering::SeqCst);
    // The create ended with its listener; nothing of it is left, and the next one is whole.
    let filter = format!("label=io.neuralmesh.id={}", request.id);
    assert_eq!(docker(&["ps", "-aq", "--filter", &filter]).await, "");
    rig.create(&request).await.unwrap();
    drop(rig);
    docker(&["rmi", "-f", &image]).await;
}

#[tokio::test]
async fn volumes_are_made_once_and_kept_while_used() {
    need_docker!();
    let rig = Rig::start().await;
    let name = rig.name("vol");
    let new = json!({"name": name, "labels": {"nmtest": rig.mark}});
    let made: VolumeView = rig.post(path::VOLUME_CREATE, &new).await.unwrap();
    assert_eq!((made.driver.as_str(), made.labels.len()), ("local", 1));
    assert_eq!(rig.post::<VolumeView>(path::VOLUME_CREATE, &new).await.unwrap(), made);
    let other = json!({"name": name, "labels": {"nmtest": "other"}});
    assert_eq!(code(rig.post::<VolumeView>(path::VOLUME_CREATE, &other).await), Code::NameTaken);
    rig.sh("user", "sleep 1000", json!({"volumes": [{"container": "/v", "host": name}]}))
        .await;
    let all: Vec<VolumeView> = rig.get(path::VOLUMES).await.unwrap();
    assert_eq!(all.iter().find(|v| v.name == name).unwrap().used_by, [rig.name("user")]);
    let refused = rig.post::<Value>(path::VOLUME_REMOVE, &json!({ "name": name })).await.unwrap_err();
    assert_eq!(refused.code, Code::InUse);
    assert!(refused.message.contains(&rig.name("user")), "{}", refused.message);
    docker(&["rm", "-f", &rig.name("user")]).await;
    rig.post::<Value>(path::VOLUME_REMOVE, &json!({ "name": name })).await.unwrap();
    assert_eq!(
        code(rig.post::<Value>(path::VOLUME_REMOVE, &json!({ "name": name })).await),
        Code::VolumeNotFound
    );
}

#[tokio::test]
async fn networks_are_made_once_and_joined() {
    need_docker!();
    let rig = Rig::start().await;
    let name = rig.name("net");
    let new = json!({"name": name, "internal": true, "labels": {"nmtest": rig.mark}});
    let made: NetworkView = rig.post(path::NETWORK_CREATE, &new).await.unwrap();
    assert!(made.internal && made.driver == "bridge" && !made.subnets.is_empty() && made.labels.len() == 1);
    assert_eq!(rig.post::<NetworkView>(path::NETWORK_CREATE, &new).await.unwrap(), made);
    let other = json!({"name": name, "internal": false, "labels": {"nmtest": rig.mark}});
    assert_eq!(code(rig.post::<NetworkView>(path::NETWORK_CREATE, &other).await), Code::NameTaken);

    let mut watch = rig.watch().await;
    let (request, seen) = rig.sh("member", "sleep 1000", json!({})).await;
    let member = json!({"network": name, "container": request.id});
    for _ in 0..2 {
        rig.post::<Value>(path::NETWORK_ATTACH, &member).await.unwrap();
    }
    watch
        .until(&seen.docker_id, "the network", |c| {
            c.networks.iter().any(|a| a.network == name && a.ip.is_some())
        })
        .await;
    let all: Vec<NetworkView> = rig.get(path::NETWORKS).await.unwrap();
    assert_eq!(all.iter().find(|n| n.name == name).unwrap().containers, [rig.name("member")]);
    let refused = rig.post::<Value>(path::NETWORK_REMOVE, &json!({ "name": name })).await.unwrap_err();
    assert_eq!(refused.code, Code::InUse);
    assert!(refused.message.contains(&rig.name("member")), "{}", refused.message);
    for _ in 0..2 {
        rig.post::<Value>(path::NETWORK_DETACH, &member).await.unwrap();
    }
    // The start of an id is no name.
    let start = &made.id[..12];
    assert_eq!(
        code(rig.post::<Value>(path::NETWORK_REMOVE, &json!({ "name": start })).await),
        Code::NetworkNotFound
    );
    rig.post::<Value>(path::NETWORK_REMOVE, &json!({ "name": name })).await.unwrap();
    eventually("its end", || async {
        (code(rig.post::<Value>(path::NETWORK_ATTACH, &member).await) == Code::NetworkNotFound).then_some(())
    })
    .await;
    for built_in in ["bridge", "host", "none"] {
        assert_eq!(
            code(rig.post::<Value>(path::NETWORK_REMOVE, &json!({ "name": built_in })).await),
            Code::Forbidden
        );
    }
    let host = json!({"network": "host", "container": request.id});
    assert_eq!(code(rig.post::<Value>(path::NETWORK_ATTACH, &host).await), Code::Forbidden);
}
