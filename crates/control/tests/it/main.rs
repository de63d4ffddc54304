//! The control plane's suite: the real thing on loopback, with agents that join through the real link and make their
//! Docker up. What stores has a say in runs on both databases; see [`nm_testing::both!`].

mod alerts;
mod backups;
mod clusters;
mod drain;
mod faults;
mod gather;
mod health;
mod health_addresses;
mod health_history;
mod jobs;
mod liveness;
mod lost;
mod machines;
mod manners;
mod metrics;
mod operations;
mod own_backup;
mod pipes;
mod placement;
mod policy;
mod privileges;
mod reconcile;
mod refusals;
mod secrets;
mod servers;
mod spec;
mod strangers;
mod streams;
mod trust;
mod upgrades;

use nm_testing::FakeAgent;
use nm_types::container::ContainerView;
use serde_json::{Value, json};

/// The least that `POST /api/containers` takes.
fn nginx(name: &str) -> Value {
    json!({ "name": name, "image": "nginx:latest" })
}

/// The same, started at once.
fn running(name: &str) -> Value {
    json!({ "name": name, "image": "nginx:latest", "start": true })
}

/// Holds the agent and the control plane to the same: each container of ours is there once on both sides, and nothing else.
async fn agree(api: &nm_testing::Client, agent: &FakeAgent, names: &[&str]) {
    for ContainerView { name, message, .. } in api.containers("managed=true").await {
        assert_eq!(message, None, "{name}");
    }
    agree_but_for_messages(api, agent, names).await;
}

/// As [`agree`], also when something is to be said of a container.
async fn agree_but_for_messages(api: &nm_testing::Client, agent: &FakeAgent, names: &[&str]) {
    let mut listed: Vec<(String, String)> = api
        .containers("managed=true")
        .await
        .into_iter()
        .map(|c| (c.id.to_string(), c.name))
        .collect();
    let of_ours = |c: nm_testing::Seen| c.observed.id.map(|id| (id.to_string(), c.observed.name));
    let mut there: Vec<(String, String)> = agent.containers().into_iter().filter_map(of_ours).collect();
    listed.sort();
    there.sort();
    assert_eq!(listed, there, "what the API lists, and what the node has");
    let mut found: Vec<&str> = there.iter().map(|(_, name)| name.as_str()).collect();
    let mut wanted = names.to_vec();
    found.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(found, wanted);
}
