//! Amounts and times as docker writes them.

use nm_types::Timestamp;

/// Bytes in decimal units with three digits: `187MB`, as `docker images`.
pub fn size(bytes: u64) -> String {
    scaled(bytes as f64, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB"])
}

/// Bytes in binary units: `1.94GiB`, as `docker stats`.
pub fn memory(bytes: f64) -> String {
    scaled(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB"])
}

fn scaled(mut amount: f64, step: f64, units: &[&str]) -> String {
    let mut unit = 0;
    // Rounded to three digits it may reach the next unit.
    while amount >= step - 0.5 && unit + 1 < units.len() {
        amount /= step;
        unit += 1;
    }
    let digits = if unit == 0 || amount >= 99.95 {
        0
    } else if amount >= 9.995 {
        1
    } else {
        2
    };
    let mut text = format!("{amount:.digits$}");
    if text.contains('.') {
        text.truncate(text.trim_end_matches('0').trim_end_matches('.').len());
    }
    format!("{text}{}", units[unit])
}

/// A span of milliseconds in its largest unit: `5 minutes`, as `docker ps`.
pub fn span(ms: i64) -> String {
    let seconds = ms.max(0) / 1000;
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match seconds {
        0 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".to_owned(),
        120..3600 => format!("{minutes} minutes"),
        3600..5400 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 14 => format!("{} days", hours / 24),
        _ if hours < 24 * 60 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// `5 minutes ago`.
pub fn ago(then: Timestamp, now: Timestamp) -> String {
    format!("{} ago", span(now.since(then)))
}

/// `5 minutes ago`, or nothing.
pub fn ago_opt(then: Option<Timestamp>, now: Timestamp) -> String {
    then.map(|then| ago(then, now)).unwrap_or_default()
}

/// `in 5 minutes`, or `5 minutes ago` when it is over.
pub fn until(then: Timestamp, now: Timestamp) -> String {
    if then > now {
        format!("in {}", span(then.since(now)).to_lowercase())
    } else {
        ago(then, now)
    }
}

/// `k=v` pairs in one cell.
pub fn pairs<K: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (K, V)>) -> String {
    pairs
        .into_iter()
        .map(|(k, v)| format!("{}={}", k.as_ref(), v.as_ref()))
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (187_000_000, "187MB"),
            (1_234_567_890, "1.23GB"),
            (999_950_000, "1GB"),
            (43_210_000, "43.2MB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(memory(512.0 * 1024.0 * 1024.0), "512MiB");
        assert_eq!(memory(1.5 * 1024.0 * 1024.0 * 1024.0), "1.5GiB");
    }

    #[test]
    fn spans() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (61, "About a minute"),
            (300, "5 minutes"),
            (3_700, "About an hour"),
            (7_300, "2 hours"),
            (47 * 3600, "47 hours"),
            (3 * 86_400, "3 days"),
            (20 * 86_400, "2 weeks"),
            (100 * 86_400, "3 months"),
            (800 * 86_400, "2 years"),
        ] {
            assert_eq!(span(seconds * 1000), text);
        }
        assert_eq!(span(-5), "Less than a second");
        assert_eq!(until(Timestamp(300_000), Timestamp(0)), "in 5 minutes");
    }
}
