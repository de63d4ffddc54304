//! The made-up machine of a node: what it uses, and what probes find on it.

use super::world::World;
use nm_control::service::clock::{Clock, SystemClock};
use nm_link::contract::{ProbeResult, RunProbe, RunProbes, WatchEvent};
use nm_types::host::{DiskStats, MemoryStats, NetworkStats, NodeStats, PressureStats};
use std::collections::HashSet;

const GB: u64 = 1 << 30;

#[derive(Debug)]
pub(super) struct Machine {
    stats: NodeStats,
    failing_probes: HashSet<String>,
    last_probes: Vec<RunProbe>,
}

impl Default for Machine {
    fn default() -> Self {
        let stats = NodeStats {
            cpu: 12.5,
            load: [0.5, 0.4, 0.3],
            memory: MemoryStats {
                total: 8 * GB,
                available: 5 * GB,
                swap_total: 2 * GB,
                swap_used: 0,
            },
            disks: vec![DiskStats {
                mount: "/".into(),
                device: "/dev/vda1".into(),
                kind: "ext4".into(),
                total: 100 * GB,
                used: 40 * GB,
                available: 60 * GB,
                inodes: 1_000_000,
                inodes_used: 100_000,
                read_only: false,
            }],
            network: NetworkStats {
                rx: 1_524_887,
                tx: 892_345,
                packets: 10_000,
                errors: 0,
                dropped: 0,
            },
            pressure: Some(PressureStats::default()),
            temperature: None,
            uptime: 2_592_000,
            timestamp: SystemClock.now(),
        };
        Self {
            stats,
            failing_probes: HashSet::new(),
            last_probes: Vec::new(),
        }
    }
}

impl World {
    pub(super) fn host(&self) -> NodeStats {
        self.with_machine(|machine| {
            machine.stats.timestamp = SystemClock.now();
            machine.stats.clone()
        })
    }

    pub(super) fn change_machine(&self, change: impl FnOnce(&mut NodeStats)) {
        self.with_machine(|machine| change(&mut machine.stats));
        self.tell(WatchEvent::Host {
            stats: Box::new(self.host()),
        });
    }

    pub(super) fn set_probe(&self, name: &str, ok: bool) {
        self.with_machine(|machine| {
            if ok {
                machine.failing_probes.remove(name);
            } else {
                machine.failing_probes.insert(name.to_owned());
            }
        });
    }

    pub(super) fn last_probes(&self) -> Vec<RunProbe> {
        self.with_machine(|machine| machine.last_probes.clone())
    }

    pub(super) fn probe(&self, asked: RunProbes) -> Vec<ProbeResult> {
        self.with_machine(|machine| {
            let result = |run: &RunProbe| {
                let ok = !machine.failing_probes.contains(run.probe.name.as_str());
                ProbeResult {
                    ok,
                    measured: if ok { "passed" } else { "failed" }.into(),
                    limit: "passes".into(),
                    message: if ok { "" } else { "the test says so" }.into(),
                    took: 1.0,
                }
            };
            let results = asked.probes.iter().map(result).collect();
            machine.last_probes = asked.probes;
            results
        })
    }
}
