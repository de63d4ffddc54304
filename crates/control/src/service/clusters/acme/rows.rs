//! A certificate's row: the pair that an ACME server gave, and how far an order is.

use crate::api::error::{ApiError, ApiResult};
use crate::service::clusters::ClusterRow;
use nm_plan::cluster::{Challenges, KeyPair};
use nm_store::{Resource, Store};
use nm_types::Timestamp;
use nm_types::cluster::{ClusterAcme, ClusterTls};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The status column.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CertificateState {
    /// What is in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub got: Option<Got>,
    /// What is under way. It is gone on with after a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<OpenOrder>,
    /// In a row.
    pub failures: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// After a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<Timestamp>,
    /// Of what was asked for when it failed: who changes that is not kept waiting.
    pub tried_for: String,
    /// Until when the server of an account wants not to be asked, whoever changes what.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    pub account: String,
    pub until: Timestamp,
}

/// Which certificate it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wish {
    pub directory: String,
    /// In small letters, each once.
    pub names: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Got {
    pub wish: Wish,
    pub not_after: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    pub renew_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenOrder {
    pub url: String,
    pub wish: Wish,
    pub account: String,
    /// What entry nodes answer meanwhile. They are no secret: anybody may ask for them.
    #[serde(default, skip_serializing_if = "Challenges::is_empty")]
    pub challenges: Challenges,
}

/// What is sealed.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CertificateSecrets {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The key of the order that is under way; written before the server is asked to sign, so that no certificate is without its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_key: Option<String>,
}

/// A row, whole.
#[derive(Clone, Default)]
pub struct Certificate {
    pub state: CertificateState,
    pub secrets: CertificateSecrets,
    pub pair: Option<KeyPair>,
}

impl Certificate {
    pub fn new(state: CertificateState, secrets: CertificateSecrets) -> Self {
        let pair = secrets.certificate.clone().zip(secrets.key.clone());
        Self {
            state,
            pair: pair.map(|(certificate, key)| KeyPair { certificate, key }),
            secrets,
        }
    }

    pub async fn read(store: &Store, row: &Resource) -> ApiResult<Self> {
        let secrets = match store.open_sealed(row).await? {
            Some(secret) => secret.parse()?,
            None => CertificateSecrets::default(),
        };
        Ok(Self::new(row.status()?, secrets))
    }

    /// When something is to be done about it next.
    pub fn due(&self, asked: &Asked) -> Timestamp {
        let state = &self.state;
        let by_itself = match (state.next_attempt, &state.got) {
            (Some(at), _) if state.tried_for == asked.digest => at,
            (_, Some(got)) if got.wish == asked.wish => got.renew_at,
            (_, _) => Timestamp(0),
        };
        let held = state.held.as_ref().filter(|h| h.account == asked.account);
        by_itself.max(held.map_or(Timestamp(0), |h| h.until))
    }
}

/// What a cluster asks of which server.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    pub wish: Wish,
    pub acme: ClusterAcme,
    /// Which account: one for each server, address and binding.
    pub account: String,
    /// Of all that an attempt depends on and that a user may change.
    pub digest: String,
}

/// Where `acme` orders.
pub fn directory(acme: &ClusterAcme) -> String {
    let usual = || instant_acme::LetsEncrypt::Production.url().to_owned();
    acme.directory.as_ref().map_or_else(usual, ToString::to_string)
}

fn digest(of: &impl Serialize) -> String {
    // Plain types: they always write as JSON.
    hex::encode(Sha256::digest(serde_json::to_vec(of).unwrap_or_default()))
}

impl Asked {
    /// Nothing where the cluster's certificate comes from elsewhere.
    pub fn of(row: &ClusterRow) -> Option<Self> {
        let tls: &ClusterTls = row.stored.spec.tls.as_ref()?;
        let acme = tls.acme.clone()?;
        let directory = directory(&acme);
        let mut names: Vec<String> = tls.server_names.iter().map(|n| n.as_str().to_ascii_lowercase()).collect();
        names.sort();
        names.dedup();
        let binding = acme.external_account.as_ref().map(|a| &a.key_id);
        Some(Self {
            account: digest(&(&directory, &acme.email, binding)),
            // A binding key is random and long: its digest tells nobody what it is.
            digest: digest(&(tls, &row.secrets.external_key, &row.stored.entries, row.stored.listen_port)),
            wish: Wish { directory, names },
            acme,
        })
    }
}

/// What the first certificate of a chain says of itself.
pub struct Said {
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    pub issuer: Option<String>,
}

pub fn said(chain: &str) -> Option<Said> {
    let first = CertificateDer::pem_slice_iter(chain.as_bytes()).next()?.ok()?;
    let (_, certificate) = X509Certificate::from_der(&first).ok()?;
    let at = |seconds: i64| Timestamp(seconds.saturating_mul(1000));
    let issuer = certificate.issuer();
    let name = issuer
        .iter_common_name()
        .chain(issuer.iter_organization())
        .find_map(|n| n.as_str().ok());
    Some(Said {
        not_before: at(certificate.validity().not_before.timestamp()),
        not_after: at(certificate.validity().not_after.timestamp()),
        issuer: name.map(|n| super::readable(n, 200)),
    })
}

/// An account's row is a setting with this id.
pub fn account_id(account: &str) -> String {
    format!("acme.account.{account}")
}

/// Why a key of an external account is none.
pub fn hmac_key(text: &str) -> Result<Vec<u8>, ApiError> {
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
    let bare = text.trim().trim_end_matches('=');
    match URL_SAFE_NO_PAD.decode(bare).or_else(|_| STANDARD_NO_PAD.decode(bare)) {
        Ok(key) if !key.is_empty() => Ok(key),
        Ok(_) | Err(_) => Err(ApiError::invalid(
            "tls.acme.externalAccount.hmacKey",
            "it is no key in base64url, as the ACME server gives it",
        )),
    }
}
