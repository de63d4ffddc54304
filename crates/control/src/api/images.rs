//! Images.

use super::error::ApiResult;
use super::extract::{Json, Meta, Query};
use super::page::{NodePageQuery, page};
use super::reply::{Reply, accepted};
use super::route::{Nothing, Policy, Route, route};
use crate::app::App;
use crate::service::auth::Actor;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::Method;
use nm_types::image::{ImageView, Pruned, PullImage};
use nm_types::text::ImageRef;
use serde::Deserialize;
use utoipa::IntoParams;

/// Which node is meant.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeQuery {
    /// Id or name of a node; may be left out where there is only one.
    pub node_id: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RemoveQuery {
    /// A name, or an id `sha256:…`.
    #[param(inline)]
    name: ImageRef,
    node_id: Option<String>,
    /// Also when several names point to it.
    #[serde(default)]
    #[param(required = false)]
    force: bool,
}

pub fn routes() -> Vec<Route> {
    let read = Policy::read("images");
    let write = Policy::write("images");
    vec![
        route(Method::GET, "/api/containers/images/list", read, "List images", list)
            .query::<NodePageQuery>()
            .list::<ImageView>(),
        route(Method::POST, "/api/containers/images/pull", write, "Pull an image", pull)
            .body::<PullImage>()
            .ok::<ImageView>()
            .or_operation(),
        route(Method::GET, "/api/images", read, "List images", list)
            .query::<NodePageQuery>()
            .list::<ImageView>(),
        route(Method::DELETE, "/api/images", write, "Remove an image", remove)
            .query::<RemoveQuery>()
            .ok::<Nothing>(),
        route(
            Method::POST,
            "/api/images/prune",
            write,
            "Remove images that nothing uses and no name points to",
            prune,
        )
        .query::<NodeQuery>()
        .ok::<Pruned>()
        .long(),
    ]
}

async fn list(State(app): State<App>, Query(query): Query<NodePageQuery>) -> ApiResult<Reply<Vec<ImageView>>> {
    let all = app.resources.images(query.node_id.as_deref()).await?;
    let gaps = all.gaps();
    // Those with a name first, by name.
    let reply = page(all.rows, query.limit, query.cursor.as_ref(), |i| {
        format!("{}\0{}\0{}", i.tags.first().map_or("~", String::as_str), i.id, i.node_id)
    });
    Ok(reply.told(gaps))
}

async fn pull(State(app): State<App>, actor: Actor, meta: Meta, Json(body): Json<PullImage>) -> ApiResult<Response> {
    let operation = app.resources.pull(&actor, &meta, body).await?;
    Ok(match operation.result {
        Some(image) => Reply::ok(image).message("the image is there").into_response(),
        None => accepted(&operation),
    })
}

async fn remove(State(app): State<App>, actor: Actor, meta: Meta, Query(query): Query<RemoveQuery>) -> ApiResult<Reply<Nothing>> {
    app.resources
        .remove_image(&actor, &meta, query.node_id.as_deref(), query.name.to_string(), query.force)
        .await?;
    Ok(Reply::ok(Nothing {}).message("the image was removed"))
}

async fn prune(State(app): State<App>, actor: Actor, meta: Meta, Query(query): Query<NodeQuery>) -> ApiResult<Reply<Pruned>> {
    let pruned = app.resources.prune_images(&actor, &meta, query.node_id.as_deref()).await?;
    let message = format!("{} were removed, and {} bytes freed", pruned.removed.len(), pruned.freed);
    Ok(Reply::ok(pruned).message(message))
}
