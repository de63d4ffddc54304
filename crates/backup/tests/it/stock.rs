//! Stock restic, Debian's, on our repositories: the promise for the day when we are gone.

use crate::support::*;
use nm_types::backup::{
    BackupType,
    job::{CopyTask, Hidden, JobErrorCode, Outcome, Source, Task},
};
use std::{fs, process::Command};

#[test]
fn restic_lists_checks_all_data_and_restores_the_same_tree() {
    let lab = Lab::new();
    let source = lab.source();
    fill(&source);
    let first = lab.full("a");
    fs::write(source.join("new"), noise(5, 3_000_000)).unwrap();
    let second = lab.backup(BackupType::Incremental, Some(&first.snapshot), "b");
    let snapshots: serde_json::Value = serde_json::from_str(lab.restic(&["snapshots", "--json"]).lines().next().unwrap()).unwrap();
    let ids: Vec<_> = snapshots
        .as_array()
        .unwrap()
        .iter()
        .map(|snapshot| snapshot["id"].as_str().unwrap())
        .collect();
    assert!(ids.contains(&first.snapshot.as_str()) && ids.contains(&second.snapshot.as_str()));
    assert_eq!(snapshots[0]["hostname"], "node");
    let text = lab.restic(&["check", "--read-data"]);
    assert!(text.contains("no errors were found"), "{text}");
    lab.restic(&["restore", &second.snapshot, "--target", lab.path("theirs").to_str().unwrap()]);
    let (mut ours, theirs) = (describe(&source), describe(&lab.path("theirs/data")));
    // restic 0.14 makes no holes.
    ours.values_mut().for_each(|line| *line = line.replace(" sparse", ""));
    assert_eq!(ours, theirs);
    // After our prune too, and what restic prunes we read.
    lab.forget(&[&first.snapshot], &[&second.snapshot], 0).unwrap();
    lab.forget(&[], &[&second.snapshot], 0).unwrap();
    lab.restic(&["check", "--read-data"]);
    lab.restic(&["prune", "--max-unused", "0"]);
    assert!(lab.check(true).findings.is_empty());
    lab.restore(&second.snapshot, &lab.path("ours"));
    assert_same(&source, &lab.path("ours"));
    assert!(lab.files("locks").is_empty());
}

#[test]
fn files_are_cut_where_restic_cuts_them() {
    let lab = Lab::new();
    let file = lab.source().join("large");
    fs::write(&file, noise(77, 30_000_000)).unwrap();
    lab.full("a");
    let summary = |lines: &str| -> serde_json::Value { serde_json::from_str(lines.lines().last().unwrap()).unwrap() };
    let theirs = summary(&lab.restic(&["backup", "--json", file.to_str().unwrap()]));
    assert_eq!(
        (theirs["files_new"].as_u64(), theirs["data_blobs"].as_u64()),
        (Some(1), Some(0)),
        "{theirs}"
    );
    // Where some bytes are put in, all but the chunks around them are as they were.
    let mut bytes = fs::read(&file).unwrap();
    bytes.splice(15_000_000..15_000_000, *b"some more");
    fs::write(&file, bytes).unwrap();
    let ours = lab.full("b");
    assert!(ours.added < 10_000_000, "{}", ours.added);
    let theirs = summary(&lab.restic(&["backup", "--json", file.to_str().unwrap()]));
    assert_eq!(theirs["data_blobs"].as_u64(), Some(0), "{theirs}");
}

#[test]
fn what_restic_backed_up_we_restore() {
    let lab = Lab::new();
    let source = lab.source();
    fill(&source);
    lab.restic(&["init", "--repository-version", "2"]);
    lab.restic(&["backup", source.to_str().unwrap()]);
    let Outcome::Snapshots(listed) = lab.run(Task::List).unwrap() else {
        panic!()
    };
    assert_eq!(listed.snapshots.len(), 1);
    assert_eq!(listed.snapshots[0].paths, [source.to_str().unwrap()]);
    let mut task = lab.restore_task(&listed.snapshots[0].id, &lab.path("target"));
    task.items[0].from = source.to_str().unwrap().into();
    lab.try_restore(task).unwrap();
    assert_same(&source, &lab.path("target"));
}

#[test]
fn both_passwords_open_it_and_no_other() {
    let mut lab = Lab::new();
    fs::write(lab.source().join("file"), b"x").unwrap();
    let made = lab.full("a");
    let Outcome::KeyAdded { id } = lab
        .run(Task::AddKey {
            password: Hidden("a word for the day after".into()),
        })
        .unwrap()
    else {
        panic!()
    };
    assert!(lab.restic(&["key", "list"]).contains(&id[..8]));
    lab.access.password = Hidden("a word for the day after".into());
    lab.restic(&["check"]);
    lab.restore(&made.snapshot, &lab.path("target"));
    lab.access.password = Hidden("none-of-them".into());
    let error = lab.try_check(false).unwrap_err();
    assert_eq!(error.code, JobErrorCode::WrongPassword);
    assert!(!error.message.contains("none-of-them"), "{}", error.message);
    assert_eq!(
        lab.try_backup(lab.task(BackupType::Full, None, "b")).unwrap_err().code,
        JobErrorCode::WrongPassword
    );
}

#[test]
fn copies_go_into_a_second_repository_with_its_own_password() {
    let lab = Lab::new();
    let source = lab.source();
    fill(&source);
    let first = lab.full("a");
    fs::write(source.join("new"), noise(5, 3_000_000)).unwrap();
    let second = lab.backup(BackupType::Incremental, Some(&first.snapshot), "b");
    let mut far = Lab::new();
    far.access.password = Hidden("fedcba9876543210fedcba9876543210fedcba9876543210".into());
    let copy = |snapshots: &[&str]| {
        let task = CopyTask {
            to: far.access.clone(),
            snapshots: snapshots.iter().map(|id| (*id).into()).collect(),
            compression: true,
        };
        match lab.run(Task::Copy(task)).unwrap() {
            Outcome::Copied(copied) => copied,
            other => panic!("{other:?}"),
        }
    };
    let one = copy(&[&first.snapshot]);
    let two = copy(&[&first.snapshot, &second.snapshot]);
    assert_eq!(one.repository, two.repository);
    assert_ne!(one.repository, first.repository);
    assert_eq!(one.snapshots[0], two.snapshots[0]);
    assert!(two.added < one.added, "{} then {}", one.added, two.added);
    assert_eq!(copy(&[&first.snapshot, &second.snapshot]).snapshots, two.snapshots);
    far.restic(&["check", "--read-data"]);
    far.restore(&two.snapshots[1].1, &far.path("target"));
    assert_same(&source, &far.path("target"));
    // The same data backed up there on its own is there already: both cut it alike.
    let mut task = far.task(BackupType::Full, None, "c");
    task.sources = vec![Source::Path {
        path: source.to_str().unwrap().into(),
        at: "/data".into(),
    }];
    assert!(far.try_backup(task).unwrap().added < 200_000);
}

#[test]
fn compression_is_what_was_asked_for() {
    let mut sizes = Vec::new();
    for compression in [true, false] {
        let lab = Lab::new();
        fs::write(lab.source().join("text"), "the same words again and again\n".repeat(100_000)).unwrap();
        let mut task = lab.task(BackupType::Full, None, "a");
        task.compression = compression;
        let made = lab.try_backup(task).unwrap();
        lab.restic(&["check", "--read-data"]);
        sizes.push(made.added);
    }
    assert!(sizes[0] < 100_000 && sizes[1] > 500_000, "{sizes:?}");
}

#[test]
fn a_pack_is_synced_before_it_has_its_name_and_its_folder_after_it() {
    let lab = Lab::new();
    fs::write(lab.source().join("file"), noise(1, 100_000)).unwrap();
    lab.full("a");
    fs::write(lab.source().join("file"), noise(2, 100_000)).unwrap();
    let job = lab.path("job");
    fs::write(
        &job,
        serde_json::to_vec(&lab.job(Task::Backup(lab.task(BackupType::Full, None, "b")))).unwrap(),
    )
    .unwrap();
    let trace = lab.path("trace");
    let input = lab.path("input");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &input,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let worker = worker_program();
    let mut traced = Command::new("strace")
        .args(["-f", "-y", "-e", "trace=fsync,rename,renameat,renameat2", "-o"])
        .arg(&trace)
        .arg(worker)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("strace is installed");
    let mut line = fs::read(&job).unwrap();
    line.push(b'\n');
    let mut standing = traced.stdin.take().unwrap();
    std::io::Write::write_all(&mut standing, &line).unwrap();
    assert!(traced.wait().unwrap().success());
    drop(standing);
    let trace = fs::read_to_string(trace).unwrap();
    let calls: Vec<_> = trace.lines().filter(|line| !line.contains("resumed>")).collect();
    let mut packs = 0;
    for pack in lab.files("data") {
        let name = pack.file_name().unwrap().to_str().unwrap();
        let folder = format!("{}>", pack.parent().unwrap().display());
        let Some(renamed) = calls.iter().position(|line| line.contains("rename") && line.contains(name)) else {
            continue;
        };
        packs += 1;
        assert!(
            calls[..renamed].iter().any(|line| line.contains("fsync") && line.contains(name)),
            "{trace}"
        );
        assert!(
            calls[renamed..].iter().any(|line| line.contains("fsync") && line.contains(&folder)),
            "{trace}"
        );
    }
    assert!(packs > 0, "{trace}");
}

#[test]
fn a_password_that_is_no_secret_stands_beside_the_repository() {
    let mut lab = Lab::new();
    lab.access.password = Hidden("neuralmesh-not-secret".into());
    fs::write(lab.source().join("file"), b"x").unwrap();
    lab.full("a");
    let note = fs::read_to_string(lab.path("place/config_1.password.txt")).unwrap();
    lab.access.password = Hidden(note.lines().next().unwrap().into());
    lab.restic(&["check"]);
    assert_eq!(fs::read_dir(lab.path("place")).unwrap().count(), 2);
}
