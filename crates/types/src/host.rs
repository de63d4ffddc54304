//! What a node's machine uses, as its kernel counts it.

use crate::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One sample of a node's machine. Counters run from the machine's start and never fall while it runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeStats {
    /// CPU in percent of all cores together: 0 to 100.
    pub cpu: f64,
    /// The kernel's load averages over 1, 5 and 15 minutes.
    #[schema(min_items = 3, max_items = 3)]
    pub load: [f64; 3],
    pub memory: MemoryStats,
    /// Each file system that holds data of its own, `/` first.
    pub disks: Vec<DiskStats>,
    pub network: NetworkStats,
    /// Share of time in which work stood still for want of something; absent where the kernel does not tell
    /// (<https://docs.kernel.org/accounting/psi.html>).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pressure: Option<PressureStats>,
    /// The hottest sensor of the processor, in °C, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Seconds since the machine started.
    pub uptime: u64,
    pub timestamp: Timestamp,
}

/// Bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemoryStats {
    pub total: u64,
    /// What programs could still get without swapping.
    pub available: u64,
    pub swap_total: u64,
    pub swap_used: u64,
}

impl MemoryStats {
    pub fn used(&self) -> u64 {
        self.total.saturating_sub(self.available)
    }
    /// Percent of the total that is used; 0 where the total is unknown.
    pub fn used_percent(&self) -> f64 {
        percent(self.used(), self.total)
    }
}

/// One mounted file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskStats {
    pub mount: String,
    pub device: String,
    /// `ext4`, `xfs`, …
    pub kind: String,
    /// Bytes.
    pub total: u64,
    /// Bytes that are taken, those kept for root left out, as `df` counts.
    pub used: u64,
    /// Bytes that anybody can still write.
    pub available: u64,
    /// 0 where the file system has no fixed number of them.
    pub inodes: u64,
    pub inodes_used: u64,
    pub read_only: bool,
}

impl DiskStats {
    /// As `df`: of what can be used at all.
    pub fn used_percent(&self) -> f64 {
        percent(self.used, self.used.saturating_add(self.available))
    }
    pub fn inodes_percent(&self) -> f64 {
        percent(self.inodes_used, self.inodes)
    }
}

/// All interfaces of the machine itself together; loopback and those of containers left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkStats {
    /// Bytes received.
    pub rx: u64,
    /// Bytes sent.
    pub tx: u64,
    /// Packets sent and received, to see errors against.
    pub packets: u64,
    /// Packets that were broken on the way in or out.
    pub errors: u64,
    /// Packets that were thrown away for want of room.
    pub dropped: u64,
}

/// Percent of the last ten seconds in which some, or all, work waited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PressureStats {
    pub cpu_some: f64,
    pub memory_some: f64,
    pub memory_full: f64,
    pub io_some: f64,
    pub io_full: f64,
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_what_can_be_used() {
        let memory = MemoryStats {
            total: 200,
            available: 50,
            ..Default::default()
        };
        assert_eq!((memory.used(), memory.used_percent()), (150, 75.0));
        assert_eq!(MemoryStats::default().used_percent(), 0.0);
        let disk = DiskStats {
            mount: "/".into(),
            device: "/dev/sda1".into(),
            kind: "ext4".into(),
            total: 110,
            used: 90,
            available: 10,
            inodes: 0,
            inodes_used: 0,
            read_only: false,
        };
        assert_eq!((disk.used_percent(), disk.inodes_percent()), (90.0, 0.0));
    }
}
