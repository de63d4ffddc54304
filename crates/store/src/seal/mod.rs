//! Secrets at rest.
//!
//! Each secret is encrypted with a random data key of its own (XChaCha20-Poly1305), and that data key with a master key
//! from the key file. Both are bound to the row they belong to, so a sealed value copied to another row does not open.
//! Changing the master key therefore means wrapping the small data keys anew, not encrypting everything again.
//!
//! A sealed value is `v1:<key id>:<wrapped data key>:<ciphertext>`, the last two in base64, each with its nonce in front.

mod keyfile;
mod rotate;

use crate::error::SealError;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use hmac::{Hmac, Mac};
use nm_types::text::SecretText;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::Sha256;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use zeroize::{Zeroize, Zeroizing};

pub(crate) use keyfile::{MasterKey, create as create_key_file, exists as key_file_exists, sweep as sweep_key_file};
pub use rotate::KeyRotation;

const NONCE: usize = 24;

/// A secret in the clear: wiped when dropped, never printed.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// `value` as JSON.
    pub fn json<T: Serialize>(value: &T) -> Result<Self, crate::StoreError> {
        serde_json::to_vec(value)
            .map(Self::new)
            .map_err(|e| crate::StoreError::invalid(format!("a secret does not become JSON: {e}")))
    }

    /// The secret itself. Each call is a place to look at in a review.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Reads what [`Secret::json`] made. The error says nothing of the content.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, crate::StoreError> {
        serde_json::from_slice(&self.0).map_err(|e| {
            let kind = if e.is_data() {
                "is of another shape than expected"
            } else {
                "is not JSON"
            };
            crate::StoreError::corrupt(format!("an opened secret {kind}"))
        })
    }
}

impl From<&SecretText> for Secret {
    fn from(text: &SecretText) -> Self {
        Self::new(text.expose().as_bytes().to_vec())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The row a sealed value belongs to. It is authenticated along with the value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) table: &'static str,
    pub(crate) kind: &'a str,
    pub(crate) id: &'a str,
}

impl Place<'_> {
    /// Lengths in front, so that no two places give the same bytes.
    fn bytes(&self, part: &str) -> Vec<u8> {
        let mut out = b"neuralmesh sealed v1".to_vec();
        for text in [part, self.table, self.kind, self.id] {
            out.extend_from_slice(&(text.len() as u64).to_le_bytes());
            out.extend_from_slice(text.as_bytes());
        }
        out
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.table, self.kind, self.id)
    }
}

/// The master keys this process holds, as in the key file.
pub(crate) struct Ring {
    path: PathBuf,
    keys: RwLock<Arc<Vec<MasterKey>>>,
}

impl Ring {
    /// Reads the key file.
    pub(crate) fn open(path: &Path) -> Result<Self, SealError> {
        let keys = keyfile::read(path)?;
        Ok(Self {
            path: path.to_owned(),
            keys: RwLock::new(Arc::new(keys)),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn keys(&self) -> Arc<Vec<MasterKey>> {
        // A panic elsewhere cannot leave a half-written Arc behind.
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn hold(&self, keys: Vec<MasterKey>) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }

    /// Ids of the keys, oldest first.
    pub(crate) fn key_ids(&self) -> Vec<String> {
        self.keys().iter().map(|k| k.id().to_owned()).collect()
    }

    /// The key `id`; where it is unknown, the file is read again, since another process may have rotated.
    fn key(&self, id: &str) -> Result<MasterKey, SealError> {
        let find = |keys: &[MasterKey]| keys.iter().find(|k| k.id() == id).cloned();
        if let Some(key) = find(&self.keys()) {
            return Ok(key);
        }
        let again = keyfile::read(&self.path)?;
        let found = find(&again);
        if found.is_some() {
            self.hold(again);
        }
        found.ok_or_else(|| SealError::WrongKey {
            path: self.path.clone(),
            key: printable(id),
        })
    }

    /// Seals `plain` for `place` under the master key `key_id`.
    pub(crate) fn seal(&self, key_id: &str, place: Place<'_>, plain: &[u8]) -> Result<String, SealError> {
        let master = self.key(key_id)?;
        let data_key = random::<32>()?;
        let body = encrypt(&data_key, &place.bytes("value"), plain)?;
        let wrapped = encrypt(master.bytes(), &place.bytes("key"), data_key.as_slice())?;
        Ok(format!("v1:{}:{}:{}", master.id(), BASE64.encode(wrapped), BASE64.encode(body)))
    }

    pub(crate) fn open_sealed(&self, place: Place<'_>, sealed: &str) -> Result<Secret, SealError> {
        let parts = Parts::split(place, sealed)?;
        let data_key = self.unwrap_key(place, &parts)?;
        let plain = decrypt(&data_key, &place.bytes("value"), &decode(place, parts.body)?).ok_or_else(|| does_not_open(place))?;
        Ok(Secret(plain))
    }

    /// The same secret with its data key wrapped under `key_id`.
    pub(crate) fn rewrap(&self, key_id: &str, place: Place<'_>, sealed: &str) -> Result<String, SealError> {
        let parts = Parts::split(place, sealed)?;
        let data_key = self.unwrap_key(place, &parts)?;
        let master = self.key(key_id)?;
        let wrapped = encrypt(master.bytes(), &place.bytes("key"), data_key.as_slice())?;
        Ok(format!("v1:{}:{}:{}", master.id(), BASE64.encode(wrapped), parts.body))
    }

    fn unwrap_key(&self, place: Place<'_>, parts: &Parts<'_>) -> Result<Zeroizing<[u8; 32]>, SealError> {
        let master = self.key(parts.key_id)?;
        let wrapped = decode(place, parts.wrapped)?;
        let plain = decrypt(master.bytes(), &place.bytes("key"), &wrapped).ok_or_else(|| does_not_open(place))?;
        let key: [u8; 32] = plain.as_slice().try_into().map_err(|_| does_not_open(place))?;
        Ok(Zeroizing::new(key))
    }
}

/// The master key a sealed value names.
pub(crate) fn key_id_of(sealed: &str) -> Option<&str> {
    sealed.strip_prefix("v1:")?.split(':').next()
}

struct Parts<'a> {
    key_id: &'a str,
    wrapped: &'a str,
    body: &'a str,
}

impl<'a> Parts<'a> {
    fn split(place: Place<'_>, sealed: &'a str) -> Result<Self, SealError> {
        let mut parts = sealed.split(':');
        match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("v1"), Some(key_id), Some(wrapped), Some(body), None) => Ok(Self { key_id, wrapped, body }),
            _ => Err(does_not_open(place)),
        }
    }
}

fn does_not_open(place: Place<'_>) -> SealError {
    SealError::DoesNotOpen { place: place.to_string() }
}

fn decode(place: Place<'_>, text: &str) -> Result<Vec<u8>, SealError> {
    BASE64.decode(text).map_err(|_| does_not_open(place))
}

/// An id read from the database, fit for a message.
fn printable(id: &str) -> String {
    id.chars().filter(char::is_ascii_alphanumeric).take(32).collect()
}

pub(crate) fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, SealError> {
    let mut bytes = Zeroizing::new([0u8; N]);
    getrandom::fill(bytes.as_mut_slice()).map_err(|_| SealError::NoRandomness)?;
    Ok(bytes)
}

/// Nonce, then ciphertext. 24 random bytes never repeat in practice.
fn encrypt(key: &[u8; 32], aad: &[u8], plain: &[u8]) -> Result<Vec<u8>, SealError> {
    let nonce = random::<NONCE>()?;
    let cipher = XChaCha20Poly1305::new(key.into());
    // It fails for texts beyond 256 GiB only.
    let body = cipher
        .encrypt(XNonce::from_slice(nonce.as_slice()), Payload { msg: plain, aad })
        .map_err(|_| SealError::NoRandomness)?;
    let mut out = nonce.to_vec();
    out.extend_from_slice(&body);
    Ok(out)
}

fn decrypt(key: &[u8; 32], aad: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, body) = sealed.split_at_checked(NONCE)?;
    let cipher = XChaCha20Poly1305::new(key.into());
    cipher
        .decrypt(XNonce::from_slice(nonce), Payload { msg: body, aad })
        .ok()
        .map(Zeroizing::new)
}

/// The secret that other keys come from. It lives sealed in the database, so that it outlives a change of master key.
pub(crate) struct Root(Zeroizing<[u8; 32]>);

/// Where the root secret stands.
pub(crate) const ROOT_PLACE: Place<'static> = Place {
    table: "store_head",
    kind: "root",
    id: "1",
};

impl Root {
    pub(crate) fn fresh() -> Result<Self, SealError> {
        random().map(Self)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    pub(crate) fn from_secret(secret: &Secret) -> Result<Self, SealError> {
        let bytes: [u8; 32] = secret.expose().try_into().map_err(|_| does_not_open(ROOT_PLACE))?;
        Ok(Self(Zeroizing::new(bytes)))
    }

    /// A key for one use, told apart by `label`: HMAC-SHA256 of the label, as HKDF's expansion (RFC 5869) with one block.
    pub(crate) fn derive(&self, label: &str) -> Zeroizing<[u8; 32]> {
        let mut mac = keyed(self.0.as_slice());
        mac.update(b"neuralmesh derived key v1\0");
        mac.update(label.as_bytes());
        mac.update(&[1]);
        let mut out: [u8; 32] = mac.finalize().into_bytes().into();
        let key = Zeroizing::new(out);
        out.zeroize();
        key
    }
}

pub(crate) fn keyed(key: &[u8]) -> Hmac<Sha256> {
    // The one error of this constructor is a key of a wrong length, and HMAC takes every length.
    <Hmac<Sha256> as Mac>::new_from_slice(key).unwrap_or_else(|_| unreachable!("HMAC takes keys of every length"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ring() -> (tempfile::TempDir, Ring, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        create_key_file(&path).unwrap();
        let ring = Ring::open(&path).unwrap();
        let id = ring.key_ids().remove(0);
        (dir, ring, id)
    }

    const HERE: Place<'static> = Place {
        table: "resources",
        kind: "registry",
        id: "reg_1",
    };

    #[test]
    fn opens_only_where_it_was_sealed() {
        let (_dir, ring, key) = ring();
        let sealed = ring.seal(&key, HERE, b"hunter2").unwrap();
        assert_eq!(ring.open_sealed(HERE, &sealed).unwrap().expose(), b"hunter2");
        for elsewhere in [
            Place { id: "reg_2", ..HERE },
            Place { kind: "setting", ..HERE },
            Place {
                table: "idempotency",
                ..HERE
            },
        ] {
            assert!(matches!(ring.open_sealed(elsewhere, &sealed), Err(SealError::DoesNotOpen { .. })));
        }
        // The same bytes cut at another place are another place.
        assert_ne!(
            Place {
                kind: "ab",
                id: "c",
                ..HERE
            }
            .bytes("value"),
            Place {
                kind: "a",
                id: "bc",
                ..HERE
            }
            .bytes("value")
        );
    }

    #[test]
    fn a_key_of_another_install_does_not_open() {
        let (_a, ours, key) = ring();
        let (_b, theirs, _) = ring();
        let sealed = ours.seal(&key, HERE, b"hunter2").unwrap();
        assert!(matches!(theirs.open_sealed(HERE, &sealed), Err(SealError::WrongKey { .. })));
    }

    #[test]
    fn derived_keys_differ_by_label_and_root() {
        let (one, two) = (Root::fresh().unwrap(), Root::fresh().unwrap());
        assert_eq!(one.derive("audit"), one.derive("audit"));
        assert_ne!(one.derive("audit"), one.derive("tickets"));
        assert_ne!(one.derive("audit"), two.derive("audit"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_secret_opens_and_any_flipped_bit_does_not(plain in proptest::collection::vec(any::<u8>(), 0..300), at in any::<proptest::sample::Index>(), bit in 0u8..7) {
            let (_dir, ring, key) = ring();
            let sealed = ring.seal(&key, HERE, &plain).unwrap();
            let opened = ring.open_sealed(HERE, &sealed).unwrap();
            prop_assert_eq!(opened.expose(), &plain[..]);
            let mut bytes = sealed.clone().into_bytes();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            if let Ok(changed) = String::from_utf8(bytes) {
                // The last characters of base64 may carry bits that mean nothing: then the decoder refuses them.
                prop_assert!(ring.open_sealed(HERE, &changed).is_err(), "{} opened", changed);
            }
        }

        #[test]
        fn rubbish_never_opens(text in ".{0,200}") {
            let (_dir, ring, _) = ring();
            prop_assert!(ring.open_sealed(HERE, &text).is_err());
        }
    }
}
