//! `neuralmesh doctor`.

use crate::fake::{self, Fake, data};
use crate::login::signed_in;
use axum::Router;
use axum::routing::get;
use serde_json::json;
use std::os::unix::fs::PermissionsExt;

#[tokio::test]
async fn doctor_finds_what_is_wrong_and_says_how_to_mend_it() {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/api/auth/me", get(|| async { data(200, signed_in("", "")["user"].clone()) }))
        .route("/api/system/info", get(|| async { data(200, json!({ "version": "0.0.1" })) }));
    let fake = Fake::start(router).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    fake::write_private(&folder.path().join("secrets.key"), "k");
    std::fs::set_permissions(folder.path().join("secrets.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let agent_port = taken.local_addr().unwrap().to_string();
    let api = fake.url.trim_start_matches("http://");
    let args = [
        "doctor",
        "-o",
        "json",
        "--data-dir",
        folder.path().to_str().unwrap(),
        "--docker-socket",
        "/nowhere.sock",
        "--listen",
        api,
        "--agent-listen",
        &agent_port,
    ];
    let ended = fake.run(&args).await;
    assert_eq!(ended.code, 1);
    let findings = ended.json();
    let verdict = |check: &str| {
        findings
            .as_array()
            .unwrap()
            .iter()
            .find(|f| f["check"] == check)
            .unwrap_or_else(|| panic!("{check}: {findings}"))["verdict"]
            .clone()
    };
    for (check, expected) in [
        ("docker", "fail"),
        ("key file", "fail"),
        ("data folder", "ok"),
        ("API port", "ok"),
        ("control plane", "warn"),
        ("clock", "ok"),
        ("login", "ok"),
    ] {
        assert_eq!(verdict(check), expected, "{check}: {findings}");
    }
    assert!(
        findings
            .as_array()
            .unwrap()
            .iter()
            .all(|f| f["verdict"] == "ok" || f["fix"].as_str().is_some_and(|fix| fix.len() > 10)),
        "{findings}"
    );
    let text = fake
        .run(&args.iter().copied().filter(|a| !["-o", "json"].contains(a)).collect::<Vec<_>>())
        .await;
    assert!(
        text.out.contains("FAIL  docker") && text.out.contains("→ Close it: chmod 600"),
        "{}",
        text.out
    );
}
