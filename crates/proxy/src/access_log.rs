//! The access log: one JSON line a request or TCP connection, written by a thread of its own. Traffic never waits for
//! it; what does not fit into its queue is counted and left out.

use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

/// Lines that may wait for the disk.
const QUEUE: usize = 16_384;

/// A file of the log goes on as another one when it is this long; the one before it is kept.
const FILE_AT_MOST: u64 = 64 << 20;

/// A file that never outgrows its disk: once it is long, it becomes `….1` and a new one begins.
pub struct LogFile {
    path: PathBuf,
    file: File,
    length: u64,
    at_most: u64,
}

impl LogFile {
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = append(path)?;
        let length = file.metadata()?.len();
        Ok(Self {
            path: path.to_owned(),
            file,
            length,
            at_most: FILE_AT_MOST,
        })
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

impl Write for LogFile {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let written = self.file.write(lines)?;
        self.length += written as u64;
        Ok(written)
    }

    /// Between two lines, as the log is flushed there and nowhere else.
    fn flush(&mut self) -> io::Result<()> {
        if self.length > self.at_most {
            let mut before = self.path.clone().into_os_string();
            before.push(".1");
            std::fs::rename(&self.path, before)?;
            self.file = append(&self.path)?;
            self.length = 0;
        }
        Ok(())
    }
}

#[derive(Clone)]
pub struct AccessLog {
    queue: Sender<Vec<u8>>,
    counts: Arc<Counts>,
}

/// The queue is bounded by this count, and not by its channel: a channel with a bound holds memory for all of it.
#[derive(Default)]
struct Counts {
    waiting: AtomicUsize,
    dropped: AtomicU64,
}

/// One line. Times in milliseconds, sizes in bytes of the bodies.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Line<'a> {
    pub time: nm_types::Timestamp,
    pub listener: &'a str,
    pub client: std::net::IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member: Option<&'a str>,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub duration_ms: f64,
    /// Whether it ended as it should.
    pub complete: bool,
}

impl AccessLog {
    /// Writes to `out` until the last sender is gone.
    pub fn new(out: Box<dyn Write + Send>) -> io::Result<Self> {
        let (queue, lines) = channel();
        let counts = Arc::new(Counts::default());
        let counter = counts.clone();
        std::thread::Builder::new()
            .name("access-log".into())
            .stack_size(256 << 10)
            .spawn(move || write(out, &lines, &counter))?;
        Ok(Self { queue, counts })
    }

    /// One that keeps nothing.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn none() -> Self {
        Self {
            queue: channel().0,
            counts: Arc::default(),
        }
    }

    pub fn write(&self, line: &Line<'_>) {
        if self.counts.waiting.fetch_add(1, Ordering::Relaxed) >= QUEUE {
            self.counts.waiting.fetch_sub(1, Ordering::Relaxed);
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let Ok(mut text) = serde_json::to_vec(line) else { return };
        text.push(b'\n');
        // The thread that writes lives as long as this.
        let _ = self.queue.send(text);
    }
}

fn write(out: Box<dyn Write + Send>, lines: &Receiver<Vec<u8>>, counts: &Counts) {
    let mut out = BufWriter::with_capacity(64 << 10, out);
    let mut failing = false;
    while let Ok(line) = lines.recv() {
        counts.waiting.fetch_sub(1, Ordering::Relaxed);
        let mut result = out.write_all(&line);
        // What has come meanwhile goes out in the same write.
        while let Ok(line) = lines.try_recv() {
            counts.waiting.fetch_sub(1, Ordering::Relaxed);
            result = result.and_then(|()| out.write_all(&line));
        }
        result = result.and_then(|()| out.flush());
        match result {
            Ok(()) => failing = false,
            Err(_) if failing => {}
            Err(error) => {
                failing = true;
                tracing::warn!(%error, "the access log can't be written; its lines are lost until it can");
            }
        }
        let lost = counts.dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            tracing::warn!(lost, "the access log could not keep up; lines were left out");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_file_goes_on_as_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        std::fs::write(&path, "before\n").unwrap();
        let mut file = LogFile::open(&path).unwrap();
        file.at_most = 12;
        for line in ["first\n", "second\n", "third\n"] {
            file.write_all(line.as_bytes()).unwrap();
            file.flush().unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
        assert_eq!(std::fs::read_to_string(dir.path().join("access.log.1")).unwrap(), "second\nthird\n");
    }
}
