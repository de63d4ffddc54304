//! Full, incremental and differential backups, each restored to the same tree.

use crate::support::*;
use nm_types::backup::{
    BackupType,
    job::{JobEvent, Outcome, RestoreChangeKind, RestoreItem, Source, Task, TreeEntryKind, TreeTask},
};
use std::{fs, os::unix::fs::symlink};

#[test]
fn each_kind_restores_alone_to_an_identical_tree() {
    let lab = Lab::new();
    let source = lab.source();
    fill(&source);
    let first = lab.full("a");
    assert_eq!(first.problem_count, 0, "{:?}", first.problems);
    assert_eq!(first.kind, BackupType::Full);
    let states = lab.path("states");
    fs::create_dir(&states).unwrap();
    lab.restore(&first.snapshot, &states.join("1"));
    assert_same(&source, &states.join("1"));

    fs::write(source.join("deep/file-3"), b"changed").unwrap();
    fs::remove_file(source.join("deep/file-4")).unwrap();
    fs::write(source.join("new"), noise(99, 70_000)).unwrap();
    set_time(&source, 1_600_000_000, 5);
    let second = lab.backup(BackupType::Incremental, Some(&first.snapshot), "b");
    assert_eq!(
        (second.kind, second.files_new, second.files_changed),
        (BackupType::Incremental, 1, 1)
    );
    assert!(second.added < first.added / 10, "{} of {}", second.added, first.added);
    lab.restore(&second.snapshot, &states.join("2"));
    assert_same(&source, &states.join("2"));

    fs::write(source.join("newer"), noise(98, 50_000)).unwrap();
    let third = lab.backup(BackupType::Differential, Some(&first.snapshot), "c");
    assert_eq!((third.kind, third.files_new, third.files_changed), (BackupType::Differential, 2, 1));
    lab.restore(&third.snapshot, &states.join("3"));
    assert_same(&source, &states.join("3"));

    // Each alone, in whatever order the others go.
    lab.forget(&[&first.snapshot, &second.snapshot], &[&third.snapshot], 0).unwrap();
    lab.forget(&[], &[&third.snapshot], 0).unwrap();
    let checked = lab.check(true);
    assert!(checked.findings.is_empty(), "{:?}", checked.findings);
    assert!(checked.read > 5_000_000);
    lab.restore(&third.snapshot, &states.join("4"));
    assert_same(&source, &states.join("4"));
}

#[test]
fn the_same_task_twice_makes_one_snapshot() {
    let lab = Lab::new();
    fs::write(lab.source().join("file"), b"once").unwrap();
    let first = lab.full("a");
    fs::write(lab.source().join("file"), b"twice").unwrap();
    let again = lab.full("a");
    assert_eq!(first.snapshot, again.snapshot);
    assert_eq!(again.added, 0);
    assert_eq!(lab.files("snapshots").len(), 1);
}

#[test]
fn a_differential_without_a_full_one_says_it_is_full() {
    let lab = Lab::new();
    fs::write(lab.source().join("file"), b"x").unwrap();
    assert_eq!(lab.backup(BackupType::Differential, None, "a").kind, BackupType::Full);
}

#[test]
fn events_tell_how_far_it_is_and_when_sources_were_read() {
    let lab = Lab::new();
    fill(&lab.source());
    let (result, events) = lab.run_told(Task::Backup(lab.task(BackupType::Full, None, "a")));
    assert!(matches!(result, Ok(Outcome::BackedUp(_))));
    let read = events.iter().filter(|event| matches!(event, JobEvent::SourcesRead)).count();
    assert_eq!(read, 1);
    assert!(
        events
            .iter()
            .any(|event| matches!(event, JobEvent::Progress(progress) if progress.files > 0))
    );
    assert!(
        events
            .iter()
            .any(|event| matches!(event, JobEvent::Step { name } if name == "read"))
    );
}

#[test]
fn what_is_excluded_is_left_out_and_the_tree_is_listed() {
    let lab = Lab::new();
    let source = lab.source();
    fs::create_dir_all(source.join("cache/deep")).unwrap();
    fs::write(source.join("cache/deep/file"), b"x").unwrap();
    fs::write(source.join("a.log"), b"x").unwrap();
    fs::write(source.join("keep.log"), b"x").unwrap();
    fs::write(source.join("b"), b"x").unwrap();
    symlink("b", source.join("c")).unwrap();
    let mut task = lab.task(BackupType::Full, None, "a");
    task.excludes = vec!["*.log".into(), "!keep.log".into(), "/data/cache/".into()];
    task.sources.push(Source::Text {
        at: "/spec/container.json".into(),
        content: "{}".into(),
    });
    let made = lab.try_backup(task).unwrap();
    let tree = |path: &str, offset, limit| {
        let task = TreeTask {
            snapshot: made.snapshot.clone(),
            path: path.into(),
            offset,
            limit,
        };
        match lab.run(Task::Tree(task)).unwrap() {
            Outcome::Tree(page) => page,
            other => panic!("{other:?}"),
        }
    };
    let names = |page: &nm_types::backup::job::TreePage| page.entries.iter().map(|entry| entry.name.clone()).collect::<Vec<_>>();
    let data = tree("/data", 0, 100);
    assert_eq!((names(&data), data.total), (vec!["b".to_owned(), "c".into(), "keep.log".into()], 3));
    assert_eq!(data.entries[1].kind, TreeEntryKind::Symlink);
    assert_eq!(data.entries[1].target.as_deref(), Some("b"));
    assert_eq!(data.entries[0].path, "/data/b");
    assert_eq!(names(&tree("/data", 1, 1)), ["c"]);
    assert_eq!(names(&tree("/", 0, 100)), ["data", "spec"]);
    assert_eq!(names(&tree("/spec", 0, 100)), ["container.json"]);
}

#[test]
fn a_part_is_restored_and_the_rest_of_the_target_stays() {
    let lab = Lab::new();
    let source = lab.source();
    fill(&source);
    let made = lab.full("a");
    let target = lab.path("target");
    fs::create_dir_all(target.join("deep")).unwrap();
    fs::write(target.join("mine"), b"mine").unwrap();
    fs::write(target.join("deep/mine"), b"mine").unwrap();
    fs::write(target.join("deep/file-1"), b"old").unwrap();
    let mut task = lab.restore_task(&made.snapshot, &target);
    task.items[0].replace = false;
    task.include = vec!["/data/deep".into()];
    let restored = lab.try_restore(task).unwrap();
    assert!(restored.verified);
    assert_eq!(fs::read(target.join("mine")).unwrap(), b"mine");
    assert_eq!(fs::read(target.join("deep/mine")).unwrap(), b"mine");
    assert_eq!(
        fs::read(target.join("deep/file-1")).unwrap(),
        fs::read(source.join("deep/file-1")).unwrap()
    );
    assert!(!target.join("large").exists());
    fs::remove_file(target.join("deep/mine")).unwrap();
    set_time(&target.join("deep"), 0, 0);
    set_time(&source.join("deep"), 0, 0);
    assert_same(&source.join("deep"), &target.join("deep"));

    // With `replace`, what is not in the backup goes, but only below what was asked for.
    fs::write(target.join("deep/mine"), b"mine").unwrap();
    let mut task = lab.restore_task(&made.snapshot, &target);
    task.include = vec!["/data/deep".into()];
    assert_eq!(lab.try_restore(task).unwrap().removed, 1);
    assert!(target.join("mine").exists() && !target.join("deep/mine").exists());
}

#[test]
fn one_file_goes_to_a_path_of_its_own() {
    let lab = Lab::new();
    fill(&lab.source());
    let made = lab.full("a");
    let to = lab.path("new/place/text");
    let mut task = lab.restore_task(&made.snapshot, &to);
    task.items = vec![RestoreItem {
        from: "/data/text.txt".into(),
        to: to.to_str().unwrap().into(),
        replace: true,
    }];
    lab.try_restore(task).unwrap();
    assert_eq!(fs::read(&to).unwrap(), fs::read(lab.source().join("text.txt")).unwrap());
    assert_eq!(fs::read_dir(lab.path("new/place")).unwrap().count(), 1, "the stage is gone");
}

#[test]
fn a_dry_run_changes_nothing_and_names_what_would() {
    let lab = Lab::new();
    let source = lab.source();
    fill(&source);
    let made = lab.full("a");
    let target = lab.path("target");
    lab.restore(&made.snapshot, &target);
    fs::remove_file(target.join("empty")).unwrap();
    fs::write(target.join("extra"), b"x").unwrap();
    // Changed without a sign: the same length, and the time put back.
    let time = fs::metadata(target.join("large-again")).unwrap();
    let mut bytes = fs::read(target.join("large-again")).unwrap();
    bytes[4_000_000] ^= 1;
    fs::write(target.join("large-again"), bytes).unwrap();
    use std::os::unix::fs::MetadataExt;
    set_time(&target.join("large-again"), time.mtime(), time.mtime_nsec());
    set_time(&target, 1_500_000_000, 42);
    rustix::fs::removexattr(target.join("attributed"), "user.empty").unwrap();
    rustix::fs::setxattr(target.join("deep/er"), "user.later", b"x", rustix::fs::XattrFlags::empty()).unwrap();
    let before = describe(&target);
    let mut task = lab.restore_task(&made.snapshot, &target);
    task.dry_run = true;
    let would = lab.try_restore(task).unwrap();
    assert_eq!(before, describe(&target));
    let mut changes: Vec<_> = would
        .changes
        .iter()
        .map(|change| (change.path.rsplit('/').next().unwrap().to_owned(), change.change))
        .collect();
    changes.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(
        changes,
        [
            ("attributed".to_owned(), RestoreChangeKind::Change),
            ("empty".into(), RestoreChangeKind::Create),
            ("er".into(), RestoreChangeKind::Change),
            ("extra".into(), RestoreChangeKind::Remove),
            ("large-again".into(), RestoreChangeKind::Change)
        ]
    );
    assert_eq!((would.created, would.changed, would.removed), (1, 3, 1));
}

#[test]
fn a_test_restore_leaves_nothing_behind() {
    let lab = Lab::new();
    fill(&lab.source());
    let made = lab.full("a");
    let scratch = lab.path("scratch");
    let mut task = lab.restore_task(&made.snapshot, &scratch);
    task.scratch = true;
    let restored = lab.try_restore(task.clone()).unwrap();
    assert!(restored.verified);
    assert!(!scratch.exists());
    fs::create_dir(&scratch).unwrap();
    fs::write(scratch.join("mine"), b"x").unwrap();
    lab.try_restore(task).unwrap();
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 1);
}
