//! The machine: what it is ([`facts`]), and what it uses, once a second.
//!
//! What changes fast and lies in memory is read by the thread that samples containers ([`sampler`], [`procfs`]). What changes
//! slowly, costs more or may hang is looked at every ten seconds by a thread of its own ([`slow`]): file systems
//! ([`disks`]), temperature ([`thermal`]), and which interfaces are the machine's own ([`interfaces`]). Its [`addresses`] are read when they are asked for. Should that thread hang
//! on a dead disk, its last figures stand and everything else goes on.

pub(crate) mod addresses;
mod disks;
mod facts;
mod interfaces;
mod procfs;
mod sample;
mod sampler;
mod slow;
mod thermal;

pub use facts::{Host, memory};
pub use sampler::MachineSampler;

use crate::stats::minutes::Minutes;
use crate::stats::ring::Ring;
use nm_types::host::NodeStats;
use sample::Sample;
use slow::{Request, Slow};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;
use tokio::sync::oneshot;

/// The machine's file in the folder of [`Minutes`].
const MINUTES: &str = "minutes";
/// How long somebody who wants fresh figures waits for disks that do not answer.
const FRESH: Duration = Duration::from_secs(2);

/// Where the kernel's files are. Tests have some of their own.
#[derive(Debug, Clone)]
pub struct Roots {
    pub proc: PathBuf,
    pub sys: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self {
            proc: "/proc".into(),
            sys: "/sys".into(),
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    ring: Mutex<Ring<Sample>>,
    slow: Mutex<Slow>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these locks, and each value is swapped in whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn ring(&self) -> MutexGuard<'_, Ring<Sample>> {
        lock(&self.ring)
    }
    fn slow(&self) -> MutexGuard<'_, Slow> {
        lock(&self.slow)
    }
}

/// What the machine uses. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Machine {
    shared: Arc<Shared>,
    minutes: Arc<Minutes<Sample>>,
    requests: mpsc::Sender<Request>,
}

impl Machine {
    /// The handle, and the end that does the work, to be given to the sampler's thread.
    pub fn new(data_dir: &Path, roots: Roots) -> std::io::Result<(Self, MachineSampler)> {
        let minutes = Arc::new(Minutes::open(data_dir.join("host"))?);
        let shared = Arc::<Shared>::default();
        let (requests, received) = mpsc::channel();
        let sampler = MachineSampler::new(roots, shared.clone(), minutes.clone(), received);
        Ok((Self { shared, minutes, requests }, sampler))
    }

    /// The newest second; `None` before the first.
    pub fn newest(&self) -> Option<NodeStats> {
        let sample = self.shared.ring().newest()?.clone();
        Some(sample.stats(&self.shared.slow().names))
    }

    /// The newest second with disks and temperature looked at anew, if they answer in time; `None` before the first.
    pub async fn fresh(&self) -> Option<NodeStats> {
        let (answer, answered) = oneshot::channel();
        // Without the thread, or where it hangs, what is known stands.
        if self.requests.send(answer).is_ok() {
            let _looked_or_not = tokio::time::timeout(FRESH, answered).await;
        }
        let mut sample = self.shared.ring().newest()?.clone();
        let slow = self.shared.slow();
        sample.look_at(&slow);
        Some(sample.stats(&slow.names))
    }

    /// The newest `limit` seconds, oldest first.
    pub fn seconds(&self, limit: usize) -> Vec<NodeStats> {
        let samples: Vec<Sample> = self.shared.ring().last(limit).cloned().collect();
        let slow = self.shared.slow();
        samples.iter().map(|s| s.stats(&slow.names)).collect()
    }

    /// The newest `limit` minutes of the last 24 hours, oldest first. Reads a file.
    pub fn minutes(&self, limit: usize) -> std::io::Result<Vec<NodeStats>> {
        let points = self.minutes.read(MINUTES, limit)?;
        let slow = self.shared.slow();
        Ok(points.iter().map(|p| p.stats(&slow.names)).collect())
    }
}
