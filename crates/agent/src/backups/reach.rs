//! Repositories in folders of other nodes. A job's worker connects to a socket of ours; each connection is fetched by the control
//! plane, which joins it with one to the node that has the folder. That node serves it in restic's REST protocol.

use super::{Backups, Inner};
use axum::body::BodyDataStream;
use futures_util::TryStreamExt;
use nm_backup::served::{Served, serve};
use nm_link::contract::{AgentError, ReachQuery, ServeQuery};
use nm_types::backup::job::JobKey;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_util::io::StreamReader;
use tracing::debug;

/// How long a connection is waited for before the control plane asks anew.
const WAIT: Duration = Duration::from_secs(20);
/// Bytes under way between the link and the server.
const BUFFER: usize = 256 << 10;

/// Sockets of jobs, by whether each leads to the copy.
pub type Doors = watch::Sender<HashMap<(JobKey, bool), Arc<UnixListener>>>;

/// A job's sockets, until dropped.
pub struct Open {
    inner: Arc<Inner>,
    keys: Vec<(JobKey, bool)>,
}

impl Open {
    pub fn new(inner: &Arc<Inner>, key: &JobKey, listeners: Vec<(bool, UnixListener)>) -> Self {
        let keys = listeners.iter().map(|(copy, _)| (key.clone(), *copy)).collect();
        if !listeners.is_empty() {
            inner.doors.send_modify(|all| {
                all.extend(
                    listeners
                        .into_iter()
                        .map(|(copy, listener)| ((key.clone(), copy), Arc::new(listener))),
                );
            });
        }
        Self {
            inner: inner.clone(),
            keys,
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.keys.is_empty() {
            self.inner.doors.send_modify(|all| all.retain(|key, _| !self.keys.contains(key)));
        }
    }
}

impl Backups {
    /// What the next connection of a job says; `answers` is what it is told. None where none comes in time.
    pub async fn reach(&self, query: ReachQuery, answers: BodyDataStream) -> Option<impl AsyncRead + Send + 'static> {
        let key = (query.key, query.copy);
        let mut doors = self.inner.doors.subscribe();
        let accepted = tokio::time::timeout(WAIT, async {
            // It may be asked for before the job is ready.
            let door = doors.wait_for(|all| all.contains_key(&key)).await.ok()?.get(&key).cloned()?;
            door.accept().await.ok()
        });
        let (connection, _) = accepted.await.ok()??;
        let (asks, to) = connection.into_split();
        // Ends with either side: with its last byte the connection is closed, and a worker that waits for more asks again.
        tokio::spawn(pass(answers, to));
        Some(asks)
    }

    /// Serves one connection of another node's job; `asks` is what it says, and the answer is what it is told.
    pub async fn serve(&self, query: ServeQuery, asks: BodyDataStream) -> Result<impl AsyncRead + Send + 'static, AgentError> {
        let path = self.inner.docker.backup_path(&query.path).await?;
        let (near, far) = tokio::io::duplex(BUFFER);
        let (answers, to) = tokio::io::split(far);
        tokio::spawn(pass(asks, to));
        tokio::spawn(async move {
            if let Err(error) = serve(near, Served::new(path, query.append_only)).await {
                debug!(%error, "a connection to a backup repository broke off");
            }
        });
        Ok(answers)
    }
}

async fn pass(from: BodyDataStream, mut to: impl AsyncWrite + Unpin) {
    let mut from = StreamReader::new(from.map_err(io::Error::other));
    if let Err(error) = tokio::io::copy(&mut from, &mut to).await {
        debug!(%error, "a connection to a backup repository was cut");
    }
    // The other side may be gone already.
    let _gone = to.shutdown().await;
}
