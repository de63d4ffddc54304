//! Named volumes.

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
use nm_types::volume::{NewVolume, VolumeView};

pub fn routes() -> Vec<Route> {
    let read = Policy::read("volumes");
    let write = Policy::write("volumes");
    vec![
        route(Method::GET, "/api/volumes", read, "List volumes", list)
            .query::<NodePageQuery>()
            .list::<VolumeView>(),
        route(Method::POST, "/api/volumes", write, "Make a volume", create)
            .body::<NewVolume>()
            .created::<VolumeView>(),
        route(Method::DELETE, "/api/volumes/{name}", write, "Remove a volume", remove)
            .query::<NodeQuery>()
            .ok::<Nothing>(),
    ]
}

async fn list(State(app): State<App>, Query(query): Query<NodePageQuery>) -> ApiResult<Reply<Vec<VolumeView>>> {
    let all = app.resources.volumes(query.node_id.as_deref()).await?;
    let gaps = all.gaps();
    let reply = page(all.rows, query.limit, query.cursor.as_ref(), |v| {
        format!("{}\0{}", v.name, v.node_id)
    });
    Ok(reply.told(gaps))
}

async fn create(State(app): State<App>, actor: Actor, meta: Meta, Json(body): Json<NewVolume>) -> ApiResult<Reply<VolumeView>> {
    let volume = app.resources.create_volume(&actor, &meta, body).await?;
    let message = format!("volume `{}` was made", volume.name);
    Ok(Reply::created(volume, message))
}

async fn remove(
    State(app): State<App>,
    actor: Actor,
    meta: Meta,
    Id(name): Id,
    Query(query): Query<NodeQuery>,
) -> ApiResult<Reply<Nothing>> {
    app.resources.remove_volume(&actor, &meta, query.node_id.as_deref(), name).await?;
    Ok(Reply::ok(Nothing {}).message("the volume was removed"))
}
