//! Containers of tasks. They come and go by the thousand and are told of elsewhere ([`crate::tasks`]): what Docker says of them is
//! looked at here and goes no further. They are known by the names that tasks gave them, not by a label, which an image can have.

use super::super::wire::Event;
use nm_link::contract::{TaskKey, labels};
use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Default)]
struct Known {
    names: HashSet<String>,
    /// Docker's ids of those that are there.
    ids: HashSet<String>,
    /// Those of which a process was killed for want of memory.
    oom: HashSet<String>,
}

#[derive(Default)]
pub struct Hidden(Mutex<Known>);

impl Hidden {
    fn lock(&self) -> MutexGuard<'_, Known> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before the container is made.
    pub fn hide(&self, name: String) {
        self.lock().names.insert(name);
    }

    /// Whether the container of this name, as Docker has it, is a task's.
    pub fn is_hidden(&self, name: &str) -> bool {
        self.lock().names.contains(name.strip_prefix('/').unwrap_or(name))
    }

    /// Whether one of its processes was killed for want of memory.
    pub fn had_oom(&self, docker_id: &str) -> bool {
        self.lock().oom.contains(docker_id)
    }

    /// Whether the event is about a task's container.
    pub(super) fn takes(&self, event: &Event, past: bool) -> bool {
        let mut known = self.lock();
        let attribute = |name: &str| event.actor.attributes.get(name).map(String::as_str);
        match event.kind.as_str() {
            "network" => attribute("container").is_some_and(|id| known.ids.contains(id)),
            "container" => {
                let id = &event.actor.id;
                let name = attribute("name").unwrap_or_default();
                if !known.names.contains(name) && !known.ids.contains(id) {
                    // One that was gone before this process began is known by both marks.
                    let key = TaskKey::of_docker_name(name).map(|key| key.to_string());
                    return past && key.is_some() && key.as_deref() == attribute(labels::TASK);
                }
                match event.action.as_str() {
                    "create" => drop(known.ids.insert(id.clone())),
                    "oom" => drop(known.oom.insert(id.clone())),
                    "destroy" => {
                        known.names.remove(name);
                        known.ids.remove(id);
                        known.oom.remove(id);
                    }
                    _ => {}
                }
                true
            }
            _ => false,
        }
    }
}
