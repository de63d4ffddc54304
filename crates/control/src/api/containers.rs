//! Containers: made, listed, changed, removed.

use super::error::ApiResult;
use super::extract::{Id, Json, Meta, OptionalJson, Query, read_body};
use super::page::PAGE;
use super::reply::{Reply, accepted, json};
use super::route::{Nothing, Policy, Route, route};
use crate::app::App;
use crate::service::auth::Actor;
use crate::service::containers::Created;
use crate::service::index::Filter;
use axum::extract::{FromRequest, Request, State};
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode};
use nm_types::ContainerId;
use nm_types::container::{
    ContainerSpec, ContainerStatus, ContainerUpdate, ContainerView, ExecCommand, ExecResult, KillContainer, RenameContainer, Signal,
    StopContainer,
};
use nm_types::units::Bounded;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use utoipa::IntoParams;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ListQuery {
    /// Id or name of a node.
    node_id: Option<String>,
    #[param(inline)]
    status: Option<ContainerStatus>,
    /// Part of the name.
    name: Option<String>,
    /// `key` or `key=value`.
    label: Option<String>,
    /// Only ours, or only those that others started.
    managed: Option<bool>,
    /// How many a page; 50 by default.
    #[param(inline)]
    limit: Option<Bounded<1, 200>>,
    /// `nextCursor` of the page before.
    #[param(inline)]
    cursor: Option<ContainerId>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RemoveQuery {
    /// Also when it runs.
    #[serde(default)]
    #[param(required = false)]
    force: bool,
    /// With its anonymous volumes.
    #[serde(default)]
    #[param(required = false)]
    volumes: bool,
}

pub fn routes() -> Vec<Route> {
    let read = Policy::read("containers");
    let write = Policy::write("containers");
    vec![
        route(Method::GET, "/api/containers", read, "List containers, newest first", list)
            .query::<ListQuery>()
            .list::<ContainerView>(),
        route(Method::POST, "/api/containers", write, "Make a container", create)
            .body::<ContainerSpec>()
            .created::<ContainerView>()
            .idempotent()
            .or_operation(),
        route(Method::GET, "/api/containers/{id}", read, "One container", get).ok::<ContainerView>(),
        route(
            Method::PATCH,
            "/api/containers/{id}",
            write,
            "Change limits and restart policy live",
            update,
        )
        .body::<ContainerUpdate>()
        .ok::<ContainerView>(),
        route(Method::DELETE, "/api/containers/{id}", write, "Remove a container", remove)
            .query::<RemoveQuery>()
            .ok::<Nothing>(),
        route(Method::POST, "/api/containers/{id}/start", write, "Start it", start)
            .ok::<ContainerView>()
            .long(),
        route(Method::POST, "/api/containers/{id}/stop", write, "Stop it", stop)
            .optional_body::<StopContainer>()
            .ok::<ContainerView>()
            .long(),
        route(Method::POST, "/api/containers/{id}/restart", write, "Restart it", restart)
            .optional_body::<StopContainer>()
            .ok::<ContainerView>()
            .long(),
        route(Method::POST, "/api/containers/{id}/pause", write, "Pause it", pause).ok::<ContainerView>(),
        route(Method::POST, "/api/containers/{id}/unpause", write, "Let it go on", unpause).ok::<ContainerView>(),
        route(Method::POST, "/api/containers/{id}/kill", write, "Send it a signal", kill)
            .optional_body::<KillContainer>()
            .ok::<ContainerView>(),
        route(Method::POST, "/api/containers/{id}/rename", write, "Give it another name", rename)
            .body::<RenameContainer>()
            .ok::<ContainerView>(),
        route(Method::POST, "/api/containers/{id}/exec", write, "Run a command in it", exec)
            .body::<ExecCommand>()
            .ok::<ExecResult>()
            .long(),
    ]
}

async fn list(State(app): State<App>, Query(query): Query<ListQuery>) -> ApiResult<Response> {
    let filter = Filter {
        node: query.node_id.as_deref().map(|n| app.nodes.find(n)).transpose()?,
        status: query.status,
        name: query.name,
        label: query.label.map(|l| match l.split_once('=') {
            Some((k, v)) => (k.to_owned(), Some(v.to_owned())),
            None => (l, None),
        }),
        managed: query.managed,
    };
    let limit = usize::try_from(query.limit.map_or(PAGE, |l| l.get())).unwrap_or(1);
    let page = app.index.page(&filter, query.cursor.as_ref(), limit);
    let mut body = Vec::with_capacity(page.json.len() + 96);
    body.extend_from_slice(b"{\"success\":true,\"data\":");
    body.extend_from_slice(&page.json);
    body.extend_from_slice(format!(",\"count\":{}", page.count).as_bytes());
    if let Some(next) = page.next {
        body.extend_from_slice(format!(",\"nextCursor\":\"{next}\"").as_bytes());
    }
    body.push(b'}');
    Ok(json(StatusCode::OK, body))
}

async fn create(State(app): State<App>, actor: Actor, meta: Meta, request: Request) -> ApiResult<Response> {
    // The body's digest tells a repeated request from another one with the same key.
    let (parts, body) = request.into_parts();
    let bytes = read_body(body).await?;
    let hash = hex::encode(Sha256::new().chain_update("POST /api/containers\n").chain_update(&bytes).finalize());
    let request = Request::from_parts(parts, axum::body::Body::from(bytes));
    let Json(spec) = Json::<ContainerSpec>::from_request(request, &()).await?;
    Ok(match app.containers.create(&actor, &meta, spec, &hash).await? {
        Created::Done(container, revision) => {
            let message = format!("container `{}` was made", container.name);
            let location = format!("/api/containers/{}", container.id);
            let mut response = Reply::created(*container, message).revision(revision).into_response();
            if let Ok(value) = http::HeaderValue::from_str(&location) {
                response.headers_mut().insert(http::header::LOCATION, value);
            }
            response
        }
        Created::GoesOn(operation) => accepted(&operation),
    })
}

async fn get(State(app): State<App>, actor: Actor, Id(id): Id) -> ApiResult<Reply<ContainerView>> {
    let (view, revision) = app.containers.view(&actor, &id)?;
    Ok(Reply::ok(view).revision(revision))
}

async fn update(
    State(app): State<App>,
    actor: Actor,
    meta: Meta,
    Id(id): Id,
    Json(change): Json<ContainerUpdate>,
) -> ApiResult<Reply<ContainerView>> {
    changed(app.containers.update(&actor, &meta, &id, change).await, "was changed")
}

async fn remove(
    State(app): State<App>,
    actor: Actor,
    meta: Meta,
    Id(id): Id,
    Query(query): Query<RemoveQuery>,
) -> ApiResult<Reply<Nothing>> {
    let id = app.containers.remove(&actor, &meta, &id, query.force, query.volumes).await?;
    Ok(Reply::ok(Nothing {}).message(format!("container {id} was removed")))
}

fn changed(result: ApiResult<(ContainerView, i64)>, what: &str) -> ApiResult<Reply<ContainerView>> {
    let (view, revision) = result?;
    let message = format!("container `{}` {what}", view.name);
    Ok(Reply::ok(view).revision(revision).message(message))
}

async fn start(State(app): State<App>, actor: Actor, meta: Meta, Id(id): Id) -> ApiResult<Reply<ContainerView>> {
    changed(app.containers.start(&actor, &meta, &id).await, "was started")
}

async fn stop(
    State(app): State<App>,
    actor: Actor,
    meta: Meta,
    Id(id): Id,
    OptionalJson(body): OptionalJson<StopContainer>,
) -> ApiResult<Reply<ContainerView>> {
    changed(
        app.containers.stop(&actor, &meta, &id, body.grace.map(|g| g.get())).await,
        "was stopped",
    )
}

async fn restart(
    State(app): State<App>,
    actor: Actor,
    meta: Meta,
    Id(id): Id,
    OptionalJson(body): OptionalJson<StopContainer>,
) -> ApiResult<Reply<ContainerView>> {
    changed(
        app.containers.restart(&actor, &meta, &id, body.grace.map(|g| g.get())).await,
        "was restarted",
    )
}

async fn pause(State(app): State<App>, actor: Actor, meta: Meta, Id(id): Id) -> ApiResult<Reply<ContainerView>> {
    changed(app.containers.pause(&actor, &meta, &id).await, "was paused")
}

async fn unpause(State(app): State<App>, actor: Actor, meta: Meta, Id(id): Id) -> ApiResult<Reply<ContainerView>> {
    changed(app.containers.unpause(&actor, &meta, &id).await, "goes on")
}

async fn kill(
    State(app): State<App>,
    actor: Actor,
    meta: Meta,
    Id(id): Id,
    OptionalJson(body): OptionalJson<KillContainer>,
) -> ApiResult<Reply<ContainerView>> {
    changed(
        app.containers.kill(&actor, &meta, &id, body.signal.unwrap_or(Signal::Kill)).await,
        "got the signal",
    )
}

async fn rename(
    State(app): State<App>,
    actor: Actor,
    meta: Meta,
    Id(id): Id,
    Json(body): Json<RenameContainer>,
) -> ApiResult<Reply<ContainerView>> {
    changed(app.containers.rename(&actor, &meta, &id, body.name).await, "has its new name")
}

async fn exec(
    State(app): State<App>,
    actor: Actor,
    meta: Meta,
    Id(id): Id,
    Json(command): Json<ExecCommand>,
) -> ApiResult<Reply<ExecResult>> {
    let result = app.containers.exec(&actor, &meta, &id, command).await?;
    let message = match result.exit_code {
        Some(code) => format!("the command ended with exit code {code}"),
        None => "the command took too long and was ended".to_owned(),
    };
    Ok(Reply::ok(result).message(message))
}
