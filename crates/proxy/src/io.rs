//! A client's bytes: with those that were read ahead, with or without TLS, and with an end to waiting for a client that
//! does not take what it asked for.

use crate::proxy_protocol::{self, Parsed};
use bytes::{Buf, BytesMut};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;

/// Writes up to this size go out as one piece: for the kernel `send` is that much cheaper than `writev`.
const JOINED_AT_MOST: usize = 2 << 10;

/// A connection whose first bytes were read to see what it is.
pub struct Prefixed {
    stream: TcpStream,
    ahead: BytesMut,
}

impl Prefixed {
    pub fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            ahead: BytesMut::new(),
        }
    }

    /// Takes a PROXY protocol header off; answers the client it names.
    pub async fn proxy_header(&mut self) -> io::Result<Option<SocketAddr>> {
        loop {
            match proxy_protocol::parse(&self.ahead).map_err(io::Error::other)? {
                Parsed::Header { length, client } => {
                    self.ahead.advance(length);
                    return Ok(client);
                }
                Parsed::Partial => self.more().await?,
            }
        }
    }

    /// Whether the connection begins with these bytes; waits for as many as it takes to know.
    pub async fn begins_with(&mut self, word: &[u8]) -> io::Result<bool> {
        loop {
            let known = self.ahead.len().min(word.len());
            if self.ahead[..known] != word[..known] {
                return Ok(false);
            }
            if known == word.len() {
                return Ok(true);
            }
            self.more().await?;
        }
    }

    async fn more(&mut self) -> io::Result<()> {
        self.ahead.reserve(1024);
        match self.stream.read_buf(&mut self.ahead).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// The connection and what was read of it.
    pub fn into_parts(self) -> (TcpStream, BytesMut) {
        (self.stream, self.ahead)
    }
}

impl AsyncRead for Prefixed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let count = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead[..count]);
        self.ahead.advance(count);
        if self.ahead.is_empty() {
            self.ahead = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.stream);
        let total: usize = bufs.iter().map(|b| b.len()).sum();
        if total > JOINED_AT_MOST {
            return stream.poll_write_vectored(cx, bufs);
        }
        if let [one] = bufs {
            return stream.poll_write(cx, one);
        }
        let (mut joined, mut length) = ([0; JOINED_AT_MOST], 0);
        for buf in bufs {
            joined[length..length + buf.len()].copy_from_slice(buf);
            length += buf.len();
        }
        stream.poll_write(cx, &joined[..length])
    }
    fn is_write_vectored(&self) -> bool {
        true
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// An HTTP client's connection.
pub struct ClientStream {
    transport: Transport,
    reading: Arc<AtomicBool>,
    write_idle: Duration,
    /// Runs while the client takes nothing.
    timer: Option<Pin<Box<Sleep>>>,
    blocked: bool,
}

enum Transport {
    Plain(Prefixed),
    Tls(Box<TlsStream<Prefixed>>),
}

impl ClientStream {
    pub fn plain(stream: Prefixed, write_idle: Duration) -> Self {
        Self::new(Transport::Plain(stream), write_idle)
    }
    pub fn tls(stream: TlsStream<Prefixed>, write_idle: Duration) -> Self {
        Self::new(Transport::Tls(Box::new(stream)), write_idle)
    }
    fn new(transport: Transport, write_idle: Duration) -> Self {
        Self {
            transport,
            reading: Arc::new(AtomicBool::new(false)),
            write_idle,
            timer: None,
            blocked: false,
        }
    }

    /// Becomes true with each byte that is read.
    pub fn reading(&self) -> Arc<AtomicBool> {
        self.reading.clone()
    }

    /// A write that made no progress ends in an error when that lasts too long.
    fn guard<T>(&mut self, progress: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.blocked = false;
            return progress;
        }
        if !self.blocked {
            self.blocked = true;
            let at = Instant::now() + self.write_idle;
            match &mut self.timer {
                Some(timer) => timer.as_mut().reset(at),
                None => self.timer = Some(Box::pin(tokio::time::sleep_until(at))),
            }
        }
        if let Some(timer) = &mut self.timer {
            ready!(timer.as_mut().poll(cx));
        }
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        })?;
        if buf.filled().len() > before {
            self.reading.store(true, Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        };
        self.guard(written, cx)
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        };
        self.guard(written, cx)
    }
    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
        };
        self.guard(flushed, cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
