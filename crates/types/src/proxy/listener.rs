//! Where a proxy listens, and how it treats who comes.

use super::Network;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;

/// An address and port that takes connections.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Listener {
    /// Unique in the document. What keeps id, address and port over a change keeps its socket.
    pub id: String,
    pub address: IpAddr,
    pub port: u16,
    pub protocol: Protocol,
    /// Ends TLS here. Not for `tcp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Answers every request with a redirect to HTTPS on this port. Not with `tls` or `routes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect_to_https: Option<RedirectToHttps>,
    /// Where HTTP requests go: the longest path prefix of the most exact host wins. Only for `http`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// The cluster connections go to. Only for `tcp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Each connection must begin with a PROXY protocol header, version 1 or 2. Connections that come from outside
    /// `trusted_addresses` are then refused.
    #[serde(default)]
    pub accept_proxy_protocol: bool,
    /// Whose PROXY protocol headers, `X-Forwarded-*` and `Forwarded` are believed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trusted_addresses: Vec<Network>,
    /// Writes one JSON line for each request or TCP connection.
    #[serde(default)]
    pub access_log: bool,
    #[serde(default)]
    pub limits: Limits,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1 and HTTP/2, WebSocket and other upgrades.
    Http,
    /// Bytes as they come.
    Tcp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedirectToHttps {
    #[serde(default = "https_port")]
    pub port: u16,
}

fn https_port() -> u16 {
    443
}

/// Requests to `host` whose path is `path_prefix` or lies below it go to `cluster`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Route {
    /// `app.example.com`, `*.example.com` for one further label, or nothing for every host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    #[serde(default = "root")]
    pub path_prefix: String,
    pub cluster: String,
}

fn root() -> String {
    "/".to_owned()
}

/// The certificates of a listener. The first is given to clients that name no server, or an unknown one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tls {
    pub certificates: Vec<Certificate>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Certificate {
    /// The names (SNI) this one is for: `app.example.com`, `*.example.com`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub server_names: Vec<String>,
    pub source: CertificateSource,
}

/// Where a certificate chain, the server's own first, and its key lie; both in PEM form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum CertificateSource {
    /// In the document itself.
    Inline { certificate: String, key: PrivateKey },
    /// In files of the node, read whenever a configuration is put.
    Files { certificate: String, key: String },
}

/// A private key in PEM form. It stands in the document; `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PrivateKey(pub String);

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(…)")
    }
}

/// What one client, or all of them, may take of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Connections at once; further ones are closed as they come.
    pub max_connections: u32,
    /// Time for a request's head, from its first byte to its last; also for a TLS handshake and a PROXY protocol header.
    pub header_timeout_ms: u32,
    /// Bytes of a request's head. Larger ones are answered 431.
    pub max_header_bytes: u32,
    /// How long a connection may stand idle between two requests.
    pub keep_alive_timeout_ms: u32,
    /// The longest pause between two pieces of a request's body, and of a client that takes its answer.
    pub body_idle_timeout_ms: u32,
    /// Bytes of a request's body; larger ones are answered 413. No limit where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_request_bytes: Option<u64>,
    /// How long a TCP connection, a WebSocket or another upgraded one may be silent in both directions.
    pub tunnel_idle_timeout_ms: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 20_000,
            header_timeout_ms: 10_000,
            max_header_bytes: 16 << 10,
            keep_alive_timeout_ms: 60_000,
            body_idle_timeout_ms: 30_000,
            max_request_bytes: None,
            tunnel_idle_timeout_ms: 3_600_000,
        }
    }
}
