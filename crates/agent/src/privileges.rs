//! What a container may have of this node beyond what Docker gives by default: nothing, but what an admin of the machine wrote
//! into its configuration. What the control plane says of who asks for it does not count here.

use crate::config::NodeConfig;
use nm_link::contract::{AgentError, AgentErrorCode};
use nm_types::container::ContainerSpec;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// What is asked for, or what a container that is there has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    pub privileged: bool,
    pub host_network: bool,
    pub capabilities: Vec<String>,
    /// Paths of the node.
    pub devices: Vec<String>,
}

impl Asked {
    pub fn of(spec: &ContainerSpec) -> Self {
        Self {
            privileged: spec.privileged,
            host_network: spec.host_network,
            capabilities: spec.cap_add.iter().map(ToString::to_string).collect(),
            devices: spec.devices.iter().map(|d| d.host.to_string()).collect(),
        }
    }
}

pub struct Privileges {
    allow: NodeConfig,
    /// The file to say it in.
    file: PathBuf,
}

impl Privileges {
    pub fn new(allow: NodeConfig, file: PathBuf) -> Self {
        Self { allow, file }
    }

    /// Where each device really is, if all that is asked for is allowed. Looks at the disk.
    pub fn check(&self, asked: &Asked) -> Result<Vec<String>, AgentError> {
        if asked.privileged && !self.allow.allow_privileged {
            return Err(self.refuse("privileged", "A privileged container", "allow_privileged = true"));
        }
        if asked.host_network && !self.allow.allow_host_network {
            return Err(self.refuse("hostNetwork", "The host's network", "allow_host_network = true"));
        }
        for (i, capability) in asked.capabilities.iter().enumerate() {
            let plain = bare(capability);
            let allowed = self.allow.allow_capabilities.iter().map(|c| bare(c.as_str()));
            if !allowed.into_iter().any(|a| a == plain || a == "ALL") {
                let line = format!("allow_capabilities = [\"{plain}\"]");
                return Err(self.refuse(&format!("capAdd[{i}]"), &format!("The capability {plain}"), &line));
            }
        }
        asked.devices.iter().enumerate().map(|(i, path)| self.device(i, path)).collect()
    }

    fn device(&self, i: usize, path: &str) -> Result<String, AgentError> {
        let field = format!("devices[{i}].host");
        let real = match std::fs::canonicalize(path) {
            Ok(real) => real,
            Err(error) => {
                let text = format!("The node has no device `{path}`: {error}.");
                return Err(AgentError::new(AgentErrorCode::Invalid, text).field(field));
            }
        };
        // An allowed path counts as written and where it leads; what is asked for counts where it leads.
        let allowed = self.allow.allow_devices.iter().any(|allowed| {
            let allowed = Path::new(allowed.as_str());
            real.starts_with(allowed) || std::fs::canonicalize(allowed).is_ok_and(|a| real.starts_with(a))
        });
        let is_device = std::fs::metadata(&real).is_ok_and(|m| {
            let kind = m.file_type();
            kind.is_char_device() || kind.is_block_device() || kind.is_dir()
        });
        let shown = real.to_str().filter(|r| is_device && r.starts_with("/dev/") && !r.contains(':'));
        let Some(shown) = shown else {
            let text = format!("`{path}` leads to something that is not a device of the node.");
            return Err(AgentError::new(AgentErrorCode::Forbidden, text).field(field));
        };
        if allowed {
            Ok(shown.to_owned())
        } else {
            let line = format!("allow_devices = [\"{shown}\"]");
            Err(self.refuse(&field, &format!("The device `{path}`"), &line))
        }
    }

    fn refuse(&self, field: &str, what: &str, line: &str) -> AgentError {
        let text = format!(
            "{what} is not allowed on this node: an admin of the machine can allow it by the line `{line}` in {}, and a restart of the agent.",
            self.file.display()
        );
        AgentError::new(AgentErrorCode::Forbidden, text).field(field)
    }
}

/// A capability without the prefix that may be left out.
fn bare(name: &str) -> &str {
    name.strip_prefix("CAP_").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn privileges(config: &str) -> Privileges {
        Privileges::new(toml::from_str(config).unwrap(), "/data/agent.toml".into())
    }
    fn asked(change: impl FnOnce(&mut Asked)) -> Asked {
        let mut asked = Asked::default();
        change(&mut asked);
        asked
    }

    #[test]
    fn nothing_is_allowed_but_what_the_file_names() {
        let cap = |name: &str| asked(|a| a.capabilities = vec![name.into()]);
        let device = |path: &str| asked(|a| a.devices = vec![path.into()]);
        let all = "allow_privileged = true\nallow_host_network = true\nallow_capabilities = [\"ALL\"]\nallow_devices = [\"/dev/null\"]";
        for (what, asked, line, field) in [
            (
                "privileged",
                asked(|a| a.privileged = true),
                "allow_privileged = true",
                "privileged",
            ),
            (
                "the host's network",
                asked(|a| a.host_network = true),
                "allow_host_network = true",
                "hostNetwork",
            ),
            (
                "a capability",
                cap("NET_ADMIN"),
                "allow_capabilities = [\"NET_ADMIN\"]",
                "capAdd[0]",
            ),
            (
                "a capability by its whole name",
                cap("CAP_NET_ADMIN"),
                "allow_capabilities = [\"NET_ADMIN\"]",
                "capAdd[0]",
            ),
            ("all capabilities", cap("ALL"), "allow_capabilities = [\"ALL\"]", "capAdd[0]"),
            (
                "a device",
                device("/dev/null"),
                "allow_devices = [\"/dev/null\"]",
                "devices[0].host",
            ),
        ] {
            let error = privileges("").check(&asked).unwrap_err();
            assert_eq!(
                (error.code, error.field.as_deref()),
                (AgentErrorCode::Forbidden, Some(field)),
                "{what}"
            );
            assert!(
                error.message.contains(line) && error.message.contains("/data/agent.toml"),
                "{what}: {}",
                error.message
            );
            // The line it names is enough, and the lines of the others are not.
            privileges(line).check(&asked).unwrap_or_else(|e| panic!("{what}: {e}"));
            privileges(all).check(&asked).unwrap_or_else(|e| panic!("{what}: {e}"));
            for other in [
                "allow_privileged = true",
                "allow_host_network = true",
                "allow_capabilities = [\"SYS_TIME\"]",
                "allow_devices = [\"/dev/zero\"]",
            ] {
                assert!(other == line || privileges(other).check(&asked).is_err(), "{what} with {other}");
            }
        }
        privileges("").check(&Asked::default()).unwrap();
    }

    #[test]
    fn a_device_is_judged_where_it_leads() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("innocent");
        symlink("/etc/passwd", &link).unwrap();
        let device = |path: &str| asked(|a| a.devices = vec![path.into()]);
        // `/dev/fd` leads to the processes' files, `/dev/stdin` to whatever is open, and a link out of `/dev` to what it names.
        for path in [
            "/dev/fd",
            "/dev/../etc/passwd",
            link.to_str().unwrap(),
            "/dev/no-such-device",
            "/etc/passwd",
        ] {
            let error = privileges("allow_devices = [\"/dev/null\"]").check(&device(path)).unwrap_err();
            assert!(
                matches!(error.code, AgentErrorCode::Forbidden | AgentErrorCode::Invalid),
                "{path}: {error:?}"
            );
        }
        let folder = Path::new("/dev/pts");
        if folder.is_dir() {
            let allowed = privileges("allow_devices = [\"/dev/pts\"]").check(&device("/dev/pts/ptmx"));
            assert_eq!(allowed.unwrap(), ["/dev/pts/ptmx"]);
        }
        // A name that only begins like an allowed one is another.
        assert!(privileges("allow_devices = [\"/dev/nul\"]").check(&device("/dev/null")).is_err());
    }
}
