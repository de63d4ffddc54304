//! Networks.

use super::error::ApiResult;
use super::extract::{Id, Json, Meta, Query};
use super::images::NodeQuery;
use super::page::{NodePageQuery, page};
use super::reply::Reply;
use super::route::{Nothing, Policy, Route, route};
use crate::app::App;
use crate::service::auth::Actor;
use axum::extract::State;
use http::Method;
use nm_types::network::{NetworkMember, NetworkView, NewNetwork};

pub fn routes() -> Vec<Route> {
    let read = Policy::read("networks");
    let write = Policy::write("networks");
    vec![
        route(Method::GET, "/api/networks", read, "List networks", list)
            .query::<NodePageQuery>()
            .list::<NetworkView>(),
        route(Method::POST, "/api/networks", write, "Make a network", create)
            .body::<NewNetwork>()
            .created::<NetworkView>(),
        route(Method::DELETE, "/api/networks/{name}", write, "Remove a network", remove)
            .query::<NodeQuery>()
            .ok::<Nothing>(),
        route(Method::POST, "/api/networks/{name}/attach", write, "Put a container on it", attach)
            .body::<NetworkMember>()
            .ok::<Nothing>(),
        route(
            Method::POST,
            "/api/networks/{name}/detach",
            write,
            "Take a container off it",
            detach,
        )
        .body::<NetworkMember>()
        .ok::<Nothing>(),
    ]
}

async fn list(State(app): State<App>, Query(query): Query<NodePageQuery>) -> ApiResult<Reply<Vec<NetworkView>>> {
    let all = app.resources.networks(query.node_id.as_deref()).await?;
    let gaps = all.gaps();
    let reply = page(all.rows, query.limit, query.cursor.as_ref(), |n| {
        format!("{}\0{}", n.name, n.node_id)
    });
    Ok(reply.told(gaps))
}

async fn create(State(app): State<App>, actor: Actor, meta: Meta, Json(body): Json<NewNetwork>) -> ApiResult<Reply<NetworkView>> {
    let network = app.resources.create_network(&actor, &meta, body).await?;
    let message = format!("network `{}` was made", network.name);
    Ok(Reply::created(network, message))
}

async fn remove(
    State(app): State<App>,
    actor: Actor,
    meta: Meta,
    Id(name): Id,
    Query(query): Query<NodeQuery>,
) -> ApiResult<Reply<Nothing>> {
    app.resources.remove_network(&actor, &meta, query.node_id.as_deref(), name).await?;
    Ok(Reply::ok(Nothing {}).message("the network was removed"))
}

async fn attach(
    State(app): State<App>,
    actor: Actor,
    meta: Meta,
    Id(name): Id,
    Json(body): Json<NetworkMember>,
) -> ApiResult<Reply<Nothing>> {
    app.resources
        .membership(&actor, &meta, &app.containers, name, &body.container, true)
        .await?;
    Ok(Reply::ok(Nothing {}).message("the container is on the network"))
}

async fn detach(
    State(app): State<App>,
    actor: Actor,
    meta: Meta,
    Id(name): Id,
    Json(body): Json<NetworkMember>,
) -> ApiResult<Reply<Nothing>> {
    app.resources
        .membership(&actor, &meta, &app.containers, name, &body.container, false)
        .await?;
    Ok(Reply::ok(Nothing {}).message("the container is off the network"))
}
