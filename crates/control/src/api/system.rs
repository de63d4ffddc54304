//! The control plane itself: is it there, can it work, what it is, what it measures, what it documents.

use super::error::{ApiError, ApiResult};
use super::reply::{Reply, json};
use super::route::{Policy, Route, route};
use crate::app::App;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Method, StatusCode, header};
use serde::{Deserialize, Serialize};
use std::sync::OnceLock;
use utoipa::ToSchema;

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
        route(Method::GET, "/metrics", Policy::read("system"), "Figures for Prometheus", metrics).raw("application/openmetrics-text"),
        route(
            Method::GET,
            "/api/system/info",
            Policy::read("system"),
            "The control plane in short",
            info,
        )
        .ok::<SystemInfo>(),
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

async fn metrics(State(app): State<App>) -> ApiResult<Response> {
    let text = app.metrics.text(&app).map_err(|_| ApiError::internal())?;
    let mut response = text.into_response();
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8"),
    );
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

/// Made once: it depends on the code alone.
pub fn openapi_text() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| super::openapi::document(&super::routes()).to_string())
}

async fn openapi() -> Response {
    json(StatusCode::OK, openapi_text())
}
