//! A repository in a folder. Every file is written beside its place, synced, renamed and its folder synced: a name that is there
//! after a power cut has its bytes. Packs are synced by threads of their own while the next ones are made; no other file is written
//! before all of them are, so that an index never names a pack that a power cut could take. A folder that can't be listed is an error, never an empty list: prune would take that for
//! "nothing is needed".

mod behind;
mod folder;

pub use folder::{DATA, Folder, LOCKS, SHELVES, shelf};

use crate::store::{Present, Store};
use behind::{Behind, Unsynced};
use bytes::Bytes;
use rustic_core::{BytesList, ErrorKind, FileType, Id, ReadBackend, RusticError, RusticResult, WriteBackend};
use std::{
    fs::{self, OpenOptions},
    io::{self, ErrorKind as Io, Read, Write},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::OnceLock,
};

#[derive(Debug)]
pub struct LocalFolder {
    root: PathBuf,
    /// Held from the first time that it was there: what is mounted over it later is another one.
    folder: OnceLock<Folder>,
    behind: Behind,
}

impl LocalFolder {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            folder: OnceLock::new(),
            behind: Behind::default(),
        }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn held(&self) -> io::Result<&Folder> {
        match self.folder.get() {
            Some(folder) => Ok(folder),
            None => {
                let opened = Folder::open(&self.root)?;
                Ok(self.folder.get_or_init(|| opened))
            }
        }
    }

    /// Makes the destination, where no repository ever was.
    pub fn make_parent(root: &Path) -> io::Result<()> {
        match root.parent() {
            Some(parent) => fs::DirBuilder::new().recursive(true).mode(0o700).create(parent),
            None => Ok(()),
        }
    }

    fn place(kind: FileType, id: &Id) -> (String, String) {
        match kind {
            FileType::Config => (String::new(), "config".to_owned()),
            _ => {
                let name = id.to_hex().as_str().to_owned();
                (shelf(kind.dirname(), &name), name)
            }
        }
    }

    fn path(&self, kind: FileType, id: &Id) -> PathBuf {
        let (shelf, name) = Self::place(kind, id);
        self.root.join(shelf).join(name)
    }

    fn list_all(&self, kind: FileType) -> io::Result<Vec<(Id, u32)>> {
        self.behind.settle()?;
        let folder = self.held()?;
        let listed = match kind {
            FileType::Config => {
                let size = folder.size("", "config")?;
                return Ok(size
                    .map(|size| (Id::default(), u32::try_from(size).unwrap_or(u32::MAX)))
                    .into_iter()
                    .collect());
            }
            FileType::Pack => folder.list_data()?,
            _ => folder.list(kind.dirname())?,
        };
        let mut found = Vec::with_capacity(listed.len());
        for (name, size) in listed {
            // A file half written has another name, and is no file of the repository.
            let Some(id) = Id::parse_some(&name, kind) else { continue };
            let size = u32::try_from(size).map_err(|_| io::Error::new(Io::InvalidData, format!("{name} is larger than 4 GiB")))?;
            found.push((id, size));
        }
        Ok(found)
    }

    fn make_folders(&self) -> io::Result<()> {
        let made = Folder::make(&self.root)?;
        // Held already: it is the same.
        let _ = self.folder.set(made);
        Ok(())
    }

    fn write(&self, kind: FileType, id: &Id, content: &BytesList) -> io::Result<()> {
        if kind != FileType::Pack {
            self.behind.settle()?;
        }
        let (shelf, name) = Self::place(kind, id);
        let mut file = self.held()?.begin(&shelf, &name)?;
        for part in content.slice() {
            file.write(part)?;
        }
        if kind == FileType::Pack {
            self.behind.hand_over(file)
        } else {
            file.finish()
        }
    }

    fn read(&self, kind: FileType, id: &Id, part: Option<(u32, u32)>) -> io::Result<Bytes> {
        if kind == FileType::Pack {
            self.behind.settle()?;
        }
        let (shelf, name) = Self::place(kind, id);
        let mut file = self.held()?.file(&shelf, &name)?;
        let Some((offset, length)) = part else {
            let mut all = Vec::new();
            file.read_to_end(&mut all)?;
            return Ok(all.into());
        };
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, u64::from(offset))?;
        Ok(bytes.into())
    }

    fn error(&self, doing: &'static str, kind: FileType, id: Option<&Id>, error: io::Error) -> Box<RusticError> {
        let path = id.map_or_else(|| self.root.join(kind.dirname()), |id| self.path(kind, id));
        RusticError::with_source(ErrorKind::Backend, doing, error).attach_context("path", path.display().to_string())
    }
}

impl ReadBackend for LocalFolder {
    fn location(&self) -> String {
        self.root.display().to_string()
    }

    fn list_with_size(&self, kind: FileType) -> RusticResult<Vec<(Id, u32)>> {
        self.list_all(kind)
            .map_err(|error| self.error("The folder `{path}` of the repository can't be listed", kind, None, error))
    }

    fn read_full(&self, kind: FileType, id: &Id) -> RusticResult<Bytes> {
        self.read(kind, id, None)
            .map_err(|error| self.error("`{path}` can't be read", kind, Some(id), error))
    }

    fn read_partial(&self, kind: FileType, id: &Id, _cacheable: bool, offset: u32, length: u32) -> RusticResult<Bytes> {
        self.read(kind, id, Some((offset, length)))
            .map_err(|error| self.error("`{path}` can't be read", kind, Some(id), error))
    }

    fn warmup_path(&self, kind: FileType, id: &Id) -> String {
        self.path(kind, id).display().to_string()
    }
}

impl WriteBackend for LocalFolder {
    fn create(&self) -> RusticResult<()> {
        self.make_folders()
            .map_err(|error| self.error("The folders of the repository can't be made", FileType::Pack, None, error))
    }

    fn write_bytes(&self, kind: FileType, id: &Id, _cacheable: bool, content: BytesList) -> RusticResult<()> {
        self.write(kind, id, &content)
            .map_err(|error| self.error("`{path}` can't be written", kind, Some(id), error))
    }

    fn remove(&self, kind: FileType, id: &Id, _cacheable: bool) -> RusticResult<()> {
        self.behind
            .settle()
            .map_err(|error| self.error("`{path}` can't be removed", kind, Some(id), error))?;
        let (shelf, name) = Self::place(kind, id);
        match self.held().and_then(|folder| folder.remove(&shelf, &name)) {
            // Removed by a run that was killed before it said so.
            Err(error) if error.kind() == Io::NotFound => Ok(()),
            other => other.map_err(|error| self.error("`{path}` can't be removed", kind, Some(id), error)),
        }
    }
}

impl Store for LocalFolder {
    fn look(&self) -> io::Result<Present> {
        match self.held() {
            Ok(folder) => folder.look(),
            Err(error) if error.kind() == Io::NotFound => Ok(Present::Nothing),
            Err(error) => Err(error),
        }
    }

    fn locks(&self) -> io::Result<Vec<String>> {
        match self.held()?.list(LOCKS) {
            Ok(listed) => Ok(listed
                .into_iter()
                .map(|(name, _)| name)
                .filter(|name| !name.starts_with('.'))
                .collect()),
            Err(error) if error.kind() == Io::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn read_lock(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        let read = self.held()?.file(LOCKS, name).and_then(|mut file| file.read_to_end(&mut bytes));
        match read {
            Ok(_) => Ok(Some(bytes)),
            Err(error) if error.kind() == Io::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A lock need not outlive a power cut, so it is not synced.
    fn write_lock(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut file: Unsynced = self.held()?.begin_lock(name)?;
        file.write(bytes)?;
        file.finish_unsynced()
    }

    fn remove_lock(&self, name: &str) -> io::Result<()> {
        match self.held()?.remove(LOCKS, name) {
            Err(error) if error.kind() == Io::NotFound => Ok(()),
            other => other,
        }
    }

    /// Beside the repository's folder, with its name.
    fn note(&self, text: &str) -> io::Result<()> {
        let mut name = self.root.file_name().unwrap_or_default().to_owned();
        name.push(".password.txt");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32)
            .open(self.root.with_file_name(name))?;
        file.write_all(text.as_bytes())
    }

    fn folder(&self) -> Option<&Path> {
        Some(&self.root)
    }

    fn sweep(&self) -> io::Result<()> {
        self.behind.settle()?;
        self.held()?.sweep()
    }

    fn name(&self) -> String {
        self.root.display().to_string()
    }
}
