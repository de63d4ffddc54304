//! Hashing of passwords: argon2id, on threads of their own, few at a time.

use crate::api::error::{ApiError, ApiResult};
use argon2::password_hash::{Output, ParamsString, SaltString};
use argon2::{Algorithm, Argon2, Block, Params, PasswordHash, Version};
use nm_types::text::SecretText;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What one hash costs: the memory and passes of argon2id.
#[derive(Debug, Clone)]
pub struct Cost(Params);

impl Default for Cost {
    /// OWASP's: 19 MiB, two passes, one lane.
    fn default() -> Self {
        Self(Params::DEFAULT)
    }
}

impl Cost {
    /// `None` for what argon2 does not take.
    pub fn new(memory_kib: u32, passes: u32, lanes: u32) -> Option<Self> {
        Params::new(memory_kib, passes, lanes, None).ok().map(Self)
    }
    /// As little as argon2 allows. For tests: such hashes are quick to guess.
    pub fn least() -> Self {
        Self::new(Params::MIN_M_COST, Params::MIN_T_COST, Params::MIN_P_COST).unwrap_or_default()
    }
}

/// How many hashes run at once: each holds its memory and a core.
const AT_ONCE: usize = 2;
/// How many may wait for their turn; the rest is told to come back.
const WAITING: usize = 64;

/// Hashes and checks passwords.
#[derive(Debug, Clone)]
pub struct Passwords {
    hasher: Argon2<'static>,
    running: Arc<Semaphore>,
    /// Those that run and those that wait.
    places: Arc<Semaphore>,
    /// What the passwords of unknown users are checked against, for the same time and to no avail.
    decoy: Arc<str>,
}

/// A hash's leave to run, given back when it ends, whether or not somebody still waits for it.
struct Turn(#[expect(dead_code, reason = "held for its drop")] [OwnedSemaphorePermit; 2]);

impl Passwords {
    pub fn new(Cost(params): Cost) -> Self {
        let decoy = decoy(&params);
        let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let (running, places) = (Arc::new(Semaphore::new(AT_ONCE)), Arc::new(Semaphore::new(AT_ONCE + WAITING)));
        Self {
            hasher,
            running,
            places,
            decoy,
        }
    }

    async fn turn(&self) -> ApiResult<Turn> {
        let busy = || {
            ApiError::unavailable(
                "passwords_busy",
                "too many passwords are being checked right now: retry in a moment",
            )
        };
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| busy())?;
        let run = Arc::clone(&self.running).acquire_owned().await.map_err(|_| busy())?;
        Ok(Turn([run, place]))
    }

    /// The hash of a new password, as a PHC string.
    pub async fn hash(&self, password: &SecretText) -> ApiResult<String> {
        let turn = self.turn().await?;
        let (hasher, password) = (self.hasher.clone(), password.clone());
        blocking(move || {
            let _turn = turn;
            let salt = salt()?;
            let mut raw = [0; 16];
            let raw = salt.decode_b64(&mut raw).map_err(|error| internal("read a salt", error))?;
            let hash = PasswordHash {
                algorithm: Algorithm::Argon2id.ident(),
                version: Some(Version::V0x13.into()),
                params: ParamsString::try_from(hasher.params()).map_err(|error| internal("hash a password", error))?,
                salt: Some(salt.as_salt()),
                hash: Some(output(&hasher, &password, raw)?),
            };
            Ok(hash.to_string())
        })
        .await
    }

    /// Whether the password is the one of `hash`. Without a hash it is not, which takes the same time.
    pub async fn verify(&self, hash: Option<&str>, password: &SecretText) -> ApiResult<bool> {
        let turn = self.turn().await?;
        let known = hash.is_some();
        let (password, hash) = (password.clone(), hash.unwrap_or(&self.decoy).to_owned());
        blocking(move || {
            let _turn = turn;
            let hash = PasswordHash::new(&hash).map_err(|error| internal("read a password hash", error))?;
            // As costly as it was when it was made, which may have been under another configuration.
            let algorithm = Algorithm::try_from(hash.algorithm).map_err(|error| internal("check a password", error))?;
            let version = hash.version.map_or(Ok(Version::default()), Version::try_from);
            let version = version.map_err(|error| internal("check a password", error))?;
            let params = Params::try_from(&hash).map_err(|error| internal("check a password", error))?;
            let hasher = Argon2::new(algorithm, version, params);
            let (Some(salt), Some(wanted)) = (hash.salt, hash.hash) else {
                return Err(internal("check a password", "its hash has no salt or no output"));
            };
            let mut raw = [0; 64];
            let raw = salt.decode_b64(&mut raw).map_err(|error| internal("read a salt", error))?;
            // Compared in constant time.
            Ok(output(&hasher, &password, raw)? == wanted && known)
        })
        .await
    }
}

fn output(hasher: &Argon2<'_>, password: &SecretText, salt: &[u8]) -> ApiResult<Output> {
    let failed = |error: argon2::Error| internal("hash a password", error);
    let mut memory = vec![Block::default(); hasher.params().block_count()];
    let length = hasher.params().output_len().unwrap_or(Params::DEFAULT_OUTPUT_LEN);
    let mut out = vec![0; length];
    hasher
        .hash_password_into_with_memory(password.expose().as_bytes(), salt, &mut out, &mut memory)
        .map_err(failed)?;
    Output::new(&out).map_err(|error| internal("hash a password", error))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> ApiResult<T> + Send + 'static) -> ApiResult<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        tracing::error!(%error, "hashing a password did not end");
        Err(ApiError::internal())
    })
}

pub(super) fn random<const N: usize>() -> ApiResult<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| {
        tracing::error!(%error, "the system gives no random bytes");
        ApiError::internal()
    })?;
    Ok(bytes)
}

fn salt() -> ApiResult<SaltString> {
    SaltString::encode_b64(&random::<16>()?).map_err(|error| internal("make a salt", error))
}

/// A hash of no password that anybody knows, as costly to check as any other.
fn decoy(params: &Params) -> Arc<str> {
    let (salt, hash) = ("A".repeat(22), "A".repeat(43));
    format!(
        "$argon2id$v=19$m={},t={},p={}${salt}${hash}",
        params.m_cost(),
        params.t_cost(),
        params.p_cost()
    )
    .into()
}

pub(super) fn internal(attempt: &str, error: impl std::fmt::Display) -> ApiError {
    tracing::error!(%error, attempt, "password hashing failed");
    ApiError::internal()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(t: &str) -> SecretText {
        SecretText::new(t)
    }

    #[tokio::test]
    async fn right_wrong_and_unknown() {
        let passwords = Passwords::new(Cost::least());
        let hash = passwords.hash(&text("correct horse")).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=8,t=1,p=1$"), "{hash}");
        assert_ne!(
            hash,
            passwords.hash(&text("correct horse")).await.unwrap(),
            "each hash has a salt of its own"
        );
        assert!(passwords.verify(Some(&hash), &text("correct horse")).await.unwrap());
        assert!(!passwords.verify(Some(&hash), &text("correct horsf")).await.unwrap());
        assert!(!passwords.verify(None, &text("correct horse")).await.unwrap());
        assert_eq!(passwords.verify(Some("nonsense"), &text("x")).await.unwrap_err().status, 500);
    }

    /// What takes the time is in the hash; clocks say little where other tests run too.
    #[tokio::test]
    async fn an_unknown_user_costs_what_a_known_one_does() {
        for cost in [Cost::least(), Cost::default(), Cost::new(1024, 3, 2).unwrap()] {
            let passwords = Passwords::new(cost);
            let real = passwords.hash(&text("correct horse")).await.unwrap();
            let parts = |hash: &str| {
                let hash = PasswordHash::new(hash).unwrap();
                (
                    hash.algorithm.to_string(),
                    hash.version,
                    hash.params.to_string(),
                    hash.salt.map(|s| s.as_str().len()),
                    hash.hash.map(|h| h.len()),
                )
            };
            assert_eq!(parts(&real), parts(&passwords.decoy));
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_crowd_is_told_to_come_back() {
        let passwords = Passwords::new(Cost::new(8 * 1024, 2, 1).unwrap());
        let crowd: Vec<_> = (0..AT_ONCE + WAITING + 40)
            .map(|_| {
                let passwords = passwords.clone();
                tokio::spawn(async move { passwords.verify(None, &text("x")).await.map_err(|e| e.status.as_u16()) })
            })
            .collect();
        let mut refused = 0;
        for one in crowd {
            match one.await.unwrap() {
                Ok(right) => assert!(!right),
                Err(status) => {
                    assert_eq!(status, 503);
                    refused += 1;
                }
            }
        }
        assert!((1..=40).contains(&refused), "{refused} were refused");
        assert!(passwords.verify(None, &text("x")).await.is_ok(), "and then there is room again");
    }
}
