//! How long a container's processes have between the stop signal and the kill, as the engine keeps it.
//!
//! The engine's own record never says 0: one that finds the process gone when it kills it waits as long as the record says for the
//! news of its end, and, where the news is not there yet, cleans up twice: the container then starts on a root that is unmounted,
//! and nothing can be run in it. What was asked for is in a label, and each stop says it.

use nm_link::contract::labels;
use std::collections::BTreeMap;

/// What the engine has where it is said to no container.
const DEFAULT: i64 = 10;
const LEAST: i64 = 1;

/// What is written into the engine's record.
pub fn kept(grace: i64) -> i64 {
    grace.max(LEAST)
}

/// What was asked for, by the engine's record and the labels. An image made of a container hands its labels on, so the record has
/// the last word.
pub fn asked(record: Option<i64>, labels: &BTreeMap<String, String>) -> i64 {
    match record {
        Some(LEAST) if labels.get(labels::STOP_GRACE).is_some_and(|grace| grace == "0") => 0,
        Some(grace) => grace,
        None => DEFAULT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_is_kept_as_one_and_read_as_none() {
        let labelled = |grace: &str| BTreeMap::from([(labels::STOP_GRACE.to_owned(), grace.to_owned())]);
        for grace in [0, 1, 2, 3600] {
            assert!(kept(grace) > 0);
            assert_eq!(asked(Some(kept(grace)), &labelled(&grace.to_string())), grace);
        }
        // Of another container, by way of an image; and of one that others made.
        assert_eq!(asked(Some(5), &labelled("0")), 5);
        assert_eq!(asked(None, &labelled("0")), 10);
        assert_eq!(asked(Some(0), &BTreeMap::new()), 0);
    }
}
