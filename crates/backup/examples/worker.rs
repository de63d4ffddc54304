//! The worker alone, for measurements and for tests that kill it.

fn main() -> std::process::ExitCode {
    nm_backup::worker()
}
