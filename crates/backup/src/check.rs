//! Proves a repository: that every snapshot's tree and every part of its files is in a pack that is there, and, of as much as is
//! asked for, that each pack is what it was when it was written.

use crate::{
    crypt,
    failure::{Result, failed, of_rustic},
    lock::Mode,
    open::{Context, Opened, open},
    read::{Blob, BlobReader},
};
use bytes::BytesMut;
use nm_types::backup::job::{CheckTask, Checked, JobError, JobErrorCode, ReadPart, RepositoryAccess};
use rustic_core::{
    CheckOptions, FileType, Id, RusticError,
    repofile::{IndexFile, IndexPack, SnapshotId},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
};

/// Findings that are told in words; more are counted.
const FINDINGS_AT_MOST: usize = 100;

#[derive(Default)]
struct Findings {
    words: Vec<String>,
    count: u64,
    damaged: BTreeSet<String>,
}

impl Findings {
    fn add(&mut self, words: String) {
        self.count += 1;
        if self.words.len() < FINDINGS_AT_MOST {
            self.words.push(words);
        }
    }
}

pub fn run(access: &RepositoryAccess, task: &CheckTask, context: &Context) -> Result<Checked> {
    let reporter = &context.reporter;
    reporter.step("open");
    let opened = open(access, Mode::Shared, None, context)?;
    let mut findings = Findings::default();
    let unreadable = |what: &str, error: &RusticError| of_rustic(what, JobErrorCode::Unreachable, error);
    let there: BTreeSet<String> = opened
        .repository
        .list::<SnapshotId>()
        .map_err(|error| unreadable("The snapshots can't be listed", &error))?
        .map(|id| id.to_hex().as_str().to_owned())
        .collect();
    for expected in &task.expect {
        if !there.contains(expected) {
            findings.add(format!("The snapshot {expected} is missing."));
        }
    }
    reporter.step("structure");
    match opened.repository.check(CheckOptions::default()) {
        // Whether anything is wrong is said by `is_ok` alone; of what is said, warnings are packs that no index names: those of a
        // backup that runs now, or was killed. The type of a level can't be named from here, its name can be read.
        Ok(results) => {
            if let Err(error) = results.is_ok() {
                let before = findings.count;
                for (level, finding) in &results.0 {
                    if format!("{level:?}") != "Warn" {
                        findings.add(finding.to_string());
                    }
                }
                if findings.count == before {
                    findings.add(error.display_log());
                }
            }
        }
        Err(error) => findings.add(format!("The structure can't be read: {}", error.display_log())),
    }
    let packs = packs(&opened, &mut findings)?;
    let listed = opened
        .store
        .list_with_size(FileType::Pack)
        .map_err(|error| unreadable("The packs can't be listed", &error))?;
    let sizes: BTreeMap<Id, u32> = listed.into_iter().collect();
    for pack in packs.values() {
        if sizes.get(&*pack.id).is_some_and(|size| *size != pack.pack_size()) {
            findings.damaged.insert(pack.id.to_hex().as_str().to_owned());
        }
    }
    let mut read = 0;
    if let Some(part) = task.read {
        reporter.step("data");
        read = read_data(&opened, &packs, part, context, &mut findings)?;
    }
    Ok(Checked {
        packs: sizes.len() as u64,
        read,
        findings: findings.words,
        finding_count: findings.count,
        damaged: findings.damaged.into_iter().collect(),
        size: size(&opened)?,
    })
}

/// Bytes of a repository.
pub fn size(opened: &Opened) -> Result<u64> {
    let mut size = 0;
    for kind in [FileType::Pack, FileType::Index, FileType::Snapshot, FileType::Key, FileType::Config] {
        let files = opened
            .store
            .list_with_size(kind)
            .map_err(|error| of_rustic("The repository can't be listed", JobErrorCode::Unreachable, &error))?;
        size += files.iter().map(|(_, size)| u64::from(*size)).sum::<u64>();
    }
    Ok(size)
}

/// What the index says of the packs that are in use.
fn packs(opened: &Opened, findings: &mut Findings) -> Result<BTreeMap<Id, IndexPack>> {
    let files = opened
        .repository
        .stream_files::<IndexFile>()
        .map_err(|error| of_rustic("The index can't be listed", JobErrorCode::Unreachable, &error))?;
    let mut packs = BTreeMap::new();
    for file in files {
        match file {
            Ok((_, index)) => packs.extend(index.packs.into_iter().map(|pack| (*pack.id, pack))),
            Err(error) => findings.add(finding(of_rustic(
                "A file of the index can't be read",
                JobErrorCode::Damaged,
                &error,
            ))?),
        }
    }
    Ok(packs)
}

/// What is wrong, in words. A destination that could not be asked is no finding: nothing was learnt of what is there.
fn finding(error: JobError) -> Result<String> {
    if error.code == JobErrorCode::Damaged {
        Ok(error.message)
    } else {
        Err(error)
    }
}

fn read_data(opened: &Opened, packs: &BTreeMap<Id, IndexPack>, part: ReadPart, context: &Context, findings: &mut Findings) -> Result<u64> {
    if part.of == 0 || part.n == 0 || part.n > part.of {
        return Err(failed(
            JobErrorCode::Internal,
            format!("There is no part {} of {}. Parts go from 1.", part.n, part.of),
        ));
    }
    // By the name, which is a hash: parts are alike in size, and a pack stays in its part.
    let chosen: Vec<&IndexPack> = packs
        .values()
        .filter(|pack| u32::from_str_radix(&pack.id.to_hex().as_str()[..8], 16).unwrap_or(0) % part.of == part.n - 1)
        .collect();
    context
        .reporter
        .expect(chosen.len() as u64, chosen.iter().map(|pack| u64::from(pack.pack_size())).sum());
    let next = AtomicUsize::new(0);
    let read = AtomicU64::new(0);
    let (found, away) = (Mutex::new(findings), Mutex::new(None));
    let readers: Vec<BlobReader> = (0..crate::restore::threads()).map(|_| opened.reader()).collect::<Result<_>>()?;
    thread::scope(|scope| {
        for mut reader in readers {
            let (next, read, found, away, chosen) = (&next, &read, &found, &away, &chosen);
            scope.spawn(move || {
                while let Some(pack) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match read_pack(opened, &mut reader, pack) {
                        Ok(bytes) => {
                            read.fetch_add(bytes, Ordering::Relaxed);
                        }
                        Err(error) => match finding(error) {
                            Ok(words) => {
                                let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                                found.add(words);
                                found.damaged.insert(pack.id.to_hex().as_str().to_owned());
                            }
                            Err(error) => {
                                next.store(chosen.len(), Ordering::Relaxed);
                                away.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                            }
                        },
                    }
                    context.reporter.advance(1, u64::from(pack.pack_size()));
                }
            });
        }
    });
    match away.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(read.into_inner()),
    }
}

/// The bytes that were read, or what is wrong.
fn read_pack(opened: &Opened, reader: &mut BlobReader, pack: &IndexPack) -> Result<u64> {
    let name = pack.id.to_hex();
    let damaged = |why: &str| failed(JobErrorCode::Damaged, format!("The pack {} is damaged: {why}.", name.as_str()));
    let unreadable =
        |error: Box<RusticError>| of_rustic(&format!("The pack {} can't be read", name.as_str()), JobErrorCode::Damaged, &error);
    let bytes = opened.store.read_full(FileType::Pack, &pack.id).map_err(unreadable)?;
    let length = bytes.len();
    if crypt::hash(&bytes) != *pack.id {
        return Err(damaged("its bytes are not those that were written"));
    }
    let mut bytes: BytesMut = bytes.into();
    let mut seen = 0;
    for blob in &pack.blobs {
        let location = blob.location;
        let blob = Blob {
            id: *blob.id,
            offset: location.offset,
            length: location.length,
            unpacked: location.uncompressed_length.map(std::num::NonZeroU32::get),
        };
        let from = blob.offset as usize;
        let sealed = bytes
            .get_mut(from..from + blob.length as usize)
            .ok_or_else(|| damaged("it is shorter than the index says"))?;
        let plain = reader.unseal(sealed, &blob, true).map_err(|error| damaged(&error.to_string()))?;
        if plain.len() as u64 != blob.size() {
            let blob = blob.id.to_hex();
            return Err(damaged(&format!(
                "the blob {} has another length than the index says",
                blob.as_str()
            )));
        }
        seen += u64::from(blob.length);
    }
    // The header: 41 or 37 bytes for each blob, its frame of 32, and its length.
    if (length as u64) <= seen {
        return Err(damaged("its header is missing"));
    }
    Ok(length as u64)
}
