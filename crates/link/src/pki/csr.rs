//! Certificate requests (PKCS #10), and the node's key they are made with.
//!
//! A request comes from the network before anything is known of its sender, so it is read with care: everything in it that
//! is not a P-256 key, a good signature, and at most a node's own name is refused.

use super::{NODE_URI_PREFIX, PkiError, node_uri, sha256};
use nm_types::NodeId;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData, SubjectPublicKeyInfo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateSigningRequestDer, PrivatePkcs8KeyDer};
use std::fmt;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::OID_X509_COMMON_NAME;
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

/// A certificate request whose signature holds.
#[derive(Clone)]
pub struct Csr {
    public_key: SubjectPublicKeyInfo,
    /// The names it asks for: common names and URIs as written.
    names: Vec<String>,
}

impl Csr {
    /// Reads a request from PEM and checks its signature.
    pub fn parse(pem: &str) -> Result<Self, PkiError> {
        let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).map_err(|e| refused(format!("it is not PEM: {e}")))?;
        Self::from_der(&der)
    }

    /// As [`Self::parse`], from DER.
    pub fn from_der(der: &[u8]) -> Result<Self, PkiError> {
        let (rest, request) = X509CertificationRequest::from_der(der).map_err(|e| refused(format!("it cannot be read: {e}")))?;
        if !rest.is_empty() {
            return Err(refused("bytes follow its end"));
        }
        let info = &request.certification_request_info;
        let public_key = SubjectPublicKeyInfo::from_der(info.subject_pki.raw).map_err(|_| refused("its key is of an unknown kind"))?;
        if public_key.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 {
            return Err(refused("its key is not ECDSA P-256"));
        }
        request.verify_signature().map_err(|_| refused("its signature does not hold"))?;

        let mut names = Vec::new();
        for attribute in info.subject.iter_attributes() {
            let text = attribute.as_str().map_err(|_| refused("its subject cannot be read"))?;
            if *attribute.attr_type() != OID_X509_COMMON_NAME {
                return Err(refused("its subject holds more than a common name"));
            }
            names.push(text.to_owned());
        }
        for attribute in info.attributes() {
            let ParsedCriAttribute::ExtensionRequest(asked) = attribute.parsed_attribute() else {
                return Err(refused("it holds an attribute that is not a request for extensions"));
            };
            for extension in &asked.extensions {
                let ParsedExtension::SubjectAlternativeName(alternative) = extension.parsed_extension() else {
                    return Err(refused("it asks for an extension other than a name"));
                };
                for name in &alternative.general_names {
                    let GeneralName::URI(uri) = name else {
                        return Err(refused("it asks for a name that is not a node's"));
                    };
                    names.push((*uri).to_owned());
                }
            }
        }
        Ok(Self { public_key, names })
    }

    /// SHA-256 of the request's SubjectPublicKeyInfo.
    pub fn public_key_sha256(&self) -> [u8; 32] {
        sha256(&self.public_key.subject_public_key_info())
    }

    pub(crate) fn public_key(&self) -> &SubjectPublicKeyInfo {
        &self.public_key
    }

    /// Refuses a request that asks for any name but that of `node`. One without names asks for nothing, and passes.
    pub fn asks_only_for(&self, node: &NodeId) -> Result<(), PkiError> {
        let own = |name: &String| name.strip_prefix(NODE_URI_PREFIX).unwrap_or(name) == node.as_str();
        if self.names.iter().all(own) {
            Ok(())
        } else {
            Err(refused(format!("it asks for a name that is not {node}'s")))
        }
    }
}

impl fmt::Debug for Csr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Csr")
            .field("key", &hex::encode(self.public_key_sha256()))
            .field("names", &self.names)
            .finish()
    }
}

fn refused(why: impl Into<String>) -> PkiError {
    PkiError::CsrRefused(why.into())
}

/// A node's private key. It is born on the node and never leaves it.
pub struct NodeKey(KeyPair);

impl NodeKey {
    pub fn generate() -> Result<Self, PkiError> {
        generate_key().map(Self)
    }

    pub(crate) fn from_pem(pem: &str) -> Result<Self, PkiError> {
        key_from_pem(pem).map(Self)
    }

    pub(crate) fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.0.serialize_pem())
    }

    pub(crate) fn to_der(&self) -> PrivatePkcs8KeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.0.serialize_der())
    }

    pub(crate) fn public_key_sha256(&self) -> [u8; 32] {
        sha256(&self.0.subject_public_key_info())
    }

    /// A request in PEM for this key: nameless when joining, with the node's own name when renewing.
    pub fn csr(&self, node: Option<&NodeId>) -> Result<String, PkiError> {
        let make = |source| PkiError::Make {
            what: "a certificate request",
            source,
        };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if let Some(node) = node {
            params.distinguished_name.push(DnType::CommonName, node.as_str());
            params
                .subject_alt_names
                .push(rcgen::SanType::URI(node_uri(node).try_into().map_err(make)?));
        }
        params.serialize_request(&self.0).and_then(|csr| csr.pem()).map_err(make)
    }
}

pub(crate) fn generate_key() -> Result<KeyPair, PkiError> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|source| PkiError::Make { what: "a key", source })
}

pub(crate) fn key_from_pem(pem: &str) -> Result<KeyPair, PkiError> {
    // The reason is left out: an error about a key must not quote it.
    KeyPair::from_pkcs8_pem_and_sign_algo(pem, &rcgen::PKCS_ECDSA_P256_SHA256)
        .map_err(|_| PkiError::read("a private key", "it is not an ECDSA P-256 key in PKCS #8 PEM"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{ExtendedKeyUsagePurpose, IsCa, SanType};

    fn node() -> NodeId {
        NodeId::parse("node_1770000000000_abcdefghi").unwrap()
    }
    fn other() -> NodeId {
        NodeId::parse("node_1770000000000_zzzzzzzzz").unwrap()
    }

    fn request(change: impl FnOnce(&mut CertificateParams)) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        change(&mut params);
        params.serialize_request(&generate_key().unwrap()).unwrap().pem().unwrap()
    }

    #[test]
    fn own_name_or_none_passes_every_other_is_refused() {
        let key = NodeKey::generate().unwrap();
        Csr::parse(&key.csr(None).unwrap()).unwrap().asks_only_for(&node()).unwrap();
        let named = Csr::parse(&key.csr(Some(&node())).unwrap()).unwrap();
        named.asks_only_for(&node()).unwrap();
        assert!(matches!(named.asks_only_for(&other()), Err(PkiError::CsrRefused(_))));
        assert_eq!(named.public_key_sha256(), key.public_key_sha256());
    }

    #[test]
    fn whatever_else_a_request_asks_for_is_refused() {
        type Change = fn(&mut CertificateParams);
        let cases: [(&str, Change); 6] = [
            ("an organisation", |p| {
                p.distinguished_name.push(DnType::OrganizationName, "system:masters")
            }),
            ("a DNS name", |p| {
                p.subject_alt_names.push(SanType::DnsName("control.neuralmesh".try_into().unwrap()))
            }),
            ("an address", |p| {
                p.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()))
            }),
            ("to serve", |p| p.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth)),
            ("to be an authority", |p| p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained)),
            ("to sign certificates", |p| p.key_usages.push(rcgen::KeyUsagePurpose::KeyCertSign)),
        ];
        for (what, change) in cases {
            assert!(matches!(Csr::parse(&request(change)), Err(PkiError::CsrRefused(_))), "{what}");
        }
        let foreign = Csr::parse(&request(|p| p.distinguished_name.push(DnType::CommonName, "control.neuralmesh"))).unwrap();
        assert!(foreign.asks_only_for(&node()).is_err());
    }

    #[test]
    fn other_kinds_of_keys_are_refused() {
        for algorithm in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P384_SHA384] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let pem = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
            assert!(matches!(Csr::parse(&pem), Err(PkiError::CsrRefused(_))));
        }
    }

    /// The reader is lenient in how a signature's wrapping is written; what was signed cannot be changed.
    #[test]
    fn no_changed_byte_changes_what_is_read_and_nothing_panics() {
        let pem = NodeKey::generate().unwrap().csr(Some(&node())).unwrap();
        let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap();
        let original = Csr::from_der(&der).unwrap();
        let mut refused = 0;
        for at in 0..der.len() {
            let mut changed = der.to_vec();
            changed[at] ^= 0x01;
            match Csr::from_der(&changed) {
                Err(_) => refused += 1,
                Ok(read) => assert_eq!(
                    (read.public_key_sha256(), &read.names),
                    (original.public_key_sha256(), &original.names),
                    "byte {at}"
                ),
            }
            assert!(Csr::from_der(&der[..at]).is_err(), "cut at {at}");
        }
        assert!(refused > der.len() - 8, "{refused} of {}", der.len());
        let mut longer = der.to_vec();
        longer.push(0);
        assert!(Csr::from_der(&longer).is_err());
    }

    #[test]
    fn an_empty_set_in_the_subject_is_refused() {
        // SEQUENCE { INTEGER 0, SEQUENCE { SET {} }, … }: a name without a value, which some readers choke on.
        let pem = NodeKey::generate().unwrap().csr(None).unwrap();
        let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec();
        let at = der.windows(5).position(|w| w == [0x02, 0x01, 0x00, 0x30, 0x00]).unwrap();
        let mut changed = der.clone();
        changed[at + 4] = 2;
        changed.splice(at + 5..at + 5, [0x31, 0x00]);
        for length_at in [1usize, 2, 3, 4, 5, 6] {
            let mut candidate = changed.clone();
            candidate[length_at] = candidate[length_at].wrapping_add(2);
            assert!(Csr::from_der(&candidate).is_err());
        }
    }
}
