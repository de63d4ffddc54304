//! The write-ahead log of database clusters, which lets a backup be brought to any moment after it.
//!
//! The primary's archive goes as snapshots into a repository of its own beside that of the backups, every `walInterval`. A snapshot
//! holds all that the member keeps, so a newer one stands for the one before it, until the member has dropped what was shipped.
//! A window is a time in which no segment is missing.

use super::rows::{Config, ConfigRow, LogSet, LogState, LogWindow, Shipment, StoredBackup};
use super::{Backups, catalogue, change_state, jobs, rows};
use crate::api::error::{ApiError, ApiResult};
use crate::service::operations::Running;
use http::StatusCode;
use nm_link::contract::Prepare;
use nm_store::{Kind, Patch, Tx};
use nm_types::backup::job::{self, BackedUp, BackupTask, CheckTask, ForgetTask, Task};
use nm_types::backup::{BackupConfigStatus, BackupType, BackupView, RecoveryView, RecoveryWindow, WAL_INTERVAL};
use nm_types::text::VolumeName;
use nm_types::{BackupConfigId, BackupId, ClusterId, NodeId, OperationId, Timestamp};
use std::sync::Arc;
use std::time::Duration;

/// Bytes of segments from which on a member drops what was shipped: what a snapshot holds is read anew each time as far as it changed,
/// and all of it lies on the member's disk.
const CUT: u64 = 1 << 30;
/// How long a shipment may take.
const SHIPMENT: Duration = Duration::from_secs(3_600);
/// Snapshots that others stand for go once there are so many, and after each backup.
const GONE: usize = 50;
/// One that failed is tried again after so long.
const AGAIN_MS: i64 = 15_000;
/// What of a member's archive is no segment: what a database was made of, and files that are being written.
const LEFT_OUT: [&str; 2] = ["/volumes/*/restore", "*.new"];

/// The cluster whose log a config keeps.
fn database(config: &Config) -> Option<ClusterId> {
    ClusterId::parse(&config.stored.server).ok()
}

fn interval(config: &Config) -> i64 {
    config.stored.spec.wal_interval.map_or(WAL_INTERVAL, |s| s.get())
}

fn kept_sets(config: &Config) -> Vec<String> {
    let sets = config.state.log.iter().flat_map(|log| &log.sets);
    sets.map(|set| set.snapshot.clone()).collect()
}

/// What users see of a config's log; nothing of one that has none.
pub(super) fn view(config: &Config) -> Option<RecoveryView> {
    database(config)?;
    let log = config.state.log.clone().unwrap_or_default();
    let shown = |window: &LogWindow| {
        let from = window.base.filter(|base| *base <= window.to)?;
        Some(RecoveryWindow { from, to: window.to })
    };
    let last = log.windows.last();
    let message = log.failure.clone().or_else(|| match last {
        None => Some("its log was not shipped yet".to_owned()),
        Some(window) if window.base.is_none() => Some(format!(
            "its log is kept without a gap since {}, and no backup was made since: nothing newer can be brought back until one is",
            window.from
        )),
        Some(_) => None,
    });
    Some(RecoveryView {
        wal_interval: interval(config),
        windows: log.windows.iter().filter_map(shown).collect(),
        shipped: last.map(|w| w.to),
        message,
        repository: log
            .repository
            .map(|_| rows::location_of(&config.stored.spec.destination, &rows::log_folder(&config.id))),
    })
}

impl LogState {
    /// Takes in what was shipped. `cut`: the member drops it now.
    fn shipped(&mut self, shipment: &Shipment, made: &BackedUp, cut: bool) {
        self.repository = Some(made.repository.clone());
        self.pending = None;
        self.failure = None;
        self.last = Some(shipment.last.clone());
        let stands_for = |last: &LogSet| last.node == shipment.node && !last.closed;
        if let Some(before) = self.sets.pop_if(|last| stands_for(last)) {
            // Where nothing was new it is the same snapshot.
            if before.snapshot != made.snapshot {
                self.gone.push(before.snapshot);
            }
        }
        self.sets.push(LogSet {
            snapshot: made.snapshot.clone(),
            node: shipment.node.clone(),
            until: shipment.until,
            closed: cut,
        });
        match self.windows.last_mut().filter(|w| !w.ended) {
            Some(window) => window.to = window.to.max(shipment.until),
            None => self.windows.push(LogWindow {
                from: shipment.until,
                to: shipment.until,
                base: None,
                ended: false,
            }),
        }
    }

    /// A segment is missing from here on.
    pub(super) fn end_window(&mut self) {
        self.last = None;
        if let Some(window) = self.windows.last_mut() {
            window.ended = true;
        }
        if let Some(set) = self.sets.last_mut() {
            set.closed = true;
        }
    }

    /// The window that goes on.
    pub(super) fn window(&self) -> Option<&LogWindow> {
        self.windows.last().filter(|w| !w.ended)
    }
}

/// Whether nothing is missing between the segment that was shipped last and the place from which on there are others.
fn continues(shipped: &str, first: &str) -> bool {
    // A segment's name has the timeline first; of its place 8 digits count 4 GiB, and 8 the 256 segments in these.
    let number = |place: &str| {
        let (high, low) = place.split_at_checked(8)?;
        Some((u64::from_str_radix(high, 16).ok()? << 8) + u64::from_str_radix(low, 16).ok()?)
    };
    let place = shipped.get(8..).and_then(number);
    place.zip(number(first)).is_some_and(|(shipped, first)| first <= shipped + 1)
}

impl Backups {
    /// Ships the logs that are due, each on its own, and gives when the next one is.
    pub(super) fn turn_logs(&self, now: Timestamp) -> Option<Timestamp> {
        let mut next: Option<Timestamp> = None;
        let all = self.all();
        // While nobody takes writes there is nothing to ship, and once the cluster is gone there never is.
        let serves = |c: &&Arc<Config>| database(c).is_some_and(|id| self.clusters.database_primary(&id).is_some());
        let active = all
            .iter()
            .filter(|c| c.stored.spec.status != BackupConfigStatus::Paused)
            .filter(serves);
        for config in active {
            let mut shipped = self.shipped.lock().unwrap_or_else(|e| e.into_inner());
            let due = shipped.entry(config.id.clone()).or_insert(now);
            // One that was given a shorter interval does not wait for the end of the longer.
            let soonest = now.plus_millis(interval(config) * 1_000);
            *due = (*due).min(soonest);
            if *due <= now {
                *due = soonest;
                let (this, id) = (self.clone(), config.id.clone());
                tokio::spawn(async move { this.ship_now(&id).await });
            }
            next = next.into_iter().chain([*due]).min();
        }
        next
    }

    async fn ship_now(&self, id: &BackupConfigId) {
        if let Err(error) = self.ship(id).await {
            tracing::warn!(backup.config = %id, error = %error.message, "a database's log could not be shipped; trying again");
            let soon = self.clock.now().plus_millis(AGAIN_MS);
            let mut shipped = self.shipped.lock().unwrap_or_else(|e| e.into_inner());
            shipped.entry(id.clone()).and_modify(|due| *due = (*due).min(soon));
        }
        // The schedule looks when to come again.
        if let Err(error) = self.refresh(id).await {
            tracing::warn!(backup.config = %id, error = %error.message, "a backup config could not be read");
        }
    }

    /// Brings what was committed until now to the destination; gives how far the log reaches there.
    pub(super) async fn ship(&self, id: &BackupConfigId) -> ApiResult<LogWindow> {
        let _one = self.shipping.hold(id.clone()).await;
        let shipped = self.ship_one(id).await;
        if let Err(error) = &shipped {
            let text = format!("the write-ahead log could not be shipped: {}", error.message);
            // Asked for again it is the same job, unless that has ended.
            let ended = error.status != StatusCode::SERVICE_UNAVAILABLE;
            let log = self.opened(id).await?.config.state.log.unwrap_or_default();
            if log.failure.as_ref() != Some(&text) || (ended && log.pending.is_some()) {
                self.change_log(id, |log| {
                    log.failure = Some(text);
                    if ended {
                        log.pending = None;
                    }
                })
                .await?;
            }
        }
        shipped
    }

    async fn ship_one(&self, id: &BackupConfigId) -> ApiResult<LogWindow> {
        let config = self.opened(id).await?;
        let cluster = database(&config).ok_or_else(ApiError::internal)?;
        let mut log = config.state.log.clone().unwrap_or_default();
        let shipment = match log.pending.clone() {
            Some(pending) => pending,
            None => self.begin_shipment(id, &cluster, &mut log).await?,
        };
        let access = self.log_access(&config, &shipment.node)?;
        let parent = log.sets.last().filter(|last| last.node == shipment.node && !last.closed);
        let once = format!("log:{}", shipment.key);
        let task = Task::Backup(BackupTask {
            kind: BackupType::Incremental,
            parent: parent.map(|set| set.snapshot.clone()),
            host: config.stored.server.clone(),
            label: config.id.to_string(),
            tags: vec![once.clone()],
            time: self.clock.now(),
            sources: Vec::new(),
            excludes: LEFT_OUT.map(str::to_owned).to_vec(),
            one_file_system: false,
            compression: config.stored.spec.compression,
            once,
            damaged: Vec::new(),
        });
        let prepare = Prepare {
            volumes: vec![VolumeName::parse(&shipment.volume).map_err(|_| ApiError::internal())?],
            ..Prepare::default()
        };
        let asking = self.ask(access, shipment.key.clone(), prepare, task);
        let job::Outcome::BackedUp(made) = self.alone(&shipment.node, &asking, SHIPMENT).await? else {
            return Err(super::perform::unexpected(&shipment.node));
        };
        if let Some(problem) = made.problems.first() {
            let text = format!("{}: {}", problem.path, problem.error);
            self.change_log(id, |log| log.gone.push(made.snapshot.clone())).await?;
            return Err(ApiError::conflict("log_incomplete", text));
        }
        let (cut, append_only) = (shipment.bytes > CUT, config.stored.spec.append_only);
        let mut window = None;
        let mut tx = self.store.begin(self.clock.now()).await?;
        change_state(&mut tx, id, |state| {
            let log = state.log.get_or_insert_default();
            log.shipped(&shipment, &made, cut);
            if append_only {
                // Nothing ever goes.
                log.gone.clear();
            }
            window = log.window().cloned();
        })
        .await?;
        self.settle_backups(&mut tx, id, shipment.until).await?;
        tx.commit().await?;
        if cut {
            self.clusters.trim_archives(&cluster, &shipment.last).await;
        }
        let now = self.opened(id).await?;
        // Whoever works on the repositories may still need them.
        let many = now.state.log.as_ref().is_some_and(|log| log.gone.len() >= GONE) && now.state.running.is_none();
        if many && let Err(error) = self.clean_log(&now, &shipment.node).await {
            tracing::warn!(backup.config = %id, error = %error.message, "snapshots of a log that are no longer needed could not be removed; trying again");
        }
        window.ok_or_else(ApiError::internal)
    }

    /// Has the primary finish its segment, and writes down what is shipped before it is. `log` is what was read of it.
    async fn begin_shipment(&self, id: &BackupConfigId, cluster: &ClusterId, log: &mut LogState) -> ApiResult<Shipment> {
        self.clusters.keep_log(cluster).await?;
        let mut flushed = self.clusters.flush_archive(cluster).await?;
        let mut whole = true;
        if let Some(gap) = flushed.gap.take() {
            tracing::warn!(cluster.id = %cluster, since = %gap.since, segment = %gap.segment, "a database's log has a gap");
            whole = false;
            // Before the members forget that there is one.
            self.change_log(id, LogState::end_window).await?;
            self.clusters.reset_archives(cluster).await?;
            flushed = self.clusters.flush_archive(cluster).await?;
        } else if log.last.as_deref().is_some_and(|last| !continues(last, &flushed.first)) {
            // It was away while others kept what came between, and those were lost before that was shipped.
            tracing::warn!(cluster.id = %cluster, shipped = ?log.last, first = %flushed.first, "segments of a database's log are missing");
            whole = false;
        }
        let primary = self.clusters.database_primary(cluster);
        let primary = primary.ok_or_else(|| ApiError::unavailable("no_primary", "no member takes writes now"))?;
        let operation = OperationId::fresh(self.clock.now().0);
        let shipment = Shipment {
            key: jobs::key(&operation, "log")?,
            node: primary.node,
            volume: primary.volume,
            until: flushed.until,
            last: flushed.last,
            bytes: flushed.bytes,
        };
        let kept = shipment.clone();
        let begun = move |log: &mut LogState| {
            if !whole {
                log.end_window();
            }
            log.pending = Some(kept);
        };
        begun.clone()(log);
        self.change_log(id, begun).await?;
        Ok(shipment)
    }

    /// Backups that ended before this shipment can be brought to any moment after it.
    async fn settle_backups(&self, tx: &mut Tx, id: &BackupConfigId, until: Timestamp) -> ApiResult<()> {
        let mut unsettled: Vec<BackupId> = Vec::new();
        change_state(tx, id, |state| {
            if let Some(log) = &mut state.log {
                unsettled = std::mem::take(&mut log.unsettled);
            }
        })
        .await?;
        let mut windows = Vec::new();
        for backup in &unsettled {
            let Some(row) = tx.get(Kind::Backup, backup.as_str()).await? else {
                continue;
            };
            let mut stored: StoredBackup = row.spec()?;
            let Some(place) = &mut stored.log else { continue };
            place.from = Some(until);
            windows.push(place.window);
            let mut view: BackupView = row.status()?;
            view.recoverable_from = Some(until);
            let patch = Patch::new().spec(&stored)?.status(&view)?;
            tx.update(Kind::Backup, backup.as_str(), patch).await?;
        }
        change_state(tx, id, |state| {
            let all = state.log.iter_mut().flat_map(|log| &mut log.windows);
            for window in all.filter(|w| windows.contains(&w.from)) {
                window.base = Some(window.base.map_or(until, |base| base.min(until)));
            }
        })
        .await?;
        Ok(())
    }

    pub(super) async fn change_log(&self, id: &BackupConfigId, change: impl FnOnce(&mut LogState)) -> ApiResult<()> {
        let mut tx = self.store.begin(self.clock.now()).await?;
        change_state(&mut tx, id, |state| change(state.log.get_or_insert_default())).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Before a base backup: the window that it is made in, and a moment that lies before it. Nothing of other servers.
    pub(super) async fn open_window(&self, config: &Config) -> ApiResult<Option<rows::LogPlace>> {
        if database(config).is_none() {
            return Ok(None);
        }
        let window = self.ship(&config.id).await?;
        Ok(Some(rows::LogPlace {
            window: window.from,
            begun: window.to,
            from: None,
        }))
    }

    /// After a base backup: without what was written while it was made nothing newer can be brought back.
    pub(super) async fn end_log(&self, running: &Running, config: &Config) {
        if database(config).is_none() {
            return;
        }
        running.step("log");
        if let Err(error) = self.ship(&config.id).await {
            running.log(format!(
                "the log after it could not be shipped, and is tried again: {}",
                error.message
            ));
        }
    }

    /// After a base backup: what of the log no backup needs any more goes, and the rest is checked.
    pub(super) async fn tidy_log(&self, running: &Running, id: &BackupConfigId, node: &NodeId) -> ApiResult<()> {
        let config = self.opened(id).await?;
        if database(&config).is_none() {
            return Ok(());
        }
        let _one = self.shipping.hold(id.clone()).await;
        running.step("log");
        self.drop_sets(&config).await?;
        let config = self.opened(id).await?;
        if config.state.log.as_ref().is_none_or(|log| log.repository.is_none()) {
            return Ok(());
        }
        self.clean_log(&config, node).await?;
        let check = CheckTask {
            read: None,
            expect: kept_sets(&config),
        };
        let job::Outcome::Checked(checked) = self.on_log(&config, node, Task::Check(check)).await? else {
            return Err(super::perform::unexpected(node));
        };
        match checked.findings.first() {
            Some(finding) => Err(ApiError::conflict(
                "repository_damaged",
                format!("the repository of the log is damaged: {finding}"),
            )),
            None => Ok(()),
        }
    }

    /// Removes snapshots that are no longer needed. `shipping` is held by the caller.
    async fn clean_log(&self, config: &ConfigRow, node: &NodeId) -> ApiResult<()> {
        let log = config.state.log.clone().unwrap_or_default();
        let due = !log.gone.is_empty() || catalogue::grace_is_over(log.marked, self.clock.now());
        if config.stored.spec.append_only || !due {
            return Ok(());
        }
        let (keep, mut gone) = (kept_sets(config), log.gone);
        let forgotten = match self.forget_sets(config, node, &keep, &gone).await {
            Err(error) if error.code == "catalogue_disagrees" => {
                // Snapshots of shipments whose end was never heard of: others hold what is in them.
                let job::Outcome::Snapshots(seen) = self.on_log(config, node, Task::List).await? else {
                    return Err(super::perform::unexpected(node));
                };
                let ours = seen.snapshots.into_iter().filter(|s| s.label == config.id.as_str());
                gone = ours.map(|s| s.id).filter(|id| !keep.contains(id)).collect();
                self.forget_sets(config, node, &keep, &gone).await?
            }
            ended => ended?,
        };
        let now = self.clock.now();
        self.change_log(&config.id, |log| {
            log.gone.clear();
            log.marked = (forgotten.marked > 0).then_some(now);
        })
        .await
    }

    async fn forget_sets(&self, config: &ConfigRow, node: &NodeId, keep: &[String], gone: &[String]) -> ApiResult<job::Forgotten> {
        let task = Task::Forget(ForgetTask {
            remove: gone.to_vec(),
            keep: keep.to_vec(),
            prune: true,
            grace: catalogue::GRACE,
        });
        match self.on_log(config, node, task).await? {
            job::Outcome::Forgotten(forgotten) => Ok(forgotten),
            _ => Err(super::perform::unexpected(node)),
        }
    }

    /// A job on the repository of the log.
    async fn on_log(&self, config: &ConfigRow, node: &NodeId, task: Task) -> ApiResult<job::Outcome> {
        let key = jobs::key(&OperationId::fresh(self.clock.now().0), "log")?;
        let asking = self.ask(self.log_access(config, node)?, key, Prepare::default(), task);
        self.alone(node, &asking, SHIPMENT).await
    }

    /// Sets and windows from before the first backup that is left.
    async fn drop_sets(&self, config: &Config) -> ApiResult<()> {
        let mut kept = Vec::new();
        for view in catalogue::of_config(&self.store, config)
            .await?
            .iter()
            .filter(|b| b.status.is_kept())
        {
            let stored: StoredBackup = self.backup_row(view.id.as_str()).await?.spec()?;
            kept.extend(stored.log);
        }
        let first = kept.iter().map(|place| place.begun).min();
        self.change_log(&config.id, |log| {
            let Some(first) = first else { return };
            let mut gone = Vec::new();
            let last = log.sets.len().saturating_sub(1);
            let mut n = 0;
            log.sets.retain(|set| {
                let stays = n == last || set.until >= first;
                n += 1;
                if !stays {
                    gone.push(set.snapshot.clone());
                }
                stays
            });
            log.gone.extend(gone);
            log.windows.retain(|w| !w.ended || kept.iter().any(|place| place.window == w.from));
            for window in &mut log.windows {
                let of = kept.iter().filter(|place| place.window == window.from);
                window.base = of.filter_map(|place| place.from).min();
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nm_types::backup::job::JobKey;

    fn shipment(node: &NodeId, until: i64) -> Shipment {
        Shipment {
            key: JobKey::new(&OperationId::fresh(1), "log").unwrap(),
            node: node.clone(),
            volume: "v".into(),
            until: Timestamp(until),
            last: "0".into(),
            bytes: 1,
        }
    }

    fn made(snapshot: &str) -> BackedUp {
        serde_json::from_value(serde_json::json!({
            "snapshot": snapshot, "repository": "r", "type": "incremental", "parent": null, "files": 1, "filesNew": 1, "filesChanged": 0,
            "bytes": 1, "added": 1, "problems": [], "problemCount": 0,
        }))
        .unwrap()
    }

    #[test]
    fn a_snapshot_stands_for_the_one_before_it_until_the_member_dropped_what_was_shipped() {
        let (one, other) = (NodeId::fresh(1), NodeId::fresh(2));
        let mut log = LogState::default();
        log.shipped(&shipment(&one, 10), &made("a"), false);
        log.shipped(&shipment(&one, 20), &made("b"), false);
        assert_eq!(log.gone, ["a"]);
        log.shipped(&shipment(&one, 30), &made("c"), true);
        assert_eq!(log.gone, ["a", "b"]);
        log.shipped(&shipment(&one, 40), &made("d"), false);
        log.shipped(&shipment(&other, 50), &made("e"), false);
        log.shipped(&shipment(&one, 60), &made("f"), false);
        let kept: Vec<&str> = log.sets.iter().map(|s| s.snapshot.as_str()).collect();
        assert_eq!(kept, ["c", "d", "e", "f"]);
        assert_eq!(log.gone, ["a", "b"]);
        assert_eq!(
            (log.windows.len(), log.windows[0].from, log.windows[0].to),
            (1, Timestamp(10), Timestamp(60))
        );
    }

    #[test]
    fn a_log_goes_on_where_the_next_segment_is_there() {
        for (shipped, first, goes_on) in [
            ("000000010000000000000003", "0000000000000004", true),
            ("000000010000000000000003", "0000000000000001", true),
            ("000000020000000000000003", "0000000000000005", false),
            ("0000000100000000000000FF", "0000000100000000", true),
            ("0000000100000000000000FF", "0000000100000001", false),
            ("00000001", "0000000100000001", false),
            ("000000010000000000000003", "", false),
        ] {
            assert_eq!(continues(shipped, first), goes_on, "{shipped} {first}");
        }
    }

    #[test]
    fn the_same_snapshot_again_is_not_given_up() {
        let node = NodeId::fresh(1);
        let mut log = LogState::default();
        log.shipped(&shipment(&node, 10), &made("a"), false);
        log.shipped(&shipment(&node, 20), &made("a"), false);
        assert!(log.gone.is_empty());
        assert_eq!(log.sets.len(), 1);
    }

    #[test]
    fn after_a_gap_there_is_another_window_and_nothing_stands_for_what_was_before() {
        let node = NodeId::fresh(1);
        let mut log = LogState::default();
        log.shipped(&shipment(&node, 10), &made("a"), false);
        log.end_window();
        assert!(log.window().is_none());
        log.shipped(&shipment(&node, 20), &made("b"), false);
        assert!(log.gone.is_empty());
        let windows: Vec<(i64, i64, bool)> = log.windows.iter().map(|w| (w.from.0, w.to.0, w.ended)).collect();
        assert_eq!(windows, [(10, 10, true), (20, 20, false)]);
    }
}
