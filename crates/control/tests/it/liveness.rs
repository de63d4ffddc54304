//! Who is there and who is lost: datagrams, silence, cut cables.

use nm_control::service::liveness::{LivenessChange, LivenessEvent};
use nm_link::Http2Options;
use nm_testing::{Database, FakeAgent, TestControlPlane, eventually, soon};
use nm_types::node::{NodeStatus, NodeView, Transport};
use std::time::{Duration, Instant};
use tokio::sync::broadcast::Receiver;

/// A sixteenth of the real time, as are the pings and the agents' beats.
const LOST_AFTER: Duration = Duration::from_millis(800);

async fn plane() -> TestControlPlane {
    TestControlPlane::start_tuned(Database::sqlite(), |config| {
        config.lost_after = LOST_AFTER;
        config.link.http2 = Http2Options {
            ping_interval: Duration::from_millis(200),
            ping_timeout: Duration::from_secs(60),
            ..Http2Options::default()
        };
    })
    .await
}

async fn node(plane: &TestControlPlane, agent: &FakeAgent) -> NodeView {
    plane.admin().await.get(format!("/api/nodes/{}", agent.node)).await.data(200)
}

async fn next(events: &mut Receiver<LivenessEvent>) -> LivenessEvent {
    soon("word of a node", events.recv()).await.expect("the control plane runs")
}

/// The agent's datagrams get through.
async fn by_udp(plane: &TestControlPlane, agent: &FakeAgent) -> NodeView {
    eventually("datagrams get through", async || {
        let node = node(plane, agent).await;
        node.link
            .is_some_and(|l| l.transport == Transport::Udp && l.rtt.is_some())
            .then_some(node)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packet_loss_and_a_stalled_link_lose_no_node() {
    let plane = plane().await;
    let agent = FakeAgent::join(&plane, "alder").await;
    agent.lose_datagrams(30);
    by_udp(&plane, &agent).await;
    let mut events = plane.app().liveness.subscribe();

    // Four times the span after which silence makes a node lost, with nothing but lossy datagrams.
    agent.stall();
    let heard = tokio::time::timeout(LOST_AFTER * 4, events.recv()).await;
    assert!(heard.is_err(), "{heard:?}");
    let seen = node(&plane, &agent).await;
    assert_eq!((seen.status, seen.lost_since), (NodeStatus::Ready, None));
    let age = plane.app().clock.now().since(seen.last_seen.expect("it was heard"));
    assert!((0..800).contains(&age), "last seen {age} ms ago");
    agent.mend();
    eventually("the link works again", async || {
        let reply = plane.admin().await.get("/api/containers/images/list").await;
        (reply.status == 200).then_some(())
    })
    .await;
    assert!(events.try_recv().is_err(), "never lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_cable_is_seen_in_time_and_so_is_its_mending() {
    let plane = plane().await;
    let (agent, other) = (FakeAgent::join(&plane, "alder").await, FakeAgent::join(&plane, "birch").await);
    by_udp(&plane, &agent).await;
    let mut events = plane.app().liveness.subscribe();
    let began = Instant::now();
    agent.unplug();
    let lost = next(&mut events).await;
    let took = began.elapsed();
    let LivenessChange::Lost { since } = lost.change else {
        panic!("{lost:?}")
    };
    assert_eq!(lost.node, agent.node);
    // As ten seconds are to the eight of the default.
    assert!(took <= LOST_AFTER * 10 / 8 && took >= LOST_AFTER / 2, "seen after {took:?}");
    let seen = node(&plane, &agent).await;
    assert_eq!((seen.status, seen.lost_since, seen.link), (NodeStatus::NotReady, Some(since), None));
    assert_eq!(seen.last_seen, Some(since));
    assert!(plane.app().liveness.is_lost(&agent.node) && !plane.app().liveness.is_lost(&other.node));
    assert!(!plane.app().fleet.is_connected(&agent.node), "nobody waits for an answer any more");
    assert_eq!(node(&plane, &other).await.status, NodeStatus::Ready);

    agent.mend();
    assert_eq!(
        next(&mut events).await,
        LivenessEvent {
            node: agent.node.clone(),
            change: LivenessChange::Back
        }
    );
    agent.ready(&plane).await;
    let seen = node(&plane, &agent).await;
    assert!(seen.lost_since.is_none() && seen.last_seen > Some(since));
    assert!(events.try_recv().is_err(), "nothing else was lost, or came back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_datagrams_are_kept_out_the_link_tells() {
    let plane = plane().await;
    let agent = FakeAgent::join(&plane, "alder").await;
    agent.lose_datagrams(100);
    // What came through while it joined is forgotten with a new link of its own session.
    agent.cut();
    agent.ready(&plane).await;
    let mut events = plane.app().liveness.subscribe();
    let heard = tokio::time::timeout(LOST_AFTER * 2, events.recv()).await;
    assert!(heard.is_err(), "its pings are heard: {heard:?}");
    let began = Instant::now();
    agent.unplug();
    let lost = next(&mut events).await;
    assert!(matches!(lost.change, LivenessChange::Lost { .. }));
    assert!(began.elapsed() <= LOST_AFTER * 10 / 8, "seen after {:?}", began.elapsed());
    agent.mend();
    agent.ready(&plane).await;
    assert!(!plane.app().liveness.is_lost(&agent.node));
}

/// The agent is there and cannot be reached: its connections end, and no new one is let through.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_a_link_is_not_ready_and_not_lost() {
    let plane = plane().await;
    let agent = FakeAgent::join(&plane, "alder").await;
    by_udp(&plane, &agent).await;
    let mut events = plane.app().liveness.subscribe();
    agent.refuse_links();
    agent.is(&plane, NodeStatus::NotReady).await;
    let heard = tokio::time::timeout(LOST_AFTER * 2, events.recv()).await;
    assert!(heard.is_err(), "{heard:?}");
    let seen = node(&plane, &agent).await;
    assert!(seen.lost_since.is_none() && seen.link.is_some());
    agent.mend();
    agent.ready(&plane).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_ends_is_lost_and_a_removed_node_is_nothing() {
    let plane = plane().await;
    let (agent, other) = (FakeAgent::join(&plane, "alder").await, FakeAgent::join(&plane, "birch").await);
    let mut events = plane.app().liveness.subscribe();
    let id = agent.node.clone();
    agent.stop().await;
    let lost = next(&mut events).await;
    assert!(lost.node == id && matches!(lost.change, LivenessChange::Lost { .. }));
    // A new control plane knows of the node, and gives it its time.
    plane.admin().await.delete(format!("/api/nodes/{}", other.node)).await.is(200);
    let liveness = &plane.app().liveness;
    let heard = tokio::time::timeout(LOST_AFTER * 3, events.recv()).await;
    assert!(heard.is_err(), "{heard:?}");
    assert!(!liveness.is_lost(&other.node) && liveness.heard_at(&other.node).is_none());
    assert!(liveness.is_lost(&id));
}
