//! What containers write, use and hold: logs, stats, inspect, files.

use super::error::{ApiError, ApiResult};
use super::extract::{Id, Meta, Query};
use super::reply::Reply;
use super::route::{Nothing, Policy, Route, route};
use super::sse::{self, Message};
use crate::app::App;
use crate::service::audit::audit;
use crate::service::auth::Actor;
use crate::service::fleet::{keyed, with_query};
use crate::service::privileges;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use futures_util::{Stream, StreamExt};
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::BodyExt;
use nm_link::contract::{LogQuery, StatsQuery, path};
use nm_types::Timestamp;
use nm_types::container::LogLine;
use nm_types::stats::{ContainerStats, Resolution};
use nm_types::units::Bounded;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use utoipa::{IntoParams, ToSchema};

/// The most one archive may hold on its way into a container.
const ARCHIVE_LIMIT: usize = 1 << 30;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum LogFormat {
    /// An array of lines.
    #[default]
    Lines,
    /// An array of objects with stream and time.
    Objects,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LogsQuery {
    /// The last so many lines; 100 by default.
    #[param(inline)]
    tail: Option<Bounded<0, 10_000>>,
    /// Only lines from this time on.
    #[param(inline)]
    since: Option<Timestamp>,
    /// Only lines up to this time.
    #[param(inline)]
    until: Option<Timestamp>,
    /// Each line begins with its time.
    #[serde(default)]
    #[param(required = false)]
    timestamps: bool,
    /// `false` leaves standard output out.
    stdout: Option<bool>,
    /// `false` leaves standard error out.
    stderr: Option<bool>,
    #[param(inline)]
    format: Option<LogFormat>,
    /// Lines as server-sent events, for as long as the container runs.
    #[serde(default)]
    #[param(required = false)]
    follow: bool,
    /// For streams: a ticket of `POST /api/auth/tickets`.
    #[expect(dead_code, reason = "the guard reads it")]
    ticket: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct StatsParams {
    /// The newest so many; 60 by default.
    #[param(inline)]
    limit: Option<Bounded<1, 1440>>,
    #[param(inline)]
    resolution: Option<Resolution>,
    /// One sample a second as server-sent events, for as long as there are some.
    #[serde(default)]
    #[param(required = false)]
    pub(super) follow: bool,
    /// For streams: a ticket of `POST /api/auth/tickets`.
    #[expect(dead_code, reason = "the guard reads it")]
    ticket: Option<String>,
}

impl StatsParams {
    /// The history that is asked for, as agents are asked for it.
    pub(super) fn history(&self) -> StatsQuery {
        StatsQuery {
            limit: u32::try_from(self.limit.map_or(60, |l| l.get())).unwrap_or(60),
            resolution: self.resolution.unwrap_or_default(),
        }
    }
}

#[derive(Debug, Serialize, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ArchiveQuery {
    /// An absolute path in the container.
    #[param(pattern = "^/", max_length = 4096)]
    path: String,
}

pub fn routes() -> Vec<Route> {
    let read = Policy::read("containers");
    let write = Policy::write("containers");
    vec![
        route(Method::GET, "/api/containers/{id}/logs", read, "What it wrote", logs)
            .query::<LogsQuery>()
            .ok::<Vec<String>>()
            .events(),
        route(Method::GET, "/api/containers/{id}/stats", read, "What it used", stats)
            .query::<StatsParams>()
            .list::<ContainerStats>()
            .events(),
        route(
            Method::GET,
            "/api/containers/{id}/inspect",
            read,
            "Docker's own document of it",
            inspect,
        )
        .ok::<serde_json::Value>(),
        route(
            Method::GET,
            "/api/containers/{id}/archive",
            write,
            "A file or folder of it, as a tar archive",
            archive_get,
        )
        .query::<ArchiveQuery>()
        .raw("application/x-tar")
        .long(),
        route(
            Method::PUT,
            "/api/containers/{id}/archive",
            write,
            "Unpack a tar archive in a folder of it",
            archive_put,
        )
        .query::<ArchiveQuery>()
        .raw_body("application/octet-stream")
        .ok::<Nothing>(),
    ]
}

fn render(line: &LogLine, timestamps: bool) -> String {
    if timestamps {
        format!("{} {}", line.time, line.line)
    } else {
        line.line.clone()
    }
}

async fn logs(State(app): State<App>, actor: Actor, Id(id): Id, Query(query): Query<LogsQuery>) -> ApiResult<Response> {
    let (record, agent) = app.containers.reach(&id)?;
    let ask = LogQuery {
        tail: Some(u32::try_from(query.tail.map_or(100, |t| t.get())).unwrap_or(100)),
        since: query.since.map(|t| t.0),
        until: query.until.map(|t| t.0),
        stdout: query.stdout.unwrap_or(true),
        stderr: query.stderr.unwrap_or(true),
        follow: query.follow,
    };
    let lines = agent
        .lines::<LogLine>(Method::GET, &with_query(&keyed(path::LOGS, &record), &ask), None)
        .await
        .map_err(ApiError::from)?;
    if query.follow {
        let source = lines.filter_map(|line| async move { line.ok().map(|l| Message::json("log", &l)) });
        return sse::stream(&app, actor, source);
    }
    let out = last_lines(lines, LOG_BYTES).await?;
    Ok(match query.format.unwrap_or_default() {
        LogFormat::Objects => Reply::list(out, None).into_response(),
        LogFormat::Lines => Reply::list(out.iter().map(|l| render(l, query.timestamps)).collect(), None).into_response(),
    })
}

/// What one answer has of a log at most; who wants more follows it, and reads as it comes.
pub(super) const LOG_BYTES: usize = 8 << 20;

/// The last lines of all, as many as fit.
pub(super) async fn last_lines<E: Into<ApiError>>(lines: impl Stream<Item = Result<LogLine, E>>, most: usize) -> ApiResult<Vec<LogLine>> {
    let mut lines = std::pin::pin!(lines);
    let (mut out, mut held) = (VecDeque::new(), 0);
    while let Some(line) = lines.next().await {
        let line = line.map_err(Into::into)?;
        held += line.line.len();
        out.push_back(line);
        while held > most
            && out.len() > 1
            && let Some(oldest) = out.pop_front()
        {
            held -= oldest.line.len();
        }
    }
    Ok(out.into())
}

async fn stats(State(app): State<App>, actor: Actor, Id(id): Id, Query(query): Query<StatsParams>) -> ApiResult<Response> {
    let (record, agent) = app.containers.reach(&id)?;
    // Agents know containers that others made by Docker's id; the API knows them by ours.
    let name = record.id.to_string();
    if query.follow {
        let lines = agent
            .lines::<ContainerStats>(Method::GET, &keyed(path::STATS_STREAM, &record), None)
            .await
            .map_err(ApiError::from)?;
        let source = lines.filter_map(move |sample| {
            let id = name.clone();
            async move {
                sample
                    .ok()
                    .map(|s| Message::json("stats", &ContainerStats { container_id: id, ..s }))
            }
        });
        return sse::stream(&app, actor, source);
    }
    let mut samples: Vec<ContainerStats> = agent
        .get(&with_query(&keyed(path::STATS, &record), &query.history()))
        .await
        .map_err(ApiError::from)?;
    for sample in &mut samples {
        sample.container_id.clone_from(&name);
    }
    Ok(Reply::list(samples, None).into_response())
}

async fn inspect(State(app): State<App>, Id(id): Id) -> ApiResult<Reply<serde_json::Value>> {
    let (record, agent) = app.containers.reach(&id)?;
    Ok(Reply::ok(agent.get(&keyed(path::INSPECT, &record)).await.map_err(ApiError::from)?))
}

async fn noted(app: &App, actor: &Actor, meta: &Meta, action: &str, id: &str, path: &str) -> ApiResult<()> {
    let mut tx = app.store.begin(app.clock.now()).await?;
    tx.audit(audit(actor, meta, action, Some(id), serde_json::json!({ "path": path })))
        .await?;
    tx.commit().await?;
    Ok(())
}

/// Refuses what is compressed: Docker would unpack it by itself, to any size.
async fn plain_tar(body: Body) -> ApiResult<Body> {
    // What Docker's engine knows: gzip, bzip2, xz, and zstd with its skippable frames.
    const PACKED: [&[u8]; 4] = [b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"];
    const LONGEST: usize = 5;
    let mut stream = body.into_data_stream();
    let mut head = BytesMut::new();
    while head.len() < LONGEST
        && let Some(piece) = stream.next().await
    {
        head.extend_from_slice(&piece.map_err(|_| ApiError::bad_request("body_broken", "the body broke off before its end"))?);
    }
    let skippable = matches!(head.as_ref(), [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]);
    if skippable || PACKED.iter().any(|magic| head.starts_with(magic)) {
        return Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "the archive is compressed: send it as plain tar",
        ));
    }
    Ok(Body::from_stream(
        futures_util::stream::once(async { Ok(head.freeze()) }).chain(stream),
    ))
}

fn check_path(path: &str) -> ApiResult<()> {
    if path.starts_with('/') && path.len() <= 4096 && !path.contains('\0') {
        Ok(())
    } else {
        Err(ApiError::invalid("path", "an absolute path in the container, at most 4096 bytes"))
    }
}

async fn archive_get(
    State(app): State<App>,
    actor: Actor,
    meta: Meta,
    Id(id): Id,
    Query(query): Query<ArchiveQuery>,
) -> ApiResult<Response> {
    check_path(&query.path)?;
    let (record, agent) = app.containers.reach(&id)?;
    privileges::may_enter(&actor, &record)?;
    noted(&app, &actor, &meta, "container.copy-out", record.id.as_str(), &query.path).await?;
    let route = with_query(&keyed(path::ARCHIVE, &record), &query);
    let answer = agent
        .duplex(
            Method::GET,
            &route,
            "application/x-tar",
            http_body_util::Empty::new(),
            Duration::from_secs(60),
        )
        .await
        .map_err(ApiError::from)?;
    let mut response = Response::new(Body::new(answer.into_body()));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
    Ok(response)
}

async fn archive_put(
    State(app): State<App>,
    actor: Actor,
    meta: Meta,
    Id(id): Id,
    Query(query): Query<ArchiveQuery>,
    request: Request,
) -> ApiResult<Reply<Nothing>> {
    check_path(&query.path)?;
    if !request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|v| matches!(v.as_bytes(), b"application/octet-stream" | b"application/x-tar"))
    {
        return Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "send the archive as `Content-Type: application/octet-stream` or `application/x-tar`",
        ));
    }
    let too_large = || {
        ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            "an archive has at most 1 GiB; some of it may have been unpacked",
        )
    };
    let claimed = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.parse::<u64>().ok());
    if claimed.is_some_and(|n| n > ARCHIVE_LIMIT as u64) {
        return Err(too_large());
    }
    let (record, agent) = app.containers.reach(&id)?;
    privileges::may_enter(&actor, &record)?;
    noted(&app, &actor, &meta, "container.copy-in", record.id.as_str(), &query.path).await?;
    let route = with_query(&keyed(path::ARCHIVE, &record), &query);
    // Of a chunked body only the end of what may come tells that there was more.
    let over = Arc::new(AtomicBool::new(false));
    let body = plain_tar(request.into_body()).await?;
    let body = http_body_util::Limited::new(body, ARCHIVE_LIMIT).map_err({
        let over = over.clone();
        move |e| {
            over.fetch_or(e.downcast_ref::<http_body_util::LengthLimitError>().is_some(), Ordering::Relaxed);
            e
        }
    });
    let sent = agent
        .duplex(Method::PUT, &route, "application/x-tar", body, Duration::from_secs(3600))
        .await;
    if over.load(Ordering::Relaxed) {
        return Err(too_large());
    }
    sent.map_err(ApiError::from)?;
    Ok(Reply::ok(Nothing {}).message("the archive was unpacked"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nm_types::container::LogStream;

    #[tokio::test]
    async fn an_answer_has_the_last_lines_that_fit() {
        let line = |n: usize| LogLine {
            stream: LogStream::Stdout,
            time: Timestamp(0),
            line: n.to_string().repeat(10),
        };
        let source = || futures_util::stream::iter((0..9).map(|n| Ok::<_, ApiError>(line(n))));
        let last = |lines: Vec<LogLine>| lines.into_iter().map(|l| l.line[..1].to_owned()).collect::<String>();
        assert_eq!(last(last_lines(source(), 1000).await.unwrap()), "012345678");
        assert_eq!(last(last_lines(source(), 30).await.unwrap()), "678");
        // One line is never cut.
        assert_eq!(last(last_lines(source(), 5).await.unwrap()), "8");
    }
}
