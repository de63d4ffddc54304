//! Which network interfaces are the machine's own, and what went over them.

use super::Roots;
use super::procfs::{self, Counters};
use nm_types::host::NetworkStats;
use std::collections::{HashMap, HashSet};

/// An interface as sysfs tells of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    /// It has a device: a card, a modem, a hypervisor's.
    pub hardware: bool,
    /// It is itself a bridge.
    pub bridge: bool,
    /// The bridge, bond or the like that it is a part of.
    pub master: Option<String>,
}

/// Made by software for software: nothing leaves the machine by them that does not leave it by another.
const VIRTUAL: &[&str] = &[
    "lo",
    "docker",
    "br-",
    "veth",
    "cni",
    "flannel",
    "cali",
    "cilium",
    "vxlan",
    "kube",
    "virbr",
    "vnet",
    "ifb",
    "dummy",
    "tun",
    "tap",
    "wg",
    "tailscale",
    "zt",
    "sit",
    "gre",
    "ip6",
    "erspan",
    "bond",
    "team",
];

/// The interfaces whose traffic is the machine's: those with hardware behind them. A machine without any is itself a container
/// or a network namespace: there, those that software did not obviously make for its own use; a `veth` that is part of no
/// bridge is then the machine's way out.
pub fn own(all: &[Interface]) -> HashSet<String> {
    let hardware: HashSet<&str> = all.iter().filter(|i| i.hardware).map(|i| i.name.as_str()).collect();
    // A virtual function under its synthetic twin (Hyper-V): the twin counts what both carry.
    let twin = |i: &Interface| i.master.as_deref().is_some_and(|m| hardware.contains(m));
    if !hardware.is_empty() {
        let own = all.iter().filter(|i| i.hardware && !twin(i));
        return own.map(|i| i.name.clone()).collect();
    }
    let free = all.iter().filter(|i| !i.bridge && i.master.is_none());
    let is_virtual = |i: &&Interface| VIRTUAL.iter().any(|prefix| i.name.starts_with(prefix));
    let (virt, real): (Vec<&Interface>, Vec<&Interface>) = free.partition(is_virtual);
    let out = if real.is_empty() {
        virt.into_iter().filter(|i| i.name.starts_with("veth")).collect()
    } else {
        real
    };
    out.into_iter().map(|i| i.name.clone()).collect()
}

/// The interfaces that are counted, and what sysfs says of them. Sysfs may be that of another network namespace than the one we
/// are in; what it does not know has nothing special about it.
pub fn look(roots: &Roots) -> Vec<Interface> {
    let counted = std::fs::read(roots.proc.join("net/dev")).unwrap_or_default();
    let interface = |name: &str| {
        let path = roots.sys.join("class/net").join(name);
        Interface {
            name: name.to_owned(),
            hardware: path.join("device").exists(),
            bridge: path.join("bridge").exists(),
            master: std::fs::read_link(path.join("master"))
                .ok()
                .and_then(|to| Some(to.file_name()?.to_string_lossy().into_owned())),
        }
    };
    procfs::net_dev(&counted).map(|(name, _)| interface(name)).collect()
}

/// Adds interfaces up so that the sum never falls, whichever of them comes, goes, or begins to count anew.
#[derive(Debug, Default)]
pub struct Traffic {
    last: HashMap<String, Counters>,
    total: NetworkStats,
}

impl Traffic {
    pub fn update<'a>(&mut self, all: impl Iterator<Item = (&'a str, Counters)>, own: &HashSet<String>) -> NetworkStats {
        for (name, now) in all.filter(|(name, _)| own.contains(*name)) {
            let before = match self.last.get_mut(name) {
                Some(last) => std::mem::replace(last, now),
                None => {
                    self.last.insert(name.to_owned(), now);
                    Counters::default()
                }
            };
            // One that begins anew has counted all it says since.
            let add = |to: &mut u64, now: u64, before: u64| *to = to.saturating_add(now.checked_sub(before).unwrap_or(now));
            add(&mut self.total.rx, now.rx, before.rx);
            add(&mut self.total.tx, now.tx, before.tx);
            add(&mut self.total.packets, now.packets, before.packets);
            add(&mut self.total.errors, now.errors, before.errors);
            add(&mut self.total.dropped, now.dropped, before.dropped);
        }
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(text: &str) -> Interface {
        let mut words = text.split(' ');
        let mut interface = Interface {
            name: words.next().unwrap().into(),
            ..Interface::default()
        };
        for word in words {
            match word {
                "hw" => interface.hardware = true,
                "bridge" => interface.bridge = true,
                master => interface.master = Some(master.into()),
            }
        }
        interface
    }

    #[test]
    fn the_machines_own() {
        for (what, all, wanted) in [
            (
                "a server with Docker",
                "lo, eth0 hw, docker0 bridge, br-1f bridge, veth1 docker0, ifb0",
                "eth0",
            ),
            (
                "a bond counts by its parts",
                "lo, eth0 hw bond0, eth1 hw bond0, bond0, bond0.100",
                "eth0 eth1",
            ),
            ("Azure's virtual function", "lo, eth0 hw, enP1 hw eth0", "eth0"),
            ("a card in a bridge", "lo, eno1 hw br0, br0 bridge, veth1 br0", "eno1"),
            ("Wi-Fi and a VPN", "lo, wlan0 hw, wg0, tun0", "wlan0"),
            ("Kubernetes without bridges", "lo, ens3 hw, cali1, cilium_host, veth2", "ens3"),
            ("inside LXC", "lo, eth0, docker0 bridge, veth9 docker0", "eth0"),
            ("a node of the lab", "lo, veth-n1, docker0 bridge, veth9 docker0", "veth-n1"),
            ("OpenVZ", "lo, venet0", "venet0"),
            ("nothing but loopback", "lo, docker0 bridge", ""),
        ] {
            let all: Vec<Interface> = all.split(", ").map(interface).collect();
            let wanted: HashSet<String> = wanted.split_whitespace().map(str::to_owned).collect();
            assert_eq!(own(&all), wanted, "{what}");
        }
    }

    #[test]
    fn sysfs_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots {
            proc: dir.path().join("proc"),
            sys: dir.path().join("sys"),
        };
        assert_eq!(look(&roots), []);
        let net = roots.sys.join("class/net");
        for folder in ["eth0/device", "docker0/bridge", "veth1", "elsewhere/device"] {
            std::fs::create_dir_all(net.join(folder)).unwrap();
        }
        std::os::unix::fs::symlink("../docker0", net.join("veth1/master")).unwrap();
        std::fs::create_dir_all(roots.proc.join("net")).unwrap();
        let line = |name: &str| format!("{name}: {}\n", "1 ".repeat(16));
        let counted = ["docker0", "eth0", "veth1", "unknown"].map(line).concat();
        std::fs::write(roots.proc.join("net/dev"), format!("Inter-|\n face |\n{counted}")).unwrap();
        assert_eq!(
            look(&roots),
            ["docker0 bridge", "eth0 hw", "veth1 docker0", "unknown"].map(interface)
        );
    }

    #[test]
    fn sums_never_fall() {
        let own: HashSet<String> = ["eth0", "wlan0"].map(str::to_owned).into();
        let mut traffic = Traffic::default();
        let mut seconds = |text: &str| {
            let all = text.split(' ').filter_map(|pair| pair.split_once('='));
            let all = all.map(|(name, rx)| {
                let rx = rx.parse().unwrap();
                (name, Counters { rx, ..Counters::default() })
            });
            traffic.update(all, &own).rx
        };
        assert_eq!(seconds("eth0=100 lo=9 docker0=9"), 100);
        assert_eq!(seconds("eth0=150 wlan0=7"), 157);
        assert_eq!(seconds("eth0=150"), 157, "one is gone");
        assert_eq!(seconds("eth0=10"), 167, "one began anew");
        assert_eq!(seconds("eth0=10 wlan0=9"), 169);
    }
}
