//! Nodes that are upgraded: in place, with nothing lost, and back again where the new version does not come up.

use crate::fleet::{Agent, Control, program};
use nm_waits::eventually;
use reqwest::Method;
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::net::{TcpListener, TcpStream};

/// This program with something behind its end: the same in all but its hash.
pub fn another_build(dir: &Path, mark: &str) -> PathBuf {
    let path = dir.join(format!("build-{mark}"));
    std::fs::copy(program(), &path).unwrap();
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(mark.as_bytes()).unwrap();
    path
}

#[tokio::test]
async fn a_node_is_upgraded_in_place_and_stays_so() {
    let control = Control::start("server").await;
    let mut agent = Agent::join(&control, 60).await;
    let pid = agent.pid();

    // What runs already is no upgrade.
    let operation = control.begin_upgrade("alder").await;
    let ended = control.ended(&operation).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert_eq!((agent.runs(), agent.state()["last"].is_null()), (agent.installed.clone(), true));

    let uploaded = control.upload("9.0.0", &another_build(control.dir.path(), "new")).await;
    let sha256 = uploaded["sha256"].as_str().unwrap().to_owned();
    let operation = control.begin_upgrade("alder").await;
    let ended = control.ended(&operation).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert_eq!(ended["result"]["sha256"], sha256.as_str());
    let steps: Vec<&str> = ended["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["name"].as_str().unwrap())
        .collect();
    assert_eq!(steps, ["offer", "send", "start", "restart"]);
    // The same process, another program, and nothing beside it.
    assert_eq!((agent.pid(), agent.runs()), (pid, agent.bin().join(&sha256)));
    assert_eq!(agent.children(), 0);
    assert_eq!(agent.state()["last"]["phase"], "done");

    // Whoever starts what is installed gets what it was upgraded to.
    agent.start_again(&control).await;
    assert_eq!(agent.runs(), agent.bin().join(&sha256));
    // And back to the control plane's own build, once the uploaded one is forgotten.
    control
        .call(Method::DELETE, &format!("/api/nodes/binaries/linux-{}", std::env::consts::ARCH))
        .send()
        .await
        .unwrap()
        .error_for_status()
        .unwrap();
    let operation = control.begin_upgrade("alder").await;
    let ended = control.ended(&operation).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert_eq!(agent.state()["chosen"]["sha256"], ended["result"]["sha256"]);
    assert_ne!(agent.runs(), agent.bin().join(&sha256));
}

#[tokio::test]
async fn a_version_that_does_not_come_up_is_rolled_back() {
    let control = Control::start("server").await;
    let agent = Agent::join(&control, 60).await;
    let pid = agent.pid();
    // A program that is signed as it should be, and ends at once.
    control.upload("9.1.0", Path::new("/bin/false")).await;
    let operation = control.begin_upgrade("alder").await;
    let ended = control.ended(&operation).await;
    assert_eq!(
        (&ended["state"], &ended["error"]["code"]),
        (&json!("failed"), &json!("upgrade_rolled_back")),
        "{ended}"
    );
    let error = ended["error"]["error"].as_str().unwrap();
    assert!(error.contains("ended 3 times") && error.contains("exited with 1"), "{error}");
    assert_eq!((agent.pid(), agent.runs(), agent.children()), (pid, agent.installed.clone(), 0));
    assert_eq!(agent.state()["last"]["phase"], "rolledBack");
    agent.connected(&control).await;

    // It takes the next one all the same.
    let good = control.upload("9.2.0", &another_build(control.dir.path(), "mended")).await;
    let ended = control.ended(&control.begin_upgrade("alder").await).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert_eq!(
        (agent.pid(), agent.runs()),
        (pid, agent.bin().join(good["sha256"].as_str().unwrap()))
    );
}

/// A way to the agents' port that can be shut: what passes it already goes on.
async fn door(to: &str) -> (String, Arc<AtomicBool>) {
    let to = to.trim_start_matches("https://").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let open = Arc::new(AtomicBool::new(true));
    let is_open = Arc::clone(&open);
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            if is_open.load(Ordering::SeqCst) {
                let mut there = TcpStream::connect(&to).await.unwrap();
                tokio::spawn(async move { tokio::io::copy_bidirectional(&mut from, &mut there).await });
            }
        }
    });
    (url, open)
}

#[tokio::test]
async fn a_version_that_does_not_link_in_time_is_rolled_back() {
    let mut control = Control::start("server").await;
    let (agents, open) = door(&control.agents).await;
    control.agents = agents;
    let agent = Agent::join(&control, 3).await;
    let pid = agent.pid();
    control.upload("9.0.0", &another_build(control.dir.path(), "deaf")).await;
    // The version that runs keeps its link; the new one gets none.
    open.store(false, Ordering::SeqCst);
    let operation = control.begin_upgrade("alder").await;
    eventually("the trial is given up", async || {
        (agent.state()["last"]["phase"] == "rolledBack").then_some(())
    })
    .await;
    open.store(true, Ordering::SeqCst);
    let ended = control.ended(&operation).await;
    assert_eq!(ended["error"]["code"], "upgrade_rolled_back", "{ended}");
    assert!(ended["error"]["error"].as_str().unwrap().contains("within 3 seconds"), "{ended}");
    assert_eq!((agent.pid(), agent.runs(), agent.children()), (pid, agent.installed.clone(), 0));
}

#[tokio::test]
async fn nothing_runs_that_is_not_what_was_signed() {
    let control = Control::start("server").await;
    let agent = Agent::join(&control, 60).await;
    let uploaded = control.upload("9.0.0", &another_build(control.dir.path(), "good")).await;
    // Somebody changes the file behind the control plane's back.
    let path = control.data().join("binaries").join(uploaded["sha256"].as_str().unwrap());
    let length = std::fs::metadata(&path).unwrap().len();
    let bytes = std::fs::read("/bin/false").unwrap();
    let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all(&bytes).unwrap();
    file.set_len(length).unwrap();
    let ended = control.ended(&control.begin_upgrade("alder").await).await;
    assert_eq!(
        (&ended["state"], &ended["error"]["status"]),
        (&json!("failed"), &json!(422)),
        "{ended}"
    );
    assert!(ended["error"]["error"].as_str().unwrap().contains("hash"), "{ended}");
    assert_eq!((agent.runs(), agent.state()["last"].is_null()), (agent.installed.clone(), true));
    assert!(!agent.bin().join("part").exists());
    agent.connected(&control).await;
}

#[tokio::test]
async fn a_node_in_the_control_planes_own_process_says_so() {
    let control = Control::start("up").await;
    let node = eventually("the node is there", async || {
        let nodes = control.get("/api/nodes").await;
        nodes[0]["info"]["agentVersion"]
            .is_string()
            .then(|| nodes[0]["id"].as_str().unwrap().to_owned())
    })
    .await;
    let ended = control.ended(&control.begin_upgrade(&node).await).await;
    assert_eq!(
        (&ended["error"]["status"], &ended["error"]["code"]),
        (&json!(409), &json!("in_use")),
        "{ended}"
    );
    assert!(ended["error"]["error"].as_str().unwrap().contains("upgraded with it"), "{ended}");
}
