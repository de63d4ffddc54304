//! The journal's files: `<data-dir>/journal/<when it was begun>-<first number>.jsonl`, a line of JSON an event.
//!
//! A file takes 1,000 events or 800 KiB; ten files are kept. A line torn by a crash is cut off at the next start: it was told to
//! nobody, so its number may be given again. A line that can't be read, in the middle, leaves its number out.

use super::Entry;
use nm_link::contract::{JournalEnd, JournalEvent};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const SEGMENTS: usize = 10;
const SEGMENT_EVENTS: u64 = 1000;
const SEGMENT_BYTES: u64 = 800 << 10;

#[derive(Serialize, Deserialize)]
struct Line {
    seq: i64,
    #[serde(flatten)]
    entry: Entry,
}

#[derive(Debug, Clone, Copy)]
struct Segment {
    /// The number of its first event.
    first: i64,
    events: u64,
    bytes: u64,
}

#[derive(Debug)]
pub struct Segments {
    dir: PathBuf,
    journal: i64,
    /// Oldest first; there is always one.
    kept: VecDeque<Segment>,
    /// The newest, to be written to.
    file: File,
    next: i64,
    /// The newest number that is on disk for good.
    synced: i64,
}

fn path(dir: &Path, journal: i64, first: i64) -> PathBuf {
    // Padded, so that people who list the folder see them in order.
    dir.join(format!("{journal}-{first:012}.jsonl"))
}

/// A file's journal and first number.
fn parse(path: &Path) -> Option<(i64, i64)> {
    let (journal, first) = path.file_name()?.to_str()?.strip_suffix(".jsonl")?.split_once('-')?;
    Some((journal.parse().ok()?, first.parse().ok()?))
}

fn read_lines(path: &Path) -> io::Result<Vec<(Option<Line>, u64)>> {
    let bytes = std::fs::read(path)?;
    let lines = bytes.split_inclusive(|b| *b == b'\n');
    Ok(lines
        .map(|line| {
            let whole = line.strip_suffix(b"\n").and_then(|l| serde_json::from_slice(l).ok());
            (whole, line.len() as u64)
        })
        .collect())
}

impl Segments {
    /// Opens the newest journal there is, or begins one at `now`, unix milliseconds. `replay` is given every event of it.
    pub fn open(dir: PathBuf, now: i64, mut replay: impl FnMut(&Entry)) -> io::Result<Self> {
        std::fs::create_dir_all(&dir)?;
        let mut files: Vec<(i64, i64)> = Vec::new();
        for entry in std::fs::read_dir(&dir)? {
            files.extend(parse(&entry?.path()));
        }
        files.sort_unstable();
        let journal = files.last().map_or(now, |(journal, _)| *journal);
        let mut kept = VecDeque::new();
        let mut next = 1;
        for (other, first) in files {
            let path = path(&dir, other, first);
            if other != journal {
                std::fs::remove_file(path)?;
                continue;
            }
            let mut segment = Segment {
                first,
                events: 0,
                bytes: 0,
            };
            let mut read = 0;
            next = next.max(first);
            for (line, bytes) in read_lines(&path)? {
                read += bytes;
                if let Some(line) = line {
                    replay(&line.entry);
                    next = next.max(line.seq + 1);
                    segment.events += 1;
                    // What can't be read counts with the line behind it, and behind the last it is cut off.
                    segment.bytes = read;
                }
            }
            kept.push_back(segment);
        }
        if kept.is_empty() {
            kept.push_back(Segment {
                first: next,
                events: 0,
                bytes: 0,
            });
        }
        let newest = kept[kept.len() - 1];
        let file = append_to(&path(&dir, journal, newest.first))?;
        file.set_len(newest.bytes)?;
        file.sync_all()?;
        sync_dir(&dir)?;
        Ok(Self {
            dir,
            journal,
            kept,
            file,
            next,
            synced: next - 1,
        })
    }

    pub fn journal(&self) -> i64 {
        self.journal
    }

    /// As far as it is on disk for good.
    pub fn end(&self) -> JournalEnd {
        JournalEnd {
            journal: self.journal,
            last: self.synced,
        }
    }

    /// Writes the entries from the front until one fails; it and those behind it stay.
    pub fn append(&mut self, entries: &mut VecDeque<Entry>) -> io::Result<()> {
        while let Some(entry) = entries.front() {
            let mut line = serde_json::to_vec(&Line {
                seq: self.next,
                entry: entry.clone(),
            })?;
            line.push(b'\n');
            let length = line.len() as u64;
            let newest = self.newest();
            if newest.events >= SEGMENT_EVENTS || (newest.events > 0 && newest.bytes + length > SEGMENT_BYTES) {
                self.rotate()?;
            }
            if let Err(error) = self.file.write_all(&line) {
                // Half a line would spoil the next one.
                let whole = self.newest().bytes;
                self.file.set_len(whole)?;
                return Err(error);
            }
            let newest = self.newest();
            newest.events += 1;
            newest.bytes += length;
            self.next += 1;
            entries.pop_front();
        }
        Ok(())
    }

    fn newest(&mut self) -> &mut Segment {
        let last = self.kept.len() - 1;
        &mut self.kept[last]
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        let segment = Segment {
            first: self.next,
            events: 0,
            bytes: 0,
        };
        self.file = append_to(&path(&self.dir, self.journal, segment.first))?;
        sync_dir(&self.dir)?;
        self.kept.push_back(segment);
        while self.kept.len() > SEGMENTS
            && let Some(oldest) = self.kept.pop_front()
        {
            std::fs::remove_file(path(&self.dir, self.journal, oldest.first))?;
        }
        Ok(())
    }

    /// Leaves numbers out: those of events that there was no room for.
    pub fn skip(&mut self, events: usize) {
        self.next += i64::try_from(events).unwrap_or(i64::MAX);
    }

    /// Makes what was written stay.
    pub fn sync(&mut self) -> io::Result<()> {
        let done = self.file.sync_data();
        // A disk that fails to sync does not get better by our keeping events to ourselves.
        self.synced = self.next - 1;
        done
    }

    /// At most `limit` events behind number `after`, as far as they are on disk for good.
    pub fn read(&self, after: i64, limit: usize) -> io::Result<Vec<JournalEvent>> {
        let mut out = Vec::new();
        for (i, segment) in self.kept.iter().enumerate() {
            let ends_before = self.kept.get(i + 1).map_or(self.next, |s| s.first);
            if ends_before <= after.saturating_add(1) {
                continue;
            }
            for (line, _) in read_lines(&path(&self.dir, self.journal, segment.first))? {
                let Some(line) = line.filter(|l| l.seq > after && l.seq <= self.synced) else {
                    continue;
                };
                out.push(line.entry.numbered(line.seq));
                if out.len() == limit {
                    return Ok(out);
                }
            }
        }
        Ok(out)
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// A new file's name is on disk once its folder is.
fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nm_types::node_event::NodeEventKind as Kind;

    fn open(dir: &Path, now: i64) -> (Segments, usize) {
        let mut replayed = 0;
        let segments = Segments::open(dir.to_owned(), now, |_| replayed += 1).unwrap();
        (segments, replayed)
    }

    fn write(segments: &mut Segments, count: usize, message: &str) {
        let mut entries = (0..count)
            .map(|_| Entry::of_node(Kind::AgentStarted, 5_000_000, Some(message)))
            .collect();
        segments.append(&mut entries).unwrap();
        assert!(entries.is_empty());
        segments.sync().unwrap();
    }

    fn numbers(segments: &Segments, after: i64, limit: usize) -> Vec<i64> {
        segments.read(after, limit).unwrap().into_iter().map(|e| e.seq).collect()
    }

    #[test]
    fn numbers_go_on_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (mut segments, _) = open(dir.path(), 7);
        assert_eq!(segments.end(), JournalEnd { journal: 7, last: 0 });
        write(&mut segments, 3, "x");
        assert_eq!(numbers(&segments, 0, 10), [1, 2, 3]);
        let (mut segments, replayed) = open(dir.path(), 8);
        assert_eq!((segments.end(), replayed), (JournalEnd { journal: 7, last: 3 }, 3));
        write(&mut segments, 2, "x");
        assert_eq!((numbers(&segments, 2, 10), numbers(&segments, 0, 2)), (vec![3, 4, 5], vec![1, 2]));
        assert_eq!(numbers(&segments, 5, 10), [0; 0]);
        assert_eq!(segments.read(0, 1).unwrap()[0].time, nm_types::Timestamp(5));
    }

    #[test]
    fn what_is_not_on_disk_for_good_is_not_told() {
        let dir = tempfile::tempdir().unwrap();
        let (mut segments, _) = open(dir.path(), 7);
        let mut entries = VecDeque::from([Entry::of_node(Kind::EngineUp, 1, None)]);
        segments.append(&mut entries).unwrap();
        assert_eq!((numbers(&segments, 0, 10), segments.end().last), (vec![], 0));
        segments.sync().unwrap();
        assert_eq!((numbers(&segments, 0, 10), segments.end().last), (vec![1], 1));
    }

    #[test]
    fn it_is_bounded_in_events_and_bytes() {
        for (count, message) in [(25_000, "x".to_owned()), (20_000, "y".repeat(1000))] {
            let dir = tempfile::tempdir().unwrap();
            let (mut segments, _) = open(dir.path(), 7);
            for _ in 0..count / 500 {
                write(&mut segments, 500, &message);
            }
            let (_, kept) = open(dir.path(), 8);
            let bytes: u64 = std::fs::read_dir(dir.path())
                .unwrap()
                .map(|f| f.unwrap().metadata().unwrap().len())
                .sum();
            assert!(kept <= 10_000 && bytes <= 8 << 20, "{kept} events, {bytes} bytes");
            assert!(kept > 6000, "and no smaller than it needs to be: {kept}");
            let oldest = numbers(&segments, 0, 1)[0];
            assert_eq!(
                oldest,
                count - i64::try_from(kept).unwrap() + 1,
                "those that are left are the newest"
            );
            assert_eq!(numbers(&segments, oldest + 1500, 3), [oldest + 1501, oldest + 1502, oldest + 1503]);
        }
    }

    #[test]
    fn a_crash_in_the_middle_of_a_line_loses_that_line_only() {
        let whole = {
            let dir = tempfile::tempdir().unwrap();
            let (mut segments, _) = open(dir.path(), 7);
            write(&mut segments, 2, "x");
            std::fs::read(path(dir.path(), 7, 1)).unwrap()
        };
        let first = whole.iter().position(|b| *b == b'\n').unwrap() + 1;
        for cut in first..whole.len() {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(path(dir.path(), 7, 1), &whole[..cut]).unwrap();
            let (mut segments, _) = open(dir.path(), 8);
            assert_eq!(segments.end().last, 1, "cut at {cut}");
            write(&mut segments, 1, "new");
            let read = segments.read(0, 10).unwrap();
            assert_eq!(
                (read.len(), read[1].seq, read[1].detail.message.as_deref()),
                (2, 2, Some("new")),
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn garbage_in_the_middle_leaves_a_number_out_and_at_the_end_none() {
        let dir = tempfile::tempdir().unwrap();
        let (mut segments, _) = open(dir.path(), 7);
        write(&mut segments, 3, "x");
        let file = path(dir.path(), 7, 1);
        let text = std::fs::read_to_string(&file).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        std::fs::write(&file, format!("{}\nnonsense\n{}\n\0\0\0\0\n\0", lines[0], lines[2])).unwrap();
        let (mut segments, _) = open(dir.path(), 8);
        write(&mut segments, 1, "x");
        assert_eq!(numbers(&segments, 0, 10), [1, 3, 4]);
        segments.skip(5);
        write(&mut segments, 1, "x");
        assert_eq!(numbers(&segments, 3, 10), [4, 10]);
    }

    #[test]
    fn a_journal_that_is_lost_is_begun_under_another_name() {
        let dir = tempfile::tempdir().unwrap();
        let (mut segments, _) = open(dir.path(), 7);
        write(&mut segments, 3, "x");
        std::fs::remove_dir_all(dir.path()).unwrap();
        let (segments, _) = open(dir.path(), 8);
        assert_eq!(segments.end(), JournalEnd { journal: 8, last: 0 });
        // Files of an older one, should they come back, go.
        std::fs::write(path(dir.path(), 3, 1), "").unwrap();
        let (segments, _) = open(dir.path(), 9);
        assert_eq!(segments.end().journal, 8);
        assert!(!path(dir.path(), 3, 1).exists());
    }

    #[test]
    fn a_disk_without_room_keeps_the_numbers_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let (mut segments, _) = open(dir.path(), 7);
        write(&mut segments, 1, "x");
        // A file that can't be written to stands for the disk.
        let good = std::mem::replace(&mut segments.file, File::open(path(dir.path(), 7, 1)).unwrap());
        let mut entries = VecDeque::from([Entry::of_node(Kind::EngineUp, 1, None)]);
        assert!(segments.append(&mut entries).is_err());
        assert_eq!(entries.len(), 1, "it is kept for the next attempt");
        segments.file = good;
        segments.append(&mut entries).unwrap();
        segments.sync().unwrap();
        assert_eq!(numbers(&segments, 0, 10), [1, 2]);
    }
}
