//! Cores: those that tasks have for themselves, and the rest, which all others share.

use nm_link::contract::TaskKey;
use std::collections::{BTreeMap, BTreeSet};

/// The cores of this machine that Docker may use, by their numbers.
pub struct Cores {
    all: Vec<u32>,
}

/// `0-3,8,10-11`.
fn parse(list: &str) -> Option<Vec<u32>> {
    let mut out = Vec::new();
    for part in list.trim().split(',') {
        match part.split_once('-') {
            Some((from, to)) => out.extend(from.parse::<u32>().ok()?..=to.parse().ok()?),
            None => out.push(part.parse().ok()?),
        }
    }
    Some(out)
}

fn text(cores: impl IntoIterator<Item = u32>) -> String {
    let all: Vec<String> = cores.into_iter().map(|core| core.to_string()).collect();
    all.join(",")
}

impl Cores {
    pub fn look() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        Self {
            all: list.and_then(parse).unwrap_or_default(),
        }
    }

    /// The number of the `nth` core; where the machine does not say, they are counted from 0.
    fn number(&self, nth: u32) -> u32 {
        self.all.get(nth as usize).copied().unwrap_or(nth)
    }

    /// What Docker is told of these cores.
    pub fn of(&self, cores: &[u32]) -> String {
        text(cores.iter().map(|nth| self.number(*nth)))
    }

    /// What those share who have none for themselves; `count` is how many Docker knows of.
    pub fn rest(&self, count: u32, pinned: &Pinned) -> String {
        let taken: BTreeSet<u32> = pinned.0.values().flatten().copied().collect();
        text((0..count).filter(|nth| !taken.contains(nth)).map(|nth| self.number(nth)))
    }
}

/// Which tasks have which cores.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Pinned(pub BTreeMap<TaskKey, Vec<u32>>);

impl Pinned {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nm_types::JobId;

    #[test]
    fn lists_of_cores_are_read() {
        assert_eq!(parse("0-2,8,10-11\n"), Some(vec![0, 1, 2, 8, 10, 11]));
        assert_eq!(parse("x"), None);
    }

    #[test]
    fn the_rest_is_what_nobody_has() {
        let cores = Cores { all: vec![0, 2, 4, 6] };
        let key = TaskKey {
            job: JobId::fresh(1),
            index: 0,
            attempt: 1,
        };
        let mut pinned = Pinned::default();
        assert_eq!(cores.rest(4, &pinned), "0,2,4,6");
        pinned.0.insert(key, vec![2, 3]);
        assert_eq!((cores.of(&[2, 3]), cores.rest(4, &pinned)), ("4,6".into(), "0,2".into()));
    }
}
