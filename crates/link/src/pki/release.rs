//! Signing what a control plane hands its agents to run, and checking it.
//!
//! Each release is signed with a key of its own, made for it and thrown away. Its certificate is the authority's, can do nothing
//! but sign code, and ends a day later. So an agent needs no further key to know: whom it trusts for the link it trusts for this,
//! also while one authority follows another. An agent's or a control plane's own certificate signs nothing: its use is another.

use super::{Authority, PkiError, RELEASE_LIFETIME, TrustBundle, Validity, certificate, csr};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{DnType, ExtendedKeyUsagePurpose, SigningKey};
use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use serde::{Deserialize, Serialize};
use std::time::{SystemTime, UNIX_EPOCH};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert, ring::ECDSA_P256_SHA256};

/// Stands before what is signed, so that a signature made for something else never fits.
const PURPOSE: &[u8] = b"neuralmesh agent release 1\n";
/// `id-kp-codeSigning`, 1.3.6.1.5.5.7.3.3 (RFC 5280, 4.2.1.12), as DER writes its value.
const CODE_SIGNING: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x03];
const ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[ECDSA_P256_SHA256];

/// A text, who signed it, and the signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SignedText {
    /// Byte for byte what was signed.
    pub text: String,
    /// The signer's certificate, PEM.
    pub signer: String,
    /// Base64.
    pub signature: String,
}

/// Why a signed text is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRelease {
    #[error("its signer's certificate can't be read")]
    Unreadable,
    #[error("its signer is not of an authority this node trusts, may not sign releases, or its time is over: {0}")]
    Signer(String),
    #[error("its signature does not hold: it was changed on its way, or signed with another key")]
    Signature,
}

impl Authority {
    /// Signs `text` as a release.
    pub fn sign_release(&self, text: String, now: SystemTime) -> Result<SignedText, PkiError> {
        let make = |source| PkiError::Make {
            what: "a release's signature",
            source,
        };
        let key = csr::generate_key()?;
        let mut params = self.leaf(Validity::starting(now, RELEASE_LIFETIME))?;
        params.distinguished_name.push(DnType::CommonName, "NeuralMesh release");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        let signer = params.signed_by(&key, &self.issuer).map_err(make)?;
        let signature = key.sign(&framed(&text)).map_err(make)?;
        Ok(SignedText {
            text,
            signer: certificate::to_pem(signer.der()),
            signature: STANDARD.encode(signature),
        })
    }
}

impl TrustBundle {
    /// The text, if one of these authorities let its signer sign releases and the signature holds.
    pub fn verify_release<'a>(&self, signed: &'a SignedText, now: SystemTime) -> Result<&'a str, BadRelease> {
        let der = certificate::single_from_pem(&signed.signer).map_err(|_| BadRelease::Unreadable)?;
        let signer = EndEntityCert::try_from(&der).map_err(|_| BadRelease::Unreadable)?;
        let anchors = self
            .certificates()
            .iter()
            .map(|c: &CertificateDer<'static>| anchor_from_trusted_cert(c))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| BadRelease::Signer(e.to_string()))?;
        let time = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
        signer
            .verify_for_usage(ALGORITHMS, &anchors, &[], time, KeyUsage::required(CODE_SIGNING), None, None)
            .map_err(|e| BadRelease::Signer(e.to_string()))?;
        let signature = STANDARD.decode(&signed.signature).map_err(|_| BadRelease::Signature)?;
        signer
            .verify_signature(ECDSA_P256_SHA256, &framed(&signed.text), &signature)
            .map_err(|_| BadRelease::Signature)?;
        Ok(&signed.text)
    }
}

fn framed(text: &str) -> Vec<u8> {
    [PURPOSE, text.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::super::{AGENT_LIFETIME, Csr, NodeKey};
    use super::*;
    use nm_types::NodeId;
    use rcgen::PublicKeyData;
    use std::time::Duration;

    #[test]
    fn only_what_a_trusted_authority_let_sign_is_taken() {
        let now = SystemTime::now();
        let (ours, theirs) = (Authority::generate(now).unwrap(), Authority::generate(now).unwrap());
        let both = ours.trust().and(&theirs.trust());
        let good = ours.sign_release("a release".into(), now).unwrap();
        for trust in [ours.trust(), both.clone()] {
            assert_eq!(trust.verify_release(&good, now).unwrap(), "a release");
        }

        let foreign = theirs.sign_release("a release".into(), now).unwrap();
        let later = now + RELEASE_LIFETIME + Duration::from_secs(1);
        let earlier = now - Duration::from_secs(3600);
        let changed = |change: fn(&mut SignedText)| {
            let mut signed = good.clone();
            change(&mut signed);
            signed
        };
        type Wanted = fn(&BadRelease) -> bool;
        let signer: Wanted = |e| matches!(e, BadRelease::Signer(_));
        let signature: Wanted = |e| matches!(e, BadRelease::Signature);
        let unreadable: Wanted = |e| matches!(e, BadRelease::Unreadable);
        let mut mixed = good.clone();
        mixed.signer.clone_from(&ours.sign_release("a release".into(), now).unwrap().signer);
        for (what, signed, at, wanted) in [
            ("another authority's", foreign, now, signer),
            ("one of yesterday", good.clone(), later, signer),
            ("one of tomorrow", good.clone(), earlier, signer),
            ("a changed text", changed(|s| s.text.push('!')), now, signature),
            ("no signature", changed(|s| s.signature.clear()), now, signature),
            ("garbage for a signature", changed(|s| s.signature = "%".into()), now, signature),
            ("no signer", changed(|s| s.signer.clear()), now, unreadable),
            ("another key's signature", mixed, now, signature),
        ] {
            let error = ours.trust().verify_release(&signed, at).unwrap_err();
            assert!(wanted(&error), "{what}: {error:?}");
        }
    }

    /// What the authority gives agents and control planes can't sign, though it is of the same authority.
    #[test]
    fn no_other_certificate_signs() {
        let now = SystemTime::now();
        let authority = Authority::generate(now).unwrap();
        let sign = |key: &rcgen::KeyPair, signer: String| SignedText {
            text: "a release".into(),
            signer,
            signature: STANDARD.encode(key.sign(&framed("a release")).unwrap()),
        };
        let key = NodeKey::generate().unwrap();
        let csr = Csr::parse(&key.csr(None).unwrap()).unwrap();
        let node = NodeId::parse("node_1770000000000_abcdefghi").unwrap();
        let agent = authority.issue_agent(&csr, &node, Validity::starting(now, AGENT_LIFETIME)).unwrap();
        let pair = csr::key_from_pem(&key.to_pem()).unwrap();
        let server = authority
            .issue_server::<&str>(&[], Validity::starting(now, AGENT_LIFETIME))
            .unwrap();
        let server_key = rcgen::KeyPair::try_from(&server.key).unwrap();
        let root = csr::key_from_pem(&authority.to_pem().key).unwrap();
        assert_eq!(root.subject_public_key_info(), authority.issuer.key().subject_public_key_info());
        for (what, signed) in [
            ("an agent", sign(&pair, agent.pem)),
            ("a control plane", sign(&server_key, certificate::to_pem(&server.chain[0]))),
            ("the authority itself", sign(&root, authority.to_pem().certificate)),
        ] {
            let refused = authority.trust().verify_release(&signed, now);
            assert!(refused.is_err(), "{what}: {refused:?}");
        }
    }
}
