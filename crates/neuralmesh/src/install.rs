//! `neuralmesh agent install`: this machine as a node, run by systemd.
//!
//! The machine joins here and now, so that the token is spent before anything is written: it is in no file and in no unit. What
//! systemd starts needs the address of the control plane only; who the node is lies in its data folder.

use crate::run::{AgentCommand, InstallArgs, UninstallArgs};
use crate::serve::facts;
use anyhow::{Context, bail, ensure};
use nm_link::JoinToken;
use nm_link::agent::{DialOptions, IdentityStore, ServerUrl, join_or_stay};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

const UNIT: &str = include_str!("../../../contrib/systemd/neuralmesh-agent.service");
const UNIT_NAME: &str = "neuralmesh-agent.service";

/// Where things go on a machine. The unit says the same.
struct Places {
    executable: PathBuf,
    unit: PathBuf,
    settings: PathBuf,
    data: PathBuf,
    /// There where systemd runs, see sd_booted(3).
    booted: PathBuf,
    systemctl: PathBuf,
}

impl Places {
    fn of_this_machine() -> Self {
        Self::below(Path::new("/"), "systemctl".into())
    }

    fn below(root: &Path, systemctl: PathBuf) -> Self {
        Self {
            executable: root.join("usr/local/bin/neuralmesh"),
            unit: root.join("etc/systemd/system").join(UNIT_NAME),
            settings: root.join("etc/neuralmesh/agent.env"),
            data: root.join("var/lib/neuralmesh"),
            booted: root.join("run/systemd/system"),
            systemctl,
        }
    }
}

pub async fn run(command: AgentCommand) -> anyhow::Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the agent is installed and removed by root: run the same with sudo"
    );
    let places = Places::of_this_machine();
    match command {
        AgentCommand::Install(args) => install(&args, &places).await,
        AgentCommand::Uninstall(args) => uninstall(&args, &places).await,
    }
}

async fn install(args: &InstallArgs, places: &Places) -> anyhow::Result<()> {
    let servers = args.servers.iter().map(|s| s.parse::<ServerUrl>()).collect::<Result<Vec<_>, _>>()?;
    let first = servers
        .first()
        .context("an agent needs the address of a control plane: --server https://HOST:7443")?;
    if !places.booted.is_dir() {
        bail!(
            "systemd does not run on this machine: have its own supervisor run\n\n  {} agent --server {first}\n\n\
             with NEURALMESH_JOIN=<token> in its environment the first time, and restart it whenever it ends",
            places.executable.display()
        );
    }
    // Everything that can fail without the token goes first: it is good once.
    place_executable(&places.executable)?;
    let node = be_a_node(args, places, first).await?;
    write(&places.settings, settings(args, &servers).as_bytes(), 0o600)?;
    write(&places.unit, UNIT.as_bytes(), 0o644)?;
    systemctl(places, &["daemon-reload"]).await?;
    systemctl(places, &["enable", UNIT_NAME]).await?;
    // Also one that runs already takes the new settings.
    systemctl(places, &["restart", UNIT_NAME]).await?;
    println!("This machine is the node {node}. systemd runs its agent: systemctl status {UNIT_NAME}");
    Ok(())
}

/// The node this machine is, or has become by the token.
async fn be_a_node(args: &InstallArgs, places: &Places, server: &ServerUrl) -> anyhow::Result<String> {
    make_folder(&places.data)?;
    let store = IdentityStore::open(places.data.join("agent"))?;
    let Some(token) = &args.join else {
        if let Some(identity) = store.load()? {
            return Ok(identity.node().to_string());
        }
        bail!("this machine has not joined a fleet yet: `neuralmesh nodes join-token` makes a token, which goes into NEURALMESH_JOIN");
    };
    let token = JoinToken::parse(token)?;
    let identity = join_or_stay(&store, server, &token, &facts(&args.machine), &DialOptions::default()).await?;
    Ok(identity.node().to_string())
}

/// What the unit reads. The token is not among it.
fn settings(args: &InstallArgs, servers: &[ServerUrl]) -> String {
    let urls: Vec<String> = servers.iter().map(ToString::to_string).collect();
    let mut text = String::from("# Written by `neuralmesh agent install`. Every option of `neuralmesh agent` has its variable here.\n");
    let mut set = |name: &str, value: String| {
        text.push_str(&format!("{name}={value}\n"));
    };
    set("NEURALMESH_AGENT_SERVER", urls.join(","));
    set("NEURALMESH_DOCKER_SOCKET", args.machine.docker_socket.display().to_string());
    if let Some(name) = &args.machine.name {
        set("NEURALMESH_NAME", name.to_string());
    }
    text
}

/// Copies what runs to where the unit starts it, unless it is that already.
fn place_executable(to: &Path) -> anyhow::Result<()> {
    let from = std::env::current_exe().context("find the file that this program runs from")?;
    let same = |a: &Path, b: &Path| a.canonicalize().ok().is_some_and(|a| b.canonicalize().is_ok_and(|b| a == b));
    if same(&from, to) {
        return Ok(());
    }
    let bytes = std::fs::read("/proc/self/exe").context("read this program")?;
    write(to, &bytes, 0o755)
}

fn make_folder(path: &Path) -> anyhow::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("make the folder {}", path.display()))
}

/// Puts a file into its place whole: what runs or reads the old one is not disturbed.
fn write(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = path.with_file_name(format!(".{name}.new"));
    let written = || -> std::io::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&new)?;
        // Whatever the mask of this process is.
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    };
    written().with_context(|| format!("write {}", path.display()))
}

async fn systemctl(places: &Places, args: &[&str]) -> anyhow::Result<()> {
    let ended = tokio::process::Command::new(&places.systemctl)
        .args(args)
        .status()
        .await
        .with_context(|| format!("run {}", places.systemctl.display()))?;
    ensure!(ended.success(), "`systemctl {}` failed: it says why above", args.join(" "));
    Ok(())
}

async fn uninstall(args: &UninstallArgs, places: &Places) -> anyhow::Result<()> {
    if places.unit.exists() {
        systemctl(places, &["disable", "--now", UNIT_NAME]).await?;
        remove(&places.unit)?;
        systemctl(places, &["daemon-reload"]).await?;
    }
    remove(&places.settings)?;
    let agent = places.data.join("agent");
    if args.purge && agent.exists() {
        // systemd ended the agent alone: what it has started has no one else to end it.
        nm_agent::edge::end(&agent).await.context("end this node's load balancer")?;
        std::fs::remove_dir_all(&agent).with_context(|| format!("remove {}", agent.display()))?;
    }
    println!(
        "The agent runs here no more. Its containers run on.{}",
        if args.purge {
            " Its load balancer ends. `neuralmesh nodes rm` takes the node out of the fleet."
        } else {
            " So does its load balancer. The machine is still a node: `neuralmesh agent install` without a token takes it up again, --purge forgets it."
        }
    );
    Ok(())
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).with_context(|| format!("remove {}", path.display())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::MachineArgs;
    use nm_link::pki::{AGENT_LIFETIME, Authority, Csr, NodeKey, Validity};
    use nm_types::NodeId;
    use std::time::SystemTime;

    const NODE: &str = "node_1770000000000_abcdefghi";
    const TOKEN_SECRET: &str = "planted-secret-of-a-join-token-0123456789a8";
    /// Nobody listens there.
    const NOBODY: &str = "https://127.0.0.1:1";

    /// A machine below a folder, with a `systemctl` that writes down what it is asked.
    fn machine() -> (tempfile::TempDir, Places) {
        let root = tempfile::tempdir().unwrap();
        let systemctl = root.path().join("systemctl");
        let asked = root.path().join("asked");
        std::fs::write(&systemctl, format!("#!/bin/sh\necho \"$@\" >> {}\n", asked.display())).unwrap();
        std::fs::set_permissions(&systemctl, std::fs::Permissions::from_mode(0o755)).unwrap();
        let places = Places::below(root.path(), systemctl);
        (root, places)
    }

    fn args(join: Option<&str>) -> InstallArgs {
        InstallArgs {
            servers: vec![NOBODY.into(), "https://other.example.com".into()],
            join: join.map(str::to_owned),
            machine: MachineArgs {
                docker_socket: "/var/run/docker.sock".into(),
                name: Some(nm_types::text::NodeName::parse("alder").unwrap()),
            },
        }
    }

    fn joined(places: &Places) {
        let authority = Authority::generate(SystemTime::now()).unwrap();
        let key = NodeKey::generate().unwrap();
        let csr = Csr::parse(&key.csr(None).unwrap()).unwrap();
        let validity = Validity::starting(SystemTime::now(), AGENT_LIFETIME);
        let issued = authority.issue_agent(&csr, &NodeId::parse(NODE).unwrap(), validity).unwrap();
        let store = IdentityStore::open(places.data.join("agent")).unwrap();
        store.adopt(key, issued.pem, authority.trust()).unwrap();
    }

    fn files(root: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { folders.push(path) } else { found.push(path) }
            }
        }
        found
    }

    #[tokio::test]
    async fn systemd_runs_it_and_no_file_has_the_token() {
        let (root, places) = machine();
        std::fs::create_dir_all(&places.booted).unwrap();
        joined(&places);
        let token = format!("nm1.{}.{TOKEN_SECRET}", "a".repeat(64));
        for _ in 0..2 {
            install(&args(Some(&token)), &places).await.unwrap();
        }
        let asked = std::fs::read_to_string(root.path().join("asked")).unwrap();
        let once = "daemon-reload\nenable neuralmesh-agent.service\nrestart neuralmesh-agent.service\n";
        assert_eq!(asked, once.repeat(2));
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (mode(&places.unit), mode(&places.settings), mode(&places.executable)),
            (0o644, 0o600, 0o755)
        );
        let settings = std::fs::read_to_string(&places.settings).unwrap();
        assert!(
            settings.contains("NEURALMESH_AGENT_SERVER=https://127.0.0.1:1,https://other.example.com:7443\n"),
            "{settings}"
        );
        assert!(settings.contains("NEURALMESH_NAME=alder\n"), "{settings}");
        let unit = std::fs::read_to_string(&places.unit).unwrap();
        assert!(
            unit.contains("\nExecStart=/usr/local/bin/neuralmesh agent\nEnvironmentFile=/etc/neuralmesh/agent.env\n"),
            "{unit}"
        );
        for file in files(root.path()) {
            let bytes = std::fs::read(&file).unwrap();
            let found = file != places.executable && bytes.windows(TOKEN_SECRET.len()).any(|w| w == TOKEN_SECRET.as_bytes());
            assert!(!found, "the token is in {}", file.display());
        }

        uninstall(&UninstallArgs { purge: false }, &places).await.unwrap();
        assert!(!places.unit.exists() && !places.settings.exists() && places.data.join("agent").exists());
        uninstall(&UninstallArgs { purge: true }, &places).await.unwrap();
        assert!(!places.data.join("agent").exists());
        let asked = std::fs::read_to_string(root.path().join("asked")).unwrap();
        assert!(
            asked.ends_with("disable --now neuralmesh-agent.service\ndaemon-reload\n"),
            "{asked}"
        );
    }

    #[tokio::test]
    async fn without_systemd_it_says_what_to_do_and_spends_nothing() {
        let (root, places) = machine();
        let error = install(&args(Some("nm1.x.y")), &places).await.unwrap_err().to_string();
        assert!(
            error.contains("neuralmesh agent --server https://127.0.0.1:1") && error.contains("NEURALMESH_JOIN"),
            "{error}"
        );
        assert_eq!(files(root.path()), [root.path().join("systemctl")]);

        std::fs::create_dir_all(&places.booted).unwrap();
        let error = install(&args(None), &places).await.unwrap_err().to_string();
        assert!(error.contains("join-token"), "{error}");
        assert!(!places.unit.exists() && !places.settings.exists());
    }

    #[tokio::test]
    async fn a_systemctl_that_fails_is_told() {
        let (_root, places) = machine();
        std::fs::create_dir_all(&places.booted).unwrap();
        joined(&places);
        std::fs::write(&places.systemctl, "#!/bin/sh\nexit 1\n").unwrap();
        let error = install(&args(None), &places).await.unwrap_err().to_string();
        assert!(error.contains("systemctl daemon-reload"), "{error}");
    }
}
