//! Destinations and sources that fail, each said plainly and with nothing good lost.

use crate::support::*;
use nm_types::backup::{
    BackupType,
    job::{JobErrorCode, JobEvent, Outcome, RepositoryPlace, SendTask, Task},
};
use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

/// A small file system of its own.
struct Mounted(PathBuf);

impl Mounted {
    fn new(path: PathBuf, size: &str) -> Self {
        fs::create_dir_all(&path).unwrap();
        run("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"], &path);
        Self(path)
    }
    fn grow(&self, size: &str) {
        run("mount", &["-o", &format!("remount,size={size}")], &self.0);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

fn run(program: &str, arguments: &[&str], path: &Path) {
    assert!(Command::new(program).args(arguments).arg(path).status().unwrap().success());
}

fn at(lab: &mut Lab, repository: &Path) {
    lab.access.place = RepositoryPlace::Path {
        path: repository.to_str().unwrap().into(),
    };
}

#[test]
fn a_full_disk_fails_the_backup_and_what_was_there_is_good() {
    let mut lab = Lab::new();
    let mounted = Mounted::new(lab.path("mounted"), "12m");
    at(&mut lab, &mounted.0.join("config_1"));
    fs::write(lab.source().join("file"), noise(1, 2_000_000)).unwrap();
    let first = lab.full("a");
    fs::write(lab.source().join("large"), noise(2, 30_000_000)).unwrap();
    let error = lab.try_backup(lab.task(BackupType::Full, None, "b")).unwrap_err();
    assert_eq!(error.code, JobErrorCode::DiskFull, "{}", error.message);
    assert_eq!(lab.files("snapshots").len(), 1);
    assert!(lab.check(true).findings.is_empty());
    lab.restore(&first.snapshot, &lab.path("target"));
    assert_eq!(fs::read(lab.path("target/file")).unwrap(), noise(1, 2_000_000));
    // And goes on by itself once there is room.
    mounted.grow("80m");
    let made = lab.full("b");
    lab.restore(&made.snapshot, &lab.path("target"));
    assert_same(&lab.source(), &lab.path("target"));
    assert!(lab.check(true).findings.is_empty());
}

#[test]
fn a_full_disk_fails_the_restore_before_anything_was_swapped() {
    let lab = Lab::new();
    fs::write(lab.source().join("large"), noise(2, 30_000_000)).unwrap();
    let made = lab.full("a");
    let mounted = Mounted::new(lab.path("mounted"), "12m");
    for (target, replace) in [("folder", true), ("folder", false), ("", true)] {
        let target = if target.is_empty() {
            mounted.0.clone()
        } else {
            mounted.0.join(target)
        };
        fs::create_dir_all(&target).unwrap();
        fs::write(target.join("before"), b"before").unwrap();
        let mut task = lab.restore_task(&made.snapshot, &target);
        task.items[0].replace = replace;
        let events = Worker::start(&lab.job(Task::Restore(task.clone()))).finish();
        let Some(JobEvent::Failed { error }) = events.last() else {
            panic!("{events:?}");
        };
        assert_eq!(error.code, JobErrorCode::DiskFull, "{}", error.message);
        assert_eq!(fs::read(target.join("before")).unwrap(), b"before");
        assert!(!target.join("large").exists());
        let left = fs::read_dir(&mounted.0)
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with(".neuralmesh"));
        assert_eq!(left.count(), 0);
    }
    // A whole file system is restored in place, also with `replace`.
    mounted.grow("80m");
    let mut task = lab.restore_task(&made.snapshot, &mounted.0);
    lab.try_restore(task.clone()).unwrap();
    assert!(!mounted.0.join("before").exists());
    assert_same(&lab.source(), &mounted.0);
    fs::write(mounted.0.join("before"), b"before").unwrap();
    task.items[0].replace = false;
    lab.try_restore(task).unwrap();
    assert!(mounted.0.join("before").exists());
}

#[test]
fn an_unwritable_destination_is_told_and_one_that_can_only_be_read_is_read() {
    let mut lab = Lab::new();
    let mounted = Mounted::new(lab.path("mounted"), "40m");
    at(&mut lab, &mounted.0.join("config_1"));
    fs::write(lab.source().join("file"), noise(1, 200_000)).unwrap();
    let made = lab.full("a");
    run("mount", &["-o", "remount,ro"], &mounted.0);
    let error = lab.try_backup(lab.task(BackupType::Full, None, "b")).unwrap_err();
    assert_eq!(error.code, JobErrorCode::NotWritable, "{}", error.message);
    assert_eq!(lab.forget(&[&made.snapshot], &[], 0).unwrap_err().code, JobErrorCode::NotWritable);
    lab.restore(&made.snapshot, &lab.path("target"));
    assert_same(&lab.source(), &lab.path("target"));
    assert!(lab.check(true).findings.is_empty());
    run("mount", &["-o", "remount,rw"], &mounted.0);
    // Gone from under us.
    lab.access.id = Some(made.repository);
    drop(mounted);
    let error = lab.try_backup(lab.task(BackupType::Full, None, "b")).unwrap_err();
    assert_eq!(error.code, JobErrorCode::RepositoryMissing);
    assert_eq!(
        lab.forget(&[], &[&made.snapshot], 0).unwrap_err().code,
        JobErrorCode::RepositoryMissing
    );
    assert_eq!(fs::read_dir(lab.path("mounted")).unwrap().count(), 0);
}

#[test]
fn an_append_only_repository_only_grows() {
    let mut lab = Lab::new();
    fs::write(lab.source().join("file"), b"x").unwrap();
    let made = lab.full("a");
    lab.access.append_only = true;
    let second = lab.backup(BackupType::Incremental, Some(&made.snapshot), "b");
    assert_eq!(
        lab.forget(&[&made.snapshot], &[&second.snapshot], 0).unwrap_err().code,
        JobErrorCode::Forbidden
    );
    assert_eq!(lab.files("snapshots").len(), 2);
    lab.restore(&made.snapshot, &lab.path("target"));
}

#[test]
fn a_file_that_changes_while_it_is_read_is_named() {
    let lab = Lab::new();
    fs::write(lab.source().join("grows"), noise(1, 4_000_000)).unwrap();
    fs::write(lab.source().join("shrinks"), noise(2, 4_000_000)).unwrap();
    fs::write(lab.source().join("still"), noise(3, 4_000_000)).unwrap();
    // The dump stands before the files, and holds the walk; what was seen of them is older than what they are.
    let socket = lab.path("dump.socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let mut changed = false;
    let mut task = lab.task(BackupType::Full, None, "a");
    task.sources.push(nm_types::backup::job::Source::Stream {
        at: "/a".into(),
        socket: socket.to_str().unwrap().into(),
    });
    let mut worker = Worker::start(&lab.job(Task::Backup(task)));
    let (mut stream, _) = listener.accept().unwrap();
    // The walk runs ahead of the reading by a few entries, but the reading of the dump takes one of two threads only: change them
    // until the worker says that it saw it.
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (flag, source) = (stop.clone(), lab.source());
    let writer = thread::spawn(move || {
        let mut n = 0;
        while !flag.load(std::sync::atomic::Ordering::Relaxed) {
            n += 1;
            let mut file = fs::OpenOptions::new().append(true).open(source.join("grows")).unwrap();
            file.write_all(&[n as u8; 100]).unwrap();
            let shrinks = fs::OpenOptions::new().write(true).open(source.join("shrinks")).unwrap();
            shrinks.set_len(4_000_000 - (n % 2) * 1_000_000).unwrap();
        }
    });
    for bytes in [&[0_u8; 4][..], &2_u32.to_be_bytes(), b"{}"] {
        stream.write_all(bytes).unwrap();
    }
    let events = worker.rest();
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    writer.join().unwrap();
    for event in &events {
        if let JobEvent::Problem(problem) = event {
            changed = true;
            assert!(["/data/grows", "/data/shrinks"].contains(&problem.path.as_str()), "{problem:?}");
            assert!(
                problem.error.contains("changed") || problem.error.contains("cut short"),
                "{problem:?}"
            );
        }
    }
    assert!(changed, "{events:?}");
    let Some(JobEvent::Done {
        outcome: Outcome::BackedUp(made),
    }) = events.last()
    else {
        panic!("{events:?}");
    };
    assert!(made.problem_count > 0);
    // All the same it is a snapshot that is whole in itself.
    lab.restic(&["check", "--read-data"]);
    lab.restore(&made.snapshot, &lab.path("target"));
    assert_eq!(fs::read(lab.path("target/still")).unwrap(), noise(3, 4_000_000));
}

#[test]
fn one_file_of_a_snapshot_is_sent_in_frames() {
    let lab = Lab::new();
    fs::write(lab.source().join("dump.sql"), noise(1, 3_000_000)).unwrap();
    let made = lab.full("a");
    let socket = lab.path("out.socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let reader = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut all = Vec::new();
        loop {
            let mut length = [0; 4];
            stream.read_exact(&mut length).unwrap();
            let mut frame = vec![0; u32::from_be_bytes(length) as usize];
            if frame.is_empty() {
                break;
            }
            stream.read_exact(&mut frame).unwrap();
            all.extend(frame);
        }
        let mut end = String::new();
        stream.read_to_string(&mut end).unwrap();
        (all, end[4..].to_owned())
    });
    let task = SendTask {
        snapshot: made.snapshot,
        path: "/data/dump.sql".into(),
        socket: socket.to_str().unwrap().into(),
    };
    let Outcome::Sent { bytes } = lab.run(Task::Send(task)).unwrap() else {
        panic!()
    };
    let (all, end) = reader.join().unwrap();
    assert_eq!((bytes, all, end), (3_000_000, noise(1, 3_000_000), "{}".to_owned()));
}

#[test]
fn the_end_of_its_input_ends_the_worker() {
    let lab = Lab::new();
    let socket = lab.path("dump.socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let mut task = lab.task(BackupType::Full, None, "a");
    task.sources.push(nm_types::backup::job::Source::Stream {
        at: "/dump".into(),
        socket: socket.to_str().unwrap().into(),
    });
    let mut worker = Worker::start(&lab.job(Task::Backup(task)));
    let _open = listener.accept().unwrap();
    drop(worker.input.take());
    let events = worker.rest();
    assert!(!matches!(events.last(), Some(JobEvent::Done { .. } | JobEvent::Failed { .. })));
    assert!(!worker.child.wait().unwrap().success());
    assert!(lab.files("snapshots").is_empty());
}
