//! Tasks of jobs.

use super::App;
use super::reply::{Failed, Query, Reply, Typed, lines, push_line};
use crate::tasks::TaskLog;
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::Response;
use nm_link::contract::{TaskLogQuery, TaskNewsPage, TaskNewsQuery, TasksAnswer, TasksCall};

/// To its end, also when the caller goes away: what is accepted is begun.
pub async fn call(State(app): State<App>, Typed(call): Typed<TasksCall>) -> Reply<TasksAnswer> {
    super::containers::whole(async move { app.tasks.call(call).await }).await.map(Json)
}

pub async fn news(State(app): State<App>, Query(query): Query<TaskNewsQuery>) -> Reply<TaskNewsPage> {
    Ok(Json(app.tasks.news(&query).await))
}

pub async fn log(State(app): State<App>, Query(query): Query<TaskLogQuery>) -> Result<Response, Failed> {
    let docker = app.tasks.docker().clone();
    let kept = match app.tasks.log(&query).await? {
        TaskLog::Kept(kept) => kept,
        TaskLog::Running(docker_id) => {
            let reader = docker.task_log(&docker_id, query.follow).await.map_err(|e| docker.explain(e))?;
            return Ok(lines(futures_util::stream::try_unfold(reader, |mut reader| async move {
                let Some(batch) = reader.next().await? else {
                    return Ok::<_, axum::BoxError>(None);
                };
                let mut out = Vec::with_capacity(batch.len() * 128);
                for line in &batch {
                    push_line(&mut out, line)?;
                }
                Ok(Some((Bytes::from(out), reader)))
            })));
        }
    };
    let mut out = Vec::new();
    for line in &kept {
        push_line(&mut out, line).map_err(|e| Failed::invalid(format!("The log could not be written: {e}.")))?;
    }
    Ok(lines(futures_util::stream::iter([Ok::<_, std::convert::Infallible>(Bytes::from(
        out,
    ))])))
}
