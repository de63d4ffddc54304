//! The allocator of all that runs for long: how it is told to give memory back (docs/adr/0024-memory.md).

use crate::trial;
use std::env;
use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::process::Command;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Read by the allocator before `main`: no pieces of 2 MB where one page is asked for, and what is free goes back to the kernel at
/// once, not with some later call that an idle process never makes.
const SETTINGS: [(&str, &str); 2] = [("MIMALLOC_ALLOW_THP", "0"), ("MIMALLOC_PURGE_DELAY", "0")];

/// Those that nobody has set.
fn settings() -> impl Iterator<Item = (&'static str, &'static str)> {
    SETTINGS.into_iter().filter(|(name, _)| env::var_os(name).is_none())
}

/// This process's own line again, run from `file` and with the settings, to become by `exec`.
pub fn again(file: impl AsRef<OsStr>) -> Command {
    let mut line = env::args_os();
    let mut again = Command::new(file);
    if let Some(name) = line.next() {
        again.arg0(name);
    }
    again.args(line).envs(settings());
    again
}

/// Begins this process again with the settings, where it has not begun with them. Where that fails it goes on without.
pub fn begin_again() {
    if settings().next().is_none() {
        return;
    }
    // The file's own path gives the process its name; it may have been replaced since.
    let file = env::current_exe().ok().filter(|path| path.exists());
    let _not_begun = again(file.unwrap_or_else(|| trial::IMAGE.into())).exec();
}
