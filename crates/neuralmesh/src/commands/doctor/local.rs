//! This machine: control groups, the data folder, the key file.

use super::Finding;
use crate::output::human;
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Below this a database soon has no room to breathe.
const LITTLE: u64 = 1 << 30;
const TOO_LITTLE: u64 = 100 << 20;

pub fn cgroups() -> Option<Finding> {
    let root = Path::new("/sys/fs/cgroup");
    Some(if root.join("cgroup.controllers").exists() {
        Finding::ok("cgroups", "version 2")
    } else if root.join("memory").is_dir() {
        Finding::ok("cgroups", "version 1")
    } else {
        Finding::warn(
            "cgroups",
            "no control groups are mounted at /sys/fs/cgroup",
            "Statistics and limits of containers need them: mount them, as systemd does.",
        )
    })
}

/// The folder itself, or the nearest one above it that is there.
fn nearest(path: &Path) -> PathBuf {
    path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/")).to_owned()
}

pub fn data_dir(path: &Path) -> Option<Finding> {
    let check = "data folder";
    let shown = path.display();
    let fix =
        format!("Run neuralmesh as a user who may write there, name another with --data-dir, or: sudo install -d -o $USER -m 700 {shown}");
    Some(match std::fs::metadata(path) {
        Ok(meta) if !meta.is_dir() => Finding::fail(
            check,
            format!("{shown} is no folder"),
            "Move it away, or name another with --data-dir.",
        ),
        Ok(meta) => {
            if access(path, AccessFlags::W_OK | AccessFlags::X_OK).is_err() {
                Finding::fail(check, format!("{shown} can't be written by you"), fix)
            } else if meta.permissions().mode() & 0o007 != 0 {
                Finding::warn(
                    check,
                    format!("{shown} is open to every user of this machine"),
                    format!("Close it: chmod 700 {shown}"),
                )
            } else {
                Finding::ok(check, format!("{shown} can be written"))
            }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let above = nearest(path);
            if access(&above, AccessFlags::W_OK | AccessFlags::X_OK).is_ok() {
                Finding::ok(check, format!("{shown} is not there yet; the first start makes it"))
            } else {
                Finding::fail(
                    check,
                    format!("{shown} is not there, and {} can't be written by you", above.display()),
                    fix,
                )
            }
        }
        Err(e) => Finding::fail(check, format!("{shown} can't be looked at: {e}"), fix),
    })
}

pub fn space(data_dir: &Path) -> Option<Finding> {
    let check = "free space";
    let at = nearest(data_dir);
    let Ok(stat) = statvfs(&at) else { return None };
    let (free, inodes) = (stat.blocks_available().saturating_mul(stat.fragment_size()), stat.files_available());
    let found = format!("{} at {}", human::size(free), at.display());
    let fix = "Free some, or name a folder on another disk with --data-dir; `neuralmesh images prune` removes images that nothing uses.";
    Some(if stat.files() > 0 && inodes < 1000 {
        Finding::fail(check, format!("no room for more files at {}", at.display()), fix)
    } else if free < TOO_LITTLE {
        Finding::fail(check, found, fix)
    } else if free < LITTLE {
        Finding::warn(check, found, fix)
    } else {
        Finding::ok(check, found)
    })
}

pub fn key_file(path: &Path) -> Option<Finding> {
    let check = "key file";
    let shown = path.display();
    Some(match std::fs::metadata(path) {
        // The first start makes it; a control plane elsewhere needs none here.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            Finding::ok(check, format!("{} is closed to you, as it should be to all but its owner", shown))
        }
        Err(e) => Finding::fail(check, format!("{shown} can't be looked at: {e}"), "Look at the disk it is on."),
        Ok(meta) if meta.permissions().mode() & 0o077 != 0 => Finding::fail(
            check,
            format!("{shown} can be read by others, and a control plane won't start with it so"),
            format!("Close it: chmod 600 {shown}"),
        ),
        Ok(_) => Finding::ok(check, format!("{shown} is readable by its owner alone")),
    })
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use std::fs::{self, Permissions};

    #[test]
    fn folders_and_keys() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("data");
        assert_eq!(data_dir(&inside).unwrap().verdict, Verdict::Ok);
        fs::create_dir(&inside).unwrap();
        fs::set_permissions(&inside, Permissions::from_mode(0o755)).unwrap();
        assert_eq!(data_dir(&inside).unwrap().verdict, Verdict::Warn);
        fs::set_permissions(&inside, Permissions::from_mode(0o700)).unwrap();
        assert_eq!(data_dir(&inside).unwrap().verdict, Verdict::Ok);
        assert!(space(&inside.join("deeper")).is_some());

        let key = inside.join("secrets.key");
        assert_eq!(key_file(&key), None);
        fs::write(&key, "k").unwrap();
        fs::set_permissions(&key, Permissions::from_mode(0o640)).unwrap();
        assert_eq!(key_file(&key).unwrap().verdict, Verdict::Fail);
        fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
        assert_eq!(key_file(&key).unwrap().verdict, Verdict::Ok);
        assert_eq!(data_dir(&key).unwrap().verdict, Verdict::Fail);
    }
}
