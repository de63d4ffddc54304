//! Lists that every node has its part of, while some nodes do not answer.

use nm_link::contract::{AgentError, AgentErrorCode};
use nm_testing::{Ask, FakeAgent, TestControlPlane, When};
use nm_types::node::NodeStatus;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The names of the volumes in an answer.
fn names(answer: &Value) -> Vec<&str> {
    answer["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v["name"].as_str().unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_hang_are_named_and_hold_up_nobody_for_long() {
    let plane = TestControlPlane::sqlite().await;
    let mut agents = Vec::new();
    for name in ["alder", "beech", "cedar", "durmast"] {
        let agent = FakeAgent::join(&plane, name).await;
        let volume = json!({ "name": format!("data-{name}"), "nodeId": name });
        plane.admin().await.post("/api/volumes").json(&volume).await.is(201);
        agents.push(agent);
    }
    let api = plane.viewer().await;
    let whole = api.get("/api/volumes").await.is(200).json();
    assert_eq!(names(&whole), ["data-alder", "data-beech", "data-cedar", "data-durmast"]);
    assert_eq!(whole["message"], Value::Null);

    // Two hang, one says no: none of them spoils what the last one says.
    let hangs = [
        agents[1].hold(Ask::Volumes, When::Before),
        agents[3].hold(Ask::Volumes, When::Before),
    ];
    let refusal = AgentError::new(AgentErrorCode::DockerUnavailable, "The Docker engine does not answer.");
    agents[2].fail_next(Ask::Volumes, refusal.clone());
    let began = Instant::now();
    let partial = api.get("/api/volumes").await.is(200).json();
    let took = began.elapsed();
    assert_eq!(names(&partial), ["data-alder"]);
    assert_eq!(
        partial["message"],
        "not in this list is what these nodes hold, for they did not answer: beech, cedar, durmast"
    );
    // They are waited for side by side.
    assert!((Duration::from_secs(4)..Duration::from_secs(9)).contains(&took), "{took:?}");

    // A node that was named must answer.
    agents[2].fail_next(Ask::Volumes, refusal);
    api.get("/api/volumes?nodeId=cedar").await.refused(503, "docker_unavailable");
    assert_eq!(names(&api.get("/api/volumes?nodeId=cedar").await.is(200).json()), ["data-cedar"]);
    hangs.iter().for_each(nm_testing::Hold::release);

    // One that is away has not answered either.
    agents[0].take_down();
    agents[0].is(&plane, NodeStatus::NotReady).await;
    let partial = api.get("/api/volumes").await.is(200).json();
    assert_eq!(names(&partial), ["data-beech", "data-cedar", "data-durmast"]);
    assert!(partial["message"].as_str().unwrap().ends_with("did not answer: alder"), "{partial}");
    api.get("/api/volumes?nodeId=alder").await.refused(503, "node_offline");
    for list in ["/api/images", "/api/networks"] {
        let partial = api.get(list).await.is(200).json();
        assert!(partial["message"].as_str().unwrap().ends_with("did not answer: alder"), "{partial}");
    }

    // Where nobody answers, an empty list would be a lie.
    for agent in &agents[1..] {
        agent.take_down();
        agent.is(&plane, NodeStatus::NotReady).await;
    }
    api.get("/api/volumes").await.refused(503, "node_offline");
}
