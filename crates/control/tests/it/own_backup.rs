//! The control plane's backup of itself, with a worker that notes what it is told.

use futures_util::future::BoxFuture;
use nm_control::service::clock::Clock;
use nm_control::service::own_backup::{EXPORT_AT, JobRunner, OwnBackup, OwnBackupConfig};
use nm_store::{DatabaseUrl, Store, StoreConfig};
use nm_testing::TestClock;
use nm_types::backup::job::{
    BackedUp, Checked, Forgotten, Hidden, Job, JobError, JobErrorCode, JobEvent, Outcome, SnapshotSeen, Snapshots, Source, Task,
};
use nm_types::units::Bounded;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A repository in memory.
#[derive(Default)]
struct Repository {
    snapshots: Vec<SnapshotSeen>,
    fails: bool,
    exports: Vec<String>,
    checks: usize,
}

#[derive(Clone, Default)]
struct Worker(Arc<Mutex<Repository>>);

impl JobRunner for Worker {
    fn run<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, JobEvent> {
        let mut held = self.0.lock().unwrap();
        assert_eq!(job.repository.password.0, "planted-password");
        let outcome = match &job.task {
            _ if held.fails => {
                let error = JobError {
                    code: JobErrorCode::DiskFull,
                    message: "The destination is full.".into(),
                };
                return Box::pin(async move { JobEvent::Failed { error } });
            }
            Task::Backup(task) => {
                let Source::Path { path, at } = &task.sources[0] else { panic!() };
                assert_eq!(at, EXPORT_AT);
                held.exports.push(std::fs::read_to_string(path).unwrap());
                let once = held.snapshots.iter().any(|s| s.tags.contains(&task.once));
                if !once {
                    held.snapshots.push(SnapshotSeen {
                        id: format!("s{}", task.time.0),
                        time: task.time,
                        label: task.label.clone(),
                        tags: task.tags.iter().cloned().chain([task.once.clone()]).collect(),
                        paths: Vec::new(),
                    });
                }
                Outcome::BackedUp(BackedUp {
                    repository: "repository".into(),
                    snapshot: format!("s{}", task.time.0),
                    kind: task.kind,
                    parent: None,
                    files: 2,
                    files_new: 2,
                    files_changed: 0,
                    bytes: 100,
                    added: 100,
                    problems: Vec::new(),
                    problem_count: 0,
                })
            }
            Task::List => Outcome::Snapshots(Snapshots {
                repository: "repository".into(),
                snapshots: held.snapshots.clone(),
            }),
            Task::Forget(task) => {
                held.snapshots.retain(|s| !task.remove.contains(&s.id));
                let left: Vec<String> = held.snapshots.iter().map(|s| s.id.clone()).collect();
                assert_eq!(left, task.keep);
                Outcome::Forgotten(Forgotten {
                    removed: task.remove.clone(),
                    marked: 0,
                    freed: 0,
                    size: 0,
                })
            }
            Task::Check(_) => {
                held.checks += 1;
                Outcome::Checked(Checked {
                    packs: 1,
                    read: 0,
                    findings: Vec::new(),
                    finding_count: 0,
                    damaged: Vec::new(),
                    size: 100,
                })
            }
            other => panic!("{other:?}"),
        };
        Box::pin(async move { JobEvent::Done { outcome } })
    }
}

async fn opened(dir: &Path, worker: &Worker, clock: &Arc<TestClock>) -> (Store, OwnBackup) {
    let store = Store::open(StoreConfig {
        url: DatabaseUrl::sqlite(dir.join("nm.db")),
        key_file: dir.join("key"),
    })
    .await
    .unwrap();
    let config = OwnBackupConfig {
        destination: "/mnt/vault".parse().unwrap(),
        credentials: None,
        schedule: "0 3 * * *".parse().unwrap(),
        retention: Bounded::new(5).unwrap(),
        password: Hidden("planted-password".into()),
        scratch: dir.join("own-backup"),
        allow: Vec::new(),
        runner: Arc::new(worker.clone()),
    };
    let own = OwnBackup::open(store.clone(), clock.clone(), Some(config)).await.unwrap();
    (store, own)
}

#[tokio::test]
async fn once_a_slot_old_ones_go_and_a_failure_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let (worker, clock) = (Worker::default(), Arc::new(TestClock::default()));
    let (store, own) = opened(dir.path(), &worker, &clock).await;
    let made = || worker.0.lock().unwrap().snapshots.len();
    // The first at once, and none more before the next time of the schedule.
    let next = own.turn().await.unwrap();
    assert_eq!((made(), own.turn().await, next.0 % 86_400_000), (1, Some(next), 3 * 3_600_000));
    assert!(worker.0.lock().unwrap().exports[0].ends_with("}\n"));
    assert_eq!(std::fs::read_dir(dir.path().join("own-backup")).unwrap().count(), 0);
    for day in 2..=12 {
        clock.advance(Duration::from_secs(86_400));
        own.turn().await;
        own.turn().await;
        assert_eq!(made(), day.min(5), "day {day}");
    }
    let view = own.view();
    assert_eq!((view.kept, view.message), (Some(5), None));
    assert_eq!(worker.0.lock().unwrap().checks, 12);

    worker.0.lock().unwrap().fails = true;
    clock.advance(Duration::from_secs(86_400));
    let again = own.turn().await.unwrap();
    assert!((14 * 60_000..=15 * 60_000).contains(&again.since(clock.now())));
    assert!(own.view().message.unwrap().contains("full"));
    assert_eq!(own.turn().await, Some(again), "not before");
    worker.0.lock().unwrap().fails = false;
    // A restart in between: the same slot, and its snapshot is not made twice.
    let slot = std::fs::read_to_string(dir.path().join("own-backup/begun")).unwrap();
    store.close().await;
    clock.advance(Duration::from_secs(60));
    let (_store, own) = opened(dir.path(), &worker, &clock).await;
    own.turn().await;
    let last = own.view().last_backup.unwrap();
    assert_eq!(last.0.to_string(), slot.trim());
    assert_eq!(own.view().message, None);
}

#[tokio::test]
async fn it_adds_nothing_to_the_backups_of_another_control_plane() {
    let (worker, clock) = (Worker::default(), Arc::new(TestClock::default()));
    let (lost, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, own) = opened(lost.path(), &worker, &clock).await;
    own.perform().await.unwrap();
    store.close().await;
    let (_store, own) = opened(new.path(), &worker, &clock).await;
    let refused = own.perform().await.unwrap_err();
    assert_eq!(refused.code, "repository_foreign");
    assert!(refused.message.contains("restore-control-plane"), "{}", refused.message);
    assert_eq!(worker.0.lock().unwrap().snapshots.len(), 1);
}
