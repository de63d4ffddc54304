//! Nodes and how machines join.

use super::error::ApiResult;
use super::extract::{Id, Json, Meta, OptionalJson, Query};
use super::page::{PageQuery, page};
use super::reply::{Reply, accepted};
use super::route::{Nothing, Policy, Route, route};
use crate::app::App;
use crate::service::auth::Actor;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::Method;
use nm_types::node::{NewJoinToken, NodeUpdate, NodeView};
use nm_types::placement::{DrainNode, DrainReport};
use serde::Deserialize;
use utoipa::IntoParams;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RemoveQuery {
    /// Also with containers of ours on it. They stay on the machine as they are, and are no longer known to us.
    #[serde(default)]
    #[param(required = false)]
    force: bool,
}

pub fn routes() -> Vec<Route> {
    let read = Policy::read("nodes");
    let admin = Policy::admin("nodes");
    vec![
        route(Method::GET, "/api/nodes", read, "List nodes", list)
            .query::<PageQuery>()
            .list::<NodeView>(),
        route(
            Method::POST,
            "/api/nodes/join-tokens",
            admin,
            "Make a join token: single use, 15 minutes",
            join_token,
        )
        .created::<NewJoinToken>(),
        route(Method::GET, "/api/nodes/{id}", read, "One node", get).ok::<NodeView>(),
        route(Method::PATCH, "/api/nodes/{id}", admin, "Rename, label or cordon a node", update)
            .body::<NodeUpdate>()
            .ok::<NodeView>(),
        route(Method::DELETE, "/api/nodes/{id}", admin, "Take a node out of the fleet", remove)
            .query::<RemoveQuery>()
            .ok::<Nothing>(),
        route(
            Method::POST,
            "/api/nodes/{id}/drain",
            admin,
            "Empty a node: cordon it, and move or stop its containers",
            drain,
        )
        .optional_body::<DrainNode>()
        .ok::<DrainReport>()
        .or_operation(),
        route(
            Method::POST,
            "/api/nodes/{id}/cordon",
            admin,
            "Give a node no new containers",
            cordon,
        )
        .ok::<NodeView>(),
        route(
            Method::POST,
            "/api/nodes/{id}/uncordon",
            admin,
            "Give a node new containers again",
            uncordon,
        )
        .ok::<NodeView>(),
    ]
}

async fn list(State(app): State<App>, Query(query): Query<PageQuery>) -> Reply<Vec<NodeView>> {
    let nodes = app.nodes.list().into_iter().map(|(node, _)| node).collect();
    page(nodes, query.limit, query.cursor.as_ref(), |n| n.id.to_string())
}

async fn join_token(State(app): State<App>, actor: Actor, meta: Meta) -> ApiResult<Reply<NewJoinToken>> {
    let token = app.enrolment.new_token(&actor, &meta).await?;
    Ok(Reply::created(
        token,
        "as root on the new machine: NEURALMESH_JOIN=TOKEN neuralmesh agent install --server https://THIS-HOST:7443",
    ))
}

async fn get(State(app): State<App>, Id(id): Id) -> ApiResult<Reply<NodeView>> {
    let (node, revision) = app.nodes.get(&id)?;
    Ok(Reply::ok(node).revision(revision))
}

async fn update(State(app): State<App>, actor: Actor, meta: Meta, Id(id): Id, Json(body): Json<NodeUpdate>) -> ApiResult<Reply<NodeView>> {
    let (node, revision) = app.nodes.update(&actor, &meta, &id, body).await?;
    Ok(Reply::ok(node).revision(revision).message("the node was changed"))
}

async fn remove(
    State(app): State<App>,
    actor: Actor,
    meta: Meta,
    Id(id): Id,
    Query(query): Query<RemoveQuery>,
) -> ApiResult<Reply<Nothing>> {
    let node = app.nodes.may_remove(&id, query.force)?;
    app.clusters.leave(&node).await?;
    let id = app.containers.remove_node(&actor, &meta, node.as_str(), query.force).await?;
    Ok(Reply::ok(Nothing {}).message(format!("node {id} is no longer in the fleet")))
}

async fn drain(
    State(app): State<App>,
    actor: Actor,
    meta: Meta,
    Id(id): Id,
    OptionalJson(body): OptionalJson<DrainNode>,
) -> ApiResult<Response> {
    let operation = app.containers.drain(&actor, &meta, &id, body).await?;
    Ok(match operation.result {
        Some(report) => Reply::ok(report).message("the node is drained").into_response(),
        None => accepted(&operation),
    })
}

async fn cordon(State(app): State<App>, actor: Actor, meta: Meta, Id(id): Id) -> ApiResult<Reply<NodeView>> {
    let (node, revision) = app.nodes.cordon(&actor, &meta, &id, true).await?;
    Ok(Reply::ok(node).revision(revision).message("the node takes no new containers"))
}

async fn uncordon(State(app): State<App>, actor: Actor, meta: Meta, Id(id): Id) -> ApiResult<Reply<NodeView>> {
    let (node, revision) = app.nodes.cordon(&actor, &meta, &id, false).await?;
    Ok(Reply::ok(node).revision(revision).message("the node takes new containers"))
}
