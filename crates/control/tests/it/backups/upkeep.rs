use super::{BACKUPS, CONFIGS, backup, backups, create, fleet, made, make, of_node, tasks, until_ended, with};
use nm_testing::{Ask, eventually};
use nm_types::alert::AlertView;
use nm_types::backup::job::{JobErrorCode, ReadPart, Task};
use nm_types::backup::{BackupConfigStatus, BackupStatus, RepositoryView, RetentionPreview};
use serde_json::json;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 3600);

#[tokio::test]
async fn a_backup_counts_only_once_it_was_checked() {
    let fleet = fleet().await;
    let api = &fleet.api;
    let config = create(api, &of_node(&fleet.agent.node)).await;
    fleet.agent.check_finds(&["pack abc is not what it was"]);
    let failed = make(api, &config.id).await;
    assert_eq!(failed.status, BackupStatus::Failed);
    assert!(failed.message.as_ref().is_some_and(|m| m.contains("pack abc")), "{failed:?}");
    let seen = super::config(api, &config.id).await;
    assert_eq!(seen.status, BackupConfigStatus::Error);
    assert_eq!(seen.repository.unwrap().findings.len(), 1);
    api.post(format!("{BACKUPS}/{}/restore", failed.id))
        .await
        .refused(409, "not_restorable");
    // The next one reads everything again, and knows of the packs.
    fleet.agent.check_finds(&[]);
    made(api, &config.id).await;
    let last = tasks(&fleet.agent, |task| match task {
        Task::Backup(b) => Some(b),
        _ => None,
    });
    let last = last.last().unwrap();
    assert_eq!((last.kind.as_str(), last.damaged.len()), ("full", 1));
    let seen = super::config(api, &config.id).await;
    assert_eq!(
        (seen.status, seen.repository.unwrap().findings.len()),
        (BackupConfigStatus::Active, 0)
    );
}

#[tokio::test]
async fn files_that_can_t_be_read_make_it_partial() {
    let fleet = fleet().await;
    let config = create(&fleet.api, &of_node(&fleet.agent.node)).await;
    fleet.agent.unreadable(&[("/srv/www/secret", "Permission denied")]);
    let partial = make(&fleet.api, &config.id).await;
    assert_eq!((partial.status, partial.problem_count), (BackupStatus::Partial, 1));
    assert_eq!(partial.problems[0].path, "/srv/www/secret");
    assert!(partial.message.is_some_and(|m| m.contains("/srv/www/secret")));
}

#[tokio::test]
async fn retention_removes_what_is_too_old_and_keeps_the_last_good() {
    let fleet = fleet().await;
    let api = &fleet.api;
    let config = create(api, &with(of_node(&fleet.agent.node), json!({ "retention": 3 }))).await;
    let pinned = made(api, &config.id).await;
    api.put(format!("{BACKUPS}/{}/pin", pinned.id))
        .json(&json!({ "pinned": true }))
        .await
        .is(200);
    let old = made(api, &config.id).await;
    fleet.plane.clock().advance(4 * DAY);
    let preview: RetentionPreview = api.get(format!("{CONFIGS}/{}/retention", config.id)).await.data(200);
    // The newest that completed stays until there is another one.
    assert_eq!((preview.keep.len(), preview.remove.len()), (2, 0));
    let new = made(api, &config.id).await;
    let left: Vec<_> = backups(api, &config.id).await.into_iter().map(|b| b.id).collect();
    assert_eq!(left, [new.id.clone(), pinned.id.clone()]);
    let snapshots = fleet.agent.snapshots(&config.id);
    assert_eq!(snapshots.len(), 2);
    assert!(!snapshots.iter().any(|s| Some(&s.id) == old.snapshot.as_ref()));
    let forgets = tasks(&fleet.agent, |task| match task {
        Task::Forget(f) => Some(f),
        _ => None,
    });
    let [forget] = &forgets[..] else { panic!("{forgets:?}") };
    assert_eq!(forget.remove, [old.snapshot.unwrap()]);
    assert_eq!(forget.keep.len(), 2);
    // What was marked goes a day later, also where nothing else does.
    fleet.plane.clock().advance(DAY);
    made(api, &config.id).await;
    assert_eq!(fleet.agent.calls(Ask::BackupForget), 2);
}

#[tokio::test]
async fn append_only_removes_nothing() {
    let fleet = fleet().await;
    let api = &fleet.api;
    let config = create(
        api,
        &with(of_node(&fleet.agent.node), json!({ "retention": 1, "appendOnly": true })),
    )
    .await;
    let one = made(api, &config.id).await;
    fleet.plane.clock().advance(10 * DAY);
    made(api, &config.id).await;
    assert_eq!(backups(api, &config.id).await.len(), 2);
    assert_eq!(fleet.agent.calls(Ask::BackupForget), 0);
    api.delete(format!("{BACKUPS}/{}", one.id)).await.refused(409, "append_only");
}

/// What a job made whose end nobody heard of is taken in, and retention goes on.
#[tokio::test]
async fn a_snapshot_nobody_heard_of_is_adopted() {
    let fleet = fleet().await;
    let api = &fleet.api;
    let config = create(api, &with(of_node(&fleet.agent.node), json!({ "retention": 2 }))).await;
    made(api, &config.id).await;
    let two = made(api, &config.id).await;
    // As if its outcome had never come.
    let store = &fleet.plane.app().store;
    let mut tx = store.begin(fleet.plane.app().clock.now()).await.unwrap();
    let mut lost = two.clone();
    (lost.status, lost.snapshot) = (BackupStatus::Failed, None);
    tx.update(
        nm_store::Kind::Backup,
        two.id.as_str(),
        nm_store::Patch::new().status(&lost).unwrap(),
    )
    .await
    .unwrap();
    tx.commit().await.unwrap();
    fleet.plane.clock().advance(Duration::from_secs(3 * 24 * 3600));
    let new = made(api, &config.id).await;
    assert_eq!(super::config(api, &config.id).await.status, BackupConfigStatus::Active);
    assert_eq!(fleet.agent.calls(Ask::BackupList), 2, "once for the destination, once for this");
    let left: Vec<_> = backups(api, &config.id).await.into_iter().map(|b| b.id).collect();
    assert_eq!(left, [new.id]);
    assert_eq!(fleet.agent.snapshots(&config.id).len(), 1);
}

#[tokio::test]
async fn every_backup_is_copied_and_removed_there_too() {
    let fleet = fleet().await;
    let api = &fleet.api;
    let spec = with(
        of_node(&fleet.agent.node),
        json!({ "retention": 2, "copy": { "destination": "/mnt/second" } }),
    );
    let config = create(api, &spec).await;
    let one = made(api, &config.id).await;
    let copied = backup(api, &one.id).await.copied.unwrap();
    assert!(copied.starts_with('c'));
    let seen = super::config(api, &config.id).await;
    assert!(
        seen.copy
            .unwrap()
            .repository
            .is_some_and(|r| r.location.starts_with("/mnt/second/"))
    );
    fleet.plane.clock().advance(3 * DAY);
    made(api, &config.id).await;
    assert_eq!(fleet.agent.snapshots(&config.id).len(), 2, "one here and one there");
    // A copy that fails makes the backup no worse, and is said.
    fleet
        .agent
        .fail_backup(Ask::BackupCopy, JobErrorCode::Unreachable, "The second disk is gone.");
    made(api, &config.id).await;
    let seen = super::config(api, &config.id).await;
    assert_eq!(seen.status, BackupConfigStatus::Error);
    assert!(seen.message.is_some_and(|m| m.contains("The second disk is gone.")));
    made(api, &config.id).await;
    assert!(backups(api, &config.id).await.iter().all(|b| b.copied.is_some()));
    let path = format!("{CONFIGS}/{}", config.id);
    let refused = api
        .patch(&path)
        .json(&json!({ "copy": { "destination": "/mnt/third" } }))
        .await
        .refused(409, "fixed");
    assert_eq!(refused.details[0].field, "copy.destination");
    api.patch(&path).json(&json!({ "copy": null })).await.is(200);
    assert!(backups(api, &config.id).await.iter().all(|b| b.copied.is_none()));
}

#[tokio::test]
async fn data_is_read_part_by_part() {
    let fleet = fleet().await;
    let api = &fleet.api;
    let config = create(api, &with(of_node(&fleet.agent.node), json!({ "check": { "parts": 2 } }))).await;
    let path = format!("{CONFIGS}/{}/check", config.id);
    api.post(&path).await.refused(409, "no_repository");
    made(api, &config.id).await;
    for _ in 0..3 {
        let seen: RepositoryView = api.post(&path).await.data(200);
        assert!(seen.last_read.is_some());
    }
    let parts = tasks(&fleet.agent, |task| match task {
        Task::Check(c) => c.read,
        _ => None,
    });
    let part = |n| ReadPart { n, of: 2 };
    assert_eq!(parts, [part(1), part(2), part(1)]);
    fleet.agent.check_finds(&["pack def is damaged"]);
    let refused = api.post(&path).await.refused(409, "repository_damaged");
    assert!(refused.error.contains("pack def"), "{refused:?}");
    assert_eq!(super::config(api, &config.id).await.status, BackupConfigStatus::Error);
    fleet.agent.check_finds(&[]);
    // By itself, once a week.
    fleet.plane.clock().advance(7 * DAY);
    eventually("it is read by itself", async || {
        (fleet.agent.calls(Ask::BackupCheck) >= 6).then_some(())
    })
    .await;
}

#[tokio::test]
async fn restores_are_tested() {
    let fleet = fleet().await;
    let api = &fleet.api;
    let spec = with(of_node(&fleet.agent.node), json!({ "check": { "testRestore": "@daily" } }));
    let config = create(api, &spec).await;
    let one = made(api, &config.id).await;
    let path = format!("{BACKUPS}/{}/verify", one.id);
    let seen: nm_types::backup::BackupView = api.post(&path).await.data(200);
    assert!(seen.verification.unwrap().restored.is_some());
    let restores = tasks(&fleet.agent, |task| match task {
        Task::Restore(r) => Some(r),
        _ => None,
    });
    assert!(restores[0].scratch && restores[0].verify && restores[0].items[0].to.is_empty());
    fleet
        .agent
        .fail_backup(Ask::BackupRestore, JobErrorCode::Damaged, "A pack is damaged.");
    api.post(&path).await.refused(409, "repository_damaged");
    fleet.plane.clock().advance(DAY);
    eventually("it is tested by itself", async || {
        (fleet.agent.calls(Ask::BackupRestore) >= 3).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_size_that_jumps_is_said() {
    let fleet = fleet().await;
    let api = &fleet.api;
    let config = create(api, &of_node(&fleet.agent.node)).await;
    fleet.agent.backup_size(100 << 20);
    for _ in 0..3 {
        made(api, &config.id).await;
    }
    assert_eq!(super::config(api, &config.id).await.message, None);
    fleet.agent.backup_size(1 << 20);
    made(api, &config.id).await;
    let message = super::config(api, &config.id).await.message.unwrap();
    assert!(message.contains("1048576 bytes"), "{message}");
    let _all = until_ended(api, &config.id, 4).await;
}

/// Without anybody having made a rule: the one every fleet begins with.
#[tokio::test]
async fn trouble_is_an_alert_and_among_the_metrics() {
    let fleet = fleet().await;
    let api = &fleet.api;
    let config = create(api, &of_node(&fleet.agent.node)).await;
    made(api, &config.id).await;
    fleet
        .agent
        .fail_backup(Ask::BackupMake, JobErrorCode::DiskFull, "The destination is full.");
    make(api, &config.id).await;
    let firing = async || -> Vec<AlertView> { api.get("/api/alerts?state=firing").await.data(200) };
    let alert = eventually("it fires", async || firing().await.pop()).await;
    assert_eq!(
        (alert.server_id.as_str(), alert.rule_name.as_str()),
        (fleet.agent.node.as_str(), "Backup in trouble")
    );
    assert!(alert.message.contains("`Daily`: The destination is full."), "{}", alert.message);
    let metrics = api.get("/metrics").await.text();
    let block = format!(
        "{{config_id=\"{}\",config=\"Daily\",server_id=\"{}\"}}",
        config.id, fleet.agent.node
    );
    for (name, value) in [
        ("neuralmesh_backup_successes_total", "1"),
        ("neuralmesh_backup_failures_total", "1"),
        ("neuralmesh_backup_trouble", "1"),
        ("neuralmesh_backup_last_size_bytes", "1000"),
        ("neuralmesh_backup_repository_bytes", "5000"),
    ] {
        assert!(metrics.contains(&format!("{name}{block} {value}\n")), "{name}: {metrics}");
    }
    assert!(metrics.contains(&format!("neuralmesh_backup_last_success_timestamp_seconds{block} ")));
    made(api, &config.id).await;
    eventually("it is over", async || firing().await.is_empty().then_some(())).await;
}
