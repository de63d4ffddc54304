//! Builds the tree of a plan in its stages: folders first, then files pack by pack, then what is neither, then the folders' own
//! metadata, the innermost first.

use super::{
    dirs,
    plan::{Entry, Plan, Use},
    stage::Stage,
};
use crate::{
    crypt::Key,
    failure::{Result, code_of, failed},
    read::{BlobReader, ReadError, reader, unreadable},
    report::Reporter,
    store::Store,
    walk::{below, kept_mode, magic},
};
use nm_types::backup::job::{JobError, JobErrorCode};
use rustic_core::{
    Id,
    repofile::{Metadata, NodeType},
};
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};
use std::{
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

/// A run of zeros of this length at a multiple of it is not written, and is a hole then.
const HOLE: usize = 32 * 1024;
const THREADS_AT_MOST: usize = 4;

pub fn write(plan: &Plan, stages: &[Stage], store: &Arc<dyn Store>, key: &Key, hashed: bool, reporter: &Reporter) -> Result<()> {
    let writer = Writer {
        plan,
        stages,
        root: rustix::process::geteuid().is_root(),
        reporter,
    };
    writer.folders()?;
    writer.empty_files()?;
    writer.files(store, key, hashed)?;
    writer.others()?;
    writer.links()?;
    writer.folder_metadata();
    Ok(())
}

/// Threads that share the work of a restore.
pub fn threads() -> usize {
    thread::available_parallelism().map_or(2, usize::from).clamp(2, THREADS_AT_MOST)
}

struct Writer<'a> {
    plan: &'a Plan,
    stages: &'a [Stage],
    root: bool,
    reporter: &'a Reporter,
}

/// The path of an entry in its stage.
pub fn staged(entry: &Entry) -> PathBuf {
    if entry.relative.as_os_str().is_empty() {
        PathBuf::from(super::stage::ROOT)
    } else {
        Path::new(super::stage::ROOT).join(&entry.relative)
    }
}

pub fn unwritten(entry: &Entry, error: &io::Error) -> JobError {
    let next = if code_of(error, JobErrorCode::NotWritable) == JobErrorCode::DiskFull {
        " Make room and try again."
    } else {
        ""
    };
    failed(
        code_of(error, JobErrorCode::NotWritable),
        format!(
            "{} can't be restored: {error}. Nothing at the target was changed.{next}",
            entry.at.display()
        ),
    )
}

impl<'a> Writer<'a> {
    fn stage(&self, entry: &Entry) -> &'a Stage {
        &self.stages[entry.item]
    }

    fn problem(&self, entry: &Entry, what: &str, error: &io::Error) {
        self.reporter
            .problem(entry.at.display().to_string(), format!("{what} could not be set: {error}"));
    }

    /// The folder of an entry, and its name in it.
    fn parent(&self, entry: &Entry) -> io::Result<(OwnedFd, PathBuf)> {
        let path = staged(entry);
        let parent = path.parent().unwrap_or(Path::new(""));
        let fd = dirs::open_beneath(&self.stage(entry).fd, parent, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        Ok((fd, PathBuf::from(path.file_name().unwrap_or(OsStr::new("")))))
    }

    fn folders(&self) -> Result<()> {
        for entry in self.plan.entries.iter().filter(|entry| entry.node.is_dir()) {
            self.parent(entry)
                .and_then(|(parent, name)| Ok(rustix::fs::mkdirat(&parent, &name, Mode::RWXU)?))
                .map_err(|error| unwritten(entry, &error))?;
        }
        Ok(())
    }

    fn open(&self, entry: &Entry) -> io::Result<OwnedFd> {
        dirs::open_beneath(
            &self.stage(entry).fd,
            &staged(entry),
            OFlags::WRONLY | OFlags::CREATE,
            Mode::RUSR | Mode::WUSR,
        )
    }

    /// Those that no blob will open.
    fn empty_files(&self) -> Result<()> {
        for entry in &self.plan.entries {
            if entry.node.is_file() && entry.link_to.is_none() && entry.size == 0 {
                let fd = self.open(entry).map_err(|error| unwritten(entry, &error))?;
                self.finish(entry, &fd).map_err(|error| unwritten(entry, &error))?;
            }
        }
        Ok(())
    }

    fn files(&self, store: &Arc<dyn Store>, key: &Key, hashed: bool) -> Result<()> {
        let packs: Vec<(&Id, &Vec<Use>)> = self.plan.packs.iter().collect();
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let failure = Mutex::new(None::<JobError>);
        let fail = |error: JobError| {
            failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            stop.store(true, Ordering::Relaxed);
        };
        thread::scope(|scope| {
            for _ in 0..threads() {
                scope.spawn(|| {
                    let mut reader = match reader(store, key) {
                        Ok(reader) => reader,
                        Err(error) => return fail(error),
                    };
                    while !stop.load(Ordering::Relaxed) {
                        let Some((pack, uses)) = packs.get(next.fetch_add(1, Ordering::Relaxed)) else {
                            return;
                        };
                        if let Err(error) = self.pack(&mut reader, pack, uses, hashed, &stop) {
                            return fail(error);
                        }
                    }
                });
            }
        });
        failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn pack(&self, reader: &mut BlobReader, pack: &Id, uses: &[Use], hashed: bool, stop: &AtomicBool) -> Result<()> {
        let blobs: Vec<_> = uses.iter().map(|used| used.blob).collect();
        let mut failure = None;
        let read = reader.read(pack, &blobs, hashed, |n, blob, plain| {
            if plain.len() as u64 != blob.size() {
                failure = Some(failed(
                    JobErrorCode::Damaged,
                    "A part of the backup has another length than the index says.",
                ));
                return false;
            }
            for (number, offset) in &uses[n].places {
                let entry = &self.plan.entries[*number];
                if let Err(error) = self.blob(entry, *offset, plain) {
                    failure = Some(unwritten(entry, &error));
                    return false;
                }
            }
            !stop.load(Ordering::Relaxed)
        });
        match (failure, read) {
            (Some(error), _) => Err(error),
            (None, Ok(()) | Err(ReadError::Stopped)) => Ok(()),
            (None, Err(error)) => Err(unreadable(pack, error)),
        }
    }

    fn blob(&self, entry: &Entry, offset: u64, plain: &[u8]) -> io::Result<()> {
        let fd = self.open(entry)?;
        write_sparse(&fd, offset, plain)?;
        let last = entry.left.fetch_sub(1, Ordering::AcqRel) == 1;
        if last {
            self.finish(entry, &fd)?;
        }
        self.reporter.advance(u64::from(last), plain.len() as u64);
        Ok(())
    }

    /// A file whose bytes are all there.
    fn finish(&self, entry: &Entry, fd: &OwnedFd) -> io::Result<()> {
        if u64::try_from(rustix::fs::fstat(fd)?.st_size).unwrap_or_default() < entry.size {
            rustix::fs::ftruncate(fd, entry.size)?;
        }
        self.metadata(entry, fd);
        Ok(())
    }

    /// What can't be set is named; the content stands.
    fn metadata(&self, entry: &Entry, fd: &OwnedFd) {
        for (what, error) in set_metadata(fd, &entry.node.meta, self.root) {
            self.problem(entry, what, &error);
        }
    }

    fn others(&self) -> Result<()> {
        for entry in &self.plan.entries {
            let meta = &entry.node.meta;
            let kind = match &entry.node.node_type {
                NodeType::File | NodeType::Dir | NodeType::Socket => continue,
                NodeType::Symlink { .. } => {
                    let (parent, name) = self.parent(entry).map_err(|error| unwritten(entry, &error))?;
                    rustix::fs::symlinkat(entry.node.node_type.to_link(), &parent, &name)
                        .map_err(|error| unwritten(entry, &error.into()))?;
                    self.special_metadata(entry, &parent, &name);
                    continue;
                }
                NodeType::Fifo => (FileType::Fifo, 0),
                NodeType::Dev { device } => (FileType::BlockDevice, *device),
                NodeType::Chardev { device } => (FileType::CharacterDevice, *device),
            };
            if kind.0 != FileType::Fifo && !self.root {
                self.problem(entry, "the device", &io::Error::other("only root makes devices"));
                continue;
            }
            let (parent, name) = self.parent(entry).map_err(|error| unwritten(entry, &error))?;
            match rustix::fs::mknodat(&parent, &name, kind.0, Mode::RUSR | Mode::WUSR, kind.1) {
                Ok(()) => {}
                // In a container without the right to.
                Err(error @ Errno::PERM) => {
                    self.problem(entry, "the device", &error.into());
                    continue;
                }
                Err(error) => return Err(unwritten(entry, &error.into())),
            }
            self.special_metadata(entry, &parent, &name);
            let mode = Mode::from_raw_mode(kept_mode(meta).unwrap_or(0o600));
            // The stage is ours alone: the name is still what was made a moment ago.
            if let Err(error) = rustix::fs::chmodat(&parent, &name, mode, AtFlags::empty()) {
                self.problem(entry, "the mode", &error.into());
            }
        }
        Ok(())
    }

    fn special_metadata(&self, entry: &Entry, parent: &OwnedFd, name: &Path) {
        let meta = &entry.node.meta;
        if let (Some(uid), Some(gid)) = (meta.uid, meta.gid)
            && let Err(error) = rustix::fs::chownat(
                parent,
                name,
                Some(Uid::from_raw(uid)),
                Some(Gid::from_raw(gid)),
                AtFlags::SYMLINK_NOFOLLOW,
            )
        {
            self.problem(entry, "the owner", &error.into());
        }
        if let Some(times) = times(meta)
            && let Err(error) = rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
        {
            self.problem(entry, "the time", &error.into());
        }
    }

    fn links(&self) -> Result<()> {
        for entry in &self.plan.entries {
            let Some(first) = entry.link_to else { continue };
            let linked = self.parent(&self.plan.entries[first]).and_then(|(from, old)| {
                let (to, new) = self.parent(entry)?;
                Ok(rustix::fs::linkat(&from, &old, &to, &new, AtFlags::empty())?)
            });
            linked.map_err(|error| unwritten(entry, &error))?;
            self.reporter.advance(1, 0);
        }
        Ok(())
    }

    fn folder_metadata(&self) {
        for entry in self.plan.entries.iter().rev().filter(|entry| entry.node.is_dir()) {
            let opened = dirs::open_beneath(
                &self.stage(entry).fd,
                &staged(entry),
                OFlags::RDONLY | OFlags::DIRECTORY,
                Mode::empty(),
            );
            match opened {
                Ok(fd) => self.metadata(entry, &fd),
                Err(error) => self.problem(entry, "its metadata", &error),
            }
        }
    }
}

/// Writes all but long runs of zeros.
fn write_sparse(fd: &OwnedFd, offset: u64, plain: &[u8]) -> io::Result<()> {
    let mut from = 0;
    let mut at = 0;
    while at < plain.len() {
        // Holes begin where a block of the file begins.
        let end = plain
            .len()
            .min(at + HOLE - usize::try_from((offset + at as u64) % HOLE as u64).unwrap_or(0));
        if end - at == HOLE && is_zero(&plain[at..end]) {
            write_all(fd, offset + from as u64, &plain[from..at])?;
            from = end;
        }
        at = end;
    }
    write_all(fd, offset + from as u64, &plain[from..])
}

fn is_zero(bytes: &[u8]) -> bool {
    // Most blocks differ in their first bytes already.
    bytes[..16].iter().all(|byte| *byte == 0) && bytes.iter().all(|byte| *byte == 0)
}

fn write_all(fd: &OwnedFd, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(fd, bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

pub fn times(meta: &Metadata) -> Option<Timestamps> {
    let time = meta.mtime?;
    // Seconds count down from a time before 1970, nanoseconds always up.
    let nanoseconds = time.as_nanosecond();
    let spec = Timespec {
        tv_sec: i64::try_from(nanoseconds.div_euclid(1_000_000_000)).ok()?,
        tv_nsec: nanoseconds.rem_euclid(1_000_000_000) as _,
    };
    Some(Timestamps {
        last_access: spec,
        last_modification: spec,
    })
}

/// Owner first, since a change of it takes bits of the mode; times last, since everything else changes them.
pub fn set_metadata(fd: &impl AsFd, meta: &Metadata, root: bool) -> Vec<(&'static str, io::Error)> {
    let mut failures = Vec::new();
    let mut mode = kept_mode(meta);
    if let (Some(uid), Some(gid)) = (meta.uid, meta.gid) {
        let owner = rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        if let Err(error) = owner {
            failures.push(("the owner", error.into()));
            // A set-user-id bit would be another user's.
            if !root && let Some(bits) = mode.filter(|bits| bits & 0o6000 != 0) {
                mode = Some(bits & !0o6000);
                failures.push(("the set-user-id bit", io::Error::other("its owner is another")));
            }
        }
    }
    for attribute in &meta.extended_attributes {
        let value = attribute.value.as_deref().unwrap_or_default();
        if let Err(error) = rustix::fs::fsetxattr(fd, attribute.name.as_str(), value, XattrFlags::empty()) {
            failures.push((
                "an extended attribute",
                io::Error::other(format!("{}: {}", attribute.name, io::Error::from(error))),
            ));
        }
    }
    if let Some(mode) = mode
        && let Err(error) = rustix::fs::fchmod(fd, Mode::from_raw_mode(mode))
    {
        failures.push(("the mode", error.into()));
    }
    if let Some(times) = times(meta)
        && let Err(error) = rustix::fs::futimens(fd, &times)
    {
        failures.push(("the time", error.into()));
    }
    failures
}

/// Takes away what the snapshot does not have, of a folder that was there before.
pub fn drop_attributes(fd: &impl AsFd, meta: &Metadata) -> io::Result<()> {
    let own = below(fd, OsStr::new("."));
    for name in crate::walk::attribute_names(&own)?
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        if !meta.extended_attributes.iter().any(|attribute| attribute.name.as_bytes() == name) {
            match rustix::fs::removexattr(magic(fd).as_str(), OsStr::from_bytes(name)) {
                Ok(()) | Err(Errno::NODATA) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}
