//! Networks on a node.

use crate::Timestamp;
use crate::text::{Labels, NetworkName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkView {
    pub id: String,
    pub name: String,
    pub driver: String,
    /// `10.0.0.0/24`, …
    pub subnets: Vec<String>,
    /// No way out to the world.
    pub internal: bool,
    pub labels: std::collections::BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    pub node_id: String,
    /// Names of the containers on it.
    pub containers: Vec<String>,
}

/// A new bridge network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewNetwork {
    pub name: NetworkName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
    /// No way out to the world.
    #[serde(default)]
    pub internal: bool,
    #[serde(default)]
    pub labels: Labels,
}

/// `POST /api/networks/:name/attach` and `/detach`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkMember {
    /// Id or name of the container.
    pub container: String,
}
