//! What nodes' machines use, and what happened on them.

use super::error::{ApiError, ApiResult};
use super::extract::{Id, Query};
use super::reply::Reply;
use super::route::{Policy, Route, route};
use super::sse::{self, Message};
use super::streams::StatsParams;
use super::tokens::page;
use crate::app::App;
use crate::service::auth::Actor;
use crate::service::fleet::with_query;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use http::Method;
use nm_link::contract::path;
use nm_types::host::NodeStats;
use nm_types::node_event::NodeEventView;
use nm_types::units::Bounded;
use serde::Deserialize;
use utoipa::IntoParams;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct EventsParams {
    /// How many a page; 50 by default.
    #[param(inline)]
    limit: Option<Bounded<1, 200>>,
    /// `nextCursor` of the page before.
    #[param(inline)]
    cursor: Option<Bounded<1, 9_007_199_254_740_991>>,
}

pub fn routes() -> Vec<Route> {
    let read = Policy::read("nodes");
    vec![
        route(Method::GET, "/api/nodes/{id}/stats", read, "What its machine used", stats)
            .query::<StatsParams>()
            .list::<NodeStats>()
            .events(),
        route(
            Method::GET,
            "/api/nodes/{id}/events",
            read,
            "What happened on it, newest first",
            of_node,
        )
        .query::<EventsParams>()
        .list::<NodeEventView>(),
        route(
            Method::GET,
            "/api/containers/{id}/events",
            Policy::read("containers"),
            "What happened to it, newest first",
            of_container,
        )
        .query::<EventsParams>()
        .list::<NodeEventView>(),
    ]
}

async fn stats(State(app): State<App>, actor: Actor, Id(id): Id, Query(query): Query<StatsParams>) -> ApiResult<Response> {
    let agent = app.fleet.agent(&app.nodes.find(&id)?)?;
    if query.follow {
        let lines = agent
            .lines::<NodeStats>(Method::GET, path::HOST_STATS_STREAM, None)
            .await
            .map_err(ApiError::from)?;
        let source = lines.filter_map(|sample| async move { sample.ok().map(|s| Message::json("stats", &s)) });
        return sse::stream(&app, actor, source);
    }
    let ask = with_query(path::HOST_STATS, &query.history());
    let samples: Vec<NodeStats> = agent.get(&ask).await.map_err(ApiError::from)?;
    Ok(Reply::list(samples, None).into_response())
}

async fn of_node(State(app): State<App>, Id(id): Id, Query(query): Query<EventsParams>) -> ApiResult<Reply<Vec<NodeEventView>>> {
    let node = app.nodes.find(&id)?;
    let (events, next) = app
        .journals
        .of_node(&node, query.cursor.map(|c| c.get()), page(query.limit))
        .await?;
    Ok(Reply::list(events, next.map(|id| id.to_string())))
}

async fn of_container(State(app): State<App>, Id(id): Id, Query(query): Query<EventsParams>) -> ApiResult<Reply<Vec<NodeEventView>>> {
    let record = app.containers.find(&id)?;
    let (events, next) = app
        .journals
        .of_container(&record, query.cursor.map(|c| c.get()), page(query.limit))
        .await?;
    Ok(Reply::list(events, next.map(|id| id.to_string())))
}
