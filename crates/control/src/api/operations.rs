//! Operations.

use super::error::{ApiError, ApiResult};
use super::extract::{Id, Meta, Query};
use super::reply::Reply;
use super::route::{Policy, Route, route};
use super::sse::{self, Message};
use crate::app::App;
use crate::service::audit::audit;
use crate::service::auth::Actor;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::Method;
use nm_types::OperationId;
use nm_types::operation::{OperationState, OperationView};
use nm_types::units::Bounded;
use serde::Deserialize;
use utoipa::IntoParams;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ListQuery {
    #[param(inline)]
    state: Option<OperationState>,
    /// The id of what is worked on.
    target: Option<String>,
    /// How many a page; 50 by default.
    #[param(inline)]
    limit: Option<Bounded<1, 200>>,
    #[param(inline)]
    cursor: Option<OperationId>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GetQuery {
    /// Each change as a server-sent event, until its end.
    #[serde(default)]
    #[param(required = false)]
    follow: bool,
    /// For streams: a ticket of `POST /api/auth/tickets`.
    #[serde(rename = "ticket")]
    #[expect(dead_code, reason = "the guard reads it")]
    ticket: Option<String>,
}

pub fn routes() -> Vec<Route> {
    let read = Policy::read("operations");
    vec![
        route(Method::GET, "/api/operations", read, "List operations, newest first", list)
            .query::<ListQuery>()
            .list::<OperationView>(),
        route(Method::GET, "/api/operations/{id}", read, "One operation", get)
            .query::<GetQuery>()
            .ok::<OperationView>()
            .events(),
        route(
            Method::POST,
            "/api/operations/{id}/cancel",
            Policy::write("operations"),
            "End it early",
            cancel,
        )
        .ok::<OperationView>(),
    ]
}

async fn list(State(app): State<App>, Query(query): Query<ListQuery>) -> ApiResult<Reply<Vec<OperationView>>> {
    let limit = u32::try_from(query.limit.map_or(50, |l| l.get())).unwrap_or(50);
    let (rows, next) = app
        .operations
        .list(
            query.target.as_deref(),
            query.state,
            query.cursor.as_ref().map(OperationId::as_str),
            limit,
        )
        .await?;
    Ok(Reply::list(rows, next))
}

async fn get(State(app): State<App>, actor: Actor, Id(id): Id, Query(query): Query<GetQuery>) -> ApiResult<Response> {
    if !query.follow {
        return Ok(Reply::ok(app.operations.get(&id).await?).into_response());
    }
    let follow = app.operations.follow(&id).await?;
    let source = futures_util::stream::unfold(follow, |mut follow| async move {
        let view = follow.next().await?;
        Some((Message::json("operation", &view), follow))
    });
    sse::stream(&app, actor, source)
}

async fn cancel(State(app): State<App>, actor: Actor, meta: Meta, Id(id): Id) -> ApiResult<Reply<OperationView>> {
    let view = app.operations.get(&id).await?;
    if view.state.is_final() || !app.operations.cancel(&view.id) {
        return Err(ApiError::conflict(
            "already_ended",
            format!("operation {} has ended: there is nothing to cancel", view.id),
        ));
    }
    let mut tx = app.store.begin(app.clock.now()).await?;
    tx.audit(audit(
        &actor,
        &meta,
        "operation.cancel",
        Some(view.id.as_str()),
        serde_json::json!({ "kind": view.kind }),
    ))
    .await?;
    tx.commit().await?;
    Ok(Reply::ok(app.operations.get(&id).await?).message("it was asked to end"))
}
