//! The process: its start, its signals, its end.

use crate::access_log::{AccessLog, LogFile};
use crate::control::{self, Control};
use crate::engine::{Engine, Refused};
use crate::file::{self, Unreadable};
use crate::instance::Instance;
use crate::takeover::{self, Inherited, Knowledge};
use crate::worker::Grace;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::HashMap;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};

/// How long the answers to those who ask for the last figures may take.
const LAST_WORDS: Duration = Duration::from_secs(2);

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
    /// How long they may where another process has taken over: nobody wants them ended, there is merely a newer one.
    pub handover_grace: Duration,
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
    #[error("take over from the running process")]
    TakeOver(#[source] io::Error),
    #[error("listen for signals")]
    Signals(#[source] io::Error),
}

/// Runs a proxy until it is told to end, or another process has taken over, and its connections have ended. Where a process
/// with the same control socket runs, this one takes over from it.
pub async fn run(options: Options) -> Result<(), StartError> {
    raise_file_limit();
    let mut terminate = signal(SignalKind::terminate()).map_err(StartError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Signals)?;
    let out: Box<dyn Write + Send> = match &options.access_log {
        AccessLogTo::Stdout => Box::new(io::stdout()),
        AccessLogTo::File(path) => Box::new(LogFile::open(path).map_err(StartError::AccessLog)?),
    };
    let access_log = AccessLog::new(out).map_err(StartError::AccessLog)?;
    let instance = Arc::new(Instance::new(options.workers.max(1), access_log));
    // A process that runs with this control socket is replaced. What it holds in its file is read after it has promised to
    // change it no more.
    let inherited = takeover::ask(&options.control_socket).map_err(StartError::TakeOver)?;
    let config = file::read(&options.config)?;
    let grace = Grace {
        closing: options.grace,
        handed_over: options.handover_grace,
    };
    let engine = Engine::start(instance, options.config.clone(), grace).map_err(StartError::Workers)?;
    let (sockets, knowledge, old) = match inherited {
        Some(inherited) => {
            let (sockets, knowledge, old) = inherited.into_parts();
            (sockets, knowledge, Some(old))
        }
        None => (HashMap::new(), Knowledge::default(), None),
    };
    if let Some(config) = config {
        engine
            .apply(&config, false, sockets, &knowledge)
            .map_err(|why| StartError::Config {
                file: options.config.display().to_string(),
                reason: tell(&why),
            })?;
    }
    let bind = |path: &Path| {
        control::bind(path).map_err(|source| StartError::Control {
            path: path.display().to_string(),
            source,
        })
    };
    let takeover_path = takeover::path(&options.control_socket);
    let listener = bind(&options.control_socket)?;
    let successors = bind(&takeover_path)?;
    let ours = [&options.control_socket, &takeover_path].map(|path| (path, inode(path)));
    if let Some(old) = old {
        Inherited::ready(old).map_err(StartError::TakeOver)?;
        tracing::info!("took over from the process before");
    }
    let control = Arc::new(Control {
        engine: engine.clone(),
        drain: Notify::new(),
        ended: watch::Sender::new(false),
    });
    let mut api = tokio::spawn(control::serve(listener, control.clone()));
    tracing::info!(workers = options.workers, socket = %options.control_socket.display(), "the proxy runs");
    let mut offer = tokio::spawn(takeover::offer(successors, engine.clone()));
    let handed_over = tokio::select! {
        _ = &mut offer => true,
        () = control.drain.notified() => false,
        _ = terminate.recv() => false,
        _ = interrupt.recv() => false,
    };
    offer.abort();
    tracing::info!(
        handed_over,
        grace_ms = grace.of(handed_over).as_millis(),
        "the proxy ends: open connections may finish"
    );
    engine.drain(handed_over);
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
    control.ended.send_replace(true);
    if tokio::time::timeout(LAST_WORDS, &mut api).await.is_err() {
        api.abort();
    }
    // Another process may have put its own sockets in their place meanwhile.
    for (path, before) in ours {
        if before.is_some()
            && inode(path) == before
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::warn!(%error, path = %path.display(), "the socket's file stays behind");
        }
    }
    Ok(())
}

/// [`run`] on this runtime, to its end. What it runs is then all made in this crate, and lies together in the program.
pub fn run_on(runtime: &tokio::runtime::Runtime, options: Options) -> Result<(), StartError> {
    runtime.block_on(run(options))
}

fn inode(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|m| m.ino())
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
