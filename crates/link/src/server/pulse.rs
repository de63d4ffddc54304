//! When a node was last heard, over whichever way, and how the line to it is.

use crate::beat::Measured;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// One node's signs of life, over all of its links: whatever it says on a link, and its datagrams. All that counts has passed
/// TLS or a datagram's MAC.
#[derive(Debug)]
pub struct Pulse {
    any: Mark,
    datagram: Mark,
    /// [`Measured`], packed.
    measured: AtomicU64,
}

/// A moment that only moves on. It has no lock, for it is written at every read of a connection.
#[derive(Debug)]
struct Mark {
    born: Instant,
    /// Milliseconds after `born`, plus one; 0 while there is no moment.
    at: AtomicU64,
}

impl Mark {
    fn new() -> Self {
        Self {
            born: Instant::now(),
            at: AtomicU64::new(0),
        }
    }
    fn now(&self) {
        let after = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.at.fetch_max(after + 1, Ordering::Relaxed);
    }
    fn get(&self) -> Option<Instant> {
        let after = self.at.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.born + Duration::from_millis(after))
    }
}

/// How the line to a node is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LineQuality {
    /// Whether its datagrams come through; where they don't, only its link tells of it.
    pub datagrams: bool,
    /// Both as the agent measures them over a minute, there and back. Absent without datagrams.
    pub rtt: Option<Duration>,
    /// 0 to 1.
    pub loss: Option<f64>,
}

/// A node whose datagrams came within this time is one whose datagrams come through.
const RECENT: Duration = Duration::from_secs(60);

impl Pulse {
    /// Of a node that nothing was heard of yet.
    pub(super) fn new() -> Self {
        Self {
            any: Mark::new(),
            datagram: Mark::new(),
            measured: AtomicU64::new(pack(Measured::default())),
        }
    }

    /// Something came over its link.
    pub(super) fn heard_on_link(&self) {
        self.any.now();
    }

    /// A datagram of it was right in all points.
    pub(super) fn heard_by_datagram(&self, measured: Measured) {
        self.datagram.now();
        self.measured.store(pack(measured), Ordering::Relaxed);
        self.any.now();
    }

    /// When it was last heard; `None` where it never was.
    pub fn heard(&self) -> Option<Instant> {
        self.any.get()
    }

    /// When its last datagram came; `None` where none ever did.
    pub fn datagram(&self) -> Option<Instant> {
        self.datagram.get()
    }

    pub fn line(&self) -> LineQuality {
        let datagrams = self.datagram().is_some_and(|at| at.elapsed() < RECENT);
        let measured = if datagrams {
            unpack(self.measured.load(Ordering::Relaxed))
        } else {
            Measured::default()
        };
        LineQuality {
            datagrams,
            rtt: measured.rtt.map(|us| Duration::from_micros(us.into())),
            loss: measured.loss.map(|l| f64::from(l) / 1000.0),
        }
    }
}

fn pack(measured: Measured) -> u64 {
    u64::from(measured.rtt.unwrap_or(u32::MAX)) << 16 | u64::from(measured.loss.unwrap_or(u16::MAX))
}

fn unpack(packed: u64) -> Measured {
    let (rtt, loss) = ((packed >> 16) as u32, packed as u16);
    Measured {
        rtt: (rtt != u32::MAX).then_some(rtt),
        loss: (loss != u16::MAX).then_some(loss),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_line_is_what_was_measured_lately() {
        let pulse = Pulse::new();
        let unknown = LineQuality {
            datagrams: false,
            rtt: None,
            loss: None,
        };
        assert_eq!((pulse.line(), pulse.heard(), pulse.datagram()), (unknown, None, None));
        pulse.heard_by_datagram(Measured {
            rtt: Some(1500),
            loss: Some(300),
        });
        let seen = LineQuality {
            datagrams: true,
            rtt: Some(Duration::from_micros(1500)),
            loss: Some(0.3),
        };
        assert_eq!(pulse.line(), seen);
        let by_datagram = pulse.heard();
        tokio::time::advance(RECENT).await;
        pulse.heard_on_link();
        assert_eq!((pulse.line(), pulse.datagram()), (unknown, by_datagram));
        assert_eq!(pulse.heard().unwrap() - by_datagram.unwrap(), RECENT);
    }
}
