//! Logins of image registries. Passwords go in and never come out.

use super::error::ApiResult;
use super::extract::{Id, Json, Meta, Query};
use super::page::{PageQuery, page};
use super::reply::Reply;
use super::route::{Nothing, Policy, Route, route};
use crate::app::App;
use crate::service::auth::Actor;
use axum::extract::State;
use http::Method;
use nm_types::registry::{NewRegistry, RegistryView};

pub fn routes() -> Vec<Route> {
    let read = Policy::read("registries");
    let admin = Policy::admin("registries");
    vec![
        route(Method::GET, "/api/registries", read, "List registry logins", list)
            .query::<PageQuery>()
            .list::<RegistryView>(),
        route(Method::POST, "/api/registries", admin, "Add a registry login", create)
            .body::<NewRegistry>()
            .created::<RegistryView>(),
        route(Method::PUT, "/api/registries/{id}", admin, "Replace a registry login", replace)
            .body::<NewRegistry>()
            .ok::<RegistryView>(),
        route(Method::DELETE, "/api/registries/{id}", admin, "Remove a registry login", remove).ok::<Nothing>(),
    ]
}

async fn list(State(app): State<App>, Query(query): Query<PageQuery>) -> ApiResult<Reply<Vec<RegistryView>>> {
    let all = app.registries.list().await?;
    Ok(page(all, query.limit, query.cursor.as_ref(), |r| format!("{}\0{}", r.host, r.id)))
}

async fn create(State(app): State<App>, actor: Actor, meta: Meta, Json(body): Json<NewRegistry>) -> ApiResult<Reply<RegistryView>> {
    let registry = app.registries.create(&actor, &meta, body).await?;
    let message = format!("the login for {} was added", registry.host);
    Ok(Reply::created(registry, message))
}

async fn replace(
    State(app): State<App>,
    actor: Actor,
    meta: Meta,
    Id(id): Id,
    Json(body): Json<NewRegistry>,
) -> ApiResult<Reply<RegistryView>> {
    Ok(Reply::ok(app.registries.replace(&actor, &meta, &id, body).await?).message("the login was replaced"))
}

async fn remove(State(app): State<App>, actor: Actor, meta: Meta, Id(id): Id) -> ApiResult<Reply<Nothing>> {
    app.registries.remove(&actor, &meta, &id).await?;
    Ok(Reply::ok(Nothing {}).message("the login was removed"))
}
