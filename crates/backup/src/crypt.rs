//! What the format encrypts with, for the files and packs that rustic_core does not hand out: AES-256 in counter mode and
//! Poly1305-AES, a nonce of 16 bytes before and a tag of 16 bytes behind.

use aes256ctr_poly1305aes::{Aes256CtrPoly1305Aes, Key as RawKey, Nonce, Tag, aead::AeadInPlace};
use rustic_core::{
    Id,
    repofile::{KeyFile, MasterKey},
};
use sha2::{Digest, Sha256};
use std::{fmt, io};

const NONCE: usize = 16;
const TAG: usize = 16;
/// The first byte of a file that is compressed.
const COMPRESSED: u8 = 2;
/// A file of the repository that is larger when it is unpacked is none of ours.
const FILE_AT_MOST: usize = 1 << 30;
/// log2 of scrypt's N. Our passwords are 32 random bytes: there is nothing to guess, and so nothing to make slow.
const RANDOM_LOG_N: u8 = 12;
/// Of a password that a person may have thought of: what restic takes on most machines.
const THOUGHT_LOG_N: u8 = 15;
/// Passwords of so many characters are taken for random ones.
const RANDOM_FROM: usize = 43;

#[derive(Clone)]
pub struct Key(Aes256CtrPoly1305Aes);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Key {
    pub fn new(master: &MasterKey) -> Option<Self> {
        let raw = [&master.encrypt[..], &master.mac.k, &master.mac.r].concat();
        (raw.len() == 64).then(|| Self::raw(&raw))
    }

    fn raw(raw: &[u8]) -> Self {
        Self(Aes256CtrPoly1305Aes::new(RawKey::from_slice(raw)))
    }

    /// Decrypts in place; what is plain is the part that is returned.
    pub fn open<'a>(&self, sealed: &'a mut [u8]) -> io::Result<&'a [u8]> {
        if sealed.len() < NONCE + TAG {
            return Err(damaged("it is shorter than its own frame"));
        }
        let (nonce, rest) = sealed.split_at_mut(NONCE);
        let end = rest.len() - TAG;
        let (text, tag) = rest.split_at_mut(end);
        self.0
            .decrypt_in_place_detached(Nonce::from_slice(nonce), &[], text, Tag::from_slice(tag))
            .map_err(|_| damaged("its authentication code is wrong"))?;
        Ok(text)
    }

    pub fn seal(&self, plain: &[u8]) -> io::Result<Vec<u8>> {
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce).map_err(io::Error::other)?;
        let mut sealed = Vec::with_capacity(NONCE + plain.len() + TAG);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(plain);
        let tag = self
            .0
            .encrypt_in_place_detached(Nonce::from_slice(&nonce), &[], &mut sealed[NONCE..])
            .map_err(|_| io::Error::other("a file of the repository is too large to encrypt"))?;
        sealed.extend_from_slice(&tag);
        Ok(sealed)
    }

    /// A file of the repository, such as a lock.
    pub fn open_file(&self, mut sealed: Vec<u8>) -> io::Result<Vec<u8>> {
        let plain = self.open(&mut sealed)?;
        match plain.first() {
            Some(b'{' | b'[') => Ok(plain.to_vec()),
            Some(&COMPRESSED) => zstd::bulk::decompress(&plain[1..], FILE_AT_MOST.min(plain.len().saturating_mul(1000).max(1 << 20))),
            _ => Err(damaged("it is of no known form")),
        }
    }
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

pub fn hash(bytes: &[u8]) -> Id {
    Id::new(Sha256::digest(bytes).into())
}

/// A key file that opens with `password` and holds the repository's key.
pub fn key_file(master: &MasterKey, password: &str) -> io::Result<Vec<u8>> {
    let log_n = if password.len() >= RANDOM_FROM {
        RANDOM_LOG_N
    } else {
        THOUGHT_LOG_N
    };
    let params = scrypt::Params::new(log_n, 8, 1).map_err(io::Error::other)?;
    let mut salt = vec![0; 64];
    getrandom::fill(&mut salt).map_err(io::Error::other)?;
    let mut derived = [0; 64];
    scrypt::scrypt(password.as_bytes(), &salt, &params, &mut derived).map_err(io::Error::other)?;
    let data = Key::raw(&derived).seal(&serde_json::to_vec(master)?)?;
    let file = KeyFile {
        hostname: None,
        username: None,
        created: None,
        kdf: "scrypt".into(),
        n: 1 << log_n,
        r: 8,
        p: 1,
        data,
        salt,
    };
    Ok(serde_json::to_vec(&file)?)
}
