//! One authority follows another, and nobody is cut off: not the nodes that hear of it, and not those that are away.

mod support;

use http::{Request, StatusCode};
use http_body_util::Full;
use nm_link::agent::{DialOptions, IdentityStore, JoinError, LinkState, join};
use nm_link::contract::{AgentError, AgentErrorCode, Trust, TrustState, path};
use nm_link::pki::{Authority, SERVER_LIFETIME, ServerIdentity, TrustBundle, Validity};
use nm_link::server::{LinkChange, LinkHandle};
use std::sync::Arc;
use std::time::SystemTime;
use support::control::{Control, next_change};
use support::node::{Node, ask, facts, quick, text};
use support::soon;

async fn push(link: &LinkHandle, trust: &TrustBundle, authority: Option<String>) -> Result<TrustState, AgentError> {
    let body = serde_json::to_vec(&Trust {
        ca_certificates: trust.to_pem(),
        authority,
    })
    .unwrap();
    let request = Request::post(path::TRUST).body(Full::from(body)).unwrap();
    let response = soon("the agent answers", link.send(request)).await.unwrap();
    let status = response.status();
    let body = text(response).await;
    if status == StatusCode::OK {
        Ok(serde_json::from_str(&body).unwrap())
    } else {
        Err(serde_json::from_str(&body).unwrap())
    }
}

/// The control plane serves with the new authority and issues by it.
fn switch(control: &Control) -> Arc<Authority> {
    let old = &control.rules.authority;
    let successor = Arc::new(Authority::generate(SystemTime::now()).unwrap());
    let cross = old.cross_sign(&successor, SystemTime::now()).unwrap();
    let both = old.trust().and(&successor.trust());
    control
        .tls
        .replace(&serving(&successor).following(&cross, &old.trust()), &both)
        .unwrap();
    *control.rules.trust.lock().unwrap() = both;
    *control.rules.successor.lock().unwrap() = Some(successor.clone());
    successor
}

/// The old authority counts no more.
fn retire(control: &Control, successor: &Authority) {
    control.tls.replace(&serving(successor), &successor.trust()).unwrap();
    *control.rules.trust.lock().unwrap() = successor.trust();
}

fn serving(authority: &Authority) -> ServerIdentity {
    let validity = Validity::starting(SystemTime::now(), SERVER_LIFETIME);
    authority.issue_server::<&str>(&[], validity).unwrap()
}

#[tokio::test]
async fn a_linked_node_follows_from_one_authority_to_the_next() {
    let control = Control::start().await;
    let node = Node::start(&control).await;
    let link = control.linked(&node.id).await;
    let mut events = control.links.events();
    let old_name = control.rules.authority.name();
    let successor = switch(&control);
    let new_name = successor.name();
    let both = control.rules.trust.lock().unwrap().clone();
    let mut both_names = vec![old_name.clone(), new_name.clone()];
    both_names.sort();

    let state = push(&link, &both, None).await.unwrap();
    assert_eq!((&state.trusts, &state.authority), (&both_names, &old_name));
    // Asked again, nothing changes.
    assert_eq!(push(&link, &both, Some(old_name.clone())).await.unwrap(), state);

    let renewed = push(&link, &both, Some(new_name.clone())).await.unwrap();
    assert_eq!((&renewed.trusts, &renewed.authority), (&both_names, &new_name));
    assert_ne!(renewed.serial, state.serial);
    assert_eq!(push(&link, &both, Some(new_name.clone())).await.unwrap(), renewed);

    retire(&control, &successor);
    let last = push(&link, &successor.trust(), Some(new_name.clone())).await.unwrap();
    assert_eq!(last.trusts, [new_name]);
    // It was the one connection all along.
    assert_eq!(ask(&link, "/who").await, node.id.to_string());
    assert!(events.try_recv().is_err(), "nothing was disconnected");
    // What it holds is what it connects with, also after a restart.
    let dir = node.stop().await;
    assert!(matches!(next_change(&mut events).await, LinkChange::Disconnected(_)));
    let node = Node::resume(dir, &[control.url()], quick());
    let link = control.linked(&node.id).await;
    assert_eq!(link.peer().serial, last.serial);
    assert_eq!(link.peer().authority, last.authority);
}

#[tokio::test]
async fn a_node_that_was_away_finds_the_new_authority_by_the_old_one() {
    let control = Control::start().await;
    let node = Node::start(&control).await;
    control.linked(&node.id).await;
    let id = node.id.clone();
    let dir = node.stop().await;

    let successor = switch(&control);
    let node = Node::resume(dir, &[control.url()], quick());
    let link = control.linked(&id).await;
    assert_eq!(link.peer().authority, control.rules.authority.name());
    let new_name = successor.name();
    let both = control.rules.trust.lock().unwrap().clone();
    assert_eq!(push(&link, &both, Some(new_name.clone())).await.unwrap().authority, new_name);
    let dir = node.stop().await;

    // It goes on when the old one counts no more.
    retire(&control, &successor);
    let node = Node::resume(dir, &[control.url()], quick());
    assert_eq!(control.linked(&id).await.peer().authority, new_name);
    drop(node);
}

#[tokio::test]
async fn who_missed_the_whole_change_is_refused_and_told_what_to_do() {
    let control = Control::start().await;
    let node = Node::start(&control).await;
    control.linked(&node.id).await;
    let dir = node.stop().await;
    let successor = switch(&control);
    retire(&control, &successor);
    let node = Node::resume(dir, &[control.url()], quick());
    let state = node.state(|s| matches!(s, LinkState::Waiting { .. })).await;
    assert!(
        matches!(&state, LinkState::Waiting { error, refused: None, .. } if error.contains("another authority")),
        "{state:?}"
    );
}

#[tokio::test]
async fn tokens_made_before_the_change_are_good_after_it() {
    let control = Control::start().await;
    let before = control.rules.token();
    let successor = switch(&control);
    let after = control.rules.token();
    assert_eq!(before.pin, control.rules.authority.spki_sha256());
    assert_ne!(before.pin, after.pin);
    for token in [before, after] {
        let dir = tempfile::tempdir().unwrap();
        let store = IdentityStore::open(dir.path()).unwrap();
        let identity = join(&store, &control.url().parse().unwrap(), &token, &facts(), &DialOptions::default())
            .await
            .unwrap();
        assert_eq!(identity.certificate().authority, successor.name());
        assert_eq!(identity.trust().names().len(), 2);
    }
    // And not once the old authority is gone: its pin is nobody's.
    let late = control.rules.token_for(&control.rules.authority);
    retire(&control, &successor);
    let dir = tempfile::tempdir().unwrap();
    let store = IdentityStore::open(dir.path()).unwrap();
    let error = join(&store, &control.url().parse().unwrap(), &late, &facts(), &DialOptions::default())
        .await
        .unwrap_err();
    assert!(matches!(error, JoinError::Dial(_)), "{error:?}");
}

/// Whoever is on the other end of the link can't make a node trust only strangers, nor leave it with nobody to trust.
#[tokio::test]
async fn trust_is_handed_on_and_never_replaced_by_strangers() {
    let control = Control::start().await;
    let node = Node::start(&control).await;
    let link = control.linked(&node.id).await;
    let stranger = Authority::generate(SystemTime::now()).unwrap();
    let own = control.rules.authority.trust();

    let error = push(&link, &stranger.trust(), None).await.unwrap_err();
    assert_eq!(error.code, AgentErrorCode::Forbidden);
    for broken in [&b"{}"[..], b"", b"{\"caCertificates\":\"\"}", b"{\"caCertificates\":\"x\"}"] {
        let request = Request::post(path::TRUST).body(Full::from(broken)).unwrap();
        assert_eq!(link.send(request).await.unwrap().status(), StatusCode::BAD_REQUEST);
    }
    // A certificate that can't be had now is no reason to lose the one there is.
    *control.rules.may_renew.lock().unwrap() = false;
    let error = push(&link, &own, Some(stranger.name())).await.unwrap_err();
    assert_eq!(error.code, AgentErrorCode::Timeout);
    assert_eq!(ask(&link, "/who").await, node.id.to_string());
    let dir = node.stop().await;
    let kept = IdentityStore::open(dir.path()).unwrap().load().unwrap().unwrap();
    assert_eq!(*kept.trust(), own);
}
