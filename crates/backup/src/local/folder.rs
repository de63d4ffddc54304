//! A repository's folder, held open. What is in it is reached from there, through no link and out of no folder: whoever else can write
//! into it leads nobody elsewhere.

use super::behind::Unsynced;
use crate::{dirs, lock::OURS, store::Present};
use rustix::{
    fd::OwnedFd,
    fs::{AtFlags, FileType, Mode, OFlags},
    io::Errno,
};
use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, ErrorKind as Io},
    os::unix::fs::DirBuilderExt,
    path::Path,
};

/// Of a repository's folder those with files in them; `data` has one more level.
pub const SHELVES: [&str; 5] = ["keys", "snapshots", "index", "locks", "data"];
pub const LOCKS: &str = "locks";
pub const DATA: &str = "data";

/// The folder of a repository's folder in which a file of that name is.
pub fn shelf(kind: &str, name: &str) -> String {
    match (kind, name.get(..2)) {
        (DATA, Some(first)) => format!("{DATA}/{first}"),
        _ => kind.to_owned(),
    }
}

#[derive(Debug)]
pub struct Folder(OwnedFd);

impl Folder {
    /// By an absolute path without a link in it.
    pub fn open(path: &Path) -> io::Result<Self> {
        dirs::open_strict(path).map(Self)
    }

    /// Makes it with all its folders. Its parent is the destination: one that is missing is not mounted, and is not made here.
    pub fn make(path: &Path) -> io::Result<Self> {
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() == Io::AlreadyExists => {}
            other => other?,
        }
        let made = Self::open(path)?;
        for name in SHELVES {
            made.make_shelf(name)?;
        }
        for byte in 0..=u8::MAX {
            made.make_shelf(&format!("{DATA}/{}", hex::encode([byte])))?;
        }
        rustix::fs::fsync(made.enter(DATA)?)?;
        rustix::fs::fsync(&made.0)?;
        Ok(made)
    }

    pub fn make_shelf(&self, name: &str) -> io::Result<()> {
        let (parent, name) = match name.rsplit_once('/') {
            Some((parent, name)) => (self.enter(parent)?, name),
            None => (self.enter("")?, name),
        };
        match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn enter(&self, shelf: &str) -> io::Result<OwnedFd> {
        dirs::open_beneath(&self.0, Path::new(shelf), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
    }

    /// A file to read.
    pub fn file(&self, shelf: &str, name: &str) -> io::Result<File> {
        // A pipe that somebody put there would hold us up for ever.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let file = File::from(dirs::open_beneath(&self.0, &Path::new(shelf).join(name), flags, Mode::empty())?);
        if file.metadata()?.is_file() {
            Ok(file)
        } else {
            Err(io::Error::new(Io::InvalidData, "it is no file"))
        }
    }

    /// Names and sizes of what is in a folder and none itself. A folder that can't be listed is an error, never an empty list.
    pub fn list(&self, shelf: &str) -> io::Result<Vec<(String, u64)>> {
        let folder = self.enter(shelf)?;
        let mut found = Vec::new();
        for name in dirs::names(&folder)? {
            let Some(text) = name.to_str() else { continue };
            // One that goes meanwhile is gone.
            let Some(stat) = dirs::stat(&folder, &name)? else { continue };
            if !dirs::is_dir(&stat) {
                found.push((text.to_owned(), u64::try_from(stat.st_size).unwrap_or_default()));
            }
        }
        Ok(found)
    }

    /// The same of all folders of `data`.
    pub fn list_data(&self) -> io::Result<Vec<(String, u64)>> {
        let mut found = Vec::new();
        for shelf in self.data_shelves()? {
            found.extend(self.list(&shelf)?);
        }
        Ok(found)
    }

    fn data_shelves(&self) -> io::Result<Vec<String>> {
        let data = self.enter(DATA)?;
        let mut found = Vec::new();
        for name in dirs::names(&data)? {
            let is_dir = dirs::stat(&data, &name)?.is_some_and(|stat| dirs::is_dir(&stat));
            if let (true, Some(name)) = (is_dir, name.to_str()) {
                found.push(format!("{DATA}/{name}"));
            }
        }
        Ok(found)
    }

    /// Removes what was begun and is not going to be finished. Locks stay: their writers do not wait for each other.
    pub fn sweep(&self) -> io::Result<()> {
        for shelf in ["keys", "index", "snapshots"]
            .map(str::to_owned)
            .into_iter()
            .chain(self.data_shelves()?)
        {
            for (name, _) in self.list(&shelf)? {
                if name.starts_with('.') && name.ends_with(".part") {
                    self.remove(&shelf, &name)?;
                }
            }
        }
        Ok(())
    }

    /// Begins a file that has its name once it is finished.
    pub fn begin(&self, shelf: &str, name: &str) -> io::Result<Unsynced> {
        Unsynced::begin(self.enter(shelf)?, name)
    }

    /// As [`Self::begin`]; restic removes the folder of locks where it is empty on some destinations.
    pub fn begin_lock(&self, name: &str) -> io::Result<Unsynced> {
        match self.begin(LOCKS, name) {
            Err(error) if error.kind() == Io::NotFound => {
                self.make_shelf(LOCKS)?;
                self.begin(LOCKS, name)
            }
            other => other,
        }
    }

    /// One that is not there is an error.
    pub fn remove(&self, shelf: &str, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(self.enter(shelf)?, name, AtFlags::empty())?)
    }

    /// The size of a file, and none of what is not there.
    pub fn size(&self, shelf: &str, name: &str) -> io::Result<Option<u64>> {
        let stat = dirs::stat(self.enter(shelf)?, OsStr::new(name))?;
        match stat {
            None => Ok(None),
            Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                Ok(Some(u64::try_from(stat.st_size).unwrap_or_default()))
            }
            Some(_) => Err(io::Error::new(Io::InvalidData, "it is no file")),
        }
    }

    pub fn look(&self) -> io::Result<Present> {
        if dirs::stat(&self.0, OsStr::new("config"))?.is_some() {
            return Ok(Present::Repository);
        }
        for name in dirs::names(self.enter("")?)? {
            match name.to_str() {
                Some("keys" | LOCKS | DATA | OURS) => {}
                Some(name) if name.starts_with(".config-") && name.ends_with(".part") => {}
                Some(name @ ("snapshots" | "index")) if dirs::names(self.enter(name)?)?.is_empty() => {}
                _ => return Ok(Present::Foreign),
            }
        }
        Ok(Present::Nothing)
    }
}
