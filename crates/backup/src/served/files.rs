//! The disk's side of a folder that is served.

use super::{Sent, Served};
use crate::{
    local::{DATA, Folder, LOCKS, LocalFolder, shelf},
    open::NOTE,
    remote::is_name,
    store::{Present, Store},
};
use bytes::Bytes;
use hyper::body::Frame;
use rustic_core::WriteBackend;
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io::{self, ErrorKind as Io},
    os::unix::fs::FileExt,
};
use tokio::sync::mpsc;

/// The index and lists of the format have sizes of 32 bits.
pub const FILE_AT_MOST: u64 = u32::MAX as u64;
/// What is read from the disk at once.
const PIECE: usize = 256 << 10;

/// A piece of a file on its way in.
#[derive(Debug)]
pub enum Piece {
    Bytes(Bytes),
    /// It is whole.
    End,
}

#[derive(Debug)]
pub struct Files {
    folder: LocalFolder,
    served: Served,
}

impl Files {
    pub fn new(served: Served) -> Self {
        Self {
            folder: LocalFolder::new(&served.path),
            served,
        }
    }

    pub fn limit(&self) -> u64 {
        self.served.limit
    }

    fn held(&self) -> io::Result<&Folder> {
        self.folder.held()
    }

    /// Makes the repository's folders; nothing is changed where they are there already.
    pub fn create(&self) -> io::Result<()> {
        if self.folder.look()? == Present::Foreign {
            let text = "there are other files, and no repository: choose another destination or empty it";
            return Err(io::Error::new(Io::AlreadyExists, text));
        }
        LocalFolder::make_parent(&self.served.path)?;
        self.folder.create().map_err(|error| {
            let words = error.display_log();
            let cause = std::error::Error::source(&*error).and_then(|cause| cause.downcast_ref::<io::Error>());
            io::Error::new(cause.map_or(Io::Other, io::Error::kind), words)
        })
    }

    /// The text is ours, whatever was sent.
    pub fn note(&self) -> io::Result<()> {
        self.folder.note(NOTE)
    }

    pub fn list(&self, kind: &str) -> io::Result<Vec<(String, u64)>> {
        let listed = match kind {
            DATA => self.held()?.list_data()?,
            // Of a repository without locks the folder may be missing.
            LOCKS => match self.held()?.list(LOCKS) {
                Err(error) if error.kind() == Io::NotFound => Vec::new(),
                listed => listed?,
            },
            _ => self.held()?.list(kind)?,
        };
        Ok(listed.into_iter().filter(|(name, _)| is_name(name)).collect())
    }

    pub fn size(&self, kind: &str, name: &str) -> io::Result<Option<u64>> {
        self.held()?.size(&shelf(kind, name), name)
    }

    pub fn open(&self, kind: &str, name: &str) -> io::Result<(File, u64)> {
        let file = self.held()?.file(&shelf(kind, name), name)?;
        let size = file.metadata()?.len();
        Ok((file, size))
    }

    pub fn remove(&self, kind: &str, name: &str) -> io::Result<()> {
        if self.served.append_only && kind != LOCKS {
            let text = "nothing is removed from this repository, since its config is append-only";
            return Err(io::Error::new(Io::PermissionDenied, text));
        }
        self.held()?.remove(&shelf(kind, name), name)
    }

    /// Keeps what comes under its name, once all of it is here and is what its name says.
    pub fn write(&self, kind: &str, name: &str, mut pieces: mpsc::Receiver<Piece>) -> io::Result<()> {
        let (folder, shelf) = (self.held()?, shelf(kind, name));
        let mut file = if kind == LOCKS {
            folder.begin_lock(name)?
        } else {
            folder.begin(&shelf, name)?
        };
        let mut hash = Sha256::new();
        loop {
            match pieces.blocking_recv() {
                Some(Piece::Bytes(bytes)) => {
                    hash.update(&bytes);
                    file.write(&bytes)?;
                }
                Some(Piece::End) => break,
                None => return Err(io::Error::new(Io::UnexpectedEof, "it was cut short")),
            }
        }
        let hash: [u8; 32] = hash.finalize().into();
        let is_config = kind.is_empty();
        if !is_config && hex::encode(hash) != name {
            return Err(io::Error::new(Io::InvalidInput, "what was sent is not what its name says"));
        }
        if folder.size(&shelf, name)?.is_some() {
            match digest(&folder.file(&shelf, name)?)? {
                // Sent again after an answer that was lost.
                same if same == hash => return Ok(()),
                _ if is_config => {
                    let text = "there is another repository already: its config is never replaced";
                    return Err(io::Error::new(Io::AlreadyExists, text));
                }
                // Its name says what belongs there: what stands there is damaged, and what was sent is not.
                _ => {}
            }
        }
        file.finish()
    }
}

fn digest(file: &File) -> io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    loop {
        match file.read_at(&mut piece, at)? {
            0 => return Ok(hash.finalize().into()),
            n => {
                hash.update(&piece[..n]);
                at += n as u64;
            }
        }
    }
}

/// `length` bytes at once.
pub fn read(file: &File, from: u64, length: u64) -> io::Result<Bytes> {
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, from)?;
    Ok(bytes.into())
}

/// `length` bytes in pieces, as fast as they are taken.
pub fn read_to(file: &File, from: u64, length: u64, to: &mpsc::Sender<Sent>) {
    let mut at = from;
    while at < from + length {
        let next = (from + length - at).min(PIECE as u64);
        let piece = read(file, at, next).map(Frame::data);
        let failed = piece.is_err();
        // Nobody takes it any more, or it can't be read: either way that was all.
        if to.blocking_send(piece).is_err() || failed {
            return;
        }
        at += next;
    }
}
