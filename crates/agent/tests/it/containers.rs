//! Made once, changed as asked, removed without a trace.

use crate::support::{Rig, code, docker, key, need_docker};
use nm_link::contract::{Action, AgentErrorCode as Code, Progress, RemoveContainer, path};
use nm_types::container::{ContainerStatus, ContainerUpdate, ObservedContainer, Protocol, RestartPolicy, Signal};
use nm_types::text::ContainerName;
use nm_types::units::{CpuLimit, MemoryLimit};
use serde_json::{Value, json};
use std::collections::BTreeSet;

#[tokio::test]
async fn a_spec_becomes_what_it_says() {
    need_docker!();
    let rig = Rig::start().await;
    let bind = rig.dir.path().canonicalize().unwrap().join("made/by/docker");
    let spec = rig.spec(
        "full",
        json!({
            "command": ["-c", "sleep 1000"], "entrypoint": ["sh"], "environment": {"A": "b c", "EMPTY": ""},
            "ports": [{"container": 80}, {"container": 53, "protocol": "udp", "hostIp": "127.0.0.1"}],
            "volumes": [{"container": "/bind", "host": bind, "mode": "ro"}, {"container": "/anonymous"}, {"container": "/named", "host": rig.name("vol")}],
            "cpuLimit": 0.5, "memoryLimit": "64m", "restart": "unless-stopped", "user": "1000:1000", "workingDir": "/tmp", "hostname": "inside",
            "capDrop": ["NET_RAW"], "readOnly": true, "healthCheck": {"command": ["true"], "interval": 5, "retries": 2},
        }),
    );
    let request = rig.request(spec, true);
    let seen = rig.create(&request).await.unwrap();
    assert_eq!(
        (seen.status, seen.id.as_ref(), seen.name.as_str()),
        (ContainerStatus::Running, Some(&request.id), rig.name("full").as_str())
    );
    // Docker may choose another number for IPv6.
    let inside: BTreeSet<u16> = seen.ports.iter().map(|p| p.container.get()).collect();
    assert_eq!(inside, [53, 80].into());
    assert!(
        seen.ports.iter().all(|p| p.host != 0),
        "chosen ports are reported: {:?}",
        seen.ports
    );
    assert_eq!(seen.ports[0].protocol, Protocol::Udp);
    let raw: Value = rig.get(&key(path::INSPECT, request.id.as_str())).await.unwrap();
    let host = &raw["HostConfig"];
    assert_eq!(
        (&host["Memory"], &host["NanoCpus"], &host["ReadonlyRootfs"], &host["Privileged"]),
        (&json!(67_108_864), &json!(500_000_000), &json!(true), &json!(false))
    );
    assert_eq!(
        (
            &host["CapAdd"],
            &host["CapDrop"][0].as_str().unwrap().trim_start_matches("CAP_"),
            &host["RestartPolicy"]["Name"]
        ),
        (&Value::Null, &"NET_RAW", &json!("unless-stopped"))
    );
    let config = &raw["Config"];
    assert_eq!(
        (&config["User"], &config["WorkingDir"], &config["Hostname"], &config["StopTimeout"]),
        (&json!("1000:1000"), &json!("/tmp"), &json!("inside"), &json!(1))
    );
    assert!(config["Env"].as_array().unwrap().contains(&json!("A=b c")));
    assert_eq!(config["Labels"]["io.neuralmesh.operation"], json!(request.operation.as_str()));
    assert!(bind.is_dir(), "the host's side of a bind mount is made");
    let mounts = raw["Mounts"].as_array().unwrap();
    let read_only: Vec<_> = mounts
        .iter()
        .filter(|m| m["RW"] == json!(false))
        .map(|m| m["Destination"].as_str().unwrap())
        .collect();
    assert_eq!((mounts.len(), read_only), (3, vec!["/bind"]));

    rig.post::<Value>(
        &key(path::REMOVE, request.id.as_str()),
        &RemoveContainer {
            force: true,
            volumes: true,
        },
    )
    .await
    .unwrap();
    docker(&["volume", "rm", &rig.name("vol")]).await;
}

#[tokio::test]
async fn creating_again_finds_what_was_made() {
    need_docker!();
    let rig = Rig::start().await;
    let request = rig.request(rig.spec("twice", json!({"command": ["sleep", "1000"]})), false);
    let first = rig.create(&request).await.unwrap();
    assert_eq!(first.status, ContainerStatus::Created);
    let (a, b, c) = tokio::join!(rig.create(&request), rig.create(&request), rig.create(&request));
    for again in [a, b, c] {
        assert_eq!(again.unwrap(), first);
    }
    // The answer was lost, the agent died, and now it is to run as well.
    let rig = rig.restarted().await;
    let mut start = request.clone();
    start.start = true;
    let (told, started) = rig.create_told(&start).await;
    let started = started.unwrap();
    assert_eq!((started.docker_id, started.status), (first.docker_id, ContainerStatus::Running));
    assert!(
        told.iter()
            .any(|p| matches!(p, Progress::Log { line } if line.contains("earlier attempt")))
    );
    let label = format!("label=io.neuralmesh.id={}", request.id);
    assert_eq!(docker(&["ps", "-aq", "--filter", &label]).await.lines().count(), 1);
}

#[tokio::test]
async fn every_change_may_be_asked_for_twice() {
    need_docker!();
    let rig = Rig::start().await;
    let request = rig.request(
        rig.spec("life", json!({"command": ["sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait"]})),
        false,
    );
    let id = request.id.as_str();
    rig.create(&request).await.unwrap();
    let steps = [
        (Action::Start, ContainerStatus::Running),
        (Action::Pause, ContainerStatus::Paused),
        (Action::Unpause, ContainerStatus::Running),
        (Action::Restart { grace: Some(1) }, ContainerStatus::Running),
        (Action::Stop { grace: Some(5) }, ContainerStatus::Stopped),
        (Action::Start, ContainerStatus::Running),
        (Action::Kill { signal: Signal::Kill }, ContainerStatus::Stopped),
    ];
    for (action, status) in steps {
        for time in ["first", "second"] {
            let seen = rig
                .command(id, 1, action.clone())
                .await
                .unwrap_or_else(|e| panic!("{action:?}, {time}: {e}"));
            assert_eq!(seen.status, status, "{action:?}, {time}");
        }
    }
    assert_eq!(code(rig.command(id, 1, Action::Pause).await), Code::NotRunning);
    assert_eq!(code(rig.command(id, 1, Action::Unpause).await), Code::NotRunning);
    assert_eq!(
        code(rig.command(id, 1, Action::Kill { signal: Signal::Hup }).await),
        Code::NotRunning
    );
    assert_eq!(code(rig.command(id, 1, Action::Stop { grace: Some(-1) }).await), Code::Invalid);
    for _ in 0..2 {
        rig.post::<Value>(&key(path::REMOVE, id), &RemoveContainer::default())
            .await
            .unwrap();
    }
    assert_eq!(code(rig.command(id, 1, Action::Start).await), Code::ContainerNotFound);
}

#[tokio::test]
async fn a_running_container_is_removed_by_force_only() {
    need_docker!();
    let rig = Rig::start().await;
    let (request, _) = rig.sh("busy", "sleep 1000", json!({"volumes": [{"container": "/data"}]})).await;
    let route = key(path::REMOVE, request.id.as_str());
    let refused = rig.post::<Value>(&route, &RemoveContainer::default()).await.unwrap_err();
    assert_eq!(refused.code, Code::InUse);
    assert!(
        refused.message.contains("force=true") && refused.message.contains(&rig.name("busy")),
        "{}",
        refused.message
    );
    let raw: Value = rig.get(&key(path::INSPECT, request.id.as_str())).await.unwrap();
    let volume = raw["Mounts"][0]["Name"].as_str().unwrap().to_owned();
    rig.post::<Value>(
        &route,
        &RemoveContainer {
            force: true,
            volumes: true,
        },
    )
    .await
    .unwrap();
    let left = docker(&["volume", "ls", "-q"]).await;
    assert!(!left.contains(&volume), "its anonymous volume goes with it");
}

#[tokio::test]
async fn limits_and_restart_policy_change_live() {
    need_docker!();
    let rig = Rig::start().await;
    let (request, before) = rig.sh("limits", "sleep 1000", json!({"memoryLimit": "64m"})).await;
    let update = ContainerUpdate {
        cpu_limit: Some(CpuLimit::from_cores(0.3).unwrap()),
        memory_limit: Some(MemoryLimit::parse("200m").unwrap()),
        restart: Some(RestartPolicy::Always),
    };
    let seen = rig.command(request.id.as_str(), 2, Action::Update(update)).await.unwrap();
    assert_eq!(seen.started, before.started, "without a restart");
    let raw: Value = rig.get(&key(path::INSPECT, request.id.as_str())).await.unwrap();
    let host = &raw["HostConfig"];
    assert_eq!(
        (&host["Memory"], &host["NanoCpus"], &host["RestartPolicy"]["Name"]),
        (&json!(209_715_200), &json!(300_000_000), &json!("always"))
    );
    let too_much = ContainerUpdate {
        cpu_limit: Some(CpuLimit::from_cores(64.0).unwrap()),
        ..Default::default()
    };
    let refused = rig.command(request.id.as_str(), 2, Action::Update(too_much)).await.unwrap_err();
    assert_eq!(
        (refused.code, refused.field.as_deref()),
        (Code::InsufficientResources, Some("cpuLimit"))
    );
}

#[tokio::test]
async fn older_commands_are_refused() {
    need_docker!();
    let rig = Rig::start().await;
    let (mut request, _) = rig.sh("fence", "sleep 1000", json!({})).await;
    let id = request.id.to_string();
    rig.command(&id, 7, Action::Pause).await.unwrap();
    assert_eq!(code(rig.command(&id, 6, Action::Unpause).await), Code::Stale);
    let rig = rig.restarted().await;
    assert_eq!(code(rig.command(&id, 6, Action::Unpause).await), Code::Stale);
    request.generation = 6;
    assert_eq!(code(rig.create(&request).await), Code::Stale);
    assert_eq!(rig.command(&id, 7, Action::Unpause).await.unwrap().status, ContainerStatus::Running);
}

#[tokio::test]
async fn names_are_users_names() {
    need_docker!();
    let rig = Rig::start().await;
    let (request, _) = rig.sh("old", "sleep 1000", json!({})).await;
    let id = request.id.as_str();
    let name = |text: &str| ContainerName::parse(text).unwrap();
    let (new, taken) = (rig.name("new"), rig.name("taken"));
    for _ in 0..2 {
        let seen = rig.command(id, 1, Action::Rename { name: name(&new) }).await.unwrap();
        assert_eq!(seen.name, new);
    }
    rig.run_foreign("taken", &[], &["true"]).await;
    let refused = rig.command(id, 1, Action::Rename { name: name(&taken) }).await.unwrap_err();
    assert_eq!((refused.code, refused.field.as_deref()), (Code::NameTaken, Some("name")));
    let refused = rig.create(&rig.request(rig.spec("taken", json!({})), false)).await.unwrap_err();
    assert_eq!((refused.code, refused.field.as_deref()), (Code::NameTaken, Some("name")));
    assert!(
        refused.message.contains(&taken) && refused.message.contains("not made by NeuralMesh"),
        "{}",
        refused.message
    );
}

#[tokio::test]
async fn a_name_of_one_letter_works() {
    need_docker!();
    let rig = Rig::start().await;
    // Docker wants two characters at least; users do not see what is made of it.
    let mut spec = rig.spec("x", json!({"command": ["true"]}));
    spec.name = ContainerName::parse("Q").unwrap();
    let request = rig.request(spec, false);
    let seen = rig.create(&request).await.unwrap();
    assert_eq!(seen.name, "Q");
    let rig = rig.restarted().await;
    let again: ObservedContainer = rig.create(&request).await.unwrap();
    assert_eq!(again.name, "Q");
}

#[tokio::test]
async fn several_networks_are_joined_before_the_start() {
    need_docker!();
    let rig = Rig::start().await;
    let nets = [rig.name("net1"), rig.name("net2")];
    for name in &nets {
        rig.post::<Value>(
            path::NETWORK_CREATE,
            &json!({"name": name, "internal": false, "labels": {"nmtest": rig.mark}}),
        )
        .await
        .unwrap();
    }
    let (_, seen) = rig
        .sh(
            "joined",
            "ip -4 -o addr | grep -c eth > /tmp/n; sleep 1000",
            json!({"networks": nets}),
        )
        .await;
    let on: Vec<_> = seen.networks.iter().map(|a| a.network.as_str()).collect();
    assert_eq!(on, nets);
    assert!(seen.networks.iter().all(|a| a.ip.is_some()));
    // Its program saw both from its first instruction on.
    let docker_id = seen.docker_id.clone();
    nm_waits::eventually("the count", || async {
        let n = docker(&["exec", &docker_id, "sh", "-c", "cat /tmp/n 2>/dev/null || true"]).await;
        (!n.is_empty()).then(|| assert_eq!(n, "2"))
    })
    .await;
}

#[tokio::test]
async fn many_at_once_are_all_made() {
    need_docker!();
    let rig = Rig::start().await;
    let requests: Vec<_> = (0..12)
        .map(|n| rig.request(rig.spec(&format!("many{n}"), json!({"command": ["sleep", "1000"]})), true))
        .collect();
    let made = futures_util::future::join_all(requests.iter().map(|r| rig.create(r))).await;
    assert!(
        made.iter().all(|m| m.as_ref().is_ok_and(|c| c.status == ContainerStatus::Running)),
        "{made:?}"
    );
}
