use super::{BACKUPS, backups, create, fleet, made, of_node, tasks, with};
use nm_testing::{Ask, Client, FakeAgent};
use nm_types::auth::Role;
use nm_types::backup::RestoreView;
use nm_types::backup::job::{JobErrorCode, RestoreTask, Task};
use nm_types::container::ContainerStatus;
use serde_json::{Value, json};

fn restores(agent: &FakeAgent) -> Vec<RestoreTask> {
    tasks(agent, |task| match task {
        Task::Restore(r) => Some(r),
        _ => None,
    })
}

/// A database with a volume, and a dump of its own.
async fn database(api: &Client, agent: &FakeAgent) -> (String, Value) {
    let spec = json!({
        "name": "db", "image": "own/db", "nodeId": agent.node, "start": true, "environment": { "TOKEN": "planted-secret" },
        "volumes": [{ "container": "/var/lib/db", "host": "dbdata" }]
    });
    let made = api.create(&spec).await;
    let config = json!({
        "serverId": "db", "name": "db", "destination": "/backups",
        "dump": { "command": ["dump"], "restore": ["load"], "file": "all.sql" }
    });
    (made.id.to_string(), config)
}

#[tokio::test]
async fn of_a_node_in_place_and_elsewhere() {
    let fleet = fleet().await;
    let api = &fleet.api;
    let config = create(api, &with(of_node(&fleet.agent.node), json!({ "paths": ["/srv/www", "/srv/db"] }))).await;
    let made = made(api, &config.id).await;
    let path = format!("{BACKUPS}/{}/restore", made.id);
    let restored: RestoreView = api.post(&path).await.data(200);
    assert_eq!(
        (restored.server_id.as_str(), restored.restored.files),
        (fleet.agent.node.as_str(), 3)
    );
    let _one: RestoreView = api
        .post(&path)
        .json(&json!({ "paths": ["/srv/www/x"], "replace": true }))
        .await
        .data(200);
    let dry: RestoreView = api
        .post(&path)
        .json(&json!({ "target": "/tmp/there", "dryRun": true }))
        .await
        .data(200);
    assert!(dry.dry_run && dry.target.as_deref() == Some("/tmp/there"));
    let asked = restores(&fleet.agent);
    let items =
        |n: usize| -> Vec<(&str, &str, bool)> { asked[n].items.iter().map(|i| (i.from.as_str(), i.to.as_str(), i.replace)).collect() };
    assert_eq!(items(0), [("/srv/www", "/srv/www", false), ("/srv/db", "/srv/db", false)]);
    assert_eq!(items(1), [("/srv/www", "/srv/www", true)]);
    assert_eq!(asked[1].include, ["/srv/www/x"]);
    assert_eq!(items(2), [("/", "/tmp/there", false)]);
    assert!(asked[0].verify && !asked[0].dry_run && asked[2].dry_run && !asked[2].verify);
    // What is asked for and can't be.
    api.post(&path)
        .json(&json!({ "paths": ["/nope"] }))
        .await
        .refused(404, "path_missing");
    api.post(&path).json(&json!({ "target": "tmp" })).await.names("target");
    api.post(&path)
        .json(&json!({ "name": "web" }))
        .await
        .refused(409, "conflicting_fields");
    api.post(&path)
        .json(&json!({ "volume": "vol", "target": "/x" }))
        .await
        .refused(409, "conflicting_fields");
    api.post(&path)
        .json(&json!({ "serverId": "nowhere" }))
        .await
        .refused(404, "server_not_found");
    let _birch = FakeAgent::join(&fleet.plane, "birch").await;
    let refused = api
        .post(&path)
        .json(&json!({ "serverId": "birch" }))
        .await
        .refused(409, "repository_elsewhere");
    assert!(refused.error.contains("alder"), "{refused:?}");
    fleet
        .agent
        .fail_backup(Ask::BackupRestore, JobErrorCode::DiskFull, "The disk is full.");
    api.post(&path).await.refused(507, "disk_full");
    // Nothing is left that would keep others from it.
    api.post(&path).await.is(200);
}

#[tokio::test]
async fn of_a_container_its_volumes_and_its_dump() {
    let fleet = fleet().await;
    let api = &fleet.api;
    let (id, config) = database(api, &fleet.agent).await;
    let config = create(api, &config).await;
    let made = made(api, &config.id).await;
    let job = fleet
        .agent
        .backup_jobs()
        .into_iter()
        .find(|j| matches!(j.job.task, Task::Backup(_)))
        .unwrap();
    assert_eq!(job.prepare.container.as_deref(), Some(id.as_str()));
    assert_eq!(job.prepare.volumes.iter().map(|v| v.as_str()).collect::<Vec<_>>(), ["dbdata"]);
    let path = format!("{BACKUPS}/{}/restore", made.id);
    let restored: RestoreView = api.post(&path).await.data(200);
    assert_eq!(restored.dumps, ["/dumps/all.sql"]);
    let jobs = fleet.agent.backup_jobs();
    let restore = jobs.iter().find(|j| matches!(j.job.task, Task::Restore(_))).unwrap();
    let volumes: Vec<_> = restore
        .prepare
        .restore
        .iter()
        .map(|v| (v.from.as_str(), v.volume.as_str(), v.replace))
        .collect();
    assert_eq!(volumes, [("/volumes/dbdata", "dbdata", true)]);
    let send = jobs.iter().find(|j| matches!(j.job.task, Task::Send(_))).unwrap();
    assert_eq!(send.prepare.container.as_deref(), Some(id.as_str()));
    assert!(send.prepare.dump.is_some());
    // One volume into another, by name.
    let other: RestoreView = api
        .post(&path)
        .json(&json!({ "paths": ["/volumes/dbdata"], "volume": "copy" }))
        .await
        .data(200);
    assert!(other.dumps.is_empty());
    let jobs = fleet.agent.backup_jobs();
    let last = jobs.iter().rfind(|j| matches!(j.job.task, Task::Restore(_))).unwrap();
    assert_eq!(last.prepare.restore[0].volume.as_str(), "copy");
    // Into a container that has one in the same place.
    let twin = json!({ "name": "twin", "image": "own/db", "start": true, "volumes": [{ "container": "/var/lib/db", "host": "twindata" }] });
    api.create(&twin).await;
    let into: RestoreView = api.post(&path).json(&json!({ "serverId": "twin" })).await.data(200);
    assert_eq!(into.dumps.len(), 1);
    let jobs = fleet.agent.backup_jobs();
    let last = jobs.iter().rfind(|j| matches!(j.job.task, Task::Restore(_))).unwrap();
    assert_eq!(last.prepare.restore[0].volume.as_str(), "twindata");
    api.create(&json!({ "name": "bare", "image": "nginx" })).await;
    api.post(&path)
        .json(&json!({ "serverId": "bare" }))
        .await
        .refused(409, "volume_not_there");
}

#[tokio::test]
async fn a_container_is_made_again_with_its_volumes() {
    let fleet = fleet().await;
    let api = &fleet.api;
    let (id, config) = database(api, &fleet.agent).await;
    let config = create(api, &config).await;
    let made = made(api, &config.id).await;
    api.delete(format!("/api/containers/{id}?force=true")).await.is(200);
    let path = format!("{BACKUPS}/{}/restore", made.id);
    api.post(&path).await.refused(409, "server_gone");
    // A database that is not ready yet is tried again.
    fleet
        .agent
        .fail_backup(Ask::BackupSend, JobErrorCode::StreamFailed, "It is not ready.");
    let restored: RestoreView = api
        .post(&path)
        .json(&json!({ "serverId": "alder", "name": "again" }))
        .await
        .data(200);
    let anew = restored.container_id.unwrap();
    assert_ne!(anew, id);
    let container = api.container(&anew).await;
    assert_eq!((container.name.as_str(), container.status), ("again", ContainerStatus::Running));
    assert_eq!(fleet.agent.container(&container.id).spec.unwrap().environment.0.len(), 1);
    assert_eq!(restored.dumps.len(), 1);
    assert_eq!(fleet.agent.calls(Ask::BackupSend), 2);
    api.post(&path)
        .json(&json!({ "serverId": "alder", "dryRun": true }))
        .await
        .refused(409, "conflicting_fields");
    // What stood in its environment is nowhere to be read.
    let all = [
        api.get(BACKUPS).await.text(),
        api.get("/api/operations").await.text(),
        api.get("/api/audit").await.text(),
    ]
    .join("");
    assert!(!all.contains("planted-secret"));
    assert_eq!(backups(api, &config.id).await.len(), 1);
}

/// Who may not ask for privileges does not get them by a restore, and a dump's command is no way into a container.
#[tokio::test]
async fn a_restore_and_a_dump_open_no_door() {
    let fleet = fleet().await;
    let foreign = fleet.agent.docker_run("theirs", "postgres");
    let operator = fleet.plane.token(Role::Operator, &[]).await;
    nm_testing::eventually("the container is seen", async || {
        (!operator.containers("managed=false").await.is_empty()).then_some(())
    })
    .await;
    let config = json!({ "serverId": "theirs", "name": "x", "destination": "/backups", "dump": { "command": ["cat", "/etc/shadow"] } });
    operator
        .post("/api/capabilities/backups/configs")
        .json(&config)
        .await
        .refused(403, "forbidden");
    assert!(!foreign.is_empty());
}
