//! Reads blobs out of packs: decrypted, unpacked and compared with their hashes. Memory is that of one part of a pack.

use crate::{
    crypt::{self, Key},
    failure::{Result, failed, of_rustic},
    open::Opened,
    store::Store,
};
use bytes::BytesMut;
use nm_types::backup::job::JobErrorCode;
use rustic_core::{FileType, Id, OpenStatus, Repository, repofile::SnapshotFile};
use std::{io, sync::Arc};
use zstd::bulk::Decompressor;

/// What lies between two blobs that are needed is read with them where it is no more than this.
const HOLE_AT_MOST: u32 = 256 * 1024;
/// What is read at once.
const PART_AT_MOST: u32 = 16 << 20;
/// The format's blobs have 8 MiB at most; more is a bomb.
const BLOB_AT_MOST: usize = 64 << 20;

/// A blob in a pack.
#[derive(Debug, Clone, Copy)]
pub struct Blob {
    pub id: Id,
    pub offset: u32,
    pub length: u32,
    /// Where it is compressed: how long it is.
    pub unpacked: Option<u32>,
}

impl Blob {
    /// The frame of what is encrypted takes 32 bytes.
    pub fn size(&self) -> u64 {
        u64::from(self.unpacked.unwrap_or(self.length.saturating_sub(32)))
    }
}

/// One for each thread.
pub struct BlobReader {
    store: Arc<dyn Store>,
    key: Key,
    unpacker: Decompressor<'static>,
    unpacked: Vec<u8>,
}

pub enum ReadError {
    /// The store does not give it.
    Store(Box<rustic_core::RusticError>),
    /// It is not what it was when it was written.
    Damaged(String),
    Stopped,
}

impl BlobReader {
    pub fn new(store: &Arc<dyn Store>, key: &Key) -> io::Result<Self> {
        Ok(Self {
            store: store.clone(),
            key: key.clone(),
            unpacker: Decompressor::new()?,
            unpacked: Vec::new(),
        })
    }

    /// Gives each of the blobs, which are of one pack and in the order of their offsets, to `take`; it answers false to stop.
    pub fn read<'b>(
        &mut self,
        pack: &Id,
        blobs: &'b [Blob],
        hashed: bool,
        mut take: impl FnMut(usize, &'b Blob, &[u8]) -> bool,
    ) -> std::result::Result<(), ReadError> {
        let mut first = 0;
        while first < blobs.len() {
            let begin = blobs[first].offset;
            let mut last = first;
            let mut end = begin + blobs[first].length;
            while let Some(next) = blobs.get(last + 1)
                && next.offset >= end
                && next.offset - end <= HOLE_AT_MOST
                && next.offset + next.length - begin <= PART_AT_MOST
            {
                end = next.offset + next.length;
                last += 1;
            }
            let bytes = self
                .store
                .read_partial(FileType::Pack, pack, false, begin, end - begin)
                .map_err(ReadError::Store)?;
            let mut part: BytesMut = bytes.into();
            for (n, blob) in blobs.iter().enumerate().take(last + 1).skip(first) {
                let from = (blob.offset - begin) as usize;
                let sealed = part
                    .get_mut(from..from + blob.length as usize)
                    .ok_or_else(|| ReadError::Damaged("it is shorter than the index says".into()))?;
                let plain = self
                    .unseal(sealed, blob, hashed)
                    .map_err(|why| ReadError::Damaged(why.to_string()))?;
                if !take(n, blob, plain) {
                    return Err(ReadError::Stopped);
                }
            }
            first = last + 1;
        }
        Ok(())
    }

    /// What a blob holds, of its sealed bytes.
    pub fn unseal<'a>(&'a mut self, sealed: &'a mut [u8], blob: &Blob, hashed: bool) -> io::Result<&'a [u8]> {
        let plain = self.key.open(sealed)?;
        let plain = match blob.unpacked {
            None => plain,
            Some(length) => {
                let length = length as usize;
                if length > BLOB_AT_MOST {
                    return Err(io::Error::other("a blob is too large"));
                }
                self.unpacked.clear();
                self.unpacked.reserve(length);
                self.unpacker.decompress_to_buffer(plain, &mut self.unpacked)?;
                &self.unpacked[..]
            }
        };
        if hashed && crypt::hash(plain) != blob.id {
            return Err(io::Error::other(format!(
                "the content of blob {} is not what its name says",
                blob.id.to_hex().as_str()
            )));
        }
        Ok(plain)
    }
}

/// The sentence of an error of a pack.
pub fn unreadable(pack: &Id, error: ReadError) -> nm_types::backup::job::JobError {
    let pack = pack.to_hex();
    match error {
        ReadError::Store(error) => of_rustic(
            &format!("The pack {} of the repository can't be read", pack.as_str()),
            JobErrorCode::Damaged,
            &error,
        ),
        ReadError::Damaged(why) => failed(
            JobErrorCode::Damaged,
            format!(
                "The pack {} of the repository is damaged: {why}. Restore another backup, and run a full backup after a check of all data.",
                pack.as_str()
            ),
        ),
        ReadError::Stopped => failed(JobErrorCode::Internal, "The reading was stopped."),
    }
}

/// The snapshot of a whole id.
pub fn snapshot(repository: &Repository<OpenStatus>, id: &str) -> Result<SnapshotFile> {
    let missing = || {
        failed(
            JobErrorCode::SnapshotMissing,
            format!("The snapshot {id} is not in the repository. It was removed, or the repository is another one."),
        )
    };
    if id.parse::<Id>().is_err() {
        return Err(missing());
    }
    let listed = repository
        .list::<rustic_core::repofile::SnapshotId>()
        .map_err(|error| of_rustic("The snapshots can't be listed", JobErrorCode::Unreachable, &error))?
        .any(|listed| listed.to_hex().as_str() == id);
    if !listed {
        return Err(missing());
    }
    let mut found = repository
        .get_snapshots(&[id])
        .map_err(|error| of_rustic(&format!("The snapshot {id} can't be read"), JobErrorCode::Damaged, &error))?;
    found.pop().ok_or_else(missing)
}

impl Opened {
    pub fn reader(&self) -> Result<BlobReader> {
        reader(&self.store, &self.key)
    }
}

pub fn reader(store: &Arc<dyn Store>, key: &Key) -> Result<BlobReader> {
    BlobReader::new(store, key).map_err(|error| failed(JobErrorCode::Internal, format!("The unpacker can't be made: {error}.")))
}
