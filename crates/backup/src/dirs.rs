//! Folders that are held open, and what is done in them by plain names and paths that can't leave them.

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat},
    io::Errno,
};
use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::ffi::OsStringExt,
    path::Path,
};

const STRICT: ResolveFlags = ResolveFlags::NO_SYMLINKS.union(ResolveFlags::NO_MAGICLINKS);
const BENEATH: ResolveFlags = STRICT.union(ResolveFlags::BENEATH);

/// An existing folder, by an absolute path in which there is no link: the path was judged, and leads where it was judged to lead.
pub fn open_strict(path: &Path) -> io::Result<OwnedFd> {
    resolve(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty(), STRICT)
}

/// A path below a folder that is held open.
pub fn open_beneath(folder: impl AsFd, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    resolve(folder.as_fd(), path, flags, mode, BENEATH)
}

fn resolve(folder: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: Mode, how: ResolveFlags) -> io::Result<OwnedFd> {
    loop {
        match rustix::fs::openat2(folder, path, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, mode, how) {
            // The kernel says so when a rename crossed the lookup.
            Err(Errno::AGAIN) => {}
            other => return Ok(other?),
        }
    }
}

/// A folder in a folder.
pub fn enter(folder: impl AsFd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(folder, name, flags, Mode::empty())?)
}

/// What has that name; none where nothing has.
pub fn stat(folder: impl AsFd, name: &OsStr) -> io::Result<Option<Stat>> {
    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

pub fn names(folder: impl AsFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name.to_vec()));
        }
    }
    Ok(names)
}

/// Removes what has that name, with all that is in it. Links are removed, never followed; what is gone meanwhile is gone. The count of
/// what was removed.
pub fn remove(folder: impl AsFd, name: &OsStr) -> io::Result<u64> {
    // One stack in place of recursion: a container may have made folders deeper than our stack.
    let root = folder.as_fd();
    match rustix::fs::unlinkat(root, name, AtFlags::empty()) {
        Ok(()) => return Ok(1),
        Err(Errno::NOENT) => return Ok(0),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let mut removed = 0;
    let top = match enter(root, name) {
        Ok(top) => top,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut stack = vec![(top, name.to_owned(), None::<std::vec::IntoIter<OsString>>)];
    while let Some((fd, _, left)) = stack.last_mut() {
        if left.is_none() {
            *left = Some(names(&*fd)?.into_iter());
        }
        let Some(next) = left.as_mut().and_then(Iterator::next) else {
            let Some((_, name, _)) = stack.pop() else { break };
            let parent = stack.last().map_or(root, |(fd, ..)| fd.as_fd());
            match rustix::fs::unlinkat(parent, &name, AtFlags::REMOVEDIR) {
                Ok(()) => removed += 1,
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
            continue;
        };
        match rustix::fs::unlinkat(&*fd, &next, AtFlags::empty()) {
            Ok(()) => removed += 1,
            Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) => {
                let entered = enter(&*fd, &next)?;
                stack.push((entered, next, None));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(removed)
}
