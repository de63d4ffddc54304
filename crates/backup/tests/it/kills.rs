//! kill -9 of the worker in the middle of anything: what was good before is good, and nothing is claimed that is not so.
//! `NM_KILLS` says how often; ten times by default.

use crate::support::*;
use nm_types::backup::{
    BackupType,
    job::{ForgetTask, JobErrorCode, JobEvent, Outcome, Task},
};
use std::{
    fs,
    time::{Duration, Instant},
};

fn times() -> u64 {
    std::env::var("NM_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(10)
}

/// Kills it so long after its first word, or lets it end.
fn run_for(job: &nm_types::backup::job::Job, time: Duration) -> Vec<JobEvent> {
    let mut worker = Worker::start(job);
    let mut events = vec![worker.next().unwrap()];
    let until = Instant::now() + time;
    while Instant::now() < until && worker.child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    worker.kill();
    events.extend(worker.rest());
    events
}

#[test]
fn killed_in_a_backup() {
    let lab = Lab::new();
    let source = lab.source();
    fill(&source);
    let first = lab.full("0");
    let good = lab.path("good");
    lab.restore(&first.snapshot, &good);
    let whole = {
        fs::write(source.join("more"), noise(1, 20_000_000)).unwrap();
        let began = Instant::now();
        lab.full("measured");
        began.elapsed()
    };
    for n in 1..=times() {
        fs::write(source.join("more"), noise(n + 100, 20_000_000)).unwrap();
        let name = format!("{n}");
        let events = run_for(
            &lab.job(Task::Backup(lab.task(BackupType::Full, None, &name))),
            whole * u32::try_from(n % 10).unwrap() / 9,
        );
        if let Some(JobEvent::Done {
            outcome: Outcome::BackedUp(made),
        }) = events.last()
        {
            lab.restore(&made.snapshot, &lab.path("target"));
            assert_same(&source, &lab.path("target"));
        }
        // Taken up again, it is one snapshot, and whole.
        let made = lab.full(&name);
        let checked = lab.check(true);
        assert!(checked.findings.is_empty(), "{n}: {:?}", checked.findings);
        lab.restore(&made.snapshot, &lab.path("target"));
        assert_same(&source, &lab.path("target"));
    }
    let Outcome::Snapshots(listed) = lab.run(Task::List).unwrap() else {
        panic!()
    };
    // A file that was half written has another name, is no snapshot, and goes with the next prune.
    assert_eq!(listed.snapshots.len() as u64, times() + 2);
    let half = lab.repository().join("snapshots").join(format!(".{}-1-1.part", first.snapshot));
    fs::write(&half, "half").unwrap();
    let keep: Vec<&str> = listed.snapshots.iter().map(|snapshot| snapshot.id.as_str()).collect();
    lab.forget(&[], &keep, 0).unwrap();
    assert_eq!(lab.files("snapshots").len() as u64, times() + 2);
    assert!(!lab.files("").iter().any(|file| file.extension().is_some_and(|end| end == "part")));
    lab.restore(&first.snapshot, &lab.path("target"));
    assert_same(&good, &lab.path("target"));
    lab.restic(&["check", "--read-data"]);
}

#[test]
fn killed_in_a_prune() {
    let lab = Lab::new();
    let source = lab.source();
    fill(&source);
    fs::write(source.join("more"), noise(1, 10_000_000)).unwrap();
    let mut kept = lab.full("0").snapshot;
    for n in 1..=times() {
        let before = lab.path("before");
        lab.restore(&kept, &before);
        fs::write(source.join("more"), noise(n + 100, 10_000_000)).unwrap();
        let next = lab.full(&format!("{n}")).snapshot;
        // Half of what goes shares its packs with what stays.
        let task = ForgetTask {
            remove: vec![kept.clone()],
            keep: vec![next.clone()],
            prune: true,
            grace: 0,
        };
        let job = lab.job(Task::Forget(task));
        for m in 0..3 {
            run_for(&job, Duration::from_millis(7 * (n * 3 + m) % 150));
            let checked = lab.check(true);
            assert!(checked.findings.is_empty(), "{n}: {:?}", checked.findings);
        }
        let Ok(Outcome::Forgotten(forgotten)) = lab.run(job.task.clone()) else {
            panic!()
        };
        assert_eq!(forgotten.removed, [kept]);
        lab.restore(&next, &lab.path("target"));
        assert_same(&source, &lab.path("target"));
        kept = next;
    }
    assert_eq!(lab.files("snapshots").len(), 1);
    lab.restic(&["check", "--read-data"]);
}

#[test]
fn killed_in_a_restore() {
    let lab = Lab::new();
    let source = lab.source();
    fill(&source);
    fs::write(source.join("more"), noise(1, 20_000_000)).unwrap();
    let made = lab.full("0");
    let old = lab.path("old");
    fs::create_dir(&old).unwrap();
    fs::write(old.join("before"), b"before").unwrap();
    let target = lab.path("target");
    let whole = {
        let began = Instant::now();
        lab.restore(&made.snapshot, &target);
        began.elapsed()
    };
    for n in 1..=times() {
        fs::remove_dir_all(&target).unwrap();
        fs::create_dir(&target).unwrap();
        fs::write(target.join("before"), b"before").unwrap();
        let job = lab.job(Task::Restore(lab.restore_task(&made.snapshot, &target)));
        let events = run_for(&job, whole * u32::try_from(n % 10).unwrap() / 9);
        let claimed = matches!(events.last(), Some(JobEvent::Done { .. }));
        // Either what was before, or all of the backup, and never a half of it.
        if target.join("before").exists() {
            assert!(!claimed);
            assert_eq!(fs::read_dir(&target).unwrap().count(), 1);
        } else {
            assert_same(&source, &target);
        }
        // Again, over whatever was left.
        lab.restore(&made.snapshot, &target);
        assert_same(&source, &target);
        let left = fs::read_dir(lab.dir.path())
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with(".neuralmesh"));
        assert_eq!(left.count(), 0);
    }
    let error = lab.try_restore(lab.restore_task(&"00".repeat(32), &target)).unwrap_err();
    assert_eq!(error.code, JobErrorCode::SnapshotMissing);
}
