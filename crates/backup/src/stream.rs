//! Frames over a Unix socket: what the agent sends into a backup, and what a restore sends to it. Only a stream that says that it is
//! whole is whole.

use nm_types::backup::job::stream::{FRAME_AT_MOST, StreamEnd};
use std::{
    io::{self, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
};

pub struct StreamReader {
    inner: BufReader<UnixStream>,
    /// Bytes of the frame that are yet to be read.
    left: usize,
    ended: bool,
}

impl StreamReader {
    pub fn connect(socket: &Path) -> io::Result<Self> {
        Ok(Self {
            inner: BufReader::with_capacity(256 * 1024, UnixStream::connect(socket)?),
            left: 0,
            ended: false,
        })
    }

    fn length(&mut self) -> io::Result<usize> {
        let mut bytes = [0; 4];
        self.inner.read_exact(&mut bytes).map_err(cut)?;
        let length = u32::from_be_bytes(bytes) as usize;
        if length > FRAME_AT_MOST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame of the stream is too long"));
        }
        Ok(length)
    }

    fn end(&mut self) -> io::Result<()> {
        let mut bytes = vec![0; self.length()?];
        self.inner.read_exact(&mut bytes).map_err(cut)?;
        let end: StreamEnd = serde_json::from_slice(&bytes)?;
        match end.error {
            None => Ok(()),
            Some(error) => Err(io::Error::other(error)),
        }
    }
}

fn cut(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        io::Error::new(error.kind(), "the stream was cut before its end")
    } else {
        error
    }
}

impl Read for StreamReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        if self.left == 0 {
            self.left = self.length()?;
            if self.left == 0 {
                self.end()?;
                self.ended = true;
                return Ok(0);
            }
        }
        let most = buffer.len().min(self.left);
        let read = self.inner.read(&mut buffer[..most])?;
        if read == 0 {
            return Err(cut(io::ErrorKind::UnexpectedEof.into()));
        }
        self.left -= read;
        Ok(read)
    }
}

/// Writes frames; what is dropped without [`StreamWriter::finish`] is a stream that was cut.
pub struct StreamWriter {
    inner: UnixStream,
    pub bytes: u64,
}

impl StreamWriter {
    pub fn connect(socket: &Path) -> io::Result<Self> {
        Ok(Self {
            inner: UnixStream::connect(socket)?,
            bytes: 0,
        })
    }

    pub fn finish(mut self, end: &StreamEnd) -> io::Result<()> {
        let end = serde_json::to_vec(end)?;
        self.inner.write_all(&[0; 4])?;
        self.inner
            .write_all(&u32::try_from(end.len()).map_err(io::Error::other)?.to_be_bytes())?;
        self.inner.write_all(&end)?;
        self.inner.flush()
    }
}

impl Write for StreamWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let frame = &bytes[..bytes.len().min(FRAME_AT_MOST)];
        if frame.is_empty() {
            return Ok(0);
        }
        self.inner
            .write_all(&u32::try_from(frame.len()).map_err(io::Error::other)?.to_be_bytes())?;
        self.inner.write_all(frame)?;
        self.bytes += frame.len() as u64;
        Ok(frame.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
