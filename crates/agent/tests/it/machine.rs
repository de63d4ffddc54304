//! The machine itself, and the journal of what happened on it.

use crate::support::{Lines, Rig, docker, need_docker};
use axum::body::Body;
use http::{Method, StatusCode};
use nm_link::contract::{Action, JournalEnd, JournalEvent, JournalPage, WatchEvent, path};
use nm_types::container::ContainerHealth;
use nm_types::host::NodeStats;
use nm_types::node_event::NodeEventKind as Kind;
use nm_waits::eventually;
use serde_json::json;
use std::path::Path;

#[tokio::test]
async fn the_machine_is_measured() {
    let rig = Rig::start_on(Path::new("/nowhere.sock"), tempfile::tempdir().unwrap()).await;
    let mut watch = rig.watch().await;
    // Asked at once, it waits for the first second.
    let seen: NodeStats = rig.get(path::HOST).await.unwrap();
    assert!((0.0..=100.0).contains(&seen.cpu), "{seen:?}");
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
    let total: u64 = meminfo.lines().next().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap();
    assert_eq!(seen.memory.total, total << 10);
    assert!(seen.memory.available > 0 && seen.uptime > 0 && seen.load.iter().all(|l| *l >= 0.0));
    assert_eq!(seen.pressure.is_some(), std::fs::read("/proc/pressure/cpu").is_ok());
    // As `df` has it.
    let df = tokio::process::Command::new("df")
        .args(["--output=size,iused", "-B1", "/"])
        .output()
        .await
        .unwrap();
    let df = String::from_utf8(df.stdout).unwrap();
    let size: u64 = df.lines().nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap();
    if let Some(root) = seen.disks.first().filter(|d| d.mount == "/") {
        assert_eq!(root.total, size);
        assert!(root.used > 0 && root.available > 0 && root.inodes_used > 0);
    }
    let told = watch
        .find("what the machine uses", |e| match e {
            WatchEvent::Host { stats } => Some(stats),
            _ => None,
        })
        .await;
    assert_eq!(told.memory.total, seen.memory.total);
    // Who comes later is told at once.
    let mut second = rig.watch().await;
    second
        .find("the same", |e| matches!(e, WatchEvent::Host { .. }).then_some(()))
        .await;

    let (status, body) = rig.send(Method::GET, path::HOST_STATS_STREAM, Body::empty()).await;
    assert_eq!(status, StatusCode::OK);
    let mut lines = Lines::new(body);
    let (a, b): (NodeStats, NodeStats) = (lines.next().await.unwrap(), lines.next().await.unwrap());
    assert!((500..5000).contains(&b.timestamp.since(a.timestamp)), "{a:?} {b:?}");
    assert!(b.network.rx >= a.network.rx && b.uptime >= a.uptime);
    let seconds: Vec<NodeStats> = rig.get(&format!("{}?limit=2", path::HOST_STATS)).await.unwrap();
    assert_eq!(seconds.len(), 2);
    assert!(seconds[1].timestamp >= b.timestamp);

    // A minute is kept when the agent ends, and shown by the next one.
    let rig = rig.restarted().await;
    let minutes: Vec<NodeStats> = rig.get(&format!("{}?limit=10&resolution=minute", path::HOST_STATS)).await.unwrap();
    assert!(!minutes.is_empty() && minutes[0].memory.total == seen.memory.total);
}

async fn page(rig: &Rig, journal: i64, after: i64) -> JournalPage {
    let query = format!("{}?journal={journal}&after={after}&limit=1000", path::JOURNAL);
    rig.get(&query).await.unwrap()
}

/// What the journal says of a container, once it has told of `last`.
async fn of(rig: &Rig, docker_id: &str, last: Kind) -> Vec<JournalEvent> {
    eventually(&format!("{last:?} in the journal"), || async {
        let mut events = page(rig, 0, 0).await.events;
        events.retain(|e| e.docker_id.as_deref() == Some(docker_id));
        events.iter().any(|e| e.kind == last).then_some(events)
    })
    .await
}

fn kinds(events: &[JournalEvent]) -> Vec<Kind> {
    events.iter().map(|e| e.kind).collect()
}

#[tokio::test]
async fn a_containers_life_is_told() {
    need_docker!();
    let rig = Rig::start().await;
    let mut watch = rig.watch().await;
    let begun = watch
        .find("the journal's end", |e| match e {
            WatchEvent::Journal(end) if end.last > 0 => Some(end),
            _ => None,
        })
        .await;
    let first = page(&rig, 0, 0).await;
    assert_eq!((first.events[0].seq, first.events[0].kind), (1, Kind::AgentStarted));

    let check = json!({"healthCheck": {"command": ["test", "-e", "/tmp/well"], "interval": 1, "retries": 1}});
    let (request, seen) = rig.sh("life", "trap 'exit 3' TERM; sleep 1000 & wait", check).await;
    let id = seen.docker_id.as_str();
    of(&rig, id, Kind::Health).await;
    docker(&["exec", id, "touch", "/tmp/well"]).await;
    eventually("healthy", || async {
        let events = of(&rig, id, Kind::Health).await;
        let healths = events.iter().filter_map(|e| e.detail.health).collect::<Vec<_>>();
        (healths == [ContainerHealth::Unhealthy, ContainerHealth::Healthy]).then_some(())
    })
    .await;
    rig.command(request.id.as_str(), 1, Action::Stop { grace: Some(10) }).await.unwrap();
    docker(&["rm", id]).await;
    let events = of(&rig, id, Kind::Removed).await;
    assert_eq!(
        kinds(&events),
        [Kind::Created, Kind::Started, Kind::Health, Kind::Health, Kind::Died, Kind::Removed]
    );
    assert_eq!(events[4].detail.exit_code, Some(3));
    assert!(
        events
            .iter()
            .all(|e| e.id.as_ref() == Some(&request.id) && e.name.as_deref() == Some(rig.name("life").as_str()))
    );
    assert!(events.windows(2).all(|w| w[0].seq < w[1].seq && w[0].time <= w[1].time));
    // Whoever watches hears that there is more.
    let end = watch
        .find("that it grew", |e| match e {
            WatchEvent::Journal(end) if end.last >= events[5].seq => Some(end),
            _ => None,
        })
        .await;
    assert_eq!(end.journal, begun.journal);
    let JournalEnd { journal, last } = end;
    assert!(page(&rig, journal, last - 1).await.events.iter().all(|e| e.seq >= last));
    assert_eq!(
        page(&rig, journal + 1, last).await.events[0].seq,
        1,
        "another journal's numbers are not this one's"
    );
}

#[tokio::test]
async fn what_happens_while_the_agent_is_away_is_told_once() {
    need_docker!();
    let rig = Rig::start().await;
    let (_, stays) = rig.sh("stays", "sleep 1000", json!({})).await;
    let (_, dies) = rig.sh("dies", "sleep 1000", json!({})).await;
    let foreign = rig.run_foreign("goes", &[], &["sleep", "1000"]).await;
    for id in [&stays.docker_id, &dies.docker_id, &foreign] {
        of(&rig, id, Kind::Started).await;
    }
    let before = page(&rig, 0, 0).await;
    let name = rig.name("new");
    // It stops, things happen, and it starts again.
    let label = format!("nmtest={}", rig.mark);
    let (rig, new) = rig
        .restarted_after(async {
            docker(&["kill", &dies.docker_id]).await;
            docker(&["rm", "-f", &foreign]).await;
            docker(&[
                "run",
                "-d",
                "--name",
                &name,
                "--label",
                &label,
                "busybox:latest",
                "sh",
                "-c",
                "exit 7",
            ])
            .await
        })
        .await;
    let life = of(&rig, &new, Kind::Died).await;
    assert_eq!(
        (kinds(&life), life[2].detail.exit_code),
        (vec![Kind::Created, Kind::Started, Kind::Died], Some(7))
    );
    assert_eq!(kinds(&of(&rig, &foreign, Kind::Removed).await)[2..], [Kind::Died, Kind::Removed]);
    let died = of(&rig, &dies.docker_id, Kind::Died).await;
    assert_eq!(
        (kinds(&died), died[2].detail.exit_code),
        (vec![Kind::Created, Kind::Started, Kind::Died], Some(137))
    );
    assert_eq!(
        kinds(&of(&rig, &stays.docker_id, Kind::Started).await),
        [Kind::Created, Kind::Started]
    );

    // The numbers go on, and what was told is as it was.
    let after = page(&rig, before.end.journal, 0).await;
    assert_eq!(after.end.journal, before.end.journal);
    assert_eq!(after.events[..before.events.len()], before.events);
    let numbers: Vec<i64> = after.events.iter().map(|e| e.seq).collect();
    assert_eq!(numbers, (1..=after.end.last).collect::<Vec<_>>());
    let starts = after.events.iter().filter(|e| e.kind == Kind::AgentStarted).count();
    assert_eq!(starts, 2);
    // A further restart repeats nothing of it.
    let rig = rig.restarted().await;
    eventually("the third start", || async {
        let events = page(&rig, 0, 0).await.events;
        (events.iter().filter(|e| e.kind == Kind::AgentStarted).count() == 3).then_some(())
    })
    .await;
    rig.watch()
        .await
        .find("everything", |e| matches!(e, WatchEvent::Snapshot { .. }).then_some(()))
        .await;
    let ours: Vec<String> = [&stays.docker_id, &dies.docker_id, &foreign, &new].map(Clone::clone).into();
    let mine = |events: Vec<JournalEvent>| {
        let mine = events
            .into_iter()
            .filter(|e| e.docker_id.as_ref().is_some_and(|d| ours.contains(d)));
        mine.collect::<Vec<_>>()
    };
    assert_eq!(mine(page(&rig, 0, 0).await.events), mine(after.events));
}

#[tokio::test]
async fn an_engine_that_is_away_is_told_once() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::start_on(Path::new("/nowhere.sock"), dir).await;
    let engine = |events: Vec<JournalEvent>| events.into_iter().filter(|e| e.kind == Kind::EngineDown).collect::<Vec<_>>();
    let down = eventually("its absence", || async {
        let down = engine(page(&rig, 0, 0).await.events);
        (!down.is_empty()).then_some(down)
    })
    .await;
    assert!(
        down[0].detail.message.as_ref().is_some_and(|m| m.contains("nowhere.sock")),
        "{down:?}"
    );
    // It tries again and again, and the agent starts again: it is no news.
    let (rig, ()) = rig.restarted_on(Path::new("/nowhere.sock"), async {}).await;
    rig.watch()
        .await
        .find("its absence", |e| {
            matches!(e, WatchEvent::Docker { docker } if !docker.available).then_some(())
        })
        .await;
    assert_eq!(engine(page(&rig, 0, 0).await.events).len(), 1);
}
