//! Backs the control plane up when its schedule says so.

use crate::app::{App, stopped};
use std::time::Duration;

pub async fn run(app: App) {
    let mut stop = app.stop.clone();
    loop {
        let turn = app.own_backup.turn();
        let next = tokio::select! {
            next = turn => next,
            () = stopped(&mut stop) => return,
        };
        let now = app.clock.now();
        // A clock that was set tells nobody: it looks now and then all the same.
        let pause = next.map_or(app.config.schedule_every, |at| {
            Duration::from_millis(u64::try_from(at.since(now)).unwrap_or(0)).min(app.config.schedule_every)
        });
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stopped(&mut stop) => return,
        }
    }
}
