//! What may stand in a log, whatever level is asked for.

use tracing::{Level, Metadata};

/// Libraries that log, at their least levels, what users type: each message of a terminal passes through them.
const TALKATIVE: [&str; 2] = ["tungstenite", "tokio_tungstenite"];

/// Libraries that warn of what strangers send. Each can do that as often as he likes; a log must not be his to fill.
const OF_STRANGERS: [&str; 2] = ["h2", "rustls"];

/// Whether a line may be written. Every program that logs what this crate does puts this before its own filter.
pub fn may_be_written(line: &Metadata<'_>) -> bool {
    // Spans of traces are for their collector.
    if nm_link::trace::is_of_a_trace(line) {
        return false;
    }
    let library = line.target().split("::").next().unwrap_or_default();
    // Levels are ordered from ERROR, the least talkative, to TRACE.
    match *line.level() {
        Level::ERROR => true,
        Level::WARN => !OF_STRANGERS.contains(&library),
        Level::INFO => true,
        _ => !TALKATIVE.contains(&library),
    }
}
