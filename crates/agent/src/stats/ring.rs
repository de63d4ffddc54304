//! The last 300 samples of a container, or of the machine.

pub const SECONDS: usize = 300;

/// A ring that overwrites its oldest. Its memory comes as it fills.
#[derive(Debug)]
pub struct Ring<S> {
    samples: Vec<S>,
    /// Where the oldest is, once full.
    oldest: usize,
}

impl<S> Default for Ring<S> {
    fn default() -> Self {
        Self {
            samples: Vec::new(),
            oldest: 0,
        }
    }
}

impl<S> Ring<S> {
    pub fn push(&mut self, sample: S) {
        if self.samples.len() < SECONDS {
            if self.samples.capacity() == 0 {
                // Once, to its full length: pages that are not written yet cost nothing.
                self.samples.reserve_exact(SECONDS);
            }
            self.samples.push(sample);
        } else {
            self.samples[self.oldest] = sample;
            self.oldest = (self.oldest + 1) % SECONDS;
        }
    }

    pub fn newest(&self) -> Option<&S> {
        let len = self.samples.len();
        if len == 0 {
            None
        } else {
            self.samples.get((self.oldest + len - 1) % len)
        }
    }

    /// The newest `limit`, oldest first.
    pub fn last(&self, limit: usize) -> impl Iterator<Item = &S> {
        let len = self.samples.len();
        let limit = limit.min(len);
        (len - limit..len).map(move |i| &self.samples[(self.oldest + i) % len])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Sample;

    #[test]
    fn keeps_the_newest_in_order() {
        let mut ring = Ring::default();
        assert_eq!((ring.newest(), ring.last(5).count()), (None, 0));
        for n in 0..1000 {
            ring.push(Sample {
                time: n,
                ..Sample::default()
            });
            assert_eq!(ring.newest().unwrap().time, n);
        }
        let all: Vec<i64> = ring.last(usize::MAX).map(|s| s.time).collect();
        assert_eq!(all, (700..1000).collect::<Vec<_>>());
        assert_eq!(ring.last(2).map(|s| s.time).collect::<Vec<_>>(), [998, 999]);
    }
}
