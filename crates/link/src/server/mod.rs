//! The control plane's side: one port, on which machines join and agents link.
//!
//! - [`serve`] accepts connections and brings each through its handshake. `handshakes` bounds how many are unfinished at a
//!   time, `enrol` answers joining machines, `link` turns admitted agents' connections round.
//! - `beats` hears the nodes' datagrams, on the UDP port beside it; [`Pulse`] says when a node was last heard, by whichever way.
//! - [`Links`] knows which nodes are connected; [`LinkHandle`] sends requests to one of them.
//! - The [`Gate`] is the caller's: it alone says who may join and who may connect.
//!
//! Invariants:
//! - Nothing reaches the gate's `admit` or `renew` without a certificate that TLS has verified, and its node's name is read
//!   from that certificate, never from what the peer says.
//! - Every stage before admission has a deadline, and none of them holds up another connection.

mod beats;
mod enrol;
mod handle;
mod handshakes;
mod link;
mod links;
mod pulse;

pub use handle::LinkHandle;
pub use links::{CloseReason, LinkChange, LinkCounts, LinkEvent, LinkId, Links};
pub use pulse::{LineQuality, Pulse};

use crate::http2::{self, Http2Options};
use crate::pki::{Csr, NodeCertificate};
use crate::tls::ServerTls;
use crate::token::JoinSecret;
use crate::wire::{ALPN_ENROL, ALPN_LINK, AgentFacts, EnrolReply, Refusal};
use handshakes::{Handshakes, Slot};
use nm_types::NodeId;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

/// An agent whose certificate TLS has verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub node: NodeId,
    /// The certificate's serial number, as lower-case hexadecimal digits.
    pub serial: String,
    /// SHA-256 of the certificate, as lower-case hexadecimal digits.
    pub fingerprint: String,
    /// The short name of the authority that issued it.
    pub authority: String,
    /// From when on the certificate holds: dated back a little from its issue.
    pub not_before: SystemTime,
    /// When the certificate ends. The link ends then, too.
    pub expires: SystemTime,
    pub address: SocketAddr,
}

/// A machine that wants to join. The request's signature was checked; everything else is still to be judged.
#[derive(Debug)]
pub struct Joining {
    pub secret: JoinSecret,
    pub csr: Csr,
    pub facts: AgentFacts,
    pub address: SocketAddr,
}

/// Who may join and who may connect: the caller's rules, asked at each connection.
///
/// A future may be dropped before it ends, when the peer hangs up or the deadline passes: keep changes in one transaction.
pub trait Gate: Send + Sync + 'static {
    /// Whether this node may connect now. Revocation is looked up here.
    fn admit(&self, peer: &Peer) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Uses up a join token and issues the machine its identity.
    fn enrol(&self, joining: Joining) -> impl Future<Output = Result<EnrolReply, Refusal>> + Send;

    /// Issues a node that was just admitted a new certificate. `csr` asks for no name but the node's own.
    fn renew(&self, peer: &Peer, csr: Csr) -> impl Future<Output = Result<EnrolReply, Refusal>> + Send;
}

impl<G: Gate> Gate for Arc<G> {
    fn admit(&self, peer: &Peer) -> impl Future<Output = Result<(), Refusal>> + Send {
        G::admit(self, peer)
    }
    fn enrol(&self, joining: Joining) -> impl Future<Output = Result<EnrolReply, Refusal>> + Send {
        G::enrol(self, joining)
    }
    fn renew(&self, peer: &Peer, csr: Csr) -> impl Future<Output = Result<EnrolReply, Refusal>> + Send {
        G::renew(self, peer, csr)
    }
}

/// Limits of the listener.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    pub http2: Http2Options,
    /// For the TLS handshake, and then again for the gate's verdict.
    pub handshake_timeout: Duration,
    /// For a joining machine to send its request, and then again for the gate to answer it.
    pub enrol_timeout: Duration,
    /// Connections that have not shown yet who they are. One more, and the oldest of them is closed.
    pub max_handshakes: usize,
    /// What a link that ends by agreement has for the exchanges under way.
    pub drain: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            http2: Http2Options::default(),
            handshake_timeout: Duration::from_secs(10),
            enrol_timeout: Duration::from_secs(10),
            max_handshakes: 512,
            drain: Duration::from_secs(30),
        }
    }
}

pub(crate) struct Shared<G> {
    tls: Arc<ServerTls>,
    gate: G,
    links: Links,
    options: ServerOptions,
}

/// Serves agents on `listener` until `stop` is cancelled, then closes every link and returns when all connections have ended.
/// Their datagrams are heard on the UDP port of the same number, where that is free.
pub async fn serve<G: Gate>(
    listener: TcpListener,
    tls: Arc<ServerTls>,
    gate: G,
    links: Links,
    options: ServerOptions,
    stop: CancellationToken,
) {
    let handshakes = Handshakes::new(options.max_handshakes);
    let shared = Arc::new(Shared { tls, gate, links, options });
    let tasks = TaskTracker::new();
    if let Some(socket) = listener.local_addr().ok().and_then(beats::socket_at) {
        let (shared, stop) = (shared.clone(), stop.clone());
        tasks.spawn(async move { stop.run_until_cancelled(shared.links.beats().listen(socket)).await });
    }
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, address)) => {
                let slot = handshakes.enter();
                let (shared, stop) = (shared.clone(), stop.clone());
                tasks.spawn(async move { stop.run_until_cancelled(connection(&shared, socket, address, slot)).await });
            }
            Err(error) => {
                // Out of file descriptors, as a rule: accepting again at once would spin until one is free.
                warn!(%error, "cannot accept a connection on the agent port");
                tokio::select! { () = stop.cancelled() => break, () = tokio::time::sleep(Duration::from_millis(100)) => {} }
            }
        }
    }
    drop(listener);
    shared.links.close_all(CloseReason::Stopping);
    tasks.close();
    tasks.wait().await;
}

/// One connection, from its first byte to its last.
async fn connection<G: Gate>(shared: &Shared<G>, socket: TcpStream, address: SocketAddr, slot: Slot) {
    let shaken = tokio::select! {
        biased;
        () = slot.evicted() => {
            debug!(peer = %address, "closed an unfinished connection to make room for newer ones");
            return;
        }
        shaken = tokio::time::timeout(shared.options.handshake_timeout, handshake(&shared.tls, socket)) => shaken,
    };
    let stream = match shaken {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            let bad_certificate = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
            if let Some(rustls::Error::InvalidCertificate(reason)) = bad_certificate {
                warn!(peer = %address, ?reason, "refused a connection whose certificate does not hold");
            } else {
                debug!(peer = %address, %error, "a connection ended in its TLS handshake");
            }
            return;
        }
        Err(_elapsed) => {
            debug!(peer = %address, "a connection did not finish its TLS handshake in time");
            return;
        }
    };
    let tls = stream.get_ref().1;
    let certificate = tls
        .peer_certificates()
        .and_then(|chain| chain.first())
        .map(|leaf| NodeCertificate::from_der(leaf));
    let peer = match certificate {
        None => None,
        Some(Ok(read)) => Some(Peer {
            node: read.node,
            serial: read.serial,
            fingerprint: read.fingerprint,
            authority: read.authority,
            not_before: read.not_before,
            expires: read.not_after,
            address,
        }),
        Some(Err(error)) => {
            warn!(peer = %address, %error, "refused a connection whose certificate is not an agent's");
            return;
        }
    };
    match tls.alpn_protocol() {
        Some(ALPN_LINK) => link::run(shared, stream, peer, address, slot).await,
        Some(ALPN_ENROL) => enrol::run(shared, stream, peer, address, slot).await,
        _ => debug!(peer = %address, "a connection named no protocol of ours"),
    }
}

async fn handshake(tls: &ServerTls, socket: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
    http2::tune(&socket)?;
    TlsAcceptor::from(tls.current()).accept(socket).await
}

fn log_refusal(peer: &Peer, refusal: &Refusal) {
    info!(node.id = %peer.node, peer = %peer.address, serial = peer.serial, code = ?refusal.code, reason = refusal.message, "refused a node");
}
