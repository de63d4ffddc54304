//! Images on a node.

use crate::Timestamp;
use crate::text::ImageRef;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageView {
    /// `sha256:…`
    pub id: String,
    /// `nginx:latest`, …; empty for an image that no name points to.
    pub tags: Vec<String>,
    /// Bytes on disk.
    pub size: u64,
    pub created: Timestamp,
    /// How many containers of the node use it.
    pub containers: u64,
    pub node_id: String,
}

/// `POST /api/containers/images/pull`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PullImage {
    pub name: ImageRef,
    /// `latest` where neither this nor a tag in `name` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<ImageTag>,
    /// The node that pulls; the only one where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
}

/// A tag: `latest`, `16-alpine`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageTag(Box<str>);

impl ImageTag {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
impl TryFrom<String> for ImageTag {
    type Error = crate::text::BadText;
    fn try_from(s: String) -> Result<Self, Self::Error> {
        let ok = (1..=128).contains(&s.len())
            && !s.starts_with(['.', '-'])
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.' || b == b'-');
        if ok {
            Ok(Self(s.into()))
        } else {
            Err(crate::text::BadText("a tag has 1 to 128 letters, digits, `_`, `.` or `-`".into()))
        }
    }
}
impl From<ImageTag> for String {
    fn from(t: ImageTag) -> String {
        t.0.into()
    }
}
impl utoipa::PartialSchema for ImageTag {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        crate::text::string_schema("^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$", None, None, "A tag.")
    }
}
impl ToSchema for ImageTag {}

/// What a prune freed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pruned {
    /// Ids or names of what was removed.
    pub removed: Vec<String>,
    /// Bytes freed.
    pub freed: u64,
}

/// Progress of one layer of a pull.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LayerProgress {
    pub layer: String,
    /// `Downloading`, `Extracting`, `Pull complete`, …
    pub status: String,
    /// Bytes done, of `total`.
    pub current: u64,
    pub total: u64,
}
