//! `Idempotency-Key`: a request that is sent twice is carried out once and answered the same.
//!
//! The key is taken in the transaction that carries the request out, so a request that failed leaves its key free.

use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::Meta;
use crate::service::auth::{Actor, Credential};
use hmac::{Hmac, Mac};
use nm_store::{Idempotency, Secret, Store, Tx};
use nm_types::OperationId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::Sha256;
use std::time::Duration;
use zeroize::Zeroizing;

/// What a key stands for.
#[derive(Debug, Clone)]
pub enum Begun {
    /// The key is ours now: carry the request out in this same transaction.
    New,
    /// It was carried out: this is its answer. Drop the transaction.
    Replay(Answer),
    /// An operation carries it out, or has. Drop the transaction.
    Operation(OperationId),
}

/// The answer that was given to the first request.
#[derive(Debug, Clone)]
pub struct Answer(Secret);

impl Answer {
    /// Reads what [`keep`] was given.
    pub fn read<T: DeserializeOwned>(&self) -> ApiResult<T> {
        Ok(self.0.parse()?)
    }
}

/// Makes the digests that tell a repeated request from another one under the same key. They are keyed, since requests
/// hold passwords, and a plain digest could be tried against a word list.
#[derive(Clone)]
pub struct Fingerprints(Zeroizing<[u8; 32]>);

impl Fingerprints {
    pub fn new(store: &Store) -> Self {
        Self(store.derive_key("idempotency fingerprints"))
    }

    /// The digest of a request: its method and path, and the parts of what it asks for.
    pub fn of(&self, meta: &Meta, parts: &[&[u8]]) -> String {
        // HMAC takes keys of any length.
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.as_slice()).expect("a key of 32 bytes is a key");
        for part in [meta.method.as_str().as_bytes(), meta.path.as_bytes()].iter().chain(parts) {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        hex::encode(mac.finalize().into_bytes())
    }
}

/// Whom a key belongs to. A token's keys are its own: what its user got from a session may be more than it may see.
fn owner(actor: &Actor) -> String {
    match &actor.credential {
        Credential::Session(_) | Credential::System => actor.user.to_string(),
        Credential::Token { id, .. } => format!("{}/{id}", actor.user),
    }
}

/// Takes the key, or tells what became of the request that has it. Refuses with 409 a key that was used for another
/// request, and, with `Retry-After`, one whose request is being carried out.
pub async fn begin(tx: &mut Tx, actor: &Actor, key: &str, fingerprint: &str) -> ApiResult<Begun> {
    match tx.idempotency_begin(&owner(actor), key, fingerprint).await? {
        Idempotency::Fresh => Ok(Begun::New),
        Idempotency::Done { response, .. } => Ok(Begun::Replay(Answer(response))),
        Idempotency::Mismatch => Err(ApiError::conflict(
            "idempotency_key_reused",
            "this Idempotency-Key was used for another request: take a new one",
        )),
        Idempotency::InFlight { operation_id, .. } => match operation_id.as_deref().and_then(|id| OperationId::parse(id).ok()) {
            Some(operation) => Ok(Begun::Operation(operation)),
            None => Err(ApiError {
                retry_after: Some(Duration::from_secs(1)),
                ..ApiError::conflict(
                    "request_in_progress",
                    "the first request with this Idempotency-Key is not answered yet: retry in a moment",
                )
            }),
        },
    }
}

/// As [`begin`], for requests that an operation carries out: the operation of the first such request, if there was one.
pub async fn claimed(tx: &mut Tx, actor: &Actor, key: &str, fingerprint: &str) -> ApiResult<Option<OperationId>> {
    match begin(tx, actor, key, fingerprint).await? {
        Begun::New => Ok(None),
        Begun::Operation(operation) => Ok(Some(operation)),
        Begun::Replay(_) => Err(ApiError::conflict(
            "idempotency_key_reused",
            "this Idempotency-Key was used for another kind of request: take a new one",
        )),
    }
}

/// As [`begin`], for requests that are carried out within this transaction: the answer of the first such request, if there was
/// one. Without a key each request is the first.
pub async fn answered<T: DeserializeOwned>(
    tx: &mut Tx,
    actor: &Actor,
    key: Option<&str>,
    fingerprint: impl FnOnce() -> String,
) -> ApiResult<Option<T>> {
    let Some(key) = key else { return Ok(None) };
    match begin(tx, actor, key, &fingerprint()).await? {
        Begun::New => Ok(None),
        Begun::Replay(answer) => answer.read().map(Some),
        Begun::Operation(_) => Err(ApiError::internal()),
    }
}

/// Notes the operation that carries the request out.
pub async fn carried_by(tx: &mut Tx, actor: &Actor, key: &str, operation: &OperationId) -> ApiResult<()> {
    Ok(tx.idempotency_operation(&owner(actor), key, operation.as_str()).await?)
}

/// Keeps the answer for a repeated request, sealed; nothing without a key.
pub async fn keep<T: Serialize>(tx: &mut Tx, actor: &Actor, key: Option<&str>, answer: &T) -> ApiResult<()> {
    let Some(key) = key else { return Ok(()) };
    Ok(tx.idempotency_finish(&owner(actor), key, 201, &Secret::json(answer)?).await?)
}
