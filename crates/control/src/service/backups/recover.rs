//! A database cluster that is made of a backup, as it was at any moment of the window that the backup lies in.

use super::perform::unexpected;
use super::rows::{Config, LogPlace, LogState, StoredBackup};
use super::{Asked, Backups, freed, jobs};
use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::Meta;
use crate::service::auth::Actor;
use crate::service::clusters::archive_volume;
use crate::service::operations::Running;
use nm_link::contract::{Prepare, RestoreVolume};
use nm_types::backup::job::{self, RestoreTask, Restored, Task};
use nm_types::backup::{BackupView, NewRestore, RestoreView};
use nm_types::cluster::{ClusterSpec, ClusterType, DatabaseOrigin, DatabaseSpec};
use nm_types::envelope::FieldProblem;
use nm_types::operation::OperationView;
use nm_types::text::VolumeName;
use nm_types::{BackupConfigId, BackupId, ClusterId, NodeId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The kind of operation that makes a database cluster of a backup.
pub const RECOVER: &str = "backup.recover";
/// Where members look for what they are made of.
const BASE: &str = "restore/base";
const LOG: &str = "restore/wal";

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Input {
    config: BackupConfigId,
    backup: BackupId,
    cluster: Box<ClusterSpec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to: Option<Timestamp>,
}

fn conflicting(field: &str, text: impl Into<String>) -> ApiError {
    ApiError::conflict("conflicting_fields", text.into()).field(field)
}

/// What is wrong with the cluster, as whoever asked for the restore wrote it.
fn of_cluster(mut error: ApiError) -> ApiError {
    for detail in &mut error.details {
        detail.field = format!("cluster.{}", detail.field);
    }
    error
}

/// The new cluster: what it does not say of its database is as it was.
fn completed(mut spec: ClusterSpec, was: &DatabaseSpec) -> ApiResult<ClusterSpec> {
    if spec.kind != ClusterType::Database {
        return Err(conflicting(
            "cluster.type",
            "a database is restored into a cluster of type `database`",
        ));
    }
    let new = spec.database.get_or_insert_default();
    if new.name.is_some() && new.name() != was.name() {
        let text = format!("the database in the backup is called `{}`: leave the name out", was.name());
        return Err(conflicting("cluster.database.name", text));
    }
    if new.version.is_some() && new.version != was.version {
        return Err(conflicting("cluster.database.version", "it is that of the backup: leave it out"));
    }
    (new.name, new.version) = (was.name.clone(), was.version);
    if new.parameters.0.is_empty() {
        new.parameters = was.parameters.clone();
    }
    if new.extensions.is_empty() {
        new.extensions.clone_from(&was.extensions);
    }
    new.synchronous = new.synchronous.or(was.synchronous);
    new.read_lag_limit = new.read_lag_limit.or(was.read_lag_limit);
    new.pool = new.pool.or(was.pool);
    new.cpu_limit = new.cpu_limit.or(was.cpu_limit);
    new.memory_limit = new.memory_limit.take().or_else(|| was.memory_limit.clone());
    new.image = new.image.take().or_else(|| was.image.clone());
    Ok(spec)
}

/// The snapshots of the log that bring a backup to a moment, in order.
fn needed(log: &LogState, place: &LogPlace, to: Option<Timestamp>) -> Vec<String> {
    let mut out = Vec::new();
    let end = log.windows.iter().find(|w| w.from == place.window).map(|w| w.to);
    for set in log.sets.iter().filter(|set| set.until >= place.begun) {
        out.push(set.snapshot.clone());
        let reached = to.or(end).is_some_and(|to| set.until >= to);
        if reached {
            break;
        }
    }
    out
}

/// Whether that moment can be brought back by this backup.
fn reaches(config: &Config, view: &BackupView, place: Option<&LogPlace>, to: Timestamp) -> ApiResult<()> {
    let refused = |text: String| Err(ApiError::conflict("moment_not_kept", text).field("to"));
    let window = place.and_then(|place| {
        let log = config.state.log.as_ref()?;
        Some((place.from?, log.windows.iter().find(|w| w.from == place.window)?))
    });
    match window {
        None => refused(format!(
            "the log after {} is not kept, so it can be restored only as it was then: leave `to` out, or take another backup",
            view.id
        )),
        Some((from, window)) if to < from || to > window.to => refused(format!(
            "{} can be brought to any moment from {from} to {}: name one of these, or take another backup",
            view.id, window.to
        )),
        Some(_) => Ok(()),
    }
}

impl Backups {
    /// Begins to make a database cluster of a backup.
    pub(super) async fn recover(
        &self,
        asked: &Asked<'_>,
        config: &Config,
        view: &BackupView,
        request: NewRestore,
    ) -> ApiResult<OperationView> {
        let unfit = [
            ("target", request.target.is_some()),
            ("serverId", request.server_id.is_some()),
            ("name", request.name.is_some()),
            ("paths", !request.paths.is_empty()),
            ("volume", request.volume.is_some()),
            ("replace", request.replace.is_some()),
            ("dryRun", request.dry_run),
        ];
        let problems: Vec<FieldProblem> = unfit
            .into_iter()
            .filter(|(_, given)| *given)
            .map(|(field, _)| FieldProblem {
                field: field.into(),
                message: "a database cluster is restored as a whole, into a new cluster: leave this out".into(),
            })
            .collect();
        if !problems.is_empty() {
            return Err(ApiError::clashing_fields(problems));
        }
        let Some(cluster) = request.cluster else {
            let text = "a database cluster is restored into a new cluster: say in `cluster` what it is to be";
            return Err(conflicting("cluster", text));
        };
        let stored: StoredBackup = self.backup_row(view.id.as_str()).await?.spec()?;
        // Written down before the base backup was begun.
        let was = stored.database.ok_or_else(ApiError::internal)?;
        let cluster = Box::new(completed(*cluster, &was)?);
        if let Some(to) = request.to {
            reaches(config, view, stored.log.as_ref(), to)?;
        }
        self.destination_is_there(config)?;
        self.clusters.try_out(asked.actor, (*cluster).clone()).await.map_err(of_cluster)?;
        let input = Input {
            config: config.id.clone(),
            backup: view.id.clone(),
            cluster,
            to: request.to,
        };
        let detail = json!({ "cluster": input.cluster.name, "servers": input.cluster.servers, "to": input.to });
        let kept = serde_json::to_value(&input).map_err(|_| ApiError::internal())?;
        let (operation, new) = self.begin(asked, config, &view.id, RECOVER, kept, detail).await?;
        if new {
            self.run_recover(operation.clone(), input, false);
        }
        Ok(operation)
    }

    pub(super) fn resume_recover(&self, operation: OperationView, input: Value) -> ApiResult<()> {
        let input = serde_json::from_value(input).map_err(|_| ApiError::internal())?;
        self.run_recover(operation, input, true);
        Ok(())
    }

    fn run_recover(&self, operation: OperationView, input: Input, again: bool) {
        let this = self.clone();
        self.operations.run(operation, move |running| async move {
            let done = this.recover_now(&running, &input, again).await;
            freed(&input.config, done)
        });
    }

    async fn recover_now(&self, running: &Running, input: &Input, again: bool) -> ApiResult<Value> {
        let began = self.clock.now();
        running.step("create");
        let meta = Meta {
            idempotency_key: Some(format!("restore:{}", running.id())),
            ..Meta::internal()
        };
        let origin = DatabaseOrigin {
            backup_id: input.backup.clone(),
            to: input.to,
        };
        let cluster = self
            .clusters
            .create_restored(&Actor::system(), &meta, (*input.cluster).clone(), origin)
            .await
            .map_err(of_cluster)?;
        let fetched = self.fetch(running, input, &cluster, again).await;
        let failure = fetched.as_ref().err().map(|error| error.message.clone());
        self.clusters.fetched(&cluster, failure).await?;
        let restored = fetched?;
        running.step("recover");
        tokio::select! {
            recovered = self.clusters.recovered(&cluster) => recovered?,
            () = running.cancelled().cancelled() => return Err(jobs::cancelled()),
        }
        let view = RestoreView {
            backup_id: input.backup.clone(),
            server_id: cluster.to_string(),
            target: None,
            dry_run: false,
            restored,
            dumps: Vec::new(),
            container_id: None,
            cluster_id: Some(cluster.to_string()),
            duration: self.clock.now().since(began).max(0) as f64 / 1e3,
        };
        serde_json::to_value(&view).map_err(|_| ApiError::internal())
    }

    /// Brings the base backup and the log to where the first member looks for them.
    async fn fetch(&self, running: &Running, input: &Input, cluster: &ClusterId, again: bool) -> ApiResult<Restored> {
        let (node, volume) = self.clusters.recovery_place(cluster)?;
        let volume = VolumeName::parse(&volume).map_err(|_| ApiError::internal())?;
        let _place = self.place(&node, running).await?;
        self.arrived(&node, running, again).await?;
        let config = self.opened(&input.config).await?;
        let row = self.backup_row(input.backup.as_str()).await?;
        let (view, stored): (BackupView, StoredBackup) = (row.status()?, row.spec()?);
        let snapshot = view.snapshot.ok_or_else(|| ApiError::not_found("backup", input.backup.as_str()))?;
        let goes = |from: String, at: &str, replace: bool| RestoreVolume {
            from,
            volume: volume.clone(),
            at: at.to_owned(),
            replace,
        };
        let base = goes("/dumps".into(), BASE, true);
        self.make_volumes(&node, std::slice::from_ref(&base)).await?;
        running.step("base");
        let access = self.access(&config, &node)?;
        let mut whole = self.bring(running, &node, access, "base", &snapshot, base, again).await?;
        let (Some(log), Some(place)) = (&config.state.log, &stored.log) else {
            return Ok(whole);
        };
        running.step("log");
        for (n, snapshot) in needed(log, place, input.to).iter().enumerate() {
            let from = format!("/volumes/{}", archive_volume(&config.stored.server));
            let access = self.log_access(&config, &node)?;
            let step = format!("log{}", letters(n));
            let more = self
                .bring(running, &node, access, &step, snapshot, goes(from, LOG, false), again)
                .await?;
            whole.files += more.files;
            whole.bytes += more.bytes;
            whole.verified &= more.verified;
        }
        Ok(whole)
    }

    #[expect(clippy::too_many_arguments, reason = "what is brought, from where, to where")]
    async fn bring(
        &self,
        running: &Running,
        node: &NodeId,
        access: super::reach::Reached,
        step: &str,
        snapshot: &str,
        to: RestoreVolume,
        again: bool,
    ) -> ApiResult<Restored> {
        let task = Task::Restore(RestoreTask {
            snapshot: snapshot.to_owned(),
            items: Vec::new(),
            include: Vec::new(),
            dry_run: false,
            verify: true,
            scratch: false,
        });
        let prepare = Prepare {
            restore: vec![to],
            ..Prepare::default()
        };
        let ask = self.ask(access, jobs::key(running.id(), step)?, prepare, task);
        let job::Outcome::Restored(restored) = self.job(node, running, &ask, again, |_| {}).await? else {
            return Err(unexpected(node));
        };
        match restored.problems.first() {
            Some(problem) => {
                let text = format!("{}: {}", problem.path, problem.error);
                Err(ApiError::conflict("restore_incomplete", text))
            }
            None => Ok(restored),
        }
    }
}

/// A number in letters, as the steps of jobs have them.
fn letters(mut n: usize) -> String {
    let mut out = Vec::new();
    loop {
        out.push(b'a' + u8::try_from(n % 26).unwrap_or(0));
        n /= 26;
        if n == 0 {
            break;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::rows::{LogSet, LogWindow};
    use super::*;

    fn log(untils: &[i64], windows: &[(i64, i64)]) -> LogState {
        let set = |until: &i64| LogSet {
            snapshot: format!("s{until}"),
            node: NodeId::fresh(1),
            until: Timestamp(*until),
            closed: true,
        };
        let window = |(from, to): &(i64, i64)| LogWindow {
            from: Timestamp(*from),
            to: Timestamp(*to),
            base: None,
            ended: false,
        };
        LogState {
            sets: untils.iter().map(set).collect(),
            windows: windows.iter().map(window).collect(),
            ..LogState::default()
        }
    }

    #[test]
    fn the_log_is_brought_from_the_backup_to_the_moment_and_no_further() {
        let log = log(&[10, 20, 30, 40], &[(5, 40)]);
        let place = |begun| LogPlace {
            window: Timestamp(5),
            begun: Timestamp(begun),
            from: Some(Timestamp(begun + 2)),
        };
        let of = |begun, to: Option<i64>| needed(&log, &place(begun), to.map(Timestamp));
        assert_eq!(of(12, Some(15)), ["s20"]);
        assert_eq!(of(12, Some(20)), ["s20"]);
        assert_eq!(of(12, Some(21)), ["s20", "s30"]);
        assert_eq!(of(20, Some(35)), ["s20", "s30", "s40"]);
        assert_eq!(of(25, None), ["s30", "s40"]);
    }

    #[test]
    fn without_a_moment_the_log_ends_where_its_window_does() {
        let log = log(&[10, 20, 30, 40], &[(5, 20), (30, 40)]);
        let place = LogPlace {
            window: Timestamp(5),
            begun: Timestamp(8),
            from: Some(Timestamp(9)),
        };
        assert_eq!(needed(&log, &place, None), ["s10", "s20"]);
    }

    #[test]
    fn what_the_new_cluster_does_not_say_is_as_it_was() {
        let was: DatabaseSpec = serde_json::from_value(json!({
            "name": "shop", "parameters": { "work_mem": "8MB" }, "extensions": ["pgcrypto"], "synchronous": false, "memoryLimit": "1g",
        }))
        .unwrap();
        let asked = |database: Value| {
            let spec = json!({ "name": "x", "type": "database", "servers": ["n1"], "database": database });
            completed(serde_json::from_value(spec).unwrap(), &was)
        };
        let same = asked(json!({})).unwrap().database.unwrap();
        assert_eq!(same, was);
        let other = asked(json!({ "synchronous": true, "parameters": { "jit": "off" } }))
            .unwrap()
            .database
            .unwrap();
        assert_eq!(other.synchronous, Some(true));
        assert_eq!(other.parameters.0.len(), 1);
        assert_eq!(other.memory_limit, was.memory_limit);
        for (field, wrong) in [
            ("cluster.database.name", json!({ "name": "other" })),
            ("cluster.database.version", json!({ "version": 16 })),
        ] {
            assert_eq!(asked(wrong).unwrap_err().details[0].field, field);
        }
    }

    #[test]
    fn steps_have_letters_for_numbers() {
        assert_eq!([0, 25, 26, 700].map(letters), ["a", "z", "ab", "yab"]);
    }
}
