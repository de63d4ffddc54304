//! Jobs of compute clusters.

use super::error::{ApiError, ApiResult};
use super::extract::{Id, Json, Meta, Query, read_body};
use super::page::{Cursor, page};
use super::reply::Reply;
use super::route::{Nothing, Policy, Route, route};
use super::sse::{self, Message};
use super::streams::{LOG_BYTES, last_lines};
use crate::app::App;
use crate::service::auth::Actor;
use crate::service::jobs::JobFilter;
use axum::extract::{FromRequest, FromRequestParts, Path, Request, State};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use http::Method;
use http::request::Parts;
use nm_types::container::LogLine;
use nm_types::job::{JobSpec, JobState, JobView, TaskState, TaskView};
use nm_types::units::Bounded;
use serde::Deserialize;
use utoipa::IntoParams;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ListQuery {
    /// Only those in this state.
    #[param(inline)]
    state: Option<JobState>,
    /// How many a page; 50 by default.
    #[param(inline)]
    limit: Option<Bounded<1, 200>>,
    /// `nextCursor` of the page before.
    #[param(inline)]
    cursor: Option<Cursor>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TasksQuery {
    /// Only those in this state.
    #[param(inline)]
    state: Option<TaskState>,
    /// How many a page; 50 by default.
    #[param(inline)]
    limit: Option<Bounded<1, 200>>,
    /// `nextCursor` of the page before.
    #[param(inline)]
    cursor: Option<Cursor>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LogsQuery {
    /// The task's number; may be left out where the job has one alone.
    #[param(inline)]
    task: Option<Bounded<0, 9_999>>,
    /// The last so many lines; all that are kept by default.
    #[param(inline)]
    tail: Option<Bounded<0, 10_000>>,
    /// Lines as server-sent events, for as long as the attempt runs.
    #[serde(default)]
    #[param(required = false)]
    follow: bool,
    /// For streams: a ticket of `POST /api/auth/tickets`.
    #[expect(dead_code, reason = "the guard reads it")]
    ticket: Option<String>,
}

pub fn routes() -> Vec<Route> {
    let (read, write) = (Policy::read("clusters"), Policy::write("clusters"));
    const ALL: &str = "/api/capabilities/clusters/{id}/jobs";
    const ONE: &str = "/api/capabilities/clusters/{id}/jobs/{jobId}";
    vec![
        route(Method::GET, ALL, read, "List the jobs of a compute cluster", list)
            .query::<ListQuery>()
            .list::<JobView>(),
        route(Method::POST, ALL, write, "Give a compute cluster a job", create)
            .body::<JobSpec>()
            .created::<JobView>()
            .idempotent(),
        route(Method::GET, ONE, read, "One job", get).ok::<JobView>(),
        route(
            Method::DELETE,
            ONE,
            write,
            "Remove a job that has ended, with what is kept of it",
            remove,
        )
        .ok::<Nothing>(),
        route(
            Method::GET,
            "/api/capabilities/clusters/{id}/jobs/{jobId}/tasks",
            read,
            "The tasks of a job, in order",
            tasks,
        )
        .query::<TasksQuery>()
        .list::<TaskView>(),
        route(
            Method::GET,
            "/api/capabilities/clusters/{id}/jobs/{jobId}/logs",
            read,
            "What the last attempt at a task wrote",
            logs,
        )
        .query::<LogsQuery>()
        .list::<LogLine>()
        .events(),
        route(
            Method::POST,
            "/api/capabilities/clusters/{id}/jobs/{jobId}/cancel",
            write,
            "End what runs of a job, and begin nothing more of it",
            cancel,
        )
        .ok::<JobView>(),
    ]
}

/// A cluster and one of its jobs.
struct Ids(String, String);

impl<S: Send + Sync> FromRequestParts<S> for Ids {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let Path((cluster, job)) = Path::<(String, String)>::from_request_parts(parts, state)
            .await
            .map_err(|_| ApiError::bad_request("malformed_path", "the path holds something that is not UTF-8"))?;
        Ok(Self(cluster, job))
    }
}

async fn list(State(app): State<App>, Id(cluster): Id, Query(query): Query<ListQuery>) -> ApiResult<Reply<Vec<JobView>>> {
    let jobs = app.jobs.list(&cluster, &JobFilter { state: query.state })?;
    Ok(page(jobs, query.limit, query.cursor.as_ref(), |job| job.id.to_string()))
}

async fn create(State(app): State<App>, actor: Actor, meta: Meta, Id(cluster): Id, request: Request) -> ApiResult<Reply<JobView>> {
    let (parts, body) = request.into_parts();
    let bytes = read_body(body).await?;
    let request = Request::from_parts(parts, axum::body::Body::from(bytes.clone()));
    let Json(spec) = Json::<JobSpec>::from_request(request, &()).await?;
    let (job, revision) = app.jobs.create(&actor, &meta, &cluster, spec, &bytes).await?;
    let message = format!("job {} was made; it has {} tasks", job.id, job.counts.total());
    Ok(Reply::created(job, message).revision(revision))
}

async fn get(State(app): State<App>, Ids(cluster, job): Ids) -> ApiResult<Reply<JobView>> {
    let (job, revision) = app.jobs.get(&cluster, &job)?;
    Ok(Reply::ok(job).revision(revision))
}

async fn tasks(State(app): State<App>, Ids(cluster, job): Ids, Query(query): Query<TasksQuery>) -> ApiResult<Reply<Vec<TaskView>>> {
    let tasks = app.jobs.tasks(&cluster, &job, query.state).await?;
    Ok(page(tasks, query.limit, query.cursor.as_ref(), |task| format!("{:05}", task.index)))
}

async fn logs(State(app): State<App>, actor: Actor, Ids(cluster, job): Ids, Query(query): Query<LogsQuery>) -> ApiResult<Response> {
    let task = match query.task {
        Some(task) => u32::try_from(task.get()).unwrap_or(0),
        None => app.jobs.only_task(&cluster, &job)?,
    };
    let tail = query.tail.and_then(|t| u32::try_from(t.get()).ok());
    let lines = app.jobs.log(&cluster, &job, task, tail, query.follow).await?;
    if query.follow {
        let source = lines.filter_map(|line| async move { line.ok().map(|l| Message::json("log", &l)) });
        return sse::stream(&app, actor, source);
    }
    let mut lines = last_lines(lines, LOG_BYTES).await?;
    if let Some(tail) = tail {
        lines.drain(..lines.len().saturating_sub(tail as usize));
    }
    Ok(Reply::list(lines, None).into_response())
}

async fn cancel(State(app): State<App>, actor: Actor, meta: Meta, Ids(cluster, job): Ids) -> ApiResult<Reply<JobView>> {
    let (job, revision) = app.jobs.cancel(&actor, &meta, &cluster, &job).await?;
    let message = match job.state.is_final() {
        true => format!("job {} is {}", job.id, job.state.as_str()),
        false => format!("{} tasks are being ended", job.counts.running),
    };
    Ok(Reply::ok(job).revision(revision).message(message))
}

async fn remove(State(app): State<App>, actor: Actor, meta: Meta, Ids(cluster, job): Ids) -> ApiResult<Reply<Nothing>> {
    let id = app.jobs.remove(&actor, &meta, &cluster, &job).await?;
    Ok(Reply::ok(Nothing {}).message(format!("job {id} was removed")))
}
