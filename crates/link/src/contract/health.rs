//! Probes that an agent runs.

use nm_types::health::Probe;
use serde::{Deserialize, Serialize};

/// Runs probes, all at once, each within its own time.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunProbes {
    pub probes: Vec<RunProbe>,
}

/// One probe, and where it is aimed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunProbe {
    /// A [`ContainerKey`](super::ContainerKey) as text: the container whose address is asked, or in which the program runs.
    /// The node itself where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Its own `container` is not used.
    pub probe: Probe,
}

/// What came of one probe. It never holds what a program or service wrote: whoever may read health may not read that.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeResult {
    pub ok: bool,
    /// `status 503`, `exit code 1`, `inactive`.
    pub measured: String,
    /// What it should have been.
    pub limit: String,
    /// What to make of it, where it failed.
    #[serde(default)]
    pub message: String,
    /// Milliseconds it took.
    pub took: f64,
}
