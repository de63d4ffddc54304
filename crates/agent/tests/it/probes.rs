//! Probes, against what really listens and runs.

use crate::support::{Rig, code, need_docker};
use nm_link::contract::{Action, AgentErrorCode as Code, ProbeResult, path};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Serves this HTTP answer on loopback until the test ends.
async fn serve(answer: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut asked = [0; 1024];
                let read = stream.read(&mut asked).await.unwrap_or(0);
                if read > 0 && !answer.is_empty() {
                    // The other side may have hung up.
                    let _sent = stream.write_all(answer.as_bytes()).await;
                } else if read > 0 {
                    std::future::pending::<()>().await;
                }
            });
        }
    });
    port
}

async fn run(rig: &Rig, probes: Value) -> Vec<ProbeResult> {
    rig.post(path::HEALTH, &json!({ "probes": probes })).await.unwrap()
}

#[tokio::test]
async fn the_nodes_own_ports() {
    let rig = Rig::start().await;
    let up = serve("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let down = serve("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 6\r\n\r\nsecret").await;
    let away = serve("HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n").await;
    let (silent, other) = (serve("").await, serve("SSH-2.0-x\r\n").await);
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    let probe = |kind: &str, port: u16, more: Value| {
        let mut probe = json!({ "name": "p", "type": kind, "port": port, "timeout": 1 });
        probe.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "probe": probe })
    };
    let results = run(
        &rig,
        json!([
            probe("http", up, json!({ "path": "/up" })),
            probe("http", down, json!({})),
            probe("http", down, json!({ "expectStatus": 503 })),
            probe("http", away, json!({ "expectStatus": 200 })),
            probe("http", silent, json!({})),
            probe("http", other, json!({})),
            probe("http", closed, json!({})),
            probe("tcp", up, json!({})),
            probe("tcp", closed, json!({})),
        ]),
    )
    .await;
    let seen: Vec<(bool, &str)> = results.iter().map(|r| (r.ok, r.measured.as_str())).collect();
    assert_eq!(
        seen,
        [
            (true, "status 200"),
            (false, "status 503"),
            (true, "status 503"),
            (false, "status 302"),
            (false, "no answer"),
            (false, "no HTTP answer"),
            (false, "connection refused"),
            (true, "connected"),
            (false, "connection refused"),
        ]
    );
    assert!(
        !serde_json::to_string(&results).unwrap().contains("secret"),
        "what services write stays"
    );
    assert!(results.iter().all(|r| r.ok || !r.message.is_empty()));
}

#[tokio::test]
async fn containers() {
    need_docker!();
    let rig = Rig::start().await;
    let (request, _) = rig
        .sh(
            "probed",
            "mkdir /w; echo hi > /w/index.html; exec httpd -f -p 8080 -h /w",
            json!({}),
        )
        .await;
    let id = request.id.as_str();
    let probe = |probe: Value| json!({ "container": id, "probe": probe });
    let ask = async || {
        run(
            &rig,
            json!([
                probe(json!({ "name": "web", "type": "http", "port": 8080 })),
                probe(json!({ "name": "none", "type": "http", "port": 8080, "path": "/none" })),
                probe(json!({ "name": "port", "type": "tcp", "port": 8081 })),
                probe(json!({ "name": "true", "type": "command", "command": ["true"] })),
                probe(json!({ "name": "false", "type": "command", "command": ["cat", "/etc/none; reboot"] })),
                probe(json!({ "name": "late", "type": "command", "command": ["sleep", "60"], "timeout": 1 })),
                probe(json!({ "name": "no", "type": "command", "command": ["no-such-program"] })),
            ]),
        )
        .await
    };
    let results = nm_waits::eventually("the web server listens", async || {
        let results = ask().await;
        results[0].ok.then_some(results)
    })
    .await;
    let seen: Vec<(bool, &str)> = results.iter().map(|r| (r.ok, r.measured.as_str())).collect();
    assert_eq!(
        seen,
        [
            (true, "status 200"),
            (false, "status 404"),
            (false, "connection refused"),
            (true, "exit code 0"),
            (false, "exit code 1"),
            (false, "no answer"),
            (false, "not run"),
        ]
    );
    rig.command(id, 2, Action::Stop { grace: Some(0) }).await.unwrap();
    assert!(ask().await.iter().all(|r| !r.ok && r.measured == "stopped"));
    // One that is not there fails its probe and nothing else.
    let gone = run(
        &rig,
        json!([{ "container": "cont_1_aaaaaaaaa", "probe": { "name": "a", "type": "tcp", "port": 1 } }]),
    )
    .await;
    assert!(!gone[0].ok && gone[0].message.contains("no container"), "{gone:?}");
}

#[tokio::test]
async fn what_does_not_fit_is_refused() {
    let rig = Rig::start().await;
    for probes in [
        json!([{ "probe": { "name": "a", "type": "command", "command": ["true"] } }]),
        json!([{ "probe": { "name": "a", "type": "systemd", "unit": "--help" } }]),
        json!([{ "container": "../../x", "probe": { "name": "a", "type": "tcp", "port": 1 } }]),
        json!([{ "probe": { "name": "a", "type": "http", "port": 1, "path": "/a b" } }]),
        json!([{ "probe": { "name": "a", "type": "tcp", "port": 1, "nope": 1 } }]),
    ] {
        let refused = rig.post::<Value>(path::HEALTH, &json!({ "probes": probes })).await;
        assert_eq!(code(refused), Code::Invalid, "{probes}");
    }
}
