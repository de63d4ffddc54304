//! Containers: made, commanded, read from and typed into.

use super::App;
use super::reply::{Failed, Key, Query, Reply, Typed, channel_lines, lines, push_line};
use crate::progress::Reporter;
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::TryStreamExt;
use http::header;
use http_body_util::BodyExt;
use nm_link::contract::{AgentError, AgentErrorCode as Code, Command, CreateContainer, Exec, LogQuery, RemoveContainer, TerminalQuery};
use nm_types::container::{ExecResult, ObservedContainer};
use nm_types::text::{MASK, holds_secret, looks_secret};
use serde::Deserialize;
use std::future::Future;
use tokio::sync::mpsc;
use tracing::Instrument;

/// Progress lines under way; layers beyond are left out.
const PROGRESS: usize = 64;

#[derive(serde::Serialize)]
pub struct Nothing {}

/// Runs a change to its end, also when the client goes away half way: a half-done change helps no one.
pub(super) async fn whole<T: Send + 'static>(work: impl Future<Output = Result<T, AgentError>> + Send + 'static) -> Result<T, Failed> {
    match tokio::spawn(work.in_current_span()).await {
        Ok(result) => Ok(result?),
        Err(e) => Err(Failed(AgentError::new(Code::Internal, format!("The agent failed: {e}.")))),
    }
}

pub async fn create(State(app): State<App>, Typed(request): Typed<CreateContainer>) -> Response {
    let (tx, rx) = mpsc::channel(PROGRESS);
    let work = async move {
        let report = Reporter::new(tx);
        let result = app.docker.create(request, &report).await;
        report.end(result).await;
    };
    tokio::spawn(work.in_current_span());
    channel_lines(rx)
}

pub async fn command(State(app): State<App>, Key(key): Key, Typed(command): Typed<Command>) -> Reply<ObservedContainer> {
    whole(async move { app.docker.command(&key, command).await }).await.map(Json)
}

pub async fn remove(State(app): State<App>, Key(key): Key, Typed(request): Typed<RemoveContainer>) -> Reply<Nothing> {
    whole(async move { app.docker.remove(&key, request).await }).await?;
    Ok(Json(Nothing {}))
}

pub async fn inspect(State(app): State<App>, Key(key): Key) -> Reply<serde_json::Value> {
    let record = app.docker.resolve(&key).await?;
    let mut document = app.docker.inspect_raw(&record.observed.docker_id).await?;
    if let Some(environment) = document.pointer_mut("/Config/Env").and_then(|e| e.as_array_mut()) {
        for entry in environment {
            if let Some((name, value)) = entry.as_str().and_then(|e| e.split_once('='))
                && (looks_secret(name) || holds_secret(value))
            {
                *entry = format!("{name}={MASK}").into();
            }
        }
    }
    Ok(Json(document))
}

pub async fn logs(State(app): State<App>, Key(key): Key, Query(query): Query<LogQuery>) -> Result<Response, Failed> {
    let record = app.docker.resolve(&key).await?;
    let reader = app.docker.logs(&record, &query).await?;
    Ok(lines(futures_util::stream::try_unfold(reader, |mut reader| async move {
        let Some(batch) = reader.next().await? else {
            return Ok::<_, axum::BoxError>(None);
        };
        let mut out = Vec::with_capacity(batch.len() * 128);
        for line in &batch {
            push_line(&mut out, line)?;
        }
        Ok(Some((Bytes::from(out), reader)))
    })))
}

pub async fn exec(State(app): State<App>, Key(key): Key, Typed(request): Typed<Exec>) -> Reply<ExecResult> {
    let record = app.docker.resolve(&key).await?;
    Ok(Json(app.docker.exec(&record, &request.command).await?))
}

pub async fn terminal(State(app): State<App>, Key(key): Key, Query(query): Query<TerminalQuery>, body: Body) -> Result<Response, Failed> {
    let record = app.docker.resolve(&key).await?;
    let frames = app.docker.terminal(&record, query, body.into_data_stream()).await?;
    let stream = tokio_stream::wrappers::ReceiverStream::new(frames);
    Ok((
        [(header::CONTENT_TYPE, "application/octet-stream")],
        Body::from_stream(futures_util::StreamExt::map(stream, Ok::<_, std::convert::Infallible>)),
    )
        .into_response())
}

#[derive(Deserialize)]
pub struct ArchiveQuery {
    path: String,
}

pub async fn archive_get(State(app): State<App>, Key(key): Key, Query(query): Query<ArchiveQuery>) -> Result<Response, Failed> {
    let record = app.docker.resolve(&key).await?;
    let tar = app.docker.archive_get(&record, &query.path).await?;
    Ok(([(header::CONTENT_TYPE, "application/x-tar")], Body::from_stream(tar)).into_response())
}

pub async fn archive_put(State(app): State<App>, Key(key): Key, Query(query): Query<ArchiveQuery>, body: Body) -> Reply<Nothing> {
    let record = app.docker.resolve(&key).await?;
    app.docker.archive_put(&record, &query.path, streamed(body)).await?;
    Ok(Json(Nothing {}))
}

/// A request's body as one to Docker.
pub(super) fn streamed(body: Body) -> crate::docker::client::RequestBody {
    let frames = body.into_data_stream().map_ok(hyper::body::Frame::data).map_err(Into::into);
    http_body_util::StreamBody::new(frames).boxed_unsync()
}
