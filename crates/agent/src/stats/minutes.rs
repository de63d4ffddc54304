//! One point a minute, 24 hours back, on disk: it outlives the agent, and costs no memory.
//!
//! A file a container, `<data-dir>/stats/<docker id>`: records of 96 bytes, little endian, the last 4 a checksum. Points are
//! appended; a record torn by a crash is seen by its checksum and cut off. When a file holds twice a day, it is written anew
//! with one day. Nothing is synced: what a power cut takes is a minute of a graph.

use super::Sample;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A day.
pub const MINUTES: usize = 24 * 60;
const DAY_MS: i64 = 24 * 3600 * 1000;
const RECORD: usize = 96;

#[derive(Debug)]
pub struct Minutes {
    dir: PathBuf,
}

impl Minutes {
    pub fn open(data_dir: &Path) -> io::Result<Self> {
        let dir = data_dir.join("stats");
        std::fs::create_dir_all(&dir)?;
        Ok(Self { dir })
    }

    fn path(&self, docker_id: &str) -> PathBuf {
        self.dir.join(docker_id)
    }

    pub fn append(&self, docker_id: &str, point: &Sample) -> io::Result<()> {
        let path = self.path(docker_id);
        let mut file = OpenOptions::new().create(true).read(true).write(true).truncate(false).open(&path)?;
        let len = file.metadata()?.len();
        let whole = len - len % RECORD as u64;
        if whole >= (2 * MINUTES * RECORD) as u64 {
            return self.rewrite(&path, &mut file, point);
        }
        // A torn record at the end is written over.
        file.seek(SeekFrom::Start(whole))?;
        file.write_all(&encode(point))?;
        if len > whole + RECORD as u64 {
            file.set_len(whole + RECORD as u64)?;
        }
        Ok(())
    }

    fn rewrite(&self, path: &Path, file: &mut File, point: &Sample) -> io::Result<()> {
        let mut points = last(file, MINUTES - 1)?;
        points.push(*point);
        let bytes: Vec<u8> = points.iter().flat_map(encode).collect();
        let new = path.with_extension("new");
        std::fs::write(&new, bytes)?;
        std::fs::rename(new, path)
    }

    /// The newest `limit` points of the day before the newest of them, oldest first.
    pub fn read(&self, docker_id: &str, limit: usize) -> io::Result<Vec<Sample>> {
        let mut file = match File::open(self.path(docker_id)) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let mut points = last(&mut file, limit.min(MINUTES))?;
        if let Some(newest) = points.last().map(|p| p.time) {
            points.retain(|p| p.time > newest - DAY_MS);
        }
        Ok(points)
    }

    pub fn forget(&self, docker_id: &str) -> io::Result<()> {
        match std::fs::remove_file(self.path(docker_id)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Removes the files of all but these.
    pub fn keep_only(&self, docker_ids: &std::collections::HashSet<String>) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let kept = entry.file_name().to_str().is_some_and(|name| docker_ids.contains(name));
            if !kept {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

fn last(file: &mut File, count: usize) -> io::Result<Vec<Sample>> {
    let len = file.metadata()?.len();
    let whole = len - len % RECORD as u64;
    let from = whole.saturating_sub((count * RECORD) as u64);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(whole - from).read_to_end(&mut bytes)?;
    // What fails its checksum was torn; the records around it stand by themselves.
    Ok(bytes.chunks_exact(RECORD).filter_map(decode).collect())
}

fn encode(s: &Sample) -> [u8; RECORD] {
    let mut out = [0; RECORD];
    let fields = [
        s.time.cast_unsigned(),
        s.cpu.to_bits(),
        s.memory,
        s.limit,
        s.rx,
        s.tx,
        s.read,
        s.write,
        s.pids,
        s.oom_kills,
        s.throttled_nanos,
    ];
    for (slot, field) in out.chunks_exact_mut(8).zip(fields) {
        slot.copy_from_slice(&field.to_le_bytes());
    }
    let sum = checksum(&out[..RECORD - 4]);
    out[RECORD - 4..].copy_from_slice(&sum.to_le_bytes());
    out
}

fn decode(bytes: &[u8]) -> Option<Sample> {
    let sum = bytes.get(RECORD - 4..RECORD)?;
    if sum != checksum(&bytes[..RECORD - 4]).to_le_bytes() {
        return None;
    }
    let mut fields = bytes
        .chunks_exact(8)
        .map(|c| c.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b)));
    let mut next = || fields.next();
    Some(Sample {
        time: next()?.cast_signed(),
        cpu: f64::from_bits(next()?),
        memory: next()?,
        limit: next()?,
        rx: next()?,
        tx: next()?,
        read: next()?,
        write: next()?,
        pids: next()?,
        oom_kills: next()?,
        throttled_nanos: next()?,
    })
}

/// FNV-1a, 32 bits (http://www.isthe.com/chongo/tech/comp/fnv/): enough to see a torn record. Of an all-zero record, which a
/// crash may leave, it is not zero.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |h, b| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193))
}

/// Gathers the seconds of a minute: rates are averaged, counters and limits are those at its end.
#[derive(Debug, Default)]
pub struct Gather {
    minute: i64,
    n: u32,
    cpu: f64,
    memory: u128,
    last: Sample,
}

impl Gather {
    /// Takes one second; gives the point of the minute before when a new one begins.
    pub fn push(&mut self, sample: &Sample) -> Option<Sample> {
        let minute = sample.time.div_euclid(60_000);
        let done = if minute == self.minute { None } else { self.take() };
        self.minute = minute;
        self.n += 1;
        self.cpu += sample.cpu;
        self.memory += u128::from(sample.memory);
        self.last = *sample;
        done
    }

    /// The point of the minute so far; what comes next begins a new one.
    pub fn take(&mut self) -> Option<Sample> {
        let gathered = std::mem::take(self);
        (gathered.n > 0).then(|| Sample {
            cpu: gathered.cpu / f64::from(gathered.n),
            memory: u64::try_from(gathered.memory / u128::from(gathered.n)).unwrap_or(u64::MAX),
            ..gathered.last
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn points_survive_and_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let minutes = Minutes::open(dir.path()).unwrap();
        assert_eq!(minutes.read("c", 10).unwrap(), []);
        for n in 0..4000 {
            minutes.append("c", &point(n)).unwrap();
        }
        let minutes = Minutes::open(dir.path()).unwrap();
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
        let minutes = Minutes::open(dir.path()).unwrap();
        for n in [0, 10, 5000] {
            minutes.append("c", &point(n)).unwrap();
        }
        assert_eq!(minutes.read("c", 10).unwrap(), [point(5000)]);
    }

    #[test]
    fn a_crash_in_the_middle_of_a_record_loses_that_record_only() {
        for torn in 1..RECORD {
            let dir = tempfile::tempdir().unwrap();
            let minutes = Minutes::open(dir.path()).unwrap();
            minutes.append("c", &point(1)).unwrap();
            let mut file = OpenOptions::new().append(true).open(minutes.path("c")).unwrap();
            file.write_all(&encode(&point(2))[..torn]).unwrap();
            assert_eq!(minutes.read("c", 10).unwrap(), [point(1)]);
            minutes.append("c", &point(3)).unwrap();
            assert_eq!(minutes.read("c", 10).unwrap(), [point(1), point(3)], "torn at {torn}");
        }
        // A whole record of garbage, as a file system may leave.
        let dir = tempfile::tempdir().unwrap();
        let minutes = Minutes::open(dir.path()).unwrap();
        std::fs::write(minutes.path("c"), [0; RECORD]).unwrap();
        minutes.append("c", &point(1)).unwrap();
        assert_eq!(minutes.read("c", 10).unwrap(), [point(1)]);
    }

    #[test]
    fn minutes_average_rates_and_keep_counters() {
        let mut gather = Gather::default();
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
