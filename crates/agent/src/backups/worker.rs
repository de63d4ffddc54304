//! A worker: a process of its own, which may be killed in the middle of anything. It is told its job on its standard input and
//! says how far it is on its standard output, a line each; it ends when its standard input ends, which it does when we end.

use nm_types::backup::job::{Job, JobError, JobErrorCode, JobEvent};
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// How workers are started.
#[derive(Debug, Clone)]
pub struct BackupWorker {
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
}

/// The longest line: an outcome that names a page of a large folder.
const LINE_AT_MOST: u64 = 16 << 20;
/// What is kept of what it writes to its standard error, and what of that a person is told.
const STDERR_AT_MOST: usize = 8 << 10;
const LAST_WORDS: usize = 400;
/// From its last line, or the end of its output, to its end.
const LEAVE: Duration = Duration::from_secs(10);

impl BackupWorker {
    /// Carries out `job`; each event but the last goes to `tell`. Gives the last one: `Done` or `Failed`, whatever becomes of the
    /// process. When `cancel` is, or this is dropped, the process is killed.
    pub async fn run(&self, job: &Job, cancel: &CancellationToken, tell: impl FnMut(JobEvent)) -> JobEvent {
        let spawned = Command::new(&self.program)
            .args(&self.arguments)
            // What the agent was started with, passwords among it, is none of a worker's business.
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A Ctrl-C at a terminal is not meant for it.
            .process_group(0)
            .kill_on_drop(true)
            .spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(e) => return failed(JobErrorCode::Internal, format!("The backup worker could not be started: {e}.")),
        };
        if let Some(pid) = child.id() {
            // Where memory runs out, a backup that is made again is the least that can be lost.
            if let Err(error) = tokio::fs::write(format!("/proc/{pid}/oom_score_adj"), "500").await {
                tracing::debug!(%error, "a backup worker has the agent's own place where memory runs out");
            }
        }
        let last = tokio::select! {
            last = converse(&mut child, job, tell) => last,
            () = cancel.cancelled() => {
                leave(&mut child, Duration::ZERO).await;
                return failed(JobErrorCode::Cancelled, "The backup job was cancelled. What was kept before is as it was.".to_owned());
            }
        };
        let (event, said) = match last {
            Ok(Said::Last(event)) => {
                leave(&mut child, LEAVE).await;
                return event;
            }
            Ok(Said::Nothing(stderr)) => ("it ended without a last word".to_owned(), stderr),
            Err(e) => ("it went on".to_owned(), e.to_string()),
        };
        // One that talks nonsense may go on with it.
        let how = leave(&mut child, LEAVE).await.unwrap_or(event);
        let said = if said.is_empty() { String::new() } else { format!(" ({said})") };
        failed(
            JobErrorCode::Died,
            format!("The backup worker died: {how}{said}. What was kept before is as it was; start it again."),
        )
    }
}

enum Said {
    Last(JobEvent),
    /// Its last words on its standard error.
    Nothing(String),
}

async fn converse(child: &mut Child, job: &Job, mut tell: impl FnMut(JobEvent)) -> io::Result<Said> {
    let missing = || io::Error::other("it has no standard streams");
    let mut stdin = child.stdin.take().ok_or_else(missing)?;
    let stdout = child.stdout.take().ok_or_else(missing)?;
    let stderr = child.stderr.take().ok_or_else(missing)?;
    let mut text = serde_json::to_vec(job)?;
    text.push(b'\n');
    // Dropped only after its last word: it ends when its standard input does.
    let telling = AbortOnDropHandle::new(tokio::spawn(async move {
        // One that ends before it has read all says why itself.
        if let Err(error) = stdin.write_all(&text).await {
            tracing::debug!(%error, "a backup worker did not read its job");
        }
        std::future::pending::<()>().await;
        drop(stdin);
    }));
    // Read all along: a full pipe would hold the worker up.
    let words = AbortOnDropHandle::new(tokio::spawn(last_words(stderr)));
    let mut stdout = BufReader::new(stdout);
    let mut line = Vec::new();
    loop {
        line.clear();
        let n = (&mut stdout).take(LINE_AT_MOST).read_until(b'\n', &mut line).await?;
        if n == 0 {
            break;
        }
        match serde_json::from_slice(&line) {
            Ok(event @ (JobEvent::Done { .. } | JobEvent::Failed { .. })) => return Ok(Said::Last(event)),
            Ok(event) => tell(event),
            Err(e) => return Err(io::Error::other(format!("it said something that is no event: {e}"))),
        }
    }
    drop(telling);
    let words = tokio::time::timeout(LEAVE, words).await;
    Ok(Said::Nothing(words.ok().and_then(Result::ok).unwrap_or_default()))
}

/// The last line of what is written there, once it ends.
async fn last_words(mut from: impl AsyncRead + Unpin) -> String {
    let mut kept: Vec<u8> = Vec::new();
    let mut chunk = vec![0; 4 << 10];
    while let Ok(n @ 1..) = from.read(&mut chunk).await {
        kept.extend_from_slice(&chunk[..n]);
        kept.drain(..kept.len().saturating_sub(STDERR_AT_MOST));
    }
    let text = String::from_utf8_lossy(&kept);
    let last = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
    last.trim_end_matches('.').chars().take(LAST_WORDS).collect()
}

/// Waits for its end as long as `grace`, then kills it. How it ended, in words.
async fn leave(child: &mut Child, grace: Duration) -> Option<String> {
    use std::os::unix::process::ExitStatusExt;
    let status = match tokio::time::timeout(grace, child.wait()).await {
        Ok(status) => status,
        Err(_) => {
            if let Err(error) = child.start_kill() {
                tracing::debug!(%error, "a backup worker has ended already");
            }
            child.wait().await
        }
    };
    let status = status.ok()?;
    match (status.code(), status.signal()) {
        (Some(code), _) => Some(format!("it exited with {code}")),
        (None, Some(9)) => Some("it was killed, most likely since the machine had no memory left".to_owned()),
        (None, Some(signal)) => Some(format!("it was ended by signal {signal}")),
        (None, None) => None,
    }
}

pub fn failed(code: JobErrorCode, message: String) -> JobEvent {
    JobEvent::Failed {
        error: JobError { code, message },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn worker(script: &str) -> BackupWorker {
        BackupWorker {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
        }
    }

    fn job() -> Job {
        serde_json::from_value(json!({
            "key": "op_1_abcdefghi-backup",
            "repository": {"place": {"kind": "path", "path": "/srv/repository"}, "password": "secret"},
            "task": {"do": "list"},
        }))
        .unwrap()
    }

    async fn run(script: &str) -> (Vec<JobEvent>, JobEvent) {
        let mut told = Vec::new();
        let last = worker(script)
            .run(&job(), &CancellationToken::new(), |event| told.push(event))
            .await;
        (told, last)
    }

    #[tokio::test]
    async fn its_last_word_is_the_outcome_and_it_ends_with_its_input() {
        let script = r#"read -r job; case "$job" in *secret*) ;; *) exit 1;; esac
            echo '{"type":"step","name":"open"}'
            echo '{"type":"done","outcome":{"is":"sent","bytes":3}}'
            while read -r more; do :; done"#;
        let (told, last) = run(script).await;
        assert_eq!(told, [JobEvent::Step { name: "open".into() }]);
        assert!(matches!(last, JobEvent::Done { .. }), "{last:?}");
    }

    #[tokio::test]
    async fn one_that_dies_is_a_failure_that_says_why() {
        for (script, why) in [
            ("echo first >&2; echo 'no room.' >&2; exit 3", "it exited with 3 (no room)"),
            ("kill -9 $$", "no memory left"),
            ("echo nonsense", "exited with 0"),
        ] {
            let (_, last) = run(script).await;
            let JobEvent::Failed { error } = last else { panic!("{last:?}") };
            assert_eq!(error.code, JobErrorCode::Died);
            assert!(error.message.contains(why), "{script}: {}", error.message);
        }
    }

    #[tokio::test]
    async fn one_that_is_cancelled_is_killed() {
        let cancel = CancellationToken::new();
        let script = r#"trap '' TERM; read -r job; echo '{"type":"step","name":"read"}'; while :; do read -r more; done"#;
        let last = worker(script).run(&job(), &cancel, |_| cancel.cancel()).await;
        assert!(matches!(last, JobEvent::Failed { error } if error.code == JobErrorCode::Cancelled));
    }
}
