//! What Docker's events mean, and which containers they make worth a look.

use super::super::wire::Event;
use super::{Hub, World, now, now_nanos};
use crate::fence::Desired;
use nm_link::contract::{WatchEvent, labels};
use nm_types::{ContainerId, Timestamp};
use std::sync::PoisonError;

/// An event is taken for already seen when the last look began after it, by no more than this (see [`Hub::next_look`]).
const SEEN_WITHIN_NANOS: i64 = 1_000_000_000;

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Dirty {
    pub(super) newest: i64,
    /// The event says something that a look at the container does not show.
    pub(super) sure: bool,
    pub(super) ours: bool,
}

impl Hub {
    /// The newest event's time in unix nanoseconds; 0 before the first.
    pub fn last_event(&self) -> i64 {
        self.lock().last_event
    }

    /// Takes in one of Docker's events. One that is `past` happened before the snapshot that will follow, and only tells how
    /// containers came to end.
    pub fn event(&self, event: &Event, past: bool) {
        let mut world = self.lock();
        world.last_event = world.last_event.max(event.time_nano);
        if self.hidden.takes(event, past) {
            return;
        }
        self.journal.event(event, |ours| {
            ours.and_then(|id| self.fence.get(id)).map(|held| held.name.to_string())
        });
        let id = &event.actor.id;
        let attribute = |name: &str| event.actor.attributes.get(name).map(String::as_str);
        // `health_status: healthy` has its value in its name.
        let action = event.action.split(':').next().unwrap_or_default();
        match (event.kind.as_str(), action) {
            ("container", "kill") => {
                let stop_signal = world.containers.get(id).map_or("SIGTERM", |r| r.detail.stop_signal.as_str());
                if attribute("signal").is_some_and(|s| ends_it(s, stop_signal)) {
                    world.asked.insert(id.clone());
                }
            }
            ("container", "stop") => {
                world.ends.insert(id.clone(), true);
                self.dirty(&mut world, id, event, true, past);
            }
            ("container", "die") => {
                let asked = world.asked.remove(id);
                world.ends.insert(id.clone(), asked);
                if asked && !past {
                    self.note(&world, event, Desired::Stopped);
                }
                self.dirty(&mut world, id, event, true, past);
            }
            ("container", "start") => {
                world.asked.remove(id);
                world.ends.remove(id);
                world.oom.remove(id);
                if !past {
                    self.note(&world, event, Desired::Running);
                }
                self.dirty(&mut world, id, event, false, past);
            }
            ("container", "oom") => {
                world.oom.insert(id.clone(), event.time_nano);
                if !past {
                    self.publish(WatchEvent::Oom {
                        docker_id: id.clone(),
                        time: Timestamp(event.time_nano / 1_000_000),
                    });
                }
                self.dirty(&mut world, id, event, true, past);
            }
            ("container", "destroy") if !past => {
                let known = world.containers.contains_key(id);
                self.forget(&mut world, id);
                if known {
                    self.publish(WatchEvent::Removed { docker_id: id.clone() });
                }
            }
            ("container", "exec_die") if !past => {
                if let Some(exec) = attribute("execID") {
                    let waiter = self.execs.lock().unwrap_or_else(PoisonError::into_inner).remove(exec);
                    if let Some(waiter) = waiter {
                        let code = attribute("exitCode").and_then(|c| c.parse().ok());
                        if waiter.send(code).is_err() {
                            tracing::debug!(exec, "nobody waits for a command that ended");
                        }
                    }
                }
            }
            ("container", "create" | "pause" | "unpause" | "rename" | "update" | "health_status") => {
                self.dirty(&mut world, id, event, action == "health_status", past)
            }
            ("network", "connect" | "disconnect") => {
                if let Some(container) = attribute("container") {
                    self.dirty(&mut world, container, event, false, past);
                }
            }
            ("network", "create") if !past => {
                if let Some(name) = attribute("name") {
                    world.networks.insert(name.to_owned());
                }
            }
            ("network", "destroy") if !past => {
                if let Some(name) = attribute("name") {
                    world.networks.remove(name);
                }
            }
            _ => {}
        }
    }

    /// Remembers, beyond this process, what others did to a container of ours.
    fn note(&self, world: &World, event: &Event, desired: Desired) {
        let Some(ours) = event.actor.attributes.get(labels::ID).and_then(|l| ContainerId::parse(l).ok()) else {
            return;
        };
        // Its label may be its image's, and so no mark of ours.
        let known = world.containers.get(&event.actor.id);
        if known.is_some_and(|record| record.observed.id.as_ref() != Some(&ours)) {
            return;
        }
        if let Err(error) = self.fence.note(&ours, desired, now()) {
            tracing::warn!(container.id = %ours, %error, "what happened to a container could not be noted");
        }
    }

    fn dirty(&self, world: &mut World, id: &str, event: &Event, sure: bool, past: bool) {
        if past || id.is_empty() {
            return;
        }
        let ours = event.actor.attributes.get(labels::ID).is_some_and(|l| world.busy.contains_key(l));
        let dirty = world.dirty.entry(id.to_owned()).or_default();
        dirty.newest = dirty.newest.max(event.time_nano);
        dirty.sure |= sure;
        dirty.ours |= ours;
        self.wake.notify_one();
    }

    /// The sampler saw the kernel's count of kills for want of memory rise. Docker's own event usually says the same.
    pub fn oom_counted(&self, docker_id: &str) {
        let mut world = self.lock();
        let time = now_nanos();
        let told = world.oom.get(docker_id).is_some_and(|at| time - at < 3_000_000_000);
        let Some(record) = world.containers.get(docker_id).filter(|_| !told) else {
            return;
        };
        self.journal
            .oom(time, docker_id, record.observed.id.as_ref(), &record.observed.name);
        world.oom.insert(docker_id.to_owned(), time);
        self.publish(WatchEvent::Oom {
            docker_id: docker_id.to_owned(),
            time: Timestamp(time / 1_000_000),
        });
        world.dirty.entry(docker_id.to_owned()).or_default().sure = true;
        self.wake.notify_one();
    }

    /// The next container to look at because of an event; [`Hub::looked`] must follow.
    ///
    /// An event that the last look, begun after it, must have shown is dropped: a create and start of ours would cause three
    /// more looks else. Both times come from this machine's clock; should it have been set back by more than a second in
    /// between, the event counts as new.
    pub fn next_look(&self) -> Option<String> {
        let mut world = self.lock();
        let world = &mut *world;
        let (containers, busy, looking) = (&world.containers, &world.busy, &world.looking);
        world.dirty.retain(|id, dirty| {
            let Some(record) = containers.get(id) else { return true };
            let age = record.seen_at - dirty.newest;
            dirty.sure || !(0..SEEN_WITHIN_NANOS).contains(&age)
        });
        let is_busy = |id: &String, dirty: &Dirty| {
            looking.contains(id)
                || busy.contains_key(id)
                || containers.get(id).and_then(|r| r.observed.id.as_ref()).is_some_and(|o| busy.contains_key(o.as_str()))
                // Made by an operation that is still under way, which does not know its Docker id yet.
                || (dirty.ours && !containers.contains_key(id) && !busy.is_empty())
        };
        let id = world
            .dirty
            .iter()
            .find(|(id, dirty)| !is_busy(id, dirty))
            .map(|(id, _)| id.clone())?;
        world.dirty.remove(&id);
        world.looking.insert(id.clone());
        Some(id)
    }

    pub fn looked(&self, docker_id: &str) {
        self.lock().looking.remove(docker_id);
        self.wake.notify_one();
    }

    /// Looks that were under way when the connection broke are over.
    pub fn reset_looks(&self) {
        let mut world = self.lock();
        world.looking.clear();
        world.dirty.clear();
        world.wanted_tails.clear();
    }

    /// The next container whose last log lines are wanted.
    pub fn next_tail(&self) -> Option<(String, Option<Timestamp>)> {
        self.lock().wanted_tails.pop()
    }
}

/// Whether a signal, as a number or a name, is meant to end a container.
fn ends_it(signal: &str, stop_signal: &str) -> bool {
    let number = |s: &str| -> Option<i32> {
        if let Ok(n) = s.parse() {
            return Some(n);
        }
        let name = if s.starts_with("SIG") { s.to_owned() } else { format!("SIG{s}") };
        name.parse::<nix::sys::signal::Signal>().ok().map(|s| s as i32)
    };
    let Some(signal) = number(signal) else { return false };
    // SIGINT, SIGQUIT, SIGKILL, SIGTERM.
    matches!(signal, 2 | 3 | 9 | 15) || number(stop_signal) == Some(signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_that_end() {
        for (signal, stop, ends) in [
            ("15", "SIGTERM", true),
            ("9", "SIGTERM", true),
            ("1", "SIGTERM", false),
            ("1", "SIGHUP", true),
            ("SIGKILL", "SIGTERM", true),
            ("10", "USR1", true),
            ("28", "SIGTERM", false),
            ("x", "SIGTERM", false),
        ] {
            assert_eq!(ends_it(signal, stop), ends, "{signal} {stop}");
        }
    }
}
