//! The frame of every reply.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A failed reply: what went wrong in words, a stable code for programs, and where fields were wrong, which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ErrorBody {
    /// Always `false`.
    pub success: bool,
    /// A sentence a person can act on.
    pub error: String,
    /// Stable, for programs: `container_not_found`, `invalid_field`, …
    pub code: String,
    pub request_id: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<FieldProblem>,
    /// The operation whose steps and log tell more, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation_id: Option<String>,
    /// The last lines a container wrote before it failed, where there are some.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logs: Vec<String>,
}

/// One field that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FieldProblem {
    /// Path of the field: `ports[0].container`.
    pub field: String,
    pub message: String,
}
