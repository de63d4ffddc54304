//! From what was asked to what a worker is told: paths judged, volumes found, dumps offered, containers that are to stand still.

use super::dumps::{self, Dump};
use super::records::{Held, Undo};
use super::streams;
use crate::docker::Docker;
use crate::docker::hub::Record;
use crate::docker::replacing::Replacing;
use bytes::Bytes;
use nm_link::contract::{AgentError, AgentErrorCode as Code, ContainerKey, Prepare, RunJob};
use nm_types::backup::BackupConsistency;
use nm_types::backup::job::{Job, RepositoryAccess, RepositoryPlace, RestoreItem, Source, Task};
use nm_types::container::ContainerStatus;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use tokio::net::UnixListener;
use tokio::sync::mpsc;

/// A password's file that is longer is none.
const SECRET_AT_MOST: usize = 4 << 10;

/// What is ready to be begun. Nothing has been changed yet.
pub struct Prepared {
    pub job: Job,
    /// What is to be done to containers before, said as what undoes it.
    pub held: Vec<Held>,
    pub giving: Option<Stream>,
    pub taking: Option<Stream>,
    /// Volumes that are replaced.
    pub replacing: Option<Replacing>,
    /// Sockets that lead to repositories of other nodes, by whether each leads to the copy.
    pub doors: Vec<(bool, UnixListener)>,
    /// Removed after the job.
    pub leftovers: Vec<PathBuf>,
}

/// A dump on its way from or to a container.
pub struct Stream {
    pub record: Record,
    pub dump: Dump,
    pub listener: UnixListener,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Seen {
    #[serde(default)]
    mounts: Option<Vec<Mount>>,
    config: Config,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    #[serde(default)]
    env: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Mount {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    destination: String,
}

/// `scratch` is a folder of the agent's own.
pub async fn prepare(docker: &Docker, request: RunJob, scratch: &Path) -> Result<Prepared, AgentError> {
    let RunJob { prepare, mut job } = request;
    let key = job.key.clone();
    let door = judge_repository(docker, &mut job.repository, scratch, &format!("{key}.r.sock")).await?;
    let mut prepared = Prepared {
        job,
        doors: Vec::new(),
        held: Vec::new(),
        giving: None,
        taking: None,
        replacing: None,
        leftovers: Vec::new(),
    };
    prepared.opened(false, door);
    let record = match &prepare.container {
        Some(key) => {
            let key = ContainerKey::parse(key).ok_or_else(|| AgentError::new(Code::Invalid, "container is an id of ours, or Docker's."))?;
            Some(docker.resolve(&key).await?)
        }
        None => None,
    };
    let socket = format!("{key}.sock");
    match &mut prepared.job.task {
        Task::Backup(task) => {
            for source in &mut task.sources {
                match source {
                    Source::Path { path, .. } => *path = docker.backup_path(path).await?,
                    Source::Text { .. } => {}
                    Source::Stream { .. } => return Err(not_ours("A stream")),
                }
            }
            let still = match &record {
                Some(record) => {
                    let dump = match prepare.consistency {
                        BackupConsistency::Auto | BackupConsistency::Dump => dump_of(docker, record, &prepare).await?,
                        BackupConsistency::Pause | BackupConsistency::Stop | BackupConsistency::None => None,
                    };
                    Still::decide(record, &prepare, dump)?
                }
                None => Still::No,
            };
            let mut left_out = BTreeSet::new();
            match still {
                Still::No => {}
                Still::By(undo) => prepared.held.extend(record.as_ref().map(|record| held(docker, record, undo))),
                Still::Dump(dump) => {
                    if let Some(record) = record {
                        left_out = stood_for(docker, &record, &dump).await?;
                        let (listener, path) = listen(scratch, &socket)?;
                        task.sources.push(Source::Stream {
                            at: format!("/dumps/{}", dump.file),
                            socket: path.clone(),
                        });
                        prepared.leftovers.push(path.into());
                        prepared.giving = Some(Stream { record, dump, listener });
                    }
                }
            }
            for volume in prepare.volumes.iter().filter(|v| !left_out.contains(v.as_str())) {
                task.sources.push(Source::Path {
                    path: docker.mountpoint(volume.as_str()).await?,
                    at: format!("/volumes/{volume}"),
                });
            }
        }
        Task::Restore(task) => {
            for (n, item) in task.items.iter_mut().enumerate() {
                if task.scratch && item.to.is_empty() {
                    // Below a folder that no container can have mounted.
                    let to = scratch.join(format!("{key}-{n}"));
                    item.to = to.to_string_lossy().into_owned();
                    prepared.leftovers.push(to);
                } else {
                    item.to = docker.backup_path(&item.to).await?;
                }
            }
            for volume in &prepare.restore {
                let mountpoint = docker.mountpoint(volume.volume.as_str()).await?;
                task.items.push(RestoreItem {
                    from: volume.from.clone(),
                    to: below(&mountpoint, &volume.at)?,
                    replace: volume.replace,
                });
            }
            if !task.dry_run && !task.scratch && !prepare.restore.is_empty() {
                // Before it is asked who uses them.
                prepared.replacing = Some(docker.replace_volumes(prepare.restore.iter().map(|v| v.volume.to_string()).collect()));
                let uses = |r: &Record| {
                    matches!(r.observed.status, ContainerStatus::Running | ContainerStatus::Paused)
                        && prepare
                            .restore
                            .iter()
                            .any(|v| r.detail.volumes.iter().any(|used| used == v.volume.as_str()))
                };
                prepared
                    .held
                    .extend(docker.hub.all(uses).iter().map(|record| match record.observed.status {
                        ContainerStatus::Paused => held(docker, record, Undo::StartAndPause),
                        _ => held(docker, record, Undo::Start),
                    }));
            }
        }
        Task::Send(task) => {
            let record = record.ok_or_else(|| AgentError::new(Code::Invalid, "A dump is read into a container: container is missing."))?;
            let dump = dump_of(docker, &record, &prepare)
                .await?
                .filter(|dump| dump.restore.is_some())
                .ok_or_else(|| {
                    let text = format!(
                        "`{}` has no command that reads a dump in: restore the dump as a file, or give its config a dump with a `restore` command.",
                        record.observed.name
                    );
                    AgentError::new(Code::Invalid, text)
                })?;
            let (listener, path) = listen(scratch, &socket)?;
            task.socket.clone_from(&path);
            prepared.leftovers.push(path.into());
            prepared.taking = Some(Stream { record, dump, listener });
        }
        Task::Copy(task) => {
            let door = judge_repository(docker, &mut task.to, scratch, &format!("{key}.c.sock")).await?;
            prepared.opened(true, door);
        }
        Task::Check(_) | Task::Forget(_) | Task::Tree(_) | Task::List | Task::AddKey { .. } => {}
    }
    Ok(prepared)
}

/// How a container's files are kept from changing.
enum Still {
    No,
    By(Undo),
    Dump(Dump),
}

impl Still {
    fn decide(record: &Record, prepare: &Prepare, dump: Option<Dump>) -> Result<Self, AgentError> {
        let running = record.observed.status == ContainerStatus::Running;
        let alive = running || record.observed.status == ContainerStatus::Paused;
        Ok(match prepare.consistency {
            BackupConsistency::None => Self::No,
            // What is paused stands still already, and what does not run does so too: its files are all there is.
            BackupConsistency::Pause if running => Self::By(Undo::Unpause),
            BackupConsistency::Stop if running => Self::By(Undo::Start),
            BackupConsistency::Pause | BackupConsistency::Stop => Self::No,
            BackupConsistency::Auto => match dump {
                Some(dump) if running => Self::Dump(dump),
                None if running => Self::By(Undo::Unpause),
                Some(_) | None => Self::No,
            },
            BackupConsistency::Dump => {
                let name = &record.observed.name;
                if !running {
                    let (code, state) = if alive {
                        (Code::Paused, "is paused: unpause it")
                    } else {
                        (Code::NotRunning, "does not run: start it")
                    };
                    return Err(AgentError::new(code, format!("`{name}` {state} first, a dump is made by it.")));
                }
                match dump {
                    Some(dump) => Self::Dump(dump),
                    None => {
                        let text = format!("The image of `{name}` is none that is known: give the config a `dump` with its command.");
                        return Err(AgentError::new(Code::Invalid, text));
                    }
                }
            }
        })
    }
}

/// A folder of a volume.
fn below(mountpoint: &str, at: &str) -> Result<String, AgentError> {
    if at.is_empty() {
        return Ok(mountpoint.to_owned());
    }
    if at.split('/').any(|name| matches!(name, "" | "." | "..") || name.contains('\0')) {
        return Err(AgentError::new(
            Code::Invalid,
            "A folder of a volume is names with slashes between.",
        ));
    }
    Ok(format!("{mountpoint}/{at}"))
}

async fn seen(docker: &Docker, record: &Record) -> Result<Seen, AgentError> {
    let document = docker.inspect_raw(&record.observed.docker_id).await?;
    serde_json::from_value(document).map_err(|e| AgentError::new(Code::Internal, format!("Docker's answer can't be read: {e}.")))
}

async fn dump_of(docker: &Docker, record: &Record, prepare: &Prepare) -> Result<Option<Dump>, AgentError> {
    if let Some(dump) = &prepare.dump {
        return Ok(Some(dumps::of_user(dump)));
    }
    let given = seen(docker, record).await?.config.env.unwrap_or_default();
    let pairs = given.iter().filter_map(|entry| entry.split_once('='));
    let environment = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let Some(mut dump) = dumps::of_image(&record.observed.image, &environment) else {
        return Ok(None);
    };
    // Of a container that does not run nothing can be read, and no dump be made.
    if record.observed.status == ContainerStatus::Running {
        for (name, path) in std::mem::take(&mut dump.environment_files) {
            let value = read_in(docker, record, &path).await?;
            dump.environment.insert(name, value);
        }
    }
    Ok(Some(dump))
}

/// A secret that stands in a file of the container, as its image reads it.
async fn read_in(docker: &Docker, record: &Record, path: &str) -> Result<String, AgentError> {
    let (tx, mut rx) = mpsc::channel::<Bytes>(1);
    let mut text = Vec::new();
    let reading = async {
        while let Some(piece) = rx.recv().await {
            text.extend_from_slice(&piece[..piece.len().min(SECRET_AT_MOST - text.len())]);
        }
    };
    let command = vec!["cat".to_owned(), "--".to_owned(), path.to_owned()];
    let (ran, ()) = tokio::join!(docker.pipe_out(record, command, Vec::new(), tx), reading);
    match ran?.failure(&format!("Reading `{path}` in `{}`", record.observed.name)) {
        Some(failure) => Err(AgentError::new(Code::CommandFailed, failure)),
        None => Ok(String::from_utf8_lossy(&text).trim_end_matches(['\n', '\r']).to_owned()),
    }
}

fn held(docker: &Docker, record: &Record, undo: Undo) -> Held {
    Held {
        docker_id: record.observed.docker_id.clone(),
        undo,
        generation: docker.commanded(record),
    }
}

/// The container's volumes that hold nothing but what the dump has.
async fn stood_for(docker: &Docker, record: &Record, dump: &Dump) -> Result<BTreeSet<String>, AgentError> {
    let mounts = seen(docker, record).await?.mounts.unwrap_or_default().into_iter();
    Ok(mounts.filter(|m| dump.stands_for(&m.destination)).filter_map(|m| m.name).collect())
}

/// What a worker connects to where the repository is on another node.
type Door = Option<(UnixListener, String)>;

impl Prepared {
    fn opened(&mut self, copy: bool, door: Door) {
        if let Some((listener, path)) = door {
            self.doors.push((copy, listener));
            self.leftovers.push(path.into());
        }
    }
}

async fn judge_repository(docker: &Docker, repository: &mut RepositoryAccess, scratch: &Path, name: &str) -> Result<Door, AgentError> {
    match &mut repository.place {
        RepositoryPlace::Path { path } => *path = docker.backup_path(path).await?,
        RepositoryPlace::Socket { socket, .. } => {
            // Only an agent knows of a socket that leads to another node.
            if !socket.is_empty() {
                return Err(not_ours("A socket of a repository"));
            }
            let (listener, path) = listen(scratch, name)?;
            socket.clone_from(&path);
            return Ok(Some((listener, path)));
        }
        RepositoryPlace::S3 { .. } | RepositoryPlace::Sftp { .. } | RepositoryPlace::Rest { .. } => {}
    }
    Ok(None)
}

fn not_ours(what: &str) -> AgentError {
    let text = format!("{what} is nothing that can be asked for: sockets are the agent's own. Upgrade the node, or the control plane.");
    AgentError::new(Code::Forbidden, text)
}

fn listen(scratch: &Path, name: &str) -> Result<(UnixListener, String), AgentError> {
    streams::listen(scratch, name)
        .map_err(|e| AgentError::new(Code::Internal, format!("The agent could not open a socket for a dump: {e}.")))
}
