//! What is kept of a database cluster beside what every cluster has.

use crate::api::error::{ApiError, ApiResult};
use nm_types::cluster::DatabaseOrigin;
use nm_types::{ContainerId, NodeId, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use time::OffsetDateTime;

/// How long the authority of a cluster holds, and how long its members' certificates.
const AUTHORITY_DAYS: i64 = 20 * 365;
const MEMBER_DAYS: i64 = 2 * 365;
pub(super) const DAY_MS: i64 = 24 * 3_600_000;
/// Members get new certificates that often.
pub(super) const RENEW_AFTER_MS: i64 = 365 * DAY_MS;
/// Of passwords.
const RANDOM: usize = 24;

/// The ports that members have on their nodes, the same on each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberPorts {
    pub postgres: u16,
    pub patroni: u16,
    pub etcd_client: u16,
    pub etcd_peer: u16,
    pub check: u16,
    pub pooler: u16,
}

impl MemberPorts {
    pub fn all(&self) -> [u16; 6] {
        [
            self.postgres,
            self.patroni,
            self.etcd_client,
            self.etcd_peer,
            self.check,
            self.pooler,
        ]
    }
}

/// Of what was asked for, what was chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredDatabase {
    pub read_only_port: u16,
    pub ports: MemberPorts,
    /// The backup that it is made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<DatabaseOrigin>,
}

/// A member, as far as it was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseMember {
    pub node: NodeId,
    /// Grows with each container that is made; what makes a repeated create find the first one.
    pub number: u64,
    pub since: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerId>,
    /// What its container was made of, to see when it has to be another one.
    pub made_of: String,
    /// Its container goes, and comes anew.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replacing: bool,
    /// It leaves while its node is away, and what the others kept for it is dropped.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forgotten: bool,
    /// Why it could not be made, when last tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

impl DatabaseMember {
    /// One that is to be made.
    pub fn new(node: NodeId, number: u64, since: Timestamp) -> Self {
        Self {
            node,
            number,
            since,
            container: None,
            made_of: String::new(),
            replacing: false,
            forgotten: false,
            trouble: None,
        }
    }
}

/// A member of etcd.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EtcdMember {
    pub node: NodeId,
    /// It was added to those that were there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub added: bool,
}

/// How far a database is that is made of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RestorePhase {
    /// What it is made of is on its way to the first member's node.
    Fetching,
    /// It is there; the first member makes its data of it.
    Recovering,
    /// It ended, and why.
    Failed(String),
}

/// The database's part of a cluster's status column.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DatabaseStatus {
    pub members: Vec<DatabaseMember>,
    pub etcd: Vec<EtcdMember>,
    pub last_number: u64,
    /// The last one that was seen to take writes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary: Option<NodeId>,
    /// Of one that is made of a backup, until it takes writes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restore: Option<RestorePhase>,
    /// Whether it has none now, though it had one.
    pub failing: bool,
    /// Parameters and the like that the members were last given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub configured: Option<String>,
    /// Members that were seen not to run, so that it is told once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub down: Vec<NodeId>,
}

/// What is sealed of a database.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseSecrets {
    pub authority: String,
    pub authority_key: String,
    pub superuser: String,
    pub replication: String,
    pub rewind: String,
    pub admin: String,
    pub application: String,
}

fn failed(error: impl std::fmt::Display) -> ApiError {
    tracing::error!(%error, "a database's certificate could not be made");
    ApiError::internal()
}

fn at(ms: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(ms / 1000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn params(name: &str, now: Timestamp, days: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name.chars().take(64).collect::<String>());
    params.distinguished_name = subject;
    // A day back, for nodes whose clock is slow.
    params.not_before = at(now.0 - DAY_MS);
    params.not_after = at(now.0 + days * DAY_MS);
    params
}

fn password() -> ApiResult<String> {
    let mut bytes = [0u8; RANDOM];
    getrandom::fill(&mut bytes).map_err(failed)?;
    // No letter of it needs to be written otherwise in a URL or a file.
    Ok(hex::encode(bytes))
}

/// A member's key and certificate, for both ends of a connection.
pub struct MemberCertificate {
    pub certificate: String,
    pub key: String,
}

impl DatabaseSecrets {
    pub fn make(cluster: &str, now: Timestamp) -> ApiResult<Self> {
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = params(&format!("authority of {cluster}"), now, AUTHORITY_DAYS);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(failed)?;
        Ok(Self {
            authority: certificate.pem(),
            authority_key: key.serialize_pem(),
            superuser: password()?,
            replication: password()?,
            rewind: password()?,
            admin: password()?,
            application: password()?,
        })
    }

    pub fn certificate(&self, node: &NodeId, addresses: &[IpAddr], now: Timestamp) -> ApiResult<MemberCertificate> {
        let authority = KeyPair::from_pem(&self.authority_key).map_err(failed)?;
        let issuer = Issuer::from_ca_cert_pem(&self.authority, authority).map_err(failed)?;
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = params(node.as_str(), now, MEMBER_DAYS);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.subject_alt_names = vec![SanType::DnsName("localhost".try_into().map_err(failed)?)];
        let own = IpAddr::from([127, 0, 0, 1]);
        let all = std::iter::once(own).chain(addresses.iter().copied().filter(|ip| *ip != own));
        params.subject_alt_names.extend(all.map(SanType::IpAddress));
        let certificate = params.signed_by(&key, &issuer).map_err(failed)?;
        Ok(MemberCertificate {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}
