//! What the agent was given to run and what came of it, on disk: `<data-dir>/tasks/ledger`, one JSON value a line.
//!
//! A task is in it before it is begun, and its result before its container goes. Lines of many tasks are made durable together: a
//! thread of its own takes all that wait, writes them, syncs once, and tells all who wait. What is settled is left out when the file
//! is written anew: at the start, and whenever it has grown long.

use nm_link::contract::{TaskKey, TaskResult};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;

/// Lines after which the file is written anew.
const LONG: usize = 20_000;

/// What is known of a task without its spec, which has secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Accepted {
    pub key: TaskKey,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cores: Vec<u32>,
    /// Seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
    /// The start of the machine it was accepted in.
    pub boot: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "line")]
pub enum Line {
    Accepted(Accepted),
    Ended(TaskResult),
    /// The control plane has its result.
    Settled {
        key: TaskKey,
    },
}

/// What is not settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    pub accepted: Accepted,
    pub result: Option<TaskResult>,
}

type Tasks = BTreeMap<TaskKey, Open>;

fn apply(tasks: &mut Tasks, line: Line) {
    match line {
        Line::Accepted(accepted) => {
            let open = Open {
                accepted: accepted.clone(),
                result: None,
            };
            tasks.entry(accepted.key).or_insert(open);
        }
        Line::Ended(result) => {
            if let Some(open) = tasks.get_mut(&result.key) {
                open.result.get_or_insert(result);
            }
        }
        Line::Settled { key } => drop(tasks.remove(&key)),
    }
}

/// Lines on their way to the disk.
struct Writing {
    lines: Vec<Line>,
    done: Option<oneshot::Sender<io::Result<()>>>,
}

#[derive(Clone)]
pub struct Ledger {
    to: Sender<Writing>,
}

impl Ledger {
    /// Reads what is open. A line that a crash left half written is the last one, and stands for something nobody was told of.
    pub fn open(folder: &Path) -> io::Result<(Self, Vec<Open>)> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let path = folder.join("ledger");
        let mut tasks = Tasks::new();
        match fs::read(&path) {
            Ok(text) => {
                for line in text.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
                    match serde_json::from_slice(line) {
                        Ok(line) => apply(&mut tasks, line),
                        Err(error) => tracing::warn!(%error, "a line of the ledger of tasks is damaged and is left out"),
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let file = anew(&path, &tasks)?;
        let open = tasks.values().cloned().collect();
        let (to, from) = channel();
        let writer = Writer {
            lines: tasks.len(),
            path,
            file,
            tasks,
        };
        std::thread::Builder::new()
            .name("tasks-ledger".into())
            .spawn(move || writer.run(&from))?;
        Ok((Self { to }, open))
    }

    /// On disk once this returns.
    pub async fn write(&self, lines: Vec<Line>) -> io::Result<()> {
        let (done, written) = oneshot::channel();
        let gone = || io::Error::other("the ledger's writer is gone");
        self.to.send(Writing { lines, done: Some(done) }).map_err(|_| gone())?;
        written.await.map_err(|_| gone())?
    }

    /// On disk at some time: it only saves work after a crash.
    pub fn note(&self, lines: Vec<Line>) {
        if self.to.send(Writing { lines, done: None }).is_err() {
            tracing::warn!("the ledger's writer is gone");
        }
    }
}

/// Writes the file anew, with what is open alone.
fn anew(path: &Path, tasks: &Tasks) -> io::Result<File> {
    let new = path.with_extension("new");
    let mut to = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    let mut text = Vec::new();
    for open in tasks.values() {
        push(&mut text, &Line::Accepted(open.accepted.clone()))?;
        if let Some(result) = &open.result {
            push(&mut text, &Line::Ended(result.clone()))?;
        }
    }
    to.write_all(&text)?;
    to.sync_all()?;
    fs::rename(&new, path)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    OpenOptions::new().append(true).open(path)
}

fn push(text: &mut Vec<u8>, line: &Line) -> io::Result<()> {
    serde_json::to_writer(&mut *text, line)?;
    text.push(b'\n');
    Ok(())
}

struct Writer {
    path: PathBuf,
    file: File,
    tasks: Tasks,
    lines: usize,
}

impl Writer {
    fn run(mut self, from: &Receiver<Writing>) {
        while let Ok(first) = from.recv() {
            let mut all = vec![first];
            all.extend(from.try_iter());
            let result = self.put(&mut all);
            for done in all.into_iter().filter_map(|w| w.done) {
                let told = match &result {
                    Ok(()) => Ok(()),
                    Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
                };
                // Who asked has gone.
                drop(done.send(told));
            }
        }
    }

    fn put(&mut self, all: &mut [Writing]) -> io::Result<()> {
        let mut text = Vec::new();
        let waited_for = all.iter().any(|w| w.done.is_some());
        let lines: Vec<Line> = all.iter_mut().flat_map(|w| std::mem::take(&mut w.lines)).collect();
        for line in &lines {
            push(&mut text, line)?;
        }
        let before = self.file.metadata()?.len();
        let written = self.file.write_all(&text).and_then(|()| match waited_for {
            true => self.file.sync_data(),
            false => Ok(()),
        });
        if let Err(error) = written {
            // A half line would spoil the next one.
            if let Err(error) = self.file.set_len(before) {
                tracing::warn!(%error, "the ledger of tasks could not be cut back");
            }
            return Err(error);
        }
        self.lines += lines.len();
        for line in lines {
            apply(&mut self.tasks, line);
        }
        if self.lines > LONG && self.lines > self.tasks.len() * 4 {
            self.file = anew(&self.path, &self.tasks)?;
            self.lines = self.tasks.len();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nm_types::job::TaskOutcome;
    use nm_types::{JobId, Timestamp};

    fn accepted(index: u32) -> Accepted {
        Accepted {
            key: TaskKey {
                job: JobId::parse("job_1_aaaaaaaaa").unwrap(),
                index,
                attempt: 1,
            },
            cores: vec![1],
            timeout: Some(5),
            boot: "b".into(),
        }
    }

    fn result(index: u32, exit_code: i64) -> TaskResult {
        TaskResult {
            key: accepted(index).key,
            outcome: TaskOutcome::Succeeded,
            exit_code: Some(exit_code),
            reason: None,
            began: None,
            ended: Timestamp(1),
        }
    }

    #[tokio::test]
    async fn what_is_not_settled_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("tasks");
        let (ledger, open) = Ledger::open(&folder).unwrap();
        assert!(open.is_empty());
        ledger.write((1..=3).map(|n| Line::Accepted(accepted(n))).collect()).await.unwrap();
        // The first result counts, and one of a task that nobody knows is nothing.
        ledger
            .write(vec![
                Line::Ended(result(2, 0)),
                Line::Ended(result(2, 9)),
                Line::Ended(result(7, 0)),
            ])
            .await
            .unwrap();
        ledger.write(vec![Line::Settled { key: accepted(3).key }]).await.unwrap();
        drop(ledger);
        let mut file = OpenOptions::new().append(true).open(folder.join("ledger")).unwrap();
        file.write_all(b"{\"line\":\"acc").unwrap();
        for _ in 0..2 {
            let (_, open) = Ledger::open(&folder).unwrap();
            let found: Vec<_> = open
                .iter()
                .map(|o| (o.accepted.clone(), o.result.as_ref().and_then(|r| r.exit_code)))
                .collect();
            assert_eq!(found, [(accepted(1), None), (accepted(2), Some(0))]);
        }
    }
}
