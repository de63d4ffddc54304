//! What users see of a database cluster, and what they ask of it.

use super::look::WORK;
use super::making::{ADMIN, APPLICATION};
use super::rows::{RestorePhase, StoredDatabase};
use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::Meta;
use crate::service::audit::audit;
use crate::service::auth::Actor;
use crate::service::clusters::view::Versioned;
use crate::service::clusters::{ClusterRow, Clusters};
use nm_types::cluster::{
    DatabaseConnections, DatabaseCredentials, DatabaseLogin, DatabaseMemberView, DatabaseState, DatabaseSwitchover, DatabaseView,
    POSTGRES_VERSION,
};
use nm_types::units::Bounded;
use serde_json::json;
use std::net::IpAddr;

/// Nodes that survive the loss of one: etcd needs most of its members.
const SURVIVES_FROM: usize = 3;

impl Clusters {
    pub(in crate::service::clusters) fn database_view(&self, row: &ClusterRow) -> Option<DatabaseView> {
        let stored = row.stored.database.as_ref()?;
        let (spec, status) = (row.stored.spec.database(), &row.state.database);
        let seen = self.seen_at(row);
        let topology = seen.as_ref().map(|(_, t)| t.as_ref());
        let state = match (&status.primary, status.failing) {
            (None, _) => DatabaseState::Creating,
            (Some(_), false) => DatabaseState::Ready,
            (Some(_), true) => DatabaseState::Failing,
        };
        let wanted = |node: &str| row.stored.members.iter().any(|id| id == node);
        let members: Vec<DatabaseMemberView> = status
            .members
            .iter()
            .map(|member| {
                let told = topology.and_then(|t| t.of(&member.node));
                let leaves = !wanted(member.node.as_str());
                let made = match (&member.container, &member.trouble) {
                    (Some(_), _) => None,
                    (None, Some(trouble)) => Some(trouble.clone()),
                    (None, None) => Some("its container is being made".to_owned()),
                };
                DatabaseMemberView {
                    server: member.node.to_string(),
                    name: self.nodes.name(&member.node),
                    container_id: member.container.clone(),
                    role: told.map(|t| t.role),
                    state: match told {
                        _ if leaves => "leaving".into(),
                        _ if made.is_some() => "creating".into(),
                        Some(told) => told.state.clone(),
                        None => "unknown".into(),
                    },
                    message: made,
                    timeline: told.and_then(|t| t.timeline),
                    lag_bytes: told.and_then(|t| t.lag_bytes),
                    lag_seconds: told.and_then(|t| t.lag_seconds),
                    pending_restart: told.is_some_and(|t| t.pending_restart),
                    etcd: status.etcd.iter().any(|e| e.node == member.node),
                }
            })
            .collect();
        let trouble = members
            .iter()
            .find_map(|m| Some(format!("node {}: {}", m.name, m.message.as_ref()?)));
        // What ended says why; until then what keeps a member from being made matters more.
        let failed = matches!(status.restore, Some(RestorePhase::Failed(_)));
        let trouble = trouble.filter(|_| !failed);
        let restoring = status.restore.as_ref().map(|phase| match phase {
            RestorePhase::Fetching => "what it is made of is brought from the backup to the first of its nodes".to_owned(),
            RestorePhase::Recovering => "its first member makes its data of the backup".to_owned(),
            RestorePhase::Failed(why) => format!("it could not be made of the backup: {why}. Remove the cluster, and restore again"),
        });
        let message = trouble.or(restoring).or_else(|| match state {
            DatabaseState::Creating => Some("its members start and choose who takes the writes".into()),
            DatabaseState::Failing => Some("no member takes writes now; a replica takes over as soon as one can".into()),
            DatabaseState::Ready => None,
        });
        let (hosts, ports) = (self.database_hosts(row), (row.stored.listen_port, stored.read_only_port));
        let strings = (state != DatabaseState::Creating).then(|| DatabaseConnections {
            read_write: url(APPLICATION, None, &hosts, ports.0, spec.name()),
            read_only: url(APPLICATION, None, &hosts, ports.1, spec.name()),
            direct: self.direct_url(row, stored, None, spec.name()),
        });
        Some(DatabaseView {
            state,
            message,
            version: spec.version.map_or(POSTGRES_VERSION, Bounded::get),
            name: spec.name().to_owned(),
            synchronous: spec.is_synchronous(),
            highly_available: status.etcd.len() >= SURVIVES_FROM && row.stored.members.len() >= SURVIVES_FROM,
            read_lag_limit: spec.read_lag_limit(),
            pool: spec.pool,
            cpu_limit: spec.cpu_limit,
            memory_limit: spec.memory_limit.clone(),
            image: spec.image.clone(),
            parameters: spec.parameters,
            extensions: spec.extensions,
            read_write_port: ports.0,
            read_only_port: ports.1,
            primary: topology.and_then(|t| t.primary()).map(|n| n.to_string()),
            timeline: topology.and_then(|t| t.timeline),
            members,
            slots: topology.map(|t| t.slots.clone()).unwrap_or_default(),
            connections: topology.and_then(|t| t.connections),
            max_connections: topology.and_then(|t| t.max_connections),
            archive: topology.and_then(|t| t.archive.clone()),
            restored_from: stored.origin.clone(),
            seen: seen.as_ref().map(|(at, _)| *at),
            connection_strings: strings,
        })
    }

    /// Where clients reach the entries: the shared address, or each entry node.
    fn database_hosts(&self, row: &ClusterRow) -> Vec<IpAddr> {
        if let Some(shared) = &row.stored.spec.virtual_address {
            return vec![shared.address.ip()];
        }
        let addresses = self.addresses();
        row.stored.entries.iter().filter_map(|node| addresses.get(node).copied()).collect()
    }

    /// Where clients reach the members themselves. That the one with the writes is asked for is libpq's word, which other drivers know, too.
    fn direct_url(&self, row: &ClusterRow, stored: &StoredDatabase, password: Option<&str>, database: &str) -> String {
        let addresses = self.addresses();
        let members = row.state.database.members.iter();
        let hosts: Vec<IpAddr> = members.filter_map(|m| addresses.get(&m.node).copied()).collect();
        let url = url(APPLICATION, password, &hosts, stored.ports.postgres, database);
        format!("{url}&target_session_attrs=read-write")
    }

    /// What it takes to sign in; whoever asks is written down.
    pub async fn database_credentials(&self, actor: &Actor, meta: &Meta, key: &str) -> ApiResult<DatabaseCredentials> {
        let row = self.find(key)?;
        Self::require_database(&row)?;
        let (stored, spec) = (Self::database_of(&row)?, row.stored.spec.database());
        let secrets = row.secrets.database.as_ref().ok_or_else(ApiError::internal)?;
        let mut tx = self.store.begin(self.clock.now()).await?;
        tx.audit(audit(actor, meta, "cluster.databaseCredentials", Some(row.id.as_str()), json!({})))
            .await?;
        tx.commit().await?;
        let hosts = self.database_hosts(&row);
        let of = |port| url(APPLICATION, Some(&secrets.application), &hosts, port, spec.name());
        let login = |user: &str, password: &str| DatabaseLogin {
            user: user.into(),
            password: password.into(),
        };
        Ok(DatabaseCredentials {
            database: spec.name().to_owned(),
            application: login(APPLICATION, &secrets.application),
            admin: login(ADMIN, &secrets.admin),
            certificate_authority: secrets.authority.clone(),
            read_write: of(row.stored.listen_port),
            read_only: of(stored.read_only_port),
            direct: self.direct_url(&row, stored, Some(&secrets.application), spec.name()),
        })
    }

    /// Has another member take the writes.
    pub async fn switch_over(&self, actor: &Actor, meta: &Meta, key: &str, how: &DatabaseSwitchover) -> ApiResult<Versioned> {
        let row = self.find(key)?;
        Self::require_database(&row)?;
        let to = match &how.to {
            Some(named) => Some(self.member_named(&row, named.as_str()).await.map_err(|e| e.field("to"))?),
            None => None,
        };
        let _one = self.scaling.hold(row.id.clone()).await;
        let topology = self.look(&row).await?;
        let Some(primary) = topology.primary() else {
            return Err(ApiError::conflict(
                "no_primary",
                "no member takes writes now: there is nobody who could hand over",
            ));
        };
        if to.as_deref() == Some(primary.as_str()) {
            return Err(ApiError::conflict("is_primary", format!("{} takes the writes already", self.nodes.name(&primary))).field("to"));
        }
        if topology.members.len() < 2 {
            return Err(ApiError::conflict(
                "no_replica",
                "there is no other member that could take the writes: add one to `servers`",
            ));
        }
        let mut words = vec!["switchover"];
        words.extend(to.as_deref());
        self.ask_members(&row, Some(&primary), &words, WORK).await?;
        let mut tx = self.store.begin(self.clock.now()).await?;
        tx.audit(audit(actor, meta, "cluster.switchover", Some(row.id.as_str()), json!({ "to": to })))
            .await?;
        tx.commit().await?;
        let topology = self.look(&row).await?;
        self.note_topology(&row, &topology).await?;
        self.ask_entries(&row.id).await;
        self.get(row.id.as_str())
    }
}

/// An address for libpq, which tries the hosts in turn.
fn url(user: &str, password: Option<&str>, hosts: &[IpAddr], port: u16, database: &str) -> String {
    let hosts: Vec<String> = hosts
        .iter()
        .map(|ip| match ip {
            IpAddr::V4(ip) => format!("{ip}:{port}"),
            IpAddr::V6(ip) => format!("[{ip}]:{port}"),
        })
        .collect();
    let password = password.map(|p| format!(":{p}")).unwrap_or_default();
    format!("postgresql://{user}{password}@{}/{database}?sslmode=verify-ca", hosts.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_for_clients_name_every_entry() {
        let hosts = ["10.0.0.1".parse().unwrap(), "fd00::2".parse().unwrap()];
        assert_eq!(
            url("app", Some("pw"), &hosts, 30000, "shop"),
            "postgresql://app:pw@10.0.0.1:30000,[fd00::2]:30000/shop?sslmode=verify-ca"
        );
        assert_eq!(
            url("app", None, &hosts[..1], 1, "a"),
            "postgresql://app@10.0.0.1:1/a?sslmode=verify-ca"
        );
    }
}
