//! Puts what was built in its place.

use super::{
    dirs,
    plan::{Entry, Item, Plan},
    stage::{Stage, refused},
    write::{drop_attributes, set_metadata, times},
};
use crate::{
    failure::{Result, code_of, failed},
    report::Reporter,
    walk::kept_mode,
};
use nm_types::backup::job::JobErrorCode;
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::RenameFlags,
    io::Errno,
};
use std::{
    collections::{HashMap, HashSet},
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
};

pub fn place(plan: &Plan, stage: &Stage, reporter: &Reporter) -> Result<()> {
    let item = &plan.items[stage.item];
    let built = dirs::stat(&stage.fd, stage.root()).map_err(|error| refused(&item.to, &error))?;
    let Some(built) = built else {
        // A socket, or a device that could not be made: it was named.
        return Ok(());
    };
    let there = dirs::stat(&stage.parent, &stage.target).map_err(|error| refused(&item.to, &error))?;
    let whole = plan.entries[item.first].whole;
    let both_folders = dirs::is_dir(&built) && there.as_ref().is_some_and(dirs::is_dir);
    let swapped = match there {
        None => swap_in(stage.fd.as_fd(), stage.root(), stage.parent.as_fd(), &stage.target, false),
        Some(_) if !both_folders || (item.replace && whole && !stage.inside) => {
            match swap_in(stage.fd.as_fd(), stage.root(), stage.parent.as_fd(), &stage.target, true) {
                // It is where a file system is mounted, also when that was not to be seen before.
                Err(error) if both_folders && error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {
                    merge_all(plan, item, stage, reporter)
                }
                other => other,
            }
        }
        Some(_) => merge_all(plan, item, stage, reporter),
    };
    swapped.map_err(|error| {
        failed(
            code_of(&error, JobErrorCode::NotWritable),
            format!(
                "What was restored can't be put at {}: {error}. Look at what is there, and try again.",
                item.to.display()
            ),
        )
    })
}

/// What was at the target is in the stage afterwards, and goes with it.
fn swap_in(from: BorrowedFd<'_>, name: &OsStr, to: BorrowedFd<'_>, target: &OsStr, there: bool) -> io::Result<()> {
    if !there {
        return match rustix::fs::renameat_with(from, name, to, target, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS) => Ok(rustix::fs::renameat(from, name, to, target)?),
            other => Ok(other?),
        };
    }
    match rustix::fs::renameat_with(from, name, to, target, RenameFlags::EXCHANGE) {
        // A file system that can't: two steps, between which the target is not there.
        Err(Errno::INVAL | Errno::NOSYS) => {
            let aside = OsStr::new(".neuralmesh-before");
            dirs::remove(from, aside)?;
            rustix::fs::renameat(to, target, from, aside)?;
            if let Err(error) = rustix::fs::renameat(from, name, to, target) {
                rustix::fs::renameat(from, aside, to, target)?;
                return Err(error.into());
            }
            Ok(())
        }
        other => Ok(other?),
    }
}

fn merge_all(plan: &Plan, item: &Item, stage: &Stage, reporter: &Reporter) -> io::Result<()> {
    let merge = Merge {
        entries: plan
            .entries_of(item)
            .iter()
            .filter(|entry| entry.node.is_dir())
            .map(|entry| (entry.relative.as_path(), entry))
            .collect(),
        replace: item.replace,
        keep: stage.inside.then(|| stage.name()),
        root: rustix::process::geteuid().is_root(),
        reporter,
    };
    let built = dirs::enter(&stage.fd, stage.root())?;
    let target = dirs::enter(&stage.parent, &stage.target)?;
    merge.folder(&built, &target, PathBuf::new())
}

/// The stage was in the target, and left a mark on its time.
pub fn settle(plan: &Plan, item: usize) -> io::Result<()> {
    let item = &plan.items[item];
    let entry = &plan.entries[item.first];
    match times(&entry.node.meta) {
        Some(times) if entry.whole => Ok(rustix::fs::futimens(dirs::open_strict(&item.to)?, &times)?),
        _ => Ok(()),
    }
}

struct Merge<'a> {
    entries: HashMap<&'a Path, &'a Entry>,
    replace: bool,
    /// The stage itself, which is in the target.
    keep: Option<&'a OsStr>,
    root: bool,
    reporter: &'a Reporter,
}

impl Merge<'_> {
    fn folder(&self, built: &OwnedFd, target: &OwnedFd, relative: PathBuf) -> io::Result<()> {
        let names = dirs::names(built)?;
        let entry = self.entries.get(relative.as_path()).copied();
        if self.replace && entry.is_some_and(|entry| entry.whole) {
            let kept: HashSet<&OsStr> = names.iter().map(|name| name.as_os_str()).collect();
            for name in dirs::names(target)? {
                let own = relative.as_os_str().is_empty() && self.keep == Some(name.as_os_str());
                if !own && !kept.contains(name.as_os_str()) {
                    dirs::remove(target, &name)?;
                }
            }
        }
        for name in &names {
            let built_is_dir = dirs::stat(built, name)?.is_some_and(|stat| dirs::is_dir(&stat));
            match dirs::stat(target, name)? {
                Some(there) if built_is_dir && dirs::is_dir(&there) => {
                    let (from, to) = (dirs::enter(built, name)?, dirs::enter(target, name)?);
                    self.folder(&from, &to, relative.join(name))?;
                }
                Some(there) if built_is_dir || dirs::is_dir(&there) => swap_in(built.as_fd(), name, target.as_fd(), name, true)?,
                // A file, or a link that stands there, is replaced in one step, and never written through.
                _ => rustix::fs::renameat(built, name, target, name)?,
            }
        }
        // One that only leads to what was asked for stays as it is.
        if let Some(entry) = entry.filter(|entry| entry.whole && kept_mode(&entry.node.meta).is_some()) {
            let mut failures = set_metadata(target, &entry.node.meta, self.root);
            if let Err(error) = drop_attributes(target, &entry.node.meta) {
                failures.push(("an extended attribute", error));
            }
            for (what, error) in failures {
                self.reporter
                    .problem(entry.at.display().to_string(), format!("{what} could not be set: {error}"));
            }
        }
        Ok(())
    }
}
