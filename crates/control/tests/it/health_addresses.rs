//! Health of addresses, which the control plane asks by itself, and where it does not ask.

use crate::health::{HEALTH, becomes, check, says};
use nm_testing::TestControlPlane;
use nm_types::health::{Check, HealthStatus};
use nm_types::server::{ServerKind, ServerView};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A server on loopback that answers HTTP with this status until it is dropped.
async fn serve(listener: TcpListener, status: u16) -> tokio_util::task::AbortOnDropHandle<()> {
    tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut asked = [0; 1024];
                if stream.read(&mut asked).await.is_ok_and(|n| n > 0) {
                    let answer = format!("HTTP/1.1 {status} X\r\nlocation: http://127.0.0.2/\r\ncontent-length: 0\r\n\r\n");
                    // The other side may have hung up.
                    let _sent = stream.write_all(answer.as_bytes()).await;
                }
            });
        }
    }))
}

#[tokio::test]
async fn an_address() {
    let plane = TestControlPlane::sqlite().await;
    let api = plane.operator().await.clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let new = json!({ "name": "mail", "address": "127.0.0.1", "port": port });
    let made: ServerView = api.post("/api/servers").json(&new).await.data(201);
    let view = becomes(&api, "mail", HealthStatus::Healthy, &[]).await;
    assert_eq!((view.server_id.as_str(), view.kind), (made.id.as_str(), ServerKind::Address));
    assert!(view.response_time.is_some());
    let cpu = view.details.iter().find(|d| d.check == Check::Cpu).unwrap();
    assert!(
        cpu.ok && cpu.measured == "not measured" && cpu.message.contains("no agent"),
        "{cpu:?}"
    );
    let shown: ServerView = api.get("/api/servers/mail").await.data(200);
    assert_eq!(shown.status, "healthy");
    drop(listener);
    let view = check(&api, "mail").await;
    assert_eq!((view.status, view.uptime), (HealthStatus::Unhealthy, 0));
    assert!(view.details.iter().any(|d| d.message.contains("refused")), "{view:?}");

    // With a probe that says more. Changed, it is checked at once.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = serve(listener, 503).await;
    let probe = |wanted: Value| json!({ "port": port, "probe": { "type": "http", "path": "/up", "expectStatus": wanted, "timeout": 2 } });
    api.patch("/api/servers/mail").json(&probe(json!(204))).await.is(200);
    let view = becomes(&api, "mail", HealthStatus::Unknown, &[Check::Services]).await;
    assert!(view.degraded);
    says(&view, Check::Services, "status 503", "status 204");
    api.patch("/api/servers/mail").json(&probe(json!(503))).await.is(200);
    becomes(&api, "mail", HealthStatus::Healthy, &[]).await;
    drop(server);

    // A redirect is an answer: nothing is followed to where it leads.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let _server = serve(listener, 302).await;
    let probe = json!({ "port": port, "probe": { "type": "http", "expectStatus": 302 } });
    api.patch("/api/servers/mail").json(&probe).await.is(200);
    becomes(&api, "mail", HealthStatus::Healthy, &[]).await;
    let probe = json!({ "probe": { "type": "https", "timeout": 2 } });
    api.patch("/api/servers/mail").json(&probe).await.is(200);
    let view = becomes(&api, "mail", HealthStatus::Unknown, &[Check::Services]).await;
    says(&view, Check::Services, "no TLS", "status 200 to 399");

    // One without a port or probe is not checked by itself, and says why when it is asked for.
    api.post("/api/servers")
        .json(&json!({ "name": "quiet", "address": "10.9.9.9" }))
        .await
        .is(201);
    let view = check(&api, "quiet").await;
    assert!(
        !view.checked && view.details.iter().any(|d| d.message.contains("port or a probe")),
        "{view:?}"
    );
    api.delete("/api/servers/mail").await.is(200);
    api.get(format!("{HEALTH}/{}", made.id)).await.refused(404, "server_not_found");
}

/// A name that leads to where nobody may go is refused when it is used, however innocent it looks.
#[tokio::test]
async fn a_name_that_leads_to_this_machine() {
    let plane = TestControlPlane::sqlite().await;
    let api = plane.operator().await.clone();
    // Linux' resolver reads it as 127.0.0.2 or not at all; neither is let through.
    for name in ["ip6-localhost", "ip6-loopback"] {
        api.post("/api/servers")
            .json(&json!({ "name": name, "address": name, "port": 22 }))
            .await
            .is(201);
        let view = check(&api, name).await;
        assert_eq!(view.status, HealthStatus::Unhealthy, "{view:?}");
        let why = &view.details.iter().find(|d| d.check == Check::Network).unwrap().message;
        assert!(why.contains("--allow-outbound") || why.contains("can't be resolved"), "{why}");
    }
}
