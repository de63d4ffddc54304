//! A command in a container with its output, or its input, streamed: dumps of databases.

use super::Docker;
use super::client::DockerError;
use super::exec::not_started;
use super::explain::sentence;
use super::frames::Demux;
use super::hub::Record;
use super::wire::ExecBody;
use bytes::Bytes;
use nm_link::contract::{AgentError, AgentErrorCode as Code};
use nm_types::container::LogStream;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

/// What is kept of standard error: its end says why a command failed.
const STDERR_AT_MOST: usize = 64 << 10;
/// Enough to hold the runtime's word on why nothing started.
const FIRST: usize = 4 << 10;

/// How a piped command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piped {
    pub exit_code: i64,
    /// The last of it.
    pub stderr: String,
}

impl Docker {
    /// Runs a command to its end; what it writes goes to `output`, where a slow reader slows it down. Without a reader it is
    /// hung up on.
    pub async fn pipe_out(
        &self,
        record: &Record,
        command: Vec<String>,
        env: Vec<String>,
        output: mpsc::Sender<Bytes>,
    ) -> Result<Piped, AgentError> {
        let body = ExecBody {
            attach_stdout: true,
            attach_stderr: true,
            cmd: command,
            env,
            ..ExecBody::default()
        };
        self.pipe(record, body, None, Some(output)).await
    }

    /// Runs a command to its end, with what comes from `input` as its standard input. An error there ends the command before it
    /// has seen the end of its input.
    pub async fn pipe_in(
        &self,
        record: &Record,
        command: Vec<String>,
        env: Vec<String>,
        input: mpsc::Receiver<io::Result<Bytes>>,
    ) -> Result<Piped, AgentError> {
        let body = ExecBody {
            attach_stdin: true,
            attach_stdout: true,
            attach_stderr: true,
            cmd: command,
            env,
            ..ExecBody::default()
        };
        self.pipe(record, body, Some(input), None).await
    }

    async fn pipe(
        &self,
        record: &Record,
        body: ExecBody,
        input: Option<mpsc::Receiver<io::Result<Bytes>>>,
        output: Option<mpsc::Sender<Bytes>>,
    ) -> Result<Piped, AgentError> {
        let (running, stream) = self.begin_exec(record, &body).await?;
        let ended = self.hub.exec_end(&running.exec_id);
        let (mut from, mut to) = tokio::io::split(stream);
        let broken = |e: io::Error| self.explain(DockerError::Broken(e.into()));
        let writing = async {
            let Some(mut input) = input else { return Ok::<(), AgentError>(()) };
            while let Some(piece) = input.recv().await {
                let piece = piece.map_err(|e| AgentError::new(Code::Cancelled, format!("The dump did not come whole: {e}.")))?;
                if to.write_all(&piece).await.is_err() {
                    // The program is gone, or reads no more; its exit code says why.
                    return Ok(());
                }
            }
            // Docker passes this on as the end of the program's input.
            drop(to.shutdown().await);
            Ok(())
        };
        let reading = async {
            let (mut demux, mut first, mut stderr) = (Demux::default(), Vec::new(), Vec::new());
            let mut chunk = vec![0; 64 << 10];
            loop {
                let n = from.read(&mut chunk).await.map_err(broken)?;
                if n == 0 {
                    return Ok::<_, AgentError>((first, stderr));
                }
                demux.push(&chunk[..n]);
                let bad = |e: super::frames::BadStream| AgentError::new(Code::Internal, sentence(&e.to_string()));
                while let Some((stream, bytes)) = demux.next().map_err(bad)? {
                    match stream {
                        LogStream::Stdout => {
                            first.extend_from_slice(&bytes[..bytes.len().min(FIRST - first.len())]);
                            if let Some(output) = &output
                                && output.send(bytes).await.is_err()
                            {
                                let text = "Nobody reads the dump any more: the backup worker has ended.";
                                return Err(AgentError::new(Code::Cancelled, text));
                            }
                        }
                        LogStream::Stderr => {
                            stderr.extend_from_slice(&bytes);
                            stderr.drain(..stderr.len().saturating_sub(STDERR_AT_MOST));
                        }
                    }
                }
            }
        };
        let mut writing = std::pin::pin!(writing);
        let mut reading = std::pin::pin!(reading);
        let mut still_writing = true;
        let (first, stderr) = loop {
            tokio::select! {
                read = &mut reading => break read?,
                // Its error hangs up, as `running` is dropped.
                written = &mut writing, if still_writing => {
                    written?;
                    still_writing = false;
                }
            }
        };
        let exit_code = self.exec_code(&running.exec_id, ended).await?;
        running.ended();
        if let Some(error) = not_started(exit_code, &first) {
            return Err(error);
        }
        Ok(Piped {
            exit_code,
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        })
    }
}

impl Piped {
    /// Why it failed, in a sentence; none where it ended well.
    pub fn failure(&self, what: &str) -> Option<String> {
        if self.exit_code == 0 {
            return None;
        }
        let last = self
            .stderr
            .lines()
            .map(str::trim)
            .rfind(|line| !line.is_empty())
            .unwrap_or("it said nothing");
        Some(format!(
            "{what} ended with exit code {}: {}.",
            self.exit_code,
            last.trim_end_matches('.')
        ))
    }
}
