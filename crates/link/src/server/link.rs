//! From a verified TLS connection to a link, and from there to its end.

use super::handle::{LinkBody, LinkHandle};
use super::handshakes::Slot;
use super::links::CloseReason;
use super::{Gate, Peer, Shared, log_refusal};
use crate::beat::BeatKey;
use crate::http2::{CONNECTION_WINDOW, ConnectionTasks, Farewell, MAX_HEADERS, RESETS_REMEMBERED, SEND_BUFFER};
use crate::wire::{Refusal, RefusalCode, Verdict, write_verdict};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::server::TlsStream;
use tracing::{debug, info, warn};

pub(super) async fn run<G: Gate>(
    shared: &Shared<G>,
    mut stream: TlsStream<TcpStream>,
    peer: Option<Peer>,
    address: SocketAddr,
    slot: Slot,
) {
    let Some(peer) = peer else {
        debug!(peer = %address, "refused a link without a certificate");
        let refusal = Refusal::new(
            RefusalCode::CertificateRequired,
            "a link needs the certificate that a node gets when it joins",
        );
        tell(shared, &mut stream, Verdict::Refused(refusal)).await;
        return;
    };
    let ticket = shared.links.ticket(&peer.node);
    let admitted = tokio::select! {
        biased;
        () = slot.evicted() => return,
        admitted = tokio::time::timeout(shared.options.handshake_timeout, shared.gate.admit(&peer)) => admitted,
    };
    drop(slot);
    let refusal = match admitted {
        Ok(Ok(())) => None,
        Ok(Err(refusal)) => Some(refusal),
        Err(_elapsed) => Some(Refusal::new(RefusalCode::Unavailable, "the control plane could not decide in time")),
    };
    if let Some(refusal) = refusal {
        log_refusal(&peer, &refusal);
        tell(shared, &mut stream, Verdict::Refused(refusal)).await;
        return;
    }
    if !tell(shared, &mut stream, Verdict::Admitted).await {
        return;
    }
    let key = BeatKey::of_link(stream.get_ref().1)
        .inspect_err(|error| warn!(node.id = %peer.node, %error, "no key for datagrams from this session"))
        .ok();
    let pulse = shared.links.pulse(&peer.node);
    pulse.heard_on_link();

    let options = &shared.options.http2;
    let tasks = ConnectionTasks::default();
    // However this ends, by a panic or by being dropped, the connection ends with it.
    let _sever = tasks.severing().clone().drop_guard();
    let (stream, farewell) = Farewell::listen(stream, move || pulse.heard_on_link());
    let shaken = hyper::client::conn::http2::Builder::new(tasks.clone())
        .timer(TokioTimer::new())
        .keep_alive_interval(options.ping_interval)
        .keep_alive_timeout(options.ping_timeout)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(options.stream_window)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(MAX_HEADERS)
        // Requests that nobody waits for any more are everyday business and must never cost the link: h2 counts them, over its
        // whole life, as a hostile peer's. This peer is authenticated, and has but its own connection to spoil.
        .max_concurrent_reset_streams(RESETS_REMEMBERED)
        .max_local_error_reset_streams(None)
        .handshake::<_, LinkBody>(TokioIo::new(stream))
        .await;
    let (sender, connection) = match shaken {
        Ok(pair) => pair,
        Err(error) => {
            debug!(node.id = %peer.node, peer = %address, %error, "an admitted node went before its link stood");
            return;
        }
    };
    let (closed, watching) = watch::channel(None);
    let (id, expires, peer) = (ticket.id(), peer.expires, Arc::new(peer));
    let handle = LinkHandle {
        id,
        peer: peer.clone(),
        since: SystemTime::now(),
        sender,
        closed: watching.clone(),
    };
    if !shared.links.register(&ticket, handle, closed, tasks.severing().clone(), key) {
        debug!(node.id = %peer.node, peer = %address, "an admitted node was closed or replaced before its link stood");
        tasks.severing().cancel();
        return;
    }
    info!(node.id = %peer.node, peer = %address, link = %id, serial = peer.serial, "a node is connected");

    let reason = tokio::select! {
        biased;
        // Whoever cancelled it has told the table why.
        () = tasks.severing().cancelled() => watching.borrow().unwrap_or(CloseReason::Lost),
        () = reached(expires) => CloseReason::Expired,
        ended = connection => {
            if let Err(error) = ended {
                debug!(node.id = %peer.node, link = %id, %error, "a link broke");
            }
            if farewell.said() { CloseReason::AgentStopped } else { CloseReason::Lost }
        },
    };
    shared.links.unregister(&peer.node, id, reason);
    // An agent that stops lets what is under way end. Of a broken connection nothing is left to wait for.
    tasks
        .drain(if reason == CloseReason::Expired {
            Duration::ZERO
        } else {
            shared.options.drain
        })
        .await;
    shared.links.forget(id);
    info!(node.id = %peer.node, peer = %address, link = %id, ?reason, "a node's link ended");
}

/// Sends the verdict; after a refusal, closes in good order so that it arrives. Says whether it was sent.
async fn tell<G>(shared: &Shared<G>, stream: &mut TlsStream<TcpStream>, verdict: Verdict) -> bool {
    let sending = async {
        write_verdict(stream, &verdict).await?;
        if matches!(verdict, Verdict::Refused(_)) {
            stream.shutdown().await?;
        }
        io::Result::Ok(())
    };
    matches!(tokio::time::timeout(shared.options.handshake_timeout, sending).await, Ok(Ok(())))
}

/// Ends when the wall clock shows `at`. It looks again every minute, for a wall clock can be set and a machine can sleep.
async fn reached(at: SystemTime) {
    while let Ok(left) = at.duration_since(SystemTime::now()) {
        tokio::time::sleep(left.min(Duration::from_secs(60)) + Duration::from_millis(1)).await;
    }
}
