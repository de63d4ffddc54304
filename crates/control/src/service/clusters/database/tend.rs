//! Brings a database cluster to what is asked for. One step at a time, each written down, so that a crash at any moment is gone on
//! from.

use super::archive::ARCHIVE_LIMIT;
use super::look::{Topology, WORK};
use super::making::Made;
use super::rows::{DatabaseMember, DatabaseStatus, EtcdMember, RestorePhase};
use crate::api::error::ApiResult;
use crate::api::extract::Meta;
use crate::service::auth::Actor;
use crate::service::clusters::seen::event;
use crate::service::clusters::{ClusterRow, Clusters};
use http::StatusCode;
use nm_store::NewClusterEvent;
use nm_types::cluster::{ClusterEventKind, DatabaseRole};
use nm_types::container::ContainerStatus;
use nm_types::{ClusterId, NodeId};
use serde_json::json;
use sha2::{Digest, Sha256};

/// With fewer nodes etcd runs on one: two members of etcd are worse than one, for both are needed.
const ETCD_FOR_SAFETY: usize = 3;
/// A container that could not be made is tried again after so long.
const TRY_AGAIN_MS: i64 = 15_000;

pub(super) fn nodes_of(row: &ClusterRow) -> Vec<NodeId> {
    row.stored.members.iter().filter_map(|id| NodeId::parse(id).ok()).collect()
}

fn etcd_wanted(nodes: usize) -> usize {
    if nodes >= ETCD_FOR_SAFETY { ETCD_FOR_SAFETY } else { 1 }
}

/// What members are told while they run, and how it is known again. `archive`: whether the log is to be kept for backups.
fn configuration(row: &ClusterRow, archive: bool) -> (String, String) {
    let database = row.stored.spec.database();
    let text = json!({
        "parameters": database.parameters, "synchronous": database.is_synchronous(), "extensions": database.extensions,
        "name": database.name(), "archive": archive.then(|| json!({ "limitBytes": ARCHIVE_LIMIT })),
    })
    .to_string();
    let known = hex::encode(&Sha256::digest(&text)[..8]);
    (text, known)
}

impl Clusters {
    /// Takes the next step of what is to be done, and looks how everything is.
    pub async fn tend_database(&self, id: &ClusterId) -> ApiResult<()> {
        let _one = self.scaling.hold(id.clone()).await;
        self.begin_members(id).await?;
        self.make_members(id).await?;
        let Some(row) = self.row(id) else { return Ok(()) };
        let topology = match self.look(&row).await {
            Ok(topology) => topology,
            Err(error) => {
                tracing::debug!(cluster.id = %id, error = %error.message, "a database cluster could not be looked at");
                if self.stands_still(&row) {
                    let nobody = self.nobody_serves(&row);
                    self.note_topology(&row, &nobody).await?;
                }
                self.look_at_recovery(&row).await?;
                return self.part_with_lost(&row).await;
            }
        };
        if row.state.database.primary.is_none() && topology.primary().is_some() && !self.entries_lead(&row) {
            // It is ready once its ports are.
            return Ok(());
        }
        self.note_topology(&row, &topology).await?;
        let Some(row) = self.row(id) else { return Ok(()) };
        if topology.primary().is_none() {
            // What is failing is for Patroni to mend first.
            return self.look_at_recovery(&row).await;
        }
        if self.part(&row, &topology).await? || self.grow_etcd(&row, &topology).await? || self.replace(&row, &topology).await? {
            self.database_wake.notify_one();
            return Ok(());
        }
        if self.configure(&row).await? || self.restart(&row, &topology).await? {
            self.database_wake.notify_one();
        }
        Ok(())
    }

    async fn change_database(
        &self,
        id: &ClusterId,
        change: impl FnOnce(&mut DatabaseStatus) -> Option<Vec<NewClusterEvent>> + Send,
    ) -> ApiResult<()> {
        self.change_state(id, |state| change(&mut state.database)).await
    }

    /// Writes down the members that are wanted, before any of them is made.
    async fn begin_members(&self, id: &ClusterId) -> ApiResult<()> {
        let Some(row) = self.row(id) else { return Ok(()) };
        let (mut wanted, now) = (nodes_of(&row), self.clock.now());
        if row.state.database.restore.is_some() {
            // Whoever came first would make an empty one: the others come once there is something to copy.
            wanted.truncate(1);
        }
        let missing = |status: &DatabaseStatus, node: &NodeId| !status.members.iter().any(|m| m.node == *node);
        if !wanted.iter().any(|node| missing(&row.state.database, node)) {
            return Ok(());
        }
        // What they are made of says nothing of an archive.
        let (_, configured) = configuration(&row, false);
        self.change_database(id, |status| {
            if status.etcd.is_empty() {
                let first = wanted.iter().take(etcd_wanted(wanted.len()));
                status.etcd = first
                    .map(|node| EtcdMember {
                        node: node.clone(),
                        added: false,
                    })
                    .collect();
                status.configured = Some(configured);
            }
            let new: Vec<NodeId> = wanted.into_iter().filter(|node| missing(status, node)).collect();
            for node in new {
                status.last_number += 1;
                status.members.push(DatabaseMember::new(node, status.last_number, now));
            }
            Some(Vec::new())
        })
        .await
    }

    /// Has the containers made that are not there.
    async fn make_members(&self, id: &ClusterId) -> ApiResult<()> {
        let Some(row) = self.row(id) else { return Ok(()) };
        if matches!(row.state.database.restore, Some(RestorePhase::Fetching | RestorePhase::Failed(_))) {
            return Ok(());
        }
        let wanted = nodes_of(&row);
        for member in row.state.database.members.iter().filter(|m| wanted.contains(&m.node)) {
            let there = member.container.as_ref().is_some_and(|c| self.index.get(c).is_some());
            if there && !member.replacing {
                continue;
            }
            if member.container.is_some() {
                if there {
                    self.take_down(member).await?;
                }
                self.anew(id, &member.node, None).await?;
                continue;
            }
            let waits = member.trouble.is_some() && self.clock.now().since(member.since) < TRY_AGAIN_MS;
            if !waits {
                self.make_one(&row, member).await?;
            }
        }
        Ok(())
    }

    /// The member's next container has another number: the one before is gone, or could not be made.
    async fn anew(&self, id: &ClusterId, node: &NodeId, trouble: Option<String>) -> ApiResult<()> {
        let now = self.clock.now();
        self.change_database(id, |status| {
            status.last_number += 1;
            let number = status.last_number;
            let member = status.members.iter_mut().find(|m| m.node == *node)?;
            *member = DatabaseMember {
                trouble,
                ..DatabaseMember::new(node.clone(), number, now)
            };
            Some(Vec::new())
        })
        .await
    }

    async fn make_one(&self, row: &ClusterRow, member: &DatabaseMember) -> ApiResult<()> {
        let (id, node) = (&row.id, &member.node);
        let made = async {
            let plan = self.plan_member(row, &row.state.database, member)?;
            if member.made_of.is_empty() {
                let made_of = plan.made_of.clone();
                self.change_member(id, member, |m| m.made_of = made_of).await?;
            }
            self.make_member(row, member, self.member_spec(row, member, plan)?).await
        };
        match made.await {
            Ok(Made::Done(container)) => {
                self.change_member(id, member, |m| (m.container, m.trouble) = (Some(container), None))
                    .await
            }
            Ok(Made::GoesOn(_)) => Ok(()),
            // It will answer again: the same number finds what was begun.
            Err(error) if error.status == StatusCode::SERVICE_UNAVAILABLE => {
                let now = self.clock.now();
                let news = member.trouble.as_deref() != Some(&error.message);
                if !news {
                    return Ok(());
                }
                self.change_member(id, member, |m| (m.trouble, m.since) = (Some(error.message), now))
                    .await
            }
            Err(error) => {
                tracing::warn!(cluster.id = %id, node.id = %node, error = %error.message, "a database's member could not be made; trying again");
                self.anew(id, node, Some(error.message)).await
            }
        }
    }

    async fn change_member(
        &self,
        id: &ClusterId,
        member: &DatabaseMember,
        change: impl FnOnce(&mut DatabaseMember) + Send,
    ) -> ApiResult<()> {
        let number = member.number;
        self.change_database(id, |status| {
            change(status.members.iter_mut().find(|m| m.number == number)?);
            Some(Vec::new())
        })
        .await
    }

    /// Ends a member in order, and removes its container; its volume stays.
    async fn take_down(&self, member: &DatabaseMember) -> ApiResult<()> {
        let Some(id) = member.container.as_ref().filter(|id| self.index.get(id).is_some()) else {
            return Ok(());
        };
        let (actor, meta) = (Actor::system(), Meta::internal());
        let runs = self.index.get(id).is_some_and(|r| r.status() == ContainerStatus::Running);
        if runs {
            self.containers.stop(&actor, &meta, id.as_str(), None).await?;
        }
        match self.containers.remove(&actor, &meta, id.as_str(), true, false).await {
            Ok(_) => Ok(()),
            Err(error) if error.status == StatusCode::NOT_FOUND => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Tells of what has changed: who takes the writes, and who does not run.
    pub(super) async fn note_topology(&self, row: &ClusterRow, topology: &Topology) -> ApiResult<()> {
        let (before, primary) = (&row.state.database, topology.primary());
        let down: Vec<NodeId> = before
            .members
            .iter()
            .filter(|m| m.container.is_some() && !topology.of(&m.node).is_some_and(|told| told.is_well()))
            .map(|m| m.node.clone())
            .collect();
        let failing = primary.is_none() && before.primary.is_some();
        let changed = primary.is_some() && primary != before.primary;
        if !changed && failing == before.failing && down == before.down {
            return Ok(());
        }
        let id = &row.id;
        let timeline = topology.timeline.map(|t| format!(", timeline {t}")).unwrap_or_default();
        let name = |node: &NodeId| self.nodes.name(node);
        let first = before.primary.is_none();
        let mut events = Vec::new();
        let told = |kind, node: &NodeId, reason: String| NewClusterEvent {
            member: Some(node.to_string()),
            ..event(id, kind, reason)
        };
        if let (true, Some(new)) = (changed, &primary) {
            events.push(match &before.primary {
                None => told(
                    ClusterEventKind::MemberUp,
                    new,
                    format!("the database is ready: {} takes the writes{timeline}", name(new)),
                ),
                Some(old) => told(
                    ClusterEventKind::Failover,
                    new,
                    format!("{} takes the writes, which {} took before{timeline}", name(new), name(old)),
                ),
            });
        }
        // While it is made for the first time nobody has ever run.
        if !first {
            for node in down.iter().filter(|n| !before.down.contains(n)) {
                let state = topology.of(node).map_or("it tells nothing", |t| t.state.as_str());
                events.push(told(
                    ClusterEventKind::MemberDown,
                    node,
                    format!("{} does not serve: {state}", name(node)),
                ));
            }
            for node in before.down.iter().filter(|n| !down.contains(n)) {
                if before.members.iter().any(|m| m.node == *node) {
                    events.push(told(ClusterEventKind::MemberUp, node, format!("{} serves", name(node))));
                }
            }
        }
        self.change_database(id, |status| {
            if let Some(primary) = primary {
                status.primary = Some(primary);
                status.restore = None;
            }
            (status.failing, status.down) = (failing, down);
            Some(events)
        })
        .await?;
        self.settle(id).await
    }

    /// Members whose servers are no longer named leave: the primary after it has handed over. Says whether something was done.
    async fn part(&self, row: &ClusterRow, topology: &Topology) -> ApiResult<bool> {
        let wanted = nodes_of(row);
        let Some(member) = row.state.database.members.iter().find(|m| !wanted.contains(&m.node)) else {
            return Ok(false);
        };
        let node = &member.node;
        let primary = topology.primary();
        let stays = wanted.iter().find(|n| topology.of(n).is_some_and(|t| t.is_well()));
        let Some(stays) = stays else {
            // It has all there is until another one has it, too.
            return Ok(false);
        };
        if primary.as_ref() == Some(node) {
            self.ask_members(row, Some(node), &["switchover"], WORK).await?;
            return Ok(true);
        }
        if row.state.database.etcd.iter().any(|e| e.node == *node) && row.state.database.etcd.len() > 1 {
            self.ask_members(row, Some(stays), &["etcd-remove", node.as_str()], WORK).await?;
            self.change_database(&row.id, |status| {
                status.etcd.retain(|e| e.node != *node);
                Some(Vec::new())
            })
            .await?;
            return Ok(true);
        }
        if row.state.database.etcd.iter().any(|e| e.node == *node) {
            // The only one that knows who is the primary: another one has to, first.
            return self.add_etcd(row, topology, Some(node)).await;
        }
        if self.nodes.knows(node) && !self.fleet.is_connected(node) {
            // Its container goes once its node is back. Until then nobody keeps a log for it.
            if !member.forgotten {
                self.ask_members(row, Some(stays), &["forget", node.as_str()], WORK).await?;
                self.change_member(&row.id, member, |m| m.forgotten = true).await?;
            }
            return Ok(false);
        }
        if self.nodes.knows(node)
            && let Err(error) = self.take_down(member).await
        {
            tracing::warn!(cluster.id = %row.id, node.id = %node, error = %error.message, "a database's member could not be removed; trying again");
            return Ok(false);
        }
        self.ask_members(row, Some(stays), &["forget", node.as_str()], WORK).await?;
        self.forget_member(row, node).await?;
        Ok(true)
    }

    async fn forget_member(&self, row: &ClusterRow, node: &NodeId) -> ApiResult<()> {
        self.change_database(&row.id, |status| {
            status.members.retain(|m| m.node != *node);
            status.down.retain(|n| n != node);
            Some(Vec::new())
        })
        .await
    }

    /// Nobody can be asked: members that never came to be go all the same.
    async fn part_with_lost(&self, row: &ClusterRow) -> ApiResult<()> {
        let wanted = nodes_of(row);
        let never = row
            .state
            .database
            .members
            .iter()
            .filter(|m| !wanted.contains(&m.node) && m.container.is_none());
        for member in never {
            self.forget_member(row, &member.node).await?;
        }
        Ok(())
    }

    /// Has as many members of etcd as are safe. Says whether something was done.
    async fn grow_etcd(&self, row: &ClusterRow, topology: &Topology) -> ApiResult<bool> {
        let (etcd, wanted) = (&row.state.database.etcd, etcd_wanted(row.stored.members.len()));
        // One that was added takes part once it runs and was made one that votes.
        if let Some(learns) = etcd.iter().find(|e| e.added && !topology.takes_part(&e.node)) {
            let words = ["etcd-promote", learns.node.as_str()];
            if let Err(error) = self.ask_members(row, topology.primary().as_ref(), &words, WORK).await {
                tracing::debug!(cluster.id = %row.id, error = %error.message, "a member of etcd does not take part yet");
            }
            return Ok(false);
        }
        if etcd.len() < wanted {
            return self.add_etcd(row, topology, None).await;
        }
        if etcd.len() > wanted {
            let primary = topology.primary();
            let Some(goes) = etcd.iter().rev().find(|e| Some(&e.node) != primary.as_ref()) else {
                return Ok(false);
            };
            let node = goes.node.clone();
            self.ask_members(row, primary.as_ref(), &["etcd-remove", node.as_str()], WORK)
                .await?;
            self.change_database(&row.id, |status| {
                status.etcd.retain(|e| e.node != node);
                Some(Vec::new())
            })
            .await?;
            return Ok(true);
        }
        Ok(false)
    }

    async fn add_etcd(&self, row: &ClusterRow, topology: &Topology, but: Option<&NodeId>) -> ApiResult<bool> {
        let etcd = &row.state.database.etcd;
        let fits =
            |node: &&NodeId| Some(*node) != but && !etcd.iter().any(|e| e.node == **node) && topology.of(node).is_some_and(|t| t.is_well());
        let nodes = nodes_of(row);
        let Some(node) = nodes.iter().find(fits) else { return Ok(false) };
        let Some(address) = self.addresses().get(node).map(ToString::to_string) else {
            return Ok(false);
        };
        self.ask_members(row, topology.primary().as_ref(), &["etcd-add", node.as_str(), &address], WORK)
            .await?;
        self.change_database(&row.id, |status| {
            status.etcd.push(EtcdMember {
                node: node.clone(),
                added: true,
            });
            Some(Vec::new())
        })
        .await?;
        Ok(true)
    }

    /// Makes one member anew that is made of something else than it should be: replicas first, the primary after it has handed
    /// over, and none while another one is not well. Says whether something was done.
    async fn replace(&self, row: &ClusterRow, topology: &Topology) -> ApiResult<bool> {
        let status = &row.state.database;
        let mut outdated: Vec<&DatabaseMember> = Vec::new();
        for member in status.members.iter().filter(|m| m.container.is_some()) {
            match self.plan_member(row, status, member) {
                Ok(plan) if plan.made_of != member.made_of => outdated.push(member),
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(cluster.id = %row.id, error = %error.message, "a member can't be described now");
                    return Ok(false);
                }
            }
        }
        let primary = topology.primary();
        outdated.sort_by_key(|m| Some(&m.node) == primary.as_ref());
        let Some(member) = outdated.first() else { return Ok(false) };
        let others_are_well = status
            .members
            .iter()
            .filter(|m| m.node != member.node)
            .all(|m| m.container.is_some() && topology.of(&m.node).is_some_and(|t| t.is_well()));
        if !others_are_well {
            return Ok(false);
        }
        if primary.as_ref() == Some(&member.node) && status.members.len() > 1 {
            self.ask_members(row, primary.as_ref(), &["switchover"], WORK).await?;
            return Ok(true);
        }
        let (node, number) = (member.node.clone(), member.number);
        let reason = format!(
            "the member on {} is made anew: what it is made of has changed",
            self.nodes.name(&node)
        );
        self.change_database(&row.id, |status| {
            status.members.iter_mut().find(|m| m.number == number)?.replacing = true;
            Some(vec![NewClusterEvent {
                member: Some(node.to_string()),
                ..event(&row.id, ClusterEventKind::Updated, reason)
            }])
        })
        .await?;
        Ok(true)
    }

    /// Gives members the parameters that are asked for now. Says whether something was done.
    pub(super) async fn configure(&self, row: &ClusterRow) -> ApiResult<bool> {
        let (text, known) = configuration(row, self.is_backed_up(row));
        if row.state.database.configured.as_ref() == Some(&known) {
            return Ok(false);
        }
        let primary = row.state.database.primary.clone();
        self.ask_members(row, primary.as_ref(), &["configure", &text], WORK).await?;
        self.change_database(&row.id, |status| {
            status.configured = Some(known);
            Some(Vec::new())
        })
        .await?;
        Ok(true)
    }

    /// Restarts one member whose changed parameters wait for that: replicas first, the primary after it has handed over. Says
    /// whether something was done.
    async fn restart(&self, row: &ClusterRow, topology: &Topology) -> ApiResult<bool> {
        let waits = |primary: bool| {
            let of = move |t: &&super::look::Told| t.pending_restart && (t.role == DatabaseRole::Primary) == primary;
            topology.members.iter().find(of)
        };
        if let Some(replica) = waits(false) {
            self.ask_members(row, None, &["restart", &replica.name], WORK).await?;
            return Ok(true);
        }
        let Some(primary) = waits(true) else { return Ok(false) };
        let follows = topology.members.iter().any(|t| t.role != DatabaseRole::Primary && t.is_well());
        let words: &[&str] = if follows { &["switchover"] } else { &["restart", &primary.name] };
        self.ask_members(row, None, words, WORK).await?;
        Ok(true)
    }

    /// Before a cluster goes, so do its members' containers. Their volumes stay.
    pub(in crate::service::clusters) async fn remove_members(&self, row: &ClusterRow) -> ApiResult<()> {
        for member in &row.state.database.members {
            let mut member = member.clone();
            if member.container.is_none() && !member.made_of.is_empty() {
                // It may be on its way: asking again tells who it is. One that can't be made is not there.
                let made = async {
                    let plan = self.plan_member(row, &row.state.database, &member)?;
                    self.make_member(row, &member, self.member_spec(row, &member, plan)?).await
                };
                member.container = match made.await {
                    Ok(Made::Done(id)) => Some(id),
                    Ok(Made::GoesOn(id)) => id,
                    Err(_) => None,
                };
            }
            if self.nodes.knows(&member.node) {
                self.kill_member(&member).await?;
            }
        }
        Ok(())
    }

    async fn kill_member(&self, member: &DatabaseMember) -> ApiResult<()> {
        let Some(id) = &member.container else { return Ok(()) };
        match self
            .containers
            .remove(&Actor::system(), &Meta::internal(), id.as_str(), true, false)
            .await
        {
            Ok(_) => Ok(()),
            Err(error) if error.status == StatusCode::NOT_FOUND => Ok(()),
            Err(error) => Err(error),
        }
    }
}
