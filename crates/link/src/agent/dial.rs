//! Reaching a control plane: its address, TCP, TLS.

use crate::http2;
use crate::tls::{PinMismatch, control_name};
use http::Uri;
use rustls::{AlertDescription, CertificateError, ClientConfig};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The port agents dial when a URL names none.
const DEFAULT_PORT: u16 = 7443;

/// Where a control plane listens for agents: `https://host:7443`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerUrl {
    /// A name or an address, the latter without brackets.
    host: String,
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a control plane's address; expected `https://host:7443`, without user, path or query")]
pub struct BadServerUrl(String);

impl FromStr for ServerUrl {
    type Err = BadServerUrl;

    fn from_str(text: &str) -> Result<Self, BadServerUrl> {
        let bad = || BadServerUrl(text.chars().take(200).collect());
        let uri: Uri = text.trim().parse().map_err(|_| bad())?;
        let authority = uri.authority().ok_or_else(bad)?;
        let plain = uri.scheme_str() == Some("https") && matches!(uri.path(), "" | "/") && uri.query().is_none();
        // What follows the host is a port that can be used, or nothing.
        let port = match authority
            .as_str()
            .strip_prefix(authority.host())
            .filter(|_| plain)
            .ok_or_else(bad)?
        {
            "" => DEFAULT_PORT,
            _ => authority.port_u16().filter(|p| *p != 0).ok_or_else(bad)?,
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            Err(bad())
        } else {
            Ok(Self {
                host: host.to_owned(),
                port,
            })
        }
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "https://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "https://{}:{}", self.host, self.port)
        }
    }
}

/// Deadlines of dialling.
#[derive(Debug, Clone)]
pub struct DialOptions {
    /// For each address a host's name has, and for resolving the name.
    pub connect_timeout: Duration,
    /// For the TLS handshake, and then again for the control plane's verdict.
    pub handshake_timeout: Duration,
    /// For the control plane's answer to an enrolment.
    pub answer_timeout: Duration,
}

impl Default for DialOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            handshake_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(15),
        }
    }
}

/// Why there is no connection to a control plane.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("cannot find the address of {server}")]
    Resolve {
        server: ServerUrl,
        #[source]
        source: io::Error,
    },
    #[error("cannot reach {server}")]
    Connect {
        server: ServerUrl,
        #[source]
        source: io::Error,
    },
    /// The server proved to be another than the one this node, or this join token, belongs to.
    #[error("{server} is not the control plane that was expected: {reason}")]
    NotTrusted { server: ServerUrl, reason: String },
    /// The server does not accept this node's certificate.
    #[error("{server} does not accept this node's certificate: {reason}")]
    CertificateRefused { server: ServerUrl, reason: String },
    #[error("the TLS handshake with {server} failed")]
    Handshake {
        server: ServerUrl,
        #[source]
        source: io::Error,
    },
    #[error("{server} did not finish the TLS handshake within {after:?}")]
    HandshakeTimeout { server: ServerUrl, after: Duration },
    #[error("{server} answers TLS, but is not a control plane's agent port")]
    WrongPort { server: ServerUrl },
}

pub(super) async fn dial(server: &ServerUrl, config: Arc<ClientConfig>, options: &DialOptions) -> Result<TlsStream<TcpStream>, DialError> {
    let socket = connect(server, options.connect_timeout).await?;
    http2::tune(&socket).map_err(|source| DialError::Connect {
        server: server.clone(),
        source,
    })?;
    let wanted = config.alpn_protocols.first().cloned();
    let handshake = TlsConnector::from(config).connect(control_name(), socket);
    let stream = match tokio::time::timeout(options.handshake_timeout, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(source)) => return Err(tls_failure(server, source)),
        Err(_elapsed) => {
            return Err(DialError::HandshakeTimeout {
                server: server.clone(),
                after: options.handshake_timeout,
            });
        }
    };
    if stream.get_ref().1.alpn_protocol() != wanted.as_deref() {
        return Err(DialError::WrongPort { server: server.clone() });
    }
    Ok(stream)
}

/// Tries each address in turn, so that one that swallows packets costs one timeout and no more.
async fn connect(server: &ServerUrl, timeout: Duration) -> Result<TcpStream, DialError> {
    let timed_out = || io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {timeout:?}"));
    let resolve = |source| DialError::Resolve {
        server: server.clone(),
        source,
    };
    let found = tokio::time::timeout(timeout, tokio::net::lookup_host((server.host.as_str(), server.port))).await;
    let addresses: Vec<SocketAddr> = found.map_err(|_| resolve(timed_out()))?.map_err(resolve)?.collect();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => return Ok(socket),
            Ok(Err(error)) => last = error,
            Err(_elapsed) => last = timed_out(),
        }
    }
    Err(DialError::Connect {
        server: server.clone(),
        source: last,
    })
}

/// Says in words what went wrong in TLS. Also for errors after the handshake: with TLS 1.3 a server that does not accept the
/// client's certificate says so only then.
pub(super) fn tls_failure(server: &ServerUrl, source: io::Error) -> DialError {
    let server = server.clone();
    match source.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(reason)) => DialError::NotTrusted {
            server,
            reason: in_words(reason),
        },
        Some(rustls::Error::AlertReceived(alert)) => {
            let reason = match alert {
                AlertDescription::CertificateExpired => "it has expired; join again with a new token",
                AlertDescription::UnknownCA | AlertDescription::BadCertificate | AlertDescription::DecryptError => {
                    "it was issued by another control plane; join again with a new token"
                }
                AlertDescription::CertificateRevoked => "it was revoked",
                AlertDescription::UnsupportedCertificate => "it is not an agent's",
                AlertDescription::CertificateRequired => "none was shown",
                AlertDescription::CertificateUnknown | AlertDescription::AccessDenied => "it was refused",
                AlertDescription::NoApplicationProtocol => return DialError::WrongPort { server },
                _ => return DialError::Handshake { server, source },
            };
            DialError::CertificateRefused {
                server,
                reason: reason.to_owned(),
            }
        }
        _ => DialError::Handshake { server, source },
    }
}

fn in_words(reason: &CertificateError) -> String {
    match reason {
        CertificateError::Other(other) if other.0.is::<PinMismatch>() => other.0.to_string(),
        CertificateError::UnknownIssuer | CertificateError::BadSignature => "its certificate was issued by another authority".to_owned(),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "its certificate has expired".to_owned(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet; is this machine's clock right?".to_owned()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "its certificate is not for serving".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "its certificate is not a control plane's".to_owned()
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, shown) in [
            ("https://mesh.example.com:7443", "https://mesh.example.com:7443"),
            ("https://mesh.example.com", "https://mesh.example.com:7443"),
            ("https://10.0.0.1:1/", "https://10.0.0.1:1"),
            (" https://[::1]:8443\n", "https://[::1]:8443"),
        ] {
            let url: ServerUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!(url.to_string().parse::<ServerUrl>().unwrap(), url);
        }
        for bad in [
            "",
            "mesh:7443",
            "http://mesh:7443",
            "https://",
            "https://a:0",
            "https://a:99999",
            "https://u:p@a",
            "https://a/b",
            "https://a?x",
            "https://a:",
        ] {
            assert!(bad.parse::<ServerUrl>().is_err(), "{bad:?}");
        }
    }
}
