//! One point a minute, 24 hours back, on disk: it outlives the agent, and costs no memory.
//!
//! A file for each thing that is measured: records of equal length, numbers of 64 bits, little endian, the last 4 bytes a
//! checksum. Points are appended; a record torn by a crash is seen by its checksum and cut off. When a file holds twice a day,
//! it is written anew with one day. Nothing is synced: what a power cut takes is a minute of a graph.
//!
//! Containers are in `<data-dir>/stats/<docker id>`, the machine in `<data-dir>/host/minutes`.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

/// A day.
pub const MINUTES: usize = 24 * 60;
const DAY_MS: i64 = 24 * 3600 * 1000;

/// One reading, of which a minute's readings can be made into one and kept.
pub trait Point: Clone {
    /// How many numbers it is on disk, at most.
    const NUMBERS: usize;
    /// What is averaged over a minute.
    type Sum: Default;

    /// Unix milliseconds.
    fn time(&self) -> i64;
    /// Itself as numbers.
    fn write(&self, out: &mut Vec<u64>);
    /// Of the numbers that `write` gave.
    fn read(numbers: &mut impl Iterator<Item = u64>) -> Option<Self>;
    fn add_to(&self, sum: &mut Self::Sum);
    /// The point of `n` readings, of which this was the last: rates are averaged, counters and limits are its own.
    fn average(self, sum: Self::Sum, n: u32) -> Self;
}

/// Bytes of one record.
const fn record<P: Point>() -> usize {
    (P::NUMBERS * 8 + 4).next_multiple_of(8)
}

#[derive(Debug)]
pub struct Minutes<P> {
    dir: PathBuf,
    points: PhantomData<fn() -> P>,
}

impl<P: Point> Minutes<P> {
    /// Makes the folder where it is not there.
    pub fn open(dir: PathBuf) -> io::Result<Self> {
        std::fs::create_dir_all(&dir)?;
        Ok(Self { dir, points: PhantomData })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn append(&self, name: &str, point: &P) -> io::Result<()> {
        let path = self.path(name);
        let mut file = OpenOptions::new().create(true).read(true).write(true).truncate(false).open(&path)?;
        let len = file.metadata()?.len();
        let size = record::<P>() as u64;
        let whole = len - len % size;
        if whole >= 2 * MINUTES as u64 * size {
            return self.rewrite(&path, &mut file, point);
        }
        // A torn record at the end is written over.
        file.seek(SeekFrom::Start(whole))?;
        file.write_all(&encode(point))?;
        if len > whole + size {
            file.set_len(whole + size)?;
        }
        Ok(())
    }

    fn rewrite(&self, path: &Path, file: &mut File, point: &P) -> io::Result<()> {
        let mut points = last(file, MINUTES - 1)?;
        points.push(point.clone());
        let bytes: Vec<u8> = points.iter().flat_map(encode).collect();
        let new = path.with_extension("new");
        std::fs::write(&new, bytes)?;
        std::fs::rename(new, path)
    }

    /// The newest `limit` points of the day before the newest of them, oldest first.
    pub fn read(&self, name: &str, limit: usize) -> io::Result<Vec<P>> {
        let mut file = match File::open(self.path(name)) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let mut points: Vec<P> = last(&mut file, limit.min(MINUTES))?;
        if let Some(newest) = points.last().map(P::time) {
            points.retain(|p| p.time() > newest - DAY_MS);
        }
        Ok(points)
    }

    pub fn forget(&self, name: &str) -> io::Result<()> {
        match std::fs::remove_file(self.path(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Removes the files of all but these.
    pub fn keep_only(&self, names: &std::collections::HashSet<String>) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let kept = entry.file_name().to_str().is_some_and(|name| names.contains(name));
            if !kept {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

fn last<P: Point>(file: &mut File, count: usize) -> io::Result<Vec<P>> {
    let len = file.metadata()?.len();
    let size = record::<P>();
    let whole = len - len % size as u64;
    let from = whole.saturating_sub((count * size) as u64);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(whole - from).read_to_end(&mut bytes)?;
    // What fails its checksum was torn; the records around it stand by themselves.
    Ok(bytes.chunks_exact(size).filter_map(decode).collect())
}

fn encode<P: Point>(point: &P) -> Vec<u8> {
    let mut numbers = Vec::with_capacity(P::NUMBERS);
    point.write(&mut numbers);
    debug_assert!(numbers.len() <= P::NUMBERS, "more numbers than there is room for");
    let mut out = vec![0; record::<P>()];
    let end = out.len() - 4;
    for (slot, number) in out[..end].chunks_exact_mut(8).zip(numbers) {
        slot.copy_from_slice(&number.to_le_bytes());
    }
    let sum = checksum(&out[..end]);
    out[end..].copy_from_slice(&sum.to_le_bytes());
    out
}

fn decode<P: Point>(bytes: &[u8]) -> Option<P> {
    let (content, sum) = bytes.split_last_chunk::<4>()?;
    if *sum != checksum(content).to_le_bytes() {
        return None;
    }
    let (numbers, _) = content.as_chunks::<8>();
    P::read(&mut numbers.iter().map(|n| u64::from_le_bytes(*n)))
}

/// FNV-1a, 32 bits (http://www.isthe.com/chongo/tech/comp/fnv/): enough to see a torn record. Of an all-zero record, which a
/// crash may leave, it is not zero.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |h, b| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193))
}

/// Gathers the seconds of a minute.
#[derive(Debug)]
pub struct Gather<P: Point> {
    minute: i64,
    n: u32,
    sum: P::Sum,
    last: Option<P>,
}

impl<P: Point> Default for Gather<P> {
    fn default() -> Self {
        Self {
            minute: 0,
            n: 0,
            sum: P::Sum::default(),
            last: None,
        }
    }
}

impl<P: Point> Gather<P> {
    /// Takes one second; gives the point of the minute before when a new one begins.
    pub fn push(&mut self, sample: &P) -> Option<P> {
        let minute = sample.time().div_euclid(60_000);
        let done = if minute == self.minute { None } else { self.take() };
        self.minute = minute;
        self.n += 1;
        sample.add_to(&mut self.sum);
        self.last = Some(sample.clone());
        done
    }

    /// The point of the minute so far; what comes next begins a new one.
    pub fn take(&mut self) -> Option<P> {
        let gathered = std::mem::take(self);
        gathered.last.map(|last| last.average(gathered.sum, gathered.n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Sample;

    const RECORD: usize = 96;

    fn point(n: i64) -> Sample {
        Sample {
            time: n * 60_000,
            cpu: n as f64 / 3.0,
            memory: n.cast_unsigned(),
            limit: 5,
            rx: u64::MAX,
            tx: 1,
            read: 2,
            write: 3,
            pids: 4,
            oom_kills: 5,
            throttled_nanos: 6,
        }
    }

    #[test]
    fn the_format_of_released_agents_is_kept() {
        let bytes = encode(&point(1));
        assert_eq!(bytes.len(), RECORD);
        assert_eq!(bytes[..8], 60_000u64.to_le_bytes());
        assert_eq!(bytes[80..88], 6u64.to_le_bytes());
        assert_eq!(bytes[92..], checksum(&bytes[..92]).to_le_bytes());
    }

    #[test]
    fn points_survive_and_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let minutes = Minutes::<Sample>::open(dir.path().join("stats")).unwrap();
        assert_eq!(minutes.read("c", 10).unwrap(), []);
        for n in 0..4000 {
            minutes.append("c", &point(n)).unwrap();
        }
        let minutes = Minutes::<Sample>::open(dir.path().join("stats")).unwrap();
        let all = minutes.read("c", usize::MAX).unwrap();
        assert_eq!(
            (all.len(), all[0], all[MINUTES - 1]),
            (MINUTES, point(4000 - MINUTES as i64), point(3999))
        );
        assert_eq!(minutes.read("c", 2).unwrap(), [point(3998), point(3999)]);
        assert!(std::fs::metadata(minutes.path("c")).unwrap().len() <= (2 * MINUTES * RECORD) as u64);
    }

    #[test]
    fn older_than_a_day_is_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let minutes = Minutes::<Sample>::open(dir.path().join("stats")).unwrap();
        for n in [0, 10, 5000] {
            minutes.append("c", &point(n)).unwrap();
        }
        assert_eq!(minutes.read("c", 10).unwrap(), [point(5000)]);
    }

    #[test]
    fn a_crash_in_the_middle_of_a_record_loses_that_record_only() {
        for torn in 1..RECORD {
            let dir = tempfile::tempdir().unwrap();
            let minutes = Minutes::<Sample>::open(dir.path().join("stats")).unwrap();
            minutes.append("c", &point(1)).unwrap();
            let mut file = OpenOptions::new().append(true).open(minutes.path("c")).unwrap();
            file.write_all(&encode(&point(2))[..torn]).unwrap();
            assert_eq!(minutes.read("c", 10).unwrap(), [point(1)]);
            minutes.append("c", &point(3)).unwrap();
            assert_eq!(minutes.read("c", 10).unwrap(), [point(1), point(3)], "torn at {torn}");
        }
        // A whole record of garbage, as a file system may leave.
        let dir = tempfile::tempdir().unwrap();
        let minutes = Minutes::<Sample>::open(dir.path().join("stats")).unwrap();
        std::fs::write(minutes.path("c"), [0; RECORD]).unwrap();
        minutes.append("c", &point(1)).unwrap();
        assert_eq!(minutes.read("c", 10).unwrap(), [point(1)]);
    }

    #[test]
    fn minutes_average_rates_and_keep_counters() {
        let mut gather = Gather::<Sample>::default();
        for second in 0..60 {
            let sample = Sample {
                time: 600_000 + second * 1000,
                cpu: second as f64,
                memory: 100,
                rx: second.cast_unsigned(),
                ..Sample::default()
            };
            assert_eq!(gather.push(&sample), None);
        }
        let done = gather
            .push(&Sample {
                time: 660_000,
                ..Sample::default()
            })
            .unwrap();
        assert_eq!((done.time, done.cpu, done.memory, done.rx), (659_000, 29.5, 100, 59));
        assert!(gather.take().is_some());
        assert_eq!(gather.take(), None);
    }
}
