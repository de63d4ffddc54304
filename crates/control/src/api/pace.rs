//! Watches how a connection's requests come in. A head must be whole within its deadline once it has begun; between
//! requests a client may keep quiet for much longer. hyper's own timer makes no difference between the two, and would
//! close connections that clients keep for their next request.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The longest a client may take to send a request's head, from its first byte on.
const HEAD: Duration = Duration::from_secs(10);
/// The longest a connection is kept without a request.
const IDLE: Duration = Duration::from_secs(75);

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// No byte of the next request is here. Until then.
    Idle(Instant),
    /// Some of its head is. Until then.
    Head(Instant),
    /// Its handler has it; the handler's deadlines count.
    Handled,
}

/// Where a connection is with its requests.
#[derive(Debug, Clone)]
pub struct Pace {
    phase: Arc<Mutex<Phase>>,
    changed: Arc<Notify>,
}

impl Pace {
    pub fn new() -> Self {
        // A client that connects has something to say.
        Self {
            phase: Arc::new(Mutex::new(Phase::Head(Instant::now() + HEAD))),
            changed: Arc::default(),
        }
    }
    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(|e| e.into_inner())
    }
    /// A whole head is here.
    pub fn handled(&self) {
        *self.phase() = Phase::Handled;
        self.changed.notify_one();
    }
    /// Its answer is ready.
    pub fn answered(&self) {
        *self.phase() = Phase::Idle(Instant::now() + IDLE);
        self.changed.notify_one();
    }
    fn bytes_came(&self) {
        let mut phase = self.phase();
        if matches!(*phase, Phase::Idle(_)) {
            *phase = Phase::Head(Instant::now() + HEAD);
            self.changed.notify_one();
        }
    }
    /// Ends when the client has been too slow.
    pub async fn too_slow(&self) {
        loop {
            let until = match *self.phase() {
                Phase::Idle(until) | Phase::Head(until) => Some(until),
                Phase::Handled => None,
            };
            let passed = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.changed.notified() => {}
                () = passed => return,
            }
        }
    }
}

/// A connection whose incoming bytes [`Pace`] hears of.
#[derive(Debug)]
pub struct Paced {
    stream: TcpStream,
    pace: Pace,
}

impl Paced {
    pub fn new(stream: TcpStream, pace: Pace) -> Self {
        Self { stream, pace }
    }
}

impl AsyncRead for Paced {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.pace.bytes_came();
        }
        result
    }
}

impl AsyncWrite for Paced {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[std::io::IoSlice<'_>]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_begun_head_has_ten_seconds_and_a_quiet_connection_more() {
        let pace = Pace::new();
        let began = Instant::now();
        pace.too_slow().await;
        assert_eq!(began.elapsed().as_secs(), 10);

        let pace = Pace::new();
        pace.handled();
        assert!(tokio::time::timeout(Duration::from_secs(1000), pace.too_slow()).await.is_err());
        pace.answered();
        assert!(tokio::time::timeout(Duration::from_secs(70), pace.too_slow()).await.is_err());
        pace.bytes_came();
        assert!(tokio::time::timeout(Duration::from_secs(9), pace.too_slow()).await.is_err());
        // More bytes of the same head win no time.
        pace.bytes_came();
        assert!(tokio::time::timeout(Duration::from_millis(1500), pace.too_slow()).await.is_ok());
    }
}
