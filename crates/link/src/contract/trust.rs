//! Whom an agent trusts, and who vouches for it.

use nm_types::Timestamp;
use serde::{Deserialize, Serialize};

/// Whom to trust from now on, in place of whom the agent trusted before. Refused where the two lists have nobody in common.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trust {
    /// The authorities' certificates, PEM, one after the other.
    pub ca_certificates: String,
    /// The short name of the authority that the agent's certificate should be of. Is it another's, the agent renews it at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
}

/// What an agent has on its disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrustState {
    /// The short names of the authorities it trusts, in alphabetical order.
    pub trusts: Vec<String>,
    /// The short name of the authority that issued its certificate.
    pub authority: String,
    /// The certificate's serial number, as lower-case hexadecimal digits.
    pub serial: String,
    pub expires: Timestamp,
}
