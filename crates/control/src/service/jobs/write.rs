//! Jobs as users make, cancel and remove them.

use super::rows::{self, Job, JobStatus, StoredJob, TaskRecord};
use super::table::{Edit, label};
use super::turn::needed;
use super::{Jobs, not_found};
use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::Meta;
use crate::service::audit::audit;
use crate::service::auth::Actor;
use crate::service::idempotency;
use nm_store::{Kind, NewClusterEvent, NewResource, StoreError, Tx};
use nm_types::auth::Role;
use nm_types::cluster::ClusterEventKind;
use nm_types::job::{JobCounts, JobSpec, JobState, JobView, WAITING_JOBS, WAITING_TASKS};
use nm_types::text::Title;
use nm_types::{ClusterId, JobId};
use serde_json::json;
use std::sync::Arc;

/// Takes a job's rows out.
pub(super) async fn forget(tx: &mut Tx, id: &JobId) -> ApiResult<()> {
    tx.job_tasks_forget(id.as_str()).await?;
    match tx.delete(Kind::Job, id.as_str()).await {
        Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Jobs run whatever their image holds on nodes, as containers do.
fn may(actor: &Actor) -> ApiResult<()> {
    if actor.may(Role::Operator, "containers", true) {
        return Ok(());
    }
    Err(ApiError::forbidden(
        "jobs run containers: that takes the role operator, and the scope containers:write",
    ))
}

impl Jobs {
    /// `body` is the request's, to tell a repeated one from another.
    pub async fn create(&self, actor: &Actor, meta: &Meta, cluster: &str, mut spec: JobSpec, body: &[u8]) -> ApiResult<(JobView, i64)> {
        let cluster = self.clusters.compute(cluster)?.id;
        may(actor)?;
        let overlong = spec.overlong();
        if !overlong.is_empty() {
            return Err(ApiError::invalid_fields(overlong));
        }
        let problems = spec.problems();
        if !problems.is_empty() {
            return Err(ApiError::clashing_fields(problems));
        }
        self.registries.may_ask_for(&spec.image, "image")?;
        let _turn = self.turn.lock().await;
        let now = self.clock.now();
        let key = meta.idempotency_key.as_deref();
        let mut tx = self.store.begin(now).await?;
        let done: Option<JobId> = idempotency::answered(&mut tx, actor, key, || self.fingerprints.of(meta, &[body])).await?;
        if let Some(done) = done {
            drop(tx);
            return self.get(cluster.as_str(), done.as_str());
        }
        let (order, waits) = self.judge(&cluster, &spec)?;
        let id = JobId::fresh(now.0);
        let name = spec.name.as_ref().map(ToString::to_string).unwrap_or_default();
        let (environment, secret) = rows::split(&mut spec)?;
        let stored = StoredJob { spec, order };
        let status = JobStatus {
            state: Some(if waits { JobState::Waiting } else { JobState::Queued }),
            counts: JobCounts {
                queued: stored.spec.size(),
                ..JobCounts::default()
            },
            ..JobStatus::default()
        };
        let mut row = NewResource::new(Kind::Job, id.as_str())
            .within(cluster.as_str())
            .named(name.as_str())
            .spec(&stored)?
            .status(&status)?;
        if let Some(secret) = secret {
            row = row.secret(secret);
        }
        let row = tx.insert(row).await?;
        let job = Job {
            id: id.clone(),
            cluster: cluster.clone(),
            tasks: vec![TaskRecord::default(); stored.spec.size() as usize],
            spec: Arc::new(stored.spec),
            environment: Arc::new(environment),
            order,
            status,
            created: row.created_at,
            revision: row.revision,
            served: now.0,
            reserved: None,
        };
        tx.cluster_event(&NewClusterEvent {
            cluster: cluster.to_string(),
            at: now,
            kind: ClusterEventKind::JobMade.as_str().into(),
            member: None,
            node: None,
            reason: format!("{} of {} tasks was made by {}", label(&job), job.spec.size(), actor.label()),
            detail: Some(json!({ "job": id }).to_string()),
        })
        .await?;
        let detail = json!({
            "cluster": cluster, "name": job.spec.name, "image": job.spec.image, "tasks": job.spec.size(), "priority": job.spec.priority(),
        });
        tx.audit(audit(actor, meta, "job.create", Some(id.as_str()), detail)).await?;
        idempotency::keep(&mut tx, actor, key, &id).await?;
        tx.commit().await?;
        self.write().put(job);
        self.wake.notify_one();
        self.get(cluster.as_str(), id.as_str())
    }

    /// Its place in the order, and whether it waits for others.
    fn judge(&self, cluster: &ClusterId, spec: &JobSpec) -> ApiResult<(i64, bool)> {
        let table = self.read();
        let mut waits = false;
        for (i, id) in spec.depends_on.iter().enumerate() {
            let field = format!("dependsOn[{i}]");
            let Some(job) = table.jobs.get(id).filter(|j| j.cluster == *cluster) else {
                return Err(ApiError::invalid(&field, format!("the cluster has no job {id}")));
            };
            match job.status.state() {
                JobState::Succeeded => {}
                state if state.is_final() => {
                    return Err(
                        ApiError::conflict("dependency_failed", format!("job {id} is {}: it never succeeds", state.as_str())).field(field),
                    );
                }
                _ => waits = true,
            }
        }
        let open: Vec<&Job> = table.of_cluster(cluster).filter(|job| !job.has_ended()).collect();
        if open.len() >= WAITING_JOBS {
            let text = format!("the cluster has {WAITING_JOBS} jobs that have not ended: wait for some, or cancel them");
            return Err(ApiError::conflict("limit_reached", text));
        }
        let tasks: usize = open.iter().map(|job| job.spec.size() as usize).sum();
        if tasks + spec.size() as usize > WAITING_TASKS {
            let text = format!("the cluster has {tasks} tasks in jobs that have not ended, and {WAITING_TASKS} is the most");
            return Err(ApiError::conflict("limit_reached", text).field("array.size"));
        }
        let order = table.jobs.values().map(|job| job.order).max().unwrap_or(0) + 1;
        Ok((order, waits))
    }

    /// Ends what runs of it, and has nothing more begin. One that has ended stays as it is.
    pub async fn cancel(&self, actor: &Actor, meta: &Meta, cluster: &str, key: &str) -> ApiResult<(JobView, i64)> {
        may(actor)?;
        let id = self.find(cluster, key, |job| job.id.clone())?;
        let turn = self.turn.lock().await;
        let now = self.clock.now();
        let (changes, running) = {
            let table = self.read();
            let job = table.jobs.get(&id).ok_or_else(|| not_found(key))?;
            if job.has_ended() || job.status.cancelled {
                drop((table, turn));
                return self.get(cluster, key);
            }
            let mut edit = Edit::new(&table, now);
            let running = edit.cancel(job, format!("{} cancelled it", actor.label()));
            (edit.changes, running)
        };
        let mut tx = self.store.begin(now).await?;
        tx.audit(audit(actor, meta, "job.cancel", Some(id.as_str()), json!({}))).await?;
        self.commit(changes, Some(tx)).await?;
        drop(turn);
        for (node, attempt) in running {
            self.desks.cancel(&node, attempt);
        }
        self.wake.notify_one();
        self.get(cluster, key)
    }

    /// Takes a job that has ended out of the list, with its tasks and their logs.
    pub async fn remove(&self, actor: &Actor, meta: &Meta, cluster: &str, key: &str) -> ApiResult<JobId> {
        may(actor)?;
        let id = self.find(cluster, key, |job| job.id.clone())?;
        let _turn = self.turn.lock().await;
        {
            let table = self.read();
            let job = table.jobs.get(&id).ok_or_else(|| not_found(key))?;
            if !job.has_ended() {
                return Err(ApiError::conflict("job_not_finished", "it has not ended: cancel it first"));
            }
            if needed(&table, &id) {
                return Err(ApiError::conflict("in_use", "another job waits for it"));
            }
        }
        let mut tx = self.store.begin(self.clock.now()).await?;
        tx.audit(audit(actor, meta, "job.remove", Some(id.as_str()), json!({}))).await?;
        self.drop_jobs(vec![id.clone()], Some(tx)).await?;
        Ok(id)
    }

    /// Removes a cluster, with the jobs of one of type compute; where some have not ended, it stays.
    pub async fn remove_cluster(&self, actor: &Actor, meta: &Meta, key: &str) -> ApiResult<Title> {
        let Ok(cluster) = self.clusters.compute(key) else {
            return self.clusters.remove(actor, meta, key).await;
        };
        let _turn = self.turn.lock().await;
        let jobs: Vec<JobId> = {
            let table = self.read();
            let open = table.of_cluster(&cluster.id).filter(|job| !job.has_ended()).count();
            if open > 0 {
                return Err(ApiError::conflict(
                    "jobs_not_finished",
                    format!("the cluster has {open} jobs that have not ended: wait for them, or cancel them"),
                ));
            }
            table.of_cluster(&cluster.id).map(|job| job.id.clone()).collect()
        };
        let name = self.clusters.remove(actor, meta, key).await?;
        // What is left of it after a crash goes at the next start.
        self.drop_jobs(jobs, None).await?;
        Ok(name)
    }
}
