//! Bytes between two TCP sockets.
//!
//! A direction begins by copying through its worker's one buffer: most connections move little, and none holds memory while
//! it is silent. Once a direction is seen to be bulk, its bytes stay in the kernel (`splice`, by a pipe), which costs a
//! fraction; the pipe's two file descriptors are given back when the flow is over.

use super::relay::{Moved, while_it_moves};
use crate::instance::lock;
use futures_util::future::{Either, select};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use socket2::SockRef;
use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

const BUFFER: usize = 64 << 10;
/// Full reads in a row that make a direction bulk.
const BULK_AFTER: u32 = 4;
/// Small reads in a row that end it.
const SMALL_AFTER: u32 = 64;
const SMALL: usize = 8 << 10;
/// What a pipe is asked to hold; the kernel may give less.
const PIPE: usize = 256 << 10;
/// Pieces a direction moves before others get their turn.
const PIECES_A_TURN: u32 = 32;

/// A worker's buffer. Between a read and the write that follows nothing else runs on a worker, so one serves all its
/// connections, and the lock is never waited for.
pub struct Scratch(Mutex<Box<[u8]>>);

impl Scratch {
    pub fn lock(&self) -> MutexGuard<'_, Box<[u8]>> {
        lock(&self.0)
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self(Mutex::new(vec![0; BUFFER].into_boxed_slice()))
    }
}

/// Joins two connections until both directions have ended, one fails, nothing moves for `idle`, or `gone` resolves.
pub async fn join(
    client: &mut TcpStream,
    member: &mut TcpStream,
    idle: Duration,
    scratch: &Scratch,
    gone: impl Future<Output = ()>,
) -> Moved {
    let ((from_client_half, to_client_half), (from_member, to_member)) = (client.split(), member.split());
    let mut up = Direction::new(from_client_half, to_member, scratch);
    let mut down = Direction::new(from_member, to_client_half, scratch);
    let (from_client, to_client) = (AtomicU64::new(0), AtomicU64::new(0));
    let complete = {
        let both = poll_fn(|cx| {
            let up_done = up.poll(&from_client, cx)?;
            let down_done = down.poll(&to_client, cx)?;
            if up_done.is_ready() && down_done.is_ready() {
                Poll::Ready(io::Result::Ok(()))
            } else {
                Poll::Pending
            }
        });
        let moves = std::pin::pin!(while_it_moves(both, idle, &from_client, &to_client));
        match select(moves, std::pin::pin!(gone)).await {
            Either::Left((complete, _)) => complete,
            Either::Right(_) => false,
        }
    };
    Moved {
        from_client: from_client.into_inner(),
        to_client: to_client.into_inner(),
        complete,
    }
}

struct Direction<'a> {
    from: ReadHalf<'a>,
    to: WriteHalf<'a>,
    scratch: &'a Scratch,
    /// What was read and could not be written at once, from `sent` on.
    left: Vec<u8>,
    sent: usize,
    pipe: Option<Pipe>,
    /// Full reads in a row while copying, small ones while splicing.
    streak: u32,
    ended: bool,
    done: bool,
}

struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    holds: usize,
    filled: usize,
}

impl Pipe {
    fn open() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Beyond what one user may hold in pipes the size stays at the kernel's 64 KiB.
        let holds = fcntl_setpipe_size(&write, PIPE).unwrap_or(BUFFER);
        Ok(Self {
            read,
            write,
            holds,
            filled: 0,
        })
    }
}

impl<'a> Direction<'a> {
    fn new(from: ReadHalf<'a>, to: WriteHalf<'a>, scratch: &'a Scratch) -> Self {
        Self {
            from,
            to,
            scratch,
            left: Vec::new(),
            sent: 0,
            pipe: None,
            streak: 0,
            ended: false,
            done: false,
        }
    }

    /// Ready once the end was passed on.
    fn poll(&mut self, moved: &AtomicU64, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        for _ in 0..PIECES_A_TURN {
            if self.done {
                return Poll::Ready(Ok(()));
            }
            let count = if let Some(mut pipe) = self.pipe.take() {
                let count = self.splice(&mut pipe, cx);
                // An empty pipe of a flow that became small is given back.
                if self.streak < SMALL_AFTER || pipe.filled > 0 {
                    self.pipe = Some(pipe);
                } else {
                    self.streak = 0;
                }
                ready!(count)?
            } else {
                ready!(self.copy(cx))?
            };
            moved.fetch_add(count as u64, Relaxed);
            if self.ended {
                self.done = true;
                self.pipe = None;
                // The other side may be gone already; then there is nobody to tell.
                let _ = SockRef::from(self.to.as_ref()).shutdown(Shutdown::Write);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Moves one piece through the buffer; answers its size.
    fn copy(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        ready!(self.flush(cx))?;
        let mut scratch = self.scratch.lock();
        let mut buffer = ReadBuf::new(&mut scratch);
        ready!(Pin::new(&mut self.from).poll_read(cx, &mut buffer))?;
        let read = buffer.filled();
        let count = read.len();
        if count == 0 {
            self.ended = true;
            return Poll::Ready(Ok(0));
        }
        let written = match Pin::new(&mut self.to).poll_write(cx, read) {
            Poll::Ready(written) => written?,
            Poll::Pending => 0,
        };
        self.left.extend_from_slice(&read[written..]);
        self.streak = if count == BUFFER { self.streak + 1 } else { 0 };
        if self.streak >= BULK_AFTER && self.left.is_empty() {
            self.streak = 0;
            // Without file descriptors for a pipe it goes on as it is.
            self.pipe = Pipe::open().ok();
        }
        Poll::Ready(Ok(count))
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.left.len() {
            self.sent += ready!(Pin::new(&mut self.to).poll_write(cx, &self.left[self.sent..]))?;
        }
        if !self.left.is_empty() {
            self.left = Vec::new();
            self.sent = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// Empties the pipe, then fills it once; answers how much came in. As it is filled only when it is empty, "would block"
    /// always speaks of the socket.
    fn splice(&mut self, pipe: &mut Pipe, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let (from, to) = (self.from.as_ref(), self.to.as_ref());
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        while pipe.filled > 0 {
            ready!(to.poll_write_ready(cx))?;
            let sent = to.try_io(Interest::WRITABLE, || {
                splice(&pipe.read, None, to, None, pipe.filled, flags).map_err(io::Error::from)
            });
            match sent {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => pipe.filled -= count,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
        loop {
            ready!(from.poll_read_ready(cx))?;
            let read = from.try_io(Interest::READABLE, || {
                splice(from, None, &pipe.write, None, pipe.holds, flags).map_err(io::Error::from)
            });
            match read {
                Ok(0) => {
                    self.ended = true;
                    return Poll::Ready(Ok(0));
                }
                Ok(count) => {
                    pipe.filled = count;
                    self.streak = if count < SMALL { self.streak + 1 } else { 0 };
                    return Poll::Ready(Ok(count));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }
}
