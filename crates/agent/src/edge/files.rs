//! What the processes beside the agent write, and what shows that one of them is there.

use super::process::readable;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use tokio::io::unix::AsyncFd;

/// A log is cut once it is longer.
const LOG_AT_MOST: u64 = 16 << 20;
/// Of a log, what a person is told.
const LAST_WORDS: usize = 400;

/// A log that a process appends to as long as it lives, past our own end.
#[derive(Debug, Clone)]
pub struct Log(PathBuf);

impl Log {
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// For a process to write to, and where it will begin.
    pub fn open(&self) -> io::Result<(File, u64)> {
        self.trim();
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.0)?;
        let end = file.metadata()?.len();
        Ok((file, end))
    }

    /// The last line after `from`; from the last `error` on where there is one. Nothing where nothing was said.
    pub fn last_words(&self, from: u64) -> Option<String> {
        let mut text = Vec::new();
        let mut file = File::open(&self.0).ok()?;
        let end = file.metadata().ok()?.len();
        file.seek(SeekFrom::Start(from.max(end.saturating_sub(8 << 10)).min(end))).ok()?;
        file.read_to_end(&mut text).ok()?;
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let start = lines
            .iter()
            .rposition(|line| line.starts_with("error"))
            .unwrap_or(lines.len().saturating_sub(1));
        let said = lines.get(start..)?.join(" ");
        (!said.is_empty()).then(|| said.chars().take(LAST_WORDS).collect())
    }

    /// Cuts a log that has grown long: what was there lies in `….1`. Whoever appends to it goes on at its new end; a line that is
    /// written in this very moment may be lost.
    pub fn trim(&self) {
        let trimmed = || -> io::Result<()> {
            let file = match OpenOptions::new().read(true).write(true).open(&self.0) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(e) => return Err(e),
            };
            if file.metadata()?.len() <= LOG_AT_MOST {
                return Ok(());
            }
            let mut name = self.0.clone().into_os_string();
            name.push(".1");
            let mut before = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(name)?;
            io::copy(&mut &file, &mut before)?;
            before.flush()?;
            file.set_len(0)
        };
        if let Err(error) = trimmed() {
            tracing::warn!(%error, log = %self.0.display(), "a log could not be cut");
        }
    }
}

/// Files that are put into a folder by renaming.
pub struct Arrivals(AsyncFd<OwnedFd>);

impl Arrivals {
    /// Those from now on.
    pub fn watch(folder: &Path) -> io::Result<Self> {
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        inotify::add_watch(&watch, folder, WatchFlags::MOVED_TO)?;
        Ok(Self(readable(watch)?))
    }

    /// Waits for one, or several.
    pub async fn next(&self) -> io::Result<()> {
        let mut events = [0; 4096];
        loop {
            let mut guard = self.0.readable().await?;
            if let Ok(read) = guard.try_io(|fd| Ok(rustix::io::read(fd, &mut events)?)) {
                return read.map(drop);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_those_of_this_start() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::new(dir.path().join("log"));
        assert_eq!(log.last_words(0), None);
        std::fs::write(dir.path().join("log"), "error: of long ago\n").unwrap();
        let (mut file, from) = log.open().unwrap();
        assert_eq!(log.last_words(from), None);
        file.write_all(b"it begins\n\n").unwrap();
        assert_eq!(log.last_words(from).unwrap(), "it begins");
        file.write_all(b"error: no port\n  it is taken\n").unwrap();
        assert_eq!(log.last_words(from).unwrap(), "error: no port it is taken");
    }

    #[test]
    fn a_long_log_is_cut_under_whoever_writes_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = Log::new(path.clone());
        let (mut file, _) = log.open().unwrap();
        file.set_len(LOG_AT_MOST).unwrap();
        file.write_all(b"first\n").unwrap();
        log.trim();
        file.write_all(b"second\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "second\n");
        assert!(std::fs::read(dir.path().join("log.1")).unwrap().ends_with(b"first\n"));
    }

    #[tokio::test]
    async fn an_arrival_is_an_event() {
        let dir = tempfile::tempdir().unwrap();
        let arrivals = Arrivals::watch(dir.path()).unwrap();
        std::fs::write(dir.path().join("a"), "").unwrap();
        std::fs::rename(dir.path().join("a"), dir.path().join("b")).unwrap();
        arrivals.next().await.unwrap();
    }
}
