//! What is read of a source: errors are counted once, and a file is read as it was seen.

use super::{AllRead, Watch};
use crate::{stream::StreamReader, walk::Identity};
use nm_types::backup::job::JobErrorCode;
use rustix::{fs::SeekFrom, io::Errno};
use std::{
    fs::File,
    io::{self, Cursor, Read},
    path::PathBuf,
    sync::Arc,
};

pub(super) enum Inner {
    File(FileReader),
    Text(Cursor<Vec<u8>>),
    Stream(StreamReader),
}

/// A reader whose error is counted once.
pub struct Watched {
    /// None once it ended, well or not.
    pub(super) inner: Option<io::Result<Inner>>,
    pub(super) stream: bool,
    pub(super) at: PathBuf,
    pub(super) watch: Arc<Watch>,
    pub(super) _all_read: Arc<AllRead>,
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let result = match &mut self.inner {
            Some(Ok(Inner::File(file))) => file.read(buffer),
            Some(Ok(Inner::Text(text))) => text.read(buffer),
            Some(Ok(Inner::Stream(stream))) => stream.read(buffer),
            Some(Err(_)) => match self.inner.take() {
                Some(Err(error)) => Err(error),
                _ => return Ok(0),
            },
            None => return Ok(0),
        };
        match result {
            Ok(0) => {
                if let Some(Ok(Inner::File(file))) = &self.inner
                    && let Some(changed) = file.changed()
                {
                    self.watch.problem(&self.at, &changed);
                }
                self.inner = None;
                self.watch.kept();
                Ok(0)
            }
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                self.inner = None;
                self.watch.problem(&self.at, &error);
                if self.stream {
                    self.watch.veto.refuse(
                        JobErrorCode::StreamFailed,
                        format!("The dump {} did not end well, so no snapshot is kept: {error}.", self.at.display()),
                    );
                }
                Err(error)
            }
            other => other,
        }
    }
}

/// Reads as many bytes as the file had when it was seen: what a writer adds meanwhile is the next backup's, what it took away is
/// zeros, and either is said. Holes are not read.
pub(super) struct FileReader {
    file: File,
    seen: Identity,
    at: u64,
    /// Up to here there is data; zero: to be looked up. A file without holes has none to look up.
    data_until: u64,
    cut: bool,
}

impl FileReader {
    pub(super) fn new(file: File, seen: Identity) -> Self {
        let data_until = if seen.sparse { 0 } else { u64::MAX };
        Self {
            file,
            seen,
            at: 0,
            data_until,
            cut: false,
        }
    }

    fn changed(&self) -> Option<io::Error> {
        if self.cut {
            return Some(io::Error::other(
                "it was cut short while it was read; the rest is zeros in this backup",
            ));
        }
        match self.seen.holds(&self.file) {
            Ok(true) => None,
            Ok(false) => Some(io::Error::other(
                "it changed while it was read; in this backup it may be half old and half new",
            )),
            Err(error) => Some(error),
        }
    }

    /// Files of /proc and the like say that they are empty, and are not.
    fn is_empty(&mut self) -> io::Result<()> {
        if self.file.read(&mut [0])? == 0 || !self.seen.holds(&self.file)? {
            return Ok(());
        }
        Err(io::Error::other(
            "it says that it is empty and is not, as files of /proc do: what it holds can't be backed up",
        ))
    }

    fn zeros(&mut self, buffer: &mut [u8], left: u64) -> usize {
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        buffer[..count].fill(0);
        self.at += count as u64;
        count
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.seen.size.saturating_sub(self.at);
        if left == 0 {
            if self.seen.size == 0 {
                self.is_empty()?;
            }
            return Ok(0);
        }
        if self.cut {
            return Ok(self.zeros(buffer, left));
        }
        if self.at >= self.data_until {
            match rustix::fs::seek(&self.file, SeekFrom::Data(self.at)) {
                Ok(data) if data > self.at => {
                    let hole = data.min(self.seen.size) - self.at;
                    let count = self.zeros(buffer, hole);
                    return Ok(count);
                }
                Ok(_) => {
                    self.data_until = rustix::fs::seek(&self.file, SeekFrom::Hole(self.at)).unwrap_or(u64::MAX);
                    rustix::fs::seek(&self.file, SeekFrom::Start(self.at))?;
                }
                // There is none up to the end.
                Err(Errno::NXIO) => return Ok(self.zeros(buffer, left)),
                Err(_) => {
                    self.data_until = u64::MAX;
                    rustix::fs::seek(&self.file, SeekFrom::Start(self.at))?;
                }
            }
        }
        let most = left.min(self.data_until - self.at).min(buffer.len() as u64);
        let most = usize::try_from(most).unwrap_or(buffer.len());
        let count = self.file.read(&mut buffer[..most])?;
        if count == 0 {
            self.cut = true;
            return Ok(self.zeros(buffer, left));
        }
        self.at += count as u64;
        Ok(count)
    }
}
