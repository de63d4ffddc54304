//! What rules, channels and silences have in common as rows of the store.

use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::Meta;
use crate::service::refusals::if_match;
use nm_store::{Kind, Resource, Store, StoreError, Tx};
use nm_types::id::BadId;
use nm_types::text::Title;

/// An id of the store's, which is one.
pub fn id<T>(parsed: Result<T, BadId>) -> ApiResult<T> {
    parsed.map_err(|error| {
        tracing::error!(%error, "a row of the store has an id that is none");
        ApiError::internal()
    })
}

pub fn title(row: &Resource) -> ApiResult<Title> {
    Title::parse(&row.name).map_err(|error| {
        tracing::error!(%error, kind = %row.kind, id = row.id, "a row of the store has a name that is none");
        ApiError::internal()
    })
}

/// The one with this id or name. `what` is its word in refusals.
pub async fn find(store: &Store, kind: Kind, what: &str, key: &str) -> ApiResult<Resource> {
    if let Some(row) = store.get(kind, key).await? {
        return Ok(row);
    }
    let missing = || ApiError::not_found(what, key);
    // A silence has no name, and an empty key names nothing.
    if key.is_empty() {
        return Err(missing());
    }
    store.named(kind, key, None).await?.into_iter().next().ok_or_else(missing)
}

/// A name that another one has.
pub fn taken(error: StoreError, what: &str, name: &Title) -> ApiError {
    match error {
        StoreError::Conflict { .. } => ApiError::conflict(
            "name_taken",
            format!("there is {what} `{name}` already: choose another name, or change that one"),
        )
        .field("name"),
        other => other.into(),
    }
}

/// Refuses one more than `most`.
pub async fn room(tx: &mut Tx, kind: Kind, most: i64, what: &str) -> ApiResult<()> {
    if tx.count(kind, None).await? >= most {
        return Err(ApiError::conflict(
            "limit_reached",
            format!("there are {most} {what} already: remove one first"),
        ));
    }
    Ok(())
}

/// The row as a write finds it, at the version that `If-Match` names where it does.
pub async fn held(tx: &mut Tx, kind: Kind, what: &str, id: &str, meta: &Meta) -> ApiResult<Resource> {
    let row = tx.get(kind, id).await?.ok_or_else(|| ApiError::not_found(what, id))?;
    if_match(&row, meta)?;
    Ok(row)
}
