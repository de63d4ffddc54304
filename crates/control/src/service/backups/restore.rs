//! A restore: in its place, into a folder, into another container, or into a container that is made again.

use super::perform::unexpected;
use super::rows::{self, Config, StoredBackup};
use super::{Asked, Backups, freed, jobs, server_gone};
use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::Meta;
use crate::service::auth::Actor;
use crate::service::containers::Created;
use crate::service::fleet::container_key;
use crate::service::operations::Running;
use crate::service::privileges;
use crate::service::servers::ServerKey;
use nm_link::contract::{CreateVolume, Prepare, RestoreVolume, path};
use nm_types::backup::job::{self, RestoreItem, RestoreTask, Restored, SendTask, Task, TreeEntryKind, TreeTask};
use nm_types::backup::{BackupServerKind, BackupView, NewRestore, RestoreView};
use nm_types::container::ContainerSpec;
use nm_types::operation::OperationView;
use nm_types::text::{Labels, VolumeName};
use nm_types::volume::VolumeView;
use nm_types::{BackupConfigId, BackupId, ContainerId, NodeId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// The kind of operation that restores a backup.
pub const RESTORE: &str = "backup.restore";
/// Between two attempts to read a dump into a database that has just been started, and how often it is tried: two minutes.
const DATABASE: Duration = Duration::from_secs(5);
const ATTEMPTS: u8 = 24;
/// Entries of a folder of a backup that are looked at.
const ENTRIES: u32 = 1000;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Input {
    config: BackupConfigId,
    backup: BackupId,
    /// Where it goes: a node or a container. Of a container that is made again, the node.
    server: String,
    node: NodeId,
    request: NewRestore,
    /// The container is made again.
    anew: bool,
}

/// What goes where.
#[derive(Default)]
struct Plan {
    volumes: Vec<RestoreVolume>,
    items: Vec<RestoreItem>,
    /// Paths of dumps in the backup.
    dumps: Vec<String>,
}

/// Whether one of two paths lies below the other, or they are the same.
fn meet(a: &str, b: &str) -> bool {
    let below =
        |path: &str, folder: &str| folder == "/" || path == folder || path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
    below(a, b) || below(b, a)
}

impl Backups {
    /// Restores a backup; gives what came of it, or the operation where it goes on.
    pub async fn restore(
        &self,
        actor: &Actor,
        meta: &Meta,
        id: &str,
        request: NewRestore,
        body: &[u8],
    ) -> ApiResult<Result<RestoreView, OperationView>> {
        let asked = Asked { actor, meta, body };
        let mut tx = self.store.begin(self.clock.now()).await?;
        let before = self.begun_before(&mut tx, &asked).await?;
        drop(tx);
        if let Some(operation) = before {
            return self.restored(operation, meta).await;
        }
        if request.paths.len() > 1000 {
            return Err(ApiError::invalid("paths", "has at most 1,000 entries"));
        }
        let (config, view) = self.kept(id).await?;
        if config.stored.server_kind == BackupServerKind::Cluster {
            let operation = self.recover(&asked, &config, &view, request).await?;
            return self.restored(operation, meta).await;
        }
        for (field, given) in [("cluster", request.cluster.is_some()), ("to", request.to.is_some())] {
            if given {
                let text = format!("`{field}` is for backups of database clusters: leave it out");
                return Err(ApiError::conflict("conflicting_fields", text).field(field));
            }
        }
        let (server, node, anew) = self.where_to(actor, &config, &request).await?;
        if config.is_local() && config.state.node.as_ref().is_some_and(|home| *home != node) {
            let home = config.state.node.as_ref().map(|n| self.nodes.name(n)).unwrap_or_default();
            let text = format!(
                "the repository is a folder of node {home}, which node {} does not reach: restore it there, or from a copy",
                self.nodes.name(&node)
            );
            return Err(ApiError::conflict("repository_elsewhere", text).field("serverId"));
        }
        self.fleet.agent(&node)?;
        self.destination_is_there(&config)?;
        if anew {
            privileges::may_ask(actor, &self.sealed_spec(&view).await?)?;
        }
        let input = Input {
            config: config.id.clone(),
            backup: view.id.clone(),
            server,
            node,
            request,
            anew,
        };
        let detail = json!({
            "server": input.server, "target": input.request.target, "paths": input.request.paths, "volume": input.request.volume,
            "dryRun": input.request.dry_run, "anew": input.anew,
        });
        let kept = serde_json::to_value(&input).map_err(|_| ApiError::internal())?;
        let (operation, new) = self.begin(&asked, &config, &view.id, RESTORE, kept, detail).await?;
        if new {
            self.run_restore(operation.clone(), input, false);
        }
        self.restored(operation, meta).await
    }

    pub(super) async fn restored(&self, operation: OperationView, meta: &Meta) -> ApiResult<Result<RestoreView, OperationView>> {
        let id = operation.id.clone();
        if let Some(operation) = self.waited(operation, meta).await? {
            return Ok(Err(operation));
        }
        let result = self.operations.get(id.as_str()).await?.result.unwrap_or_default();
        serde_json::from_value(result).map(Ok).map_err(|_| ApiError::internal())
    }

    /// The server that it goes to, its node, and whether its container is made again.
    async fn where_to(&self, actor: &Actor, config: &Config, request: &NewRestore) -> ApiResult<(String, NodeId, bool)> {
        let of_container = config.stored.server_kind == BackupServerKind::Container;
        let key = match &request.server_id {
            Some(named) => self.servers.resolve(named).await?.key,
            None => ServerKey::parse(&config.stored.server).ok_or_else(ApiError::internal)?,
        };
        let (node, anew) = match &key {
            ServerKey::Node(id) if self.nodes.knows(id) => {
                let anew = of_container && request.target.is_none() && request.volume.is_none();
                (id.clone(), anew)
            }
            ServerKey::Container(id) => match self.index.get(id) {
                Some(record) => {
                    privileges::may_enter(actor, &record)?;
                    (record.node.clone(), false)
                }
                None => return Err(server_gone(config).field("serverId")),
            },
            ServerKey::Node(_) => return Err(server_gone(config).field("serverId")),
            ServerKey::Address(_) | ServerKey::Instance(_) => {
                let text = format!("{key} is neither a node nor a container: nothing can be restored there");
                return Err(ApiError::conflict("server_unsupported", text).field("serverId"));
            }
        };
        if request.name.is_some() && !anew {
            let text = "`name` is for a container that is made again: name a node in `serverId`, and no `target`";
            return Err(ApiError::conflict("conflicting_fields", text).field("name"));
        }
        if request.volume.is_some() && request.target.is_some() {
            let text = "it goes either into a volume or into a folder: leave out `volume` or `target`";
            return Err(ApiError::conflict("conflicting_fields", text).field("volume"));
        }
        if anew && request.dry_run {
            let text = "a container that is made again has nothing to compare with: leave out `dryRun`, or name a `target`";
            return Err(ApiError::conflict("conflicting_fields", text).field("dryRun"));
        }
        Ok((key.to_string(), node, anew))
    }

    async fn sealed_spec(&self, view: &BackupView) -> ApiResult<ContainerSpec> {
        let row = self.backup_row(view.id.as_str()).await?;
        match self.store.open_sealed(&row).await? {
            Some(sealed) => Ok(sealed.parse()?),
            None => {
                let text = "its container was not made by NeuralMesh: make one yourself, and restore into it";
                Err(ApiError::conflict("no_spec", text).field("serverId"))
            }
        }
    }

    pub(super) fn resume_restore(&self, operation: OperationView, input: Value) -> ApiResult<()> {
        let input = serde_json::from_value(input).map_err(|_| ApiError::internal())?;
        self.run_restore(operation, input, true);
        Ok(())
    }

    fn run_restore(&self, operation: OperationView, input: Input, again: bool) {
        let this = self.clone();
        self.operations.run(operation, move |running| async move {
            let done = this.carry_out(&running, &input, again).await;
            freed(&input.config, done)
        });
    }

    async fn carry_out(&self, running: &Running, input: &Input, again: bool) -> ApiResult<Value> {
        let began = self.clock.now();
        let _place = self.place(&input.node, running).await?;
        let request = &input.request;
        let config = self.opened(&input.config).await?;
        let row = self.backup_row(input.backup.as_str()).await?;
        let (view, stored): (BackupView, StoredBackup) = (rows::view_of(&row)?, row.spec()?);
        let snapshot = view
            .snapshot
            .clone()
            .ok_or_else(|| ApiError::not_found("backup", view.id.as_str()))?;
        self.arrived(&input.node, running, again).await?;
        let container = if input.anew {
            Some(self.make_again(running, input, &view).await?)
        } else {
            ContainerId::parse(&input.server).ok()
        };
        running.step("look");
        let plan = self.plan(&config, &stored, &snapshot, input, container.as_ref()).await?;
        if plan.volumes.is_empty() && plan.items.is_empty() && plan.dumps.is_empty() && !request.paths.is_empty() {
            let text = "nothing of the backup is where you asked for: look at its files, and name others in `paths`";
            return Err(ApiError::new(http::StatusCode::NOT_FOUND, "path_missing", text).field("paths"));
        }
        let into_volumes = !plan.volumes.is_empty();
        let mut restored = Restored {
            verified: request.verify && !request.dry_run,
            ..Restored::default()
        };
        if into_volumes || !plan.items.is_empty() {
            if !request.dry_run {
                self.make_volumes(&input.node, &plan.volumes).await?;
            }
            let task = Task::Restore(RestoreTask {
                snapshot: snapshot.clone(),
                items: plan.items,
                include: request.paths.iter().map(ToString::to_string).collect(),
                dry_run: request.dry_run,
                verify: request.verify && !request.dry_run,
                scratch: false,
            });
            let prepare = Prepare {
                restore: plan.volumes,
                ..Prepare::default()
            };
            let ask = self.ask(
                self.access(&config, &input.node)?,
                jobs::key(running.id(), "restore")?,
                prepare,
                task,
            );
            let job::Outcome::Restored(done) = self.job(&input.node, running, &ask, again, |_| {}).await? else {
                return Err(unexpected(&input.node));
            };
            restored = done;
        }
        if let Some(container) = container.as_ref().filter(|_| input.anew) {
            running.step("start");
            self.containers
                .start(&Actor::system(), &Meta::internal(), container.as_str())
                .await?;
        }
        let mut dumps = Vec::new();
        if !request.dry_run {
            let settling = into_volumes || input.anew;
            for (n, dump) in plan.dumps.iter().enumerate() {
                let container = container.as_ref().ok_or_else(ApiError::internal)?;
                self.send(running, &config, &snapshot, dump, n, container, settling, again).await?;
                dumps.push(dump.clone());
            }
        }
        let now = self.clock.now();
        let view = RestoreView {
            backup_id: view.id,
            server_id: container
                .as_ref()
                .filter(|_| input.anew)
                .map_or_else(|| input.server.clone(), ToString::to_string),
            target: request.target.as_ref().map(ToString::to_string),
            dry_run: request.dry_run,
            restored,
            dumps,
            container_id: container.filter(|_| input.anew).map(|id| id.to_string()),
            cluster_id: None,
            duration: now.since(began).max(0) as f64 / 1e3,
        };
        if view.restored.problem_count > 0 {
            let first = view
                .restored
                .problems
                .first()
                .map(|p| format!("{}: {}", p.path, p.error))
                .unwrap_or_default();
            let text = format!("{} files could not be restored; the first: {first}", view.restored.problem_count);
            return Err(ApiError::conflict("restore_incomplete", text));
        }
        serde_json::to_value(&view).map_err(|_| ApiError::internal())
    }

    /// Makes the container as it was, without starting it: the same one where that was begun before.
    async fn make_again(&self, running: &Running, input: &Input, view: &BackupView) -> ApiResult<ContainerId> {
        running.step("create");
        let mut spec = self.sealed_spec(view).await?;
        if let Some(name) = &input.request.name {
            spec.name = name.clone();
        }
        spec.node_id = Some(input.node.to_string());
        spec.start = false;
        let meta = Meta {
            idempotency_key: Some(format!("restore:{}", running.id())),
            ..Meta::internal()
        };
        let made = self.containers.create(&Actor::system(), &meta, spec, running.id().as_str()).await?;
        match made {
            Created::Done(container, _) => Ok(container.id),
            Created::GoesOn(operation) => {
                let ended = tokio::select! {
                    ended = self.operations.wait(&operation.id, Duration::MAX) => ended?,
                    () = running.cancelled().cancelled() => {
                        self.operations.cancel(&operation.id);
                        return Err(jobs::cancelled());
                    }
                };
                if let Some(error) = ended.error {
                    return Err(error.into());
                }
                ContainerId::parse(ended.target.as_deref().unwrap_or_default()).map_err(|_| ApiError::internal())
            }
        }
    }

    /// Volumes that are not there yet: those of a container that was removed with them, or of another node.
    pub(super) async fn make_volumes(&self, node: &NodeId, wanted: &[RestoreVolume]) -> ApiResult<()> {
        if wanted.is_empty() {
            return Ok(());
        }
        let agent = self.fleet.agent(node)?;
        let there: Vec<VolumeView> = agent.get(path::VOLUMES).await?;
        for wanted in wanted.iter().filter(|w| !there.iter().any(|v| v.name == w.volume.as_str())) {
            let new = CreateVolume {
                name: wanted.volume.clone(),
                labels: Labels::default(),
            };
            let _made: VolumeView = agent.post(path::VOLUME_CREATE, &new, Duration::ZERO).await?;
        }
        Ok(())
    }

    /// The folders right below one of a backup; nothing where it is not in it.
    async fn entries(
        &self,
        config: &rows::ConfigRow,
        node: &NodeId,
        snapshot: &str,
        path: &str,
    ) -> ApiResult<Vec<(String, TreeEntryKind)>> {
        let task = Task::Tree(TreeTask {
            snapshot: snapshot.to_owned(),
            path: path.to_owned(),
            offset: 0,
            limit: ENTRIES,
        });
        match self.look(node, self.access(config, node)?, "tree", task).await {
            Ok(job::Outcome::Tree(page)) => Ok(page.entries.into_iter().map(|e| (e.name, e.kind)).collect()),
            Ok(_) => Err(unexpected(node)),
            Err(error) if error.code == "path_missing" => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    async fn plan(
        &self,
        config: &rows::ConfigRow,
        stored: &StoredBackup,
        snapshot: &str,
        input: &Input,
        container: Option<&ContainerId>,
    ) -> ApiResult<Plan> {
        let request = &input.request;
        let wanted = |path: &str| request.paths.is_empty() || request.paths.iter().any(|p| meet(p.as_str(), path));
        let mut plan = Plan::default();
        if let Some(target) = &request.target {
            plan.items.push(RestoreItem {
                from: "/".into(),
                to: target.to_string(),
                replace: request.replace.unwrap_or(false),
            });
            return Ok(plan);
        }
        let mut volumes: Vec<String> = Vec::new();
        for (name, kind) in self.entries(config, &input.node, snapshot, "/volumes").await? {
            if kind == TreeEntryKind::Folder && wanted(&format!("/volumes/{name}")) {
                volumes.push(name);
            }
        }
        let goes = |from: &str, volume: &str| {
            let volume = VolumeName::parse(volume).map_err(|_| ApiError::internal())?;
            Ok::<_, ApiError>(RestoreVolume {
                from: format!("/volumes/{from}"),
                volume,
                at: String::new(),
                replace: request.replace.unwrap_or(true),
            })
        };
        if let Some(volume) = &request.volume {
            let [one] = volumes.as_slice() else {
                let text = format!(
                    "`volume` is for one volume of the backup, and {} are meant: name one in `paths`, such as `/volumes/NAME`",
                    volumes.len()
                );
                return Err(ApiError::conflict("conflicting_fields", text).field("volume"));
            };
            plan.volumes.push(goes(one, volume.as_str())?);
            return Ok(plan);
        }
        let elsewhere = self.mounts_elsewhere(config, input, container).await?;
        for name in &volumes {
            match &elsewhere {
                None => plan.volumes.push(goes(name, name)?),
                Some(mounts) => {
                    let at = stored.volumes.get(name).and_then(|place| mounts.get(place));
                    let at = at.ok_or_else(|| {
                        let text = format!(
                            "container {} has no volume where `{name}` was: name one in `volume`, or a `target`",
                            input.server
                        );
                        ApiError::conflict("volume_not_there", text).field("serverId")
                    })?;
                    plan.volumes.push(goes(name, at)?);
                }
            }
        }
        // Paths of a node are in place there, and not in another container.
        if elsewhere.is_none() || input.anew {
            plan.items = stored
                .paths
                .iter()
                .filter(|path| wanted(path))
                .map(|path| RestoreItem {
                    from: path.clone(),
                    to: path.clone(),
                    replace: request.replace.unwrap_or(false),
                })
                .collect();
        }
        if container.is_some() {
            for (name, kind) in self.entries(config, &input.node, snapshot, "/dumps").await? {
                let path = format!("/dumps/{name}");
                if kind == TreeEntryKind::File && wanted(&path) {
                    plan.dumps.push(path);
                }
            }
        }
        Ok(plan)
    }

    /// Of a container other than the backup's own: its volumes, by where it has them. None where names are the same.
    async fn mounts_elsewhere(
        &self,
        config: &Config,
        input: &Input,
        container: Option<&ContainerId>,
    ) -> ApiResult<Option<BTreeMap<String, String>>> {
        let Some(id) = container.filter(|id| id.as_str() != config.stored.server) else {
            return Ok(None);
        };
        let record = self.index.get(id).ok_or_else(|| ApiError::not_found("container", id.as_str()))?;
        let mounted = self.mounted(&record).await?.volumes;
        // One that was made again has them by the same names, but for those that never had one.
        if input.anew && mounted.is_empty() {
            return Ok(None);
        }
        Ok(Some(mounted.into_iter().map(|(name, place)| (place, name)).collect()))
    }

    /// Reads a dump into a container. A database that was just started may not be ready yet.
    #[expect(clippy::too_many_arguments, reason = "what is sent, and where")]
    async fn send(
        &self,
        running: &Running,
        config: &rows::ConfigRow,
        snapshot: &str,
        dump: &str,
        n: usize,
        container: &ContainerId,
        settling: bool,
        again: bool,
    ) -> ApiResult<()> {
        running.step("dump");
        let record = self
            .index
            .get(container)
            .ok_or_else(|| ApiError::not_found("container", container.as_str()))?;
        let letter = |n: usize| char::from(b'a' + u8::try_from(n % 26).unwrap_or(0));
        let mut attempt = 0_u8;
        loop {
            let task = Task::Send(SendTask {
                snapshot: snapshot.to_owned(),
                path: dump.to_owned(),
                // The agent's own.
                socket: String::new(),
            });
            let prepare = Prepare {
                container: Some(container_key(&record).as_str().to_owned()),
                consistency: config.stored.spec.consistency,
                dump: config.stored.spec.dump.clone(),
                ..Prepare::default()
            };
            // Each attempt is a job of its own: the agent keeps how the one before ended.
            let step = format!("send{}{}", letter(n), letter(usize::from(attempt)));
            let ask = self.ask(self.access(config, &record.node)?, jobs::key(running.id(), &step)?, prepare, task);
            match self.job(&record.node, running, &ask, again, |_| {}).await {
                Ok(job::Outcome::Sent { .. }) => return Ok(()),
                Ok(_) => return Err(unexpected(&record.node)),
                Err(error) if settling && error.code == "dump_failed" && attempt + 1 < ATTEMPTS => {
                    running.log(format!("{}; trying again", error.message));
                    attempt += 1;
                    tokio::select! {
                        () = tokio::time::sleep(DATABASE) => {}
                        () = running.cancelled().cancelled() => return Err(jobs::cancelled()),
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::meet;

    #[test]
    fn paths_meet_where_one_is_below_the_other() {
        for (a, b, want) in [
            ("/a", "/a", true),
            ("/a/b", "/a", true),
            ("/a", "/a/b", true),
            ("/", "/x", true),
            ("/ab", "/a", false),
            ("/a/b", "/a/c", false),
        ] {
            assert_eq!(meet(a, b), want, "{a} {b}");
        }
    }
}
