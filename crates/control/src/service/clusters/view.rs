//! Clusters as the API shows them.

use super::edges::is_peer;
use super::seen::{MemberSight, Taken};
use super::{ClusterRow, Clusters, ScaledPhase};
use crate::api::error::{ApiError, ApiResult};
use crate::service::servers::ServerKey;
use nm_plan::cluster::{Addresses, Member, Sums, effective_check, reach};
use nm_types::cluster::{
    ClusterCondition, ClusterConditionKind, ClusterEntryView, ClusterEventKind, ClusterEventView, ClusterMemberState, ClusterMemberView,
    ClusterProtocol, ClusterStatus, ClusterType, ClusterView, DRAIN_TIME, DatabaseView, ServerTemplate,
};
use nm_types::server::ServerKind;
use nm_types::units::Bounded;
use nm_types::{NodeId, Timestamp};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// A cluster, and the revision that `If-Match` can name.
pub type Versioned = (ClusterView, i64);

impl Clusters {
    /// In the order of their ids.
    pub fn list(&self) -> Vec<ClusterView> {
        self.all().iter().map(|row| self.view(row)).collect()
    }

    /// All of them, each with what was counted.
    pub fn counts(&self) -> Vec<(ClusterView, Sums)> {
        let counted = |row: &Arc<ClusterRow>| (self.view(row), self.figures.of(&row.id));
        self.all().iter().map(counted).collect()
    }

    /// By id or name.
    pub fn get(&self, key: &str) -> ApiResult<Versioned> {
        let row = self.find(key)?;
        Ok((self.view(&row), row.revision))
    }

    pub(super) fn view(&self, row: &ClusterRow) -> ClusterView {
        let (spec, addresses) = (&row.stored.spec, self.addresses());
        let members = self.members(row);
        let sights = self.member_sights(row, &members, &addresses);
        let (figures, by_member) = self.cluster_figures(&row.id);
        let recent = self.figures.recent(&row.id, self.now());
        let entries = self.entry_views(row, &addresses);
        let endpoints = endpoints(row, &entries);
        let database = self.database_view(row);
        let active = self.leading(row).and_then(|(_, sight)| sight.of(&row.id)?.active_member.clone());
        let failback = (spec.kind == ClusterType::HighAvailability).then(|| spec.failback.unwrap_or_default());
        let member_views = members.iter().zip(&sights).map(|(member, sight)| ClusterMemberView {
            metrics: by_member.get(&member.id).map(|s| s.figures()).unwrap_or_default(),
            recent: recent.as_ref().and_then(|r| r.members.get(&member.id).copied()),
            ..self.member_view(row, member, sight)
        });
        // Those that are on their way show where they stand.
        let coming = row
            .state
            .scaled
            .iter()
            .filter(|s| s.phase == ScaledPhase::Starting)
            .map(|s| ClusterMemberView {
                id: s.container.as_ref().map(ToString::to_string).unwrap_or_default(),
                name: s
                    .container
                    .as_ref()
                    .map_or_else(|| format!("#{}", s.number), |id| self.name_of(id.as_str())),
                kind: ServerKind::Container,
                address: None,
                port: None,
                weight: 1,
                backup: false,
                state: ClusterMemberState::Starting,
                reason: "scaling has it made".into(),
                since: Some(s.since),
                in_flight: 0,
                scaled: true,
                metrics: Default::default(),
                recent: None,
            });
        ClusterView {
            id: row.id.clone(),
            name: spec.name.clone(),
            kind: spec.kind,
            status: self.status_of(row).or(row.state.status).unwrap_or(ClusterStatus::Offline),
            servers: spec
                .servers
                .iter()
                .map(|s| s.key().to_string())
                .chain(row.scaled().map(|(id, _)| id.to_string()))
                .collect(),
            metrics: figures,
            recent: recent.as_ref().map(|r| r.cluster),
            endpoint: endpoints.first().cloned(),
            endpoints,
            protocol: spec.protocol,
            listen_port: row.stored.listen_port,
            members: member_views.chain(coming).collect(),
            active_member: active,
            conditions: self.conditions(row, &members, &sights, &entries, &addresses, database.as_ref()),
            entry_nodes: entries,
            load_balancer: spec.load_balancer,
            health_check: effective_check(spec),
            auto_scaling: spec.auto_scaling.clone(),
            scaling: self.last_decision(row),
            sticky: spec.sticky.clone(),
            tls: spec.tls.as_ref().map(|tls| self.tls_view(row, tls)),
            redirect_to_https: spec.redirect_to_https.clone(),
            routes: spec.routes.clone(),
            virtual_address: spec.virtual_address.clone(),
            entry: spec.entry.clone(),
            upstream: spec.upstream.clone(),
            failback,
            retries: spec.retries.map_or(2, Bounded::get),
            slow_start: spec.slow_start.map_or(0, Bounded::get),
            drain_time: spec.drain_time.map_or(DRAIN_TIME, Bounded::get),
            server_template: spec.server_template.as_ref().map(|template| {
                let ServerTemplate::Container(container) = template;
                let mut shown = container.clone();
                // Masked also for those who may see secrets elsewhere: this is no place to read them from.
                shown.environment = row.secrets.environment.as_ref().map(|e| e.masked()).unwrap_or_default();
                ServerTemplate::Container(shown)
            }),
            database,
            created: row.created,
            updated: row.updated,
            generation: row.generation,
        }
    }

    fn member_view(&self, row: &ClusterRow, member: &Member, sight: &MemberSight) -> ClusterMemberView {
        let kind = ServerKey::parse(&member.id).map_or(ServerKind::Address, |key| key.kind());
        ClusterMemberView {
            id: member.id.clone(),
            name: self.name_of(&member.id),
            kind,
            address: sight.address.clone(),
            port: member.port,
            weight: i64::from(member.weight),
            backup: member.backup,
            state: sight.state,
            reason: sight.reason.clone(),
            since: sight.since,
            in_flight: sight.in_flight,
            scaled: row.scaled().any(|(id, _)| id.as_str() == member.id),
            metrics: Default::default(),
            recent: None,
        }
    }

    fn entry_views(&self, row: &ClusterRow, addresses: &Addresses) -> Vec<ClusterEntryView> {
        let shared = row.stored.spec.virtual_address.as_ref().map(|v| v.address.ip());
        let view = |node: &NodeId| {
            let sight = self.sights.get(node);
            let state = sight.as_ref().and_then(|s| s.state.as_ref());
            let wanted = self.generation_of(node);
            ClusterEntryView {
                node_id: node.clone(),
                name: self.nodes.name(node),
                address: addresses.get(node).map(ToString::to_string),
                connected: self.fleet.is_connected(node),
                carries: state.and_then(|s| s.generation),
                wanted,
                problem: sight.as_ref().and_then(|s| s.problem.clone()).or_else(|| state?.problem.clone()),
                current: matches!(self.taken(node), Taken::Carried { runs: true }) && !self.edges.is_taken(node, row.stored.listen_port),
                holds_virtual_address: shared.map(|ip| {
                    let held = state.map(|s| s.virtual_addresses.as_slice()).unwrap_or_default();
                    held.iter().any(|v| v.address == ip && v.held)
                }),
            }
        };
        row.stored.entries.iter().map(view).collect()
    }

    fn conditions(
        &self,
        row: &ClusterRow,
        members: &[Member],
        sights: &[MemberSight],
        entries: &[ClusterEntryView],
        addresses: &Addresses,
        database: Option<&DatabaseView>,
    ) -> Vec<ClusterCondition> {
        use ClusterConditionKind as K;
        let mut out = Vec::new();
        let mut say = |kind, about: Option<&str>, message: String| {
            out.push(ClusterCondition {
                kind,
                about: about.map(str::to_owned),
                message,
            });
        };
        if row.stored.spec.kind == ClusterType::Compute {
            for (member, sight) in members.iter().zip(sights).filter(|(_, s)| s.state != ClusterMemberState::Up) {
                say(
                    K::MemberUnreachable,
                    Some(&member.id),
                    format!("node {} takes no jobs: {}", self.name_of(&member.id), sight.reason),
                );
            }
            return out;
        }
        if entries.is_empty() {
            say(
                K::NoEntry,
                None,
                "the fleet has no node that could carry the entry: join one, or name one by `entryNodes`".into(),
            );
        }
        let redirect = row.stored.spec.redirect_to_https.as_ref().map(|r| r.port());
        let ports: Vec<u16> = std::iter::once(row.stored.listen_port).chain(redirect).collect();
        for entry in entries {
            let (id, name) = (entry.node_id.as_str(), &entry.name);
            if !entry.connected {
                say(
                    K::EntryOffline,
                    Some(id),
                    format!("entry node {name} is not connected: it goes on with what it was last given, as long as its machine runs"),
                );
            } else if let Some(port) = ports.iter().find(|port| self.edges.is_taken(&entry.node_id, **port)) {
                say(
                    K::EntryFailed,
                    Some(id),
                    format!(
                        "entry node {name} can't listen on port {port}, which another program there has: end that, or choose another \
                         port. It is tried again by itself"
                    ),
                );
            } else if let Some(problem) = &entry.problem {
                say(K::EntryFailed, Some(id), format!("entry node {name}: {problem}"));
            } else if !entry.current {
                say(
                    K::EntryBehind,
                    Some(id),
                    format!("entry node {name} has not taken the last change yet"),
                );
            }
        }
        for (member, sight) in members.iter().zip(sights) {
            let refused: Vec<(NodeId, String)> = row
                .stored
                .entries
                .iter()
                .filter_map(|node| Some((node.clone(), reach(node, &member.target, member.port, addresses).err()?)))
                .collect();
            let name = self.name_of(&member.id);
            match refused.as_slice() {
                [] => {}
                [(_, why), ..] if sight.state == ClusterMemberState::Unreachable || refused.len() == row.stored.entries.len() => {
                    say(K::MemberUnreachable, Some(&member.id), format!("server {name}: {why}"));
                }
                some => {
                    for (node, why) in some {
                        let node = self.nodes.name(node);
                        say(
                            K::MemberUnreachable,
                            Some(&member.id),
                            format!("server {name}, from entry node {node}: {why}"),
                        );
                    }
                }
            }
        }
        self.doubled(row, members, addresses, &mut say);
        if let Some(shared) = row.stored.spec.virtual_address.as_ref().filter(|_| row.stored.entries.len() > 1) {
            let shared = shared.address.ip();
            let by = if shared.is_ipv4() { "IPv4" } else { "IPv6" };
            let hidden = |node: &&NodeId| addresses.get(*node).is_none_or(|ip| !is_peer(*ip, shared));
            for node in row.stored.entries.iter().filter(hidden) {
                let name = self.nodes.name(node);
                say(
                    K::VirtualAddress,
                    Some(node.as_str()),
                    format!(
                        "the virtual address is not shared: where other nodes reach entry node {name} by {by} is not known. Give it a label `address`"
                    ),
                );
            }
        }
        if let Some(database) = database {
            if !database.highly_available {
                say(
                    K::NotHighlyAvailable,
                    None,
                    "fewer than three nodes do not survive the loss of one: the members can't agree on who takes the writes without most \
                     of them. Add nodes to `servers`"
                        .into(),
                );
            }
            if let Some(message) = &database.message {
                say(K::Database, None, message.clone());
            }
        }
        if let Some(reason) = &row.state.cannot_scale {
            say(K::CannotScale, None, reason.clone());
        }
        if let Some(trouble) = self.certificate_trouble(row) {
            say(K::Certificate, None, trouble);
        }
        out
    }

    /// Servers that are one to an entry, for they are at the same address and port.
    fn doubled(
        &self,
        row: &ClusterRow,
        members: &[Member],
        addresses: &Addresses,
        say: &mut impl FnMut(ClusterConditionKind, Option<&str>, String),
    ) {
        let Some(first) = row.stored.entries.first() else { return };
        let mut seen: Vec<(SocketAddr, &str)> = Vec::new();
        for member in members {
            let Ok(socket) = reach(first, &member.target, member.port, addresses) else {
                continue;
            };
            match seen.iter().find(|(other, _)| *other == socket) {
                Some((_, other)) => say(
                    ClusterConditionKind::MemberUnreachable,
                    Some(&member.id),
                    format!(
                        "server {} is at {socket}, and so is {}: it gets no traffic of its own",
                        member.id, other
                    ),
                ),
                None => seen.push((socket, &member.id)),
            }
        }
    }

    /// Newest first, from before number `before` on.
    pub async fn events(&self, key: &str, before: Option<i64>, limit: u32) -> ApiResult<(Vec<ClusterEventView>, Option<i64>)> {
        let row = self.find(key)?;
        let mut rows = self
            .store
            .cluster_events(row.id.as_str(), before.unwrap_or(i64::MAX), limit.saturating_add(1))
            .await?;
        let more = rows.len() > limit as usize;
        rows.truncate(limit as usize);
        let next = rows.last().filter(|_| more).map(|r| r.sequence);
        let views = rows.into_iter().map(|row| {
            let kind = ClusterEventKind::parse(&row.event.kind).ok_or_else(|| {
                tracing::error!(kind = row.event.kind, "an event of the store is of a kind there is none of");
                ApiError::internal()
            })?;
            Ok(ClusterEventView {
                sequence: row.sequence,
                at: row.event.at,
                kind,
                member: row.event.member,
                node_id: row.event.node.and_then(|n| NodeId::parse(&n).ok()),
                reason: row.event.reason,
                detail: row.event.detail.and_then(|d| serde_json::from_str(&d).ok()),
            })
        });
        Ok((views.collect::<ApiResult<Vec<_>>>()?, next))
    }

    /// When something was last heard of any entry; for tests and those who wait.
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

/// Where a cluster is reached, the virtual address first.
fn endpoints(row: &ClusterRow, entries: &[ClusterEntryView]) -> Vec<String> {
    let spec = &row.stored.spec;
    let scheme = match (spec.protocol, spec.tls.is_some()) {
        (ClusterProtocol::Tcp, _) => "tcp",
        (ClusterProtocol::Http, true) => "https",
        (ClusterProtocol::Http, false) => "http",
    };
    let shared = spec.virtual_address.as_ref().map(|v| v.address.ip());
    let own = entries.iter().filter_map(|e| e.address.as_ref()?.parse::<IpAddr>().ok());
    shared
        .into_iter()
        .chain(own)
        .map(|ip| format!("{scheme}://{}", SocketAddr::new(ip, row.stored.listen_port)))
        .collect()
}
