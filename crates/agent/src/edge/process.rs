//! A process that outlives this one: its end is an event, whether we started it or found it.

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Held by a pidfd, which never comes to mean another process.
pub struct Process {
    pub pid: u32,
    handle: AsyncFd<OwnedFd>,
}

impl Process {
    /// Starts it in a process group of its own, so that a Ctrl-C at a terminal is not meant for it. It is not ended when this
    /// is dropped, nor when this process ends.
    pub fn spawn(mut command: Command) -> io::Result<Self> {
        // Dropped without being waited for, so its number stays its own until `ended` has seen its end.
        let child = command.process_group(0).spawn()?;
        Self::of(child.id())
    }

    /// A process that runs. Its number may have come to mean another one since it was learned: look again once this is held.
    pub fn of(pid: u32) -> io::Result<Self> {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
        let handle = pidfd_open(raw, PidfdFlags::empty())?;
        Ok(Self {
            pid,
            handle: readable(handle)?,
        })
    }

    /// Waits for its end, and says in words how it ended. May be asked again.
    pub async fn ended(&self) -> String {
        loop {
            let Ok(mut guard) = self.handle.readable().await else {
                // Only when the runtime itself ends.
                return std::future::pending().await;
            };
            match waitid(WaitId::PidFd(self.handle.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
                Ok(Some(status)) => {
                    return match (status.exit_status(), status.terminating_signal()) {
                        (Some(code), _) => format!("it exited with {code}"),
                        (None, Some(signal)) => format!("it was ended by signal {signal}"),
                        (None, None) => "it ended".to_owned(),
                    };
                }
                Ok(None) => guard.clear_ready(),
                // Not a child of ours, or no more: how it ended, only its parent knows.
                Err(_) => return "it ended".to_owned(),
            }
        }
    }

    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(self.handle.as_fd(), signal) {
            // It has ended already.
            Err(Errno::SRCH) => Ok(()),
            sent => Ok(sent?),
        }
    }

    /// Its command line.
    pub fn arguments(&self) -> Vec<OsString> {
        let text = std::fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        let parts = text.split(|b| *b == 0).filter(|part| !part.is_empty());
        parts.map(|part| OsString::from_vec(part.to_vec())).collect()
    }

    /// The file it runs: also when that was replaced or removed since.
    pub fn image(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/exe", self.pid))
    }
}

/// A descriptor whose being readable is an event.
#[expect(
    deprecated,
    reason = "it is sound for a descriptor that is owned; what is to take its place can't be called without unsafe code"
)]
pub fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleep() -> Process {
        let mut command = Command::new("sleep");
        command.arg("1000");
        Process::spawn(command).unwrap()
    }

    #[tokio::test]
    async fn its_end_is_seen_and_told_in_words() {
        let process = sleep();
        // `exec` may be a moment away.
        while process.arguments().first().is_none_or(|name| name != "sleep") {
            tokio::task::yield_now().await;
        }
        let again = Process::of(process.pid).unwrap();
        process.signal(Signal::KILL).unwrap();
        assert_eq!(process.ended().await, "it was ended by signal 9");
        assert_eq!(again.ended().await, "it ended");
        assert_eq!(process.ended().await, "it ended", "asked again it says so again");
        process.signal(Signal::TERM).unwrap();
        assert!(Process::of(process.pid).is_err(), "nothing is left of it");

        let mut failing = Command::new("sleep");
        failing.arg("no number").stderr(std::process::Stdio::null());
        assert_eq!(Process::spawn(failing).unwrap().ended().await, "it exited with 1");
    }

    #[tokio::test]
    async fn it_has_a_group_of_its_own_and_outlives_its_handle() {
        let process = sleep();
        let pid = process.pid;
        let raw = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        assert_eq!(rustix::process::getpgid(Some(raw)).unwrap(), raw);
        drop(process);
        let found = Process::of(pid).unwrap();
        found.signal(Signal::KILL).unwrap();
        assert_eq!(found.ended().await, "it was ended by signal 9");
    }
}
