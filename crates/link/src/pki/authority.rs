//! The certificate authority: an ECDSA P-256 key and a self-signed certificate. The caller seals what [`Authority::to_pem`]
//! gives and keeps it; nothing here touches a disk.

use super::{
    AUTHORITY_LIFETIME, AUTHORITY_NAME, CONTROL_NAME, Csr, IssuedCertificate, NodeCertificate, PkiError, TrustBundle, Validity,
    certificate, csr, node_uri, sha256,
};
use nm_types::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};
use time::OffsetDateTime;
use zeroize::Zeroizing;

/// A certificate authority that can issue. Whoever holds it can speak for every node: it stays in the control plane.
pub struct Authority {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) issuer: Issuer<'static, KeyPair>,
    pub(super) not_after: SystemTime,
}

/// An authority as text. The key is secret: seal it before it is stored.
pub struct AuthorityPem {
    pub certificate: String,
    pub key: Zeroizing<String>,
}

/// A control plane's certificate chain and key, ready for a listener.
pub struct ServerIdentity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    not_after: SystemTime,
}

impl Authority {
    /// A new authority, valid ten years from `now`.
    pub fn generate(now: SystemTime) -> Result<Self, PkiError> {
        let key = csr::generate_key()?;
        let pin = hex::encode(sha256(&key.subject_public_key_info()));
        let mut params = CertificateParams::default();
        set_validity(&mut params, Validity::starting(now, AUTHORITY_LIFETIME))?;
        params.serial_number = Some(random_serial()?);
        params.distinguished_name = DistinguishedName::new();
        // A part of the key's hash keeps an old and a new authority apart wherever they are shown side by side.
        params
            .distinguished_name
            .push(DnType::CommonName, format!("{AUTHORITY_NAME}{}", &pin[..16]));
        // One below: the certificate that a successor gets of it.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(|source| PkiError::Make {
            what: "an authority's certificate",
            source,
        })?;
        Self::assemble(certificate.der().clone(), key)
    }

    /// Loads what [`Self::to_pem`] gave. Refuses a key that does not belong to the certificate.
    pub fn from_pem(pem: &AuthorityPem) -> Result<Self, PkiError> {
        let certificate = certificate::single_from_pem(&pem.certificate)?;
        Self::assemble(certificate, csr::key_from_pem(&pem.key)?)
    }

    fn assemble(der: CertificateDer<'static>, key: KeyPair) -> Result<Self, PkiError> {
        let info = certificate::inspect(&der)?;
        if !info.is_authority {
            return Err(PkiError::read("an authority's certificate", "it is not an authority"));
        }
        if info.spki_sha256 != sha256(&key.subject_public_key_info()) {
            return Err(PkiError::KeyMismatch);
        }
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|source| PkiError::Make {
            what: "an issuer from the authority's certificate",
            source,
        })?;
        Ok(Self {
            certificate: der,
            issuer,
            not_after: info.not_after,
        })
    }

    pub fn to_pem(&self) -> AuthorityPem {
        AuthorityPem {
            certificate: certificate::to_pem(&self.certificate),
            key: Zeroizing::new(self.issuer.key().serialize_pem()),
        }
    }

    /// SHA-256 of the authority's SubjectPublicKeyInfo: what a join token carries.
    pub fn spki_sha256(&self) -> [u8; 32] {
        sha256(&self.issuer.key().subject_public_key_info())
    }

    /// The authority's short name: the first 16 hexadecimal digits of [`Self::spki_sha256`].
    pub fn name(&self) -> String {
        hex::encode(&self.spki_sha256()[..8])
    }

    /// This authority alone, as a list of trust. While one authority follows another, the list holds both.
    pub fn trust(&self) -> TrustBundle {
        TrustBundle::of(self.certificate.clone())
    }

    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// A fresh key and a certificate that can only serve. It always carries [`CONTROL_NAME`]; `alt_names` (host names and IP
    /// addresses) are for people and other programs, agents do not need them.
    pub fn issue_server<N: AsRef<str>>(&self, alt_names: &[N], validity: Validity) -> Result<ServerIdentity, PkiError> {
        let key = csr::generate_key()?;
        let mut params = self.leaf(validity)?;
        params.distinguished_name.push(DnType::CommonName, CONTROL_NAME);
        params.subject_alt_names.push(dns_name(CONTROL_NAME)?);
        for name in alt_names.iter().map(AsRef::as_ref).filter(|n| *n != CONTROL_NAME) {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => dns_name(name)?,
            });
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let not_after = from_offset(params.not_after);
        let leaf = params.signed_by(&key, &self.issuer).map_err(|source| PkiError::Make {
            what: "a server certificate",
            source,
        })?;
        Ok(ServerIdentity {
            // The authority goes along: a joining machine knows nothing of it but the hash of its key.
            chain: vec![leaf.der().clone(), self.certificate.clone()],
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            not_after,
        })
    }

    /// A certificate for `node` over the key in `csr`, which can only be a client. The identity is set here; a request that asks
    /// for any other name is refused.
    pub fn issue_agent(&self, csr: &Csr, node: &NodeId, validity: Validity) -> Result<IssuedCertificate, PkiError> {
        csr.asks_only_for(node)?;
        let mut params = self.leaf(validity)?;
        params.distinguished_name.push(DnType::CommonName, node.as_str());
        params
            .subject_alt_names
            .push(SanType::URI(node_uri(node).try_into().map_err(|source| PkiError::Make {
                what: "a node's URI",
                source,
            })?));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let leaf = params.signed_by(csr.public_key(), &self.issuer).map_err(|source| PkiError::Make {
            what: "an agent's certificate",
            source,
        })?;
        // Read back: what was issued is what was meant, and the numbers the caller stores are the certificate's own.
        let read = NodeCertificate::from_der(leaf.der())?;
        Ok(IssuedCertificate {
            pem: certificate::to_pem(leaf.der()),
            serial: read.serial,
            fingerprint: read.fingerprint,
            not_after: read.not_after,
        })
    }

    pub(super) fn leaf(&self, validity: Validity) -> Result<CertificateParams, PkiError> {
        let mut params = CertificateParams::default();
        let not_after = validity.not_after.min(self.not_after);
        if not_after <= validity.not_before {
            return Err(PkiError::AuthorityExpired);
        }
        set_validity(&mut params, Validity { not_after, ..validity })?;
        params.serial_number = Some(random_serial()?);
        params.distinguished_name = DistinguishedName::new();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }
}

impl ServerIdentity {
    /// When the certificate stops to hold; the owner puts a new one in well before.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }
}

fn dns_name(name: &str) -> Result<SanType, PkiError> {
    let bad = || PkiError::BadName(name.to_owned());
    rustls::pki_types::DnsName::try_from(name).map_err(|_| bad())?;
    Ok(SanType::DnsName(name.try_into().map_err(|_| bad())?))
}

/// 127 random bits, positive and of fixed length, so that no two certificates share a number.
pub(super) fn random_serial() -> Result<SerialNumber, PkiError> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).map_err(PkiError::Random)?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

pub(super) fn set_validity(params: &mut CertificateParams, validity: Validity) -> Result<(), PkiError> {
    params.not_before = to_offset(validity.not_before)?;
    params.not_after = to_offset(validity.not_after)?;
    Ok(())
}

fn to_offset(at: SystemTime) -> Result<OffsetDateTime, PkiError> {
    let out_of_range = || PkiError::Make {
        what: "a certificate's validity",
        source: rcgen::Error::Time,
    };
    let seconds = at.duration_since(UNIX_EPOCH).map_err(|_| out_of_range())?.as_secs();
    OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).map_err(|_| out_of_range())?).map_err(|_| out_of_range())
}

fn from_offset(at: OffsetDateTime) -> SystemTime {
    certificate::from_unix(at.unix_timestamp())
}

#[cfg(test)]
mod tests {
    use super::super::{AGENT_LIFETIME, CLOCK_SKEW, NodeKey, SERVER_LIFETIME};
    use super::*;
    use std::time::Duration;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }
    fn node() -> NodeId {
        NodeId::parse("node_1770000000000_abcdefghi").unwrap()
    }

    #[test]
    fn an_authority_survives_its_text_and_keeps_its_pin() {
        let authority = Authority::generate(now()).unwrap();
        let pem = authority.to_pem();
        let again = Authority::from_pem(&pem).unwrap();
        assert_eq!(again.spki_sha256(), authority.spki_sha256());
        assert_eq!(again.not_after(), now() + AUTHORITY_LIFETIME);
        assert!(again.trust().contains_pin(&authority.spki_sha256()));
        let other = Authority::generate(now()).unwrap().to_pem();
        let mixed = AuthorityPem {
            certificate: pem.certificate,
            key: other.key,
        };
        assert!(matches!(Authority::from_pem(&mixed), Err(PkiError::KeyMismatch)));
    }

    #[test]
    fn an_agents_certificate_says_what_the_authority_wants() {
        let authority = Authority::generate(now()).unwrap();
        let key = NodeKey::generate().unwrap();
        let csr = Csr::parse(&key.csr(None).unwrap()).unwrap();
        let one = authority
            .issue_agent(&csr, &node(), Validity::starting(now(), AGENT_LIFETIME))
            .unwrap();
        let two = authority
            .issue_agent(&csr, &node(), Validity::starting(now(), AGENT_LIFETIME))
            .unwrap();
        assert_ne!(one.serial, two.serial);
        let read = NodeCertificate::from_pem(&one.pem).unwrap();
        assert_eq!(read.node, node());
        assert_eq!(read.not_before, now() - CLOCK_SKEW);
        assert_eq!(read.not_after, now() + AGENT_LIFETIME);
        assert_eq!(read.public_key_sha256, csr.public_key_sha256());
        assert_eq!((&read.serial, &read.fingerprint), (&one.serial, &one.fingerprint));
    }

    #[test]
    fn no_certificate_outlives_its_authority() {
        let authority = Authority::generate(now()).unwrap();
        let near_the_end = now() + AUTHORITY_LIFETIME - Duration::from_secs(60);
        let server = authority
            .issue_server::<&str>(&[], Validity::starting(near_the_end, SERVER_LIFETIME))
            .unwrap();
        assert_eq!(server.not_after(), authority.not_after());
        let past = Validity::starting(now() + AUTHORITY_LIFETIME + CLOCK_SKEW, SERVER_LIFETIME);
        assert!(matches!(authority.issue_server::<&str>(&[], past), Err(PkiError::AuthorityExpired)));
    }

    #[test]
    fn server_names_are_checked_and_no_servers_certificate_passes_for_an_agents() {
        let authority = Authority::generate(now()).unwrap();
        let validity = Validity::starting(now(), SERVER_LIFETIME);
        let server = authority.issue_server(&["mesh.example.com", "10.0.0.1", "::1"], validity).unwrap();
        assert!(matches!(NodeCertificate::from_der(&server.chain[0]), Err(PkiError::NotAnAgent(_))));
        assert!(matches!(NodeCertificate::from_der(&server.chain[1]), Err(PkiError::NotAnAgent(_))));
        for bad in ["", "a b", "-x", "a\0b", "exa_mple/"] {
            assert!(
                matches!(authority.issue_server(&[bad], validity), Err(PkiError::BadName(_))),
                "{bad:?}"
            );
        }
    }
}
