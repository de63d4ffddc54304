//! Another executable for the agent.

use super::App;
use super::reply::{Failed, Reply, Typed};
use crate::upgrade::Upgrades;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use nm_link::contract::{AgentError, AgentErrorCode as Code, BeginUpgrade, UpgradeState};
use nm_link::pki::SignedText;

fn upgrades(app: &App) -> Result<&Upgrades, Failed> {
    app.upgrades.as_ref().ok_or_else(|| {
        let text = "This agent runs inside the control plane's own process: it is upgraded with it, when the control plane is started in its new version.";
        Failed(AgentError::new(Code::InUse, text))
    })
}

pub async fn state(State(app): State<App>) -> Reply<UpgradeState> {
    Ok(Json(upgrades(&app)?.state().await?))
}

pub async fn offer(State(app): State<App>, Typed(signed): Typed<SignedText>) -> Reply<UpgradeState> {
    Ok(Json(upgrades(&app)?.offer(signed).await?))
}

pub async fn receive(State(app): State<App>, body: Body) -> Reply<UpgradeState> {
    Ok(Json(upgrades(&app)?.receive(body.into_data_stream()).await?))
}

pub async fn begin(State(app): State<App>, Typed(begin): Typed<BeginUpgrade>) -> Reply<UpgradeState> {
    Ok(Json(upgrades(&app)?.begin(&begin.operation).await?))
}
