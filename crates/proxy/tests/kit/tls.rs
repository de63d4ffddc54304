//! Clients that speak TLS, and certificates.

use super::Proxy;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub struct Pair {
    pub pem: String,
    pub key: String,
    pub der: CertificateDer<'static>,
}

pub fn certificate(name: &str) -> Pair {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    Pair {
        pem: made.cert.pem(),
        key: made.signing_key.serialize_pem(),
        der: made.cert.der().clone(),
    }
}

impl Pair {
    pub fn json(&self, names: &[&str]) -> Value {
        json!({"serverNames": names, "source": {"inline": {"certificate": self.pem, "key": self.key}}})
    }
}

/// Connects as a client that trusts these certificates and no others.
pub async fn connect(proxy: &Proxy, name: &str, trusted: &[&Pair], protocols: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for pair in trusted {
        roots.add(pair.der.clone()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(proxy.address()).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}
