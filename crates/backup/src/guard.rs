//! Stands between rustic_core and the repository. rustic_core passes over errors of its source and writes the snapshot all the same;
//! here that write is refused once a stream broke. And nothing is removed from a repository that only grows.

use crate::{failure::failed, store::Store};
use bytes::Bytes;
use nm_types::backup::job::{JobError, JobErrorCode};
use rustic_core::{BytesList, ErrorKind, FileType, Id, ReadBackend, RusticError, RusticResult, WriteBackend};
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

/// What must keep a snapshot from being written, set by those that read.
#[derive(Debug, Default)]
pub struct Veto {
    reason: Mutex<Option<JobError>>,
    added: AtomicU64,
}

impl Veto {
    /// The first reason is the one that is told.
    pub fn refuse(&self, code: JobErrorCode, reason: impl Into<String>) {
        self.reason
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert_with(|| failed(code, reason));
    }

    pub fn reason(&self) -> Option<JobError> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Bytes written to the repository.
    pub fn added(&self) -> u64 {
        self.added.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
pub struct Guard {
    inner: Arc<dyn Store>,
    veto: Arc<Veto>,
    append_only: bool,
}

impl Guard {
    pub fn new(inner: Arc<dyn Store>, veto: Arc<Veto>, append_only: bool) -> Self {
        Self { inner, veto, append_only }
    }
}

impl ReadBackend for Guard {
    fn location(&self) -> String {
        self.inner.location()
    }
    fn list_with_size(&self, kind: FileType) -> RusticResult<Vec<(Id, u32)>> {
        self.inner.list_with_size(kind)
    }
    fn read_full(&self, kind: FileType, id: &Id) -> RusticResult<Bytes> {
        self.inner.read_full(kind, id)
    }
    fn read_partial(&self, kind: FileType, id: &Id, cacheable: bool, offset: u32, length: u32) -> RusticResult<Bytes> {
        self.inner.read_partial(kind, id, cacheable, offset, length)
    }
    fn warmup_path(&self, kind: FileType, id: &Id) -> String {
        self.inner.warmup_path(kind, id)
    }
}

impl WriteBackend for Guard {
    fn create(&self) -> RusticResult<()> {
        self.inner.create()
    }

    fn write_bytes(&self, kind: FileType, id: &Id, cacheable: bool, content: BytesList) -> RusticResult<()> {
        if kind == FileType::Snapshot
            && let Some(reason) = self.veto.reason()
        {
            return Err(RusticError::new(ErrorKind::InputOutput, "No snapshot is kept: {reason}").attach_context("reason", reason.message));
        }
        let size = content.size() as u64;
        self.inner.write_bytes(kind, id, cacheable, content)?;
        self.veto.added.fetch_add(size, Ordering::Relaxed);
        Ok(())
    }

    fn remove(&self, kind: FileType, id: &Id, cacheable: bool) -> RusticResult<()> {
        if self.append_only {
            return Err(RusticError::new(
                ErrorKind::AppendOnly,
                "Nothing is removed from this repository, since its destination is append-only",
            ));
        }
        self.inner.remove(kind, id, cacheable)
    }
}
