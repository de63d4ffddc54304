//! Answering machines that join, and nodes that renew. One request a connection, over HTTP/1.1.

use super::handshakes::Slot;
use super::{Gate, Joining, Peer, Shared, log_refusal};
use crate::pki::Csr;
use crate::token::JoinSecret;
use crate::wire::{AgentFacts, ENROL_PATH, EnrolBody, EnrolReply, MAX_BODY, RENEW_PATH, Refusal, RefusalCode, RenewBody};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::de::DeserializeOwned;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tracing::{debug, info};

pub(super) async fn run<G: Gate>(shared: &Shared<G>, stream: TlsStream<TcpStream>, peer: Option<Peer>, address: SocketAddr, slot: Slot) {
    let limit = shared.options.enrol_timeout;
    // Kept until the request has been read: what comes after is our own time, not the peer's.
    let slot = Mutex::new(Some(slot));
    let service = service_fn(|request| {
        let (slot, peer) = (&slot, peer.as_ref());
        async move {
            let read = tokio::time::timeout(limit, read(request)).await;
            drop(slot.lock().unwrap_or_else(PoisonError::into_inner).take());
            let answer = match read {
                Ok(Ok(asked)) => match tokio::time::timeout(limit, answer(shared, asked, peer, address)).await {
                    Ok(answer) => answer,
                    Err(_elapsed) => Err(Refusal::new(RefusalCode::Unavailable, "the control plane could not answer in time")),
                },
                Ok(Err(refusal)) => Err(refusal),
                Err(_elapsed) => Err(Refusal::new(RefusalCode::InvalidRequest, "the request did not arrive in time")),
            };
            Ok::<_, Infallible>(respond(answer))
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limit)
        .keep_alive(false)
        .max_headers(64)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    // Head, body and answer each have the limit; the fourth is for a peer that is slow to take the answer.
    let served = tokio::time::timeout(limit.saturating_mul(4), connection);
    let evicted = evicted(&slot);
    tokio::select! {
        served = served => match served {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(peer = %address, %error, "a joining machine's connection broke"),
            Err(_elapsed) => debug!(peer = %address, "a joining machine did not take its answer in time"),
        },
        () = evicted => debug!(peer = %address, "closed an unfinished connection to make room for newer ones"),
    }
}

/// Ends when the place of a connection that has not sent its request yet was needed for a newer one.
fn evicted(slot: &Mutex<Option<Slot>>) -> impl Future<Output = ()> + use<> {
    let token = slot.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Slot::token);
    async move {
        match token {
            Some(token) => token.cancelled().await,
            None => std::future::pending().await,
        }
    }
}

enum Asked {
    /// Without a secret when what was sent has not a secret's form.
    Enrol(Option<JoinSecret>, Csr, AgentFacts),
    Renew(Csr),
}

async fn read(request: Request<Incoming>) -> Result<Asked, Refusal> {
    let path = request.uri().path();
    if path != ENROL_PATH && path != RENEW_PATH {
        return Err(Refusal::new(
            RefusalCode::NotFound,
            "agents join and renew here; the API is on another port",
        ));
    }
    if request.method() != Method::POST {
        return Err(Refusal::new(RefusalCode::InvalidRequest, "expected POST"));
    }
    let renewing = path == RENEW_PATH;
    let body = match Limited::new(request.into_body(), MAX_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            return Err(Refusal::new(
                RefusalCode::TooLarge,
                format!("the request is longer than {MAX_BODY} bytes"),
            ));
        }
        Err(_) => return Err(Refusal::new(RefusalCode::InvalidRequest, "the request broke off")),
    };
    let csr = |pem: &str| Csr::parse(pem).map_err(|e| Refusal::new(RefusalCode::CsrRefused, e.to_string()));
    if renewing {
        let body: RenewBody = parse(&body)?;
        Ok(Asked::Renew(csr(&body.csr)?))
    } else {
        let body: EnrolBody = parse(&body)?;
        body.facts.check()?;
        Ok(Asked::Enrol(JoinSecret::parse(&body.secret), csr(&body.csr)?, body.facts.clone()))
    }
}

fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, Refusal> {
    // Only the place is told: the parser's message may quote the text, and a secret is in it.
    serde_json::from_slice(body).map_err(|e| {
        let message = format!(
            "the request is not the JSON that was expected (line {}, column {})",
            e.line(),
            e.column()
        );
        Refusal::new(RefusalCode::InvalidRequest, message)
    })
}

async fn answer<G: Gate>(shared: &Shared<G>, asked: Asked, peer: Option<&Peer>, address: SocketAddr) -> Result<EnrolReply, Refusal> {
    match asked {
        Asked::Enrol(secret, csr, facts) => {
            let unknown = || Refusal::new(RefusalCode::TokenUnknown, "this join token is not one of this control plane's");
            let secret = secret.ok_or_else(unknown)?;
            let hostname = facts.hostname.clone();
            let joined = shared
                .gate
                .enrol(Joining {
                    secret,
                    csr,
                    facts,
                    address,
                })
                .await;
            match &joined {
                Ok(reply) => info!(node.id = %reply.node_id, peer = %address, hostname, "a machine has joined"),
                Err(refusal) => {
                    info!(peer = %address, hostname, code = ?refusal.code, reason = refusal.message, "refused a joining machine")
                }
            }
            joined
        }
        Asked::Renew(csr) => {
            let peer = peer.ok_or_else(|| {
                Refusal::new(
                    RefusalCode::CertificateRequired,
                    "only a node that shows its present certificate can renew it",
                )
            })?;
            let renewed = async {
                shared.gate.admit(peer).await?;
                csr.asks_only_for(&peer.node)
                    .map_err(|e| Refusal::new(RefusalCode::CsrRefused, e.to_string()))?;
                shared.gate.renew(peer, csr).await
            };
            let renewed = renewed.await;
            match &renewed {
                Ok(_) => info!(node.id = %peer.node, peer = %address, "a node has renewed its certificate"),
                Err(refusal) => log_refusal(peer, refusal),
            }
            renewed
        }
    }
}

fn respond(answer: Result<EnrolReply, Refusal>) -> Response<Full<Bytes>> {
    let (status, json) = match &answer {
        Ok(reply) => (StatusCode::OK, serde_json::to_vec(reply)),
        Err(refusal) => (refusal.code.status(), serde_json::to_vec(refusal)),
    };
    // Strings and ids only: nothing in either type can fail to become JSON. An empty body still has the right status.
    let mut response = Response::new(Full::from(json.unwrap_or_default()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}
