//! What is seen of containers, whoever changed them.

use crate::support::{Rig, docker, key, need_docker};
use nm_link::contract::{Action, WatchEvent, path};
use nm_types::container::{ContainerHealth, ContainerStatus, Signal};
use nm_types::node::NodeInfo;
use nm_types::stats::ContainerStats;
use nm_waits::eventually;
use serde_json::json;
use std::time::Instant;

#[tokio::test]
async fn a_watch_begins_with_everything() {
    need_docker!();
    let rig = Rig::start().await;
    let (request, _) = rig.sh("there", "sleep 1000", json!({})).await;
    let mut watch = rig.watch().await;
    match watch.next().await {
        WatchEvent::Snapshot { info, containers } => {
            assert!(info.docker.available && info.docker.version.is_some() && info.cpus > 0 && info.memory > 0);
            assert!(containers.iter().any(|c| c.id.as_ref() == Some(&request.id)));
        }
        other => panic!("{other:?}"),
    }
    let info: NodeInfo = rig.get(path::INFO).await.unwrap();
    assert!(info.docker.available && !info.hostname.is_empty() && !info.kernel.is_empty());
}

#[tokio::test]
async fn what_docker_does_behind_our_back_shows() {
    need_docker!();
    let rig = Rig::start().await;
    let mut watch = rig.watch().await;
    let id = rig
        .run_foreign(
            "theirs",
            &["-p", "0:80", "-e", "KEY=value", "-v", "/srv/nm-test:/x:ro", "-m", "64m"],
            &["sleep", "1000"],
        )
        .await;
    let began = Instant::now();
    let seen = watch.until(&id, "docker run", |c| c.status == ContainerStatus::Running).await;
    assert!(began.elapsed().as_secs() < 2);
    let foreign = seen.foreign.unwrap();
    assert_eq!(
        (seen.id, foreign.environment["KEY"].as_str(), foreign.memory_limit.as_deref()),
        (None, "value", Some("64m"))
    );
    assert_eq!(
        (foreign.volumes[0].container.as_str(), foreign.volumes[0].host.as_str()),
        ("/x", "/srv/nm-test")
    );
    assert_ne!(seen.ports[0].host, 0);

    let name = rig.name("renamed");
    docker(&["rename", &id, &name]).await;
    watch.until(&id, "docker rename", |c| c.name == name).await;
    docker(&["pause", &id]).await;
    watch.until(&id, "docker pause", |c| c.status == ContainerStatus::Paused).await;
    docker(&["unpause", &id]).await;
    watch.until(&id, "docker unpause", |c| c.status == ContainerStatus::Running).await;
    docker(&["update", "-m", "128m", "--memory-swap", "256m", &id]).await;
    watch
        .until(&id, "docker update", |c| {
            c.foreign.as_ref().is_some_and(|f| f.memory_limit.as_deref() == Some("128m"))
        })
        .await;
    docker(&["stop", "-t", "0", &id]).await;
    watch.until(&id, "docker stop", |c| c.status == ContainerStatus::Stopped).await;
    docker(&["start", &id]).await;
    watch.until(&id, "docker start", |c| c.status == ContainerStatus::Running).await;
    docker(&["rm", "-f", &id]).await;
    watch
        .find("docker rm", |e| {
            matches!(e, WatchEvent::Removed { docker_id } if docker_id == id).then_some(())
        })
        .await;
    drop(std::fs::remove_dir("/srv/nm-test"));
}

#[tokio::test]
async fn ended_by_itself_and_ended_on_request_are_told_apart() {
    need_docker!();
    let rig = Rig::start().await;
    let mut watch = rig.watch().await;
    // It ends well on request: only the request tells it from one that was done.
    let polite = "trap 'exit 0' TERM; trap 'exit 4' HUP; sleep 1000 & wait";
    let (ours, seen) = rig.sh("polite", polite, json!({})).await;
    let id = seen.docker_id.as_str();
    assert_eq!(
        rig.command(ours.id.as_str(), 1, Action::Stop { grace: Some(10) })
            .await
            .unwrap()
            .status,
        ContainerStatus::Stopped
    );
    rig.command(ours.id.as_str(), 1, Action::Start).await.unwrap();
    docker(&["kill", "-s", "HUP", id]).await;
    let seen = watch.until(id, "its own end", |c| c.exit_code == Some(4)).await;
    assert_eq!(
        seen.status,
        ContainerStatus::Exited,
        "a signal that asks for something else is no request to end"
    );
    rig.command(ours.id.as_str(), 1, Action::Start).await.unwrap();
    docker(&["stop", "-t", "10", id]).await;
    let seen = watch.until(id, "docker stop", |c| c.exit_code == Some(0)).await;
    assert_eq!(seen.status, ContainerStatus::Stopped);
    // After a restart of the agent it still is known.
    let rig = rig.restarted().await;
    let mut watch = rig.watch().await;
    let seen = watch.until(id, "the snapshot", |_| true).await;
    assert_eq!(seen.status, ContainerStatus::Stopped);
    // Done by itself.
    let (_, done) = rig.sh("done", "exit 0", json!({})).await;
    let seen = watch.until(&done.docker_id, "its end", |c| c.exit_code.is_some()).await;
    assert_eq!((seen.status, seen.message), (ContainerStatus::Exited, None));
}

#[tokio::test]
async fn health_is_followed() {
    need_docker!();
    let rig = Rig::start().await;
    let mut watch = rig.watch().await;
    let check = json!({"healthCheck": {"command": ["test", "-e", "/tmp/well"], "interval": 1, "retries": 1}});
    let (request, seen) = rig.sh("health", "sleep 1000", check).await;
    assert_eq!(seen.health, Some(ContainerHealth::Starting));
    watch
        .until(&seen.docker_id, "unhealthy", |c| c.health == Some(ContainerHealth::Unhealthy))
        .await;
    docker(&["exec", &seen.docker_id, "touch", "/tmp/well"]).await;
    watch
        .until(&seen.docker_id, "healthy", |c| c.health == Some(ContainerHealth::Healthy))
        .await;
    let seen = rig
        .command(request.id.as_str(), 1, Action::Kill { signal: Signal::Kill })
        .await
        .unwrap();
    assert_eq!(seen.health, None, "a container that has ended has no health");
}

#[tokio::test]
async fn a_kill_for_want_of_memory_is_told() {
    need_docker!();
    let rig = Rig::start().await;
    let mut watch = rig.watch().await;
    let eat = "tail /dev/zero";
    // The main process.
    let (_, seen) = rig.sh("eater", &format!("exec {eat}"), json!({"memoryLimit": "16m"})).await;
    let id = seen.docker_id;
    watch
        .find("the kill", |e| {
            matches!(&e, WatchEvent::Oom { docker_id, .. } if *docker_id == id).then_some(())
        })
        .await;
    let seen = watch
        .until(&id, "its end", |c| c.status == ContainerStatus::Exited && c.oom_killed)
        .await;
    assert!(seen.message.unwrap().contains("want of memory (its limit is 16m)"));
    // A child: Docker's own state does not know of it.
    let (request, seen) = rig
        .sh("parent", &format!("({eat}); sleep 1000"), json!({"memoryLimit": "16m"}))
        .await;
    let id = seen.docker_id;
    watch
        .until(&id, "a living parent that knows", |c| {
            c.status == ContainerStatus::Running && c.oom_killed && c.message.is_some()
        })
        .await;
    let route = key(path::STATS, request.id.as_str());
    eventually("the count", || async {
        let stats: Vec<ContainerStats> = rig.get(&format!("{route}?limit=1")).await.unwrap();
        stats.first().is_some_and(|s| s.oom_kills == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn usage_is_told_where_it_changes() {
    need_docker!();
    let rig = Rig::start().await;
    let mut watch = rig.watch().await;
    let (_, seen) = rig.sh("spins", "while :; do :; done", json!({"cpuLimit": 0.2})).await;
    let usage = watch
        .find("its usage", |e| match e {
            WatchEvent::Usage { samples } => samples
                .into_iter()
                .find(|(id, u)| *id == seen.docker_id && u.cpu > 5.0)
                .map(|(_, u)| u),
            _ => None,
        })
        .await;
    assert!(usage.cpu < 60.0 && usage.memory > 0.0, "{usage:?}");
    // A second watcher is told at once.
    let mut second = rig.watch().await;
    second
        .find("its usage", |e| {
            matches!(e, WatchEvent::Usage { samples } if samples.iter().any(|(id, _)| *id == seen.docker_id)).then_some(())
        })
        .await;
}
