//! Why a task failed, with the sentence a person reads.

use nm_types::backup::job::{JobError, JobErrorCode};
use rustic_core::RusticError;
use std::{
    error::Error,
    io::{self, ErrorKind as Io},
};

pub type Result<T> = std::result::Result<T, JobError>;

pub fn failed(code: JobErrorCode, message: impl Into<String>) -> JobError {
    JobError {
        code,
        message: message.into(),
    }
}

/// A full disk is told apart from other refusals, and a place that could not be asked from one whose data is bad: what a person does
/// next is another thing.
pub fn code_of(error: &io::Error, otherwise: JobErrorCode) -> JobErrorCode {
    match error.kind() {
        Io::StorageFull | Io::QuotaExceeded => JobErrorCode::DiskFull,
        Io::ReadOnlyFilesystem => JobErrorCode::NotWritable,
        kind if otherwise == JobErrorCode::Damaged && is_away(kind) => JobErrorCode::Unreachable,
        _ => otherwise,
    }
}

/// Nothing was learnt of what is there.
fn is_away(kind: Io) -> bool {
    matches!(
        kind,
        Io::ConnectionAborted
            | Io::ConnectionRefused
            | Io::ConnectionReset
            | Io::NotConnected
            | Io::BrokenPipe
            | Io::TimedOut
            | Io::HostUnreachable
            | Io::NetworkUnreachable
            | Io::NetworkDown
            | Io::ResourceBusy
            | Io::PermissionDenied
    )
}

/// An error of rustic's, with the code of the I/O error that is at its root where there is one.
pub fn of_rustic(what: &str, otherwise: JobErrorCode, error: &RusticError) -> JobError {
    let mut code = otherwise;
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            code = code_of(io, otherwise);
        }
        cause = inner.source();
    }
    failed(code, format!("{what}: {}.", error.display_log().trim_end_matches('.')))
}
