//! Health checks, as the specification has them, with their settings and history.

use super::error::ApiResult;
use super::extract::{Id, Json, Meta, Query};
use super::page::{Cursor, PAGE, page};
use super::reply::Reply;
use super::route::{Policy, Route, route};
use crate::app::App;
use crate::service::auth::Actor;
use crate::service::health::Filter;
use axum::extract::State;
use http::Method;
use nm_types::Timestamp;
use nm_types::auth::Role;
use nm_types::health::{HealthConfig, HealthInterval, HealthSettings, HealthSettingsUpdate, HealthStatus, HealthView};
use nm_types::server::ServerKind;
use nm_types::units::Bounded;
use serde::Deserialize;
use utoipa::IntoParams;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct HealthQuery {
    /// Only servers of this status.
    #[param(inline)]
    status: Option<HealthStatus>,
    /// Only servers of this kind.
    #[param(inline)]
    kind: Option<ServerKind>,
    /// How many a page; 50 by default.
    #[param(inline)]
    limit: Option<Bounded<1, 200>>,
    /// `nextCursor` of the page before.
    #[param(inline)]
    cursor: Option<Cursor>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct HistoryQuery {
    /// 30 days before `to` by default. What held then is the last entry.
    #[param(inline)]
    from: Option<Timestamp>,
    /// Now by default.
    #[param(inline)]
    to: Option<Timestamp>,
    /// How many a page; 50 by default.
    #[param(inline)]
    limit: Option<Bounded<1, 200>>,
    /// `nextCursor` of the page before.
    #[param(inline)]
    cursor: Option<Cursor>,
}

pub fn routes() -> Vec<Route> {
    let read = Policy::read("health");
    let write = Policy::write("health");
    let admin = Policy::admin("health");
    // The words of a probe's command may hold secrets.
    let read_config = Policy::Needs {
        role: Role::Operator,
        area: "health",
        write: false,
    };
    const ONE: &str = "/api/capabilities/health/{serverId}";
    const CONFIG: &str = "/api/capabilities/health/{serverId}/config";
    const SETTINGS: &str = "/api/capabilities/health/settings";
    vec![
        route(
            Method::GET,
            "/api/capabilities/health",
            read,
            "The health of every server that is checked",
            list,
        )
        .query::<HealthQuery>()
        .list::<HealthView>(),
        route(Method::GET, SETTINGS, read, "How servers are checked", settings).ok::<HealthSettings>(),
        route(Method::PATCH, SETTINGS, admin, "Change how servers are checked", change_settings)
            .body::<HealthSettingsUpdate>()
            .ok::<HealthSettings>(),
        route(Method::GET, ONE, read, "One server's health", get).ok::<HealthView>(),
        route(
            Method::POST,
            "/api/capabilities/health/{serverId}/check",
            write,
            "Check a server now",
            check,
        )
        .ok::<HealthView>(),
        route(
            Method::GET,
            "/api/capabilities/health/{serverId}/history",
            read,
            "What a server's health was, newest first",
            history,
        )
        .query::<HistoryQuery>()
        .list::<HealthInterval>(),
        route(Method::GET, CONFIG, read_config, "How one server is checked", config).ok::<HealthConfig>(),
        route(
            Method::PUT,
            CONFIG,
            write,
            "Set how one server is checked: interval, limits, probes",
            set_config,
        )
        .body::<HealthConfig>()
        .ok::<HealthConfig>(),
    ]
}

async fn list(State(app): State<App>, Query(query): Query<HealthQuery>) -> ApiResult<Reply<Vec<HealthView>>> {
    let limit = usize::try_from(query.limit.map_or(PAGE, |l| l.get())).unwrap_or(1);
    let filter = Filter {
        status: query.status,
        kind: query.kind,
    };
    let views = app.health.list(&filter, query.cursor.as_ref().and_then(Cursor::key), limit).await?;
    Ok(page(views, query.limit, query.cursor.as_ref(), |v| v.server_id.clone()))
}

async fn settings(State(app): State<App>) -> Reply<HealthSettings> {
    let (settings, revision) = app.health.settings();
    Reply::ok(settings).revision(revision)
}

async fn change_settings(
    State(app): State<App>,
    actor: Actor,
    meta: Meta,
    Json(body): Json<HealthSettingsUpdate>,
) -> ApiResult<Reply<HealthSettings>> {
    let (settings, revision) = app.health.change_settings(&actor, &meta, body).await?;
    Ok(Reply::ok(settings).revision(revision).message("the settings were changed"))
}

async fn get(State(app): State<App>, Id(id): Id) -> ApiResult<Reply<HealthView>> {
    Ok(Reply::ok(app.health.get(&id).await?))
}

async fn check(State(app): State<App>, Id(id): Id) -> ApiResult<Reply<HealthView>> {
    let view = app.health.check_now(&id).await?;
    let message = format!("{} is {}", view.server_name, view.status.as_str());
    Ok(Reply::ok(view).message(message))
}

async fn history(State(app): State<App>, Id(id): Id, Query(query): Query<HistoryQuery>) -> ApiResult<Reply<Vec<HealthInterval>>> {
    let limit = u32::try_from(query.limit.map_or(PAGE, |l| l.get())).unwrap_or(1);
    let after = query.cursor.as_ref().map(|c| c.key().unwrap_or_default());
    let (intervals, next) = app.health.history(&id, query.from, query.to, after, limit).await?;
    Ok(Reply::list(intervals, next.as_deref().map(Cursor::behind)))
}

async fn config(State(app): State<App>, Id(id): Id) -> ApiResult<Reply<HealthConfig>> {
    let (config, revision) = app.health.config(&id).await?;
    Ok(Reply::ok(config).revision(revision))
}

async fn set_config(
    State(app): State<App>,
    actor: Actor,
    meta: Meta,
    Id(id): Id,
    Json(body): Json<HealthConfig>,
) -> ApiResult<Reply<HealthConfig>> {
    let (config, revision) = app.health.set_config(&actor, &meta, &id, body).await?;
    Ok(Reply::ok(config).revision(revision).message("the server is checked so from now on"))
}
