//! What a container may have of the node: line 5 of the security table, where it is carried out.

use crate::support::{Rig, SOCKET, docker, need_docker};
use nm_link::contract::{Action, AgentErrorCode as Code};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn configure(dir: &Path, text: &str) {
    let data = dir.join("data");
    std::fs::create_dir_all(&data).unwrap();
    std::fs::write(data.join("agent.toml"), text).unwrap();
    std::fs::set_permissions(data.join("agent.toml"), std::fs::Permissions::from_mode(0o600)).unwrap();
}

async fn inspect(id: &str, what: &str) -> Value {
    let text = docker(&["inspect", "--format", &format!("{{{{json {what}}}}}"), id]).await;
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn nothing_beyond_the_usual_unless_the_node_allows_it() {
    need_docker!();
    let rig = Rig::start().await;
    let file = rig.dir.path().join("data/agent.toml").display().to_string();
    for (what, more, field, line) in [
        ("privileged", json!({ "privileged": true }), "privileged", "allow_privileged = true"),
        (
            "capability",
            json!({ "capAdd": ["NET_ADMIN"] }),
            "capAdd[0]",
            "allow_capabilities = [\"NET_ADMIN\"]",
        ),
        ("all", json!({ "capAdd": ["ALL"] }), "capAdd[0]", "allow_capabilities = [\"ALL\"]"),
        (
            "device",
            json!({ "devices": [{ "host": "/dev/null" }] }),
            "devices[0].host",
            "allow_devices = [\"/dev/null\"]",
        ),
        (
            "network",
            json!({ "hostNetwork": true }),
            "hostNetwork",
            "allow_host_network = true",
        ),
    ] {
        let request = rig.request(rig.spec(what, more), true);
        let error = rig.create(&request).await.unwrap_err();
        assert_eq!(
            (error.code, error.field.as_deref()),
            (Code::Forbidden, Some(field)),
            "{what}: {error:?}"
        );
        assert!(
            error.message.contains(line) && error.message.contains(&file),
            "{what}: {}",
            error.message
        );
    }
    let made = docker(&["ps", "-aq", "--filter", &format!("label=nmtest={}", rig.mark)]).await;
    assert_eq!(made, "", "nothing of it was made");
    // What nobody asked for nobody gets.
    let (_, seen) = rig.sh("usual", "sleep 1000", json!({})).await;
    let host = inspect(&seen.docker_id, ".HostConfig").await;
    for (what, wanted) in [
        ("Privileged", json!(false)),
        ("CapAdd", Value::Null),
        ("SecurityOpt", Value::Null),
        ("PidMode", json!("")),
        ("UsernsMode", json!("")),
    ] {
        assert_eq!(host[what], wanted, "{what}");
    }
    assert!(host["Devices"].as_array().is_none_or(Vec::is_empty), "{}", host["Devices"]);
    assert_ne!(host["NetworkMode"], "host");
}

#[tokio::test]
async fn what_the_node_allows_is_given_and_no_more() {
    need_docker!();
    let dir = tempfile::tempdir().unwrap();
    configure(
        dir.path(),
        "allow_capabilities = [\"NET_ADMIN\"]\nallow_devices = [\"/dev/null\"]\nallow_host_network = true\n",
    );
    let rig = Rig::start_on(Path::new(SOCKET), dir).await;
    let (request, seen) = rig
        .sh(
            "allowed",
            "sleep 1000",
            json!({ "capAdd": ["CAP_NET_ADMIN"], "devices": [{ "host": "/dev/null", "container": "/dev/nothing", "access": "r" }], "hostNetwork": true }),
        )
        .await;
    let host = inspect(&seen.docker_id, ".HostConfig").await;
    assert_eq!(host["CapAdd"], json!(["CAP_NET_ADMIN"]));
    assert_eq!(
        host["Devices"],
        json!([{ "PathOnHost": "/dev/null", "PathInContainer": "/dev/nothing", "CgroupPermissions": "r" }])
    );
    assert_eq!((&host["NetworkMode"], &host["Privileged"]), (&json!("host"), &json!(false)));
    let error = rig
        .create(&rig.request(rig.spec("more", json!({ "privileged": true })), false))
        .await
        .unwrap_err();
    assert_eq!(error.code, Code::Forbidden);

    // What an admin of the machine takes back is taken back at the next start.
    let key = request.id.to_string();
    rig.command(&key, 1, Action::Stop { grace: Some(0) }).await.unwrap();
    let rig = rig.restarted().await;
    rig.command(&key, 2, Action::Start).await.unwrap();
    rig.command(&key, 3, Action::Stop { grace: Some(0) }).await.unwrap();
    configure(rig.dir.path(), "allow_devices = [\"/dev/null\"]\nallow_host_network = true\n");
    let rig = rig.restarted().await;
    for action in [Action::Start, Action::Restart { grace: Some(0) }] {
        let error = rig.command(&key, 4, action).await.unwrap_err();
        assert_eq!(
            (error.code, error.field.as_deref()),
            (Code::Forbidden, Some("capAdd[0]")),
            "{error:?}"
        );
    }
    assert_eq!(inspect(&seen.docker_id, ".State.Running").await, json!(false));
}
