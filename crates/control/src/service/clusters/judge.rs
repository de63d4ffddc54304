//! Whether what is asked of a cluster can be, and what follows from it: whose ids its servers are, who carries its entry, and on
//! which port.

use super::database::{DatabaseSecrets, MemberPorts, StoredDatabase};
use super::rows::{ClusterRow, ClusterSecrets, StoredCluster};
use super::{Clusters, tls};
use crate::api::error::{ApiError, ApiResult};
use crate::service::auth::Actor;
use crate::service::privileges;
use crate::service::servers::ServerKey;
use axum::http::StatusCode;
use nm_plan::cluster::{Claim, EntryCandidate, KeyPair, Target, choose_entries, clash, free_port, reach};
use nm_types::auth::Role;
use nm_types::cluster::{ClusterProtocol, ClusterSpec, ClusterType, ServerTemplate};
use nm_types::container::Protocol;
use nm_types::envelope::FieldProblem;
use nm_types::units::Port;
use nm_types::{ClusterId, NodeId};
use std::collections::BTreeSet;

/// What is to be written.
pub struct Judged {
    pub stored: StoredCluster,
    pub secrets: ClusterSecrets,
}

fn clashing(field: impl Into<String>, message: impl Into<String>) -> ApiError {
    at_odds(vec![FieldProblem {
        field: field.into(),
        message: message.into(),
    }])
}

/// 422, not 409 as elsewhere: here all that is named was found before (ADR 0009).
pub(super) fn at_odds(problems: Vec<FieldProblem>) -> ApiError {
    ApiError {
        status: StatusCode::UNPROCESSABLE_ENTITY,
        ..ApiError::clashing_fields(problems)
    }
}

impl Clusters {
    /// `old` is what the cluster was before, where it was. Hold `changing` until it is written.
    pub(super) async fn judge(&self, actor: &Actor, id: &ClusterId, mut spec: ClusterSpec, old: Option<&ClusterRow>) -> ApiResult<Judged> {
        let overlong = spec.overlong();
        if !overlong.is_empty() {
            return Err(ApiError::invalid_fields(overlong));
        }
        let is_database = spec.kind == ClusterType::Database;
        if is_database {
            spec.protocol = ClusterProtocol::Tcp;
        }
        let mut problems = spec.problems();
        problems.extend(old.map(|old| unchangeable(&spec, &old.stored.spec)).unwrap_or_default());
        self.may_ask(actor, &spec, old)?;
        let members = self.resolve_members(actor, &mut spec, old).await?;
        if !problems.is_empty() {
            return Err(at_odds(problems));
        }
        if let Some(acme) = spec.tls.as_ref().and_then(|tls| tls.acme.as_ref()) {
            self.judge_acme(acme, old).await?;
        }
        let mut secrets = self.certificate(&spec, old)?;
        let split = ClusterSecrets::split(&mut spec);
        secrets.key = secrets.key.or(split.key);
        secrets.environment = split.environment;
        secrets.external_key = split.external_key;
        let mut stored = StoredCluster {
            spec,
            listen_port: 0,
            members,
            entries: Vec::new(),
            router_id: None,
            database: None,
        };
        if stored.spec.kind == ClusterType::Compute {
            return Ok(Judged { stored, secrets });
        }
        stored.entries = self.entries(&stored, old)?;
        if is_database {
            secrets.database = match old.and_then(|old| old.secrets.database.clone()) {
                Some(known) => Some(known),
                None => Some(DatabaseSecrets::make(id.as_str(), self.clock.now())?),
            };
            self.database_ports(id, &mut stored, old)?;
        }
        stored.listen_port = self.port(id, &stored, old)?;
        stored.router_id = self.router_id(id, &stored.spec, old)?;
        Ok(Judged { stored, secrets })
    }

    /// What takes more than to be an operator of clusters.
    fn may_ask(&self, actor: &Actor, spec: &ClusterSpec, old: Option<&ClusterRow>) -> ApiResult<()> {
        let before = old.map(ClusterRow::whole_spec);
        let shared_before = before.as_ref().and_then(|b| b.virtual_address.as_ref());
        if spec.virtual_address.is_some() && spec.virtual_address.as_ref() != shared_before && !actor.may(Role::Admin, "nodes", true) {
            return Err(ApiError::forbidden(
                "a virtual address has nodes answer for an address of their network: that takes the role admin, and the scope nodes:write",
            )
            .field("virtualAddress"));
        }
        if spec.kind == ClusterType::Compute {
            return Ok(());
        }
        let template_before = before.as_ref().and_then(|b| b.server_template.as_ref());
        let scaling = |spec: &ClusterSpec| spec.auto_scaling.as_ref().is_some_and(|s| s.enabled);
        let new_template = spec.server_template.is_some() && spec.server_template.as_ref() != template_before;
        let begins = scaling(spec) && !before.as_ref().is_some_and(scaling);
        if (new_template || begins) && !actor.may(Role::Operator, "containers", true) {
            let field = if new_template { "serverTemplate" } else { "autoScaling" };
            return Err(ApiError::forbidden("scaling makes containers: that takes the scope containers:write").field(field));
        }
        if new_template && let Some(ServerTemplate::Container(container)) = &spec.server_template {
            privileges::may_ask(actor, container).map_err(|mut error| {
                for detail in &mut error.details {
                    detail.field = format!("serverTemplate.container.{}", detail.field);
                }
                error
            })?;
        }
        Ok(())
    }

    /// The ports of a database: of its entries, and of its members on their nodes. What was given once stays.
    fn database_ports(&self, id: &ClusterId, stored: &mut StoredCluster, old: Option<&ClusterRow>) -> ApiResult<()> {
        let before = old.and_then(|old| old.stored.database.clone());
        let asked = stored.spec.database();
        let mut taken = self.all_ports(id, &stored.members);
        taken.extend(stored.spec.listen_port.map(|p| p.get()));
        taken.extend(asked.read_only_port.map(|p| p.get()));
        taken.extend(old.map(|old| old.stored.listen_port));
        taken.extend(before.iter().flat_map(|b| b.ports.all()));
        let mut give = || {
            let port = free_port(&taken).ok_or_else(|| {
                ApiError::conflict(
                    "no_free_port",
                    "every port that is given by itself is taken: remove a cluster first",
                )
                .field("database")
            })?;
            taken.insert(port);
            Ok::<u16, ApiError>(port)
        };
        // The first one that is free is the entry's own, where none is named.
        if stored.spec.listen_port.is_none() && old.is_none() {
            give()?;
        }
        let read_only_port = match asked.read_only_port.map(|p| p.get()).or(before.as_ref().map(|b| b.read_only_port)) {
            Some(port) => port,
            None => give()?,
        };
        let before_origin = before.as_ref().and_then(|b| b.origin.clone());
        let ports = match before {
            Some(before) => before.ports,
            None => MemberPorts {
                postgres: give()?,
                patroni: give()?,
                etcd_client: give()?,
                etcd_peer: give()?,
                check: give()?,
                pooler: give()?,
            },
        };
        stored.database = Some(StoredDatabase {
            read_only_port,
            ports,
            origin: before_origin,
        });
        // It stays what it is now, like a name.
        let database = stored.spec.database.get_or_insert_default();
        database.read_only_port = Port::new(read_only_port);
        Ok(())
    }

    /// Every port that is taken on any node that matters: by entries, by containers, by members of databases.
    fn all_ports(&self, but: &ClusterId, members: &[String]) -> BTreeSet<u16> {
        let mut taken = BTreeSet::new();
        let mut nodes: Vec<NodeId> = members.iter().filter_map(|id| NodeId::parse(id).ok()).collect();
        for row in self.all().iter().filter(|row| row.id != *but) {
            let claims = Claim::of(&row.id, &row.stored.spec, row.stored.listen_port, &row.stored.entries);
            taken.extend(claims.iter().map(|c| c.port));
            taken.extend(row.stored.database.iter().flat_map(|d| d.ports.all()));
        }
        nodes.extend(self.nodes.ids());
        taken.extend(self.published(&nodes).iter().map(|(port, _)| *port));
        taken
    }

    /// The ids of the servers that are named; each once.
    async fn resolve_members(&self, actor: &Actor, spec: &mut ClusterSpec, old: Option<&ClusterRow>) -> ApiResult<Vec<String>> {
        let known = |named: &str| {
            let row = old?;
            row.named().find(|(_, e)| e.id.as_str() == named).map(|(id, _)| id.to_owned())
        };
        let (mut ids, mut kept) = (Vec::new(), Vec::new());
        for (i, server) in spec.servers.iter().enumerate() {
            let named = server.key().as_str();
            let id = match known(named) {
                Some(id) => id,
                None => {
                    let server = self
                        .servers
                        .resolve(named)
                        .await
                        .map_err(|e| ApiError { details: Vec::new(), ..e }.field(format!("servers[{i}]")))?;
                    let compute = spec.kind == ClusterType::Compute;
                    if compute && !matches!(server.key, ServerKey::Node(_)) {
                        return Err(clashing(
                            format!("servers[{i}]"),
                            format!("`{named}` is no node: a compute cluster is made of nodes"),
                        ));
                    }
                    if !compute && matches!(server.key, ServerKey::Node(_)) && !actor.may(Role::Admin, "nodes", true) {
                        return Err(ApiError::forbidden(
                            "a node as a server opens what listens on the machine itself: that takes the role admin, and the scope \
                             nodes:write",
                        )
                        .field(format!("servers[{i}]")));
                    }
                    if spec.kind == ClusterType::Database && !matches!(server.key, ServerKey::Node(_)) {
                        return Err(clashing(
                            format!("servers[{i}]"),
                            format!(
                                "`{named}` is no node: a database cluster makes its members itself, one on each of the nodes that are named"
                            ),
                        ));
                    }
                    server.key.to_string()
                }
            };
            if ids.contains(&id) {
                return Err(clashing(
                    format!("servers[{i}]"),
                    format!("`{named}` is {id}, which is named already"),
                ));
            }
            // One that scaling made stays what it is, also where somebody sends the list back as it was shown.
            if old.is_some_and(|row| row.scaled().any(|(container, _)| container.as_str() == id)) {
                continue;
            }
            ids.push(id);
            kept.push(server.clone());
        }
        if ids.is_empty() {
            return Err(clashing("servers", "name at least one server beside those that scaling made"));
        }
        spec.servers = kept;
        Ok(ids)
    }

    /// The pair that was uploaded, judged; or one that is made here, or was before for the same names. It is also shown until an
    /// ACME server has given one.
    fn certificate(&self, spec: &ClusterSpec, old: Option<&ClusterRow>) -> ApiResult<ClusterSecrets> {
        let Some(asked) = &spec.tls else {
            return Ok(ClusterSecrets::default());
        };
        if let (Some(certificate), Some(key)) = (&asked.certificate, &asked.key) {
            let pair = KeyPair {
                certificate: certificate.to_string(),
                key: key.expose().to_owned(),
            };
            tls::judge(&pair).map_err(|problem| at_odds(vec![problem]))?;
            return Ok(ClusterSecrets::default());
        }
        let before = old.filter(|row| {
            let tls = row.stored.spec.tls.as_ref();
            tls.is_some_and(|t| t.certificate.is_none() && t.server_names == asked.server_names) && row.secrets.certificate.is_some()
        });
        if let Some(row) = before {
            return Ok(ClusterSecrets {
                environment: None,
                ..row.secrets.clone()
            });
        }
        self.make_certificate(spec)
    }

    pub(super) fn make_certificate(&self, spec: &ClusterSpec) -> ApiResult<ClusterSecrets> {
        let names = spec.tls.as_ref().map(|t| t.server_names.as_slice()).unwrap_or_default();
        let made = tls::make(names, self.clock.now()).map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "a certificate could not be made");
            ApiError::internal()
        })?;
        Ok(ClusterSecrets {
            certificate: Some(made.certificate),
            key: Some(made.key),
            ..ClusterSecrets::default()
        })
    }

    /// The nodes that are named, or those that suit; what was chosen once stays.
    fn entries(&self, stored: &StoredCluster, old: Option<&ClusterRow>) -> ApiResult<Vec<NodeId>> {
        let spec = &stored.spec;
        if !spec.entry_nodes.is_empty() {
            let mut out = Vec::new();
            for (i, named) in spec.entry_nodes.iter().enumerate() {
                let node = self
                    .nodes
                    .find(named.as_str())
                    .map_err(|_| ApiError::not_found("node", named.as_str()).field(format!("entryNodes[{i}]")))?;
                if out.contains(&node) {
                    return Err(clashing(
                        format!("entryNodes[{i}]"),
                        format!("`{named}` is {node}, which is named already"),
                    ));
                }
                out.push(node);
            }
            return Ok(out);
        }
        let most = entries_wanted(spec);
        if spec.kind == ClusterType::Database {
            return Ok(self.choose_entries_for(stored, None));
        }
        let before = old.filter(|row| row.stored.spec.entry_nodes.is_empty() && entries_wanted(&row.stored.spec) == most);
        match before.map(|row| row.stored.entries.clone()) {
            Some(entries) if !entries.is_empty() && entries.iter().all(|n| self.nodes.knows(n)) => Ok(entries),
            Some(_) | None => Ok(self.choose_entries_for(stored, None)),
        }
    }

    /// Nodes that suit, but for one that leaves.
    pub(super) fn choose_entries_for(&self, stored: &StoredCluster, but: Option<&NodeId>) -> Vec<NodeId> {
        if stored.spec.kind == ClusterType::Database {
            // Its own nodes: where an entry is, there is a member, too.
            let nodes = stored.members.iter().filter_map(|id| NodeId::parse(id).ok());
            let there = nodes.filter(|n| Some(n) != but && self.nodes.knows(n));
            return there.take(entries_wanted(&stored.spec)).collect();
        }
        let addresses = self.addresses();
        let servers = stored.spec.servers.iter().map(|s| s.entry().port.map(|p| p.get()));
        let targets: Vec<(Target, Option<u16>)> = stored.members.iter().map(|id| self.target(id)).zip(servers).collect();
        let reaches = |node: &NodeId| {
            let can = |(target, port): &&(Target, Option<u16>)| match target {
                // The same from everywhere, as far as anybody here can tell.
                Target::Address { .. } | Target::Gone => true,
                Target::Container { .. } | Target::Node { .. } => reach(node, target, *port, &addresses).is_ok(),
            };
            targets.iter().filter(can).count()
        };
        let candidates = self
            .nodes
            .candidates()
            .into_iter()
            .filter(|c| Some(&c.node) != but)
            .map(|c| EntryCandidate {
                reaches: reaches(&c.node),
                ready: c.ready && !c.cordoned,
                node: c.node,
            });
        choose_entries(candidates.collect(), entries_wanted(&stored.spec))
    }

    /// The port that is named, the one it had, or one that is free.
    pub(super) fn port(&self, id: &ClusterId, stored: &StoredCluster, old: Option<&ClusterRow>) -> ApiResult<u16> {
        let others: Vec<Claim> = self
            .all()
            .iter()
            .filter(|row| row.id != *id)
            .flat_map(|row| Claim::of(&row.id, &row.stored.spec, row.stored.listen_port, &row.stored.entries))
            .collect();
        let published = self.published(&stored.entries);
        let asked = stored.spec.listen_port.map(|p| p.get());
        let port = match asked.or(old.map(|row| row.stored.listen_port)) {
            Some(port) => port,
            None => {
                let mut taken: BTreeSet<u16> = self.all_ports(id, &stored.members);
                taken.extend(
                    stored
                        .database
                        .iter()
                        .flat_map(|d| d.ports.all().into_iter().chain([d.read_only_port])),
                );
                taken.extend(others.iter().map(|c| c.port).chain(published.iter().map(|(p, _)| *p)));
                taken.extend(stored.spec.redirect_to_https.as_ref().map(|r| r.port()));
                free_port(&taken).ok_or_else(|| {
                    ApiError::conflict("no_free_port", "every port that is given by itself is taken: name one").field("listenPort")
                })?
            }
        };
        let own = Claim::of(id, &stored.spec, port, &stored.entries);
        for (n, claim) in own.iter().enumerate() {
            let field = match (n, &stored.database) {
                (0, _) => "listenPort",
                (_, Some(_)) => "database.readOnlyPort",
                (_, None) => "redirectToHttps.listenPort",
            };
            if let Some(message) = others.iter().find_map(|other| clash(claim, other)) {
                return Err(ApiError::conflict("port_in_use", message).field(field));
            }
            // What it listened on before is its own.
            let held = old.is_some_and(|row| {
                let before = Claim::of(id, &row.stored.spec, row.stored.listen_port, &row.stored.entries);
                before.iter().any(|c| c.port == claim.port) && row.stored.entries == stored.entries
            });
            if let Some((_, name)) = published.iter().find(|(p, _)| *p == claim.port && !held) {
                return Err(ApiError::conflict(
                    "port_in_use",
                    format!(
                        "container `{name}` publishes port {} on an entry node: choose another one",
                        claim.port
                    ),
                )
                .field(field));
            }
        }
        Ok(port)
    }

    /// What containers publish on these nodes, or are to.
    fn published(&self, nodes: &[NodeId]) -> Vec<(u16, String)> {
        let mut out = Vec::new();
        for record in nodes.iter().flat_map(|node| self.index.on_node(node)) {
            let wanted = record.wanted.spec.as_ref().map(|s| s.ports.as_slice()).unwrap_or_default();
            let seen = record.state.observed.as_ref().filter(|_| !record.state.missing);
            let seen = seen.map(|o| o.ports.as_slice()).unwrap_or_default();
            let tcp = wanted.iter().chain(seen).filter(|p| p.protocol == Protocol::Tcp && p.host != 0);
            out.extend(tcp.map(|p| (p.host, record.name().to_owned())));
        }
        out
    }

    /// The number that VRRP tells virtual addresses of one network apart by; the same for the same address.
    fn router_id(&self, id: &ClusterId, spec: &ClusterSpec, old: Option<&ClusterRow>) -> ApiResult<Option<u8>> {
        let Some(shared) = &spec.virtual_address else { return Ok(None) };
        let of = |row: &ClusterRow| Some((row.stored.spec.virtual_address.as_ref()?.address.ip(), row.stored.router_id?));
        let others: Vec<_> = self.all().iter().filter(|row| row.id != *id).filter_map(|row| of(row)).collect();
        if let Some((_, same)) = others.iter().find(|(ip, _)| *ip == shared.address.ip()) {
            return Ok(Some(*same));
        }
        let taken = |n: &u8| others.iter().any(|(_, other)| other == n);
        let own = old.and_then(of).map(|(_, n)| n).filter(|n| !taken(n));
        match own.or_else(|| (1..=255u8).find(|n| !taken(n))) {
            Some(n) => Ok(Some(n)),
            None => Err(ApiError::conflict(
                "limit_reached",
                "there are 255 virtual addresses already, the most that VRRP tells apart",
            )
            .field("virtualAddress")),
        }
    }
}

/// How many nodes are to carry an entry where nobody names them: two where one node lost is to be survived.
fn entries_wanted(spec: &ClusterSpec) -> usize {
    match spec.kind {
        // Clients know all of them, and try the next where one is lost.
        ClusterType::Database => spec.servers.len().clamp(1, 3),
        ClusterType::HighAvailability => 2,
        ClusterType::LoadBalanced if spec.virtual_address.is_some() => 2,
        ClusterType::LoadBalanced => 1,
        ClusterType::Compute => 0,
    }
}

/// What a cluster can't become.
fn unchangeable(new: &ClusterSpec, old: &ClusterSpec) -> Vec<FieldProblem> {
    let problem = |field: &str, message: &str| FieldProblem {
        field: field.into(),
        message: message.into(),
    };
    let of_its_own = |spec: &ClusterSpec| matches!(spec.kind, ClusterType::Database | ClusterType::Compute);
    if new.kind != old.kind && (of_its_own(new) || of_its_own(old)) {
        return vec![problem(
            "type",
            "what a compute or a database cluster has is of no use to one of another type: make another cluster",
        )];
    }
    if new.kind != ClusterType::Database {
        return Vec::new();
    }
    let (new, old) = (new.database(), old.database());
    let mut out = Vec::new();
    if new.name() != old.name() {
        out.push(problem(
            "database.name",
            "the database has its name since it was made: make another one by SQL, or another cluster",
        ));
    }
    if new.version != old.version {
        out.push(problem(
            "database.version",
            "another version of PostgreSQL can't read what this one wrote: make another cluster, and move the data by a dump",
        ));
    }
    out
}
