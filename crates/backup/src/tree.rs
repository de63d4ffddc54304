//! What is in a repository, without changing it: its snapshots, a folder of one, a file of one.

use crate::{
    failure::{Result, failed, of_rustic},
    lock::Mode,
    open::{Context, Opened, open},
    read::{self, Blob, ReadError, unreadable},
    restore::plan,
    source::clean,
    stream::StreamWriter,
    walk::unix_mode,
};
use nm_types::{
    Timestamp,
    backup::job::{
        JobErrorCode, RepositoryAccess, SendTask, SnapshotSeen, Snapshots, TreeEntry, TreeEntryKind, TreePage, TreeTask, stream::StreamEnd,
    },
};
use rustic_core::{
    Id,
    repofile::{Node, NodeType, SnapshotFile},
};
use std::{io::Write, path::Path};

pub fn list(access: &RepositoryAccess, context: &Context) -> Result<Snapshots> {
    context.reporter.step("open");
    let opened = open(access, Mode::Shared, None, context)?;
    let mut snapshots = snapshots(&opened)?;
    snapshots.sort_by(|a, b| a.time.cmp(&b.time));
    Ok(Snapshots {
        repository: opened.id,
        snapshots: snapshots
            .iter()
            .map(|snapshot| SnapshotSeen {
                id: snapshot.id.to_hex().as_str().to_owned(),
                time: Timestamp::from_millis(snapshot.time.timestamp().as_millisecond()),
                label: snapshot.label.clone(),
                tags: snapshot.tags.iter().cloned().collect(),
                paths: snapshot.paths.iter().cloned().collect(),
            })
            .collect(),
    })
}

/// All of them; one that can't be read is an error, never left out.
pub fn snapshots(opened: &Opened) -> Result<Vec<SnapshotFile>> {
    opened
        .repository
        .get_all_snapshots()
        .map_err(|error| of_rustic("The snapshots can't be read", JobErrorCode::Damaged, &error))
}

pub fn tree(access: &RepositoryAccess, task: &TreeTask, context: &Context) -> Result<TreePage> {
    context.reporter.step("open");
    let opened = open(access, Mode::Shared, None, context)?;
    let snapshot = read::snapshot(&opened.repository, &task.snapshot)?;
    let path = clean(&task.path)?;
    let _locks = opened.locks;
    let repository = opened
        .repository
        .to_indexed()
        .map_err(|error| of_rustic("The index can't be read", JobErrorCode::Damaged, &error))?;
    let node = plan::find(&repository, snapshot.tree, &path)?;
    let Some(subtree) = node.subtree else {
        // A file is listed as itself.
        return Ok(TreePage {
            entries: vec![entry(path.parent().unwrap_or(Path::new("/")), &node)],
            total: 1,
        });
    };
    let folder = repository.get_tree(&subtree).map_err(|error| plan::unreadable(&path, &error))?;
    let offset = usize::try_from(task.offset).unwrap_or(usize::MAX);
    Ok(TreePage {
        total: folder.nodes.len() as u64,
        entries: folder
            .nodes
            .iter()
            .skip(offset)
            .take(task.limit as usize)
            .map(|node| entry(&path, node))
            .collect(),
    })
}

fn entry(folder: &Path, node: &Node) -> TreeEntry {
    let name = node.name();
    let meta = &node.meta;
    TreeEntry {
        name: name.to_string_lossy().into_owned(),
        path: folder.join(&*name).to_string_lossy().into_owned(),
        kind: match node.node_type {
            NodeType::File => TreeEntryKind::File,
            NodeType::Dir => TreeEntryKind::Folder,
            NodeType::Symlink { .. } => TreeEntryKind::Symlink,
            _ => TreeEntryKind::Other,
        },
        size: node.is_file().then_some(meta.size),
        mode: meta.mode.map(|mode| format!("{:04o}", unix_mode(mode))),
        uid: meta.uid,
        gid: meta.gid,
        modified: meta.mtime.map(|time| Timestamp::from_millis(time.as_millisecond())),
        target: node.is_symlink().then(|| node.node_type.to_link().to_string_lossy().into_owned()),
    }
}

pub fn send(access: &RepositoryAccess, task: &SendTask, context: &Context) -> Result<u64> {
    context.reporter.step("open");
    let opened = open(access, Mode::Shared, None, context)?;
    let snapshot = read::snapshot(&opened.repository, &task.snapshot)?;
    let path = clean(&task.path)?;
    let mut reader = opened.reader()?;
    let _locks = opened.locks;
    let repository = opened
        .repository
        .to_indexed()
        .map_err(|error| of_rustic("The index can't be read", JobErrorCode::Damaged, &error))?;
    let node = plan::find(&repository, snapshot.tree, &path)?;
    if !node.is_file() {
        return Err(failed(
            JobErrorCode::PathMissing,
            format!("{} is no file of the backup. Choose one of its files.", path.display()),
        ));
    }
    context.reporter.step("send");
    context.reporter.expect(1, node.meta.size);
    let broken = |error: std::io::Error| {
        failed(
            JobErrorCode::StreamFailed,
            format!("{} can't be handed on: {error}. See whether its reader still runs.", path.display()),
        )
    };
    let mut writer = StreamWriter::connect(Path::new(&task.socket)).map_err(broken)?;
    let mut bytes = 0;
    for id in node.content.iter().flatten() {
        let sent = (|| {
            let found = repository.get_index_entry(id).map_err(|_| {
                failed(
                    JobErrorCode::Damaged,
                    format!("A part of {} is missing from the repository.", path.display()),
                )
            })?;
            let pack: Id = *found.pack;
            let blob = Blob {
                id: **id,
                offset: found.location.offset,
                length: found.location.length,
                unpacked: found.location.uncompressed_length.map(std::num::NonZeroU32::get),
            };
            let mut failure = None;
            let read = reader.read(&pack, &[blob], true, |_, _, plain| {
                bytes += plain.len() as u64;
                context.reporter.advance(0, plain.len() as u64);
                match writer.write_all(plain) {
                    Ok(()) => true,
                    Err(error) => {
                        failure = Some(broken(error));
                        false
                    }
                }
            });
            match (failure, read) {
                (Some(error), _) => Err(error),
                (None, Ok(()) | Err(ReadError::Stopped)) => Ok(()),
                (None, Err(error)) => Err(unreadable(&pack, error)),
            }
        })();
        if let Err(error) = sent {
            // The reader learns that what it has is not whole.
            let _ = writer.finish(&StreamEnd {
                error: Some(error.message.clone()),
            });
            return Err(error);
        }
    }
    writer.finish(&StreamEnd { error: None }).map_err(broken)?;
    Ok(bytes)
}
