//! The node's load balancer, and addresses it shares.

use super::App;
use super::containers::Nothing;
use super::reply::{Failed, Query, Reply, Typed};
use crate::edge::Edge;
use axum::Json;
use axum::extract::State;
use nm_link::contract::{AgentError, AgentErrorCode as Code, EdgeConfig, EdgeEventsQuery, EdgeMetrics, EdgeState};
use nm_types::proxy::{Events, FailoverRequest};

fn edge(app: &App) -> Result<&Edge, Failed> {
    let text = "This agent was started without a load balancer.";
    app.edge.as_ref().ok_or_else(|| Failed(AgentError::new(Code::NotRunning, text)))
}

pub async fn state(State(app): State<App>) -> Reply<EdgeState> {
    Ok(Json(edge(&app)?.state().await?))
}

pub async fn put(State(app): State<App>, Typed(document): Typed<EdgeConfig>) -> Reply<EdgeState> {
    Ok(Json(edge(&app)?.put(document).await?))
}

pub async fn metrics(State(app): State<App>) -> Reply<EdgeMetrics> {
    Ok(Json(edge(&app)?.metrics().await?))
}

pub async fn events(State(app): State<App>, Query(query): Query<EdgeEventsQuery>) -> Reply<Events> {
    Ok(Json(edge(&app)?.events(&query).await?))
}

pub async fn failover(State(app): State<App>, Typed(request): Typed<FailoverRequest>) -> Reply<Nothing> {
    edge(&app)?.fail_over(&request).await?;
    Ok(Json(Nothing {}))
}
