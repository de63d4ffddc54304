//! Compares: what is at a target with the snapshot, and what was written with the snapshot.

use super::{
    dirs,
    plan::{Entry, Item, Plan},
    stage::Stage,
    write::{self, staged, threads},
};
use crate::{
    crypt,
    failure::{Result, failed},
    report::Reporter,
    walk::{below, kept_mode, same_attributes},
};
use nm_types::backup::job::{CHANGES_AT_MOST, JobError, JobErrorCode, RestoreChange, RestoreChangeKind, Restored};
use rustic_core::repofile::NodeType;
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{FileType, Mode, OFlags, Stat},
};
use std::{
    collections::{HashMap, HashSet},
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Kinds, sizes, times, owners and modes.
    Metadata,
    /// And every byte: a file may have been changed without a sign of it.
    Content,
}

/// Counts what is to be created, changed and removed at the targets.
pub fn compare(plan: &Plan, depth: Depth, restored: &mut Restored, reporter: &Reporter) -> Result<()> {
    for item in &plan.items {
        let mut comparison = Comparison { depth, restored, reporter };
        comparison.item(plan, item)?;
    }
    Ok(())
}

struct Comparison<'a> {
    depth: Depth,
    restored: &'a mut Restored,
    reporter: &'a Reporter,
}

impl Comparison<'_> {
    fn change(&mut self, path: PathBuf, change: RestoreChangeKind) {
        match change {
            RestoreChangeKind::Create => self.restored.created += 1,
            RestoreChangeKind::Change => self.restored.changed += 1,
            RestoreChangeKind::Remove => self.restored.removed += 1,
        }
        if self.restored.changes.len() < CHANGES_AT_MOST {
            self.restored.changes.push(RestoreChange {
                path: path.display().to_string(),
                change,
            });
        }
    }

    fn item(&mut self, plan: &Plan, item: &Item) -> Result<()> {
        let refused = |error: io::Error| super::stage::refused(&item.to, &error);
        let parent = match (item.to.parent().map(dirs::open_strict), item.to.file_name()) {
            (Some(Ok(parent)), Some(_)) => Some(parent),
            (Some(Err(error)), _) if error.kind() != io::ErrorKind::NotFound => return Err(refused(error)),
            _ => None,
        };
        let name = item.to.file_name().unwrap_or(OsStr::new(""));
        // Folders of the target that are folders of the snapshot too, with the names that the snapshot has in them.
        let mut folders: HashMap<PathBuf, HashSet<OsString>> = HashMap::new();
        for entry in plan.entries_of(item) {
            let below = entry.relative.parent().map(Path::to_owned);
            if let Some(below) = &below
                && let Some(names) = folders.get_mut(below)
            {
                names.extend(entry.relative.file_name().map(OsStr::to_owned));
            }
            let to = if below.is_none() {
                item.to.clone()
            } else {
                item.to.join(&entry.relative)
            };
            // Below what is no folder there is nothing.
            let reachable = below.as_ref().is_none_or(|below| folders.contains_key(below));
            let found = match (&parent, reachable) {
                (Some(parent), true) => self.find(parent, name, entry).map_err(refused)?,
                _ => None,
            };
            let Some((folder, last, stat)) = found else {
                self.change(to, RestoreChangeKind::Create);
                self.reporter.advance(u64::from(entry.node.is_file()), entry.size);
                continue;
            };
            if entry.node.is_dir() && dirs::is_dir(&stat) {
                folders.insert(entry.relative.clone(), HashSet::new());
                if !entry.whole {
                    continue;
                }
            }
            let same = differs(entry, &stat, &folder, &last).map_err(refused)?.is_none()
                && self.same_content(plan, entry, &folder, &last).map_err(refused)?;
            if same {
                self.restored.unchanged += 1;
            } else {
                self.change(to, RestoreChangeKind::Change);
            }
            self.reporter.advance(u64::from(entry.node.is_file()), entry.size);
        }
        if item.replace {
            for entry in plan.entries_of(item).iter().filter(|entry| entry.node.is_dir() && entry.whole) {
                if let (Some(parent), Some(names)) = (&parent, folders.get(&entry.relative)) {
                    self.extra(parent, name, entry, item, names).map_err(refused)?;
                }
            }
        }
        Ok(())
    }

    /// The folder that holds the entry at the target, its name there, and what it is.
    fn find(&self, parent: &OwnedFd, name: &OsStr, entry: &Entry) -> io::Result<Option<(OwnedFd, OsString, Stat)>> {
        let path = if entry.relative.as_os_str().is_empty() {
            PathBuf::from(name)
        } else {
            Path::new(name).join(&entry.relative)
        };
        let above = path.parent().unwrap_or(Path::new(""));
        let folder = match dirs::open_beneath(parent, above, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) {
            Ok(folder) => folder,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
            Err(error) => return Err(error),
        };
        let last = path.file_name().unwrap_or(OsStr::new("")).to_owned();
        Ok(dirs::stat(&folder, &last)?.map(|stat| (folder, last, stat)))
    }

    fn same_content(&self, plan: &Plan, entry: &Entry, folder: &OwnedFd, name: &OsStr) -> io::Result<bool> {
        match &entry.node.node_type {
            NodeType::Symlink { .. } => {
                let link = rustix::fs::readlinkat(folder, name, Vec::new())?;
                Ok(link.to_bytes() == entry.node.node_type.to_link().as_os_str().as_bytes())
            }
            NodeType::File if self.depth == Depth::Content => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file = File::from(rustix::fs::openat(folder, name, flags, Mode::empty())?);
                let first = entry.link_to.map_or(entry, |first| &plan.entries[first]);
                holds(file, first, &mut Vec::new())
            }
            _ => Ok(true),
        }
    }

    /// Names at the target that the snapshot does not have.
    fn extra(&mut self, parent: &OwnedFd, name: &OsStr, entry: &Entry, item: &Item, known: &HashSet<OsString>) -> io::Result<()> {
        let path = if entry.relative.as_os_str().is_empty() {
            PathBuf::from(name)
        } else {
            Path::new(name).join(&entry.relative)
        };
        let folder = dirs::open_beneath(parent, &path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        for extra in dirs::names(&folder)? {
            if !known.contains(&extra) {
                let at = if entry.relative.as_os_str().is_empty() {
                    item.to.join(&extra)
                } else {
                    item.to.join(&entry.relative).join(&extra)
                };
                self.change(at, RestoreChangeKind::Remove);
            }
        }
        Ok(())
    }
}

/// What of the metadata is another, in words.
fn differs(entry: &Entry, stat: &Stat, folder: &OwnedFd, name: &OsStr) -> io::Result<Option<&'static str>> {
    if let Some(what) = differs_by_stat(entry, stat) {
        return Ok(Some(what));
    }
    // Of a folder that only stands on the way to a source nothing was kept.
    let has_some = matches!(entry.node.node_type, NodeType::File | NodeType::Dir) && kept_mode(&entry.node.meta).is_some();
    if has_some && entry.link_to.is_none() && !same_attributes(&below(folder, name), &entry.node.meta)? {
        return Ok(Some("an extended attribute"));
    }
    Ok(None)
}

fn differs_by_stat(entry: &Entry, stat: &Stat) -> Option<&'static str> {
    let meta = &entry.node.meta;
    let kind = match &entry.node.node_type {
        NodeType::File => FileType::RegularFile,
        NodeType::Dir => FileType::Directory,
        NodeType::Symlink { .. } => FileType::Symlink,
        NodeType::Dev { .. } => FileType::BlockDevice,
        NodeType::Chardev { .. } => FileType::CharacterDevice,
        NodeType::Fifo => FileType::Fifo,
        NodeType::Socket => FileType::Socket,
    };
    if FileType::from_raw_mode(stat.st_mode) != kind {
        return Some("its kind");
    }
    if kind == FileType::RegularFile && entry.link_to.is_none() && u64::try_from(stat.st_size).ok() != Some(entry.size) {
        return Some("its size");
    }
    if let NodeType::Dev { device } | NodeType::Chardev { device } = &entry.node.node_type
        && *device != stat.st_rdev
    {
        return Some("its device");
    }
    let mode = kept_mode(meta)?;
    if kind != FileType::Symlink && mode != stat.st_mode & 0o7777 {
        return Some("its mode");
    }
    if meta.uid.is_some_and(|uid| uid != stat.st_uid) || meta.gid.is_some_and(|gid| gid != stat.st_gid) {
        return Some("its owner");
    }
    if let Some(times) = write::times(meta)
        && (times.last_modification.tv_sec != stat.st_mtime || times.last_modification.tv_nsec as u64 != stat.st_mtime_nsec)
    {
        return Some("its time");
    }
    None
}

/// Whether a file is made of the blobs of the entry, and of nothing else.
fn holds(mut file: File, entry: &Entry, buffer: &mut Vec<u8>) -> io::Result<bool> {
    for (id, size) in &entry.blobs {
        buffer.resize(*size as usize, 0);
        match file.read_exact(buffer) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
        if crypt::hash(buffer) != *id {
            return Ok(false);
        }
    }
    Ok(file.read(&mut [0])? == 0)
}

/// Reads back everything that was written. A byte that is another fails the restore; metadata that is another is a problem that is
/// named, where it was not when it could not be set.
pub fn verify(plan: &Plan, stages: &[Stage], reporter: &Reporter) -> Result<()> {
    let (named, _) = reporter.problems();
    let named: HashSet<String> = named.into_iter().map(|problem| problem.path).collect();
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let failure = Mutex::new(None::<JobError>);
    thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| {
                let mut buffer = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let Some(entry) = plan.entries.get(next.fetch_add(1, Ordering::Relaxed)) else {
                        return;
                    };
                    if matches!(entry.node.node_type, NodeType::Socket) {
                        continue;
                    }
                    let told = named.contains(&entry.at.display().to_string());
                    match verify_one(plan, &stages[entry.item], entry, &mut buffer) {
                        Ok(None) => {}
                        Ok(Some(what)) if !told => reporter.problem(entry.at.display().to_string(), format!("{what} is not as in the backup")),
                        Ok(Some(_)) => {}
                        Err(error) if told && error.kind() == io::ErrorKind::NotFound => {}
                        Err(error) => {
                            failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| {
                                failed(
                                    JobErrorCode::Damaged,
                                    format!(
                                        "{} was read back and is not as in the backup: {error}. Nothing at the target was changed; check the disk and try again.",
                                        entry.at.display()
                                    ),
                                )
                            });
                            stop.store(true, Ordering::Relaxed);
                        }
                    }
                    reporter.advance(u64::from(entry.node.is_file()), entry.size);
                }
            });
        }
    });
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

fn verify_one(plan: &Plan, stage: &Stage, entry: &Entry, buffer: &mut Vec<u8>) -> io::Result<Option<&'static str>> {
    let path = staged(entry);
    let parent = dirs::open_beneath(
        &stage.fd,
        path.parent().unwrap_or(Path::new("")),
        OFlags::PATH | OFlags::DIRECTORY,
        Mode::empty(),
    )?;
    let name = path.file_name().unwrap_or(OsStr::new(""));
    let stat = dirs::stat(&parent, name)?.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "it is missing"))?;
    match &entry.node.node_type {
        NodeType::File => {
            let first = entry.link_to.map_or(entry, |first| &plan.entries[first]);
            if entry.link_to.is_none() {
                let fd = dirs::open_beneath(parent.as_fd(), Path::new(name), OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?;
                if !holds(File::from(fd), first, buffer)? {
                    return Err(io::Error::other("its content differs"));
                }
            }
        }
        NodeType::Symlink { .. } => {
            let link = rustix::fs::readlinkat(&parent, name, Vec::new())?;
            if link.to_bytes() != entry.node.node_type.to_link().as_os_str().as_bytes() {
                return Err(io::Error::other("it leads elsewhere"));
            }
        }
        _ => {}
    }
    match differs(entry, &stat, &parent, name)? {
        Some("its kind" | "its size") => Err(io::Error::other("its kind or size differs")),
        other => Ok(other),
    }
}
