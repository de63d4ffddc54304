//! Users. `{id}` is an id or a username.

use super::error::ApiResult;
use super::extract::{Id, Json, Meta, Query};
use super::reply::Reply;
use super::route::{Nothing, Policy, Route, route};
use crate::app::App;
use crate::service::auth::Actor;
use axum::extract::State;
use http::Method;
use nm_types::UserId;
use nm_types::auth::{NewUser, UserUpdate, UserView};
use nm_types::units::Bounded;
use serde::Deserialize;
use utoipa::IntoParams;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ListQuery {
    /// How many a page; 50 by default.
    #[param(inline)]
    limit: Option<Bounded<1, 200>>,
    /// `nextCursor` of the page before.
    #[param(inline)]
    cursor: Option<UserId>,
}

pub fn routes() -> Vec<Route> {
    let (read, write) = (Policy::admin_read("users"), Policy::admin("users"));
    vec![
        route(Method::GET, "/api/users", read, "List users", list)
            .query::<ListQuery>()
            .list::<UserView>(),
        route(Method::POST, "/api/users", write, "Make a user", create)
            .body::<NewUser>()
            .created::<UserView>()
            .idempotent(),
        route(Method::GET, "/api/users/{id}", read, "One user", get).ok::<UserView>(),
        route(
            Method::PATCH,
            "/api/users/{id}",
            write,
            "Change a user's role or password, disable or enable them",
            update,
        )
        .body::<UserUpdate>()
        .ok::<UserView>(),
        route(
            Method::DELETE,
            "/api/users/{id}",
            write,
            "Remove a user with their sessions and tokens",
            remove,
        )
        .ok::<Nothing>(),
    ]
}

async fn list(State(app): State<App>, Query(query): Query<ListQuery>) -> ApiResult<Reply<Vec<UserView>>> {
    let limit = super::tokens::page(query.limit);
    let (users, next) = app.auth.users(query.cursor.as_ref(), limit).await?;
    Ok(Reply::list(users, next.map(String::from)))
}

async fn create(State(app): State<App>, actor: Actor, meta: Meta, Json(new): Json<NewUser>) -> ApiResult<Reply<UserView>> {
    let (user, revision) = app.auth.create_user(&actor, &meta, new).await?;
    let message = format!("user `{}` was made", user.username);
    Ok(Reply::created(user, message).revision(revision))
}

async fn get(State(app): State<App>, Id(id): Id) -> ApiResult<Reply<UserView>> {
    let (user, revision) = app.auth.user(&id).await?;
    Ok(Reply::ok(user).revision(revision))
}

async fn update(
    State(app): State<App>,
    actor: Actor,
    meta: Meta,
    Id(id): Id,
    Json(change): Json<UserUpdate>,
) -> ApiResult<Reply<UserView>> {
    let (user, revision) = app.auth.update_user(&actor, &meta, &id, change).await?;
    let message = format!("user `{}` is changed", user.username);
    Ok(Reply::ok(user).revision(revision).message(message))
}

async fn remove(State(app): State<App>, actor: Actor, meta: Meta, Id(id): Id) -> ApiResult<Reply<Nothing>> {
    app.auth.delete_user(&actor, &meta, &id).await?;
    Ok(Reply::ok(Nothing {}).message("the user was removed"))
}
