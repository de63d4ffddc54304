//! Being there for the control plane: one connection to each of its addresses, dialled again whenever it ends.
//!
//! A connection can be dead without having ended, and a lossy line makes a healthy one silent. So a silent one is kept, and
//! another is dialled beside it: whichever is there first goes on. The control plane takes the newer for the older's
//! replacement.

use super::backoff::Backoff;
use super::dial::{DialError, DialOptions, ServerUrl, dial, tls_failure};
use super::identity::{AgentIdentity, IdentityStore};
use super::trust::WithTrust;
use super::{beats, renew};
use crate::beat::BeatKey;
use crate::ear::Ear;
use crate::http2::{CONNECTION_WINDOW, ConnectionTasks, Farewell, Http2Options, MAX_HEADERS, RESETS_REMEMBERED, SEND_BUFFER};
use crate::tls::{TlsError, member_config};
use crate::wire::{ALPN_LINK, Refusal, RefusalCode, Verdict, read_verdict};
use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How an agent keeps its links.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    pub http2: Http2Options,
    pub dial: DialOptions,
    /// The wait after a first failure; it doubles with each further one, with jitter.
    pub first_retry: Duration,
    /// The longest wait between two attempts while the control plane turns this node away, or breaks off what it began.
    pub longest_retry: Duration,
    /// The longest wait between two attempts while the control plane can't be reached at all, once it has been: an attempt
    /// costs it nothing, and the node is to be back soon after the line is.
    pub longest_unreached_retry: Duration,
    /// How long a connection may be silent before another is dialled beside it. A healthy one carries pings at least.
    pub silent_after: Duration,
    /// The pause between two datagrams beside the link.
    pub beat_every: Duration,
    /// How long a link must have stood for the next wait to be a first one again. A control plane that admits a node and drops
    /// it at once is not dialled five times a second for it.
    pub stable_after: Duration,
    /// What requests under way have to end when the agent stops.
    pub drain: Duration,
    /// The wait after a renewal before another is looked at, and after a first failed one.
    pub renewal_pause: Duration,
    /// The longest wait between two attempts to renew.
    pub longest_renewal_pause: Duration,
}

impl Default for AgentOptions {
    fn default() -> Self {
        Self {
            http2: Http2Options::default(),
            dial: DialOptions::default(),
            first_retry: Duration::from_millis(200),
            longest_retry: Duration::from_secs(10),
            longest_unreached_retry: Duration::from_secs(2),
            silent_after: Duration::from_secs(5),
            beat_every: Duration::from_millis(500),
            stable_after: Duration::from_secs(5),
            drain: Duration::from_secs(5),
            renewal_pause: Duration::from_secs(60),
            longest_renewal_pause: Duration::from_secs(3600),
        }
    }
}

/// How things stand with one control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    Connecting,
    Connected {
        since: SystemTime,
    },
    /// Not connected; the next attempt comes by itself.
    Waiting {
        /// Why, in words.
        error: String,
        /// Set when the control plane was reached and said no.
        refused: Option<RefusalCode>,
        retry_in: Duration,
    },
    Stopped,
}

/// An agent's links to all of its control planes, and the renewal of its certificate.
pub struct AgentLink {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) store: IdentityStore,
    pub(super) identity: ArcSwap<AgentIdentity>,
    /// Held while the identity changes: what is read, changed and saved is one step.
    pub(super) changing: tokio::sync::Mutex<()>,
    servers: Vec<ServerUrl>,
    options: AgentOptions,
    states: watch::Sender<BTreeMap<ServerUrl, LinkState>>,
}

/// Why a connection came to nothing, or to its end.
#[derive(Debug, thiserror::Error)]
enum LinkFailure {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("{server} did not say within {after:?} whether it admits this node")]
    NoVerdict { server: ServerUrl, after: Duration },
    #[error("the control plane refused this node: {0}")]
    Refused(Refusal),
    #[error("the link broke")]
    Broke(#[source] hyper::Error),
    #[error("the control plane closed the link")]
    Closed,
}

impl LinkFailure {
    /// Whether nothing but silence, or a closed port, was met: what costs the control plane no work.
    fn is_unreached(&self) -> bool {
        matches!(self, Self::Dial(DialError::Resolve { .. } | DialError::Connect { .. }))
    }
}

/// A connection on which the control plane has admitted this node.
struct Admitted {
    stream: TlsStream<TcpStream>,
    peer: SocketAddr,
    /// Absent where TLS gave none: there are no datagrams then.
    key: Option<BeatKey>,
}

/// How the serving of a connection came to its end.
enum Served {
    Ended(Result<(), hyper::Error>),
    /// It was silent, and another one was admitted in its place.
    Replaced(Box<Admitted>),
}

impl AgentLink {
    /// Prepares links of the node that `identity` is, to each of `servers`. Renewed identities are saved to `store`.
    pub fn new(store: IdentityStore, identity: AgentIdentity, mut servers: Vec<ServerUrl>, options: AgentOptions) -> Self {
        servers.sort();
        servers.dedup();
        let states = servers.iter().map(|s| (s.clone(), LinkState::Connecting)).collect();
        let inner = Inner {
            store,
            identity: ArcSwap::from_pointee(identity),
            changing: tokio::sync::Mutex::default(),
            servers,
            options,
            states: watch::Sender::new(states),
        };
        Self { inner: Arc::new(inner) }
    }

    /// How things stand with each control plane, now and at every change.
    pub fn states(&self) -> watch::Receiver<BTreeMap<ServerUrl, LinkState>> {
        self.inner.states.subscribe()
    }

    /// The identity in use for the next connection.
    pub fn identity(&self) -> Arc<AgentIdentity> {
        self.inner.identity.load_full()
    }

    /// Serves `service` to every control plane until `stop` is cancelled; then says goodbye to each, lets requests under way
    /// end for [`AgentOptions::drain`], and returns. A tower service, an axum router among them, fits when wrapped into
    /// [`hyper_util::service::TowerToHyperService`].
    ///
    /// A request's future is dropped when its link breaks or nobody waits for it any more. What is asked about the identity
    /// itself ([`crate::contract::path::TRUST`]) is answered here, and `service` does not see it.
    pub async fn run<S, B>(&self, service: S, stop: CancellationToken)
    where
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError> + Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let service = WithTrust::new(self.inner.clone(), service);
        let mut loops = JoinSet::new();
        for server in self.inner.servers.clone() {
            let (inner, service, stop) = (self.inner.clone(), service.clone(), stop.clone());
            loops.spawn(async move { inner.keep_linked(&server, service, &stop).await });
        }
        let (inner, renewing) = (self.inner.clone(), stop.clone());
        loops.spawn(async move {
            renewing.run_until_cancelled(inner.keep_renewed()).await;
        });
        while let Some(ended) = loops.join_next().await {
            if let Err(error) = ended {
                // One of our own loops panicked: the agent must not live on half deaf, thinking itself linked.
                if error.is_panic() {
                    std::panic::resume_unwind(error.into_panic());
                }
            }
        }
    }
}

impl Inner {
    fn set(&self, server: &ServerUrl, state: LinkState) {
        self.states.send_modify(|all| {
            all.insert(server.clone(), state);
        });
    }

    async fn keep_linked<S, B>(&self, server: &ServerUrl, service: S, stop: &CancellationToken)
    where
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let mut backoff = Backoff::new(self.options.first_retry);
        // The last failure that was told: a control plane that is away for an hour is one line in the log, not hundreds.
        let mut told = None;
        // The datagrams of the newest link. They go on when it breaks, for then they are what tells that the node is well.
        let mut beating = None;
        while !stop.is_cancelled() {
            self.set(server, LinkState::Connecting);
            let mut connected_at = None;
            let connecting = stop.run_until_cancelled(self.connect(server)).await;
            let failure = match connecting {
                None => break,
                Some(Err(failure)) => failure,
                Some(Ok(mut admitted)) => {
                    let node = self.identity.load().node().clone();
                    info!(node.id = %node, %server, "linked to the control plane");
                    self.set(server, LinkState::Connected { since: SystemTime::now() });
                    connected_at = Some(Instant::now());
                    told = None;
                    loop {
                        beating = admitted.key.take().map(|key| {
                            let sending = beats::send(admitted.peer, key, self.options.beat_every);
                            AbortOnDropHandle::new(tokio::spawn(sending))
                        });
                        match self.serve(server, admitted.stream, service.clone(), stop).await {
                            Served::Ended(Ok(())) => break LinkFailure::Closed,
                            Served::Ended(Err(error)) => break LinkFailure::Broke(error),
                            Served::Replaced(newer) => {
                                info!(node.id = %node, %server, "a silent link to the control plane was replaced");
                                self.set(server, LinkState::Connected { since: SystemTime::now() });
                                connected_at = Some(Instant::now());
                                admitted = *newer;
                            }
                        }
                    }
                }
            };
            if stop.is_cancelled() {
                break;
            }
            if connected_at.is_some_and(|at| at.elapsed() >= self.options.stable_after) {
                backoff.reset();
            }
            let refused = match &failure {
                LinkFailure::Refused(refusal) => Some(refusal.code),
                _ => None,
            };
            if refused.is_some() {
                beating = None;
            }
            let was_linked = beating.is_some();
            let retry_in = backoff.next(if was_linked && failure.is_unreached() {
                self.options.longest_unreached_retry
            } else {
                self.options.longest_retry
            });
            let error = in_full(&failure);
            if told.as_ref() == Some(&error) {
                debug!(%server, error, ?retry_in, "still not linked");
            } else {
                warn!(%server, error, ?retry_in, "not linked to the control plane");
                told = Some(error.clone());
            }
            self.set(server, LinkState::Waiting { error, refused, retry_in });
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(retry_in) => {}
            }
        }
        self.set(server, LinkState::Stopped);
    }

    /// Dials, proves who we are, and waits for the verdict.
    async fn connect(&self, server: &ServerUrl) -> Result<Admitted, LinkFailure> {
        let stream = self.dial(server).await?;
        self.verdict(server, stream).await
    }

    async fn dial(&self, server: &ServerUrl) -> Result<TlsStream<TcpStream>, LinkFailure> {
        let identity = self.identity.load_full();
        let (chain, key) = identity.tls().map_err(TlsError::from)?;
        let config = member_config(identity.trust(), chain, key, ALPN_LINK)?;
        Ok(dial(server, Arc::new(config), &self.options.dial).await?)
    }

    async fn verdict(&self, server: &ServerUrl, mut stream: TlsStream<TcpStream>) -> Result<Admitted, LinkFailure> {
        let after = self.options.dial.handshake_timeout;
        match tokio::time::timeout(after, read_verdict(&mut stream)).await {
            Ok(Ok(Verdict::Admitted)) => {
                let peer = stream.get_ref().0.peer_addr().map_err(|source| DialError::Connect {
                    server: server.clone(),
                    source,
                })?;
                let key = BeatKey::of_link(stream.get_ref().1)
                    .inspect_err(|error| warn!(%server, %error, "no key for datagrams from this session"))
                    .ok();
                Ok(Admitted { stream, peer, key })
            }
            Ok(Ok(Verdict::Refused(refusal))) => Err(LinkFailure::Refused(refusal)),
            Ok(Err(error)) => Err(tls_failure(server, error).into()),
            Err(_elapsed) => Err(LinkFailure::NoVerdict {
                server: server.clone(),
                after,
            }),
        }
    }

    async fn serve<S, B>(&self, server: &ServerUrl, stream: TlsStream<TcpStream>, service: S, stop: &CancellationToken) -> Served
    where
        S: Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let options = &self.options.http2;
        let tasks = ConnectionTasks::default();
        // However this ends, by a panic or by being dropped, what runs on the connection ends with it.
        let _sever = tasks.severing().clone().drop_guard();
        let ear = Arc::new(Ear::new());
        let (stream, _farewell) = Farewell::listen(stream, {
            let ear = ear.clone();
            move || ear.hear()
        });
        let mut connection = pin!(
            hyper::server::conn::http2::Builder::new(tasks.clone())
                .timer(TokioTimer::new())
                .keep_alive_interval(options.ping_interval)
                .keep_alive_timeout(options.ping_timeout)
                .initial_stream_window_size(options.stream_window)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_send_buf_size(SEND_BUFFER)
                .max_header_list_size(MAX_HEADERS)
                .max_concurrent_streams(options.max_streams)
                // A burst of requests taken back at once is no attack here: the one client is the control plane.
                .max_pending_accept_reset_streams(RESETS_REMEMBERED)
                .max_local_error_reset_streams(None)
                .serve_connection(TokioIo::new(stream), service)
        );
        let served = tokio::select! {
            ended = connection.as_mut() => Served::Ended(ended),
            newer = self.when_silent(server, &ear) => Served::Replaced(Box::new(newer)),
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                // Out of time, the connection is dropped, and with it whatever still runs on it.
                Served::Ended(tokio::time::timeout(self.options.drain, connection).await.unwrap_or(Ok(())))
            }
        };
        tasks.drain(Duration::ZERO).await;
        served
    }

    /// Waits until nothing is heard on a connection, and dials beside it until another is admitted. An attempt is given up when
    /// the old one speaks again, as long as the control plane can't have taken the new one for its replacement yet.
    async fn when_silent(&self, server: &ServerUrl, old: &Ear) -> Admitted {
        let mut backoff = Backoff::new(self.options.first_retry);
        loop {
            old.silent_for(self.options.silent_after).await;
            debug!(%server, "nothing is heard on the link; dialling beside it");
            let dialled = tokio::select! {
                biased;
                () = old.speaks() => {
                    backoff.reset();
                    continue;
                }
                dialled = self.dial(server) => dialled,
            };
            let failure = match dialled {
                Ok(stream) => match self.verdict(server, stream).await {
                    Ok(admitted) => return admitted,
                    Err(failure) => failure,
                },
                Err(failure) => failure,
            };
            let retry_in = backoff.next(if failure.is_unreached() {
                self.options.longest_unreached_retry
            } else {
                self.options.longest_retry
            });
            debug!(%server, error = in_full(&failure), ?retry_in, "no link beside the silent one yet");
            tokio::time::sleep(retry_in).await;
        }
    }

    async fn keep_renewed(&self) {
        let mut backoff = Backoff::new(self.options.renewal_pause);
        loop {
            until(renew::due(&self.identity.load_full())).await;
            let renewed = {
                let _changing = self.changing.lock().await;
                // It may have been renewed meanwhile, because a control plane asked for it.
                renew::due(&self.identity.load()) > SystemTime::now() || self.renew_once().await
            };
            if renewed {
                backoff.reset();
                tokio::time::sleep(self.options.renewal_pause).await;
            } else {
                tokio::time::sleep(backoff.next(self.options.longest_renewal_pause)).await;
            }
        }
    }

    /// Asks one control plane after the other; says whether one renewed the certificate. The caller holds `changing`.
    pub(super) async fn renew_once(&self) -> bool {
        let present = self.identity.load_full();
        for server in &self.servers {
            match renew::renew(&self.store, &present, server, &self.options.dial).await {
                Ok(renewed) => {
                    let certificate = renewed.certificate();
                    info!(node.id = %certificate.node, serial = certificate.serial, %server, "renewed this node's certificate");
                    self.identity.store(renewed);
                    return true;
                }
                Err(error) => warn!(%server, error = in_full(&error), "could not renew this node's certificate"),
            }
        }
        false
    }
}

/// Ends when the wall clock shows `at`. It looks again every minute, for a wall clock can be set and a machine can sleep.
async fn until(at: SystemTime) {
    while let Ok(left) = at.duration_since(SystemTime::now()) {
        tokio::time::sleep(left.min(Duration::from_secs(60)) + Duration::from_millis(1)).await;
    }
}

/// An error with all of its causes, on one line.
fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
