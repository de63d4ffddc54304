//! What may stand in a log, whatever level is asked for.

use tracing::{Level, Metadata};

/// Libraries that log, at their least levels, what users type: each message of a terminal passes through them.
const TALKATIVE: [&str; 2] = ["tungstenite", "tokio_tungstenite"];

/// Whether a line may be written. Every program that logs what this crate does puts this before its own filter.
pub fn may_be_written(line: &Metadata<'_>) -> bool {
    // Spans of traces are for their collector.
    if nm_link::trace::is_of_a_trace(line) {
        return false;
    }
    // Levels are ordered from ERROR, the least talkative, to TRACE.
    *line.level() <= Level::INFO || !TALKATIVE.contains(&line.target().split("::").next().unwrap_or_default())
}
