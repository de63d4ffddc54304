//! Nodes that are lost, and come back: what moves, what waits, and that in the end each container is there once.

use crate::drain::copies;
use nm_testing::{Ask, Client, Database, FakeAgent, LOST_AFTER, TestControlPlane, When, both, eventually};
use nm_types::container::{ContainerStatus, ContainerView};
use nm_types::node::NodeStatus;
use nm_types::operation::{OperationState, OperationView};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

both!(moved_and_healed, killed_in_a_move);

async fn fleet<const N: usize>(database: Database, names: [&str; N]) -> (TestControlPlane, [FakeAgent; N], Client) {
    let plane = TestControlPlane::start(database).await;
    let agents = futures_util::future::join_all(names.map(|name| FakeAgent::join(&plane, name))).await;
    let api = plane.admin().await.clone();
    (plane, agents.try_into().expect("as many as names"), api)
}

fn on_alder(name: &str, more: Value) -> Value {
    let mut spec = json!({ "name": name, "image": "nginx", "nodeId": "alder", "start": true, "onNodeLost": "reschedule" });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

async fn reschedules(api: &Client, container: &ContainerView) -> Vec<OperationView> {
    let all: Vec<OperationView> = api.get(format!("/api/operations?target={}", container.id)).await.data(200);
    all.into_iter().filter(|o| o.kind == "container.reschedule").collect()
}

async fn on_node(api: &Client, container: &ContainerView, agent: &FakeAgent) -> ContainerView {
    eventually("it is on its new node", async || {
        let view = api.container(container.id.as_str()).await;
        (view.node_id == agent.node && view.status == ContainerStatus::Running).then_some(view)
    })
    .await
}

async fn moved_and_healed(database: Database) {
    let (plane, [alder, birch], api) = fleet(database, ["alder", "birch"]).await;
    let moves = api.create(&on_alder("moves", json!({ "environment": { "MODE": "live" } }))).await;
    let read_only = json!({ "volumes": [{ "container": "/conf", "host": "conf", "mode": "ro" }] });
    let reads = api.create(&on_alder("reads", read_only)).await;
    let idle = api.create(&on_alder("idle", json!({ "start": false }))).await;
    let data = json!({ "volumes": [{ "container": "/data", "host": "data" }], "onNodeLost": "wait" });
    let waits = api.create(&on_alder("waits", data)).await;
    let plain = api.create(&on_alder("plain", json!({ "onNodeLost": "wait" }))).await;
    let all = [&alder, &birch];

    let began = Instant::now();
    alder.take_down();
    for container in [&moves, &reads] {
        on_node(&api, container, &birch).await;
    }
    assert!(
        began.elapsed() < LOST_AFTER + Duration::from_secs(5),
        "within 15 s with the usual 10: {:?}",
        began.elapsed()
    );
    eventually("the idle one moved too", async || {
        (api.container("idle").await.node_id == birch.node).then_some(())
    })
    .await;
    let operation = api.ended(reschedules(&api, &moves).await[0].id.as_str()).await;
    assert_eq!((operation.state, operation.actor.as_str()), (OperationState::Succeeded, "system"));
    assert!(
        operation.log[0].line.starts_with("node alder is lost, last heard of at "),
        "{:?}",
        operation.log
    );
    assert!(operation.log[1].line.starts_with("birch was chosen"), "{:?}", operation.log);
    for container in [&waits, &plain] {
        let view = api.container(container.id.as_str()).await;
        assert_eq!((&view.node_id, view.reachable), (&alder.node, false));
        assert!(reschedules(&api, container).await.is_empty());
    }
    let new_home = birch.container(&moves.id).observed;
    // Both run for as long as they do not know of each other.
    assert_eq!(copies(&all, &moves.id).len(), 2);

    // Healed: the older copies go, the newer ones are not touched.
    let began = Instant::now();
    alder.mend();
    alder.ready(&plane).await;
    eventually("each is there once", async || {
        let once = |c: &ContainerView, home: &FakeAgent, status| copies(&all, &c.id) == [(home.node.to_string(), status)];
        let running = ContainerStatus::Running;
        (once(&moves, &birch, running)
            && once(&reads, &birch, running)
            && once(&idle, &birch, ContainerStatus::Created)
            && once(&waits, &alder, running)
            && once(&plain, &alder, running))
        .then_some(())
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert_eq!(birch.container(&moves.id).observed.docker_id, new_home.docker_id);
    assert_eq!(birch.container(&moves.id).observed.started, new_home.started);
    assert_eq!(alder.calls(Ask::Start) + alder.calls(Ask::Restart) + birch.calls(Ask::Stop), 0);
    eventually("the rows are right", async || {
        let listed = api.containers("").await;
        (listed.len() == 5 && listed.iter().all(|c| c.managed && c.reachable && c.message.is_none())).then_some(())
    })
    .await;

    // And the other way round: the node it came from takes it again.
    birch.take_down();
    on_node(&api, &moves, &alder).await;
    birch.mend();
    birch.ready(&plane).await;
    eventually("it is there once", async || {
        (copies(&all, &moves.id) == [(alder.node.to_string(), ContainerStatus::Running)]).then_some(())
    })
    .await;
    assert_eq!(
        alder
            .container(&moves.id)
            .spec
            .unwrap()
            .environment
            .0
            .values()
            .next()
            .unwrap()
            .as_str(),
        "live"
    );
}

#[tokio::test]
async fn a_link_that_flaps_moves_nothing() {
    let (plane, [alder, birch], api) = fleet(Database::sqlite(), ["alder", "birch"]).await;
    let web = api.create(&on_alder("web", json!({}))).await;
    for _ in 0..3 {
        alder.take_down();
        alder.is(&plane, NodeStatus::NotReady).await;
        alder.mend();
        alder.ready(&plane).await;
    }
    // Had one of those been taken for a loss, it would show by the time another node's loss does.
    let other = api.create(&on_alder("other", json!({ "nodeId": "birch" }))).await;
    birch.take_down();
    on_node(&api, &other, &alder).await;
    assert!(reschedules(&api, &web).await.is_empty());
    assert_eq!(
        copies(&[&alder, &birch], &web.id),
        [(alder.node.to_string(), ContainerStatus::Running)]
    );
}

#[tokio::test]
async fn without_a_place_it_waits_and_says_why() {
    let (plane, [alder, birch], api) = fleet(Database::sqlite(), ["alder", "birch"]).await;
    let web = api
        .create(&on_alder("web", json!({ "constraints": ["zone!=b"], "cpuLimit": 3 })))
        .await;
    let zone = |zone: &str| json!({ "labels": { "zone": zone } });
    api.patch("/api/nodes/birch").json(&zone("b")).await.is(200);
    let blocker = api
        .create(&json!({ "name": "blocker", "image": "nginx", "nodeId": "birch", "cpuLimit": 2 }))
        .await;
    alder.take_down();
    let says = async |text: &str| {
        eventually(&format!("it says: {text}"), async || {
            api.container("web").await.message.filter(|m| m.contains(text))
        })
        .await
    };
    let message = says("`zone!=b` is asked for").await;
    assert!(message.starts_with("its node alder is lost, last heard of at "), "{message}");
    assert!(reschedules(&api, &web).await.is_empty(), "nothing is begun that can't be done");
    // One reason less, another one left.
    api.patch("/api/nodes/birch").json(&zone("c")).await.is(200);
    eventually("the first reason is gone", async || {
        let message = api.container("web").await.message.unwrap();
        (!message.contains("zone") && message.contains("CPUs")).then_some(())
    })
    .await;
    // Room: it moves at once.
    let began = Instant::now();
    api.delete(format!("/api/containers/{}", blocker.id)).await.is(200);
    let moved = on_node(&api, &web, &birch).await;
    assert_eq!(moved.message, None);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    alder.mend();
    alder.ready(&plane).await;
    eventually("it is there once", async || {
        (copies(&[&alder, &birch], &web.id) == [(birch.node.to_string(), ContainerStatus::Running)]).then_some(())
    })
    .await;

    // A node that joins is room, too; and a node that is back before there is any takes the word back.
    let stays = api.create(&on_alder("stays", json!({ "cpuLimit": 4 }))).await;
    alder.take_down();
    says_of(&api, "stays", "is lost").await;
    alder.mend();
    alder.ready(&plane).await;
    eventually("nothing keeps it", async || {
        api.container("stays").await.message.is_none().then_some(())
    })
    .await;
    alder.take_down();
    says_of(&api, "stays", "is lost").await;
    let cedar = FakeAgent::join(&plane, "cedar").await;
    on_node(&api, &stays, &cedar).await;
}

async fn says_of(api: &Client, name: &str, text: &str) {
    eventually(&format!("{name} says: {text}"), async || {
        api.container(name).await.message.filter(|m| m.contains(text))
    })
    .await;
}

/// Where a kill may find a move off a lost node.
#[derive(Debug, Clone, Copy)]
enum Stage {
    Before,
    After,
    Unwritten,
    /// After the move, before the older copy is gone.
    Leftover,
}

async fn killed_in_a_move(database: Database) {
    let (mut plane, [alder, birch], api) = fleet(database, ["alder", "birch"]).await;
    let all = [&alder, &birch];
    for (round, stage) in [Stage::Before, Stage::After, Stage::Unwritten, Stage::Leftover]
        .into_iter()
        .enumerate()
    {
        let web = api.create(&on_alder(&format!("web-{round}"), json!({}))).await;
        let hold = match stage {
            Stage::Before => birch.hold(Ask::Create, When::Before),
            Stage::After | Stage::Unwritten => birch.hold(Ask::Create, When::After),
            Stage::Leftover => alder.hold(Ask::Remove, When::Before),
        };
        alder.take_down();
        match stage {
            Stage::Leftover => {
                on_node(&api, &web, &birch).await;
                alder.mend();
                hold.reached(1).await;
                plane.kill_only();
            }
            Stage::Unwritten => {
                hold.reached(1).await;
                let writes = plane.hold_writes().await;
                hold.release();
                eventually("the new node tells of it", async || {
                    plane.app().index.get(&web.id).unwrap().state.arriving.clone()
                })
                .await;
                plane.kill_only();
                drop(writes);
            }
            Stage::Before | Stage::After => {
                hold.reached(1).await;
                plane.kill_only();
            }
        }
        hold.release();
        // The lost node is back when we are, and has its copy still.
        alder.mend();
        plane.reopen().await;
        on_node(&api, &web, &birch).await;
        for node in all {
            node.ready(&plane).await;
        }
        eventually(&format!("it is there once, {stage:?}"), async || {
            (copies(&all, &web.id) == [(birch.node.to_string(), ContainerStatus::Running)]).then_some(())
        })
        .await;
        let listed = api.containers("").await;
        assert_eq!(listed.len(), 1, "{stage:?}: {listed:?}");
        let operations = reschedules(&api, &web).await;
        assert_eq!(operations.len(), 1, "{stage:?}");
        let ended = api.ended(operations[0].id.as_str()).await;
        assert_eq!(ended.state, OperationState::Succeeded, "{stage:?}: {ended:?}");
        api.delete(format!("/api/containers/{}?force=true", web.id)).await.is(200);
    }
}

/// The container is removed while an older copy of it is out of reach: that one goes, too, and never shows.
#[tokio::test]
async fn removed_while_a_copy_is_away() {
    let (mut plane, [alder, birch], api) = fleet(Database::sqlite(), ["alder", "birch"]).await;
    let web = api.create(&on_alder("web", json!({}))).await;
    alder.take_down();
    on_node(&api, &web, &birch).await;
    api.delete("/api/containers/web?force=true").await.is(200);
    assert_eq!(copies(&[&alder, &birch], &web.id).len(), 1);
    plane.kill().await;
    birch.ready(&plane).await;
    alder.mend();
    alder.ready(&plane).await;
    eventually("the copy is gone", async || alder.containers().is_empty().then_some(())).await;
    assert!(api.containers("").await.is_empty());
    api.create(&on_alder("web", json!({}))).await;
}

/// Everybody is gone for a while, as when the control plane's own network fails: nobody is left to move to, and nothing moves.
#[tokio::test]
async fn all_nodes_at_once() {
    let (plane, [alder, birch], api) = fleet(Database::sqlite(), ["alder", "birch"]).await;
    let web = api.create(&on_alder("web", json!({}))).await;
    alder.take_down();
    birch.take_down();
    says_of(&api, "web", "birch is not ready").await;
    birch.mend();
    on_node(&api, &web, &birch).await;
    alder.mend();
    alder.ready(&plane).await;
    eventually("it is there once", async || {
        (copies(&[&alder, &birch], &web.id) == [(birch.node.to_string(), ContainerStatus::Running)]).then_some(())
    })
    .await;
}

/// After a start of the control plane nodes are given the time their agents need to try again.
#[tokio::test]
async fn a_start_of_ours_loses_nobody() {
    let (mut plane, [alder, birch], api) = fleet(Database::sqlite(), ["alder", "birch"]).await;
    let web = api.create(&on_alder("web", json!({}))).await;
    plane.kill_only();
    alder.take_down();
    plane.reopen().await;
    let opened = Instant::now();
    birch.ready(&plane).await;
    on_node(&api, &web, &birch).await;
    assert!(opened.elapsed() >= LOST_AFTER * 2, "too early: {:?}", opened.elapsed());
    alder.mend();
    alder.ready(&plane).await;
    eventually("it is there once", async || {
        (copies(&[&alder, &birch], &web.id) == [(birch.node.to_string(), ContainerStatus::Running)]).then_some(())
    })
    .await;
}
