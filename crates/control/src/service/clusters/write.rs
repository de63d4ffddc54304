//! Clusters as users make, change and remove them.

use super::database::RestorePhase;
use super::judge::Judged;
use super::rows::{ClusterState, ScaledPhase};
use super::seen::event;
use super::view::Versioned;
use super::{ClusterRow, Clusters, tls};
use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::{Meta, parse_json};
use crate::service::audit::audit;
use crate::service::auth::Actor;
use crate::service::idempotency;
use crate::service::refusals::{if_match, not_an_id};
use nm_store::{Kind, NewResource, Patch, StoreError, Tx};
use nm_types::cluster::{
    ClusterEventKind, ClusterServer, ClusterServerKey, ClusterSpec, ClusterUpdate, DatabaseOrigin, NewClusterServers, SERVERS_AT_MOST,
};
use nm_types::envelope::FieldProblem;
use nm_types::text::Title;
use nm_types::{ClusterId, NodeId};
use serde_json::json;
use std::time::Duration;

/// The most clusters there may be.
const MOST: i64 = 500;
/// How long an answer waits for the entry nodes to take what was asked for.
const TAKE: Duration = Duration::from_secs(3);

pub(super) fn name_taken(name: &Title) -> ApiError {
    let text = format!("there is a cluster `{name}` already: choose another name, or change that one");
    ApiError::conflict("name_taken", text).field("name")
}

fn taken(error: StoreError, name: &Title) -> ApiError {
    match error {
        StoreError::Conflict { .. } => name_taken(name),
        other => other.into(),
    }
}

/// What the log of who did what holds of a cluster: no certificate, no key, no variable.
fn detail(judged: &Judged) -> serde_json::Value {
    let spec = &judged.stored.spec;
    json!({
        "name": spec.name, "type": spec.kind, "servers": judged.stored.members, "listenPort": judged.stored.listen_port,
        "entryNodes": judged.stored.entries, "autoScaling": spec.auto_scaling, "virtualAddress": spec.virtual_address,
    })
}

/// Reads what a change makes of the whole. What is missing in it was taken away, or has no other half: each field alone is right.
fn read_merged(document: &serde_json::Value) -> ApiResult<ClusterSpec> {
    let bytes = serde_json::to_vec(document).map_err(|_| ApiError::internal())?;
    parse_json(&bytes).map_err(|error| {
        let missing = error.details.iter().all(|d| d.message.starts_with("missing field")) && !error.details.is_empty();
        if missing { super::judge::at_odds(error.details) } else { error }
    })
}

impl Clusters {
    /// `body` is the request's, to tell a repeated one from another.
    pub async fn create(&self, actor: &Actor, meta: &Meta, spec: ClusterSpec, body: &[u8]) -> ApiResult<Versioned> {
        self.create_of(actor, meta, spec, body, None).await
    }

    /// `origin`: the backup that a database is made of.
    pub(super) async fn create_of(
        &self,
        actor: &Actor,
        meta: &Meta,
        spec: ClusterSpec,
        body: &[u8],
        origin: Option<DatabaseOrigin>,
    ) -> ApiResult<Versioned> {
        not_an_id(&spec.name, ClusterId::PREFIX)?;
        let changing = self.changing.lock().await;
        let now = self.clock.now();
        let id = ClusterId::fresh(now.0);
        let key = meta.idempotency_key.as_deref();
        if key.is_some() {
            // Before anything is judged: what was right the first time may not be now, for it was done.
            let mut tx = self.store.begin(now).await?;
            let done: Option<ClusterId> = idempotency::answered(&mut tx, actor, key, || self.fingerprints.of(meta, &[body])).await?;
            if let Some(done) = done {
                drop((tx, changing));
                return self.get(done.as_str());
            }
        }
        let mut judged = self.judge(actor, &id, spec, None).await?;
        let mut state = ClusterState::default();
        if let Some(database) = judged.stored.database.as_mut().filter(|_| origin.is_some()) {
            database.origin = origin;
            state.database.restore = Some(RestorePhase::Fetching);
        }
        let mut tx = self.store.begin(now).await?;
        let done: Option<ClusterId> = idempotency::answered(&mut tx, actor, key, || self.fingerprints.of(meta, &[body])).await?;
        if let Some(done) = done {
            drop((tx, changing));
            return self.get(done.as_str());
        }
        if tx.count(Kind::Cluster, None).await? >= MOST {
            return Err(ApiError::conflict(
                "limit_reached",
                format!("there are {MOST} clusters already: remove one first"),
            ));
        }
        let name = judged.stored.spec.name.clone();
        let mut row = NewResource::new(Kind::Cluster, id.as_str())
            .uniquely_named(name.as_str())
            .spec(&judged.stored)?
            .status(&state)?;
        if let Some(secret) = judged.secrets.seal()? {
            row = row.secret(secret);
        }
        let row = tx.insert(row).await.map_err(|e| taken(e, &name))?;
        let mut created = event(&id, ClusterEventKind::Created, format!("it was made by {}", actor.label()));
        created.at = now;
        tx.cluster_event(&created).await?;
        tx.audit(audit(actor, meta, "cluster.create", Some(id.as_str()), detail(&judged)))
            .await?;
        idempotency::keep(&mut tx, actor, key, &id).await?;
        tx.commit().await?;
        self.learn(ClusterRow::read(&self.store, &row).await?);
        drop(changing);
        self.taken_over(&id).await;
        self.get(id.as_str())
    }

    /// Merges a change into what was asked for. What is not sent stays, whatever became of the servers it names.
    pub async fn update(&self, actor: &Actor, meta: &Meta, key: &str, change: ClusterUpdate) -> ApiResult<Versioned> {
        let fields = change.fields();
        let reason = if fields.is_empty() {
            "nothing was changed".to_owned()
        } else {
            format!("{} changed {}", actor.label(), fields.join(", "))
        };
        self.rewrite(actor, meta, key, "cluster.update", reason, |row| {
            read_merged(&change.applied_to(row.document()?))
        })
        .await
    }

    /// Adds servers behind those that are there.
    pub async fn add_servers(&self, actor: &Actor, meta: &Meta, key: &str, new: NewClusterServers) -> ApiResult<Versioned> {
        if new.servers.is_empty() || new.servers.len() > SERVERS_AT_MOST {
            return Err(ApiError::invalid("servers", format!("has 1 to {SERVERS_AT_MOST} entries")));
        }
        let names: Vec<String> = new.servers.iter().map(|s| s.key().to_string()).collect();
        let reason = format!("{} added {}", actor.label(), names.join(", "));
        self.rewrite(actor, meta, key, "cluster.addServers", reason, |row| {
            let mut spec = row.whole_spec();
            let before = spec.servers.len();
            if before + new.servers.len() > SERVERS_AT_MOST {
                return Err(ApiError::conflict(
                    "limit_reached",
                    format!("a cluster has at most {SERVERS_AT_MOST} servers, and this one has {before}"),
                ));
            }
            spec.servers.extend(new.servers.iter().cloned());
            Ok(spec)
        })
        .await
        .map_err(|mut error| {
            // The request's own places are what its sender knows.
            let before = self.find(key).map_or(0, |row| row.stored.spec.servers.len());
            for detail in &mut error.details {
                let moved = moved_back(&detail.field, before);
                error.message = error.message.replace(&format!("`{}`", detail.field), &format!("`{moved}`"));
                detail.field = moved;
            }
            error
        })
    }

    /// Takes a server away: it gets nothing new from now on, and what it has in flight goes on to its end. One that scaling made is
    /// drained, and removed after that.
    pub async fn remove_server(&self, actor: &Actor, meta: &Meta, key: &str, server: &str) -> ApiResult<Versioned> {
        let row = self.find(key)?;
        let member = self.member_named(&row, server).await.map_err(|e| e.field("serverId"))?;
        if row.scaled().any(|(id, _)| id.as_str() == member) {
            return self.send_away(actor, meta, &row, &member).await;
        }
        let reason = format!("{} took {} away", actor.label(), self.name_of(&member));
        self.rewrite(actor, meta, key, "cluster.removeServer", reason, |row| {
            let mut spec = row.whole_spec();
            let ids: Vec<&str> = row.named().map(|(id, _)| id).collect();
            let left: Vec<ClusterServer> = ids
                .iter()
                .zip(&row.stored.spec.servers)
                .filter(|(id, _)| **id != member)
                .map(|(_, server)| server.clone())
                .collect();
            if left.is_empty() {
                return Err(ApiError::conflict(
                    "last_server",
                    "it is the cluster's last server that was named: add another one first, or remove the cluster",
                ));
            }
            spec.servers = left;
            Ok(spec)
        })
        .await
    }

    async fn send_away(&self, actor: &Actor, meta: &Meta, row: &ClusterRow, member: &str) -> ApiResult<Versioned> {
        let until = self.now().plus_millis(row.stored.spec.drain_millis());
        let (id, who) = (row.id.clone(), actor.label());
        let audit = audit(actor, meta, "cluster.removeServer", Some(id.as_str()), json!({ "server": member }));
        self.change_state_for(&id, Some(audit), |state| {
            let scaled = state
                .scaled
                .iter_mut()
                .find(|s| s.container.as_ref().is_some_and(|c| c.as_str() == member))?;
            if matches!(scaled.phase, ScaledPhase::Leaving { .. }) {
                return None;
            }
            scaled.phase = ScaledPhase::Leaving { until };
            let mut gone = event(
                &id,
                ClusterEventKind::MemberRemoved,
                format!("{who} took it away; scaling had made it"),
            );
            gone.member = Some(member.to_owned());
            Some(vec![gone])
        })
        .await?;
        self.taken_over(&row.id).await;
        self.get(row.id.as_str())
    }

    /// Writes what `change` makes of the whole, judged as a whole.
    async fn rewrite(
        &self,
        actor: &Actor,
        meta: &Meta,
        key: &str,
        action: &str,
        reason: String,
        change: impl FnOnce(&ClusterRow) -> ApiResult<ClusterSpec>,
    ) -> ApiResult<Versioned> {
        let id = self.find(key)?.id.clone();
        let changing = self.changing.lock().await;
        let held = self.store.get(Kind::Cluster, id.as_str()).await?;
        let held = held.ok_or_else(|| ApiError::not_found("cluster", key))?;
        if_match(&held, meta)?;
        let old = ClusterRow::read(&self.store, &held).await?;
        let spec = change(&old)?;
        let name = spec.name.clone();
        not_an_id(&name, ClusterId::PREFIX)?;
        let judged = self.judge(actor, &id, spec, Some(&old)).await?;
        let now = self.clock.now();
        let mut tx = self.store.begin(now).await?;
        // Only what is seen may have changed meanwhile, for whoever changes what is asked for holds `changing`; other replicas don't.
        let mut patch = Patch::new().spec(&judged.stored)?.if_generation(old.generation);
        if name.as_str() != held.name {
            patch = patch.name(name.as_str());
        }
        patch = patch.secret(judged.secrets.seal()?);
        let row = tx.update(Kind::Cluster, id.as_str(), patch).await.map_err(|e| taken(e, &name))?;
        self.tell_changes(&mut tx, &id, &old, &judged, reason).await?;
        tx.audit(audit(actor, meta, action, Some(id.as_str()), detail(&judged))).await?;
        tx.commit().await?;
        self.learn(ClusterRow::read(&self.store, &row).await?);
        drop(changing);
        self.taken_over(&id).await;
        self.get(id.as_str())
    }

    async fn tell_changes(&self, tx: &mut Tx, id: &ClusterId, old: &ClusterRow, new: &Judged, reason: String) -> ApiResult<()> {
        let now = self.clock.now();
        let mut events = vec![event(id, ClusterEventKind::Updated, reason.clone())];
        let (before, after) = (&old.stored.members, &new.stored.members);
        for (kind, list, others) in [
            (ClusterEventKind::MemberAdded, after, before),
            (ClusterEventKind::MemberRemoved, before, after),
        ] {
            for member in list.iter().filter(|m| !others.contains(m)) {
                let mut told = event(id, kind, reason.clone());
                told.member = Some(member.clone());
                events.push(told);
            }
        }
        for mut told in events {
            told.at = now;
            tx.cluster_event(&told).await?;
        }
        Ok(())
    }

    /// Removes a cluster; its servers stay, but for those that scaling made, which go first.
    pub async fn remove(&self, actor: &Actor, meta: &Meta, key: &str) -> ApiResult<Title> {
        let row = self.find(key)?;
        if let Some(held) = self.store.get(Kind::Cluster, row.id.as_str()).await? {
            if_match(&held, meta)?;
        }
        // Nothing more is made meanwhile, nor after.
        let _scaling = self.scaling.hold(row.id.clone()).await;
        let row = self.find(row.id.as_str())?;
        self.remove_scaled(&row).await?;
        self.remove_members(&row).await?;
        let _changing = self.changing.lock().await;
        let mut tx = self.store.begin(self.clock.now()).await?;
        let gone = tx.delete(Kind::Cluster, row.id.as_str()).await?;
        tx.cluster_forget(row.id.as_str()).await?;
        super::acme::forget(&mut tx, &row.id).await?;
        tx.audit(audit(
            actor,
            meta,
            "cluster.remove",
            Some(row.id.as_str()),
            json!({ "name": gone.name }),
        ))
        .await?;
        tx.commit().await?;
        self.unlearn(&row.id);
        self.wake.notify_one();
        Ok(row.stored.spec.name.clone())
    }

    /// Has nodes' documents made anew, and waits until the entry nodes that are connected carry the cluster as it is now, or for a
    /// moment at most: what it is then, the answer says.
    async fn taken_over(&self, id: &ClusterId) {
        if let Err(error) = self.assemble().await {
            tracing::warn!(cluster.id = %id, error = %error.message, "nodes' documents could not be made; trying again");
            self.wake.notify_one();
            return;
        }
        self.wake.notify_one();
        self.database_wake.notify_one();
        let mut changes = self.sights.changes();
        let taken = async {
            loop {
                changes.mark_unchanged();
                let Some(row) = self.row(id) else { return };
                let mut connected = row.stored.entries.iter().filter(|node| self.fleet.is_connected(node));
                if connected.all(|node| self.settled(node)) || changes.changed().await.is_err() {
                    return;
                }
            }
        };
        // What is not taken by then shows as a condition.
        let _in_time = tokio::time::timeout(TAKE, taken).await;
    }

    /// Makes another server the one that takes the traffic, and gives the cluster as it is then.
    pub async fn fail_over(&self, actor: &Actor, meta: &Meta, key: &str, server: Option<&str>) -> ApiResult<Versioned> {
        let id = self.failover(key, server).await?;
        let mut tx = self.store.begin(self.clock.now()).await?;
        tx.audit(audit(
            actor,
            meta,
            "cluster.failover",
            Some(id.as_str()),
            json!({ "server": server }),
        ))
        .await?;
        tx.commit().await?;
        self.ask_entries(&id).await;
        self.get(id.as_str())
    }

    /// A node is about to be taken out of the fleet: it gives its entries away, and its load balancer ends once its connections
    /// have. What it can't be told any more, or not in time, goes on there until its machine is off.
    pub async fn leave(&self, node: &NodeId) -> ApiResult<()> {
        if self.edges.wanted(node).is_none() {
            return Ok(());
        }
        self.rechoose_entries(node).await?;
        self.assemble().await?;
        self.wake.notify_one();
        let mut changes = self.sights.changes();
        let given_away = async {
            while self.fleet.is_connected(node) {
                changes.mark_unchanged();
                if self.settled(node) || changes.changed().await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(TAKE, given_away).await.is_err() {
            tracing::warn!(node.id = %node, "a node that leaves the fleet did not say in time that it carries nothing any more");
        }
        Ok(())
    }

    /// A node is no longer of the fleet: clusters whose entry is there alone get it elsewhere, also where it was asked for by name.
    pub(super) async fn rechoose_entries(&self, gone: &NodeId) -> ApiResult<()> {
        let _changing = self.changing.lock().await;
        for row in self.all().into_iter().filter(|r| r.stored.entries.contains(gone)) {
            let mut stored = row.stored.clone();
            stored.entries.retain(|n| n != gone);
            // A name that leads to no node would have every later change refused.
            let stays = |named: &ClusterServerKey| self.nodes.find(named.as_str()).is_ok_and(|n| n != *gone);
            stored.spec.entry_nodes.retain(stays);
            if stored.spec.entry_nodes.is_empty() {
                stored.entries = self.choose_entries_for(&stored, Some(gone));
                // What listens on its port there was there first.
                if self.port(&row.id, &stored, Some(&row)).is_err() {
                    stored.entries.clear();
                }
            }
            let now = self.clock.now();
            let mut tx = self.store.begin(now).await?;
            let patch = Patch::new().spec(&stored)?.if_generation(row.generation);
            let written = match tx.update(Kind::Cluster, row.id.as_str(), patch).await {
                Ok(written) => written,
                Err(StoreError::Stale { .. } | StoreError::NotFound { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            let mut told = event(
                &row.id,
                ClusterEventKind::Updated,
                format!("entry node {gone} is no longer of the fleet"),
            );
            told.at = now;
            tx.cluster_event(&told).await?;
            tx.commit().await?;
            self.learn(ClusterRow::read(&self.store, &written).await?);
        }
        Ok(())
    }

    /// Makes certificates anew that were made here and end soon.
    pub async fn renew_certificates(&self) -> ApiResult<()> {
        let _changing = self.changing.lock().await;
        let now = self.clock.now();
        let made_here = |row: &ClusterRow| row.stored.spec.tls.as_ref().is_some_and(|t| t.self_signed || t.acme.is_some());
        let ends = |row: &ClusterRow| row.expires.is_none_or(|e| e.since(now) < tls::RENEW_BEFORE_MS);
        for row in self.all().into_iter().filter(|r| made_here(r) && ends(r)) {
            let mut secrets = self.make_certificate(&row.stored.spec)?;
            secrets.environment = row.secrets.environment.clone();
            secrets.external_key = row.secrets.external_key.clone();
            let mut tx = self.store.begin(now).await?;
            let patch = Patch::new().secret(secrets.seal()?).if_generation(row.generation);
            let written = match tx.update(Kind::Cluster, row.id.as_str(), patch).await {
                Ok(written) => written,
                Err(StoreError::Stale { .. } | StoreError::NotFound { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            tx.commit().await?;
            tracing::info!(cluster.id = %row.id, "a cluster's own certificate was made anew");
            self.learn(ClusterRow::read(&self.store, &written).await?);
            self.wake.notify_one();
        }
        Ok(())
    }
}

/// `servers[5].port` of a list with five more before is `servers[0].port`.
fn moved_back(field: &str, before: usize) -> String {
    let moved = || {
        let rest = field.strip_prefix("servers[")?;
        let (n, rest) = rest.split_once(']')?;
        Some(format!("servers[{}]{rest}", n.parse::<usize>().ok()?.checked_sub(before)?))
    };
    moved().unwrap_or_else(|| field.to_owned())
}

/// What a patch that can't be is answered with.
pub fn bad_patch(field: String, message: String) -> ApiError {
    ApiError::invalid_fields(vec![FieldProblem { field, message }])
}
