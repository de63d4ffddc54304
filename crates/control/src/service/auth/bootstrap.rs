//! The first admin. The password is made on the machine and read there: nobody can claim it over the network.
//!
//! The file is written before the user, so that a crash never leaves a user whose password nobody knows; a start after
//! that takes the password the file holds. It is removed when the password is changed.

use super::{Auth, passwords};
use crate::api::error::ApiError;
use nm_store::{AuditEntry, StoreError, UserRow};
use nm_types::UserId;
use nm_types::auth::Role;
use nm_types::text::{SecretText, Username};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The file's name in the data folder.
pub const FILE: &str = "initial-admin-password";
const USERNAME: &str = "admin";

/// Why there is no first admin.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{attempt} {}", path.display())]
    File {
        attempt: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} can be read by others (mode {mode:03o}), so its password is no secret: remove the file and start again", path.display())]
    Open { path: PathBuf, mode: u32 },
    #[error("{} is no plain file: remove it and start again", path.display())]
    NoFile { path: PathBuf },
    #[error("make the first admin's password: {0}")]
    Password(ApiError),
}

impl Auth {
    /// Makes the user `admin` where there is no user at all. Gives the path of the file with its password, for as long as
    /// that password is the one that was made here.
    pub async fn bootstrap(&self, data_dir: &Path) -> Result<Option<PathBuf>, BootstrapError> {
        let path = self.initial_password.get_or_init(|| data_dir.join(FILE)).clone();
        if !self.store.users(None, 1).await?.is_empty() {
            return self.left_over(path).await;
        }
        let file = path.clone();
        let password = blocking(move || read_or_make(&file)).await?;
        let password_hash = self.passwords.hash(&password).await.map_err(BootstrapError::Password)?;
        let now = self.clock.now();
        let id = UserId::fresh(now.0);
        let username = Username::parse(USERNAME).map_err(|e| BootstrapError::Password(passwords::internal("name the first admin", e)))?;
        let mut tx = self.store.begin(now).await?;
        match tx
            .create_user(UserRow {
                id: id.clone(),
                username,
                password_hash,
                role: Role::Admin,
                must_change_password: true,
            })
            .await
        {
            Ok(_) => {}
            Err(StoreError::Conflict { .. }) => {
                // Another replica was first, with a file of its own.
                drop(tx);
                let file = path.clone();
                blocking(move || remove(&file)).await?;
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
        tx.audit(AuditEntry {
            target: Some(id.to_string()),
            ..AuditEntry::new("system", "user.bootstrap")
        })
        .await?;
        tx.commit().await?;
        tracing::info!(path = %path.display(), "the first admin was made; its password is in this file");
        Ok(Some(path))
    }

    /// With users there, the file serves only while the first admin still has the password it holds.
    async fn left_over(&self, path: PathBuf) -> Result<Option<PathBuf>, BootstrapError> {
        let unchanged = self
            .store
            .user_by_name(USERNAME)
            .await?
            .is_some_and(|admin| admin.must_change_password);
        blocking(move || {
            let there = path.symlink_metadata().is_ok();
            if there && !unchanged {
                remove(&path)?;
            }
            Ok((there && unchanged).then_some(path))
        })
        .await
    }

    /// The password in the file was changed: the file goes. It holds nothing that still opens anything, so a failure is no
    /// failure of the change.
    pub(super) async fn forget_initial_password(&self) {
        let Some(path) = self.initial_password.get().cloned() else { return };
        if let Err(error) = blocking(move || remove(&path)).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the first admin's old password could not be removed"
            );
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, BootstrapError> + Send + 'static) -> Result<T, BootstrapError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(BootstrapError::Password(passwords::internal(
            "work on the first admin's password",
            error,
        ))),
    }
}

fn failed(attempt: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> BootstrapError {
    let path = path.to_owned();
    move |source| BootstrapError::File { attempt, path, source }
}

/// The password of a start that did not get further, or a new one that is on disk when this returns.
fn read_or_make(path: &Path) -> Result<SecretText, BootstrapError> {
    if let Some(password) = read(path)? {
        return Ok(password);
    }
    let password = fresh_password().map_err(BootstrapError::Password)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed("create", path))?;
    let written = file
        .write_all(password.as_bytes())
        .and_then(|()| file.write_all(b"\n"))
        .and_then(|()| file.sync_all());
    written.map_err(failed("write", path))?;
    sync_folder(path)?;
    Ok(SecretText::new(&password))
}

/// The password a file holds; none where there is no file, or one whose writing was cut short, which goes.
fn read(path: &Path) -> Result<Option<SecretText>, BootstrapError> {
    let meta = match path.symlink_metadata() {
        Ok(meta) => meta,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("look at", path)(error)),
    };
    if !meta.is_file() {
        return Err(BootstrapError::NoFile { path: path.to_owned() });
    }
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(BootstrapError::Open {
            path: path.to_owned(),
            mode,
        });
    }
    let mut text = Zeroizing::new(String::new());
    File::open(path)
        .and_then(|f| f.take(1024).read_to_string(&mut text))
        .map_err(failed("read", path))?;
    match text.strip_suffix('\n') {
        Some(password) if is_password(password) => Ok(Some(SecretText::new(password))),
        Some(_) | None => {
            remove(path)?;
            Ok(None)
        }
    }
}

fn remove(path: &Path) -> Result<(), BootstrapError> {
    match std::fs::remove_file(path) {
        Ok(()) => sync_folder(path),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("remove", path)(error)),
    }
}

fn sync_folder(path: &Path) -> Result<(), BootstrapError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    File::open(folder).and_then(|f| f.sync_all()).map_err(failed("sync", folder))
}

/// Without letters and digits that are taken for each other. There are 32, so that five bits are one of them.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
const GROUPS: usize = 7;
const GROUP: usize = 4;

/// 140 random bits in groups of four, as `k7dm-…`.
fn fresh_password() -> Result<Zeroizing<String>, ApiError> {
    let random = Zeroizing::new(passwords::random::<{ GROUPS * GROUP }>()?);
    let mut text = Zeroizing::new(String::with_capacity(GROUPS * (GROUP + 1)));
    for (n, byte) in random.iter().enumerate() {
        if n > 0 && n % GROUP == 0 {
            text.push('-');
        }
        text.push(char::from(ALPHABET[usize::from(byte & 31)]));
    }
    Ok(text)
}

fn is_password(text: &str) -> bool {
    let mut groups = 0;
    let good = text
        .split('-')
        .inspect(|_| groups += 1)
        .all(|g| g.len() == GROUP && g.bytes().all(|b| ALPHABET.contains(&b)));
    good && groups == GROUPS
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn the_file_is_private_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let made = read_or_make(&path).unwrap();
        assert!(is_password(made.expose()) && made.expose().len() >= 24);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(read_or_make(&path).unwrap() == made, "a second start takes the same");
        std::fs::remove_file(&path).unwrap();
        assert!(read_or_make(&path).unwrap() != made, "and another machine another");
    }

    #[test]
    fn a_file_cut_short_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let whole = read_or_make(&path).unwrap();
        for cut in [0, 3, 24, whole.expose().len()] {
            std::fs::write(&path, &whole.expose()[..cut]).unwrap();
            assert!(read_or_make(&path).unwrap() != whole, "cut at {cut}");
        }
    }

    #[test]
    fn what_others_may_have_read_or_made_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        read_or_make(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(read_or_make(&path), Err(BootstrapError::Open { mode: 0o640, .. })));
        std::fs::remove_file(&path).unwrap();
        symlink("/etc/hostname", &path).unwrap();
        assert!(matches!(read_or_make(&path), Err(BootstrapError::NoFile { .. })));
    }
}
