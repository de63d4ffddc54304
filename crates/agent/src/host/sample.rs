//! One reading of the machine, small enough to keep 300 of: disks are named by number, and their names are kept apart.

use super::slow::Slow;
use crate::stats::minutes::Point;
use crate::stats::round;
use nm_types::Timestamp;
use nm_types::host::{DiskStats, MemoryStats, NetworkStats, NodeStats, PressureStats};
use std::collections::HashMap;
use std::sync::Arc;

/// Disks kept in a minute's point on disk; of more, the first are kept, `/` among them.
const DISKS: usize = 16;

/// What changes fast.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Figures {
    /// Unix milliseconds.
    pub time: i64,
    /// Percent of all cores.
    pub cpu: f64,
    pub load: [f64; 3],
    pub memory: MemoryStats,
    pub network: NetworkStats,
    pub pressure: Option<PressureStats>,
    /// Seconds.
    pub uptime: u64,
}

/// A disk's figures, without its names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Disk {
    /// Of [`Name::number`].
    pub number: u64,
    pub total: u64,
    pub used: u64,
    pub available: u64,
    pub inodes: u64,
    pub inodes_used: u64,
    pub read_only: bool,
}

/// What a disk is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    pub mount: String,
    pub device: String,
    pub kind: String,
}

/// Names by number.
pub type Names = HashMap<u64, Name>;

impl Name {
    /// The same for the same names, also after a restart: FNV-1a, 64 bits.
    pub fn number(&self) -> u64 {
        let texts = [&self.mount, &self.device, &self.kind];
        let bytes = texts.iter().flat_map(|t| t.bytes().chain([0]));
        bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
    }
}

/// Parts a disk's figures from its names.
pub fn part(stats: DiskStats) -> (Disk, Name) {
    let name = Name {
        mount: stats.mount,
        device: stats.device,
        kind: stats.kind,
    };
    let disk = Disk {
        number: name.number(),
        total: stats.total,
        used: stats.used,
        available: stats.available,
        inodes: stats.inodes,
        inodes_used: stats.inodes_used,
        read_only: stats.read_only,
    };
    (disk, name)
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    pub figures: Figures,
    pub disks: Arc<[Disk]>,
    pub temperature: Option<f64>,
}

impl Sample {
    /// Takes over what was seen of what changes slowly.
    pub fn look_at(&mut self, slow: &Slow) {
        self.disks = slow.disks.clone();
        self.temperature = slow.temperature;
    }

    /// As it is told. A disk whose name nobody knows any more, for it was unmounted before the agent started, is left out.
    pub fn stats(&self, names: &Names) -> NodeStats {
        let disk = |d: &Disk| {
            let name = names.get(&d.number)?.clone();
            Some(DiskStats {
                mount: name.mount,
                device: name.device,
                kind: name.kind,
                total: d.total,
                used: d.used,
                available: d.available,
                inodes: d.inodes,
                inodes_used: d.inodes_used,
                read_only: d.read_only,
            })
        };
        let figures = &self.figures;
        let hundredths = |n: f64| round(n, 100.0);
        NodeStats {
            cpu: hundredths(figures.cpu),
            load: figures.load.map(hundredths),
            memory: figures.memory,
            disks: self.disks.iter().filter_map(disk).collect(),
            network: figures.network,
            pressure: figures.pressure.map(|p| PressureStats {
                cpu_some: hundredths(p.cpu_some),
                memory_some: hundredths(p.memory_some),
                memory_full: hundredths(p.memory_full),
                io_some: hundredths(p.io_some),
                io_full: hundredths(p.io_full),
            }),
            temperature: self.temperature.map(|t| round(t, 10.0)),
            uptime: figures.uptime,
            timestamp: Timestamp(figures.time),
        }
    }
}

/// What is averaged over a minute.
#[derive(Debug, Default)]
pub struct Sum {
    cpu: f64,
    available: u128,
    pressure: [f64; 5],
    stalls: u32,
    temperature: f64,
    warm: u32,
}

fn stalls(p: &PressureStats) -> [f64; 5] {
    [p.cpu_some, p.memory_some, p.memory_full, p.io_some, p.io_full]
}

fn of_stalls([cpu_some, memory_some, memory_full, io_some, io_full]: [f64; 5]) -> PressureStats {
    PressureStats {
        cpu_some,
        memory_some,
        memory_full,
        io_some,
        io_full,
    }
}

impl Point for Sample {
    const NUMBERS: usize = 23 + 7 * DISKS;
    type Sum = Sum;

    fn time(&self) -> i64 {
        self.figures.time
    }

    fn write(&self, out: &mut Vec<u64>) {
        let f = &self.figures;
        let (memory, network) = (&f.memory, &f.network);
        out.extend([f.time.cast_unsigned(), f.cpu.to_bits()]);
        out.extend(f.load.map(f64::to_bits));
        out.extend([memory.total, memory.available, memory.swap_total, memory.swap_used]);
        out.extend([network.rx, network.tx, network.packets, network.errors, network.dropped]);
        // Which of the optional ones are there.
        out.push(u64::from(f.pressure.is_some()) | u64::from(self.temperature.is_some()) << 1);
        out.extend(f.pressure.as_ref().map_or([0.0; 5], stalls).map(f64::to_bits));
        out.push(self.temperature.unwrap_or(0.0).to_bits());
        out.push(f.uptime);
        let kept = &self.disks[..self.disks.len().min(DISKS)];
        out.push(kept.len() as u64);
        for d in kept {
            out.extend([
                d.number,
                d.total,
                d.used,
                d.available,
                d.inodes,
                d.inodes_used,
                u64::from(d.read_only),
            ]);
        }
    }

    fn read(numbers: &mut impl Iterator<Item = u64>) -> Option<Self> {
        let mut next = || numbers.next();
        let time = next()?.cast_signed();
        let cpu = f64::from_bits(next()?);
        let load = [f64::from_bits(next()?), f64::from_bits(next()?), f64::from_bits(next()?)];
        let memory = MemoryStats {
            total: next()?,
            available: next()?,
            swap_total: next()?,
            swap_used: next()?,
        };
        let network = NetworkStats {
            rx: next()?,
            tx: next()?,
            packets: next()?,
            errors: next()?,
            dropped: next()?,
        };
        let there = next()?;
        let mut pressure = [0.0; 5];
        for stall in &mut pressure {
            *stall = f64::from_bits(next()?);
        }
        let temperature = f64::from_bits(next()?);
        let uptime = next()?;
        let count = usize::try_from(next()?).ok().filter(|n| *n <= DISKS)?;
        let mut disks = Vec::with_capacity(count);
        for _ in 0..count {
            disks.push(Disk {
                number: next()?,
                total: next()?,
                used: next()?,
                available: next()?,
                inodes: next()?,
                inodes_used: next()?,
                read_only: next()? != 0,
            });
        }
        Some(Self {
            figures: Figures {
                time,
                cpu,
                load,
                memory,
                network,
                pressure: (there & 1 != 0).then(|| of_stalls(pressure)),
                uptime,
            },
            disks: disks.into(),
            temperature: (there & 2 != 0).then_some(temperature),
        })
    }

    fn add_to(&self, sum: &mut Sum) {
        sum.cpu += self.figures.cpu;
        sum.available += u128::from(self.figures.memory.available);
        if let Some(p) = &self.figures.pressure {
            sum.stalls += 1;
            sum.pressure.iter_mut().zip(stalls(p)).for_each(|(all, one)| *all += one);
        }
        if let Some(t) = self.temperature {
            sum.warm += 1;
            sum.temperature += t;
        }
    }

    fn average(mut self, sum: Sum, n: u32) -> Self {
        self.figures.cpu = sum.cpu / f64::from(n);
        self.figures.memory.available = u64::try_from(sum.available / u128::from(n)).unwrap_or(u64::MAX);
        self.figures.pressure = (sum.stalls > 0).then(|| of_stalls(sum.pressure.map(|p| p / f64::from(sum.stalls))));
        self.temperature = (sum.warm > 0).then(|| sum.temperature / f64::from(sum.warm));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::minutes::{Gather, Minutes};

    fn disk(mount: &str, used: u64) -> DiskStats {
        DiskStats {
            mount: mount.into(),
            device: "/dev/x".into(),
            kind: "ext4".into(),
            total: 100,
            used,
            available: 90 - used,
            inodes: 10,
            inodes_used: 2,
            read_only: mount != "/",
        }
    }

    fn sample(time: i64, disks: Vec<DiskStats>) -> (Sample, Names) {
        let (disks, names): (Vec<Disk>, Vec<Name>) = disks.into_iter().map(part).unzip();
        let sample = Sample {
            figures: Figures {
                time,
                cpu: 12.5,
                load: [0.5, 1.0, 1.5],
                memory: MemoryStats {
                    total: 1000,
                    available: 600,
                    swap_total: 50,
                    swap_used: 5,
                },
                network: NetworkStats {
                    rx: 1,
                    tx: 2,
                    packets: 3,
                    errors: 4,
                    dropped: 5,
                },
                pressure: Some(of_stalls([1.0, 2.0, 3.0, 4.0, 5.0])),
                uptime: 77,
            },
            disks: disks.into(),
            temperature: Some(41.5),
        };
        (sample, names.into_iter().map(|n| (n.number(), n)).collect())
    }

    #[test]
    fn points_on_disk_are_what_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let minutes = Minutes::<Sample>::open(dir.path().join("host")).unwrap();
        let (whole, names) = sample(60_000, vec![disk("/", 50), disk("/data", 9)]);
        let mut bare = sample(120_000, Vec::new()).0;
        (bare.temperature, bare.figures.pressure) = (None, None);
        for point in [&whole, &bare] {
            minutes.append("minutes", point).unwrap();
        }
        assert_eq!(minutes.read("minutes", 10).unwrap(), [whole.clone(), bare]);
        let told = whole.stats(&names);
        assert_eq!(told.disks, [disk("/", 50), disk("/data", 9)]);
        assert_eq!((told.cpu, told.temperature, told.timestamp), (12.5, Some(41.5), Timestamp(60_000)));
        assert_eq!(whole.stats(&Names::new()).disks, []);
        // More than there is room for.
        let many = sample(180_000, (0..40).map(|n| disk(&format!("/{n}"), n)).collect()).0;
        minutes.append("minutes", &many).unwrap();
        assert_eq!(minutes.read("minutes", 1).unwrap()[0].disks[..], many.disks[..DISKS]);
    }

    #[test]
    fn minutes_average_what_is_a_rate() {
        let mut gather = Gather::<Sample>::default();
        for second in 0..60i32 {
            let (mut s, _) = sample(600_000 + i64::from(second) * 1000, vec![disk("/", second.unsigned_abs().into())]);
            s.figures.cpu = f64::from(second);
            s.figures.memory.available = second.unsigned_abs().into();
            s.figures.network.rx = second.unsigned_abs().into();
            if second % 2 == 0 {
                (s.temperature, s.figures.pressure) = (None, None);
            } else {
                s.temperature = Some(f64::from(second));
            }
            assert_eq!(gather.push(&s), None);
        }
        let point = gather.push(&sample(660_000, Vec::new()).0).unwrap();
        assert_eq!(
            (point.figures.cpu, point.figures.memory.available, point.figures.network.rx),
            (29.5, 29, 59)
        );
        assert_eq!(
            (point.temperature, point.figures.pressure),
            (Some(30.0), Some(of_stalls([1.0, 2.0, 3.0, 4.0, 5.0])))
        );
        assert_eq!((point.disks[0].used, point.figures.time), (59, 659_000));
    }
}
