//! A row of the list of containers, kept as bytes.

use super::Record;
use nm_types::stats::Usage;

/// A list row's JSON without the figures that change with every sample.
#[derive(Debug)]
pub(super) struct Row {
    text: Box<str>,
    /// Where the figures belong.
    figures: usize,
}
const CPU_MARK: &str = "\"cpuUsage\":";
const MEMORY_MARK: &str = ",\"memoryUsage\":";

impl Row {
    pub(super) fn of(record: &Record, reachable: bool) -> Self {
        let text = serde_json::to_string(&record.view(Usage::default(), reachable, false)).unwrap_or_default();
        // `resources` comes before every field whose text a user chooses freely but name and image, which hold no quotes.
        let figures = text.find(CPU_MARK).and_then(|cpu| {
            let (from, end) = (cpu + CPU_MARK.len(), cpu + text[cpu..].find('}')?);
            Some((from, end))
        });
        match figures {
            Some((from, end)) => Self {
                text: [&text[..from], &text[end..]].concat().into(),
                figures: from,
            },
            None => Self {
                figures: text.len(),
                text: text.into(),
            },
        }
    }

    pub(super) fn write(&self, usage: Usage, out: &mut Vec<u8>) {
        let (head, tail) = self.text.split_at(self.figures);
        out.extend_from_slice(head.as_bytes());
        write_figure(out, usage.cpu);
        out.extend_from_slice(MEMORY_MARK.as_bytes());
        write_figure(out, usage.memory);
        out.extend_from_slice(tail.as_bytes());
    }
}

/// Two decimals, as JSON.
fn write_figure(out: &mut Vec<u8>, value: f64) {
    use std::io::Write;
    let value = if value.is_finite() { (value * 100.0).round() / 100.0 } else { 0.0 };
    // Writing into a Vec does not fail.
    let _infallible = write!(out, "{value}");
}
