//! The write-ahead log of database clusters on its way to a destination of backups, and databases that are made of a backup.
//!
//! Members keep each finished segment in a volume of its own. That they are to do so is configured when a backup config names the cluster;
//! whoever ships them is in [`backups`](crate::service::backups).

use super::making::archive_volume;
use super::rows::RestorePhase;
use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::Meta;
use crate::service::auth::Actor;
use crate::service::clusters::write::name_taken;
use crate::service::clusters::{ClusterRow, Clusters};
use nm_types::auth::Role;
use nm_types::cluster::{ClusterSpec, DatabaseArchiveGap, DatabaseOrigin, DatabaseSpec};
use nm_types::{ClusterId, ContainerId, NodeId, Timestamp};
use serde::Deserialize;

/// Bytes of segments that a member keeps at most: what does not fit is dropped, and a gap.
pub(super) const ARCHIVE_LIMIT: u64 = 16 << 30;
/// Seconds for what is done in an archive.
const SHORT: i64 = 20;

/// Where a database is backed up.
#[derive(Debug, Clone)]
pub struct Primary {
    pub name: String,
    pub node: NodeId,
    pub container: ContainerId,
    /// That of its archive.
    pub volume: String,
    pub database: DatabaseSpec,
}

/// How far a member's archive reaches: everything that was committed before `until` is in segments up to `last`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flushed {
    /// The place in the log, without its timeline, from which on no segment is missing up to `last`.
    pub first: String,
    pub last: String,
    pub until: Timestamp,
    pub bytes: u64,
    #[serde(default)]
    pub gap: Option<DatabaseArchiveGap>,
}

/// How far a member is that makes its data of a backup.
#[derive(Deserialize)]
struct Recovery {
    state: String,
    #[serde(default)]
    message: Option<String>,
}

impl Clusters {
    /// The id of a cluster of type `database`, by its id or name.
    pub fn database_named(&self, key: &str) -> ApiResult<ClusterId> {
        let row = self.find(key)?;
        Self::require_database(&row)?;
        Ok(row.id.clone())
    }

    /// Who takes the writes of a database, as far as is known.
    pub fn database_primary(&self, id: &ClusterId) -> Option<Primary> {
        let row = self.row(id)?;
        let node = row.state.database.primary.clone()?;
        let member = row.state.database.members.iter().find(|m| m.node == node)?;
        Some(Primary {
            name: row.stored.spec.name.to_string(),
            container: member.container.clone()?,
            node,
            volume: archive_volume(row.id.as_str()),
            database: row.stored.spec.database(),
        })
    }

    /// The container of a database's member on a node.
    pub fn database_member(&self, id: &ClusterId, node: &NodeId) -> Option<ContainerId> {
        let row = self.row(id)?;
        row.state.database.members.iter().find(|m| m.node == *node)?.container.clone()
    }

    /// Has the log kept from now on, where that is not so yet.
    pub async fn keep_log(&self, id: &ClusterId) -> ApiResult<()> {
        let _one = self.scaling.hold(id.clone()).await;
        let row = self.find(id.as_str())?;
        self.configure(&row).await.map(drop)
    }

    /// Whether such a cluster could be made by that user.
    pub async fn try_out(&self, actor: &Actor, spec: ClusterSpec) -> ApiResult<()> {
        if !actor.may(Role::Operator, "clusters", true) {
            return Err(ApiError::forbidden(
                "a database is restored into a new cluster: that takes the scope clusters:write",
            ));
        }
        let _changing = self.changing.lock().await;
        let id = ClusterId::fresh(self.clock.now().0);
        if self.all().iter().any(|row| row.stored.spec.name == spec.name) {
            return Err(name_taken(&spec.name));
        }
        self.judge(actor, &id, spec, None).await.map(drop)
    }

    pub(super) fn is_backed_up(&self, row: &ClusterRow) -> bool {
        self.troubles.keeps_log_of(row.id.as_str())
    }

    /// Has the primary finish the segment it writes, so that all that was committed is in its archive.
    pub async fn flush_archive(&self, id: &ClusterId) -> ApiResult<Flushed> {
        let text = self.in_primary(id, &["archive-flush"]).await?;
        serde_json::from_str(text.trim()).map_err(|error| {
            tracing::warn!(cluster.id = %id, %error, "a database's archive tells what can't be read");
            ApiError::internal()
        })
    }

    /// Ends a gap: what was kept before it is of no use without what is missing. Each member has its own.
    pub async fn reset_archives(&self, id: &ClusterId) -> ApiResult<()> {
        self.in_primary(id, &["archive-reset"]).await?;
        self.in_all(id, &["archive-reset"]).await;
        Ok(())
    }

    async fn in_primary(&self, id: &ClusterId, words: &[&str]) -> ApiResult<String> {
        let missing = || ApiError::unavailable("no_primary", format!("no member of database cluster {id} takes writes now"));
        let primary = self.database_primary(id).ok_or_else(missing)?;
        self.run_in(&primary.container, words, SHORT).await
    }

    /// Lets every member drop what is in a destination already.
    pub async fn trim_archives(&self, id: &ClusterId, last: &str) {
        self.in_all(id, &["archive-trim", last]).await;
    }

    /// In every member that runs. One that can't be asked has more than it needs, until it is asked the next time.
    async fn in_all(&self, id: &ClusterId, words: &[&str]) {
        let Some(row) = self.row(id) else { return };
        for (node, container) in self.running(&row, None) {
            if let Err(error) = self.run_in(&container, words, SHORT).await {
                tracing::warn!(cluster.id = %id, node.id = %node, ?words, error = %error.message, "a member's archive could not be cleaned up");
            }
        }
    }

    /// Makes a database cluster whose data comes from a backup: nothing of it starts until [`Clusters::fetched`] says that it is there.
    pub async fn create_restored(&self, actor: &Actor, meta: &Meta, mut spec: ClusterSpec, origin: DatabaseOrigin) -> ApiResult<ClusterId> {
        spec.database.get_or_insert_default();
        let (view, _) = self.create_of(actor, meta, spec, &[], Some(origin)).await?;
        Ok(view.id)
    }

    /// Where what a database is made of is to go: the node of its first member, and the volume.
    pub fn recovery_place(&self, id: &ClusterId) -> ApiResult<(NodeId, String)> {
        let row = self.find(id.as_str())?;
        let first = row.stored.members.first().and_then(|m| NodeId::parse(m).ok());
        Ok((first.ok_or_else(ApiError::internal)?, archive_volume(row.id.as_str())))
    }

    /// What a database is made of is there, or could not be fetched.
    pub async fn fetched(&self, id: &ClusterId, failure: Option<String>) -> ApiResult<()> {
        self.change_restore(id, failure.map_or(RestorePhase::Recovering, RestorePhase::Failed))
            .await?;
        self.database_wanted().notify_one();
        Ok(())
    }

    async fn change_restore(&self, id: &ClusterId, phase: RestorePhase) -> ApiResult<()> {
        self.change_state(id, |state| {
            let now = state.database.restore.as_mut().filter(|now| **now != phase)?;
            *now = phase;
            Some(Vec::new())
        })
        .await
    }

    /// Asks the first member of a database that is made of a backup how far it is.
    pub(super) async fn look_at_recovery(&self, row: &ClusterRow) -> ApiResult<()> {
        if row.state.database.restore != Some(RestorePhase::Recovering) {
            return Ok(());
        }
        let Some((_, container)) = self.running(row, None).into_iter().next() else {
            return Ok(());
        };
        let told = self.run_in(&container, &["restore-status"], SHORT).await;
        let told = told.ok().and_then(|text| serde_json::from_str::<Recovery>(text.trim()).ok());
        match told.filter(|told| told.state == "failed") {
            Some(told) => {
                let why = told.message.unwrap_or_else(|| "its member does not say why".into());
                self.change_restore(&row.id, RestorePhase::Failed(why)).await
            }
            None => Ok(()),
        }
    }

    /// Waits until a database that is made of a backup is ready.
    pub async fn recovered(&self, id: &ClusterId) -> ApiResult<()> {
        let mut learned = self.learned.subscribe();
        loop {
            learned.mark_unchanged();
            let row = self.row(id).ok_or_else(|| ApiError::not_found("cluster", id.as_str()))?;
            match &row.state.database.restore {
                None => return Ok(()),
                Some(RestorePhase::Failed(why)) => return Err(ApiError::conflict("recovery_failed", why.clone())),
                Some(RestorePhase::Fetching | RestorePhase::Recovering) => {}
            }
            learned.changed().await.map_err(|_| ApiError::internal())?;
        }
    }
}
