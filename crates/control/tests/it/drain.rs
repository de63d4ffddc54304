//! Nodes that are emptied: what is moved, what is stopped, and what comes of it when something dies in the middle.

use crate::{nginx, running};
use nm_link::contract::{AgentError, AgentErrorCode};
use nm_testing::{Ask, Client, Database, FakeAgent, TestControlPlane, When, both, eventually};
use nm_types::ContainerId;
use nm_types::container::{ContainerStatus, ContainerView};
use nm_types::node::NodeView;
use nm_types::operation::{OperationState, OperationView};
use nm_types::placement::DrainReport;
use serde_json::json;

both!(killed_at_every_step, moved_or_stopped);

async fn fleet<const N: usize>(database: Database, names: [&str; N]) -> (TestControlPlane, [FakeAgent; N], Client) {
    let plane = TestControlPlane::start(database).await;
    let agents = futures_util::future::join_all(names.map(|name| FakeAgent::join(&plane, name))).await;
    let api = plane.admin().await.clone();
    (plane, agents.try_into().expect("as many as names"), api)
}

/// The copies of a container on all nodes: whose it is, and whether it runs.
pub(crate) fn copies(agents: &[&FakeAgent], id: &ContainerId) -> Vec<(String, ContainerStatus)> {
    let of = |agent: &&FakeAgent| -> Vec<(String, ContainerStatus)> {
        let ours = |c: &nm_testing::Seen| c.observed.id.as_ref() == Some(id);
        let all = agent.containers().into_iter().filter(ours);
        all.map(|c| (agent.node.to_string(), c.observed.status)).collect()
    };
    agents.iter().flat_map(of).collect()
}

async fn begin(api: &Client, node: &str, body: serde_json::Value) -> OperationView {
    api.post(format!("/api/nodes/{node}/drain"))
        .json(&body)
        .respond_async()
        .await
        .data(202)
}

async fn moved_or_stopped(database: Database) {
    let (plane, [alder, birch], api) = fleet(database, ["alder", "birch"]).await;
    let on_alder = |name: &str, more: serde_json::Value| {
        let mut spec = json!({ "name": name, "image": "nginx", "nodeId": "alder", "start": true });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    let secret = json!({ "environment": { "DB_PASSWORD": "hunter2-hunter2" }, "ports": [{ "container": 80, "host": 8080 }] });
    let web = api.create(&on_alder("web", secret)).await;
    let idle = api.create(&on_alder("idle", json!({ "start": false }))).await;
    let data = json!({ "volumes": [{ "container": "/data", "host": "pgdata" }] });
    let db = api.create(&on_alder("db", data)).await;
    let cache = api
        .create(&on_alder("cache", json!({ "volumes": [{ "container": "/cache" }] })))
        .await;
    alder.docker_run("beside", "redis:7");
    let before = api.container("web").await;

    let report: DrainReport = api.post("/api/nodes/alder/drain").json(&json!({ "grace": 1 })).await.data(200);
    let told = |all: &[nm_types::placement::Drained]| -> Vec<String> { all.iter().map(|d| d.name.clone()).collect() };
    assert_eq!(
        (told(&report.moved), told(&report.stopped)),
        (vec!["web".to_owned(), "idle".into()], vec!["db".into(), "cache".into()])
    );
    assert!(report.moved.iter().all(|m| m.node_id == birch.node));
    assert!(report.stopped[0].reason.as_ref().unwrap().contains("/data"), "{report:?}");

    let after = api.until("web", ContainerStatus::Running).await;
    assert_eq!((&after.id, &after.node_id, &after.ports), (&before.id, &birch.node, &before.ports));
    assert_eq!((after.message, after.restarts), (None, 0));
    let seen = birch.container(&web.id).spec.unwrap();
    assert_eq!(seen.environment.0.values().next().unwrap().as_str(), "hunter2-hunter2");
    let both = [&alder, &birch];
    assert_eq!(copies(&both, &web.id), [(birch.node.to_string(), ContainerStatus::Running)]);
    assert_eq!(copies(&both, &idle.id), [(birch.node.to_string(), ContainerStatus::Created)]);
    assert_eq!(copies(&both, &db.id), [(alder.node.to_string(), ContainerStatus::Stopped)]);
    assert_eq!(copies(&both, &cache.id), [(alder.node.to_string(), ContainerStatus::Stopped)]);
    assert_eq!(alder.containers().len(), 3, "what others run is left alone");
    let node: NodeView = api.get("/api/nodes/alder").await.data(200);
    assert_eq!(serde_json::to_value(node.status).unwrap(), "cordoned");

    // It is one container still: it can be worked with, found by its name, and removed.
    api.post("/api/containers/web/restart").await.is(200);
    api.patch("/api/containers/web").json(&json!({ "cpuLimit": 1 })).await.is(200);
    api.delete("/api/containers/web?force=true").await.is(200);
    assert_eq!(copies(&both, &web.id), []);

    // Drained again, there is nothing to do; stopping is all that is done where that is asked for.
    let again: DrainReport = api.post("/api/nodes/alder/drain").await.data(200);
    assert_eq!((again.moved.len(), told(&again.stopped)), (0, vec!["db".into(), "cache".into()]));
    api.create(&json!({ "name": "more", "image": "nginx", "nodeId": "birch", "start": true }))
        .await;
    let report: DrainReport = api.post("/api/nodes/birch/drain").json(&json!({ "move": false })).await.data(200);
    assert_eq!((report.moved.len(), report.stopped.len()), (0, 2));
    api.until("more", ContainerStatus::Stopped).await;
    assert_eq!(birch.containers().len(), 2);

    api.post("/api/nodes/birch/uncordon").await.is(200);
    api.post("/api/containers/more/start").await.is(200);
    let operator = plane.operator().await;
    operator.post("/api/nodes/birch/drain").await.refused(403, "forbidden");
    api.post("/api/nodes/birch/drain")
        .json(&json!({ "grace": -1 }))
        .await
        .names("grace");
    let verdict = api.get("/api/audit/verify").await.is(200).json();
    assert_eq!(verdict["data"]["intact"], true);
}

/// Where a kill may find a drain of one container.
#[derive(Debug, Clone, Copy)]
enum Stage {
    /// At this point of a call to the node it moves to, or from.
    There(When),
    /// It is made there, and that is not written.
    Unwritten,
    Here(Ask, When),
}

async fn killed_at_every_step(database: Database) {
    let (mut plane, [alder, birch], api) = fleet(database, ["alder", "birch"]).await;
    let stages = [
        Stage::There(When::Before),
        Stage::There(When::After),
        Stage::Unwritten,
        Stage::Here(Ask::Stop, When::Before),
        Stage::Here(Ask::Stop, When::After),
        Stage::Here(Ask::Remove, When::Before),
        Stage::Here(Ask::Remove, When::After),
    ];
    let both = [&alder, &birch];
    for (round, stage) in stages.into_iter().enumerate() {
        let (name, name_of_two) = (format!("web-{round}"), format!("two-{round}"));
        let on_alder = |name: &str| json!({ "name": name, "image": "nginx", "nodeId": "alder", "start": true });
        let ids = [api.create(&on_alder(&name)).await.id, api.create(&on_alder(&name_of_two)).await.id];
        let hold = match stage {
            Stage::There(when) => birch.hold(Ask::Create, when),
            Stage::Unwritten => birch.hold(Ask::Create, When::After),
            Stage::Here(ask, when) => alder.hold(ask, when),
        };
        let operation = begin(&api, "alder", json!({ "grace": 0 })).await;
        hold.reached(1).await;
        if let Stage::Unwritten = stage {
            let writes = plane.hold_writes().await;
            hold.release();
            eventually("the node it moves to tells of it", async || {
                plane.app().index.get(&ids[0]).unwrap().state.arriving.clone()
            })
            .await;
            plane.kill_only();
            drop(writes);
        } else {
            plane.kill_only();
        }
        hold.release();
        plane.reopen().await;
        let ended = api.ended(operation.id.as_str()).await;
        assert_eq!(ended.state, OperationState::Succeeded, "{stage:?}: {ended:?}");
        let report: DrainReport = serde_json::from_value(ended.result.unwrap()).unwrap();
        assert_eq!(report.moved.len(), 2, "{stage:?}: {report:?}");
        for id in &ids {
            let there = eventually("one copy is left", async || {
                let all = copies(&both, id);
                (all.len() == 1).then_some(all)
            })
            .await;
            assert_eq!(there, [(birch.node.to_string(), ContainerStatus::Running)], "{stage:?}");
            let view = api.until(id.as_str(), ContainerStatus::Running).await;
            assert_eq!((view.node_id, view.message), (birch.node.clone(), None), "{stage:?}");
        }
        eventually("nothing is left over", async || {
            plane.app().nodes.leftovers().on_node(&alder.node).is_empty().then_some(())
        })
        .await;
        let strangers = api.containers("managed=false").await;
        assert!(strangers.is_empty(), "{stage:?}: {strangers:?}");
        api.post("/api/nodes/alder/uncordon").await.is(200);
        for id in &ids {
            api.delete(format!("/api/containers/{id}?force=true")).await.is(200);
        }
    }
    assert_eq!((alder.containers().len(), birch.containers().len()), (0, 0));
}

#[tokio::test]
async fn what_has_no_place_runs_on() {
    let (plane, [alder, birch], api) = fleet(Database::sqlite(), ["alder", "birch"]).await;
    let big = |name: &str| json!({ "name": name, "image": "nginx", "nodeId": "alder", "cpuLimit": 3, "start": true });
    let (one, two) = (api.create(&big("one")).await, api.create(&big("two")).await);
    let refused = api.post("/api/nodes/alder/drain").await.refused(409, "drain_incomplete");
    assert_eq!(refused.details.len(), 1, "{refused:?}");
    assert!(
        refused.error.contains("CPUs not promised yet") && refused.operation_id.is_some(),
        "{refused:?}"
    );
    let both = [&alder, &birch];
    let mut there = [copies(&both, &one.id), copies(&both, &two.id)].concat();
    there.sort_by(|a, b| a.0.cmp(&b.0));
    let mut expected = [alder.node.to_string(), birch.node.to_string()].map(|n| (n, ContainerStatus::Running));
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(there, expected);
    // The log says why.
    let operation = api.operation(refused.operation_id.as_deref().unwrap()).await;
    assert_eq!(operation.state, OperationState::Failed);
    assert!(
        operation.log.iter().any(|l| l.line.contains("stays: no node can take it")),
        "{:?}",
        operation.log
    );
    drop(plane);
}

#[tokio::test]
async fn a_node_that_refuses_is_passed_over() {
    let (_plane, [alder, birch, cedar], api) = fleet(Database::sqlite(), ["alder", "birch", "cedar"]).await;
    let web = api
        .create(&json!({ "name": "web", "image": "nginx", "nodeId": "alder", "start": true }))
        .await;
    birch.fail_next(
        Ask::Create,
        AgentError::new(AgentErrorCode::PullFailed, "the registry does not answer"),
    );
    cedar.fail_next(
        Ask::Create,
        AgentError::new(AgentErrorCode::PullFailed, "the registry does not answer"),
    );
    let refused = api.post("/api/nodes/alder/drain").await.refused(409, "drain_incomplete");
    assert!(
        refused.error.contains("could not make it: the registry does not answer"),
        "{refused:?}"
    );
    assert_eq!(
        copies(&[&alder, &birch, &cedar], &web.id),
        [(alder.node.to_string(), ContainerStatus::Running)]
    );
    // The emptier of the two is asked first.
    api.create(&json!({ "name": "other", "image": "nginx", "nodeId": "cedar" })).await;
    birch.fail_next(Ask::Create, AgentError::new(AgentErrorCode::PortInUse, "port 80 is in use"));
    let report: DrainReport = api.post("/api/nodes/alder/drain").await.data(200);
    assert_eq!(report.moved[0].node_id, cedar.node);
    assert_eq!(
        copies(&[&alder, &birch, &cedar], &web.id),
        [(cedar.node.to_string(), ContainerStatus::Running)]
    );
}

/// The node it moves to dies in the middle: another one takes it, and the copy that the dead one may have goes when it is back.
#[tokio::test]
async fn the_target_dies() {
    let (plane, [alder, birch, cedar], api) = fleet(Database::sqlite(), ["alder", "birch", "cedar"]).await;
    let web = api
        .create(&json!({ "name": "web", "image": "nginx", "nodeId": "alder", "start": true }))
        .await;
    let hold = birch.hold(Ask::Create, When::After);
    let second = cedar.hold(Ask::Create, When::After);
    let operation = begin(&api, "alder", json!({})).await;
    let (first, other) = tokio::select! {
        () = hold.reached(1) => (&birch, &cedar),
        () = second.reached(1) => (&cedar, &birch),
    };
    first.take_down();
    hold.release();
    second.release();
    let ended = api.ended(operation.id.as_str()).await;
    assert_eq!(ended.state, OperationState::Succeeded, "{ended:?}");
    assert_eq!(api.container("web").await.node_id, other.node);
    first.mend();
    first.ready(&plane).await;
    eventually("one copy is left", async || {
        (copies(&[&alder, &birch, &cedar], &web.id) == [(other.node.to_string(), ContainerStatus::Running)]).then_some(())
    })
    .await;
    assert_eq!(api.containers("").await.len(), 1);
}

#[tokio::test]
async fn cancelled() {
    let (_plane, [alder, birch], api) = fleet(Database::sqlite(), ["alder", "birch"]).await;
    let mut ids = Vec::new();
    for n in 0..8 {
        let spec = json!({ "name": format!("web-{n}"), "image": "nginx", "nodeId": "alder", "start": true });
        ids.push(api.create(&spec).await.id);
    }
    let hold = birch.hold(Ask::Create, When::After);
    let operation = begin(&api, "alder", json!({})).await;
    hold.reached(1).await;
    let refused = api.post("/api/nodes/alder/drain").await.refused(409, "drain_under_way");
    assert_eq!(refused.operation_id.as_deref(), Some(operation.id.as_str()));
    let moving = eventually("one is being moved", async || {
        api.containers("")
            .await
            .into_iter()
            .find(|c| c.message.as_ref().is_some_and(|m| m.contains("being moved")))
    })
    .await;
    api.post(format!("/api/containers/{}/stop", moving.id))
        .await
        .refused(409, "being_moved");
    api.post(format!("/api/operations/{}/cancel", operation.id)).await.is(200);
    let ended = api.ended(operation.id.as_str()).await;
    assert_eq!(
        (ended.state, ended.error.unwrap().code.as_str()),
        (OperationState::Cancelled, "cancelled")
    );
    hold.release();
    eventually("each runs once", async || {
        let at_home = |id: &ContainerId| copies(&[&alder, &birch], id) == [(alder.node.to_string(), ContainerStatus::Running)];
        ids.iter().all(at_home).then_some(())
    })
    .await;
    for container in api.containers("").await {
        assert_eq!((container.message, container.status), (None, ContainerStatus::Running));
    }
    // And now to its end.
    api.post("/api/nodes/alder/drain").await.is(200);
    assert_eq!((alder.containers().len(), birch.containers().len()), (0, 8));
}

#[tokio::test]
async fn a_container_that_is_being_made_is_waited_for() {
    let (_plane, [alder, birch], api) = fleet(Database::sqlite(), ["alder", "birch"]).await;
    let hold = alder.hold(Ask::Create, When::Before);
    let made: OperationView = api
        .post("/api/containers")
        .json(&json!({ "name": "web", "image": "nginx", "nodeId": "alder", "start": true }))
        .respond_async()
        .await
        .data(202);
    hold.reached(1).await;
    let drained = begin(&api, "alder", json!({})).await;
    api.post("/api/containers")
        .json(&json!({ "name": "late", "image": "nginx", "nodeId": "alder" }))
        .await
        .refused(409, "node_cordoned");
    hold.release();
    assert_eq!(api.ended(made.id.as_str()).await.state, OperationState::Succeeded);
    assert_eq!(api.ended(drained.id.as_str()).await.state, OperationState::Succeeded);
    let view: ContainerView = api.until("web", ContainerStatus::Running).await;
    assert_eq!(view.node_id, birch.node);
    assert_eq!(alder.containers().len(), 0);
}

/// Its containers go on running on the machine, and are no longer known.
#[tokio::test]
async fn a_node_is_removed_with_what_is_on_it() {
    let (mut plane, [alder, birch], api) = fleet(Database::sqlite(), ["alder", "birch"]).await;
    let web = api
        .create(&json!({ "name": "web", "image": "nginx", "nodeId": "alder", "start": true }))
        .await;
    api.delete("/api/nodes/alder").await.refused(409, "node_in_use");
    let hold = alder.hold(Ask::Create, When::Before);
    let made: OperationView = api
        .post("/api/containers")
        .json(&json!({ "name": "half", "image": "nginx", "nodeId": "alder" }))
        .respond_async()
        .await
        .data(202);
    hold.reached(1).await;
    api.delete("/api/nodes/alder?force=true").await.is(200);
    hold.release();
    assert_eq!(api.ended(made.id.as_str()).await.state, OperationState::Cancelled);
    api.get("/api/nodes/alder").await.refused(404, "node_not_found");
    assert!(api.containers("").await.is_empty());
    assert_eq!(alder.container(&web.id).observed.status, ContainerStatus::Running);
    // The fleet goes on without it.
    assert_eq!(api.create(&running("next")).await.node_id, birch.node);
    plane.restart().await;
    birch.ready(&plane).await;
    assert_eq!(api.containers("").await.len(), 1);
    api.create(&nginx("web")).await;
}
