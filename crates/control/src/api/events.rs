//! Every change, as it happens.

use super::error::{ApiError, ApiResult};
use super::extract::Query;
use super::route::{Policy, Route, route};
use super::sse::{self, Message};
use crate::app::App;
use crate::service::auth::Actor;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, Method};
use nm_store::{Change, Kind, StoreError, Subject, WatchError, What};
use nm_types::event::Event;
use nm_types::{ContainerId, OperationId};
use serde::Deserialize;
use std::collections::VecDeque;
use utoipa::IntoParams;

/// The most changes read from the store at once.
const BATCH: u32 = 500;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct EventsQuery {
    /// For browsers: a ticket of `POST /api/auth/tickets`.
    #[expect(dead_code, reason = "the guard reads it")]
    ticket: Option<String>,
}

pub fn routes() -> Vec<Route> {
    vec![
        route(
            Method::GET,
            "/api/events",
            Policy::read("events"),
            "Every change, as server-sent events",
            events,
        )
        .query::<EventsQuery>()
        .events(),
    ]
}

async fn events(State(app): State<App>, actor: Actor, Query(_): Query<EventsQuery>, headers: HeaderMap) -> ApiResult<Response> {
    let mut watch = app.store.watch();
    let mut backlog = VecDeque::new();
    if let Some(last) = headers.get("last-event-id") {
        let last: i64 = last
            .to_str()
            .ok()
            .and_then(|t| t.parse().ok())
            .ok_or_else(|| ApiError::bad_request("malformed_header", "Last-Event-ID is the id of an event, a number"))?;
        let behind = read_all(&app, last, watch.seen()).await.map_err(|e| match e {
            StoreError::Compacted { .. } => ApiError::new(
                http::StatusCode::GONE,
                "events_gone",
                "events that old are no longer kept: read the lists anew and follow without Last-Event-ID",
            ),
            e => e.into(),
        })?;
        if let Some(last) = behind.last() {
            watch.seen_up_to(last.revision);
        }
        backlog.extend(behind);
    }
    let state = (app.clone(), watch, backlog);
    let source = futures_util::stream::unfold(state, |(app, mut watch, mut backlog)| async move {
        loop {
            let change = match backlog.pop_front() {
                Some(change) => change,
                None => match watch.next().await {
                    Ok(change) => change,
                    Err(WatchError::Closed) => return None,
                    Err(WatchError::Lagged { since }) => {
                        // Too far behind to catch up: the reader comes again, with the id it has, or reads everything anew.
                        let read = app.store.changes_since(since, BATCH).await.ok()?;
                        watch.seen_up_to(read.last()?.revision);
                        backlog.extend(read);
                        continue;
                    }
                },
            };
            if let Some(message) = message(&app, change).await {
                return Some((message, (app, watch, backlog)));
            }
        }
    });
    sse::stream(&app, actor, source)
}

async fn read_all(app: &App, mut since: i64, until: i64) -> Result<Vec<Change>, StoreError> {
    let mut out: Vec<Change> = Vec::new();
    while since < until {
        let some = app.store.changes_since(since, BATCH).await?;
        match some.last() {
            Some(last) => since = last.revision,
            None => break,
        }
        out.extend(some);
    }
    Ok(out)
}

/// Sessions, settings, join tokens, orders of certificates and what is still to be cleaned up are nobody's business.
async fn message(app: &App, change: Change) -> Option<Message> {
    let kind = match change.subject {
        Subject::Resource(Kind::Setting | Kind::JoinToken | Kind::Leftover | Kind::AlertDelivery | Kind::Certificate)
        | Subject::Session => {
            return None;
        }
        Subject::Resource(kind) => kind.as_str(),
        Subject::User | Subject::Token | Subject::NodeEvents | Subject::ClusterEvents => change.subject.as_str(),
    };
    let status = match (change.subject, change.what) {
        (_, What::Deleted) => None,
        (Subject::Resource(Kind::Container), _) => ContainerId::parse(&change.id)
            .ok()
            .and_then(|id| app.index.get(&id))
            .map(|r| r.status().as_str().to_owned()),
        (Subject::Resource(Kind::Operation), _) => match OperationId::parse(&change.id) {
            Ok(id) => app
                .operations
                .get(id.as_str())
                .await
                .ok()
                .and_then(|o| serde_json::to_value(o.state).ok())
                .and_then(|v| v.as_str().map(str::to_owned)),
            Err(_) => None,
        },
        (Subject::Resource(Kind::Node), _) => app
            .nodes
            .get(&change.id)
            .ok()
            .and_then(|(n, _)| serde_json::to_value(n.status).ok())
            .and_then(|v| v.as_str().map(str::to_owned)),
        (Subject::Resource(Kind::Health), _) => {
            crate::service::servers::ServerKey::parse(&change.id).map(|key| app.health.status(&key).as_str().to_owned())
        }
        (Subject::Resource(Kind::Backup), _) => app.backups.status(&change.id).await.map(|s| s.as_str().to_owned()),
        (Subject::Resource(Kind::Alert), _) => app.alerts.state(&change.id).await.map(|s| s.as_str().to_owned()),
        _ => None,
    };
    let event = Event {
        revision: change.revision,
        kind: kind.to_owned(),
        id: change.id.to_string(),
        what: change.what.as_str().to_owned(),
        name: (!change.name.is_empty()).then(|| change.name.to_string()),
        status,
        time: change.at,
    };
    Some(Message {
        event: "change",
        id: Some(change.revision),
        ..Message::json("change", &event)
    })
}
