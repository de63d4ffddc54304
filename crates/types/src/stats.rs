//! What containers and nodes use.

use crate::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One sample of a container. Counters run from the container's start and never fall while it runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContainerStats {
    pub container_id: String,
    /// CPU in percent of one core, over the second before `timestamp`: 150 is one and a half cores.
    pub cpu: f64,
    /// Memory in MB (MiB), page cache that can be dropped left out, as `docker stats` shows it.
    pub memory: f64,
    /// The limit in bytes; the machine's memory where none was set.
    pub memory_limit: u64,
    /// Bytes received since the container started.
    pub network_rx: u64,
    /// Bytes sent since the container started.
    pub network_tx: u64,
    /// Bytes read from block devices since the container started.
    pub block_read: u64,
    /// Bytes written to block devices since the container started.
    pub block_write: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Processes killed for want of memory since the container started.
    pub oom_kills: u64,
    /// Seconds for which the CPU limit held the container back since it started.
    pub throttled_seconds: f64,
    pub timestamp: Timestamp,
}

/// What a container uses now, in short, for lists.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Percent of one core.
    pub cpu: f64,
    /// MB (MiB).
    pub memory: f64,
}

/// How fine a history is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Resolution {
    /// One sample a second, the last 300.
    #[default]
    Second,
    /// One point a minute (averages; counters at its end), the last 24 hours.
    Minute,
}
