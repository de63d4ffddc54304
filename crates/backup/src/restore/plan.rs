//! What a restore will write, known whole before anything is written.

use crate::{
    failure::{Result, failed, of_rustic},
    read::Blob,
    source::clean,
};
use nm_types::backup::job::{JobError, JobErrorCode, RestoreItem};
use rustic_core::{
    Id, IndexedFullStatus, Repository, TreeId,
    repofile::{Node, NodeType},
};
use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::atomic::AtomicU32,
};

/// Folders in folders of a snapshot; more is no tree of files.
const DEPTH_AT_MOST: usize = 2000;

#[derive(Default)]
pub struct Plan {
    pub items: Vec<Item>,
    /// Parents before what is in them.
    pub entries: Vec<Entry>,
    /// What is to be written of each pack, in the order of the pack.
    pub packs: BTreeMap<Id, Vec<Use>>,
    /// The first of the names of one file, by item, device and inode.
    linked: HashMap<(usize, u64, u64), usize>,
    used: HashMap<Id, (Id, usize)>,
}

pub struct Item {
    pub to: PathBuf,
    pub replace: bool,
    /// The entry of the item itself, and how many follow it.
    pub first: usize,
    pub count: usize,
}

pub struct Entry {
    pub item: usize,
    /// In the snapshot.
    pub at: PathBuf,
    /// Below the item; empty for the item itself.
    pub relative: PathBuf,
    pub node: Node,
    /// All that is below is restored too; not of a folder that only leads to what was asked for.
    pub whole: bool,
    /// Of a file: its blobs and their sizes.
    pub blobs: Vec<(Id, u32)>,
    pub size: u64,
    /// Another name of that entry's file.
    pub link_to: Option<usize>,
    /// Blobs that are still to be written.
    pub left: AtomicU32,
}

/// A blob and all the places it goes.
pub struct Use {
    pub blob: Blob,
    /// Entry and offset.
    pub places: Vec<(usize, u64)>,
}

impl Plan {
    /// Everything was added: packs are read from their beginning to their end.
    pub fn finish(&mut self) {
        for uses in self.packs.values_mut() {
            uses.sort_unstable_by_key(|used| used.blob.offset);
        }
        self.used = HashMap::new();
        self.linked = HashMap::new();
    }

    pub fn files(&self) -> u64 {
        self.entries.iter().filter(|entry| entry.node.is_file()).count() as u64
    }

    pub fn bytes(&self) -> u64 {
        self.entries.iter().map(|entry| entry.size).sum()
    }

    pub fn entries_of(&self, item: &Item) -> &[Entry] {
        &self.entries[item.first..item.first + item.count]
    }

    pub fn add(&mut self, repository: &Repository<IndexedFullStatus>, tree: TreeId, item: &RestoreItem, include: &[String]) -> Result<()> {
        let from = clean(&item.from)?;
        let to = clean(&item.to)?;
        if to.parent().is_none() {
            return Err(failed(JobErrorCode::Forbidden, "Nothing is restored over `/`. Choose a folder."));
        }
        if self
            .items
            .iter()
            .any(|other| other.to.starts_with(&to) || to.starts_with(&other.to))
        {
            return Err(failed(
                JobErrorCode::Forbidden,
                format!("Two parts of the restore go to {}. Choose folders apart.", to.display()),
            ));
        }
        let include = include.iter().map(|path| clean(path)).collect::<Result<Vec<_>>>()?;
        let node = find(repository, tree, &from)?;
        let first = self.entries.len();
        let number = self.items.len();
        self.items.push(Item {
            to,
            replace: item.replace,
            first,
            count: 0,
        });
        let mut walk = Walk {
            plan: self,
            repository,
            include,
            item: number,
        };
        walk.node(from, PathBuf::new(), node, 0)?;
        self.items[number].count = self.entries.len() - first;
        if self.entries.len() == first {
            return Err(failed(
                JobErrorCode::PathMissing,
                format!(
                    "Nothing of what was asked for is in {} of the backup. List its files and choose again.",
                    item.from
                ),
            ));
        }
        Ok(())
    }
}

/// The entry at a path of a snapshot; of its root a folder without a mode of its own.
pub fn find(repository: &Repository<IndexedFullStatus>, tree: TreeId, path: &Path) -> Result<Node> {
    let mut node = Node {
        node_type: NodeType::Dir,
        subtree: Some(tree),
        ..Node::default()
    };
    for name in path.components().skip(1) {
        let missing = || {
            failed(
                JobErrorCode::PathMissing,
                format!("{} is not in the backup. List its files and choose again.", path.display()),
            )
        };
        let subtree = node.subtree.ok_or_else(missing)?;
        let folder = repository.get_tree(&subtree).map_err(|error| unreadable(path, &error))?;
        node = folder
            .nodes
            .into_iter()
            .find(|node| *node.name() == *name.as_os_str())
            .ok_or_else(missing)?;
    }
    Ok(node)
}

pub fn unreadable(path: &Path, error: &rustic_core::RusticError) -> JobError {
    of_rustic(
        &format!("The folder {} of the backup can't be read", path.display()),
        JobErrorCode::Damaged,
        error,
    )
}

/// A name as the format has it may be anything; one that would lead elsewhere is no name.
fn is_plain(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    !matches!(bytes, b"" | b"." | b"..") && !bytes.iter().any(|byte| matches!(byte, b'/' | 0))
}

struct Walk<'a> {
    plan: &'a mut Plan,
    repository: &'a Repository<IndexedFullStatus>,
    include: Vec<PathBuf>,
    item: usize,
}

impl Walk<'_> {
    fn node(&mut self, at: PathBuf, relative: PathBuf, mut node: Node, depth: usize) -> Result<()> {
        let whole = self.include.is_empty() || self.include.iter().any(|path| at.starts_with(path));
        let leads = self.include.iter().any(|path| path.starts_with(&at));
        if !(whole || leads && node.is_dir()) {
            return Ok(());
        }
        if depth > DEPTH_AT_MOST {
            return Err(failed(
                JobErrorCode::Damaged,
                format!("The folders of the backup lie too deep in one another at {}.", at.display()),
            ));
        }
        let subtree = node.subtree;
        let content = node.content.take();
        let number = self.plan.entries.len();
        let mut entry = Entry {
            item: self.item,
            at: at.clone(),
            relative: relative.clone(),
            node,
            whole,
            blobs: Vec::new(),
            size: 0,
            link_to: None,
            left: AtomicU32::new(0),
        };
        if entry.node.is_file() {
            let meta = &entry.node.meta;
            if meta.links > 1 && meta.inode != 0 && meta.device_id != 0 {
                let first = *self.plan.linked.entry((self.item, meta.device_id, meta.inode)).or_insert(number);
                entry.link_to = (first != number).then_some(first);
            }
            if entry.link_to.is_none() {
                self.content(&mut entry, number, content.unwrap_or_default())?;
            }
        }
        let is_dir = entry.node.is_dir();
        self.plan.entries.push(entry);
        if is_dir {
            let subtree = subtree.ok_or_else(|| {
                failed(
                    JobErrorCode::Damaged,
                    format!("The folder {} of the backup has no content. Check the repository.", at.display()),
                )
            })?;
            let folder = self.repository.get_tree(&subtree).map_err(|error| unreadable(&at, &error))?;
            for node in folder.nodes {
                let name = node.name().into_owned();
                if !is_plain(&name) {
                    return Err(failed(
                        JobErrorCode::Forbidden,
                        format!(
                            "The backup has a file of the name {name:?} in {}, which leads out of it. Nothing was restored.",
                            at.display()
                        ),
                    ));
                }
                self.node(at.join(&name), relative.join(&name), node, depth + 1)?;
            }
        }
        Ok(())
    }

    fn content(&mut self, entry: &mut Entry, number: usize, content: Vec<rustic_core::DataId>) -> Result<()> {
        entry.blobs.reserve_exact(content.len());
        let mut left = 0;
        for id in content {
            let key: Id = *id;
            let (pack, place) = match self.plan.used.get(&key) {
                Some(known) => *known,
                None => {
                    let found = self.repository.get_index_entry(&id).map_err(|_| {
                        failed(
                            JobErrorCode::Damaged,
                            format!(
                                "A part of {} is missing from the repository. Restore another backup, and run a full one.",
                                entry.at.display()
                            ),
                        )
                    })?;
                    let pack: Id = *found.pack;
                    let uses = self.plan.packs.entry(pack).or_default();
                    uses.push(Use {
                        blob: Blob {
                            id: key,
                            offset: found.location.offset,
                            length: found.location.length,
                            unpacked: found.location.uncompressed_length.map(std::num::NonZeroU32::get),
                        },
                        places: Vec::new(),
                    });
                    self.plan.used.insert(key, (pack, uses.len() - 1));
                    (pack, uses.len() - 1)
                }
            };
            let Some(used) = self.plan.packs.get_mut(&pack).and_then(|uses| uses.get_mut(place)) else {
                return Err(failed(JobErrorCode::Internal, "The plan of the restore is wrong."));
            };
            let size = used.blob.size();
            if size > 0 {
                used.places.push((number, entry.size));
                left += 1;
            }
            entry.blobs.push((key, u32::try_from(size).unwrap_or(u32::MAX)));
            entry.size += size;
        }
        entry.left = AtomicU32::new(left);
        Ok(())
    }
}
