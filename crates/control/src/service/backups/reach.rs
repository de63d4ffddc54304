//! Repositories in folders of other nodes. Agents have a link to us alone, so bytes go from the one that works to us and on to the one
//! that has the folder: each connection of a job's worker is joined with one that the other node serves. Nothing is read on the way,
//! and each stream's own flow control holds up whoever is too fast.

use super::rows::ConfigRow;
use super::{Backups, rows};
use crate::api::error::{ApiError, ApiResult};
use crate::service::fleet::{CallError, with_query};
use futures_util::stream::{FuturesUnordered, StreamExt};
use http::{Method, StatusCode};
use http_body_util::{BodyStream, StreamBody};
use hyper::body::Incoming;
use nm_link::contract::{ReachQuery, RunJob, ServeQuery, path};
use nm_types::NodeId;
use nm_types::backup::job::{JobKey, RepositoryAccess, RepositoryPlace};
use nm_types::backup::{BackupDestination, DestinationKind};
use std::time::Duration;
use tokio::sync::oneshot;

/// How long a node that has the folder may be away in the middle of a job.
const AWAY: Duration = Duration::from_secs(60);
/// An agent answers within 20 s that no connection came.
const NEXT: Duration = Duration::from_secs(40);
const SERVED: Duration = Duration::from_secs(20);
const BYTES: &str = "application/octet-stream";

/// A folder of a node other than the one that works on it.
#[derive(Debug, Clone)]
pub(super) struct Far {
    node: NodeId,
    path: String,
    append_only: bool,
}

/// How a node reaches a repository.
pub(super) struct Reached {
    pub access: RepositoryAccess,
    pub far: Option<Far>,
}

/// What an agent is asked for, and what has to be joined to it meanwhile.
pub(super) struct Ask {
    pub run: RunJob,
    /// By whether it is that of the copy.
    pub far: Vec<(bool, Far)>,
}

impl Ask {
    /// With what leads to the repository that a copy goes to.
    pub fn with_copy(mut self, far: Option<Far>) -> Self {
        self.far.extend(far.map(|far| (true, far)));
        self
    }
}

impl Backups {
    /// How `worker` opens a config's repository.
    pub(super) fn access(&self, config: &ConfigRow, worker: &NodeId) -> ApiResult<Reached> {
        let (spec, node) = (&config.stored.spec, config.stored.destination_node.as_ref());
        self.reached(config.id.as_str(), &spec.destination, node, worker, config.access()?)
    }

    /// How `worker` opens the repository of a database's log.
    pub(super) fn log_access(&self, config: &ConfigRow, worker: &NodeId) -> ApiResult<Reached> {
        let (spec, node) = (&config.stored.spec, config.stored.destination_node.as_ref());
        let folder = rows::log_folder(&config.id);
        self.reached(&folder, &spec.destination, node, worker, config.log_access()?)
    }

    /// How `worker` opens the second repository; none where there is to be none.
    pub(super) fn copy_access(&self, config: &ConfigRow, worker: &NodeId) -> ApiResult<Option<Reached>> {
        match (&config.stored.spec.copy, config.copy_access()?) {
            (Some(copy), Some(access)) => {
                let node = config.stored.copy_node.as_ref();
                self.reached(config.id.as_str(), &copy.destination, node, worker, access).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn reached(
        &self,
        folder: &str,
        destination: &BackupDestination,
        known: Option<&NodeId>,
        worker: &NodeId,
        mut access: RepositoryAccess,
    ) -> ApiResult<Reached> {
        let DestinationKind::Node { node: named, .. } = destination.kind() else {
            return Ok(Reached { access, far: None });
        };
        let node = self.holder(&named, known)?;
        if node == *worker {
            return Ok(Reached { access, far: None });
        }
        let path = rows::location_of(destination, folder);
        access.place = RepositoryPlace::Socket {
            // Which one, the agent says.
            socket: String::new(),
            name: format!("node:{}:{path}", self.nodes.name(&node)),
        };
        let append_only = access.append_only;
        let far = Some(Far { node, path, append_only });
        Ok(Reached { access, far })
    }

    /// The node that has the folder of a destination: the one that was meant when it was named, whatever it is called now.
    pub(super) fn holder(&self, named: &str, known: Option<&NodeId>) -> ApiResult<NodeId> {
        let found = match known {
            Some(id) => Some(id.clone()).filter(|id| self.nodes.knows(id)),
            None => self.nodes.find(named).ok(),
        };
        found.ok_or_else(|| {
            let text = format!(
                "node {named}, which has the repository's folder, is no longer in the fleet: make a config with another destination"
            );
            ApiError::conflict("destination_gone", text)
        })
    }

    /// 503 where the node that has a config's repository is away.
    pub(super) fn destination_is_there(&self, config: &super::Config) -> ApiResult<()> {
        let DestinationKind::Node { node, .. } = config.stored.spec.destination.kind() else {
            return Ok(());
        };
        let holder = self.holder(&node, config.stored.destination_node.as_ref())?;
        if self.fleet.is_connected(&holder) {
            Ok(())
        } else {
            Err(self.away(&holder))
        }
    }

    fn away(&self, node: &NodeId) -> ApiError {
        let text = format!(
            "node {} ({node}), which has the repository's folder, is not connected: check that the machine runs and `neuralmesh agent` on it",
            self.nodes.name(node)
        );
        ApiError::unavailable("node_offline", text)
    }

    /// Waits until all nodes that have folders of a job are there.
    pub(super) async fn far_arrived(&self, ask: &Ask, within: Duration) -> ApiResult<()> {
        for (_, far) in &ask.far {
            let arrived = tokio::time::timeout(within, self.fleet.connected(&far.node)).await;
            arrived.map_err(|_| self.away(&far.node))?;
        }
        Ok(())
    }

    /// Joins a job's connections for as long as it is polled. It ends only where a repository can't be reached, and says why.
    pub(super) async fn joined(&self, worker: &NodeId, ask: &Ask) -> ApiError {
        let mut all: FuturesUnordered<_> = ask
            .far
            .iter()
            .map(|(copy, far)| self.join_all(worker, &ask.run.job.key, *copy, far))
            .collect();
        match all.next().await {
            Some(error) => error,
            None => std::future::pending().await,
        }
    }

    async fn join_all(&self, worker: &NodeId, key: &JobKey, copy: bool, far: &Far) -> ApiError {
        let mut joining = FuturesUnordered::new();
        // Kept while others are joined: dropped, it could take a connection with it.
        let mut next = Box::pin(self.next(worker, key, copy));
        loop {
            tokio::select! {
                (asks, answers) = &mut next => {
                    joining.push(self.join(far, asks, answers));
                    next = Box::pin(self.next(worker, key, copy));
                }
                Some(joined) = joining.next(), if !joining.is_empty() => match joined {
                    Ok(()) => {}
                    Err(error) => return error,
                },
            }
        }
    }

    /// The next connection of a job: what it says, and where what it is told goes.
    async fn next(&self, worker: &NodeId, key: &JobKey, copy: bool) -> (Incoming, oneshot::Sender<Incoming>) {
        let query = ReachQuery { key: key.clone(), copy };
        let route = with_query(path::BACKUP_REACH, &query);
        loop {
            let agent = self.fleet.connected(worker).await;
            let (tx, rx) = oneshot::channel::<Incoming>();
            let answers = futures_util::stream::once(rx)
                .filter_map(|body| std::future::ready(body.ok()))
                .flat_map(BodyStream::new);
            match agent.duplex(Method::POST, &route, BYTES, StreamBody::new(answers), NEXT).await {
                Ok(response) if response.status() == StatusCode::OK => return (response.into_body(), tx),
                // None came meanwhile.
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(node.id = %worker, ?error, "a connection of a backup job could not be fetched; trying again");
                    agent.before_asking_again().await;
                }
            }
        }
    }

    /// Joins one connection. A link that breaks meanwhile cuts it, and the worker makes another.
    async fn join(&self, far: &Far, asks: Incoming, answers: oneshot::Sender<Incoming>) -> ApiResult<()> {
        let arrived = tokio::time::timeout(AWAY, self.fleet.connected(&far.node)).await;
        let agent = arrived.map_err(|_| self.away(&far.node))?;
        let query = ServeQuery {
            path: far.path.clone(),
            append_only: far.append_only,
        };
        let route = with_query(path::BACKUP_SERVE, &query);
        match agent.duplex(Method::POST, &route, BYTES, asks, SERVED).await {
            Ok(served) => {
                // Where nobody waits for it any more, the connection is closed.
                drop(answers.send(served.into_body()));
                Ok(())
            }
            Err(CallError::Refused(error)) => {
                let mut error = ApiError::from(error);
                error.message = format!(
                    "node {}, which has the repository's folder: {}",
                    self.nodes.name(&far.node),
                    error.message
                );
                Err(error)
            }
            Err(CallError::Link { .. }) => Ok(()),
        }
    }
}
