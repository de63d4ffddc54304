//! Why a task failed, with the sentence a person reads.

use nm_types::backup::job::{JobError, JobErrorCode};
use rustic_core::RusticError;
use std::{error::Error, io};

pub type Result<T> = std::result::Result<T, JobError>;

pub fn failed(code: JobErrorCode, message: impl Into<String>) -> JobError {
    JobError {
        code,
        message: message.into(),
    }
}

/// A full disk is told apart from other refusals: what a person does next is another thing.
pub fn code_of(error: &io::Error, otherwise: JobErrorCode) -> JobErrorCode {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => JobErrorCode::DiskFull,
        io::ErrorKind::ReadOnlyFilesystem => JobErrorCode::NotWritable,
        _ => otherwise,
    }
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
