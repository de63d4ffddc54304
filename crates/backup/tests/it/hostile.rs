//! Snapshots made to lead out of the target: by names, and by links that stand where a folder does.

use crate::support::*;
use nm_types::backup::job::JobErrorCode;
use rustic_core::{
    BackupOptions, Credentials, ParentOptions, ReadSource, ReadSourceEntry, ReadSourceOpen, Repository, RepositoryBackends,
    RepositoryOptions, RusticResult, SnapshotOptions,
    repofile::{Metadata, Node, NodeType},
};
use std::{ffi::OsStr, fs, io::Cursor, path::PathBuf, sync::Arc};

struct Hostile(Vec<(PathBuf, &'static str, NodeType)>);

struct Open;

impl ReadSourceOpen for Open {
    type Reader = Cursor<&'static [u8]>;
    fn open(self) -> RusticResult<Self::Reader> {
        Ok(Cursor::new(b"evil"))
    }
}

impl ReadSource for Hostile {
    type Open = Open;
    type Iter = std::vec::IntoIter<RusticResult<ReadSourceEntry<Open>>>;
    fn size(&self) -> RusticResult<Option<u64>> {
        Ok(None)
    }
    fn entries(&self) -> Self::Iter {
        let entries: Vec<_> = self
            .0
            .iter()
            .map(|(path, name, kind)| {
                let meta = Metadata {
                    mode: Some(0o644),
                    ..Metadata::default()
                };
                Ok(ReadSourceEntry {
                    path: path.clone(),
                    node: Node::new_node(OsStr::new(name), kind.clone(), meta),
                    open: (*kind == NodeType::File).then_some(Open),
                })
            })
            .collect();
        entries.into_iter()
    }
}

/// The id of a snapshot of these entries.
fn snapshot(lab: &Lab, entries: Vec<(PathBuf, &'static str, NodeType)>) -> String {
    let folder = Arc::new(nm_backup::local::LocalFolder::new(lab.repository()));
    let options = RepositoryOptions::default().no_cache(true);
    let repository = Repository::new(&options, &RepositoryBackends::new(folder, None))
        .unwrap()
        .open(&Credentials::password(PASSWORD))
        .unwrap()
        .to_indexed_ids()
        .unwrap();
    let options = BackupOptions::default().parent_opts(ParentOptions::default().force(true));
    let made = repository
        .archive(
            &options,
            &Hostile(entries),
            SnapshotOptions::default().to_snapshot().unwrap(),
            &[PathBuf::from("/data")],
        )
        .unwrap();
    made.id.to_hex().as_str().to_owned()
}

#[test]
fn nothing_leaves_the_target_whatever_the_snapshot_says() {
    let lab = Lab::new();
    fs::write(lab.source().join("file"), b"x").unwrap();
    lab.full("a");
    fs::create_dir(lab.path("host")).unwrap();
    fs::write(lab.path("host/passwd"), b"the host's").unwrap();
    let target = lab.path("target");
    fs::create_dir(&target).unwrap();
    let host = NodeType::from_link(&lab.path("host"));
    let cases: Vec<Vec<(PathBuf, &str, NodeType)>> = vec![
        vec![("/data/x".into(), "../host/passwd", NodeType::File)],
        vec![("/data/x".into(), "..", NodeType::File)],
        vec![("/data/x".into(), "/etc/evil", NodeType::File)],
        // A link and a folder of one name, in either order.
        vec![
            ("/data/a".into(), "a", host.clone()),
            ("/data/a".into(), "a", NodeType::Dir),
            ("/data/a/passwd".into(), "passwd", NodeType::File),
        ],
        vec![
            ("/data/a".into(), "a", NodeType::Dir),
            ("/data/a/passwd".into(), "passwd", NodeType::File),
            ("/data/a".into(), "a", host),
        ],
    ];
    for (n, entries) in cases.into_iter().enumerate() {
        let id = snapshot(&lab, entries);
        for replace in [true, false] {
            let mut task = lab.restore_task(&id, &target);
            task.items[0].replace = replace;
            let error = lab.try_restore(task).unwrap_err();
            assert!(
                matches!(error.code, JobErrorCode::Forbidden | JobErrorCode::NotWritable),
                "{n}: {}",
                error.message
            );
            assert_eq!(fs::read(lab.path("host/passwd")).unwrap(), b"the host's", "{n}");
            assert_eq!(fs::read_dir(lab.path("host")).unwrap().count(), 1, "{n}");
            assert_eq!(fs::read_dir(&target).unwrap().count(), 0, "{n}");
            assert!(!std::path::Path::new("/etc/evil").exists());
        }
    }
}
