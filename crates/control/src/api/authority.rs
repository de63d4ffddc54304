//! The authority that vouches for nodes and control plane.

use super::error::ApiResult;
use super::extract::{Id, Meta, OptionalJson};
use super::reply::Reply;
use super::route::{Policy, Route, route};
use crate::app::App;
use crate::controller::trust;
use crate::service::auth::Actor;
use axum::extract::State;
use http::Method;
use nm_types::authority::{AuthorityView, RotateAuthority};
use nm_types::node::{NewJoinToken, NodeView};

pub fn routes() -> Vec<Route> {
    let admin = Policy::admin("nodes");
    vec![
        route(
            Method::GET,
            "/api/nodes/authority",
            Policy::read("nodes"),
            "The authority of this fleet, and who is on which",
            show,
        )
        .ok::<AuthorityView>(),
        route(
            Method::POST,
            "/api/nodes/authority/rotate",
            admin,
            "Put another authority in its place, without cutting anybody off",
            rotate,
        )
        .optional_body::<RotateAuthority>()
        .ok::<AuthorityView>(),
        route(
            Method::POST,
            "/api/nodes/{id}/revoke",
            admin,
            "Revoke a node's certificates and close its link; the node stays in the fleet",
            revoke,
        )
        .ok::<NodeView>(),
        route(
            Method::POST,
            "/api/nodes/{id}/rejoin-token",
            admin,
            "Make a token with which a machine joins again as this node: single use, 15 minutes",
            rejoin_token,
        )
        .created::<NewJoinToken>(),
    ]
}

async fn show(State(app): State<App>) -> Reply<AuthorityView> {
    Reply::ok(trust::view(&app))
}

async fn rotate(
    State(app): State<App>,
    actor: Actor,
    meta: Meta,
    OptionalJson(how): OptionalJson<RotateAuthority>,
) -> ApiResult<Reply<AuthorityView>> {
    app.authorities.rotate(&actor, &meta, how).await?;
    Ok(Reply::ok(trust::view(&app)).message("it goes on by itself; no node is cut off meanwhile"))
}

async fn revoke(State(app): State<App>, actor: Actor, meta: Meta, Id(id): Id) -> ApiResult<Reply<NodeView>> {
    let (node, revision) = app.nodes.revoke(&actor, &meta, &id).await?;
    let message = format!("node {} is cut off until it joins again with a token made for it", node.name);
    Ok(Reply::ok(node).revision(revision).message(message))
}

async fn rejoin_token(State(app): State<App>, actor: Actor, meta: Meta, Id(id): Id) -> ApiResult<Reply<NewJoinToken>> {
    let token = app.enrolment.rejoin_token(&actor, &meta, &id).await?;
    Ok(Reply::created(
        token,
        "as root on that machine: NEURALMESH_JOIN=TOKEN neuralmesh agent install --server https://THIS-HOST:7443",
    ))
}
