//! What nodes tell of the entries they carry: how members are, what happened, what keeps them from it.

use super::{ClusterRow, Clusters};
use crate::api::error::{ApiError, ApiResult};
use crate::service::servers::ServerKey;
use nm_link::contract::EdgeState;
use nm_plan::cluster::{self, Addresses, Member, cluster_of_id, reach, reads_of};
use nm_store::{AuditEntry, EdgeCursor, Kind, NewClusterEvent, Patch, StoreError};
use nm_types::cluster::{ClusterEventKind, ClusterMemberState, ClusterStatus, ClusterType};
use nm_types::proxy::{ClusterStatus as EntryStatus, EventKind, Events, MemberState};
use nm_types::{ClusterId, NodeId, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, RwLock};
use tokio::sync::watch;

/// What was last heard of a node.
#[derive(Debug, Clone, Default)]
pub struct Sight {
    pub state: Option<EdgeState>,
    /// Why it could not be asked, or did not take what it was given.
    pub problem: Option<String>,
    /// The generation it did not take.
    pub refused: Option<u64>,
}

impl Sight {
    /// What its load balancer says of a cluster.
    pub fn of(&self, id: &ClusterId) -> Option<&EntryStatus> {
        self.named(id.as_str())
    }

    /// The same by the name it has there.
    pub fn named(&self, name: &str) -> Option<&EntryStatus> {
        let proxy = self.state.as_ref()?.proxy.as_ref()?;
        proxy.clusters.iter().find(|c| c.id == name)
    }
}

/// What became of the document that a node is to have.
pub(super) enum Taken {
    NotYet,
    /// Why it did not take it.
    Refused(String),
    /// It holds it; `runs` says whether a load balancer is there to carry it.
    Carried {
        runs: bool,
    },
}

#[derive(Debug, Clone)]
pub struct Sights {
    table: Arc<RwLock<BTreeMap<NodeId, Arc<Sight>>>>,
    changes: watch::Sender<u64>,
}

impl Default for Sights {
    fn default() -> Self {
        Self {
            table: Arc::default(),
            changes: watch::Sender::new(0),
        }
    }
}

impl Sights {
    pub(super) fn get(&self, node: &NodeId) -> Option<Arc<Sight>> {
        self.table.read().unwrap_or_else(|e| e.into_inner()).get(node).cloned()
    }
    fn put(&self, node: &NodeId, sight: Sight) {
        self.table
            .write()
            .unwrap_or_else(|e| e.into_inner())
            .insert(node.clone(), Arc::new(sight));
        self.changes.send_modify(|n| *n += 1);
    }
    pub(super) fn forget(&self, node: &NodeId) {
        self.table.write().unwrap_or_else(|e| e.into_inner()).remove(node);
    }
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

/// How a member is, with what is said of it.
#[derive(Debug, Clone)]
pub struct MemberSight {
    pub state: ClusterMemberState,
    pub reason: String,
    pub since: Option<Timestamp>,
    pub in_flight: u64,
    pub address: Option<String>,
}

impl Clusters {
    /// What a node said of what it carries.
    pub async fn told(&self, node: &NodeId, state: EdgeState) -> ApiResult<()> {
        self.sights.put(
            node,
            Sight {
                state: Some(state),
                problem: None,
                refused: None,
            },
        );
        self.settle_node(node).await
    }

    /// A node could not be asked, or refused what it was given. What it said before is kept: its load balancer goes on.
    pub async fn failed(&self, node: &NodeId, generation: Option<u64>, problem: String) -> ApiResult<()> {
        let state = self.sights.get(node).and_then(|s| s.state.clone());
        self.sights.put(
            node,
            Sight {
                state,
                problem: Some(problem),
                refused: generation,
            },
        );
        self.settle_node(node).await
    }

    async fn settle_node(&self, node: &NodeId) -> ApiResult<()> {
        for row in self.all().into_iter().filter(|r| r.stored.entries.contains(node)) {
            self.settle(&row.id).await?;
        }
        Ok(())
    }

    /// Brings every cluster's status up to what is seen.
    pub async fn settle_all(&self) -> ApiResult<()> {
        for row in self.all() {
            self.settle(&row.id).await?;
        }
        Ok(())
    }

    /// Writes a status that has changed, and what servers can't be reached any more or can again, with the events that say so.
    pub(super) async fn settle(&self, id: &ClusterId) -> ApiResult<()> {
        let Some(row) = self.row(id) else { return Ok(()) };
        let status = self.status_of(&row).filter(|s| row.state.status != Some(*s));
        let members = self.members(&row);
        let sights = self.member_sights(&row, &members, &self.addresses());
        let seen: BTreeMap<String, MemberSight> = members.into_iter().map(|m| m.id).zip(sights).collect();
        if status.is_none() && row.state.unreachable.iter().eq(unreachable(&seen)) {
            return Ok(());
        }
        let (up, all) = match self.database_share(&row) {
            Some((up, all, _)) => (up, all),
            None => self.share_up(&row),
        };
        self.change_state(id, |state| {
            // A load balancer tells nothing of a server that it does not have.
            let mut events = told_of_reach(id, &state.unreachable, &seen);
            state.unreachable = unreachable(&seen).cloned().collect();
            if let Some(status) = status.filter(|s| state.status != Some(*s)) {
                let from = state.status.map_or_else(String::new, |w| format!(" from {}", w.as_str()));
                state.status = Some(status);
                events.push(event(
                    id,
                    ClusterEventKind::StatusChanged,
                    format!("{up} of {all} servers are up: it went{from} to {}", status.as_str()),
                ));
            }
            Some(events)
        })
        .await
    }

    /// Changes a cluster's status column and writes the events that tell of it; `change` says nothing where nothing is to be
    /// written. What others write meanwhile is kept.
    pub(super) async fn change_state(
        &self,
        id: &ClusterId,
        change: impl FnOnce(&mut super::ClusterState) -> Option<Vec<NewClusterEvent>> + Send,
    ) -> ApiResult<()> {
        self.change_state_for(id, None, change).await
    }

    /// The same, for somebody who asked for it.
    pub(super) async fn change_state_for(
        &self,
        id: &ClusterId,
        audit: Option<AuditEntry>,
        change: impl FnOnce(&mut super::ClusterState) -> Option<Vec<NewClusterEvent>> + Send,
    ) -> ApiResult<()> {
        let now = self.clock.now();
        let mut tx = self.store.begin(now).await?;
        let Some(row) = tx.get(Kind::Cluster, id.as_str()).await? else {
            return Ok(());
        };
        let mut state = row.status()?;
        let Some(events) = change(&mut state) else { return Ok(()) };
        let row = match tx.update(Kind::Cluster, id.as_str(), Patch::new().status(&state)?).await {
            Ok(row) => row,
            Err(StoreError::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        for event in events {
            tx.cluster_event(&NewClusterEvent { at: now, ..event }).await?;
        }
        if let Some(audit) = audit {
            tx.audit(audit).await?;
        }
        tx.commit().await?;
        self.learn(ClusterRow::read(&self.store, &row).await?);
        Ok(())
    }

    /// What a node's load balancer says has happened; written with how far it was read.
    pub async fn happened(&self, node: &NodeId, events: &Events) -> ApiResult<()> {
        let cursor = EdgeCursor {
            instance: events.instance.clone(),
            sequence: i64::try_from(events.last).unwrap_or(i64::MAX),
        };
        if self.edges.cursor(node) == cursor {
            return Ok(());
        }
        let mut tx = self.store.begin(self.clock.now()).await?;
        for seen in &events.events {
            // A node speaks for the clusters it carries, and for no other.
            let row = cluster_of_id(&seen.cluster).and_then(|(id, _)| self.row(&id));
            let Some(row) = row.filter(|r| r.stored.entries.contains(node)) else {
                continue;
            };
            if Self::is_database(&row) {
                // Its members know why; they are asked at once.
                self.database_wake.notify_one();
                continue;
            }
            let kind = match seen.kind {
                EventKind::MemberUp => ClusterEventKind::MemberUp,
                EventKind::MemberDown => ClusterEventKind::MemberDown,
                EventKind::MemberEjected => ClusterEventKind::MemberEjected,
                EventKind::MemberReturned => ClusterEventKind::MemberReturned,
                EventKind::Failover => ClusterEventKind::Failover,
            };
            let event = NewClusterEvent {
                at: seen.at,
                member: Some(seen.member.clone()),
                node: Some(node.to_string()),
                ..event(&row.id, kind, seen.reason.clone())
            };
            tx.cluster_event(&event).await?;
        }
        tx.edge_read(node.as_str(), &cursor).await?;
        tx.commit().await?;
        self.edges.read_up_to(node, cursor);
        Ok(())
    }

    /// How far a node's events were read.
    pub fn read_up_to(&self, node: &NodeId) -> EdgeCursor {
        self.edges.cursor(node)
    }

    /// The entry node that takes the traffic, as far as that is known: the one that holds the virtual address, otherwise the first
    /// that is connected and tells of the cluster, otherwise the first that ever did.
    pub(super) fn leading(&self, row: &ClusterRow) -> Option<(NodeId, Arc<Sight>)> {
        let telling: Vec<(NodeId, Arc<Sight>)> = row
            .stored
            .entries
            .iter()
            .filter_map(|node| Some((node.clone(), self.sights.get(node)?)))
            .filter(|(_, sight)| sight.of(&row.id).is_some())
            .collect();
        let connected = |node: &NodeId| self.fleet.is_connected(node);
        let holds = |sight: &Sight| {
            let shared = row.stored.spec.virtual_address.as_ref().map(|v| v.address.ip());
            let held = sight.state.iter().flat_map(|s| &s.virtual_addresses);
            shared.is_some_and(|ip| held.clone().any(|v| v.address == ip && v.held))
        };
        let best = telling
            .iter()
            .find(|(node, sight)| connected(node) && holds(sight))
            .or_else(|| telling.iter().find(|(node, _)| connected(node)));
        best.or(telling.first()).cloned()
    }

    /// How each member is, in their order.
    pub(super) fn taken(&self, node: &NodeId) -> Taken {
        let wanted = self.generation_of(node);
        let (Some(sight), true) = (self.sights.get(node), wanted.is_some()) else {
            return Taken::NotYet;
        };
        if let Some(problem) = sight.problem.as_ref().filter(|_| sight.refused == wanted) {
            return Taken::Refused(problem.clone());
        }
        match &sight.state {
            Some(state) if state.generation == wanted => Taken::Carried {
                runs: state.proxy.is_some(),
            },
            Some(_) | None => Taken::NotYet,
        }
    }

    /// Whether a node carries, or refuses, what it is to carry now.
    pub(super) fn settled(&self, node: &NodeId) -> bool {
        !matches!(self.taken(node), Taken::NotYet)
    }

    pub(super) fn member_sights(&self, row: &ClusterRow, members: &[Member], addresses: &Addresses) -> Vec<MemberSight> {
        let leading = self.leading(row);
        members
            .iter()
            .map(|member| self.member_sight(row, member, addresses, leading.as_ref()))
            .collect()
    }

    fn member_sight(
        &self,
        row: &ClusterRow,
        member: &Member,
        addresses: &Addresses,
        leading: Option<&(NodeId, Arc<Sight>)>,
    ) -> MemberSight {
        if row.stored.spec.kind == ClusterType::Compute {
            return self.worker_sight(&member.id);
        }
        let from = leading.map(|(node, _)| node).or(row.stored.entries.first());
        let socket = match from {
            None => Err("no node carries the entry".to_owned()),
            Some(node) => reach(node, &member.target, member.port, addresses),
        };
        let sight = |state, reason: String| MemberSight {
            state,
            reason,
            since: None,
            in_flight: 0,
            address: None,
        };
        let address = match socket {
            Ok(socket) => socket.to_string(),
            Err(reason) => return sight(ClusterMemberState::Unreachable, reason),
        };
        let of = |cluster: &str| leading.and_then(|(_, s)| s.named(cluster)?.members.iter().find(|m| m.id == member.id));
        let told = match Self::is_database(row) {
            false => of(row.id.as_str()),
            // What takes the writes is up for them, and what is not behind is for reads.
            true => of(row.id.as_str())
                .filter(|m| m.state == MemberState::Up)
                .or_else(|| of(&reads_of(&row.id))),
        };
        let Some(told) = told else {
            return MemberSight {
                address: Some(address),
                ..sight(ClusterMemberState::Unknown, "the entry has not told of it yet".into())
            };
        };
        MemberSight {
            state: match told.state {
                MemberState::Up => ClusterMemberState::Up,
                MemberState::Down => ClusterMemberState::Down,
                MemberState::Ejected => ClusterMemberState::Ejected,
                MemberState::Draining => ClusterMemberState::Draining,
            },
            reason: told.reason.clone(),
            since: Some(told.since),
            in_flight: told.active,
            address: Some(told.address.clone()),
        }
    }

    /// A node of a compute cluster, by itself.
    fn worker_sight(&self, member: &str) -> MemberSight {
        let ready = match ServerKey::parse(member) {
            Some(ServerKey::Node(node)) => self.nodes.takes_work(&node),
            Some(_) | None => Err("it is no node"),
        };
        let (state, reason) = match ready {
            Ok(()) => (ClusterMemberState::Up, "the node is ready"),
            Err(reason) => (ClusterMemberState::Down, reason),
        };
        MemberSight {
            state,
            reason: reason.into(),
            since: None,
            in_flight: 0,
            address: None,
        }
    }

    /// How many members are up, and of how many.
    pub(super) fn share_up(&self, row: &ClusterRow) -> (usize, usize) {
        let members = self.members(row);
        let sights = self.member_sights(row, &members, &self.addresses());
        let staying = members.iter().zip(&sights).filter(|(m, _)| !m.draining);
        let states: Vec<ClusterMemberState> = staying.map(|(_, s)| s.state).collect();
        let up = states.iter().filter(|s| **s == ClusterMemberState::Up).count();
        (up, states.len())
    }

    /// By what is seen now; nothing while no entry has told of the cluster.
    pub(super) fn status_of(&self, row: &ClusterRow) -> Option<ClusterStatus> {
        if row.stored.spec.kind == ClusterType::Compute {
            let (up, all) = self.share_up(row);
            return Some(cluster::status(row.stored.spec.kind, up, all));
        }
        let closed = |node: &NodeId| self.edges.is_taken(node, row.stored.listen_port);
        if !row.stored.entries.is_empty() && row.stored.entries.iter().all(closed) {
            return Some(ClusterStatus::Offline);
        }
        if self.leading(row).is_none() {
            // An entry that was given its document, and whose load balancer does not answer, serves nobody.
            let silent = |node: &NodeId| self.fleet.is_connected(node) && matches!(self.taken(node), Taken::Carried { runs: false });
            let all_silent = !row.stored.entries.is_empty() && row.stored.entries.iter().all(silent);
            return all_silent.then_some(ClusterStatus::Offline);
        }
        if Self::is_database(row) {
            let (up, all, writes) = self.database_share(row)?;
            return Some(if writes {
                cluster::status(row.stored.spec.kind, up, all)
            } else {
                ClusterStatus::Offline
            });
        }
        let (up, all) = self.share_up(row);
        Some(cluster::status(row.stored.spec.kind, up, all))
    }

    /// Makes another server the one that takes the traffic, at every entry node that is connected.
    pub async fn failover(&self, key: &str, server: Option<&str>) -> ApiResult<ClusterId> {
        let row = self.find(key)?;
        if row.stored.spec.kind != ClusterType::HighAvailability {
            return Err(ApiError::conflict(
                "not_high_availability",
                format!(
                    "cluster `{}` is {}: all of its servers take traffic, there is nothing to fail over",
                    row.stored.spec.name,
                    row.stored.spec.kind.as_str()
                ),
            ));
        }
        let member = match server {
            None => None,
            Some(named) => Some(self.member_named(&row, named).await.map_err(|e| e.field("server"))?),
        };
        let request = nm_types::proxy::FailoverRequest {
            cluster: row.id.to_string(),
            member,
        };
        // The one that takes the traffic knows best, and is asked first: what it refuses, no other is to do.
        let leading = self.leading(&row).map(|(node, _)| node);
        let mut entries: Vec<&NodeId> = row.stored.entries.iter().collect();
        entries.sort_by_key(|node| Some(*node) != leading.as_ref());
        let (mut done, mut last) = (false, None);
        for node in entries {
            let asked = match self.fleet.agent(node) {
                Ok(agent) => agent
                    .post::<serde_json::Value>(nm_link::contract::path::EDGE_FAILOVER, &request, std::time::Duration::ZERO)
                    .await
                    .map_err(|error| match error {
                        crate::service::fleet::CallError::Refused(e) => ApiError::conflict("failover_refused", e.message),
                        crate::service::fleet::CallError::Link { error, .. } => error,
                    }),
                Err(error) => Err(error),
            };
            match asked {
                Ok(_) => done = true,
                Err(error) if Some(node) == leading.as_ref() && error.code == "failover_refused" => return Err(error),
                Err(error) => last = Some(error),
            }
        }
        match (done, last) {
            (true, _) => Ok(row.id.clone()),
            (false, Some(error)) => Err(error),
            (false, None) => Err(ApiError::conflict(
                "no_entry",
                "no node carries this cluster's entry: name one by `entryNodes`",
            )),
        }
    }

    /// Asks the entry nodes how they are now: whoever has just changed something there wants to see it.
    pub(super) async fn ask_entries(&self, id: &ClusterId) {
        let Some(row) = self.row(id) else { return };
        for node in &row.stored.entries {
            let Ok(agent) = self.fleet.agent(node) else { continue };
            let told = match agent.get::<EdgeState>(nm_link::contract::path::EDGE).await {
                Ok(state) => self.told(node, state).await,
                Err(error) => Err(error.into()),
            };
            if let Err(error) = told {
                tracing::debug!(node.id = %node, error = %error.message, "an entry node does not say how it is");
            }
        }
    }

    /// The id of the member with this id or name.
    pub(super) async fn member_named(&self, row: &ClusterRow, named: &str) -> ApiResult<String> {
        if row.has_member(named) {
            return Ok(named.to_owned());
        }
        // As it was named when it was added: its name may be another one's by now, or nobody's.
        let as_sent = row
            .named()
            .find(|(_, entry)| entry.id.as_str() == named)
            .map(|(id, _)| id.to_owned());
        if let Some(id) = as_sent {
            return Ok(id);
        }
        let server = self
            .servers
            .resolve(named)
            .await
            .map_err(|e| ApiError { details: Vec::new(), ..e })?;
        let id = server.key.to_string();
        if row.has_member(&id) {
            return Ok(id);
        }
        Err(ApiError::not_found("server", named))
    }

    /// A server's name, or its id where it has none any more.
    pub(super) fn name_of(&self, id: &str) -> String {
        let key = ServerKey::parse(id);
        key.and_then(|key| self.servers.name(&key))
            .map_or_else(|| id.to_owned(), |(name, _)| name)
    }
}

/// In the order of their ids.
fn unreachable(seen: &BTreeMap<String, MemberSight>) -> impl Iterator<Item = &String> {
    let lost = |(_, sight): &(&String, &MemberSight)| sight.state == ClusterMemberState::Unreachable;
    seen.iter().filter(lost).map(|(id, _)| id)
}

/// What there is to tell of servers that could be reached `before` and can't be now, or the other way round.
fn told_of_reach(id: &ClusterId, before: &BTreeSet<String>, seen: &BTreeMap<String, MemberSight>) -> Vec<NewClusterEvent> {
    let changed = seen.iter().filter_map(|(member, sight)| {
        let is_lost = sight.state == ClusterMemberState::Unreachable;
        let (kind, reason) = match (before.contains(member), is_lost) {
            (false, true) => (ClusterEventKind::MemberDown, sight.reason.clone()),
            (true, false) => (ClusterEventKind::MemberUp, "it can be reached again".to_owned()),
            (false, false) | (true, true) => return None,
        };
        Some(NewClusterEvent {
            member: Some(member.clone()),
            ..event(id, kind, reason)
        })
    });
    changed.collect()
}

/// An event; when it was is for whoever writes it to say.
pub(super) fn event(id: &ClusterId, kind: ClusterEventKind, reason: impl Into<String>) -> NewClusterEvent {
    NewClusterEvent {
        cluster: id.to_string(),
        at: Timestamp(0),
        kind: kind.as_str().into(),
        member: None,
        node: None,
        reason: reason.into(),
        detail: None,
    }
}
