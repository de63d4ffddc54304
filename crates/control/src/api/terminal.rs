//! A command in a container that is talked to over a WebSocket, with a terminal or without.
//!
//! Binary messages are bytes, both ways; without a terminal ours begin with one that says whose they are, 1 for standard output
//! and 2 for standard error. Text messages are JSON: from the client `{"type":"resize","rows":…,"cols":…}` and
//! `{"type":"eof"}`, from us `{"type":"exit","code":…}` or `{"type":"error","error":…,"code":…}`, and then the close.

use super::error::{ApiError, ApiResult};
use super::extract::{Id, Meta};
use super::route::{Policy, Route, route};
use crate::app::{App, StreamPlace, stopped};
use crate::service::audit::audit;
use crate::service::auth::Actor;
use crate::service::fleet::{keyed, with_query};
use crate::service::privileges;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{RawQuery, State};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http::Method;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame as BodyFrame, Incoming};
use nm_link::contract::exec::Frame;
use nm_link::contract::{AgentError, TerminalQuery, path};
use nm_types::text::{QueryWord, RunAs};
use nm_types::units::Bounded;
use serde::Deserialize;
use serde_json::json;
use std::collections::HashSet;
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::IntoParams;

pub fn routes() -> Vec<Route> {
    vec![
        route(
            Method::GET,
            "/api/containers/{id}/terminal",
            Policy::write("containers"),
            "A terminal in it, by WebSocket",
            terminal,
        )
        .query::<TerminalParams>()
        .websocket(),
    ]
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
enum Control {
    Resize { rows: u16, cols: u16 },
    Eof,
}

/// For the document; [`parse`] reads it.
#[derive(IntoParams)]
#[expect(dead_code, reason = "only its shape counts")]
struct TerminalParams {
    /// The program, and its arguments in further ones; `sh` by default.
    #[param(inline, required = false, max_items = 100)]
    command: Vec<QueryWord>,
    /// Lines of the terminal; 24 by default.
    #[param(inline)]
    rows: Option<Bounded<1, 1000>>,
    /// Columns of the terminal; 80 by default.
    #[param(inline)]
    cols: Option<Bounded<1, 1000>>,
    /// `false` for a command without a terminal: input and output pass as they are, and each binary message from us begins with a
    /// byte, 1 for standard output or 2 for standard error. `true` by default.
    tty: Option<bool>,
    /// As whom it runs.
    #[param(inline)]
    user: Option<RunAs>,
    /// For browsers: a ticket of `POST /api/auth/tickets`.
    ticket: Option<String>,
}

/// `command` may stand several times, which a plain query type can't say.
fn parse(query: Option<&str>) -> ApiResult<TerminalQuery> {
    let (mut command, mut rows, mut cols, mut user, mut tty) = (Vec::new(), 24, 80, None, true);
    let mut given = HashSet::new();
    for (key, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        if key != "command" && !given.insert(key.clone()) {
            return Err(ApiError::invalid(&key, format!("duplicate field `{key}`")));
        }
        let size = || {
            value
                .parse::<u16>()
                .ok()
                .filter(|n| (1..=1000).contains(n))
                .ok_or_else(|| ApiError::invalid(&key, "a number from 1 to 1000"))
        };
        match key.as_ref() {
            "command" => command.push(QueryWord::parse(&value).map_err(|e| ApiError::invalid("command", e.to_string()))?),
            "rows" => rows = size()?,
            "cols" => cols = size()?,
            "tty" => tty = value.parse().map_err(|_| ApiError::invalid("tty", "true or false"))?,
            "user" => {
                user = Some(
                    RunAs::parse(&value)
                        .map_err(|e| ApiError::invalid("user", e.to_string()))?
                        .to_string(),
                )
            }
            "ticket" => {}
            other => return Err(ApiError::invalid(other, "there is no such parameter")),
        }
    }
    if command.len() > 100 {
        return Err(ApiError::invalid("command", "at most 100 words"));
    }
    if command.is_empty() {
        command.push(QueryWord::parse("sh").map_err(|_| ApiError::internal())?);
    }
    let command = serde_json::to_string(&command).map_err(|_| ApiError::internal())?;
    Ok(TerminalQuery {
        command,
        rows,
        cols,
        user,
        tty,
    })
}

async fn terminal(
    State(app): State<App>,
    actor: Actor,
    meta: Meta,
    Id(id): Id,
    RawQuery(query): RawQuery,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> ApiResult<Response> {
    let query = parse(query.as_deref())?;
    let (record, agent) = app.containers.reach(&id)?;
    privileges::may_enter(&actor, &record)?;
    let upgrade =
        upgrade.map_err(|e| ApiError::bad_request("websocket_expected", format!("this path speaks WebSocket only: {}", e.body_text())))?;
    let place = app.streams.open(&actor)?;
    let tty = query.tty;
    let program = serde_json::from_str::<Vec<String>>(&query.command)
        .ok()
        .and_then(|c| c.into_iter().next());
    let mut tx = app.store.begin(app.clock.now()).await?;
    tx.audit(audit(
        &actor,
        &meta,
        "container.terminal",
        Some(record.id.as_str()),
        json!({ "program": program }),
    ))
    .await?;
    tx.commit().await?;
    // To the agent before the upgrade: what it refuses is a plain HTTP answer then.
    let (input, source) = mpsc::channel::<Bytes>(64);
    let body = StreamBody::new(ReceiverStream::new(source).map(|bytes| Ok::<_, Infallible>(BodyFrame::data(bytes))));
    let route = with_query(&keyed(path::TERMINAL, &record), &query);
    let answer = agent
        .duplex(Method::POST, &route, "application/octet-stream", body, Duration::from_secs(20))
        .await
        .map_err(ApiError::from)?;
    Ok(upgrade
        .max_message_size(1 << 20)
        .on_upgrade(move |socket| pump(app, actor, place, tty, socket, input, answer.into_body())))
}

/// The numbers of the streams, as everywhere.
const STDOUT: u8 = 1;
const STDERR: u8 = 2;

/// A message with the bytes of a stream: with a terminal there is only one.
fn spoken(tty: bool, stream: u8, data: Bytes) -> Message {
    Message::Binary(match tty {
        true => data,
        false => [&[stream][..], &data].concat().into(),
    })
}

async fn pump(
    app: App,
    actor: Actor,
    _place: StreamPlace,
    tty: bool,
    mut socket: WebSocket,
    input: mpsc::Sender<Bytes>,
    mut output: Incoming,
) {
    // Input that the node has no room for yet. Output goes on meanwhile, lest a program that writes as it reads stand still.
    let mut waiting: Option<Bytes> = None;
    let mut buffer = BytesMut::new();
    let mut stop = app.stop.clone();
    let mut ended = std::pin::pin!(app.auth.ended(&actor));
    let failure = |code: &str, error: &str| Message::Text(json!({ "type": "error", "error": error, "code": code }).to_string().into());
    let last = 'run: loop {
        tokio::select! {
            biased;
            () = stopped(&mut stop) => break failure("stopping", "the control plane stops"),
            () = &mut ended => break failure("unauthorized", "your permission ended"),
            frame = output.frame() => match frame {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        buffer.extend_from_slice(data);
                    }
                    loop {
                        match Frame::decode(&mut buffer) {
                            Ok(None) => break,
                            Ok(Some(Frame::Data(data))) => {
                                if socket.send(spoken(tty, STDOUT, data)).await.is_err() {
                                    return;
                                }
                            }
                            Ok(Some(Frame::Stderr(data))) => {
                                if socket.send(spoken(tty, STDERR, data)).await.is_err() {
                                    return;
                                }
                            }
                            Ok(Some(Frame::Exit { code })) => break 'run Message::Text(json!({ "type": "exit", "code": code }).to_string().into()),
                            Ok(Some(Frame::Error(json))) => break 'run match serde_json::from_slice::<AgentError>(&json) {
                                Ok(error) => { let error = ApiError::from(error); failure(&error.code, &error.message) }
                                Err(_) => failure("internal", "the node's answer can't be read"),
                            },
                            Ok(Some(Frame::Resize { .. } | Frame::EndOfInput)) => {}
                            Err(_) => break 'run failure("internal", "the node's answer can't be read"),
                        }
                    }
                }
                Some(Err(_)) | None => break failure("node_offline", "the link to the node broke"),
            },
            room = input.reserve(), if waiting.is_some() => match room {
                Ok(room) => room.send(waiting.take().unwrap_or_default()),
                Err(_) => break failure("node_offline", "the link to the node broke"),
            },
            message = socket.recv(), if waiting.is_none() => {
                let frame = match message {
                    Some(Ok(Message::Binary(data))) => Frame::Data(data),
                    Some(Ok(Message::Text(text))) => match serde_json::from_str::<Control>(&text) {
                        Ok(Control::Resize { rows, cols }) => Frame::Resize { rows, cols },
                        Ok(Control::Eof) => Frame::EndOfInput,
                        Err(error) => break failure("malformed_message", &format!("a text message is resize or eof: {error}")),
                    },
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                };
                waiting = Some(frame.encode());
            }
        }
    };
    // The other side may be gone already; then there is nobody to tell.
    let _gone = socket.send(last).await;
    let _gone = socket.send(Message::Close(None)).await;
}
