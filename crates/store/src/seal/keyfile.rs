//! The file with the master keys: one line a key, `<id> <base64 of 32 bytes>`, the newest last.

use super::{BASE64, keyed, random};
use crate::db::beside;
use crate::error::{SealError, StoreError};
use base64::Engine;
use hmac::Mac;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

const HEADER: &str = "# NeuralMesh master keys. Without this file the secrets in the database cannot be opened: keep a copy in a safe place,\n\
     # apart from the database's backups. One line a key, the newest last.\n";

/// A master key. Its id is derived from it, so that a damaged line is noticed.
#[derive(Clone)]
pub(crate) struct MasterKey {
    id: Box<str>,
    bytes: Arc<Zeroizing<[u8; 32]>>,
}

impl MasterKey {
    pub(crate) fn fresh() -> Result<Self, SealError> {
        Ok(Self::of(random()?))
    }

    fn of(bytes: Zeroizing<[u8; 32]>) -> Self {
        let mut mac = keyed(bytes.as_slice());
        mac.update(b"neuralmesh master key id v1");
        let id = hex::encode(&mac.finalize().into_bytes()[..8]).into();
        Self {
            id,
            bytes: Arc::new(bytes),
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.bytes
    }
}

pub(crate) fn exists(path: &Path) -> Result<bool, StoreError> {
    path.try_exists().map_err(|source| StoreError::File {
        attempt: "look for the key file",
        path: path.to_owned(),
        source,
    })
}

/// Makes the file with one fresh key, unless it is there already.
pub(crate) fn create(path: &Path) -> Result<(), StoreError> {
    let key = MasterKey::fresh()?;
    if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|source| StoreError::File {
            attempt: "make the folder",
            path: folder.to_owned(),
            source,
        })?;
    }
    let written = write_aside(path, &[key]).and_then(|aside| {
        // A link, not a rename: it never replaces a file that another process made in between.
        let linked = fs::hard_link(&aside, path);
        fs::remove_file(&aside)?;
        match linked {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
            _ => sync_folder(path),
        }
    });
    written.map_err(|source| StoreError::File {
        attempt: "make the key file",
        path: path.to_owned(),
        source,
    })
}

/// Replaces the file. A process killed at any moment leaves the old file or the new one.
pub(super) fn replace(path: &Path, keys: &[MasterKey]) -> Result<(), StoreError> {
    let failed = |source| StoreError::File {
        attempt: "replace the key file",
        path: path.to_owned(),
        source,
    };
    // Where the path is a link, the file it names is replaced, not the link.
    let path = &path.canonicalize().map_err(failed)?;
    let written = write_aside(path, keys)
        .and_then(|aside| fs::rename(aside, path))
        .and_then(|()| sync_folder(path));
    written.map_err(failed)
}

fn aside(path: &Path) -> PathBuf {
    beside(path, ".new")
}

/// Removes what a process that was killed while it replaced the file left behind.
pub(crate) fn sweep(path: &Path) {
    if fs::remove_file(aside(path)).is_ok() {
        tracing::info!(path = %path.display(), "removed an unfinished copy of the key file");
    }
}

fn write_aside(path: &Path, keys: &[MasterKey]) -> io::Result<PathBuf> {
    let aside = aside(path);
    match fs::remove_file(&aside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut text = Zeroizing::new(String::with_capacity(HEADER.len() + keys.len() * 80));
    text.push_str(HEADER);
    for key in keys {
        let bytes = Zeroizing::new(BASE64.encode(key.bytes()));
        for part in [key.id(), " ", &bytes, "\n"] {
            text.push_str(part);
        }
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    Ok(aside)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// Reads and checks the file.
pub(super) fn read(path: &Path) -> Result<Vec<MasterKey>, SealError> {
    let damaged = |reason| SealError::KeyFileDamaged {
        path: path.to_owned(),
        reason,
    };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(SealError::KeyFileMissing { path: path.to_owned() }),
        Err(_) => return Err(damaged("it cannot be opened")),
    };
    // Of the opened file, so that nobody can swap it between the check and the reading.
    let meta = file.metadata().map_err(|_| damaged("its mode cannot be read"))?;
    if !meta.is_file() {
        return Err(damaged("it is not a file"));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(SealError::KeyFileOpen {
            path: path.to_owned(),
            mode: meta.mode() & 0o777,
        });
    }
    if meta.uid() != 0 && meta.uid() != nix::unistd::geteuid().as_raw() {
        return Err(SealError::KeyFileForeign {
            path: path.to_owned(),
            owner: meta.uid(),
        });
    }
    // Its size is known, so reading does not leave copies of the keys behind in smaller buffers.
    let size = usize::try_from(meta.len())
        .ok()
        .filter(|n| *n <= 1 << 20)
        .ok_or_else(|| damaged("it is too large"))?;
    let mut text = Zeroizing::new(String::with_capacity(size + 1));
    file.read_to_string(&mut text).map_err(|_| damaged("it cannot be read as text"))?;
    let mut keys: Vec<MasterKey> = Vec::new();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let (id, key) = line.split_once(' ').ok_or_else(|| damaged("a line is not `<id> <key>`"))?;
        let mut bytes = Zeroizing::new([0u8; 32]);
        // The decoder asks for room for a little more than comes out.
        let mut room = Zeroizing::new([0u8; 40]);
        match BASE64.decode_slice(key.trim(), room.as_mut_slice()) {
            Ok(32) => bytes.copy_from_slice(&room[..32]),
            _ => return Err(damaged("a key is not 32 bytes in base64")),
        }
        let key = MasterKey::of(bytes);
        if key.id() != id {
            return Err(damaged("a key does not match its id"));
        }
        if !keys.iter().any(|k| k.id() == id) {
            keys.push(key);
        }
    }
    if keys.is_empty() {
        Err(damaged("it holds no key"))
    } else {
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn fresh() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/keys");
        create(&path).unwrap();
        (dir, path)
    }

    #[test]
    fn made_once_and_only_for_its_owner() {
        let (_dir, path) = fresh();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        let first = fs::read(&path).unwrap();
        create(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), first, "a second start must not replace the keys");
        assert_eq!(
            fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
    }

    #[test]
    fn two_installs_share_no_key() {
        let ((_a, a), (_b, b)) = (fresh(), fresh());
        assert_ne!(read(&a).unwrap()[0].id(), read(&b).unwrap()[0].id());
    }

    #[test]
    fn refuses_what_others_can_read_and_what_is_damaged() {
        let (_dir, path) = fresh();
        for mode in [0o640, 0o604, 0o660, 0o601] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(read(&path), Err(SealError::KeyFileOpen { .. })), "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let good = fs::read_to_string(&path).unwrap();
        let key_line = good.lines().last().unwrap();
        let swapped = key_line.replacen(|c: char| c.is_ascii_digit(), "x", 1);
        for bad in [
            "",
            "# only a comment\n",
            "just-one-word\n",
            "abc !!!!\n",
            &swapped,
            &key_line[..key_line.len() - 3],
        ] {
            fs::write(&path, bad).unwrap();
            assert!(matches!(read(&path), Err(SealError::KeyFileDamaged { .. })), "{bad:?}");
        }
        fs::remove_file(&path).unwrap();
        assert!(matches!(read(&path), Err(SealError::KeyFileMissing { .. })));
    }

    #[test]
    fn replacing_keeps_all_keys_in_order() {
        let (_dir, path) = fresh();
        let mut keys = read(&path).unwrap();
        keys.push(MasterKey::fresh().unwrap());
        replace(&path, &keys).unwrap();
        let ids: Vec<_> = read(&path).unwrap().iter().map(|k| k.id().to_owned()).collect();
        assert_eq!(ids, keys.iter().map(|k| k.id().to_owned()).collect::<Vec<_>>());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }
}
