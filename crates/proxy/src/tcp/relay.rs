//! Bytes both ways until both sides have ended, or nothing moves for too long.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of a direction that may be on their way.
const BUFFER: usize = 16 << 10;

/// What was moved, whatever the end was.
#[derive(Debug, Clone, Copy, Default)]
pub struct Moved {
    pub from_client: u64,
    pub to_client: u64,
    /// Both sides ended in order.
    pub complete: bool,
}

pub async fn relay<A, B>(client: &mut A, member: &mut B, idle: Duration) -> Moved
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (from_client, to_client) = (AtomicU64::new(0), AtomicU64::new(0));
    let complete = {
        let mut client = Counted {
            inner: client,
            read: &from_client,
        };
        let mut member = Counted {
            inner: member,
            read: &to_client,
        };
        let copy = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut member, BUFFER, BUFFER);
        while_it_moves(copy, idle, &from_client, &to_client).await
    };
    Moved {
        from_client: from_client.into_inner(),
        to_client: to_client.into_inner(),
        complete,
    }
}

/// Whether `copy` ends well; it is given up once neither count has grown for `idle`.
pub(super) async fn while_it_moves<T>(
    copy: impl Future<Output = io::Result<T>>,
    idle: Duration,
    from_client: &AtomicU64,
    to_client: &AtomicU64,
) -> bool {
    let mut copy = std::pin::pin!(copy);
    let mut seen = 0;
    loop {
        if let Ok(result) = tokio::time::timeout(idle, copy.as_mut()).await {
            return result.is_ok();
        }
        let now = from_client.load(Relaxed) + to_client.load(Relaxed);
        if now == seen {
            return false;
        }
        seen = now;
    }
}

struct Counted<'a, T> {
    inner: &'a mut T,
    read: &'a AtomicU64,
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<'_, T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut *self.inner).poll_read(cx, buf))?;
        self.read.fetch_add((buf.filled().len() - before) as u64, Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<'_, T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.inner).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.inner).poll_shutdown(cx)
    }
}
