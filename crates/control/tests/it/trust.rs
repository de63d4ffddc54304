//! Who vouches for whom: one authority follows another, machines join, leave, and join again.

use crate::running;
use nm_link::RefusalCode;
use nm_link::agent::JoinError;
use nm_link::server::LinkId;
use nm_testing::{Client, Database, FakeAgent, TestControlPlane, both, eventually};
use nm_types::authority::{AuthorityPhase, AuthorityView};
use nm_types::node::{NewJoinToken, NodeStatus, NodeView};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

both!(a_whole_succession, a_crash_at_each_stage, revoked_and_joined_again);

async fn authority(api: &Client) -> AuthorityView {
    api.get("/api/nodes/authority").await.data(200)
}

async fn until(api: &Client, what: &str, is_it: impl Fn(&AuthorityView) -> bool) -> AuthorityView {
    eventually(what, async || Some(authority(api).await).filter(&is_it)).await
}

async fn link(plane: &TestControlPlane, agent: &FakeAgent) -> LinkId {
    let links = plane.app().fleet.links().clone();
    eventually("it is connected", async || links.get(&agent.node)).await.id()
}

async fn certificate_of(api: &Client, agent: &FakeAgent) -> String {
    let node: NodeView = api.get(format!("/api/nodes/{}", agent.node)).await.data(200);
    node.certificate.expect("it was seen").authority
}

fn refusal(error: &JoinError) -> RefusalCode {
    match error {
        JoinError::Refused(refusal) => refusal.code,
        other => panic!("{other:?}"),
    }
}

async fn a_whole_succession(database: Database) {
    let plane = TestControlPlane::start(database).await;
    let admin = plane.admin().await;
    let (alder, birch, cedar) = (
        FakeAgent::join(&plane, "alder").await,
        FakeAgent::join(&plane, "birch").await,
        FakeAgent::join(&plane, "cedar").await,
    );
    let before = authority(admin).await;
    assert_eq!(
        (before.phase, before.current.nodes, before.current.trusted_by),
        (AuthorityPhase::Settled, 3, 3)
    );
    assert_eq!((&before.next, &before.previous, before.waiting_for.len()), (&None, &None, 0));
    let old = before.current.name;
    let web = admin
        .create(&json!({ "name": "web", "image": "nginx", "start": true, "nodeId": "alder" }))
        .await;
    let mut logs = admin.get("/api/containers/web/logs?follow=true").events().await.unwrap();
    logs.begun().await;
    let links = [link(&plane, &alder).await, link(&plane, &birch).await];
    // One is away, and a token is on its way to somebody.
    cedar.take_down();
    cedar.is(&plane, NodeStatus::NotReady).await;
    let token: NewJoinToken = admin.post("/api/nodes/join-tokens").await.data(201);

    let begun: AuthorityView = admin
        .post("/api/nodes/authority/rotate")
        .json(&json!({ "switchAfter": 3600 }))
        .await
        .data(200);
    let new = begun.next.expect("the next one is made").name;
    assert_eq!(begun.phase, AuthorityPhase::Introducing);
    assert_ne!(old, new);
    admin.post("/api/nodes/authority/rotate").await.refused(409, "rotation_under_way");
    let told = until(admin, "who is there trusts both", |a| {
        a.next.as_ref().is_some_and(|n| n.trusted_by == 2)
    })
    .await;
    assert_eq!((told.current.nodes, told.waiting_for.as_slice()), (3, &[cedar.node.clone()][..]));
    assert_eq!(told.phase, AuthorityPhase::Introducing, "it waits for the one that is away");
    assert!(told.switch_by.is_some_and(|at| at.since(told.since.unwrap()) == 3_600_000));

    // A machine that joins now trusts both, and comes by the one that serves.
    let dogwood = FakeAgent::join(&plane, "dogwood").await;
    assert_eq!(certificate_of(admin, &dogwood).await, old);

    // The one that was away hears of it as soon as it is back, and the new one takes over.
    cedar.mend();
    let renewed = until(admin, "everybody holds a certificate of the new one", |a| {
        a.current.name == new && a.current.nodes == 4
    })
    .await;
    assert_eq!(
        (renewed.phase, renewed.current.name.as_str()),
        (AuthorityPhase::Renewing, new.as_str())
    );
    assert_eq!(renewed.previous.unwrap().name, old);
    // The token still names the old one: until it is used or over, the old one stays.
    let elm = FakeAgent::join_by(&plane, &token.token, "elm").await;
    assert_eq!(certificate_of(admin, &elm).await, new);
    let settled = until(admin, "the old one is gone", |a| a.phase == AuthorityPhase::Settled).await;
    assert_eq!(
        (settled.current.name.as_str(), settled.current.nodes, settled.previous),
        (new.as_str(), 5, None)
    );
    until(admin, "everybody trusts the new one alone", |a| a.current.trusted_by == 5).await;
    eventually("what each node trusts is the new one alone", async || {
        let identities = plane.app().nodes.identities();
        identities
            .iter()
            .all(|(_, i)| i.as_ref().is_some_and(|i| i.trusts == [new.clone()] && i.authority == new))
            .then_some(())
    })
    .await;

    // Nobody who was there was cut off meanwhile.
    assert_eq!(links, [link(&plane, &alder).await, link(&plane, &birch).await]);
    alder.writes(web.id.as_str(), nm_types::container::LogStream::Stdout, "still here");
    logs.find("the line", |e| e.data.contains("still here")).await;
    // And whoever comes again comes with what it holds now.
    birch.cut();
    eventually("birch comes again", async || {
        let now = plane.app().fleet.links().get(&birch.node).map(|link| link.id());
        now.is_some_and(|now| now != links[1]).then_some(())
    })
    .await;
    birch.ready(&plane).await;
    assert_eq!(certificate_of(admin, &birch).await, new);
    // It is all in the audit log.
    for action in ["node.authority.rotate", "node.authority.switch", "node.authority.retire"] {
        let entries: Vec<Value> = admin.get(format!("/api/audit?action={action}")).await.data(200);
        assert_eq!(entries.len(), 1, "{action}");
    }
    let last = FakeAgent::join(&plane, "fir").await;
    assert_eq!(certificate_of(admin, &last).await, new);
}

async fn a_crash_at_each_stage(database: Database) {
    let mut plane = TestControlPlane::start(database).await;
    let alder = FakeAgent::join(&plane, "alder").await;
    let away = FakeAgent::join(&plane, "birch").await;
    away.take_down();
    away.is(&plane, NodeStatus::NotReady).await;
    let admin = plane.admin().await.clone();
    let rotate = json!({ "switchAfter": 3600 });
    let begun: AuthorityView = admin.post("/api/nodes/authority/rotate").json(&rotate).await.data(200);
    let (old, new) = (begun.current.name, begun.next.unwrap().name);

    // The next one is made, and some know of it.
    plane.kill().await;
    let after = authority(&admin).await;
    assert_eq!(
        (after.phase, after.next.map(|n| n.name)),
        (AuthorityPhase::Introducing, Some(new.clone()))
    );
    alder.ready(&plane).await;
    until(&admin, "it is told of both again", |a| {
        a.next.as_ref().is_some_and(|n| n.trusted_by == 1)
    })
    .await;
    let joined = FakeAgent::join(&plane, "cedar").await;
    assert_eq!(certificate_of(&admin, &joined).await, old);

    // It has taken over, and some hold its certificates.
    let forced: AuthorityView = admin
        .post("/api/nodes/authority/rotate")
        .json(&json!({ "force": true }))
        .await
        .data(200);
    assert_eq!((forced.phase, forced.current.name), (AuthorityPhase::Renewing, new.clone()));
    plane.kill().await;
    alder.ready(&plane).await;
    joined.ready(&plane).await;
    let after = until(&admin, "who is there holds the new one's", |a| a.current.nodes == 2).await;
    assert_eq!(
        (after.phase, after.previous.map(|p| (p.name, p.nodes))),
        (AuthorityPhase::Renewing, Some((old.clone(), 1)))
    );
    assert_eq!(after.waiting_for, std::slice::from_ref(&away.node));

    // The one that missed the change finds the way by the cross certificate, and the old one goes.
    away.mend();
    away.ready(&plane).await;
    until(&admin, "the old one is gone", |a| a.phase == AuthorityPhase::Settled).await;
    plane.kill().await;
    for agent in [&alder, &joined, &away] {
        agent.ready(&plane).await;
        assert_eq!(certificate_of(&admin, agent).await, new);
    }
    let after = authority(&admin).await;
    assert_eq!(
        (after.phase, after.current.name, after.current.nodes),
        (AuthorityPhase::Settled, new, 3)
    );
}

/// Forced to its end, a succession leaves behind who has not followed: its link is closed and it stays out, until it joins
/// again.
#[tokio::test]
async fn forced_to_its_end() {
    let plane = TestControlPlane::sqlite().await;
    let admin = plane.admin().await;
    let (alder, away) = (FakeAgent::join(&plane, "alder").await, FakeAgent::join(&plane, "birch").await);
    away.take_down();
    away.is(&plane, NodeStatus::NotReady).await;
    let force = json!({ "force": true });
    let rotate = async || admin.post("/api/nodes/authority/rotate").json(&force).await;
    rotate().await.is(200);
    until(admin, "it waits for the one that is away", |a| {
        a.phase == AuthorityPhase::Renewing && a.waiting_for == [away.node.clone()]
    })
    .await;
    let settled: AuthorityView = rotate().await.data(200);
    assert_eq!((settled.phase, settled.current.nodes), (AuthorityPhase::Settled, 1));
    away.mend();
    alder.ready(&plane).await;
    let node = format!("/api/nodes/{}", away.node);
    let token: NewJoinToken = admin.post(format!("{node}/rejoin-token")).await.data(201);
    let again = FakeAgent::join_by(&plane, &token.token, "birch").await;
    assert_eq!(again.node, away.node);
    until(admin, "both hold the new one's", |a| a.current.nodes == 2).await;
    for bad in [json!({ "force": 1 }), json!({ "switchAfter": -1 }), json!({ "moon": 1 })] {
        let field = bad.as_object().unwrap().keys().next().unwrap().clone();
        admin.post("/api/nodes/authority/rotate").json(&bad).await.names(&field);
    }
}

async fn revoked_and_joined_again(database: Database) {
    let mut plane = TestControlPlane::start(database).await;
    let alder = FakeAgent::join(&plane, "alder").await;
    let admin = plane.admin().await.clone();
    admin
        .patch("/api/nodes/alder")
        .json(&json!({ "labels": { "rack": "2" } }))
        .await
        .is(200);
    admin.create(&running("web")).await;
    let mut logs = admin.get("/api/containers/web/logs?follow=true").events().await.unwrap();
    logs.begun().await;

    let began = Instant::now();
    let revoked: NodeView = admin.post("/api/nodes/alder/revoke").await.data(200);
    assert!(revoked.revoked);
    logs.rest().await;
    assert_eq!(alder.is_refused().await, RefusalCode::Revoked);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    admin.post("/api/containers/web/stop").await.refused(503, "node_offline");
    // Neither the control plane's restart nor a token for a new machine brings it back.
    plane.kill().await;
    assert_eq!(alder.is_refused().await, RefusalCode::Revoked);
    alder.is(&plane, NodeStatus::NotReady).await;

    let token: NewJoinToken = admin.post("/api/nodes/alder/rejoin-token").await.data(201);
    let again = FakeAgent::join_by(&plane, &token.token, "alder").await;
    assert_eq!(again.node, alder.node);
    let node: NodeView = admin.get("/api/nodes/alder").await.data(200);
    assert_eq!((node.revoked, node.labels.0.len()), (false, 1), "it is the node it was");
    // What it was before stays out, and so does the token.
    assert_eq!(alder.is_refused().await, RefusalCode::Revoked);
    assert_eq!(refusal(&FakeAgent::refused(&plane, &token.token).await), RefusalCode::TokenUnknown);
    again.cut();
    again.ready(&plane).await;

    // Of a node that is gone there is nothing to join again as.
    let token: NewJoinToken = admin.post("/api/nodes/alder/rejoin-token").await.data(201);
    admin.until("web", nm_types::container::ContainerStatus::Exited).await;
    admin.delete("/api/containers/web?force=true").await.is(200);
    admin.delete("/api/nodes/alder").await.is(200);
    assert_eq!(refusal(&FakeAgent::refused(&plane, &token.token).await), RefusalCode::TokenUnknown);
    admin.post("/api/nodes/alder/rejoin-token").await.refused(404, "node_not_found");
    admin.post("/api/nodes/alder/revoke").await.refused(404, "node_not_found");
}

/// Line 10 for machines: a node that is taken out is cut off at once, with what was open to it.
#[tokio::test]
async fn a_removed_node_is_cut_off_within_five_seconds() {
    let plane = TestControlPlane::sqlite().await;
    let (alder, birch) = (FakeAgent::join(&plane, "alder").await, FakeAgent::join(&plane, "birch").await);
    let admin = plane.admin().await;
    // What runs there was not made by us, so the node may go; what is open to it is a stream of its log.
    let docker = alder.docker_run("beside", "redis:7");
    eventually("it is listed", async || admin.containers("managed=false").await.pop()).await;
    let mut logs = admin.get("/api/containers/beside/logs?follow=true").events().await.unwrap();
    logs.begun().await;
    let other = link(&plane, &birch).await;
    let began = Instant::now();
    admin.delete(format!("/api/nodes/{}", alder.node)).await.is(200);
    logs.rest().await;
    assert_eq!(alder.is_refused().await, RefusalCode::Revoked);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(plane.app().fleet.links().get(&alder.node).is_none());
    assert_eq!(link(&plane, &birch).await, other);
    assert!(
        alder.containers().iter().any(|c| c.observed.docker_id == docker),
        "what runs there runs on"
    );
}

/// Line 15 by the control plane's own gate; the certificates are in `nm-link`'s suite.
#[tokio::test]
async fn join_tokens_are_good_once_and_for_a_quarter_of_an_hour() {
    let plane = TestControlPlane::sqlite().await;
    let admin = plane.admin().await;
    let new = async || admin.post("/api/nodes/join-tokens").await.data::<NewJoinToken>(201).token;
    let used = new().await;
    let alder = FakeAgent::join_by(&plane, &used, "alder").await;
    assert_eq!(refusal(&FakeAgent::refused(&plane, &used).await), RefusalCode::TokenUnknown);
    // Another's secret under our pin, and our secret under another's pin: of the latter not a byte is sent.
    let (one, two) = (new().await, TestControlPlane::sqlite().await);
    let theirs: NewJoinToken = two.admin().await.post("/api/nodes/join-tokens").await.data(201);
    let mix = |pin: &str, secret: &str| {
        let (pin, secret) = (pin.split('.').nth(1).unwrap(), secret.rsplit('.').next().unwrap());
        format!("nm1.{pin}.{secret}")
    };
    assert_eq!(
        refusal(&FakeAgent::refused(&plane, &mix(&one, &theirs.token)).await),
        RefusalCode::TokenUnknown
    );
    let wrong_pin = FakeAgent::refused(&plane, &mix(&theirs.token, &one)).await;
    assert!(matches!(wrong_pin, JoinError::Dial(_)), "{wrong_pin:?}");
    // The secret was not spent by it.
    let birch = FakeAgent::join_by(&plane, &one, "birch").await;
    assert_ne!(alder.node, birch.node);
    let late = new().await;
    plane.clock().advance(Duration::from_secs(15 * 60 + 1));
    assert_eq!(refusal(&FakeAgent::refused(&plane, &late).await), RefusalCode::TokenUnknown);
}
