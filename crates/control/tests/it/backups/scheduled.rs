use super::{BACKUPS, CONFIGS, Fleet, backups, begin, create, ended, fleet, fleet_on, made, of_node, tasks, until_ended, with};
use nm_testing::{Ask, Database, FakeAgent, When, eventually};
use nm_types::backup::job::{RepositoryPlace, Task};
use nm_types::backup::{BackupConfigStatus, BackupConfigView, BackupStatus};
use serde_json::json;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

nm_testing::both!(
    a_slot_has_one_backup,
    two_claims_of_a_slot,
    a_control_plane_that_is_killed_fifty_times_has_one_run_a_slot,
    missed_slots_are_caught_up_once,
);

async fn scheduled(fleet: &Fleet, more: serde_json::Value) -> BackupConfigView {
    create(
        &fleet.api,
        &with(with(of_node(&fleet.agent.node), json!({ "schedule": "@daily" })), more),
    )
    .await
}

async fn a_slot_has_one_backup(database: Database) {
    let fleet = fleet_on(database).await;
    let config = scheduled(&fleet, json!({})).await;
    let first = config.next_backup.unwrap();
    for n in 1..=3 {
        fleet.plane.clock().advance(DAY);
        let all = until_ended(&fleet.api, &config.id, n).await;
        assert_eq!(all.len(), n);
        assert_eq!(all[0].status, BackupStatus::Completed, "{:?}", all[0].message);
    }
    let mut slots: Vec<_> = backups(&fleet.api, &config.id).await.iter().map(|b| b.slot.unwrap()).collect();
    slots.reverse();
    assert_eq!(slots[0], first);
    assert!(slots.windows(2).all(|two| two[1].since(two[0]) == 86_400_000), "{slots:?}");
    assert_eq!(
        super::config(&fleet.api, &config.id).await.next_backup,
        Some(slots[2].plus_millis(86_400_000))
    );
}

/// Two looks at once, as two replicas have: one begins it.
async fn two_claims_of_a_slot(database: Database) {
    let fleet = fleet_on(database).await;
    let config = scheduled(&fleet, json!({})).await;
    for n in 1..=5 {
        fleet.plane.clock().advance(DAY);
        let backups = &fleet.plane.app().backups;
        tokio::join!(backups.turn(), backups.turn(), backups.turn());
        assert_eq!(until_ended(&fleet.api, &config.id, n).await.len(), n);
    }
    assert_eq!(fleet.agent.snapshots(&config.id).len(), 5);
}

async fn a_control_plane_that_is_killed_fifty_times_has_one_run_a_slot(database: Database) {
    let mut fleet = fleet_on(database).await;
    let config = scheduled(&fleet, json!({ "retention": 365 })).await;
    let mut ahead = Duration::ZERO;
    for round in 1..=50_usize {
        // At another point each time, from before the slot is claimed to after the backup was made.
        let point = match round % 5 {
            1 => Some((Ask::BackupMake, When::Before)),
            2 => Some((Ask::BackupMake, When::After)),
            3 => Some((Ask::BackupCheck, When::Before)),
            4 => Some((Ask::BackupCheck, When::After)),
            _ => None,
        };
        let hold = point.map(|(ask, when)| fleet.agent.hold(ask, when));
        fleet.plane.clock().advance(DAY);
        ahead += DAY;
        if let Some(hold) = &hold {
            hold.reached(1).await;
        }
        fleet.plane.kill_only();
        drop(hold);
        reopen(&mut fleet, ahead).await;
        until_ended(&fleet.api, &config.id, round).await;
    }
    let all = until_ended(&fleet.api, &config.id, 50).await;
    let mut slots: Vec<_> = all.iter().filter_map(|b| b.slot).collect();
    assert_eq!(slots.len(), 50);
    slots.sort_unstable();
    slots.dedup();
    assert_eq!(slots.len(), 50, "no slot has two");
    for backup in &all {
        assert_eq!(backup.status, BackupStatus::Completed, "{backup:?}");
    }
    assert_eq!(fleet.agent.snapshots(&config.id).len(), 50, "and none was made twice");
}

/// Opens it again at the machine's own time, by which the node judges certificates, and then puts the clock forward.
async fn reopen(fleet: &mut Fleet, ahead: Duration) {
    fleet.plane.clock().rewind(ahead);
    fleet.plane.reopen().await;
    connected(fleet, true).await;
    fleet.plane.clock().advance(ahead);
    fleet.plane.app().backups.turn().await;
}

async fn connected(fleet: &Fleet, wanted: bool) {
    eventually("the node's link", async || {
        (fleet.plane.app().fleet.is_connected(&fleet.agent.node) == wanted).then_some(())
    })
    .await;
}

async fn missed_slots_are_caught_up_once(database: Database) {
    let mut fleet = fleet_on(database).await;
    let config = scheduled(&fleet, json!({})).await;
    fleet.plane.stop().await;
    fleet.plane.clock().advance(5 * DAY);
    reopen(&mut fleet, 5 * DAY).await;
    let all = until_ended(&fleet.api, &config.id, 1).await;
    assert_eq!(all.len(), 1, "the newest stands for all of them");
    fleet.plane.clock().advance(DAY);
    assert_eq!(until_ended(&fleet.api, &config.id, 2).await.len(), 2);
}

#[tokio::test]
async fn a_pause_is_not_caught_up() {
    let fleet = fleet().await;
    let config = scheduled(&fleet, json!({ "status": "paused" })).await;
    fleet.plane.clock().advance(3 * DAY);
    let path = format!("{CONFIGS}/{}", config.id);
    fleet.api.patch(&path).json(&json!({ "status": "active" })).await.is(200);
    fleet.plane.app().backups.turn().await;
    assert_eq!(backups(&fleet.api, &config.id).await.len(), 0);
    fleet.plane.clock().advance(DAY);
    assert_eq!(until_ended(&fleet.api, &config.id, 1).await.len(), 1);
}

#[tokio::test]
async fn one_that_overlaps_is_skipped_and_says_so() {
    let fleet = fleet().await;
    let config = scheduled(&fleet, json!({})).await;
    let hold = fleet.agent.hold(Ask::BackupMake, When::Before);
    let begun = begin(&fleet.api, &config.id).await;
    hold.reached(1).await;
    fleet.plane.clock().advance(DAY);
    let skipped = eventually("the slot is skipped", async || {
        backups(&fleet.api, &config.id)
            .await
            .into_iter()
            .find(|b| b.status == BackupStatus::Cancelled)
    })
    .await;
    assert!(skipped.slot.is_some() && skipped.operation_id.is_none());
    assert!(
        skipped.message.as_ref().is_some_and(|m| m.contains("without a backup")),
        "{skipped:?}"
    );
    let seen = super::config(&fleet.api, &config.id).await;
    assert_eq!(seen.status, BackupConfigStatus::Error);
    assert!(seen.message.is_some_and(|m| m.contains("was skipped")));
    hold.release();
    ended(&fleet.api, &begun).await;
    assert_eq!(super::config(&fleet.api, &config.id).await.status, BackupConfigStatus::Active);
    assert_eq!(backups(&fleet.api, &config.id).await.len(), 2);
}

#[tokio::test]
async fn a_node_has_two_jobs_at_once_and_the_others_in_order() {
    let fleet = fleet().await;
    let api = &fleet.api;
    let hold = fleet.agent.hold(Ask::BackupMake, When::Before);
    let mut begun = Vec::new();
    for n in 0..4 {
        let config = create(api, &with(of_node(&fleet.agent.node), json!({ "name": format!("c{n}") }))).await;
        begun.push(begin(api, &config.id).await);
        let seen = (n + 1).min(2);
        hold.reached(seen).await;
    }
    eventually("two wait", async || {
        let mut waiting = 0;
        for backup in &begun[2..] {
            let operation = api.operation(backup.operation_id.as_ref().unwrap().as_str()).await;
            waiting += usize::from(operation.steps.last().is_some_and(|s| s.name == "wait"));
        }
        (waiting == 2).then_some(())
    })
    .await;
    assert_eq!(fleet.agent.calls(Ask::BackupMake), 2);
    hold.release();
    for backup in &begun {
        assert_eq!(ended(api, backup).await.status, BackupStatus::Completed);
    }
    let order: Vec<String> = tasks(&fleet.agent, |task| match task {
        Task::Backup(b) => Some(b.label),
        _ => None,
    });
    let wanted: Vec<String> = begun.iter().map(|b| b.config_id.to_string()).collect();
    assert_eq!(order, wanted);
}

#[tokio::test]
async fn a_node_that_is_away_fails_its_backup_plainly_and_has_the_next() {
    let fleet = fleet().await;
    let config = scheduled(&fleet, json!({})).await;
    fleet.agent.take_down();
    connected(&fleet, false).await;
    fleet
        .api
        .post(format!("{BACKUPS}/perform/{}", config.id))
        .await
        .refused(503, "node_offline");
    fleet.plane.clock().advance(DAY);
    let all = until_ended(&fleet.api, &config.id, 1).await;
    assert_eq!(all[0].status, BackupStatus::Failed);
    assert!(
        all[0].message.as_ref().is_some_and(|m| m.contains("is not connected")),
        "{:?}",
        all[0].message
    );
    fleet.agent.mend();
    connected(&fleet, true).await;
    fleet.plane.clock().advance(DAY);
    let all = until_ended(&fleet.api, &config.id, 2).await;
    assert_eq!(all[0].status, BackupStatus::Completed, "{:?}", all[0].message);
}

#[tokio::test]
async fn a_clock_that_is_set_runs_nothing_twice() {
    let fleet = fleet().await;
    let config = scheduled(&fleet, json!({ "schedule": "@hourly" })).await;
    fleet.plane.clock().advance(HOUR);
    until_ended(&fleet.api, &config.id, 1).await;
    // An hour back would be before the slot that was taken.
    let taken = backups(&fleet.api, &config.id).await[0].slot;
    for _ in 0..3 {
        fleet.plane.app().backups.turn().await;
    }
    assert_eq!(backups(&fleet.api, &config.id).await.len(), 1);
    fleet.plane.clock().advance(HOUR);
    let all = until_ended(&fleet.api, &config.id, 2).await;
    assert_eq!((all.len(), all[1].slot), (2, taken));
}

#[tokio::test]
async fn a_server_that_is_gone_is_said() {
    let fleet = fleet().await;
    let api = &fleet.api;
    let birch = FakeAgent::join(&fleet.plane, "birch").await;
    let spec = json!({ "serverId": birch.node, "name": "b", "destination": "/backups", "schedule": "@daily" });
    let config = create(api, &spec).await;
    made(api, &config.id).await;
    api.delete(format!("/api/nodes/{}?force=true", birch.node)).await.is(200);
    api.post(format!("{BACKUPS}/perform/{}", config.id))
        .await
        .refused(409, "server_gone");
    fleet.plane.clock().advance(DAY);
    let skipped = eventually("the slot is skipped", async || {
        backups(api, &config.id)
            .await
            .into_iter()
            .find(|b| b.status == BackupStatus::Cancelled)
    })
    .await;
    assert!(skipped.message.is_some_and(|m| m.contains("no longer in the fleet")));
    // What there is of it is listed all the same.
    let listed: Vec<serde_json::Value> = api.get(format!("{BACKUPS}/{}", birch.node)).await.data(200);
    assert_eq!(listed.len(), 2);
}

#[tokio::test]
async fn a_folder_of_another_node_is_behind_a_socket_and_its_node_is_named_while_it_is_away() {
    let fleet = fleet().await;
    let birch = FakeAgent::join(&fleet.plane, "birch").await;
    let config = scheduled(&fleet, json!({ "destination": "node:birch:/srv/far" })).await;
    made(&fleet.api, &config.id).await;
    let wanted = format!("node:birch:/srv/far/{}", config.id);
    for job in fleet.agent.backup_jobs() {
        assert!(matches!(&job.job.repository.place, RepositoryPlace::Socket { socket, name } if socket.is_empty() && *name == wanted));
    }
    assert!(birch.backup_jobs().is_empty());
    birch.take_down();
    eventually("the link of the other node is gone", async || {
        (!fleet.plane.app().fleet.is_connected(&birch.node)).then_some(())
    })
    .await;
    let refused = fleet
        .api
        .post(format!("{BACKUPS}/perform/{}", config.id))
        .await
        .refused(503, "node_offline");
    assert!(refused.error.contains("birch"), "{refused:?}");
}
