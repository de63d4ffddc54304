//! TLS of both sides: version 1.3 only, `ring`, no resumption.
//!
//! Invariants:
//! - Every connection is verified afresh. Session tickets are off on both sides, for a resumed session would skip the
//!   certificate's dates, and with them expiry.
//! - A server is known by its authority and by the fixed name [`CONTROL_NAME`]; the address dialled proves nothing.
//! - While joining, the authority itself is known by its pin, and the chain is still checked in full under it. The handshake
//!   fails before the first byte of application data can leave.

use crate::pki::{CONTROL_NAME, PkiError, ServerIdentity, TrustBundle};
use crate::wire::{ALPN_ENROL, ALPN_LINK};
use arc_swap::ArcSwap;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, ServerConfig, SignatureScheme};
use std::sync::Arc;

/// What cannot be put together into a TLS configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("set up TLS")]
    Config(#[from] rustls::Error),
    #[error("set up TLS: {0}")]
    Verifier(String),
    #[error(transparent)]
    Pki(#[from] PkiError),
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

pub(crate) fn control_name() -> ServerName<'static> {
    ServerName::try_from(CONTROL_NAME).expect("the constant is a valid DNS name, as every connection in the tests proves")
}

/// A listener's certificate and the authorities it accepts agents of. Both can be exchanged while it serves; connections made
/// before keep what they were made with.
pub struct ServerTls(ArcSwap<ServerConfig>);

impl ServerTls {
    pub fn new(identity: &ServerIdentity, trust: &TrustBundle) -> Result<Self, TlsError> {
        Ok(Self(ArcSwap::from_pointee(server_config(identity, trust)?)))
    }

    /// From the next connection on, `identity` is shown and `trust` decides.
    pub fn replace(&self, identity: &ServerIdentity, trust: &TrustBundle) -> Result<(), TlsError> {
        self.0.store(Arc::new(server_config(identity, trust)?));
        Ok(())
    }

    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        self.0.load_full()
    }
}

fn server_config(identity: &ServerIdentity, trust: &TrustBundle) -> Result<ServerConfig, TlsError> {
    let provider = provider();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(trust.roots()?), provider.clone())
        // A machine that joins has no certificate yet. One that shows a certificate must show a good one.
        .allow_unauthenticated()
        .build()
        .map_err(|e| TlsError::Verifier(e.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())?;
    config.alpn_protocols = vec![ALPN_LINK.to_vec(), ALPN_ENROL.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// For a node that has an identity: to link, or to renew.
pub(crate) fn member_config(
    trust: &TrustBundle,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    alpn: &[u8],
) -> Result<ClientConfig, TlsError> {
    let provider = provider();
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(trust.roots()?), provider.clone())
        .build()
        .map_err(|e| TlsError::Verifier(e.to_string()))?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(chain, key)?;
    Ok(finish(config, alpn))
}

/// For a machine that joins: it knows of the control plane the hash of its authority's key.
pub(crate) fn joining_config(pin: [u8; 32]) -> Result<ClientConfig, TlsError> {
    let provider = provider();
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinnedAuthority { pin, provider }))
        .with_no_client_auth();
    Ok(finish(config, ALPN_ENROL))
}

fn finish(mut config: ClientConfig, alpn: &[u8]) -> ClientConfig {
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    config
}

/// None of the certificates a server showed is the authority that the join token names.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the server is not the control plane this join token is for: its authority's key has another hash")]
pub(crate) struct PinMismatch;

/// Finds the pinned authority among what the server shows, and lets webpki check the chain under that authority alone.
#[derive(Debug)]
struct PinnedAuthority {
    pin: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedAuthority {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = intermediates
            .iter()
            .find(|c| crate::pki::is_authority_with_key(c, &self.pin))
            .ok_or(CertificateError::Other(OtherError(Arc::new(PinMismatch))))?;
        let mut roots = RootCertStore::empty();
        roots.add(pinned.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|e| rustls::Error::General(e.to_string()))?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
