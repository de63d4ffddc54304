//! Links that come, break, are replaced, and end.

mod support;

use http_body_util::BodyExt;
use nm_link::agent::{AgentOptions, IdentityStore, LinkState};
use nm_link::pki::{Authority, SERVER_LIFETIME, Validity};
use nm_link::server::{CloseReason, LinkChange, ServerOptions};
use nm_link::{Delivery, Http2Options, LinkError, RefusalCode};
use nm_types::NodeId;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use support::control::{Control, Rules, next_change, next_event};
use support::node::{Node, ask, at_least, get, quick, text};
use support::proxy::{Line, Proxy};
use support::soon;
use tokio::sync::Semaphore;

fn connected(state: &LinkState) -> bool {
    matches!(state, LinkState::Connected { .. })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_not_there_is_offline() {
    let control = Control::start().await;
    let error = control.links.require(&NodeId::fresh(1)).unwrap_err();
    assert!(matches!(error, LinkError::NotConnected { .. }));
    assert_eq!((error.delivery(), error.is_offline()), (Delivery::NotSent, true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_comes_back_to_a_control_plane_that_was_away() {
    let control = Control::start().await;
    let node = Node::start(&control).await;
    let link = control.linked(&node.id).await;
    let waiting = tokio::spawn({
        let link = link.clone();
        async move { link.send(get("/hold")).await }
    });
    at_least(&node.doings.held, 1).await;

    let address = control.address;
    let rules = control.stop().await;
    let error = soon("the request under way", waiting).await.unwrap().unwrap_err();
    assert!(
        matches!(
            error,
            LinkError::Closed {
                delivery: Delivery::MayHaveBeenSent,
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(link.closed().await, CloseReason::Stopping);
    let late = soon("a request too late", link.send(get("/who"))).await.unwrap_err();
    assert!(
        matches!(
            late,
            LinkError::Closed {
                delivery: Delivery::NotSent,
                ..
            }
        ),
        "{late:?}"
    );
    node.state(|s| matches!(s, LinkState::Waiting { refused: None, .. })).await;
    // What nobody waits for any more is dropped at the node.
    at_least(&node.doings.dropped, 1).await;

    let control = Control::start_with(rules, ServerOptions::default(), Some(address)).await;
    let link = control.linked(&node.id).await;
    assert_eq!(ask(&link, "/who").await, node.id.to_string());
    node.state(connected).await;
}

/// Pings every 200 ms, and 800 ms to answer one.
fn alert() -> Http2Options {
    Http2Options {
        ping_interval: Duration::from_millis(200),
        ping_timeout: Duration::from_millis(800),
        ..Http2Options::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ends_notice_a_line_that_swallows_everything() {
    let control = Control::start_with(
        Rules::new(),
        ServerOptions {
            http2: alert(),
            ..ServerOptions::default()
        },
        None,
    )
    .await;
    let proxy = Proxy::to(control.address).await;
    let options = AgentOptions { http2: alert(), ..quick() };
    let node = Node::start_at(&control, &[proxy.url()], options).await;
    let link = control.linked(&node.id).await;
    node.state(connected).await;
    let mut body = link.send(get("/endless")).await.unwrap().into_body();
    let waiting = tokio::spawn({
        let link = link.clone();
        async move { link.send(get("/hold")).await }
    });
    at_least(&node.doings.held, 1).await;

    let mut events = control.links.events();
    let cut = Instant::now();
    proxy.set(Line::Swallows);
    assert_eq!(next_change(&mut events).await, LinkChange::Disconnected(CloseReason::Lost));
    node.state(|s| matches!(s, LinkState::Waiting { .. } | LinkState::Connecting)).await;
    let took = cut.elapsed();
    assert!(took < Duration::from_secs(5), "noticed after {took:?}");
    assert!(control.links.get(&node.id).is_none());
    let error = soon("the request under way", waiting).await.unwrap().unwrap_err();
    assert!(
        matches!(
            error,
            LinkError::Closed {
                delivery: Delivery::MayHaveBeenSent,
                ..
            }
        ),
        "{error:?}"
    );
    let broke = async {
        while let Some(frame) = body.frame().await {
            if frame.is_err() {
                return true;
            }
        }
        false
    };
    assert!(
        soon("the body breaks", broke).await,
        "a body cut short must end in an error, not like a whole one"
    );

    // An idle link is watched as well: nothing but the next cut line tells that it works again.
    proxy.cut();
    assert_eq!(next_change(&mut events).await, LinkChange::Connected);
    proxy.set(Line::Swallows);
    assert_eq!(next_change(&mut events).await, LinkChange::Disconnected(CloseReason::Lost));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_link_stays() {
    let control = Control::start_with(
        Rules::new(),
        ServerOptions {
            http2: alert(),
            ..ServerOptions::default()
        },
        None,
    )
    .await;
    let node = Node::start_at(&control, &[control.url()], AgentOptions { http2: alert(), ..quick() }).await;
    let link = control.linked(&node.id).await;
    let mut events = control.links.events();
    let quiet = tokio::time::timeout(Duration::from_secs(3), events.recv()).await;
    assert!(quiet.is_err(), "the link ended or was made anew: {quiet:?}");
    assert!(link.is_open());
    assert_eq!(ask(&link, "/who").await, node.id.to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_connection_of_a_node_replaces_the_older() {
    let control = Control::start().await;
    let old_proxy = Proxy::to(control.address).await;
    let first = Node::start_at(&control, &[old_proxy.url()], quick()).await;
    let old = control.linked(&first.id).await;
    let waiting = tokio::spawn({
        let old = old.clone();
        async move { old.send(get("/hold")).await }
    });
    at_least(&first.doings.held, 1).await;
    // The old line is dead, and nobody has noticed yet.
    old_proxy.set(Line::Swallows);

    let mut events = control.links.events();
    let second = Node::resume(first.dir.clone(), &[control.url()], quick());
    let event = next_event(&mut events).await;
    assert_eq!(
        (event.node, event.change),
        (first.id.clone(), LinkChange::Replaced { old: old.id() })
    );
    let new = control.links.get(&first.id).unwrap();
    assert_eq!(new.id(), event.link);
    assert!(new.id() > old.id() && !old.is_open());
    assert_eq!(soon("the old link closes", old.closed()).await, CloseReason::Replaced);
    assert!(soon("the request on the old link", waiting).await.unwrap().is_err());
    assert_eq!(ask(&new, "/who").await, second.id.to_string());
    assert_eq!(control.links.connected().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_stops_lets_what_is_under_way_end() {
    let control = Control::start().await;
    let node = Node::start(&control).await;
    let link = control.linked(&node.id).await;
    let mut events = control.links.events();
    let waiting = tokio::spawn({
        let link = link.clone();
        async move { text(link.send(get("/hold")).await.unwrap()).await }
    });
    at_least(&node.doings.held, 1).await;
    node.ask_to_stop();
    node.doings.release.add_permits(1);
    assert_eq!(soon("the request under way", waiting).await.unwrap(), "released");
    assert_eq!(next_change(&mut events).await, LinkChange::Disconnected(CloseReason::AgentStopped));
    node.stop().await;
    assert!(control.links.get(link.node()).is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_stops_does_not_wait_for_ever() {
    let control = Control::start().await;
    let node = Node::start_at(
        &control,
        &[control.url()],
        AgentOptions {
            drain: Duration::from_millis(200),
            ..quick()
        },
    )
    .await;
    let link = control.linked(&node.id).await;
    let waiting = tokio::spawn(async move { link.send(get("/hold")).await });
    at_least(&node.doings.held, 1).await;
    let doings = node.doings.clone();
    node.stop().await;
    assert!(soon("the request under way", waiting).await.unwrap().is_err());
    at_least(&doings.dropped, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_line_is_told_from_an_agent_that_stops() {
    let control = Control::start().await;
    let proxy = Proxy::to(control.address).await;
    let node = Node::start_at(&control, &[proxy.url()], quick()).await;
    control.linked(&node.id).await;
    let mut events = control.links.events();
    proxy.cut();
    assert_eq!(next_change(&mut events).await, LinkChange::Disconnected(CloseReason::Lost));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_node_is_cut_off_and_stays_out() {
    let control = Control::start().await;
    let node = Node::start(&control).await;
    let link = control.linked(&node.id).await;
    let mut body = link.send(get("/endless")).await.unwrap().into_body();
    let mut events = control.links.events();
    control.rules.revoked.lock().unwrap().insert(node.id.clone());
    assert!(control.links.close(&node.id));
    assert_eq!(next_change(&mut events).await, LinkChange::Disconnected(CloseReason::Closed));
    let ended = async { while let Some(Ok(_)) = body.frame().await {} };
    soon("the open stream ends", ended).await;
    let state = node.state(|s| matches!(s, LinkState::Waiting { refused: Some(_), .. })).await;
    assert!(
        matches!(
            state,
            LinkState::Waiting {
                refused: Some(RefusalCode::Revoked),
                ..
            }
        ),
        "{state:?}"
    );
    assert!(control.links.get(&node.id).is_none());
    assert!(!control.links.close(&NodeId::fresh(1)), "there was nothing to close");
}

/// Revoked between the gate's yes and the link's standing: the yes is worth nothing any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_a_node_also_closes_a_connection_at_the_gate() {
    let control = Control::start().await;
    let node = Node::start(&control).await;
    control.linked(&node.id).await;
    let dir = node.stop().await;
    soon("the link's end", async {
        let mut events = control.links.events();
        while control.links.get(&dir_node(&dir)).is_some() {
            events.recv().await.unwrap();
        }
    })
    .await;

    let hold = Arc::new(Semaphore::new(0));
    *control.rules.hold_admissions.lock().unwrap() = Some(hold.clone());
    let before = control.rules.admissions.available_permits() as u32;
    let mut events = control.links.events();
    let node = Node::resume(dir, &[control.url()], quick());
    soon("the gate is asked", control.rules.admissions.acquire_many(before + 1))
        .await
        .unwrap()
        .forget();
    control.rules.revoked.lock().unwrap().insert(node.id.clone());
    assert!(control.links.close(&node.id), "the connection at the gate was there to be closed");
    hold.add_permits(100);
    let state = node.state(|s| matches!(s, LinkState::Waiting { refused: Some(_), .. })).await;
    assert!(
        matches!(
            state,
            LinkState::Waiting {
                refused: Some(RefusalCode::Revoked),
                ..
            }
        ),
        "{state:?}"
    );
    assert!(events.try_recv().is_err(), "the node must never have counted as connected");
}

fn dir_node(dir: &tempfile::TempDir) -> NodeId {
    IdentityStore::open(dir.path()).unwrap().load().unwrap().unwrap().node().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_ends_with_the_certificate_it_was_made_with() {
    let rules = Rules::new();
    *rules.lifetime.lock().unwrap() = Duration::from_secs(2);
    *rules.may_renew.lock().unwrap() = false;
    let control = Control::start_with(rules, ServerOptions::default(), None).await;
    let node = Node::start(&control).await;
    let link = control.linked(&node.id).await;
    assert_eq!(soon("the certificate's end", link.closed()).await, CloseReason::Expired);
    let state = node
        .state(|s| matches!(s, LinkState::Waiting { error, .. } if error.contains("expired")))
        .await;
    assert!(matches!(state, LinkState::Waiting { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_renewed_and_used_for_the_next_connection() {
    let rules = Rules::new();
    // With five minutes dated back, a third of this life is already gone.
    *rules.lifetime.lock().unwrap() = Duration::from_secs(120);
    let control = Control::start_with(rules, ServerOptions::default(), None).await;
    let proxy = Proxy::to(control.address).await;
    let node = Node::start_at(&control, &[proxy.url()], quick()).await;
    let first = control.linked(&node.id).await.peer().serial.clone();
    let renewed = async {
        loop {
            let now = node.link.identity();
            if now.certificate().serial != first {
                return now;
            }
            tokio::task::yield_now().await;
        }
    };
    let renewed = soon("the renewal", renewed).await;
    assert_eq!(renewed.node(), &node.id);
    *control.rules.lifetime.lock().unwrap() = Duration::from_secs(86_400);

    let mut events = control.links.events();
    proxy.cut();
    while next_change(&mut events).await != LinkChange::Connected {}
    let link = control.linked(&node.id).await;
    assert_ne!(link.peer().serial, first);
    assert_eq!(ask(&link, "/who").await, node.id.to_string());
    // What is on the disk is a whole identity, and the new one's.
    let dir = node.stop().await;
    let on_disk = IdentityStore::open(dir.path()).unwrap().load().unwrap().unwrap();
    assert_ne!(on_disk.certificate().serial, first);
    assert_ne!(on_disk.certificate().public_key_sha256, [0; 32]);
}

/// Trust in a new authority spreads by renewal; then the control plane can move under it, and no node has to join again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_authority_follows_another() {
    let rules = Rules::new();
    *rules.lifetime.lock().unwrap() = Duration::from_secs(120);
    let control = Control::start_with(rules, ServerOptions::default(), None).await;
    let node = Node::start(&control).await;
    control.linked(&node.id).await;
    let next = Authority::generate(SystemTime::now()).unwrap();
    let both = control.rules.authority.trust().and(&next.trust());
    *control.rules.trust.lock().unwrap() = both.clone();
    let spread = async {
        while !node.link.identity().trust().contains_pin(&next.spki_sha256()) {
            tokio::task::yield_now().await;
        }
    };
    soon("trust in the new authority", spread).await;
    let identity = next
        .issue_server::<&str>(&[], Validity::starting(SystemTime::now(), SERVER_LIFETIME))
        .unwrap();
    control.tls.replace(&identity, &both).unwrap();
    let mut events = control.links.events();
    control.links.close(&node.id);
    while next_change(&mut events).await != LinkChange::Connected {}
    assert_eq!(ask(&control.linked(&node.id).await, "/who").await, node.id.to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_replica_has_a_link_of_its_own() {
    let rules = Rules::new();
    let one = Control::start_with(rules.clone(), ServerOptions::default(), None).await;
    let two = Control::start_with(rules, ServerOptions::default(), None).await;
    let node = Node::start_at(&one, &[one.url(), two.url()], quick()).await;
    for control in [&one, &two] {
        assert_eq!(ask(&control.linked(&node.id).await, "/who").await, node.id.to_string());
    }
    soon(
        "both are linked",
        node.states.clone().wait_for(|all| all.len() == 2 && all.values().all(connected)),
    )
    .await
    .unwrap();
    one.stop().await;
    assert_eq!(ask(&two.linked(&node.id).await, "/who").await, node.id.to_string());
    let states = node.link.states();
    node.stop().await;
    assert!(states.borrow().values().all(|s| *s == LinkState::Stopped));
}
