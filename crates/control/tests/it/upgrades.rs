//! Upgrades of nodes, as operations: what they do at each break, and what they say. That a node really runs something else
//! afterwards, or really goes back, is in the suite of the program itself.

use http::Method;
use nm_link::contract::{AgentError, AgentErrorCode, UpgradePhase};
use nm_testing::{Ask, Client, Database, FakeAgent, TestControlPlane, When, both, eventually};
use nm_types::node::NodeStatus;
use nm_types::operation::{OperationState, OperationView};
use nm_types::upgrade::BinaryView;
use serde_json::json;

both!(executables_are_kept, a_crash_at_each_step);

/// The head of a program for a processor, and something behind it that tells one from another.
fn program(machine: u16, mark: &str) -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0".to_vec();
    bytes.extend(machine.to_le_bytes());
    bytes.extend(mark.repeat(100_000 / mark.len()).as_bytes());
    bytes
}
const X86_64: u16 = 62;
const AARCH64: u16 = 183;

async fn upload(api: &Client, platform: &str, version: &str, bytes: Vec<u8>) -> BinaryView {
    let path = format!("/api/nodes/binaries/{platform}?version={version}");
    api.put(path).body("application/octet-stream", bytes).await.data(200)
}

async fn begin(api: &Client, node: &str) -> OperationView {
    api.post(format!("/api/nodes/{node}/upgrade")).respond_async().await.data(202)
}

/// The agent has started the trial, which has linked and hands over: the link breaks twice, and what it says in between is told.
async fn takes_over(agent: &FakeAgent, plane: &TestControlPlane, ends: UpgradePhase) {
    eventually("the trial is begun", async || {
        agent.last_upgrade().filter(|l| l.phase == UpgradePhase::Trial)
    })
    .await;
    let asked = agent.calls(Ask::UpgradeState);
    agent.cut();
    agent.ready(plane).await;
    eventually("it is asked how it stands", async || {
        (agent.calls(Ask::UpgradeState) > asked).then_some(())
    })
    .await;
    agent.upgrade_ended(ends);
    agent.cut();
    agent.ready(plane).await;
}

#[tokio::test]
async fn an_upgrade_step_by_step() {
    let plane = TestControlPlane::sqlite().await;
    let (admin, agent) = (plane.admin().await, FakeAgent::join(&plane, "alder").await);
    let binary = upload(admin, "linux-x86_64", "9.9.9", program(X86_64, "one")).await;
    let hold = agent.hold(Ask::UpgradeSend, When::Before);
    let begun = begin(admin, "alder").await;
    hold.reached(1).await;
    let other = admin.post("/api/nodes/alder/upgrade").await;
    assert_eq!(other.json()["operationId"], begun.id.as_str());
    other.refused(409, "upgrade_under_way");
    hold.release();
    takes_over(&agent, &plane, UpgradePhase::Done).await;
    let ended = admin.ended(begun.id.as_str()).await;
    assert_eq!(ended.state, OperationState::Succeeded, "{ended:?}");
    assert_eq!(ended.result, Some(json!({ "version": "9.9.9", "sha256": binary.sha256 })));
    let steps: Vec<&str> = ended.steps.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(steps, ["offer", "send", "start", "restart"]);
    assert_eq!(
        (ended.kind.as_str(), ended.target.as_deref()),
        ("node.upgrade", Some(agent.node.as_str()))
    );

    // Once more: it runs that already, and nothing is sent.
    let again: OperationView = admin.post("/api/nodes/alder/upgrade").await.data(200);
    assert_eq!((again.state, agent.executables_received()), (OperationState::Succeeded, 1));
    // One that does not come up is told as a failure, with the reason.
    upload(admin, "linux-x86_64", "9.9.10", program(X86_64, "two")).await;
    let begun = begin(admin, "alder").await;
    let reason = "it ended 3 times before it was linked: it exited with 1";
    takes_over(&agent, &plane, UpgradePhase::RolledBack { reason: reason.into() }).await;
    let error = admin.ended(begun.id.as_str()).await.error.unwrap();
    assert_eq!((error.status, error.code.as_str()), (409, "upgrade_rolled_back"));
    assert!(
        error.error.contains(reason) && error.error.contains("runs 9.9.9 as before"),
        "{}",
        error.error
    );
}

async fn a_crash_at_each_step(database: Database) {
    let mut plane = TestControlPlane::start(database).await;
    let (admin, agent) = (plane.admin().await.clone(), FakeAgent::join(&plane, "alder").await);
    for (n, (ask, when)) in [
        (Ask::UpgradeState, When::Before),
        (Ask::UpgradeOffer, When::After),
        (Ask::UpgradeSend, When::Before),
        (Ask::UpgradeSend, When::After),
        (Ask::UpgradeBegin, When::Before),
        (Ask::UpgradeBegin, When::After),
    ]
    .into_iter()
    .enumerate()
    {
        let what = format!("killed {when:?} {ask:?}");
        upload(&admin, "linux-x86_64", &format!("9.0.{n}"), program(X86_64, &what)).await;
        let hold = agent.hold(ask, when);
        let begun = begin(&admin, "alder").await;
        hold.reached(1).await;
        plane.kill().await;
        hold.release();
        agent.ready(&plane).await;
        takes_over(&agent, &plane, UpgradePhase::Done).await;
        let ended = admin.ended(begun.id.as_str()).await;
        assert_eq!(ended.state, OperationState::Succeeded, "{what}: {ended:?}");
        assert_eq!(agent.last_upgrade().unwrap().operation, begun.id, "{what}");
        assert_eq!(agent.last_upgrade().unwrap().version, format!("9.0.{n}"), "{what}");
    }
    // And while the trial runs.
    upload(&admin, "linux-x86_64", "9.1.0", program(X86_64, "last")).await;
    let begun = begin(&admin, "alder").await;
    eventually("the trial is begun", async || {
        agent.last_upgrade().filter(|l| l.operation == begun.id)
    })
    .await;
    agent.take_down();
    plane.kill().await;
    agent.upgrade_ended(UpgradePhase::Done);
    agent.mend();
    assert_eq!(admin.ended(begun.id.as_str()).await.state, OperationState::Succeeded);
}

#[tokio::test]
async fn links_that_break_on_the_way() {
    let plane = TestControlPlane::sqlite().await;
    let (admin, agent) = (plane.admin().await, FakeAgent::join(&plane, "alder").await);
    upload(admin, "linux-x86_64", "9.9.9", program(X86_64, "one")).await;
    for ask in [Ask::UpgradeState, Ask::UpgradeOffer, Ask::UpgradeSend, Ask::UpgradeBegin] {
        agent.abort_next(ask);
    }
    let hold = agent.hold(Ask::UpgradeSend, When::Before);
    let begun = begin(admin, "alder").await;
    hold.reached(1).await;
    agent.cut();
    hold.release();
    takes_over(&agent, &plane, UpgradePhase::Done).await;
    let ended = admin.ended(begun.id.as_str()).await;
    assert_eq!(ended.state, OperationState::Succeeded, "{ended:?}");
    assert!(
        ended.log.iter().any(|l| l.line.contains("going on once it is back")),
        "{:?}",
        ended.log
    );
}

#[tokio::test]
async fn refusals_say_why() {
    let plane = TestControlPlane::sqlite().await;
    let (admin, agent) = (plane.admin().await, FakeAgent::join(&plane, "alder").await);
    let upgrade = async || admin.post("/api/nodes/alder/upgrade").await;
    admin.post("/api/nodes/moon/upgrade").await.refused(404, "node_not_found");
    admin
        .post("/api/nodes/alder/upgrade")
        .json(&json!({ "force": "yes" }))
        .await
        .names("force");
    // Its processor has no executable, until one is uploaded.
    agent.runs_on("aarch64");
    let refused = upgrade().await;
    assert!(
        refused.json()["error"]
            .as_str()
            .unwrap()
            .contains("/api/nodes/binaries/linux-aarch64")
    );
    refused.refused(409, "no_binary");
    upload(admin, "linux-aarch64", "9.9.9", program(AARCH64, "arm")).await;
    // What the agent refuses is told in its words.
    for (ask, error, status, code) in [
        (
            Ask::UpgradeOffer,
            AgentError::new(
                AgentErrorCode::Invalid,
                "The node runs 10.0.0, which is newer than 9.9.9: with force it goes back to that.",
            ),
            422,
            "invalid_field",
        ),
        (
            Ask::UpgradeSend,
            AgentError::new(AgentErrorCode::DiskFull, "The node's disk is full: free some space."),
            507,
            "disk_full",
        ),
        (
            Ask::UpgradeState,
            AgentError::new(
                AgentErrorCode::Invalid,
                "The agent has no such path: control plane and agent are of different versions.",
            ),
            409,
            "agent_too_old",
        ),
    ] {
        let words = error.message.clone();
        agent.fail_next(ask, error);
        let refused = upgrade().await;
        if code != "agent_too_old" {
            assert_eq!(refused.json()["error"], words);
        }
        refused.refused(status, code);
    }
    assert!(agent.last_upgrade().is_none());
    // Cancelled before the node began, nothing has happened.
    let hold = agent.hold(Ask::UpgradeSend, When::Before);
    let begun = begin(admin, "alder").await;
    hold.reached(1).await;
    admin.post(format!("/api/operations/{}/cancel", begun.id)).await.is(200);
    assert_eq!(admin.ended(begun.id.as_str()).await.state, OperationState::Cancelled);
    hold.release();
    assert!(agent.last_upgrade().is_none());
    agent.refuses_upgrades(AgentError::new(
        AgentErrorCode::InUse,
        "This agent runs inside the control plane's own process.",
    ));
    upgrade().await.refused(409, "in_use");
    agent.take_down();
    agent.is(&plane, NodeStatus::NotReady).await;
    upgrade().await.refused(503, "node_offline");
}

async fn executables_are_kept(database: Database) {
    let mut plane = TestControlPlane::start(database).await;
    let admin = plane.admin().await.clone();
    let list = async || admin.get("/api/nodes/binaries").await.data::<Vec<BinaryView>>(200);
    let own = list().await;
    assert!(own.len() == 1 && own[0].uploaded.is_none() && own[0].size > 1000, "{own:?}");

    let one = upload(&admin, "linux-aarch64", "0.6.0", program(AARCH64, "one")).await;
    let two = upload(&admin, "linux-aarch64", "0.6.1-rc.1", program(AARCH64, "two")).await;
    assert_ne!(one.sha256, two.sha256);
    assert_eq!(list().await, [two.clone(), own[0].clone()]);
    // Only the file of what is listed stays.
    let files = || {
        let entries = std::fs::read_dir(plane.folder().join("binaries")).unwrap();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(files(), std::slice::from_ref(&two.sha256));

    let put = |path: &str, kind: &str, bytes: Vec<u8>| admin.call(Method::PUT, format!("/api/nodes/binaries/{path}")).body(kind, bytes);
    let (raw, good) = ("application/octet-stream", program(AARCH64, "three"));
    for (path, kind, bytes, status, code) in [
        ("linux-aarch64?version=0.7.0", raw, program(X86_64, "x"), 409, "wrong_platform"),
        ("linux-aarch64?version=0.7.0", raw, b"#!/bin/sh\n".to_vec(), 409, "wrong_platform"),
        ("linux-aarch64?version=0.7.0", raw, Vec::new(), 409, "wrong_platform"),
        (
            "linux-aarch64?version=0.7.0",
            "application/json",
            good.clone(),
            415,
            "unsupported_media_type",
        ),
        ("linux-pdp11?version=0.7.0", raw, good.clone(), 404, "platform_not_found"),
        ("..%2f..%2fx?version=0.7.0", raw, good.clone(), 404, "platform_not_found"),
        ("linux-aarch64", raw, good.clone(), 422, "invalid_field"),
        ("linux-aarch64?version=latest", raw, good.clone(), 422, "invalid_field"),
        ("linux-aarch64?version=0.7.0&moon=1", raw, good, 422, "invalid_field"),
    ] {
        put(path, kind, bytes).await.refused(status, code);
    }
    assert_eq!(files(), std::slice::from_ref(&two.sha256), "what was refused left nothing");
    plane.kill().await;
    assert_eq!(list().await, [two, own[0].clone()]);
    admin.delete("/api/nodes/binaries/linux-aarch64").await.is(200);
    assert_eq!(list().await, own);
    assert_eq!(std::fs::read_dir(plane.folder().join("binaries")).unwrap().count(), 0);
    admin
        .delete("/api/nodes/binaries/linux-aarch64")
        .await
        .refused(404, "binary_not_found");
    admin
        .delete("/api/nodes/binaries/linux-x86_64")
        .await
        .refused(404, "binary_not_found");
}
