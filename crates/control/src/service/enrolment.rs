//! Machines that join, and who may link: join tokens, and the gate of the agent port.

use crate::api::error::ApiResult;
use crate::api::extract::Meta;
use crate::service::audit::audit;
use crate::service::auth::Actor;
use crate::service::authority::{Authorities, pki, system_time, timestamp};
use crate::service::clock::SharedClock;
use crate::service::nodes::{NodeIdentity, NodeSpec, NodeState, Nodes};
use nm_link::pki::{AGENT_LIFETIME, Csr, NodeCertificate, Validity};
use nm_link::server::{Gate, Joining, Peer};
use nm_link::{EnrolReply, JoinToken, Refusal, RefusalCode, ServerTls};
use nm_store::{AuditEntry, Kind, NewResource, Patch, Resource, Store, StoreError, Tx};
use nm_types::node::NewJoinToken;
use nm_types::text::{Labels, NodeName};
use nm_types::{JoinTokenId, NodeId, Timestamp};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// How long a join token is good.
const TOKEN_LIFETIME_MS: i64 = 15 * 60_000;
/// A join token's spec column; its name is the secret's hash.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TokenSpec {
    expires: Timestamp,
    made_by: String,
    /// The short name of the authority that it pins; absent on tokens of an earlier release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    authority: Option<String>,
    /// The node that joins again with it; absent where a new one joins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<NodeId>,
}

/// The rules of the agent port.
#[derive(Clone)]
pub struct Enrolment {
    store: Store,
    clock: SharedClock,
    nodes: Nodes,
    authorities: Authorities,
}

impl Enrolment {
    pub fn new(store: Store, clock: SharedClock, nodes: Nodes, authorities: Authorities) -> Self {
        Self {
            store,
            clock,
            nodes,
            authorities,
        }
    }

    pub fn tls(&self) -> Arc<ServerTls> {
        self.authorities.tls()
    }

    /// A fresh server certificate; connections that stand are not touched.
    pub fn renew_server(&self) -> ApiResult<()> {
        self.authorities.renew_server()
    }

    /// A token with which a new machine joins.
    pub async fn new_token(&self, actor: &Actor, meta: &Meta) -> ApiResult<NewJoinToken> {
        self.token(actor, meta, None).await
    }

    /// A token with which a machine joins as a node that there is: its old certificates then count no more.
    pub async fn rejoin_token(&self, actor: &Actor, meta: &Meta, key: &str) -> ApiResult<NewJoinToken> {
        self.token(actor, meta, Some(self.nodes.find(key)?)).await
    }

    async fn token(&self, actor: &Actor, meta: &Meta, node: Option<NodeId>) -> ApiResult<NewJoinToken> {
        let now = self.clock.now();
        // The authority that serves, which is the one that the machine will see.
        let authority = self.authorities.standing().current.clone();
        let token = JoinToken::generate(authority.spki_sha256()).map_err(pki)?;
        let id = JoinTokenId::fresh(now.0);
        let expires = now.plus_millis(TOKEN_LIFETIME_MS);
        let spec = TokenSpec {
            expires,
            made_by: actor.label(),
            authority: Some(authority.name()),
            node: node.clone(),
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
            serde_json::json!({ "expires": expires, "node": node }),
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

    /// When the last join token ends that names this authority, or may name it.
    pub async fn tokens_until(&self, authority: &str) -> ApiResult<Option<Timestamp>> {
        let mut last = None;
        for row in self.store.all(Kind::JoinToken).await? {
            let token = row.spec::<TokenSpec>()?;
            if token.authority.as_deref().is_none_or(|a| a == authority) {
                last = last.max(Some(token.expires));
            }
        }
        Ok(last)
    }

    fn reply(&self, csr: &Csr, node: NodeId, from: Timestamp) -> Result<EnrolReply, Refusal> {
        let standing = self.authorities.standing();
        let issued = standing
            .current
            .issue_agent(csr, &node, Validity::starting(system_time(from), AGENT_LIFETIME))
            .map_err(|error| {
                tracing::warn!(node.id = %node, error = &error as &dyn std::error::Error, "a certificate was refused");
                Refusal::new(RefusalCode::CsrRefused, error.to_string())
            })?;
        Ok(EnrolReply {
            node_id: node,
            certificate: issued.pem,
            ca_certificates: standing.trust().to_pem(),
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
        let spec = token.spec::<TokenSpec>()?;
        let (row, reply) = match spec.node {
            None => self.join_anew(&mut tx, &joining).await?,
            Some(node) => self.join_again(&mut tx, &joining, node).await?,
        };
        let mut entry = AuditEntry::new(format!("join token {}", token.id), "node.join");
        entry.target = Some(row.id.clone());
        entry.address = Some(joining.address.ip().to_string());
        entry.detail =
            serde_json::json!({ "name": row.name, "hostname": joining.facts.hostname, "agentVersion": joining.facts.agent_version });
        tx.audit(entry).await?;
        tx.commit().await?;
        if let Err(error) = self.nodes.learn(&row) {
            tracing::error!(error = %error.message, "a new node's row can't be read");
        }
        // Of a node that joined again: whoever is linked with what it was before.
        self.nodes.close_links(&reply.node_id);
        Ok(reply)
    }

    async fn join_anew(&self, tx: &mut Tx, joining: &Joining) -> Result<(Resource, EnrolReply), JoinError> {
        let now = tx.now();
        let id = NodeId::fresh(now.0);
        let name = self.free_name(&joining.facts.hostname, &id);
        let spec = NodeSpec {
            name: name.clone(),
            labels: Labels::default(),
            cordoned: false,
            revoked: false,
            certificates_since: None,
        };
        let reply = self.reply(&joining.csr, id.clone(), now).map_err(JoinError::Refused)?;
        let row = NewResource::new(Kind::Node, id.as_str())
            .uniquely_named(name.as_str())
            .spec(&spec)?
            .status(&NodeState {
                info: None,
                last_seen: Some(now),
                identity: self.given(&reply),
            })?;
        Ok((tx.insert(row).await?, reply))
    }

    async fn join_again(&self, tx: &mut Tx, joining: &Joining, id: NodeId) -> Result<(Resource, EnrolReply), JoinError> {
        let Some(row) = tx.get(Kind::Node, id.as_str()).await? else {
            return Err(JoinError::Refused(Refusal::new(
                RefusalCode::TokenUnknown,
                "the node that this join token is for was removed: make a new token with `neuralmesh nodes join-token`",
            )));
        };
        // Certificates tell seconds. From the next one on: whatever was issued before is older.
        let since = Timestamp((tx.now().0 / 1000 + 1) * 1000);
        let spec = NodeSpec {
            revoked: false,
            certificates_since: Some(since),
            ..row.spec()?
        };
        let reply = self.reply(&joining.csr, id.clone(), since).map_err(JoinError::Refused)?;
        let state = NodeState {
            last_seen: Some(tx.now()),
            identity: self.given(&reply),
            ..row.status()?
        };
        let patch = Patch::new().spec(&spec)?.status(&state)?;
        Ok((tx.update(Kind::Node, id.as_str(), patch).await?, reply))
    }

    /// What a machine that takes this reply holds.
    fn given(&self, reply: &EnrolReply) -> Option<NodeIdentity> {
        let certificate = NodeCertificate::from_pem(&reply.certificate).ok()?;
        Some(NodeIdentity {
            authority: certificate.authority,
            serial: certificate.serial,
            expires: timestamp(certificate.not_after),
            trusts: self.authorities.standing().trust().names(),
        })
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

impl Enrolment {
    /// Notes with which certificate a node is there.
    async fn shown(&self, peer: &Peer) {
        let trusts = self.nodes.identity(&peer.node).map(|i| i.trusts).unwrap_or_default();
        let seen = NodeIdentity {
            authority: peer.authority.clone(),
            serial: peer.serial.clone(),
            expires: timestamp(peer.expires),
            trusts,
        };
        if let Err(error) = self.nodes.identity_seen(&peer.node, seen).await {
            tracing::warn!(node.id = %peer.node, error = %error.message, "a node's certificate could not be noted");
        }
    }
}

impl Gate for Enrolment {
    async fn admit(&self, peer: &Peer) -> Result<(), Refusal> {
        match self.store.get(Kind::Node, peer.node.as_str()).await {
            Ok(Some(row)) => {
                let spec = row.spec::<NodeSpec>().map_err(|e| unavailable(&e))?;
                if !spec.accepts(peer.not_before) {
                    return Err(Refusal::new(
                        RefusalCode::Revoked,
                        "this node's certificate was revoked: join it again with a token of `neuralmesh nodes rejoin-token`",
                    ));
                }
                self.shown(peer).await;
                Ok(())
            }
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
        self.reply(&csr, peer.node.clone(), self.clock.now())
    }
}
