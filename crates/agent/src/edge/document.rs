//! The document a node holds: `<data-dir>/edge/edge.json`, for its owner only as it holds private keys.
//!
//! A new one is written beside it first, then tried, and takes its place only when the load balancer has taken it. What a crash
//! left beside it was never acknowledged: it counts where the load balancer runs by it, and is forgotten otherwise.

use nm_link::contract::{AgentError, AgentErrorCode, EdgeConfig};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Where documents lie.
#[derive(Debug)]
pub struct Documents {
    dir: PathBuf,
}

/// What was found at the start.
#[derive(Debug, Default)]
pub struct Found {
    pub held: Option<EdgeConfig>,
    /// Written, and perhaps taken by the load balancer.
    pub candidate: Option<EdgeConfig>,
    /// The document can't be read.
    pub damaged: Option<String>,
}

/// Why a document could not be kept.
#[derive(Debug, thiserror::Error)]
#[error("write what this node carries")]
pub struct Unwritten(#[from] io::Error);

impl From<Unwritten> for AgentError {
    fn from(Unwritten(error): Unwritten) -> Self {
        if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
            let text = format!("The node's disk is full: free some space. What it carries could not be written: {error}.");
            return Self::new(AgentErrorCode::DiskFull, text);
        }
        Self::new(
            AgentErrorCode::Internal,
            format!("What the node carries could not be written: {error}."),
        )
    }
}

impl Documents {
    /// Makes the folder.
    pub fn open(dir: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        Ok(Self { dir: dir.to_owned() })
    }

    fn held(&self) -> PathBuf {
        self.dir.join("edge.json")
    }
    fn candidate(&self) -> PathBuf {
        self.dir.join("edge.candidate.json")
    }

    pub fn find(&self) -> Found {
        let (held, damaged) = match read(&self.held()) {
            Ok(held) => (held, None),
            Err(reason) => (None, Some(reason)),
        };
        // One that was cut short is none.
        let candidate = read(&self.candidate()).unwrap_or_default();
        Found { held, candidate, damaged }
    }

    /// On disk when it returns; not in force yet.
    pub fn propose(&self, document: &EdgeConfig) -> Result<(), Unwritten> {
        Ok(write(
            &self.candidate(),
            &serde_json::to_vec_pretty(document).map_err(io::Error::from)?,
        )?)
    }

    /// The one proposed last is the one that is held.
    pub fn accept(&self) -> Result<(), Unwritten> {
        fs::rename(self.candidate(), self.held())?;
        Ok(File::open(&self.dir)?.sync_all()?)
    }

    /// Forgets the one proposed last.
    pub fn discard(&self) {
        if let Err(error) = fs::remove_file(self.candidate())
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!(%error, "a refused document stays behind; it is not used");
        }
    }
}

fn read(path: &Path) -> Result<Option<EdgeConfig>, String> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.to_string()),
    };
    serde_json::from_slice(&text).map(Some).map_err(|e| e.to_string())
}

/// Replaces a file: whole at every moment, on disk when it returns, for its owner only.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().ok_or(ErrorKind::InvalidInput)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let fresh = folder.join(name);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn document(generation: u64) -> EdgeConfig {
        let mut document = EdgeConfig::default();
        document.proxy.generation = generation;
        document
    }

    #[test]
    fn a_document_is_held_once_it_was_accepted() {
        let dir = tempfile::tempdir().unwrap();
        let documents = Documents::open(&dir.path().join("edge")).unwrap();
        assert!(documents.find().held.is_none());
        documents.propose(&document(1)).unwrap();
        let found = documents.find();
        assert_eq!((found.held, found.candidate), (None, Some(document(1))));
        documents.accept().unwrap();
        documents.propose(&document(2)).unwrap();
        documents.discard();
        documents.discard();
        let found = documents.find();
        assert_eq!((found.held, found.candidate), (Some(document(1)), None));
        let mode = fs::metadata(documents.held()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_one_is_told_and_a_half_written_proposal_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let documents = Documents::open(dir.path()).unwrap();
        fs::write(documents.held(), "{").unwrap();
        fs::write(documents.candidate(), "{").unwrap();
        let found = documents.find();
        assert!(found.held.is_none() && found.candidate.is_none() && found.damaged.is_some());
    }
}
