//! Backup jobs.

use super::App;
use super::containers::Nothing;
use super::reply::{Failed, Reply, Typed, channel_lines};
use crate::backups::Backups;
use axum::Json;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use nm_link::contract::{AgentError, AgentErrorCode as Code, CancelJob, ReachQuery, RunJob, ServeQuery};

fn backups(app: &App) -> Result<&Backups, Failed> {
    let text = "This agent was started without a backup worker.";
    app.backups.as_ref().ok_or_else(|| Failed(AgentError::new(Code::NotRunning, text)))
}

pub async fn run(State(app): State<App>, Typed(request): Typed<RunJob>) -> Result<Response, Failed> {
    Ok(channel_lines(backups(&app)?.run(request).await?))
}

pub async fn cancel(State(app): State<App>, Typed(request): Typed<CancelJob>) -> Reply<Nothing> {
    backups(&app)?.cancel(&request.key);
    Ok(Json(Nothing {}))
}

pub async fn reach(State(app): State<App>, Query(query): Query<ReachQuery>, body: Body) -> Result<Response, Failed> {
    let reached = backups(&app)?.reach(query, body.into_data_stream()).await;
    Ok(reached.map_or_else(|| StatusCode::NO_CONTENT.into_response(), bytes))
}

pub async fn serve(State(app): State<App>, Query(query): Query<ServeQuery>, body: Body) -> Result<Response, Failed> {
    Ok(bytes(backups(&app)?.serve(query, body.into_data_stream()).await?))
}

fn bytes(from: impl tokio::io::AsyncRead + Send + 'static) -> Response {
    let stream = tokio_util::io::ReaderStream::with_capacity(from, 64 << 10);
    ([(header::CONTENT_TYPE, "application/octet-stream")], Body::from_stream(stream)).into_response()
}
