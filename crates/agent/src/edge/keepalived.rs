//! Addresses that several nodes share, by keepalived (VRRP, RFC 5798).
//!
//! keepalived runs as a process beside the agent, in the agent's own folder: an installation of the machine's is not touched. By
//! itself it looks every second whether the load balancer answers, so an address leaves a node also when its agent is away.

use super::backoff::Backoff;
use super::document;
use super::files::Log;
use super::process::Process;
use crate::host::addresses::{self, Address};
use nm_link::contract::VirtualAddress;
use rustix::process::Signal;
use std::fmt::Write;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::time::Instant;
use tracing::{info, warn};

/// Where packages put it.
const PLACES: [&str; 3] = ["/usr/sbin/keepalived", "/usr/local/sbin/keepalived", "/usr/bin/keepalived"];
/// How long the one that ends may take to give its addresses back.
const END: Duration = Duration::from_secs(5);
/// How long it may look at its configuration.
const TEST: Duration = Duration::from_secs(10);

pub struct Keepalived {
    dir: PathBuf,
    log: Log,
    check: Check,
    places: Vec<PathBuf>,
    running: Option<Running>,
    backoff: Backoff,
    pub problem: Option<String>,
}

struct Running {
    process: Process,
    since: Instant,
    log_from: u64,
}

/// How keepalived finds out whether the load balancer is well: `program` `proxy check --control-socket` `socket`.
#[derive(Debug, Clone)]
pub struct Check {
    pub program: PathBuf,
    pub socket: PathBuf,
}

/// An address with what this machine adds to it.
#[derive(Debug, PartialEq, Eq)]
struct Placed<'a> {
    address: &'a VirtualAddress,
    interface: &'a str,
    /// What the other nodes are to hear it from.
    source: Option<IpAddr>,
}

impl Keepalived {
    pub fn new(dir: PathBuf, check: Check) -> Self {
        Self {
            log: Log::new(dir.join("keepalived.log")),
            dir,
            check,
            places: PLACES.map(PathBuf::from).into(),
            running: None,
            backoff: Backoff::default(),
            problem: None,
        }
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    fn config(&self) -> PathBuf {
        self.dir.join("keepalived.conf")
    }
    fn pid_file(&self) -> PathBuf {
        self.dir.join("keepalived.pid")
    }

    /// Takes up the one that an agent before this one has started.
    pub fn adopt(&mut self) {
        if let Some(process) = found(&self.dir) {
            info!(pid = process.pid, "keepalived runs; it is taken up");
            self.running = Some(Running {
                process,
                since: Instant::now(),
                log_from: 0,
            });
        }
    }

    /// Brings about what is wanted, as far as it is not so yet.
    pub async fn carry(&mut self, wanted: &[VirtualAddress]) {
        if wanted.is_empty() {
            return self.dismiss().await;
        }
        match self.bring_about(wanted).await {
            Ok(missing) => {
                self.problem = missing;
                self.backoff.started();
            }
            Err(problem) => {
                // It is tried again and again; once is enough to say so.
                if self.problem.as_ref() != Some(&problem) {
                    warn!(problem, "the virtual addresses of this node are not carried");
                }
                self.problem = Some(problem);
            }
        }
        // A package may be installed, an interface may come: nobody tells.
        if self.problem.is_some() {
            self.backoff.failed(Duration::ZERO);
        }
    }

    /// What is carried; which addresses are not, in words.
    async fn bring_about(&mut self, wanted: &[VirtualAddress]) -> Result<Option<String>, String> {
        let program = self.places.iter().find(|p| p.is_file()).cloned();
        let program = program.ok_or("This node shares a virtual address, which keepalived does: install keepalived (on Debian and Ubuntu the package `keepalived`).")?;
        let addresses = addresses::all().map_err(|e| format!("This node's addresses can't be read: {e}."))?;
        let (placed, missing) = place(wanted, &addresses);
        let text = config(&placed, &self.check)?;
        let is_new = std::fs::read(self.config()).ok().as_deref() != Some(text.as_bytes());
        if is_new {
            let fresh = self.dir.join("keepalived.fresh.conf");
            document::write(&fresh, text.as_bytes()).map_err(|e| format!("keepalived's configuration can't be written: {e}."))?;
            test(&program, &fresh, &self.check.program).await?;
            std::fs::rename(&fresh, self.config()).map_err(|e| format!("keepalived's configuration can't be written: {e}."))?;
        }
        match &self.running {
            Some(running) if is_new => running
                .process
                .signal(Signal::HUP)
                .map_err(|e| format!("keepalived can't be told of its new configuration: {e}."))?,
            Some(_) => {}
            None => self.running = Some(self.start(&program).map_err(|e| format!("keepalived could not be started: {e}."))?),
        }
        Ok(missing)
    }

    fn start(&self, program: &Path) -> std::io::Result<Running> {
        // What one that was killed has left would keep it from starting once another process has its number.
        for stale in [self.pid_file(), self.dir.join("keepalived.vrrp.pid")] {
            match std::fs::remove_file(stale) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        let (log, log_from) = self.log.open()?;
        let mut command = Command::new(program);
        command
            .args(["--vrrp", "--dont-fork", "--log-console", "--no-syslog", "--use-file"])
            .arg(self.config())
            .arg("--pid")
            .arg(self.pid_file())
            .arg("--vrrp_pid")
            .arg(self.dir.join("keepalived.vrrp.pid"))
            // It has neither; without a word it would remove those of an installation of the machine's.
            .arg("--checkers_pid")
            .arg(self.dir.join("keepalived.checkers.pid"))
            .arg("--bfd_pid")
            .arg(self.dir.join("keepalived.bfd.pid"))
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let process = Process::spawn(command)?;
        info!(pid = process.pid, "keepalived was started");
        Ok(Running {
            process,
            since: Instant::now(),
            log_from,
        })
    }

    /// Waits until the one that runs has ended, and says how.
    pub async fn ended(&self) -> String {
        match &self.running {
            Some(running) => running.process.ended().await,
            None => std::future::pending().await,
        }
    }

    /// It has ended by itself.
    pub fn lost(&mut self, how: &str) {
        let Some(gone) = self.running.take() else { return };
        let said = self
            .log
            .last_words(gone.log_from)
            .map(|said| format!(" ({said})"))
            .unwrap_or_default();
        warn!(pid = gone.process.pid, how, "keepalived has ended; it is started again");
        self.problem = Some(format!("keepalived has ended and is started again: {how}{said}."));
        self.backoff.failed(gone.since.elapsed());
    }

    /// Waits until it is time to try again.
    pub async fn due(&self) {
        self.backoff.due().await;
    }

    /// Ends it; it gives its addresses back.
    async fn dismiss(&mut self) {
        self.backoff.rest();
        self.problem = None;
        if let Some(running) = self.running.take() {
            info!(pid = running.process.pid, "this node shares no address any more: keepalived ends");
            end(&running.process).await;
        }
        for file in [self.config(), self.pid_file()] {
            if let Err(error) = std::fs::remove_file(&file)
                && error.kind() != ErrorKind::NotFound
            {
                warn!(%error, file = %file.display(), "keepalived's file stays behind");
            }
        }
    }
}

/// The one that runs by the configuration in `dir`.
pub fn found(dir: &Path) -> Option<Process> {
    let text = std::fs::read_to_string(dir.join("keepalived.pid")).ok()?;
    let process = Process::of(text.trim().parse().ok()?).ok()?;
    // Its number may have come to mean another process.
    let config = dir.join("keepalived.conf");
    process.arguments().iter().any(|a| *a == *config).then_some(process)
}

/// Ends it in good order, or else by force.
pub async fn end(process: &Process) {
    let told = process.signal(Signal::TERM);
    if told.is_err() || tokio::time::timeout(END, process.ended()).await.is_err() {
        warn!(pid = process.pid, "keepalived does not end by itself; ending it");
        if let Err(error) = process.signal(Signal::KILL) {
            warn!(%error, "keepalived can't be ended");
        }
    }
}

/// Has keepalived read a configuration; what it has against it, in words.
async fn test(program: &Path, config: &Path, check: &Path) -> Result<(), String> {
    let mut command = tokio::process::Command::new(program);
    command
        .args(["--vrrp", "--log-console", "--no-syslog", "--config-test", "--use-file"])
        .arg(config)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = match tokio::time::timeout(TEST, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(e)) => return Err(format!("keepalived could not be started: {e}.")),
        Err(_) => return Err("keepalived does not say whether its configuration is right.".into()),
    };
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: Vec<&str> = said.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    let said = said.join("; ");
    // It runs as root what only root can change, and says no more than that.
    if said.contains("insecure") {
        let check = check.display();
        return Err(format!(
            "keepalived does not run {check}, as others than root can change it or a folder above it: put it into one of root's."
        ));
    }
    Err(format!("keepalived refuses its configuration: {said}."))
}

/// Puts each address on an interface; which have none, in words.
fn place<'a>(wanted: &'a [VirtualAddress], own: &'a [Address]) -> (Vec<Placed<'a>>, Option<String>) {
    let (mut placed, mut missing) = (Vec::new(), Vec::new());
    for address in wanted {
        let ip = address.address;
        let interface = match &address.interface {
            Some(name) if own.iter().any(|a| a.interface == *name) => name.as_str(),
            Some(name) => {
                missing.push(format!("this node has no interface `{name}` for {ip}"));
                continue;
            }
            None => match addresses::interface_for(ip, own) {
                Some(interface) => interface,
                None => {
                    missing.push(format!(
                        "no interface of this node is in the network of {ip}: say which one is to have it"
                    ));
                    continue;
                }
            },
        };
        placed.push(Placed {
            address,
            interface,
            source: source(address, interface, wanted, own),
        });
    }
    let missing = (!missing.is_empty()).then(|| format!("Not carried: {}.", missing.join("; ")));
    (placed, missing)
}

/// The interface's own address for what is said to peers. One of its own choosing could be a shared one, or link-local.
fn source(address: &VirtualAddress, interface: &str, wanted: &[VirtualAddress], own: &[Address]) -> Option<IpAddr> {
    let is_fit = |a: &&Address| {
        let link_local = matches!(a.ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
        let shared = wanted.iter().any(|w| w.address == a.ip);
        a.interface == interface && a.ip.is_ipv4() == address.address.is_ipv4() && !link_local && !shared
    };
    own.iter().find(is_fit).map(|a| a.ip)
}

/// keepalived.conf(5). Everything in it is a number, an address, or made of letters that mean nothing to it.
fn config(placed: &[Placed<'_>], check: &Check) -> Result<String, String> {
    let (program, socket) = (plain(&check.program)?, plain(&check.socket)?);
    // An advert each quarter of a second, and a node counts as dead after twelve that did not come: as quick as three of one second
    // each, and not put out by packets that are lost here and there. Whose the address is, is said again every two seconds: a neighbour
    // that missed it, or had just heard another, would go on sending to the node before for half a minute.
    let mut text = format!(
        "# Written by the NeuralMesh agent: what is changed here is lost.\n\
         global_defs {{\n    router_id neuralmesh\n    vrrp_version 3\n    vrrp_check_unicast_src\n    script_user root\n    enable_script_security\n    vrrp_garp_master_delay 1\n    \
         vrrp_garp_master_refresh 2\n}}\n\
         vrrp_script load_balancer {{\n    script \"{program} proxy check --control-socket {socket}\"\n    interval 1\n    timeout 2\n    fall 2\n    rise 1\n    init_fail\n}}\n"
    );
    for Placed {
        address,
        interface,
        source,
    } in placed
    {
        let VirtualAddress {
            address: ip,
            prefix,
            router_id,
            priority,
            peers,
            interface: _,
        } = address;
        let family = if ip.is_ipv4() { "v4" } else { "v6" };
        let mut peering = String::new();
        if !peers.is_empty() {
            if let Some(source) = source {
                peering.push_str(&format!("    unicast_src_ip {source}\n"));
            }
            peering.push_str("    unicast_peer {\n");
            for peer in peers {
                peering.push_str(&format!("        {peer}\n"));
            }
            peering.push_str("    }\n");
        }
        write!(
            text,
            "vrrp_instance {family}_{router_id} {{\n    state BACKUP\n    interface {interface}\n    virtual_router_id {router_id}\n    \
             priority {priority}\n    advert_int 0.25\n    down_timer_adverts 12\n{peering}    virtual_ipaddress {{\n        \
             {ip}/{prefix} dev {interface}\n    }}\n    track_script {{\n        load_balancer\n    }}\n}}\n"
        )
        .map_err(|e| e.to_string())?;
    }
    Ok(text)
}

/// A path as keepalived takes it in a command line: what it would read as something else is refused.
fn plain(path: &Path) -> Result<&str, String> {
    let right = |b: u8| b.is_ascii_alphanumeric() || b"/._-+".contains(&b);
    match path.to_str() {
        Some(text) if path.is_absolute() && text.bytes().all(right) => Ok(text),
        _ => Err(format!(
            "keepalived can't be told the path {}: move it to one of letters, digits, `.`, `_`, `-` and `+` only.",
            path.display()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(ip: &str, interface: Option<&str>, peers: &[&str]) -> VirtualAddress {
        VirtualAddress {
            address: ip.parse().unwrap(),
            prefix: if ip.contains(':') { 64 } else { 24 },
            interface: interface.map(str::to_owned),
            router_id: 7,
            priority: 100,
            peers: peers.iter().map(|p| p.parse().unwrap()).collect(),
        }
    }

    fn own() -> Vec<Address> {
        [
            ("lo", "127.0.0.1", 8),
            ("eth0", "10.0.0.100", 24),
            ("eth0", "10.0.0.5", 24),
            ("eth0", "fe80::5", 64),
            ("eth0", "fd00::5", 64),
        ]
        .map(|(interface, ip, prefix)| Address {
            interface: interface.into(),
            ip: ip.parse().unwrap(),
            prefix,
        })
        .into()
    }

    fn check() -> Check {
        Check {
            program: "/usr/local/bin/neuralmesh".into(),
            socket: "/var/lib/neuralmesh/agent/edge/proxy.sock".into(),
        }
    }

    #[test]
    fn an_address_is_put_where_its_network_is() {
        let (own, wanted) = (
            own(),
            [
                shared("10.0.0.100", None, &["10.0.0.6"]),
                shared("fd00::100", None, &["fd00::6"]),
                shared("192.0.2.1", None, &[]),
                shared("192.0.2.2", Some("eth0"), &[]),
                shared("192.0.2.3", Some("eth9"), &[]),
            ],
        );
        let (placed, missing) = place(&wanted, &own);
        let seen: Vec<(&str, Option<String>)> = placed.iter().map(|p| (p.interface, p.source.map(|s| s.to_string()))).collect();
        let v4 = Some("10.0.0.5".to_owned());
        assert_eq!(seen, [("eth0", v4.clone()), ("eth0", Some("fd00::5".into())), ("eth0", v4)]);
        let missing = missing.unwrap();
        assert!(missing.contains("network of 192.0.2.1") && missing.contains("`eth9`"), "{missing}");
    }

    #[test]
    fn its_configuration_says_everything() {
        let (own, wanted) = (own(), [shared("10.0.0.100", None, &["10.0.0.6", "10.0.0.7"])]);
        let text = config(&place(&wanted, &own).0, &check()).unwrap();
        let expected = "\
vrrp_instance v4_7 {
    state BACKUP
    interface eth0
    virtual_router_id 7
    priority 100
    advert_int 0.25
    down_timer_adverts 12
    unicast_src_ip 10.0.0.5
    unicast_peer {
        10.0.0.6
        10.0.0.7
    }
    virtual_ipaddress {
        10.0.0.100/24 dev eth0
    }
    track_script {
        load_balancer
    }
}
";
        assert!(text.ends_with(expected), "{text}");
        assert!(
            text.contains("    vrrp_garp_master_delay 1\n    vrrp_garp_master_refresh 2\n}\n"),
            "{text}"
        );
        let script = "script \"/usr/local/bin/neuralmesh proxy check --control-socket /var/lib/neuralmesh/agent/edge/proxy.sock\"\n";
        assert!(text.contains(script), "{text}");
        let (_, alone) = (own, [shared("10.0.0.100", Some("eth0"), &[])]);
        let text = config(&place(&alone, &self::own()).0, &check()).unwrap();
        assert!(!text.contains("unicast_peer") && !text.contains("unicast_src_ip"), "{text}");
    }

    #[test]
    fn a_path_that_could_be_read_otherwise_is_refused() {
        for path in ["/a b", "/a\"", "/a\nb", "relative", "/a$b", "/a!b", "/a#b"] {
            let check = Check {
                socket: path.into(),
                ..check()
            };
            assert!(config(&[], &check).is_err(), "{path}");
        }
    }

    #[tokio::test]
    async fn without_it_a_person_is_told_to_install_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut keepalived = Keepalived::new(dir.path().to_owned(), check());
        keepalived.places = vec![dir.path().join("nowhere")];
        keepalived.carry(&[shared("10.0.0.100", None, &[])]).await;
        assert!(keepalived.problem.as_ref().is_some_and(|p| p.contains("install keepalived")));
        keepalived.carry(&[]).await;
        assert_eq!(keepalived.problem, None);
    }
}
