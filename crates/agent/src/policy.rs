//! Bind mounts, judged on this machine: where a path really leads, then [`nm_plan::binds`].
//!
//! The real path is what Docker is given, so that a link put there later is not followed by it; it is judged again before every
//! start of ours. What remains is the moment between that and the mount itself, and restarts by Docker's own policy: whoever
//! can swap a folder for a link there already has the folder's parent mounted for writing.

use nm_link::contract::{AgentError, AgentErrorCode};
use nm_plan::binds::{self, Rules};
use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

pub struct BindPolicy {
    allow: Vec<PathBuf>,
    own: Vec<PathBuf>,
    socket: PathBuf,
}

impl BindPolicy {
    /// `allow`: what an admin allowed on this node.
    pub fn new(allow: Vec<PathBuf>, data_dir: &Path, others: &[PathBuf], socket: &Path) -> Self {
        let own = [data_dir, socket].into_iter().map(Path::to_owned);
        Self {
            allow,
            own: own.chain(others.iter().cloned()).collect(),
            socket: socket.to_owned(),
        }
    }

    /// The path of this machine that mounting `path` really mounts, or why it may not be. `docker_root` is Docker's own
    /// folder. Looks at the disk.
    pub fn check(&self, path: &str, docker_root: &str) -> Result<String, AgentError> {
        let real = self.judge(path, docker_root)?;
        if real.contains(':') {
            let text = format!("`{path}` can't be mounted: it leads to a path that Docker can't be told.");
            return Err(AgentError::new(AgentErrorCode::Forbidden, text));
        }
        Ok(real)
    }

    /// The same for what backups read and write.
    pub fn check_backup(&self, path: &str, docker_root: &str) -> Result<String, AgentError> {
        self.judge(path, docker_root).map_err(|mut e| {
            // Judged alike, said of another use.
            e.message = e
                .message
                .replace("may not be mounted into a container", "may not be used by backups");
            e.message = e.message.replace("can't be mounted", "can't be used by backups");
            e
        })
    }

    fn judge(&self, path: &str, docker_root: &str) -> Result<String, AgentError> {
        let refuse = |text: String| AgentError::new(AgentErrorCode::Forbidden, text);
        let real = real_path(Path::new(path)).map_err(|why| refuse(format!("`{path}` can't be mounted: {why}.")))?;
        let Some(real) = real.to_str() else {
            return Err(refuse(format!("`{path}` can't be mounted: it leads to a path that is not text.")));
        };
        let mut own: Vec<String> = self.own.iter().flat_map(|p| with_real(p)).collect();
        own.extend(with_real(Path::new(docker_root)));
        let rules = Rules {
            allow: self.allow.iter().flat_map(|p| with_real(p)).collect(),
            own,
        };
        binds::judge(path, real, &rules).map_err(|e| refuse(format!("{e}.")))?;
        if let Ok(meta) = std::fs::metadata(real) {
            let kind = meta.file_type();
            if kind.is_block_device() || kind.is_char_device() {
                return Err(refuse(format!("`{path}` is a device; devices are not given to containers.")));
            }
            // The socket under another name: a hard link, or a mount of it.
            let is_socket = std::fs::metadata(&self.socket).is_ok_and(|s| (s.dev(), s.ino()) == (meta.dev(), meta.ino()));
            if is_socket {
                return Err(refuse(format!("`{path}` is Docker's socket: whoever has it owns the machine.")));
            }
        }
        Ok(real.to_owned())
    }
}

/// The path as it is written, and where it leads if that is elsewhere.
fn with_real(path: &Path) -> Vec<String> {
    let mut all = vec![path.to_string_lossy().into_owned()];
    if let Ok(real) = real_path(path) {
        let real = real.to_string_lossy().into_owned();
        if real != all[0] {
            all.push(real);
        }
    }
    all
}

/// Follows every link of the part that exists; the rest is appended as it stands.
fn real_path(path: &Path) -> Result<PathBuf, String> {
    let mut rest: Vec<OsString> = Vec::new();
    let mut existing = path.to_owned();
    loop {
        match std::fs::canonicalize(&existing) {
            Ok(mut real) => {
                real.extend(rest.iter().rev());
                return Ok(real);
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) if e.kind() == ErrorKind::NotADirectory => return Err("a part of it is not a folder".to_owned()),
            Err(e) => return Err(e.to_string()),
        }
        // What does not resolve but is there is a link to nothing: it could lead anywhere once Docker makes the folder.
        if std::fs::symlink_metadata(&existing).is_ok() {
            return Err(format!("`{}` is a link to nothing", existing.display()));
        }
        let (Some(name), Some(parent)) = (
            existing.file_name().map(ToOwned::to_owned),
            existing.parent().map(ToOwned::to_owned),
        ) else {
            return Err("it is not an absolute path".to_owned());
        };
        rest.push(name);
        existing = parent;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_followed_before_judging() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        let (data, free) = (base.join("agent-data"), base.join("free"));
        for d in [&data, &free] {
            std::fs::create_dir(d).unwrap();
        }
        let socket = base.join("engine.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        symlink("/etc", free.join("to-etc")).unwrap();
        symlink(&data, free.join("to-data")).unwrap();
        symlink(free.join("nowhere"), free.join("dangling")).unwrap();
        symlink(base.join("free"), base.join("alias")).unwrap();
        std::fs::hard_link(&socket, free.join("innocent")).unwrap();
        std::fs::write(free.join("file"), "").unwrap();
        // The control plane's own, on the same machine.
        let control = base.join("control");
        std::fs::create_dir(&control).unwrap();
        std::fs::write(control.join("secrets.key"), "").unwrap();
        let policy = BindPolicy::new(Vec::new(), &data, std::slice::from_ref(&control), &socket);
        let check = |p: PathBuf| policy.check(p.to_str().unwrap(), "/var/lib/docker");
        assert_eq!(check(free.join("new/folder")).unwrap(), free.join("new/folder").to_str().unwrap());
        assert_eq!(check(base.join("alias/x")).unwrap(), free.join("x").to_str().unwrap());
        for bad in [
            free.join("to-etc"),
            free.join("to-etc/nginx"),
            free.join("to-data"),
            data.join("x"),
            control.join("secrets.key"),
            control.join("new"),
            data.clone(),
            socket.clone(),
            free.join("innocent"),
            free.join("dangling"),
            free.join("dangling/x"),
            free.join("file/x"),
            base.clone(),
            "/dev/null".into(),
            "/".into(),
        ] {
            assert_eq!(check(bad.clone()).unwrap_err().code, AgentErrorCode::Forbidden, "{}", bad.display());
        }
    }

    #[test]
    fn an_admin_may_allow_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        symlink("/etc/ssl", base.join("link")).unwrap();
        let policy = BindPolicy::new(
            vec![base.join("link")],
            &base.join("data"),
            &[base.join("control")],
            &base.join("s"),
        );
        assert_eq!(
            policy.check(base.join("link/certs").to_str().unwrap(), "/x").unwrap(),
            "/etc/ssl/certs"
        );
    }
}
