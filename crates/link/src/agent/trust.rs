//! What a control plane may ask about the identity itself: whom this node trusts, and to renew its certificate now.
//!
//! It is answered below the agent's service, since what it changes is the link's own.

use super::link::Inner;
use crate::contract::{AgentError, AgentErrorCode as Code, Trust, TrustState, path};
use crate::pki::TrustBundle;
use crate::wire::MAX_BODY;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::service::Service;
use nm_types::Timestamp;
use std::pin::Pin;
use std::sync::Arc;
use std::time::UNIX_EPOCH;
use tracing::info;

/// A service with the link's own answers before it.
#[derive(Clone)]
pub(super) struct WithTrust<S> {
    inner: Arc<Inner>,
    service: S,
}

impl<S> WithTrust<S> {
    pub(super) fn new(inner: Arc<Inner>, service: S) -> Self {
        Self { inner, service }
    }
}

impl<S, B> Service<Request<Incoming>> for WithTrust<S>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Future: Send + 'static,
    B: Body<Data = Bytes>,
{
    type Response = Response<Either<Full<Bytes>, B>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        if request.uri().path() == path::TRUST {
            let inner = self.inner.clone();
            return Box::pin(async move { Ok(respond(answer(inner, request).await).map(Either::Left)) });
        }
        let answered = self.service.call(request);
        Box::pin(async move { Ok(answered.await?.map(Either::Right)) })
    }
}

async fn answer(inner: Arc<Inner>, request: Request<Incoming>) -> Result<TrustState, AgentError> {
    if request.method() == Method::GET {
        return Ok(inner.trust_state());
    }
    let invalid = |message: String| AgentError::new(Code::Invalid, message);
    let body = Limited::new(request.into_body(), MAX_BODY)
        .collect()
        .await
        .map_err(|e| invalid(format!("The request could not be read: {e}.")))?
        .to_bytes();
    let trust: Trust = serde_json::from_slice(&body).map_err(|e| invalid(format!("The request is not what the agent expects: {e}.")))?;
    // In a task of its own: a link that breaks must not leave half a change.
    match tokio::spawn(async move { inner.take_trust(&trust).await }).await {
        Ok(state) => state,
        Err(error) => Err(AgentError::new(Code::Internal, format!("The agent failed: {error}."))),
    }
}

impl Inner {
    fn trust_state(&self) -> TrustState {
        let identity = self.identity.load();
        let certificate = identity.certificate();
        let expires = certificate.not_after.duration_since(UNIX_EPOCH).unwrap_or_default();
        TrustState {
            trusts: identity.trust().names(),
            authority: certificate.authority.clone(),
            serial: certificate.serial.clone(),
            expires: Timestamp(i64::try_from(expires.as_millis()).unwrap_or(i64::MAX)),
        }
    }

    async fn take_trust(&self, wanted: &Trust) -> Result<TrustState, AgentError> {
        let bundle = TrustBundle::from_pem(&wanted.ca_certificates).map_err(|e| AgentError::new(Code::Invalid, format!("{e}.")))?;
        let _changing = self.changing.lock().await;
        let present = self.identity.load_full();
        if !bundle.meets(present.trust()) {
            let text = "This list of authorities has none of those that this node trusts; it keeps the ones it has.";
            return Err(AgentError::new(Code::Forbidden, text));
        }
        if bundle != *present.trust() {
            let failed = |e: &dyn std::fmt::Display| AgentError::new(Code::Internal, format!("The identity could not be changed: {e}."));
            let next = Arc::new(present.trusting(bundle).map_err(|e| failed(&e))?);
            self.store.save_async(next.clone()).await.map_err(|e| failed(&e))?;
            self.identity.store(next.clone());
            info!(node.id = %next.node(), authorities = ?next.trust().names(), "took over whom to trust");
        }
        let other = |name: &String| self.identity.load().certificate().authority != *name;
        if wanted.authority.as_ref().is_some_and(other) && !self.renew_once().await {
            let text = "The certificate could not be renewed now; the agent's log says why.";
            return Err(AgentError::new(Code::Timeout, text));
        }
        Ok(self.trust_state())
    }
}

fn respond(answer: Result<TrustState, AgentError>) -> Response<Full<Bytes>> {
    let (status, json) = match &answer {
        Ok(state) => (StatusCode::OK, serde_json::to_vec(state)),
        Err(error) => {
            let status = match error.code {
                Code::Invalid => StatusCode::BAD_REQUEST,
                Code::Forbidden => StatusCode::FORBIDDEN,
                Code::Timeout => StatusCode::GATEWAY_TIMEOUT,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            (status, serde_json::to_vec(error))
        }
    };
    // Strings and numbers only: nothing in either type can fail to become JSON.
    let mut response = Response::new(Full::from(json.unwrap_or_default()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}
