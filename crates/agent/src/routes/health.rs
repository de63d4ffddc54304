//! Probes.

use super::App;
use super::reply::{Reply, Typed};
use axum::Json;
use axum::extract::State;
use nm_link::contract::{ProbeResult, RunProbes};

pub async fn probes(State(app): State<App>, Typed(request): Typed<RunProbes>) -> Reply<Vec<ProbeResult>> {
    Ok(Json(crate::probes::run(&app.docker, request).await?))
}
