//! What tasks wrote, kept after their containers are gone: `<data-dir>/tasks/logs/<job>/<index>-<attempt>`, one JSON line each.
//! The last [`LOG_BYTES`] of a task, for [`KEPT_DAYS`]; where all together take more than [`ALL_BYTES`], the oldest go first.

use nm_link::contract::TaskKey;
use nm_types::JobId;
use nm_types::container::LogLine;
use nm_types::job::{KEPT_DAYS, LOG_BYTES};
use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The most that is kept of all tasks of a node.
const ALL_BYTES: u64 = 2 << 30;

/// The last lines of a log, as many as fit.
#[derive(Default)]
pub struct Tail {
    lines: VecDeque<LogLine>,
    bytes: usize,
}

impl Tail {
    pub fn push(&mut self, line: LogLine) {
        self.bytes += line.line.len() + 1;
        self.lines.push_back(line);
        while self.bytes > LOG_BYTES
            && self.lines.len() > 1
            && let Some(oldest) = self.lines.pop_front()
        {
            self.bytes -= oldest.line.len() + 1;
        }
    }
    /// In the order of their moments: the streams are read one after the other.
    pub fn into_lines(self) -> Vec<LogLine> {
        let mut lines: Vec<LogLine> = self.lines.into();
        lines.sort_by_key(|line| line.time);
        lines
    }
}

#[derive(Clone)]
pub struct Logs {
    folder: PathBuf,
}

impl Logs {
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.join("logs"),
        }
    }

    fn path(&self, key: &TaskKey) -> PathBuf {
        self.folder.join(key.job.as_str()).join(format!("{}-{}", key.index, key.attempt))
    }

    /// Work on the disk.
    pub fn keep(&self, key: &TaskKey, lines: &[LogLine]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let path = self.path(key);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut text = Vec::new();
        for line in lines {
            serde_json::to_writer(&mut text, line)?;
            text.push(b'\n');
        }
        fs::write(path, text)
    }

    /// Nothing where nothing is kept. Work on the disk.
    pub fn read(&self, key: &TaskKey) -> io::Result<Vec<LogLine>> {
        let text = match fs::read(self.path(key)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let lines = text.split(|b| *b == b'\n').filter(|line| !line.is_empty());
        // A line that a crash left half written is left out.
        Ok(lines.filter_map(|line| serde_json::from_slice(line).ok()).collect())
    }

    /// Work on the disk.
    pub fn forget(&self, job: &JobId) {
        match fs::remove_dir_all(self.folder.join(job.as_str())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(job.id = %job, %error, "logs of a job could not be removed")
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// Removes what is too old or too much. Work on the disk.
    pub fn prune(&self) -> io::Result<()> {
        let mut all = Vec::new();
        let folders = match fs::read_dir(&self.folder) {
            Ok(folders) => folders,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut dirs = Vec::new();
        for folder in folders {
            let folder = folder?.path();
            for file in fs::read_dir(&folder)? {
                let file = file?;
                let about = file.metadata()?;
                all.push((about.modified().unwrap_or(SystemTime::UNIX_EPOCH), about.len(), file.path()));
            }
            dirs.push(folder);
        }
        all.sort();
        let mut total: u64 = all.iter().map(|(_, length, _)| length).sum();
        let oldest = SystemTime::now() - Duration::from_secs(KEPT_DAYS.unsigned_abs() * 24 * 3600);
        for (modified, length, path) in all {
            if modified >= oldest && total <= ALL_BYTES {
                break;
            }
            fs::remove_file(path)?;
            total -= length;
        }
        for folder in dirs {
            // One that still holds something stays.
            drop(fs::remove_dir(folder));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nm_types::Timestamp;
    use nm_types::container::LogStream;

    fn line(at: i64, text: &str) -> LogLine {
        LogLine {
            stream: LogStream::Stdout,
            time: Timestamp(at),
            line: text.into(),
        }
    }

    #[test]
    fn the_end_of_a_log_is_kept_and_goes_with_its_job() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::new(dir.path());
        let key = TaskKey {
            job: JobId::fresh(1),
            index: 3,
            attempt: 1,
        };
        assert_eq!(logs.read(&key).unwrap(), []);
        let mut tail = Tail::default();
        for n in 0..40 {
            tail.push(line(40 - n, &"x".repeat(64 << 10)));
        }
        let lines = tail.into_lines();
        assert!(lines.len() == 15 && lines[0].time == Timestamp(1));
        logs.keep(&key, &lines).unwrap();
        logs.prune().unwrap();
        assert_eq!(logs.read(&key).unwrap(), lines);
        logs.forget(&key.job);
        logs.forget(&key.job);
        assert_eq!(logs.read(&key).unwrap(), []);
    }
}
