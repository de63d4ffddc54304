//! Whether a path of a node may be mounted into a container.
//!
//! A container that can write `/etc`, or talk to the Docker socket, owns the machine. So paths that hold the machine's own
//! configuration, programs, keys or devices are refused, and with them every folder above one (mounting `/var` gives
//! `/var/lib/docker`). Ordinary places for data (`/data`, `/srv`, `/opt/x`, `/home/x/data`, `/mnt`, `/tmp/x`) are free.
//! An admin may allow a path in the node's own configuration file, and nowhere else.
//!
//! The caller resolves symbolic links first; this decides on texts alone.

/// Trees that are refused whole: the path, what lies below it, and what lies above it.
const SYSTEM: &[(&str, &str)] = &[
    ("/bin", "it holds the machine's programs"),
    ("/boot", "it holds the machine's kernel"),
    ("/dev", "it holds the machine's devices"),
    ("/etc", "it holds the machine's configuration"),
    ("/lib", "it holds the machine's programs"),
    ("/lib32", "it holds the machine's programs"),
    ("/lib64", "it holds the machine's programs"),
    ("/libx32", "it holds the machine's programs"),
    ("/nix", "it holds the machine's programs"),
    ("/proc", "it is the kernel's view of every process"),
    ("/root", "it is the home of root"),
    ("/run", "it holds the sockets of the machine's services, Docker's among them"),
    ("/sbin", "it holds the machine's programs"),
    ("/snap", "it holds the machine's programs"),
    ("/sys", "it is the kernel's view of the machine"),
    ("/usr", "it holds the machine's programs"),
    ("/var/run", "it holds the sockets of the machine's services, Docker's among them"),
    ("/var/backups", "it holds copies of the machine's password files"),
    ("/var/lib/apt", "it is the machine's package database"),
    ("/var/lib/cloud", "it holds what starts the machine"),
    ("/var/lib/cni", "it is the state of the machine's networks"),
    ("/var/lib/containerd", "it holds the insides of every container"),
    ("/var/lib/containers", "it holds the insides of every container"),
    ("/var/lib/dbus", "it identifies the machine"),
    ("/var/lib/docker", "it holds the insides of every container"),
    ("/var/lib/dpkg", "it is the machine's package database"),
    ("/var/lib/kubelet", "it holds the secrets of every pod"),
    ("/var/lib/neuralmesh", "it is NeuralMesh's own data"),
    ("/var/lib/rpm", "it is the machine's package database"),
    ("/var/lib/systemd", "it is the state of the machine's services"),
    ("/var/spool/cron", "what is written there is run by the machine"),
];

/// What is particular to one node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Paths an admin allowed in the node's own configuration; what lies below each is allowed too. Where one is a symbolic
    /// link, the caller adds where it leads: only links in the configuration are trusted, never those found on the way.
    pub allow: Vec<String>,
    /// Paths that are refused as the system's are: our data folder, Docker's folder, Docker's socket.
    pub own: Vec<String>,
}

/// Why a path was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not absolute, or with `..` in it.
    #[error("`{path}` is not an absolute path without `..`")]
    NotAbsolute { path: String },
    #[error(
        "{path} may not be mounted into a container: {why}. Use another folder, or have an admin of the node allow it with `allow_binds` in the agent's configuration"
    )]
    System { path: String, why: String },
}

/// Decides on a path as asked for, and on where it leads once every symbolic link in it is followed: both must be fine,
/// or both lie below a path that the node's admin allowed.
///
/// `real` is the same as `requested` where no link is on the way.
pub fn judge(requested: &str, real: &str, rules: &Rules) -> Result<(), Refusal> {
    for path in [requested, real] {
        let parts = clean(path).ok_or_else(|| Refusal::NotAbsolute { path: path.to_owned() })?;
        let allowed = rules.allow.iter().filter_map(|a| clean(a)).any(|a| parts.starts_with(&a));
        if allowed {
            continue;
        }
        if let Some(why) = forbidden(&parts, rules) {
            let path = if path == requested {
                format!("`{path}`")
            } else {
                format!("`{requested}` (which leads to `{real}`)")
            };
            return Err(Refusal::System { path, why });
        }
    }
    Ok(())
}

fn forbidden(parts: &[&str], rules: &Rules) -> Option<String> {
    if parts.is_empty() {
        return Some("it is the whole machine".to_owned());
    }
    let system = SYSTEM.iter().map(|(path, why)| (*path, *why));
    let own = rules.own.iter().map(|path| (path.as_str(), "it belongs to NeuralMesh or Docker"));
    for (tree, why) in system.chain(own) {
        let Some(tree_parts) = clean(tree) else { continue };
        if parts.starts_with(&tree_parts) {
            return Some(why.to_owned());
        }
        if tree_parts.starts_with(parts) {
            return Some(format!("`{tree}` lies below it, and {why}"));
        }
    }
    // A whole home, or a hidden entry right in it, holds keys and start-up files: whoever writes them signs in as that user.
    match parts {
        ["home"] => Some("it holds every user's home".to_owned()),
        ["home", _] => Some("it is a user's whole home, with keys and start-up files; a folder inside it is fine".to_owned()),
        ["home", _, entry, ..] if entry.starts_with('.') => Some("it holds a user's own settings and keys".to_owned()),
        _ => None,
    }
}

/// The parts of an absolute path, without empty ones and `.`; `None` where it is not absolute or has `..`.
fn clean(path: &str) -> Option<Vec<&str>> {
    let rest = path.strip_prefix('/')?;
    let parts: Vec<&str> = rest.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    (!parts.contains(&"..")).then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules {
            allow: vec!["/etc/nginx".into(), "/usr/share/zoneinfo/".into()],
            own: vec!["/srv/nm-data".into(), "/opt/sock/docker.sock".into()],
        }
    }

    #[test]
    fn ordinary_places_are_free() {
        for path in [
            "/data/postgres",
            "/data",
            "/srv",
            "/srv/www",
            "/opt/x",
            "/opt",
            "/home/x/data",
            "/home/x/data/.cache",
            "/mnt",
            "/mnt/disk",
            "/media/usb",
            "/tmp/x",
            "/tmp",
            "/var/lib/postgresql",
            "/var/lib/mysql/data",
            "/var/log/nginx",
            "/var/www",
            "/etcetera",
            "/rooty",
            "/usrlocal",
            "//data///x/",
            "/data/./x",
        ] {
            let rules = Rules {
                own: Vec::new(),
                ..rules()
            };
            assert_eq!(judge(path, path, &rules), Ok(()), "{path}");
        }
    }

    #[test]
    fn the_machines_own_paths_are_refused() {
        for path in [
            "/",
            "//",
            "/./",
            "/etc",
            "/etc/",
            "/etc/passwd",
            "//etc",
            "/./etc/shadow",
            "/var/lib/docker",
            "/var/lib/docker/volumes",
            "/var/lib",
            "/var",
            "/proc",
            "/proc/1/root",
            "/sys",
            "/sys/fs/cgroup",
            "/dev",
            "/dev/sda",
            "/boot",
            "/run",
            "/run/docker.sock",
            "/var/run",
            "/var/run/docker.sock",
            "/root",
            "/root/.ssh",
            "/usr",
            "/usr/local/bin",
            "/bin",
            "/sbin",
            "/lib",
            "/lib64",
            "/var/spool/cron/crontabs",
            "/var/spool",
            "/home",
            "/home/x",
            "/home/x/.ssh",
            "/home/x/.config/systemd",
            "/srv/nm-data",
            "/srv/nm-data/stats",
            "/srv",
            "/opt/sock/docker.sock",
            "/opt/sock",
            "/opt",
            "/var/lib/containerd/x",
            "/var/lib/kubelet",
        ] {
            assert!(judge(path, path, &rules()).is_err(), "{path}");
        }
    }

    #[test]
    fn a_link_is_judged_by_where_it_leads_and_by_its_own_name() {
        assert!(judge("/data/link", "/etc", &rules()).is_err());
        assert!(judge("/data/link", "/", &rules()).is_err());
        assert!(judge("/etc/link", "/data/x", &rules()).is_err());
        assert_eq!(judge("/data/link", "/mnt/x", &rules()), Ok(()));
        let message = judge("/data/link", "/etc/ssl", &rules()).unwrap_err().to_string();
        assert!(message.starts_with("`/data/link` (which leads to `/etc/ssl`) may not"), "{message}");
    }

    #[test]
    fn an_admin_may_allow_a_path_and_what_lies_below() {
        for path in ["/etc/nginx", "/etc/nginx/conf.d", "/usr/share/zoneinfo/Europe"] {
            assert_eq!(judge(path, path, &rules()), Ok(()), "{path}");
        }
        assert_eq!(judge("/data/nginx", "/etc/nginx", &rules()), Ok(()), "a link to an allowed path");
        for path in ["/etc", "/etc/nginxx", "/etc/ssl", "/usr/share"] {
            assert!(judge(path, path, &rules()).is_err(), "{path}");
        }
        assert!(judge("/data/x", "/etc/ssl", &rules()).is_err());
        assert!(
            judge("/etc/nginx/link", "/etc/ssl", &rules()).is_err(),
            "a link below an allowed path leads out of it"
        );
    }

    #[test]
    fn what_is_not_a_clean_absolute_path_is_refused() {
        for path in ["", "etc", "data/x", "../etc", "/data/../etc", "/.."] {
            assert!(matches!(judge(path, path, &rules()), Err(Refusal::NotAbsolute { .. })), "{path}");
        }
    }
}
