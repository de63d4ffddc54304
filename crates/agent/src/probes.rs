//! Probes: whether what users rely on answers, beside whether it runs.
//!
//! Invariants: nothing is asked but this machine's own loopback and its containers' own addresses; programs run inside
//! containers only, by argument list; what services and programs write stays here.

use crate::docker::Docker;
use crate::docker::hub::Record;
use futures_util::StreamExt;
use nm_link::ask::{get_status, is_wanted, wanted_status};
use nm_link::contract::{AgentError, AgentErrorCode as Code, ContainerKey, ProbeResult, RunProbe, RunProbes};
use nm_types::container::{ContainerStatus, ExecCommand};
use nm_types::health::{PROBES_AT_MOST, Probe, ProbeKind};
use nm_types::server::PROBE_TIMEOUT;
use nm_types::text::Environment;
use nm_types::units::Bounded;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// Probes under way at once.
const AT_ONCE: usize = 10;

/// How to ask systemd.
#[derive(Debug, Clone)]
struct Systemd {
    /// There while systemd is what runs the machine: sd_booted(3).
    booted: PathBuf,
    program: PathBuf,
}

impl Default for Systemd {
    fn default() -> Self {
        Self {
            booted: "/run/systemd/system".into(),
            program: "systemctl".into(),
        }
    }
}

/// What a probe saw, good or bad.
struct Outcome {
    ok: bool,
    measured: String,
    message: String,
}

fn passed(measured: impl Into<String>) -> Outcome {
    Outcome {
        ok: true,
        measured: measured.into(),
        message: String::new(),
    }
}

fn failed(measured: impl Into<String>, message: impl Into<String>) -> Outcome {
    Outcome {
        ok: false,
        measured: measured.into(),
        message: message.into(),
    }
}

/// Runs all of them; gives their results in the same order.
pub async fn run(docker: &Docker, request: RunProbes) -> Result<Vec<ProbeResult>, AgentError> {
    check(&request)?;
    let all = request.probes.into_iter().map(|probe| one(docker, probe));
    Ok(futures_util::stream::iter(all).buffered(AT_ONCE).collect().await)
}

/// What the control plane checked before is checked again.
fn check(request: &RunProbes) -> Result<(), AgentError> {
    let invalid = |field: String, message: &str| AgentError::new(Code::Invalid, format!("{field}: {message}")).field(field);
    if request.probes.len() > PROBES_AT_MOST {
        return Err(invalid("probes".into(), "has at most 20 entries"));
    }
    for (i, RunProbe { container, probe }) in request.probes.iter().enumerate() {
        if let Some(problem) = probe.problems(&format!("probes[{i}]")).into_iter().next() {
            return Err(invalid(problem.field, &problem.message));
        }
        match (probe.kind, container) {
            (ProbeKind::Command, None) => return Err(invalid(format!("probes[{i}].container"), "a command runs in a container")),
            (ProbeKind::Systemd, Some(_)) => return Err(invalid(format!("probes[{i}].container"), "systemd runs on the node")),
            (_, Some(key)) if ContainerKey::parse(key).is_none() => {
                return Err(invalid(format!("probes[{i}].container"), "is no key of a container"));
            }
            _ => {}
        }
    }
    Ok(())
}

async fn one(docker: &Docker, run: RunProbe) -> ProbeResult {
    let probe = &run.probe;
    let began = Instant::now();
    let seconds = probe.timeout.map_or(PROBE_TIMEOUT, |t| t.get().unsigned_abs());
    let work = async {
        match probe.kind {
            ProbeKind::Http | ProbeKind::Tcp => match place(docker, &run).await {
                Ok(ip) => connect(probe, ip).await,
                Err(outcome) => outcome,
            },
            ProbeKind::Command => match container(docker, &run).await {
                Ok(record) => command(docker, &record, probe, seconds).await,
                Err(outcome) => outcome,
            },
            ProbeKind::Systemd => unit(&Systemd::default(), probe).await,
        }
    };
    // A command has its own end at `seconds`, which also ends the program; this one is behind it.
    let patience = match probe.kind {
        ProbeKind::Command => Duration::from_secs(seconds + 2),
        ProbeKind::Http | ProbeKind::Tcp | ProbeKind::Systemd => Duration::from_secs(seconds),
    };
    let outcome = match tokio::time::timeout(patience, work).await {
        Ok(outcome) => outcome,
        Err(_) => late(seconds),
    };
    ProbeResult {
        ok: outcome.ok,
        measured: outcome.measured,
        limit: limit(probe),
        message: outcome.message,
        took: began.elapsed().as_secs_f64() * 1000.0,
    }
}

fn late(seconds: u64) -> Outcome {
    failed("no answer", format!("it did not answer within {seconds} seconds"))
}

fn limit(probe: &Probe) -> String {
    match probe.kind {
        ProbeKind::Http => wanted_status(wanted(probe)),
        ProbeKind::Tcp => "connects".into(),
        ProbeKind::Command => "exit code 0".into(),
        ProbeKind::Systemd => "active".into(),
    }
}

fn wanted(probe: &Probe) -> Option<u16> {
    probe.expect_status.and_then(|s| u16::try_from(s.get()).ok())
}

/// The container it is aimed at, while it runs.
async fn container(docker: &Docker, run: &RunProbe) -> Result<Record, Outcome> {
    let Some(key) = run.container.as_deref().and_then(ContainerKey::parse) else {
        return Err(failed("not asked", "it names no container"));
    };
    let record = docker.resolve(&key).await.map_err(|e| failed("not asked", e.message))?;
    match record.observed.status {
        ContainerStatus::Running => Ok(record),
        other => Err(failed(
            other.as_str(),
            format!("container `{}` does not run: start it", record.observed.name),
        )),
    }
}

/// Where to ask: this machine's loopback, or the container's own address.
async fn place(docker: &Docker, run: &RunProbe) -> Result<IpAddr, Outcome> {
    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    if run.container.is_none() {
        return Ok(LOOPBACK);
    }
    let record = container(docker, run).await?;
    let on = &record.observed.networks;
    if on.iter().any(|a| a.network == "host") {
        return Ok(LOOPBACK);
    }
    on.iter().find_map(|a| a.ip.as_deref()?.parse().ok()).ok_or_else(|| {
        failed(
            "no address",
            format!(
                "container `{}` has no address on any network: attach it to one",
                record.observed.name
            ),
        )
    })
}

async fn connect(probe: &Probe, ip: IpAddr) -> Outcome {
    let Some(port) = probe.port else {
        return failed("not asked", "it names no port");
    };
    let address = SocketAddr::new(ip, port.get());
    let stream = match TcpStream::connect(address).await {
        Ok(stream) => stream,
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => {
            return failed("connection refused", format!("nothing listens on {address}"));
        }
        Err(e) => return failed("no connection", format!("{address} can't be connected to: {e}")),
    };
    if probe.kind == ProbeKind::Tcp {
        return passed("connected");
    }
    let path = probe.path.as_ref().map_or("/", |p| p.as_str());
    match get_status(stream, &address.to_string(), path).await {
        Ok(status) if is_wanted(status, wanted(probe)) => passed(format!("status {status}")),
        Ok(status) => failed(format!("status {status}"), format!("{address}{path} answers with another status")),
        Err(error) => {
            tracing::debug!(%address, error = &error as &dyn std::error::Error, "a probe got no HTTP answer");
            failed("no HTTP answer", format!("what listens on {address} does not answer in HTTP"))
        }
    }
}

async fn command(docker: &Docker, record: &Record, probe: &Probe, seconds: u64) -> Outcome {
    let command = ExecCommand {
        command: probe.command.clone(),
        environment: Environment::default(),
        user: None,
        working_dir: None,
        timeout: Some(Bounded::clamped(i64::try_from(seconds).unwrap_or(1))),
    };
    match docker.exec(record, &command).await {
        Ok(result) => match result.exit_code {
            Some(0) => passed("exit code 0"),
            Some(code) => failed(
                format!("exit code {code}"),
                format!("the program failed in container `{}`", record.observed.name),
            ),
            None => late(seconds),
        },
        Err(error) => failed("not run", error.message),
    }
}

async fn unit(systemd: &Systemd, probe: &Probe) -> Outcome {
    let Some(unit) = &probe.unit else {
        return failed("not asked", "it names no unit");
    };
    if !Path::new(&systemd.booted).is_dir() {
        return failed("no systemd", "this node does not run systemd: remove the probe");
    }
    let asked = tokio::process::Command::new(&systemd.program)
        .args(["is-active", "--", unit.as_str()])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await;
    match asked {
        // It ends with 0 only when the unit is active: systemctl(1).
        Ok(out) if out.status.success() => passed("active"),
        Ok(out) => {
            let state: String = String::from_utf8_lossy(&out.stdout)
                .trim()
                .chars()
                .filter(char::is_ascii_alphabetic)
                .take(20)
                .collect();
            let state = if state.is_empty() { "not active".to_owned() } else { state };
            failed(
                state,
                format!("unit {unit} is not active: see `systemctl status {unit}` on the node"),
            )
        }
        Err(e) => failed("not asked", format!("systemctl can't be started: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn probe(json: &str) -> Probe {
        serde_json::from_str(json).unwrap()
    }

    #[tokio::test]
    async fn units_are_asked_for_by_argument_list() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("systemctl");
        // Says what a real one would of a unit called `bad.service`, and keeps what it was called with.
        let script = "#!/bin/sh\nfor a in \"$@\"; do echo \"[$a]\" >> \"$(dirname \"$0\")/asked\"; done\n\
                      if [ \"$3\" = bad.service ]; then echo failed; exit 3; fi\necho active\n";
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let systemd = Systemd {
            booted: dir.path().to_owned(),
            program,
        };
        let good = unit(&systemd, &probe(r#"{"name":"u","type":"systemd","unit":"good.service"}"#)).await;
        assert!(good.ok && good.measured == "active", "{}", good.message);
        let bad = unit(&systemd, &probe(r#"{"name":"u","type":"systemd","unit":"bad.service"}"#)).await;
        assert!(!bad.ok && bad.measured == "failed", "{}", bad.message);
        let asked = std::fs::read_to_string(dir.path().join("asked")).unwrap();
        assert_eq!(asked, "[is-active]\n[--]\n[good.service]\n[is-active]\n[--]\n[bad.service]\n");
        let none = Systemd {
            booted: dir.path().join("none"),
            ..systemd
        };
        let away = unit(&none, &probe(r#"{"name":"u","type":"systemd","unit":"good.service"}"#)).await;
        assert!(!away.ok && away.message.contains("does not run systemd"));
    }

    #[test]
    fn what_does_not_fit_is_refused_here_too() {
        let request = |container: Option<&str>, json: &str| RunProbes {
            probes: vec![RunProbe {
                container: container.map(str::to_owned),
                probe: probe(json),
            }],
        };
        for (bad, field) in [
            (
                request(None, r#"{"name":"a","type":"command","command":["true"]}"#),
                "probes[0].container",
            ),
            (
                request(Some("../x"), r#"{"name":"a","type":"command","command":["true"]}"#),
                "probes[0].container",
            ),
            (
                request(Some("cont_1_aaaaaaaaa"), r#"{"name":"a","type":"systemd","unit":"x"}"#),
                "probes[0].container",
            ),
            (request(None, r#"{"name":"a","type":"http"}"#), "probes[0].port"),
            (request(None, r#"{"name":"a","type":"tcp","port":1,"unit":"x"}"#), "probes[0].unit"),
        ] {
            let error = check(&bad).unwrap_err();
            assert_eq!((error.code, error.field.as_deref()), (Code::Invalid, Some(field)));
        }
        let many = RunProbes {
            probes: vec![request(None, r#"{"name":"a","type":"tcp","port":1}"#).probes.remove(0); 21],
        };
        assert_eq!(check(&many).unwrap_err().field.as_deref(), Some("probes"));
    }
}
