//! Asking an address from the control plane. Every connection goes through the guard of [`crate::service::outbound`].

use crate::service::outbound::Guard;
use nm_link::ask::{get_status, is_wanted, wanted_status};
use nm_plan::health::Finding;
use nm_types::server::{AddressProbe, AddressProbeKind, PROBE_TIMEOUT};
use nm_types::units::Port;
use rustls::pki_types::ServerName;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// What came of it.
#[derive(Debug)]
pub enum Probed {
    /// Why there is no connection; `called` where something that should have answered did not.
    Unreachable { why: String, called: bool },
    Answered {
        /// Milliseconds the connection took.
        round_trip: f64,
        services: Vec<Finding>,
    },
}

fn unreachable(why: String) -> Probed {
    Probed::Unreachable { why, called: true }
}

/// Asks addresses.
#[derive(Clone)]
pub struct Prober {
    guard: Guard,
    /// Trusts the authorities that browsers trust.
    tls: TlsConnector,
}

impl Prober {
    pub fn new(guard: Guard) -> Self {
        let roots = rustls::RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        };
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has the protocol versions that rustls takes for safe")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            guard,
            tls: TlsConnector::from(Arc::new(config)),
        }
    }

    /// Asks the address a user registered.
    pub async fn registered(&self, host: &str, probe: &AddressProbe, port: Port) -> Probed {
        let seconds = probe.timeout.map_or(PROBE_TIMEOUT, |t| t.get().unsigned_abs());
        let deadline = Instant::now() + Duration::from_secs(seconds);
        let (address, stream, round_trip) = match self.reach(host, port.get(), deadline).await {
            Ok(connected) => connected,
            Err(Reach::Refused(address)) => return unreachable(format!("nothing listens on {address}: the connection is refused")),
            Err(Reach::Failed(probed)) => return probed,
        };
        let services = match probe.kind {
            AddressProbeKind::Tcp => vec![Finding::service(true, "connected", "connects", "")],
            AddressProbeKind::Http | AddressProbeKind::Https => {
                let asked = tokio::time::timeout_at(deadline.into(), self.ask(stream, host, probe, port)).await;
                let late = || {
                    let message = format!("{address} did not answer the request within {seconds} seconds");
                    Finding::service(false, "no answer", wanted_status(wanted(probe)), message)
                };
                vec![asked.unwrap_or_else(|_| late())]
            }
        };
        Probed::Answered { round_trip, services }
    }

    /// Asks a machine of which nothing is known but its address: that it answers at all, also by refusing, is enough.
    pub async fn machine(&self, host: &str) -> Probed {
        const SSH: u16 = 22;
        let began = Instant::now();
        match self.reach(host, SSH, began + Duration::from_secs(PROBE_TIMEOUT)).await {
            Ok((.., round_trip)) => Probed::Answered {
                round_trip,
                services: Vec::new(),
            },
            Err(Reach::Refused(_)) => Probed::Answered {
                round_trip: millis(began),
                services: Vec::new(),
            },
            Err(Reach::Failed(probed)) => probed,
        }
    }

    async fn reach(&self, host: &str, port: u16, deadline: Instant) -> Result<(SocketAddr, TcpStream, f64), Reach> {
        let failed = |why: String| Reach::Failed(unreachable(why));
        let address = match tokio::time::timeout_at(deadline.into(), self.guard.resolve(host, port)).await {
            Ok(Ok(address)) => address,
            Ok(Err(error)) => {
                return Err(Reach::Failed(Probed::Unreachable {
                    why: error.message,
                    called: false,
                }));
            }
            Err(_) => return Err(failed(format!("`{host}` was not resolved in time"))),
        };
        // The name's own time is not the server's.
        let began = Instant::now();
        match tokio::time::timeout_at(deadline.into(), TcpStream::connect(address)).await {
            Ok(Ok(stream)) => Ok((address, stream, millis(began))),
            Ok(Err(e)) if e.kind() == std::io::ErrorKind::ConnectionRefused => Err(Reach::Refused(address)),
            Ok(Err(e)) => Err(failed(format!("{address} can't be connected to: {e}"))),
            Err(_) => Err(failed(format!("{address} did not answer in time"))),
        }
    }

    async fn ask(&self, stream: TcpStream, host: &str, probe: &AddressProbe, port: Port) -> Finding {
        let path = probe.path.as_ref().map_or("/", |p| p.as_str());
        let bracketed = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let usual = if probe.kind == AddressProbeKind::Https { 443 } else { 80 };
        let authority = if port.get() == usual {
            bracketed
        } else {
            format!("{bracketed}:{port}")
        };
        let limit = wanted_status(wanted(probe));
        let asked = match probe.kind {
            AddressProbeKind::Https => {
                let Ok(name) = ServerName::try_from(host.to_owned()) else {
                    return Finding::service(false, "no TLS", limit, "its address is no name that a certificate can hold");
                };
                match self.tls.connect(name, stream).await {
                    Ok(stream) => get_status(stream, &authority, path).await,
                    Err(error) => {
                        let message = format!("there is no TLS connection that can be trusted: {error}");
                        return Finding::service(false, "no TLS", limit, message);
                    }
                }
            }
            AddressProbeKind::Http | AddressProbeKind::Tcp => get_status(stream, &authority, path).await,
        };
        match asked {
            Ok(status) if is_wanted(status, wanted(probe)) => Finding::service(true, format!("status {status}"), limit, ""),
            Ok(status) => Finding::service(
                false,
                format!("status {status}"),
                limit,
                format!("{path} is answered with another status"),
            ),
            Err(error) => {
                tracing::debug!(host, error = &error as &dyn std::error::Error, "an address gave no HTTP answer");
                Finding::service(false, "no HTTP answer", limit, "what listens there does not answer in HTTP")
            }
        }
    }
}

enum Reach {
    /// The machine answers, and nothing listens there.
    Refused(SocketAddr),
    Failed(Probed),
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

fn wanted(probe: &AddressProbe) -> Option<u16> {
    probe.expect_status.and_then(|s| u16::try_from(s.get()).ok())
}
