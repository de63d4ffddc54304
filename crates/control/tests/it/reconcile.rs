//! What happens on nodes by itself, behind our back, or not at all, and what agents say that is not so.

use crate::{agree, nginx, running};
use nm_link::contract::WatchEvent;
use nm_testing::{Ask, Client, Database, FakeAgent, TestControlPlane, When, both, eventually};
use nm_types::container::{ContainerStatus, ContainerView, ForeignSpec, Limits, LogStream, MountView, RestartPolicy, VolumeMode};
use nm_types::node::NodeStatus;
use nm_types::stats::Usage;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

both!(
    foreign_containers,
    limits_changed_behind_our_back,
    removed_behind_our_back,
    a_node_that_goes_and_comes_back
);

async fn fleet(database: Database) -> (TestControlPlane, FakeAgent, Client) {
    let plane = TestControlPlane::start(database).await;
    let agent = FakeAgent::join(&plane, "alder").await;
    let api = plane.operator().await.clone();
    (plane, agent, api)
}

#[tokio::test]
async fn changes_behind_our_back_show_at_once() {
    let (_plane, agent, api) = fleet(Database::sqlite()).await;
    let id = api.create(&running("web")).await.id;
    let id = id.as_str();
    for status in [
        ContainerStatus::Stopped,
        ContainerStatus::Running,
        ContainerStatus::Paused,
        ContainerStatus::Running,
        ContainerStatus::Exited,
    ] {
        let began = Instant::now();
        agent.docker_set(id, status);
        api.until("web", status).await;
        assert!(began.elapsed() < Duration::from_secs(2), "{status:?} took {:?}", began.elapsed());
    }
    assert_eq!(api.container("web").await.exit_code, Some(1));
    agent.docker_set(id, ContainerStatus::Running);
    agent.uses(id, Usage { cpu: 12.5, memory: 64.25 });
    eventually("what it uses shows", async || {
        (api.container("web").await.resources.cpu_usage == 12.5).then_some(())
    })
    .await;
    agent.docker_set(id, ContainerStatus::Stopped);
    let stopped = api.until("web", ContainerStatus::Stopped).await;
    assert_eq!(
        (stopped.resources.cpu_usage, stopped.resources.memory_usage),
        (0.0, 0.0),
        "what does not run uses nothing"
    );
    agree(&api, &agent, &["web"]).await;
}

/// `docker update`: what is seen shows at once, the spec stays, and our own changes and a new container are of the spec again.
async fn limits_changed_behind_our_back(database: Database) {
    let (mut plane, agent, api) = fleet(database).await;
    let spec = json!({ "name": "web", "image": "nginx", "cpuLimit": 1, "memoryLimit": "1024m", "restart": "always", "start": true });
    let id = api.create(&spec).await.id;
    let shown = async || {
        let view = api.container("web").await;
        (view.resources.cpu_limit, view.resources.memory_limit, view.restart)
    };
    let asked = (Some(1.0), Some("1024m".to_owned()), RestartPolicy::Always);
    assert_eq!(shown().await, asked, "in the words it was asked for");

    let began = Instant::now();
    agent.docker_update(
        id.as_str(),
        Limits {
            cpu: Some(0.5),
            memory: Some(256 << 20),
            restart: RestartPolicy::No,
        },
    );
    let real = (Some(0.5), Some("256m".to_owned()), RestartPolicy::No);
    eventually("what is real shows", async || (shown().await == real).then_some(())).await;
    assert!(began.elapsed() < Duration::from_secs(2), "it took {:?}", began.elapsed());
    let [row] = &api.containers("").await[..] else { panic!("one row") };
    assert_eq!(
        (row.resources.cpu_limit, row.restart),
        (Some(0.5), RestartPolicy::No),
        "in lists, too"
    );
    plane.restart().await;
    agent.ready(&plane).await;
    api.until("web", ContainerStatus::Running).await;
    assert_eq!(shown().await, real);

    let patched: ContainerView = api
        .patch("/api/containers/web")
        .json(&json!({ "memoryLimit": "300m" }))
        .await
        .data(200);
    assert_eq!(
        patched.resources.memory_limit.as_deref(),
        Some("300m"),
        "our own change shows in its answer"
    );

    agent.docker_update(id.as_str(), Limits::default());
    eventually("there are no limits any more", async || {
        (shown().await == (None, None, RestartPolicy::No)).then_some(())
    })
    .await;
    agent.docker_rm("web");
    api.until("web", ContainerStatus::Exited).await;
    let asked = (Some(1.0), Some("300m".to_owned()), RestartPolicy::Always);
    assert_eq!(shown().await, asked, "what there is none of is shown as it was asked for");
    api.post("/api/containers/web/start").await.is(200);
    assert_eq!(shown().await, asked, "it is made anew by its spec");
}

async fn removed_behind_our_back(database: Database) {
    let (mut plane, agent, api) = fleet(database).await;
    let spec = json!({ "name": "web", "image": "nginx", "environment": { "DB_PASSWORD": "hunter2-hunter2" }, "start": true });
    let id = api.create(&spec).await.id;
    agent.docker_rm("web");
    let gone = api.until("web", ContainerStatus::Exited).await;
    assert!(
        gone.message
            .as_ref()
            .is_some_and(|m| m.contains("removed from Docker") && m.contains("start")),
        "{gone:?}"
    );
    assert_eq!(gone.docker_id, None);
    for (path, code) in [("logs", "not_running"), ("stats", "not_running"), ("inspect", "not_running")] {
        api.get(format!("/api/containers/web/{path}")).await.refused(409, code);
    }
    api.post("/api/containers/web/stop").await.refused(409, "not_running");

    // It is known as such after a restart, and start makes it anew: the same id, name and settings, another container.
    plane.restart().await;
    agent.ready(&plane).await;
    api.until("web", ContainerStatus::Exited).await;
    let anew: ContainerView = api.post("/api/containers/web/start").await.data(200);
    assert_eq!((&anew.id, anew.status, anew.message), (&id, ContainerStatus::Running, None));
    assert_eq!(
        agent.container(&id).spec.unwrap().environment.0.values().next().unwrap().as_str(),
        "hunter2-hunter2"
    );
    // Word of its making that was late says nothing against its start.
    let mut late = agent.container(&id).observed;
    assert!(late.started.take().is_some());
    late.status = ContainerStatus::Created;
    agent.report(WatchEvent::Container { observed: Box::new(late) });
    agent.docker_run("marker", "redis:7");
    eventually("all was heard", async || {
        (api.get("/api/containers/marker").await.status == 200).then_some(())
    })
    .await;
    assert_eq!(api.container("web").await.status, ContainerStatus::Running);
    agent.docker_rm("marker");
    api.post("/api/containers/web/stop").await.is(200);
    agree(&api, &agent, &["web"]).await;

    // Removing what is gone forgets it.
    agent.docker_rm("web");
    api.until("web", ContainerStatus::Exited).await;
    api.delete("/api/containers/web").await.is(200);
    agree(&api, &agent, &[]).await;
}

async fn foreign_containers(database: Database) {
    let (mut plane, agent, api) = fleet(database).await;
    let foreign = ForeignSpec {
        environment: BTreeMap::from([("API_TOKEN".into(), "not for everybody".into()), ("MODE".into(), "live".into())]).into(),
        labels: BTreeMap::from([("app".into(), "beside".into())]).into(),
        volumes: vec![MountView {
            container: "/data".into(),
            host: "/srv".into(),
            mode: VolumeMode::Ro,
        }],
        memory_limit: Some("64m".into()),
        ..ForeignSpec::default()
    };
    let docker_id = agent.docker_run_with("beside", "redis:7", foreign);
    let seen = eventually("it is listed", async || api.containers("managed=false").await.pop()).await;
    assert_eq!(
        (seen.name.as_str(), seen.image.as_str(), seen.managed, seen.status),
        ("beside", "redis:7", false, ContainerStatus::Running)
    );
    assert_eq!(
        (seen.docker_id.as_deref(), seen.labels["app"].as_str(), seen.volumes.len()),
        (Some(docker_id.as_str()), "beside", 1)
    );
    assert_eq!(seen.environment["API_TOKEN"], "********", "lists cover what looks secret");
    assert_eq!(api.container("beside").await.environment["API_TOKEN"], "not for everybody");
    let viewed = plane.viewer().await.container("beside").await;
    assert_eq!(
        (viewed.environment["API_TOKEN"].as_str(), viewed.environment["MODE"].as_str()),
        ("********", "live")
    );

    // It can be worked with like one of ours.
    for (verb, status) in [("stop", "stopped"), ("start", "running"), ("restart", "running")] {
        assert_eq!(
            api.post(format!("/api/containers/beside/{verb}")).await.is(200).json()["data"]["status"],
            status,
            "{verb}"
        );
    }
    agent.writes("beside", LogStream::Stdout, "hello");
    let lines: Vec<String> = api.get("/api/containers/beside/logs").await.data(200);
    assert_eq!(lines, ["hello"]);
    // But for going into it: it may have all of the node.
    let enter = plane.admin().await.post("/api/containers/beside/exec");
    enter.json(&json!({ "command": ["true"] })).await.is(200);
    agent.docker_rename("beside", "other");
    eventually("its new name shows", async || {
        (api.get("/api/containers/other").await.status == 200).then_some(())
    })
    .await;

    // Its id stays across restarts, graceful or not.
    plane.restart().await;
    agent.ready(&plane).await;
    let after = api.until("other", ContainerStatus::Running).await;
    assert_eq!((&after.id, after.created), (&seen.id, seen.created));
    plane.kill().await;
    agent.ready(&plane).await;
    let after = api.until("other", ContainerStatus::Running).await;
    assert_eq!((&after.id, after.created), (&seen.id, seen.created));
    assert_eq!(seen.created, agent.containers()[0].observed.created, "it is as old as Docker says");

    // Gone when it is gone, also when that happens while nobody looks.
    agent.docker_rm("other");
    eventually("it is gone", async || api.containers("").await.is_empty().then_some(())).await;
    api.get(format!("/api/containers/{}", seen.id))
        .await
        .refused(404, "container_not_found");
    agent.docker_run("while-away", "redis:7");
    eventually("it is listed", async || (api.containers("").await.len() == 1).then_some(())).await;
    plane.stop().await;
    agent.docker_rm("while-away");
    plane.reopen().await;
    agent.ready(&plane).await;
    eventually("it is gone, too", async || api.containers("").await.is_empty().then_some(())).await;

    // Removed by us.
    agent.docker_run("last", "redis:7");
    eventually("it is listed", async || {
        (api.get("/api/containers/last").await.status == 200).then_some(())
    })
    .await;
    api.delete("/api/containers/last").await.refused(409, "in_use");
    api.delete("/api/containers/last?force=true").await.is(200);
    assert!(agent.containers().is_empty());
}

/// A node says things of another node's containers: by our id, by Docker's id, by their use and their end.
#[tokio::test]
async fn a_node_speaks_for_itself_only() {
    let (plane, alder, api) = fleet(Database::sqlite()).await;
    let birch = FakeAgent::join(&plane, "birch").await;
    let made = api
        .create(&json!({ "name": "web", "image": "nginx", "nodeId": "birch", "start": true }))
        .await;
    let truth = birch.container(&made.id).observed;
    let docker_id = truth.docker_id.clone();

    let mut lie = truth.clone();
    (lie.status, lie.message, lie.name) = (ContainerStatus::Exited, Some("it is ours now".into()), "stolen".into());
    alder.report(WatchEvent::Container {
        observed: Box::new(lie.clone()),
    });
    lie.docker_id = "a".repeat(64);
    alder.report(WatchEvent::Container { observed: Box::new(lie) });
    alder.report(WatchEvent::Usage {
        samples: vec![(docker_id.clone(), Usage { cpu: 99.0, memory: 99.0 })],
    });
    alder.report(WatchEvent::Removed {
        docker_id: docker_id.clone(),
    });
    // Whatever was said before this is heard by the time it is.
    alder.docker_run("marker", "redis:7");
    eventually("all was heard", async || {
        (api.get("/api/containers/marker").await.status == 200).then_some(())
    })
    .await;

    let view = api.container(made.id.as_str()).await;
    assert_eq!(
        (view.status, view.name.as_str(), &view.node_id, view.message),
        (ContainerStatus::Running, "web", &birch.node, None)
    );
    assert_eq!(
        (view.resources.cpu_usage, view.docker_id.as_deref()),
        (0.0, Some(docker_id.as_str()))
    );
    // What the real node says still counts.
    birch.uses(docker_id.as_str(), Usage { cpu: 1.5, memory: 2.5 });
    eventually("its own use shows", async || {
        (api.container(made.id.as_str()).await.resources.cpu_usage == 1.5).then_some(())
    })
    .await;
    birch.docker_rm("web");
    api.until(made.id.as_str(), ContainerStatus::Exited).await;
}

/// Word of a container that was removed meanwhile arrives late: it does not rise again.
#[tokio::test]
async fn late_word_of_what_was_removed() {
    let (_plane, agent, api) = fleet(Database::sqlite()).await;
    let id = api.create(&running("web")).await.id;
    let before = agent.container(&id).observed;
    api.delete("/api/containers/web?force=true").await.is(200);
    agent.report(WatchEvent::Container {
        observed: Box::new(before),
    });
    agent.docker_run("marker", "redis:7");
    eventually("all was heard", async || {
        (api.get("/api/containers/marker").await.status == 200).then_some(())
    })
    .await;
    api.get(format!("/api/containers/{id}")).await.refused(404, "container_not_found");
    assert_eq!(api.containers("").await.len(), 1);
}

/// `node_offline` promises that nothing was done; this one that it may have been.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_breaks_in_the_middle_says_so() {
    let (plane, agent, api) = fleet(Database::sqlite()).await;
    api.create(&running("web")).await;
    let hold = agent.hold(Ask::Remove, When::After);
    let remove = tokio::spawn({
        let api = api.clone();
        async move { api.delete("/api/containers/web?force=true").await }
    });
    hold.reached(1).await;
    agent.take_down();
    let told = remove.await.unwrap().refused(503, "node_disconnected");
    assert!(told.error.contains(agent.node.as_str()), "{told:?}");
    hold.release();
    agent.mend();
    agent.ready(&plane).await;
    eventually("the list is true again", async || api.containers("").await.is_empty().then_some(())).await;
    api.delete("/api/containers/web?force=true")
        .await
        .refused(404, "container_not_found");
}

async fn a_node_that_goes_and_comes_back(database: Database) {
    let (plane, agent, api) = fleet(database).await;
    for name in ["stays", "ends", "goes"] {
        api.create(&running(name)).await;
    }
    agent.docker_run("beside", "redis:7");
    eventually("all are listed", async || (api.containers("").await.len() == 4).then_some(())).await;
    assert!(api.containers("").await.iter().all(|c| c.reachable));

    agent.take_down();
    agent.is(&plane, NodeStatus::NotReady).await;
    // Reads go on, and say that they are old.
    eventually("the rows say so", async || {
        api.containers("").await.iter().all(|c| !c.reachable).then_some(())
    })
    .await;
    let old = api.container("stays").await;
    assert_eq!((old.status, old.reachable), (ContainerStatus::Running, false));
    // What needs the node says which and what to do.
    let refused = api.post("/api/containers").json(&nginx("new")).await.refused(503, "node_offline");
    assert!(refused.error.contains(agent.node.as_str()), "{refused:?}");
    for verb in ["start", "stop", "restart", "pause", "kill"] {
        api.post(format!("/api/containers/stays/{verb}")).await.refused(503, "node_offline");
    }
    for path in ["logs", "stats", "inspect", "logs?follow=true", "archive?path=/x"] {
        api.get(format!("/api/containers/stays/{path}")).await.refused(503, "node_offline");
    }
    api.delete("/api/containers/stays?force=true").await.refused(503, "node_offline");
    api.patch("/api/containers/stays")
        .json(&json!({ "restart": "always" }))
        .await
        .refused(503, "node_offline");
    api.post("/api/containers/stays/exec")
        .json(&json!({ "command": ["true"] }))
        .await
        .refused(503, "node_offline");
    api.get(format!("/api/images?nodeId={}", agent.node))
        .await
        .refused(503, "node_offline");
    api.post("/api/containers/images/pull")
        .json(&json!({ "name": "redis" }))
        .await
        .refused(503, "node_offline");
    assert_eq!(agent.calls(Ask::Stop) + agent.calls(Ask::Remove), 0);

    // Things happen there meanwhile.
    agent.docker_set("ends", ContainerStatus::Stopped);
    agent.docker_rm("goes");
    agent.docker_rm("beside");
    agent.docker_run("newcomer", "redis:7");
    let began = Instant::now();
    agent.mend();
    agent.ready(&plane).await;
    api.until("ends", ContainerStatus::Stopped).await;
    api.until("goes", ContainerStatus::Exited).await;
    eventually("the newcomer is listed", async || {
        (api.get("/api/containers/newcomer").await.status == 200).then_some(())
    })
    .await;
    api.get("/api/containers/beside").await.refused(404, "container_not_found");
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "reconciled within 15 s: {:?}",
        began.elapsed()
    );
    let back = api.container("stays").await;
    assert_eq!((back.status, back.reachable), (ContainerStatus::Running, true));
    assert_eq!(agent.calls(Ask::Restart) + agent.calls(Ask::Start), 0, "nothing was restarted");
    api.create(&nginx("new")).await;
}

/// The agent is back before its old connection is known to be dead: the new one is watched like the first.
#[tokio::test]
async fn a_link_that_replaces_another() {
    let (_plane, agent, api) = fleet(Database::sqlite()).await;
    api.create(&running("web")).await;
    for round in 0..3 {
        let watches = agent.calls(Ask::Watch);
        agent.cut_unheard();
        eventually("the new link is watched", async || {
            (agent.calls(Ask::Watch) > watches).then_some(())
        })
        .await;
        for status in [ContainerStatus::Stopped, ContainerStatus::Running] {
            agent.docker_set("web", status);
            api.until("web", status).await;
        }
        agent.docker_run(&format!("beside-{round}"), "redis:7");
        eventually("new ones are seen", async || {
            (api.get(format!("/api/containers/beside-{round}")).await.status == 200).then_some(())
        })
        .await;
    }
    api.post("/api/containers/web/stop").await.is(200);
    agree(&api, &agent, &["web"]).await;
}

#[tokio::test]
async fn docker_goes_and_comes_back() {
    let (plane, agent, api) = fleet(Database::sqlite()).await;
    api.create(&running("web")).await;
    agent.docker_available(false);
    agent.is(&plane, NodeStatus::NotReady).await;
    let node = api.get("/api/nodes/alder").await.json();
    assert_eq!(node["data"]["info"]["docker"]["error"], "Docker's socket does not answer");
    api.post("/api/containers")
        .json(&nginx("new"))
        .await
        .refused(503, "docker_unavailable");
    let view = api.container("web").await;
    assert_eq!(
        (view.status, view.reachable, view.message),
        (ContainerStatus::Running, false, None),
        "not there is not gone"
    );
    agent.docker_rm("web");
    agent.docker_available(true);
    agent.ready(&plane).await;
    api.until("web", ContainerStatus::Exited).await;
    api.create(&nginx("new")).await;
}

#[tokio::test]
async fn joining_leaving_and_cordoning() {
    let (plane, agent, api) = fleet(Database::sqlite()).await;
    let admin = plane.admin().await;
    // A second machine of the same name gets another, and each is found by its own.
    let twin = FakeAgent::join(&plane, "alder").await;
    let names: Vec<String> = api.get("/api/nodes").await.json()["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n["name"].as_str().unwrap().to_owned())
        .collect();
    assert!(
        names.len() == 2 && names[0] != names[1] && names.iter().all(|n| n.starts_with("alder")),
        "{names:?}"
    );

    let twin_path = format!("/api/nodes/{}", twin.node);
    admin
        .patch(&twin_path)
        .json(&json!({ "name": "alder" }))
        .await
        .refused(409, "already_exists");
    let renamed = admin
        .patch(&twin_path)
        .json(&json!({ "name": "birch", "labels": { "rack": "2" }, "cordoned": true }))
        .await
        .is(200)
        .json();
    assert_eq!(
        (renamed["data"]["name"].as_str(), renamed["data"]["status"].as_str()),
        (Some("birch"), Some("cordoned"))
    );
    let on_birch = json!({ "name": "web", "image": "nginx", "nodeId": "birch" });
    api.post("/api/containers").json(&on_birch).await.refused(409, "node_cordoned");
    admin.patch(&twin_path).json(&json!({ "cordoned": false })).await.is(200);
    let made = api.create(&on_birch).await;

    // A node with containers of ours stays; without them it goes, and its certificate with it.
    admin.delete("/api/nodes/birch").await.refused(409, "node_in_use");
    api.delete(format!("/api/containers/{}", made.id)).await.is(200);
    twin.docker_run("beside", "redis:7");
    eventually("it is listed", async || (api.containers("").await.len() == 1).then_some(())).await;
    admin.delete("/api/nodes/birch").await.is(200);
    api.get("/api/nodes/birch").await.refused(404, "node_not_found");
    assert!(api.containers("").await.is_empty(), "what others made there is no longer shown");
    eventually("it is kept out", async || {
        (plane.app().fleet.links().get(&twin.node).is_none()).then_some(())
    })
    .await;
    twin.stop().await;
    agent.ready(&plane).await;
    assert_eq!(api.get("/api/nodes").await.json()["count"], 1);
}
