//! Signs of life: datagrams beside the link, and links that are silent, dead, or replaced.

mod support;

use nm_link::Http2Options;
use nm_link::agent::{AgentOptions, LinkState};
use nm_link::server::{CloseReason, LinkChange, Pulse, ServerOptions};
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::control::{Control, Rules, next_change};
use support::datagrams::Datagrams;
use support::node::{Node, ask, quick};
use support::proxy::{Line, Proxy};
use support::soon;
use tokio::net::UdpSocket;

/// Pings often; gives a connection up long after the test.
fn patient() -> Http2Options {
    Http2Options {
        ping_interval: Duration::from_millis(100),
        ping_timeout: Duration::from_secs(60),
        ..Http2Options::default()
    }
}

/// An agent with a beat every 10 ms, that dials beside a link silent for `silent_after`.
fn brisk(silent_after: Duration) -> AgentOptions {
    AgentOptions {
        http2: patient(),
        beat_every: Duration::from_millis(10),
        silent_after,
        ..quick()
    }
}

async fn control() -> Control {
    let options = ServerOptions {
        http2: patient(),
        ..ServerOptions::default()
    };
    Control::start_with(Rules::new(), options, None).await
}

const NEVER: Duration = Duration::from_secs(3600);

async fn when(what: &str, condition: impl Fn() -> bool) {
    soon(what, async {
        let mut look = tokio::time::interval(Duration::from_millis(2));
        while !condition() {
            look.tick().await;
        }
    })
    .await;
}

fn silence(pulse: &Pulse) -> Duration {
    pulse.heard().map_or(Duration::MAX, |at| at.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_link_on_a_lossy_line_is_not_silence() {
    let control = control().await;
    let proxy = Proxy::to(control.address).await;
    let datagrams = Datagrams::relay(proxy.address, control.address).await;
    datagrams.lose(30);
    let node = Node::start_at(&control, &[proxy.url()], brisk(NEVER)).await;
    let link = control.linked(&node.id).await;
    let pulse = control.links.pulse(&node.id);
    when("datagrams come through", || pulse.datagram().is_some()).await;

    // 300 beats, as in 150 seconds of real ones. Sixteen in a row make a node lost.
    proxy.set(Line::Stalls);
    let (began, mut longest) = (Instant::now(), Duration::ZERO);
    let mut look = tokio::time::interval(Duration::from_millis(1));
    while began.elapsed() < Duration::from_secs(3) {
        longest = longest.max(silence(&pulse));
        look.tick().await;
    }
    assert!(longest < Duration::from_millis(16 * 10 + 100), "silent for {longest:?}");
    assert!(link.is_open(), "the link waits for its line");
    let line = pulse.line();
    assert!(line.datagrams && line.rtt.is_some());
    // Both ways: 1 - 0.7 * 0.7. Beats count as lost after two seconds only, and those that were answered count at once.
    when("the loss is measured", || {
        pulse.line().loss.is_some_and(|l| (0.35..0.65).contains(&l))
    })
    .await;

    proxy.set(Line::Good);
    assert_eq!(ask(&link, "/who").await, node.id.to_string());
    assert_eq!(control.links.get(&node.id).unwrap().id(), link.id(), "it is the link it was");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_is_seen_when_all_is_cut_and_ends_with_the_first_datagram() {
    let control = control().await;
    let proxy = Proxy::to(control.address).await;
    let datagrams = Datagrams::relay(proxy.address, control.address).await;
    let node = Node::start_at(&control, &[proxy.url()], brisk(NEVER)).await;
    control.linked(&node.id).await;
    let pulse = control.links.pulse(&node.id);
    when("datagrams come through", || pulse.datagram().is_some()).await;

    proxy.set(Line::Swallows);
    datagrams.lose(100);
    when("silence", || silence(&pulse) > Duration::from_millis(500)).await;
    let mut events = control.links.events();
    assert!(control.links.give_up(&node.id) && !control.links.give_up(&node.id));
    assert_eq!(next_change(&mut events).await, LinkChange::Disconnected(CloseReason::Lost));
    assert!(control.links.get(&node.id).is_none());

    // Only the datagrams get through again: the node is heard, by the session of the link that broke.
    datagrams.lose(0);
    when("the node is heard", || silence(&pulse) < Duration::from_millis(100)).await;
    assert!(control.links.get(&node.id).is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_datagrams_are_kept_out_the_link_tells() {
    let control = control().await;
    let proxy = Proxy::to(control.address).await;
    let node = Node::start_at(&control, &[proxy.url()], brisk(NEVER)).await;
    control.linked(&node.id).await;
    let pulse = control.links.pulse(&node.id);
    let began = Instant::now();
    let mut look = tokio::time::interval(Duration::from_millis(10));
    while began.elapsed() < Duration::from_secs(1) {
        assert!(silence(&pulse) < Duration::from_millis(600), "pings are heard");
        look.tick().await;
    }
    assert_eq!(pulse.datagram(), None);
    assert!(!pulse.line().datagrams);
    proxy.set(Line::Swallows);
    when("silence", || silence(&pulse) > Duration::from_millis(700)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_connection_is_replaced_while_it_still_stands() {
    let control = control().await;
    let proxy = Proxy::to(control.address).await;
    let node = Node::start_at(&control, &[proxy.url()], brisk(Duration::from_millis(400))).await;
    let old = control.linked(&node.id).await;
    let mut events = control.links.events();
    let states = node.states.clone();
    // Connections that there are swallow everything; the next one is good.
    proxy.strand();
    assert_eq!(next_change(&mut events).await, LinkChange::Replaced { old: old.id() });
    let new = control.links.get(&node.id).unwrap();
    assert_eq!(ask(&new, "/who").await, node.id.to_string());
    assert_eq!(soon("the old link closes", old.closed()).await, CloseReason::Replaced);
    assert!(states.borrow().values().all(|s| matches!(s, LinkState::Connected { .. })));
    // Its datagrams are those of the new link.
    let datagrams = Datagrams::relay(proxy.address, control.address).await;
    when("datagrams of the new link come through", || {
        control.links.pulse(&node.id).datagram().is_some()
    })
    .await;
    drop(datagrams);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_is_back_soon_after_its_line_is() {
    let control = control().await;
    let proxy = Proxy::to(control.address).await;
    let options = AgentOptions {
        longest_unreached_retry: Duration::from_millis(100),
        ..brisk(Duration::from_millis(200))
    };
    let node = Node::start_at(&control, &[proxy.url()], options).await;
    let old = control.linked(&node.id).await;
    let mut events = control.links.events();
    proxy.strand();
    proxy.set(Line::Swallows);
    when("silence", || silence(&control.links.pulse(&node.id)) > Duration::from_secs(1)).await;
    assert!(events.try_recv().is_err(), "nothing came through");
    proxy.cut();
    let change = next_change(&mut events).await;
    let back = match change {
        LinkChange::Disconnected(_) => next_change(&mut events).await == LinkChange::Connected,
        other => other == LinkChange::Replaced { old: old.id() },
    };
    assert!(back, "{change:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_replayed_and_foreign_datagrams_count_for_nothing() {
    let control = control().await;
    let (near, far) = (Proxy::to(control.address).await, Proxy::to(control.address).await);
    let (of_a, of_b) = (
        Datagrams::relay(near.address, control.address).await,
        Datagrams::relay(far.address, control.address).await,
    );
    let a = Node::start_at(&control, &[near.url()], brisk(NEVER)).await;
    let b = Node::start_at(&control, &[far.url()], brisk(NEVER)).await;
    let (pulse_a, pulse_b) = (control.links.pulse(&a.id), control.links.pulse(&b.id));
    when("both are heard", || pulse_a.datagram().is_some() && pulse_b.datagram().is_some()).await;

    // B is cut off. A, and somebody on the line, try to speak for it.
    far.set(Line::Swallows);
    let arrived = of_b.sent.lock().unwrap().len();
    of_b.lose(100);
    when("silence of B", || silence(&pulse_b) > Duration::from_millis(200)).await;
    let (heard, datagram) = (pulse_b.heard(), pulse_b.datagram());
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    stranger.connect(control.address).await.unwrap();
    let replayed = of_b.sent.lock().unwrap().clone();
    let (from_a, from_b) = (of_a.sent.lock().unwrap().last().unwrap().clone(), replayed[0].clone());
    let mut in_bs_name = from_a.clone();
    in_bs_name[4..20].copy_from_slice(&from_b[4..20]);
    let mut with_another_number = from_b.clone();
    with_another_number[20..28].copy_from_slice(&u64::MAX.to_be_bytes());
    let mut tries: Vec<Vec<u8>> = replayed[..arrived].to_vec();
    tries.extend([in_bs_name, with_another_number, vec![0; 60], vec![b'n'; 1400], Vec::new()]);
    for datagram in &tries {
        stranger.send(datagram).await.unwrap();
    }
    // Whatever is answered at all is answered in the order it came: once A's next beat counts, all of these were judged.
    let after = tokio::time::Instant::now();
    when("a later beat of A is heard", || {
        pulse_a.datagram().is_some_and(|at| at > after + Duration::from_millis(20))
    })
    .await;
    assert_eq!((pulse_b.heard(), pulse_b.datagram()), (heard, datagram));
    let mut buffer = [0; 64];
    assert!(stranger.try_recv(&mut buffer).is_err(), "none of them is answered");

    // And B itself is heard as soon as it is let through.
    of_b.lose(0);
    when("B is heard", || silence(&pulse_b) < Duration::from_millis(50)).await;
    // A node that is put out is not heard any more, whatever it sends.
    far.set(Line::Good);
    control.rules.revoked.lock().unwrap().insert(b.id.clone());
    control.links.close(&b.id);
    let (pulse, sent) = (control.links.pulse(&b.id), of_b.sent.lock().unwrap().len());
    when("more of B's datagrams", || {
        of_b.sent.lock().unwrap().len() > sent || silence(&pulse) > Duration::from_millis(300)
    })
    .await;
    when("silence of B", || silence(&pulse) > Duration::from_millis(300)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_udp_port_does_no_harm() {
    let rules = Rules::new();
    // Some port whose UDP side is taken, and whose TCP side is not.
    let (_taken, address) = loop {
        let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        if std::net::TcpListener::bind(address).is_ok() {
            break (taken, address);
        }
    };
    let control = Control::start_with(rules, ServerOptions::default(), Some(address)).await;
    let node = Node::start_at(&control, &[control.url()], brisk(NEVER)).await;
    assert_eq!(ask(&control.linked(&node.id).await, "/who").await, node.id.to_string());
    let pulse: Arc<Pulse> = control.links.pulse(&node.id);
    assert_eq!(pulse.datagram(), None);
}
