//! Alerts from end to end: what agents see, what rules make of it, and what receivers get that are really there.

mod channels;
mod lasting;
mod receivers;
mod rules;
mod stories;

use nm_link::contract::WatchEvent;
use nm_testing::{Client, Database, FakeAgent, TestControlPlane, eventually};
use nm_types::Timestamp;
use nm_types::alert::channel::CreatedAlertChannel;
use nm_types::alert::{AlertDetail, AlertRuleView, AlertState, AlertView};
use nm_types::auth::Role;
use nm_types::host::{DiskStats, MemoryStats, NetworkStats, NodeStats};
use serde_json::{Value, json};

async fn fleet(database: Database) -> (TestControlPlane, FakeAgent, Client) {
    let plane = TestControlPlane::start(database).await;
    let agent = FakeAgent::join(&plane, "alder").await;
    // Good for longer than a session: these tests put the clock forward.
    let api = plane.token(Role::Admin, &[]).await;
    (plane, agent, api)
}

/// What a machine uses that has so much to do.
fn host(cpu: f64) -> WatchEvent {
    let disk = |mount: &str, used: u64, read_only: bool| DiskStats {
        mount: mount.into(),
        device: "/dev/vda1".into(),
        kind: "ext4".into(),
        total: 100,
        used,
        available: 100 - used,
        inodes: 0,
        inodes_used: 0,
        read_only,
    };
    WatchEvent::Host {
        stats: Box::new(NodeStats {
            cpu,
            load: [1.5, 1.0, 0.5],
            memory: MemoryStats {
                total: 1 << 30,
                available: 1 << 29,
                swap_total: 0,
                swap_used: 0,
            },
            disks: vec![disk("/", 40, false), disk("/var", 60, false), disk("/snap", 100, true)],
            network: NetworkStats::default(),
            pressure: None,
            temperature: None,
            uptime: 1,
            timestamp: Timestamp(1),
        }),
    }
}

async fn rule(api: &Client, rule: Value) -> AlertRuleView {
    api.post("/api/alerts/rules").json(&rule).await.data(201)
}

async fn channel(api: &Client, channel: Value) -> CreatedAlertChannel {
    api.post("/api/alerts/channels").json(&channel).await.data(201)
}

/// A rule that tells of a busy node at once.
fn busy(channels: &[&str]) -> Value {
    json!({
        "name": "Busy", "target": { "all": true }, "severity": "critical", "channels": channels,
        "condition": { "type": "metric", "metric": "node.cpu", "op": "above", "value": 90, "resolveAt": 80 },
    })
}

/// The alerts of a rule, newest first.
async fn alerts(api: &Client, rule: &AlertRuleView) -> Vec<AlertView> {
    api.get(format!("/api/alerts?limit=200&ruleId={}", rule.id)).await.data(200)
}

/// Waits until the newest alert of a rule is of this state.
async fn until(api: &Client, rule: &AlertRuleView, state: AlertState) -> AlertView {
    eventually(&format!("the alert of `{}` is {}", rule.name, state.as_str()), async || {
        alerts(api, rule).await.into_iter().next().filter(|a| a.state == state)
    })
    .await
}

/// Has a node so busy until the newest alert of a rule is of this state. After a start of the control plane its watch may
/// not have begun yet.
async fn see(agent: &FakeAgent, api: &Client, rule: &AlertRuleView, cpu: f64, state: AlertState) -> AlertView {
    eventually(&format!("{cpu}% makes an alert that is {}", state.as_str()), async || {
        agent.report(host(cpu));
        alerts(api, rule).await.into_iter().next().filter(|a| a.state == state)
    })
    .await
}

async fn detail(api: &Client, alert: &AlertView) -> AlertDetail {
    api.get(format!("/api/alerts/{}", alert.id)).await.data(200)
}

/// Waits until nothing waits to be told.
async fn all_told(plane: &TestControlPlane) {
    eventually("nothing waits to be told", async || {
        plane.app().alerts.outbox.is_empty().then_some(())
    })
    .await;
}
