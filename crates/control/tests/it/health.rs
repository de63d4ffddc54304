//! The specification's health chapter: each of the five checks of each kind of server fails and passes again, at once where
//! something happened, and everything says what it saw.

use crate::{nginx, running};
use nm_testing::{Ask, Client, FakeAgent, TestControlPlane, eventually};
use nm_types::auth::{AuditEntryView, Role};
use nm_types::container::{ContainerHealth, ContainerStatus};
use nm_types::health::{Check, HealthConfig, HealthSettings, HealthStatus, HealthView};
use nm_types::server::ServerKind;
use nm_types::stats::Usage;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

pub const HEALTH: &str = "/api/capabilities/health";

pub async fn check(api: &Client, key: &str) -> HealthView {
    api.post(format!("{HEALTH}/{key}/check")).await.data(200)
}

pub async fn health(api: &Client, key: &str) -> HealthView {
    api.get(format!("{HEALTH}/{key}")).await.data(200)
}

/// Waits until a server is found so by itself, nobody asking for a check.
pub async fn becomes(api: &Client, key: &str, status: HealthStatus, failed: &[Check]) -> HealthView {
    eventually(&format!("{key} is {} with {failed:?}", status.as_str()), async || {
        let view = health(api, key).await;
        (view.status == status && view.last_check.is_some() && view.checks.failed() == failed).then_some(view)
    })
    .await
}

/// What a check says where it failed: what it saw, and what it may be.
pub fn says(view: &HealthView, check: Check, measured: &str, limit: &str) {
    let failed = view.details.iter().find(|d| d.check == check && !d.ok);
    let failed = failed.unwrap_or_else(|| panic!("{check:?} did not fail: {view:?}"));
    assert!(
        failed.measured.contains(measured) && failed.limit.contains(limit) && !failed.message.is_empty(),
        "{failed:?}"
    );
}

async fn fleet() -> (TestControlPlane, FakeAgent, Client) {
    let plane = TestControlPlane::sqlite().await;
    let agent = FakeAgent::join(&plane, "alder").await;
    let api = plane.operator().await.clone();
    (plane, agent, api)
}

/// Checked only when somebody asks, so that each check of a test is its own.
async fn only_on_demand(api: &Client, key: &str) {
    api.put(format!("{HEALTH}/{key}/config"))
        .json(&json!({ "enabled": false }))
        .await
        .is(200);
    eventually("it is no longer checked by itself", async || {
        (!health(api, key).await.checked).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_specifications_requests() {
    let plane = TestControlPlane::sqlite().await;
    let agent = FakeAgent::join(&plane, "server_123").await;
    let api = plane.operator().await.clone();
    becomes(&api, "server_123", HealthStatus::Healthy, &[]).await;
    let reply = api.post(format!("{HEALTH}/server_123/check")).await.is(200).json();
    let data = &reply["data"];
    assert_eq!(data["serverId"], agent.node.as_str());
    assert_eq!(data["status"], "healthy");
    let last = data["lastCheck"].as_str().unwrap();
    assert!(last.ends_with('Z') && last.len() == "2026-02-03T02:30:00.000Z".len(), "{last}");
    assert_eq!(
        data["checks"],
        json!({ "cpu": true, "memory": true, "disk": true, "network": true, "services": true })
    );
    assert_eq!(data["uptime"], 2_592_000);
    assert!(data["responseTime"].as_f64().is_some_and(|ms| ms > 0.0), "{data}");
    assert!(reply["message"].as_str().is_some_and(|m| m.contains("healthy")), "{reply}");

    let list = api.get(HEALTH).await.is(200).json();
    assert_eq!((list["count"].as_u64(), &list["data"][0]["serverId"]), (Some(1), &data["serverId"]));
    let one = api.get(format!("{HEALTH}/{}", agent.node)).await.is(200).json();
    for field in ["serverId", "status", "lastCheck", "checks", "responseTime", "details", "since"] {
        assert_eq!(one["data"][field], data[field], "{field}");
        assert_eq!(list["data"][0][field], data[field], "{field}");
    }
    api.post(format!("{HEALTH}/moon/check")).await.refused(404, "server_not_found");
    api.get(format!("{HEALTH}/moon")).await.refused(404, "server_not_found");
}

#[tokio::test]
async fn never_checked_is_unknown() {
    let (_plane, agent, api) = fleet().await;
    let id = api.create(&nginx("idle")).await.id;
    let view = health(&api, id.as_str()).await;
    assert_eq!((view.status, view.degraded, view.checked), (HealthStatus::Unknown, false, false));
    assert_eq!((view.last_check, view.response_time, view.since), (None, None, None));
    assert!(view.details.len() == 5 && view.details.iter().all(|d| d.message.contains("not checked yet")));
    let listed: Vec<HealthView> = api.get(HEALTH).await.data(200);
    assert_eq!(
        listed.iter().map(|v| v.server_id.as_str()).collect::<Vec<_>>(),
        [agent.node.as_str()]
    );
}

#[tokio::test]
async fn a_nodes_machine() {
    let (_plane, agent, api) = fleet().await;
    only_on_demand(&api, "alder").await;
    agent.machine(|s| s.cpu = 97.3);
    for _ in 0..2 {
        assert!(check(&api, "alder").await.checks.cpu, "busy for a moment");
    }
    let view = check(&api, "alder").await;
    assert_eq!(
        (view.status, view.degraded, view.checks.failed()),
        (HealthStatus::Unknown, true, vec![Check::Cpu])
    );
    says(&view, Check::Cpu, "97.3 %", "under 85 %");
    agent.machine(|s| s.cpu = 90.0);
    assert!(!check(&api, "alder").await.checks.cpu, "not under the limit for recovering");
    agent.machine(|s| s.cpu = 10.0);
    assert_eq!(check(&api, "alder").await.status, HealthStatus::Healthy);

    agent.machine(|s| s.memory.available = s.memory.total / 25);
    says(&check(&api, "alder").await, Check::Memory, "4 %", "over 10 %");
    agent.machine(|s| s.memory.available = s.memory.total * 3 / 40);
    assert!(!check(&api, "alder").await.checks.memory);
    agent.machine(|s| s.memory.available = s.memory.total / 2);
    assert_eq!(check(&api, "alder").await.status, HealthStatus::Healthy);

    agent.machine(|s| (s.disks[0].used, s.disks[0].available) = (93, 7));
    says(&check(&api, "alder").await, Check::Disk, "93 %", "under 87 %");
    agent.machine(|s| (s.disks[0].used, s.disks[0].available) = (80, 20));
    assert_eq!(check(&api, "alder").await.status, HealthStatus::Healthy);
    agent.machine(|s| s.disks[0].inodes_used = s.disks[0].inodes);
    says(&check(&api, "alder").await, Check::Disk, "100 %", "under 87 %");
    agent.machine(|s| s.disks[0].inodes_used = 0);
    assert_eq!(check(&api, "alder").await.status, HealthStatus::Healthy);

    agent.machine(|s| (s.network.packets, s.network.errors) = (s.network.packets + 1000, s.network.errors + 20));
    says(&check(&api, "alder").await, Check::Network, "2 %", "under 0.5 %");
    agent.machine(|s| s.network.packets += 1000);
    assert_eq!(check(&api, "alder").await.status, HealthStatus::Healthy);
    agent.latency(Duration::from_millis(1050));
    let view = check(&api, "alder").await;
    says(&view, Check::Network, " ms", "under 500 ms");
    assert!(view.response_time.is_some_and(|ms| ms >= 1050.0), "{view:?}");
    agent.latency(Duration::ZERO);
    assert_eq!(check(&api, "alder").await.status, HealthStatus::Healthy);

    // Three failed checks are one too many.
    agent.machine(|s| {
        s.memory.available = 0;
        (s.disks[0].used, s.disks[0].available) = (99, 1);
        (s.network.packets, s.network.errors) = (s.network.packets + 1000, s.network.errors + 500);
    });
    let view = check(&api, "alder").await;
    assert_eq!((view.status, view.degraded), (HealthStatus::Unhealthy, false));
    assert_eq!(view.checks.failed(), [Check::Memory, Check::Disk, Check::Network]);
    // Of an agent that can't tell, that is said.
    let error = nm_link::contract::AgentError::new(nm_link::contract::AgentErrorCode::Internal, "no /proc here");
    agent.fail_next(Ask::Host, error);
    let view = check(&api, "alder").await;
    assert_eq!(view.status, HealthStatus::Unhealthy);
    assert!(view.details.iter().any(|d| d.message == "not measured: no /proc here"), "{view:?}");
}

#[tokio::test]
async fn a_nodes_services() {
    let (_plane, agent, api) = fleet().await;
    becomes(&api, "alder", HealthStatus::Healthy, &[]).await;
    agent.docker_available(false);
    let view = becomes(&api, "alder", HealthStatus::Unknown, &[Check::Services]).await;
    assert!(view.degraded);
    says(&view, Check::Services, "no answer", "answers");
    agent.docker_available(true);
    becomes(&api, "alder", HealthStatus::Healthy, &[]).await;

    let id = api.create(&running("web")).await.id;
    check(&api, "alder").await;
    agent.docker_set(id.as_str(), ContainerStatus::Exited);
    api.until("web", ContainerStatus::Exited).await;
    let view = check(&api, "alder").await;
    says(&view, Check::Services, "0 of 1 run", "all 1");
    assert!(view.details.iter().any(|d| d.message.contains("web")), "{view:?}");
    agent.docker_set(id.as_str(), ContainerStatus::Running);
    api.until("web", ContainerStatus::Running).await;
    assert_eq!(check(&api, "alder").await.status, HealthStatus::Healthy);
    // What was stopped on purpose is not missed.
    api.post("/api/containers/web/stop").await.is(200);
    assert_eq!(check(&api, "alder").await.status, HealthStatus::Healthy);
}

#[tokio::test]
async fn a_node_that_is_cut_off() {
    let (_plane, agent, api) = fleet().await;
    let id = api.create(&running("web")).await.id;
    becomes(&api, "alder", HealthStatus::Healthy, &[]).await;
    becomes(&api, id.as_str(), HealthStatus::Healthy, &[]).await;
    let began = Instant::now();
    agent.take_down();
    for key in ["alder", "web"] {
        let view = becomes(&api, key, HealthStatus::Unhealthy, &Check::ALL).await;
        says(&view, Check::Network, "not reachable", "reachable");
        says(&view, Check::Cpu, "not measured", "");
        assert_eq!((view.uptime, view.response_time), (0, None), "{view:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    // Asked for, it is an answer and no error.
    assert_eq!(check(&api, "alder").await.status, HealthStatus::Unhealthy);
    assert_eq!(check(&api, "web").await.status, HealthStatus::Unhealthy);
    agent.mend();
    becomes(&api, "alder", HealthStatus::Healthy, &[]).await;
    becomes(&api, "web", HealthStatus::Healthy, &[]).await;
}

#[tokio::test]
async fn a_node_that_is_connected_and_does_not_answer() {
    let (_plane, agent, api) = fleet().await;
    only_on_demand(&api, "alder").await;
    let held = agent.hold(Ask::Host, nm_testing::When::Before);
    let view = check(&api, "alder").await;
    assert_eq!((view.status, view.checks.failed().len()), (HealthStatus::Unhealthy, 5));
    assert!(view.details.iter().any(|d| d.message.contains("does not answer")), "{view:?}");
    held.release();
    assert_eq!(check(&api, "alder").await.status, HealthStatus::Healthy);
}

#[tokio::test]
async fn a_container() {
    let (_plane, agent, api) = fleet().await;
    let spec = json!({ "name": "web", "image": "nginx", "start": true, "cpuLimit": 2, "memoryLimit": "100m" });
    let id = api.create(&spec).await.id;
    let id = id.as_str();
    agent.machine(|_| {});
    let view = becomes(&api, "web", HealthStatus::Healthy, &[]).await;
    assert_eq!(
        (view.kind, view.node_id.as_ref(), view.checked),
        (ServerKind::Container, Some(&agent.node), true)
    );
    only_on_demand(&api, "web").await;

    // Of its own limit, not of the machine.
    agent.uses(id, Usage { cpu: 190.0, memory: 50.0 });
    for _ in 0..2 {
        assert!(check(&api, "web").await.checks.cpu);
    }
    // Two cores, of which 199 % are used.
    agent.uses(id, Usage { cpu: 199.0, memory: 96.0 });
    let view = check(&api, "web").await;
    assert_eq!(view.checks.failed(), [Check::Cpu, Check::Memory]);
    says(&view, Check::Cpu, "99.5 %", "under 85 %");
    says(&view, Check::Memory, "4 %", "over 10 %");
    agent.uses(id, Usage { cpu: 10.0, memory: 50.0 });
    assert_eq!(check(&api, "web").await.status, HealthStatus::Healthy);

    agent.machine(|s| (s.disks[0].used, s.disks[0].available) = (95, 5));
    eventually("its node's disk counts", async || {
        let view = check(&api, "web").await;
        (view.checks.failed() == [Check::Disk]).then_some(())
    })
    .await;
    agent.machine(|s| (s.disks[0].used, s.disks[0].available) = (5, 95));
    eventually("its node's disk has room", async || {
        (check(&api, "web").await.checks.disk).then_some(())
    })
    .await;

    agent.docker_health(id, ContainerHealth::Unhealthy);
    eventually("its own health check counts", async || {
        let view = check(&api, "web").await;
        (view.checks.failed() == [Check::Services]).then(|| says(&view, Check::Services, "unhealthy", "not unhealthy"))
    })
    .await;
    agent.docker_health(id, ContainerHealth::Healthy);
    eventually("its own health check passes", async || {
        (check(&api, "web").await.checks.services).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_container_that_ends_is_seen_at_once() {
    let (_plane, agent, api) = fleet().await;
    let id = api.create(&running("web")).await.id;
    becomes(&api, "web", HealthStatus::Healthy, &[]).await;
    let began = Instant::now();
    agent.docker_set(id.as_str(), ContainerStatus::Exited);
    let view = becomes(&api, "web", HealthStatus::Unhealthy, &[Check::Cpu, Check::Memory, Check::Services]).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    says(&view, Check::Services, "exited", "running");
    assert_eq!(view.uptime, 0);
    agent.docker_set(id.as_str(), ContainerStatus::Running);
    becomes(&api, "web", HealthStatus::Healthy, &[]).await;
    // One that is not meant to run is nobody's to check.
    api.post("/api/containers/web/stop").await.is(200);
    eventually("it is no longer checked", async || {
        let view = health(&api, "web").await;
        (!view.checked && view.status == HealthStatus::Unknown).then_some(())
    })
    .await;
    api.post("/api/containers/web/start").await.is(200);
    becomes(&api, "web", HealthStatus::Healthy, &[]).await;
    api.delete("/api/containers/web?force=true").await.is(200);
    eventually("nothing of it is left", async || {
        let listed: Vec<HealthView> = api.get(format!("{HEALTH}?kind=container")).await.data(200);
        listed.is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn probes_of_nodes_and_containers() {
    let (plane, agent, api) = fleet().await;
    let admin = plane.admin().await;
    let id = api.create(&running("web")).await.id;
    let of_node = json!({ "probes": [
        { "name": "ssh", "type": "tcp", "port": 22 },
        { "name": "inside", "type": "command", "container": "web", "command": ["redis-cli", "-a", "hunter2-hunter2"] },
        { "name": "cron", "type": "systemd", "unit": "cron.service" },
    ] });
    let config = format!("{HEALTH}/alder/config");
    // They reach the machine itself.
    api.put(&config).json(&of_node).await.refused(403, "forbidden");
    let set: HealthConfig = admin.put(&config).json(&of_node).await.data(200);
    assert_eq!(set.probes.len(), 3);
    eventually("the agent runs them", async || (agent.last_probes().len() == 3).then_some(())).await;
    let asked = agent.last_probes();
    let aims: Vec<Option<&str>> = asked.iter().map(|p| p.container.as_deref()).collect();
    assert_eq!(aims, [None, Some(id.as_str()), None]);
    becomes(&api, "alder", HealthStatus::Healthy, &[]).await;
    agent.probe("cron", false);
    let view = check(&api, "alder").await;
    assert_eq!(view.checks.failed(), [Check::Services]);
    assert!(view.details.iter().any(|d| d.message.starts_with("cron: ")), "{view:?}");
    agent.probe("cron", true);
    assert_eq!(check(&api, "alder").await.status, HealthStatus::Healthy);
    // The container is gone, and the probe in it fails.
    api.delete("/api/containers/web?force=true").await.is(200);
    let view = check(&api, "alder").await;
    assert!(view.details.iter().any(|d| d.message.contains("no container `web`")), "{view:?}");
    admin.put(&config).json(&json!({})).await.is(200);
    assert_eq!(check(&api, "alder").await.status, HealthStatus::Healthy);

    let id = api.create(&running("db")).await.id;
    let of_container = json!({ "interval": 10, "probes": [{ "name": "sql", "type": "command", "command": ["true"] }] });
    api.put(format!("{HEALTH}/db/config")).json(&of_container).await.is(200);
    agent.probe("sql", false);
    eventually("the container's probe fails", async || {
        (check(&api, "db").await.checks.failed() == [Check::Services]).then_some(())
    })
    .await;
    assert_eq!(agent.last_probes()[0].container.as_deref(), Some(id.as_str()));
    // A token that may not run commands in containers may not have them run either.
    let token = plane.token(Role::Operator, &["health:write"]).await;
    token
        .put(format!("{HEALTH}/db/config"))
        .json(&of_container)
        .await
        .refused(403, "forbidden");
    token
        .put(format!("{HEALTH}/db/config"))
        .json(&json!({ "interval": 20 }))
        .await
        .is(200);

    // What a command is given may be secret: viewers do not see it, and the log does not keep it.
    plane.viewer().await.get(&config).await.refused(403, "forbidden");
    let entries: Vec<AuditEntryView> = admin.get("/api/audit?action=health.config").await.data(200);
    assert!(entries.len() >= 3 && !serde_json::to_string(&entries).unwrap().contains("hunter2"));
}

#[tokio::test]
async fn what_can_not_be_configured() {
    let (plane, _agent, api) = fleet().await;
    let admin = plane.admin().await;
    api.create(&nginx("web")).await;
    let probe = |probe: Value| json!({ "probes": [probe] });
    for (key, body, field) in [
        ("alder", json!({ "interval": 9 }), "interval"),
        ("alder", json!({ "interval": 301 }), "interval"),
        ("alder", json!({ "enabled": "no" }), "enabled"),
        (
            "alder",
            json!({ "thresholds": { "cpu": { "fail": 101, "recover": 1 } } }),
            "thresholds.cpu.fail",
        ),
        ("alder", json!({ "thresholds": { "cpuChecks": 0 } }), "thresholds.cpuChecks"),
        ("alder", json!({ "thresholds": { "gpu": 1 } }), "thresholds.gpu"),
        ("alder", probe(json!({ "name": "a", "type": "icmp" })), "probes[0].type"),
        ("alder", probe(json!({ "name": "a;b", "type": "tcp", "port": 1 })), "probes[0].name"),
        ("alder", probe(json!({ "name": "a", "type": "tcp" })), "probes[0].port"),
        (
            "alder",
            probe(json!({ "name": "a", "type": "tcp", "port": 70000 })),
            "probes[0].port",
        ),
        (
            "alder",
            probe(json!({ "name": "a", "type": "http", "port": 1, "path": "/\r\n" })),
            "probes[0].path",
        ),
        (
            "alder",
            probe(json!({ "name": "a", "type": "systemd", "unit": "--now" })),
            "probes[0].unit",
        ),
        (
            "alder",
            probe(json!({ "name": "a", "type": "tcp", "port": 1, "timeout": 60 })),
            "probes[0].timeout",
        ),
        ("web", json!({ "nope": 1 }), "nope"),
    ] {
        admin.put(format!("{HEALTH}/{key}/config")).json(&body).await.names(field);
    }
    // Each field could be taken, but not on this server, or not beside another field.
    for (key, body, field) in [
        (
            "alder",
            json!({ "thresholds": { "cpu": { "fail": 80, "recover": 90 } } }),
            "thresholds.cpu.recover",
        ),
        (
            "alder",
            json!({ "thresholds": { "memory": { "fail": 9, "recover": 5 } } }),
            "thresholds.memory.recover",
        ),
        (
            "alder",
            probe(json!({ "name": "a", "type": "command", "command": ["true"] })),
            "probes[0].container",
        ),
        (
            "alder",
            probe(json!({ "name": "a", "type": "command", "command": ["true"], "container": "moon" })),
            "probes[0].container",
        ),
        (
            "web",
            probe(json!({ "name": "a", "type": "systemd", "unit": "x" })),
            "probes[0].type",
        ),
    ] {
        admin.put(format!("{HEALTH}/{key}/config")).json(&body).await.clashes(field);
    }
    for (body, field) in [
        (json!({ "interval": 5 }), "interval"),
        (
            json!({ "thresholds": { "roundTrip": { "fail": 0, "recover": 0 } } }),
            "thresholds.roundTrip.fail",
        ),
        (json!({ "probes": [] }), "probes"),
        // An array is no object, whatever it holds.
        (json!({ "thresholds": [null, null] }), "thresholds"),
        (json!({ "thresholds": { "disk": [90, 80] } }), "thresholds.disk"),
    ] {
        admin.patch(format!("{HEALTH}/settings")).json(&body).await.names(field);
    }
    let flapping = json!({ "thresholds": { "disk": { "fail": 50, "recover": 60 } } });
    admin
        .patch(format!("{HEALTH}/settings"))
        .json(&flapping)
        .await
        .clashes("thresholds.disk.recover");
    admin.get(format!("{HEALTH}?status=fine")).await.names("status");
    admin.get(format!("{HEALTH}/alder/history?from=yesterday")).await.names("from");
    admin
        .get(format!("{HEALTH}/alder/history?from=2026-02-03T00:00:00Z&to=2026-02-02T00:00:00Z"))
        .await
        .names("from");
    admin.get(format!("{HEALTH}/alder/history?cursor=6162")).await.names("cursor");
}

#[tokio::test]
async fn settings_hold_for_all_and_one_server_may_differ() {
    let (mut plane, agent, api) = fleet().await;
    only_on_demand(&api, "alder").await;
    let admin = plane.admin().await.clone();
    let path = format!("{HEALTH}/settings");
    let first = api.get(&path).await;
    assert_eq!(first.data::<HealthSettings>(200), HealthSettings::default());
    agent.machine(|s| s.cpu = 60.0);
    assert_eq!(check(&api, "alder").await.status, HealthStatus::Healthy);
    let change = json!({ "interval": 60, "thresholds": { "cpu": { "fail": 50, "recover": 40 }, "cpuChecks": 1 } });
    let changed = admin.patch(&path).json(&change).header("if-match", &first.etag()).await;
    let settings: HealthSettings = changed.data(200);
    assert_eq!((settings.interval.get(), settings.thresholds.cpu.fail.get()), (60, 50.0));
    assert_eq!(
        settings.thresholds.memory,
        HealthSettings::default().thresholds.memory,
        "what was not sent stays"
    );
    admin
        .patch(&path)
        .json(&json!({}))
        .header("if-match", &first.etag())
        .await
        .refused(412, "changed_meanwhile");
    assert_eq!(check(&api, "alder").await.checks.failed(), [Check::Cpu]);

    let config = format!("{HEALTH}/alder/config");
    let own = json!({ "enabled": false, "thresholds": { "cpu": { "fail": 90, "recover": 80 } } });
    let set = api.put(&config).json(&own).await.is(200);
    assert_eq!(check(&api, "alder").await.status, HealthStatus::Healthy);
    api.put(&config)
        .json(&own)
        .header("if-match", "\"1\"")
        .await
        .refused(412, "changed_meanwhile");
    plane.restart().await;
    agent.ready(&plane).await;
    let kept = api.get(&config).await;
    assert_eq!(kept.json()["data"], set.json()["data"]);
    assert_eq!(api.get(&path).await.data::<HealthSettings>(200), settings);
    assert_eq!(check(&api, "alder").await.status, HealthStatus::Healthy, "limits are kept");
    let entries: Vec<AuditEntryView> = plane.admin().await.get("/api/audit?action=health.settings").await.data(200);
    assert_eq!(entries.len(), 1);
}

#[tokio::test]
async fn listeners_hear_of_it() {
    let (plane, agent, api) = fleet().await;
    // Written by now, so that what follows is a change of it.
    assert_eq!(check(&api, "alder").await.status, HealthStatus::Healthy);
    let mut bus = plane.app().health.subscribe();
    let mut events = api.get("/api/events").events().await.unwrap();
    agent.machine(|s| (s.disks[0].used, s.disks[0].available) = (95, 5));
    check(&api, "alder").await;
    let (server, view) = nm_testing::soon("the bus tells of it", async {
        loop {
            let (server, view) = bus.recv().await.unwrap();
            if !view.checks.disk {
                return (server, view);
            }
        }
    })
    .await;
    assert_eq!((server.key.as_str(), server.name.as_str()), (agent.node.as_str(), "alder"));
    assert_eq!((view.status, view.degraded), (HealthStatus::Unknown, true));
    let of_health = |e: &nm_testing::SseEvent| e.event == "change" && e.data::<Value>()["kind"] == "health";
    let event: Value = events.find("the feed tells of it", of_health).await.data();
    assert_eq!(
        (&event["id"], &event["what"], &event["status"]),
        (&json!(agent.node), &json!("status"), &json!("unknown"))
    );
}

#[tokio::test]
async fn the_list_is_paged_and_filtered() {
    let (plane, agent, api) = fleet().await;
    let second = FakeAgent::join(&plane, "birch").await;
    let web = api
        .create(&json!({ "name": "web", "image": "nginx", "start": true, "nodeId": "alder" }))
        .await
        .id;
    for key in ["alder", "birch", "web"] {
        becomes(&api, key, HealthStatus::Healthy, &[]).await;
    }
    second.machine(|s| s.memory.available = 0);
    check(&api, "birch").await;
    let ids = async |query: &str| -> (Vec<String>, Option<String>) {
        let reply = api.get(format!("{HEALTH}?{query}")).await;
        let views: Vec<HealthView> = reply.data(200);
        let next = reply.json()["nextCursor"].as_str().map(str::to_owned);
        (views.into_iter().map(|v| v.server_id).collect(), next)
    };
    let all = [web.to_string(), agent.node.to_string(), second.node.to_string()];
    assert_eq!(ids("").await, (all.to_vec(), None));
    let (first, next) = ids("limit=2").await;
    assert_eq!(first, all[..2]);
    assert_eq!(ids(&format!("limit=2&cursor={}", next.unwrap())).await, (all[2..].to_vec(), None));
    assert_eq!(ids("status=unknown").await.0, all[2..]);
    assert_eq!(ids("kind=container").await.0, all[..1]);
    assert_eq!(ids("kind=node&status=healthy").await.0, all[1..2]);
}
