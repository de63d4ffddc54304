//! Running a command in a container and waiting for what it gives.
//!
//! Docker has no call that ends an exec. Its process is found by its number on this machine and sent a signal, with its
//! process group; children that left the group, and engines whose processes this machine does not see (rootless, or in
//! another machine), can't be reached.

use super::Docker;
use super::client::{Call, DockerError};
use super::explain;
use super::frames::Demux;
use super::hub::Record;
use super::wire::{Created, ExecBody, ExecInspect, ExecStart};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getpgid};
use nm_link::contract::{AgentError, AgentErrorCode as Code};
use nm_types::container::{ExecCommand, ExecResult, LogStream};
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// Seconds a command may take where it names none.
const DEFAULT_TIMEOUT: i64 = 30;
/// What is kept of each stream.
const KEEP: usize = 1 << 20;
/// Between the end of an exec's output and Docker's word on how it ended.
const END_DEADLINE: Duration = Duration::from_secs(10);
/// A process that was sent a hangup and is still there after so long is killed.
const HANGUP_GRACE: Duration = Duration::from_secs(5);

/// How an exec is ended from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Kill,
    /// As when a terminal's line is cut.
    Hangup,
}

/// An exec under way. Dropped before [`Running::ended`], its process gets a hangup: nobody waits for it any more.
pub(super) struct Running {
    docker: Docker,
    docker_id: String,
    pub(super) exec_id: String,
    over: bool,
}

impl Running {
    /// The process has ended by itself.
    pub(super) fn ended(mut self) {
        self.over = true;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.over {
            let (docker, docker_id, exec_id) = (
                self.docker.clone(),
                std::mem::take(&mut self.docker_id),
                std::mem::take(&mut self.exec_id),
            );
            tokio::spawn(async move { docker.end_exec(&docker_id, &exec_id, Ending::Hangup).await });
        }
    }
}

impl Docker {
    /// Runs a command to its end, or to its timeout.
    pub async fn exec(&self, record: &Record, command: &ExecCommand) -> Result<ExecResult, AgentError> {
        let body = ExecBody {
            attach_stdout: true,
            attach_stderr: true,
            cmd: words(&command.command)?,
            env: command.environment.0.iter().map(|(k, v)| format!("{k}={}", v.as_str())).collect(),
            user: command.user.as_ref().map(ToString::to_string),
            working_dir: command.working_dir.as_ref().map(ToString::to_string),
            ..ExecBody::default()
        };
        let (running, mut stream) = self.begin_exec(record, &body).await?;
        let ended = self.hub.exec_end(&running.exec_id);
        let mut kept = Kept::default();
        let timeout = Duration::from_secs(command.timeout.map_or(DEFAULT_TIMEOUT, |t| t.get()).unsigned_abs());
        let reading = async {
            let mut demux = Demux::default();
            let mut chunk = vec![0; 32 << 10];
            loop {
                let n = stream
                    .read(&mut chunk)
                    .await
                    .map_err(|e| self.explain(DockerError::Broken(e.into())))?;
                if n == 0 {
                    return Ok::<(), AgentError>(());
                }
                demux.push(&chunk[..n]);
                let broken = |e: super::frames::BadStream| AgentError::new(Code::Internal, explain::sentence(&e.to_string()));
                while let Some((from, bytes)) = demux.next().map_err(broken)? {
                    kept.take(from, &bytes);
                }
            }
        };
        if let Ok(done) = tokio::time::timeout(timeout, reading).await {
            done?;
            let exit_code = self.exec_code(&running.exec_id, ended).await?;
            running.ended();
            if let Some(error) = not_started(exit_code, &kept.stdout) {
                return Err(error);
            }
            return Ok(kept.result(Some(exit_code), false));
        }
        self.end_exec(&running.docker_id, &running.exec_id, Ending::Kill).await;
        running.ended();
        Ok(kept.result(None, true))
    }

    /// Makes an exec and starts it, with its streams attached.
    pub(super) async fn begin_exec(
        &self,
        record: &Record,
        body: &ExecBody,
    ) -> Result<(Running, hyper_util::rt::TokioIo<hyper::upgrade::Upgraded>), AgentError> {
        let docker_id = record.observed.docker_id.clone();
        let _permit = self.permit().await;
        let call = Call::post("prepare a command in a container", format!("/containers/{docker_id}/exec"))
            .json(body)
            .map_err(|e| self.explain(e))?;
        let created: Created = self.client.json(call).await.map_err(|e| self.plain(record, e))?;
        let call = Call::post("run a command in a container", format!("/exec/{}/start", created.id))
            .json(&ExecStart {
                detach: false,
                tty: body.tty,
            })
            .map_err(|e| self.explain(e))?;
        let stream = self
            .client
            .upgrade(call.deadline(Duration::from_secs(60)))
            .await
            .map_err(|e| self.plain(record, e))?;
        Ok((
            Running {
                docker: self.clone(),
                docker_id,
                exec_id: created.id,
                over: false,
            },
            stream,
        ))
    }

    /// The exit code, once the output has ended: Docker closes the output a moment before it knows.
    pub(super) async fn exec_code(&self, exec_id: &str, ended: tokio::sync::oneshot::Receiver<Option<i64>>) -> Result<i64, AgentError> {
        let first = self.inspect_exec(exec_id).await?;
        if !first.running
            && let Some(code) = first.exit_code
        {
            return Ok(code);
        }
        let told = tokio::time::timeout(END_DEADLINE, ended).await;
        if let Ok(Ok(Some(code))) = told {
            return Ok(code);
        }
        let last = self.inspect_exec(exec_id).await?;
        match last.exit_code {
            Some(code) if !last.running => Ok(code),
            _ => Err(AgentError::new(
                Code::Internal,
                "The command closed its output and runs on; how it ends can't be told.",
            )),
        }
    }

    async fn inspect_exec(&self, exec_id: &str) -> Result<ExecInspect, AgentError> {
        self.client
            .json(Call::get("describe a command in a container", format!("/exec/{exec_id}/json")))
            .await
            .map_err(|e| self.explain(e))
    }

    async fn end_exec(&self, docker_id: &str, exec_id: &str, how: Ending) {
        let pid = match self.inspect_exec(exec_id).await {
            Ok(exec) if exec.running && exec.pid > 0 => exec.pid,
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(docker.id = docker_id, %error, "a command in a container could not be ended");
                return;
            }
        };
        let signal = match how {
            Ending::Kill => Signal::SIGKILL,
            Ending::Hangup => Signal::SIGHUP,
        };
        if !signal_group(pid, docker_id, signal) || how == Ending::Kill {
            return;
        }
        let ended = self.hub.exec_end(exec_id);
        if tokio::time::timeout(HANGUP_GRACE, ended).await.is_err() {
            signal_group(pid, docker_id, Signal::SIGKILL);
        }
    }
}

/// Sends a signal to the process and, where it leads one, its group. Only if the process belongs to the container: its number
/// may have gone to another by now.
fn signal_group(pid: i32, docker_id: &str, signal: Signal) -> bool {
    let in_container = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|cgroup| cgroup.contains(docker_id));
    if !in_container {
        tracing::debug!(pid, docker.id = docker_id, "the process of a command is not to be seen from here");
        return false;
    }
    let pid = Pid::from_raw(pid);
    // The runtime makes each exec a session of its own, so the group is the command and its children.
    let sent = if getpgid(Some(pid)) == Ok(pid) {
        killpg(pid, signal)
    } else {
        kill(pid, signal)
    };
    if let Err(error) = sent {
        tracing::debug!(%pid, %error, "the process of a command has ended already");
    }
    sent.is_ok()
}

pub(super) fn words(command: &[nm_types::text::Word]) -> Result<Vec<String>, AgentError> {
    if command.is_empty() {
        return Err(AgentError::new(Code::Invalid, "command has at least one word, the program.").field("command"));
    }
    Ok(command.iter().map(|w| w.as_str().to_owned()).collect())
}

/// Docker reports a command that could not be started as exit code 126 or 127, with the runtime's message as its output.
pub(super) fn not_started(exit_code: i64, output: &[u8]) -> Option<AgentError> {
    if !matches!(exit_code, 126 | 127) {
        return None;
    }
    let text = std::str::from_utf8(output).ok()?;
    let runtime = ["OCI runtime exec failed", "unable to find user", "unable to find group"]
        .iter()
        .any(|start| text.starts_with(start));
    runtime.then(|| explain::program(text.trim())).flatten()
}

/// What is kept of a command's output.
#[derive(Default)]
struct Kept {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    both: Vec<u8>,
    truncated: bool,
}

impl Kept {
    fn take(&mut self, from: LogStream, bytes: &[u8]) {
        let stream = match from {
            LogStream::Stdout => &mut self.stdout,
            LogStream::Stderr => &mut self.stderr,
        };
        let fits = &bytes[..bytes.len().min(KEEP - stream.len())];
        stream.extend_from_slice(fits);
        self.both.extend_from_slice(fits);
        self.truncated |= fits.len() < bytes.len();
    }

    fn result(self, exit_code: Option<i64>, timed_out: bool) -> ExecResult {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        ExecResult {
            exit_code,
            output: text(self.both),
            stdout: text(self.stdout),
            stderr: text(self.stderr),
            timed_out,
            truncated: self.truncated,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_kept_apart_in_order_and_bounded() {
        let mut kept = Kept::default();
        kept.take(LogStream::Stdout, b"a");
        kept.take(LogStream::Stderr, b"b");
        kept.take(LogStream::Stdout, b"c");
        let r = kept.result(Some(0), false);
        assert_eq!(
            (r.output.as_str(), r.stdout.as_str(), r.stderr.as_str(), r.truncated),
            ("abc", "ac", "b", false)
        );
        let mut kept = Kept::default();
        for _ in 0..3 {
            kept.take(LogStream::Stdout, &vec![b'x'; 600 << 10]);
        }
        kept.take(LogStream::Stderr, b"still");
        let r = kept.result(None, true);
        assert_eq!((r.stdout.len(), r.stderr.as_str(), r.truncated), (KEEP, "still", true));
    }

    #[test]
    fn a_program_that_writes_like_the_runtime_is_not_taken_for_it() {
        let text = b"OCI runtime exec failed: exec failed: unable to start container process: exec: \"nope\": executable file not found in $PATH: unknown\r\n";
        assert_eq!(not_started(126, text).unwrap().code, Code::CommandFailed);
        assert_eq!(not_started(0, text), None);
        assert_eq!(not_started(127, b"sh: nope: not found\n"), None);
    }
}
