//! What changes slowly or may hang, looked at on a thread of its own.

use super::sample::{Disk, Names, part};
use super::{Roots, Shared, disks, interfaces, thermal};
use std::collections::HashSet;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::oneshot;

const PERIOD: Duration = Duration::from_secs(10);
/// Names of disks that are remembered after they were unmounted.
const NAMES: usize = 256;

/// Somebody who waits for the next look.
pub type Request = oneshot::Sender<()>;

/// What was seen last.
#[derive(Debug, Default)]
pub struct Slow {
    pub disks: Arc<[Disk]>,
    pub names: Names,
    pub temperature: Option<f64>,
    /// Network interfaces of the machine itself.
    pub interfaces: Arc<HashSet<String>>,
}

/// Looks every ten seconds and whenever somebody asks, until nobody can ask any more. Nobody waits for the thread's end: it
/// may hang for as long as a disk does.
pub fn start(roots: Roots, shared: &Arc<Shared>, requests: Receiver<Request>) {
    let shared = Arc::downgrade(shared);
    let started = std::thread::Builder::new()
        .name("machine".into())
        .spawn(move || run(&roots, &shared, &requests));
    if let Err(error) = started {
        tracing::warn!(%error, "disks and temperature can't be looked at");
    }
}

fn run(roots: &Roots, shared: &Weak<Shared>, requests: &Receiver<Request>) {
    let mut waiting: Vec<Request> = Vec::new();
    loop {
        let seen = disks::look(&roots.proc);
        let temperature = thermal::hottest(&roots.sys);
        let own = interfaces::own(&interfaces::look(roots));
        let Some(shared) = shared.upgrade() else { return };
        take(&mut shared.slow(), seen, temperature, own);
        drop(shared);
        for request in waiting.drain(..) {
            // Whoever asked may have given up.
            let _told = request.send(());
        }
        match requests.recv_timeout(PERIOD) {
            Ok(first) => {
                waiting.push(first);
                waiting.extend(requests.try_iter());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn take(slow: &mut Slow, seen: Vec<nm_types::host::DiskStats>, temperature: Option<f64>, own: HashSet<String>) {
    let (disks, names): (Vec<Disk>, Vec<_>) = seen.into_iter().map(part).unzip();
    if slow.names.len() > NAMES {
        slow.names.clear();
    }
    slow.names.extend(disks.iter().map(|d| d.number).zip(names));
    slow.disks = disks.into();
    slow.temperature = temperature;
    if *slow.interfaces != own {
        slow.interfaces = Arc::new(own);
    }
}
