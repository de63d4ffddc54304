//! More servers under load, fewer after it; each decision with its numbers.

use super::{CLUSTERS, Fleet, cluster, create, event, events, fleet, load_balanced, until, web, with};
use nm_testing::{Ask, Client, FakeAgent, TestControlPlane, eventually};
use nm_types::cluster::{
    ClusterConditionKind, ClusterEventKind, ClusterMemberState, ClusterScalingAction, ClusterScalingFigureKind, ClusterView,
};
use nm_types::container::ContainerView;
use nm_types::stats::Usage;
use serde_json::{Value, json};
use std::time::Duration;

fn scaling(more: Value) -> Value {
    with(
        json!({ "minServers": 1, "maxServers": 3, "targetCpuPercent": 50, "stabilizationWindow": 0, "scaleUpCooldown": 60,
            "scaleDownCooldown": 60 }),
        more,
    )
}

/// Every running container of these nodes uses so much of a core, from now on.
fn use_cpu(agents: &[&FakeAgent], percent: f64) {
    for agent in agents {
        for seen in agent.containers() {
            agent.uses(
                &seen.observed.docker_id,
                Usage {
                    cpu: percent,
                    memory: 100.0,
                },
            );
        }
    }
}

/// Puts the clock forward until the cluster has so many servers that are up, under a load that goes on.
async fn grows_to(fleet: &Fleet, key: &str, percent: f64, servers: usize) -> ClusterView {
    eventually(&format!("it has {servers} servers"), async || {
        use_cpu(&[&fleet.one, &fleet.two], percent);
        // What is being made takes real time: it must not come to its end by the clock meanwhile.
        let step = if fleet.plane.app().clusters.scaling_under_way() { 1 } else { 10 };
        fleet.plane.clock().advance(Duration::from_secs(step));
        let view = cluster(&fleet.api, key).await;
        let up = view.members.iter().filter(|m| m.state == ClusterMemberState::Up).count();
        (view.members.len() == servers && up == servers).then_some(view)
    })
    .await
}

async fn containers(api: &Client) -> Vec<ContainerView> {
    api.containers("managed=true").await
}

#[tokio::test]
async fn servers_are_added_under_load_and_taken_away_after_it() {
    let fleet = fleet().await;
    let api = &fleet.api;
    let first = web(&fleet.plane, api, &fleet.one, "web", "172.17.0.1").await;
    let made = create(
        api,
        &with(
            load_balanced("shop", &["web"]),
            json!({ "autoScaling": scaling(json!({})), "drainTime": 60, "entryNodes": ["alder"] }),
        ),
    )
    .await;
    let grown = grows_to(&fleet, "shop", 90.0, 3).await;
    assert_eq!(grown.servers.len(), 3, "{:?}", grown.servers);
    assert_eq!(grown.members.iter().map(|m| m.scaled).collect::<Vec<_>>(), [false, true, true]);
    let all = containers(api).await;
    assert_eq!(all.len(), 3);
    let copy = all.iter().find(|c| c.id.as_str() == grown.members[1].id).unwrap();
    assert!(copy.name.starts_with("web-"), "{}", copy.name);
    assert_eq!((&copy.image, copy.resources.cpu_limit), (&first.image, Some(1.0)));
    let out = events(api, "shop")
        .await
        .into_iter()
        .filter(|e| e.kind == ClusterEventKind::ScaledOut);
    let out: Vec<_> = out.collect();
    assert!(!out.is_empty());
    let figures = out[0].detail.as_ref().unwrap();
    assert_eq!(figures["figures"][0]["figure"], "cpu");
    assert!(
        figures["current"].as_u64().is_some() && figures["figures"][0]["value"].as_f64().is_some_and(|v| v > 50.0),
        "{figures}"
    );
    // As many as there may be: it says so, and adds none.
    until(api, "shop", "it says why there are no more", |c| {
        c.conditions
            .iter()
            .any(|c| c.kind == ClusterConditionKind::CannotScale && c.message.contains("maxServers"))
            .then_some(())
    })
    .await;
    until(api, "shop", "the last decision says so with its numbers", |c| {
        let last = c
            .scaling
            .as_ref()
            .filter(|s| s.action == ClusterScalingAction::Hold && s.reason.contains("maxServers"))?;
        let cpu = last.figures.iter().find(|f| f.figure == ClusterScalingFigureKind::Cpu)?;
        (last.current == 3 && last.wanted > 3 && cpu.value.is_some_and(|v| v > cpu.target)).then_some(())
    })
    .await;

    // One that is still asked for something is waited for.
    let newest = grown.members[2].id.clone();
    fleet.one.in_flight(made.id.as_str(), &newest, 2);
    until(api, "shop", "it is known what the newest is asked for", |c| {
        c.members.iter().any(|m| m.id == newest && m.in_flight == 2).then_some(())
    })
    .await;
    eventually("the newest leaves first", async || {
        use_cpu(&[&fleet.one, &fleet.two], 5.0);
        let view = cluster(api, "shop").await;
        let leaving = view.members.iter().filter(|m| m.state == ClusterMemberState::Draining);
        let leaving: Vec<&str> = leaving.map(|m| m.id.as_str()).collect();
        if leaving.is_empty() {
            fleet.plane.clock().advance(Duration::from_secs(10));
            return None;
        }
        assert!(leaving.contains(&newest.as_str()), "{view:#?}");
        Some(())
    })
    .await;
    assert!(containers(api).await.iter().any(|c| c.id.as_str() == newest), "clients are with it");
    fleet.one.in_flight(made.id.as_str(), &newest, 0);
    eventually("only the one that was named is left", async || {
        use_cpu(&[&fleet.one, &fleet.two], 5.0);
        fleet.plane.clock().advance(Duration::from_secs(10));
        let view = cluster(api, "shop").await;
        (view.members.len() == 1 && containers(api).await.len() == 1).then_some(())
    })
    .await;
    assert_eq!(cluster(api, "shop").await.servers, ["web"]);
    let told = event(api, "shop", ClusterEventKind::ScaledIn).await;
    assert!(told.detail.is_some() && told.reason.contains("newest"), "{told:?}");
}

#[tokio::test]
async fn a_template_says_what_new_servers_are() {
    let fleet = fleet().await;
    let api = &fleet.api;
    let data = json!({
        "name": "db-1", "image": "app:1", "nodeId": fleet.one.node, "start": true, "ports": [{ "container": 80 }],
        "volumes": [{ "container": "/data", "host": "data" }]
    });
    let made = api.create(&data).await;
    fleet.one.docker_address(made.id.as_str(), "172.17.0.1");
    create(
        api,
        &with(load_balanced("shop", &["db-1"]), json!({ "autoScaling": scaling(json!({})) })),
    )
    .await;
    let told = eventually("it says that it can't be copied", async || {
        use_cpu(&[&fleet.one], 90.0);
        fleet.plane.clock().advance(Duration::from_secs(10));
        let view = cluster(api, "shop").await;
        view.conditions.into_iter().find(|c| c.kind == ClusterConditionKind::CannotScale)
    })
    .await;
    assert!(
        told.message.contains("serverTemplate") && told.message.contains("/data"),
        "{}",
        told.message
    );
    let template = json!({ "container": {
        "name": "app", "image": "app:2", "ports": [{ "container": 80, "host": 8000 }], "environment": { "TOKEN": "planted-secret" }
    } });
    let changed: ClusterView = api
        .patch(format!("{CLUSTERS}/shop"))
        .json(&json!({ "serverTemplate": template }))
        .await
        .data(200);
    assert!(!serde_json::to_string(&changed).unwrap().contains("planted-secret"));
    let grown = grows_to(&fleet, "shop", 90.0, 2).await;
    assert!(
        grown.conditions.iter().all(|c| !c.message.contains("serverTemplate")),
        "{:?}",
        grown.conditions
    );
    let new = containers(api)
        .await
        .into_iter()
        .find(|c| c.id.as_str() == grown.members[1].id)
        .unwrap();
    assert_eq!(new.image, "app:2");
    let agent = if new.node_id == fleet.one.node { &fleet.one } else { &fleet.two };
    let spec = agent.container(&new.id).spec.unwrap();
    assert_eq!(
        spec.environment.0.values().next().unwrap().as_str(),
        "planted-secret",
        "and there it is whole"
    );
}

#[tokio::test]
async fn a_server_that_does_not_come_up_is_taken_away_again() {
    let fleet = fleet().await;
    let api = &fleet.api;
    web(&fleet.plane, api, &fleet.one, "web", "172.17.0.1").await;
    create(
        api,
        &with(load_balanced("shop", &["web"]), json!({ "autoScaling": scaling(json!({})) })),
    )
    .await;
    for agent in [&fleet.one, &fleet.two] {
        agent.exit_at_once(1, &["no such file"]);
    }
    let failed = eventually("it failed", async || {
        use_cpu(&[&fleet.one], 90.0);
        fleet.plane.clock().advance(Duration::from_secs(1));
        events(api, "shop")
            .await
            .into_iter()
            .find(|e| e.kind == ClusterEventKind::ScalingFailed)
    })
    .await;
    assert!(failed.reason.contains("no such file"), "{}", failed.reason);
    eventually("nothing of it is left", async || (containers(api).await.len() == 1).then_some(())).await;
    let view = cluster(api, "shop").await;
    assert!(
        view.conditions.iter().any(|c| c.kind == ClusterConditionKind::CannotScale),
        "{:?}",
        view.conditions
    );
}

#[tokio::test]
async fn a_crash_in_the_middle_makes_no_server_twice() {
    let mut fleet = fleet().await;
    web(&fleet.plane, &fleet.api, &fleet.one, "web", "172.17.0.1").await;
    let policy = scaling(json!({ "maxServers": 2 }));
    create(&fleet.api, &with(load_balanced("shop", &["web"]), json!({ "autoScaling": policy }))).await;
    let holds = [&fleet.one, &fleet.two].map(|agent| agent.hold(Ask::Create, nm_testing::When::Before));
    let before = [&fleet.one, &fleet.two].map(|agent| agent.calls(Ask::Create));
    eventually("one is being made", async || {
        use_cpu(&[&fleet.one], 90.0);
        fleet.plane.clock().advance(Duration::from_secs(1));
        let now = [&fleet.one, &fleet.two].map(|agent| agent.calls(Ask::Create));
        (now != before).then_some(())
    })
    .await;
    fleet.plane.kill().await;
    drop(holds);
    for agent in [&fleet.one, &fleet.two] {
        agent.ready(&fleet.plane).await;
    }
    grows_to(&fleet, "shop", 90.0, 2).await;
    assert_eq!(containers(&fleet.api).await.len(), 2);
    // With the cluster goes what was made for it, and nothing else.
    fleet.api.delete(format!("{CLUSTERS}/shop")).await.is(200);
    let left: Vec<String> = containers(&fleet.api).await.into_iter().map(|c| c.name).collect();
    assert_eq!(left, ["web"]);
}

#[tokio::test]
async fn servers_that_were_named_are_never_taken_away() {
    let fleet = fleet().await;
    let api = &fleet.api;
    for n in 1..=2 {
        web(&fleet.plane, api, &fleet.one, &format!("web-{n}"), &format!("172.17.0.{n}")).await;
    }
    create(
        api,
        &with(
            load_balanced("shop", &["web-1", "web-2"]),
            json!({ "autoScaling": scaling(json!({})) }),
        ),
    )
    .await;
    let told = eventually("it says why", async || {
        use_cpu(&[&fleet.one], 1.0);
        fleet.plane.clock().advance(Duration::from_secs(10));
        let view = cluster(api, "shop").await;
        view.conditions.into_iter().find(|c| c.kind == ClusterConditionKind::CannotScale)
    })
    .await;
    assert!(told.message.contains("named by hand"), "{}", told.message);
    assert_eq!(containers(api).await.len(), 2);
}

#[tokio::test]
async fn a_scaled_server_may_be_sent_away_by_hand() {
    let fleet = fleet().await;
    let api = &fleet.api;
    web(&fleet.plane, api, &fleet.one, "web", "172.17.0.1").await;
    let policy = scaling(json!({ "maxServers": 2 }));
    create(
        api,
        &with(load_balanced("shop", &["web"]), json!({ "autoScaling": policy, "drainTime": 0 })),
    )
    .await;
    let grown = grows_to(&fleet, "shop", 90.0, 2).await;
    // The list may be sent back as it was shown: what scaling made stays scaling's.
    let same: ClusterView = api
        .patch(format!("{CLUSTERS}/shop"))
        .json(&json!({ "servers": grown.servers, "autoScaling": { "enabled": false } }))
        .await
        .data(200);
    assert_eq!(same.members.iter().map(|m| m.scaled).collect::<Vec<_>>(), [false, true]);
    api.delete(format!("{CLUSTERS}/shop/servers/{}", grown.members[1].id)).await.is(200);
    eventually("it is gone", async || {
        (cluster(api, "shop").await.members.len() == 1 && containers(api).await.len() == 1).then_some(())
    })
    .await;
    let _: &TestControlPlane = &fleet.plane;
}
