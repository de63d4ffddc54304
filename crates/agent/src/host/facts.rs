//! The machine.

use nm_types::node::{DockerInfo, NodeInfo};

/// What does not change while the agent runs.
#[derive(Debug, Clone)]
pub struct Host {
    hostname: String,
    os: String,
    kernel: String,
    cpus: u32,
    memory: u64,
}

impl Host {
    /// Asks the kernel. What it does not say is left empty: it is for people to read.
    pub fn look() -> Self {
        let uname = nix::sys::utsname::uname();
        let part = |f: fn(&nix::sys::utsname::UtsName) -> &std::ffi::OsStr| {
            uname.as_ref().map(|u| f(u).to_string_lossy().into_owned()).unwrap_or_default()
        };
        let release = std::fs::read_to_string("/etc/os-release")
            .or_else(|_| std::fs::read_to_string("/usr/lib/os-release"))
            .unwrap_or_default();
        let online = std::fs::read_to_string("/sys/devices/system/cpu/online")
            .ok()
            .and_then(|text| ranges(&text));
        let available = || std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
        Self {
            hostname: part(|u| u.nodename()),
            os: pretty_name(&release).unwrap_or_else(|| part(|u| u.sysname())),
            kernel: part(|u| u.release()),
            cpus: online.unwrap_or_else(available),
            memory: memory().unwrap_or(0),
        }
    }

    pub fn info(&self, docker: DockerInfo) -> NodeInfo {
        NodeInfo {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            hostname: self.hostname.clone(),
            os: self.os.clone(),
            kernel: self.kernel.clone(),
            arch: std::env::consts::ARCH.to_owned(),
            cpus: self.cpus,
            memory: self.memory,
            docker,
        }
    }
}

/// The machine's memory in bytes.
pub fn memory() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? << 10)
}

/// `Debian GNU/Linux 12 (bookworm)`, of <https://www.freedesktop.org/software/systemd/man/os-release.html>.
fn pretty_name(release: &str) -> Option<String> {
    let value = release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim_matches(['"', '\'']).to_owned())
}

/// How many numbers `0-3,6` names.
fn ranges(text: &str) -> Option<u32> {
    text.trim().split(',').try_fold(0u32, |n, part| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (u32, u32) = (from.parse().ok()?, to.parse().ok()?);
        n.checked_add(to.checked_sub(from)?.checked_add(1)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_read() {
        assert_eq!(ranges("0-3,6\n"), Some(5));
        assert_eq!(ranges("0"), Some(1));
        assert_eq!(ranges(""), None);
        assert_eq!(ranges("3-0"), None);
        assert_eq!(
            pretty_name("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n").as_deref(),
            Some("Debian GNU/Linux 12 (bookworm)")
        );
        assert!(memory().unwrap() > 1 << 20);
        assert!(Host::look().cpus >= 1);
    }
}
