//! Reads the kernel's counters of the machine once a second, on the thread that samples containers.

use super::interfaces::Traffic;
use super::procfs::{self, CpuTimes};
use super::sample::{Figures, Sample};
use super::slow::{self, Request};
use super::{MINUTES, Roots, Shared};
use crate::stats::minutes::{Gather, Minutes};
use crate::stats::sampler::Watched;
use nm_types::host::PressureStats;
use std::sync::{Arc, mpsc};

/// `/proc/stat` has a line for each core before what else it says, and only its first line is wanted; `/proc/net/dev` has one
/// for each container.
const BUFFER: usize = 64 << 10;

/// The end of [`Machine`](super::Machine) that does the work.
pub struct MachineSampler {
    roots: Roots,
    shared: Arc<Shared>,
    minutes: Arc<Minutes<Sample>>,
    files: Files,
    cpu: Option<CpuTimes>,
    traffic: Traffic,
    gather: Gather<Sample>,
    buffer: Vec<u8>,
    /// Until the slow thread is started with the first reading.
    requests: Option<mpsc::Receiver<Request>>,
}

/// Opened once and read again and again; a file that is not there says nothing.
struct Files {
    stat: Option<Watched>,
    load: Option<Watched>,
    memory: Option<Watched>,
    net: Option<Watched>,
    uptime: Option<Watched>,
    /// CPU, memory, I/O.
    pressure: [Option<Watched>; 3],
}

impl MachineSampler {
    pub(super) fn new(roots: Roots, shared: Arc<Shared>, minutes: Arc<Minutes<Sample>>, requests: mpsc::Receiver<Request>) -> Self {
        let open = |name: &str| Watched::open(roots.proc.join(name));
        let files = Files {
            stat: open("stat"),
            load: open("loadavg"),
            memory: open("meminfo"),
            net: open("net/dev"),
            uptime: open("uptime"),
            pressure: ["pressure/cpu", "pressure/memory", "pressure/io"].map(open),
        };
        let mut sampler = Self {
            roots,
            shared,
            minutes,
            files,
            cpu: None,
            traffic: Traffic::default(),
            gather: Gather::default(),
            buffer: vec![0; BUFFER],
            requests: Some(requests),
        };
        sampler.cpu = sampler.cpu_times();
        sampler
    }

    /// Starts to look at disks and the like, so that the first second has them.
    pub fn begin(&mut self) {
        if let Some(requests) = self.requests.take() {
            slow::start(self.roots.clone(), &self.shared, requests);
        }
    }

    /// Takes one reading; `time` in unix milliseconds.
    pub fn sample(&mut self, time: i64) {
        let Some(sample) = self.read(time) else { return };
        if let Some(point) = self.gather.push(&sample) {
            self.keep(&point);
        }
        self.shared.ring().push(sample);
    }

    /// Keeps what there is of the last minute.
    pub fn end(&mut self) {
        if let Some(point) = self.gather.take() {
            self.keep(&point);
        }
    }

    fn keep(&self, point: &Sample) {
        if let Err(error) = self.minutes.append(MINUTES, point) {
            tracing::warn!(%error, "a minute of the machine's statistics could not be kept");
        }
    }

    fn cpu_times(&mut self) -> Option<CpuTimes> {
        procfs::cpu_times(self.files.stat.as_mut()?.read(&mut self.buffer)?)
    }

    /// `None` at the first reading of a CPU's times, which has nothing to compare with.
    fn read(&mut self, time: i64) -> Option<Sample> {
        let now = self.cpu_times()?;
        let before = self.cpu.replace(now)?;
        let Self {
            files, buffer, traffic, ..
        } = self;
        let load = files.load.as_mut().and_then(|f| procfs::load(f.read(buffer)?));
        let memory = files.memory.as_mut().and_then(|f| procfs::memory(f.read(buffer)?));
        let uptime = files.uptime.as_mut().and_then(|f| procfs::uptime(f.read(buffer)?));
        let pressure = pressure(&mut files.pressure, buffer);
        let own = self.shared.slow().interfaces.clone();
        let net = files.net.as_mut().and_then(|f| f.read_pages(buffer)).unwrap_or_default();
        let mut sample = Sample {
            figures: Figures {
                time,
                cpu: now.percent_since(&before),
                load: load.unwrap_or_default(),
                memory: memory.unwrap_or_default(),
                network: traffic.update(procfs::net_dev(net), &own),
                pressure,
                uptime: uptime.unwrap_or_default(),
            },
            ..Sample::default()
        };
        sample.look_at(&self.shared.slow());
        Some(sample)
    }
}

/// A kernel may have the files and yet refuse to fill them (`psi=0`).
fn pressure(files: &mut [Option<Watched>; 3], buffer: &mut [u8]) -> Option<PressureStats> {
    let mut stalled = |i: usize| -> Option<(f64, f64)> { procfs::stalled(files[i].as_mut()?.read(buffer)?) };
    Some(procfs::pressure(stalled(0)?, stalled(1)?, stalled(2)?))
}

#[cfg(test)]
mod tests {
    use super::super::Machine;
    use super::*;
    use std::path::Path;

    const STAT: &str = "cpu  100 0 0 100 0 0 0 0 0 0\ncpu0 100 0 0 100\n";

    /// A machine of files.
    fn made_up(dir: &Path) -> Roots {
        let roots = Roots {
            proc: dir.join("proc"),
            sys: dir.join("sys"),
        };
        let data = dir.join("data").display().to_string();
        std::fs::create_dir_all(&data).unwrap();
        for (file, content) in [
            ("proc/stat", STAT),
            ("proc/loadavg", "0.50 0.25 0.10 1/80 11206\n"),
            (
                "proc/meminfo",
                "MemTotal: 1000 kB\nMemAvailable: 400 kB\nSwapTotal: 10 kB\nSwapFree: 4 kB\n",
            ),
            ("proc/uptime", "350.47 234.90\n"),
            (
                "proc/net/dev",
                "h\nh\n  lo: 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9\neth0: 10 1 2 3 0 0 0 0 20 1 0 0 0 0 0 0\n",
            ),
            ("proc/self/mountinfo", &format!("28 1 8:1 / {data} rw - ext4 /dev/sda1 rw\n")),
            ("sys/class/net/eth0/device/vendor", "0x1af4\n"),
            ("sys/class/thermal/thermal_zone0/type", "x86_pkg_temp\n"),
            ("sys/class/thermal/thermal_zone0/temp", "45120\n"),
        ] {
            let path = dir.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        roots
    }

    #[tokio::test]
    async fn a_machine_is_read_whole() {
        let dir = tempfile::tempdir().unwrap();
        let roots = made_up(dir.path());
        let (machine, mut sampler) = Machine::new(&dir.path().join("agent"), roots.clone()).unwrap();
        assert_eq!((machine.newest(), machine.seconds(5)), (None, Vec::new()));
        sampler.begin();
        assert_eq!(machine.fresh().await, None, "nothing before the first second");
        std::fs::write(roots.proc.join("stat"), STAT.replace("100 0 0 100", "130 0 0 170")).unwrap();
        sampler.sample(60_000);
        let seen = machine.newest().unwrap();
        assert_eq!((seen.cpu, seen.load, seen.uptime), (30.0, [0.5, 0.25, 0.1], 350));
        assert_eq!(
            (seen.memory.total, seen.memory.used(), seen.memory.swap_used),
            (1000 << 10, 600 << 10, 6 << 10)
        );
        assert_eq!(
            (seen.network.rx, seen.network.tx, seen.network.errors, seen.network.dropped),
            (10, 20, 2, 3)
        );
        assert_eq!((seen.temperature, seen.pressure), (Some(45.1), None));
        assert_eq!((seen.disks.len(), seen.disks[0].device.as_str()), (1, "/dev/sda1"));
        assert!(seen.disks[0].total > 0);

        // Asked for anew, a disk that is gone is gone at once; what was is told with its name.
        std::fs::write(roots.proc.join("self/mountinfo"), "").unwrap();
        assert_eq!(machine.fresh().await.unwrap().disks, []);
        assert_eq!(machine.seconds(5)[0].disks.len(), 1);
        sampler.sample(120_000);
        assert_eq!(machine.minutes(5).unwrap().len(), 1, "a minute is kept when the next begins");
        sampler.end();
        let minutes = machine.minutes(5).unwrap();
        assert_eq!(minutes.iter().map(|m| m.timestamp.0).collect::<Vec<_>>(), [60_000, 120_000]);
        assert_eq!((minutes[0].disks.len(), minutes[0].cpu), (1, 30.0));
    }

    #[test]
    fn a_machine_without_files_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots {
            proc: dir.path().join("no"),
            sys: dir.path().join("no"),
        };
        let (machine, mut sampler) = Machine::new(dir.path(), roots).unwrap();
        sampler.begin();
        sampler.sample(1000);
        sampler.end();
        assert_eq!(machine.newest(), None);
    }
}
