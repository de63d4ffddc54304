//! The folder beside a target in which a restore is built.

use super::{
    dirs,
    plan::{Item, Plan},
};
use crate::failure::{Result, code_of, failed};
use nm_types::backup::job::{JobError, JobErrorCode};
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{FlockOperation, Mode, flock},
    io::Errno,
};
use sha2::{Digest, Sha256};
use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::ffi::OsStrExt,
    path::{Component, Path},
};

/// What is built has this name in its stage, and so has what it was swapped with.
pub const ROOT: &str = "root";

pub struct Stage {
    pub item: usize,
    /// The folder that holds the stage.
    holder: OwnedFd,
    name: OsString,
    /// The stage; only we may look into it.
    pub fd: OwnedFd,
    /// The folder that holds the target, and the target's name.
    pub parent: OwnedFd,
    pub target: OsString,
    /// The target is where a file system is mounted: it can't be swapped, so the stage is in it.
    pub inside: bool,
    /// Something is at the target, and will go.
    pub there: bool,
    /// Folders that were made for it, and are removed where nothing came of it.
    made: Option<OsString>,
    done: bool,
}

pub fn make_all(plan: &Plan, scratch: bool) -> Result<Vec<Stage>> {
    plan.items
        .iter()
        .enumerate()
        .map(|(number, item)| Stage::make(number, item, scratch))
        .collect()
}

pub fn refused(path: &Path, error: &io::Error) -> JobError {
    if matches!(error.raw_os_error(), Some(code) if code == Errno::LOOP.raw_os_error() || code == Errno::NOTDIR.raw_os_error()) {
        return failed(
            JobErrorCode::Forbidden,
            format!(
                "{} leads through a symbolic link or a file. Name the folder it leads to.",
                path.display()
            ),
        );
    }
    failed(
        code_of(error, JobErrorCode::NotWritable),
        format!("{} can't be written: {error}.", path.display()),
    )
}

impl Stage {
    fn make(number: usize, item: &Item, scratch: bool) -> Result<Self> {
        let refused = |error: io::Error| refused(&item.to, &error);
        let (Some(parent_path), Some(target)) = (item.to.parent(), item.to.file_name()) else {
            return Err(failed(JobErrorCode::Forbidden, "Nothing is restored over `/`. Choose a folder."));
        };
        let parent = make_parents(parent_path).map_err(refused)?;
        let mut made = None;
        if scratch {
            match rustix::fs::mkdirat(&parent, target, Mode::RWXU) {
                Ok(()) => made = Some(target.to_owned()),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(refused(error.into())),
            }
        }
        let there = dirs::stat(&parent, target).map_err(refused)?;
        let own = rustix::fs::fstat(&parent).map_err(|error| refused(error.into()))?;
        let inside = scratch
            || there
                .as_ref()
                .is_some_and(|there| dirs::is_dir(there) && there.st_dev != own.st_dev);
        let holder = if inside {
            dirs::enter(&parent, target).map_err(refused)?
        } else {
            parent.try_clone().map_err(refused)?
        };
        // The same name each time: what a restore that was killed left is found and removed.
        let digest = hex::encode(&Sha256::digest(item.to.as_os_str().as_bytes())[..8]);
        let name = OsString::from(format!(".neuralmesh-restore-{digest}"));
        let fd = open_stage(&holder, &name).map_err(refused)?;
        flock(&fd, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            failed(
                JobErrorCode::Locked,
                format!("Another restore to {} is running. Wait until it has ended.", item.to.display()),
            )
        })?;
        for left in dirs::names(&fd).map_err(refused)? {
            dirs::remove(&fd, &left).map_err(refused)?;
        }
        Ok(Self {
            item: number,
            holder,
            name,
            fd,
            parent,
            target: target.to_owned(),
            inside,
            there: there.is_some(),
            made,
            done: false,
        })
    }

    pub fn root(&self) -> &'static OsStr {
        OsStr::new(ROOT)
    }

    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// What was written is on the disk, before what was there goes.
    pub fn sync(&self) -> Result<()> {
        rustix::fs::syncfs(&self.fd).map_err(|error| {
            let error = io::Error::from(error);
            failed(
                code_of(&error, JobErrorCode::NotWritable),
                format!("What was restored can't be brought to the disk: {error}. Nothing at the target was changed."),
            )
        })
    }

    pub fn remove(mut self) -> io::Result<()> {
        self.done = true;
        self.clear()
    }

    fn clear(&self) -> io::Result<()> {
        dirs::remove(&self.holder, &self.name)?;
        if let Some(made) = &self.made {
            dirs::remove(&self.parent, made)?;
        }
        Ok(())
    }
}

impl Drop for Stage {
    /// A restore that failed leaves nothing behind.
    fn drop(&mut self) {
        if !self.done {
            let _ = self.clear();
        }
    }
}

fn open_stage(holder: impl AsFd, name: &OsStr) -> io::Result<OwnedFd> {
    match rustix::fs::mkdirat(&holder, name, Mode::RWXU) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            // A link or a file of that name is none of ours, and neither is a folder of another user.
            let stat = rustix::fs::statat(&holder, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
            if !dirs::is_dir(&stat) || stat.st_uid != rustix::process::geteuid().as_raw() {
                dirs::remove(&holder, name)?;
                rustix::fs::mkdirat(&holder, name, Mode::RWXU)?;
            }
        }
        Err(error) => return Err(error.into()),
    }
    let fd = dirs::enter(&holder, name)?;
    rustix::fs::fchmod(&fd, Mode::RWXU)?;
    Ok(fd)
}

/// The folder of a target, with those above it made where they are missing.
fn make_parents(path: &Path) -> io::Result<OwnedFd> {
    match dirs::open_strict(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let mut folder = dirs::open_strict(Path::new("/"))?;
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        match rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        folder = dirs::enter(&folder, name)?;
    }
    Ok(folder)
}
