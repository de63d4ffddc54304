//! A cluster's row: what was asked for, what was made of it, and what is kept of what came of it.

use super::database::{DatabaseSecrets, DatabaseStatus, StoredDatabase};
use super::tls;
use crate::api::error::{ApiError, ApiResult};
use nm_plan::cluster::KeyPair;
use nm_plan::scale;
use nm_store::{Resource, Secret, Store};
use nm_types::cluster::{AcmeExternalAccount, ClusterServerEntry, ClusterSpec, ClusterStatus, ServerTemplate, TlsKey};
use nm_types::text::{Environment, SecretText};
use nm_types::{ClusterId, ContainerId, NodeId, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A cluster's spec column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredCluster {
    /// As it was asked for, but for its secrets, which are sealed apart.
    pub spec: ClusterSpec,
    pub listen_port: u16,
    /// The ids of `spec.servers`, in the same order.
    pub members: Vec<String>,
    /// The nodes that carry the entry.
    pub entries: Vec<NodeId>,
    /// Of the virtual address, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router_id: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<StoredDatabase>,
}

/// What is sealed.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterSecrets {
    /// One that was made here; an uploaded one stands in the spec.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<Environment>,
    /// What binds the account at an ACME server to another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<DatabaseSecrets>,
}

/// A server that scaling made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Scaled {
    /// Grows with each; what makes a repeated create find the first one.
    pub number: u64,
    pub since: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerId>,
    pub phase: ScaledPhase,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "phase")]
pub enum ScaledPhase {
    Starting,
    Serving,
    /// It gets no new clients, and goes at `until` at the latest.
    Leaving {
        until: Timestamp,
    },
}

/// A cluster's status column.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterState {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<ClusterStatus>,
    /// Servers that no entry has now, as they can't be reached; what is told of each once.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub unreachable: BTreeSet<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scaled: Vec<Scaled>,
    /// The number of the last one that was made.
    pub last_number: u64,
    pub scaling: scale::Memory,
    /// Why scaling can't do what it decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cannot_scale: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub database: DatabaseStatus,
}

fn is_default(status: &DatabaseStatus) -> bool {
    *status == DatabaseStatus::default()
}

/// A cluster, whole.
#[derive(Clone)]
pub struct ClusterRow {
    pub id: ClusterId,
    pub stored: StoredCluster,
    pub secrets: ClusterSecrets,
    pub pair: Option<KeyPair>,
    /// When the certificate ends.
    pub expires: Option<Timestamp>,
    pub state: ClusterState,
    pub created: Timestamp,
    pub updated: Timestamp,
    pub generation: i64,
    pub revision: i64,
}

impl ClusterRow {
    pub async fn read(store: &Store, row: &Resource) -> ApiResult<Self> {
        let id = ClusterId::parse(&row.id).map_err(|error| {
            tracing::error!(%error, "a row of the store has an id that is none");
            ApiError::internal()
        })?;
        let secrets = match row.has_secret() {
            true => store.open_sealed(row).await?.map(|s| s.parse()).transpose()?.unwrap_or_default(),
            false => ClusterSecrets::default(),
        };
        let stored: StoredCluster = row.spec()?;
        let pair = secrets.pair(&stored.spec);
        Ok(Self {
            expires: pair.as_ref().and_then(|p| tls::expires(&p.certificate)),
            pair,
            id,
            stored,
            secrets,
            state: row.status()?,
            created: row.created_at,
            updated: row.updated_at,
            generation: row.generation,
            revision: row.revision,
        })
    }

    /// What was asked for, with its secrets in their places.
    pub fn whole_spec(&self) -> ClusterSpec {
        let mut spec = self.stored.spec.clone();
        if let (Some(tls), Some(key)) = (&mut spec.tls, &self.secrets.key)
            && tls.certificate.is_some()
        {
            tls.key = Some(TlsKey(SecretText::new(key)));
        }
        if let (Some(external), Some(key)) = (external_account(&mut spec), &self.secrets.external_key) {
            external.hmac_key = Some(TlsKey(SecretText::new(key)));
        }
        if let (Some(ServerTemplate::Container(container)), Some(environment)) = (&mut spec.server_template, &self.secrets.environment) {
            container.environment = environment.clone();
        }
        spec
    }

    /// The same as the document that a change is merged into. Secrets stand in it.
    pub fn document(&self) -> ApiResult<serde_json::Value> {
        let spec = self.whole_spec();
        let mut document = serde_json::to_value(&spec).map_err(|_| ApiError::internal())?;
        if let Some(key) = spec.tls.as_ref().and_then(|t| t.key.as_ref()) {
            document["tls"]["key"] = key.expose().into();
        }
        if let Some(key) = &self.secrets.external_key {
            document["tls"]["acme"]["externalAccount"]["hmacKey"] = key.as_str().into();
        }
        Ok(document)
    }

    /// Ids of the members that users named, with what they said of them.
    pub fn named(&self) -> impl Iterator<Item = (&str, ClusterServerEntry)> {
        let ids = self.stored.members.iter().map(String::as_str);
        ids.zip(self.stored.spec.servers.iter().map(|s| s.entry()))
    }

    /// The containers that scaling made and that are there, or leave.
    pub fn scaled(&self) -> impl Iterator<Item = (&ContainerId, &Scaled)> {
        self.state.scaled.iter().filter_map(|s| Some((s.container.as_ref()?, s)))
    }

    pub fn has_member(&self, id: &str) -> bool {
        self.stored.members.iter().any(|m| m == id) || self.scaled().any(|(container, _)| container.as_str() == id)
    }
}

fn external_account(spec: &mut ClusterSpec) -> Option<&mut AcmeExternalAccount> {
    spec.tls.as_mut()?.acme.as_mut()?.external_account.as_mut()
}

impl ClusterSecrets {
    fn pair(&self, spec: &ClusterSpec) -> Option<KeyPair> {
        let tls = spec.tls.as_ref()?;
        let certificate = tls
            .certificate
            .as_ref()
            .map(ToString::to_string)
            .or_else(|| self.certificate.clone())?;
        Some(KeyPair {
            certificate,
            key: self.key.clone()?,
        })
    }

    /// Takes the secrets out of a spec; what is left may be stored.
    pub fn split(spec: &mut ClusterSpec) -> Self {
        let key = spec.tls.as_mut().and_then(|t| t.key.take()).map(|k| k.expose().to_owned());
        let external_key = external_account(spec)
            .and_then(|a| a.hmac_key.take())
            .map(|k| k.expose().to_owned());
        let environment = match &mut spec.server_template {
            Some(ServerTemplate::Container(container)) => Some(std::mem::take(&mut container.environment)),
            None => None,
        };
        Self {
            certificate: None,
            key,
            external_key,
            environment: environment.filter(|e| !e.0.is_empty()),
            database: None,
        }
    }

    pub fn seal(&self) -> ApiResult<Option<Secret>> {
        let nothing = [
            self.certificate.is_none(),
            self.key.is_none(),
            self.environment.is_none(),
            self.external_key.is_none(),
            self.database.is_none(),
        ];
        if !nothing.contains(&false) {
            return Ok(None);
        }
        Ok(Some(Secret::json(self)?))
    }
}
