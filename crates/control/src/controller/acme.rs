//! Has certificates ordered from ACME servers, and renewed, each when its time has come.
//!
//! Only the control plane that holds the database runs, and so only one ever asks. Each pass rereads what is due; an attempt writes
//! when the next one is.

use crate::app::{App, stopped};
use nm_types::ClusterId;
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

/// Attempts at a time: most of each is waiting for others.
const AT_ONCE: usize = 8;
/// Where nothing is due. A wall clock can be set, so it is looked at now and then.
const SELDOM: Duration = Duration::from_secs(600);
/// After our own store failed.
const AGAIN: Duration = Duration::from_secs(10);
/// After any other attempt: whatever it wrote, or did not, it is no loop.
const LEAST: Duration = Duration::from_secs(1);

pub async fn run(app: App) {
    let mut stop = app.stop.clone();
    // Before the first pass: none falls in between.
    let mut links = app.fleet.links().events();
    let mut running = Running::default();
    loop {
        if let Err(error) = app.clusters.drop_certificates().await {
            tracing::warn!(error = %error.message, "certificates that nobody asks for any more could not be dropped; trying again");
        }
        let pause = running.begin_due(&app);
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = tokio::time::sleep(pause) => {}
            event = links.recv() => match event {
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
            () = app.clusters.certificates_wanted().notified() => {}
            Some(ended) = running.tasks.join_next(), if !running.tasks.is_empty() => running.ended(ended.ok()),
        }
    }
}

/// What a task says at its end: whose it was, and whether our store failed it.
type Ended = (ClusterId, bool);

#[derive(Default)]
struct Running {
    tasks: JoinSet<Ended>,
    of: HashMap<ClusterId, AbortHandle>,
    /// Those that wait for their last attempt's sake, until when.
    held: HashMap<ClusterId, Instant>,
}

impl Running {
    /// Begins what is due, and gives how long until time alone asks for more.
    fn begin_due(&mut self, app: &App) -> Duration {
        let (now, today) = (Instant::now(), app.clock.now());
        self.held.retain(|_, until| *until > now);
        let mut pause = SELDOM;
        for (id, due) in app.clusters.certificates_due() {
            if self.of.contains_key(&id) {
                continue;
            }
            let held = self.held.get(&id).map_or(Duration::ZERO, |until| *until - now);
            let wait = Duration::from_millis(u64::try_from(due.since(today)).unwrap_or_default()).max(held);
            if !wait.is_zero() {
                pause = pause.min(wait);
            } else if self.of.len() < AT_ONCE {
                let app = app.clone();
                let task = self.tasks.spawn({
                    let id = id.clone();
                    async move {
                        let done = app.clusters.get_certificate(&id).await;
                        if let Err(error) = &done {
                            tracing::warn!(cluster.id = %id, error = %error.message, "how far a certificate is could not be written; trying again");
                        }
                        (id, done.is_err())
                    }
                });
                self.of.insert(id, task);
            }
        }
        pause
    }

    fn ended(&mut self, ended: Option<Ended>) {
        let now = Instant::now();
        match ended {
            Some((id, failed)) => {
                self.of.remove(&id);
                self.held.insert(id, now + if failed { AGAIN } else { LEAST });
            }
            // One that panicked does not say whose it was.
            None => {
                let gone = self.of.extract_if(|_, task| task.is_finished()).map(|(id, _)| (id, now + AGAIN));
                self.held.extend(gone);
            }
        }
    }
}
