//! Named volumes on a node.

use crate::Timestamp;
use crate::text::{Labels, VolumeName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeView {
    pub name: String,
    pub driver: String,
    /// Where it lies on the node.
    pub mountpoint: String,
    pub labels: std::collections::BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    pub node_id: String,
    /// Names of the containers that use it.
    pub used_by: Vec<String>,
}

/// A new volume of Docker's `local` driver, without options: options of that driver can bind any path of the node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewVolume {
    pub name: VolumeName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
    #[serde(default)]
    pub labels: Labels,
}
