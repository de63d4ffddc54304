//! What is kept of jobs on disk: how each ended (`<data-dir>/backups/outcomes/<job>.json`, a week), and what is to be undone
//! after each (`<data-dir>/backups/held/<job>.json`, until it is undone).

use nm_link::contract::{AgentError, AgentErrorCode as Code};
use nm_types::backup::job::{JobEvent, JobKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const KEEP_OUTCOMES_MS: i64 = 7 * 24 * 3600 * 1000;

/// How a job ended: its last event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ended {
    /// Unix milliseconds.
    pub at: i64,
    pub event: JobEvent,
}

/// What was done to a container for a job, and is undone after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Undo {
    Unpause,
    Start,
    /// Of one that was paused: it is started, and paused again.
    StartAndPause,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    pub docker_id: String,
    pub undo: Undo,
    /// The newest command that the container had had by then; none of a container that is not ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
}

pub struct Records {
    outcomes: PathBuf,
    held: PathBuf,
    /// For sockets and other files of running jobs; emptied at the start.
    pub scratch: PathBuf,
}

impl Records {
    /// Makes the folders, and removes what is too old. Work on the disk.
    pub fn open(data_dir: &Path, now: i64) -> io::Result<Self> {
        let dir = data_dir.join("backups");
        let records = Self {
            outcomes: dir.join("outcomes"),
            held: dir.join("held"),
            scratch: dir.join("run"),
        };
        match fs::remove_dir_all(&records.scratch) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            Ok(()) | Err(_) => {}
        }
        for folder in [&records.outcomes, &records.held, &records.scratch] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        records.forget_old(now)?;
        Ok(records)
    }

    pub fn forget_old(&self, now: i64) -> io::Result<()> {
        for (key, path) in entries(&self.outcomes)? {
            let old = match read::<Ended>(&path) {
                Ok(Some(ended)) => now - ended.at > KEEP_OUTCOMES_MS,
                Ok(None) => false,
                Err(error) => {
                    tracing::warn!(job = %key, %error, "the outcome of a backup job is damaged and is removed");
                    true
                }
            };
            if old {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    pub fn outcome(&self, key: &JobKey) -> io::Result<Option<Ended>> {
        read(&file(&self.outcomes, key))
    }
    pub fn keep_outcome(&self, key: &JobKey, ended: &Ended) -> io::Result<()> {
        write(&self.outcomes, key, ended)
    }

    /// On disk once this returns: before anything of it is done.
    pub fn hold(&self, key: &JobKey, held: &[Held]) -> io::Result<()> {
        write(&self.held, key, &held)
    }
    pub fn released(&self, key: &JobKey) -> io::Result<()> {
        match fs::remove_file(file(&self.held, key)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            Ok(()) | Err(_) => Ok(()),
        }
    }
    /// What jobs that are no more have left to be undone.
    pub fn all_held(&self) -> io::Result<Vec<(JobKey, Vec<Held>)>> {
        let mut all = Vec::new();
        for (key, path) in entries(&self.held)? {
            match read(&path) {
                Ok(Some(held)) => all.push((key, held)),
                Ok(None) => {}
                Err(error) => tracing::error!(job = %key, path = %path.display(), %error,
                    "what a backup job has stopped or paused can't be read: look at the node's containers"),
            }
        }
        Ok(all)
    }
}

fn file(folder: &Path, key: &JobKey) -> PathBuf {
    folder.join(format!("{key}.json"))
}

/// The files of operations; what a crash left half written is removed.
fn entries(folder: &Path) -> io::Result<Vec<(JobKey, PathBuf)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        match name.strip_suffix(".json").and_then(JobKey::parse) {
            Some(key) => all.push((key, path)),
            None if name.ends_with(".new") => fs::remove_file(&path)?,
            None => {}
        }
    }
    Ok(all)
}

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Past a power cut too: a container that was stopped stays so until somebody reads this.
fn write(folder: &Path, key: &JobKey, value: &impl Serialize) -> io::Result<()> {
    let (path, new) = (file(folder, key), folder.join(format!("{key}.new")));
    let text = serde_json::to_vec(value)?;
    let mut to = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    to.write_all(&text)?;
    to.sync_all()?;
    fs::rename(&new, &path)?;
    File::open(folder)?.sync_all()
}

/// A disk that could not be read or written, in words.
pub fn unkept(error: &io::Error) -> AgentError {
    if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        let text = "The node's disk is full: free some space. Nothing was begun, since the agent could not note what it is to undo.";
        return AgentError::new(Code::DiskFull, text);
    }
    AgentError::new(
        Code::Internal,
        format!("The agent could not read or write what it keeps of backups: {error}."),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use nm_types::OperationId;
    use nm_types::backup::job::{JobError, JobErrorCode};

    fn ended(at: i64) -> Ended {
        let error = JobError {
            code: JobErrorCode::Died,
            message: "x".into(),
        };
        Ended {
            at,
            event: JobEvent::Failed { error },
        }
    }

    fn job(n: i64) -> JobKey {
        JobKey::new(&OperationId::fresh(n), "backup").unwrap()
    }

    #[test]
    fn outcomes_are_kept_a_week() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path(), 0).unwrap();
        let (old, young) = (job(1), job(2));
        records.keep_outcome(&old, &ended(0)).unwrap();
        records.keep_outcome(&young, &ended(1000)).unwrap();
        fs::write(dir.path().join("backups/outcomes/half.new"), "{").unwrap();
        let records = Records::open(dir.path(), KEEP_OUTCOMES_MS + 1).unwrap();
        assert_eq!(records.outcome(&old).unwrap(), None);
        assert_eq!(records.outcome(&young).unwrap(), Some(ended(1000)));
        assert!(!dir.path().join("backups/outcomes/half.new").exists());
    }

    #[test]
    fn what_is_to_be_undone_outlives_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        let key = job(1);
        let held = vec![Held {
            docker_id: "ab".into(),
            undo: Undo::Unpause,
            generation: Some(3),
        }];
        Records::open(dir.path(), 0).unwrap().hold(&key, &held).unwrap();
        let records = Records::open(dir.path(), 0).unwrap();
        assert_eq!(records.all_held().unwrap(), [(key.clone(), held)]);
        records.released(&key).unwrap();
        records.released(&key).unwrap();
        assert_eq!(records.all_held().unwrap(), []);
    }
}
