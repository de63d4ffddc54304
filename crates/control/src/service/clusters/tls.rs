//! Certificates of entries: the uploaded ones are judged, the others made.

use nm_plan::cluster::KeyPair;
use nm_types::Timestamp;
use nm_types::cluster::ClusterHost;
use nm_types::envelope::FieldProblem;
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

/// How long one that is made here holds: as long as browsers take any.
const DAYS: i64 = 397;
const DAY_MS: i64 = 24 * 3_600_000;
/// One that ends so soon is made anew, or spoken of.
pub const RENEW_BEFORE_MS: i64 = 30 * DAY_MS;

fn problem(field: &str, message: impl Into<String>) -> FieldProblem {
    FieldProblem {
        field: field.into(),
        message: message.into(),
    }
}

/// Whether certificate and key are such, and go together.
pub fn judge(pair: &KeyPair) -> Result<(), FieldProblem> {
    let chain: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).collect();
    let chain = match chain {
        Ok(chain) if !chain.is_empty() => chain,
        Ok(_) | Err(_) => return Err(problem("tls.certificate", "there is no certificate in PEM form in it")),
    };
    if X509Certificate::from_der(&chain[0]).is_err() {
        return Err(problem("tls.certificate", "the first certificate in it can't be read"));
    }
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes())
        .map_err(|_| problem("tls.key", "it is no private key in PEM form, or of no known kind"))?;
    let provider = rustls::crypto::ring::default_provider();
    CertifiedKey::from_der(chain, key, &provider).map_err(|_| problem("tls.key", "it is not the key of this certificate"))?;
    Ok(())
}

/// When the first certificate of a chain ends.
pub fn expires(chain: &str) -> Option<Timestamp> {
    let first = CertificateDer::pem_slice_iter(chain.as_bytes()).next()?.ok()?;
    let (_, certificate) = X509Certificate::from_der(&first).ok()?;
    Some(Timestamp(certificate.validity().not_after.timestamp().saturating_mul(1000)))
}

/// A fresh key, and a certificate for these names that is signed by it.
pub fn make(names: &[ClusterHost], now: Timestamp) -> Result<KeyPair, rcgen::Error> {
    let names: Vec<String> = if names.is_empty() {
        vec!["localhost".into()]
    } else {
        names.iter().map(ToString::to_string).collect()
    };
    let mut params = CertificateParams::new(names.clone())?;
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, names[0].chars().take(64).collect::<String>());
    params.distinguished_name = subject;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let at = |ms: i64| OffsetDateTime::from_unix_timestamp(ms / 1000).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    // A day back, for clients whose clock is slow.
    params.not_before = at(now.0 - DAY_MS);
    params.not_after = at(now.0 + DAYS * DAY_MS);
    let key = rcgen::KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok(KeyPair {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_made_is_right_and_others_are_not() {
        let now = Timestamp(1_770_000_000_000);
        let names = ["*.example.com".parse().unwrap(), "a.example".parse().unwrap()];
        let (one, other) = (make(&names, now).unwrap(), make(&[], now).unwrap());
        assert_eq!(judge(&one), Ok(()));
        let ends = expires(&one.certificate).unwrap();
        assert_eq!(ends.since(now), DAYS * DAY_MS);
        let pair = |certificate: &str, key: &str| KeyPair {
            certificate: certificate.into(),
            key: key.into(),
        };
        for (pair, field) in [
            (pair("x", &one.key), "tls.certificate"),
            (pair(&one.key, &one.key), "tls.certificate"),
            (pair(&one.certificate, "x"), "tls.key"),
            (pair(&one.certificate, &one.certificate), "tls.key"),
            (pair(&one.certificate, &other.key), "tls.key"),
        ] {
            assert_eq!(judge(&pair).unwrap_err().field, field);
        }
    }
}
