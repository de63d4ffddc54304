//! One authority follows another.
//!
//! The old authority signs the new one's key, too. A control plane that serves with the new authority shows this cross
//! certificate beside it, and so a node that was away and knows only the old authority still finds a chain to it. Nothing has
//! to be told to every node in time for the change to be safe.

use super::authority::{random_serial, set_validity};
use super::{AUTHORITY_NAME, Authority, PkiError, ServerIdentity, TrustBundle, Validity, certificate};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyUsagePurpose};
use rustls::pki_types::CertificateDer;
use std::time::SystemTime;

/// A successor's key, certified by the authority before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrossCertificate(CertificateDer<'static>);

impl CrossCertificate {
    pub fn to_pem(&self) -> String {
        certificate::to_pem(&self.0)
    }

    pub fn from_pem(pem: &str) -> Result<Self, PkiError> {
        let der = certificate::single_from_pem(pem)?;
        if certificate::inspect(&der)?.is_authority {
            Ok(Self(der))
        } else {
            Err(PkiError::read("a cross certificate", "it is not an authority's"))
        }
    }
}

impl Authority {
    /// Certifies `successor`'s key, for as long as both authorities hold.
    pub fn cross_sign(&self, successor: &Authority, now: SystemTime) -> Result<CrossCertificate, PkiError> {
        let not_after = self.not_after.min(successor.not_after);
        if not_after <= now {
            return Err(PkiError::AuthorityExpired);
        }
        let mut params = CertificateParams::default();
        let validity = Validity {
            not_after,
            ..Validity::starting(now, std::time::Duration::ZERO)
        };
        set_validity(&mut params, validity)?;
        params.serial_number = Some(random_serial()?);
        params.distinguished_name = DistinguishedName::new();
        // The successor's own name: its leaves must find this certificate as their issuer's.
        params
            .distinguished_name
            .push(DnType::CommonName, format!("{AUTHORITY_NAME}{}", successor.name()));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = true;
        let signed = params
            .signed_by(successor.issuer.key(), &self.issuer)
            .map_err(|source| PkiError::Make {
                what: "a cross certificate",
                source,
            })?;
        Ok(CrossCertificate(signed.der().clone()))
    }
}

impl ServerIdentity {
    /// Shows the way from the authority before to this one's, and that authority itself, for machines that join with a token
    /// made before the change.
    pub fn following(mut self, cross: &CrossCertificate, before: &TrustBundle) -> Self {
        self.chain.push(cross.0.clone());
        self.chain.extend(before.certificates().iter().cloned());
        self
    }
}
