//! The control plane's own process, by the names that every exporter uses:
//! <https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>.

use super::text::{Kind, Text};
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeValLike;

/// What can't be read is left out.
pub(super) fn write(text: &mut Text, began: f64) {
    text.family(
        "process_start_time_seconds",
        Kind::Gauge,
        "When the process began, in seconds since 1970",
    )
    .sample(&[], began);
    if let Ok(used) = getrusage(UsageWho::RUSAGE_SELF) {
        let micros = used.user_time().num_microseconds() + used.system_time().num_microseconds();
        text.family(
            "process_cpu_seconds",
            Kind::Counter,
            "CPU time of the process, its own and the kernel's for it",
        )
        .sample(&[], micros as f64 / 1e6);
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for (field, name, help) in [
        ("VmRSS:", "process_resident_memory_bytes", "Memory of the process that is in RAM"),
        ("VmSize:", "process_virtual_memory_bytes", "Address space of the process"),
    ] {
        if let Some(kib) = number(&status, field) {
            text.family(name, Kind::Gauge, help).sample(&[], kib * 1024);
        }
    }
    if let Some(threads) = number(&status, "Threads:") {
        text.family("process_threads", Kind::Gauge, "Threads of the process")
            .sample(&[], threads);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        // Reading the folder opens one more.
        let open = open.count().saturating_sub(1);
        text.family("process_open_fds", Kind::Gauge, "Open files, connections among them")
            .sample(&[], open);
    }
    if let Ok((most, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
        text.family("process_max_fds", Kind::Gauge, "The most files it may have open")
            .sample(&[], most);
    }
}

/// The number of a field of `/proc/self/status`, in kB where that has a unit.
fn number(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::text::Format;

    #[test]
    fn all_of_it_can_be_read_here() {
        let mut text = Text::new(Format::Prometheus, 0);
        write(&mut text, 1_770_000_000.5);
        let text = text.end();
        let value = |name: &str| -> f64 {
            let line = text
                .lines()
                .find_map(|l| l.strip_prefix(name))
                .unwrap_or_else(|| panic!("{name} in {text}"));
            line.trim().parse().unwrap()
        };
        assert_eq!(value("process_start_time_seconds "), 1_770_000_000.5);
        assert!(value("process_resident_memory_bytes ") > 1e6 && value("process_virtual_memory_bytes ") > 1e6);
        assert!(value("process_cpu_seconds_total ") >= 0.0 && value("process_threads ") >= 1.0);
        assert!((3.0..value("process_max_fds ")).contains(&value("process_open_fds ")));
    }
}
