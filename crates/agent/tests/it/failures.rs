//! What can't be done is said in words that help, and leaves nothing behind.

use crate::support::{Rig, docker, key, need_docker};
use nm_link::contract::{Action, AgentErrorCode as Code, path};
use nm_types::container::ContainerStatus;
use nm_waits::eventually;
use serde_json::{Value, json};

/// Refused with this code and field, a sentence with these parts, and no container left.
async fn refused(rig: &Rig, what: &str, spec: Value, start: bool, code: Code, field: Option<&str>, parts: &[&str]) {
    let request = rig.request(rig.spec(what, spec), start);
    let error = rig.create(&request).await.unwrap_err();
    assert_eq!((error.code, error.field.as_deref()), (code, field), "{what}: {}", error.message);
    for part in parts {
        assert!(error.message.contains(part), "{what}: {part:?} in {:?}", error.message);
    }
    assert!(error.message.ends_with('.'), "{what}: a sentence: {:?}", error.message);
    let left = docker(&["ps", "-aq", "--filter", &format!("label=io.neuralmesh.id={}", request.id)]).await;
    assert_eq!(left, "", "{what}: something was left behind");
}

#[tokio::test]
async fn what_can_not_run_is_refused_in_words() {
    need_docker!();
    let rig = Rig::start().await;
    refused(
        &rig,
        "image",
        json!({"image": "127.0.0.1:1/no/such:1"}),
        true,
        Code::PullFailed,
        Some("image"),
        &["127.0.0.1:1", "could not be reached"],
    )
    .await;
    refused(
        &rig,
        "program",
        json!({"command": ["nosuchprogram"]}),
        true,
        Code::CommandFailed,
        Some("command"),
        &["`nosuchprogram`"],
    )
    .await;
    refused(
        &rig,
        "folder",
        json!({"command": ["/etc"]}),
        true,
        Code::CommandFailed,
        Some("command"),
        &["`/etc`", "executed"],
    )
    .await;
    refused(
        &rig,
        "user",
        json!({"command": ["true"], "user": "nobodyhere"}),
        true,
        Code::CommandFailed,
        Some("user"),
        &["`nobodyhere`"],
    )
    .await;
    refused(
        &rig,
        "cpu",
        json!({"cpuLimit": 64}),
        false,
        Code::InsufficientResources,
        Some("cpuLimit"),
        &["64 cores"],
    )
    .await;
    refused(
        &rig,
        "memory",
        json!({"memoryLimit": "9999g"}),
        false,
        Code::InsufficientResources,
        Some("memoryLimit"),
        &["9999g"],
    )
    .await;
    refused(
        &rig,
        "network",
        json!({"networks": ["nosuchnetwork"]}),
        false,
        Code::NetworkNotFound,
        Some("networks[0]"),
        &["`nosuchnetwork`"],
    )
    .await;
    refused(
        &rig,
        "host",
        json!({"networks": ["host"]}),
        false,
        Code::Invalid,
        Some("networks[0]"),
        &["host"],
    )
    .await;
    refused(
        &rig,
        "caps",
        json!({"capDrop": ["NOT_A_CAP"]}),
        false,
        Code::Invalid,
        Some("capDrop"),
        &["NOT_A_CAP"],
    )
    .await;
}

#[tokio::test]
async fn a_taken_port_names_its_holder() {
    need_docker!();
    let rig = Rig::start().await;
    let (_, holder) = rig.sh("holder", "sleep 1000", json!({"ports": [{"container": 80}]})).await;
    let port = holder.ports[0].host;
    let ports = json!({"command": ["sleep", "9"], "ports": [{"container": 80}, {"container": 81, "host": port}]});
    let (number, name) = (format!("Port {port} "), format!("`{}`", holder.name));
    refused(
        &rig,
        "late",
        ports.clone(),
        true,
        Code::PortInUse,
        Some("ports[1].host"),
        &[&number, &name],
    )
    .await;
    // Held by a program of the machine.
    let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let ports = json!({"command": ["sleep", "9"], "ports": [{"container": 80, "host": port}]});
    refused(
        &rig,
        "later",
        ports.clone(),
        true,
        Code::PortInUse,
        Some("ports[0].host"),
        &[&format!("({})", std::process::id())],
    )
    .await;
    // Created only, it exists; its start fails and it stays.
    let request = rig.request(rig.spec("kept", ports), false);
    rig.create(&request).await.unwrap();
    let error = rig.command(request.id.as_str(), 1, Action::Start).await.unwrap_err();
    assert_eq!(error.code, Code::PortInUse);
    drop(listener);
    assert_eq!(
        rig.command(request.id.as_str(), 1, Action::Start).await.unwrap().status,
        ContainerStatus::Running
    );
}

#[tokio::test]
async fn paths_of_the_system_are_not_mounted() {
    need_docker!();
    let rig = Rig::start().await;
    let base = rig.dir.path().canonicalize().unwrap();
    std::os::unix::fs::symlink("/etc", base.join("link")).unwrap();
    let data = base.join("data");
    let link = base.join("link/ssl");
    for (n, host) in [
        "/",
        "/etc",
        "/var/run/docker.sock",
        "/run/docker.sock",
        "/var/lib/docker/x",
        "/proc",
        "/root",
        data.to_str().unwrap(),
        link.to_str().unwrap(),
    ]
    .into_iter()
    .enumerate()
    {
        let volumes = json!({"volumes": [{"container": "/ok", "host": base.join("fine")}, {"container": "/x", "host": host}]});
        refused(
            &rig,
            &format!("bind{n}"),
            volumes,
            false,
            Code::Forbidden,
            Some("volumes[1].host"),
            &[host],
        )
        .await;
    }
    // A volume that is such a folder in truth.
    let disguise = rig.name("disguise");
    docker(&[
        "volume",
        "create",
        "-o",
        "type=none",
        "-o",
        "o=bind",
        "-o",
        "device=/etc",
        &disguise,
    ])
    .await;
    let volumes = json!({"volumes": [{"container": "/x", "host": disguise}]});
    let code = Code::Forbidden;
    refused(&rig, "disguised", volumes, false, code, Some("volumes[0].host"), &["/etc"]).await;
    docker(&["volume", "rm", &disguise]).await;
    // A folder that was fine becomes a link while the container is stopped.
    let (victim, moved) = (base.join("victim"), base.join("moved"));
    std::fs::create_dir(&victim).unwrap();
    let (request, _) = rig
        .sh("swap", "sleep 1000", json!({"volumes": [{"container": "/x", "host": victim}]}))
        .await;
    rig.command(request.id.as_str(), 1, Action::Stop { grace: Some(0) }).await.unwrap();
    std::fs::rename(&victim, &moved).unwrap();
    std::os::unix::fs::symlink("/etc", &victim).unwrap();
    for action in [Action::Start, Action::Restart { grace: Some(0) }] {
        assert_eq!(rig.command(request.id.as_str(), 1, action).await.unwrap_err().code, Code::Forbidden);
    }
}

#[tokio::test]
async fn an_admin_may_allow_a_path() {
    need_docker!();
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("data")).unwrap();
    std::fs::write(dir.path().join("data/agent.toml"), "allow_binds = [\"/etc/ssl\"]\n").unwrap();
    let rig = Rig::start_on(std::path::Path::new(crate::support::SOCKET), dir).await;
    let request = rig.request(
        rig.spec(
            "allowed",
            json!({"volumes": [{"container": "/x", "host": "/etc/ssl/certs", "mode": "ro"}]}),
        ),
        false,
    );
    rig.create(&request).await.unwrap();
    refused(
        &rig,
        "other",
        json!({"volumes": [{"container": "/x", "host": "/etc/apt"}]}),
        false,
        Code::Forbidden,
        Some("volumes[0].host"),
        &["allow_binds"],
    )
    .await;
}

#[tokio::test]
async fn a_container_that_ends_at_once_says_why() {
    need_docker!();
    let rig = Rig::start().await;
    let mut watch = rig.watch().await;
    // Docker reads the two streams apart: only a pause makes their order sure.
    let script = "for n in 1 2 3 4 5 6 7; do echo line $n; done; sleep 0.3; echo 'no database' >&2; exit 3";
    let (request, seen) = rig.sh("dies", script, json!({})).await;
    let docker_id = seen.docker_id;
    let seen = watch
        .until(&docker_id, "why it ended", |c| {
            c.message.as_ref().is_some_and(|m| m.contains("no database"))
        })
        .await;
    let message = seen.message.unwrap();
    assert_eq!((seen.status, seen.exit_code), (ContainerStatus::Exited, Some(3)));
    assert!(
        message.starts_with("Exited with code 3 after ") && message.contains("line 7"),
        "{message}"
    );
    assert!(!message.contains("line 3"), "five lines at most: {message}");
    // Asked for again, it does not run again.
    let again = rig.create(&request).await.unwrap();
    assert_eq!(
        (again.started, again.status, again.message),
        (seen.started, ContainerStatus::Exited, Some(message))
    );
}

#[tokio::test]
async fn a_crash_loop_says_so() {
    need_docker!();
    let rig = Rig::start().await;
    let mut watch = rig.watch().await;
    let (_, seen) = rig.sh("loops", "echo broken config; exit 9", json!({"restart": "always"})).await;
    let seen = watch
        .until(&seen.docker_id, "the loop", |c| {
            c.restarts >= 2
                && c.message
                    .as_ref()
                    .is_some_and(|m| m.contains("again and again") && m.contains("broken config"))
        })
        .await;
    assert!(seen.message.unwrap().contains("code 9"));
}

#[tokio::test]
async fn a_client_that_hangs_up_leaves_no_half_container() {
    need_docker!();
    let rig = Rig::start().await;
    let request = rig.request(rig.spec("hangup", json!({"command": ["sleep", "1000"]})), true);
    let body = axum::body::Body::from(serde_json::to_vec(&request).unwrap());
    let (_, mut stream) = rig.send(http::Method::POST, path::CONTAINERS, body).await;
    futures_util::StreamExt::next(&mut stream).await;
    drop(stream);
    // It goes on to its end, and asking again finds it.
    let seen = eventually("the container", || async {
        let seen = rig.create(&request).await.unwrap();
        (seen.status == ContainerStatus::Running).then_some(seen)
    })
    .await;
    assert_eq!(seen.id, Some(request.id.clone()));
    assert_eq!(
        docker(&["ps", "-aq", "--filter", &format!("label=io.neuralmesh.id={}", request.id)])
            .await
            .lines()
            .count(),
        1
    );
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused() {
    need_docker!();
    let rig = Rig::start().await;
    for (route, body) in [
        (path::CONTAINERS, json!({"nonsense": true})),
        (path::CONTAINERS, json!(7)),
        (path::NETWORK_CREATE, json!({"name": "../x", "internal": false, "labels": {}})),
        (path::VOLUME_CREATE, json!({"name": "a/b", "labels": {}})),
        ("/v1/nothing/here", json!({})),
    ] {
        assert_eq!(rig.post::<Value>(route, &body).await.unwrap_err().code, Code::Invalid, "{route}");
    }
    for id in ["cont_1_abcdefghi", &"a".repeat(64)] {
        assert_eq!(
            rig.get::<Value>(&key(path::INSPECT, id)).await.unwrap_err().code,
            Code::ContainerNotFound
        );
    }
    for id in ["busybox", "..", "%2e%2e%2f", "cont_1", "a;b"] {
        assert_eq!(
            rig.get::<Value>(&key(path::INSPECT, id)).await.unwrap_err().code,
            Code::ContainerNotFound,
            "{id}"
        );
    }
    for (route, code) in [
        (path::VOLUME_REMOVE, Code::VolumeNotFound),
        (path::NETWORK_REMOVE, Code::NetworkNotFound),
    ] {
        for name in ["../../containers/x", "nosuch", "", "a?force=1"] {
            assert_eq!(
                rig.post::<Value>(route, &json!({"name": name})).await.unwrap_err().code,
                code,
                "{route} {name:?}"
            );
        }
    }
}
