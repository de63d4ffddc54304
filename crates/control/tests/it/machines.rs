//! What nodes' machines use, and what happened on them: live, from before, and across breaks and crashes of either side.

use crate::running;
use nm_testing::{Ask, Client, Database, FakeAgent, TestControlPlane, When, both, eventually};
use nm_types::Timestamp;
use nm_types::container::ForeignSpec;
use nm_types::host::{DiskStats, MemoryStats, NetworkStats, NodeStats};
use nm_types::node::{NodeStatus, NodeView};
use nm_types::node_event::{NodeEventDetail, NodeEventKind as Kind, NodeEventView};
use serde_json::{Value, json};

both!(
    events_are_kept,
    events_across_a_break,
    events_across_kills,
    events_that_are_lost,
    events_go_with_their_node
);

async fn fleet(database: Database) -> (TestControlPlane, FakeAgent, Client) {
    let plane = TestControlPlane::start(database).await;
    let agent = FakeAgent::join(&plane, "alder").await;
    let api = plane.operator().await.clone();
    (plane, agent, api)
}

fn disk(mount: &str, used: u64) -> DiskStats {
    DiskStats {
        mount: mount.into(),
        device: "/dev/vda1".into(),
        kind: "ext4".into(),
        total: 1000,
        used,
        available: 1000 - used,
        inodes: 100,
        inodes_used: 10,
        read_only: false,
    }
}

fn using(cpu: f64) -> NodeStats {
    NodeStats {
        cpu,
        load: [0.5, 0.4, 0.3],
        memory: MemoryStats {
            total: 8 << 30,
            available: 6 << 30,
            ..MemoryStats::default()
        },
        disks: vec![disk("/", 250), disk("/data", 625)],
        network: NetworkStats::default(),
        pressure: None,
        temperature: Some(48.5),
        uptime: 3600,
        timestamp: Timestamp(1_770_000_000_000 + cpu as i64 * 1000),
    }
}

async fn node(api: &Client) -> NodeView {
    api.get("/api/nodes/alder").await.data(200)
}

#[tokio::test]
async fn a_node_shows_what_it_has_and_uses() {
    let (plane, agent, api) = fleet(Database::sqlite()).await;
    let bare = node(&api).await;
    assert_eq!((bare.usage, bare.allocated.cpu, bare.allocated.memory), (None, 0.0, 0));
    let capacity = bare.capacity.unwrap();
    assert_eq!((capacity.cpus, capacity.memory, capacity.disk_total), (4, 8 << 30, None));

    agent.machine_uses(using(12.5));
    let usage = eventually("its use shows", async || node(&api).await.usage).await;
    assert_eq!((usage.cpu, usage.memory_used, usage.memory_total), (12.5, 2 << 30, 8 << 30));
    assert_eq!(
        (usage.disk_used_percent, usage.load, usage.temperature),
        (Some(62.5), [0.5, 0.4, 0.3], Some(48.5))
    );

    // Limits of all of its containers, whoever made them.
    for (name, limits) in [
        ("a", json!({ "cpuLimit": 0.1, "memoryLimit": "512m" })),
        ("b", json!({ "cpuLimit": 0.2 })),
        ("c", json!({})),
    ] {
        let mut spec = json!({ "name": name, "image": "nginx" });
        spec.as_object_mut().unwrap().extend(limits.as_object().unwrap().clone());
        api.create(&spec).await;
    }
    let foreign = ForeignSpec {
        cpu_limit: Some(1.5),
        memory_limit: Some("1g".into()),
        ..ForeignSpec::default()
    };
    agent.docker_run_with("beside", "redis:7", foreign);
    let seen = eventually("all are counted", async || Some(node(&api).await).filter(|n| n.containers == 4)).await;
    assert_eq!((seen.allocated.cpu, seen.allocated.memory), (1.8, (512 << 20) + (1 << 30)));
    assert_eq!(seen.capacity.unwrap().disk_total, Some(2000));
    let listed: Vec<NodeView> = api.get("/api/nodes").await.data(200);
    assert_eq!((listed[0].allocated, listed[0].usage), (seen.allocated, Some(usage)));
    assert_eq!(plane.app().nodes.host(&agent.node).unwrap().cpu, 12.5);

    // Away, it uses nothing that anybody knows of.
    agent.take_down();
    agent.is(&plane, NodeStatus::NotReady).await;
    let away = node(&api).await;
    assert_eq!((away.usage, away.capacity.unwrap().disk_total), (None, None));
    assert_eq!((away.capacity.unwrap().cpus, away.allocated), (4, seen.allocated));
    assert!(plane.app().nodes.host(&agent.node).is_none());
    agent.machine_uses(using(1.0));
    agent.mend();
    eventually("its use shows again", async || node(&api).await.usage.filter(|u| u.cpu == 1.0)).await;
}

#[tokio::test]
async fn history_and_what_is_refused() {
    let (plane, agent, api) = fleet(Database::sqlite()).await;
    (0..100).for_each(|n| agent.machine_uses(using(f64::from(n))));
    let history = async |query: &str| {
        let samples: Vec<NodeStats> = api.get(format!("/api/nodes/alder/stats{query}")).await.data(200);
        samples.iter().map(|s| s.cpu).collect::<Vec<_>>()
    };
    assert_eq!(history("").await, (40..100).map(f64::from).collect::<Vec<_>>());
    assert_eq!(history("?limit=2").await, [98.0, 99.0]);
    assert_eq!(history("?resolution=minute&limit=3").await, [79.0, 89.0, 99.0]);
    let whole: Vec<NodeStats> = api.get(format!("/api/nodes/{}/stats?limit=1", agent.node)).await.data(200);
    assert_eq!(whole, [using(99.0)]);
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=1441", "limit"),
        ("resolution=hour", "resolution"),
        ("since=1", "since"),
    ] {
        api.get(format!("/api/nodes/alder/stats?{query}")).await.names(field);
    }
    for path in ["stats", "stats?follow=true", "events"] {
        api.get(format!("/api/nodes/moon/{path}")).await.refused(404, "node_not_found");
    }
    agent.take_down();
    agent.is(&plane, NodeStatus::NotReady).await;
    for path in ["stats", "stats?follow=true", "stats?resolution=minute"] {
        api.get(format!("/api/nodes/alder/{path}")).await.refused(503, "node_offline");
    }
    api.get("/api/nodes/alder/events").await.is(200);
}

#[tokio::test]
async fn use_followed() {
    let (plane, agent, api) = fleet(Database::sqlite()).await;
    let mut events = api.get("/api/nodes/alder/stats?follow=true").events().await.unwrap();
    events.begun().await;
    for n in 1..4 {
        agent.machine_uses(using(f64::from(n)));
        let event = events.next().await.unwrap();
        assert_eq!((event.event.as_str(), event.data::<NodeStats>()), ("stats", using(f64::from(n))));
    }
    // Over when the node is gone.
    agent.take_down();
    assert_eq!(events.rest().await.last().unwrap().event, "end");
    agent.mend();
    agent.ready(&plane).await;
    // For browsers, by a ticket.
    let ticket = plane.viewer().await.post("/api/auth/tickets").await.is(200).json()["data"]["ticket"].clone();
    let path = format!("/api/nodes/alder/stats?follow=true&ticket={}", ticket.as_str().unwrap());
    let mut events = plane.anonymous().get(path).events().await.unwrap();
    events.begun().await;
    agent.machine_uses(using(9.0));
    assert_eq!(events.next().await.unwrap().data::<NodeStats>().cpu, 9.0);
}

/// All of a node's events, oldest first, read page by page.
async fn all_events(api: &Client, path: &str) -> Vec<NodeEventView> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let reply = api.get(format!("{path}?limit=7{cursor}")).await.is(200);
        all.extend(reply.data::<Vec<NodeEventView>>(200));
        match reply.json()["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert!(all.windows(2).all(|w| w[0].id > w[1].id), "newest first");
    all.reverse();
    all
}

/// The exit codes of a node's events, in order, once there are `count`; those of gaps as their negated count.
async fn codes(api: &Client, count: usize) -> Vec<i64> {
    let read = async || {
        let events = all_events(api, "/api/nodes/alder/events").await;
        let code = |e: &NodeEventView| match e.kind {
            Kind::Gap => -e.detail.count.map_or(0, u64::cast_signed),
            _ => e.detail.exit_code.unwrap(),
        };
        events.iter().map(code).collect::<Vec<_>>()
    };
    eventually(&format!("{count} events"), async || {
        Some(read().await).filter(|all| all.len() >= count)
    })
    .await
}

fn ends(agent: &FakeAgent, codes: impl IntoIterator<Item = i64>) {
    for code in codes {
        let detail = NodeEventDetail {
            exit_code: Some(code),
            ..NodeEventDetail::default()
        };
        agent.happens_with(Kind::Died, None, detail);
    }
}

async fn events_are_kept(database: Database) {
    let (mut plane, agent, api) = fleet(database).await;
    let web = api.create(&running("web")).await.id;
    let docker_id = agent.docker_run("beside", "redis:7");
    eventually("it is listed", async || (api.containers("").await.len() == 2).then_some(())).await;
    agent.happens(Kind::Created, Some("web"));
    agent.happens(Kind::Started, Some("web"));
    agent.happens(Kind::Oom, Some("beside"));
    let detail = NodeEventDetail {
        message: Some("it does not answer".into()),
        ..NodeEventDetail::default()
    };
    agent.happens_with(Kind::EngineDown, None, detail);
    ends(&agent, 0..10);
    let path = "/api/nodes/alder/events";
    let all = eventually("all are there", async || {
        Some(all_events(&api, path).await).filter(|e| e.len() == 14)
    })
    .await;
    let first = &all[0];
    assert_eq!(
        (first.kind, &first.node_id, first.container_id.as_ref(), first.container.as_deref()),
        (Kind::Created, &agent.node, Some(&web), Some("web"))
    );
    assert_eq!(all[3].detail.message.as_deref(), Some("it does not answer"));
    assert_eq!(all[13].detail.exit_code, Some(9));

    // Of one container, ours or another's.
    let of = async |container: &str| {
        let events = all_events(&api, &format!("/api/containers/{container}/events")).await;
        events.iter().map(|e| e.kind).collect::<Vec<_>>()
    };
    assert_eq!(
        (of("web").await, of("beside").await),
        (vec![Kind::Created, Kind::Started], vec![Kind::Oom])
    );
    let beside = all_events(&api, "/api/containers/beside/events").await.remove(0);
    assert_eq!(beside.docker_id.as_deref(), Some(docker_id.as_str()));
    assert_eq!(beside.container_id, Some(api.container("beside").await.id));
    api.get("/api/containers/moon/events").await.refused(404, "container_not_found");
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("cursor=x", "cursor"),
        ("cursor=0", "cursor"),
        ("since=1", "since"),
    ] {
        api.get(format!("{path}?{query}")).await.names(field);
        api.get(format!("/api/containers/web/events?{query}")).await.names(field);
    }

    // They outlast a restart, and are read once.
    plane.restart().await;
    agent.ready(&plane).await;
    agent.happens(Kind::Removed, Some("beside"));
    eventually("the new one is there", async || {
        let now = all_events(&api, path).await;
        (now.len() > 14).then(|| assert_eq!(now[..14], all))
    })
    .await;
}

/// A node says what happened to another's container.
#[tokio::test]
async fn a_node_tells_of_its_own_containers_only() {
    let (plane, alder, api) = fleet(Database::sqlite()).await;
    let birch = FakeAgent::join(&plane, "birch").await;
    let made = api.create(&json!({ "name": "web", "image": "nginx", "nodeId": "birch" })).await;
    let fake = birch.container(&made.id).observed;
    alder.claim(&fake);
    alder.happens(Kind::Oom, Some(&fake.docker_id));
    let told = eventually("it is heard", async || all_events(&api, "/api/nodes/alder/events").await.pop()).await;
    assert_eq!((told.kind, told.container_id), (Kind::Oom, None));
    assert_eq!(all_events(&api, "/api/containers/web/events").await, []);
}

async fn events_across_a_break(database: Database) {
    let (plane, agent, api) = fleet(database).await;
    ends(&agent, 0..5);
    assert_eq!(codes(&api, 5).await, (0..5).collect::<Vec<_>>());
    for round in 0..3 {
        let from = 5 + round * 600;
        agent.take_down();
        agent.is(&plane, NodeStatus::NotReady).await;
        // More than one answer holds.
        ends(&agent, from..from + 600);
        agent.mend();
        agent.ready(&plane).await;
        let count = usize::try_from(from + 600).unwrap();
        eventually("all are read", async || {
            let newest: Vec<NodeEventView> = api.get("/api/nodes/alder/events?limit=1").await.data(200);
            (newest[0].detail.exit_code == Some(from + 599)).then_some(())
        })
        .await;
        let rows = plane.app().store.node_events(everything(&agent)).await.unwrap();
        assert_eq!(rows.len(), count, "each once");
    }
    // The old connection is not known to be dead: two are told of the same.
    agent.cut_unheard();
    ends(&agent, 5000..5050);
    agent.ready(&plane).await;
    eventually("all are read", async || {
        let newest: Vec<NodeEventView> = api.get("/api/nodes/alder/events?limit=1").await.data(200);
        (newest[0].detail.exit_code == Some(5049)).then_some(())
    })
    .await;
    let rows = plane.app().store.node_events(everything(&agent)).await.unwrap();
    assert_eq!(rows.len(), 1855);
    assert!(rows.windows(2).all(|w| w[0].seq == w[1].seq + 1));
}

fn everything(agent: &FakeAgent) -> nm_store::NodeEventsQuery<'_> {
    nm_store::NodeEventsQuery {
        node: agent.node.as_str(),
        container: None,
        docker_id: None,
        before: None,
        limit: 100_000,
    }
}

async fn events_across_kills(database: Database) {
    let (mut plane, agent, api) = fleet(database).await;
    let mut next = 0;
    let mut some = |agent: &FakeAgent| {
        ends(agent, next..next + 20);
        next += 20;
        next
    };
    for round in 0..4 {
        // Asked, and not answered.
        let hold = agent.hold(Ask::Journal, if round % 2 == 0 { When::Before } else { When::After });
        some(&agent);
        hold.reached(1).await;
        plane.kill().await;
        hold.release();
        agent.ready(&plane).await;
        let all = some(&agent);
        assert_eq!(codes(&api, usize::try_from(all).unwrap()).await, (0..all).collect::<Vec<_>>());

        // Answered, and not written.
        let held = plane.hold_writes().await;
        some(&agent);
        let asked = agent.calls(Ask::Journal);
        eventually("it is asked for", async || (agent.calls(Ask::Journal) >= asked).then_some(())).await;
        plane.kill().await;
        drop(held);
        agent.ready(&plane).await;
        // At any moment.
        some(&agent);
        plane.kill().await;
        agent.ready(&plane).await;
        let all = some(&agent);
        assert_eq!(codes(&api, usize::try_from(all).unwrap()).await, (0..all).collect::<Vec<_>>());
    }
}

async fn events_that_are_lost(database: Database) {
    let (plane, agent, api) = fleet(database).await;
    ends(&agent, 0..3);
    assert_eq!(codes(&api, 3).await, [0, 1, 2]);
    agent.take_down();
    agent.is(&plane, NodeStatus::NotReady).await;
    ends(&agent, 3..10);
    agent.forget_events(2);
    agent.mend();
    agent.ready(&plane).await;
    assert_eq!(codes(&api, 6).await, [0, 1, 2, -5, 8, 9]);
    ends(&agent, [10]);
    assert_eq!(codes(&api, 7).await, [0, 1, 2, -5, 8, 9, 10], "said once");

    // Nobody knows how many.
    agent.take_down();
    agent.is(&plane, NodeStatus::NotReady).await;
    agent.lose_journal();
    ends(&agent, [20, 21]);
    agent.mend();
    agent.ready(&plane).await;
    assert_eq!(codes(&api, 10).await, [0, 1, 2, -5, 8, 9, 10, 0, 20, 21]);
    let gap = &all_events(&api, "/api/nodes/alder/events").await[7];
    assert_eq!((gap.kind, gap.detail.count), (Kind::Gap, None));
    assert!(gap.detail.message.as_ref().is_some_and(|m| m.contains("journal")));

    // A refusal is not asked for again and again; the next event is a new reason.
    agent.fail_next(
        Ask::Journal,
        nm_link::contract::AgentError::new(nm_link::contract::AgentErrorCode::Internal, "the disk fails"),
    );
    ends(&agent, [30]);
    ends(&agent, [31]);
    let all = eventually("both are read", async || {
        ends(&agent, [32]);
        Some(codes(&api, 10).await).filter(|all| all.len() > 12)
    })
    .await;
    assert_eq!(all[10..13], [30, 31, 32]);
}

async fn events_go_with_their_node(database: Database) {
    let (plane, agent, api) = fleet(database).await;
    ends(&agent, 0..3);
    codes(&api, 3).await;
    let id = agent.node.clone();
    plane.admin().await.delete("/api/nodes/alder").await.is(200);
    api.get("/api/nodes/alder/events").await.refused(404, "node_not_found");
    let kept: Vec<Value> = plane
        .app()
        .store
        .node_events(everything(&agent))
        .await
        .unwrap()
        .into_iter()
        .map(|e| e.detail)
        .collect();
    assert_eq!((kept, plane.app().store.journal_cursor(id.as_str()).await.unwrap()), (vec![], None));
}
