//! What an agent is told, and the node's own configuration file.

use crate::backups::BackupWorker;
use crate::edge::LoadBalancer;
use nm_types::text::{Capability, DevicePath};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// How an agent is set up.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Where it keeps what it must remember; made when absent.
    pub data_dir: PathBuf,
    pub docker_socket: PathBuf,
    /// What else of ours lies on this machine, folders and files: no container gets any of it.
    pub own: Vec<PathBuf>,
    /// How its load balancer is started; without, it carries no traffic.
    pub load_balancer: Option<LoadBalancer>,
    /// How workers of backup jobs are started; without, it makes no backups.
    pub backup_worker: Option<BackupWorker>,
}

impl AgentConfig {
    pub const DEFAULT_SOCKET: &'static str = "/var/run/docker.sock";
}

/// `<data-dir>/agent.toml`, written by an admin of the machine and by nobody else: what may be done here that is refused
/// everywhere by default.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Paths of this machine that may be mounted into containers although they belong to the system: `["/etc/nginx"]`.
    #[serde(default)]
    pub allow_binds: Vec<PathBuf>,
    /// Containers that have all of the machine.
    #[serde(default)]
    pub allow_privileged: bool,
    /// Containers without a network of their own.
    #[serde(default)]
    pub allow_host_network: bool,
    /// Capabilities beyond Docker's usual ones, such as `NET_ADMIN`; `ALL` allows every one.
    #[serde(default)]
    pub allow_capabilities: Vec<Capability>,
    /// Devices, or folders of devices: `["/dev/dri"]`.
    #[serde(default)]
    pub allow_devices: Vec<DevicePath>,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("can't read {}", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is not right: {}", .path.display(), .source.message())]
    Parse { path: PathBuf, source: Box<toml::de::Error> },
    #[error("{}: `allow_binds` has `{}`, which is not an absolute path", .path.display(), .entry.display())]
    Relative { path: PathBuf, entry: PathBuf },
    #[error("{} can be written by others than its owner: an admin's word must be an admin's", .path.display())]
    Writable { path: PathBuf },
}

impl NodeConfig {
    /// Where it lies.
    pub fn path(data_dir: &Path) -> PathBuf {
        data_dir.join("agent.toml")
    }

    /// No file is the default configuration.
    pub fn load(data_dir: &Path) -> Result<Self, ConfigError> {
        use std::os::unix::fs::PermissionsExt;
        let path = Self::path(data_dir);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(ConfigError::Read { path, source }),
        };
        let mode = std::fs::metadata(&path)
            .map_err(|source| ConfigError::Read {
                path: path.clone(),
                source,
            })?
            .permissions()
            .mode();
        if mode & 0o022 != 0 {
            return Err(ConfigError::Writable { path });
        }
        let config: Self = toml::from_str(&text).map_err(|source| ConfigError::Parse {
            path: path.clone(),
            source: source.into(),
        })?;
        match config.allow_binds.iter().find(|p| !p.is_absolute()) {
            Some(entry) => Err(ConfigError::Relative {
                path,
                entry: entry.clone(),
            }),
            None => Ok(config),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn load(text: &str, mode: u32) -> Result<NodeConfig, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.toml");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        NodeConfig::load(dir.path())
    }

    #[test]
    fn the_file_is_read_strictly() {
        assert_eq!(
            NodeConfig::load(tempfile::tempdir().unwrap().path()).unwrap(),
            NodeConfig::default()
        );
        assert_eq!(
            load("allow_binds = [\"/etc/nginx\"]\n", 0o644).unwrap().allow_binds,
            [PathBuf::from("/etc/nginx")]
        );
        assert!(matches!(load("allow_binds = [\"etc\"]", 0o644), Err(ConfigError::Relative { .. })));
        let given = load(
            "allow_privileged = true\nallow_host_network = true\nallow_capabilities = [\"NET_ADMIN\"]\nallow_devices = [\"/dev/dri\"]\n",
            0o600,
        );
        let privileges = given.unwrap();
        assert!(privileges.allow_privileged && privileges.allow_host_network);
        assert_eq!((privileges.allow_capabilities.len(), privileges.allow_devices.len()), (1, 1));
        for wrong in [
            "alow_binds = []",
            "allow_privilegd = true",
            "allow_privileged = \"yes\"",
            "allow_capabilities = [\"net admin\"]",
            "allow_devices = [\"/etc\"]",
            "allow_devices = [\"/dev/../etc\"]",
        ] {
            assert!(matches!(load(wrong, 0o644), Err(ConfigError::Parse { .. })), "{wrong}");
        }
        assert!(matches!(load("", 0o666), Err(ConfigError::Writable { .. })));
    }
}
