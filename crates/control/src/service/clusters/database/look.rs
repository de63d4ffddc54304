//! How a database cluster is, as one of its members tells.

use crate::api::error::{ApiError, ApiResult};
use crate::service::clusters::{ClusterRow, Clusters};
use crate::service::fleet::keyed;
use nm_link::contract::{Exec, path};
use nm_types::cluster::{DatabaseArchive, DatabaseRole, DatabaseSlot};
use nm_types::container::{ContainerStatus, ExecCommand, ExecResult};
use nm_types::units::Bounded;
use nm_types::{ClusterId, ContainerId, NodeId, Timestamp};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// The program in members' containers that tells and does.
const PROGRAM: &str = "nm-postgres";
const STATUS: &[&str] = &["status"];
const REFUSED: &str = "database_refused";
/// Seconds that a look may take, and something that is to be done.
const LOOK: i64 = 10;
pub(super) const WORK: i64 = 120;
/// How long entries may take to send writes to the first member that takes them.
const ENTRIES_MS: i64 = 15_000;

/// What a member says of all of them.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Topology {
    #[serde(default)]
    pub primary: Option<String>,
    #[serde(default)]
    pub timeline: Option<i64>,
    pub members: Vec<Told>,
    #[serde(default)]
    pub connections: Option<i64>,
    #[serde(default)]
    pub max_connections: Option<i64>,
    #[serde(default)]
    pub slots: Vec<DatabaseSlot>,
    #[serde(default)]
    pub etcd: Vec<EtcdTold>,
    #[serde(default)]
    pub archive: Option<DatabaseArchive>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Told {
    pub name: String,
    pub role: DatabaseRole,
    pub state: String,
    #[serde(default)]
    pub timeline: Option<i64>,
    #[serde(default)]
    pub lag_bytes: Option<i64>,
    #[serde(default)]
    pub lag_seconds: Option<f64>,
    #[serde(default)]
    pub pending_restart: bool,
}

impl Told {
    /// It serves: the primary takes writes, a replica follows it.
    pub fn is_well(&self) -> bool {
        match self.role {
            DatabaseRole::Primary => self.state == "running",
            DatabaseRole::SyncStandby | DatabaseRole::Replica => matches!(self.state.as_str(), "running" | "streaming"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct EtcdTold {
    pub name: String,
    pub healthy: bool,
}

impl Topology {
    pub fn of(&self, node: &NodeId) -> Option<&Told> {
        self.members.iter().find(|m| m.name == node.as_str())
    }
    /// Whether its etcd runs there, and votes.
    pub fn takes_part(&self, node: &NodeId) -> bool {
        self.etcd.iter().any(|t| t.name == node.as_str() && t.healthy)
    }
    pub fn primary(&self) -> Option<NodeId> {
        let told = self.members.iter().find(|m| m.role == DatabaseRole::Primary && m.is_well())?;
        NodeId::parse(&told.name).ok()
    }
}

/// What was told, and when.
pub(super) type Seen = (Timestamp, Arc<Topology>);

#[derive(Debug)]
struct Last {
    seen: Seen,
    /// Since when a member takes writes.
    writable: Option<Timestamp>,
}

/// What was last told of each cluster.
#[derive(Debug, Clone, Default)]
pub struct Topologies(Arc<Mutex<BTreeMap<ClusterId, Last>>>);

impl Topologies {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ClusterId, Last>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
    pub(super) fn get(&self, id: &ClusterId) -> Option<Seen> {
        Some(self.lock().get(id)?.seen.clone())
    }
    fn writable(&self, id: &ClusterId) -> Option<Timestamp> {
        self.lock().get(id)?.writable
    }
    fn put(&self, id: &ClusterId, at: Timestamp, topology: Topology) {
        let mut all = self.lock();
        let before = all.get(id).and_then(|last| last.writable);
        let writable = topology.primary().map(|_| before.unwrap_or(at));
        let seen = (at, Arc::new(topology));
        all.insert(id.clone(), Last { seen, writable });
    }
    pub(in crate::service::clusters) fn forget(&self, id: &ClusterId) {
        self.lock().remove(id);
    }
}

fn no_member(row: &ClusterRow) -> ApiError {
    ApiError::unavailable(
        "database_unreachable",
        format!(
            "no member of database cluster `{}` runs on a node that is connected",
            row.stored.spec.name
        ),
    )
}

impl Clusters {
    /// Members whose containers run where an agent answers; `first` before the others.
    pub(super) fn running(&self, row: &ClusterRow, first: Option<&NodeId>) -> Vec<(NodeId, ContainerId)> {
        let mut all: Vec<(NodeId, ContainerId)> = row
            .state
            .database
            .members
            .iter()
            .filter_map(|m| Some((m.node.clone(), m.container.clone()?)))
            .filter(|(node, id)| {
                let runs = self.index.get(id).is_some_and(|r| r.status() == ContainerStatus::Running);
                runs && self.fleet.is_connected(node)
            })
            .collect();
        all.sort_by_key(|(node, _)| Some(node) != first);
        all
    }

    /// Whether it is known that no member runs: there are some, and each one's node is connected. Of a node that is away nothing is known.
    pub(super) fn stands_still(&self, row: &ClusterRow) -> bool {
        let members = &row.state.database.members;
        let known = members.iter().all(|m| m.container.is_some() && self.fleet.is_connected(&m.node));
        !members.is_empty() && known && self.running(row, None).is_empty()
    }

    /// What there is to tell of a database of which no member runs, in place of what the last one told.
    pub(super) fn nobody_serves(&self, row: &ClusterRow) -> Topology {
        self.topologies.put(&row.id, self.clock.now(), Topology::default());
        Topology::default()
    }

    /// Runs the members' own program in one of their containers; what it printed.
    pub(super) async fn run_in(&self, id: &ContainerId, words: &[&str], seconds: i64) -> ApiResult<String> {
        let record = self.index.get(id).ok_or_else(|| ApiError::not_found("container", id.as_str()))?;
        let agent = self.fleet.agent(&record.node)?;
        let command = std::iter::once(PROGRAM)
            .chain(words.iter().copied())
            .map(|w| w.parse())
            .collect::<Result<_, _>>();
        let command = ExecCommand {
            command: command.map_err(|_| ApiError::internal())?,
            environment: Default::default(),
            user: None,
            working_dir: None,
            timeout: Bounded::new(seconds),
        };
        let extra = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        let done: ExecResult = agent.post(&keyed(path::EXEC, &record), &Exec { command }, extra).await?;
        match done.exit_code {
            Some(0) => Ok(done.stdout),
            Some(_) => Err(ApiError::conflict(REFUSED, said(&done.stderr))),
            None => Err(ApiError::unavailable(
                "database_unreachable",
                format!(
                    "the member on node {} did not answer within {seconds} s",
                    self.nodes.name(&record.node)
                ),
            )),
        }
    }

    /// The same in the first member that answers, the one on `first` before the others.
    pub(super) async fn ask_members(&self, row: &ClusterRow, first: Option<&NodeId>, words: &[&str], seconds: i64) -> ApiResult<String> {
        let mut last = no_member(row);
        for (_, id) in self.running(row, first) {
            match self.run_in(&id, words, seconds).await {
                Ok(text) => return Ok(text),
                // What one refuses to do no other is to do; only of how things are may another one know more.
                Err(error) if error.code == REFUSED && words != STATUS => return Err(error),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Whether every entry that can be asked sends writes to the member that takes them, or has had the time to: one that does not shows
    /// as a condition of the cluster.
    pub(super) fn entries_lead(&self, row: &ClusterRow) -> bool {
        let late = self
            .topologies
            .writable(&row.id)
            .is_some_and(|since| self.clock.now().since(since) >= ENTRIES_MS);
        let leads = |node: &NodeId| {
            let sight = self.sights.get(node);
            sight
                .as_ref()
                .and_then(|sight| sight.of(&row.id))
                .is_some_and(|entry| entry.available > 0)
        };
        let mut asked = row.stored.entries.iter().filter(|node| self.fleet.is_connected(node));
        late || asked.all(leads)
    }

    /// Asks how the cluster is, and keeps it.
    pub(super) async fn look(&self, row: &ClusterRow) -> ApiResult<Arc<Topology>> {
        let primary = row.state.database.primary.clone();
        let text = self.ask_members(row, primary.as_ref(), STATUS, LOOK).await?;
        let topology: Topology = serde_json::from_str(text.trim()).map_err(|error| {
            tracing::warn!(cluster.id = %row.id, %error, "a database's member tells what can't be read");
            ApiError::unavailable(
                "database_unreachable",
                "a member tells what can't be read: its image may be of another version",
            )
        })?;
        let now = self.clock.now();
        self.topologies.put(&row.id, now, topology.clone());
        Ok(Arc::new(topology))
    }
}

/// The last line of what a program complained of.
fn said(text: &str) -> String {
    let last = text.lines().rev().find(|l| !l.trim().is_empty());
    last.map_or_else(
        || "it was refused without a word".to_owned(),
        |l| l.trim().chars().take(500).collect(),
    )
}
