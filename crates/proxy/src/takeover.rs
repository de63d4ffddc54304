//! One process takes over from another without a connection lost.
//!
//! The new process asks the old one, over a Unix socket beside the control socket, for its listening sockets: the same ones
//! (SCM_RIGHTS), with the queues of those who wait to be taken, as a socket that merely shares the port (SO_REUSEPORT) would
//! let the queue of the old one be reset when that closes. It begins to take connections, says so, and only then does the
//! old one stop and let what it has end. With the sockets comes what the old one knows of its members.

use crate::engine::Engine;
use crate::sockets::Sockets;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;

/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(30);
/// File descriptors in one message; the kernel allows 253.
const BATCH: usize = 64;
const READY: u8 = b'R';

/// What the old process hands over beside its sockets.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Knowledge {
    /// Each address with the number of its sockets, in the order in which they come.
    sockets: Vec<(SocketAddr, usize)>,
    /// Members that their health checks found down: cluster, member.
    pub down: Vec<(String, String)>,
    /// The active member of each active-standby cluster.
    pub active: HashMap<String, String>,
}

/// What was taken over. The old process goes on until it is told that this one is ready.
pub struct Inherited {
    pub sockets: HashMap<SocketAddr, Sockets>,
    pub knowledge: Knowledge,
    old: UnixStream,
}

/// Where a running process can be asked.
pub fn path(control: &Path) -> PathBuf {
    let mut name = control.as_os_str().to_owned();
    name.push(".takeover");
    PathBuf::from(name)
}

/// Asks a running process for its sockets; nothing where none runs.
pub fn ask(control: &Path) -> io::Result<Option<Inherited>> {
    let mut old = match UnixStream::connect(path(control)) {
        Ok(old) => old,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => return Ok(None),
        Err(e) => return Err(e),
    };
    old.set_read_timeout(Some(PATIENCE))?;
    old.set_write_timeout(Some(PATIENCE))?;
    let mut length = [0; 4];
    old.read_exact(&mut length)?;
    let mut text = vec![0; u32::from_be_bytes(length) as usize];
    old.read_exact(&mut text)?;
    let knowledge: Knowledge = serde_json::from_slice(&text)?;
    let total: usize = knowledge.sockets.iter().map(|(_, count)| count).sum();
    let mut received = receive(&old, total)?.into_iter();
    let mut sockets = HashMap::new();
    for (address, count) in &knowledge.sockets {
        sockets.insert(
            *address,
            Sockets::new(received.by_ref().take(*count).map(TcpListener::from).collect()),
        );
    }
    Ok(Some(Inherited { sockets, knowledge, old }))
}

impl Inherited {
    /// Tells the old process to end.
    pub fn ready(mut old: UnixStream) -> io::Result<()> {
        old.write_all(&[READY])
    }

    pub fn into_parts(self) -> (HashMap<SocketAddr, Sockets>, Knowledge, UnixStream) {
        (self.sockets, self.knowledge, self.old)
    }
}

fn receive(from: &UnixStream, total: usize) -> io::Result<Vec<OwnedFd>> {
    let mut received = Vec::new();
    while received.len() < total {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let message = recvmsg(from, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let before = received.len();
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = part {
                received.extend(fds);
            }
        }
        if message.bytes == 0 || received.len() == before {
            return Err(io::Error::new(
                ErrorKind::UnexpectedEof,
                "the old process ended while it handed over",
            ));
        }
    }
    Ok(received)
}

/// Answers those who want to take over, until one of them is ready to.
pub async fn offer(listener: UnixListener, engine: Arc<Engine>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Without file descriptors there is nothing to hand over either; the other side asks again.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let from = engine.clone();
        let handed = tokio::task::spawn_blocking(move || hand_over(stream.into_std()?, &from)).await;
        match handed {
            Ok(Ok(())) => return,
            Ok(Err(error)) => tracing::warn!(%error, "another process began to take over and did not; this one goes on"),
            Err(error) => tracing::error!(%error, "handing over failed"),
        }
        engine.freeze(false);
    }
}

/// Hands everything over and waits until the other side takes connections.
fn hand_over(mut to: UnixStream, engine: &Engine) -> io::Result<()> {
    to.set_nonblocking(false)?;
    to.set_read_timeout(Some(PATIENCE))?;
    to.set_write_timeout(Some(PATIENCE))?;
    // No configuration may come between what is handed over and the end.
    engine.freeze(true);
    let mut knowledge = engine.knowledge();
    let mut all = Vec::new();
    for (address, sockets) in engine.sockets()? {
        let sockets = sockets.into_inner();
        knowledge.sockets.push((address, sockets.len()));
        all.extend(sockets);
    }
    let text = serde_json::to_vec(&knowledge)?;
    to.write_all(&(text.len() as u32).to_be_bytes())?;
    to.write_all(&text)?;
    for batch in all.chunks(BATCH) {
        let fds: Vec<BorrowedFd<'_>> = batch.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(io::Error::other("too many sockets for one message"));
        }
        sendmsg(&to, &[IoSlice::new(b"F")], &mut control, SendFlags::NOSIGNAL)?;
    }
    let mut answer = [0];
    to.read_exact(&mut answer)?;
    if answer == [READY] {
        Ok(())
    } else {
        Err(ErrorKind::InvalidData.into())
    }
}
