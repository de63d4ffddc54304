//! Reads a folder that others may change while it is read. Everything is opened by one plain name in a folder that is held open, and
//! no link is followed: a container that swaps a folder for a link to the host's files gets an error into its backup, not those
//! files.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use rustic_core::{
    jiff::Timestamp,
    repofile::{Metadata, NodeType},
};
use rustix::{
    fd::{AsFd, AsRawFd, OwnedFd},
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat},
    io::Errno,
};
use serde::de::DeserializeOwned;
use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::Path,
};

/// A folder that is held open.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
}

/// What was seen of a file when it was listed; what is opened later must be the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
    pub size: u64,
    mtime: (i64, u64),
    /// It takes less room than it is long.
    pub sparse: bool,
}

pub struct Seen {
    pub kind: NodeType,
    pub meta: Metadata,
    pub identity: Identity,
}

impl Folder {
    /// A symlink at the end of the path is not followed: the agent judged where the path leads.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::open_at(CWD, path.as_os_str())
    }

    fn open_at(at: impl AsFd, name: &OsStr) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = rustix::fs::openat(at, name, flags, Mode::empty())?;
        Ok(Self { fd })
    }

    /// A folder in it.
    pub fn enter(&self, name: &OsStr) -> io::Result<Self> {
        Self::open_at(&self.fd, name)
    }

    /// A regular file in it for reading, the one that was seen.
    pub fn open_file(&self, name: &OsStr, seen: &Identity) -> io::Result<File> {
        // NONBLOCK: a pipe that took the file's place must not hold us.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || (stat.st_dev, stat.st_ino) != (seen.device, seen.inode) {
            return Err(io::Error::other("another file took its place while the backup ran"));
        }
        Ok(File::from(fd))
    }

    /// The names in it, sorted as a tree of the repository is.
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name.to_vec()));
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// What a name in it is. None: it went since it was listed, which is no error.
    pub fn see(&self, name: &OsStr) -> io::Result<Option<Seen>> {
        let stat = match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => NodeType::File,
            FileType::Directory => NodeType::Dir,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&self.fd, name, Vec::new())?;
                NodeType::from_link(Path::new(OsStr::from_bytes(target.to_bytes())))
            }
            FileType::BlockDevice => NodeType::Dev { device: stat.st_rdev },
            FileType::CharacterDevice => NodeType::Chardev { device: stat.st_rdev },
            FileType::Fifo => NodeType::Fifo,
            _ => NodeType::Socket,
        };
        let mut meta = metadata(&stat);
        if matches!(kind, NodeType::File | NodeType::Dir) {
            meta.extended_attributes = attributes(&below(&self.fd, name))?;
        } else {
            meta.size = 0;
        }
        if kind == NodeType::Dir {
            meta.size = 0;
        }
        Ok(Some(Seen {
            kind,
            meta,
            identity: Identity::of(&stat),
        }))
    }

    /// As much of it as a count needs.
    pub fn glance(&self, name: &OsStr) -> io::Result<(FileType, u64, u64)> {
        let stat = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok((
            FileType::from_raw_mode(stat.st_mode),
            u64::try_from(stat.st_size).unwrap_or_default(),
            stat.st_dev,
        ))
    }

    /// The folder itself, as a folder.
    pub fn metadata(&self) -> io::Result<(Metadata, Identity)> {
        let stat = rustix::fs::fstat(&self.fd)?;
        let mut meta = metadata(&stat);
        // Through its own `.`: a link in /proc is not followed by the calls that follow none.
        meta.extended_attributes = attributes(&below(&self.fd, OsStr::new(".")))?;
        meta.size = 0;
        Ok((meta, Identity::of(&stat)))
    }
}

impl Identity {
    fn of(stat: &Stat) -> Self {
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size,
            mtime: (stat.st_mtime, stat.st_mtime_nsec),
            sparse: u64::try_from(stat.st_blocks).unwrap_or_default() * 512 < size,
        }
    }

    /// The file system it is on.
    pub fn device(&self) -> u64 {
        self.device
    }

    /// Whether an open file is still as it was.
    pub fn holds(&self, file: &File) -> io::Result<bool> {
        let now = Self::of(&rustix::fs::fstat(file)?);
        Ok(now.size == self.size && now.mtime == self.mtime)
    }
}

/// The way to what a descriptor holds, whatever its name is by now.
pub fn magic(fd: &impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// A name in a folder that is held open, for calls that take paths alone and follow no link at their end.
pub fn below(fd: &impl AsFd, name: &OsStr) -> OsString {
    let mut path = OsString::from(magic(fd));
    path.push("/");
    path.push(name);
    path
}

fn metadata(stat: &Stat) -> Metadata {
    let time = |seconds: i64, nanoseconds: u64| Timestamp::new(seconds, i32::try_from(nanoseconds).unwrap_or_default()).ok();
    Metadata {
        mode: Some(go_mode(stat.st_mode)),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        // Reading changes it, and each change would be a new tree.
        atime: time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        uid: Some(stat.st_uid),
        gid: Some(stat.st_gid),
        user: None,
        group: None,
        inode: stat.st_ino,
        // Names of hard links are brought together by it; elsewhere a device number that changes with each boot would be noise.
        device_id: if stat.st_nlink > 1 && FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            stat.st_dev
        } else {
            0
        },
        size: u64::try_from(stat.st_size).unwrap_or_default(),
        links: stat.st_nlink as _,
        extended_attributes: Vec::new(),
    }
}

/// The format keeps a mode as Go's `os.FileMode` has it.
pub fn go_mode(mode: u32) -> u32 {
    let mut go = mode & 0o777;
    go |= match FileType::from_raw_mode(mode) {
        FileType::Directory => 1 << 31,
        FileType::Symlink => 1 << 27,
        FileType::BlockDevice => 1 << 26,
        FileType::CharacterDevice => 1 << 26 | 1 << 21,
        FileType::Fifo => 1 << 25,
        FileType::Socket => 1 << 24,
        _ => 0,
    };
    for (bit, go_bit) in [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)] {
        if mode & bit != 0 {
            go |= go_bit;
        }
    }
    go
}

/// The permission bits of a mode as the format keeps it.
pub fn unix_mode(go: u32) -> u32 {
    let mut mode = go & 0o777;
    for (bit, go_bit) in [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)] {
        if go & go_bit != 0 {
            mode |= bit;
        }
    }
    mode
}

/// The permission bits that an entry was kept with; none of a folder that only stands on the way to one. restic leaves a mode of 0 out.
pub fn kept_mode(meta: &Metadata) -> Option<u32> {
    meta.mode.or(meta.uid.map(|_| 0)).map(unix_mode)
}

/// Their names, each ended by a zero byte.
pub fn attribute_names(path: &OsStr) -> io::Result<Vec<u8>> {
    loop {
        let size = match rustix::fs::llistxattr_query(path) {
            Ok(0) | Err(Errno::NOTSUP) => return Ok(Vec::new()),
            Ok(size) => size,
            Err(error) => return Err(error.into()),
        };
        let mut names = vec![0; size];
        match rustix::fs::llistxattr(path, &mut names[..]) {
            Ok(size) => {
                names.truncate(size);
                return Ok(names);
            }
            // It grew between the two calls.
            Err(Errno::RANGE) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

pub fn attribute(path: &OsStr, name: &OsStr) -> io::Result<Option<Vec<u8>>> {
    loop {
        let size = match rustix::fs::lgetxattr_query(path, name) {
            Ok(0) => return Ok(Some(Vec::new())),
            Ok(size) => size,
            Err(Errno::NODATA) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut value = vec![0; size];
        match rustix::fs::lgetxattr(path, name, &mut value[..]) {
            Ok(size) => {
                value.truncate(size);
                return Ok(Some(value));
            }
            Err(Errno::RANGE) => {}
            Err(Errno::NODATA) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether a path has the attributes that were kept, and no others. The label that SELinux gives what is made is no difference where none
/// was kept.
pub fn same_attributes(path: &OsStr, kept: &Metadata) -> io::Result<bool> {
    let names = attribute_names(path)?;
    let mut there = 0;
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        match kept.extended_attributes.iter().find(|attribute| attribute.name.as_bytes() == name) {
            Some(attribute) => {
                if attribute.value.as_deref().unwrap_or_default() != attribute_value(path, name)? {
                    return Ok(false);
                }
                there += 1;
            }
            None if name == b"security.selinux" => {}
            None => return Ok(false),
        }
    }
    Ok(there == kept.extended_attributes.len())
}

fn attribute_value(path: &OsStr, name: &[u8]) -> io::Result<Vec<u8>> {
    Ok(attribute(path, OsStr::from_bytes(name))?.unwrap_or_default())
}

/// ACLs are among them. rustic_core does not export its type of an attribute, so it is made of what it is written as.
fn attributes<T: DeserializeOwned + Default>(path: &(impl AsRef<OsStr> + ?Sized)) -> io::Result<T> {
    let path = path.as_ref();
    let names = attribute_names(path)?;
    if names.is_empty() {
        return Ok(T::default());
    }
    let mut list = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let text = std::str::from_utf8(name).map_err(|_| io::Error::other("the name of an extended attribute is not UTF-8"))?;
        if let Some(value) = attribute(path, OsStr::from_bytes(name))? {
            list.push(serde_json::json!({ "name": text, "value": BASE64.encode(value) }));
        }
    }
    Ok(serde_json::from_value(serde_json::Value::Array(list))?)
}
