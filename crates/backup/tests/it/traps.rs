//! One test for each way in which rustic_core, used naively, was seen to fail.

use crate::support::*;
use nm_types::backup::{
    BackupType,
    job::{CheckTask, JobErrorCode, JobEvent, Outcome, RestoreItem, Source, Task, stream::StreamEnd},
};
use std::{
    fs,
    io::Write,
    os::unix::{
        fs::{FileExt, MetadataExt, symlink},
        net::UnixListener,
    },
    path::Path,
    thread::{self, JoinHandle},
};

/// A socket as the agent has it for a dump: the bytes in frames, and an end.
fn dump(socket: &Path, bytes: Vec<u8>, end: Option<StreamEnd>) -> JoinHandle<()> {
    let listener = UnixListener::bind(socket).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut frame = |bytes: &[u8]| {
            stream.write_all(&u32::try_from(bytes.len()).unwrap().to_be_bytes()).unwrap();
            stream.write_all(bytes).unwrap();
        };
        for part in bytes.chunks(100_000) {
            frame(part);
        }
        if let Some(end) = end {
            frame(b"");
            frame(&serde_json::to_vec(&end).unwrap());
        }
    })
}

#[test]
fn trap_01_an_unreadable_file_is_named_and_the_backup_partial() {
    let lab = Lab::new();
    fs::write(lab.source().join("readable"), b"yes").unwrap();
    fs::write(lab.source().join("secret"), b"no").unwrap();
    fs::create_dir(lab.source().join("closed")).unwrap();
    set_mode(&lab.source().join("secret"), 0o600);
    set_mode(&lab.source().join("closed"), 0o700);
    // Root reads everything, so a worker of another user is asked.
    for path in [lab.dir.path(), &lab.source(), &lab.path("place")] {
        set_mode(path, 0o777);
    }
    let events = Worker::start_as(&lab.job(Task::Backup(lab.task(BackupType::Full, None, "a"))), Some(65534)).finish();
    let Some(JobEvent::Done {
        outcome: Outcome::BackedUp(made),
    }) = events.last()
    else {
        panic!("{events:?}");
    };
    let mut paths: Vec<_> = made.problems.iter().map(|problem| problem.path.as_str()).collect();
    paths.sort_unstable();
    assert_eq!((made.problem_count, paths), (2, vec!["/data/closed", "/data/secret"]));
    assert!(
        events
            .iter()
            .any(|event| matches!(event, JobEvent::Problem(problem) if problem.path == "/data/secret"))
    );
    let listed = lab.restic(&["ls", "latest"]);
    assert!(listed.contains("/data/readable") && !listed.contains("/data/secret"));

    // Where nothing at all could be read, there is no backup.
    fs::remove_file(lab.source().join("readable")).unwrap();
    let events = Worker::start_as(&lab.job(Task::Backup(lab.task(BackupType::Full, None, "b"))), Some(65534)).finish();
    assert!(
        matches!(events.last(), Some(JobEvent::Failed { error }) if error.code == JobErrorCode::SourceFailed),
        "{events:?}"
    );
    assert_eq!(lab.files("snapshots").len(), 1);
}

#[test]
fn a_file_that_only_says_that_it_is_empty_is_named() {
    let lab = Lab::new();
    let mut task = lab.task(BackupType::Full, None, "a");
    task.sources.push(Source::Path {
        path: "/proc/sys/kernel/ostype".into(),
        at: "/ostype".into(),
    });
    fs::write(lab.source().join("empty"), b"").unwrap();
    let made = lab.try_backup(task).unwrap();
    let paths: Vec<_> = made.problems.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!((made.problem_count, paths), (1, vec!["/ostype"]));
}

#[test]
fn trap_02_a_dump_that_fails_leaves_no_snapshot() {
    let lab = Lab::new();
    fs::write(lab.source().join("file"), b"x").unwrap();
    let socket = lab.path("dump.socket");
    let mut task = lab.task(BackupType::Full, None, "a");
    task.sources.push(Source::Stream {
        at: "/dumps/db.sql".into(),
        socket: socket.to_str().unwrap().into(),
    });
    for end in [
        // The command's exit code was not 0, or the agent died in the middle.
        Some(StreamEnd {
            error: Some("pg_dumpall ended with code 1".into()),
        }),
        None,
    ] {
        let said = end.is_some();
        let sender = dump(&socket, noise(5, 700_000), end);
        let error = lab.try_backup(task.clone()).unwrap_err();
        sender.join().unwrap();
        fs::remove_file(&socket).unwrap();
        assert_eq!(error.code, JobErrorCode::StreamFailed);
        assert!(
            error.message.contains(if said { "pg_dumpall ended with code 1" } else { "cut" }),
            "{}",
            error.message
        );
        assert!(lab.files("snapshots").is_empty());
    }
    let sender = dump(&socket, noise(5, 700_000), Some(StreamEnd { error: None }));
    let made = lab.try_backup(task).unwrap();
    sender.join().unwrap();
    let mut task = lab.restore_task(&made.snapshot, &lab.path("out"));
    task.items[0].from = "/dumps".into();
    lab.try_restore(task).unwrap();
    assert_eq!(fs::read(lab.path("out/db.sql")).unwrap(), noise(5, 700_000));
}

/// A target in which a container planted links to a file and a folder of the host.
fn planted(lab: &Lab) -> (String, std::path::PathBuf) {
    fs::create_dir_all(lab.source().join("folder")).unwrap();
    fs::write(lab.source().join("file"), b"from the backup").unwrap();
    fs::write(lab.source().join("folder/passwd"), b"from the backup").unwrap();
    let made = lab.full("a");
    fs::create_dir(lab.path("host")).unwrap();
    fs::write(lab.path("host/passwd"), b"the host's").unwrap();
    let target = lab.path("target");
    fs::create_dir(&target).unwrap();
    symlink(lab.path("host/passwd"), target.join("file")).unwrap();
    symlink(lab.path("host"), target.join("folder")).unwrap();
    (made.snapshot, target)
}

#[test]
fn trap_03_links_planted_in_the_target_lead_nowhere() {
    for replace in [false, true] {
        let lab = Lab::new();
        let (snapshot, target) = planted(&lab);
        let mut task = lab.restore_task(&snapshot, &target);
        task.items[0].replace = replace;
        lab.try_restore(task).unwrap();
        assert_eq!(fs::read(lab.path("host/passwd")).unwrap(), b"the host's");
        assert_eq!(fs::read_dir(lab.path("host")).unwrap().count(), 1);
        assert_same(&lab.source(), &target);

        // The target itself, and a folder on the way to it, are links.
        symlink(lab.path("host"), lab.path("way")).unwrap();
        lab.restore(&snapshot, &lab.path("way"));
        assert!(!lab.path("way").is_symlink());
        assert_eq!(fs::read_dir(lab.path("host")).unwrap().count(), 1);
        fs::remove_dir_all(lab.path("way")).unwrap();
        symlink(lab.path("host"), lab.path("way")).unwrap();
        let error = lab.try_restore(lab.restore_task(&snapshot, &lab.path("way/in"))).unwrap_err();
        assert_eq!(error.code, JobErrorCode::Forbidden, "{}", error.message);
        assert_eq!(fs::read_dir(lab.path("host")).unwrap().count(), 1);
    }
}

fn flip(path: &Path) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let at = file.metadata().unwrap().size() / 3;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

fn largest(files: Vec<std::path::PathBuf>) -> std::path::PathBuf {
    files.into_iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap()
}

#[test]
fn trap_04_a_corrupt_pack_fails_the_restore_and_nothing_is_swapped() {
    let lab = Lab::new();
    fill(&lab.source());
    let made = lab.full("a");
    let target = lab.path("target");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("before"), b"before").unwrap();
    let pack = largest(lab.files("data"));
    let whole = fs::read(&pack).unwrap();
    for damage in ["flipped", "cut", "gone"] {
        match damage {
            "flipped" => flip(&pack),
            "cut" => fs::write(&pack, &whole[..whole.len() / 2]).unwrap(),
            _ => fs::remove_file(&pack).unwrap(),
        }
        // In a process of its own: a panic of a thread would be its end.
        let events = Worker::start(&lab.job(Task::Restore(lab.restore_task(&made.snapshot, &target)))).finish();
        let Some(JobEvent::Failed { error }) = events.last() else {
            panic!("{damage}: {events:?}");
        };
        assert_eq!(error.code, JobErrorCode::Damaged, "{damage}: {}", error.message);
        assert_eq!(fs::read_dir(&target).unwrap().count(), 1, "{damage}");
        assert_eq!(fs::read_dir(lab.dir.path()).unwrap().count(), 3, "{damage}: the stage is gone");
        fs::write(&pack, &whole).unwrap();
    }
}

#[test]
fn trap_05_a_file_that_was_altered_without_a_sign_is_brought_back() {
    let lab = Lab::new();
    fs::write(lab.source().join("file"), b"as it was").unwrap();
    set_time(&lab.source().join("file"), 1_000_000, 7);
    let made = lab.full("a");
    let target = lab.path("target");
    lab.restore(&made.snapshot, &target);
    for replace in [true, false] {
        fs::write(target.join("file"), b"as it ISN").unwrap();
        set_time(&target.join("file"), 1_000_000, 7);
        let mut task = lab.restore_task(&made.snapshot, &target);
        task.items[0].replace = replace;
        lab.try_restore(task).unwrap();
        assert_eq!(fs::read(target.join("file")).unwrap(), b"as it was");
    }
}

#[test]
fn trap_06_owner_and_mode_of_the_root_folder_come_back() {
    let lab = Lab::new();
    fs::write(lab.source().join("file"), b"x").unwrap();
    own(&lab.source(), 4242, 2424);
    set_mode(&lab.source(), 0o2770);
    let made = lab.full("a");
    let target = lab.path("target");
    for replace in [true, false] {
        let mut task = lab.restore_task(&made.snapshot, &target);
        task.items[0].replace = replace;
        lab.try_restore(task).unwrap();
        let meta = fs::metadata(&target).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (4242, 2424, 0o2770));
        assert_same(&lab.source(), &target);
        own(&target, 0, 0);
        set_mode(&target, 0o700);
    }
    // And the owners of the folders that lead to a path of a node.
    fs::create_dir_all(lab.path("up/down")).unwrap();
    own(&lab.path("up"), 11, 22);
    let mut task = lab.task(BackupType::Full, None, "b");
    task.sources = vec![Source::Path {
        path: lab.path("up/down").to_str().unwrap().into(),
        at: lab.path("up/down").to_str().unwrap().into(),
    }];
    let made = lab.try_backup(task).unwrap();
    let mut task = lab.restore_task(&made.snapshot, &lab.path("out"));
    task.items = vec![RestoreItem {
        from: lab.path("up").to_str().unwrap().into(),
        to: lab.path("out").to_str().unwrap().into(),
        replace: true,
    }];
    lab.try_restore(task).unwrap();
    assert_eq!(fs::metadata(lab.path("out")).unwrap().uid(), 11);
}

#[test]
fn trap_07_a_prune_beside_a_backup_is_refused_and_restics_locks_are_respected() {
    let lab = Lab::new();
    fs::write(lab.source().join("file"), noise(1, 10_000)).unwrap();
    let made = lab.full("a");
    // A backup that waits for its dump.
    let socket = lab.path("dump.socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let mut task = lab.task(BackupType::Incremental, Some(&made.snapshot), "b");
    task.sources.push(Source::Stream {
        at: "/dump".into(),
        socket: socket.to_str().unwrap().into(),
    });
    let mut running = Worker::start(&lab.job(Task::Backup(task)));
    let (mut stream, _) = listener.accept().unwrap();
    let error = lab.forget(&[], &[&made.snapshot], 0).unwrap_err();
    assert_eq!(error.code, JobErrorCode::Locked);
    // restic sees it too.
    let (ok, text) = lab.try_restic(&["prune"]);
    assert!(!ok && text.contains("locked"), "{text}");
    // Another backup or restore may run beside it.
    lab.restore(&made.snapshot, &lab.path("target"));
    for bytes in [&[0_u8; 4][..], &2_u32.to_be_bytes(), b"{}"] {
        stream.write_all(bytes).unwrap();
    }
    let events = running.rest();
    assert!(matches!(events.last(), Some(JobEvent::Done { .. })), "{events:?}");
    assert!(lab.files("locks").is_empty());

    // Of another host, alive: told with its host, its process and its age. Of our host and a process that is gone: removed.
    let lock = |host: &str, exclusive| write_lock(&lab, host, 4_000_000, exclusive);
    let path = lock("elsewhere", true);
    let error = lab.try_check(false).unwrap_err();
    assert_eq!(error.code, JobErrorCode::Locked);
    for word in ["elsewhere", "4000000", "restic unlock"] {
        assert!(error.message.contains(word), "{}", error.message);
    }
    fs::remove_file(path).unwrap();
    let own = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let path = lock(&own, true);
    lab.try_check(false).unwrap();
    // It says that a job was killed: the next one that adds or removes sees to that.
    assert!(path.exists());
    lab.full("c");
    assert!(!path.exists());
    // A shared one of another host keeps removal out, and nothing else.
    let path = lock("elsewhere", false);
    lab.try_check(false).unwrap();
    let keep: Vec<_> = lab
        .files("snapshots")
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    let keep: Vec<&str> = keep.iter().map(String::as_str).collect();
    assert_eq!(lab.forget(&[], &keep, 0).unwrap_err().code, JobErrorCode::Locked);
    fs::remove_file(path).unwrap();
    lab.forget(&[], &keep, 0).unwrap();
}

#[test]
fn trap_07_what_was_marked_stays_for_the_grace_and_is_taken_up_again() {
    let lab = Lab::new();
    let data = noise(1, 3_000_000);
    fs::write(lab.source().join("file"), &data).unwrap();
    let first = lab.full("a");
    fs::remove_file(lab.source().join("file")).unwrap();
    fs::write(lab.source().join("other"), noise(2, 3_000_000)).unwrap();
    let second = lab.full("b");
    let forgotten = lab.forget(&[&first.snapshot], &[&second.snapshot], 23 * 3600).unwrap();
    assert!(forgotten.marked > 2_900_000, "{forgotten:?}");
    let packs = lab.files("data").len();
    // Within the grace nothing goes.
    lab.forget(&[], &[&second.snapshot], 23 * 3600).unwrap();
    assert_eq!(lab.files("data").len(), packs);
    // A later backup brings the data back before it is gone, and is whole after the next prunes.
    fs::write(lab.source().join("file"), &data).unwrap();
    let third = lab.full("c");
    lab.forget(&[], &[&second.snapshot, &third.snapshot], 0).unwrap();
    lab.forget(&[], &[&second.snapshot, &third.snapshot], 0).unwrap();
    assert!(lab.check(true).findings.is_empty());
    lab.restore(&third.snapshot, &lab.path("target"));
    assert_same(&lab.source(), &lab.path("target"));
}

#[test]
fn trap_08_a_list_that_disagrees_stops_a_prune_and_a_missing_place_is_never_made() {
    let mut lab = Lab::new();
    fs::write(lab.source().join("file"), noise(1, 100_000)).unwrap();
    let first = lab.full("a");
    let second = lab.full("b");
    let packs = lab.files("data");
    let unchanged = |lab: &Lab| assert_eq!(packs, lab.files("data"));
    // A snapshot that is to stay can't be seen.
    let hidden = lab.repository().join("snapshots").join(&second.snapshot);
    fs::rename(&hidden, lab.path("hidden")).unwrap();
    let error = lab.forget(&[&first.snapshot], &[&second.snapshot], 0).unwrap_err();
    assert_eq!(error.code, JobErrorCode::Disagrees);
    assert!(lab.repository().join("snapshots").join(&first.snapshot).exists());
    unchanged(&lab);
    fs::rename(lab.path("hidden"), &hidden).unwrap();
    // The whole folder can't be listed.
    fs::rename(lab.repository().join("snapshots"), lab.path("snapshots")).unwrap();
    lab.forget(&[], &[], 0).unwrap_err();
    unchanged(&lab);
    fs::rename(lab.path("snapshots"), lab.repository().join("snapshots")).unwrap();
    // One that nobody knows of.
    let error = lab.forget(&[], &[&first.snapshot], 0).unwrap_err();
    assert_eq!(error.code, JobErrorCode::Disagrees);
    unchanged(&lab);

    // Once made, never anew: not mounted, another repository, other files.
    lab.access.id = Some(first.repository.clone());
    fs::rename(lab.repository(), lab.path("away")).unwrap();
    let error = lab.try_backup(lab.task(BackupType::Full, None, "c")).unwrap_err();
    assert_eq!(error.code, JobErrorCode::RepositoryMissing);
    assert!(!lab.repository().exists());
    fs::create_dir(lab.repository()).unwrap();
    assert_eq!(
        lab.try_backup(lab.task(BackupType::Full, None, "c")).unwrap_err().code,
        JobErrorCode::RepositoryMissing
    );
    fs::write(lab.repository().join("photo.jpg"), b"x").unwrap();
    assert_eq!(
        lab.try_backup(lab.task(BackupType::Full, None, "c")).unwrap_err().code,
        JobErrorCode::RepositoryForeign
    );
    fs::remove_dir_all(lab.repository()).unwrap();
    lab.access.id = None;
    let other = lab.full("d");
    assert_ne!(other.repository, first.repository);
    lab.access.id = Some(first.repository);
    assert_eq!(
        lab.try_backup(lab.task(BackupType::Full, None, "e")).unwrap_err().code,
        JobErrorCode::RepositoryForeign
    );
    // The first time its folders are made, for their owner alone.
    lab.access = access(&lab.path("new/folder/config_2"));
    lab.full("f");
    let mode = fs::metadata(lab.path("new/folder")).unwrap().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn trap_09_a_check_with_findings_says_so() {
    let lab = Lab::new();
    fill(&lab.source());
    let made = lab.full("a");
    assert!(lab.check(true).findings.is_empty());
    let pack = largest(lab.files("data"));
    let whole = fs::read(&pack).unwrap();
    let name = pack.file_name().unwrap().to_str().unwrap().to_owned();
    // Cut or gone: the structure tells. Flipped: the data does, in the part that it is in and in no other.
    fs::write(&pack, &whole[..whole.len() - 1000]).unwrap();
    let checked = lab.check(false);
    assert!(checked.finding_count > 0 && checked.damaged == [name.clone()], "{checked:?}");
    fs::remove_file(&pack).unwrap();
    assert!(lab.check(false).finding_count > 0);
    fs::write(&pack, &whole).unwrap();
    flip(&pack);
    assert!(lab.check(false).findings.is_empty());
    let checked = lab.check(true);
    assert_eq!(checked.damaged, [name]);
    let mut found = 0;
    for n in 1..=3 {
        let task = CheckTask {
            read: Some(nm_types::backup::job::ReadPart { n, of: 3 }),
            expect: vec![made.snapshot.clone()],
        };
        let Outcome::Checked(checked) = lab.run(Task::Check(task)).unwrap() else {
            panic!()
        };
        found += checked.finding_count;
    }
    assert_eq!(found, 1);
    let task = CheckTask {
        read: None,
        expect: vec!["00".repeat(32)],
    };
    let Outcome::Checked(checked) = lab.run(Task::Check(task)).unwrap() else {
        panic!()
    };
    assert_eq!(checked.finding_count, 1, "{checked:?}");
}

#[test]
fn trap_10_a_full_backup_heals_what_a_check_found_damaged() {
    let lab = Lab::new();
    fill(&lab.source());
    let first = lab.full("a");
    flip(&largest(lab.files("data")));
    let damaged = lab.check(true).damaged;
    assert_eq!(damaged.len(), 1);
    // A full one alone does not: what the index names is not written again.
    lab.full("b");
    assert_eq!(lab.check(true).damaged, damaged);
    let mut task = lab.task(BackupType::Full, None, "c");
    // A pack that is whole is not dropped, whoever says so.
    let sound = lab
        .files("data")
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .find(|name| !damaged.contains(name))
        .unwrap();
    task.damaged = vec![damaged[0].clone(), sound.clone()];
    lab.try_backup(task).unwrap();
    let checked = lab.check(true);
    assert!(checked.findings.is_empty(), "{:?}", checked.findings);
    assert!(lab.files("data").iter().any(|path| path.ends_with(&sound)));
    lab.restore(&first.snapshot, &lab.path("target"));
    assert_same(&lab.source(), &lab.path("target"));
}

#[test]
fn trap_11_a_backup_that_was_killed_resumes() {
    let lab = Lab::new();
    for n in 0..40 {
        fs::write(lab.source().join(format!("file-{n:02}")), noise(n, 2_000_000)).unwrap();
    }
    lab.try_check(false).unwrap_err();
    let mut worker = Worker::start(&lab.job(Task::Backup(lab.task(BackupType::Full, None, "a"))));
    // Some packs are written, none is named by an index yet.
    while !lab.repository().join("data").exists() || lab.files("data").len() < 3 {
        assert!(worker.next().is_some(), "it ended too early");
    }
    worker.kill();
    assert!(lab.files("index").is_empty() && lab.files("snapshots").is_empty());
    let left: u64 = lab.files("data").iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!(left > 30_000_000);
    let made = lab.full("a");
    assert!(
        made.added < 80_000_000 - left / 2,
        "{} of 80 MB written again, {left} were there",
        made.added
    );
    assert!(lab.check(true).findings.is_empty());
    lab.restore(&made.snapshot, &lab.path("target"));
    assert_same(&lab.source(), &lab.path("target"));
}

#[test]
fn trap_12_a_restore_takes_little_memory() {
    let lab = Lab::new();
    for n in 0..20 {
        fs::write(lab.source().join(format!("file-{n:02}")), noise(n, 20_000_000)).unwrap();
    }
    let made = lab.full("a");
    let mut worker = Worker::start(&lab.job(Task::Restore(lab.restore_task(&made.snapshot, &lab.path("target")))));
    let mut peak = 0_u64;
    let status = format!("/proc/{}/status", worker.child.id());
    let mut last = None;
    while let Some(event) = worker.next() {
        if let Ok(text) = fs::read_to_string(&status) {
            let kilobytes = text
                .lines()
                .find_map(|line| line.strip_prefix("VmHWM:"))
                .map(|line| line.trim().trim_end_matches(" kB").parse::<u64>().unwrap());
            peak = peak.max(kilobytes.unwrap_or(0));
        }
        last = Some(event);
    }
    assert!(matches!(last, Some(JobEvent::Done { .. })), "{last:?}");
    assert!((1..200_000).contains(&peak), "{peak} kB of 400 MB");
    assert_same(&lab.source(), &lab.path("target"));
}

#[test]
fn trap_13_another_file_under_an_old_name_is_read_and_an_unchanged_one_is_not() {
    let lab = Lab::new();
    let path = lab.source().join("file");
    fs::write(&path, b"one").unwrap();
    fs::write(lab.source().join("same"), b"same").unwrap();
    set_time(&path, 5_000_000, 0);
    let first = lab.full("a");
    // The same name, size and time, but another file.
    fs::write(lab.source().join("beside"), b"two").unwrap();
    set_time(&lab.source().join("beside"), 5_000_000, 0);
    fs::rename(lab.source().join("beside"), &path).unwrap();
    let second = lab.backup(BackupType::Incremental, Some(&first.snapshot), "b");
    assert_eq!((second.files_changed, second.files), (1, 2));
    lab.restore(&second.snapshot, &lab.path("target"));
    assert_eq!(fs::read(lab.path("target/file")).unwrap(), b"two");

    // And nothing that is unchanged is opened: all of it is as it was.
    let before = fs::metadata(lab.source().join("same")).unwrap().atime_nsec();
    let third = lab.backup(BackupType::Incremental, Some(&second.snapshot), "c");
    assert_eq!((third.files_changed, third.files_new, third.files), (0, 0, 2));
    assert_eq!(before, fs::metadata(lab.source().join("same")).unwrap().atime_nsec());
}
