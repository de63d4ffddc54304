//! Reading certificates: an agent's identity, and the list of trusted authorities.

use super::{AUTHORITY_NAME, NODE_URI_PREFIX, PkiError, sha256};
use nm_types::NodeId;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

/// A certificate that was just issued, and the numbers worth keeping beside the node.
#[derive(Debug, Clone)]
pub struct IssuedCertificate {
    pub pem: String,
    /// The serial number, as lower-case hexadecimal digits.
    pub serial: String,
    /// SHA-256 of the certificate, as lower-case hexadecimal digits.
    pub fingerprint: String,
    pub not_after: SystemTime,
}

/// What an agent's certificate says. Its signature and dates are checked by TLS, not here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeCertificate {
    pub node: NodeId,
    /// The serial number, as lower-case hexadecimal digits.
    pub serial: String,
    /// SHA-256 of the certificate, as lower-case hexadecimal digits.
    pub fingerprint: String,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    pub public_key_sha256: [u8; 32],
    /// The short name of the authority that issued it, see [`Authority::name`](super::Authority::name).
    pub authority: String,
}

impl NodeCertificate {
    /// Reads a certificate and demands the whole form of an agent's: not an authority, a client and nothing else, one name, and
    /// that a node's.
    pub fn from_der(der: &[u8]) -> Result<Self, PkiError> {
        let certificate = parse(der)?;
        let info = describe(&certificate)?;
        if info.is_authority {
            return Err(PkiError::NotAnAgent("it is an authority"));
        }
        let usage = certificate.extended_key_usage().map_err(|e| PkiError::read("a certificate", e))?;
        let client_only = usage.is_some_and(|u| {
            let u = u.value;
            u.client_auth
                && !(u.any || u.server_auth || u.code_signing || u.email_protection || u.time_stamping || u.ocsp_signing)
                && u.other.is_empty()
        });
        if !client_only {
            return Err(PkiError::NotAnAgent("it is not for clients only"));
        }
        let names = certificate
            .subject_alternative_name()
            .map_err(|e| PkiError::read("a certificate", e))?;
        let uri = match names.as_ref().map(|n| n.value.general_names.as_slice()) {
            Some([GeneralName::URI(uri)]) => *uri,
            _ => return Err(PkiError::NotAnAgent("it does not carry one URI as its only name")),
        };
        let node = uri
            .strip_prefix(NODE_URI_PREFIX)
            .and_then(|id| NodeId::parse(id).ok())
            .ok_or(PkiError::NotAnAgent("its URI does not name a node"))?;
        let authority = authority_name(certificate.issuer()).ok_or(PkiError::NotAnAgent("its issuer has no name"))?;
        Ok(Self {
            node,
            authority,
            serial: info.serial,
            fingerprint: hex::encode(sha256(der)),
            not_before: info.not_before,
            not_after: info.not_after,
            public_key_sha256: info.spki_sha256,
        })
    }

    /// As [`Self::from_der`], from PEM with exactly one certificate in it.
    pub fn from_pem(pem: &str) -> Result<Self, PkiError> {
        Self::from_der(&single_from_pem(pem)?)
    }
}

pub(crate) struct Info {
    pub serial: String,
    pub spki_sha256: [u8; 32],
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    pub is_authority: bool,
}

pub(crate) fn inspect(der: &[u8]) -> Result<Info, PkiError> {
    describe(&parse(der)?)
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, PkiError> {
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|e| PkiError::read("a certificate", e))?;
    if rest.is_empty() {
        Ok(certificate)
    } else {
        Err(PkiError::read("a certificate", "bytes follow its end"))
    }
}

fn describe(certificate: &X509Certificate<'_>) -> Result<Info, PkiError> {
    let constraints = certificate.basic_constraints().map_err(|e| PkiError::read("a certificate", e))?;
    Ok(Info {
        serial: hex::encode(certificate.raw_serial()),
        spki_sha256: sha256(certificate.public_key().raw),
        not_before: from_unix(certificate.validity().not_before.timestamp()),
        not_after: from_unix(certificate.validity().not_after.timestamp()),
        is_authority: constraints.is_some_and(|c| c.value.ca),
    })
}

/// What an authority is called in certificates, without the words that all of them share.
fn authority_name(name: &X509Name<'_>) -> Option<String> {
    let text = name.iter_common_name().next()?.as_str().ok()?;
    Some(text.strip_prefix(AUTHORITY_NAME).unwrap_or(text).to_owned())
}

/// Whether `der` is an authority's certificate over the key with this SHA-256.
pub(crate) fn is_authority_with_key(der: &[u8], pin: &[u8; 32]) -> bool {
    inspect(der).is_ok_and(|i| i.is_authority && i.spki_sha256 == *pin)
}

/// Moments before 1970 become 1970: no certificate that holds today says them.
pub(crate) fn from_unix(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// PEM with exactly one certificate in it.
pub(crate) fn single_from_pem(pem: &str) -> Result<CertificateDer<'static>, PkiError> {
    let mut all = many_from_pem(pem)?;
    match (all.pop(), all.is_empty()) {
        (Some(one), true) => Ok(one),
        _ => Err(PkiError::read("a certificate", "expected exactly one in the PEM text")),
    }
}

fn many_from_pem(pem: &str) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| PkiError::read("a certificate's PEM text", e))
}

/// RFC 7468: base64 in lines of 64.
pub(crate) fn to_pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::with_capacity(text.len() + text.len() / 64 + 64);
    pem.push_str("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|b| char::from(*b)));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

/// The authorities a peer trusts: one as a rule, the old and the new one while they change. Never empty.
#[derive(Clone, PartialEq, Eq)]
pub struct TrustBundle(Vec<CertificateDer<'static>>);

impl TrustBundle {
    pub(crate) fn of(certificate: CertificateDer<'static>) -> Self {
        Self(vec![certificate])
    }

    /// Reads one or more certificates, each of which must be an authority's.
    pub fn from_pem(pem: &str) -> Result<Self, PkiError> {
        let all = many_from_pem(pem)?;
        for certificate in &all {
            if !inspect(certificate)?.is_authority {
                return Err(PkiError::read(
                    "a list of authorities",
                    "one of the certificates is not an authority's",
                ));
            }
        }
        if all.is_empty() {
            Err(PkiError::NoAuthority)
        } else {
            Ok(Self(all))
        }
    }

    pub fn to_pem(&self) -> String {
        self.0.iter().map(|c| to_pem(c)).collect()
    }

    /// This list and what `other` has beyond it.
    pub fn and(mut self, other: &TrustBundle) -> Self {
        for certificate in &other.0 {
            if !self.0.contains(certificate) {
                self.0.push(certificate.clone());
            }
        }
        self
    }

    /// This list without what `other` has.
    pub fn without(mut self, other: &TrustBundle) -> Result<Self, PkiError> {
        self.0.retain(|c| !other.0.contains(c));
        if self.0.is_empty() { Err(PkiError::NoAuthority) } else { Ok(self) }
    }

    /// Whether both lists have an authority in common.
    pub fn meets(&self, other: &TrustBundle) -> bool {
        self.0.iter().any(|c| other.0.contains(c))
    }

    /// The authorities' short names, in alphabetical order.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .0
            .iter()
            .filter_map(|c| parse(c).ok().and_then(|c| authority_name(c.subject())))
            .collect();
        names.sort();
        names
    }

    /// Each authority with its key's SHA-256 and the moment its certificate ends.
    pub fn describe(&self) -> Vec<([u8; 32], SystemTime)> {
        self.0
            .iter()
            .filter_map(|c| inspect(c).ok())
            .map(|i| (i.spki_sha256, i.not_after))
            .collect()
    }

    pub(crate) fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.0
    }

    /// Whether one of the authorities has the key with this SHA-256.
    pub fn contains_pin(&self, pin: &[u8; 32]) -> bool {
        self.0.iter().any(|c| inspect(c).is_ok_and(|i| i.spki_sha256 == *pin))
    }

    pub(crate) fn roots(&self) -> Result<RootCertStore, PkiError> {
        let mut roots = RootCertStore::empty();
        for certificate in &self.0 {
            roots
                .add(certificate.clone())
                .map_err(|e| PkiError::read("an authority's certificate", e))?;
        }
        Ok(roots)
    }
}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|c| hex::encode(sha256(c)))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Authority;
    use super::*;

    #[test]
    fn a_bundle_holds_authorities_only_and_each_once() {
        let (old, new) = (
            Authority::generate(SystemTime::now()).unwrap(),
            Authority::generate(SystemTime::now()).unwrap(),
        );
        let both = old.trust().and(&new.trust()).and(&old.trust());
        assert_eq!(both.0.len(), 2);
        let again = TrustBundle::from_pem(&both.to_pem()).unwrap();
        assert_eq!(again, both);
        assert!(again.contains_pin(&old.spki_sha256()) && again.contains_pin(&new.spki_sha256()));
        assert!(!old.trust().contains_pin(&new.spki_sha256()));
        assert!(matches!(TrustBundle::from_pem(""), Err(PkiError::NoAuthority)));
        let server = old
            .issue_server::<&str>(&[], super::super::Validity::starting(SystemTime::now(), Duration::from_secs(60)))
            .unwrap();
        assert!(TrustBundle::from_pem(&to_pem(&server.chain[0])).is_err());
        assert!(single_from_pem(&both.to_pem()).is_err());
    }

    #[test]
    fn garbage_is_an_error_never_a_panic() {
        let good = Authority::generate(SystemTime::now()).unwrap().trust().0.remove(0);
        for cut in 0..good.len() {
            assert!(NodeCertificate::from_der(&good[..cut]).is_err());
        }
        let mut longer = good.to_vec();
        longer.push(0);
        assert!(inspect(&longer).is_err());
    }
}
