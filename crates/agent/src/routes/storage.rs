//! Images, volumes and networks.

use super::App;
use super::containers::{Nothing, streamed, whole};
use super::reply::{Reply, Typed, channel_lines};
use crate::progress::Reporter;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use nm_link::contract::{CreateNetwork, CreateVolume, Membership, Name, Pull, RemoveImage};
use nm_types::image::{ImageView, Pruned};
use nm_types::network::NetworkView;
use nm_types::volume::VolumeView;
use tokio::sync::mpsc;
use tracing::Instrument;

pub async fn images(State(app): State<App>) -> Reply<Vec<ImageView>> {
    Ok(Json(app.docker.images().await?))
}

pub async fn pull(State(app): State<App>, Typed(request): Typed<Pull>) -> Response {
    let (tx, rx) = mpsc::channel(64);
    let work = async move {
        let report = Reporter::new(tx);
        let result = app.docker.pull_image(&request, &report).await;
        report.end(result).await;
    };
    tokio::spawn(work.in_current_span());
    channel_lines(rx)
}

pub async fn load(State(app): State<App>, body: Body) -> Reply<Vec<String>> {
    Ok(Json(app.docker.load_images(streamed(body)).await?))
}

pub async fn image_remove(State(app): State<App>, Typed(request): Typed<RemoveImage>) -> Reply<Nothing> {
    whole(async move { app.docker.remove_image(&request).await }).await?;
    Ok(Json(Nothing {}))
}

pub async fn images_prune(State(app): State<App>) -> Reply<Pruned> {
    whole(async move { app.docker.prune_images().await }).await.map(Json)
}

pub async fn volumes(State(app): State<App>) -> Reply<Vec<VolumeView>> {
    Ok(Json(app.docker.volumes().await?))
}

pub async fn volume_create(State(app): State<App>, Typed(request): Typed<CreateVolume>) -> Reply<VolumeView> {
    whole(async move { app.docker.create_volume(&request).await }).await.map(Json)
}

pub async fn volume_remove(State(app): State<App>, Typed(request): Typed<Name>) -> Reply<Nothing> {
    whole(async move { app.docker.remove_volume(&request.name).await }).await?;
    Ok(Json(Nothing {}))
}

pub async fn networks(State(app): State<App>) -> Reply<Vec<NetworkView>> {
    Ok(Json(app.docker.networks().await?))
}

pub async fn network_create(State(app): State<App>, Typed(request): Typed<CreateNetwork>) -> Reply<NetworkView> {
    whole(async move { app.docker.create_network(&request).await }).await.map(Json)
}

pub async fn network_remove(State(app): State<App>, Typed(request): Typed<Name>) -> Reply<Nothing> {
    whole(async move { app.docker.remove_network(&request.name).await }).await?;
    Ok(Json(Nothing {}))
}

pub async fn network_attach(State(app): State<App>, Typed(request): Typed<Membership>) -> Reply<Nothing> {
    whole(async move { app.docker.attach(&request).await }).await?;
    Ok(Json(Nothing {}))
}

pub async fn network_detach(State(app): State<App>, Typed(request): Typed<Membership>) -> Reply<Nothing> {
    whole(async move { app.docker.detach(&request).await }).await?;
    Ok(Json(Nothing {}))
}
