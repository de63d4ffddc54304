//! Signing in and out, and what is one's own.

use super::error::ApiResult;
use super::extract::{Id, Json, Meta, Query};
use super::page::{PageQuery, page};
use super::reply::Reply;
use super::route::{Nothing, Policy, Route, route};
use crate::app::App;
use crate::service::auth::Actor;
use axum::extract::State;
use http::Method;
use nm_types::auth::{ChangePassword, Login, Refresh, SessionView, SignedIn, StreamTicket, UserView};

pub fn routes() -> Vec<Route> {
    let (public, own) = (Policy::Public, Policy::Own);
    vec![
        route(Method::POST, "/api/auth/login", public, "Sign in with a password", login)
            .body::<Login>()
            .ok::<SignedIn>(),
        route(
            Method::POST,
            "/api/auth/refresh",
            public,
            "Exchange a refresh token for new tokens",
            refresh,
        )
        .body::<Refresh>()
        .ok::<SignedIn>(),
        route(Method::POST, "/api/auth/logout", own, "End this session", logout).ok::<Nothing>(),
        route(Method::GET, "/api/auth/me", own, "Who I am", me).ok::<UserView>(),
        route(
            Method::POST,
            "/api/auth/password",
            own,
            "Change my password and end my other sessions",
            password,
        )
        .body::<ChangePassword>()
        .ok::<Nothing>(),
        route(Method::GET, "/api/auth/sessions", own, "My sessions", sessions)
            .query::<PageQuery>()
            .list::<SessionView>(),
        route(
            Method::DELETE,
            "/api/auth/sessions/{id}",
            own,
            "End one of my sessions",
            end_session,
        )
        .ok::<Nothing>(),
        route(
            Method::POST,
            "/api/auth/tickets",
            own,
            "A ticket to open one stream with from a browser",
            ticket,
        )
        .ok::<StreamTicket>(),
    ]
}

async fn login(State(app): State<App>, meta: Meta, Json(login): Json<Login>) -> ApiResult<Reply<SignedIn>> {
    Ok(Reply::ok(app.auth.login(&meta, login).await?).message("signed in"))
}

async fn refresh(State(app): State<App>, meta: Meta, Json(refresh): Json<Refresh>) -> ApiResult<Reply<SignedIn>> {
    Ok(Reply::ok(app.auth.refresh(&meta, refresh).await?).message("the session goes on"))
}

async fn logout(State(app): State<App>, actor: Actor, meta: Meta) -> ApiResult<Reply<Nothing>> {
    app.auth.logout(&actor, &meta).await?;
    Ok(Reply::ok(Nothing {}).message("signed out"))
}

async fn me(State(app): State<App>, actor: Actor) -> ApiResult<Reply<UserView>> {
    Ok(Reply::ok(app.auth.me(&actor).await?))
}

async fn password(State(app): State<App>, actor: Actor, meta: Meta, Json(change): Json<ChangePassword>) -> ApiResult<Reply<Nothing>> {
    app.auth.change_password(&actor, &meta, change).await?;
    Ok(Reply::ok(Nothing {}).message("the password was changed, and your other sessions were ended"))
}

async fn sessions(State(app): State<App>, actor: Actor, Query(query): Query<PageQuery>) -> ApiResult<Reply<Vec<SessionView>>> {
    let sessions = app.auth.sessions(&actor).await?;
    Ok(page(sessions, query.limit, query.cursor.as_ref(), |s| s.id.to_string()))
}

async fn end_session(State(app): State<App>, actor: Actor, meta: Meta, Id(id): Id) -> ApiResult<Reply<Nothing>> {
    app.auth.end_session(&actor, &meta, &id).await?;
    Ok(Reply::ok(Nothing {}).message("the session was ended"))
}

async fn ticket(State(app): State<App>, actor: Actor) -> ApiResult<Reply<StreamTicket>> {
    Ok(Reply::ok(app.auth.ticket(&actor)?).message("it opens one stream, within 30 seconds"))
}
