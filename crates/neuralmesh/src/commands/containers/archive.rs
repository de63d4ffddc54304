//! Tar streams out of and into folders of this machine.
//!
//! What comes out of a container is not to be trusted: whatever its tar says, nothing is written outside the target
//! folder, nothing goes through a symbolic link, and neither devices nor set-user-id bits are made.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};
use tar::{Archive, Builder, EntryType, Header, HeaderMode};
use tokio::sync::mpsc;

/// What becomes of the first part of every path in a tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    Keep,
    /// Only what is in it is wanted.
    Strip,
    Rename(OsString),
}

#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("{what} {}", .path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("the archive is broken")]
    Broken(#[source] io::Error),
    #[error("the archive holds `{}`, which leads out of the target folder: nothing more is unpacked", .0.display())]
    Escape(PathBuf),
    #[error("{} is no folder, but the archive has something in it", .0.display())]
    NotAFolder(PathBuf),
    #[error("{} is a folder here and a file there", .0.display())]
    Folder(PathBuf),
    #[error("{} changed while it was read", .0.display())]
    Changed(PathBuf),
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ArchiveError {
    let path = path.to_owned();
    move |source| ArchiveError::Io { what, path, source }
}

/// What a packing or unpacking came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Of the files' contents.
    pub bytes: u64,
    /// Devices, pipes and sockets, which are left out.
    pub skipped: Vec<PathBuf>,
}

/// The kind of thing a tar's first entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum First {
    Folder,
    File,
    /// A symbolic link, and where it leads.
    Link(PathBuf),
}

/// Looks at the first entry only.
pub fn first(tar: impl Read) -> Result<Option<First>, ArchiveError> {
    let mut archive = Archive::new(tar);
    let Some(entry) = archive.entries().map_err(ArchiveError::Broken)?.next() else {
        return Ok(None);
    };
    let entry = entry.map_err(ArchiveError::Broken)?;
    Ok(Some(match entry.header().entry_type() {
        EntryType::Directory => First::Folder,
        EntryType::Symlink => First::Link(entry.link_name().map_err(ArchiveError::Broken)?.unwrap_or_default().into_owned()),
        _ => First::File,
    }))
}

/// Unpacks into `folder`, which exists.
pub fn unpack(tar: impl Read, folder: &Path, root: &Root) -> Result<Moved, ArchiveError> {
    let mut archive = Archive::new(tar);
    let mut done = Moved::default();
    // Folders get their modes and times last, for both would stand in the way of what goes into them.
    let mut folders: Vec<(PathBuf, u32, Option<SystemTime>)> = Vec::new();
    for entry in archive.entries().map_err(ArchiveError::Broken)? {
        let mut entry = entry.map_err(ArchiveError::Broken)?;
        let named = entry.path().map_err(ArchiveError::Broken)?.into_owned();
        let kind = entry.header().entry_type();
        let mode = entry.header().mode().map_err(ArchiveError::Broken)? & 0o777;
        let modified = entry
            .header()
            .mtime()
            .ok()
            .and_then(|s| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(s)));
        let Some(path) = place(&named, root)? else { continue };
        let target = folder.join(&path);
        make_parents(folder, &path)?;
        match kind {
            EntryType::Directory => {
                make_folder(&target)?;
                folders.push((target, mode, modified));
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                make_way(&target)?;
                let mut file = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(&target)
                    .map_err(failed("make", &target))?;
                done.bytes += io::copy(&mut entry, &mut file).map_err(failed("write", &target))?;
                file.set_permissions(Permissions::from_mode(mode))
                    .map_err(failed("set the mode of", &target))?;
                if let Some(modified) = modified {
                    file.set_modified(modified).map_err(failed("set the time of", &target))?;
                }
            }
            EntryType::Symlink => {
                let to = entry.link_name().map_err(ArchiveError::Broken)?.unwrap_or_default().into_owned();
                make_way(&target)?;
                symlink(&to, &target).map_err(failed("make the link", &target))?;
            }
            EntryType::Link => {
                let to = entry.link_name().map_err(ArchiveError::Broken)?.unwrap_or_default().into_owned();
                let Some(source) = place(&to, root)? else {
                    return Err(ArchiveError::Escape(to));
                };
                through_folders(folder, &source)?;
                let source = folder.join(source);
                // A hard link to a symbolic link would be one; only plain files are meant.
                if !fs::symlink_metadata(&source).map_err(failed("find", &source))?.is_file() {
                    return Err(ArchiveError::Escape(to));
                }
                make_way(&target)?;
                fs::hard_link(&source, &target).map_err(failed("make the link", &target))?;
            }
            _ => done.skipped.push(path),
        }
    }
    for (path, mode, modified) in folders.into_iter().rev() {
        let folder = File::open(&path).map_err(failed("open", &path))?;
        folder
            .set_permissions(Permissions::from_mode(mode))
            .map_err(failed("set the mode of", &path))?;
        if let Some(modified) = modified {
            folder.set_modified(modified).map_err(failed("set the time of", &path))?;
        }
    }
    Ok(done)
}

/// Where an entry goes, below the target folder; `None` for the target folder itself.
fn place(named: &Path, root: &Root) -> Result<Option<PathBuf>, ArchiveError> {
    let mut parts = Vec::new();
    for part in named.components() {
        match part {
            Component::Normal(part) => parts.push(part.to_owned()),
            Component::CurDir => {}
            Component::RootDir | Component::ParentDir | Component::Prefix(_) => return Err(ArchiveError::Escape(named.to_owned())),
        }
    }
    match root {
        Root::Keep => {}
        Root::Strip => drop(parts.drain(..1.min(parts.len()))),
        Root::Rename(name) => {
            if let Some(first) = parts.first_mut() {
                first.clone_from(name);
            }
        }
    }
    Ok(if parts.is_empty() {
        None
    } else {
        Some(parts.into_iter().collect())
    })
}

/// Every part of `path` but the last is a real folder below `folder`, made where it is not there.
fn make_parents(folder: &Path, path: &Path) -> Result<(), ArchiveError> {
    let mut at = folder.to_owned();
    let Some(parent) = path.parent() else { return Ok(()) };
    for part in parent.components() {
        at.push(part);
        make_folder(&at)?;
    }
    Ok(())
}

/// Every part of `path` but the last is a real folder below `folder`.
fn through_folders(folder: &Path, path: &Path) -> Result<(), ArchiveError> {
    let mut at = folder.to_owned();
    let Some(parent) = path.parent() else { return Ok(()) };
    for part in parent.components() {
        at.push(part);
        if !fs::symlink_metadata(&at).map_err(failed("find", &at))?.is_dir() {
            return Err(ArchiveError::NotAFolder(at));
        }
    }
    Ok(())
}

fn make_folder(path: &Path) -> Result<(), ArchiveError> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => Ok(()),
        // Also a link to a folder: what is unpacked must not go where it leads.
        Ok(_) => Err(ArchiveError::NotAFolder(path.to_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => fs::DirBuilder::new().mode(0o700).create(path).map_err(failed("make", path)),
        Err(e) => Err(failed("look at", path)(e)),
    }
}

/// Removes a file or link that stands where something new goes.
fn make_way(path: &Path) -> Result<(), ArchiveError> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => Err(ArchiveError::Folder(path.to_owned())),
        Ok(_) => fs::remove_file(path).map_err(failed("replace", path)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(failed("look at", path)(e)),
    }
}

/// What is packed, and as what.
#[derive(Debug, Clone)]
pub struct Source {
    pub path: PathBuf,
    /// The name it gets; its contents alone where there is none.
    pub name: Option<OsString>,
}

/// Packs a file or folder. Owner is root, as docker does it; links stay links.
pub fn pack(source: &Source, out: impl Write) -> Result<Moved, ArchiveError> {
    let mut builder = Builder::new(out);
    builder.mode(HeaderMode::Complete);
    let mut done = Moved::default();
    let mut waiting = vec![(source.path.clone(), source.name.as_ref().map(PathBuf::from).unwrap_or_default())];
    while let Some((path, name)) = waiting.pop() {
        let outermost = path == source.path;
        // Only the path the user named is followed where it is a link.
        let meta = if outermost {
            fs::metadata(&path)
        } else {
            fs::symlink_metadata(&path)
        }
        .map_err(failed("look at", &path))?;
        let mut header = Header::new_gnu();
        header.set_metadata_in_mode(&meta, HeaderMode::Complete);
        header.set_uid(0);
        header.set_gid(0);
        if meta.is_dir() {
            if !name.as_os_str().is_empty() {
                builder
                    .append_data(&mut header, &name, io::empty())
                    .map_err(failed("pack", &path))?;
            }
            let mut inside = fs::read_dir(&path)
                .map_err(failed("read", &path))?
                .collect::<Result<Vec<_>, _>>()
                .map_err(failed("read", &path))?;
            inside.sort_by_key(|entry| std::cmp::Reverse(entry.file_name()));
            waiting.extend(inside.into_iter().map(|entry| (entry.path(), name.join(entry.file_name()))));
        } else if meta.is_file() {
            let file = File::open(&path).map_err(failed("open", &path))?;
            let mut counted = Counted {
                inner: file.take(meta.len()),
                left: meta.len(),
            };
            builder
                .append_data(&mut header, &name, &mut counted)
                .map_err(failed("pack", &path))?;
            if counted.left > 0 {
                return Err(ArchiveError::Changed(path));
            }
            done.bytes += meta.len();
        } else if meta.is_symlink() {
            let to = fs::read_link(&path).map_err(failed("read", &path))?;
            builder.append_link(&mut header, &name, &to).map_err(failed("pack", &path))?;
        } else {
            done.skipped.push(path);
        }
    }
    builder.into_inner().and_then(|mut out| out.flush()).map_err(ArchiveError::Broken)?;
    Ok(done)
}

/// Counts what is still to be read.
struct Counted<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.left -= n as u64;
        Ok(n)
    }
}

/// Bytes that come from a task, read by a thread.
#[derive(Debug)]
pub struct ChannelReader {
    chunks: mpsc::Receiver<io::Result<bytes::Bytes>>,
    rest: bytes::Bytes,
}

impl ChannelReader {
    pub fn new(chunks: mpsc::Receiver<io::Result<bytes::Bytes>>) -> Self {
        Self {
            chunks,
            rest: bytes::Bytes::new(),
        }
    }
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.rest = chunk?,
                None => return Ok(0),
            }
        }
        let n = buffer.len().min(self.rest.len());
        buffer[..n].copy_from_slice(&self.rest.split_to(n));
        Ok(n)
    }
}

/// Bytes that a thread writes, for a task to send on.
#[derive(Debug)]
pub struct ChannelWriter {
    chunks: mpsc::Sender<io::Result<bytes::Bytes>>,
    buffer: Vec<u8>,
}

const CHUNK: usize = 64 << 10;

impl ChannelWriter {
    pub fn new(chunks: mpsc::Sender<io::Result<bytes::Bytes>>) -> Self {
        Self {
            chunks,
            buffer: Vec::with_capacity(CHUNK),
        }
    }
}

impl Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        self.chunks
            .blocking_send(Ok(chunk.into()))
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    struct Evil<'a> {
        kind: EntryType,
        path: &'a str,
        link: &'a str,
    }

    /// A tar with raw names, as no honest tool would write it.
    fn tar_of(entries: &[Evil<'_>]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for entry in entries {
            let mut header = Header::new_gnu();
            header.set_entry_type(entry.kind);
            header.set_mode(0o4755);
            header.set_mtime(1_770_085_800);
            let data: &[u8] = if entry.kind == EntryType::Regular { b"evil" } else { b"" };
            header.set_size(data.len() as u64);
            let bytes = header.as_mut_bytes();
            bytes[..entry.path.len()].copy_from_slice(entry.path.as_bytes());
            bytes[157..157 + entry.link.len()].copy_from_slice(entry.link.as_bytes());
            header.set_cksum();
            builder.append(&header, data).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn evil<'a>(kind: EntryType, path: &'a str, link: &'a str) -> Evil<'a> {
        Evil { kind, path, link }
    }

    #[test]
    fn nothing_leaves_the_target_folder() {
        use EntryType::{Link, Regular, Symlink};
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "kept").unwrap();
        let out = outside.path().to_str().unwrap();
        let through = format!("{out}/kept");
        for entries in [
            vec![evil(Regular, "../evil", "")],
            vec![evil(Regular, "a/../../evil", "")],
            vec![evil(Regular, "/tmp/neuralmesh-evil", "")],
            vec![evil(Symlink, "a", out), evil(Regular, "a/evil", "")],
            vec![evil(Symlink, "a", ".."), evil(Regular, "a/evil", "")],
            vec![evil(Symlink, "a", out), evil(EntryType::Directory, "a", "")],
            vec![evil(Link, "a", &through), evil(Regular, "a", "")],
            vec![evil(Link, "a", "../kept")],
            vec![evil(Symlink, "l", out), evil(Link, "a", "l/kept")],
            vec![evil(Symlink, "l", &through), evil(Link, "a", "l")],
        ] {
            let folder = tempfile::tempdir_in(outside.path()).unwrap();
            assert!(unpack(&*tar_of(&entries), folder.path(), &Root::Keep).is_err());
            assert!(!outside.path().join("evil").exists());
            assert_eq!(fs::read_to_string(outside.path().join("kept")).unwrap(), "kept");
            assert_eq!(fs::metadata(outside.path().join("kept")).unwrap().nlink(), 1);
        }
    }

    #[test]
    fn a_file_replaces_a_link_and_does_not_follow_it() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("kept"), "kept").unwrap();
        let target = folder.path().join("in");
        fs::create_dir(&target).unwrap();
        let tar = tar_of(&[evil(EntryType::Symlink, "a", "../kept"), evil(EntryType::Regular, "a", "")]);
        unpack(&*tar, &target, &Root::Keep).unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("kept")).unwrap(), "kept");
        assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "evil");
        assert_eq!(fs::metadata(target.join("a")).unwrap().mode() & 0o7777, 0o755);
    }

    #[test]
    fn devices_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let tar = tar_of(&[evil(EntryType::Char, "null", ""), evil(EntryType::Fifo, "pipe", "")]);
        let done = unpack(&*tar, folder.path(), &Root::Keep).unwrap();
        assert_eq!(done.skipped, [PathBuf::from("null"), PathBuf::from("pipe")]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_comes_back_as_it_went() {
        let from = tempfile::tempdir().unwrap();
        let site = from.path().join("site");
        let long = "n".repeat(180);
        fs::create_dir_all(site.join("locked")).unwrap();
        fs::write(site.join("index.html"), "hello").unwrap();
        fs::write(site.join("locked").join(&long), "deep").unwrap();
        symlink("index.html", site.join("link")).unwrap();
        fs::set_permissions(site.join("index.html"), Permissions::from_mode(0o640)).unwrap();
        fs::set_permissions(site.join("locked"), Permissions::from_mode(0o500)).unwrap();
        let mut tar = Vec::new();
        let done = pack(
            &Source {
                path: site.clone(),
                name: Some("site".into()),
            },
            &mut tar,
        )
        .unwrap();
        assert_eq!(
            done,
            Moved {
                bytes: 9,
                skipped: Vec::new()
            }
        );
        assert_eq!(first(&*tar).unwrap(), Some(First::Folder));

        let to = tempfile::tempdir().unwrap();
        for (root, at) in [(Root::Keep, "site"), (Root::Rename("copy".into()), "copy"), (Root::Strip, ".")] {
            unpack(&*tar, to.path(), &root).unwrap();
            let at = to.path().join(at);
            assert_eq!(fs::read_to_string(at.join("index.html")).unwrap(), "hello");
            assert_eq!(fs::metadata(at.join("index.html")).unwrap().mode() & 0o777, 0o640);
            assert_eq!(fs::read_to_string(at.join("locked").join(&long)).unwrap(), "deep");
            assert_eq!(fs::metadata(at.join("locked")).unwrap().mode() & 0o777, 0o500);
            assert_eq!(fs::read_link(at.join("link")).unwrap(), Path::new("index.html"));
        }
        // Contents alone have no entry of their own for the folder.
        let mut contents = Vec::new();
        pack(
            &Source {
                path: site.join("."),
                name: None,
            },
            &mut contents,
        )
        .unwrap();
        let other = tempfile::tempdir().unwrap();
        unpack(&*contents, other.path(), &Root::Keep).unwrap();
        assert_eq!(fs::read_to_string(other.path().join("index.html")).unwrap(), "hello");
    }
}
