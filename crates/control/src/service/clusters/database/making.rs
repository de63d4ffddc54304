//! The containers that a database cluster's members are.

use super::rows::{DatabaseMember, DatabaseStatus, MemberPorts, RENEW_AFTER_MS, StoredDatabase};
use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::Meta;
use crate::service::auth::Actor;
use crate::service::clusters::{ClusterRow, Clusters};
use crate::service::containers::Created;
use nm_link::contract::built_in;
use nm_types::container::{ContainerSpec, PortMapping, Protocol, RestartPolicy, VolumeMount};
use nm_types::text::{ContainerName, ImageRef};
use nm_types::{ContainerId, NodeId};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::net::IpAddr;

/// Where members keep everything, in their containers.
const DATA: &str = "/var/lib/nm-postgres";
/// Where they keep segments of the log until those are in a destination, and what a database is made of that is restored.
const ARCHIVE: &str = "/var/lib/nm-archive";
/// The variable that says what a member is to be. Its name says that it is a secret.
const DOCUMENT: &str = "NM_POSTGRES_SECRET";
/// The label of a member's container that says whose it is.
const OF_CLUSTER: &str = "cluster";
/// Seconds from the last sign of a primary until another one takes over, between two signs, and for one of them.
const TIMING: (u32, u32, u32) = (6, 1, 2);
/// Seconds a member has to hand over and shut down in order.
const GRACE: i64 = 60;

pub(super) const APPLICATION: &str = "app";
pub(super) const ADMIN: &str = "admin";

/// What a member is to be, without the certificate that only its container needs, and what tells it from another one.
pub(super) struct Plan {
    document: serde_json::Value,
    image: ImageRef,
    address: IpAddr,
    etcd: bool,
    pub made_of: String,
}

/// How far a member's container is.
pub(super) enum Made {
    Done(ContainerId),
    GoesOn(Option<ContainerId>),
}

fn bad(what: &str) -> ApiError {
    tracing::error!(what, "a database member's container can't be described");
    ApiError::internal()
}

/// The name of a member's container: the cluster's name, as far as containers can have it, and what is the cluster's own.
fn name(row: &ClusterRow, member: &DatabaseMember) -> ApiResult<ContainerName> {
    let clean: String = row
        .stored
        .spec
        .name
        .as_str()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .collect();
    let clean: String = clean.trim_matches('-').chars().take(40).collect();
    let tail: String = row.id.as_str().chars().rev().take(4).collect();
    ContainerName::parse(&format!("db-{clean}-{tail}-{}", member.number)).map_err(|_| bad("name"))
}

fn ports(ports: &MemberPorts, pool: bool, etcd: bool) -> ApiResult<Vec<PortMapping>> {
    let wanted = [
        (ports.postgres, true),
        (ports.patroni, true),
        (ports.check, true),
        (ports.etcd_client, etcd),
        (ports.etcd_peer, etcd),
        (ports.pooler, pool),
    ];
    let port = |number: u16| {
        Ok(PortMapping {
            container: nm_types::units::Port::new(number).ok_or_else(|| bad("port"))?,
            host: number,
            protocol: Protocol::Tcp,
            host_ip: None,
        })
    };
    wanted.into_iter().filter(|(_, given)| *given).map(|(n, _)| port(n)).collect()
}

impl Clusters {
    pub(super) fn database_of(row: &ClusterRow) -> ApiResult<&StoredDatabase> {
        row.stored.database.as_ref().ok_or_else(|| bad("ports"))
    }

    fn address(&self, node: &NodeId) -> ApiResult<IpAddr> {
        let known = self.addresses().get(node).copied();
        known.ok_or_else(|| {
            ApiError::unavailable(
                "address_unknown",
                format!(
                    "the address of node {} is not known yet: it was never connected",
                    self.nodes.name(node)
                ),
            )
        })
    }

    /// What the member is to be as things are now.
    pub(super) fn plan_member(&self, row: &ClusterRow, status: &DatabaseStatus, member: &DatabaseMember) -> ApiResult<Plan> {
        let (stored, database) = (Self::database_of(row)?, row.stored.spec.database());
        let now = self.clock.now();
        let address = self.address(&member.node)?;
        let loopback_of_another = row.stored.members.len() > 1 && address.is_loopback();
        if loopback_of_another {
            return Err(ApiError::conflict(
                "address_unknown",
                format!(
                    "node {} is known by a loopback address only: give it a label `address` with the one that other nodes reach it at",
                    self.nodes.name(&member.node)
                ),
            ));
        }
        let mut etcd = serde_json::Map::new();
        for one in &status.etcd {
            etcd.insert(one.node.to_string(), self.address(&one.node)?.to_string().into());
        }
        let own_etcd = status.etcd.iter().find(|e| e.node == member.node);
        let image = match &database.image {
            Some(image) => image.clone(),
            None => built_in::postgres_image().parse().map_err(|_| bad("image"))?,
        };
        let (ttl, loop_wait, retry_timeout) = TIMING;
        let pool = database
            .pool
            .map(|pool| json!({ "enabled": true, "mode": pool.mode, "size": pool.size }));
        let restore = status
            .restore
            .is_some()
            .then(|| json!({ "to": stored.origin.as_ref().and_then(|o| o.to) }));
        let document = json!({
            "cluster": row.id, "member": member.node, "address": address, "ports": stored.ports,
            "etcd": { "members": etcd, "state": if own_etcd.is_some_and(|e| e.added) { "existing" } else { "new" } },
            "timing": { "ttl": ttl, "loopWait": loop_wait, "retryTimeout": retry_timeout },
            "readLagLimit": database.read_lag_limit(), "restore": restore,
            // Whoever comes later copies what there is.
            "joins": status.primary.is_some(),
            "pooler": pool.unwrap_or_else(|| json!({ "enabled": false, "mode": "transaction", "size": 20 })),
            "database": {
                "name": database.name(), "owner": APPLICATION, "admin": ADMIN, "synchronous": database.is_synchronous(),
                "parameters": database.parameters, "extensions": database.extensions,
            },
        });
        let made_of = json!({
            "image": image, "ports": stored.ports, "address": address, "etcd": own_etcd, "timing": document["timing"],
            "lag": document["readLagLimit"], "pool": document["pooler"], "cpu": database.cpu_limit, "memory": database.memory_limit,
            "certificates": now.since(row.created) / RENEW_AFTER_MS,
        });
        let made_of = hex::encode(&Sha256::digest(made_of.to_string())[..8]);
        Ok(Plan {
            document,
            image,
            address,
            etcd: own_etcd.is_some(),
            made_of,
        })
    }

    /// The container of a member, with a certificate of its own.
    pub(super) fn member_spec(&self, row: &ClusterRow, member: &DatabaseMember, plan: Plan) -> ApiResult<ContainerSpec> {
        let (stored, database) = (Self::database_of(row)?, row.stored.spec.database());
        let secrets = row.secrets.database.as_ref().ok_or_else(|| bad("secrets"))?;
        let Plan {
            mut document,
            image,
            address,
            etcd,
            made_of: _,
        } = plan;
        // Clients come by the entry nodes.
        let mut addresses = vec![address];
        addresses.extend(row.stored.entries.iter().filter_map(|node| self.addresses().get(node).copied()));
        addresses.extend(row.stored.spec.virtual_address.as_ref().map(|v| v.address.ip()));
        addresses.dedup();
        let pair = secrets.certificate(&member.node, &addresses, self.clock.now())?;
        document["tls"] = json!({ "ca": secrets.authority, "certificate": pair.certificate, "key": pair.key });
        document["passwords"] = json!({
            "superuser": secrets.superuser, "replication": secrets.replication, "rewind": secrets.rewind, "admin": secrets.admin,
            "application": secrets.application,
        });
        let spec = json!({
            "name": name(row, member)?, "image": image, "nodeId": member.node, "start": true, "restart": RestartPolicy::UnlessStopped,
            "environment": { DOCUMENT: document.to_string() },
            "labels": { OF_CLUSTER: row.id, "app": format!("database-{}", row.id) },
            "ports": ports(&stored.ports, database.pool.is_some(), etcd)?,
            "volumes": [mount(DATA, volume(row))?, mount(ARCHIVE, archive_volume(row.id.as_str()))?],
            "cpuLimit": database.cpu_limit, "memoryLimit": database.memory_limit, "stopGrace": GRACE,
        });
        let spec = without_nulls(spec);
        serde_json::from_value(spec).map_err(|error| bad(&error.to_string()))
    }

    /// Has a member's container made, or sees how far that is.
    pub(super) async fn make_member(&self, row: &ClusterRow, member: &DatabaseMember, spec: ContainerSpec) -> ApiResult<Made> {
        let key = format!("database {} {}", row.id, member.number);
        let meta = Meta {
            idempotency_key: Some(key.clone()),
            // Others are not to wait for its image.
            respond_async: true,
            ..Meta::internal()
        };
        Ok(match self.containers.create(&Actor::system(), &meta, spec, &key).await? {
            Created::Done(container, _) => Made::Done(container.id),
            Created::GoesOn(operation) => Made::GoesOn(operation.target.and_then(|id| ContainerId::parse(&id).ok())),
        })
    }
}

fn mount(place: &str, volume: String) -> ApiResult<VolumeMount> {
    Ok(VolumeMount {
        container: place.parse().map_err(|_| bad("path"))?,
        host: Some(volume.try_into().map_err(|_| bad("volume"))?),
        mode: Default::default(),
    })
}

/// The volumes that a cluster's members have, each on its node; they stay when they go.
fn volume(row: &ClusterRow) -> String {
    format!("nm-{}", row.id)
}
pub fn archive_volume(cluster: &str) -> String {
    format!("nm-{cluster}-archive")
}

fn without_nulls(mut value: serde_json::Value) -> serde_json::Value {
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|_, v| !v.is_null());
    }
    value
}
