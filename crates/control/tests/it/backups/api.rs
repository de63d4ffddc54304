use super::{BACKUPS, CONFIGS, backup, backups, begin, config, create, ended, fleet, made, make, of_node, tasks, with};
use nm_testing::{Ask, FakeAgent, When, eventually};
use nm_types::backup::job::{JobErrorCode, Task};
use nm_types::backup::{BackupConfigStatus, BackupConfigView, BackupKeyView, BackupStatus, BackupTreeView, BackupType, BackupView};
use serde_json::{Value, json};

/// The requests of the chapter, as they are written there.
#[tokio::test]
async fn the_chapter_as_it_is_written() {
    let fleet = fleet().await;
    let api = &fleet.api;
    let _other = FakeAgent::join(&fleet.plane, "server_123").await;
    let request = json!({
        "serverId": "server_123", "name": "Daily Production Backup", "schedule": "0 2 * * *", "retention": 30, "type": "incremental",
        "destination": "/backups/production", "encryption": true, "compression": true
    });
    let reply = api.post(CONFIGS).json(&request).await.is(201);
    let body = reply.json();
    assert_eq!(body["success"], true);
    assert!(body["message"].as_str().is_some_and(|m| !m.is_empty()));
    let id = body["data"]["id"].as_str().unwrap().to_owned();
    assert!(id.starts_with("backup_cfg_"), "{id}");
    for field in ["name", "schedule", "retention", "type", "destination", "encryption", "compression"] {
        assert_eq!(body["data"][field], request[field], "{field}");
    }
    assert_eq!(body["data"]["status"], "active");
    let next = body["data"]["nextBackup"].as_str().unwrap();
    assert!(next.ends_with("T02:00:00.000Z"), "{next}");

    let listed: Vec<BackupConfigView> = api.get(format!("{CONFIGS}?serverId=server_123")).await.data(200);
    assert_eq!(listed.len(), 1);
    let none: Vec<BackupConfigView> = api.get(format!("{CONFIGS}?serverId=alder")).await.data(200);
    assert_eq!(none.len(), 0);
    api.get(format!("{CONFIGS}?serverId=nowhere"))
        .await
        .refused(404, "server_not_found");

    let reply = api.post(format!("{BACKUPS}/perform/{id}")).await.is(202);
    let data = reply.json()["data"].clone();
    let made = data["id"].as_str().unwrap();
    assert_eq!(
        (&data["status"], &data["type"], &data["serverId"]),
        (&json!("in-progress"), &json!("incremental"), &body["data"]["serverId"])
    );
    assert_eq!(data["location"], format!("/backups/production/{made}"));
    api.ended(data["operationId"].as_str().unwrap()).await;

    let reply = api.get(format!("{BACKUPS}/server_123")).await.is(200);
    assert_eq!(reply.json()["count"], 1);
    let listed: Vec<BackupView> = reply.data(200);
    assert_eq!((listed[0].id.as_str(), listed[0].status), (made, BackupStatus::Completed));
    assert!(listed[0].size == Some(1000) && listed[0].duration.is_some());
    let by_id: Vec<BackupView> = api.get(format!("{BACKUPS}/{}", listed[0].server_id)).await.data(200);
    assert_eq!(by_id, listed);

    let restored = api.post(format!("{BACKUPS}/{made}/restore")).await.is(200).json();
    assert_eq!(restored["data"]["backupId"], made);
    assert_eq!(restored["data"]["verified"], true);
    let config = config(api, &id).await;
    assert_eq!(config.last_backup, Some(listed[0].timestamp));
}

#[tokio::test]
async fn what_can_t_be_is_refused_and_named() {
    let fleet = fleet().await;
    let (api, node) = (&fleet.api, &fleet.agent.node);
    let web = api.create(&json!({ "name": "web", "image": "nginx", "nodeId": node })).await;
    let base = of_node(node);
    // What the schema says.
    for (more, field) in [
        (json!({ "schedule": "0 2 * *" }), "schedule"),
        (json!({ "schedule": "60 2 * * *" }), "schedule"),
        (json!({ "retention": 0 }), "retention"),
        (json!({ "retention": 366 }), "retention"),
        (json!({ "type": "half" }), "type"),
        (json!({ "destination": "backups" }), "destination"),
        (json!({ "destination": "/a/../b" }), "destination"),
        (json!({ "timeZone": "Mars ship" }), "timeZone"),
        (json!({ "nope": 1 }), "nope"),
        (json!({ "keep": { "nope": 1 } }), "keep.nope"),
        (json!({ "paths": ["relative"] }), "paths[0]"),
        (json!({ "dump": { "command": [] } }), "dump.command"),
        (json!({ "excludes": vec!["x"; 101] }), "excludes"),
    ] {
        api.post(CONFIGS).json(&with(base.clone(), more)).await.names(field);
    }
    // What can't stand beside something else, or never comes.
    for (more, field) in [
        (json!({ "schedule": "0 0 30 2 *" }), "schedule"),
        (json!({ "check": { "schedule": "0 0 31 4 *" } }), "check.schedule"),
        (json!({ "check": { "testRestore": "0 0 31 2 *" } }), "check.testRestore"),
        (json!({ "status": "error" }), "status"),
        (json!({ "timeZone": "Europe/Atlantis" }), "timeZone"),
        (json!({ "dump": { "command": ["true"] } }), "dump"),
        (json!({ "consistency": "pause" }), "consistency"),
        (json!({ "serverId": web.id }), "paths"),
        (json!({ "credentials": { "username": "a" } }), "credentials.username"),
        (json!({ "copy": { "destination": "/backups" } }), "copy.destination"),
        (
            json!({ "destination": "s3:https://s3.example.com/bucket", "credentials": { "accessKey": "a" } }),
            "credentials.secretKey",
        ),
    ] {
        api.post(CONFIGS).json(&with(base.clone(), more)).await.clashes(field);
    }
    for (more, status, code, field) in [
        (json!({ "serverId": "nowhere" }), 404, "server_not_found", "serverId"),
        (json!({ "destination": "node:nowhere:/x" }), 404, "node_not_found", "destination"),
        (json!({ "destination": "/etc/cron.d" }), 403, "path_forbidden", "destination"),
    ] {
        let refused = api.post(CONFIGS).json(&with(base.clone(), more)).await.refused(status, code);
        assert!(refused.details.iter().any(|d| d.field == field), "{refused:?}");
    }
    let _birch = FakeAgent::join(&fleet.plane, "birch").await;
    create(api, &with(base.clone(), json!({ "name": "own", "destination": "node:alder:/x" }))).await;
    // A name is taken on one server, and free on another.
    create(api, &base).await;
    api.post(CONFIGS).json(&base).await.refused(409, "name_taken");
    create(api, &with(base.clone(), json!({ "serverId": "birch" }))).await;
    api.get(format!("{CONFIGS}/Daily")).await.refused(409, "ambiguous_name");
    api.get(format!("{CONFIGS}/own")).await.is(200);
    let all: Vec<Value> = api.get(CONFIGS).await.data(200);
    assert_eq!(all.len(), 3);
    let reply = api.get(format!("{CONFIGS}?limit=2")).await.is(200).json();
    let next = reply["nextCursor"].as_str().unwrap();
    let rest: Vec<Value> = api.get(format!("{CONFIGS}?limit=2&cursor={next}")).await.data(200);
    assert_eq!((reply["count"].as_u64(), rest.len()), (Some(2), 1));
}

#[tokio::test]
async fn a_config_made_twice_is_made_once() {
    let fleet = fleet().await;
    let (api, body) = (&fleet.api, of_node(&fleet.agent.node));
    let one: BackupConfigView = api.post(CONFIGS).json(&body).idempotency_key("k").await.data(201);
    let two: BackupConfigView = api.post(CONFIGS).json(&body).idempotency_key("k").await.data(201);
    assert_eq!(one.id, two.id);
    let other = with(body, json!({ "name": "other" }));
    api.post(CONFIGS)
        .json(&other)
        .idempotency_key("k")
        .await
        .refused(409, "idempotency_key_reused");
    let perform = format!("{BACKUPS}/perform/{}", one.id);
    let first: BackupView = api.post(&perform).idempotency_key("p").await.data(202);
    let again: BackupView = api.post(&perform).idempotency_key("p").await.data(202);
    assert_eq!(first.id, again.id);
    let first = ended(api, &first).await;
    let restore = format!("{BACKUPS}/{}/restore", first.id);
    for _ in 0..2 {
        api.post(&restore).json(&json!({})).idempotency_key("r").await.is(200);
    }
    assert_eq!(fleet.agent.calls(Ask::BackupRestore), 1);
    assert_eq!(backups(api, &one.id).await.len(), 1);
}

#[tokio::test]
async fn changes_are_merged_and_what_is_fixed_stays() {
    let fleet = fleet().await;
    let api = &fleet.api;
    let made = create(api, &with(of_node(&fleet.agent.node), json!({ "schedule": "@daily" }))).await;
    let path = format!("{CONFIGS}/{}", made.id);
    let etag = api.get(&path).await.etag();
    let changed: BackupConfigView = api
        .patch(&path)
        .json(&json!({ "retention": 7, "keep": { "weekly": 4 }, "encryption": false }))
        .header("if-match", &etag)
        .await
        .data(200);
    assert_eq!((changed.retention.get(), changed.keep.weekly.map(|n| n.get())), (7, Some(4)));
    assert_eq!(changed.schedule, made.schedule);
    api.patch(&path)
        .json(&json!({ "retention": 8 }))
        .header("if-match", &etag)
        .await
        .refused(412, "changed_meanwhile");
    api.patch(&path).json(&json!({ "nope": 1 })).await.names("nope");
    api.patch(&path).json(&json!({ "name": null })).await.names("name");
    let paused: BackupConfigView = api.patch(&path).json(&json!({ "status": "paused" })).await.data(200);
    assert_eq!((paused.status, paused.next_backup), (BackupConfigStatus::Paused, None));
    let key: BackupKeyView = api.get(format!("{path}/key")).await.data(200);
    assert_eq!(key.password, "neuralmesh-not-secret");
    let encrypted: BackupConfigView = api.patch(&path).json(&json!({ "encryption": true })).await.data(200);
    assert!(encrypted.encryption);
    // A paused one makes a backup when it is asked for.
    super::made(api, &made.id).await;
    let _birch = FakeAgent::join(&fleet.plane, "birch").await;
    for (change, field) in [
        (json!({ "destination": "/elsewhere" }), "destination"),
        (json!({ "encryption": false }), "encryption"),
        (json!({ "compression": false }), "compression"),
        (json!({ "serverId": "birch" }), "serverId"),
    ] {
        let refused = api.patch(&path).json(&change).await.refused(409, "fixed");
        assert_eq!(refused.details[0].field, field);
    }
    api.patch(&path).json(&json!({ "name": "Nightly", "schedule": null })).await.is(200);
    assert_eq!(config(api, "Nightly").await.schedule, None);
}

/// What opens a destination is never given back, also not to those who change it.
#[tokio::test]
async fn credentials_go_in_and_never_come_out() {
    let fleet = fleet().await;
    let api = &fleet.api;
    let spec = json!({
        "serverId": fleet.agent.node, "name": "s3", "destination": "s3:https://s3.example.com/bucket/pre",
        "credentials": { "accessKey": "AKIAPLANTED", "secretKey": "planted-secret", "region": "eu-1" },
        "copy": { "destination": "rest:https://rest.example.com/x", "credentials": { "username": "u", "password": "planted-too" } }
    });
    let made = create(api, &spec).await;
    assert!(made.has_credentials && made.copy.as_ref().is_some_and(|c| c.has_credentials));
    let path = format!("{CONFIGS}/{}", made.id);
    let changed = api
        .patch(&path)
        .json(&json!({ "credentials": { "secretKey": "planted-next" } }))
        .await
        .is(200);
    let all = [changed.text(), api.get(&path).await.text(), api.get("/api/audit").await.text()].join("");
    assert!(!all.contains("planted"), "{all}");
    super::made(api, &made.id).await;
    let place = fleet.agent.backup_jobs()[0].job.repository.clone();
    let nm_types::backup::job::RepositoryPlace::S3 {
        access_key,
        secret_key,
        region,
        prefix,
        ..
    } = place.place
    else {
        panic!("{place:?}")
    };
    assert_eq!(
        (access_key.0.as_str(), secret_key.0.as_str(), region.as_str()),
        ("AKIAPLANTED", "planted-next", "eu-1")
    );
    assert_eq!(prefix, format!("pre/{}", made.id));
    let key: BackupKeyView = api.get(format!("{path}/key")).await.data(200);
    assert_eq!(key.repository, format!("s3:https://s3.example.com/bucket/pre/{}", made.id));
    assert!(key.password.len() == 64 && key.recovery_password.as_ref().is_some_and(|p| *p != key.password));
    let log = api.get("/api/audit").await.text();
    assert!(log.contains("backup.key") && !log.contains(&key.password));
}

#[tokio::test]
async fn types_compare_with_what_they_say() {
    let fleet = fleet().await;
    let (api, node) = (&fleet.api, &fleet.agent.node);
    let of = |name: &str, kind: &str| with(of_node(node), json!({ "name": name, "type": kind }));
    let differential = create(api, &of("d", "differential")).await;
    let mut snapshots = Vec::new();
    for _ in 0..3 {
        snapshots.push(made(api, &differential.id).await);
    }
    // The first of them finds no full one, and is one.
    assert_eq!(snapshots[0].kind, BackupType::Full);
    let parents = tasks(&fleet.agent, |task| match task {
        Task::Backup(b) => Some(b.parent),
        _ => None,
    });
    assert_eq!(parents, [None, snapshots[0].snapshot.clone(), snapshots[0].snapshot.clone()]);
    let incremental = create(api, &of("i", "incremental")).await;
    let one = made(api, &incremental.id).await;
    let two = made(api, &incremental.id).await;
    made(api, &incremental.id).await;
    let parents = tasks(&fleet.agent, |task| match task {
        Task::Backup(b) if b.label == incremental.id.as_str() => Some(b.parent),
        _ => None,
    });
    assert_eq!(parents, [None, one.snapshot, two.snapshot]);
    let full = create(api, &of("f", "full")).await;
    made(api, &full.id).await;
    made(api, &full.id).await;
    let parents = tasks(&fleet.agent, |task| match task {
        Task::Backup(b) if b.label == full.id.as_str() => Some((b.parent, b.tags.contains(&"full".to_owned()))),
        _ => None,
    });
    assert_eq!(parents, [(None, true), (None, true)]);
}

#[tokio::test]
async fn lists_are_narrowed_and_paged() {
    let fleet = fleet().await;
    let api = &fleet.api;
    let config = create(api, &of_node(&fleet.agent.node)).await;
    for _ in 0..3 {
        made(api, &config.id).await;
    }
    fleet
        .agent
        .fail_backup(Ask::BackupMake, JobErrorCode::DiskFull, "The destination is full.");
    let failed = make(api, &config.id).await;
    assert_eq!(failed.status, BackupStatus::Failed);
    assert_eq!(failed.message.as_deref(), Some("The destination is full."));
    let failing: Vec<BackupView> = api.get(format!("{BACKUPS}?status=failed")).await.data(200);
    assert_eq!(failing.len(), 1);
    let newest: Vec<BackupView> = api.get(format!("{BACKUPS}/alder?limit=2")).await.data(200);
    assert_eq!(newest[0].id, failed.id);
    let reply = api.get(format!("{BACKUPS}?limit=3&serverId=alder")).await.is(200).json();
    let next = reply["nextCursor"].as_str().unwrap();
    let rest: Vec<BackupView> = api.get(format!("{BACKUPS}?limit=3&cursor={next}")).await.data(200);
    assert_eq!(rest.len(), 1);
    api.get(format!("{BACKUPS}?configId=nope"))
        .await
        .refused(404, "backup_config_not_found");
    api.get(format!("{BACKUPS}/backup_1_aaaaaaaaa"))
        .await
        .refused(404, "backup_not_found");
    api.get(format!("{BACKUPS}/nowhere")).await.refused(404, "server_not_found");
    // What is wrong with the last one is the config's status, until one is made.
    let config_now = super::config(api, &config.id).await;
    assert_eq!(config_now.status, BackupConfigStatus::Error);
    assert_eq!(config_now.message.as_deref(), Some("The destination is full."));
    made(api, &config.id).await;
    assert_eq!(super::config(api, &config.id).await.status, BackupConfigStatus::Active);
}

#[tokio::test]
async fn files_of_a_backup() {
    let fleet = fleet().await;
    let api = &fleet.api;
    let config = create(api, &with(of_node(&fleet.agent.node), json!({ "paths": ["/a", "/b", "/c/d"] }))).await;
    let made = made(api, &config.id).await;
    let path = format!("{BACKUPS}/{}/files", made.id);
    let reply = api.get(format!("{path}?limit=2")).await.is(200);
    let next = reply.json()["nextCursor"].as_str().unwrap().to_owned();
    let tree: BackupTreeView = reply.data(200);
    assert_eq!((tree.path.as_str(), tree.total, tree.entries.len()), ("/", 3, 2));
    let tree: BackupTreeView = api.get(format!("{path}?limit=2&cursor={next}")).await.data(200);
    assert_eq!(tree.entries[0].path, "/c");
    let tree: BackupTreeView = api.get(format!("{path}?path=/c")).await.data(200);
    assert_eq!(tree.entries[0].path, "/c/d");
    api.get(format!("{path}?path=/nope")).await.refused(404, "path_missing");
    api.get(format!("{path}?path=../x")).await.names("path");
}

#[tokio::test]
async fn pins_cancels_and_removals() {
    let fleet = fleet().await;
    let api = &fleet.api;
    let config = create(api, &of_node(&fleet.agent.node)).await;
    let one = made(api, &config.id).await;
    let two = made(api, &config.id).await;
    let path = format!("{BACKUPS}/{}", one.id);
    let pinned: BackupView = api.put(format!("{path}/pin")).json(&json!({ "pinned": true })).await.data(200);
    assert!(pinned.pinned);
    api.delete(&path).await.refused(409, "pinned");
    api.put(format!("{path}/pin")).json(&json!({ "pinned": false })).await.is(200);
    api.post(format!("{path}/cancel")).await.refused(409, "already_ended");
    api.delete(&path).await.is(200);
    api.get(&path).await.refused(404, "backup_not_found");
    assert_eq!(fleet.agent.snapshots(&config.id).len(), 1);
    let last = format!("{BACKUPS}/{}", two.id);
    api.delete(&last).await.refused(409, "last_good");
    // One that is being made is cancelled, and leaves nothing.
    let hold = fleet.agent.hold(Ask::BackupMake, When::Before);
    let begun = begin(api, &config.id).await;
    hold.reached(1).await;
    eventually("its progress is shown", async || {
        backup(api, &begun.id).await.progress.filter(|p| p.bytes == 500)
    })
    .await;
    api.delete(format!("{BACKUPS}/{}", begun.id)).await.refused(409, "in_progress");
    api.post(format!("{BACKUPS}/perform/{}", config.id))
        .await
        .refused(409, "backup_busy");
    api.delete(format!("{CONFIGS}/{}?force=true", config.id))
        .await
        .refused(409, "backup_busy");
    api.post(format!("{BACKUPS}/{}/cancel", begun.id)).await.is(200);
    let ended = ended(api, &begun).await;
    assert_eq!(ended.status, BackupStatus::Cancelled);
    hold.release();
    assert_eq!(super::config(api, &config.id).await.status, BackupConfigStatus::Active);
    assert_eq!(fleet.agent.snapshots(&config.id).len(), 1);
    api.delete(format!("{last}?force=true")).await.is(200);
    assert_eq!(fleet.agent.snapshots(&config.id).len(), 0);
    // The config goes, and its repository stays.
    api.delete(format!("{CONFIGS}/{}", config.id))
        .await
        .refused(409, "key_would_be_lost");
    let gone = api.delete(format!("{CONFIGS}/{}?force=true", config.id)).await.is(200).json();
    assert!(gone["message"].as_str().unwrap().contains("/backups/backup_cfg_"), "{gone}");
    assert_eq!(backups_of_all(api).await, 0);
}

async fn backups_of_all(api: &nm_testing::Client) -> usize {
    api.get(BACKUPS).await.data::<Vec<BackupView>>(200).len()
}

/// What is being made is among the events.
#[tokio::test]
async fn events_tell_of_backups() {
    let fleet = fleet().await;
    let api = &fleet.api;
    let config = create(api, &of_node(&fleet.agent.node)).await;
    let mut events = api.get("/api/events").events().await.unwrap_or_else(|r| panic!("{}", r.text()));
    let made = made(api, &config.id).await;
    events
        .find("the backup is told of", |event| {
            let data: Value = serde_json::from_str(&event.data).unwrap_or_default();
            data["id"] == made.id.as_str() && data["status"] == "completed"
        })
        .await;
}
