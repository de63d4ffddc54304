//! The last figures of load balancers that were replaced.

use nm_types::proxy::Metrics;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Processes at most: one that ends takes half a minute, and upgrades are rare.
const KEPT: usize = 4;

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Former(Arc<Mutex<VecDeque<Metrics>>>);

impl Former {
    /// Newer figures of a process take the place of its older ones.
    pub fn keep(&self, figures: Metrics) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match all.iter_mut().find(|f| f.instance == figures.instance) {
            Some(before) => *before = figures,
            None => {
                all.push_back(figures);
                if all.len() > KEPT {
                    all.pop_front();
                }
            }
        }
    }

    /// It goes on after all.
    pub fn forget(&self, instance: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|f| f.instance != instance);
    }

    /// Oldest first.
    pub fn all(&self) -> Vec<Metrics> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nm_types::Timestamp;

    #[test]
    fn each_process_has_its_newest() {
        let figures = |instance: &str, at: i64| Metrics {
            instance: instance.into(),
            started_at: Timestamp::from_millis(0),
            at: Timestamp::from_millis(at),
            clusters: Vec::new(),
        };
        let former = Former::default();
        for instance in ["a", "b", "c", "d", "e"] {
            former.keep(figures(instance, 1));
            former.keep(figures(instance, 2));
        }
        former.forget("c");
        let all: Vec<(String, i64)> = former.all().into_iter().map(|m| (m.instance, m.at.as_millis())).collect();
        assert_eq!(all, ["b", "d", "e"].map(|i| (i.to_owned(), 2)));
    }
}
