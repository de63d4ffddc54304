//! Volumes whose content is being replaced by a restore: a container that starts meanwhile would go on with the old one, which then
//! nobody has any more.

use super::Docker;
use nm_link::contract::{AgentError, AgentErrorCode as Code};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// By name, how many replace them.
#[derive(Default)]
pub struct Replaced(Mutex<BTreeMap<String, usize>>);

impl Replaced {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Until it is dropped, no container of these volumes is started.
pub struct Replacing {
    docker: Docker,
    volumes: Vec<String>,
}

impl Drop for Replacing {
    fn drop(&mut self) {
        let mut all = self.docker.replaced.lock();
        for name in &self.volumes {
            if let Some(count) = all.get_mut(name) {
                *count -= 1;
            }
        }
        all.retain(|_, count| *count > 0);
    }
}

impl Docker {
    pub fn replace_volumes(&self, volumes: Vec<String>) -> Replacing {
        let mut all = self.replaced.lock();
        for name in &volumes {
            *all.entry(name.clone()).or_default() += 1;
        }
        drop(all);
        Replacing {
            docker: self.clone(),
            volumes,
        }
    }

    /// Before a start: whether all volumes of a container are as they are to stay.
    pub(super) fn none_replaced<'a>(&self, volumes: impl IntoIterator<Item = &'a str>) -> Result<(), AgentError> {
        let all = self.replaced.lock();
        match volumes.into_iter().find(|name| all.contains_key(*name)) {
            Some(name) => {
                let text = format!("A backup is being restored into the volume `{name}`: start the container once that is done.");
                Err(AgentError::new(Code::InUse, text))
            }
            None => Ok(()),
        }
    }
}
