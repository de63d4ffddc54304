//! Joining: a join token becomes an identity.

use super::dial::{DialError, DialOptions, ServerUrl, dial, tls_failure};
use super::identity::{AgentIdentity, IdentityError, IdentityStore};
use super::renew::{RenewError, renew};
use crate::pki::{CONTROL_NAME, NodeKey, PkiError, TrustBundle};
use crate::tls::{TlsError, joining_config};
use crate::token::JoinToken;
use crate::wire::{AgentFacts, ENROL_PATH, EnrolBody, EnrolReply, MAX_BODY, Refusal, RefusalCode};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use serde::Serialize;
use std::sync::Arc;

/// Why a machine has not joined.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Nothing secret was sent.
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the control plane refused: {0}")]
    Refused(Refusal),
    /// The token may be spent. Joining again needs a new one if the control plane says so.
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

/// Joins the control plane at `server` and saves the identity that it gives. The key is made here. The token's secret is sent
/// only to a server whose certificate chains to the authority that the token names; a machine that has joined before, or
/// cannot save, does not even dial.
pub async fn join(
    store: &IdentityStore,
    server: &ServerUrl,
    token: &JoinToken,
    facts: &AgentFacts,
    options: &DialOptions,
) -> Result<AgentIdentity, JoinError> {
    if let Some(present) = store.load_async().await? {
        return Err(IdentityError::AlreadyJoined(present.node().clone()).into());
    }
    become_new(store, server, token, facts, options).await
}

/// Who this machine is where a token was given too: the node it is already, as long as the control plane takes it for that;
/// else whom the token makes it. So a machine whose certificate was revoked, or has ended, comes back by a new token, and one
/// that is started again with a token that is spent stays what it is.
pub async fn join_or_stay(
    store: &IdentityStore,
    server: &ServerUrl,
    token: &JoinToken,
    facts: &AgentFacts,
    options: &DialOptions,
) -> Result<AgentIdentity, JoinError> {
    let Some(present) = store.load_async().await? else {
        return become_new(store, server, token, facts, options).await;
    };
    // A renewal is what tells: it goes the same way as enrolment, and is due every day anyhow.
    match renew(store, &present, server, options).await {
        Ok(renewed) => Ok(Arc::into_inner(renewed).unwrap_or(present)),
        Err(error) if counts_no_more(&error) => {
            tracing::warn!(node.id = %present.node(), %error, "this machine's certificate is not taken any more: joining by the token");
            become_new(store, server, token, facts, options).await
        }
        Err(error) => {
            tracing::info!(node.id = %present.node(), %error, "this machine has joined before, and the token stays unused");
            Ok(present)
        }
    }
}

fn counts_no_more(error: &RenewError) -> bool {
    match error {
        RenewError::Refused(refusal) => matches!(refusal.code, RefusalCode::Revoked | RefusalCode::UnknownNode),
        RenewError::Dial(DialError::CertificateRefused { .. } | DialError::NotTrusted { .. }) => true,
        _ => false,
    }
}

/// Joins, and replaces the identity that was there.
async fn become_new(
    store: &IdentityStore,
    server: &ServerUrl,
    token: &JoinToken,
    facts: &AgentFacts,
    options: &DialOptions,
) -> Result<AgentIdentity, JoinError> {
    store.check_writable()?;
    let key = NodeKey::generate()?;
    let body = EnrolBody {
        secret: token.secret.reveal().to_string(),
        csr: key.csr(None)?,
        facts: facts.clone(),
    };
    let config = joining_config(token.pin)?;
    let reply = ask(server, config, ENROL_PATH, &body, options).await.map_err(JoinError::from)?;
    let trust = TrustBundle::from_pem(&reply.ca_certificates)?;
    if !trust.contains_pin(&token.pin) {
        return Err(JoinError::BadAnswer(
            "its list of authorities lacks the one that this join token names".to_owned(),
        ));
    }
    let identity = Arc::new(accept(key, reply, trust).map_err(JoinError::BadAnswer)?);
    store.save_async(identity.clone()).await?;
    Arc::into_inner(identity).ok_or_else(|| JoinError::BadAnswer("the identity is still in use by the task that saved it".to_owned()))
}

/// Checks that what came is an identity for this key.
pub(super) fn accept(key: NodeKey, reply: EnrolReply, trust: TrustBundle) -> Result<AgentIdentity, String> {
    let identity = AgentIdentity::assemble(key, reply.certificate, trust).map_err(|e| e.to_string())?;
    if identity.node() != &reply.node_id {
        return Err(format!("it says {}, its certificate says {}", reply.node_id, identity.node()));
    }
    Ok(identity)
}

/// Why there is no reply.
pub(super) enum AskError {
    Dial(DialError),
    Refused(Refusal),
    Interrupted(String),
    BadAnswer(String),
}

impl From<AskError> for JoinError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Dial(error) => Self::Dial(error),
            AskError::Refused(refusal) => Self::Refused(refusal),
            AskError::Interrupted(reason) => Self::Interrupted(reason),
            AskError::BadAnswer(reason) => Self::BadAnswer(reason),
        }
    }
}

/// One request of enrolment, on a connection of its own.
pub(super) async fn ask(
    server: &ServerUrl,
    config: ClientConfig,
    path: &'static str,
    body: &impl Serialize,
    options: &DialOptions,
) -> Result<EnrolReply, AskError> {
    let json = serde_json::to_vec(body).map_err(|e| AskError::BadAnswer(format!("the request is no JSON: {e}")))?;
    let stream = dial(server, Arc::new(config), options).await.map_err(AskError::Dial)?;
    let exchange = exchange(server, stream, path, json);
    match tokio::time::timeout(options.answer_timeout, exchange).await {
        Ok(answered) => answered,
        Err(_elapsed) => Err(AskError::Interrupted(format!("nothing came within {:?}", options.answer_timeout))),
    }
}

async fn exchange(
    server: &ServerUrl,
    stream: tokio_rustls::client::TlsStream<tokio::net::TcpStream>,
    path: &'static str,
    json: Vec<u8>,
) -> Result<EnrolReply, AskError> {
    let broke = |error: hyper::Error| match refused_certificate(server, &error) {
        Some(refused) => AskError::Dial(refused),
        None => AskError::Interrupted(error.to_string()),
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream))
        .await
        .map_err(broke)?;
    let request = Request::post(path)
        .header(header::HOST, CONTROL_NAME)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::from(json))
        .map_err(|e| AskError::BadAnswer(e.to_string()))?;
    let answer = async move {
        let response = sender.send_request(request).await.map_err(broke)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY)
            .collect()
            .await
            .map_err(|e| AskError::Interrupted(e.to_string()))?
            .to_bytes();
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|e| AskError::BadAnswer(e.to_string()));
        }
        match serde_json::from_slice(&body) {
            Ok(refusal) => Err(AskError::Refused(refusal)),
            Err(_) => Err(AskError::BadAnswer(format!("it is {status} without a reason"))),
        }
    };
    // The connection is driven only as long as its one exchange lasts.
    tokio::pin!(connection, answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        // It has ended; what it brought before is with the exchange, which now comes to its own end.
        _ended = &mut connection => answer.await,
    }
}

/// With TLS 1.3, a server refuses a certificate only when the client takes the handshake for done.
fn refused_certificate(server: &ServerUrl, error: &hyper::Error) -> Option<DialError> {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let alert = cause
            .downcast_ref::<std::io::Error>()
            .and_then(|e| e.get_ref())
            .and_then(|e| e.downcast_ref::<rustls::Error>());
        if let Some(alert @ rustls::Error::AlertReceived(_)) = alert {
            return Some(tls_failure(server, std::io::Error::other(alert.clone())));
        }
        source = cause.source();
    }
    None
}
