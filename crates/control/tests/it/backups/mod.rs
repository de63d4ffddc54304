//! The specification's backup chapter: configs, what is made by them and when, restores, and what is said where something fails.

mod api;
mod faults;
mod restores;
mod scheduled;
mod upkeep;

use nm_testing::{Client, Database, FakeAgent, TestControlPlane, eventually};
use nm_types::NodeId;
use nm_types::auth::Role;
use nm_types::backup::job::Task;
use nm_types::backup::{BackupConfigView, BackupStatus, BackupView};
use nm_types::operation::OperationView;
use serde_json::{Value, json};

const BACKUPS: &str = "/api/capabilities/backups";
const CONFIGS: &str = "/api/capabilities/backups/configs";

struct Fleet {
    plane: TestControlPlane,
    agent: FakeAgent,
    /// Good for longer than a session: some tests put the clock forward.
    api: Client,
}

async fn fleet() -> Fleet {
    fleet_on(Database::sqlite()).await
}

async fn fleet_on(database: Database) -> Fleet {
    let plane = TestControlPlane::start(database).await;
    let api = plane.token(Role::Admin, &[]).await;
    let agent = FakeAgent::join(&plane, "alder").await;
    Fleet { plane, agent, api }
}

/// The least of a config for a node. Nothing is read back by itself while a test puts the clock forward.
fn of_node(node: &NodeId) -> Value {
    json!({
        "serverId": node, "name": "Daily", "destination": "/backups", "paths": ["/srv/www"], "check": { "schedule": "0 0 29 2 *" }
    })
}

fn with(mut whole: Value, more: Value) -> Value {
    whole.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    whole
}

async fn create(api: &Client, config: &Value) -> BackupConfigView {
    api.post(CONFIGS).json(config).await.data(201)
}

async fn config(api: &Client, id: impl AsRef<str>) -> BackupConfigView {
    api.get(format!("{CONFIGS}/{}", id.as_ref())).await.data(200)
}

async fn begin(api: &Client, config: impl AsRef<str>) -> BackupView {
    api.post(format!("{BACKUPS}/perform/{}", config.as_ref())).await.data(202)
}

async fn backup(api: &Client, id: impl AsRef<str>) -> BackupView {
    api.get(format!("{BACKUPS}/{}", id.as_ref())).await.data(200)
}

async fn backups(api: &Client, config: impl AsRef<str>) -> Vec<BackupView> {
    api.get(format!("{BACKUPS}?configId={}&limit=200", config.as_ref())).await.data(200)
}

/// Waits until its operation has ended, and gives it as it is then.
async fn ended(api: &Client, backup: &BackupView) -> BackupView {
    let operation = backup.operation_id.as_ref().expect("an operation makes it");
    api.ended(operation.as_str()).await;
    self::backup(api, &backup.id).await
}

/// Makes a backup, whatever comes of it.
async fn make(api: &Client, config: impl AsRef<str>) -> BackupView {
    let begun = begin(api, config).await;
    ended(api, &begun).await
}

async fn made(api: &Client, config: impl AsRef<str>) -> BackupView {
    let made = make(api, config).await;
    assert_eq!(made.status, BackupStatus::Completed, "{:?}", made.message);
    made
}

/// Waits until a config has so many backups that have ended.
async fn until_ended(api: &Client, config: impl AsRef<str>, count: usize) -> Vec<BackupView> {
    let key = config.as_ref();
    eventually(&format!("{count} backups have ended"), async || {
        let all = backups(api, key).await;
        for operation in all.iter().filter_map(|b| b.operation_id.as_ref()) {
            // It is forgotten a week after its end.
            let reply = api.get(format!("/api/operations/{operation}")).await;
            if reply.status != 404 && !reply.data::<OperationView>(200).state.is_final() {
                return None;
            }
        }
        // One that ended after it was listed is listed anew.
        let ended = all.iter().all(|b| b.status != BackupStatus::InProgress);
        (ended && all.len() >= count).then_some(all)
    })
    .await
}

/// The tasks of one kind that the agent was asked for.
fn tasks<T>(agent: &FakeAgent, pick: impl Fn(Task) -> Option<T>) -> Vec<T> {
    agent.backup_jobs().into_iter().filter_map(|job| pick(job.job.task)).collect()
}
