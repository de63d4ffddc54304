//! One job that removes, or many that add and read.
//!
//! Our own lock is the kernel's on a file in the repository's folder: a worker that was killed leaves none behind. Beside it stand
//! lock files as restic has them, so that restic and workers of other machines see us. Such a file of a process that is gone is
//! removed: it says that a job was killed, and that packs may be there which no index names.

use crate::{
    crypt::{self, Key},
    failure::{Result, code_of, failed},
    store::Store,
};
use nm_types::backup::job::JobErrorCode;
use rustic_core::jiff::Timestamp;
use rustix::{
    fs::{FlockOperation, flock},
    process::{Pid, test_kill_process},
};
use serde::{Deserialize, Serialize};
use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// restic ignores files it does not know in a repository's folder.
pub const OURS: &str = "neuralmesh.lock";
/// A lock is written anew so often; after [`STALE`] nobody holds it any more. Both are restic's.
const REFRESH: Duration = Duration::from_secs(5 * 60);
const STALE: i64 = 30 * 60;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Reads, or adds what nothing else needs yet.
    Shared,
    /// Removes.
    Exclusive,
}

/// The kernel's lock. Held until dropped.
#[derive(Debug)]
pub struct FolderLock {
    /// None on a destination that can only be read: nothing there can be removed either.
    _file: Option<File>,
}

/// Taken before the repository is opened.
pub fn take_folder(repository: &Path, mode: Mode) -> Result<FolderLock> {
    let path = repository.join(OURS);
    let opened = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32)
        .open(&path);
    let file = match opened {
        Ok(file) => file,
        Err(error)
            if mode == Mode::Shared && matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied) =>
        {
            return Ok(FolderLock { _file: None });
        }
        Err(error) => {
            return Err(failed(
                code_of(&error, JobErrorCode::NotWritable),
                format!("The lock {} can't be made: {error}. Make the destination writable.", path.display()),
            ));
        }
    };
    let operation = match mode {
        Mode::Shared => FlockOperation::NonBlockingLockShared,
        Mode::Exclusive => FlockOperation::NonBlockingLockExclusive,
    };
    flock(&file, operation).map_err(|error| {
        failed(
            JobErrorCode::Locked,
            format!(
                "Another job works on the repository {} ({error}). Try again when it has ended.",
                repository.display()
            ),
        )
    })?;
    Ok(FolderLock { _file: Some(file) })
}

/// A lock file as restic writes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct LockFile {
    time: String,
    exclusive: bool,
    #[serde(default)]
    hostname: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    pid: i32,
    #[serde(default)]
    uid: u32,
    #[serde(default)]
    gid: u32,
}

impl LockFile {
    fn ours(exclusive: bool) -> Self {
        Self {
            time: Timestamp::now().to_string(),
            exclusive,
            hostname: host(),
            username: "neuralmesh".into(),
            pid: i32::try_from(std::process::id()).unwrap_or_default(),
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
        }
    }

    /// Seconds; of a clock that is ahead, none.
    fn age(&self) -> i64 {
        self.time
            .parse::<Timestamp>()
            .map_or(0, |time| (Timestamp::now().as_second() - time.as_second()).max(0))
    }

    fn is_stale(&self) -> bool {
        if self.age() > STALE {
            return true;
        }
        self.hostname == host() && Pid::from_raw(self.pid).is_some_and(|pid| test_kill_process(pid) == Err(rustix::io::Errno::SRCH))
    }
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// A lock file in the repository, written anew until it is dropped, and removed then.
#[derive(Debug)]
pub struct FileLock {
    held: Arc<Held>,
    stop: Option<mpsc::Sender<()>>,
    refresher: Option<JoinHandle<()>>,
    /// Locks of processes that are gone were found: a job was killed.
    pub found_stale: bool,
}

#[derive(Debug)]
struct Held {
    store: Arc<dyn Store>,
    key: Key,
    exclusive: bool,
    name: Mutex<Option<String>>,
}

impl Held {
    fn write(&self) -> io::Result<()> {
        let sealed = self.key.seal(&serde_json::to_vec(&LockFile::ours(self.exclusive))?)?;
        let name = crypt::hash(&sealed).to_hex().as_str().to_owned();
        self.store.write_lock(&name, &sealed)?;
        let before = self.name.lock().unwrap_or_else(PoisonError::into_inner).replace(name);
        match before {
            Some(before) => self.store.remove_lock(&before),
            None => Ok(()),
        }
    }

    fn remove(&self) {
        if let Some(name) = self.name.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // What can't be removed is stale as soon as this process is gone.
            let _ = self.store.remove_lock(&name);
        }
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(refresher) = self.refresher.take() {
            let _ = refresher.join();
        }
        self.held.remove();
    }
}

/// Written first, then looked for others: of two that come at once, one at least sees the other. Locks of processes that are gone are
/// removed only by one that `mends` what such a process left; others pass over them.
pub fn take_file(store: &Arc<dyn Store>, key: &Key, mode: Mode, mends: bool) -> Result<Option<FileLock>> {
    let held = Arc::new(Held {
        store: store.clone(),
        key: key.clone(),
        exclusive: mode == Mode::Exclusive,
        name: Mutex::new(None),
    });
    if let Err(error) = held.write() {
        let read_only = matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied);
        if mode == Mode::Shared && read_only {
            return Ok(None);
        }
        return Err(failed(
            code_of(&error, JobErrorCode::NotWritable),
            format!(
                "A lock can't be written into the repository {}: {error}. Make the destination writable.",
                store.name()
            ),
        ));
    }
    // From here on, dropping it removes the file.
    let mut lock = FileLock {
        held: held.clone(),
        stop: None,
        refresher: None,
        found_stale: false,
    };
    lock.found_stale = refuse_others(&held, mends)?;
    let (stop, stopped) = mpsc::channel();
    let refresher = thread::Builder::new()
        .name("lock".into())
        .spawn(move || {
            while stopped.recv_timeout(REFRESH) == Err(RecvTimeoutError::Timeout) {
                // Tried again after the same time; others take the lock for lost after six of them.
                let _ = held.write();
            }
        })
        .map_err(|error| failed(JobErrorCode::Internal, format!("The worker can't start a thread: {error}.")))?;
    lock.stop = Some(stop);
    lock.refresher = Some(refresher);
    Ok(Some(lock))
}

/// Whether locks of processes that are gone were found.
fn refuse_others(held: &Held, mends: bool) -> Result<bool> {
    let unreadable = |error: io::Error| {
        failed(
            JobErrorCode::Unreachable,
            format!(
                "The locks of the repository {} can't be read: {error}. Check the destination.",
                held.store.name()
            ),
        )
    };
    let own = held.name.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut found_stale = false;
    for name in held.store.locks().map_err(unreadable)? {
        if Some(&name) == own.as_ref() {
            continue;
        }
        let Some(sealed) = held.store.read_lock(&name).map_err(unreadable)? else {
            continue;
        };
        let other: LockFile = held
            .key
            .open_file(sealed)
            .and_then(|plain| Ok(serde_json::from_slice(&plain)?))
            .map_err(|error| {
                failed(
                    JobErrorCode::Locked,
                    format!(
                        "The lock {name} of the repository {} can't be read ({error}). If nothing works on it, run `restic unlock --remove-all`.",
                        held.store.name()
                    ),
                )
            })?;
        if other.is_stale() {
            if mends {
                held.store.remove_lock(&name).map_err(unreadable)?;
            }
            found_stale = true;
        } else if other.exclusive || held.exclusive {
            return Err(failed(
                JobErrorCode::Locked,
                format!(
                    "The repository {} is locked{} by process {} of {} since {} min. Try again when it has ended; if it was killed, run `restic unlock`.",
                    held.store.name(),
                    if other.exclusive { " for itself" } else { "" },
                    other.pid,
                    other.hostname,
                    other.age() / 60
                ),
            ));
        }
    }
    Ok(found_stale)
}
