//! The authority that vouches for nodes and control plane, and its succession.

use crate::units::Bounded;
use crate::{NodeId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How far a new authority has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum AuthorityPhase {
    /// There is one authority.
    Settled,
    /// The next one is made, and the nodes are told to trust it, too.
    Introducing,
    /// The next one has become the current one: it serves and issues. Nodes renew their certificates by it.
    Renewing,
}

/// One authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthorityInfo {
    /// The first 16 digits of the fingerprint.
    pub name: String,
    /// SHA-256 of its public key, as in a join token.
    pub fingerprint: String,
    pub expires: Timestamp,
    /// How many nodes hold a certificate of it.
    pub nodes: u64,
    /// How many nodes are known to trust it.
    pub trusted_by: u64,
}

/// The authorities, and who is on which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthorityView {
    pub phase: AuthorityPhase,
    /// It serves, and issues certificates.
    pub current: AuthorityInfo,
    /// It will take the current one's place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<AuthorityInfo>,
    /// It was the current one, and its certificates still count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<AuthorityInfo>,
    /// When this phase began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// When the next one takes over at the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switch_by: Option<Timestamp>,
    /// Nodes that this phase still waits for, at most 20 of them.
    pub waiting_for: Vec<NodeId>,
}

/// `POST /api/nodes/authority/rotate`; the body may be left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RotateAuthority {
    /// Seconds after which the new authority takes over, whether all nodes trust it by then or not; 60 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switch_after: Option<Bounded<0, 86_400>>,
    /// Do not wait: a new authority takes over at once; one that has taken over drops the one before, with the nodes that still
    /// hold its certificates.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}
