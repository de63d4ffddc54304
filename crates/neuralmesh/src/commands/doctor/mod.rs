//! `neuralmesh doctor`: what is missing on this machine, and how to mend it. Each check is a finding; none stops the next.

mod docker;
mod local;
mod remote;

use crate::cli::ClientArgs;
use crate::context::Context;
use crate::output::table::clean;
use clap::Args;
use crossterm::style::Stylize;
use serde::Serialize;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Looks at this machine as `neuralmesh up` would find it, and at the control plane
that commands go to. Ends with 1 when something is wrong.

Examples:
  neuralmesh doctor
  neuralmesh doctor --data-dir ~/.neuralmesh --listen 127.0.0.1:3002
  neuralmesh doctor -o json")]
pub struct DoctorArgs {
    /// Where a control plane or agent on this machine keeps its data
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/lib/neuralmesh",
        env = "NEURALMESH_DATA_DIR",
        hide_env_values = true
    )]
    pub data_dir: PathBuf,
    /// The key that seals secrets [default: <data-dir>/secrets.key]
    #[arg(long, value_name = "FILE", env = "NEURALMESH_KEY_FILE", hide_env_values = true)]
    pub key_file: Option<PathBuf>,
    /// Where the Docker engine listens
    #[arg(
        long,
        value_name = "SOCKET",
        default_value = "/var/run/docker.sock",
        env = "NEURALMESH_DOCKER_SOCKET",
        hide_env_values = true
    )]
    pub docker_socket: PathBuf,
    /// Address of the API and the dashboard
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "127.0.0.1:3001",
        env = "NEURALMESH_LISTEN",
        hide_env_values = true
    )]
    pub listen: SocketAddr,
    /// Address where agents dial in
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "127.0.0.1:7443",
        env = "NEURALMESH_AGENT_LISTEN",
        hide_env_values = true
    )]
    pub agent_listen: SocketAddr,
    #[command(flatten)]
    pub client: ClientArgs,
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    Warn,
    Fail,
}

/// One check: what was found, and what to do about it where something is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub check: &'static str,
    pub verdict: Verdict,
    pub found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Finding {
    pub fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self {
            check,
            verdict: Verdict::Ok,
            found: found.into(),
            fix: None,
        }
    }
    pub fn warn(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            check,
            verdict: Verdict::Warn,
            found: found.into(),
            fix: Some(fix.into()),
        }
    }
    pub fn fail(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            check,
            verdict: Verdict::Fail,
            found: found.into(),
            fix: Some(fix.into()),
        }
    }
}

pub async fn doctor(args: DoctorArgs) -> anyhow::Result<u8> {
    let key_file = args.key_file.clone().unwrap_or_else(|| args.data_dir.join("secrets.key"));
    let mut findings = vec![docker::engine(&args.docker_socket).await];
    findings.extend(
        [
            local::cgroups(),
            local::data_dir(&args.data_dir),
            local::space(&args.data_dir),
            local::key_file(&key_file),
        ]
        .into_iter()
        .flatten(),
    );
    findings.extend(remote::ports(args.listen, args.agent_listen).await);
    match Context::new(&args.client) {
        Ok(cx) => findings.extend(remote::control_plane(&cx).await),
        Err(e) => findings.push(Finding::fail(
            "control plane",
            format!("{e:#}"),
            "Mend what it says, or name the server with --server-url.",
        )),
    }
    let failed = findings.iter().any(|f| f.verdict == Verdict::Fail);
    let out = crate::output::Output::new(args.client.output);
    if out.is_json() {
        out.line(crate::output::json::pretty(&serde_json::to_string(&findings)?))?;
    } else {
        show(&findings, out)?;
    }
    Ok(u8::from(failed))
}

fn show(findings: &[Finding], out: crate::output::Output) -> std::io::Result<()> {
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let width = findings.iter().map(|f| f.check.len()).max().unwrap_or_default();
    for finding in findings {
        let word = match finding.verdict {
            Verdict::Ok if colour => "ok  ".green().to_string(),
            Verdict::Warn if colour => "warn".yellow().to_string(),
            Verdict::Fail if colour => "FAIL".red().bold().to_string(),
            Verdict::Ok => "ok  ".to_owned(),
            Verdict::Warn => "warn".to_owned(),
            Verdict::Fail => "FAIL".to_owned(),
        };
        out.line(format!("{word}  {:width$}  {}", finding.check, clean(&finding.found)))?;
        if let Some(fix) = &finding.fix {
            out.line(format!("      {:width$}  → {}", "", clean(fix)))?;
        }
    }
    let count = |verdict| findings.iter().filter(|f| f.verdict == verdict).count();
    let summary = match (count(Verdict::Fail), count(Verdict::Warn)) {
        (0, 0) => "Everything is in order.".to_owned(),
        (0, warnings) => format!("Nothing is broken; {warnings} to look at."),
        (failures, warnings) => format!("{failures} to mend, {warnings} to look at."),
    };
    out.line(format!("\n{summary}"))
}
