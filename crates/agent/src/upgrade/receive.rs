//! Taking in an executable.

use super::state::{UpgradeError, make_folder};
use super::{LARGEST, Upgrades};
use axum::body::BodyDataStream;
use futures_util::StreamExt;
use nm_link::contract::{AgentError, AgentErrorCode as Code, UpgradeState};
use sha2::{Digest, Sha256};
use std::io::{self, Read};
use std::path::Path;
use tokio::io::AsyncWriteExt;

impl Upgrades {
    /// Takes the executable of the release that was offered. What is not that executable, to the last byte, leaves nothing.
    pub(crate) async fn receive(&self, mut body: BodyDataStream) -> Result<UpgradeState, AgentError> {
        let _alone = self.0.receiving.lock().await;
        let Some(release) = self.offered().clone() else {
            return Err(AgentError::new(
                Code::Invalid,
                "No release was offered since the agent was started: offer it again.",
            ));
        };
        let (path, part) = (self.0.dir.join(&release.sha256), self.0.dir.join("part"));
        let failed = |source| UpgradeError {
            action: "write",
            path: part.clone(),
            source,
        };
        let wrong = |text: String| AgentError::new(Code::Invalid, text);
        make_folder(&self.0.dir).map_err(failed)?;
        let mut file = tokio::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o700)
            .open(&part)
            .await
            .map_err(failed)?;
        let received = async {
            let (mut hash, mut size) = (Sha256::new(), 0u64);
            while let Some(chunk) = body.next().await {
                let chunk = chunk.map_err(|e| wrong(format!("The executable broke off: {e}.")))?;
                size += chunk.len() as u64;
                if size > release.size.min(LARGEST) {
                    return Err(wrong(format!(
                        "The executable is longer than the {} bytes of the release.",
                        release.size
                    )));
                }
                hash.update(&chunk);
                file.write_all(&chunk).await.map_err(failed)?;
            }
            if size != release.size || hex::encode(hash.finalize()) != release.sha256 {
                return Err(wrong(
                    "The executable is not the one of the release: its hash is another.".to_owned(),
                ));
            }
            file.sync_all().await.map_err(failed)?;
            // Not open for writing any more once it may be run.
            drop(file);
            tokio::fs::rename(&part, &path).await.map_err(failed)?;
            Ok(())
        };
        if let Err(error) = received.await {
            // Best effort: the next one begins by emptying it.
            drop(tokio::fs::remove_file(&part).await);
            return Err(error);
        }
        self.state().await
    }
}

/// SHA-256 of a file as hexadecimal digits.
pub(super) async fn hash_of(path: &Path) -> io::Result<String> {
    let path = path.to_owned();
    let hashed = tokio::task::spawn_blocking(move || {
        let mut file = std::fs::File::open(path)?;
        let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(hex::encode(hash.finalize())),
                n => hash.update(&buffer[..n]),
            }
        }
    });
    hashed.await.unwrap_or_else(|e| Err(io::Error::other(e)))
}
