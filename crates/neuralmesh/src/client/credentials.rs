//! What `login` keeps: `credentials.json` (0600), one login a server.
//!
//! Invariants: the file is replaced whole or not at all; a refresh token, which is good only once, is spent by one
//! process at a time, under a lock beside the file; nothing in here prints a token.

use super::url::ServerUrl;
use nm_types::Timestamp;
use nm_types::auth::SignedIn;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("there is no home folder to keep logins in: set HOME or XDG_CONFIG_HOME, or give a token in NEURALMESH_TOKEN")]
    NoHome,
    #[error("{what} {}: {source}", .path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{} can be read by other users: run `chmod 600 {}`, and sign in anew if anyone may have read it", .0.display(), .0.display())]
    Exposed(PathBuf),
    #[error("{} is damaged ({source}): remove it and sign in anew", .path.display())]
    Damaged { path: PathBuf, source: serde_json::Error },
}

/// The login at one server.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Login {
    pub username: String,
    pub access_token: String,
    pub access_expires: Timestamp,
    pub refresh_token: String,
}

impl Login {
    pub fn new(signed_in: SignedIn, now: Timestamp) -> Self {
        let life = i64::try_from(signed_in.expires_in).unwrap_or(i64::MAX / 1000).saturating_mul(1000);
        Self {
            username: signed_in.user.username.as_str().to_owned(),
            access_token: signed_in.access_token,
            access_expires: now.plus_millis(life),
            refresh_token: signed_in.refresh_token,
        }
    }
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login")
            .field("username", &self.username)
            .field("access_expires", &self.access_expires)
            .finish_non_exhaustive()
    }
}

/// The file's content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Logins {
    /// The server that commands go to when none is named: the one signed in to last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    #[serde(default)]
    pub servers: BTreeMap<String, Login>,
}

/// The file, wherever it is.
#[derive(Debug, Clone)]
pub struct CredentialsFile {
    path: PathBuf,
}

/// Held while logins are changed; given back when dropped.
#[derive(Debug)]
pub struct Locked {
    _lock: File,
}

impl CredentialsFile {
    /// `$XDG_CONFIG_HOME/neuralmesh/credentials.json`, else below `~/.config`.
    pub fn locate() -> Result<Self, CredentialsError> {
        let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let config = absolute("XDG_CONFIG_HOME")
            .or_else(|| absolute("HOME").map(|h| h.join(".config")))
            .ok_or(CredentialsError::NoHome)?;
        Ok(Self {
            path: config.join("neuralmesh").join("credentials.json"),
        })
    }

    fn io(&self, what: &'static str) -> impl Fn(io::Error) -> CredentialsError {
        let path = self.path.clone();
        move |source| CredentialsError::Io {
            what,
            path: path.clone(),
            source,
        }
    }

    fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    /// What is saved; nothing where the file is not there.
    pub fn read(&self) -> Result<Logins, CredentialsError> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Logins::default()),
            Err(e) => return Err(self.io("can't read")(e)),
        };
        let meta = file.metadata().map_err(self.io("can't read"))?;
        if meta.permissions().mode() & 0o077 != 0 {
            return Err(CredentialsError::Exposed(self.path.clone()));
        }
        let text = io::read_to_string(file).map_err(self.io("can't read"))?;
        serde_json::from_str(&text).map_err(|source| CredentialsError::Damaged {
            path: self.path.clone(),
            source,
        })
    }

    /// Waits until no other process changes logins.
    pub fn lock(&self) -> Result<Locked, CredentialsError> {
        let folder = self.folder();
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(self.io("can't make the folder of"))?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(folder.join("credentials.lock"))
            .map_err(self.io("can't lock"))?;
        lock.lock().map_err(self.io("can't lock"))?;
        Ok(Locked { _lock: lock })
    }

    /// Replaces the file, whole or not at all. The lock is the permission to.
    pub fn write(&self, _lock: &Locked, logins: &Logins) -> Result<(), CredentialsError> {
        let mut text = serde_json::to_vec_pretty(logins).map_err(|source| CredentialsError::Damaged {
            path: self.path.clone(),
            source,
        })?;
        text.push(b'\n');
        let next = self.path.with_extension("json.new");
        let fail = self.io("can't write");
        // A leftover of a process that was killed here may have other permissions.
        match std::fs::remove_file(&next) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(fail(e)),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&next)
            .map_err(&fail)?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(&fail)?;
        std::fs::rename(&next, &self.path).map_err(&fail)?;
        File::open(self.folder()).and_then(|folder| folder.sync_all()).map_err(&fail)
    }

    /// Saves a login and makes its server the current one.
    pub fn save(&self, server: &ServerUrl, login: Login) -> Result<(), CredentialsError> {
        let lock = self.lock()?;
        let mut logins = self.read()?;
        logins.current = Some(server.to_string());
        logins.servers.insert(server.to_string(), login);
        self.write(&lock, &logins)
    }

    /// Forgets the login at a server; answers what it was.
    pub fn forget(&self, server: &ServerUrl) -> Result<Option<Login>, CredentialsError> {
        let lock = self.lock()?;
        let mut logins = self.read()?;
        let key = server.to_string();
        let login = logins.servers.remove(&key);
        if logins.current.as_ref() == Some(&key) {
            logins.current = None;
        }
        self.write(&lock, &logins)?;
        Ok(login)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(name: &str) -> Login {
        Login {
            username: name.into(),
            access_token: "a-secret".into(),
            access_expires: Timestamp(1),
            refresh_token: "r-secret".into(),
        }
    }

    #[test]
    fn logins_are_kept_per_server_and_only_for_their_owner() {
        let folder = tempfile::tempdir().unwrap();
        let file = CredentialsFile {
            path: folder.path().join("deep/er/credentials.json"),
        };
        assert_eq!(file.read().unwrap(), Logins::default());
        let (one, two) = (ServerUrl::parse("http://one").unwrap(), ServerUrl::parse("https://two").unwrap());
        file.save(&one, login("ann")).unwrap();
        file.save(&two, login("ben")).unwrap();
        let logins = file.read().unwrap();
        assert_eq!(logins.current.as_deref(), Some("https://two"));
        assert_eq!(logins.servers["http://one"].username, "ann");
        assert_eq!(std::fs::metadata(&file.path).unwrap().permissions().mode() & 0o777, 0o600);

        assert_eq!(file.forget(&two).unwrap().unwrap().username, "ben");
        assert_eq!(file.read().unwrap().current, None);
        assert!(file.forget(&two).unwrap().is_none());

        std::fs::set_permissions(&file.path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(file.read(), Err(CredentialsError::Exposed(_))));
    }

    #[test]
    fn debug_shows_no_token() {
        assert!(!format!("{:?}", login("ann")).contains("secret"));
    }
}
