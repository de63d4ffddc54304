//! How the executable is laid out, which decides how much of it is resident in every process.
//!
//! - Its relative relocations are packed (RELR), where the machine's C library can read them: 1.8 MB less.
//! - A release build has the functions of the load balancer side by side (`layout.ld`, written by `scripts/layout.py`): 5 MB less of
//!   it in a load balancer. mold knows no such scripts: with it, functions lie as they come.

use std::env;
use std::path::Path;
use std::process::Command;

/// The first glibc that reads them.
const FIRST: (u32, u32) = (2, 36);

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=layout.ld");
    let var = |name| env::var(name).unwrap_or_default();
    let is_native = var("HOST") == var("TARGET") && var("CARGO_CFG_TARGET_OS") == "linux" && var("CARGO_CFG_TARGET_ENV") == "gnu";
    if is_native && glibc().is_some_and(|version| version >= FIRST) {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    let by_mold = ["CARGO_ENCODED_RUSTFLAGS", "RUSTC_LINKER"]
        .iter()
        .any(|name| var(name).contains("mold"));
    if var("PROFILE") == "release" && var("CARGO_CFG_TARGET_OS") == "linux" && !by_mold {
        let script = Path::new(&var("CARGO_MANIFEST_DIR")).join("layout.ld");
        println!("cargo:rustc-link-arg-bins=-Wl,-T,{}", script.display());
    }
}

/// This machine's, by `getconf`: `glibc 2.36`.
fn glibc() -> Option<(u32, u32)> {
    let said = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let text = String::from_utf8(said.stdout).ok()?;
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
