//! Nodes and how machines join.

use super::error::ApiResult;
use super::extract::{Id, Json, Meta, Query};
use super::page::{PageQuery, page};
use super::reply::Reply;
use super::route::{Nothing, Policy, Route, route};
use crate::app::App;
use crate::service::auth::Actor;
use axum::extract::State;
use http::Method;
use nm_types::node::{NewJoinToken, NodeUpdate, NodeView};

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
        route(Method::DELETE, "/api/nodes/{id}", admin, "Take a node out of the fleet", remove).ok::<Nothing>(),
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
        "on the new machine: neuralmesh agent --join TOKEN --server https://THIS-HOST:7443",
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

async fn remove(State(app): State<App>, actor: Actor, meta: Meta, Id(id): Id) -> ApiResult<Reply<Nothing>> {
    let id = app.nodes.remove(&actor, &meta, &id).await?;
    Ok(Reply::ok(Nothing {}).message(format!("node {id} is no longer in the fleet")))
}
