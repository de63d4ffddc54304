//! TLS towards clients: certificates from the document or from files, chosen by the name the client asks for.

use nm_types::proxy::{Certificate, CertificateSource, Tls};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::collections::HashMap;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// A certificate that can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct TlsError {
    /// Its place in `tls.certificates`.
    pub certificate: usize,
    pub reason: String,
}

/// Files may have changed though the document is the same.
pub fn reads_files(tls: &Tls) -> bool {
    tls.certificates.iter().any(|c| matches!(c.source, CertificateSource::Files { .. }))
}

pub fn acceptor(tls: &Tls) -> Result<TlsAcceptor, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let mut names = Names::default();
    for (i, certificate) in tls.certificates.iter().enumerate() {
        let key = certified_key(certificate, &provider).map_err(|reason| TlsError { certificate: i, reason })?;
        names.add(certificate, Arc::new(key));
    }
    let failed = |e: rustls::Error| TlsError {
        certificate: 0,
        reason: e.to_string(),
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(names));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = ring::Ticketer::new().map_err(failed)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certified_key(certificate: &Certificate, provider: &rustls::crypto::CryptoProvider) -> Result<CertifiedKey, String> {
    let read = |path: &str| std::fs::read(path).map_err(|e| format!("can't read {path}: {e}"));
    let (chain, key) = match &certificate.source {
        CertificateSource::Inline { certificate, key } => (certificate.clone().into_bytes(), key.0.clone().into_bytes()),
        CertificateSource::Files { certificate, key } => (read(certificate)?, read(key)?),
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&chain)
        .collect::<Result<_, _>>()
        .map_err(|e| format!("the certificate is not PEM: {e}"))?;
    if chain.is_empty() {
        return Err("there is no certificate in it".to_owned());
    }
    // What the key's parser says is not told: it could quote the key.
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|_| "the private key is not PEM, or of no known kind".to_owned())?;
    CertifiedKey::from_der(chain, key, provider).map_err(|e| format!("certificate and key do not go together: {e}"))
}

#[derive(Debug, Default)]
struct Names {
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// `example.com` for `*.example.com`.
    below: HashMap<String, Arc<CertifiedKey>>,
    first: Option<Arc<CertifiedKey>>,
}

impl Names {
    fn add(&mut self, certificate: &Certificate, key: Arc<CertifiedKey>) {
        for name in &certificate.server_names {
            let name = name.to_ascii_lowercase();
            match name.strip_prefix("*.") {
                Some(rest) => self.below.insert(rest.to_owned(), key.clone()),
                None => self.exact.insert(name, key.clone()),
            };
        }
        self.first.get_or_insert(key);
    }
}

impl ResolvesServerCert for Names {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls gives the name in small letters.
        let name = hello.server_name().unwrap_or_default();
        let below = || name.split_once('.').and_then(|(_, rest)| self.below.get(rest));
        self.exact.get(name).or_else(below).or(self.first.as_ref()).cloned()
    }
}
