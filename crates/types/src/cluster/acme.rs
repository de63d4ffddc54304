//! Certificates that are ordered from an ACME server (RFC 8555).

use super::settings::{ClusterHost, PemText, TlsKey, never_shown};
use crate::Timestamp;
use crate::text::{BadText, string_schema, texts};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use utoipa::ToSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;

texts! {
    /// Where an ACME server says what it offers.
    AcmeDirectory {
        pattern: "^https://[!-\"$-~]{1,1016}$", max: 1024,
        says: "an ACME server's directory is an https:// URL of at most 1,024 characters, without a fragment",
        ok: |t| t.strip_prefix("https://").is_some_and(|rest| !rest.is_empty()) && t.bytes().all(|b| b.is_ascii_graphic() && b != b'#')
    }
    /// Where an ACME server may write to: `admin@example.com`.
    AcmeEmail {
        pattern: "^(?=.{3,254}$)[^\\x00-\\x20\\x7f,<>?@&%#\"]+@[A-Za-z0-9][A-Za-z0-9.-]*$", max: 254,
        says: "an address is as `admin@example.com`",
        ok: |t| t.split_once('@').is_some_and(|(local, host)| {
            let odd = |c: char| c.is_whitespace() || c.is_control() || ",<>?@&%#\"".contains(c);
            let letter = |c: char| c.is_ascii_alphanumeric();
            !local.is_empty() && !local.chars().any(odd) && host.starts_with(letter) && host.chars().all(|c| letter(c) || c == '.' || c == '-')
        })
    }
    /// The name an ACME server gave to an account that was made elsewhere.
    AcmeKeyId {
        pattern: "^[!-~]{1,256}$", max: 256,
        says: "a key's id has 1 to 256 printable characters without spaces",
        ok: |t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_graphic())
    }
}

/// A certificate from an ACME server, ordered and renewed by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterAcme {
    /// The server's directory; Let's Encrypt's by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<AcmeDirectory>,
    /// Where the server may write to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<AcmeEmail>,
    /// Whether you agree to the server's terms of service; it gives no certificate otherwise.
    #[serde(default)]
    pub terms_of_service_agreed: bool,
    /// Whom to trust as the server, in place of the public authorities: certificates in PEM form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_certificate: Option<PemText>,
    /// Binds the account to one that was made elsewhere, where the server asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_account: Option<AcmeExternalAccount>,
}

/// What an ACME server gave to bind an account to (RFC 8555, 7.3.4).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AcmeExternalAccount {
    pub key_id: AcmeKeyId,
    /// In base64url, as the server gives it; never given back.
    #[serde(default, skip_serializing_if = "never_shown")]
    pub hmac_key: Option<TlsKey>,
}

impl ClusterAcme {
    /// What of it can't be, with the fields below `tls`.
    pub(super) fn problems(&self, names: &[ClusterHost]) -> Vec<(String, &'static str)> {
        let mut out = Vec::new();
        if !self.terms_of_service_agreed {
            out.push((
                "acme.termsOfServiceAgreed".into(),
                "the ACME server gives a certificate to those who agree to its terms of service: read them, and send true",
            ));
        }
        if self.external_account.as_ref().is_some_and(|a| a.hmac_key.is_none()) {
            out.push(("acme.externalAccount.hmacKey".into(), "the key of this id is missing"));
        }
        if names.is_empty() {
            out.push(("serverNames".into(), "say which names the certificate is to be for"));
        }
        for (i, name) in names.iter().enumerate() {
            let at = || format!("serverNames[{i}]");
            if name.as_str().starts_with("*.") {
                out.push((
                    at(),
                    "a certificate for a wildcard takes a challenge by DNS, which is not answered here: name each host, or upload a certificate",
                ));
            } else if name.as_str().parse::<IpAddr>().is_ok() {
                out.push((at(), "a certificate is for names, and this is an address"));
            }
        }
        out
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AcmeStatus {
    /// The first certificate is on its way; the entry answers with one that is signed by itself.
    Pending,
    Valid,
    /// The last attempt failed. A certificate that is in force stays in force.
    Failing,
}

impl AcmeStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Valid => "valid",
            Self::Failing => "failing",
        }
    }
}

/// How it stands with a certificate from an ACME server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterAcmeView {
    pub status: AcmeStatus,
    pub directory: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<AcmeEmail>,
    /// The id of the key that binds the account to another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_account: Option<AcmeKeyId>,
    /// Whom to trust as the server, in place of the public authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_certificate: Option<PemText>,
    /// Who signed the certificate that is in force, where the server gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// When the certificate ends that the server gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Timestamp>,
    /// Why the last attempt failed; gone once one succeeds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// When it is renewed, or tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<Timestamp>,
}
