use super::{BACKUPS, CONFIGS, backup, begin, create, ended, fleet_on, made, make, of_node, with};
use nm_testing::{Ask, Database, When};
use nm_types::backup::job::JobErrorCode;
use nm_types::backup::{BackupConfigStatus, BackupStatus, BackupView};
use serde_json::json;

nm_testing::both!(
    killed_in_the_middle_of_each_step,
    killed_in_the_middle_of_the_other_operations,
    a_link_that_breaks_joins_the_job_again,
);

/// Whatever it was doing, it goes on after a restart, and nothing is done twice.
async fn killed_in_the_middle_of_each_step(database: Database) {
    let mut fleet = fleet_on(database).await;
    let spec = with(
        of_node(&fleet.agent.node),
        json!({ "copy": { "destination": "/mnt/second" }, "retention": 1 }),
    );
    let config = create(&fleet.api, &spec).await;
    let points = [
        (Ask::BackupMake, When::Before),
        (Ask::BackupMake, When::After),
        (Ask::BackupCheck, When::Before),
        (Ask::BackupCheck, When::After),
        (Ask::BackupCopy, When::Before),
        (Ask::BackupCopy, When::After),
        (Ask::BackupForget, When::Before),
        (Ask::BackupForget, When::After),
    ];
    let mut expected = 0;
    for (n, (ask, when)) in points.into_iter().enumerate() {
        if ask == Ask::BackupForget {
            age(&fleet, &config.id).await;
            expected = 0;
        }
        let hold = fleet.agent.hold(ask, when);
        let begun = begin(&fleet.api, &config.id).await;
        hold.reached(1).await;
        fleet.plane.kill_only();
        hold.release();
        fleet.plane.reopen().await;
        let done = ended(&fleet.api, &begun).await;
        assert_eq!(done.status, BackupStatus::Completed, "{n} {ask:?} {when:?}: {:?}", done.message);
        expected += 1;
        // Here and in the second repository.
        assert_eq!(fleet.agent.snapshots(&config.id).len(), 2 * expected, "{n} {ask:?} {when:?}");
        let seen = super::config(&fleet.api, &config.id).await;
        assert_eq!((seen.status, seen.message), (BackupConfigStatus::Active, None));
        assert!(backup(&fleet.api, &begun.id).await.copied.is_some());
    }
}

/// What there is is older than retention keeps it.
async fn age(fleet: &super::Fleet, config: &nm_types::BackupConfigId) {
    let app = fleet.plane.app();
    let all = super::backups(&fleet.api, config).await;
    let mut tx = app.store.begin(app.clock.now()).await.unwrap();
    for mut view in all {
        view.timestamp = view.timestamp.plus_millis(-10 * 24 * 3_600_000);
        let patch = nm_store::Patch::new().status(&view).unwrap();
        tx.update(nm_store::Kind::Backup, view.id.as_str(), patch).await.unwrap();
    }
    tx.commit().await.unwrap();
}

async fn killed_in_the_middle_of_the_other_operations(database: Database) {
    let mut fleet = fleet_on(database).await;
    let config = create(&fleet.api, &of_node(&fleet.agent.node)).await;
    let one = made(&fleet.api, &config.id).await;
    let _two = made(&fleet.api, &config.id).await;
    for (path, ask) in [
        (format!("{BACKUPS}/{}/restore", one.id), Ask::BackupRestore),
        (format!("{BACKUPS}/{}/verify", one.id), Ask::BackupRestore),
        (format!("{CONFIGS}/{}/check", config.id), Ask::BackupCheck),
        (format!("{BACKUPS}/{}", one.id), Ask::BackupForget),
    ] {
        for when in [When::Before, When::After] {
            if ask == Ask::BackupForget && when == When::After {
                continue;
            }
            let hold = fleet.agent.hold(ask, when);
            let call = match ask {
                Ask::BackupForget => fleet.api.delete(&path),
                _ => fleet.api.post(&path),
            };
            let operation: nm_types::operation::OperationView = call.respond_async().await.data(202);
            hold.reached(1).await;
            fleet.plane.kill_only();
            hold.release();
            fleet.plane.reopen().await;
            let ended = fleet.api.ended(operation.id.as_str()).await;
            assert_eq!(ended.error, None, "{path}");
        }
    }
    let left: Vec<BackupView> = fleet.api.get(format!("{BACKUPS}/alder")).await.data(200);
    assert_eq!(left.len(), 1);
    let keys: Vec<_> = fleet.agent.backup_jobs().into_iter().map(|j| j.job.key).collect();
    let mut once = keys.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), keys.len());
}

async fn a_link_that_breaks_joins_the_job_again(database: Database) {
    let fleet = fleet_on(database).await;
    let config = create(&fleet.api, &of_node(&fleet.agent.node)).await;
    for when in [When::Before, When::After] {
        let hold = fleet.agent.hold(Ask::BackupMake, when);
        let begun = begin(&fleet.api, &config.id).await;
        hold.reached(1).await;
        fleet.agent.cut();
        hold.reached(2).await;
        hold.release();
        assert_eq!(ended(&fleet.api, &begun).await.status, BackupStatus::Completed);
    }
    // An answer that ends without an end says nothing.
    fleet.agent.abort_next(Ask::BackupMake);
    made(&fleet.api, &config.id).await;
    assert_eq!(fleet.agent.snapshots(&config.id).len(), 3);
}

#[tokio::test]
async fn what_fails_is_said_and_loses_nothing() {
    let fleet = fleet_on(Database::sqlite()).await;
    let api = &fleet.api;
    let config = create(api, &of_node(&fleet.agent.node)).await;
    let good = made(api, &config.id).await;
    for (code, says) in [
        (JobErrorCode::NotWritable, "can't be written"),
        (JobErrorCode::WrongPassword, "another password"),
        (JobErrorCode::Locked, "is locked"),
        (JobErrorCode::Died, "was killed"),
        (JobErrorCode::StreamFailed, "pg_dump failed"),
        (JobErrorCode::SourceFailed, "nothing could be read"),
    ] {
        fleet.agent.fail_backup(Ask::BackupMake, code, says);
        let failed = make(api, &config.id).await;
        assert_eq!((failed.status, failed.message.as_deref()), (BackupStatus::Failed, Some(says)));
        let seen = super::config(api, &config.id).await;
        assert_eq!((seen.status, seen.message.as_deref()), (BackupConfigStatus::Error, Some(says)));
        assert_eq!(seen.last_backup, Some(good.timestamp));
    }
    // A disk that is not mounted: never a fresh repository.
    fleet.agent.unmount_backups();
    let failed = make(api, &config.id).await;
    assert!(failed.message.is_some_and(|m| m.contains("mounted")));
    assert_eq!(fleet.agent.snapshots(&config.id).len(), 0);
    assert_eq!(backup(api, &good.id).await.status, BackupStatus::Completed);
}
