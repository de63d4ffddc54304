//! Packs that are written and not yet synced. Two threads sync them and give them their names, while the next ones are made.

use rustix::{
    fd::OwnedFd,
    fs::{AtFlags, Mode, OFlags},
    io::Errno,
};
use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Write},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

const THREADS: usize = 2;
/// More than so many that wait hold up the one that writes: the disk is slower than we are.
const WAITING_AT_MOST: usize = 6;

/// A file under another name than its own, until it is finished. Dropped before, nothing of it is left.
#[derive(Debug)]
pub struct Unsynced {
    file: File,
    folder: OwnedFd,
    beside: String,
    name: String,
    finished: bool,
}

impl Unsynced {
    pub fn begin(folder: OwnedFd, name: &str) -> io::Result<Self> {
        static BEGUN: AtomicU64 = AtomicU64::new(0);
        // Two workers, and two writers of one process, are kept apart; no file of the repository has a name like it.
        let beside = format!(".{name}-{}-{}.part", std::process::id(), BEGUN.fetch_add(1, Ordering::Relaxed));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(&folder, &beside, flags, Mode::RUSR | Mode::WUSR);
        let file = match open() {
            // Of a process of the same number that was killed.
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(&folder, &beside, AtFlags::empty())?;
                open()?
            }
            other => other?,
        };
        Ok(Self {
            file: file.into(),
            folder,
            beside,
            name: name.to_owned(),
            finished: false,
        })
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    /// It has its name, also after a power cut.
    pub fn finish(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        self.rename()?;
        Ok(rustix::fs::fsync(&self.folder)?)
    }

    /// It has its name, as long as no power is cut.
    pub fn finish_unsynced(mut self) -> io::Result<()> {
        self.rename()
    }

    fn rename(&mut self) -> io::Result<()> {
        rustix::fs::renameat(&self.folder, &self.beside, &self.folder, &self.name)?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Unsynced {
    fn drop(&mut self) {
        if !self.finished {
            // What is left of a write that failed takes room on a disk that may be full.
            let _ = rustix::fs::unlinkat(&self.folder, &self.beside, AtFlags::empty());
        }
    }
}

#[derive(Debug, Default)]
pub struct Behind {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Unsynced>,
    /// Those that are waiting, and those that are being synced.
    open: usize,
    threads: usize,
    /// The first; told at the next chance, and from then on.
    failed: Option<(io::ErrorKind, String)>,
}

impl State {
    fn check(&self) -> io::Result<()> {
        self.failed
            .as_ref()
            .map_or(Ok(()), |(kind, words)| Err(io::Error::new(*kind, words.clone())))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends when nothing is waiting; the next one that is handed over starts another.
    fn work(&self) {
        let mut state = self.lock();
        while let Some(next) = state.waiting.pop_front() {
            drop(state);
            let finished = next.finish();
            state = self.lock();
            state.open -= 1;
            if let Err(error) = finished {
                state.failed.get_or_insert((error.kind(), error.to_string()));
            }
            self.changed.notify_all();
        }
        state.threads -= 1;
    }
}

impl Behind {
    pub fn hand_over(&self, written: Unsynced) -> io::Result<()> {
        let mut state = self.shared.lock();
        while state.waiting.len() >= WAITING_AT_MOST {
            state = self.shared.wait(state);
        }
        state.check()?;
        state.waiting.push_back(written);
        state.open += 1;
        if state.threads < THREADS {
            let shared = self.shared.clone();
            state.threads += 1;
            let started = thread::Builder::new().name("sync".into()).spawn(move || shared.work());
            if let Err(error) = started {
                state.threads -= 1;
                if state.threads == 0 {
                    state.open = 0;
                    state.waiting.clear();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Waits until everything that was handed over has its name, or failed.
    pub fn settle(&self) -> io::Result<()> {
        let mut state = self.shared.lock();
        while state.open > 0 {
            state = self.shared.wait(state);
        }
        state.check()
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        let _ = self.settle();
    }
}
