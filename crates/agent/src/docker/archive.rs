//! Files in and out of a container, as tar streams. Docker packs and unpacks inside the container's own root: no name in the
//! stream reaches outside it.

use super::Docker;
use super::client::{Call, DockerError, RequestBody};
use super::explain;
use super::hub::Record;
use bytes::Bytes;
use futures_util::Stream;
use nm_link::contract::{AgentError, AgentErrorCode as Code};
use std::time::Duration;

/// An upload's answer comes after its last byte.
const UPLOAD_DEADLINE: Duration = Duration::from_secs(3600);

impl Docker {
    /// The file or folder at `path`, as a tar stream.
    pub async fn archive_get(
        &self,
        record: &Record,
        path: &str,
    ) -> Result<impl Stream<Item = Result<Bytes, DockerError>> + Send + Unpin + use<>, AgentError> {
        let path = checked(path)?;
        let call = Call::get(
            "pack files of a container",
            format!("/containers/{}/archive", record.observed.docker_id),
        )
        .query("path", path);
        self.client.stream(call).await.map_err(|e| self.archive_error(record, path, e))
    }

    /// Unpacks a tar stream in the folder `path`. A file never replaces a folder, nor a folder a file.
    pub async fn archive_put(&self, record: &Record, path: &str, body: RequestBody) -> Result<(), AgentError> {
        let path = checked(path)?;
        let call = Call::put(
            "unpack files into a container",
            format!("/containers/{}/archive", record.observed.docker_id),
        )
        .query("path", path)
        .query("noOverwriteDirNonDir", "true")
        .tar(body)
        .deadline(UPLOAD_DEADLINE);
        self.client.done(call).await.map_err(|e| self.archive_error(record, path, e))
    }

    fn archive_error(&self, record: &Record, path: &str, error: DockerError) -> AgentError {
        let DockerError::Refused { status, message } = &error else {
            return self.explain(error);
        };
        let name = &record.observed.name;
        let text = if *status == 404 && (message.contains("Could not find the file") || message.contains("No such container:path")) {
            return AgentError::new(Code::PathNotFound, format!("`{name}` has no file or folder `{path}`.")).field("path");
        } else if message.contains("not a directory") {
            format!("`{path}` in `{name}` is not a folder: files are unpacked into folders.")
        } else if message.contains("marked read-only") || message.contains("read-only file system") {
            format!("`{name}` can't be written to: its file system, or the volume at `{path}`, is read-only.")
        } else if message.contains("unexpected EOF") || message.contains("invalid tar header") {
            "What was sent is not a whole tar stream; some of it may have been unpacked.".to_owned()
        } else {
            return explain::refused(*status, message);
        };
        AgentError::new(Code::Invalid, text).field("path")
    }
}

fn checked(path: &str) -> Result<&str, AgentError> {
    if path.starts_with('/') && path.len() <= 4096 && !path.contains('\0') {
        return Ok(path);
    }
    Err(AgentError::new(Code::Invalid, "path is an absolute path inside the container.").field("path"))
}
