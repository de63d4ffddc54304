//! Certificates from an ACME server, beyond what `e2e/acme.py` tries with Pebble: several entry nodes, limits, kills at each step, and
//! servers that mean no good.

use super::acme_server::{AcmeServer, Step};
use super::{CLUSTERS, Fleet, cluster, create, event, events, fleet, load_balanced, until, web, with};
use nm_control::service::clock::Clock;
use nm_testing::{Ask, FakeAgent, When, eventually};
use nm_types::cluster::{AcmeStatus, ClusterAcmeView, ClusterEventKind, ClusterView};
use nm_types::proxy::CertificateSource;
use serde_json::{Value, json};
use std::time::Duration;

async fn prepared() -> (Fleet, AcmeServer) {
    let (fleet, server) = (fleet().await, AcmeServer::start().await);
    web(&fleet.plane, &fleet.api, &fleet.one, "web-1", "172.17.0.1").await;
    (fleet, server)
}

fn secured(server: &AcmeServer, more: Value) -> Value {
    let acme = json!({ "directory": server.directory, "caCertificate": server.ca, "termsOfServiceAgreed": true });
    let whole = json!({
        "entryNodes": ["alder", "birch"], "listenPort": 443, "tls": { "acme": acme, "serverNames": ["a.example"] },
    });
    with(with(load_balanced("shop", &["web-1"]), whole), more)
}

fn acme(view: &ClusterView) -> &ClusterAcmeView {
    view.tls.as_ref().unwrap().acme.as_ref().unwrap()
}

async fn becomes(fleet: &Fleet, status: AcmeStatus) -> ClusterView {
    until(&fleet.api, "shop", status.as_str(), |c| {
        (acme(c).status == status).then(|| c.clone())
    })
    .await
}

/// What a node answers to challenges, by token, and the ports it listens on.
fn answers(agent: &FakeAgent) -> (Vec<(String, String)>, Vec<u16>) {
    let config = agent.edge().unwrap_or_default().proxy;
    (
        config.acme_challenges.into_iter().collect(),
        config.listeners.iter().map(|l| l.port).collect(),
    )
}

/// The certificate and the key that a node shows.
fn shown(agent: &FakeAgent) -> (String, String) {
    let config = agent.edge().unwrap().proxy;
    let listener = config.listeners.iter().find(|l| l.port == 443).unwrap();
    match &listener.tls.as_ref().unwrap().certificates[0].source {
        CertificateSource::Inline { certificate, key } => (certificate.clone(), key.0.clone()),
        CertificateSource::Files { .. } => panic!("a control plane sends no files"),
    }
}

#[tokio::test]
async fn every_entry_node_has_the_answer_before_the_server_is_told_to_look() {
    let (fleet, server) = prepared().await;
    server.stop_at(Step::Authorization);
    let made = create(&fleet.api, &secured(&server, json!({}))).await;
    assert_eq!(acme(&made).status, AcmeStatus::Pending);
    assert!(made.tls.as_ref().unwrap().self_signed);
    server.stopped(Step::Authorization).await;
    let own = shown(&fleet.one);
    assert_eq!(
        answers(&fleet.one),
        (Vec::new(), vec![443]),
        "nothing is opened before it is needed"
    );
    // One node takes its time: nobody is told to look.
    let slow = fleet.two.hold(Ask::EdgePut, When::Before);
    server.stop_at(Step::Ready);
    server.go_on.notify_waiters();
    slow.reached(1).await;
    eventually("the other node has the answer", async || {
        (answers(&fleet.one).0.len() == 1).then_some(())
    })
    .await;
    assert!(!server.is_stopped(), "the server was told to look before every node had the answer");
    slow.release();
    server.stopped(Step::Ready).await;
    let expected = answers(&fleet.one);
    assert_eq!(expected.1, [80, 443]);
    assert!(expected.0[0].1.starts_with("token-1."), "{expected:?}");
    assert_eq!(answers(&fleet.two), expected);
    server.go_on();
    let view = becomes(&fleet, AcmeStatus::Valid).await;
    for agent in [&fleet.one, &fleet.two] {
        eventually("the answer is gone again, and the certificate there", async || {
            (answers(agent) == (Vec::new(), vec![443]) && shown(agent) != own).then_some(())
        })
        .await;
        assert_eq!(shown(agent).0, view.tls.as_ref().unwrap().certificate);
    }
    let tls = view.tls.as_ref().unwrap();
    assert!(!tls.self_signed && tls.expires == acme(&view).not_after && acme(&view).next_attempt < tls.expires);
    assert_eq!(
        events(&fleet.api, "shop")
            .await
            .iter()
            .filter(|e| e.kind == ClusterEventKind::CertificateIssued)
            .count(),
        1
    );
}

#[tokio::test]
async fn a_limit_is_respected_whoever_changes_what() {
    let (fleet, server) = prepared().await;
    let limited = json!({ "type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many certificates already issued" });
    server.answers(Step::Order, 429, limited, &[("retry-after", "7200")]);
    create(&fleet.api, &secured(&server, json!({}))).await;
    let view = becomes(&fleet, AcmeStatus::Failing).await;
    let said = acme(&view).last_error.clone().unwrap();
    assert_eq!(said, "the ACME server says rateLimited: too many certificates already issued");
    let wait = acme(&view).next_attempt.unwrap().since(fleet.plane.clock().now());
    assert!((7_000_000..=7_200_000).contains(&wait), "{wait} ms");
    assert_eq!(event(&fleet.api, "shop", ClusterEventKind::CertificateFailed).await.reason, said);
    // Well again, and another name: the server's word holds. Another account may ask at once.
    server.well_again();
    let rename = |tls: Value| fleet.api.patch(format!("{CLUSTERS}/shop")).json(&json!({ "tls": tls }));
    let view: ClusterView = rename(json!({ "serverNames": ["b.example"] })).await.data(200);
    assert!(acme(&view).next_attempt.unwrap().since(fleet.plane.clock().now()) > 7_000_000);
    assert_eq!(server.orders(), 0);
    rename(json!({ "acme": { "email": "admin@example.com" } })).await.is(200);
    becomes(&fleet, AcmeStatus::Valid).await;
    assert_eq!((server.orders(), server.accounts()), (1, 2));
}

#[tokio::test]
async fn a_failure_is_tried_again_when_its_time_has_come_and_not_before() {
    let (fleet, server) = prepared().await;
    server.answers(
        Step::Finalize,
        500,
        json!({ "type": "urn:ietf:params:acme:error:serverInternal", "detail": "a bad day" }),
        &[],
    );
    create(&fleet.api, &secured(&server, json!({}))).await;
    let first = becomes(&fleet, AcmeStatus::Failing).await;
    let wait = acme(&first).next_attempt.unwrap().since(fleet.plane.clock().now());
    assert!((50_000..=75_000).contains(&wait), "{wait} ms");
    // Whatever wakes it: not yet.
    web(&fleet.plane, &fleet.api, &fleet.two, "web-2", "172.17.0.2").await;
    let other = json!({ "name": "other", "type": "load-balanced", "servers": ["web-2"] });
    create(&fleet.api, &other).await;
    assert_eq!(server.orders(), 1);
    server.well_again();
    fleet.plane.clock().advance(Duration::from_secs(80));
    fleet
        .api
        .patch(format!("{CLUSTERS}/other"))
        .json(&json!({ "retries": 1 }))
        .await
        .is(200);
    let view = becomes(&fleet, AcmeStatus::Valid).await;
    assert_eq!(acme(&view).last_error, None);
    // Two months later.
    let before = shown(&fleet.one);
    fleet.plane.clock().advance(Duration::from_secs(61 * 86_400));
    fleet
        .api
        .patch(format!("{CLUSTERS}/other"))
        .json(&json!({ "retries": 2 }))
        .await
        .is(200);
    event(&fleet.api, "shop", ClusterEventKind::CertificateRenewed).await;
    eventually("another certificate, with another key", async || {
        let now = shown(&fleet.one);
        (now.0 != before.0 && now.1 != before.1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn killed_at_each_step_it_goes_on_where_it_was() {
    for (step, orders) in [
        (Step::Account, 1),
        (Step::Order, 1),
        (Step::Authorization, 1),
        (Step::Ready, 1),
        (Step::Finalize, 1),
        (Step::Certificate, 1),
    ] {
        let (mut fleet, server) = prepared().await;
        server.stop_at(step);
        create(&fleet.api, &secured(&server, json!({}))).await;
        server.stopped(step).await;
        fleet.plane.kill().await;
        server.go_on();
        let view = becomes(&fleet, AcmeStatus::Valid).await;
        let found = (server.orders(), server.signed());
        assert_eq!(found, (orders, 1), "killed at {step:?}");
        let tls = view.tls.unwrap();
        eventually("both nodes show it", async || {
            (shown(&fleet.one).0 == tls.certificate && shown(&fleet.two).0 == tls.certificate).then_some(())
        })
        .await;
        let issued = events(&fleet.api, "shop").await;
        assert_eq!(issued.iter().filter(|e| e.kind == ClusterEventKind::CertificateIssued).count(), 1);
    }
}

#[tokio::test]
async fn a_node_that_can_not_answer_says_why_and_takes_everything_else() {
    let (fleet, server) = prepared().await;
    server.stop_at(Step::Authorization);
    create(&fleet.api, &secured(&server, json!({}))).await;
    server.stopped(Step::Authorization).await;
    let why = "The load balancer refuses it: port 80 is in use.";
    let refusal = nm_link::contract::AgentError::new(nm_link::contract::AgentErrorCode::Invalid, why);
    fleet.two.fail_next(Ask::EdgePut, refusal);
    server.go_on();
    let view = becomes(&fleet, AcmeStatus::Failing).await;
    let said = acme(&view).last_error.clone().unwrap();
    assert!(said.contains("port 80") && said.contains("birch") && said.contains(why), "{said}");
    until(&fleet.api, "shop", "both nodes are current", |c| {
        c.entry_nodes.iter().all(|e| e.current).then_some(())
    })
    .await;
    assert_eq!(server.signed(), 0);
}

#[tokio::test]
async fn a_cluster_with_tls_where_the_server_looks_is_named() {
    let (fleet, server) = prepared().await;
    let other = json!({ "name": "other", "listenPort": 80, "tls": { "selfSigned": true }, "entryNodes": ["birch"] });
    create(&fleet.api, &with(load_balanced("other", &["web-1"]), other)).await;
    create(&fleet.api, &secured(&server, json!({}))).await;
    let view = becomes(&fleet, AcmeStatus::Failing).await;
    let said = acme(&view).last_error.clone().unwrap();
    assert!(said.contains("port 80") && said.contains("birch"), "{said}");
    // One without TLS answers beside its own.
    fleet
        .api
        .patch(format!("{CLUSTERS}/other"))
        .json(&json!({ "tls": null }))
        .await
        .is(200);
    fleet
        .api
        .patch(format!("{CLUSTERS}/shop"))
        .json(&json!({ "retries": 1, "tls": { "serverNames": ["b.example"] } }))
        .await
        .is(200);
    becomes(&fleet, AcmeStatus::Valid).await;
}

#[tokio::test]
async fn a_server_that_means_no_good_gets_nowhere() {
    let (fleet, server) = prepared().await;
    create(
        &fleet.api,
        &with(
            load_balanced("plain", &["web-1"]),
            json!({ "listenPort": 8080, "entryNodes": ["alder"] }),
        ),
    )
    .await;
    let metadata = json!({ "newNonce": "https://169.254.169.254/n", "newAccount": "https://169.254.169.254/a", "newOrder": "https://169.254.169.254/o" });
    let plain = json!({ "newNonce": "http://127.0.0.1:1/n", "newAccount": "http://127.0.0.1:1/a", "newOrder": "http://127.0.0.1:1/o" });
    let huge = json!({ "newNonce": "x".repeat(2 << 20) });
    let moved = [("location", "https://169.254.169.254/dir")];
    let attempts = [
        (Step::Directory, 200, metadata, &[][..], "169.254.169.254 is"),
        (Step::Directory, 200, plain, &[], "without TLS"),
        (Step::Directory, 200, huge, &[], "more than such a server has to say"),
        (Step::Directory, 302, json!({}), &moved, "status 302"),
        (Step::Directory, 404, json!({}), &[], "status 404"),
        (Step::Directory, 200, json!([1]), &[], "can't be read"),
        (Step::Order, 500, json!("?"), &[], "can't be read"),
    ];
    for (n, (step, status, body, headers, says)) in attempts.into_iter().enumerate() {
        server.answers(step, status, body, headers);
        if n == 0 {
            create(&fleet.api, &secured(&server, json!({}))).await;
        } else {
            let names = json!({ "tls": { "serverNames": [format!("a{n}.example")] } });
            fleet.api.patch(format!("{CLUSTERS}/shop")).json(&names).await.is(200);
        }
        let said = until(&fleet.api, "shop", says, |c| {
            acme(c).last_error.clone().filter(|e| e.contains(says))
        })
        .await;
        assert!(said.chars().count() < 2000 && !said.contains('\n'), "{said}");
        server.well_again();
    }
    // What it has nodes answer spoils nobody's document.
    server.token_is("../../etc/passwd");
    fleet
        .api
        .patch(format!("{CLUSTERS}/shop"))
        .json(&json!({ "tls": { "serverNames": ["z.example"] } }))
        .await
        .is(200);
    until(&fleet.api, "shop", "the token is refused", |c| {
        acme(c).last_error.clone().filter(|e| e.contains("token"))
    })
    .await;
    assert!(fleet.one.edge().unwrap().proxy.acme_challenges.is_empty());
    assert!(cluster(&fleet.api, "plain").await.entry_nodes[0].current);
    // Somebody else's answers on the server's address are not believed.
    let stranger = AcmeServer::start().await;
    fleet
        .api
        .patch(format!("{CLUSTERS}/shop"))
        .json(&json!({ "tls": { "acme": { "caCertificate": stranger.ca } } }))
        .await
        .is(200);
    until(&fleet.api, "shop", "it is not trusted", |c| {
        acme(c).last_error.clone().filter(|e| e.contains("can't be reached"))
    })
    .await;
}
