//! A repository, sources and jobs for tests.

use nm_backup::{report::Reporter, run};
use nm_types::{
    Timestamp,
    backup::{
        BackupType,
        job::{
            BackedUp, BackupTask, CheckTask, Checked, ForgetTask, Forgotten, Hidden, Job, JobError, JobEvent, JobKey, Outcome, ReadPart,
            RepositoryAccess, RepositoryPlace, RestoreItem, RestoreTask, Restored, Source, Task,
        },
    },
};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, PermissionsExt, symlink},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
};
use tempfile::TempDir;

pub const PASSWORD: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

pub struct Lab {
    pub dir: TempDir,
    pub access: RepositoryAccess,
    pub allow: Vec<String>,
}

impl Lab {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("place")).unwrap();
        fs::create_dir(dir.path().join("source")).unwrap();
        let repository = dir.path().join("place/config_1");
        let access = access(&repository);
        Self {
            dir,
            access,
            allow: Vec::new(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    pub fn source(&self) -> PathBuf {
        self.path("source")
    }
    pub fn repository(&self) -> PathBuf {
        match &self.access.place {
            RepositoryPlace::Path { path } => path.into(),
            _ => unreachable!("labs have folders"),
        }
    }

    /// A job of the source folder, which stands at `/data` in the snapshot.
    pub fn task(&self, kind: BackupType, parent: Option<&str>, name: &str) -> BackupTask {
        BackupTask {
            kind,
            parent: parent.map(str::to_owned),
            host: "node".into(),
            label: "config_1".into(),
            tags: vec![format!("backup_{name}")],
            time: Timestamp::from_millis(
                1_700_000_000_000 + i64::from(name.bytes().fold(0_i32, |sum, byte| sum * 7 % 100_000 + i32::from(byte))) * 1000,
            ),
            sources: vec![Source::Path {
                path: self.source().to_str().unwrap().into(),
                at: "/data".into(),
            }],
            excludes: Vec::new(),
            one_file_system: false,
            compression: true,
            once: format!("once_{name}"),
            damaged: Vec::new(),
        }
    }

    pub fn backup(&self, kind: BackupType, parent: Option<&str>, name: &str) -> BackedUp {
        self.try_backup(self.task(kind, parent, name)).unwrap()
    }
    pub fn full(&self, name: &str) -> BackedUp {
        self.backup(BackupType::Full, None, name)
    }
    pub fn try_backup(&self, task: BackupTask) -> Result<BackedUp, JobError> {
        match self.run(Task::Backup(task))? {
            Outcome::BackedUp(made) => Ok(made),
            other => panic!("{other:?}"),
        }
    }

    pub fn job(&self, task: Task) -> Job {
        Job {
            key: JobKey::parse("op_1_abcdefghi-test").unwrap(),
            repository: self.access.clone(),
            allow: self.allow.clone(),
            task,
        }
    }
    pub fn run(&self, task: Task) -> Result<Outcome, JobError> {
        self.run_told(task).0
    }
    /// With what was said meanwhile.
    pub fn run_told(&self, task: Task) -> (Result<Outcome, JobError>, Vec<JobEvent>) {
        told(&self.job(task))
    }

    pub fn check(&self, read: bool) -> Checked {
        self.try_check(read).unwrap()
    }
    pub fn try_check(&self, read: bool) -> Result<Checked, JobError> {
        let task = CheckTask {
            read: read.then_some(ReadPart { n: 1, of: 1 }),
            expect: Vec::new(),
        };
        match self.run(Task::Check(task))? {
            Outcome::Checked(checked) => Ok(checked),
            other => panic!("{other:?}"),
        }
    }

    pub fn restore_task(&self, snapshot: &str, to: &Path) -> RestoreTask {
        RestoreTask {
            snapshot: snapshot.into(),
            items: vec![RestoreItem {
                from: "/data".into(),
                to: to.to_str().unwrap().into(),
                replace: true,
            }],
            include: Vec::new(),
            dry_run: false,
            verify: true,
            scratch: false,
        }
    }
    pub fn restore(&self, snapshot: &str, to: &Path) -> Restored {
        self.try_restore(self.restore_task(snapshot, to)).unwrap()
    }
    pub fn try_restore(&self, task: RestoreTask) -> Result<Restored, JobError> {
        match self.run(Task::Restore(task))? {
            Outcome::Restored(restored) => Ok(restored),
            other => panic!("{other:?}"),
        }
    }

    pub fn forget(&self, remove: &[&str], keep: &[&str], grace: u32) -> Result<Forgotten, JobError> {
        let task = ForgetTask {
            remove: remove.iter().map(|id| (*id).into()).collect(),
            keep: keep.iter().map(|id| (*id).into()).collect(),
            prune: true,
            grace,
        };
        match self.run(Task::Forget(task))? {
            Outcome::Forgotten(forgotten) => Ok(forgotten),
            other => panic!("{other:?}"),
        }
    }

    /// Stock restic's answer; it has to succeed.
    pub fn restic(&self, arguments: &[&str]) -> String {
        let (ok, text) = self.try_restic(arguments);
        assert!(ok, "restic {arguments:?}: {text}");
        text
    }
    pub fn try_restic(&self, arguments: &[&str]) -> (bool, String) {
        let output = Command::new("restic")
            .arg("--no-cache")
            .arg("-r")
            .arg(self.repository())
            .args(arguments)
            .env("RESTIC_PASSWORD", &self.access.password.0)
            .output()
            .expect("stock restic is installed");
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        (output.status.success(), text)
    }

    /// Files of the repository, such as `data`, at any depth.
    pub fn files(&self, folder: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut waiting = vec![self.repository().join(folder)];
        while let Some(path) = waiting.pop() {
            for entry in fs::read_dir(path).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { waiting.push(path) } else { found.push(path) }
            }
        }
        found.sort();
        found
    }
}

pub fn access(repository: &Path) -> RepositoryAccess {
    RepositoryAccess {
        place: RepositoryPlace::Path {
            path: repository.to_str().unwrap().into(),
        },
        password: Hidden(PASSWORD.into()),
        id: None,
        append_only: false,
    }
}

pub fn told(job: &Job) -> (Result<Outcome, JobError>, Vec<JobEvent>) {
    let events = Arc::new(Mutex::new(Vec::new()));
    let sink = events.clone();
    let reporter = Arc::new(Reporter::new(move |event| {
        sink.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }));
    let result = run(job, &reporter);
    let events = std::mem::take(&mut *events.lock().unwrap());
    (result, events)
}

/// Examples lie beside the folder of tests, and are built with them.
pub fn worker_program() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let program = own.ancestors().nth(2).unwrap().join("examples/worker");
    assert!(
        program.exists(),
        "{} is not built: run the tests of the whole crate",
        program.display()
    );
    program
}

/// A worker's process.
pub struct Worker {
    pub child: Child,
    /// Its end ends the worker.
    pub input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Worker {
    pub fn start(job: &Job) -> Self {
        Self::start_as(job, None)
    }

    pub fn start_as(job: &Job, user: Option<u32>) -> Self {
        let mut command = Command::new(worker_program());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        let mut child = command.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let mut line = serde_json::to_vec(job).unwrap();
        line.push(b'\n');
        // One that ended already says why.
        let _ = input.write_all(&line);
        let output = BufReader::new(child.stdout.take().unwrap());
        Self {
            child,
            input: Some(input),
            output,
        }
    }

    /// None at its end.
    pub fn next(&mut self) -> Option<JobEvent> {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        // A line that was cut is none.
        line.ends_with('\n').then(|| serde_json::from_str(&line).unwrap())
    }

    pub fn rest(&mut self) -> Vec<JobEvent> {
        std::iter::from_fn(|| self.next()).collect()
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn finish(mut self) -> Vec<JobEvent> {
        let events = self.rest();
        self.child.wait().unwrap();
        events
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Bytes that look random, the same each time.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 8);
    let mut state = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub fn set_time(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds as _,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

pub fn own(path: &Path, uid: u32, gid: u32) {
    rustix::fs::chownat(
        CWD,
        path,
        Some(Uid::from_raw(uid)),
        Some(Gid::from_raw(gid)),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .unwrap();
}

pub fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// An ACL as the kernel keeps it: user 1234 may read and write.
fn acl() -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in [
        (1_u16, 6_u16, u32::MAX),
        (2, 6, 1234),
        (4, 4, u32::MAX),
        (0x10, 6, u32::MAX),
        (0x20, 4, u32::MAX),
    ] {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// One of everything that a file system has.
pub fn fill(root: &Path) {
    let write = |name: &str, bytes: &[u8]| fs::write(root.join(name), bytes).unwrap();
    fs::create_dir_all(root.join("deep/er/folder")).unwrap();
    fs::create_dir(root.join("empty folder")).unwrap();
    write("empty", b"");
    write("text.txt", "All work and no play.\n".repeat(4000).as_bytes());
    write("large", &noise(1, 5_000_000));
    write("large-again", &noise(1, 5_000_000));
    write("deep/er/folder/small", b"small");
    write("deep/-rf $(id) `id` \u{1f980}\n'\"", b"a name that is only a name");
    fs::write(root.join("deep").join(std::ffi::OsStr::from_bytes(b"not \xff utf-8")), b"bytes").unwrap();
    for n in 0..200 {
        write(&format!("deep/file-{n}"), &noise(n + 10, 100 + n as usize * 17));
    }
    fs::hard_link(root.join("large"), root.join("deep/large-link")).unwrap();
    fs::hard_link(root.join("large"), root.join("deep/er/large-link")).unwrap();
    symlink("text.txt", root.join("link")).unwrap();
    symlink("/nowhere/at all", root.join("deep/dangling")).unwrap();
    symlink("er", root.join("deep/folder-link")).unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.write_all_at(b"begin", 0).unwrap();
    sparse.write_all_at(&noise(3, 200_000), 20_000_000).unwrap();
    sparse.set_len(64_000_000).unwrap();
    rustix::fs::mknodat(CWD, root.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o620), 0).unwrap();
    rustix::fs::mknodat(
        CWD,
        root.join("zero"),
        FileType::CharacterDevice,
        Mode::from_raw_mode(0o666),
        rustix::fs::makedev(1, 5),
    )
    .unwrap();
    write("attributed", b"with attributes");
    rustix::fs::setxattr(root.join("attributed"), "user.one", b"1\0binary\xff", XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(root.join("attributed"), "user.empty", b"", XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(root.join("deep/er"), "user.folder", b"folder", XattrFlags::empty()).unwrap();
    write("shared", b"with an ACL");
    own(&root.join("text.txt"), 1234, 4321);
    own(&root.join("link"), 77, 88);
    own(&root.join("deep/er"), 1000, 1000);
    set_mode(&root.join("text.txt"), 0o640);
    set_mode(&root.join("empty"), 0o4755);
    set_mode(&root.join("deep/er/folder/small"), 0o000);
    set_mode(&root.join("empty folder"), 0o1777);
    set_mode(&root.join("deep/er"), 0o2711);
    rustix::fs::setxattr(root.join("shared"), "system.posix_acl_access", &acl(), XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(root.join("empty folder"), "system.posix_acl_default", &acl(), XattrFlags::empty()).unwrap();
    set_time(&root.join("text.txt"), 1_234_567_890, 123_456_789);
    set_time(&root.join("empty"), -1_000, 500_000_000);
    set_time(&root.join("link"), 1_111_111_111, 1);
    set_time(&root.join("deep/er/folder"), 999_999_999, 999_999_999);
    set_time(&root.join("deep/er"), 999_999_998, 7);
    own(root, 1001, 1002);
    set_mode(root, 0o750);
    set_time(root, 1_500_000_000, 42);
}

/// Everything that a restore has to bring back, a line for each name.
pub fn describe(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut links: BTreeMap<(u64, u64), String> = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let relative = path.strip_prefix(root).unwrap();
        let name = format!("{:?}", relative.as_os_str());
        let mut line = format!(
            "{:o} {}:{} {}.{:09}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec()
        );
        if meta.is_symlink() {
            write!(line, " -> {:?}", fs::read_link(&path).unwrap()).unwrap();
        } else if meta.is_file() {
            let bytes = fs::read(&path).unwrap();
            write!(line, " {} {}", bytes.len(), hex::encode(Sha256::digest(&bytes))).unwrap();
            if meta.nlink() > 1 {
                let first = links.entry((meta.dev(), meta.ino())).or_insert_with(|| name.clone());
                write!(line, " = {first}").unwrap();
            }
            if meta.len() > 1 << 20 && meta.blocks() * 512 < meta.len() / 2 {
                line.push_str(" sparse");
            }
        } else if !meta.is_dir() {
            write!(line, " {:x}", meta.rdev()).unwrap();
        }
        if meta.is_file() || meta.is_dir() {
            let mut names = vec![0; 65536];
            let length = rustix::fs::llistxattr(&path, &mut names[..]).unwrap();
            let mut attributes: Vec<_> = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
            attributes.sort_unstable();
            for attribute in attributes {
                let mut value = vec![0; 65536];
                let length = rustix::fs::lgetxattr(&path, std::ffi::OsStr::from_bytes(attribute), &mut value[..]).unwrap();
                write!(line, " {}={}", String::from_utf8_lossy(attribute), hex::encode(&value[..length])).unwrap();
            }
        }
        if meta.is_dir() {
            let mut names: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
            names.sort_by(|a, b| b.cmp(a));
            waiting.extend(names);
        }
        found.insert(name, line);
    }
    found
}

pub fn assert_same(one: &Path, other: &Path) {
    let (one, other) = (describe(one), describe(other));
    for (name, line) in &one {
        assert_eq!(Some(line), other.get(name), "{name}");
    }
    for name in other.keys() {
        assert!(one.contains_key(name), "{name} is too much");
    }
}

/// A lock as restic writes it, of whatever host and process.
pub fn write_lock(lab: &Lab, host: &str, pid: i32, exclusive: bool) -> PathBuf {
    use aes256ctr_poly1305aes::{Aes256CtrPoly1305Aes, Key, Nonce, aead::Aead};
    let folder = Arc::new(nm_backup::local::LocalFolder::new(lab.repository()));
    let backends = rustic_core::RepositoryBackends::new(folder, None);
    let options = rustic_core::RepositoryOptions::default().no_cache(true);
    let repository = rustic_core::Repository::new(&options, &backends)
        .unwrap()
        .open(&rustic_core::Credentials::password(PASSWORD))
        .unwrap();
    let master = repository.key();
    let key = [&master.encrypt[..], &master.mac.k, &master.mac.r].concat();
    let lock = serde_json::json!({
        "time": jiff_now(), "exclusive": exclusive,
        "hostname": host, "username": "root", "pid": pid,
    });
    let nonce = [7; 16];
    let sealed = Aes256CtrPoly1305Aes::new(Key::from_slice(&key))
        .encrypt(Nonce::from_slice(&nonce), lock.to_string().as_bytes())
        .unwrap();
    let bytes = [&nonce[..], &sealed].concat();
    let path = lab.repository().join("locks").join(hex::encode(Sha256::digest(&bytes)));
    fs::write(&path, bytes).unwrap();
    path
}

fn jiff_now() -> String {
    use rustic_core::jiff::Timestamp;
    Timestamp::now().to_string()
}
