//! A service begins again, as the same process, with what its allocator reads at the start.

use crate::fleet::Control;
use std::fs;

/// What the process began with, and its name.
fn began_with(pid: u32) -> (Vec<String>, String) {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
    let words = environment
        .split(|byte| *byte == 0)
        .map(|word| String::from_utf8_lossy(word).into_owned());
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    (
        words.filter(|word| word.starts_with("MIMALLOC_")).collect(),
        name.trim_end().to_owned(),
    )
}

#[tokio::test]
async fn a_service_gives_memory_back_and_keeps_its_number_and_name() {
    let control = Control::start("server").await;
    let (mut settings, name) = began_with(control.child.id().unwrap());
    settings.sort();
    assert_eq!(settings, ["MIMALLOC_ALLOW_THP=0", "MIMALLOC_PURGE_DELAY=0"]);
    assert_eq!(name, "neuralmesh");
}

#[tokio::test]
async fn what_the_environment_says_of_its_memory_is_kept() {
    let control = Control::start_with("server", &[("MIMALLOC_PURGE_DELAY", "10")]).await;
    let (mut settings, _) = began_with(control.child.id().unwrap());
    settings.sort();
    assert_eq!(settings, ["MIMALLOC_ALLOW_THP=0", "MIMALLOC_PURGE_DELAY=10"]);
}
