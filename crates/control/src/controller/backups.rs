//! Begins what schedules of backups ask for, in its moment.
//!
//! It sleeps until the next one is due, and is woken by changes of configs. Now and then it looks all the same: a clock that was set
//! tells nobody.

use crate::app::{App, stopped};
use crate::service::alerts::Observation;
use nm_store::{Kind, Subject, WatchError};
use nm_types::BackupConfigId;
use std::time::Duration;

/// Until it is read again where the store did not answer.
const AGAIN: Duration = Duration::from_secs(1);

pub async fn run(app: App) {
    let mut stop = app.stop.clone();
    let mut feed = app.store.watch();
    loop {
        let next = app.backups.turn().await;
        let now = app.clock.now();
        let pause = next.map_or(app.config.schedule_every, |at| {
            Duration::from_millis(u64::try_from(at.since(now)).unwrap_or(0)).min(app.config.schedule_every)
        });
        let looked = tokio::time::sleep(pause);
        tokio::pin!(looked);
        loop {
            tokio::select! {
                () = stopped(&mut stop) => return,
                () = &mut looked => break,
                change = feed.next() => match change {
                    Ok(change) if change.subject == Subject::Resource(Kind::BackupConfig) => {
                        if let Ok(id) = BackupConfigId::parse(&change.id) {
                            refresh(&app, &id).await;
                        }
                        break;
                    }
                    Ok(_) => {}
                    Err(WatchError::Lagged { .. }) => {
                        match app.store.revision().await {
                            Ok(revision) => feed.seen_up_to(revision),
                            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "the feed could not be caught up with"),
                        }
                        if let Err(error) = app.backups.reload().await {
                            tracing::warn!(error = %error.message, "backup configs could not be read; trying again");
                        }
                        break;
                    }
                    Err(WatchError::Closed) => return,
                },
            }
        }
    }
}

/// Rereads a config that was changed, and has rules look at its server.
async fn refresh(app: &App, id: &BackupConfigId) {
    loop {
        match app.backups.refresh(id).await {
            Ok(Some(server)) => return app.alerts.observe(Observation::Backups(server)),
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(backup.config = %id, error = %error.message, "a backup config could not be read; trying again");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}
