//! What `GET /api/events` streams.

use crate::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One change, as the data of a server-sent event whose `id` is the revision and whose `event` is `change`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Grows with each change; give the last one seen back as `Last-Event-ID` to go on without a gap.
    pub revision: i64,
    /// `container`, `node`, `operation`, …
    pub kind: String,
    pub id: String,
    /// `created`, `updated`, `status`, `deleted`.
    pub what: String,
    /// The name of the thing where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A container's or operation's status after the change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    pub time: Timestamp,
}
