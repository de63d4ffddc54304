//! What the agent remembers of each container of ours: the newest generation it was commanded with, the name and the state
//! that were wanted. Older commands are refused by it, and a stop that was asked for is known as such after a restart.
//!
//! One small file a container, `<data-dir>/containers/<id>.json`, replaced as a whole. There is no fsync: a file renamed into
//! place survives the end of this process however it ends, and after a power cut the machine's containers have ended too and
//! the control plane sends what it wants anew, with a generation as new as any that could have been lost.

use nm_link::contract::{AgentError, AgentErrorCode};
use nm_types::ContainerId;
use nm_types::text::ContainerName;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A removed container's file is kept this long, to refuse stragglers.
const KEEP_REMOVED_MS: i64 = 24 * 3600 * 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Desired {
    Created,
    Running,
    Paused,
    Stopped,
    Removed,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    pub generation: i64,
    pub desired: Desired,
    pub name: ContainerName,
    /// Unix milliseconds of the last change.
    pub at: i64,
}

#[derive(Debug, thiserror::Error)]
#[error("{action} {}", .path.display())]
pub struct FenceError {
    action: &'static str,
    path: PathBuf,
    source: std::io::Error,
}

impl From<FenceError> for AgentError {
    fn from(error: FenceError) -> Self {
        let full = matches!(
            error.source.kind(),
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
        );
        let (code, hint) = if full {
            (AgentErrorCode::DiskFull, "The node's disk is full: free some space. ")
        } else {
            (AgentErrorCode::Internal, "")
        };
        AgentError::new(code, format!("{hint}The agent could not {error}: {}.", error.source))
    }
}

pub struct Fence {
    dir: PathBuf,
    held: Mutex<HashMap<ContainerId, Held>>,
}

impl Fence {
    /// Reads what is there. A file that can't be read as ours is left alone and reported in the log: better to accept a
    /// command twice than to never start again.
    pub fn open(data_dir: &Path, now: i64) -> Result<Self, FenceError> {
        let dir = data_dir.join("containers");
        let fail = |action| {
            let path = dir.clone();
            move |source| FenceError { action, path, source }
        };
        std::fs::create_dir_all(&dir).map_err(fail("make the folder"))?;
        let mut held = HashMap::new();
        for entry in std::fs::read_dir(&dir).map_err(fail("read the folder"))? {
            let path = entry.map_err(fail("read the folder"))?.path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            let Some(id) = name.strip_suffix(".json").and_then(|id| ContainerId::parse(id).ok()) else {
                // What a crash left half written.
                if name.ends_with(".new") {
                    std::fs::remove_file(&path).map_err(fail("clean the folder"))?;
                }
                continue;
            };
            let bytes = std::fs::read(&path).map_err(|source| FenceError {
                action: "read",
                path: path.clone(),
                source,
            })?;
            match serde_json::from_slice::<Held>(&bytes) {
                Ok(h) if h.desired == Desired::Removed && now - h.at > KEEP_REMOVED_MS => {
                    std::fs::remove_file(&path).map_err(fail("clean the folder"))?;
                }
                Ok(h) => drop(held.insert(id, h)),
                Err(error) => tracing::warn!(path = %path.display(), %error, "the record of a container is damaged and is not used"),
            }
        }
        Ok(Self {
            dir,
            held: Mutex::new(held),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ContainerId, Held>> {
        // No code panics while it holds the lock; were it so, the map would still be whole.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, id: &ContainerId) -> Option<Held> {
        self.lock().get(id).cloned()
    }

    /// Accepts a command of `generation`, or refuses it as stale; what `change` makes of the record is on disk before this
    /// returns.
    pub fn accept(
        &self,
        id: &ContainerId,
        generation: i64,
        now: i64,
        change: impl FnOnce(Option<&Held>) -> (Desired, ContainerName),
    ) -> Result<(), AgentError> {
        let mut held = self.lock();
        let before = held.get(id);
        if let Some(before) = before
            && generation < before.generation
        {
            let text = format!(
                "This command is older (generation {generation}) than one the node has carried out (generation {}); nothing was done.",
                before.generation
            );
            return Err(AgentError::new(AgentErrorCode::Stale, text));
        }
        let (desired, name) = change(before);
        if before.is_some_and(|b| b.generation == generation && b.desired == desired && b.name == name) {
            return Ok(());
        }
        let after = Held {
            generation,
            desired,
            name,
            at: now,
        };
        // Under the lock, so that files are written in the order of their generations. It takes some 50 µs.
        self.write(id, &after)?;
        held.insert(id.clone(), after);
        Ok(())
    }

    /// Notes what happened to a container without a command of a control plane, such as `docker start`. One that is not known is
    /// not noted.
    pub fn note(&self, id: &ContainerId, desired: Desired, now: i64) -> Result<(), FenceError> {
        let mut held = self.lock();
        let Some(before) = held.get_mut(id) else { return Ok(()) };
        if before.desired == desired {
            return Ok(());
        }
        let after = Held {
            desired,
            at: now,
            ..before.clone()
        };
        self.write(id, &after)?;
        *before = after;
        Ok(())
    }

    fn write(&self, id: &ContainerId, held: &Held) -> Result<(), FenceError> {
        let path = self.dir.join(format!("{id}.json"));
        let new = self.dir.join(format!("{id}.new"));
        let written = serde_json::to_vec(held).map_err(std::io::Error::from).and_then(|json| {
            std::fs::File::create(&new)?.write_all(&json)?;
            std::fs::rename(&new, &path)
        });
        written.map_err(|source| {
            // Best effort: opening cleans up too.
            drop(std::fs::remove_file(&new));
            FenceError {
                action: "write",
                path,
                source,
            }
        })
    }

    /// Forgets containers that were removed more than a day ago.
    pub fn forget_removed(&self, now: i64) {
        self.lock().retain(|id, held| {
            let old = held.desired == Desired::Removed && now - held.at > KEEP_REMOVED_MS;
            if old && let Err(error) = std::fs::remove_file(self.dir.join(format!("{id}.json"))) {
                tracing::warn!(container.id = %id, %error, "the record of a removed container can't be deleted");
            }
            !old
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ContainerName {
        ContainerName::parse(text).unwrap()
    }

    #[test]
    fn older_generations_are_refused_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let id = ContainerId::fresh(1);
        let fence = Fence::open(dir.path(), 0).unwrap();
        fence.accept(&id, 5, 1, |_| (Desired::Running, name("web"))).unwrap();
        fence.accept(&id, 5, 1, |_| (Desired::Stopped, name("web"))).unwrap();
        assert_eq!(
            fence.accept(&id, 4, 1, |_| (Desired::Running, name("web"))).unwrap_err().code,
            AgentErrorCode::Stale
        );
        drop(fence);
        let fence = Fence::open(dir.path(), 0).unwrap();
        assert_eq!(
            fence.get(&id),
            Some(Held {
                generation: 5,
                desired: Desired::Stopped,
                name: name("web"),
                at: 1
            })
        );
        assert_eq!(
            fence.accept(&id, 4, 1, |_| (Desired::Running, name("web"))).unwrap_err().code,
            AgentErrorCode::Stale
        );
        fence.accept(&id, 6, 2, |h| (Desired::Running, h.unwrap().name.clone())).unwrap();
    }

    #[test]
    fn half_written_and_long_removed_records_are_cleaned_up() {
        let dir = tempfile::tempdir().unwrap();
        let (kept, gone) = (ContainerId::fresh(1), ContainerId::fresh(2));
        {
            let fence = Fence::open(dir.path(), 0).unwrap();
            for id in [&kept, &gone] {
                fence.accept(id, 1, 0, |_| (Desired::Running, name("web"))).unwrap();
            }
            fence.note(&gone, Desired::Removed, 10).unwrap();
        }
        let folder = dir.path().join("containers");
        std::fs::write(folder.join(format!("{kept}.new")), "{").unwrap();
        let fence = Fence::open(dir.path(), KEEP_REMOVED_MS + 11).unwrap();
        assert!(fence.get(&kept).is_some() && fence.get(&gone).is_none());
        let files: Vec<_> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(files, [format!("{kept}.json")]);
    }

    #[test]
    fn a_damaged_record_does_not_keep_the_agent_from_starting() {
        let dir = tempfile::tempdir().unwrap();
        let id = ContainerId::fresh(1);
        std::fs::create_dir(dir.path().join("containers")).unwrap();
        std::fs::write(dir.path().join(format!("containers/{id}.json")), "{\"generation\":").unwrap();
        assert_eq!(Fence::open(dir.path(), 0).unwrap().get(&id), None);
    }
}
