//! Streams: events, logs, stats, the terminal; who may open them, and when they end.

use crate::{nginx, running};
use nm_link::contract::{AgentError, AgentErrorCode};
use nm_testing::{Ask, Call, Client, Database, Events, FakeAgent, Said, Terminal, TestControlPlane, both, eventually};
use nm_types::auth::{Role, StreamTicket};
use nm_types::container::{ContainerStatus, LogLine, LogStream};
use nm_types::event::Event;
use nm_types::stats::{ContainerStats, Usage};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

both!(events_without_gap, events_that_are_gone, revoked);

async fn fleet(database: Database) -> (TestControlPlane, FakeAgent, Client) {
    let plane = TestControlPlane::start(database).await;
    let agent = FakeAgent::join(&plane, "alder").await;
    let api = plane.operator().await.clone();
    (plane, agent, api)
}

/// The revisions that a reader of events is told of, behind `since`.
async fn told_of(plane: &TestControlPlane, since: i64) -> Vec<i64> {
    let changes = plane.app().store.changes_since(since, 10_000).await.unwrap();
    let is_told = |c: &nm_store::Change| {
        !matches!(
            c.subject,
            nm_store::Subject::Session | nm_store::Subject::Resource(nm_store::Kind::Setting | nm_store::Kind::JoinToken)
        )
    };
    changes.into_iter().filter(is_told).map(|c| c.revision).collect()
}

/// Reads until the event of `revision`.
async fn read_to(events: &mut Events, revision: i64) -> Vec<Event> {
    let mut seen: Vec<Event> = Vec::new();
    while seen.last().is_none_or(|e| e.revision < revision) {
        let event = events.next().await.expect("the stream goes on");
        assert_eq!(event.event, "change");
        let body: Event = event.data();
        assert_eq!(event.id, Some(body.revision));
        seen.push(body);
    }
    seen
}

async fn events_without_gap(database: Database) {
    let (plane, _agent, api) = fleet(database).await;
    let start = plane.app().store.revision().await.unwrap();
    let mut live = api.get("/api/events").events().await.unwrap();
    live.begun().await;
    for n in 0..20 {
        api.create(&running(&format!("web-{n}"))).await;
    }
    api.delete("/api/containers/web-0?force=true").await.is(200);
    let last = *told_of(&plane, start).await.last().unwrap();
    let seen = read_to(&mut live, last).await;
    let wanted: Vec<i64> = told_of(&plane, start).await.into_iter().filter(|r| *r <= last).collect();
    let revisions: Vec<i64> = seen.iter().map(|e| e.revision).collect();
    assert_eq!(revisions, wanted, "each once, in order");
    let has = |kind: &str, what: &str, name: Option<&str>| {
        seen.iter()
            .any(|e| e.kind == kind && e.what == what && (name.is_none() || e.name.as_deref() == name))
    };
    assert!(
        has("container", "created", Some("web-7")) && has("operation", "created", None) && has("container", "deleted", None),
        "{seen:?}"
    );
    assert!(
        seen.iter().any(|e| e.kind == "container" && e.status.as_deref() == Some("running")),
        "{seen:?}"
    );

    // The reader is cut off, things go on, and it comes back with the last it has.
    let have = revisions[revisions.len() / 3];
    drop(live);
    for n in 0..5 {
        api.create(&nginx(&format!("later-{n}"))).await;
    }
    let mut again = api
        .get("/api/events")
        .header("last-event-id", &have.to_string())
        .events()
        .await
        .unwrap();
    again.begun().await;
    api.create(&nginx("last")).await;
    let last = *told_of(&plane, have).await.last().unwrap();
    let seen: Vec<i64> = read_to(&mut again, last).await.into_iter().map(|e| e.revision).collect();
    let wanted: Vec<i64> = told_of(&plane, have).await.into_iter().filter(|r| *r <= last).collect();
    assert_eq!(seen, wanted);

    // Many come back at once, each from another place, while changes go on.
    let readers: Vec<_> = wanted
        .iter()
        .step_by(wanted.len() / 5)
        .map(|from| {
            let (call, from) = (api.get("/api/events").header("last-event-id", &from.to_string()), *from);
            tokio::spawn(async move {
                let mut events = call.events().await.unwrap();
                let mut seen = Vec::new();
                loop {
                    let event = events.next().await.unwrap();
                    seen.push(event.id.unwrap());
                    if event.data::<Event>().name.as_deref() == Some("the-end") {
                        return (from, seen);
                    }
                }
            })
        })
        .collect();
    for n in 0..10 {
        api.create(&nginx(&format!("meanwhile-{n}"))).await;
    }
    api.create(&nginx("the-end")).await;
    for reader in readers {
        let (from, seen) = reader.await.unwrap();
        let wanted: Vec<i64> = told_of(&plane, from)
            .await
            .into_iter()
            .filter(|r| r <= seen.last().unwrap())
            .collect();
        assert_eq!(seen, wanted);
    }
    for bad in ["moon", "", "1.5"] {
        api.get("/api/events")
            .header("last-event-id", bad)
            .await
            .refused(400, "malformed_header");
    }
}

async fn events_that_are_gone(database: Database) {
    let (plane, _agent, api) = fleet(database).await;
    for n in 0..3 {
        api.create(&nginx(&format!("web-{n}"))).await;
    }
    let keep = nm_store::Retention {
        changes: 2,
        ..nm_store::Retention::default()
    };
    let now = nm_testing::TestClock::default();
    plane
        .app()
        .store
        .prune(nm_control::service::clock::Clock::now(&now), keep)
        .await
        .unwrap();
    let gone = api.get("/api/events").header("last-event-id", "1").events().await.unwrap_err();
    let body = gone.refused(410, "events_gone");
    assert!(body.error.contains("Last-Event-ID"), "{body:?}");
    // From here on it goes on as ever.
    let newest = plane.app().store.revision().await.unwrap();
    let mut events = api
        .get("/api/events")
        .header("last-event-id", &newest.to_string())
        .events()
        .await
        .unwrap();
    api.create(&nginx("new")).await;
    events
        .find("the new one", |e| e.data::<Event>().name.as_deref() == Some("new"))
        .await;
}

#[tokio::test]
async fn logs_followed() {
    let (_plane, agent, api) = fleet(Database::sqlite()).await;
    let id = api.create(&running("web")).await.id;
    let id = id.as_str();
    for n in 0..5 {
        agent.writes(id, LogStream::Stdout, &format!("old {n}"));
    }
    let mut events = api.get("/api/containers/web/logs?follow=true&tail=2").events().await.unwrap();
    let mut lines = Vec::new();
    for n in 0..4 {
        if n >= 2 {
            agent.writes(id, LogStream::Stderr, &format!("new \"{n}\" \u{1f980} \\ \t end"));
        }
        let event = events.next().await.unwrap();
        assert_eq!(event.event, "log");
        lines.push(event.data::<LogLine>());
    }
    let texts: Vec<&str> = lines.iter().map(|l| l.line.as_str()).collect();
    assert_eq!(
        texts,
        ["old 3", "old 4", "new \"2\" \u{1f980} \\ \t end", "new \"3\" \u{1f980} \\ \t end"]
    );
    assert_eq!((lines[0].stream, lines[3].stream), (LogStream::Stdout, LogStream::Stderr));
    // As long as it runs.
    agent.docker_set(id, ContainerStatus::Exited);
    assert_eq!(events.rest().await.last().unwrap().event, "end");
    // Of what does not run: what there is, and the end.
    let all = api.get("/api/containers/web/logs?follow=true").events().await.unwrap().rest().await;
    assert_eq!((all.len(), all[7].event.as_str()), (8, "end"));
    api.get("/api/containers/moon/logs?follow=true")
        .await
        .refused(404, "container_not_found");
    agent.fail_next(
        Ask::Logs,
        AgentError::new(AgentErrorCode::DockerUnavailable, "Docker does not answer"),
    );
    api.get("/api/containers/web/logs?follow=true")
        .await
        .refused(503, "docker_unavailable");
}

#[tokio::test]
async fn stats_followed() {
    let (_plane, agent, api) = fleet(Database::sqlite()).await;
    let id = api.create(&running("web")).await.id;
    let mut events = api.get("/api/containers/web/stats?follow=true").events().await.unwrap();
    events.begun().await;
    for n in 1..4 {
        agent.uses(
            id.as_str(),
            Usage {
                cpu: f64::from(n),
                memory: 10.0,
            },
        );
        let event = events.next().await.unwrap();
        let sample: ContainerStats = event.data();
        assert_eq!(
            (event.event.as_str(), sample.cpu, sample.container_id.as_str()),
            ("stats", f64::from(n), id.as_str())
        );
    }
    agent.docker_set(id.as_str(), ContainerStatus::Stopped);
    assert_eq!(events.rest().await.last().unwrap().event, "end");
    // Of others' containers by our id, too.
    agent.docker_run("beside", "redis:7");
    let beside = eventually("it is listed", async || api.containers("managed=false").await.pop()).await;
    agent.uses("beside", Usage { cpu: 5.0, memory: 6.0 });
    let samples: Vec<ContainerStats> = api.get("/api/containers/beside/stats").await.data(200);
    assert_eq!(samples[0].container_id, beside.id.as_str());
}

#[tokio::test]
async fn the_terminal() {
    let (plane, agent, api) = fleet(Database::sqlite()).await;
    api.create(&running("web")).await;
    let mut terminal = api
        .get("/api/containers/web/terminal?command=sh&command=-l&rows=40&cols=120")
        .terminal()
        .await
        .unwrap();
    terminal.until("[\"sh\",\"-l\"] 40x120\r\n").await;
    terminal.send(b"ls -l\n").await;
    terminal.until("ls -l\n").await;
    // Bytes as they are, also what is no text.
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    terminal.send(&bytes).await;
    let mut echoed = Vec::new();
    while echoed.len() < bytes.len() {
        match terminal.next().await {
            Said::Output(data) => echoed.extend_from_slice(&data),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(echoed, bytes);
    terminal.resize(50, 200).await;
    terminal.until("[50x200]").await;
    terminal.send(b"exit 7\n").await;
    assert_eq!((terminal.next().await, terminal.next().await), (Said::Exit(7), Said::Closed));

    let mut terminal = api.get("/api/containers/web/terminal").terminal().await.unwrap();
    terminal.until("[\"sh\"] 24x80").await;
    terminal.end_of_input().await;
    assert_eq!(terminal.next().await, Said::Exit(0));
    for nonsense in [
        json!({ "type": "moon" }),
        json!({ "type": "resize" }),
        json!({ "type": "resize", "rows": -1, "cols": 2 }),
        json!([]),
    ] {
        let mut terminal = api.get("/api/containers/web/terminal").terminal().await.unwrap();
        terminal.until("24x80").await;
        terminal.control(&nonsense).await;
        assert_eq!(
            (terminal.next().await, terminal.next().await),
            (Said::Error("malformed_message".into()), Said::Closed),
            "{nonsense}"
        );
    }
    // The link breaks in the middle.
    let mut terminal = api.get("/api/containers/web/terminal").terminal().await.unwrap();
    terminal.until("24x80").await;
    agent.cut();
    assert_eq!(
        (terminal.next().await, terminal.next().await),
        (Said::Error("node_offline".into()), Said::Closed)
    );
    agent.ready(&plane).await;

    // What is refused is a plain answer.
    let refused = async |call: Call| call.terminal().await.unwrap_err();
    api.get("/api/containers/web/terminal").await.refused(400, "websocket_expected");
    refused(api.get("/api/containers/moon/terminal"))
        .await
        .refused(404, "container_not_found");
    for (query, field) in [
        ("rows=0", "rows"),
        ("cols=1001", "cols"),
        ("rows=x", "rows"),
        ("command=a%00b", "command"),
        ("user=;id", "user"),
        ("nope=1", "nope"),
    ] {
        refused(api.get(format!("/api/containers/web/terminal?{query}"))).await.names(field);
    }
    api.post("/api/containers/web/stop").await.is(200);
    refused(api.get("/api/containers/web/terminal")).await.refused(409, "not_running");
    // Who opened one is in the audit log, and what was typed is not.
    let entries: Vec<Value> = plane.admin().await.get("/api/audit?action=container.terminal").await.data(200);
    assert!(
        entries.len() >= 7
            && entries
                .iter()
                .all(|e| e["actor"] == "olga" && e["detail"] == json!({ "program": "sh" })),
        "{entries:?}"
    );
}

async fn ticket(client: &Client) -> String {
    client.post("/api/auth/tickets").await.data::<StreamTicket>(200).ticket
}

#[tokio::test]
async fn tickets() {
    let (plane, _agent, api) = fleet(Database::sqlite()).await;
    api.create(&running("web")).await;
    let (nobody, viewer) = (plane.anonymous(), plane.viewer().await);
    let streams = [
        "/api/events?",
        "/api/containers/web/logs?follow=true&",
        "/api/containers/web/stats?follow=true&",
    ];
    for stream in streams {
        let one = ticket(viewer).await;
        let path = format!("{stream}ticket={one}");
        nobody.get(&path).events().await.unwrap();
        // Good once.
        nobody.get(&path).events().await.unwrap_err().refused(401, "unauthorized");
    }
    let path = async |client: &Client| format!("/api/containers/web/terminal?ticket={}", ticket(client).await);
    let mut terminal = nobody.get(path(&api).await).terminal().await.unwrap();
    terminal.until("24x80").await;

    // Thirty seconds.
    let late = path(&api).await;
    plane.clock().advance(Duration::from_secs(31));
    nobody.get(late).terminal().await.unwrap_err().refused(401, "unauthorized");
    // A ticket is worth no more than who asked for it.
    nobody
        .get(path(viewer).await)
        .terminal()
        .await
        .unwrap_err()
        .refused(403, "forbidden");
    viewer
        .get("/api/containers/web/terminal")
        .terminal()
        .await
        .unwrap_err()
        .refused(403, "forbidden");
    let narrow = plane.token(Role::Admin, &["images:write"]).await;
    nobody
        .get(path(&narrow).await)
        .terminal()
        .await
        .unwrap_err()
        .refused(403, "forbidden");
    // And worth nothing once that one may no longer come in.
    let session = plane.session(Role::Operator).await;
    let left = path(&session).await;
    session.post("/api/auth/logout").await.is(200);
    nobody.get(left).terminal().await.unwrap_err().refused(401, "unauthorized");

    // Only where there is a stream, and never a token in its place.
    nobody
        .get(format!("/api/containers?ticket={}", ticket(&api).await))
        .await
        .refused(401, "unauthorized");
    for name in ["ticket", "token", "access_token", "authorization"] {
        for stream in streams {
            nobody
                .get(format!("{stream}{name}={}", api.token()))
                .events()
                .await
                .unwrap_err()
                .refused(401, "unauthorized");
        }
        nobody
            .get(format!("/api/containers/web/terminal?{name}={}", api.token()))
            .terminal()
            .await
            .unwrap_err()
            .refused(401, "unauthorized");
    }
    nobody
        .get("/api/events?ticket=")
        .events()
        .await
        .unwrap_err()
        .refused(401, "unauthorized");
    nobody.get("/api/events").events().await.unwrap_err().refused(401, "unauthorized");
    nobody
        .get("/api/containers/web/terminal")
        .terminal()
        .await
        .unwrap_err()
        .refused(401, "unauthorized");

    // A page of another origin is not let in, with whatever it has.
    for origin in ["https://evil.example", "null", "http://127.0.0.1", "http://127.0.0.1.evil.example"] {
        nobody
            .get(path(&api).await)
            .header("origin", origin)
            .terminal()
            .await
            .unwrap_err()
            .refused(403, "forbidden");
        let events = format!("/api/events?ticket={}", ticket(&api).await);
        nobody
            .get(events)
            .header("origin", origin)
            .events()
            .await
            .unwrap_err()
            .refused(403, "forbidden");
    }
    let own = format!("http://{}", nobody.address());
    let mut terminal = nobody.get(path(&api).await).header("origin", &own).terminal().await.unwrap();
    terminal.until("24x80").await;
}

/// Everything a user may have open.
struct Open {
    events: Events,
    logs: Events,
    terminal: Terminal,
}

impl Open {
    async fn with(client: &Client) -> Self {
        let mut events = client.get("/api/events").events().await.unwrap();
        let mut logs = client.get("/api/containers/web/logs?follow=true").events().await.unwrap();
        let mut terminal = client.get("/api/containers/web/terminal").terminal().await.unwrap();
        events.begun().await;
        logs.begun().await;
        terminal.until("24x80").await;
        Self { events, logs, terminal }
    }

    /// All of it ends within five seconds of now.
    async fn end_soon(mut self, why: &str) {
        let began = Instant::now();
        assert_eq!(self.terminal.next().await, Said::Error("unauthorized".into()), "{why}");
        assert_eq!(self.terminal.next().await, Said::Closed, "{why}");
        self.events.rest().await;
        self.logs.rest().await;
        assert!(began.elapsed() < Duration::from_secs(5), "{why} took {:?}", began.elapsed());
    }

    /// None of it has ended: the terminal still answers, and the others tell of what happens now.
    async fn go_on(&mut self, api: &Client, agent: &FakeAgent, mark: &str) {
        self.terminal.send(mark.as_bytes()).await;
        self.terminal.until(mark).await;
        agent.writes("web", LogStream::Stdout, mark);
        self.logs.find("the line", |e| e.data.contains(mark)).await;
        api.create(&nginx(mark)).await;
        self.events.find("the event", |e| e.data.contains(mark)).await;
    }
}

async fn revoked(database: Database) {
    let (plane, agent, api) = fleet(database).await;
    api.create(&running("web")).await;
    let admin = plane.admin().await;
    let make = async |name: &str| {
        let new = json!({ "username": name, "password": "long enough it is", "role": "operator" });
        admin.post("/api/users").json(&new).await.is(201);
        plane.sign_in(name, "long enough it is").await
    };
    let mut bystander = Open::with(&api).await;

    let client = make("leaves").await;
    let open = Open::with(&client).await;
    client.post("/api/auth/logout").await.is(200);
    open.end_soon("signing out").await;
    client.get("/api/auth/me").await.refused(401, "unauthorized");

    let (client, other) = (make("resets").await, plane.sign_in("resets", "long enough it is").await);
    let open = Open::with(&other).await;
    let change = json!({ "currentPassword": "long enough it is", "newPassword": "another one, also long" });
    client.post("/api/auth/password").json(&change).await.is(200);
    open.end_soon("a changed password, in the other sessions").await;

    for (name, change) in [
        ("disabled", json!({ "disabled": true })),
        ("demoted", json!({ "role": "viewer" })),
        ("reset", json!({ "password": "another one, also long" })),
    ] {
        let client = make(name).await;
        let open = Open::with(&client).await;
        admin.patch(format!("/api/users/{name}")).json(&change).await.is(200);
        open.end_soon(name).await;
    }
    let client = make("deleted").await;
    let open = Open::with(&client).await;
    admin.delete("/api/users/deleted").await.is(200);
    open.end_soon("being deleted").await;

    let token = plane.token(Role::Operator, &[]).await;
    let open = Open::with(&token).await;
    admin.delete("/api/tokens/test").await.is(200);
    open.end_soon("a deleted token").await;
    token.get("/api/auth/me").await.refused(401, "unauthorized");

    // Nobody else's ended.
    bystander.go_on(&api, &agent, "still-here").await;
    // An access token's end is not its session's; a week without use is.
    plane.clock().advance(Duration::from_secs(3600));
    api.get("/api/auth/me").await.refused(401, "unauthorized");
    let fresh = plane.session(Role::Operator).await;
    bystander.go_on(&fresh, &agent, "after-an-hour").await;
    plane.clock().advance(Duration::from_secs(8 * 24 * 3600));
    bystander.end_soon("a session's end").await;
}

#[tokio::test]
async fn twenty_streams_a_user() {
    let (plane, agent, api) = fleet(Database::sqlite()).await;
    api.create(&running("web")).await;
    // However they come: by two sessions of one user, of every kind.
    let other = plane.session(Role::Operator).await;
    let mut events = Vec::new();
    for n in 0..19 {
        let (client, path) = [
            (&api, "/api/events"),
            (&other, "/api/containers/web/logs?follow=true"),
            (&api, "/api/containers/web/stats?follow=true"),
        ][n % 3];
        events.push(client.get(path).events().await.unwrap());
    }
    let mut terminal = api.get("/api/containers/web/terminal").terminal().await.unwrap();
    terminal.until("24x80").await;
    let asked = agent.calls(Ask::Terminal);
    for client in [&api, &other] {
        client
            .get("/api/events")
            .events()
            .await
            .unwrap_err()
            .refused(429, "too_many_requests");
        client
            .get("/api/containers/web/terminal")
            .terminal()
            .await
            .unwrap_err()
            .refused(429, "too_many_requests");
    }
    assert_eq!(agent.calls(Ask::Terminal), asked, "the node was not bothered");
    // Others have their own, and one that ends makes room.
    let _theirs = plane.viewer().await.get("/api/events").events().await.unwrap();
    drop(terminal);
    let last = eventually("there is room again", async || api.get("/api/events").events().await.ok()).await;
    api.get("/api/events").events().await.unwrap_err().refused(429, "too_many_requests");
    drop((last, events));
    eventually("and for twenty more", async || {
        let mut open = Vec::new();
        for _ in 0..20 {
            open.push(api.get("/api/events").events().await.ok()?);
        }
        Some(open)
    })
    .await;
}

/// A control plane that stops lets go of streams at once, and of nothing else.
#[tokio::test]
async fn stopping_ends_streams() {
    let (mut plane, _agent, api) = fleet(Database::sqlite()).await;
    api.create(&running("web")).await;
    let mut events = api.get("/api/events").events().await.unwrap();
    events.begun().await;
    let mut terminal = api.get("/api/containers/web/terminal").terminal().await.unwrap();
    terminal.until("24x80").await;
    let began = Instant::now();
    plane.restart().await;
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    events.rest().await;
    assert_eq!(terminal.next().await, Said::Error("stopping".into()));
    api.get("/api/containers/web").await.is(200);
}
