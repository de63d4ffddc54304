//! What goes into a snapshot, as rustic_core asks for it: entries in the order of the tree, each with a way to open it. rustic_core
//! drops an entry that fails and says nothing; here each is counted and named, and a stream that breaks vetoes the snapshot.

mod reader;

use crate::{
    failure::{Result, failed},
    guard::Veto,
    report::Reporter,
    stream::StreamReader,
    walk::{Folder, Identity, Seen},
};
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use nm_types::backup::job::{BackupTask, JobErrorCode, JobEvent, Source};
pub use reader::Watched;
use reader::{FileReader, Inner};
use rustic_core::{
    ReadSource, ReadSourceEntry, ReadSourceOpen, RusticResult,
    jiff::Timestamp,
    repofile::{Metadata, Node, NodeType},
};
use rustix::fs::FileType;
use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    io::{self, Cursor},
    path::{Component, Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Shared by the entries, their readers and the task.
pub struct Watch {
    pub reporter: Arc<Reporter>,
    pub veto: Arc<Veto>,
    /// Files that are in the snapshot: read whole, or as in the parent.
    kept: AtomicU64,
}

impl Watch {
    pub fn new(reporter: Arc<Reporter>, veto: Arc<Veto>) -> Self {
        Self {
            reporter,
            veto,
            kept: AtomicU64::new(0),
        }
    }

    fn problem(&self, at: &Path, error: &io::Error) {
        self.reporter.problem(at.display().to_string(), error.to_string());
    }

    fn kept(&self) {
        self.kept.fetch_add(1, Ordering::Relaxed);
        self.reporter.advance(1, 0);
    }
}

/// Dropped by the last that reads: from then on nothing of the sources is needed.
struct AllRead(Arc<Watch>);

impl Drop for AllRead {
    fn drop(&mut self) {
        let (_, problems) = self.0.reporter.problems();
        if problems > 0 && self.0.kept.load(Ordering::Relaxed) == 0 {
            self.0.veto.refuse(
                JobErrorCode::SourceFailed,
                "Nothing of the sources could be read, so there is no backup. See its problems, and mend the paths or their permissions.",
            );
        }
        self.0.reporter.say(JobEvent::SourcesRead);
    }
}

/// All sources of a task, as one tree.
pub struct Sources {
    /// Sorted by where they stand in the snapshot, component by component, as the tree is.
    placed: Arc<BTreeMap<PathBuf, Placed>>,
    excludes: Arc<Gitignore>,
    one_file_system: bool,
    time: Timestamp,
    watch: Arc<Watch>,
}

#[derive(Clone)]
enum Placed {
    /// A folder on the way to a source.
    Ancestor(Option<Arc<Folder>>),
    /// A folder that is a source, whole.
    Folder(Arc<Folder>),
    /// Anything else, by its name in its folder.
    Name(Arc<Folder>, OsString),
    Text(Arc<str>),
    Stream(PathBuf),
}

/// A source that is no folder is held by the folder it is in.
fn place(path: &Path) -> io::Result<Placed> {
    match Folder::open(path) {
        Ok(folder) => Ok(Placed::Folder(Arc::new(folder))),
        Err(error) => {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
                return Err(error);
            };
            let parent = Folder::open(parent)?;
            match parent.see(name)? {
                Some(seen) if seen.kind != NodeType::Dir => Ok(Placed::Name(Arc::new(parent), name.to_owned())),
                _ => Err(error),
            }
        }
    }
}

impl Sources {
    pub fn new(task: &BackupTask, time: Timestamp, watch: Arc<Watch>) -> Result<Self> {
        let mut placed = BTreeMap::new();
        let mut whole = BTreeMap::new();
        for source in &task.sources {
            let (Source::Path { at, .. } | Source::Text { at, .. } | Source::Stream { at, .. }) = source;
            let at = clean(at)?;
            let entry = match source {
                Source::Path { path, .. } => place(&clean(path)?).map_err(|error| {
                    failed(
                        JobErrorCode::PathMissing,
                        format!("The source {path} can't be opened: {error}. Correct the config's paths."),
                    )
                })?,
                Source::Text { content, .. } => Placed::Text(content.as_str().into()),
                Source::Stream { socket, .. } => Placed::Stream(socket.into()),
            };
            if placed.insert(at.clone(), entry).is_some() {
                return Err(overlap(&at, &at));
            }
            whole.insert(at, matches!(source, Source::Path { path, at } if path == at));
        }
        for (at, same) in &whole {
            for ancestor in at.ancestors().skip(1).take_while(|ancestor| ancestor.parent().is_some()) {
                if whole.contains_key(ancestor) {
                    return Err(overlap(ancestor, at));
                }
                // Paths of a node keep the owner and the mode of the folders that lead to them.
                let folder = if *same { Folder::open(ancestor).ok().map(Arc::new) } else { None };
                placed.entry(ancestor.to_owned()).or_insert(Placed::Ancestor(folder));
            }
            if whole.len() > 1 && whole.contains_key(Path::new("/")) {
                return Err(overlap(Path::new("/"), at));
            }
        }
        Ok(Self {
            placed: Arc::new(placed),
            excludes: Arc::new(excludes(&task.excludes)?),
            one_file_system: task.one_file_system,
            time,
            watch,
        })
    }

    pub fn paths(&self) -> Vec<PathBuf> {
        self.placed
            .iter()
            .filter(|(_, placed)| !matches!(placed, Placed::Ancestor(_)))
            .map(|(at, _)| at.clone())
            .collect()
    }
}

impl Sources {
    fn count(&self) -> (u64, u64) {
        let (mut files, mut bytes) = (0, 0);
        for (at, placed) in &*self.placed {
            match placed {
                Placed::Ancestor(_) => {}
                Placed::Text(text) => {
                    files += 1;
                    bytes += text.len() as u64;
                }
                Placed::Stream(_) => files += 1,
                Placed::Name(folder, name) => {
                    files += 1;
                    bytes += folder.glance(name).map_or(0, |(_, size, _)| size);
                }
                Placed::Folder(folder) => {
                    let device = folder.glance(OsStr::new(".")).map_or(0, |(.., device)| device);
                    let mut waiting = vec![(at.clone(), folder.clone())];
                    while let Some((at, folder)) = waiting.pop() {
                        for name in folder.names().unwrap_or_default() {
                            let Ok((kind, size, on)) = folder.glance(&name) else { continue };
                            let below = at.join(&name);
                            let is_dir = kind == FileType::Directory;
                            if !self.excludes.is_empty() && self.excludes.matched(&below, is_dir).is_ignore() {
                                continue;
                            }
                            if kind == FileType::RegularFile {
                                files += 1;
                                bytes += size;
                            } else if is_dir
                                && !(self.one_file_system && on != device)
                                && let Ok(entered) = folder.enter(&name)
                            {
                                waiting.push((below, Arc::new(entered)));
                            }
                        }
                    }
                }
            }
        }
        (files, bytes)
    }
}

fn overlap(above: &Path, below: &Path) -> nm_types::backup::job::JobError {
    failed(
        JobErrorCode::Forbidden,
        format!(
            "The source {} is within the source {}. Name one of the two.",
            below.display(),
            above.display()
        ),
    )
}

/// An absolute path of plain names.
pub fn clean(path: &str) -> Result<PathBuf> {
    let given = Path::new(path);
    let plain = given.is_absolute()
        && !path.contains('\0')
        && given
            .components()
            .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if plain {
        Ok(given.components().collect())
    } else {
        Err(failed(
            JobErrorCode::Forbidden,
            format!("{path:?} is no absolute path of plain names. Write it without `.` and `..`."),
        ))
    }
}

fn excludes(patterns: &[String]) -> Result<Gitignore> {
    let wrong = |error: ignore::Error| {
        failed(
            JobErrorCode::Forbidden,
            format!("An exclude pattern is wrong: {error}. Correct it."),
        )
    };
    let mut builder = GitignoreBuilder::new("/");
    for pattern in patterns {
        builder.add_line(None, pattern).map_err(wrong)?;
    }
    builder.build().map_err(wrong)
}

impl ReadSource for Sources {
    type Open = Opening;
    type Iter = Entries;

    /// Runs beside a backup that reads everything, and tells the reporter what there is. What it can't look into, the walk that
    /// reads names.
    fn size(&self) -> RusticResult<Option<u64>> {
        let (files, bytes) = self.count();
        self.watch.reporter.expect(files, bytes);
        Ok(None)
    }

    fn entries(&self) -> Entries {
        // The last is taken first.
        let waiting = self.placed.iter().rev().map(|(at, placed)| (at.clone(), placed.clone())).collect();
        Entries {
            waiting,
            folders: Vec::new(),
            excludes: self.excludes.clone(),
            one_file_system: self.one_file_system,
            time: self.time,
            all_read: Some(Arc::new(AllRead(self.watch.clone()))),
            watch: self.watch.clone(),
        }
    }
}

/// A folder whose names are being walked.
struct Walked {
    folder: Arc<Folder>,
    at: PathBuf,
    device: u64,
    names: std::vec::IntoIter<OsString>,
}

pub struct Entries {
    waiting: Vec<(PathBuf, Placed)>,
    /// From the source's own down to the one that is walked now.
    folders: Vec<Walked>,
    excludes: Arc<Gitignore>,
    one_file_system: bool,
    time: Timestamp,
    watch: Arc<Watch>,
    /// None once everything was named.
    all_read: Option<Arc<AllRead>>,
}

impl Iterator for Entries {
    type Item = RusticResult<ReadSourceEntry<Opening>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(walked) = self.folders.last_mut() {
                let Some(name) = walked.names.next() else {
                    self.folders.pop();
                    continue;
                };
                let (folder, at, device) = (walked.folder.clone(), walked.at.join(&name), walked.device);
                match self.named(folder, name, at, Some(device)) {
                    Some(entry) => return Some(Ok(entry)),
                    None => continue,
                }
            }
            let Some((at, placed)) = self.waiting.pop() else {
                self.all_read = None;
                return None;
            };
            let found = match placed {
                Placed::Ancestor(folder) => Some(self.ancestor(at, folder.as_deref())),
                Placed::Folder(folder) => match folder.metadata() {
                    Ok((meta, identity)) => Some(self.folder(folder, at, meta, &identity, None)),
                    Err(error) => {
                        self.watch.problem(&at, &error);
                        None
                    }
                },
                Placed::Name(folder, name) => self.named(folder, name, at, None),
                Placed::Text(text) => {
                    let size = text.len() as u64;
                    self.made(at, size, What::Text(text))
                }
                Placed::Stream(socket) => self.made(at, 0, What::Stream(socket)),
            };
            if let Some(entry) = found {
                return Some(Ok(entry));
            }
        }
    }
}

impl Entries {
    fn ancestor(&self, at: PathBuf, folder: Option<&Folder>) -> ReadSourceEntry<Opening> {
        let meta = match folder.map(Folder::metadata) {
            Some(Ok((meta, _))) => meta,
            _ => self.plain(1 << 31 | 0o755, 0),
        };
        entry(at, NodeType::Dir, meta, None)
    }

    fn made(&self, at: PathBuf, size: u64, what: What) -> Option<ReadSourceEntry<Opening>> {
        let meta = self.plain(0o600, size);
        let opening = self.opening(at.clone(), what)?;
        Some(entry(at, NodeType::File, meta, Some(opening)))
    }

    fn opening(&self, at: PathBuf, what: What) -> Option<Opening> {
        Some(Opening {
            what: Some(what),
            at,
            watch: self.watch.clone(),
            all_read: self.all_read.clone()?,
        })
    }

    fn plain(&self, mode: u32, size: u64) -> Metadata {
        Metadata {
            mode: Some(mode),
            mtime: Some(self.time),
            uid: Some(0),
            gid: Some(0),
            size,
            ..Metadata::default()
        }
    }

    /// `device` is that of the folder it is in; none of a source itself, which no pattern leaves out.
    fn named(&mut self, folder: Arc<Folder>, name: OsString, at: PathBuf, device: Option<u64>) -> Option<ReadSourceEntry<Opening>> {
        let Seen { kind, meta, identity } = match folder.see(&name) {
            Ok(Some(seen)) => seen,
            // It went since its folder was listed, as files do.
            Ok(None) => return None,
            Err(error) => {
                self.watch.problem(&at, &error);
                return None;
            }
        };
        if device.is_some() && !self.excludes.is_empty() && self.excludes.matched(&at, kind == NodeType::Dir).is_ignore() {
            return None;
        }
        match kind {
            NodeType::Dir => {
                // Of another file system the empty folder stays, so that it can be mounted again after a restore.
                if self.one_file_system && device.is_some_and(|device| device != identity.device()) {
                    return Some(entry(at, NodeType::Dir, meta, None));
                }
                match folder.enter(&name) {
                    Ok(entered) => Some(self.folder(Arc::new(entered), at, meta, &identity, device)),
                    Err(error) => {
                        self.watch.problem(&at, &error);
                        Some(entry(at, NodeType::Dir, meta, None))
                    }
                }
            }
            NodeType::File => {
                let opening = self.opening(at.clone(), What::File { folder, name, identity })?;
                Some(entry(at, NodeType::File, meta, Some(opening)))
            }
            // A socket is nothing without the process that made it.
            NodeType::Socket => None,
            special => Some(entry(at, special, meta, None)),
        }
    }

    fn folder(
        &mut self,
        folder: Arc<Folder>,
        at: PathBuf,
        meta: Metadata,
        identity: &Identity,
        device: Option<u64>,
    ) -> ReadSourceEntry<Opening> {
        match folder.names() {
            Ok(names) => self.folders.push(Walked {
                folder,
                at: at.clone(),
                // Where nothing binds it to one file system, each folder's own is as good.
                device: device.unwrap_or(identity.device()),
                names: names.into_iter(),
            }),
            Err(error) => self.watch.problem(&at, &error),
        }
        entry(at, NodeType::Dir, meta, None)
    }
}

fn entry(path: PathBuf, kind: NodeType, meta: Metadata, open: Option<Opening>) -> ReadSourceEntry<Opening> {
    let node = Node::new_node(path.file_name().unwrap_or(OsStr::new("")), kind, meta);
    ReadSourceEntry { path, node, open }
}

enum What {
    File {
        folder: Arc<Folder>,
        name: OsString,
        identity: Identity,
    },
    Text(Arc<str>),
    Stream(PathBuf),
}

/// A file that is opened once its turn has come; one that is as in the parent never is.
pub struct Opening {
    /// None once it was opened.
    what: Option<What>,
    at: PathBuf,
    watch: Arc<Watch>,
    all_read: Arc<AllRead>,
}

impl Drop for Opening {
    fn drop(&mut self) {
        if self.what.is_some() {
            self.watch.kept();
        }
    }
}

impl ReadSourceOpen for Opening {
    type Reader = Watched;

    /// Errors come out of the first read, so that there is one place that counts them.
    fn open(mut self) -> RusticResult<Watched> {
        let (inner, stream) = match self.what.take() {
            Some(What::File { folder, name, identity }) => (
                folder
                    .open_file(&name, &identity)
                    .map(|file| Inner::File(FileReader::new(file, identity))),
                false,
            ),
            Some(What::Text(text)) => (Ok(Inner::Text(Cursor::new(text.as_bytes().to_vec()))), false),
            Some(What::Stream(socket)) => (StreamReader::connect(&socket).map(Inner::Stream), true),
            None => (Err(io::Error::other("it was opened before")), false),
        };
        Ok(Watched {
            inner: Some(inner),
            stream,
            at: std::mem::take(&mut self.at),
            watch: self.watch.clone(),
            _all_read: self.all_read.clone(),
        })
    }
}
