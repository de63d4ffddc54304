//! Work that is cut in half: by clients that hang up, links that break, a control plane that is killed, and people who
//! change their mind. Whatever happens there is exactly one container, or none, and both sides agree.

use crate::{agree, nginx, running};
use nm_link::contract::{AgentError, AgentErrorCode};
use nm_testing::{Ask, Client, Database, FakeAgent, TestControlPlane, When, both, eventually};
use nm_types::container::{ContainerStatus, ContainerView};
use nm_types::operation::{OperationState, OperationView};
use serde_json::json;
use std::collections::HashSet;

both!(
    a_client_that_hangs_up,
    killed_in_a_create,
    killed_in_a_remove,
    killed_in_a_pull,
    stopped_in_a_create,
    two_hundred_at_once,
    a_name_that_is_taken,
    cancelled,
);

async fn fleet(database: Database) -> (TestControlPlane, FakeAgent, Client) {
    let plane = TestControlPlane::start(database).await;
    let agent = FakeAgent::join(&plane, "alder").await;
    let api = plane.operator().await.clone();
    (plane, agent, api)
}

async fn begin(api: &Client, spec: &serde_json::Value) -> OperationView {
    api.post("/api/containers").json(spec).respond_async().await.data(202)
}

/// No operation is under way, and none says that it is.
async fn nothing_runs(plane: &TestControlPlane, api: &Client) {
    eventually("no operation runs", async || {
        let running: Vec<OperationView> = api.get("/api/operations?state=running&limit=200").await.data(200);
        (running.is_empty() && plane.app().operations.running() == 0).then_some(())
    })
    .await;
}

async fn a_client_that_hangs_up(database: Database) {
    let (plane, agent, api) = fleet(database).await;
    let hold = agent.hold(Ask::Create, When::Before);
    api.post("/api/containers")
        .json(&running("web"))
        .hang_up_when(hold.reached(1))
        .await;
    hold.release();
    let made = api.until("web", ContainerStatus::Running).await;
    nothing_runs(&plane, &api).await;
    agree(&api, &agent, &["web"]).await;

    // Renamed on both sides, or on neither.
    let hold = agent.hold(Ask::Rename, When::Before);
    api.post("/api/containers/web/rename")
        .json(&json!({ "name": "whole" }))
        .hang_up_when(hold.reached(1))
        .await;
    hold.release();
    eventually("the name is the same on both sides", async || {
        let name = agent.container(&made.id).observed.name;
        (name == "whole" && api.container(made.id.as_str()).await.name == name).then_some(())
    })
    .await;

    // Whoever asks for a removal and goes away gets it, too.
    let hold = agent.hold(Ask::Remove, When::Before);
    api.delete("/api/containers/whole?force=true").hang_up_when(hold.reached(1)).await;
    hold.release();
    eventually("it is gone", async || api.containers("").await.is_empty().then_some(())).await;
    agree(&api, &agent, &[]).await;
    api.create(&nginx("whole")).await;
}

/// The link breaks before the node has done it, and after; the answer comes all the same.
#[tokio::test]
async fn a_link_cut_in_the_middle() {
    let (plane, agent, api) = fleet(Database::sqlite()).await;
    for (name, when) in [("before", When::Before), ("after", When::After)] {
        let hold = agent.hold(Ask::Create, when);
        let call = api.post("/api/containers").json(&running(name));
        let answer = tokio::spawn(async move { call.await.data::<ContainerView>(201) });
        hold.reached(1).await;
        agent.cut();
        // It is asked again over the new link.
        hold.reached(2).await;
        hold.release();
        assert_eq!(answer.await.unwrap().status, ContainerStatus::Running);
    }
    nothing_runs(&plane, &api).await;
    agree(&api, &agent, &["before", "after"]).await;
    let log: Vec<OperationView> = api.get("/api/operations").await.data(200);
    assert!(log.iter().all(|o| o.log.iter().any(|l| l.line.contains("asking again"))), "{log:?}");
}

/// One exchange breaks off while the link stands.
#[tokio::test]
async fn an_answer_cut_in_the_middle() {
    let (plane, agent, api) = fleet(Database::sqlite()).await;
    agent.abort_next(Ask::Create);
    assert_eq!(api.create(&running("web")).await.status, ContainerStatus::Running);
    agent.abort_next(Ask::Pull);
    api.post("/api/containers/images/pull")
        .json(&json!({ "name": "redis:7" }))
        .await
        .is(200);
    agent.abort_next(Ask::Stop);
    let reply = api.post("/api/containers/web/stop").await;
    assert!(matches!(reply.status, 200 | 503), "{}", reply.text());
    nothing_runs(&plane, &api).await;
    api.until("web", ContainerStatus::Stopped).await;
    agree(&api, &agent, &["web"]).await;
}

/// Where a kill may find a create.
#[derive(Debug, Clone, Copy)]
enum Stage {
    /// The node has not seen it.
    Before,
    /// The node has made it, and has not said so.
    After,
    /// The node has said so, and the end is not written.
    Unwritten,
}

async fn killed_in_a_create(database: Database) {
    let (mut plane, agent, api) = fleet(database).await;
    api.create(&running("bystander")).await;
    let mut names = vec!["bystander".to_owned()];
    for (round, stage) in [Stage::Before, Stage::After, Stage::Unwritten, Stage::Before, Stage::After]
        .into_iter()
        .enumerate()
    {
        let name = format!("web-{round}");
        let hold = agent.hold(
            Ask::Create,
            if matches!(stage, Stage::Before) {
                When::Before
            } else {
                When::After
            },
        );
        let operation = begin(&api, &running(&name)).await;
        hold.reached(1).await;
        if let Stage::Unwritten = stage {
            let writes = plane.hold_writes().await;
            hold.release();
            eventually("the node's answer has come", async || {
                (api.container(&name).await.docker_id.is_some()).then_some(())
            })
            .await;
            plane.kill_only();
            drop(writes);
        } else {
            plane.kill_only();
        }
        hold.release();
        plane.reopen().await;
        // What was acknowledged is there at once, and is finished when its node is back.
        assert_eq!(
            api.container(&name).await.id.as_str(),
            operation.target.as_deref().unwrap(),
            "{stage:?}"
        );
        let ended = api.ended(operation.id.as_str()).await;
        assert_eq!(ended.state, OperationState::Succeeded, "{stage:?}: {ended:?}");
        api.until(&name, ContainerStatus::Running).await;
        names.push(name);
        nothing_runs(&plane, &api).await;
        agree(&api, &agent, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    // Each was made once: a second one would have another birth.
    let made: HashSet<_> = agent.containers().into_iter().map(|c| c.operation).collect();
    assert_eq!(made.len(), names.len());
    let verdict = plane.admin().await.get("/api/audit/verify").await.is(200).json();
    assert_eq!(verdict["data"]["intact"], true);
}

async fn killed_in_a_remove(database: Database) {
    let (mut plane, agent, api) = fleet(database).await;
    api.create(&running("bystander")).await;
    for when in [When::Before, When::After] {
        let id = api.create(&running("web")).await.id;
        let hold = agent.hold(Ask::Remove, when);
        let call = api.delete("/api/containers/web?force=true");
        let answer = tokio::spawn(call.try_send());
        hold.reached(1).await;
        plane.kill_only();
        assert!(answer.await.unwrap().is_err(), "nothing was acknowledged");
        hold.release();
        plane.reopen().await;
        eventually(&format!("{id} is gone, {when:?}"), async || {
            (api.get(format!("/api/containers/{id}")).await.status == 404).then_some(())
        })
        .await;
        agree(&api, &agent, &["bystander"]).await;
    }
    // The name is free again.
    api.create(&running("web")).await;
}

async fn killed_in_a_pull(database: Database) {
    let (mut plane, agent, api) = fleet(database).await;
    let hold = agent.hold(Ask::Pull, When::Before);
    let operation: OperationView = api
        .post("/api/containers/images/pull")
        .json(&json!({ "name": "redis:7" }))
        .respond_async()
        .await
        .data(202);
    hold.reached(1).await;
    plane.kill().await;
    hold.release();
    let ended = api.ended(operation.id.as_str()).await;
    assert_eq!(ended.state, OperationState::Succeeded);
    assert_eq!(ended.result.unwrap()["tags"], json!(["redis:7"]));
    assert_eq!(agent.containers().len(), 0);
}

/// A graceful stop leaves what can't end in time to the next start.
async fn stopped_in_a_create(database: Database) {
    let (mut plane, agent, api) = fleet(database).await;
    let hold = agent.hold(Ask::Create, When::After);
    let operation = begin(&api, &running("web")).await;
    hold.reached(1).await;
    plane.restart().await;
    hold.release();
    assert_eq!(api.ended(operation.id.as_str()).await.state, OperationState::Succeeded);
    agree(&api, &agent, &["web"]).await;
}

async fn two_hundred_at_once(database: Database) {
    let (plane, agent, api) = fleet(database).await;
    let names: Vec<String> = (0..200).map(|n| format!("web-{n}")).collect();
    let calls = names.iter().map(|name| {
        let call = api
            .post("/api/containers")
            .json(&json!({ "name": name, "image": "nginx", "ports": [{ "container": 80 }], "start": true }));
        async move { call.await.data::<ContainerView>(201) }
    });
    let made = futures_util::future::join_all(calls).await;
    let ports: HashSet<u16> = made.iter().map(|c| c.ports[0].host).collect();
    assert_eq!(ports.len(), 200, "each has a port of its own");
    nothing_runs(&plane, &api).await;
    agree(&api, &agent, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(agent.calls(Ask::Create), 200);

    let gone = futures_util::future::join_all(
        names
            .iter()
            .map(|name| api.delete(format!("/api/containers/{name}?force=true")).into_future()),
    )
    .await;
    assert!(gone.iter().all(|r| r.status == 200));
    agree(&api, &agent, &[]).await;
}

async fn a_name_that_is_taken(database: Database) {
    let (plane, agent, api) = fleet(database).await;
    api.create(&nginx("web")).await;
    let refused = api.post("/api/containers").json(&nginx("web")).await.refused(409, "name_taken");
    assert!(refused.error.contains("web") && refused.details[0].field == "name", "{refused:?}");
    assert_eq!(agent.calls(Ask::Create), 1, "the node was not bothered");

    // Of many at once one wins.
    let calls = (0..10).map(|_| api.post("/api/containers").json(&nginx("db")).into_future());
    let mut statuses: Vec<u16> = futures_util::future::join_all(calls).await.into_iter().map(|r| r.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [vec![201], vec![409; 9]].concat());

    // Docker has one that we did not make.
    agent.docker_run("beside", "redis:7");
    let refused = api.post("/api/containers").json(&nginx("beside")).await.refused(409, "name_taken");
    assert_eq!(refused.details[0].field, "name");
    let refused = api
        .post("/api/containers/web/rename")
        .json(&json!({ "name": "db" }))
        .await
        .refused(409, "name_taken");
    assert_eq!(refused.details[0].field, "name");
    let refused = api
        .post("/api/containers/web/rename")
        .json(&json!({ "name": "beside" }))
        .await
        .refused(409, "name_taken");
    assert_eq!(refused.details[0].field, "name");
    api.post("/api/containers/web/rename")
        .json(&json!({ "name": "images" }))
        .await
        .names("name");

    nothing_runs(&plane, &api).await;
    agree(&api, &agent, &["web", "db"]).await;
    // On another node it is free.
    let other = FakeAgent::join(&plane, "birch").await;
    api.create(&json!({ "name": "web", "image": "nginx", "nodeId": "birch" })).await;
    api.get("/api/containers/web").await.refused(409, "ambiguous_name");
    assert_eq!(other.containers().len(), 1);
}

async fn cancelled(database: Database) {
    let (plane, agent, api) = fleet(database).await;
    for when in [When::Before, When::After] {
        let hold = agent.hold(Ask::Create, when);
        let operation = begin(&api, &running("web")).await;
        hold.reached(1).await;
        let reply = api.post(format!("/api/operations/{}/cancel", operation.id)).await.is(200);
        assert_eq!(reply.json()["data"]["cancelRequested"], true);
        let ended = api.ended(operation.id.as_str()).await;
        assert_eq!(
            (ended.state, ended.error.unwrap().code.as_str()),
            (OperationState::Cancelled, "cancelled")
        );
        hold.release();
        api.get("/api/containers/web").await.refused(404, "container_not_found");
        agree(&api, &agent, &[]).await;
        api.post(format!("/api/operations/{}/cancel", operation.id))
            .await
            .refused(409, "already_ended");
    }
    api.post("/api/operations/op_1_abcdefghi/cancel")
        .await
        .refused(404, "operation_not_found");

    // A removal with force of what is being made.
    let hold = agent.hold(Ask::Create, When::After);
    begin(&api, &running("web")).await;
    hold.reached(1).await;
    api.delete("/api/containers/web").await.refused(409, "being_created");
    api.post("/api/containers/web/start").await.refused(409, "being_created");
    api.delete("/api/containers/web?force=true").await.is(200);
    hold.release();
    agree(&api, &agent, &[]).await;

    // A pull.
    let hold = agent.hold(Ask::Pull, When::Before);
    let operation: OperationView = api
        .post("/api/containers/images/pull")
        .json(&json!({ "name": "redis:7" }))
        .respond_async()
        .await
        .data(202);
    hold.reached(1).await;
    api.post(format!("/api/operations/{}/cancel", operation.id)).await.is(200);
    assert_eq!(api.ended(operation.id.as_str()).await.state, OperationState::Cancelled);
    hold.release();
    nothing_runs(&plane, &api).await;

    // The node went away after it had made it: what is left there goes when it is back.
    let hold = agent.hold(Ask::Create, When::After);
    let operation = begin(&api, &running("web")).await;
    hold.reached(1).await;
    agent.take_down();
    eventually("the node is away", async || {
        (api.get("/api/nodes/alder").await.json()["data"]["status"] == "notReady").then_some(())
    })
    .await;
    api.post(format!("/api/operations/{}/cancel", operation.id)).await.is(200);
    hold.release();
    agent.mend();
    agent.ready(&plane).await;
    assert_eq!(api.ended(operation.id.as_str()).await.state, OperationState::Cancelled);
    eventually("nothing of it is left", async || agent.containers().is_empty().then_some(())).await;
    eventually("nor in the list", async || api.containers("").await.is_empty().then_some(())).await;
    nothing_runs(&plane, &api).await;
}

/// Followed from its first step to its last, by SSE, and the same told afterwards.
#[tokio::test]
async fn a_pull_is_followed_to_its_end() {
    let (_plane, agent, api) = fleet(Database::sqlite()).await;
    let hold = agent.hold(Ask::Pull, When::Before);
    let operation: OperationView = api
        .post("/api/containers/images/pull")
        .json(&json!({ "name": "redis:7" }))
        .respond_async()
        .await
        .data(202);
    let path = format!("/api/operations/{}?follow=true", operation.id);
    let mut events = api.get(&path).events().await.unwrap();
    let first: OperationView = events.next().await.unwrap().data();
    assert_eq!((first.state, first.steps.len()), (OperationState::Running, 0));
    let done = agent.hold(Ask::Pull, When::After);
    hold.release();
    done.reached(1).await;
    let under_way = events
        .find("the last layer", |e| e.data::<OperationView>().progress == Some(100.0))
        .await;
    let under_way: OperationView = under_way.data();
    assert_eq!(
        (under_way.state, under_way.steps[0].name.as_str()),
        (OperationState::Running, "pull")
    );
    assert!(
        under_way.steps[0].detail.as_ref().is_some_and(|d| d.contains("Pull complete")),
        "{under_way:?}"
    );
    done.release();
    let rest = events.rest().await;
    let (end, last) = (rest.last().unwrap(), &rest[rest.len() - 2]);
    assert_eq!((end.event.as_str(), last.event.as_str()), ("end", "operation"));
    let last: OperationView = last.data();
    assert_eq!(
        (last.state, last.progress, last.steps[0].state),
        (OperationState::Succeeded, Some(100.0), OperationState::Succeeded)
    );

    // Once it is over: its last state, and the end.
    let again = api.get(&path).events().await.unwrap().rest().await;
    assert_eq!(again.iter().map(|e| e.event.as_str()).collect::<Vec<_>>(), ["operation", "end"]);
    let stored: OperationView = again[0].data();
    assert_eq!((stored.id, stored.state, stored.result), (last.id, last.state, last.result));
    api.get("/api/operations/op_1_abcdefghi?follow=true")
        .await
        .refused(404, "operation_not_found");
}

/// What a node refuses is told as it is, by the request and by the operation, and nothing is left.
#[tokio::test]
async fn a_create_that_fails() {
    let (plane, agent, api) = fleet(Database::sqlite()).await;
    for (code, status, told) in [
        (AgentErrorCode::ImageNotFound, 404, "image_not_found"),
        (AgentErrorCode::ImageAccessDenied, 409, "image_access_denied"),
        (AgentErrorCode::PullFailed, 404, "pull_failed"),
        (AgentErrorCode::PortInUse, 409, "port_in_use"),
        (AgentErrorCode::InsufficientResources, 409, "insufficient_resources"),
        (AgentErrorCode::Forbidden, 403, "forbidden_by_node_policy"),
        (AgentErrorCode::Invalid, 422, "invalid_field"),
        (AgentErrorCode::DiskFull, 507, "disk_full"),
        (AgentErrorCode::DockerUnavailable, 503, "docker_unavailable"),
        (AgentErrorCode::CommandFailed, 409, "command_failed"),
        (AgentErrorCode::Internal, 500, "internal"),
    ] {
        let mut error = AgentError::new(code, "the node says why").field("image");
        error.logs = vec!["the last line".into()];
        agent.fail_next(Ask::Create, error);
        let refused = api.post("/api/containers").json(&nginx("web")).await.refused(status, told);
        assert_eq!(
            (refused.error.as_str(), refused.logs.as_slice()),
            ("the node says why", &["the last line".to_owned()][..])
        );
        assert_eq!(refused.details[0].field, "image");
        let operation = api.operation(&refused.operation_id.unwrap()).await;
        assert_eq!(
            (operation.state, operation.error.unwrap().code.as_str()),
            (OperationState::Failed, told)
        );
        api.get("/api/containers/web").await.refused(404, "container_not_found");
    }
    nothing_runs(&plane, &api).await;
    agree(&api, &agent, &[]).await;
    assert_eq!(api.get("/api/operations?state=failed").await.json()["count"], 11);
    assert_eq!(api.get("/api/operations?state=succeeded").await.json()["count"], 0);
}

/// A change that the node refuses is undone here, too.
#[tokio::test]
async fn a_change_that_fails() {
    let (plane, agent, api) = fleet(Database::sqlite()).await;
    api.create(&json!({ "name": "web", "image": "nginx", "memoryLimit": "64m", "start": true }))
        .await;
    agent.fail_next(
        Ask::Update,
        AgentError::new(AgentErrorCode::InsufficientResources, "the node has less"),
    );
    api.patch("/api/containers/web")
        .json(&json!({ "memoryLimit": "9g" }))
        .await
        .refused(409, "insufficient_resources");
    assert_eq!(api.container("web").await.resources.memory_limit.as_deref(), Some("64m"));
    agent.fail_next(Ask::Rename, AgentError::new(AgentErrorCode::NameTaken, "the name is taken"));
    api.post("/api/containers/web/rename")
        .json(&json!({ "name": "whole" }))
        .await
        .refused(409, "name_taken");
    assert_eq!(api.container("web").await.name, "web");
    agent.fail_next(Ask::Remove, AgentError::new(AgentErrorCode::InUse, "its volume is in use"));
    api.delete("/api/containers/web?force=true").await.refused(409, "in_use");
    assert_eq!(api.container("web").await.status, ContainerStatus::Running);
    // It can still be worked with, and what failed is in the audit log as such.
    api.post("/api/containers/web/stop").await.is(200);
    let outcomes: Vec<serde_json::Value> = plane
        .admin()
        .await
        .get("/api/audit?target=".to_owned() + api.container("web").await.id.as_str())
        .await
        .data(200);
    let failed: Vec<&str> = outcomes
        .iter()
        .filter_map(|e| e["outcome"].as_str())
        .filter(|o| *o != "ok")
        .collect();
    assert!(
        failed.contains(&"insufficient_resources") && failed.contains(&"name_taken"),
        "{outcomes:?}"
    );
    agree(&api, &agent, &["web"]).await;
}

/// All work on one container goes one after another, so that the last word is the last.
#[tokio::test]
async fn one_after_another() {
    let (_plane, agent, api) = fleet(Database::sqlite()).await;
    let id = api.create(&nginx("web")).await.id;
    let verbs = [
        "start", "stop", "restart", "stop", "start", "pause", "unpause", "kill", "start", "stop",
    ];
    let calls = (0..5)
        .flat_map(|_| verbs)
        .map(|verb| api.post(format!("/api/containers/web/{verb}")).into_future());
    for reply in futures_util::future::join_all(calls).await {
        assert!(matches!(reply.status, 200 | 409), "{}", reply.text());
    }
    let (here, there) = (api.container("web").await.status, agent.container(&id).observed.status);
    assert_eq!(here, there);
    agree(&api, &agent, &["web"]).await;
}
