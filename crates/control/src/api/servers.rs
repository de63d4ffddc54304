//! Servers: everything that can take traffic, be checked or be backed up.

use super::error::ApiResult;
use super::extract::{Id, Json, Meta, Query};
use super::page::{Cursor, PAGE, page};
use super::reply::Reply;
use super::route::{Nothing, Policy, Route, route};
use crate::app::App;
use crate::service::auth::Actor;
use crate::service::servers::Wanted;
use axum::extract::State;
use http::Method;
use nm_types::server::{NewServer, ServerKind, ServerUpdate, ServerView};
use nm_types::units::Bounded;
use serde::Deserialize;
use utoipa::IntoParams;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ServersQuery {
    /// Only those of this kind.
    #[param(inline)]
    kind: Option<ServerKind>,
    /// How many a page; 50 by default.
    #[param(inline)]
    limit: Option<Bounded<1, 200>>,
    /// `nextCursor` of the page before.
    #[param(inline)]
    cursor: Option<Cursor>,
}

pub fn routes() -> Vec<Route> {
    let read = Policy::read("servers");
    let write = Policy::write("servers");
    vec![
        route(Method::GET, "/api/servers", read, "List servers of every kind", list)
            .query::<ServersQuery>()
            .list::<ServerView>(),
        route(Method::POST, "/api/servers", write, "Register a server by its address", create)
            .body::<NewServer>()
            .created::<ServerView>(),
        route(Method::GET, "/api/servers/{id}", read, "One server of any kind", get).ok::<ServerView>(),
        route(Method::PATCH, "/api/servers/{id}", write, "Change a registered server", update)
            .body::<ServerUpdate>()
            .ok::<ServerView>(),
        route(Method::DELETE, "/api/servers/{id}", write, "Forget a registered server", remove).ok::<Nothing>(),
    ]
}

async fn list(State(app): State<App>, Query(query): Query<ServersQuery>) -> ApiResult<Reply<Vec<ServerView>>> {
    let limit = usize::try_from(query.limit.map_or(PAGE, |l| l.get())).unwrap_or(1);
    let wanted = Wanted {
        kind: query.kind,
        after: query.cursor.as_ref().and_then(Cursor::key),
        limit: limit + 1,
    };
    let servers = app.servers.list(wanted).await?;
    Ok(page(servers, query.limit, query.cursor.as_ref(), |s| s.id.clone()))
}

async fn create(State(app): State<App>, actor: Actor, meta: Meta, Json(body): Json<NewServer>) -> ApiResult<Reply<ServerView>> {
    let server = app.servers.create(&actor, &meta, body).await?;
    let message = format!("the server {} was registered", server.view.name);
    Ok(Reply::created(server.view, message).revision(server.revision))
}

async fn get(State(app): State<App>, Id(id): Id) -> ApiResult<Reply<ServerView>> {
    let server = app.servers.resolve(&id).await?;
    Ok(Reply::ok(server.view).revision(server.revision))
}

async fn update(
    State(app): State<App>,
    actor: Actor,
    meta: Meta,
    Id(id): Id,
    Json(body): Json<ServerUpdate>,
) -> ApiResult<Reply<ServerView>> {
    let server = app.servers.update(&actor, &meta, &id, body).await?;
    Ok(Reply::ok(server.view).revision(server.revision).message("the server was changed"))
}

async fn remove(State(app): State<App>, actor: Actor, meta: Meta, Id(id): Id) -> ApiResult<Reply<Nothing>> {
    let id = app.servers.remove(&actor, &meta, &id).await?;
    Ok(Reply::ok(Nothing {}).message(format!("server {id} is forgotten")))
}
