//! The link's own public-key infrastructure: one authority, server certificates, agent certificates.
//!
//! Invariants:
//! - The authority alone decides what a certificate says. Of a request it takes the public key and nothing else; a request
//!   that asks for another name than the node's own is refused, not corrected.
//! - An agent's certificate can only be a client (`clientAuth`), a control plane's only a server (`serverAuth`), and one that signs
//!   releases of the agent can only do that (`codeSigning`).
//! - Every certificate's serial number is random, and none outlives its authority.
//! - Trust is a list, so that an old and a new authority can be trusted side by side while one follows the other.
//! - Keys are ECDSA P-256; no private key has `Debug`, `Display` or `Serialize`.

mod authority;
mod certificate;
mod csr;
mod release;
mod succession;

pub use authority::{Authority, AuthorityPem, ServerIdentity};
pub(crate) use certificate::is_authority_with_key;
pub use certificate::{IssuedCertificate, NodeCertificate, TrustBundle};
pub use csr::{Csr, NodeKey};
pub use release::{BadRelease, SignedText};
pub use succession::CrossCertificate;

use nm_types::NodeId;
use sha2::{Digest, Sha256};
use std::time::{Duration, SystemTime};

/// The DNS name in every control plane's certificate. Agents check for it, not for the address they dialled: a control
/// plane is known by its authority, so it may move or be reached through any address.
pub const CONTROL_NAME: &str = "control.neuralmesh";

/// What stands before an authority's short name in its certificate.
pub(crate) const AUTHORITY_NAME: &str = "NeuralMesh authority ";

/// What stands before the node's id in the URI of an agent's certificate, after SPIFFE's form.
pub const NODE_URI_PREFIX: &str = "spiffe://neuralmesh/node/";

/// How long an authority's certificate holds.
pub const AUTHORITY_LIFETIME: Duration = Duration::from_secs(3650 * 86_400);
/// How long a control plane's certificate holds.
pub const SERVER_LIFETIME: Duration = Duration::from_secs(90 * 86_400);
/// How long an agent's certificate holds.
pub const AGENT_LIFETIME: Duration = Duration::from_secs(7 * 86_400);

/// How long the certificate holds that a release of the agent is signed with.
pub const RELEASE_LIFETIME: Duration = Duration::from_secs(86_400);

/// How far certificates are dated back, for peers whose clock is behind.
pub const CLOCK_SKEW: Duration = Duration::from_secs(300);

/// The moments between which a certificate holds, both to the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

impl Validity {
    /// From `now`, dated back by [`CLOCK_SKEW`], for `lifetime`.
    pub fn starting(now: SystemTime, lifetime: Duration) -> Self {
        Self {
            not_before: now - CLOCK_SKEW,
            not_after: now + lifetime,
        }
    }
}

/// The node's name as a certificate carries it.
pub fn node_uri(node: &NodeId) -> String {
    format!("{NODE_URI_PREFIX}{node}")
}

/// SHA-256 of a SubjectPublicKeyInfo in DER: the pin of an authority.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Why a key, certificate or request was refused or could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("cannot make {what}")]
    Make {
        what: &'static str,
        #[source]
        source: rcgen::Error,
    },
    #[error("cannot read {what}: {reason}")]
    Read { what: &'static str, reason: String },
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    #[error("the certificate is not an agent's: {0}")]
    NotAnAgent(&'static str),
    #[error("the certificate request is refused: {0}")]
    CsrRefused(String),
    #[error("`{0}` is neither a host name nor an IP address")]
    BadName(String),
    #[error("the authority's certificate has expired, or ends before the certificate would begin")]
    AuthorityExpired,
    #[error("a list of trusted authorities holds one certificate at least")]
    NoAuthority,
    #[error("the operating system gave no random bytes: {0}")]
    Random(getrandom::Error),
}

impl PkiError {
    pub(crate) fn read(what: &'static str, reason: impl std::fmt::Display) -> Self {
        Self::Read {
            what,
            reason: reason.to_string(),
        }
    }
}
