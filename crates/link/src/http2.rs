//! HTTP/2 settings shared by both sides, and the tasks of one connection.
//!
//! Invariants:
//! - Each stream has a window of its own, and the connection's window is so wide that it never binds. Were it tight, a few
//!   streams whose readers stopped would hold all of it and every other stream would stand still. For the same reason the
//!   windows are fixed: hyper's adaptive ones give the connection no more than a single stream.
//! - Cancelling a connection's token ends the connection and every exchange on it at once, whoever holds handles to it.

use hyper::rt::Executor;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How a link's HTTP/2 behaves. Both sides use the same settings.
#[derive(Debug, Clone)]
pub struct Http2Options {
    /// A ping goes out when nothing was heard for this long.
    pub ping_interval: Duration,
    /// The connection is given up when a ping has no answer for this long. That is the last resort, and longer than a lossy
    /// line holds TCP up: whether a node is lost is told by [`crate::server::Pulse`], and an agent dials beside a silent
    /// connection long before.
    pub ping_timeout: Duration,
    /// Bytes one stream may have under way to a reader that does not read: also the most a stalled stream costs in memory.
    pub stream_window: u32,
    /// Requests at the same time on one link; further ones wait.
    pub max_streams: u32,
}

impl Default for Http2Options {
    fn default() -> Self {
        Self {
            ping_interval: Duration::from_secs(2),
            ping_timeout: Duration::from_secs(30),
            stream_window: 1024 * 1024,
            max_streams: 1024,
        }
    }
}

/// Half of what the protocol allows: [`Http2Options::max_streams`] full stream windows fit into it.
pub(crate) const CONNECTION_WINDOW: u32 = 1 << 30;
/// What one stream may hold written but unsent.
pub(crate) const SEND_BUFFER: usize = 256 * 1024;
pub(crate) const MAX_HEADERS: u32 = 16 * 1024;
/// Streams ended from one side whose last frames from the other may still come.
pub(crate) const RESETS_REMEMBERED: usize = 4096;

/// The tasks hyper starts for one connection: the connection itself, its streams, its request bodies.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConnectionTasks {
    tracker: TaskTracker,
    sever: CancellationToken,
}

impl ConnectionTasks {
    /// Ends the connection when cancelled.
    pub(crate) fn severing(&self) -> &CancellationToken {
        &self.sever
    }

    /// Waits up to `grace` for what is under way, then ends the rest.
    pub(crate) async fn drain(&self, grace: Duration) {
        self.tracker.close();
        // Whether it came to its end in time or not, what is left is ended now.
        let _ = tokio::time::timeout(grace, self.tracker.wait()).await;
        self.sever.cancel();
        self.tracker.wait().await;
    }
}

impl<F> Executor<F> for ConnectionTasks
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, task: F) {
        let sever = self.sever.clone();
        self.tracker.spawn(async move {
            sever.run_until_cancelled(task).await;
        });
    }
}

/// Whether a connection ended in good order: the peer sent TLS's closing words, or HTTP/2 came to its end and shut the stream
/// down of itself, as it does after a GOAWAY. Neither happens when a process is killed, a line is cut, or pings have no answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Farewell(Arc<AtomicBool>);

impl Farewell {
    /// `on_word` is called at every read that brings something.
    pub(crate) fn listen<T, F: Fn()>(stream: T, on_word: F) -> (Heard<T, F>, Self) {
        let farewell = Self::default();
        (
            Heard {
                stream,
                farewell: farewell.clone(),
                on_word,
            },
            farewell,
        )
    }

    pub(crate) fn said(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A stream that notes its own end, and tells of what it brings before.
pub(crate) struct Heard<T, F> {
    stream: T,
    farewell: Farewell,
    on_word: F,
}

impl<T: AsyncRead + Unpin, F: Fn() + Unpin> AsyncRead for Heard<T, F> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (before, room) = (buf.filled().len(), buf.remaining());
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if matches!(read, Poll::Ready(Ok(()))) && room > 0 {
            if buf.filled().len() == before {
                self.farewell.0.store(true, Ordering::Release);
            } else {
                (self.on_word)();
            }
        }
        read
    }
}

impl<T: AsyncWrite + Unpin, F: Unpin> AsyncWrite for Heard<T, F> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.farewell.0.store(true, Ordering::Release);
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Sets a connected socket up for a link: small frames leave at once, and little is queued in the kernel, so that a ping is
/// not stuck behind megabytes of a bulk transfer and its sender not taken for dead on a slow line. What is lost of a quiet
/// link is sent again at a steady pace, not ever more slowly (<https://docs.kernel.org/networking/tcp-thin.html>).
pub(crate) fn tune(socket: &tokio::net::TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    {
        let socket = socket2::SockRef::from(socket);
        socket.set_tcp_notsent_lowat(128 * 1024)?;
        // A help and no need: a kernel may not know it.
        let _or_not = socket.set_tcp_thin_linear_timeouts(true);
    }
    Ok(())
}
