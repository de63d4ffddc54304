//! The control plane itself: is it there, can it work, what it is, what it measures, what it documents.

use super::error::{ApiError, ApiResult};
use super::extract::Query;
use super::reply::{Reply, json};
use super::route::{Policy, Route, route};
use crate::app::App;
use crate::metrics::scrape;
use crate::metrics::text::Format;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use nm_types::backup::OwnBackupView;
use serde::{Deserialize, Serialize};
use std::sync::OnceLock;
use utoipa::{IntoParams, ToSchema};

/// The control plane in short.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SystemInfo {
    pub version: String,
    /// `sqlite` or `postgres`.
    pub database: String,
    /// Seconds since it started.
    pub uptime: i64,
    pub nodes: u64,
    pub nodes_connected: u64,
    pub containers: u64,
    pub operations_running: u64,
}

/// It is there.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Alive {
    /// `ok`
    pub status: String,
}

pub fn routes() -> Vec<Route> {
    vec![
        route(Method::GET, "/healthz", Policy::Public, "Whether the process answers", healthz).ok::<Alive>(),
        route(Method::GET, "/readyz", Policy::Public, "Whether it can do its work", readyz).ok::<Alive>(),
        route(Method::GET, "/metrics", Policy::read("system"), "Figures for Prometheus", metrics)
            .query::<MetricsQuery>()
            .raw("text/plain")
            .raw("application/openmetrics-text"),
        route(
            Method::GET,
            "/api/system/info",
            Policy::read("system"),
            "The control plane in short",
            info,
        )
        .ok::<SystemInfo>(),
        route(
            Method::GET,
            "/api/system/backup",
            Policy::admin_read("system"),
            "How the control plane is backed up",
            own_backup,
        )
        .ok::<OwnBackupView>(),
        route(
            Method::POST,
            "/api/system/backup",
            Policy::admin("system"),
            "Back the control plane up now",
            back_up,
        )
        .long()
        .ok::<OwnBackupView>(),
        route(Method::GET, "/api/openapi.json", Policy::Own, "This document", openapi).raw("application/json"),
    ]
}

async fn healthz() -> Reply<Alive> {
    Reply::ok(Alive { status: "ok".into() })
}

async fn readyz(State(app): State<App>) -> ApiResult<Reply<Alive>> {
    app.ready().await?;
    Ok(Reply::ok(Alive { status: "ok".into() }))
}

/// What of the figures is wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MetricsQuery {
    /// Whether single containers have series of their own, the oldest 5,000 of them; true by default.
    containers: Option<bool>,
}

async fn metrics(State(app): State<App>, Query(query): Query<MetricsQuery>, headers: HeaderMap) -> ApiResult<Response> {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok());
    let format = Format::accepted(accept);
    let mut response = scrape(&app, format, query.containers.unwrap_or(true)).await?.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

async fn info(State(app): State<App>) -> Reply<SystemInfo> {
    Reply::ok(SystemInfo {
        version: env!("CARGO_PKG_VERSION").into(),
        database: app.store.backend().to_string(),
        uptime: app.clock.now().since(app.started) / 1000,
        nodes: app.nodes.len() as u64,
        nodes_connected: app.fleet.links().connected().len() as u64,
        containers: app.index.len() as u64,
        operations_running: app.operations.running() as u64,
    })
}

async fn own_backup(State(app): State<App>) -> Reply<OwnBackupView> {
    Reply::ok(app.own_backup.view())
}

/// It is made to its end, also when nobody waits for it any more.
async fn back_up(State(app): State<App>) -> ApiResult<Reply<OwnBackupView>> {
    let made = tokio::spawn(async move { app.own_backup.perform().await });
    match made.await {
        Ok(made) => Ok(Reply::ok(made?)),
        Err(_) => Err(ApiError::internal()),
    }
}

/// Made once: it depends on the code alone.
pub fn openapi_text() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| super::openapi::document(&super::routes()).to_string())
}

async fn openapi() -> Response {
    json(StatusCode::OK, openapi_text())
}
