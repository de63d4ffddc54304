//! Whom to trust: the public authorities, and one of the user's own where a file names it.

use anyhow::Context as _;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::path::Path;
use std::sync::Arc;

/// The TLS of all calls. `http1` keeps connections on HTTP/1.1, which WebSockets need.
pub fn config(ca_file: Option<&Path>, http1: bool) -> anyhow::Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    if let Some(path) = ca_file {
        let mut any = false;
        for certificate in CertificateDer::pem_file_iter(path).with_context(|| format!("read the certificates in {}", path.display()))? {
            let certificate = certificate.with_context(|| format!("read the certificates in {}", path.display()))?;
            roots
                .add(certificate)
                .with_context(|| format!("a certificate in {} can't be used", path.display()))?;
            any = true;
        }
        anyhow::ensure!(any, "{} holds no certificate in PEM form", path.display());
    }
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .context("set up TLS")?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = if http1 {
        vec![b"http/1.1".to_vec()]
    } else {
        vec![b"h2".to_vec(), b"http/1.1".to_vec()]
    };
    Ok(config)
}
