//! Machines that join, and who may link: the authority's key, join tokens, and the gate of the agent port.

use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::Meta;
use crate::service::audit::audit;
use crate::service::auth::Actor;
use crate::service::clock::SharedClock;
use crate::service::nodes::{NodeSpec, NodeState, Nodes};
use nm_link::pki::{AGENT_LIFETIME, Authority, AuthorityPem, Csr, SERVER_LIFETIME, Validity};
use nm_link::server::{Gate, Joining, Peer};
use nm_link::{EnrolReply, JoinToken, Refusal, RefusalCode, ServerTls};
use nm_store::{AuditEntry, Kind, NewResource, Secret, Store, StoreError};
use nm_types::node::NewJoinToken;
use nm_types::text::{Labels, NodeName};
use nm_types::{JoinTokenId, NodeId, Timestamp};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How long a join token is good.
const TOKEN_LIFETIME_MS: i64 = 15 * 60_000;
/// Where the store keeps the authority.
const AUTHORITY: &str = "link.authority";

#[derive(Serialize, Deserialize)]
struct SealedAuthority {
    certificate: String,
    key: String,
}

/// A join token's spec column; its name is the secret's hash.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TokenSpec {
    expires: Timestamp,
    made_by: String,
}

/// The authority and the rules of the agent port.
#[derive(Clone)]
pub struct Enrolment {
    store: Store,
    clock: SharedClock,
    nodes: Nodes,
    authority: Arc<Authority>,
    tls: Arc<ServerTls>,
}

fn system_time(t: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(t.0).unwrap_or_default())
}

fn pki(error: impl std::error::Error + 'static) -> ApiError {
    tracing::error!(error = &error as &dyn std::error::Error, "a certificate could not be made");
    ApiError::internal()
}

impl Enrolment {
    /// Opens the authority, making it on the first start.
    pub async fn open(store: Store, clock: SharedClock, nodes: Nodes) -> ApiResult<Self> {
        let now = clock.now();
        let authority = match store.get(Kind::Setting, AUTHORITY).await? {
            Some(row) => {
                let secret = store.open_sealed(&row).await?.ok_or_else(ApiError::internal)?;
                let sealed: SealedAuthority = secret.parse()?;
                Authority::from_pem(&AuthorityPem {
                    certificate: sealed.certificate,
                    key: sealed.key.into(),
                })
                .map_err(pki)?
            }
            None => {
                let authority = Authority::generate(system_time(now)).map_err(pki)?;
                let pem = authority.to_pem();
                let sealed = Secret::json(&SealedAuthority {
                    certificate: pem.certificate.clone(),
                    key: pem.key.to_string(),
                })?;
                let mut tx = store.begin(now).await?;
                tx.insert(NewResource::new(Kind::Setting, AUTHORITY).named(AUTHORITY).secret(sealed))
                    .await?;
                tx.commit().await?;
                authority
            }
        };
        let identity = server_identity(&authority, now)?;
        let tls = Arc::new(ServerTls::new(&identity, &authority.trust()).map_err(pki)?);
        Ok(Self {
            store,
            clock,
            nodes,
            authority: Arc::new(authority),
            tls,
        })
    }

    pub fn tls(&self) -> Arc<ServerTls> {
        self.tls.clone()
    }

    /// A fresh server certificate; connections that stand are not touched.
    pub fn renew_server(&self) -> ApiResult<()> {
        let identity = server_identity(&self.authority, self.clock.now())?;
        self.tls.replace(&identity, &self.authority.trust()).map_err(pki)
    }

    pub async fn new_token(&self, actor: &Actor, meta: &Meta) -> ApiResult<NewJoinToken> {
        let now = self.clock.now();
        let token = JoinToken::generate(self.authority.spki_sha256()).map_err(pki)?;
        let id = JoinTokenId::fresh(now.0);
        let expires = now.plus_millis(TOKEN_LIFETIME_MS);
        let spec = TokenSpec {
            expires,
            made_by: actor.label(),
        };
        let mut tx = self.store.begin(now).await?;
        tx.insert(
            NewResource::new(Kind::JoinToken, id.as_str())
                .uniquely_named(token.secret_hash())
                .spec(&spec)?,
        )
        .await?;
        tx.audit(audit(
            actor,
            meta,
            "node.join-token",
            Some(id.as_str()),
            serde_json::json!({ "expires": expires }),
        ))
        .await?;
        tx.commit().await?;
        Ok(NewJoinToken {
            id,
            token: token.reveal().to_string(),
            expires,
        })
    }

    /// Drops join tokens whose time is over.
    pub async fn sweep(&self) -> ApiResult<()> {
        let now = self.clock.now();
        for row in self.store.all(Kind::JoinToken).await? {
            if row.spec::<TokenSpec>()?.expires < now {
                let mut tx = self.store.begin(now).await?;
                match tx.delete(Kind::JoinToken, &row.id).await {
                    Ok(_) | Err(StoreError::NotFound { .. }) => tx.commit().await?,
                    Err(e) => return Err(e.into()),
                };
            }
        }
        Ok(())
    }

    fn reply(&self, csr: &Csr, node: NodeId) -> Result<EnrolReply, Refusal> {
        let now = system_time(self.clock.now());
        let issued = self
            .authority
            .issue_agent(csr, &node, Validity::starting(now, AGENT_LIFETIME))
            .map_err(|error| {
                tracing::warn!(node.id = %node, error = &error as &dyn std::error::Error, "a certificate was refused");
                Refusal::new(RefusalCode::CsrRefused, error.to_string())
            })?;
        Ok(EnrolReply {
            node_id: node,
            certificate: issued.pem,
            ca_certificates: self.authority.trust().to_pem(),
        })
    }

    async fn join(&self, joining: Joining) -> Result<EnrolReply, JoinError> {
        let now = self.clock.now();
        let mut tx = self.store.begin(now).await?;
        let token = tx.named(Kind::JoinToken, &joining.secret.hash(), None).await?.into_iter().next();
        let Some(token) = token.filter(|t| t.spec::<TokenSpec>().is_ok_and(|s| s.expires >= now)) else {
            return Err(JoinError::Refused(Refusal::new(
                RefusalCode::TokenUnknown,
                "the join token is unknown, used or older than 15 minutes: make a new one with `neuralmesh nodes join-token`",
            )));
        };
        tx.delete(Kind::JoinToken, &token.id).await?;
        let id = NodeId::fresh(now.0);
        let name = self.free_name(&joining.facts.hostname, &id);
        let spec = NodeSpec {
            name: name.clone(),
            labels: Labels::default(),
            cordoned: false,
        };
        let row = NewResource::new(Kind::Node, id.as_str())
            .uniquely_named(name.as_str())
            .spec(&spec)?
            .status(&NodeState {
                info: None,
                last_seen: Some(now),
            })?;
        let row = tx.insert(row).await?;
        let mut entry = AuditEntry::new(format!("join token {}", token.id), "node.join");
        entry.target = Some(id.to_string());
        entry.address = Some(joining.address.ip().to_string());
        entry.detail = serde_json::json!({ "name": name, "hostname": joining.facts.hostname, "agentVersion": joining.facts.agent_version });
        tx.audit(entry).await?;
        let reply = self.reply(&joining.csr, id).map_err(JoinError::Refused)?;
        tx.commit().await?;
        if let Err(error) = self.nodes.learn(&row) {
            tracing::error!(error = %error.message, "a new node's row can't be read");
        }
        Ok(reply)
    }

    /// The machine's own name, or with the id's ending where another node has it.
    fn free_name(&self, hostname: &str, id: &NodeId) -> NodeName {
        let ending = id.as_str().rsplit('_').next().unwrap_or_default();
        let clean: String = hostname
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
            .take(50)
            .collect();
        let clean = clean.trim_start_matches(['.', '-', '_']);
        let base = if clean.is_empty() { "node" } else { clean };
        let taken = self.nodes.find(base).is_ok();
        let text = if taken { format!("{base}-{ending}") } else { base.to_owned() };
        NodeName::parse(&text)
            .or_else(|_| NodeName::parse(ending))
            .unwrap_or_else(|_| unreachable!("an id's ending is a valid name"))
    }
}

enum JoinError {
    Refused(Refusal),
    Store(StoreError),
}
impl From<StoreError> for JoinError {
    fn from(e: StoreError) -> Self {
        Self::Store(e)
    }
}

fn server_identity(authority: &Authority, now: Timestamp) -> ApiResult<nm_link::pki::ServerIdentity> {
    authority
        .issue_server::<&str>(&[], Validity::starting(system_time(now), SERVER_LIFETIME))
        .map_err(pki)
}

fn unavailable(error: &StoreError) -> Refusal {
    tracing::error!(
        error = error as &dyn std::error::Error,
        "the gate of the agent port has no answer from the store"
    );
    Refusal::new(
        RefusalCode::Unavailable,
        "the control plane's database does not answer: try again in a moment",
    )
}

impl Gate for Enrolment {
    async fn admit(&self, peer: &Peer) -> Result<(), Refusal> {
        match self.store.get(Kind::Node, peer.node.as_str()).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(Refusal::new(
                RefusalCode::Revoked,
                "this node was removed from the fleet: join it again with a new token",
            )),
            Err(error) => Err(unavailable(&error)),
        }
    }

    async fn enrol(&self, joining: Joining) -> Result<EnrolReply, Refusal> {
        let address = joining.address;
        match self.join(joining).await {
            Ok(reply) => Ok(reply),
            Err(JoinError::Refused(refusal)) => {
                tracing::warn!(client.address = %address, reason = %refusal.message, "a machine was not let in");
                Err(refusal)
            }
            Err(JoinError::Store(error)) => Err(unavailable(&error)),
        }
    }

    async fn renew(&self, peer: &Peer, csr: Csr) -> Result<EnrolReply, Refusal> {
        self.reply(&csr, peer.node.clone())
    }
}
