//! Logins of image registries.

use crate::text::{RegistryHost, SecretText, Title};
use crate::{RegistryId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegistryView {
    pub id: RegistryId,
    pub host: RegistryHost,
    pub username: Title,
    pub created: Timestamp,
    pub updated: Timestamp,
}

/// A registry's login. The password is sealed and never given back.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewRegistry {
    pub host: RegistryHost,
    pub username: Title,
    pub password: SecretText,
}
