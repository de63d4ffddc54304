//! What nodes are given: made anew of what changes, once, and with generations that only grow.

use super::{CLUSTERS, Fleet, cluster, create, event, fleet, load_balanced, reaches, sockets, until, web, with};
use nm_testing::{Ask, FakeAgent, When, eventually};
use nm_types::cluster::{ClusterConditionKind, ClusterEventKind, ClusterMemberState, ClusterStatus, ClusterView};
use nm_types::proxy::{Mode, Probe};
use serde_json::json;

#[tokio::test]
async fn members_are_followed_wherever_they_go() {
    let Fleet { api, one, two, plane } = fleet().await;
    web(&plane, &api, &one, "web-1", "172.17.0.1").await;
    let far = web(&plane, &api, &two, "web-2", "172.17.0.9").await;
    let port = api.container("web-2").await.ports[0].host;
    let made = create(
        &api,
        &with(load_balanced("web", &["web-1", "web-2"]), json!({ "entryNodes": ["alder"] })),
    )
    .await;
    let id = made.id.as_str();
    assert_eq!(sockets(&one, id), ["172.17.0.1:80".to_owned(), format!("10.0.0.2:{port}")]);
    assert!(two.edge().is_none(), "what carries nothing is not spoken to");
    // Another address, a stop, a start with another port.
    one.docker_address("web-1", "172.17.0.77");
    reaches(&one, id, &["172.17.0.77:80", &format!("10.0.0.2:{port}")]).await;
    two.docker_set(far.id.as_str(), nm_types::container::ContainerStatus::Exited);
    reaches(&one, id, &["172.17.0.77:80"]).await;
    let seen = until(&api, "web", "it says so", |c| {
        (c.members[1].state == ClusterMemberState::Unreachable).then(|| c.clone())
    })
    .await;
    assert!(seen.members[1].reason.contains("does not run"), "{}", seen.members[1].reason);
    // No load balancer tells of a member that it does not have.
    let down = event(&api, "web", ClusterEventKind::MemberDown).await;
    assert_eq!(
        (down.member.as_deref(), down.reason.as_str()),
        (Some(far.id.as_str()), "the container does not run")
    );
    api.post("/api/containers/web-2/start").await.is(200);
    let again = api.container("web-2").await.ports[0].host;
    assert_ne!(again, port, "the node chose another one");
    reaches(&one, id, &["172.17.0.77:80", &format!("10.0.0.2:{again}")]).await;
    let up = event(&api, "web", ClusterEventKind::MemberUp).await;
    assert_eq!(up.member.as_deref(), Some(far.id.as_str()));
    // The node's address changes, then the entry.
    api.patch(format!("/api/nodes/{}", two.node))
        .json(&json!({ "labels": { "address": "10.9.9.9" } }))
        .await
        .is(200);
    reaches(&one, id, &["172.17.0.77:80", &format!("10.9.9.9:{again}")]).await;
    let moved: ClusterView = api
        .patch(format!("{CLUSTERS}/web"))
        .json(&json!({ "entryNodes": ["birch"] }))
        .await
        .data(200);
    assert_eq!(moved.entry_nodes[0].node_id, two.node);
    reaches(
        &two,
        id,
        &[&format!("10.0.0.1:{}", api.container("web-1").await.ports[0].host), "172.17.0.9:80"],
    )
    .await;
    eventually("the other one carries nothing any more", async || {
        one.edge().unwrap().proxy.clusters.is_empty().then_some(())
    })
    .await;
    // A container that is removed is gone from the entry, and the cluster says what to do.
    api.delete("/api/containers/web-1?force=true").await.is(200);
    reaches(&two, id, &["172.17.0.9:80"]).await;
}

#[tokio::test]
async fn what_can_not_be_reached_says_what_to_do() {
    let Fleet { api, one, two, plane } = fleet().await;
    let silent = json!({ "name": "silent", "image": "nginx:latest", "nodeId": two.node, "start": true });
    api.create(&silent).await;
    let hidden = json!({
        "name": "hidden", "image": "nginx:latest", "nodeId": two.node, "start": true,
        "ports": [{ "container": 80, "host": 8081, "hostIp": "127.0.0.1" }]
    });
    api.create(&hidden).await;
    web(&plane, &api, &one, "web", "172.17.0.1").await;
    let made = create(
        &api,
        &json!({ "name": "c", "type": "load-balanced", "entryNodes": ["alder"],
            "servers": ["web", { "id": "silent", "port": 80 }, "hidden"] }),
    )
    .await;
    assert_eq!(made.members[1].state, ClusterMemberState::Unreachable);
    let told: Vec<&str> = made
        .conditions
        .iter()
        .filter(|c| c.kind == ClusterConditionKind::MemberUnreachable)
        .map(|c| c.message.as_str())
        .collect();
    assert_eq!(told.len(), 2, "{:?}", made.conditions);
    assert!(told.iter().all(|m| m.contains("publish the port")), "{told:?}");
    // On its own node each is reached.
    let moved: ClusterView = api
        .patch(format!("{CLUSTERS}/c"))
        .json(&json!({ "entryNodes": ["birch"] }))
        .await
        .data(200);
    assert_eq!(moved.members[2].state, ClusterMemberState::Up, "{:#?}", moved.members);
    assert!(sockets(&two, made.id.as_str()).contains(&"127.0.0.1:8081".to_owned()));
}

#[tokio::test]
async fn high_availability_is_a_list_in_order() {
    let Fleet { api, one, two, plane } = fleet().await;
    web(&plane, &api, &one, "left", "172.17.0.1").await;
    web(&plane, &api, &two, "right", "172.17.0.1").await;
    let made = create(
        &api,
        &json!({ "name": "ha", "type": "high-availability", "servers": ["right", "left"],
            "virtualAddress": { "address": "10.0.0.100", "interface": "eth0" } }),
    )
    .await;
    assert_eq!(made.entry_nodes.len(), 2, "one node lost is to be survived");
    assert_eq!(made.endpoint, Some(format!("http://10.0.0.100:{}", made.listen_port)));
    assert_eq!(made.endpoints.len(), 3);
    let config = one.edge().unwrap();
    let cluster_config = &config.proxy.clusters[0];
    assert!(matches!(cluster_config.mode, Mode::ActiveStandby { .. }));
    let order: Vec<&str> = cluster_config.members.iter().map(|m| m.id.as_str()).collect();
    assert_eq!(order, [made.members[0].id.as_str(), made.members[1].id.as_str()]);
    let check = cluster_config.health_check.as_ref().unwrap();
    assert_eq!((check.interval_ms, check.fall), (2000, 1));
    assert!(matches!(&check.probe, Probe::Http { path, .. } if path == "/"), "{:?}", check.probe);
    let shared = [&one, &two].map(|agent| agent.edge().unwrap().virtual_addresses[0].clone());
    assert_eq!(shared[0].router_id, shared[1].router_id);
    assert!(shared[0].priority > shared[1].priority, "the first of the list goes before");
    assert_eq!(shared[0].peers, ["10.0.0.2".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(shared[1].peers, ["10.0.0.1".parse::<std::net::IpAddr>().unwrap()]);
    one.holds_virtual_address(true);
    until(&api, "ha", "it is seen who has the address", |c| {
        (c.entry_nodes[0].holds_virtual_address == Some(true) && c.entry_nodes[1].holds_virtual_address == Some(false)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_document_is_given_once_and_again_where_it_was_lost() {
    let Fleet {
        api,
        one,
        mut plane,
        two: _two,
    } = fleet().await;
    web(&plane, &api, &one, "web-1", "172.17.0.1").await;
    let made = create(&api, &load_balanced("web", &["web-1"])).await;
    let first = one.edge().unwrap();
    assert_eq!((first.proxy.generation, one.calls(Ask::EdgePut)), (1, 1));
    // Nothing it is made of has changed: nothing is given, over a new link or by a new control plane.
    one.cut();
    one.ready(&plane).await;
    plane.kill().await;
    one.ready(&plane).await;
    until(&api, "web", "the node was asked", |c| {
        (c.entry_nodes[0].current && c.entry_nodes[0].connected).then_some(())
    })
    .await;
    assert_eq!(one.calls(Ask::EdgePut), 1);
    // An agent that lost its disk is given it again, as it was.
    one.holds_edge(None);
    one.cut();
    one.ready(&plane).await;
    eventually("it has its document again", async || one.edge().filter(|e| *e == first)).await;
    // What changes while it is away is given when it is back.
    one.take_down();
    eventually("it is away", async || {
        (!cluster(&api, "web").await.entry_nodes[0].connected).then_some(())
    })
    .await;
    let away: ClusterView = api.patch(format!("{CLUSTERS}/web")).json(&json!({ "retries": 7 })).await.data(200);
    assert!(
        away.conditions.iter().any(|c| c.kind == ClusterConditionKind::EntryOffline),
        "{:?}",
        away.conditions
    );
    assert_eq!(away.status, made.status, "its load balancer goes on");
    one.mend();
    one.ready(&plane).await;
    eventually("it has the change", async || {
        one.edge()
            .filter(|e| e.proxy.clusters[0].retries == 7)
            .map(|e| assert_eq!(e.proxy.generation, 2))
    })
    .await;
    // One that holds a newer document than was ever made here, from a store that is older than it.
    let mut newer = one.edge().unwrap();
    (newer.proxy.generation, newer.proxy.clusters[0].retries) = (100, 9);
    one.holds_edge(Some(newer));
    one.cut();
    one.ready(&plane).await;
    eventually("ours goes before it", async || {
        one.edge().filter(|e| e.proxy.generation == 101 && e.proxy.clusters[0].retries == 7)
    })
    .await;
}

#[tokio::test]
async fn a_node_that_refuses_says_why() {
    let Fleet {
        api,
        one,
        two: _two,
        plane,
    } = fleet().await;
    web(&plane, &api, &one, "web-1", "172.17.0.1").await;
    one.fail_next(
        Ask::EdgePut,
        nm_link::contract::AgentError::new(nm_link::contract::AgentErrorCode::PortInUse, "port 80 of the node is in use"),
    );
    let made = create(&api, &with(load_balanced("web", &["web-1"]), json!({ "listenPort": 80 }))).await;
    let told = made
        .conditions
        .iter()
        .find(|c| c.kind == ClusterConditionKind::EntryFailed)
        .unwrap();
    assert!(told.message.contains("port 80 of the node is in use"), "{}", told.message);
    // Another one is taken at once.
    let changed: ClusterView = api
        .patch(format!("{CLUSTERS}/web"))
        .json(&json!({ "listenPort": 8080 }))
        .await
        .data(200);
    assert!(changed.conditions.is_empty(), "{:?}", changed.conditions);
    assert_eq!(one.edge().unwrap().proxy.listeners[0].port, 8080);
}

#[tokio::test]
async fn a_port_that_another_program_has_keeps_no_other_cluster_from_its_changes() {
    let Fleet {
        api,
        one,
        two: _two,
        plane,
    } = fleet().await;
    web(&plane, &api, &one, "web-1", "172.17.0.1").await;
    web(&plane, &api, &one, "web-2", "172.17.0.2").await;
    let well = create(&api, &with(load_balanced("well", &["web-1"]), json!({ "listenPort": 8080 }))).await;
    let taken = nm_link::contract::AgentError::new(nm_link::contract::AgentErrorCode::PortInUse, "port 9090 is in use");
    one.fail_next(Ask::EdgePut, taken.field("proxy.listeners[1].port"));
    let closed = create(&api, &with(load_balanced("closed", &["web-1"]), json!({ "listenPort": 9090 }))).await;
    assert_eq!(closed.status, ClusterStatus::Offline);
    let told = &closed.conditions[0];
    assert_eq!(told.kind, ClusterConditionKind::EntryFailed);
    assert!(told.message.contains("can't listen on port 9090"), "{}", told.message);
    assert_eq!(one.edge().unwrap().proxy.listeners.len(), 1);
    let changed: ClusterView = api
        .patch(format!("{CLUSTERS}/well"))
        .json(&json!({ "servers": ["web-1", "web-2"] }))
        .await
        .data(200);
    assert!(changed.conditions.is_empty(), "{:?}", changed.conditions);
    assert_eq!(sockets(&one, well.id.as_str()), ["172.17.0.1:80", "172.17.0.2:80"]);
}

#[tokio::test]
async fn an_entry_goes_elsewhere_when_its_node_leaves_the_fleet() {
    let Fleet { api, one, two, plane } = fleet().await;
    api.post("/api/servers")
        .json(&json!({ "name": "far", "address": "192.0.2.7", "port": 80 }))
        .await
        .is(201);
    let made = create(&api, &load_balanced("web", &["far"])).await;
    let carries = |agent: &FakeAgent| !sockets(agent, made.id.as_str()).is_empty();
    assert!(carries(&one) != carries(&two), "one of them");
    let (first, other) = if carries(&one) { (&one, &two) } else { (&two, &one) };
    let named = create(
        &api,
        &with(load_balanced("named", &["far"]), json!({ "entryNodes": [first.node.as_str()] })),
    )
    .await;
    api.delete(format!("/api/nodes/{}", first.node)).await.is(200);
    assert!(first.edge().unwrap().proxy.listeners.is_empty(), "it carries nothing any more");
    eventually("the other one carries it", async || carries(other).then_some(())).await;
    let view = cluster(&api, "web").await;
    assert_eq!(view.entry_nodes[0].node_id, other.node);
    assert_eq!(cluster(&api, named.id.as_str()).await.entry_nodes[0].node_id, other.node);
    let changed = api.patch(format!("{CLUSTERS}/named")).json(&json!({ "drainTime": 10 })).await;
    changed.is(200);
    drop(plane);
}

#[tokio::test]
async fn an_answer_does_not_wait_for_a_node_that_hangs() {
    let Fleet {
        api,
        one,
        two: _two,
        plane,
    } = fleet().await;
    web(&plane, &api, &one, "web-1", "172.17.0.1").await;
    let hold = one.hold(Ask::EdgePut, When::Before);
    let began = std::time::Instant::now();
    let made = create(&api, &load_balanced("web", &["web-1"])).await;
    assert!(began.elapsed() < std::time::Duration::from_secs(10));
    assert!(
        made.conditions.iter().any(|c| c.kind == ClusterConditionKind::EntryBehind),
        "{:?}",
        made.conditions
    );
    hold.release();
    until(&api, "web", "it has taken it", |c| c.conditions.is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_registered_name_is_resolved_by_the_policy() {
    let Fleet {
        api,
        one,
        two: _two,
        plane: _plane,
    } = fleet().await;
    for (name, address) in [("good", "192.0.2.7"), ("local", "localhost")] {
        api.post("/api/servers")
            .json(&json!({ "name": name, "address": address, "port": 80 }))
            .await
            .is(201);
    }
    let made = create(
        &api,
        &with(load_balanced("web", &["good", "local"]), json!({ "entryNodes": ["alder"] })),
    )
    .await;
    // Tests allow 127.0.0.1; a name that leads to the rest of loopback is refused like an address.
    assert_eq!(sockets(&one, made.id.as_str())[0], "192.0.2.7:80");
    api.patch("/api/servers/good")
        .json(&json!({ "address": "192.0.2.8" }))
        .await
        .is(200);
    eventually("the change is followed", async || {
        sockets(&one, made.id.as_str()).contains(&"192.0.2.8:80".to_owned()).then_some(())
    })
    .await;
}
