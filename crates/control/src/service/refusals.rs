//! What every kind of row that users name and change refuses in the same way.

use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::Meta;
use nm_store::{Resource, StoreError, Subject};
use nm_types::text::Title;

/// Refuses what was changed since `If-Match`.
pub fn if_match(row: &Resource, meta: &Meta) -> ApiResult<()> {
    match meta.if_match {
        Some(revision) if revision != row.revision => Err(StoreError::Stale {
            kind: Subject::Resource(row.kind),
            id: row.id.clone(),
            generation: row.generation,
            revision: row.revision,
        }
        .into()),
        Some(_) | None => Ok(()),
    }
}

/// A name that would be taken for an id.
pub fn not_an_id(name: &Title, prefix: &str) -> ApiResult<()> {
    if nm_types::id::is_id(prefix, name.as_str()) {
        return Err(ApiError::conflict("name_reserved", format!("`{name}` would be taken for an id: choose another name")).field("name"));
    }
    Ok(())
}
