//! Renewal: a new key and a new certificate for the same node, well before the old one ends.

use super::dial::{DialError, DialOptions, ServerUrl};
use super::identity::{AgentIdentity, IdentityError, IdentityStore};
use super::join::{AskError, accept, ask};
use crate::pki::{NodeKey, PkiError, TrustBundle};
use crate::tls::{TlsError, member_config};
use crate::wire::{ALPN_ENROL, RENEW_PATH, Refusal, RenewBody};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Certificates are renewed once a day at the latest.
const DAILY: Duration = Duration::from_secs(86_400);

/// Why a certificate was not renewed. The present one stays in use.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the control plane refused: {0}")]
    Refused(Refusal),
    #[error("the control plane's answer did not arrive whole: {0}")]
    Interrupted(String),
    #[error("the control plane's answer makes no sense: {0}")]
    BadAnswer(String),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// When to renew: a third into the certificate's life, and a day into it at the latest.
pub(super) fn due(identity: &AgentIdentity) -> SystemTime {
    let certificate = identity.certificate();
    let life = certificate
        .not_after
        .duration_since(certificate.not_before)
        .unwrap_or(Duration::ZERO);
    certificate.not_before + (life / 3).min(DAILY)
}

/// Asks `server` for a new certificate and saves what it gives.
pub(super) async fn renew(
    store: &IdentityStore,
    present: &AgentIdentity,
    server: &ServerUrl,
    options: &DialOptions,
) -> Result<Arc<AgentIdentity>, RenewError> {
    let key = NodeKey::generate()?;
    let body = RenewBody {
        csr: key.csr(Some(present.node()))?,
    };
    let (chain, own_key) = present.tls()?;
    let config = member_config(present.trust(), chain, own_key, ALPN_ENROL)?;
    let reply = ask(server, config, RENEW_PATH, &body, options).await.map_err(|error| match error {
        AskError::Dial(error) => RenewError::Dial(error),
        AskError::Refused(refusal) => RenewError::Refused(refusal),
        AskError::Interrupted(reason) => RenewError::Interrupted(reason),
        AskError::BadAnswer(reason) => RenewError::BadAnswer(reason),
    })?;
    let trust = TrustBundle::from_pem(&reply.ca_certificates)?;
    let identity = Arc::new(accept(key, reply, trust).map_err(RenewError::BadAnswer)?);
    if identity.node() != present.node() {
        return Err(RenewError::BadAnswer(format!("it is for {}", identity.node())));
    }
    store.save_async(identity.clone()).await?;
    Ok(identity)
}
