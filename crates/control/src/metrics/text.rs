//! How figures are written down: the text format of Prometheus
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>) and OpenMetrics
//! (<https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md>), straight into one buffer.
//!
//! No crate writes both. They differ in how families are named, and in OpenMetrics' units and its last line.

use nm_types::measure::DurationsSeen;
use std::fmt::{self, Display, Write};

/// The most characters of a label's value that others chose.
const LABEL_LIMIT: usize = 200;
/// Units that OpenMetrics wants named apart, where a family's name ends in one.
const UNITS: [&str; 5] = ["seconds", "bytes", "ratio", "celsius", "cores"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Prometheus,
    OpenMetrics,
}

impl Format {
    /// By the `Accept` header: OpenMetrics for whoever names it, as Prometheus does; the older format, which everything
    /// reads, for all others.
    pub fn accepted(accept: Option<&str>) -> Self {
        let names_it = |range: &str| {
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            name.eq_ignore_ascii_case("application/openmetrics-text") && !parts.any(|p| matches!(p, "q=0" | "q=0.0" | "version=0.0.1"))
        };
        if accept.unwrap_or_default().split(',').any(names_it) {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Its samples end in `_total`, which the family's name here does not.
    Counter,
    Gauge,
    /// Always 1, with what there is to say in the labels. Its samples end in `_info`, which the family's name here does not.
    Info,
    Histogram,
}

impl Kind {
    fn suffix(self) -> &'static str {
        match self {
            Self::Counter => "_total",
            Self::Info => "_info",
            Self::Gauge | Self::Histogram => "",
        }
    }
}

/// A value of a sample.
pub trait Figure {
    fn write(&self, out: &mut String) -> fmt::Result;
}

macro_rules! whole_figures {
    ($($kind:ty),*) => {$(
        impl Figure for $kind {
            fn write(&self, out: &mut String) -> fmt::Result {
                write!(out, "{self}")
            }
        }
    )*};
}
whole_figures!(u32, u64, i64, usize);

impl Figure for bool {
    fn write(&self, out: &mut String) -> fmt::Result {
        out.write_char(if *self { '1' } else { '0' })
    }
}

impl Figure for f64 {
    fn write(&self, out: &mut String) -> fmt::Result {
        match *self {
            f64::INFINITY => out.write_str("+Inf"),
            f64::NEG_INFINITY => out.write_str("-Inf"),
            // Rust writes it `NaN`, as it must be.
            value => write!(out, "{value}"),
        }
    }
}

/// The text as it grows.
#[derive(Debug)]
pub struct Text {
    out: String,
    format: Format,
    name: &'static str,
    kind: Kind,
}

type Labels<'a> = &'a [(&'a str, &'a str)];

impl Text {
    pub fn new(format: Format, room: usize) -> Self {
        Self {
            out: String::with_capacity(room),
            format,
            name: "",
            kind: Kind::Gauge,
        }
    }

    /// Begins a family; the samples that follow are its own.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> &mut Self {
        (self.name, self.kind) = (name, kind);
        let (suffix, word) = match (self.format, kind) {
            (Format::OpenMetrics, Kind::Info) => ("", "info"),
            (Format::Prometheus, Kind::Info) => (kind.suffix(), "gauge"),
            (Format::OpenMetrics, Kind::Counter) => ("", "counter"),
            (Format::Prometheus, Kind::Counter) => (kind.suffix(), "counter"),
            (_, Kind::Gauge) => ("", "gauge"),
            (_, Kind::Histogram) => ("", "histogram"),
        };
        self.line(format_args!("# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {word}\n"));
        if self.format == Format::OpenMetrics
            && let Some(unit) = UNITS.iter().find(|u| name.strip_suffix(*u).is_some_and(|n| n.ends_with('_')))
        {
            self.line(format_args!("# UNIT {name} {unit}\n"));
        }
        self
    }

    /// A sample of the family.
    pub fn sample(&mut self, labels: Labels<'_>, value: impl Figure) -> &mut Self {
        self.sample_in("", labels, value)
    }

    /// A sample with the labels of `block`, as [`Blocks`] writes them, and these.
    pub fn sample_in(&mut self, block: &str, labels: Labels<'_>, value: impl Figure) -> &mut Self {
        self.head(self.kind.suffix(), block, labels);
        self.tail(value)
    }

    /// The samples of a histogram.
    pub fn durations(&mut self, labels: Labels<'_>, seen: &DurationsSeen) -> &mut Self {
        let mut block = String::new();
        let _infallible = write_labels(&mut block, labels);
        self.durations_in(&block, seen)
    }

    /// The samples of a histogram with the labels of `block`, as [`Blocks`] writes them.
    pub fn durations_in(&mut self, block: &str, seen: &DurationsSeen) -> &mut Self {
        for (bound, count) in &seen.buckets {
            let mut le = String::new();
            let _infallible = bound.write(&mut le);
            self.head("_bucket", block, &[("le", &le)]);
            self.tail(*count);
        }
        self.head("_bucket", block, &[("le", "+Inf")]);
        self.tail(seen.count);
        self.head("_sum", block, &[]);
        self.tail(seen.sum);
        self.head("_count", block, &[]);
        self.tail(seen.count)
    }

    pub fn end(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.out.push_str("# EOF\n");
        }
        self.out
    }

    fn head(&mut self, suffix: &str, block: &str, labels: Labels<'_>) {
        self.out.push_str(self.name);
        self.out.push_str(suffix);
        if !block.is_empty() || !labels.is_empty() {
            self.out.push('{');
            self.out.push_str(block);
            if !block.is_empty() && !labels.is_empty() {
                self.out.push(',');
            }
            let _infallible = write_labels(&mut self.out, labels);
            self.out.push('}');
        }
        self.out.push(' ');
    }

    fn tail(&mut self, value: impl Figure) -> &mut Self {
        let _infallible = value.write(&mut self.out);
        self.out.push('\n');
        self
    }

    fn line(&mut self, text: fmt::Arguments<'_>) {
        // Writing to a String does not fail.
        let _infallible = self.out.write_fmt(text);
    }
}

/// Label lists that many families share, written once.
#[derive(Debug, Default)]
pub struct Blocks {
    text: String,
    ends: Vec<usize>,
}

impl Blocks {
    pub fn with_room(blocks: usize) -> Self {
        Self {
            text: String::with_capacity(blocks * 100),
            ends: Vec::with_capacity(blocks),
        }
    }
    pub fn push(&mut self, labels: Labels<'_>) {
        let _infallible = write_labels(&mut self.text, labels);
        self.ends.push(self.text.len());
    }
    /// In the order they were pushed.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        begins.zip(&self.ends).map(|(begin, end)| &self.text[begin..*end])
    }
}

fn write_labels(out: &mut String, labels: Labels<'_>) -> fmt::Result {
    for (i, (name, value)) in labels.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        write!(out, "{comma}{name}=\"{}\"", Escaped(value))?;
    }
    Ok(())
}

/// A label's value, short enough, with what would end it escaped.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = match self.0.char_indices().nth(LABEL_LIMIT) {
            Some((end, _)) => &self.0[..end],
            None => self.0,
        };
        if !value.contains(['\\', '"', '\n']) {
            return f.write_str(value);
        }
        value.chars().try_for_each(|c| match c {
            '\\' => f.write_str("\\\\"),
            '"' => f.write_str("\\\""),
            '\n' => f.write_str("\\n"),
            c => f.write_char(c),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nm_types::measure::Durations;
    use std::time::Duration;

    fn written(format: Format) -> String {
        let mut text = Text::new(format, 0);
        text.family("nm_build", Kind::Info, "What it is").sample(&[("version", "1")], true);
        text.family("nm_sent_bytes", Kind::Counter, "Bytes sent")
            .sample(&[("name", "a\"b\\c\nd")], 7_u64);
        let mut blocks = Blocks::default();
        blocks.push(&[("a", "1"), ("b", "2")]);
        blocks.push(&[]);
        text.family("nm_load", Kind::Gauge, "Load");
        for block in blocks.iter() {
            text.sample_in(block, &[("c", "3")], f64::NAN).sample_in(block, &[], f64::INFINITY);
        }
        text.end()
    }

    #[test]
    fn both_formats() {
        let samples = "nm_build_info{version=\"1\"} 1\n";
        assert_eq!(
            written(Format::Prometheus),
            format!(
                "# HELP nm_build_info What it is\n# TYPE nm_build_info gauge\n{samples}\
                 # HELP nm_sent_bytes_total Bytes sent\n# TYPE nm_sent_bytes_total counter\nnm_sent_bytes_total{{name=\"a\\\"b\\\\c\\nd\"}} 7\n\
                 # HELP nm_load Load\n# TYPE nm_load gauge\n\
                 nm_load{{a=\"1\",b=\"2\",c=\"3\"}} NaN\nnm_load{{a=\"1\",b=\"2\"}} +Inf\nnm_load{{c=\"3\"}} NaN\nnm_load +Inf\n"
            )
        );
        let open = written(Format::OpenMetrics);
        assert!(
            open.starts_with(&format!("# HELP nm_build What it is\n# TYPE nm_build info\n{samples}")),
            "{open}"
        );
        assert!(
            open.contains("# TYPE nm_sent_bytes counter\n# UNIT nm_sent_bytes bytes\nnm_sent_bytes_total{"),
            "{open}"
        );
        assert!(open.ends_with("\n# EOF\n"), "{open}");
    }

    #[test]
    fn histograms_are_cumulative_and_whole() {
        let durations = Durations::default();
        durations.observe(Duration::from_millis(1));
        durations.observe(Duration::from_secs(60));
        let mut text = Text::new(Format::Prometheus, 0);
        text.family("nm_took_seconds", Kind::Histogram, "Time")
            .durations(&[("kind", "x")], &durations.seen());
        let text = text.end();
        for line in [
            "nm_took_seconds_bucket{kind=\"x\",le=\"0.0005\"} 0",
            "nm_took_seconds_bucket{kind=\"x\",le=\"0.001\"} 1",
            "nm_took_seconds_bucket{kind=\"x\",le=\"+Inf\"} 2",
            "nm_took_seconds_sum{kind=\"x\"} 60.001",
            "nm_took_seconds_count{kind=\"x\"} 2",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
    }

    #[test]
    fn the_format_is_the_readers_choice() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (accept, format) in [
            (None, Format::Prometheus),
            (Some("*/*"), Format::Prometheus),
            (Some("text/plain;version=0.0.4"), Format::Prometheus),
            (Some("application/openmetrics-text; version=0.0.1"), Format::Prometheus),
            (Some("application/openmetrics-text;q=0, */*"), Format::Prometheus),
            (Some("application/openmetrics-text"), Format::OpenMetrics),
            (Some(prometheus), Format::OpenMetrics),
        ] {
            assert_eq!(Format::accepted(accept), format, "{accept:?}");
        }
    }

    #[test]
    fn long_values_are_cut_between_characters() {
        let long = "ä".repeat(300);
        assert_eq!(Escaped(&long).to_string(), "ä".repeat(200));
    }
}
