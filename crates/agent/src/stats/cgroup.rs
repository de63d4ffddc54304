//! The kernel's files: where they are, and what they say. All parsers are pure and allocate nothing.

use std::path::{Path, PathBuf};

/// Which files to read for a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// One hierarchy a controller; a controller that is not mounted is absent.
    V1 {
        cpu: Option<PathBuf>,
        cpuacct: Option<PathBuf>,
        memory: Option<PathBuf>,
        blkio: Option<PathBuf>,
        pids: Option<PathBuf>,
    },
    /// One hierarchy for all.
    V2 { dir: PathBuf },
}

/// A mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy<'a> {
    /// What part of the hierarchy is mounted: `/` unless in a cgroup namespace.
    root: &'a str,
    point: &'a str,
    v2: bool,
    options: &'a str,
}

/// Finds a container's folders from `/proc/self/mountinfo` and `/proc/<pid>/cgroup`; `None` where neither version holds it.
///
/// A container's program may have moved itself into a cgroup of its own below the container's (systemd in a container does): the
/// folder of the container is the one named after it, where there is such.
pub fn layout(mountinfo: &str, cgroup: &str, docker_id: &str) -> Option<Layout> {
    let mounts: Vec<Hierarchy<'_>> = mountinfo.lines().filter_map(hierarchy).collect();
    let v1 = |controller: &str| -> Option<PathBuf> {
        // `4:memory:/docker/<id>`, `2:cpu,cpuacct:/…`.
        let path = cgroup.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            controllers.split(',').any(|c| c == controller).then_some(path)
        })?;
        let mount = mounts.iter().find(|m| !m.v2 && m.options.split(',').any(|o| o == controller))?;
        Some(place(mount, path, docker_id))
    };
    let memory = v1("memory");
    let cpuacct = v1("cpuacct");
    if memory.is_some() || cpuacct.is_some() {
        return Some(Layout::V1 {
            cpu: v1("cpu"),
            cpuacct,
            memory,
            blkio: v1("blkio"),
            pids: v1("pids"),
        });
    }
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mount = mounts.iter().find(|m| m.v2)?;
    Some(Layout::V2 {
        dir: place(mount, path, docker_id),
    })
}

fn place(mount: &Hierarchy<'_>, path: &str, docker_id: &str) -> PathBuf {
    let inside = path.strip_prefix(mount.root).filter(|_| mount.root != "/").unwrap_or(path);
    let mut out = Path::new(mount.point).to_owned();
    for part in inside.split('/').filter(|p| !p.is_empty()) {
        out.push(part);
        if part.contains(docker_id) {
            break;
        }
    }
    out
}

/// `31 23 0:28 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu`: fields 4 and 5, and what follows the dash.
fn hierarchy(line: &str) -> Option<Hierarchy<'_>> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(3);
    let (root, point) = (before.next()?, before.next()?);
    let mut after = after.split(' ');
    let kind = after.next()?;
    let options = after.nth(1)?;
    matches!(kind, "cgroup" | "cgroup2").then_some(Hierarchy {
        root,
        point,
        v2: kind == "cgroup2",
        options,
    })
}

/// A file that is one number; `max` is none.
pub fn number(text: &[u8]) -> Option<u64> {
    let digits = text.trim_ascii();
    if digits.is_empty() || digits.len() > 20 {
        return None;
    }
    digits.iter().try_fold(0u64, |n, b| {
        if b.is_ascii_digit() {
            n.checked_mul(10)?.checked_add(u64::from(b - b'0'))
        } else {
            None
        }
    })
}

/// The value after `key ` at the start of a line.
pub fn field(text: &[u8], key: &[u8]) -> Option<u64> {
    let mut rest = text;
    loop {
        let end = rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
        let line = &rest[..end];
        if let Some(value) = line.strip_prefix(key).and_then(|v| v.strip_prefix(b" ")) {
            return number(value);
        }
        rest = rest.get(end + 1..)?;
    }
}

/// Bytes read and written, over all devices, of v1's `blkio.throttle.io_service_bytes_recursive`: `8:0 Read 4096`.
pub fn blkio_v1(text: &[u8]) -> (u64, u64) {
    let (mut read, mut write) = (0u64, 0u64);
    for line in text.split(|b| *b == b'\n') {
        let mut words = line.split(|b| *b == b' ');
        let (Some(_), Some(what), Some(bytes)) = (words.next(), words.next(), words.next().and_then(number)) else {
            continue;
        };
        match what {
            b"Read" => read = read.saturating_add(bytes),
            b"Write" => write = write.saturating_add(bytes),
            _ => {}
        }
    }
    (read, write)
}

/// The same of v2's `io.stat`: `8:0 rbytes=4096 wbytes=0 rios=1 …`.
pub fn io_stat_v2(text: &[u8]) -> (u64, u64) {
    let (mut read, mut write) = (0u64, 0u64);
    for word in text.split(|b| b.is_ascii_whitespace()) {
        if let Some(bytes) = word.strip_prefix(b"rbytes=").and_then(number) {
            read = read.saturating_add(bytes);
        } else if let Some(bytes) = word.strip_prefix(b"wbytes=").and_then(number) {
            write = write.saturating_add(bytes);
        }
    }
    (read, write)
}

/// Bytes received and sent over all interfaces but `lo`, of `/proc/<pid>/net/dev`.
pub fn net_dev(text: &[u8]) -> (u64, u64) {
    let (mut rx, mut tx) = (0u64, 0u64);
    for line in text.split(|b| *b == b'\n') {
        let Some(colon) = line.iter().position(|b| *b == b':') else {
            continue;
        };
        if line[..colon].trim_ascii() == b"lo" {
            continue;
        }
        let mut numbers = line[colon + 1..].split(|b| *b == b' ').filter(|w| !w.is_empty()).map(number);
        // Received bytes are the first number, sent bytes the ninth.
        if let (Some(Some(r)), Some(Some(t))) = (numbers.next(), numbers.nth(7)) {
            rx = rx.saturating_add(r);
            tx = tx.saturating_add(t);
        }
    }
    (rx, tx)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "f149cf17cdad9c43a4931d9657b1dc444e1c0a1a616f366e26d51051ccc0a549";

    const MOUNTS_V1: &str = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
38 31 0:35 / /sys/fs/cgroup/blkio rw,relatime - cgroup cgroup rw,blkio
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn v1_with_a_hierarchy_each() {
        let cgroup = format!(
            "9:name=systemd:/docker/{ID}\n8:pids:/docker/{ID}\n7:blkio:/docker/{ID}\n4:memory:/docker/{ID}\n2:cpuacct:/docker/{ID}\n1:cpu:/docker/{ID}\n0::/docker/{ID}\n"
        );
        let at = |c: &str| Some(PathBuf::from(format!("/sys/fs/cgroup/{c}/docker/{ID}")));
        assert_eq!(
            layout(MOUNTS_V1, &cgroup, ID),
            Some(Layout::V1 {
                cpu: at("cpu"),
                cpuacct: at("cpuacct"),
                memory: at("memory"),
                blkio: at("blkio"),
                pids: at("pids")
            })
        );
    }

    #[test]
    fn v1_with_joined_hierarchies_and_systemd_names() {
        let mounts = "33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let cgroup = format!("4:memory:/system.slice/docker-{ID}.scope/init.scope\n3:cpu,cpuacct:/system.slice/docker-{ID}.scope\n");
        let cpu = PathBuf::from(format!("/sys/fs/cgroup/cpu,cpuacct/system.slice/docker-{ID}.scope"));
        let memory = PathBuf::from(format!("/sys/fs/cgroup/memory/system.slice/docker-{ID}.scope"));
        assert_eq!(
            layout(mounts, &cgroup, ID),
            Some(Layout::V1 {
                cpu: Some(cpu.clone()),
                cpuacct: Some(cpu),
                memory: Some(memory),
                blkio: None,
                pids: None
            })
        );
    }

    #[test]
    fn v2_also_within_a_part_of_the_hierarchy() {
        let cgroup = format!("0::/system.slice/docker-{ID}.scope\n");
        let whole = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(
            layout(whole, &cgroup, ID),
            Some(Layout::V2 {
                dir: format!("/sys/fs/cgroup/system.slice/docker-{ID}.scope").into()
            })
        );
        let part = "30 23 0:26 /system.slice /cg rw shared:4 - cgroup2 cgroup2 rw\n";
        assert_eq!(
            layout(part, &cgroup, ID),
            Some(Layout::V2 {
                dir: format!("/cg/docker-{ID}.scope").into()
            })
        );
        assert_eq!(layout("", &cgroup, ID), None);
    }

    #[test]
    fn numbers() {
        assert_eq!(number(b"1626112\n"), Some(1_626_112));
        assert_eq!(number(b"max\n"), None);
        assert_eq!(number(b""), None);
        assert_eq!(number(b"-1\n"), None);
        assert_eq!(number(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(number(b"18446744073709551616"), None);
    }

    #[test]
    fn fields_of_captured_files() {
        // v1 memory.stat: the total counts children too, and must not be taken for the plain one.
        let memory = b"cache 856064\ninactive_file 847872\nactive_file 8192\nhierarchical_memory_limit 67108864\ntotal_inactive_file 847873\ntotal_active_file 8192\n";
        assert_eq!(field(memory, b"total_inactive_file"), Some(847_873));
        assert_eq!(field(memory, b"inactive_file"), Some(847_872));
        assert_eq!(field(memory, b"active"), None);
        assert_eq!(
            field(
                b"nr_periods 2\nnr_throttled 1\nthrottled_time 61234567\nnr_bursts 0\n",
                b"throttled_time"
            ),
            Some(61_234_567)
        );
        let cpu = b"usage_usec 28859\nuser_usec 10000\nsystem_usec 18859\nnr_periods 12\nnr_throttled 3\nthrottled_usec 44000\n";
        assert_eq!(
            (field(cpu, b"usage_usec"), field(cpu, b"throttled_usec")),
            (Some(28_859), Some(44_000))
        );
        assert_eq!(field(b"oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", b"oom_kill"), Some(2));
        assert_eq!(field(b"low 0\nhigh 0\nmax 5\noom 1\noom_kill 1", b"oom_kill"), Some(1));
    }

    #[test]
    fn block_io() {
        assert_eq!(
            blkio_v1(b"8:0 Read 4096\n8:0 Write 1024\n8:0 Sync 0\n8:0 Total 5120\n253:0 Read 4\nTotal 5124\n"),
            (4100, 1024)
        );
        assert_eq!(blkio_v1(b"Total 0\n"), (0, 0));
        assert_eq!(
            io_stat_v2(b"8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n254:0 rbytes=1 wbytes=2 rios=0 wios=0\n"),
            (4097, 8194)
        );
        assert_eq!(io_stat_v2(b""), (0, 0));
    }

    #[test]
    fn interfaces() {
        let text = b"Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:    9000      10    0    0    0     0          0         0     9000      10    0    0    0     0       0          0
  eth0:     286       3    0    0    0     0          0         0       70       1    0    0    0     0       0          0
  eth1:1000000000000 3    0    0    0     0          0         0        5       0    0    0    0     0       0          0
";
        assert_eq!(net_dev(text), (1_000_000_000_286, 75));
        assert_eq!(net_dev(b""), (0, 0));
    }
}
