//! API tokens: one's own, and as an admin those of others.

use super::error::ApiResult;
use super::extract::{Id, Json, Meta, Query};
use super::reply::Reply;
use super::route::{Nothing, Policy, Route, route};
use crate::app::App;
use crate::service::auth::Actor;
use axum::extract::State;
use http::Method;
use nm_types::TokenId;
use nm_types::auth::{CreatedToken, NewToken, Role, TokenView};
use nm_types::units::Bounded;
use serde::Deserialize;
use utoipa::IntoParams;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ListQuery {
    /// Everybody's; for admins.
    #[serde(default)]
    #[param(required = false)]
    all: bool,
    /// How many a page; 50 by default.
    #[param(inline)]
    limit: Option<Bounded<1, 200>>,
    /// `nextCursor` of the page before.
    #[param(inline)]
    cursor: Option<TokenId>,
}

pub fn routes() -> Vec<Route> {
    let read = Policy::read("tokens");
    // Everybody may make tokens that can do less than they can.
    let write = Policy::Needs {
        role: Role::Viewer,
        area: "tokens",
        write: true,
    };
    vec![
        route(Method::GET, "/api/tokens", read, "List my API tokens", list)
            .query::<ListQuery>()
            .list::<TokenView>(),
        route(
            Method::POST,
            "/api/tokens",
            write,
            "Make an API token, with at most what I may do",
            create,
        )
        .body::<NewToken>()
        .created::<CreatedToken>()
        .idempotent(),
        route(Method::DELETE, "/api/tokens/{id}", write, "End an API token", remove).ok::<Nothing>(),
    ]
}

/// How many entries a page has.
pub fn page(limit: Option<Bounded<1, 200>>) -> u32 {
    limit.and_then(|l| u32::try_from(l.get()).ok()).unwrap_or(50)
}

async fn list(State(app): State<App>, actor: Actor, Query(query): Query<ListQuery>) -> ApiResult<Reply<Vec<TokenView>>> {
    let (tokens, next) = app
        .auth
        .list_tokens(&actor, query.all, query.cursor.as_ref(), page(query.limit))
        .await?;
    Ok(Reply::list(tokens, next.map(String::from)))
}

async fn create(State(app): State<App>, actor: Actor, meta: Meta, Json(new): Json<NewToken>) -> ApiResult<Reply<CreatedToken>> {
    let created = app.auth.create_token(&actor, &meta, new).await?;
    Ok(Reply::created(created, "keep the token: it is not shown again"))
}

async fn remove(State(app): State<App>, actor: Actor, meta: Meta, Id(id): Id) -> ApiResult<Reply<Nothing>> {
    app.auth.delete_token(&actor, &meta, &id).await?;
    Ok(Reply::ok(Nothing {}).message("the token was ended"))
}
