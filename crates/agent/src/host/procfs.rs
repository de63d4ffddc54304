//! What the kernel's files say. All parsers are pure.

use crate::stats::cgroup::number;
use nm_types::host::{MemoryStats, PressureStats};

/// CPU time since the machine started, in the kernel's ticks, over all cores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuTimes {
    pub busy: u64,
    pub total: u64,
}

impl CpuTimes {
    /// Percent of all cores that were busy since `before`.
    pub fn percent_since(&self, before: &Self) -> f64 {
        // The kernel's idle and iowait may step back a little (proc(5)); what comes out stays between 0 and 100.
        let total = self.total.saturating_sub(before.total);
        let busy = self.busy.saturating_sub(before.busy).min(total);
        if total == 0 { 0.0 } else { busy as f64 * 100.0 / total as f64 }
    }
}

/// Of `/proc/stat`: `cpu  user nice system idle iowait irq softirq steal guest guest_nice`. Guests are in user and nice already;
/// time that the hypervisor took counts as busy, since programs could not have it.
pub fn cpu_times(text: &[u8]) -> Option<CpuTimes> {
    let line = text.split(|b| *b == b'\n').find_map(|l| l.strip_prefix(b"cpu "))?;
    let times: Vec<u64> = words(line).map_while(number).take(8).collect();
    let [_, _, _, idle, ..] = times[..] else { return None };
    let waiting = times.get(4).copied().unwrap_or(0);
    let total: u64 = times.iter().fold(0, |sum, t| sum.saturating_add(*t));
    Some(CpuTimes {
        busy: total.saturating_sub(idle).saturating_sub(waiting),
        total,
    })
}

/// Of `/proc/loadavg`: `0.20 0.18 0.12 1/80 11206`.
pub fn load(text: &[u8]) -> Option<[f64; 3]> {
    let text = std::str::from_utf8(text).ok()?;
    let mut loads = text.split(' ').map(str::parse::<f64>);
    Some([loads.next()?.ok()?, loads.next()?.ok()?, loads.next()?.ok()?])
}

/// Of `/proc/meminfo`. Kernels before 3.14 do not say what is available; free memory and caches stand for it there.
pub fn memory(text: &[u8]) -> Option<MemoryStats> {
    let mut stats = MemoryStats::default();
    let (mut total, mut available, mut reclaimable, mut swap_free) = (None, None, 0u64, 0);
    for line in text.split(|b| *b == b'\n') {
        let Some(colon) = line.iter().position(|b| *b == b':') else {
            continue;
        };
        let Some(bytes) = words(&line[colon + 1..])
            .next()
            .and_then(number)
            .map(|kib| kib.saturating_mul(1024))
        else {
            continue;
        };
        match &line[..colon] {
            b"MemTotal" => total = Some(bytes),
            b"MemAvailable" => available = Some(bytes),
            b"MemFree" | b"Buffers" | b"Cached" => reclaimable = reclaimable.saturating_add(bytes),
            b"SwapTotal" => stats.swap_total = bytes,
            b"SwapFree" => swap_free = bytes,
            _ => {}
        }
    }
    stats.total = total?;
    stats.available = available.unwrap_or(reclaimable).min(stats.total);
    stats.swap_used = stats.swap_total.saturating_sub(swap_free);
    Some(stats)
}

/// Seconds since the machine started, of `/proc/uptime`: `350735.47 234388.90`.
pub fn uptime(text: &[u8]) -> Option<u64> {
    let end = text.iter().position(|b| matches!(b, b'.' | b' '))?;
    number(&text[..end])
}

/// What one file of `/proc/pressure` says of the last ten seconds, `some` and `full`:
/// `some avg10=1.53 avg60=0.87 avg300=0.73 total=87326`. `full` is absent of the CPU on older kernels.
pub fn stalled(text: &[u8]) -> Option<(f64, f64)> {
    let text = std::str::from_utf8(text).ok()?;
    let share = |kind: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(kind)?.strip_prefix(' '))?;
        line.split(' ').find_map(|w| w.strip_prefix("avg10="))?.parse::<f64>().ok()
    };
    Some((share("some")?, share("full").unwrap_or(0.0)))
}

/// The three files together; a kernel that has one of them has all.
pub fn pressure(cpu: (f64, f64), memory: (f64, f64), io: (f64, f64)) -> PressureStats {
    PressureStats {
        cpu_some: cpu.0,
        memory_some: memory.0,
        memory_full: memory.1,
        io_some: io.0,
        io_full: io.1,
    }
}

/// Counters of one interface since it is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    pub rx: u64,
    pub tx: u64,
    pub packets: u64,
    pub errors: u64,
    pub dropped: u64,
}

/// Each interface of `/proc/net/dev`.
pub fn net_dev(text: &[u8]) -> impl Iterator<Item = (&str, Counters)> {
    text.split(|b| *b == b'\n').filter_map(|line| {
        let colon = line.iter().position(|b| *b == b':')?;
        let name = std::str::from_utf8(line[..colon].trim_ascii()).ok()?;
        // Received: bytes packets errs drop fifo frame compressed multicast; sent: bytes packets errs drop …
        let mut n = [0; 12];
        let mut numbers = words(&line[colon + 1..]).map(number);
        for slot in &mut n {
            *slot = numbers.next()??;
        }
        let counters = Counters {
            rx: n[0],
            tx: n[8],
            packets: n[1].saturating_add(n[9]),
            errors: n[2].saturating_add(n[10]),
            dropped: n[3].saturating_add(n[11]),
        };
        Some((name, counters))
    })
}

fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(u8::is_ascii_whitespace).filter(|w| !w.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu() {
        let times = |text: &str| cpu_times(text.as_bytes());
        // Captured on 6.18 with two cores.
        let before =
            times("cpu  93817 6976 27183 54234 1425 0 573 235 0 0\ncpu0 44097 3532 12951 30971 340 0 161 110 0 0\nintr 1\n").unwrap();
        assert_eq!(
            before,
            CpuTimes {
                busy: 128_784,
                total: 184_443
            }
        );
        let after = times("cpu  93917 6976 27183 54284 1475 0 573 235 50 0\n").unwrap();
        assert_eq!(after.percent_since(&before), 50.0, "guests are not counted twice, waiting is idle");
        assert_eq!(before.percent_since(&before), 0.0);
        assert_eq!(before.percent_since(&after), 0.0, "a clock that steps back");
        // 2.4 knew four columns.
        assert_eq!(times("cpu  1 2 3 4\n"), Some(CpuTimes { busy: 6, total: 10 }));
        for bad in ["", "cpu  1 2 3\n", "cpu0 1 2 3 4\n", "cpu  a b c d\n"] {
            assert_eq!(times(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn load_averages() {
        assert_eq!(load(b"1.88 1.90 1.29 4/209 29039\n"), Some([1.88, 1.9, 1.29]));
        assert_eq!(load(b"1.88 1.90"), None);
        assert_eq!(load(b"\xff 1 1 1"), None);
    }

    #[test]
    fn meminfo() {
        let stats = |text: &str| memory(text.as_bytes());
        let captured = "MemTotal:       24684084 kB\nMemFree:        17257828 kB\nMemAvailable:   22677552 kB\nBuffers:           48452 kB\n\
            Cached:          5410392 kB\nSwapCached:            12 kB\nActive(anon):      41056 kB\nSwapTotal:       2097148 kB\nSwapFree:        2000000 kB\nHugePages_Total:       0\n";
        let of = |kib: u64| kib << 10;
        assert_eq!(
            stats(captured),
            Some(MemoryStats {
                total: of(24_684_084),
                available: of(22_677_552),
                swap_total: of(2_097_148),
                swap_used: of(97_148)
            })
        );
        let old = stats("MemTotal: 1000 kB\nMemFree: 100 kB\nBuffers: 20 kB\nCached: 300 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n").unwrap();
        assert_eq!((old.available, old.swap_total, old.swap_used), (of(420), 0, 0));
        assert_eq!(stats("MemFree: 100 kB\n"), None);
    }

    #[test]
    fn uptimes() {
        assert_eq!(uptime(b"350735.47 234388.90\n"), Some(350_735));
        assert_eq!(uptime(b"nonsense"), None);
    }

    #[test]
    fn pressures() {
        let memory = b"some avg10=1.53 avg60=0.87 avg300=0.73 total=87326\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=12\n";
        assert_eq!(stalled(memory), Some((1.53, 0.5)));
        assert_eq!(stalled(b"some avg10=0.25 avg60=0.00 avg300=0.00 total=0\n"), Some((0.25, 0.0)));
        assert_eq!(stalled(b""), None);
    }

    #[test]
    fn interfaces() {
        let text = b"Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 753929112  311718    0    0    0     0          0         0 753929112  311718    0    0    0     0       0          0
  eth0: 491388166   13044    1    2    0     0          0         0   708998    7297    3    4    0     0       0          0
wlan0:1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16
broken: 1 2 3
";
        let all: Vec<_> = net_dev(text).collect();
        assert_eq!(all.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["lo", "eth0", "wlan0"]);
        assert_eq!(
            all[1].1,
            Counters {
                rx: 491_388_166,
                tx: 708_998,
                packets: 20_341,
                errors: 4,
                dropped: 6
            }
        );
        assert_eq!((all[2].1.rx, all[2].1.tx, all[2].1.dropped), (1, 9, 16));
    }
}
