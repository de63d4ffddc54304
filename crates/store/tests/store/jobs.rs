//! The tasks of jobs.

use crate::fixture::{Fixture, NOW};
use nm_store::{JobTaskRow, Kind, NewResource, Patch, Store, Subject};

both!(
    tasks_are_written_and_written_over,
    tasks_go_with_their_transaction,
    tasks_are_forgotten_by_job
);

fn task(job: &str, number: i64, record: &str) -> JobTaskRow {
    JobTaskRow {
        job: job.into(),
        number,
        record: record.into(),
    }
}

async fn put(store: &Store, tasks: &[JobTaskRow]) {
    let mut tx = store.begin(NOW).await.unwrap();
    tx.job_tasks_put(tasks).await.unwrap();
    tx.commit().await.unwrap();
}

async fn tasks_are_written_and_written_over(f: Fixture) {
    let store = f.open().await;
    let many: Vec<JobTaskRow> = (0..1001).rev().map(|n| task("a", n, "{\"first\":true}")).collect();
    put(&store, &many).await;
    put(&store, &[task("a", 7, "{\"second\":true}"), task("b", 7, "{}")]).await;
    let all = store.job_tasks("a", 0, 10_000).await.unwrap();
    assert_eq!(all.len(), 1001);
    assert!(all.iter().zip(0..).all(|(row, n)| row.number == n));
    assert_eq!(all[7], task("a", 7, "{\"second\":true}"));
    let page = store.job_tasks("a", 999, 10).await.unwrap();
    assert_eq!(page.iter().map(|r| r.number).collect::<Vec<_>>(), [999, 1000]);
    drop(store);
    let store = f.open().await;
    assert_eq!(store.job_tasks("b", 0, 10).await.unwrap(), [task("b", 7, "{}")]);
    put(&store, &[]).await;
}

async fn tasks_go_with_their_transaction(f: Fixture) {
    let store = f.open().await;
    let mut tx = store.begin(NOW).await.unwrap();
    tx.insert(NewResource::new(Kind::Job, "job_1").within("cluster_1")).await.unwrap();
    tx.commit().await.unwrap();
    let revision = store.revision().await.unwrap();
    let mut tx = store.begin(NOW).await.unwrap();
    tx.job_tasks_put(&[task("job_1", 0, "{}")]).await.unwrap();
    drop(tx);
    assert_eq!(store.job_tasks("job_1", 0, 10).await.unwrap(), []);
    let mut tx = store.begin(NOW).await.unwrap();
    tx.job_tasks_put(&[task("job_1", 0, "{}"), task("job_1", 1, "{}")]).await.unwrap();
    tx.update(Kind::Job, "job_1", Patch::new().status(&1).unwrap()).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(store.job_tasks("job_1", 0, 10).await.unwrap().len(), 2);
    // The feed tells of the job, once for all of its tasks.
    let told = store.changes_since(revision, 100).await.unwrap();
    let told: Vec<_> = told.iter().map(|c| (c.subject, &*c.id)).collect();
    assert_eq!(told, [(Subject::Resource(Kind::Job), "job_1")]);
}

async fn tasks_are_forgotten_by_job(f: Fixture) {
    let store = f.open().await;
    put(&store, &[task("a", 0, "{}"), task("a", 1, "{}"), task("b", 0, "{}")]).await;
    let mut tx = store.begin(NOW).await.unwrap();
    tx.job_tasks_forget("a").await.unwrap();
    tx.job_tasks_forget("nobody").await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(store.job_tasks("a", 0, 10).await.unwrap(), []);
    assert_eq!(store.job_tasks("b", 0, 10).await.unwrap().len(), 1);
}
