//! The process: its start, its signals, its end.

use crate::access_log::AccessLog;
use crate::control::{self, Control};
use crate::engine::{Engine, Refused};
use crate::file::{self, Unreadable};
use crate::instance::Instance;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

/// How a proxy is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// The last configuration; written with each new one.
    pub config: PathBuf,
    /// Where the API listens.
    pub control_socket: PathBuf,
    /// Threads that carry traffic.
    pub workers: usize,
    /// How long connections may take to end when the process, or a listener, does.
    pub grace: Duration,
    pub access_log: AccessLogTo,
}

/// Where the access log goes.
#[derive(Debug, Clone)]
pub enum AccessLogTo {
    Stdout,
    File(PathBuf),
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    File(#[from] Unreadable),
    #[error("the configuration in {file} can't be used: {reason}")]
    Config { file: String, reason: String },
    #[error("start the workers")]
    Workers(#[source] io::Error),
    #[error("open the access log")]
    AccessLog(#[source] io::Error),
    #[error("listen on the control socket {path}")]
    Control {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("listen for signals")]
    Signals(#[source] io::Error),
}

/// Runs a proxy until it is told to end and its connections have ended.
pub async fn run(options: Options) -> Result<(), StartError> {
    raise_file_limit();
    let mut terminate = signal(SignalKind::terminate()).map_err(StartError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Signals)?;
    let out: Box<dyn Write + Send> = match &options.access_log {
        AccessLogTo::Stdout => Box::new(io::stdout()),
        AccessLogTo::File(path) => {
            let file = OpenOptions::new().create(true).append(true).mode(0o640).open(path);
            Box::new(file.map_err(StartError::AccessLog)?)
        }
    };
    let access_log = AccessLog::new(out).map_err(StartError::AccessLog)?;
    let instance = Arc::new(Instance::new(options.workers.max(1), access_log));
    let config = file::read(&options.config)?;
    let engine = Engine::start(instance, options.config.clone(), options.grace).map_err(StartError::Workers)?;
    if let Some(config) = config {
        engine.apply(&config, false, HashMap::new()).map_err(|why| StartError::Config {
            file: options.config.display().to_string(),
            reason: tell(&why),
        })?;
    }
    let listener = control::bind(&options.control_socket).map_err(|source| StartError::Control {
        path: options.control_socket.display().to_string(),
        source,
    })?;
    let control = Arc::new(Control {
        engine: engine.clone(),
        drain: Notify::new(),
    });
    let api = tokio::spawn(control::serve(listener, control.clone()));
    tracing::info!(workers = options.workers, socket = %options.control_socket.display(), "the proxy runs");
    tokio::select! {
        () = control.drain.notified() => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!(grace_ms = options.grace.as_millis(), "the proxy ends: open connections may finish");
    engine.drain(false);
    let ending = tokio::task::spawn_blocking({
        let engine = engine.clone();
        move || engine.join()
    });
    // Who asks twice has no patience.
    tokio::select! {
        _ = ending => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    api.abort();
    // The socket may be another process's by now; only our own is removed by name.
    if let Err(error) = std::fs::remove_file(&options.control_socket) {
        tracing::debug!(%error, "the control socket was gone");
    }
    Ok(())
}

/// Each connection takes two file descriptors; as many as the system allows are asked for.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

fn tell(why: &Refused) -> String {
    match why {
        Refused::Invalid(problems) => {
            let all: Vec<String> = problems.iter().map(|p| format!("{}: {}", p.field, p.message)).collect();
            all.join("; ")
        }
        Refused::Stale { .. } | Refused::Draining | Refused::Write { .. } | Refused::Worker(_) => why.to_string(),
    }
}
